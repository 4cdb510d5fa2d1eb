//! Storage that fails: full, without inodes, read-only, broken; at every write of the state, the store and the records. What runs goes on, what is
//! on flash stays whole, the answer names the reason, and all works again once the storage does.
//!
//! Needs what `keeper.rs` needs, and strace, e2fsprogs and loop devices. Errors come from real file systems; strace injects only where one
//! certain call is to fail.

mod harness;
#[allow(dead_code, reason = "made for another test program")]
#[path = "image/bench.rs"]
mod bench;

use harness::{Device, Signal, Value, eventually, json, manifest, shell, sleeper, steadily, with};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

// ---- file systems ----

/// A file system of a device's own at its data directory.
struct Flash(PathBuf);

impl Flash {
    fn tmpfs(device: &Device, options: &str) -> Self {
        let flash = Self::at(device);
        run("mount", &["-t", "tmpfs", "-o", options, "flash", flash.path()]);
        flash
    }

    /// Without a journal, errors are seen by whoever writes, and not only by the kernel's own thread.
    fn ext4(device: &Device, image: &Path, size: &str) -> Self {
        let flash = Self::at(device);
        let image = image.to_str().unwrap();
        run("truncate", &["-s", size, image]);
        run("mkfs.ext4", &["-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", image]);
        run("mount", &["-o", "loop", image, flash.path()]);
        flash
    }

    fn at(device: &Device) -> Self {
        let data = device.dir.join("data");
        fs::create_dir(&data).unwrap();
        Self(data)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.path()]);
    }
}

impl Drop for Flash {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Takes the last byte: large writes first, then ever smaller ones, then new files.
fn fill(dir: &Path) -> PathBuf {
    let ballast = dir.join("ballast");
    let mut file = fs::File::options().append(true).create(true).open(&ballast).unwrap();
    for size in [1 << 20, 64 << 10, 4 << 10, 512, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    let _ = file.sync_all();
    ballast
}

/// Takes the last inode.
fn fill_inodes(dir: &Path) -> PathBuf {
    let many = dir.join("many");
    fs::create_dir(&many).unwrap();
    let full = (0..100_000).find(|n| fs::File::create(many.join(n.to_string())).is_err());
    assert!(full.is_some(), "inodes never end");
    many
}

fn started(device: &mut Device) -> i32 {
    device.broker.up();
    device.start();
    device.online();
    device.deploy(&manifest("web", sleeper()));
    device.running("web")
}

fn tombstone(app: &str) -> Value {
    json!({"wherry": 1, "app": app, "remove": true})
}

/// A document that differs from all others of this app.
/// One that need not run for its grace time to be good: it is never to be restarted.
fn version(app: &str, n: u32) -> Value {
    manifest(app, with(shell("exec sleep 100000"), json!({"env": {"VERSION": n.to_string()}, "restart": {"policy": "no"}})))
}

// ---- full ----

/// `fill` uses up something of the flash, which `reason` names. Nothing new comes in, but an app can be removed, which makes room for another.
fn check_used_up(mut device: Device, flash: Flash, fill: fn(&Path) -> PathBuf, reason: &str) {
    let pid = started(&mut device);
    let ballast = fill(&flash.0);
    device.refused(&device.publish(&version("web", 2)), "rejected", reason);
    device.refused(&device.publish(&version("other", 1)), "rejected", reason);
    assert_eq!(device.running("web"), pid);
    device.ack(&device.publish(&tombstone("web")), "removed");
    eventually("its image is gone", || (fs::read_dir(flash.0.join("layers")).unwrap().count() == 0).then_some(()));
    // The tombstone and the next document are files that were not there before.
    if let Ok(file) = fs::File::options().write(true).open(&ballast) {
        file.set_len(file.metadata().unwrap().len().saturating_sub(256 << 10)).unwrap();
    }
    for file in fs::read_dir(&ballast).into_iter().flatten().take(4) {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    device.deploy(&version("other", 3));
    drop(fs::remove_dir_all(&ballast).or_else(|_| fs::remove_file(&ballast)));
    device.deploy(&version("web", 4));
    assert_eq!(device.json(&["status"])["unsaved"], Value::Null);
    assert!(flash.0.join("reserve").exists(), "a reserve is set aside again");
    device.end(Signal::SIGINT);
    device.start();
    assert_eq!(device.app("web").unwrap()["state"], "running");
    device.end(Signal::SIGINT);
}

#[test]
fn on_a_full_flash_an_app_can_be_removed_and_the_next_takes_its_room() {
    let device = Device::prepared(json!({}));
    let flash = Flash::tmpfs(&device, "size=6m");
    check_used_up(device, flash, fill, "no_space");
    let device = Device::prepared(json!({}));
    let flash = Flash::ext4(&device, &device.dir.join("disk"), "8M");
    check_used_up(device, flash, fill, "no_space");
}

#[test]
fn without_a_free_inode_an_app_can_be_removed_and_the_next_takes_its_room() {
    let device = Device::prepared(json!({}));
    let flash = Flash::tmpfs(&device, "size=16m,nr_inodes=200");
    check_used_up(device, flash, fill_inodes, "no_inodes");
}

// ---- read-only and broken ----

#[test]
fn on_a_read_only_flash_all_runs_on_can_be_stopped_and_is_recorded_once_that_is_possible() {
    let mut device = Device::prepared(json!({}));
    let flash = Flash::ext4(&device, &device.dir.join("disk"), "16M");
    let pid = started(&mut device);
    device.deploy(&version("other", 1));
    flash.remount("ro");
    let ack = device.refused(&device.publish(&version("web", 2)), "rejected", "io");
    assert!(ack.to_string().contains("ead-only file system"), "{ack}");
    device.end(Signal::SIGKILL);
    device.start();
    assert_eq!(device.running("web"), pid);
    device.ok(&["stop", "other"]);
    let why = device.json(&["status"])["unsaved"].to_string();
    assert!(why.contains("ead-only file system"), "{why}");
    device.online();
    device.reported("that the state is not on record", |r| r["about"]["missing"]["storage"].is_string());
    flash.remount("rw");
    eventually("the state is on record", || device.json(&["status"])["unsaved"].is_null().then_some(()));
    device.end(Signal::SIGINT);
    device.start();
    device.running("web");
    assert_eq!(device.pid("other"), None, "the stop by hand was recorded late, but it was");
    device.end(Signal::SIGINT);
}

/// A loop device whose file has no room takes no writes, as worn-out flash does; the file system above it learns that late.
#[test]
fn on_a_broken_flash_nothing_new_comes_in_and_what_runs_goes_on() {
    let mut device = Device::prepared(json!({}));
    let under = device.dir.join("under");
    fs::create_dir(&under).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=24m", "under", under.to_str().unwrap()]);
    let bottom = Flash(under.clone());
    let flash = Flash::ext4(&device, &under.join("disk"), "64M");
    let pid = started(&mut device);
    run("sync", &["-f", flash.path()]);
    let ballast = fill(&under);
    let big = manifest("big", with(sleeper(), json!({"image": {"ref": harness::slow()}})));
    let sha = device.publish(&big);
    let end = eventually("the large image fails", || device.acks(&sha).into_iter().find(|a| a["reason"].is_string()));
    assert!(end["reason"] == "io" || end["reason"] == "no_space", "{end}");
    assert_eq!(device.running("web"), pid);
    fs::remove_file(ballast).unwrap();
    // What could not be written is lost to the page cache; a device in that state wants a reboot, but keeper need not fall over before it.
    steadily(Duration::from_millis(500), "keeper answers and the container runs", || device.pid("web") == Some(pid));
    device.end(Signal::SIGINT);
    drop((flash, bottom));
}

// ---- each call on its own ----

/// strace on a process, which makes the nth of these calls on one of these paths fail.
struct Injection(Child);

impl Injection {
    fn on(pid: i32, paths: &[PathBuf], call: &str, error: &str, nth: u32, log: &Path) -> Self {
        let mut strace = Command::new("strace");
        strace.arg("-o").arg(log).args(["-p", &pid.to_string(), "-e", &format!("inject={call}:error={error}:when={nth}")]);
        for path in paths {
            strace.arg("-P").arg(path);
        }
        let child = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace is installed");
        let tracer = format!("TracerPid:\t{}", child.id());
        let traced = || fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains(&tracer));
        eventually("strace is attached", || traced().then_some(()));
        Self(child)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        harness::kill(self.0.id() as i32, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Every path that keeper writes to on flash, for the next document.
fn flash_paths(device: &Device, next: &Value) -> Vec<PathBuf> {
    let data = device.dir.join("data");
    let document = format!("manifests/{}.json", wherry::image::Digest::of(next.to_string().as_bytes()).hex());
    ["", "state.a", "state.b", "manifests", "manifests/new", &document].map(|name| data.join(name)).to_vec()
}

/// Lets the first, second, … of these calls fail while the next document is applied, until there is none left; how many there were.
fn check_each(device: &Device, call: &str, error: &str, reasons: &[&str], serial: &mut u32) -> u32 {
    for nth in 1.. {
        *serial += 1;
        let pid = device.running("web");
        let next = version("web", *serial);
        let log = device.dir.join("strace");
        let injection = Injection::on(device.keeper(), &flash_paths(device, &next), call, error, nth, &log);
        let outcome = device.apply(&next);
        drop(injection);
        let hit = fs::read_to_string(&log).unwrap().contains("(INJECTED)");
        if outcome.code != 0 {
            let message = format!("{call} {nth} {error}: {outcome:?}");
            assert!(hit, "{message}");
            assert_eq!(device.running("web"), pid, "{message}");
            let shown = device.json(&["info", "web"]);
            assert!(reasons.iter().any(|r| outcome.err.contains(r)) || shown["refusal"].is_object(), "{message}");
            // The state on flash is the old one or the new one, never none.
            *serial += 1;
            device.applied(&version("web", *serial));
        }
        if !hit {
            assert_eq!(outcome.code, 0, "{call} {nth} {error}: {outcome:?}");
            return nth - 1;
        }
    }
    unreachable!("a document is recorded by a finite number of calls")
}

#[test]
fn whichever_call_that_records_a_document_fails_the_old_version_runs_on_and_the_next_document_is_taken() {
    let mut device = Device::prepared(json!({}));
    device.settings["brokers"] = json!([]);
    device.start();
    device.applied(&version("web", 0));
    let mut serial = 0;
    let mut points = 0;
    for (call, least) in [("open", 4), ("write", 1), ("pwrite64", 2), ("fdatasync", 3), ("fsync", 1), ("ftruncate", 2), ("rename", 1)] {
        for (error, reasons) in [("EIO", ["(io)", "error"]), ("ENOSPC", ["no space", "no_space"])] {
            let found = check_each(&device, call, error, &reasons, &mut serial);
            assert!(found >= least, "{call} was hit {found} times only: has the writer changed?");
            points += found;
        }
    }
    assert!(points >= 28, "{points}");
    eventually("the state is on record", || device.json(&["status"])["unsaved"].is_null().then_some(()));
    let state = device.json(&["info", "web"])["sha256"].clone();
    device.end(Signal::SIGINT);
    device.start();
    device.running("web");
    assert_eq!(device.json(&["info", "web"])["sha256"], state, "what was answered is what is on flash");
}

#[test]
fn a_container_whose_record_cannot_be_written_never_runs() {
    let mut device = Device::prepared(json!({}));
    device.settings["brokers"] = json!([]);
    device.start();
    device.applied(&version("other", 1));
    let other = device.running("other");
    let dir = device.dir.join("run/containers/web/main");
    let witness = device.dir.join("witness");
    fs::create_dir(&witness).unwrap();
    let mut hits = 0;
    for (call, nth) in [("write", 1), ("write", 2), ("rename", 1), ("rename", 2), ("open", 1), ("open", 2), ("mknod", 1)] {
        let script = format!("echo >/w/{call}{nth}; exec sleep 100000");
        let once = json!({"mounts": [{"type": "bind", "source": witness, "target": "/w"}], "restart": {"policy": "no"}});
        let paths = ["record", "record.new", "log"].map(|name| dir.join(name));
        let log = device.dir.join("strace");
        let injection = Injection::on(device.keeper(), &paths, call, "ENOSPC", nth, &log);
        let outcome = device.apply(&manifest("web", with(shell(&script), once)));
        drop(injection);
        if fs::read_to_string(&log).unwrap().contains("(INJECTED)") && !witness.join(format!("{call}{nth}")).exists() {
            hits += 1;
            assert_ne!(outcome.code, 0, "{call} {nth}: {outcome:?}");
            assert!(outcome.err.contains("No space left"), "{outcome:?}");
            eventually("what was cloned is gone", || device.tasks("web").is_empty().then_some(()));
        }
        let _ = device.wherry(&["rm", "web"]);
        eventually("it is gone", || device.app("web").is_none().then_some(()));
        assert_eq!(device.running("other"), other);
    }
    assert!(hits >= 4, "{hits} points were hit");
    // The same by a runtime directory that is full in truth.
    let ballast = fill(&device.dir.join("run"));
    let outcome = device.apply(&version("web", 1));
    assert!(outcome.code != 0 && outcome.err.contains("No space left"), "{outcome:?}");
    assert!(device.tasks("web").is_empty());
    assert_eq!(device.running("other"), other);
    fs::remove_file(ballast).unwrap();
    device.applied(&version("web", 2));
}

// ---- bringing in an image ----

/// Calls by which stage, unpack and finish write, or name what they write. strace counts them for each process on its own.
const STAGING: &[&str] = &[
    "open",
    "openat",
    "openat2",
    "write",
    "mkdir",
    "mkdirat",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchownat",
    "fchown",
    "symlinkat",
    "linkat",
    "utimensat",
    "fsetxattr",
    "setxattr",
    "rename",
    "renameat2",
    "syncfs",
    "fsync",
    "fdatasync",
    "ftruncate",
    "getdents64",
];

/// Brings in the archive with the nth of these calls failing in every process of stage; the answer, and whether any was hit.
fn staged(bench: &bench::Bench, archive: &str, call: &str, error: &str, nth: u32) -> (bench::Answer, bool) {
    use std::os::fd::AsFd;
    use wherry::sys::process::{Spawn, reap, spawn};
    let log = bench.path("strace");
    let strace = fs::File::open("/usr/bin/strace").expect("strace is installed");
    let inject = format!("inject={call}:error={error}:when={nth}");
    let program = harness::device::program();
    let words = ["strace", "-f", "-qq", "-o", &log, "-e", &inject, "--", program.to_str().unwrap(), "stage"];
    let argv: Vec<std::ffi::CString> = words.map(|w| std::ffi::CString::new(w).unwrap()).into();
    let (ours, theirs) = wherry::ipc::Conn::pair().unwrap();
    let child = spawn(&Spawn { exe: strace.as_fd(), argv: &argv, env: &[], fds: &[theirs.as_fd()], flags: 0 }).unwrap();
    drop(theirs);
    let source = wherry::image::Source::Rootfs { path: archive.to_owned() };
    ours.send(&wherry::ipc::ToStage::Pull(bench.job(&bench.data(), source))).unwrap();
    let answer = bench::answer(&ours);
    reap(child.pid).unwrap();
    (answer, fs::read_to_string(log).unwrap().contains("(INJECTED)"))
}

#[test]
fn whichever_call_that_brings_in_an_image_fails_nothing_is_left_or_all_is_there() {
    let bench = bench::Bench::new("injected");
    let make = "mkdir -p r/d/e; echo one > r/d/file; ln r/d/file r/hard; ln -s d/file r/soft; chown -h 7:8 r/soft r/d; chmod 2755 r/d/e; tar -C r -cf r.tar .";
    bench::run("sh", &["-euc", make], bench.dir());
    let archive = bench.path("r.tar");
    let layer = |record: &wherry::image::Record| bench.data().join(&bench.store().layer_dirs(record)[0]);
    let wanted = bench::tree(&layer(&bench.stage(wherry::image::Source::Rootfs { path: archive.clone() }, |_| {}).unwrap()));
    let mut failures = 0;
    for call in STAGING {
        for error in ["EIO", "ENOSPC"] {
            for nth in 1..40 {
                fs::remove_dir_all(bench.data()).unwrap();
                let (answer, hit) = staged(&bench, &archive, call, error, nth);
                match answer {
                    // What did not matter was skipped, or the call was not on the way at all.
                    Ok(record) => bench::same(&format!("{call} {nth} {error}"), &wanted, &bench::tree(&layer(&record))),
                    Err((reason, message)) => {
                        assert!(hit && !message.is_empty(), "{call} {nth} {error}: {reason:?} {message}");
                        let left = |dir: &str| fs::read_dir(bench.data().join(dir)).into_iter().flatten().count();
                        assert_eq!((left("layers"), left("images")), (0, 0), "{call} {nth} {error}: {message}");
                        // The same error may have stopped the cleaning; keeper has that done again after every failure.
                        bench.store().collect_garbage(&[]).unwrap();
                        assert_eq!(left("staging"), 0, "{call} {nth} {error}: {message}");
                        failures += 1;
                    }
                }
                if !hit {
                    break;
                }
            }
        }
    }
    assert!(failures >= 40, "only {failures} calls failed: has the way an image comes in changed?");
}
