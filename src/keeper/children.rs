//! Keeper's own children: the agent, and stage while an image is brought in. Spawned, watched, never waited for.

use crate::config::{self, Tls};
use crate::image::Digest;
use crate::ipc;
use crate::ipc::{
    AgentSettings, Conn, Failure, FromAgent, FromStage, Happening, Link, LinkState, StageJob, ToAgent, ToStage, What, encode,
};
use crate::keeper::Keeper;
use crate::keeper::context::Context;
use crate::keeper::deploy::App;
use crate::keeper::poll::{Key, Source, Token};
use crate::manifest::{Container, Name};
use crate::protocol::Reason;
use crate::sys::fd::set_nonblocking;
use crate::sys::process::Child;
use crate::sys::signal::pidfd_send;
use nix::libc;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// The certificates that the system trusts (Debian, OpenWrt's ca-bundle, Yocto).
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Frames that may wait for the agent. An agent that takes none for so long is hung: it is ended and started anew.
const AGENT_QUEUE: usize = 256;
/// First delay before the agent is started again; doubles up to [`AGENT_MAX_DELAY`].
const AGENT_DELAY: Duration = Duration::from_millis(500);
const AGENT_MAX_DELAY: Duration = Duration::from_secs(60);
/// An agent that lived this long was not crashing.
const AGENT_STABLE: Duration = Duration::from_secs(60);
/// Beyond stage's own timeout, before it is killed.
const STAGE_GRACE: Duration = Duration::from_secs(10);

/// The agent, running or to be started.
#[derive(Default)]
pub struct Agent {
    running: Option<Running>,
    queue: VecDeque<Vec<u8>>,
    /// Times it was started again.
    pub restarts: u32,
    streak: u32,
    /// When to start it.
    pub due: Option<Duration>,
    /// What it said last of its link.
    pub link: Link,
}

struct Running {
    child: Child,
    exit: Token,
    conn: Conn,
    token: Token,
    since: Duration,
    greeted: bool,
    configured: bool,
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> Option<i32> {
        self.running.as_ref().map(|r| r.child.pid)
    }

    /// Starts it.
    pub fn start(&mut self, ctx: &mut Context, now: Duration) {
        self.due = None;
        if let Err(e) = self.try_start(ctx, now) {
            log::error!("cannot start the agent: {e}");
            self.again(now);
        }
    }

    fn try_start(&mut self, ctx: &mut Context, now: Duration) -> io::Result<()> {
        let (conn, theirs) = Conn::pair()?;
        set_nonblocking(conn.as_fd())?;
        let child = ctx.spawn("agent", &[theirs.as_fd()])?;
        let exit = ctx.poll.add(&child.pidfd, Source::AgentExit)?;
        let token = ctx.poll.add(&conn, Source::Agent)?;
        self.running = Some(Running { child, exit, conn, token, since: now, greeted: false, configured: false });
        Ok(())
    }

    fn again(&mut self, now: Duration) {
        let delay = AGENT_DELAY.saturating_mul(1 << self.streak.min(10)).min(AGENT_MAX_DELAY);
        self.streak += 1;
        self.restarts += 1;
        self.due = Some(now + delay);
    }

    /// It ended, or was ended.
    pub fn on_exit(&mut self, ctx: &mut Context, now: Duration) {
        let Some(running) = self.running.take() else { return };
        ctx.poll.remove(&running.child.pidfd, running.exit);
        ctx.poll.remove(&running.conn, running.token);
        if now.saturating_sub(running.since) >= AGENT_STABLE {
            self.streak = 0;
        }
        log::warn!("the agent (pid {}) ended", running.child.pid);
        ctx.happened(Happening::new(What::Agent, format!("pid {} ended", running.child.pid)));
        ctx.reap_later(running.child);
        self.queue.clear();
        self.link = Link { state: LinkState::Down, conn: self.link.conn, error: self.link.error.take(), ..Link::default() };
        self.again(now);
    }

    /// Ends it for good or ill; its exit brings a new one.
    pub fn kill(&self) {
        if let Some(running) = &self.running {
            let _ = pidfd_send(&running.child.pidfd, libc::SIGKILL);
        }
    }

    /// It has said hello.
    pub fn is_greeted(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.greeted)
    }

    /// Queues one message. Never waits.
    pub fn send(&mut self, ctx: &Context, message: &ToAgent) {
        if !self.running.as_ref().is_some_and(|r| r.configured) {
            return;
        }
        match encode(message) {
            Ok(frame) => self.queue.push_back(frame),
            Err(e) => log::error!("cannot send to the agent: {e}"),
        }
        self.flush(ctx);
        if self.queue.len() > AGENT_QUEUE {
            log::error!("the agent takes no messages, it is started again");
            self.queue.clear();
            self.kill();
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self, ctx: &Context) {
        let Some(running) = &self.running else { return };
        while let Some(frame) = self.queue.front() {
            match crate::sys::socket::send(&running.conn, frame, &[]) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // It is gone; its pidfd says so next.
                Err(_) => return self.queue.clear(),
            }
        }
        let _ = ctx.poll.interest(&running.conn, running.token, true, !self.queue.is_empty());
    }

    /// One message of it, if there is one. A garbled one ends it: this is the process that talks to strangers.
    pub fn receive(&mut self) -> Option<FromAgent> {
        let running = self.running.as_ref()?;
        match running.conn.recv::<FromAgent>() {
            Ok(Some(message)) => Some(message),
            // It has closed its socket: whatever it still does, it is no use to anybody.
            Ok(None) => {
                self.kill();
                None
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => {
                log::error!("the agent sent garbage ({e}), it is ended");
                self.kill();
                None
            }
        }
    }

    /// Answers its hello. Certificates and keys are read by root here and go over as open files: the agent's user cannot open them.
    fn configure(&mut self, ctx: &Context, device: &crate::manifest::Id) -> io::Result<()> {
        if let Some(running) = &mut self.running {
            running.greeted = true;
        }
        let settings = &ctx.settings;
        let mut files: Vec<File> = Vec::new();
        let brokers = settings.brokers.iter().map(|b| broker(b, &mut files)).collect::<io::Result<Vec<_>>>()?;
        let message = ToAgent::Configure(AgentSettings {
            device: device.clone(),
            root: settings.root.clone(),
            groups: settings.groups.clone(),
            brokers,
            boot: ctx.boot,
            conn: self.link.conn.max(ctx.runtime.number("conn").unwrap_or(0)),
            interval_s: settings.interval_s,
            uid: Some(settings.users.agent),
        });
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let Some(running) = &mut self.running else { return Ok(()) };
        running.conn.send_with(&message, &fds)?;
        running.configured = true;
        Ok(())
    }
}

/// A broker as the agent gets it, with its files opened in the order that the contract says: CA, certificate, key.
fn broker(b: &config::Broker, files: &mut Vec<File>) -> io::Result<ipc::Broker> {
    let (tls, ca, client) = match &b.tls {
        Tls::Off => (false, None, None),
        // A device without a CA file of its own trusts what the system trusts, if it has such a file.
        Tls::On { ca, client } => {
            (true, ca.clone().or_else(|| Path::new(SYSTEM_CA).exists().then(|| SYSTEM_CA.to_owned())), client.clone())
        }
    };
    let (has_ca, has_client) = (ca.is_some(), client.is_some());
    let (certificate, key) = client.unzip();
    for path in [ca, certificate, key].into_iter().flatten() {
        files.push(File::open(&path).map_err(|e| io::Error::new(e.kind(), format!("cannot open {path}: {e}")))?);
    }
    Ok(ipc::Broker {
        host: b.host.clone(),
        port: b.port,
        tls,
        credentials: b.username.clone().map(|u| (u, b.password.clone().unwrap_or_default())),
        ca: has_ca,
        client_certificate: has_client,
        keep_alive_s: b.keep_alive_s,
    })
}

/// Stage at work: one at a time, so that nothing is removed from the store while something is looked up or brought in.
pub struct Stage {
    /// The app and container whose image it brings in; `None` while it removes what nobody needs.
    of: Option<(Name, Name)>,
    child: Child,
    exit: Token,
    conn: Conn,
    token: Token,
    /// When it is killed.
    pub deadline: Duration,
    result: Option<Result<Digest, Failure>>,
}

impl Stage {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }
}

impl Keeper {
    /// The agent's socket is ready.
    pub fn on_agent(&mut self) {
        // A bounded number in one turn: a flood from the network must not keep keeper from its containers.
        for _ in 0..16 {
            let Some(message) = self.agent.receive() else { break };
            self.on_agent_message(message);
        }
        self.agent.flush(&self.ctx);
    }

    /// Answers the agent's first message.
    pub fn configure_agent(&mut self) {
        if let Err(e) = self.agent.configure(&self.ctx, &self.device) {
            log::error!("cannot configure the agent: {e}");
            self.agent.link.error = Some(e.to_string());
            // It is tried again, ever later: the file may come.
            self.agent.kill();
        }
    }

    /// Starts bringing in the image of one container; `network`: its document came from there.
    pub fn start_stage(&mut self, app: &Name, container: &Container, network: bool) -> io::Result<()> {
        let limits = &self.ctx.settings.limits;
        let job = ToStage::Pull(StageJob {
            reference: container.image.reference.clone(),
            digest: container.image.digest,
            data: self.ctx.settings.data_dir.clone(),
            max_bytes: container.image.unpacked.map_or(limits.max_image_bytes, |n| n.min(limits.max_image_bytes)),
            max_inodes: limits.max_image_inodes,
            timeout_s: limits.fetch_timeout_s,
            hash_uid: self.ctx.settings.users.hash,
            allowed: network.then(|| self.ctx.settings.import_dirs.clone()),
        });
        self.spawn_stage(&job, Some((app.clone(), container.name.clone())))
    }

    fn spawn_stage(&mut self, job: &ToStage, of: Option<(Name, Name)>) -> io::Result<()> {
        let (conn, theirs) = Conn::pair()?;
        // Into the socket before there is a child to lose: it is empty and takes one frame.
        conn.send(job)?;
        set_nonblocking(conn.as_fd())?;
        let child = self.ctx.spawn("stage", &[theirs.as_fd()])?;
        let exit = self.ctx.poll.add(&child.pidfd, Source::StageExit)?;
        let token = self.ctx.poll.add(&conn, Source::Stage)?;
        let deadline = self.now() + Duration::from_secs(self.ctx.settings.limits.fetch_timeout_s.into()) + STAGE_GRACE;
        self.stage = Some(Stage { of, child, exit, conn, token, deadline, result: None });
        Ok(())
    }

    /// What nobody needs is being removed.
    pub fn is_collecting(&self) -> bool {
        self.stage.as_ref().is_some_and(|s| s.of.is_none())
    }

    /// Stage's socket is ready.
    pub fn on_stage(&mut self) {
        loop {
            let Some(stage) = &mut self.stage else { return };
            match stage.conn.recv::<FromStage>() {
                Ok(Some(FromStage::Progress(progress))) => {
                    if let Some((app, _)) = stage.of.clone() {
                        self.fetching(&app, progress);
                    }
                }
                Ok(Some(FromStage::Ready(record))) => stage.result = Some(Ok(record.digest)),
                Ok(Some(FromStage::Failed(failure))) => stage.result = Some(Err(failure)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // End of file, or garbage: its exit is dealt with next.
                Ok(None) | Err(_) => {
                    let _ = pidfd_send(&stage.child.pidfd, libc::SIGKILL);
                    return;
                }
            }
        }
    }

    /// Stage ended: what it said last is the answer.
    pub fn on_stage_exit(&mut self) {
        self.on_stage();
        let Some(stage) = self.take_stage() else { return };
        let died = || Failure { reason: Reason::Internal, message: "stage ended without an answer (killed for memory?)".into() };
        let result = stage.result.unwrap_or_else(|| Err(died()));
        self.ctx.reap_later(stage.child);
        if let Some((app, container)) = &stage.of {
            let detail = result.as_ref().map_or_else(|f| f.message.clone(), |digest| format!("{digest} is there"));
            self.ctx.happened_to(&Key { app: app.clone(), container: container.clone() }, What::Image, None, detail);
            self.staged(app, container, result);
        }
        // What was removed may have made room.
        self.store.set_aside();
        // Another app may have waited for its turn.
        self.settle_all();
        if std::mem::take(&mut self.uncollected) {
            self.collect();
        }
    }

    /// Stage has taken too long, although it watches the clock itself.
    pub fn kill_stage(&mut self) {
        if let Some(stage) = &mut self.stage {
            stage.result = Some(Err(Failure { reason: Reason::Timeout, message: "bringing in the image took too long".into() }));
            let _ = pidfd_send(&stage.child.pidfd, libc::SIGKILL);
            stage.deadline += STAGE_GRACE;
        }
    }

    /// The work it was for is no longer wanted.
    pub fn stop_stage_of(&mut self, app: &Name) {
        if self.stage.as_ref().and_then(|s| s.of.as_ref()).is_some_and(|(a, _)| a == app)
            && let Some(stage) = self.take_stage()
        {
            let _ = pidfd_send(&stage.child.pidfd, libc::SIGKILL);
            self.ctx.reap_later(stage.child);
        }
    }

    fn take_stage(&mut self) -> Option<Stage> {
        let stage = self.stage.take()?;
        self.ctx.poll.remove(&stage.child.pidfd, stage.exit);
        self.ctx.poll.remove(&stage.conn, stage.token);
        Some(stage)
    }

    /// Has what no document names any more removed from the store, by a stage of its own: deleting a thousand files on slow flash takes a while.
    pub fn collect(&mut self) {
        if self.unsaved.is_some() {
            return;
        }
        let recorded = self.desired.entries.iter().flat_map(|e| std::iter::once(&e.newest).chain(e.kept.as_ref()));
        let versions = recorded.chain(self.apps.iter().filter_map(App::version_in_work)).filter(|v| !v.removal);
        let (mut images, mut manifests) = (Vec::new(), Vec::new());
        for version in versions {
            images.extend(version.images.iter().map(|(_, d)| *d));
            manifests.push(version.sha256);
        }
        images.extend(self.apps.iter().flat_map(|a| &a.live).map(|l| l.ready.digest));
        if let Err(e) = self.store.forget_manifests(&manifests) {
            log::warn!("cannot remove old documents: {e}");
        }
        if self.stage.is_some() {
            self.uncollected = true;
            return;
        }
        if let Err(e) = self.spawn_stage(&ToStage::Collect { data: self.ctx.settings.data_dir.clone(), keep: images }, None) {
            log::warn!("cannot clean the image store: {e}");
        }
    }
}
