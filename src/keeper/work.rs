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

    /// It is for the same end as that one, however far either is.
    pub fn is_same(&self, other: &Work) -> bool {
        let what = |w: &Work| (w.aim, w.version.seq, w.version.sha256, w.version.attempt);
        self.origin == other.origin && what(self) == what(other)
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

#[cfg(test)]
mod tests {
    use super::{Aim, Next, Phase, Step, Work, elect, fail, revive};
    use crate::image::Digest;
    use crate::ipc::{Failure, Origin, Refusal};
    use crate::keeper::desired::{Entry, ROLLOUT, Version};
    use crate::keeper::store::Desired;
    use crate::protocol::{Reason, State};
    use std::time::Duration;

    fn version(text: &str) -> Version {
        Version { seq: Some(1), sha256: Digest::of(text.as_bytes()), removal: text == "gone", attempt: 1, images: Vec::new() }
    }

    fn entry(origin: Origin, newest: &str, state: State, kept: Option<&str>) -> Entry {
        let (newest, kept) = (version(newest), kept.map(version));
        Entry { origin, app: "web".parse().unwrap(), mark: Some(1), newest, state, refusal: None, kept, held: Vec::new() }
    }

    fn group() -> Origin {
        Origin::Group("g".parse().unwrap())
    }

    fn record(entries: Vec<Entry>) -> Desired {
        Desired { entries, ..Desired::default() }
    }

    fn failure() -> Failure {
        Failure { reason: Reason::Fetch, message: "no".into() }
    }

    #[track_caller]
    fn check(newest: &str, state: State, kept: Option<&str>, path: &str, expected: Option<(Aim, &str)>) {
        let refusal = Refusal { reason: Reason::Policy, path: path.into(), message: String::new() };
        let mut record = record(vec![Entry { refusal: Some(refusal), ..entry(Origin::Device, newest, state, kept) }]);
        let work = elect(&mut record, &"web".parse().unwrap(), &[]).work;
        assert_eq!(work.map(|w| (w.aim, w.version)), expected.map(|(aim, text)| (aim, version(text))));
    }

    #[test]
    fn the_state_of_the_document_in_force_says_what_is_to_be_done() {
        use State::{Accepted, Failed, Fetching, Held, Removed, Running, Testing};
        check("new", Accepted, None, "", Some((Aim::Deploy, "new")));
        check("new", Testing, Some("old"), "", Some((Aim::Deploy, "new")));
        check("new", Held, Some("old"), "", Some((Aim::Deploy, "new")));
        check("new", Held, Some("old"), ROLLOUT, Some((Aim::Restore, "old")));
        check("new", Held, None, ROLLOUT, None);
        check("new", Running, None, "", Some((Aim::Restore, "new")));
        check("new", Failed, Some("old"), "", Some((Aim::Restore, "old")));
        check("new", Failed, None, "", None);
        check("gone", Accepted, Some("old"), "", Some((Aim::Remove, "gone")));
        check("gone", Fetching, Some("old"), "", Some((Aim::Remove, "gone")));
        check("gone", Removed, None, "", None);
    }

    #[test]
    fn a_document_in_work_that_loses_waits_and_a_removal_is_done() {
        for (newest, state, kept) in [("theirs", State::Held, Some(version("old"))), ("gone", State::Removed, None)] {
            let mut record =
                record(vec![entry(Origin::Device, "ours", State::Accepted, None), entry(group(), newest, State::Accepted, Some("old"))]);
            let elected = elect(&mut record, &"web".parse().unwrap(), &["g".parse().unwrap()]);
            assert_eq!(elected.work.map(|w| w.origin), Some(Origin::Device));
            assert_eq!((record.entries[1].state, &record.entries[1].kept), (state, &kept));
            assert_eq!(elected.answers.iter().map(|(to, ack)| (to, ack.state)).collect::<Vec<_>>(), [(&group(), state)]);
        }
    }

    #[test]
    fn after_a_start_in_the_midst_of_a_deployment_the_version_before_runs_meanwhile() {
        let revived = |state, newest, kept| {
            let record = record(vec![entry(Origin::Device, newest, state, kept)]);
            revive(&record, &"web".parse().unwrap(), &[]).map(|w| (w.aim, w.version))
        };
        assert_eq!(revived(State::Testing, "new", Some("old")), Some((Aim::Restore, version("old"))));
        for (state, newest, kept) in
            [(State::Testing, "new", None), (State::Failed, "new", Some("old")), (State::Accepted, "gone", Some("old"))]
        {
            assert_eq!(revived(state, newest, kept), None, "{state} {newest}");
        }
    }

    #[test]
    fn a_failure_leaves_what_runs_goes_back_or_lets_others_have_it() {
        for (aim, phase, kept, whole, expected) in [
            (Aim::Restore, Phase::Fetching, None, false, "Retry"),
            (Aim::Deploy, Phase::Fetching, Some("old"), true, "Stay"),
            (Aim::Deploy, Phase::Fetching, Some("old"), false, "Restore"),
            (Aim::Deploy, Phase::Testing, Some("old"), true, "Restore"),
            (Aim::Deploy, Phase::Testing, None, false, "Elect"),
        ] {
            let mut record = record(vec![entry(Origin::Device, "new", State::Testing, kept)]);
            let work = Work { phase, ..Work::new(Origin::Device, version("new"), aim) };
            let (answer, next) = fail(&mut record, &"web".parse().unwrap(), &work, failure(), |v| whole && *v == version("old"));
            assert!(format!("{next:?}").starts_with(expected), "{next:?}, not {expected}");
            assert_eq!(answer.map(|ack| ack.state), (next != Next::Retry).then_some(State::Failed));
            assert_eq!(record.entries[0].state, if next == Next::Retry { State::Testing } else { State::Failed });
        }
    }

    #[test]
    fn the_end_of_an_overtaken_version_is_nobodys_news() {
        let mut record = record(vec![entry(Origin::Device, "newer", State::Accepted, Some("old"))]);
        let work = Work::new(Origin::Device, version("new"), Aim::Deploy);
        let before = record.clone();
        assert_eq!(fail(&mut record, &"web".parse().unwrap(), &work, failure(), |_| true), (None, Next::Stay));
        assert_eq!(record, before);
    }

    #[test]
    fn work_waits_for_what_its_phase_needs() {
        let now = Duration::from_secs(9);
        let step = |aim, phase, retry, empty, collecting| {
            Work { phase, retry, ..Work::new(Origin::Device, version("new"), aim) }.step(empty, collecting, now)
        };
        assert_eq!(step(Aim::Deploy, Phase::Fetching, None, false, false), Step::Fetch);
        assert_eq!(step(Aim::Deploy, Phase::Fetching, None, false, true), Step::Wait, "what is there could be gone");
        assert_eq!(step(Aim::Restore, Phase::Fetching, None, false, true), Step::Fetch, "what is kept is not");
        assert_eq!(step(Aim::Restore, Phase::Fetching, Some(now * 2), false, false), Step::Wait);
        assert_eq!(step(Aim::Restore, Phase::Fetching, Some(now), false, false), Step::Fetch);
        assert_eq!(step(Aim::Deploy, Phase::Testing, None, false, false), Step::Watch);
        assert_eq!(step(Aim::Remove, Phase::Fetching, None, true, false), Step::Stop);
        assert_eq!(step(Aim::Remove, Phase::Starting, None, false, false), Step::Wait);
        assert_eq!(step(Aim::Remove, Phase::Starting, None, true, false), Step::Removed);
    }
}
