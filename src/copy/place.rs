//! A tar stream into a tree. Whoever sent it may mean harm: nothing is made but below the one place that the caller chose, no link is followed,
//! and a file that was there is replaced whole or not at all.

use super::pack::MAX_DEPTH;
use super::rules::{Found, Put, decide};
use crate::exit::reason;
use crate::unpack::archive::{Archive, Entry, Kind, Skip};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Most entries of one stream.
const MAX_ENTRIES: usize = 1_000_000;
/// Most bytes of content in one stream.
pub const MAX_BYTES: u64 = 64 << 30;

/// What is taken over of an entry beside its content.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Owner and group by number; otherwise what is made belongs to who makes it.
    pub owners: bool,
    /// Which of the mode's bits.
    pub bits: u32,
}

/// Bytes that come once.
struct Stream<R>(R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl<R: Read> Skip for Stream<R> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.0).take(n), &mut io::sink())?;
        if skipped == n { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Places a stream whose entries all lie in its first one, by the rules of a copy. `name`: that of the source, if it is not the stream's to say;
/// `merge`: what is in the source is meant.
///
/// # Errors
/// The sentence.
pub fn tree(input: impl Read, dest: &str, name: Option<&str>, merge: bool, policy: Policy) -> Result<(), String> {
    let mut archive = Archive::new(Stream(input));
    let first = archive.next_entry().map_err(|f| f.message)?.ok_or("nothing was sent")?;
    let top = first.name.strip_suffix(b"/").unwrap_or(&first.name).to_vec();
    let found = match std::fs::metadata(dest) {
        Ok(m) if m.is_dir() => Found::Dir,
        Ok(_) => Found::File,
        Err(_) => Found::Nothing,
    };
    let refuse = |why: &str| format!("cannot copy to {dest}: {why}");
    let put = decide(first.kind == Kind::Directory, merge, found, dest.ends_with('/')).map_err(refuse)?;
    let own = name.map_or(&top[..], str::as_bytes);
    let (parent, name) = match put {
        Put::Merge => (dest, None),
        Put::Inside => (dest, Some(OsStr::from_bytes(own))),
        Put::As => split(dest),
    };
    if name.is_some_and(|n| matches!(n.as_bytes(), b"" | b"." | b"..") || n.as_bytes().contains(&b'/')) {
        return Err(refuse("the copy would have no name there"));
    }
    let base = directory(parent).map_err(|e| refuse(&e))?;
    let mut placer = Placer { base, policy, left: MAX_BYTES, count: 0, dirs: Vec::new() };
    let mut entry = Some(first);
    while let Some(e) = entry {
        let parts = inner(&e.name, &top, name).ok_or_else(|| hostile(&e, "it is not in what was asked for"))?;
        let link = if e.kind == Kind::Hardlink {
            Some(inner(&e.link, &top, name).ok_or_else(|| hostile(&e, "it links to something else"))?)
        } else {
            None
        };
        placer.put(&mut archive, &e, &parts, link.as_deref())?;
        entry = archive.next_entry().map_err(|f| f.message)?;
    }
    placer.finish()
}

/// Places every entry of a stream below the directory `dest`.
///
/// # Errors
/// The sentence.
pub fn all(input: impl Read, dest: &str, policy: Policy) -> Result<(), String> {
    let base = directory(dest).map_err(|e| format!("cannot copy to {dest}: {e}"))?;
    let mut archive = Archive::new(Stream(input));
    let mut placer = Placer { base, policy, left: MAX_BYTES, count: 0, dirs: Vec::new() };
    while let Some(e) = archive.next_entry().map_err(|f| f.message)? {
        let parts = plain(&e.name).ok_or_else(|| hostile(&e, "its name leads elsewhere"))?;
        let link = if e.kind == Kind::Hardlink { Some(plain(&e.link).ok_or_else(|| hostile(&e, "it links elsewhere"))?) } else { None };
        placer.put(&mut archive, &e, &parts, link.as_deref())?;
    }
    placer.finish()
}

fn directory(path: &str) -> Result<OwnedFd, String> {
    let opened = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    opened.map_err(|e| format!("{path}: {}", e.desc()))
}

fn split(dest: &str) -> (&str, Option<&OsStr>) {
    match dest.trim_end_matches('/').rsplit_once('/') {
        Some((parent, name)) => (if parent.is_empty() { "/" } else { parent }, Some(OsStr::new(name))),
        None => (".", Some(OsStr::new(dest.trim_end_matches('/')))),
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(256).collect()
}

fn hostile(e: &Entry, why: &str) -> String {
    format!("entry {} is refused: {why}", shown(&e.name))
}

/// The parts of a path that stays below where it begins.
fn plain(path: &[u8]) -> Option<Vec<&OsStr>> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
    let good = !path.starts_with(b"/") && parts.iter().all(|p| *p != b".." && !p.contains(&0)) && parts.len() <= MAX_DEPTH;
    good.then(|| parts.into_iter().map(OsStr::from_bytes).collect())
}

/// The parts of an entry's path with its first one, `top`, replaced by the name that it gets; `None` if it is not `top` or below.
fn inner<'a>(path: &'a [u8], top: &[u8], name: Option<&'a OsStr>) -> Option<Vec<&'a OsStr>> {
    let rest = match top {
        // Without a name of its own; writers leave `./` out or put it in.
        b"." => path,
        _ => path.strip_prefix(top).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))?.strip_prefix(b"/").unwrap_or_default(),
    };
    let mut parts = plain(rest)?;
    parts.splice(0..0, name);
    Some(parts)
}

struct Made {
    parts: Vec<OsString>,
    mode: u32,
    mtime: (i64, i64),
}

struct Placer {
    base: OwnedFd,
    policy: Policy,
    left: u64,
    count: usize,
    /// Modes of directories are set at the end: one that cannot be written must be filled first.
    dirs: Vec<Made>,
}

impl Placer {
    fn put(&mut self, archive: &mut Archive<'_>, e: &Entry, parts: &[&OsStr], link: Option<&[&OsStr]>) -> Result<(), String> {
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(format!("more than {MAX_ENTRIES} entries were sent"));
        }
        self.left = self.left.checked_sub(e.size).ok_or_else(|| format!("more than {} GiB were sent", MAX_BYTES >> 30))?;
        let Some((name, above)) = parts.split_last() else {
            return if e.kind == Kind::Directory { Ok(()) } else { Err(hostile(e, "it has no name")) };
        };
        let made = self.descend(above).and_then(|dir| match e.kind {
            Kind::Directory => self.dir(dir, parts, name, e),
            Kind::File => self.file(archive, dir.as_fd(), name, e),
            Kind::Symlink => self.symlink(dir.as_fd(), name, e),
            Kind::Hardlink => self.hardlink(dir.as_fd(), name, link.unwrap_or_default()),
            Kind::Fifo | Kind::Device => Err(io::Error::other("only files, directories and links are copied")),
        });
        made.map_err(|error| format!("cannot make {}: {}", shown(&e.name), reason(&error)))
    }

    /// Step by step, each a directory and no link; what is missing is made.
    fn descend(&self, parts: &[&OsStr]) -> io::Result<OwnedFd> {
        let mut here = self.base.try_clone()?;
        for part in parts {
            here = match step(&here, part) {
                Err(Errno::ENOENT) => {
                    mkdirat(&here, *part, Mode::from_bits_truncate(0o755))?;
                    step(&here, part)?
                }
                other => other?,
            };
        }
        Ok(here)
    }

    fn dir(&mut self, dir: OwnedFd, parts: &[&OsStr], name: &OsStr, e: &Entry) -> io::Result<()> {
        match mkdirat(&dir, name, Mode::from_bits_truncate(0o700)) {
            // One that was there stays as it is.
            Err(Errno::EEXIST) => return Ok(step(&dir, name).map(drop)?),
            made => made?,
        }
        if self.policy.owners {
            fchownat(&dir, name, Some(Uid::from_raw(e.uid)), Some(Gid::from_raw(e.gid)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        let parts = parts.iter().map(|p| (*p).to_owned()).collect();
        self.dirs.push(Made { parts, mode: e.mode & self.policy.bits, mtime: e.mtime });
        Ok(())
    }

    fn file(&self, archive: &mut Archive<'_>, dir: BorrowedFd<'_>, name: &OsStr, e: &Entry) -> io::Result<()> {
        self.replace(dir, name, |temporary| {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(dir, temporary, flags, Mode::from_bits_truncate(0o600))?);
            let mut chunk = [0; 16 * 1024];
            loop {
                match archive.read(&mut chunk).map_err(|f| io::Error::other(f.message))? {
                    0 => break,
                    n => file.write_all(&chunk[..n])?,
                }
            }
            if self.policy.owners {
                fchown(&file, Some(Uid::from_raw(e.uid)), Some(Gid::from_raw(e.gid)))?;
            }
            fchmod(&file, Mode::from_bits_truncate(e.mode & self.policy.bits))?;
            let time = TimeSpec::new(e.mtime.0 as _, e.mtime.1 as _);
            Ok(nix::sys::stat::futimens(&file, &time, &time)?)
        })
    }

    fn symlink(&self, dir: BorrowedFd<'_>, name: &OsStr, e: &Entry) -> io::Result<()> {
        self.replace(dir, name, |temporary| {
            symlinkat(OsStr::from_bytes(&e.link), dir, temporary)?;
            if self.policy.owners {
                fchownat(dir, temporary, Some(Uid::from_raw(e.uid)), Some(Gid::from_raw(e.gid)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            }
            Ok(())
        })
    }

    /// Only to a plain file below the same place.
    fn hardlink(&self, dir: BorrowedFd<'_>, name: &OsStr, target: &[&OsStr]) -> io::Result<()> {
        let (last, above) = target.split_last().ok_or_else(|| io::Error::other("the link has no target"))?;
        let from = self.descend(above)?;
        let stat = fstatat(&from, *last, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(io::Error::other("the link's target is no plain file"));
        }
        self.replace(dir, name, |temporary| Ok(linkat(&from, *last, dir, temporary, LinkatFlags::empty())?))
    }

    /// Makes it beside its place, then moves it there: what was there is gone only once all of the new is there.
    fn replace(&self, dir: BorrowedFd<'_>, name: &OsStr, make: impl FnOnce(&str) -> io::Result<()>) -> io::Result<()> {
        let temporary = format!(".wherry-copy-{}-{}", std::process::id(), self.count);
        let made = make(&temporary).and_then(|()| Ok(renameat(dir, temporary.as_str(), dir, name)?));
        // Left over after a failure, and of a name that meant the same file already.
        let _ = unlinkat(dir, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        made
    }

    fn finish(self) -> Result<(), String> {
        for made in self.dirs.iter().rev() {
            let path = made.parts.iter().fold(String::new(), |path, part| format!("{path}/{}", part.display()));
            self.settle(made).map_err(|e| format!("cannot set the mode of {path}: {}", reason(&e)))?;
        }
        Ok(())
    }

    fn settle(&self, made: &Made) -> io::Result<()> {
        let Some((name, above)) = made.parts.split_last() else { return Ok(()) };
        let above: Vec<&OsStr> = above.iter().map(OsString::as_os_str).collect();
        let parent = self.descend(&above)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        fchmod(openat(&parent, name.as_os_str(), flags, Mode::empty())?, Mode::from_bits_truncate(made.mode))?;
        let time = TimeSpec::new(made.mtime.0 as _, made.mtime.1 as _);
        Ok(utimensat(&parent, name.as_os_str(), &time, &time, UtimensatFlags::NoFollowSymlink)?)
    }
}

fn step(dir: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    openat(dir, name, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::pack;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;
    use tar::{Builder, EntryType, Header};

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wherry-place-{}-{name}", std::process::id()));
            fs::create_dir_all(path.join("here")).unwrap();
            fs::write(path.join("outside"), "untouched").unwrap();
            Self(path)
        }

        fn path(&self, rest: &str) -> String {
            self.0.join(rest).to_str().unwrap().to_owned()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Name, type, link or content, mode. Names as written: the tar crate's own checks are gone round.
    fn archive(entries: &[(&str, EntryType, &str, u32)]) -> Vec<u8> {
        let mut out = Builder::new(Vec::new());
        for (name, kind, text, mode) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let content = if kind.is_file() { text.as_bytes() } else { b"" };
            if !kind.is_file() {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            header.set_uid(4321);
            header.set_gid(8765);
            header.set_mtime(1_000_000_000);
            header.set_cksum();
            out.append(&header, content).unwrap();
        }
        out.into_inner().unwrap()
    }

    const OUT: Policy = Policy { owners: false, bits: 0o1777 };

    #[test]
    fn a_hostile_stream_makes_nothing_outside_its_place() {
        use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
        let top = ("d", Directory, "", 0o755);
        for (what, entries) in [
            ("a parent", vec![top, ("d/../outside", Regular, "x", 0o644)]),
            ("many parents", vec![top, ("d/../../../../../../tmp/x", Regular, "x", 0o644)]),
            ("an absolute name", vec![top, ("/etc/wherry-x", Regular, "x", 0o644)]),
            ("another tree", vec![top, ("e/x", Regular, "x", 0o644)]),
            ("a name that begins alike", vec![top, ("dd", Regular, "x", 0o644)]),
            ("through a link to a directory", vec![top, ("d/l", Symlink, "..", 0o777), ("d/l/outside", Regular, "x", 0o644)]),
            ("through an absolute link", vec![top, ("d/l", Symlink, "/", 0o777), ("d/l/x", Directory, "", 0o755)]),
            ("a directory over a link", vec![top, ("d/l", Symlink, "..", 0o777), ("d/l", Directory, "", 0o755)]),
            ("a hard link to elsewhere", vec![top, ("d/h", Link, "../outside", 0o644)]),
            ("a hard link to an absolute name", vec![top, ("d/h", Link, "/etc/passwd", 0o644)]),
            ("a hard link through a link", vec![top, ("d/l", Symlink, "..", 0o777), ("d/h", Link, "d/l/outside", 0o644)]),
            ("a hard link to a link", vec![top, ("d/l", Symlink, "../outside", 0o777), ("d/h", Link, "d/l", 0o644)]),
            ("a block device", vec![top, ("d/b", Block, "", 0o644)]),
            ("a character device", vec![top, ("d/c", Char, "", 0o644)]),
            ("a pipe", vec![top, ("d/p", Fifo, "", 0o644)]),
            ("a file below a file", vec![("f", Regular, "x", 0o644), ("f/x", Regular, "x", 0o644)]),
            ("nothing", vec![]),
        ] {
            let dir = Dir::new("hostile");
            let result = tree(&archive(&entries)[..], &dir.path("here"), Some("d"), false, OUT);
            assert!(result.is_err(), "{what}");
            let found: Vec<_> = fs::read_dir(&dir.0).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(found.len(), 2, "{what}: {found:?}");
            assert_eq!(fs::read_to_string(dir.0.join("outside")).unwrap(), "untouched", "{what}");
            assert_eq!(fs::metadata(dir.0.join("outside")).unwrap().nlink(), 1, "{what}");
        }
        assert!(!std::path::Path::new("/etc/wherry-x").exists() && !std::path::Path::new("/tmp/x").exists());
    }

    #[test]
    fn the_senders_name_for_the_tree_does_not_count() {
        let dir = Dir::new("name");
        let sent = archive(&[(".ssh", EntryType::Directory, "", 0o755), (".ssh/authorized_keys", EntryType::Regular, "x", 0o644)]);
        tree(&sent[..], &dir.path("here"), Some("asked"), false, OUT).unwrap();
        assert!(dir.0.join("here/asked/authorized_keys").exists() && !dir.0.join("here/.ssh").exists());
    }

    #[test]
    fn set_id_bits_do_not_come_out() {
        let dir = Dir::new("setid");
        let sent = archive(&[("d", EntryType::Directory, "", 0o6755), ("d/su", EntryType::Regular, "x", 0o6755)]);
        tree(&sent[..], &dir.path("here"), Some("d"), false, OUT).unwrap();
        for name in ["here/d", "here/d/su"] {
            let stat = fs::metadata(dir.0.join(name)).unwrap();
            assert_eq!((stat.mode() & 0o7777, stat.uid()), (0o755, nix::unistd::geteuid().as_raw()), "{name}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_replaced_whole_or_not_at_all() {
        let dir = Dir::new("whole");
        fs::write(dir.0.join("here/f"), "old").unwrap();
        symlink("../outside", dir.0.join("here/link")).unwrap();
        let sent = archive(&[("f", EntryType::Regular, &"new".repeat(1000), 0o640)]);
        let cut = &sent[..1024];
        assert!(tree(cut, &dir.path("here/f"), Some("f"), false, OUT).unwrap_err().contains("cut short"));
        assert_eq!(fs::read_to_string(dir.0.join("here/f")).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.0.join("here")).unwrap().count(), 2, "nothing is left of the attempt");
        tree(&sent[..], &dir.path("here/f"), Some("f"), false, OUT).unwrap();
        assert_eq!(fs::metadata(dir.0.join("here/f")).unwrap().mode() & 0o7777, 0o640);
        // The link itself is replaced, not what it leads to.
        tree(&sent[..], &dir.path("here/link"), Some("f"), false, OUT).unwrap();
        assert_eq!(fs::read_to_string(dir.0.join("outside")).unwrap(), "untouched");
    }

    #[test]
    fn what_is_packed_comes_out_the_same() {
        let dir = Dir::new("same");
        let from = dir.0.join("from");
        let long = "n".repeat(200);
        fs::create_dir_all(from.join("sub").join(&long)).unwrap();
        fs::write(from.join("a"), "content").unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o604)).unwrap();
        fs::hard_link(from.join("a"), from.join("sub/b")).unwrap();
        symlink("a", from.join("l")).unwrap();
        symlink(format!("/{long}/{long}"), from.join("sub").join(&long).join("far")).unwrap();
        fs::write(from.join("empty"), "").unwrap();
        nix::unistd::mkfifo(&from.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o500)).unwrap();
        let (mut sent, mut remarks) = (Vec::new(), Vec::new());
        pack::pack(&dir.path("from"), &mut sent, &mut |r| remarks.push(r)).unwrap();
        assert!(remarks.len() == 1 && remarks[0].contains("from/pipe"), "{remarks:?}");
        tree(&sent[..], &dir.path("here"), None, false, OUT).unwrap();
        let here = dir.0.join("here/from");
        assert_eq!(fs::read_to_string(here.join("a")).unwrap(), "content");
        assert_eq!(fs::metadata(here.join("a")).unwrap().mode() & 0o7777, 0o604);
        assert_eq!(fs::metadata(here.join("a")).unwrap().ino(), fs::metadata(here.join("sub/b")).unwrap().ino());
        assert_eq!(fs::metadata(here.join("a")).unwrap().mtime(), fs::metadata(from.join("a")).unwrap().mtime());
        assert_eq!(fs::read_link(here.join("l")).unwrap().to_str(), Some("a"));
        assert_eq!(fs::read_link(here.join("sub").join(&long).join("far")).unwrap().to_str().unwrap().len(), 402);
        assert_eq!((fs::metadata(here.join("sub")).unwrap().mode() & 0o7777, fs::metadata(here.join("empty")).unwrap().len()), (0o500, 0));
    }
}
