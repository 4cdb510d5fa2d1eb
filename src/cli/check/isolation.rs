//! How far ids inside containers are kept apart from those of the device: what this kernel could give, and what is in force.

use super::system::mounts;
use serde_json::{Value, json};

/// Where ids of containers can be shifted by the mount (`FS_ALLOW_IDMAP`), and since which Linux. Never UBIFS, JFFS2, or an overlay.
const SHIFTING: [(&str, (u32, u32)); 8] = [
    ("ext4", (5, 12)),
    ("vfat", (5, 12)),
    ("xfs", (5, 12)),
    ("btrfs", (5, 15)),
    ("f2fs", (5, 18)),
    ("erofs", (5, 19)),
    ("squashfs", (6, 2)),
    ("tmpfs", (6, 3)),
];

/// The highest level that this kernel could give. Pure.
///
/// `users`: user namespaces can be made; `kind`: the file system of the data directory.
pub fn possible(users: bool, mount_setattr: bool, version: (u32, u32), kind: &str) -> &'static str {
    let shifts = SHIFTING.iter().any(|(name, since)| *name == kind && version >= *since);
    match (users, mount_setattr && shifts && version >= (5, 19)) {
        (false, _) => "none",
        (true, true) => "idmapped",
        (true, false) => "shifted",
    }
}

/// The file system that a directory lies on, or will once it is made.
pub fn kind_of<'a>(mountinfo: &'a str, directory: &str) -> &'a str {
    let holds = |point: &str| point == "/" || directory == point || directory.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'));
    // Of two mounts on one point the later one counts.
    mounts(mountinfo).filter(|(point, ..)| holds(point)).max_by_key(|(point, ..)| point.len()).map_or("", |(_, kind, ..)| kind)
}

/// As for programs.
pub fn document(possible: &str, directory: &str, kind: &str) -> Value {
    json!({"in_force": "none", "possible": possible, "data_dir": directory, "file_system": kind})
}

/// As for people.
pub fn sentence(possible: &str, directory: &str, kind: &str) -> String {
    let could = match possible {
        "idmapped" => "ids of each container's own, by idmapped layers",
        "shifted" => "one shifted range of ids for all containers",
        _ => "none",
    };
    format!("isolation of ids: none in force (not offered yet); possible with {kind} at {directory}: {could}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idmapped_layers_take_a_new_kernel_and_a_file_system_that_can() {
        for (users, call, version, kind, level) in [
            (true, true, (6, 1), "ext4", "idmapped"),
            (true, true, (5, 19), "f2fs", "idmapped"),
            (true, true, (5, 15), "ext4", "shifted"),
            (true, true, (6, 1), "tmpfs", "shifted"),
            (true, true, (6, 3), "tmpfs", "idmapped"),
            (true, true, (6, 18), "ubifs", "shifted"),
            (true, true, (6, 18), "jffs2", "shifted"),
            (true, true, (6, 18), "overlay", "shifted"),
            (true, true, (6, 18), "", "shifted"),
            (true, false, (6, 18), "ext4", "shifted"),
            (false, true, (6, 18), "ext4", "none"),
        ] {
            assert_eq!(possible(users, call, version, kind), level, "{version:?} {kind} {users} {call}");
        }
    }

    #[test]
    fn the_file_system_of_a_directory_is_that_of_the_nearest_mount() {
        let mounts = "1 1 0:1 / / rw - overlay o rw\n2 1 0:2 / /overlay rw - ubifs u rw\n3 1 0:3 / /over rw - tmpfs t rw\n\
            4 1 0:4 / /overlay rw - ext4 x rw\n";
        for (directory, kind) in
            [("/overlay/wherry", "ext4"), ("/overlay", "ext4"), ("/overlays", "overlay"), ("/over", "tmpfs"), ("/", "overlay")]
        {
            assert_eq!(kind_of(mounts, directory), kind, "{directory}");
        }
        assert_eq!(kind_of("", "/"), "");
    }
}
