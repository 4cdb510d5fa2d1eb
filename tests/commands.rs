//! Commands over a real broker: each is for one session, does what it says once, and is answered.

#[path = "commands/taken.rs"]
mod taken;

mod harness;

use harness::{Device, Signal, Value, eventually, is_alive, json, manifest, numbered, shell, sleeper, steadily, with};
use std::process::Command;
use std::time::Duration;
use taken::Taken;
use wherry::ipc::FromAgent;

/// The session of the newest presence.
fn session(device: &Device) -> String {
    // Keeper knows it before whoever listens at the broker.
    let presence = eventually("it says that it is online", || device.said("presence").pop());
    format!("{}.{}", presence["boot"], presence["conn"])
}

fn send(device: &Device, id: &str, command: &Value, retain: bool) {
    let whole = with(json!({"wherry": 1, "session": session(device)}), command.clone());
    device.broker.publish(&device.topic(&format!("in/cmd/{id}")), whole.to_string().as_bytes(), retain);
}

/// The last frame of the answer to an id, and how many there were.
fn answer(device: &Device, id: &str) -> (Value, usize) {
    eventually("an answer", || {
        let frames = device.said(&format!("res/{id}"));
        frames.last().filter(|f| f["type"] != "data").map(|f| (f.clone(), frames.len()))
    })
}

fn ask(device: &Device, id: &str, command: Value) -> Value {
    send(device, id, &command, false);
    answer(device, id).0
}

fn done(device: &Device, id: &str, command: Value) {
    assert_eq!(ask(device, id, command), json!({"n": 0, "type": "end"}));
}

#[test]
fn what_is_not_for_this_session_does_nothing_and_is_told_why() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    device.applied(&manifest("local", sleeper()));
    let pids = (device.running("web"), device.running("local"));
    for (id, command, reason, part) in [
        ("late", json!({"session": "1.0", "do": "stop", "app": "web"}), "stale_session", "this is"),
        ("early", json!({"session": "1.99", "do": "stop", "app": "web"}), "stale_session", "this is"),
        ("boot", json!({"session": "2.1", "do": "stop", "app": "web"}), "stale_session", "this is"),
        ("nobody", json!({"do": "stop", "app": "db"}), "bad_value", "no app db"),
        ("part", json!({"do": "stop", "app": "web", "container": "db"}), "bad_value", "no container web/db"),
        ("mine", json!({"do": "stop", "app": "local"}), "policy", "local command line"),
        ("well", json!({"do": "retry", "app": "web"}), "bad_value", "it is running"),
        ("stream", json!({"do": "exec", "app": "web", "args": ["/bin/true"]}), "policy", "\"exec\": true"),
        ("another", json!({"id": "other", "do": "stop", "app": "web"}), "wrong_target", "on the topic of another"),
        ("word", json!({"do": "reboot"}), "malformed", "reboot"),
    ] {
        let told = ask(&device, id, command);
        assert_eq!((&told["type"], &told["reason"]), (&json!("error"), &json!(reason)), "{told}");
        assert!(told["message"].as_str().unwrap().contains(part), "{told}");
    }
    assert_eq!((device.running("web"), device.running("local")), pids);
    done(&device, "own", json!({"id": "own", "do": "prune"}));
}

#[test]
fn a_repeated_command_repeats_its_answer_and_nothing_else() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let first = device.running("web");
    done(&device, "one", json!({"do": "restart", "app": "web"}));
    let second = eventually("another process", || device.pid("web/main").filter(|pid| *pid != first));
    send(&device, "one", &json!({"do": "restart", "app": "web"}), false);
    eventually("the answer again", || (device.said("res/one").len() == 2).then_some(()));
    assert_eq!(device.said("res/one")[0], device.said("res/one")[1]);
    steadily(Duration::from_millis(500), "the second process", || is_alive(second));
    done(&device, "two", json!({"do": "restart", "app": "web"}));
    eventually("a third process", || device.pid("web/main").filter(|pid| *pid != second));
}

#[test]
fn a_command_of_before_the_agent_ended_counts_no_more() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let (old, pid, conn) = (session(&device), device.running("web"), device.said("presence").len());
    // As long as the session lasts, a retained command is one like any other; the broker repeats it to the next session.
    send(&device, "kept", &json!({"do": "prune"}), true);
    assert_eq!(answer(&device, "kept").0["type"], "end");
    harness::kill(device.agent(), Signal::SIGKILL);
    eventually("the retained one is refused", || device.said("res/kept").pop().filter(|f| f["reason"] == "stale_session"));
    eventually("another connection", || (device.said("presence").len() > conn && session(&device) != old).then_some(()));
    assert_eq!(ask(&device, "old", json!({"session": old, "do": "stop", "app": "web"}))["reason"], "stale_session");
    assert_eq!(device.running("web"), pid);
}

/// A restart that was carried out, and the process since then.
fn restarted(device: &Device) -> (String, i32) {
    let (command, first) = (json!({"wherry": 1, "session": session(device), "do": "restart", "app": "web"}), device.running("web"));
    done(device, "one", command.clone());
    (command.to_string(), eventually("another process", || device.pid("web/main").filter(|pid| *pid != first)))
}

/// The conn of the newest presence.
fn conn(device: &Device) -> u64 {
    eventually("presence", || device.said("presence").pop())["conn"].as_u64().unwrap()
}

#[test]
fn an_agent_that_takes_its_connection_back_is_ended_and_its_commands_count_no_more() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let (command, pid) = restarted(&device);
    for (first, second) in [(1, 0), (u64::MAX / 2, 0)] {
        let (agent, now) = (device.agent(), conn(&device));
        let taken = Taken::over(agent);
        assert!(taken.online(now.saturating_add(first)));
        // Unless it is ended already.
        taken.online(now + second);
        taken.command("one", command.as_bytes());
        eventually("that agent is ended", || (!is_alive(agent)).then_some(()));
        steadily(Duration::from_millis(300), "the process", || is_alive(pid));
        eventually("another is online", || (conn(&device) > now).then_some(()));
        device.online();
    }
    // What came meanwhile changed nothing: its count goes on.
    assert!(conn(&device) < 100);
    done(&device, "two", json!({"do": "prune"}));
}

#[test]
fn a_session_of_the_keeper_before_does_not_come_back() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let (command, pid) = restarted(&device);
    let now = conn(&device);
    device.end(Signal::SIGKILL);
    device.broker.down();
    device.start();
    eventually("the agent tries to connect", || device.json(&["status"])["link"]["error"].is_string().then_some(()));
    let taken = Taken::over(device.agent());
    assert!(taken.online(now));
    assert!(taken.command("one", command.as_bytes()));
    steadily(Duration::from_millis(500), "the process", || is_alive(pid));
}

#[test]
fn no_command_counts_until_the_start_is_on_record() {
    let mut device = Device::prepared(json!({}));
    let data = device.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    let mount = |args: &[&str]| assert!(Command::new("mount").args(args).arg(&data).status().unwrap().success());
    mount(&["-t", "tmpfs", "data"]);
    device.broker.up();
    device.start();
    device.online();
    device.end(Signal::SIGINT);
    mount(&["-o", "remount,ro"]);
    device.start();
    device.online();
    let boot = || device.said("presence").pop().unwrap()["boot"].clone();
    eventually("the second start", || (boot() == 2).then_some(()));
    for id in ["one", "two"] {
        let told = ask(&device, id, json!({"do": "watch"}));
        assert!(told["reason"] == "stale_session" && told["message"].as_str().unwrap().contains("could not be recorded"), "{told}");
    }
    // Also not with the keeper that comes after, which goes on with the number.
    device.end(Signal::SIGKILL);
    let before = device.said("presence").len();
    device.start();
    eventually("its session", || (device.said("presence").len() > before).then_some(()));
    device.online();
    assert_eq!(ask(&device, "three", json!({"do": "watch"}))["reason"], "stale_session");
    mount(&["-o", "remount,rw"]);
    eventually("it is on record", || device.json(&["status"])["unsaved"].is_null().then_some(()));
    done(&device, "four", json!({"do": "watch"}));
    device.end(Signal::SIGINT);
    device.start();
    eventually("the third start", || (device.said("presence").pop().unwrap()["boot"] == 3).then_some(()));
    device.end(Signal::SIGINT);
    assert!(Command::new("umount").arg("-l").arg(&data).status().unwrap().success());
}

#[test]
fn answers_that_nobody_takes_are_not_heaped_up() {
    let device = Device::new();
    let (agent, session) = (device.agent(), session(&device));
    let diag = json!({"wherry": 1, "session": session, "do": "diag"}).to_string();
    let taken = Taken::over(agent);
    for n in 0..200 {
        eventually("keeper takes it", || taken.command(&format!("d{n}"), diag.as_bytes()).then_some(()));
    }
    // Messages are taken in their order: once this one is, all are.
    assert!(taken.online(conn(&device)));
    eventually("keeper has taken all", || (device.json(&["status"])["link"]["broker"] == "").then_some(()));
    harness::kill(agent, Signal::SIGCONT);
    let last = answer(&device, "d199").0;
    assert!(last["reason"] == "policy" && last["message"].as_str().unwrap().contains("wait to be sent"), "{last}");
    assert_eq!(device.agent(), agent, "it was not ended for what it could not take");
    assert_eq!(ask(&device, "later", json!({"do": "diag"}))["type"], "end");
}

#[test]
fn an_agent_that_counts_answers_it_never_got_is_ended() {
    let device = Device::new();
    done(&device, "one", json!({"do": "prune"}));
    for counts in [&[1000][..], &[u64::MAX], &[1, 0], &[2]] {
        let agent = device.agent();
        let before = device.said("presence").len();
        let taken = Taken::over(agent);
        let command = json!({"wherry": 1, "session": session(&device), "do": "watch"}).to_string();
        assert!(taken.command("two", command.as_bytes()));
        // After the first, it may be ended already.
        let heard = counts.iter().filter(|count| taken.say(&FromAgent::Answers(**count))).count();
        assert!(heard > 0);
        eventually("that agent is ended", || (!is_alive(agent)).then_some(()));
        eventually("another is online", || (device.said("presence").len() > before).then_some(()));
        device.online();
    }
    done(&device, "three", json!({"do": "prune"}));
}

#[test]
fn stop_holds_over_a_restart_of_keeper_and_start_ends_it() {
    let mut device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    done(&device, "stop", json!({"do": "stop", "app": "web"}));
    device.reported("stopped", |r| r["apps"]["web"]["containers"]["main"]["state"] == "exited");
    device.end(Signal::SIGTERM);
    device.start();
    device.online();
    assert_eq!(device.pid("web/main"), None);
    done(&device, "start", json!({"do": "start", "app": "web", "container": "main"}));
    device.reported("running", |r| r["apps"]["web"]["containers"]["main"]["state"] == "running");
}

#[test]
fn what_a_person_has_stopped_at_the_device_no_command_starts() {
    let device = Device::new();
    device.deploy(&numbered("web", 1, sleeper()));
    device.ok(&["stop", "web"]);
    for (id, verb) in [("a", "start"), ("b", "restart")] {
        let told = ask(&device, id, json!({"do": verb, "app": "web"}));
        assert!(told["reason"] == "policy" && told["message"].as_str().unwrap().contains("stopped at the device"), "{told}");
    }
    assert_eq!(device.pid("web/main"), None);
    device.reported("held", |r| r["apps"]["web"]["overridden"] == "local");
    device.deploy(&numbered("web", 2, sleeper()));
    device.running("web");
}

#[test]
fn a_document_that_only_waits_does_not_take_a_stop_out_of_the_fleets_hands() {
    let device = Device::with(json!({"groups": ["lab"]}));
    device.deploy(&manifest("web", sleeper()));
    done(&device, "stop", json!({"do": "stop", "app": "web"}));
    device.broker.publish("wherry/v1/g/lab/desired/web", manifest("web", sleeper()).to_string().as_bytes(), true);
    device.reported("the device's own", |r| r["apps"]["web"]["state"] == "running");
    eventually("held", || device.said("ack/web").iter().any(|a| a["state"] == "held").then_some(()));
    done(&device, "start", json!({"do": "start", "app": "web"}));
    device.running("web");
}

#[test]
fn retry_is_another_attempt_at_the_same_version() {
    let mut device = Device::prepared(json!({}));
    let path = device.dir.join("import");
    device.settings["import_dirs"] = json!([path]);
    device.broker.up();
    device.start();
    device.online();
    let broken = with(sleeper(), json!({"image": {"ref": format!("oci:{}:plain", path.display())}}));
    let sha = device.publish(&numbered("web", 7, broken));
    device.refused(&sha, "failed", "image_missing");
    done(&device, "one", json!({"do": "retry", "app": "web"}));
    let second = |state: &str| {
        let acks = device.acks(&sha);
        acks.into_iter().find(|a| a["attempt"] == 2 && a["state"] == state)
    };
    eventually("the second attempt fails too", || second("failed"));
    // What was missing comes later: the same document is good then.
    let layout = harness::image::dir().join("layout");
    assert!(Command::new("cp").arg("-rT").args([&layout, &path]).status().unwrap().success());
    done(&device, "two", json!({"do": "retry", "app": "web"}));
    eventually("the third runs", || device.acks(&sha).into_iter().find(|a| a["attempt"] == 3 && a["state"] == "running"));
}

#[test]
fn figures_and_the_support_bundle_come_in_frames() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    device.deploy(&manifest("other", sleeper()));
    assert_eq!(ask(&device, "stats", json!({"do": "stats", "app": "web"}))["type"], "end");
    let stats: Value = serde_json::from_str(device.said("res/stats")[0]["data"].as_str().unwrap()).unwrap();
    assert_eq!(stats["containers"].as_object().unwrap().keys().collect::<Vec<_>>(), ["web/main"]);
    assert_eq!(ask(&device, "diag", json!({"do": "diag"}))["type"], "end");
    let frames = device.said("res/diag");
    let text: String = frames.iter().filter_map(|f| f["data"].as_str()).collect();
    let bundle: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bundle["settings"]["device"], device.id.as_str());
    assert_eq!(frames.iter().map(|f| f["n"].as_u64().unwrap()).collect::<Vec<_>>(), (0..frames.len() as u64).collect::<Vec<_>>());
}

#[test]
fn who_watches_gets_statistics_at_once_and_more_often() {
    let mut device = Device::prepared(json!({"interval_s": 3600}));
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&manifest("web", shell("while :; do sleep 1; done")));
    let before = device.said("stats").len();
    done(&device, "watch", json!({"do": "watch"}));
    eventually("three messages", || (device.said("stats").len() >= before + 3).then_some(()));
}

#[test]
fn prune_takes_away_what_nobody_needs() {
    let device = Device::new();
    device.deploy(&manifest("web", sleeper()));
    let stray = device.dir.join("data/layers").join("0".repeat(64));
    std::fs::create_dir_all(stray.join("0")).unwrap();
    done(&device, "prune", json!({"do": "prune"}));
    eventually("it is gone", || (!stray.exists()).then_some(()));
    device.running("web");
}
