//! Limits as file and value, for both versions. Pure.

use crate::manifest::Resources;

/// Quota period, microseconds: the kernel's own default.
const PERIOD_US: u64 = 100_000;
/// The longest period that the kernel takes, for quotas below 1 % whose share of [`PERIOD_US`] it would refuse as less than 1 ms.
const LONG_PERIOD_US: u64 = 1_000_000;

/// One limit in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    /// The v2 name, by which it is reported whatever the version.
    pub name: &'static str,
    /// Name of the controller's hierarchy in this version.
    pub controller: &'static str,
    /// File in the group's directory.
    pub file: &'static str,
    /// What to write; for a limit that nobody asked for, what lifts it.
    pub value: String,
    /// Somebody asked for it: if it cannot be had, that is reported.
    pub asked: bool,
}

fn limit(name: &'static str, controller: &'static str, file: &'static str, asked: Option<String>, lifted: &str) -> Limit {
    Limit { name, controller, file, asked: asked.is_some(), value: asked.unwrap_or_else(|| lifted.to_owned()) }
}

/// Quota and period in microseconds. The kernel's least quota is 1 ms.
fn bandwidth(milli: u32) -> (u64, u64) {
    let period = if milli < 10 { LONG_PERIOD_US } else { PERIOD_US };
    ((u64::from(milli) * period / 1000).max(1000), period)
}

/// All limits in v2 files (Documentation/admin-guide/cgroup-v2.rst).
pub(super) fn v2(r: &Resources) -> Vec<Limit> {
    let text = |n: Option<u64>| n.map(|n| n.to_string());
    let quota = r.cpu_quota_milli.map(bandwidth).map(|(q, p)| format!("{q} {p}"));
    vec![
        limit("memory.max", "memory", "memory.max", text(r.memory_max), "max"),
        limit("memory.high", "memory", "memory.high", text(r.memory_high), "max"),
        limit("memory.swap.max", "memory", "memory.swap.max", text(r.swap_max), "max"),
        limit("cpu.max", "cpu", "cpu.max", quota, &format!("max {PERIOD_US}")),
        limit("cpu.weight", "cpu", "cpu.weight", text(r.cpu_weight.map(u64::from)), "100"),
        limit("pids.max", "pids", "pids.max", text(r.pids_max.map(u64::from)), "max"),
    ]
}

/// All limits in v1 files, and what v1 cannot say, with why. `memsw` is the limit on memory and swap together now in force: the kernel
/// refuses any step at which memory alone could exceed both, so raising starts with the sum and lowering ends with it.
pub(super) fn v1(r: &Resources, memsw: Option<u64>) -> (Vec<Limit>, Vec<(String, String)>) {
    let mut missing = Vec::new();
    if r.memory_high.is_some() {
        missing.push(("memory.high".to_owned(), "cgroup v1 has no such file".to_owned()));
    }
    if r.swap_max.is_some() && r.memory_max.is_none() {
        missing.push(("memory.swap.max".to_owned(), "cgroup v1 limits swap only together with memory.max".to_owned()));
    }
    let sum = r.memory_max.zip(r.swap_max).map(|(max, swap)| max.saturating_add(swap).min(i64::MAX as u64));
    let memory = limit("memory.max", "memory", "memory.limit_in_bytes", r.memory_max.map(|n| n.to_string()), "-1");
    let both = limit("memory.swap.max", "memory", "memory.memsw.limit_in_bytes", sum.map(|n| n.to_string()), "-1");
    let raising = sum.is_none_or(|sum| memsw.is_some_and(|now| sum >= now));
    let mut limits = if raising { vec![both, memory] } else { vec![memory, both] };
    let quota = r.cpu_quota_milli.map(bandwidth);
    let period = quota.map_or(PERIOD_US, |(_, p)| p).to_string();
    limits.push(limit("cpu.max", "cpu", "cpu.cfs_period_us", quota.map(|_| period.clone()), &period));
    limits.push(limit("cpu.max", "cpu", "cpu.cfs_quota_us", quota.map(|(q, _)| q.to_string()), "-1"));
    limits.push(limit("cpu.weight", "cpu", "cpu.shares", r.cpu_weight.map(|w| shares_from_weight(w).to_string()), "1024"));
    limits.push(limit("pids.max", "pids", "pids.max", r.pids_max.map(|n| n.to_string()), "max"));
    (limits, missing)
}

/// v1 `cpu.shares` (2 to 262144) for a v2 `cpu.weight` (1 to 10000): the inverse of [`weight_from_shares`]. It meets both ends and both
/// defaults (1 ↔ 2, 100 ↔ 1024, 10000 ↔ 262144), which a straight line cannot: that would give weight 100 two and a half times the
/// shares of a neighbour who never asked.
pub fn shares_from_weight(weight: u16) -> u64 {
    let exponent = f64::from(weight.clamp(1, 10000)).log10();
    // The positive root of l² + 125·l − 612·exponent − 126 = 0.
    let log2 = ((16129.0 + 2448.0 * exponent).sqrt() - 125.0) / 2.0;
    (log2.exp2().round() as u64).clamp(2, 262_144)
}

/// v2 `cpu.weight` for v1 `cpu.shares`: a parabola in log2(shares), as OCI runtimes convert since 2025.
pub fn weight_from_shares(shares: u64) -> u16 {
    match shares {
        0..=2 => 1,
        3..262_144 => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u16
        }
        _ => 10000,
    }
}

#[cfg(test)]
mod tests {
    use super::{Limit, bandwidth, shares_from_weight, v1, v2, weight_from_shares};
    use crate::manifest::Resources;

    fn files(limits: &[Limit]) -> Vec<(&str, &str)> {
        limits.iter().filter(|l| l.asked).map(|l| (l.file, l.value.as_str())).collect()
    }

    fn order(r: &Resources, memsw: Option<u64>) -> Vec<&'static str> {
        v1(r, memsw).0.iter().map(|l| l.file).filter(|f| f.starts_with("memory")).collect()
    }

    const SUM_FIRST: [&str; 2] = ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"];
    const SUM_LAST: [&str; 2] = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];

    #[test]
    fn every_limit_has_its_v2_file() {
        let r = Resources {
            memory_max: Some(64 << 20),
            memory_high: Some(48 << 20),
            swap_max: Some(0),
            cpu_quota_milli: Some(500),
            cpu_weight: Some(100),
            pids_max: Some(64),
            required: false,
        };
        let want = [
            ("memory.max", "67108864"),
            ("memory.high", "50331648"),
            ("memory.swap.max", "0"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "100"),
            ("pids.max", "64"),
        ];
        assert_eq!(files(&v2(&r)), want);
    }

    #[test]
    fn v1_swap_is_the_sum_with_memory() {
        let r = Resources { memory_max: Some(64 << 20), swap_max: Some(16 << 20), ..Resources::default() };
        let (limits, missing) = v1(&r, None);
        assert_eq!(files(&limits), [("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "83886080")]);
        assert_eq!(missing, []);
    }

    #[test]
    fn v1_raises_the_sum_first_and_lowers_it_last() {
        let r = |max, swap| Resources { memory_max: Some(max), swap_max: Some(swap), ..Resources::default() };
        assert_eq!(order(&r(200, 100), Some(150)), SUM_FIRST);
        assert_eq!(order(&r(100, 20), Some(300)), SUM_LAST);
        assert_eq!(order(&Resources::default(), Some(300)), SUM_FIRST);
    }

    #[test]
    fn what_v1_cannot_say_is_named() {
        let r = Resources { memory_high: Some(1 << 20), swap_max: Some(1 << 20), ..Resources::default() };
        let names: Vec<String> = v1(&r, None).1.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["memory.high", "memory.swap.max"]);
    }

    #[test]
    fn what_nobody_asked_for_is_lifted() {
        let lifted: Vec<(&str, String)> = v2(&Resources::default()).into_iter().map(|l| (l.file, l.value)).collect();
        assert!(lifted.contains(&("memory.max", "max".into())) && lifted.contains(&("cpu.max", "max 100000".into())));
        assert!(v1(&Resources::default(), None).0.iter().all(|l| !l.asked));
    }

    #[test]
    fn a_quota_below_one_percent_takes_a_longer_period() {
        assert_eq!(bandwidth(500), (50_000, 100_000));
        assert_eq!(bandwidth(10), (1000, 100_000));
        assert_eq!(bandwidth(1), (1000, 1_000_000));
        assert_eq!(bandwidth(4000), (400_000, 100_000));
    }

    #[test]
    fn weights_and_shares_meet_at_both_ends_and_both_defaults() {
        for (weight, shares) in [(1, 2), (100, 1024), (10000, 262_144)] {
            assert_eq!((shares_from_weight(weight), weight_from_shares(shares)), (shares, weight));
        }
    }

    #[test]
    fn every_weight_comes_back_from_its_shares_within_rounding() {
        let mut last = 0;
        for weight in 1..=10000u16 {
            let shares = shares_from_weight(weight);
            assert!((2..=262_144).contains(&shares) && shares >= last, "{weight} gives {shares} after {last}");
            last = shares;
            let back = weight_from_shares(shares);
            assert!(back.abs_diff(weight) <= 1 + weight / 20, "{weight} gives {shares} gives {back}");
        }
    }
}
