//! Our parent group in every hierarchy, and switching v2 controllers on.

use super::error::{Error, reason};
use super::group::{Version, make_dirs};
use super::{Layout, files};
use nix::libc;
use std::io;
use std::path::{Path, PathBuf};

/// v2 controllers from which limits or figures come.
pub(super) const WANTED: [&str; 4] = ["memory", "cpu", "pids", "io"];

impl Layout {
    /// Makes the group `parent` (`wherry`) in every hierarchy that we use and switches the v2 controllers on for its children. Answers the
    /// controllers that this kernel or machine withholds, with why.
    ///
    /// Below the root, the root's own switches are ours to turn, and so are those of every group that was not there before. A parent deeper
    /// down that was there has been delegated to us (systemd's `Delegate=`): what is above it belongs to whoever did so.
    ///
    /// # Errors
    /// When the group cannot be made.
    pub fn prepare(&self, parent: &str) -> Result<Vec<(String, String)>, Error> {
        let made = self.group(parent).make()?.levels;
        let mut missing = self.absent();
        if let Some(memory) = self.v1_mount("memory") {
            account_sub_groups(&Path::new(memory).join(parent));
        }
        if let Some(root) = &self.unified {
            for (controller, why) in self.enable(&levels(Path::new(root), parent, &made)) {
                if !missing.iter().any(|(c, _)| *c == controller) {
                    missing.push((controller, why));
                }
            }
        }
        Ok(missing)
    }

    /// Controllers that no hierarchy has.
    fn absent(&self) -> Vec<(String, String)> {
        let there = |v2: &str, v1: &[&str]| self.controllers.iter().any(|c| c == v2) || v1.iter().all(|c| self.v1_mount(c).is_some());
        [("memory", &["memory"][..]), ("cpu", &["cpu", "cpuacct"]), ("pids", &["pids"]), ("io", &["blkio"])]
            .iter()
            .filter(|(v2, v1)| !there(v2, v1))
            .map(|(v2, _)| ((*v2).to_owned(), symbol(v2).to_owned()))
            .collect()
    }

    /// Switches the controllers that the v2 root offers on in each of `levels`, topmost first, so that their children have them.
    /// One at a time: a single write of several is refused as a whole when one of them is.
    pub(super) fn enable(&self, levels: &[PathBuf]) -> Vec<(String, String)> {
        let mut refused: Vec<(String, String)> = Vec::new();
        let offered: Vec<&str> = WANTED.into_iter().filter(|c| self.controllers.iter().any(|k| k == c)).collect();
        for dir in levels.iter().filter(|_| !offered.is_empty()) {
            let on = files::read(&dir.join("cgroup.subtree_control")).unwrap_or_default();
            for controller in &offered {
                let known = on.split_ascii_whitespace().any(|c| c == *controller) || refused.iter().any(|(c, _)| c == controller);
                if !known && let Err(e) = files::write(&dir.join("cgroup.subtree_control"), &format!("+{controller}")) {
                    refused.push(((*controller).to_owned(), refusal(controller, dir, &e)));
                }
            }
        }
        refused
    }
}

/// The directories whose switches are ours, topmost first, when `made` of the parent's path were not there before.
fn levels(root: &Path, parent: &str, made: &[PathBuf]) -> Vec<PathBuf> {
    let dir = root.join(parent);
    let top = made.first().unwrap_or(&dir);
    let above = (top.parent() == Some(root)).then(|| root.to_owned());
    let ours = if made.is_empty() { vec![dir] } else { made.to_vec() };
    above.into_iter().chain(ours).collect()
}

/// The kernel option behind a v2 controller.
pub(super) fn symbol(controller: &str) -> &'static str {
    match controller {
        "memory" => "CONFIG_MEMCG, or cgroup_disable=memory on the kernel command line",
        "cpu" => "CONFIG_CGROUP_SCHED",
        "pids" => "CONFIG_CGROUP_PIDS",
        _ => "CONFIG_BLK_CGROUP",
    }
}

/// Why the kernel refused `+controller` in `dir`.
fn refusal(controller: &str, dir: &Path, e: &io::Error) -> String {
    match e.raw_os_error() {
        // Documentation/admin-guide/cgroup-v2.rst, "CPU": with RT_GROUP_SCHED all real-time processes must be in the root group.
        Some(libc::EINVAL) if controller == "cpu" => "a real-time process runs outside the root group (CONFIG_RT_GROUP_SCHED)".into(),
        Some(libc::EBUSY) => format!("processes live in {} itself, so it cannot pass controllers on", dir.display()),
        Some(libc::ENOENT) => format!("{} is not given it by its parent group", dir.display()),
        Some(libc::EOPNOTSUPP) => format!("{} is a threaded group", dir.display()),
        _ => format!("{}: {}", dir.display(), reason(e)),
    }
}

/// Before 5.11 a v1 memory group counted its sub-groups only if told so before it had any. Later kernels always do, and have the file
/// for show; a refusal changes nothing that could be helped.
fn account_sub_groups(dir: &Path) {
    let file = dir.join("memory.use_hierarchy");
    if files::read(&file).is_ok_and(|v| v.trim() == "0") {
        let _ = files::write(&file, "1");
    }
}

/// What [`Group::make`](super::Group) found not to be there before.
pub(super) struct Made {
    /// v2 directories, topmost first.
    pub levels: Vec<PathBuf>,
    /// The group itself was nowhere.
    pub leaf: bool,
}

impl super::Group {
    /// mkdir -p in every hierarchy.
    pub(super) fn make(&self) -> Result<Made, Error> {
        self.valid()?;
        let mut out = Made { levels: Vec::new(), leaf: true };
        for (root, version) in self.roots() {
            let made = make_dirs(root, self.path()).map_err(|(dir, e)| Error::io("create group", &dir, e))?;
            out.leaf &= made.last() == Some(&Path::new(root).join(self.path()));
            if version == Version::Two {
                out.levels = made;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::{levels, refusal};
    use nix::libc;
    use std::io;
    use std::path::{Path, PathBuf};

    #[test]
    fn switches_above_a_group_that_was_there_are_left_alone() {
        let at = |paths: &[&str]| paths.iter().map(|p| Path::new("/cg").join(p)).collect::<Vec<PathBuf>>();
        for (parent, made, ours) in [
            ("wherry", &["wherry"][..], &["", "wherry"][..]),
            ("wherry", &[], &["", "wherry"]),
            ("apps/wherry", &["apps", "apps/wherry"], &["", "apps", "apps/wherry"]),
            ("apps/wherry", &["apps/wherry"], &["apps/wherry"]),
            ("system.slice/wherry.service", &[], &["system.slice/wherry.service"]),
            ("a/b/c", &["a/b", "a/b/c"], &["a/b", "a/b/c"]),
        ] {
            assert_eq!(levels(Path::new("/cg"), parent, &at(made)), at(ours), "{parent}, made {made:?}");
        }
    }

    #[test]
    fn each_refusal_of_a_controller_says_what_stands_in_the_way() {
        let cases = [
            ("cpu", libc::EINVAL, "a real-time process runs outside the root group (CONFIG_RT_GROUP_SCHED)"),
            ("memory", libc::EINVAL, "/g: Invalid argument"),
            ("pids", libc::EBUSY, "processes live in /g itself, so it cannot pass controllers on"),
            ("io", libc::ENOENT, "/g is not given it by its parent group"),
            ("cpu", libc::EOPNOTSUPP, "/g is a threaded group"),
            ("io", libc::EACCES, "/g: Permission denied"),
        ];
        for (controller, errno, why) in cases {
            assert_eq!(refusal(controller, Path::new("/g"), &io::Error::from_raw_os_error(errno)), why);
        }
    }
}
