//! One container: its checked [`Spec`] and the parts that launch and pid 1 put together.
//!
//! Reading order: [`build`] makes the spec; `launch` (outside) and `init` (pid 1) run the steps; the rooms here are the steps.
//!
//! | room | step |
//! |---|---|
//! | `mounts` | proc, dev, sys, cgroup view, the manifest's own mounts, all by descriptor |
//! | `files` | files that the manifest puts into it |
//! | `mask` | masked and read-only paths |
//! | `resolve` | a path below a root that it cannot leave |
//! | `pivot` | the new root, and nothing of the old |
//! | `user` | names to numbers, by the container's own files |
//! | `terminal` `console` | a terminal of its own; what keeper tells the pid 1 that holds it |
//! | `payload` | the last steps before exec |
//! | `rlimits` | resource limits, as far as we may set them |

pub mod caps;
pub mod console;
pub mod exit_record;
pub(crate) mod fail;
pub(crate) mod files;
mod mask;
mod merge;
pub(crate) mod mounts;
pub(crate) mod payload;
pub(crate) mod pivot;
mod resolve;
pub(crate) mod rlimits;
pub mod seccomp;
mod spec;
pub(crate) mod terminal;
pub mod user;

pub(crate) use merge::join_env;
pub use merge::{build, stop_signal};
pub(crate) use payload::is_missing;
pub(crate) use resolve::open_plain;
pub use spec::{Spec, Wiring};

/// What a pid 1 of ours calls itself from when on a payload may run.
pub(crate) const PID_1: &std::ffi::CStr = c"wherry-init";
