//! Signals: back to what a fresh program expects, and sending by pidfd.

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Default disposition for every signal and an empty mask. Both survive exec, and Rust's runtime
/// ignores SIGPIPE: without this a payload would never die of a closed pipe.
pub fn reset() -> io::Result<()> {
    // The kernel's own `struct sigaction`, at most 32 bytes long: all zeroes is the default action without flags. Asked of the kernel and not of the
    // C library, which refuses the two or three signals that it keeps for itself; these may arrive ignored all the same.
    let default = [0u64; 4];
    for number in 1..=64 {
        // SAFETY: the default action installs no handler; KILL and STOP answer EINVAL. No old action is wanted.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null_mut::<u64>(), size_of::<u64>()) };
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
