//! A device with one app of one container, as far as keeper's decisions see it: flash, what keeper knows, a process, a broker; what can happen to it,
//! and what the container's life and a start of keeper come to.

use crate::catalog::{Catalog, Document, Nature};
use crate::decisions::Decisions;
use crate::explore::record_key;
use crate::ghost::Ghost;
use std::time::Duration;
use wherry::image::Digest;
use wherry::ipc::{Ack, Origin};
use wherry::keeper::desired::{Entry, Incoming, Verdict};
use wherry::keeper::lifecycle::{Action, Event as LifeEvent, Life};
use wherry::keeper::plan::Ready;
use wherry::keeper::store::{self, Desired};
use wherry::keeper::work::Work;
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
    pub cut: Option<Cut>,
    /// The step was cut: nothing that keeper does has an effect any more.
    pub dead: bool,
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

    pub fn is_starting(&self) -> bool {
        self.process.is_some_and(|p| !p.begun && !p.killed)
    }

    /// Of the program that has a process.
    pub fn nature(&self) -> Option<Nature> {
        self.process.map(|p| self.document(p.document).nature)
    }

    /// Of a container that has a check.
    pub fn health(&self, live: &Live) -> Option<Health> {
        let checked = self.ready(live.ready).health.is_some();
        checked.then_some(live.health.unwrap_or(Health::Starting))
    }

    /// What keeper makes of a document with a container.
    pub fn ready(&self, document: usize) -> &'a Ready {
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

    pub fn happen(&mut self, event: Event) {
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

    pub fn pass_time(&mut self) {
        let Some(due) = self.due() else { return };
        self.now = self.now.max(due);
        if self.live.as_ref().and_then(|l| l.life.due()).is_some_and(|due| self.now >= due) {
            self.life(LifeEvent::Tick);
        }
        self.settle();
    }

    // ---- effects: none of them after a cut ----

    pub fn save(&mut self) {
        let cut = self.cut.filter(|cut| cut.write == self.writes);
        self.writes += 1;
        self.dead |= cut.is_some_and(|cut| !cut.written);
        if !self.dead {
            self.flash = self.desired.clone();
        }
        self.dead |= cut.is_some();
    }

    pub fn emit(&mut self, ack: &Ack) {
        if !self.dead {
            let document = self.catalog.of(&ack.sha256);
            self.ghost.told(self.document(document), document, (ack.state, ack.attempt));
        }
    }

    pub fn launch(&mut self, document: usize) {
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
    pub fn note(&mut self) {
        if let (Some(live), Some(process), false) = (&self.live, self.process, self.dead) {
            let Live { manifest, ready, ref life, .. } = *live;
            self.runtime = Some(RuntimeRecord { manifest, ready, life: life.clone(), begun: process.begun });
        }
    }

    // ---- the container ----

    pub fn life(&mut self, event: LifeEvent) {
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

    pub fn begins(&mut self) {
        if let Some(process) = &mut self.process {
            process.begun = true;
        }
        self.note();
        self.life(LifeEvent::Started);
        self.settle();
    }

    pub fn begin_fails(&mut self) {
        self.process = None;
        if let Some(live) = &mut self.live {
            live.failure = Some(Reason::Exec);
        }
        self.gone(LifeEvent::StartFailed { retry: false });
    }

    pub fn ends(&mut self) {
        self.process = None;
        self.gone(LifeEvent::Ended(Some(ENDED)));
    }

    pub fn gone(&mut self, event: LifeEvent) {
        self.life(event);
        self.settle();
    }

    // ---- keeper's start ----

    pub fn begin(&mut self, power: bool) {
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

    pub fn adopt(&mut self) {
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
