//! One way to say what failed: verb, object, the kernel's reason.

use crate::ipc::Failure;
use crate::protocol::Reason;
use nix::errno::Errno;
use std::fmt::Display;
use std::io;

/// The kernel's sentence without number: `No such file or directory`.
pub fn os(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |n| Errno::from_raw(n).desc().to_owned())
}

/// A failure of a launch step.
pub fn launch(message: impl Display) -> Failure {
    Failure { reason: Reason::Launch, message: message.to_string() }
}

/// Adds what was tried to an error of the kernel.
pub trait OrFail<T> {
    /// `what` follows "cannot": `mount /proc`.
    fn or_fail<S: Display>(self, what: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> OrFail<T> for Result<T, E> {
    fn or_fail<S: Display>(self, what: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|e| {
            let error = e.into();
            Failure { reason: reason(&error), message: format!("cannot {}: {}{}", what(), os(&error), hint(&error)) }
        })
    }
}

fn reason(error: &io::Error) -> Reason {
    match error.raw_os_error().map(Errno::from_raw) {
        // ENODEV is what mount answers for a file system type that the kernel does not have.
        Some(Errno::ENOSYS | Errno::ENODEV | Errno::EOPNOTSUPP) => Reason::NoFeature,
        Some(Errno::ENOSPC) => Reason::NoSpace,
        Some(Errno::ENOMEM) => Reason::NoMemory,
        _ => Reason::Launch,
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => " (this kernel is too old or was built without it; Linux 5.10 has all that is needed)",
        Some(Errno::ENODEV) => " (this kernel was built without it)",
        _ => "",
    }
}
