//! Keeper's side of the wire contract: its state as the payloads that the agent publishes, and what it answers to commands.

use crate::device;
use crate::ipc::{Ack, Origin, Topic};
use crate::keeper::Keeper;
use crate::keeper::desired::Entry;
use crate::keeper::report::{self, VERSION};
use crate::keeper::trusted::Unopened;
use crate::manifest::{Name, Target, Whom};
use crate::protocol::{self as wire, Answer, Entries, Reason, Sha256, encode};
use crate::sys::fd::read_file;
use crate::sys::process::Ended;

/// Whom a document of this origin is for.
pub fn target(keeper: &Keeper, origin: &Origin) -> Target {
    let whom = match origin {
        Origin::Group(g) => Whom::Group(g.clone()),
        Origin::Device | Origin::Local => Whom::Device(keeper.device.clone()),
    };
    Target { fleet: keeper.ctx.settings.root.clone(), whom }
}

fn version_of((seq, sha256): (Option<u64>, crate::image::Digest)) -> wire::Previous {
    seq.map_or(wire::Previous::Sha256(Sha256(sha256)), wire::Previous::Seq)
}

/// One step of an app.
pub fn ack(keeper: &Keeper, origin: &Origin, ack: &Ack) -> Vec<u8> {
    let mut refusals = ack.refusals.iter();
    let first = refusals.next();
    let further = refusals.map(|r| wire::Further { reason: r.reason, path: r.path.clone(), message: r.message.clone() }).collect();
    let detail = wire::Detail {
        bytes: ack.progress.map(|p| p.bytes),
        total: ack.progress.and_then(|p| p.total),
        message: first.map(|r| r.message.clone()),
        path: first.map(|r| r.path.clone()).filter(|p| !p.is_empty()),
        further,
    };
    encode(&wire::Ack {
        wherry: 1,
        target: target(keeper, origin),
        app: ack.app.clone(),
        seq: ack.seq,
        sha256: Sha256(ack.sha256),
        attempt: ack.attempt,
        state: ack.state,
        // What only holds a download up is no reason yet.
        reason: first.map(|r| r.reason).filter(|_| ack.state != wire::State::Fetching),
        rolled_back_to: ack.rolled_back_to.map(version_of),
        detail: Some(detail).filter(|d| *d != wire::Detail::default()),
        boot: keeper.ctx.boot,
        uptime_s: keeper.now().as_secs(),
    })
}

impl Keeper {
    /// Tells what runs.
    pub fn publish_reported(&mut self) {
        let reported = wire::Reported { wherry: 1, about: about(self), apps: self.app_reports() };
        self.publish(Topic::Reported, encode(&reported));
    }

    fn app_reports(&self) -> Entries<wire::AppReport> {
        let mut names: Vec<&Name> = self.desired.entries.iter().map(|e| &e.app).collect();
        names.sort();
        names.dedup();
        let entry = |name: &&Name| self.winner(name);
        names.iter().filter_map(|name| entry(name).map(|e| (name.to_string(), self.app_report(e)))).collect()
    }

    fn app_report(&self, entry: &Entry) -> wire::AppReport {
        let live = self.app(&entry.app).map(|a| a.live.as_slice()).unwrap_or_default();
        wire::AppReport {
            target: target(self, &entry.origin),
            seq: entry.newest.seq,
            sha256: Sha256(entry.newest.sha256),
            state: entry.state,
            reason: entry.refusal.as_ref().map(|r| r.reason),
            overridden: (!entry.held.is_empty()).then(|| "local".into()),
            held: self.desired.holds.contains(&entry.app).then(|| "local".into()),
            containers: live.iter().map(|l| (l.key.container.to_string(), container_report(l.row(self.now())))).collect(),
        }
    }

    /// Tells what this device has, for a server that keeps no retained messages.
    pub fn publish_get(&mut self) {
        let remote = self.desired.entries.iter().filter(|e| e.origin != Origin::Local);
        let have = remote.map(|e| wire::Have { target: target(self, &e.origin), app: e.app.clone(), seq: e.mark }).collect();
        self.publish(Topic::Get, encode(&wire::Get { have }));
    }

    /// One round of statistics.
    pub fn publish_stats(&mut self) {
        let Self { ctx, apps, .. } = self;
        apps.iter_mut().flat_map(|a| &mut a.live).filter(|l| l.pid().is_some()).for_each(|l| l.look_for_oom(ctx));
        let (device, rows) = report::stats(self);
        for message in wire::stats(self.ctx.boot, self.ctx.settings.interval_s, &device, &rows) {
            self.publish(Topic::Stats, message);
        }
    }

    /// A document too large to be taken.
    pub fn on_oversize(&mut self, origin: &Origin, app: &Name, bytes: u64) {
        let limit = crate::manifest::MAX_PAYLOAD;
        let message = format!("the document has {bytes} bytes, at most {limit} are taken");
        let refusals = vec![crate::ipc::Refusal { reason: Reason::Oversize, path: String::new(), message }];
        // Its bytes were never read: the hash is that of nothing.
        let sha256 = crate::image::Digest::of(b"");
        self.reject(origin, app, Unopened { sha256, refusals });
    }

    /// A document that was not even read.
    pub fn reject(&mut self, origin: &Origin, app: &Name, Unopened { sha256, refusals }: Unopened) {
        let state = wire::State::Rejected;
        self.emit(origin, Ack { app: app.clone(), seq: None, sha256, attempt: 1, state, refusals, rolled_back_to: None, progress: None });
    }

    /// What cannot be honoured is said, never dropped.
    pub fn on_command(&mut self, id: &str, retained: bool, payload: &[u8]) {
        let answer = match self.open_command(id, payload) {
            _ if retained => {
                (Reason::StaleSession, "a retained command is refused: the broker would repeat it at every connection".to_owned())
            }
            Ok(c) => match self.check_session(c.session) {
                Ok(()) => return self.obey(id, &c),
                Err(message) => (Reason::StaleSession, message),
            },
            Err(why) => why,
        };
        self.publish(Topic::Res(id.to_owned()), encode(&Answer::error(0, answer.0, answer.1)));
    }

    /// A command counts in the running session alone, and only if no session before or after has the same number.
    fn check_session(&self, session: (u64, u64)) -> Result<(), String> {
        let (boot, conn) = (self.ctx.boot, self.agent.link.conn);
        if session != (boot, conn) || self.obeyed.is_over(session) {
            return Err(format!("the command is for another session, this is {boot}.{conn}"));
        }
        if !self.store.has_start(boot) || self.ctx.runtime.number("conn") != Some(conn) {
            let why = "the number of this session could not be recorded, so another could have it too: no command counts until it is";
            return Err(format!("{why} (see wherry status)"));
        }
        Ok(())
    }
}

/// The wire's words for an ending.
pub fn last_exit(ended: Ended) -> wire::LastExit {
    match ended {
        Ended::Code(c) => wire::LastExit::Code(c),
        Ended::Signal(s) => wire::LastExit::Signal(s),
    }
}

fn container_report(row: crate::ipc::ContainerRow) -> wire::ContainerReport {
    wire::ContainerReport {
        state: row.state,
        since_s: row.uptime_s,
        restarts: row.restarts,
        image: row.digest,
        last_exit: row.last_exit.map(last_exit),
        health: row.health.map(|h| h.to_string()),
        missing: row.missing.into_iter().collect(),
        error: row.error,
    }
}

fn about(keeper: &Keeper) -> wire::About {
    let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let features = match keeper.ctx.layout.kind() {
        crate::cgroup::Kind::V1 => "cgroup1",
        crate::cgroup::Kind::V2 => "cgroup2",
        crate::cgroup::Kind::Hybrid => "cgroup-hybrid",
    };
    wire::About {
        version: VERSION.into(),
        schema: [1, 1],
        features: vec![features.into()],
        missing: missing(keeper),
        board: board(),
        arch: arch().into(),
        kernel,
        ram: device::memory(),
        flash_free: keeper.store.free(),
        isolation: "container".into(),
        keys: keeper.trust_report().keys.into_iter().map(|k| k.id).collect(),
    }
}

/// What the device lacks: of its kernel, and of what keeper could not read or write.
fn missing(keeper: &Keeper) -> Entries<String> {
    let storage = keeper.unsaved.iter().map(|u| ("storage".into(), u.why.clone()));
    let policy = keeper.ctx.policy.as_ref().err().map(|why| ("policy".into(), why.clone()));
    keeper.ctx.missing.iter().cloned().chain(storage).chain(policy).collect()
}

/// The board's own name: the device tree's model, else what the firmware says (DMI), else nothing.
fn board() -> String {
    const MAX: usize = 256;
    let files = ["/proc/device-tree/model", "/sys/class/dmi/id/product_name"];
    let read = |path: &&str| read_file(path, MAX).ok().map(|b| String::from_utf8_lossy(&b).trim_matches(['\0', '\n', ' ']).to_owned());
    files.iter().find_map(read).unwrap_or_default()
}

/// The architecture in OCI's words (GOARCH).
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
