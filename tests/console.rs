//! Consoles: `exec` and `run` with and without a terminal, and `attach`, as a person at a real terminal uses them.

mod harness;

use harness::{Device, Person, Signal, Value, eventually, json, kill, layout, manifest, shell, sleeper, steadily, with, within};
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A local device without a link: the command line alone is of interest.
fn device() -> Device {
    let mut device = Device::prepared(json!({"brokers": []}));
    device.start();
    device
}

fn running(container: Value) -> Device {
    let device = device();
    device.applied(&manifest("web", container));
    device.running("web");
    device
}

/// Every value of a byte, so many times over.
fn all_bytes(times: usize) -> Vec<u8> {
    (0..=255u8).cycle().take(256 * times).collect()
}

/// What is there of an exec: processes in the container's group, descriptors of keeper, terminals in the container.
fn traces(device: &Device) -> (Vec<i32>, usize, usize) {
    let inside = device.running("web");
    let terminals = fs::read_dir(format!("/proc/{inside}/root/dev/pts")).unwrap().count();
    (device.tasks("web"), fs::read_dir(format!("/proc/{}/fd", device.keeper())).unwrap().count(), terminals)
}

/// The same once the start is wholly over: its launch and who asked for it leave keeper a moment later.
fn at_rest(device: &Device) -> (Vec<i32>, usize, usize) {
    eventually("keeper is at rest", || {
        let first = traces(device);
        std::thread::sleep(std::time::Duration::from_millis(300));
        (traces(device) == first).then_some(first)
    })
}

/// A child, killed at the end.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- exec ----

#[test]
fn exit_codes_are_those_that_docker_gives() {
    let device = running(sleeper());
    device.applied(&manifest("off", shell("exit 0")));
    device.ok(&["stop", "off"]);
    let image = layout("plain");
    for (line, code, says) in [
        (&["exec", "web", "sh", "-c", "exit 7"][..], 7, ""),
        (&["exec", "web", "sh", "-c", "kill -9 $$"], 137, ""),
        (&["exec", "web", "no-such-program"], 127, "not found"),
        (&["exec", "web", "/bin/no-such-program"], 127, "no such file"),
        (&["exec", "web", "/etc/passwd"], 126, "not executable"),
        (&["exec", "-w", "/nowhere", "web", "true"], 125, "/nowhere"),
        (&["exec", "off", "true"], 125, "not running"),
        (&["exec", "nobody", "true"], 125, "there is no app nobody"),
        (&["exec", "web"], 125, "needs a program"),
        (&["exec", "--no-such-option", "web", "true"], 125, "no such option"),
        (&["exec", "-it", "web", "true"], 125, "not a TTY"),
        (&["exec", "-dt", "web", "true"], 125, "-d excludes"),
        (&["exec", "--detach-keys", "ctrl-9", "web", "true"], 125, "detach-keys"),
        (&["exec", "-d", "web", "no-such-program"], 127, "not found"),
        (&["exec", "-d", "web", "false"], 0, ""),
        (&["--socket", "/nowhere", "exec", "web", "true"], 125, "not running"),
        (&["run", "--rm", &image, "sh", "-c", "exit 9"], 9, ""),
        (&["run", "--rm", &image, "/bin/no-such-program"], 127, "no such file"),
        (&["run", "--rm", &image, "/etc/passwd"], 126, "not executable"),
        (&["run", "--rm", "/nowhere/image", "true"], 125, "/nowhere/image"),
        (&["run", "--rm", "-it", &image, "true"], 125, "not a TTY"),
        (&["run"], 125, "one operand more"),
        (&["attach", "nobody"], 125, "there is no app nobody"),
        (&["attach", "off"], 125, "not running"),
        (&["attach"], 125, "one operand more"),
    ] {
        let outcome = device.wherry(line);
        assert!(outcome.code == code && outcome.err.contains(says), "{line:?}: {outcome:?}");
    }
}

#[test]
fn a_terminal_has_the_size_of_its_window_and_follows_it() {
    let device = running(sleeper());
    let script = "trap 'stty size' WINCH; tty; stty size; echo ready; while :; do sleep 0.05; done";
    let mut person = Person::types(&device, &["exec", "-it", "web", "sh", "-c", script]);
    let said = person.reads("ready");
    assert!(said.contains("/dev/pts/") && said.contains("40 100"), "{said}");
    assert!(person.is_raw());
    person.resize(25, 90);
    person.reads("25 90");
    // Ctrl-C is the program's.
    person.type_in([3]);
    assert_eq!(person.ends(), 130);
}

#[test]
fn every_byte_goes_through_a_pipe_and_a_terminal_both_ways() {
    let device = running(sleeper());
    let all = all_bytes(16 << 10);
    let mut cat = device.command(&["exec", "-i", "web", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = cat.stdin.take().unwrap();
    let sent = all.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let out = cat.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success() && out.stdout == all, "{} of {} bytes", out.stdout.len(), all.len());

    let all = all_bytes(256);
    let script = format!("stty raw -echo; echo ready; head -c {}", all.len());
    let mut person = Person::types(&device, &["exec", "-it", "--detach-keys", "", "web", "sh", "-c", &script]);
    person.reads("ready\n");
    let mut got = Vec::new();
    for part in all.chunks(1024) {
        person.type_in(part);
        got.extend(person.reads_bytes(part.len()));
    }
    assert_eq!(got, all);
    assert_eq!(person.ends(), 0);
}

#[test]
fn without_i_standard_input_stays_the_callers() {
    let device = running(sleeper());
    let line = format!(
        "while read word; do {0} --socket {1}/run/control.sock exec web cat; echo \"$word\"; done",
        device.program.display(),
        device.dir.display()
    );
    let mut sh = std::process::Command::new("sh").args(["-c", &line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sh.stdin.take().unwrap().write_all(b"one\ntwo\nthree\n").unwrap();
    assert_eq!(String::from_utf8(sh.wait_with_output().unwrap().stdout).unwrap(), "one\ntwo\nthree\n");
}

#[test]
fn the_keys_leave_a_program_that_runs_on() {
    let device = running(sleeper());
    for (options, keys) in [(&["exec", "-it"][..], &b"\x10\x11"[..]), (&["exec", "-it", "--detach-keys", "ctrl-],x"], b"\x1dx")] {
        let before = at_rest(&device);
        // More than a terminal holds: it would wait for ever if nobody read.
        let script = "echo ready; while [ ! -e /tmp/end ]; do seq 1 2000; echo again >>/tmp/again; done; rm /tmp/end /tmp/again";
        let mut person = Person::types(&device, &[options, &["web", "sh", "-c", script]].concat());
        person.reads("ready");
        person.type_in(keys);
        assert_eq!(person.ends(), 0);
        assert!(String::from_utf8_lossy(&person.seen).contains("runs on"));
        drop(person);
        let rounds = || device.exec("web", &["sh", "-c", "wc -l </tmp/again"]).parse::<u32>().unwrap_or(0);
        let then = rounds();
        eventually("it goes on", || (rounds() > then + 1).then_some(()));
        device.exec("web", &["touch", "/tmp/end"]);
        eventually("nothing of it is left", || (traces(&device) == before).then_some(()));
    }
}

#[test]
fn a_client_that_goes_leaves_nothing_of_its_program() {
    let device = running(sleeper());
    let before = at_rest(&device);
    let stubborn = "trap '' HUP TERM INT; sleep 100000 & sleep 100001 & echo ready; while :; do sleep 0.1; done";
    let gone = |how: &str| {
        let left = || format!("{how}: {:?} and not {before:?}", traces(&device));
        within(harness::PATIENCE, || (traces(&device) == before).then_some(())).unwrap_or_else(|| panic!("{}", left()));
    };
    for (how, options) in [("SIGKILL", "-it"), ("SIGTERM", "-it"), ("hang-up", "-it"), ("SIGKILL", "-t"), ("SIGKILL", "-i"), ("SIGINT", "")]
    {
        let options = if options.is_empty() { Vec::new() } else { vec![options] };
        let mut person = Person::types(&device, &[&["exec"], &options[..], &["web", "sh", "-c", stubborn]].concat());
        person.reads("ready");
        match how {
            "hang-up" => person.hangs_up(),
            "SIGKILL" => person.kills(Signal::SIGKILL),
            "SIGINT" => person.kills(Signal::SIGINT),
            _ => person.kills(Signal::SIGTERM),
        }
        let code = if how == "SIGTERM" { person.ends() } else { person.ends_whatever_its_mode() };
        assert_ne!(code, 0, "{how} {options:?}");
        gone(how);
    }
}

/// Until its pid 1 has a root of its own, setns(2) leads into the device's.
#[test]
fn no_program_runs_on_the_devices_root_while_its_container_is_made_anew() {
    let device = running(sleeper());
    let mark = device.file("mark-of-the-device", "x");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..60 {
                device.ok(&["restart", "web"]);
            }
            over.store(true, Ordering::Relaxed);
        });
        let (mut ran, mut refused) = (0, 0);
        while !over.load(Ordering::Relaxed) {
            let outcome = device.wherry(&["exec", "web", "ls", &mark]);
            assert_ne!(outcome.code, 0, "it sees the device's files: {}", outcome.out);
            if outcome.err.contains("No such file") { ran += 1 } else { refused += 1 }
        }
        assert!(ran > 0 && refused > 0, "{ran} programs ran, {refused} were refused: not all moments were met");
    });
}

#[test]
fn a_detached_program_runs_without_its_caller() {
    let device = running(sleeper());
    let before = at_rest(&device);
    device.ok(&["exec", "-d", "web", "sh", "-c", "echo nobody sees this; read word; sleep 0.5; touch /tmp/done; exec sleep 100000"]);
    eventually("it has run on", || (device.wherry(&["exec", "web", "ls", "/tmp/done"]).code == 0).then_some(()));
    let own = |pid: &i32| !before.0.contains(pid);
    let left: Vec<i32> = device.tasks("web").into_iter().filter(own).collect();
    assert_eq!(left.len(), 1, "it runs on");
    kill(left[0], Signal::SIGKILL);
    eventually("nothing of it is left", || (traces(&device) == before).then_some(()));
}

#[test]
fn what_an_exec_runs_ends_with_keeper_and_what_is_detached_does_not() {
    let mut device = running(sleeper());
    let before = device.tasks("web");
    device.ok(&["exec", "-d", "web", "sleep", "100001"]);
    let detached = device.tasks("web");
    let client = Ended(device.command(&["exec", "-u", "app", "web", "sleep", "100000"]).stderr(Stdio::null()).spawn().unwrap());
    eventually("both run", || (device.tasks("web").len() == before.len() + 2).then_some(()));
    device.end(Signal::SIGKILL);
    eventually("one is left", || (device.tasks("web") == detached).then_some(()));
    drop(client);
    device.start();
}

#[test]
fn a_terminal_is_as_before_however_its_exec_ends() {
    let mut device = running(sleeper());
    let mut person = Person::types(&device, &["exec", "-it", "web", "sh", "-c", "echo ready; read word; exit 3"]);
    person.reads("ready");
    person.type_in("x\r");
    assert_eq!(person.ends(), 3);
    let mut person = Person::types(&device, &["exec", "-it", "web", "no-such-program"]);
    assert_eq!(person.ends(), 127);
    let mut person = Person::types(&device, &["exec", "-it", "web", "sh", "-c", "echo ready; sleep 100000"]);
    person.reads("ready");
    device.end(Signal::SIGKILL);
    assert_eq!(person.ends(), 125, "keeper is gone: {}", String::from_utf8_lossy(&person.seen));
    device.start();
}

// ---- attach ----

fn console(script: &str) -> Value {
    with(shell(script), json!({"terminal": true, "stdin": "open", "restart": {"policy": "no"}}))
}

#[test]
fn a_console_is_shared_survives_its_keeper_and_ends_as_its_program() {
    let mut device =
        running(console("trap 'stty size' WINCH; while :; do read word || continue; echo \"got $word\"; [ $word = end ] && exit 7; done"));
    let pid = device.running("web");
    let mut one = Person::types(&device, &["attach", "web"]);
    one.reads("40 100");
    one.type_in("hello\r");
    one.reads("got hello");
    let mut two = Person::types(&device, &["attach", "web"]);
    two.reads("40 100");
    two.type_in("both\r");
    two.reads("got both");
    one.reads("got both");
    one.resize(30, 77);
    two.reads("30 77");
    one.type_in([0x10, 0x11]);
    assert_eq!(one.ends(), 0);

    device.end(Signal::SIGKILL);
    assert_eq!(two.ends(), 125);
    device.start();
    assert_eq!(device.running("web"), pid, "it runs on");
    let mut three = Person::types(&device, &["attach", "web"]);
    three.reads("40 100");
    three.type_in("again\r");
    three.reads("got again");
    assert!(device.ok(&["logs", "web/main"]).contains("got again"), "a console has a log");
    three.type_in("end\r");
    assert_eq!(three.ends(), 7);
    assert_eq!(device.becomes("web", "exited")["last_exit"], json!({"code": 7}));
}

#[test]
fn what_a_console_says_while_keeper_is_away_is_there_when_the_next_one_comes() {
    let mut device = running(console("echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 3000; echo done; exec sleep 100000"));
    device.says("web", "ready");
    let root = format!("/proc/{}/root", device.running("web"));
    device.end(Signal::SIGKILL);
    fs::write(format!("{root}/tmp/go"), "").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    device.start();
    let said = device.says("web", "done");
    // A terminal ends its lines so.
    let expected: String = (1..=3000).map(|n| format!("{n}\r\n")).collect();
    assert!(said.contains(&expected), "{} bytes", said.len());
}

#[test]
fn an_open_input_takes_many_callers_and_never_ends() {
    let device = running(with(shell("while read word; do echo \"got $word\"; done; echo over"), json!({"stdin": "open"})));
    for word in ["one", "two", "three"] {
        let mut client = Ended(device.command(&["attach", "web"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        client.0.stdin.take().unwrap().write_all(format!("{word}\n").as_bytes()).unwrap();
        device.says("web", &format!("got {word}"));
    }
    let said = device.ok(&["logs", "web/main"]);
    assert!(!said.contains("over"), "{said}");
}

#[test]
fn run_passes_every_byte_of_a_pipe_and_its_end() {
    let device = device();
    let all = all_bytes(8 << 10);
    let mut run =
        device.command(&["run", "--rm", "-i", &layout("plain"), "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = run.stdin.take().unwrap();
    let sent = all.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let out = run.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success() && out.stdout == all, "{} of {} bytes", out.stdout.len(), all.len());
    assert_eq!(device.json(&["ls"]), json!([]));
}

#[test]
fn run_gives_a_shell_to_a_person() {
    let device = device();
    let mut person = Person::types(&device, &["run", "--rm", "-it", "--name", "job", &layout("plain"), "sh"]);
    person.reads("# ");
    person.type_in("stty size; echo $TERM; tty\r");
    let said = person.reads("/dev/pts/");
    assert!(said.contains("40 100") && said.contains("xterm"), "{said}");
    person.type_in("exit 5\r");
    assert_eq!(person.ends(), 5);
    assert_eq!(device.json(&["ls"]), json!([]));

    let mut person = Person::types(&device, &["run", "-it", "--name", "job", &layout("plain"), "sh"]);
    person.reads("# ");
    person.type_in([0x10, 0x11]);
    assert_eq!(person.ends(), 0);
    device.running("job");
    let mut person = Person::types(&device, &["attach", "job"]);
    person.type_in("exit 6\r");
    assert_eq!(person.ends(), 6);
}

#[test]
fn who_reads_nothing_holds_up_nobody() {
    let device = running(with(
        shell("i=0; while :; do i=$((i+1)); seq 1 5000; echo $i >/tmp/round; done"),
        json!({"terminal": true, "stdin": "open", "log": {"ring": "16K"}}),
    ));
    let mut deaf: Vec<Ended> = (0..4)
        .map(|_| {
            let client = device.command(&["attach", "--no-stdin", "web"]).stdout(Stdio::piped()).spawn().unwrap();
            Ended(client)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for client in &deaf {
        kill(client.0.id() as i32, Signal::SIGSTOP);
    }
    let round = || device.exec("web", &["cat", "/tmp/round"]).parse::<u32>().unwrap_or(0);
    let then = eventually("a round", || Some(round()).filter(|n| *n > 0));
    eventually("the container goes on", || (round() > then + 2).then_some(()));
    let mut hears = Ended(device.command(&["logs", "-f", "web/main"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut buf = vec![0; 64 << 10];
    hears.0.stdout.as_mut().unwrap().read_exact(&mut buf).unwrap();
    deaf.clear();
}

#[test]
fn input_that_nobody_takes_holds_up_nobody() {
    let device = running(with(shell("exec sleep 100000"), json!({"stdin": "open"})));
    let fds = || fs::read_dir(format!("/proc/{}/fd", device.keeper())).unwrap().count();
    let before = fds();
    let mut client = Ended(device.command(&["attach", "web"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut input = client.0.stdin.take().unwrap();
    nix::fcntl::fcntl(&input, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let mut sent = 0;
    let full = within(Duration::from_secs(3), || {
        sent += input.write(&[b'x'; 65536]).unwrap_or(0);
        (sent > 8 << 20).then_some(())
    });
    assert!(full.is_none() && sent > 100_000, "{sent} bytes taken of a program that reads nothing");
    steadily(Duration::from_millis(300), "keeper answers", || device.wherry(&["ls"]).code == 0);
    drop(client);
    eventually("its connection is closed", || (fds() <= before).then_some(()));

    // The keys are found behind it, too.
    device.applied(&manifest("deaf", console("stty raw; exec sleep 100000")));
    device.running("deaf");
    let mut person = Person::types(&device, &["attach", "deaf"]);
    eventually("raw mode", || person.is_raw().then_some(()));
    for _ in 0..50 {
        person.type_in([b'x'; 1000]);
    }
    person.type_in([0x10, 0x11]);
    assert_eq!(person.ends(), 0);
}

#[test]
fn a_console_is_only_for_containers_that_have_one() {
    let device = running(shell("echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo two; exit 4"));
    device.says("web", "ready");
    device.applied(&manifest("quiet", with(sleeper(), json!({"terminal": true}))));
    // Without "stdin", one can watch.
    let mut person = Person::types(&device, &["attach", "web"]);
    person.reads("nothing is passed on");
    device.exec("web", &["touch", "/tmp/go"]);
    person.reads("two");
    assert_eq!(person.ends(), 4);
    let unmanned = with(sleeper(), json!({"stdin": "open", "terminal": true}));
    device.applied(&manifest("unmanned", unmanned));
    let outcome = device.wherry(&["attach", "unmanned"]);
    assert!(outcome.code == 125 && outcome.err.contains("not a TTY"), "{outcome:?}");
    for (field, value) in [("terminal", json!(true)), ("stdin", json!("open"))] {
        let mut bad = with(sleeper(), json!({"init": false}));
        bad[field] = value;
        let outcome = device.apply(&manifest("bad", bad));
        assert!(outcome.code == 65 && outcome.err.contains("needs our own pid 1"), "{outcome:?}");
    }
}
