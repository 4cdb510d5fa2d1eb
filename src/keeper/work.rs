//! What is being done for an app: which work follows from the document in force, what its phases wait for, and what follows its failure. Pure.
//!
//! ```text
//! elect ─┬─▶ Deploy    Fetching ──▶ Starting ──▶ Testing ──▶ running
//!        │                 └────────────┴────────────┴─────▶ failed ──▶ Restore what is kept, or elect
//!        ├─▶ Restore   Fetching ──▶ started: done; what fails is tried again later
//!        └─▶ Remove    Fetching ──▶ Starting (all stop) ───▶ removed ──▶ elect
//! ```

use crate::ipc::{Ack, Failure, Origin};
use crate::keeper::desired::{self, Entry, Version};
use crate::keeper::record;
use crate::keeper::store::Desired;
use crate::keeper::trial::Bounds;
use crate::manifest::{Container, Id, Name};
use crate::protocol::State;
use std::time::Duration;

/// How long until an image that was there before is looked for again.
pub const RESTORE_RETRY: Duration = Duration::from_secs(60);

/// What an app's work is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aim {
    /// Bring a new version up, and answer for it.
    Deploy,
    /// Have a version running that was good before: after a start of keeper, or after a failed deployment.
    Restore,
    /// Have nothing running.
    Remove,
}

/// How far an app's work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its images are being brought in.
    Fetching,
    /// Its containers are those wanted, and start, or stop.
    Starting,
    /// They have started, and show whether they work.
    Testing,
}

/// Something being done to an app.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Whose document it is for.
    pub origin: Origin,
    /// Which version, with the images that it has so far.
    pub version: Version,
    /// What for.
    pub aim: Aim,
    /// How far.
    pub phase: Phase,
    /// The version's containers, once the document was read again.
    pub containers: Vec<Container>,
    /// Image work failed; try again then (only for [`Aim::Restore`]).
    pub retry: Option<Duration>,
    /// When the new version's trial is looked at again, by time alone.
    pub trial: Option<Duration>,
    /// What ends that trial whatever its containers do; not while it waits for one that somebody has stopped.
    pub bounds: Option<Bounds>,
    /// It must show that the broker can be reached; since when it has worked otherwise.
    pub guard: Option<Option<Duration>>,
    /// Downloads for it that ended with the agent.
    pub lost: u32,
}

/// What work wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something has to happen first.
    Wait,
    /// All containers stop.
    Stop,
    /// None is left: the app is removed.
    Removed,
    /// Images are brought in; once they are there, containers start.
    Fetch,
    /// See how the new version does.
    Watch,
}

impl Work {
    /// From its beginning.
    pub fn new(origin: Origin, version: Version, aim: Aim) -> Self {
        let (phase, containers) = (Phase::Fetching, Vec::new());
        Self { origin, version, aim, phase, containers, retry: None, trial: None, bounds: None, guard: None, lost: 0 }
    }

    /// The version whose end this origin waits to hear.
    pub fn answers_to(&self, origin: &Origin) -> Option<&Version> {
        (self.origin == *origin && self.aim != Aim::Restore).then_some(&self.version)
    }

    /// When it wants to be carried on without any other event.
    pub fn due(&self) -> Option<Duration> {
        self.retry.into_iter().chain(self.trial).min()
    }

    /// The new version is to show that it works.
    pub fn is_trial(&self) -> bool {
        self.aim == Aim::Deploy && self.phase != Phase::Fetching
    }

    /// What comes next, when the app has no container any more (`empty`), or the image store is being cleaned (`collecting`).
    pub fn step(&self, empty: bool, collecting: bool, now: Duration) -> Step {
        match (self.aim, self.phase) {
            (Aim::Remove, Phase::Fetching) => Step::Stop,
            (Aim::Remove, _) if empty => Step::Removed,
            // What is found in the store now could be gone a moment later. A version restored is one that is being kept.
            (Aim::Deploy, Phase::Fetching) if collecting => Step::Wait,
            (Aim::Deploy | Aim::Restore, Phase::Fetching) if self.retry.is_none_or(|due| now >= due) => Step::Fetch,
            (Aim::Deploy, Phase::Starting | Phase::Testing) => Step::Watch,
            _ => Step::Wait,
        }
    }
}

/// What an election comes to.
#[derive(Debug, Default)]
pub struct Elected {
    /// What is to be done, in place of whatever was being done. Nothing: no container of the app is to run.
    pub work: Option<Work>,
    /// What is answered to origins that lost.
    pub answers: Vec<(Origin, Ack)>,
}

/// Decides which version of an app is wanted.
pub fn elect(record: &mut Desired, app: &Name, groups: &[Id]) -> Elected {
    let Some(winner) = desired::winner(&record.entries, &record.beside.lifted, app, groups).cloned() else { return Elected::default() };
    let answers = record::shadow(&mut record.entries, app, &winner.origin);
    let guard = record.beside.guarded.contains(app).then_some(None);
    let work = wanted(&winner).map(|(aim, version)| {
        let guard = guard.filter(|_| aim == Aim::Deploy);
        Work { guard, ..Work::new(winner.origin.clone(), version.clone(), aim) }
    });
    Elected { work, answers }
}

fn wanted(winner: &Entry) -> Option<(Aim, &Version)> {
    match winner.state {
        State::Failed => winner.kept.as_ref().map(|kept| (Aim::Restore, kept)),
        // Also a removal.
        _ if desired::waits(winner) => winner.kept.as_ref().map(|kept| (Aim::Restore, kept)),
        State::Removed if winner.newest.removal => None,
        _ if winner.newest.removal => Some((Aim::Remove, &winner.newest)),
        State::Running => Some((Aim::Restore, &winner.newest)),
        _ => Some((Aim::Deploy, &winner.newest)),
    }
}

/// After a start of keeper in the midst of a deployment, with no container there: the version before runs while the new one is brought in.
pub fn revive(record: &Desired, app: &Name, groups: &[Id]) -> Option<Work> {
    let winner = desired::winner(&record.entries, &record.beside.lifted, app, groups)?;
    let kept = winner.kept.as_ref().filter(|kept| !kept.removal)?;
    let midst = record::in_work(winner.state) && !winner.newest.removal;
    midst.then(|| Work::new(winner.origin.clone(), kept.clone(), Aim::Restore))
}

/// The answer for what a newer document of this origin overtakes.
pub fn superseded(record: &Desired, app: &Name, origin: &Origin, work: Option<&Work>) -> Option<Ack> {
    // One that was held never ran, but it was accepted: it too gets its end.
    let held = record.entries.iter().find(|e| e.app == *app && e.origin == *origin && e.state == State::Held);
    if let Some(entry) = held {
        return Some(Ack { state: State::Superseded, refusals: Vec::new(), ..record::answer(entry) });
    }
    let Version { seq, sha256, attempt, .. } = *work?.answers_to(origin)?;
    let (app, state) = (app.clone(), State::Superseded);
    Some(Ack { app, seq, sha256, attempt, state, refusals: Vec::new(), rolled_back_to: None, progress: None })
}

/// What follows a failure.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// The same again, after [`RESTORE_RETRY`]: nothing better is known.
    Retry,
    /// Nothing: the version before went on running all the time.
    Stay,
    /// The version before is started again.
    Restore(Box<Work>),
    /// Another origin's version may run instead, or nothing.
    Elect,
}

/// Work has failed: the answer, if somebody waits for one, and what follows. `is_whole` says of a version that its containers, and no others, are there
/// and stay.
pub fn fail(record: &mut Desired, app: &Name, work: &Work, failure: Failure, is_whole: impl Fn(&Version) -> bool) -> (Option<Ack>, Next) {
    if work.aim == Aim::Restore {
        return (None, Next::Retry);
    }
    let own = record.entries.iter().find(|e| e.app == *app && e.origin == work.origin);
    let next = match own.and_then(|e| e.kept.clone()).filter(|kept| !kept.removal) {
        Some(kept) if work.phase == Phase::Fetching && is_whole(&kept) => Next::Stay,
        Some(kept) => Next::Restore(Box::new(Work::new(work.origin.clone(), kept, Aim::Restore))),
        None => Next::Elect,
    };
    (record::conclude(record, app, &work.origin, &work.version, State::Failed, Some(failure)), next)
}
