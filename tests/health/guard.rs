//! The connectivity guard on the real device, in a network of its own: a version that breaks the way to the broker, for real, is taken back by itself;
//! an outage that it has nothing to do with takes nothing back.

use crate::harness::{Device, Signal, Value, eventually, is_alive, json, manifest, shell, sleeper, steadily, with, within};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;
use std::time::Duration;

/// Longer than the link must have been up before.
const STEADY: Duration = Duration::from_secs(63);

/// A device whose network and broker are this thread's own, with a link that has been up for long enough.
fn device() -> Device {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let mut device = Device::prepared(json!({"limits": {"guard_s": 12}}));
    device.settings["brokers"][0]["keep_alive"] = json!("5s");
    device.file("policy.json", json!({"host_network": true, "capabilities": ["NET_ADMIN", "KILL"]}).to_string());
    device.broker.up();
    device.start();
    device.online();
    device
}

fn steady(device: &Device) {
    let conn = device.said("presence").len();
    std::thread::sleep(STEADY);
    assert_eq!(device.said("presence").len(), conn, "the link was up all the time");
}

/// A container in the device's network that sets its loopback, over which the broker is reached.
fn loopback(state: &str) -> Value {
    let security = json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}});
    let script = format!("busybox ip link set lo {state} && exec sleep 100000");
    with(shell(&script), json!({"network": {"mode": "host"}, "security": security}))
}

fn state(device: &Device) -> Option<String> {
    Some(device.app("web")?["state"].as_str()?.to_owned())
}

/// Publishes the version that breaks the way; the device is cut off then, and still on trial.
fn cut_off(device: &Device) -> String {
    let sha = device.publish(&manifest("web", loopback("down")));
    eventually("the device is cut off", || (device.json(&["status"])["link"]["state"] != "online").then_some(()));
    assert_eq!(state(device).as_deref(), Some("testing"));
    sha
}

/// The agent's pause before it tries the broker again has grown meanwhile.
fn back_online(device: &Device) {
    let link = || (device.json(&["status"])["link"]["state"] == "online").then_some(());
    within(Duration::from_secs(180), link).expect("the link is up again");
}

fn taken_back(device: &Device, sha: &str) {
    eventually("the guard lets nothing pass", || (state(device).as_deref() == Some("failed")).then_some(()));
    back_online(device);
    let ack = device.refused(sha, "failed", "connectivity");
    assert!(ack["rolled_back_to"].is_string(), "{ack}");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("could not be reached for 12 s"), "{ack}");
    device.running("web");
}

/// All at once: each waits for a steady link, most of its time.
#[test]
fn a_new_version_must_leave_the_way_to_the_broker_open() {
    std::thread::scope(|scope| {
        for check in [
            a_version_that_breaks_the_way_to_the_broker_is_taken_back_and_the_fleet_learns_why,
            a_keeper_that_is_killed_meanwhile_does_not_forget_the_guard,
            a_version_that_leaves_the_way_open_is_in_force_once_the_broker_has_answered,
            an_outage_takes_nothing_back_that_could_not_have_caused_it,
        ] {
            scope.spawn(check);
        }
    });
}

fn a_version_that_breaks_the_way_to_the_broker_is_taken_back_and_the_fleet_learns_why() {
    let device = device();
    device.deploy(&manifest("web", loopback("up")));
    steady(&device);
    let sha = cut_off(&device);
    taken_back(&device, &sha);
}

fn a_keeper_that_is_killed_meanwhile_does_not_forget_the_guard() {
    let mut device = device();
    device.deploy(&manifest("web", loopback("up")));
    steady(&device);
    let sha = cut_off(&device);
    device.end(Signal::SIGKILL);
    device.start();
    assert_eq!(state(&device).as_deref(), Some("testing"));
    taken_back(&device, &sha);
}

fn a_version_that_leaves_the_way_open_is_in_force_once_the_broker_has_answered() {
    let device = device();
    device.deploy(&manifest("web", loopback("up")));
    steady(&device);
    let sha = device.publish(&manifest("web", with(loopback("up"), json!({"env": {"N": "2"}}))));
    device.ack(&sha, "running");
    let states: Vec<Value> = device.acks(&sha).iter().map(|a| a["state"].clone()).collect();
    assert!(states.contains(&json!("testing")), "{states:?}");
}

fn an_outage_takes_nothing_back_that_could_not_have_caused_it() {
    let mut device = device();
    device.deploy(&manifest("web", loopback("up")));
    let running = device.running("web");
    steady(&device);
    // Of an app in a network of its own, and of one that was in force before.
    let sha = device.publish(&manifest("other", with(sleeper(), json!({"security": {"capabilities": {"drop": ["ALL"]}}}))));
    device.ack(&sha, "accepted");
    device.broker.down();
    let other = device.running("other");
    steadily(Duration::from_secs(16), "both run on", || is_alive(running) && is_alive(other));
    device.broker.up();
    back_online(&device);
    let found = within(Duration::from_secs(20), || device.acks(&sha).into_iter().find(|a| a["state"] == "failed"));
    assert_eq!((found, state(&device).as_deref()), (None, Some("running")));
}
