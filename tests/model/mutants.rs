//! Decisions that are wrong, one in each set: what a model that finds nothing wrong with them is worth, is nothing.

use crate::decisions::{Decisions, SHIPPED};
use std::time::Duration;
use wherry::ipc::{Ack, Failure, Origin, Refusal};
use wherry::keeper::desired::{self, Entry, Incoming, Verdict, Version};
use wherry::keeper::lifecycle::{Action, Event, Life, Rules};
use wherry::keeper::plan::{self, Change, Ready};
use wherry::keeper::record::{self, Taken};
use wherry::keeper::store::Desired;
use wherry::keeper::trial::{self, Look, Part};
use wherry::keeper::work::{self, Elected, Next, Work};
use wherry::manifest::{Id, Name};
use wherry::protocol::{ContainerState, Reason, State};

/// What is wrong, and the decisions with that.
pub const MUTANTS: [(&str, Decisions); 11] = [
    ("another document with the number of the last one is accepted", Decisions { decide: forgives_conflicts, ..SHIPPED }),
    ("a document with a lower number is accepted", Decisions { decide: forgives_age, ..SHIPPED }),
    ("a document is carried out before it is on record", Decisions { record_first: false, ..SHIPPED }),
    ("a document without a number takes the mark away", Decisions { accept: forgets_mark, ..SHIPPED }),
    ("what runs is forgotten when a document comes", Decisions { accept: forgets_what_runs, ..SHIPPED }),
    ("documents of other topics are left in work", Decisions { elect: leaves_losers, ..SHIPPED }),
    ("a failure forgets the version before", Decisions { fail: forgets_kept, ..SHIPPED }),
    ("the end of a version is not put on record", Decisions { conclude: concludes_nothing, ..SHIPPED }),
    ("every new version is good that begins", Decisions { look: looks_away, ..SHIPPED }),
    ("a container that is to be replaced is left alone", Decisions { changes: replaces_nothing, ..SHIPPED }),
    ("a container is started while it is being stopped", Decisions { life: starts_at_once, ..SHIPPED }),
];

fn forgives(known: Option<&Entry>, incoming: Incoming, what: Reason) -> Verdict {
    match desired::decide(known, incoming) {
        Verdict::Reject(reason, _) if reason == what => Verdict::Process,
        verdict => verdict,
    }
}

fn forgives_conflicts(known: Option<&Entry>, incoming: Incoming) -> Verdict {
    forgives(known, incoming, Reason::Conflict)
}

fn forgives_age(known: Option<&Entry>, incoming: Incoming) -> Verdict {
    forgives(known, incoming, Reason::Stale)
}

fn forgets_mark(record: &mut Desired, taken: Taken<'_>, groups: &[Id]) -> (State, Option<Refusal>) {
    let seq = taken.manifest.seq;
    let first = record::accept(record, taken, groups);
    if let Some(entry) = record.entries.last_mut() {
        entry.mark = seq;
    }
    first
}

fn forgets_what_runs(record: &mut Desired, taken: Taken<'_>, groups: &[Id]) -> (State, Option<Refusal>) {
    let first = record::accept(record, taken, groups);
    if let Some(entry) = record.entries.last_mut() {
        entry.kept = None;
    }
    first
}

fn leaves_losers(record: &mut Desired, app: &Name, groups: &[Id]) -> Elected {
    Elected { work: work::elect(&mut record.clone(), app, groups).work, answers: Vec::new() }
}

fn forgets_kept(
    record: &mut Desired,
    app: &Name,
    work: &Work,
    failure: Failure,
    is_whole: &dyn Fn(&Version) -> bool,
) -> (Option<Ack>, Next) {
    for entry in record.entries.iter_mut().filter(|e| e.origin == work.origin) {
        entry.kept = None;
    }
    work::fail(record, app, work, failure, is_whole)
}

fn concludes_nothing(
    record: &mut Desired,
    app: &Name,
    origin: &Origin,
    version: &Version,
    state: State,
    failure: Option<Failure>,
) -> Option<Ack> {
    record::conclude(&mut record.clone(), app, origin, version, state, failure)
}

fn looks_away(parts: &[Part<'_>], alone: bool, _kept: bool, until: Duration, now: Duration) -> Look {
    trial::look(parts, alone, false, until, now)
}

fn replaces_nothing(old: &[Ready], new: &[Ready]) -> Vec<(Name, Change)> {
    let kept = |(name, change)| (name, if change == Change::Replace { Change::Keep } else { change });
    plan::changes(old, new).into_iter().map(kept).collect()
}

fn starts_at_once(life: &mut Life, event: Event, rules: &Rules, now: Duration) -> Option<Action> {
    if (life.state, event) == (ContainerState::Stopping, Event::Start) {
        life.state = ContainerState::Starting;
        return Some(Action::Launch);
    }
    life.step(event, rules, now)
}
