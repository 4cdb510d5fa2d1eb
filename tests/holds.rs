//! What waits although nothing stands before it: apps that a person at the device keeps as they are, and documents for certain hours. On the real device.

mod harness;

use harness::{Clock, Device, Signal, Value, eventually, is_alive, json, manifest, numbered, shell, sleeper, steadily, with};
use std::time::Duration;
use wherry::image::Digest;
use wherry::sys::time::unix_ms;

fn member() -> Device {
    Device::with(json!({"groups": ["lab"]}))
}

fn to_group(device: &Device, document: &Value) -> String {
    let bytes = document.to_string();
    device.broker.publish(&format!("wherry/v1/g/lab/desired/{}", document["app"].as_str().unwrap()), bytes.as_bytes(), true);
    Digest::of(bytes.as_bytes()).hex().to_string()
}

/// A version that its command line tells from others.
fn version(seq: u64) -> Value {
    numbered("web", seq, sleeps(seq))
}

fn sleeps(number: u64) -> Value {
    shell(&format!("exec sleep 1000{number}"))
}

fn removal(seq: u64) -> Value {
    json!({"wherry": 1, "app": "web", "seq": seq, "remove": true})
}

/// Which version runs.
fn runs(device: &Device) -> Option<u64> {
    let pid = device.pid("web/main")?;
    let child = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", child.trim())).ok()?;
    line.trim_end_matches('\0').strip_prefix("sleep\u{0}1000")?.parse().ok()
}

fn comes_to_run(device: &Device, seq: u64) -> i32 {
    eventually(&format!("version {seq} runs"), || (runs(device) == Some(seq)).then_some(()));
    device.running("web")
}

fn restart(device: &mut Device) {
    device.end(Signal::SIGTERM);
    device.start();
    device.online();
}

/// Ends keeper with all its containers, and starts it again, as a reboot does.
fn reboot(device: &mut Device) {
    device.end(Signal::SIGINT);
    device.start();
    device.online();
}

/// Waits for an answer `held` that points there; its sentence.
fn held(device: &Device, sha: &str, path: &str) -> String {
    let ack = eventually(&format!("held for {path}"), || {
        let acks = device.acks(sha);
        acks.into_iter().find(|a| a["state"] == "held" && a["detail"]["path"] == path)
    });
    assert_eq!(ack["reason"], "policy", "{ack}");
    ack["detail"]["message"].as_str().unwrap().to_owned()
}

fn ask(device: &Device, id: &str, command: Value) -> Value {
    let presence = device.said("presence").pop().expect("it is online");
    let session = format!("{}.{}", presence["boot"], presence["conn"]);
    let whole = with(json!({"wherry": 1, "session": session}), command);
    device.broker.publish(&device.topic(&format!("in/cmd/{id}")), whole.to_string().as_bytes(), false);
    eventually("an answer", || device.said(&format!("res/{id}")).pop())
}

// ---- by hand ----

#[test]
fn an_app_on_hold_stays_as_it_is_and_goes_on_with_the_newest_after_unhold() {
    let mut device = Device::new();
    device.deploy(&version(1));
    let pid = device.running("web");
    assert_eq!(device.json(&["hold", "web"]), json!({"apps": ["web"], "done": "held"}));
    device.reported("on hold", |r| r["apps"]["web"]["held"] == "local" && r["apps"]["web"]["state"] == "running");
    let second = device.publish(&version(2));
    assert!(held(&device, &second, "hold").contains("`wherry unhold web`"));
    device.reported("held", |r| r["apps"]["web"]["held"] == "local" && r["apps"]["web"]["state"] == "held");
    let third = device.publish(&version(3));
    held(&device, &third, "hold");
    device.ack(&second, "superseded");
    steadily(Duration::from_millis(500), "the first one", || is_alive(pid));
    assert_eq!(device.states(&third), ["received", "held"]);
    let app = device.app("web").unwrap();
    assert_eq!((&app["hold"], &app["overridden"], &app["seq"]), (&json!(true), &json!(false), &json!(3)));
    assert!(device.ok(&["ls"]).contains("web: on hold, whatever the fleet publishes (wherry unhold web)\n"));
    assert!(device.ok(&["status"]).contains("\non hold       web\n"));
    assert_eq!(device.json(&["info", "web"])["hold"], true);
    // Nobody forgets it.
    restart(&mut device);
    assert_eq!(device.running("web"), pid);
    device.end(Signal::SIGKILL);
    device.start();
    assert_eq!(device.running("web"), pid);
    reboot(&mut device);
    let pid = comes_to_run(&device, 1);
    held(&device, &device.publish(&version(4)), "hold");
    assert_eq!(device.running("web"), pid);
    device.ok(&["unhold", "web"]);
    comes_to_run(&device, 4);
    device.reported("no longer on hold", |r| r["apps"]["web"]["held"].is_null() && r["apps"]["web"]["state"] == "running");
    assert!(!device.ok(&["status"]).contains("hold"));
    device.deploy(&version(5));
    let events = device.ok(&["events", "--past", "web"]);
    assert!(events.contains("no longer on hold"), "{events}");
}

#[test]
fn a_removal_waits_as_well_and_so_does_what_lifts_one() {
    let mut device = member();
    let group = to_group(&device, &numbered("web", 7, sleeps(7)));
    device.ack(&group, "running");
    device.deploy(&version(1));
    device.ok(&["hold", "web"]);
    // The device's own is lifted, but the group's must not come in its place yet.
    let inherit = device.publish(&json!({"wherry": 1, "app": "web", "seq": 2, "inherit": true}));
    held(&device, &inherit, "hold");
    let pid = comes_to_run(&device, 1);
    restart(&mut device);
    steadily(Duration::from_millis(300), "its own", || is_alive(pid));
    device.ok(&["unhold", "web"]);
    device.ack(&inherit, "removed");
    comes_to_run(&device, 7);
    device.ok(&["hold", "web"]);
    let gone = to_group(&device, &removal(8));
    held(&device, &gone, "hold");
    held(&device, &device.publish(&removal(3)), "hold");
    reboot(&mut device);
    comes_to_run(&device, 7);
    device.ok(&["unhold", "web"]);
    device.ack(&gone, "removed");
    eventually("it is gone", || device.app("web").is_none_or(|a| a["state"] == "removed").then_some(()));
    assert_eq!(device.pid("web/main"), None);
}

#[test]
fn an_app_that_is_not_there_is_kept_away() {
    let mut device = member();
    device.ack(&device.publish(&version(1)), "running");
    device.ack(&device.publish(&removal(2)), "removed");
    device.ok(&["hold", "web"]);
    assert!(device.ok(&["status"]).contains("\non hold       web\n"));
    let own = device.publish(&version(3));
    held(&device, &own, "hold");
    let group = to_group(&device, &numbered("web", 7, sleeps(7)));
    held(&device, &group, "hold");
    reboot(&mut device);
    steadily(Duration::from_millis(500), "nothing of it", || device.pid("web/main").is_none());
    device.ok(&["unhold", "web"]);
    comes_to_run(&device, 3);
    eventually("the group's is shadowed", || {
        let last = device.acks(&group).pop()?;
        (last["state"] == "held" && last["detail"]["message"].as_str()?.contains("shadowed")).then_some(())
    });
}

#[test]
fn all_apps_of_one_command_are_held_or_none() {
    let device = Device::new();
    device.deploy(&version(1));
    device.deploy(&manifest("db", sleeper()));
    for (words, part) in [
        (&["hold", "web", "nosuch"][..], "there is no app nosuch"),
        (&["unhold", "nosuch", "web"], "there is no app nosuch"),
        (&["hold", "web/main"], "is not a name"),
        (&["hold"], "hold needs one operand more"),
    ] {
        let (_, message) = device.fails(words);
        assert!(message.contains(part), "{words:?}: {message}");
        assert_eq!(device.json(&["status"])["holds"], json!([]), "{words:?}");
    }
    device.ok(&["hold", "web", "db", "web"]);
    device.ok(&["hold", "web"]);
    assert_eq!(device.json(&["status"])["holds"], json!(["web", "db"]));
    device.ok(&["unhold", "db"]);
    device.ok(&["unhold", "db"]);
    assert_eq!(device.json(&["status"])["holds"], json!(["web"]));
}

#[test]
fn the_fleet_may_not_try_again_what_is_on_hold() {
    let device = Device::new();
    device.deploy(&version(1));
    let broken = device.publish(&numbered("web", 2, with(sleeper(), json!({"command": ["/bin/nothing"]}))));
    device.refused(&broken, "failed", "exec");
    let pid = comes_to_run(&device, 1);
    device.ok(&["hold", "web"]);
    let told = ask(&device, "one", json!({"do": "retry", "app": "web"}));
    assert_eq!((&told["type"], &told["reason"]), (&json!("error"), &json!("policy")), "{told}");
    assert!(told["message"].as_str().unwrap().contains("after `wherry unhold web`"), "{told}");
    assert_eq!((device.running("web"), device.acks(&broken).iter().any(|a| a["attempt"] == 2)), (pid, false));
    // It says nothing of what keeps the version.
    assert_eq!(ask(&device, "two", json!({"do": "restart", "app": "web"}))["type"], "end");
    eventually("another process of the same", || (runs(&device) == Some(1) && !is_alive(pid)).then_some(()));
    device.ok(&["unhold", "web"]);
    assert_eq!(ask(&device, "three", json!({"do": "retry", "app": "web"}))["type"], "end");
    eventually("the second attempt fails", || {
        device.acks(&broken).iter().any(|a| a["attempt"] == 2 && a["state"] == "failed").then_some(())
    });
}

/// Version 1 runs, and version 2, which is on hold, is what the policy does not allow any more.
fn forbidden_meanwhile() -> (Device, String) {
    let mut device = Device::prepared(json!({}));
    let policy = device.file("policy.json", json!({"host_network": true}).to_string());
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&version(1));
    device.ok(&["hold", "web"]);
    let second = device.publish(&numbered("web", 2, with(sleeps(2), json!({"network": {"mode": "host"}}))));
    held(&device, &second, "hold");
    std::fs::remove_file(policy).unwrap();
    restart(&mut device);
    (device, second)
}

#[test]
fn what_was_allowed_when_it_came_is_looked_at_again_before_it_goes_on() {
    let (device, second) = forbidden_meanwhile();
    let pid = comes_to_run(&device, 1);
    device.ok(&["unhold", "web"]);
    let ack = device.refused(&second, "failed", "policy");
    assert_eq!((&ack["detail"]["path"], &ack["rolled_back_to"]), (&json!("containers.main.network.mode"), &json!(1)), "{ack}");
    assert_eq!(device.running("web"), pid);
}

/// Good once `/tmp/up` is there.
fn checked(seq: u64, retries: u32) -> Value {
    let check = json!({"health": {"file": "/tmp/up", "interval": "1s", "retries": retries}});
    numbered("web", seq, with(sleeps(seq), check))
}

#[test]
fn a_deployment_in_work_is_finished_and_the_next_one_waits() {
    let device = Device::new();
    device.deploy(&version(1));
    let second = device.publish(&checked(2, 100));
    device.ack(&second, "testing");
    device.ok(&["hold", "web"]);
    device.exec("web", &["touch", "/tmp/up"]);
    device.ack(&second, "running");
    let third = device.publish(&version(3));
    held(&device, &third, "hold");
    assert_eq!(runs(&device), Some(2));
    // What has gone wrong goes back, on hold or not.
    device.ok(&["unhold", "web"]);
    device.ack(&third, "running");
    let bad = device.publish(&checked(4, 2));
    device.ack(&bad, "testing");
    device.ok(&["hold", "web"]);
    assert_eq!(device.refused(&bad, "failed", "health")["rolled_back_to"], 3);
    comes_to_run(&device, 3);
}

#[test]
fn what_another_origin_has_ready_does_not_come_in_place_of_a_first_version_that_fails() {
    let device = member();
    let first = device.publish(&checked(1, 4));
    device.ack(&first, "testing");
    let group = to_group(&device, &numbered("web", 7, sleeps(7)));
    device.ack(&group, "held");
    device.ok(&["hold", "web"]);
    device.refused(&first, "failed", "health");
    held(&device, &group, "hold");
    steadily(Duration::from_millis(500), "nothing", || device.pid("web/main").is_none());
    device.ok(&["unhold", "web"]);
    comes_to_run(&device, 7);
}

#[test]
fn what_is_done_at_the_device_is_done_on_hold_too() {
    let device = Device::new();
    device.applied(&version(1));
    device.ok(&["hold", "web"]);
    device.applied(&version(2));
    comes_to_run(&device, 2);
    device.ok(&["stop", "web"]);
    device.ok(&["start", "web"]);
    comes_to_run(&device, 2);
    device.ok(&["rm", "web"]);
    // Gone, and kept away.
    held(&device, &device.publish(&version(1)), "hold");
    steadily(Duration::from_millis(300), "nothing", || device.pid("web/main").is_none());
}

#[test]
fn a_stop_by_hand_outlasts_what_is_held_and_ends_with_what_goes_on() {
    let device = Device::new();
    device.deploy(&version(1));
    device.ok(&["stop", "web"]);
    device.ok(&["hold", "web"]);
    held(&device, &device.publish(&version(2)), "hold");
    steadily(Duration::from_millis(500), "stopped", || device.pid("web/main").is_none());
    device.ok(&["unhold", "web"]);
    comes_to_run(&device, 2);
}

// ---- hours ----

/// A window from and to so many seconds from now.
fn hours(from: i64, to: i64) -> Value {
    let now = i64::try_from(unix_ms() / 1000).unwrap();
    let daytime = |offset: i64| {
        let second = (now + offset).rem_euclid(24 * 3600);
        format!("{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    };
    json!({"from": daytime(from), "to": daytime(to)})
}

const HOUR: i64 = 3600;

fn open() -> Value {
    hours(-HOUR, HOUR)
}

fn closed() -> Value {
    hours(HOUR, 2 * HOUR)
}

fn timed(document: Value, window: Value) -> Value {
    with(document, json!({"rollout": {"percent": 100, "window": window}}))
}

#[test]
fn a_window_that_opens_lets_go_on_what_has_waited_for_it() {
    let mut device = Device::new();
    device.deploy(&version(1));
    let pid = device.running("web");
    {
        let _clock = Clock::right(device.keeper());
        let early = device.publish(&timed(version(2), closed()));
        assert!(held(&device, &early, "rollout.window").starts_with("its window opens at 2"));
        steadily(Duration::from_millis(300), "the first one", || is_alive(pid));
        let soon = device.publish(&timed(version(3), hours(10, HOUR)));
        held(&device, &soon, "rollout.window");
        device.ack(&early, "superseded");
        assert_eq!(runs(&device), Some(1));
        device.ack(&soon, "running");
        assert_eq!(device.states(&soon)[..3], ["received", "held", "accepted"]);
    }
    let pid = comes_to_run(&device, 3);
    // Nobody knows the time from here on: what runs stays, whatever hour it is.
    restart(&mut device);
    assert_eq!(device.running("web"), pid);
    reboot(&mut device);
    comes_to_run(&device, 3);
}

#[test]
fn a_device_that_does_not_know_the_time_waits_until_it_does() {
    let mut device = Device::new();
    device.deploy(&version(1));
    let document = timed(version(2), open());
    let sha = {
        let _clock = Clock::unknown(device.keeper());
        let sha = device.publish(&document);
        let why = held(&device, &sha, "rollout.window");
        assert!(why.ends_with("and this device does not know the time: its clock is not synchronized"), "{why}");
        let local = device.apply(&timed(manifest("tool", sleeper()), open()));
        assert!(local.code == 0 && local.out.contains("not synchronized"), "also what is applied here: {local:?}");
        sha
    };
    device.end(Signal::SIGINT);
    device.start();
    {
        let _clock = Clock::unknown(device.keeper());
        comes_to_run(&device, 1);
        steadily(Duration::from_millis(500), "still the first one", || runs(&device) == Some(1));
        assert_eq!(device.states(&sha).last().unwrap(), "held");
    }
    let _clock = Clock::right(device.keeper());
    device.ack(&sha, "running");
    comes_to_run(&device, 2);
    device.running("tool");
}

#[test]
fn hours_are_for_new_versions_alone() {
    let device = Device::new();
    let _clock = Clock::right(device.keeper());
    // The device's own values in it make no other version of it.
    let same = |seq: u64| numbered("web", seq, with(sleeps(1), json!({"env": {"DEVICE": "${device.id}"}})));
    device.ack(&device.publish(&timed(same(1), open())), "running");
    let pid = device.running("web");
    for (seq, window) in [(2, closed()), (3, with(open(), json!({"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]})))] {
        device.ack(&device.publish(&timed(same(seq), window)), "running");
        assert_eq!(device.running("web"), pid, "a changed window restarts nothing");
    }
    let late = device.publish(&timed(version(4), closed()));
    held(&device, &late, "rollout.window");
    // With a wider window, or none, it is for now.
    device.ack(&device.publish(&with(version(4), json!({"seq": 5}))), "running");
    comes_to_run(&device, 4);
    held(&device, &device.publish(&timed(version(6), closed())), "rollout.window");
    device.ack(&device.publish(&removal(7)), "removed");
    held(&device, &device.publish(&timed(version(8), closed())), "rollout.window");
    steadily(Duration::from_millis(300), "nothing", || device.pid("web/main").is_none());
}

#[test]
fn what_has_begun_in_its_window_is_finished_after_it_or_goes_back() {
    let mut device = Device::new();
    let clock = Clock::right(device.keeper());
    device.deploy(&version(1));
    let until = unix_ms() + 11_000;
    let begun = device.publish(&timed(checked(2, 100), hours(-HOUR, 10)));
    device.ack(&begun, "testing");
    eventually("the window closes", || (unix_ms() > until).then_some(()));
    // Also by a keeper that has not seen it open.
    drop(clock);
    device.end(Signal::SIGKILL);
    device.start();
    let _clock = Clock::right(device.keeper());
    comes_to_run(&device, 2);
    device.exec("web", &["touch", "/tmp/up"]);
    device.ack(&begun, "running");
    let bad = device.publish(&timed(checked(3, 4), hours(-HOUR, 10)));
    assert_eq!(device.refused(&bad, "failed", "health")["rolled_back_to"], 2);
    comes_to_run(&device, 2);
}

#[test]
fn who_keeps_an_app_as_it_is_keeps_it_in_its_window_too() {
    let device = Device::new();
    let _clock = Clock::right(device.keeper());
    device.deploy(&version(1));
    let over = unix_ms() + 13_000;
    let second = device.publish(&timed(version(2), hours(10, 12)));
    held(&device, &second, "rollout.window");
    device.ok(&["hold", "web"]);
    held(&device, &second, "hold");
    eventually("the window is over", || (unix_ms() > over).then_some(()));
    device.ok(&["unhold", "web"]);
    eventually("it waits for the next one", || (device.acks(&second).pop()?["detail"]["path"] == "rollout.window").then_some(()));
    steadily(Duration::from_millis(300), "the first one", || runs(&device) == Some(1));
}

#[test]
fn a_window_that_a_hold_has_hidden_opens() {
    let device = Device::new();
    let _clock = Clock::right(device.keeper());
    device.deploy(&version(1));
    device.ok(&["hold", "web"]);
    let second = device.publish(&timed(version(2), hours(10, HOUR)));
    held(&device, &second, "hold");
    device.ok(&["unhold", "web"]);
    held(&device, &second, "rollout.window");
    device.ack(&second, "running");
    comes_to_run(&device, 2);
}

#[test]
fn what_the_policy_refuses_after_the_wait_is_not_had_by_another_attempt() {
    let (device, second) = forbidden_meanwhile();
    device.ok(&["unhold", "web"]);
    device.refused(&second, "failed", "policy");
    let answer = ask(&device, "again", json!({"do": "retry", "app": "web"}));
    assert_eq!((&answer["type"], &answer["reason"]), (&json!("error"), &json!("policy")), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("host_network"), "{answer}");
    assert_eq!(runs(&device), Some(1));
}

#[test]
fn a_document_that_has_expired_while_it_waited_does_not_go_on() {
    let device = Device::new();
    let _clock = Clock::right(device.keeper());
    device.deploy(&version(1));
    device.ok(&["hold", "web"]);
    let end = unix_ms() / 1000 * 1000 + 10_000;
    let second = device.publish(&with(version(2), json!({"not_after": wherry::manifest::show_time(end)})));
    held(&device, &second, "hold");
    eventually("it has expired", || (unix_ms() > end).then_some(()));
    device.ok(&["unhold", "web"]);
    device.refused(&second, "failed", "expired");
    assert_eq!(runs(&device), Some(1));
}

#[test]
fn what_waits_and_is_lost_waits_for_the_brokers_copy() {
    let mut device = member();
    let group = to_group(&device, &numbered("web", 7, sleeps(7)));
    device.ack(&group, "running");
    device.deploy(&version(1));
    device.ok(&["hold", "web"]);
    let lifts = json!({"wherry": 1, "app": "web", "seq": 2, "inherit": true});
    let inherit = device.publish(&lifts);
    held(&device, &inherit, "hold");
    device.broker.down();
    device.end(Signal::SIGTERM);
    std::fs::remove_file(device.dir.join("data/manifests").join(format!("{inherit}.json"))).unwrap();
    device.start();
    device.ok(&["unhold", "web"]);
    steadily(Duration::from_secs(1), "nobody knows what it said", || runs(&device) == Some(1));
    device.broker.up();
    device.online();
    device.publish(&lifts);
    comes_to_run(&device, 7);
}

/// What has run once does not run again for a document that changes nothing here.
#[test]
fn nothing_runs_again_for_what_waits_or_loses() {
    let device = member();
    let once = with(shell("echo ran; exit 0"), json!({"restart": {"policy": "no"}}));
    let mut first = version(1);
    first["containers"]["once"] = once;
    device.ack(&device.publish(&first), "running");
    device.says("web/once", "ran");
    let times = || device.ok(&["logs", "web/once"]).matches("ran").count();
    let lost = to_group(&device, &numbered("web", 7, sleeps(7)));
    device.ack(&lost, "held");
    steadily(Duration::from_secs(1), "it has run once, whoever loses", || times() == 1);
    device.ok(&["stop", "web/main"]);
    device.ok(&["hold", "web"]);
    held(&device, &device.publish(&version(2)), "hold");
    steadily(Duration::from_secs(1), "it has run once, whatever waits", || times() == 1);
}
