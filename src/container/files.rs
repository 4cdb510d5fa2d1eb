//! Files that a manifest puts into its container: each is mounted, read-only, over a file at its place.
//!
//! Mounted and not laid into the image's layers: a layer would replace links and the owners of directories on the way, and what the manifest
//! mounts there would hide it. Where the image has no such file, an empty one is made for the mount in the container's own memory, which
//! a read-only root has too until pid 1 shuts it.

use super::fail::OrFail;
use super::mounts::{HIDDEN, Tree, place};
use super::payload::{Payload, person};
use super::resolve::{Kind, open_in};
use crate::ipc::Failure;
use crate::manifest::Placed;
use crate::protocol::Reason;
use crate::sys::mount::RDONLY;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::dev_t;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What launch has made of a container's files, in the manifest's order: what is to be mounted, and the file by a way on which it can
/// still be given to somebody.
#[derive(Debug, Default)]
pub struct Files(pub Vec<(Tree, File)>);

impl Files {
    /// Mounts each in `root`. `made`: the file systems that belong to the container alone.
    pub fn attach(&self, root: BorrowedFd<'_>, dev: BorrowedFd<'_>, wanted: &[Placed], made: &[dev_t]) -> Result<(), Failure> {
        for ((tree, _), Placed { path, .. }) in self.0.iter().zip(wanted) {
            if !exists(root, path).or_fail(|| format!("look for {path}"))?
                && !may_make(root, path, made).or_fail(|| format!("make {path}"))?
            {
                return Err(refuse(path, "what is mounted there is the device's own, and has no such file"));
            }
            let place = place(root, dev, path, Kind::File).map_err(|f| dangling(f, path))?;
            let mode = fstat(&place).or_fail(|| format!("look at {path}"))?.st_mode;
            if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFREG {
                return Err(refuse(path, "there is something else than a plain file in the image"));
            }
            tree.attach(place.as_fd(), HIDDEN | RDONLY).or_fail(|| format!("mount {path}"))?;
        }
        Ok(())
    }

    /// Gives each to its owner, by the container's own user database.
    pub fn give(self, wanted: &[Placed], payload: &Payload) -> Result<(), Failure> {
        for ((_, file), Placed { path, user, .. }) in self.0.iter().zip(wanted) {
            let (uid, gid) = match user {
                Some(user) => person(user).map(|p| (p.uid, p.gid))?,
                None => payload.owner(),
            };
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).or_fail(|| format!("give {path} to its user"))?;
        }
        Ok(())
    }
}

/// Another try would end the same.
fn refuse(path: &str, why: &str) -> Failure {
    Failure { reason: Reason::BadValue, message: format!("cannot put file {path} into the container: {why}") }
}

fn dangling(f: Failure, path: &str) -> Failure {
    let nowhere = f.message.ends_with(Errno::EEXIST.desc());
    if nowhere { refuse(path, "a symbolic link on the way there leads to nothing") } else { f }
}

fn found(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<dev_t>> {
    match open_in(root, if path.is_empty() { "." } else { path }, OFlag::O_PATH) {
        Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
        other => Ok(Some(fstat(other?)?.st_dev)),
    }
}

fn exists(root: BorrowedFd<'_>, path: &str) -> io::Result<bool> {
    Ok(found(root, path)?.is_some())
}

/// What is missing may be made where only the container sees it: never in a directory of the device that is bound into it.
fn may_make(root: BorrowedFd<'_>, path: &str, made: &[dev_t]) -> io::Result<bool> {
    let mut rest = path;
    while let Some((parent, _)) = rest.rsplit_once('/') {
        if let Some(system) = found(root, parent)? {
            return Ok(made.contains(&system));
        }
        rest = parent;
    }
    Ok(false)
}
