//! Finish: what unpack may not do itself. Runs in stage once unpack's pid namespace is dead, so nothing moves below its feet.
//!
//! Its input is a bounded list of checked relative paths; every path is opened without following a symbolic link.

use crate::image::fault::{fault, writing};
use crate::image::{RelPath, beneath};
use crate::ipc::Failure;
use crate::protocol::Reason;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, makedev, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::OwnedFd;

const OPAQUE: &CStr = c"trusted.overlay.opaque";
/// Most marks of one layer.
pub const MAX_MARKS: usize = 65_536;

/// Something that a layer says about the layers below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// This name of a lower layer is gone (`.wh.NAME`, image-spec 1.1, layer.md).
    Whiteout(RelPath),
    /// Nothing of this directory in lower layers shows through (`.wh..wh..opq`).
    Opaque(RelPath),
    /// This directory has no entry of its own in the archive: it looks as in the layer below.
    Implied(RelPath),
}

impl Mark {
    /// What it is about.
    pub fn path(&self) -> &RelPath {
        let (Self::Whiteout(path) | Self::Opaque(path) | Self::Implied(path)) = self;
        path
    }
}

/// Applies the marks to the layer below `root`. `lower` are the layers below it, topmost first.
pub fn apply(root: &OwnedFd, marks: &[Mark], lower: &[OwnedFd]) -> Result<(), Failure> {
    let bare: BTreeSet<&RelPath> = marks.iter().filter(|m| matches!(m, Mark::Opaque(_))).map(Mark::path).collect();
    // Overlay hides whiteouts only where it merges; below an opaque directory they would show as device nodes, and hide nothing.
    let in_bare = |path: &RelPath| path.ancestors().chain([RelPath::default()]).any(|dir| dir != *path && bare.contains(&dir));
    // Outermost directories come first in the list, so that an inner one's parent is already right; times are kept by each step.
    marks.iter().try_for_each(|mark| match mark {
        Mark::Whiteout(path) if in_bare(path) => Ok(()),
        Mark::Implied(path) => inherit(root, path, lower).map_err(|e| writing(root, &format!("cannot set attributes of {path}"), e)),
        Mark::Opaque(path) => opaque(root, path).map_err(|e| refused(root, "an opaque directory", path, e)),
        Mark::Whiteout(path) => whiteout(root, path).map_err(|e| refused(root, "a whiteout", path, e)),
    })
}

fn refused(root: &OwnedFd, what: &str, path: &RelPath, e: io::Error) -> Failure {
    match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT | Errno::EXDEV) => {
            fault(Reason::HostileArchive, format!("entry {path} is {what} in something that is not a directory"))
        }
        _ => writing(root, &format!("cannot make {what} of {path}"), e),
    }
}

/// Overlay shows a character device 0:0 of an upper layer as "not there" (overlayfs.rst, "whiteouts and opaque directories").
fn whiteout(root: &OwnedFd, path: &RelPath) -> io::Result<()> {
    let Some((parent, name)) = path.split() else { return Err(Errno::EINVAL.into()) };
    let dir = beneath::open_dir(root, &parent)?;
    let before = fstat(&dir)?;
    match mknodat(&dir, name, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
        Ok(()) => keep_times(&dir, &before),
        // The layer also adds this name. A file hides the lower one anyway; a directory must not merge with it.
        Err(Errno::EEXIST) if is_dir(&dir, name)? => opaque(root, path),
        Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn is_dir(dir: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    Ok(fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn opaque(root: &OwnedFd, path: &RelPath) -> io::Result<()> {
    crate::sys::xattr::set(beneath::open_dir(root, path)?, OPAQUE, b"y")
}

/// Whether a finished layer hides all layers below it. Overlay does not ask this of a layer's root (it merges roots always), so whoever lists
/// the layers of an image must leave out those below.
pub fn hides_all(layer: &OwnedFd) -> bool {
    crate::sys::xattr::has(layer, OPAQUE)
}

/// Takes owner, mode and time of a directory from the topmost lower layer that has it.
fn inherit(root: &OwnedFd, path: &RelPath, lower: &[OwnedFd]) -> io::Result<()> {
    for layer in lower {
        match beneath::open_dir(layer, path) {
            Ok(dir) => return copy_attributes(&fstat(&dir)?, &beneath::open_dir(root, path)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // A whiteout, or something else that hides what lies deeper.
            Err(_) => break,
        }
    }
    Ok(())
}

fn copy_attributes(from: &FileStat, to: &OwnedFd) -> io::Result<()> {
    fchown(to, Some(Uid::from_raw(from.st_uid)), Some(Gid::from_raw(from.st_gid)))?;
    fchmod(to, Mode::from_bits_truncate(from.st_mode))?;
    keep_times(to, from)
}

fn keep_times(dir: &OwnedFd, as_in: &FileStat) -> io::Result<()> {
    Ok(futimens(dir, &TimeSpec::UTIME_OMIT, &TimeSpec::new(as_in.st_mtime, as_in.st_mtime_nsec))?)
}
