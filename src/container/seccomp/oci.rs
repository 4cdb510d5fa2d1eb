//! `linux.seccomp` of an OCI `config.json`: what podman and containerd hand over with every container.

use super::compile::export;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::libc::{self, EPERM};
use serde::Deserialize;

/// Most rules of one profile. Docker's has about 70, the kernel's limit of 4096 instructions ends the rest.
const MAX_RULES: usize = 1024;
/// Most names of one rule. Docker's longest has about 370, all system calls together are fewer than 600.
const MAX_NAMES: usize = 1024;

/// The `linux.seccomp` object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciSeccomp {
    /// `SCMP_ACT_*` for calls that no rule matches.
    pub default_action: String,
    /// The errno of `SCMP_ACT_ERRNO` (and the message of `SCMP_ACT_TRACE`); EPERM when absent.
    pub default_errno_ret: Option<u16>,
    /// `SCMP_ARCH_*` beside the machine's own.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_*`.
    #[serde(default)]
    pub flags: Vec<String>,
    /// The rules.
    #[serde(default)]
    pub syscalls: Vec<OciRule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciRule {
    /// Names; unknown ones are skipped, as every OCI runtime does.
    pub names: Vec<String>,
    /// `SCMP_ACT_*`.
    pub action: String,
    /// As [`OciSeccomp::default_errno_ret`].
    pub errno_ret: Option<u16>,
    /// Conditions, all of which must hold, unless two are on the same argument: then one is enough.
    #[serde(default)]
    pub args: Vec<OciArg>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciArg {
    /// Number of the argument, from 0.
    pub index: u32,
    /// What is compared with, or the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// The masked value of `SCMP_CMP_MASKED_EQ`.
    #[serde(default)]
    pub value_two: u64,
    /// `SCMP_CMP_*`.
    pub op: String,
}

/// A program and how to load it: see [`crate::sys::seccomp::load_with`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciProgram {
    /// An array of `struct sock_filter`.
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*` bits.
    pub flags: u32,
}

/// Compiles a profile for this machine and the further architectures that it names.
///
/// # Errors
/// One sentence that names the action, architecture, flag, comparison or call that cannot be used.
pub fn compile_oci(profile: &OciSeccomp) -> Result<OciProgram, String> {
    if profile.syscalls.len() > MAX_RULES || profile.syscalls.iter().any(|rule| rule.names.len() > MAX_NAMES) {
        return Err(format!("cannot use a system call filter of more than {MAX_RULES} rules or {MAX_NAMES} names in one"));
    }
    let flags = profile.flags.iter().map(|name| flag(name)).try_fold(0, |all, one| one.map(|bit| all | bit))?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut filter = context(default, &profile.architectures)?;
    for rule in &profile.syscalls {
        let answer = action(&rule.action, rule.errno_ret)?;
        // libseccomp refuses a rule that says what the default says.
        if answer != default {
            add(&mut filter, rule, answer)?;
        }
    }
    Ok(OciProgram { program: export(&filter)?, flags })
}

/// Whose programs the kernels of our targets can run; the linked libseccomp has no table of system calls for others.
const RUN_HERE: [ScmpArch; 6] = [ScmpArch::Native, ScmpArch::X86, ScmpArch::X8664, ScmpArch::X32, ScmpArch::Arm, ScmpArch::Aarch64];

fn context(default: ScmpAction, architectures: &[String]) -> Result<ScmpFilterContext, String> {
    let mut filter = ScmpFilterContext::new(default).map_err(|e| format!("cannot make an empty system call filter: {e}"))?;
    for name in architectures {
        let arch: ScmpArch = name.parse().map_err(|_| format!("cannot filter the system calls of {name}: no such architecture"))?;
        // What no program can be here, a filter need not know; it ends the process anyway.
        if RUN_HERE.contains(&arch) {
            filter.add_arch(arch).map_err(|e| format!("cannot filter the system calls of {name} too: {e}"))?;
        }
    }
    filter.set_act_badarch(ScmpAction::KillProcess).map_err(|e| format!("cannot set the answer to other architectures: {e}"))?;
    let _ = filter.set_ctl_optimize(2);
    Ok(filter)
}

fn action(name: &str, errno: Option<u16>) -> Result<ScmpAction, String> {
    // A filter that asks another process for each answer wants one that keeper does not run.
    if name == "SCMP_ACT_NOTIFY" {
        return Err("cannot use SCMP_ACT_NOTIFY: nobody listens here".into());
    }
    let value = errno.map_or(EPERM, i32::from);
    ScmpAction::from_str(name, Some(value)).map_err(|_| format!("cannot use {name}: no such action on system calls"))
}

fn flag(name: &str) -> Result<u32, String> {
    let bit = match name {
        // The filter is loaded by a process of one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => 0,
        "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        _ => return Err(format!("cannot load a system call filter with {name}: the flag is not supported")),
    };
    Ok(bit as u32)
}

fn add(filter: &mut ScmpFilterContext, rule: &OciRule, answer: ScmpAction) -> Result<(), String> {
    let conditions = rule.args.iter().map(comparison).collect::<Result<Vec<_>, _>>()?;
    let alternatives: Vec<&[ScmpArgCompare]> =
        if repeats_an_argument(&rule.args) { conditions.chunks(1).collect() } else { vec![&conditions] };
    let known = rule.names.iter().filter_map(|name| Some((name, ScmpSyscall::from_name(name).ok()?)));
    for (name, call) in known {
        for all in &alternatives {
            filter.add_rule_conditional(answer, call, all).map_err(|e| format!("cannot add {name} to the system call filter: {e}"))?;
        }
    }
    Ok(())
}

/// libseccomp takes one condition per argument. runc makes such conditions alternatives, and profiles are written for runc.
fn repeats_an_argument(args: &[OciArg]) -> bool {
    args.iter().enumerate().any(|(n, arg)| args[..n].iter().any(|earlier| earlier.index == arg.index))
}

fn comparison(arg: &OciArg) -> Result<ScmpArgCompare, String> {
    let op: ScmpCompareOp = arg.op.parse().map_err(|_| format!("cannot compare an argument by {}: no such comparison", arg.op))?;
    match op {
        _ if arg.index > 5 => Err(format!("cannot look at argument {} of a system call: the last is 5", arg.index)),
        ScmpCompareOp::MaskedEqual(_) => Ok(ScmpArgCompare::new(arg.index, ScmpCompareOp::MaskedEqual(arg.value), arg.value_two)),
        _ => Ok(ScmpArgCompare::new(arg.index, op, arg.value)),
    }
}
