//! One live container: its start, its output, its end. Decides nothing: [`Life`] does.

use crate::cgroup::Group;
use crate::container::console::Frame;
use crate::container::{Wiring, rlimits};
use crate::image::Digest;
use crate::ipc::{Conn, ContainerRow, Failure, FromLaunch, ToLaunch, What};
use crate::keeper::checks::Checkup;
use crate::keeper::context::Context;
use crate::keeper::lifecycle::{Action, Event, Life};
use crate::keeper::pace::{self, Pace};
use crate::keeper::plan::Ready;
use crate::keeper::poll::{Key, Source, Token};
use crate::keeper::ring::Ring;
use crate::keeper::runtime::{Phase, Record, start_time};
use crate::keeper::syslog::Lines;
use crate::manifest::units::show_millis;
use crate::protocol::{ContainerState, Reason};
use crate::sys::process::{self, Child, Ended};
use crate::sys::signal::pidfd_send;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A start that takes longer is given up: launch hangs on a mount, say.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(60);
/// How soon a cgroup that still holds dying tasks is tried again.
const CLEAN_RETRY: Duration = Duration::from_millis(10);
/// Most bytes of output taken in one turn of the loop: one loud container must not starve the others.
const LOG_TURN: usize = 16 * 1024;

/// A start under way.
struct Launching {
    conn: Conn,
    token: Token,
    launcher: Option<(Child, Token)>,
    deadline: Duration,
}

/// Pid 1, ours to wait for or adopted.
struct Process {
    pid: i32,
    pidfd: OwnedFd,
    token: Token,
}

struct Output {
    fifo: File,
    token: Token,
    reading: bool,
}

/// The FIFO from which its pid 1 takes input.
struct Input {
    fifo: File,
    token: Token,
    /// The end of input waits for room.
    ending: bool,
}

/// One container that keeper knows of.
pub struct Live {
    /// Which.
    pub key: Key,
    /// How it is (to be) run.
    pub ready: Ready,
    /// The document it comes from.
    pub manifest: Digest,
    /// What it becomes once it has stopped.
    pub next: Option<Ready>,
    /// It goes once it has stopped.
    pub doomed: bool,
    /// Where it is.
    pub life: Life,
    /// Its last output.
    pub ring: Ring,
    /// Why its last start failed.
    pub failure: Option<Failure>,
    /// Its payload was exec'd at least once since the document came.
    pub begun: bool,
    /// It is to be started as soon as those that it waits for let it.
    pub wanted: bool,
    /// Its health.
    pub checkup: Checkup,
    /// It ended by itself while no keeper was there to see it, and by its restart policy for good.
    pub finished: bool,
    missing: Vec<(String, String)>,
    group: String,
    launching: Option<Launching>,
    process: Option<Process>,
    output: Option<Output>,
    input: Option<Input>,
    /// How fast its output comes.
    pace: Pace,
    /// Its output for the device's log.
    lines: Lines,
    /// When its output is looked at again.
    resume: Option<Duration>,
    /// Pid 1 of its last run, and where its output ended.
    last_run: Option<(i32, u64)>,
    /// Its cgroup of the last run may still be there.
    unclean: bool,
    /// A launch waits for the cgroup to go.
    relaunch: Option<Duration>,
    /// Processes of this run that the kernel killed for lack of memory, as far as told.
    oom_kills: u64,
}

impl Live {
    /// A container that has never run.
    pub fn new(ctx: &Context, key: Key, ready: Ready, manifest: Digest) -> Self {
        let group = ctx.group_path(&key);
        Self {
            ring: Ring::new(ready.log.clone()),
            key,
            ready,
            manifest,
            next: None,
            doomed: false,
            life: Life::default(),
            failure: None,
            begun: false,
            wanted: false,
            checkup: Checkup::default(),
            finished: false,
            missing: Vec::new(),
            group,
            launching: None,
            process: None,
            output: None,
            input: None,
            pace: Pace::default(),
            lines: Lines::default(),
            resume: None,
            last_run: None,
            unclean: true,
            relaunch: None,
            oom_kills: 0,
        }
    }

    /// A container found on record, with the pidfd of its pid 1 if that still runs.
    pub fn adopt(ctx: &mut Context, key: Key, record: Record, pidfd: Option<(i32, OwnedFd)>) -> io::Result<Self> {
        let mut live = Self::new(ctx, key.clone(), record.ready, record.manifest);
        (live.life, live.group, live.missing) = (record.life, record.group, record.missing);
        if let Some((pid, pidfd)) = pidfd {
            let token = ctx.poll.add(&pidfd, Source::Pid1(key))?;
            live.process = Some(Process { pid, pidfd, token });
            let fifo = open_fifo(&ctx.runtime.dir(&live.key).join("log"))?;
            live.listen(ctx, fifo)?;
            if live.ready.spec.has_console() {
                let fifo = open_fifo(&ctx.runtime.dir(&live.key).join("input"))?;
                live.open_input(ctx, fifo)?;
            }
        }
        Ok(live)
    }

    /// Process id of its pid 1, if it has one.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|p| p.pid)
    }

    /// Its processes that are ours to wait for.
    pub fn processes(&self) -> impl Iterator<Item = i32> {
        let launcher = self.launching.as_ref().and_then(|l| l.launcher.as_ref()).map(|(child, _)| child.pid);
        let [check, its] = self.checkup.processes();
        [self.pid(), launcher, check, its].into_iter().flatten()
    }

    /// Its launch may have a child that it has not named yet.
    pub fn is_cloning(&self) -> bool {
        self.waits_for_name() || self.checkup.is_cloning()
    }

    fn waits_for_name(&self) -> bool {
        self.launching.is_some() && self.process.is_none()
    }

    /// Its pid 1 has not been waited for, so that its number is still its own.
    pub fn is_there(&self) -> io::Result<()> {
        let process = self.process.as_ref().ok_or(io::ErrorKind::NotFound)?;
        pidfd_send(&process.pidfd, 0)
    }

    /// Its control group.
    pub fn group(&self, ctx: &Context) -> Group {
        ctx.layout.group(&self.group)
    }

    /// Its path below the hierarchies.
    pub fn group_path(&self) -> &str {
        &self.group
    }

    /// It neither runs nor will, and nothing of it is left.
    pub fn is_gone(&self) -> bool {
        self.life.is_over() && self.process.is_none() && self.launching.is_none() && !self.unclean
    }

    /// When [`Live::tick`] is wanted.
    pub fn due(&self) -> Option<Duration> {
        let launch = self.launching.as_ref().map(|l| l.deadline);
        [self.life.due(), self.relaunch, launch, self.checkup.due()].into_iter().flatten().min()
    }

    /// Something happened: the table decides, this does it.
    pub fn event(&mut self, ctx: &mut Context, event: Event, now: Duration) {
        let before = self.life.state;
        if matches!(event, Event::Start | Event::Stop) {
            self.wanted = false;
        }
        match self.life.step(event, &self.ready.rules, now) {
            Some(Action::Launch) => self.launch(ctx, now),
            Some(Action::Signal) => self.signal(),
            Some(Action::Kill) => self.kill(ctx),
            None => {}
        }
        if self.life.state == ContainerState::Stopping && self.process.is_none() && self.launching.is_none() {
            // It waited for its start, or for its old group to go: there is nobody whose end would come as an event.
            self.relaunch = None;
            return self.event(ctx, Event::StartFailed { retry: false }, now);
        }
        self.tell(ctx, event, before, now);
        if before != self.life.state {
            ctx.dirty = true;
            self.begun |= self.life.state == ContainerState::Running;
            self.watch_health(ctx, now);
            self.record(ctx);
        }
    }

    /// What of it is worth an event.
    fn tell(&self, ctx: &mut Context, event: Event, before: ContainerState, now: Duration) {
        if let Event::Ended(how) = event {
            ctx.happened_to(&self.key, What::Exited, how, how.map_or_else(|| "nobody saw how".to_owned(), |h| h.to_string()));
        }
        let why = self.failure.as_ref().map_or_else(String::new, |f| f.message.clone());
        let (what, detail) = match self.life.state {
            now if now == before => return,
            ContainerState::Running => (What::Started, self.pid().map_or_else(String::new, |pid| format!("pid {pid}"))),
            ContainerState::Stopping => (What::Stopping, String::new()),
            ContainerState::Failed => (What::Failed, why),
            ContainerState::Restarting => {
                let delay = self.life.due().unwrap_or(now).saturating_sub(now);
                let why = if why.is_empty() { why } else { format!(": {why}") };
                let delay = show_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
                (What::Restarting, format!("in {delay}{why}"))
            }
            _ => return,
        };
        ctx.happened_to(&self.key, what, None, detail);
    }

    /// Tells of processes that the kernel killed since it was asked last.
    pub fn look_for_oom(&mut self, ctx: &mut Context) {
        let Some(kills) = self.group(ctx).oom_kills() else { return };
        if kills > self.oom_kills {
            ctx.happened_to(&self.key, What::Oom, None, format!("{} killed for lack of memory", kills - self.oom_kills));
        }
        self.oom_kills = kills;
    }

    /// Time passed.
    pub fn tick(&mut self, ctx: &mut Context, now: Duration) {
        if self.launching.as_ref().is_some_and(|l| now >= l.deadline) {
            self.fail(Reason::Timeout, format!("cannot start {}: launch has not answered for {} s", self.key, LAUNCH_TIMEOUT.as_secs()));
            self.kill(ctx);
            ctx.strays |= self.process.is_none();
            self.drop_launch(ctx);
            self.launch_over(ctx, now);
        }
        if self.relaunch.is_some_and(|due| now >= due) {
            self.relaunch = None;
            if self.life.state == ContainerState::Starting { self.launch(ctx, now) } else { self.clean(ctx, now) }
        }
        if self.life.due().is_some_and(|due| now >= due) {
            self.event(ctx, Event::Tick, now);
        }
        self.mind_health(ctx, now);
    }

    // ---- start ----

    /// Becomes what it is replaced by.
    pub fn become_next(&mut self) {
        if let Some(next) = self.next.take() {
            self.ready = next;
            self.ring.set_rule(self.ready.log.clone());
        }
    }

    fn launch(&mut self, ctx: &mut Context, now: Duration) {
        self.become_next();
        // Counters are totals since the start: a new run has a new group.
        if self.unclean && !self.try_clean(ctx) {
            self.relaunch = Some(now + CLEAN_RETRY);
            return;
        }
        // Whoever waited for the old group to go: here it comes. A second launch would take the group of the first for the old one.
        self.relaunch = None;
        (self.failure, self.finished) = (None, false);
        if let Err(e) = self.try_launch(ctx, now) {
            self.fail(reason(&e), format!("cannot start {}: {e}", self.key));
            self.drop_launch(ctx);
            self.event(ctx, Event::StartFailed { retry: true }, now);
        }
    }

    fn try_launch(&mut self, ctx: &mut Context, now: Duration) -> io::Result<()> {
        let dir = ctx.runtime.dir(&self.key);
        fs::create_dir_all(dir.join("root"))?;
        ctx.runtime.save(&self.key, &self.to_record(ctx, Phase::Intent))?;
        self.unclean = true;
        let fifo = made_fifo(&dir.join("log"))?;
        let writer = File::options().read(true).write(true).open(dir.join("log"))?;
        let exit = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("exit"))?;
        self.listen(ctx, fifo)?;
        let input = self.make_input(ctx, &dir)?;

        let wiring = Box::new(self.wiring(ctx, &dir)?);
        let (ours, theirs) = Conn::pair()?;
        let child = ctx.spawn("launch", &[theirs.as_fd()])?;
        let launcher_token = ctx.poll.add(&child.pidfd, Source::LaunchExit(self.key.clone()))?;
        let token = ctx.poll.add(&ours, Source::Launch(self.key.clone()))?;
        let job = ToLaunch::Start { spec: Box::new(self.ready.spec.clone()), wiring };
        let fds: Vec<BorrowedFd<'_>> = [writer.as_fd(), exit.as_fd()].into_iter().chain(input.as_ref().map(AsFd::as_fd)).collect();
        let sent = ours.send_with(&job, &fds);
        crate::sys::fd::set_nonblocking(ours.as_fd())?;
        self.launching = Some(Launching { conn: ours, token, launcher: Some((child, launcher_token)), deadline: now + LAUNCH_TIMEOUT });
        match sent {
            // It is dead already, which its end tells next.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    fn wiring(&self, ctx: &Context, dir: &Path) -> io::Result<Wiring> {
        let image = ctx.images.record(&self.ready.digest)?;
        let image =
            image.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("image {} is not in the store", self.ready.digest)))?;
        Ok(Wiring {
            name: self.key.to_string(),
            layers: ctx.images.layer_dirs(&image).iter().map(|dir| format!("{}/{dir}", ctx.settings.data_dir)).collect(),
            scratch: dir.join("root").to_string_lossy().into_owned(),
            layout: ctx.layout.clone(),
            group: self.group.clone(),
            allowed: self.ready.network.then(|| ctx.settings.bind_sources.clone()),
            secrets: ctx.settings.secrets_dir.clone(),
        })
    }

    /// The socket of launch and pid 1 has something.
    pub fn on_launch(&mut self, ctx: &mut Context, now: Duration) {
        loop {
            let Some(launching) = &self.launching else { return };
            match launching.conn.recv_with::<FromLaunch>() {
                Ok(Some((FromLaunch::Cloned { pid, missing }, fds))) => self.on_cloned(ctx, pid, missing, fds),
                Ok(Some((FromLaunch::Failed(failure), _))) => self.failure = Some(failure),
                Ok(None) => return self.on_launch_end(ctx, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // Killed before it had read its job or Go, as by a stop that came in between.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return self.on_launch_end(ctx, now),
                Err(e) => {
                    self.fail(Reason::Internal, format!("cannot start {}: launch's message: {e}", self.key));
                    return self.on_launch_end(ctx, now);
                }
            }
        }
    }

    /// Its pid goes on record before `Go`: no container ever runs unrecorded.
    fn on_cloned(&mut self, ctx: &mut Context, pid: i32, missing: Vec<(String, String)>, mut fds: Vec<OwnedFd>) {
        let result = (|| {
            let pidfd = if fds.is_empty() { return Err(io::Error::other("launch sent no pidfd")) } else { fds.remove(0) };
            let token = ctx.poll.add(&pidfd, Source::Pid1(self.key.clone()))?;
            self.process = Some(Process { pid, pidfd, token });
            self.missing = missing;
            let record = self.to_record(ctx, Phase::Process { pid, start: start_time(pid)? });
            ctx.runtime.save(&self.key, &record)?;
            match &self.launching {
                // Stopped before it had begun: without Go nothing of its image ever runs.
                Some(_) if self.life.state == ContainerState::Stopping => {
                    self.kill(ctx);
                    Ok(())
                }
                Some(l) => l.conn.send(&ToLaunch::Go),
                None => Ok(()),
            }
        })();
        if let Err(e) = result {
            self.fail(reason(&e), format!("cannot start {}: {e}", self.key));
            self.kill(ctx);
        }
    }

    /// Nobody holds the other end any more: the payload was exec'd, or the start failed.
    fn on_launch_end(&mut self, ctx: &mut Context, now: Duration) {
        self.drop_launch(ctx);
        if self.process.is_some() && self.failure.is_none() {
            return self.event(ctx, Event::Started, now);
        }
        ctx.strays |= self.process.is_none();
        if self.failure.is_none() {
            self.fail(Reason::Launch, format!("cannot start {}: launch ended without a word (killed by the kernel for memory?)", self.key));
        }
        self.kill(ctx);
        self.launch_over(ctx, now);
    }

    /// A failed start is over once its pid 1, if there was one, is gone.
    fn launch_over(&mut self, ctx: &mut Context, now: Duration) {
        if self.process.is_none() {
            let retry = self.failure.as_ref().is_none_or(|f| !matches!(f.reason, Reason::Exec | Reason::NoFeature | Reason::BadValue));
            self.event(ctx, Event::StartFailed { retry }, now);
            self.clean(ctx, now);
        }
    }

    fn drop_launch(&mut self, ctx: &mut Context) {
        let Some(launching) = self.launching.take() else { return };
        ctx.poll.remove(&launching.conn, launching.token);
        if let Some((child, token)) = launching.launcher {
            // It has handed over, or hangs; either way it has nothing left to do.
            let _ = pidfd_send(&child.pidfd, libc::SIGKILL);
            ctx.poll.remove(&child.pidfd, token);
            ctx.reap_later(child);
        }
    }

    /// The launch process itself ended.
    pub fn on_launcher_exit(&mut self, ctx: &mut Context, now: Duration) {
        if let Some((child, token)) = self.launching.as_mut().and_then(|l| l.launcher.take()) {
            ctx.poll.remove(&child.pidfd, token);
            ctx.reap_later(child);
        }
        // What it said last is still in the socket. A clone that it did not come to name holds the other end too, and waits for us.
        self.on_launch(ctx, now);
        if self.waits_for_name() {
            self.on_launch_end(ctx, now);
        }
    }

    // ---- end ----

    fn signal(&self) {
        let signal = self.ready.rules.stop.signal.unwrap_or(libc::SIGTERM);
        if let Some(process) = &self.process {
            // ESRCH: it has just ended; its pidfd says so next.
            let _ = pidfd_send(&process.pidfd, signal);
        }
    }

    fn kill(&self, ctx: &Context) {
        if let Some(process) = &self.process {
            let _ = pidfd_send(&process.pidfd, libc::SIGKILL);
        }
        if let Err(e) = self.group(ctx).kill() {
            log::debug!("cannot kill the group of {}: {e}", self.key);
        }
    }

    /// Pid 1 ended: the kernel has killed its whole pid namespace before.
    pub fn on_exit(&mut self, ctx: &mut Context, now: Duration) {
        // What it said before it died is still in the socket.
        self.on_launch(ctx, now);
        let Some(process) = self.process.take() else { return };
        // Launch may still be on its way out: a restart must not find it there.
        self.drop_launch(ctx);
        ctx.poll.remove(&process.pidfd, process.token);
        let Process { pid, pidfd, .. } = process;
        let how = self.how_ended(ctx, pid);
        let ran = matches!(how, Some(Ended::Code(_))) || ctx.runtime.exit_record(&self.key).is_some();
        if ran && self.failure.is_none() && self.life.state == ContainerState::Starting {
            // It was faster than launch, whose end tells of the others that their program was exec'd.
            self.event(ctx, Event::Started, now);
        }
        // One that somebody traces can be waited for only once the tracer has let go of it.
        ctx.reap_later(Child { pid, pidfd });
        self.look_for_oom(ctx);
        self.oom_kills = 0;
        self.drain(ctx, now);
        if let Some(output) = self.output.take() {
            ctx.poll.remove(&output.fifo, output.token);
        }
        self.close_input(ctx);
        self.resume = None;
        self.last_run = Some((process.pid, self.ring.end()));
        if self.failure.is_some() && self.life.state == ContainerState::Starting {
            self.launch_over(ctx, now);
        } else {
            self.event(ctx, Event::Ended(how), now);
        }
        self.clean(ctx, now);
    }

    /// The exit status as init wrote it; else as the kernel tells its parent, if that is still us.
    pub fn how_ended(&self, ctx: &Context, pid: i32) -> Option<Ended> {
        let waited = process::try_reap(pid).ok().flatten();
        // Killed from outside: whatever stands in the file, it was not init that ended it.
        if let Some(Ended::Signal(_)) = waited {
            return waited;
        }
        ctx.runtime.exit_record(&self.key).map(|record| record.ended).or(waited)
    }

    /// It was found ended by a keeper that did not see it end.
    pub fn ended_unseen(&mut self, ctx: &mut Context, how: Option<Ended>, now: Duration) {
        // One that was being stopped was to be gone, or to come back: that is for the desired state to say, not for its policy.
        let stopping = self.life.state == ContainerState::Stopping;
        if !self.life.is_up() {
            // The record is from before its last event: it had a process.
            self.life.state = ContainerState::Running;
        }
        self.event(ctx, Event::Ended(how), now);
        self.finished = !stopping && self.life.state == ContainerState::Exited;
        self.clean(ctx, now);
    }

    /// Removes the group of its last run, as soon as nothing is in it.
    pub fn clean(&mut self, ctx: &mut Context, now: Duration) {
        if self.unclean && self.process.is_none() && self.launching.is_none() && !self.try_clean(ctx) {
            self.relaunch = Some(self.relaunch.unwrap_or(now + CLEAN_RETRY));
        }
    }

    /// Removes the group of the last run; false while tasks in it are still dying.
    fn try_clean(&mut self, ctx: &Context) -> bool {
        let group = self.group(ctx);
        // The app's own group stays as long as the app is known.
        match group.clear() {
            Ok(gone) => {
                if !gone {
                    let _ = group.kill();
                }
                self.unclean = !gone;
                gone
            }
            Err(e) => {
                log::warn!("cannot remove cgroup {}: {e}", self.group);
                self.unclean = false;
                true
            }
        }
    }

    // ---- record ----

    fn to_record(&self, ctx: &Context, phase: Phase) -> Record {
        Record {
            boot_id: ctx.boot_id.clone(),
            manifest: self.manifest,
            ready: self.ready.clone(),
            group: self.group.clone(),
            life: self.life.clone(),
            phase,
            missing: self.missing.clone(),
        }
    }

    /// Keeps what a keeper after this one must know.
    pub fn record(&self, ctx: &Context) {
        let Some(process) = &self.process else { return };
        let saved = start_time(process.pid)
            .and_then(|start| ctx.runtime.save(&self.key, &self.to_record(ctx, Phase::Process { pid: process.pid, start })));
        if let Err(e) = saved {
            log::error!("cannot record {}: {e}", self.key);
        }
    }

    fn fail(&mut self, reason: Reason, message: String) {
        log::warn!("{message}");
        self.failure = Some(Failure { reason, message });
    }

    // ---- live change ----

    /// Sets new limits on the running group.
    pub fn update(&mut self, ctx: &mut Context, ready: Ready, now: Duration) -> Result<(), Failure> {
        if self.process.is_some() {
            let set = self.group(ctx).update(&ready.spec.resources);
            let missing =
                set.map_err(|e| Failure { reason: Reason::NoFeature, message: format!("cannot change limits of {}: {e}", self.key) })?;
            // Those of its processes were set when it started.
            self.missing.retain(|(what, _)| what.starts_with(rlimits::NAMES));
            self.missing.extend(missing);
            // What a limit that could not be set had left behind.
            if self.life.state == ContainerState::Running {
                (self.failure, self.begun) = (None, true);
            }
        }
        self.keep(ctx, ready, now);
        Ok(())
    }

    /// Takes over rules that no process can notice.
    pub fn keep(&mut self, ctx: &mut Context, ready: Ready, now: Duration) {
        self.ring.set_rule(ready.log.clone());
        let other = self.ready.health != ready.health;
        (self.ready, self.next, self.doomed) = (ready, None, false);
        if other {
            self.watch_health(ctx, now);
        }
        self.record(ctx);
    }

    // ---- output ----

    fn listen(&mut self, ctx: &mut Context, fifo: File) -> io::Result<()> {
        if let Some(old) = self.output.take() {
            ctx.poll.remove(&old.fifo, old.token);
        }
        let token = ctx.poll.add(&fifo, Source::Log(self.key.clone()))?;
        self.output = Some(Output { fifo, token, reading: true });
        Ok(())
    }

    /// The FIFO has something. Answers whether output was taken.
    pub fn on_output(&mut self, ctx: &mut Context, now: Duration) -> bool {
        let taken = self.take(ctx, self.ring.room(), now);
        if taken > 0 {
            self.resume = pace::next(&mut self.pace, &mut ctx.pace, taken, now);
        }
        self.look_or_not(ctx);
        taken > 0
    }

    fn take(&mut self, ctx: &mut Context, most: usize, now: Duration) -> usize {
        let Some(output) = &mut self.output else { return 0 };
        let mut buf = [0; LOG_TURN];
        let n = output.fifo.read(&mut buf[..most.min(LOG_TURN)]).unwrap_or(0);
        self.ring.push(&buf[..n], u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.with_syslog(ctx, now, |lines, tag, send| lines.add(tag, &buf[..n], now, send));
        n
    }

    /// Does something with the device's log, if this output goes there.
    fn with_syslog(&mut self, ctx: &mut Context, now: Duration, act: impl FnOnce(&mut Lines, &str, &mut dyn FnMut(&[u8]) -> bool)) {
        let Context { settings, syslog, .. } = ctx;
        if self.ready.log.syslog.unwrap_or(settings.syslog.all) {
            let tag = format!("wherry/{}", self.key);
            act(&mut self.lines, &tag, &mut |message| syslog.send(&settings.syslog.socket, message, now));
        }
    }

    /// When its FIFO is looked at again, after a flood.
    pub fn resumes(&self) -> Option<Duration> {
        self.resume
    }

    /// Looks at the FIFO again if it is time to, and there is room.
    pub fn resume(&mut self, ctx: &mut Context, now: Duration) {
        self.resume = self.resume.filter(|due| now < *due);
        if self.lines.has_dropped() {
            self.with_syslog(ctx, now, |lines, tag, send| lines.tell_dropped(tag, now, send));
        }
        self.look_or_not(ctx);
    }

    /// Looks at the FIFO only while the ring has room for it: the writer waits else.
    fn look_or_not(&mut self, ctx: &Context) {
        let look = self.ring.room() > 0 && self.resume.is_none();
        if let Some(output) = self.output.as_mut().filter(|o| o.reading != look) {
            output.reading = look;
            let _ = ctx.poll.interest(&output.fifo, output.token, look, false);
        }
    }

    /// The last words after the end, whether the ring has room or not: as a rule, at most what a FIFO holds (64 KiB, pipe(7)).
    fn drain(&mut self, ctx: &mut Context, now: Duration) {
        for _ in 0..(64 * 1024 / LOG_TURN + 1) {
            if self.take(ctx, LOG_TURN, now) == 0 {
                break;
            }
        }
        self.with_syslog(ctx, now, |lines, tag, send| lines.end(tag, now, send));
    }

    /// Where the output of the run of this pid 1 ended, if that was the last one.
    pub fn end_of(&self, pid: i32) -> Option<u64> {
        self.last_run.filter(|(last, _)| *last == pid).map(|(_, end)| end)
    }

    // ---- input ----

    fn make_input(&mut self, ctx: &mut Context, dir: &Path) -> io::Result<Option<File>> {
        self.close_input(ctx);
        if !self.ready.spec.has_console() {
            return Ok(None);
        }
        // What was typed for the run before is not for this one.
        let path = dir.join("input");
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let fifo = made_fifo(&path)?;
        self.open_input(ctx, fifo)?;
        File::options().read(true).write(true).open(&path).map(Some)
    }

    fn open_input(&mut self, ctx: &mut Context, fifo: File) -> io::Result<()> {
        let token = ctx.poll.add(&fifo, Source::Input(self.key.clone()))?;
        ctx.poll.interest(&fifo, token, false, false)?;
        self.input = Some(Input { fifo, token, ending: false });
        Ok(())
    }

    fn close_input(&mut self, ctx: &mut Context) {
        if let Some(input) = self.input.take() {
            ctx.poll.remove(&input.fifo, input.token);
        }
    }

    /// Sends a frame to its pid 1; false if that takes none now: [`Live::take_input_again`] follows.
    pub fn type_in(&mut self, ctx: &Context, frame: &Frame) -> bool {
        let Some(input) = &mut self.input else { return true };
        // Never in part: it is no longer than what a pipe takes whole.
        let full = matches!(input.fifo.write(&frame.encode()), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        let _ = ctx.poll.interest(&input.fifo, input.token, false, full);
        !full
    }

    /// Its input ends, now or as soon as there is room for that.
    pub fn end_input(&mut self, ctx: &Context) {
        let full = !self.type_in(ctx, &Frame::End);
        if let Some(input) = &mut self.input {
            input.ending = full;
        }
    }

    /// There is room for input again.
    pub fn take_input_again(&mut self, ctx: &Context) {
        let Some(input) = &mut self.input else { return };
        let _ = ctx.poll.interest(&input.fifo, input.token, false, false);
        if std::mem::take(&mut input.ending) {
            self.end_input(ctx);
        }
    }

    /// As the command line shows it.
    pub fn row(&self, now: Duration) -> ContainerRow {
        let up = self.process.is_some().then(|| now.saturating_sub(self.life.since).as_secs());
        ContainerRow {
            name: self.key.container.clone(),
            state: self.life.state,
            pid: self.pid().map(|p| p as u32),
            uptime_s: up,
            restarts: self.life.restarts,
            image: self.ready.image.clone(),
            digest: Some(self.ready.digest),
            last_exit: self.life.last_exit,
            missing: self.missing.clone(),
            error: self.failure.as_ref().map(|f| f.message.clone()),
            health: self.health().filter(|_| self.life.state == ContainerState::Running),
        }
    }
}

/// The records of what runs are in memory, and that can be full like a flash.
fn reason(e: &io::Error) -> Reason {
    if e.kind() == io::ErrorKind::StorageFull { Reason::NoSpace } else { Reason::Launch }
}

/// Opens both ends. With a writer of our own, a payload that closes its output leaves no hang-up behind, which epoll would report for ever;
/// non-blocking, so that an empty FIFO answers EAGAIN (fifo(7)).
fn open_fifo(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits()).open(path)
}

fn made_fifo(path: &Path) -> io::Result<File> {
    if !path.exists() {
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    }
    open_fifo(path)
}
