//! Our own program as a sealed memory file: what every role is started from.
//!
//! A container that gets hold of a runtime's binary through `/proc/<pid>/exe` can rewrite it on the host
//! (CVE-2019-5736). A memfd with all seals cannot be written by anyone.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Far above any build of ours; a running program cannot grow meanwhile, but a copy has a maximum all the same.
const MAX_PROGRAM: u64 = 64 << 20;

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

/// Copies the running program into a sealed memory file, or takes the running one when it is such a file already.
pub fn sealed() -> io::Result<OwnedFd> {
    let running = File::open("/proc/self/exe")?;
    if is_sealed(running.as_fd()) {
        return Ok(running.into());
    }
    let mut copy = File::from(memfd()?);
    io::copy(&mut running.take(MAX_PROGRAM), &mut copy)?;
    seal(copy.as_fd())?;
    // A descriptor open for writing makes exec answer ETXTBSY: hand out a fresh read-only one.
    Ok(File::open(super::fd::proc_path(&copy))?.into())
}

fn seal(file: BorrowedFd<'_>) -> io::Result<()> {
    /// `F_SEAL_EXEC`, Linux 6.3. A container's root that gets hold of the file could else take its execute bits away, and no role could be
    /// started any more.
    const EXEC: SealFlag = SealFlag::from_bits_retain(0x20);
    match fcntl(file, FcntlArg::F_ADD_SEALS(SEALS.union(EXEC))) {
        Err(Errno::EINVAL) => fcntl(file, FcntlArg::F_ADD_SEALS(SEALS))?,
        other => other?,
    };
    Ok(())
}

/// True for a memory file that nobody can change any more.
pub fn is_sealed(file: BorrowedFd<'_>) -> bool {
    fcntl(file, FcntlArg::F_GET_SEALS).is_ok_and(|bits| SealFlag::from_bits_truncate(bits).contains(SEALS))
}

fn memfd() -> io::Result<OwnedFd> {
    const MFD_EXEC: libc::c_uint = 0x10;
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Linux 6.3 wants MFD_EXEC said out loud; older kernels know no such flag and answer EINVAL.
    memfd_create(base | MFD_EXEC).or_else(|_| memfd_create(base))
}

fn memfd_create(flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name is a constant C string; the kernel copies it.
    let fd = super::cvt(unsafe { libc::memfd_create(c"wherry".as_ptr(), flags) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Replaces this process by the program behind `exe` (`execveat(2)` with `AT_EMPTY_PATH`); comes back only with an error.
pub fn exec(exe: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and outlive the call; the path is an empty C string.
    unsafe { libc::syscall(libc::SYS_execveat, exe.as_raw_fd(), c"".as_ptr(), argv.as_ptr(), env.as_ptr(), libc::AT_EMPTY_PATH) };
    io::Error::last_os_error()
}

/// The null-terminated array of pointers that exec wants. The strings must outlive it.
pub(crate) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}
