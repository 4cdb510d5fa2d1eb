//! The device: keeper, its command line, and what it says to the broker.

use super::broker::Broker;
use super::{PATIENCE, Signal, Value, eventually, image, is_alive, json, kill, within};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wherry::image::Digest;

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; 128 and the signal if one ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Outcome {
    fn from(o: Output) -> Self {
        let code = o.status.code().unwrap_or_else(|| 128 + o.status.signal().unwrap_or(0));
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Self { code, out: text(&o.stdout), err: text(&o.stderr) }
    }
}

/// The program under test: `WHERRY_BIN`, else the one that cargo built.
pub fn program() -> PathBuf {
    std::env::var_os("WHERRY_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_wherry")), PathBuf::from)
}

/// One device of its own.
pub struct Device {
    /// Its directory.
    pub dir: PathBuf,
    /// Its id.
    pub id: String,
    /// Parent of its containers' control groups.
    pub cgroup: String,
    /// What keeper reads at its next start.
    pub settings: Value,
    /// Its broker.
    pub broker: Broker,
    /// The program that keeper is started from.
    pub program: PathBuf,
    keeper: Option<Child>,
    groups: Vec<i32>,
}

impl Device {
    /// Broker and keeper run, and the link is up.
    pub fn new() -> Self {
        Self::with(json!({}))
    }

    /// The same with these settings on top.
    pub fn with(extra: Value) -> Self {
        let mut device = Self::prepared(extra);
        device.broker.up();
        device.start();
        device.online();
        device
    }

    /// Nothing runs yet.
    pub fn prepared(extra: Value) -> Self {
        Self::prepared_with_login(extra, None)
    }

    /// Nothing runs yet, and the broker will ask for a password.
    pub fn prepared_with_login(extra: Value, login: Option<(&str, &str)>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        // Of one width: what is looked for by name must not be found in the name of another, and be swept away.
        let id = format!("t{}-{:03}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("wherry-{id}"));
        fs::create_dir(&dir).unwrap();
        let broker = Broker::new(&dir, login);
        let cgroup = format!("wherry/{id}");
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let settings = json!({
            "device": id, "data_dir": path("data"), "run_dir": path("run"), "cgroup": cgroup, "interval_s": 1,
            "policy": path("policy.json"), "trust_dir": path("trust"), "import_dirs": [image::dir()],
            "brokers": [{"host": "127.0.0.1", "port": broker.port}],
        });
        let settings = super::with(settings, extra);
        Self { dir, id, cgroup, settings, broker, program: program(), keeper: None, groups: Vec::new() }
    }

    // ---- keeper ----

    /// Starts keeper and waits until it answers.
    pub fn start(&mut self) {
        self.spawn(&[], Stdio::null());
        self.answers();
    }

    /// Starts keeper by way of a shell that waits for the end of its input before it becomes keeper.
    pub fn start_held(&mut self) -> std::process::ChildStdin {
        self.spawn(&["/bin/sh", "-c", "cat; exec \"$0\" \"$@\" </dev/null"], Stdio::piped());
        self.keeper.as_mut().and_then(|k| k.stdin.take()).expect("it reads from us")
    }

    /// Starts keeper, with these words before the command.
    fn spawn(&mut self, before: &[&str], stdin: Stdio) {
        assert!(self.keeper.is_none(), "keeper runs already");
        fs::write(self.dir.join("settings.json"), self.settings.to_string()).unwrap();
        let log = File::options().create(true).append(true).open(self.dir.join("keeper.log")).unwrap();
        let words: Vec<_> = before.iter().map(AsRef::as_ref).chain([self.program.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("keeper").arg("--config").arg(self.dir.join("settings.json")).stdin(stdin);
        // Its own process group marks all its roles, also after it is gone. WHERRY_LOG would tell of more than a user sees.
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0).env_remove("WHERRY_LOG");
        let child = command.spawn().expect("the program under test can be started");
        self.groups.push(child.id() as i32);
        self.keeper = Some(child);
    }

    /// Whether keeper has ended by itself, or was killed by somebody else; it can be started again then.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.keeper.as_mut().is_none_or(|k| ended(k).is_some());
        if ended {
            self.keeper = None;
        }
        ended
    }

    /// Waits until keeper answers.
    pub fn answers(&self) {
        eventually("keeper answers", || (self.wherry(&["ls"]).code == 0).then_some(()));
    }

    /// Waits until the link is up.
    pub fn online(&self) {
        eventually("the link is up", || (self.json(&["status"])["link"]["state"] == "online").then_some(()));
    }

    /// Keeper's process id.
    pub fn keeper(&self) -> i32 {
        self.keeper.as_ref().expect("keeper runs").id() as i32
    }

    /// The agent's process id.
    pub fn agent(&self) -> i32 {
        eventually("an agent runs", || super::role_of(self.keeper(), "agent"))
    }

    /// Sends keeper a signal and waits for its end.
    pub fn end(&mut self, signal: Signal) -> std::process::ExitStatus {
        let mut child = self.keeper.take().expect("keeper runs");
        kill(child.id() as i32, signal);
        let status = within(PATIENCE, || ended(&mut child));
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        status.unwrap_or_else(|| panic!("keeper does not end on {signal}"))
    }

    /// The device loses power: all processes are gone at once, and what is in memory. The flash stays.
    pub fn power_off(&mut self) {
        self.end(Signal::SIGKILL);
        let tasks = |device: &Self| device.group_names().iter().flat_map(|group| device.tasks(group)).collect::<Vec<_>>();
        eventually("all is gone", || {
            for pid in tasks(self) {
                // It may have gone with its pid 1.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
            self.processes().is_empty().then_some(())
        });
        nix::mount::umount(&self.dir.join("run")).unwrap();
    }

    /// What keeper has written to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("keeper.log")).unwrap_or_default()
    }

    // ---- command line ----

    /// A command with the socket of this device.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(self.dir.join("run/control.sock")).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn wherry(&self, args: &[&str]) -> Outcome {
        self.command(args).output().unwrap().into()
    }

    /// Runs a command that must succeed; its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.wherry(args);
        assert_eq!(outcome.code, 0, "wherry {args:?}: {outcome:?}");
        outcome.out
    }

    /// Runs a command that must fail; its code and message.
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let outcome = self.wherry(args);
        assert_ne!(outcome.code, 0, "wherry {args:?}: {outcome:?}");
        (outcome.code, outcome.err)
    }

    /// The JSON answer of a command that must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[&["--json"], args].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("wherry {args:?} does not print JSON ({e}): {out}"))
    }

    /// Writes a document into a file of this device.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.dir.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Applies a document by the command line.
    pub fn apply(&self, manifest: &Value) -> Outcome {
        let path = self.file("applied.json", manifest.to_string());
        self.wherry(&["apply", &path])
    }

    /// Applies a document that must come to run.
    pub fn applied(&self, manifest: &Value) {
        let outcome = self.apply(manifest);
        assert_eq!(outcome.code, 0, "{manifest}: {outcome:?}");
    }

    // ---- containers ----

    /// The line of an app in `ls`.
    pub fn app(&self, app: &str) -> Option<Value> {
        self.json(&["ls"]).as_array().unwrap().iter().find(|a| a["app"] == app).cloned()
    }

    /// The line of `APP/CONTAINER` in `ls`; `APP` alone is its container `main`.
    pub fn container(&self, scope: &str) -> Option<Value> {
        let (app, name) = scope.split_once('/').unwrap_or((scope, "main"));
        self.app(app)?["containers"].as_array().unwrap().iter().find(|c| c["name"] == name).cloned()
    }

    /// The process id of a running container's pid 1.
    pub fn pid(&self, scope: &str) -> Option<i32> {
        let container = self.container(scope)?;
        (container["state"] == "running").then_some(())?;
        container["pid"].as_i64().map(|p| p as i32)
    }

    /// Waits until it runs.
    pub fn running(&self, scope: &str) -> i32 {
        eventually(&format!("{scope} runs"), || self.pid(scope))
    }

    /// Waits until it is in this state.
    pub fn becomes(&self, scope: &str, state: &str) -> Value {
        eventually(&format!("{scope} is {state}"), || self.container(scope).filter(|c| c["state"] == state))
    }

    /// Waits until its output has this text; the whole output.
    pub fn says(&self, scope: &str, text: &str) -> String {
        let scope = if scope.contains('/') { scope.to_owned() } else { format!("{scope}/main") };
        let mut last = String::new();
        within(PATIENCE, || {
            last = self.wherry(&["logs", &scope]).out;
            last.contains(text).then_some(())
        })
        .unwrap_or_else(|| panic!("{scope} never says {text:?}, only {last:?}"));
        last
    }

    /// Runs a program in the container; what it printed.
    pub fn exec(&self, scope: &str, argv: &[&str]) -> String {
        self.ok(&[&["exec", scope], argv].concat()).trim_end().to_owned()
    }

    /// Makes the file for which a container waits that ends then. How `touch` ends is nobody's question: with pid 1 the kernel kills whatever else is in the
    /// container (pid_namespaces(7)).
    pub fn let_go(&self, scope: &str, path: &str) {
        let outcome = self.wherry(&["exec", scope, "touch", path]);
        assert!([0, 137].contains(&outcome.code), "{outcome:?}");
    }

    /// Processes in a container's group.
    pub fn tasks(&self, scope: &str) -> Vec<i32> {
        let path = format!("{}/{}", self.cgroup, if scope.contains('/') { scope.to_owned() } else { format!("{scope}/main") });
        let mut pids: Vec<i32> = hierarchies().iter().flat_map(|h| read_numbers(&h.join(&path).join("cgroup.procs"))).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Makes a group below this device's own, in every hierarchy where that is.
    pub fn make_group(&self, path: &str) {
        for own in hierarchies().iter().map(|h| h.join(&self.cgroup)).filter(|own| own.exists()) {
            fs::create_dir_all(own.join(path)).unwrap();
        }
    }

    /// Every group below this device's own, in whichever hierarchy, as `APP/CONTAINER`.
    pub fn group_names(&self) -> Vec<String> {
        let below = |dir: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
        };
        let mut names = Vec::new();
        for own in hierarchies().iter().map(|h| h.join(&self.cgroup)) {
            // A level without anything below it is one too.
            for app in below(&own) {
                let containers = below(&app);
                let groups = if containers.is_empty() { vec![app] } else { containers };
                names.extend(groups.iter().map(|g| g.strip_prefix(&own).unwrap().to_str().unwrap().to_owned()));
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// The first of these control files of a container that some hierarchy has.
    pub fn control_file(&self, scope: &str, names: &[&str]) -> String {
        let group = format!("{}/{}", self.cgroup, if scope.contains('/') { scope.to_owned() } else { format!("{scope}/main") });
        let read = |name: &&str| hierarchies().iter().find_map(|h| fs::read_to_string(h.join(&group).join(name)).ok());
        let found = names.iter().find_map(read).unwrap_or_else(|| panic!("no hierarchy has {names:?} for {scope}"));
        found.trim_end().to_owned()
    }

    // ---- broker ----

    /// A topic of this device.
    pub fn topic(&self, rest: &str) -> String {
        format!("wherry/v1/d/{}/{rest}", self.id)
    }

    /// Publishes a retained document; its hash.
    pub fn publish(&self, manifest: &Value) -> String {
        self.publish_bytes(manifest["app"].as_str().unwrap(), manifest.to_string().as_bytes())
    }

    /// Publishes retained bytes on the topic of an app; their hash.
    pub fn publish_bytes(&self, app: &str, bytes: &[u8]) -> String {
        self.broker.publish(&self.topic(&format!("in/desired/{app}")), bytes, true);
        Digest::of(bytes).hex().to_string()
    }

    /// Publishes, and waits for the state.
    pub fn deploy(&self, manifest: &Value) -> Value {
        let sha = self.publish(manifest);
        self.ack(&sha, "running")
    }

    /// Payloads of this device on a topic, oldest first.
    pub fn said(&self, rest: &str) -> Vec<Value> {
        let topic = self.topic(&format!("out/{rest}"));
        self.broker.messages().into_iter().filter(|m| m.topic == topic).map(|m| m.payload).collect()
    }

    /// Acks of one document, oldest first.
    pub fn acks(&self, sha: &str) -> Vec<Value> {
        let prefix = self.topic("out/ack/");
        self.broker
            .messages()
            .into_iter()
            .filter(|m| m.topic.starts_with(&prefix) && m.payload["sha256"] == sha)
            .map(|m| m.payload)
            .collect()
    }

    /// States of those, repeated progress left out.
    pub fn states(&self, sha: &str) -> Vec<String> {
        let mut states: Vec<String> = self.acks(sha).iter().map(|a| a["state"].as_str().unwrap_or("?").to_owned()).collect();
        states.dedup();
        states
    }

    /// Waits for the ack of a state. Another terminal state fails the test.
    pub fn ack(&self, sha: &str, state: &str) -> Value {
        const TERMINAL: [&str; 5] = ["running", "failed", "rejected", "removed", "superseded"];
        let found = within(PATIENCE, || {
            let acks = self.acks(sha);
            let end = |a: &&Value| TERMINAL.iter().any(|t| a["state"] == *t);
            acks.iter().find(|a| a["state"] == state).or(acks.iter().find(end)).cloned()
        });
        let ack = found.unwrap_or_else(|| panic!("no ack {state} in time, only {:?}", self.acks(sha)));
        assert_eq!(ack["state"], state, "{ack}");
        ack
    }

    /// Waits for `rejected` or `failed` and checks its reason.
    pub fn refused(&self, sha: &str, state: &str, reason: &str) -> Value {
        let ack = self.ack(sha, state);
        assert_eq!(ack["reason"], reason, "{ack}");
        let sentence = ack["detail"]["message"].as_str().unwrap_or_default();
        assert!(!sentence.is_empty() && !sentence.ends_with('.'), "{ack}");
        ack
    }

    /// Waits until the newest `reported` satisfies the test.
    pub fn reported(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("reported: {what}"), || self.said("reported").pop().filter(|r| holds(r)))
    }

    /// Waits for the next statistics that satisfy the test.
    pub fn stats(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let before = self.said("stats").len();
        eventually(&format!("stats: {what}"), || self.said("stats").into_iter().skip(before).find(|s| holds(s)))
    }

    // ---- the end ----

    /// What of this device is left on the machine.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|l| l.contains(self.dir.to_str().unwrap())).map(|l| format!("mount {l}")));
        left.extend(hierarchies().iter().map(|h| h.join(&self.cgroup)).filter(|g| g.exists()).map(|g| format!("cgroup {}", g.display())));
        left.extend(self.processes().iter().map(|p| format!("process {p} {}", command_of(*p))));
        left
    }

    /// Every process of this device: of keeper's process group, with its directory in the arguments, or in its control groups.
    pub fn processes(&self) -> Vec<i32> {
        let dir = self.dir.to_str().unwrap();
        let ours = |pid: &i32| {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let inside = cgroup.contains(&format!("{}/", self.cgroup));
            let named = command_of(*pid).contains(dir) && !command_of(*pid).starts_with("mosquitto");
            is_alive(*pid) && (inside || named || group_of(*pid).is_some_and(|g| self.groups.contains(&g)))
        };
        all_processes().into_iter().filter(ours).collect()
    }

    fn shut_down(&mut self) -> Result<(), String> {
        let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap().contains(self.dir.join("run").to_str().unwrap());
        if self.keeper.is_none() && mounted && !std::thread::panicking() {
            self.start();
        }
        if let Some(mut child) = self.keeper.take() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGINT);
            if within(PATIENCE, || ended(&mut child)).is_none() {
                let _ = child.kill();
                let _ = child.wait();
                return Err("keeper does not end on SIGINT".into());
            }
        }
        // Roles lose their socket with keeper and end by themselves.
        let clean = within(Duration::from_secs(5), || self.leftovers().is_empty().then_some(()));
        clean.ok_or_else(|| format!("left behind: {:#?}", self.leftovers()))
    }

    fn sweep(&self) {
        for pid in self.processes() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = within(Duration::from_secs(5), || self.processes().is_empty().then_some(()));
        let run = self.dir.join("run");
        let _ = Command::new("umount").arg("-l").arg(run).stderr(Stdio::null()).status();
        for hierarchy in hierarchies() {
            remove_groups(&hierarchy.join(&self.cgroup));
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let result = self.shut_down();
        if std::thread::panicking() || result.is_err() {
            eprintln!("---- keeper's log of {} ----\n{}", self.id, self.log());
        }
        self.sweep();
        self.broker.down();
        let _ = fs::remove_dir_all(&self.dir);
        if let Err(e) = result
            && !std::thread::panicking()
        {
            panic!("{e}");
        }
    }
}

/// How it ended. Asked for only once it has: a wait of ours would take the stops of a child that another of our threads traces.
fn ended(child: &mut Child) -> Option<std::process::ExitStatus> {
    if is_alive(child.id() as i32) { None } else { child.try_wait().unwrap() }
}

/// Where control group hierarchies are mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_cgroup = |l: &&str| l.split(" - ").nth(1).is_some_and(|t| t.starts_with("cgroup"));
    mounts.lines().filter(is_cgroup).filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Removes a group with all below it.
pub fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

fn read_numbers(path: &Path) -> Vec<i32> {
    fs::read_to_string(path).unwrap_or_default().lines().filter_map(|l| l.parse().ok()).collect()
}

fn all_processes() -> Vec<i32> {
    fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn command_of(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

fn group_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}
