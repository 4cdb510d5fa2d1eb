//! `wherryctl` against a real mosquitto with real devices: keeper, agent and containers.
//!
//! Needs what `keeper.rs` needs, openssl and signify-openbsd.

#[path = "fleet/commands.rs"]
mod commands;
mod harness;
#[path = "fleet/keysets.rs"]
mod keysets;
#[path = "fleet/streams.rs"]
mod streams;

use harness::broker::free_port;
use harness::device::Outcome;
use harness::{Clock, Device, Signal, Value, eventually, json, manifest, shell, sleeper, steadily, with};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

// ---- what the tests stand on ----

/// Two devices of one fleet at one broker; the second is in group `north`.
struct Fleet {
    two: Device,
    one: Device,
}

impl Fleet {
    fn new() -> Self {
        let one = Device::new();
        let brokers = json!([{"host": "127.0.0.1", "port": one.broker.port}]);
        let mut two = Device::prepared(json!({"brokers": brokers, "groups": ["north"]}));
        two.start();
        two.online();
        Self { two, one }
    }

    fn ctl(&self, args: &[&str]) -> Outcome {
        ctl(&self.one, args)
    }

    fn ok(&self, args: &[&str]) -> String {
        let outcome = self.ctl(args);
        assert_eq!(outcome.code, 0, "wherryctl {args:?}: {outcome:?}");
        outcome.out
    }

    /// Fails with this code and sentence.
    fn fails(&self, args: &[&str], code: i32, sentence: &str) {
        check_failure(&self.ctl(args), args, code, sentence);
    }

    fn file(&self, name: &str, content: &str) -> String {
        self.one.file(name, content)
    }

    /// What the broker keeps of an app for a device, or for a group.
    fn kept(&self, topic: &str) -> Value {
        let messages = self.one.broker.messages();
        messages.into_iter().rev().find(|m| m.topic == topic).map_or(Value::Null, |m| m.payload)
    }
}

impl Fleet {
    /// Waits until the listener at the broker has seen such a document, which is a little later than whoever published it is done.
    fn keeps(&self, topic: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the broker keeps {what} on {topic}"), || Some(self.kept(topic)).filter(|kept| holds(kept)))
    }
}

fn check_failure(outcome: &Outcome, args: &[&str], code: i32, sentence: &str) {
    assert_eq!(outcome.code, code, "wherryctl {args:?}: {outcome:?}");
    let line = outcome.err.lines().find(|line| line.starts_with("wherryctl: ")).unwrap_or_default();
    assert!(line.contains(sentence), "wherryctl {args:?}: {outcome:?}");
}

fn program() -> PathBuf {
    std::env::var_os("WHERRYCTL_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_wherryctl")), PathBuf::from)
}

/// A command without any settings of this machine.
fn bare(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env_clear().env("HOME", dir).current_dir(dir).stdin(Stdio::null());
    command
}

fn command(device: &Device, args: &[&str]) -> Command {
    let mut command = bare(&device.dir, args);
    command.env("WHERRYCTL_BROKER", format!("127.0.0.1:{}", device.broker.port));
    command
}

fn ctl(device: &Device, args: &[&str]) -> Outcome {
    command(device, args).output().unwrap().into()
}

/// A command that runs on, and what it has printed so far.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let keep = |lines: &Arc<Mutex<Vec<String>>>, stream: Box<dyn std::io::Read + Send>| {
            let lines = lines.clone();
            std::thread::spawn(move || {
                BufReader::new(stream).lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line));
            });
        };
        keep(&lines, Box::new(out));
        keep(&lines, Box::new(err));
        Self { child, lines }
    }

    fn says(&self, text: &str) {
        let said = || self.lines.lock().unwrap().iter().any(|line| line.contains(text)).then_some(());
        harness::within(harness::PATIENCE, said).unwrap_or_else(|| panic!("never says {text:?}, only {:#?}", self.lines.lock().unwrap()));
    }

    fn ends(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    fn said(&self, text: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn desired(whom: &str, app: &str) -> String {
    match whom.strip_prefix("group ") {
        Some(group) => format!("wherry/v1/g/{group}/desired/{app}"),
        None => format!("wherry/v1/d/{whom}/in/desired/{app}"),
    }
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

// ---- apply and rm ----

#[test]
fn a_file_in_any_language_is_published_and_followed_until_it_runs() {
    let f = Fleet::new();
    let image = harness::layout("plain");
    let yaml = format!("# web\nwherry: 1\napp: web\ncontainers:\n  main:\n    image: {{ref: '{image}'}}\n    command: [sleep, '100000']\n");
    let toml =
        format!("wherry = 1\napp = \"web\"\n[containers.main]\nimage = {{ ref = \"{image}\" }}\ncommand = [\"sleep\", \"100001\"]\n");
    let json = manifest("web", sleeper()).to_string();
    let mut last = 0;
    for (name, content) in [("web.yaml", yaml), ("web.toml", toml), ("web.json", json)] {
        let file = f.file(name, &content);
        let out = f.ok(&["apply", "-d", &f.one.id, &file]);
        assert!(out.contains(&format!("{} web: accepted\n", f.one.id)) && out.ends_with(&format!("{} web: running\n", f.one.id)), "{out}");
        let target = json!({"fleet": "wherry", "device": f.one.id});
        let newer = |kept: &Value| kept["seq"].as_u64() > Some(last) && kept["target"] == target;
        last = f.keeps(&desired(&f.one.id, "web"), "a newer one", newer)["seq"].as_u64().unwrap();
    }
    assert!(f.one.pid("web").is_some() && f.two.app("web").is_none());
    let steps = lines(&f.ok(&["--json", "apply", "-d", &f.one.id, f.one.dir.join("web.yaml").to_str().unwrap()]));
    assert!(steps.iter().any(|s| s["ack"]["state"] == "running"), "{steps:?}");
    assert_eq!(steps.last().unwrap()["outcomes"], json!([{"device": f.one.id, "app": "web", "state": "running", "good": true}]));
    assert!(f.ok(&["rm", "-d", &f.one.id, "web"]).ends_with(&format!("{} web: removed\n", f.one.id)));
    let tombstone = |kept: &Value| kept["remove"] == true && kept["seq"].as_u64() > Some(last) && kept.get("volumes").is_none();
    f.keeps(&desired(&f.one.id, "web"), "a tombstone", tombstone);
    assert!(f.one.app("web").is_none());
    f.ok(&["rm", "--volumes", "-d", &f.one.id, "web"]);
    f.keeps(&desired(&f.one.id, "web"), "a tombstone for volumes too", |kept| kept["volumes"] == true);
}

#[test]
fn what_a_device_keeps_for_later_is_a_good_end_with_its_reason() {
    let f = Fleet::new();
    let _clock = Clock::unknown(f.one.keeper());
    let image = harness::layout("plain");
    let file = |name: &str, number: u32, rollout: &str| {
        let main = format!("containers:\n  main:\n    image: {{ref: '{image}'}}\n    command: [sleep, '{number}']\n");
        f.file(name, &format!("wherry: 1\napp: web\n{rollout}{main}"))
    };
    f.ok(&["apply", "-d", &f.one.id, &file("web.yaml", 100_000, "")]);
    let pid = f.one.running("web");
    f.one.ok(&["hold", "web"]);
    let out = f.ok(&["apply", "-d", &f.one.id, &file("next.yaml", 100_001, "")]);
    assert!(out.ends_with("keeps web as it is: it goes on after `wherry unhold web` there\n"), "{out}");
    let told = f.ok(&["rm", "-d", &f.one.id, "web"]);
    assert!(told.contains(&format!("{} web: held (policy): a person at the device", f.one.id)), "{told}");
    eventually("its report is seen", || f.ok(&["status"]).contains("held (policy), on hold").then_some(()));
    f.fails(&["retry", "-d", &f.one.id, "web"], 77, "a person at the device keeps web as it is");
    assert_eq!(f.one.running("web"), pid);
    f.one.ok(&["unhold", "web"]);
    eventually("it is removed", || f.one.app("web").is_none().then_some(()));
    let hours = "rollout:\n  percent: 100\n  window: {from: 22:30Z, to: 05:00Z, days: [sat, sun]}\n";
    let out = f.ok(&["apply", "-d", &f.one.id, &file("hours.yaml", 100_002, hours)]);
    assert!(out.contains("held (policy): it is for the hours from 22:30Z to 05:00Z") && out.ends_with("not synchronized\n"), "{out}");
    let local = file("local.yaml", 100_002, "rollout: {percent: 100, window: {from: 22:30, to: 05:00Z}}\n");
    let refused = f.ctl(&["apply", "-d", &f.one.id, &local]);
    assert!(refused.code == 65 && refused.err.contains("error: rollout.window.from: must be a time of day in UTC"), "{refused:?}");
}

#[test]
fn a_number_is_above_what_the_broker_keeps_whatever_the_clock_says() {
    let f = Fleet::new();
    let far = 4_000_000_000_000u64;
    f.one.deploy(&with(manifest("web", sleeper()), json!({"seq": far, "target": {"fleet": "wherry", "device": f.one.id}})));
    let file = f.file("web.json", &manifest("web", shell("exec sleep 99999")).to_string());
    f.ok(&["apply", "-d", &f.one.id, &file]);
    f.keeps(&desired(&f.one.id, "web"), "the next number", |kept| kept["seq"] == far + 1);
    // The broker has lost it, the device has not, and has said so.
    f.one.reported("the next number", |r| r["apps"]["web"]["seq"] == far + 1);
    f.one.broker.publish(&desired(&f.one.id, "web"), b"", true);
    f.ok(&["apply", "-d", &f.one.id, &file]);
    f.keeps(&desired(&f.one.id, "web"), "the number after it", |kept| kept["seq"] == far + 2);
    let own = f.file("own.json", &with(manifest("web", sleeper()), json!({"seq": far + 50})).to_string());
    f.ok(&["apply", "-d", &f.one.id, &own]);
    f.keeps(&desired(&f.one.id, "web"), "the file's number", |kept| kept["seq"] == far + 50);
}

#[test]
fn a_group_and_a_selector_reach_those_they_mean() {
    let f = Fleet::new();
    let file = f.file("web.json", &manifest("web", sleeper()).to_string());
    let out = f.ok(&["apply", "--group", "north", &file]);
    assert!(out.contains(&format!("{} web: running", f.two.id)) && !out.contains(&f.one.id), "{out}");
    let target = json!({"fleet": "wherry", "group": "north"});
    f.keeps(&desired("group north", "web"), "the group's document", |kept| kept["target"] == target);
    let reported = format!("wherry/v1/d/{}/out/reported", f.two.id);
    f.keeps(&reported, "a report of it", |kept| kept["apps"]["web"]["target"] == target);
    let seen = |what: &str| f.ctl(&["apply", "--where", what, "--dry-run", &file]).out.lines().count();
    assert_eq!([seen("link=online"), seen("app=web"), seen("version>=0.1,feature!=nothing")], [2, 1, 2]);
    let out = f.ok(&["apply", "--where", "app!=web", &file]);
    assert!(out.contains(&format!("{} web: running", f.one.id)) && !out.contains(&f.two.id), "{out}");
    f.fails(&["apply", "--where", "arch=z80", &file], 1, "no device is what --where asks for, of 2 that the broker knows");
    f.fails(&["apply", "--group", "north", "--expect", "2", "--timeout", "4s", &file], 69, "only 1 of 2 devices answered within 4 s");
    f.fails(&["apply", "--group", "south", "--timeout", "1s", &file], 69, "no device of the group answered within 1 s");
    f.ok(&["rm", "--group", "north", "web"]);
    eventually("the member has removed it", || f.two.app("web").is_none().then_some(()));
    f.ok(&["apply", "-d", &f.two.id, &file]);
    let out = f.ok(&["apply", "--group", "north", &file]);
    assert!(out.contains(&format!("{} web: held (policy): shadowed by ", f.two.id)), "a device's own document goes first: {out}");
}

#[test]
fn what_a_device_does_not_take_is_an_error_with_its_reason() {
    let f = Fleet::new();
    let forbidden = with(sleeper(), json!({"mounts": [{"type": "bind", "source": "/etc", "target": "/x"}]}));
    let missing = with(sleeper(), json!({"command": ["/no/such/program"], "restart": {"policy": "no"}}));
    for (name, container, sentence) in [
        ("forbidden.json", forbidden, "cannot apply web: {} web: rejected (policy): "),
        ("missing.json", missing, "cannot apply web: {} web: failed (exec): "),
    ] {
        let file = f.file(name, &manifest("web", container).to_string());
        f.fails(&["apply", "-d", &f.one.id, &file], 1, &sentence.replace("{}", &f.one.id));
    }
    let good = f.file("good.json", &manifest("web", sleeper()).to_string());
    let args = ["apply", "-d", "nobody", "-d", &f.one.id, "--timeout", "3s", &good];
    f.fails(&args, 69, "cannot apply web: nobody did not answer within 3 s");
    let outcome = f.ctl(&args);
    assert!(outcome.err.contains("warning: nobody was never seen by this broker"), "{outcome:?}");
    assert!(f.one.pid("web").is_some(), "who answers has it all the same");
}

/// A way to the broker that can be cut.
struct Way {
    port: u16,
    cut: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Self { port: listener.local_addr().unwrap().port(), cut: Arc::default(), lines: Arc::default() };
        let (cut, lines) = (way.cut.clone(), way.lines.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let far = TcpStream::connect(("127.0.0.1", broker)).unwrap();
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    lines.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || std::io::copy(&mut from, &mut to).map(|_| to.shutdown(std::net::Shutdown::Both)));
                }
            }
        });
        way
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.lines.lock().unwrap().drain(..).for_each(|line| drop(line.shutdown(std::net::Shutdown::Both)));
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

#[test]
fn what_happens_while_the_line_is_cut_is_learnt_from_the_reports() {
    let f = Fleet::new();
    let way = Way::to(f.one.broker.port);
    let broker = format!("127.0.0.1:{}", way.port);
    let file = f.file("web.json", &manifest("web", sleeper()).to_string());
    harness::kill(f.two.keeper(), Signal::SIGSTOP);
    let apply = Running::new(command(&f.one, &["--broker", &broker, "apply", "-d", &f.two.id, &file]));
    eventually("it is published", || (f.kept(&desired(&f.two.id, "web")) != Value::Null).then_some(()));
    way.cut();
    apply.says("trying again");
    harness::kill(f.two.keeper(), Signal::SIGCONT);
    let reported = format!("wherry/v1/d/{}/out/reported", f.two.id);
    eventually("it runs", || (f.kept(&reported)["apps"]["web"]["state"] == "running").then_some(()));
    assert!(!apply.said("web: running"));
    way.mend();
    apply.says(&format!("{} web: running", f.two.id));
    assert_eq!(apply.ends(), 0);
    harness::kill(f.two.keeper(), Signal::SIGSTOP);
    let never = Running::new(command(&f.one, &["--broker", &broker, "apply", "-d", &f.two.id, "--timeout", "6s", &file]));
    way.cut();
    never.says("no connection to the broker");
    assert_eq!(never.ends(), 69);
    harness::kill(f.two.keeper(), Signal::SIGCONT);
}

#[test]
fn a_person_sees_one_line_written_over_and_who_reads_no_more_changes_nothing() {
    let f = Fleet::new();
    let file = f.file("web.json", &manifest("web", sleeper()).to_string());
    let line = format!("{} --broker 127.0.0.1:{} apply -d {} {file}", program().display(), f.one.broker.port, f.one.id);
    let out = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().expect("util-linux is installed");
    let shown = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && shown.contains("\r\x1b[K0 of 1 done, 1 "), "{shown:?}");
    assert!(shown.ends_with(&format!("\r\x1b[K{} web: running\r\n1 of 1 done\r\n", f.one.id)), "{shown:?}");
    let broken =
        f.file("broken.json", &manifest("web", with(sleeper(), json!({"command": ["/no/such"], "restart": {"policy": "no"}}))).to_string());
    for (file, code) in [(&broken, 1), (&file, 0)] {
        let mut child = command(&f.one, &["apply", "-d", &f.one.id, file]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{file}");
    }
}

#[test]
fn nothing_is_published_where_the_command_itself_is_wrong() {
    let f = Fleet::new();
    let good = f.file("good.json", &manifest("web", sleeper()).to_string());
    let again = f.file("again.yaml", &manifest("web", sleeper()).to_string().replace('{', "{ "));
    let bad = f.file("bad.json", "{}");
    let named = |target: Value| with(manifest("db", sleeper()), json!({"target": target})).to_string();
    let elsewhere = f.file("elsewhere.json", &named(json!({"fleet": "other", "device": f.one.id})));
    let other = f.file("other.json", &named(json!({"fleet": "wherry", "device": "other"})));
    let one = &f.one.id;
    for (args, code, sentence) in [
        (&["apply", &good][..], 64, "nothing says whom it is for"),
        (&["apply", "-d", one, "-g", "north", &good], 64, "only one of --device, --group and --where"),
        (&["apply", "-d", "a b", &good], 64, "a b is not the id of a device"),
        (&["apply", "--where", "arhc=arm", &good], 64, "did you mean arch?"),
        (&["apply", "-d", one, &good, &again], 65, "are both for app web"),
        (&["apply", "-d", one, &good, &bad], 65, "cannot apply"),
        (&["apply", "-d", one, "/no/such/file"], 66, "cannot apply /no/such/file: No such file or directory"),
        (&["apply", "-d", one, &elsewhere], 65, "is for fleet other, and this is fleet wherry"),
        (&["apply", "-d", one, &other], 64, "is for other, and the command line for somebody else"),
        (&["rm", "-d", one, "Web"], 64, "Web is not the name of an app"),
        (&["rm", "web"], 64, "nothing says whom it is for"),
        (&["--config", "/no/such/file", "devices"], 66, "cannot read the settings /no/such/file"),
        (&["status", "nobody"], 1, "the broker knows no device nobody"),
        (&["import", "kubernetes", &good], 64, "cannot import kubernetes"),
        (&["serve", "/no/such/directory"], 66, "cannot serve /no/such/directory"),
    ] {
        f.fails(args, code, sentence);
    }
    let out = f.ok(&["apply", "-d", one, "--dry-run", &good]);
    assert!(out.starts_with(&format!("would publish web for {one}: {}, seq ", desired(one, "web"))), "{out}");
    let sent = f.one.broker.messages().into_iter().filter(|m| m.topic.contains("/desired/")).count();
    assert_eq!(sent, 0);
    let out = f.ok(&["apply", "-d", one, "--no-wait", &good]);
    assert!(out.starts_with("published web for "), "{out}");
    f.one.running("web");
}

#[test]
fn a_device_that_cannot_read_the_schema_is_named_before_anything_is_published() {
    let f = Fleet::new();
    let reported = json!({"wherry": 2, "about": {"version": "9.0.0", "schema": [2, 3], "features": [], "missing": {}, "board": "b", "arch": "arm64",
        "kernel": "9", "ram": 1, "flash_free": 1, "isolation": "container"}, "apps": {}});
    f.one.broker.publish("wherry/v1/d/future/out/reported", reported.to_string().as_bytes(), true);
    let file = f.file("web.json", &manifest("web", sleeper()).to_string());
    let outcome = f.ctl(&["apply", "-w", "version>=9", "--dry-run", &file]);
    assert!(
        outcome.err.contains("warning: future cannot read the document for web: it reads schema 2 to 3, and this document has 1"),
        "{outcome:?}"
    );
    assert!(outcome.out.starts_with("would publish web for future"), "{outcome:?}");
}

// ---- what devices say ----

#[test]
fn status_and_devices_show_what_the_broker_keeps() {
    let mut f = Fleet::new();
    f.one.deploy(&manifest("web", sleeper()));
    f.one.reported("web runs", |r| r["apps"]["web"]["state"] == "running" && r["apps"]["web"]["containers"]["main"]["state"] == "running");
    let table = f.ok(&["status"]);
    let row = table.lines().find(|line| line.contains(" web ")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.starts_with(&f.one.id) && row.contains("online") && row.contains("running") && row.ends_with("main running"), "{row}");
    let detail = f.ok(&["status", &f.one.id]);
    assert!(detail.contains("web/main") && detail.contains("arch: amd64") && detail.contains("link: online"), "{detail}");
    let listed = lines(&f.ok(&["--json", "devices"])).remove(0);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert!(f.ok(&["devices", "-w", &format!("device={}", f.two.id)]).lines().count() == 2);
    // A late will, of the session before, changes nothing.
    let presence = f.one.said("presence").pop().unwrap();
    let late = json!({"state": "offline", "boot": presence["boot"].as_u64().unwrap() - 1, "conn": 99});
    let link = |f: &Fleet, id: &str| lines(&f.ok(&["--json", "status", id])).remove(0)["link"].clone();
    let watch = Running::new(command(&f.one, &["watch", &f.one.id]));
    watch.says(": online");
    f.one.broker.publish(&f.one.topic("out/presence"), late.to_string().as_bytes(), false);
    f.one.broker.publish(&f.one.topic("out/ack/probe"), ack_of(&f.one.id).as_bytes(), false);
    watch.says("probe: running");
    assert!(!watch.said("offline"), "{:?}", watch.lines.lock().unwrap());
    f.two.end(Signal::SIGINT);
    let two = f.two.id.clone();
    eventually("the broker knows", || (link(&f, &two) == "offline").then_some(()));
    f.two.start();
}

fn ack_of(device: &str) -> String {
    let sha = wherry::image::Digest::of(b"x").hex();
    json!({"wherry": 1, "target": {"fleet": "wherry", "device": device}, "app": "probe", "sha256": sha, "attempt": 1, "state": "running", "boot": 1, "uptime_s": 1})
        .to_string()
}

/// Publishes messages over one connection, as MQTT 3.1.1 writes them: retained ones at QoS 1, as devices do, others at QoS 0.
fn publish_all(port: u16, retained: bool, messages: impl Iterator<Item = (String, String)>) {
    let remaining = |mut n: usize| {
        let mut bytes = Vec::new();
        while n > 127 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    };
    let text = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let packet = |kind: u8, body: Vec<u8>| [vec![kind], remaining(body.len()), body].concat();
    let mut line = TcpStream::connect(("127.0.0.1", port)).unwrap();
    line.write_all(&packet(0x10, [text("MQTT"), vec![4, 2, 0, 60], text(&format!("test-{retained}"))].concat())).unwrap();
    line.read_exact(&mut [0; 4]).unwrap();
    for (topic, payload) in messages {
        let (kind, pkid) = if retained { (0x33, vec![0, 1]) } else { (0x30, Vec::new()) };
        line.write_all(&packet(kind, [text(&topic), pkid, payload.into()].concat())).unwrap();
        if retained {
            line.read_exact(&mut [0; 4]).unwrap();
        }
    }
    // The answer to a ping comes when all before it was taken.
    line.write_all(&[0xC0, 0]).unwrap();
    line.read_exact(&mut [0; 2]).unwrap();
}

#[test]
fn a_fleet_of_thousands_is_seen_whole_while_some_of_it_always_speaks() {
    let mut device = Device::prepared(json!({}));
    device.broker.up();
    const COUNT: usize = 3000;
    let presence = json!({"state": "online", "boot": 1, "conn": 1, "version": "0.1.0", "interval_s": 3600}).to_string();
    let reported = |i: usize| {
        json!({"wherry": 1, "about": {"version": format!("0.1.{i}"), "schema": [1, 1], "features": [], "missing": {}, "board": "b", "arch": "arm64",
            "kernel": "6.1", "ram": 1, "flash_free": 1, "isolation": "container"}, "apps": {}})
        .to_string()
    };
    let both = |i: usize| {
        let topic = |rest: &str| format!("wherry/v1/d/r{i:04}/out/{rest}");
        [(topic("presence"), presence.clone()), (topic("reported"), reported(i))]
    };
    publish_all(device.broker.port, true, (0..COUNT).flat_map(both));
    let (port, over) = (device.broker.port, Arc::new(AtomicBool::new(false)));
    let speaker = std::thread::spawn({
        let over = over.clone();
        let stats = (String::from("wherry/v1/d/r0000/out/stats"), String::from("{}"));
        move || {
            let steadily = std::iter::from_fn(|| {
                std::thread::sleep(Duration::from_millis(20));
                (!over.load(Ordering::Relaxed)).then(|| stats.clone())
            });
            publish_all(port, false, steadily);
        }
    });
    let watch = Running::new(command(&device, &["watch"]));
    let listed = lines(&ctl(&device, &["--json", "devices"]).out).remove(0);
    let whole = |d: &&Value| d["link"] == "online" && d["about"]["arch"] == "arm64";
    assert_eq!(listed.as_array().unwrap().iter().filter(whole).count(), COUNT);
    assert_eq!(ctl(&device, &["devices", "-w", "version>=0.1.1000,version<0.1.1010"]).out.lines().count(), 11);
    watch.says("r2999: online");
    over.store(true, Ordering::Relaxed);
    speaker.join().unwrap();
    device.broker.down();
}

#[test]
fn a_device_that_says_nothing_for_three_intervals_is_silent() {
    let f = Fleet::new();
    let presence = json!({"state": "online", "boot": 1, "conn": 1, "version": "0.1.0", "interval_s": 1});
    f.one.broker.publish("wherry/v1/d/mute/out/presence", presence.to_string().as_bytes(), true);
    let listed = lines(&f.ok(&["--json", "devices", "--listen", "5s"])).remove(0);
    let link = |id: &str| listed.as_array().unwrap().iter().find(|d| d["device"] == id).map(|d| d["link"].clone());
    assert_eq!((link("mute"), link(&f.one.id)), (Some(json!("silent")), Some(json!("online"))));
}

#[test]
fn watch_shows_steps_restarts_and_the_link() {
    let mut f = Fleet::new();
    let plain = Running::new(command(&f.one, &["watch"]));
    let as_json = Running::new(command(&f.one, &["--json", "watch", &f.one.id]));
    plain.says(&format!("{}: online, session ", f.two.id));
    as_json.says("/out/presence");
    f.one.deploy(&manifest("web", sleeper()));
    plain.says(&format!("{} web: running", f.one.id));
    plain.says(&format!("{} web/main: running, 0 restarts", f.one.id));
    as_json.says("/out/ack/web");
    assert!(!as_json.said(&f.two.id));
    assert!(as_json.lines.lock().unwrap().iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    f.two.end(Signal::SIGINT);
    plain.says(&format!("{}: offline", f.two.id));
    f.two.start();
    // The broker goes away for a while.
    f.one.broker.down();
    plain.says("trying again");
    f.one.broker.up();
    eventually("the device is back", || {
        let up = f.one.json(&["status"])["link"]["state"] == "online";
        up.then_some(())
    });
    let before = plain.lines.lock().unwrap().len();
    eventually("watch is back", || {
        f.one.broker.publish(&f.one.topic("out/ack/probe"), ack_of(&f.one.id).as_bytes(), false);
        plain.lines.lock().unwrap()[before..].iter().any(|line| line.contains("probe: running")).then_some(())
    });
}

#[test]
fn diff_tells_what_apply_would_change() {
    let f = Fleet::new();
    let file = f.file("web.json", &manifest("web", sleeper()).to_string());
    let diff = |file: &str| f.ctl(&["diff", "-d", &f.one.id, file]);
    assert_eq!((diff(&file).code, diff(&file).out), (1, format!("{} web: the broker keeps nothing of it yet\n", f.one.id)));
    f.ok(&["apply", "-d", &f.one.id, &file]);
    assert_eq!((diff(&file).code, diff(&file).out), (0, String::new()));
    let changed = f.file("changed.json", &manifest("web", with(sleeper(), json!({"init": false, "env": {"A": "1"}}))).to_string());
    let found = diff(&changed);
    let expected = format!("{0} web: ~ containers.main.init: true -> false\n{0} web: + containers.main.env: {{\"A\":\"1\"}}\n", f.one.id);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((found.code, sorted(&found.out)), (1, sorted(&expected)), "{found:?}");
    let json = lines(&f.ctl(&["--json", "diff", "-w", "app=web", &changed]).out);
    assert_eq!((json.len(), json[0]["changes"].as_array().unwrap().len()), (1, 2), "{json:?}");
}

// ---- signatures ----

/// The container with its image named by digest.
fn pinned(container: Value) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(harness::image::dir().join("layout/index.json")).unwrap()).unwrap();
    let is_plain = |m: &&Value| m["annotations"]["org.opencontainers.image.ref.name"] == "plain";
    let digest = index["manifests"].as_array().unwrap().iter().find(is_plain).unwrap()["digest"].clone();
    with(container, json!({"image": {"ref": harness::layout("plain"), "digest": digest}}))
}

#[test]
fn a_device_that_trusts_a_key_takes_what_is_signed_by_it() {
    let mut device = Device::prepared(json!({}));
    let id = device.id.clone();
    let ok = |device: &Device, args: &[&str]| {
        let outcome = ctl(device, args);
        assert_eq!(outcome.code, 0, "wherryctl {args:?}: {outcome:?}");
        outcome.out
    };
    let fails = |device: &Device, args: &[&str], code: i32, sentence: &str| check_failure(&ctl(device, args), args, code, sentence);
    ok(&device, &["keygen", "team"]);
    ok(&device, &["keygen", "other"]);
    fails(&device, &["keygen", "team"], 73, "team.sec is there already");
    let mode = |name: &str| fs::metadata(device.dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("team.sec"), mode("team.pub")), (0o600, 0o644));
    fs::create_dir(device.dir.join("trust")).unwrap();
    fs::copy(device.dir.join("team.pub"), device.dir.join("trust/team.pub")).unwrap();
    device.settings["trust_dir"] = json!(device.dir.join("trust"));
    device.broker.up();
    device.start();
    device.online();
    let file = device.file("web.json", manifest("web", pinned(sleeper())).to_string());
    let outcome = ctl(&device, &["apply", "-d", &id, &file]);
    check_failure(&outcome, &["apply"], 1, "rejected (unsigned)");
    assert!(outcome.err.contains(&format!("warning: {id} takes signed documents only")), "{outcome:?}");
    fails(&device, &["apply", "-d", &id, "-k", "other.sec", &file], 1, "rejected (unknown_key)");
    assert!(ok(&device, &["apply", "-d", &id, "-k", "other.sec", "-k", "team.sec", &file]).ends_with("web: running\n"));
    let loose = device.file("loose.json", manifest("web", sleeper()).to_string());
    fails(&device, &["apply", "-d", &id, "-k", "team.sec", &loose], 65, "needs `digest` in a signed document");
    fails(&device, &["apply", "-d", &id, "-k", "team.pub", &file], 65, "cannot sign with team.pub: it is the public key");
    fails(&device, &["apply", "-d", &id, "-k", "no.sec", &file], 66, "cannot read the key no.sec");
    assert_eq!(ctl(&device, &["diff", "-d", &id, &file]).code, 0, "what the broker keeps is looked into");
    fails(&device, &["retry", "-d", &id, "-k", "team.sec", "web"], 65, "it refused (bad_value): web has not failed");
    // Signed on another machine, published by this one.
    let document =
        with(manifest("web", pinned(sleeper())), json!({"seq": 3_000_000_000_000u64, "target": {"fleet": "wherry", "device": id}}));
    device.file("far.json", document.to_string());
    let sealed = ok(&device, &["sign", "-k", "other.sec", "far.json"]);
    device.file("far.envelope", &sealed);
    fails(&device, &["verify", "-k", "team.pub", "far.envelope"], 1, "has no good signature of these keys");
    device.file("far.envelope", ok(&device, &["sign", "-k", "team.sec", "far.envelope"]));
    assert!(ok(&device, &["verify", "-k", "team.pub", "far.envelope"]).contains("good signature"));
    fails(&device, &["sign", "-k", "team.sec", "far.envelope"], 65, "has signed it already");
    fails(&device, &["sign", "-k", "team.sec", "web.json"], 65, "a signed document must have");
    fails(&device, &["apply", "-k", "team.sec", "far.envelope"], 64, "is signed already");
    assert!(ok(&device, &["apply", "far.envelope"]).ends_with("web: running\n"));
    fails(&device, &["apply", "far.envelope"], 65, "has number 3000000000000, and 3000000000000 is there already");
    assert!(ok(&device, &["rm", "-d", &id, "-k", "team.sec", "web"]).ends_with("web: removed\n"));
    let mut tampered: Value = serde_json::from_str(&sealed).unwrap();
    tampered["payload"] = json!(wherry::trust::base64::encode(document.to_string().replace("100000", "100001").as_bytes()));
    device.file("tampered.envelope", tampered.to_string());
    fails(&device, &["verify", "-k", "other.pub", "tampered.envelope"], 1, "has no good signature of these keys");
}

#[test]
fn what_wherryctl_signs_is_good_for_signify_and_for_wherry_itself() {
    let device = Device::prepared(json!({}));
    let run = |command: &mut Command| {
        let out = command.current_dir(&device.dir).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    run(Command::new("signify-openbsd").args(["-G", "-n", "-p", "team.pub", "-s", "team.sec"]));
    let document = r#"{"wherry":1,"app":"web","seq":1,"target":{"fleet":"wherry","device":"r"},"remove":true}"#;
    device.file("web.json", document);
    let envelope: Value = serde_json::from_slice(&run(&mut bare(&device.dir, &["sign", "-k", "team.sec", "web.json"]))).unwrap();
    let base64 = |text: &Value| wherry::trust::base64::decode(text.as_str().unwrap()).unwrap();
    assert_eq!(base64(&envelope["payload"]), document.as_bytes(), "to the last byte");
    let key = base64(&json!(fs::read_to_string(device.dir.join("team.pub")).unwrap().lines().nth(1).unwrap()));
    let signature = [&key[..10], &base64(&envelope["signatures"][0]["sig"])].concat();
    device.file("web.sig", format!("untrusted comment: x\n{}\n", wherry::trust::base64::encode(&signature)));
    device.file("web.message", format!("wherry-v1:desired:{document}"));
    run(Command::new("signify-openbsd").args(["-V", "-q", "-p", "team.pub", "-m", "web.message", "-x", "web.sig"]));
    device.file("web.envelope", envelope.to_string());
    let said = String::from_utf8(run(Command::new(&device.program).args(["validate", "web.envelope", "team.pub"]))).unwrap();
    assert!(said.contains("web.envelope: good envelope") && said.contains("team.pub: good public key"), "{said}");
    let keyset = r#"{"wherry":1,"seq":1,"target":{"fleet":"wherry","device":"r"},"keys":[]}"#;
    let keys = keyset.replace("[]", &format!(r#"[{{"key":"{}","types":["keyset"]}}]"#, wherry::trust::base64::encode(&key)));
    device.file("keys.json", keys);
    let sealed: Value = serde_json::from_slice(&run(&mut bare(&device.dir, &["sign", "-k", "team.sec", "keys.json"]))).unwrap();
    assert_eq!(sealed["type"], "keyset");
}

// ---- serve ----

#[test]
fn serve_gives_devices_what_they_lack_where_the_broker_keeps_nothing() {
    let mut device = Device::prepared(json!({"groups": ["north"]}));
    device.settings["brokers"][0]["retained"] = json!(false);
    device.broker.configure("retain_available false");
    device.broker.up();
    let dir = device.dir.join("fleet");
    let put = |path: &str, content: &str| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    put(&format!("device/{}/web.json", device.id), &with(manifest("web", sleeper()), json!({"seq": 5})).to_string());
    put("group/north/all.json", &manifest("all", sleeper()).to_string());
    put("group/south/none.json", &manifest("none", sleeper()).to_string());
    put(&format!("device/{}/bad.yaml", device.id), "wherry: 1\napp: bad\n");
    put(&format!("device/{}/named.json", device.id), &manifest("another", sleeper()).to_string());
    put(&format!("device/{}/README", device.id), "not a document");
    put("device/stranger/web.json", &manifest("web", sleeper()).to_string());
    let serve = Running::new(command(&device, &["serve", dir.to_str().unwrap()]));
    serve.says("serving ");
    device.start();
    device.online();
    device.running("web");
    device.running("all");
    assert!(device.app("none").is_none());
    serve.says("left out: error: document: the field `containers` is missing");
    serve.says("named.json: is for app another, which is not the name of the file");
    assert!(!serve.said("README") && !serve.said("stranger"));
    // The same again changes nothing, what is newer does.
    let count = |text: &str| device.broker.messages().iter().filter(|m| m.topic.ends_with(text)).count();
    let ask = |have: Value| device.broker.publish(&device.topic("out/get"), json!({"have": have}).to_string().as_bytes(), false);
    let target = json!({"fleet": "wherry", "device": device.id});
    let served = eventually("the listener has seen it", || Some(count("/in/desired/web")).filter(|n| *n > 0));
    let before = (served, device.running("web"));
    ask(json!([{"target": target, "app": "web", "seq": 5}]));
    steadily(Duration::from_secs(1), "web is not served again", || count("/in/desired/web") == before.0);
    put(&format!("device/{}/web.json", device.id), &with(manifest("web", shell("exec sleep 5000")), json!({"seq": 6})).to_string());
    ask(json!([{"target": target, "app": "web", "seq": 5}]));
    eventually("the newer one runs", || device.pid("web").filter(|pid| *pid != before.1));
    put(&format!("device/{}/web.json", device.id), r#"{"wherry": 1, "app": "web", "seq": 7, "remove": true}"#);
    ask(json!([{"target": target, "app": "web", "seq": 6}]));
    eventually("a tombstone is served too", || device.app("web").is_none().then_some(()));
}

// ---- the line to the broker ----

#[test]
fn a_broker_that_cannot_be_used_is_told_in_one_sentence() {
    let mut device = Device::prepared_with_login(json!({}), Some(("op", "hunter2")));
    device.broker.up();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (broker, nobody) = (format!("127.0.0.1:{}", device.broker.port), format!("127.0.0.1:{}", free_port()));
    let try_with = |variables: &[(&str, &str)], code: i32, sentence: &str| {
        let mut command = bare(&device.dir, &["devices"]);
        command.envs(variables.iter().copied());
        let outcome: Outcome = command.output().unwrap().into();
        if code == 0 {
            assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome:?}");
        } else {
            check_failure(&outcome, &["devices"], code, sentence);
        }
        assert!(!format!("{outcome:?}").contains("hunter"), "a password is shown: {outcome:?}");
    };
    try_with(&[], 64, "no broker is set");
    try_with(&[("WHERRYCTL_BROKER", &nobody)], 69, "Connection refused");
    try_with(&[("WHERRYCTL_BROKER", "no-such-host.invalid")], 69, "no connection to the broker no-such-host.invalid:1883: ");
    try_with(&[("WHERRYCTL_BROKER", &broker)], 77, "not authorized");
    let login = [("WHERRYCTL_BROKER", broker.as_str()), ("WHERRYCTL_USERNAME", "op"), ("WHERRYCTL_PASSWORD", "hunter3")];
    try_with(&login, 77, "not authorized");
    try_with(&[login[0], login[1], ("WHERRYCTL_PASSWORD", "hunter2")], 0, "");
    let config = format!("broker = \"{broker}\"\nusername = \"op\"\npassword = \"hunter2\"\n");
    fs::create_dir_all(device.dir.join(".config/wherry")).unwrap();
    let path = device.dir.join(".config/wherry/wherryctl.toml");
    fs::write(&path, &config).unwrap();
    let open: Outcome = bare(&device.dir, &["devices"]).output().unwrap().into();
    assert!(open.code == 0 && open.err.contains("has a password in it, and others may read it"), "{open:?}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    try_with(&[], 0, "");
    try_with(&[("WHERRYCTL_PASSWORD", "hunter3")], 77, "not authorized");
    fs::write(&path, config.replace("\"hunter2\"", "hunter2")).unwrap();
    try_with(&[], 65, "they are not TOML (line 3, column 12)");
    drop(silent);
    device.broker.down();
}

/// A certificate authority with what it signs, by openssl.
struct Authority(PathBuf);

impl Authority {
    fn new(dir: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        let authority = Self(dir.to_owned());
        authority.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=ca -keyout ca.key -out ca.pem");
        for name in ["server", "client"] {
            authority.openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
            authority.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san -out {name}.pem"
            ));
        }
        authority
    }

    fn openssl(&self, args: &str) {
        let out = Command::new("openssl").args(args.split_whitespace()).current_dir(&self.0).output().expect("openssl is installed");
        assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn tls_takes_the_right_authority_and_certificate_and_names_what_is_wrong() {
    let mut device = Device::prepared(json!({}));
    let (ours, other) = (Authority::new(&device.dir.join("ours")), Authority::new(&device.dir.join("other")));
    let (port, strict) = (free_port(), free_port());
    let files = format!("cafile {}\ncertfile {}\nkeyfile {}", ours.file("ca.pem"), ours.file("server.pem"), ours.file("server.key"));
    device.broker.configure(&format!("listener {port} 127.0.0.1\n{files}\nlistener {strict} 127.0.0.1\n{files}\nrequire_certificate true"));
    device.broker.up();
    let (open, strict) = (format!("mqtts://127.0.0.1:{port}"), format!("mqtts://127.0.0.1:{strict}"));
    let plain = format!("mqtts://127.0.0.1:{}", device.broker.port);
    let try_with = |broker: &str, ca: &str, client: Option<&Authority>, code: i32, sentence: &str| {
        let mut command = bare(&device.dir, &["devices"]);
        command.env("WHERRYCTL_BROKER", broker).env("WHERRYCTL_CA", ca);
        if let Some(authority) = client {
            command.env("WHERRYCTL_CERTIFICATE", authority.file("client.pem")).env("WHERRYCTL_KEY", authority.file("client.key"));
        }
        let outcome: Outcome = command.output().unwrap().into();
        if code == 0 { assert_eq!(outcome.code, 0, "{outcome:?}") } else { check_failure(&outcome, &[broker], code, sentence) }
    };
    try_with(&open, &ours.file("ca.pem"), None, 0, "");
    try_with(&strict, &ours.file("ca.pem"), Some(&ours), 0, "");
    try_with(&open, &other.file("ca.pem"), None, 69, "TLS: the broker's certificate is not signed by an authority in the CA file");
    try_with(&open.replace("127.0.0.1", "localhost"), &ours.file("ca.pem"), None, 69, "TLS: the broker's certificate is not for this name");
    try_with(&strict, &ours.file("ca.pem"), None, 69, "no connection to the broker");
    try_with(&strict, &ours.file("ca.pem"), Some(&other), 69, "no connection to the broker");
    try_with(&plain, &ours.file("ca.pem"), None, 69, "no connection to the broker");
    try_with(&open, "/no/such/ca.pem", None, 66, "TLS: cannot read /no/such/ca.pem: No such file or directory");
    try_with(&open, &ours.file("ca.key"), None, 65, "ca.key holds no certificate in PEM");
    device.broker.down();
}

#[test]
fn an_access_list_that_keeps_a_document_out_is_named() {
    let mut device = Device::prepared(json!({}));
    let list = device.file("acl", "topic read wherry/#\ntopic write wherry/v1/d/+/out/#\ntopic read #\ntopic write wherry/probe\n");
    device.broker.configure(&format!("acl_file {list}"));
    device.broker.up();
    let file = device.file("web.json", manifest("web", sleeper()).to_string());
    let outcome = ctl(&device, &["apply", "-d", "r", "--timeout", "1s", &file]);
    check_failure(&outcome, &["apply"], 69, "r did not answer within 1 s");
    assert!(outcome.err.contains("hint: the broker did not pass the document on"), "{outcome:?}");
    device.broker.down();
}

// ---- files ----

#[test]
fn each_bad_file_is_refused_with_its_faults_in_its_own_lines() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fleet/bad");
    let mut files: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_none_or(|e| e != "expected")).collect();
    files.sort();
    assert!(files.len() >= 12);
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let outcome: Outcome = bare(&dir, &["apply", "-d", "r", name]).output().unwrap().into();
        assert_eq!((outcome.code, outcome.out.as_str()), (65, ""), "{name}: {outcome:?}");
        let expected = dir.join(format!("{name}.expected"));
        if std::env::var_os("WHERRY_BLESS").is_some() {
            fs::write(&expected, &outcome.err).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_else(|e| panic!("cannot read {}: {e}", expected.display()));
        assert_eq!(outcome.err, wanted, "{name}");
    }
}

#[test]
fn an_imported_compose_file_can_be_applied_once_its_image_is_put_in() {
    let f = Fleet::new();
    let compose = "name: shop\nservices:\n  front:\n    image: nginx:1.27\n    command: sleep 100000\n    network_mode: none\n    ports: ['80:80']\n    environment: {A: 1}\n\
                   \x20   depends_on: {back: {condition: service_healthy}}\n  back:\n    image: nginx:1.27\n    command: sleep 100001\n    network_mode: none\n\
                   \x20   healthcheck: {test: exit 0, interval: 1s}\n";
    let file = f.file("compose.yml", compose);
    let outcome = f.ctl(&["import", "compose", &file]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.err.contains(&format!("{file}:7:5: services.front.ports: ")), "{outcome:?}");
    let manifest = f.file("shop.json", &outcome.out);
    f.fails(&["apply", "-d", &f.one.id, &manifest], 65, "2 faults (above)");
    fs::write(&manifest, outcome.out.replace("nginx:1.27", &harness::layout("plain"))).unwrap();
    f.ok(&["apply", "-d", &f.one.id, &manifest]);
    f.one.running("shop/front");
    let listed = f.one.json(&["ls"]).to_string();
    assert!(listed.contains("\"health\":\"healthy\""), "front waits for back: {listed}");
    let answer = lines(&f.ok(&["--json", "import", "compose", &file, "--app", "other"])).remove(0);
    assert_eq!((&answer["manifest"]["app"], &answer["left"][1]["line"]), (&json!("other"), &json!(7)), "{answer}");
}

#[test]
fn help_names_every_command_and_readme_does_too() {
    let help: Outcome = bare(Path::new("/"), &["help"]).output().unwrap().into();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let verbs: Vec<&str> = help
        .out
        .lines()
        .skip_while(|l| !l.starts_with("usage"))
        .skip(2)
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(verbs.len() >= 12 && verbs.contains(&"apply"), "{help:?}");
    for verb in verbs {
        assert!(readme.contains(&format!("`wherryctl {verb}`")), "README.md says nothing of wherryctl {verb}");
    }
    // Options are looked at before the help is shown.
    let shown: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    wherryctl ")).collect();
    assert!(shown.len() >= 5, "{shown:?}");
    // Some write into a file where they run.
    let dir = std::env::temp_dir().join(format!("wherry-readme-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    for line in shown {
        let script = format!("exec \"$0\" --help {line}");
        let out = Command::new("sh").args(["-c", &script]).arg(program()).current_dir(&dir).output().unwrap();
        assert!(out.status.success(), "README.md: wherryctl {line}: {}", String::from_utf8_lossy(&out.stderr));
    }
    fs::remove_dir_all(dir).unwrap();
}
