//! Figures of the device itself, out of the texts of `/proc`. Pure.

use crate::cgroup::parse::hundredths;

/// `MemAvailable` of `/proc/meminfo`, bytes.
pub fn mem_available(meminfo: &str) -> Option<u64> {
    kib(meminfo, "MemAvailable:")
}

/// `Pss` of `/proc/<pid>/smaps_rollup` (Linux 4.14), bytes: what is shared counts by its part.
pub fn pss(smaps_rollup: &str) -> Option<u64> {
    kib(smaps_rollup, "Pss:")
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(name))?;
    rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Load average of the last minute, first of `/proc/loadavg`.
pub fn load1(loadavg: &str) -> Option<f32> {
    hundredths(loadavg.split(' ').next()?)
}

/// Bytes written since boot to the device `major:minor`, of `/proc/diskstats` (Documentation/admin-guide/iostats.rst: the tenth word
/// counts sectors of 512 bytes, whatever the device's own).
pub fn written(diskstats: &str, major: u64, minor: u64) -> Option<u64> {
    diskstats.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let own = words.next()?.parse() == Ok(major) && words.next()?.parse() == Ok(minor);
        if own { words.nth(7)?.parse::<u64>().ok()?.checked_mul(512) } else { None }
    })
}

/// Whether `/proc/diskstats` names a disk of which the block layer counts what containers do. Emulations over raw flash (mtdblock) and
/// RAM disks are not.
pub fn has_disk(diskstats: &str) -> bool {
    let names = diskstats.lines().filter_map(|l| l.split_ascii_whitespace().nth(2));
    names.into_iter().any(|name| !name.starts_with("mtdblock") && !name.starts_with("ram"))
}

#[cfg(test)]
mod tests {
    use super::{has_disk, load1, mem_available, pss, written};

    #[test]
    fn figures_are_found_by_their_names() {
        assert_eq!(mem_available("MemTotal:  100 kB\nMemAvailable:    2048 kB\n"), Some(2_097_152));
        assert_eq!(pss("00400000-7fff rollup\nRss:  9 kB\nPss:    12 kB\nPss_Anon: 1 kB\n"), Some(12288));
        assert_eq!(load1("0.52 0.58 0.59 1/597 1234\n"), Some(0.52));
    }

    #[test]
    fn what_is_not_there_is_no_figure() {
        assert_eq!((mem_available("MemTotal: 1 kB\n"), pss(""), load1(""), written("", 8, 0)), (None, None, None, None));
        assert_eq!(mem_available("MemAvailable: 18446744073709551615 kB\n"), None);
    }

    #[test]
    fn sectors_written_are_512_bytes_each() {
        let text = "   8       0 sda 100 0 800 5 50 0 16 9 0 1 14 0 0 0 0\n 179 1 mmcblk0p1 1 0 8 0 1 0 8 0 0 0 0\n";
        assert_eq!((written(text, 8, 0), written(text, 179, 1), written(text, 8, 1)), (Some(8192), Some(4096), None));
    }

    #[test]
    fn raw_flash_alone_is_no_disk() {
        assert!(!has_disk("  31 0 mtdblock0 0 0 0 0 0 0 0 0 0 0 0\n   1 0 ram0 0 0 0 0 0 0 0 0 0 0 0\n"));
        assert!(has_disk("  31 0 mtdblock0 0 0 0 0\n 179 0 mmcblk0 1 2 3 4\n"));
    }
}
