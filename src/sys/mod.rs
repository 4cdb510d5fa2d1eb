//! The floor: the only unsafe code of the program, one thin safe function for each kernel call that nix lacks.
//!
//! Every block states why it is sound. Nothing here decides anything: arguments in, kernel answer out.

pub mod caps;
pub mod exe;
pub mod fd;
pub mod limits;
pub mod mount;
pub mod pid1;
pub mod privilege;
pub mod probe;
pub mod process;
pub mod pty;
pub mod reactor;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod ring;
pub mod role;
pub mod seccomp;
pub mod signal;
pub mod socket;
#[cfg(target_env = "musl")]
mod thread;
pub mod time;
pub mod xattr;

use std::io;

/// Turns the kernel's `-1` into the error that it left in `errno`.
pub(crate) fn cvt(ret: nix::libc::c_long) -> io::Result<nix::libc::c_long> {
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}
