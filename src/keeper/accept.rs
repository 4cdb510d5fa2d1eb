//! Documents that arrive: which are taken, what is put on record for them, and what is answered.

use crate::image::Digest;
use crate::ipc::{Ack, Failure, Origin, Refusal};
use crate::keeper::Keeper;
use crate::keeper::deploy::failure;
use crate::keeper::desired::{self, Entry, Incoming, Verdict, Version};
use crate::keeper::record::{self, Taken};
use crate::keeper::store::Purpose;
use crate::keeper::work;
use crate::manifest::{self, Body, Faults, Manifest, Name, Severity, Target, Whom};
use crate::protocol::{Reason, State};
use crate::trust::Grant;

impl Keeper {
    /// Takes one document. What becomes of it is told by acks; the error is for a document that names no app.
    /// `signers` are the keys that signed it, where a key must.
    pub fn submit(&mut self, origin: &Origin, topic: Option<&Name>, payload: &[u8], signers: Option<&[Grant]>) -> Result<(), Failure> {
        let sha256 = Digest::of(payload);
        let (app, seq, verdict) = match manifest::parse(payload) {
            Ok(m) => {
                let verdict = self.verdict(origin, topic, payload, &m, signers);
                if let Err(refusals) = &verdict {
                    self.refused.remember(origin, &m, sha256, refusals);
                }
                (topic.cloned().unwrap_or_else(|| m.app.clone()), m.seq, verdict)
            }
            Err(faults) => match topic {
                Some(app) => (app.clone(), None, Err(refusals(&faults))),
                None => return Err(failure(faults.first_reason(), faults.to_string())),
            },
        };
        let ack =
            |state, refusals| Ack { app: app.clone(), seq, sha256, attempt: 1, state, refusals, rolled_back_to: None, progress: None };
        self.emit(origin, ack(State::Received, Vec::new()));
        let accepted = match verdict {
            Err(refusals) => Err(refusals),
            Ok(None) => {
                self.repeat(origin, &app);
                self.find_again(origin, &app, payload);
                return Ok(());
            }
            Ok(Some(m)) => self.accept(origin, &m, payload).map_err(|f| vec![f.into()]),
        };
        match accepted {
            Err(refusals) => self.emit(origin, ack(State::Rejected, refusals)),
            Ok((state, why)) => {
                self.emit(origin, ack(state, why.into_iter().collect()));
                self.elect_unless_it_waits(&app);
                // What is replaced without a deployment is nobody's any more.
                if state != State::Accepted {
                    self.collect();
                }
            }
        }
        Ok(())
    }

    /// The document to accept; `None` if it is the one we have, whatever has become of the key that signed it.
    fn verdict(
        &self,
        origin: &Origin,
        topic: Option<&Name>,
        payload: &[u8],
        m: &Manifest,
        signers: Option<&[Grant]>,
    ) -> Result<Option<Manifest>, Vec<Refusal>> {
        let judged = self.judge(origin, topic, m, Digest::of(payload));
        if judged == Ok(false) {
            return Ok(None);
        }
        self.vouch(origin, m, signers)?;
        judged.map_err(|f| vec![f.into()])?;
        match self.refused.find(origin, m, Digest::of(payload)) {
            Some(refusals) => Err(refusals),
            None => self.admit(origin, payload).map(Some),
        }
    }

    /// Whether it is new; otherwise it is a repeat of what we have.
    fn judge(&self, origin: &Origin, topic: Option<&Name>, m: &Manifest, sha256: Digest) -> Result<bool, Failure> {
        if let Some(topic) = topic.filter(|t| **t != m.app) {
            return Err(failure(Reason::WrongTarget, format!("the document is for app {}, but it came on the topic of {topic}", m.app)));
        }
        m.target.as_ref().map_or(Ok(()), |target| self.check_target(origin, target))?;
        if let Some((reason, message)) = desired::ownership(&self.desired.entries, origin, &m.app) {
            return Err(failure(reason, message));
        }
        let known = self.desired.entries.iter().find(|e| e.origin == *origin && e.app == m.app);
        match desired::decide(known, Incoming { seq: m.seq, sha256 }) {
            Verdict::Repeat => return Ok(false),
            Verdict::Reject(reason, message) => return Err(failure(reason, message)),
            Verdict::Process => self.check_time(m.not_after)?,
        }
        if m.body == Body::Inherit && *origin != Origin::Device {
            return Err(failure(Reason::BadValue, "only what a device's own topic said can be lifted, and only there"));
        }
        let apps = self.desired.entries.iter().filter(|e| !desired::is_gone(e)).count();
        if known.is_none_or(desired::is_gone) && apps >= desired::MAX_APPS && matches!(m.body, Body::Run(_)) {
            return Err(failure(Reason::Policy, format!("this device has {apps} apps, the most it may have")));
        }
        Ok(true)
    }

    /// What this device puts into manifests.
    pub fn variables(&self) -> manifest::Device<'_> {
        manifest::Device { id: self.device.as_str(), variables: &self.ctx.settings.variables }
    }

    /// Whether what came by this topic is for this device.
    pub fn check_target(&self, origin: &Origin, target: &Target) -> Result<(), Failure> {
        let here = &self.device;
        let fits = match (origin, &target.whom) {
            (Origin::Device | Origin::Local, Whom::Device(d)) => d == here,
            (Origin::Group(g), Whom::Group(t)) => g == t,
            _ => false,
        };
        if fits && target.fleet == self.ctx.settings.root {
            return Ok(());
        }
        Err(failure(
            Reason::WrongTarget,
            format!("the document's target is not this device ({here} of fleet {}) or the topic it came on", self.ctx.settings.root),
        ))
    }

    /// Puts a document on record, before anything is done for it. Its first state, and why it is held.
    fn accept(&mut self, origin: &Origin, m: &Manifest, payload: &[u8]) -> Result<(State, Option<Refusal>), Failure> {
        let known = self.desired.entries.iter().find(|e| e.origin == *origin && e.app == m.app);
        if m.body == Body::Inherit && known.is_none() {
            // Nothing was said that could be lifted, and nothing needs to be remembered.
            return Ok((State::Removed, None));
        }
        let purpose = if matches!(m.body, Body::Remove { .. }) { Purpose::Remove } else { Purpose::Deploy };
        let sha256 = self.store.put_manifest(payload, purpose).map_err(|e| self.unwritten("cannot store the document", e))?;
        let hold = self.must_wait(origin, m, known.and_then(Entry::in_force));
        let guarded = *origin != Origin::Local && self.needs_guard(m, record::replaced(known, m, hold.is_some()));
        let superseded = work::superseded(&self.desired, &m.app, origin, self.app(&m.app).and_then(|a| a.work.as_ref()));
        let before = self.desired.clone();
        let taken = Taken { origin, manifest: m, sha256, hold, guarded, signed: self.wants_signatures() };
        let first = record::accept(&mut self.desired, taken, &self.ctx.settings.groups);
        if let Err(e) = self.store.save(&self.desired) {
            self.desired = before;
            return Err(self.unwritten("cannot record the document", e));
        }
        self.unsaved = None;
        if let Some(ack) = superseded {
            self.emit(origin, ack);
        }
        Ok(first)
    }

    /// The document of a version, as it was published.
    pub fn document(&self, version: &Version) -> Option<Manifest> {
        manifest::parse(&self.store.manifest(&version.sha256).ok()?).ok()
    }

    /// A firmware upgrade can keep the record and lose the document: the broker's copy is as good.
    fn find_again(&mut self, origin: &Origin, app: &Name, payload: &[u8]) {
        let sha256 = Digest::of(payload);
        let is_newest = |e: &&Entry| {
            let counts = !e.newest.removal || desired::waits(e);
            e.origin == *origin && e.app == *app && e.newest.sha256 == sha256 && counts
        };
        let Some(entry) = self.desired.entries.iter().find(is_newest).filter(|_| self.store.manifest(&sha256).is_err()) else { return };
        let purpose = if entry.newest.removal { Purpose::Remove } else { Purpose::Deploy };
        match self.store.put_manifest(payload, purpose) {
            Ok(_) => {
                // What waits to be tried again has what it waited for.
                if let Some(work) = self.app_mut(app).and_then(|a| a.work.as_mut()) {
                    work.retry = None;
                }
                for path in [desired::HOLD, desired::WINDOW] {
                    self.reconsider(app, path);
                }
                self.elect_unless_it_waits(app);
            }
            Err(e) => log::error!("cannot store the document of {app} again: {e}"),
        }
    }

    fn repeat(&mut self, origin: &Origin, app: &Name) {
        if let Some(entry) = self.desired.entries.iter().find(|e| e.origin == *origin && e.app == *app) {
            let ack = record::answer(entry);
            self.emit(origin, ack);
        }
    }
}

/// Most reasons in one answer: it must fit a message.
pub const MAX_REFUSALS: usize = 16;

/// Every error of a document, as far as the answer has room.
pub fn refusals(faults: &Faults) -> Vec<Refusal> {
    let errors = faults.0.iter().filter(|f| f.severity == Severity::Error);
    errors.take(MAX_REFUSALS).map(|f| Refusal { reason: f.reason, path: f.path.clone(), message: f.sentence() }).collect()
}
