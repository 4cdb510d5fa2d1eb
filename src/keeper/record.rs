//! What changes the desired state on record: a document, the steps and the end of a version, another origin's better document, a stop by hand. Pure.

use crate::image::Digest;
use crate::ipc::{Ack, Failure, Origin, Refusal};
use crate::keeper::desired::{self, Entry, Version};
use crate::keeper::store::Desired;
use crate::keeper::trial;
use crate::manifest::{Body, Id, Manifest, Name};
use crate::protocol::{Reason, State};

/// Why a document is held although nothing is wrong with it.
const SHADOWED: &str = "shadowed by a document with precedence (device before group, groups in the device's order)";

/// A document to take, and what was found out about it.
#[derive(Debug, Clone)]
pub struct Taken<'a> {
    /// Which topic it came by.
    pub origin: &'a Origin,
    /// What it says.
    pub manifest: &'a Manifest,
    /// Hash of its exact bytes.
    pub sha256: Digest,
    /// Why it is not for this device yet; it waits then.
    pub hold: Option<Refusal>,
    /// It must leave the way to the broker open.
    pub guarded: bool,
    /// Marks of removed apps that are forgotten count: documents are signed.
    pub signed: bool,
}

/// What runs, or is gone back to, when this document is taken. What was lifted is not gone back to; one that `waits` lifts nothing yet.
pub fn replaced<'a>(known: Option<&'a Entry>, document: &Manifest, waits: bool) -> Option<&'a Version> {
    known.filter(|_| waits || document.body != Body::Inherit).and_then(Entry::in_force)
}

/// Puts a document in the place of its origin's last one. Its first state, and why it is held.
pub fn accept(record: &mut Desired, taken: Taken<'_>, groups: &[Id]) -> (State, Option<Refusal>) {
    let Taken { origin, manifest: m, sha256, hold, guarded, signed } = taken;
    let winner = desired::winner(&record.entries, &record.beside.lifted, &m.app, groups);
    let was_in_force = winner.is_some_and(|e| e.origin == *origin);
    let position = record.entries.iter().position(|e| e.origin == *origin && e.app == m.app);
    let old = position.map(|i| record.entries.remove(i));
    let kept = replaced(old.as_ref(), m, hold.is_some()).cloned();
    let state = match (&m.body, &hold) {
        (_, Some(_)) => State::Held,
        (Body::Inherit, _) => State::Removed,
        _ => State::Accepted,
    };
    record.beside.accepted(m, origin, state, was_in_force);
    if guarded && !record.beside.guarded.contains(&m.app) {
        record.beside.guarded.push(m.app.clone());
    }
    let newest = Version { seq: m.seq, sha256, removal: !matches!(m.body, Body::Run(_)), attempt: 1, images: Vec::new() };
    let mark = m.seq.max(old.as_ref().and_then(|e| e.mark));
    // What a person stopped stays so while the version that runs here stays.
    let held = old.filter(|_| state == State::Held).map(|e| e.held).unwrap_or_default();
    let first = (state, hold.clone());
    record.entries.push(Entry { origin: origin.clone(), app: m.app.clone(), mark, newest, state, refusal: hold, kept, held });
    let forgotten = desired::forget_oldest(&mut record.entries);
    record.beside.tidy(&record.entries);
    if signed {
        desired::remember(&mut record.signed.forgotten, &forgotten);
    }
    first
}

/// On the way to its end: work is being done for it, or is about to be.
pub fn in_work(state: State) -> bool {
    !state.is_terminal() && state != State::Held
}

/// Documents in work that lose to another origin's wait; a removal has nothing to wait for. What is answered to whom.
pub fn shadow(entries: &mut [Entry], app: &Name, winner: &Origin) -> Vec<(Origin, Ack)> {
    let losers = entries.iter_mut().filter(|e| e.app == *app && e.origin != *winner && in_work(e.state));
    let shadowed = losers.map(|e| {
        e.state = if e.newest.removal { State::Removed } else { State::Held };
        e.kept = e.kept.take().filter(|_| !e.newest.removal);
        e.refusal = (e.state == State::Held).then(|| Failure { reason: Reason::Policy, message: SHADOWED.into() }.into());
        (e.origin.clone(), answer(e))
    });
    shadowed.collect()
}

/// A step on the way of a version; the answer for it.
pub fn tell(record: &mut Desired, app: &Name, origin: &Origin, version: &Version, state: State) -> Ack {
    if let Some(e) = entry_mut(record, app, origin) {
        e.state = state;
    }
    let Version { seq, sha256, attempt, .. } = *version;
    Ack { app: app.clone(), seq, sha256, attempt, state, refusals: Vec::new(), rolled_back_to: None, progress: None }
}

/// A version has come to its end; the answer for it. `None` if it is not the newest any more: then nobody waits to hear of it.
pub fn conclude(
    record: &mut Desired,
    app: &Name,
    origin: &Origin,
    version: &Version,
    state: State,
    failure: Option<Failure>,
) -> Option<Ack> {
    let entry = entry_mut(record, app, origin)?;
    if entry.newest.sha256 != version.sha256 || entry.newest.seq != version.seq {
        return None;
    }
    entry.newest = version.clone();
    entry.state = state;
    entry.refusal = failure.map(Refusal::from);
    if state != State::Failed {
        entry.kept = None;
    }
    let answer = answer(entry);
    record.beside.guarded.retain(|guarded| guarded != app);
    record.beside.tried.retain(|(tried, ..)| tried != app);
    Some(answer)
}

/// Another attempt at a version that failed; its answers count it.
pub fn retry(entry: &mut Entry) -> Ack {
    entry.newest.attempt = entry.newest.attempt.saturating_add(1);
    (entry.state, entry.refusal) = (State::Accepted, None);
    answer(entry)
}

/// Stops containers of an app by hand or by command, or lets them run; whether that is new.
pub fn hold(record: &mut Desired, app: &Name, groups: &[Id], names: &[Name], stop: bool, commanded: bool) -> bool {
    let winner = desired::winner(&record.entries, &record.beside.lifted, app, groups).map(|e| e.origin.clone());
    let Some(entry) = record.entries.iter_mut().find(|e| e.app == *app && Some(&e.origin) == winner.as_ref()) else { return false };
    let before = (entry.held.clone(), record.beside.stopped.clone());
    let by_command: Vec<(Name, Name)> =
        names.iter().filter(|n| stop && commanded && !entry.held.contains(n)).map(|n| (app.clone(), n.clone())).collect();
    entry.held.retain(|n| !names.contains(n));
    if stop {
        entry.held.extend_from_slice(names);
    }
    let stopped = &mut record.beside.stopped;
    if !stop || !commanded {
        stopped.retain(|(a, n)| a != app || !names.contains(n));
    }
    stopped.extend(by_command);
    (&entry.held, &*stopped) != (&before.0, &before.1)
}

/// There is a version to go back to, should this origin's new one fail.
pub fn has_kept(entries: &[Entry], app: &Name, origin: &Origin) -> bool {
    let runs_anyway = |e: &Entry| match e.origin == *origin {
        true => e.kept.as_ref().is_some_and(|k| !k.removal),
        false => e.in_force().is_some(),
    };
    entries.iter().filter(|e| e.app == *app).any(runs_anyway)
}

/// Counts the start `boot` of keeper as one in which a version is started that has one to go back to. True if that is new, and has to be on record
/// before it is started: it may take the device down. The error is for one that has done so too often, unless it `waits` for somebody who stopped it.
pub fn count_try(record: &mut Desired, app: &Name, version: Digest, boot: u64, waits: bool) -> Result<bool, Failure> {
    let tried = &mut record.beside.tried;
    match tried.iter().find(|(a, v, _)| a == app && *v == version) {
        Some((.., first)) if !waits && trial::is_given_up(*first, boot) => {
            let message = format!(
                "the device has been started {} times since this version was first started, and it has not shown that it works",
                boot - first
            );
            Err(Failure { reason: Reason::CrashLoop, message })
        }
        Some(_) => Ok(false),
        None => {
            tried.retain(|(a, ..)| a != app);
            tried.push((app.clone(), version, boot));
            Ok(true)
        }
    }
}

/// The last answer for an entry, as it would be told again.
pub fn answer(entry: &Entry) -> Ack {
    let kept = entry.kept.as_ref().filter(|k| entry.state == State::Failed && !k.removal);
    Ack {
        app: entry.app.clone(),
        seq: entry.newest.seq,
        sha256: entry.newest.sha256,
        attempt: entry.newest.attempt,
        state: entry.state,
        refusals: entry.refusal.iter().cloned().collect(),
        rolled_back_to: kept.map(|k| (k.seq, k.sha256)),
        progress: None,
    }
}

fn entry_mut<'a>(record: &'a mut Desired, app: &Name, origin: &Origin) -> Option<&'a mut Entry> {
    record.entries.iter_mut().find(|e| e.app == *app && e.origin == *origin)
}

#[cfg(test)]
mod tests {
    use super::{Taken, accept, conclude, count_try, hold};
    use crate::image::Digest;
    use crate::ipc::{Failure, Origin, Refusal};
    use crate::keeper::desired::Version;
    use crate::keeper::store::Desired;
    use crate::manifest::{Name, parse};
    use crate::protocol::{Reason, State};

    fn web() -> Name {
        "web".parse().unwrap()
    }

    fn take(record: &mut Desired, document: &str, hold: Option<Refusal>) -> State {
        let (bytes, origin) = (format!(r#"{{"wherry": 1, "app": "web", {document}}}"#), Origin::Device);
        let manifest = &parse(bytes.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
        let sha256 = Digest::of(bytes.as_bytes());
        accept(record, Taken { origin: &origin, manifest, sha256, hold, guarded: false, signed: false }, &[]).0
    }

    fn end(record: &mut Desired, state: State) -> Option<State> {
        let version = record.entries[0].newest.clone();
        let failure = (state == State::Failed).then(|| Failure { reason: Reason::Exec, message: "no".into() });
        conclude(record, &web(), &Origin::Device, &version, state, failure).map(|ack| ack.state)
    }

    fn kept(record: &Desired) -> Option<u64> {
        record.entries[0].kept.as_ref().and_then(|v| v.seq)
    }

    const RUN: &str = r#""containers": {"main": {"image": {"ref": "oci:/i"}}}"#;

    fn numbered(seq: u64) -> String {
        format!(r#""seq": {seq}, {RUN}"#)
    }

    #[test]
    fn what_runs_is_kept_until_a_newer_version_runs() {
        let record = &mut Desired::default();
        assert_eq!(take(record, &numbered(1), None), State::Accepted);
        assert_eq!(take(record, &numbered(2), None), State::Accepted);
        assert_eq!(kept(record), None, "the first one never ran");
        assert_eq!(end(record, State::Running), Some(State::Running));
        for seq in [3, 4] {
            take(record, &numbered(seq), None);
            assert_eq!(kept(record), Some(2), "{seq}");
        }
        assert_eq!(end(record, State::Failed), Some(State::Failed));
        take(record, &numbered(5), None);
        assert_eq!(kept(record), Some(2), "what failed is nobody's to go back to");
        end(record, State::Running);
        assert_eq!(kept(record), None);
    }

    #[test]
    fn a_mark_never_sinks_and_what_is_lifted_is_not_gone_back_to() {
        let record = &mut Desired::default();
        take(record, &numbered(7), None);
        end(record, State::Running);
        assert_eq!(take(record, r#""seq": 8, "inherit": true"#, None), State::Removed);
        assert_eq!((kept(record), &record.beside.lifted[..]), (None, &[web()][..]));
        take(record, RUN, None);
        assert_eq!((record.entries[0].mark, record.beside.lifted.len()), (Some(8), 0));
    }

    #[test]
    fn the_end_of_another_version_than_the_newest_changes_nothing() {
        let record = &mut Desired::default();
        take(record, &numbered(2), None);
        let (before, older) = (record.clone(), Version { seq: Some(1), ..record.entries[0].newest.clone() });
        assert_eq!(conclude(record, &web(), &Origin::Device, &older, State::Running, None), None);
        assert_eq!(*record, before);
    }

    #[test]
    fn a_stop_holds_until_a_document_that_does_not_wait() {
        let (record, main) = (&mut Desired::default(), ["main".parse().unwrap()]);
        take(record, &numbered(1), None);
        assert!(hold(record, &web(), &[], &main, true, false) && !hold(record, &web(), &[], &main, true, true));
        let refusal = Refusal { reason: Reason::Policy, path: "rollout".into(), message: String::new() };
        assert_eq!(take(record, &numbered(2), Some(refusal)), State::Held);
        assert_eq!(record.entries[0].held, main);
        take(record, &numbered(3), None);
        assert!(record.entries[0].held.is_empty() && !hold(record, &web(), &[], &main, false, false));
    }

    #[test]
    fn a_version_is_counted_once_in_each_start_of_keeper_and_given_up_after_three() {
        let (record, version) = (&mut Desired::default(), Digest::of(b"a"));
        let mut count = |boot, waits| count_try(record, &web(), version, boot, waits).map_err(|f| f.reason);
        assert_eq!(count(5, false), Ok(true));
        assert_eq!([count(5, false), count(7, false)], [Ok(false), Ok(false)]);
        assert_eq!([count(8, false), count(8, true)], [Err(Reason::CrashLoop), Ok(false)]);
    }
}
