//! The formats of the kernel's figures. Pure: text in, numbers out; what does not parse is `None`, never 0.

/// `name value` lines (`memory.stat`, `cpu.stat`, `cgroup.events`).
pub fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A file that holds one number.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// What v1 shows for "unlimited" is the largest count of whole pages: on 64 bits just below 2^63, on 32 bits 2^31 - 1 pages, which is
/// the least of them all with pages of 4 KiB.
const UNLIMITED_V1: u64 = 0x7fff_ffff * 4096;

/// A limit; `None` when unlimited (v2 `max`, v1 a huge number).
pub fn limit(text: &str) -> Option<u64> {
    number(text).filter(|n| *n < UNLIMITED_V1)
}

/// Sum over devices of bytes read and written in v2 `io.stat`: `8:0 rbytes=1 wbytes=2 rios=…`. `None` when no device is listed.
pub fn io_stat(text: &str) -> Option<(u64, u64)> {
    let value = |l: &str, key: &str| l.split(' ').find_map(|p| p.strip_prefix(key)?.parse::<u64>().ok());
    text.lines()
        .filter_map(|l| Some((value(l, "rbytes=")?, value(l, "wbytes=")?)))
        .reduce(|a, b| (a.0.saturating_add(b.0), a.1.saturating_add(b.1)))
}

/// Sum over devices in v1 `blkio.throttle.io_service_bytes_recursive`: `7:0 Read 0`, `7:0 Write 8388608`, …, `Total N`. `None` when no
/// device is listed: then the kernel does not count.
pub fn blkio(text: &str) -> Option<(u64, u64)> {
    let mut sum = None;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(_), Some(what), Some(Ok(n))) = (words.next(), words.next(), words.next().map(str::parse::<u64>)) else { continue };
        let (read, written) = sum.get_or_insert((0u64, 0u64));
        match what {
            "Read" => *read = read.saturating_add(n),
            "Write" => *written = written.saturating_add(n),
            _ => {}
        }
    }
    sum
}

/// Sum over all links, loopback included, of bytes received and sent in `/proc/<pid>/net/dev`.
pub fn net_dev(text: &str) -> Option<(u64, u64)> {
    let mut sum = None;
    for line in text.lines().skip(2) {
        // The name ends at the last colon: an alias may hold one itself, a figure cannot.
        let Some((_, figures)) = line.rsplit_once(':') else { continue };
        let mut figures = figures.split_ascii_whitespace();
        let (Some(Ok(rx)), Some(Ok(tx))) = (figures.next().map(str::parse::<u64>), figures.nth(7).map(str::parse::<u64>)) else { continue };
        let (a, b) = sum.get_or_insert((0u64, 0u64));
        (*a, *b) = (a.saturating_add(rx), b.saturating_add(tx));
    }
    sum
}

/// `some avg10=0.12 …` of a pressure file.
pub fn pressure(text: &str) -> Option<f32> {
    let some = text.lines().find_map(|l| l.strip_prefix("some "))?;
    some.split(' ').find_map(|p| hundredths(p.strip_prefix("avg10=")?))
}

/// `12.34`, as the kernel writes fixed-point numbers. Without the library's reading of floating point, which is 15 KB of flash.
pub fn hundredths(text: &str) -> Option<f32> {
    let (whole, decimals) = text.split_once('.')?;
    let digits = |s: &str| s.bytes().all(|c| c.is_ascii_digit()).then(|| s.parse::<u32>().ok())?;
    let sum = digits(whole)?.checked_mul(100)?.checked_add(digits(decimals).filter(|_| decimals.len() == 2)?)?;
    Some(sum as f32 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::{blkio, field, hundredths, io_stat, limit, net_dev, pressure};

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "oom 3\noom_kill 2\noom_kill_disable 1\n";
        assert_eq!((field(text, "oom"), field(text, "oom_kill"), field(text, "kill")), (Some(3), Some(2), None));
    }

    #[test]
    fn what_is_not_a_number_is_no_figure() {
        assert_eq!((field("usage_usec x\n", "usage_usec"), field("", "a"), limit("max\n")), (None, None, None));
    }

    #[test]
    fn unlimited_is_none_on_32_and_64_bits_and_with_large_pages() {
        for text in ["max\n", "9223372036854771712\n", "9223372036854710272\n", "8796093018112\n"] {
            assert_eq!(limit(text), None, "{text}");
        }
        assert_eq!(limit("67108864\n"), Some(67_108_864));
    }

    #[test]
    fn io_is_summed_over_devices() {
        let text = "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n7:1 rbytes=1 wbytes=2 rios=0 wios=0 dbytes=0 dios=0\n";
        assert_eq!((io_stat(text), io_stat(""), io_stat("8:0 \n")), (Some((11, 22)), None, None));
    }

    #[test]
    fn v1_io_without_a_device_is_no_figure() {
        assert_eq!(blkio("Total 0\n"), None);
        assert_eq!(blkio("7:0 Read 5\n7:0 Write 7\n7:0 Sync 12\n7:0 Async 0\n7:0 Discard 0\n7:0 Total 12\nTotal 12\n"), Some((5, 7)));
    }

    #[test]
    fn network_bytes_are_summed_over_all_links() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n    lo: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\neth0:1 2 3 0 0 0 0 0 4 0 0 0 0 0 0 0\n";
        assert_eq!((net_dev(text), net_dev("")), (Some((101, 204)), None));
    }

    #[test]
    fn pressure_is_the_average_of_ten_seconds() {
        assert_eq!(pressure("some avg10=1.25 avg60=0.00 avg300=0.00 total=0\nfull avg10=9.00 avg60=0 avg300=0 total=0\n"), Some(1.25));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn numbers_of_two_decimals_are_the_nearest_float() {
        for text in ["0.00", "0.07", "1.10", "99.99", "123456.78"] {
            assert_eq!(hundredths(text), text.parse().ok(), "{text}");
        }
        for text in ["", ".", "1", "1.", ".50", "1.5", "1.234", "-1.00", "+1.00", "1.+2", "nan", "42949673.00"] {
            assert_eq!(hundredths(text), None, "{text}");
        }
    }
}
