//! Role `launch`: everything on the host's side of one start (or one exec), then gone. Keeper talks to it over descriptor 3.
//!
//! The steps of a start, in order:
//! 1. a mount namespace of our own, cut off from the host's;
//! 2. the container's device nodes and files are made and the host's files that it gets are opened, before anything of the image is looked at;
//! 3. the root file system is mounted;
//! 4. the cgroup group is made and limited;
//! 5. pid 1 is cloned into its namespaces and its group, and keeper is told. Pid 1 goes on in [`crate::init`].

mod files;
mod join;
mod rootfs;

pub use join::NOT_THERE;

use crate::allowed;
use crate::cgroup::{self, Group};
use crate::container::fail::{OrFail, launch};
use crate::container::mounts::{Nodes, Sources, Tree};
use crate::container::{Spec, Wiring, mounts, rlimits};
use crate::init::{self, Start};
use crate::ipc::{Conn, Failure, FromLaunch, ToLaunch};
use crate::manifest::{Mount, Network};
use crate::protocol::Reason;
use crate::sys::process::{Child, CloneArgs, Cloned, Ended, clone, exit_now, reap};
use crate::sys::{fd, limits};
use join::Inside;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Runs the role and ends the process: 0 when keeper has been told everything it will hear from us.
pub fn main() -> ! {
    let code = match fd::inherited(fd::FIRST) {
        Ok(socket) => serve(Conn::new(socket)),
        // Nobody gave us a socket, so nobody is there to be told.
        Err(_) => 1,
    };
    exit_now(code)
}

fn serve(conn: Conn) -> i32 {
    let done = prepare().and_then(|()| match conn.recv_with::<ToLaunch>().or_fail(|| "receive the job")? {
        Some((ToLaunch::Start { spec, wiring }, fds)) => start(&conn, *spec, &wiring, fds),
        Some((ToLaunch::Exec(job), fds)) => join::exec(&conn, *job, Inside::Program, fds),
        Some((ToLaunch::Copy { job, what }, fds)) => join::exec(&conn, *job, Inside::Copy(&what), fds),
        Some((ToLaunch::Look { job, path }, fds)) => join::exec(&conn, *job, Inside::Look(&path), fds),
        Some((ToLaunch::Go, _)) => Err(launch("cannot go on before a job is there")),
        None => Ok(()),
    });
    match done {
        Ok(()) => 0,
        Err(failure) => {
            // Keeper may be gone; then nobody is left to tell.
            let _ = conn.send(&FromLaunch::Failed(failure));
            1
        }
    }
}

/// What every process that comes from us inherits.
fn prepare() -> Result<(), Failure> {
    // Nothing inside may trace us or reach our descriptors through procfs while we are in between (CVE-2016-9962).
    prctl::set_dumpable(false).or_fail(|| "become non-dumpable")?;
    // Modes of what we make are as written; the payload gets 022.
    umask(Mode::empty());
    // Keeper protects itself from the OOM killer; the container must not inherit that. Written while /proc is the host's (CVE-2019-19921).
    std::fs::write("/proc/self/oom_score_adj", "0").or_fail(|| "set oom_score_adj")?;
    match limits::join_new_keyring() {
        // Without keyrings in the kernel, there is none to share with the host; a filter around us that refuses them to us does so to the container.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        other => other.or_fail(|| "leave the session keyring"),
    }
}

fn start(conn: &Conn, spec: Spec, wiring: &Wiring, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let mut fds = fds.into_iter();
    let (Some(log), Some(record), input) = (fds.next(), fds.next(), fds.next()) else {
        return Err(launch("cannot start: log and exit record must come along"));
    };
    // Mounts made here vanish with the last process of the container, whatever crashes; private, so that none shows on the host and
    // none of the host's later ones shows inside. The container stays in this very namespace: another copy of it costs as much as
    // making it did, and nobody else ever enters it.
    unshare(CloneFlags::CLONE_NEWNS).or_fail(|| "unshare the mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).or_fail(|| "make mounts private")?;
    let nodes = nodes(wiring)?;
    let binds = binds(&spec.mounts, wiring.allowed.as_deref())?;
    let files = files::make(rootfs::scratch(wiring)?.as_fd(), &spec.files, &wiring.secrets)?;
    let root = rootfs::mount(&spec, wiring)?;
    let group = wiring.layout.group(&wiring.group);
    let out_of_reach = rlimits::out_of_reach(&spec.rlimits)?;
    if spec.resources.required && !out_of_reach.is_empty() {
        return Err(cgroup_failure(cgroup::Error::Required(out_of_reach)));
    }
    let mut missing = group.create(&spec.resources).map_err(cgroup_failure)?;
    missing.extend(out_of_reach);
    let sources = Sources { nodes, binds, groups: views(wiring)?, files };
    let own_network = spec.network == Network::None;
    let (cloned, born) = clone_pid1(&group, own_network)?;
    match cloned {
        Cloned::Child => init::main(conn, Start { spec, root, group, born, sources, log, input, record: record.into() }),
        Cloned::Parent(child) => told(conn, &child, missing, None),
    }
}

/// In the scratch directory, under the mount of the root file system to come.
fn nodes(wiring: &Wiring) -> Result<Nodes, Failure> {
    let scratch = rootfs::scratch(wiring)?;
    Nodes::make(scratch.as_fd()).or_fail(|| "make the device nodes")
}

/// Sources of bind mounts, as they are now. Links of the host are followed, since its paths may well be links; procfs's magic ones are not.
fn binds(wanted: &[Mount], allowed: Option<&[String]>) -> Result<Vec<Tree>, Failure> {
    let open = |source: &String| {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let doing = || format!("open {source} for a bind mount");
        let file = openat2(AT_FDCWD, source.as_str(), how).or_fail(doing)?;
        allowed::check(&file, source, allowed, "bind_sources")?;
        Tree::bind(file).or_fail(doing)
    };
    wanted.iter().filter_map(|m| if let Mount::Bind { source, .. } = m { Some(source) } else { None }).map(open).collect()
}

/// The container's group in each hierarchy, under the name by which programs look for it.
fn views(wiring: &Wiring) -> Result<Vec<(String, Tree)>, Failure> {
    let all = wiring.layout.v1.iter().map(|(_, point)| point.as_str()).chain(wiring.layout.unified.as_deref());
    // Two controllers may share one mount.
    let points = all.fold(Vec::new(), |mut seen: Vec<&str>, point| {
        if !seen.contains(&point) {
            seen.push(point);
        }
        seen
    });
    let mut out = Vec::new();
    for point in &points {
        let path = format!("{point}/{}", wiring.group);
        let name = if points.len() == 1 { "" } else { point.rsplit('/').next().unwrap_or_default() };
        match nix::fcntl::open(path.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(dir) => out.push((name.to_owned(), Tree::copy(dir, false).or_fail(|| format!("copy the mount of {path}"))?)),
            // Not every hierarchy has a group of ours.
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e).or_fail(|| format!("open {path}")),
        }
    }
    Ok(out)
}

/// Clones pid 1, and says whether it was born in its group.
///
/// CLONE_PARENT makes it keeper's child, so keeper is told of its end by the kernel alone; it wants exit signal 0, or the answer is EINVAL. The cgroup
/// namespace is not in the list: it shows the group of the moment it was made as its root, so pid 1 unshares it once it is in its group.
fn clone_pid1(group: &Group, own_network: bool) -> Result<(Cloned, bool), Failure> {
    let network = if own_network { libc::CLONE_NEWNET } else { 0 };
    clone_into(group, libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network).or_fail(|| "clone pid 1")
}

/// Clones a child of keeper's, born in the group where the kernel can do that; elsewhere the child joins by [`Group::attach_self`].
fn clone_into(group: &Group, flags: i32) -> io::Result<(Cloned, bool)> {
    let flags = (libc::CLONE_PARENT | flags) as u64;
    // Closed in the child as well when this function returns there.
    let dir = group.unified_fd()?.filter(|dir| survives_birth(dir.as_fd()));
    let born_there = clone(CloneArgs { flags, exit_signal: 0, cgroup: dir.as_ref().map(AsFd::as_fd) });
    match born_there {
        // Kernels before 5.7, or a group that nobody can be born into.
        Err(e) if dir.is_some() && refuses_birth(&e) => Ok((clone(CloneArgs { flags, exit_signal: 0, cgroup: None })?, false)),
        other => Ok((other?, dir.is_some())),
    }
}

/// Whether a child that is born into the group lives; asked of one that ends at once. Linux (6.14, and older stable releases with the same change)
/// counts how often each group was killed as a whole, and takes a birth into one whose count is not that of the maker's own group for one that
/// the kill came in between: SIGKILL. So it is where an earlier container's group could not be removed yet, or ours was killed before we were in it.
fn survives_birth(dir: BorrowedFd<'_>) -> bool {
    match clone(CloneArgs { flags: libc::CLONE_VFORK as u64, exit_signal: libc::SIGCHLD as u64, cgroup: Some(dir) }) {
        Ok(Cloned::Child) => exit_now(0),
        Ok(Cloned::Parent(child)) => matches!(reap(child.pid), Ok(Ended::Code(0))),
        // Whatever is in the way will be told of the clone that counts.
        Err(_) => true,
    }
}

fn refuses_birth(error: &io::Error) -> bool {
    use libc::{E2BIG, EACCES, EBUSY, EINVAL, ENOSYS, EOPNOTSUPP};
    matches!(error.raw_os_error(), Some(ENOSYS | E2BIG | EINVAL | EOPNOTSUPP | EBUSY | EACCES))
}

fn told(conn: &Conn, child: &Child, missing: Vec<(String, String)>, terminal: Option<OwnedFd>) -> Result<(), Failure> {
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(child.pidfd.as_fd()).chain(terminal.as_ref().map(AsFd::as_fd)).collect();
    conn.send_with(&FromLaunch::Cloned { pid: child.pid, missing }, &fds).or_fail(|| "report the process")
}

/// The first thing that pid 1 does: joins what it was not born into, from inside, which is the cheap way on v1; then waits for keeper.
///
/// # Errors
/// Why the group could not be joined; told after `Go`, since keeper takes nothing before it.
pub(crate) fn wait_for_go(conn: &Conn, group: &Group, born: bool) -> Result<(), Failure> {
    let attached = group.attach_self(born).map_err(cgroup_failure);
    await_go(conn);
    attached
}

/// Ends this process unless keeper has recorded it: nothing of the container may run then.
fn await_go(conn: &Conn) {
    if !matches!(conn.recv::<ToLaunch>(), Ok(Some(ToLaunch::Go))) {
        exit_now(0);
    }
}

fn cgroup_failure(error: cgroup::Error) -> Failure {
    let reason = if matches!(error, cgroup::Error::Required(_)) { Reason::NoFeature } else { Reason::Launch };
    Failure { reason, message: error.to_string() }
}

/// A tmpfs for the writable side of a root file system.
fn upper(bytes: u64) -> io::Result<OwnedFd> {
    mounts::tmpfs(bytes, "755", crate::sys::mount::NODEV)
}
