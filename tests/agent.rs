//! The agent against a real mosquitto. The test plays keeper over the real socket and starts the real binary.
//!
//! Needs mosquitto, mosquitto_pub, mosquitto_sub and openssl. Run as root, the agent becomes an unprivileged user; otherwise it stays the caller's.

#[path = "agent/between.rs"]
mod between;
#[cfg(target_arch = "x86_64")]
#[path = "agent/clock.rs"]
mod clock;

use between::{Between, CONNECT, Fate, PUBACK, PUBLISH, SUBACK, SUBSCRIBE};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wherry::ipc::{AgentSettings, Broker, Conn, FetchSettings, FromAgent, Link, LinkState, Origin, Publication, ToAgent, Topic};
use wherry::sys::process::{Child, Ended, Spawn, spawn, try_reap};
use wherry::sys::signal::pidfd_send;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
const DEVICE: &str = "router-17";
const IN: &str = "fleet/v1/d/router-17/in";
const OUT: &str = "fleet/v1/d/router-17/out";
const UID: u32 = 64_971;
const KILL: i32 = nix::libc::SIGKILL;
const STOP: i32 = nix::libc::SIGSTOP;
const CONT: i32 = nix::libc::SIGCONT;
const TERM: i32 = nix::libc::SIGTERM;

// ---- what the tests stand on ----

/// A private directory, gone at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wherry-agent-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process, killed at the end.
struct Guard(std::process::Child);

impl Guard {
    fn signal(&self, signal: i32) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// mosquitto on loopback, without persistence.
struct Mosquitto {
    dir: Dir,
    port: u16,
    process: Option<Guard>,
}

impl Mosquitto {
    /// Does not start it yet.
    fn on(port: u16, extra: &str) -> Self {
        let dir = Dir::new();
        let anonymous = if extra.contains("allow_anonymous") { "" } else { "allow_anonymous true\n" };
        dir.write("conf", format!("user root\nlistener {port} 127.0.0.1\npersistence false\n{anonymous}{extra}\n"));
        Self { dir, port, process: None }
    }

    fn start(extra: &str) -> Self {
        let mut broker = Self::on(free_port(), extra);
        broker.up();
        broker
    }

    fn up(&mut self) {
        let log = File::create(self.dir.path("log")).unwrap();
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.dir.path("conf")).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Debian puts it into sbin.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        self.process = Some(Guard(command.spawn().expect("mosquitto is installed")));
        eventually("mosquitto listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    fn down(&mut self) {
        self.process = None;
    }

    fn signal(&self, signal: i32) {
        self.process.as_ref().unwrap().signal(signal);
    }

    fn publish(&self, topic: &str, payload: &[u8], retain: bool) {
        let mut command = Command::new("mosquitto_pub");
        command
            .args(["-p", &self.port.to_string(), "-q", "1", "-t", topic, if payload.is_empty() { "-n" } else { "-s" }])
            .stdin(Stdio::piped());
        if retain {
            command.arg("-r");
        }
        let mut child = Guard(command.spawn().unwrap());
        child.0.stdin.take().unwrap().write_all(payload).unwrap();
        assert!(child.0.wait().unwrap().success(), "mosquitto_pub {topic}");
    }

    fn listen(&self) -> Listener {
        Listener::new(self)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Message {
    topic: String,
    retained: bool,
    payload: Vec<u8>,
}

/// Everything that an observer sees, by mosquitto_sub.
struct Listener {
    _process: Guard,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Listener {
    fn new(broker: &Mosquitto) -> Self {
        let port = broker.port.to_string();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &port, "-q", "1", "-t", "#", "-F", "%t %r %x"]).stdout(Stdio::piped());
        let mut process = Guard(command.spawn().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (lines, into) = (BufReader::new(process.0.stdout.take().unwrap()), seen.clone());
        std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(|l| into.lock().unwrap().push(message(&l))));
        let listener = Self { _process: process, seen };
        eventually("mosquitto_sub listens", || {
            broker.publish("probe", b"x", false);
            listener.all("probe").first().cloned()
        });
        listener
    }

    fn all(&self, topic: &str) -> Vec<Message> {
        self.seen.lock().unwrap().iter().filter(|m| m.topic == topic).cloned().collect()
    }

    fn wait(&self, topic: &str, payload: &str) -> Message {
        let found = || self.all(topic).into_iter().find(|m| m.payload == payload.as_bytes());
        eventually(&format!("{payload} on {topic}"), found)
    }

    fn texts(&self, topic: &str) -> Vec<String> {
        self.all(topic).into_iter().map(|m| String::from_utf8(m.payload).unwrap()).collect()
    }
}

fn message(line: &str) -> Message {
    let [topic, retained, hex] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    Message { topic: topic.into(), retained: retained == "1", payload: (0..hex.len()).step_by(2).map(byte).collect() }
}

fn broker(port: u16) -> Broker {
    Broker {
        host: "127.0.0.1".into(),
        port,
        tls: false,
        credentials: None,
        ca: false,
        client_certificate: false,
        keep_alive_s: 60,
        retained: true,
    }
}

fn settings(brokers: Vec<Broker>) -> AgentSettings {
    AgentSettings {
        device: DEVICE.parse().unwrap(),
        root: "fleet".into(),
        groups: vec!["lab".parse().unwrap()],
        brokers,
        boot: 7,
        interval_s: 60,
        uid: nix::unistd::getuid().is_root().then_some(UID),
        conn: 40,
        fetch: FetchSettings::default(),
    }
}

/// Keeper's side, with the agent that it started.
struct Keeper {
    conn: Option<Conn>,
    agent: Child,
    exited: Option<Ended>,
    link: Link,
    pending: Vec<FromAgent>,
}

impl Keeper {
    fn start(settings: AgentSettings) -> Self {
        Self::start_with(settings, &[])
    }

    fn start_with(settings: AgentSettings, files: &[&Path]) -> Self {
        Self::start_by(spawn_agent, settings, files)
    }

    fn start_by(spawn: impl FnOnce(&Conn) -> Child, settings: AgentSettings, files: &[&Path]) -> Self {
        let (ours, theirs) = Conn::pair().unwrap();
        let agent = spawn(&theirs);
        drop(theirs);
        let mut keeper = Self { conn: Some(ours), agent, exited: None, link: Link::default(), pending: Vec::new() };
        keeper.wait("Hello", |m| matches!(m, FromAgent::Hello { .. }).then_some(()));
        let files: Vec<File> = files.iter().map(|p| File::open(p).unwrap()).collect();
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(File::as_fd).collect();
        keeper.conn().send_with(&ToAgent::Configure(settings), &fds).unwrap();
        keeper
    }

    fn online(settings: AgentSettings) -> Self {
        let mut keeper = Self::start(settings);
        keeper.wait_link("online", |l| l.state == LinkState::Online);
        keeper
    }

    fn conn(&self) -> &Conn {
        self.conn.as_ref().unwrap()
    }

    /// Takes one message in, if one comes within the time.
    fn receive(&mut self, patience: Duration) -> bool {
        let mut fds = [PollFd::new(self.conn().as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap() == 0 {
            return false;
        }
        match self.conn().recv::<FromAgent>().unwrap() {
            Some(FromAgent::Link(link)) => self.link = link,
            Some(message) => self.pending.push(message),
            None => panic!("the agent is gone; last link: {:?}", self.link),
        }
        true
    }

    /// The first message that fits, in the order of arrival; others stay for later.
    fn wait<T>(&mut self, what: &str, fits: impl Fn(&FromAgent) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(i) = self.pending.iter().position(|m| fits(m).is_some()) {
                return fits(&self.pending.remove(i)).unwrap();
            }
            assert!(Instant::now() < end, "waited too long for: {what}; {:?} {:?}", self.link, self.pending);
            self.receive(Duration::from_millis(200));
        }
    }

    fn wait_link(&mut self, what: &str, fits: impl Fn(&Link) -> bool) -> Link {
        let end = Instant::now() + PATIENCE;
        while !fits(&self.link) {
            assert!(Instant::now() < end, "waited too long for a link that is {what}; it is {:?}", self.link);
            self.receive(Duration::from_millis(200));
        }
        self.link.clone()
    }

    fn wait_error(&mut self, words: &str) -> Link {
        let link = self.wait_link(words, |l| l.error.as_ref().is_some_and(|e| e.contains(words)));
        assert_ne!(link.state, LinkState::Online);
        link
    }

    fn wait_desired(&mut self, app: &str) -> (Origin, Vec<u8>) {
        self.wait(app, |m| match m {
            FromAgent::Desired { origin, app: a, payload } if a.as_str() == app => Some((origin.clone(), payload.clone())),
            _ => None,
        })
    }

    fn publish(&self, topic: Topic, payload: impl AsRef<[u8]>) {
        self.conn().send(&ToAgent::Publish(Publication { topic, payload: payload.as_ref().to_vec() })).unwrap();
    }

    fn ack(&self, state: &str, n: usize) {
        self.publish(Topic::Ack("web".parse().unwrap()), ack_text(state, n));
    }

    fn signal(&self, signal: i32) {
        pidfd_send(&self.agent.pidfd, signal).unwrap();
    }

    fn exit(&mut self) -> Ended {
        let pid = self.agent.pid;
        let ended = eventually("the agent ends", || try_reap(pid).unwrap());
        self.exited = Some(ended);
        ended
    }

    fn status(&self) -> String {
        fs::read_to_string(format!("/proc/{}/status", self.agent.pid)).unwrap()
    }

    /// KiB of memory of its own, and open descriptors.
    fn size(&self) -> (u64, usize) {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.agent.pid)).unwrap();
        let anonymous = rollup.lines().find_map(|l| l.strip_prefix("Anonymous:")).unwrap();
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.agent.pid)).unwrap().count();
        (anonymous.trim().trim_end_matches(" kB").parse().unwrap(), descriptors)
    }

    /// Takes everything in for so long.
    fn listen_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.receive(Duration::from_millis(100));
        }
    }
}

fn ack_text(state: &str, n: usize) -> String {
    format!(r#"{{"state":"{state}","n":{n}}}"#)
}

fn program() -> String {
    std::env::var("WHERRY_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_wherry").into())
}

fn spawn_agent(socket: &Conn) -> Child {
    spawn_program(socket, &program(), &["wherry", "agent"])
}

fn spawn_program(socket: &Conn, path: &str, argv: &[&str]) -> Child {
    let exe = File::open(path).unwrap();
    let argv: Vec<CString> = argv.iter().map(|a| CString::new(*a).unwrap()).collect();
    spawn(&Spawn { exe: exe.as_fd(), argv: &argv, env: &[], fds: &[socket.as_fd()], flags: 0 }).unwrap()
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.exited.is_none() {
            let _ = pidfd_send(&self.agent.pidfd, KILL);
            let _ = wherry::sys::process::reap(self.agent.pid);
        }
    }
}

fn presence(state: &str, conn: u64) -> String {
    match state {
        "online" => format!(r#"{{"state":"online","boot":7,"conn":{conn},"version":"{}","interval_s":60}}"#, env!("CARGO_PKG_VERSION")),
        _ => format!(r#"{{"state":"offline","boot":7,"conn":{conn}}}"#),
    }
}

// ---- presence and the will ----

#[test]
fn presence_is_retained_and_a_killed_agent_leaves_its_will() {
    let mosquitto = Mosquitto::start("");
    let listener = mosquitto.listen();
    let keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    listener.wait(&format!("{OUT}/presence"), &presence("online", 41));
    keeper.signal(KILL);
    listener.wait(&format!("{OUT}/presence"), &presence("offline", 41));
    let late = mosquitto.listen();
    let kept = late.wait(&format!("{OUT}/presence"), &presence("offline", 41));
    assert!(kept.retained);
}

#[test]
fn each_connection_has_its_own_number_in_presence_and_will() {
    let mut mosquitto = Mosquitto::start("");
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    mosquitto.down();
    keeper.wait_link("offline", |l| l.state != LinkState::Online);
    keeper.signal(STOP);
    mosquitto.up();
    let listener = mosquitto.listen();
    keeper.signal(CONT);
    let link = keeper.wait_link("online again", |l| l.state == LinkState::Online);
    assert!(link.conn >= 42, "{link:?}");
    listener.wait(&format!("{OUT}/presence"), &presence("online", link.conn));
    keeper.signal(KILL);
    listener.wait(&format!("{OUT}/presence"), &presence("offline", link.conn));
}

#[test]
fn goodbye_and_sigterm_publish_offline_after_all_that_waits_and_exit_0() {
    for by_signal in [false, true] {
        let mosquitto = Mosquitto::start("");
        let listener = mosquitto.listen();
        let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
        if by_signal {
            keeper.signal(TERM);
        } else {
            for n in 0..30 {
                keeper.ack("running", n);
            }
            keeper.conn().send(&ToAgent::Goodbye).unwrap();
        }
        assert_eq!(keeper.exit(), Ended::Code(0));
        listener.wait(&format!("{OUT}/presence"), &presence("offline", 41));
        if !by_signal {
            assert_eq!(listener.all(&format!("{OUT}/ack/web")).len(), 30);
        }
        let offline = listener.texts(&format!("{OUT}/presence")).into_iter().filter(|t| t.contains("offline")).count();
        assert_eq!(offline, 1, "the will was withdrawn by DISCONNECT");
    }
}

#[test]
fn the_agent_ends_with_keeper() {
    let mosquitto = Mosquitto::start("");
    for brokers in [vec![broker(mosquitto.port)], vec![broker(free_port())], vec![]] {
        let mut keeper = Keeper::start(settings(brokers));
        keeper.receive(PATIENCE);
        keeper.conn = None;
        assert_eq!(keeper.exit(), Ended::Code(0));
    }
}

// ---- what comes in ----

#[test]
fn retained_state_arrives_byte_for_byte_also_after_the_broker_forgot_the_session() {
    let mut mosquitto = Mosquitto::start("");
    let bytes: Vec<u8> = (0..32 * 1024).map(|i| (i * 31 % 251) as u8).collect();
    mosquitto.publish(&format!("{IN}/desired/web"), &bytes, true);
    mosquitto.publish("fleet/v1/g/lab/desired/shared", b"\xff\x00{", true);
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    assert_eq!(keeper.wait_desired("web"), (Origin::Device, bytes.clone()));
    assert_eq!(keeper.wait_desired("shared"), (Origin::Group("lab".parse().unwrap()), b"\xff\x00{".to_vec()));

    mosquitto.down();
    keeper.wait_link("offline", |l| l.state != LinkState::Online);
    mosquitto.up();
    let link = keeper.wait_link("online again", |l| l.state == LinkState::Online);
    assert_eq!(link.error, None);
    assert!(link.subscriptions.iter().all(|(_, qos)| *qos == Some(1)) && link.subscriptions.len() == 3, "{link:?}");
    mosquitto.publish(&format!("{IN}/desired/web"), b"second", false);
    assert_eq!(keeper.wait_desired("web"), (Origin::Device, b"second".to_vec()));
}

#[test]
fn keysets_arrive_byte_for_byte_from_the_device_s_own_topic_and_its_group_s() {
    let mosquitto = Mosquitto::start("");
    mosquitto.publish("fleet/v1/g/lab/keyset", b"\xff\x00", true);
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    mosquitto.publish(&format!("{IN}/keyset"), b"own", false);
    for topic in [format!("{IN}/keyset/more"), "fleet/v1/g/other/keyset".into()] {
        mosquitto.publish(&topic, b"nobody's", false);
    }
    mosquitto.publish(&format!("{IN}/keyset"), b"last", false);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, payload)| payload != b"last") {
        seen.push(keeper.wait("a keyset", |m| match m {
            FromAgent::Keyset { origin, payload } => Some((origin.clone(), payload.clone())),
            _ => None,
        }));
    }
    let group = Origin::Group("lab".parse().unwrap());
    assert_eq!(seen, [(group, b"\xff\x00".to_vec()), (Origin::Device, b"own".to_vec()), (Origin::Device, b"last".to_vec())]);
    let listener = mosquitto.listen();
    keeper.publish(Topic::Keyset, b"{}");
    assert!(!listener.wait(&format!("{OUT}/keyset"), "{}").retained);
}

#[test]
fn commands_tell_whether_they_were_retained_and_empty_messages_mean_nothing() {
    let mosquitto = Mosquitto::start("");
    mosquitto.publish(&format!("{IN}/cmd/old"), b"{}", true);
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    mosquitto.publish(&format!("{IN}/desired/web"), b"", false);
    mosquitto.publish(&format!("{IN}/desired/NotAName"), b"x", false);
    mosquitto.publish(&format!("{IN}/cmd/new"), b"{}", false);
    let command = |wanted: &'static str| {
        move |m: &FromAgent| match m {
            FromAgent::Command { id, retained, .. } if id == wanted => Some(*retained),
            _ => None,
        }
    };
    assert!(keeper.wait("the old command", command("old")));
    assert!(!keeper.wait("the new command", command("new")));
    assert_eq!(keeper.pending, [], "nothing else was handed on");
}

/// The numbers of all `desired` messages in what keeper got.
fn numbers(messages: &[FromAgent]) -> Vec<u8> {
    let number = |m: &FromAgent| if let FromAgent::Desired { payload, .. } = m { Some(payload[0]) } else { None };
    messages.iter().filter_map(number).collect()
}

/// More bytes than the socket to keeper holds.
fn publish_forty(mosquitto: &Mosquitto) {
    for n in 0..40 {
        mosquitto.publish(&format!("{IN}/desired/web"), &[vec![n], vec![b'x'; 30_000]].concat(), false);
    }
}

#[test]
fn a_keeper_that_is_busy_gets_everything_later() {
    let mosquitto = Mosquitto::start("");
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    publish_forty(&mosquitto);
    eventually("forty messages", || {
        keeper.receive(Duration::from_millis(200));
        (numbers(&keeper.pending).len() >= 40).then_some(())
    });
    assert_eq!(numbers(&keeper.pending), (0..40).collect::<Vec<u8>>());
}

#[test]
fn what_keeper_did_not_get_from_a_killed_agent_the_next_one_brings() {
    let mosquitto = Mosquitto::start("");
    let mut first = Keeper::online(settings(vec![broker(mosquitto.port)]));
    publish_forty(&mosquitto);
    first.signal(KILL);
    first.exit();
    while let Ok(Some(message)) = first.conn().recv::<FromAgent>() {
        first.pending.push(message);
    }
    let before = numbers(&first.pending);
    assert!(before.len() < 40, "keeper was too far behind for all of them");
    let mut second = Keeper::start(settings(vec![broker(mosquitto.port)]));
    eventually("the other messages", || {
        second.receive(Duration::from_millis(200));
        let mut all = [before.clone(), numbers(&second.pending)].concat();
        all.sort_unstable();
        all.dedup();
        (all.len() == 40).then_some(())
    });
}

#[test]
fn what_is_too_large_is_told_and_later_messages_still_arrive() {
    let mosquitto = Mosquitto::start("");
    let sizes = [("a", 32 * 1024 + 1), ("b", 40 * 1024), ("c", 70 * 1024), ("d", 3 * 1024 * 1024)];
    for (app, size) in sizes {
        mosquitto.publish(&format!("{IN}/desired/{app}"), &vec![b'x'; size], true);
    }
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    for (name, size) in sizes {
        let (origin, bytes) = keeper.wait(name, |m| match m {
            FromAgent::Oversize { origin, app, bytes } if app.as_str() == name => Some((origin.clone(), *bytes)),
            _ => None,
        });
        assert_eq!((origin, bytes), (Origin::Device, size as u64));
    }
    mosquitto.publish(&format!("{IN}/desired/web"), b"small", false);
    assert_eq!(keeper.wait_desired("web").1, b"small");
    assert_eq!((keeper.link.conn, keeper.link.state), (41, LinkState::Online), "all on one connection");
    assert_eq!(keeper.pending, []);
}

// ---- what goes out ----

#[test]
fn what_waited_for_the_broker_arrives_every_ack_but_only_the_newest_report() {
    let mut mosquitto = Mosquitto::on(free_port(), "");
    let mut keeper = Keeper::start(settings(vec![broker(mosquitto.port)]));
    for n in 0..50 {
        keeper.ack(if n % 2 == 0 { "fetching" } else { "running" }, n);
        keeper.publish(Topic::Reported, format!("report {n}"));
        keeper.publish(Topic::Get, format!("get {n}"));
    }
    keeper.wait_link("holding 52 messages", |l| l.queued == 52);
    keeper.signal(STOP);
    mosquitto.up();
    let listener = mosquitto.listen();
    keeper.signal(CONT);
    let link = keeper.wait_link("done", |l| l.queued == 0 && l.state == LinkState::Online);
    assert_eq!(link.dropped, 0);
    assert!(link.last_out_s.is_some());
    listener.wait(&format!("{OUT}/reported"), "report 49");
    let acks: Vec<String> = (0..50).map(|n| ack_text(if n % 2 == 0 { "fetching" } else { "running" }, n)).collect();
    eventually("all acks", || (listener.all(&format!("{OUT}/ack/web")).len() >= 50).then_some(()));
    assert_eq!(listener.texts(&format!("{OUT}/ack/web")), acks);
    assert_eq!(listener.texts(&format!("{OUT}/reported")), ["report 49"]);
    assert_eq!(listener.texts(&format!("{OUT}/get")), ["get 49"]);
    let late = mosquitto.listen();
    assert!(late.wait(&format!("{OUT}/reported"), "report 49").retained);
    assert_eq!(late.all(&format!("{OUT}/ack/web")), [], "acks are not retained");
}

#[test]
fn what_the_broker_never_acknowledged_goes_out_again() {
    let mut mosquitto = Mosquitto::start("");
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    mosquitto.signal(STOP);
    for n in 0..20 {
        keeper.ack("running", n);
    }
    keeper.wait_link("holding 20 messages", |l| l.queued == 20);
    mosquitto.down();
    keeper.wait_link("offline", |l| l.state != LinkState::Online);
    keeper.signal(STOP);
    mosquitto.up();
    let listener = mosquitto.listen();
    keeper.signal(CONT);
    keeper.wait_link("done", |l| l.queued == 0 && l.state == LinkState::Online);
    listener.wait(&format!("{OUT}/ack/web"), &ack_text("running", 19));
    assert_eq!(listener.texts(&format!("{OUT}/ack/web")), (0..20).map(|n| ack_text("running", n)).collect::<Vec<_>>());
}

#[test]
fn a_publication_over_64_kib_is_refused_and_counted_and_the_next_one_goes() {
    let mosquitto = Mosquitto::start("");
    let listener = mosquitto.listen();
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    keeper.publish(Topic::Res("big".into()), vec![b'x'; 64 * 1024]);
    keeper.publish(Topic::Log("with/#/wildcard".into()), "x");
    keeper.publish(Topic::Res("fits".into()), vec![b'y'; 64 * 1024 - 100]);
    keeper.publish(Topic::Stats, "statistics");
    listener.wait(&format!("{OUT}/stats"), "statistics");
    eventually("the large one that fits", || listener.all(&format!("{OUT}/res/fits")).pop());
    assert_eq!(listener.all(&format!("{OUT}/res/big")), []);
    let link = keeper.wait_link("counting", |l| l.dropped == 1 && l.queued == 0);
    assert_eq!((link.conn, link.state), (41, LinkState::Online), "the connection stood through it");
}

// ---- losing the broker ----

#[test]
fn a_broker_that_hangs_up_is_asked_ever_more_rarely() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = attempts.clone();
    std::thread::spawn(move || {
        listener.incoming().for_each(|_| {
            count.fetch_add(1, Ordering::Relaxed);
        })
    });
    let mut keeper = Keeper::start(settings(vec![broker(port)]));
    keeper.wait_error("hung up");
    eventually("a third attempt", || (attempts.load(Ordering::Relaxed) >= 3).then_some(()));
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        keeper.receive(Duration::from_millis(200));
    }
    // Ceilings are 1, 2, 4, 8, 16 … s with uniform jitter, so even twenty attempts in this time are next to impossible; without a wait there are thousands.
    assert!(attempts.load(Ordering::Relaxed) < 20, "{attempts:?}");
}

/// A bare MQTT CONNECT with a clean session.
fn connect_as(port: u16, id: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = [0x10, 12 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, id.len() as u8];
    stream.write_all(&[&head, id.as_bytes()].concat()).ok()?;
    Some(stream)
}

#[test]
fn two_clients_with_one_id_do_not_throw_each_other_off_in_a_hot_loop() {
    let mosquitto = Mosquitto::start("");
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    let (port, done) = (mosquitto.port, Arc::new(()));
    let running = Arc::downgrade(&done);
    // The other one comes back twenty times a second.
    std::thread::spawn(move || {
        while running.upgrade().is_some() {
            let other = connect_as(port, DEVICE);
            std::thread::sleep(Duration::from_millis(50));
            drop(other);
        }
    });
    keeper.wait_error("another client with this device id");
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        keeper.receive(Duration::from_millis(200));
    }
    assert!(keeper.link.conn < 41 + 15, "{:?}", keeper.link);
}

#[test]
fn a_half_open_connection_is_noticed_within_two_keep_alives() {
    let mosquitto = Mosquitto::start("");
    let mut keeper = Keeper::online(settings(vec![Broker { keep_alive_s: 5, ..broker(mosquitto.port) }]));
    mosquitto.signal(STOP);
    let stopped = Instant::now();
    keeper.wait_link("offline", |l| l.state != LinkState::Online);
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    keeper.wait_error("nothing from the broker");
    mosquitto.signal(CONT);
    keeper.wait_link("online again", |l| l.state == LinkState::Online);
}

#[test]
fn an_idle_connection_is_kept_by_pings() {
    let mosquitto = Mosquitto::start("");
    let mut keeper = Keeper::online(settings(vec![Broker { keep_alive_s: 2, ..broker(mosquitto.port) }]));
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        keeper.receive(Duration::from_millis(500));
        assert_eq!((keeper.link.state, keeper.link.conn), (LinkState::Online, 41));
    }
}

#[test]
fn brokers_are_tried_in_their_order() {
    let mosquitto = Mosquitto::start("");
    let mut keeper = Keeper::online(settings(vec![broker(free_port()), broker(mosquitto.port)]));
    assert_eq!(keeper.link.broker, format!("127.0.0.1:{}", mosquitto.port));
    assert_eq!(keeper.link.address, Some(format!("127.0.0.1:{}", mosquitto.port)));
    keeper.publish(Topic::Stats, "x");
    keeper.wait_link("done", |l| l.queued == 0);
}

#[test]
fn a_name_that_does_not_resolve_and_a_closed_port_are_told() {
    let mut keeper = Keeper::start(settings(vec![Broker { host: "broker.invalid".into(), ..broker(1883) }]));
    keeper.wait_error("cannot resolve broker.invalid");
    let port = free_port();
    let mut keeper = Keeper::start(settings(vec![broker(port)]));
    let link = keeper.wait_error(&format!("cannot connect to 127.0.0.1:{port}: Connection refused"));
    assert_eq!(link.broker, format!("127.0.0.1:{port}"));
    let waiting = keeper.wait_link("waiting", |l| l.state == LinkState::Waiting);
    assert!(waiting.retry_s.is_some_and(|s| s <= 300));
}

#[test]
fn without_a_broker_the_link_says_so() {
    let mut keeper = Keeper::start(settings(vec![]));
    keeper.receive(PATIENCE);
    assert_eq!(keeper.link.state, LinkState::Unconfigured);
}

// ---- a peer that misbehaves in front of the broker ----

/// Everything of a connection but this kind of packet, which `fate` decides.
fn only(
    kind: u8,
    mut fate: impl FnMut(&between::Passing<'_>) -> Fate + Send + 'static,
) -> impl FnMut(&between::Passing<'_>) -> Fate + Send + 'static {
    move |p| if p.kind == kind { fate(p) } else { Fate::Pass }
}

/// Settings with one broker, behind this port, that is asked every two seconds whether it lives.
fn impatient(port: u16) -> AgentSettings {
    settings(vec![Broker { keep_alive_s: 2, ..broker(port) }])
}

#[test]
fn acknowledgements_out_of_order_and_missing_ones_hold_nothing_up_and_lose_nothing() {
    let mosquitto = Mosquitto::start("");
    let listener = mosquitto.listen();
    let (mut held, mut seen) = (Vec::new(), 0);
    // Of the first connection, acknowledgements come in fours, the last one first; and none after the fortieth.
    let between = Between::new(mosquitto.port, move |p| {
        if p.kind != PUBACK || p.connection > 1 || p.bytes[2] == 0xff {
            return Fate::Pass;
        }
        seen += 1;
        held.splice(0..0, p.bytes.iter().copied());
        if seen <= 40 && seen % 4 == 0 { Fate::Replaced(std::mem::take(&mut held)) } else { Fate::Drop }
    });
    let mut keeper = Keeper::online(impatient(between.port));
    for n in 0..60 {
        keeper.ack("running", n);
    }
    keeper.wait_error("acknowledged no message");
    let link = keeper.wait_link("done on the second connection", |l| l.queued == 0 && l.state == LinkState::Online);
    assert_eq!((link.conn, link.dropped), (42, 0));
    for n in 0..60 {
        listener.wait(&format!("{OUT}/ack/web"), &ack_text("running", n));
    }
    let times = listener.all(&format!("{OUT}/ack/web")).len();
    assert!(times <= 68, "at most the eight in flight came twice: {times}");
}

#[test]
fn a_lost_suback_is_not_waited_for_without_end() {
    let mosquitto = Mosquitto::start("");
    let between = Between::new(mosquitto.port, only(SUBACK, |p| if p.connection == 1 { Fate::Drop } else { Fate::Pass }));
    let mut keeper = Keeper::start(impatient(between.port));
    keeper.wait_error("answered no subscription");
    assert_eq!(keeper.wait_link("online", |l| l.state == LinkState::Online).conn, 42);
}

#[test]
fn a_refused_subscription_is_asked_for_again_on_the_same_connection_and_not_in_a_loop() {
    let mosquitto = Mosquitto::start("");
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, allowed) = (asked.clone(), Arc::new(AtomicUsize::new(0)));
    let allow = allowed.clone();
    let between = Between::new(mosquitto.port, move |p| match p.kind {
        SUBSCRIBE => {
            count.fetch_add(1, Ordering::SeqCst);
            Fate::Pass
        }
        // The first return code stands behind header, length and packet identifier (MQTT 3.1.1, section 3.9.3).
        SUBACK if allowed.load(Ordering::SeqCst) == 0 => Fate::Replaced([&p.bytes[..4], &[0x80], &p.bytes[5..]].concat()),
        _ => Fate::Pass,
    });
    let mut keeper = Keeper::online(impatient(between.port));
    keeper.wait_link("refused", |l| l.error.as_ref().is_some_and(|e| e.contains("refused the subscription")));
    let begin = Instant::now();
    keeper.listen_for(Duration::from_secs(5));
    let most = begin.elapsed().as_secs() as usize / 2 + 2;
    assert!((2..=most).contains(&asked.load(Ordering::SeqCst)), "{asked:?} of {most}");
    assert!(keeper.link.error.is_some() && keeper.link.subscriptions[0].1.is_none(), "{:?}", keeper.link);
    allow.store(1, Ordering::SeqCst);
    let link = keeper.wait_link("granted", |l| l.error.is_none() && l.subscriptions.iter().all(|(_, qos)| *qos == Some(1)));
    assert_eq!((link.conn, link.state), (41, LinkState::Online));
    let before = asked.load(Ordering::SeqCst);
    keeper.listen_for(Duration::from_secs(3));
    assert_eq!(asked.load(Ordering::SeqCst), before, "what was granted is not asked for again");
}

#[test]
fn a_broker_that_reads_nothing_for_a_while_holds_nobody_up_and_costs_old_statistics_only() {
    const STATS: usize = 6000;
    const ACKS: usize = 200;
    let mosquitto = Mosquitto::start("");
    let listener = mosquitto.listen();
    let between = Between::new(mosquitto.port, |_| Fate::Pass);
    let mut keeper = Keeper::online(settings(vec![broker(between.port)]));
    let (before, _) = keeper.size();
    between.close_gate(true);
    // More than the kernel holds for a peer that reads nothing. A keeper that is held up would never come to the end of this.
    for n in 0..STATS {
        keeper.publish(Topic::Stats, [format!("{n} ").as_bytes(), &[b'x'; 2000]].concat());
        if n % (STATS / ACKS) == 0 {
            keeper.ack("running", n);
        }
        if n % 100 == 0 {
            keeper.publish(Topic::Reported, format!("report {n}"));
            while keeper.receive(Duration::ZERO) {}
        }
    }
    let link = keeper.wait_link("full", |l| l.queued >= 200);
    assert!(link.queued <= 256, "{link:?}");
    let (during, _) = keeper.size();
    // 512 KiB may wait, as many as twice while a queue grows, and 128 KiB in the way to the kernel.
    assert!(during < before + 2048, "{before} KiB before, {during} during");
    between.close_gate(false);
    let link = keeper.wait_link("done", |l| l.queued == 0);
    assert_eq!((link.conn, link.state), (41, LinkState::Online), "on one connection");
    listener.wait(&format!("{OUT}/reported"), &format!("report {}", STATS - 100));
    eventually("all acks", || (listener.all(&format!("{OUT}/ack/web")).len() == ACKS).then_some(()));
    let acks: Vec<String> = (0..ACKS).map(|n| ack_text("running", n * STATS / ACKS)).collect();
    assert_eq!(listener.texts(&format!("{OUT}/ack/web")), acks);
    assert!(listener.all(&format!("{OUT}/reported")).len() < STATS / 100, "reports that were overtaken are not sent");
    let numbers = || -> Vec<usize> {
        listener.texts(&format!("{OUT}/stats")).iter().map(|t| t.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    eventually("the newest statistics", || (numbers().last() == Some(&(STATS - 1))).then_some(()));
    let came = numbers();
    assert_eq!(came.len() as u64 + link.dropped, STATS as u64, "every one that was given up is counted");
    let gap = came.windows(2).filter(|two| two[1] != two[0] + 1).count();
    let newest = came.iter().rev().zip((0..STATS).rev()).take_while(|(a, b)| **a == *b).count();
    assert!(gap == 1 && newest == 32, "the oldest went: {newest} of the newest came, behind {gap} gap");
}

#[test]
fn a_message_that_the_broker_takes_for_too_large_is_given_up_after_some_cuts_and_all_others_arrive() {
    let mosquitto = Mosquitto::start("max_packet_size 20000");
    let listener = mosquitto.listen();
    let mut keeper = Keeper::start(settings(vec![broker(mosquitto.port)]));
    // As keeper does: at each connection it tells everything again.
    let (mut conn, report) = (0, "r".repeat(30_000));
    eventually("the large one is given up", || {
        keeper.receive(Duration::from_millis(100));
        if keeper.link.state == LinkState::Online && keeper.link.conn != conn {
            conn = keeper.link.conn;
            keeper.publish(Topic::Reported, &report);
            keeper.ack("running", conn as usize);
        }
        (keeper.link.dropped > 0).then_some(())
    });
    let link = keeper.wait_link("done", |l| l.queued == 0 && l.state == LinkState::Online);
    assert_eq!(link.conn, 45, "four cuts");
    keeper.publish(Topic::Reported, &report);
    keeper.ack("running", 99);
    listener.wait(&format!("{OUT}/ack/web"), &ack_text("running", 99));
    for n in 41..=44 {
        listener.wait(&format!("{OUT}/ack/web"), &ack_text("running", n));
    }
    keeper.publish(Topic::Reported, "small");
    listener.wait(&format!("{OUT}/reported"), "small");
    keeper.listen_for(Duration::from_secs(2));
    assert_eq!((keeper.link.conn, keeper.link.state), (45, LinkState::Online), "no further cut");
}

#[test]
fn oversize_messages_that_waited_in_a_kept_session_come_once_and_are_gone() {
    let mosquitto = Mosquitto::start("");
    drop(Keeper::online(settings(vec![broker(mosquitto.port)])));
    let sizes = [("a", 40 * 1024), ("b", 70 * 1024), ("c", 3 * 1024 * 1024)];
    for (app, size) in sizes {
        mosquitto.publish(&format!("{IN}/desired/{app}"), &vec![b'x'; size], false);
    }
    mosquitto.publish(&format!("{IN}/desired/web"), b"behind them", false);
    let oversize = |m: &FromAgent| matches!(m, FromAgent::Oversize { .. });
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    assert_eq!(keeper.wait_desired("web").1, b"behind them");
    assert_eq!(keeper.pending.iter().filter(|m| oversize(m)).count(), sizes.len(), "{:?}", keeper.pending);
    keeper.listen_for(Duration::from_secs(1));
    assert_eq!((keeper.link.conn, keeper.link.state), (41, LinkState::Online), "all on one connection");
    drop(keeper);
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    mosquitto.publish(&format!("{IN}/desired/web"), b"later", false);
    assert_eq!(keeper.wait_desired("web").1, b"later");
    assert!(!keeper.pending.iter().any(oversize), "acknowledged once, so gone: {:?}", keeper.pending);
}

/// A name in /etc/hosts, the one file that is read for it, with an IPv6 address that swallows everything; in a network of its own.
#[test]
fn a_name_whose_first_address_is_a_black_hole_leads_to_the_second_on_the_first_connection() {
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let ip = |args: &str| assert!(Command::new("ip").args(args.split(' ')).status().expect("iproute2 is installed").success(), "ip {args}");
    let apart = move || {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        // For this thread and what it starts.
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let dir = Dir::new();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let hosts = dir.write("hosts", "2001:db8:1::1 broker.example\n127.0.0.1 broker.example\n");
        mount(Some(&hosts), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        ip("link set lo up");
        ip("link add hole0 type veth peer name hole1");
        ip("link set hole1 up");
        ip("link set hole0 up");
        ip("-6 addr add 2001:db8:1::2/64 dev hole0 nodad");
        ip("-6 neigh add 2001:db8:1::1 lladdr 02:00:00:00:00:01 dev hole0");
        let mosquitto = Mosquitto::start("");
        let mut keeper = Keeper::start(settings(vec![Broker { host: "broker.example".into(), ..broker(mosquitto.port) }]));
        // State 02 is SYN_SENT (include/net/tcp_states.h).
        let table = format!("/proc/{}/net/tcp6", keeper.agent.pid);
        let trying = |l: &str| l.split_whitespace().nth(3) == Some("02") && l.contains(&format!(":{:04X} 02", mosquitto.port));
        eventually("it waits for the first address", || fs::read_to_string(&table).unwrap().lines().any(trying).then_some(()));
        let link = keeper.wait_link("online", |l| l.state == LinkState::Online);
        assert_eq!((link.conn, link.address, link.error), (41, Some(format!("127.0.0.1:{}", mosquitto.port)), None));
    };
    std::thread::spawn(apart).join().unwrap();
}

#[test]
fn a_broker_that_keeps_no_messages_is_served_without_asking_it_to() {
    let mosquitto = Mosquitto::start("retain_available false");
    let listener = mosquitto.listen();
    let asking = settings(vec![broker(mosquitto.port)]);
    Keeper::start(asking).wait_error("take no retained messages");
    let mut keeper = Keeper::online(settings(vec![Broker { retained: false, ..broker(mosquitto.port) }]));
    listener.wait(&format!("{OUT}/presence"), &presence("online", 41));
    keeper.publish(Topic::Reported, "report");
    keeper.publish(Topic::Get, "get");
    listener.wait(&format!("{OUT}/reported"), "report");
    listener.wait(&format!("{OUT}/get"), "get");
    // What a server does with that.
    mosquitto.publish(&format!("{IN}/desired/web"), b"newer", false);
    assert_eq!(keeper.wait_desired("web").1, b"newer");
    assert_eq!(keeper.wait_link("done", |l| l.queued == 0).conn, 41);
    keeper.signal(KILL);
    listener.wait(&format!("{OUT}/presence"), &presence("offline", 41));
}

/// Thousands of connections, each cut at another step on its way, and some later ones with messages on them.
#[test]
fn thousands_of_cut_connections_leave_neither_memory_nor_descriptors_behind() {
    const CONNECTIONS: usize = 3000;
    let mosquitto = Mosquitto::start("");
    let listener = mosquitto.listen();
    // The first one stands until it is told to go, and so does the one at the end.
    let ending = Arc::new(AtomicUsize::new(0));
    let end = ending.clone();
    let between = Between::new(mosquitto.port, move |p| match (p.connection, p.connection % 4, p.kind) {
        (1, _, PUBLISH) if end.load(Ordering::SeqCst) > 0 => Fate::Cut,
        (1, ..) => Fate::Pass,
        (n, ..) if n >= CONNECTIONS => Fate::Pass,
        // By the agent's own step: before CONNECT comes through, at its answer, at the subscription, at its answer.
        (_, 0, CONNECT) | (_, 1, 2) | (_, 2, SUBSCRIBE) | (_, 3, SUBACK) => Fate::Cut,
        _ => Fate::Pass,
    });
    // What was cut before it was online is followed by the next broker at once: so many names of the same one.
    let mut keeper = Keeper::online(settings(vec![broker(between.port); CONNECTIONS]));
    for n in 0..100 {
        keeper.publish(if n % 5 == 0 { Topic::Stats } else { Topic::Get }, vec![b'x'; 2000]);
        keeper.ack("running", n);
    }
    keeper.wait_link("done", |l| l.queued == 0 && l.last_out_s.is_some());
    let before = keeper.size();
    ending.store(1, Ordering::SeqCst);
    for n in 100..300 {
        keeper.ack("running", n);
    }
    let link = keeper.wait_link("online at the end", |l| l.state == LinkState::Online && l.conn > 1000 && l.queued == 0);
    let after = keeper.size();
    assert!(link.conn >= 40 + CONNECTIONS as u64, "{link:?}");
    assert_eq!(link.dropped, 0);
    listener.wait(&format!("{OUT}/ack/web"), &ack_text("running", 299));
    let came = listener.texts(&format!("{OUT}/ack/web"));
    assert!((0..300).all(|n| came.contains(&ack_text("running", n))), "every ack arrived");
    assert_eq!(before.1, after.1, "descriptors");
    // Pages that the allocator touched by chance; a leak of one connection's bytes would be thirty times that.
    assert!(after.0 <= before.0 + 128, "{} KiB before, {} KiB after", before.0, after.0);
}

// ---- what the broker refuses ----

#[test]
fn a_wrong_password_is_told_and_a_right_one_works() {
    let passwords = Dir::new();
    let file = passwords.path("passwords");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&file).args(["device", "right"]).status().unwrap();
    assert!(made.success());
    let mosquitto = Mosquitto::start(&format!("allow_anonymous false\npassword_file {}", file.display()));
    let with = |password: &str| Broker { credentials: Some(("device".into(), password.into())), ..broker(mosquitto.port) };
    Keeper::start(settings(vec![with("wrong")])).wait_error("not authorized");
    Keeper::start(settings(vec![broker(mosquitto.port)])).wait_error("not authorized");
    Keeper::online(settings(vec![with("right")]));
}

#[test]
fn a_refused_subscription_shows_in_the_link() {
    let rules = Dir::new();
    let denied = "fleet/v1/g/lab/desired/+".to_owned();
    let file = rules.write(
        "rules.json",
        format!(
            r#"{{"defaultACLAccess":{{"publishClientSend":true,"publishClientReceive":true,"subscribe":true,"unsubscribe":true}},
               "clients":[],"groups":[{{"groupname":"all","roles":[{{"rolename":"r"}}],"clients":[]}}],"anonymousGroup":"all",
               "roles":[{{"rolename":"r","acls":[{{"acltype":"subscribeLiteral","topic":"{denied}","priority":1,"allow":false}}]}}]}}"#
        ),
    );
    let plugin = find_plugin("mosquitto_dynamic_security.so");
    let mosquitto = Mosquitto::start(&format!("plugin {}\nplugin_opt_config_file {}", plugin.display(), file.display()));
    let mut keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    let refused: Vec<&str> = keeper.link.subscriptions.iter().filter(|(_, qos)| qos.is_none()).map(|(f, _)| f.as_str()).collect();
    assert_eq!(refused, [denied.as_str()]);
    assert!(keeper.link.error.as_ref().is_some_and(|e| e.contains(&denied)), "{:?}", keeper.link);
    mosquitto.publish(&format!("{IN}/desired/web"), b"x", false);
    assert_eq!(keeper.wait_desired("web").1, b"x", "the others work");
}

fn find_plugin(name: &str) -> PathBuf {
    let places = fs::read_dir("/usr/lib").unwrap().map(|e| e.unwrap().path()).chain([PathBuf::from("/usr/lib")]);
    places.map(|p| p.join(name)).find(|p| p.exists()).expect("mosquitto's dynamic security plugin is installed")
}

// ---- TLS ----

/// An authority, with certificates that it signed.
struct Authority(Dir);

impl Authority {
    fn new(name: &str) -> Self {
        let dir = Dir::new();
        dir.write("index", "");
        dir.write("serial", "01");
        let authority = Self(dir);
        authority.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 3650 -subj /CN={name}"
        ));
        authority
    }

    fn openssl(&self, args: &str) {
        let out = Command::new("openssl").args(args.split_whitespace()).current_dir(&self.0.0).output().expect("openssl is installed");
        assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// A certificate `<name>.pem` with `<name>.key`, valid between the dates (`YYMMDDHHMMSSZ`), for this alternative name.
    fn sign(&self, name: &str, from: &str, to: &str, san: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        let config = format!(
            "[ca]\ndefault_ca=d\n[d]\ndir=.\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\nunique_subject=no\n\
             x509_extensions=x\n[p]\ncommonName=supplied\n[x]\nsubjectAltName={san}\n"
        );
        self.0.write("ca.conf", config);
        self.openssl(&format!(
            "ca -batch -notext -config ca.conf -cert ca.pem -keyfile ca.key -in {name}.csr -out {name}.pem -startdate {from} -enddate {to}"
        ));
    }

    fn server(&self) {
        self.sign("server", "20200101000000Z", "20490101000000Z", "IP:127.0.0.1");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn mosquitto(&self, extra: &str) -> Mosquitto {
        let file = |name| self.path(name).display().to_string();
        Mosquitto::start(&format!("cafile {}\ncertfile {}\nkeyfile {}\n{extra}", file("ca.pem"), file("server.pem"), file("server.key")))
    }
}

fn tls(broker: Broker) -> Broker {
    Broker { tls: true, ca: true, ..broker }
}

/// An observer of TLS brokers would need their files; the link is told only after SUBACK, so it is proof enough.
fn online_over_tls(settings: AgentSettings, files: &[&Path]) {
    let mut keeper = Keeper::start_with(settings, files);
    keeper.wait_link("online", |l| l.state == LinkState::Online);
    keeper.publish(Topic::Reported, "x".repeat(50_000));
    keeper.wait_link("done", |l| l.queued == 0 && l.last_out_s.is_some());
}

#[test]
fn tls_with_the_right_authority_works_and_with_another_one_is_refused() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    ours.server();
    let mosquitto = ours.mosquitto("");
    let settings = || settings(vec![tls(broker(mosquitto.port))]);
    online_over_tls(settings(), &[&ours.path("ca.pem")]);
    let namesake = Authority::new("ours");
    for authority in [&other, &namesake] {
        Keeper::start_with(settings(), &[&authority.path("ca.pem")])
            .wait_error("TLS: the broker's certificate is not signed by the authority");
    }
}

#[test]
fn certificates_out_of_their_time_or_for_another_name_are_refused_in_words() {
    let table = [
        ("20200101000000Z", "20210101000000Z", "IP:127.0.0.1", "has expired"),
        ("20480101000000Z", "20490101000000Z", "IP:127.0.0.1", "not valid yet"),
        ("20200101000000Z", "20490101000000Z", "DNS:broker.example", "is not for the name 127.0.0.1"),
    ];
    for (from, to, san, words) in table {
        let authority = Authority::new("ours");
        authority.sign("server", from, to, san);
        let mosquitto = authority.mosquitto("");
        let settings = settings(vec![tls(broker(mosquitto.port))]);
        Keeper::start_with(settings, &[&authority.path("ca.pem")]).wait_error(words);
    }
}

/// A router without a battery for its clock believes that it is 1970 until somebody tells it the time, which takes a network.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_device_whose_clock_says_1970_takes_a_valid_certificate_and_no_expired_one() {
    const NEW_YEAR_1970: i64 = 3600;
    let stopped = |socket: &Conn| spawn_program(socket, "/bin/sh", &["sh", "-c", &format!("kill -STOP $$; exec {} agent", program())]);
    let table = [("20200101000000Z", "20490101000000Z", None), ("20000101000000Z", "20250101000000Z", Some("has expired"))];
    for (from, to, refused) in table {
        let authority = Authority::new("ours");
        authority.sign("server", from, to, "IP:127.0.0.1");
        let mosquitto = authority.mosquitto("");
        let mut told = None;
        let spawn = |socket: &Conn| {
            let agent = stopped(socket);
            let stat = || fs::read_to_string(format!("/proc/{}/stat", agent.pid)).unwrap();
            eventually("the shell stops", || stat().contains(") T ").then_some(()));
            told = Some(clock::set(agent.pid, NEW_YEAR_1970));
            agent
        };
        let mut keeper = Keeper::start_by(spawn, settings(vec![tls(broker(mosquitto.port))]), &[&authority.path("ca.pem")]);
        match refused {
            None => drop(keeper.wait_link("online", |l| l.state == LinkState::Online)),
            Some(words) => drop(keeper.wait_error(words)),
        }
        assert!(told.unwrap().load(Ordering::SeqCst) > 0, "it asked for the time, and was told 1970");
    }
}

#[test]
fn a_client_certificate_is_shown_where_the_broker_asks_for_one() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    ours.server();
    for authority in [&ours, &other] {
        authority.sign("client", "20200101000000Z", "20490101000000Z", "DNS:client");
    }
    ours.openssl("ec -in client.key -out sec1.key");
    let mosquitto = ours.mosquitto("require_certificate true");
    let ca = ours.path("ca.pem");
    let with = settings(vec![Broker { client_certificate: true, ..tls(broker(mosquitto.port)) }]);
    for key in ["client.key", "sec1.key"] {
        online_over_tls(with.clone(), &[&ca, &ours.path("client.pem"), &ours.path(key)]);
    }
    Keeper::start_with(with.clone(), &[&ca, &other.path("client.pem"), &other.path("client.key")]).wait_error("client certificate");
    Keeper::start_with(settings(vec![tls(broker(mosquitto.port))]), &[&ca]).wait_error("client certificate");
    Keeper::start_with(with, &[&ca, &ours.path("client.pem"), &other.path("client.key")])
        .wait_error("client certificate and key do not work together");
}

#[test]
fn files_that_are_no_pem_are_one_clear_error() {
    let dir = Dir::new();
    let broken = dir.write("broken.pem", "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n");
    let authority = Authority::new("ours");
    let ca = authority.path("ca.pem");
    let port = free_port();
    let plain = settings(vec![tls(broker(port))]);
    Keeper::start_with(plain.clone(), &[&broken]).wait_error("the CA file is not valid PEM");
    Keeper::start_with(plain, &[&dir.write("empty.pem", "")]).wait_error("the CA file holds no certificate");
    let with = settings(vec![Broker { client_certificate: true, ..tls(broker(port)) }]);
    Keeper::start_with(with.clone(), &[&ca, &broken, &ca]).wait_error("the client certificate is not valid PEM");
    Keeper::start_with(with, &[&ca, &ca, &ca]).wait_error("the client key file holds no unencrypted private key");
    Keeper::start(settings(vec![Broker { tls: true, ..broker(port) }])).wait_error("no CA file is set");
}

#[test]
fn tls_and_plain_ports_that_are_mixed_up_are_told() {
    let authority = Authority::new("ours");
    authority.server();
    let (with, without) = (authority.mosquitto(""), Mosquitto::start(""));
    Keeper::start_with(settings(vec![tls(broker(without.port))]), &[&authority.path("ca.pem")]).wait_error("TLS: the broker");
    Keeper::start(settings(vec![broker(with.port)])).wait_error("does it want TLS");
}

// ---- lock-down ----

#[test]
fn the_running_agent_has_no_privileges() {
    let mosquitto = Mosquitto::start("");
    let keeper = Keeper::online(settings(vec![broker(mosquitto.port)]));
    let status = keeper.status();
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim).unwrap().to_owned();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
    if nix::unistd::getuid().is_root() {
        assert_eq!(field("CapBnd:"), "0000000000000000");
        let four = [UID; 4].map(|n| n.to_string()).join("\t");
        assert_eq!((field("Uid:"), field("Gid:"), field("Groups:")), (four.clone(), four, String::new()));
        assert!(File::open(format!("/proc/{}/mem", keeper.agent.pid)).is_ok(), "only root may look inside");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", keeper.agent.pid)).unwrap();
    for (limit, value) in [("Max core file size", "0"), ("Max open files", "32")] {
        let line = limits.lines().find_map(|l| l.strip_prefix(limit)).unwrap();
        assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), [value, value], "{limit}");
    }
}

#[test]
fn without_a_socket_to_keeper_the_role_refuses() {
    let path = std::env::var("WHERRY_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_wherry").into());
    let out = Command::new(path).arg("agent").stdin(Stdio::null()).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("started by keeper"), "{out:?}");
}
