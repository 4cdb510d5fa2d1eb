//! The link to keeper, and the signals that end the agent, for the event loop.

use crate::ipc::{Conn, FromAgent, ToAgent};
use crate::sys::{fd, reactor};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Keeper's end, without sleeping in the kernel.
pub struct Keeper {
    conn: Conn,
    /// A second descriptor of the same socket, for its readiness alone.
    ready: AsyncFd<OwnedFd>,
}

impl Keeper {
    /// Needs the runtime's reactor.
    pub fn new(conn: Conn) -> io::Result<Self> {
        fd::set_nonblocking(conn.as_fd())?;
        let ready = reactor::watch(conn.as_fd().try_clone_to_owned()?)?;
        Ok(Self { conn, ready })
    }

    /// The next message with its descriptors; `None` when keeper is gone. May be cancelled.
    pub async fn receive(&self) -> io::Result<Option<(ToAgent, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.ready.readable().await?;
            if let Ok(answer) = ready.try_io(|_| self.conn.recv_with()) {
                return answer;
            }
        }
    }

    /// A second descriptor of the socket, for messages of others.
    pub fn second(&self) -> io::Result<Conn> {
        Ok(Conn::new(self.conn.as_fd().try_clone_to_owned()?))
    }

    /// Sends one message, waiting for room.
    pub async fn send(&self, message: &FromAgent) -> io::Result<()> {
        loop {
            let mut ready = self.ready.writable().await?;
            if let Ok(answer) = ready.try_io(|_| self.conn.send(message)) {
                return answer;
            }
        }
    }

    /// Sends one message if there is room for it now.
    pub fn try_send(&self, message: &FromAgent) -> io::Result<()> {
        self.conn.send(message)
    }
}

/// SIGTERM and SIGINT (which a terminal sends to the whole group).
fn signals() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}

/// Tells when an ending signal arrives.
pub struct Terminate(OwnedFd);

impl Terminate {
    /// Keeps the ending signals pending. Before any other thread exists, for each inherits the mask; and before the system call filter, which
    /// allows no further descriptor of this kind.
    pub fn block() -> io::Result<Self> {
        let mut blocked = signals();
        // With RLIMIT_FSIZE at 0, a write to a file is meant to fail, not to kill.
        blocked.add(Signal::SIGXFSZ);
        blocked.thread_block()?;
        let fd = SignalFd::with_flags(&signals(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self(fd.as_fd().try_clone_to_owned()?))
    }

    /// Needs the runtime's reactor.
    pub fn watch(self) -> io::Result<Watched> {
        Ok(Watched(reactor::watch(self.0)?))
    }
}

/// [`Terminate`] in the event loop.
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Returns once one has arrived; the signal stays pending, so every later call returns too.
    pub async fn arrived(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.retain_ready())
    }
}
