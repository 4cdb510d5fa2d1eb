//! Extended attributes of open files.

use nix::libc;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets one attribute (`fsetxattr(2)`), replacing an old value.
///
/// # Errors
/// `ENOTSUP` where the file system has none of this kind, `ENOSPC` or `EDQUOT` where there is no room, `EBADF` for an `O_PATH` descriptor.
pub fn set(file: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the name is a C string and the value is passed with its length; the kernel copies both.
    let ret = unsafe { libc::fsetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    super::cvt(ret.into()).map(|_| ())
}

/// Whether the file has this attribute (`fgetxattr(2)`).
pub fn has(file: impl AsFd, name: &CStr) -> bool {
    // SAFETY: with a size of 0 the kernel writes nothing and only answers the value's length.
    unsafe { libc::fgetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
}
