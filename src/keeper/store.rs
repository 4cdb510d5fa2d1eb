//! Keeper's memory on flash: the index of desired state as two alternating records, and the manifests it names.
//!
//! A record is written in place over the older of `state.a` and `state.b` and synced; a power cut can only spoil the one being
//! written, and its checksum shows that. UBIFS would need a sync before every rename as well, so nothing is gained by renaming.
//!
//! A full flash must not shut out the very document that would empty it: the file `reserve` holds some space and an inode, which a removal
//! or a state record may have when nothing else is left.

use crate::image::Digest;
use crate::ipc::Origin;
use crate::keeper::desired::{Beside, Entry};
use crate::manifest::Name;
use crate::sys::fd::read_file;
use crate::trust::Keyset;
use nix::sys::statfs::{F2FS_SUPER_MAGIC, fstatfs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Version of the record format. What a release adds goes to the end of the body, where older ones pass over it and newer ones do without; the version
/// rises only when that cannot be done. Header and checksum are the same in every version, so that a later record is known from a damaged one.
const VERSION: u8 = 1;
const MAGIC: &[u8; 4] = b"WHRY";
/// magic, version, generation, length of the body, CRC-32 of all before it and the body.
const HEADER: usize = 4 + 1 + 8 + 4 + 4;
/// 32 apps with their images and messages stay far below.
const MAX_RECORD: usize = 256 * 1024;
/// A tombstone and a state record of an ordinary device, each with the file system's own overhead.
const RESERVE: usize = 64 * 1024;
/// The reserve is set aside again once so much more than itself is free.
const AMPLE: u64 = 4 * RESERVE as u64;

/// What a document is to do: not all may touch the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Bring something in.
    Deploy,
    /// Make room: may use the reserve.
    Remove,
}

/// What must survive a power cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Fresh starts of keeper so far.
    pub boot: u64,
    /// Every app of every origin, tombstones included.
    pub entries: Vec<Entry>,
    /// Of signed documents.
    pub signed: Signed,
    /// Beside the documents.
    pub beside: Beside,
    /// Apps that a person at the device keeps as they are.
    pub holds: Vec<Name>,
}

/// What must be known about signed documents. A record has it only where there is something to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The keysets that were accepted, one of each topic at most; the one accepted last stands last.
    pub keysets: Vec<Keyset>,
    /// The highest sequence number of the removed apps that were forgotten, by topic.
    pub forgotten: Vec<(Origin, u64)>,
}

/// The files below the data directory.
#[derive(Debug)]
pub struct Store {
    data: PathBuf,
    generation: u64,
    /// The number of starts in the newest record.
    boot: u64,
}

impl Store {
    /// Opens the data directory, making what is missing, and reads the newest whole record. The flag says that there were records, but none that can
    /// be read: they are put aside as `.bad`, and the state is empty until documents come again.
    ///
    /// After a downgrade past a change of the format, starts are counted on from the later record's number, which is never below its count: what
    /// is bound to a start that was stays of the past.
    ///
    /// # Errors
    /// The file system's; a spoiled record is none.
    pub fn open(data: &Path) -> io::Result<(Self, Desired, bool)> {
        fs::create_dir_all(data.join("manifests"))?;
        let paths = ["state.a", "state.b"].map(|name| data.join(name));
        let slots = paths.each_ref().map(|path| read_slot(path));
        let later = slots.iter().filter_map(Slot::later).max().unwrap_or_default();
        // 1 or 0: the slot of the one record that we can read, beside a later one. A number that is even or odd like this is followed by one that goes there.
        let only_ours = match &slots {
            [Slot::Whole(..), Slot::Later(_)] => Some(1),
            [Slot::Later(_), Slot::Whole(..)] => Some(0),
            _ => None,
        };
        let newest = slots.into_iter().filter_map(Slot::whole).max_by_key(|(generation, _)| *generation);
        let unread = newest.is_none() && paths.iter().any(|path| path.exists());
        if unread {
            log::error!("no record of the desired state can be read (a later release's, or damaged): both are put aside as .bad");
            for path in paths.iter().filter(|path| path.exists()) {
                fs::rename(path, path.with_extension(format!("{}.bad", path.extension().unwrap_or_default().to_string_lossy())))?;
            }
        }
        let (generation, mut desired) = newest.unwrap_or_default();
        // The next record goes over the later one, not over the only one that we can read.
        let generation = generation.max(later);
        let generation = generation + u64::from(only_ours == Some(generation % 2));
        desired.boot = desired.boot.max(later);
        let store = Self { data: data.to_owned(), generation, boot: desired.boot };
        store.set_aside();
        Ok((store, desired, unread))
    }

    /// Makes `desired` the state that the next start finds. One write of a few hundred bytes and one sync.
    ///
    /// # Errors
    /// The file system's; the record before is still whole then.
    pub fn save(&mut self, desired: &Desired) -> io::Result<()> {
        let generation = self.generation + 1;
        let bytes = encode(generation, desired)?;
        let path = self.data.join(if generation.is_multiple_of(2) { "state.a" } else { "state.b" });
        self.with_reserve(|| write_slot(&path, &bytes))?;
        (self.generation, self.boot) = (generation, desired.boot);
        self.set_aside();
        Ok(())
    }

    /// This start is on record: the next fresh one gets another number.
    pub fn has_start(&self, boot: u64) -> bool {
        self.boot >= boot
    }

    /// Keeps the exact bytes of an accepted document.
    ///
    /// # Errors
    /// The file system's; nothing is left behind then.
    pub fn put_manifest(&self, bytes: &[u8], purpose: Purpose) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        if self.manifest(&digest).is_ok() {
            return Ok(digest);
        }
        let put = || self.write_manifest(&digest, bytes);
        match purpose {
            Purpose::Deploy => put(),
            Purpose::Remove => self.with_reserve(put),
        }?;
        Ok(digest)
    }

    fn write_manifest(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let dir = self.data.join("manifests");
        let tmp = dir.join("new");
        let written = write_synced(&tmp, bytes).and_then(|()| fs::rename(&tmp, self.manifest_path(digest)));
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written?;
        File::open(&dir)?.sync_all()
    }

    /// `write`, and once more with the reserve given up if the file system is full.
    fn with_reserve(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match write() {
            Err(e) if is_full(&e) && fs::remove_file(self.reserve()).is_ok() => {
                log::warn!("the file system of {} is full: its reserve is used", self.data.display());
                // Without this the freed blocks are, on a journalling file system, nobody's until the next commit.
                File::open(&self.data)?.sync_all()?;
                write()
            }
            answer => answer,
        }
    }

    /// Sets the reserve aside, if it is not there and there is room for it. Its absence is no error: writing to the flash goes on without.
    pub fn set_aside(&self) {
        let path = self.reserve();
        if path.exists() || self.is_short_of_inodes() || self.free().is_none_or(|free| free < AMPLE) {
            return;
        }
        let tmp = path.with_extension("new");
        if write_synced(&tmp, &incompressible()).and_then(|()| fs::rename(&tmp, &path)).is_err() {
            let _ = fs::remove_file(&tmp);
        }
    }

    /// Free bytes on the file system of the data directory; `None` if the kernel does not tell.
    pub fn free(&self) -> Option<u64> {
        let found = nix::sys::statvfs::statvfs(&self.data).ok()?;
        // 32 bits wide on 32-bit ARM.
        #[allow(clippy::unnecessary_cast, reason = "of another width on other architectures")]
        let bytes = found.blocks_available() as u64 * found.fragment_size() as u64;
        Some(bytes)
    }

    /// Those of them that images may take: not the reserve, where it is not set aside already.
    pub fn free_for_images(&self) -> Option<u64> {
        let kept = if self.reserve().exists() { 0 } else { RESERVE as u64 };
        self.free().map(|free| free.saturating_sub(kept))
    }

    /// Only a handful of files can still be made.
    fn is_short_of_inodes(&self) -> bool {
        nix::sys::statvfs::statvfs(&self.data).is_ok_and(|found| found.files() != 0 && found.files_available() <= 4)
    }

    fn reserve(&self) -> PathBuf {
        self.data.join("reserve")
    }

    /// The exact bytes of an accepted document.
    ///
    /// # Errors
    /// `InvalidData` when the file is not what its name says.
    pub fn manifest(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = read_file(self.manifest_path(digest), crate::manifest::MAX_PAYLOAD)?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "manifest on flash is damaged"))
        }
    }

    /// Forgets every document that none of `keep` names.
    pub fn forget_manifests(&self, keep: &[Digest]) -> io::Result<()> {
        for entry in fs::read_dir(self.data.join("manifests"))? {
            let entry = entry?;
            let wanted = keep.iter().any(|d| entry.file_name().to_str() == Some(&file_name(d)));
            if !wanted {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn manifest_path(&self, digest: &Digest) -> PathBuf {
        self.data.join("manifests").join(file_name(digest))
    }
}

/// Over the bytes that are there, and only then cut to length: blocks that the file has already are had on a full file system too.
fn write_slot(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = !path.exists();
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    for _ in 0..syncs(&file)? {
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()?;
    }
    if fresh && let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// How often a file must be written and synced until it is on the disk. On f2fs twice: the first fsync(2) after a checkpoint has the sequence number 0,
/// for whose node block `f2fs_wait_on_node_pages_writeback` (fs/f2fs/node.c, Linux 6.1) does not wait, so that the disk is flushed while the block is still
/// on its way. The second has another number, and its flush confirms both.
fn syncs(file: &File) -> io::Result<u8> {
    Ok(if fstatfs(file)?.filesystem_type() == F2FS_SUPER_MAGIC { 2 } else { 1 })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Noise: UBIFS, JFFS2 and f2fs compress, and zeros would set nothing aside (xorshift, Marsaglia 2003).
fn incompressible() -> Vec<u8> {
    let next = |x: &u64| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        Some(x ^ (x << 17))
    };
    std::iter::successors(Some(0x9e37_79b9_7f4a_7c15), next).take(RESERVE / 8).flat_map(u64::to_le_bytes).collect()
}

fn file_name(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

/// The bytes of one slot.
pub fn encode(generation: u64, desired: &Desired) -> io::Result<Vec<u8>> {
    let mut body = to_bytes(&(desired.boot, &desired.entries))?;
    let holds = !desired.holds.is_empty();
    if holds || (&desired.signed, &desired.beside) != (&Signed::default(), &Beside::default()) {
        body.extend(to_bytes(&(&desired.signed, &desired.beside))?);
    }
    // Behind all that releases without holds read.
    if holds {
        body.extend(to_bytes(&desired.holds)?);
    }
    if body.len() > MAX_RECORD - HEADER {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "desired state is too large to record"));
    }
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    out.extend(generation.to_le_bytes());
    out.extend((body.len() as u32).to_le_bytes());
    let mut crc = Crc::new();
    crc.add(&out);
    crc.add(&body);
    out.extend(crc.value().to_le_bytes());
    out.extend(body);
    Ok(out)
}

fn to_bytes<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|e| io::Error::other(e.to_string()))
}

/// Number and state in these bytes; `None` if they are damaged or of another version.
pub fn decode(bytes: &[u8]) -> Option<(u64, Desired)> {
    let (version, generation, body) = open_record(bytes)?;
    if version != VERSION {
        return None;
    }
    let ((boot, entries), rest) = postcard::take_from_bytes(body).ok()?;
    let (signed, rest) = addition(rest)?;
    let (beside, rest) = beside(rest)?;
    let (holds, _) = addition(rest)?;
    Some((generation, Desired { boot, entries, signed, beside, holds }))
}

/// What a later release has added; its default in a record that ends before, an older release's. And the bytes behind it.
fn addition<T: Default + DeserializeOwned>(rest: &[u8]) -> Option<(T, &[u8])> {
    if rest.is_empty() { Some((T::default(), rest)) } else { postcard::take_from_bytes(rest).ok() }
}

/// Field by field: an older release's record has fewer.
fn beside(rest: &[u8]) -> Option<(Beside, &[u8])> {
    let (lifted, rest) = addition(rest)?;
    let (stopped, rest) = addition(rest)?;
    let (guarded, rest) = addition(rest)?;
    let (tried, rest) = addition(rest)?;
    Some((Beside { lifted, stopped, guarded, tried }, rest))
}

/// Version, number and body of a record of any version; `None` if it is damaged.
fn open_record(bytes: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (head, body) = bytes.split_at_checked(HEADER)?;
    let (said, crc) = head.split_at_checked(HEADER - 4)?;
    let mut sum = Crc::new();
    sum.add(said);
    sum.add(body);
    let length = u32::from_le_bytes(said[13..17].try_into().ok()?) as usize;
    let whole = said.starts_with(MAGIC) && crc == sum.value().to_le_bytes() && length == body.len();
    whole.then_some((said[4], u64::from_le_bytes(said[5..13].try_into().ok()?), body))
}

/// One of the two records.
enum Slot {
    Whole(u64, Desired),
    /// A later release's, with its number.
    Later(u64),
    /// Damaged or missing.
    None,
}

impl Slot {
    fn whole(self) -> Option<(u64, Desired)> {
        if let Self::Whole(generation, desired) = self { Some((generation, desired)) } else { None }
    }

    fn later(&self) -> Option<u64> {
        if let Self::Later(generation) = self { Some(*generation) } else { None }
    }
}

fn read_slot(path: &Path) -> Slot {
    let shown = path.display();
    let bytes = match read_file(path, MAX_RECORD) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Slot::None,
        Err(e) => {
            log::error!("cannot read {shown}: {e}");
            return Slot::None;
        }
    };
    match (decode(&bytes), open_record(&bytes)) {
        (Some((generation, desired)), _) => Slot::Whole(generation, desired),
        (None, Some((version @ VERSION.., generation, _))) if version != VERSION => {
            log::warn!(
                "{shown} was written by a later release (record format {version}, this release reads {VERSION}), the other record decides"
            );
            Slot::Later(generation)
        }
        _ => {
            log::warn!("{shown} is damaged (power cut while writing?), the other record decides");
            Slot::None
        }
    }
}

/// CRC-32 (ISO 3309, as in zip and Ethernet).
pub struct Crc(u32);

impl Crc {
    /// Of nothing.
    #[allow(clippy::new_without_default, reason = "a checksum has a start, not a default")]
    pub fn new() -> Self {
        Self(!0)
    }

    /// Adds bytes. Bit by bit: records are small and rare, a table would cost a kilobyte of flash.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                self.0 = (self.0 >> 1) ^ (0xedb8_8320 & (0u32.wrapping_sub(self.0 & 1)));
            }
        }
    }

    /// The checksum so far.
    pub fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Beside, Crc, Desired, HEADER, Purpose, Store, decode, encode};
    use crate::manifest::Name;
    use std::fs;

    fn dir(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("wherry-store-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn state(boot: u64) -> Desired {
        Desired { boot, ..Desired::default() }
    }

    #[test]
    fn the_checksum_is_the_well_known_one() {
        let mut crc = Crc::new();
        crc.add(b"123456789");
        assert_eq!(crc.value(), 0xcbf4_3926);
    }

    #[test]
    fn what_was_saved_last_is_found_again() {
        let dir = dir("again");
        for boot in 0..5 {
            let (mut store, found, _) = Store::open(&dir).unwrap();
            assert_eq!(found.boot, boot);
            store.save(&state(boot + 1)).unwrap();
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_record_cut_at_any_byte_leaves_the_one_before() {
        let dir = dir("cut");
        let (mut store, ..) = Store::open(&dir).unwrap();
        store.save(&state(1)).unwrap();
        store.save(&state(2)).unwrap();
        let newest = dir.join("state.a");
        let whole = fs::read(&newest).unwrap();
        for length in 0..whole.len() {
            fs::write(&newest, &whole[..length]).unwrap();
            assert_eq!(Store::open(&dir).unwrap().1, state(1), "cut after {length} bytes");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn records_of_which_none_is_whole_are_put_aside_and_said() {
        let dir = dir("bad");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("state.a"), b"WHRY\x09").unwrap();
        let (_, found, damaged) = Store::open(&dir).unwrap();
        assert_eq!((found, damaged), (Desired::default(), true));
        assert_eq!(fs::read(dir.join("state.a.bad")).unwrap(), b"WHRY\x09");
        assert!(!Store::open(&dir).unwrap().2, "said once");
        fs::remove_dir_all(dir).unwrap();
    }

    /// The record with its body and version changed, and its checksum right.
    fn forged(version: u8, generation: u64, body: &[u8]) -> Vec<u8> {
        let mut out = [b"WHRY", &[version][..], &generation.to_le_bytes(), &(body.len() as u32).to_le_bytes()].concat();
        let mut crc = Crc::new();
        crc.add(&out);
        crc.add(body);
        out.extend(crc.value().to_le_bytes());
        [out, body.to_vec()].concat()
    }

    #[test]
    fn what_a_later_release_adds_is_passed_over_and_what_an_older_one_lacks_is_empty() {
        let name = |s: &str| s.parse::<Name>().unwrap();
        let beside = Beside { lifted: vec![name("a")], stopped: vec![(name("b"), name("c"))], guarded: vec![name("d")], tried: Vec::new() };
        let full = Desired { boot: 3, beside: beside.clone(), ..Desired::default() };
        let body = encode(7, &full).unwrap()[HEADER..].to_vec();
        // No holds, and more.
        let longer = [&body[..], b"\0more of it"].concat();
        assert_eq!(decode(&forged(1, 7, &longer)), Some((7, full.clone())));
        // `tried` is one byte, a length of zero; `guarded` three: length, length of the name, name.
        let shorter = |by: usize| decode(&forged(1, 7, &body[..body.len() - by])).unwrap().1.beside;
        assert_eq!(shorter(1), beside);
        assert_eq!(shorter(4), Beside { guarded: Vec::new(), ..beside });
        assert_eq!(decode(&forged(1, 7, &body[..body.len() - 2])), None, "cut within a field");
    }

    #[test]
    fn after_a_downgrade_starts_are_counted_on_from_the_later_records_number() {
        let dir = dir("later");
        fs::write(dir.join("state.a"), forged(2, 40, b"unknown")).unwrap();
        fs::write(dir.join("state.b"), forged(2, 41, b"unknown")).unwrap();
        let (mut store, found, unread) = Store::open(&dir).unwrap();
        assert_eq!((found, unread), (state(41), true));
        store.save(&state(42)).unwrap();
        assert_eq!(Store::open(&dir).unwrap().1, state(42));
        // The one before the first record of the later release is still this release's.
        fs::write(dir.join("state.b"), forged(2, 50, b"unknown")).unwrap();
        let (mut store, found, unread) = Store::open(&dir).unwrap();
        assert_eq!((found, unread), (state(50), false));
        store.save(&state(51)).unwrap();
        assert_eq!(Store::open(&dir).unwrap().1, state(51));
        fs::write(dir.join("state.a"), forged(0, 60, b"unknown")).unwrap();
        fs::write(dir.join("state.b"), forged(0, 61, b"unknown")).unwrap();
        assert_eq!(Store::open(&dir).unwrap().1, Desired::default(), "there was no version 0");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_only_record_that_can_be_read_is_not_the_one_that_is_written_next() {
        for (ours, later, generation) in [("state.a", "state.b", 6), ("state.b", "state.a", 7)] {
            let dir = dir(&format!("only-{ours}"));
            fs::write(dir.join(ours), encode(generation, &state(5)).unwrap()).unwrap();
            fs::write(dir.join(later), forged(2, generation + 1, b"unknown")).unwrap();
            let whole = fs::read(dir.join(ours)).unwrap();
            let (mut store, found, _) = Store::open(&dir).unwrap();
            store.save(&found).unwrap();
            assert_eq!(fs::read(dir.join(ours)).unwrap(), whole, "{ours}");
            store.save(&state(100)).unwrap();
            assert_eq!(Store::open(&dir).unwrap().1, state(100), "{ours}");
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let whole = encode(7, &state(300)).unwrap();
        assert_eq!(decode(&whole), Some((7, state(300))));
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
    }

    /// Of a record with holds, a release without them reads what stands before these, and passes over the rest.
    #[test]
    fn holds_stand_behind_all_that_other_releases_read() {
        let lifted = Beside { lifted: vec!["db".parse().unwrap()], ..Beside::default() };
        let before = Desired { beside: lifted, ..state(3) };
        let after = Desired { holds: vec!["web".parse().unwrap()], ..before.clone() };
        let body = |desired: &Desired| encode(7, desired).unwrap()[HEADER..].to_vec();
        assert!(body(&after).starts_with(&body(&before)) && body(&after).len() > body(&before).len());
        for desired in [before, after, Desired { holds: vec!["web".parse().unwrap()], ..state(3) }] {
            assert_eq!(decode(&encode(7, &desired).unwrap()), Some((7, desired)));
        }
    }

    #[test]
    fn a_damaged_manifest_is_not_used_and_is_written_again() {
        let dir = dir("manifest");
        let (store, ..) = Store::open(&dir).unwrap();
        let digest = store.put_manifest(b"{}", Purpose::Deploy).unwrap();
        let path = dir.join("manifests").join(format!("{}.json", digest.hex()));
        fs::write(&path, b"{ ").unwrap();
        assert!(store.manifest(&digest).is_err());
        store.put_manifest(b"{}", Purpose::Deploy).unwrap();
        assert_eq!(store.manifest(&digest).unwrap(), b"{}");
        store.forget_manifests(&[]).unwrap();
        assert!(store.manifest(&digest).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
