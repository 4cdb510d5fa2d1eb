//! `attach`: the console of a container, its output and its input, until it ends or one leaves.

use super::args::{Call, scope};
use super::client::{Client, unexpected};
use super::keys::{self, Keys};
use super::list::{ended, exit_code};
use super::print;
use super::terminal::{self, Raw};
use crate::container::console::MAX_DATA;
use crate::exit::{Code, Error, note};
use crate::ipc::{LogChunk, Reply, Request, Scope, encode};
use crate::sys::fd::set_nonblocking;
use crate::sys::process::Ended;
use crate::sys::socket;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::{read, write};
use serde_json::json;
use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Requests that wait for keeper before nothing more is read from standard input. So many that the keys to leave are found behind input that the
/// container does not take.
const WAITING: usize = 64;

/// How it was left.
pub enum End {
    /// The container's run ended.
    Exited(Ended),
    /// By the keys.
    Detached,
    /// By a signal to us.
    Signal(Signal),
}

/// `wherry attach [--no-stdin] [--detach-keys KEYS] APP[/CONTAINER]`.
pub fn attach(call: &Call) -> Result<u8, Error> {
    let word = call.operand(0)?;
    let keys = detach_keys(call)?;
    match console(&call.socket(), scope(&word)?, false, !call.has("no-stdin"), keys)? {
        End::Exited(end) => {
            if call.json() {
                // Standard output belongs to the program.
                note(&json!({"exited": ended(end)}).to_string());
            }
            Ok(exit_code(end))
        }
        End::Detached => {
            note(&format!("wherry: detached, {word} runs on"));
            Ok(0)
        }
        End::Signal(signal) => Ok(exit_code(Ended::Signal(signal as i32 as u8))),
    }
}

/// The option of that name, else docker's keys.
pub fn detach_keys(call: &Call) -> Result<Keys, Error> {
    let given = call.parsed("detach-keys", Keys::parse)?;
    given.map_or_else(|| Keys::parse(keys::DEFAULT).map_err(|e| Error::new(Code::Internal, e)), Ok)
}

/// What docker says to input that is none.
pub fn not_a_terminal() -> Error {
    Error::usage("the input device is not a TTY").hint("input by a pipe goes to a program without a terminal: leave out -t")
}

/// Sits at the console of a container. `replay`: also what it has said before. `interactive`: standard input goes there, if it takes any.
pub fn console(keeper: &Path, of: Scope, replay: bool, interactive: bool, keys: Keys) -> Result<End, Error> {
    // Before raw mode: a signal in between would leave the terminal raw.
    let signals = terminal::signals(&[Signal::SIGWINCH, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM])?;
    let keeper = Client::request(keeper, &Request::Attach { of, replay })?;
    let Reply::Attached { terminal, stdin } = keeper.next()? else { return Err(unexpected("attach")) };
    let own = io::stdin().is_terminal();
    let listening = interactive && stdin;
    if terminal && listening && !own {
        return Err(not_a_terminal().hint("only to watch, use --no-stdin"));
    }
    if interactive && !stdin && own {
        note("wherry: nothing is passed on of what is typed: its manifest has no \"stdin\": \"open\"");
    }
    set_nonblocking(keeper.as_fd()).map_err(|e| Error::io("cannot set up the connection", &e))?;
    let mut session = Session { keeper, signals, keys, terminal, listening, waiting: VecDeque::new(), output: Vec::new(), end: None };
    let _raw = if terminal && listening { Raw::enter()? } else { None };
    session.announce_size();
    session.run()
}

struct Session {
    keeper: Client,
    signals: SignalFd,
    keys: Keys,
    terminal: bool,
    /// Standard input goes to the container, and is not at its end.
    listening: bool,
    /// Frames for keeper.
    waiting: VecDeque<Vec<u8>>,
    /// For standard output.
    output: Vec<u8>,
    end: Option<Ended>,
}

#[derive(Clone, Copy)]
enum Ready {
    Signals,
    Stdin,
    Stdout,
    ToKeeper,
    FromKeeper,
}

impl Session {
    fn run(mut self) -> Result<End, Error> {
        loop {
            if let Some(end) = self.end.filter(|_| self.output.is_empty()) {
                return Ok(End::Exited(end));
            }
            for ready in self.poll()? {
                match ready {
                    Ready::Signals => match terminal::pending(&self.signals) {
                        Some(Signal::SIGWINCH) => self.ask(&Request::Resize(terminal::size().0, terminal::size().1))?,
                        Some(signal) => return Ok(End::Signal(signal)),
                        None => {}
                    },
                    Ready::Stdin => {
                        if self.hear()? {
                            return Ok(End::Detached);
                        }
                    }
                    Ready::Stdout => self.print()?,
                    Ready::ToKeeper => self.send()?,
                    Ready::FromKeeper => self.answer()?,
                }
            }
        }
    }

    /// A change of size makes the program draw itself anew: one is made up where there is none.
    fn announce_size(&mut self) {
        if self.terminal && io::stdin().is_terminal() {
            let (rows, columns) = terminal::size();
            for size in [Request::Resize(rows.saturating_add(1), columns), Request::Resize(rows, columns)] {
                // Shorter than any limit.
                self.waiting.extend(encode(&size));
            }
        }
    }

    fn poll(&self) -> Result<Vec<Ready>, Error> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut wanted: Vec<(Ready, BorrowedFd<'_>, PollFlags)> = vec![(Ready::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        if self.listening && self.waiting.len() < WAITING {
            wanted.push((Ready::Stdin, stdin.as_fd(), PollFlags::POLLIN));
        }
        if !self.waiting.is_empty() {
            wanted.push((Ready::ToKeeper, self.keeper.as_fd(), PollFlags::POLLOUT));
        }
        match self.output.is_empty() {
            true => wanted.push((Ready::FromKeeper, self.keeper.as_fd(), PollFlags::POLLIN)),
            false => wanted.push((Ready::Stdout, stdout.as_fd(), PollFlags::POLLOUT)),
        }
        let mut set: Vec<PollFd<'_>> = wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("cannot wait for the console", &e.into())),
        }
        Ok(wanted.iter().zip(&set).filter(|(_, polled)| polled.any().unwrap_or(true)).map(|((ready, ..), _)| *ready).collect())
    }

    /// Answers whether the keys to leave were typed.
    fn hear(&mut self) -> Result<bool, Error> {
        let mut buf = [0; MAX_DATA];
        let typed = match read(io::stdin(), &mut buf) {
            Ok(n) if n > 0 => &buf[..n],
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(false),
            _ => {
                self.listening = false;
                self.ask(&Request::InputEnd)?;
                return Ok(false);
            }
        };
        let (passed, left) = if self.terminal { self.keys.pass(typed) } else { (typed.to_vec(), false) };
        // Keys that were held back may make it longer than a frame holds.
        for part in passed.chunks(MAX_DATA) {
            self.ask(&Request::Input(part.to_vec()))?;
        }
        Ok(left)
    }

    fn ask(&mut self, request: &Request) -> Result<(), Error> {
        self.waiting.push_back(encode(request).map_err(|e| Error::new(Code::Internal, e.to_string()))?);
        Ok(())
    }

    fn send(&mut self) -> Result<(), Error> {
        while let Some(frame) = self.waiting.front() {
            match socket::send(self.keeper.as_fd(), frame, &[]) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // What it said last is still to be read.
                Err(_) => {
                    (self.listening, self.waiting) = (false, VecDeque::new());
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<(), Error> {
        match self.keeper.next()? {
            Reply::Log(LogChunk { bytes, lost, .. }) => {
                if lost > 0 {
                    note(&format!("wherry: {lost} bytes of output were lost here"));
                }
                self.output = bytes;
            }
            Reply::Exited(end) => self.end = Some(end),
            _ => return Err(unexpected("attach")),
        }
        Ok(())
    }

    fn print(&mut self) -> Result<(), Error> {
        // No more than what a pipe that is ready takes without waiting (pipe(7)).
        let part = &self.output[..self.output.len().min(4096)];
        match write(io::stdout(), part) {
            Ok(n) => drop(self.output.drain(..n)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(e) => return Err(print::unwritable(&e.into())),
        }
        Ok(())
    }
}
