//! Who reads the output of containers and writes their input: `logs`, `attach` and `run`.
//!
//! A reader has a position in the ring of each container and takes what its connection takes. Who reads too slowly loses what gives way, but
//! for an attached one: it may hold the container up while it reads on, and for [`PATIENCE`] when it does not.

use super::{Client, Op};
use crate::container::console::Frame;
use crate::ipc::{LogChunk, Reply, Scope};
use crate::keeper::Keeper;
use crate::keeper::containers::Live;
use crate::keeper::poll::Key;
use crate::keeper::ring::{Piece, share};
use crate::manifest::{Name, Stdin};
use crate::protocol::Reason;
use crate::sys::process::Ended;
use std::time::Duration;

/// Bytes of output in one frame.
const LOG_CHUNK: usize = 32 * 1024;
/// Frames for one connection in one turn.
const PER_TURN: usize = 8;
/// How long a reader that takes nothing may hold a container up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Output of containers, on its way to a connection.
pub struct Reading {
    of: Scope,
    /// How far each container has been read, and up to where it is to be.
    positions: Vec<(Name, u64, u64)>,
    /// Stay until they end.
    follow: bool,
    /// All of it must get there.
    whole: bool,
}

impl Reading {
    /// So many bytes of what was read last are to be read again.
    pub fn back(&mut self, container: &Name, bytes: usize) {
        if let Some((_, next, _)) = self.positions.iter_mut().find(|(name, ..)| name == container) {
            *next -= bytes as u64;
        }
    }
}

/// A connection to the console of a container.
pub struct Attached {
    key: Key,
    /// Pid 1 of the run that it is attached to.
    pid: i32,
    position: u64,
    /// Input that the container does not take yet; nothing more is read from the connection before it does.
    waiting: Option<Frame>,
}

impl Client {
    /// When it stops being one that containers wait for.
    pub fn patience_ends(&self) -> Option<Duration> {
        self.stalled.filter(|_| self.holds().next().is_some()).map(|since| since + PATIENCE)
    }

    /// App, container and position from which on it must get all.
    fn holds(&self) -> impl Iterator<Item = (&Name, &Name, u64)> {
        let (reading, attached) = match &self.op {
            Op::Logs(reading) if reading.whole => (Some(reading), None),
            Op::Attach(attached) => (None, Some(attached)),
            _ => (None, None),
        };
        let read = reading.into_iter().flat_map(|r| r.positions.iter().map(|(container, position, _)| (&r.of.app, container, *position)));
        read.chain(attached.map(|a| (&a.key.app, &a.key.container, a.position)))
    }

    /// It waits for a container to take its input.
    pub fn is_typing(&self) -> bool {
        matches!(&self.op, Op::Attach(attached) if attached.waiting.is_some())
    }
}

impl Keeper {
    /// Once a turn: every ring has its share of the memory, and every pipe is read as far as ring, pace and readers let it.
    pub fn mind_output(&mut self, now: Duration) {
        let Self { ctx, apps, clients, .. } = self;
        let wanted: u64 = apps.iter().flat_map(|a| &a.live).map(|l| u64::from(l.ring.wanted())).sum();
        let budget = ctx.settings.limits.max_log_bytes;
        if (wanted > budget) != ctx.short_of_rings {
            ctx.short_of_rings = wanted > budget;
            match ctx.short_of_rings {
                true => {
                    log::warn!("output of all containers wants {wanted} bytes of memory, limits.max_log_bytes is {budget}: each keeps less")
                }
                false => log::info!("output of all containers fits into limits.max_log_bytes again"),
            }
        }
        let prompt = clients.iter().filter(|c| c.patience_ends().is_none_or(|end| now < end));
        let held: Vec<(&Name, &Name, u64)> = prompt.flat_map(Client::holds).collect();
        for live in apps.iter_mut().flat_map(|a| a.live.iter_mut()) {
            let of_this = held.iter().filter(|(app, container, _)| **app == live.key.app && **container == live.key.container);
            live.ring.hold(of_this.map(|(.., position)| *position).min());
            let size = share(live.ring.wanted(), wanted, budget);
            if size != live.ring.size() {
                live.ring.set_size(size);
            }
            live.resume(ctx, now);
        }
    }

    // ---- logs ----

    /// Somebody asks for output.
    pub fn logs(&mut self, id: u64, of: Scope, follow: bool, (tail, since_ms): (Option<u32>, u64), whole: bool) {
        let Some(reading) = self.reading(&of, follow, (tail, since_ms), whole) else {
            return self.no_such(id, &of.app, of.container.as_ref());
        };
        self.set_op(id, Op::Logs(reading));
        self.pump_output(id);
        self.mind_output(self.now());
    }

    /// A reader that has read nothing yet; `None` where there is nothing to read.
    pub(super) fn reading(&mut self, of: &Scope, follow: bool, (tail, since_ms): (Option<u32>, u64), whole: bool) -> Option<Reading> {
        let live = self.in_scope(of);
        let from = |l: &Live| l.ring.tail(tail).max(l.ring.since(since_ms));
        let positions: Vec<_> = live.iter().map(|l| (l.key.container.clone(), from(l), u64::MAX)).collect();
        (!positions.is_empty()).then(|| Reading { of: of.clone(), positions, follow, whole })
    }

    /// What comes from now on is not for this reader.
    pub(super) fn read_no_further(&mut self, reading: &mut Reading) {
        reading.follow = false;
        for live in self.in_scope(&reading.of) {
            if let Some((.., until)) = reading.positions.iter_mut().find(|(name, ..)| *name == live.key.container) {
                *until = live.ring.end();
            }
        }
    }

    /// Output goes on to everybody who reads.
    pub fn pump_all_output(&mut self) {
        let reads = |c: &&Client| matches!(c.op, Op::Logs(_) | Op::Attach(_));
        let ids: Vec<u64> = self.clients.iter().filter(reads).map(|c| c.id).collect();
        for id in ids {
            self.pump_output(id);
        }
    }

    /// Sends output while the connection takes it; the ring holds what it does not.
    pub fn pump_output(&mut self, id: u64) {
        for _ in 0..PER_TURN {
            let Some(client) = self.clients.iter_mut().find(|c| c.id == id && c.queue.is_empty()) else { return };
            let next = match std::mem::take(&mut client.op) {
                Op::Logs(mut reading) => {
                    let next = self.next_of_logs(&mut reading, LOG_CHUNK);
                    self.set_op(id, Op::Logs(reading));
                    next
                }
                Op::Attach(mut attached) => {
                    let next = self.next_of_console(&mut attached);
                    self.set_op(id, Op::Attach(attached));
                    next
                }
                other => return self.set_op(id, other),
            };
            match next {
                Some(chunk @ Reply::Log(_)) => self.reply(id, &chunk),
                Some(end) => {
                    self.set_op(id, Op::Idle);
                    return self.reply(id, &end);
                }
                None => return,
            }
        }
        self.go_on_writing(id);
    }

    /// The oldest of what its containers have; `None` while there may be more.
    pub(super) fn next_of_logs(&mut self, reading: &mut Reading, most: usize) -> Option<Reply> {
        let Reading { of, positions, follow, .. } = reading;
        let mut live = self.in_scope(of);
        for l in &live {
            if *follow && !positions.iter().any(|(name, ..)| *name == l.key.container) {
                positions.push((l.key.container.clone(), l.ring.start(), u64::MAX));
            }
        }
        let unread = |name: &Name| positions.iter().position(|(other, next, until)| other == name && next < until);
        let pairs = live.iter_mut().filter_map(|l| Some((unread(&l.key.container)?, l)));
        let oldest = pairs.filter_map(|(i, l)| Some((l.ring.time(positions[i].1)?, i, l))).min_by_key(|(at, ..)| *at);
        if let Some((_, i, l)) = oldest {
            let (_, position, until) = &mut positions[i];
            let left = usize::try_from(*until - *position).unwrap_or(most);
            let Piece { bytes, next, lost, at_ms } = l.ring.read(*position, most.min(left));
            *position = next;
            return Some(Reply::Log(LogChunk { container: l.key.container.clone(), bytes, lost, at_ms }));
        }
        let over = live.iter().all(|l| l.life.is_over() && l.pid().is_none());
        (over || !*follow).then_some(Reply::Done)
    }

    // ---- attach ----

    /// Somebody wants to sit at the console of a container.
    pub fn attach(&mut self, id: u64, of: Scope, replay: bool) {
        let live = self.in_scope(&of);
        let (key, pid, position, terminal, stdin) = match live.as_slice() {
            [] => return self.no_such(id, &of.app, of.container.as_ref()),
            [one] => match one.pid() {
                Some(pid) => {
                    let (position, spec) = (if replay { one.ring.start() } else { one.ring.end() }, &one.ready.spec);
                    (one.key.clone(), pid, position, spec.terminal, spec.stdin != Stdin::None)
                }
                None => {
                    let message = format!("cannot attach to {}: it is not running", one.key);
                    return self.refuse(id, Reason::Launch, message);
                }
            },
            several => {
                let names: Vec<&str> = several.iter().map(|l| l.key.container.as_str()).collect();
                let message = format!("app {} has several containers, name one: {}", of.app, names.join(", "));
                return self.refuse(id, Reason::BadValue, message);
            }
        };
        self.set_op(id, Op::Attach(Attached { key, pid, position, waiting: None }));
        self.reply(id, &Reply::Attached { terminal, stdin });
        self.pump_output(id);
        self.mind_output(self.now());
    }

    /// What the container has said, then how its run ended.
    fn next_of_console(&mut self, attached: &mut Attached) -> Option<Reply> {
        let Attached { key, pid, position, .. } = attached;
        let Some(live) = self.live(key) else { return Some(Reply::Exited(Ended::Code(255))) };
        // Another run may have begun meanwhile: its output is not ours.
        let end = if live.pid() == Some(*pid) { None } else { Some(live.end_of(*pid).unwrap_or(*position)) };
        let most = end.map_or(LOG_CHUNK, |end| LOG_CHUNK.min(end.saturating_sub(*position) as usize));
        let Piece { bytes, next, lost, at_ms } = live.ring.read(*position, most);
        if !bytes.is_empty() {
            *position = next;
            return Some(Reply::Log(LogChunk { container: key.container.clone(), bytes, lost, at_ms }));
        }
        // Nobody saw how it ended: that is no success.
        end.map(|_| Reply::Exited(live.life.last_exit.unwrap_or(Ended::Code(255))))
    }

    /// An attached connection has something for its container.
    pub fn on_input(&mut self, id: u64, frame: Frame) {
        let attached = self.clients.iter_mut().find(|c| c.id == id).map(|c| &mut c.op);
        let Some(Op::Attach(attached)) = attached else {
            return self.refuse(id, Reason::Internal, "input comes only from who is attached");
        };
        attached.waiting = Some(frame);
        self.type_on(id);
    }

    /// An attached connection will type no more.
    pub fn on_input_end(&mut self, id: u64) {
        let Some(Op::Attach(attached)) = self.clients.iter_mut().find(|c| c.id == id).map(|c| &mut c.op) else { return };
        let (key, pid) = (attached.key.clone(), attached.pid);
        self.end_once(&key, pid);
    }

    /// Passes on what a connection has for its container, if that takes it.
    fn type_on(&mut self, id: u64) {
        let Self { ctx, apps, clients, .. } = self;
        let Some(Op::Attach(attached)) = clients.iter_mut().find(|c| c.id == id).map(|c| &mut c.op) else { return };
        let lives = apps.iter_mut().flat_map(|a| a.live.iter_mut());
        let live = lives.into_iter().find(|l| l.key == attached.key && l.pid() == Some(attached.pid));
        let Some(frame) = attached.waiting.take() else { return };
        // Its run is over: the answer to that is on its way.
        if live.is_some_and(|live| !live.type_in(ctx, &frame)) {
            attached.waiting = Some(frame);
        }
        self.go_on_reading(id);
    }

    /// A container takes input again.
    pub fn on_input_room(&mut self, key: &Key) {
        let Self { ctx, apps, clients, .. } = self;
        if let Some(live) = apps.iter_mut().flat_map(|a| a.live.iter_mut()).find(|l| l.key == *key) {
            live.take_input_again(ctx);
        }
        let waits = |c: &&Client| matches!(&c.op, Op::Attach(a) if a.key == *key && a.waiting.is_some());
        let ids: Vec<u64> = clients.iter().filter(waits).map(|c| c.id).collect();
        for id in ids {
            self.type_on(id);
        }
    }

    /// An attached connection is gone: an input that is open only once ends with it.
    pub fn detached(&mut self, attached: &Attached) {
        self.end_once(&attached.key, attached.pid);
    }

    fn end_once(&mut self, key: &Key, pid: i32) {
        let Self { ctx, apps, .. } = self;
        let live = apps.iter_mut().flat_map(|a| a.live.iter_mut()).find(|l| l.key == *key && l.pid() == Some(pid));
        if let Some(live) = live.filter(|l| l.ready.spec.stdin == Stdin::Once && !l.ready.spec.terminal) {
            live.end_input(ctx);
        }
    }
}
