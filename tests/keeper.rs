//! The whole system on the real kernel, with a real broker and a real image: from a published manifest to what the command line and the broker say.

mod harness;

use harness::{Device, manifest, shell, sleeper, with, eventually, json, numbered};

#[test]
fn a_manifest_goes_through_every_step_and_runs() {
    let device = Device::new();
    let sha = device.publish(&manifest("web", sleeper()));
    device.ack(&sha, "running");
    assert_eq!(device.states(&sha), ["received", "accepted", "fetching", "staged", "starting", "running"]);
    let pid = device.running("web");
    assert!(harness::is_alive(pid));
    device.reported("web runs", |r| r["apps"]["web"]["containers"]["main"]["state"] == "running" && r["apps"]["web"]["sha256"] == sha.as_str());
}
