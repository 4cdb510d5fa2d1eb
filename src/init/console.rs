//! The life of a pid 1 whose container has a console: what [`super::reap`] does, and between that it carries bytes.
//!
//! ```text
//! keeper ── FIFO of frames ──▶ pid 1 ──▶ terminal, or a pipe ──▶ the program's standard input
//! keeper ◀── FIFO of output ── pid 1 ◀── terminal ◀── its output (without a terminal: straight into the FIFO)
//! ```
//!
//! The terminal's master is held here and nowhere else, so it lives as long as the container, whatever becomes of keeper: the next one finds
//! both FIFOs by their paths.

use super::reap::{end, reap};
use crate::container::console::{Frame, decode};
use crate::container::fail::OrFail;
use crate::container::payload::Payload;
use crate::container::terminal::open_master;
use crate::ipc::Failure;
use crate::sys::fd::set_nonblocking;
use crate::sys::process::Ended;
use crate::sys::{pid1, pty};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stdin, pipe2, read, write};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes on their way in one direction.
const CHUNK: usize = 4096;

/// Our side of the console.
pub struct Console {
    /// Frames from keeper.
    input: OwnedFd,
    /// Where the program's input goes, until it ends.
    to: Option<OwnedFd>,
    /// The terminal, if there is one: its master, and the log. Its other end is our own standard input and output: it stays there when the program
    /// has closed its own.
    terminal: Option<(OwnedFd, OwnedFd)>,
    signals: OwnedFd,
    frames: Vec<u8>,
    typed: Vec<u8>,
    said: Vec<u8>,
}

/// What is ready.
#[derive(Clone, Copy)]
enum Ready {
    Signals,
    Input,
    To,
    Master,
    Log,
}

impl Console {
    /// A new terminal, and the program's end of it. Our root is the container's.
    pub fn terminal(payload: &Payload, input: OwnedFd, log: OwnedFd, reads: bool) -> Result<(Self, OwnedFd), Failure> {
        let what = || "make a terminal";
        let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(what)?;
        let master = open_master(root)?;
        let peer = pty::peer(&master).or_fail(what)?;
        payload.own(peer.as_fd())?;
        for fd in [&master, &input, &log] {
            set_nonblocking(fd.as_fd()).or_fail(what)?;
        }
        // Before somebody sits there and says otherwise.
        pty::resize(&master, pty::CLASSIC).or_fail(what)?;
        let to = if reads { Some(master.try_clone().or_fail(what)?) } else { None };
        Ok((Self::new(input, to, Some((master, log)))?, peer))
    }

    /// A pipe, and the program's end of it.
    pub fn pipe(payload: &Payload, input: OwnedFd) -> Result<(Self, OwnedFd), Failure> {
        let what = || "make a pipe for standard input";
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).or_fail(what)?;
        payload.own(theirs.as_fd())?;
        for fd in [&ours, &input] {
            set_nonblocking(fd.as_fd()).or_fail(what)?;
        }
        Ok((Self::new(input, Some(ours), None)?, theirs))
    }

    fn new(input: OwnedFd, to: Option<OwnedFd>, terminal: Option<(OwnedFd, OwnedFd)>) -> Result<Self, Failure> {
        let signals = pid1::signals().or_fail(|| "watch the signals")?;
        Ok(Self { input, to, terminal, signals, frames: Vec::new(), typed: Vec::new(), said: Vec::new() })
    }

    /// For who stays as pid 1: the pipe's end that is read is the program's alone.
    pub fn leave_input(&self) -> Result<(), Failure> {
        if self.terminal.is_some() { Ok(()) } else { dup2_stdin(std::io::stdout()).or_fail(|| "leave standard input") }
    }

    /// It has a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// What must stay open.
    pub fn needs(&self) -> Vec<BorrowedFd<'_>> {
        let terminal = self.terminal.iter().flat_map(|(master, log)| [master.as_fd(), log.as_fd()]);
        [self.input.as_fd(), self.signals.as_fd()].into_iter().chain(self.to.as_ref().map(AsFd::as_fd)).chain(terminal).collect()
    }

    /// As [`super::reap::until_end`].
    pub fn until_end(mut self, payload: i32, record: &File) -> ! {
        loop {
            for ready in self.wait() {
                match ready {
                    Ready::Signals => {
                        if let Some(ended) = signalled(payload) {
                            self.last_words();
                            end(record, ended);
                        }
                    }
                    Ready::Input => self.hear(),
                    Ready::To => self.pass_on(),
                    Ready::Master => drop(self.listen()),
                    Ready::Log => self.tell(),
                }
            }
        }
    }

    /// Each direction is read only when what it had before has gone.
    fn wait(&self) -> Vec<Ready> {
        let mut wanted: Vec<(Ready, BorrowedFd<'_>, PollFlags)> = vec![(Ready::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        match &self.to {
            Some(to) if !self.typed.is_empty() => wanted.push((Ready::To, to.as_fd(), PollFlags::POLLOUT)),
            _ => wanted.push((Ready::Input, self.input.as_fd(), PollFlags::POLLIN)),
        }
        match &self.terminal {
            Some((_, log)) if !self.said.is_empty() => wanted.push((Ready::Log, log.as_fd(), PollFlags::POLLOUT)),
            Some((master, ..)) => wanted.push((Ready::Master, master.as_fd(), PollFlags::POLLIN)),
            None => {}
        }
        let mut set: Vec<PollFd<'_>> = wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        if poll(&mut set, PollTimeout::NONE).is_err() {
            return Vec::new();
        }
        wanted.iter().zip(&set).filter(|(_, polled)| polled.any().unwrap_or(true)).map(|((ready, ..), _)| *ready).collect()
    }

    /// Frames up to the first that has input for the program.
    fn hear(&mut self) {
        let mut buf = [0; CHUNK];
        if let Ok(n) = read(&self.input, &mut buf) {
            self.frames.extend_from_slice(&buf[..n]);
        }
        self.understand();
    }

    fn understand(&mut self) {
        while self.typed.is_empty() {
            let Some((frame, used)) = decode(&self.frames) else { return };
            self.frames.drain(..used);
            match frame {
                Some(Frame::Data(bytes)) if self.to.is_some() => self.typed = bytes,
                // A terminal has no end; a person types one.
                Some(Frame::End) if self.terminal.is_none() => self.to = None,
                Some(Frame::Size(rows, columns)) => {
                    if let Some((master, ..)) = &self.terminal {
                        let _ = pty::resize(master, (rows, columns));
                    }
                }
                Some(Frame::Data(_) | Frame::End) | None => {}
            }
        }
    }

    fn pass_on(&mut self) {
        let Some(to) = &self.to else { return };
        match write(to, &self.typed) {
            Ok(n) => drop(self.typed.drain(..n)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Nobody will read it.
            Err(_) => {
                self.to = None;
                self.typed.clear();
            }
        }
        self.understand();
    }

    /// Answers whether there was something.
    fn listen(&mut self) -> bool {
        let Some((master, ..)) = &self.terminal else { return false };
        let mut buf = [0; CHUNK];
        match read(master, &mut buf) {
            Ok(n) if n > 0 => {
                self.said.extend_from_slice(&buf[..n]);
                true
            }
            _ => false,
        }
    }

    fn tell(&mut self) {
        let Some((_, log)) = &self.terminal else { return };
        if let Ok(n) = write(log, &self.said) {
            self.said.drain(..n);
        }
    }

    /// What the program had written before it ended: it waits for keeper like what a program writes by itself, but not when it is told to stop.
    fn last_words(&mut self) {
        while !self.said.is_empty() || self.listen() {
            let Some((_, log)) = &self.terminal else { return };
            let mut set = [PollFd::new(log.as_fd(), PollFlags::POLLOUT), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut set, PollTimeout::NONE);
            if set[1].any().unwrap_or(false) && pid1::next_signal().is_ok_and(|signal| signal != libc::SIGCHLD) {
                return;
            }
            self.tell();
        }
    }
}

/// Takes one signal; how the payload ended, if that is what it says.
fn signalled(payload: i32) -> Option<Ended> {
    match pid1::next_signal() {
        Ok(libc::SIGCHLD) => reap(payload),
        // Our own: the program has closed its input.
        Ok(libc::SIGPIPE) | Err(_) => None,
        Ok(signal) => {
            let _ = pid1::kill(payload, signal);
            None
        }
    }
}
