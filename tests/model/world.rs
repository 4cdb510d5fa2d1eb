//! A device with one app of one container, as far as keeper's decisions see it: flash, what keeper knows, a process, a broker. What keeper does is done
//! here in its order; what it decides, the decisions decide.

use crate::catalog::{Catalog, Document, Nature};
use crate::decisions::Decisions;
use crate::explore::record_key;
use crate::ghost::Ghost;
use std::time::Duration;
use wherry::image::Digest;
use wherry::ipc::{Ack, Failure, Origin};
use wherry::keeper::desired::{self, Entry, Incoming, Verdict, Version};
use wherry::keeper::lifecycle::{Action, Event as LifeEvent, Life};
use wherry::keeper::plan::{self, Change, Ready};
use wherry::keeper::record::{self, Taken};
use wherry::keeper::rollout;
use wherry::keeper::store::{self, Desired};
use wherry::keeper::trial::{self, Bounds, Finding, Look, Part};
use wherry::keeper::work::{self, Aim, Next, Phase, RESTORE_RETRY, Step, Work};
use wherry::manifest::{Body, Name};
use wherry::protocol::{ContainerState, Health, Reason, State};
use wherry::sys::process::Ended;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody publishes this document; the broker retains it.
    Publish(usize),
    /// The broker sends what it retains on this topic, again or after a reconnect.
    Deliver(usize),
    LinkDown,
    LinkUp,
    ImageArrives,
    ImageFails,
    /// The program was exec'd.
    Begins,
    /// It could not be.
    BeginFails,
    /// The process ends, with 1 or as it was told to.
    Ends,
    Healthy,
    Unhealthy,
    /// Time passes until something is due.
    Time,
    /// Somebody at the device stops the app, or starts it.
    Stop,
    Start,
    /// The command of that name.
    Retry,
    /// Keeper is killed, and starts again.
    Crash,
    /// As before; the container's process ends in between.
    CrashAndEnd,
    /// The power is cut, and comes back.
    PowerCut,
}

/// A cut in the midst of an event: around its write of this number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cut {
    pub write: usize,
    /// The write is the last thing that was done; else it is the first that was not.
    pub written: bool,
    /// Of the power; else only keeper dies.
    pub power: bool,
}

/// One step of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Move {
    pub event: Event,
    pub cut: Option<Cut>,
}

/// A container's process, whatever keeper knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    pub document: usize,
    pub begun: bool,
    pub killed: bool,
}

/// The container as keeper knows it.
#[derive(Clone)]
pub struct Live {
    pub manifest: Digest,
    pub ready: usize,
    pub next: Option<usize>,
    pub doomed: bool,
    pub life: Life,
    pub begun: bool,
    pub wanted: bool,
    pub failure: Option<Reason>,
    pub finished: bool,
    /// What its check has said in this run.
    pub health: Option<Health>,
}

/// What outlives keeper, but not the power.
#[derive(Clone)]
pub struct RuntimeRecord {
    pub manifest: Digest,
    pub ready: usize,
    pub life: Life,
    /// Its program was exec'd in the run of which this is the record.
    pub begun: bool,
}

#[derive(Clone)]
pub struct World<'a> {
    pub catalog: &'a Catalog,
    pub decisions: &'a Decisions,
    // ---- outside ----
    pub retained: [Option<usize>; 3],
    pub pending: [bool; 3],
    pub up: bool,
    pub process: Option<Process>,
    // ---- on the device, outside keeper ----
    pub flash: Desired,
    pub images: Vec<Digest>,
    pub runtime: Option<RuntimeRecord>,
    // ---- keeper ----
    pub now: Duration,
    pub desired: Desired,
    pub work: Option<Work>,
    /// The image of this document is being brought in.
    pub stage: Option<usize>,
    pub uncollected: bool,
    pub live: Option<Live>,
    // ---- of this step alone ----
    pub writes: usize,
    cut: Option<Cut>,
    /// The step was cut: nothing that keeper does has an effect any more.
    dead: bool,
    /// What was seen from outside, and what is wrong with it.
    pub ghost: Ghost,
}

const ENDED: Ended = Ended::Code(1);

impl<'a> World<'a> {
    /// A new device, on its first start.
    pub fn new(catalog: &'a Catalog, decisions: &'a Decisions) -> Self {
        let desired = Desired { boot: 1, ..Desired::default() };
        Self {
            catalog,
            decisions,
            retained: [None; 3],
            pending: [false; 3],
            up: true,
            process: None,
            flash: desired.clone(),
            images: Vec::new(),
            runtime: None,
            now: Duration::from_secs(1000),
            desired,
            work: None,
            stage: None,
            uncollected: false,
            live: None,
            writes: 0,
            cut: None,
            dead: false,
            ghost: Ghost::default(),
        }
    }

    // ---- what can happen ----

    /// Whether it can happen now; what cannot is no step.
    pub fn can(&self, event: Event) -> bool {
        let begun = self.process.is_some_and(|p| p.begun && !p.killed);
        let health = self.live.as_ref().filter(|l| l.life.state == ContainerState::Running).and_then(|l| self.health(l));
        let checked = health.is_some();
        match event {
            Event::Publish(_) => true,
            Event::Deliver(topic) => self.up && self.retained[topic].is_some(),
            Event::LinkDown => self.up,
            Event::LinkUp => !self.up,
            Event::ImageArrives => self.stage.is_some_and(|d| self.document(d).nature != Nature::Missing),
            Event::ImageFails => self.stage.is_some(),
            Event::Begins => self.is_starting() && self.nature() != Some(Nature::Broken),
            Event::BeginFails => self.is_starting() && self.nature() == Some(Nature::Broken),
            Event::Ends => self.process.is_some_and(|p| p.begun || p.killed),
            Event::Healthy => begun && checked && self.nature() != Some(Nature::Sick) && health != Some(Health::Healthy),
            Event::Unhealthy => begun && checked && health != Some(Health::Unhealthy),
            // To begin, to die, and to find out that one cannot work, takes less time than anything that is waited for.
            Event::Time => self.due().is_some() && self.process.is_none_or(|p| p.begun && !p.killed) && self.nature() != Some(Nature::Ends),
            Event::Stop | Event::Start => self.live.as_ref().is_some_and(|l| !l.doomed),
            Event::Retry => self.desired.entries.iter().any(|e| e.state == State::Failed),
            Event::Crash | Event::PowerCut => true,
            Event::CrashAndEnd => self.process.is_some(),
        }
    }

    fn is_starting(&self) -> bool {
        self.process.is_some_and(|p| !p.begun && !p.killed)
    }

    /// Of the program that has a process.
    pub fn nature(&self) -> Option<Nature> {
        self.process.map(|p| self.document(p.document).nature)
    }

    /// Of a container that has a check.
    fn health(&self, live: &Live) -> Option<Health> {
        let checked = self.ready(live.ready).health.is_some();
        checked.then_some(live.health.unwrap_or(Health::Starting))
    }

    /// What keeper makes of a document with a container.
    fn ready(&self, document: usize) -> &'a Ready {
        self.document(document).ready.as_ref().expect("it is a container's")
    }

    pub fn due(&self) -> Option<Duration> {
        let life = self.live.as_ref().and_then(|l| l.life.due());
        life.into_iter().chain(self.work.as_ref().and_then(Work::due)).min()
    }

    pub fn document(&self, index: usize) -> &'a Document {
        &self.catalog.documents[index]
    }

    pub fn entry(&self, origin: &Origin) -> Option<&Entry> {
        self.desired.entries.iter().find(|e| e.origin == *origin)
    }

    /// No document that the broker retains is news.
    pub fn has_heard_all(&self) -> bool {
        let is_news = |d: usize| {
            let Document { origin, manifest, sha256, .. } = self.document(d);
            let incoming = Incoming { seq: manifest.seq, sha256: *sha256 };
            (self.decisions.decide)(self.entry(origin), incoming) == Verdict::Process
        };
        !self.retained.into_iter().flatten().any(is_news)
    }

    /// Makes one step. What cannot happen now does not.
    pub fn step(&mut self, step: Move) {
        if !self.can(step.event) {
            return;
        }
        (self.writes, self.cut) = (0, step.cut);
        self.happen(step.event);
        self.cut = None;
        if std::mem::take(&mut self.dead) {
            self.ghost.cut = true;
            self.begin(step.cut.is_some_and(|c| c.power));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Publish(document) => {
                let topic = self.document(document).topic;
                self.retained[topic] = Some(document);
                if self.up { self.submit(document) } else { self.pending[topic] = true }
            }
            Event::Deliver(topic) => {
                self.pending[topic] = false;
                if let Some(document) = self.retained[topic] {
                    self.submit(document);
                }
            }
            Event::LinkDown => self.up = false,
            Event::LinkUp => {
                self.up = true;
                self.pending = self.retained.map(|d| d.is_some());
            }
            Event::ImageArrives => self.staged(true),
            Event::ImageFails => self.staged(false),
            Event::Begins => self.begins(),
            Event::BeginFails => self.begin_fails(),
            Event::Ends => self.ends(),
            Event::Healthy | Event::Unhealthy => {
                let health = if event == Event::Healthy { Health::Healthy } else { Health::Unhealthy };
                if let Some(live) = &mut self.live {
                    live.health = Some(health);
                }
                self.settle();
            }
            Event::Time => self.pass_time(),
            Event::Stop => self.hand(true),
            Event::Start => self.hand(false),
            Event::Retry => self.retry(),
            Event::Crash | Event::PowerCut => {
                self.ghost.cut = true;
                self.begin(event == Event::PowerCut);
            }
            Event::CrashAndEnd => {
                self.ghost.cut = true;
                self.process = None;
                self.begin(false);
            }
        }
    }

    fn pass_time(&mut self) {
        let Some(due) = self.due() else { return };
        self.now = self.now.max(due);
        if self.live.as_ref().and_then(|l| l.life.due()).is_some_and(|due| self.now >= due) {
            self.life(LifeEvent::Tick);
        }
        self.settle();
    }

    // ---- effects: none of them after a cut ----

    fn save(&mut self) {
        let cut = self.cut.filter(|cut| cut.write == self.writes);
        self.writes += 1;
        self.dead |= cut.is_some_and(|cut| !cut.written);
        if !self.dead {
            self.flash = self.desired.clone();
        }
        self.dead |= cut.is_some();
    }

    fn emit(&mut self, ack: &Ack) {
        if !self.dead {
            let document = self.catalog.of(&ack.sha256);
            self.ghost.told(self.document(document), document, (ack.state, ack.attempt));
        }
    }

    fn launch(&mut self, document: usize) {
        if self.dead {
            return;
        }
        if let Some(other) = &self.process {
            let (one, two) = (self.document(document).name, self.document(other.document).name);
            self.ghost.wrong(format!("{one} is started while {two} has a process"));
        }
        self.process = Some(Process { document, begun: false, killed: false });
        self.note();
    }

    /// The record of what runs, on tmpfs. It is written only for what has a process.
    fn note(&mut self) {
        if let (Some(live), Some(process), false) = (&self.live, self.process, self.dead) {
            let Live { manifest, ready, ref life, .. } = *live;
            self.runtime = Some(RuntimeRecord { manifest, ready, life: life.clone(), begun: process.begun });
        }
    }

    // ---- documents ----

    fn submit(&mut self, document: usize) {
        let Document { origin, manifest: m, sha256, .. } = self.document(document);
        if self.document(document).manifest.body == Body::Inherit && *origin != Origin::Device {
            return;
        }
        let known = self.entry(origin);
        match (self.decisions.decide)(known, Incoming { seq: m.seq, sha256: *sha256 }) {
            Verdict::Reject(..) => {}
            Verdict::Repeat => {
                if let Some(ack) = known.map(record::answer) {
                    self.emit(&ack);
                }
            }
            Verdict::Process if m.body == Body::Inherit && known.is_none() => {}
            Verdict::Process => self.accept(document),
        }
    }

    fn accept(&mut self, document: usize) {
        let Document { origin, manifest: m, sha256, .. } = self.document(document);
        self.ghost.accepts(self.document(document), document);
        let runs = self.entry(origin).and_then(Entry::in_force);
        let same = runs.is_some_and(|v| rollout::is_same(&self.document(self.catalog.of(&v.sha256)).manifest, m));
        let outside = rollout::outside(m, &self.catalog.device).filter(|_| !same);
        let hold = outside.map(|why| wherry::ipc::Refusal { reason: Reason::Policy, path: desired::ROLLOUT.into(), message: why });
        let superseded = work::superseded(&self.desired, &m.app, origin, self.work.as_ref());
        let taken = Taken { origin, manifest: m, sha256: *sha256, hold, guarded: false, signed: false };
        let (state, _) = (self.decisions.accept)(&mut self.desired, taken, &self.catalog.groups);
        let first = Ack { state, refusals: Vec::new(), ..self.entry(origin).map(record::answer).expect("it was accepted") };
        if self.decisions.record_first {
            self.save();
        }
        if let Some(ack) = superseded {
            self.emit(&ack);
        }
        self.emit(&first);
        self.elect();
        if !self.decisions.record_first {
            self.save();
        }
        if state != State::Accepted {
            self.collect();
        }
    }

    fn retry(&mut self) {
        let Some(entry) = self.desired.entries.iter_mut().find(|e| e.state == State::Failed) else { return };
        let ack = record::retry(entry);
        self.save();
        self.emit(&ack);
        self.elect();
    }

    fn hand(&mut self, stop: bool) {
        let container = std::slice::from_ref(&self.catalog.container);
        if record::hold(&mut self.desired, &self.catalog.app, &self.catalog.groups, container, stop, false) {
            self.save();
        }
        if stop {
            self.life(LifeEvent::Stop);
        } else if let Some(live) = &mut self.live {
            (live.failure, live.begun) = (None, live.begun && live.life.is_up());
            let over = live.life.is_over();
            live.wanted |= over;
            if !over {
                self.life(LifeEvent::Start);
            }
        }
        self.settle();
    }

    // ---- work ----

    fn elect(&mut self) {
        let elected = (self.decisions.elect)(&mut self.desired, &self.catalog.app, &self.catalog.groups);
        for (_, ack) in elected.answers {
            self.emit(&ack);
        }
        if self.work.as_ref().zip(elected.work.as_ref()).is_some_and(|(now, then)| now.is_same(then)) {
            return self.settle();
        }
        self.stage = None;
        self.work = elected.work;
        if self.work.is_none() {
            self.reconcile(None);
        }
        self.settle();
    }

    fn settle(&mut self) {
        let held = self.held();
        if let Some(live) = self.live.as_mut().filter(|l| l.life.is_over() && self.process.is_none())
            && let Some(next) = live.next.take()
        {
            (live.life, live.ready, live.wanted) = (Life::default(), next, !held);
        }
        self.start_wanted();
        if self.live.as_ref().is_some_and(|l| l.doomed && l.life.is_over()) && self.process.is_none() {
            self.live = None;
            self.runtime = self.runtime.take().filter(|_| self.dead);
        }
        self.advance();
        let sick = self.live.as_ref().is_some_and(|l| self.health(l) == Some(Health::Unhealthy));
        if sick && !self.work.as_ref().is_some_and(Work::is_trial) {
            self.life(LifeEvent::Unhealthy);
        }
    }

    fn start_wanted(&mut self) {
        if self.live.as_ref().is_some_and(|l| l.wanted && !l.doomed) {
            self.life(LifeEvent::Start);
        }
    }

    fn held(&self) -> bool {
        self.winner().is_some_and(|e| e.held.contains(&self.catalog.container))
    }

    fn winner(&self) -> Option<&Entry> {
        desired::winner(&self.desired.entries, &self.desired.beside.lifted, &self.catalog.app, &self.catalog.groups)
    }

    fn advance(&mut self) {
        let Some(work) = &mut self.work else { return };
        match work.step(self.live.is_none(), false, self.now) {
            Step::Wait => {}
            Step::Stop => {
                self.reconcile(None);
                if let Some(work) = &mut self.work {
                    work.phase = Phase::Starting;
                }
                self.settle();
            }
            Step::Removed => {
                self.end_well(State::Removed);
                self.elect();
                self.collect();
            }
            Step::Fetch => {
                work.retry = None;
                self.fetch();
            }
            Step::Watch => self.watch(),
        }
    }

    fn fetch(&mut self) {
        let Some(work) = &self.work else { return };
        let document = self.catalog.of(&work.version.sha256);
        let there = work.version.images.first().is_some_and(|(_, digest)| self.images.contains(digest));
        if there {
            return self.start(document);
        }
        if self.stage.is_none() {
            self.tell(State::Fetching);
            self.stage = Some(document);
        }
    }

    fn staged(&mut self, arrived: bool) {
        let Some(ready) = self.stage.take().and_then(|d| self.document(d).ready.as_ref()) else { return };
        if arrived && !self.images.contains(&ready.digest) {
            self.images.push(ready.digest);
            self.images.sort();
        }
        if self.uncollected {
            self.collect();
        }
        match &mut self.work {
            Some(work) if arrived => work.version.images = vec![(self.catalog.container.clone(), ready.digest)],
            _ => self.fail(Reason::Fetch),
        }
        self.settle();
    }

    fn start(&mut self, document: usize) {
        let Some(work) = &self.work else { return };
        let (aim, sha256) = (work.aim, work.version.sha256);
        self.tell(State::Staged);
        if aim == Aim::Deploy && self.has_kept() {
            let (waits, boot) = (self.held(), self.desired.boot);
            match record::count_try(&mut self.desired, &self.catalog.app, sha256, boot, waits) {
                Ok(true) => self.save(),
                Ok(false) => {}
                Err(f) => return self.fail(f.reason),
            }
        }
        self.tell(State::Starting);
        if let Some(work) = &mut self.work {
            work.phase = Phase::Starting;
        }
        self.reconcile(Some(document));
        if aim == Aim::Restore {
            self.work = None;
        }
        self.settle();
    }

    fn has_kept(&self) -> bool {
        self.work.as_ref().is_some_and(|w| record::has_kept(&self.desired.entries, &self.catalog.app, &w.origin))
    }

    fn reconcile(&mut self, wanted: Option<usize>) {
        let named = |d: Digest| {
            let mut versions = self.flash.entries.iter().flat_map(|e| std::iter::once(&e.newest).chain(&e.kept));
            versions.any(|v| v.sha256 == d)
        };
        let unnamed = wanted.map(|d| self.document(d)).filter(|d| !self.dead && !named(d.sha256));
        if let Some(document) = unnamed {
            self.ghost.wrong(format!("{} is to run, and is not on record, or not any more", document.name));
        }
        let held = self.held();
        let aim = self.work.as_ref().map(|w| w.aim);
        let ready = |d: usize| self.document(d).ready.clone();
        let old: Vec<Ready> = self.live.as_ref().and_then(|l| ready(l.next.unwrap_or(l.ready))).into_iter().collect();
        let new: Vec<Ready> = wanted.and_then(ready).into_iter().collect();
        for (_, change) in (self.decisions.changes)(&old, &new) {
            match (change, self.live.as_mut(), wanted) {
                (Change::Start, None, Some(document)) => self.live = Some(self.appear(document, !held)),
                (Change::Keep | Change::Update, Some(live), Some(document)) => {
                    let sha256 = self.catalog.documents[document].sha256;
                    let check = |d: usize| self.catalog.documents[d].ready.as_ref().and_then(|r| r.health.as_ref());
                    live.health = live.health.filter(|_| check(live.ready) == check(document));
                    let known = aim == Some(Aim::Restore) || live.manifest == sha256;
                    (live.manifest, live.ready, live.next, live.doomed) = (sha256, document, None, false);
                    let starts = plan::starts(&live.life, aim == Some(Aim::Deploy), known && live.finished);
                    if held {
                        self.life(LifeEvent::Stop);
                    } else if starts {
                        (live.begun, live.failure, live.wanted) = (false, None, true);
                        live.life.forgive();
                    }
                    self.note();
                }
                (Change::Replace, Some(live), Some(document)) => {
                    (live.next, live.doomed, live.begun, live.failure) = (Some(document), false, false, None);
                    live.manifest = self.catalog.documents[document].sha256;
                    self.life(LifeEvent::Stop);
                }
                (Change::Stop, Some(live), _) => {
                    (live.next, live.doomed) = (None, true);
                    self.life(LifeEvent::Stop);
                }
                other => panic!("{:?} of a container that is{} there", other.0, if self.live.is_some() { "" } else { " not" }),
            }
        }
        self.start_wanted();
    }

    fn appear(&self, document: usize, wanted: bool) -> Live {
        Live {
            manifest: self.document(document).sha256,
            ready: document,
            next: None,
            doomed: false,
            life: Life::default(),
            begun: false,
            wanted,
            failure: None,
            finished: false,
            health: None,
        }
    }

    fn watch(&mut self) {
        let wanted = self.live.as_ref().filter(|l| !l.doomed);
        if let Some(reason) = wanted.filter(|l| !l.begun).and_then(|l| l.failure) {
            return self.fail(reason);
        }
        let Some(bounds) = self.work.as_ref().map(|w| w.bounds.clone().unwrap_or_else(|| self.bounds())) else { return };
        let part = wanted.map(|l| self.part(l, &bounds));
        let alone = self.live.as_ref().is_none_or(|l| !l.doomed && l.next.is_none());
        let parts: Vec<Part<'_>> = part.into_iter().collect();
        let Look { found, up, bounded } = (self.decisions.look)(&parts, alone, self.has_kept(), bounds.until, self.now);
        let Some(work) = &mut self.work else { return };
        work.bounds = bounded.then_some(bounds);
        match found {
            Finding::Bad(reason, _) => self.fail(reason),
            Finding::Good => {
                self.end_well(State::Running);
                self.collect();
            }
            Finding::Wait(until) => {
                work.trial = until;
                if up && work.phase == Phase::Starting {
                    work.phase = Phase::Testing;
                    self.tell(State::Testing);
                }
            }
        }
    }

    fn part<'b>(&'b self, live: &'b Live, bounds: &Bounds) -> Part<'b> {
        let name: &Name = &self.catalog.container;
        let policy = self.ready(live.ready).rules.restart.policy;
        let ends = if live.next.is_none() { bounds.ends(name, &live.life) } else { 0 };
        let begun = live.begun && live.next.is_none();
        Part { name, life: &live.life, begun, health: self.health(live), why: None, policy, held: self.held(), ends }
    }

    fn bounds(&self) -> Bounds {
        let Some(live) = &self.live else { return Bounds { until: self.now, before: Vec::new() } };
        let limit = trial::limit(std::iter::once(self.ready(live.next.unwrap_or(live.ready)).health.as_ref()));
        let touched = live.next.is_some() || live.life.ends() == 0;
        let before = if touched { Vec::new() } else { vec![(self.catalog.container.clone(), live.life.ends())] };
        Bounds { until: self.now + self.ready(live.ready).rules.stop.timeout + limit, before }
    }

    /// The work in hand comes to a good end.
    fn end_well(&mut self, state: State) {
        let kept = self.has_kept();
        let Some(work) = self.work.take() else { return };
        let document = self.document(self.catalog.of(&work.version.sha256));
        let works = document.nature == Nature::Works || (document.nature == Nature::Ends && !kept);
        // One that somebody holds is called good where there is none to go back to.
        if state == State::Running && !works && (kept || !self.held()) {
            self.ghost.wrong(format!("{}, which is {:?}, is called good", document.name, document.nature));
        }
        let ack = (self.decisions.conclude)(&mut self.desired, &self.catalog.app, &work.origin, &work.version, state, None);
        self.told_the_end(ack);
    }

    fn told_the_end(&mut self, ack: Option<Ack>) {
        if let Some(ack) = ack {
            self.save();
            self.emit(&ack);
        }
    }

    fn fail(&mut self, reason: Reason) {
        let Some(work) = self.work.take() else { return };
        let runs = |l: &Live| l.wanted || !l.life.is_stopped(&self.ready(l.ready).rules);
        let stays = |l: &&Live| !l.doomed && l.next.is_none() && runs(l);
        let whole = self.live.as_ref().filter(stays).map(|l| l.manifest);
        let is_whole = |v: &Version| whole == Some(v.sha256);
        let failure = Failure { reason, message: String::new() };
        let (ack, next) = (self.decisions.fail)(&mut self.desired, &self.catalog.app, &work, failure, &is_whole);
        if next == Next::Retry {
            self.work = Some(Work { retry: Some(self.now + RESTORE_RETRY), ..work });
            return;
        }
        self.told_the_end(ack);
        match next {
            Next::Elect => self.elect(),
            Next::Restore(work) => {
                self.work = Some(*work);
                self.settle();
            }
            Next::Retry | Next::Stay => self.settle(),
        }
        self.collect();
    }

    fn tell(&mut self, state: State) {
        let Some(work) = self.work.as_ref().filter(|w| w.aim == Aim::Deploy) else { return };
        let (origin, version) = (work.origin.clone(), work.version.clone());
        let ack = record::tell(&mut self.desired, &self.catalog.app, &origin, &version, state);
        self.emit(&ack);
    }

    /// Images that nobody names any more go.
    fn collect(&mut self) {
        self.uncollected = self.stage.is_some();
        if self.uncollected || self.dead {
            return;
        }
        let recorded = self.desired.entries.iter().flat_map(|e| std::iter::once(&e.newest).chain(e.kept.as_ref()));
        let versions = recorded.chain(self.work.as_ref().map(|w| &w.version)).filter(|v| !v.removal);
        let mut named: Vec<Digest> = versions.flat_map(|v| v.images.iter().map(|(_, digest)| *digest)).collect();
        named.extend(self.live.as_ref().and_then(|l| self.document(l.ready).ready.as_ref()).map(|r| r.digest));
        self.images.retain(|image| named.contains(image));
    }

    // ---- the container ----

    fn life(&mut self, event: LifeEvent) {
        let Some(live) = &mut self.live else { return };
        let before = live.life.state;
        if matches!(event, LifeEvent::Start | LifeEvent::Stop) {
            live.wanted = false;
        }
        let rules = &self.catalog.documents[live.ready].ready.as_ref().expect("it is a container").rules;
        match (self.decisions.life)(&mut live.life, event, rules, self.now) {
            Some(Action::Launch) => {
                live.ready = live.next.take().unwrap_or(live.ready);
                (live.failure, live.finished) = (None, false);
                let document = live.ready;
                self.launch(document);
            }
            Some(Action::Kill) if !self.dead => {
                if let Some(process) = &mut self.process {
                    process.killed = true;
                }
            }
            // It is asked to end: that it may end is an event of its own.
            Some(Action::Signal | Action::Kill) | None => {}
        }
        let Some(live) = &mut self.live else { return };
        if live.life.state == ContainerState::Stopping && self.process.is_none() {
            return self.life(LifeEvent::StartFailed { retry: false });
        }
        if before != live.life.state {
            live.begun |= live.life.state == ContainerState::Running;
            live.health = None;
            self.note();
        }
    }

    fn begins(&mut self) {
        if let Some(process) = &mut self.process {
            process.begun = true;
        }
        self.note();
        self.life(LifeEvent::Started);
        self.settle();
    }

    fn begin_fails(&mut self) {
        self.process = None;
        if let Some(live) = &mut self.live {
            live.failure = Some(Reason::Exec);
        }
        self.gone(LifeEvent::StartFailed { retry: false });
    }

    fn ends(&mut self) {
        self.process = None;
        self.gone(LifeEvent::Ended(Some(ENDED)));
    }

    fn gone(&mut self, event: LifeEvent) {
        self.life(event);
        self.settle();
    }

    // ---- keeper's start ----

    fn begin(&mut self, power: bool) {
        let desired = self.flash.clone();
        if self.catalog.is_new(record_key(&desired)) {
            let written = store::encode(1, &desired).expect("it is small");
            let read = store::decode(&written).map(|(_, desired)| desired);
            assert_eq!(read.as_ref(), Some(&desired), "what was read from flash is not what was written");
        }
        for entry in &desired.entries {
            self.ghost.found(self.document(self.catalog.of(&entry.newest.sha256)).topic, entry.state);
        }
        (self.desired, self.work, self.stage, self.uncollected, self.live) = (desired, None, None, false, None);
        // The agent begins a new session, as soon as it can.
        self.pending = self.retained.map(|d| d.is_some());
        if power {
            (self.process, self.runtime) = (None, None);
            self.desired.boot += 1;
            self.save();
        }
        self.adopt();
        if self.held() {
            self.life(LifeEvent::Stop);
        }
        if self.live.is_none()
            && let Some(work) = (self.decisions.revive)(&self.desired, &self.catalog.app, &self.catalog.groups)
        {
            self.work = Some(work);
            self.settle();
        }
        if self.live.is_some() || !self.desired.entries.is_empty() {
            self.elect();
        }
        self.collect();
    }

    fn adopt(&mut self) {
        let Some(record) = self.runtime.take() else { return };
        let uncertain = matches!(record.life.state, ContainerState::Starting | ContainerState::Stopping);
        let begun = !uncertain || self.process.map_or(record.begun, |process| process.begun);
        if record.life.state == ContainerState::Starting && !begun {
            // Without `Go` its pid 1 exits by itself.
            self.process = None;
            return;
        }
        let mut live = Live { manifest: record.manifest, life: record.life.clone(), begun, ..self.appear(record.ready, false) };
        self.runtime = Some(record);
        if self.process.is_some() {
            self.live = Some(live);
            self.life(LifeEvent::Started);
        } else {
            let stopping = live.life.state == ContainerState::Stopping;
            if !live.life.is_up() {
                live.life.state = ContainerState::Running;
            }
            self.live = Some(live);
            self.life(LifeEvent::Ended(Some(ENDED)));
            if let Some(live) = &mut self.live {
                live.finished = !stopping && live.life.state == ContainerState::Exited;
            }
        }
    }
}
