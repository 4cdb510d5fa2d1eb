//! Who wins when several documents name an app, and who waits: device and groups, removals and `inherit`, staged rollouts. On the real device.

mod harness;

use harness::{Device, Signal, Value, eventually, json, kill, manifest, numbered, shell, sleeper, steadily, with};
use std::time::Duration;
use wherry::keeper::rollout::{WHOLE, place};

fn member() -> Device {
    Device::with(json!({"groups": ["lab"]}))
}

fn to_group(device: &Device, document: &Value) -> String {
    let bytes = document.to_string();
    device.broker.publish(&format!("wherry/v1/g/lab/desired/{}", document["app"].as_str().unwrap()), bytes.as_bytes(), true);
    wherry::image::Digest::of(bytes.as_bytes()).hex().to_string()
}

fn origin(device: &Device) -> Option<String> {
    Some(device.app("web")?["origin"].as_str()?.to_owned())
}

#[test]
fn inherit_lifts_a_removal_and_the_groups_document_counts_again() {
    let mut device = member();
    device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "seq": 1, "remove": true})), "removed");
    let group = to_group(&device, &numbered("web", 100, sleeper()));
    device.ack(&group, "held");
    steadily(Duration::from_millis(300), "not here", || device.pid("web/main").is_none());
    let inherit = json!({"wherry": 1, "app": "web", "seq": 2, "inherit": true});
    device.ack(&device.publish(&inherit), "removed");
    device.ack(&group, "running");
    let pid = device.running("web");
    // The broker repeats what it keeps; what was lifted stays so over a restart.
    device.end(Signal::SIGTERM);
    device.start();
    device.online();
    assert_eq!((device.running("web"), origin(&device).as_deref()), (pid, Some("group:lab")));
    device.refused(&device.publish(&numbered("web", 1, sleeper())), "rejected", "stale");
    device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "seq": 3, "remove": true})), "removed");
    eventually("not here again", || device.pid("web/main").is_none().then_some(()));
}

#[test]
fn inherit_gives_the_group_back_what_the_device_had_of_its_own() {
    let device = member();
    let group = to_group(&device, &numbered("web", 1, shell("exec sleep 4321")));
    device.ack(&group, "running");
    device.deploy(&numbered("web", 1, sleeper()));
    eventually("the device's own", || (origin(&device).as_deref() == Some("device")).then_some(()));
    device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "seq": 2, "inherit": true})), "removed");
    eventually("the group's", || (origin(&device).as_deref() == Some("group:lab")).then_some(()));
    let pid = device.running("web");
    assert!(std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok());
    device.deploy(&numbered("web", 3, sleeper()));
    assert_eq!(origin(&device).as_deref(), Some("device"));
}

#[test]
fn inherit_is_for_a_devices_own_topic() {
    let device = member();
    device.refused(&to_group(&device, &json!({"wherry": 1, "app": "web", "seq": 2, "inherit": true})), "rejected", "bad_value");
}

#[test]
fn inherit_without_anything_to_lift_is_no_burden() {
    let device = member();
    for n in 0..70 {
        device.publish(&json!({"wherry": 1, "app": format!("app{n}"), "seq": 1, "inherit": true}));
    }
    let last = device.publish(&json!({"wherry": 1, "app": "web", "seq": 1, "remove": true}));
    device.ack(&last, "removed");
    assert_eq!(std::fs::read_dir(device.dir.join("data/manifests")).unwrap().count(), 0);
    let group = to_group(&device, &numbered("web", 5, sleeper()));
    device.ack(&group, "held");
}

#[test]
fn what_was_lifted_is_not_gone_back_to() {
    let device = member();
    device.deploy(&numbered("web", 1, shell("exec sleep 1111")));
    device.ack(&to_group(&device, &numbered("web", 1, shell("exec sleep 2222"))), "held");
    device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "seq": 2, "inherit": true})), "removed");
    let command = |device: &Device| Some(std::fs::read_to_string(format!("/proc/{}/task/{0}/children", device.pid("web/main")?)).unwrap());
    eventually("the group's", || (origin(&device).as_deref() == Some("group:lab") && command(&device).is_some()).then_some(()));
    let pid = device.running("web");
    let broken = device.publish(&numbered("web", 3, with(sleeper(), json!({"command": ["/bin/nothing"]}))));
    let ack = device.refused(&broken, "failed", "exec");
    assert!(ack["rolled_back_to"].is_null(), "{ack}");
    eventually("the group's again", || (origin(&device).as_deref() == Some("group:lab")).then_some(()));
    let again = device.running("web");
    assert_ne!(again, pid);
    let child = std::fs::read_to_string(format!("/proc/{again}/task/{again}/children")).unwrap();
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", child.trim())).unwrap();
    assert!(line.contains("2222"), "{line:?}");
}

#[test]
fn a_devices_first_version_that_fails_leaves_the_groups_where_it_was() {
    let device = member();
    device.ack(&to_group(&device, &numbered("web", 1, sleeper())), "running");
    let broken = device.publish(&numbered("web", 1, with(sleeper(), json!({"command": ["/bin/nothing"]}))));
    device.refused(&broken, "failed", "exec");
    device.running("web");
    assert_eq!(origin(&device).as_deref(), Some("group:lab"));
}

#[test]
fn a_rollout_that_does_not_reach_the_device_does_not_stop_what_another_origin_runs() {
    let device = member();
    device.ack(&to_group(&device, &numbered("web", 1, sleeper())), "running");
    let pid = device.running("web");
    let held = device.publish(&staged(1, percent(&device, false), shell("exec sleep 4321")));
    device.ack(&held, "held");
    steadily(Duration::from_millis(500), "the group's", || harness::is_alive(pid) && origin(&device).as_deref() == Some("group:lab"));
    device.ack(&device.publish(&staged(2, percent(&device, true), shell("exec sleep 4321"))), "running");
    assert_eq!(origin(&device).as_deref(), Some("device"));
}

#[test]
fn a_document_that_waits_undoes_nobodys_stop() {
    let device = member();
    device.ack(&to_group(&device, &staged(1, 100.0, sleeper())), "running");
    device.ok(&["stop", "web"]);
    device.ack(&to_group(&device, &staged(2, percent(&device, false), shell("exec sleep 4321"))), "held");
    steadily(Duration::from_millis(500), "stopped", || device.pid("web/main").is_none());
}

/// A percentage that has the device, or that has it not, by two hundredths.
fn percent(device: &Device, inside: bool) -> f64 {
    let place = place("web", &device.id.parse().unwrap());
    (if inside { (place + 2).min(WHOLE) } else { place.saturating_sub(2) }) as f64 / 100.0
}

fn staged(seq: u64, percent: f64, container: Value) -> Value {
    with(numbered("web", seq, container), json!({"rollout": {"percent": percent}}))
}

#[test]
fn a_rollout_that_does_not_reach_the_device_is_held_and_what_runs_runs_on() {
    let mut device = member();
    let (inside, outside) = (percent(&device, true), percent(&device, false));
    device.ack(&to_group(&device, &staged(1, inside, sleeper())), "running");
    let old = device.running("web");
    let newer = shell("exec sleep 4321");
    let held = device.ack(&to_group(&device, &staged(2, outside, newer.clone())), "held");
    assert_eq!(held["reason"], "policy");
    assert!(held["detail"]["message"].as_str().unwrap().contains(" % of the devices, and this one stands at "), "{held}");
    device.reported("held", |r| r["apps"]["web"]["state"] == "held" && r["apps"]["web"]["containers"]["main"]["state"] == "running");
    steadily(Duration::from_millis(500), "the old one", || harness::is_alive(old));
    device.end(Signal::SIGTERM);
    device.start();
    device.online();
    assert_eq!(device.running("web"), old, "also after a restart of keeper");
    // The same content for more devices.
    let raised = to_group(&device, &staged(3, inside, newer.clone()));
    device.ack(&raised, "running");
    let new = eventually("the new one", || device.pid("web/main").filter(|pid| *pid != old));
    for (seq, percent) in [(4, 100.0), (5, outside), (6, 0.0)] {
        device.ack(&to_group(&device, &staged(seq, percent, newer.clone())), "running");
        assert_eq!(device.running("web"), new, "{percent}: a changed share restarts nothing, and a smaller one takes nothing away");
    }
    // Without a share it is for all.
    device.ack(&to_group(&device, &numbered("web", 7, newer)), "running");
    assert_eq!(device.running("web"), new);
}

#[test]
fn a_first_version_that_does_not_reach_the_device_waits_and_gets_its_end() {
    let device = member();
    let first = to_group(&device, &staged(1, percent(&device, false), sleeper()));
    device.ack(&first, "held");
    assert_eq!(device.pid("web/main"), None);
    device.ack(&to_group(&device, &staged(2, percent(&device, true), sleeper())), "running");
    device.ack(&first, "superseded");
    device.ack(&to_group(&device, &json!({"wherry": 1, "app": "web", "seq": 3, "remove": true})), "removed");
    device.ack(&to_group(&device, &staged(4, percent(&device, false), sleeper())), "held");
}

#[test]
fn a_rollout_may_be_without_numbers() {
    let device = member();
    let document = |inside| with(manifest("web", sleeper()), json!({"rollout": {"percent": percent(&device, inside)}}));
    device.ack(&to_group(&device, &document(false)), "held");
    device.ack(&to_group(&device, &document(true)), "running");
}

#[test]
fn what_is_being_brought_in_when_nothing_is_wanted_any_more_does_not_run() {
    for next in [json!({"inherit": true}), json!({"rollout": {"percent": 0}, "containers": {"main": sleeper()}})] {
        let device = Device::new();
        let slow = device.publish(&numbered("web", 1, with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
        device.ack(&slow, "fetching");
        let next = device.publish(&with(json!({"wherry": 1, "app": "web", "seq": 2}), next));
        device.ack(&slow, "superseded");
        let last = device.states(&next).pop();
        steadily(Duration::from_secs(2), "neither version", || device.pid("web/main").is_none() && device.states(&next).pop() == last);
        assert_eq!(device.states(&slow).pop().as_deref(), Some("superseded"));
    }
}

#[test]
fn what_was_stopped_by_hand_is_stopped_again_when_its_document_counts_again() {
    let device = member();
    device.ack(&to_group(&device, &numbered("web", 1, sleeper())), "running");
    device.ok(&["stop", "web"]);
    // Nobody has stopped the device's own, though its containers are the same.
    device.deploy(&numbered("web", 2, sleeper()));
    device.running("web");
    device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "seq": 3, "inherit": true})), "removed");
    device.becomes("web", "exited");
    assert_eq!(device.app("web").unwrap()["overridden"], true);
    device.ok(&["start", "web"]);
    device.running("web");
}

#[test]
fn a_groups_document_that_waits_does_not_begin_the_devices_download_anew() {
    let device = member();
    let slow = device.publish(&numbered("web", 1, with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
    device.ack(&slow, "fetching");
    let stage = eventually("stage runs", || harness::role_of(device.keeper(), "stage"));
    kill(stage, Signal::SIGSTOP);
    device.ack(&to_group(&device, &numbered("web", 1, sleeper())), "held");
    steadily(Duration::from_millis(300), "the same stage", || harness::is_alive(stage));
    kill(stage, Signal::SIGCONT);
    device.ack(&slow, "running");
}
