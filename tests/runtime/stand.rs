//! What every test here stands on: a host directory with an image, a container started from it, and waiting with an end.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use wherry::cgroup::Layout;
use wherry::container::exit_record::{self, ExitRecord};
use wherry::container::{Spec, Wiring, caps};
use wherry::ipc::{Conn, ExecArgs, ExecJob, Failure, FromLaunch, Scope, ToLaunch};
use wherry::manifest::{Network, Resources, Seccomp, Stdin};
use wherry::sys::process::{Child, Ended, Spawn, reap, spawn};
use wherry::sys::signal::pidfd_send;

/// Longest that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const SIGTERM: i32 = 15;
pub const SIGKILL: i32 = 9;

pub static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A directory of our own with a busybox image in it, and a cgroup group; both vanish at the end.
pub struct Host {
    pub dir: PathBuf,
    pub layout: Layout,
    pub group: String,
    pub layers: Vec<PathBuf>,
}

impl Host {
    pub fn new() -> Self {
        assert!(nix::unistd::Uid::effective().is_root(), "these tests start containers: run them as root");
        let name = format!("rt-{}-{:03}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("wherry-{name}"));
        fs::create_dir_all(dir.join("scratch")).unwrap();
        let layer = dir.join("layer");
        busybox(&layer);
        let layout = Layout::detect().unwrap();
        layout.prepare("wherry").unwrap();
        Self { layout, group: format!("wherry/{name}/app"), layers: vec![layer], dir }
    }

    /// The image's only layer, to be made hostile.
    pub fn layer(&self) -> &Path {
        &self.layers[0]
    }

    pub fn wiring(&self) -> Wiring {
        let text = |p: &Path| p.to_str().unwrap().to_owned();
        Wiring {
            name: "app/box".into(),
            layers: self.layers.iter().map(|l| text(l)).collect(),
            scratch: text(&self.dir.join("scratch")),
            layout: self.layout.clone(),
            group: self.group.clone(),
            allowed: None,
            secrets: text(&self.dir.join("secrets")),
        }
    }

    /// Up to `Cloned`: pid 1 exists and waits.
    pub fn clone(&self, spec: &Spec) -> Result<Started<'_>, Failure> {
        self.clone_by(spec, spawn_launch)
    }

    /// The same by another way to start launch.
    pub fn clone_by(&self, spec: &Spec, spawn_launch: impl FnOnce() -> (Conn, Child)) -> Result<Started<'_>, Failure> {
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
    pub fn start(&self, spec: &Spec) -> Result<Started<'_>, Failure> {
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
    pub fn run(&self, spec: &Spec) -> Finished {
        let mut started = self.start(spec).unwrap_or_else(|f| panic!("{:?}: {}", f.reason, f.message));
        started.finish()
    }

    /// Runs a shell script to the end; what it printed.
    pub fn sh(&self, script: &str) -> String {
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

pub fn busybox(layer: &Path) {
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
pub struct Started<'a> {
    host: &'a Host,
    pub child: Option<Child>,
    pub conn: Conn,
    pub output: File,
    pub record: File,
    pub seen: String,
    pub missing: Vec<(String, String)>,
}

pub struct Finished {
    pub ended: Ended,
    pub output: String,
    pub record: Option<ExitRecord>,
}

impl Started<'_> {
    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().pid
    }

    pub fn signal(&self, signal: i32) {
        pidfd_send(&self.child.as_ref().unwrap().pidfd, signal).unwrap();
    }

    pub fn read(&mut self) {
        let mut bytes = Vec::new();
        // WouldBlock when all was read: the data before it is kept.
        let _ = self.output.read_to_end(&mut bytes);
        self.seen.push_str(&String::from_utf8_lossy(&bytes));
    }

    /// Waits until the container has printed `text`.
    pub fn expect(&mut self, text: &str) {
        let found = within(|| {
            self.read();
            self.seen.contains(text)
        });
        assert!(found, "{text:?} must appear in {:?}", self.seen);
    }

    pub fn wait(&mut self) -> Option<Ended> {
        let child = self.child.take()?;
        if !readable(&child.pidfd, PATIENCE) {
            kill(&child);
            panic!("the container must end in {PATIENCE:?}");
        }
        Some(reap(child.pid).unwrap())
    }

    pub fn finish(&mut self) -> Finished {
        let ended = self.wait().unwrap();
        self.read();
        Finished { ended, output: std::mem::take(&mut self.seen), record: exit_record::read(&self.record).unwrap() }
    }

    pub fn job(&self, spec: &Spec, args: ExecArgs) -> ToLaunch {
        let (layout, group) = (self.host.layout.clone(), self.host.group.clone());
        ToLaunch::Exec(Box::new(ExecJob { pid: self.pid(), spec: spec.clone(), layout, group, args }))
    }

    /// Runs a program in the container with pipes; how it ended and what it printed.
    pub fn exec(&self, spec: &Spec, args: ExecArgs) -> Result<(Ended, String), Failure> {
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
            kill(&child);
        }
    }
}

/// A pid 1 ends only after every process of its namespace, also one from exec that a failed test has not reaped: that is not waited for.
fn kill(child: &Child) {
    let _ = pidfd_send(&child.pidfd, SIGKILL);
    if readable(&child.pidfd, PATIENCE) {
        let _ = reap(child.pid);
    }
}

fn program() -> PathBuf {
    std::env::var_os("WHERRY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_wherry").into()).into()
}

pub fn binary() -> OwnedFd {
    File::open(program()).unwrap().into()
}

pub fn spawn_launch() -> (Conn, Child) {
    let (exe, argv) = (binary(), [CString::from(c"wherry"), CString::from(c"launch")]);
    spawn_role(&exe, &argv, &[], &[])
}

/// With variables in its environment and a further descriptor, as keeper never starts it.
pub fn spawn_launch_with(env: &[CString], further: &[BorrowedFd<'_>]) -> (Conn, Child) {
    let (exe, argv) = (binary(), [CString::from(c"wherry"), CString::from(c"launch")]);
    spawn_role(&exe, &argv, env, further)
}

/// Below strace, which must not become its parent (`-D`): what launch clones is a child of launch's parent.
pub fn spawn_launch_traced(calls: &str, log: &Path) -> (Conn, Child) {
    let exe = File::open("/usr/bin/strace").expect("strace must be installed").into();
    let (calls, log, program) = (format!("trace={calls}"), log.to_str().unwrap(), program());
    let argv = ["strace", "-D", "-f", "-qq", "-y", "-e", &calls, "-o", log, "--", program.to_str().unwrap(), "launch"];
    spawn_role(&exe, &argv.map(|a| CString::new(a).unwrap()), &[], &[])
}

fn spawn_role(exe: &OwnedFd, argv: &[CString], env: &[CString], further: &[BorrowedFd<'_>]) -> (Conn, Child) {
    let (ours, theirs) = Conn::pair().unwrap();
    let fds: Vec<_> = [&[theirs.as_fd()], further].concat();
    let launch = spawn(&Spawn { exe: exe.as_fd(), argv, env, fds: &fds, flags: 0 }).unwrap();
    (ours, launch)
}

pub fn finish_role(launch: Child) {
    assert!(readable(&launch.pidfd, PATIENCE), "launch must be gone once it has answered");
    reap(launch.pid).unwrap();
}

pub type Answer = Result<(Child, Option<OwnedFd>, Vec<(String, String)>), Failure>;

pub fn cloned(conn: &Conn) -> Answer {
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

pub fn until_eof(conn: &Conn) -> Option<Failure> {
    assert!(readable(conn, PATIENCE), "exec, or a failure, must come");
    match conn.recv::<FromLaunch>().unwrap() {
        Some(FromLaunch::Failed(failure)) => Some(failure),
        Some(other) => panic!("{other:?} after Go"),
        None => None,
    }
}

/// How many times longer than a real one this machine may take: an emulated one says so in `WHERRY_SLOWNESS`.
fn slowness() -> u32 {
    std::env::var("WHERRY_SLOWNESS").map_or(1, |n| n.parse().expect("WHERRY_SLOWNESS is a number"))
}

pub fn readable(fd: impl AsFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience.as_millis() as i32 * slowness() as i32).unwrap();
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() > 0
}

/// Asks again and again until the answer is yes, or patience is over.
pub fn within(mut ask: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if ask() {
            return true;
        }
        if start.elapsed() > PATIENCE * slowness() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// A container as a plain manifest makes it.
pub fn spec(argv: &[&str]) -> Spec {
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
        files: Vec::new(),
        terminal: false,
        stdin: Stdin::None,
    }
}

pub fn shell(script: &str) -> Spec {
    spec(&["/bin/sh", "-c", script])
}

pub fn args(argv: &[&str]) -> ExecArgs {
    let scope = Scope { app: "app".parse().unwrap(), container: None };
    ExecArgs { scope, argv: strings(argv), env: Vec::new(), user: None, workdir: None, terminal: None, detach: false }
}

pub fn host_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

pub fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("{field}:"))).unwrap_or_else(|| panic!("no {field}"));
    line.split_once(':').unwrap().1.trim().to_owned()
}

pub fn failure(result: Result<Started<'_>, Failure>) -> Failure {
    result.err().expect("this must fail")
}

pub fn only_child(pid: i32) -> i32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(path).unwrap().split_whitespace().next().expect("pid 1 has a child").parse().unwrap()
}

pub fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|e| fs::read_link(e.ok()?.path()).ok()).map(|l| l.to_string_lossy().into_owned()).collect()
}
