//! What a pid 1 needs: every signal as an event, and every child that ends.

use super::process::Ended;
use nix::libc;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Every signal, as the kernel counts them: 64 bits. The C library's own set leaves out those that it keeps for itself.
static ALL: u64 = u64::MAX;

/// Blocks every signal. A blocked signal stays pending even for a pid 1, to which the kernel otherwise drops whatever has its default action.
pub fn block_all() -> io::Result<()> {
    let (null, size) = (std::ptr::null_mut::<u64>(), size_of::<u64>());
    // SAFETY: reads one set of the stated size; a null old set is allowed.
    super::cvt(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const ALL, null, size) }).map(|_| ())
}

/// Sleeps until a blocked signal is there, and takes it.
pub fn next_signal() -> io::Result<i32> {
    let null = std::ptr::null_mut::<u8>();
    loop {
        // SAFETY: reads one set of the stated size; neither a siginfo nor a timeout is given.
        let ret = unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const ALL, null, null, size_of::<u64>()) };
        match super::cvt(ret) {
            Ok(number) => return Ok(number as i32),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Readable while a signal is there to be taken (signalfd(2)).
pub fn signals() -> io::Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: reads one set of the stated size.
    let fd = super::cvt(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const ALL, size_of::<u64>(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal, real-time ones included.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes two integers.
    super::cvt(unsafe { libc::kill(pid, signal) }.into()).map(|_| ())
}

/// Takes one child that has ended, if there is one.
pub fn reap_any() -> io::Result<Option<(i32, Ended)>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the kernel to write.
    match super::cvt(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) }.into()) {
        Ok(0) => Ok(None),
        Ok(pid) if libc::WIFSIGNALED(status) => Ok(Some((pid as i32, Ended::Signal(libc::WTERMSIG(status) as u8)))),
        Ok(pid) => Ok(Some((pid as i32, Ended::Code(libc::WEXITSTATUS(status) as u8)))),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(e) => Err(e),
    }
}
