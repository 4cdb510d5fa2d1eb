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
