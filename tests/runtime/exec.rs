//! Further programs in a running container.

use crate::stand::{
    Host, PATIENCE, SIGKILL, args, cloned, descriptors, finish_role, readable, shell, spawn_launch, status, strings, until_eof,
};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use wherry::container::{Spec, caps};
use wherry::ipc::{ExecArgs, ToLaunch};
use wherry::manifest::{Rlimit, RlimitKind};
use wherry::protocol::Reason;
use wherry::sys::process::{Ended, reap};

#[test]
fn an_exec_is_in_all_namespaces_and_the_group_and_no_more_privileged_than_the_payload() {
    let host = Host::new();
    let wanted = Spec { env: strings(&["A=1", "B=1"]), ..shell("echo ready; exec sleep 60") };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; hostname; echo $A$B; grep -E '^(Cap|NoNewPrivs|Seccomp:|SigIgn|SigBlk)' /proc/self/status; ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj; umask; [ $$ -gt 1 ] && echo inside; cat /proc/self/cgroup";
    let mut job = args(&["sh", "-c", script]);
    job.env = strings(&["B=2"]);
    let (ended, out) = c.exec(&wanted, job).unwrap();
    assert_eq!(ended, Ended::Code(0), "{out}");
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let link = fs::read_link(format!("/proc/{}/ns/{name}", c.pid())).unwrap();
        assert!(out.contains(link.to_str().unwrap()), "{name}: {out}");
    }
    for part in [
        "box\n12\n",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "SigIgn:\t0000000000000000",
        "\n4\n0\n0022\ninside\n",
        if host.layout.v1.is_empty() { "\n0::/\n" } else { ":memory:/\n" },
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
}

#[test]
fn an_exec_has_its_own_user_directory_and_exit_status() {
    let host = Host::new();
    let wanted = shell("echo ready; exec sleep 60");
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let job = ExecArgs {
        user: Some("app".into()),
        workdir: Some("/home/app".into()),
        ..args(&["sh", "-c", "id -u; pwd; grep CapEff /proc/self/status; exit 9"])
    };
    assert_eq!(c.exec(&wanted, job).unwrap(), (Ended::Code(9), "1000\n/home/app\nCapEff:\t0000000000000000\n".into()));
    let f = c.exec(&wanted, args(&["absent"])).unwrap_err();
    assert!(f.reason == Reason::Exec && f.message.contains("PATH"), "{}", f.message);
    let f = c.exec(&wanted, ExecArgs { workdir: Some("/nowhere".into()), ..args(&["true"]) }).unwrap_err();
    assert!(f.message.contains("/nowhere"), "{}", f.message);
}

#[test]
fn an_exec_with_a_terminal_has_one_of_the_containers_devpts_as_controlling_terminal() {
    let host = Host::new();
    let wanted = Spec { user: "app".into(), ..shell("echo ready; exec sleep 60") };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let (conn, launch) = spawn_launch();
    let script = "tty; stty size; echo hello > /dev/tty; echo $TERM; echo to > /dev/stdout; read line; echo got $line";
    conn.send(&c.job(&wanted, ExecArgs { terminal: Some((24, 80)), ..args(&["sh", "-c", script]) })).unwrap();
    let (child, master, _) = cloned(&conn).unwrap();
    finish_role(launch);
    conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&conn), None);
    let mut master = File::from(master.expect("a terminal's master"));
    let mut text = String::new();
    let mut chunk = [0; 1024];
    while !text.contains("to\r\n") {
        assert!(readable(&master, PATIENCE));
        let n = master.read(&mut chunk).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    std::io::Write::write_all(&mut master, b"line\n").unwrap();
    while !text.contains("got line\r\n") {
        assert!(readable(&master, PATIENCE));
        let n = master.read(&mut chunk).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    assert!(text.starts_with("/dev/pts/0\r\n24 80\r\nhello\r\nxterm\r\nto\r\n"), "{text:?}");
    assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
}

#[test]
fn an_exec_whose_keeper_goes_before_go_runs_nothing() {
    let host = Host::new();
    let wanted = shell("echo ready; exec sleep 60");
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let (conn, launch) = spawn_launch();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    conn.send_with(&c.job(&wanted, args(&["touch", "/ran"])), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    let (child, _, _) = cloned(&conn).unwrap();
    finish_role(launch);
    drop(conn);
    assert!(readable(&child.pidfd, PATIENCE));
    reap(child.pid).unwrap();
    assert_ne!(c.exec(&wanted, args(&["ls", "/ran"])).unwrap().0, Ended::Code(0));
}

/// `CAP_SYS_PTRACE` (capabilities(7)).
const SYS_PTRACE: u64 = 1 << 19;

#[test]
fn a_container_that_may_trace_sees_nothing_of_the_host_in_what_joins_it() {
    let host = Host::new();
    let secret = host.dir.join("scratch");
    let script = format!("echo ready; while :; do for p in /proc/[0-9]*; do [ -e $p/root{0} ] && echo seen; done; done", secret.display());
    let wanted = Spec { capabilities: caps::default_set() | SYS_PTRACE, ..shell(&script) };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    for _ in 0..30 {
        let (conn, launch) = spawn_launch();
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        conn.send_with(&c.job(&wanted, args(&["true"])), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
        let (child, _, _) = cloned(&conn).unwrap();
        finish_role(launch);
        // Time for the loop to pass by.
        std::thread::sleep(std::time::Duration::from_millis(10));
        conn.send(&ToLaunch::Go).unwrap();
        assert_eq!(until_eof(&conn), None);
        assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
    }
    c.read();
    assert_eq!(c.seen, "ready\n");
}

#[test]
fn an_exec_that_waits_has_the_containers_view_and_no_more_rights_than_the_payload_and_the_way_there() {
    let host = Host::new();
    let wanted = Spec { capabilities: SYS_PTRACE, ..shell("echo ready; exec sleep 60") };
    let mut c = host.start(&wanted).unwrap();
    c.expect("ready");
    let (conn, launch) = spawn_launch();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    conn.send_with(&c.job(&wanted, args(&["true"])), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    let (child, _, _) = cloned(&conn).unwrap();
    finish_role(launch);
    let of = |pid: i32, what: &str| format!("/proc/{pid}/{what}");
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let link = |pid| fs::read_link(of(pid, &format!("ns/{name}"))).unwrap();
        assert_eq!(link(child.pid), link(c.pid()), "{name}");
    }
    for what in ["root", "cwd"] {
        let place = |pid| fs::metadata(of(pid, what)).map(|m| (m.dev(), m.ino())).unwrap();
        assert_eq!(place(child.pid), place(c.pid()), "{what}");
    }
    let way = 1 << 6 | 1 << 7; // CAP_SETGID, CAP_SETUID
    assert_eq!(status(child.pid, "CapPrm"), format!("{:016x}", SYS_PTRACE | way));
    assert_eq!(status(child.pid, "CapBnd"), format!("{SYS_PTRACE:016x}"));
    // Standard input and output, the socket, and the working directory.
    let open = descriptors(child.pid);
    assert!(host.layout.group(&host.group).pids().contains(&child.pid));
    conn.send(&ToLaunch::Go).unwrap();
    assert_eq!(until_eof(&conn), None);
    assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
    assert!(open.len() == 5 && open.iter().all(|d| d == "/dev/null" || d == "/" || d.starts_with("socket:")), "{open:?}");
}

#[test]
fn an_exec_without_no_new_privs_has_its_filter_limits_and_directory() {
    let host = Host::new();
    let private = host.layer().join("home/app");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&private, Some(1000), Some(1001)).unwrap();
    let rlimits = vec![Rlimit { kind: RlimitKind::Nofile, soft: 64, hard: 2048 }];
    for no_new_privileges in [false, true] {
        let wanted = Spec {
            no_new_privileges,
            rlimits: rlimits.clone(),
            capabilities: 1 << 10,
            ambient: 1 << 10,
            user: "app".into(),
            ..shell("echo ready; exec sleep 60")
        };
        let mut c = host.start(&wanted).unwrap();
        c.expect("ready");
        let script = "ulimit -n; ulimit -Hn; pwd; grep -E '^(NoNewPrivs|Seccomp|Cap...):' /proc/self/status | cut -f2 | uniq";
        let job = ExecArgs { workdir: Some("/home/app".into()), ..args(&["sh", "-c", script]) };
        let (ended, out) = c.exec(&wanted, job).unwrap();
        let expected = format!("64\n2048\n/home/app\n0000000000000400\n{}\n2\n", u8::from(no_new_privileges));
        assert_eq!((ended, out), (Ended::Code(0), expected));
        c.signal(SIGKILL);
        c.finish();
    }
}

#[test]
fn a_payload_that_may_trace_finds_pid_1_confined_from_its_first_step_on() {
    let host = Host::new();
    for _ in 0..10 {
        let script = "ls -l /proc/1/fd; grep -E '^Cap(Prm|Bnd)' /proc/1/status";
        let out = host.run(&Spec { capabilities: caps::default_set() | SYS_PTRACE, ..shell(script) }).output;
        assert!(out.ends_with("CapPrm:\t0000000000000020\nCapBnd:\t0000000000000020\n"), "{out}");
        // Standard input and output, the exit record, and perhaps still the pipe by which the payload was let go.
        assert!(out.contains("/exit\n") && !out.contains("socket:") && out.matches(" -> ").count() <= 5, "{out}");
    }
}

#[test]
fn an_exec_into_a_process_that_is_not_of_the_container_is_refused() {
    let host = Host::new();
    let wanted = shell("echo ready; exec sleep 60");
    let c = host.start(&wanted).unwrap();
    let ToLaunch::Exec(mut job) = c.job(&wanted, args(&["true"])) else { unreachable!() };
    job.pid = std::process::id() as i32;
    let (conn, launch) = spawn_launch();
    let null = File::open("/dev/null").unwrap();
    conn.send_with(&ToLaunch::Exec(job), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    let Err(f) = cloned(&conn) else { panic!("this must be refused") };
    finish_role(launch);
    assert!(f.message.contains("is not in group"), "{}", f.message);
}
