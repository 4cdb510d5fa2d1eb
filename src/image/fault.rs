//! Failures while an image is brought in: which reason a kernel answer means.

use crate::exit::visible;
use crate::ipc::Failure;
use crate::protocol::Reason;
use nix::errno::Errno;
use std::io;
use std::os::fd::AsFd;

/// A failure of this reason. Its message may quote an image, whose names may hold anything: control characters are escaped.
pub fn fault(reason: Reason, message: impl AsRef<str>) -> Failure {
    Failure { reason, message: visible(message.as_ref()) }
}

/// A failed system call. `doing` is verb and object: `cannot open /x`.
pub fn os(doing: &str, e: impl Into<io::Error>) -> Failure {
    let e = e.into();
    let errno = e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    let reason = match errno {
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => Reason::NoSpace,
        Errno::ENOENT => Reason::ImageMissing,
        _ => Reason::Io,
    };
    let why = if errno == Errno::UnknownErrno { e.to_string() } else { errno.desc().to_owned() };
    fault(reason, format!("{doing}: {why}"))
}

/// As [`os`], for a call that writes below `root`: `ENOSPC` also stands for used up inodes, and never is an image "missing".
pub fn writing(root: impl AsFd, doing: &str, e: impl Into<io::Error>) -> Failure {
    let mut failure = os(doing, e);
    if failure.reason == Reason::NoSpace && nix::sys::statvfs::fstatvfs(root).is_ok_and(|s| s.files() > 0 && s.files_available() == 0) {
        failure.reason = Reason::NoInodes;
        failure.message.push_str(" (the file system has no inodes left)");
    }
    if failure.reason == Reason::ImageMissing {
        failure.reason = Reason::Io;
    }
    failure
}
