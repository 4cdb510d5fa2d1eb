//! `exec`: a program in a running container, on our own descriptors or on a terminal of its own.

use super::args::{Call, scope};
use super::attach::{detach_keys, not_a_terminal};
use super::client::{Client, unexpected};
use super::keys::Keys;
use super::list::{ended, exit_code};
use super::print;
use super::terminal::{self, Raw};
use crate::exit::{Error, note};
use crate::ipc::{ExecArgs, Reply, Request};
use crate::sys::fd::set_nonblocking;
use crate::sys::process::Ended;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::stat::fstat;
use nix::unistd::{pipe2, read, write};
use serde_json::json;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes on their way in one direction at a time.
const CHUNK: usize = 4096;

/// Most bytes of input for a terminal that wait for the program.
const MAX_INPUT: usize = 16 * CHUNK;

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
    let (tty, interactive, detach) = (call.has("tty"), call.has("interactive"), call.has("detach"));
    if detach && (tty || interactive) {
        return Err(Error::usage("-d excludes -i and -t").hint("a program without its caller has no terminal and no input"));
    }
    if tty && interactive && !std::io::stdin().is_terminal() {
        return Err(not_a_terminal());
    }
    let keys = detach_keys(call)?;
    let args = ExecArgs {
        scope: scope(&call.operand(0)?)?,
        argv,
        env: environment(call)?,
        user: call.value("user")?,
        workdir: call.value("workdir")?,
        terminal: tty.then(terminal::size),
        detach,
    };
    let keeper = Client::connect(&call.socket())?;
    let end = match tty {
        _ if detach => return detached(&keeper, args),
        true => on_terminal(&keeper, args, interactive.then_some(keys))?,
        false => Some(on_own(&keeper, args, interactive)?),
    };
    let Some(end) = end else {
        note("wherry: detached, the program runs on");
        return Ok(0);
    };
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

/// Without a caller, and so without input and output.
fn detached(keeper: &Client, args: ExecArgs) -> Result<u8, Error> {
    let null = File::options().read(true).write(true).open("/dev/null").map_err(|e| Error::io("cannot open /dev/null", &e))?;
    keeper.send(&Request::Exec(args), &[null.as_fd(); 3])?;
    match keeper.next()? {
        Reply::Done => Ok(0),
        _ => Err(unexpected("exec")),
    }
}

fn wait(keeper: &Client) -> Result<Ended, Error> {
    match keeper.next()? {
        Reply::Exited(end) => Ok(end),
        _ => Err(unexpected("exec")),
    }
}

/// How it ended; `None` if it was left. With keys, what is typed goes there.
fn on_terminal(keeper: &Client, args: ExecArgs, keys: Option<Keys>) -> Result<Option<Ended>, Error> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    keeper.send(&Request::Exec(args), &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    // Before raw mode: a signal in between would leave the terminal raw.
    let signals = terminal::signals(&[Signal::SIGWINCH, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM])?;
    let (Reply::Terminal, mut fds) = keeper.next_with()? else { return Err(unexpected("exec")) };
    let master = fds.pop().ok_or_else(|| unexpected("exec"))?;
    let failed = |e| Error::io("cannot set up the terminal", &e);
    set_nonblocking(master.as_fd()).map_err(failed)?;
    let output = Output::new(master.try_clone().map_err(failed)?, stdout.as_fd()).map_err(failed)?;
    let to = Some(master.try_clone().map_err(failed)?);
    let listening = keys.is_some();
    let _raw = if listening { Raw::enter()? } else { None };
    Relay { keeper, window: Some((signals, master)), to, keys, listening, input: Vec::new(), outputs: vec![output] }.run()
}

/// On our own descriptors. A terminal among them stays ours: whoever has it open can read what is typed there for as long as he likes.
fn on_own(keeper: &Client, args: ExecArgs, interactive: bool) -> Result<Ended, Error> {
    let failed = |e| Error::io("cannot set up standard input and output", &e);
    let (input, to) = input(interactive).map_err(failed)?;
    let (output, error, outputs) = outputs().map_err(failed)?;
    keeper.send(&Request::Exec(args), &[input.as_fd(), output.as_fd(), error.as_fd()])?;
    // Ours would keep the pipes from ending.
    drop((input, output, error));
    let listening = to.is_some();
    let end = Relay { keeper, window: None, listening, to, keys: None, input: Vec::new(), outputs }.run()?;
    end.ok_or_else(|| unexpected("exec"))
}

/// The program's standard input, and where to write what is typed.
fn input(interactive: bool) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let own = std::io::stdin();
    if !interactive {
        return Ok((File::open("/dev/null")?.into(), None));
    }
    if !own.is_terminal() {
        return Ok((own.as_fd().try_clone_to_owned()?, None));
    }
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(ours.as_fd())?;
    Ok((theirs, Some(ours)))
}

/// The program's standard output and error, and what is to be copied. One pipe if both are the same terminal: lines then keep their order.
fn outputs() -> io::Result<(OwnedFd, OwnedFd, Vec<Output>)> {
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let mut copied = Vec::new();
    let mut end = |own: BorrowedFd<'_>| {
        if !own.is_terminal() {
            return own.try_clone_to_owned();
        }
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(ours.as_fd())?;
        copied.push(Output::new(ours, own)?);
        Ok(theirs)
    };
    let output = end(stdout.as_fd())?;
    let same = stdout.is_terminal() && fstat(&stdout)?.st_rdev == fstat(&stderr)?.st_rdev;
    let error = if same { output.try_clone()? } else { end(stderr.as_fd())? };
    Ok((output, error, copied))
}

/// Copies between us and the program. Each direction but that of a terminal's input holds at most one chunk, and reads only when it has none.
struct Relay<'a> {
    keeper: &'a Client,
    /// Our signals, and the program's terminal, which is told of changes of size.
    window: Option<(SignalFd, OwnedFd)>,
    /// Where standard input goes, until it ends.
    to: Option<OwnedFd>,
    /// Those that leave the terminal.
    keys: Option<Keys>,
    /// Standard input is not at its end.
    listening: bool,
    input: Vec<u8>,
    outputs: Vec<Output>,
}

/// What the program writes, on its way to a descriptor of ours.
struct Output {
    from: OwnedFd,
    to: OwnedFd,
    /// `from` is not at its end.
    open: bool,
    waiting: Vec<u8>,
}

/// What one turn came to.
enum Turn {
    On,
    Ended(Ended),
    Left,
}

/// What is ready.
enum Ready {
    Signals,
    Stdin,
    To,
    From(usize),
    Own(usize),
    Keeper,
}

impl Relay<'_> {
    /// How it ended; `None` if it was left.
    fn run(mut self) -> Result<Option<Ended>, Error> {
        loop {
            match self.turn()? {
                Turn::On => {}
                Turn::Ended(end) => return Ok(Some(end)),
                Turn::Left => return Ok(None),
            }
        }
    }

    fn turn(&mut self) -> Result<Turn, Error> {
        for ready in self.poll()? {
            match ready {
                Ready::Signals => {
                    if let Some(signal) = self.signalled() {
                        return Ok(Turn::Ended(Ended::Signal(signal as i32 as u8)));
                    }
                }
                Ready::Stdin => {
                    if self.hear() {
                        return self.leave();
                    }
                }
                Ready::To => self.pass(),
                Ready::From(i) => self.outputs[i].take(),
                Ready::Own(i) => self.outputs[i].print()?,
                Ready::Keeper => {
                    let end = wait(self.keeper)?;
                    self.finish()?;
                    return Ok(Turn::Ended(end));
                }
            }
        }
        Ok(Turn::On)
    }

    /// The keys to leave must be found behind input that the program does not take.
    fn most_input(&self) -> usize {
        if self.keys.is_some() { MAX_INPUT } else { 1 }
    }

    /// In the order in which they are to be served: keeper last, since it ends all.
    fn poll(&self) -> Result<Vec<Ready>, Error> {
        let stdin = std::io::stdin();
        // A descriptor asked for nothing would still answer POLLHUP, for ever: it is left out.
        let mut wanted: Vec<(Ready, BorrowedFd<'_>, PollFlags)> = Vec::new();
        if let Some((signals, _)) = &self.window {
            wanted.push((Ready::Signals, signals.as_fd(), PollFlags::POLLIN));
        }
        if let Some(to) = self.to.as_ref().filter(|_| !self.input.is_empty()) {
            wanted.push((Ready::To, to.as_fd(), PollFlags::POLLOUT));
        }
        if self.listening && self.to.is_some() && self.input.len() < self.most_input() {
            wanted.push((Ready::Stdin, stdin.as_fd(), PollFlags::POLLIN));
        }
        for (i, output) in self.outputs.iter().enumerate() {
            if !output.waiting.is_empty() {
                wanted.push((Ready::Own(i), output.to.as_fd(), PollFlags::POLLOUT));
            } else if output.open {
                wanted.push((Ready::From(i), output.from.as_fd(), PollFlags::POLLIN));
            }
        }
        wanted.push((Ready::Keeper, self.keeper.as_fd(), PollFlags::POLLIN));
        let mut set: Vec<PollFd<'_>> = wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("cannot wait for the terminal", &e.into())),
        }
        let ready = wanted.into_iter().zip(&set).filter(|(_, polled)| polled.any().unwrap_or(true));
        Ok(ready.map(|((ready, ..), _)| ready).collect())
    }

    /// The signal that ends us, if one came.
    fn signalled(&self) -> Option<Signal> {
        let (signals, terminal) = self.window.as_ref()?;
        let signal = terminal::pending(signals)?;
        if signal != Signal::SIGWINCH {
            return Some(signal);
        }
        // The program is told the new size by the kernel; one that ended meanwhile does not care.
        let _ = crate::sys::pty::resize(terminal, terminal::size());
        None
    }

    /// The program keeps its terminal, whose master keeper takes.
    fn leave(&mut self) -> Result<Turn, Error> {
        let master: Vec<BorrowedFd<'_>> = self.window.iter().map(|(_, master)| master.as_fd()).collect();
        self.keeper.send(&Request::Detach, &master)?;
        match self.keeper.next()? {
            Reply::Done => Ok(Turn::Left),
            Reply::Exited(end) => Ok(Turn::Ended(end)),
            _ => Err(unexpected("exec")),
        }
    }

    /// Answers whether the keys to leave were typed.
    fn hear(&mut self) -> bool {
        let mut buf = [0; CHUNK];
        match read(std::io::stdin(), &mut buf) {
            Ok(n) if n > 0 => {
                let (passed, left) = self.keys.as_mut().map_or_else(|| (buf[..n].to_vec(), false), |keys| keys.pass(&buf[..n]));
                self.input.extend(passed);
                return left;
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // A pipe must end with what is typed; of a terminal, this closes one of several descriptors.
            _ => (self.listening, self.to) = (false, None),
        }
        false
    }

    fn pass(&mut self) {
        let Some(to) = &self.to else { return };
        match write(to, &self.input) {
            Ok(n) => drop(self.input.drain(..n)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Nobody listens any more.
            Err(_) => self.to = None,
        }
    }

    /// Prints what the program had written before it ended.
    fn finish(&mut self) -> Result<(), Error> {
        let mut left = MAX_REST;
        loop {
            for output in &mut self.outputs {
                output.flush()?;
            }
            let mut open: Vec<&mut Output> = self.outputs.iter_mut().filter(|o| o.open).collect();
            let mut set: Vec<PollFd<'_>> = open.iter().map(|o| PollFd::new(o.from.as_fd(), PollFlags::POLLIN)).collect();
            if set.is_empty() || left == 0 || !matches!(poll(&mut set, REST_MS), Ok(n) if n > 0) {
                return Ok(());
            }
            for output in &mut open {
                output.take();
                left = left.saturating_sub(output.waiting.len());
            }
        }
    }
}

impl Output {
    fn new(from: OwnedFd, to: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { from, to: to.try_clone_to_owned()?, open: true, waiting: Vec::new() })
    }

    fn take(&mut self) {
        let mut buf = [0; CHUNK];
        match read(&self.from, &mut buf) {
            Ok(n) if n > 0 => self.waiting.extend_from_slice(&buf[..n]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // The end; of a terminal, EIO: nobody has the other side open any more.
            _ => self.open = false,
        }
    }

    fn print(&mut self) -> Result<(), Error> {
        match write(&self.to, &self.waiting) {
            Ok(n) => drop(self.waiting.drain(..n)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(e) => return Err(print::unwritable(&e.into())),
        }
        Ok(())
    }

    /// Prints all that waits, however long our side takes.
    fn flush(&mut self) -> Result<(), Error> {
        while !self.waiting.is_empty() {
            let mut set = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut set, PollTimeout::NONE);
            self.print()?;
        }
        Ok(())
    }
}
