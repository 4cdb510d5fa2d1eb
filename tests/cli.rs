//! The built binary from outside: messages, exit codes and JSON of all that needs no keeper.

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use wherry::trust::base64;

const VERBS: &[&str] = &[
    "run", "apply", "rm", "ls", "info", "start", "stop", "restart", "hold", "unhold", "logs", "events", "exec", "attach", "cp", "stats",
    "status", "check", "diag", "validate", "schema", "version", "upgrade", "keeper", "help",
];

/// A directory of one test, gone when the test is over. No keeper listens below it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wherry-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_wherry"));
        c.args(args).env("WHERRY_SOCKET", self.0.join("none.sock")).current_dir(&self.0).stdin(Stdio::null());
        c
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    fn fed(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that refuses before it has read everything closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input);
        Ran::from(child.wait_with_output().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
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

impl Ran {
    /// Failed with this code, one error line that has `reason`, at most one hint line, and no output.
    #[track_caller]
    fn refused(&self, code: i32, reason: &str) -> &Self {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        let lines: Vec<&str> = self.err.lines().collect();
        assert!(lines[0].starts_with("wherry: ") && lines[0].contains(reason), "{reason:?} not in {self:?}");
        assert!(lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("  hint: ")), "{self:?}");
        self
    }

    #[track_caller]
    fn hint(&self, hint: &str) {
        assert!(self.err.lines().nth(1).is_some_and(|l| l.contains(hint)), "{hint:?} not in {self:?}");
    }

    #[track_caller]
    fn good(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        &self.out
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

// ---- help ----

#[test]
fn every_command_has_a_help_with_examples() {
    let p = Place::new("help");
    let all = p.run(&["help"]);
    for verb in VERBS {
        assert!(all.good().contains(&format!("\n  {verb} ")), "{verb} is not listed");
        let one = p.run(&["help", verb]);
        assert!(one.good().contains("usage: wherry") && one.out.contains("examples:\n  "), "{verb}: {}", one.out);
        for flag in ["-h", "--help"] {
            assert_eq!(p.run(&[verb, flag]).good(), one.out, "{verb} {flag}");
        }
        let v = p.run(&["help", verb, "--json"]).json();
        assert_eq!(v["name"], *verb);
        assert!(!v["examples"].as_array().unwrap().is_empty(), "{verb}");
    }
    assert_eq!(p.run(&["--help"]).good(), all.out);
    assert_eq!(p.run(&["-h"]).good(), all.out);
}

#[test]
fn the_help_for_programs_lists_what_the_help_for_people_lists() {
    let v = Place::new("helpjson").run(&["help", "--json"]).json();
    let names: Vec<&str> = v["commands"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, VERBS);
    let codes: Vec<u64> = v["exit_codes"].as_array().unwrap().iter().map(|c| c["code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [0, 1, 64, 65, 66, 69, 70, 73, 74, 77, 125, 126, 127]);
}

#[test]
fn help_for_run_shows_three_examples() {
    let out = Place::new("helprun").run(&["help", "run"]).out;
    assert_eq!(out.split("examples:").nth(1).unwrap().matches("  wherry run").count(), 3, "{out}");
}

#[test]
fn the_roles_between_processes_are_not_for_people() {
    let p = Place::new("roles");
    for role in ["agent", "hash", "unpack", "stage", "launch", "init"] {
        assert!(!p.run(&["help"]).out.contains(&format!("\n  {role} ")), "{role}");
        p.run(&["help", role]).refused(64, "no such command");
    }
}

// ---- wrong command lines ----

#[test]
fn wrong_command_lines_are_refused_with_code_64_and_a_hint() {
    let p = Place::new("usage");
    for (args, reason, hint) in [
        (&[][..], "no command given", "wherry help"),
        (&["aplly"], "no such command: aplly", "did you mean `wherry apply`?"),
        (&["stauts"], "no such command: stauts", "did you mean `wherry status`?"),
        (&["frobnicate"], "no such command: frobnicate", "`wherry help`"),
        (&["help", "lgos"], "no such command: lgos", "wherry logs"),
        (&["ls", "--jsn"], "no such option: --jsn", "did you mean --json?"),
        (&["ls", "-x"], "no such option: -x", "wherry help ls"),
        (&["--rm", "run"], "no such option: --rm", "behind it"),
        (&["apply"], "apply needs one operand more", "usage: wherry apply"),
        (&["apply", "a", "b"], "apply does not take b", "usage: wherry apply"),
        (&["ls", "web"], "ls does not take web", "usage: wherry ls"),
        (&["exec", "web"], "exec needs a program", "usage: wherry exec"),
    ] {
        p.run(args).refused(usage_code(args), reason).hint(hint);
    }
    for (args, reason) in [
        (&["--socket"][..], "--socket"),
        (&["ls", "--json=1"], "--json"),
        (&["stop", "Web"], "Web is not a name"),
        (&["stop", "web/"], "is not a name"),
        (&["rm", "web/nginx"], "web/nginx is not a name"),
        (&["logs", "-n", "4k", "web"], "--tail 4k: must be a number of lines"),
        (&["logs", "-n", "-1", "web"], "--tail -1: must be a number of lines"),
        (&["logs", "--since", "soon", "web"], "--since soon: must be a whole number with"),
        (&["logs", "--since", "2026-02-30", "web"], "--since 2026-02-30: must be a time such as"),
        (&["stats", "--watch=0"], "--watch 0: must be 1 to 86400"),
        (&["stats", "--watch=x"], "--watch x: must be 1 to 86400"),
        (&["exec", "-e", "=x", "web", "ls"], "--env =x: the name is empty"),
        (&["run", "--rm", "-d", "oci:/x"], "--rm and --detach exclude each other"),
        (&["run", "-m", "lots", "oci:/x"], "--memory lots"),
        (&["run", "--cpus", "0", "oci:/x"], "--cpus 0"),
        (&["run", "--pids", "0", "oci:/x"], "--pids 0"),
        (&["run", "--net", "bridge", "oci:/x"], "--net bridge: must be none or host"),
        (&["run", "-v", "/a", "oci:/x"], "--volume /a: must be SRC:DST"),
        (&["run", "--name", "-x", "oci:/x"], "-x is not a name"),
    ] {
        p.run(args).refused(usage_code(args), reason);
    }
}

/// What ends as a program ends keeps apart its own failures.
fn usage_code(args: &[&str]) -> i32 {
    if matches!(args.first(), Some(&"exec" | &"run" | &"attach")) { 125 } else { 64 }
}

#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let p = Place::new("utf8arg");
    let out = p.command(&["stop"]).arg(std::ffi::OsStr::from_bytes(b"w\xffb")).output().unwrap();
    Ran::from(out).refused(64, "argument is not UTF-8");
}

// ---- no keeper ----

#[test]
fn without_keeper_every_question_says_so_with_code_69() {
    let p = Place::new("nokeeper");
    let manifest = p.file("web.json", GOOD);
    for args in [
        &["ls"][..],
        &["ls", "--json"],
        &["info", "web"],
        &["apply", &manifest],
        &["rm", "web"],
        &["start", "web"],
        &["stop", "web/nginx"],
        &["restart", "web"],
        &["logs", "-f", "web"],
        &["exec", "web", "ls"],
        &["stats"],
        &["status"],
        &["upgrade"],
        &["run", "--rm", "oci:/x"],
        &["attach", "web"],
    ] {
        let code = if usage_code(args) == 125 { 125 } else { 69 };
        p.run(args).refused(code, "keeper is not running (no socket").hint("start it with");
    }
}

#[test]
fn a_socket_that_nobody_listens_on_is_told_from_none() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
    use std::os::fd::AsRawFd;
    let p = Place::new("stale");
    let path = p.0.join("stale.sock");
    let left_over = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(left_over.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    p.run(&["--socket", path.to_str().unwrap(), "ls"]).refused(69, "keeper is not running (nobody listens on");
    p.run(&["--socket", &"x".repeat(200), "ls"]).refused(69, "cannot connect to");
}

#[test]
fn the_option_beats_the_environment() {
    let p = Place::new("socket");
    p.run(&["ls", "--socket", "/nowhere/at/all"]).refused(69, "no socket /nowhere/at/all");
    p.run(&["ls"]).refused(69, "none.sock");
}

#[test]
fn somebody_who_may_not_ask_is_told_who_may() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: becoming another user needs root");
    }
    let p = Place::new("access");
    let dir = p.0.join("closed");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    // The build directory may be closed to other users, so the program comes along.
    let program = p.0.join("wherry");
    // By another process: a test that forks while this one has the copy open for writing would make it busy (ETXTBSY).
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_wherry")).arg(&program).status().unwrap().success());
    let out = Command::new(program).args(["ls", "--socket"]).arg(dir.join("c.sock")).uid(65534).gid(65534).output().unwrap();
    Ran::from(out).refused(77, "Permission denied").hint("root and members of group wherry");
}

#[test]
fn version_needs_no_keeper() {
    let p = Place::new("version");
    for args in [&["version"][..], &["-V"], &["--version"]] {
        let out = p.run(args);
        assert!(out.good().starts_with(&format!("wherry {}\nkeeper", env!("CARGO_PKG_VERSION"))), "{out:?}");
    }
    let v = p.run(&["version", "--json"]).json();
    assert_eq!((&v["version"], &v["keeper"]), (&json!(env!("CARGO_PKG_VERSION")), &Value::Null));
    assert!(v["error"].as_str().unwrap().contains("not running"));
}

// ---- documents ----

const GOOD: &str = r#"{"wherry":1,"app":"web","containers":{"nginx":{"image":{"ref":"oci:/srv/nginx"}}}}"#;

#[test]
fn a_file_that_cannot_be_applied_is_refused_before_keeper_is_asked() {
    let p = Place::new("apply");
    for (name, content, code, reason) in [
        ("utf8.json", &b"{\"app\":\"\xff\"}"[..], 65, "UTF-8"),
        ("cut.json", b"{\"wherry\":1,", 65, "malformed"),
        ("typo.json", br#"{"wherry":1,"app":"web","remove":true,"volums":true}"#, 65, "volums"),
        ("settings.json", br#"{"device":"r17"}"#, 65, "these are settings"),
        ("envelope.json", include_bytes!("wire/envelope.json"), 65, "this is a signed envelope"),
        ("keyset.json", include_bytes!("wire/keyset.json"), 65, "this is a keyset"),
        ("team.pub", b"untrusted comment: mine\nRWS=\n", 65, "this is a public key"),
        ("empty.json", b"", 65, "malformed"),
    ] {
        p.run(&["apply", &p.file(name, content)]).refused(code, reason);
        p.fed(&["apply", "-"], content).refused(code, reason);
    }
    let large = p.file("large.json", format!("{GOOD}{}", " ".repeat(32 * 1024)));
    p.run(&["apply", &large]).refused(65, "larger than 32 KiB");
    p.run(&["apply", "/dev/zero"]).refused(65, "larger than 32 KiB");
    p.run(&["apply", p.0.to_str().unwrap()]).refused(66, "Is a directory");
    p.run(&["apply", "missing.json"]).refused(66, "cannot apply missing.json: No such file or directory");
    p.fed(&["apply", "-"], GOOD.as_bytes()).refused(69, "keeper is not running");
}

/// An envelope around this, with a signature that nobody has made.
fn envelope(kind: &str, payload: &str) -> String {
    let (payload, sig) = (base64::encode(payload.as_bytes()), base64::encode(&[7; 64]));
    json!({"payload": payload, "type": kind, "signatures": [{"key": "aa84be84e99e0f52", "sig": sig}]}).to_string()
}

#[test]
fn validate_looks_into_envelopes_keysets_and_keys() {
    let p = Place::new("validate-signed");
    let key = "untrusted comment: signify public key\nRWSqhL6E6Z4PUsioQjGqJfAT8Zo7hyAy4MsYC4AJCTWmw0HZdDeHXUgc\n";
    let (sealed, keyset) = (include_str!("wire/envelope.json"), include_str!("wire/keyset.json"));
    for (content, said) in [
        (key, "good public key aa84be84e99e0f52"),
        (sealed, "good envelope (desired, said to be signed by aa84be84e99e0f52)"),
        (keyset, "good keyset"),
        (&envelope("keyset", keyset), "good envelope (keyset, said to be signed by aa84be84e99e0f52)"),
        (&envelope("cmd", include_str!("wire/command.json")), "good envelope (cmd"),
        (&envelope("config", r#"{"device":"r17"}"#), "good envelope (config"),
    ] {
        let ran = p.fed(&["validate", "-"], content.as_bytes());
        assert!(ran.good().starts_with(&format!("standard input: {said}")), "{ran:?}");
    }
    for (content, said) in [
        (key.replace("RWS", "RUS"), "no Ed25519 public key"),
        (sealed.replace("desired", "desire"), "did you mean \"desired\""),
        (envelope("desired", GOOD), "must have `target`"),
        (envelope("desired", GOOD), "must have `seq`"),
        (envelope("desired", GOOD), "containers.nginx.image: needs `digest` in a signed document"),
        (envelope("desired", "{"), "malformed"),
        (envelope("keyset", GOOD), "there is no such field"),
        (keyset.replace("keyset", "all"), "must be one of"),
    ] {
        let ran = p.fed(&["validate", "-"], content.as_bytes());
        assert!(ran.code == Some(65) && ran.out.contains(said), "{content}: {ran:?}");
    }
}

#[test]
fn validate_prints_every_fault_with_its_place() {
    let p = Place::new("validate");
    let good = p.file("good.json", GOOD);
    let bad = p.file("bad.json", "{\"wherry\":1,\n \"app\":\"Web\",\n \"nonsense\":1,\n \"containers\":{}}");
    let settings = p.file("settings.json", r#"{"device":"r17","brokers":[{"host":"b"}]}"#);
    assert_eq!(p.run(&["validate", &good]).good(), format!("{good}: good manifest\n"));
    assert_eq!(p.run(&["validate", &settings]).good(), format!("{settings}: good settings\n"));
    let ran = p.run(&["validate", &good, &bad]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(65), ""), "{ran:?}");
    assert!(ran.out.contains("good manifest") && ran.out.contains("line 2") && ran.out.contains("nonsense"), "{ran:?}");
    let ran = p.run(&["validate", "--json", &bad]);
    assert_eq!(ran.code, Some(65));
    let v = ran.json();
    assert_eq!((&v["valid"], &v["kind"], &v["file"]), (&json!(false), &json!("manifest"), &json!(bad)));
    let faults = v["faults"].as_array().unwrap();
    assert!(faults.len() >= 2 && faults.iter().all(|f| f["line"].as_u64() > Some(0) && f["reason"].is_string()), "{v}");
    assert_eq!(p.fed(&["validate", "-"], GOOD.as_bytes()).good(), "standard input: good manifest\n");
}

#[test]
fn validate_goes_on_behind_a_file_that_is_not_there() {
    let p = Place::new("validate2");
    let good = p.file("good.json", GOOD);
    let ran = p.run(&["validate", "missing.json", &good]);
    assert_eq!(ran.code, Some(66), "{ran:?}");
    assert!(ran.err.starts_with("wherry: cannot validate missing.json: No such file") && ran.out.contains("good manifest"), "{ran:?}");
}

#[test]
fn a_file_cannot_steer_the_terminal() {
    let p = Place::new("escape");
    let bad = p.file("bad.json", "{\"wherry\":1,\"app\":\"\x1b[2J\",\"\u{9b}2J\":1}");
    for args in [["validate", &bad], ["apply", &bad]] {
        let ran = p.run(&args);
        assert_eq!(ran.code, Some(65));
        assert!(![&ran.out, &ran.err].iter().any(|t| t.contains(['\x1b', '\u{9b}'])), "{ran:?}");
    }
}

#[test]
fn the_schema_is_a_json_schema_that_knows_the_manifest() {
    let v = Place::new("schema").run(&["schema"]).json();
    assert!(v["$schema"].as_str().unwrap().contains("json-schema.org"));
    assert!(v["properties"]["containers"].is_object(), "{v}");
}

// ---- closed output ----

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let p = Place::new("closed");
    for args in [&["help"][..], &["help", "--json"], &["check"], &["schema"], &["version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = p.command(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((out.status.code(), String::from_utf8(out.stderr).unwrap().as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let p = Place::new("full");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = p.command(&["help"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(74));
    assert_eq!(String::from_utf8(out.stderr).unwrap(), "wherry: cannot write standard output: No space left on device\n");
}

// ---- check ----

#[test]
fn check_tells_what_the_kernel_files_tell() {
    let ran = Place::new("check").run(&["check", "--json"]);
    let v = ran.json();
    let fact =
        |name: &str| v["facts"].as_array().unwrap().iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone();
    // Held against the kernel's own words, read by other means than the program's.
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let of_kind = |kind: &str| mounts.lines().filter(|l| l.split(' ').nth(2) == Some(kind)).map(str::to_owned).collect::<Vec<_>>();
    let v1 = of_kind("cgroup").iter().any(|l| !l.contains("name="));
    let layout = match (v1, !of_kind("cgroup2").is_empty()) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    };
    assert_eq!(v["cgroup"]["layout"], layout);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(v["kernel"], release.trim());
    let listed = fs::read_to_string("/proc/filesystems").unwrap().contains("overlay\n");
    assert_eq!(fact("overlay file system")["state"] == "present", listed);
    assert_eq!(fact("pressure (PSI)")["state"] == "present", fs::read("/proc/pressure/memory").is_ok());
    let user = fact("user namespace");
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|n| n.trim() != "0");
    assert_eq!(user["state"] != "missing", Path::new("/proc/self/ns/user").exists() && allowed);
    // Nothing is unpacked without.
    assert_eq!((&user["level"], &user["kconfig"]), (&json!("required"), &json!("CONFIG_USER_NS")));
    assert_eq!(ran.code, Some(i32::from(v["usable"] != true)));
}

#[test]
fn check_finds_the_system_calls_that_the_kernel_version_has() {
    let v = Place::new("calls").run(&["check", "--json"]).json();
    let mut version = v["kernel"].as_str().unwrap().split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (version.next().unwrap(), version.next().unwrap());
    for (name, since) in
        [("pidfd_open", (5, 3)), ("clone3", (5, 3)), ("openat2", (5, 6)), ("close_range", (5, 9)), ("mount_setattr", (5, 12))]
    {
        let state = &v["facts"].as_array().unwrap().iter().find(|f| f["name"] == name).unwrap()["state"];
        assert!(state == "present" || version < since, "{name}: {state}");
    }
}

#[test]
fn check_without_proc_finds_nothing_and_says_so() {
    let p = Place::new("noproc");
    // An empty directory over /proc, in a mount namespace of its own.
    let script = format!("mount -t tmpfs none /proc && exec {} check --json", env!("CARGO_BIN_EXE_wherry"));
    let out =
        Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]).current_dir(&p.0).output().unwrap();
    let ran = Ran::from(out);
    if ran.out.is_empty() {
        return eprintln!("skipped: a mount namespace needs root and util-linux: {}", ran.err);
    }
    let v = ran.json();
    assert_eq!((ran.code, &v["usable"], &v["cgroup"]["layout"]), (Some(1), &json!(false), &json!("none")), "{v}");
    let missing = |name: &str| {
        v["facts"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["name"] == name && f["state"] == "missing" && f["kconfig"].as_str().unwrap().starts_with("CONFIG_"))
    };
    for name in ["cgroup", "pid namespace", "user namespace", "tmpfs file system", "seccomp filter"] {
        assert!(missing(name), "{name}: {v}");
    }
}

#[test]
fn check_for_people_ends_with_the_verdict() {
    let p = Place::new("checktext");
    let ran = p.run(&["check"]);
    let usable = p.run(&["check", "--json"]).json()["usable"] == true;
    let verdict = if usable { "containers can run here" } else { "containers cannot run here: see MISSING" };
    assert_eq!(ran.out.lines().last(), Some(verdict));
}

// ---- run --print-manifest ----

/// A tar file of empty files of these names.
fn tar(names: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_path(name).unwrap();
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn image_of(p: &Place, word: &str) -> String {
    let v = p.run(&["run", "--print-manifest", "--name", "a", word]).json();
    v["containers"]["main"]["image"]["ref"].as_str().unwrap().to_owned()
}

#[test]
fn an_image_path_is_recognised_by_what_is_there() {
    let p = Place::new("image");
    let here = p.0.display().to_string();
    p.file("layout/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    p.file("oci.tar", tar(&["blobs/sha256/aa", "index.json", "oci-layout"]));
    p.file("docker.tar", tar(&["0123/layer.tar", "manifest.json", "repositories"]));
    p.file("both.tar", tar(&["blobs/sha256/aa", "manifest.json", "oci-layout"]));
    p.file("rootfs.tar", tar(&["./bin/sh", "./etc/passwd"]));
    p.file("rootfs.tar.gz", b"\x1f\x8b\x08\x00rest");
    p.file("rootfs.tar.zst", b"\x28\xb5\x2f\xfdrest");
    for (word, reference) in [
        ("layout", format!("oci:{here}/layout")),
        ("./layout/", format!("oci:{here}/layout")),
        ("oci.tar", format!("oci-archive:{here}/oci.tar")),
        ("docker.tar", format!("docker-archive:{here}/docker.tar")),
        ("both.tar", format!("oci-archive:{here}/both.tar")),
        ("./rootfs.tar", format!("rootfs:{here}/rootfs.tar")),
        ("rootfs.tar.gz", format!("rootfs:{here}/rootfs.tar.gz")),
        ("layout/../rootfs.tar.zst", format!("rootfs:{here}/rootfs.tar.zst")),
        ("oci:/srv/x:1.2", "oci:/srv/x:1.2".into()),
        ("oci:layout:tag", format!("oci:{here}/layout:tag")),
        ("docker-archive:../x.tar", format!("docker-archive:{}/x.tar", p.0.parent().unwrap().display())),
    ] {
        assert_eq!(image_of(&p, word), reference, "{word}");
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let p = Place::new("noimage");
    p.file("dir/file", "");
    p.file("text.tar", "this is no tar file, not even a short one".repeat(40));
    p.file("empty.tar", "");
    p.file("other.tar", tar(&["README", "src/main.c"]));
    p.file("a:b.tar", tar(&["oci-layout"]));
    for (word, code, reason) in [
        ("missing", 66, "cannot use image missing: No such file or directory"),
        ("dir", 65, "without a file oci-layout"),
        ("text.tar", 65, "not a tar file"),
        ("empty.tar", 65, "neither an image archive nor a root file system"),
        ("other.tar", 65, "neither an image archive nor a root file system"),
        ("a:b.tar", 64, "has a colon"),
        ("nginx:1.27", 66, "cannot use image nginx:1.27"),
    ] {
        p.run(&["run", "--print-manifest", word]).refused(code, reason);
    }
}

#[test]
fn a_tar_file_that_promises_more_than_it_has_is_refused() {
    let p = Place::new("hostile");
    let mut header = tar::Header::new_gnu();
    header.set_path("long").unwrap();
    header.set_size(1 << 40);
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_cksum();
    p.file("huge.tar", header.as_bytes());
    p.run(&["run", "--print-manifest", "huge.tar"]).refused(65, "cannot use image huge.tar");
}

#[test]
fn the_manifest_says_what_the_options_say() {
    let p = Place::new("manifest");
    #[rustfmt::skip]
    let args = [
        "run", "--print-manifest", "--name", "web", "-e", "A=1=2", "-e", "FROM_HERE", "-e", "NOT_THERE", "-m", "64M", "--cpus", "0.5",
        "--pids", "32", "-v", "/srv:/srv:ro", "-v", ".:/here", "-u", "101:101", "-w", "/tmp", "--net", "host", "--read-only",
        "--hostname", "h", "oci:/srv/nginx", "--", "sh", "-c", "exit 3", "--json",
    ];
    let printed = Ran::from(p.command(&args).env("FROM_HERE", "yes").output().unwrap());
    let bind = |source: &str, target: &str| json!({"type": "bind", "source": source, "target": target});
    let mut read_only = bind("/srv", "/srv");
    read_only["readonly"] = true.into();
    let container = json!({
        "image": {"ref": "oci:/srv/nginx"}, "args": ["sh", "-c", "exit 3", "--json"], "env": {"A": "1=2", "FROM_HERE": "yes"},
        "user": "101:101", "workdir": "/tmp", "hostname": "h", "restart": {"policy": "no"}, "rootfs": {"readonly": true},
        "network": {"mode": "host"}, "resources": {"memory": {"max": "64M"}, "cpu": {"quota": 0.5}, "pids": {"max": 32}},
        "mounts": [read_only, bind(p.0.to_str().unwrap(), "/here")],
    });
    assert_eq!(printed.json(), json!({"wherry": 1, "app": "web", "containers": {"main": container}}));
}

#[test]
fn a_printed_manifest_is_a_good_one() {
    let p = Place::new("roundtrip");
    for args in [
        &["run", "--print-manifest", "oci:/srv/nginx:1.27"][..],
        &["run", "--print-manifest", "--cpus", "2", "-m", "64M", "-e", "A=b", "-v", "/srv:/data", "rootfs:/srv/a.tar.gz", "/bin/sh"],
    ] {
        let printed = p.run(args);
        assert_eq!(p.fed(&["validate", "-"], printed.good().as_bytes()).good(), "standard input: good manifest\n");
    }
}

#[test]
fn two_unnamed_apps_have_two_names() {
    let p = Place::new("unnamed");
    let name = || p.run(&["run", "--print-manifest", "oci:/srv/Nginx_x:1"]).json()["app"].as_str().unwrap().to_owned();
    let (a, b) = (name(), name());
    assert!(a.starts_with("nginx-x-") && b.starts_with("nginx-x-") && a != b, "{a} {b}");
}
