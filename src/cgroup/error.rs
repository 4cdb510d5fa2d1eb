//! What can go wrong with control groups, as one sentence each.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A step that failed.
#[derive(Debug)]
pub enum Error {
    /// A file or directory of a hierarchy refused us.
    Io {
        /// Verb and what it was done to: `create group`, `attach process 12 to`.
        step: String,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Neither version is mounted.
    NoHierarchy,
    /// A group's path is empty, absolute, or steps upwards.
    Path(String),
    /// The manifest says `required`, and these limits cannot be enforced, with why.
    Required(Vec<(String, String)>),
}

impl Error {
    pub(super) fn io(step: impl Into<String>, path: &Path, source: io::Error) -> Self {
        Self::Io { step: step.into(), path: path.to_owned(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { step, path, source } => write!(f, "cannot {step} {}: {}", path.display(), reason(source)),
            Self::NoHierarchy => f.write_str(
                "cannot find control groups: nothing of type cgroup2 or cgroup is mounted (try `mount -t cgroup2 none /sys/fs/cgroup`)",
            ),
            Self::Path(path) => write!(f, "cannot use group path {path:?}: it must be relative, without empty, `.` or `..` parts"),
            Self::Required(missing) => {
                f.write_str("cannot enforce required limits: ")?;
                for (i, (what, why)) in missing.iter().enumerate() {
                    write!(f, "{}{what} ({why})", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The kernel's answer without `(os error N)`.
pub(super) fn reason(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(n) => nix::errno::Errno::from_raw(n).desc().to_owned(),
        None => e.to_string(),
    }
}
