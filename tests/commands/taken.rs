//! An agent that somebody has taken over: its socket to keeper, in our hands.

// No safe wrapper takes a descriptor out of another process, and the agent's own filter kills it for trying.
#![allow(unsafe_code)]
#![allow(dead_code, reason = "no test program says all of it")]

use nix::errno::Errno;
use nix::libc;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use wherry::ipc::{Conn, FromAgent, Link, LinkState, ToAgent};
use wherry::sys::{fd, signal};

/// The agent's end of the connection to keeper.
pub struct Taken(Conn);

impl Taken {
    /// Stops an agent and speaks in its place.
    pub fn over(pid: i32) -> Self {
        let pidfd = signal::pidfd_open(pid).unwrap();
        signal::pidfd_send(&pidfd, libc::SIGSTOP).unwrap();
        // SAFETY: takes three integers.
        let taken = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd::FIRST, 0) }).unwrap();
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
        Self(Conn::new(unsafe { OwnedFd::from_raw_fd(taken as i32) }))
    }

    /// Whether there was room for it.
    pub fn say(&self, message: &FromAgent) -> bool {
        self.0.send(message).is_ok()
    }

    /// Takes what keeper has said so far: to one who does not listen it talks no more.
    pub fn listen(&self) -> usize {
        std::iter::from_fn(|| self.0.recv::<ToAgent>().ok().flatten()).count()
    }

    /// The link is up, and this is its number. Whether there was room for it, and somebody to hear it.
    pub fn online(&self, conn: u64) -> bool {
        self.say(&FromAgent::Link(Link { state: LinkState::Online, conn, ..Link::default() }))
    }

    /// A command came.
    pub fn command(&self, id: &str, payload: &[u8]) -> bool {
        self.say(&FromAgent::Command { id: id.into(), retained: false, payload: payload.to_vec() })
    }
}
