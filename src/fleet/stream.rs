//! `logs` and `exec`: a command to one device whose answer is a stream.

use super::args::{Call, id};
use super::keys::{SecretKey, seal};
use super::link::random_id;
use super::publish::signers;
use super::session::{Session, block_on};
use super::settings::{self, Settings};
use super::topics;
use crate::cli::args::scope;
use crate::cli::client::{code, of_program};
use crate::cli::print;
use crate::exit::{Code, Error, note};
use crate::ipc::Scope;
use crate::manifest::{Id, Target, Whom};
use crate::protocol::{Answer, AnswerKind, Command, EXEC_TIME, LastExit, MAX_TIME_MS, Output, StreamArgs, Verb};
use crate::sys::reactor;
use crate::trust::Kind;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::time::Instant;

/// How long nothing may come, beyond what the device was told.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the last frame may take once the device is in another session: it goes out right behind its presence, if anybody remembers the stream.
const FAREWELL: Duration = Duration::from_secs(5);

/// `wherryctl logs [-f] [-n LINES] DEVICE APP[/CONTAINER]`.
///
/// # Errors
/// The device is not there, refuses, does not answer, or not with all of it.
pub fn logs(call: &Call) -> Result<u8, Error> {
    let tail = match call.value("tail")?.as_deref() {
        None | Some("all") => None,
        Some(_) => call.parsed("tail", |s| s.parse::<u32>().map_err(|_| "must be a number of lines, or all".into()))?,
    };
    let most = Duration::from_millis(MAX_TIME_MS);
    let follow = if call.has("follow") { Some(call.duration("for")?.unwrap_or(most)) } else { None };
    check_time("for", follow)?;
    let stream = StreamArgs { tail, follow, ..StreamArgs::default() };
    run(call, Verb::Logs, stream, follow.unwrap_or_default())
}

/// `wherryctl exec [-e NAME=VALUE] [-u USER] [--timeout TIME] DEVICE APP[/CONTAINER] -- PROGRAM [ARG...]`. Ends as the program does.
///
/// # Errors
/// As for [`logs`], or it cannot be run; the codes are those of docker's exec.
pub fn exec(call: &Call) -> Result<u8, Error> {
    try_exec(call).map_err(Error::instead_of_program)
}

fn try_exec(call: &Call) -> Result<u8, Error> {
    let args = (2..call.operands.len()).map(|i| call.operand(i)).collect::<Result<Vec<_>, _>>()?;
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::usage(format!("--env {word}: must be NAME=VALUE"))),
    };
    let env = call.values("env")?.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    let timeout = call.duration("timeout")?;
    check_time("timeout", timeout)?;
    let stream = StreamArgs { args, env, user: call.value("user")?, timeout, ..StreamArgs::default() };
    run(call, Verb::Exec, stream, timeout.unwrap_or(EXEC_TIME))
}

fn check_time(option: &str, time: Option<Duration>) -> Result<(), Error> {
    match time.map(|t| t.as_millis()) {
        Some(ms) if !(1000..=u128::from(MAX_TIME_MS)).contains(&ms) => {
            Err(Error::usage(format!("--{option} must be from 1s to {}m", MAX_TIME_MS / 60_000)))
        }
        _ => Ok(()),
    }
}

/// One stream, from the operator's side.
struct Stream<'a> {
    call: &'a Call,
    settings: Settings,
    keys: Vec<SecretKey>,
    device: Id,
    of: Scope,
    /// The session of the link that it is for.
    session: (u64, u64),
    /// The id of its command.
    id: String,
    what: String,
    /// Number of the next frame.
    next: u32,
    /// Frames that never came.
    missing: u32,
    /// The last one has come.
    over: bool,
}

fn run(call: &Call, verb: Verb, stream: StreamArgs, lasts: Duration) -> Result<u8, Error> {
    let settings = settings::load(call)?;
    let (device, of) = (id("device", &call.operand(0)?)?, scope(&call.operand(1)?)?);
    let word = if verb == Verb::Exec { "run a program in" } else { "read the output of" };
    let what = format!("cannot {word} {} on {device}", call.operand(1)?);
    let (own, keys) = (random_id(), signers(call, &settings)?);
    let filters = [topics::out(&settings.root, Some(&device), "presence"), topics::answer(&settings.root, &device, &own)];
    // Before anything is begun that would have to be ended.
    let signals = signals().map_err(|e| Error::io("cannot watch signals", &e))?;
    block_on(async {
        let signals = reactor::watch(signals).map_err(|e| Error::io("cannot watch signals", &e))?;
        let mut line = Session::open(&settings, &filters).await?;
        let Some(session) = line.fleet.devices.get(&device).and_then(|d| d.session()) else {
            return Err(Error::new(Code::Unavailable, format!("{what}: it is not online")));
        };
        let mut stream_of = Stream { call, settings, keys, device, of, session, id: own, what, next: 0, missing: 0, over: false };
        stream_of.send(&mut line, &stream_of.id.clone(), verb, stream).await?;
        let result = tokio::select! {
            result = stream_of.follow(&mut line, lasts) => result,
            _ = signals.readable() => Err(Error::new(Code::Failed, "interrupted")),
        };
        if !stream_of.over {
            stream_of.cancel(&mut line).await;
        }
        line.link.close().await;
        result
    })
}

/// What ends us: the stream must not go on for nobody.
fn signals() -> io::Result<OwnedFd> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?.as_fd().try_clone_to_owned()
}

impl Stream<'_> {
    async fn send(&self, line: &mut Session, id: &str, verb: Verb, stream: StreamArgs) -> Result<(), Error> {
        let target = Target { fleet: self.settings.root.clone(), whom: Whom::Device(self.device.clone()) };
        let Scope { app, container } = self.of.clone();
        let app = Some(app);
        let command = Command { id: id.parse().ok(), session: self.session, verb, app, container, target: Some(target), stream };
        let payload = seal(Kind::Cmd, &command.encode(), &self.keys)?;
        line.link.publish(topics::command(&self.settings.root, &self.device, id), payload, false);
        line.link.flush().await
    }

    /// For nobody is left to read it. Should that be lost, its own time ends it.
    async fn cancel(&self, line: &mut Session) {
        let stream = StreamArgs { of: self.id.parse().ok(), ..StreamArgs::default() };
        let _ = self.send(line, &random_id(), Verb::Cancel, stream).await;
    }

    /// All frames, up to the last one.
    async fn follow(&mut self, line: &mut Session, lasts: Duration) -> Result<u8, Error> {
        let topic = topics::answer(&self.settings.root, &self.device, &self.id);
        let mut farewell = None;
        while let Some((_, message)) = line.next(farewell.unwrap_or(Instant::now() + lasts + PATIENCE)).await? {
            if message.topic != topic {
                let now = line.fleet.devices.get(&self.device).and_then(|d| d.session());
                if farewell.is_none() && now.is_some_and(|now| now != self.session) {
                    farewell = Some(Instant::now() + FAREWELL);
                }
                continue;
            }
            let frame: Answer = serde_json::from_slice(&message.payload)
                .map_err(|e| Error::new(Code::Failed, format!("{}: its answer cannot be read: {e}", self.what)))?;
            if let Some(code) = self.take(&frame)? {
                return Ok(code);
            }
        }
        if farewell.is_some() {
            self.over = true;
            return Err(Error::new(
                Code::Unavailable,
                format!("{}: the device began another session, and ended what ran in the one before", self.what),
            ));
        }
        Err(Error::new(Code::Unavailable, format!("{}: nothing came for {} s", self.what, (lasts + PATIENCE).as_secs())))
    }

    /// The exit code once it is over.
    fn take(&mut self, frame: &Answer) -> Result<Option<u8>, Error> {
        // The broker may deliver a frame twice (QoS 1), and never one before another.
        if frame.n < self.next {
            return Ok(None);
        }
        if frame.n > self.next {
            self.missing += frame.n - self.next;
            note(&format!("wherryctl: {} frames of the answer are missing here", frame.n - self.next));
        }
        self.next = frame.n.saturating_add(1);
        self.over = frame.kind != AnswerKind::Data;
        if self.call.json() {
            print::json(&json!(frame))?;
        }
        match frame.kind {
            AnswerKind::Data if self.call.json() => Ok(None),
            AnswerKind::Data => self.show(frame).map(|()| None),
            AnswerKind::End if self.missing > 0 => {
                Err(Error::new(Code::Failed, format!("{}: {} frames of its answer are missing", self.what, self.missing)))
            }
            AnswerKind::End => Ok(Some(match frame.exit {
                None => 0,
                Some(LastExit::Code(code)) => code,
                Some(LastExit::Signal(signal)) => 128u8.saturating_add(signal),
            })),
            AnswerKind::Error => Err(self.refused(frame)),
        }
    }

    fn show(&self, frame: &Answer) -> Result<(), Error> {
        if let Some(lost) = frame.lost {
            let whose = frame.container.as_ref().map_or(String::new(), |name| format!(" of {name}"));
            note(&format!("wherryctl: {lost} bytes of output{whose} were lost here"));
        }
        let bytes = frame.bytes().ok_or_else(|| Error::new(Code::Failed, format!("{}: its answer cannot be read", self.what)))?;
        if frame.stream == Some(Output::Stderr) {
            return io::stderr().write_all(&bytes).map_err(|e| Error::io("cannot write standard error", &e));
        }
        print::bytes(&bytes)
    }

    fn refused(&self, frame: &Answer) -> Error {
        let (reason, message) = (frame.reason, frame.message.clone().unwrap_or_default());
        let word = reason.map_or_else(String::new, |r| format!(" ({r})"));
        let of_program = reason.map_or(Code::NoProgram, |reason| of_program(reason, &message));
        Error::new(reason.map_or(Code::Failed, code), format!("{}{word}: {message}", self.what)).meaning(of_program)
    }
}
