//! Becoming a role without a new process: for a child that was cloned into namespaces and has waited for its id map.

use super::fd::FIRST;
use super::process::Spawn;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Replaces this process by the role (`flags` of `what` do not count); comes back only with an error.
///
/// An exec inside a user namespace keeps capabilities only when user 0 is mapped by then (capabilities(7)): clone, let the
/// parent write the maps, then exec.
pub fn exec(what: &Spawn<'_>) -> io::Error {
    match place(what) {
        Ok(exe) => {
            use std::os::fd::AsFd;
            super::exe::exec(exe.as_fd(), what.argv, what.env)
        }
        Err(e) => e,
    }
}

/// Puts the descriptors where the role looks for them, and the program out of their way.
fn place(what: &Spawn<'_>) -> io::Result<OwnedFd> {
    super::signal::reset()?;
    let lowest = FIRST + what.fds.len() as RawFd + 1;
    let above = |fd| -> io::Result<OwnedFd> {
        let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
        // SAFETY: fcntl has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    let moved = what.fds.iter().map(|fd| above(*fd)).collect::<io::Result<Vec<_>>>()?;
    let exe = above(what.exe)?;
    super::fd::cloexec_from(FIRST)?;
    for (target, fd) in (FIRST..).zip(&moved) {
        // SAFETY: the target is one of the numbers that the role takes over; the program is about to be replaced, so no object of ours uses it again.
        super::cvt(unsafe { libc::dup3(fd.as_raw_fd(), target, 0) }.into())?;
    }
    Ok(exe)
}
