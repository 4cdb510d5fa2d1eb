//! Health checks at work: one process each, never waited for. Decides nothing: [`Watch`] does.
//!
//! A program is exec'd in the container as `wherry exec` would, and a path is looked at from inside by a process of ours, as for `wherry cp`; both come by
//! way of `launch`. TCP and HTTP are for `probe`: keeper speaks neither.

use crate::ipc::{Conn, ExecArgs, ExecJob, Failure, FromLaunch, Scope, ToLaunch, What};
use crate::keeper::clients::kill_session;
use crate::keeper::containers::Live;
use crate::keeper::context::Context;
use crate::keeper::deploy::shorten;
use crate::keeper::health::{Action, Event, Watch};
use crate::keeper::poll::{Source, Token};
use crate::launch::NOT_THERE;
use crate::manifest::units::show_millis;
use crate::manifest::{Check, How, Network, Peer};
use crate::probe::{Job, Report};
use crate::protocol::{ContainerState, Health};
use crate::sys::fd::set_nonblocking;
use crate::sys::process::{self, Child, Ended};
use crate::sys::signal::pidfd_send;
use nix::errno::Errno;
use nix::libc;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Most processes of a container that are looked at to find those of a check that is given up: with thousands, and a check each second that hangs, it
/// would have keeper do nothing else.
const MAX_LOOKS: usize = 512;

/// The health of a container that runs, as far as it has a check.
#[derive(Default)]
pub struct Checkup {
    watch: Option<Watch>,
    running: Option<Running>,
    /// Why the last check failed.
    why: Option<String>,
    /// The process of a check that was given up: until it is gone, there is no other.
    stuck: Option<i32>,
    /// The last one could not be made.
    unmade: bool,
}

/// A check under way.
struct Running {
    /// To launch and the process that it clones, or to probe.
    conn: Conn,
    /// Until the socket of launch has ended. That of probe is read once, at its end.
    token: Option<Token>,
    launcher: Option<(Child, Token)>,
    process: Option<(Child, Token)>,
    failure: Option<Failure>,
}

impl Checkup {
    /// When [`Live::mind_health`] is wanted.
    pub fn due(&self) -> Option<Duration> {
        self.watch.as_ref().map(Watch::due)
    }

    /// Its processes that are ours to wait for.
    pub fn processes(&self) -> [Option<i32>; 2] {
        let pid = |child: &Option<(Child, Token)>| child.as_ref().map(|(child, _)| child.pid);
        self.running.as_ref().map_or([None; 2], |r| [pid(&r.launcher), pid(&r.process)])
    }

    /// Its launch may have a child that it has not named yet.
    pub fn is_cloning(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.token.is_some() && r.process.is_none())
    }

    /// Why the last check failed.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.watch.as_ref().map_or(0, Watch::failures)
    }
}

impl Live {
    /// How it is; `None` without a check.
    pub fn health(&self) -> Option<Health> {
        self.ready.health.as_ref()?;
        Some(self.checkup.watch.as_ref().map_or(Health::Starting, Watch::health))
    }

    /// It has begun to run, has ended, or has another check now.
    pub fn watch_health(&mut self, ctx: &mut Context, now: Duration) {
        self.end_check(ctx);
        let running = self.life.state == ContainerState::Running;
        let check = self.ready.health.as_ref().filter(|_| running);
        self.checkup.watch = check.map(|check| Watch::begin(check, self.life.since, now));
        self.checkup.why = None;
    }

    /// Time passed.
    pub fn mind_health(&mut self, ctx: &mut Context, now: Duration) {
        let (Some(watch), Some(check)) = (&mut self.checkup.watch, &self.ready.health) else { return };
        let before = watch.health();
        let timeout = check.timeout;
        match watch.step(Event::Tick, check, now) {
            Some(Action::Check) => {
                if self.is_stuck(ctx) {
                    return self.answered(ctx, Err("the check before cannot be ended".into()), now);
                }
                let made = self.start_check(ctx);
                let before = std::mem::replace(&mut self.checkup.unmade, made.is_err());
                if let Err(e) = made {
                    // A child that could not be watched is left to be waited for.
                    ctx.strays = true;
                    self.unmade(&e, before, now);
                }
            }
            Some(Action::Abort) => {
                let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                self.checkup.why = Some(format!("no answer within {}", show_millis(millis)));
                self.end_check(ctx);
                self.tell_health(ctx, before);
            }
            None => {}
        }
    }

    fn answered(&mut self, ctx: &mut Context, answer: Result<(), String>, now: Duration) {
        let (Some(watch), Some(check)) = (&mut self.checkup.watch, &self.ready.health) else { return };
        let before = watch.health();
        watch.step(Event::Answer(answer.is_ok()), check, now);
        self.checkup.why = answer.err().map(bounded);
        self.tell_health(ctx, before);
    }

    /// Descriptors, memory or processes are keeper's own to lack: the container is no worse for it.
    fn unmade(&mut self, why: &io::Error, before: bool, now: Duration) {
        if !before {
            log::warn!("{} cannot be checked: {why}", self.key);
        }
        if let (Some(watch), Some(check)) = (&mut self.checkup.watch, &self.ready.health) {
            watch.step(Event::Unknown, check, now);
        }
    }

    fn tell_health(&self, ctx: &mut Context, before: Health) {
        let Some(health) = self.health().filter(|h| *h != before) else { return };
        let why = self.checkup.why().map_or_else(String::new, |why| format!(": {why}"));
        log::info!("{} is {health}{why}", self.key);
        ctx.dirty = true;
        ctx.happened_to(&self.key, What::Health, None, format!("{health}{why}"));
    }

    // ---- start ----

    /// One in uninterruptible sleep dies when the kernel lets it; more of them would help nobody.
    fn is_stuck(&mut self, ctx: &Context) -> bool {
        self.checkup.stuck = self.checkup.stuck.filter(|pid| ctx.dead().any(|dead| dead == *pid));
        self.checkup.stuck.is_some()
    }

    fn start_check(&mut self, ctx: &mut Context) -> io::Result<()> {
        let (Some(check), Some(pid)) = (self.ready.health.clone(), self.pid()) else { return Ok(()) };
        let running = match &check.how {
            How::Exec(argv) => self.launch_check(ctx, pid, argv.clone(), None)?,
            How::File(path) => self.launch_check(ctx, pid, vec!["wherry".into()], Some(path.clone()))?,
            How::Tcp(peer) => self.probe(ctx, pid, *peer, None)?,
            How::Http { peer, path, .. } => self.probe(ctx, pid, *peer, Some(request(*peer, path)))?,
        };
        self.checkup.running = Some(running);
        Ok(())
    }

    /// A program in the container; or a process of ours that looks at a path, as its root: whether it is there is no secret of any user's.
    fn launch_check(&self, ctx: &mut Context, pid: i32, argv: Vec<String>, path: Option<String>) -> io::Result<Running> {
        let (conn, theirs) = Conn::pair()?;
        let scope = Scope { app: self.key.app.clone(), container: Some(self.key.container.clone()) };
        let (user, workdir) = (path.is_some().then(|| "0:0".into()), path.is_some().then(|| "/".into()));
        let args = ExecArgs { scope, argv, env: Vec::new(), user, workdir, terminal: None, detach: false };
        let (spec, layout, group) = (self.ready.spec.clone(), ctx.layout.clone(), self.group_path().to_owned());
        let job = Box::new(ExecJob { pid, spec, layout, group, args });
        let message = match path {
            None => ToLaunch::Exec(job),
            Some(path) => ToLaunch::Look { job, path },
        };
        let null = File::options().read(true).write(true).open("/dev/null")?;
        // What it complains of stands with the container's output.
        let log = File::options().read(true).write(true).open(ctx.runtime.dir(&self.key).join("log"))?;
        conn.send_with(&message, &[null.as_fd(), null.as_fd(), log.as_fd()])?;
        set_nonblocking(conn.as_fd())?;
        let child = ctx.spawn("launch", &[theirs.as_fd()])?;
        let exit = ctx.poll.add(&child.pidfd, Source::CheckLaunchExit(self.key.clone()))?;
        let token = ctx.poll.add(&conn, Source::Check(self.key.clone()))?;
        Ok(Running { conn, token: Some(token), launcher: Some((child, exit)), process: None, failure: None })
    }

    fn probe(&self, ctx: &mut Context, pid: i32, peer: Peer, request: Option<String>) -> io::Result<Running> {
        let joins = self.ready.spec.network != Network::Host;
        let network = joins.then(|| File::open(format!("/proc/{pid}/ns/net"))).transpose()?;
        // Opened by number: if pid 1 is still there, that was its own.
        self.is_there()?;
        let (conn, theirs) = Conn::pair()?;
        conn.send(&Job { peers: addresses(peer), request, joins, uid: ctx.settings.users.probe })?;
        set_nonblocking(conn.as_fd())?;
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd()).chain(network.as_ref().map(AsFd::as_fd)).collect();
        let child = ctx.spawn("probe", &fds)?;
        let exit = ctx.poll.add(&child.pidfd, Source::CheckExit(self.key.clone()))?;
        Ok(Running { conn, token: None, launcher: None, process: Some((child, exit)), failure: None })
    }

    // ---- events ----

    /// The socket of its check has something.
    pub fn on_check(&mut self, ctx: &mut Context, now: Duration) {
        loop {
            let Some(running) = self.checkup.running.as_mut().filter(|r| r.token.is_some()) else { return };
            match running.conn.recv_with::<FromLaunch>() {
                Ok(Some((FromLaunch::Cloned { pid, .. }, fds))) => self.on_check_cloned(ctx, pid, fds),
                Ok(Some((FromLaunch::Failed(f), _))) => running.failure = Some(f),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => return self.on_check_end(ctx, now),
            }
        }
    }

    fn on_check_cloned(&mut self, ctx: &mut Context, pid: i32, mut fds: Vec<OwnedFd>) {
        let Some(running) = &mut self.checkup.running else { return };
        let Some(pidfd) = fds.pop() else { return };
        let Ok(token) = ctx.poll.add(&pidfd, Source::CheckExit(self.key.clone())) else { return };
        running.process = Some((Child { pid, pidfd }, token));
        // A peer that is gone shows as end of file next.
        let _ = running.conn.send(&ToLaunch::Go);
    }

    /// The program runs, or there is none.
    fn on_check_end(&mut self, ctx: &mut Context, now: Duration) {
        let Some(running) = &mut self.checkup.running else { return };
        if let Some(token) = running.token.take() {
            ctx.poll.remove(&running.conn, token);
        }
        if running.process.is_none() {
            ctx.strays = true;
            let why = running.failure.take().map_or_else(|| "launch ended without a word".into(), |f| f.message);
            self.end_check(ctx);
            self.answered(ctx, Err(why), now);
        }
    }

    /// The launch process of its check ended.
    pub fn on_check_launcher_exit(&mut self, ctx: &mut Context, now: Duration) {
        if let Some((child, token)) = self.checkup.running.as_mut().and_then(|r| r.launcher.take()) {
            ctx.poll.remove(&child.pidfd, token);
            ctx.reap_later(child);
        }
        // What it said last is still in the socket. A clone that it did not come to name holds the other end too, and waits for us.
        self.on_check(ctx, now);
        if self.checkup.is_cloning() {
            self.on_check_end(ctx, now);
        }
    }

    /// The process of its check ended.
    pub fn on_check_exit(&mut self, ctx: &mut Context, now: Duration) {
        self.on_check(ctx, now);
        let (Some(running), Some(check)) = (&mut self.checkup.running, &self.ready.health) else { return };
        let Some((child, token)) = running.process.take() else { return };
        ctx.poll.remove(&child.pidfd, token);
        let ended = process::try_reap(child.pid).ok().flatten().unwrap_or(Ended::Code(255));
        let answer = match running.failure.take() {
            Some(failure) => Err(failure.message),
            None => answer(check, ended, || running.conn.recv::<Report>().ok().flatten()),
        };
        self.end_check(ctx);
        self.answered(ctx, answer, now);
    }

    /// Nothing of the check is left, or will be. Its answer is nobody's any more.
    fn end_check(&mut self, ctx: &mut Context) {
        let Some(running) = self.checkup.running.take() else { return };
        let Running { conn, token, launcher, process, .. } = running;
        ctx.strays |= launcher.is_some() && process.is_none();
        if let Some(token) = token {
            ctx.poll.remove(&conn, token);
        }
        if let Some((child, token)) = launcher {
            ctx.poll.remove(&child.pidfd, token);
            ctx.discard(child);
        }
        if let Some((child, token)) = process {
            ctx.poll.remove(&child.pidfd, token);
            // First what it has started: once its leader is waited for, the session's number could be another's.
            kill_session(ctx, self.group_path(), child.pid, MAX_LOOKS);
            let _ = pidfd_send(&child.pidfd, libc::SIGKILL);
            self.checkup.stuck = Some(child.pid);
            ctx.reap_later(child);
        }
    }
}

/// Names of programs and files in it may be long.
fn bounded(mut why: String) -> String {
    const MAX: usize = 256;
    shorten(&mut why, MAX);
    why
}

/// What the end of a check's process says.
fn answer(check: &Check, ended: Ended, report: impl FnOnce() -> Option<Report>) -> Result<(), String> {
    match (&check.how, ended) {
        (How::Exec(_), Ended::Code(0)) | (How::File(_), Ended::Code(0)) => Ok(()),
        (How::Exec(argv), how) => Err(format!("{} ended with {how}", argv.first().map_or("", String::as_str))),
        (How::File(path), Ended::Code(NOT_THERE)) => Err(format!("{path} is not there")),
        (How::Tcp(peer), Ended::Code(0)) => reported(*peer, None, report()),
        (How::Http { peer, status, .. }, Ended::Code(0)) => reported(*peer, *status, report()),
        (_, how) => Err(format!("its check ended with {how}")),
    }
}

fn reported(peer: Peer, wanted: Option<u16>, report: Option<Report>) -> Result<(), String> {
    let errno = |e: i32| Errno::from_raw(e).desc();
    match report {
        Some(Report::Connected) => Ok(()),
        Some(Report::Status(status)) if wanted.map_or((200..400).contains(&status), |wanted| wanted == status) => Ok(()),
        Some(Report::Status(status)) => Err(format!("port {peer} answers with status {status}")),
        Some(Report::Refused(e)) => Err(format!("port {peer} takes no connection: {}", errno(e))),
        Some(Report::Silent(None)) => Err(format!("port {peer} ends the connection without an answer")),
        Some(Report::Silent(Some(e))) => Err(format!("port {peer} gives no answer: {}", errno(e))),
        Some(Report::NotHttp) => Err(format!("port {peer} does not answer in HTTP")),
        None => Err("its check ended without a word".into()),
    }
}

/// Without an address: loopback, which a server may have in one of both forms only.
fn addresses(peer: Peer) -> Vec<SocketAddr> {
    match peer.address {
        Some(address) => vec![SocketAddr::new(address, peer.port)],
        None => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(|ip| SocketAddr::new(ip, peer.port)).into(),
    }
}

/// HTTP/1.1 with what every server wants (RFC 9112, section 3.2), and nothing behind the answer.
fn request(peer: Peer, path: &str) -> String {
    let host = peer.address.map_or_else(|| format!("localhost:{}", peer.port), |_| peer.to_string());
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: wherry\r\nAccept: */*\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::{addresses, answer, reported, request};
    use crate::manifest::{Check, How, Peer};
    use crate::probe::Report;
    use crate::sys::process::Ended;
    use std::time::Duration;

    fn peer(text: &str) -> Peer {
        text.parse().ok().unwrap()
    }

    #[test]
    fn a_request_names_the_host_that_is_asked() {
        let first = |text: &str| request(peer(text), "/up?x=1").lines().take(2).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(first("8080"), ["GET /up?x=1 HTTP/1.1", "Host: localhost:8080"]);
        assert_eq!(first("[::1]:80")[1], "Host: [::1]:80");
        assert!(request(peer("80"), "/").ends_with("Connection: close\r\n\r\n"));
    }

    #[test]
    fn a_port_alone_is_looked_for_on_both_loopbacks() {
        let at = |text: &str| addresses(peer(text)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(at("80"), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(at("192.0.2.1:80"), ["192.0.2.1:80"]);
    }

    #[test]
    fn a_status_is_good_from_200_to_399_or_as_wanted() {
        for (wanted, status, good) in
            [(None, 199, false), (None, 200, true), (None, 399, true), (None, 400, false), (Some(404), 404, true), (Some(404), 200, false)]
        {
            assert_eq!(reported(peer("80"), wanted, Some(Report::Status(status))).is_ok(), good, "{wanted:?} {status}");
        }
        for (report, words) in [
            (Some(Report::Refused(111)), "takes no connection: Connection refused"),
            (Some(Report::Silent(None)), "without an answer"),
            (Some(Report::Silent(Some(104))), "Connection reset by peer"),
            (Some(Report::NotHttp), "does not answer in HTTP"),
            (None, "without a word"),
        ] {
            let why = reported(peer("80"), None, report).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn each_kind_of_check_has_its_good_end_and_words_for_the_others() {
        let zero = Duration::ZERO;
        let check = |how, ended, report, expected: Result<(), &str>| {
            let check = Check { how, start_period: zero, interval: zero, timeout: zero, retries: 1 };
            assert_eq!(answer(&check, ended, || report), expected.map_err(str::to_owned), "{check:?}");
        };
        let (exec, file, tcp) = (How::Exec(vec!["/up".into()]), How::File("/x".into()), How::Tcp(peer("80")));
        check(exec.clone(), Ended::Code(0), None, Ok(()));
        check(exec.clone(), Ended::Code(7), None, Err("/up ended with code 7"));
        check(exec, Ended::Signal(9), None, Err("/up ended with signal 9"));
        check(file.clone(), Ended::Code(0), None, Ok(()));
        check(file.clone(), Ended::Code(1), None, Err("/x is not there"));
        check(file, Ended::Code(127), None, Err("its check ended with code 127"));
        check(tcp.clone(), Ended::Code(0), Some(Report::Connected), Ok(()));
        check(tcp, Ended::Signal(31), None, Err("its check ended with signal 31"));
    }
}
