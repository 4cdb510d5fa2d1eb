//! The device's secrets: one file each in one directory, root's alone.
//!
//! Keeper looks whether a secret can be given before it lets a document replace anything; launch reads it at each start. What is in it goes
//! nowhere but into the container's own tmpfs.

use crate::container::fail;
use crate::ipc::Failure;
use crate::protocol::Reason;
use nix::errno::Errno;
use nix::fcntl::{self, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use std::io;
use std::os::fd::OwnedFd;

/// Most bytes of a secret: a chain of certificates fits.
pub const MAX: usize = 64 * 1024;

/// May it be given to a container?
///
/// # Errors
/// `Io` when it is missing or cannot be opened, `Policy` when it is not what a secret must be: a plain file of root, at most [`MAX`] long,
/// that nobody else can read, in a directory that nobody else can write.
pub fn check(dir: &str, name: &str) -> Result<(), Failure> {
    open(dir, name).map(drop)
}

fn unreadable(dir: &str, name: &str, e: &io::Error) -> Failure {
    match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => fault(Reason::Io, name, &format!("{dir} has no such file")),
        Some(Errno::ELOOP | Errno::EXDEV) => fault(Reason::Policy, name, &format!("{dir}/{name} is a symbolic link or a mount")),
        _ => fault(Reason::Io, name, &format!("{dir}/{name}: {}", fail::os(e))),
    }
}

fn fault(reason: Reason, name: &str, why: &str) -> Failure {
    Failure { reason, message: format!("cannot give secret {name:?}: {why}") }
}

/// Opens it, to be read once.
///
/// # Errors
/// As [`check`].
pub fn open(dir: &str, name: &str) -> Result<OwnedFd, Failure> {
    let (place, file) = opened(dir, name).map_err(|e| unreadable(dir, name, &e))?;
    let stat = |of: &OwnedFd| fstat(of).map_err(|e| unreadable(dir, name, &e.into()));
    match objection(&stat(&place)?, &stat(&file)?) {
        Some((of_dir, why)) => {
            let what = if of_dir { dir.to_owned() } else { format!("{dir}/{name}") };
            Err(fault(Reason::Policy, name, &format!("{what} {why}")))
        }
        None => Ok(file),
    }
}

/// Without waiting for the writer of a FIFO, and by one name below the directory, which is no link and no mount.
fn opened(dir: &str, name: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let place = fcntl::open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let only = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = openat2(&place, name, OpenHow::new().flags(flags).resolve(only))?;
    Ok((place, file))
}

/// Why it is no secret, and whether that is its directory's fault.
fn objection(place: &FileStat, file: &FileStat) -> Option<(bool, &'static str)> {
    const { assert!(MAX == 64 << 10) };
    let others = |stat: &FileStat, bits: u32| stat.st_uid != 0 || stat.st_mode & bits != 0;
    match () {
        () if others(place, 0o022) => Some((true, "must be root's, and nobody else may write in it (chmod 700)")),
        () if file.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() => Some((false, "is not a plain file")),
        () if others(file, 0o077) => Some((false, "must be root's, and nobody else may read it (chmod 600)")),
        () if file.st_size > MAX as i64 => Some((false, "is longer than 64 KiB")),
        () => None,
    }
}
