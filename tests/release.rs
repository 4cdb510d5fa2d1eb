//! The release builds of all three targets: static, within their budgets, the same bytes wherever they are built, and nothing of this machine in
//! them.

use std::os::unix::fs::symlink;
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
fn a_release_built_in_another_folder_with_another_cache_has_the_same_bytes() {
    let _turn = turn();
    let scratch = Scratch::new("again");
    let (copy, cache) = (scratch.0.join("another folder"), scratch.0.join("cache"));
    copy_source(&copy);
    symlink(kept(), &cache).expect("a link to the cache");
    for target in TARGETS {
        let second = built_again(target, &copy, &cache, &scratch.0.join("objects"));
        assert!(second.starts_with(&scratch.0), "{}", second.display());
        assert!(fs::read(built(target)).expect("one") == fs::read(second).expect("the other"), "two builds for {target} differ");
    }
}

#[test]
fn a_32_bit_release_has_64_bit_time() {
    let _turn = turn();
    let symbols = built(TARGETS[2]).with_extension("symbols");
    let output = ok(Command::new("nm").arg(&symbols));
    let names = String::from_utf8_lossy(&output.stdout);
    // Rust's own clock asks the C library's `clock_gettime` for a time of 32 bits; its monotonic one begins with the boot, and fits.
    assert!(names.contains("__clock_gettime64") && !names.contains("10SystemTime3now"), "{}", symbols.display());
}

#[test]
fn no_release_has_a_table_of_the_base_points_multiples() {
    let _turn = turn();
    for target in TARGETS {
        let output = ok(Command::new("nm").arg(built(target).with_extension("symbols")));
        let names = String::from_utf8_lossy(&output.stdout);
        assert!(names.contains("p256_point_mul") && !names.contains("ecp_nistz256_precomputed"), "{target}");
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

/// The same, of the source in another folder, with its cache and its objects elsewhere.
fn built_again(target: &str, folder: &Path, cache: &Path, objects: &Path) -> PathBuf {
    let mut build = cross(folder, "build");
    build.args(["--release", target, "--quiet"]).env("WHERRY_CACHE", cache).env("CARGO_TARGET_DIR", objects);
    // The copy has no history that would tell the date.
    if let Some(date) = commit_date() {
        build.env("SOURCE_DATE_EPOCH", date);
    }
    let output = ok(&mut build);
    String::from_utf8(output.stdout).expect("a path").trim_end().into()
}

/// What a build needs, at another path and without git's history.
fn copy_source(to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for name in ["Cargo.toml", "Cargo.lock", "src", "cross", "tests"] {
        ok(Command::new("cp").arg("-a").arg(root().join(name)).arg(to));
    }
}

/// Where cross/setup keeps what it installed.
fn kept() -> PathBuf {
    env::var_os("WHERRY_CACHE").map_or_else(|| PathBuf::from(env::var("HOME").expect("a home")).join(".cache/wherry"), PathBuf::from)
}

/// The date that cross/build takes from git, in seconds since 1970.
fn commit_date() -> Option<String> {
    let output = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
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
