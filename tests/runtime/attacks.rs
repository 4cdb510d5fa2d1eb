//! What hostile images and running containers of other runtimes got away with (`tests/cve.toml`), tried against this one.

use crate::stand::{
    Host, PATIENCE, args, cloned, descriptors, failure, finish_role, readable, shell, spawn_launch, spawn_launch_traced, spawn_launch_with,
    strings, until_eof, within,
};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wherry::container::{Spec, caps};
use wherry::ipc::{ExecArgs, ToLaunch};
use wherry::manifest::{Mount, Seccomp};
use wherry::sys::process::{Ended, reap};

/// `CAP_SYS_ADMIN` (capabilities(7)).
const SYS_ADMIN: u64 = 1 << 21;

#[test]
fn a_number_as_user_is_no_name_in_the_images_database() {
    let host = Host::new();
    fs::write(host.layer().join("etc/passwd"), "1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n1:x:0:0::/:/bin/sh\n").unwrap();
    fs::write(host.layer().join("etc/group"), "1000:x:0:\n4294967296:x:0:\n").unwrap();
    let wanted = Spec { user: "1000:1000".into(), ..shell("echo $(id -u) $(id -g) ready; exec sleep 60") };
    let mut c = host.start(&wanted).unwrap();
    c.expect("1000 1000 ready");
    // What another runtime took for 0.
    let exec = |user: &str| c.exec(&wanted, ExecArgs { user: Some(user.into()), ..args(&["id", "-u"]) });
    assert_eq!(exec("1").unwrap().1, "1\n");
    for user in ["4294967296", "1000:4294967296"] {
        let f = exec(user).unwrap_err();
        assert!(f.message.contains("the largest number is 2147483647"), "{user}: {}", f.message);
        let f = failure(host.start(&Spec { user: user.into(), ..shell("id -u") }));
        assert!(f.message.contains("the largest number is 2147483647"), "{user}: {}", f.message);
    }
}

#[test]
fn a_group_file_without_end_is_refused_and_countless_groups_are_not_all_taken() {
    let host = Host::new();
    let group = host.layer().join("etc/group");
    let wanted = Spec { user: "app".into(), ..shell("grep ^Groups: /proc/self/status | wc -w") };
    fs::write(&group, (0..5000).map(|n| format!("g{n}:x:{}:app\n", 2000 + n)).collect::<String>()).unwrap();
    assert_eq!(host.run(&wanted).output, "257\n", "256 behind the field's name");
    File::create(&group).unwrap().set_len(1 << 30).unwrap();
    assert!(failure(host.start(&wanted)).message.contains("/etc/group"));
    fs::remove_file(&group).unwrap();
    symlink("/dev/zero", &group).unwrap();
    assert_eq!(host.run(&wanted).output, "1\n");
    fs::remove_file(&group).unwrap();
    nix::unistd::mkfifo(&group, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    assert_eq!(host.run(&wanted).output, "1\n");
}

/// Launch gets none but its socket; what it does should it hold another is what counts when some library opens one.
#[test]
fn a_descriptor_that_launch_was_left_with_reaches_neither_pid_1_nor_a_program() {
    let host = Host::new();
    let dir = host.dir.join("left");
    fs::create_dir(&dir).unwrap();
    let (leaked, name) = (File::open(&dir).unwrap(), dir.to_str().unwrap());
    let (seen, list) = (|open: &[String]| open.iter().any(|d| d == name), "ls -l /proc/self/fd; echo ready; exec sleep 60");
    let mut c = host.clone_by(&shell(list), || spawn_launch_with(&[], &[leaked.as_fd()])).unwrap();
    c.conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&c.conn), None);
    c.expect("ready");
    assert!(!c.seen.contains(name), "{}", c.seen);
    assert!(within(|| !seen(&descriptors(c.pid()))), "{:?}", descriptors(c.pid()));
    let (conn, launch) = spawn_launch_with(&[], &[leaked.as_fd()]);
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    conn.send_with(&c.job(&shell(list), args(&["true"])), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    let (child, _, _) = cloned(&conn).unwrap();
    finish_role(launch);
    let open = descriptors(child.pid);
    conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&conn), None);
    assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
    assert!(!seen(&open), "{open:?}");
}

#[test]
fn a_variable_without_a_value_brings_none_of_the_hosts() {
    let host = Host::new();
    let wanted = Spec { env: strings(&["SECRET", "*", "SEC*"]), ..shell("env | grep -c swordfish; echo ready; exec sleep 60") };
    let secret = [c"SECRET=swordfish".to_owned()];
    let mut c = host.clone_by(&wanted, || spawn_launch_with(&secret, &[])).unwrap();
    c.conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&c.conn), None);
    c.expect("0\nready");
    let (conn, launch) = spawn_launch_with(&secret, &[]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let job = ExecArgs { env: strings(&["SECRET", "*"]), ..args(&["sh", "-c", "env | grep -c swordfish"]) };
    conn.send_with(&c.job(&wanted, job), &[null.as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
    drop(writer);
    let (child, _, _) = cloned(&conn).unwrap();
    finish_role(launch);
    conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&conn), None);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!((reap(child.pid).unwrap(), text.as_str()), (Ended::Code(1), "0\n"));
}

/// One container has a directory of the host and exchanges a link in there all the time, while others start whose mounts lie below it. Its pauses differ:
/// short ones come between any two steps of a start, and long ones let some starts pass on a slow machine too.
#[test]
fn a_link_exchanged_while_a_container_starts_leads_none_of_its_mounts_or_files_out() {
    let host = Host::new();
    let (shared, outside) = (host.dir.join("shared"), host.dir.join("outside"));
    fs::create_dir_all(shared.join("real")).unwrap();
    fs::create_dir(&outside).unwrap();
    let text = |p: &Path| p.to_str().unwrap().to_owned();
    let bind = |source: &Path, target: String| Mount::Bind { source: text(source), target, readonly: false };
    let file = host.dir.join("file");
    fs::write(&file, "from the host\n").unwrap();
    let wanted = |n: usize| Spec {
        mounts: vec![
            bind(&shared, "/shared".into()),
            Mount::Tmpfs { target: format!("/shared/swap/dir{n}/deep"), size: 1 << 20 },
            bind(&file, format!("/shared/swap/file{n}")),
        ],
        workdir: format!("/shared/swap/work{n}/deep"),
        ..shell("true")
    };
    let done = AtomicBool::new(false);
    let point_to = |target: &Path| {
        symlink(target, shared.join("new")).unwrap();
        fs::rename(shared.join("new"), shared.join("swap")).unwrap();
    };
    point_to(Path::new("real"));
    let started = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pauses = (0..40).map(|n| Duration::from_micros(n * 100)).cycle();
            while !done.load(Ordering::Relaxed) {
                point_to(Path::new("real"));
                std::thread::sleep(pauses.next().unwrap_or_default());
                point_to(&outside);
            }
        });
        let started = (0..60).filter(|n| host.start(&wanted(*n)).map(|mut c| c.finish()).is_ok()).count();
        done.store(true, Ordering::Relaxed);
        started
    });
    assert!(started > 0, "the race must leave some starts whole");
    let found: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(found.is_empty(), "made outside of the containers: {found:?}");
}

#[test]
fn a_container_mounts_nothing_makes_no_namespaces_and_finds_no_release_agent() {
    let host = Host::new();
    let script = "for what in 'unshare -U true' 'unshare -m true' 'unshare -C true' 'unshare -Urm true' 'mount -t tmpfs x /tmp' 'mount -t cgroup -o memory x /tmp' \
            'mount -t proc x /tmp' 'umount /proc/keys' 'mount -o remount,rw /sys'; do $what 2>/dev/null && echo \"$what works\"; done
        find /sys/fs/cgroup -name release_agent
        for f in $(find /sys/fs/cgroup -type f); do (: > $f) 2>/dev/null && echo \"$f can be written\"; done
        for d in $(find /sys/fs/cgroup -type d); do mkdir $d/made 2>/dev/null && echo \"$d can be extended\"; done
        find /sys/fs/cgroup -name notify_on_release -o -name cgroup.procs | wc -l";
    // Without its filter, capabilities alone must do.
    for seccomp in [Seccomp::Default, Seccomp::Unconfined] {
        let script = if seccomp == Seccomp::Default {
            script.to_owned()
        } else {
            script.replace("'unshare -U true'", "").replace("'unshare -Urm true'", "")
        };
        let out = host.run(&Spec { seccomp, ..shell(&script) }).output;
        let files: usize = out.trim().parse().unwrap_or_else(|_| panic!("{seccomp:?}: {out}"));
        assert!(files > 0, "the container sees its groups, or this shows nothing");
    }
}

/// By that name and number, a path would lead to the file of the container's choice.
#[test]
fn a_terminal_is_one_of_devpts_whatever_the_container_mounted_over_it() {
    let host = Host::new();
    let able = Spec { capabilities: caps::default_set() | SYS_ADMIN, seccomp: Seccomp::Unconfined, ..shell("echo ready; exec sleep 60") };
    let mut c = host.start(&able).unwrap();
    c.expect("ready");
    let fake = "mkdir /tmp/fake && mount -t tmpfs x /tmp/fake && cd /tmp/fake && touch ptmx && for n in 0 1 2 3; do echo untouched > $n; done \
        && mkdir pts && mount --bind /dev/pts pts && mount --bind pts/ptmx ptmx && mount --rbind /tmp/fake /dev/pts && cat /dev/pts/0";
    assert_eq!(c.exec(&able, args(&["sh", "-c", fake])).unwrap(), (Ended::Code(0), "untouched\n".into()));
    let (conn, launch) = spawn_launch();
    conn.send(&c.job(&able, ExecArgs { terminal: Some((24, 80)), ..args(&["sh", "-c", "echo through the terminal"]) })).unwrap();
    let (child, master, _) = cloned(&conn).unwrap();
    finish_role(launch);
    conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&conn), None);
    let mut master = File::from(master.expect("a terminal's master"));
    let mut seen = String::new();
    while seen.len() < 22 && readable(&master, PATIENCE) {
        let mut bytes = [0; 64];
        let n = master.read(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    assert_eq!(seen, "through the terminal\r\n");
    assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
    assert_eq!(c.exec(&able, args(&["sh", "-c", "sort -u /tmp/fake/[0-3]"])).unwrap().1, "untouched\n");
    // And a multiplexer that is none is not even opened: this one would never let us go.
    let fifo = "mkfifo /tmp/fifo && mount --bind /tmp/fifo /dev/pts/ptmx";
    assert_eq!(c.exec(&able, args(&["sh", "-c", fifo])).unwrap(), (Ended::Code(0), String::new()));
    let (conn, launch) = spawn_launch();
    conn.send(&c.job(&able, ExecArgs { terminal: Some((24, 80)), ..args(&["true"]) })).unwrap();
    let Err(refused) = cloned(&conn) else { panic!("this must be refused") };
    finish_role(launch);
    assert!(refused.message.contains("is not one of devpts"), "{}", refused.message);
}

/// A line of strace: a file opened for writing, by a path of procfs or sysfs or from a directory of theirs.
fn writes_to_the_kernels_files(line: &str) -> bool {
    line.contains("open") && ["O_WRONLY", "O_RDWR"].iter().any(|f| line.contains(f)) && ["/proc", "/sys"].iter().any(|p| line.contains(p))
}

/// Once the container's mounts are in sight, whatever has a name there may be something else than it seems.
#[test]
fn nothing_is_written_to_proc_or_sys_once_they_are_the_containers() {
    let host = Host::new();
    let (starts, execs) = (host.dir.join("starts"), host.dir.join("execs"));
    let traced = |log: &Path| spawn_launch_traced("open,openat,openat2,creat,pivot_root,setns,execve", log);
    let user = Spec { user: "app".into(), hostname: "other".into(), ..shell("echo ready; exec sleep 60") };
    let mut c = host.clone_by(&user, || traced(&starts)).unwrap();
    c.conn.send(&ToLaunch::Go).unwrap();
    // strace keeps its end of the socket, so no end of file comes.
    c.expect("ready");
    let (conn, launch) = traced(&execs);
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    conn.send_with(&c.job(&user, args(&["true"])), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    let (child, _, _) = cloned(&conn).unwrap();
    finish_role(launch);
    conn.send(&ToLaunch::Go).unwrap();
    assert!(readable(&child.pidfd, PATIENCE));
    assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
    for (log, in_sight, end) in [(&starts, "pivot_root(", "\"/bin/sh\""), (&execs, "setns(", "\"/bin/true\"")] {
        // strace writes a call down once it is over.
        let text = || fs::read_to_string(log).unwrap();
        assert!(within(|| text().lines().any(|l| l.contains("execve(") && l.contains(end) && l.ends_with("= 0"))), "{}", text());
        let text = text();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.iter().rposition(|l| l.contains(in_sight)).unwrap_or_else(|| panic!("no {in_sight} in {text}"));
        let (early, late) = lines.split_at(from);
        let odd: Vec<&&str> = late.iter().filter(|l| writes_to_the_kernels_files(l)).collect();
        assert!(odd.is_empty(), "{odd:?}");
        let host_side = ["/proc/self/oom_score_adj", "cgroup.", "/cgroup/", "memory.", "pids.", "cpu.", "tasks"];
        let odd: Vec<&&str> = early.iter().filter(|l| writes_to_the_kernels_files(l) && !host_side.iter().any(|p| l.contains(p))).collect();
        assert!(odd.is_empty(), "{odd:?}");
        assert!(early.iter().any(|l| writes_to_the_kernels_files(l)), "strace sees what is written on the host's side");
    }
}
