//! The floor: what the kernel alone takes for a process in namespaces of its own, on a root of its own, that execs one program. No filter, no limits,
//! no groups, no `/proc`, no `/dev`.
//!
//! A process of its own serves it, with a single thread, so that nothing of the measuring program is copied along.

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{chdir, execve, pivot_root};
use std::ffi::CStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use wherry::sys::process::{CloneArgs, Cloned, clone, exit_now, reap};

use crate::starts::Cost;

/// The argument that makes this program the one that serves.
pub const WORD: &str = "floor";

const TRUE: &CStr = c"/bin/true";

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;

/// CPU time of all children that were waited for.
pub fn cpu_of_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = |t: nix::sys::time::TimeVal| (t.tv_sec() * 1_000_000 + t.tv_usec()) as u64;
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Reads from standard input how many to start at once, answers the nanoseconds on the clock and on the CPU, until the input ends.
pub fn serve(root: &Path) {
    for line in std::io::stdin().lock().lines() {
        let many: usize = line.unwrap().parse().unwrap();
        let (start, before) = (Instant::now(), cpu_of_children());
        let children: Vec<i32> = (0..many).map(|_| one(root)).collect();
        for pid in children {
            reap(pid).unwrap();
        }
        println!("{} {}", start.elapsed().as_nanos(), (cpu_of_children() - before).as_nanos());
    }
}

fn one(root: &Path) -> i32 {
    match clone(CloneArgs { flags: NAMESPACES as u64, exit_signal: libc::SIGCHLD as u64, cgroup: None }).unwrap() {
        Cloned::Parent(child) => child.pid,
        Cloned::Child => {
            let failed = enter(root).and_then(|()| execve(TRUE, &[TRUE], &[c"PATH=/bin"]).map(|_| ()));
            eprintln!("the floor cannot run: {failed:?}");
            exit_now(1)
        }
    }
}

fn enter(root: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(root), root, none, MsFlags::MS_BIND, none)?;
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)
}

/// The process that serves.
pub struct Floor {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    /// Starts it.
    pub fn new(root: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.arg(WORD).arg(root).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (ask, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, ask, answers }
    }

    /// So many at once, to the end of the last.
    pub fn run(&mut self, many: usize) -> Cost {
        writeln!(self.ask, "{many}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let &[wall, cpu] = numbers.as_slice() else { panic!("the floor answers {line:?}") };
        Cost { wall: Duration::from_nanos(wall), cpu: Duration::from_nanos(cpu) }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
