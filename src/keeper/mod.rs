//! Keeper: root, one thread, no network. Owns the desired state and every decision; starts, watches and ends everything else.
//!
//! | room | what it decides or does |
//! |---|---|
//! | `requests` | THE table: who may ask what, when, why it is safe |
//! | `desired` `rollout` `window` `plan` `lifecycle` `ring` `pace` `events` | pure decisions: documents, versions, container life, output |
//! | `policy` `admission` `admit` | what a document may ask for, and whether the device has it: two pure decisions, and what they are made of |
//! | `trusted` `commands` | whose signature counts, keysets; what is done for a command |
//! | `health` `trial` `guard` | pure decisions: is a container healthy; does a new version work, in which order does it start, does it keep the way to the broker |
//! | `accept` `hold` | which documents are taken, and what is answered; which wait, and when they go on |
//! | `record` `work` | pure decisions: what happens to the desired state on record, and which work follows for an app |
//! | `deploy` `order` | that work: from a document to running containers; who starts when |
//! | `clients` `children` `stages` | the command line's connections, streams to the network; the agent; images on their way in, and cleaning |
//! | `containers` `checks` `syslog` | one live container; its health checks; its output to the device's log |
//! | `store` `unsaved` `runtime` `adopt` | state on flash, and while it cannot be written; records on tmpfs; taking over after a crash |
//! | `report` `wire` `diag` | rows for people, payloads for the broker, the support bundle |

mod accept;
pub mod admission;
mod admit;
mod adopt;
mod checks;
mod children;
mod clients;
mod commands;
mod containers;
mod context;
mod deploy;
pub mod desired;
mod diag;
mod events;
pub mod guard;
mod health;
mod hold;
pub mod lifecycle;
mod order;
mod pace;
pub mod plan;
pub mod policy;
mod poll;
pub mod record;
mod report;
pub mod requests;
mod ring;
pub mod rollout;
pub mod runtime;
mod stages;
mod start;
pub mod store;
mod syslog;
pub mod trial;
mod trusted;
mod unsaved;
pub mod window;
mod wire;
pub mod work;

pub use start::main;

use crate::ipc::{FromAgent, Happening, LinkState, Origin, What};
use crate::keeper::admit::Refused;
use crate::keeper::children::Agent;
use crate::keeper::clients::{Client, Exec, Orphan, Streams};
use crate::keeper::commands::Obeyed;
use crate::keeper::containers::Live;
use crate::keeper::context::Context;
use crate::keeper::deploy::App;
use crate::keeper::desired::Entry;
use crate::keeper::lifecycle::Event;
use crate::keeper::poll::{Key, Ready, Source};
use crate::keeper::stages::Stage;
use crate::keeper::store::{Desired, Store};
use crate::keeper::trusted::Trusted;
use crate::keeper::unsaved::Unsaved;
use crate::manifest::{Id, Name};
use crate::protocol::Reason;
use crate::trust::Kind;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// Changes within this time become one `reported`.
const REPORT_DELAY: Duration = Duration::from_millis(250);
/// How often a child that ended in a hurry is looked after again.
const REAP_DELAY: Duration = Duration::from_millis(50);
/// How long the agent may take over its goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// Everything that keeper knows.
pub struct Keeper {
    ctx: Context,
    /// Where the program is on disk, for an upgrade.
    program: PathBuf,
    device: Id,
    store: Store,
    desired: Desired,
    trusted: Trusted,
    /// The desired state is not on flash yet.
    unsaved: Option<Unsaved>,
    apps: Vec<App>,
    stages: Vec<Stage>,
    next_stage: u64,
    /// The state on flash could not be read: nothing is removed from the store before documents came again.
    hold_back: bool,
    /// Programs exec'd in containers whose clients have left.
    orphans: Vec<Orphan>,
    /// The store is to be cleaned once no stage works in it.
    uncollected: bool,
    agent: Agent,
    clients: Vec<Client>,
    /// Output on its way to the network.
    streams: Streams,
    next_client: u64,
    listener: OwnedFd,
    signals: SignalFd,
    stats_due: Duration,
    /// Since when the link has been up.
    link_since: Option<Duration>,
    /// Statistics come more often until then.
    watched_until: Duration,
    /// When what waits for its hours is looked at again.
    window_due: Option<Duration>,
    /// Documents that the device had no room for.
    refused: Refused,
    /// What the running session of the link has asked.
    obeyed: Obeyed,
    report_due: Option<Duration>,
    /// Take over the program on disk at the end of this turn.
    upgrade: bool,
    leaving: Option<Leaving>,
}

/// On the way out.
struct Leaving {
    /// Containers go too (SIGINT), or stay for the next keeper (SIGTERM).
    containers: bool,
    /// When waiting for containers ends.
    deadline: Duration,
    /// When waiting for the agent ends.
    goodbye: Duration,
}

/// Why the loop ended.
enum End {
    /// All is done; containers stay if the flag says so.
    Exit { containers_stay: bool },
    /// Exec the program on disk.
    Upgrade,
}

impl Keeper {
    /// Time since boot.
    fn now(&self) -> Duration {
        crate::sys::time::boottime()
    }

    /// The entry of an app that is in force.
    fn winner(&self, app: &Name) -> Option<&Entry> {
        desired::winner(&self.desired.entries, &self.desired.beside.lifted, app, &self.ctx.settings.groups)
    }

    fn app(&self, name: &Name) -> Option<&App> {
        self.apps.iter().find(|a| a.name == *name)
    }

    fn live(&mut self, key: &Key) -> Option<&mut Live> {
        self.apps.iter_mut().flat_map(|a| a.live.iter_mut()).find(|l| l.key == *key)
    }

    fn app_mut(&mut self, name: &Name) -> Option<&mut App> {
        self.apps.iter_mut().find(|a| a.name == *name)
    }

    /// The app, made if it is not there.
    fn app_entry(&mut self, name: &Name) -> &mut App {
        let i = self.apps.iter().position(|a| a.name == *name).unwrap_or_else(|| {
            self.apps.push(App { name: name.clone(), live: Vec::new(), work: None });
            self.apps.len() - 1
        });
        &mut self.apps[i]
    }

    /// Does something with one container and carries its app on.
    fn with(&mut self, key: &Key, act: impl FnOnce(&mut Live, &mut Context, Duration)) {
        let now = self.now();
        let Self { ctx, apps, .. } = self;
        if let Some(live) = apps.iter_mut().flat_map(|a| a.live.iter_mut()).find(|l| l.key == *key) {
            act(live, ctx, now);
        }
        self.settle(&key.app);
    }

    /// The one event loop.
    fn run(&mut self) -> io::Result<End> {
        loop {
            for ready in self.ctx.poll.wait(self.timeout())? {
                if self.ctx.poll.knows(ready.token) {
                    self.dispatch(ready);
                }
            }
            self.on_time();
            self.mind_output(self.now());
            self.pump_all_events();
            self.pump_streams(self.now());
            if self.upgrade {
                // What they run has lost its reader then.
                self.end_streams(Reason::Connectivity, "keeper starts anew");
                return Ok(End::Upgrade);
            }
            if let Some(leaving) = &self.leaving
                && self.may_leave(leaving)
            {
                return Ok(End::Exit { containers_stay: !leaving.containers });
            }
        }
    }

    fn dispatch(&mut self, ready: Ready) {
        match ready.source {
            Source::Signals => self.on_signal(),
            Source::Listener => self.on_listener(),
            Source::Client(id) => self.on_client(id, ready.readable, ready.writable),
            Source::Agent => self.on_agent(),
            Source::AgentExit => self.on_agent_exit(),
            Source::Stage(id) => self.on_stage(id),
            Source::StageExit(id) => self.on_stage_exit(id),
            Source::Launch(key) => self.with(&key, |l, ctx, now| l.on_launch(ctx, now)),
            Source::LaunchExit(key) => self.with(&key, |l, ctx, now| l.on_launcher_exit(ctx, now)),
            Source::Pid1(key) => self.with(&key, |l, ctx, now| l.on_exit(ctx, now)),
            Source::Log(key) => self.on_output(&key),
            Source::Input(key) => self.on_input_room(&key),
            Source::Terminal(pid) => self.on_orphan_terminal(pid),
            Source::Exec(id) => self.on_exec(id),
            Source::ExecLaunchExit(id) => self.on_exec_launcher_exit(id),
            Source::ExecExit(id) => self.on_exec_exit(id),
            Source::Orphan(pid) => self.on_orphan_exit(pid),
            // It is read at the end of the turn, if the broker takes more.
            Source::Stream(_) => {}
            Source::Check(key) => self.with(&key, |l, ctx, now| l.on_check(ctx, now)),
            Source::CheckLaunchExit(key) => self.with(&key, |l, ctx, now| l.on_check_launcher_exit(ctx, now)),
            Source::CheckExit(key) => self.with(&key, |l, ctx, now| l.on_check_exit(ctx, now)),
        }
    }

    fn on_output(&mut self, key: &Key) {
        let now = self.now();
        let Self { ctx, apps, .. } = self;
        let live = apps.iter_mut().flat_map(|a| a.live.iter_mut()).find(|l| l.key == *key);
        if live.is_some_and(|l| l.on_output(ctx, now)) {
            self.pump_all_output();
        }
    }

    // ---- time ----

    fn timeout(&self) -> Option<Duration> {
        let live = self.apps.iter().flat_map(|a| &a.live).filter_map(Live::due);
        let paused = self.apps.iter().flat_map(|a| &a.live).filter_map(Live::resumes);
        let patience = self.clients.iter().filter_map(Client::patience_ends).filter(|end| *end > self.now());
        let orphans = self.orphans.iter().filter_map(Orphan::due);
        let work = self.apps.iter().filter_map(|a| a.work.as_ref()?.due());
        let reap = self.ctx.dead().next().is_some().then(|| self.now() + REAP_DELAY);
        let single = [
            Some(self.stats_due),
            self.report_due.or_else(|| self.ctx.dirty.then(|| self.now() + REPORT_DELAY)),
            self.agent.due.filter(|_| self.leaving.is_none()),
            self.stages.iter().map(|s| s.deadline).min(),
            self.streams.due(),
            self.unsaved.as_ref().map(|u| u.retry),
            self.window_due.filter(|_| self.leaving.is_none()),
            self.leaving.as_ref().map(|l| if self.now() < l.goodbye { l.goodbye } else { l.deadline }),
            reap,
        ];
        let next = live.chain(paused).chain(patience).chain(orphans).chain(work).chain(single.into_iter().flatten()).min()?;
        Some(next.saturating_sub(self.now()))
    }

    fn on_time(&mut self) {
        let now = self.now();
        self.ctx.reap();
        // Only once every launch that ended is waited for, so that it can clone no more, and while no other is about to name its child.
        if self.ctx.strays && self.ctx.dead().next().is_none() && !self.is_cloning() {
            self.ctx.strays = false;
            let known = self.children();
            adopt::wait_for_strays(&mut self.ctx, &known);
        }
        self.tick_containers(now);
        if self.agent.due.is_some_and(|due| now >= due) && self.leaving.is_none() {
            self.agent.start(&mut self.ctx, now);
        }
        self.kill_late_stages(now);
        self.end_orphans(now);
        self.tick_streams(now);
        self.save_if_due(now);
        if self.leaving.is_none() {
            self.open_windows(now);
        }
        if now >= self.stats_due {
            self.stats_due = now + self.stats_interval(now);
            self.publish_stats();
        }
        self.report_if_due(now);
    }

    fn tick_containers(&mut self, now: Duration) {
        let Self { ctx, apps, .. } = self;
        let mut touched = Vec::new();
        for app in apps.iter_mut() {
            let before = touched.len();
            for live in app.live.iter_mut().filter(|l| l.due().is_some_and(|due| now >= due)) {
                live.tick(ctx, now);
                touched.push(app.name.clone());
            }
            if touched.len() == before && app.work.as_ref().and_then(|w| w.due()).is_some_and(|due| now >= due) {
                touched.push(app.name.clone());
            }
        }
        touched.dedup();
        for name in touched {
            self.settle(&name);
        }
    }

    fn report_if_due(&mut self, now: Duration) {
        if self.ctx.dirty && self.report_due.is_none() {
            self.ctx.dirty = false;
            self.report_due = Some(now + REPORT_DELAY);
        }
        if self.report_due.is_some_and(|due| now >= due) {
            self.report_due = None;
            self.publish_reported();
        }
    }

    /// Some launch may have a child that it has not named yet.
    fn is_cloning(&self) -> bool {
        self.apps.iter().flat_map(|a| &a.live).any(Live::is_cloning) || self.execs().any(Exec::is_cloning)
    }

    /// Programs exec'd in containers, but those of a health check.
    fn execs(&self) -> impl Iterator<Item = &Exec> {
        self.clients.iter().filter_map(Client::exec).chain(self.streams.execs())
    }

    /// Every process that is ours to wait for.
    fn children(&self) -> Vec<i32> {
        let containers = self.apps.iter().flat_map(|a| &a.live).flat_map(Live::processes);
        let roles = self.agent.pid().into_iter().chain(self.stages.iter().map(Stage::pid));
        let orphans = self.orphans.iter().map(Orphan::pid);
        containers.chain(roles).chain(orphans).chain(self.ctx.dead()).chain(self.execs().flat_map(Exec::processes)).collect()
    }

    // ---- agent ----

    fn on_agent_message(&mut self, message: FromAgent) {
        if !requests::permitted(requests::of_agent(&message), requests::Asker::Agent, self.agent.is_greeted()) {
            log::error!("the agent sent what it may not, it is ended");
            return self.agent.kill();
        }
        match message {
            FromAgent::Hello { .. } => self.configure_agent(),
            FromAgent::Desired { origin, app, payload } => self.on_desired(&origin, &app, &payload),
            FromAgent::Command { id, retained, payload } => self.on_command(&id, retained, &payload),
            FromAgent::Oversize { origin, app, bytes } if self.is_ours(&origin) => self.on_oversize(&origin, &app, bytes),
            FromAgent::Oversize { .. } => {}
            FromAgent::Link(link) => self.on_link(link),
            FromAgent::Download { id, transfer } => self.on_download(id, transfer),
            FromAgent::Keyset { origin, payload } => self.on_keyset(&origin, &payload),
            FromAgent::Answers(gone) => self.agent.answered(gone),
        }
    }

    fn on_desired(&mut self, origin: &Origin, app: &Name, payload: &[u8]) {
        if !self.is_ours(origin) || payload.is_empty() {
            return log::warn!("a document for {app} came by a topic that is not ours, or empty: ignored");
        }
        let opened = match self.open_envelope(Kind::Desired, payload) {
            Ok(opened) => opened,
            Err(unopened) => return self.reject(origin, app, unopened),
        };
        if let Err(f) = self.submit(origin, Some(app), &opened.payload, opened.signers.as_deref()) {
            log::warn!("document for {app} refused: {}", f.message);
        }
    }

    /// The agent may speak for it. The command line's authority is not the network's to borrow.
    fn is_ours(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Device => true,
            Origin::Group(g) => self.ctx.settings.groups.contains(g),
            Origin::Local => false,
        }
    }

    fn on_link(&mut self, link: crate::ipc::Link) {
        let now = self.now();
        let known = &self.agent.link;
        if !children::follows(known.conn, link.conn) {
            log::error!("the agent says that connection {} follows {}, it is ended", link.conn, known.conn);
            return self.agent.kill();
        }
        if (link.state == LinkState::Online) != (known.state == LinkState::Online) {
            let up = link.state == LinkState::Online;
            let why = link.error.as_deref().filter(|_| !up).map_or(String::new(), |e| format!(": {e}"));
            let detail = if up { format!("up, {}", link.broker) } else { format!("down, {}{why}", link.broker) };
            self.ctx.happened(Happening::new(What::Link, detail));
        }
        self.link_since = self.link_since.or(Some(now)).filter(|_| link.state == LinkState::Online);
        let online = link.state == LinkState::Online && (known.state, known.conn) != (LinkState::Online, link.conn);
        if link.conn != known.conn || (known.state == LinkState::Online && link.state != LinkState::Online) {
            self.end_streams(Reason::Connectivity, "the device's link to the broker was lost");
        }
        if link.conn != self.agent.link.conn
            && let Err(e) = self.ctx.runtime.set_number("conn", link.conn)
        {
            log::warn!("cannot keep the connection count: {e}");
        }
        self.agent.link = link;
        if online {
            self.publish_reported();
            self.publish_get();
            self.tell_last();
        }
    }

    // ---- signals and the way out ----

    fn on_signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGTERM) => self.leave(false),
                Ok(Signal::SIGINT) => self.leave(true),
                Ok(Signal::SIGHUP) => self.prepare_upgrade(),
                // The recovery path must be walked before it is needed; only root can send this.
                Ok(Signal::SIGUSR2) => panic!("asked to by SIGUSR2"),
                _ => {}
            }
        }
    }

    /// SIGTERM is what a service manager sends at a restart: containers stay, the next keeper adopts them. SIGINT is a person's Ctrl-C: all goes.
    fn leave(&mut self, containers: bool) {
        let now = self.now();
        let patience = if containers { Duration::from_secs(60) } else { GOODBYE };
        let containers = containers || self.leaving.as_ref().is_some_and(|l| l.containers);
        self.leaving = Some(Leaving { containers, deadline: now + patience, goodbye: now + GOODBYE });
        self.end_streams(Reason::Connectivity, "keeper is shutting down");
        self.tell_last();
        self.agent.send(&self.ctx, &crate::ipc::ToAgent::Goodbye);
        if containers {
            let Self { ctx, apps, .. } = self;
            for live in apps.iter_mut().flat_map(|a| a.live.iter_mut()) {
                (live.next, live.doomed) = (None, true);
                live.event(ctx, Event::Stop, now);
            }
            let names: Vec<Name> = self.apps.iter().map(|a| a.name.clone()).collect();
            for name in names {
                if let Some(app) = self.app_mut(&name) {
                    app.work = None;
                }
                self.settle(&name);
            }
        }
    }

    fn may_leave(&self, leaving: &Leaving) -> bool {
        let now = self.now();
        // A launch that is about to end may still hold a FIFO, which keeps the runtime directory busy.
        let gone = !leaving.containers || (self.apps.iter().all(|a| a.live.is_empty()) && self.ctx.dead().next().is_none());
        // One that was only just started does not know yet whom to say goodbye to.
        (gone && (self.agent.pid().is_none() || now >= leaving.goodbye)) || now >= leaving.deadline
    }
}
