//! The whole system on the real kernel, with a real broker and a real image: from a published manifest to what the command line and the broker say.

mod harness;

use harness::{Device, Signal, Value, eventually, json, kill, layout, manifest, numbered, shell, sleeper, steadily, with, within};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

fn containers(app: &str, all: Value) -> Value {
    json!({"wherry": 1, "app": app, "containers": all})
}

fn tombstone(app: &str) -> Value {
    json!({"wherry": 1, "app": app, "remove": true})
}

// ---- the main job ----

#[test]
fn a_manifest_goes_through_every_step_and_runs() {
    let device = Device::new();
    let sha = device.publish(&numbered("web", 5, sleeper()));
    let ack = device.ack(&sha, "running");
    assert_eq!(device.states(&sha), ["received", "accepted", "fetching", "staged", "starting", "running"]);
    assert_eq!((&ack["seq"], &ack["attempt"], &ack["target"]), (&json!(5), &json!(1), &json!({"fleet": "wherry", "device": device.id})));
    let pid = device.running("web");
    assert!(device.tasks("web").contains(&pid));
    let reported = device.reported("web runs", |r| r["apps"]["web"]["containers"]["main"]["state"] == "running");
    let app = &reported["apps"]["web"];
    assert_eq!((&app["seq"], &app["sha256"], &app["state"]), (&json!(5), &json!(sha), &json!("running")));
    assert_eq!(app["containers"]["main"]["restarts"], 0);
    assert!(app["containers"]["main"]["image"].as_str().unwrap().starts_with("sha256:"));
}

#[test]
fn the_image_configuration_is_honoured() {
    let device = Device::new();
    device.applied(&manifest("web", json!({"image": {"ref": layout("config")}})));
    let said = device.says("web", "ready");
    assert!(said.contains("args=from-image\n"), "{said}");
    assert!(said.contains("from_image=yes added=\n"), "{said}");
    assert!(said.contains("id=1234:1235 groups=1235 1236\n"), "{said}");
    assert!(said.contains("pwd=/work\n"), "{said}");
    device.ok(&["stop", "web"]);
    assert!(device.says("web", "got USR1").ends_with("got USR1\n"));
    assert_eq!(device.becomes("web", "exited")["last_exit"], json!({"code": 7}));
}

#[test]
fn the_manifest_overrides_the_image_configuration() {
    let device = Device::new();
    let own = json!({
        "image": {"ref": layout("config")}, "args": ["a", "b c"], "env": {"FROM_IMAGE": "no", "ADDED": "1"}, "user": "root", "workdir": "/tmp",
        "hostname": "box", "stop": {"signal": "TERM"},
    });
    device.applied(&manifest("web", own));
    let said = device.says("web", "ready");
    assert!(said.contains("args=a b c\n") && said.contains("from_image=no added=1\n"), "{said}");
    assert!(said.contains("id=0:0") && said.contains("pwd=/tmp\n"), "{said}");
    assert_eq!(device.exec("web", &["hostname"]), "box");
    device.ok(&["stop", "web"]);
    assert_eq!(device.becomes("web", "exited")["last_exit"], json!({"code": 8}));
}

#[test]
fn an_image_in_one_tar_runs_as_well() {
    let device = Device::new();
    device.deploy(&manifest("web", with(sleeper(), json!({"image": {"ref": harness::image::archive()}}))));
    device.running("web");
}

#[test]
fn an_image_runs_by_its_digest_and_another_digest_is_refused() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let digest = device.container("web").unwrap()["digest"].as_str().unwrap().to_owned();
    let pinned = |digest: &str| with(sleeper(), json!({"image": {"ref": layout("plain"), "digest": digest}}));
    device.deploy(&manifest("two", pinned(&digest)));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let sha = device.publish(&manifest("three", pinned(&wrong)));
    device.refused(&sha, "failed", "digest_mismatch");
    assert_eq!(device.pid("three"), None);
}

#[test]
fn two_containers_of_an_app_have_their_own_namespaces() {
    let device = Device::new();
    device.deploy(&containers("web", json!({"one": sleeper(), "two": sleeper()})));
    let (one, two) = (device.running("web/one"), device.running("web/two"));
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        let all = [of("self"), of(&one.to_string()), of(&two.to_string())];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{namespace}: {all:?}");
    }
    assert_eq!(device.exec("web/two", &["hostname"]), "two");
    let (code, error) = device.fails(&["exec", "web", "true"]);
    assert!(code == 125 && error.contains("name one: one, two"), "{error}");
}

// ---- updates ----

#[test]
fn a_changed_limit_is_set_without_a_restart() {
    let device = Device::new();
    let limited = |max: &str| manifest("web", with(sleeper(), json!({"resources": {"memory": {"max": max}, "pids": {"max": 20}}})));
    device.deploy(&limited("32M"));
    let pid = device.running("web");
    let limit = || device.control_file("web", &["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(limit(), (32 << 20).to_string());
    device.deploy(&limited("48M"));
    assert_eq!(limit(), (48 << 20).to_string());
    assert_eq!(device.running("web"), pid);
    device.stats("the new limit", |s| s["containers"]["web/main"]["memory"]["max"] == 48 << 20);
}

#[test]
fn a_changed_argument_replaces_the_container() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let old = device.running("web");
    device.deploy(&manifest("web", shell("exec sleep 99999")));
    let new = device.running("web");
    assert!(old != new && !harness::is_alive(old));
    assert!(!device.tasks("web").contains(&old));
    assert_eq!(device.container("web").unwrap()["restarts"], 0);
}

#[test]
fn only_the_changed_container_of_an_app_is_replaced() {
    let device = Device::new();
    device.deploy(&containers("web", json!({"one": sleeper(), "two": sleeper(), "three": sleeper()})));
    let (one, two) = (device.running("web/one"), device.running("web/two"));
    device.deploy(&containers("web", json!({"one": sleeper(), "two": shell("exec sleep 1234"), "four": sleeper()})));
    assert_eq!(device.running("web/one"), one);
    assert_ne!(device.running("web/two"), two);
    device.running("web/four");
    assert_eq!(device.container("web/three"), None);
}

#[test]
fn a_tombstone_leaves_nothing_behind() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let sha = device.publish(&tombstone("web"));
    device.ack(&sha, "removed");
    assert!(!harness::is_alive(pid));
    assert_eq!(device.app("web"), None);
    device.reported("web is removed", |r| r["apps"]["web"]["state"] == "removed" && r["apps"]["web"]["containers"] == json!({}));
    let count = |dir: &str| fs::read_dir(device.dir.join("data").join(dir)).map_or(0, Iterator::count);
    eventually("images, layers and documents are gone", || {
        (count("images") == 0 && count("layers") == 0 && count("manifests") == 0).then_some(())
    });
    assert!(!device.dir.join("run/containers/web").exists());
}

#[test]
fn a_tombstone_published_while_the_device_was_off_is_honoured_at_its_next_start() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    device.deploy(&manifest("stays", sleeper()));
    device.end(Signal::SIGINT);
    let sha = device.publish(&tombstone("web"));
    device.start();
    device.running("stays");
    device.ack(&sha, "removed");
    assert_eq!(device.app("web"), None);
}

// ---- the decision table over a real broker ----

#[test]
fn a_repeated_document_is_answered_again_and_restarts_nothing() {
    let device = Device::new();
    let m = numbered("web", 7, sleeper());
    let sha = device.publish(&m);
    device.ack(&sha, "running");
    let pid = device.running("web");
    device.publish(&m);
    eventually("running is told twice", || (device.acks(&sha).iter().filter(|a| a["state"] == "running").count() == 2).then_some(()));
    assert_eq!(device.running("web"), pid);
}

#[test]
fn an_older_number_is_stale_and_a_used_one_is_a_conflict() {
    let device = Device::new();
    device.deploy(&numbered("web", 7, sleeper()));
    let pid = device.running("web");
    let stale = device.publish(&numbered("web", 6, shell("exec sleep 5")));
    device.refused(&stale, "rejected", "stale");
    let conflict = device.publish(&numbered("web", 7, shell("exec sleep 6")));
    device.refused(&conflict, "rejected", "conflict");
    let unnumbered = device.publish(&manifest("web", shell("exec sleep 7")));
    device.refused(&unnumbered, "rejected", "stale");
    assert_eq!(device.running("web"), pid);
}

#[test]
fn without_numbers_every_other_document_is_newer_also_an_earlier_one() {
    let device = Device::new();
    let (a, b) = (manifest("web", sleeper()), manifest("web", shell("exec sleep 99")));
    device.deploy(&a);
    let first = device.running("web");
    device.deploy(&b);
    let second = device.running("web");
    let sha = device.publish(&a);
    eventually("A runs again", || (device.acks(&sha).iter().filter(|k| k["state"] == "running").count() == 2).then_some(()));
    let third = device.running("web");
    assert!(first != second && second != third);
}

#[test]
fn a_newer_document_supersedes_one_that_is_still_being_fetched() {
    let device = Device::new();
    let slow = device.publish(&numbered("web", 1, with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
    device.ack(&slow, "fetching");
    // Stopped where it is, it cannot be done before the newer document is there.
    let stage = eventually("stage runs", || harness::role_of(device.keeper(), "stage"));
    kill(stage, Signal::SIGSTOP);
    let newer = device.publish(&numbered("web", 2, sleeper()));
    device.ack(&slow, "superseded");
    device.ack(&newer, "running");
    assert!(!harness::is_alive(stage));
    let states = device.states(&slow);
    assert!(!states.iter().any(|s| s == "running" || s == "failed"), "{states:?}");
}

#[test]
fn of_many_documents_in_a_row_the_newest_runs_and_each_has_one_end() {
    let device = Device::new();
    let shas: Vec<String> = (1..=20).map(|n| device.publish(&numbered("web", n, shell(&format!("exec sleep 1000{n}"))))).collect();
    device.ack(&shas[19], "running");
    assert_eq!(device.exec("web", &["sh", "-c", "tr '\\0' ' ' </proc/2/cmdline"]), "sleep 100020");
    for sha in &shas[..19] {
        let ends = ["running", "failed", "rejected", "removed", "superseded"];
        let states: Vec<String> = device.states(sha).into_iter().filter(|s| ends.contains(&s.as_str())).collect();
        assert!(states == ["running"] || states == ["superseded"], "{states:?}");
    }
    device.reported("only the newest", |r| r["apps"]["web"]["seq"] == 20 && r["apps"]["web"]["state"] == "running");
}

#[test]
fn a_target_that_is_another_device_or_fleet_is_refused() {
    let device = Device::new();
    for (fleet, id) in [("wherry", "router-99"), ("other", device.id.as_str())] {
        let m = with(manifest("web", sleeper()), json!({"target": {"fleet": fleet, "device": id}}));
        device.refused(&device.publish(&m), "rejected", "wrong_target");
    }
    let sha = device.publish_bytes("web", manifest("other", sleeper()).to_string().as_bytes());
    device.refused(&sha, "rejected", "wrong_target");
    let right = with(manifest("web", sleeper()), json!({"target": {"fleet": "wherry", "device": device.id}}));
    device.deploy(&right);
}

#[test]
fn a_group_document_runs_and_the_devices_own_beats_it() {
    let device = Device::with(json!({"groups": ["lab"]}));
    let group = manifest("web", shell("exec sleep 111"));
    device.broker.publish("wherry/v1/g/lab/desired/web", group.to_string().as_bytes(), true);
    let first = device.running("web");
    assert_eq!(device.app("web").unwrap()["origin"], "group:lab");
    device.deploy(&manifest("web", sleeper()));
    assert_ne!(device.running("web"), first);
    let sha = device.publish(&tombstone("web"));
    device.ack(&sha, "removed");
    assert_eq!(device.pid("web"), None, "a device tombstone means not here");
}

#[test]
fn a_group_document_that_loses_is_held_until_the_devices_own_is_gone_for_good() {
    let device = Device::with(json!({"groups": ["first", "second"]}));
    let publish = |group: &str, m: &Value| {
        device.broker.publish(&format!("wherry/v1/g/{group}/desired/web"), m.to_string().as_bytes(), true);
        wherry::image::Digest::of(m.to_string().as_bytes()).hex()
    };
    device.ack(&publish("first", &manifest("web", sleeper())), "running");
    let pid = device.running("web");
    let held = publish("second", &manifest("web", shell("exec sleep 222")));
    let ack = eventually("held", || device.acks(&held).into_iter().find(|a| a["state"] == "held"));
    assert_eq!((&ack["reason"], &ack["target"]["group"]), (&json!("policy"), &json!("second")), "{ack}");
    assert_eq!(device.running("web"), pid);
    device.ack(&publish("first", &tombstone("web")), "removed");
    let next = eventually("the second group's runs", || device.pid("web").filter(|p| *p != pid));
    assert_eq!(device.app("web").unwrap()["origin"], "group:second", "{next}");
}

#[test]
fn an_empty_payload_is_no_action() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let before = device.said("ack/web").len();
    device.publish_bytes("web", b"");
    device.deploy(&manifest("two", sleeper()));
    assert_eq!(device.running("web"), pid);
    assert_eq!(device.said("ack/web").len(), before);
}

#[test]
fn a_tombstone_overtakes_an_image_that_is_being_brought_in() {
    let device = Device::new();
    let slow = device.publish(&numbered("web", 1, with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
    device.ack(&slow, "fetching");
    let gone = device.publish(&with(tombstone("web"), json!({"seq": 2})));
    device.ack(&slow, "superseded");
    device.ack(&gone, "removed");
    for dir in ["layers", "images", "staging", "manifests"] {
        let dir = device.dir.join("data").join(dir);
        eventually("the store is empty", || (fs::read_dir(&dir).unwrap().count() == 0).then_some(()));
    }
    let again = device.publish(&manifest("web", sleeper()));
    device.ack(&again, "running");
}

#[test]
fn leaving_a_group_removes_its_apps() {
    let mut device = Device::with(json!({"groups": ["lab"]}));
    device.broker.publish("wherry/v1/g/lab/desired/web", manifest("web", sleeper()).to_string().as_bytes(), true);
    let pid = device.running("web");
    device.deploy(&manifest("own", sleeper()));
    device.end(Signal::SIGTERM);
    device.settings["groups"] = json!([]);
    device.start();
    device.running("own");
    eventually("it is gone", || (!harness::is_alive(pid) && device.app("web").is_none()).then_some(()));
}

#[test]
fn after_a_restart_of_the_broker_the_device_tells_everything_again() {
    let mut device = Device::new();
    device.applied(&manifest("web", sleeper()));
    device.broker.down();
    let before = device.said("reported").len();
    device.broker.up();
    device.online();
    eventually("reported again", || (device.said("reported").len() > before).then_some(()));
    let presence = eventually("online again", || device.said("presence").into_iter().find(|p| p["conn"] == 2 && p["state"] == "online"));
    assert_eq!(presence["boot"], 1);
    device.deploy(&manifest("two", sleeper()));
}

// ---- bad input ----

/// What is refused leaves what runs alone.
fn check_bad(document: &[u8], state: &str, reason: &str, contains: &str) {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let sha = device.publish_bytes("web", document);
    let ack = device.refused(&sha, state, reason);
    assert!(ack.to_string().contains(contains), "{ack} lacks {contains}");
    let terminal = |a: &Value| a["state"] == "rejected" || a["state"] == "failed";
    steadily(Duration::from_millis(700), "one terminal answer, the same process", || {
        device.acks(&sha).iter().filter(|a| terminal(a)).count() == 1 && harness::is_alive(pid)
    });
    assert_eq!(device.running("web"), pid);
}

fn check_bad_container(extra: Value, state: &str, reason: &str, contains: &str) {
    check_bad(manifest("web", with(sleeper(), extra)).to_string().as_bytes(), state, reason, contains);
}

/// A server of such a fleet keeps the documents itself, and publishes what is newer than what the device says it has.
#[test]
fn with_a_broker_that_keeps_no_messages_the_device_asks_and_a_server_that_answers_brings_it_up_to_date() {
    let mut device = Device::prepared(json!({}));
    device.broker.configure("retain_available false");
    device.settings["brokers"][0]["retained"] = json!(false);
    device.broker.up();
    device.start();
    device.online();
    let get = |device: &Device, seq: Value| {
        let fits = |g: &Value| if seq.is_null() { g["have"] == json!([]) } else { g["have"][0]["seq"] == seq };
        eventually("the device says what it has", || device.said("get").into_iter().rfind(fits))
    };
    let serve = |device: &Device, document: &Value| {
        device.broker.publish(&device.topic("in/desired/web"), document.to_string().as_bytes(), false);
    };
    get(&device, Value::Null);
    serve(&device, &numbered("web", 5, sleeper()));
    eventually("the first document runs", || device.app("web").filter(|a| a["seq"] == 5 && a["state"] == "running"));
    let asked = device.said("get").len();
    device.broker.down();
    device.broker.up();
    device.online();
    eventually("it asks again", || (device.said("get").len() > asked).then_some(()));
    get(&device, json!(5));
    serve(&device, &numbered("web", 6, sleeper()));
    eventually("the newer document runs", || device.app("web").filter(|a| a["seq"] == 6 && a["state"] == "running"));
}

#[test]
fn a_malformed_document_is_rejected() {
    check_bad(b"{\"wherry\": 1, \"app\": \"web\"", "rejected", "malformed", "");
}

#[test]
fn an_unknown_field_is_rejected_with_its_path() {
    check_bad_container(json!({"imagee": 1}), "rejected", "unknown_field", "containers.main.imagee");
}

#[test]
fn a_wrong_type_is_rejected_with_its_path() {
    check_bad_container(json!({"args": "x"}), "rejected", "bad_value", "containers.main.args");
}

#[test]
fn an_unsupported_feature_is_rejected_with_its_path() {
    check_bad_container(json!({"sysctl": {"net.ipv4.ip_forward": "1"}}), "rejected", "unsupported", "containers.main.sysctl");
}

#[test]
fn an_image_path_outside_the_import_directories_is_refused_by_policy() {
    check_bad_container(json!({"image": {"ref": "oci:/etc/shadow"}}), "rejected", "policy", "import_dirs");
}

#[test]
fn a_bind_mount_that_no_setting_allows_is_refused_by_policy() {
    check_bad_container(json!({"mounts": [{"type": "bind", "source": "/etc", "target": "/e"}]}), "rejected", "policy", "bind_sources");
}

#[test]
fn a_missing_image_fails_and_the_old_version_runs_on() {
    let path = format!("oci:{}/nothing", harness::image::dir().display());
    check_bad_container(json!({"image": {"ref": path}}), "failed", "image_missing", "nothing");
}

#[test]
fn a_missing_tag_fails_and_the_old_version_runs_on() {
    check_bad_container(json!({"image": {"ref": layout("no-such-tag")}}), "failed", "image_missing", "no-such-tag");
}

#[test]
fn an_oversize_document_is_rejected_once() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let padding = "x".repeat(40 * 1024);
    device.publish_bytes("web", with(manifest("web", sleeper()), json!({"x-padding": padding})).to_string().as_bytes());
    let oversize = || device.said("ack/web").iter().filter(|a| a["reason"] == "oversize").count();
    eventually("rejected for its size", || (oversize() == 1).then_some(()));
    steadily(Duration::from_millis(500), "one answer", || oversize() == 1 && harness::is_alive(pid));
}

#[test]
fn a_program_that_does_not_exist_fails_and_the_old_version_runs_again() {
    let device = Device::new();
    let first = device.publish(&numbered("web", 1, sleeper()));
    device.ack(&first, "running");
    let sha = device.publish(&numbered("web", 2, with(sleeper(), json!({"command": ["/bin/nothing"]}))));
    let ack = device.refused(&sha, "failed", "exec");
    assert_eq!(ack["rolled_back_to"], 1, "{ack}");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("/bin/nothing"), "{ack}");
    device.running("web");
    assert_eq!(device.exec("web", &["sh", "-c", "tr '\\0' ' ' </proc/2/cmdline || tr '\\0' ' ' </proc/1/cmdline"]), "sleep 100000");
}

#[test]
fn a_first_version_that_cannot_start_leaves_nothing() {
    let device = Device::new();
    let sha = device.publish(&manifest("web", with(sleeper(), json!({"command": ["/etc/passwd"]}))));
    let ack = device.refused(&sha, "failed", "exec");
    assert_eq!(ack["rolled_back_to"], Value::Null);
    assert_eq!(device.pid("web"), None);
    eventually("its containers are gone", || device.app("web").is_none_or(|a| a["containers"] == json!([])).then_some(()));
    device.reported("web failed", |r| r["apps"]["web"]["state"] == "failed" && r["apps"]["web"]["reason"] == "exec");
}

#[test]
fn an_unknown_user_fails_with_its_name() {
    let device = Device::new();
    let sha = device.publish(&manifest("web", with(sleeper(), json!({"user": "nobody-here"}))));
    let ack = device.ack(&sha, "failed");
    assert!(ack["detail"]["message"].as_str().unwrap().contains("nobody-here"), "{ack}");
}

#[test]
fn a_device_has_at_most_thirty_two_apps() {
    let device = Device::new();
    for n in 0..32 {
        let once = with(sleeper(), json!({"command": ["/bin/true"], "restart": {"policy": "no"}}));
        device.publish(&manifest(&format!("app-{n}"), once));
    }
    eventually("all are there", || (device.json(&["ls"]).as_array().unwrap().len() == 32).then_some(()));
    let sha = device.publish(&manifest("one-more", sleeper()));
    device.refused(&sha, "rejected", "policy");
    eventually("all have run", || device.json(&["ls"]).as_array().unwrap().iter().all(|a| a["state"] == "running").then_some(()));
}

#[test]
fn a_failed_update_of_one_container_returns_the_whole_app() {
    let device = Device::new();
    device.deploy(&containers("web", json!({"one": sleeper(), "two": sleeper()})));
    let two = device.running("web/two");
    let bad = with(sleeper(), json!({"command": ["/bin/nothing"]}));
    let sha = device.publish(&containers("web", json!({"one": shell("exec sleep 4242"), "two": sleeper(), "three": bad})));
    let ack = device.refused(&sha, "failed", "exec");
    assert!(ack["rolled_back_to"].is_string(), "{ack}");
    device.running("web/one");
    eventually("the third is gone", || device.container("web/three").is_none().then_some(()));
    assert_eq!(device.running("web/two"), two, "what both versions share runs on");
    let argv = device.exec("web/one", &["sh", "-c", "tr '\\0' ' ' </proc/2/cmdline"]);
    assert_eq!(argv, "sleep 100000");
}

/// An image of this device's own, to be damaged.
fn own_layout(device: &Device) -> std::path::PathBuf {
    let own = device.dir.join("layout");
    let copied = std::process::Command::new("cp").arg("-r").arg(harness::image::dir().join("layout")).arg(&own).status().unwrap();
    assert!(copied.success());
    own
}

#[test]
fn a_damaged_layer_is_noticed_and_nothing_of_it_stays() {
    let mut device = Device::prepared(json!({}));
    device.settings["import_dirs"] = json!([device.dir, harness::image::dir()]);
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let layout = own_layout(&device);
    let size = |p: &std::path::PathBuf| fs::metadata(p).unwrap().len();
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path());
    let layer = blobs.max_by_key(size).unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    // The last byte: all of the archive has been unpacked by the time it comes.
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&layer, bytes).unwrap();
    // Another image with the same layer is in the store already: the damaged one must not borrow its good name unread.
    device.ack(&device.publish(&tombstone("web")), "removed");
    assert!(!harness::is_alive(pid));
    eventually("the store is empty", || (fs::read_dir(device.dir.join("data/layers")).unwrap().count() == 0).then_some(()));
    let sha = device.publish(&manifest("bad", with(sleeper(), json!({"image": {"ref": format!("oci:{}:plain", layout.display())}}))));
    let ack = device.ack(&sha, "failed");
    assert!(ack["reason"] == "digest_mismatch" || ack["reason"] == "unpack", "{ack}");
    for dir in ["layers", "images", "staging"] {
        let left: Vec<_> = fs::read_dir(device.dir.join("data").join(dir)).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn an_image_larger_than_the_device_allows_fails_and_leaves_nothing() {
    let device = Device::with(json!({"limits": {"max_image_bytes": "8M"}}));
    let sha = device.publish(&manifest("web", with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
    device.refused(&sha, "failed", "no_space");
    for dir in ["layers", "images", "staging"] {
        assert_eq!(fs::read_dir(device.dir.join("data").join(dir)).unwrap().count(), 0, "{dir}");
    }
}

#[test]
fn a_full_flash_fails_the_deployment_and_what_runs_goes_on() {
    let mut device = Device::prepared(json!({}));
    let data = device.dir.join("data");
    fs::create_dir(&data).unwrap();
    let mount = |options: &str| {
        let done = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "flash"]).arg(&data).status().unwrap();
        assert!(done.success(), "mount {options}");
    };
    mount("size=6m");
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let sha = device.publish(&manifest("big", with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
    device.refused(&sha, "failed", "no_space");
    assert_eq!(device.running("web"), pid);
    // Full to the last byte: not even a document can be recorded.
    eventually("what was half done is gone", || (fs::read_dir(data.join("staging")).unwrap().count() == 0).then_some(()));
    let _ = fs::write(data.join("ballast"), vec![0; 8 << 20]);
    let sha = device.publish(&manifest("web", shell("exec sleep 55")));
    device.refused(&sha, "rejected", "no_space");
    assert_eq!(device.running("web"), pid);
    fs::remove_file(data.join("ballast")).unwrap();
    device.deploy(&manifest("web", shell("exec sleep 56")));
    device.end(Signal::SIGINT);
    nix::mount::umount(&data).unwrap();
}

#[test]
fn a_killed_stage_fails_the_deployment_and_the_next_one_works() {
    let device = Device::new();
    let sha = device.publish(&manifest("web", with(sleeper(), json!({"image": {"ref": harness::slow()}}))));
    device.ack(&sha, "fetching");
    kill(eventually("stage runs", || harness::role_of(device.keeper(), "stage")), Signal::SIGKILL);
    device.refused(&sha, "failed", "internal");
    let staging = device.dir.join("data/staging");
    eventually("staging is empty", || (fs::read_dir(&staging).unwrap().count() == 0).then_some(()));
    device.deploy(&manifest("web", with(shell("exec sleep 77"), json!({"image": {"ref": harness::slow()}}))));
    eventually("staging is empty", || (fs::read_dir(device.dir.join("data/staging")).unwrap().count() == 0).then_some(()));
}

#[test]
fn garbage_on_the_control_socket_is_refused_and_keeper_goes_on() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, send, socket};
    use std::os::fd::AsRawFd;
    let device = Device::new();
    device.applied(&manifest("web", sleeper()));
    let pid = device.running("web");
    let dial = || {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        connect(fd.as_raw_fd(), &UnixAddr::new(&device.dir.join("run/control.sock")).unwrap()).map(|()| fd)
    };
    let hello = wherry::ipc::encode(&wherry::ipc::Request::List).unwrap();
    let mut garbage: Vec<Vec<u8>> =
        vec![vec![0], vec![255; 100], vec![wherry::ipc::VERSION], vec![7; 100_000], [&hello[..], b"x"].concat()];
    // A list that says to be longer than anything.
    garbage.push(vec![wherry::ipc::VERSION, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    for bytes in garbage {
        let fd = dial().unwrap();
        let _ = send(fd.as_raw_fd(), &bytes, nix::sys::socket::MsgFlags::MSG_NOSIGNAL);
    }
    // More connections than keeper takes, and none of them says a word.
    let idle: Vec<_> = (0..80).map_while(|_| dial().ok()).collect();
    assert!(idle.len() >= 64, "{}", idle.len());
    drop(idle);
    eventually("keeper answers again", || (device.wherry(&["ls"]).code == 0).then_some(()));
    assert_eq!(device.running("web"), pid);
}

// ---- restarts ----

#[test]
fn the_restart_policy_decides_what_happens_at_the_end() {
    let device = Device::new();
    let ending = |code: u8, policy: &str| {
        with(shell(&format!("exit {code}")), json!({"restart": {"policy": policy, "delay": "50ms", "max_delay": "50ms"}}))
    };
    let all =
        [("always", 0, true), ("always", 3, true), ("on-failure", 0, false), ("on-failure", 3, true), ("no", 0, false), ("no", 3, false)];
    let map: serde_json::Map<String, Value> = all.iter().map(|(p, c, _)| (format!("{p}-{c}"), ending(*c, p))).collect();
    device.applied(&containers("web", map.into()));
    for (policy, code, restarts) in all {
        let scope = format!("web/{policy}-{code}");
        let found = eventually(&scope, || {
            let c = device.container(&scope)?;
            let done = if restarts { c["restarts"].as_u64()? >= 3 } else { c["state"] == "exited" };
            done.then_some(c)
        });
        assert_eq!(found["last_exit"], json!({"code": code}), "{scope}: {found}");
        assert!(restarts || found["restarts"] == 0, "{scope}: {found}");
    }
}

#[test]
fn delays_between_restarts_grow() {
    let device = Device::new();
    let script = "read up rest </proc/uptime; echo t=$up; exit 1";
    device.applied(&manifest("web", with(shell(script), json!({"restart": {"policy": "always", "delay": "200ms", "max_delay": "10s"}}))));
    let times: Vec<f64> = eventually("five runs", || {
        let said = device.wherry(&["logs", "web"]).out;
        let times: Vec<f64> = said.lines().filter_map(|l| l.strip_prefix("t=")?.parse().ok()).collect();
        (times.len() >= 5).then_some(times)
    });
    let gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
    for (gap, least) in gaps.iter().zip([0.2, 0.4, 0.8, 1.6]) {
        assert!((least - 0.02..least + 1.5).contains(gap), "{gaps:?}");
    }
}

#[test]
fn a_memory_hog_is_killed_counted_and_started_again() {
    let device = Device::new();
    // tail keeps the endless line in memory until the limit ends it. The counter lives as long as the group: the shell outlives its child.
    let script = "echo go; tail -c 100000000 /dev/zero; echo killed; exec sleep 100000";
    let limits = json!({"resources": {"memory": {"max": "16M", "swap": 0}}});
    device.deploy(&manifest("web", with(shell(script), limits)));
    device.says("web", "killed");
    device.stats("one kill", |s| s["containers"]["web/main"]["memory"]["oom_kill"] == 1);
    let limits = json!({"resources": {"memory": {"max": "16M", "swap": 0}}, "restart": {"delay": "100ms", "max_delay": "200ms"}});
    device.deploy(&manifest("hog", with(shell("exec tail -c 100000000 /dev/zero"), limits)));
    let c = eventually("started again", || device.container("hog").filter(|c| c["restarts"].as_u64() >= Some(2)));
    assert_eq!(c["last_exit"], json!({"signal": 9}), "{c}");
}

// ---- by hand ----

#[test]
fn local_and_remote_apps_keep_apart() {
    let device = Device::new();
    device.deploy(&manifest("remote", sleeper()));
    device.applied(&manifest("local", sleeper()));
    let (remote, local) = (device.running("remote"), device.running("local"));
    let outcome = device.apply(&manifest("remote", shell("exec sleep 1")));
    assert!(outcome.code == 77 && outcome.err.contains("belongs to the fleet"), "{outcome:?}");
    let (_, error) = device.fails(&["rm", "remote"]);
    assert!(error.contains("belongs to the fleet"), "{error}");
    let sha = device.publish(&manifest("local", shell("exec sleep 1")));
    device.refused(&sha, "rejected", "policy");
    assert_eq!((device.running("remote"), device.running("local")), (remote, local));
    device.ok(&["rm", "local"]);
    assert_eq!(device.app("local"), None);
    assert!(device.said("ack/local").iter().all(|a| a["state"] == "received" || a["state"] == "rejected"), "local news stay local");
}

#[test]
fn a_stop_by_hand_holds_over_a_restart_of_keeper_until_a_start_by_hand() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    device.ok(&["stop", "web"]);
    device.becomes("web", "exited");
    let overridden = |r: &Value| r["apps"]["web"]["overridden"] == "local" && r["apps"]["web"]["containers"]["main"]["state"] == "exited";
    device.reported("it is overridden", overridden);
    device.end(Signal::SIGINT);
    device.start();
    device.online();
    steadily(Duration::from_secs(1), "it stays stopped", || device.pid("web").is_none());
    assert_eq!(device.app("web").unwrap()["overridden"], true);
    device.ok(&["start", "web"]);
    device.running("web");
    device.reported("no longer overridden", |r| r["apps"]["web"]["overridden"].is_null());
}

#[test]
fn the_next_document_lifts_a_stop_by_hand() {
    let device = Device::new();
    device.deploy(&numbered("web", 1, sleeper()));
    device.ok(&["stop", "web"]);
    device.deploy(&numbered("web", 2, sleeper()));
    device.running("web");
    assert_eq!(device.app("web").unwrap()["overridden"], false);
}

#[test]
fn the_next_document_lifts_a_stop_by_hand_also_when_its_image_cannot_be_had() {
    let device = Device::new();
    device.deploy(&numbered("web", 1, sleeper()));
    device.ok(&["stop", "web"]);
    let bad = device.publish(&numbered("web", 2, with(sleeper(), json!({"image": {"ref": layout("no-such-tag")}}))));
    assert_eq!(device.refused(&bad, "failed", "image_missing")["rolled_back_to"], 1);
    device.running("web");
}

#[test]
fn restart_by_hand_gives_a_new_process() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    device.ok(&["restart", "web"]);
    assert_ne!(device.running("web"), pid);
    assert!(!harness::is_alive(pid));
}

#[test]
fn a_program_that_ignores_the_stop_signal_is_killed_when_patience_ends() {
    let device = Device::new();
    let script = "trap '' TERM; echo ready; while true; do sleep 0.1; done";
    device.deploy(&manifest("web", with(shell(script), json!({"stop": {"timeout": "1s"}}))));
    device.says("web", "ready");
    let start = std::time::Instant::now();
    device.ok(&["stop", "web"]);
    let took = start.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(6)).contains(&took), "{took:?}");
    assert_eq!(device.becomes("web", "exited")["last_exit"], json!({"signal": 9}));
    assert_eq!(device.tasks("web"), [0i32; 0]);
}

// ---- output ----

#[test]
fn a_ring_that_drops_keeps_the_last_bytes() {
    let device = Device::new();
    let script = "seq 1 20000; echo end; exec sleep 100000";
    device.deploy(&manifest("web", with(shell(script), json!({"log": {"ring": "4K", "full": "drop"}}))));
    let said = device.says("web", "end");
    assert!((4091..=4096).contains(&said.len()), "{}", said.len());
    let expected: String =
        (1..=20000).rev().take(said.lines().count() - 1).collect::<Vec<_>>().iter().rev().map(|n| format!("{n}\n")).collect();
    assert_eq!(said, expected + "end\n", "it begins with a whole line");
    assert_eq!(device.ok(&["logs", "-n", "2", "web"]), "20000\nend\n");
}

#[test]
fn a_ring_that_blocks_makes_the_writer_wait_for_a_reader() {
    let device = Device::new();
    // 200 KB: more than ring and pipe hold together.
    let script = "i=0; while [ $i -lt 50 ]; do printf '%4096s' $i; i=$((i+1)); echo $i >/tmp/progress; done; echo end; exec sleep 100000";
    device.deploy(&manifest("web", with(shell(script), json!({"log": {"ring": "16K", "full": "block"}}))));
    let progress = || device.exec("web", &["cat", "/tmp/progress"]).parse::<u32>().unwrap_or(0);
    eventually("the writer waits", || {
        let before = progress();
        std::thread::sleep(Duration::from_millis(300));
        (before > 0 && progress() == before).then_some(())
    });
    assert!(progress() < 30, "{}", progress());
    let all = device.command(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut all = Follower(all);
    let said = all.until("end\n");
    assert_eq!(said.len(), 50 * 4096 + 4, "nothing is lost");
}

/// `wherry logs -f`, killed at the end.
struct Follower(std::process::Child);

impl Follower {
    fn until(&mut self, text: &str) -> String {
        let (mut said, mut buf) = (Vec::new(), [0; 4096]);
        let out = self.0.stdout.as_mut().unwrap();
        while !said.ends_with(text.as_bytes()) {
            let n = out.read(&mut buf).unwrap();
            assert!(n > 0, "the output ends without {text:?}: {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&buf[..n]);
        }
        String::from_utf8(said).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn following_shows_what_comes_and_ends_with_the_container() {
    let device = Device::new();
    let script = "echo one; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo two";
    device.deploy(&manifest("web", with(shell(script), json!({"restart": {"policy": "no"}}))));
    let mut follower = Follower(device.command(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap());
    follower.until("one\n");
    device.let_go("web", "/tmp/go");
    follower.until("two\n");
    let ended = within(harness::PATIENCE, || follower.0.try_wait().unwrap()).expect("it ends with the container");
    assert!(ended.success());
}

// ---- exec and run ----

#[test]
fn exec_passes_code_signal_streams_environment_user_and_directory() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let sh = |options: &[&str], script: &str| device.wherry(&[&["exec"], options, &["web", "sh", "-c", script]].concat());
    let outcome = sh(&[], "echo out; echo err >&2; exit 7");
    assert_eq!((outcome.code, outcome.out.as_str(), outcome.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(sh(&[], "kill -9 $$").code, 137);
    let set = sh(&["-u", "app", "-w", "/tmp", "-e", "A=b c"], "id -u; id -G; pwd; echo $A");
    assert_eq!(set.out, "1234\n1235 1236\n/tmp\nb c\n");
    assert_eq!(sh(&["-u", "4321:8765"], "id -u; id -g").out, "4321\n8765\n");
    let missing = device.wherry(&["exec", "web", "/bin/nothing"]);
    assert!(missing.code != 0 && missing.err.contains("/bin/nothing"), "{missing:?}");
    let (_, error) = device.fails(&["exec", "nobody", "true"]);
    assert!(error.contains("there is no app nobody"), "{error}");
}

#[test]
fn exec_reads_standard_input() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let mut child =
        device.command(&["exec", "-i", "web", "tr", "a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), "HELLO\n");
}

#[test]
fn exec_runs_with_the_confinement_of_its_container() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let pid = device.running("web");
    let status = device.exec("web", &["cat", "/proc/self/status"]);
    let field = |text: &str, name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
    // The payload, not our own init before it.
    let payload = device.tasks("web").into_iter().find(|p| *p != pid).unwrap_or(pid);
    let inside = fs::read_to_string(format!("/proc/{payload}/status")).unwrap();
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"] {
        assert_eq!(field(&status, name), field(&inside, name), "{name}");
    }
    assert_eq!(field(&status, "CapBnd:").unwrap(), "00000000a80425fb");
    assert_eq!((field(&status, "NoNewPrivs:").unwrap().as_str(), field(&status, "Seccomp:").unwrap().as_str()), ("1", "2"));
}

#[test]
fn exec_with_a_terminal_gives_one() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let line = format!(
        "{} --socket {}/run/control.sock exec -t web sh -c 'tty; stty size; exit 5'",
        device.program.display(),
        device.dir.display()
    );
    let out = std::process::Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("/dev/pts/") || said.contains("/dev/console"), "{said}");
    assert_eq!(out.status.code(), Some(5), "{said}");
}

#[test]
fn run_prints_the_output_passes_the_code_and_leaves_nothing() {
    let device = Device::new();
    let image = layout("plain");
    let outcome = device.wherry(&["run", "--rm", "-e", "A=1", "-m", "16M", &image, "sh", "-c", "echo a=$A; echo err >&2; exit 9"]);
    assert_eq!(outcome.code, 9, "{outcome:?}");
    assert!(outcome.out.contains("a=1\n") && outcome.out.contains("err\n"), "{outcome:?}");
    assert_eq!(device.json(&["ls"]), json!([]));
    let killed = device.wherry(&["run", "--rm", &image, "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137, "{killed:?}");
    let missing = device.wherry(&["run", "--rm", &image, "/bin/nothing"]);
    assert!(missing.code == 127 && missing.err.contains("/bin/nothing"), "{missing:?}");
    let no_image = device.wherry(&["run", "--rm", "/nowhere/image", "sh"]);
    assert!(no_image.code == 125, "{no_image:?}");
    assert_eq!(device.json(&["ls"]), json!([]));
    eventually("its images are gone", || (fs::read_dir(device.dir.join("data/layers")).unwrap().count() == 0).then_some(()));
}

#[test]
fn a_run_interrupted_by_its_user_stops_and_removes() {
    let device = Device::new();
    let image = layout("plain");
    let mut command = device.command(&["run", "--rm", "--name", "job", &image, "sh", "-c", "echo ready; exec sleep 100000"]);
    let mut run = Follower(command.stdout(Stdio::piped()).process_group(0).spawn().unwrap());
    run.until("ready\n");
    kill(run.0.id() as i32, Signal::SIGINT);
    let ended = within(harness::PATIENCE, || run.0.try_wait().unwrap()).expect("it ends");
    assert!(!ended.success());
    eventually("the app is gone", || device.app("job").is_none().then_some(()));
}

// ---- what is shown ----

#[test]
fn listing_info_and_statistics_agree_with_each_other_and_the_broker() {
    let device = Device::new();
    let sha = device.publish(&numbered("web", 3, sleeper()));
    device.ack(&sha, "running");
    let pid = device.running("web");
    let app = device.app("web").unwrap();
    assert_eq!((&app["origin"], &app["seq"], &app["sha256"]), (&json!("device"), &json!(3), &json!(sha)), "{app}");
    let info = device.json(&["info", "web"]);
    assert_eq!((&info["state"], &info["containers"]["main"]["pid"]), (&json!("running"), &json!(pid)));
    assert_eq!(info["document"]["app"], "web");
    assert_eq!(device.json(&["info", "web/main"])["pid"], pid);
    assert!(device.ok(&["info", "web"]).contains("running"));
    let stats = device.json(&["stats"]);
    assert!(stats.to_string().contains("web"), "{stats}");
    let status = device.json(&["status"]);
    assert_eq!((&status["device"], &status["boot"], &status["apps"]["running"]), (&json!(device.id), &json!(1), &json!(1)));
    assert_eq!(status["pid"], device.keeper());
    assert_eq!(status["agent"]["pid"], device.agent());
    let presence = device.said("presence").pop().unwrap();
    assert_eq!((&presence["state"], &presence["boot"], &presence["conn"]), (&json!("online"), &json!(1), &json!(1)));
    let (code, error) = device.fails(&["info", "nobody"]);
    assert!(code != 0 && error.contains("there is no app nobody"), "{error}");
    let version = device.json(&["version"]);
    assert_eq!(version["keeper"]["pid"], device.keeper());
}

/// Freezes a container, so that its figures stay, for as long as this lives.
struct Frozen(Vec<i32>);

impl Frozen {
    fn new(device: &Device, scope: &str) -> Self {
        let tasks = device.tasks(scope);
        for pid in &tasks {
            kill(*pid, Signal::SIGSTOP);
        }
        Self(tasks)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGCONT);
        }
    }
}

#[test]
fn statistics_equal_the_kernels_files_once_the_container_is_frozen() {
    let device = Device::new();
    let script = "dd if=/dev/zero of=/tmp/f bs=1M count=5 2>/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 100000";
    device.deploy(&manifest("web", with(shell(script), json!({"resources": {"memory": {"max": "64M"}, "pids": {"max": 9}}}))));
    device.says("web", "done");
    let _frozen = Frozen::new(&device, "web");
    let number = |names: &[&str]| device.control_file("web", names).parse::<u64>().unwrap();
    let stat = device.stats("two equal rounds", |s| s["containers"]["web/main"]["memory"]["current"].as_u64() > Some(5 << 20));
    let stat = device.stats("after the freeze", |s| s["uptime_s"].as_u64() > stat["uptime_s"].as_u64());
    let c = &stat["containers"]["web/main"];
    assert_eq!(c["memory"]["current"], number(&["memory.current", "memory.usage_in_bytes"]), "{c}");
    assert_eq!(c["memory"]["max"], 64 << 20);
    assert_eq!(c["pids"]["current"], number(&["pids.current"]));
    let ns = device.control_file("web", &["cpuacct.usage", "cpu.stat"]);
    let usage =
        ns.parse::<u64>().map(|ns| ns / 1000).unwrap_or_else(|_| ns.lines().next().unwrap().rsplit_once(' ').unwrap().1.parse().unwrap());
    assert_eq!(c["cpu"]["usage_us"], usage);
    assert_eq!(c["net"]["rx"], 0);
    for (figure, value) in [("io.read", &c["io"]["read"]), ("psi", &c["psi"])] {
        assert!(!value.is_null() || !stat["absent"].as_object().unwrap().is_empty(), "{figure} is null without a reason: {stat}");
    }
    assert!(stat["device"]["mem_available"].as_u64() > Some(1 << 20) && stat["device"]["agent_pss"].as_u64() > Some(1 << 16), "{stat}");
}

#[test]
fn status_says_why_the_link_is_down() {
    let mut device = Device::prepared(json!({}));
    device.start();
    let status = eventually("refused", || {
        let s = device.json(&["status"]);
        s["link"]["error"].as_str().is_some_and(|e| e.to_lowercase().contains("refused")).then_some(s)
    });
    assert!(status["cause"].as_str().unwrap().contains("nobody listens"), "{status}");
    assert!(status["next"].is_string());
    // What was decided meanwhile is told once there is somebody to hear it.
    device.broker.up();
    device.online();
    device.reported("it is there", |r| r["wherry"] == 1);
}

#[test]
fn status_says_that_the_login_is_refused() {
    let mut device = Device::prepared_with_login(json!({}), Some(("router", "right")));
    let port = device.broker.port;
    device.settings["brokers"] = json!([{"host": "127.0.0.1", "port": port, "username": "router", "password": "wrong"}]);
    device.broker.up();
    device.start();
    let status = eventually("refused", || {
        let s = device.json(&["status"]);
        s["cause"].as_str().is_some_and(|e| e.contains("refuses the login")).then_some(s)
    });
    assert!(!status.to_string().contains("wrong"), "{status}");
    device.end(Signal::SIGINT);
    device.settings["brokers"][0]["password"] = "right".into();
    device.start();
    device.online();
}

// ---- what a container gets ----

#[test]
fn an_allowed_directory_is_mounted_and_a_read_only_one_cannot_be_written() {
    let mut device = Device::prepared(json!({}));
    let share = device.dir.join("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("hello"), "from the device").unwrap();
    device.settings["bind_sources"] = json!([share]);
    device.broker.up();
    device.start();
    let mounts = json!({"mounts": [
        {"type": "bind", "source": share, "target": "/rw"}, {"type": "bind", "source": share, "target": "/ro", "readonly": true},
        {"type": "tmpfs", "target": "/small", "size": "1M"},
    ]});
    device.online();
    device.deploy(&manifest("web", with(sleeper(), mounts)));
    assert_eq!(device.exec("web", &["cat", "/ro/hello"]), "from the device");
    device.exec("web", &["sh", "-c", "echo inside >/rw/answer"]);
    assert_eq!(fs::read_to_string(share.join("answer")).unwrap(), "inside\n");
    let (_, error) = device.fails(&["exec", "web", "touch", "/ro/x"]);
    assert!(error.contains("Read-only file system"), "{error}");
    let (_, error) = device.fails(&["exec", "web", "dd", "if=/dev/zero", "of=/small/f", "bs=64k", "count=32"]);
    assert!(error.contains("No space left on device"), "{error}");
}

/// Links in an allowed directory, as a container that may write there can make them.
#[test]
fn a_link_out_of_an_allowed_directory_is_refused_to_the_network_and_followed_locally() {
    let mut device = Device::prepared(json!({}));
    let (share, secret, images) = (device.dir.join("share"), device.dir.join("secret"), own_layout(&device));
    fs::create_dir(&share).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("hello"), "hidden").unwrap();
    std::os::unix::fs::symlink(&secret, share.join("out")).unwrap();
    let import = device.dir.join("import");
    fs::create_dir(&import).unwrap();
    std::os::unix::fs::symlink(&images, import.join("images")).unwrap();
    device.settings["bind_sources"] = json!([share]);
    device.settings["import_dirs"] = json!([import, harness::image::dir()]);
    device.broker.up();
    device.start();
    device.online();
    let image = with(sleeper(), json!({"image": {"ref": format!("oci:{}/images:plain", import.display())}}));
    let bind = with(sleeper(), json!({"mounts": [{"type": "bind", "source": share.join("out"), "target": "/out"}]}));
    for (container, setting, allowed, real) in [(&image, "import_dirs", &import, &images), (&bind, "bind_sources", &share, &secret)] {
        let ack = device.refused(&device.publish(&manifest("remote", container.clone())), "failed", "policy").to_string();
        for part in [setting, allowed.to_str().unwrap(), real.to_str().unwrap()] {
            assert!(ack.contains(part), "{part}: {ack}");
        }
        assert_eq!(device.pid("remote/main"), None);
        device.applied(&manifest("local", container.clone()));
    }
    assert_eq!(device.exec("local", &["cat", "/out/hello"]), "hidden");
}

#[test]
fn a_read_only_root_cannot_be_written() {
    let device = Device::new();
    device.deploy(&manifest("web", with(sleeper(), json!({"rootfs": {"readonly": true}}))));
    let (_, error) = device.fails(&["exec", "web", "touch", "/x"]);
    assert!(error.contains("Read-only file system"), "{error}");
}

#[test]
fn what_is_written_is_bounded_and_gone_after_a_restart() {
    let device = Device::new();
    device.deploy(&manifest("web", with(sleeper(), json!({"rootfs": {"upper": "1M"}}))));
    let (_, error) = device.fails(&["exec", "web", "dd", "if=/dev/zero", "of=/f", "bs=64k", "count=32"]);
    assert!(error.contains("No space left on device"), "{error}");
    device.ok(&["restart", "web"]);
    device.fails(&["exec", "web", "ls", "/f"]);
}

#[test]
fn the_hosts_mounts_stay_as_they_are_while_containers_run() {
    let device = Device::new();
    device.deploy(&manifest("web", with(sleeper(), json!({"mounts": [{"type": "tmpfs", "target": "/t", "size": "1M"}]}))));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours: Vec<&str> = mounts.lines().filter(|l| l.contains(device.dir.to_str().unwrap())).collect();
    assert_eq!(ours.len(), 1, "keeper's one tmpfs: {ours:?}");
}

// ---- thrift ----

/// Every file below a directory with its size and time of change.
fn listing(dir: &std::path::Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let m = entry.metadata().unwrap();
        found.push(format!("{} {} {}.{}", entry.path().display(), m.len(), m.mtime(), m.mtime_nsec()));
        if m.is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn nothing_is_written_to_flash_while_nothing_changes() {
    let device = Device::new();
    let m = numbered("web", 1, shell("while true; do echo busy; sleep 0.1; done"));
    let sha = device.publish(&m);
    device.ack(&sha, "running");
    eventually("the store is cleaned", || harness::role_of(device.keeper(), "stage").is_none().then_some(()));
    let data = device.dir.join("data");
    let before = listing(&data);
    // Statistics, output, a repeated document, a new agent and a crash of the container are no reason to write.
    device.publish(&m);
    kill(device.agent(), Signal::SIGKILL);
    let pid = device.running("web");
    kill(pid, Signal::SIGKILL);
    eventually("it runs again", || device.pid("web").filter(|p| *p != pid));
    device.online();
    device.stats("go on", |_| true);
    assert_eq!(listing(&data), before);
}

/// Clock ticks (10 ms) of CPU time that a process has used: fields 14 and 15 of proc_pid_stat(5).
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn keeper_and_agent_sleep_while_nothing_happens() {
    const MOST: u64 = 10;
    let device = Device::with(json!({"interval_s": 60}));
    let idle = |state: &str| {
        eventually("stage is done", || harness::role_of(device.keeper(), "stage").is_none().then_some(()));
        let (keeper, agent) = (device.keeper(), device.agent());
        let before = (ticks(keeper), ticks(agent));
        std::thread::sleep(Duration::from_millis(1500));
        let used = (ticks(keeper) - before.0, ticks(agent) - before.1);
        assert!(used.0 <= MOST && used.1 <= MOST, "{state}: keeper {} ticks, agent {} ticks of 150", used.0, used.1);
    };
    idle("no app");
    let full = with(shell("yes"), json!({"log": {"ring": "4K", "full": "block"}, "resources": {"pids": {"max": 10}}}));
    device.deploy(&containers(
        "web",
        json!({"main": sleeper(), "full": full, "once": with(shell("exit 3"), json!({"restart": {"policy": "no"}}))}),
    ));
    let silent = with(shell("exec sleep 1000 >/dev/null 2>&1"), json!({"init": false}));
    device.deploy(&manifest("silent", silent));
    idle("one sleeps, one waits for a reader of its output, one has ended");
    let mut follower = Follower(device.command(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap());
    let exec = Follower(device.command(&["exec", "web/main", "sleep", "1000"]).stdout(Stdio::piped()).spawn().unwrap());
    eventually("exec runs", || (device.tasks("web").len() == 3).then_some(()));
    idle("somebody follows, a program was exec'd");
    kill(follower.0.id() as i32, Signal::SIGKILL);
    let _ = follower.0.wait();
    drop(exec);
    idle("both have gone");
    device.ok(&["stop", "web/main"]);
    idle("one is stopped by hand");
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    use std::os::fd::AsFd;
    let device = Device::new();
    let count = || fs::read_dir(format!("/proc/{}/fd", device.keeper())).unwrap().count();
    let before = eventually("all is quiet", || harness::role_of(device.keeper(), "stage").is_none().then(&count));
    let (null, frame) = (fs::File::open("/dev/null").unwrap(), wherry::ipc::encode(&wherry::ipc::Request::List).unwrap());
    for _ in 0..10 {
        let path = nix::sys::socket::UnixAddr::new(&device.dir.join("run/control.sock")).unwrap();
        let kind = nix::sys::socket::SockType::SeqPacket;
        let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
        let socket = nix::sys::socket::socket(nix::sys::socket::AddressFamily::Unix, kind, flags, None).unwrap();
        nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &path).unwrap();
        wherry::sys::socket::send(&socket, &frame, &[null.as_fd(); 20]).unwrap();
    }
    eventually(&format!("{before} descriptors again"), || (count() <= before).then_some(()));
}

#[test]
fn exec_clients_killed_at_any_moment_leave_a_container_that_can_be_removed() {
    let device = Device::new();
    device.applied(&manifest("web", sleeper()));
    let pid = device.running("web");
    for n in 0..60 {
        let mut exec = device.command(&["exec", "web", "true"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(n * 300));
        kill(exec.id() as i32, Signal::SIGKILL);
        let _ = exec.wait();
    }
    let zombies = || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", device.keeper())).unwrap();
        children.split_ascii_whitespace().filter(|p| !harness::is_alive(p.parse().unwrap())).count()
    };
    eventually("no zombie", || (zombies() == 0).then_some(()));
    assert_eq!(device.running("web"), pid);
    device.ok(&["rm", "web"]);
    assert_eq!(device.app("web"), None);
}

#[test]
fn a_document_that_comes_again_while_its_app_is_being_removed_runs() {
    let device = Device::new();
    let stubborn = with(shell("trap '' TERM; echo ready; while true; do sleep 0.1; done"), json!({"stop": {"timeout": "1s"}}));
    device.deploy(&numbered("web", 1, stubborn.clone()));
    device.says("web", "ready");
    let old = device.running("web");
    let gone = device.publish(&json!({"wherry": 1, "app": "web", "seq": 2, "remove": true}));
    device.ack(&gone, "accepted");
    let again = device.publish(&numbered("web", 3, stubborn));
    device.ack(&again, "running");
    assert_eq!(device.states(&gone).last().map(String::as_str), Some("superseded"));
    assert_ne!(device.running("web"), old, "`running` was said of what runs");
}

#[test]
fn a_container_held_by_hand_over_a_restart_can_still_be_replaced_and_removed() {
    let mut device = Device::new();
    device.applied(&manifest("web", sleeper()));
    device.ok(&["stop", "web"]);
    device.end(Signal::SIGINT);
    device.start();
    device.becomes("web", "waiting");
    device.applied(&manifest("web", shell("exec sleep 2000")));
    device.running("web");
    device.ok(&["stop", "web"]);
    device.end(Signal::SIGINT);
    device.start();
    device.ok(&["rm", "web"]);
    assert_eq!(device.app("web"), None);
}

#[test]
fn a_container_whose_limit_could_not_be_set_is_still_restarted_and_updated() {
    let device = Device::new();
    let limits = |resources: Value| with(sleeper(), json!({"resources": resources, "restart": {"delay": "100ms"}}));
    device.deploy(&numbered("web", 1, limits(json!({"memory": {"max": "32M"}}))));
    let refused = device.publish(&numbered("web", 2, limits(json!({"memory": {"max": "32M", "high": "16M"}, "required": true}))));
    // cgroup v1 has no memory.high.
    let v1 = wherry::cgroup::Layout::detect().unwrap().kind() != wherry::cgroup::Kind::V2;
    device.ack(&refused, if v1 { "failed" } else { "running" });
    let pid = device.running("web");
    kill(pid, Signal::SIGKILL);
    eventually("a new one", || device.pid("web").filter(|p| *p != pid));
    device.deploy(&numbered("web", 3, limits(json!({"memory": {"max": "48M"}}))));
}

#[test]
fn keeper_keeps_no_descriptor_and_no_zombie_of_what_is_over() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let count = || fs::read_dir(format!("/proc/{}/fd", device.keeper())).unwrap().count();
    let round = |n: u32| {
        device.deploy(&manifest("web", shell(&format!("echo ready; exec sleep 1000{n}"))));
        device.says("web", "ready");
        device.exec("web", &["true"]);
        device.wherry(&["exec", "web", "/bin/nothing"]);
        let mut follower = Follower(device.command(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap());
        follower.until("ready\n");
        device.wherry(&["run", "--rm", &layout("plain"), "true"]);
        let sha = device.publish(&manifest("bad", with(sleeper(), json!({"command": ["/bin/nothing"], "args": [n.to_string()]}))));
        device.ack(&sha, "failed");
    };
    round(0);
    let before = eventually("all is quiet", || harness::role_of(device.keeper(), "stage").is_none().then(&count));
    for n in 1..6 {
        round(n);
    }
    eventually(&format!("{before} descriptors again"), || (count() <= before).then_some(()));
    let zombies = || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", device.keeper())).unwrap();
        let dead = children.split_ascii_whitespace().filter(|p| !harness::is_alive(p.parse().unwrap()));
        dead.map(|p| fs::read_to_string(format!("/proc/{p}/comm")).unwrap_or_default()).collect::<Vec<_>>()
    };
    let clean = within(Duration::from_secs(5), || zombies().is_empty().then_some(()));
    assert!(clean.is_some(), "zombies: {:?}", zombies());
}

// ---- who may ask ----

#[test]
fn a_stranger_may_not_connect() {
    let mut device = Device::new();
    // The build directory may be closed to others; the program itself is not.
    let copy = device.dir.join("wherry");
    fs::copy(&device.program, &copy).unwrap();
    device.program = copy;
    let outcome: harness::device::Outcome = device.command(&["ls"]).uid(65534).gid(65534).output().unwrap().into();
    assert_eq!(outcome.code, 77, "{outcome:?}");
    assert!(outcome.err.contains("Permission denied"), "{outcome:?}");
}

#[test]
fn a_stranger_sees_nothing_of_images_containers_and_records() {
    let device = Device::new();
    device.applied(&manifest("web", sleeper()));
    device.running("web");
    // In the runtime directory everybody may see where to connect to; the socket's own mode says who can.
    for (dir, below) in [("data", "1"), ("run", "2")] {
        let dir = device.dir.join(dir);
        let find = |uid| {
            let out = std::process::Command::new("find").arg(&dir).args(["-mindepth", below]).uid(uid).gid(uid).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        assert_eq!(find(65534), "", "{}", dir.display());
        assert_ne!(find(0), "", "there is something to see in {}", dir.display());
    }
}

/// Through a name in the abstract name space, whoever shares the device's network, also from a container, could speak to us.
#[test]
fn no_process_of_ours_has_an_abstract_socket() {
    let device = Device::new();
    device.applied(&manifest("web", with(sleeper(), json!({"network": {"mode": "host"}}))));
    device.running("web");
    let sockets: Vec<String> = device
        .processes()
        .iter()
        .flat_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap())
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    // Columns of /proc/net/unix: the seventh is the inode, the eighth the name, abstract ones with `@`.
    let ours = |line: &&str| line.split_whitespace().nth(6).is_some_and(|inode| sockets.iter().any(|s| s == inode));
    let names: Vec<&str> = table.lines().filter(ours).filter_map(|l| l.split_whitespace().nth(7)).collect();
    assert!(names.iter().any(|n| n.ends_with("/control.sock")), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with('@')), "{names:?}");
}

#[test]
fn a_container_that_gets_our_program_to_run_cannot_change_it() {
    let device = Device::new();
    device.applied(&manifest("web", sleeper()));
    device.running("web");
    // The name leads to the program of whoever joins the container; it waits for its input, so it can be looked at.
    let mut trapped = device.command(&["exec", "-i", "web", "/proc/self/exe", "validate", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let attack = "for i in $(seq 100); do for p in /proc/[0-9]*; do [ \"$(readlink $p/exe)\" = '/memfd:wherry (deleted)' ] && exe=$p/exe; done; \
            [ \"$exe\" ] && break; sleep 0.1; done
        exec 3<$exe || exit; head -c 4 <&3 | tail -c 3; echo
        chmod 0 $exe 2>/dev/null; (echo x > $exe) 2>/dev/null && echo written; kill -9 ${exe//[!0-9]/}
        sleep 0.2; (echo x > /proc/self/fd/3) 2>/dev/null && echo written later; chmod 0 /proc/self/fd/3 2>/dev/null; stat -Lc %a /proc/self/fd/3";
    assert_eq!(device.exec("web", &["sh", "-c", attack]), "ELF\n777");
    let _ = trapped.wait();
    assert_eq!(device.exec("web", &["echo", "roles still start"]), "roles still start");
    // While it runs, the kernel lets nobody open it for writing; the seals hold afterwards too.
    let exe = fs::File::open(format!("/proc/{}/exe", device.keeper())).unwrap();
    let seals = nix::fcntl::fcntl(&exe, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap();
    let all = nix::libc::F_SEAL_SEAL | nix::libc::F_SEAL_SHRINK | nix::libc::F_SEAL_GROW | nix::libc::F_SEAL_WRITE;
    assert_eq!(seals & all, all, "{seals:x}");
}

#[test]
fn the_agent_runs_as_nobody_in_particular() {
    let device = Device::new();
    let status = fs::read_to_string(format!("/proc/{}/status", device.agent())).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(field("Uid:").starts_with("65501"), "{status}");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapBnd:"), "0000000000000000");
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
}

#[test]
fn a_keeper_that_cannot_start_says_why_in_one_error() {
    let device = Device::prepared(json!({}));
    let check = |settings: &str, root: bool, contains: &str| {
        let mut command = std::process::Command::new(&device.program);
        command.arg("keeper").arg("--config").arg(settings);
        let copy = device.dir.join("wherry");
        if !root {
            fs::copy(&device.program, &copy).unwrap();
            command = std::process::Command::new(&copy);
            command.arg("keeper").arg("--config").arg(settings).uid(65534).gid(65534);
        }
        let outcome: harness::device::Outcome = command.output().unwrap().into();
        assert!(outcome.code != 0 && outcome.err.contains(contains), "{outcome:?} lacks {contains:?}");
        assert_eq!(outcome.err.matches("wherry: ").count(), 1, "{outcome:?}");
    };
    check("/nowhere/settings.json", true, "cannot read settings /nowhere/settings.json");
    check(&device.file("bad.json", "{\"devise\": 1}"), true, "devise");
    check(&device.file("good.json", device.settings.to_string()), false, "must be root");
    let file = device.file("file", "");
    let settings = with(device.settings.clone(), json!({"data_dir": format!("{file}/data")}));
    check(&device.file("no-dir.json", settings.to_string()), true, &file);
}

#[test]
fn a_second_keeper_in_the_same_directory_is_refused() {
    let device = Device::new();
    let mut second = std::process::Command::new(&device.program);
    let out = second.arg("keeper").arg("--config").arg(device.dir.join("settings.json")).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("another keeper"), "{out:?}");
    device.ok(&["ls"]);
}
