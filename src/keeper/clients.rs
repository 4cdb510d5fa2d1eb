//! Connections of the command line: one request at a time each, answered by events, never waited for. Beside them, who asks over the network for more than
//! an answer: `streams`. `output` is what both read, `exec` and `orphans` what both run.

mod exec;
mod orphans;
mod output;
mod streams;

pub use exec::Exec;
pub use orphans::{Orphan, end_recorded, kill_session};
pub use streams::Streams;

use crate::container::console::{Frame, MAX_DATA};
use crate::image::Digest;
use crate::ipc::{Ack, Conn, Failure, Happening, Origin, Reply, Request, Scope, encode};
use crate::keeper::Keeper;
use crate::keeper::containers::Live;
use crate::keeper::deploy::boundary;
use crate::keeper::lifecycle::Event;
use crate::keeper::poll::{Source, Token};
use crate::keeper::record;
use crate::keeper::requests::{self, Asker};
use crate::keeper::{desired, diag, report};
use crate::manifest::Name;
use crate::protocol::{ContainerState, Reason};
use crate::sys::process::Ended;
use output::{Attached, Reading};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Most connections at once.
pub const MAX_CLIENTS: usize = 64;
/// Replies that may wait for one connection; one that takes none is cut off.
const QUEUE: usize = 512;
/// Bytes of text in one frame.
const TEXT: usize = 32 * 1024;
/// Events in one frame.
const EVENTS: usize = 32;

/// One connection.
pub struct Client {
    id: u64,
    conn: Conn,
    token: Token,
    asker: Asker,
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Since when it takes no answers.
    stalled: Option<Duration>,
    op: Op,
}

/// What a connection waits for.
#[derive(Default)]
enum Op {
    #[default]
    Idle,
    /// Acks of one document.
    Acks { app: Name, sha256: Digest },
    /// All of these are over.
    Stopped(Scope),
    /// All of these run again.
    Running(Scope),
    /// One is over; its exit status.
    Ended(Scope),
    /// Output.
    Logs(Reading),
    /// The console of a container.
    Attach(Attached),
    /// Events from a number on.
    Events { app: Option<Name>, next: u64, follow: bool },
    /// A program in a container.
    Exec(Box<Exec>),
}

impl Client {
    /// What it runs in a container.
    pub fn exec(&self) -> Option<&Exec> {
        match &self.op {
            Op::Exec(exec) => Some(exec),
            _ => None,
        }
    }
}

fn no_such(scope: &Scope) -> Failure {
    let what = scope.container.as_ref().map_or_else(|| format!("app {}", scope.app), |c| format!("container {}/{c}", scope.app));
    Failure { reason: Reason::BadValue, message: format!("there is no {what} (see `wherry ls`)") }
}

impl Keeper {
    /// Somebody connects.
    pub fn on_listener(&mut self) {
        // One a turn: the listening socket stays readable while more wait.
        let conn = match crate::sys::socket::accept(&self.listener) {
            Ok(conn) => Conn::new(conn),
            Err(e) => return log::debug!("cannot accept a connection: {e}"),
        };
        if let Err(e) = self.welcome(conn) {
            log::warn!("connection refused: {e}");
        }
    }

    fn welcome(&mut self, conn: Conn) -> io::Result<()> {
        let peer = crate::sys::socket::peer(&conn)?;
        // The socket's mode and group have let it in; the kernel's word decides what it may.
        let asker = if peer.uid() == 0 { Asker::Root } else { Asker::Member };
        if self.clients.len() >= MAX_CLIENTS {
            return Err(io::Error::other(format!("{MAX_CLIENTS} connections are open already")));
        }
        crate::sys::fd::set_nonblocking(conn.as_fd())?;
        let id = self.next_client;
        self.next_client += 1;
        let token = self.ctx.poll.add(&conn, Source::Client(id))?;
        self.clients.push(Client { id, conn, token, asker, queue: VecDeque::new(), stalled: None, op: Op::Idle });
        Ok(())
    }

    fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|c| c.id == id)
    }

    /// A connection is ready.
    pub fn on_client(&mut self, id: u64, readable: bool, writable: bool) {
        if writable {
            self.flush_client(id);
            self.pump_output(id);
            self.pump_events(id);
        }
        if !readable {
            return;
        }
        let Some(client) = self.client(id) else { return };
        if client.is_typing() {
            // Nothing is asked for, so it has hung up.
            return self.drop_client(id);
        }
        match client.conn.recv_with::<Request>() {
            Ok(Some((request, fds))) => self.on_request(id, request, fds),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) => self.drop_client(id),
            // It left before it had read all that we sent.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => self.drop_client(id),
            Err(e) => {
                log::warn!("a request cannot be read: {e}");
                self.refuse(id, Reason::Internal, e.to_string());
                self.flush_client(id);
                self.drop_client(id);
            }
        }
    }

    fn drop_client(&mut self, id: u64) {
        let Some(i) = self.clients.iter().position(|c| c.id == id) else { return };
        let client = self.clients.remove(i);
        self.ctx.poll.remove(&client.conn, client.token);
        match client.op {
            Op::Exec(exec) => self.drop_exec(*exec),
            Op::Attach(attached) => self.detached(&attached),
            _ => {}
        }
    }

    fn reply(&mut self, id: u64, reply: &Reply) {
        self.reply_with(id, reply, Vec::new());
    }

    fn reply_with(&mut self, id: u64, reply: &Reply, fds: Vec<OwnedFd>) {
        let Some(client) = self.client(id) else { return };
        match encode(reply) {
            Ok(frame) => client.queue.push_back((frame, fds)),
            Err(e) => {
                log::error!("cannot answer: {e}");
                return self.refuse(id, Reason::Internal, format!("the answer is too long: {e}"));
            }
        }
        self.flush_client(id);
    }

    fn refuse(&mut self, id: u64, reason: Reason, message: impl Into<String>) {
        self.reply(id, &Reply::Error(Failure { reason, message: message.into() }));
    }

    fn flush_client(&mut self, id: u64) {
        let Some(i) = self.clients.iter().position(|c| c.id == id) else { return };
        let client = &mut self.clients[i];
        let mut gone = client.queue.len() > QUEUE;
        while let Some((frame, fds)) = client.queue.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match crate::sys::socket::send(&client.conn, frame, &fds) {
                Ok(()) => drop(client.queue.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        client.stalled = (!client.queue.is_empty()).then(|| client.stalled.unwrap_or_else(crate::sys::time::boottime));
        self.go_on_reading(id);
        if gone {
            self.drop_client(id);
        }
    }

    /// Who does not take the answers, or whose input is not taken, gets no more requests read.
    fn go_on_reading(&mut self, id: u64) {
        if let Some(client) = self.clients.iter().find(|c| c.id == id) {
            let read = client.queue.is_empty() && !client.is_typing();
            let _ = self.ctx.poll.interest(&client.conn, client.token, read, !client.queue.is_empty());
        }
    }

    /// There is more for it than one turn may take.
    fn go_on_writing(&mut self, id: u64) {
        if let Some(client) = self.clients.iter().find(|c| c.id == id) {
            let read = client.queue.is_empty() && !client.is_typing();
            let _ = self.ctx.poll.interest(&client.conn, client.token, read, true);
        }
    }

    // ---- requests ----

    fn on_request(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        let Some(client) = self.client(id) else { return };
        let (name, asker) = (requests::of_request(&request), client.asker);
        if !requests::permitted(name, asker, true) {
            return self.refuse(id, Reason::Policy, format!("only root may ask for {name}"));
        }
        let goes_on = matches!((&client.op, name), (Op::Attach(_), "input") | (Op::Exec(_), "detach"));
        if !matches!(client.op, Op::Idle) && !goes_on {
            return self.refuse(id, Reason::Internal, "the request before is still in work on this connection");
        }
        if self.leaving.is_some() && matches!(name, "apply" | "start" | "restart" | "exec" | "copy" | "unhold") {
            return self.refuse(id, Reason::Internal, "keeper is shutting down");
        }
        match request {
            Request::Version => self.reply(id, &report::version(self)),
            Request::List => self.reply_apps(id),
            Request::Status => self.reply_status(id),
            Request::Stats => self.reply_stats(id),
            Request::Info { app } => self.reply_info(id, &app),
            Request::Apply { payload } => self.apply(id, &payload),
            Request::Remove { app, volumes } => self.remove(id, &app, volumes),
            Request::Start(scope) => self.by_hand(id, scope, Hand::Start),
            Request::Stop(scope) => self.by_hand(id, scope, Hand::Stop),
            Request::Restart(scope) => self.by_hand(id, scope, Hand::Restart),
            Request::Hold(apps) => self.hold_apps(id, &apps, true),
            Request::Unhold(apps) => self.hold_apps(id, &apps, false),
            Request::Wait(scope) => self.await_end(id, scope),
            Request::Diag => self.reply_diag(id),
            Request::Logs { of, follow, tail, since_ms, whole } => self.logs(id, of, follow, (tail, since_ms), whole),
            Request::Attach { of, replay } => self.attach(id, of, replay),
            Request::Input(bytes) if bytes.len() > MAX_DATA => self.refuse(id, Reason::BadValue, "too much input at once"),
            Request::Input(bytes) => self.on_input(id, Frame::Data(bytes)),
            Request::InputEnd => self.on_input_end(id),
            Request::Resize(rows, columns) => self.on_input(id, Frame::Size(rows, columns)),
            Request::Detach => self.detach_exec(id, fds),
            Request::Events { app, since_ms, follow } => {
                let next = self.ctx.events.since(since_ms);
                self.set_op(id, Op::Events { app, next, follow });
                self.pump_events(id);
            }
            Request::Exec(args) => self.exec(id, args, None, fds),
            Request::Copy { scope, what } => self.copy(id, scope, what, fds),
            Request::Upgrade => {
                self.prepare_upgrade();
                self.reply(id, &Reply::Done);
            }
        }
    }

    fn set_op(&mut self, id: u64, op: Op) {
        if let Some(client) = self.client(id) {
            client.op = op;
        }
    }

    fn reply_apps(&mut self, id: u64) {
        let apps = report::apps(self);
        self.reply(id, &Reply::Apps(apps));
    }

    fn reply_status(&mut self, id: u64) {
        let status = report::status(self);
        self.reply(id, &Reply::Status(Box::new(status)));
    }

    fn reply_stats(&mut self, id: u64) {
        let (device, rows) = report::stats(self);
        self.reply(id, &Reply::Stats { device, rows });
    }

    /// In pieces: the whole may be longer than a frame.
    fn reply_diag(&mut self, id: u64) {
        let text = diag::bundle(self).to_string();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(boundary(rest, TEXT));
            self.reply(id, &Reply::Text(piece.to_owned()));
            rest = behind;
        }
        self.reply(id, &Reply::Done);
    }

    fn reply_info(&mut self, id: u64, app: &Name) {
        match report::info(self, app) {
            Some(text) => self.reply(id, &Reply::Text(text)),
            None => self.no_such(id, app, None),
        }
    }

    fn no_such(&mut self, id: u64, app: &Name, container: Option<&Name>) {
        let failure = no_such(&Scope { app: app.clone(), container: container.cloned() });
        self.reply(id, &Reply::Error(failure));
    }

    fn apply(&mut self, id: u64, payload: &[u8]) {
        let sha256 = Digest::of(payload);
        let app = match crate::manifest::parse(payload) {
            Ok(m) => m.app,
            Err(faults) => return self.refuse(id, faults.first_reason(), faults.to_string()),
        };
        self.set_op(id, Op::Acks { app, sha256 });
        if let Err(f) = self.submit(&Origin::Local, None, payload, None) {
            self.set_op(id, Op::Idle);
            self.reply(id, &Reply::Error(f));
        }
    }

    /// A local removal is a local tombstone.
    fn remove(&mut self, id: u64, app: &Name, volumes: bool) {
        let Some(entry) = self.desired.entries.iter().find(|e| e.app == *app && !desired::is_gone(e)) else {
            return self.no_such(id, app, None);
        };
        if entry.origin != Origin::Local {
            return self.refuse(
                id,
                Reason::Policy,
                format!("app {app} belongs to the fleet; publish a document with \"remove\": true there"),
            );
        }
        let seq = entry.mark.map_or(String::new(), |m| format!(",\"seq\":{}", m + 1));
        let tombstone = format!("{{\"wherry\":1,\"app\":\"{app}\"{seq},\"remove\":true,\"volumes\":{volumes}}}");
        self.apply(id, tombstone.as_bytes());
    }

    /// Acks go to whoever waits for them.
    pub fn tell_clients(&mut self, ack: &Ack) {
        let waits = |c: &&Client| matches!(&c.op, Op::Acks { app, sha256 } if *app == ack.app && *sha256 == ack.sha256);
        let ids: Vec<u64> = self.clients.iter().filter(waits).map(|c| c.id).collect();
        for id in ids {
            self.reply(id, &Reply::Ack(ack.clone()));
            if ack.state.is_terminal() || ack.state == crate::protocol::State::Held {
                self.set_op(id, Op::Idle);
                self.reply(id, &Reply::Done);
            }
        }
    }

    // ---- by hand ----

    fn in_scope(&mut self, scope: &Scope) -> Vec<&mut Live> {
        let fits = |l: &&mut Live| scope.container.as_ref().is_none_or(|c| *c == l.key.container);
        self.apps.iter_mut().filter(|a| a.name == scope.app).flat_map(|a| a.live.iter_mut()).filter(fits).collect()
    }

    fn by_hand(&mut self, id: u64, scope: Scope, hand: Hand) {
        if self.hand(&scope, hand, By::Person).is_none() {
            return self.no_such(id, &scope.app, scope.container.as_ref());
        }
        self.set_op(id, if hand == Hand::Stop { Op::Stopped(scope.clone()) } else { Op::Running(scope.clone()) });
        self.settle(&scope.app);
    }

    /// Starts, stops or restarts what is in scope, for [`Keeper::settle`] to carry on; its containers, unless there are none.
    pub fn hand(&mut self, scope: &Scope, hand: Hand, by: By) -> Option<Vec<Name>> {
        // What is on its way out is nobody's to start again.
        let names: Vec<Name> = self.in_scope(scope).iter().filter(|l| !l.doomed).map(|l| l.key.container.clone()).collect();
        if names.is_empty() {
            return None;
        }
        self.hold(&scope.app, &names, hand == Hand::Stop, by);
        let now = self.now();
        let Self { ctx, apps, .. } = self;
        for live in
            apps.iter_mut().filter(|a| a.name == scope.app).flat_map(|a| a.live.iter_mut()).filter(|l| names.contains(&l.key.container))
        {
            if hand != Hand::Start {
                live.event(ctx, Event::Stop, now);
            }
            if hand != Hand::Stop {
                (live.failure, live.begun) = (None, live.begun && live.life.is_up());
                // One alone is started at once, whoever it would wait for.
                if scope.container.is_none() && live.life.is_over() {
                    live.wanted = true;
                } else {
                    live.event(ctx, Event::Start, now);
                }
            }
        }
        Some(names)
    }

    /// A stop by hand is part of the desired state: it holds over a reboot.
    fn hold(&mut self, app: &Name, names: &[Name], stop: bool, by: By) {
        if !record::hold(&mut self.desired, app, &self.ctx.settings.groups, names, stop, by == By::Command) {
            return;
        }
        self.ctx.dirty = true;
        // A flash that takes no writes is no reason to let a container run that somebody wants stopped.
        self.save_state();
    }

    fn hold_apps(&mut self, id: u64, apps: &[Name], on: bool) {
        let reply = self.set_hold(apps, on).map_or_else(Reply::Error, |()| Reply::Done);
        self.reply(id, &reply);
    }

    fn await_end(&mut self, id: u64, scope: Scope) {
        if self.in_scope(&scope).is_empty() {
            return self.no_such(id, &scope.app, scope.container.as_ref());
        }
        let app = scope.app.clone();
        self.set_op(id, Op::Ended(scope));
        self.answer_waiting(&app);
    }

    /// Answers those who wait for a state of this app.
    pub fn answer_waiting(&mut self, app: &Name) {
        let waiting: Vec<(u64, Scope)> = self
            .clients
            .iter()
            .filter_map(|c| match &c.op {
                Op::Stopped(s) | Op::Running(s) | Op::Ended(s) if s.app == *app => Some((c.id, s.clone())),
                _ => None,
            })
            .collect();
        for (id, scope) in waiting {
            if let Some(reply) = self.answer_for(id, &scope) {
                self.set_op(id, Op::Idle);
                self.reply(id, &reply);
            }
        }
        self.pump_all_output();
    }

    fn answer_for(&mut self, id: u64, scope: &Scope) -> Option<Reply> {
        let live = self.in_scope(scope);
        let gone = live.iter().all(|l| l.life.is_over() && l.pid().is_none() && !l.wanted);
        let failed = live.iter().find_map(|l| l.failure.clone().filter(|_| l.life.state == ContainerState::Failed || !l.life.is_up()));
        let up = live.iter().all(|l| l.life.state == ContainerState::Running);
        let last = live.first().and_then(|l| l.life.last_exit);
        match &self.client(id)?.op {
            Op::Stopped(_) if gone => Some(Reply::Done),
            Op::Running(_) if failed.is_some() => failed.map(Reply::Error),
            Op::Running(_) if up || gone => Some(Reply::Done),
            Op::Ended(_) if gone && failed.is_some() => failed.map(Reply::Error),
            // Nobody saw how it ended (its keeper was killed): that is no success.
            Op::Ended(_) if gone => Some(Reply::Exited(last.unwrap_or(Ended::Code(255)))),
            _ => None,
        }
    }

    // ---- events ----

    /// Events go on to everybody who follows.
    pub fn pump_all_events(&mut self) {
        let end = self.ctx.events.end();
        let behind = |c: &&Client| matches!(c.op, Op::Events { next, .. } if next < end);
        let ids: Vec<u64> = self.clients.iter().filter(behind).map(|c| c.id).collect();
        for id in ids {
            self.pump_events(id);
        }
    }

    /// Sends events while the connection takes them; the ring holds what it does not.
    fn pump_events(&mut self, id: u64) {
        loop {
            let Some(client) = self.clients.iter_mut().find(|c| c.id == id && c.queue.is_empty()) else { return };
            let Op::Events { app, next, follow } = &mut client.op else { return };
            let (rows, end, lost) = self.ctx.events.read(*next, EVENTS);
            let rows: Vec<Happening> = rows.filter(|e| app.is_none() || e.app == *app).cloned().collect();
            let over = end == *next && lost == 0;
            *next = end;
            if !rows.is_empty() || lost > 0 {
                self.reply(id, &Reply::Events { rows, lost });
            } else if over && *follow {
                return;
            } else if over {
                self.set_op(id, Op::Idle);
                return self.reply(id, &Reply::Done);
            }
        }
    }
}

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Somebody at the device.
    Person,
    /// A command from the network.
    Command,
}

/// What a person, or a command, does with containers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the command line")]
pub enum Hand {
    Start,
    Stop,
    Restart,
}
