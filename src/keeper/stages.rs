//! The stages at work: each brings in one image, or cleans the store; and the downloads that the agent makes for them.
//!
//! Nothing is removed from the store while anything is looked up or brought in, so cleaning is alone. A slow download keeps nobody else from
//! an image that is on the device already, and there may be two of them.

use crate::config::Settings;
use crate::image::{Digest, Source as Place};
use crate::ipc::{Conn, DownloadJob, Failure, FromStage, Happening, StageJob, ToAgent, ToStage, Transfer, What, Wish};
use crate::keeper::Keeper;
use crate::keeper::deploy::App;
use crate::keeper::desired;
use crate::keeper::poll::{Key, Source, Token};
use crate::manifest::{Container, Image, Name};
use crate::protocol::Reason;
use crate::sys::fd::set_nonblocking;
use crate::sys::process::Child;
use crate::sys::signal::pidfd_send;
use nix::libc;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Beyond stage's own timeout, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// Stages with a download at a time: each has a TLS session and a decompressor.
const DOWNLOADS: usize = 2;
/// Stages that read files of the device at a time.
const LOCAL: usize = 1;
/// How often a download is begun anew because the agent ended, before its deployment fails.
const MAX_LOST: u32 = 5;

/// Stage at work.
pub struct Stage {
    /// Names it to the agent and in the event loop.
    id: u64,
    purpose: Purpose,
    child: Child,
    exit: Token,
    conn: Conn,
    token: Token,
    /// When it is killed.
    pub deadline: Duration,
    result: Option<Result<Digest, Failure>>,
    download: Download,
    /// Why nothing has come since the last connection ended.
    trouble: Option<String>,
}

enum Purpose {
    /// Bring in the image of this app's container.
    Bring { app: Name, container: Name, image: Box<Image> },
    /// Remove what nobody needs.
    Clean,
}

/// What stage has asked the network for.
enum Download {
    /// Nothing.
    None,
    /// The agent does not run, or does not know its settings yet.
    Waiting(Wish, OwnedFd),
    /// The agent is at it; the server says that there are so many bytes.
    Running(Option<u64>),
}

impl Stage {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    fn kill(&self) {
        let _ = pidfd_send(&self.child.pidfd, libc::SIGKILL);
    }

    fn is_for(&self, app: &Name) -> bool {
        matches!(&self.purpose, Purpose::Bring { app: a, .. } if a == app)
    }
}

fn is_download(image: &Image) -> bool {
    matches!(image.reference.source, Place::Http { .. })
}

fn job(image: &Image, network: bool, settings: &Settings) -> StageJob {
    let limits = &settings.limits;
    StageJob {
        reference: image.reference.clone(),
        digest: image.digest,
        size: image.size,
        data: settings.data_dir.clone(),
        max_bytes: image.unpacked.map_or(limits.max_image_bytes, |n| n.min(limits.max_image_bytes)),
        max_inodes: limits.max_image_inodes,
        timeout_s: limits.fetch_timeout_s,
        hash_uid: settings.users.hash,
        allowed: network.then(|| settings.import_dirs.clone()),
    }
}

impl Keeper {
    /// May this image be brought in now? Not while the store is cleaned, its app or the same image is at it, or enough others are.
    pub fn may_stage(&self, app: &Name, image: &Image) -> bool {
        let at_work = || {
            self.stages.iter().filter_map(|s| match &s.purpose {
                Purpose::Bring { image, .. } => Some(image),
                Purpose::Clean => None,
            })
        };
        let like = at_work().filter(|i| is_download(i) == is_download(image)).count();
        !self.is_collecting()
            && !self.stages.iter().any(|s| s.is_for(app))
            && !at_work().any(|i| i.digest.is_some() && i.digest == image.digest)
            && like < if is_download(image) { DOWNLOADS } else { LOCAL }
    }

    /// Starts bringing in the image of one container; `network`: its document came from there.
    pub fn start_stage(&mut self, app: &Name, container: &Container, network: bool) -> io::Result<()> {
        let job = ToStage::Pull(job(&container.image, network, &self.ctx.settings));
        let image = Box::new(container.image.clone());
        self.spawn_stage(&job, Purpose::Bring { app: app.clone(), container: container.name.clone(), image })
    }

    fn spawn_stage(&mut self, job: &ToStage, purpose: Purpose) -> io::Result<()> {
        let (conn, theirs) = Conn::pair()?;
        // Into the socket before there is a child to lose: it is empty and takes one frame.
        conn.send(job)?;
        set_nonblocking(conn.as_fd())?;
        let id = self.next_stage;
        self.next_stage += 1;
        let child = self.ctx.spawn("stage", &[theirs.as_fd()])?;
        let exit = self.ctx.poll.add(&child.pidfd, Source::StageExit(id))?;
        let token = self.ctx.poll.add(&conn, Source::Stage(id))?;
        let deadline = self.now() + Duration::from_secs(self.ctx.settings.limits.fetch_timeout_s.into()) + GRACE;
        self.stages.push(Stage { id, purpose, child, exit, conn, token, deadline, result: None, download: Download::None, trouble: None });
        Ok(())
    }

    /// What nobody needs is being removed.
    pub fn is_collecting(&self) -> bool {
        self.stages.iter().any(|s| matches!(s.purpose, Purpose::Clean))
    }

    /// A stage's socket is ready.
    pub fn on_stage(&mut self, id: u64) {
        loop {
            let Some(stage) = self.stages.iter_mut().find(|s| s.id == id) else { return };
            match stage.conn.recv_with::<FromStage>() {
                Ok(Some((FromStage::Progress(mut progress), _))) => {
                    stage.trouble = None;
                    if let Download::Running(total) = stage.download {
                        progress.total = progress.total.or(total);
                    }
                    if let Purpose::Bring { app, .. } = &stage.purpose {
                        let app = app.clone();
                        self.fetching(&app, Ok(progress));
                    }
                }
                Ok(Some((FromStage::Ready(record), _))) => stage.result = Some(Ok(record.digest)),
                Ok(Some((FromStage::Failed(failure), _))) => stage.result = Some(Err(failure)),
                Ok(Some((FromStage::Wish(wish), mut fds))) => {
                    if let Some(pipe) = fds.pop() {
                        stage.download = Download::Waiting(wish, pipe);
                    }
                    self.start_downloads();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // End of file, or garbage: its exit is dealt with next. Until then its socket would be ready all the time.
                Ok(None) | Err(_) => {
                    stage.kill();
                    return self.ctx.poll.remove(&stage.conn, stage.token);
                }
            }
        }
    }

    /// A stage ended: what it said last is the answer.
    pub fn on_stage_exit(&mut self, id: u64) {
        self.on_stage(id);
        let Some(stage) = self.take_stage(id) else { return };
        let died = || Failure { reason: Reason::Internal, message: "stage ended without an answer (killed for memory?)".into() };
        let result = stage.result.unwrap_or_else(|| Err(died()));
        self.ctx.reap_later(stage.child);
        if let Purpose::Bring { app, container, .. } = &stage.purpose {
            let detail = result.as_ref().map_or_else(|f| f.message.clone(), |digest| format!("{digest} is there"));
            self.ctx.happened_to(&Key { app: app.clone(), container: container.clone() }, What::Image, None, detail);
            self.staged(app, container, result);
        }
        // What was removed may have made room.
        self.store.set_aside();
        // Another app may have waited for its turn.
        self.settle_all();
        self.collect_if_free();
    }

    /// Ends the stages that have taken too long, although each watches the clock itself.
    pub fn kill_late_stages(&mut self, now: Duration) {
        for stage in self.stages.iter_mut().filter(|s| now >= s.deadline) {
            stage.result = Some(Err(Failure { reason: Reason::Timeout, message: "bringing in the image took too long".into() }));
            stage.kill();
            stage.deadline += GRACE;
        }
    }

    /// The work it was for is no longer wanted.
    pub fn stop_stage_of(&mut self, app: &Name) {
        if let Some(id) = self.stages.iter().find(|s| s.is_for(app)).map(|s| s.id)
            && let Some(stage) = self.take_stage(id)
        {
            stage.kill();
            self.ctx.reap_later(stage.child);
        }
    }

    fn take_stage(&mut self, id: u64) -> Option<Stage> {
        let at = self.stages.iter().position(|s| s.id == id)?;
        let stage = self.stages.swap_remove(at);
        self.ctx.poll.remove(&stage.child.pidfd, stage.exit);
        self.ctx.poll.remove(&stage.conn, stage.token);
        if matches!(stage.download, Download::Running(_)) {
            self.agent.send(&self.ctx, &ToAgent::Abandon(id));
        }
        Some(stage)
    }

    // ---- downloads ----

    /// Hands the agent what waits for it.
    pub fn start_downloads(&mut self) {
        if !self.agent.is_configured() {
            return;
        }
        let now = self.now();
        for stage in &mut self.stages {
            if let Download::Waiting(wish, pipe) = std::mem::replace(&mut stage.download, Download::None) {
                // The agent gives up a little before stage does: it knows why nothing came.
                let left = stage.deadline.saturating_sub(now + GRACE);
                let timeout_s = (left.as_secs() as u32).saturating_sub(2).max(1);
                let job = DownloadJob { id: stage.id, wish, timeout_s };
                self.agent.send_with(&self.ctx, &ToAgent::Download(job), Some(pipe));
                stage.download = Download::Running(None);
            }
        }
    }

    /// The agent tells how a download goes. It can lie: what came through the pipe is judged by its digest alone.
    pub fn on_download(&mut self, id: u64, transfer: Transfer) {
        let Some(stage) = self.stages.iter_mut().find(|s| s.id == id && matches!(s.download, Download::Running(_))) else { return };
        let end = match transfer {
            Transfer::Total(bytes) => return stage.download = Download::Running(Some(bytes)),
            Transfer::Again(sentence) => {
                let sentence = format!("{sentence}; it is tried again");
                log::warn!("{sentence}");
                stage.trouble = Some(sentence.clone());
                self.ctx.happened(Happening::new(What::Image, sentence.clone()));
                return self.fetch_waits(id, sentence);
            }
            Transfer::Done(bytes) => Ok(bytes),
            Transfer::Failed(message) => Err(Failure { reason: Reason::Fetch, message }),
        };
        stage.download = Download::None;
        if let Err(e) = stage.conn.send(&ToStage::Downloaded(end)) {
            log::warn!("cannot tell stage how its download ended: {e}");
            stage.kill();
        }
    }

    fn fetch_waits(&mut self, id: u64, sentence: String) {
        let app = self.stages.iter().find(|s| s.id == id).and_then(|s| match &s.purpose {
            Purpose::Bring { app, .. } => Some(app.clone()),
            Purpose::Clean => None,
        });
        if let Some(app) = app {
            self.fetching(&app, Err(sentence));
        }
    }

    /// Why the image of an app is not coming in right now, for people.
    pub fn waits(&self, app: &Name) -> Option<String> {
        match self.stages.iter().find(|s| s.is_for(app)) {
            None if !self.wants_image(app) => None,
            None if self.is_collecting() => Some("the image store is being cleaned".into()),
            None => Some("other images are brought in first".into()),
            Some(Stage { download: Download::Waiting(..), .. }) => Some("the agent, which downloads, is not ready".into()),
            Some(stage) => stage.trouble.clone(),
        }
    }

    /// The agent ended in the midst of downloads: nobody knows how much of them is in the pipes. They are begun anew.
    pub fn lose_downloads(&mut self) {
        let lost: Vec<u64> = self.stages.iter().filter(|s| matches!(s.download, Download::Running(_))).map(|s| s.id).collect();
        for id in lost {
            let Some(stage) = self.take_stage(id) else { continue };
            stage.kill();
            self.ctx.reap_later(stage.child);
            let Purpose::Bring { app, container, .. } = stage.purpose else { continue };
            if self.lost_a_download(&app) > MAX_LOST {
                let message = format!("the agent ended {MAX_LOST} times while it downloaded the image");
                self.staged(&app, &container, Err(Failure { reason: Reason::Fetch, message }));
            }
            self.settle(&app);
        }
    }

    // ---- cleaning ----

    /// Has what no document names any more removed from the store, by a stage of its own: deleting a thousand files on slow flash takes a while.
    pub fn collect(&mut self) {
        self.uncollected = true;
        self.collect_if_free();
    }

    fn collect_if_free(&mut self) {
        if !self.uncollected || !self.stages.is_empty() || self.unsaved.is_some() {
            return;
        }
        self.uncollected = false;
        let recorded = self.desired.entries.iter().flat_map(|e| std::iter::once(&e.newest).chain(e.kept.as_ref()));
        let versions = recorded.chain(self.apps.iter().filter_map(App::version_in_work)).filter(|v| !v.removal);
        // A removal that waits is read once more, when it goes on.
        let waiting = self.desired.entries.iter().filter(|e| desired::waits(e)).map(|e| e.newest.sha256);
        let (mut images, mut manifests) = (Vec::new(), waiting.collect::<Vec<_>>());
        for version in versions {
            images.extend(version.images.iter().map(|(_, d)| *d));
            manifests.push(version.sha256);
        }
        images.extend(self.apps.iter().flat_map(|a| &a.live).map(|l| l.ready.digest));
        if let Err(e) = self.store.forget_manifests(&manifests) {
            log::warn!("cannot remove old documents: {e}");
        }
        if let Err(e) = self.spawn_stage(&ToStage::Collect { data: self.ctx.settings.data_dir.clone(), keep: images }, Purpose::Clean) {
            log::warn!("cannot clean the image store: {e}");
        }
    }
}
