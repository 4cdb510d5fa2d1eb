//! What a pid 1 needs: every signal as an event, and every child that ends.

use super::process::Ended;
use nix::libc;
use std::io;

/// Blocks every signal. A blocked signal stays pending even for a pid 1, to which the kernel otherwise drops whatever has its default action.
pub fn block_all() -> io::Result<()> {
    // SAFETY: the set is ours and filled before use; a null old set is allowed.
    super::cvt(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const *full(), std::ptr::null_mut()) }.into()).map(|_| ())
}

fn full() -> Box<libc::sigset_t> {
    // SAFETY: a signal set is plain bits, for which all zeroes is a value; sigfillset overwrites it.
    let mut set: Box<libc::sigset_t> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: the set is ours.
    unsafe { libc::sigfillset(&raw mut *set) };
    set
}

/// Sleeps until a blocked signal is there, and takes it.
pub fn next_signal() -> io::Result<i32> {
    loop {
        // SAFETY: the set is ours; no siginfo is wanted.
        match super::cvt(unsafe { libc::sigwaitinfo(&raw const *full(), std::ptr::null_mut()) }.into()) {
            Ok(number) => return Ok(number as i32),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
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
