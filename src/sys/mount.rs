//! Mounts by descriptor: the calls of Linux 5.2 (`fsopen`, `fsmount`, `open_tree`, `move_mount`) and `mount_setattr` (5.12).
//!
//! A path that is looked up twice can point elsewhere the second time (CVE-2021-30465); a descriptor cannot.

use nix::libc::{self, c_int, c_uint};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Nothing can be written through this mount.
pub const RDONLY: u64 = 1;
/// Set-user-id bits and file capabilities mean nothing on this mount.
pub const NOSUID: u64 = 2;
/// Device nodes cannot be opened on this mount.
pub const NODEV: u64 = 4;
/// Nothing on this mount can be executed.
pub const NOEXEC: u64 = 8;

const AT_EMPTY_PATH: c_uint = 0x1000;
const AT_RECURSIVE: c_uint = 0x8000;

/// Makes a file system and a mount of it that hangs nowhere yet; it vanishes with the descriptor unless attached.
/// An option without value is a flag.
///
/// # Errors
/// `ENODEV` when the kernel does not know the type, `EINVAL` when it refuses an option.
pub fn create(kind: &CStr, options: &[(&CStr, Option<&str>)], attributes: u64) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: c_uint = 1;
    const FSMOUNT_CLOEXEC: c_uint = 1;
    // SAFETY: `kind` is a C string; the kernel copies it.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    for (key, value) in options {
        configure(&context, key, *value)?;
    }
    const FSCONFIG_CMD_CREATE: c_uint = 6;
    let null = std::ptr::null::<u8>();
    // SAFETY: the create command takes no key and no value.
    super::cvt(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) })?;
    // SAFETY: takes three integers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as c_uint) })
}

fn configure(context: &OwnedFd, key: &CStr, value: Option<&str>) -> io::Result<()> {
    const FSCONFIG_SET_FLAG: c_uint = 0;
    const FSCONFIG_SET_STRING: c_uint = 1;
    let value = value.map(CString::new).transpose()?;
    let (command, pointer) = value.as_ref().map_or((FSCONFIG_SET_FLAG, std::ptr::null()), |v| (FSCONFIG_SET_STRING, v.as_ptr()));
    // SAFETY: key and value are C strings (or null for a flag) that the kernel copies.
    super::cvt(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key.as_ptr(), pointer, 0) }).map(|_| ())
}

/// A detached copy of the mount that `place` lies in, with `place` as its root: what a bind mount is made of.
/// `recursive` takes the mounts below along.
pub fn copy(place: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: c_uint = 1;
    let deep = if recursive { AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as c_uint | AT_EMPTY_PATH | deep;
    // SAFETY: the path is an empty C string, so only the descriptor counts.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, place.as_fd().as_raw_fd(), c"".as_ptr(), flags) })
}

/// Attaches a detached mount on top of `target`. Both are descriptors: no path is looked up.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    const F_EMPTY_PATH: c_uint = 4;
    const T_EMPTY_PATH: c_uint = 0x40;
    let (from, to, none) = (tree.as_fd().as_raw_fd(), target.as_fd().as_raw_fd(), c"".as_ptr());
    // SAFETY: both paths are empty C strings, so only the descriptors count.
    super::cvt(unsafe { libc::syscall(libc::SYS_move_mount, from, none, to, none, F_EMPTY_PATH | T_EMPTY_PATH) }).map(|_| ())
}

/// Linux's `struct mount_attr`, version 0 (5.12).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Adds attributes to a mount, and to all below it if `recursive`.
///
/// # Errors
/// `ENOSYS` before Linux 5.12.
pub fn restrict(tree: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    let wanted = MountAttr { set: attributes, ..MountAttr::default() };
    let flags: c_uint = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let (fd, none, size) = (tree.as_fd().as_raw_fd(), c"".as_ptr(), size_of::<MountAttr>());
    // SAFETY: the path is an empty C string and `wanted` a valid mount_attr of the stated size.
    super::cvt(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, none, flags, &raw const wanted, size) }).map(|_| ())
}

fn owned(ret: libc::c_long) -> io::Result<OwnedFd> {
    let fd = super::cvt(ret)? as c_int;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
