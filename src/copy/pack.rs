//! A file or a tree into a tar stream, walked by descriptors: no link is followed, whatever is exchanged meanwhile.

use super::rules::source;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Deepest directory.
pub const MAX_DEPTH: usize = 128;
/// Most files with several names whose names are told; the content of further ones is copied for each name.
const MAX_LINKS: usize = 65_536;
/// Most bytes of a file that says it is empty, as those of procfs do.
const MAX_SIZELESS: u64 = 1 << 20;

const NOTHING: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC).union(OFlag::O_NOCTTY);
const READ: OFlag = OFlag::O_NONBLOCK.union(NOTHING);

/// Packs what is at `path`; its entries begin with its name, or with `.` if what is in it is meant. What is neither file, directory nor link is left
/// out with a remark.
///
/// # Errors
/// The sentence. A reader that went away is none of ours: it knows why.
pub fn pack(path: &str, mut out: impl Write, remark: &mut dyn FnMut(String)) -> Result<(), String> {
    let (place, name, merge, follow) = source(path);
    let name = if merge { "." } else { name };
    let mut walk = Walk { out: Builder::new(BufWriter::new(&mut out as &mut dyn Write)), links: HashMap::new(), remark, written: 0 };
    let packed = walk.top(place, Path::new(name), follow).and_then(|()| walk.out.into_inner().and_then(|mut out| out.flush()));
    match packed {
        Err(e) if e.raw_os_error() == Some(libc::EPIPE) => Ok(()),
        other => other.map_err(|e| format!("cannot read {path}: {}", crate::exit::reason(&e))),
    }
}

struct Walk<'a> {
    out: Builder<BufWriter<&'a mut dyn Write>>,
    links: HashMap<(u64, u64), PathBuf>,
    remark: &'a mut dyn FnMut(String),
    written: u64,
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn other(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Walk<'_> {
    fn top(&mut self, path: &str, name: &Path, follow: bool) -> io::Result<()> {
        let (parent, last) = match path.rsplit_once('/') {
            _ if follow => (path, "."),
            Some(("", last)) => ("/", last),
            Some((parent, last)) => (parent, last),
            None => (".", path),
        };
        let dir = nix::fcntl::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        self.one(dir.as_fd(), OsStr::new(last), name, 0)?;
        if self.written == 0 { Err(other("it is neither a file, a directory nor a link")) } else { Ok(()) }
    }

    fn one(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path, depth: usize) -> io::Result<()> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match kind(&stat) {
            SFlag::S_IFDIR => self.dir(openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | NOTHING, Mode::empty())?, path, depth),
            SFlag::S_IFREG => self.file(openat(dir, name, OFlag::O_RDONLY | READ, Mode::empty())?, path),
            SFlag::S_IFLNK => {
                let target = readlinkat(dir, name)?;
                let mut header = header(&stat, EntryType::Symlink, 0);
                self.written += 1;
                self.out.append_link(&mut header, path, &target)
            }
            _ => {
                (self.remark)(format!("left out {}: neither a file, a directory nor a link", path.display()));
                Ok(())
            }
        }
    }

    fn file(&mut self, file: OwnedFd, path: &Path) -> io::Result<()> {
        let (stat, mut file) = (fstat(&file)?, File::from(file));
        if kind(&stat) != SFlag::S_IFREG {
            return Err(other(format!("{} was exchanged meanwhile", path.display())));
        }
        self.written += 1;
        let id = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&id) {
            return self.out.append_link(&mut header(&stat, EntryType::Link, 0), path, first);
        }
        if stat.st_nlink > 1 && self.links.len() < MAX_LINKS {
            self.links.insert(id, path.to_owned());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 {
            let mut content = Vec::new();
            file.take(MAX_SIZELESS).read_to_end(&mut content)?;
            return self.append(header(&stat, EntryType::Regular, content.len() as u64), path, &mut &content[..]);
        }
        // As many bytes as were announced, also of a file that grows or shrinks.
        let mut content = (&mut file).take(size).chain(io::repeat(0)).take(size);
        self.append(header(&stat, EntryType::Regular, size), path, &mut content)
    }

    fn dir(&mut self, dir: OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(other(format!("{} lies deeper than {MAX_DEPTH} directories", path.display())));
        }
        self.written += 1;
        self.append(header(&fstat(&dir)?, EntryType::Directory, 0), path, &mut io::empty())?;
        let kernels = [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC];
        if depth > 0 && kernels.contains(&fstatfs(&dir)?.filesystem_type()) && self.is_mount(&dir)? {
            (self.remark)(format!("left out what is in {}: the kernel's own files", path.display()));
            return Ok(());
        }
        let mut entries = Dir::from_fd(dir.try_clone()?)?;
        for entry in entries.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match self.one(dir.as_fd(), name, &path.join(name), depth + 1) {
                Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => {
                    (self.remark)(format!("{} vanished", path.join(name).display()))
                }
                Err(e) if e.raw_os_error().is_some_and(|n| n != libc::EPIPE) => {
                    return Err(other(format!("{}: {}", path.join(name).display(), crate::exit::reason(&e))));
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn append(&mut self, mut header: Header, path: &Path, content: &mut dyn Read) -> io::Result<()> {
        self.out.append_data(&mut header, path, content)
    }

    fn is_mount(&self, dir: &OwnedFd) -> io::Result<bool> {
        Ok(fstatat(dir, "..", AtFlags::AT_SYMLINK_NOFOLLOW)?.st_dev != fstat(dir)?.st_dev)
    }
}

fn header(stat: &FileStat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}
