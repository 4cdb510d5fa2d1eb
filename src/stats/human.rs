//! Figures for people: four characters or so, in the units of the manifest (powers of 1024).

use std::time::Duration;

/// `512`, `1.2K`, `64M`, `1.5G`: at most three digits, one of them behind the point.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if n < 1000 {
        return n.to_string();
    }
    let mut value = n as f64;
    for unit in UNITS {
        value /= 1024.0;
        // What would round to four digits goes to the next unit.
        if value < 9.95 {
            return trim(format!("{value:.1}"), unit);
        }
        if value < 999.5 {
            return format!("{value:.0}{unit}");
        }
    }
    format!("{value:.0}E")
}

fn trim(text: String, unit: &str) -> String {
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// `1.2M/s`.
pub fn bytes_per_second(rate: f64) -> String {
    // A float above the range becomes the largest integer, one that is not a number 0.
    format!("{}/s", bytes(rate.round() as u64))
}

/// `12.3%`.
pub fn percent(p: f32) -> String {
    format!("{p:.1}%")
}

/// The two largest units: `45s`, `3m12s`, `5h3m`, `12d4h`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    let (m, h, days) = (s / 60, s / 3600, s / 86400);
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{m}m{}s", s % 60),
        3600..86400 => format!("{h}h{}m", m % 60),
        _ => format!("{days}d{}h", h % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, bytes_per_second, duration, percent};
    use std::time::Duration;

    #[test]
    fn bytes_are_short_and_in_powers_of_1024() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1K"),
            (1024, "1K"),
            (1229, "1.2K"),
            (10 * 1024, "10K"),
            (1_000_000, "977K"),
            (1 << 20, "1M"),
            (64 << 20, "64M"),
            (1_610_612_736, "1.5G"),
            (u64::MAX, "16E"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn every_size_fits_its_column() {
        for shift in 0..64 {
            for n in [1u64 << shift, (1u64 << shift) - 1, (1u64 << shift) + (1 << shift) / 3] {
                assert!(bytes(n).len() <= 4, "{n} is {}", bytes(n));
            }
        }
    }

    #[test]
    fn rates_percents_and_times_have_their_units() {
        assert_eq!((bytes_per_second(1_258_291.2), percent(12.34)), ("1.2M/s".into(), "12.3%".into()));
        let times = [(45, "45s"), (192, "3m12s"), (18_180, "5h3m"), (1_051_200, "12d4h")];
        for (s, text) in times {
            assert_eq!(duration(Duration::from_secs(s)), text);
        }
    }
}
