//! Pid 1 of a container, from its clone on. Our code in the container's namespaces: until the payload runs, nothing of the image has.
//!
//! It is never exec'd, so what reads it through procfs sees the sealed program (CVE-2019-5736), and it stays non-dumpable.

mod console;
mod reap;

use crate::cgroup::Group;
use crate::container::fail::{OrFail, launch};
use crate::container::mounts::{self, Sources};
use crate::container::payload::{Payload, Wanted, give_up};
use crate::container::{PID_1, Spec, caps, pivot};
use crate::init::console::Console;
use crate::ipc::{Conn, Failure};
use crate::launch::wait_for_go;
use crate::manifest::{Network, Stdin};
use crate::sys::limits::loopback_up;
use crate::sys::pid1;
use crate::sys::process::{CloneArgs, Cloned, clone};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, read, sethostname, setsid, write};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What launch leaves to pid 1.
pub struct Start {
    /// The container.
    pub spec: Spec,
    /// Its future root.
    pub root: OwnedFd,
    /// Its cgroup group.
    pub group: Group,
    /// We were born in the v2 part of it.
    pub born: bool,
    /// The host's side of its mounts.
    pub sources: Sources,
    /// Where its output goes.
    pub log: OwnedFd,
    /// Where its input comes from, if it has a console.
    pub input: Option<OwnedFd>,
    /// Where its end is recorded.
    pub record: File,
}

/// Runs pid 1.
pub fn main(conn: &Conn, start: Start) -> ! {
    // From the start: to a pid 1, a signal with its default action is dropped unless blocked, and keeper may ask us to stop at any time. The payload
    // unblocks all, and gets what waited.
    let ready = pid1::block_all().or_fail(|| "block the signals").and_then(|()| wait_for_go(conn, &start.group, start.born));
    let Start { spec, root, sources, log, input, record, .. } = start;
    let (payload, console) = match ready.and_then(|()| enter(&spec, root, sources, (log, input))) {
        Ok(entered) => entered,
        Err(failure) => give_up(conn, failure),
    };
    if spec.init { supervise(conn, &payload, console, &record) } else { give_up(conn, payload.exec(None)) }
}

/// From the host's view to the container's.
fn enter(
    spec: &Spec,
    root: OwnedFd,
    sources: Sources,
    (log, input): (OwnedFd, Option<OwnedFd>),
) -> Result<(Payload, Option<Console>), Failure> {
    own_cgroup_root()?;
    if spec.network == Network::None {
        loopback_up().or_fail(|| "bring the loopback interface up")?;
    }
    sethostname(&spec.hostname).or_fail(|| format!("set the host name {}", spec.hostname))?;
    mounts::all(root.as_fd(), spec, &sources)?;
    // The host's side of the mounts must not be needed when the host's root is gone.
    let files = sources.into_files();
    pivot::into(root.as_fd())?;
    let wanted = Wanted {
        argv: &spec.argv,
        env: spec.env.clone(),
        user: &spec.user,
        workdir: &spec.workdir,
        make_workdir: true,
        with_keeper: false,
    };
    let payload = Payload::prepare(spec, wanted)?;
    files.give(&spec.files, &payload)?;
    if spec.readonly {
        // The working directory was the last thing to be made.
        mounts::make_read_only(root.as_fd()).or_fail(|| "make the root file system read-only")?;
    }
    let console = stdio(spec, &payload, log, input)?;
    Ok((payload, console))
}

/// The group we are in by now becomes the root of what the container sees; made before attaching, the namespace would show the host's path.
fn own_cgroup_root() -> Result<(), Failure> {
    match unshare(CloneFlags::CLONE_NEWCGROUP) {
        // A kernel without cgroups knows no such namespace.
        Err(Errno::EINVAL) => Ok(()),
        other => other.or_fail(|| "unshare the cgroup namespace"),
    }
}

/// Without a console, nothing to read, and the log to write to: opened for both directions by keeper, so that writing never is SIGPIPE while
/// keeper is away.
fn stdio(spec: &Spec, payload: &Payload, log: OwnedFd, input: Option<OwnedFd>) -> Result<Option<Console>, Failure> {
    let what = || "set standard input and output";
    payload.own(log.as_fd())?;
    let (console, stdin, stdout) = match input {
        Some(input) if spec.terminal => {
            let (console, terminal) = Console::terminal(payload, input, log, spec.stdin != Stdin::None)?;
            (Some(console), terminal.try_clone().or_fail(what)?, terminal)
        }
        Some(input) => {
            let (console, pipe) = Console::pipe(payload, input)?;
            (Some(console), pipe, log)
        }
        None => {
            let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(|| "open the container's /dev/null")?;
            (None, null, log)
        }
    };
    dup2_stdin(stdin).and_then(|()| dup2_stdout(&stdout)).and_then(|()| dup2_stderr(&stdout)).or_fail(what)?;
    Ok(console)
}

/// Clones the payload and stays as its parent, with no more rights than that takes.
///
/// The payload waits until it is so: with `CAP_SYS_PTRACE` it could otherwise catch us with all capabilities and our descriptors.
fn supervise(conn: &Conn, payload: &Payload, console: Option<Console>, record: &File) -> ! {
    let (gate, opener) = pipe2(OFlag::O_CLOEXEC).or_fail(|| "make a pipe").unwrap_or_else(|failure| give_up(conn, failure));
    // Pid 1 is in no session of the host's either.
    let cloned =
        setsid().map_err(io::Error::from).and_then(|_| clone(CloneArgs { flags: 0, exit_signal: libc::SIGCHLD as u64, cgroup: None }));
    let child = match cloned.or_fail(|| "clone the payload") {
        Ok(Cloned::Child) => {
            drop(opener);
            let stdin = io::stdin();
            let terminal = console.filter(Console::is_terminal).map(|_| stdin.as_fd());
            give_up(conn, passed(gate).map_or_else(|failure| failure, |()| payload.exec(terminal)))
        }
        Ok(Cloned::Parent(child)) => child.pid,
        Err(failure) => give_up(conn, failure),
    };
    drop(gate);
    if let Err(failure) = confine().and_then(|()| console.as_ref().map_or(Ok(()), Console::leave_input)) {
        give_up(conn, failure);
    }
    let consoles = console.iter().flat_map(Console::needs);
    crate::sys::fd::close_other_than(&[record.as_fd(), opener.as_fd()].into_iter().chain(consoles).collect::<Vec<_>>());
    // Who is not there to read it has been killed, which the loop will see.
    let _ = write(&opener, &[0]);
    drop(opener);
    match console {
        Some(console) => console.until_end(child, record),
        None => reap::until_end(child, record),
    }
}

fn passed(gate: OwnedFd) -> Result<(), Failure> {
    match read(&gate, &mut [0]).or_fail(|| "wait for pid 1")? {
        0 => Err(launch("cannot run: pid 1 is gone")),
        _ => Ok(()),
    }
}

fn confine() -> Result<(), Failure> {
    const CAP_KILL: u64 = 1 << 5;
    prctl::set_name(PID_1).or_fail(|| "name pid 1")?;
    let left = caps::bound(CAP_KILL)?;
    caps::settle(left, 0)?;
    prctl::set_no_new_privs().or_fail(|| "set no_new_privs")?;
    if prctl::get_dumpable().or_fail(|| "ask whether pid 1 is dumpable")? {
        return Err(launch("cannot confine pid 1: it is dumpable"));
    }
    Ok(())
}
