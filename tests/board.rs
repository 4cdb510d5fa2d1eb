//! `board/run host`, as a person runs it: the main job on this machine, and nothing left behind, however it ends.
//!
//! Needs root and what board/run installs. This process becomes the reaper of every orphan below it, so a process that
//! board/run forgets turns up as our child.

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longest run of the script; the walk itself takes half a minute.
const PATIENCE: Duration = Duration::from_secs(180);
/// Walks one at a time: whatever is left over belongs to the one that ended last.
static ONE: Mutex<()> = Mutex::new(());

fn binary() -> PathBuf {
    std::env::var_os("WHERRY_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_wherry")), PathBuf::from)
}

fn script(arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("board/run"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// One run of the script in its own process group, with a directory of its own for temporary files.
struct Walk {
    child: Child,
    temporary: PathBuf,
    _one: MutexGuard<'static, ()>,
}

impl Walk {
    fn start(arguments: &[&str]) -> Self {
        use std::os::unix::process::CommandExt;
        let one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let temporary = std::env::temp_dir().join(format!("wherry-board-test-{}", std::process::id()));
        fs::create_dir_all(&temporary).unwrap();
        let binary = binary();
        let mut command = script(&["host", "--bin", binary.to_str().unwrap()]);
        let errors = fs::File::create(temporary.with_extension("errors")).unwrap();
        let child = command.args(arguments).env("TMPDIR", &temporary).stderr(errors).process_group(0).spawn().unwrap();
        Self { child, temporary, _one: one }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Reads what it prints until a line begins with `heading`.
    fn until(&mut self, heading: &str) -> BufReader<std::process::ChildStdout> {
        let mut lines = BufReader::new(self.child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with(heading) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the walk ended before {heading}: {}", self.errors());
        }
        lines
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.temporary.with_extension("errors")).unwrap()
    }

    /// Waits for its end within bounds; answers the exit status.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the walk does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Processes, control groups, mounts and files that are still there.
    fn traces(&self) -> Vec<String> {
        let groups = groups_below(Path::new("/sys/fs/cgroup"), &format!("board-{}", self.child.id()), 3);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(self.temporary.to_str().unwrap())).map(String::from);
        let files = fs::read_dir(&self.temporary).unwrap().map(|entry| entry.unwrap().path().display().to_string());
        orphans().into_iter().chain(groups).chain(mounts).chain(files).collect()
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.temporary);
        let _ = fs::remove_file(self.temporary.with_extension("errors"));
    }
}

/// Directories called `name`, at most `depth` levels down.
fn groups_below(directory: &Path, name: &str, depth: usize) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if path.file_name().is_some_and(|file| file == name) {
            found.push(path.display().to_string());
        } else if depth > 1 {
            found.extend(groups_below(&path, name, depth - 1));
        }
    }
    found
}

/// Children of ours that live; the dead ones among them are reaped.
fn orphans() -> Vec<String> {
    let any_left = || !matches!(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)), Err(_) | Ok(WaitStatus::StillAlive));
    while any_left() {}
    let own = std::process::id();
    let tasks = fs::read_dir(format!("/proc/{own}/task")).unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect::<String>();
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    children.split_ascii_whitespace().map(|pid| format!("process {pid} {}", name(pid).trim())).collect()
}

#[test]
fn the_main_job_shows_and_leaves_nothing() {
    let mut walk = Walk::start(&["--once"]);
    let mut output = String::new();
    walk.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(walk.end(), Some(0), "{output}\n{}", walk.errors());
    assert_eq!(walk.traces(), [""; 0], "{output}\n{}", walk.errors());
    let last: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let demo = &last["containers"]["demo/main"];
    assert_eq!(last["containers"].as_object().unwrap().len(), 1, "a message from before the tombstones: {last}");
    assert!(demo["cpu"]["usage_us"].as_u64().is_some_and(|n| n > 0), "{last}");
    assert_eq!(demo["memory"]["max"], 48 << 20, "{last}");
    assert!(last["device"]["agent_pss"].as_u64().is_some_and(|n| n > 0), "{last}");
}

#[test]
fn a_walk_that_is_interrupted_leaves_nothing() {
    let early = Duration::from_millis(300);
    for (heading, after, signal, group) in [
        ("── A broker", early, Signal::SIGINT, true),
        ("── 1.", early, Signal::SIGINT, true),
        ("── 3.", early, Signal::SIGTERM, false),
        ("── 5.", Duration::from_secs(2), Signal::SIGINT, true),
        ("── 6.", Duration::ZERO, Signal::SIGHUP, false),
        ("The app demo runs on", early, Signal::SIGINT, true),
    ] {
        let mut walk = Walk::start(&[]);
        let output = walk.until(heading);
        std::thread::sleep(after);
        let sent = if group { killpg(walk.pid(), signal) } else { kill(walk.pid(), signal) };
        sent.unwrap();
        // Whoever prints goes on to be read, as a terminal does.
        let reader = std::thread::spawn(move || output.lines().count());
        assert_eq!(walk.end(), Some(128 + signal as i32), "{signal} after {heading}: {}", walk.errors());
        assert_eq!(walk.traces(), [""; 0], "{signal} after {heading}: {}", walk.errors());
        reader.join().unwrap();
    }
}

#[test]
fn a_walk_that_nobody_reads_any_more_leaves_nothing() {
    let mut walk = Walk::start(&[]);
    drop(walk.until("── 2."));
    assert_ne!(walk.end(), Some(0));
    assert_eq!(walk.traces(), [""; 0], "{}", walk.errors());
}

#[test]
fn a_wrong_command_line_is_told_with_the_boards_there_are() {
    for (arguments, sentence) in [
        (&["nosuch"][..], "unknown board nosuch"),
        (&["../board/host"], "unknown board ../board/host"),
        (&[], "which board?"),
        (&["host", "host"], "one board at a time"),
        (&["host", "--twice"], "unknown option --twice"),
        (&["host", "--bin"], "--bin needs the path of a binary"),
        (&["host", "--figures"], "--figures is for emulated boards"),
        (&["qemu-aarch64", "--idle", "long"], "--idle needs a number of seconds"),
    ] {
        let answer = script(arguments).output().unwrap();
        let errors = String::from_utf8(answer.stderr).unwrap();
        assert_eq!(answer.status.code(), Some(64), "{arguments:?}");
        assert!(errors.contains(sentence) && errors.contains("  host "), "{arguments:?}: {errors}");
        assert!(answer.stdout.is_empty(), "{arguments:?}");
    }
    let help = script(&["--help"]).output().unwrap();
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("--once"));
}

/// The scripts where everybody may read them; a clone may be in a directory that is root's alone.
fn public_copy() -> PathBuf {
    let copy = std::env::temp_dir().join(format!("wherry-board-copy-{}", std::process::id()));
    fs::create_dir_all(&copy).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(Command::new("cp").arg("-r").args([here.join("board"), here.join("cross")]).arg(&copy).status().unwrap().success());
    copy
}

#[test]
fn a_machine_that_cannot_run_containers_is_refused() {
    let copy = public_copy();
    let answers = [
        (&["--reuid=65534", "--clear-groups"][..], "must run as root"),
        (&["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"], "cannot make namespaces"),
    ]
    .map(|(lack, sentence)| {
        let run = copy.join("board/run");
        let mut command = Command::new("setpriv");
        (command.args(lack).arg(run).args(["host", "--once", "--bin", "/bin/true"]).output().unwrap(), sentence)
    });
    fs::remove_dir_all(&copy).unwrap();
    for (answer, sentence) in answers {
        let errors = String::from_utf8(answer.stderr).unwrap();
        assert_eq!(answer.status.code(), Some(1), "{errors}");
        let lines: Vec<&str> = errors.lines().collect();
        assert!(matches!(lines[..], [error, hint] if error.contains(sentence) && hint.starts_with("  hint: ")), "{errors}");
    }
}

#[test]
fn a_path_that_is_no_program_is_refused() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let answer = script(&["host", "--once", "--bin", "/etc/passwd"]).output().unwrap();
    let errors = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(answer.status.code(), Some(1), "{errors}");
    assert!(errors.contains("there is no program /etc/passwd"), "{errors}");
}
