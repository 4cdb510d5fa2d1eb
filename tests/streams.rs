//! Streams over a real broker: the output of containers, and programs run in them, by commands from the network.

mod harness;

use harness::{Device, Signal, Value, eventually, is_alive, json, manifest, shell, sleeper, steadily, with};
use std::fs;
use std::time::Duration;
use wherry::image::Digest;
use wherry::trust::base64;

/// A device that lets commands run programs, with an app `web` that sleeps.
fn device() -> Device {
    device_with(sleeper())
}

fn device_with(container: Value) -> Device {
    let mut device = Device::prepared(json!({}));
    device.file("policy.json", r#"{"exec": true}"#);
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&manifest("web", container));
    device.running("web");
    device
}

fn session(device: &Device) -> String {
    let presence = device.said("presence").pop().expect("it is online");
    format!("{}.{}", presence["boot"], presence["conn"])
}

fn send(device: &Device, id: &str, command: Value) {
    let whole = with(json!({"wherry": 1, "session": session(device), "app": "web"}), command);
    device.broker.publish(&device.topic(&format!("in/cmd/{id}")), whole.to_string().as_bytes(), false);
}

fn exec(device: &Device, id: &str, script: &str, more: Value) {
    send(device, id, with(json!({"do": "exec", "args": ["/bin/sh", "-c", script]}), more));
}

fn frames(device: &Device, id: &str) -> Vec<Value> {
    device.said(&format!("res/{id}"))
}

/// All frames of an answer, which is whole: in order, and with one end.
fn answer(device: &Device, id: &str) -> Vec<Value> {
    let all = eventually("the answer's end", || {
        let frames = frames(device, id);
        frames.last().filter(|f| f["type"] != "data").cloned().map(|_| frames)
    });
    let numbers: Vec<u64> = all.iter().map(|f| f["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..all.len() as u64).collect::<Vec<_>>(), "{id}");
    assert!(all[..all.len() - 1].iter().all(|f| f["type"] == "data"), "{id}");
    all
}

/// What these frames carry, of one output or of whatever there is.
fn bytes(frames: &[Value], stream: Option<&str>) -> Vec<u8> {
    let of_this = frames.iter().filter(|f| f["type"] == "data" && stream.is_none_or(|s| f["stream"] == s));
    of_this
        .flat_map(|f| match (f["data"].as_str(), f["base64"].as_str()) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(text)) => base64::decode(text).expect("base64"),
            _ => panic!("neither text nor base64, or both: {f}"),
        })
        .collect()
}

fn text(frames: &[Value], stream: Option<&str>) -> String {
    String::from_utf8(bytes(frames, stream)).unwrap()
}

fn last(frames: &[Value]) -> &Value {
    frames.last().unwrap()
}

/// Refused in one frame, with this reason and these words.
fn check_refused(device: &Device, id: &str, reason: &str, words: &str) {
    let frames = answer(device, id);
    let told = last(&frames);
    assert_eq!((frames.len(), &told["type"], &told["reason"]), (1, &json!("error"), &json!(reason)), "{id}: {told}");
    assert!(told["message"].as_str().unwrap().contains(words), "{id}: {told}");
}

/// Processes in the container whose command line has this word.
fn tasks_of(device: &Device, word: &str) -> Vec<i32> {
    let has = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().split(|b| *b == 0).any(|w| w == word.as_bytes());
    device.tasks("web/main").into_iter().filter(|pid| has(pid) && is_alive(*pid)).collect()
}

fn gone(device: &Device, word: &str) {
    eventually(&format!("nothing of {word} is left"), || tasks_of(device, word).is_empty().then_some(()));
    let recorded = || fs::read_dir(device.dir.join("run/execs")).map_or(0, Iterator::count);
    eventually("nothing is on record", || (recorded() == 0).then_some(()));
}

// ---- exec ----

#[test]
fn a_program_tells_its_outputs_apart_and_how_it_ended() {
    let device = device();
    for (id, script, out, err, exit) in [
        ("both", "echo one; echo two >&2; exit 3", "one\n", "two\n", json!({"code": 3})),
        ("quiet", "exit 0", "", "", json!({"code": 0})),
        ("killed", "kill -KILL $$", "", "", json!({"signal": 9})),
        ("unended", "printf 'no line end'", "no line end", "", json!({"code": 0})),
        ("closed", "exec >&- 2>&-; sleep 0.3; exit 5", "", "", json!({"code": 5})),
        ("unicode", "printf 'a\\342'; sleep 0.3; printf '\\202\\254'", "a€", "", json!({"code": 0})),
        ("stdin", "read x && echo got; echo \"end $x\"", "end \n", "", json!({"code": 0})),
        ("terminal", "test -t 0 || test -t 1 || echo none", "none\n", "", json!({"code": 0})),
        ("left", "sleep 86401 & echo $!>/dev/null", "", "", json!({"code": 0})),
    ] {
        exec(&device, id, script, json!({}));
        let frames = answer(&device, id);
        assert_eq!((text(&frames, Some("stdout")), text(&frames, Some("stderr"))), (out.into(), err.into()), "{id}");
        assert_eq!((&last(&frames)["type"], &last(&frames)["exit"]), (&json!("end"), &exit), "{id}: {frames:?}");
    }
    gone(&device, "86401");
    // Whoever looks at the device later sees that something was run, and no argument.
    assert!(device.log().contains("command both runs \"/bin/sh\" in web") && !device.log().contains("echo two"), "{}", device.log());
    // Environment and user.
    exec(&device, "env", "echo $WHO $(id -u):$(id -g)", json!({"env": {"WHO": "me"}, "user": "12:34", "container": "main"}));
    assert_eq!(text(&answer(&device, "env"), None), "me 12:34\n");
    // No shell: the words as they are.
    send(&device, "words", json!({"do": "exec", "args": ["/bin/echo", "a  b", "$HOME", ""]}));
    assert_eq!(text(&answer(&device, "words"), None), "a  b $HOME \n");
}

#[test]
fn what_cannot_be_run_is_told_in_one_frame() {
    let device = device();
    device.applied(&manifest("local", sleeper()));
    let mut two = manifest("two", sleeper());
    two["containers"]["other"] = sleeper();
    device.deploy(&two);
    device.deploy(&manifest("over", with(shell("exit 0"), json!({"restart": {"policy": "no"}}))));
    device.becomes("over/main", "exited");
    let args = json!(["/bin/true"]);
    for (id, command, reason, words) in [
        ("nothing", json!({"args": ["/no/such/program"]}), "exec", "/no/such/program"),
        ("app", json!({"app": "db", "args": args}), "bad_value", "no app db"),
        ("container", json!({"container": "db", "args": args}), "bad_value", "no container web/db"),
        ("which", json!({"app": "two", "args": args}), "bad_value", "name one"),
        ("ended", json!({"app": "over", "args": args}), "launch", "not running"),
        ("local", json!({"app": "local", "args": args}), "policy", "local command line"),
        ("user", json!({"user": "nobody-knows", "args": args}), "bad_value", "nobody-knows"),
        ("late", json!({"session": "1.0", "args": args}), "stale_session", "this is"),
        ("long", json!({"args": args, "timeout": "1h"}), "malformed", "timeout"),
        ("none", json!({"args": []}), "malformed", "args"),
    ] {
        send(&device, id, with(json!({"do": "exec"}), command));
        let frames = answer(&device, id);
        let told = last(&frames);
        assert_eq!((frames.len(), &told["type"]), (1, &json!("error")), "{id}: {told}");
        assert!(told["message"].as_str().unwrap().contains(words), "{id}: {told}");
        if id != "user" {
            assert_eq!(told["reason"], reason, "{id}: {told}");
        }
    }
    send(&device, "cancel", json!({"do": "cancel", "of": "never"}));
    check_refused(&device, "cancel", "bad_value", "no stream");
}

#[test]
fn the_policy_decides_who_may_stream() {
    for (policy, exec_words, logs_words) in [
        (None, Some("\"exec\": true"), None),
        (Some("{}"), Some("\"exec\": true"), None),
        (Some(r#"{"exec": true, "logs": false}"#), None, Some("\"logs\": true")),
        (Some("{"), Some("policy.json"), Some("policy.json")),
    ] {
        let mut device = Device::prepared(json!({}));
        device.broker.up();
        device.start();
        device.online();
        device.deploy(&manifest("web", shell("echo hello; exec sleep 100000")));
        device.says("web", "hello");
        device.end(Signal::SIGTERM);
        if let Some(text) = policy {
            device.file("policy.json", text);
        }
        device.start();
        device.online();
        reconnected(&device, 1);
        exec(&device, "x", "touch /tmp/ran", json!({}));
        send(&device, "l", json!({"do": "logs"}));
        for (id, words) in [("x", exec_words), ("l", logs_words)] {
            match words {
                Some(words) => check_refused(&device, id, "policy", words),
                None => assert_eq!(last(&answer(&device, id))["type"], "end", "{policy:?}"),
            }
        }
        assert_eq!(device.exec("web", &["/bin/sh", "-c", "test -e /tmp/ran; echo $?"]).trim() == "0", exec_words.is_none(), "{policy:?}");
    }
}

#[test]
fn a_mebibyte_comes_whole_and_in_order_whatever_it_is() {
    let device = device();
    // Bytes that are no text, then text with characters of several bytes.
    let binary = "head -c 1048576 /dev/urandom >/tmp/x; sha256sum </tmp/x >&2; cat /tmp/x";
    let lines =
        "i=0; while [ $i -lt 32000 ]; do echo \"zeile $i äöü€ ............\"; i=$((i+1)); done >/tmp/y; sha256sum </tmp/y >&2; cat /tmp/y";
    for (id, script, is_text) in [("binary", binary, false), ("text", lines, true)] {
        exec(&device, id, script, json!({"timeout": "5m"}));
        let frames = answer(&device, id);
        assert_eq!(last(&frames)["exit"], json!({"code": 0}), "{id}");
        let out = bytes(&frames, Some("stdout"));
        assert!(out.len() > 900_000, "{id}: {}", out.len());
        let sum = text(&frames, Some("stderr"));
        assert_eq!(Digest::of(&out).to_string(), format!("sha256:{}", sum.split_whitespace().next().unwrap()), "{id}");
        let in_base64 = frames.iter().filter(|f| f["base64"].is_string()).count();
        assert_eq!(in_base64 == 0, is_text, "{id}: {in_base64}");
        assert!(frames.iter().all(|f| f.to_string().len() < 64 * 1024), "{id}");
    }
}

/// Proportional memory of a process, in KiB.
fn pss(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().split(' ').next()?.parse().ok()).unwrap()
}

#[test]
fn a_program_that_prints_without_end_waits_for_the_broker_and_nobody_waits_for_it() {
    let device = device();
    let (keeper, agent) = (device.keeper(), device.agent());
    // What the first of all takes does not count.
    exec(&device, "warm", "head -c 200000 /dev/zero", json!({}));
    answer(&device, "warm");
    let before = (pss(keeper), pss(agent));
    let flood = "while :; do cat /proc/self/status /proc/self/maps; done";
    exec(&device, "flood", flood, json!({"timeout": "10m"}));
    exec(&device, "errors", &format!("({flood}) >&2"), json!({"timeout": "10m"}));
    eventually("much of it", || (frames(&device, "flood").len() > 60 && frames(&device, "errors").len() > 60).then_some(()));
    // Meanwhile a document is deployed, and told as ever.
    let sha = device.publish(&manifest("other", sleeper()));
    device.ack(&sha, "running");
    device.reported("the other app", |r| r["apps"]["other"]["state"] == "running");
    send(&device, "stats", json!({"do": "stats"}));
    assert_eq!(last(&answer(&device, "stats"))["type"], "end");
    device.ok(&["ls"]);
    let during = (pss(keeper), pss(agent));
    assert!(during.0 < before.0 + 1024 && during.1 < before.1 + 1024, "KiB of keeper and agent: {before:?}, then {during:?}");
    for id in ["flood", "errors"] {
        send(&device, &format!("end-{id}"), json!({"do": "cancel", "of": id}));
        assert_eq!(last(&answer(&device, id)), &json!({"n": frames(&device, id).len() - 1, "type": "end", "exit": {"signal": 9}}));
        assert_eq!(answer(&device, &format!("end-{id}")), [json!({"n": 0, "type": "end"})]);
    }
    gone(&device, "/bin/sh");
}

#[test]
fn while_the_broker_takes_nothing_nothing_is_read() {
    let device = device();
    let broker = device.broker.pid();
    exec(&device, "flood", "i=0; while :; do echo $i; i=$((i+1)); echo $i >/tmp/count; done", json!({"timeout": "10m"}));
    eventually("some of it", || (frames(&device, "flood").len() > 20).then_some(()));
    harness::kill(broker, Signal::SIGSTOP);
    let count = || fs::read_to_string(format!("/proc/{}/root/tmp/count", device.pid("web/main").unwrap())).unwrap_or_default();
    let before = (pss(device.keeper()), pss(device.agent()));
    // It stands still once the pipe is full.
    let mut seen = count();
    eventually("the program waits", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = count();
        (!now.is_empty() && std::mem::replace(&mut seen, now.clone()) == now).then_some(())
    });
    let after = (pss(device.keeper()), pss(device.agent()));
    assert!(after.0 < before.0 + 512 && after.1 < before.1 + 512, "KiB of keeper and agent: {before:?}, then {after:?}");
    device.ok(&["ls"]);
    harness::kill(broker, Signal::SIGCONT);
    let so_far = frames(&device, "flood").len();
    eventually("it goes on", || (frames(&device, "flood").len() > so_far + 20).then_some(()));
    send(&device, "stop", json!({"do": "cancel", "of": "flood"}));
    let all = answer(&device, "flood");
    let lines = text(&all, Some("stdout"));
    assert!(lines.lines().take(5000).enumerate().all(|(i, line)| line == i.to_string()), "in order and without a gap");
    gone(&device, "/bin/sh");
}

#[test]
fn a_program_whose_time_is_over_is_killed_with_all_that_it_started() {
    let device = device();
    for (id, script) in [
        ("plain", "sleep 86402 & sleep 86402"),
        ("nested", "(sh -c 'sleep 86402; :' & sh -c 'sleep 86402; :'; :)"),
        ("sessions", "setsid sleep 86402 & setsid sh -c 'sleep 86402 & sleep 86402' & wait"),
        ("deaf", "trap '' HUP TERM INT; sleep 86402; sleep 86402"),
        ("printing", "sleep 86402 & while :; do echo more; done"),
    ] {
        exec(&device, id, script, json!({"timeout": "1s"}));
        let frames = answer(&device, id);
        assert_eq!((&last(&frames)["type"], &last(&frames)["reason"]), (&json!("error"), &json!("timeout")), "{id}: {:?}", last(&frames));
        gone(&device, "86402");
        gone(&device, "/bin/sh");
    }
    assert!(is_alive(device.running("web")), "the container's own program runs on");
}

#[test]
fn so_many_streams_run_at_once_and_no_more() {
    let device = device();
    for n in 0..4 {
        exec(&device, &format!("s{n}"), "echo up; exec sleep 86403", json!({"timeout": "10m"}));
        eventually("it runs", || (!frames(&device, &format!("s{n}")).is_empty()).then_some(()));
    }
    exec(&device, "more", "touch /tmp/ran", json!({}));
    check_refused(&device, "more", "policy", "4 streams");
    send(&device, "logs", json!({"do": "logs", "follow": "5s"}));
    check_refused(&device, "logs", "policy", "4 streams");
    assert_eq!(tasks_of(&device, "86403").len(), 4);
    send(&device, "c", json!({"do": "cancel", "of": "s2"}));
    assert_eq!(last(&answer(&device, "s2"))["exit"], json!({"signal": 9}));
    exec(&device, "again", "echo now", json!({}));
    assert_eq!(text(&answer(&device, "again"), None), "now\n");
    // What runs is not begun again by the same command, and one that is over is not either.
    exec(&device, "s1", "echo twice", json!({}));
    exec(&device, "again", "touch /tmp/ran", json!({}));
    eventually("it is refused", || frames(&device, "again").into_iter().find(|f| f["reason"] == "stale_session"));
    assert_eq!(text(&frames(&device, "s1"), None), "up\n");
    assert_eq!(device.exec("web", &["/bin/sh", "-c", "test -e /tmp/ran; echo $?"]).trim(), "1");
    send(&device, "c8", json!({"do": "cancel", "of": "s1", "app": "other"}));
    check_refused(&device, "c8", "bad_value", "no stream");
    for (n, by) in [(0, "c0"), (1, "c1"), (3, "s3")] {
        send(&device, by, json!({"do": "cancel", "of": format!("s{n}")}));
        answer(&device, &format!("s{n}"));
    }
    send(&device, "c9", json!({"do": "cancel", "of": "s1"}));
    check_refused(&device, "c9", "bad_value", "no stream");
    gone(&device, "86403");
}

// ---- ends that nobody asked for ----

/// A stream of each kind runs.
fn running(device: &Device) {
    exec(device, "x", "sleep 86404 & setsid sleep 86404 & echo up; sleep 86404", json!({"timeout": "10m"}));
    send(device, "l", json!({"do": "logs", "follow": "10m"}));
    eventually("both run", || (tasks_of(device, "86404").len() == 3 && !frames(device, "x").is_empty()).then_some(()));
}

/// The streams ended with their session: told in the next one, and nothing is left.
fn check_ended(device: &Device) {
    for id in ["x", "l"] {
        let told = eventually("it is told", || frames(device, id).pop().filter(|f| f["type"] == "error"));
        assert_eq!(told["reason"], "connectivity", "{id}: {told}");
    }
    gone(device, "86404");
    exec(device, "after", "echo well", json!({}));
    assert_eq!(text(&answer(device, "after"), None), "well\n");
}

/// Another connection is online, and said so.
fn reconnected(device: &Device, before: usize) {
    let online = || device.said("presence").iter().filter(|p| p["state"] == "online").count();
    eventually("another session", || (online() > before).then_some(()));
    device.online();
}

fn sessions(device: &Device) -> usize {
    device.said("presence").iter().filter(|p| p["state"] == "online").count()
}

#[test]
fn a_link_that_is_cut_ends_its_streams() {
    let mut device = device();
    device.deploy(&manifest("web", shell("echo hello; exec sleep 100000")));
    running(&device);
    let before = sessions(&device);
    device.broker.down();
    gone(&device, "86404");
    device.broker.up();
    reconnected(&device, before);
    check_ended(&device);
}

#[test]
fn an_agent_that_dies_ends_its_streams() {
    let device = device();
    running(&device);
    let before = sessions(&device);
    harness::kill(device.agent(), Signal::SIGKILL);
    reconnected(&device, before);
    check_ended(&device);
}

#[test]
fn a_keeper_that_ends_however_it_does_leaves_nothing_that_a_command_has_run() {
    let mut device = device();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        running(&device);
        let before = sessions(&device);
        device.end(signal);
        device.start();
        reconnected(&device, before);
        gone(&device, "86404");
        send(&device, "late", json!({"do": "cancel", "of": "x"}));
        answer(&device, "late");
    }
    // The same process with another program, asked to or after a panic.
    for signal in [Signal::SIGHUP, Signal::SIGUSR2] {
        running(&device);
        let before = sessions(&device);
        harness::kill(device.keeper(), signal);
        reconnected(&device, before);
        gone(&device, "86404");
    }
    assert!(is_alive(device.running("web")));
}

#[test]
fn a_container_that_ends_ends_what_runs_in_it() {
    let device = device();
    exec(&device, "x", "echo up; exec sleep 86405", json!({"timeout": "10m"}));
    eventually("it runs", || (!frames(&device, "x").is_empty()).then_some(()));
    send(&device, "l", json!({"do": "logs", "follow": "10m"}));
    device.ok(&["stop", "web"]);
    assert_eq!(last(&answer(&device, "x"))["exit"], json!({"signal": 9}));
    assert_eq!(last(&answer(&device, "l"))["type"], "end");
    exec(&device, "again", "echo", json!({}));
    check_refused(&device, "again", "launch", "not running");
}

// ---- logs ----

#[test]
fn the_last_output_of_a_container_is_told_whole_by_lines_and_by_container() {
    let mut app = manifest("web", shell("i=0; while [ $i -lt 2000 ]; do echo \"line $i ä\"; i=$((i+1)); done; exec sleep 100000"));
    app["containers"]["other"] = shell("printf 'no \\377 text'; exec sleep 100000");
    let device = Device::new();
    device.deploy(&app);
    device.says("web/main", "line 1999");
    device.says("web/other", "no ");
    send(&device, "all", json!({"do": "logs", "container": "main"}));
    let frames = answer(&device, "all");
    let lines: String = (0..2000).map(|i| format!("line {i} ä\n")).collect();
    assert_eq!(text(&frames, None), lines);
    assert!(frames.iter().all(|f| f["type"] == "end" || f["container"] == "main" && f["lost"].is_null()));
    assert_eq!(last(&frames), &json!({"n": frames.len() - 1, "type": "end"}));
    for (id, tail, told) in [("two", json!(2), "line 1998 ä\nline 1999 ä\n"), ("none", json!(0), "")] {
        send(&device, id, json!({"do": "logs", "container": "main", "tail": tail}));
        assert_eq!(text(&answer(&device, id), None), told);
    }
    send(&device, "both", json!({"do": "logs", "tail": 1}));
    let frames = answer(&device, "both");
    let of = |name: &str| bytes(&frames.iter().filter(|f| f["container"] == name).cloned().collect::<Vec<_>>(), None);
    assert_eq!((of("main"), of("other")), ("line 1999 ä\n".as_bytes().to_vec(), b"no \xff text".to_vec()));
    device.applied(&manifest("local", shell("echo secret; exec sleep 100000")));
    device.says("local", "secret");
    for (id, command, reason, words) in [
        ("app", json!({"app": "db"}), "bad_value", "no app db"),
        ("container", json!({"container": "db"}), "bad_value", "no container web/db"),
        ("local", json!({"app": "local"}), "policy", "local command line"),
        ("late", json!({"session": "1.0"}), "stale_session", "this is"),
        ("long", json!({"follow": "11m"}), "malformed", "follow"),
    ] {
        send(&device, id, with(json!({"do": "logs"}), command));
        check_refused(&device, id, reason, words);
    }
}

#[test]
fn who_follows_gets_what_comes_until_the_time_is_over_or_it_is_cancelled() {
    let device = device_with(shell("mkfifo /tmp/in; echo ready; while :; do cat /tmp/in; done"));
    device.says("web", "ready");
    let say = |text: &str| device.exec("web", &["/bin/sh", "-c", &format!("echo {text} >/tmp/in")]);
    send(&device, "short", json!({"do": "logs", "follow": "8s"}));
    send(&device, "long", json!({"do": "logs", "follow": "10m", "tail": 1}));
    for id in ["short", "long"] {
        eventually("the first part", || (text(&frames(&device, id), None) == "ready\n").then_some(()));
    }
    say("more");
    eventually("the second part", || (text(&frames(&device, "long"), None) == "ready\nmore\n").then_some(()));
    assert_eq!(text(&answer(&device, "short"), None), "ready\nmore\n");
    say("last");
    eventually("the third part", || (text(&frames(&device, "long"), None) == "ready\nmore\nlast\n").then_some(()));
    send(&device, "c", json!({"do": "cancel", "of": "long"}));
    let frames = answer(&device, "long");
    assert_eq!(last(&frames), &json!({"n": frames.len() - 1, "type": "end"}));
    say("unheard");
    steadily(Duration::from_millis(300), "nothing more of either", || self::frames(&device, "long").len() == frames.len());
}

#[test]
fn output_that_comes_faster_than_it_can_be_told_is_counted_where_it_is_missing() {
    let flood = "sleep 1; i=0; while [ $i -lt 40 ]; do head -c 131072 /dev/zero | tr '\\0' 'x'; i=$((i+1)); done; echo; echo done; exec sleep 100000";
    let device = device_with(with(shell(flood), json!({"log": {"ring": "16K", "full": "drop"}})));
    send(&device, "f", json!({"do": "logs", "follow": "10m"}));
    eventually("its end", || text(&frames(&device, "f"), None).ends_with("done\n").then_some(()));
    send(&device, "c", json!({"do": "cancel", "of": "f"}));
    let frames = answer(&device, "f");
    let lost: u64 = frames.iter().filter_map(|f| f["lost"].as_u64()).sum();
    assert!(lost > 0, "16 KiB hold no flood");
    assert_eq!(bytes(&frames, None).len() as u64 + lost, 40 * 131_072 + 6, "every byte is told or counted");
}
