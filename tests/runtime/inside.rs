//! What a payload sees, and who it is.

use crate::stand::{Host, failure, only_child, shell};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use wherry::container::Spec;
use wherry::manifest::{Mount, Network, Rlimit, RlimitKind};

#[test]
fn only_the_containers_own_mounts_are_seen() {
    let host = Host::new();
    let out = host.sh("cut -d' ' -f2,3,4 /proc/self/mounts");
    let line = |target: &str| out.lines().find(|l| l.split(' ').next() == Some(target)).unwrap_or_else(|| panic!("no {target} in {out}"));
    for (target, kind, options) in [
        ("/", "overlay", "rw,nodev"),
        ("/proc", "proc", "rw,nosuid,nodev,noexec"),
        ("/dev", "tmpfs", "rw,nosuid,nodev,noexec"),
        ("/dev/pts", "devpts", "rw,nosuid,noexec"),
        ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec"),
    ] {
        assert!(line(target).starts_with(&format!("{target} {kind} {options}")), "{}", line(target));
    }
    let own = |l: &str| {
        ["/", "/proc", "/dev", "/sys"].iter().any(|p| l.split(' ').next() == Some(p))
            || l.starts_with("/proc/")
            || l.starts_with("/dev/")
            || l.starts_with("/sys/")
    };
    assert!(out.lines().all(own), "{out}");
}

#[test]
fn dev_has_six_nodes_and_five_links_and_no_disk() {
    let host = Host::new();
    let out = host.sh("cd /dev; for f in *; do [ -c $f ] && [ ! -L $f ] && echo $f; done; ls -l /dev | grep -c ' -> '; find / -xdev -type b; [ -c /dev/ptmx ] && echo ptmx; echo x > /dev/null && head -c 4 /dev/zero | wc -c; (echo < /dev/tty) 2>&1");
    let expected = "full\nnull\nrandom\ntty\nurandom\nzero\n5\nptmx\n4\n";
    assert!(out.replace("ptmx\nfull", "full").contains("full\nnull"), "{out}");
    assert!(out.contains("\nrandom\n") && out.contains("\n5\n") && out.contains("ptmx\n4\n"), "{out} against {expected}");
    assert!(out.ends_with("can't open /dev/tty: No such device or address\n"), "no controlling terminal: {out}");
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_refuse_writing() {
    let host = Host::new();
    let out = host.sh(
        "for p in kcore keys timer_list interrupts mtd sched_debug; do [ -e /proc/$p ] && head -c 1 /proc/$p | wc -c; done | sort -u
         for p in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do [ -e $p ] && ls $p | wc -l; done | sort -u
         echo ---
         for p in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_seqnum /sys/fs/cgroup/x; do
             [ ! -e $p ] && [ $p != /sys/fs/cgroup/x ] || { (echo x > $p) 2>&1 | grep -c 'Read-only file system'; }
         done | sort -u
         for p in bus cpu driver fs irq sys sysrq-trigger tty; do
             [ ! -e /proc/$p ] || grep -c \" /proc/$p proc ro,\" /proc/self/mounts
         done | sort -u
         grep -c 'nr_inodes=1[, ]' /proc/self/mounts >/dev/null && echo shared",
    );
    assert_eq!(out, "0\n0\n---\n1\n1\nshared\n");
}

#[test]
fn a_masked_file_is_a_null_device_whatever_the_image_brings() {
    let host = Host::new();
    fs::create_dir(host.layer().join("dev")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", host.layer().join("dev/null")).unwrap();
    let out = host.sh("stat -c '%F %t:%T' /proc/interrupts /proc/keys; cat /proc/keys | wc -c");
    assert_eq!(out, "character special file 1:3\ncharacter special file 1:3\n0\n");
}

#[test]
fn a_node_that_a_container_makes_opens_nothing_wherever_it_lies() {
    let host = Host::new();
    let source = host.dir.join("data");
    fs::create_dir(&source).unwrap();
    let bind = Mount::Bind { source: source.to_str().unwrap().into(), target: "/bind".into(), readonly: false };
    let mounts = vec![Mount::Tmpfs { target: "/tmp".into(), size: 1 << 20 }, bind];
    // The last open is that of a node which is there by right.
    let script = "for d in /dev / /tmp /bind /dev/shm; do for n in 'b 7 0' 'c 1 3' 'c 4 1'; do
            mknod $d/x $n && { (: < $d/x) 2>&1; (: > $d/x) 2>&1; (: <> $d/x) 2>&1; rm $d/x; }
        done; done; mknod /dev/pts/x c 1 3 2>&1; : < /dev/null && echo opened";
    let out = host.run(&Spec { mounts, ..shell(script) }).output;
    assert_eq!(out.matches("x: Permission denied").count(), 5 * 3 * 3, "{out}");
    assert!(out.ends_with("mknod: /dev/pts/x: Operation not permitted\nopened\n"), "{out}");
    assert_eq!(out.lines().count(), 5 * 3 * 3 + 2, "{out}");
}

#[test]
fn the_nodes_of_dev_work_for_everyone() {
    let host = Host::new();
    for user in ["", "app"] {
        let script = "echo x > /dev/null && cat /dev/null && head -c 2 /dev/zero | od -An -tx1 && head -c 3 /dev/random | wc -c \
            && head -c 5 /dev/urandom | wc -c && head -c 1 /dev/full | wc -c; echo x 2>&1 > /dev/full; (: < /dev/tty) 2>&1";
        let out = host.run(&Spec { user: user.into(), ..shell(script) }).output;
        let expected = " 00 00\n3\n5\n1\nsh: write error: No space left on device\n";
        assert!(out.replace("/bin/sh", "sh").starts_with(expected), "{user:?}: {out}");
        assert!(out.ends_with("can't open /dev/tty: No such device or address\n"), "{user:?}: {out}");
    }
}

#[test]
fn a_container_that_changes_its_nodes_and_masks_does_not_change_the_hosts() {
    let host = Host::new();
    let of = |name: &str| {
        let stat = nix::sys::stat::stat(&Path::new("/dev").join(name)).unwrap();
        (stat.st_mode, stat.st_uid, stat.st_gid)
    };
    let names = ["null", "zero", "full", "random", "urandom", "tty"];
    let before = names.map(of);
    let script = "cd /dev; for f in null zero full random urandom tty /proc/keys /proc/timer_list; do chmod 600 $f; chown 7:7 $f; done
        stat -c '%a %u' null /proc/timer_list";
    assert_eq!(host.sh(script), "600 7\n600 7\n");
    assert_eq!(names.map(of), before);
    assert_eq!(host.sh("stat -c '%a %u' /dev/null /proc/timer_list"), "666 0\n666 0\n");
}

#[test]
fn the_payload_inherits_nothing_of_its_maker() {
    let host = Host::new();
    let out = host
        .sh("ls /proc/self/fd | wc -l; umask; cat /proc/self/oom_score_adj; ulimit -c; pwd; hostname; id; tty; grep -c . /proc/keys
         readlink /proc/self/fd/0; grep -E '^(Sig(Blk|Ign)|CapAmb)' /proc/self/status; env | sort");
    let expected = "4\n0022\n0\n0\n/\nbox\nuid=0(root) gid=0(root)\nnot a tty\n0\n/dev/null\n\
        SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        HOME=/root\nHOSTNAME=box\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nSHLVL=1\n";
    assert_eq!(out, expected);
}

/// Session keyrings that exist, as `/proc/keys` of the host lists them (keyrings(7)).
fn session_keyrings() -> HashSet<String> {
    let text = fs::read_to_string("/proc/keys").unwrap_or_default();
    text.lines().filter(|l| l.contains(" _ses")).filter_map(|l| l.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_session_keyring_is_a_new_one() {
    let host = Host::new();
    let before = session_keyrings();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    assert!(!Path::new("/proc/keys").exists() || !session_keyrings().is_subset(&before));
}

#[test]
fn pid_1_and_the_payload_lead_sessions_of_their_own() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    let session = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned()
    };
    for pid in [c.pid(), only_child(c.pid())] {
        assert_eq!(session(pid), pid.to_string());
    }
}

#[test]
fn resource_limits_are_as_asked_and_core_dumps_are_off_unless_asked() {
    let host = Host::new();
    let rlimits =
        vec![Rlimit { kind: RlimitKind::Nofile, soft: 64, hard: 128 }, Rlimit { kind: RlimitKind::Core, soft: 512, hard: u64::MAX }];
    let out = host.run(&Spec { rlimits, ..shell("ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc") }).output;
    assert_eq!(out, "64\n128\n1\nunlimited\n");
}

#[test]
fn a_network_of_its_own_has_loopback_up_and_the_hosts_is_the_hosts() {
    let host = Host::new();
    assert_eq!(
        host.sh("ls /sys/class/net; ip -o addr show dev lo | grep -c 127.0.0.1; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up"),
        "lo\n1\nup\n"
    );
    let own = Spec { network: Network::Host, ..shell("readlink /proc/self/ns/net; ls /sys/class/net | sort") };
    let mut names: Vec<String> = fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(host.run(&own).output, format!("{}\n{}\n", ours.display(), names.join("\n")));
}

#[test]
fn a_user_is_found_by_name_and_gets_its_groups_and_home_but_no_capabilities() {
    let host = Host::new();
    let out = host.run(&Spec {
        user: "app".into(),
        ..shell("id -u; id -g; id -G; echo $HOME; grep -E '^Cap(Prm|Eff|Inh|Amb)' /proc/self/status | cut -f2 | sort -u")
    });
    assert_eq!(out.output, "1000\n1001\n1001 20\n/home/app\n0000000000000000\n");
    let f = failure(host.start(&Spec { user: "nobody".into(), ..shell("true") }));
    assert!(f.message.contains("nobody") && f.message.contains("/etc/passwd"), "{}", f.message);
}

#[test]
fn a_capability_asked_for_by_name_reaches_a_user_that_is_not_root() {
    let host = Host::new();
    let bit = 1 << 10;
    let wanted = Spec { user: "app".into(), ambient: bit, capabilities: bit, ..shell("grep ^Cap /proc/self/status | cut -f2 | uniq") };
    assert_eq!(host.run(&wanted).output, "0000000000000400\n");
}

#[test]
fn dev_stdout_can_be_opened_by_a_user_that_is_not_root() {
    let host = Host::new();
    let out =
        host.run(&Spec { user: "app".into(), ..shell("echo one > /dev/stdout; echo two > /dev/stderr; echo three > /proc/self/fd/1") });
    assert_eq!(out.output, "one\ntwo\nthree\n");
}

#[test]
fn without_no_new_privs_the_filter_is_there_all_the_same() {
    let host = Host::new();
    for user in ["", "app"] {
        let wanted = Spec { no_new_privileges: false, user: user.into(), ..shell("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status") };
        assert_eq!(host.run(&wanted).output, "NoNewPrivs:\t0\nSeccomp:\t2\n", "{user:?}");
    }
}
