//! From entries to files. The rules are ours alone: no name leads out, nothing is written through a link, nothing that exists is
//! opened for writing, and every limit is checked before the write that would pass it.

use super::archive::{Archive, Entry, Kind, Skip};
use super::inflate::{Bounded, Inflate};
use super::{Limits, Totals};
use crate::finish::{MAX_MARKS, Mark};
use crate::image::fault::{fault, writing};
use crate::image::{RelPath, beneath, climbs_out, printable};
use crate::ipc::Failure;
use crate::protocol::Reason;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat};
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Bytes of names that are remembered until the end (times of directories, marks).
const MAX_REMEMBERED: usize = 8 << 20;
/// Bytes of extended attributes of one layer: they take room on flash that no file's length shows.
const MAX_ATTRIBUTES: usize = 16 << 20;
/// Bytes of headers that one file may cost on top of its content, on average.
const HEADERS: u64 = 8192;
/// Padding and the like, once per archive.
const SLACK: u64 = 2 << 20;
const CHUNK: usize = 64 * 1024;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names with this beginning were bookkeeping of aufs; image tools skip them.
const AUFS: &[u8] = b".wh..wh.";

impl<R: Read> Skip for Bounded<R> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(n), &mut io::sink())?;
        if skipped == n { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Limits {
    /// Most bytes of the uncompressed archive of a tree within these limits.
    pub fn expanded(&self) -> u64 {
        self.inodes.saturating_mul(HEADERS).saturating_add(self.bytes).saturating_add(SLACK)
    }
}

/// Unpacks a layer below `root`. Answers what it came to, and what is left for finish: outermost directories first, then the whiteouts as they came.
///
/// # Errors
/// What is wrong with the archive, or which limit it passes. The tree is half done then.
pub fn layer(mut input: impl Read, root: OwnedFd, limits: Limits) -> Result<(Totals, Vec<Mark>), Failure> {
    // One code for every kind of input: decompression takes room on flash too.
    let input: &mut dyn Read = &mut input;
    let mut archive = Archive::new(Bounded::new(Inflate::new(input)?, limits.expanded()));
    let mut tree = Tree::new(root, limits);
    while let Some(entry) = archive.next_entry()? {
        tree.place(&entry, &mut archive)?;
    }
    tree.set_times()?;
    let marks = tree.marks()?;
    Ok((tree.totals, marks))
}

/// A sentence on an entry.
pub fn sentence(name: &[u8], why: &str) -> String {
    format!("entry {} {why}", printable(name))
}

struct Tree {
    root: OwnedFd,
    limits: Limits,
    totals: Totals,
    whiteouts: Vec<Mark>,
    /// Directories that were made because something lies in them, not because they have an entry.
    implied: BTreeSet<RelPath>,
    /// Times of directories, set last: every file made in one changes them.
    times: Vec<(RelPath, (i64, i64))>,
    remembered: usize,
    /// Bytes of attributes set so far.
    attributes: usize,
    buffer: Vec<u8>,
}

type Parent = (OwnedFd, std::ffi::OsString);

impl Tree {
    fn new(root: OwnedFd, limits: Limits) -> Self {
        let implied = BTreeSet::from([RelPath::default()]);
        let buffer = vec![0; CHUNK];
        let (totals, whiteouts, times) = (Totals::default(), Vec::new(), Vec::new());
        Self { root, limits, totals, whiteouts, implied, times, remembered: 0, attributes: 0, buffer }
    }

    fn place(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), Failure> {
        let path = RelPath::parse(&entry.name).map_err(|why| hostile(&entry.name, why))?;
        if self.limits.whiteouts && self.mark(&path)? {
            return Ok(());
        }
        if entry.kind == Kind::Device {
            self.totals.devices += 1;
            return Ok(());
        }
        match entry.kind {
            Kind::Directory => self.directory(&path, entry),
            _ if path.is_root() => Err(hostile(&entry.name, "would replace the root directory")),
            Kind::Hardlink => self.hardlink(&path, entry),
            Kind::Symlink => self.symlink(&path, entry),
            Kind::Fifo => self.fifo(&path, entry),
            Kind::File | Kind::Device => self.file(&path, entry, archive),
        }
    }

    /// Notes what a `.wh.` name means; `false` for any other name.
    fn mark(&mut self, path: &RelPath) -> Result<bool, Failure> {
        let special: Vec<&[u8]> = path.components().filter(|c| c.starts_with(WHITEOUT)).collect();
        let Some((parent, name)) = path.split() else { return Ok(false) };
        let mark = match (&special[..], name.as_bytes()) {
            ([], _) => return Ok(false),
            ([_], OPAQUE) => Mark::Opaque(parent.clone()),
            (all, _) if all.iter().any(|c| c.starts_with(AUFS)) => return Ok(true),
            ([_], name) if name.starts_with(WHITEOUT) => {
                let hidden = &name[WHITEOUT.len()..];
                if matches!(hidden, b"" | b"." | b"..") {
                    return Err(hostile(path.bytes(), "is a whiteout of no name"));
                }
                Mark::Whiteout(parent.join(hidden).map_err(|why| hostile(path.bytes(), why))?)
            }
            _ => return Err(hostile(path.bytes(), "lies below a whiteout")),
        };
        self.remember(path)?;
        if self.whiteouts.len() >= MAX_MARKS {
            return Err(fault(Reason::HostileArchive, format!("the layer has more than {MAX_MARKS} whiteouts")));
        }
        self.directory_of(&parent)?;
        self.whiteouts.push(mark);
        Ok(true)
    }

    fn remember(&mut self, path: &RelPath) -> Result<(), Failure> {
        self.remembered += path.bytes().len() + size_of::<Mark>();
        let full = self.remembered > MAX_REMEMBERED;
        if full { Err(fault(Reason::HostileArchive, "the layer has too many directories and whiteouts with long names")) } else { Ok(()) }
    }

    /// One more name: a further link needs no inode, but room in its directory all the same.
    fn count(&mut self) -> Result<(), Failure> {
        self.totals.inodes += 1;
        if self.totals.inodes > self.limits.inodes {
            return Err(fault(Reason::NoInodes, format!("the image has more than {} files, directories and links", self.limits.inodes)));
        }
        Ok(())
    }

    fn failed(&self, doing: &str, path: &RelPath, e: impl Into<io::Error>) -> Failure {
        writing(&self.root, &format!("cannot {doing} {path}"), e)
    }

    /// Opens a directory, making it and those above it where the archive has no entry for them.
    fn directory_of(&mut self, path: &RelPath) -> Result<OwnedFd, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match beneath::open(&self.root, path, flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                for dir in path.ancestors() {
                    self.imply(&dir)?;
                }
                beneath::open(&self.root, path, flags).map_err(|e| self.behind_link(path, e))
            }
            answer => answer.map_err(|e| self.behind_link(path, e)),
        }
    }

    fn imply(&mut self, dir: &RelPath) -> Result<(), Failure> {
        let (parent, name) = dir.split().expect("an ancestor is not the root");
        let at = beneath::open(&self.root, &parent, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|e| self.behind_link(&parent, e))?;
        match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
            Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(self.failed("make the directory", dir, e)),
            Ok(()) => {
                self.count()?;
                self.remember(dir)?;
                self.implied.insert(dir.clone());
                Ok(())
            }
        }
    }

    /// An error while going to a directory: a symbolic link or a file on the way is the archive's doing.
    fn behind_link(&self, path: &RelPath, e: io::Error) -> Failure {
        match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP) => hostile(path.bytes(), "is reached through a symbolic link"),
            Some(Errno::ENOTDIR) => hostile(path.bytes(), "is used as a directory but is none"),
            _ => self.failed("open", path, e),
        }
    }

    /// The directory that an entry goes to, with its name there free.
    fn room(&mut self, path: &RelPath) -> Result<Parent, Failure> {
        let (parent, name) = path.split().expect("the root was sorted out before");
        let dir = self.directory_of(&parent)?;
        match unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR) => unlinkat(&dir, name, UnlinkatFlags::RemoveDir).map_err(|e| match e {
                Errno::ENOTEMPTY | Errno::EEXIST => hostile(path.bytes(), "would replace a directory that is not empty"),
                e => self.failed("replace", path, e),
            })?,
            Err(e) => return Err(self.failed("replace", path, e)),
        }
        self.implied.remove(path);
        Ok((dir, name.to_owned()))
    }

    fn directory(&mut self, path: &RelPath, entry: &Entry) -> Result<(), Failure> {
        if let Some((parent, name)) = path.split() {
            let dir = self.directory_of(&parent)?;
            if !is_directory(&dir, name) {
                let (dir, name) = self.room(path)?;
                self.count()?;
                mkdirat(&dir, name.as_os_str(), Mode::S_IRWXU).map_err(|e| self.failed("make the directory", path, e))?;
            }
        }
        self.implied.remove(path);
        let made = beneath::open_dir(&self.root, path).map_err(|e| self.behind_link(path, e))?;
        self.attributes(&made, path, entry)?;
        self.remember(path)?;
        self.times.push((path.clone(), entry.mtime));
        Ok(())
    }

    fn file(&mut self, path: &RelPath, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), Failure> {
        if entry.size > self.limits.bytes - self.totals.bytes {
            return Err(fault(Reason::NoSpace, format!("the image unpacks to more than {} bytes (at entry {path})", self.limits.bytes)));
        }
        let (dir, name) = self.room(path)?;
        self.count()?;
        // O_EXCL follows no link and opens nothing that is already there.
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made =
            openat(&dir, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| self.failed("make the file", path, e))?;
        let mut file = File::from(made);
        loop {
            let got = archive.read(&mut self.buffer)?;
            if got == 0 {
                break;
            }
            file.write_all(&self.buffer[..got]).map_err(|e| self.failed("write", path, e))?;
        }
        self.totals.bytes += entry.size;
        let file = OwnedFd::from(file);
        self.attributes(&file, path, entry)?;
        futimens(&file, &TimeSpec::UTIME_OMIT, &timespec(entry.mtime)).map_err(|e| self.failed("set the time of", path, e))
    }

    /// Owner, extended attributes, mode: in this order, because chown(2) clears setuid bits and file capabilities.
    fn attributes(&mut self, made: &OwnedFd, path: &RelPath, entry: &Entry) -> Result<(), Failure> {
        let (uid, gid) = owner(entry);
        fchown(made, Some(uid), Some(gid)).map_err(|e| self.failed("set the owner of", path, e))?;
        for (name, value) in &entry.xattrs {
            self.attribute(made, path, name, value)?;
        }
        // By descriptor: a chmod by name would follow a link that took the name's place (CVE-2026-33056).
        fchmod(made, Mode::from_bits_truncate(entry.mode)).map_err(|e| self.failed("set the mode of", path, e))
    }

    fn attribute(&mut self, made: &OwnedFd, path: &RelPath, name: &[u8], value: &[u8]) -> Result<(), Failure> {
        let capability = name == b"security.capability";
        // trusted.* and user.overlay.* would steer overlay; other security.* belong to a policy of the machine that built the image.
        if !capability && (!name.starts_with(b"user.") || name.starts_with(b"user.overlay.")) {
            self.totals.attributes += 1;
            return Ok(());
        }
        self.attributes += name.len() + value.len();
        if self.attributes > MAX_ATTRIBUTES {
            return Err(hostile(path.bytes(), &format!("makes more than {MAX_ATTRIBUTES} bytes of extended attributes")));
        }
        let name = CString::new(name).map_err(|_| hostile(path.bytes(), "has an attribute with a zero byte in its name"))?;
        let answer = crate::sys::xattr::set(made, &name, value);
        match answer.as_ref().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default())) {
            Ok(()) => Ok(()),
            Err(Errno::ENOTSUP) if capability => {
                Err(fault(Reason::NoFeature, format!("entry {path} has file capabilities, which this file system cannot keep")))
            }
            Err(Errno::ENOTSUP | Errno::EPERM) if !capability => {
                self.totals.attributes += 1;
                Ok(())
            }
            Err(Errno::EINVAL | Errno::ERANGE | Errno::E2BIG) => Err(hostile(path.bytes(), "has a damaged extended attribute")),
            Err(e) => Err(self.failed("set an extended attribute of", path, e)),
        }
    }

    fn symlink(&mut self, path: &RelPath, entry: &Entry) -> Result<(), Failure> {
        let (parent, _) = path.split().expect("the root was sorted out before");
        if entry.link.is_empty() || entry.link.len() >= crate::image::MAX_NAME || entry.link.contains(&0) {
            return Err(hostile(path.bytes(), "is a symbolic link to no possible name"));
        }
        if climbs_out(&parent, &entry.link) {
            return Err(hostile(path.bytes(), &format!("is a symbolic link out of the image: {}", printable(&entry.link))));
        }
        let (dir, name) = self.room(path)?;
        self.count()?;
        symlinkat(OsStr::from_bytes(&entry.link), &dir, name.as_os_str()).map_err(|e| self.failed("make the link", path, e))?;
        self.unopened(path, (dir, name), entry)
    }

    fn fifo(&mut self, path: &RelPath, entry: &Entry) -> Result<(), Failure> {
        let (dir, name) = self.room(path)?;
        self.count()?;
        mkfifoat(&dir, name.as_os_str(), Mode::S_IRUSR).map_err(|e| self.failed("make the pipe", path, e))?;
        self.unopened(path, (dir.try_clone().map_err(|e| self.failed("open", path, e))?, name.clone()), entry)?;
        // The name was made just now by this process, the only one here: it is no link.
        let mode = Mode::from_bits_truncate(entry.mode);
        fchmodat(&dir, name.as_os_str(), mode, FchmodatFlags::FollowSymlink).map_err(|e| self.failed("set the mode of", path, e))
    }

    /// Owner and time of what is not opened.
    fn unopened(&mut self, path: &RelPath, (dir, name): Parent, entry: &Entry) -> Result<(), Failure> {
        let (uid, gid) = owner(entry);
        self.totals.attributes += entry.xattrs.len() as u64;
        fchownat(&dir, name.as_os_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed("set the owner of", path, e))?;
        utimensat(&dir, name.as_os_str(), &TimeSpec::UTIME_OMIT, &timespec(entry.mtime), UtimensatFlags::NoFollowSymlink)
            .map_err(|e| self.failed("set the time of", path, e))
    }

    fn hardlink(&mut self, path: &RelPath, entry: &Entry) -> Result<(), Failure> {
        let wrong = |why: &str| hostile(path.bytes(), &format!("is a link to {}, which {why}", printable(&entry.link)));
        let target = RelPath::parse(&entry.link).map_err(&wrong)?;
        let Some((parent, old_name)) = target.split() else { return Err(wrong("is the root directory")) };
        if target == *path {
            return Err(wrong("is itself"));
        }
        let (dir, name) = self.room(path)?;
        let old = beneath::open(&self.root, &parent, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|e| match e.raw_os_error() {
            Some(nix::libc::ELOOP) => wrong("is reached through a symbolic link"),
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => wrong("is not in this layer"),
            _ => self.failed("open", &parent, e),
        })?;
        self.count()?;
        // No AT_SYMLINK_FOLLOW: a link to a symbolic link is a second name of the link itself.
        linkat(&old, old_name, &dir, name.as_os_str(), AtFlags::empty()).map_err(|e| match e {
            Errno::ENOENT => wrong("is not in this layer"),
            Errno::EPERM => wrong("is a directory"),
            e => self.failed("make the link", path, e),
        })
    }

    fn set_times(&mut self) -> Result<(), Failure> {
        for (path, time) in &self.times {
            // A later entry may have taken the directory's place.
            let Ok(dir) = beneath::open_dir(&self.root, path) else { continue };
            futimens(&dir, &TimeSpec::UTIME_OMIT, &timespec(*time)).map_err(|e| self.failed("set the time of", path, e))?;
        }
        Ok(())
    }

    fn marks(&mut self) -> Result<Vec<Mark>, Failure> {
        if !self.limits.whiteouts {
            return Ok(Vec::new());
        }
        if self.implied.len() + self.whiteouts.len() > MAX_MARKS {
            return Err(fault(
                Reason::HostileArchive,
                format!("the layer has more than {MAX_MARKS} directories without an entry of their own"),
            ));
        }
        let implied = std::mem::take(&mut self.implied).into_iter().map(Mark::Implied);
        Ok(implied.chain(self.whiteouts.drain(..)).collect())
    }
}

fn hostile(name: &[u8], why: &str) -> Failure {
    fault(Reason::HostileArchive, sentence(name, why))
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

#[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions, reason = "seconds have 32 bits on some machines")]
fn timespec((seconds, nanos): (i64, i64)) -> TimeSpec {
    let edge = if seconds < 0 { i32::MIN } else { i32::MAX };
    TimeSpec::new(seconds.try_into().unwrap_or(edge.into()), nanos as _)
}

fn is_directory(dir: &OwnedFd, name: &OsStr) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty()).is_ok()
}
