//! Giving up capabilities for good, by raw calls: a library's list of names can be older than the kernel's.

use nix::libc;
use std::io;

/// Most capabilities that the kernel's 64-bit sets can hold.
const CAPABILITIES: libc::c_ulong = 64;

/// Takes every capability out of the bounding set, from which exec could otherwise give them back.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn drop_bounding() -> io::Result<()> {
    for number in 0..CAPABILITIES {
        // SAFETY: takes integers only.
        match super::cvt(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }.into()) {
            Ok(_) => {}
            // The first number that this kernel does not know; all above it are unknown too.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Linux's `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Empties the effective, permitted, inheritable and ambient sets of this thread: nothing can be raised again.
pub fn drop_all() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0u32; 6];
    // SAFETY: version 3 reads two structures of three words each, which `none` holds; pid 0 is the calling thread.
    super::cvt(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) })?;
    Ok(())
}
