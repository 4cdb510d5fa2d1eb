//! What pid 1 and the payload are, seen from the host.

use crate::stand::{Host, SIGTERM, descriptors, host_mounts, only_child, shell, status, within};
use std::fs;
use wherry::container::Spec;

#[test]
fn the_payload_has_exactly_the_default_capabilities_no_new_privs_and_a_filter() {
    let host = Host::new();
    for init in [true, false] {
        let mut c = host.start(&Spec { init, ..shell("echo ready; exec sleep 60") }).unwrap();
        c.expect("ready");
        let payload = if init { only_child(c.pid()) } else { c.pid() };
        // Until its exec the shell ignores SIGQUIT.
        assert!(within(|| status(payload, "Name") == "sleep"));
        for field in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(payload, field), "00000000a80425fb", "{field}");
        }
        for field in ["CapInh", "CapAmb", "SigBlk", "SigIgn"] {
            assert_eq!(status(payload, field), "0000000000000000", "{field}");
        }
        for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Groups", "")] {
            assert_eq!(status(payload, field), value, "{field}");
        }
    }
}

#[test]
fn our_pid_1_keeps_the_right_to_signal_and_nothing_else() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    let pid = c.pid();
    assert!(within(|| status(pid, "CapBnd") == "0000000000000020"));
    for field in ["CapPrm", "CapEff"] {
        assert_eq!(status(pid, field), "0000000000000020", "{field}");
    }
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(status(pid, field), "0000000000000000", "{field}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert!(within(|| descriptors(pid).len() == 4), "{:?}", descriptors(pid));
    // The exit record is the only descriptor beside standard input and output.
    assert!(descriptors(pid).iter().any(|d| d.ends_with("/exit")), "{:?}", descriptors(pid));
}

#[test]
fn pid_1_cannot_be_looked_into_from_inside() {
    let host = Host::new();
    let out = host.sh("cat /proc/1/fd/* 2>&1; ls -l /proc/1/exe /proc/1/root 2>&1; cat /proc/1/environ 2>&1; cat /proc/1/mem 2>&1");
    assert_eq!(out.matches("Permission denied").count(), 8, "four descriptors, two links, two files: {out}");
}

#[test]
fn every_namespace_but_user_and_time_is_its_own() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    let link = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let pid = c.pid().to_string();
    for name in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        assert_ne!(link(&pid, name), link("self", name), "{name}");
    }
    assert_eq!(link(&pid, "user"), link("self", "user"));
}

#[test]
fn the_hosts_mounts_are_the_same_before_during_and_after() {
    // Other programs of the machine may mount meanwhile: then it is tried again.
    let same = (0..5).any(|_| {
        let host = Host::new();
        let before = host_mounts();
        let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
        c.expect("ready");
        let during = host_mounts();
        c.signal(SIGTERM);
        c.finish();
        before == during && before == host_mounts()
    });
    assert!(same);
}

#[test]
fn pid_1_is_in_its_group_and_sees_it_as_the_root() {
    let host = Host::new();
    let out = host.sh("cat /proc/self/cgroup");
    // A hierarchy in which we make no group stays as the caller had it.
    let joined = |line: &&str| ["memory", "pids", "cpu", "cpuacct", "blkio", ""].contains(&line.split(':').nth(1).unwrap());
    let lines: Vec<&str> = out.lines().filter(joined).collect();
    assert!(!lines.is_empty() && lines.iter().all(|l| l.ends_with(":/")), "{out}");
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    assert!(host.layout.group(&host.group).pids().contains(&c.pid()));
}
