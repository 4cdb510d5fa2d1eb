//! Programs exec'd in containers whose clients have left. Who detached wants his to run on; what any other leaves is ended with its session.

use super::{Exec, Op};
use crate::container::terminal::is_multiplexer;
use crate::ipc::Reply;
use crate::keeper::Keeper;
use crate::keeper::context::Context;
use crate::keeper::pace::{self, Pace};
use crate::keeper::poll::{Source, Token};
use crate::keeper::runtime::start_time;
use crate::protocol::Reason;
use crate::sys::fd::{read_file, set_nonblocking};
use crate::sys::process::Child;
use crate::sys::signal::{pidfd_open, pidfd_send};
use nix::libc;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long a program has after SIGHUP, which it gets when its client is gone.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of a detached terminal in one turn.
const CHUNK: usize = 4096;

/// One of them.
pub struct Orphan {
    child: Child,
    token: Token,
    /// Its container's control group.
    group: String,
    /// When its session is killed; it may run on without.
    ending: Option<Duration>,
    terminal: Option<Terminal>,
}

/// A terminal that nobody sits at: its output is dropped, so that the program does not wait for ever.
struct Terminal {
    master: File,
    token: Token,
    pace: Pace,
    resume: Option<Duration>,
}

impl Orphan {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// When [`Keeper::end_orphans`] is wanted.
    pub fn due(&self) -> Option<Duration> {
        self.ending.into_iter().chain(self.terminal.as_ref().and_then(|t| t.resume)).min()
    }
}

impl Keeper {
    /// The client of an exec is gone. Nobody is left to tell how it ends.
    pub(super) fn leave_exec(&mut self, exec: Exec) {
        let Exec { process, detach, group, .. } = exec;
        let Some((pid, pidfd, token)) = process else { return };
        self.ctx.poll.remove(&pidfd, token);
        let ending = if detach { None } else { Some(self.now() + GRACE) };
        if !detach {
            // With a terminal, the kernel sends it too.
            let _ = pidfd_send(&pidfd, libc::SIGHUP);
        }
        self.keep_orphan(Child { pid, pidfd }, group, ending, None);
    }

    /// It may run for long: its end is an event like any other.
    fn keep_orphan(&mut self, child: Child, group: String, ending: Option<Duration>, terminal: Option<Terminal>) {
        match self.ctx.poll.add(&child.pidfd, Source::Orphan(child.pid)) {
            Ok(token) => self.orphans.push(Orphan { child, token, group, ending, terminal }),
            Err(_) => self.ctx.reap_later(child),
        }
    }

    /// The client wants its program to run on without it.
    pub(super) fn detach_exec(&mut self, id: u64, fds: Vec<OwnedFd>) {
        let Some(client) = self.client(id) else { return };
        let exec = match std::mem::take(&mut client.op) {
            Op::Exec(exec) if exec.process.is_some() => *exec,
            other => {
                client.op = other;
                return self.refuse(id, Reason::Internal, "there is no program to detach from yet");
            }
        };
        let terminal = fds.into_iter().next().and_then(|fd| self.watch_terminal(fd, exec.process.as_ref().map(|p| p.0)?));
        let mut exec = exec;
        let process = exec.process.take();
        let group = exec.group.clone();
        self.drop_exec(exec);
        if let Some((pid, pidfd, token)) = process {
            self.ctx.poll.remove(&pidfd, token);
            self.keep_orphan(Child { pid, pidfd }, group, None, terminal);
        }
        self.reply(id, &Reply::Done);
    }

    fn watch_terminal(&mut self, fd: OwnedFd, pid: i32) -> Option<Terminal> {
        // Whatever else comes might block us.
        let good = is_multiplexer(&fd) && set_nonblocking(fd.as_fd()).is_ok();
        let token = self.ctx.poll.add(&fd, Source::Terminal(pid)).ok().filter(|_| good)?;
        Some(Terminal { master: fd.into(), token, pace: Pace::default(), resume: None })
    }

    /// A terminal that nobody sits at has output.
    pub fn on_orphan_terminal(&mut self, pid: i32) {
        let now = self.now();
        let Self { ctx, orphans, .. } = self;
        let Some(orphan) = orphans.iter_mut().find(|o| o.child.pid == pid) else { return };
        let Some(terminal) = &mut orphan.terminal else { return };
        match terminal.master.read(&mut [0; CHUNK]) {
            Ok(n) if n > 0 => {
                terminal.resume = pace::next(&mut terminal.pace, &mut ctx.pace, n, now);
                if terminal.resume.is_some() {
                    let _ = ctx.poll.interest(&terminal.master, terminal.token, false, false);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            // Nobody has the other end open any more: it would tell so for ever.
            _ => {
                ctx.poll.remove(&terminal.master, terminal.token);
                orphan.terminal = None;
            }
        }
    }

    /// Its program ended.
    pub fn on_orphan_exit(&mut self, pid: i32) {
        let Some(i) = self.orphans.iter().position(|o| o.child.pid == pid) else { return };
        let orphan = self.orphans.remove(i);
        if orphan.ending.is_some() {
            kill_session(&self.ctx, &orphan.group, orphan.child.pid, usize::MAX);
        }
        self.ctx.poll.remove(&orphan.child.pidfd, orphan.token);
        if let Some(terminal) = orphan.terminal {
            self.ctx.poll.remove(&terminal.master, terminal.token);
        }
        self.ctx.runtime.forget_exec(orphan.child.pid);
        self.ctx.reap_later(orphan.child);
    }

    /// Kills those whose time is over, and looks at terminals again.
    pub fn end_orphans(&mut self, now: Duration) {
        let over: Vec<usize> = (0..self.orphans.len()).filter(|i| self.orphans[*i].ending.is_some_and(|due| now >= due)).collect();
        for i in over {
            // Its end comes as an event; until then, once.
            self.orphans[i].ending = Some(Duration::MAX);
            kill_session(&self.ctx, &self.orphans[i].group, self.orphans[i].child.pid, usize::MAX);
        }
        let Self { ctx, orphans, .. } = self;
        for terminal in orphans.iter_mut().filter_map(|o| o.terminal.as_mut()).filter(|t| t.resume.is_some_and(|due| now >= due)) {
            terminal.resume = None;
            let _ = ctx.poll.interest(&terminal.master, terminal.token, true, false);
        }
    }
}

/// Kills all of a session that is still in a container's group, looking at so many of the group's processes, the newest first. Its leader is not
/// waited for yet, so the session's number is still its own.
pub fn kill_session(ctx: &Context, group: &str, leader: i32, most: usize) {
    for pid in ctx.layout.group(group).pids().into_iter().rev().take(most) {
        // Opened first, looked at second: the number cannot come to mean another process in between.
        if let Ok(pidfd) = pidfd_open(pid)
            && parent_and_session(pid).is_some_and(|(_, session)| session == leader)
        {
            let _ = pidfd_send(&pidfd, libc::SIGKILL);
        }
    }
}

/// Kills a process in a container's group with all of its session, and with all that descends from these while they live, whatever session that has
/// made for itself. It is not waited for yet. What has lost its parents before is not found.
pub fn kill_tree(ctx: &Context, group: &str, leader: i32) {
    /// Who forks on and on is not looked through for ever.
    const ROUNDS: usize = 8;
    let (mut found, mut stopped) = (HashSet::new(), Vec::new());
    let belongs = |pid: i32, found: &HashSet<i32>| {
        pid == leader || parent_and_session(pid).is_some_and(|(parent, session)| session == leader || found.contains(&parent))
    };
    // Stopped first, so that it makes no more of them, and none loses its parent before it is found.
    for _ in 0..ROUNDS {
        let before = stopped.len();
        for pid in ctx.layout.group(group).pids() {
            if !found.contains(&pid)
                && let Ok(pidfd) = pidfd_open(pid)
                && belongs(pid, &found)
                && let Ok(start) = start_time(pid)
            {
                let _ = pidfd_send(&pidfd, libc::SIGSTOP);
                found.insert(pid);
                stopped.push((pid, start));
            }
        }
        if stopped.len() == before {
            break;
        }
    }
    // Their descriptors could be more than we may have open: each is opened again, and is the same one if it began at the same time.
    for (pid, start) in stopped {
        if let Ok(pidfd) = pidfd_open(pid)
            && start_time(pid).is_ok_and(|now| now == start)
        {
            let _ = pidfd_send(&pidfd, libc::SIGKILL);
        }
    }
}

/// Ends the programs that the keeper before us ran for commands from the network: nobody is there any more to whom they could tell anything.
pub fn end_recorded(ctx: &Context) {
    for (pid, start, group) in ctx.runtime.execs() {
        match start_time(pid) {
            Ok(now) if now == start => kill_tree(ctx, &group, pid),
            // The number went to another process, so the session was empty before.
            Ok(_) => {}
            Err(_) => kill_session(ctx, &group, pid, usize::MAX),
        }
        ctx.runtime.forget_exec(pid);
    }
}

/// Fields 4 and 6 of proc_pid_stat(5).
fn parent_and_session(pid: i32) -> Option<(i32, i32)> {
    const MAX: usize = 4096;
    let stat = read_file(format!("/proc/{pid}/stat"), MAX).ok()?;
    let text = String::from_utf8_lossy(&stat);
    let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace().skip(1);
    Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
}
