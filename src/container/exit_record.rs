//! How a container ended, as its pid 1 leaves it for a keeper that was not there.
//!
//! Sixteen bytes: `WXIT`, version 1, kind (0 exit code, 1 signal), value, 0, then boot time in milliseconds, little-endian. The container may
//! reach the file through its pid 1, so a reader takes a fixed number of bytes by pread (never mmap: a truncated file would be SIGBUS) and
//! believes nothing but what decodes whole.

use crate::sys::process::Ended;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Bytes of a record.
pub const SIZE: usize = 16;

const MAGIC: [u8; 4] = *b"WXIT";
const VERSION: u8 = 1;

/// How and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    /// How the payload ended.
    pub ended: Ended,
    /// Time since boot.
    pub at: Duration,
}

/// The record's bytes.
pub fn encode(record: &ExitRecord) -> [u8; SIZE] {
    let (kind, value) = match record.ended {
        Ended::Code(c) => (0, c),
        Ended::Signal(s) => (1, s),
    };
    let mut bytes = [0; SIZE];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&[VERSION, kind, value, 0]);
    bytes[8..].copy_from_slice(&(record.at.as_millis() as u64).to_le_bytes());
    bytes
}

/// The record in these bytes; `None` if they are not one.
pub fn decode(bytes: &[u8]) -> Option<ExitRecord> {
    let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
    let ended = match bytes[4..8] {
        [VERSION, 0, code, 0] => Ended::Code(code),
        [VERSION, 1, signal @ 1..=64, 0] => Ended::Signal(signal),
        _ => return None,
    };
    let (magic, at) = (&bytes[..4], u64::from_le_bytes(bytes[8..].try_into().ok()?));
    (magic == MAGIC).then_some(ExitRecord { ended, at: Duration::from_millis(at) })
}

/// Reads the record at the start of `file`; `None` while there is none.
pub fn read(file: &File) -> io::Result<Option<ExitRecord>> {
    let mut bytes = [0; SIZE];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(decode(&bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes the record at the start of `file`.
pub fn write(file: &File, record: &ExitRecord) -> io::Result<()> {
    file.write_all_at(&encode(record), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: ExitRecord = ExitRecord { ended: Ended::Signal(9), at: Duration::from_millis(0x0102_0304) };

    #[test]
    fn the_bytes_stay_as_they_are_because_an_old_pid_1_outlives_upgrades() {
        assert_eq!(encode(&KILLED), *b"WXIT\x01\x01\x09\x00\x04\x03\x02\x01\0\0\0\0");
    }

    #[test]
    fn every_ending_comes_back() {
        let endings = (0..=255).map(Ended::Code).chain((1..=64).map(Ended::Signal));
        for record in endings.map(|ended| ExitRecord { ended, at: Duration::from_millis(7) }) {
            assert_eq!(decode(&encode(&record)), Some(record));
        }
    }

    #[test]
    fn hostile_bytes_are_no_record() {
        let good = encode(&KILLED);
        assert_eq!(decode(&good[..15]), None);
        assert_eq!(decode(&[&good[..], b"x"].concat()), None);
        assert_eq!(decode(&[0; SIZE]), None);
        for (place, value) in [(0, b'w'), (4, 2), (5, 2), (6, 0), (6, 65), (7, 1)] {
            let mut bad = good;
            bad[place] = value;
            assert_eq!(decode(&bad), None, "byte {place} is {value}");
        }
    }
}
