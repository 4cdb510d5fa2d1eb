//! The new root, and nothing of the old.

use super::fail::OrFail;
use crate::ipc::Failure;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use std::os::fd::BorrowedFd;

/// Makes the mount at `root` the root of this mount namespace. `pivot_root(".", ".")` stacks the old root over the new one without needing a
/// directory for it; detaching "." then takes away the old one with every mount of the host (pivot_root(2), NOTES).
pub fn into(root: BorrowedFd<'_>) -> Result<(), Failure> {
    fchdir(root).or_fail(|| "enter the new root")?;
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).or_fail(|| "detach the old root")?,
        // The old root is the initial ramfs, which can be neither moved nor detached.
        Err(Errno::EINVAL) => cover()?,
        Err(e) => return Err(e).or_fail(|| "pivot to the new root"),
    }
    chdir("/").or_fail(|| "enter the new root")
}

/// Moves the new root over `/`. Also who climbs out of the chroot with `..` meets the mount on top, which is the new root again.
fn cover() -> Result<(), Failure> {
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).or_fail(|| "move the new root over /")?;
    chroot(".").or_fail(|| "change to the new root")
}
