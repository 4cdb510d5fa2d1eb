//! Opening below a directory, and never outside it: `openat2(2)`, Linux 5.6.

use super::RelPath;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Opens `path` below `dir`. Symbolic links, `..` out of it and other file systems are refused by the kernel, without a race.
pub fn open(dir: impl AsFd, path: &RelPath, flags: OFlag) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    loop {
        match openat2(&dir, path.as_path(), how) {
            // A rename elsewhere in the system during the walk makes the kernel give up with EAGAIN.
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            answer => return Ok(answer?),
        }
    }
}

/// Opens a directory below `dir`, for use with the `*at` calls and for its attributes.
pub fn open_dir(dir: impl AsFd, path: &RelPath) -> io::Result<OwnedFd> {
    open(dir, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}
