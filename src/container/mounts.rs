//! What every container finds mounted, and what its manifest adds. All by descriptor: a new mount is made or copied while it hangs nowhere,
//! then attached to a place that was resolved once.

use super::fail::{OrFail, launch};
use super::files::Files;
use super::resolve::{Kind, ensure_in, open_plain, plain_dir};
use super::{Spec, mask};
use crate::ipc::Failure;
use crate::manifest::Mount;
use crate::sys::fd::proc_path;
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::dev_t;
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::symlinkat;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// No set-user-id, no devices, no programs: for file systems that only the kernel fills.
pub const HIDDEN: u64 = NOSUID | NODEV | NOEXEC;

/// Bytes of `/dev/shm`, as with other runtimes; charged to the container's memory as it fills.
const SHM_BYTES: u64 = 64 << 20;

/// A tmpfs gets one inode for each so many bytes, and never fewer than [`FEWEST_INODES`]: an inode costs kernel memory too.
const BYTES_PER_INODE: u64 = 4096;
const FEWEST_INODES: u64 = 1024;

/// Character devices of `/dev`: name, major, minor (devices.txt of the kernel).
const NODES: [(&str, u64, u64); 6] = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links of `/dev`: target, name.
const LINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// The kernel lacks the call, or a filter around us refuses it: those older than a call answer EPERM. A refusal of another kind meets the old way too.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSYS | Errno::EPERM))
}

/// A detached copy of something mounted.
#[derive(Debug)]
pub struct Tree {
    fd: OwnedFd,
    recursive: bool,
}

impl Tree {
    /// Copies the mount at `place`, with the mounts below if `recursive`.
    pub fn copy(place: impl AsFd, recursive: bool) -> io::Result<Self> {
        Ok(Self { fd: mount::copy(place, recursive)?, recursive })
    }

    /// Copies for a bind mount: with the mounts below, unless the kernel (before 5.12) could not make these read-only along with it.
    pub fn bind(place: impl AsFd) -> io::Result<Self> {
        let whole = Self::copy(&place, true)?;
        match mount::restrict(&whole.fd, 0, true) {
            Err(e) if is_unknown(&e) => Self::copy(place, false),
            Err(e) => Err(e),
            Ok(()) => Ok(whole),
        }
    }

    /// Attaches it with further attributes. Before Linux 5.12 a mount gets these only once it hangs, and one at a time: the
    /// way there is the old remount, for which nothing of the container may run yet, and which leaves mounts below as they are.
    pub fn attach(&self, target: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
        match mount::restrict(&self.fd, attributes, self.recursive) {
            Err(e) if is_unknown(&e) => {
                mount::attach(&self.fd, target)?;
                remount(self.fd.as_fd(), attributes)
            }
            Err(e) => Err(e),
            Ok(()) => mount::attach(&self.fd, target),
        }
    }

    fn is_dir(&self) -> io::Result<bool> {
        Ok(SFlag::from_bits_truncate(fstat(&self.fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
    }
}

/// Adds attributes to the mount whose root is `tree`. A remount replaces all of them, so those in force are given again.
pub fn remount(tree: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let now = fstatvfs(tree)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    let table = [
        (FsFlags::ST_RDONLY, RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, NOEXEC, MsFlags::MS_NOEXEC),
    ];
    for (seen, wanted, flag) in table {
        if now.contains(seen) || attributes & wanted != 0 {
            flags |= flag;
        }
    }
    nix::mount::mount(None::<&str>, proc_path(tree).as_str(), None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// A tmpfs of at most `bytes`, hanging nowhere yet.
pub fn tmpfs(bytes: u64, mode: &str, attributes: u64) -> io::Result<OwnedFd> {
    let inodes = (bytes / BYTES_PER_INODE).max(FEWEST_INODES).to_string();
    let size = bytes.to_string();
    mount::create(c"tmpfs", &[(c"size", Some(&size)), (c"nr_inodes", Some(&inodes)), (c"mode", Some(mode))], attributes)
}

/// The device nodes that a container gets, in the order of [`NODES`].
///
/// They are a container's only way to a device. It may make nodes (`CAP_MKNOD` is in the default set), so every mount on which it can do that has
/// NODEV; these lie in a tmpfs without, of which it never sees more than each single node, mounted over an empty file. They are made, not
/// copied from the host's `/dev`: that would let the container change the owner and the mode of the host's own nodes.
#[derive(Debug)]
pub struct Nodes([OwnedFd; NODES.len()]);

impl Nodes {
    /// Makes them in a tmpfs that it mounts at `place`, in our mount namespace: kernels before 6.15 copy only what hangs there. Whoever
    /// leaves the host's root leaves that mount, too.
    pub fn make(place: BorrowedFd<'_>) -> io::Result<Self> {
        // One for each node and one for the directory: none is left for who could reach it.
        const INODES: &str = "7";
        const { assert!(NODES.len() == 6) };
        let options = [(c"size", Some("4096")), (c"nr_inodes", Some(INODES)), (c"mode", Some("700"))];
        let dir = mount::create(c"tmpfs", &options, NOSUID | NOEXEC)?;
        mount::attach(&dir, place)?;
        let node = |(name, major, minor): (&str, u64, u64)| -> io::Result<OwnedFd> {
            mknodat(&dir, name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
            open_plain(&dir, name, OFlag::empty())
        };
        let all = NODES.into_iter().map(node).collect::<io::Result<Vec<_>>>()?;
        Ok(Self(all.try_into().expect("as many as there are names")))
    }

    /// The null device.
    pub fn null(&self) -> BorrowedFd<'_> {
        self.0[0].as_fd()
    }

    /// Mounts each over an empty file in `dev`.
    fn attach(&self, dev: &OwnedFd) -> Result<(), Failure> {
        for ((name, ..), node) in NODES.iter().zip(&self.0) {
            let what = || format!("make /dev/{name}");
            mknodat(dev, *name, SFlag::S_IFREG, Mode::empty(), 0).or_fail(what)?;
            let place = open_plain(dev, name, OFlag::empty()).or_fail(what)?;
            mount::attach(mount::copy(node, false).or_fail(what)?, place).or_fail(what)?;
        }
        Ok(())
    }
}

/// What launch made and opened while nothing of the image had been looked at.
#[derive(Debug)]
pub struct Sources {
    /// The device nodes.
    pub nodes: Nodes,
    /// Copies of the sources of the manifest's bind mounts, in its order.
    pub binds: Vec<Tree>,
    /// The container's groups: name of the directory below `/sys/fs/cgroup` (empty for a sole v2 hierarchy), and the group.
    pub groups: Vec<(String, Tree)>,
    /// The files that the manifest puts into it.
    pub files: Files,
}

impl Sources {
    /// The files alone: the host's side of all else is no longer needed.
    pub fn into_files(self) -> Files {
        self.files
    }
}

/// Mounts everything below `root`, the container's future root. Runs as pid 1: procfs shows the pid namespace of its mounter, sysfs the
/// network namespace, mqueue the ipc namespace.
///
/// sysfs needs no special way for the host's network here: the kernel refuses it only to a mounter from another user namespace.
pub fn all(root: BorrowedFd<'_>, spec: &Spec, sources: &Sources) -> Result<(), Failure> {
    let proc = standard(root, "proc", || mount::create(c"proc", &[], HIDDEN))?;
    let dev = devices(root, &sources.nodes)?;
    let sys = standard(root, "sys", || mount::create(c"sysfs", &[], HIDDEN | RDONLY))?;
    control_groups(sys.as_fd(), &sources.groups)?;
    mask::apply(proc.as_fd(), sys.as_fd(), sources.nodes.null())?;
    let mut made = own(root, dev.as_fd(), &spec.mounts, &sources.binds)?;
    made.push(fstat(root).or_fail(|| "look at the root file system")?.st_dev);
    sources.files.attach(root, dev.as_fd(), &spec.files, &made)
}

fn standard(root: BorrowedFd<'_>, name: &str, make: impl FnOnce() -> io::Result<OwnedFd>) -> Result<OwnedFd, Failure> {
    let target = plain_dir(root, name).map_err(|e| match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => launch(format!("cannot mount /{name}: it is a symbolic link in the image")),
        Some(Errno::ENOTDIR) => launch(format!("cannot mount /{name}: it is not a directory in the image")),
        _ => launch(format!("cannot mount /{name}: {}", super::fail::os(&e))),
    })?;
    let mounted = make().or_fail(|| format!("mount /{name}"))?;
    mount::attach(&mounted, target).or_fail(|| format!("mount /{name}"))?;
    Ok(mounted)
}

/// A small tmpfs with six nodes: no disk, no flash (`/dev/mtd*`), no console of the device; and no way to them by mknod(2).
fn devices(root: BorrowedFd<'_>, nodes: &Nodes) -> Result<OwnedFd, Failure> {
    const BYTES: u64 = 64 << 10;
    let dev = standard(root, "dev", || tmpfs(BYTES, "755", HIDDEN))?;
    nodes.attach(&dev)?;
    for (target, name) in LINKS {
        symlinkat(target, &dev, name).or_fail(|| format!("make /dev/{name}"))?;
    }
    // An instance of its own since Linux 4.7; group 5 is tty in every distribution. Its terminals are devices, but it has no mknod(2).
    let pts = [(c"ptmxmode", Some("0666")), (c"mode", Some("0620")), (c"gid", Some("5"))];
    below(&dev, "pts", || mount::create(c"devpts", &pts, NOSUID | NOEXEC))?;
    below(&dev, "shm", || tmpfs(SHM_BYTES, "1777", HIDDEN))?;
    match below(&dev, "mqueue", || mount::create(c"mqueue", &[], HIDDEN)) {
        // Router kernels often lack POSIX message queues, and hardly anything uses them.
        Err(f) if f.reason == crate::protocol::Reason::NoFeature => {}
        other => other?,
    }
    Ok(dev)
}

fn below(dev: &OwnedFd, name: &str, make: impl FnOnce() -> io::Result<OwnedFd>) -> Result<(), Failure> {
    let what = || format!("mount /dev/{name}");
    mount::attach(make().or_fail(what)?, plain_dir(dev, name).or_fail(what)?).or_fail(what)
}

/// The container's own groups, read-only: programs size themselves by `memory.max`. A writable v1 hierarchy would run
/// `release_agent` on the host (CVE-2022-0492).
fn control_groups(sys: BorrowedFd<'_>, groups: &[(String, Tree)]) -> Result<(), Failure> {
    const BYTES: u64 = 64 << 10;
    let what = || "mount /sys/fs/cgroup";
    let target = match open_plain(sys, "fs/cgroup", OFlag::O_DIRECTORY) {
        Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(()),
        other => other.or_fail(what)?,
    };
    if let [(name, group)] = groups
        && name.is_empty()
    {
        return group.attach(target.as_fd(), HIDDEN | RDONLY).or_fail(what);
    }
    if groups.is_empty() {
        return Ok(());
    }
    let top = tmpfs(BYTES, "755", HIDDEN).or_fail(what)?;
    mount::attach(&top, target).or_fail(what)?;
    for (name, group) in groups {
        let place = plain_dir(&top, name).or_fail(what)?;
        group.attach(place.as_fd(), HIDDEN | RDONLY).or_fail(|| format!("mount /sys/fs/cgroup/{name}"))?;
    }
    make_read_only(top.as_fd()).or_fail(what)
}

/// Makes the mount whose root is `tree`, already attached, read-only.
pub fn make_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    match mount::restrict(tree, RDONLY, false) {
        Err(e) if is_unknown(&e) => remount(tree, RDONLY),
        other => other,
    }
}

/// The manifest's mounts, in its order. Never with device nodes or set-user-id programs of the host. Answers which file systems were made.
fn own(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, mounts: &[Mount], binds: &[Tree]) -> Result<Vec<dev_t>, Failure> {
    let (mut binds, mut made) = (binds.iter(), Vec::new());
    for wanted in mounts {
        match wanted {
            Mount::Bind { target, readonly, .. } => {
                let tree = binds.next().ok_or_else(|| launch("cannot mount: a bind mount has no source"))?;
                let kind = if tree.is_dir().or_fail(|| format!("mount {target}"))? { Kind::Dir } else { Kind::File };
                let place = place(root, dev, target, kind)?;
                let attributes = NOSUID | NODEV | if *readonly { RDONLY } else { 0 };
                tree.attach(place.as_fd(), attributes).or_fail(|| format!("mount {target}"))?;
            }
            Mount::Tmpfs { target, size } => {
                let place = place(root, dev, target, Kind::Dir)?;
                let fresh = tmpfs(*size, "1777", HIDDEN).or_fail(|| format!("mount {target}"))?;
                made.push(fstat(&fresh).or_fail(|| format!("mount {target}"))?.st_dev);
                mount::attach(fresh, place).or_fail(|| format!("mount {target}"))?;
            }
        }
    }
    Ok(made)
}

/// Where a mount of the manifest goes. What it resolved to decides, not how it was written: a link of the image can lead anywhere in
/// the root. Nothing covers procfs or sysfs: a fake one makes the runtime's own later writes go astray (CVE-2019-19921).
pub(super) fn place(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, target: &str, kind: Kind) -> Result<OwnedFd, Failure> {
    if !target.starts_with('/') || target.split('/').any(|part| part == "..") {
        return Err(launch(format!("cannot mount {target}: the target must be absolute, without `..`")));
    }
    let place = ensure_in(root, target, kind, (0, 0)).or_fail(|| format!("make mount target {target}"))?;
    let system = fstatfs(&place).or_fail(|| format!("look at {target}"))?.filesystem_type();
    if [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&system) {
        return Err(launch(format!("cannot mount {target}: it lies in the container's /proc or /sys")));
    }
    for (taken, name) in [(root, "/"), (dev, "/dev")] {
        if same(place.as_fd(), taken).or_fail(|| format!("look at {target}"))? {
            return Err(launch(format!("cannot mount {target}: it would cover the container's {name}")));
        }
    }
    Ok(place)
}

fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
