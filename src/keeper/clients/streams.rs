//! What commands from the network ask for and is longer than an answer: output of containers, and programs run in them.
//!
//! A stream goes on only as the broker takes its frames: of all streams together so many are on their way at once, and while they are, no pipe is
//! read, so that a program that prints without end waits in its own write(2). It lives as long as the session of the link that it was asked for in.

use super::output::Reading;
use super::{Exec, orphans};
use crate::ipc::{ExecArgs, Failure, LogChunk, Reply, Scope, Topic};
use crate::keeper::Keeper;
use crate::keeper::context::Context;
use crate::keeper::pace::{self, Pace};
use crate::keeper::poll::{Source, Token};
use crate::keeper::runtime::start_time;
use crate::keeper::wire::last_exit;
use crate::manifest::Name;
use crate::protocol::{Answer, Command, EXEC_TIME, LastExit, Output, Reason, Verb, encode};
use crate::sys::fd::set_nonblocking;
use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Most streams at once.
pub const MAX_STREAMS: usize = 4;
/// Most bytes of output in a frame: were each escaped as JSON does it with control characters, the packet would still be below 64 KiB.
const PIECE: usize = 8 * 1024;
/// Answers on their way to the broker over which no stream goes on: half of what the agent has in flight, so that acks never wait for long.
const WINDOW: u64 = 4;
/// Most bytes of a pipe that are still told of a program that has ended: what it holds. Who got hold of its other end could go on for ever.
const REST: usize = 1024 * 1024;
/// Most last frames kept for the next session.
const MAX_LAST: usize = 4 * MAX_STREAMS;

/// All streams.
#[derive(Default)]
pub struct Streams {
    list: Vec<Stream>,
    /// Last frames, with the ids of their commands, of streams that ended with their session: told in the next one.
    last: Vec<(String, Answer)>,
    pace: Pace,
    /// When frames may go on, if not now.
    resume: Option<Duration>,
}

struct Stream {
    /// Among streams and connections.
    id: u64,
    /// The id of its command.
    command: String,
    /// The app that it is of.
    app: Name,
    /// Of the next frame.
    n: u32,
    /// When it ends.
    deadline: Option<Duration>,
    of: Of,
}

enum Of {
    Logs(Reading),
    Exec(Box<Program>),
}

/// A program with its outputs.
struct Program {
    /// Until it has ended.
    exec: Option<Exec>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    /// Its last frame, told when its pipes are read.
    over: Option<Answer>,
}

struct Pipe {
    file: File,
    /// It is being waited for.
    token: Option<Token>,
    /// The beginning of a character whose end is still to come.
    begun: Vec<u8>,
    /// Bytes that are still taken, of a program that has ended.
    left: usize,
}

/// What one look at a stream gives.
enum Next {
    Nothing,
    Frame(Answer),
    Last(Answer),
}

/// Length of the part that is sent now: an incomplete character at the end waits for its rest, if there is anything before it.
fn whole(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(e) if e.error_len().is_none() && e.valid_up_to() > 0 => e.valid_up_to(),
        _ => bytes.len(),
    }
}

impl Streams {
    /// When [`Keeper::tick_streams`] or [`Keeper::pump_streams`] is wanted.
    pub fn due(&self) -> Option<Duration> {
        let resume = self.resume.filter(|_| !self.list.is_empty());
        self.list.iter().filter_map(|s| s.deadline).chain(resume).min()
    }

    /// The stream of a command runs.
    pub fn answers(&self, command: &str) -> bool {
        self.list.iter().any(|s| s.command == command)
    }

    /// What runs for streams.
    pub fn execs(&self) -> impl Iterator<Item = &Exec> {
        self.list.iter().filter_map(|s| match &s.of {
            Of::Exec(program) => program.exec.as_ref(),
            Of::Logs(_) => None,
        })
    }

    fn program(&mut self, id: u64) -> Option<&mut Program> {
        self.list.iter_mut().find(|s| s.id == id).and_then(|s| match &mut s.of {
            Of::Exec(program) => Some(&mut **program),
            Of::Logs(_) => None,
        })
    }

    pub(super) fn exec_of(&mut self, id: u64) -> Option<&mut Exec> {
        self.program(id)?.exec.as_mut()
    }

    pub(super) fn take_exec(&mut self, id: u64) -> Option<Exec> {
        self.program(id)?.exec.take()
    }

    /// Its program has ended like this.
    pub(super) fn exec_ended(&mut self, id: u64, reply: &Reply) {
        let Some(program) = self.program(id) else { return };
        program.over.get_or_insert(match reply {
            Reply::Exited(ended) => Answer { exit: Some(last_exit(*ended)), ..Answer::end(0) },
            Reply::Error(f) => Answer::error(0, f.reason, f.message.clone()),
            _ => Answer::end(0),
        });
    }
}

impl Pipe {
    /// Our end of a new pipe, and the other one.
    fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(ours.as_fd())?;
        Ok((Self { file: ours.into(), token: None, begun: Vec::new(), left: REST }, theirs))
    }

    /// What is in it, and whether it may have more.
    fn read(&mut self, over: bool) -> (Vec<u8>, bool) {
        let mut bytes = std::mem::take(&mut self.begun);
        let mut chunk = [0; PIECE];
        let most = if over { PIECE.min(self.left) } else { PIECE };
        let room = most.saturating_sub(bytes.len());
        match self.file.read(&mut chunk[..room]) {
            Ok(n) if n > 0 => {
                self.left -= if over { n } else { 0 };
                bytes.extend_from_slice(&chunk[..n]);
                self.begun = bytes.split_off(whole(&bytes));
                (bytes, true)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) && !over => {
                self.begun = bytes;
                (Vec::new(), true)
            }
            _ => (bytes, false),
        }
    }

    fn close(mut self, ctx: &mut Context) {
        self.watch(ctx, 0, false);
    }

    /// One that is not read must not be waited for: the kernel tells of a closed one whatever is asked (epoll_ctl(2), EPOLLHUP).
    fn watch(&mut self, ctx: &mut Context, id: u64, on: bool) {
        match self.token {
            None if on => self.token = ctx.poll.add(&self.file, Source::Stream(id)).ok(),
            Some(token) if !on => {
                ctx.poll.remove(&self.file, token);
                self.token = None;
            }
            _ => {}
        }
    }
}

impl Program {
    fn pipes(&mut self) -> [(Output, &mut Option<Pipe>); 2] {
        [(Output::Stdout, &mut self.stdout), (Output::Stderr, &mut self.stderr)]
    }

    /// A piece of its output, of one and the other in turn where there is both.
    fn next(&mut self, ctx: &mut Context, n: u32) -> Next {
        let over = self.over.is_some();
        let mut pipes = self.pipes();
        pipes.rotate_left(n as usize % 2);
        for (stream, slot) in pipes {
            let Some(pipe) = slot else { continue };
            let (bytes, more) = pipe.read(over);
            if !more && let Some(pipe) = slot.take() {
                pipe.close(ctx);
            }
            if !bytes.is_empty() {
                return Next::Frame(Answer { stream: Some(stream), ..Answer::output(0, bytes) });
            }
        }
        match self.over.take() {
            Some(last) if self.stdout.is_none() && self.stderr.is_none() => Next::Last(last),
            over => {
                self.over = over;
                Next::Nothing
            }
        }
    }
}

impl Keeper {
    // ---- beginning ----

    /// Begins what a command of the running session asks for.
    pub fn begin_stream(&mut self, command: &str, asked: &Command, app: &Name) -> Result<(), Failure> {
        self.may_begin(asked.verb)?;
        let now = self.now();
        let id = self.next_client;
        self.next_client += 1;
        let scope = Scope { app: app.clone(), container: asked.container.clone() };
        let (of, deadline) = match asked.verb {
            Verb::Exec => (Of::Exec(Box::new(self.run_program(id, scope, asked)?)), Some(asked.stream.timeout.unwrap_or(EXEC_TIME))),
            _ => (Of::Logs(self.begin_logs(scope, asked)?), asked.stream.follow),
        };
        if let Some(program) = asked.stream.args.first() {
            // Not its arguments: they may hold secrets.
            log::info!("command {command} runs {program:?} in {app}");
        }
        self.streams.list.push(Stream { id, command: command.to_owned(), app: app.clone(), n: 0, deadline: deadline.map(|t| now + t), of });
        Ok(())
    }

    fn may_begin(&self, verb: Verb) -> Result<(), Failure> {
        let refused = |message: String| Err(Failure { reason: Reason::Policy, message });
        let word = if verb == Verb::Exec { "exec" } else { "logs" };
        let allowed = match &self.ctx.policy {
            Err(why) => return refused(format!("{why}; until then it allows no `{word}`")),
            Ok(policy) if verb == Verb::Exec => policy.exec,
            Ok(policy) => policy.logs,
        };
        if !allowed {
            return refused(format!(
                "the device's policy does not allow `{word}` over the network (\"{word}\": true in {})",
                self.ctx.settings.policy
            ));
        }
        if self.leaving.is_some() {
            return Err(Failure { reason: Reason::Internal, message: "keeper is shutting down".into() });
        }
        if self.streams.list.len() >= MAX_STREAMS {
            return refused(format!("{MAX_STREAMS} streams run already, which is the most; cancel one, or wait for its end"));
        }
        Ok(())
    }

    fn begin_logs(&mut self, of: Scope, asked: &Command) -> Result<Reading, Failure> {
        let Some(mut reading) = self.reading(&of, asked.stream.follow.is_some(), (asked.stream.tail, 0), false) else {
            return Err(super::no_such(&of));
        };
        if asked.stream.follow.is_none() {
            self.read_no_further(&mut reading);
        }
        Ok(reading)
    }

    fn run_program(&mut self, id: u64, scope: Scope, asked: &Command) -> Result<Program, Failure> {
        let env = asked.stream.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (argv, user) = (asked.stream.args.clone(), asked.stream.user.clone());
        // Not one that gets SIGHUP at keeper's end: were it to die of that, the next keeper would not find all of its descendants any more.
        let args = ExecArgs { scope, argv, env, user, workdir: None, terminal: None, detach: true };
        let job = self.exec_job(args, "run a program in")?;
        let failed = |e: io::Error| Failure { reason: Reason::Launch, message: format!("cannot run a program: {e}") };
        let (stdout, out) = Pipe::new().map_err(failed)?;
        let (stderr, err) = Pipe::new().map_err(failed)?;
        let null: OwnedFd = File::open("/dev/null").map_err(failed)?.into();
        let mut exec = self.try_exec(id, job, None, &[null, out, err]).map_err(failed)?;
        exec.detach = false;
        Ok(Program { exec: Some(exec), stdout: Some(stdout), stderr: Some(stderr), over: None })
    }

    // ---- going on ----

    /// Once a turn: each stream in its turn sends a frame, as long as the broker takes them.
    pub fn pump_streams(&mut self, now: Duration) {
        if self.streams.list.is_empty() {
            return;
        }
        if self.streams.resume.is_some_and(|due| now >= due) {
            self.streams.resume = None;
        }
        while self.may_stream() && self.pump_each(now) {}
        // The next one is the first next time.
        if !self.streams.list.is_empty() {
            self.streams.list.rotate_left(1);
        }
        let on = self.may_stream();
        let Self { ctx, streams, .. } = self;
        for stream in &mut streams.list {
            if let Of::Exec(program) = &mut stream.of {
                let on = on && program.over.is_none();
                program.pipes().into_iter().filter_map(|(_, pipe)| pipe.as_mut()).for_each(|pipe| pipe.watch(ctx, stream.id, on));
            }
        }
    }

    fn may_stream(&self) -> bool {
        self.streams.resume.is_none() && self.agent.unanswered() < WINDOW && !self.agent.is_behind()
    }

    /// True if one had something.
    fn pump_each(&mut self, now: Duration) -> bool {
        let ids: Vec<u64> = self.streams.list.iter().map(|s| s.id).collect();
        let mut moved = false;
        for id in ids {
            moved |= self.may_stream() && self.pump_stream(id, now);
        }
        moved
    }

    fn pump_stream(&mut self, id: u64, now: Duration) -> bool {
        let Some(i) = self.streams.list.iter().position(|s| s.id == id) else { return false };
        let mut stream = self.streams.list.remove(i);
        let next = match &mut stream.of {
            Of::Logs(reading) => self.next_piece(reading),
            Of::Exec(program) => program.next(&mut self.ctx, stream.n),
        };
        let (frame, last) = match next {
            Next::Nothing => (None, false),
            Next::Frame(frame) => (Some(frame), false),
            Next::Last(frame) => (Some(frame), true),
        };
        let moved = frame.is_some();
        if let Some(frame) = frame {
            let payload = encode(&Answer { n: stream.n, ..frame });
            self.streams.resume = pace::streamed(&mut self.streams.pace, payload.len(), now);
            self.publish(Topic::Res(stream.command.clone()), payload);
            stream.n += 1;
        }
        if !last {
            self.streams.list.insert(i, stream);
        }
        moved
    }

    fn next_piece(&mut self, reading: &mut Reading) -> Next {
        match self.next_of_logs(reading, PIECE) {
            None => Next::Nothing,
            Some(Reply::Log(LogChunk { container, mut bytes, lost, .. })) => {
                let cut = whole(&bytes);
                reading.back(&container, bytes.len() - cut);
                bytes.truncate(cut);
                Next::Frame(Answer { container: Some(container), lost: Some(lost).filter(|n| *n > 0), ..Answer::output(0, bytes) })
            }
            Some(_) => Next::Last(Answer::end(0)),
        }
    }

    // ---- ending ----

    /// Ends those whose time is over.
    pub fn tick_streams(&mut self, now: Duration) {
        let late = |s: &&Stream| s.deadline.is_some_and(|due| now >= due);
        let ids: Vec<u64> = self.streams.list.iter().filter(late).map(|s| s.id).collect();
        for id in ids {
            let message = "its time is over: it was ended with all that it had started".to_owned();
            self.end_stream(id, Answer::error(0, Reason::Timeout, message));
        }
    }

    /// Ends the stream of a command, because another one says so. One that names an app, as its key may have to, is for streams of that app alone.
    pub fn cancel_stream(&mut self, command: &str, app: Option<&Name>) -> bool {
        let meant = |s: &&Stream| s.command == command && app.is_none_or(|app| *app == s.app);
        let Some(id) = self.streams.list.iter().find(meant).map(|s| s.id) else { return false };
        self.end_stream(id, Answer { exit: Some(LastExit::Signal(libc::SIGKILL as u8)), ..Answer::end(0) });
        true
    }

    /// A program is killed, and what it printed before still told, then `last`. Output is told as far as there is some now.
    fn end_stream(&mut self, id: u64, last: Answer) {
        let Some(i) = self.streams.list.iter().position(|s| s.id == id) else { return };
        let mut stream = self.streams.list.remove(i);
        stream.deadline = None;
        match &mut stream.of {
            Of::Logs(reading) => self.read_no_further(reading),
            Of::Exec(program) => {
                if let Some(exec) = program.exec.take() {
                    self.kill_exec(exec);
                }
                program.over.get_or_insert(last);
            }
        }
        self.streams.list.insert(i, stream);
    }

    fn kill_exec(&mut self, exec: Exec) {
        if let Some((pid, ..)) = exec.process {
            orphans::kill_tree(&self.ctx, &exec.group, pid);
        }
        self.drop_exec(exec);
    }

    /// The session is over, or keeper: programs are killed, nothing more is told but that.
    pub fn end_streams(&mut self, reason: Reason, message: &str) {
        for stream in std::mem::take(&mut self.streams.list) {
            if let Of::Exec(mut program) = stream.of {
                if let Some(exec) = program.exec.take() {
                    self.kill_exec(exec);
                }
                for (_, slot) in program.pipes() {
                    if let Some(pipe) = slot.take() {
                        pipe.close(&mut self.ctx);
                    }
                }
            }
            self.streams.last.push((stream.command, Answer::error(stream.n, reason, message.to_owned())));
        }
        let more = self.streams.last.len().saturating_sub(MAX_LAST);
        self.streams.last.drain(..more);
    }

    /// Tells of streams that ended with a session before.
    pub fn tell_last(&mut self) {
        for (command, frame) in std::mem::take(&mut self.streams.last) {
            self.publish(Topic::Res(command), encode(&frame));
        }
    }

    // ---- programs ----

    /// A program of a stream is about to run: on record first, so that the next keeper ends it if we cannot.
    pub(super) fn record_exec(&mut self, id: u64, pid: i32) -> io::Result<()> {
        let Some(exec) = self.streams.exec_of(id) else { return Ok(()) };
        self.ctx.runtime.record_exec(pid, start_time(pid)?, &exec.group)
    }

    /// A program of a stream has ended, and is not waited for yet: nothing that it has left in its session runs on.
    pub(super) fn end_session_of(&mut self, id: u64, pid: i32) {
        let group = self.streams.exec_of(id).map(|exec| exec.group.clone());
        if let Some(group) = group {
            orphans::kill_session(&self.ctx, &group, pid, usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PIECE, whole};
    use crate::protocol::{Answer, encode};

    #[test]
    fn a_piece_ends_with_a_whole_character_unless_it_has_no_other() {
        for (bytes, part) in [
            (&b""[..], 0),
            (b"abc", 3),
            ("a€".as_bytes(), 4),
            (&"a€".as_bytes()[..3], 1),
            (&"a€".as_bytes()[..2], 1),
            (&"€".as_bytes()[..2], 2),
            (b"a\xff", 2),
            (b"\xffa\xe2", 3),
        ] {
            assert_eq!(whole(bytes), part, "{bytes:02x?}");
        }
    }

    #[test]
    fn the_longest_frame_fits_into_a_packet_whatever_is_in_it() {
        for byte in [0u8, b'"', b'x', 0x1b, 0xff] {
            let frame =
                Answer { container: "c".repeat(32).parse().ok(), lost: Some(u64::MAX), ..Answer::output(u32::MAX, vec![byte; PIECE]) };
            let length = encode(&frame).len();
            // Of 64 KiB, a root topic and an id may have a part.
            assert!(length <= 50 * 1024, "{byte:#x}: {length}");
            assert_eq!(frame.bytes().unwrap(), vec![byte; PIECE]);
        }
    }
}
