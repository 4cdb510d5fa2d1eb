//! What a container has, by the kernel's word.

use std::fs;

/// A set of capabilities, by their numbers in `linux/capability.h`.
pub fn capabilities(numbers: &[u32]) -> u64 {
    numbers.iter().map(|n| 1 << n).sum()
}

/// Whether a process is this program.
pub fn is_running(pid: i32, program: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == program)
}

/// Where something is mounted in a container, and of which type (proc_pid_mountinfo(5)).
pub fn mounts(pid: i32) -> Vec<String> {
    Process::read(pid).expect("it runs").mounts()
}

/// Everything that a container has beyond this: these capabilities, so many bytes of memory, the filter, no new privileges, namespaces of its own, and these
/// mounts.
pub fn excesses(pid: i32, ceiling: u64, memory: u64, mounts: &[String]) -> Vec<String> {
    let Some(proc) = Process::read(pid) else { return Vec::new() };
    let mut found = Vec::new();
    for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        let has = u64::from_str_radix(proc.field(set), 16).unwrap();
        if has & !ceiling != 0 {
            found.push(format!("{set} is {has:x}"));
        }
    }
    for (field, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        if proc.field(field) != wanted {
            found.push(format!("{field} is {}", proc.field(field)));
        }
    }
    for (name, link) in ["net", "ipc", "uts", "mnt", "pid", "cgroup"].into_iter().zip(&proc.namespaces) {
        if *link == fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_string_lossy() {
            found.push(format!("the device's own {name} namespace"));
        }
    }
    if let Some(limit) = proc.limit().filter(|limit| *limit > memory) {
        found.push(format!("{limit} bytes of memory"));
    }
    found.extend(proc.mounts().into_iter().filter(|m| !mounts.contains(m)).map(|m| format!("a mount at {m}")));
    found
}

/// What is read of one process, whole or, when it has gone meanwhile, not at all.
struct Process {
    status: String,
    mountinfo: String,
    cgroup: String,
    namespaces: Vec<String>,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok().filter(|text| !text.is_empty());
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok().map(|l| l.to_string_lossy().into_owned());
        let namespaces = ["net", "ipc", "uts", "mnt", "pid", "cgroup"].into_iter().map(link).collect::<Option<_>>()?;
        Some(Self { status: file("status")?, mountinfo: file("mountinfo")?, cgroup: file("cgroup")?, namespaces })
    }

    fn field(&self, name: &str) -> &str {
        let line = self.status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.status)).trim()
    }

    /// Of the control group, version 1 or 2 (cgroups(7)); `None` if that has gone.
    fn limit(&self) -> Option<u64> {
        let path = |line: &str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let below = |dir: &str, file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{dir}{path}/{file}")).ok();
            match controllers {
                "memory" => below("memory", "memory.limit_in_bytes"),
                "" => below("", "memory.max"),
                _ => None,
            }
        };
        let text = self.cgroup.lines().find_map(path)?;
        Some(text.trim_end().parse().unwrap_or(u64::MAX))
    }

    fn mounts(&self) -> Vec<String> {
        let entry = |line: &str| {
            let (at, kind) = line.split_once(" - ")?;
            Some(format!("{} {}", at.split(' ').nth(4)?, kind.split(' ').next()?))
        };
        self.mountinfo.lines().map(|line| entry(line).unwrap_or_else(|| panic!("{line:?} is no line of mountinfo"))).collect()
    }
}
