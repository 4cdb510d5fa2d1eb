//! Follows keeper and what it starts by ptrace(2), and kills one process at one system call: before the kernel has begun with it.
//!
//! Nothing in the program helps with that, and nothing but the one process is slowed down: all others run untraced, or stop only when they make a
//! process. SIGKILL at the entry of a call ends the process without the call having happened, so the entries of all calls are all the moments at
//! which a kill can make a difference to anybody else.

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::{Arc, Mutex, mpsc};

/// Whom a kill is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// From its exec out of memory on, or, once it runs, from now on.
    Keeper,
    /// The host's side of a start.
    Launch,
    /// Its clone, until it execs the payload or ends.
    Pid1,
    /// What a pid 1 that stays clones, until it execs.
    Payload,
    /// What brings in an image.
    Stage,
}

/// The `nth` time, from 1, that a process makes this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Number of the system call.
    pub call: i64,
    /// Which of them.
    pub nth: usize,
}

/// What became of the last order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// No process of the role has come yet.
    #[default]
    Waiting,
    /// One is on its way.
    Counting,
    /// It ended, or became the payload, without having been at the point.
    Over,
    /// It was killed at the point.
    Killed,
}

#[derive(Default)]
struct Shared {
    order: Option<(Role, Option<Point>)>,
    walk: Vec<i64>,
    state: State,
}

/// A thread that traces one keeper for as long as that lives.
pub struct Tracer {
    shared: Arc<Mutex<Shared>>,
    keeper: Pid,
}

/// Every point of a walk, in its order.
pub fn points(walk: &[i64]) -> Vec<Point> {
    let mut seen: HashMap<i64, usize> = HashMap::new();
    let mut next = |call: i64| {
        let nth = seen.entry(call).or_default();
        *nth += 1;
        Point { call, nth: *nth }
    };
    walk.iter().map(|call| next(*call)).collect()
}

/// What of a walk is in another one too: of each call, as many as both made.
pub fn common(walk: &[i64], other: &[i64]) -> Vec<i64> {
    let mut left: HashMap<i64, usize> = HashMap::new();
    other.iter().for_each(|call| *left.entry(*call).or_default() += 1);
    let mut take = |call: &i64| {
        let n = left.entry(*call).or_default();
        let found = *n > 0;
        *n = n.saturating_sub(1);
        found
    };
    walk.iter().copied().filter(|call| take(call)).collect()
}

impl Tracer {
    /// Begins to follow a process that is keeper, or will be after an exec. `first` is the order that holds from its beginning.
    pub fn follow(keeper: i32, first: Option<(Role, Option<Point>)>) -> Self {
        let shared = Arc::new(Mutex::new(Shared { order: first, ..Shared::default() }));
        let (keeper, (ready, seized)) = (Pid::from_raw(keeper), mpsc::channel());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            ptrace::seize(keeper, options()).expect("keeper can be traced");
            ready.send(()).unwrap();
            Tracing { shared: theirs, keeper, tracees: [(keeper, Tracee::new(Kin::Keeper))].into(), early: HashSet::new() }.run();
        });
        seized.recv().expect("keeper is there");
        Self { shared, keeper }
    }

    /// The next process of the role dies at the point, or, without one, is only watched.
    pub fn order(&self, role: Role, point: Option<Point>) {
        *self.shared.lock().unwrap() = Shared { order: Some((role, point)), ..Shared::default() };
        if role == Role::Keeper {
            // Ignored by default, and a stop for the tracer.
            kill(self.keeper, Signal::SIGWINCH).expect("keeper runs");
        }
    }

    /// What became of it.
    pub fn state(&self) -> State {
        self.shared.lock().unwrap().state
    }

    /// No more of it; the calls that were made.
    pub fn end(&self) -> Vec<i64> {
        let mut shared = self.shared.lock().unwrap();
        shared.order = None;
        std::mem::take(&mut shared.walk)
    }
}

fn options() -> Options {
    let births = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    births | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD
}

/// What a traced process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kin {
    Keeper,
    /// Keeper's child, before its exec tells its role.
    Newborn,
    Is(Role),
    Stranger,
}

struct Tracee {
    kin: Kin,
    counting: bool,
    /// Its next stop is the end of a call.
    inside: bool,
    seen: HashMap<i64, usize>,
}

impl Tracee {
    fn new(kin: Kin) -> Self {
        Self { kin, counting: false, inside: false, seen: HashMap::new() }
    }
}

struct Tracing {
    shared: Arc<Mutex<Shared>>,
    keeper: Pid,
    tracees: HashMap<Pid, Tracee>,
    /// Stopped before their maker's stop told of them.
    early: HashSet<Pid>,
}

/// PTRACE_EVENT_STOP of ptrace(2): a newborn's first stop, or a group's.
const EVENT_STOP: i32 = 128;

impl Tracing {
    /// Until keeper is gone; the kernel then lets go of all others, since this thread ends.
    fn run(mut self) {
        let every = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            // Only looked at: keeper's own end is for the test that started it to wait for.
            let look = every | WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
            let Some(pid) = waitid(Id::All, look).ok().and_then(|s| s.pid()) else { break };
            if pid == self.keeper && has_ended(pid) {
                break;
            }
            // One that was stopped may be on its way to its end by now.
            match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(status) => self.on(status),
                Err(_) => break,
            }
        }
    }

    fn on(&mut self, status: WaitStatus) {
        use nix::libc::{PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC, PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK};
        match status {
            WaitStatus::PtraceEvent(pid, _, PTRACE_EVENT_CLONE | PTRACE_EVENT_FORK) => self.on_birth(pid, false),
            WaitStatus::PtraceEvent(pid, _, PTRACE_EVENT_VFORK) => self.on_birth(pid, true),
            WaitStatus::PtraceEvent(pid, _, PTRACE_EVENT_EXEC) => self.on_exec(pid),
            WaitStatus::PtraceEvent(pid, _, EVENT_STOP) if self.tracees.contains_key(&pid) => self.begin(pid),
            WaitStatus::PtraceEvent(pid, _, EVENT_STOP) => drop(self.early.insert(pid)),
            WaitStatus::PtraceSyscall(pid) => self.on_call(pid),
            WaitStatus::Stopped(pid, Signal::SIGWINCH) if pid == self.keeper => {
                if self.is_wanted(Kin::Keeper) {
                    self.count(pid, false);
                }
                self.go_on(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => self.on_end(pid),
            _ => {}
        }
    }

    fn on_end(&mut self, pid: Pid) {
        if self.tracees.remove(&pid).is_some_and(|t| t.counting) {
            self.over();
        }
    }

    fn on_birth(&mut self, maker: Pid, waits: bool) {
        let child = ptrace::getevent(maker).map(|n| Pid::from_raw(n as i32));
        let kin = match self.tracees[&maker].kin {
            Kin::Keeper => Kin::Newborn,
            // Launch waits for one that only tries whether it lives.
            Kin::Is(Role::Launch) if !waits => Kin::Is(Role::Pid1),
            Kin::Is(Role::Pid1) => Kin::Is(Role::Payload),
            _ => Kin::Stranger,
        };
        if let Ok(child) = child {
            self.tracees.insert(child, Tracee::new(kin));
            if self.early.remove(&child) {
                self.begin(child);
            }
        }
        self.go_on(maker, None);
    }

    /// The first stop of a newborn, or some later one of a group.
    fn begin(&mut self, pid: Pid) {
        let tracee = &self.tracees[&pid];
        match tracee.kin {
            kin @ Kin::Is(_) if !tracee.counting && self.is_wanted(kin) => {
                self.count(pid, false);
                self.go_on(pid, None);
            }
            Kin::Is(role) if !tracee.counting && !self.leads_on(role) => self.let_go(pid),
            Kin::Stranger => self.let_go(pid),
            _ => self.go_on(pid, None),
        }
    }

    fn on_exec(&mut self, pid: Pid) {
        let Some(tracee) = self.tracees.get_mut(&pid) else { return };
        match tracee.kin {
            Kin::Keeper => {
                let sealed = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|p| p.to_string_lossy().starts_with("/memfd:"));
                if sealed && self.is_wanted(Kin::Keeper) {
                    self.count(pid, true);
                }
                self.go_on(pid, None);
            }
            Kin::Newborn => {
                tracee.kin = role(pid);
                let kin = tracee.kin;
                if self.is_wanted(kin) {
                    self.count(pid, true);
                    self.go_on(pid, None);
                } else if matches!(kin, Kin::Is(role) if self.leads_on(role)) {
                    self.go_on(pid, None);
                } else {
                    self.let_go(pid);
                }
            }
            _ => {
                if tracee.counting {
                    self.over();
                }
                self.let_go(pid);
            }
        }
    }

    fn on_call(&mut self, pid: Pid) {
        let Some(tracee) = self.tracees.get_mut(&pid) else { return };
        tracee.inside = !tracee.inside;
        if tracee.inside
            && let Ok(registers) = ptrace::getregs(pid)
        {
            let call = registers.orig_rax as i64;
            let nth = tracee.seen.entry(call).or_default();
            *nth += 1;
            let here = Point { call, nth: *nth };
            let mut shared = self.shared.lock().unwrap();
            if shared.order.is_none() {
                tracee.counting = false;
            } else {
                shared.walk.push(call);
                if shared.order.is_some_and(|(_, point)| point == Some(here)) {
                    shared.state = State::Killed;
                    tracee.counting = false;
                    drop(shared);
                    let _ = kill(pid, Signal::SIGKILL);
                    return;
                }
            }
        }
        self.go_on(pid, None);
    }

    // ---- small steps ----

    /// A process of this kind is the next to be counted.
    fn is_wanted(&self, kin: Kin) -> bool {
        let shared = self.shared.lock().unwrap();
        let role = if kin == Kin::Keeper { Kin::Is(Role::Keeper) } else { kin };
        shared.state == State::Waiting && shared.order.is_some_and(|(wanted, _)| Kin::Is(wanted) == role)
    }

    /// Whoever is wanted may descend from this one.
    fn leads_on(&self, role: Role) -> bool {
        let shared = self.shared.lock().unwrap();
        let wanted = shared.order.filter(|_| shared.state == State::Waiting).map(|(wanted, _)| wanted);
        match role {
            Role::Launch => matches!(wanted, Some(Role::Pid1 | Role::Payload)),
            Role::Pid1 => wanted == Some(Role::Payload),
            _ => false,
        }
    }

    fn count(&mut self, pid: Pid, inside: bool) {
        self.shared.lock().unwrap().state = State::Counting;
        let tracee = self.tracees.get_mut(&pid).expect("is traced");
        (tracee.counting, tracee.inside) = (true, inside);
        tracee.seen.clear();
    }

    fn over(&self) {
        let mut shared = self.shared.lock().unwrap();
        if shared.state == State::Counting {
            shared.state = State::Over;
        }
    }

    /// One that died meanwhile is met again as such.
    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let counting = self.tracees.get(&pid).is_some_and(|t| t.counting);
        let _ = if counting { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
    }

    fn let_go(&mut self, pid: Pid) {
        self.tracees.remove(&pid);
        let _ = ptrace::detach(pid, None);
    }
}

fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn role(pid: Pid) -> Kin {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    match words.split(|b| *b == 0).nth(1) {
        Some(b"launch") => Kin::Is(Role::Launch),
        Some(b"stage") => Kin::Is(Role::Stage),
        _ => Kin::Stranger,
    }
}
