//! System call filters for our own less trusted roles: allow-lists, made and committed like the containers' profile.
//!
//! hash, unpack and probe touch hostile bytes with code whose every call we know: anything else ends the process by SIGSYS, which
//! keeper sees as the role's exit status. agent runs libraries that probe: an unknown call gets ENOSYS, and only what no
//! honest network client does ends it.

mod roles;

pub use roles::{AGENT, HASH, PROBE, UNPACK};

use crate::container::seccomp::Profile;
use std::io;

/// A role that confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sockets to the network, files read-only, threads; no processes.
    Agent,
    /// Reads, writes, exits.
    Hash,
    /// Makes files of every kind but device nodes; no new sockets, no processes.
    Unpack,
    /// Connects by TCP, reads, writes, exits.
    Probe,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Hash, Self::Unpack, Self::Probe];

    /// What committed programs are called: `<name>-<architecture>.bpf`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Hash => "hash",
            Self::Unpack => "unpack",
            Self::Probe => "probe",
        }
    }

    /// The rules behind the committed program.
    pub const fn profile(self) -> &'static Profile {
        match self {
            Self::Agent => &AGENT,
            Self::Hash => &HASH,
            Self::Unpack => &UNPACK,
            Self::Probe => &PROBE,
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! committed {
    ($role:literal) => {
        include_bytes!(concat!("programs/", $role, "-x86_64.bpf"))
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! committed {
    ($role:literal) => {
        include_bytes!(concat!("programs/", $role, "-aarch64.bpf"))
    };
}
#[cfg(target_arch = "arm")]
macro_rules! committed {
    ($role:literal) => {
        include_bytes!(concat!("programs/", $role, "-arm.bpf"))
    };
}

/// The committed program of a role for this machine's architecture.
pub const fn program(role: Role) -> &'static [u8] {
    match role {
        Role::Agent => committed!("agent"),
        Role::Hash => committed!("hash"),
        Role::Unpack => committed!("unpack"),
        Role::Probe => committed!("probe"),
    }
}

/// Confines the calling thread, and all that it clones from now on, for ever. Sets `no_new_privs` first, without which the
/// kernel takes filters from CAP_SYS_ADMIN only. To be called before the first other thread and the first hostile byte.
///
/// # Errors
/// Whatever the kernel answers; `ENOSYS` on one without seccomp filters.
pub fn load(role: Role) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    crate::sys::seccomp::load(program(role))
}
