//! From a profile to a BPF program, through libseccomp, for any of our architectures on any of them.

use super::profile::{Answer, Profile, Rule, Test};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{Read, Seek};

/// The kernel's limit: 4096 instructions of 8 bytes.
const MAX_PROGRAM: u64 = 4096 * 8;

/// Whose system calls a program judges. Calls of any other kind end the process: a 32-bit program that gets an errno
/// from exit(2) itself would spin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86, neither i386 nor x32.
    X8664,
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit ARM whose kernel also runs 32-bit images.
    Aarch64WithArm,
    /// 32-bit ARM (EABI).
    Arm,
}

impl Arch {
    /// What this program is built for.
    #[cfg(target_arch = "x86_64")]
    pub const TARGET: Self = Self::X8664;
    /// What this program is built for.
    #[cfg(target_arch = "aarch64")]
    pub const TARGET: Self = Self::Aarch64;
    /// What this program is built for.
    #[cfg(target_arch = "arm")]
    pub const TARGET: Self = Self::Arm;

    fn tokens(self) -> &'static [ScmpArch] {
        match self {
            Self::X8664 => &[ScmpArch::X8664],
            Self::Aarch64 => &[ScmpArch::Aarch64],
            Self::Aarch64WithArm => &[ScmpArch::Aarch64, ScmpArch::Arm],
            Self::Arm => &[ScmpArch::Arm],
        }
    }
}

/// Makes the BPF program (an array of `struct sock_filter`) of `profile` for a container with the capabilities `caps`.
///
/// Names that the linked libseccomp does not know are left out, and so get the profile's default: new calls have no number
/// in an old library. The default profile took 4 to 7 ms on an x86-64 virtual machine; routers were not measured.
///
/// # Errors
/// One sentence with libseccomp's own reason.
pub fn compile(profile: &Profile, arch: Arch, caps: u64) -> Result<Vec<u8>, String> {
    let mut filter = empty(profile.default, arch).map_err(|e| format!("cannot make an empty system call filter: {e}"))?;
    for rule in profile.rules {
        if let Some(answer) = rule.verdict.answer(caps) {
            add(&mut filter, rule, answer)?;
        }
    }
    export(&filter)
}

/// Those names of `profile` that the linked libseccomp does not know.
pub fn unknown_names(profile: &Profile) -> Vec<&'static str> {
    profile.rules.iter().flat_map(|rule| rule.names).copied().filter(|name| ScmpSyscall::from_name(name).is_err()).collect()
}

fn empty(default: Answer, arch: Arch) -> Result<ScmpFilterContext, libseccomp::error::SeccompError> {
    let mut filter = ScmpFilterContext::new(action(default))?;
    if !arch.tokens().contains(&ScmpArch::native()) {
        filter.remove_arch(ScmpArch::native())?;
    }
    for token in arch.tokens() {
        filter.add_arch(*token)?;
    }
    filter.set_act_badarch(ScmpAction::KillProcess)?;
    // A binary tree instead of a list: the walk is logarithmic (libseccomp 2.5; older ones keep the list).
    let _ = filter.set_ctl_optimize(2);
    Ok(filter)
}

fn add(filter: &mut ScmpFilterContext, rule: &Rule, answer: Answer) -> Result<(), String> {
    // A rule with the default's answer says nothing, and libseccomp refuses it.
    let silent = filter.get_act_default().is_ok_and(|default| default == action(answer));
    let conditions: Vec<_> = rule.conditions.iter().flatten().map(comparison).collect();
    let known = rule.names.iter().filter(|_| !silent).filter_map(|name| Some((name, ScmpSyscall::from_name(name).ok()?)));
    for (name, call) in known {
        filter
            .add_rule_conditional(action(answer), call, &conditions)
            .map_err(|e| format!("cannot add {name} to the system call filter: {e}"))?;
    }
    Ok(())
}

fn action(answer: Answer) -> ScmpAction {
    match answer {
        Answer::Allow => ScmpAction::Allow,
        Answer::Errno(errno) => ScmpAction::Errno(errno),
        Answer::Kill => ScmpAction::KillProcess,
    }
}

fn comparison(&(argument, test): &(u32, Test)) -> ScmpArgCompare {
    match test {
        Test::Equals(value) => ScmpArgCompare::new(argument, ScmpCompareOp::Equal, value),
        Test::Below(limit) => ScmpArgCompare::new(argument, ScmpCompareOp::Less, limit),
        Test::Masked { mask, value } => ScmpArgCompare::new(argument, ScmpCompareOp::MaskedEqual(mask), value),
    }
}

pub(super) fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, String> {
    // libseccomp writes programs to descriptors only (to memory from 2.6).
    let mut file = File::from(memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).map_err(|e| format!("cannot make a memory file: {e}"))?);
    filter.export_bpf(&file).map_err(|e| format!("cannot export the system call filter: {e}"))?;
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.take(MAX_PROGRAM + 1).read_to_end(&mut program))
        .map_err(|e| format!("cannot read the exported system call filter: {e}"))?;
    if program.len() as u64 > MAX_PROGRAM {
        return Err("cannot use the system call filter: it has more than the kernel's 4096 instructions".into());
    }
    Ok(program)
}
