//! Pseudo-terminals, without a path ever being looked up for the second end.

use nix::libc;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The other end of an opened `ptmx` (`TIOCGPTPEER`, Linux 4.13). By path it would be `/dev/pts/N`, which a container can
/// replace in the meantime (CVE-2025-52565).
pub fn peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let fd = master.as_fd().as_raw_fd();
    let locked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    super::cvt(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK as _, &raw const locked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and answers a new descriptor.
    let peer = super::cvt(unsafe { libc::ioctl(fd, libc::TIOCGPTPEER as _, flags) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(peer as i32) })
}

/// Rows and columns of a terminal that nobody has given a size.
pub const CLASSIC: (u16, u16) = (24, 80);

/// Tells the terminal its size.
pub fn resize(terminal: impl AsFd, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    super::cvt(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) }.into()).map(|_| ())
}

/// Rows and columns of a terminal.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn size(terminal: impl AsFd) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the address given, which is ours for the whole call.
    super::cvt(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut size) }.into())?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes this terminal the controlling one of our session, which must have none.
pub fn control(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an int by value.
    super::cvt(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY as _, 0) }.into()).map(|_| ())
}
