//! A further program in a running container.

use super::{await_go, cgroup_failure, told};
use crate::container::fail::{OrFail, launch};
use crate::container::join_env;
use crate::container::payload::{Payload, Wanted, give_up};
use crate::container::terminal::open_master;
use crate::copy;
use crate::ipc::{Conn, Copying, ExecJob, Failure};
use crate::sys::process::{CloneArgs, Cloned, Single, clone_single, exit_now};
use crate::sys::signal::{pidfd_open, pidfd_send};
use crate::sys::{fd, pty};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, stat};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// All namespaces of a container. The pid namespace is joined by what is born after it.
const NAMESPACES: [(CloneFlags, &str); 6] = [
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWNET, "net"),
    // Last: after it, our root, our directory and /proc are the container's.
    (CloneFlags::CLONE_NEWNS, "mnt"),
];

/// How the process ends that has looked for a path and found nothing there.
pub const NOT_THERE: u8 = 1;
/// It could not be looked for.
const NOT_SEEN: u8 = 2;

/// What is done in the container.
#[derive(Clone, Copy)]
pub enum Inside<'a> {
    /// The program of the job is run.
    Program,
    /// A copy, by us.
    Copy(&'a Copying),
    /// A path is looked for, by us.
    Look(&'a str),
}

/// Standard input, output, error, and the terminal's other end if there is one.
struct Stdio {
    fds: [OwnedFd; 3],
    master: Option<OwnedFd>,
}

/// Joins the container and clones a process that will run the program, or do what we do there, once keeper says so.
///
/// All of the joining is done here, by a process that the container's pid namespace does not know. What is born there is seen by
/// the container, which may have the right to trace it and to look through its descriptors and its root (CVE-2016-9962): it must not have
/// anything of the host's any more.
pub fn exec(conn: &Conn, job: ExecJob, what: Inside<'_>, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let container = pidfd_open(job.pid).or_fail(|| format!("open process {}", job.pid))?;
    check_member(&job, &container)?;
    let Stdio { fds, master } = stdio(&job, fds)?;
    let namespaces = namespaces(job.pid)?;
    // All was opened by number: had this gone to another process meanwhile, the pidfd would know of no process any more.
    pidfd_send(&container, 0).or_fail(|| format!("find process {}", job.pid))?;
    drop(container);
    // While /proc is the host's.
    let single = Single::check().or_fail(|| "clone into the container")?;
    let place = || stat("/").map(|s| (s.st_dev, s.st_ino)).or_fail(|| "look at the root");
    let host = place()?;
    join(&job, namespaces)?;
    // setns(2) leads to the mount on top: the host's root, while pid 1 has not changed its own, or has not detached the old one yet.
    if place()? == host {
        return Err(launch("cannot join: the container has no root of its own yet"));
    }
    let payload = confined(&job, fds)?;
    // Whatever else we hold, known or not: close-on-exec would come too late.
    let keep: Vec<BorrowedFd<'_>> = [conn.as_fd(), payload.needs()].into_iter().chain(master.as_ref().map(AsFd::as_fd)).collect();
    fd::close_other_than(&keep);
    let args = CloneArgs { flags: libc::CLONE_PARENT as u64, exit_signal: 0, cgroup: None };
    match clone_single(args, single).or_fail(|| "clone into the container")? {
        Cloned::Child => {
            drop(master);
            match what {
                Inside::Program => run(conn, &payload, job.args.terminal.is_some()),
                Inside::Copy(what) => by_us(conn, &payload, || copy::inside(what)),
                Inside::Look(path) => by_us(conn, &payload, || look(path).into()),
            }
        }
        Cloned::Parent(child) => told(conn, &child, Vec::new(), master),
    }
}

/// The number may have been given to another process since keeper looked: with the pidfd open, being in the container's group and
/// alive says that it has not.
fn check_member(job: &ExecJob, container: &OwnedFd) -> Result<(), Failure> {
    const MAX: usize = 64 * 1024;
    let path = format!("/proc/{}/cgroup", job.pid);
    let text = fd::read_file(&path, MAX).or_fail(|| format!("read {path}"))?;
    // The group itself or one below it, not one whose name only begins alike.
    let inside = |line: &str| {
        let path = line.splitn(3, ':').nth(2).and_then(|p| p.strip_prefix('/')?.strip_prefix(job.group.as_str()));
        path.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    pidfd_send(container, 0).or_fail(|| format!("find process {}", job.pid))?;
    if String::from_utf8_lossy(&text).lines().any(inside) {
        Ok(())
    } else {
        Err(launch(format!("cannot join: process {} is not in group {}", job.pid, job.group)))
    }
}

fn namespaces(pid: i32) -> Result<Vec<(OwnedFd, CloneFlags, &'static str)>, Failure> {
    let open = |(flag, name)| {
        let path = format!("/proc/{pid}/ns/{name}");
        let namespace = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(|| format!("open {path}"))?;
        Ok((namespace, flag, name))
    };
    NAMESPACES.into_iter().map(open).collect()
}

fn stdio(job: &ExecJob, fds: Vec<OwnedFd>) -> Result<Stdio, Failure> {
    let Some(size) = job.args.terminal else {
        let fds = fds.try_into().map_err(|_| launch("cannot run: standard input, output and error must come along"))?;
        return Ok(Stdio { fds, master: None });
    };
    let what = || "make a terminal";
    let master = ptmx(job.pid)?;
    let peer = pty::peer(&master).or_fail(what)?;
    pty::resize(&master, size).or_fail(what)?;
    let fds = [peer.try_clone().or_fail(what)?, peer.try_clone().or_fail(what)?, peer];
    Ok(Stdio { fds, master: Some(master) })
}

/// A new terminal of the container's own devpts.
fn ptmx(pid: i32) -> Result<OwnedFd, Failure> {
    let root = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open_master(open(root.as_str(), flags, Mode::empty()).or_fail(|| "open the container's root")?)
}

/// The group first: what is used from here on counts as the container's, and with its view of the cgroup tree we could not get there any
/// more. The clone is born into it, in all hierarchies; `CLONE_INTO_CGROUP` would want a descriptor of the host's tree in the clone.
fn join(job: &ExecJob, namespaces: Vec<(OwnedFd, CloneFlags, &'static str)>) -> Result<(), Failure> {
    job.layout.group(&job.group).attach_self(false).map_err(cgroup_failure)?;
    // With our session, a terminal of the host could come along.
    setsid().or_fail(|| "start a session")?;
    for (namespace, flag, name) in namespaces {
        setns(namespace, flag).or_fail(|| format!("join the {name} namespace"))?;
    }
    Ok(())
}

/// Our root is the container's by now.
fn confined(job: &ExecJob, fds: [OwnedFd; 3]) -> Result<Payload, Failure> {
    let (spec, args) = (&job.spec, &job.args);
    let terminal = args.terminal.is_some();
    let wanted = Wanted {
        argv: &args.argv,
        env: join_env(&spec.env, &args.env, terminal),
        user: args.user.as_deref().unwrap_or(&spec.user),
        workdir: args.workdir.as_deref().unwrap_or(&spec.workdir),
        make_workdir: false,
        with_keeper: !args.detach,
    };
    let mut payload = Payload::prepare(spec, wanted)?;
    if terminal {
        payload.own(fds[0].as_fd())?;
    }
    dup2_stdin(&fds[0])
        .and_then(|()| dup2_stdout(&fds[1]))
        .and_then(|()| dup2_stderr(&fds[2]))
        .or_fail(|| "set standard input and output")?;
    payload.confine()?;
    Ok(payload)
}

/// In the clone.
fn run(conn: &Conn, payload: &Payload, terminal: bool) -> ! {
    await_go(conn);
    let stdin = std::io::stdin();
    give_up(conn, payload.exec(terminal.then(|| stdin.as_fd())))
}

/// In the clone: with all that a program of the container has to submit to, but never exec'd, so that nothing inside can look into it.
fn by_us(conn: &Conn, payload: &Payload, act: impl FnOnce() -> i32) -> ! {
    await_go(conn);
    if let Err(failure) = payload.settle(None) {
        give_up(conn, failure);
    }
    // Keeper takes the end of the socket for the start of a program.
    fd::close_other_than(&[]);
    exit_now(act())
}

fn look(path: &str) -> u8 {
    match stat(path) {
        Ok(_) => 0,
        Err(Errno::ENOENT | Errno::ENOTDIR) => NOT_THERE,
        Err(_) => NOT_SEEN,
    }
}
