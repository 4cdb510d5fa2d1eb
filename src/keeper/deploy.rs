//! From an accepted document to running containers: fetch, replace, commit or return to the kept version.
//!
//! Every app has at most one piece of work; [`Keeper::settle`] carries it on whenever something happened.

use crate::container;
use crate::image::Digest;
use crate::ipc::{Ack, Download, Failure, LinkState, Origin};
use crate::keeper::Keeper;
use crate::keeper::containers::Live;
use crate::keeper::desired::{self, Version};
use crate::keeper::guard;
use crate::keeper::lifecycle::{Event, Rules};
use crate::keeper::order;
use crate::keeper::plan::{self, Change, Ready};
use crate::keeper::poll::Key;
use crate::keeper::record;
use crate::keeper::trial::{self, Finding, Look, Part};
use crate::keeper::work::{self, Aim, Elected, Next, Phase, RESTORE_RETRY, Step, Work};
use crate::manifest::{self, Body, Container, Manifest, Name};
use crate::protocol::{Reason, State};
use std::io;
use std::time::Duration;

/// One app: its containers, and what is being done to it.
pub struct App {
    /// Its name.
    pub name: Name,
    /// Its containers, of whichever version.
    pub live: Vec<Live>,
    /// What is being done.
    pub work: Option<Work>,
}

impl App {
    /// The version that is being brought up, with the images it has so far.
    pub fn version_in_work(&self) -> Option<&Version> {
        self.work.as_ref().map(|w| &w.version)
    }

    /// This version's containers, and no others, are there and stay. A stop by hand has ended with the document that replaced the version's.
    fn is_whole(&self, version: &Version, held: &[Name]) -> bool {
        let runs = |l: &Live| l.wanted || held.contains(&l.key.container) || !l.life.is_stopped(&l.ready.rules);
        let stays = |l: &Live| l.manifest == version.sha256 && !l.doomed && l.next.is_none() && runs(l);
        !self.live.is_empty() && self.live.iter().all(stays)
    }
}

pub fn failure(reason: Reason, message: impl Into<String>) -> Failure {
    Failure { reason, message: message.into() }
}

fn unread(what: &str, e: &io::Error) -> Failure {
    failure(Reason::Io, format!("cannot {what}: {e}"))
}

impl Keeper {
    /// After a start in the midst of a deployment: the version before runs while the new one is brought in.
    pub fn revive(&mut self, name: &Name) {
        if self.app(name).is_none_or(|a| a.live.is_empty())
            && let Some(work) = work::revive(&self.desired, name, &self.ctx.settings.groups)
        {
            self.app_entry(name).work = Some(work);
            self.settle(name);
        }
    }

    /// Stops what somebody has stopped: the keeper before may have died between the record of that and the deed, or its note of it.
    pub fn stop_held(&mut self, name: &Name) {
        let (held, now) = (self.held(name), self.now());
        let Self { ctx, apps, .. } = self;
        let live = apps.iter_mut().filter(|a| a.name == *name).flat_map(|a| a.live.iter_mut());
        for live in live.filter(|l| held.contains(&l.key.container)) {
            live.event(ctx, Event::Stop, now);
        }
    }

    /// Decides anew which version of an app is wanted, and sets to work.
    pub fn elect(&mut self, name: &Name) {
        self.withhold(name);
        let Elected { work, answers } = work::elect(&mut self.desired, name, &self.ctx.settings.groups);
        for (origin, answer) in answers {
            self.emit(&origin, answer);
        }
        let goes_on = |a: &App| a.work.as_ref().zip(work.as_ref()).is_some_and(|(now, then)| now.is_same(then));
        if self.app(name).is_some_and(goes_on) {
            // Another origin's document, which loses, is no reason to begin anew.
            return self.settle(name);
        }
        // What stage is bringing in belongs to the work that ends here.
        self.stop_stage_of(name);
        let nothing = work.is_none();
        self.app_entry(name).work = work;
        if nothing {
            self.reconcile(name, Vec::new(), None);
        }
        self.settle(name);
    }

    /// Carries on an app after anything happened to it.
    pub fn settle(&mut self, name: &Name) {
        let now = self.now();
        let Some(i) = self.apps.iter().position(|a| a.name == *name) else { return };
        let held = self.held(name);
        let Self { ctx, apps, .. } = self;
        let app = &mut apps[i];
        // One that never ran in this keeper's time may have a group from before.
        for live in app.live.iter_mut().filter(|l| (l.doomed || l.next.is_some()) && l.life.is_over()) {
            live.clean(ctx, now);
        }
        for live in app.live.iter_mut().filter(|l| l.next.is_some() && l.is_gone()) {
            // A replaced container is a new one: its restarts start over.
            live.life = crate::keeper::lifecycle::Life::default();
            live.become_next();
            live.wanted = !held.contains(&live.key.container);
        }
        order::start_wanted(app, ctx, &held, now);
        app.live.retain(|l| {
            let gone = l.doomed && l.is_gone();
            if gone && let Err(e) = ctx.runtime.forget(&l.key) {
                log::warn!("cannot remove the runtime directory of {}: {e}", l.key);
            }
            ctx.dirty |= gone;
            !gone
        });
        self.advance(name, now);
        self.restart_unhealthy(name, now);
        self.drop_if_empty(name);
        self.answer_waiting(name);
    }

    fn drop_if_empty(&mut self, name: &Name) {
        let empty = self.app(name).is_some_and(|a| a.live.is_empty() && a.work.is_none());
        let wanted = self.desired.entries.iter().any(|e| e.app == *name && !desired::is_gone(e));
        if empty {
            // The app's own level of the hierarchy; it comes back with the next container.
            let _ = self.ctx.layout.group(&format!("{}/{name}", self.ctx.settings.cgroup)).remove();
            if !wanted {
                self.apps.retain(|a| a.name != *name);
            }
        }
    }

    fn advance(&mut self, name: &Name, now: Duration) {
        let collecting = self.is_collecting();
        let Some((app, work)) = self.app(name).and_then(|a| Some((a, a.work.as_ref()?))) else { return };
        match work.step(app.live.is_empty(), collecting, now) {
            Step::Wait => {}
            Step::Stop => {
                self.reconcile(name, Vec::new(), None);
                self.set_phase(name, Phase::Starting);
                self.settle(name);
            }
            Step::Removed => self.finish_removal(name),
            Step::Fetch => {
                // Due once: while stage is at it, time alone is no event.
                if let Some(work) = self.work_mut(name) {
                    work.retry = None;
                }
                if let Err(f) = self.fetch(name) {
                    self.fail(name, f);
                }
            }
            Step::Watch => self.watch_trial(name, now),
        }
    }

    fn set_phase(&mut self, name: &Name, phase: Phase) {
        if let Some(work) = self.work_mut(name) {
            work.phase = phase;
        }
    }

    /// The document in work came from the network.
    fn is_remote(&self, name: &Name) -> bool {
        self.app(name).and_then(|a| a.work.as_ref()).is_none_or(|w| w.origin != Origin::Local)
    }

    fn work_mut(&mut self, name: &Name) -> Option<&mut Work> {
        self.app_mut(name)?.work.as_mut()
    }

    /// Resolves one image after the other; when all are there, starts.
    fn fetch(&mut self, name: &Name) -> Result<(), Failure> {
        let containers = self.containers_of(name)?;
        for container in containers {
            if self.resolved(name, &container)?.is_some() {
                continue;
            }
            if self.may_stage(name, &container.image) {
                self.tell(name, State::Fetching, None);
                let network = self.is_remote(name);
                self.start_stage(name, &container, network).map_err(|e| unread("start the image stage", &e))?;
            }
            return Ok(());
        }
        self.start_all(name)
    }

    /// The containers of the version in work, parsed again from the stored bytes: nothing derived is kept on flash.
    fn containers_of(&mut self, name: &Name) -> Result<Vec<Container>, Failure> {
        let Some(work) = self.app(name).and_then(|a| a.work.as_ref()) else { return Ok(Vec::new()) };
        if !work.containers.is_empty() {
            return Ok(work.containers.clone());
        }
        let bytes = self.store.manifest(&work.version.sha256).map_err(|e| unread("read the stored document", &e))?;
        let m = manifest::parse_for(&bytes, &self.variables()).map_err(|f| failure(f.first_reason(), f.to_string()))?;
        let Body::Run(containers) = m.body else { return Err(failure(Reason::Internal, "the stored document is a tombstone")) };
        if let Some(work) = self.work_mut(name) {
            work.containers.clone_from(&containers);
        }
        Ok(containers)
    }

    /// The image of a container if it is in the store: as resolved before, or as pinned.
    fn resolved(&mut self, name: &Name, container: &Container) -> Result<Option<crate::image::Record>, Failure> {
        let Some(work) = self.app(name).and_then(|a| a.work.as_ref()) else { return Ok(None) };
        let known = work.version.images.iter().find(|(n, _)| *n == container.name).map(|(_, d)| *d);
        let Some(digest) = known.or(container.image.identity()) else { return Ok(None) };
        let record = self.ctx.images.record(&digest).map_err(|e| unread("read the image record", &e))?;
        if record.is_some() && known.is_none() {
            self.set_resolved(name, &container.name, digest);
        }
        Ok(record)
    }

    fn set_resolved(&mut self, app: &Name, container: &Name, digest: Digest) {
        if let Some(work) = self.work_mut(app) {
            work.version.images.retain(|(n, _)| n != container);
            work.version.images.push((container.clone(), digest));
        }
    }

    /// Stage has an answer for one image of an app.
    pub fn staged(&mut self, app: &Name, container: &Name, result: Result<Digest, Failure>) {
        match result {
            Ok(digest) => self.set_resolved(app, container, digest),
            Err(f) => self.fail(app, f),
        }
    }

    /// Counts a download for this app that ended with the agent; how many there were.
    pub fn lost_a_download(&mut self, app: &Name) -> u32 {
        let Some(work) = self.work_mut(app) else { return 0 };
        work.lost += 1;
        work.lost
    }

    /// Carries on every app.
    pub fn settle_all(&mut self) {
        let names: Vec<Name> = self.apps.iter().map(|a| a.name.clone()).collect();
        for name in names {
            self.settle(&name);
        }
    }

    /// Progress of stage, or why there is none, told as an ack.
    pub fn fetching(&mut self, app: &Name, progress: Result<Download, String>) {
        self.tell(app, State::Fetching, Some(progress));
    }

    /// The app is one whose image is being brought in, or is to be.
    pub fn wants_image(&self, app: &Name) -> bool {
        let work = self.app(app).and_then(|a| a.work.as_ref());
        work.is_some_and(|w| w.aim != Aim::Remove && w.phase == Phase::Fetching && w.retry.is_none())
    }

    fn start_all(&mut self, name: &Name) -> Result<(), Failure> {
        let mut ready = Vec::new();
        for container in self.containers_of(name)? {
            let Some(image) = self.resolved(name, &container)? else {
                return Err(failure(Reason::ImageMissing, format!("image {} is not in the store", container.image.reference)));
            };
            ready.push(make_ready(container, &image, self.is_remote(name))?);
        }
        let Some(work) = self.app(name).and_then(|a| a.work.as_ref()) else { return Ok(()) };
        let (aim, sha256) = (work.aim, work.version.sha256);
        self.tell(name, State::Staged, None);
        if aim == Aim::Deploy && self.has_kept(name) {
            self.count_try(name, sha256)?;
        }
        self.tell(name, State::Starting, None);
        self.set_phase(name, Phase::Starting);
        self.reconcile(name, ready, Some(sha256));
        if aim == Aim::Restore
            && let Some(app) = self.app_mut(name)
        {
            app.work = None;
        }
        self.settle(name);
        Ok(())
    }

    /// Makes the app's containers those of `wanted`: leaves alone, changes live, replaces, starts, stops.
    fn reconcile(&mut self, name: &Name, wanted: Vec<Ready>, manifest: Option<Digest>) {
        let now = self.now();
        let held = self.held(name);
        self.app_entry(name);
        let Some(i) = self.apps.iter().position(|a| a.name == *name) else { return };
        let Self { ctx, apps, .. } = self;
        let app = &mut apps[i];
        let aim = app.work.as_ref().map(|w| w.aim);
        let old: Vec<Ready> = app.live.iter().map(|l| l.next.clone().unwrap_or_else(|| l.ready.clone())).collect();
        for (container, change) in plan::changes(&old, &wanted) {
            let ready = wanted.iter().find(|r| r.name == container).cloned();
            let live = app.live.iter_mut().find(|l| l.key.container == container);
            match (change, live, ready) {
                (Change::Start, _, Some(ready)) => {
                    let key = Key { app: name.clone(), container: container.clone() };
                    let mut live = Live::new(ctx, key, ready, manifest.unwrap_or(Digest::of(b"")));
                    live.wanted = !held.contains(&container);
                    app.live.push(live);
                }
                (Change::Keep | Change::Update, Some(live), Some(ready)) => {
                    // Also of this very document, whose deployment an earlier keeper had begun.
                    let known = aim == Some(Aim::Restore) || manifest == Some(live.manifest);
                    live.manifest = manifest.unwrap_or(live.manifest);
                    if let Err(f) = live.update(ctx, ready, now) {
                        (live.failure, live.begun) = (Some(f), false);
                    }
                    let starts = plan::starts(&live.life, aim == Some(Aim::Deploy), known && live.finished);
                    if held.contains(&container) {
                        // As far as it was started meanwhile: by an earlier keeper, or while another origin's version was wanted, which nobody had stopped.
                        live.event(ctx, Event::Stop, now);
                    } else if starts {
                        (live.begun, live.failure) = (false, None);
                        live.life.forgive();
                        live.wanted = true;
                    }
                }
                (Change::Replace, Some(live), Some(ready)) => {
                    (live.next, live.doomed, live.begun, live.failure) = (Some(ready), false, false, None);
                    live.manifest = manifest.unwrap_or(live.manifest);
                    live.event(ctx, Event::Stop, now);
                }
                (Change::Stop, Some(live), _) => {
                    (live.next, live.doomed) = (None, true);
                    live.event(ctx, Event::Stop, now);
                }
                _ => {}
            }
        }
        order::start_wanted(app, ctx, &held, now);
        ctx.dirty = true;
    }

    fn held(&self, name: &Name) -> Vec<Name> {
        self.winner(name).map(|e| e.held.clone()).unwrap_or_default()
    }

    /// A deployment fails when a payload could not be exec'd, and when one of them does not work; it succeeds when all do.
    fn watch_trial(&mut self, name: &Name, now: Duration) {
        let Some(app) = self.app(name) else { return };
        let wanted = || app.live.iter().filter(|l| !l.doomed);
        if let Some(f) = wanted().filter(|l| !l.begun).find_map(|l| l.failure.clone()) {
            return self.fail(name, f);
        }
        let held = self.held(name);
        // Nothing is left of what ran before.
        let alone = app.live.iter().all(|l| !l.doomed && l.next.is_none());
        let bounds = app.work.as_ref().and_then(|w| w.bounds.clone()).unwrap_or_else(|| order::bounds(app, now));
        let parts: Vec<Part<'_>> = order::on_trial(app, &held, &bounds).collect();
        let Look { found, up, bounded } = trial::look(&parts, alone, self.has_kept(name), bounds.until, now);
        if let Some(work) = self.work_mut(name) {
            work.bounds = bounded.then_some(bounds);
        }
        match found {
            Finding::Bad(reason, message) => self.fail(name, failure(reason, message)),
            Finding::Good if self.is_connected(name, now) => self.commit(name),
            Finding::Good => {}
            Finding::Wait(until) => {
                let Some(work) = self.work_mut(name) else { return };
                work.trial = until;
                if up && work.phase == Phase::Starting {
                    work.phase = Phase::Testing;
                    self.tell(name, State::Testing, None);
                }
            }
        }
    }

    /// The guard of a new version, where it has one, is content. Otherwise the version fails, or waits for the next answer of the broker.
    fn is_connected(&mut self, name: &Name, now: Duration) -> bool {
        let grace = Duration::from_secs(self.ctx.settings.limits.guard_s.into());
        let link = &self.agent.link;
        let acknowledged = link.last_out_s.filter(|_| link.state == LinkState::Online);
        let Some(work) = self.work_mut(name) else { return true };
        let Some(since) = work.guard.as_mut() else { return true };
        let (first, since) = (since.is_none(), *since.get_or_insert(now));
        match guard::judge(since, acknowledged, grace, now) {
            Finding::Good => return true,
            Finding::Bad(reason, message) => self.fail(name, failure(reason, message)),
            Finding::Wait(until) => {
                work.trial = until;
                if first && work.phase == Phase::Starting {
                    work.phase = Phase::Testing;
                    self.tell(name, State::Testing, None);
                }
                // Something for the broker to acknowledge.
                self.ctx.dirty = true;
            }
        }
        false
    }

    /// Before another attempt.
    pub fn arm_guard(&mut self, app: &Name, newest: &Version, kept: Option<&Version>) {
        let known = self.desired.beside.guarded.contains(app);
        if !known && self.document(newest).is_some_and(|m| self.needs_guard(&m, kept)) {
            self.desired.beside.guarded.push(app.clone());
        }
    }

    /// Whether a document could cut the way to the broker, while that is known to work.
    pub fn needs_guard(&self, m: &Manifest, runs: Option<&Version>) -> bool {
        let up_for = self.link_since.map(|since| self.now().saturating_sub(since));
        guard::is_needed(m, runs.and_then(|v| self.document(v)).as_ref(), up_for)
    }

    /// There is a version to go back to.
    fn has_kept(&self, name: &Name) -> bool {
        let work = self.app(name).and_then(|a| a.work.as_ref());
        work.is_some_and(|work| record::has_kept(&self.desired.entries, name, &work.origin))
    }

    fn commit(&mut self, name: &Name) {
        let Some(work) = self.app_mut(name).and_then(|a| a.work.take()) else { return };
        self.conclude(name, &work, State::Running);
        self.collect();
    }

    fn finish_removal(&mut self, name: &Name) {
        let Some(work) = self.app_mut(name).and_then(|a| a.work.take()) else { return };
        self.conclude(name, &work, State::Removed);
        // With a group's document gone, another group's may be the one that counts now.
        self.elect(name);
        self.collect();
    }

    /// A version that cannot run: the one before runs again, or went on running all the time.
    fn fail(&mut self, name: &Name, f: Failure) {
        let now = self.now();
        let Some(work) = self.app_mut(name).and_then(|a| a.work.take()) else { return };
        let f = Failure { message: bounded(f.message), ..f };
        let Self { desired, apps, .. } = self;
        let app = apps.iter().find(|a| a.name == *name);
        let (answer, next) = work::fail(desired, name, &work, f.clone(), |version| app.is_some_and(|a| a.is_whole(version, &[])));
        if matches!(next, Next::Retry) {
            log::error!("cannot bring {name} back: {}", f.message);
            self.app_entry(name).work = Some(Work { retry: Some(now + RESTORE_RETRY), ..work });
            return;
        }
        log::warn!("deployment of {name} failed: {}", f.message);
        self.told_the_end(&work.origin, answer);
        match next {
            Next::Elect => self.elect(name),
            Next::Restore(work) => {
                self.app_entry(name).work = Some(*work);
                self.settle(name);
            }
            Next::Retry | Next::Stay => self.settle(name),
        }
        // A stage that was killed leaves half an image.
        self.collect();
    }

    /// Puts a good end on record and tells it.
    fn conclude(&mut self, name: &Name, work: &Work, state: State) {
        let answer = record::conclude(&mut self.desired, name, &work.origin, &work.version, state, None);
        self.told_the_end(&work.origin, answer);
    }

    /// It is what is there, and nothing is being done.
    pub fn is_settled_at(&self, name: &Name, version: &Version) -> bool {
        let held = self.held(name);
        self.app(name).is_some_and(|a| a.work.is_none() && a.is_whole(version, &held))
    }

    fn told_the_end(&mut self, origin: &Origin, answer: Option<Ack>) {
        if let Some(answer) = answer {
            self.save_state();
            self.emit(origin, answer);
        }
    }

    /// Tells a step on the way. Restoring what ran before is nobody's news.
    fn tell(&mut self, name: &Name, state: State, progress: Option<Result<Download, String>>) {
        let Some(work) = self.app(name).and_then(|a| a.work.as_ref()).filter(|w| w.aim == Aim::Deploy) else { return };
        let (origin, version) = (work.origin.clone(), work.version.clone());
        let answer = record::tell(&mut self.desired, name, &origin, &version, state);
        let (progress, trouble) = progress.map_or((None, None), |p| p.map_or_else(|why| (None, Some(why)), |p| (Some(p), None)));
        let refusals = trouble.map(|why| failure(Reason::Fetch, why).into()).into_iter().collect();
        self.emit(&origin, Ack { refusals, progress, ..answer });
    }
}

fn make_ready(container: Container, image: &crate::image::Record, network: bool) -> Result<Ready, Failure> {
    let spec = container::build(&container, &image.config, container.name.as_str())?;
    let mut rules = Rules { restart: container.restart, stop: container.stop };
    rules.stop.signal = rules.stop.signal.or(image.config.stop_signal);
    Ok(Ready {
        name: container.name,
        image: container.image.reference.text,
        digest: image.digest,
        spec,
        rules,
        log: container.log,
        network,
        health: container.health,
        after: container.after,
    })
}

/// Messages go on record; a record has a written maximum.
fn bounded(mut message: String) -> String {
    shorten(&mut message, 1024);
    message
}

/// Cuts off what is beyond `max` bytes.
pub fn shorten(text: &mut String, max: usize) {
    text.truncate(boundary(text, max));
}

/// The last place up to `max` at which a text can be cut.
pub fn boundary(text: &str, max: usize) -> usize {
    (0..=max.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}
