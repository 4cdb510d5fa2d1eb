//! `exec`: a program in a running container, on our own descriptors or on a terminal of its own.

use super::args::{Call, scope};
use super::client::{Client, unexpected};
use super::list::{ended, exit_code};
use super::terminal::{self, Raw};
use crate::exit::{Error, note};
use crate::ipc::{ExecArgs, Reply, Request};
use crate::sys::process::Ended;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::{read, write};
use serde_json::json;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes on their way in one direction at a time.
const CHUNK: usize = 4096;

/// Most bytes of output read after the program has ended: what it left running may write for ever.
const MAX_REST: usize = 1 << 20;

/// Milliseconds without output after which the rest is complete. The kernel moves a terminal's bytes from a work queue.
const REST_MS: u16 = 100;

/// `wherry exec [-it] … APP[/CONTAINER] CMD...`.
pub fn exec(call: &Call) -> Result<u8, Error> {
    let argv = call.argv()?;
    if argv.is_empty() {
        return Err(Error::usage("exec needs a program to run").hint(format!("usage: wherry exec {}", call.verb.synopsis)));
    }
    let tty = call.has("tty");
    let args = ExecArgs {
        scope: scope(&call.operand(0)?)?,
        argv,
        env: environment(call)?,
        user: call.value("user")?,
        workdir: call.value("workdir")?,
        terminal: tty.then(terminal::size),
    };
    let keeper = Client::connect(&call.socket())?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    keeper.send(&Request::Exec(args), &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    let end = if tty { on_terminal(&keeper)? } else { wait(&keeper)? };
    if call.json() {
        // Standard output belongs to the program.
        note(&json!({"exited": ended(end)}).to_string());
    }
    Ok(exit_code(end))
}

/// The values of `-e`: `K=V` as it is, `K` with the caller's value; a variable that the caller lacks is left out.
pub fn environment(call: &Call) -> Result<Vec<String>, Error> {
    let mut out = Vec::new();
    for word in call.values("env")? {
        match word.split_once('=') {
            Some(("", _)) => return Err(Error::usage(format!("--env {word}: the name is empty"))),
            Some(_) => out.push(word),
            None => out.extend(std::env::var(&word).ok().map(|value| format!("{word}={value}"))),
        }
    }
    Ok(out)
}

fn wait(keeper: &Client) -> Result<Ended, Error> {
    match keeper.next()? {
        Reply::Exited(end) => Ok(end),
        _ => Err(unexpected("exec")),
    }
}

fn on_terminal(keeper: &Client) -> Result<Ended, Error> {
    // Before raw mode: a signal in between would leave the terminal raw.
    let signals = terminal::signals(&[Signal::SIGWINCH, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM])?;
    let (Reply::Terminal, mut fds) = keeper.next_with()? else { return Err(unexpected("exec")) };
    let master = fds.pop().ok_or_else(|| unexpected("exec"))?;
    crate::sys::fd::set_nonblocking(master.as_fd()).map_err(|e| Error::io("cannot set up the terminal", &e))?;
    let _raw = Raw::enter()?;
    let mut relay = Relay { keeper, signals, master, listening: true, speaking: true, input: Vec::new(), output: Vec::new() };
    loop {
        if let Some(end) = relay.turn()? {
            return Ok(end);
        }
    }
}

/// Copies between our terminal and the program's. Each direction holds at most one chunk, and reads only when it has none.
struct Relay<'a> {
    keeper: &'a Client,
    signals: SignalFd,
    master: OwnedFd,
    /// Standard input is not at its end.
    listening: bool,
    /// The master is not at its end.
    speaking: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What is ready.
struct Ready {
    keeper: bool,
    signals: bool,
    stdin: bool,
    master: PollFlags,
    stdout: bool,
}

impl Relay<'_> {
    fn turn(&mut self) -> Result<Option<Ended>, Error> {
        let ready = self.poll()?;
        if ready.signals
            && let Some(signal) = terminal::pending(&self.signals)
        {
            if signal != Signal::SIGWINCH {
                return Ok(Some(Ended::Signal(signal as i32 as u8)));
            }
            // The program is told the new size by the kernel; one that ended meanwhile does not care.
            let _ = crate::sys::pty::resize(&self.master, terminal::size());
        }
        if ready.stdin {
            self.hear();
        }
        if ready.master.contains(PollFlags::POLLOUT) {
            let written = write(&self.master, &self.input);
            self.input = rest(written, std::mem::take(&mut self.input));
        }
        if ready.master.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) && self.output.is_empty() {
            self.speak();
        }
        if ready.stdout {
            self.print()?;
        }
        if ready.keeper {
            let end = wait(self.keeper)?;
            self.finish()?;
            return Ok(Some(end));
        }
        Ok(None)
    }

    fn poll(&self) -> Result<Ready, Error> {
        let when = |on: bool, flag: PollFlags| if on { flag } else { PollFlags::empty() };
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        let master = when(self.speaking && self.output.is_empty(), PollFlags::POLLIN) | when(!self.input.is_empty(), PollFlags::POLLOUT);
        let mut set = vec![PollFd::new(self.keeper.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // A descriptor asked for nothing would still answer POLLHUP, for ever: leave it out.
        let mut add = |wanted: bool, fd, flags| {
            wanted.then(|| {
                set.push(PollFd::new(fd, flags));
                set.len() - 1
            })
        };
        let i = add(self.listening && self.input.is_empty(), stdin.as_fd(), PollFlags::POLLIN);
        let m = add(self.speaking && !master.is_empty(), self.master.as_fd(), master);
        let o = add(!self.output.is_empty(), stdout.as_fd(), PollFlags::POLLOUT);
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::io("cannot wait for the terminal", &e.into())),
        }
        let flags = |at: Option<usize>| at.and_then(|i| set[i].revents()).unwrap_or(PollFlags::empty());
        let any = |at| !flags(at).is_empty();
        Ok(Ready { keeper: any(Some(0)), signals: any(Some(1)), stdin: any(i), master: flags(m), stdout: any(o) })
    }

    fn hear(&mut self) {
        let mut buf = [0; CHUNK];
        match read(std::io::stdin(), &mut buf) {
            Ok(0) => self.listening = false,
            Ok(n) => self.input.extend_from_slice(&buf[..n]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.listening = false,
        }
    }

    fn speak(&mut self) {
        let mut buf = [0; CHUNK];
        match read(&self.master, &mut buf) {
            Ok(0) => self.speaking = false,
            Ok(n) => self.output.extend_from_slice(&buf[..n]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // EIO: nobody has the other side open any more.
            Err(_) => self.speaking = false,
        }
        if !self.speaking {
            self.input.clear();
        }
    }

    fn print(&mut self) -> Result<(), Error> {
        match write(std::io::stdout(), &self.output) {
            Err(Errno::EPIPE) => Err(Error::closed()),
            Err(e) if !matches!(e, Errno::EINTR | Errno::EAGAIN) => Err(Error::io("cannot write standard output", &e.into())),
            done => {
                self.output = rest(done, std::mem::take(&mut self.output));
                Ok(())
            }
        }
    }

    /// Prints what the program had written before it ended.
    fn finish(&mut self) -> Result<(), Error> {
        let mut left = MAX_REST;
        loop {
            super::print::bytes(&std::mem::take(&mut self.output))?;
            let mut set = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if !self.speaking || left == 0 || !matches!(poll(&mut set, REST_MS), Ok(n) if n > 0) {
                return Ok(());
            }
            self.speak();
            left = left.saturating_sub(self.output.len());
        }
    }
}

/// What a write left over.
fn rest(written: Result<usize, Errno>, mut bytes: Vec<u8>) -> Vec<u8> {
    match written {
        Ok(n) => drop(bytes.drain(..n)),
        Err(Errno::EINTR | Errno::EAGAIN) => {}
        Err(_) => bytes.clear(),
    }
    bytes
}
