//! What Wherry takes of the machine while nothing happens: its binary, memory, and flash.

use crate::harness::broker::free_port;
use crate::harness::device::program;
use crate::harness::{Device, json, manifest, shell, sleeper, with};
use crate::table::{Budget, Row, Table};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The shipped program.
pub fn binary(table: &mut Table) {
    let size = fs::metadata(program()).unwrap().len();
    // Of aarch64; this machine's own maximum stands in cross/budgets.toml.
    table.rows.push(Row::new("the binary, static and stripped", size as f64, "bytes").within(Budget::AtMost(2_097_152.0)));
}

/// Keeper and agent over TLS, before and after deployments, and what each container adds.
pub fn resident(table: &mut Table, deployments: usize, containers: usize) {
    let before = Machine::now();
    let mut device = over_tls();
    let broker = Machine::now();
    device.start();
    device.online();
    for app in APPS {
        device.applied(&manifest(app, sleeper()));
    }
    // Each is on trial for some seconds: one of each app at a time.
    let begin = |n: usize| {
        let next = manifest(APPS[n % APPS.len()], with(sleeper(), json!({"env": {"DEPLOYMENT": n.to_string()}})));
        let path = device.file(&format!("{}.json", APPS[n % APPS.len()]), next.to_string());
        device.command(&["apply", &path]).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    for first in (0..deployments).step_by(APPS.len()) {
        let at_once: Vec<_> = (first..deployments.min(first + APPS.len())).map(begin).collect();
        at_once.into_iter().for_each(|mut apply| assert!(apply.wait().unwrap().success()));
    }
    // Without a container whose pid 1 shares our pages: what is counted is all ours.
    for app in APPS {
        device.ok(&["stop", app]);
    }
    settle();
    let idle = Machine::now();
    let alone = pss(device.keeper()) + pss(device.agent());
    let state = format!("idle, over TLS, three apps in the store, after {deployments} deployments");
    table.rows.extend([
        Row::new(format!("memory of keeper and agent (PSS), {state}"), alone, "KiB").within(Budget::Aim(3072.0, 2048.0)),
        Row::new(
            "of that private to keeper, and to agent (the rest is one program in memory)",
            private(device.keeper()) + private(device.agent()),
            "KiB",
        ),
        Row::new("the machine's MemAvailable less, whatever else ran included", broker.available - idle.available, "KiB"),
        Row::new("the machine's kernel memory (Slab) more, likewise", idle.slab - broker.slab, "KiB"),
        Row::new("the machine's memory files (Shmem) more, likewise: the sealed program", idle.shmem - before.shmem, "KiB"),
    ]);
    each(table, &device, alone, containers);
}

/// Kernel memory of one container as its group counts it: v1 by a file, v2 in a list.
fn charged(device: &Device) -> f64 {
    let text = device.control_file("many/c0", &["memory.kmem.usage_in_bytes", "memory.stat"]);
    text.parse().ok().or_else(|| number(&text, "kernel ")).unwrap_or_default() / 1024.0
}

const APPS: [&str; 3] = ["one", "two", "three"];

/// Our part of each running container: what keeper, agent and all pid 1 together take more than before.
fn each(table: &mut Table, device: &Device, alone: f64, many: usize) {
    let before = Machine::now();
    let all: serde_json::Map<String, crate::harness::Value> = (0..many).map(|n| (format!("c{n}"), sleeper())).collect();
    device.applied(&json!({"wherry": 1, "app": "many", "containers": all}));
    let pids: Vec<i32> = (0..many).map(|n| device.running(&format!("many/c{n}"))).collect();
    settle();
    let after = Machine::now();
    let ours: f64 = pids.iter().chain(&[device.keeper(), device.agent()]).map(|pid| pss(*pid)).sum();
    let (many, first) = (many as f64, pids[0]);
    table.rows.extend([
        Row::new(format!("memory per running container, our part (PSS; mean of {many})"), (ours - alone) / many, "KiB")
            .within(Budget::AtMost(100.0)),
        Row::new("of that private to its pid 1", private(first), "KiB"),
        Row::new("kernel memory charged to its group, the payload's page tables and stack included", charged(device), "KiB"),
        Row::new(
            "the machine's MemAvailable less for each, payload and whatever else ran included",
            (before.available - after.available) / many,
            "KiB",
        ),
    ]);
}

/// Bytes written to the disk that holds the data directory, a file system of its own on a loop device, while three apps run and nothing else happens.
pub fn flash(table: &mut Table, idle: Duration) {
    let disk = Disk::new();
    let mut device = Device::prepared(json!({"data_dir": disk.dir.join("data"), "interval_s": 10}));
    fs::create_dir(disk.dir.join("data")).unwrap();
    device.broker.up();
    device.start();
    device.online();
    for app in APPS {
        device.applied(&manifest(app, shell("while true; do echo tick; sleep 1; done")));
    }
    disk.sync();
    let before = disk.written();
    std::thread::sleep(idle);
    disk.sync();
    let what = format!("written to flash in {} s with three apps that print each second, and statistics", idle.as_secs());
    table.rows.push(Row::new(what, disk.written() - before, "bytes").within(Budget::AtMost(0.0)));
}

/// What the kernel says of the whole machine, in KiB. Whatever else runs on it is in there too.
struct Machine {
    available: f64,
    slab: f64,
    shmem: f64,
}

impl Machine {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let field = |name| number(&text, name).unwrap_or_else(|| panic!("/proc/meminfo has no {name}"));
        Self { available: field("MemAvailable:"), slab: field("Slab:"), shmem: field("Shmem:") }
    }
}

/// The first number behind a name.
fn number(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn rollup(pid: i32, fields: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    fields.iter().map(|f| number(&text, f).unwrap()).sum()
}

fn pss(pid: i32) -> f64 {
    rollup(pid, &["Pss:"])
}

fn private(pid: i32) -> f64 {
    rollup(pid, &["Private_Clean:", "Private_Dirty:"])
}

/// Until what was started last is through, its reports are out and the kernel has freed what it frees later.
fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

/// A device whose broker runs, with a certificate of our own authority.
fn over_tls() -> Device {
    let mut device = Device::prepared(json!({"interval_s": 10}));
    let (dir, port) = (device.dir.clone(), free_port());
    certificates(&dir);
    let conf = dir.join("mosquitto.conf");
    let file = |name: &str| dir.join(name).display().to_string();
    let listener = format!("listener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n", file("server.pem"), file("server.key"));
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + &listener).unwrap();
    device.settings["brokers"] = json!([{"host": "127.0.0.1", "port": port, "tls": {"ca": file("ca.pem")}}]);
    device.broker.up();
    device
}

fn certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    for args in [
        format!("req -x509 {key} -keyout ca.key -out ca.pem -days 3650 -subj /CN=figures"),
        format!("req {key} -keyout server.key -out server.csr -subj /CN=server"),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile san -out server.pem".into(),
    ] {
        run(Command::new("openssl").args(args.split_whitespace()).current_dir(dir));
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// An ext4 of its own on a loop device.
struct Disk {
    image: PathBuf,
    dir: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("flash-{}", std::process::id()));
        let disk = Self { image: dir.with_extension("ext4"), dir };
        fs::create_dir(&disk.dir).unwrap();
        fs::File::create(&disk.image).unwrap().set_len(64 << 20).unwrap();
        // Nothing that ext4 itself would write later.
        run(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&disk.image));
        run(Command::new("mount").args(["-o", "loop"]).args([&disk.image, &disk.dir]));
        disk
    }

    fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(&self.dir));
    }

    fn written(&self) -> f64 {
        const SECTOR: f64 = 512.0;
        let device = nix::sys::stat::stat(&self.dir).unwrap().st_dev;
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
        stat.split_whitespace().nth(6).unwrap().parse::<f64>().unwrap() * SECTOR
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).status();
        let _ = fs::remove_file(&self.image);
        let _ = fs::remove_dir(&self.dir);
    }
}
