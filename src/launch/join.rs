//! A further program in a running container.

use super::{clone_into, told, wait_for_go};
use crate::cgroup::Group;
use crate::container::fail::{OrFail, launch};
use crate::container::payload::{Payload, Wanted, give_up};
use crate::container::{join_env, open_in};
use crate::ipc::{Conn, ExecJob, Failure};
use crate::sys::signal::{pidfd_open, pidfd_send};
use crate::sys::{fd, pty};
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::os::fd::{AsFd, OwnedFd};

/// All namespaces of a container but the pid namespace, which a process can only be born into.
const NAMESPACES: [(CloneFlags, &str); 5] = [
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWNET, "net"),
    // Last: after it, /proc is the container's.
    (CloneFlags::CLONE_NEWNS, "mnt"),
];

/// Standard input, output, error, and the terminal's other end if there is one.
struct Stdio {
    fds: [OwnedFd; 3],
    master: Option<OwnedFd>,
}

/// Joins the container and clones a process that will run the program once keeper says so.
pub fn exec(conn: &Conn, job: ExecJob, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let container = pidfd_open(job.pid).or_fail(|| format!("open process {}", job.pid))?;
    check_member(&job, &container)?;
    let stdio = stdio(&job, fds)?;
    let namespaces = namespaces(job.pid)?;
    let (pid_namespace, others) = namespaces.split_last().ok_or_else(|| launch("cannot join: no namespaces"))?;
    setns(pid_namespace, CloneFlags::CLONE_NEWPID).or_fail(|| "join the pid namespace")?;
    let group = job.layout.group(&job.group);
    match clone_into(&group, 0).or_fail(|| "clone into the container")? {
        None => run(conn, &job, &group, others, stdio),
        Some(child) => told(conn, &child, Vec::new(), stdio.master),
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

fn namespaces(pid: i32) -> Result<Vec<OwnedFd>, Failure> {
    let names = NAMESPACES.iter().map(|(_, name)| *name).chain(["pid"]);
    let open = |name| {
        let path = format!("/proc/{pid}/ns/{name}");
        open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(|| format!("open {path}"))
    };
    names.map(open).collect()
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

/// A new terminal of the container's own devpts. The container's root is walked without following links, and what is found must be the
/// multiplexer (character device 5:2) of a devpts before it is opened: opening some other file could block us or act on a device.
fn ptmx(pid: i32) -> Result<OwnedFd, Failure> {
    let what = || "open the container's /dev/pts/ptmx";
    let root = format!("/proc/{pid}/root");
    let root = open(root.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(what)?;
    let place = open_in(root, "/dev/pts/ptmx", OFlag::O_PATH | OFlag::O_NOFOLLOW).or_fail(what)?;
    let node = fstat(&place).or_fail(what)?.st_rdev;
    let system = fstatfs(&place).or_fail(what)?.filesystem_type();
    if system != DEVPTS_SUPER_MAGIC || (major(node), minor(node)) != (5, 2) {
        return Err(launch("cannot make a terminal: the container's /dev/pts/ptmx is not one of devpts"));
    }
    open(fd::proc_path(&place).as_str(), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(what)
}

/// In the clone. It is in the container's group before it joins any namespace, so what it uses counts as the container's; later, with
/// the container's view of the cgroup tree, it could not get there.
fn run(conn: &Conn, job: &ExecJob, group: &Group, namespaces: &[OwnedFd], stdio: Stdio) -> ! {
    let ready = wait_for_go(conn, group);
    let Stdio { fds, master } = stdio;
    let terminal = master.is_some();
    drop(master);
    let failure = match ready.and_then(|()| enter(job, namespaces, &fds, terminal)) {
        Ok(payload) => payload.exec(terminal.then(|| fds[0].as_fd())),
        Err(failure) => failure,
    };
    give_up(conn, failure)
}

fn enter(job: &ExecJob, namespaces: &[OwnedFd], fds: &[OwnedFd; 3], terminal: bool) -> Result<Payload, Failure> {
    for (namespace, (flag, name)) in namespaces.iter().zip(NAMESPACES) {
        setns(namespace, flag).or_fail(|| format!("join the {name} namespace"))?;
    }
    let (spec, args) = (&job.spec, &job.args);
    let wanted = Wanted {
        argv: &args.argv,
        env: join_env(&spec.env, &args.env, terminal),
        user: args.user.as_deref().unwrap_or(&spec.user),
        workdir: args.workdir.as_deref().unwrap_or(&spec.workdir),
        make_workdir: false,
    };
    let payload = Payload::prepare(spec, wanted)?;
    if terminal {
        payload.own(fds[0].as_fd())?;
    }
    dup2_stdin(&fds[0])
        .and_then(|()| dup2_stdout(&fds[1]))
        .and_then(|()| dup2_stderr(&fds[2]))
        .or_fail(|| "set standard input and output")?;
    Ok(payload)
}
