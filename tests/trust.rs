//! Signed documents on a whole device: what a trusted key signed runs, everything else is refused with its reason, and keys come and go.
//!
//! Needs what `keeper.rs` needs, and signify-openbsd, minisign and strace.

mod harness;
#[path = "trust/signer.rs"]
mod signer;

use harness::{Clock, Device, Signal, Value, eventually, image, is_alive, json, layout, manifest, shell, sleeper, steadily, with};
use signer::{Signer, Tool, sealed, to_sign};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use wherry::image::Digest;
use wherry::trust::base64;

// ---- the stand ----

/// A device of group `lab` that trusts the key in `team.pub`.
struct Stand {
    device: Device,
    team: Signer,
}

impl Stand {
    fn prepared(tool: Tool) -> Self {
        let device = Device::prepared(json!({"groups": ["lab"]}));
        let team = Signer::new(tool, &device.dir, "team");
        let stand = Self { device, team };
        stand.trust("team.pub", &stand.team.public());
        stand
    }

    fn new() -> Self {
        let mut stand = Self::prepared(Tool::Signify);
        stand.up();
        stand
    }

    fn up(&mut self) {
        self.device.broker.up();
        self.device.start();
        self.device.online();
    }

    /// Ends keeper with all its containers, and starts it again, as a reboot does.
    fn reboot(&mut self) {
        self.device.end(Signal::SIGINT);
        self.device.start();
        self.device.online();
    }

    fn trust_dir(&self) -> PathBuf {
        self.device.dir.join("trust")
    }

    fn trust(&self, name: &str, text: &str) {
        fs::create_dir_all(self.trust_dir()).unwrap();
        fs::set_permissions(self.trust_dir(), Permissions::from_mode(0o755)).unwrap();
        fs::write(self.trust_dir().join(name), text).unwrap();
        fs::set_permissions(self.trust_dir().join(name), Permissions::from_mode(0o644)).unwrap();
    }

    fn signer(&self, name: &str) -> Signer {
        Signer::new(Tool::Signify, &self.device.dir, name)
    }

    fn target(&self) -> Value {
        json!({"fleet": "wherry", "device": self.device.id})
    }

    /// A document with all that a signed one must have.
    fn document(&self, app: &str, seq: u64) -> Value {
        with(manifest(app, pinned(sleeper())), json!({"seq": seq, "target": self.target()}))
    }

    fn tombstone(&self, app: &str, seq: u64) -> Value {
        json!({"wherry": 1, "app": app, "seq": seq, "target": self.target(), "remove": true})
    }

    fn publish(&self, app: &str, message: &[u8]) -> Sent {
        self.publish_on(&self.device.topic(&format!("in/desired/{app}")), message)
    }

    fn publish_on(&self, topic: &str, message: &[u8]) -> Sent {
        let sha = hash(message);
        let sent = Sent { before: self.device.acks(&sha).len(), sha };
        self.device.broker.publish(topic, message, false);
        sent
    }

    /// Publishes a manifest or tombstone in an envelope that these have signed.
    fn send(&self, document: &Value, by: &[&Signer]) -> Sent {
        let app = document["app"].as_str().unwrap();
        self.publish(app, sealed("desired", document.to_string().as_bytes(), by).to_string().as_bytes())
    }

    /// The terminal answer to a message.
    fn answer(&self, sent: &Sent) -> Value {
        let terminal = |a: &Value| ["running", "failed", "rejected", "removed"].iter().any(|s| a["state"] == *s);
        eventually("an answer", || self.device.acks(&sent.sha).into_iter().skip(sent.before).find(terminal))
    }

    fn runs(&self, document: &Value, by: &[&Signer]) -> i32 {
        let answer = self.answer(&self.send(document, by));
        assert_eq!(answer["state"], "running", "{answer}");
        self.device.running(document["app"].as_str().unwrap())
    }

    fn refused(&self, sent: &Sent, reason: &str, words: &str) {
        let answer = self.answer(sent);
        assert_eq!((&answer["state"], &answer["reason"]), (&json!("rejected"), &json!(reason)), "{answer}");
        assert!(answer["detail"].to_string().contains(words), "{answer} lacks {words}");
    }

    // ---- keysets ----

    fn keyset(&self, seq: u64, keys: &[Value]) -> Value {
        json!({"wherry": 1, "seq": seq, "target": self.target(), "keys": keys})
    }

    /// Publishes a message for keysets; what the device says to it.
    fn ask(&self, topic: &str, message: &[u8]) -> Value {
        let before = self.device.said("keyset").len();
        self.device.broker.publish(topic, message, true);
        eventually("an answer to a keyset", || self.device.said("keyset").into_iter().nth(before))
    }

    fn hand_out(&self, keyset: &Value, by: &[&Signer]) -> Value {
        self.ask(&self.device.topic("in/keyset"), sealed("keyset", keyset.to_string().as_bytes(), by).to_string().as_bytes())
    }

    fn accepted(&self, keyset: &Value, by: &[&Signer]) {
        let answer = self.hand_out(keyset, by);
        assert_eq!((&answer["state"], &answer["seq"]), (&json!("accepted"), &keyset["seq"]), "{answer}");
    }

    fn not_accepted(&self, keyset: &Value, by: &[&Signer], reason: &str) {
        let answer = self.hand_out(keyset, by);
        assert_eq!((&answer["state"], &answer["reason"]), (&json!("rejected"), &json!(reason)), "{answer}");
    }

    /// Numbers of the keys in force, as `status` has them.
    fn keys(&self) -> Vec<String> {
        let keys = self.device.json(&["status"])["trust"]["keys"].as_array().unwrap().clone();
        keys.iter().map(|k| k["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// A message that was published.
struct Sent {
    /// As acks name it.
    sha: String,
    /// Acks to it that were there before.
    before: usize,
}

/// Of the document in an envelope, or of the message where that is none.
fn hash(message: &[u8]) -> String {
    let envelope = serde_json::from_slice::<Value>(message).ok();
    let inner = envelope.and_then(|e| base64::decode(e["payload"].as_str()?)).filter(|_| wherry::trust::Envelope::parse(message).is_ok());
    Digest::of(inner.as_deref().unwrap_or(message)).hex()
}

/// A manifest with this signature.
fn enveloped(payload: &str, signature: Value) -> Value {
    json!({"payload": base64::encode(payload.as_bytes()), "type": "desired", "signatures": [signature]})
}

/// A key with what it may sign.
fn grant(signer: &Signer, rest: Value) -> Value {
    with(json!({"key": signer.key()}), rest)
}

/// The container with its image named by digest.
fn pinned(container: Value) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(image::dir().join("layout/index.json")).unwrap()).unwrap();
    let is_plain = |m: &&Value| m["annotations"]["org.opencontainers.image.ref.name"] == "plain";
    let digest = index["manifests"].as_array().unwrap().iter().find(is_plain).unwrap()["digest"].clone();
    with(container, json!({"image": {"ref": layout("plain"), "digest": digest}}))
}

// ---- what runs ----

/// The first key of a device, of either tool; signatures as the tool writes them, and bare.
fn check_tool(tool: Tool) {
    let mut stand = Stand::prepared(tool);
    stand.up();
    let pid = stand.runs(&stand.document("web", 1), &[&stand.team]);
    let next = with(stand.document("web", 2), json!({"x-note": "another text"}));
    let payload = next.to_string();
    let bare = json!({"key": stand.team.id(), "sig": stand.team.sign_bare(&to_sign("desired", payload.as_bytes()))});
    let envelope = enveloped(&payload, bare);
    let answer = stand.answer(&stand.publish("web", envelope.to_string().as_bytes()));
    assert_eq!((&answer["state"], &answer["seq"]), (&json!("running"), &json!(2)), "{answer}");
    assert_eq!(stand.device.running("web"), pid, "nothing about the container has changed");
    let answer = stand.answer(&stand.send(&stand.tombstone("web", 3), &[&stand.team]));
    assert_eq!(answer["state"], "removed", "{answer}");
    assert_eq!(stand.keys(), [stand.team.id()]);
    stand.device.reported("the key", |r| r["about"]["keys"] == json!([stand.team.id()]));
}

#[test]
fn what_signify_signs_runs() {
    check_tool(Tool::Signify);
}

#[test]
fn what_minisign_signs_runs() {
    check_tool(Tool::Minisign);
}

/// What README tells a person to type, with this device and its broker in it.
fn commands_of_readme(device: &Device) -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let block = readme.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(block.contains("signify-openbsd -S") && block.contains("mosquitto_pub -h mqtt.example"), "{block}");
    block.replace("mosquitto_pub -h mqtt.example", &format!("mosquitto_pub -p {}", device.broker.port)).replace("router-17", &device.id)
}

#[test]
fn the_commands_of_readme_make_a_document_that_runs() {
    let mut stand = Stand::prepared(Tool::Signify);
    let work = stand.device.dir.join("work");
    fs::create_dir(&work).unwrap();
    symlink(harness::device::program(), work.join("wherry")).unwrap();
    let document = stand.document("web", 1).to_string();
    fs::write(work.join("web.json"), &document).unwrap();
    stand.device.broker.up();
    let path = format!("{}:{}", work.display(), std::env::var("PATH").unwrap());
    let commands = commands_of_readme(&stand.device);
    let out = Command::new("bash").args(["-euo", "pipefail", "-c", &commands]).current_dir(&work).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let public = fs::read_to_string(work.join("team.pub")).unwrap();
    let key: wherry::trust::PublicKey = public.lines().nth(1).unwrap().parse().unwrap();
    assert!(
        said.contains(&format!("good public key {}", key.id)) && said.contains("good envelope (desired, said to be signed by"),
        "{said}"
    );
    stand.trust("team.pub", &public);
    stand.device.start();
    stand.device.ack(&Digest::of(document.as_bytes()).hex(), "running");
}

#[test]
fn a_document_that_comes_again_signed_by_another_key_is_the_same_document() {
    let mut stand = Stand::prepared(Tool::Signify);
    let second = stand.signer("second");
    stand.trust("second.pub", &second.public());
    stand.up();
    let document = stand.document("web", 1);
    let pid = stand.runs(&document, &[&stand.team]);
    for by in [&[&second][..], &[&second, &stand.team], &[&stand.signer("stranger"), &second]] {
        assert_eq!(stand.runs(&document, by), pid);
    }
}

#[test]
fn the_local_command_line_needs_no_signature_and_takes_none() {
    let stand = Stand::new();
    stand.device.applied(&manifest("own", sleeper()));
    let envelope = sealed("desired", stand.document("web", 1).to_string().as_bytes(), &[&stand.team]);
    let outcome = stand.device.apply(&envelope);
    assert!(outcome.code == 65 && outcome.err.contains("envelope"), "{outcome:?}");
    stand.device.ok(&["rm", "own"]);
}

#[test]
fn what_was_accepted_runs_on_without_the_key_and_comes_back_after_a_reboot() {
    let mut stand = Stand::new();
    stand.runs(&stand.document("web", 1), &[&stand.team]);
    let next = stand.signer("next");
    fs::remove_file(stand.trust_dir().join("team.pub")).unwrap();
    stand.trust("next.pub", &next.public());
    stand.reboot();
    let pid = stand.device.running("web");
    let again = stand.send(&stand.document("web", 1), &[&stand.team]);
    stand.refused(&again, "unknown_key", &stand.team.id());
    assert_eq!(stand.runs(&stand.document("web", 1), &[&next]), pid, "the same document, signed by who counts now");
}

// ---- what is refused ----

/// A row of the table: what is sent, and how it must be answered.
struct Row {
    topic: String,
    message: Vec<u8>,
    reason: &'static str,
    words: &'static str,
}

impl Stand {
    fn row(&self, message: impl ToString, reason: &'static str, words: &'static str) -> Row {
        Row { topic: self.device.topic("in/desired/web"), message: message.to_string().into_bytes(), reason, words }
    }

    fn signed(&self, document: &Value, by: &[&Signer]) -> Value {
        sealed("desired", document.to_string().as_bytes(), by)
    }

    /// What has no good signature of a trusted key, or no readable envelope.
    fn unproven(&self) -> Vec<Row> {
        let (document, team) = (self.document("web", 50), &[&self.team][..]);
        let good = self.signed(&document, team);
        let changed = with(good.clone(), json!({"payload": base64::encode(self.document("web", 51).to_string().as_bytes())}));
        let stranger = self.signer("stranger");
        let mine = self.document("web", 52).to_string();
        let stolen = enveloped(&mine, json!({"key": self.team.id(), "sig": stranger.sign_bare(&to_sign("desired", mine.as_bytes()))}));
        let command = sealed("cmd", self.document("web", 53).to_string().as_bytes(), team);
        let relabelled = with(command.clone(), json!({"type": "desired"}));
        let text = good.to_string();
        vec![
            self.row(self.document("web", 54), "unsigned", "not signed"),
            self.row(manifest("web", sleeper()), "unsigned", "not signed"),
            self.row(self.tombstone("web", 55), "unsigned", "not signed"),
            self.row("{\"app\": \"web\"}", "unsigned", "not signed"),
            self.row(self.signed(&self.document("web", 56), &[&stranger]), "unknown_key", "does not trust key"),
            self.row(changed, "bad_signature", "not over these bytes"),
            self.row(stolen, "bad_signature", "not over these bytes"),
            self.row(relabelled, "bad_signature", "not over these bytes"),
            self.row(command, "wrong_target", "signed as cmd"),
            self.row(&text[..text.len() / 2], "malformed", "ends inside a string"),
            self.row("", "malformed", "").with(b"{\"payload\""),
            self.row("", "malformed", "UTF-8").with(b"\xff\xfe"),
            self.row(text.replace("\"type\"", "\"level\":1,\"type\""), "unknown_field", "level"),
            self.row(text.replace("\"signatures\":[", "\"signatures\":[7,"), "bad_value", "signatures[0]"),
            self.row(with(good, json!({"signatures": []})), "bad_value", "signatures"),
        ]
    }

    /// What is well signed, and must not be taken all the same.
    fn misdirected(&self) -> Vec<Row> {
        let device = &self.device.id;
        let signed = |document: &Value, rest: Value| self.signed(&with(document.clone(), rest), &[&self.team]);
        let own = |seq| self.document("web", seq);
        let without = |key: &str, seq| {
            let mut document = own(seq);
            document.as_object_mut().unwrap().remove(key);
            self.signed(&document, &[&self.team])
        };
        let loose = |seq, container| with(manifest("web", container), json!({"seq": seq, "target": self.target()}));
        let mut rows = vec![
            self.row(signed(&own(60), json!({"target": {"fleet": "other", "device": device}})), "wrong_target", "not this device"),
            self.row(signed(&own(61), json!({"target": {"fleet": "wherry", "device": "other"}})), "wrong_target", "not this device"),
            self.row(signed(&own(62), json!({"target": {"fleet": "wherry", "group": "lab"}})), "wrong_target", "not this device"),
            self.row(without("target", 63), "wrong_target", "target"),
            self.row(signed(&own(64), json!({"app": "other"})), "wrong_target", "on the topic of web"),
            self.row(without("seq", 65), "stale", "seq"),
            self.row(signed(&own(9), json!({})), "stale", "not above 10"),
            self.row(signed(&own(10), json!({"x-note": "not the same"})), "conflict", "already used"),
            self.row(signed(&loose(66, sleeper()), json!({})), "bad_value", "containers.main.image"),
            self.row(signed(&own(67), json!({"containers": {}})), "bad_value", "containers"),
            self.row(signed(&own(68), json!({"rollout": 1})), "bad_value", "rollout"),
            self.row(sealed("desired", b"{\"wherry\": 1, \"app\": \"web\"", &[&self.team]), "malformed", "text ends"),
        ];
        let mut group = self.row(signed(&own(69), json!({})), "wrong_target", "not this device");
        group.topic = "wherry/v1/g/lab/desired/web".into();
        rows.push(group);
        rows
    }

    /// `limited` may sign app `web` for this device from sequence number 100 on, and nothing else.
    fn out_of_scope(&self, limited: &Signer) -> Vec<Row> {
        let mut rows = vec![
            self.row(self.signed(&self.document("web", 99), &[limited]), "stale", "below 100"),
            self.row(
                self.signed(&with(self.document("web", 101), json!({"target": {"fleet": "wherry", "group": "lab"}})), &[limited]),
                "out_of_scope",
                "group lab",
            ),
            self.row(self.signed(&self.document("other", 102), &[limited]), "out_of_scope", "app other"),
        ];
        rows[1].topic = "wherry/v1/g/lab/desired/web".into();
        rows[2].topic = self.device.topic("in/desired/other");
        rows
    }
}

impl Row {
    fn with(self, message: &[u8]) -> Self {
        Self { message: message.to_vec(), ..self }
    }
}

#[test]
fn what_is_not_signed_as_it_must_be_is_refused_and_what_runs_runs_on() {
    let stand = Stand::new();
    let limited = stand.signer("limited");
    let scope = json!({"types": ["desired"], "apps": ["web"], "targets": [{"device": stand.device.id}], "min_seq": 100});
    stand.accepted(&stand.keyset(1, &[grant(&limited, scope)]), &[&stand.team]);
    let pid = stand.runs(&stand.document("web", 10), &[&stand.team]);
    for row in [stand.unproven(), stand.misdirected(), stand.out_of_scope(&limited)].into_iter().flatten() {
        let sent = stand.publish_on(&row.topic, &row.message);
        stand.refused(&sent, row.reason, row.words);
    }
    let too_large = stand.signed(&with(stand.document("web", 70), json!({"x-ballast": "x".repeat(30_000)})), &[&stand.team]).to_string();
    let before = stand.device.acks(&Digest::of(b"").hex()).len();
    stand.publish("web", too_large.as_bytes());
    let sent = Sent { sha: Digest::of(b"").hex(), before };
    stand.refused(&sent, "oversize", "at most 32768");
    assert_eq!(stand.device.running("web"), pid);
    assert_eq!(stand.device.app("web").unwrap()["seq"], 10);
    stand.runs(&stand.document("web", 100), &[&limited]);
}

#[test]
fn minisigns_signature_over_a_hash_is_refused_with_the_way_out() {
    let mut stand = Stand::prepared(Tool::Minisign);
    stand.up();
    let payload = stand.document("web", 1).to_string();
    let hashed = json!({"key": stand.team.id(), "sig": stand.team.sign_hash(&to_sign("desired", payload.as_bytes()))});
    let envelope = enveloped(&payload, hashed);
    stand.refused(&stand.publish("web", envelope.to_string().as_bytes()), "bad_value", "minisign -S -l");
}

#[test]
fn without_a_key_unsigned_documents_are_taken_as_ever_and_envelopes_refused() {
    let mut stand = Stand::prepared(Tool::Signify);
    fs::remove_file(stand.trust_dir().join("team.pub")).unwrap();
    stand.up();
    stand.device.deploy(&manifest("web", sleeper()));
    let pid = stand.device.running("web");
    let envelope = stand.signed(&stand.document("web", 2), &[&stand.team]).to_string();
    let sha = stand.device.publish_bytes("web", envelope.as_bytes());
    let ack = stand.device.refused(&sha, "rejected", "unknown_key");
    assert!(ack.to_string().contains(stand.trust_dir().to_str().unwrap()), "{ack}");
    assert_eq!(stand.device.running("web"), pid);
    stand.not_accepted(&stand.keyset(1, &[grant(&stand.team, json!({"types": ["keyset"]}))]), &[&stand.team], "unknown_key");
    let bare = stand.ask(&stand.device.topic("in/keyset"), stand.keyset(2, &[]).to_string().as_bytes());
    assert_eq!(bare["reason"], "unsigned", "{bare}");
    assert!(stand.device.ok(&["status"]).contains("need not be signed"));
}

#[test]
fn an_app_from_before_the_first_key_runs_on_and_is_replaced_by_a_signed_document_alone() {
    let mut stand = Stand::prepared(Tool::Signify);
    fs::rename(stand.trust_dir().join("team.pub"), stand.device.dir.join("aside")).unwrap();
    stand.up();
    stand.device.deploy(&manifest("web", sleeper()));
    let pid = stand.device.running("web");
    fs::rename(stand.device.dir.join("aside"), stand.trust_dir().join("team.pub")).unwrap();
    stand.device.ok(&["upgrade"]);
    let keys = || serde_json::from_str::<Value>(&stand.device.wherry(&["--json", "status"]).out).unwrap_or_default();
    eventually("the key counts", || (keys()["trust"]["keys"][0]["id"] == stand.team.id()).then_some(()));
    stand.device.online();
    stand.refused(&stand.publish("web", manifest("web", shell("exec sleep 99999")).to_string().as_bytes()), "unsigned", "");
    assert_eq!(stand.device.running("web"), pid);
    stand.runs(&stand.document("web", 1), &[&stand.team]);
}

#[test]
fn a_document_expires_only_on_a_device_that_knows_the_time() {
    let stand = Stand::new();
    let until = |seq, time: &str| with(stand.document("web", seq), json!({"not_after": time}));
    let (past, future) = ("2001-01-01T00:00:00Z", "9999-12-31T23:59:59Z");
    let expired = until(2, past);
    let pid = {
        let _clock = Clock::right(stand.device.keeper());
        let pid = stand.runs(&until(1, future), &[&stand.team]);
        stand.refused(&stand.send(&expired, &[&stand.team]), "expired", past);
        let keyset = with(stand.keyset(1, &[]), json!({"not_after": past}));
        stand.not_accepted(&keyset, &[&stand.team], "expired");
        pid
    };
    {
        let _clock = Clock::unknown(stand.device.keeper());
        assert_eq!(stand.runs(&expired, &[&stand.team]), pid);
    }
    // What runs is not undone by time, nor by coming again.
    let _clock = Clock::right(stand.device.keeper());
    assert_eq!(stand.runs(&expired, &[&stand.team]), pid);
}

#[test]
fn an_old_document_of_a_removed_app_is_refused_also_when_the_app_is_forgotten() {
    let stand = Stand::new();
    let old = stand.document("app0", 5);
    stand.runs(&old, &[&stand.team]);
    for n in 0..=wherry::keeper::desired::MAX_GONE as u64 {
        let answer = stand.answer(&stand.send(&stand.tombstone(&format!("app{n}"), 10 + n), &[&stand.team]));
        assert_eq!(answer["state"], "removed", "{answer}");
    }
    stand.runs(&stand.document("another", 1000), &[&stand.team]);
    stand.refused(&stand.send(&old, &[&stand.team]), "stale", "not above 10,");
    stand.runs(&with(old, json!({"seq": 11})), &[&stand.team]);
}

// ---- commands ----

#[test]
fn a_command_is_taken_from_a_key_that_may_and_for_this_device_alone() {
    let stand = Stand::new();
    let web = stand.signer("web");
    stand.accepted(&stand.keyset(1, &[grant(&web, json!({"types": ["cmd"], "apps": ["web"]}))]), &[&stand.team]);
    let bare = |app: &str, rest: Value| with(json!({"wherry": 1, "session": "1.1", "do": "stop", "app": app}), rest).to_string();
    let command = |id: &str, app: &str, rest: Value| bare(app, with(json!({"id": id}), rest));
    let here = || json!({"target": stand.target()});
    let elsewhere = json!({"target": {"fleet": "wherry", "device": "other"}});
    let all = json!({"wherry": 1, "id": "c6", "session": "1.1", "do": "diag", "target": stand.target()}).to_string();
    let by = |text: &str, signer: &Signer| sealed("cmd", text.as_bytes(), &[signer]).to_string();
    let old = command("c2", "web", with(here(), json!({"session": "1.9"})));
    for (n, (message, reason)) in [
        // That there is no such app is the answer to a command that was let in.
        (by(&command("c0", "web", here()), &stand.team), "bad_value"),
        (by(&command("c1", "web", here()), &web), "bad_value"),
        (by(&old, &stand.team), "stale_session"),
        (command("c3", "web", here()), "unsigned"),
        (by(&command("c4", "web", here()), &stand.signer("stranger")), "unknown_key"),
        (by(&command("c5", "other", here()), &web), "out_of_scope"),
        (by(&all, &web), "out_of_scope"),
        (by(&command("c7", "web", elsewhere), &stand.team), "wrong_target"),
        (by(&command("c8", "web", json!({})), &stand.team), "wrong_target"),
        (stand.signed(&stand.document("web", 1), &[&stand.team]).to_string(), "wrong_target"),
        (by("{", &stand.team), "malformed"),
        (by(&bare("web", here()), &stand.team), "wrong_target"),
    ]
    .into_iter()
    .enumerate()
    {
        stand.device.broker.publish(&stand.device.topic(&format!("in/cmd/c{n}")), message.as_bytes(), false);
        let answer = eventually("an answer", || stand.device.said(&format!("res/c{n}")).pop());
        assert_eq!(answer["reason"], reason, "{message}: {answer}");
    }
}

#[test]
fn a_signed_command_is_carried_out_once_whatever_topics_repeat_it() {
    let stand = Stand::new();
    let first = stand.runs(&stand.document("web", 1), &[&stand.team]);
    let command = json!({"wherry": 1, "id": "a1", "session": "1.1", "do": "restart", "app": "web", "target": stand.target()}).to_string();
    let envelope = sealed("cmd", command.as_bytes(), &[&stand.team]).to_string();
    let ask = |id: &str| {
        let before = stand.device.said(&format!("res/{id}")).len();
        stand.device.broker.publish(&stand.device.topic(&format!("in/cmd/{id}")), envelope.as_bytes(), false);
        eventually("an answer", || stand.device.said(&format!("res/{id}")).into_iter().nth(before))
    };
    assert_eq!(ask("a1")["type"], "end");
    let second = eventually("another process", || stand.device.pid("web/main").filter(|pid| *pid != first));
    for id in ["a2", "a3"] {
        let told = ask(id);
        assert!(told["reason"] == "wrong_target" && told["message"].as_str().unwrap().contains("the command is a1"), "{told}");
    }
    assert_eq!(ask("a1")["type"], "end");
    steadily(Duration::from_millis(500), "the second process", || is_alive(second));
}

#[test]
fn a_hold_at_the_device_counts_against_a_root_key_and_keeps_no_key_away() {
    let stand = Stand::new();
    let pid = stand.runs(&stand.document("web", 1), &[&stand.team]);
    stand.device.ok(&["hold", "web"]);
    let waits = |document: &Value| {
        let sent = stand.send(document, &[&stand.team]);
        let held = |a: &Value| a["state"] == "held" && a["detail"]["path"] == "hold";
        eventually("it is held", || stand.device.acks(&sent.sha).into_iter().find(held));
    };
    waits(&with(stand.document("web", 2), json!({"not_after": "9999-12-31T23:59:59Z"})));
    waits(&stand.tombstone("web", 3));
    let retry = json!({"wherry": 1, "id": "a1", "session": "1.1", "do": "retry", "app": "web", "target": stand.target()}).to_string();
    let envelope = sealed("cmd", retry.as_bytes(), &[&stand.team]).to_string();
    stand.device.broker.publish(&stand.device.topic("in/cmd/a1"), envelope.as_bytes(), false);
    let told = eventually("an answer", || stand.device.said("res/a1").pop());
    assert!(told["reason"] == "policy" && told["message"].as_str().unwrap().contains("a person at the device keeps web"), "{told}");
    stand.accepted(&stand.keyset(1, &[grant(&stand.signer("web"), json!({"types": ["cmd"], "apps": ["web"]}))]), &[&stand.team]);
    // What nobody trusted has signed does not even wait.
    stand.refused(&stand.send(&stand.document("web", 4), &[&stand.signer("stranger")]), "unknown_key", "");
    assert_eq!(stand.device.running("web"), pid);
    stand.device.ok(&["unhold", "web"]);
    eventually("it is gone", || stand.device.app("web").is_none().then_some(()));
}

// ---- key files ----

/// Something about the key files that others could have done, or that is a mistake. Nothing unsigned gets in; the command line works and shows it.
fn check_trouble(spoil: impl FnOnce(&Stand), shown: &str, counts: bool) {
    let mut stand = Stand::prepared(Tool::Signify);
    spoil(&stand);
    stand.up();
    stand.refused(&stand.publish("web", manifest("web", sleeper()).to_string().as_bytes()), "unsigned", "");
    let status = stand.device.ok(&["status"]);
    assert!(status.contains(shown), "{status} lacks {shown}");
    let signed = stand.send(&stand.document("web", 1), &[&stand.team]);
    if counts {
        assert_eq!(stand.answer(&signed)["state"], "running");
    } else {
        stand.refused(&signed, "unknown_key", "");
    }
    stand.device.applied(&manifest("own", sleeper()));
    assert!(stand.device.log().contains(shown), "the log says it too");
}

fn team_file(stand: &Stand) -> PathBuf {
    stand.trust_dir().join("team.pub")
}

#[test]
fn a_key_file_that_others_can_write_does_not_count_and_nothing_unsigned_gets_in() {
    let writable = |s: &Stand| fs::set_permissions(team_file(s), Permissions::from_mode(0o664)).unwrap();
    check_trouble(writable, "writable by others", false);
    check_trouble(|s| chown(team_file(s), Some(1234), None).unwrap(), "must be root's", false);
    let open = |s: &Stand| fs::set_permissions(s.trust_dir(), Permissions::from_mode(0o777)).unwrap();
    check_trouble(open, "the directory must not be writable", false);
    let link = |s: &Stand| {
        fs::rename(team_file(s), s.device.dir.join("elsewhere")).unwrap();
        symlink("../elsewhere", team_file(s)).unwrap();
    };
    check_trouble(link, "symbolic link", false);
}

#[test]
fn a_file_that_is_no_key_leaves_the_others_in_force_and_nothing_unsigned_gets_in() {
    check_trouble(|s| s.trust("broken.pub", "untrusted comment: x\n?\n"), "broken.pub does not count", true);
    check_trouble(|s| fs::write(team_file(s), s.team.sign(b"x")).unwrap(), "team.pub does not count", false);
    check_trouble(|s| s.trust("z.pub", &s.team.public()), "z.pub does not count: it has the number", true);
    check_trouble(|s| (0..16).for_each(|n| s.trust(&format!("u{n:02}.pub"), &s.signer(&format!("u{n}")).public())), "at most 16", true);
    check_trouble(|s| s.trust("large.pub", &"x".repeat(3000)), "large.pub does not count", true);
    let fifo = |s: &Stand| nix::unistd::mkfifo(&s.trust_dir().join("fifo.pub"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    check_trouble(fifo, "fifo.pub does not count: it is not a plain file", true);
}

// ---- keysets ----

fn root(signer: &Signer) -> Value {
    grant(signer, json!({"types": ["desired", "cmd", "config", "keyset"]}))
}

#[test]
fn keys_are_replaced_over_the_network_and_stay_replaced_after_a_reboot() {
    let mut stand = Stand::new();
    let (next, ops) = (stand.signer("next"), stand.signer("ops"));
    stand.accepted(&stand.keyset(1, &[root(&next)]), &[&stand.team]);
    assert_eq!(stand.keys(), [stand.team.id(), next.id()]);
    // The first key goes from the device; the next one is on its own.
    fs::remove_file(team_file(&stand)).unwrap();
    stand.reboot();
    assert_eq!(stand.keys(), [next.id()]);
    stand.refused(&stand.send(&stand.document("web", 1), &[&stand.team]), "unknown_key", "");
    stand.refused(&stand.publish("web", manifest("web", sleeper()).to_string().as_bytes()), "unsigned", "");
    stand.runs(&stand.document("web", 2), &[&next]);
    // It hands out another that may not.
    stand.accepted(&stand.keyset(2, &[root(&next), grant(&ops, json!({"types": ["desired"]}))]), &[&next]);
    stand.runs(&stand.document("two", 3), &[&ops]);
    stand.not_accepted(&stand.keyset(3, &[root(&ops)]), &[&ops], "out_of_scope");
    stand.device.end(Signal::SIGKILL);
    stand.device.start();
    stand.device.online();
    assert_eq!(stand.keys(), [next.id(), ops.id()]);
    // It replaces itself.
    let third = stand.signer("third");
    stand.accepted(&stand.keyset(4, &[root(&third)]), &[&next]);
    stand.refused(&stand.send(&stand.document("web", 5), &[&next]), "unknown_key", "");
    stand.refused(&stand.send(&stand.document("two", 6), &[&ops]), "unknown_key", "");
    stand.runs(&stand.document("web", 7), &[&third]);
}

#[test]
fn the_last_root_key_cannot_be_removed_over_the_network() {
    let mut stand = Stand::new();
    let next = stand.signer("next");
    stand.accepted(&stand.keyset(1, &[root(&next)]), &[&stand.team]);
    // With a key file there always is one.
    stand.accepted(&stand.keyset(2, &[]), &[&next]);
    stand.accepted(&stand.keyset(3, &[root(&next)]), &[&stand.team]);
    fs::remove_file(team_file(&stand)).unwrap();
    stand.reboot();
    stand.not_accepted(&stand.keyset(4, &[]), &[&next], "policy");
    stand.not_accepted(&stand.keyset(5, &[grant(&next, json!({"types": ["desired"]}))]), &[&next], "policy");
    assert_eq!(stand.keys(), [next.id()]);
    stand.runs(&stand.document("web", 1), &[&next]);
}

#[test]
fn a_key_file_wins_over_what_a_keyset_says_of_its_key() {
    let stand = Stand::new();
    let less = grant(&stand.team, json!({"types": ["cmd"], "apps": ["other"], "min_seq": 1_000_000}));
    stand.accepted(&stand.keyset(1, &[less]), &[&stand.team]);
    let trust = stand.device.json(&["status"])["trust"].clone();
    assert_eq!(trust["keys"], json!([{"id": stand.team.id(), "root": true, "from": "team.pub"}]));
    stand.runs(&stand.document("web", 1), &[&stand.team]);
    stand.accepted(&stand.keyset(2, &[]), &[&stand.team]);
}

#[test]
fn a_raised_min_seq_shuts_out_what_a_key_signed_before() {
    let stand = Stand::new();
    let ops = stand.signer("ops");
    let from = |min: u64| grant(&ops, json!({"types": ["desired"], "min_seq": min}));
    stand.accepted(&stand.keyset(1, &[from(0)]), &[&stand.team]);
    // Signed in time, and kept back by the broker; also for an app that the device has never heard of.
    let kept_back = [stand.document("web", 20), stand.document("other", 21)];
    let pid = stand.runs(&stand.document("web", 10), &[&ops]);
    stand.accepted(&stand.keyset(2, &[from(100)]), &[&stand.team]);
    for document in kept_back {
        stand.refused(&stand.send(&document, &[&ops]), "stale", "below 100");
    }
    assert_eq!(stand.device.running("web"), pid);
    stand.runs(&stand.document("web", 100), &[&ops]);
    stand.runs(&stand.document("web", 101), &[&stand.team]);
}

#[test]
fn a_group_hands_out_keys_too_and_the_devices_own_keyset_comes_first() {
    let mut stand = Stand::new();
    let ops = stand.signer("ops");
    let topic = "wherry/v1/g/lab/keyset";
    let for_group = |seq: u64, keys: &[Value]| {
        let keyset = with(stand.keyset(seq, keys), json!({"target": {"fleet": "wherry", "group": "lab"}}));
        sealed("keyset", keyset.to_string().as_bytes(), &[&stand.team]).to_string()
    };
    let answer = stand.ask(topic, for_group(9, &[grant(&ops, json!({"types": ["desired"]}))]).as_bytes());
    assert_eq!((&answer["state"], &answer["target"]["group"]), (&json!("accepted"), &json!("lab")), "{answer}");
    stand.runs(&stand.document("web", 1), &[&ops]);
    // Sequence numbers of the device's own keyset are its own.
    stand.accepted(&stand.keyset(1, &[grant(&ops, json!({"types": ["cmd"]}))]), &[&stand.team]);
    stand.refused(&stand.send(&stand.document("web", 2), &[&ops]), "out_of_scope", "type desired");
    let own = sealed("keyset", stand.keyset(10, &[]).to_string().as_bytes(), &[&stand.team]).to_string();
    assert_eq!(stand.ask(topic, own.as_bytes())["reason"], "wrong_target");
    stand.accepted(&stand.keyset(2, &[]), &[&stand.team]);
    assert_eq!(stand.keys(), [stand.team.id(), ops.id()]);
    stand.device.end(Signal::SIGINT);
    stand.device.settings["groups"] = json!([]);
    stand.device.start();
    assert_eq!(stand.keys(), [stand.team.id()], "a group that was left has no say");
}

#[test]
fn a_keyset_that_is_not_as_it_must_be_is_refused_and_the_one_before_stays_in_force() {
    let stand = Stand::new();
    let ops = stand.signer("ops");
    let good = stand.keyset(10, &[grant(&ops, json!({"types": ["desired"]}))]);
    stand.accepted(&good, &[&stand.team]);
    let (team, stranger) = ([&stand.team], stand.signer("stranger"));
    let seal = |keyset: &Value, by: &[&Signer]| sealed("keyset", keyset.to_string().as_bytes(), by).to_string();
    let other_target = |target: Value| seal(&with(stand.keyset(20, &[]), json!({"target": target})), &team);
    let changed = with(
        sealed("keyset", good.to_string().as_bytes(), &team),
        json!({"payload": base64::encode(stand.keyset(21, &[]).to_string().as_bytes())}),
    );
    let limited_root = grant(&ops, json!({"types": ["keyset"], "apps": ["web"]}));
    let text = seal(&stand.keyset(22, &[]), &team);
    for (message, reason) in [
        (stand.keyset(23, &[]).to_string(), "unsigned"),
        (seal(&stand.keyset(24, &[]), &[&stranger]), "unknown_key"),
        (changed.to_string(), "bad_signature"),
        (seal(&stand.keyset(25, &[]), &[&ops]), "out_of_scope"),
        (other_target(json!({"fleet": "wherry", "device": "other"})), "wrong_target"),
        (other_target(json!({"fleet": "other", "device": stand.device.id})), "wrong_target"),
        (other_target(json!({"fleet": "wherry", "group": "lab"})), "wrong_target"),
        (stand.signed(&stand.document("web", 1), &team).to_string(), "wrong_target"),
        (seal(&stand.keyset(9, &[]), &team), "stale"),
        (seal(&stand.keyset(10, &[]), &team), "conflict"),
        (text[..text.len() - 2].to_owned(), "malformed"),
        (sealed("keyset", b"{", &team).to_string(), "malformed"),
        (seal(&stand.keyset(26, &[limited_root]), &team), "bad_value"),
        (seal(&with(stand.keyset(27, &[]), json!({"more": 1})), &team), "unknown_field"),
    ] {
        let answer = stand.ask(&stand.device.topic("in/keyset"), message.as_bytes());
        assert_eq!((&answer["state"], &answer["reason"]), (&json!("rejected"), &json!(reason)), "{message}: {answer}");
        assert!(answer["detail"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{answer}");
    }
    assert_eq!(stand.keys(), [stand.team.id(), ops.id()]);
    // The one in force, once more.
    stand.accepted(&good, &team);
}

#[test]
fn a_keyset_counts_only_once_it_is_on_record() {
    let mut stand = Stand::prepared(Tool::Signify);
    let data = stand.device.dir.join("data");
    fs::create_dir(&data).unwrap();
    let mount = |args: &[&str]| assert!(Command::new("mount").args(args).arg(&data).status().unwrap().success());
    mount(&["-t", "tmpfs", "data"]);
    stand.up();
    let ops = stand.signer("ops");
    let keyset = stand.keyset(1, &[grant(&ops, json!({"types": ["desired"]}))]);
    mount(&["-o", "remount,ro"]);
    stand.not_accepted(&keyset, &[&stand.team], "io");
    assert_eq!(stand.keys(), [stand.team.id()]);
    mount(&["-o", "remount,rw"]);
    stand.accepted(&keyset, &[&stand.team]);
    assert_eq!(stand.keys(), [stand.team.id(), ops.id()]);
    stand.device.end(Signal::SIGINT);
    assert!(Command::new("umount").arg("-l").arg(&data).status().unwrap().success());
}

#[test]
fn a_stream_needs_the_policy_and_a_signature_whose_scope_has_it() {
    let mut stand = Stand::prepared(Tool::Signify);
    stand.device.file("policy.json", r#"{"exec": true}"#);
    stand.up();
    let other = stand.signer("other");
    stand.accepted(&stand.keyset(1, &[grant(&other, json!({"types": ["cmd"], "apps": ["other"]}))]), &[&stand.team]);
    let deploys = stand.signer("deploys");
    stand.accepted(
        &stand.keyset(2, &[grant(&other, json!({"types": ["cmd"], "apps": ["other"]})), grant(&deploys, json!({"types": ["desired"]}))]),
        &[&stand.team],
    );
    stand.runs(&stand.document("web", 1), &[&stand.team]);
    for (n, (signer, reason)) in
        [(None, "unsigned"), (Some(&other), "out_of_scope"), (Some(&deploys), "out_of_scope"), (Some(&stand.team), "")]
            .into_iter()
            .enumerate()
    {
        for more in [json!({"do": "exec", "args": ["/bin/echo", "ran"]}), json!({"do": "logs"})] {
            let id = format!("{}{n}", more["do"].as_str().unwrap());
            let head = json!({"wherry": 1, "id": id, "session": "1.1", "app": "web", "target": stand.target()});
            let command = with(head, more).to_string();
            let message = signer.map_or(command.clone(), |s| sealed("cmd", command.as_bytes(), &[s]).to_string());
            stand.device.broker.publish(&stand.device.topic(&format!("in/cmd/{id}")), message.as_bytes(), false);
            let frames = eventually("an answer", || {
                let frames = stand.device.said(&format!("res/{id}"));
                frames.last().is_some_and(|f| f["type"] != "data").then_some(frames)
            });
            let last = frames.last().unwrap();
            match reason {
                "" => assert_eq!(last["type"], "end", "{id}: {last}"),
                reason => assert_eq!((frames.len(), &last["reason"]), (1, &json!(reason)), "{id}: {last}"),
            }
        }
    }
    assert_eq!(stand.device.said("res/exec3")[0]["data"], "ran\n");
}
