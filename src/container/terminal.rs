//! A terminal of a container's own devpts.

use super::fail::{OrFail, launch};
use super::resolve::open_in;
use crate::ipc::Failure;
use crate::sys::fd::proc_path;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use std::os::fd::{AsFd, OwnedFd};

/// The master of a new terminal. The container's root is walked without following links, and what is found must be the multiplexer of a
/// devpts before it is opened: opening some other file could block us or act on a device.
pub fn open_master(root: OwnedFd) -> Result<OwnedFd, Failure> {
    let what = || "open the container's /dev/pts/ptmx";
    let place = open_in(root, "/dev/pts/ptmx", OFlag::O_PATH | OFlag::O_NOFOLLOW).or_fail(what)?;
    if !is_multiplexer(&place) {
        return Err(launch("cannot make a terminal: the container's /dev/pts/ptmx is not one of devpts"));
    }
    open(proc_path(&place).as_str(), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(what)
}

/// Character device 5:2 of a devpts: before it is opened the way to a new terminal, after that the master of one.
pub fn is_multiplexer(file: impl AsFd) -> bool {
    let node = fstat(&file).map(|found| (major(found.st_rdev), minor(found.st_rdev)));
    let system = fstatfs(&file).map(|found| found.filesystem_type());
    (node, system) == (Ok((5, 2)), Ok(DEVPTS_SUPER_MAGIC))
}
