//! Resource limits, the session keyring and the loopback interface: what a payload would otherwise inherit, or lack.

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Sets one limit of getrlimit(2) for this process; `u64::MAX` is unlimited.
pub fn set(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = [soft, hard];
    // SAFETY: prlimit64 reads two 64 bit numbers on every architecture; no old limit is wanted.
    super::cvt(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), std::ptr::null_mut::<u64>()) }).map(|_| ())
}

/// The soft and the hard limit of this process; `u64::MAX` is unlimited.
pub fn get(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = [0u64; 2];
    // SAFETY: prlimit64 writes two 64 bit numbers on every architecture; no new limit is given.
    super::cvt(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<u64>(), limit.as_mut_ptr()) })?;
    Ok((limit[0], limit[1]))
}

/// Leaves the session keyring for a new, empty, nameless one.
///
/// # Errors
/// `ENOSYS` when the kernel has no keyrings: then there is nothing to leave.
pub fn join_new_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    super::cvt(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) }).map(|_| ())
}

/// Linux's `struct ifreq` with the flags member of its union.
#[repr(C)]
struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

/// Brings the loopback interface of this network namespace up; the kernel then gives it 127.0.0.1 and ::1 by itself.
pub fn loopback_up() -> io::Result<()> {
    let mut request = Ifreq { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: takes three integers.
    let socket = super::cvt(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket as i32) };
    // SAFETY: SIOCGIFFLAGS writes into an ifreq; ours is 40 bytes, the size on 64 bit, and longer than the 32 of 32 bit.
    super::cvt(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) }.into())?;
    request.flags |= libc::IFF_UP as i16;
    // SAFETY: SIOCSIFFLAGS reads the same ifreq.
    super::cvt(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into()).map(|_| ())
}
