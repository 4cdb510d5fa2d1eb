//! What happened between two samples, per second.

use super::Sample;
use std::time::Duration;

/// Changes between two samples of one container. `None` where either lacks the figure, or where it went back: the container was
/// started again in between.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Percent of one CPU: 200 is two whole ones.
    pub cpu: Option<f32>,
    /// Percent of the time in which the quota held it back.
    pub throttled: Option<f32>,
    /// Bytes a second read from block devices.
    pub io_read: Option<f64>,
    /// Bytes a second written to block devices.
    pub io_write: Option<f64>,
    /// Bytes a second received.
    pub net_rx: Option<f64>,
    /// Bytes a second sent.
    pub net_tx: Option<f64>,
}

/// The rates between two samples taken `apart` from each other.
pub fn rates(before: &Sample, after: &Sample, apart: Duration) -> Rates {
    let seconds = apart.as_secs_f64();
    let per_second = |a: Option<u64>, b: Option<u64>| {
        let grown = b?.checked_sub(a?)?;
        (seconds > 0.0).then(|| grown as f64 / seconds)
    };
    let percent = |a, b| per_second(a, b).map(|us| (us / 10_000.0) as f32);
    Rates {
        cpu: percent(before.cpu_usage_us, after.cpu_usage_us),
        throttled: percent(before.cpu_throttled_us, after.cpu_throttled_us),
        io_read: per_second(before.io_read, after.io_read),
        io_write: per_second(before.io_write, after.io_write),
        net_rx: per_second(before.net_rx, after.net_rx),
        net_tx: per_second(before.net_tx, after.net_tx),
    }
}

#[cfg(test)]
mod tests {
    use super::{Rates, rates};
    use crate::stats::Sample;
    use std::time::Duration;

    #[test]
    fn half_a_cpu_is_fifty_percent() {
        let before = Sample { cpu_usage_us: Some(1_000_000), net_rx: Some(0), ..Sample::default() };
        let after = Sample { cpu_usage_us: Some(2_000_000), net_rx: Some(4096), ..Sample::default() };
        let r = rates(&before, &after, Duration::from_secs(2));
        assert_eq!((r.cpu, r.net_rx, r.net_tx), (Some(50.0), Some(2048.0), None));
    }

    #[test]
    fn a_counter_that_went_back_has_no_rate() {
        let sample = |n| Sample { cpu_usage_us: Some(n), ..Sample::default() };
        assert_eq!(rates(&sample(5), &sample(4), Duration::from_secs(1)).cpu, None);
    }

    #[test]
    fn two_samples_at_one_moment_have_no_rate() {
        let sample = Sample { cpu_usage_us: Some(5), io_read: Some(1), ..Sample::default() };
        assert_eq!(rates(&sample, &sample, Duration::ZERO), Rates::default());
    }
}
