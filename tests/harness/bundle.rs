//! The same container for a runtime that reads an OCI `config.json`.

use serde_json::{Value, json};
use std::path::Path;

/// What our spec means in OCI words.
pub fn config(root: &Path, argv: &[&str]) -> Value {
    let names: Vec<String> = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
    .iter()
    .map(|n| format!("CAP_{n}"))
    .collect();
    let mount =
        |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": false},
        "hostname": "box",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": argv,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "HOSTNAME=box"],
            "noNewPrivileges": true, "oomScoreAdj": 0,
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            "capabilities": {"bounding": names, "effective": names, "permitted": names},
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "nodev", "noexec"]),
            mount("/dev", "tmpfs", &["nosuid", "noexec", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1777"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
            mount("/sys", "sysfs", &["nosuid", "nodev", "noexec", "ro"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
