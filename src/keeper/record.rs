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
    if guarded {
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
