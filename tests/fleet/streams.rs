//! `wherryctl logs` and `exec`, with devices that run, and with one that tells half of it.

use super::harness::{Device, Signal, Value, eventually, json, kill, manifest, shell};
use super::{Running, check_failure, command, ctl};
use std::fs;

fn device(policy: &str) -> Device {
    let mut device = Device::prepared(json!({}));
    device.file("policy.json", policy);
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&manifest("web", shell("echo one; echo two; echo three; exec sleep 100000")));
    device.says("web", "three");
    device
}

#[test]
fn exec_gives_both_outputs_and_ends_as_the_program_does() {
    let device = device(r#"{"exec": true}"#);
    let sh = |script: &str| ctl(&device, &["exec", "--timeout", "60s", &device.id, "web/main", "--", "/bin/sh", "-c", script]);
    for (script, code, out, err) in [
        ("echo out; echo err >&2", 0, "out\n", "err\n"),
        ("exit 7", 7, "", ""),
        ("kill -TERM $$", 143, "", ""),
        ("printf '\\377'", 0, "\u{fffd}", ""),
    ] {
        let outcome = sh(script);
        assert_eq!((outcome.code, outcome.out.as_str(), outcome.err.as_str()), (code, out, err), "{script}");
    }
    // 64 KiB and a half, and what belongs to the program stays the program's.
    let long = sh("head -c 100000 /dev/zero | tr '\\0' x");
    assert_eq!((long.code, long.out.len(), long.out.trim_matches('x')), (0, 100_000, ""));
    let words =
        ctl(&device, &["exec", &device.id, "-e", "WHO=me", "-u", "12:34", "web", "--", "/bin/sh", "-c", "echo $WHO $(id -u) $0", "--json"]);
    assert_eq!((words.code, words.out.as_str()), (0, "me 12 --json\n"), "{words:?}");
    let frames = ctl(&device, &["exec", "--json", &device.id, "web", "--", "/bin/echo", "x"]);
    assert_eq!(
        frames.out,
        "{\"data\":\"x\\n\",\"n\":0,\"stream\":\"stdout\",\"type\":\"data\"}\n{\"exit\":{\"code\":0},\"n\":1,\"type\":\"end\"}\n"
    );
    for (args, code, sentence) in [
        (&["web", "--", "/no/such"][..], 127, "(exec)"),
        (&["web", "--", "/etc"], 126, "(exec)"),
        (&["db", "--", "/bin/true"], 125, "there is no app db"),
        (&["web/x/y", "--", "/bin/true"], 125, "x/y"),
        (&["web"], 64, "exec needs one operand more"),
        (&["--timeout", "1h", "web", "--", "true"], 125, "--timeout must be from 1s to 10m"),
        (&["--env", "WHO", "web", "--", "true"], 125, "must be NAME=VALUE"),
        (&["--timeout", "1s", "web", "--", "/bin/sleep", "60"], 125, "(timeout): its time is over"),
    ] {
        let args = [&["exec", &device.id], args].concat();
        check_failure(&ctl(&device, &args), &args, code, sentence);
    }
    let nobody = ["exec", "nobody", "web", "--", "true"];
    check_failure(&ctl(&device, &nobody), &nobody, 125, "it is not online");
}

#[test]
fn exec_is_refused_where_the_policy_does_not_allow_it() {
    let device = device("{}");
    let args = ["exec", &device.id, "web", "--", "/bin/true"];
    check_failure(&ctl(&device, &args), &args, 125, "(policy): the device's policy does not allow `exec`");
}

#[test]
fn who_interrupts_exec_ends_the_program_too() {
    let device = device(r#"{"exec": true}"#);
    let running = Running::new(command(
        &device,
        &["exec", "--timeout", "10m", &device.id, "web", "--", "/bin/sh", "-c", "echo up; exec sleep 86406"],
    ));
    running.says("up");
    let sleeps =
        || device.tasks("web/main").iter().any(|pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"86406\0"));
    assert!(sleeps());
    kill(running.child.id() as i32, Signal::SIGINT);
    assert_eq!(running.ends(), 125);
    eventually("it is ended", || (!sleeps()).then_some(()));
}

#[test]
fn logs_gives_the_last_lines_and_goes_on_if_asked() {
    let device = device("{}");
    for (options, out) in
        [(&[][..], "one\ntwo\nthree\n"), (&["-n", "2"], "two\nthree\n"), (&["-n", "all", "-f", "--for", "2s"], "one\ntwo\nthree\n")]
    {
        let outcome = ctl(&device, &[&["logs"], options, &[&device.id, "web"]].concat());
        assert_eq!((outcome.code, outcome.out.as_str(), outcome.err.as_str()), (0, out, ""), "{options:?}");
    }
    for (options, code, sentence) in
        [(&["-n", "few"][..], 64, "must be a number of lines, or all"), (&["-f", "--for", "11m"], 64, "--for must be from 1s to 10m")]
    {
        let args = [&["logs"], options, &[&device.id, "web"]].concat();
        check_failure(&ctl(&device, &args), &args, code, sentence);
    }
    let args = ["logs", &device.id, "web/db"];
    check_failure(&ctl(&device, &args), &args, 65, "there is no container web/db");
}

/// What wherryctl makes of an answer with these frames.
fn check_frames(device: &Device, frames: &[Value], code: i32, out: &str, says: &str) {
    check_frames_and(device, frames, None, code, out, says);
}

/// The same with another presence behind them.
fn check_frames_and(device: &Device, frames: &[Value], presence: Option<&Value>, code: i32, out: &str, says: &str) {
    let before = device.broker.messages().len();
    let mut command = command(device, &["logs", "ghost", "web"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let topic = eventually("the command", || {
        let messages = device.broker.messages();
        messages[before..].iter().find(|m| m.topic.starts_with("wherry/v1/d/ghost/in/cmd/")).map(|m| m.topic.clone())
    });
    let answer = topic.replace("/in/cmd/", "/out/res/");
    frames.iter().for_each(|frame| device.broker.publish(&answer, frame.to_string().as_bytes(), false));
    if let Some(presence) = presence {
        device.broker.publish("wherry/v1/d/ghost/out/presence", presence.to_string().as_bytes(), true);
    }
    let outcome: super::Outcome = child.wait_with_output().unwrap().into();
    assert_eq!((outcome.code, outcome.out.as_str()), (code, out), "{outcome:?}");
    assert!(outcome.err.contains(says) && outcome.err.is_empty() == says.is_empty(), "{outcome:?}");
}

#[test]
fn frames_that_come_twice_count_once_and_missing_ones_are_told() {
    let mut device = Device::prepared(json!({}));
    device.broker.up();
    let presence = json!({"state": "online", "boot": 1, "conn": 1, "version": "0.1.0", "interval_s": 60});
    device.broker.publish("wherry/v1/d/ghost/out/presence", presence.to_string().as_bytes(), true);
    let data = |n: u32, text: &str| json!({"n": n, "type": "data", "container": "main", "data": text});
    let end = |n: u32| json!({"n": n, "type": "end"});
    check_frames(&device, &[data(0, "a"), data(1, "b"), data(0, "a"), data(1, "b"), end(2)], 0, "ab", "");
    check_frames(&device, &[data(0, "a"), data(3, "d"), end(4)], 1, "ad", "2 frames of the answer are missing here");
    check_frames(&device, &[data(1, "b"), end(2)], 1, "b", "1 frames of its answer are missing");
    check_frames(&device, &[json!({"n": 0, "type": "data", "base64": "?"})], 1, "", "cannot be read");
    check_frames(&device, &[json!({"n": 0, "type": "data", "lost": 7, "data": "x"}), end(1)], 0, "x", "7 bytes of output were lost here");
    // Its keeper was killed, and the next one knows nothing of it.
    let again = json!({"state": "online", "boot": 1, "conn": 2, "version": "0.1.0", "interval_s": 60});
    check_frames_and(&device, &[data(0, "a")], Some(&again), 69, "a", "began another session");
    let told = json!({"n": 1, "type": "error", "reason": "connectivity", "message": "the device's link to the broker was lost"});
    check_frames(&device, &[data(0, "a"), told], 1, "a", "link to the broker was lost");
}
