//! Kernels that lack a call: each fallback with its call forced to fail, and clear words where there is none.

use crate::stand::{Host, args, descriptors, failure, shell, within};
use std::fs;
use wherry::container::Spec;
use wherry::manifest::Mount;
use wherry::protocol::Reason;
use wherry::sys::process::Ended;

/// Makes the kernel answer `errno` to one system call, for what `body` starts: a filter of this thread, which its children inherit.
fn without(call: nix::libc::c_long, errno: i32, body: impl FnOnce() + Send + 'static) {
    let instruction = |code: u16, jump: [u8; 2], k: u32| [&code.to_ne_bytes()[..], &jump, &k.to_ne_bytes()].concat();
    let program = [
        // Load the number; if it is the one, answer the error; else allow (seccomp(2)).
        instruction(0x20, [0, 0], 0),
        instruction(0x15, [0, 1], call as u32),
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

#[test]
fn a_container_is_the_same_without_mount_setattr() {
    without(nix::libc::SYS_mount_setattr, nix::libc::ENOSYS, whole_container);
}

#[test]
fn a_container_is_the_same_without_close_range() {
    without(nix::libc::SYS_close_range, nix::libc::ENOSYS, whole_container);
}

#[test]
fn a_container_is_the_same_without_keyrings() {
    without(nix::libc::SYS_keyctl, nix::libc::ENOSYS, whole_container);
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
