//! File descriptors: taking over inherited ones, closing whole ranges, bounded reads.

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The first descriptor a role receives from the process that spawned it.
pub const FIRST: RawFd = 3;

/// Takes over descriptor `number`, which the parent left open for us across exec, and marks it close-on-exec.
///
/// # Errors
/// `EBADF` when nothing is open there. Take each number once: a second call would make two owners.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks about the number; a closed one answers EBADF.
    super::cvt(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: the descriptor is open (checked above), was inherited through exec, and no other object of this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    set_cloexec(fd.as_fd(), true)?;
    Ok(fd)
}

/// Sets or clears close-on-exec.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flag = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flag))?;
    Ok(())
}

/// Makes reads and writes answer `EAGAIN` instead of sleeping.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Marks every descriptor from `first` up close-on-exec (`close_range(2)`, the flag from Linux 5.11), or, where the
/// kernel lacks it or a filter around us refuses it, walks `/proc/self/fd`. A descriptor to a host directory that survives into the
/// container is CVE-2024-21626.
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only flags of descriptors change, and only in the direction of closing them at exec.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if ret == -1 { cloexec_by_proc(first) } else { Ok(()) }
}

fn cloexec_by_proc(first: RawFd) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|s| s.parse::<RawFd>().ok()) else { continue };
        if number >= first {
            // SAFETY: sets a flag on a descriptor number; the directory stream's own descriptor is already close-on-exec, a closed one answers EBADF.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Closes every descriptor from [`FIRST`] up but `keep`. For a process that only leaves by `exit_now`: whatever owned the others here is
/// never dropped, so no number is closed twice.
pub fn close_other_than(keep: &[BorrowedFd<'_>]) {
    let mut numbers: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).filter(|n| *n >= FIRST).collect();
    numbers.sort_unstable();
    let mut from = FIRST;
    for number in numbers.into_iter().chain([RawFd::MAX]) {
        close_span(from, number - 1);
        from = number.saturating_add(1);
    }
}

fn close_span(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: takes integers; the caller's promise is that nobody uses these descriptors any more.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0) };
    if ret == -1 {
        // Before Linux 5.9: one by one, up to the usual limit of 1024.
        for number in first..=last.min(1023) {
            // SAFETY: as above; a closed number answers EBADF.
            unsafe { libc::close(number) };
        }
    }
}

/// Reads to the end, but never more than `max` bytes.
///
/// # Errors
/// `FileTooLarge` when there is more than `max`, and whatever read(2) answers.
pub fn read_to_end(fd: impl AsFd, max: usize) -> io::Result<Vec<u8>> {
    let (mut out, mut chunk) = (Vec::new(), [0u8; 4096]);
    loop {
        match nix::unistd::read(fd.as_fd(), &mut chunk) {
            Ok(0) => return Ok(out),
            Ok(n) if out.len() + n > max => return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {max} bytes"))),
            Ok(n) => out.extend_from_slice(&chunk[..n]),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Reads a file, but never more than `max` bytes.
pub fn read_file(path: impl AsRef<std::path::Path>, max: usize) -> io::Result<Vec<u8>> {
    read_to_end(std::fs::File::open(path)?, max)
}

/// `/proc/self/fd/N`: the path by which a call that takes only a path reaches an open file.
pub fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
