//! One epoll set: which descriptor is which thing that keeper waits for.

use crate::manifest::Name;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// A container, by app and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The app.
    pub app: Name,
    /// The container in it.
    pub container: Name,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.app, self.container)
    }
}

/// Everything that can become ready: the closed set of keeper's events, beside time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The signalfd.
    Signals,
    /// The control socket.
    Listener,
    /// A connection of the command line.
    Client(u64),
    /// The agent's socket.
    Agent,
    /// The agent's process.
    AgentExit,
    /// Stage's socket.
    Stage(u64),
    /// Stage's process.
    StageExit(u64),
    /// The socket that launch and pid 1 of a container share.
    Launch(Key),
    /// The launch process of a container.
    LaunchExit(Key),
    /// Pid 1 of a container.
    Pid1(Key),
    /// Output of a container.
    Log(Key),
    /// Input of a container, which takes some again.
    Input(Key),
    /// The terminal of a program exec'd in a container whose client has detached; by pid.
    Terminal(i32),
    /// The socket that launch and an exec'd program share; by client.
    Exec(u64),
    /// The launch process of an exec; by client.
    ExecLaunchExit(u64),
    /// A program exec'd in a container; by client.
    ExecExit(u64),
    /// Output of a program that a command from the network runs; by stream.
    Stream(u64),
    /// A program exec'd in a container whose client has left; by pid.
    Orphan(i32),
    /// The socket that launch and the process of a health check share.
    Check(Key),
    /// The launch process of a health check.
    CheckLaunchExit(Key),
    /// The process of a health check.
    CheckExit(Key),
}

/// Names one registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

/// The epoll set.
pub struct Poll {
    epoll: Epoll,
    sources: HashMap<u64, Source>,
    next: u64,
}

/// What [`Poll::wait`] found.
#[derive(Debug)]
pub struct Ready {
    /// Which registration.
    pub token: Token,
    /// Which thing.
    pub source: Source,
    /// It can be read, or its other end is gone.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, sources: HashMap::new(), next: 0 })
    }

    /// Waits for `fd` to be readable.
    pub fn add(&mut self, fd: impl AsFd, source: Source) -> io::Result<Token> {
        let token = self.next;
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.next += 1;
        self.sources.insert(token, source);
        Ok(Token(token))
    }

    /// Changes what is waited for.
    pub fn interest(&self, fd: impl AsFd, token: Token, read: bool, write: bool) -> io::Result<()> {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, read);
        flags.set(EpollFlags::EPOLLOUT, write);
        self.epoll.modify(fd, &mut EpollEvent::new(flags, token.0))?;
        Ok(())
    }

    /// Forgets `fd`. Must come before its close: a duplicate in a child would keep the registration alive.
    pub fn remove(&mut self, fd: impl AsFd, token: Token) {
        // A descriptor that epoll no longer knows is as good as removed.
        let _ = self.epoll.delete(fd);
        self.sources.remove(&token.0);
    }

    /// Still registered. What was ready a moment ago may have been taken down by what was dealt with before it.
    pub fn knows(&self, token: Token) -> bool {
        self.sources.contains_key(&token.0)
    }

    /// Sleeps until something is ready or `timeout` has passed.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Ready>> {
        let mut events = [EpollEvent::empty(); 32];
        // Rounded up: waking a moment early would spin until the moment is there.
        let millis = timeout.map_or(EpollTimeout::NONE, |t| {
            EpollTimeout::try_from(t.as_millis().saturating_add(1).min(60_000) as i32).unwrap_or(EpollTimeout::ZERO)
        });
        let n = match self.epoll.wait(&mut events, millis) {
            Ok(n) => n,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        let ready = |e: &EpollEvent| {
            let source = self.sources.get(&e.data())?.clone();
            let writable = e.events().contains(EpollFlags::EPOLLOUT);
            Some(Ready { token: Token(e.data()), source, readable: e.events().intersects(!EpollFlags::EPOLLOUT), writable })
        };
        Ok(events[..n].iter().filter_map(ready).collect())
    }
}
