//! The cage: entered before the first hostile byte is read.

use super::{Job, Task};
use crate::confine;
use crate::image::fault::fault;
use crate::ipc::{Conn, Failure};
use crate::protocol::Reason;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot, pivot_root, setgroups};
use std::io;
use std::os::fd::OwnedFd;

/// Address space: the largest zstd window (8 MiB) twice, for an archive and for a layer in it, the program, and room.
const MAX_MEMORY: u64 = 64 << 20;
const MAX_FILES: u64 = 32;

/// Enters the cage and answers its root directory.
///
/// # Errors
/// Which step the kernel refuses; then nothing may be read.
pub fn enter(stage: &Conn, job: &Job) -> Result<OwnedFd, Failure> {
    let root = walls(stage, job)?;
    step("system call filter", confine::load(confine::Role::Unpack))?;
    Ok(root)
}

/// The cage without its system call filter: what must hold by itself, should a call that the filter allows turn out to be a door.
///
/// # Errors
/// As for [`enter`].
pub fn walls(stage: &Conn, job: &Job) -> Result<OwnedFd, Failure> {
    step("limits", limit(job))?;
    step("root directory", become_root(&job.root))?;
    step("capabilities", drop_capabilities(&job.task))?;
    step("parent", crate::hash::die_with_parent(stage))?;
    umask(Mode::empty());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open("/", flags, Mode::empty()).map_err(|e| fault(Reason::Unpack, format!("cannot open the staging directory: {e}")))
}

fn step(what: &str, done: io::Result<()>) -> Result<(), Failure> {
    done.map_err(|e| fault(Reason::Unpack, format!("cannot confine unpack: {what}: {e}")))
}

fn limit(job: &Job) -> io::Result<()> {
    let file_size = match job.task {
        Task::Layer(limits) | Task::Image(limits) => limits.bytes,
        Task::Index => 0,
    };
    for (what, most) in [
        (Resource::RLIMIT_AS, MAX_MEMORY),
        (Resource::RLIMIT_CPU, job.cpu_s),
        (Resource::RLIMIT_FSIZE, file_size),
        (Resource::RLIMIT_NOFILE, MAX_FILES),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(what, most, most)?;
    }
    Ok(())
}

/// Makes the directory the root of this mount namespace and forgets the rest of the system.
fn become_root(dir: &str) -> io::Result<()> {
    // The new root must be a mount point (pivot_root(2)); mounts of a new user namespace are already no peers of the host's.
    mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    chdir(dir)?;
    match pivot_root(".", ".") {
        // Both roots lie on one mount point now, the old one on top.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // An initramfs cannot be pivoted away from. Without CAP_SYS_CHROOT, dropped below, there is no way back out of a chroot.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
            chroot(".")?;
        }
        Err(e) => return Err(e.into()),
    }
    Ok(chdir("/")?)
}

/// Keeps what setting owners, modes and file capabilities needs, all within this user namespace.
fn drop_capabilities(task: &Task) -> io::Result<()> {
    setgroups(&[])?;
    let kept: &[Capability] = match task {
        Task::Layer(_) | Task::Image(_) => {
            &[Capability::CAP_CHOWN, Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER, Capability::CAP_FSETID, Capability::CAP_SETFCAP]
        }
        Task::Index => &[],
    };
    let kept = kept.iter().copied().collect();
    // Permitted cannot be narrowed below effective.
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(io::Error::other)?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    Ok(prctl::set_no_new_privs()?)
}
