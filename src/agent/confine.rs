//! The agent's own lock-down, and the proof that it took.
//!
//! The agent reads what the network sends, so it keeps nothing that its work does not need: no user id but its own, no capability, no way to get one,
//! no core dump with keys in it, no new files, and no system calls but those of a network client. The root directory stays: the resolver reads
//! `/etc/resolv.conf` and `/etc/hosts` at every look-up.

use crate::confine;
use crate::sys::privilege;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, chdir, getuid, setgroups, setresgid, setresuid};
use std::io;

/// Most open descriptors: standard ones, keeper, epoll and its wake-up, signals, the broker, and the resolver's.
const MAX_FILES: u64 = 32;
/// Most bytes of memory of our own. A broker that found a way to make us hoard would end this process, not the device's others.
const MAX_DATA: u64 = 32 << 20;
/// Longest `/proc/self/status` that is read.
const MAX_STATUS: usize = 16 * 1024;

/// Gives up everything, for good, and verifies it.
///
/// # Errors
/// A sentence; the agent must not run then.
pub fn lock_down(uid: Option<u32>) -> Result<(), String> {
    let as_root = getuid().is_root();
    give_up(uid, as_root)?;
    let status = crate::sys::fd::read_file("/proc/self/status", MAX_STATUS).map_err(|e| failed("read /proc/self/status", e))?;
    verify(&String::from_utf8_lossy(&status), uid, as_root)
}

fn give_up(uid: Option<u32>, as_root: bool) -> Result<(), String> {
    chdir("/").map_err(|e| failed("change to /", e))?;
    limits().map_err(|e| failed("set resource limits", e))?;
    if as_root {
        // First: it takes CAP_SETPCAP, which the next steps give up.
        privilege::drop_bounding().map_err(|e| failed("empty the bounding set", e))?;
    }
    if let Some(uid) = uid {
        become_user(uid).map_err(|e| failed(&format!("become user {uid}"), e))?;
    }
    privilege::drop_all().map_err(|e| failed("drop capabilities", e))?;
    prctl::set_no_new_privs().map_err(|e| failed("set no_new_privs", e))?;
    // After the change of user: that sets it to what /proc/sys/fs/suid_dumpable says.
    prctl::set_dumpable(false).map_err(|e| failed("become non-dumpable", e))?;
    // Last: the steps above need what it forbids. Threads made later inherit it.
    confine::load(confine::Role::Agent).map_err(|e| failed("load its system call filter", e))
}

/// Groups before the group before the user: each takes a capability that the last one ends.
fn become_user(uid: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    if getuid().is_root() {
        setgroups(&[])?;
    }
    setresgid(group, group, group)?;
    Ok(setresuid(user, user, user)?)
}

fn limits() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES)?;
    setrlimit(Resource::RLIMIT_DATA, MAX_DATA, MAX_DATA)?;
    if !log_is_a_file() {
        setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    }
    Ok(())
}

/// Standard error redirected to a file is the one file that we may make longer.
fn log_is_a_file() -> bool {
    nix::sys::stat::fstat(io::stderr()).is_ok_and(|s| s.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG)
}

fn failed(what: &str, why: impl Into<io::Error>) -> String {
    format!("agent cannot {what}: {}", why.into())
}

/// Reads the kernel's own words on us.
fn verify(status: &str, uid: Option<u32>, as_root: bool) -> Result<(), String> {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        want(status, set, "0000000000000000")?;
    }
    if as_root {
        want(status, "CapBnd", "0000000000000000")?;
    }
    want(status, "NoNewPrivs", "1")?;
    // 2 is "filtered" (proc_pid_status(5)).
    want(status, "Seccomp", "2")?;
    if let Some(uid) = uid {
        let four = [uid; 4].map(|n| n.to_string()).join("\t");
        want(status, "Uid", &four)?;
        want(status, "Gid", &four)?;
        if as_root {
            want(status, "Groups", "")?;
        }
    }
    Ok(())
}

fn want(status: &str, key: &str, value: &str) -> Result<(), String> {
    let found = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    match found {
        Some(is) if is == value => Ok(()),
        Some(is) => Err(format!("agent refuses to run: the kernel says {key} is {is:?}, not {value:?}")),
        None => Err(format!("agent refuses to run: /proc/self/status has no {key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKED: &str = "Name:\twherry\nUid:\t971\t971\t971\t971\nGid:\t971\t971\t971\t971\nGroups:\t \nNoNewPrivs:\t1\nSeccomp:\t2\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n";

    #[test]
    fn a_locked_down_process_is_accepted() {
        assert_eq!(verify(LOCKED, Some(971), true), Ok(()));
    }

    #[test]
    fn anything_kept_is_refused() {
        let table = [
            ("CapInh:\t0000000000000000", "CapInh:\t0000000000000001", "CapInh"),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000200000", "CapPrm"),
            ("CapEff:\t0000000000000000", "CapEff:\t000001ffffffffff", "CapEff"),
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000400", "CapBnd"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000400", "CapAmb"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
            ("NoNewPrivs:\t1\n", "", "has no NoNewPrivs"),
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
            ("Uid:\t971\t971\t971\t971", "Uid:\t971\t971\t0\t971", "Uid"),
            ("Gid:\t971\t971\t971\t971", "Gid:\t0\t0\t0\t0", "Gid"),
            ("Groups:\t ", "Groups:\t0 27", "Groups"),
        ];
        for (from, to, word) in table {
            let changed = LOCKED.replace(from, to);
            assert_ne!(changed, LOCKED, "{from}");
            let error = verify(&changed, Some(971), true).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn without_root_the_bounding_set_may_stay() {
        let changed = LOCKED.replace("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff");
        assert_eq!(verify(&changed, None, false), Ok(()));
    }
}
