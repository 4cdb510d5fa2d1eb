//! The app manifest: raw → checked, with errors that point at the text.

mod types;

pub use types::{
    Body, Container, Full, Id, Image, Log, Manifest, Mount, Name, Network, Resources, Restart, RestartPolicy, Rlimit, RlimitKind, Rootfs,
    Seccomp, Security, Stop, Target, Whom,
};

/// Longest document in bytes.
pub const MAX_PAYLOAD: usize = 32 * 1024;
