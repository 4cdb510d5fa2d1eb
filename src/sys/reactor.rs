//! Descriptors of our own kinds in tokio's event loop.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for readiness. It must not block, and a runtime must be running.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is ours alone, and names the same file until it is dropped, which happens with the AsyncFd.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
