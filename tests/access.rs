//! The access lists of `board/broker`: what a device may read and write at a real mosquitto, and that it needs no more than that.
//! The lists for EMQX and AWS IoT, whose brokers cannot be had here, are held against the same topics by their text.

mod harness;

use harness::{Device, Value, eventually, json, manifest, sleeper};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

const PASSWORD: &str = "a password";

/// A device whose broker has the shipped list, with its examples' names replaced: the device is in the group `mine`.
fn fenced() -> Device {
    let mut device = Device::prepared_with_login(json!({}), Some(("operator", PASSWORD)));
    let list = fs::read_to_string("board/broker/mosquitto.acl").unwrap();
    let own = list.replace("router-17", &device.id).replace("site-north", "mine");
    assert_ne!(own, list);
    let path = device.file("acl", own);
    device.broker.configure(&format!("acl_file {path}"));
    let passwords = device.dir.join("passwords");
    for user in [device.id.as_str(), "other"] {
        assert!(Command::new("mosquitto_passwd").arg("-b").arg(&passwords).args([user, PASSWORD]).status().unwrap().success());
    }
    device.settings["brokers"][0]["username"] = json!(device.id);
    device.settings["brokers"][0]["password"] = json!(PASSWORD);
    device.settings["groups"] = json!(["mine"]);
    device.broker.up();
    device
}

/// Topics with what a device may do there, for the device itself as `ME`.
const TOPICS: [(&str, bool, bool); 14] = [
    ("wherry/v1/d/ME/in/desired/web", true, false),
    ("wherry/v1/d/ME/in/cmd/1", true, false),
    ("wherry/v1/d/ME/in/config", true, false),
    ("wherry/v1/g/mine/desired/web", true, false),
    ("wherry/v1/d/ME/out/ack/web", false, true),
    ("wherry/v1/d/ME/out/reported", false, true),
    ("wherry/v1/d/other/in/desired/web", false, false),
    ("wherry/v1/d/other/in/cmd/1", false, false),
    ("wherry/v1/d/other/out/reported", false, false),
    ("wherry/v1/d/ME-2/in/desired/web", false, false),
    ("wherry/v1/g/theirs/desired/web", false, false),
    ("wherry/v1/g/ME/desired/web", false, false),
    ("wherry/v1/d/in/desired/web", false, false),
    ("somewhere/else", false, false),
];

fn client(device: &Device, program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &device.broker.port.to_string(), "-q", "1", "-u", &device.id, "-P", PASSWORD, "-i", "intruder"]);
    command
}

fn topics(device: &Device) -> Vec<(String, bool, bool)> {
    TOPICS.iter().map(|(topic, reads, writes)| (topic.replace("ME", &device.id), *reads, *writes)).collect()
}

#[test]
fn a_device_reads_nothing_but_what_is_meant_for_it() {
    let device = fenced();
    let topics = topics(&device);
    let mut reader = client(&device, "mosquitto_sub");
    // The last one is allowed: what the broker gives comes in the order in which it was published.
    let last = format!("wherry/v1/d/{}/in/desired/zz", device.id);
    for (topic, ..) in &topics {
        reader.args(["-t", topic]);
    }
    reader.args(["-t", "#", "-t", "wherry/v1/d/+/in/#", "-t", "wherry/v1/g/+/desired/+", "-t", &last, "-F", "%t"]);
    for (topic, ..) in topics.iter().filter(|(topic, ..)| topic.starts_with("wherry/")) {
        device.broker.publish(topic, b"{}", true);
    }
    device.broker.publish(&last, b"{}", true);
    let mut child = reader.stdout(Stdio::piped()).spawn().unwrap();
    let mut seen: Vec<String> = Vec::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap())).map_while(Result::ok) {
        let over = line == last;
        seen.push(line);
        if over {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for (topic, reads, _) in topics {
        assert_eq!(seen.contains(&topic), reads, "{topic}: {seen:?}");
    }
}

#[test]
fn a_device_writes_nothing_but_what_it_says_itself() {
    let device = fenced();
    let topics = topics(&device);
    let before = device.broker.messages().len();
    let publish = |topic: &str| {
        let mut child = client(&device, "mosquitto_pub").args(["-t", topic, "-s", "-r"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"{}").unwrap();
        child.wait().unwrap();
    };
    topics.iter().for_each(|(topic, ..)| publish(topic));
    let last = format!("wherry/v1/d/{}/out/get", device.id);
    publish(&last);
    let seen = || device.broker.messages()[before..].iter().map(|m| m.topic.clone()).collect::<Vec<_>>();
    eventually("the last one", || seen().contains(&last).then_some(()));
    for (topic, _, writes) in topics {
        assert_eq!(seen().contains(&topic), writes, "{topic}: {:?}", seen());
    }
}

#[test]
fn a_fenced_device_does_all_that_it_must() {
    let mut device = fenced();
    device.start();
    device.online();
    device.deploy(&manifest("web", sleeper()));
    device.broker.publish("wherry/v1/g/mine/desired/shared", manifest("shared", sleeper()).to_string().as_bytes(), true);
    device.reported("both apps", |r| ["web", "shared"].iter().all(|app| r["apps"][app]["state"] == "running"));
    device.stats("a figure", |s| s["containers"]["web/main"]["pids"]["current"].as_u64() > Some(0));
    let word = |v: &Value| v["state"].as_str().map(str::to_owned);
    assert_eq!(device.said("presence").last().and_then(word).as_deref(), Some("online"));
}

/// MQTT's wildcards (3.1.1, section 4.7), and IAM's `*`.
fn covers(filter: &str, topic: &str) -> bool {
    match filter.strip_suffix('#').or(filter.strip_suffix('*')) {
        Some(beginning) => topic.starts_with(beginning),
        None => filter == topic,
    }
}

fn check_list(readable: &[String], writable: &[String]) {
    for (topic, reads, writes) in TOPICS {
        let covered = |list: &[String]| list.iter().any(|filter| covers(filter, topic));
        assert_eq!((covered(readable), covered(writable)), (reads, writes), "{topic}: {readable:?} {writable:?}");
    }
}

#[test]
fn the_list_for_emqx_draws_the_same_line() {
    let list = fs::read_to_string("board/broker/emqx.acl.conf").unwrap();
    let mut rules: Vec<&str> = list.lines().filter(|l| l.starts_with('{')).collect();
    assert_eq!(rules.pop(), Some("{deny, all}."), "whatever is not allowed");
    let of_device = |verb: &str| {
        let own = rules.iter().filter(|rule| rule.contains(verb) && !rule.contains("operator"));
        own.map(|rule| rule.split('"').rev().nth(1).unwrap().replace("${username}", "ME").replace("site-north", "mine")).collect::<Vec<_>>()
    };
    check_list(&of_device("subscribe"), &of_device("publish"));
    assert!(rules.iter().all(|rule| rule.starts_with("{allow, ") && rule.ends_with("]}.")), "{rules:?}");
}

#[test]
fn the_policy_for_aws_iot_draws_the_same_line() {
    let policy: Value = serde_json::from_str(&fs::read_to_string("board/broker/aws-iot.json").unwrap()).unwrap();
    let list = |v: &Value| v.as_array().cloned().unwrap_or_else(|| vec![v.clone()]);
    let granted = |action: &str, kind: &str| {
        let statements = policy["Statement"].as_array().unwrap().iter().filter(|s| list(&s["Action"]).iter().any(|a| a == action));
        let resources: Vec<Value> = statements.flat_map(|s| list(&s["Resource"])).collect();
        let topic = |r: &Value| r.as_str().unwrap().strip_prefix(&format!("arn:aws:iot:*:*:{kind}/")).map(str::to_owned);
        let named =
            |t: String| t.replace("${iot:Connection.Thing.ThingName}", "ME").replace("${iot:Connection.Thing.Attributes[group]}", "mine");
        resources.iter().filter_map(topic).map(named).collect::<Vec<_>>()
    };
    check_list(&granted("iot:Receive", "topic"), &granted("iot:Publish", "topic"));
    assert_eq!(granted("iot:RetainPublish", "topic"), granted("iot:Publish", "topic"));
    check_list(&granted("iot:Subscribe", "topicfilter"), &granted("iot:Publish", "topic"));
    assert_eq!(granted("iot:Connect", "client"), ["ME"], "the client id is the device's");
}
