//! Kernels that lack a call: each fallback with its call forced to fail, and clear words where there is none.

use crate::stand::{Host, args, descriptors, failure, shell, within};
use std::fs;
use wherry::container::Spec;
use wherry::manifest::{Mount, Rlimit, RlimitKind};
use wherry::protocol::Reason;
use wherry::sys::process::Ended;

/// Makes the kernel answer `errno` to one system call, for what `body` starts: a filter of this thread, which its children inherit.
fn without(call: nix::libc::c_long, errno: i32, body: impl FnOnce() + Send + 'static) {
    without_where(call, (0, 0), errno, body);
}

/// The same only where the low half of an argument has one of these bits; of no argument if there are none.
fn without_where(call: nix::libc::c_long, (argument, bits): (u32, u32), errno: i32, body: impl FnOnce() + Send + 'static) {
    let instruction = |code: u16, jump: [u8; 2], k: u32| [&code.to_ne_bytes()[..], &jump, &k.to_ne_bytes()].concat();
    let test = match bits {
        0 => Vec::new(),
        // Load the argument; if no bit is set, skip the error.
        _ => [instruction(0x20, [0, 0], 16 + 8 * argument), instruction(0x45, [0, 1], bits)].concat(),
    };
    let program = [
        // Load the number; if it is the one, answer the error; else allow (seccomp(2)).
        instruction(0x20, [0, 0], 0),
        instruction(0x15, [0, if bits == 0 { 1 } else { 3 }], call as u32),
        test,
        instruction(0x06, [0, 0], 0x0005_0000 | errno as u32),
        instruction(0x06, [0, 0], 0x7fff_0000),
    ]
    .concat();
    let thread = std::thread::spawn(move || {
        wherry::sys::seccomp::load(&program).unwrap();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Everything that has a fallback, at once.
fn whole_container() {
    let host = Host::new();
    let source = host.dir.join("data");
    fs::create_dir(&source).unwrap();
    let bind = |target: &str, readonly| Mount::Bind { source: source.to_str().unwrap().into(), target: target.into(), readonly };
    let mounts = vec![bind("/rw", false), bind("/ro", true)];
    let script = "echo x > /rw/x; echo x > /ro/y; echo x > /z; echo x > /proc/sys/kernel/hostname; ls /proc/self/fd | wc -l; wc -c < /proc/keys; ls -d /etc /host; echo ready; exec sleep 60";
    let wanted = Spec { readonly: true, mounts, ..shell(script) };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    assert_eq!(c.seen.matches("Read-only file system").count(), 3, "{}", c.seen);
    assert!(c.seen.contains("\n4\n0\n") && c.seen.contains("\n/etc\n") && c.seen.contains("/host: No such file"), "{}", c.seen);
    assert!(source.join("x").exists() && !source.join("y").exists());
    assert!(within(|| descriptors(c.pid()).len() == 4), "{:?}", descriptors(c.pid()));
    let (ended, out) = c.exec(&wanted, args(&["sh", "-c", "ls /; cat /proc/self/mounts; ls /proc/self/fd | wc -l"])).unwrap();
    assert!(ended == Ended::Code(0) && !out.contains("scratch") && out.ends_with("\n4\n"), "{out}");
    assert!(out.lines().any(|l| l.starts_with("overlay / overlay ro,")), "{out}");
}

/// Every call that some supported kernel lacks, with what such a kernel answers, and with what an old filter around us does (EPERM).
#[test]
fn a_container_is_the_same_without_what_newer_kernels_have() {
    use nix::libc::{E2BIG, EINVAL, ENOSYS, EPERM, SYS_clone3, SYS_close_range, SYS_keyctl, SYS_mount_setattr};
    const ANY: (u32, u32) = (0, 0);
    for (call, argument, errno) in [
        (SYS_mount_setattr, ANY, ENOSYS),
        (SYS_mount_setattr, ANY, EPERM),
        (SYS_close_range, ANY, ENOSYS),
        (SYS_close_range, ANY, EPERM),
        // CLOSE_RANGE_CLOEXEC, Linux 5.11.
        (SYS_close_range, (2, 4), EINVAL),
        (SYS_keyctl, ANY, ENOSYS),
        (SYS_keyctl, ANY, EPERM),
        // The size with the field for CLONE_INTO_CGROUP, Linux 5.7: 88, where 64 was known before.
        (SYS_clone3, (1, 24), E2BIG),
        (nix::libc::SYS_statx, ANY, ENOSYS),
        (nix::libc::SYS_copy_file_range, ANY, ENOSYS),
        (nix::libc::SYS_copy_file_range, ANY, EPERM),
        (nix::libc::SYS_sendfile, ANY, ENOSYS),
        (nix::libc::SYS_faccessat2, ANY, ENOSYS),
    ] {
        println!("without call {call} {argument:?}: {errno}");
        without_where(call, argument, errno, whole_container);
    }
}

#[test]
fn a_container_is_the_same_where_the_root_is_the_initial_ramfs() {
    without(nix::libc::SYS_pivot_root, nix::libc::EINVAL, whole_container);
}

#[test]
fn a_kernel_without_what_cannot_be_replaced_is_told_so() {
    for call in [nix::libc::SYS_openat2, nix::libc::SYS_clone3, nix::libc::SYS_fsopen, nix::libc::SYS_open_tree] {
        without(call, nix::libc::ENOSYS, || {
            let host = Host::new();
            let source = host.dir.to_str().unwrap().to_owned();
            let mounts = vec![Mount::Bind { source, target: "/x".into(), readonly: true }];
            let f = failure(host.start(&Spec { mounts, ..shell("true") }));
            assert!(f.reason == Reason::NoFeature && f.message.contains("Linux 5.10"), "{}", f.message);
        });
    }
}

/// As where a service manager, or a container around Wherry, took it away.
fn without_sys_resource(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        wherry::sys::caps::drop_bounding(24).unwrap();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_limit_above_our_own_is_set_as_high_as_may_be_and_told_unless_required() {
    without_sys_resource(|| {
        let host = Host::new();
        let (_, own) = wherry::sys::limits::get(nix::libc::RLIMIT_NOFILE as u32).unwrap();
        let rlimits = vec![Rlimit { kind: RlimitKind::Nofile, soft: own + 1, hard: own + 1 }];
        let wanted = Spec { rlimits, ..shell("ulimit -n; ulimit -Hn; echo ready; exec sleep 60") };
        let mut c = host.start(&wanted).unwrap();
        c.expect("ready");
        assert_eq!(c.seen, format!("{own}\n{own}\nready\n"));
        let told = &c.missing.iter().find(|(what, _)| what == "rlimits.nofile").expect("it is told").1;
        assert!(told.starts_with(&own.to_string()) && told.contains("CAP_SYS_RESOURCE"), "{told}");
        let (ended, out) = c.exec(&wanted, args(&["sh", "-c", "ulimit -Hn"])).unwrap();
        assert_eq!((ended, out), (Ended::Code(0), format!("{own}\n")));
        drop(c);
        let mut required = wanted;
        required.resources.required = true;
        let f = failure(Host::new().start(&required));
        assert!(f.reason == Reason::NoFeature && f.message.contains("rlimits.nofile"), "{}", f.message);
    });
}

/// `cgroup.kill` (Linux 5.14) leaves a mark on the group, and who is born into it later may be killed for that (Linux 6.14).
#[test]
fn a_group_that_was_killed_once_holds_the_next_container_as_any_other() {
    let host = Host::new();
    if host.layout.unified.is_none() {
        return;
    }
    let group = host.layout.group(&host.group);
    group.create(&Default::default()).unwrap();
    group.kill().unwrap();
    let mut c = host.start(&shell("cat /proc/self/cgroup; echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    assert!(group.pids().contains(&c.pid()), "{:?}", group.pids());
}

#[test]
fn a_child_can_be_born_into_a_group_of_the_v2_tree_alone() {
    let mut host = Host::new();
    if host.layout.unified.is_none() {
        return;
    }
    host.layout.v1.clear();
    let mut c = host
        .start(&shell(
            "cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; echo x > /sys/fs/cgroup/cgroup.procs; echo ready; exec sleep 60",
        ))
        .unwrap();
    c.expect("ready");
    assert!(c.seen.contains("0::/\n/sys/fs/cgroup/cgroup.procs\n") && c.seen.contains("Read-only file system"), "{}", c.seen);
    assert!(host.layout.group(&host.group).pids().contains(&c.pid()));
    let (ended, out) = c.exec(&shell(""), args(&["cat", "/proc/self/cgroup"])).unwrap();
    assert!(ended == Ended::Code(0) && out.contains("0::/\n"), "{out}");
}

#[test]
fn a_container_joins_its_v1_groups_where_there_is_no_v2_tree() {
    let mut host = Host::new();
    if host.layout.v1.is_empty() {
        return;
    }
    host.layout.unified = None;
    let mut c = host.start(&shell("grep -c ':memory:/$' /proc/self/cgroup; echo ready; exec sleep 60")).unwrap();
    c.expect("1\nready");
    assert!(host.layout.group(&host.group).pids().contains(&c.pid()));
}
