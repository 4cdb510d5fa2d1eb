//! What keeper does with documents, by hand and for its work, in its order; beside `accept.rs` and `deploy.rs` of keeper.

use crate::catalog::{Document, Nature};
use crate::world::{Live, World};
use wherry::image::Digest;
use wherry::ipc::{Ack, Failure, Origin, Refusal};
use wherry::keeper::desired::{self, Entry, Incoming, Verdict, Version};
use wherry::keeper::lifecycle::{Event as LifeEvent, Life};
use wherry::keeper::plan::{self, Change, Ready};
use wherry::keeper::record::{self, Taken};
use wherry::keeper::rollout;
use wherry::keeper::trial::{self, Bounds, Finding, Look, Part};
use wherry::keeper::work::{self, Aim, Next, Phase, RESTORE_RETRY, Step, Work};
use wherry::manifest::{Body, Name};
use wherry::protocol::{Health, Reason, State};

impl World<'_> {
    pub fn submit(&mut self, document: usize) {
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

    pub fn accept(&mut self, document: usize) {
        let Document { origin, manifest: m, sha256, .. } = self.document(document);
        self.ghost.accepts(self.document(document), document);
        let runs = self.entry(origin).and_then(Entry::in_force);
        let same = runs.is_some_and(|v| rollout::is_same(&self.document(self.catalog.of(&v.sha256)).manifest, m));
        let outside = rollout::outside(m, &self.catalog.device).filter(|_| !same);
        let hold = outside.map(|why| Refusal { reason: Reason::Policy, path: desired::ROLLOUT.into(), message: why });
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

    pub fn retry(&mut self) {
        let Some(entry) = self.desired.entries.iter_mut().find(|e| e.state == State::Failed) else { return };
        let ack = record::retry(entry);
        self.save();
        self.emit(&ack);
        self.elect();
    }

    pub fn hand(&mut self, stop: bool) {
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

    pub fn elect(&mut self) {
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

    pub fn settle(&mut self) {
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

    pub fn start_wanted(&mut self) {
        if self.live.as_ref().is_some_and(|l| l.wanted && !l.doomed) {
            self.life(LifeEvent::Start);
        }
    }

    pub fn held(&self) -> bool {
        self.winner().is_some_and(|e| e.held.contains(&self.catalog.container))
    }

    pub fn winner(&self) -> Option<&Entry> {
        desired::winner(&self.desired.entries, &self.desired.beside.lifted, &self.catalog.app, &self.catalog.groups)
    }

    pub fn advance(&mut self) {
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

    pub fn fetch(&mut self) {
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

    pub fn staged(&mut self, arrived: bool) {
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

    pub fn start(&mut self, document: usize) {
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

    pub fn has_kept(&self) -> bool {
        self.work.as_ref().is_some_and(|w| record::has_kept(&self.desired.entries, &self.catalog.app, &w.origin))
    }

    pub fn reconcile(&mut self, wanted: Option<usize>) {
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

    pub fn appear(&self, document: usize, wanted: bool) -> Live {
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

    pub fn watch(&mut self) {
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

    pub fn part<'b>(&'b self, live: &'b Live, bounds: &Bounds) -> Part<'b> {
        let name: &Name = &self.catalog.container;
        let policy = self.ready(live.ready).rules.restart.policy;
        let ends = if live.next.is_none() { bounds.ends(name, &live.life) } else { 0 };
        let begun = live.begun && live.next.is_none();
        Part { name, life: &live.life, begun, health: self.health(live), why: None, policy, held: self.held(), ends }
    }

    pub fn bounds(&self) -> Bounds {
        let Some(live) = &self.live else { return Bounds { until: self.now, before: Vec::new() } };
        let limit = trial::limit(std::iter::once(self.ready(live.next.unwrap_or(live.ready)).health.as_ref()));
        let touched = live.next.is_some() || live.life.ends() == 0;
        let before = if touched { Vec::new() } else { vec![(self.catalog.container.clone(), live.life.ends())] };
        Bounds { until: self.now + self.ready(live.ready).rules.stop.timeout + limit, before }
    }

    /// The work in hand comes to a good end.
    pub fn end_well(&mut self, state: State) {
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

    pub fn told_the_end(&mut self, ack: Option<Ack>) {
        if let Some(ack) = ack {
            self.save();
            self.emit(&ack);
        }
    }

    pub fn fail(&mut self, reason: Reason) {
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

    pub fn tell(&mut self, state: State) {
        let Some(work) = self.work.as_ref().filter(|w| w.aim == Aim::Deploy) else { return };
        let (origin, version) = (work.origin.clone(), work.version.clone());
        let ack = record::tell(&mut self.desired, &self.catalog.app, &origin, &version, state);
        self.emit(&ack);
    }

    /// Images that nobody names any more go.
    pub fn collect(&mut self) {
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
}
