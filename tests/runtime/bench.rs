//! How long a start takes, beside the floor and beside crun. Prints, and judges only what must hold on any machine.

use crate::stand::{Host, spec};
use nix::sys::resource::{UsageWho, getrusage};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};
use wherry::sys::process::{Ended, Spawn, reap, spawn};

const ROUNDS: u32 = 100;

/// Time on the clock, and on the CPU in all processes that were waited for (getrusage(2)): the latter says something on a busy machine too.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2?} on the clock, {:.2?} on the CPU", self.wall, self.cpu)
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = |t: nix::sys::time::TimeVal| (t.tv_sec() * 1_000_000 + t.tv_usec()) as u64;
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

fn cost_of(all_rounds: impl FnOnce()) -> Cost {
    let (start, before) = (Instant::now(), cpu());
    all_rounds();
    Cost { wall: start.elapsed() / ROUNDS, cpu: (cpu() - before) / ROUNDS }
}

fn average(mut round: impl FnMut()) -> Cost {
    round();
    cost_of(|| (0..ROUNDS).for_each(|_| round()))
}

/// Clone into the same namespaces, exec of the same program, exit: no mounts, no limits, no cgroup.
fn floor() -> Cost {
    let busybox: std::os::fd::OwnedFd = File::open("/bin/busybox").unwrap().into();
    let argv = [CString::from(c"true")];
    let flags =
        nix::libc::CLONE_NEWNS | nix::libc::CLONE_NEWPID | nix::libc::CLONE_NEWIPC | nix::libc::CLONE_NEWUTS | nix::libc::CLONE_NEWNET;
    average(|| {
        let child = spawn(&Spawn { exe: busybox.as_fd(), argv: &argv, env: &[], fds: &[], flags }).unwrap();
        assert_eq!(reap(child.pid).unwrap(), Ended::Code(0));
    })
}

fn crun(host: &Host) -> Cost {
    let bundle = host.dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), crate::crun::config(host.layer(), "exec true").to_string()).unwrap();
    let script = format!(
        "umount -l /sys/fs/cgroup/unified 2>/dev/null; for i in $(seq {ROUNDS}); do crun --cgroup-manager=disabled --root {0}/crun run --bundle {0}/bundle bench-$$ || exit; done",
        host.dir.display()
    );
    cost_of(|| assert!(Command::new("unshare").args(["--mount", "sh", "-c", &script]).status().unwrap().success()))
}

#[test]
#[ignore = "prints a figure; wants a release build in WHERRY_BIN"]
fn memory_of_our_pid_1() {
    let host = Host::new();
    let mut c = host.start(&crate::stand::shell("echo ready; exec sleep 60")).unwrap();
    c.expect("ready");
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", c.pid())).unwrap();
    for field in ["Rss:", "Pss:", "Private_Dirty:"] {
        println!("{}", rollup.lines().find(|l| l.starts_with(field)).unwrap());
    }
}

#[test]
#[ignore = "prints figures; wants a quiet machine and a release build in WHERRY_BIN"]
fn start_to_exit_of_true() {
    let host = Host::new();
    let run = |init| average(|| assert_eq!(host.run(&wherry::container::Spec { init, ..spec(&["/bin/true"]) }).ended, Ended::Code(0)));
    let (floor, with, without, crun) = (floor(), run(true), run(false), crun(&host));
    let wanted = spec(&["/bin/true"]);
    let mut sums = [Duration::ZERO; 3];
    for _ in 0..ROUNDS {
        let t0 = Instant::now();
        let mut c = host.clone(&wanted).unwrap();
        let t1 = Instant::now();
        c.conn.send(&wherry::ipc::ToLaunch::Go).unwrap();
        assert!(crate::stand::until_eof(&c.conn).is_none());
        let t2 = Instant::now();
        c.finish();
        for (sum, d) in sums.iter_mut().zip([t1 - t0, t2 - t1, t2.elapsed()]) {
            *sum += d / ROUNDS;
        }
    }
    println!("of that: until pid 1 waits, until exec, until reaped: {sums:?}");
    println!("floor (clone into the namespaces, exec) {floor}");
    println!("launch, own pid 1                       {with}");
    println!("launch, payload as pid 1                {without}");
    println!("crun, without cgroups                   {crun}");
    assert!(with.cpu < crun.cpu, "a start must be cheaper than crun's");
}
