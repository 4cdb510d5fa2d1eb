//! Times as people write and read them (RFC 3339, in UTC). Pure.

use crate::manifest::calendar::read as absolute;
pub use crate::manifest::calendar::show;
use crate::manifest::units::millis;

/// A time that is `10m` ago, or `2026-01-31T23:59:59Z`, in milliseconds since 1970.
pub fn parse(text: &str, now_ms: u64) -> Result<u64, String> {
    if text.contains('-') {
        return absolute(text).ok_or_else(|| "must be a time such as 2026-01-31T23:59:59Z, in UTC, or how long ago, such as 10m".into());
    }
    millis(text).map(|ago| now_ms.saturating_sub(ago)).map_err(|(_, message)| message)
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn times_are_read_and_shown_alike() {
        // As date(1) gives them.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2026-11-26T13:10:51Z", 1_795_698_651),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(parse(text, 0), Ok(seconds * 1000), "{text}");
            assert_eq!(show(seconds * 1000 + 999), text);
        }
        assert_eq!(parse("2026-11-26", 0), parse("2026-11-26T00:00", 0));
        assert_eq!(parse("2026-11-26 13:10", 0), parse("2026-11-26T13:10:00", 0));
        assert!(show(u64::MAX).starts_with("9999-"));
    }

    #[test]
    fn a_duration_is_how_long_ago() {
        for (text, ms) in [("10m", 400_000), ("1500ms", 998_500), ("2h", 0)] {
            assert_eq!(parse(text, 1_000_000), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "10",
            "-1m",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-1",
            "2026-11-26T24:00",
            "2026-11-26T1:2:3:4",
            "1969-12-31",
            "a-b-c",
            "2026-11-26T13:10:51+01:00",
        ] {
            assert!(parse(text, 0).is_err(), "{text}");
        }
    }
}
