//! What keeper tells of itself: rows for the command line, payloads for the broker.

use crate::ipc::{Ack, AppRow, DeviceSample, Happening, Origin, Publication, Reply, StatsRow, StatusReport, ToAgent, Topic, What};
use crate::keeper::Keeper;
use crate::keeper::containers::Live;
use crate::keeper::desired;
use crate::manifest::{Content, Name, Network};

/// The program's release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who answers.
pub fn version(keeper: &Keeper) -> Reply {
    Reply::Version { version: VERSION.into(), pid: std::process::id(), boot: keeper.ctx.boot }
}

/// Every app that is wanted or runs.
pub fn apps(keeper: &Keeper) -> Vec<AppRow> {
    let now = keeper.now();
    let mut names: Vec<&Name> = keeper.desired.entries.iter().filter(|e| !desired::is_gone(e)).map(|e| &e.app).collect();
    names.extend(keeper.apps.iter().map(|a| &a.name));
    names.sort();
    names.dedup();
    let row = |name: &Name| {
        let entry = keeper.winner(name)?;
        let live = keeper.app(name).map(|a| a.live.as_slice()).unwrap_or_default();
        Some(AppRow {
            app: name.clone(),
            origin: entry.origin.clone(),
            seq: entry.newest.seq,
            sha256: entry.newest.sha256,
            state: entry.state,
            overridden: !entry.held.is_empty(),
            hold: keeper.desired.holds.contains(name),
            containers: live.iter().map(|l| l.row(now)).collect(),
        })
    };
    names.into_iter().filter_map(row).collect()
}

/// The device and its link.
pub fn status(keeper: &Keeper) -> StatusReport {
    let now = keeper.now();
    let apps = apps(keeper);
    let runs = |a: &&AppRow| a.containers.iter().any(|c| c.pid.is_some());
    let running = apps.iter().filter(runs).count() as u32;
    StatusReport {
        version: VERSION.into(),
        device: keeper.device.clone(),
        root: keeper.ctx.settings.root.clone(),
        boot: keeper.ctx.boot,
        uptime_s: now.as_secs(),
        pid: std::process::id(),
        agent_pid: keeper.agent.pid().map(|p| p as u32),
        agent_restarts: keeper.agent.restarts,
        link: keeper.agent.link.clone(),
        cgroup: keeper.ctx.layout.describe(),
        apps: (running, apps.len() as u32),
        unsaved: keeper.unsaved.as_ref().map(|u| u.why.clone()),
        trust: keeper.trust_report(),
        holds: keeper.desired.holds.clone(),
    }
}

/// One statistics round: the device and every running container.
pub fn stats(keeper: &Keeper) -> (DeviceSample, Vec<StatsRow>) {
    let mut pids = vec![std::process::id() as i32];
    pids.extend(keeper.agent.pid());
    let device = crate::device::sample(std::path::Path::new(&keeper.ctx.settings.data_dir), &pids);
    let live = keeper.apps.iter().flat_map(|a| &a.live).filter(|l| l.pid().is_some());
    (device, live.map(|l| stats_row(keeper, l)).collect())
}

fn stats_row(keeper: &Keeper, live: &Live) -> StatsRow {
    let host_network = live.ready.spec.network == Network::Host;
    StatsRow {
        app: live.key.app.clone(),
        container: live.key.container.clone(),
        uptime_s: keeper.now().saturating_sub(live.life.since).as_secs(),
        sample: live.group(&keeper.ctx).sample(live.pid(), host_network),
    }
}

/// All settings in force of an app, as JSON.
pub fn info(keeper: &Keeper, name: &Name) -> Option<String> {
    let row = apps(keeper).into_iter().find(|r| r.app == *name)?;
    let entry = keeper.winner(name)?;
    let live = keeper.app(name).map(|a| a.live.as_slice()).unwrap_or_default();
    let containers: serde_json::Map<String, serde_json::Value> =
        live.iter().map(|l| (l.key.container.to_string(), container_info(keeper, l))).collect();
    let document = keeper.store.manifest(&entry.newest.sha256).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    let info = serde_json::json!({
        "app": row.app, "origin": row.origin.to_string(), "seq": row.seq, "sha256": row.sha256.hex(), "state": row.state,
        "refusal": entry.refusal, "waits": keeper.waits(name), "overridden": row.overridden, "hold": row.hold,
        "containers": containers, "document": document,
    });
    serde_json::to_string_pretty(&info).ok()
}

fn container_info(keeper: &Keeper, live: &Live) -> serde_json::Value {
    let row = live.row(keeper.now());
    let mut spec = live.ready.spec.clone();
    // It stands in the document; twice it might not fit the answer.
    for file in &mut spec.files {
        if let Content::Text(text) = &mut file.content {
            *text = format!("{} bytes", text.len());
        }
    }
    serde_json::json!({
        "state": row.state, "pid": row.pid, "uptime_s": row.uptime_s, "restarts": row.restarts, "image": row.image, "digest": row.digest,
        "last_exit": row.last_exit.map(super::wire::last_exit), "error": row.error, "missing": row.missing, "cgroup": live.group_path(),
        "health": row.health, "unhealthy": live.checkup.why(), "failures": live.checkup.failures(), "after": live.ready.after,
        "spec": spec, "restart": live.ready.rules.restart, "stop": live.ready.rules.stop, "log": live.ready.log, "ring": live.ring.size(),
    })
}

impl Keeper {
    /// Tells a step of an app to everybody who should know.
    pub fn emit(&mut self, origin: &Origin, ack: Ack) {
        let why = ack.refusals.first().map(|r| format!(": {}", r.message)).unwrap_or_default();
        log::info!("{}: {}{why}", ack.app, ack.state);
        self.ctx.dirty = true;
        // Progress of one state is no event.
        if ack.progress.is_none() {
            let app = Some(ack.app.clone());
            self.ctx.happened(Happening { app, ..Happening::new(What::App, format!("{}{why}", ack.state)) });
        }
        if *origin != Origin::Local {
            self.publish(Topic::Ack(ack.app.clone()), super::wire::ack(self, origin, &ack));
        }
        self.tell_clients(&ack);
    }

    /// Hands a payload to the agent.
    pub fn publish(&mut self, topic: Topic, payload: Vec<u8>) {
        self.agent.send(&self.ctx, &ToAgent::Publish(Publication { topic, payload }));
    }
}
