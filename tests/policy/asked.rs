//! What somebody who has the agent might ask of keeper: documents with everything that could be had, in any mixture.

use crate::harness::{Value, json};
use std::path::Path;

/// SplitMix64: the same numbers for the same seed, everywhere.
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of these.
    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One container, mostly modest; each wish that policy may forbid comes up now and then.
pub fn container(dice: &mut Dice, image: &str, private: &Path) -> Value {
    let mut c = json!({"image": {"ref": image}, "command": ["/bin/sleep", "1000"]});
    let mut wish = |field: &str, value: Value| c[field] = value;
    let private = private.display();
    if dice.once_in(5) {
        wish("network", json!({"mode": dice.of(&["host", "none"])}));
    }
    // Most capabilities that a container has by default are more than this policy allows.
    let names = ["CHOWN", "NET_BIND_SERVICE", "KILL", "NET_ADMIN", "SYS_ADMIN", "SYS_MODULE", "ALL", "MKNOD", "NET_RAW"];
    let greed = if dice.once_in(4) { names.len() } else { 3 };
    let some: Vec<&str> = (0..dice.below(3)).map(|_| names[dice.below(greed)]).collect();
    let mut security = json!({"capabilities": {"add": some, "drop": if dice.once_in(8) { json!([]) } else { json!(["ALL"]) }}});
    if dice.once_in(6) {
        security["seccomp"] = json!(dice.of(&["unconfined", "default"]));
    }
    if dice.once_in(6) {
        security["no_new_privileges"] = json!(dice.once_in(2));
    }
    wish("security", security);
    if dice.once_in(5) {
        let source = dice.of(&[&*format!("{private}"), "/", "/etc", "/proc", &*format!("{private}/../data"), "/dev", "/sys"]).to_owned();
        wish("mounts", json!([{"type": "bind", "source": source, "target": "/mnt"}]));
    }
    if !dice.once_in(6) {
        let max = dice.of(&["4M", "8M", "16M", "900M", "100G"]);
        wish("resources", json!({"memory": {"max": max}}));
    }
    if dice.once_in(6) {
        let elsewhere = dice.of(&["rootfs:/etc/passwd", "oci:/", "squashfs:/dev/mem", "rootfs:/proc/self/environ"]);
        wish("image", json!({"ref": elsewhere}));
    }
    if dice.once_in(8) {
        wish("devices", json!([{"path": dice.of(&["/dev/mem", "/dev/mtd0", "/dev/kmsg"]), "access": "rw"}]));
    }
    if dice.once_in(8) {
        wish("user", json!(dice.of(&["0:0", "1000:1000", "0"])));
    }
    c
}
