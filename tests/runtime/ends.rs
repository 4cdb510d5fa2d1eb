//! How a container starts and ends, and what keeper hears of it.

use crate::stand::{Host, SIGKILL, SIGTERM, failure, readable, shell, spawn_launch, spec, status, within};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use wherry::container::Spec;
use wherry::ipc::{Conn, FromLaunch, ToLaunch};
use wherry::manifest::{Mount, Resources};
use wherry::protocol::Reason;
use wherry::sys::process::{Ended, reap};
use wherry::sys::signal::pidfd_send;

#[test]
fn the_payloads_exit_code_is_the_containers_and_stands_in_the_record() {
    let host = Host::new();
    for (script, code) in [("exit 0", 0), ("exit 1", 1), ("exit 77", 77), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        let end = host.run(&shell(script));
        assert_eq!(end.ended, Ended::Code(code), "{script}");
        let recorded = if code > 128 { Ended::Signal(code - 128) } else { Ended::Code(code) };
        assert_eq!(end.record.map(|r| r.ended), Some(recorded), "{script}");
    }
}

#[test]
fn a_payload_that_is_pid_1_itself_leaves_no_record_but_its_status() {
    let host = Host::new();
    let end = host.run(&Spec { init: false, ..shell("echo $$; exit 3") });
    assert_eq!((end.ended, end.output.as_str(), end.record), (Ended::Code(3), "1\n", None));
}

#[test]
fn our_pid_1_passes_signals_on_and_ends_with_the_payload() {
    let host = Host::new();
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut c = host.start(&shell(script)).unwrap();
    c.expect("ready");
    c.signal(10);
    c.expect("usr1");
    c.signal(SIGTERM);
    let end = c.finish();
    assert_eq!((end.ended, end.record.map(|r| r.ended)), (Ended::Code(5), Some(Ended::Code(5))));
}

#[test]
fn a_payload_without_handler_dies_of_the_signal_although_pid_1_would_not() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    c.signal(SIGTERM);
    assert_eq!(c.finish().record.map(|r| r.ended), Some(Ended::Signal(15)));
}

#[test]
fn a_signal_that_comes_before_the_payload_is_not_lost() {
    let host = Host::new();
    let mut c = host.clone(&shell("sleep 60")).unwrap();
    c.signal(SIGTERM);
    // All but KILL and STOP. What came before this, at the very first instructions, is the one thing that is lost.
    assert!(within(|| status(c.pid(), "SigBlk") == "fffffffffffbfeff"), "{}", status(c.pid(), "SigBlk"));
    c.signal(SIGTERM);
    c.conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(c.finish().record.map(|r| r.ended), Some(Ended::Signal(15)));
}

#[test]
fn orphans_are_reaped() {
    let host = Host::new();
    let mut c = host.start(&shell("for i in 1 2 3 4 5; do (sleep 0.05 &); done; sleep 0.5; ps -o stat,comm; echo done; sleep 60")).unwrap();
    c.expect("done");
    assert!(!c.seen.lines().any(|l| l.trim_start().starts_with('Z')), "{}", c.seen);
}

#[test]
fn what_the_payload_leaves_running_dies_with_it() {
    let host = Host::new();
    let end = host.run(&shell("sleep 600 & exit 0"));
    assert_eq!(end.ended, Ended::Code(0));
    assert!(host.layout.group(&host.group).pids().is_empty());
}

#[test]
fn a_killed_pid_1_is_a_killed_container_without_record() {
    let host = Host::new();
    let mut c = host.start(&shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    c.signal(SIGKILL);
    let end = c.finish();
    assert_eq!((end.ended, end.record), (Ended::Signal(9), None));
}

#[test]
fn nothing_is_left_when_keeper_goes_before_go() {
    let host = Host::new();
    let mut c = host.clone(&shell("echo never")).unwrap();
    c.conn = Conn::pair().unwrap().0;
    let end = c.finish();
    assert_eq!((end.ended, end.output.as_str()), (Ended::Code(0), ""));
}

#[test]
fn launch_killed_at_any_moment_leaves_no_running_container() {
    let host = Host::new();
    for delay in 0..16 {
        let (conn, launch) = spawn_launch();
        let log = File::options().read(true).write(true).open("/dev/null").unwrap();
        let start = ToLaunch::Start { spec: Box::new(shell("sleep 600")), wiring: Box::new(host.wiring()) };
        conn.send_with(&start, &[log.as_fd(), log.as_fd()]).unwrap();
        std::thread::sleep(Duration::from_micros(250 * delay));
        let _ = pidfd_send(&launch.pidfd, SIGKILL);
        reap(launch.pid).unwrap();
        // Either nothing was said, or a pid 1 that exits without Go.
        let child = readable(&conn, Duration::from_millis(1)).then(|| conn.recv_with::<FromLaunch>().ok().flatten()).flatten();
        drop(conn);
        if let Some((FromLaunch::Cloned { pid, .. }, _)) = child {
            assert_eq!(reap(pid).unwrap(), Ended::Code(0));
        }
        assert!(within(|| host.layout.group(&host.group).pids().is_empty()), "after {delay} quarters of a millisecond");
    }
}

#[test]
fn a_missing_program_is_an_exec_failure_with_a_hint() {
    let host = Host::new();
    fs::write(host.layer().join("bin/text"), "no program").unwrap();
    fs::write(host.layer().join("bin/noloader"), "#!/no/such/interpreter\n").unwrap();
    fs::write(host.layer().join("bin/locked"), "#!/bin/sh\n").unwrap();
    for f in ["text", "noloader"] {
        fs::set_permissions(host.layer().join("bin").join(f), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (program, hint) in [
        ("/bin/absent", "no such file"),
        ("absent", "not found in the container's PATH"),
        ("text", "another processor"),
        ("noloader", "interpreter or loader"),
        ("locked", "not executable"),
    ] {
        for init in [true, false] {
            let f = failure(host.start(&Spec { init, ..spec(&[program]) }));
            assert_eq!(f.reason, Reason::Exec, "{}", f.message);
            assert!(f.message.contains(program) && f.message.contains(hint), "{}", f.message);
        }
    }
}

#[test]
fn a_missing_layer_or_bind_source_is_named() {
    let mut host = Host::new();
    let wanted = Mount::Bind { source: "/no/such/source".into(), target: "/x".into(), readonly: true };
    let f = failure(host.start(&Spec { mounts: vec![wanted], ..shell("true") }));
    assert!(f.reason == Reason::Launch && f.message.contains("/no/such/source"), "{}", f.message);
    host.layers.push("/no/such/layer".into());
    let f = failure(host.start(&shell("true")));
    assert!(f.reason == Reason::Launch && f.message.contains("/no/such/layer: No such file or directory"), "{}", f.message);
}

#[test]
fn limits_that_the_kernel_lacks_are_reported_before_the_start() {
    let host = Host::new();
    let resources = Resources { memory_max: Some(16 << 20), pids_max: Some(32), ..Resources::default() };
    let c = host.clone(&Spec { resources, ..shell("true") }).unwrap();
    assert!(c.missing.iter().all(|(limit, _)| limit == "memory.high" || limit == "swap"), "{:?}", c.missing);
}

#[test]
fn a_container_sees_its_own_memory_limit_and_cannot_change_it() {
    let host = Host::new();
    let resources = Resources { memory_max: Some(24 << 20), ..Resources::default() };
    let script = "cd /sys/fs/cgroup; for f in memory/memory.limit_in_bytes memory.max; do [ -e $f ] && cat $f && echo 1 > $f; done 2>&1";
    let out = host.run(&Spec { resources, ..shell(script) }).output;
    assert!(out.starts_with(&format!("{}\n", 24 << 20)) && out.contains("Read-only file system"), "{out}");
}

#[test]
fn an_allocation_beyond_the_limit_kills_the_payload_and_is_recorded() {
    let host = Host::new();
    let resources = Resources { memory_max: Some(16 << 20), swap_max: Some(0), ..Resources::default() };
    let end = host.run(&Spec { resources, upper: 64 << 20, ..shell("exec dd if=/dev/zero of=/dev/null bs=40M count=1") });
    assert_eq!(end.record.map(|r| r.ended), Some(Ended::Signal(9)));
}
