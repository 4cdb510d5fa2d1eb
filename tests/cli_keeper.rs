//! The command line against a real keeper with real containers. Needs root and a static busybox.

use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(20);
const FOREVER: &str = "while :; do sleep 1; done";

/// A keeper of its own in a directory of its own. Both are gone at the end, containers included.
struct Bench {
    dir: PathBuf,
    keeper: Child,
}

/// `None`, said aloud, where such a test cannot run.
fn bench(name: &str) -> Option<Bench> {
    if !nix::unistd::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        eprintln!("skipped: needs root and {BUSYBOX}");
        return None;
    }
    let id = format!("cli-{name}-{}", std::process::id());
    let dir = std::env::temp_dir().join(format!("wherry-{id}"));
    for sub in ["data", "run"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let path = |sub: &str| dir.join(sub).display().to_string();
    let settings = serde_json::json!({
        "device": "bench", "data_dir": path("data"), "run_dir": path("run"), "cgroup": format!("wherry/{id}"), "interval_s": 60,
    });
    fs::write(dir.join("settings.json"), settings.to_string()).unwrap();
    fs::write(dir.join("image.tar"), image()).unwrap();
    let log = File::create(dir.join("keeper.log")).unwrap();
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_wherry"));
    keeper.args(["keeper", "--config", &path("settings.json")]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let bench = Bench { dir: dir.clone(), keeper: keeper.spawn().unwrap() };
    until("keeper answers", || bench.run(&["ls"]).code == Some(0));
    Some(bench)
}

/// A root file system of busybox alone.
fn image() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |size: u64, mode: u32, kind| {
        let mut h = tar::Header::new_gnu();
        h.set_size(size);
        h.set_mode(mode);
        h.set_entry_type(kind);
        h
    };
    let busybox = fs::read(BUSYBOX).unwrap();
    tar.append_data(&mut header(busybox.len() as u64, 0o755, tar::EntryType::Regular), "bin/busybox", &busybox[..]).unwrap();
    for name in ["sh", "cat", "sleep", "stty", "id", "pwd", "env", "printf", "head", "readlink"] {
        tar.append_link(&mut header(0, 0o777, tar::EntryType::Symlink), format!("bin/{name}"), "busybox").unwrap();
    }
    let passwd = b"root:x:0:0::/:/bin/sh\nweb:x:101:101::/:/bin/sh\n";
    tar.append_data(&mut header(passwd.len() as u64, 0o644, tar::EntryType::Regular), "etc/passwd", &passwd[..]).unwrap();
    tar.into_inner().unwrap()
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Self {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Self { code: o.status.code(), out: text(o.stdout), err: text(o.stderr) }
    }
}

impl Bench {
    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_wherry"));
        c.args(args).env("WHERRY_SOCKET", self.dir.join("run/control.sock")).current_dir(&self.dir).stdin(Stdio::null());
        c
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    #[track_caller]
    fn good(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}: {ran:?}\n{}", self.log());
        ran.out
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.good(args)).unwrap()
    }

    /// Starts an app that runs until stopped.
    #[track_caller]
    fn app(&self, name: &str, script: &str) {
        assert_eq!(self.good(&["run", "-d", "--name", name, "image.tar", "/bin/sh", "-c", script]), format!("{name}\n"));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("keeper.log")).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SIGINT: containers go too.
        let _ = kill(Pid::from_raw(self.keeper.id() as i32), Signal::SIGINT);
        let _ = self.keeper.wait();
        let _ = nix::mount::umount2(&self.dir.join("run"), nix::mount::MntFlags::MNT_DETACH);
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.dir).unwrap();
        }
    }
}

#[test]
fn run_gives_the_output_and_the_exit_code_and_leaves_nothing() {
    let Some(b) = bench("run") else { return };
    let ran = b.run(&["run", "--rm", "image.tar", "/bin/sh", "-c", "echo out; exit 7"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(7), "out\n", ""));
    let ran = b.run(&["run", "--rm", "image.tar", "/bin/sh", "-c", "kill -9 $$"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(137), ""), "{ran:?}");
    let ran = b.run(&["run", "--rm", "-e", "A=b c", "-u", "web", "-w", "/bin", "image.tar", "/bin/sh", "-c", "echo $A; id -u; pwd"]);
    assert_eq!(ran.out, "b c\n101\n/bin\n", "{ran:?}");
    let ran = b.run(&["run", "--rm", "image.tar", "/no/such/program"]);
    assert!(ran.code == Some(127) && ran.out.is_empty() && ran.err.starts_with("wherry: cannot run rootfs:"), "{ran:?}");
    assert_eq!(b.json(&["ls", "--json"]), serde_json::json!([]));
}

#[test]
fn an_interrupted_run_stops_its_app() {
    let Some(b) = bench("interrupt") else { return };
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = b.command(&["run", "--rm", "image.tar", "/bin/sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 6];
    out.read_exact(&mut first).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), &first, rest.as_str()), (Some(5), b"ready\n", "bye\n"));
    assert_eq!(b.json(&["ls", "--json"]), serde_json::json!([]));
}

#[test]
fn an_app_is_listed_stopped_started_and_removed() {
    let Some(b) = bench("life") else { return };
    b.app("web", FOREVER);
    let container = || b.json(&["ls", "--json"])[0]["containers"][0].clone();
    let before = container();
    assert_eq!((before["name"].as_str(), before["state"].as_str()), (Some("main"), Some("running")));
    assert!(b.good(&["ls"]).lines().nth(1).unwrap().starts_with("web   main        running"));
    assert_eq!(b.good(&["restart", "web/main"]), "");
    let after = container();
    assert!(after["state"] == "running" && after["pid"] != before["pid"], "{before} {after}");
    assert_eq!(b.json(&["stop", "web", "--json"])["done"], "stopped");
    assert_eq!((container()["state"].as_str(), container()["pid"].as_u64()), (Some("exited"), None));
    assert_eq!(b.json(&["ls", "--json"])[0]["overridden"], true);
    b.good(&["start", "web"]);
    assert_eq!(container()["state"], "running");
    assert!(b.good(&["rm", "web"]).ends_with("web: removed\n"));
    assert_eq!(b.json(&["ls", "--json"]), serde_json::json!([]));
}

#[test]
fn what_does_not_exist_is_refused_by_every_command() {
    let Some(b) = bench("absent") else { return };
    b.app("web", FOREVER);
    for args in [
        &["stop", "db"][..],
        &["start", "db"],
        &["restart", "web/db"],
        &["logs", "db"],
        &["exec", "web/db", "/bin/sh"],
        &["info", "db"],
        &["rm", "db"],
    ] {
        let ran = b.run(args);
        assert!(
            ran.code == Some(if args[0] == "exec" { 125 } else { 65 }) && ran.out.is_empty() && ran.err.starts_with("wherry: there is no "),
            "{args:?}: {ran:?}"
        );
    }
    let ran = b.run(&["info", "web/db"]);
    assert!(ran.code == Some(1) && ran.err.contains("no such container"), "{ran:?}");
}

#[test]
fn apply_shows_each_step_and_a_failure_leaves_what_ran() {
    let Some(b) = bench("apply") else { return };
    let manifest = b.good(&["run", "--print-manifest", "--name", "web", "image.tar", "/bin/sh", "-c", FOREVER]);
    fs::write(b.dir.join("web.json"), &manifest).unwrap();
    let steps: Vec<Value> = b.good(&["apply", "--json", "web.json"]).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let states: Vec<&str> = steps.iter().map(|s| s["state"].as_str().unwrap()).collect();
    assert_eq!((states.first(), states.last()), (Some(&"received"), Some(&"running")), "{states:?}");
    let pid = || b.json(&["ls", "--json"])[0]["containers"][0]["pid"].clone();
    let before = pid();
    fs::write(b.dir.join("bad.json"), manifest.replace("image.tar", "missing.tar")).unwrap();
    let ran = b.run(&["apply", "bad.json"]);
    assert!(ran.code == Some(66) && ran.err.starts_with("wherry: cannot apply bad.json: failed (image_missing): "), "{ran:?}");
    assert_eq!(pid(), before);
}

#[test]
fn logs_are_the_bytes_that_were_written() {
    let Some(b) = bench("logs") else { return };
    b.app("web", "printf 'one\\ntwo\\377\\n'; while :; do sleep 1; done");
    until("all is written", || b.command(&["logs", "web"]).output().unwrap().stdout == b"one\ntwo\xff\n");
    assert_eq!(b.command(&["logs", "-n", "1", "web/main"]).output().unwrap().stdout, b"two\xff\n");
    let v: Value = serde_json::from_str(&b.good(&["logs", "--json", "web"])).unwrap();
    assert_eq!((v["text"].as_str(), v["lost"].as_u64()), (Some("one\ntwo\u{fffd}\n"), Some(0)));
    let mut follow = b.command(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    b.good(&["stop", "web"]);
    let mut out = Vec::new();
    follow.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(follow.wait().unwrap().success() && out == b"one\ntwo\xff\n", "{out:?}");
}

#[test]
fn exec_passes_input_output_and_the_exit_code() {
    let Some(b) = bench("exec") else { return };
    b.app("web", FOREVER);
    let mut child =
        b.command(&["exec", "-i", "web", "/bin/cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "through", ""));
    let ran = b.run(&["exec", "web", "/bin/sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(9), "out\n", "err\n"));
    assert_eq!(b.run(&["exec", "web", "/bin/sh", "-c", "kill -9 $$"]).code, Some(137));
    assert_eq!(
        b.good(&["exec", "-u", "101:101", "-w", "/bin", "-e", "A=b", "web", "/bin/sh", "-c", "id -u; pwd; echo $A"]),
        "101\n/bin\nb\n"
    );
    let ran = b.run(&["exec", "web", "/no/such"]);
    assert!(ran.code == Some(127) && ran.err.starts_with("wherry: ") && ran.err.contains("No such file"), "{ran:?}");
}

/// The modes of a terminal as the kernel keeps them: the C library's structure has room for more control characters than the kernel's 19.
fn modes(terminal: &OwnedFd) -> (u32, u32, u32, u32, [u8; 19]) {
    let t = libc::termios::from(tcgetattr(terminal).unwrap());
    (t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, *t.c_cc.first_chunk().unwrap())
}

/// Runs `wherry exec FLAG web …` on a terminal of 33 rows and 101 columns; gives how it ended, what it showed, and whether the terminal is as it was.
fn on_terminal(b: &Bench, flag: &str, script: &str, then: impl FnOnce(&Child, &mut File)) -> (Option<i32>, String, bool) {
    let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let before = modes(&pty.slave);
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut child = b.command(&["exec", flag, "web", "/bin/sh", "-c", script]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    let mut screen = File::from(pty.master);
    let mut shown = vec![0; 64];
    let n = screen.read(&mut shown).unwrap();
    shown.truncate(n);
    then(&child, &mut screen);
    let status = child.wait().unwrap();
    let same = modes(&pty.slave) == before;
    drop(pty.slave);
    // EIO: nobody has the other end open any more.
    let _ = screen.read_to_end(&mut shown);
    let code = status.code().or(status.signal().map(|s| -s));
    (code, String::from_utf8(shown).unwrap(), same)
}

#[test]
fn a_terminal_has_the_size_of_the_callers_and_goes_back_to_what_it_was() {
    let Some(b) = bench("tty") else { return };
    b.app("web", FOREVER);
    let (code, shown, same) = on_terminal(&b, "-it", "stty size; exit 5", |_, _| {});
    assert_eq!((code, shown.as_str(), same), (Some(5), "33 101\r\n", true));
    let (code, _, same) =
        on_terminal(&b, "-it", "echo ready; sleep 30", |child, _| kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap());
    assert_eq!((code, same), (Some(143), true));
}

#[test]
fn without_a_terminal_of_its_own_a_program_does_not_get_the_callers() {
    let Some(b) = bench("notty") else { return };
    b.app("web", FOREVER);
    let links = "for n in 0 1 2; do readlink /proc/self/fd/$n; done";
    let script = format!("{links}; echo error >&2; echo end; cat; exit 6");
    let (code, shown, same) = on_terminal(&b, "--user=root", &script, |_, _| {});
    assert_eq!((code, same), (Some(6), true), "{shown}");
    let lines: Vec<&str> = shown.lines().collect();
    assert!(matches!(lines[..], ["/dev/null", out, err, "error", "end"] if out == err && out.starts_with("pipe:")), "{lines:?}");

    let (code, shown, same) =
        on_terminal(&b, "-i", &format!("echo ready; cat; {links}"), |_, screen| screen.write_all(b"typed\n\x04").unwrap());
    assert_eq!((code, same), (Some(0), true), "{shown}");
    // Once by the terminal itself, once by the program; its end is the program's.
    assert_eq!(shown.lines().filter(|l| *l == "typed").count(), 2, "{shown:?}");
    assert!(shown.lines().filter(|l| l.starts_with("pipe:")).count() == 3 && !shown.contains("/dev/"), "{shown:?}");
}

#[test]
fn stats_status_info_and_version_speak_of_what_runs() {
    let Some(b) = bench("figures") else { return };
    b.app("web", "while :; do :; done");
    let v = b.json(&["stats", "--json"]);
    let web = &v["containers"]["web/main"];
    // A loop that never sleeps, on a machine that may be busy with other tests.
    assert!(web["cpu"]["percent"].as_f64().unwrap() > 10.0, "{web}");
    assert!(web["memory"]["current"].as_u64() > Some(0) && web["pids"]["current"].as_u64() >= Some(1), "{web}");
    let table = b.good(&["stats"]);
    assert!(table.lines().nth(1).unwrap().starts_with("CONTAINER") && table.contains("\nweb/main "), "{table}");
    let v = b.json(&["status", "--json"]);
    assert_eq!(
        (v["device"].as_str(), v["link"]["state"].as_str(), v["apps"]["running"].as_u64()),
        (Some("bench"), Some("unconfigured"), Some(1))
    );
    assert!(b.good(&["status"]).contains("\noffline: no broker is configured\n  next: "));
    assert_eq!(b.json(&["info", "web", "--json"])["app"], "web");
    let v = b.json(&["version", "--json"]);
    assert_eq!((&v["keeper"]["version"], v["keeper"]["pid"].as_u64()), (&v["version"], Some(b.keeper.id().into())));
}

#[test]
fn an_upgrade_keeps_keeper_and_containers() {
    let Some(b) = bench("upgrade") else { return };
    b.app("web", FOREVER);
    let pid = || b.json(&["ls", "--json"])[0]["containers"][0]["pid"].clone();
    let before = pid();
    b.good(&["upgrade"]);
    until("keeper is back", || b.run(&["ls"]).code == Some(0));
    assert_eq!(pid(), before);
    assert_eq!(b.json(&["version", "--json"])["keeper"]["pid"].as_u64(), Some(b.keeper.id().into()));
}
