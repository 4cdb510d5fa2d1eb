//! An image archive in one pass, for one that comes over the network and is stored nowhere: which layers the image has stands in documents
//! that may come behind them. So every layer is unpacked, each into a directory of its own, and every document is handed to stage, which
//! looks at them only once hash has told that the whole archive is the wanted one.

use super::archive::{Archive, BLOCK, Kind, is_header};
use super::extract::{layer, sentence};
use super::inflate::{Bounded, Inflate};
use super::{BATCH_BYTES, Content, Found, Limits, Report, Totals, index, tell, tell_marks};
use crate::image::fault::{fault, writing};
use crate::image::layout::{MAX_JSON, MAX_LAYERS};
use crate::image::{RelPath, beneath};
use crate::ipc::{Conn, Failure};
use crate::protocol::Reason;
use nix::sys::stat::{Mode, mkdirat};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;

/// Most bytes of all documents together: stage holds them in memory.
pub const MAX_DOCUMENTS: usize = 4 << 20;

/// What an entry seems to be, from its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Layer,
    Document,
    /// Nothing that an image could need.
    Other,
}

/// Takes it apart below `root`.
pub fn take_apart(mut input: File, root: &OwnedFd, limits: Limits, stage: &Conn) -> Result<Totals, Failure> {
    let mut archive = Archive::new(Bounded::new(Inflate::new(&mut input as &mut dyn Read)?, limits.expanded()));
    let mut parts = Parts { root, limits, stage, totals: Totals::default(), layers: 0, text: 0 };
    let mut count = 0;
    while let Some(entry) = archive.next_entry()? {
        count += 1;
        if count > index::MAX_ENTRIES {
            return Err(fault(Reason::HostileArchive, format!("the archive has more than {} entries", index::MAX_ENTRIES)));
        }
        let path = RelPath::parse(&entry.name).map_err(|why| fault(Reason::HostileArchive, sentence(&entry.name, why)))?;
        if path.bytes().len() > index::MAX_USEFUL {
            continue;
        }
        if entry.kind == Kind::File {
            parts.file(path, entry.size, &mut archive)?;
        } else if let Some(target) = index::linked(&path, &entry) {
            tell(stage, &Report::Found(vec![Found { path, what: Content::Link(target) }]))?;
        }
    }
    Ok(parts.totals)
}

struct Parts<'a> {
    root: &'a OwnedFd,
    limits: Limits,
    stage: &'a Conn,
    /// Of all layers.
    totals: Totals,
    layers: usize,
    /// Bytes of documents.
    text: usize,
}

impl Parts<'_> {
    fn file(&mut self, path: RelPath, size: u64, archive: &mut Archive<'_>) -> Result<(), Failure> {
        let mut bytes = Bytes { archive, failure: None };
        let mut head = Vec::new();
        let read = bytes.by_ref().take(BLOCK as u64).read_to_end(&mut head);
        let shape = shape(&head, size);
        let done = match (read, shape) {
            (Err(e), _) => Err(fault(Reason::HostileArchive, e.to_string())),
            (_, Shape::Layer) => self.layer(path, size, Cursor::new(head).chain(&mut bytes)),
            (_, Shape::Document) => self.document(&path, Cursor::new(head).chain(&mut bytes)),
            (_, Shape::Other) => Ok(()),
        };
        // What is wrong with the archive is the cause of what seems wrong with the entry.
        bytes.failure.map_or(done, Err)
    }

    fn document(&mut self, path: &RelPath, mut bytes: impl Read) -> Result<(), Failure> {
        let mut begins = true;
        loop {
            let mut some = Vec::new();
            let read = bytes.by_ref().take(BATCH_BYTES as u64).read_to_end(&mut some);
            read.map_err(|e| fault(Reason::HostileArchive, e.to_string()))?;
            if some.is_empty() {
                return Ok(());
            }
            self.text += some.len();
            if self.text > MAX_DOCUMENTS {
                return Err(fault(Reason::Unsupported, format!("the archive has more than {MAX_DOCUMENTS} bytes of JSON documents")));
            }
            tell(self.stage, &Report::Document { path: path.clone(), begins, bytes: some })?;
            begins = false;
        }
    }

    fn layer(&mut self, path: RelPath, size: u64, bytes: impl Read) -> Result<(), Failure> {
        if self.layers == MAX_LAYERS {
            return Err(fault(Reason::Unsupported, format!("the archive has more than {MAX_LAYERS} layers, of all its images together")));
        }
        let name = number(self.layers);
        let made = mkdirat(self.root, name.as_path(), Mode::from_bits_truncate(0o755)).map_err(io::Error::from);
        let dir = made.and_then(|()| beneath::open_dir(self.root, &name)).map_err(|e| writing(self.root, "cannot make a directory", e))?;
        let left = Limits {
            bytes: self.limits.bytes - self.totals.bytes,
            inodes: self.limits.inodes - self.totals.inodes,
            whiteouts: self.limits.whiteouts,
        };
        let (totals, marks) = layer(bytes, dir, left).map_err(|f| fault(f.reason, format!("cannot unpack {path}: {}", f.message)))?;
        self.layers += 1;
        self.totals.bytes += totals.bytes;
        self.totals.inodes += totals.inodes;
        tell_marks(self.stage, marks)?;
        tell(self.stage, &Report::Layer { path, size, totals })
    }
}

/// The directory of this layer.
pub fn number(n: usize) -> RelPath {
    RelPath::parse(n.to_string().as_bytes()).expect("digits make a good name")
}

/// A tar file may begin with any name, JSON with a brace only. Compressed data that is no layer (which no image tool writes) fails as one.
fn shape(head: &[u8], size: u64) -> Shape {
    let first = head.iter().find(|b| !b.is_ascii_whitespace());
    let is_tar = |block: &[u8; BLOCK]| block[257..].starts_with(b"ustar") || block.iter().all(|b| *b == 0) || is_header(block);
    match head {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Shape::Layer,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] | [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Shape::Layer,
        _ if head.try_into().is_ok_and(is_tar) => Shape::Layer,
        _ if matches!(first, Some(b'{' | b'[')) && size <= MAX_JSON as u64 => Shape::Document,
        _ => Shape::Other,
    }
}

/// The content of the current entry.
struct Bytes<'a, 'b> {
    archive: &'a mut Archive<'b>,
    failure: Option<Failure>,
}

impl Read for Bytes<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.archive.read(out).map_err(|f| {
            let e = io::Error::other(f.message.clone());
            self.failure = Some(f);
            e
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Shape, shape};

    #[test]
    fn an_entry_is_known_by_its_first_bytes() {
        let mut tar = [b'x'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let mut braced = tar;
        braced[0] = b'{';
        // Before POSIX there was no mark, only the checksum.
        let mut old = [0; 512];
        old[0] = b'{';
        old[148..156].copy_from_slice(b"000573\0 ");
        for (head, size, wanted) in [
            (&tar[..], 10_240, Shape::Layer),
            (&braced, 10_240, Shape::Layer),
            (&old, 10_240, Shape::Layer),
            (&[0; 512], 1024, Shape::Layer),
            (b"\x1f\x8b\x08", 3, Shape::Layer),
            (b"\x28\xb5\x2f\xfd\x00", 5, Shape::Layer),
            (b"\xfd7zXZ\0x", 7, Shape::Layer),
            (b"{}", 2, Shape::Document),
            (b" \n[1]", 5, Shape::Document),
            (b"{}", 1 << 21, Shape::Other),
            (b"1.0", 3, Shape::Other),
            (b"", 0, Shape::Other),
            (b"\0\0", 2, Shape::Other),
        ] {
            assert_eq!(shape(head, size), wanted, "{head:?}");
        }
    }
}
