//! Control groups: what is mounted, which controllers and limits there are.

use super::system::{System, mounts, text};
use super::{Fact, Found, Level, State};
use crate::cgroup::{Kind, Layout};
use std::path::Path;

/// As in JSON.
pub fn word(layout: &Layout) -> &'static str {
    match layout.kind() {
        Kind::V1 if layout.v1.is_empty() => "none",
        Kind::V1 => "v1",
        Kind::V2 => "v2",
        Kind::Hybrid => "hybrid",
    }
}

/// What a probe tells of a fact about control groups.
pub fn probe(name: &str, system: &System, layout: &Layout) -> Option<Found> {
    Some(match name {
        "cgroup" => mounted(layout, &system.mountinfo),
        "cgroup memory" => controller(layout, "memory", "memory"),
        "cgroup cpu" => controller(layout, "cpu", "cpu"),
        // cpu.stat of v2 has the time used without any controller.
        "cgroup cpuacct" => controller(layout, "cpuacct", ""),
        "cgroup pids" => controller(layout, "pids", "pids"),
        "cgroup blkio" => controller(layout, "blkio", "io"),
        "cpuset" => controller(layout, "cpuset", "cpuset"),
        // v2 has it built in since Linux 5.2.
        "freezer" => controller(layout, "freezer", ""),
        "device rules" if on_v1(layout, "devices").is_some() => controller(layout, "devices", "devices"),
        "cpu quota" => quota(layout),
        "memory.swap" => swap(layout),
        "real-time groups off" if on_v1(layout, "cpu").is_some() => Found::present("the cpu controller is on v1, where they do no harm"),
        _ => return None,
    })
}

/// `cgroup.kill`, which no symbol decides.
pub fn kill(layout: &Layout) -> Fact {
    let place = below(layout, "cgroup.kill");
    let kill = match place {
        Some(_) => Found::present(""),
        // The root has no such files, so without any group there is nowhere to look.
        None if layout.unified.is_some() && below(layout, "cgroup.events").is_none() => Found::unknown(),
        None => Found::missing(""),
    };
    Fact::plain("cgroup.kill", Level::Wanted, kill, "groups are killed process by process (v2, Linux 5.14)")
}

fn mounted(layout: &Layout, mountinfo: &str) -> Found {
    let read_only = |options: &str| options.split(',').any(|o| o == "ro");
    match word(layout) {
        _ if mounts(mountinfo).any(|(_, kind, options, _)| kind.starts_with("cgroup") && read_only(options)) => {
            Found::missing("mounted read-only: this is itself an unprivileged container")
        }
        "none" => Found::missing("no hierarchy is mounted"),
        word => Found::present(word),
    }
}

fn on_v1<'a>(layout: &'a Layout, controller: &str) -> Option<&'a str> {
    layout.v1.iter().find(|(name, _)| name == controller).map(|(_, point)| point.as_str())
}

/// A controller by its name on v1 and on v2; an empty one is part of v2 itself.
fn controller(layout: &Layout, v1: &str, v2: &str) -> Found {
    let offered = layout.unified.is_some() && (v2.is_empty() || layout.controllers.iter().any(|c| c == v2));
    match (on_v1(layout, v1), offered) {
        (Some(point), _) => Found::present(format!("v1, {point}")),
        (None, true) => Found::present("v2"),
        (None, false) => Found::missing(""),
    }
}

fn quota(layout: &Layout) -> Found {
    limit(layout, ("cpu", "cpu.cfs_quota_us"), ("cpu.max", "cpu.weight"))
}

fn swap(layout: &Layout) -> Found {
    limit(layout, ("memory", "memory.memsw.limit_in_bytes"), ("memory.swap.max", "memory.max"))
}

/// A limit whose file not every kernel has. `v1`: controller and file. `v2`: the file, and one that each group with the controller has.
fn limit(layout: &Layout, v1: (&str, &str), v2: (&str, &str)) -> Found {
    let by = |found: Option<String>| found.map_or_else(|| Found::missing(""), Found::present);
    if let Some(point) = on_v1(layout, v1.0) {
        return by(Some(format!("{point}/{}", v1.1)).filter(|f| Path::new(f).exists()));
    }
    let found = below(layout, v2.0);
    let offered = layout.controllers.iter().any(|c| c == v1.0);
    if found.is_none() && offered && below(layout, v2.1).is_none() {
        return Found { state: State::Unknown, ..Found::present("the controller is not enabled for any group yet") };
    }
    by(found)
}

/// A file that v2 has in every group but the root: looked for in our own group, then in those directly below the root.
fn below(layout: &Layout, file: &str) -> Option<String> {
    const MOST: usize = 256;
    let root = layout.unified.as_ref()?;
    let own = text("/proc/self/cgroup").lines().find_map(|l| l.strip_prefix("0::").map(str::to_owned)).unwrap_or_default();
    let groups = std::fs::read_dir(root).ok()?.flatten().take(MOST).map(|e| e.path().to_string_lossy().into_owned());
    std::iter::once(format!("{root}{own}")).chain(groups).map(|group| format!("{group}/{file}")).find(|f| Path::new(f).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_groups_are_as_good_as_none() {
        let mounts = "1 1 0:1 / /c ro,nosuid - cgroup2 none rw\n";
        assert_eq!(mounted(&Layout::from_mountinfo(mounts, "").unwrap(), mounts).state, State::Missing);
    }

    #[test]
    fn a_limit_is_not_called_missing_before_its_controller_is_enabled() {
        let root = std::env::temp_dir().join(format!("wherry-check-{}", std::process::id()));
        let group = root.join("services");
        std::fs::create_dir_all(&group).unwrap();
        let layout = Layout { unified: Some(root.to_str().unwrap().into()), controllers: vec!["cpu".into()], ..Layout::default() };
        let mut states = vec![quota(&layout).state];
        for file in ["cpu.weight", "cpu.max"] {
            std::fs::write(group.join(file), "").unwrap();
            states.push(quota(&layout).state);
        }
        states.push(swap(&layout).state);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(states, [State::Unknown, State::Missing, State::Present, State::Missing]);
    }
}
