//! The container runtime against a real kernel, seen from inside and outside; as root. This process stands in keeper's place: it
//! spawns `launch`, and what launch clones is our child.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use wherry::cgroup::Layout;
use wherry::container::exit_record::{self, ExitRecord};
use wherry::container::{Spec, Wiring, caps};
use wherry::ipc::{Conn, ExecArgs, ExecJob, Failure, FromLaunch, Scope, ToLaunch};
use wherry::manifest::{Mount, Network, Resources, Rlimit, RlimitKind, Seccomp};
use wherry::protocol::Reason;
use wherry::sys::process::{Child, Ended, Spawn, reap, spawn};
use wherry::sys::signal::pidfd_send;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

// ---- the stand ----

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A directory of our own with a busybox image in it, and a cgroup group; both vanish at the end.
struct Host {
    dir: PathBuf,
    layout: Layout,
    group: String,
    layers: Vec<PathBuf>,
}

impl Host {
    fn new() -> Self {
        assert!(nix::unistd::Uid::effective().is_root(), "these tests start containers: run them as root");
        let name = format!("rt-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("wherry-{name}"));
        fs::create_dir_all(dir.join("scratch")).unwrap();
        let layer = dir.join("layer");
        busybox(&layer);
        Self { layout: Layout::detect().unwrap(), group: format!("wherry/{name}/app"), layers: vec![layer], dir }
    }

    /// The image's only layer, to be made hostile.
    fn layer(&self) -> &Path {
        &self.layers[0]
    }

    fn wiring(&self) -> Wiring {
        let text = |p: &Path| p.to_str().unwrap().to_owned();
        Wiring {
            name: "app/box".into(),
            layers: self.layers.iter().map(|l| text(l)).collect(),
            scratch: text(&self.dir.join("scratch")),
            layout: self.layout.clone(),
            group: self.group.clone(),
        }
    }

    /// Up to `Cloned`: pid 1 exists and waits.
    fn clone(&self, spec: &Spec) -> Result<Started<'_>, Failure> {
        let fifo = self.dir.join("log");
        let _ = fs::remove_file(&fifo);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let log = File::options().read(true).write(true).open(&fifo).unwrap();
        let output = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).unwrap();
        let record = File::options().read(true).write(true).create(true).truncate(true).open(self.dir.join("exit")).unwrap();
        let (conn, launch) = spawn_launch();
        let start = ToLaunch::Start { spec: Box::new(spec.clone()), wiring: Box::new(self.wiring()) };
        conn.send_with(&start, &[log.as_fd(), record.as_fd()]).unwrap();
        drop(log);
        let answer = cloned(&conn);
        finish_role(launch);
        let (child, _, missing) = answer?;
        Ok(Started { host: self, child: Some(child), conn, output, record, seen: String::new(), missing })
    }

    /// Up to a running payload, or the failure on the way there.
    fn start(&self, spec: &Spec) -> Result<Started<'_>, Failure> {
        let mut started = self.clone(spec)?;
        started.conn.send(&ToLaunch::Go).unwrap();
        match until_eof(&started.conn) {
            None => Ok(started),
            Some(failure) => {
                started.wait();
                Err(failure)
            }
        }
    }

    /// To the end.
    fn run(&self, spec: &Spec) -> Finished {
        let mut started = self.start(spec).unwrap_or_else(|f| panic!("{:?}: {}", f.reason, f.message));
        started.finish()
    }

    /// Runs a shell script to the end; what it printed.
    fn sh(&self, script: &str) -> String {
        self.run(&shell(script)).output
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let group = self.layout.group(&self.group);
        let _ = group.kill();
        let removed = within(|| group.remove().unwrap_or(false));
        let (parent, _) = self.group.rsplit_once('/').unwrap();
        let _ = self.layout.group(parent).remove();
        let _ = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert!(removed, "the group {} must be empty at the end", self.group);
            assert!(!self.dir.exists(), "{} must hold no mount at the end", self.dir.display());
        }
    }
}

fn busybox(layer: &Path) {
    for dir in ["bin", "etc", "tmp", "root", "home/app"] {
        fs::create_dir_all(layer.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("busybox-static must be installed");
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1001:\ndialout:x:20:app\n").unwrap();
}

/// A pid 1 and what belongs to it.
struct Started<'a> {
    host: &'a Host,
    child: Option<Child>,
    conn: Conn,
    output: File,
    record: File,
    seen: String,
    missing: Vec<(String, String)>,
}

struct Finished {
    ended: Ended,
    output: String,
    record: Option<ExitRecord>,
}

impl Started<'_> {
    fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().pid
    }

    fn signal(&self, signal: i32) {
        pidfd_send(&self.child.as_ref().unwrap().pidfd, signal).unwrap();
    }

    fn read(&mut self) {
        let mut bytes = Vec::new();
        // WouldBlock when all was read: the data before it is kept.
        let _ = self.output.read_to_end(&mut bytes);
        self.seen.push_str(&String::from_utf8_lossy(&bytes));
    }

    /// Waits until the container has printed `text`.
    fn expect(&mut self, text: &str) {
        let found = within(|| {
            self.read();
            self.seen.contains(text)
        });
        assert!(found, "{text:?} must appear in {:?}", self.seen);
    }

    fn wait(&mut self) -> Option<Ended> {
        let child = self.child.take()?;
        if !readable(&child.pidfd, PATIENCE) {
            let _ = pidfd_send(&child.pidfd, SIGKILL);
            let _ = reap(child.pid);
            panic!("the container must end in {PATIENCE:?}");
        }
        Some(reap(child.pid).unwrap())
    }

    fn finish(&mut self) -> Finished {
        let ended = self.wait().unwrap();
        self.read();
        Finished { ended, output: std::mem::take(&mut self.seen), record: exit_record::read(&self.record).unwrap() }
    }

    fn job(&self, spec: &Spec, args: ExecArgs) -> ToLaunch {
        let (layout, group) = (self.host.layout.clone(), self.host.group.clone());
        ToLaunch::Exec(Box::new(ExecJob { pid: self.pid(), spec: spec.clone(), layout, group, args }))
    }

    /// Runs a program in the container with pipes; how it ended and what it printed.
    fn exec(&self, spec: &Spec, args: ExecArgs) -> Result<(Ended, String), Failure> {
        let (conn, launch) = spawn_launch();
        let null = File::open("/dev/null").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        conn.send_with(&self.job(spec, args), &[null.as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
        drop(writer);
        let answer = cloned(&conn);
        finish_role(launch);
        let (child, _, _) = answer?;
        conn.send(&ToLaunch::Go).unwrap();
        if let Some(failure) = until_eof(&conn) {
            reap(child.pid).unwrap();
            return Err(failure);
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        Ok((reap(child.pid).unwrap(), text))
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = pidfd_send(&child.pidfd, SIGKILL);
            let _ = reap(child.pid);
        }
    }
}

fn binary() -> OwnedFd {
    let path = std::env::var_os("WHERRY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_wherry").into());
    File::open(path).unwrap().into()
}

fn spawn_launch() -> (Conn, Child) {
    let (ours, theirs) = Conn::pair().unwrap();
    let (exe, argv) = (binary(), [CString::from(c"wherry"), CString::from(c"launch")]);
    let launch = spawn(&Spawn { exe: exe.as_fd(), argv: &argv, env: &[], fds: &[theirs.as_fd()], flags: 0 }).unwrap();
    (ours, launch)
}

fn finish_role(launch: Child) {
    assert!(readable(&launch.pidfd, PATIENCE), "launch must be gone once it has answered");
    reap(launch.pid).unwrap();
}

type Answer = Result<(Child, Option<OwnedFd>, Vec<(String, String)>), Failure>;

fn cloned(conn: &Conn) -> Answer {
    assert!(readable(conn, PATIENCE), "launch must answer");
    match conn.recv_with::<FromLaunch>().unwrap() {
        Some((FromLaunch::Cloned { pid, missing }, fds)) => {
            let mut fds = fds.into_iter();
            Ok((Child { pid, pidfd: fds.next().unwrap() }, fds.next(), missing))
        }
        Some((FromLaunch::Failed(failure), _)) => Err(failure),
        None => panic!("launch must say something before it goes"),
    }
}

fn until_eof(conn: &Conn) -> Option<Failure> {
    assert!(readable(conn, PATIENCE), "exec, or a failure, must come");
    match conn.recv::<FromLaunch>().unwrap() {
        Some(FromLaunch::Failed(failure)) => Some(failure),
        Some(other) => panic!("{other:?} after Go"),
        None => None,
    }
}

fn readable(fd: impl AsFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience.as_millis() as i32).unwrap();
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() > 0
}

/// Asks again and again until the answer is yes, or patience is over.
fn within(mut ask: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if ask() {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// A container as a plain manifest makes it.
fn spec(argv: &[&str]) -> Spec {
    Spec {
        argv: strings(argv),
        env: Vec::new(),
        workdir: "/".into(),
        user: String::new(),
        hostname: "box".into(),
        capabilities: caps::default_set(),
        seccomp: Seccomp::Default,
        no_new_privileges: true,
        readonly: false,
        upper: 8 << 20,
        mounts: Vec::new(),
        network: Network::None,
        rlimits: Vec::new(),
        init: true,
        resources: Resources::default(),
        ambient: 0,
    }
}

fn shell(script: &str) -> Spec {
    spec(&["/bin/sh", "-c", script])
}

fn args(argv: &[&str]) -> ExecArgs {
    let scope = Scope { app: "app".parse().unwrap(), container: None };
    ExecArgs { scope, argv: strings(argv), env: Vec::new(), user: None, workdir: None, terminal: None }
}

fn host_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("{field}:"))).unwrap_or_else(|| panic!("no {field}"));
    line.split_once(':').unwrap().1.trim().to_owned()
}

fn failure(result: Result<Started<'_>, Failure>) -> Failure {
    result.err().expect("this must fail")
}

// ---- ends ----

#[test]
fn the_payloads_exit_code_is_the_containers_and_stands_in_the_record() {
    let host = Host::new();
    for (script, code) in [("exit 0", 0), ("exit 1", 1), ("exit 77", 77), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        let end = host.run(&shell(script));
        assert_eq!(end.ended, Ended::Code(code), "{script}");
        let recorded = if code > 128 { Ended::Signal(code - 128) } else { Ended::Code(code) };
        assert_eq!(end.record.map(|r| r.ended), Some(recorded), "{script}");
    }
}

#[test]
fn a_payload_that_is_pid_1_itself_leaves_no_record_but_its_status() {
    let host = Host::new();
    let end = host.run(&Spec { init: false, ..shell("echo $$; exit 3") });
    assert_eq!((end.ended, end.output.as_str(), end.record), (Ended::Code(3), "1\n", None));
}

#[test]
fn our_pid_1_passes_signals_on_and_ends_with_the_payload() {
    let host = Host::new();
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut c = host.start(&shell(script)).unwrap();
    c.expect("ready");
    c.signal(10);
    c.expect("usr1");
    c.signal(SIGTERM);
    let end = c.finish();
    assert_eq!((end.ended, end.record.map(|r| r.ended)), (Ended::Code(5), Some(Ended::Code(5))));
}

#[test]
fn a_payload_without_handler_dies_of_the_signal_although_pid_1_would_not() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    c.signal(SIGTERM);
    assert_eq!(c.finish().record.map(|r| r.ended), Some(Ended::Signal(15)));
}

#[test]
fn a_signal_that_comes_before_the_payload_is_not_lost() {
    let host = Host::new();
    let mut c = host.clone(&shell("sleep 60")).unwrap();
    c.signal(SIGTERM);
    // All but KILL and STOP. What came before this, at the very first instructions, is the one thing that is lost.
    assert!(within(|| status(c.pid(), "SigBlk") == "fffffffffffbfeff"), "{}", status(c.pid(), "SigBlk"));
    c.signal(SIGTERM);
    c.conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(c.finish().record.map(|r| r.ended), Some(Ended::Signal(15)));
}

#[test]
fn orphans_are_reaped() {
    let host = Host::new();
    let mut c = host.start(&shell("for i in 1 2 3 4 5; do (sleep 0.05 &); done; sleep 0.5; ps -o stat,comm; echo done; sleep 60")).unwrap();
    c.expect("done");
    assert!(!c.seen.lines().any(|l| l.trim_start().starts_with('Z')), "{}", c.seen);
}

#[test]
fn what_the_payload_leaves_running_dies_with_it() {
    let host = Host::new();
    let end = host.run(&shell("sleep 600 & exit 0"));
    assert_eq!(end.ended, Ended::Code(0));
    assert!(host.layout.group(&host.group).pids().is_empty());
}

#[test]
fn a_killed_pid_1_is_a_killed_container_without_record() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    c.signal(SIGKILL);
    let end = c.finish();
    assert_eq!((end.ended, end.record), (Ended::Signal(9), None));
}

// ---- the handshake ----

#[test]
fn nothing_is_left_when_keeper_goes_before_go() {
    let host = Host::new();
    let mut c = host.clone(&shell("echo never")).unwrap();
    c.conn = Conn::pair().unwrap().0;
    let end = c.finish();
    assert_eq!((end.ended, end.output.as_str()), (Ended::Code(0), ""));
}

#[test]
fn launch_killed_at_any_moment_leaves_no_running_container() {
    let host = Host::new();
    for delay in 0..16 {
        let (conn, launch) = spawn_launch();
        let log = File::options().read(true).write(true).open("/dev/null").unwrap();
        let start = ToLaunch::Start { spec: Box::new(shell("sleep 600")), wiring: Box::new(host.wiring()) };
        conn.send_with(&start, &[log.as_fd(), log.as_fd()]).unwrap();
        std::thread::sleep(Duration::from_micros(250 * delay));
        let _ = pidfd_send(&launch.pidfd, SIGKILL);
        reap(launch.pid).unwrap();
        // Either nothing was said, or a pid 1 that exits without Go.
        let child = readable(&conn, Duration::from_millis(1)).then(|| conn.recv_with::<FromLaunch>().ok().flatten()).flatten();
        drop(conn);
        if let Some((FromLaunch::Cloned { pid, .. }, _)) = child {
            assert_eq!(reap(pid).unwrap(), Ended::Code(0));
        }
        assert!(within(|| host.layout.group(&host.group).pids().is_empty()), "after {delay} quarters of a millisecond");
    }
}

#[test]
fn a_missing_program_is_an_exec_failure_with_a_hint() {
    let host = Host::new();
    fs::write(host.layer().join("bin/text"), "no program").unwrap();
    fs::write(host.layer().join("bin/noloader"), "#!/no/such/interpreter\n").unwrap();
    fs::write(host.layer().join("bin/locked"), "#!/bin/sh\n").unwrap();
    for f in ["text", "noloader"] {
        fs::set_permissions(host.layer().join("bin").join(f), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (program, hint) in [
        ("/bin/absent", "no such file"),
        ("absent", "not found in the container's PATH"),
        ("text", "another processor"),
        ("noloader", "interpreter or loader"),
        ("locked", "not executable"),
    ] {
        for init in [true, false] {
            let f = failure(host.start(&Spec { init, ..spec(&[program]) }));
            assert_eq!(f.reason, Reason::Exec, "{}", f.message);
            assert!(f.message.contains(program) && f.message.contains(hint), "{}", f.message);
        }
    }
}

#[test]
fn a_missing_layer_or_bind_source_is_named() {
    let mut host = Host::new();
    let wanted = Mount::Bind { source: "/no/such/source".into(), target: "/x".into(), readonly: true };
    let f = failure(host.start(&Spec { mounts: vec![wanted], ..shell("true") }));
    assert!(f.reason == Reason::Launch && f.message.contains("/no/such/source"), "{}", f.message);
    host.layers.push("/no/such/layer".into());
    let f = failure(host.start(&shell("true")));
    assert!(f.reason == Reason::Launch && f.message.contains("/no/such/layer: No such file or directory"), "{}", f.message);
}

#[test]
fn limits_that_the_kernel_lacks_are_reported_before_the_start() {
    let host = Host::new();
    let resources = Resources { memory_max: Some(16 << 20), pids_max: Some(32), ..Resources::default() };
    let c = host.clone(&Spec { resources, ..shell("true") }).unwrap();
    assert!(c.missing.iter().all(|(limit, _)| limit == "memory.high" || limit == "swap"), "{:?}", c.missing);
}

#[test]
fn a_container_sees_its_own_memory_limit_and_cannot_change_it() {
    let host = Host::new();
    let resources = Resources { memory_max: Some(24 << 20), ..Resources::default() };
    let script = "cd /sys/fs/cgroup; for f in memory/memory.limit_in_bytes memory.max; do [ -e $f ] && cat $f && echo 1 > $f; done 2>&1";
    let out = host.run(&Spec { resources, ..shell(script) }).output;
    assert!(out.starts_with(&format!("{}\n", 24 << 20)) && out.contains("Read-only file system"), "{out}");
}

#[test]
fn an_allocation_beyond_the_limit_kills_the_payload_and_is_recorded() {
    let host = Host::new();
    let resources = Resources { memory_max: Some(16 << 20), swap_max: Some(0), ..Resources::default() };
    let end = host.run(&Spec { resources, upper: 64 << 20, ..shell("exec dd if=/dev/zero of=/dev/null bs=40M count=1") });
    assert_eq!(end.record.map(|r| r.ended), Some(Ended::Signal(9)));
}

// ---- what pid 1 and the payload are, from outside ----

#[test]
fn the_payload_has_exactly_the_default_capabilities_no_new_privs_and_a_filter() {
    let host = Host::new();
    for init in [true, false] {
        let mut c = host.start(&Spec { init, ..shell("echo ready; exec sleep 60") }).unwrap();
        c.expect("ready");
        let payload = if init { only_child(c.pid()) } else { c.pid() };
        for field in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(payload, field), "00000000a80425fb", "{field}");
        }
        for field in ["CapInh", "CapAmb", "SigBlk", "SigIgn"] {
            assert_eq!(status(payload, field), "0000000000000000", "{field}");
        }
        for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Groups", "")] {
            assert_eq!(status(payload, field), value, "{field}");
        }
    }
}

#[test]
fn our_pid_1_keeps_the_right_to_signal_and_nothing_else() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    let pid = c.pid();
    assert!(within(|| status(pid, "CapBnd") == "0000000000000020"));
    for field in ["CapPrm", "CapEff"] {
        assert_eq!(status(pid, field), "0000000000000020", "{field}");
    }
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(status(pid, field), "0000000000000000", "{field}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert!(within(|| descriptors(pid).len() == 4), "{:?}", descriptors(pid));
    // The exit record is the only descriptor beside standard input and output.
    assert!(descriptors(pid).iter().any(|d| d.ends_with("/exit")), "{:?}", descriptors(pid));
}

#[test]
fn pid_1_cannot_be_looked_into_from_inside() {
    let host = Host::new();
    let out = host.sh("cat /proc/1/fd/* 2>&1; ls -l /proc/1/exe /proc/1/root 2>&1; cat /proc/1/environ 2>&1; cat /proc/1/mem 2>&1");
    assert_eq!(out.matches("Permission denied").count(), 8, "four descriptors, two links, two files: {out}");
}

fn only_child(pid: i32) -> i32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(path).unwrap().split_whitespace().next().expect("pid 1 has a child").parse().unwrap()
}

fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|e| fs::read_link(e.ok()?.path()).ok()).map(|l| l.to_string_lossy().into_owned()).collect()
}

#[test]
fn every_namespace_but_user_and_time_is_its_own() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    let link = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let pid = c.pid().to_string();
    for name in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        assert_ne!(link(&pid, name), link("self", name), "{name}");
    }
    assert_eq!(link(&pid, "user"), link("self", "user"));
}

#[test]
fn the_hosts_mounts_are_the_same_before_during_and_after() {
    // Other programs of the machine may mount meanwhile: then it is tried again.
    let same = (0..5).any(|_| {
        let host = Host::new();
        let before = host_mounts();
        let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
        c.expect("ready");
        let during = host_mounts();
        c.signal(SIGTERM);
        c.finish();
        before == during && before == host_mounts()
    });
    assert!(same);
}

#[test]
fn pid_1_is_in_its_group_and_sees_it_as_the_root() {
    let host = Host::new();
    let out = host.sh("cat /proc/self/cgroup");
    // A hierarchy in which we make no group stays as the caller had it.
    let joined = |line: &&str| ["memory", "pids", "cpu", "cpuacct", "blkio", ""].contains(&line.split(':').nth(1).unwrap());
    let lines: Vec<&str> = out.lines().filter(joined).collect();
    assert!(!lines.is_empty() && lines.iter().all(|l| l.ends_with(":/")), "{out}");
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    assert!(host.layout.group(&host.group).pids().contains(&c.pid()));
}

// ---- the view from inside ----

#[test]
fn only_the_containers_own_mounts_are_seen() {
    let host = Host::new();
    let out = host.sh("cut -d' ' -f2,3,4 /proc/self/mounts");
    let line = |target: &str| out.lines().find(|l| l.split(' ').next() == Some(target)).unwrap_or_else(|| panic!("no {target} in {out}"));
    for (target, kind, options) in [
        ("/", "overlay", "rw,nodev"),
        ("/proc", "proc", "rw,nosuid,nodev,noexec"),
        ("/dev", "tmpfs", "rw,nosuid,noexec"),
        ("/dev/pts", "devpts", "rw,nosuid,noexec"),
        ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec"),
    ] {
        assert!(line(target).starts_with(&format!("{target} {kind} {options}")), "{}", line(target));
    }
    let own = |l: &str| {
        ["/", "/proc", "/dev", "/sys"].iter().any(|p| l.split(' ').next() == Some(p))
            || l.starts_with("/proc/")
            || l.starts_with("/dev/")
            || l.starts_with("/sys/")
    };
    assert!(out.lines().all(own), "{out}");
}

#[test]
fn dev_has_six_nodes_and_five_links_and_no_disk() {
    let host = Host::new();
    let out = host.sh("cd /dev; for f in *; do [ -c $f ] && [ ! -L $f ] && echo $f; done; ls -l /dev | grep -c ' -> '; find / -xdev -type b; [ -c /dev/ptmx ] && echo ptmx; echo x > /dev/null && head -c 4 /dev/zero | wc -c; (echo < /dev/tty) 2>&1");
    let expected = "full\nnull\nrandom\ntty\nurandom\nzero\n5\nptmx\n4\n";
    assert!(out.replace("ptmx\nfull", "full").contains("full\nnull"), "{out}");
    assert!(out.contains("\nrandom\n") && out.contains("\n5\n") && out.contains("ptmx\n4\n"), "{out} against {expected}");
    assert!(out.ends_with("can't open /dev/tty: No such device or address\n"), "no controlling terminal: {out}");
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_refuse_writing() {
    let host = Host::new();
    let out = host.sh(
        "for p in kcore keys timer_list interrupts mtd sched_debug; do [ -e /proc/$p ] && head -c 1 /proc/$p | wc -c; done | sort -u
         for p in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do [ -e $p ] && ls $p | wc -l; done | sort -u
         echo ---
         for p in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_seqnum /sys/fs/cgroup/x; do
             [ ! -e $p ] && [ $p != /sys/fs/cgroup/x ] || { (echo x > $p) 2>&1 | grep -c 'Read-only file system'; }
         done | sort -u
         grep -c 'nr_inodes=1[, ]' /proc/self/mounts >/dev/null && echo shared",
    );
    assert_eq!(out, "0\n0\n---\n1\nshared\n");
}

#[test]
fn a_masked_file_is_the_hosts_dev_null_whatever_the_image_brings() {
    let host = Host::new();
    fs::create_dir(host.layer().join("dev")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", host.layer().join("dev/null")).unwrap();
    let out = host.sh("stat -c '%F %t:%T' /proc/interrupts /proc/keys; cat /proc/keys | wc -c");
    assert_eq!(out, "character special file 1:3\ncharacter special file 1:3\n0\n");
}

#[test]
fn the_payload_inherits_nothing_of_its_maker() {
    let host = Host::new();
    let out = host
        .sh("ls /proc/self/fd | wc -l; umask; cat /proc/self/oom_score_adj; ulimit -c; pwd; hostname; id; tty; grep -c . /proc/keys
         readlink /proc/self/fd/0; grep -E '^(Sig(Blk|Ign)|CapAmb)' /proc/self/status; env | sort");
    let expected = "4\n0022\n0\n0\n/\nbox\nuid=0(root) gid=0(root)\nnot a tty\n0\n/dev/null\n\
        SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        HOME=/root\nHOSTNAME=box\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nSHLVL=1\n";
    assert_eq!(out, expected);
}

#[test]
fn the_session_keyring_is_a_new_one() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    // A session of its own, too: the payload leads one, and so does pid 1.
    let payload = only_child(c.pid());
    let session = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned()
    };
    assert_eq!(session(payload), payload.to_string());
    assert_eq!(session(c.pid()), c.pid().to_string());
}

#[test]
fn resource_limits_are_as_asked_and_core_dumps_are_off_unless_asked() {
    let host = Host::new();
    let rlimits =
        vec![Rlimit { kind: RlimitKind::Nofile, soft: 64, hard: 128 }, Rlimit { kind: RlimitKind::Core, soft: 512, hard: u64::MAX }];
    let out = host.run(&Spec { rlimits, ..shell("ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc") }).output;
    assert_eq!(out, "64\n128\n1\nunlimited\n");
}

#[test]
fn a_network_of_its_own_has_loopback_up_and_the_hosts_is_the_hosts() {
    let host = Host::new();
    assert_eq!(
        host.sh("ls /sys/class/net; ip -o addr show dev lo | grep -c 127.0.0.1; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up"),
        "lo\n1\nup\n"
    );
    let own = Spec { network: Network::Host, ..shell("readlink /proc/self/ns/net; ls /sys/class/net | sort") };
    let mut names: Vec<String> = fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(host.run(&own).output, format!("{}\n{}\n", ours.display(), names.join("\n")));
}

// ---- users ----

#[test]
fn a_user_is_found_by_name_and_gets_its_groups_and_home_but_no_capabilities() {
    let host = Host::new();
    let out = host.run(&Spec {
        user: "app".into(),
        ..shell("id -u; id -g; id -G; echo $HOME; grep -E '^Cap(Prm|Eff|Inh|Amb)' /proc/self/status | cut -f2 | sort -u")
    });
    assert_eq!(out.output, "1000\n1001\n1001 20\n/home/app\n0000000000000000\n");
    let f = failure(host.start(&Spec { user: "nobody".into(), ..shell("true") }));
    assert!(f.message.contains("nobody") && f.message.contains("/etc/passwd"), "{}", f.message);
}

#[test]
fn a_capability_asked_for_by_name_reaches_a_user_that_is_not_root() {
    let host = Host::new();
    let bit = 1 << 10;
    let wanted = Spec { user: "app".into(), ambient: bit, capabilities: bit, ..shell("grep ^Cap /proc/self/status | cut -f2 | uniq") };
    assert_eq!(host.run(&wanted).output, "0000000000000400\n");
}

#[test]
fn dev_stdout_can_be_opened_by_a_user_that_is_not_root() {
    let host = Host::new();
    let out =
        host.run(&Spec { user: "app".into(), ..shell("echo one > /dev/stdout; echo two > /dev/stderr; echo three > /proc/self/fd/1") });
    assert_eq!(out.output, "one\ntwo\nthree\n");
}

#[test]
fn without_no_new_privs_the_filter_is_there_all_the_same() {
    let host = Host::new();
    for user in ["", "app"] {
        let wanted = Spec { no_new_privileges: false, user: user.into(), ..shell("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status") };
        assert_eq!(host.run(&wanted).output, "NoNewPrivs:\t0\nSeccomp:\t2\n", "{user:?}");
    }
}

// ---- the root file system ----

#[test]
fn what_is_written_stays_in_the_upper_layer_and_within_its_size() {
    let host = Host::new();
    let wanted = Spec {
        upper: 2 << 20,
        ..shell(
            "echo x > /new; rm /etc/group; dd if=/dev/zero of=/big bs=64k count=64 2>&1 | tail -1; ls -l /big | awk '{print ($5 <= 2097152)}'; i=0; while echo -n > /tmp/$i; do i=$((i+1)); done 2>/dev/null; [ $i -lt 2000 ] && echo full",
        )
    };
    let out = host.run(&wanted).output;
    assert!(out.contains("1\nfull\n"), "{out}");
    assert!(!host.layer().join("new").exists() && host.layer().join("etc/group").exists());
    assert_eq!(host.sh("ls /new /etc/group 2>&1 | head -1"), "ls: /new: No such file or directory\n");
}

#[test]
fn a_read_only_root_refuses_writing_but_has_its_mount_points_and_working_directory() {
    let host = Host::new();
    let mounts = vec![Mount::Tmpfs { target: "/var/run".into(), size: 1 << 20 }];
    let wanted = Spec {
        readonly: true,
        workdir: "/srv/data".into(),
        mounts,
        ..shell("pwd; echo x > /x; echo y > /srv/data/y; echo z > /var/run/z && cat /var/run/z")
    };
    let out = host.run(&wanted).output;
    assert_eq!(out.matches("Read-only file system").count(), 2, "{out}");
    assert!(out.starts_with("/srv/data\n") && out.ends_with("z\n"), "{out}");
}

#[test]
fn upper_layers_win_over_lower_ones_up_to_127() {
    let mut host = Host::new();
    for n in 1..127 {
        let layer = host.dir.join(format!("layers-with-a-rather-long-name-as-digests-have-them-{n}"));
        fs::create_dir_all(layer.join("d")).unwrap();
        fs::write(layer.join("top"), format!("{n}\n")).unwrap();
        fs::write(layer.join(format!("d/{n}")), "").unwrap();
        host.layers.push(layer);
    }
    assert_eq!(host.sh("cat /top; ls /d | wc -l"), "126\n126\n");
    host.layers.push(host.layers[1].clone());
    let f = failure(host.start(&shell("true")));
    assert!(f.message.contains("128 layers"), "{}", f.message);
}

#[test]
fn whiteouts_and_opaque_directories_of_a_layer_hide_what_is_below() {
    let mut host = Host::new();
    let layer = host.dir.join("second");
    fs::create_dir_all(layer.join("home")).unwrap();
    fs::create_dir_all(layer.join("etc")).unwrap();
    let node = |p: PathBuf| nix::sys::stat::mknod(&p, nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0).unwrap();
    node(layer.join("etc/group"));
    assert!(
        Command::new("setfattr")
            .args(["-n", "trusted.overlay.opaque", "-v", "y"])
            .arg(layer.join("home"))
            .status()
            .is_ok_and(|s| s.success())
            || set_opaque(&layer.join("home"))
    );
    host.layers.push(layer);
    assert_eq!(host.sh("ls /home | wc -l; ls /etc"), "0\npasswd\n");
}

/// By python where attr's tools are not installed.
fn set_opaque(dir: &Path) -> bool {
    let code = "import os,sys; os.setxattr(sys.argv[1], 'trusted.overlay.opaque', b'y')";
    Command::new("python3").args(["-c", code]).arg(dir).status().is_ok_and(|s| s.success())
}

#[test]
fn a_device_node_in_the_image_opens_nothing() {
    let host = Host::new();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(&host.layer().join("zero"), nix::sys::stat::SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 5)).unwrap();
    assert!(host.sh("head -c 1 /zero 2>&1").contains("Permission denied"));
}

#[test]
fn the_root_directory_keeps_the_owner_and_mode_of_the_image() {
    let host = Host::new();
    fs::set_permissions(host.layer(), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(host.sh("stat -c %a /"), "711\n");
}

// ---- hostile images ----

#[test]
fn a_link_in_place_of_proc_sys_or_dev_is_refused_and_nothing_is_written_behind_it() {
    for name in ["proc", "sys", "dev"] {
        let host = Host::new();
        let outside = host.dir.join("outside");
        fs::create_dir(&outside).unwrap();
        for target in [outside.as_path(), Path::new("/etc"), Path::new("../../outside")] {
            let link = host.layer().join(name);
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
            let f = failure(host.start(&shell("true")));
            assert!(f.reason == Reason::Launch && f.message.contains(&format!("/{name}: it is a symbolic link")), "{}", f.message);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_file_in_place_of_proc_is_refused() {
    let host = Host::new();
    fs::write(host.layer().join("proc"), "").unwrap();
    assert!(failure(host.start(&shell("true"))).message.contains("not a directory"));
}

#[test]
fn a_mount_target_behind_links_stays_in_the_container() {
    let host = Host::new();
    let outside = host.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    symlink("/etc", host.layer().join("absolute")).unwrap();
    symlink("../../../../../../../etc", host.layer().join("upwards")).unwrap();
    symlink(&outside, host.layer().join("host")).unwrap();
    let source = host.dir.join("source");
    fs::write(&source, "mounted\n").unwrap();
    let bind = |target: &str| Mount::Bind { source: source.to_str().unwrap().into(), target: target.into(), readonly: true };
    let mounts = vec![bind("/absolute/one"), bind("/upwards/two")];
    assert_eq!(host.run(&Spec { mounts, ..shell("cat /etc/one /etc/two") }).output, "mounted\nmounted\n");
    assert!(!Path::new("/etc/one").exists() && !Path::new("/etc/two").exists());
    // Leads to a path that exists on the host alone.
    let f = failure(host.start(&Spec { mounts: vec![bind("/host/three")], ..shell("true") }));
    assert!(f.message.contains("/host/three"), "{}", f.message);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_mount_over_the_containers_system_directories_is_refused_however_it_is_written() {
    let host = Host::new();
    symlink("/proc/sys", host.layer().join("alias")).unwrap();
    symlink("/", host.layer().join("slash")).unwrap();
    for target in ["/proc", "/proc/sys", "/sys/kernel", "/alias", "/", "/dev", "/slash", "/slash/dev", "/a/../../b", "relative"] {
        let mounts = vec![Mount::Tmpfs { target: target.into(), size: 1 << 20 }];
        let f = failure(host.start(&Spec { mounts, ..shell("true") }));
        assert_eq!(f.reason, Reason::Launch, "{target}: {}", f.message);
    }
}

#[test]
fn a_working_directory_by_magic_link_is_refused() {
    let host = Host::new();
    symlink("/proc/self/fd", host.layer().join("fds")).unwrap();
    for n in 3..12 {
        for path in [format!("/proc/self/fd/{n}"), format!("/fds/{n}"), "/proc/self/cwd".to_owned(), "/proc/1/root".to_owned()] {
            let result = host.start(&Spec { workdir: path.clone(), ..shell("true") });
            assert!(result.is_err(), "{path}");
        }
    }
}

#[test]
fn a_hostile_passwd_file_is_survived() {
    let host = Host::new();
    let passwd = host.layer().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    assert_eq!(host.sh("echo alive"), "alive\n");
    fs::remove_file(&passwd).unwrap();
    symlink("/dev/zero", &passwd).unwrap();
    assert_eq!(host.sh("echo alive"), "alive\n");
    fs::remove_file(&passwd).unwrap();
    File::create(&passwd).unwrap().set_len(1 << 30).unwrap();
    assert!(failure(host.start(&shell("true"))).message.contains("/etc/passwd"));
}

// ---- mounts of the manifest ----

#[test]
fn a_bind_mount_is_writable_or_read_only_as_asked_with_what_is_mounted_below() {
    let host = Host::new();
    let source = host.dir.join("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("old"), "old\n").unwrap();
    let bind = |target: &str, readonly| Mount::Bind { source: source.to_str().unwrap().into(), target: target.into(), readonly };
    let mounts = vec![bind("/rw/deep/er", false), bind("/ro", true)];
    let out = host.run(&Spec { mounts, ..shell("echo new > /rw/deep/er/new; cat /ro/old /ro/new; echo x > /ro/x; grep -E ' /(rw/deep/er|ro) ' /proc/self/mounts | cut -d' ' -f2,4 | cut -d, -f1-3") }).output;
    assert!(out.starts_with("old\nnew\n") && out.contains("Read-only file system"), "{out}");
    assert!(out.contains("/rw/deep/er rw,nosuid,nodev\n/ro ro,nosuid,nodev\n"), "{out}");
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "new\n");
}

#[test]
fn a_tmpfs_has_its_size_and_no_programs() {
    let host = Host::new();
    let mounts = vec![Mount::Tmpfs { target: "/cache".into(), size: 1 << 20 }];
    let out = host.run(&Spec { mounts, ..shell("grep ' /cache ' /proc/self/mounts; stat -c %a /cache; dd if=/dev/zero of=/cache/x bs=1M count=4 2>&1 | grep -c 'No space'; cp /bin/busybox /cache/b 2>/dev/null; /cache/b 2>&1 | tail -1") }).output;
    assert!(out.contains("rw,nosuid,nodev,noexec") && out.contains("size=1024k") && out.contains("\n1777\n1\n"), "{out}");
    assert!(out.contains("Permission denied"), "{out}");
}

#[test]
fn the_working_directory_is_made_for_the_user() {
    let host = Host::new();
    let wanted = Spec { workdir: "/srv/a/b".into(), user: "app".into(), ..shell("pwd; stat -c %u:%g . ..; touch here && echo ok") };
    assert_eq!(host.run(&wanted).output, "/srv/a/b\n1000:1001\n1000:1001\nok\n");
}

// ---- exec ----

#[test]
fn an_exec_is_in_all_namespaces_and_the_group_and_no_more_privileged_than_the_payload() {
    let host = Host::new();
    let wanted = Spec { env: strings(&["A=1", "B=1"]), ..shell("echo ready; exec sleep 60") };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; hostname; echo $A$B; grep -E '^(Cap|NoNewPrivs|Seccomp:|SigIgn|SigBlk)' /proc/self/status; ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj; umask; [ $$ -gt 1 ] && echo inside; cat /proc/self/cgroup";
    let mut job = args(&["sh", "-c", script]);
    job.env = strings(&["B=2"]);
    let (ended, out) = c.exec(&wanted, job).unwrap();
    assert_eq!(ended, Ended::Code(0), "{out}");
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let link = fs::read_link(format!("/proc/{}/ns/{name}", c.pid())).unwrap();
        assert!(out.contains(link.to_str().unwrap()), "{name}: {out}");
    }
    for part in [
        "box\n12\n",
        "CapBnd:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "SigIgn:\t0000000000000000",
        "\n4\n0\n0022\ninside\n",
        ":memory:/\n",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
}

#[test]
fn an_exec_has_its_own_user_directory_and_exit_status() {
    let host = Host::new();
    let wanted = shell("echo ready; exec sleep 60");
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let job = ExecArgs {
        user: Some("app".into()),
        workdir: Some("/home/app".into()),
        ..args(&["sh", "-c", "id -u; pwd; grep CapEff /proc/self/status; exit 9"])
    };
    assert_eq!(c.exec(&wanted, job).unwrap(), (Ended::Code(9), "1000\n/home/app\nCapEff:\t0000000000000000\n".into()));
    let f = c.exec(&wanted, args(&["absent"])).unwrap_err();
    assert!(f.reason == Reason::Exec && f.message.contains("PATH"), "{}", f.message);
    let f = c.exec(&wanted, ExecArgs { workdir: Some("/nowhere".into()), ..args(&["true"]) }).unwrap_err();
    assert!(f.message.contains("/nowhere"), "{}", f.message);
}

#[test]
fn an_exec_with_a_terminal_has_one_of_the_containers_devpts_as_controlling_terminal() {
    let host = Host::new();
    let wanted = Spec { user: "app".into(), ..shell("echo ready; exec sleep 60") };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let (conn, launch) = spawn_launch();
    let script = "tty; stty size; echo hello > /dev/tty; echo $TERM; echo to > /dev/stdout; read line; echo got $line";
    conn.send(&c.job(&wanted, ExecArgs { terminal: Some((24, 80)), ..args(&["sh", "-c", script]) })).unwrap();
    let (child, master, _) = cloned(&conn).unwrap();
    finish_role(launch);
    conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&conn), None);
    let mut master = File::from(master.expect("a terminal's master"));
    let mut text = String::new();
    let mut chunk = [0; 1024];
    while !text.contains("to\r\n") {
        assert!(readable(&master, PATIENCE));
        let n = master.read(&mut chunk).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    std::io::Write::write_all(&mut master, b"line\n").unwrap();
    while !text.contains("got line\r\n") {
        assert!(readable(&master, PATIENCE));
        let n = master.read(&mut chunk).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    assert!(text.starts_with("/dev/pts/0\r\n24 80\r\nhello\r\nxterm\r\nto\r\n"), "{text:?}");
    assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
}

#[test]
fn an_exec_whose_keeper_goes_before_go_runs_nothing() {
    let host = Host::new();
    let wanted = shell("echo ready; exec sleep 60");
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let (conn, launch) = spawn_launch();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    conn.send_with(&c.job(&wanted, args(&["touch", "/ran"])), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    let (child, _, _) = cloned(&conn).unwrap();
    finish_role(launch);
    drop(conn);
    assert!(readable(&child.pidfd, PATIENCE));
    reap(child.pid).unwrap();
    assert_ne!(c.exec(&wanted, args(&["ls", "/ran"])).unwrap().0, Ended::Code(0));
}

#[test]
fn an_exec_into_a_process_that_is_not_of_the_container_is_refused() {
    let host = Host::new();
    let wanted = shell("echo ready; exec sleep 60");
    let c = host.start(&wanted).unwrap();
    let ToLaunch::Exec(mut job) = c.job(&wanted, args(&["true"])) else { unreachable!() };
    job.pid = std::process::id() as i32;
    let (conn, launch) = spawn_launch();
    let null = File::open("/dev/null").unwrap();
    conn.send_with(&ToLaunch::Exec(job), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    let Err(f) = cloned(&conn) else { panic!("this must be refused") };
    finish_role(launch);
    assert!(f.message.contains("is not in group"), "{}", f.message);
}

// ---- older kernels ----

/// Makes the kernel answer `errno` to one system call, for what `body` starts: a filter of this thread, which its children inherit.
fn without(call: nix::libc::c_long, errno: i32, body: impl FnOnce() + Send + 'static) {
    let instruction = |code: u16, jump: [u8; 2], k: u32| [&code.to_ne_bytes()[..], &jump, &k.to_ne_bytes()].concat();
    let program = [
        // Load the number; if it is the one, answer the error; else allow (seccomp(2)).
        instruction(0x20, [0, 0], 0),
        instruction(0x15, [0, 1], call as u32),
        instruction(0x06, [0, 0], 0x0005_0000 | errno as u32),
        instruction(0x06, [0, 0], 0x7fff_0000),
    ]
    .concat();
    let thread = std::thread::spawn(move || {
        wherry::sys::seccomp::load(&program).unwrap();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Everything that has a fallback, at once.
fn whole_container() {
    let host = Host::new();
    let source = host.dir.join("data");
    fs::create_dir(&source).unwrap();
    let bind = |target: &str, readonly| Mount::Bind { source: source.to_str().unwrap().into(), target: target.into(), readonly };
    let mounts = vec![bind("/rw", false), bind("/ro", true)];
    let script = "echo x > /rw/x; echo x > /ro/y; echo x > /z; echo x > /proc/sys/kernel/hostname; ls /proc/self/fd | wc -l; wc -c < /proc/keys; ls -d /etc /host; echo ready; exec sleep 60";
    let wanted = Spec { readonly: true, mounts, ..shell(script) };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    assert_eq!(c.seen.matches("Read-only file system").count(), 3, "{}", c.seen);
    assert!(c.seen.contains("\n4\n0\n") && c.seen.contains("\n/etc\n") && c.seen.contains("/host: No such file"), "{}", c.seen);
    assert!(source.join("x").exists() && !source.join("y").exists());
    assert!(within(|| descriptors(c.pid()).len() == 4), "{:?}", descriptors(c.pid()));
    let (ended, out) = c.exec(&wanted, args(&["sh", "-c", "ls /; cat /proc/self/mounts; ls /proc/self/fd | wc -l"])).unwrap();
    assert!(ended == Ended::Code(0) && !out.contains("scratch") && out.ends_with("\n4\n"), "{out}");
    assert!(out.lines().any(|l| l.starts_with("overlay / overlay ro,")), "{out}");
}

#[test]
fn a_container_is_the_same_without_mount_setattr() {
    without(nix::libc::SYS_mount_setattr, nix::libc::ENOSYS, whole_container);
}

#[test]
fn a_container_is_the_same_without_close_range() {
    without(nix::libc::SYS_close_range, nix::libc::ENOSYS, whole_container);
}

#[test]
fn a_container_is_the_same_without_keyrings() {
    without(nix::libc::SYS_keyctl, nix::libc::ENOSYS, whole_container);
}

#[test]
fn a_container_is_the_same_where_the_root_is_the_initial_ramfs() {
    without(nix::libc::SYS_pivot_root, nix::libc::EINVAL, whole_container);
}

#[test]
fn a_kernel_without_what_cannot_be_replaced_is_told_so() {
    for call in [nix::libc::SYS_openat2, nix::libc::SYS_clone3, nix::libc::SYS_fsopen, nix::libc::SYS_open_tree] {
        without(call, nix::libc::ENOSYS, || {
            let host = Host::new();
            let source = host.dir.to_str().unwrap().to_owned();
            let mounts = vec![Mount::Bind { source, target: "/x".into(), readonly: true }];
            let f = failure(host.start(&Spec { mounts, ..shell("true") }));
            assert!(f.reason == Reason::NoFeature && f.message.contains("Linux 5.10"), "{}", f.message);
        });
    }
}

#[test]
fn a_child_can_be_born_into_a_group_of_the_v2_tree_alone() {
    let mut host = Host::new();
    if host.layout.unified.is_none() {
        return;
    }
    host.layout.v1.clear();
    let mut c = host
        .start(&shell(
            "cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; echo x > /sys/fs/cgroup/cgroup.procs; echo ready; exec sleep 60",
        ))
        .unwrap();
    c.expect("ready");
    assert!(c.seen.contains("0::/\n/sys/fs/cgroup/cgroup.procs\n") && c.seen.contains("Read-only file system"), "{}", c.seen);
    assert!(host.layout.group(&host.group).pids().contains(&c.pid()));
    let (ended, out) = c.exec(&shell(""), args(&["cat", "/proc/self/cgroup"])).unwrap();
    assert!(ended == Ended::Code(0) && out.contains("0::/\n"), "{out}");
}

// ---- the same questions to crun ----

/// Each with the shell commands that answer it. `/dev/core`, a link to the masked `/proc/kcore`, is crun's alone.
const QUESTIONS: [(&str, &str); 14] = [
    ("capabilities", "grep ^Cap /proc/self/status"),
    ("privileges", "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status"),
    ("signals", "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"),
    ("devices", "cd /dev; ls -1 | grep -vx core; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty pts/ptmx"),
    (
        "masked",
        "for p in kcore keys latency_stats timer_list sched_debug; do [ -e /proc/$p ] && stat -c '%n %t:%T' /proc/$p; done; for p in /proc/acpi /proc/scsi /sys/firmware; do [ -e $p ] && ls $p | wc -l; done",
    ),
    ("read-only", "for p in bus fs irq sys; do touch /proc/$p/x 2>&1; done; echo x 2>&1 > /proc/sysrq-trigger; touch /sys/x 2>&1"),
    ("mounts", "cut -d' ' -f2,3 /proc/self/mounts | grep -E '^/(proc|sys|dev|dev/(pts|shm|mqueue)) ' | sort"),
    ("mount options", "cut -d' ' -f2,4 /proc/self/mounts | grep -E '^/(proc|sys|dev/(pts|shm|mqueue)) ' | cut -d, -f1-4 | sort"),
    ("identity", "id; pwd; hostname; echo $HOME $PATH"),
    ("descriptors", "ls /proc/self/fd | wc -l"),
    ("umask", "umask"),
    ("limits", "ulimit -c; cat /proc/self/oom_score_adj"),
    ("processes", "echo $$; [ $(ls -d /proc/[0-9]* | wc -l) -lt 8 ] && echo few"),
    ("network", "ls /sys/class/net; cat /sys/class/net/lo/flags"),
];

/// Where the two differ, and why we are right.
const DIFFERENCES: [(&str, &str); 1] =
    [("signals", "crun hands down real-time signals that its caller ignored; ours start with the default action")];

#[test]
fn crun_answers_the_same_questions_alike() {
    let host = Host::new();
    // crun mounts over these and makes them in the image if missing, so both get the same image.
    for dir in ["proc", "sys", "dev"] {
        fs::create_dir(host.layer().join(dir)).unwrap();
    }
    let script: String = QUESTIONS.iter().map(|(name, ask)| format!("echo '## {name}'\n({ask}) 2>&1\n")).collect();
    let ours = host.run(&Spec { init: false, seccomp: Seccomp::Unconfined, ..shell(&script) }).output;
    let theirs = crun(&host, &script);
    let (ours, theirs) = (answers(&ours), answers(&theirs));
    let known = |name: &str| DIFFERENCES.iter().any(|(n, _)| *n == name);
    let different: Vec<_> =
        QUESTIONS.iter().map(|(name, _)| (name, ours.get(name), theirs.get(name))).filter(|(_, a, b)| a.is_none() || a != b).collect();
    let unexplained: Vec<_> = different.iter().filter(|(name, ..)| !known(name)).collect();
    assert!(unexplained.is_empty(), "question, ours, theirs: {unexplained:#?}");
}

fn answers(text: &str) -> std::collections::BTreeMap<&str, &str> {
    text.split("## ").filter_map(|part| part.split_once('\n')).collect()
}

fn crun(host: &Host, script: &str) -> String {
    let bundle = host.dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), config(host.layer(), script).to_string()).unwrap();
    let id = format!("wherry-rt-{}", std::process::id());
    // crun refuses a hybrid whose v2 tree has a controller of its own: it gets a view without that tree.
    let crun = Command::new("unshare")
        .args(["--mount", "sh", "-c", "umount -l /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"", "sh"])
        .args(["crun", "--cgroup-manager=disabled", "--root"])
        .arg(host.dir.join("crun"))
        .arg("run")
        .arg("--bundle")
        .arg(&bundle)
        .arg(&id)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("crun must be installed");
    assert!(crun.status.success(), "{}", String::from_utf8_lossy(&crun.stderr));
    String::from_utf8(crun.stdout).unwrap()
}

/// What our spec means in OCI words.
fn config(root: &Path, script: &str) -> serde_json::Value {
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
    let mount = |target: &str, kind: &str, options: &[&str]| serde_json::json!({"destination": target, "type": kind, "source": kind, "options": options});
    serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": false},
        "hostname": "box",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", script],
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
