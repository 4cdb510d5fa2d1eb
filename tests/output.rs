//! What containers say: the ring, who follows it, the system log, and that a flood costs the others nothing.

mod harness;

use harness::{Device, Signal, Value, eventually, json, layout, shell, sleeper, steadily, with};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn device(extra: Value) -> Device {
    let mut device = Device::prepared(with(json!({"brokers": []}), extra));
    device.start();
    device
}

fn app(device: &Device, containers: Value) {
    device.applied(&json!({"wherry": 1, "app": "web", "containers": containers}));
}

/// Bytes that a command prints.
fn bytes(device: &Device, args: &[&str]) -> Vec<u8> {
    device.command(args).output().unwrap().stdout
}

/// A child, killed at the end.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn following(device: &Device, args: &[&str]) -> (Ended, BufReader<std::process::ChildStdout>) {
    let mut child = device.command(args).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (Ended(child), out)
}

// ---- logs ----

#[test]
fn the_last_lines_and_those_since_a_time_are_found() {
    let device = device(json!({}));
    app(&device, json!({"main": shell("seq 1 50; sleep 2.5; printf 'late\\nend'; exec sleep 100000")}));
    let at_first = device.says("web", "50\n");
    assert!(at_first.starts_with("1\n2\n"), "{at_first}");
    assert!(device.says("web", "end").ends_with("late\nend"));
    for (args, said) in [
        (&["-n", "2"][..], "late\nend"),
        (&["-n", "0"], ""),
        (&["-n", "3"], "50\nlate\nend"),
        (&["--since", "1900ms"], "late\nend"),
        (&["--since", "1900ms", "-n", "1"], "end"),
        (&["--since", "2999-01-01"], ""),
    ] {
        assert_eq!(device.ok(&[&["logs"], args, &["web"]].concat()), said, "{args:?}");
    }
    let all = device.ok(&["logs", "--since", "2h", "-n", "all", "web"]);
    assert_eq!(all.lines().count(), 52);
    let timed = device.ok(&["logs", "-t", "web"]);
    let times: Vec<&str> = timed.lines().map(|l| l.split_once(' ').unwrap().0).collect();
    let year = String::from_utf8(std::process::Command::new("date").args(["-u", "+%Y-"]).output().unwrap().stdout).unwrap();
    assert!(times.iter().all(|t| t.len() == 20 && t.starts_with(year.trim()) && t.ends_with('Z')), "{timed}");
    assert!(times[0] < times[50] && times.is_sorted(), "{timed}");
    assert!(timed.ends_with(" end\n"), "{timed}");
}

#[test]
fn several_containers_are_shown_line_by_line_with_their_names() {
    let device = device(json!({}));
    let talker = |text: &str| shell(&format!("printf '{text} 1\\n{text}'; sleep 1.2; printf ' 2\\n'; exec sleep 100000"));
    app(&device, json!({"a": talker("from a"), "longer": talker("from longer"), "quiet": sleeper()}));
    device.says("web/a", "2\n");
    device.says("web/longer", "2\n");
    let said = device.ok(&["logs", "web"]);
    let mut lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].ends_with('1') && lines[1].ends_with('1') && lines[2].ends_with('2'), "in the order in which they came: {said}");
    lines.sort_unstable();
    assert_eq!(lines, ["a      | from a 1", "a      | from a 2", "longer | from longer 1", "longer | from longer 2"]);
    assert_eq!(device.ok(&["logs", "web/a"]), "from a 1\nfrom a 2\n");
    let (_follower, mut out) = following(&device, &["logs", "-f", "-n", "1", "web"]);
    let mut shown = Vec::new();
    for _ in 0..2 {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        shown.push(line);
    }
    shown.sort_unstable();
    assert_eq!(shown, ["a      | from a 2\n", "longer | from longer 2\n"]);
}

#[test]
fn bytes_that_are_no_text_survive_and_text_is_not_cut_in_json() {
    let device = device(json!({}));
    let script = "printf 'nul\\0 and \\377\\376 \\033[1m\\n'; printf '\\342\\202'; sleep 0.3; printf '\\254\\n'; exec sleep 100000";
    app(&device, json!({"main": shell(script)}));
    eventually("all of it", || (bytes(&device, &["logs", "web"]) == b"nul\0 and \xff\xfe \x1b[1m\n\xe2\x82\xac\n").then_some(()));
    let (_follower, mut out) = following(&device, &["--json", "logs", "-f", "web"]);
    let mut text = String::new();
    while !text.contains('\u{20ac}') {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "{text}");
        let piece: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&piece["container"], &piece["lost"]), (&json!("main"), &json!(0)));
        text += piece["text"].as_str().unwrap();
    }
    assert_eq!(text, "nul\0 and \u{fffd}\u{fffd} \u{1b}[1m\n\u{20ac}\n");
}

#[test]
fn all_rings_together_keep_within_their_memory() {
    let device = device(json!({"limits": {"max_log_bytes": "64K"}}));
    let loud = with(shell("seq 1 50000; echo end; exec sleep 100000"), json!({"log": {"ring": "64K"}}));
    app(&device, json!({"a": loud, "b": loud, "c": loud, "d": loud}));
    for name in ["a", "b", "c", "d"] {
        let said = device.says(&format!("web/{name}"), "end");
        assert!((16 * 1024 - 6..=16 * 1024).contains(&said.len()), "{name}: {} bytes", said.len());
    }
    assert!(device.log().contains("limits.max_log_bytes is 65536"), "{}", device.log());
    app(&device, json!({"a": loud}));
    device.ok(&["restart", "web"]);
    eventually("its whole ring again", || (bytes(&device, &["logs", "web"]).len() > 60_000).then_some(()));
}

#[test]
fn a_blocked_writer_loses_nothing_not_even_its_last_words_nor_while_keeper_is_away() {
    let mut device = device(json!({}));
    let blocking = |script: &str| with(shell(script), json!({"log": {"ring": "4K", "full": "block"}, "restart": {"policy": "no"}}));
    // More than the ring, less than ring and pipe: it ends while most of it is still in the pipe.
    app(&device, json!({"main": blocking("seq 1 10000")}));
    device.becomes("web", "exited");
    let expected: String = (1..=10000).map(|n| format!("{n}\n")).collect();
    assert_eq!(device.ok(&["logs", "web"]), expected);

    app(
        &device,
        json!({"main": blocking("echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 40000; echo end; exec sleep 100000")}),
    );
    device.says("web", "ready");
    let root = format!("/proc/{}/root/tmp/go", device.running("web"));
    device.end(Signal::SIGKILL);
    fs::write(root, "").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    device.start();
    let (_follower, mut out) = following(&device, &["logs", "-f", "web"]);
    let expected: String = (1..=40000).map(|n| format!("{n}\n")).collect();
    let mut said = vec![0; expected.len()];
    out.read_exact(&mut said).unwrap();
    assert!(String::from_utf8_lossy(&said) == expected, "nothing is lost");
}

#[test]
fn run_shows_all_of_a_long_output() {
    let device = device(json!({}));
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    for options in [&["run", "--rm"][..], &["run", "--rm", "-i"]] {
        let out = device.command(&[options, &[&layout("plain"), "seq", "1", "200000"]].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said == expected, "{options:?}: {} of {} bytes, {}", said.len(), expected.len(), String::from_utf8_lossy(&out.stderr));
    }
}

// ---- the system log ----

#[test]
fn output_goes_to_the_system_log_of_those_that_are_to() {
    let mut device = Device::prepared(json!({"brokers": []}));
    let path = device.dir.join("log");
    device.settings["syslog"] = json!({"all": true, "socket": path});
    device.start();
    let log = UnixDatagram::bind(&path).unwrap();
    log.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    let next = |log: &UnixDatagram| {
        let mut buf = [0; 2048];
        let n = log.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..n]).into_owned()
    };
    let quiet = with(shell("echo not this; exec sleep 100000"), json!({"log": {"syslog": false}}));
    let flood = "echo one; printf 'two\\0x\\n'; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 3000; while [ ! -e /tmp/on ]; do sleep 0.05; done; echo last";
    app(&device, json!({"quiet": quiet, "main": with(shell(flood), json!({"restart": {"policy": "no"}}))}));
    assert_eq!([next(&log), next(&log)], ["<30>wherry/web/main: one", "<30>wherry/web/main: two?x"]);
    device.says("web/quiet", "not this");

    // The log is started again while nobody looks; then it is flooded.
    drop(log);
    fs::remove_file(&path).unwrap();
    let log = UnixDatagram::bind(&path).unwrap();
    log.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    device.exec("web/main", &["touch", "/tmp/go"]);
    device.says("web/main", "3000\n");
    let mut got = 0;
    let dropped: u64 = loop {
        let message = next(&log);
        assert!(message.starts_with("<30>wherry/web/main: "), "{message}");
        match message.strip_suffix(" messages dropped") {
            None => got += 1,
            Some(text) => break text.rsplit(' ').next().unwrap().parse().unwrap(),
        }
    };
    assert!(got < 1000 && dropped > 1000, "{got} taken, {dropped} dropped");
    device.exec("web/main", &["touch", "/tmp/on"]);
    eventually("the last line", || (next(&log) == "<30>wherry/web/main: last").then_some(()));

    // Nobody reads, then nobody is there.
    app(&device, json!({"main": shell("while :; do echo word; sleep 0.001; done")}));
    device.says("web", "word");
    steadily(Duration::from_millis(500), "keeper answers", || device.wherry(&["ls"]).code == 0);
    drop(log);
    fs::remove_file(&path).unwrap();
    eventually("it says so", || device.log().contains("cannot connect to").then_some(()));
    device.says("web", "word");
}

// ---- floods ----

fn uptime() -> f64 {
    fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Seconds until keeper answers, seconds until a line of another container is shown, and how often that one gets around, each second.
fn measure(device: &Device, worker: i32) -> (f64, f64, f64) {
    let count =
        || -> f64 { fs::read_to_string(format!("/proc/{worker}/root/tmp/n")).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0.0) };
    let (before, since) = (count(), Instant::now());
    let (_follower, mut out) = following(device, &["logs", "-f", "-n", "0", "web/clock"]);
    let lines: Vec<f64> = (0..60)
        .map(|_| {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            uptime() - line.split(' ').next().unwrap().parse::<f64>().unwrap()
        })
        .collect();
    let answers: Vec<f64> = (0..15)
        .map(|_| {
            let since = Instant::now();
            device.ok(&["ls"]);
            since.elapsed().as_secs_f64()
        })
        .collect();
    let rate = (count() - before) / since.elapsed().as_secs_f64();
    (median(answers), median(lines), rate)
}

fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap()
}

#[test]
fn floods_slow_neither_keeper_nor_another_container_and_take_no_memory() {
    let device = device(json!({"syslog": {"all": true, "socket": "/nowhere/log"}}));
    let worker = "i=0; while :; do i=$((i+1)); [ $((i%500)) = 0 ] && echo $i >/tmp/n; done";
    app(&device, json!({"clock": shell("while :; do cat /proc/uptime; sleep 0.03; done"), "worker": shell(worker)}));
    let worker = device.running("web/worker");
    device.says("web/clock", ".");
    let quiet = measure(&device, worker);
    let before = resident(device.keeper());

    let floods = json!({
        "yes": shell("exec yes"), "zeros": shell("exec dd if=/dev/zero bs=64k"), "bytes": shell("while :; do printf x; done"),
        "terminal": with(shell("exec yes"), json!({"terminal": true})),
    });
    device.applied(&json!({"wherry": 1, "app": "flood", "containers": floods}));
    let slow = Ended(device.command(&["logs", "-f", "flood"]).stdout(Stdio::piped()).spawn().unwrap());
    eventually("the flood is there", || bytes(&device, &["logs", "-n", "1", "flood/yes"]).starts_with(b"y\n").then_some(()));
    let ticks = |pid: i32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
    };
    let (used, since) = (ticks(device.keeper()), Instant::now());
    let flooded = measure(&device, worker);
    let busy = (ticks(device.keeper()) - used) as f64 / 100.0 / since.elapsed().as_secs_f64();
    let after = resident(device.keeper());
    drop(slow);
    println!(
        "answer {:.4} s, then {:.4}; line {:.3} s, then {:.3}; rounds {:.0}/s, then {:.0}; memory {before} kB, then {after}; keeper's CPU {busy:.2}",
        quiet.0, flooded.0, quiet.1, flooded.1, quiet.2, flooded.2
    );
    // The byte-wise flood is a program that computes, and takes its share of the machine whatever we do.
    assert!(flooded.0 < 10.0 * quiet.0 + 0.1, "answers: {quiet:?} {flooded:?}");
    assert!(flooded.1 < 10.0 * quiet.1 + 0.2, "lines: {quiet:?} {flooded:?}");
    assert!(flooded.2 > quiet.2 / 5.0, "rounds: {quiet:?} {flooded:?}");
    assert!(after < before + 2048, "memory: {before} kB, then {after} kB");
    assert!(busy < 0.6, "keeper's CPU: {busy}");
}
