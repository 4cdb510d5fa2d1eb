//! Probes of everything but control groups. None of them changes anything: no module is loaded, no namespace and no device is made.

use super::system::{System, field, mounts, text};
use super::{Fact, Found, Level};
use crate::sys::probe::{Call as Syscall, has, is_off};
use nix::errno::Errno;
use std::path::Path;

/// What a probe tells of a fact; `None` where there is none for it.
pub fn probe(name: &str, system: &System) -> Option<Found> {
    if let Some(file) = name.strip_suffix(" namespace") {
        return Some(namespace(file));
    }
    if let Some(kind) = name.strip_suffix(" file system") {
        return Some(file_system(system, kind));
    }
    Some(match name {
        "event descriptors" => either(has(Syscall::EpollCreate1) && has(Syscall::Signalfd4)),
        "memfd_create" => sealed(),
        "seccomp filter" => seccomp(&system.status),
        "pressure (PSI)" => pressure(),
        "pseudoterminals" => either(Path::new("/dev/ptmx").exists()),
        "tmpfs attributes" => return tmpfs_attributes(),
        "session keyrings" => either(has(Syscall::Keyctl)),
        "kernel configuration" => system.config_file().map_or_else(|| Found::missing(""), Found::present),
        "loop devices" => loops(system),
        "vlan" => return system.module("8021q"),
        "nat" => return system.module("nft_nat"),
        "veth" | "bridge" | "macvlan" | "ipvlan" | "tun" | "nf_tables" => return system.module(name),
        "landlock" => landlock(),
        _ => return None,
    })
}

fn either(there: bool) -> Found {
    if there { Found::present("") } else { Found::missing("") }
}

fn namespace(file: &str) -> Found {
    let limit = format!("user.max_{file}_namespaces");
    let off = text(format!("/proc/sys/{}", limit.replace('.', "/"))).trim() == "0";
    match (Path::new("/proc/self/ns").join(file).symlink_metadata().is_ok(), off) {
        (true, false) => Found::present(""),
        (true, true) => Found::missing(format!("switched off by {limit} = 0")),
        (false, _) => Found::missing(""),
    }
}

fn file_system(system: &System, name: &str) -> Found {
    let listed = system.filesystems.lines().any(|l| l.split_whitespace().last() == Some(name));
    let on_disk = !listed && system.loadable(name);
    if on_disk { Found::degraded(format!("not loaded: `modprobe {name}`")) } else { either(listed) }
}

/// From Linux 6.3 on, vm.memfd_noexec = 2 refuses memory that can be executed to all in the pid namespace.
fn sealed() -> Found {
    if text("/proc/sys/vm/memfd_noexec").trim() == "2" {
        return Found::missing("switched off by vm.memfd_noexec = 2");
    }
    either(has(Syscall::MemfdCreate))
}

fn seccomp(status: &str) -> Found {
    if field(status, "Seccomp").is_none() || !has(Syscall::Seccomp) {
        return Found::missing("");
    }
    let actions = text("/proc/sys/kernel/seccomp/actions_avail");
    let known = |action: &&str| !actions.split_whitespace().any(|w| w == *action);
    let lacks: Vec<&str> = ["kill_process", "errno", "allow", "log", "user_notif"].into_iter().filter(known).collect();
    if lacks.is_empty() {
        Found::present("")
    } else {
        Found::degraded(format!("the kernel does not list the actions {}", lacks.join(", ")))
    }
}

/// Anonymous memory of ours is a file on the kernel's own tmpfs. Attributes of this kind are root's.
fn tmpfs_attributes() -> Option<Found> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = memfd_create(c"wherry", MFdFlags::MFD_CLOEXEC).ok()?;
    match crate::sys::xattr::set(file, c"trusted.wherry", b"y") {
        Ok(()) => Some(Found::present("")),
        Err(e) => (e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32)).then(|| Found::missing("")),
    }
}

fn landlock() -> Found {
    let off = is_off(Syscall::LandlockCreateRuleset);
    if off { Found::degraded("switched off: boot with landlock in lsm=") } else { either(has(Syscall::LandlockCreateRuleset)) }
}

fn loops(system: &System) -> Found {
    let there =
        Path::new("/dev/loop-control").exists() || text("/proc/devices").lines().any(|l| l.split_whitespace().nth(1) == Some("loop"));
    let on_disk = !there && system.loadable("loop");
    if on_disk { Found::degraded("not loaded: `modprobe loop`") } else { either(there) }
}

/// Built in but switched off (`psi=0`, or CONFIG_PSI_DEFAULT_DISABLED) it has no files at all, or, on some kernels, ones that answer EOPNOTSUPP.
fn pressure() -> Found {
    match crate::sys::fd::read_file("/proc/pressure/memory", 4096) {
        Ok(_) => Found::present(""),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Found::missing("not built in, or switched off (boot with psi=1)"),
        Err(_) => Found::degraded("switched off: boot with psi=1"),
    }
}

/// Facts that no symbol decides: a newer kernel, a boot parameter, or another place.
pub fn extra(system: &System) -> Vec<Fact> {
    let modules = text("/sys/kernel/security/lsm");
    let active = if modules.is_empty() { Found::unknown() } else { Found::present(modules.trim()) };
    let mut out = vec![root(&system.mountinfo), Fact::plain("security modules", Level::Optional, active, "")];
    out.extend(calls());
    out
}

fn calls() -> impl Iterator<Item = Fact> {
    let (r, w) = (Level::Required, Level::Wanted);
    [
        (Syscall::PidfdOpen, "pidfd_open", r, "processes cannot be watched safely (Linux 5.3)"),
        (Syscall::PidfdSendSignal, "pidfd_send_signal", r, "processes cannot be signalled safely (Linux 5.1)"),
        (Syscall::Clone3, "clone3", r, "no container can be started (Linux 5.3)"),
        (Syscall::Execveat, "execveat", r, "wherry cannot start its own roles (Linux 3.19)"),
        (Syscall::Openat2, "openat2", r, "paths in images cannot be resolved safely (Linux 5.6)"),
        (Syscall::CloseRange, "close_range", w, "descriptors are closed one by one (Linux 5.9)"),
        (Syscall::Fsopen, "fsopen", r, "nothing can be mounted (Linux 5.2)"),
        (Syscall::OpenTree, "open_tree", r, "nothing can be mounted (Linux 5.2)"),
        (Syscall::MoveMount, "move_mount", r, "nothing can be mounted (Linux 5.2)"),
        (Syscall::MountSetattr, "mount_setattr", w, "read-only is set mount by mount, no idmapped layers (Linux 5.12)"),
    ]
    .into_iter()
    .map(|(call, name, level, loss)| Fact::plain(name, level, either(has(call)), loss))
}

/// pivot_root(2) answers EINVAL when the current root is the initial ramfs; a container's root is moved over it then.
fn root(mountinfo: &str) -> Fact {
    let kind = mounts(mountinfo).filter(|(point, ..)| *point == "/").last().map_or("unknown", |(_, kind, ..)| kind);
    let found = match kind {
        "rootfs" => Found::degraded("the initial ramfs: it cannot be detached, so a container's root covers it"),
        kind => Found::present(kind),
    };
    Fact::plain("root file system", Level::Required, found, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::State;

    #[test]
    fn the_initial_ramfs_is_told() {
        assert_eq!(root("1 1 0:1 / / rw - rootfs none rw\n").state, State::Degraded);
        assert_eq!(root("1 1 0:1 / / rw - rootfs none rw\n2 1 0:2 / / rw - ext4 x rw\n").state, State::Present);
    }
}
