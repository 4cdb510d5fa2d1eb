//! The main job from the installed package: a root file system with busybox, `uci`, `jshn` and the package, and nothing else.

use crate::harness::broker::Broker;
use crate::harness::{Value, eventually, image, json, manifest, with};
use crate::inside::Inside;
use crate::ipk::installed;
use crate::root::{Device, Scratch, run, tree};
use std::process::Command;

const ID: &str = "wherry-001122aabbcc";

/// Sets options as a person would.
fn configure(device: &Device, broker: &Broker) {
    run(device.command("uci").args(["add", "wherry", "broker"]));
    let (port, group) = (format!("wherry.@broker[-1].port={}", broker.port), format!("wherry.main.cgroup=wherry/{}", device.name()));
    for option in ["wherry.@broker[-1].host=127.0.0.1", &port, "wherry.main.interval_s=1", &group] {
        run(device.command("uci").args(["set", option]));
    }
    run(device.command("uci").args(["add_list", "wherry.main.import_dirs=/images"]));
    run(device.command("uci").args(["commit", "wherry"]));
}

/// The newest message below a topic of the device for which this holds.
fn said(broker: &Broker, topic: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let topic = format!("wherry/v1/d/{ID}/out/{topic}");
    let found = || broker.messages().into_iter().rev().find(|m| m.topic == topic && holds(&m.payload));
    eventually(&topic, || found().map(|m| m.payload))
}

#[test]
fn the_package_alone_does_the_main_job() {
    let (device, ..) = installed();
    let scratch = Scratch::new();
    let mut broker = Broker::new(scratch.path(), None);
    broker.up();
    configure(&device, &broker);
    let mut script = Command::new(tree("tests/packages/router"));
    let router = Inside::start(script.arg(device.path()).arg(image::dir()), device.name(), "/bin/sh");

    let container = json!({"image": {"ref": "oci:/images/layout:plain"}, "command": ["/bin/sleep", "100000"]});
    let desired = format!("wherry/v1/d/{ID}/in/desired/web");
    broker.publish(&desired, manifest("web", with(container, json!({"resources": {"pids": {"max": 8}}}))).to_string().as_bytes(), true);
    said(&broker, "ack/web", |ack| ack["state"] == "running");
    said(&broker, "presence", |presence| presence["state"] == "online");
    let stats = said(&broker, "stats", |stats| stats["containers"]["web/main"]["pids"]["current"].as_u64() > Some(0));
    assert_eq!(stats["interval_s"], 1);
    let listed: Value = serde_json::from_str(&router.run(&["wherry", "--json", "status"])).unwrap();
    assert_eq!(listed["device"], ID);
    assert!(router.run(&["ls", "/overlay/wherry"]).contains("state."), "data is on the flash");

    broker.publish(&desired, json!({"wherry": 1, "app": "web", "remove": true}).to_string().as_bytes(), true);
    said(&broker, "ack/web", |ack| ack["state"] == "removed");
}
