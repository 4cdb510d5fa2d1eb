//! The image store below the data directory: `images/<hex>` records, `layers/<hex>/0` trees, `staging/` for what is not ready.
//!
//! A layer directory exists under its name only when it is complete and synced; a record only when all its layers do. So
//! any crash leaves at most things that nobody refers to, which [`Store::collect_garbage`] removes.

use super::crc::Crc;
use super::{Digest, Record};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat, mode_t};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The shift of ids under which layers are stored: none.
pub const SHIFT: &str = "0";
/// Longest record file in bytes.
const MAX_RECORD: usize = 128 * 1024;
/// Version of record files. Another one is refused: its layers are then unknown.
const VERSION: u8 = 1;
/// Levels that removal descends with one descriptor each; what is deeper is moved up first.
const MAX_OPEN: usize = 64;
/// Names taken from a directory at a time while removing.
const BATCH: usize = 512;

/// The store of one data directory.
#[derive(Debug, Clone)]
pub struct Store {
    data: PathBuf,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Image records.
    pub images: u64,
    /// Layers.
    pub layers: u64,
    /// Bytes of disk blocks.
    pub bytes: u64,
}

/// What the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Image records.
    pub images: u64,
    /// Layers.
    pub layers: u64,
    /// Bytes of disk blocks of layers, hard links counted once.
    pub bytes: u64,
    /// Bytes of file content.
    pub content: u64,
    /// Files and directories in layers.
    pub inodes: u64,
}

impl Store {
    /// Opens the store, making its directories if they are missing. They are for root alone: layers hold setuid programs.
    pub fn open(data: &Path) -> io::Result<Self> {
        let store = Self { data: data.to_owned() };
        for dir in [store.images(), store.layers(), store.staging()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| named("create", &dir, e))?;
        }
        Ok(store)
    }

    fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Where layers are.
    pub fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }

    /// Where unfinished work is.
    pub fn staging(&self) -> PathBuf {
        self.data.join("staging")
    }

    /// The directory of a layer, whether it exists or not.
    pub fn layer(&self, digest: &Digest) -> PathBuf {
        self.layers().join(digest.hex()).join(SHIFT)
    }

    /// Whether a layer is here.
    pub fn has_layer(&self, digest: &Digest) -> bool {
        fs::symlink_metadata(self.layer(digest)).is_ok_and(|m| m.is_dir())
    }

    /// What is known of an image; `None` when it is not here or one of its layers is not.
    ///
    /// # Errors
    /// `InvalidData` when the record is damaged or from another release; bringing the image in again replaces it.
    pub fn record(&self, image: &Digest) -> io::Result<Option<Record>> {
        let path = self.images().join(image.hex());
        let bytes = match crate::sys::fd::read_file(&path, MAX_RECORD) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(named("read", &path, e)),
        };
        let record = decode(&bytes).filter(|r| r.digest == *image);
        let record = record.ok_or_else(|| named("read", &path, io::Error::new(io::ErrorKind::InvalidData, "the record is damaged")))?;
        Ok(record.layers.iter().all(|l| self.has_layer(l)).then_some(record))
    }

    /// The layers' directories relative to the data directory, bottom first.
    pub fn layer_dirs(&self, record: &Record) -> Vec<String> {
        record.layers.iter().map(|l| format!("layers/{}/{SHIFT}", l.hex())).collect()
    }

    /// Writes a record: all of it or nothing, also when the power fails.
    pub fn write_record(&self, record: &Record) -> io::Result<()> {
        let bytes = encode(record)?;
        let temporary = self.staging().join(format!("record-{}-{}", std::process::id(), record.digest.hex()));
        let place = self.images().join(record.digest.hex());
        let written = write_synced(&temporary, &bytes)
            .and_then(|()| fs::rename(&temporary, &place))
            // Without this the rename may be lost in a power cut, though not half done.
            .and_then(|()| fs::File::open(self.images())?.sync_all());
        if written.is_err() {
            // Whoever gets the error takes the layers back: no record may name them.
            let _ = fs::remove_file(&temporary);
            let _ = fs::remove_file(&place);
        }
        written
    }

    /// Removes every image that is not in `keep`, every layer that no kept image has, and all of `staging/`.
    /// Call it only while no stage runs. It goes on past what cannot be removed.
    ///
    /// # Errors
    /// A kept image's record cannot be read (then nothing is removed), or the first error, after everything else was removed.
    pub fn collect_garbage(&self, keep: &[Digest]) -> io::Result<Freed> {
        let keep: BTreeSet<Digest> = keep.iter().copied().collect();
        let kept = keep.iter().filter_map(|d| self.kept(d).transpose()).collect::<io::Result<Vec<Record>>>()?;
        let images: BTreeSet<OsString> = kept.iter().map(|r| r.digest.hex().into()).collect();
        let layers: BTreeSet<OsString> = kept.iter().flat_map(|r| &r.layers).map(|l| l.hex().into()).collect();
        let mut sweep = Sweep::new(&self.staging())?;
        // Records go before the layers they name: a record never speaks of a layer that is already going.
        let gone_images = sweep.all_but(&self.images(), &images);
        let gone_layers = sweep.all_but(&self.layers(), &layers);
        sweep.empty();
        let freed = Freed { images: gone_images, layers: gone_layers, bytes: sweep.freed };
        sweep.first_error.map_or(Ok(freed), Err)
    }

    /// The record of an image to keep. One that is damaged cannot be started: it is brought in again, so it may go. One that cannot be
    /// read just now stops the collection: its layers are unknown.
    fn kept(&self, image: &Digest) -> io::Result<Option<Record>> {
        match self.record(image) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(None),
            answer => answer,
        }
    }

    /// Bytes of file content in a layer, hard links counted once. Walks it.
    pub fn content(&self, digest: &Digest) -> u64 {
        let mut usage = Usage::default();
        weigh(self.layer(digest), &mut BTreeSet::new(), &mut usage);
        usage.content
    }

    /// Counts what the store holds. Walks all layers: not for every second.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage { images: fs::read_dir(self.images())?.count() as u64, ..Usage::default() };
        let mut seen = BTreeSet::new();
        for layer in fs::read_dir(self.layers())? {
            usage.layers += 1;
            weigh(layer?.path().join(SHIFT), &mut seen, &mut usage);
        }
        Ok(usage)
    }
}

fn weigh(top: PathBuf, seen: &mut BTreeSet<(u64, u64)>, usage: &mut Usage) {
    let mut todo = vec![top];
    while let Some(path) = todo.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        usage.inodes += 1;
        usage.bytes += meta.blocks() * 512;
        usage.content += if meta.is_file() { meta.len() } else { 0 };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
}

fn named(doing: &str, path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot {doing} {}: {e}", path.display()))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    // UBIFS and others may otherwise keep the name and lose the content.
    file.sync_all()
}

/// The record as it stands on flash.
pub fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let bytes = [&[VERSION][..], &Crc::of(&body).to_le_bytes(), &body].concat();
    if bytes.len() > MAX_RECORD {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the record has more than {MAX_RECORD} bytes")));
    }
    Ok(bytes)
}

/// The record in these bytes; `None` if they are damaged or of another version.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    let (version, rest) = bytes.split_first()?;
    let (sum, body) = rest.split_first_chunk::<4>()?;
    if *version != VERSION || u32::from_le_bytes(*sum) != Crc::of(body) {
        return None;
    }
    match postcard::take_from_bytes(body) {
        Ok((record, [])) => Some(record),
        _ => None,
    }
}

/// Empties a directory, whatever a hostile archive or a crash has left in it.
pub fn empty(dir: &Path) -> io::Result<()> {
    let mut sweep = Sweep::new(dir)?;
    sweep.empty();
    sweep.first_error.map_or(Ok(()), Err)
}

/// Removal that follows no symbolic link, needs a bounded number of descriptors, and goes on past errors.
struct Sweep {
    /// What is removed is moved here first, so that its old name is gone at once.
    trash: OwnedFd,
    moved: u64,
    freed: u64,
    first_error: Option<io::Error>,
}

impl Sweep {
    fn new(trash: &Path) -> io::Result<Self> {
        Ok(Self { trash: open_dir(trash)?, moved: 0, freed: 0, first_error: None })
    }

    fn note(&mut self, e: impl Into<io::Error>) {
        self.first_error.get_or_insert(e.into());
    }

    /// Moves everything in `dir` that is not in `keep` to the trash; answers how many.
    fn all_but(&mut self, dir: &Path, keep: &BTreeSet<OsString>) -> u64 {
        let names: io::Result<Vec<OsString>> = fs::read_dir(dir).and_then(|all| all.map(|e| e.map(|e| e.file_name())).collect());
        let (names, dir) = match names.and_then(|n| Ok((n, open_dir(dir)?))) {
            Ok(both) => both,
            Err(e) => {
                self.note(e);
                return 0;
            }
        };
        let doomed = names.iter().filter(|n| !keep.contains(*n));
        doomed.filter(|n| self.park(&dir, n).map_err(|e| self.note(e)).is_ok()).count() as u64
    }

    /// Moves an entry to the trash under a fresh name.
    fn park(&mut self, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let fresh = format!("gone-{}", self.moved);
            // A name that is left over from an interrupted removal is skipped: rename would replace a file there.
            if fstatat(&self.trash, fresh.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_err() {
                return Ok(renameat(dir, name, &self.trash, fresh.as_str())?);
            }
        }
    }

    /// Empties the trash. What is too deep is moved up to it and so comes round again.
    fn empty(&mut self) {
        let mut failed = BTreeSet::new();
        loop {
            let names: Vec<OsString> = match entries(&self.trash) {
                Ok(names) => names.into_iter().filter(|n| !failed.contains(n)).collect(),
                Err(e) => return self.note(e),
            };
            if names.is_empty() {
                return;
            }
            for name in names {
                let trash = match self.trash.try_clone() {
                    Ok(fd) => fd,
                    Err(e) => return self.note(e),
                };
                if let Err(e) = self.tree(&trash, &name, 0) {
                    self.note(e);
                    failed.insert(name);
                }
            }
        }
    }

    fn tree(&mut self, dir: &OwnedFd, name: &OsStr, depth: usize) -> io::Result<()> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if !is_dir(stat.st_mode) {
            unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
            self.freed += if stat.st_nlink == 1 { stat.st_blocks as u64 * 512 } else { 0 };
            return Ok(());
        }
        if depth > MAX_OPEN {
            return self.park(dir, name);
        }
        let sub = openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        loop {
            let names = entries(&sub)?;
            if names.is_empty() {
                break;
            }
            for name in names {
                self.tree(&sub, &name, depth + 1)?;
            }
        }
        unlinkat(dir, name, UnlinkatFlags::RemoveDir)?;
        self.freed += stat.st_blocks as u64 * 512;
        Ok(())
    }
}

fn is_dir(mode: mode_t) -> bool {
    mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| named("open", path, e.into()))
}

/// Up to [`BATCH`] names in a directory.
fn entries(dir: &impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut listing = Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let names = listing.iter().map(|e| e.map(|e| OsStr::from_bytes(e.file_name().to_bytes()).to_owned()));
    names.filter(|n| !n.as_ref().is_ok_and(|n| n == "." || n == "..")).take(BATCH).collect()
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::image::{Config, Digest, Record};

    fn record() -> Record {
        let config = Config { cmd: vec!["sh".into()], stop_signal: Some(15), ..Config::default() };
        Record { digest: Digest::of(b"image"), layers: vec![Digest::of(b"layer")], config, unpacked: 300 }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        assert_eq!(decode(&encode(&record()).unwrap()), Some(record()));
    }

    #[test]
    fn a_record_with_any_changed_or_missing_byte_is_refused() {
        let good = encode(&record()).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert_eq!(decode(&bad), None, "byte {i}");
            assert_eq!(decode(&good[..i]), None, "length {i}");
        }
        assert_eq!(decode(&[good, vec![0]].concat()), None);
    }

    #[test]
    fn the_bytes_of_a_record_do_not_change_between_releases() {
        let bytes = encode(&record()).unwrap();
        assert_eq!(bytes[0], 1);
        assert_eq!(Digest::of(&bytes).hex(), "1ab521dc8c3357cd11c573f8d7109b7cb3b62f2053ce7cf4b3004d01b79b1802");
    }
}
