//! What a taken-over unpack can reach: nothing. This program plays stage and hash as they are, and instead of unpacking, in exactly unpack's
//! cage, it tries what the blob tells it to. Each attempt is made three times: in the cage; in the cage without its system call filter,
//! because the walls must hold by themselves; and outside, where it succeeds, or the test would show nothing.
//!
//! Not libtest: the roles are started by re-executing this very program with their names. Needs root.

#[path = "cage/attempts.rs"]
mod attempts;
#[path = "image/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "cage/calls.rs"]
mod calls;
#[path = "cage/liar.rs"]
mod liar;

use bench::{Bench, Layout, answer_to};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::CString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Instant;
use wherry::image::{Digest, Form, Record, Source};
use wherry::ipc::{Conn, StageJob, ToStage};
use wherry::protocol::Reason;
use wherry::sys::process::{Spawn, reap, spawn};

/// Name and body of each test.
const TESTS: [(&str, fn()); 4] = [
    ("attempts_from_the_cage_end_at_its_walls", attempts_from_the_cage_end_at_its_walls),
    ("time_ends_whoever_does_not_end_by_himself", time_ends_whoever_does_not_end_by_himself),
    ("lies_to_stage_are_found_out", lies_to_stage_are_found_out),
    ("success_is_believed_only_for_the_right_bytes", success_is_believed_only_for_the_right_bytes),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("stage") => wherry::stage::main(),
        Some("hash") => wherry::hash::main(),
        Some("unpack") => liar::main(),
        Some("outside") => outside(&args[1]),
        _ => run(&args),
    }
}

/// As libtest says it, so that `tests/run` counts alike.
fn run(args: &[String]) -> ExitCode {
    let filter = args.iter().find(|a| !a.starts_with('-'));
    let exact = args.iter().any(|a| a == "--exact");
    let wanted = |name: &str| filter.is_none_or(|f| if exact { name == f } else { name.contains(f.as_str()) });
    let chosen: Vec<_> = TESTS.iter().filter(|(name, _)| wanted(name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let begin = Instant::now();
    let passed = chosen.iter().filter(|(name, test)| {
        let good = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        good
    });
    let (passed, all) = (passed.count(), chosen.len());
    let word = if passed == all { "ok" } else { "FAILED" };
    let (failed, out, time) = (all - passed, TESTS.len() - all, begin.elapsed().as_secs_f32());
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out; finished in {time:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The control: as root, in a mount namespace of its own only so that nothing stays.
fn outside(words: &str) -> ExitCode {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    print!("{}", attempts::attempt(words));
    ExitCode::SUCCESS
}

fn start(bench: &Bench, source: Source, change: impl FnOnce(&mut StageJob)) -> Result<Record, (Reason, String)> {
    start_with(bench, source, b"", change)
}

fn start_with(bench: &Bench, source: Source, download: &[u8], change: impl FnOnce(&mut StageJob)) -> Result<Record, (Reason, String)> {
    let mut job = bench.job(&bench.data(), source);
    (job.max_bytes, job.max_inodes) = (1 << 20, 100);
    change(&mut job);
    let exe = File::open("/proc/self/exe").unwrap();
    let (ours, theirs) = Conn::pair().unwrap();
    let argv = [CString::from(c"wherry"), CString::from(c"stage")];
    let child = spawn(&Spawn { exe: exe.as_fd(), argv: &argv, env: &[], fds: &[theirs.as_fd()], flags: 0 }).unwrap();
    ours.send(&ToStage::Pull(job)).unwrap();
    let result = answer_to(&ours, download);
    reap(child.pid).unwrap();
    result
}

/// What came of it, in the words of the caged process, or of stage.
fn caged(bench: &Bench, order: &str) -> String {
    let blob = bench.file("blob", order.as_bytes());
    let result = start(bench, Source::Rootfs { path: blob }, |_| {});
    let (_, message) = result.expect_err(order);
    bench.store_is_empty();
    let own = message.strip_prefix("cannot unpack layer sha256:").map_or(&message[..], |rest| rest.split_once(": ").unwrap().1);
    own.strip_prefix("unpack gave no result: ended by ").map_or(own, |how| how.split(',').next().unwrap()).to_owned()
}

fn free(bench: &Bench, words: &str) -> String {
    let dir = bench.dir().join("free");
    fs::create_dir_all(&dir).unwrap();
    let out = Command::new("/proc/self/exe").args(["outside", words]).current_dir(&dir).output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// An attempt with its end in the cage, without the filter, and outside.
struct Row(String, &'static str, &'static str, &'static str);

fn attempts_from_the_cage_end_at_its_walls() {
    // The filter ends the process by SIGSYS.
    const FILTER: &str = "signal 31";
    let bench = Bench::new("cage");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("wherry-cage-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let _path = UnixListener::bind(bench.path("socket")).unwrap();
    drop(bench.store());
    fs::write(bench.data().join("secret"), "of another part").unwrap();
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let (victim, port) = (sleeper.id(), tcp.local_addr().unwrap().port());
    let secret = bench.data().join("secret").display().to_string();
    // Where the walls say "done", what was done reaches nothing: a link of an empty network namespace, a whiteout below staging, a user
    // namespace below that of the cage. A process can be forked, for want of a limit on root's, but there is no program to run.
    let row = |words: String, cage, walls, free| Row(words, cage, walls, free);
    let rows = [
        row("open /etc/shadow".into(), "ENOENT", "ENOENT", "done"),
        row(format!("open {secret}"), "ENOENT", "ENOENT", "done"),
        row(format!("open /proc/{victim}/root/etc/shadow"), "ENOENT", "ENOENT", "done"),
        row("open /proc/self/fd".into(), "ENOENT", "ENOENT", "done"),
        row("open ../../../../../../../../../../etc/shadow".into(), "ENOENT", "ENOENT", "done"),
        row(format!("climb {secret}"), "ENOENT", "ENOENT", "done"),
        row(format!("link {secret}"), "ENOENT", "ENOENT", "done"),
        row(format!("inet {port}"), FILTER, "ENETUNREACH", "done"),
        row(format!("abstract {name}"), FILTER, "ECONNREFUSED", "done"),
        row(format!("unix {}", bench.path("socket")), FILTER, "ENOENT", "done"),
        row("netlink".into(), FILTER, "done", "done"),
        row(format!("trace {victim}"), FILTER, "ESRCH", "done"),
        row(format!("kill {victim}"), FILTER, "ESRCH", "done"),
        row("mount".into(), FILTER, "EPERM", "done"),
        row("chroot".into(), FILTER, "EPERM", "done"),
        row("device".into(), FILTER, "EPERM", "done"),
        row("whiteout".into(), FILTER, "done", "done"),
        row("userns".into(), FILTER, "done", "done"),
        row("user".into(), FILTER, "EPERM", "done"),
        row("hostname".into(), FILTER, "EPERM", "done"),
        row("module".into(), FILTER, "EPERM or ENOSYS", "EBADF or ENOSYS"),
        row("bpf".into(), FILTER, "EPERM", "ENOENT"),
        row("rlimit".into(), FILTER, "EPERM", "done"),
        row("fork".into(), FILTER, "ENOENT", "done"),
        row("memory".into(), "ENOMEM", "ENOMEM", "done"),
        row("bytes".into(), "EFBIG", "EFBIG", "done"),
        row("trusted".into(), "EPERM", "EPERM", "done"),
    ];
    let wrong: Vec<String> = rows.iter().filter_map(|row| judge(&bench, row)).collect();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_eq!(fs::read_to_string(secret).unwrap(), "of another part");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // Beside what keeper itself was started with: stage's socket, the blob, the cage's own root.
    assert_eq!(caged(&bench, "cage descriptors"), "3:socket 4:pipe 5:directory");
}

fn judge(bench: &Bench, Row(words, cage, walls, outside): &Row) -> Option<String> {
    let found = [caged(bench, &format!("cage {words}")), caged(bench, &format!("walls {words}")), free(bench, words)];
    let fits = found.iter().zip([cage, walls, outside]).all(|(found, expected)| expected.split(" or ").any(|e| e == found));
    (!fits).then(|| format!("{words}: {found:?}, expected {cage:?} {walls:?} {outside:?}"))
}

fn time_ends_whoever_does_not_end_by_himself() {
    let bench = Bench::new("cage-time");
    for order in ["cage spin", "cage wait", "cage wait-after-success"] {
        let blob = bench.file("blob", order.as_bytes());
        let (reason, message) = start(&bench, Source::Rootfs { path: blob }, |job| job.timeout_s = 2).expect_err(order);
        let by_limit = message.contains("ended by signal 9");
        assert!(reason == Reason::Timeout || by_limit, "{order}: {reason} {message}");
        bench.store_is_empty();
    }
}

fn lies_to_stage_are_found_out() {
    let bench = Bench::new("cage-lies");
    for (lie, words) in [
        ("too-many-marks", "unpack reports more than it may"),
        ("too-long-marks", "unpack reports more than it may"),
        ("too-many-found", "unpack reports more than it may"),
        ("mark-climbs", "cannot understand unpack"),
        ("garbage", "cannot understand unpack"),
        ("other-version", "cannot understand unpack"),
        ("too-long", "cannot understand unpack"),
        ("too-many-descriptors", "cannot understand unpack"),
        ("mark-through-link", "entry s is an opaque directory in something that is not a directory"),
        ("whiteout-through-link", "entry s/canary is a whiteout in something that is not a directory"),
        ("terminal", "?[2Jred"),
        ("silence", "ended with status 0 or signal 9"),
    ] {
        let found = caged(&bench, &format!("cage lie {lie}"));
        assert!(words.split(" or ").any(|w| found.contains(w)), "{lie}: {found}");
    }
    // The same of an archive that comes in one pass, of which unpack has more to tell.
    for (lie, words) in [
        ("too-many-marks", "unpack reports more than it may"),
        ("too-many-layers", "unpack reports more than it may"),
        ("too-long-documents", "unpack reports more than it may"),
        ("too-many-documents", "unpack reports more than it may"),
        ("layer-that-is-not-there", "unpack has left no layer 0"),
        ("layer-that-is-a-link", "unpack has left no layer 0"),
        ("layer-behind-a-link", "entry s is an opaque directory in something that is not a directory"),
        ("success", "there is no index.json"),
    ] {
        let order = format!("cage lie {lie}");
        let pinned = |job: &mut StageJob| job.digest = Some(Digest::of(order.as_bytes()));
        let (_, message) = start_with(&bench, bench::download(Form::OciArchive), order.as_bytes(), pinned).expect_err(lie);
        assert!(message.contains(words), "{lie}: {message}");
        bench.store_is_empty();
    }
}

fn success_is_believed_only_for_the_right_bytes() {
    let bench = Bench::new("cage-digest");
    let layout = Layout::new(&bench, &[b"cage lie success"]);
    let oci = |path: String| Source::OciDir { path, tag: Some("t".into()) };
    let good = layout.write("good");
    let record = start(&bench, oci(good), |_| {}).expect("the right bytes: what unpack makes of them is its own business");
    bench.store().collect_garbage(&[]).unwrap();
    let bad = layout.write("bad");
    // Other bytes, and the same lie.
    fs::write(format!("{bad}/blobs/sha256/{}", record.layers[0].hex()), b"cage lie succeed").unwrap();
    let (reason, message) = start(&bench, oci(bad), |_| {}).unwrap_err();
    assert_eq!(reason, Reason::DigestMismatch, "{message}");
    bench.store_is_empty();
}
