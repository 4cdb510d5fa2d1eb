//! Which cgroup hierarchies this machine has, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! File system type and super options decide, never the kernel's version: the same kernel is mounted in all three ways.

use super::error::Error;
use super::files;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Longest mountinfo that is read; a line is some 100 bytes.
const MAX_MOUNTINFO: usize = 1024 * 1024;

/// The v1 controllers of Linux. A v1 mount's super options also hold flags (`rw`, `xattr`, `release_agent=…`) and names (`name=systemd`).
const V1: [&str; 14] = [
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "freezer",
    "devices",
    "cpuset",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

/// v1 controllers from which limits or figures come; one of them mounted beside v2 makes a hybrid.
const LIMITING: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "blkio"];

/// The hierarchies, by where they are mounted. The default has none: its groups can be made and asked, and every limit and figure is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Each v1 controller (`memory`, `cpu`, `cpuacct`, `pids`, `blkio`, `freezer`, `devices`, `cpuset`, …) with its mount
    /// point; two controllers may share one.
    pub v1: Vec<(String, String)>,
    /// Mount point of the v2 hierarchy.
    pub unified: Option<String>,
    /// Controllers that the v2 root offers (`cgroup.controllers`); on a hybrid those that no v1 hierarchy has.
    pub controllers: Vec<String>,
}

/// Which versions are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Controllers in version 1 hierarchies, no version 2.
    V1,
    /// Version 2 alone.
    V2,
    /// Limits and figures from version 1; kill, freeze and pressure from version 2.
    Hybrid,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        })
    }
}

impl Layout {
    /// The hierarchies of the mount namespace that we are in.
    ///
    /// # Errors
    /// [`Error::NoHierarchy`] when nothing is mounted; I/O when `/proc` cannot be read.
    pub fn detect() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let raw = crate::sys::fd::read_file(path, MAX_MOUNTINFO).map_err(|e| Error::io("read", path, e))?;
        Self::from_mountinfo(&String::from_utf8_lossy(&raw), "")?.with_controllers()
    }

    /// The hierarchies that a mountinfo text names, their mount points taken below the directory `root` (empty on a running system).
    /// Pure: [`Layout::controllers`] is left empty.
    ///
    /// # Errors
    /// [`Error::NoHierarchy`].
    pub fn from_mountinfo(text: &str, root: &str) -> Result<Self, Error> {
        let mounts: Vec<Mount<'_>> = text.lines().filter_map(Mount::parse).collect();
        // A mount of the hierarchy's own root before one of a part of it; else the order of the file.
        let mut seen: Vec<&Mount<'_>> = mounts.iter().filter(|m| m.fs.starts_with("cgroup") && visible(m, &mounts)).collect();
        seen.sort_by_key(|m| m.root != "/");
        let place = |m: &Mount<'_>| format!("{root}{}", unescape(m.point));
        let unified = seen.iter().find(|m| m.fs == "cgroup2").map(|m| place(m));
        let mut v1: Vec<(String, String)> = Vec::new();
        for m in seen.iter().filter(|m| m.fs == "cgroup") {
            for option in m.options.split(',').filter(|o| V1.contains(o)) {
                if !v1.iter().any(|(c, _)| c == option) {
                    v1.push((option.to_owned(), place(m)));
                }
            }
        }
        v1.sort_by_key(|(c, _)| V1.iter().position(|k| k == c));
        let layout = Self { v1, unified, controllers: Vec::new() };
        if layout.v1.is_empty() && layout.unified.is_none() { Err(Error::NoHierarchy) } else { Ok(layout) }
    }

    /// Fills in [`Layout::controllers`] from the v2 root.
    ///
    /// # Errors
    /// I/O when `cgroup.controllers` cannot be read.
    pub fn with_controllers(mut self) -> Result<Self, Error> {
        if let Some(root) = &self.unified {
            let path = Path::new(root).join("cgroup.controllers");
            let text = files::read(&path).map_err(|e| Error::io("read", &path, e))?;
            self.controllers = text.split_ascii_whitespace().map(str::to_owned).collect();
        }
        Ok(self)
    }

    /// Which versions are in use.
    pub fn kind(&self) -> Kind {
        match &self.unified {
            None => Kind::V1,
            Some(_) if LIMITING.iter().any(|c| self.v1_mount(c).is_some()) => Kind::Hybrid,
            Some(_) => Kind::V2,
        }
    }

    /// For people: `hybrid: memory cpu cpuacct pids blkio on v1; kill, freeze and pressure on v2`.
    pub fn describe(&self) -> String {
        let old: Vec<&str> = LIMITING.into_iter().filter(|c| self.v1_mount(c).is_some()).collect();
        let new: Vec<&str> = super::prepare::WANTED.into_iter().filter(|c| self.controllers.iter().any(|k| k == c)).collect();
        let list = |names: &[&str]| if names.is_empty() { "no controller".to_owned() } else { names.join(" ") };
        match self.kind() {
            Kind::V1 if old.is_empty() => "none".to_owned(),
            Kind::V1 => format!("v1: {}", list(&old)),
            Kind::V2 => format!("v2: {}", list(&new)),
            Kind::Hybrid => {
                let also = new.iter().map(|c| format!("{c}, ")).collect::<String>();
                format!("hybrid: {} on v1; {also}kill, freeze and pressure on v2", list(&old))
            }
        }
    }

    /// Mount point of a v1 controller.
    pub(super) fn v1_mount(&self, controller: &str) -> Option<&str> {
        self.v1.iter().find(|(c, _)| c == controller).map(|(_, at)| at.as_str())
    }
}

/// The fields of one mountinfo line that matter here.
struct Mount<'a> {
    id: u32,
    parent: u32,
    /// Which directory of the file system is mounted; below a cgroup namespace it may start with `/..`.
    root: &'a str,
    /// Still octal-escaped.
    point: &'a str,
    fs: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /root /point rw,noatime [optional fields …] - type source super,options`
    fn parse(line: &'a str) -> Option<Self> {
        // Spaces in paths are escaped as \040, so ` - ` can only be the separator.
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let (id, parent) = (left.next()?.parse().ok()?, left.next()?.parse().ok()?);
        let (root, point) = (left.nth(1)?, left.next()?);
        let mut right = right.split(' ');
        Some(Self { id, parent, root, point, fs: right.next()?, options: right.nth(1).unwrap_or("") })
    }
}

/// Whether a path reaches this mount: a tmpfs mounted later over `/sys/fs/cgroup` (as cgroupfs-mount does) hides the v2 tree below it.
fn visible(mount: &Mount<'_>, all: &[Mount<'_>]) -> bool {
    if all.iter().any(|n| n.parent == mount.id && n.id != mount.id && n.point == mount.point) {
        return false;
    }
    // A sibling on a directory above was mounted later: had it been there first, it would be the parent.
    let mut at = mount;
    for _ in 0..all.len() {
        if all.iter().any(|n| n.parent == at.parent && n.id != at.id && n.id != at.parent && above(n.point, at.point)) {
            return false;
        }
        match all.iter().find(|n| n.id == at.parent && n.id != at.id) {
            Some(parent) => at = parent,
            None => return true,
        }
    }
    true
}

/// Whether `dir` is a directory strictly above `path`.
fn above(dir: &str, path: &str) -> bool {
    let dir = dir.trim_end_matches('/');
    path.strip_prefix(dir).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

/// Undoes `\040` (space), `\011`, `\012`, `\134`.
fn unescape(s: &str) -> String {
    let bytes = s.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\').then(|| bytes.get(i + 1..i + 4)).flatten();
        match octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Kind, Layout};

    const BASE: &str = "1 0 0:1 / / rw - squashfs /dev/root ro\n23 1 0:20 / /sys rw - sysfs sysfs rw\n";

    fn layout(lines: &str) -> Layout {
        Layout::from_mountinfo(&format!("{BASE}{lines}"), "").unwrap()
    }

    #[test]
    fn a_single_v2_mount_is_v2() {
        let l = layout("30 23 0:25 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!((l.kind(), l.unified.as_deref()), (Kind::V2, Some("/sys/fs/cgroup")));
    }

    #[test]
    fn the_old_single_v1_mount_has_every_controller_at_one_place() {
        let l = layout("30 23 0:25 / /sys/fs/cgroup rw - cgroup cgroup rw,cpuset,cpu,cpuacct,blkio,memory,devices,freezer,pids\n");
        assert_eq!(l.kind(), Kind::V1);
        assert_eq!(l.v1.len(), 8);
        assert!(l.v1.iter().all(|(_, at)| at == "/sys/fs/cgroup"));
    }

    #[test]
    fn named_hierarchies_and_flags_are_not_controllers() {
        let l = layout(
            "30 23 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
             31 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        );
        assert_eq!(l.v1, [("memory".to_owned(), "/sys/fs/cgroup/memory".to_owned())]);
    }

    #[test]
    fn a_v2_tree_hidden_by_a_later_tmpfs_is_not_there() {
        let l = layout(
            "30 23 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 30 0:26 / /sys/fs/cgroup rw - tmpfs cgroup rw\n\
             32 31 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        );
        assert_eq!((l.kind(), l.unified), (Kind::V1, None));
    }

    #[test]
    fn a_tree_below_a_directory_mounted_over_later_is_not_there() {
        let l = layout(
            "30 23 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 23 0:26 / /sys/fs rw - tmpfs tmpfs rw\n\
             32 1 0:27 / /cg rw - cgroup cgroup rw,memory\n",
        );
        assert_eq!((l.kind(), l.unified), (Kind::V1, None));
    }

    #[test]
    fn v2_beside_a_v1_controller_without_limits_stays_v2() {
        let l = layout(
            "30 23 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 30 0:26 / /sys/fs/cgroup/net_cls rw - cgroup net_cls rw,net_cls\n",
        );
        assert_eq!(l.kind(), Kind::V2);
    }

    #[test]
    fn escapes_in_a_mount_point_are_undone() {
        let l = layout("30 23 0:25 / /mnt/my\\040group\\134s rw - cgroup2 none rw\n");
        assert_eq!(l.unified.as_deref(), Some("/mnt/my group\\s"));
    }

    #[test]
    fn the_hierarchy_root_is_preferred_to_a_part_of_it() {
        let l = layout(
            "30 23 0:25 /docker/abc /mnt/part rw - cgroup2 none rw\n31 23 0:25 / /sys/fs/cgroup rw - cgroup2 none rw\n\
             32 23 0:26 /docker/abc /cg/memory rw - cgroup none rw,memory\n",
        );
        assert_eq!(l.unified.as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(l.v1, [("memory".to_owned(), "/cg/memory".to_owned())]);
    }

    #[test]
    fn a_machine_without_control_groups_is_refused() {
        let error = Layout::from_mountinfo(BASE, "").unwrap_err().to_string();
        assert!(error.starts_with("cannot find control groups"), "{error}");
    }

    #[test]
    fn lines_that_are_not_mountinfo_are_skipped() {
        for junk in ["", " - ", "1 2 3", "x y 0:1 / / rw - cgroup2 none rw", "1 0 0:1 / /a rw - cgroup2"] {
            let _ = Layout::from_mountinfo(junk, "");
        }
        assert!(Layout::from_mountinfo("x 1 0:1 / /a rw - cgroup2 none rw\n", "").is_err());
    }
}
