//! What must hold after every step, how a world comes to rest when nobody disturbs it any more, and what must hold then.

use crate::catalog::Nature;
use crate::world::{Event, Move, World};
use wherry::image::Digest;
use wherry::ipc::Origin;
use wherry::keeper::desired::{self, Entry};
use wherry::manifest::Body;
use wherry::protocol::{ContainerState, State};

/// Steps to rest at most.
pub const LONGEST: usize = 80;

/// What is wrong after a step.
pub fn fault(world: &World<'_>) -> Option<String> {
    let promised = &world.ghost.promised;
    let sinks = |e: &Entry| {
        let before = promised[topic(world, e)];
        (e.mark < before).then(|| format!("the mark of {} is {:?} after {before:?}", e.origin, e.mark))
    };
    let lost = || {
        let unknown = |t: &usize| promised[*t].is_some() && !world.desired.entries.iter().any(|e| topic(world, e) == *t);
        (0..3).find(unknown).map(|t| format!("what was accepted on topic {t} is not known any more"))
    };
    world.ghost.fault.clone().or_else(|| world.desired.entries.iter().find_map(sinks)).or_else(lost)
}

/// What happens next when nobody does anything, and programs are as they are; nothing more at rest.
pub fn calm(world: &World<'_>) -> Option<Event> {
    let (live, nature, works) = (world.live.as_ref(), world.nature(), world.work.is_some());
    let is = |state| live.is_some_and(|l| l.life.state == state);
    let stopping = is(ContainerState::Stopping) && world.process.is_some();
    let killed = world.process.is_some_and(|p| p.killed);
    let of_live = live.map(|l| world.document(l.ready).nature);
    let passes = works || is(ContainerState::Stopping) || (of_live == Some(Nature::Works));
    let deliver = (0..3).find(|topic| world.pending[*topic]).map(Event::Deliver);
    let next = [
        (!world.up).then_some(Event::LinkUp),
        deliver,
        Some(Event::ImageArrives),
        Some(Event::ImageFails),
        (stopping || killed).then_some(Event::Ends),
        Some(Event::Begins),
        Some(Event::BeginFails),
        (works && nature == Some(Nature::Ends)).then_some(Event::Ends),
        (works && nature == Some(Nature::Sick)).then_some(Event::Unhealthy),
        Some(Event::Healthy),
        passes.then_some(Event::Time),
    ];
    next.into_iter().flatten().find(|event| world.can(*event))
}

/// Lets it come to rest; what is wrong with where that is, or how it comes to be.
pub fn rest(world: &mut World<'_>) -> Result<(), String> {
    for _ in 0..LONGEST {
        let Some(event) = calm(world) else { return at_rest(world) };
        world.step(Move { event, cut: None });
        if let Some(fault) = fault(world) {
            return Err(fault);
        }
    }
    Err("it never comes to rest".into())
}

/// What is wrong with a world at rest.
pub fn at_rest(world: &World<'_>) -> Result<(), String> {
    let held = winner(world).is_some_and(|e| !e.held.is_empty());
    if held {
        return if world.process.is_some() { Err("what somebody has stopped has a process".into()) } else { Ok(()) };
    }
    if let Some(work) = &world.work {
        return Err(format!("at rest, {} is still {:?} {:?}", name(world, &work.version.sha256), work.aim, work.phase));
    }
    let entries = &world.desired.entries;
    if let Some(e) = entries.iter().find(|e| !e.state.is_terminal() && e.state != State::Held) {
        return Err(format!("at rest, {} is still {}", name(world, &e.newest.sha256), e.state));
    }
    runs(world, expected(world))?;
    kept(world)?;
    ended(world)
}

/// This version, and nothing else, is there and up.
fn runs(world: &World<'_>, wanted: Option<Digest>) -> Result<(), String> {
    let (live, process) = (world.live.as_ref(), world.process);
    let Some(wanted) = wanted else {
        return match (live, process) {
            (None, None) => Ok(()),
            _ => Err(format!("nothing should run, and {} does", live.map_or("a process", |l| name(world, &l.manifest)))),
        };
    };
    let Some(live) = live else { return Err(format!("{} should run, and nothing does", name(world, &wanted))) };
    let document = world.document(world.catalog.of(&wanted));
    let same = document.ready == world.document(live.ready).ready;
    let up = process.is_some_and(|p| p.begun && world.document(p.document).ready == document.ready)
        && live.life.state == ContainerState::Running;
    // One that never worked may have been the first, or have been called good while somebody held it.
    let hopeless = document.nature != Nature::Works;
    if live.manifest != wanted || !same || live.doomed || live.next.is_some() || !(up || hopeless) {
        let how = format!("{} as {}{}", name(world, &live.manifest), live.life.state, if live.doomed { ", on its way out" } else { "" });
        return Err(format!("{} should run, and there is {how}", document.name));
    }
    Ok(())
}

/// By the words of the contract: the device before groups, groups in their order; who has nothing to run lets the next one.
fn expected(world: &World<'_>) -> Option<Digest> {
    let mut entries: Vec<&Entry> = world.desired.entries.iter().collect();
    entries.sort_by_key(|e| topic(world, e));
    for e in entries {
        let (own, body) = (topic(world, e) == 0, &world.document(world.catalog.of(&e.newest.sha256)).manifest.body);
        let mine = match e.state {
            State::Running => Some(e.newest.sha256),
            State::Failed | State::Held => e.kept.as_ref().map(|k| k.sha256),
            _ => None,
        };
        if mine.is_some() || (own && matches!(body, Body::Remove { .. })) {
            return mine;
        }
    }
    None
}

/// A version that has run comes back whenever one after it fails, unless its topic, or the device's, had it removed.
fn kept(world: &World<'_>) -> Result<(), String> {
    let not_here = |e: &Entry| e.origin == Origin::Device && e.state == State::Removed && !world.desired.beside.lifted.contains(&e.app);
    match world.ghost.good.iter().flatten().next() {
        Some(good) if world.live.is_none() && !world.desired.entries.iter().any(not_here) => {
            Err(format!("{} has run, nothing removed it, and nothing runs", world.document(*good).name))
        }
        _ => Ok(()),
    }
}

/// Whatever was accepted has had its end, but for what is held.
fn ended(world: &World<'_>) -> Result<(), String> {
    if world.ghost.cut {
        return Ok(());
    }
    let held = |sha256: &Digest| world.desired.entries.iter().any(|e| e.state == State::Held && e.newest.sha256 == *sha256);
    let documents = world.catalog.documents.iter().enumerate();
    let open = |(i, d): &(usize, &crate::catalog::Document)| {
        world.ghost.taken & 1 << i != 0 && world.ghost.end_of(*i).is_none() && !held(&d.sha256)
    };
    documents.into_iter().find(open).map_or(Ok(()), |(_, d)| Err(format!("the end of {} was never told", d.name)))
}

/// Where a world has come to, as far as two should come to the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct End {
    pub runs: Option<Digest>,
    pub entries: Vec<EntryEnd>,
}

/// One origin's part: its mark, its newest version, how that ended, what is kept beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntryEnd {
    pub origin: String,
    pub mark: Option<u64>,
    pub newest: Digest,
    pub state: Option<State>,
    pub kept: Option<Digest>,
}

pub fn end(world: &World<'_>) -> End {
    let up = world.process.is_some() || world.live.as_ref().is_some_and(|l| l.life.state == ContainerState::Restarting);
    let runs = world.live.as_ref().filter(|_| up).map(|l| l.manifest);
    // A trial that waits for somebody is wherever it is.
    let state = |e: &Entry| Some(e.state).filter(|s| s.is_terminal() || *s == State::Held);
    let entry = |e: &Entry| EntryEnd {
        origin: e.origin.to_string(),
        mark: e.mark,
        newest: e.newest.sha256,
        state: state(e),
        kept: e.kept.as_ref().map(|k| k.sha256),
    };
    let mut entries: Vec<EntryEnd> = world.desired.entries.iter().map(entry).collect();
    entries.sort_by(|a, b| a.origin.cmp(&b.origin));
    End { runs, entries }
}

fn winner<'a>(world: &'a World<'_>) -> Option<&'a Entry> {
    desired::winner(&world.desired.entries, &world.desired.beside.lifted, &world.catalog.app, &world.catalog.groups)
}

/// Its number, as documents have it.
fn topic(world: &World<'_>, e: &Entry) -> usize {
    world.document(world.catalog.of(&e.newest.sha256)).topic
}

fn name(world: &World<'_>, sha256: &Digest) -> &'static str {
    world.document(world.catalog.of(sha256)).name
}
