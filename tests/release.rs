//! The release builds of all three targets: static, within their budgets, and nothing of this machine in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard};
use std::{env, fs, process};

const NATIVE: &str = "x86_64-unknown-linux-musl";
const TARGETS: [&str; 3] = [NATIVE, "aarch64-unknown-linux-musl", "armv7-unknown-linux-musleabihf"];

/// One test at a time: a build takes all processors, and puts the binary of an earlier one there anew.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn each_release_is_static_for_its_machine_and_within_its_budget() {
    let _turn = turn();
    for target in TARGETS {
        // cross/build itself refuses anything else.
        let binary = built(target);
        assert!(binary.ends_with("release/wherry"), "{}", binary.display());
        let segments = readelf("--program-headers", &binary);
        assert!(!segments.contains("INTERP") && !segments.contains("DYNAMIC"), "{target}: {segments}");
    }
}

#[test]
fn a_release_tells_nothing_of_the_machine_it_was_built_on() {
    let _turn = turn();
    // All that building puts below a home has a name with a dot.
    let home = format!("{}/.", env::var("HOME").expect("a home"));
    let traces = [env!("CARGO_MANIFEST_DIR"), home.as_str(), ".cargo/registry", ".rustup"];
    for target in TARGETS {
        let binary = fs::read(built(target)).expect("the binary");
        for trace in traces {
            assert!(!binary.windows(trace.len()).any(|bytes| bytes == trace.as_bytes()), "{target} contains {trace}");
        }
    }
}

#[test]
fn a_release_over_its_budget_fails_and_names_what_is_large() {
    let _turn = turn();
    built(NATIVE);
    let scratch = Scratch::new("budget");
    let budgets = scratch.0.join("budgets.toml");
    fs::write(&budgets, format!("[binary]\n{NATIVE} = 1_000_000\n")).expect("a file of budgets");
    let output = cross(root(), "build").args(["--release", NATIVE, "--quiet"]).env("WHERRY_BUDGETS", budgets).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
    assert!(said.contains("bytes over its budget"), "{said}");
    let rows = |title: &str| said.lines().skip_while(|line| *line != title).skip(1).take_while(|line| line.starts_with(' ')).count();
    assert_eq!((rows("largest crates:"), rows("largest symbols:")), (10, 10), "{said}");
}

// ---------------------------------------------------------------------------------------------------------------------

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The release binary of a target, built if it is not yet.
fn built(target: &str) -> PathBuf {
    ok(cross(root(), "setup").arg(target));
    let output = ok(cross(root(), "build").args(["--release", target, "--quiet"]));
    String::from_utf8(output.stdout).expect("a path").trim_end().into()
}

fn cross(folder: &Path, script: &str) -> Command {
    let mut command = Command::new(folder.join("cross").join(script));
    command.current_dir(folder).env_remove("SOURCE_DATE_EPOCH");
    command
}

fn ok(command: &mut Command) -> Output {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn printed(command: &mut Command) -> String {
    String::from_utf8(ok(command).stdout).expect("text")
}

fn readelf(what: &str, binary: &Path) -> String {
    printed(Command::new("readelf").args([what, "--wide"]).arg(binary))
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = env::temp_dir().join(format!("wherry-release-{}-{name}", process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
