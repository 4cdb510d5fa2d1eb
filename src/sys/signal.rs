//! Signals: back to what a fresh program expects, and sending by pidfd.

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Default disposition for every signal and an empty mask. Both survive exec, and Rust's runtime
/// ignores SIGPIPE: without this a payload would never die of a closed pipe.
pub fn reset() -> io::Result<()> {
    for number in 1..=64 {
        // SAFETY: SIG_DFL installs no handler; numbers that cannot be set (KILL, STOP, the C library's own) answer EINVAL.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Opens a pidfd (`pidfd_open(2)`, Linux 5.3). It becomes readable when the process exits.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = super::cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends `signal` (0 only asks) to the very process behind the pidfd (`pidfd_send_signal(2)`, Linux 5.1).
///
/// # Errors
/// `ESRCH` when it has exited and was reaped.
pub fn pidfd_send(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the siginfo pointer may be null; the kernel then fills one in as kill(2) does.
    let ret =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    super::cvt(ret).map(|_| ())
}
