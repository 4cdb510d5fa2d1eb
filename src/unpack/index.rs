//! Listing an archive: where each entry's bytes lie. The bytes themselves are read by stage and hash, against their digests.

use super::archive::{Archive, Entry, Kind, Skip};
use super::{BATCH, BATCH_BYTES, Content, Found, Report, Totals, tell};
use crate::image::RelPath;
use crate::image::fault::{fault, os};
use crate::ipc::{Conn, Failure};
use crate::protocol::Reason;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Most entries of an archive: 127 layers of old `docker save` archives have four each.
pub const MAX_ENTRIES: u64 = 4096;
/// Longest name that matters: `blobs/sha256/` and 64 digits, or 64 digits and `/layer.tar`, with room.
pub const MAX_USEFUL: usize = 300;

impl Skip for File {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        // Seeking behind the end succeeds; whether the bytes are there is asked of the file's length.
        let to = self.stream_position()?.checked_add(n).ok_or(io::ErrorKind::UnexpectedEof)?;
        if to > self.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seek(SeekFrom::Start(to)).map(|_| ())
    }
}

/// Lists the archive to stage.
pub fn list(mut input: File, stage: &Conn) -> Result<Totals, Failure> {
    refuse_compressed(&mut input)?;
    let mut archive = Archive::new(input);
    let (mut batch, mut bytes, mut count) = (Vec::new(), 0, 0);
    while let Some(entry) = archive.next_entry()? {
        count += 1;
        if count > MAX_ENTRIES {
            return Err(fault(Reason::HostileArchive, format!("the archive has more than {MAX_ENTRIES} entries")));
        }
        let path = RelPath::parse(&entry.name).map_err(|why| fault(Reason::HostileArchive, super::extract::sentence(&entry.name, why)))?;
        let what = match entry.kind {
            Kind::File => Content::Data { offset: entry.offset, size: entry.size },
            _ => match linked(&path, &entry) {
                Some(target) => Content::Link(target),
                None => continue,
            },
        };
        if path.bytes().len() > MAX_USEFUL {
            continue;
        }
        bytes += path.bytes().len() + entry.link.len();
        batch.push(Found { path, what });
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            tell(stage, &Report::Found(std::mem::take(&mut batch)))?;
            bytes = 0;
        }
    }
    tell(stage, &Report::Found(batch))?;
    Ok(Totals { inodes: count, ..Totals::default() })
}

/// The entry of the archive that this one is another name of.
pub fn linked(path: &RelPath, entry: &Entry) -> Option<RelPath> {
    match entry.kind {
        Kind::Symlink => beside(path, &entry.link),
        Kind::Hardlink => RelPath::parse(&entry.link).ok(),
        _ => None,
    }
}

/// Where a symbolic link beside `path` leads, by its text alone; `None` when out of the archive.
fn beside(path: &RelPath, link: &[u8]) -> Option<RelPath> {
    let (dir, _) = path.split()?;
    let mut parts: Vec<&[u8]> = dir.components().collect();
    for part in link.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => parts.pop().map(|_| ())?,
            part => parts.push(part),
        }
    }
    RelPath::parse(&parts.join(&b'/')).ok()
}

fn refuse_compressed(input: &mut File) -> Result<(), Failure> {
    let mut magic = [0; 4];
    let read = input.read(&mut magic).and_then(|n| input.rewind().map(|()| n));
    let n = read.map_err(|e| os("cannot read the archive", e))?;
    match magic[..n] {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', ..] | [b'B', b'Z', b'h', ..] => {
            Err(fault(Reason::Unsupported, "the archive is compressed as a whole, decompress it first (its layers may stay compressed)"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::beside;
    use crate::image::RelPath;

    #[test]
    fn links_between_layers_are_followed_by_their_text() {
        let at = RelPath::parse(b"abc/layer.tar").unwrap();
        assert_eq!(beside(&at, b"../def/layer.tar").unwrap().to_string(), "def/layer.tar");
        assert_eq!(beside(&at, b"../../def"), None);
    }
}
