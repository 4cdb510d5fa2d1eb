//! Golden payloads of the wire contract: whoever builds from the contract's page writes and reads exactly these bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use wherry::ipc::{DeviceSample, StatsRow};
use wherry::manifest::{self, Body, Target, Whom};
use wherry::protocol::{
    Ack, Answer, Command, ContainerState, Detail, Entries, Get, KeysetAck, LastExit, Output, Presence, Previous, Reason, Reported, Sha256,
    State, Stats, StreamArgs, Verb, encode, parse_command, stats,
};
use wherry::stats::{Psi, Sample};
use wherry::trust::{self, Envelope, Grant, KeysetDocument, Kind, PublicKey};

fn golden(name: &str) -> String {
    let path = format!("{}/tests/wire/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

/// Reads a golden file into its type and writes it back: not a byte may change.
fn check<T: DeserializeOwned + Serialize + PartialEq + Debug>(name: &str) -> T {
    let text = golden(name);
    let value: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(String::from_utf8(encode(&value)).unwrap(), text.trim_end(), "{name}");
    // A reader ignores what it does not know, here at the top of the object.
    let newer = text.replacen('{', "{\"from_the_future\":{\"a\":[1]},", 1);
    assert_eq!(serde_json::from_str::<T>(&newer).unwrap_or_else(|e| panic!("{name}: {e}")), value);
    value
}

fn target() -> Target {
    Target { fleet: "wherry".into(), whom: Whom::Device("router-17".parse().unwrap()) }
}

fn digest() -> wherry::image::Digest {
    format!("sha256:{}", "9b1f".repeat(16)).parse().unwrap()
}

#[test]
fn every_golden_file_has_a_test() {
    let tested = include_str!("wire.rs");
    for entry in std::fs::read_dir(format!("{}/tests/wire", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let quoted = format!("\"{}\"", name.trim_end_matches(".json"));
        assert!(tested.contains(&quoted), "tests/wire/{name} is read by no test");
    }
}

#[test]
fn acks_are_written_as_the_contract_says() {
    let ack: Ack = check("ack");
    let made = Ack {
        wherry: 1,
        target: target(),
        app: "web".parse().unwrap(),
        seq: Some(1_763_909_000_123),
        sha256: Sha256(digest()),
        attempt: 1,
        state: State::Fetching,
        reason: None,
        rolled_back_to: None,
        detail: Some(Detail { bytes: Some(4_194_304), total: Some(12_582_912), ..Detail::default() }),
        boot: 12,
        uptime_s: 3605,
    };
    assert_eq!(ack, made);
    let waits: Ack = check("ack_fetching_waits");
    assert!(waits.reason.is_none() && waits.detail.unwrap().message.unwrap().contains("tried again"));
    let rejected: Ack = check("ack_rejected");
    assert_eq!((rejected.state, rejected.reason, rejected.seq), (State::Rejected, Some(Reason::BadValue), None));
    assert_eq!(rejected.detail.unwrap().further[0].reason, Reason::Unsupported);
    let failed: Ack = check("ack_failed");
    assert_eq!((failed.attempt, failed.rolled_back_to), (2, Some(Previous::Seq(1_763_909_000_123))));
    assert!(matches!(check::<Ack>("ack_failed_unsigned").rolled_back_to, Some(Previous::Sha256(_))));
}

#[test]
fn a_target_is_read_back_from_json_and_from_our_own_records() {
    for whom in [Whom::Device("a".parse().unwrap()), Whom::Group("b".parse().unwrap())] {
        let target = Target { fleet: "site/wherry".into(), whom };
        assert_eq!(serde_json::from_slice::<Target>(&encode(&target)).unwrap(), target);
        assert_eq!(postcard::from_bytes::<Target>(&postcard::to_allocvec(&target).unwrap()).unwrap(), target);
    }
    for wrong in [r#"{"fleet":"f"}"#, r#"{"fleet":"f","device":"a","group":"b"}"#, r#"{"device":"a"}"#, r#"{"fleet":"f","device":"a/b"}"#] {
        assert!(serde_json::from_str::<Target>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn reports_are_written_as_the_contract_says() {
    let reported: Reported = check("reported");
    assert_eq!(reported.apps.get("web").unwrap().containers.get("nginx").unwrap().state, ContainerState::Running);
    assert_eq!(reported.about.keys, ["aa84be84e99e0f52"]);
    assert_eq!(reported.about.missing, Entries(vec![("psi".into(), "CONFIG_PSI".into())]));
    let stopped: Reported = check("reported_local_stop");
    let names: Vec<_> = stopped.apps.0[0].1.containers.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["b", "a"], "containers keep the order of the document");
    let hold: Reported = check("reported_hold");
    assert_eq!((hold.apps.0[0].1.held.as_deref(), stopped.apps.0[0].1.held.as_deref()), (Some("local"), None));
}

#[test]
fn presence_will_and_get_are_written_as_the_contract_says() {
    let mut online = Presence::online(12, 3, 60);
    online.version = Some("0.1.0".into());
    assert_eq!(check::<Presence>("presence"), online);
    assert_eq!(check::<Presence>("presence_will"), Presence::will(12, 3));
    let get: Get = check("get");
    assert_eq!((get.have[0].target.clone(), get.have[0].seq, get.have[1].seq), (target(), Some(1_763_909_000_123), None));
}

#[test]
fn statistics_are_written_as_the_contract_says() {
    check::<Stats>("stats");
    let sample = Sample {
        cpu_usage_us: Some(1_250_000),
        cpu_throttled_us: Some(0),
        cpu_nr_throttled: Some(0),
        memory_current: Some(20_971_520),
        memory_working_set: Some(16_777_216),
        memory_peak: Some(25_165_824),
        memory_max: Some(67_108_864),
        memory_oom_kill: Some(0),
        pids_current: Some(3),
        io_read: Some(4096),
        io_write: Some(0),
        net_rx: Some(1024),
        net_tx: Some(2048),
        psi: None,
        absent: vec![("psi".into(), "CONFIG_PSI".into())],
    };
    let device = DeviceSample {
        mem_available: Some(98_304_000),
        load1: Some(0.25),
        flash_written: Some(1_048_576),
        agent_pss: Some(2_097_152),
        uptime_s: 3660,
        absent: vec![],
    };
    let row = StatsRow { app: "web".parse().unwrap(), container: "nginx".parse().unwrap(), uptime_s: 3600, sample };
    assert_eq!(stats(12, 60, &device, &[row]), [golden("stats").trim_end().as_bytes()]);
}

#[test]
fn statistics_with_pressure_and_missing_figures_are_written_as_the_contract_says() {
    check::<Stats>("stats_pressure");
    let reasons = [("memory.peak", "kernel older than 5.19"), ("io", "no throttle rule"), ("net", "network mode host")];
    let sample = Sample {
        cpu_usage_us: Some(1),
        cpu_throttled_us: Some(2),
        cpu_nr_throttled: Some(3),
        memory_current: Some(4),
        memory_working_set: Some(5),
        memory_oom_kill: Some(6),
        pids_current: Some(7),
        psi: Some(Psi { cpu: 1.5, memory: 0.0, io: 99.99 }),
        absent: reasons.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
        ..Sample::default()
    };
    let row = StatsRow { app: "b".parse().unwrap(), container: "z".parse().unwrap(), uptime_s: 1, sample };
    let device = DeviceSample { uptime_s: 60, ..DeviceSample::default() };
    assert_eq!(stats(1, 2, &device, &[row]), [golden("stats_pressure").trim_end().as_bytes()]);
}

#[test]
fn a_command_is_read_and_its_answers_are_written_as_the_contract_says() {
    let command = parse_command(golden("command").as_bytes()).unwrap();
    let (app, container) = ("web".parse().ok(), "nginx".parse().ok());
    assert_eq!(
        command,
        Command { id: None, session: (12, 3), verb: Verb::Restart, app, container, target: None, stream: StreamArgs::default() }
    );
    assert_eq!(command.encode(), golden("command").trim_end().as_bytes());
    let signed = parse_command(golden("command_signed").as_bytes()).unwrap();
    let (id, app) = ("7f3".parse().ok(), "web".parse().ok());
    assert_eq!(
        signed,
        Command { id, session: (12, 3), verb: Verb::Retry, app, container: None, target: Some(target()), stream: StreamArgs::default() }
    );
    assert_eq!(signed.encode(), golden("command_signed").trim_end().as_bytes());
    let exec = parse_command(golden("command_exec").as_bytes()).unwrap();
    assert_eq!((exec.stream.args.join(" "), exec.stream.timeout), ("nginx -t".into(), Some(Duration::from_secs(10))));
    assert_eq!(exec.encode(), golden("command_exec").trim_end().as_bytes());
    assert_eq!(check::<Answer>("answer_data"), Answer::data(0, "line\n".into()));
    assert_eq!(check::<Answer>("answer_end"), Answer::end(1));
    for (name, answer) in [
        ("answer_logs", Answer { container: "nginx".parse().ok(), lost: Some(4096), ..Answer::output(2, b"line\n".to_vec()) }),
        ("answer_exec", Answer { stream: Some(Output::Stderr), ..Answer::output(3, vec![0xff, b'\n']) }),
        ("answer_exec_end", Answer { exit: Some(LastExit::Code(2)), ..Answer::end(4) }),
    ] {
        assert_eq!(check::<Answer>(name), answer, "{name}");
    }
    let message = "the command is for session 12.3, this is 12.4".to_owned();
    assert_eq!(check::<Answer>("answer_error"), Answer::error(0, Reason::StaleSession, message));
}

#[test]
fn a_tombstone_is_read_as_the_contract_says() {
    let tombstone = manifest::parse(golden("tombstone").as_bytes()).unwrap();
    assert_eq!(tombstone.body, Body::Remove { volumes: false });
    assert_eq!((tombstone.seq, tombstone.target), (Some(1_763_909_000_999), Some(target())));
}

/// The contract's own examples use everything; what is not built is refused by name, and nothing else is wrong with them.
fn only_unsupported(name: &str, expected: &[&str]) {
    let faults = manifest::parse(golden(name).as_bytes()).unwrap_err();
    let paths: Vec<_> = faults.0.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, expected, "{faults}");
    assert!(faults.0.iter().all(|f| f.reason == Reason::Unsupported), "{faults}");
}

#[test]
fn what_the_contract_has_and_this_version_has_not_is_unsupported_with_its_path() {
    only_unsupported("manifest", &["containers.nginx.image.ref", "containers.nginx.mounts[0].type"]);
    let main = |rest: &[&str]| rest.iter().map(|r| format!("containers.main.{r}")).collect::<Vec<_>>();
    let paths = main(&["mounts[2].type", "network.nics", "network.ports", "resources.cpu.set", "resources.io", "sysctl", "devices"]);
    only_unsupported("manifest_further_fields", &paths.iter().map(String::as_str).collect::<Vec<_>>());
    // Nor an envelope where the document itself is wanted.
    only_unsupported("envelope", &["payload"]);
}

/// Made by signify-openbsd 31, like the signature in the golden file.
const KEY: &str = "untrusted comment: signify public key\nRWSqhL6E6Z4PUsioQjGqJfAT8Zo7hyAy4MsYC4AJCTWmw0HZdDeHXUgc\n";

#[test]
fn an_envelope_is_what_a_tool_signs_by_the_contract() {
    let key = PublicKey::of_file(KEY).unwrap();
    let envelope = Envelope::parse(golden("envelope").as_bytes()).unwrap();
    assert_eq!(envelope.encode(), golden("envelope").trim_end().as_bytes());
    assert_eq!(envelope.payload, golden("tombstone").trim_end().as_bytes());
    let signed = [b"wherry-v1:desired:".as_slice(), &envelope.payload].concat();
    assert_eq!(trust::message(envelope.kind, &envelope.payload), signed);
    assert!(key.verify(&signed, &envelope.signatures[0]));
}

#[test]
fn a_keyset_is_read_and_answered_as_the_contract_says() {
    let keyset = KeysetDocument::parse(golden("keyset").as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((keyset.seq, keyset.not_after), (1_763_909_000_500, Some(1_798_761_599_000)));
    let [root, limited] = &keyset.keys[..] else { panic!("{keyset:?}") };
    assert_eq!(*root, Grant::root(PublicKey::of_file(KEY).unwrap()));
    assert_eq!((limited.types.as_slice(), limited.min_seq), (&[Kind::Desired, Kind::Cmd][..], 1_763_909_000_000));
    assert_eq!(limited.apps.as_deref(), Some(&["web".parse().unwrap()][..]));
    let targets = [Whom::Device("router-17".parse().unwrap()), Whom::Group("site-north".parse().unwrap())];
    assert_eq!(limited.targets.as_deref(), Some(&targets[..]));
    let ack: KeysetAck = check("keyset_ack");
    assert_eq!((ack.state, ack.reason, ack.seq), (State::Rejected, Some(Reason::OutOfScope), Some(keyset.seq)));
}

#[test]
fn the_contracts_manifest_without_what_is_not_built_is_taken() {
    let text = golden("manifest");
    let mounts = text.lines().find(|l| l.contains("\"mounts\"")).unwrap();
    let built = text.replace(mounts, "").replace("registry.example/nginx:1.27", "oci:/srv/import/nginx:1.27");
    let manifest = manifest::parse(built.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
    let Body::Run(containers) = manifest.body else { panic!() };
    assert_eq!((containers[0].image.size, containers[0].resources.cpu_quota_milli), (Some(12 << 20), Some(500)));
}
