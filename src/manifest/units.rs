//! Sizes, durations and integers as the documents write them.

use super::shape::{Objection, bad};

/// Units of sizes, largest first; powers of 1024.
const SIZES: [(&str, u64); 3] = [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
/// Units of durations in milliseconds, largest first. `ms` is tried before `m` and `s`.
const TIMES: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

/// A JSON number that must be a whole one.
pub fn whole(number: &str) -> Result<u64, Objection> {
    number.parse().map_err(|_| match number.strip_prefix('-') {
        Some(_) => bad("must not be negative"),
        None if number.bytes().all(|c| c.is_ascii_digit()) => bad("is too large"),
        None => bad("must be a whole number"),
    })
}

fn with_unit(text: &str, units: &[(&str, u64)], usage: &str) -> Result<u64, Objection> {
    let (digits, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))).ok_or_else(|| bad(usage.to_owned()))?;
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(bad(usage.to_owned()));
    }
    digits.parse().ok().and_then(|n: u64| n.checked_mul(*unit)).ok_or_else(|| bad("is too large"))
}

/// `64M` in bytes.
pub fn size(text: &str) -> Result<u64, Objection> {
    with_unit(text, &SIZES, "must be a whole number with K, M or G (powers of 1024), or an integer number of bytes")
}

/// `500ms` in milliseconds.
pub fn millis(text: &str) -> Result<u64, Objection> {
    with_unit(text, &TIMES, "must be a whole number with ms, s, m or h, or an integer number of seconds")
}

/// A decimal number in thousandths, rounded. Without floating point, whose reading and writing take 30 KB of flash.
pub fn milli(number: &str) -> Result<u64, Objection> {
    let (integer, decimals) = number.split_once('.').unwrap_or((number, ""));
    if !decimals.bytes().all(|c| c.is_ascii_digit()) || integer.contains(['e', 'E']) {
        return Err(bad("must be a decimal number without exponent, like 0.5"));
    }
    let digit = |i| decimals.as_bytes().get(i).map_or(0, |c: &u8| u64::from(c - b'0'));
    let fraction = digit(0) * 100 + digit(1) * 10 + digit(2) + u64::from(digit(3) >= 5);
    Ok(whole(integer)?.saturating_mul(1000).saturating_add(fraction))
}

/// Thousandths the way they are written.
pub fn show_milli(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Bytes the way they are written: with the largest unit that divides them.
pub fn show_size(bytes: u64) -> String {
    let unit = SIZES.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or(bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// Milliseconds the way they are written.
pub fn show_millis(millis: u64) -> String {
    if millis == 0 {
        return "0s".into();
    }
    let (name, unit) = TIMES[1..].iter().find(|(_, unit)| millis.is_multiple_of(*unit)).unwrap_or(&TIMES[0]);
    format!("{}{name}", millis / unit)
}

#[cfg(test)]
mod tests {
    use super::{milli, millis, show_milli, show_millis, show_size, size};

    #[test]
    fn thousandths_are_read_and_written_without_loss() {
        let read = [
            ("0.5", 500),
            ("1", 1000),
            ("0.0005", 1),
            ("0.0004", 0),
            ("2.9999", 3000),
            ("0.333333333333333333333333", 333),
            ("1024.0", 1_024_000),
        ];
        for (text, expected) in read {
            assert_eq!(milli(text).ok(), Some(expected), "{text}");
        }
        for (number, text) in [(500, "0.5"), (1000, "1"), (10, "0.01"), (1_024_000, "1024"), (100_001, "100.001")] {
            assert_eq!((show_milli(number).as_str(), milli(text).ok()), (text, Some(number)));
        }
        assert!(["1e3", "5E-1", "0.5e1", "-1", "-0.5", "99999999999999999999"].iter().all(|text| milli(text).is_err()));
    }

    #[test]
    fn sizes_and_times_are_written_as_they_are_read() {
        for text in ["1K", "1023K", "1M", "3G"] {
            assert_eq!(show_size(size(text).ok().unwrap()), text);
        }
        for text in ["0s", "1ms", "1500ms", "59s", "1m", "25h"] {
            assert_eq!(show_millis(millis(text).ok().unwrap()), text);
        }
        assert_eq!((show_size(0), show_size(1025)), ("0".into(), "1025".into()));
        assert!(["", "K", "1", "1k", "-1K", "+1K", "1.5M", "1MB", "99999999999G", " 1M"].iter().all(|text| size(text).is_err()));
        assert!(["", "s", "1", "1d", "1 s", "1.5s", "99999999999999999999h"].iter().all(|text| millis(text).is_err()));
    }
}
