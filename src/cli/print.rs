//! Output for people: tables, sizes, times.

use crate::exit::{Error, visible};
use serde_json::Value;
use std::io::{ErrorKind, IsTerminal, Write};

/// Writes bytes to standard output as they are. A reader that went away is [`Error::closed`].
pub fn bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| unwritable(&e))
}

/// Standard output cannot be written.
pub fn unwritable(e: &std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::BrokenPipe => Error::closed(),
        _ => Error::io("cannot write standard output", e),
    }
}

/// Writes text and a line end.
pub fn line(text: &str) -> Result<(), Error> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes a JSON document on one line.
pub fn json(value: &Value) -> Result<(), Error> {
    line(&value.to_string())
}

/// Whether a person watches standard output.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Rows under their headings, each column as wide as its widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row. Control characters are made visible: cells come from outside.
    pub fn row<S: AsRef<str>>(&mut self, cells: &[S]) {
        self.rows.push(cells.iter().map(|c| visible(c.as_ref())).collect());
    }

    /// The table as text.
    pub fn text(&self) -> String {
        const GAP: usize = 3;
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<w$}", w = width + GAP)).collect();
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Bytes with a unit of 1024: `512`, `4.0K`, `12M`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    // What would be printed as 1024 belongs to the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// Seconds with the two largest units: `45s`, `3h 12m`, `2d 4h`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// A figure, or `-` where there is none.
pub fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// A size as people write it: bytes, or a number with K, M or G (powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number of bytes, or one with K, M or G (powers of 1024)".to_owned();
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

/// A JSON document as indented lines `name: value`.
pub fn outline(value: &Value) -> String {
    let mut out = String::new();
    outline_into(value, 0, &mut out);
    out
}

fn outline_into(value: &Value, depth: usize, out: &mut String) {
    let pairs: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(name, v)| (format!("{}: ", visible(name)), v)).collect(),
        Value::Array(list) => list.iter().map(|v| ("- ".to_owned(), v)).collect(),
        leaf => return out.push_str(&format!("{}\n", plain(leaf))),
    };
    for (name, inner) in pairs {
        let branch = matches!(inner, Value::Object(m) if !m.is_empty()) || matches!(inner, Value::Array(a) if !a.is_empty());
        out.push_str(&"  ".repeat(depth));
        if branch {
            out.push_str(name.trim_end());
            out.push('\n');
            outline_into(inner, depth + 1, out);
        } else {
            out.push_str(&format!("{name}{}\n", plain(inner)));
        }
    }
}

fn plain(leaf: &Value) -> String {
    match leaf {
        Value::String(text) => visible(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_or_more_and_never_1024() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (4 << 20, "4.0M"),
            (12 << 20, "12M"),
            ((1 << 20) - 1, "1.0M"),
            (10188, "9.9K"),
            (10189, "10K"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"), (86399, "23h 59m"), (187_200, "2d 4h")]
        {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn sizes_are_read_as_the_manifest_reads_them() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64K", 65536), ("1G", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "64k", "64 M", "-1", "+1", "1.5M", "64MB", "99999999999G", "18446744073709551616"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_aligns_and_shows_control_characters() {
        let mut t = Table::new(&["A", "B"]);
        t.row(&["long", "\x1bx"]);
        t.row(&["é", ""]);
        assert_eq!(t.text(), "A      B\nlong   \\u{1b}x\né\n");
    }

    #[test]
    fn an_outline_indents_what_is_inside() {
        let v = serde_json::json!({"a": {"b": [1, "x"]}, "c": null, "d": {}});
        assert_eq!(outline(&v), "a:\n  b:\n    - 1\n    - x\nc: -\nd: {}\n");
    }
}
