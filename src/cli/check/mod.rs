//! `check`: does this kernel have what containers need? Looks, changes nothing.

use super::args::Call;
use super::print::{self, Table};
use crate::cgroup::{Kind, Layout};
use crate::exit::Error;
use crate::sys::probe::{self, Call as Syscall};
use serde_json::{Value, json};
use std::path::Path;

/// Most bytes read of one file of /proc or of the module list.
const MAX: usize = 4 << 20;

/// How a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Present,
    /// There, but not as wanted, or loadable and not loaded.
    Degraded,
    Missing,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// One thing that containers need or want.
#[derive(Debug)]
struct Fact {
    name: String,
    state: State,
    /// Without it, no container runs.
    needed: bool,
    /// The kernel configuration symbol, without `CONFIG_`; empty where it takes a newer kernel or another place.
    kconfig: &'static str,
    /// What was found, or what follows from its absence.
    meaning: String,
}

impl Fact {
    fn new(name: impl Into<String>, needed: bool, kconfig: &'static str, found: Result<String, String>) -> Self {
        let (state, meaning) = match found {
            Ok(text) => (State::Present, text),
            Err(text) => (State::Missing, text),
        };
        Self { name: name.into(), state, needed, kconfig, meaning }
    }

    fn symbol(&self) -> String {
        if self.kconfig.is_empty() { String::new() } else { format!("CONFIG_{}", self.kconfig) }
    }

    fn degraded(mut self, meaning: impl Into<String>) -> Self {
        (self.state, self.meaning) = (State::Degraded, meaning.into());
        self
    }
}

/// What is read of the running system.
struct System {
    release: String,
    mountinfo: String,
    filesystems: String,
    status: String,
}

impl System {
    fn read() -> Self {
        let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        Self { release, mountinfo: text("/proc/self/mountinfo"), filesystems: text("/proc/filesystems"), status: text("/proc/self/status") }
    }
}

/// The file as text; empty where it cannot be read, which each fact takes for absent.
fn text(path: impl AsRef<Path>) -> String {
    crate::sys::fd::read_file(path, MAX).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// `wherry check`.
pub fn check(call: &Call) -> Result<u8, Error> {
    let (release, layout, usable, facts) = look();
    if call.json() {
        print::json(&document(&release, &layout, usable, &facts))?;
    } else {
        print::bytes(shown(usable, &facts).as_bytes())?;
    }
    Ok(u8::from(!usable))
}

/// All facts, as for programs.
pub fn facts() -> Value {
    let (release, layout, usable, facts) = look();
    document(&release, &layout, usable, &facts)
}

fn look() -> (String, Layout, bool, Vec<Fact>) {
    let system = System::read();
    let layout = Layout::from_mountinfo(&system.mountinfo, "").and_then(Layout::with_controllers).unwrap_or_default();
    let mut facts = vec![kernel(&system.release), privilege(&system.status)];
    facts.extend(cgroups(&layout, &system.mountinfo));
    facts.extend(namespaces());
    facts.extend(filesystems(&system));
    facts.extend(calls());
    facts.push(seccomp(&system.status));
    facts.extend([root(&system.mountinfo), terminals(), loops(), pressure()]);
    let usable = !facts.iter().any(|f| f.needed && f.state == State::Missing);
    (system.release, layout, usable, facts)
}

fn shown(usable: bool, facts: &[Fact]) -> String {
    let mut table = Table::new(&["FACT", "STATE", "MEANING", "KERNEL CONFIG"]);
    for f in facts {
        let kconfig = if f.state == State::Present { String::new() } else { f.symbol() };
        let state = if f.needed && f.state == State::Missing { "MISSING" } else { f.state.word() };
        table.row(&[f.name.as_str(), state, &f.meaning, &kconfig]);
    }
    let end = if usable { "containers can run here" } else { "containers cannot run here: see MISSING" };
    format!("{}\n{end}\n", table.text())
}

fn document(release: &str, layout: &Layout, usable: bool, facts: &[Fact]) -> Value {
    let facts: Vec<Value> = facts
        .iter()
        .map(|f| json!({"name": f.name, "state": f.state.word(), "needed": f.needed, "kconfig": f.symbol(), "meaning": f.meaning}))
        .collect();
    let v1: Vec<&String> = layout.v1.iter().map(|(name, _)| name).collect();
    json!({
        "usable": usable, "kernel": release,
        "cgroup": {"layout": layout_word(layout), "v1": v1, "v2": layout.controllers}, "facts": facts,
    })
}

fn kernel(release: &str) -> Fact {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let fact = Fact::new("kernel", false, "", Ok(release.to_owned()));
    match version {
        (5, 4..10) => fact.degraded(format!("{release}: older than 5.10, unproven")),
        v if v < (5, 4) => fact.degraded(format!("{release}: older than 5.4, not supported")),
        _ => fact,
    }
}

/// Root in the initial user namespace, with the capability that mounting needs (capabilities(7)).
fn privilege(status: &str) -> Fact {
    const CAP_SYS_ADMIN: u32 = 21;
    let bits = field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let whole = text("/proc/self/uid_map").split_whitespace().eq(["0", "0", "4294967295"]);
    let root = nix::unistd::geteuid().is_root();
    let fact = Fact::new("privilege", true, "", Ok("root, able to mount".into()));
    match (root, bits >> CAP_SYS_ADMIN & 1 == 1, whole) {
        (true, true, true) => fact,
        (true, true, false) => fact.degraded("root of a user namespace only: this is itself a container, and mounts may be refused"),
        (true, false, _) => {
            Fact::new("privilege", true, "", Err("root without CAP_SYS_ADMIN: this is itself an unprivileged container".into()))
        }
        (false, ..) => fact.degraded("not root: keeper must be started as root"),
    }
}

/// The value of `name:` in /proc/self/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

// ---- control groups ----

/// Mount point, file system, mount options and super block options of each line (proc_pid_mountinfo(5)).
fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let mut right = right.split(' ');
        Some((left.next()?, right.next()?, left.next()?, right.nth(1)?))
    })
}

fn layout_word(layout: &Layout) -> &'static str {
    match layout.kind() {
        Kind::V1 if layout.v1.is_empty() => "none",
        Kind::V1 => "v1",
        Kind::V2 => "v2",
        Kind::Hybrid => "hybrid",
    }
}

fn cgroups(layout: &Layout, mountinfo: &str) -> Vec<Fact> {
    let found = match layout_word(layout) {
        "none" => Err("no hierarchy is mounted: no limits, no statistics, no reliable stop".to_owned()),
        word => Ok(word.to_owned()),
    };
    let mut first = Fact::new("cgroup", true, "CGROUPS", found);
    if mounts(mountinfo).any(|(_, kind, options, _)| kind.starts_with("cgroup") && options.split(',').any(|o| o == "ro")) {
        first = Fact::new("cgroup", true, "CGROUPS", Err("mounted read-only: this is itself an unprivileged container".into()));
    }
    let mut out = vec![first];
    // Name on v1, on v2, symbol, what is lost.
    for (v1, v2, kconfig, lost) in [
        ("memory", "memory", "MEMCG", "no memory limits and figures"),
        ("cpu", "cpu", "CGROUP_SCHED", "no CPU limits"),
        // cpu.stat of v2 has the time used without any controller.
        ("cpuacct", "", "CGROUP_CPUACCT", "no CPU figures"),
        ("pids", "pids", "CGROUP_PIDS", "no limit of processes"),
        ("blkio", "io", "BLK_CGROUP", "no I/O figures"),
    ] {
        let on_v1 = layout.v1.iter().find(|(name, _)| name == v1);
        let on_v2 = layout.unified.is_some() && (v2.is_empty() || layout.controllers.iter().any(|c| c == v2));
        let found = match (on_v1, on_v2) {
            (Some((_, point)), _) => Ok(format!("v1, {point}")),
            (None, true) => Ok("v2".to_owned()),
            (None, false) => Err(lost.to_owned()),
        };
        out.push(Fact::new(format!("cgroup {v1}"), false, kconfig, found));
    }
    out.push(quota(layout));
    out.push(swap(layout));
    out
}

fn quota(layout: &Layout) -> Fact {
    limit(layout, "cpu quota", "CFS_BANDWIDTH", ("cpu", "cpu.cfs_quota_us"), ("cpu.max", "cpu.weight"), "no limit of CPU time (cpu.quota)")
}

fn swap(layout: &Layout) -> Fact {
    let v1 = ("memory", "memory.memsw.limit_in_bytes");
    limit(layout, "memory.swap", "SWAP", v1, ("memory.swap.max", "memory.max"), "no limit of swap (memory.swap)")
}

/// A limit whose file not every kernel has. `v1`: controller and file. `v2`: the file, and one that each group with the controller has.
fn limit(layout: &Layout, name: &str, kconfig: &'static str, v1: (&str, &str), v2: (&str, &str), lost: &str) -> Fact {
    let by = |found: Option<String>| Fact::new(name, false, kconfig, found.ok_or_else(|| lost.to_owned()));
    if let Some((_, point)) = layout.v1.iter().find(|(controller, _)| controller == v1.0) {
        return by(Some(format!("{point}/{}", v1.1)).filter(|f| Path::new(f).exists()));
    }
    let found = below(layout, v2.0);
    let offered = layout.controllers.iter().any(|c| c == v1.0);
    if found.is_none() && offered && below(layout, v2.1).is_none() {
        return by(None).degraded("cannot be told yet: the controller is not enabled for any group");
    }
    by(found)
}

/// A file that v2 has in every group but the root: looked for in our own group, then in those directly below the root.
fn below(layout: &Layout, file: &str) -> Option<String> {
    const MOST: usize = 256;
    let root = layout.unified.as_ref()?;
    let own = text("/proc/self/cgroup").lines().find_map(|l| l.strip_prefix("0::").map(str::to_owned)).unwrap_or_default();
    let groups = std::fs::read_dir(root).ok()?.flatten().take(MOST).map(|e| e.path().to_string_lossy().into_owned());
    std::iter::once(format!("{root}{own}")).chain(groups).map(|group| format!("{group}/{file}")).find(|f| Path::new(f).exists())
}

// ---- the rest of the kernel ----

fn namespaces() -> Vec<Fact> {
    let mut out = Vec::new();
    for (file, needed, kconfig) in [
        ("mnt", true, "NAMESPACES"),
        ("pid", true, "PID_NS"),
        ("net", true, "NET_NS"),
        ("ipc", true, "IPC_NS"),
        ("uts", true, "UTS_NS"),
        ("cgroup", true, "CGROUPS"),
        ("user", true, "USER_NS"),
        ("time", false, "TIME_NS"),
    ] {
        let there = Path::new("/proc/self/ns").join(file).symlink_metadata().is_ok();
        let lost = match (file, needed) {
            // Not for containers: archives are unpacked in one, by a process that is root nowhere else.
            ("user", _) => "no image can be unpacked",
            (_, true) => "containers cannot be kept apart",
            (_, false) => "not offered to containers",
        };
        let off = file == "user" && there && text("/proc/sys/user/max_user_namespaces").trim() == "0";
        let found = match (there, off) {
            (true, false) => Ok(String::new()),
            (true, true) => Err(format!("{lost}: switched off by user.max_user_namespaces = 0")),
            (false, _) => Err(lost.to_owned()),
        };
        out.push(Fact::new(format!("{file} namespace"), needed, kconfig, found));
    }
    out
}

fn filesystems(system: &System) -> Vec<Fact> {
    let mut out = Vec::new();
    for (name, needed, kconfig, lost) in [
        ("overlay", true, "OVERLAY_FS", "no image can be mounted"),
        ("tmpfs", true, "TMPFS", "no writable layer"),
        ("mqueue", false, "POSIX_MQUEUE", "no /dev/mqueue"),
        ("squashfs", false, "SQUASHFS", "no squashfs images"),
    ] {
        let listed = system.filesystems.lines().any(|l| l.split_whitespace().last() == Some(name));
        let fact = Fact::new(format!("{name} file system"), needed, kconfig, if listed { Ok(String::new()) } else { Err(lost.into()) });
        out.push(if !listed && loadable(&system.release, name) { fact.degraded(format!("not loaded: `modprobe {name}`")) } else { fact });
    }
    out
}

/// A module of this name is on disk: below `kernel/` as in most systems (listed in modules.dep), or flat as in OpenWrt.
fn loadable(release: &str, name: &str) -> bool {
    let dir = format!("/lib/modules/{release}");
    Path::new(&format!("{dir}/{name}.ko")).exists() || text(format!("{dir}/modules.dep")).contains(&format!("/{name}.ko"))
}

fn calls() -> Vec<Fact> {
    [
        (Syscall::PidfdOpen, "pidfd_open", true, "5.3", "processes cannot be watched safely"),
        (Syscall::PidfdSendSignal, "pidfd_send_signal", true, "5.1", "processes cannot be signalled safely"),
        (Syscall::Clone3, "clone3", true, "5.3", "no container can be started"),
        (Syscall::Execveat, "execveat", true, "3.19", "wherry cannot start its own roles"),
        (Syscall::MemfdCreate, "memfd_create", true, "3.17", "wherry cannot seal itself against containers"),
        (Syscall::Openat2, "openat2", true, "5.6", "paths in images cannot be resolved safely"),
        (Syscall::CloseRange, "close_range", false, "5.9", "descriptors are closed one by one"),
        (Syscall::Fsopen, "fsopen", true, "5.2", "nothing can be mounted"),
        (Syscall::OpenTree, "open_tree", true, "5.2", "nothing can be mounted"),
        (Syscall::MoveMount, "move_mount", true, "5.2", "nothing can be mounted"),
        (Syscall::MountSetattr, "mount_setattr", false, "5.12", "read-only is set mount by mount, no idmapped layers"),
    ]
    .into_iter()
    .map(|(call, name, needed, since, lost)| {
        Fact::new(name, needed, "", if probe::has(call) { Ok(String::new()) } else { Err(format!("{lost} (Linux {since})")) })
    })
    .collect()
}

fn seccomp(status: &str) -> Fact {
    let actions = text("/proc/sys/kernel/seccomp/actions_avail");
    let filter = field(status, "Seccomp").is_some() && probe::has(Syscall::Seccomp);
    let found = if filter { Ok(String::new()) } else { Err("system calls cannot be filtered".to_owned()) };
    let fact = Fact::new("seccomp filter", true, "SECCOMP_FILTER", found);
    let lacks: Vec<&str> =
        ["kill_process", "errno", "allow"].into_iter().filter(|a| !actions.split_whitespace().any(|w| w == *a)).collect();
    if filter && !lacks.is_empty() { fact.degraded(format!("the kernel does not list the actions {}", lacks.join(", "))) } else { fact }
}

/// pivot_root(2) answers EINVAL when the current root is the initial ramfs; a container's root is moved over it then.
fn root(mountinfo: &str) -> Fact {
    let kind = mounts(mountinfo).filter(|(point, ..)| *point == "/").last().map_or("unknown", |(_, kind, ..)| kind);
    let fact = Fact::new("root file system", true, "", Ok(kind.to_owned()));
    if kind == "rootfs" { fact.degraded("the initial ramfs: it cannot be detached, so a container's root covers it") } else { fact }
}

fn terminals() -> Fact {
    let there = Path::new("/dev/ptmx").exists();
    Fact::new("pseudoterminals", false, "UNIX98_PTYS", if there { Ok(String::new()) } else { Err("no `exec -t`".into()) })
}

fn loops() -> Fact {
    let there =
        Path::new("/dev/loop-control").exists() || text("/proc/devices").lines().any(|l| l.split_whitespace().nth(1) == Some("loop"));
    let fact = Fact::new("loop devices", false, "BLK_DEV_LOOP", if there { Ok(String::new()) } else { Err("no squashfs images".into()) });
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    if !there && loadable(&release, "loop") { fact.degraded("not loaded: `modprobe loop`") } else { fact }
}

/// With PSI built in but switched off (`psi=0`, or CONFIG_PSI_DEFAULT_DISABLED), reading answers EOPNOTSUPP.
fn pressure() -> Fact {
    let lost = "no pressure figures".to_owned();
    match crate::sys::fd::read_file("/proc/pressure/memory", MAX) {
        Ok(_) => Fact::new("pressure (PSI)", false, "PSI", Ok(String::new())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Fact::new("pressure (PSI)", false, "PSI", Err(lost)),
        Err(_) => Fact::new("pressure (PSI)", false, "PSI", Err(lost)).degraded("switched off: boot with psi=1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_groups_are_as_good_as_none() {
        let mounts = "1 1 0:1 / /c ro,nosuid - cgroup2 none rw\n";
        let facts = cgroups(&Layout::from_mountinfo(mounts, "").unwrap(), mounts);
        assert_eq!((facts[0].state, facts[0].needed), (State::Missing, true));
    }

    #[test]
    fn a_limit_is_not_called_missing_before_its_controller_is_enabled() {
        let root = std::env::temp_dir().join(format!("wherry-check-{}", std::process::id()));
        let group = root.join("services");
        std::fs::create_dir_all(&group).unwrap();
        let layout = Layout { unified: Some(root.to_str().unwrap().into()), controllers: vec!["cpu".into()], ..Layout::default() };
        let mut states = vec![quota(&layout).state];
        for file in ["cpu.weight", "cpu.max"] {
            std::fs::write(group.join(file), "").unwrap();
            states.push(quota(&layout).state);
        }
        states.push(swap(&layout).state);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(states, [State::Degraded, State::Missing, State::Present, State::Missing]);
    }

    #[test]
    fn old_kernels_are_told() {
        for (release, state) in [
            ("6.18.44-x", State::Present),
            ("5.10.0", State::Present),
            ("5.4.0", State::Degraded),
            ("4.14.1", State::Degraded),
            ("", State::Degraded),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn the_initial_ramfs_is_told() {
        assert_eq!(root("1 1 0:1 / / rw - rootfs none rw\n").state, State::Degraded);
        assert_eq!(root("1 1 0:1 / / rw - rootfs none rw\n2 1 0:2 / / rw - ext4 x rw\n").state, State::Present);
    }
}
