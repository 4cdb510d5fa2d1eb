//! Control groups on the real kernel: every figure moves as a known load predicts, then stands still and equals the kernel's file; every
//! limit bites. Needs root, works below `/wherry/cg-<pid>` of each hierarchy, and leaves nothing behind.
//!
//! The loads are dd, sh and perl (Debian's essential set). `tests/cgroupfs/` holds trees of machines that are not this one, each with
//! the sample that must come out of it.

use nix::libc;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use wherry::cgroup::{Error, Group, Kind, Layout};
use wherry::manifest::Resources;
use wherry::stats::Sample;

const PARENT: &str = "wherry";
const MIB: u64 = 1 << 20;

// ---- the scene ----

/// A fresh group of this test, killed and removed when it goes out of scope.
struct Scene {
    layout: Layout,
    group: Group,
}

impl Scene {
    /// On this machine as it is.
    fn new(r: &Resources) -> Self {
        Self::on(Layout::detect().expect("this machine has control groups"), r)
    }

    fn on(layout: Layout, r: &Resources) -> Self {
        layout.prepare(PARENT).expect("the parent group can be made");
        let group = layout.group(&fresh_path());
        let missing = group.create(r).expect("the group can be made");
        assert_eq!(missing, [], "this kernel cannot enforce what the test needs");
        Self { layout, group }
    }

    /// A shell in the group. It waits for a line, so that all it does happens inside.
    fn sh(&self, script: &str) -> Load {
        Load::start(&self.group, script)
    }

    /// The group below this one.
    fn sub(&self, name: &str) -> Group {
        self.layout.group(&format!("{}/{name}", self.group.path()))
    }

    /// The group below this one as a container's own processes make it: no controller is passed on to it. Else v2 allows no process here
    /// (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint").
    fn own_sub(&self, name: &str) -> Group {
        let sub = self.sub(name);
        for root in self.layout.v1.iter().map(|(_, root)| root).chain(&self.layout.unified) {
            // Only in the hierarchies that Wherry uses, from which the scene removes it again; one may have several controllers (cpu and cpuacct).
            if Path::new(root).join(self.group.path()).exists() {
                std::fs::create_dir_all(Path::new(root).join(sub.path())).unwrap();
            }
        }
        sub
    }

    /// The group's file in a v1 controller's hierarchy, or else in the v2 tree.
    fn file(&self, v1: &str, v1_file: &str, v2_file: &str) -> String {
        let old = self.layout.v1.iter().find(|(c, _)| c == v1);
        let (root, name) = match old {
            Some((_, root)) => (root, v1_file),
            None => (self.layout.unified.as_ref().expect("one of both versions"), v2_file),
        };
        let path = Path::new(root).join(self.group.path()).join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    fn is_v1(&self, controller: &str) -> bool {
        self.layout.v1.iter().any(|(c, _)| c == controller)
    }

    /// Freezes the group and reads it when all stands still.
    fn still(&self) -> Sample {
        self.group.freeze(true).expect("the group can be frozen");
        assert!(until(Duration::from_secs(5), || self.group.frozen() == Some(true)), "the group does not freeze");
        self.group.sample(None, false)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let gone = until(Duration::from_secs(10), || {
            let _ = self.group.freeze(false);
            let _ = self.group.kill();
            self.group.remove().unwrap_or(false)
        });
        if !gone && !std::thread::panicking() {
            panic!("group {} could not be removed", self.group.path());
        }
    }
}

fn fresh_path() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PARENT}/cg-{}/t{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A shell that does one thing for each line it is given, and says when it is done.
struct Load {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Load {
    fn start(group: &Group, script: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        group.attach(child.id() as i32).expect("the shell can be attached");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut load = Self { child, input, output };
        load.go();
        load
    }

    fn go(&mut self) {
        self.input.write_all(b"go\n").expect("the load reads");
    }

    /// The next line that the load prints; empty when it has ended.
    fn says(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the load can be read");
        line.trim().to_owned()
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Bounded: a frozen process of v1 dies only when its group is thawed, which the scene does after us.
        let _ = self.child.kill();
        until(Duration::from_secs(5), || !matches!(self.child.try_wait(), Ok(None)));
    }
}

/// Asks until the answer is yes, or the time is over; an emulated machine says in `WHERRY_SLOWNESS` how many times as long it may take.
fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let slowness = std::env::var("WHERRY_SLOWNESS").map_or(1, |n| n.parse().expect("WHERRY_SLOWNESS is a number"));
    let end = Instant::now() + limit * slowness;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn got(figure: Option<u64>) -> u64 {
    figure.expect("this kernel has the figure")
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

/// `name value` in a file of such lines.
fn field(text: &str, name: &str) -> u64 {
    let words = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    number(words.unwrap_or_else(|| panic!("no {name} in {text:?}")).trim())
}

fn memory(max: u64) -> Resources {
    Resources { memory_max: Some(max), swap_max: Some(0), ..Resources::default() }
}

/// A perl that touches so many MiB when told to, says so, and stays.
fn touch(mib: u64) -> String {
    format!("exec perl -e '$|=1; print \"ready\\n\"; <STDIN>; vec($x, {mib}*1048576-1, 8)=1; print \"done\\n\"; sleep 60'")
}

/// What this kernel can show of the three layouts: as it is, v1 alone, and the v2 tree alone.
fn layouts() -> Vec<Layout> {
    let found = Layout::detect().expect("this machine has control groups");
    let mut out = vec![found.clone()];
    if found.kind() == Kind::Hybrid {
        out.push(Layout { unified: None, controllers: Vec::new(), ..found.clone() });
        out.push(Layout { v1: Vec::new(), ..found });
    }
    out
}

// ---- figures ----

#[test]
fn a_quota_of_half_a_cpu_throttles() {
    const QUOTA_US: u64 = 50_000;
    let scene = Scene::new(&Resources { cpu_quota_milli: Some(500), ..Resources::default() });
    let start = Instant::now();
    // A loop for each CPU, and patience: on a busy machine it takes a while until they come to use up a quota.
    let cpus = std::thread::available_parallelism().unwrap().get();
    let _busy: Vec<Load> = (0..cpus).map(|_| scene.sh("while :; do :; done")).collect();
    let throttled = until(Duration::from_secs(120), || {
        start.elapsed() > Duration::from_secs(1) && got(scene.group.sample(None, false).cpu_throttled_us) > 0
    });
    let s = scene.still();
    let elapsed = start.elapsed().as_micros() as u64;
    assert!(throttled, "{s:?}");
    let usage = got(s.cpu_usage_us);
    assert!(usage <= elapsed / 2 + 2 * QUOTA_US, "{usage} µs of CPU in {elapsed} µs");
    assert!(usage >= (got(s.cpu_nr_throttled) - 1) * QUOTA_US * 8 / 10, "throttled without having used the quota: {s:?}");
    assert!(got(s.cpu_nr_throttled) > 0, "{s:?}");

    let stat = scene.file("cpu", "cpu.stat", "cpu.stat");
    assert_eq!(got(s.cpu_nr_throttled), field(&stat, "nr_throttled"));
    if scene.is_v1("cpu") {
        assert_eq!(got(s.cpu_throttled_us), field(&stat, "throttled_time") / 1000);
        assert_eq!(usage, number(&scene.file("cpuacct", "cpuacct.usage", "")) / 1000);
    } else {
        assert_eq!((got(s.cpu_throttled_us), usage), (field(&stat, "throttled_usec"), field(&stat, "usage_usec")));
    }
}

#[test]
fn twenty_mebibytes_touched_appear() {
    let scene = Scene::new(&memory(64 * MIB));
    let mut load = scene.sh(&touch(20));
    assert_eq!(load.says(), "ready");
    let before = scene.group.sample(None, false);
    load.go();
    assert_eq!(load.says(), "done");
    let s = scene.still();
    for (what, a, b) in
        [("current", before.memory_current, s.memory_current), ("working set", before.memory_working_set, s.memory_working_set)]
    {
        let grown = got(b) - got(a);
        // The kernel charges in batches of 64 pages on each CPU, so a part may have been charged before.
        let batches = 64 * 4096 * std::thread::available_parallelism().unwrap().get() as u64;
        assert!((20 * MIB - batches..=24 * MIB).contains(&grown), "{what} grew by {grown}");
    }
    assert_eq!((s.memory_max, s.memory_oom_kill), (Some(64 * MIB), Some(0)));

    assert_eq!(got(s.memory_current), number(&scene.file("memory", "memory.usage_in_bytes", "memory.current")));
    if let Some(peak) = s.memory_peak {
        assert!(peak >= got(s.memory_current));
        assert_eq!(peak, number(&scene.file("memory", "memory.max_usage_in_bytes", "memory.peak")));
    } else {
        let tree = Path::new(scene.layout.unified.as_ref().expect("v1 has always had a peak")).join(scene.group.path());
        assert!(!tree.join("memory.peak").exists());
        assert!(s.absent.iter().any(|(what, why)| what == "memory.peak" && why.contains("5.19")), "{:?}", s.absent);
    }
    let inactive = if scene.is_v1("memory") { "total_inactive_file" } else { "inactive_file" };
    let dropped = field(&scene.file("memory", "memory.stat", "memory.stat"), inactive);
    assert_eq!(got(s.memory_working_set), got(s.memory_current).saturating_sub(dropped));
}

#[test]
fn page_cache_counts_as_memory_but_not_as_working_set() {
    let scene = Scene::new(&memory(64 * MIB));
    let file = Scratch::new("cache", &PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let mut load = scene.sh(&format!("dd if=/dev/zero of={}/f bs=1M count=16 conv=fsync; echo done; exec sleep 60", file.0.display()));
    assert_eq!(load.says(), "done");
    let s = scene.still();
    assert!(got(s.memory_current) >= 16 * MIB, "{s:?}");
    assert!(got(s.memory_working_set) + 14 * MIB <= got(s.memory_current), "{s:?}");
}

#[test]
fn an_oom_kill_counts_one_also_in_a_sub_group() {
    let scene = Scene::new(&memory(24 * MIB));
    let sub = scene.own_sub("below");
    for (group, kills) in [(&scene.group, 1), (&sub, 2)] {
        let mut load = Load::start(group, "perl -e 'vec($x, 64*1048576-1, 8)=1'; echo $?; exec sleep 60");
        assert_eq!(load.says(), "137", "killed by SIGKILL");
        drop(load);
        assert_eq!(scene.group.sample(None, false).memory_oom_kill, Some(kills));
    }
}

#[test]
fn processes_are_counted_and_the_limit_refuses_a_fork() {
    let scene = Scene::new(&Resources { pids_max: Some(4), ..Resources::default() });
    let mut load =
        scene.sh("exec perl -e '$|=1; $n++ while defined($p = fork) && ($p || (sleep(60), exit)); print \"$n \", $!+0, \"\\n\"; sleep 60'");
    assert_eq!(load.says(), format!("3 {}", libc::EAGAIN));
    let s = scene.still();
    assert_eq!(s.pids_current, Some(4));
    assert_eq!(scene.group.pids().len(), 4);
    assert_eq!(s.pids_current, Some(number(&scene.file("pids", "pids.current", "pids.current"))));
}

#[test]
fn a_mebibyte_through_loopback_counts_once_each_way() {
    const PERL: &str = r#"$|=1; use Socket; socket(U,AF_INET,SOCK_DGRAM,0); ioctl(U,0x8914,$f=pack("a16s","lo",0x41)) or die;
        socket(L,AF_INET,SOCK_STREAM,0); bind(L,pack_sockaddr_in(0,INADDR_LOOPBACK)); listen(L,1); $to=getsockname(L);
        print "ready\n"; <STDIN>;
        if(!fork){socket(C,AF_INET,SOCK_STREAM,0); connect(C,$to); $b="x"x65536; for(1..16){$o=0; $o+=syswrite(C,$b,65536-$o,$o) while $o<65536} exit}
        accept(A,L); while(($r=sysread(A,$b,65536))>0){$n+=$r} wait; print "$n\n"; sleep 60"#;
    let scene = Scene::new(&Resources::default());
    let mut load = scene.sh(&format!("exec unshare -n perl -e '{PERL}'"));
    assert_eq!(load.says(), "ready");
    let pid = Some(load.pid());
    let before = scene.group.sample(pid, false);
    load.go();
    assert_eq!(load.says(), MIB.to_string());
    scene.still();
    let s = scene.group.sample(pid, false);
    for (a, b) in [(before.net_rx, s.net_rx), (before.net_tx, s.net_tx)] {
        let moved = got(b) - got(a);
        assert!((MIB..=MIB * 105 / 100).contains(&moved), "{moved} bytes");
    }
    // TCP's last acknowledgements come when they come: both are read until nothing came in between.
    let kernels = || {
        let text = std::fs::read_to_string(format!("/proc/{}/net/dev", load.pid())).unwrap();
        let lo: Vec<u64> = text.lines().last().unwrap().split_whitespace().skip(1).map(number).collect();
        (lo[0], lo[8])
    };
    let ours = || {
        let s = scene.group.sample(pid, false);
        (got(s.net_rx), got(s.net_tx))
    };
    assert!(until(Duration::from_secs(5), || kernels() == ours()), "{:?} is not {:?}", ours(), kernels());
    assert_eq!(scene.group.sample(pid, true).net_rx, None, "the device's own links are not the container's");
}

#[test]
fn eight_mebibytes_of_direct_writes_to_a_loop_disk_appear() {
    let disk = LoopDisk::new();
    let scene = Scene::new(&Resources::default());
    // The mount lives in a namespace of the load, and goes with it.
    let mut load = scene.sh(&format!(
        "exec unshare -m sh -c 'mount {} {} && echo ready; while read go; do dd if=/dev/zero of={}/f bs=1M count=8 oflag=direct && echo done; done'",
        disk.device(),
        disk.dir.0.display(),
        disk.dir.0.display()
    ));
    assert_eq!(load.says(), "ready");
    let mut write = || {
        load.go();
        assert_eq!(load.says(), "done");
        scene.group.sample(None, false)
    };
    if scene.is_v1("blkio") {
        let s = write();
        assert_eq!((s.io_read, s.io_write), (None, None), "v1 counts nothing before a throttle rule exists");
        assert!(s.absent.iter().any(|(what, why)| what == "io" && why.contains("throttle rule")), "{:?}", s.absent);
        scene.throttle(&disk);
    }
    let before = scene.group.sample(None, false);
    let s = write();
    let written = got(s.io_write) - before.io_write.unwrap_or(0);
    assert!((8 * MIB..=9 * MIB).contains(&written), "{written} bytes");

    let s = scene.still();
    let (file, sum) = ("blkio.throttle.io_service_bytes_recursive", |t: &str, what: &str| -> u64 {
        t.lines().filter_map(|l| l.split_once(what)).map(|(_, n)| number(n.split(' ').next().unwrap())).sum()
    });
    let text = scene.file("blkio", file, "io.stat");
    let names = if scene.is_v1("blkio") { (" Read ", " Write ") } else { ("rbytes=", "wbytes=") };
    assert_eq!((got(s.io_read), got(s.io_write)), (sum(&text, names.0), sum(&text, names.1)));
}

#[test]
fn freezing_holds_every_counter_still_in_each_layout() {
    for layout in layouts() {
        let scene = Scene::on(layout, &Resources::default());
        let _busy = scene.sh("while :; do :; done");
        assert!(until(Duration::from_secs(10), || got(scene.group.sample(None, false).cpu_usage_us) > 20_000));
        let a = scene.still();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(scene.group.sample(None, false).cpu_usage_us, a.cpu_usage_us);
        scene.group.freeze(false).unwrap();
        assert!(until(Duration::from_secs(5), || scene.group.frozen() == Some(false)));
        let moved = until(Duration::from_secs(10), || scene.group.sample(None, false).cpu_usage_us > a.cpu_usage_us);
        assert!(moved, "thawed, it goes on: {}", scene.layout.describe());
    }
}

#[test]
fn pressure_is_a_percentage_where_there_is_a_v2_tree_and_absent_elsewhere() {
    for layout in layouts() {
        let scene = Scene::on(layout, &Resources::default());
        let s = scene.group.sample(None, false);
        let reason = s.absent.iter().find(|(what, _)| what == "psi").map(|(_, why)| why.as_str());
        match s.psi {
            Some(psi) => assert!([psi.cpu, psi.memory, psi.io].iter().all(|p| (0.0..=100.0).contains(p)) && reason.is_none()),
            None if scene.layout.unified.is_none() => assert_eq!(reason, Some("cgroup v1 has none")),
            None => assert!(matches!(reason, Some("CONFIG_PSI" | "psi=1 is not on the kernel command line")), "{reason:?}"),
        }
    }
}

#[test]
fn every_figure_that_is_missing_has_its_reason() {
    for layout in layouts().into_iter().chain([Layout::default()]) {
        let s = layout.group(&format!("{PARENT}/cg-{}/never-made", std::process::id())).sample(None, false);
        let of = |what: &str| s.absent.iter().any(|(name, _)| name == what);
        for what in ["cpu", "cpu.throttled", "memory", "pids", "io", "net", "psi"] {
            assert!(of(what), "no reason for {what} in {:?}", s.absent);
        }
        assert_eq!(Sample { absent: Vec::new(), ..s }, Sample::default(), "a group that does not exist has no figures");
    }
}

#[test]
fn the_device_reads_its_own_figures() {
    let flash = Scratch::new("flash", &PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let own = [std::process::id() as i32];
    let before = wherry::device::sample(&flash.0, &own);
    let mut file = std::fs::File::create(flash.0.join("f")).unwrap();
    file.write_all(&vec![7; 4 * MIB as usize]).unwrap();
    file.sync_all().unwrap();
    let after = wherry::device::sample(&flash.0, &own);

    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = 1024 * number(text.lines().next().unwrap().split_whitespace().nth(1).unwrap());
    assert!((MIB..total).contains(&got(after.mem_available)));
    assert!((64 * 1024..1024 * MIB).contains(&got(after.agent_pss)));
    assert!(after.load1.is_some_and(|l| l >= 0.0) && after.uptime_s >= before.uptime_s && after.uptime_s > 0);
    match (before.flash_written, after.flash_written) {
        (Some(a), Some(b)) => assert!(b - a >= 4 * MIB, "{} bytes", b - a),
        // The build directory may be on an overlay.
        _ => assert!(after.absent.iter().any(|(what, _)| what == "flash_written"), "{:?}", after.absent),
    }
}

#[test]
fn device_figures_that_cannot_be_had_have_their_reason() {
    let s = wherry::device::sample(Path::new("/dev/shm"), &[i32::MAX]);
    assert_eq!((s.flash_written, s.agent_pss), (None, None));
    let names: Vec<&str> = s.absent.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(names, ["flash_written", "agent_pss"]);
}

// ---- limits ----

#[test]
fn memory_is_lowered_and_raised_while_it_runs() {
    let scene = Scene::new(&memory(64 * MIB));
    let mut load = scene.sh(&touch(20));
    assert_eq!(load.says(), "ready");
    load.go();
    assert_eq!(load.says(), "done");
    for r in [memory(40 * MIB), memory(128 * MIB), memory(32 * MIB)] {
        assert_eq!(scene.group.update(&r).unwrap(), []);
        assert_eq!(scene.group.sample(None, false).memory_max, r.memory_max);
    }
    if scene.is_v1("memory") {
        // v2 would kill; v1 refuses, and says so.
        let missing = scene.group.update(&memory(8 * MIB)).unwrap();
        assert!(missing.iter().any(|(what, why)| what == "memory.max" && why.contains("in use")), "{missing:?}");
        assert_eq!(scene.group.sample(None, false).memory_max, Some(32 * MIB));
    }
    assert_eq!(scene.group.update(&Resources::default()).unwrap(), []);
    assert_eq!(scene.group.sample(None, false).memory_max, None);
}

#[test]
fn swap_is_swap_alone_in_both_versions() {
    let r = Resources { memory_max: Some(32 * MIB), swap_max: Some(16 * MIB), ..Resources::default() };
    let scene = Scene::new(&r);
    let in_force = number(&scene.file("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"));
    assert_eq!(in_force, if scene.is_v1("memory") { 48 * MIB } else { 16 * MIB });
}

#[test]
fn a_weight_becomes_the_shares_that_mean_the_same() {
    for (weight, shares) in [(1, 2), (100, 1024), (10000, 262_144)] {
        let scene = Scene::new(&Resources { cpu_weight: Some(weight), ..Resources::default() });
        let in_force = number(&scene.file("cpu", "cpu.shares", "cpu.weight"));
        assert_eq!(in_force, if scene.is_v1("cpu") { shares } else { u64::from(weight) });
    }
}

#[test]
fn what_cannot_be_enforced_is_reported_and_when_required_refused() {
    let layout = Layout::detect().unwrap();
    layout.prepare(PARENT).unwrap();
    let group = layout.group(&fresh_path());
    let mut r = Resources { memory_high: Some(8 * MIB), ..memory(16 * MIB) };
    let missing = group.create(&r).unwrap();
    let old = layout.v1.iter().any(|(c, _)| c == "memory");
    let want = [("memory.high".to_owned(), "cgroup v1 has no such file".to_owned())];
    assert_eq!(missing, if old { &want[..] } else { &[] });
    assert!(group.remove().unwrap());
    if old {
        r.required = true;
        let error = group.create(&r).unwrap_err();
        assert_eq!(error.to_string(), "cannot enforce required limits: memory.high (cgroup v1 has no such file)");
        assert!(!exists(&layout, group.path()), "nothing is left behind");
    }
}

#[test]
fn limits_without_any_controller_are_all_missing_with_their_option() {
    let Some(layout) = layouts().into_iter().find(|l| l.kind() == Kind::V2 && !l.controllers.iter().any(|c| c == "memory")) else { return };
    let missing = layout.prepare(PARENT).unwrap();
    assert!(missing.iter().any(|(what, why)| what == "memory" && why.contains("CONFIG_MEMCG")), "{missing:?}");
    let group = layout.group(&fresh_path());
    let r = Resources { cpu_quota_milli: Some(500), pids_max: Some(8), ..memory(16 * MIB) };
    let names: Vec<String> = group.create(&r).unwrap().into_iter().map(|(what, _)| what).collect();
    assert_eq!(names, ["memory.max", "memory.swap.max", "cpu.max", "pids.max"]);
    assert!(group.remove().unwrap());
}

#[test]
fn a_machine_without_control_groups_still_answers() {
    let layout = Layout::default();
    let missing: Vec<String> = layout.prepare(PARENT).unwrap().into_iter().map(|(what, _)| what).collect();
    assert_eq!((layout.describe().as_str(), missing.join(" ").as_str()), ("none", "memory cpu pids io"));
    let group = layout.group("wherry/a/b");
    assert_eq!(group.create(&memory(MIB)).unwrap().len(), 2);
    group.attach(std::process::id() as i32).unwrap();
    assert!(group.remove().unwrap());
}

#[test]
fn limits_that_an_earlier_group_left_behind_are_lifted() {
    for layout in layouts().into_iter().filter(|l| l.v1.iter().any(|(c, _)| c == "pids") || l.controllers.iter().any(|c| c == "pids")) {
        let scene = Scene::on(layout, &Resources { pids_max: Some(3), ..memory(16 * MIB) });
        assert_eq!(scene.group.create(&Resources::default()).unwrap(), []);
        assert_eq!(scene.file("pids", "pids.max", "pids.max"), "max");
        assert_eq!(scene.group.sample(None, false).memory_max, None);
    }
}

// ---- life and death ----

#[test]
fn neighbours_come_and_go_at_once() {
    let layout = Layout::detect().unwrap();
    layout.prepare(PARENT).unwrap();
    let app = fresh_path();
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let group = layout.group(&format!("{app}/{name}"));
            scope.spawn(move || {
                for _ in 0..100 {
                    assert_eq!(group.create(&memory(16 * MIB)).unwrap(), []);
                    assert!(group.remove().unwrap());
                }
            });
        }
    });
    assert!(!exists(&layout, &app));
}

#[test]
fn a_path_that_leaves_our_tree_is_refused() {
    let layout = Layout::detect().unwrap();
    for path in ["", "/", "/wherry", "wherry/../..", "..", "wherry//x", "wherry/./x", "wherry/", "a\0b", &"x/".repeat(400)] {
        let group = layout.group(path);
        assert!(matches!(group.create(&Resources::default()), Err(Error::Path(_))), "{path:?}");
        assert!(matches!(group.attach(std::process::id() as i32), Err(Error::Path(_))), "{path:?}");
        assert!(group.pids().is_empty() && !group.populated() && group.remove().unwrap(), "{path:?}");
    }
}

#[test]
fn attach_puts_a_process_into_every_hierarchy() {
    for layout in layouts() {
        let scene = Scene::on(layout, &Resources::default());
        let load = scene.sh("exec sleep 60");
        let own = std::fs::read_to_string(format!("/proc/{}/cgroup", load.pid())).unwrap();
        let inside = own.lines().filter(|l| l.ends_with(&format!("/{}", scene.group.path()))).count();
        let roots: std::collections::HashSet<&String> = scene
            .layout
            .v1
            .iter()
            .filter(|(c, _)| matches!(c.as_str(), "memory" | "cpu" | "cpuacct" | "pids" | "blkio"))
            .map(|(_, at)| at)
            .chain(&scene.layout.unified)
            .collect();
        let freezer = scene.layout.unified.is_none();
        assert_eq!(inside, roots.len() + usize::from(freezer), "{own}");
        assert!(scene.group.populated() && scene.group.pids().contains(&load.pid()));
    }
}

#[test]
fn attaching_a_process_that_is_gone_is_an_error_that_says_so() {
    let scene = Scene::new(&Resources::default());
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    child.wait().unwrap();
    let error = scene.group.attach(pid).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot attach process {pid} to ")) && error.ends_with(": No such process"), "{error}");
}

#[test]
fn a_thread_that_joins_by_itself_is_in_every_hierarchy() {
    const ROLE: &str = "WHERRY_TEST_GROUP";
    if let Ok(path) = std::env::var(ROLE) {
        Layout::detect().unwrap().group(&path).attach_self(false).unwrap();
        // In lines of its own, behind what the test harness has begun to say.
        return println!("\n{}", std::fs::read_to_string("/proc/thread-self/cgroup").unwrap());
    }
    let scene = Scene::new(&Resources::default());
    // A copy of this program does it: the v2 tree takes whole processes.
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_thread_that_joins_by_itself_is_in_every_hierarchy", "--nocapture"])
        .env(ROLE, scene.group.path())
        .output()
        .unwrap();
    let load = scene.sh("exec sleep 60");
    let attached = std::fs::read_to_string(format!("/proc/{}/cgroup", load.pid())).unwrap();
    let ours =
        |text: &str| text.lines().filter(|l| l.ends_with(&format!("/{}", scene.group.path()))).map(str::to_owned).collect::<Vec<_>>();
    let joined = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{joined}{}", String::from_utf8_lossy(&out.stderr));
    assert!(!ours(&joined).is_empty(), "{joined}");
    assert_eq!(ours(&joined), ours(&attached));
}

#[test]
fn kill_empties_a_group_with_a_fork_bomb_in_a_sub_group() {
    for layout in layouts() {
        let bounded = layout.v1.iter().any(|(c, _)| c == "pids") || layout.controllers.iter().any(|c| c == "pids");
        let r = Resources { pids_max: bounded.then_some(48), ..Resources::default() };
        let scene = Scene::on(layout, &r);
        let sub = scene.sub("bomb");
        sub.create(&Resources::default()).unwrap();
        // Without a pids controller nothing but itself bounds the bomb: five doublings.
        let bomb = if bounded { "exec perl -e 'fork while 1'" } else { "exec perl -e 'fork for 1..5; sleep 60'" };
        let _load = Load::start(&sub, bomb);
        assert!(until(Duration::from_secs(60), || scene.group.pids().len() >= 32));
        let emptied = until(Duration::from_secs(20), || {
            scene.group.kill().unwrap();
            !scene.group.populated()
        });
        assert!(emptied, "{} still has {:?}", scene.layout.describe(), scene.group.pids());
    }
}

#[test]
fn kill_reaches_what_is_frozen() {
    for layout in layouts() {
        let scene = Scene::on(layout, &Resources::default());
        let mut load = scene.sh("exec sleep 60");
        scene.still();
        scene.group.kill().unwrap();
        assert!(until(Duration::from_secs(5), || load.child.try_wait().unwrap().is_some()), "{}", scene.layout.describe());
        assert!(until(Duration::from_secs(5), || !scene.group.populated()));
    }
}

#[test]
fn kill_works_where_nothing_can_freeze() {
    let Some(mut layout) = layouts().into_iter().find(|l| l.kind() == Kind::V1) else { return };
    layout.v1.retain(|(c, _)| c != "freezer");
    let scene = Scene::on(layout, &Resources::default());
    let mut load = scene.sh("sleep 60 & sleep 60");
    assert_eq!(scene.group.freeze(true).unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    assert_eq!(scene.group.frozen(), None);
    // What forks during a pass may escape it, so passes are repeated, as every caller must.
    let emptied = until(Duration::from_secs(5), || {
        scene.group.kill().unwrap();
        load.child.try_wait().unwrap().is_some() && !scene.group.populated()
    });
    assert!(emptied, "{:?}", scene.group.pids());
}

#[test]
fn a_group_is_removed_with_its_sub_groups_once_it_is_empty() {
    for layout in layouts() {
        let scene = Scene::on(layout, &Resources::default());
        let deep = scene.sub("a/b/c");
        deep.create(&Resources::default()).unwrap();
        scene.sub("a/d").create(&Resources::default()).unwrap();
        let load = Load::start(&deep, "exec sleep 60");
        assert!(!scene.group.remove().unwrap(), "something lives in it");
        assert!(scene.group.populated(), "and goes on living");
        drop(load);
        assert!(until(Duration::from_secs(5), || scene.group.remove().unwrap()));
        assert!(!exists(&scene.layout, scene.group.path()));
        assert!(scene.group.remove().unwrap(), "what is not there is removed");
    }
}

#[test]
fn removing_the_last_container_removes_its_app_but_not_our_parent() {
    let layout = Layout::detect().unwrap();
    layout.prepare(PARENT).unwrap();
    let app = fresh_path();
    let (one, two) = (layout.group(&format!("{app}/one")), layout.group(&format!("{app}/two")));
    one.create(&Resources::default()).unwrap();
    two.create(&Resources::default()).unwrap();
    assert!(one.remove().unwrap());
    assert!(exists(&layout, two.path()), "a neighbour stays");
    assert!(two.remove().unwrap());
    assert!(!exists(&layout, &app), "an empty app goes");
    assert!(exists(&layout, PARENT), "the parent stays");
}

#[test]
fn clearing_a_container_takes_its_own_groups_and_leaves_those_above() {
    let layout = Layout::detect().unwrap();
    layout.prepare(PARENT).unwrap();
    let app = fresh_path();
    let (one, below) = (layout.group(&format!("{app}/one")), layout.group(&format!("{app}/one/a/b")));
    below.create(&Resources::default()).unwrap();
    assert!(one.clear().unwrap());
    assert!(!exists(&layout, one.path()) && exists(&layout, &app));
    assert!(one.clear().unwrap(), "what is not there is cleared");
    assert!(layout.group(&app).remove().unwrap());
}

fn exists(layout: &Layout, path: &str) -> bool {
    layout.v1.iter().map(|(_, at)| at).chain(&layout.unified).any(|root| Path::new(root).join(path).exists())
}

// ---- other machines ----

#[test]
fn captured_trees_give_their_expected_samples() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cgroupfs");
    let mut seen = 0;
    for entry in std::fs::read_dir(all).unwrap() {
        let dir = entry.unwrap().path();
        if dir.is_dir() {
            check(&dir);
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} trees");
}

/// `mountinfo`, the tree where it says, and `expected.json`: what is said of the layout, and the sample of `wherry/web/nginx`.
fn check(dir: &Path) {
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{}/{name}: {e}", dir.display()));
    let layout = Layout::from_mountinfo(&text("mountinfo"), dir.to_str().unwrap()).unwrap().with_controllers().unwrap();
    let want: serde_json::Value = serde_json::from_str(&text("expected.json")).unwrap();
    assert_eq!(Some(layout.describe().as_str()), want["layout"].as_str(), "{}", dir.display());
    let want: Sample = serde_json::from_value(want["sample"].clone()).unwrap();
    assert_eq!(layout.group("wherry/web/nginx").sample(None, false), want, "{}", dir.display());
}

// ---- what the loads stand on ----

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, above: &Path) -> Self {
        let dir = above.join(format!("wherry-cg-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A loop disk with ext2 over a file in RAM. Its number is fresh and it is taken away again: once a throttle rule was set for a disk, the
/// kernel counts on it until it goes.
struct LoopDisk {
    number: u32,
    dir: Scratch,
    _file: Scratch,
}

impl LoopDisk {
    fn new() -> Self {
        let (dir, files) = (Scratch::new("mnt", &std::env::temp_dir()), Scratch::new("disk", Path::new("/dev/shm")));
        let number = 1000 + std::process::id() % 100_000;
        let image = files.0.join("image");
        std::fs::File::create(&image).unwrap().set_len(32 * MIB).unwrap();
        let disk = Self { number, dir, _file: files };
        run("mke2fs", &["-q", "-t", "ext2", image.to_str().unwrap()]);
        loop_control("0x4C80", number);
        run("losetup", &[&disk.device(), image.to_str().unwrap()]);
        disk
    }

    fn device(&self) -> String {
        format!("/dev/loop{}", self.number)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // The mount may outlive its last process by a moment.
        let _ = Command::new("losetup").args(["-d", &self.device()]).status();
        until(Duration::from_secs(5), || loop_control("0x4C81", self.number));
    }
}

/// `LOOP_CTL_ADD` and `LOOP_CTL_REMOVE`, by number.
fn loop_control(request: &str, number: u32) -> bool {
    let script = format!("open(F,'+<','/dev/loop-control') or exit 1; exit(defined(ioctl(F,{request},{number})) ? 0 : 1)");
    Command::new("perl").args(["-e", &script]).status().unwrap().success()
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Scene {
    /// A rule that slows nothing down, so that the kernel counts.
    fn throttle(&self, disk: &LoopDisk) {
        use std::os::unix::fs::MetadataExt;
        let dev = std::fs::metadata(disk.device()).unwrap().rdev();
        let (_, root) = self.layout.v1.iter().find(|(c, _)| c == "blkio").unwrap();
        let file = Path::new(root).join(self.group.path()).join("blkio.throttle.write_bps_device");
        std::fs::write(file, format!("{}:{} 1073741824", nix::sys::stat::major(dev), nix::sys::stat::minor(dev))).unwrap();
    }
}
