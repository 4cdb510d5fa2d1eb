//! How long to wait before the next connection: exponential with full jitter.
//!
//! Full jitter keeps a fleet from coming back in step after a broker's restart. A connection counts as success only once it
//! has lasted: two devices with one client id throw each other off right after CONNACK, for ever.

use std::time::Duration;

/// Ceiling of the first wait.
const FIRST: Duration = Duration::from_secs(1);
/// Ceiling of all later waits.
const LONGEST: Duration = Duration::from_secs(300);
/// No wait is shorter.
const SHORTEST: Duration = Duration::from_millis(100);
/// A connection that lasted so long starts the count again.
const STABLE: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Debug, Default, Clone, Copy)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a round of attempts; `lasted` is how long a connection stood in it, `random` is uniform over all of `u32`.
    pub fn after(&mut self, lasted: Duration, random: u32) -> Duration {
        if lasted >= STABLE {
            self.failures = 0;
        }
        let wait = delay(self.failures, random);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

/// The wait after `failures` earlier ones.
fn delay(failures: u32, random: u32) -> Duration {
    let ceiling = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
    ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX)).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_five_minutes() {
        let table = [(0, 1), (1, 2), (2, 4), (3, 8), (7, 128), (8, 256), (9, 300), (40, 300), (u32::MAX, 300)];
        for (failures, seconds) in table {
            assert_eq!(delay(failures, u32::MAX).as_secs(), seconds, "after {failures}");
            assert_eq!(delay(failures, 0), SHORTEST, "after {failures}");
            let half = delay(failures, u32::MAX / 2).as_secs_f64();
            assert!((half - seconds as f64 / 2.0).abs() < 0.01, "after {failures}: {half}");
        }
    }

    #[test]
    fn only_a_connection_that_lasted_starts_the_count_again() {
        let mut backoff = Backoff::default();
        let mut wait = |lasted| backoff.after(Duration::from_secs(lasted), u32::MAX).as_secs();
        let seen: Vec<u64> = [0, 0, 59, 0, 60, 0, 3600].into_iter().map(&mut wait).collect();
        assert_eq!(seen, [1, 2, 4, 8, 1, 2, 1]);
    }
}
