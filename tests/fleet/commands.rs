//! Commands that `wherryctl` sends to devices, and their answers.

use super::*;

#[test]
fn a_command_is_for_the_session_of_a_device_and_shows_its_answer() {
    let mut f = Fleet::new();
    let one = f.one.id.clone();
    f.fails(&["retry", "-d", &one, "web"], 65, &format!("cannot retry web on {one}: it refused (bad_value): there is no app web"));
    let sent = eventually("the command is seen", || f.one.broker.messages().into_iter().find(|m| m.topic.contains("/in/cmd/")));
    let presence = f.one.said("presence").pop().unwrap();
    assert_eq!(
        sent.payload,
        json!({"wherry": 1, "id": sent.topic.rsplit('/').next(), "session": format!("{}.{}", presence["boot"], presence["conn"]), "do": "retry", "app": "web",
        "target": {"fleet": "wherry", "device": one}})
    );
    for (args, code, sentence) in [
        (&["retry", "web"][..], 64, "nothing says whom the command is for"),
        (&["retry", "-d", &one, "web/main"], 64, "retry is for a whole app"),
        (&["restart", "-d", &one, "Web"], 64, "Web is not a name"),
        (&["restart", "-d", &one], 64, "restart needs one operand more"),
        (&["prune", "-d", &one, "web"], 64, "prune does not take web"),
        (&["stop", "-d", "nobody", "web"], 69, "cannot stop web on nobody: it is not online"),
        (&["stop", "-g", "south", "web"], 1, "no device has an app by way of group south"),
        (&["stop", "-w", "arch=z80", "web"], 1, "no device is what --where asks for"),
    ] {
        f.fails(args, code, sentence);
    }
    f.two.end(Signal::SIGINT);
    let two = f.two.id.clone();
    f.fails(&["retry", "-d", &two, "web"], 69, &format!("cannot retry web on {two}: it is not online"));
    f.two.start();
}

#[test]
fn containers_are_stopped_started_and_restarted_wherever_a_selector_or_group_finds_them() {
    let mut f = Fleet::new();
    let (one, two) = (f.one.id.clone(), f.two.id.clone());
    let file = f.file("web.json", &manifest("web", sleeper()).to_string());
    f.ok(&["apply", "-d", &one, &file]);
    f.ok(&["apply", "-g", "north", &file]);
    let reported = |id: &str| format!("wherry/v1/d/{id}/out/reported");
    for id in [&one, &two] {
        f.keeps(&reported(id), "a report of the app", |kept| kept["apps"]["web"]["state"] == "running");
    }
    let first = f.one.running("web");
    let out = f.ok(&["restart", "-w", "app=web", "web"]);
    assert_eq!(out, format!("{one}: restart web is begun\n{two}: restart web is begun\n"));
    eventually("another process", || f.one.pid("web").filter(|pid| *pid != first));
    let out = f.ok(&["--json", "stop", "-g", "north", "web/main"]);
    assert_eq!(lines(&out), [json!({"device": two, "answer": {"n": 0, "type": "end"}})]);
    eventually("it is stopped in the group alone", || f.two.pid("web").is_none().then_some(()));
    assert!(f.one.pid("web").is_some());
    f.ok(&["start", "-d", &two, "web"]);
    f.two.running("web");
    // One that cannot be reached, and one that has no such app, do not keep the others from it.
    let before = f.one.running("web");
    let outcome = f.ctl(&["restart", "-d", "nobody", "-d", &one, "web"]);
    check_failure(&outcome, &["restart"], 69, "cannot restart web on nobody: it is not online");
    assert_eq!(outcome.out, format!("{one}: restart web is begun\n"));
    eventually("another process", || f.one.pid("web").filter(|pid| *pid != before));
    f.ok(&["rm", "-d", &one, "web"]);
    let outcome = f.ctl(&["stop", "-d", &one, "-d", &two, "web"]);
    check_failure(&outcome, &["stop"], 65, &format!("cannot stop web on {one}: it refused (bad_value): there is no app web"));
    assert_eq!(outcome.out, format!("{two}: stop web is begun\n"));
    // A device that is there and does not answer.
    harness::kill(f.two.keeper(), Signal::SIGSTOP);
    f.fails(&["stop", "-d", &two, "--timeout", "1s", "web"], 69, &format!("cannot stop web on {two}: no answer within 1 s"));
    harness::kill(f.two.keeper(), Signal::SIGCONT);
    f.two.end(Signal::SIGINT);
    f.two.start();
}

#[test]
fn bundles_come_from_one_device_or_several_and_rubbish_is_removed() {
    let f = Fleet::new();
    let bundle: Value = serde_json::from_str(&f.ok(&["diag", "-d", &f.one.id])).unwrap();
    assert!(bundle.to_string().contains(&f.one.id), "{bundle}");
    let both = lines(&f.ok(&["diag", "-w", "link=online"]));
    let ids: Vec<&str> = both.iter().map(|row| row["device"].as_str().unwrap()).collect();
    assert!(ids == [&f.one.id, &f.two.id] && both.iter().all(|row| row["diag"].is_object()), "{ids:?}");
    let frames = lines(&f.ok(&["--json", "diag", "-d", &f.one.id]));
    assert_eq!(frames.last().unwrap()["answer"]["type"], "end");
    assert_eq!(f.ok(&["prune", "-d", &f.one.id]), format!("{}: prune is begun\n", f.one.id));
}

#[test]
fn an_answer_that_was_missed_while_the_line_was_cut_is_asked_for_again() {
    let f = Fleet::new();
    let (way, two) = (Way::to(f.one.broker.port), f.two.id.clone());
    let file = f.file("web.json", &manifest("web", sleeper()).to_string());
    f.ok(&["apply", "-d", &two, &file]);
    let pid = f.two.running("web");
    harness::kill(f.two.keeper(), Signal::SIGSTOP);
    let broker = format!("127.0.0.1:{}", way.port);
    let restart = Running::new(command(&f.one, &["--broker", &broker, "restart", "-d", &two, "web"]));
    eventually("the command is seen", || f.one.broker.messages().into_iter().find(|m| m.topic.contains("/in/cmd/")));
    way.cut();
    restart.says("trying again");
    harness::kill(f.two.keeper(), Signal::SIGCONT);
    let again = eventually("another process", || f.two.pid("web").filter(|other| *other != pid));
    assert!(!restart.said("begun"));
    way.mend();
    restart.says(&format!("{two}: restart web is begun"));
    assert_eq!(restart.ends(), 0);
    assert_eq!(f.two.running("web"), again, "what is asked again is not done again");
}
