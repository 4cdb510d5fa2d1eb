//! A kill at every system call: of launch, of a container's pid 1 and its payload, of stage, and of keeper while it starts, adopts and records.
//! After each, by the ordinary means alone (the restart policy, the next keeper, the next document), all is as it was wanted: no container lost, none
//! doubled, no process, control group, mount or file left over, and no exit code that was not.
//!
//! A first run records the calls; a point that a later run does not come by fails the test. In `tests/run` each role has its share of points;
//! `cargo test --test crash -- --ignored` takes all.
//!
//! Needs what `keeper.rs` needs, without a broker; x86_64, for its registers.
#![cfg(target_arch = "x86_64")]

#[allow(dead_code, reason = "made for another test program")]
#[path = "../image/bench.rs"]
mod bench;
mod calls;
#[path = "../harness/mod.rs"]
mod harness;
mod tracer;

use harness::{Device, PATIENCE, Signal, Value, eventually, is_alive, json, kill, manifest, shell, with, within};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tracer::{Point, Role, State, Tracer, points};
use wherry::keeper::runtime::{self, Phase};

/// Which points of a walk are taken.
#[derive(Clone, Copy)]
enum Share {
    All,
    /// Those that others can notice, and every so manieth of the rest, others each day.
    Some(usize),
}

impl Share {
    fn of(self, walk: &[i64]) -> Vec<Point> {
        let all = points(walk);
        let Self::Some(stride) = self else { return all };
        let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400;
        let offset = day as usize % stride;
        let chosen = |(i, p): &(usize, &Point)| calls::leaves_a_trace(p.call) || i % stride == offset;
        all.iter().enumerate().filter(chosen).map(|(_, p)| *p).collect()
    }
}

fn told(role: Role, point: Point) -> String {
    format!("{role:?} killed at {} number {}", calls::name(point.call), point.nth)
}

// ---- the device ----

/// A device without a broker that says nothing by itself, and the mark of its payloads.
struct Stand {
    device: Device,
    witness: PathBuf,
    /// Second argument of every payload's `sleep`: nobody else's.
    mark: String,
}

impl Stand {
    fn new() -> Self {
        let device = Device::prepared(json!({"brokers": [], "interval_s": 3600}));
        let witness = device.dir.join("witness");
        fs::create_dir(&witness).unwrap();
        let mark = format!("{}", 1_000_000 + harness_number(&device));
        Self { device, witness, mark }
    }

    /// A container that runs the script and then sleeps until it is told to end.
    fn container(&self, script: &str, extra: Value) -> Value {
        let script = format!("{script} exec sleep {} 0", self.mark);
        let quick = json!({
            "restart": {"policy": "always", "delay": "10ms", "max_delay": "10ms"},
            "mounts": [{"type": "bind", "source": self.witness, "target": "/w"}],
        });
        with(with(shell(&script), quick), extra)
    }

    /// Payloads that run, wherever they are.
    fn payloads(&self) -> Vec<i32> {
        let wanted = format!("sleep\0{}\0", self.mark);
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        numbers.filter(|p| fs::read(format!("/proc/{p}/cmdline")).is_ok_and(|c| c.starts_with(wanted.as_bytes()))).collect()
    }

    fn sorted(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What is not as it must be while exactly these containers run, each with this many processes; `None` when all is.
    fn fault(&self, running: &[(&str, usize)]) -> Option<String> {
        let device = &self.device;
        let listed = device.wherry(&["--json", "ls"]);
        let apps: Vec<Value> = serde_json::from_str(&listed.out).unwrap_or_default();
        let main = |app: &str| apps.iter().find(|a| a["app"] == app).map(|a| a["containers"][0].clone());
        if apps.len() != running.len() {
            return Some(format!("keeper shows {apps:?} {listed:?}"));
        }
        for (app, processes) in running {
            let found = main(app).unwrap_or_default();
            let tasks = device.tasks(app);
            let pid = found["pid"].as_i64().unwrap_or(0) as i32;
            if found["state"] != "running" || tasks.len() != *processes || !tasks.contains(&pid) {
                return Some(format!("{app}: {found}, tasks {tasks:?}"));
            }
            let exit = &found["last_exit"];
            if !(exit.is_null() || *exit == json!({"signal": 9}) || *exit == json!({"signal": 15}) || *exit == json!({"code": 7})) {
                return Some(format!("{app}: nobody ended like this: {exit}"));
            }
            let files = Self::sorted(&device.dir.join("run/containers").join(app).join("main"));
            if files != ["exit", "log", "record", "root"] {
                return Some(format!("{app}: runtime files {files:?}"));
            }
        }
        if self.payloads().len() != running.len() {
            return Some(format!("payloads {:?}", self.payloads()));
        }
        let wanted: BTreeSet<String> = running.iter().map(|(app, _)| (*app).to_owned()).collect();
        let found: BTreeSet<String> = Self::sorted(&device.dir.join("run/containers")).into_iter().collect();
        let groups: BTreeSet<String> = device.group_names().into_iter().collect();
        if found != wanted || groups != wanted.iter().map(|app| format!("{app}/main")).collect() {
            return Some(format!("runtime directories {found:?}, groups {groups:?}"));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours: Vec<&str> = mounts.lines().filter(|l| l.contains(device.dir.to_str().unwrap())).collect();
        if ours.len() != 1 {
            return Some(format!("mounts {ours:?}"));
        }
        self.stray(running)
    }

    /// A process that is neither keeper, nor its agent, nor a container's.
    fn stray(&self, running: &[(&str, usize)]) -> Option<String> {
        let device = &self.device;
        let agent = harness::role_of(device.keeper(), "agent");
        let known: Vec<i32> = running.iter().flat_map(|(app, _)| device.tasks(app)).chain([device.keeper()]).chain(agent).collect();
        let strangers: Vec<i32> = device.processes().into_iter().filter(|p| !known.contains(p)).collect();
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", device.keeper())).unwrap_or_default();
        let zombies: Vec<i32> = children.split_ascii_whitespace().filter_map(|p| p.parse().ok()).filter(|p| !is_alive(*p)).collect();
        (!strangers.is_empty() || !zombies.is_empty()).then(|| format!("strange processes {strangers:?}, zombies {zombies:?}"))
    }

    /// Waits until all is as it must be.
    fn whole(&self, what: &str, running: &[(&str, usize)]) {
        let mut last = None;
        let fine = within(PATIENCE, || {
            last = self.fault(running);
            last.is_none().then_some(())
        });
        assert!(fine.is_some(), "{what}: {}\n{}", last.unwrap_or_default(), self.device.log());
    }

    /// Everything is taken away, and nothing of it is left.
    fn finish(self, apps: &[&str]) {
        for app in apps {
            self.device.ok(&["rm", app]);
        }
        self.whole("at the end", &[]);
        let data = self.device.dir.join("data");
        for (dir, kept) in [("staging", 0), ("layers", 0), ("images", 0), ("manifests", apps.len())] {
            eventually(&format!("{dir} is clean"), || (Self::sorted(&data.join(dir)).len() <= kept).then_some(()));
        }
    }
}

fn harness_number(device: &Device) -> u32 {
    let digits: Vec<u32> = device.id.split(['t', '-']).filter_map(|n| n.parse().ok()).collect();
    digits[0] % 100_000 * 100 + digits[1]
}

/// Waits until the order's process has come and gone.
fn met(tracer: &Tracer) -> State {
    within(PATIENCE, || Some(tracer.state()).filter(|s| matches!(s, State::Over | State::Killed))).unwrap_or(tracer.state())
}

/// What must have been walked, or the list has rotted.
fn check_walk(role: Role, walk: &[i64], least: usize, names: &[&str]) {
    let seen: BTreeSet<String> = walk.iter().map(|c| calls::name(*c)).collect();
    assert!(walk.len() >= least, "{role:?} made {} calls only", walk.len());
    for name in names {
        assert!(seen.contains(*name), "{role:?} made no {name}: {seen:?}");
    }
}

/// A kill that came too late, or to another place than recorded, is a fault unless that call is one of those that vary.
fn check_hits(role: Role, taken: &[Point], missed: &[Point]) {
    let fixed: Vec<String> = missed.iter().filter(|p| !calls::varies(p.call)).map(|p| told(role, *p)).collect();
    assert!(
        fixed.is_empty() && missed.len() * 10 <= taken.len() + 10,
        "never came by: {fixed:?}, {} of {} missed",
        missed.len(),
        taken.len()
    );
    println!("{role:?}: {} points, {} of them not come by again", taken.len(), missed.len());
}

// ---- a start ----

/// Kills one of the processes of a start at each of its calls. `tasks`: processes of the container.
fn check_start(role: Role, share: Share, init: bool, script: &str, least: usize, names: &[&str]) {
    let mut stand = Stand::new();
    stand.device.start();
    let tasks = if init { 2 } else { 1 };
    // A payload that is pid 1 itself hears no signal that it has not asked for.
    let stop = json!({"signal": "KILL", "timeout": "3s"});
    stand.device.applied(&manifest("web", stand.container(script, json!({"init": init, "stop": stop}))));
    stand.whole("at first", &[("web", tasks)]);
    let tracer = Tracer::follow(stand.device.keeper(), None);
    let round = |point: Option<Point>| {
        let _ = fs::remove_file(stand.witness.join("again"));
        tracer.order(role, point);
        // It answers when the container runs, which may take until after the kill.
        let mut restart = stand.device.command(&["restart", "web"]).stderr(Stdio::null()).spawn().unwrap();
        let state = met(&tracer);
        stand.whole(&point.map_or_else(|| format!("{role:?} watched"), |p| told(role, p)), &[("web", tasks)]);
        let _ = restart.wait();
        (state, tracer.end())
    };
    let (state, walk) = round(None);
    assert_eq!(state, State::Over, "{role:?} is met");
    check_walk(role, &walk, least, names);
    let taken = share.of(&walk);
    let missed: Vec<Point> = taken.iter().copied().filter(|p| round(Some(*p)).0 != State::Killed).collect();
    check_hits(role, &taken, &missed);
    stand.finish(&["web"]);
}

/// The first run of a container ends by itself, so that its pid 1 reaps and records; the second stays.
const ENDS_ONCE: &str = "[ -e /w/again ] || { : >/w/again; exit 7; };";

fn launch(share: Share) {
    check_start(Role::Launch, share, true, "", 150, &["unshare", "mount", "clone3", "sendmsg", "mkdir"]);
}

fn pid1(share: Share) {
    check_start(Role::Pid1, share, true, ENDS_ONCE, 150, &["pivot_root", "clone3", "wait4", "exit_group"]);
}

fn payload(share: Share) {
    check_start(Role::Payload, share, true, "", 30, &["capset", "seccomp", "execve"]);
}

fn payload_as_pid1(share: Share) {
    check_start(Role::Pid1, share, false, "", 150, &["pivot_root", "capset", "execve"]);
}

// ---- stage ----

/// An image of two layers, the upper with a whiteout, an opaque directory and directories that it only implies: work for finish.
fn layered(dir: &Path) -> String {
    let layout = harness::layout("plain");
    let make = "cp -r \"$1\" layout; mkdir -p l/etc l/work l/bin; echo new >l/etc/new; : >l/etc/.wh.group; : >l/work/.wh..wh..opq; echo x >l/work/x; \
        echo y >l/bin/extra; tar -C l -cf l.tar etc/new etc/.wh.group work bin/extra; umoci raw add-layer --image layout:plain l.tar";
    bench::run("sh", &["-euc", make, "sh", layout.strip_prefix("oci:").and_then(|l| l.strip_suffix(":plain")).unwrap()], dir);
    format!("oci:{}/layout:plain", dir.display())
}

/// Every file of every layer.
fn stored(device: &Device) -> Vec<String> {
    let layers = device.dir.join("data/layers");
    let files = Stand::sorted(&layers).into_iter().flat_map(|l| bench::tree(&layers.join(l).join("0")));
    // A whiteout has the time at which it was made.
    let timeless = |line: String| match line.split(' ').collect::<Vec<_>>()[..] {
        [name, mode, owner, _, "device", number] => [name, mode, owner, number].join(" "),
        _ => line,
    };
    files.map(timeless).collect()
}

fn stage(share: Share) {
    let mut stand = Stand::new();
    let image = layered(&stand.device.dir);
    stand.device.start();
    let mut serial = 0;
    let mut next = |stand: &Stand| {
        serial += 1;
        manifest("web", stand.container("", json!({"image": {"ref": image}, "env": {"VERSION": serial.to_string()}})))
    };
    let tracer = Tracer::follow(stand.device.keeper(), None);
    let mut wanted = Vec::new();
    let mut round = |point: Option<Point>| {
        let what = point.map_or_else(|| "stage watched".into(), |p| told(Role::Stage, p));
        tracer.order(Role::Stage, point);
        let outcome = stand.device.apply(&next(&stand));
        let (state, walk) = (met(&tracer), tracer.end());
        assert!(outcome.code == 0 || state == State::Killed && outcome.err.contains("stage ended"), "{what}: {outcome:?}");
        if outcome.code != 0 {
            stand.device.applied(&next(&stand));
        }
        stand.whole(&what, &[("web", 2)]);
        if point.is_none() {
            wanted = stored(&stand.device);
        }
        eventually(&format!("{what}: nothing is left in staging"), || {
            Stand::sorted(&stand.device.dir.join("data/staging")).is_empty().then_some(())
        });
        bench::same(&what, &wanted, &stored(&stand.device));
        stand.device.ok(&["rm", "web"]);
        let layers = stand.device.dir.join("data/layers");
        let gone = || Stand::sorted(&layers).is_empty() && harness::role_of(stand.device.keeper(), "stage").is_none();
        eventually("its image is removed", || gone().then_some(()));
        (state, walk)
    };
    let (_, walk) = round(None);
    check_walk(Role::Stage, &walk, 300, &["mknodat", "rename", "syncfs", "fsync", "sendmsg"]);
    let taken = share.of(&walk);
    let missed: Vec<Point> = taken.iter().copied().filter(|p| round(Some(*p)).0 != State::Killed).collect();
    check_hits(Role::Stage, &taken, &missed);
    stand.finish(&[]);
}

// ---- keeper ----

/// Starts keeper held, with the order from its first call on; the tracer.
fn start_traced(device: &mut Device, point: Option<Point>) -> Tracer {
    let gate = device.start_held();
    let tracer = Tracer::follow(device.keeper(), Some((Role::Keeper, point)));
    drop(gate);
    tracer
}

/// Kills keeper at each of its calls from `begin` on, until the device is `done` or keeper is dead, and lets the next one bring all in order.
struct Kills<'a> {
    role: &'a str,
    share: Share,
    least: usize,
    names: &'a [&'a str],
}

impl Kills<'_> {
    /// `round` does one run with a kill at the point, recovers, checks, and answers what was walked if keeper was not met there.
    fn check(&self, mut round: impl FnMut(Option<Point>) -> Option<Vec<i64>>) {
        let mut walk = round(None).expect("nobody was killed");
        // Events come together or apart: only what was walked each time is counted on.
        for _ in 0..3 {
            walk = tracer::common(&walk, &round(None).expect("nobody was killed"));
        }
        check_walk(Role::Keeper, &walk, self.least, self.names);
        let taken = self.share.of(&walk);
        let missed: Vec<Point> = taken.iter().copied().filter(|p| (0..3).all(|_| round(Some(*p)).is_some())).collect();
        println!("{}:", self.role);
        check_hits(Role::Keeper, &taken, &missed);
    }
}

/// Two containers run, one of them ended while nobody looked, and one start was interrupted before it had a process.
fn adopt(share: Share) {
    let mut stand = Stand::new();
    stand.device.start();
    stand.device.applied(&manifest("web", stand.container("", json!({"restart": {"policy": "no"}}))));
    stand.device.applied(&manifest("two", stand.container("", json!({}))));
    let kills = Kills { role: "adopt", share, least: 300, names: &["flock", "bind", "pidfd_open", "clone", "sendmsg"] };
    kills.check(|point| {
        let what = point.map_or_else(|| "watched".into(), |p| told(Role::Keeper, p));
        stand.whole(&format!("before {what}"), &[("web", 2), ("two", 2)]);
        let (web, two) = (stand.device.running("web"), stand.device.running("two"));
        let boot = stand.device.json(&["status"])["boot"].clone();
        stand.device.end(Signal::SIGKILL);
        kill(two, Signal::SIGKILL);
        stand.half_begun("ghost");
        let tracer = start_traced(&mut stand.device, point);
        let device = &mut stand.device;
        let settled = within(PATIENCE, || {
            (device.has_ended() || tracer.state() == State::Killed || shown(device, "two").is_some_and(|p| p != two)).then_some(())
        });
        assert!(settled.is_some(), "{what}: keeper neither dies nor settles, {:?}: {}", tracer.state(), plight(device.keeper()));
        let walk = stand.survived(&tracer);
        stand.whole(&what, &[("web", 2), ("two", 2)]);
        assert_eq!(stand.device.running("web"), web, "{what}: it was lost");
        assert_ne!(stand.device.running("two"), two);
        let (first, second) = (stand.device.container("web").unwrap(), stand.device.container("two").unwrap());
        assert_eq!((&first["restarts"], &stand.device.json(&["status"])["boot"]), (&json!(0), &boot), "{what}");
        assert!(second["last_exit"].is_null() || second["last_exit"] == json!({"signal": 9}), "{what}: {second}");
        walk
    });
    stand.finish(&["web", "two"]);
}

/// After a reboot: no runtime directory, no container; all comes from flash.
fn boot(share: Share) {
    let mut stand = Stand::new();
    stand.device.start();
    stand.device.applied(&manifest("web", stand.container("", json!({"restart": {"policy": "no"}}))));
    let kills = Kills { role: "boot", share, least: 300, names: &["mount", "fdatasync", "mkdir", "rename", "mknod", "sendmsg"] };
    kills.check(|point| {
        let what = point.map_or_else(|| "watched".into(), |p| told(Role::Keeper, p));
        let before = stand.device.json(&["status"])["boot"].as_u64().unwrap();
        let old = stand.device.running("web");
        stand.device.end(Signal::SIGKILL);
        kill(old, Signal::SIGKILL);
        eventually("the old one is gone", || stand.device.processes().is_empty().then_some(()));
        eventually("nothing is mounted", || nix::mount::umount(&stand.device.dir.join("run")).is_ok().then_some(()));
        let tracer = start_traced(&mut stand.device, point);
        let device = &mut stand.device;
        let settled =
            within(PATIENCE, || (device.has_ended() || tracer.state() == State::Killed || shown(device, "web").is_some()).then_some(()));
        assert!(settled.is_some(), "{what}: keeper neither dies nor settles, {:?}: {}", tracer.state(), plight(device.keeper()));
        let walk = stand.survived(&tracer);
        stand.whole(&what, &[("web", 2)]);
        let boot = stand.device.json(&["status"])["boot"].as_u64().unwrap();
        assert!(boot == before + 1 || boot == before + 2, "{what}: start {boot} after {before}");
        walk
    });
    stand.finish(&["web"]);
}

/// A document comes: it is recorded, the old container is stopped, the new one is started, and each step is on record.
fn update(share: Share) {
    let mut stand = Stand::new();
    stand.device.start();
    // With this policy, one that ended is not started again: nothing that a kill leaves may be taken for its end.
    let once = json!({"policy": "no"});
    let version = |stand: &Stand, n: u32| manifest("web", stand.container("", json!({"env": {"VERSION": n.to_string()}, "restart": once})));
    stand.device.applied(&version(&stand, 0));
    let kills = Kills {
        role: "update",
        share,
        least: 200,
        names: &["rename", "fdatasync", "ftruncate", "unlink", "rmdir", "pidfd_send_signal", "sendmsg", "clone"],
    };
    let mut serial = 0;
    let mut tracer = Tracer::follow(stand.device.keeper(), None);
    kills.check(|point| {
        serial += 1;
        let what = point.map_or_else(|| "watched".into(), |p| told(Role::Keeper, p));
        let next = version(&stand, serial);
        let hash = wherry::image::Digest::of(next.to_string().as_bytes()).hex().to_string();
        tracer.order(Role::Keeper, point);
        let outcome = stand.device.apply(&next);
        let walk = stand.survived(&tracer);
        if walk.is_none() {
            tracer = Tracer::follow(stand.device.keeper(), None);
        }
        stand.whole(&what, &[("web", 2)]);
        let recorded = stand.device.json(&["info", "web"])["sha256"] == hash;
        assert!(recorded || outcome.code != 0, "{what}: the answer was {outcome:?}, but it is not on record");
        // What runs is what is on record.
        let runs = eventually("what is on record runs", || stand.version().filter(|n| (*n == serial) == recorded));
        stand.whole(&format!("{what}, version {runs}"), &[("web", 2)]);
        eventually("one document is kept", || (Stand::sorted(&stand.device.dir.join("data/manifests")).len() == 1).then_some(()));
        if !recorded {
            stand.device.applied(&next);
        }
        walk
    });
    stand.finish(&["web"]);
}

/// What a process waits for.
fn plight(pid: i32) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = read("status");
    let lines = status.lines().filter(|l| l.starts_with("State") || l.starts_with("TracerPid")).collect::<Vec<_>>().join(", ");
    format!("{} {lines}, in {} {}", read("cmdline").replace('\0', " "), read("wchan"), read("syscall"))
}

/// Pid 1 of a container that runs, if keeper is there to say so.
fn shown(device: &Device, app: &str) -> Option<i32> {
    let apps: Value = serde_json::from_str(&device.wherry(&["--json", "ls"]).out).ok()?;
    let container = &apps.as_array()?.iter().find(|a| a["app"] == app)?["containers"][0];
    (container["state"] == "running").then(|| container["pid"].as_i64().map(|p| p as i32)).flatten()
}

impl Stand {
    /// What a keeper leaves that dies when it is about to ask launch: a record without a process, and groups that nobody is in.
    fn half_begun(&self, app: &str) {
        let containers = self.device.dir.join("run/containers");
        let mut record = runtime::decode(&fs::read(containers.join("web/main/record")).unwrap()).unwrap();
        record.group = format!("{}/{app}/main", self.device.cgroup);
        record.phase = Phase::Intent;
        fs::create_dir_all(containers.join(app).join("main/root")).unwrap();
        fs::write(containers.join(app).join("main/record"), runtime::encode(&record).unwrap()).unwrap();
        self.device.make_group(&format!("{app}/main"));
    }

    /// The version of the one payload that runs.
    fn version(&self) -> Option<u32> {
        let [payload] = self.payloads()[..] else { return None };
        let environment = fs::read(format!("/proc/{payload}/environ")).ok()?;
        String::from_utf8_lossy(&environment).split('\0').find_map(|v| v.strip_prefix("VERSION=")?.parse().ok())
    }

    /// If keeper was killed, the next one is started; else what it walked.
    fn survived(&mut self, tracer: &Tracer) -> Option<Vec<i64>> {
        // It may be on its way to the point still: nothing more will make it move once it sleeps.
        let dead = within(Duration::from_millis(300), || (tracer.state() == State::Killed).then_some(())).is_some();
        if dead {
            eventually("it is dead", || self.device.has_ended().then_some(()));
            self.device.start();
            return None;
        }
        Some(tracer.end())
    }
}

#[test]
fn launch_killed_at_any_call_is_tried_again() {
    launch(Share::Some(3));
}

#[test]
fn pid_1_killed_at_any_call_is_started_again() {
    pid1(Share::Some(4));
}

#[test]
fn a_payload_killed_at_any_call_before_its_exec_is_started_again() {
    payload(Share::Some(3));
    payload_as_pid1(Share::Some(7));
}

#[test]
fn stage_killed_at_any_call_leaves_nothing_half_done() {
    stage(Share::Some(11));
}

#[test]
fn keeper_killed_at_any_call_of_an_adoption_leaves_it_to_the_next() {
    adopt(Share::Some(11));
}

#[test]
fn keeper_killed_at_any_call_of_its_first_start_is_followed_by_one_that_starts_all_once() {
    boot(Share::Some(11));
}

#[test]
fn keeper_killed_at_any_call_of_an_update_leaves_the_old_version_or_the_new_one() {
    update(Share::Some(7));
}

#[test]
#[ignore = "all seven take every call of every role: five minutes"]
fn all_of_launch() {
    launch(Share::All);
}

#[test]
#[ignore = "all seven take every call of every role: five minutes"]
fn all_of_pid_1() {
    pid1(Share::All);
}

#[test]
#[ignore = "all seven take every call of every role: five minutes"]
fn all_of_payload() {
    payload(Share::All);
    payload_as_pid1(Share::All);
}

#[test]
#[ignore = "all seven take every call of every role: five minutes"]
fn all_of_stage() {
    stage(Share::All);
}

#[test]
#[ignore = "all seven take every call of every role: five minutes"]
fn all_of_adopt() {
    adopt(Share::All);
}

#[test]
#[ignore = "all seven take every call of every role: five minutes"]
fn all_of_boot() {
    boot(Share::All);
}

#[test]
#[ignore = "all seven take every call of every role: five minutes"]
fn all_of_update() {
    update(Share::All);
}
