//! The caller's own terminal while a program elsewhere uses it, and signals as descriptors.

use crate::exit::Error;
use crate::sys::pty;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::IsTerminal;

/// Standard input in raw mode. Goes back to what it was when dropped, and on a panic.
pub struct Raw(libc::termios);

impl Raw {
    /// Switches, if standard input is a terminal.
    pub fn enter() -> Result<Option<Self>, Error> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |e: nix::errno::Errno| Error::io("cannot set up the terminal", &e.into());
        let mut mode = tcgetattr(std::io::stdin()).map_err(failed)?;
        let before: libc::termios = mode.clone().into();
        let usual = std::panic::take_hook();
        // A release build aborts on a panic, which drops nothing.
        std::panic::set_hook(Box::new(move |info| {
            restore(before);
            usual(info);
        }));
        cfmakeraw(&mut mode);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &mode).map_err(failed)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(self.0);
    }
}

fn restore(mode: libc::termios) {
    // The terminal may be gone (SIGHUP); then there is nothing to restore. Nobody may be reading from it: what is still to be written is not waited for.
    let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &Termios::from(mode));
}

/// Takes these signals away from their usual effect and lets them be read instead, so that none strikes between two steps.
pub fn signals(which: &[Signal]) -> Result<SignalFd, Error> {
    let set: SigSet = which.iter().copied().collect();
    let failed = |e: nix::errno::Errno| Error::io("cannot take over signals", &e.into());
    set.thread_block().map_err(failed)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

/// The signal that waits, if any.
pub fn pending(from: &SignalFd) -> Option<Signal> {
    from.read_signal().ok().flatten().and_then(|info| Signal::try_from(info.ssi_signo as i32).ok())
}

/// Rows and columns of the caller's terminal; the classic size where there is none.
pub fn size() -> (u16, u16) {
    pty::size(std::io::stdin()).ok().filter(|(rows, columns)| *rows > 0 && *columns > 0).unwrap_or(pty::CLASSIC)
}
