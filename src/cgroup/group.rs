//! One group in every hierarchy that we limit or read: making, limiting, joining, killing, freezing, removing.

use super::error::{Error, reason};
use super::limits::{self, Limit};
use super::{Kind, Layout, files, parse, prepare};
use crate::manifest::Resources;
use crate::sys::signal::{pidfd_open, pidfd_send};
use nix::libc;
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Most groups of one tree that are walked: a container with a writable cgroup file system may have made any number.
const MAX_GROUPS: usize = 1024;
/// Most processes that are listed in one pass; a pass can be repeated.
const MAX_PIDS: usize = 32 * 1024;
/// Longest path of a group.
const MAX_PATH: usize = 512;
/// Descriptors held while killing, far below the default limit of 1024.
const KILL_AT_ONCE: usize = 128;

/// v1 controllers that we limit or read. Each hierarchy that a process joins costs a write under the kernel's global lock, so `devices`
/// and the rest, which we do neither, are left alone.
const JOINED: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "blkio"];

/// One path in every hierarchy that we use. Holds no kernel object: it may be made, and used for asking, before the group exists.
#[derive(Debug, Clone)]
pub struct Group {
    /// Empty if the path is not good: then the group is nowhere.
    layout: Layout,
    path: String,
    good: bool,
}

/// Which version's files a directory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Layout {
    /// The group at `path`, relative to the root of each hierarchy. A path that is empty, absolute or steps upwards makes a group that
    /// is nowhere: [`Group::create`] and [`Group::attach`] refuse it, all else finds nothing.
    pub fn group(&self, path: &str) -> Group {
        let good = path.len() <= MAX_PATH && path.split('/').all(|p| !matches!(p, "" | "." | "..") && !p.contains('\0'));
        let layout = if good { self.clone() } else { Layout::default() };
        Group { layout, path: path.to_owned(), good }
    }
}

impl Group {
    /// The path below each hierarchy's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn valid(&self) -> Result<(), Error> {
        if self.good { Ok(()) } else { Err(Error::Path(self.path.clone())) }
    }

    /// Roots of the hierarchies that we use, each once, v2 first. The v1 freezer is used only where there is no v2 tree, whose
    /// `cgroup.freeze` (Linux 5.2) every supported kernel has.
    pub(super) fn roots(&self) -> Vec<(&str, Version)> {
        let mut out: Vec<(&str, Version)> = self.layout.unified.iter().map(|r| (r.as_str(), Version::Two)).collect();
        let freezer = self.layout.unified.is_none().then_some("freezer");
        for root in JOINED.into_iter().chain(freezer).filter_map(|c| self.layout.v1_mount(c)) {
            if !out.iter().any(|(r, _)| *r == root) {
                out.push((root, Version::One));
            }
        }
        out
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.roots().iter().map(|(root, _)| Path::new(root).join(&self.path)).collect()
    }

    /// Directory in the v2 tree.
    pub(super) fn unified(&self) -> Option<PathBuf> {
        self.layout.unified.as_ref().map(|root| Path::new(root).join(&self.path))
    }

    /// Directory with the files of the controller: `v1` name if mounted so, else `v2` name.
    pub(super) fn home(&self, v1: &str, v2: &str) -> Option<(Version, PathBuf)> {
        if let Some(root) = self.layout.v1_mount(v1) {
            return Some((Version::One, Path::new(root).join(&self.path)));
        }
        self.layout.controllers.iter().any(|c| c == v2).then(|| self.unified().map(|dir| (Version::Two, dir))).flatten()
    }

    /// Makes the group in every hierarchy and sets its limits. Answers what this kernel cannot enforce, with why: (`memory.high`,
    /// `cgroup v1 has no such file`).
    ///
    /// # Errors
    /// When the group cannot be made; when limits are `required` and any is missing. Nothing is left behind then.
    pub fn create(&self, r: &Resources) -> Result<Vec<(String, String)>, Error> {
        let done = self.make().and_then(|made| self.limit(r, &made.levels, made.leaf));
        if done.is_err() {
            let _ = self.remove();
        }
        done
    }

    /// Changes the limits of a living group; absent means unlimited. Answers as [`Group::create`].
    ///
    /// # Errors
    /// As [`Group::create`]; the limits that could be set stay set.
    pub fn update(&self, r: &Resources) -> Result<Vec<(String, String)>, Error> {
        self.valid()?;
        self.limit(r, &[], false)
    }

    /// `levels`: v2 directories just made. `fresh`: in a new group, what nobody asked for is unlimited already and costs no write.
    fn limit(&self, r: &Resources, levels: &[PathBuf], fresh: bool) -> Result<Vec<(String, String)>, Error> {
        let refused = self.switch_on(levels);
        let (limits, mut missing) = self.plan(r);
        for l in limits.iter().filter(|l| l.asked || !fresh) {
            if let Err(why) = self.apply(l, &refused)
                && !missing.iter().any(|(name, _)| name == l.name)
            {
                missing.push((l.name.to_owned(), why));
            }
        }
        if r.required && !missing.is_empty() { Err(Error::Required(missing)) } else { Ok(missing) }
    }

    /// Has the levels above pass controllers on; what is refused, and why. The level above those may be so new that a neighbour, who made it,
    /// has not yet switched on there what it is to pass on to ours: the kernel answers ENOENT then.
    fn switch_on(&self, levels: &[PathBuf]) -> Vec<(String, String)> {
        let mut above = self.above(levels);
        let refused = self.layout.enable(&above);
        let (false, Some(parent)) = (refused.is_empty(), self.parent()) else { return refused };
        above.retain(|dir| *dir != parent);
        above.insert(0, parent);
        self.layout.enable(&above)
    }

    /// The v2 directory of the prepared parent of a container's group: `PARENT/APP/CONTAINER`.
    fn parent(&self) -> Option<PathBuf> {
        let (parent, _) = self.path.rsplit_once('/')?.0.rsplit_once('/')?;
        Some(Path::new(self.layout.unified.as_ref()?).join(parent))
    }

    /// The v2 levels that must pass controllers on to this group and are surely ours: the one right above it, and whichever we just made.
    /// Our parent group was prepared before, and what is above that may be somebody else's.
    fn above(&self, fresh: &[PathBuf]) -> Vec<PathBuf> {
        let (Some(own), true) = (self.unified(), self.path.contains('/')) else { return Vec::new() };
        let mut levels: Vec<PathBuf> = fresh.iter().filter(|dir| **dir != own).cloned().collect();
        let last = own.parent().map(Path::to_owned);
        levels.extend(last.filter(|dir| !levels.contains(dir)));
        levels
    }

    /// Each controller's limits in the version where it lives.
    fn plan(&self, r: &Resources) -> (Vec<Limit>, Vec<(String, String)>) {
        let old = |controller: &str| self.layout.v1_mount(controller).is_some();
        let in_force = |(_, dir): (Version, PathBuf)| files::read(&dir.join("memory.memsw.limit_in_bytes")).ok()?.trim().parse().ok();
        // It decides the order of two writes, if both are asked for.
        let memsw = r.swap_max.and_then(|_| self.home("memory", "memory")).and_then(in_force);
        let (mut limits, mut missing) = limits::v1(r, memsw);
        limits.retain(|l| old(l.controller));
        missing.retain(|_| old("memory"));
        limits.extend(limits::v2(r).into_iter().filter(|l| !old(l.controller)));
        (limits, missing)
    }

    fn apply(&self, l: &Limit, refused: &[(String, String)]) -> Result<(), String> {
        let Some((version, dir)) = self.home(l.controller, l.controller) else {
            return if l.asked { Err(prepare::symbol(l.controller).into()) } else { Ok(()) };
        };
        match files::write(&dir.join(l.file), &l.value) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !l.asked => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => match refused.iter().find(|(c, _)| c == l.controller) {
                Some((_, why)) => Err(why.clone()),
                None => Err(no_file(l, version, &dir)),
            },
            // v1 tries to reclaim and gives up; v2 kills instead.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && l.controller == "memory" => {
                Err("more is in use than the new limit, and cannot be reclaimed".into())
            }
            Err(e) => Err(format!("the kernel refuses {:?} in {}: {}", l.value, l.file, reason(&e))),
        }
    }

    /// Moves process `pid` into the group, in every hierarchy, v2 first. On a quiet machine the first of these writes waits for all CPUs to
    /// pass a quiescent state (8 to 20 ms on Linux 6.18 with two CPUs), those right after it take 0.02 to 0.1 ms each: whoever makes the
    /// process should rather clone it into [`Group::unified_fd`] and have it call [`Group::attach_self`], together 0.5 ms.
    ///
    /// # Errors
    /// The first refusal; hierarchies after it are not tried.
    pub fn attach(&self, pid: i32) -> Result<(), Error> {
        self.valid()?;
        for dir in self.dirs() {
            let path = dir.join("cgroup.procs");
            files::write(&path, &pid.to_string()).map_err(|e| Error::io(format!("attach process {pid} to"), &path, e))?;
        }
        Ok(())
    }

    /// Moves the calling process, which must have a single thread, into the group: much cheaper than [`Group::attach`]. Writing `0` to a
    /// v1 `tasks` file moves the caller's thread alone, for which the kernel need not stop forks and exits on the whole machine first.
    /// v2 has no such file; `born` says that the caller was cloned into [`Group::unified_fd`], and then no write is made there.
    ///
    /// # Errors
    /// The first refusal; hierarchies after it are not tried.
    pub fn attach_self(&self, born: bool) -> Result<(), Error> {
        self.valid()?;
        for (root, version) in self.roots() {
            let file = match version {
                Version::One => "tasks",
                Version::Two if born => continue,
                Version::Two => "cgroup.procs",
            };
            let path = Path::new(root).join(&self.path).join(file);
            files::write(&path, "0").map_err(|e| Error::io("attach to", &path, e))?;
        }
        Ok(())
    }

    /// The group's directory, for `CLONE_INTO_CGROUP` (Linux 5.7), where v2 is all there is; `None` where v1 hierarchies must be joined too.
    pub fn dir_fd(&self) -> io::Result<Option<OwnedFd>> {
        if self.layout.kind() == Kind::V2 { self.unified_fd() } else { Ok(None) }
    }

    /// The group's directory in the v2 tree, also of a hybrid, whose v1 hierarchies a child cloned into it still has to join
    /// ([`Group::attach_self`]).
    pub fn unified_fd(&self) -> io::Result<Option<OwnedFd>> {
        use std::os::unix::fs::OpenOptionsExt;
        let Some(dir) = self.unified() else { return Ok(None) };
        let flags = libc::O_DIRECTORY | libc::O_PATH;
        Ok(Some(std::fs::OpenOptions::new().read(true).custom_flags(flags).open(dir)?.into()))
    }

    /// Processes in the group and its sub-groups, at most 32768 of them. Empty when the group does not exist.
    pub fn pids(&self) -> Vec<i32> {
        let Some(dir) = self.census() else { return Vec::new() };
        let mut out = Vec::new();
        for group in tree(&dir) {
            let Ok(raw) = crate::sys::fd::read_file(group.join("cgroup.procs"), 16 * MAX_PIDS) else { continue };
            out.extend(String::from_utf8_lossy(&raw).lines().filter_map(|l| l.trim().parse::<i32>().ok()).filter(|p| *p > 0));
            if out.len() > MAX_PIDS {
                break;
            }
        }
        out.truncate(MAX_PIDS);
        out.sort_unstable();
        out.dedup();
        out
    }

    /// The hierarchy that is asked who lives here: v2, where kill and freeze work too; else the freezer's; else the first.
    fn census(&self) -> Option<PathBuf> {
        self.unified().or_else(|| self.frozen_by()).or_else(|| self.dirs().into_iter().next())
    }

    /// Directory in the v1 freezer, where that is what freezes.
    fn frozen_by(&self) -> Option<PathBuf> {
        let root = if self.layout.unified.is_some() { None } else { self.layout.v1_mount("freezer") };
        root.map(|root| Path::new(root).join(&self.path))
    }

    /// Sends SIGKILL to everything in the group and its sub-groups, frozen or not, without waiting for it to die. Where the kernel lacks
    /// `cgroup.kill` (5.14), one pass over the list: repeat until [`Group::populated`] says no.
    ///
    /// # Errors
    /// When a process could not be signalled for another reason than being gone.
    pub fn kill(&self) -> io::Result<()> {
        if let Some(dir) = self.unified()
            && files::write(&dir.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        // A frozen group forks nothing while we walk it. A frozen task of v1 dies only once thawed.
        let _ = self.freeze(true);
        let killed = self.kill_listed();
        let _ = self.freeze(false);
        killed
    }

    /// A number from the list may belong to a stranger by the time it is used. So a pidfd is opened for each, the list is read again, and
    /// only those still on it are signalled: a stranger is not on it, and a newcomer's number makes the old pidfd answer ESRCH.
    fn kill_listed(&self) -> io::Result<()> {
        let mut result = Ok(());
        for some in self.pids().chunks(KILL_AT_ONCE) {
            let open: Vec<(i32, OwnedFd)> = some.iter().filter_map(|p| Some((*p, pidfd_open(*p).ok()?))).collect();
            let still: HashSet<i32> = self.pids().into_iter().collect();
            for (_, pidfd) in open.iter().filter(|(pid, _)| still.contains(pid)) {
                match pidfd_send(pidfd, libc::SIGKILL) {
                    Err(e) if e.raw_os_error() != Some(libc::ESRCH) => result = Err(e),
                    _ => {}
                }
            }
        }
        result
    }

    /// Freezes or thaws the group with its sub-groups. Returns before all is frozen: ask [`Group::frozen`]. v1 may never get there: a process
    /// that waits in vfork(2) for a child which was frozen before its exec cannot be frozen.
    ///
    /// # Errors
    /// `Unsupported` where neither version can.
    pub fn freeze(&self, on: bool) -> io::Result<()> {
        if let Some(dir) = self.unified() {
            return files::write(&dir.join("cgroup.freeze"), if on { "1" } else { "0" });
        }
        match self.frozen_by() {
            Some(dir) => files::write(&dir.join("freezer.state"), if on { "FROZEN" } else { "THAWED" }),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "no hierarchy of this machine can freeze")),
        }
    }

    /// Whether everything in the group is frozen; `None` where the kernel cannot say.
    pub fn frozen(&self) -> Option<bool> {
        if let Some(dir) = self.unified() {
            return parse::field(&files::read(&dir.join("cgroup.events")).ok()?, "frozen").map(|n| n == 1);
        }
        // Reading is also what moves a v1 group on from FREEZING.
        Some(files::read(&self.frozen_by()?.join("freezer.state")).ok()?.trim() == "FROZEN")
    }

    /// Whether any process, also a zombie's living thread, is in the group or its sub-groups. A group that does not exist is empty.
    pub fn populated(&self) -> bool {
        match self.unified() {
            Some(dir) => files::read(&dir.join("cgroup.events")).is_ok_and(|t| parse::field(&t, "populated") == Some(1)),
            None => !self.pids().is_empty(),
        }
    }

    /// The v2 file that changes (poll: `POLLPRI`, inotify: `IN_MODIFY`) when the group empties or its freezing is done.
    pub fn events_path(&self) -> Option<PathBuf> {
        self.unified().map(|dir| dir.join("cgroup.events"))
    }

    /// Removes the group with its sub-groups from every hierarchy, and the groups above it that are empty then, except the first part of
    /// the path. `false` when something still lives in it: try again later. A group that does not exist is removed.
    ///
    /// # Errors
    /// Any other refusal.
    pub fn remove(&self) -> io::Result<bool> {
        let gone = self.clear()?;
        self.roots().iter().for_each(|(root, _)| self.remove_empty_above(root));
        Ok(gone)
    }

    /// The same, but the groups above stay, for who will soon need them again: each costs as much to make and to remove as the group itself.
    ///
    /// # Errors
    /// As [`Group::remove`].
    pub fn clear(&self) -> io::Result<bool> {
        let mut gone = true;
        for dir in self.dirs() {
            // Few have sub-groups: the walk is for those.
            gone &= remove_one(&dir)? || remove_tree(&dir)?;
        }
        Ok(gone)
    }

    fn remove_empty_above(&self, root: &str) {
        let mut path = self.path.as_str();
        while let Some((above, _)) = path.rsplit_once('/') {
            // Others' groups in it, or its being gone already, end the climb.
            if !above.contains('/') || std::fs::remove_dir(Path::new(root).join(above)).is_err() {
                return;
            }
            path = above;
        }
    }
}

/// Deepest first: the walk lists every group before those below it.
fn remove_tree(dir: &Path) -> io::Result<bool> {
    let mut gone = true;
    for group in tree(dir).iter().rev() {
        gone &= remove_one(group)?;
    }
    Ok(gone)
}

fn remove_one(dir: &Path) -> io::Result<bool> {
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        // ENOTEMPTY: a sub-group appeared, or was beyond the bound of the walk.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The group and those below it, parents before children, at most [`MAX_GROUPS`].
pub(super) fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut out = vec![dir.to_owned()];
    let mut next = 0;
    while next < out.len() && out.len() < MAX_GROUPS {
        let entries = std::fs::read_dir(&out[next]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        out.extend(below);
        next += 1;
    }
    out.truncate(MAX_GROUPS);
    out
}

impl Layout {
    /// Names of the groups directly below `path`, in whichever hierarchy they are, each once.
    pub fn children(&self, path: &str) -> Vec<String> {
        let dirs = self.group(path).dirs();
        let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flat_map(|d| d.flatten().take(MAX_GROUPS));
        let groups = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        let mut names: Vec<String> = groups.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// mkdir -p of `path` below `root`, which must exist. Answers what was not there before.
pub(super) fn make_dirs(root: &str, path: &str) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    // The groups above are there as a rule: a neighbour lives in them, or they were kept.
    let leaf = Path::new(root).join(path);
    if std::fs::create_dir(&leaf).is_ok() {
        return Ok(vec![leaf]);
    }
    // A neighbour that is removed at this moment takes the level above along when it is empty: then begin again.
    const ATTEMPTS: usize = 8;
    let mut result = make_dirs_once(root, path);
    for _ in 1..ATTEMPTS {
        match &result {
            Err((dir, e)) if e.kind() == io::ErrorKind::NotFound && dir.parent() != Some(Path::new(root)) => {
                result = make_dirs_once(root, path);
            }
            _ => break,
        }
    }
    result
}

fn make_dirs_once(root: &str, path: &str) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let (mut dir, mut made) = (PathBuf::from(root), Vec::new());
    for part in path.split('/') {
        dir.push(part);
        match std::fs::create_dir(&dir) {
            Ok(()) => made.push(dir.clone()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err((dir, e)),
        }
    }
    Ok(made)
}

fn no_file(l: &Limit, version: Version, dir: &Path) -> String {
    match (version, l.file) {
        (_, "memory.swap.max" | "memory.memsw.limit_in_bytes") => "CONFIG_SWAP, or swapaccount=0 on the kernel command line".into(),
        (_, "cpu.max" | "cpu.cfs_quota_us" | "cpu.cfs_period_us") if dir.join("cpu.stat").exists() => "CONFIG_CFS_BANDWIDTH".into(),
        (Version::Two, _) => format!("controller {} is not switched on for {}", l.controller, dir.display()),
        (Version::One, file) => format!("{} has no {file}", dir.display()),
    }
}
