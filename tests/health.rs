//! Health checks, trials of new versions with their way back, the connectivity guard, and the order of containers, on a whole device.

#[path = "health/guard.rs"]
mod guard;
mod harness;

use harness::{Device, Signal, Value, eventually, is_alive, json, kill, manifest, numbered, shell, sleeper, steadily, with};
use std::fs;
use std::time::{Duration, Instant};

fn containers(app: &str, all: Value) -> Value {
    json!({"wherry": 1, "app": app, "containers": all})
}

/// A container with a check, with which all goes fast.
fn checked(script: &str, check: Value) -> Value {
    let check = with(json!({"interval": "1s", "retries": 2}), check);
    with(shell(script), json!({"health": check}))
}

fn exec(script: &str) -> Value {
    json!({"exec": ["/bin/sh", "-c", script]})
}

/// Serves `/www` by HTTP.
const HTTPD: &str = "mkdir /www; echo up >/www/up; exec busybox httpd -f -p 8080 -h /www";

fn health(device: &Device, scope: &str) -> Value {
    device.container(scope).map_or(Value::Null, |c| c["health"].clone())
}

fn becomes(device: &Device, scope: &str, wanted: &str) {
    eventually(&format!("{scope} is {wanted}"), || (health(device, scope) == wanted).then_some(()));
}

fn command_line(device: &Device, scope: &str) -> String {
    device.exec(scope, &["sh", "-c", "tr '\\0' ' ' </proc/2/cmdline"])
}

/// What `wherry events` knows of an app, as `what: detail`.
fn events(device: &Device, app: &str) -> Vec<String> {
    let all = device.ok(&["--json", "events", "--past", app]);
    let line = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        format!("{}: {}", event["what"].as_str().unwrap_or_default(), event["detail"].as_str().unwrap_or_default())
    };
    all.lines().map(line).collect()
}

// ---- the four kinds ----

/// The check is good while the container is as it begins; `breaks` makes it bad, and `says` is why.
fn check_kind(script: &str, check: Value, breaks: &str, says: &str) {
    let device = Device::new();
    let never = json!({"restart": {"policy": "no"}});
    let sha = device.publish(&manifest("web", with(checked(script, check), never)));
    device.ack(&sha, "running");
    assert_eq!(device.states(&sha).last_chunk(), Some(&["testing".to_owned(), "running".to_owned()]));
    assert_eq!(health(&device, "web"), "healthy");
    let of = |r: &Value, health: &str| r["apps"]["web"]["containers"]["main"]["health"] == health;
    device.reported("healthy", |r| of(r, "healthy"));
    let pid = device.running("web");
    device.exec("web", &["sh", "-c", breaks]);
    becomes(&device, "web", "unhealthy");
    device.reported("unhealthy", |r| of(r, "unhealthy"));
    let why = device.json(&["info", "web/main"])["unhealthy"].as_str().unwrap().to_owned();
    assert!(why.contains(says), "{why}");
    let told = format!("health: unhealthy: {why}");
    assert!(events(&device, "web").contains(&told), "{:?} lacks {told}", events(&device, "web"));
    assert!(device.ok(&["ls"]).contains("running (unhealthy)"));
    steadily(Duration::from_millis(500), "one never to be restarted runs on", || device.pid("web") == Some(pid));
}

#[test]
fn a_program_in_the_container_tells_its_health() {
    check_kind("touch /tmp/up; exec sleep 1000", exec("test -e /tmp/up"), "rm /tmp/up", "/bin/sh ended with code 1");
}

#[test]
fn a_path_in_the_container_tells_its_health() {
    check_kind(
        "mkdir -m 700 /tmp/a; touch /tmp/a/up; exec sleep 1000",
        json!({"file": "/tmp/a/up"}),
        "rm /tmp/a/up",
        "/tmp/a/up is not there",
    );
}

#[test]
fn a_connection_tells_its_health() {
    let server = "busybox httpd -f -p 8080 -h /tmp & echo $! >/tmp/pid; exec sleep 1000";
    check_kind(server, json!({"tcp": 8080}), "kill $(cat /tmp/pid)", "takes no connection: Connection refused");
}

#[test]
fn an_answer_by_http_tells_its_health() {
    check_kind(HTTPD, json!({"http": {"port": 8080, "path": "/up"}}), "rm /www/up", "answers with status 404");
}

#[test]
fn a_server_on_one_loopback_only_is_found_by_its_port_or_by_its_address() {
    let device = Device::new();
    let server = |at: &str| format!("exec busybox httpd -f -p {at} -h /tmp");
    device.deploy(&containers(
        "web",
        json!({
            "four": checked(&server("127.0.0.1:80"), json!({"tcp": 80})),
            "six": checked(&server("[::1]:80"), json!({"http": {"port": 80, "status": 404, "path": "/nothing"}})),
            "named": checked(&server("[::1]:81"), json!({"tcp": "[::1]:81"})),
        }),
    ));
    let sha = device.publish(&manifest("other", checked(&server("[::1]:80"), json!({"tcp": "127.0.0.1:80"}))));
    device.refused(&sha, "failed", "health");
}

#[test]
fn a_check_in_the_devices_own_network_asks_there() {
    let mut device = Device::prepared(json!({}));
    device.file("policy.json", json!({"host_network": true}).to_string());
    device.broker.up();
    device.start();
    device.online();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let host = |port: u16| with(checked("exec sleep 1000", json!({"tcp": port})), json!({"network": {"mode": "host"}}));
    device.deploy(&manifest("web", host(port)));
    drop(server);
    let sha = device.publish(&manifest("other", host(port)));
    device.refused(&sha, "failed", "health");
}

#[test]
fn a_program_of_a_check_runs_as_the_containers_own_do() {
    let device = Device::new();
    let as_user =
        exec("test $(id -u) = 1234 && test $(pwd) = /work && test \"$A\" = b && grep -q '^CapEff:.*0000000000$' /proc/self/status");
    let container = with(checked("exec sleep 1000", as_user), json!({"user": "app", "workdir": "/work", "env": {"A": "b"}}));
    device.deploy(&manifest("web", container));
}

#[test]
fn what_a_check_complains_of_stands_with_the_containers_output() {
    let device = Device::new();
    let sha = device.publish(&manifest("web", checked("exec sleep 1000", exec("echo 'disk is full' >&2; exit 3"))));
    device.ack(&sha, "testing");
    device.says("web", "disk is full");
    device.refused(&sha, "failed", "health");
}

#[test]
fn a_check_whose_program_is_not_there_says_so() {
    let device = Device::new();
    let sha = device.publish(&manifest("web", checked("exec sleep 1000", json!({"exec": ["/bin/nothing"]}))));
    let ack = device.refused(&sha, "failed", "health");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("cannot run /bin/nothing"), "{ack}");
}

// ---- time ----

#[test]
fn failures_within_the_start_period_do_not_count() {
    let device = Device::new();
    let slow =
        checked("sleep 4; touch /tmp/up; exec sleep 1000", with(json!({"file": "/tmp/up"}), json!({"retries": 1, "start_period": "30s"})));
    let sha = device.publish(&manifest("web", slow));
    device.ack(&sha, "testing");
    assert_eq!(health(&device, "web"), "starting");
    let pid = device.running("web");
    device.ack(&sha, "running");
    assert_eq!((health(&device, "web"), device.running("web")), (json!("healthy"), pid));
}

#[test]
fn a_first_version_that_does_not_become_healthy_in_its_time_leaves_nothing() {
    let device = Device::new();
    let sha = device.publish(&manifest("web", checked("sleep 60", json!({"file": "/tmp/up"}))));
    let ack = device.refused(&sha, "failed", "health");
    assert_eq!(ack["rolled_back_to"], Value::Null);
    assert!(ack["detail"]["message"].as_str().unwrap().contains("main is unhealthy: /tmp/up is not there"), "{ack}");
    eventually("its containers are gone", || device.app("web").is_none_or(|a| a["containers"] == json!([])).then_some(()));
}

#[test]
fn one_that_fails_now_and_then_is_left_alone() {
    let device = Device::new();
    // Good, bad, good, bad, …
    device.deploy(&manifest("web", checked("exec sleep 1000", exec("if test -e /tmp/x; then rm /tmp/x; exit 1; fi; touch /tmp/x"))));
    let pid = device.running("web");
    let turns = || events(&device, "web").iter().filter(|e| e.starts_with("health")).count();
    steadily(Duration::from_secs(5), "healthy", || health(&device, "web") == "healthy" && device.pid("web") == Some(pid));
    assert_eq!(turns(), 1);
    assert!(!device.exec("web", &["sh", "-c", "ls /tmp"]).contains('y'));
}

// ---- what follows ----

#[test]
fn an_unhealthy_container_is_restarted_and_comes_to_health_again() {
    let device = Device::new();
    let check = json!({"file": "/tmp/up"});
    device.deploy(&manifest("web", checked("touch /tmp/up; echo begins; exec sleep 1000", check)));
    let pid = device.running("web");
    device.exec("web", &["rm", "/tmp/up"]);
    eventually("another runs", || device.pid("web").filter(|p| *p != pid));
    becomes(&device, "web", "healthy");
    assert_eq!(device.container("web").unwrap()["restarts"], 1);
    assert!(!is_alive(pid));
    let seen = events(&device, "web");
    let at = |what: &str| seen.iter().position(|e| e.starts_with(what)).unwrap_or_else(|| panic!("no {what} in {seen:?}"));
    assert!(at("health: unhealthy") < at("stopping") && at("stopping") < at("restarting"), "{seen:?}");
    assert_eq!(device.app("web").unwrap()["state"], "running", "its document is what it was");
}

#[test]
fn a_container_that_is_stopped_is_not_checked_and_one_started_again_is() {
    let device = Device::new();
    device.deploy(&manifest("web", checked("touch /tmp/up; exec sleep 1000", json!({"file": "/tmp/up"}))));
    device.ok(&["stop", "web"]);
    assert_eq!(device.container("web").unwrap()["state"], "exited");
    device.ok(&["start", "web"]);
    becomes(&device, "web", "healthy");
}

#[test]
fn a_changed_check_counts_at_once_and_restarts_nothing() {
    let device = Device::new();
    device.deploy(&manifest("web", checked("exec sleep 1000", exec("true"))));
    let pid = device.running("web");
    let sha = device.publish(&manifest("web", checked("exec sleep 1000", exec("false"))));
    let ack = device.refused(&sha, "failed", "health");
    assert!(ack["rolled_back_to"].is_string(), "{ack}");
    becomes(&device, "web", "healthy");
    assert_eq!(device.running("web"), pid);
    device.deploy(&manifest("web", shell("exec sleep 1000")));
    assert_eq!((health(&device, "web"), device.running("web")), (Value::Null, pid));
}

// ---- trials ----

/// A good first version, which `rolled back` is told by.
fn first(device: &Device) {
    let sha = device.publish(&numbered("web", 1, sleeper()));
    device.ack(&sha, "running");
}

fn is_back(device: &Device) {
    device.running("web");
    eventually("the first version runs", || (command_line(device, "web") == "sleep 100000").then_some(()));
}

/// The second version fails for this reason, and the first runs again.
fn check_rollback(second: Value, reason: &str, says: &str) {
    let device = Device::new();
    first(&device);
    let sha = device.publish(&numbered("web", 2, second));
    let ack = device.refused(&sha, "failed", reason);
    assert_eq!(ack["rolled_back_to"], 1, "{ack}");
    assert!(ack["detail"]["message"].as_str().unwrap().contains(says), "{ack}");
    assert!(device.states(&sha).contains(&"testing".to_owned()), "{:?}", device.states(&sha));
    is_back(&device);
    let app = device.app("web").unwrap();
    assert_eq!((&app["seq"], &app["state"]), (&json!(2), &json!("failed")));
    assert_eq!(device.container("web").unwrap()["restarts"], 0);
}

#[test]
fn an_update_that_is_unhealthy_is_rolled_back() {
    check_rollback(checked("exec sleep 1000", json!({"tcp": 80})), "health", "main is unhealthy: port 80 takes no connection");
}

#[test]
fn an_update_that_crashes_in_a_loop_is_rolled_back() {
    check_rollback(shell("exit 3"), "crash_loop", "main ended 3 times in a row, the last time with code 3");
}

#[test]
fn an_update_that_ends_before_it_is_healthy_is_rolled_back() {
    let dies = checked("exit 4", exec("true"));
    check_rollback(with(dies.clone(), json!({"restart": {"policy": "no"}})), "health", "main ended before it was healthy");
    check_rollback(dies, "crash_loop", "main ended 3 times in a row, the last time with code 4");
}

#[test]
fn an_update_that_dies_soon_is_not_called_running_before() {
    let device = Device::new();
    first(&device);
    let sha = device.publish(&numbered("web", 2, shell("sleep 1; exit 1")));
    device.refused(&sha, "failed", "crash_loop");
    assert!(!device.states(&sha).contains(&"running".to_owned()));
    is_back(&device);
}

#[test]
fn an_update_that_runs_for_its_grace_time_is_good_and_no_longer_on_trial() {
    let device = Device::new();
    first(&device);
    let begin = Instant::now();
    let sha = device.publish(&numbered("web", 2, shell("exec sleep 2000")));
    device.ack(&sha, "testing");
    device.ack(&sha, "running");
    assert!(begin.elapsed() >= Duration::from_secs(3));
    kill(device.running("web"), Signal::SIGKILL);
    device.running("web");
    assert_eq!(device.app("web").unwrap()["state"], "running");
}

#[test]
fn what_is_meant_to_end_is_good_when_it_has() {
    let device = Device::new();
    let app = |job: &str, policy: &str| {
        containers("web", json!({"main": sleeper(), "job": with(shell(job), json!({"restart": {"policy": policy}}))}))
    };
    device.deploy(&app("exit 0", "on-failure"));
    device.deploy(&app("sleep 0.1; exit 0", "on-failure"));
    assert_eq!(device.container("web/job").unwrap()["last_exit"], json!({"code": 0}));
    device.deploy(&app("exit 5", "no"));
    let sha = device.publish(&app("exit 6", "on-failure"));
    device.refused(&sha, "failed", "crash_loop");
}

#[test]
fn what_an_update_does_not_touch_is_not_on_trial_and_a_changed_limit_takes_no_time() {
    let device = Device::new();
    let limited = |max: u32| manifest("web", with(sleeper(), json!({"resources": {"pids": {"max": max}}})));
    device.deploy(&limited(20));
    eventually("it runs for long enough", || (device.container("web")?["uptime_s"].as_u64()? >= 4).then_some(()));
    let sha = device.publish(&limited(30));
    device.ack(&sha, "running");
    assert!(!device.states(&sha).contains(&"testing".to_owned()));
}

#[test]
fn a_newer_document_supersedes_one_on_trial_at_once() {
    let device = Device::new();
    first(&device);
    let never = device.publish(&numbered("web", 2, checked("exec sleep 1000", json!({"file": "/tmp/up", "start_period": "1h"}))));
    device.ack(&never, "testing");
    let good = device.publish(&numbered("web", 3, shell("exec sleep 3000")));
    device.ack(&never, "superseded");
    device.ack(&good, "running");
    assert_eq!(command_line(&device, "web"), "sleep 3000");
    let bad = device.publish(&numbered("web", 4, shell("exit 1")));
    assert_eq!(device.refused(&bad, "failed", "crash_loop")["rolled_back_to"], 3, "what was on trial is nobody's to go back to");
}

#[test]
fn a_crash_loop_waits_ever_longer_and_a_new_document_does_not_wait_for_it() {
    let device = Device::new();
    let looping = |pids: u32| {
        let slow = json!({"restart": {"delay": "1h", "max_delay": "1h"}, "resources": {"pids": {"max": pids}}});
        manifest("web", with(shell("echo begins; exit 1"), slow))
    };
    let sha = device.publish(&looping(20));
    device.ack(&sha, "running");
    device.becomes("web", "restarting");
    let sha = device.publish(&looping(30));
    let ack = device.refused(&sha, "failed", "crash_loop");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("is not soon started again, the last time with code 1"), "{ack}");
    assert_eq!(device.says("web", "begins").matches("begins").count(), 2, "it began once more, and at once");
    device.deploy(&manifest("web", sleeper()));
}

#[test]
fn an_update_whose_runs_are_all_stable_and_never_healthy_is_rolled_back() {
    let slow = checked("sleep 11; exit 5", json!({"file": "/tmp/up", "start_period": "1m"}));
    check_rollback(slow, "crash_loop", "main ended 3 times while on trial, the last time with code 5");
}

/// Stopped in its trial, the second version is neither good nor bad; started again, it is tried anew.
fn check_stopped(stop: impl Fn(&Device)) {
    let device = Device::new();
    first(&device);
    let sha = device.publish(&numbered("web", 2, checked("exec sleep 1000", json!({"file": "/tmp/up", "start_period": "3s"}))));
    device.ack(&sha, "testing");
    stop(&device);
    device.becomes("web", "exited");
    steadily(Duration::from_secs(5), "on trial", || device.app("web").is_some_and(|a| a["state"] == "testing"));
    device.ok(&["start", "web"]);
    assert_eq!(command_line(&device, "web"), "sleep 1000");
    assert_eq!(device.refused(&sha, "failed", "health")["rolled_back_to"], 1);
    is_back(&device);
}

#[test]
fn an_update_that_a_person_stops_is_not_called_good() {
    check_stopped(|device| drop(device.ok(&["stop", "web"])));
}

#[test]
fn an_update_that_a_command_stops_is_not_called_good() {
    check_stopped(|device| {
        let presence = device.said("presence").pop().expect("it is online");
        let session = format!("{}.{}", presence["boot"], presence["conn"]);
        let stop = json!({"wherry": 1, "session": session, "do": "stop", "app": "web"});
        device.broker.publish(&device.topic("in/cmd/one"), stop.to_string().as_bytes(), false);
    });
}

#[test]
fn a_newer_document_supersedes_one_that_was_stopped_in_its_trial() {
    let device = Device::new();
    first(&device);
    let never = device.publish(&numbered("web", 2, checked("exec sleep 1000", json!({"file": "/tmp/up", "start_period": "1h"}))));
    device.ack(&never, "testing");
    device.ok(&["stop", "web"]);
    let bad = device.publish(&numbered("web", 3, shell("exit 1")));
    device.ack(&never, "superseded");
    assert_eq!(device.refused(&bad, "failed", "crash_loop")["rolled_back_to"], 1);
    is_back(&device);
}

// ---- without a link, without keeper ----

#[test]
fn an_update_is_rolled_back_while_no_broker_can_be_reached() {
    let mut device = Device::new();
    first(&device);
    let sha = device.publish(&numbered("web", 2, checked("exec sleep 1000", json!({"tcp": 80, "start_period": "2s"}))));
    device.ack(&sha, "testing");
    device.broker.down();
    eventually("it has failed", || device.app("web").filter(|a| a["state"] == "failed"));
    is_back(&device);
    device.broker.up();
    let ack = device.refused(&sha, "failed", "health");
    assert_eq!(ack["rolled_back_to"], 1, "{ack}");
}

/// Keeper ends in the midst of a trial, in this way; the next one carries it on.
fn check_carried_on(script: &str, end: &str, interrupt: impl Fn(&mut Device)) {
    let mut device = Device::new();
    first(&device);
    let check = json!({"file": "/tmp/up", "start_period": "4s"});
    let sha = device.publish(&numbered("web", 2, checked(script, check)));
    device.ack(&sha, "testing");
    let pid = device.running("web");
    interrupt(&mut device);
    let ack = device.ack(&sha, end);
    if end == "running" {
        assert_eq!((device.running("web"), health(&device, "web")), (pid, json!("healthy")), "the same process");
    } else {
        assert_eq!((&ack["reason"], &ack["rolled_back_to"]), (&json!("health"), &json!(1)), "{ack}");
        is_back(&device);
    }
}

const GOOD_LATER: &str = "sleep 3; touch /tmp/up; exec sleep 1000";

#[test]
fn a_keeper_killed_in_a_trial_is_followed_by_one_that_carries_it_on() {
    let killed = |device: &mut Device| {
        device.end(Signal::SIGKILL);
        device.start();
    };
    check_carried_on(GOOD_LATER, "running", killed);
    check_carried_on("exec sleep 1000", "failed", killed);
}

#[test]
fn an_upgrade_in_a_trial_carries_it_on() {
    let upgraded = |device: &mut Device| {
        let agent = device.agent();
        kill(device.keeper(), Signal::SIGHUP);
        eventually("its agent is a new one", || harness::role_of(device.keeper(), "agent").filter(|a| *a != agent));
        device.answers();
    };
    check_carried_on(GOOD_LATER, "running", upgraded);
    check_carried_on("exec sleep 1000", "failed", upgraded);
}

#[test]
fn keeper_killed_at_any_moment_of_a_trial_brings_it_to_its_one_end() {
    let mut device = Device::new();
    first(&device);
    // Spread by a fixed sequence (a linear congruential one), so that a failure can be repeated.
    let mut random: u32 = 7;
    for seq in 2..10 {
        let check = with(exec("usleep 200000; test -e /tmp/up"), json!({"start_period": "20s"}));
        let sha = device.publish(&numbered("web", seq, checked(&format!("sleep 0.7; touch /tmp/up; exec sleep 1000{seq}"), check)));
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let delay = Duration::from_millis(u64::from(random >> 16) % 2000);
        std::thread::sleep(delay);
        device.end(Signal::SIGKILL);
        device.start();
        device.ack(&sha, "running");
        assert_eq!(command_line(&device, "web"), format!("sleep 1000{seq}"), "killed after {delay:?}");
        becomes(&device, "web", "healthy");
        let ends = |a: &Value| ["running", "failed", "superseded"].iter().any(|end| a["state"] == *end);
        assert!(device.acks(&sha).iter().filter(|a| ends(a)).all(|a| a["state"] == "running"), "{:?}", device.acks(&sha));
    }
}

/// The device loses its power, and is started again.
fn reboot(device: &mut Device) {
    lose_power(device);
    device.start();
}

fn lose_power(device: &mut Device) {
    device.end(Signal::SIGKILL);
    eventually("all processes are gone", || {
        for pid in device.tasks("web") {
            // It may have gone with its pid 1.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        device.processes().is_empty().then_some(())
    });
    nix::mount::umount(&device.dir.join("run")).unwrap();
}

#[test]
fn an_update_with_which_the_device_goes_down_again_and_again_is_rolled_back() {
    let mut device = Device::new();
    first(&device);
    let sha = device.publish(&numbered("web", 2, checked("exec sleep 1000", json!({"file": "/tmp/up", "start_period": "1h"}))));
    device.ack(&sha, "testing");
    let is_tried = |device: &Device| {
        eventually("it is on trial", || device.app("web").filter(|a| a["state"] == "testing"));
        device.running("web");
        assert_eq!(command_line(device, "web"), "sleep 1000");
    };
    for _ in 0..2 {
        // A keeper that follows another in the same boot does not count.
        for _ in 0..2 {
            device.end(Signal::SIGKILL);
            device.start();
            is_tried(&device);
        }
        reboot(&mut device);
        is_tried(&device);
    }
    reboot(&mut device);
    let ack = device.refused(&sha, "failed", "crash_loop");
    assert_eq!(ack["rolled_back_to"], 1, "{ack}");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("started 3 times since this version"), "{ack}");
    is_back(&device);
    let sha = device.publish(&numbered("web", 3, shell("exec sleep 3000")));
    device.ack(&sha, "running");
}

#[test]
fn a_first_version_is_tried_at_every_boot() {
    let mut device = Device::new();
    let sha = device.publish(&numbered("web", 1, checked("exec sleep 1000", json!({"file": "/tmp/up", "start_period": "1h"}))));
    device.ack(&sha, "testing");
    for _ in 0..4 {
        reboot(&mut device);
        eventually("it is on trial", || device.app("web").filter(|a| a["state"] == "testing"));
    }
}

#[test]
fn an_update_that_was_stopped_waits_at_every_boot() {
    let mut device = Device::new();
    first(&device);
    let sha = device.publish(&numbered(
        "web",
        2,
        checked("sleep 5; touch /tmp/up; exec sleep 1000", json!({"file": "/tmp/up", "start_period": "1h"})),
    ));
    device.ack(&sha, "starting");
    device.ok(&["stop", "web"]);
    for _ in 0..4 {
        reboot(&mut device);
        eventually("it is on trial", || device.app("web").filter(|a| a["state"] == "testing"));
        assert_eq!(device.pid("web"), None);
    }
    device.ok(&["start", "web"]);
    device.ack(&sha, "running");
}

#[test]
fn a_reboot_in_a_trial_tries_again_and_finds_the_way_back() {
    let mut device = Device::new();
    first(&device);
    let sha = device.publish(&numbered("web", 2, checked("exec sleep 1000", json!({"file": "/tmp/up", "start_period": "2s"}))));
    device.ack(&sha, "testing");
    lose_power(&mut device);
    device.broker.down();
    device.start();
    eventually("it has failed", || device.app("web").filter(|a| a["state"] == "failed"));
    is_back(&device);
    device.broker.up();
    assert_eq!(device.refused(&sha, "failed", "health")["rolled_back_to"], 1);
}

#[test]
fn what_keeper_itself_lacks_makes_no_container_unhealthy() {
    let device = Device::new();
    device.deploy(&manifest("web", checked("exec sleep 1000", exec("true"))));
    let pid = device.running("web");
    let files = |limit: &str| {
        let keeper = device.keeper().to_string();
        let done = std::process::Command::new("prlimit").args(["--pid", &keeper, &format!("--nofile={limit}:")]).status().unwrap();
        assert!(done.success());
    };
    files("3");
    eventually("a check cannot be made", || device.log().contains("web/main cannot be checked: ").then_some(()));
    steadily(Duration::from_secs(5), "it runs on", || is_alive(pid));
    files("1024");
    becomes(&device, "web", "healthy");
    assert_eq!(device.running("web"), pid);
    assert!(!events(&device, "web").iter().any(|e| e.starts_with("health: unhealthy")), "{:?}", events(&device, "web"));
}

#[test]
fn a_healthy_container_is_found_healthy_by_the_next_keeper() {
    let mut device = Device::new();
    device.deploy(&manifest("web", checked("touch /tmp/up; exec sleep 1000", json!({"file": "/tmp/up"}))));
    let pid = device.running("web");
    device.end(Signal::SIGKILL);
    device.start();
    becomes(&device, "web", "healthy");
    device.exec("web", &["rm", "/tmp/up"]);
    eventually("it is restarted", || device.pid("web").filter(|p| *p != pid));
}

#[test]
fn a_job_of_a_version_on_trial_that_ended_without_keeper_is_not_run_again() {
    let mut device = Device::new();
    let app = |job: Value| {
        containers(
            "web",
            json!({"main": checked("sleep 5; touch /tmp/up; exec sleep 1000", json!({"file": "/tmp/up", "start_period": "20s"})), "job": job}),
        )
    };
    let once = |script: &str| with(shell(script), json!({"restart": {"policy": "no"}}));
    let sha = device.publish(&app(once("echo begins; sleep 1; exit 0")));
    device.ack(&sha, "testing");
    device.says("web/job", "begins");
    let pid = device.running("web/job");
    device.end(Signal::SIGKILL);
    eventually("it has ended", || (!is_alive(pid)).then_some(()));
    device.start();
    device.ack(&sha, "running");
    assert_eq!(device.container("web/job").unwrap()["state"], "exited");
    assert!(!events(&device, "web").iter().any(|e| e.starts_with("started")), "{:?}", events(&device, "web"));
}

// ---- order ----

/// `web` waits for `db`, which this check calls healthy after a while.
fn shop(check: Value) -> Value {
    let db = checked("sleep 2; touch /tmp/up; exec sleep 1000", with(json!({"start_period": "10s"}), check));
    containers("shop", json!({"web": with(sleeper(), json!({"after": ["db"]})), "db": db}))
}

/// When the containers of the app were started, in milliseconds since boot.
fn started(device: &Device, container: &str) -> u64 {
    let all = device.ok(&["--json", "events", "--past", "shop"]);
    let of = |e: &Value| e["what"] == "started" && e["container"] == container;
    let found = all.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).rfind(of);
    found.and_then(|e| e["uptime_ms"].as_u64()).unwrap_or_else(|| panic!("{container} was not started: {all}"))
}

#[test]
fn a_container_starts_only_once_the_one_that_it_waits_for_is_healthy_also_after_a_reboot() {
    let mut device = Device::new();
    let sha = device.publish(&shop(json!({"file": "/tmp/up"})));
    device.running("shop/db");
    assert_eq!(device.container("shop/web").unwrap()["state"], "waiting");
    device.ack(&sha, "running");
    assert!(started(&device, "web") >= started(&device, "db") + 2000);
    device.end(Signal::SIGINT);
    device.start();
    device.running("shop/web");
    assert!(started(&device, "web") >= started(&device, "db") + 2000);
    let (web, db) = (device.running("shop/web"), device.running("shop/db"));
    device.end(Signal::SIGKILL);
    device.start();
    assert_eq!((device.running("shop/web"), device.running("shop/db")), (web, db), "what runs does not wait");
}

#[test]
fn one_whose_predecessor_fails_is_never_started() {
    let device = Device::new();
    let sha = device.publish(&shop(json!({"file": "/tmp/nothing", "start_period": "1s"})));
    let ack = device.refused(&sha, "failed", "health");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("db is unhealthy"), "{ack}");
    let web = |e: &String| e.starts_with("started");
    assert_eq!(events(&device, "shop").iter().filter(|e| web(e)).count(), 1, "{:?}", events(&device, "shop"));
}

#[test]
fn a_predecessor_without_a_check_need_only_have_begun() {
    let device = Device::new();
    let after = |names: Value| with(sleeper(), json!({"after": names}));
    let job = with(shell("exit 0"), json!({"restart": {"policy": "no"}}));
    device.deploy(&containers("shop", json!({"c": after(json!(["a", "b"])), "b": after(json!(["a"])), "a": job})));
    assert!(started(&device, "a") <= started(&device, "b") && started(&device, "b") <= started(&device, "c"));
}

#[test]
fn by_hand_one_container_starts_at_once_and_a_whole_app_in_order() {
    let device = Device::new();
    device.deploy(&shop(json!({"file": "/tmp/up"})));
    device.ok(&["stop", "shop"]);
    device.ok(&["start", "shop/web"]);
    assert_eq!(device.container("shop/db").unwrap()["state"], "exited", "it does not wait, nor start another");
    device.ok(&["stop", "shop"]);
    device.ok(&["start", "shop"]);
    assert_eq!(health(&device, "shop/db"), "healthy", "the answer came when all run");
    assert!(started(&device, "web") >= started(&device, "db") + 2000);
    // Who was stopped by hand keeps nobody waiting.
    device.ok(&["stop", "shop/db"]);
    device.ok(&["restart", "shop/web"]);
    device.ok(&["stop", "shop/web"]);
    device.ok(&["start", "shop/web"]);
}

// ---- hostile ----

/// What the server does once somebody has connected is in `answers`; the deployment fails with these words.
fn check_hostile(answers: &str, says: &str) {
    let device = Device::new();
    let script = format!("printf '#!/bin/sh\n{answers}\n' >/tmp/answer; chmod 755 /tmp/answer; exec busybox nc -ll -p 8080 -e /tmp/answer");
    let check = json!({"http": {"port": 8080}, "start_period": "4s", "timeout": "1s"});
    let sha = device.publish(&manifest("web", checked(&script, check)));
    device.ack(&sha, "testing");
    let ack = device.refused(&sha, "failed", "health");
    assert!(ack["detail"]["message"].as_str().unwrap().contains(says), "{ack}");
    eventually("nothing of the check is left", || harness::role_of(device.keeper(), "probe").is_none().then_some(()));
}

#[test]
fn a_server_that_never_answers_is_waited_for_no_longer_than_the_timeout() {
    check_hostile("exec sleep 1000", "no answer within 1s");
}

#[test]
fn a_server_that_sends_an_endless_line_is_cut_short() {
    check_hostile("yes x | busybox tr -d \"\\\\n\"", "does not answer in HTTP");
}

#[test]
fn a_server_that_sends_one_byte_and_then_nothing_is_given_up() {
    check_hostile("printf H; exec sleep 1000", "no answer within 1s");
}

#[test]
fn an_endless_header_behind_a_good_status_is_not_read() {
    let device = Device::new();
    let endless = r"#!/bin/sh\nprintf 'HTTP/1.1 200 OK\r\n'; yes X-More: 1\n";
    let script = format!("printf '%b' \"{endless}\" >/tmp/answer; chmod 755 /tmp/answer; exec busybox nc -ll -p 8080 -e /tmp/answer");
    device.deploy(&manifest("web", checked(&script, json!({"http": {"port": 8080}, "timeout": "10s"}))));
    assert_eq!(health(&device, "web"), "healthy");
}

#[test]
fn a_server_that_hangs_up_is_no_server() {
    // With a reset, as the request was not read, or without.
    check_hostile("exit 0", "answer");
}

#[test]
fn a_program_of_a_check_that_does_not_end_is_ended_with_what_it_started() {
    let device = Device::new();
    let never = json!({"restart": {"policy": "no"}});
    let sha = device.publish(&manifest(
        "web",
        with(checked("exec sleep 1000", with(exec("sleep 7777 & sleep 8888"), json!({"timeout": "1s"}))), never),
    ));
    device.ack(&sha, "testing");
    eventually("the check runs", || (device.tasks("web").len() >= 4).then_some(()));
    let ack = device.refused(&sha, "failed", "health");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("no answer within 1s"), "{ack}");
}

#[test]
fn a_hung_check_leaves_no_process_behind_while_its_container_runs_on() {
    let device = Device::new();
    let slow =
        with(exec("test -e /tmp/x || { touch /tmp/x; exit 0; }; trap '' HUP TERM; sleep 7777 & sleep 8888"), json!({"timeout": "1s"}));
    device.deploy(&manifest("web", with(checked("exec sleep 1000", slow), json!({"restart": {"policy": "no"}}))));
    becomes(&device, "web", "unhealthy");
    let tasks = eventually("only the container's own are there", || Some(device.tasks("web").len()).filter(|n| *n == 2));
    assert_eq!(tasks, 2);
}

#[test]
fn a_probe_has_nothing_to_lose() {
    let device = Device::new();
    let silent =
        checked("exec busybox nc -ll -p 8080 -e sleep 1000", json!({"http": {"port": 8080}, "timeout": "30s", "start_period": "1m"}));
    let sha = device.publish(&manifest("web", silent));
    device.ack(&sha, "testing");
    let locked = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // Its last step.
        status.contains("Seccomp:\t2").then_some((pid, status))
    };
    let (pid, status) = eventually("a probe waits", || locked(harness::role_of(device.keeper(), "probe")?));
    for line in ["Uid:\t65504\t65504\t65504\t65504", "Gid:\t65504\t65504\t65504\t65504", "NoNewPrivs:\t1", "Groups:\t "] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set}: {status}");
    }
    let network = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(network(pid), network(device.running("web")));
    assert_ne!(network(pid), network(device.keeper()));
    device.deploy(&manifest("other", sleeper()));
    device.exec("other", &["true"]);
    assert!(is_alive(pid), "keeper works while it waits");
    // Its container goes: so does it.
    device.publish(&json!({"wherry": 1, "app": "web", "remove": true}));
    eventually("the probe is gone", || (!is_alive(pid)).then_some(()));
}
