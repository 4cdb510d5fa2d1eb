//! Bounded reads and single writes of the kernel's small files.

use std::io::{self, Read, Write};
use std::path::Path;

/// Longest kernel file that is read: `/proc/<pid>/net/dev` of some hundred links, `io.stat` of some hundred disks.
pub(super) const MAX_FILE: usize = 64 * 1024;

/// One buffer for a whole round of readings.
#[derive(Default)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// The file's text. A file longer than [`MAX_FILE`] is an error, since half of it would be a wrong figure.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<&str> {
        self.0.clear();
        let file = std::fs::File::open(path)?;
        // One page is what the kernel hands out at a time; asking for it first spares read_to_end its probing.
        self.0.reserve(4096);
        file.take(MAX_FILE as u64 + 1).read_to_end(&mut self.0)?;
        if self.0.len() > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is longer than 64 KiB"));
        }
        std::str::from_utf8(&self.0).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// The file's text, for the rare reader without a [`Buffer`].
pub(super) fn read(path: &Path) -> io::Result<String> {
    Buffer::default().read(path).map(str::to_owned)
}

/// Writes `value` in one write(2), as cgroup files demand, and never makes a file: on a directory that is not a cgroup it fails.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
