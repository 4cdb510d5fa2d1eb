//! System call filters.
//!
//! The default profile's programs are made by libseccomp beforehand and committed: making one takes longer (4 to 7 ms on
//! x86-64) than all else at a container's start. A test makes them again and compares. libseccomp runs on the device only for a container
//! whose capabilities open or close a gate of the profile, and for profiles that an OCI `config.json` brings along.

mod compile;
mod default;
mod oci;
mod profile;

pub use compile::{Arch, compile, unknown_names};
pub use default::{DEFAULT, DOCKER_CAPS};
pub use oci::{OciArg, OciProgram, OciRule, OciSeccomp, compile_oci};
pub use profile::{Answer, Profile, Rule, Test, Verdict};

use std::borrow::Cow;

#[cfg(target_arch = "x86_64")]
macro_rules! committed {
    ($set:literal) => {
        include_bytes!(concat!("programs/x86_64", $set, ".bpf"))
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! committed {
    ($set:literal) => {
        include_bytes!(concat!("programs/aarch64", $set, ".bpf"))
    };
}
#[cfg(target_arch = "arm")]
macro_rules! committed {
    ($set:literal) => {
        include_bytes!(concat!("programs/arm", $set, ".bpf"))
    };
}

/// Capability sets whose programs are committed, with what their file names end in: Docker's default, and none at all.
pub const COMMITTED: [(u64, &str); 2] = [(DOCKER_CAPS, ""), (0, "-bare")];

static PROGRAMS: [(u64, &[u8]); 2] = [(DOCKER_CAPS, committed!("")), (0, committed!("-bare"))];

/// The default profile's program for a container with the effective capabilities `caps` (`1 << CAP_*`), on this machine's
/// own architecture. A committed one where `caps` makes no difference to it, else compiled here and now.
///
/// # Errors
/// One sentence, when libseccomp cannot compile.
pub fn default_program(caps: u64) -> Result<Cow<'static, [u8]>, String> {
    match PROGRAMS.iter().find(|(made_for, _)| DEFAULT.same_rules(*made_for, caps)) {
        Some((_, program)) => Ok(Cow::Borrowed(*program)),
        None => compile(&DEFAULT, Arch::TARGET, caps).map(Cow::Owned),
    }
}
