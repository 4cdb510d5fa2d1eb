//! All worlds that a few disturbances lead to, random walks beyond them, and the shortest story of what goes wrong.

use crate::catalog::{Catalog, Nature};
use crate::check::{End, LONGEST, calm, end, fault, rest};
use crate::decisions::Decisions;
use crate::world::{Cut, Event, Move, World};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use wherry::keeper::desired::{Entry, Version};
use wherry::keeper::lifecycle::STABLE;
use wherry::keeper::store::Desired;
use wherry::keeper::trial::CRASHES;
use wherry::protocol::ContainerState;

/// What goes wrong, and how.
#[derive(Debug)]
pub struct Story {
    pub moves: Vec<Move>,
    pub fault: String,
}

impl Story {
    /// For people.
    pub fn show(&self, catalog: &Catalog) -> String {
        let one = |m: &Move| {
            let event = match m.event {
                Event::Publish(d) => format!("Publish({})", catalog.documents[d].name),
                other => format!("{other:?}"),
            };
            m.cut.map_or(event.clone(), |cut| format!("{event} with {cut:?}"))
        };
        format!("{}, by: {}", self.fault, self.moves.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

// ---- one world beside another ----

/// Two worlds with the same key have the same future. 64 bits: of a million worlds, two that differ have the same key with a chance of 3 in 100 million.
fn key(w: &World<'_>) -> u64 {
    let mut h = DefaultHasher::new();
    (w.retained, w.pending, w.up, w.process, &w.images, w.stage, w.uncollected, &w.ghost).hash(&mut h);
    desired(&w.desired, w.desired.boot, &mut h);
    desired(&w.flash, w.desired.boot, &mut h);
    if let Some(work) = &w.work {
        let ends = work.bounds.as_ref().map(|b| w.live.as_ref().map(|l| b.ends(&w.catalog.container, &l.life).min(CRASHES)));
        let until = work.bounds.as_ref().map(|b| b.until.saturating_sub(w.now));
        let [retry, trial] = [work.retry, work.trial].map(|due| due.map(|due| due.saturating_sub(w.now)));
        (&work.origin, work.aim, work.phase, retry, trial, ends, until).hash(&mut h);
        version(&work.version, &mut h);
    }
    if let Some(l) = &w.live {
        (l.manifest, l.ready, l.next, l.doomed, l.begun, l.wanted, l.finished, l.health).hash(&mut h);
        (l.failure.is_some(), life(&l.life, w.now)).hash(&mut h);
    }
    if let Some(r) = &w.runtime {
        (r.manifest, r.ready, r.begun, life(&r.life, w.now)).hash(&mut h);
    }
    h.finish()
}

/// Times by how far they are away, counts as far as they count.
fn life(life: &wherry::keeper::lifecycle::Life, now: Duration) -> impl Hash {
    // What follows a stop is the last thing on its record, and told nowhere else.
    let again = postcard::to_stdvec(life).expect("it is small").last().copied();
    let age = now.saturating_sub(life.since).min(STABLE);
    let exit = life.last_exit.map(|how| format!("{how:?}"));
    (
        life.state,
        life.streak().min(CRASHES + 1),
        life.ends().min(CRASHES + 1),
        exit,
        age,
        life.due().map(|due| due.saturating_sub(now)),
        again,
    )
}

/// The key of a record on flash.
pub fn record_key(record: &Desired) -> u64 {
    let mut h = DefaultHasher::new();
    desired(record, record.boot, &mut h);
    h.finish()
}

fn desired(d: &Desired, boot: u64, h: &mut DefaultHasher) {
    for e in &d.entries {
        entry(e, h);
    }
    (&d.beside.lifted, &d.beside.stopped, &d.beside.guarded).hash(h);
    for (app, version, first) in &d.beside.tried {
        (app, version, boot - first).hash(h);
    }
}

fn entry(e: &Entry, h: &mut DefaultHasher) {
    (&e.origin, e.mark, e.state, e.refusal.as_ref().map(|r| &r.path), &e.held, e.kept.is_some()).hash(h);
    version(&e.newest, h);
    if let Some(kept) = &e.kept {
        version(kept, h);
    }
}

fn version(v: &Version, h: &mut DefaultHasher) {
    (v.seq, v.sha256, v.removal, v.attempt, &v.images).hash(h);
}

// ---- what may happen ----

/// Everything that can happen now, and whether it is a disturbance; the rest happens by itself.
fn events(w: &World<'_>) -> Vec<(Event, bool)> {
    let state = w.live.as_ref().map(|l| l.life.state);
    let told_to = state == Some(ContainerState::Stopping) || w.process.is_some_and(|p| p.killed);
    let (nature, missing) = (w.nature(), w.stage.is_some_and(|d| w.document(d).nature == Nature::Missing));
    let documents = (0..w.catalog.documents.len()).map(|d| (Event::Publish(d), true));
    let deliveries = (0..3).map(|topic| (Event::Deliver(topic), !w.pending[topic]));
    let others = [
        (Event::ImageArrives, false),
        (Event::ImageFails, !missing),
        (Event::Begins, false),
        (Event::BeginFails, false),
        (Event::Ends, !(told_to || nature == Some(Nature::Ends))),
        (Event::Healthy, false),
        (Event::Unhealthy, nature != Some(Nature::Sick)),
        (Event::Time, false),
        (Event::LinkUp, false),
        (Event::LinkDown, true),
        (Event::Stop, true),
        (Event::Start, true),
        (Event::Retry, true),
        (Event::Crash, true),
        (Event::CrashAndEnd, true),
        (Event::PowerCut, true),
    ];
    documents.chain(deliveries).chain(others).filter(|(event, _)| w.can(*event)).collect()
}

fn cuts(writes: usize) -> impl Iterator<Item = Cut> {
    (0..writes).flat_map(|write| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(written, power)| Cut { write, written, power })
    })
}

// ---- all of them ----

/// How far an exploration went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Extent {
    pub worlds: usize,
    pub steps: usize,
}

struct Explorer<'a> {
    seen: HashMap<u64, usize>,
    parents: HashMap<u64, (u64, Move)>,
    ends: HashMap<u64, u64>,
    extent: Extent,
    catalog: &'a Catalog,
    decisions: &'a Decisions,
}

/// Every world that so many disturbances, at any moments, lead to; each is checked, as is where it comes to rest, also after a cut.
pub fn everything(catalog: &Catalog, decisions: &Decisions, disturbances: usize) -> Result<Extent, Story> {
    let (seen, parents, ends) = Default::default();
    let mut explorer = Explorer { seen, parents, ends, extent: Extent::default(), catalog, decisions };
    explorer.run(disturbances)?;
    Ok(explorer.extent)
}

impl<'a> Explorer<'a> {
    fn run(&mut self, disturbances: usize) -> Result<(), Story> {
        let first = World::new(self.catalog, self.decisions);
        self.seen.insert(key(&first), disturbances);
        let mut queue = VecDeque::from([(first, disturbances)]);
        while let Some((world, left)) = queue.pop_front() {
            let from = key(&world);
            if self.seen.get(&from).is_some_and(|best| *best > left) {
                continue;
            }
            for (event, disturbs) in events(&world) {
                let Some(left) = left.checked_sub(usize::from(disturbs)) else { continue };
                let next = self.make(&world, from, Move { event, cut: None }, left, &mut queue)?;
                let Some(left) = left.checked_sub(1) else { continue };
                for cut in cuts(next.writes) {
                    self.make(&world, from, Move { event, cut: Some(cut) }, left, &mut queue)?;
                }
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        world: &World<'a>,
        from: u64,
        step: Move,
        left: usize,
        queue: &mut VecDeque<(World<'a>, usize)>,
    ) -> Result<World<'a>, Story> {
        self.extent.steps += 1;
        let mut next = world.clone();
        next.step(step);
        let to = key(&next);
        match self.seen.get(&to) {
            Some(best) if *best >= left => return Ok(next),
            Some(_) => {}
            None => {
                self.extent.worlds += 1;
                self.parents.insert(to, (from, step));
                self.check(&next).map_err(|fault| self.story(to, fault))?;
            }
        }
        self.seen.insert(to, left);
        queue.push_back((next.clone(), left));
        Ok(next)
    }

    fn check(&mut self, world: &World<'a>) -> Result<(), String> {
        match fault(world) {
            Some(fault) => Err(fault),
            None => same_end(world, |w| self.end(w)),
        }
    }

    /// Where it comes to rest; found once for all on the way.
    fn end(&mut self, world: World<'a>) -> Result<u64, String> {
        let (mut world, mut way) = (world, Vec::new());
        let found = loop {
            let at = key(&world);
            if let Some(end) = self.ends.get(&at) {
                break *end;
            }
            way.push(at);
            let Some(event) = calm(&world).filter(|_| way.len() < LONGEST) else {
                rest(&mut world)?;
                let mut h = DefaultHasher::new();
                end(&world).hash(&mut h);
                break h.finish();
            };
            world.step(Move { event, cut: None });
            if let Some(fault) = fault(&world) {
                return Err(fault);
            }
        };
        self.ends.extend(way.into_iter().map(|at| (at, found)));
        Ok(found)
    }

    fn story(&self, at: u64, fault: String) -> Story {
        let (mut at, mut moves) = (at, Vec::new());
        while let Some((from, step)) = self.parents.get(&at) {
            moves.push(*step);
            at = *from;
        }
        moves.reverse();
        Story { moves, fault }
    }
}

/// A world comes to the same end whether keeper dies now, the power fails, or neither.
fn same_end<'a, T: PartialEq>(world: &World<'a>, mut end: impl FnMut(World<'a>) -> Result<T, String>) -> Result<(), String> {
    let undisturbed = end(world.clone())?;
    // A keeper that starts gives what has just failed, or was in a crash loop, another chance.
    let loops = world.live.as_ref().is_some_and(|l| l.failure.is_some() || l.life.ends().max(l.life.streak()) >= CRASHES);
    // What a document finds that is still on its way, a removal that is done or one that is not, is a matter of time.
    let comparable = !loops && world.has_heard_all();
    for event in [Event::Crash, Event::PowerCut] {
        // So many starts without an end that the next one is not made: that is another end.
        let boot = world.desired.boot;
        if event == Event::PowerCut && world.desired.beside.tried.iter().any(|(.., first)| boot + 1 > first + 2) {
            continue;
        }
        let mut cut = world.clone();
        cut.step(Move { event, cut: None });
        if let Some(fault) = fault(&cut) {
            return Err(format!("{fault} (after {event:?})"));
        }
        if end(cut).map_err(|fault| format!("{fault} (after {event:?})"))? != undisturbed && comparable {
            return Err(format!("after {event:?} it comes to another end"));
        }
    }
    Ok(())
}

// ---- one story ----

/// What goes wrong in this story, and after how many moves.
pub fn tell(catalog: &Catalog, decisions: &Decisions, moves: &[Move], every: usize) -> Option<(usize, String)> {
    let mut world = World::new(catalog, decisions);
    for (n, step) in moves.iter().enumerate() {
        world.step(*step);
        if let Some(fault) = fault(&world) {
            return Some((n + 1, fault));
        }
        if (n + 1) % every == 0 || n + 1 == moves.len() {
            let at_end = same_end(&world, |mut w| -> Result<End, String> {
                rest(&mut w)?;
                Ok(end(&w))
            });
            if let Err(fault) = at_end {
                return Some((n + 1, fault));
            }
        }
    }
    None
}

/// The same fault's shortest story to be had by leaving out moves, and cuts of them.
pub fn shrink(catalog: &Catalog, decisions: &Decisions, story: Story) -> Story {
    let mut best = story;
    loop {
        let shorter = (0..best.moves.len()).rev().flat_map(|i| {
            let without = [&best.moves[..i], &best.moves[i + 1..]].concat();
            let mut uncut = best.moves.clone();
            uncut[i].cut = None;
            [without, uncut].into_iter().filter(|moves| *moves != best.moves)
        });
        let found =
            shorter.into_iter().find_map(|moves| tell(catalog, decisions, &moves, 1).map(|(n, fault)| (moves[..n].to_vec(), fault)));
        match found {
            Some((moves, fault)) => best = Story { moves, fault },
            None => return best,
        }
    }
}

/// Xorshift (Marsaglia 2003): the same numbers for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }
}

/// A random walk of so many moves; its story, shrunk, if something goes wrong.
pub fn walk(catalog: &Catalog, decisions: &Decisions, seed: u64, length: usize) -> Result<usize, Story> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World::new(catalog, decisions);
    let mut moves = Vec::new();
    for _ in 0..length {
        let (all, calm) = (events(&world), dice.below(3) > 0);
        let mut fitting: Vec<Event> = all.iter().filter(|(_, disturbs)| !calm || !disturbs).map(|(event, _)| *event).collect();
        if fitting.is_empty() {
            // At rest, only a disturbance goes on.
            fitting = all.iter().map(|(event, _)| *event).collect();
        }
        if fitting.is_empty() {
            break;
        }
        let event = fitting[dice.below(fitting.len())];
        let [written, power] = [dice.below(2), dice.below(2)].map(|n| n == 1);
        let cut = (dice.below(8) == 0).then(|| Cut { write: dice.below(2), written, power });
        let step = Move { event, cut };
        world.step(step);
        moves.push(step);
        if fault(&world).is_some() {
            break;
        }
    }
    match tell(catalog, decisions, &moves, 5) {
        None => Ok(moves.len()),
        Some((n, fault)) => Err(shrink(catalog, decisions, Story { moves: moves[..n].to_vec(), fault })),
    }
}
