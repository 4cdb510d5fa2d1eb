//! Programs run in containers, for a connection or for a stream: by launch, which joins the container and clones them as our children.

use super::{Op, no_such};
use crate::ipc::{Conn, Copying, ExecArgs, ExecJob, Failure, FromLaunch, Reply, Scope, ToLaunch};
use crate::keeper::Keeper;
use crate::keeper::poll::{Source, Token};
use crate::protocol::{ContainerState, Reason};
use crate::sys::process::{self, Child, Ended};
use crate::sys::signal::pidfd_send;
use nix::libc;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A program that is exec'd in a container.
pub struct Exec {
    conn: Option<(Conn, Token)>,
    launcher: Option<(Child, Token)>,
    pub(super) process: Option<(i32, OwnedFd, Token)>,
    failure: Option<Failure>,
    /// It runs on without its client.
    pub(super) detach: bool,
    /// The container's control group.
    pub(super) group: String,
}

impl Exec {
    /// Its launch may have a child that it has not named yet.
    pub fn is_cloning(&self) -> bool {
        self.conn.is_some() && self.process.is_none()
    }

    /// Processes made for it that are ours to wait for.
    pub fn processes(&self) -> impl Iterator<Item = i32> {
        let launcher = self.launcher.as_ref().map(|(child, _)| child.pid);
        launcher.into_iter().chain(self.process.as_ref().map(|(pid, _, _)| *pid))
    }
}

impl Keeper {
    /// As the container's root, whoever its program runs as.
    pub(super) fn copy(&mut self, id: u64, scope: Scope, what: Copying, fds: Vec<OwnedFd>) {
        let (argv, workdir) = (vec!["wherry".into()], Some("/".into()));
        let args = ExecArgs { scope, argv, env: Vec::new(), user: Some("0:0".into()), workdir, terminal: None, detach: false };
        self.exec(id, args, Some(what), fds);
    }

    pub(super) fn exec(&mut self, id: u64, args: ExecArgs, copy: Option<Copying>, fds: Vec<OwnedFd>) {
        let app = args.scope.app.clone();
        if fds.len() != 3 && args.terminal.is_none() {
            return self.refuse(id, Reason::Internal, "exec needs three descriptors");
        }
        let job = match self.exec_job(args, if copy.is_some() { "copy from or to" } else { "run a program in" }) {
            Ok(job) => job,
            Err(failure) => return self.reply(id, &Reply::Error(failure)),
        };
        match self.try_exec(id, job, copy, &fds) {
            Ok(exec) => self.set_op(id, Op::Exec(Box::new(exec))),
            Err(e) => self.refuse(id, Reason::Launch, format!("cannot run a program in {app}: {e}")),
        }
    }

    /// What launch must know to do this in a running container.
    pub(super) fn exec_job(&mut self, args: ExecArgs, doing: &str) -> Result<ExecJob, Failure> {
        let scope = &args.scope;
        let live = self.in_scope(scope);
        let job = match live.as_slice() {
            [] => return Err(no_such(scope)),
            // Until its program was exec'd, the root of its pid 1 is the host's.
            [one] if one.life.state != ContainerState::Running => None,
            [one] => one.pid().map(|pid| (pid, one.ready.spec.clone(), one.group_path().to_owned())),
            several => {
                let names: Vec<&str> = several.iter().map(|l| l.key.container.as_str()).collect();
                let message = format!("app {} has several containers, name one: {}", scope.app, names.join(", "));
                return Err(Failure { reason: Reason::BadValue, message });
            }
        };
        let not_running = || Failure { reason: Reason::Launch, message: format!("cannot {doing} {}: it is not running", scope.app) };
        let (pid, spec, group) = job.ok_or_else(not_running)?;
        Ok(ExecJob { pid, spec, layout: self.ctx.layout.clone(), group, args })
    }

    pub(super) fn try_exec(&mut self, id: u64, job: ExecJob, copy: Option<Copying>, fds: &[OwnedFd]) -> io::Result<Exec> {
        let (conn, theirs) = Conn::pair()?;
        let (detach, group) = (job.args.detach, job.group.clone());
        let stdio: Vec<BorrowedFd<'_>> = if job.args.terminal.is_some() { Vec::new() } else { fds.iter().map(AsFd::as_fd).collect() };
        let job = Box::new(job);
        let message = match copy {
            None => ToLaunch::Exec(job),
            Some(what) => ToLaunch::Copy { job, what },
        };
        conn.send_with(&message, &stdio)?;
        crate::sys::fd::set_nonblocking(conn.as_fd())?;
        let child = self.ctx.spawn("launch", &[theirs.as_fd()])?;
        let exit = self.ctx.poll.add(&child.pidfd, Source::ExecLaunchExit(id))?;
        let token = self.ctx.poll.add(&conn, Source::Exec(id))?;
        Ok(Exec { conn: Some((conn, token)), launcher: Some((child, exit)), process: None, failure: None, detach, group })
    }

    /// The exec of a connection, or of a stream: they are numbered together.
    fn exec_of(&mut self, id: u64) -> Option<&mut Exec> {
        match self.clients.iter_mut().find(|c| c.id == id).map(|c| &mut c.op) {
            Some(Op::Exec(exec)) => Some(exec),
            Some(_) => None,
            None => self.streams.exec_of(id),
        }
    }

    /// The socket of an exec has something.
    pub fn on_exec(&mut self, id: u64) {
        loop {
            let Some((conn, _)) = self.exec_of(id).and_then(|e| e.conn.as_ref()) else { return };
            match conn.recv_with::<FromLaunch>() {
                Ok(Some((FromLaunch::Cloned { pid, .. }, fds))) => self.on_exec_cloned(id, pid, fds),
                Ok(Some((FromLaunch::Failed(f), _))) => {
                    if let Some(exec) = self.exec_of(id) {
                        exec.failure = Some(f);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => return self.on_exec_end(id),
            }
        }
    }

    fn on_exec_cloned(&mut self, id: u64, pid: i32, mut fds: Vec<OwnedFd>) {
        if fds.is_empty() {
            return;
        }
        let pidfd = fds.remove(0);
        if let Err(e) = self.record_exec(id, pid) {
            // It never got `Go`, and exits by itself.
            let message = format!("cannot run a program: it cannot be put on record: {e}");
            return self.end_exec(id, &Reply::Error(Failure { reason: Reason::Io, message }));
        }
        let Ok(token) = self.ctx.poll.add(&pidfd, Source::ExecExit(id)) else { return };
        let Some(exec) = self.exec_of(id) else { return };
        exec.process = Some((pid, pidfd, token));
        if let Some((conn, _)) = &exec.conn {
            // A peer that is gone shows as end of file next.
            let _ = conn.send(&ToLaunch::Go);
        }
        if !fds.is_empty() {
            self.reply_with(id, &Reply::Terminal, fds);
        }
    }

    fn on_exec_end(&mut self, id: u64) {
        let Some(exec) = self.exec_of(id) else { return };
        let conn = exec.conn.take();
        let (orphan, detach) = (exec.process.is_none(), exec.detach);
        let failure = exec.failure.clone();
        if let Some((conn, token)) = conn {
            self.ctx.poll.remove(&conn, token);
        }
        if orphan {
            self.ctx.strays = true;
            let f = failure.unwrap_or_else(|| Failure { reason: Reason::Launch, message: "launch ended without a word".into() });
            self.end_exec(id, &Reply::Error(f));
        } else if detach && failure.is_none() {
            self.end_exec(id, &Reply::Done);
        }
    }

    /// The launch process of an exec ended.
    pub fn on_exec_launcher_exit(&mut self, id: u64) {
        if let Some((child, token)) = self.exec_of(id).and_then(|e| e.launcher.take()) {
            self.ctx.poll.remove(&child.pidfd, token);
            self.ctx.reap_later(child);
        }
        // What it said last is still in the socket. A clone that it did not come to name holds the other end too, and waits for us.
        self.on_exec(id);
        if self.exec_of(id).is_some_and(|exec| exec.is_cloning()) {
            self.on_exec_end(id);
        }
    }

    /// The exec'd program ended.
    pub fn on_exec_exit(&mut self, id: u64) {
        self.on_exec(id);
        let Some(exec) = self.exec_of(id) else { return };
        let Some((pid, pidfd, token)) = exec.process.take() else { return };
        let failure = exec.failure.clone();
        self.end_session_of(id, pid);
        self.ctx.runtime.forget_exec(pid);
        self.ctx.poll.remove(&pidfd, token);
        let ended = process::try_reap(pid).ok().flatten().unwrap_or(Ended::Code(255));
        self.end_exec(id, &failure.map_or(Reply::Exited(ended), Reply::Error));
    }

    fn end_exec(&mut self, id: u64, reply: &Reply) {
        let exec = match self.clients.iter_mut().find(|c| c.id == id).map(|c| std::mem::take(&mut c.op)) {
            Some(Op::Exec(exec)) => Some(*exec),
            Some(_) => None,
            None => self.streams.take_exec(id),
        };
        if let Some(exec) = exec {
            if let Some((child, _)) = &exec.launcher {
                let _ = pidfd_send(&child.pidfd, libc::SIGKILL);
            }
            self.drop_exec(exec);
        }
        self.reply(id, reply);
        self.streams.exec_ended(id, reply);
    }

    /// It is over, or its client is gone.
    pub(super) fn drop_exec(&mut self, mut exec: Exec) {
        self.ctx.strays |= exec.launcher.is_some() && exec.process.is_none();
        if let Some((conn, token)) = exec.conn.take() {
            self.ctx.poll.remove(&conn, token);
        }
        if let Some((child, token)) = exec.launcher.take() {
            self.ctx.poll.remove(&child.pidfd, token);
            self.ctx.discard(child);
        }
        self.leave_exec(exec);
    }
}
