//! Crash safety: whatever dies, and whenever, the containers of the device run on or are brought back, once each, and nothing is left over.

mod harness;

use harness::{
    Device, Signal, Value, eventually, is_alive, json, kill, manifest, numbered, role_of, shell, sleeper, steadily, with, within,
};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;
use wherry::keeper::runtime::{self, Phase, Record};

/// Says a line every 50 ms, so that missing and doubled ones show.
fn counter() -> Value {
    shell("i=0; while true; do echo line $i; i=$((i+1)); sleep 0.05; done")
}

fn uptime(device: &Device, scope: &str) -> u64 {
    device.container(scope).unwrap()["uptime_s"].as_u64().unwrap()
}

fn last_line(device: &Device, scope: &str) -> u64 {
    let said = device.wherry(&["logs", scope]).out;
    said.lines().filter_map(|l| l.strip_prefix("line ")?.parse().ok()).next_back().unwrap_or(0)
}

/// Records of the runtime directory.
fn records(device: &Device, app: &str) -> Vec<PathBuf> {
    let dir = device.dir.join("run/containers").join(app);
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path().join("record")).filter(|p| p.exists()).collect()
}

// ---- keeper dies ----

#[test]
fn a_killed_keeper_finds_its_containers_again() {
    let mut device = Device::new();
    device.deploy(&manifest("web", counter()));
    device.deploy(&manifest("two", sleeper()));
    let (pid, two) = (device.running("web"), device.running("two"));
    eventually("it has been up a while", || (uptime(&device, "web") >= 1).then_some(()));
    let (before, line) = (uptime(&device, "web"), last_line(&device, "web"));
    device.end(Signal::SIGKILL);
    assert!(is_alive(pid) && is_alive(two));
    device.start();
    assert_eq!((device.running("web"), device.running("two")), (pid, two));
    assert!(uptime(&device, "web") >= before);
    eventually("uptime rises", || (uptime(&device, "web") > before).then_some(()));
    eventually("output goes on", || (last_line(&device, "web") > line).then_some(()));
    device.online();
    let status = device.json(&["status"]);
    assert_eq!((&status["boot"], &status["link"]["conn"]), (&json!(1), &json!(2)), "an adoption is no fresh start: {status}");
    device.stats("figures go on", |s| s["containers"]["web/main"]["cpu"]["usage_us"].as_u64() > Some(0) && s["boot"] == 1);
    device.reported("both run", |r| r["apps"]["web"]["containers"]["main"]["state"] == "running" && r["apps"]["two"]["state"] == "running");
    assert_eq!(device.container("web").unwrap()["restarts"], 0);
    // The adopted ones can be stopped, started and removed like any other.
    device.ok(&["stop", "two"]);
    assert!(!is_alive(two));
    device.ok(&["start", "two"]);
    device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "remove": true})), "removed");
    assert!(!is_alive(pid));
}

#[test]
fn a_container_that_ended_while_keeper_was_down_keeps_its_exit_code_and_its_policy() {
    let mut device = Device::new();
    let waits = |code: u8, policy: &str| {
        with(
            shell(&format!("while [ ! -e /tmp/go ]; do sleep 0.02; done; exit {code}")),
            json!({"restart": {"policy": policy, "delay": "50ms"}}),
        )
    };
    device.deploy(&json!({"wherry": 1, "app": "web", "containers": {"once": waits(7, "no"), "again": waits(3, "on-failure")}}));
    let pids = [device.running("web/once"), device.running("web/again")];
    device.end(Signal::SIGKILL);
    for pid in pids {
        fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    }
    eventually("both have ended", || (!pids.iter().any(|p| is_alive(*p))).then_some(()));
    device.start();
    let once = device.becomes("web/once", "exited");
    assert_eq!(once["last_exit"], json!({"code": 7}), "{once}");
    let again = eventually("started again", || device.container("web/again").filter(|c| c["state"] == "running" && c["restarts"] == 1));
    assert_eq!(again["last_exit"], json!({"code": 3}), "{again}");
}

#[test]
fn a_restart_of_the_service_adopts_with_the_same_boot_number() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let ended = device.end(Signal::SIGTERM);
    assert!(ended.success(), "{ended}");
    assert!(is_alive(pid));
    assert_eq!(device.said("presence").pop().unwrap()["state"], "offline", "it said goodbye");
    device.start();
    device.online();
    assert_eq!(device.running("web"), pid);
    assert_eq!(device.json(&["status"])["boot"], 1);
}

#[test]
fn an_interrupt_ends_everything() {
    let mut device = Device::new();
    device.deploy(&manifest("web", counter()));
    let pid = device.running("web");
    // Its peer in keeper is bound to a path of the file system that keeper unmounts.
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(client.as_raw_fd(), &UnixAddr::new(&device.dir.join("run/control.sock")).unwrap()).unwrap();
    device.json(&["status"]);
    let ended = device.end(Signal::SIGINT);
    assert!(ended.success(), "{ended}");
    assert!(!is_alive(pid));
    drop(client);
    eventually("nothing is left", || device.leftovers().is_empty().then_some(()));
    device.start();
    assert_ne!(device.running("web"), pid, "the desired state stays");
    assert_eq!(device.json(&["status"])["boot"], 2);
}

#[test]
fn a_keeper_that_may_not_protect_itself_from_the_oom_killer_says_so_and_works() {
    let thread = std::thread::spawn(|| {
        // CAP_SYS_RESOURCE, as where a container around us lacks it.
        wherry::sys::caps::drop_bounding(24).unwrap();
        let device = Device::new();
        device.deploy(&manifest("web", sleeper()));
        device.running("web");
        device.reported("why", |r| r["about"]["missing"]["oom_score"].as_str().is_some_and(|why| why.contains("Permission denied")));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

// ---- the agent dies ----

#[test]
fn a_killed_agent_is_replaced_and_no_container_notices() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let (pid, agent) = (device.running("web"), device.agent());
    kill(agent, Signal::SIGKILL);
    let presence = eventually("the new agent is online", || {
        device.said("presence").into_iter().rev().find(|p| p["state"] == "online" && p["conn"] == 2)
    });
    assert_eq!(presence["boot"], 1);
    assert!(device.said("presence").iter().any(|p| p["state"] == "offline" && p["conn"] == 1), "the broker published its will");
    assert_ne!(device.agent(), agent);
    assert_eq!(device.running("web"), pid);
    assert_eq!(device.json(&["status"])["agent"]["restarts"], 1);
    device.deploy(&manifest("two", sleeper()));
}

#[test]
fn a_document_published_while_the_agent_was_down_is_taken_up() {
    let device = Device::new();
    kill(device.agent(), Signal::SIGKILL);
    device.deploy(&manifest("web", sleeper()));
    device.running("web");
}

// ---- keeper replaces itself ----

fn check_upgrade(start: impl Fn(&Device)) {
    let device = Device::new();
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 9";
    device.deploy(&manifest("web", with(shell(script), json!({"restart": {"policy": "no"}}))));
    let (pid, agent, keeper) = (device.running("web"), device.agent(), device.keeper());
    start(&device);
    eventually("its agent is a new one", || role_of(keeper, "agent").filter(|a| *a != agent));
    device.answers();
    device.online();
    assert_eq!(device.running("web"), pid);
    let version = device.json(&["version"]);
    assert_eq!((&version["keeper"]["pid"], &version["keeper"]["boot"]), (&json!(keeper), &json!(1)));
    device.let_go("web", "/tmp/go");
    assert_eq!(device.becomes("web", "exited")["last_exit"], json!({"code": 9}));
}

#[test]
fn a_hangup_execs_the_program_on_disk_under_the_same_pid() {
    check_upgrade(|device| kill(device.keeper(), Signal::SIGHUP));
}

#[test]
fn an_upgrade_by_command_execs_the_program_on_disk_under_the_same_pid() {
    check_upgrade(|device| {
        device.ok(&["upgrade"]);
    });
}

#[test]
fn an_upgrade_runs_the_file_that_lies_there_now() {
    let mut device = Device::prepared(json!({}));
    let copy = device.dir.join("wherry");
    fs::copy(&device.program, &copy).unwrap();
    let original = std::mem::replace(&mut device.program, copy.clone());
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    // As a package manager does: a new file by rename.
    let new = device.dir.join("wherry.new");
    fs::copy(&original, &new).unwrap();
    fs::rename(&new, &copy).unwrap();
    let agent = device.agent();
    device.ok(&["upgrade"]);
    eventually("its agent is a new one", || role_of(device.keeper(), "agent").filter(|a| *a != agent));
    device.answers();
    assert_eq!(device.running("web"), pid);
}

#[test]
fn an_upgrade_without_init_can_still_wait_for_the_program() {
    let device = Device::new();
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 9";
    device.deploy(&manifest("web", with(shell(script), json!({"init": false, "restart": {"policy": "no"}}))));
    let (pid, agent) = (device.running("web"), device.agent());
    kill(device.keeper(), Signal::SIGHUP);
    eventually("its agent is a new one", || role_of(device.keeper(), "agent").filter(|a| *a != agent));
    device.answers();
    assert_eq!(device.running("web"), pid);
    device.let_go("web", "/tmp/go");
    assert_eq!(device.becomes("web", "exited")["last_exit"], json!({"code": 9}));
}

#[test]
fn a_panicking_keeper_goes_on_under_the_same_pid() {
    check_upgrade(|device| kill(device.keeper(), Signal::SIGUSR2));
}

#[test]
fn a_keeper_that_panics_twice_waits_before_it_goes_on() {
    let device = Device::new();
    device.deploy(&manifest("web", counter()));
    let (pid, keeper) = (device.running("web"), device.keeper());
    for _ in 0..2 {
        let agent = device.agent();
        kill(keeper, Signal::SIGUSR2);
        eventually("its agent is a new one", || role_of(keeper, "agent").filter(|a| *a != agent));
        device.answers();
    }
    assert_eq!(device.running("web"), pid);
    assert!(device.log().contains("keeper panicked 2 times in a row"), "{}", device.log());
    let line = last_line(&device, "web");
    eventually("output goes on", || (last_line(&device, "web") > line).then_some(()));
}

// ---- the device dies ----

#[test]
fn after_a_reboot_the_last_good_state_starts_without_a_broker() {
    let mut device = Device::new();
    let good = device.publish(&numbered("web", 1, sleeper()));
    device.ack(&good, "running");
    let bad = device.publish(&numbered("web", 2, with(sleeper(), json!({"command": ["/bin/nothing"]}))));
    device.ack(&bad, "failed");
    let old = device.running("web");
    device.power_off();
    device.broker.down();
    device.start();
    assert_ne!(device.running("web"), old);
    assert_eq!(device.json(&["status"])["boot"], 2);
    let app = device.app("web").unwrap();
    assert_eq!((&app["seq"], &app["state"]), (&json!(2), &json!("failed")), "the failed one is not tried again: {app}");
    device.broker.up();
    device.online();
    steadily(Duration::from_millis(500), "it stays", || device.app("web").unwrap()["containers"][0]["state"] == "running");
}

#[test]
fn after_a_reboot_in_the_midst_of_an_update_the_version_before_runs_meanwhile_and_after_its_failure() {
    let mut device = Device::new();
    let image = harness::image::dir().join(format!("vanishing-{}.tar.gz", std::process::id()));
    fs::copy(harness::image::slow().strip_prefix("rootfs:").unwrap(), &image).unwrap();
    let good = device.publish(&numbered("web", 1, sleeper()));
    device.ack(&good, "running");
    let slow = with(sleeper(), json!({"image": {"ref": format!("rootfs:{}", image.display())}}));
    let next = device.publish(&numbered("web", 2, slow));
    device.ack(&next, "fetching");
    device.power_off();
    fs::remove_file(&image).unwrap();
    device.start();
    device.ack(&next, "failed");
    device.running("web");
    let app = device.app("web").unwrap();
    assert_eq!((&app["seq"], &app["state"]), (&json!(2), &json!("failed")), "{app}");
}

#[test]
fn a_damaged_state_record_leaves_the_one_before() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    device.end(Signal::SIGINT);
    // The newest record is the one with the higher number behind magic and version; power fails while it is written.
    let slots = ["state.a", "state.b"].map(|n| device.dir.join("data").join(n));
    let number = |p: &PathBuf| u64::from_le_bytes(fs::read(p).unwrap()[5..13].try_into().unwrap());
    let newest = slots.iter().max_by_key(|p| number(p)).unwrap();
    let whole = fs::read(newest).unwrap();
    fs::write(newest, &whole[..whole.len() / 2]).unwrap();
    device.broker.down();
    device.start();
    assert!(device.log().contains("is damaged"), "{}", device.log());
    // The record before is that of the deployment on its way: it is carried on.
    device.running("web");
}

#[test]
fn a_removal_interrupted_by_a_crash_is_carried_on() {
    let mut device = Device::new();
    let stubborn = with(shell("trap '' TERM; echo ready; while true; do sleep 0.1; done"), json!({"stop": {"timeout": "2s"}}));
    device.deploy(&manifest("web", stubborn));
    device.says("web", "ready");
    let pid = device.running("web");
    let sha = device.publish(&json!({"wherry": 1, "app": "web", "remove": true}));
    device.ack(&sha, "accepted");
    device.becomes("web", "stopping");
    device.end(Signal::SIGKILL);
    assert!(is_alive(pid));
    device.start();
    device.ack(&sha, "removed");
    assert!(!is_alive(pid) && device.app("web").is_none());
}

#[test]
fn a_stop_of_one_that_is_being_restarted_because_it_is_unhealthy_holds_over_a_crash() {
    let mut device = Device::new();
    let stubborn = shell("trap '' TERM; touch /tmp/up; echo ready; while true; do sleep 0.1; done");
    let check = json!({"exec": ["/bin/sh", "-c", "test -e /tmp/up"], "interval": "1s", "retries": 1});
    device.deploy(&manifest("web", with(stubborn, json!({"stop": {"timeout": "3s"}, "health": check}))));
    device.exec("web", &["rm", "/tmp/up"]);
    device.becomes("web", "stopping");
    let mut waiting = device.command(&["stop", "web"]).spawn().unwrap();
    eventually("the stop is on record", || (device.app("web")?["overridden"] == true).then_some(()));
    device.end(Signal::SIGKILL);
    device.start();
    device.becomes("web", "exited");
    steadily(Duration::from_millis(500), "it stays stopped", || device.pid("web").is_none());
    waiting.wait().unwrap();
}

#[test]
fn an_update_interrupted_by_a_crash_is_carried_on() {
    let mut device = Device::new();
    let stubborn = with(shell("trap '' TERM; echo ready; while true; do sleep 0.1; done"), json!({"stop": {"timeout": "1s"}}));
    device.deploy(&manifest("web", stubborn));
    device.says("web", "ready");
    let pid = device.running("web");
    let sha = device.publish(&manifest("web", sleeper()));
    device.ack(&sha, "starting");
    device.becomes("web", "stopping");
    device.end(Signal::SIGKILL);
    device.start();
    device.ack(&sha, "running");
    assert!(!is_alive(pid));
    eventually("only the new one is in the group", || is_single(&device, "web").then_some(()));
}

// ---- containers die ----

#[test]
fn a_killed_init_is_reported_as_killed_and_restarted_once() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let tasks = device.tasks("web");
    kill(pid, Signal::SIGKILL);
    let c = eventually("it runs again", || device.container("web").filter(|c| c["state"] == "running" && c["pid"] != pid));
    assert_eq!((&c["restarts"], &c["last_exit"]), (&json!(1), &json!({"signal": 9})));
    assert!(!tasks.iter().any(|p| is_alive(*p)), "its children went with it");
    device.reported("a signal", |r| r["apps"]["web"]["containers"]["main"]["last_exit"] == json!({"signal": 9}));
    steadily(Duration::from_millis(500), "restarted once", || device.container("web").unwrap()["restarts"] == 1);
}

// ---- at any moment ----

/// Every container of the app's group is the one that keeper shows, and is on record.
fn is_single(device: &Device, app: &str) -> bool {
    let Some(pid) = device.pid(app) else { return false };
    let tasks = device.tasks(app);
    // init and its payload
    tasks.len() == 2 && tasks.contains(&pid) && records(device, app).len() == 1
}

#[test]
fn keeper_killed_at_any_step_of_a_launch_never_leaves_two_or_an_unrecorded_one() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    // Delays spread over the whole of a stop and start, by a fixed sequence (a linear congruential one) so that a failure can be repeated.
    let mut random: u32 = 12345;
    for round in 0..30 {
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let delay = Duration::from_micros(u64::from(random >> 16) % 40_000);
        let mut restart = device.command(&["restart", "web"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        device.end(Signal::SIGKILL);
        let _ = restart.wait();
        device.start();
        let single = within(harness::PATIENCE, || is_single(&device, "web").then_some(()));
        assert!(single.is_some(), "round {round}, killed after {delay:?}: {:?}, tasks {:?}", device.app("web"), device.tasks("web"));
    }
}

/// Delays spread over the whole of a stop and start, by a fixed sequence (a linear congruential one) so that a failure can be repeated.
struct Delays(u32);

impl Delays {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(1_103_515_245).wrapping_add(12345);
        Duration::from_micros(u64::from(self.0 >> 16) % 40_000)
    }
}

#[test]
fn keeper_killed_at_any_step_of_an_update_brings_it_to_its_one_end() {
    let mut device = Device::new();
    device.deploy(&numbered("web", 1, sleeper()));
    let mut delays = Delays(4711);
    for seq in 2..22 {
        let sha = device.publish(&numbered("web", seq, shell(&format!("exec sleep 1000{seq}"))));
        let delay = delays.next();
        std::thread::sleep(delay);
        device.end(Signal::SIGKILL);
        device.start();
        device.ack(&sha, "running");
        let single = within(harness::PATIENCE, || is_single(&device, "web").then_some(()));
        assert!(single.is_some(), "seq {seq}, killed after {delay:?}: {:?}, tasks {:?}", device.app("web"), device.tasks("web"));
        let argv = device.exec("web", &["sh", "-c", "tr '\\0' ' ' </proc/2/cmdline"]);
        assert_eq!(argv, format!("sleep 1000{seq}"), "killed after {delay:?}");
    }
}

#[test]
fn keeper_replaced_at_any_step_of_a_launch_leaves_one_container_and_no_zombie() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let (keeper, mut delays) = (device.keeper(), Delays(99));
    for round in 0..20 {
        let agent = device.agent();
        let mut restart = device.command(&["restart", "web"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        let delay = delays.next();
        std::thread::sleep(delay);
        kill(keeper, Signal::SIGHUP);
        let _ = restart.wait();
        eventually("its agent is a new one", || role_of(keeper, "agent").filter(|a| *a != agent));
        device.answers();
        let single = within(harness::PATIENCE, || is_single(&device, "web").then_some(()));
        assert!(single.is_some(), "round {round}, replaced after {delay:?}: {:?}, tasks {:?}", device.app("web"), device.tasks("web"));
    }
    let zombies = || {
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        children.split_ascii_whitespace().filter(|p| !is_alive(p.parse().unwrap())).count()
    };
    eventually("no zombie", || (zombies() == 0).then_some(()));
}

#[test]
fn a_launch_killed_at_any_step_is_tried_again() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let mut killed = 0;
    for _ in 0..15 {
        let mut restart = device.command(&["restart", "web"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        let launch = within(Duration::from_millis(300), || role_of(device.keeper(), "launch"));
        killed += u32::from(launch.is_some_and(|p| nix::sys::signal::kill(nix::unistd::Pid::from_raw(p), Signal::SIGKILL).is_ok()));
        let _ = restart.wait();
        eventually("one container runs", || is_single(&device, "web").then_some(()));
    }
    assert!(killed > 0, "no launch was ever met");
}

#[test]
fn keeper_killed_while_an_image_comes_in_brings_the_deployment_to_its_end() {
    let mut device = Device::new();
    let sha = device.publish(&manifest("web", with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
    device.ack(&sha, "fetching");
    eventually("stage runs", || role_of(device.keeper(), "stage"));
    device.end(Signal::SIGKILL);
    device.start();
    device.running("web");
    device.ack(&sha, "running");
    let staging = fs::read_dir(device.dir.join("data/staging")).map_or(0, Iterator::count);
    assert_eq!(staging, 0, "nothing half done is left");
}

#[test]
fn a_record_that_cannot_be_read_ends_its_container_and_starts_it_anew() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let old = device.running("web");
    device.end(Signal::SIGKILL);
    let record = records(&device, "web").pop().unwrap();
    fs::write(record, b"\x01garbage of a length that could be anything").unwrap();
    device.start();
    let new = device.running("web");
    assert!(old != new && !is_alive(old));
    eventually("only the new one is in the group", || is_single(&device, "web").then_some(()));
}

#[test]
fn a_group_without_a_record_is_ended_at_the_next_start() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let old = device.running("web");
    device.end(Signal::SIGKILL);
    fs::remove_dir_all(device.dir.join("run/containers/web")).unwrap();
    device.start();
    let new = device.running("web");
    assert!(old != new);
    eventually("the old one is gone", || (!is_alive(old)).then_some(()));
    eventually("only the new one is in the group", || is_single(&device, "web").then_some(()));
}

/// Changes the record of `web/main` while no keeper runs.
fn forge(device: &Device, change: impl FnOnce(&mut Record)) {
    let path = records(device, "web").pop().unwrap();
    let mut record = runtime::decode(&fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    fs::write(path, runtime::encode(&record).unwrap()).unwrap();
}

#[test]
fn a_record_of_another_boot_is_not_believed() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let old = device.running("web");
    device.end(Signal::SIGKILL);
    forge(&device, |r| r.boot_id = "00000000-0000-0000-0000-000000000000".into());
    device.start();
    assert_ne!(device.running("web"), old);
    eventually("only the new one is in the group", || is_single(&device, "web").then_some(()));
}

#[test]
fn a_record_that_names_a_stranger_does_the_stranger_no_harm() {
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = stranger.id() as i32;
    for right_time in [true, false] {
        let mut device = Device::new();
        device.deploy(&manifest("web", sleeper()));
        let old = device.running("web");
        device.end(Signal::SIGKILL);
        // As if the number had come round to another process.
        let start = if right_time { runtime::start_time(pid).unwrap() } else { 1 };
        forge(&device, |r| r.phase = Phase::Process { pid, start });
        device.start();
        let new = eventually("a new one runs", || device.pid("web").filter(|p| *p != pid));
        assert_ne!(new, old);
        eventually("only the new one is in the group", || is_single(&device, "web").then_some(()));
        device.ok(&["stop", "web"]);
        assert!(is_alive(pid));
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

// ---- launch is slow ----

/// Holds keeper's next launch right after it has named its child, its socket still open. The thread ends, and lets go of it, when that is over.
fn hold_the_next_launch(keeper: i32, hold: Duration) -> std::thread::JoinHandle<()> {
    let (ready, waiting) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let keeper = Pid::from_raw(keeper);
        ptrace::seize(keeper, Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACESYSGOOD).expect("keeper can be traced");
        ready.send(()).unwrap();
        let mut stops = 0;
        loop {
            // Of this thread alone: the other tests have children, too.
            match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap() {
                WaitStatus::PtraceSyscall(pid) if sends(pid) && stops == 1 => return std::thread::sleep(hold),
                // From here on keeper must not stop, as it would at each signal.
                WaitStatus::PtraceEvent(pid, ..) if pid == keeper => ptrace::detach(pid, None).unwrap(),
                WaitStatus::PtraceSyscall(pid) => {
                    stops += i32::from(sends(pid));
                    ptrace::syscall(pid, None).unwrap();
                }
                WaitStatus::PtraceEvent(pid, ..) => ptrace::syscall(pid, None).unwrap(),
                WaitStatus::Stopped(pid, signal) if pid == keeper => ptrace::cont(pid, signal).unwrap(),
                // The end of the child with which launch tries its group is a signal for launch.
                WaitStatus::Stopped(pid, signal) => ptrace::syscall(pid, signal).unwrap(),
                // That child. After launch itself there would be nobody to wait for.
                WaitStatus::Exited(..) => {}
                other => panic!("launch has sent nothing: {other:?}"),
            }
        }
    });
    waiting.recv().unwrap();
    thread
}

/// Whether the process, stopped at a system call, is at sendmsg(2): first on its way there, then on its way back.
fn sends(pid: Pid) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    call.split(' ').next() == Some(&libc::SYS_sendmsg.to_string())
}

#[test]
fn a_container_that_ends_before_its_launch_is_gone_has_run() {
    let device = Device::new();
    device.applied(&manifest("web", with(shell("echo done"), json!({"restart": {"policy": "no"}}))));
    device.becomes("web", "exited");
    let held = hold_the_next_launch(device.keeper(), Duration::from_secs(2));
    device.ok(&["start", "web"]);
    assert!(!held.is_finished(), "launch must still be there");
    assert!(device.says("web", "done").ends_with("done\n"));
    device.becomes("web", "exited");
    held.join().unwrap();
    steadily(Duration::from_millis(500), "it has run and ended well", || {
        let ended = device.container("web").unwrap();
        ended["state"] == "exited" && ended["last_exit"] == json!({"code": 0}) && ended["error"].is_null()
    });
}
