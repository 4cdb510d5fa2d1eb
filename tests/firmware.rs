//! Firmware that changes below the desired state: what sysupgrade keeps is enough, and an older Wherry finds its way with a newer one's records.
//!
//! Needs what `keeper.rs` needs.

mod harness;

use harness::server::{self, Server};
use harness::{Device, Value, eventually, json, manifest, numbered, sleeper, with};
use std::fs;
use std::path::{Path, PathBuf};
use wherry::image::Digest;
use wherry::keeper::store::Crc;

/// Where OpenWrt has the data directory.
const DATA: &str = "/overlay/wherry/";

/// A server with one image, and a container of it.
fn from_network() -> (Server, Value) {
    let file = fs::read(harness::image::rootfs()).unwrap();
    let digest = Digest::of(&file).to_string();
    let server = Server::plain(move |asked, line| server::serve(&file, asked, line));
    let image = json!({"ref": server.url("http", "/image.tar.gz"), "type": "rootfs", "digest": digest});
    (server, with(sleeper(), json!({"image": image})))
}

/// What the package's list keeps of the data directory, relative to it.
fn kept() -> Vec<String> {
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/openwrt/wherry/files/wherry.keep")).unwrap();
    list.lines().filter_map(|line| line.strip_prefix(DATA)).map(str::to_owned).collect()
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else if from.exists() {
        fs::copy(from, to).unwrap();
    }
}

/// Power off, a new firmware with an empty overlay, and on it what was kept.
fn upgrade(device: &mut Device, kept: &[String]) {
    device.power_off();
    let (data, old) = (device.dir.join("data"), device.dir.join("old"));
    fs::rename(&data, &old).unwrap();
    fs::create_dir(&data).unwrap();
    for name in kept {
        copy(&old.join(name), &data.join(name));
    }
    assert!(!data.join("images").exists(), "images are too large to be kept");
}

fn state(device: &Device, app: &str) -> Value {
    device.app(app).map_or(Value::Null, |a| a["state"].clone())
}

#[test]
fn with_what_sysupgrade_keeps_the_apps_come_back_without_a_broker() {
    let (server, container) = from_network();
    let mut device = Device::new();
    let good = device.publish(&numbered("web", 1, container.clone()));
    device.ack(&good, "running");
    let bad = device.publish(&numbered("web", 2, with(container.clone(), json!({"command": ["/bin/nothing"]}))));
    device.ack(&bad, "failed");
    let two = json!({"a": with(container.clone(), json!({"after": ["b"]})), "b": container});
    let pair = device.publish(&json!({"wherry": 1, "app": "pair", "seq": 1, "containers": two}));
    device.ack(&pair, "running");
    device.broker.down();
    upgrade(&mut device, &kept());
    let asked = server.asked().len();
    device.start();
    device.running("web");
    device.running("pair/a");
    device.running("pair/b");
    assert!(server.asked().len() > asked, "the images came again");
    let app = device.app("web").unwrap();
    assert_eq!(
        (&app["seq"], &app["state"]),
        (&json!(2), &json!("failed")),
        "the kept version runs, the failed one is not tried again: {app}"
    );
    assert_eq!(device.json(&["status"])["boot"], 2);
    let since = |container: &str| device.container(container).unwrap()["uptime_s"].as_u64().unwrap();
    assert!(since("pair/b") >= since("pair/a"), "in their order");
    device.broker.up();
    device.online();
    eventually("the broker's copy is known", || (state(&device, "web") == "failed" && state(&device, "pair") == "running").then_some(()));
}

#[test]
fn a_document_that_was_lost_with_the_flash_is_taken_from_the_broker_again() {
    let (_server, container) = from_network();
    let mut device = Device::new();
    let document = numbered("web", 7, container);
    let sha = device.publish(&document);
    device.ack(&sha, "running");
    device.broker.down();
    upgrade(&mut device, &["state.a".to_owned(), "state.b".to_owned()]);
    device.start();
    eventually("what is missing is said", || device.log().contains("cannot bring web back").then_some(()));
    assert!(device.pid("web").is_none(), "nothing is known to run");
    // This broker forgets what it retained.
    device.broker.up();
    device.publish(&document);
    device.running("web");
    assert_eq!((device.app("web").unwrap()["seq"].clone(), state(&device, "web")), (json!(7), json!("running")));
    // Taken again, it is there for the next start too.
    device.power_off();
    device.broker.down();
    device.start();
    device.running("web");
}

// ---- records of another release ----

/// Rewrites both records, header and checksum as every version has them.
fn rewrite(device: &Device, version: u8, more: &[u8]) {
    const HEADER: usize = 21;
    for path in records(device) {
        let old = fs::read(&path).unwrap();
        let body = [&old[HEADER..], more].concat();
        let mut out = [b"WHRY", &[version][..], &old[5..13], &(body.len() as u32).to_le_bytes()].concat();
        let mut crc = Crc::new();
        crc.add(&out);
        crc.add(&body);
        out.extend(crc.value().to_le_bytes());
        fs::write(&path, [out, body].concat()).unwrap();
    }
}

fn records(device: &Device) -> Vec<PathBuf> {
    ["state.a", "state.b"].map(|name| device.dir.join("data").join(name)).into_iter().filter(|path| path.exists()).collect()
}

#[test]
fn an_older_wherry_reads_past_what_a_newer_one_has_added() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    device.deploy(&manifest("idle", sleeper()));
    device.ok(&["stop", "idle"]);
    device.power_off();
    // Zeros are empty lists, as many as this release may have there; the rest is for nobody here.
    rewrite(&device, 1, &[&[0; 64][..], b"what only a later release knows"].concat());
    device.broker.down();
    device.start();
    device.running("web");
    assert!(device.pid("idle").is_none(), "what somebody stopped stays so");
    assert!(!device.log().contains("damaged"), "{}", device.log());
}

#[test]
fn an_older_wherry_puts_records_of_a_later_format_aside_and_gets_its_apps_from_the_broker() {
    let mut device = Device::new();
    let document = numbered("web", 3, sleeper());
    let sha = device.publish(&document);
    device.ack(&sha, "running");
    device.power_off();
    rewrite(&device, 2, b"");
    device.broker.down();
    device.start();
    let log = device.log();
    assert!(log.contains("a later release (record format 2, this release reads 1)"), "{log}");
    assert!(device.app("web").is_none() && device.dir.join("data/state.a.bad").exists());
    let boot = device.json(&["status"])["boot"].as_u64().unwrap();
    assert!(boot > 1, "sessions of before the downgrade stay of the past");
    device.broker.up();
    device.publish(&document);
    device.running("web");
    assert_eq!(device.app("web").unwrap()["seq"], 3);
}
