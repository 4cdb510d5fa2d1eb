//! `wherry check` on this machine, whole and with parts hidden, beside lxc-checkconfig; and that all that is made of `board/kernel` agrees with it.
//!
//! Parts are hidden in a mount namespace of the test's own, so it needs root.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn binary() -> PathBuf {
    std::env::var_os("WHERRY_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_wherry")), PathBuf::from)
}

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The answer of `wherry check --json`, after `script` has changed what it sees, and its exit code.
fn after(script: &str) -> (Value, i32) {
    let script = format!("set -e\n{script}\nexec \"$0\" check --json");
    let out = unshared(&script);
    let code = out.status.code().unwrap();
    (serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {script}: {}", String::from_utf8_lossy(&out.stderr))), code)
}

fn unshared(script: &str) -> Output {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(binary()).output().unwrap()
}

fn facts(document: &Value) -> BTreeMap<&str, &Value> {
    document["facts"].as_array().unwrap().iter().map(|f| (f["name"].as_str().unwrap(), f)).collect()
}

// ---- this machine ----

#[test]
fn this_machine_has_all_that_is_required_and_each_fact_has_every_field() {
    let (document, code) = after("");
    assert_eq!((code, &document["usable"]), (0, &Value::Bool(true)), "{document}");
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&document), "cgroup facts isolation kernel usable");
    assert_eq!(keys(&document["isolation"]), "data_dir file_system in_force possible");
    // Containers have no user namespaces: whatever the kernel could give, nothing is in force.
    assert_eq!(document["isolation"]["in_force"], "none");
    for (name, fact) in facts(&document) {
        assert_eq!(keys(fact), "kconfig level meaning name openwrt source state yocto", "{name}");
        let of = |field: &str| fact[field].as_str().unwrap();
        assert!(of("level") != "required" || of("state") == "present", "{fact}");
        assert_eq!(of("kconfig").is_empty(), of("yocto").is_empty(), "{fact}");
        assert_eq!(of("source").is_empty(), of("state") == "unknown", "{fact}");
    }
}

#[test]
fn the_table_for_people_names_a_switch_for_whatever_is_missing() {
    let hide = "mount -t tmpfs none /dev\nsed /overlay/d /proc/filesystems >/dev/list\nmount --bind /dev/list /proc/filesystems";
    let out = unshared(&format!("set -e\n{hide}\nexec \"$0\" check"));
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    let lines = |name: &str| text.lines().filter(|l| l.starts_with(name)).map(str::to_owned).collect::<Vec<_>>().join("");
    for (name, words) in [
        ("overlay file system", ["MISSING", "no image can be mounted", "CONFIG_OVERLAY_FS", "in every kernel", "wherry-required.cfg"]),
        ("pseudoterminals", ["missing", "no `exec -t`", "CONFIG_UNIX98_PTYS", "in every kernel", "wherry-wanted.cfg"]),
    ] {
        assert!(words.iter().all(|word| lines(name).contains(word)), "{name}: {text}");
    }
    assert!(text.contains("isolation of ids: none in force") && text.ends_with("\ncontainers cannot run here: see MISSING\n"), "{text}");
}

// ---- with parts hidden ----

/// Puts a file of this text over another one.
fn over(file: &str, text: &str) -> String {
    format!("mount -t tmpfs none /mnt\nprintf '{text}' >/mnt/text\nmount --bind /mnt/text {file}")
}

#[test]
fn what_is_hidden_or_switched_off_changes_its_fact_and_the_exit_code_where_it_is_required() {
    let overlay = "mount -t tmpfs none /mnt\nsed /overlay/d /proc/filesystems >/mnt/list\nmount --bind /mnt/list /proc/filesystems";
    let cgroup = fs::read_to_string("/proc/mounts").unwrap();
    let cgroup = cgroup.lines().find(|l| l.split(' ').nth(2).is_some_and(|k| k.starts_with("cgroup"))).unwrap().split(' ').nth(1).unwrap();
    let off = |name: &str| over(&format!("/proc/sys/{name}"), "0");
    for (script, name, state, code) in [
        (format!("mount -o remount,ro,bind {cgroup}"), "cgroup", "missing", 1),
        (overlay.into(), "overlay file system", "missing", 1),
        (off("user/max_user_namespaces"), "user namespace", "missing", 1),
        (off("user/max_pid_namespaces"), "pid namespace", "missing", 1),
        (over("/proc/sys/kernel/seccomp/actions_avail", "kill_process errno allow"), "seccomp filter", "degraded", 0),
        ("mount -t tmpfs none /dev".into(), "pseudoterminals", "missing", 0),
        ("umount -l /sys/fs/cgroup".into(), "cgroup", "missing", 1),
    ] {
        let (document, ended) = after(&script);
        assert_eq!((&facts(&document)[name]["state"], ended), (&Value::from(state), code), "{script}: {}", facts(&document)[name]);
        assert_eq!(document["usable"], code == 0, "{script}");
    }
}

#[test]
fn where_no_probe_tells_the_configuration_does_and_without_it_nothing() {
    let config = |text: &str| {
        format!("mount -t tmpfs none /mnt\nprintf '{text}' | gzip >/mnt/config.gz\nmount --bind /mnt/config.gz /proc/config.gz")
    };
    if !Path::new("/proc/config.gz").exists() {
        return eprintln!("skipped: this kernel has no /proc/config.gz");
    }
    for (text, state, source) in [
        ("CONFIG_SQUASHFS_XZ=y\\n", "present", "/proc/config.gz"),
        ("CONFIG_SQUASHFS_XZ=m\\n", "degraded", "/proc/config.gz"),
        ("# CONFIG_SQUASHFS_XZ is not set\\n", "missing", "/proc/config.gz"),
    ] {
        let (document, _) = after(&config(text));
        let fact = facts(&document)["squashfs xz"].clone();
        assert_eq!((&fact["state"], &fact["source"]), (&Value::from(state), &Value::from(source)), "{text}: {fact}");
        // What is probed does not depend on it.
        assert_eq!(facts(&document)["user namespace"]["source"], "probe");
    }
    let (document, code) = after("mount --bind /dev/null /proc/config.gz\n[ ! -d /boot ] || mount -t tmpfs none /boot");
    let fact = facts(&document)["squashfs xz"];
    assert_eq!((&fact["state"], &fact["source"], code), (&Value::from("unknown"), &Value::from(""), 0), "{fact}");
    assert_eq!(facts(&document)["kernel configuration"]["state"], "missing");
}

#[test]
fn somebody_else_than_root_learns_what_takes_root() {
    let (document, code) = after("exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" check --json");
    let facts = facts(&document);
    assert_eq!((code, &facts["privilege"]["state"]), (0, &Value::from("degraded")));
    assert_ne!(facts["tmpfs attributes"]["source"], "probe", "that takes CAP_SYS_ADMIN");
}

// ---- beside lxc-checkconfig ----

/// Its word for a feature, and ours.
const BOTH: [(&str, &str); 17] = [
    ("Namespaces", "mnt namespace"),
    ("Utsname namespace", "uts namespace"),
    ("Ipc namespace", "ipc namespace"),
    ("Pid namespace", "pid namespace"),
    ("User namespace", "user namespace"),
    ("Network namespace", "net namespace"),
    ("Cgroups", "cgroup"),
    ("Cgroup namespace", "cgroup namespace"),
    ("Cgroup device", "device rules"),
    ("Cgroup sched", "cgroup cpu"),
    ("Cgroup cpu account", "cgroup cpuacct"),
    ("Cgroup memory controller", "cgroup memory"),
    ("Cgroup cpuset", "cpuset"),
    ("Veth pair device", "veth"),
    ("Macvlan", "macvlan"),
    ("Vlan", "vlan"),
    ("Bridges", "bridge"),
];

/// What it tells and we do not.
const ITS_OWN: [(&str, &str); 14] = [
    ("Advanced netfilter", "a menu of the configuration, no feature"),
    ("CONFIG_IP_NF_TARGET_MASQUERADE", "iptables: Wherry will use nf_tables"),
    ("CONFIG_IP6_NF_TARGET_MASQUERADE", "iptables"),
    ("CONFIG_NETFILTER_XT_TARGET_CHECKSUM", "iptables"),
    ("CONFIG_NETFILTER_XT_MATCH_COMMENT", "iptables"),
    ("FUSE (for use with lxcfs)", "no lxcfs"),
    ("checkpoint restore", "no checkpoints"),
    ("CONFIG_FHANDLE", "for checkpoints"),
    ("CONFIG_EVENTFD", "without it Wherry does not come so far as to check"),
    ("CONFIG_EPOLL", "one of several behind our event descriptors"),
    ("CONFIG_UNIX_DIAG", "for checkpoints"),
    ("CONFIG_INET_DIAG", "for checkpoints"),
    ("CONFIG_PACKET_DIAG", "for checkpoints"),
    ("CONFIG_NETLINK_DIAG", "for checkpoints"),
];

/// Feature → enabled, as lxc-checkconfig prints it without its colours.
fn lxc() -> BTreeMap<String, bool> {
    let out = Command::new("lxc-checkconfig").env("TERM", "dumb").output().expect("lxc is installed");
    let text = String::from_utf8(out.stdout).unwrap();
    let plain: String =
        text.split('\x1b').map(|part| part.strip_prefix('[').and_then(|p| p.split_once('m')).map_or(part, |(_, p)| p)).collect();
    let word = |line: &str| {
        let (name, rest) = line.rsplit_once(": ")?;
        let word = rest.split([',', ' ']).next()?;
        matches!(word, "enabled" | "missing" | "required").then(|| (name.to_owned(), word == "enabled"))
    };
    plain.lines().filter_map(word).collect()
}

#[test]
fn check_agrees_with_lxc_checkconfig_where_both_look() {
    let theirs = lxc();
    assert!(theirs.len() > 15, "{theirs:?}");
    let (document, _) = after("");
    let ours = facts(&document);
    for (name, enabled) in &theirs {
        if let Some((_, fact)) = BOTH.iter().find(|(theirs, _)| theirs == name) {
            let there = matches!(ours[fact]["state"].as_str(), Some("present" | "degraded"));
            assert_eq!(there, *enabled, "{name}: {}", ours[fact]);
        } else {
            let known = ITS_OWN.iter().any(|(theirs, _)| theirs == name) || name.starts_with("Cgroup v") || name == "File capabilities";
            assert!(known, "{name}: say here whether check should tell it");
        }
    }
}

// ---- what is made of board/kernel ----

#[test]
fn the_table_of_check_and_the_fragments_of_yocto_are_those_of_board_kernel() {
    let out = Command::new(tree("board/kernel/update")).arg("--check").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_fragment_that_is_out_of_date_or_wrong_is_refused() {
    let place = std::env::temp_dir().join(format!("wherry-kernel-{}", std::process::id()));
    let kernel = place.join("board/kernel");
    fs::create_dir_all(&kernel).unwrap();
    for file in fs::read_dir(tree("board/kernel")).unwrap().map(|e| e.unwrap().path()) {
        fs::copy(&file, kernel.join(file.file_name().unwrap())).unwrap();
    }
    let update = |arguments: &[&str]| Command::new(kernel.join("update")).args(arguments).output().unwrap();
    assert!(update(&["--check"]).status.code() == Some(1), "nothing has been made yet");
    assert!(update(&[]).status.success() && update(&["--check"]).status.success());
    let good = fs::read_to_string(kernel.join("wanted.cfg")).unwrap();
    for (from, to, complaint) in [
        ("CONFIG_PSI=y", "CONFIG_PSI=m", "is not what board/kernel says"),
        ("CONFIG_PSI=y", "CONFIG_PSI=yes", "neither a symbol nor a remark"),
        ("CONFIG_PSI=y\n", "", "no symbol for pressure"),
        ("| KERNEL | no pressure figures", "| kernel | no pressure figures", "not FACT | SWITCH | LOSS"),
        ("#: pressure (PSI)", "#: cgroup pids", "more than once: cgroup pids"),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(kernel.join("wanted.cfg"), good.replacen(from, to, 1)).unwrap();
        let said = String::from_utf8(update(&["--check"]).stderr).unwrap();
        assert!(said.contains(complaint), "{from} -> {to}: {said}");
    }
    fs::remove_dir_all(place).unwrap();
}

/// The module packages of OpenWrt that a fragment names.
fn packages(level: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(tree(&format!("board/kernel/{level}.cfg"))).unwrap();
    let switches = text.lines().filter_map(|l| l.strip_prefix("#: ")?.split('|').nth(1)).map(str::trim);
    switches.filter(|s| s.starts_with("kmod-")).map(str::to_owned).collect()
}

#[test]
fn openwrts_package_depends_on_the_modules_that_are_required_and_its_readme_names_the_others() {
    let makefile = fs::read_to_string(tree("openwrt/wherry/Makefile")).unwrap();
    let depends = makefile.lines().find(|l| l.trim().starts_with("DEPENDS:=")).unwrap();
    let named: BTreeSet<String> =
        depends.split_whitespace().filter_map(|w| w.strip_prefix('+')).filter(|w| w.starts_with("kmod-")).map(str::to_owned).collect();
    assert_eq!(named, packages("required"));
    let readme = fs::read_to_string(tree("openwrt/README.md")).unwrap();
    for package in packages("wanted").union(&packages("optional")) {
        assert!(readme.contains(&format!("`{package}`")), "{package}");
    }
}
