//! Resource limits of getrlimit(2), and what Wherry itself is not allowed to give.

use super::fail::{OrFail, launch, os};
use crate::ipc::Failure;
use crate::manifest::{Rlimit, RlimitKind};
use crate::sys::{caps, limits};
use nix::libc;
use std::io;

/// capability(7); the number in the kernel's sets.
const CAP_SYS_RESOURCE: u32 = 24;

/// How what is told of them begins.
pub const NAMES: &str = "rlimits.";

/// Sets them for this process. One that is out of reach is set as high as may be: [`out_of_reach`] has told of it.
pub fn set(wanted: &[Rlimit]) -> Result<(), Failure> {
    if !wanted.iter().any(|r| r.kind == RlimitKind::Core) {
        // A core dump is written by the host's core_pattern: flash for a crash nobody asked to record.
        limits::set(libc::RLIMIT_CORE as u32, 0, 0).or_fail(|| "set resource limit core")?;
    }
    for r in wanted {
        let most = ceiling(r).or_fail(|| "read the resource limits")?.unwrap_or(u64::MAX);
        limits::set(resource(r.kind), r.soft.min(most), r.hard.min(most))
            .map_err(|e| launch(format!("cannot set resource limit {:?} to {}:{}: {}", r.kind, r.soft, r.hard, os(&e))))?;
    }
    Ok(())
}

/// Which of them cannot be set as wanted, with why: Wherry may itself live in a container, or below a service manager that keeps it small.
pub fn out_of_reach(wanted: &[Rlimit]) -> Result<Vec<(String, String)>, Failure> {
    let mut missing = Vec::new();
    for r in wanted {
        if let Some(most) = ceiling(r).or_fail(|| "read the resource limits")? {
            let name = format!("{NAMES}{:?}", r.kind).to_lowercase();
            missing.push((name, format!("{most} is the most that Wherry itself may have, and it has no CAP_SYS_RESOURCE to raise that")));
        }
    }
    Ok(missing)
}

/// The hard limit that we have, if the wanted one is above it and we may not raise ours.
fn ceiling(wanted: &Rlimit) -> io::Result<Option<u64>> {
    let (_, hard) = limits::get(resource(wanted.kind))?;
    let may_raise = caps::get()?.effective >> CAP_SYS_RESOURCE & 1 == 1;
    Ok((wanted.hard > hard && !may_raise).then_some(hard))
}

fn resource(kind: RlimitKind) -> u32 {
    (match kind {
        RlimitKind::As => libc::RLIMIT_AS,
        RlimitKind::Core => libc::RLIMIT_CORE,
        RlimitKind::Cpu => libc::RLIMIT_CPU,
        RlimitKind::Data => libc::RLIMIT_DATA,
        RlimitKind::Fsize => libc::RLIMIT_FSIZE,
        RlimitKind::Locks => libc::RLIMIT_LOCKS,
        RlimitKind::Memlock => libc::RLIMIT_MEMLOCK,
        RlimitKind::Msgqueue => libc::RLIMIT_MSGQUEUE,
        RlimitKind::Nice => libc::RLIMIT_NICE,
        RlimitKind::Nofile => libc::RLIMIT_NOFILE,
        RlimitKind::Nproc => libc::RLIMIT_NPROC,
        RlimitKind::Rss => libc::RLIMIT_RSS,
        RlimitKind::Rtprio => libc::RLIMIT_RTPRIO,
        RlimitKind::Rttime => libc::RLIMIT_RTTIME,
        RlimitKind::Sigpending => libc::RLIMIT_SIGPENDING,
        RlimitKind::Stack => libc::RLIMIT_STACK,
    }) as u32
}
