//! Keeper's lasting child, the agent. Spawned, watched, never waited for.

use crate::config::{self, Tls};
use crate::ipc;
use crate::ipc::{AgentSettings, Conn, FetchSettings, FromAgent, Happening, Link, LinkState, Proxy, ToAgent, Topic, What, encode};
use crate::keeper::Keeper;
use crate::keeper::context::Context;
use crate::keeper::poll::{Source, Token};
use crate::protocol::Reason;
use crate::sys::fd::set_nonblocking;
use crate::sys::process::Child;
use crate::sys::signal::pidfd_send;
use nix::libc;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The certificates that the system trusts (Debian, OpenWrt's ca-bundle, Yocto).
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Frames that may wait for the agent, and their bytes. An agent that takes none for so long is hung: it is ended and started anew.
const AGENT_QUEUE: (usize, usize) = (256, 1024 * 1024);
/// With more than this, it is asked to take no long answers: the longest one, some 400 KiB, still fits behind it.
const AGENT_BEHIND: (usize, usize) = (128, 256 * 1024);
/// Connections of which one report may be the first: reports are lost where the agent is in a hurry, but not so many.
const MAX_STEP: u64 = 1024;
/// First delay before the agent is started again; doubles up to [`AGENT_MAX_DELAY`].
const AGENT_DELAY: Duration = Duration::from_millis(500);
const AGENT_MAX_DELAY: Duration = Duration::from_secs(60);
/// An agent that lived this long was not crashing.
const AGENT_STABLE: Duration = Duration::from_secs(60);

/// The agent, running or to be started.
#[derive(Default)]
pub struct Agent {
    running: Option<Running>,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// Times it was started again.
    pub restarts: u32,
    streak: u32,
    /// When to start it.
    pub due: Option<Duration>,
    /// What it said last of its link.
    pub link: Link,
    /// Answers to commands that it was given, and those of them that are gone.
    answers: (u64, u64),
}

struct Running {
    child: Child,
    exit: Token,
    conn: Conn,
    token: Token,
    since: Duration,
    greeted: bool,
    configured: bool,
}

impl Agent {
    /// The first one, where so many connections were made before.
    pub fn after(conn: u64) -> Self {
        Self { link: Link { conn, ..Link::default() }, ..Self::default() }
    }

    /// What waits for it is already much.
    pub fn is_behind(&self) -> bool {
        is_more(self.waiting(), AGENT_BEHIND)
    }

    /// Frames and their bytes.
    fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.iter().map(|(frame, _)| frame.len()).sum())
    }

    /// Answers to commands that wait for the broker.
    pub fn unanswered(&self) -> u64 {
        self.answers.0 - self.answers.1
    }

    /// So many are gone by now. An agent that says what cannot be is ended.
    pub fn answered(&mut self, gone: u64) {
        if gone > self.answers.0 || gone < self.answers.1 {
            log::error!("the agent says that {gone} answers are gone, it was given {}: it is ended", self.answers.0);
            return self.kill();
        }
        self.answers.1 = gone;
    }

    /// Its process id.
    pub fn pid(&self) -> Option<i32> {
        self.running.as_ref().map(|r| r.child.pid)
    }

    /// Starts it.
    pub fn start(&mut self, ctx: &mut Context, now: Duration) {
        self.due = None;
        if let Err(e) = self.try_start(ctx, now) {
            log::error!("cannot start the agent: {e}");
            self.again(now);
        }
    }

    fn try_start(&mut self, ctx: &mut Context, now: Duration) -> io::Result<()> {
        let (conn, theirs) = Conn::pair()?;
        set_nonblocking(conn.as_fd())?;
        let child = ctx.spawn("agent", &[theirs.as_fd()])?;
        let exit = ctx.poll.add(&child.pidfd, Source::AgentExit)?;
        let token = ctx.poll.add(&conn, Source::Agent)?;
        self.running = Some(Running { child, exit, conn, token, since: now, greeted: false, configured: false });
        Ok(())
    }

    fn again(&mut self, now: Duration) {
        let delay = AGENT_DELAY.saturating_mul(1 << self.streak.min(10)).min(AGENT_MAX_DELAY);
        self.streak += 1;
        self.restarts += 1;
        self.due = Some(now + delay);
    }

    /// It ended, or was ended.
    pub fn on_exit(&mut self, ctx: &mut Context, now: Duration) {
        let Some(running) = self.running.take() else { return };
        ctx.poll.remove(&running.child.pidfd, running.exit);
        ctx.poll.remove(&running.conn, running.token);
        if now.saturating_sub(running.since) >= AGENT_STABLE {
            self.streak = 0;
        }
        log::warn!("the agent (pid {}) ended", running.child.pid);
        ctx.happened(Happening::new(What::Agent, format!("pid {} ended", running.child.pid)));
        ctx.reap_later(running.child);
        self.queue.clear();
        self.answers = (0, 0);
        self.link = Link { state: LinkState::Down, conn: self.link.conn, error: self.link.error.take(), ..Link::default() };
        self.again(now);
    }

    /// Ends it for good or ill; its exit brings a new one.
    pub fn kill(&self) {
        if let Some(running) = &self.running {
            let _ = pidfd_send(&running.child.pidfd, libc::SIGKILL);
        }
    }

    /// It has said hello.
    pub fn is_greeted(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.greeted)
    }

    /// It knows its settings, and takes messages.
    pub fn is_configured(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.configured)
    }

    /// Queues one message. Never waits.
    pub fn send(&mut self, ctx: &Context, message: &ToAgent) {
        self.send_with(ctx, message, None);
    }

    /// The same, with a descriptor that goes along.
    pub fn send_with(&mut self, ctx: &Context, message: &ToAgent, fd: Option<OwnedFd>) {
        if !self.is_configured() {
            return;
        }
        match encode(message) {
            Ok(frame) => {
                self.answers.0 += u64::from(matches!(message, ToAgent::Publish(p) if matches!(p.topic, Topic::Res(_))));
                self.queue.push_back((frame, fd));
            }
            Err(e) => log::error!("cannot send to the agent: {e}"),
        }
        self.flush(ctx);
        if is_more(self.waiting(), AGENT_QUEUE) {
            log::error!("the agent takes no messages, it is started again");
            self.queue.clear();
            self.kill();
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self, ctx: &Context) {
        let Some(running) = &self.running else { return };
        while let Some((frame, fd)) = self.queue.front() {
            let along: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
            match crate::sys::socket::send(&running.conn, frame, &along) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // It is gone; its pidfd says so next.
                Err(_) => return self.queue.clear(),
            }
        }
        let _ = ctx.poll.interest(&running.conn, running.token, true, !self.queue.is_empty());
    }

    /// One message of it, if there is one. A garbled one ends it: this is the process that talks to strangers.
    pub fn receive(&mut self) -> Option<FromAgent> {
        let running = self.running.as_ref()?;
        match running.conn.recv::<FromAgent>() {
            Ok(Some(message)) => Some(message),
            // It has closed its socket: whatever it still does, it is no use to anybody.
            Ok(None) => {
                self.kill();
                None
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => {
                log::error!("the agent sent garbage ({e}), it is ended");
                self.kill();
                None
            }
        }
    }

    /// Answers its hello. Certificates and keys are read by root here and go over as open files: the agent's user cannot open them.
    fn configure(&mut self, ctx: &Context, device: &crate::manifest::Id) -> io::Result<()> {
        if let Some(running) = &mut self.running {
            running.greeted = true;
        }
        let settings = &ctx.settings;
        let mut files: Vec<File> = Vec::new();
        let brokers = settings.brokers.iter().map(|b| broker(b, &mut files)).collect::<io::Result<Vec<_>>>()?;
        let fetch = fetch(&settings.fetch, &mut files)?;
        let message = ToAgent::Configure(AgentSettings {
            device: device.clone(),
            root: settings.root.clone(),
            groups: settings.groups.clone(),
            brokers,
            boot: ctx.boot,
            conn: self.link.conn,
            interval_s: settings.interval_s,
            uid: Some(settings.users.agent),
            fetch,
        });
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let Some(running) = &mut self.running else { return Ok(()) };
        running.conn.send_with(&message, &fds)?;
        running.configured = true;
        Ok(())
    }
}

fn is_more(waiting: (usize, usize), bound: (usize, usize)) -> bool {
    waiting.0 > bound.0 || waiting.1 > bound.1
}

/// Whether the count of connections can go on like this. It only grows: a number that comes again would make commands count again that were for it.
pub fn follows(known: u64, told: u64) -> bool {
    told.checked_sub(known).is_some_and(|step| step <= MAX_STEP)
}

/// A broker as the agent gets it, with its files opened in the order that the contract says: CA, certificate, key.
fn broker(b: &config::Broker, files: &mut Vec<File>) -> io::Result<ipc::Broker> {
    let (tls, ca, client_certificate) = match &b.tls {
        Tls::Off => (false, false, false),
        Tls::On { ca, client } => {
            let (ca, client) = certificates(ca.as_ref(), client.as_ref(), files)?;
            (true, ca, client)
        }
    };
    Ok(ipc::Broker {
        host: b.host.clone(),
        port: b.port,
        tls,
        credentials: b.username.clone().map(|u| (u, b.password.clone().unwrap_or_default())),
        ca,
        client_certificate,
        keep_alive_s: b.keep_alive_s,
        retained: b.retained,
    })
}

/// How to download, with its files opened as for a broker.
fn fetch(f: &config::Fetch, files: &mut Vec<File>) -> io::Result<FetchSettings> {
    let (ca, client_certificate) = certificates(f.ca.as_ref(), f.client.as_ref(), files)?;
    let proxy = f.proxy.clone().map(|p| Proxy { host: p.host, port: p.port, credentials: p.credentials });
    Ok(FetchSettings { ca, client_certificate, proxy })
}

/// Opens CA, certificate and key; which of them there are. Without a CA file of its own a device trusts what its system trusts, if that has such a file.
fn certificates(ca: Option<&String>, client: Option<&(String, String)>, files: &mut Vec<File>) -> io::Result<(bool, bool)> {
    let ca = ca.map(String::as_str).or_else(|| Path::new(SYSTEM_CA).exists().then_some(SYSTEM_CA));
    let (certificate, key) = client.map(|(c, k)| (c.as_str(), k.as_str())).unzip();
    for path in [ca, certificate, key].into_iter().flatten() {
        files.push(File::open(path).map_err(|e| io::Error::new(e.kind(), format!("cannot open {path}: {e}")))?);
    }
    Ok((ca.is_some(), client.is_some()))
}

impl Keeper {
    /// The agent's socket is ready.
    pub fn on_agent(&mut self) {
        // A bounded number in one turn: a flood from the network must not keep keeper from its containers.
        for _ in 0..16 {
            let Some(message) = self.agent.receive() else { break };
            self.on_agent_message(message);
        }
        self.agent.flush(&self.ctx);
    }

    /// Answers the agent's first message.
    pub fn configure_agent(&mut self) {
        if let Err(e) = self.agent.configure(&self.ctx, &self.device) {
            log::error!("cannot configure the agent: {e}");
            self.agent.link.error = Some(e.to_string());
            // It is tried again, ever later: the file may come.
            return self.agent.kill();
        }
        self.start_downloads();
    }

    /// The agent ended. What it was downloading is begun anew by the next one.
    pub fn on_agent_exit(&mut self) {
        let now = self.now();
        self.agent.on_exit(&mut self.ctx, now);
        self.lose_downloads();
        self.end_streams(Reason::Connectivity, "the device's link to the broker was lost");
    }
}

#[cfg(test)]
mod tests {
    use super::{AGENT_BEHIND, AGENT_QUEUE, MAX_STEP, follows, is_more};

    #[test]
    fn the_count_of_connections_only_grows_and_never_to_its_end() {
        for (known, told, good) in [
            (0, 0, true),
            (3, 3, true),
            (3, 4, true),
            (3, 3 + MAX_STEP, true),
            (3, 4 + MAX_STEP, false),
            (3, 2, false),
            (3, u64::MAX, false),
            (u64::MAX, 0, false),
        ] {
            assert_eq!(follows(known, told), good, "{known} {told}");
        }
    }

    #[test]
    fn what_waits_for_the_agent_is_bounded_in_frames_and_in_bytes() {
        for (waiting, behind, hung) in [
            ((0, 0), false, false),
            ((128, 256 << 10), false, false),
            ((129, 1000), true, false),
            ((6, (256 << 10) + 1), true, false),
            ((256, 1 << 20), true, false),
            ((257, 1000), true, true),
            ((14, (1 << 20) + 1), true, true),
        ] {
            assert_eq!((is_more(waiting, AGENT_BEHIND), is_more(waiting, AGENT_QUEUE)), (behind, hung), "{waiting:?}");
        }
    }
}
