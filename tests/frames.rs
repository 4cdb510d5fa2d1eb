//! Reference bytes of everything that one release writes and another may read: frames between processes, the records on the runtime tmpfs and on flash.
//! A container's pid 1 and the records outlive an upgrade, so these bytes change only together with their version.
//!
//! `WHERRY_BLESS=1 cargo test --test frames` writes the files anew.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use wherry::cgroup::Layout;
use wherry::container::console::{self, Frame};
use wherry::container::exit_record::{self, ExitRecord};
use wherry::container::{Spec, Wiring};
use wherry::image::store as image_store;
use wherry::image::{Config, Digest, Record as ImageRecord, Reference, Source};
use wherry::ipc::{
    Ack, AgentSettings, AppRow, Broker, ContainerRow, Copying, DeviceSample, Download, DownloadJob, ExecArgs, ExecJob, Failure,
    FetchSettings, FromAgent, FromLaunch, FromStage, Happening, Link, LinkState, LogChunk, MAX_FRAME, Origin, Proxy, Publication, Refusal,
    Reply, Request, Scope, StageJob, StatsRow, StatusReport, ToAgent, ToLaunch, ToStage, Topic, Transfer, TrustReport, TrustedKey, Way,
    What, Wish, decode, encode,
};
use wherry::keeper::desired::{Beside, Entry, Version};
use wherry::keeper::lifecycle::{Event, Life, Rules};
use wherry::keeper::plan::Ready;
use wherry::keeper::runtime::{self, Phase, Record};
use wherry::keeper::store::{self, Desired, Signed};
use wherry::manifest::{
    Content, Full, Id, Log, Mount, Name, Network, Placed, Resources, Restart, RestartPolicy, Rlimit, RlimitKind, Seccomp, Stdin, Stop, Whom,
};
use wherry::protocol::{ContainerState, Health, Reason, State};
use wherry::stats::{Psi, Sample};
use wherry::sys::process::Ended;
use wherry::trust::{Grant, Keyset, Kind};

// ---- values ----

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn scope() -> Scope {
    Scope { app: name("web"), container: Some(name("main")) }
}

fn failure() -> Failure {
    Failure { reason: Reason::Launch, message: "cannot start web/main: no memory".into() }
}

fn resources() -> Resources {
    Resources {
        memory_max: Some(64 << 20),
        memory_high: None,
        swap_max: Some(0),
        cpu_quota_milli: Some(500),
        cpu_weight: Some(100),
        pids_max: Some(64),
        required: false,
    }
}

fn spec() -> Spec {
    Spec {
        argv: vec!["/bin/sh".into(), "-c".into(), "true".into()],
        env: vec!["A=1".into()],
        workdir: "/work".into(),
        user: "app".into(),
        hostname: "main".into(),
        capabilities: 0xa804_25fb,
        ambient: 0x0400,
        seccomp: Seccomp::Default,
        no_new_privileges: true,
        readonly: false,
        upper: 16 << 20,
        mounts: vec![
            Mount::Bind { source: "/srv/www".into(), target: "/www".into(), readonly: true },
            Mount::Tmpfs { target: "/tmp".into(), size: 8 << 20 },
        ],
        network: Network::None,
        rlimits: vec![Rlimit { kind: RlimitKind::Nofile, soft: 1024, hard: u64::MAX }],
        init: true,
        resources: resources(),
        files: vec![
            Placed { path: "/etc/a.conf".into(), content: Content::Text("a\n".into()), mode: 0o644, user: Some("app".into()) },
            Placed { path: "/run/token".into(), content: Content::Secret("token".into()), mode: 0o400, user: None },
        ],
        terminal: true,
        stdin: Stdin::Open,
    }
}

fn layout() -> Layout {
    Layout {
        v1: vec![("memory".into(), "/sys/fs/cgroup/memory".into())],
        unified: Some("/sys/fs/cgroup/unified".into()),
        controllers: vec![],
    }
}

fn ready() -> Ready {
    Ready {
        name: name("main"),
        image: "oci:/srv/web:1".into(),
        digest: digest("image"),
        spec: spec(),
        rules: Rules {
            restart: Restart { policy: RestartPolicy::Always, delay: Duration::from_secs(1), max_delay: Duration::from_secs(300) },
            stop: Stop { signal: Some(10), timeout: Duration::from_secs(10) },
        },
        log: Log { ring: 64 << 10, full: Full::Block, syslog: Some(true) },
        network: true,
        // Neither is on record.
        health: None,
        after: Vec::new(),
    }
}

fn link() -> Link {
    Link {
        state: LinkState::Online,
        broker: "broker.example:8883".into(),
        address: Some("192.0.2.7".into()),
        error: None,
        subscriptions: vec![("wherry/v1/d/router-17/in/#".into(), Some(1))],
        last_in_s: Some(40),
        last_out_s: Some(41),
        queued: 2,
        dropped: 0,
        conn: 3,
        retry_s: None,
    }
}

fn sample() -> Sample {
    Sample {
        cpu_usage_us: Some(1_000_000),
        memory_current: Some(4096),
        psi: Some(Psi { cpu: 1.5, memory: 0.0, io: 0.25 }),
        absent: vec![("io.read".into(), "no throttle rule".into())],
        ..Sample::default()
    }
}

fn image() -> ImageRecord {
    let config = Config { cmd: vec!["sleep".into(), "1".into()], workdir: "/work".into(), stop_signal: Some(10), ..Config::default() };
    ImageRecord { digest: digest("image"), layers: vec![digest("layer")], config, unpacked: 1 << 20 }
}

fn ack() -> Ack {
    let refusals = vec![Refusal { reason: Reason::Exec, path: "containers.main".into(), message: "cannot run /x".into() }];
    let (seq, sha256) = (Some(1_763_909_000_123), digest("document"));
    let (rolled_back_to, progress) = (Some((Some(7), digest("older"))), Some(Download { bytes: 5, total: Some(9) }));
    Ack { app: name("web"), seq, sha256, attempt: 2, state: State::Failed, refusals, rolled_back_to, progress }
}

fn copying() -> Copying {
    Copying { path: "/data".into(), way: Way::In { merge: true, owners: false } }
}

fn happening() -> Happening {
    let (app, container, ended) = (Some(name("web")), Some(name("main")), Some(Ended::Code(3)));
    Happening { number: 7, at_ms: 60_000, app, container, ended, ..Happening::new(What::Exited, "code 3".into()) }
}

fn app_row() -> AppRow {
    let container = ContainerRow {
        name: name("main"),
        state: ContainerState::Running,
        pid: Some(4711),
        uptime_s: Some(3600),
        restarts: 1,
        image: "oci:/srv/web:1".into(),
        digest: Some(digest("image")),
        last_exit: Some(Ended::Signal(9)),
        missing: vec![("memory.high".into(), "cgroup v1".into())],
        error: None,
        health: Some(Health::Healthy),
    };
    let (origin, sha256) = (Origin::Group(id("lab")), digest("document"));
    AppRow {
        app: name("web"),
        origin,
        seq: Some(7),
        sha256,
        state: State::Running,
        overridden: true,
        hold: true,
        containers: vec![container],
    }
}

fn status() -> StatusReport {
    StatusReport {
        version: "0.1.0".into(),
        device: id("router-17"),
        root: "wherry".into(),
        boot: 12,
        uptime_s: 3600,
        pid: 100,
        agent_pid: Some(101),
        agent_restarts: 1,
        link: link(),
        cgroup: "v2".into(),
        apps: (1, 2),
        unsaved: Some("no space".into()),
        trust: TrustReport {
            required: true,
            keys: vec![TrustedKey { id: "aa84be84e99e0f52".into(), root: true, from: "team.pub".into() }],
            trouble: vec!["x.pub does not count".into()],
        },
        holds: vec![name("web")],
    }
}

fn agent_settings() -> AgentSettings {
    let broker = Broker {
        host: "broker.example".into(),
        port: 8883,
        tls: true,
        credentials: Some(("router".into(), "secret".into())),
        ca: true,
        client_certificate: false,
        keep_alive_s: 60,
        retained: true,
    };
    let (device, groups) = (id("router-17"), vec![id("lab")]);
    AgentSettings {
        device,
        root: "wherry".into(),
        groups,
        brokers: vec![broker],
        boot: 12,
        interval_s: 60,
        uid: Some(65501),
        conn: 3,
        fetch: fetch_settings(),
    }
}

fn fetch_settings() -> FetchSettings {
    let proxy = Proxy { host: "proxy.example".into(), port: 3128, credentials: Some(("router".into(), "secret".into())) };
    FetchSettings { ca: true, client_certificate: true, proxy: Some(proxy) }
}

fn wish() -> Wish {
    Wish { url: "https://images.example/web.tar.gz".parse().unwrap(), size: Some(12 << 20), max: 1 << 29 }
}

fn exec_args() -> ExecArgs {
    let (user, workdir) = (Some("app".into()), None);
    ExecArgs { scope: scope(), argv: vec!["ls".into()], env: vec!["A=1".into()], user, workdir, terminal: Some((24, 80)), detach: true }
}

fn wiring() -> Wiring {
    let (layers, scratch) = (vec!["/data/layers/ab/0".into()], "/run/wherry/containers/web/main/root".into());
    Wiring {
        name: "web/main".into(),
        layers,
        scratch,
        layout: layout(),
        group: "wherry/web/main".into(),
        allowed: Some(vec!["/srv".into()]),
        secrets: "/etc/wherry/secrets".into(),
    }
}

fn stage_job() -> StageJob {
    let reference = Reference { text: "oci:/srv/web:1".into(), source: Source::OciDir { path: "/srv/web".into(), tag: Some("1".into()) } };
    let (data, digest) = ("/var/lib/wherry".into(), Some(digest("image")));
    StageJob {
        reference,
        digest,
        size: Some(12 << 20),
        data,
        max_bytes: 1 << 29,
        max_inodes: 100_000,
        timeout_s: 600,
        hash_uid: 65502,
        allowed: Some(vec!["/srv".into()]),
    }
}

fn record() -> Record {
    let mut life = Life::default();
    let rules = ready().rules;
    // A life that has seen something: every field differs from its first value.
    for event in [Event::Start, Event::Started, Event::Ended(Some(Ended::Signal(11)))] {
        life.step(event, &rules, Duration::from_millis(1500));
    }
    Record {
        boot_id: "0e2a7f0e-5a0b-4ff5-a5a4-3b5f4d6c7e8f".into(),
        manifest: digest("document"),
        ready: ready(),
        group: "wherry/web/main".into(),
        life,
        phase: Phase::Process { pid: 4711, start: 123_456 },
        missing: vec![("memory.high".into(), "cgroup v1".into())],
    }
}

fn desired() -> Desired {
    let version =
        |text: &str, seq| Version { seq, sha256: digest(text), removal: false, attempt: 1, images: vec![(name("main"), digest("image"))] };
    let refusal = Some(Refusal { reason: Reason::Exec, path: String::new(), message: "cannot run /x".into() });
    let (newest, kept, held) = (version("document", Some(8)), Some(version("older", Some(7))), vec![name("main")]);
    let entry = Entry { origin: Origin::Device, app: name("web"), mark: Some(8), newest, state: State::Failed, refusal, kept, held };
    Desired { boot: 12, entries: vec![entry], signed: Signed::default(), beside: Beside::default(), holds: Vec::new() }
}

/// The same once documents were signed.
fn desired_with_keys() -> Desired {
    let keys = vec![Grant {
        key: "RWSqhL6E6Z4PUsioQjGqJfAT8Zo7hyAy4MsYC4AJCTWmw0HZdDeHXUgc".parse().unwrap(),
        types: vec![Kind::Desired, Kind::Cmd],
        apps: Some(vec![name("web")]),
        targets: Some(vec![Whom::Device(id("router-17")), Whom::Group(id("lab"))]),
        min_seq: 5,
    }];
    let keyset = Keyset { origin: Origin::Group(id("lab")), seq: 9, sha256: digest("keyset"), keys };
    let beside = Beside {
        lifted: vec![name("db")],
        stopped: vec![(name("web"), name("main"))],
        guarded: vec![name("web")],
        tried: vec![(name("web"), digest("document"), 11)],
    };
    Desired { signed: Signed { keysets: vec![keyset], forgotten: vec![(Origin::Device, 6)] }, beside, ..desired() }
}

// ---- the files ----

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/frames").join(format!("{name}.hex"))
}

/// Sixteen bytes a line: a changed field shows in a diff.
fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ") + "\n";
    bytes.chunks(16).map(line).collect()
}

fn compare(name: &str, bytes: &[u8]) {
    if std::env::var_os("WHERRY_BLESS").is_some() {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), hex(bytes)).unwrap();
    }
    let known = fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("cannot read {}: {e}", path(name).display()));
    assert_eq!(hex(bytes), known, "{name}: the bytes changed, which needs a new version (or WHERRY_BLESS=1 before the first release)");
}

/// A fixed sequence (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// `whole` is read; no part of it, nothing longer and no other version is. Whatever else comes, the reader does not panic.
fn refuses_the_rest(name: &str, whole: &[u8], version_at: usize, reads: impl Fn(&[u8]) -> bool) {
    assert!(reads(whole), "{name}: the whole");
    for length in 0..whole.len() {
        assert!(!reads(&whole[..length]), "{name}: cut after {length} bytes");
    }
    assert!(!reads(&[whole, b"\0"].concat()), "{name}: one byte too many");
    let mut other = whole.to_vec();
    for version in (0..=255).filter(|v| *v != whole[version_at]) {
        other[version_at] = version;
        assert!(!reads(&other), "{name}: version {version}");
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2000 {
        let mut garbage = whole.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(garbage.len());
            garbage[at] ^= 1 << random.below(8);
        }
        let _ = reads(&garbage);
    }
}

/// All variants of one message type, in the order of their numbers.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(kind: &str, values: Vec<T>) {
    for (number, value) in values.iter().enumerate() {
        let name = format!("{kind}-{number:02}");
        let bytes = encode(value).unwrap();
        assert_eq!(usize::from(bytes[1]), number, "{name}: the variants are numbered by their order");
        assert_eq!(decode::<T>(&bytes).unwrap(), *value, "{name}");
        compare(&name, &bytes);
        refuses_the_rest(&name, &bytes, 0, |b| decode::<T>(b).is_ok());
    }
    // A variant behind the last one would be a message without reference bytes.
    let next = values.len() as u8;
    for zeros in 0..64 {
        let bytes = [&[wherry::ipc::VERSION, next][..], &vec![0; zeros]].concat();
        assert!(decode::<T>(&bytes).is_err(), "{kind} has a message {next} that is not tested here");
    }
}

// ---- frames ----

#[test]
fn messages_between_agent_and_keeper_keep_their_bytes() {
    let origin = Origin::Group(id("lab"));
    check(
        "from-agent",
        vec![
            FromAgent::Hello { version: "0.1.0".into() },
            FromAgent::Desired { origin: Origin::Device, app: name("web"), payload: b"{}".to_vec() },
            FromAgent::Command { id: "a1".into(), retained: true, payload: b"{}".to_vec() },
            FromAgent::Link(link()),
            FromAgent::Oversize { origin: origin.clone(), app: name("web"), bytes: 40_960 },
            FromAgent::Download { id: 3, transfer: Transfer::Failed("cannot download".into()) },
            FromAgent::Keyset { origin, payload: b"{}".to_vec() },
            FromAgent::Answers(300),
        ],
    );
    let publish = |topic| Publication { topic, payload: b"{}".to_vec() };
    check(
        "to-agent",
        vec![
            ToAgent::Configure(agent_settings()),
            ToAgent::Publish(publish(Topic::Ack(name("web")))),
            ToAgent::Goodbye,
            ToAgent::Download(DownloadJob { id: 3, wish: wish(), timeout_s: 598 }),
            ToAgent::Abandon(3),
        ],
    );
}

#[test]
fn topics_keep_their_numbers() {
    let (log, answer) = (Topic::Log("main".into()), Topic::Res("a1".into()));
    check("topic", vec![Topic::Reported, Topic::Ack(name("web")), Topic::Get, Topic::Stats, log, answer, Topic::Keyset]);
}

#[test]
fn requests_of_the_command_line_keep_their_bytes() {
    check(
        "request",
        vec![
            Request::Version,
            Request::Apply { payload: b"{}".to_vec() },
            Request::Remove { app: name("web"), volumes: true },
            Request::List,
            Request::Start(scope()),
            Request::Stop(scope()),
            Request::Restart(Scope { app: name("web"), container: None }),
            Request::Logs { of: scope(), follow: true, tail: Some(100), since_ms: 70_000, whole: true },
            Request::Exec(exec_args()),
            Request::Stats,
            Request::Status,
            Request::Wait(scope()),
            Request::Upgrade,
            Request::Info { app: name("web") },
            Request::Events { app: Some(name("web")), since_ms: 5000, follow: true },
            Request::Copy { scope: scope(), what: copying() },
            Request::Diag,
            Request::Attach { of: scope(), replay: true },
            Request::Input(b"ls\n".to_vec()),
            Request::InputEnd,
            Request::Resize(50, 132),
            Request::Detach,
            Request::Hold(vec![name("web"), name("db")]),
            Request::Unhold(vec![name("web")]),
        ],
    );
}

#[test]
fn replies_to_the_command_line_keep_their_bytes() {
    let row = StatsRow { app: name("web"), container: name("main"), uptime_s: 60, sample: sample() };
    let device = DeviceSample { mem_available: Some(1 << 27), load1: Some(0.5), uptime_s: 3600, ..DeviceSample::default() };
    check(
        "reply",
        vec![
            Reply::Done,
            Reply::Error(failure()),
            Reply::Version { version: "0.1.0".into(), pid: 100, boot: 12 },
            Reply::Ack(ack()),
            Reply::Apps(vec![app_row()]),
            Reply::Log(LogChunk { container: name("main"), bytes: b"hello\n".to_vec(), lost: 3, at_ms: 70_000 }),
            Reply::Terminal,
            Reply::Exited(Ended::Code(7)),
            Reply::Stats { device, rows: vec![row] },
            Reply::Status(Box::new(status())),
            Reply::Text("{}".into()),
            Reply::Events { rows: vec![happening()], lost: 3 },
            Reply::Attached { terminal: true, stdin: false },
        ],
    );
}

#[test]
fn messages_of_stage_and_launch_keep_their_bytes() {
    check(
        "to-stage",
        vec![
            ToStage::Pull(stage_job()),
            ToStage::Collect { data: "/var/lib/wherry".into(), keep: vec![digest("image")] },
            ToStage::Downloaded(Err(failure())),
        ],
    );
    let progress = Download { bytes: 5, total: None };
    check(
        "from-stage",
        vec![FromStage::Progress(progress), FromStage::Ready(image()), FromStage::Failed(failure()), FromStage::Wish(wish())],
    );
    let job = ExecJob { pid: 4711, spec: spec(), layout: layout(), group: "wherry/web/main".into(), args: exec_args() };
    let start = ToLaunch::Start { spec: Box::new(spec()), wiring: Box::new(wiring()) };
    let copy = ToLaunch::Copy { job: Box::new(job.clone()), what: copying() };
    let look = ToLaunch::Look { job: Box::new(job.clone()), path: "/run/up".into() };
    check("to-launch", vec![start, ToLaunch::Exec(Box::new(job)), ToLaunch::Go, copy, look]);
    let missing = vec![("memory.high".into(), "cgroup v1".into())];
    check("from-launch", vec![FromLaunch::Cloned { pid: 4711, missing }, FromLaunch::Failed(failure())]);
}

#[test]
fn a_frame_that_is_too_long_is_neither_written_nor_read() {
    let large = |n| Request::Apply { payload: vec![b'x'; n] };
    assert!(encode(&large(MAX_FRAME - 8)).is_ok());
    assert!(encode(&large(MAX_FRAME)).is_err());
    let (a, b) = wherry::ipc::Conn::pair().unwrap();
    use std::os::fd::AsFd;
    // Sent past our own check, as a hostile peer would.
    let frame = postcard::to_extend(&large(MAX_FRAME + 100), vec![wherry::ipc::VERSION]).unwrap();
    wherry::sys::socket::send(a.as_fd(), &frame, &[]).unwrap();
    assert!(b.recv::<Request>().is_err());
}

// ---- records ----

#[test]
fn the_runtime_record_keeps_its_bytes() {
    let bytes = runtime::encode(&record()).unwrap();
    assert_eq!(runtime::decode(&bytes), Some(record()));
    compare("runtime-record", &bytes);
    refuses_the_rest("runtime-record", &bytes, 0, |b| runtime::decode(b).is_some());
    let intent = Record { phase: Phase::Intent, ..record() };
    let bytes = runtime::encode(&intent).unwrap();
    assert_eq!(runtime::decode(&bytes), Some(intent));
    compare("runtime-record-intent", &bytes);
}

#[test]
fn the_state_on_flash_keeps_its_bytes() {
    const VERSION_AT: usize = 4;
    let bytes = store::encode(7, &desired()).unwrap();
    assert_eq!(store::decode(&bytes), Some((7, desired())));
    compare("state-record", &bytes);
    refuses_the_rest("state-record", &bytes, VERSION_AT, |b| store::decode(b).is_some());
    let bytes = store::encode(7, &desired_with_keys()).unwrap();
    assert_eq!(store::decode(&bytes), Some((7, desired_with_keys())));
    compare("state-record-keys", &bytes);
    refuses_the_rest("state-record-keys", &bytes, VERSION_AT, |b| store::decode(b).is_some());
    for (name, before) in [("state-record-hold", desired()), ("state-record-keys-hold", desired_with_keys())] {
        let state = Desired { holds: vec![self::name("web"), self::name("db")], ..before };
        let bytes = store::encode(7, &state).unwrap();
        assert_eq!(store::decode(&bytes), Some((7, state)));
        compare(name, &bytes);
        refuses_the_rest(name, &bytes, VERSION_AT, |b| store::decode(b).is_some());
    }
}

#[test]
fn the_image_record_on_flash_keeps_its_bytes() {
    let bytes = image_store::encode(&image()).unwrap();
    assert_eq!(image_store::decode(&bytes), Some(image()));
    compare("image-record", &bytes);
    refuses_the_rest("image-record", &bytes, 0, |b| image_store::decode(b).is_some());
}

#[test]
fn the_exit_record_keeps_its_bytes() {
    const VERSION_AT: usize = 4;
    for (name, ended) in [("exit-record-code", Ended::Code(7)), ("exit-record-signal", Ended::Signal(9))] {
        let bytes = exit_record::encode(&ExitRecord { ended, at: Duration::from_millis(0x0102_0304) });
        compare(name, &bytes);
        refuses_the_rest(name, &bytes, VERSION_AT, |b| exit_record::decode(b).is_some());
    }
}

/// A container's pid 1 reads them, and outlives upgrades.
#[test]
fn what_goes_to_a_console_keeps_its_bytes() {
    for (name, frame) in
        [("console-data", Frame::Data(b"ls\n".to_vec())), ("console-end", Frame::End), ("console-size", Frame::Size(50, 132))]
    {
        let bytes = frame.encode();
        assert_eq!(console::decode(&bytes), Some((Some(frame), bytes.len())), "{name}");
        compare(name, &bytes);
    }
}

#[test]
fn every_file_belongs_to_a_message() {
    let kinds = ["from-agent", "to-agent", "topic", "request", "reply", "to-stage", "from-stage", "to-launch", "from-launch"];
    let records = [
        "runtime-record",
        "runtime-record-intent",
        "state-record",
        "state-record-keys",
        "state-record-hold",
        "state-record-keys-hold",
        "image-record",
        "exit-record-code",
        "exit-record-signal",
    ];
    let consoles = ["console-data", "console-end", "console-size"];
    for entry in fs::read_dir(path("x").parent().unwrap()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let stem = file.trim_end_matches(".hex");
        let known = records.contains(&stem)
            || consoles.contains(&stem)
            || stem.rsplit_once('-').is_some_and(|(kind, n)| kinds.contains(&kind) && n.parse::<u8>().is_ok());
        assert!(known, "tests/frames/{file} belongs to nothing");
    }
}
