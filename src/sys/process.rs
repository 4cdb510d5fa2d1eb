//! Making processes: roles by clone and exec of the sealed program, container processes by `clone3(2)`.

use nix::libc;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A new process, seen from its maker. The pidfd names this very process for ever; the number may be reused.
#[derive(Debug)]
pub struct Child {
    /// Process id in the maker's pid namespace.
    pub pid: i32,
    /// Readable once the process has exited.
    pub pidfd: OwnedFd,
}

/// What [`clone`] answers, once in each process.
#[derive(Debug)]
pub enum Cloned {
    /// We are the new process.
    Child,
    /// We made it.
    Parent(Child),
}

/// How to clone.
#[derive(Debug, Default, Clone, Copy)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*` and `CLONE_PARENT`; `CLONE_PIDFD` is added.
    pub flags: u64,
    /// Signal to the parent at exit; must be 0 with `CLONE_PARENT`, or the kernel answers EINVAL.
    pub exit_signal: u64,
    /// Directory of the cgroup v2 group to be born in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Linux's `struct clone_args`, version 2 (5.7).
#[repr(C)]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks this process by `clone3(2)` (Linux 5.3).
///
/// # Errors
/// Whatever the kernel answers; `EDEADLK` of our own when this process has more than one thread: a lock held by another
/// thread (the allocator's, say) would stay held in the child for ever.
pub fn clone(args: CloneArgs<'_>) -> io::Result<Cloned> {
    clone_single(args, Single::check()?)
}

/// Says that this process had one thread when asked. For who has to ask before `/proc` shows another pid namespace's processes; no thread
/// may be started in between.
#[derive(Debug)]
pub struct Single(());

impl Single {
    /// Asks.
    ///
    /// # Errors
    /// `EDEADLK` of our own when there are more.
    pub fn check() -> io::Result<Self> {
        if threads()? == 1 { Ok(Self(())) } else { Err(io::Error::from_raw_os_error(libc::EDEADLK)) }
    }
}

/// [`clone`] for who has asked already.
pub fn clone_single(args: CloneArgs<'_>, _: Single) -> io::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut raw = RawCloneArgs {
        flags: args.flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: args.exit_signal,
        ..RawCloneArgs::default()
    };
    let mut size = 64;
    if let Some(group) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = group.as_raw_fd() as u64;
        size = size_of::<RawCloneArgs>();
    }
    // SAFETY: the process is single-threaded, the child gets a copy of the address space (no CLONE_VM) and goes on from here on the same stack;
    // `raw` is a valid clone_args of the stated size, and `pidfd` is where the kernel writes the descriptor.
    let pid = super::cvt(unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel wrote a fresh descriptor that only we know.
    Ok(Cloned::Parent(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }))
}

/// Number of threads of this process: `/proc/self/task` has one directory, hence one link, for each beside its own two.
fn threads() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// Ends this process at once: no destructors, no flushing. For a cloned child, whose copies of its parent's objects must not be dropped.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches nothing of ours.
    unsafe { libc::_exit(code) }
}

/// A role to start from the sealed program.
pub struct Spawn<'a> {
    /// The sealed program.
    pub exe: BorrowedFd<'a>,
    /// Arguments, the program's name first.
    pub argv: &'a [CString],
    /// Environment, `NAME=value`.
    pub env: &'a [CString],
    /// Become descriptors 3, 4, … of the role. Everything else closes at exec, standard error stays.
    pub fds: &'a [BorrowedFd<'a>],
    /// Further `CLONE_NEW*` flags.
    pub flags: i32,
}

struct Plan<'a> {
    exe: RawFd,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    fds: &'a [RawFd],
    errno: i32,
}

/// Starts a role. The child shares our memory until exec while we sleep (`CLONE_VM | CLONE_VFORK`): nothing is copied.
///
/// # Errors
/// Whatever clone(2) or, in the child, dup3(2) or execveat(2) answered.
pub fn spawn(what: &Spawn<'_>) -> io::Result<Child> {
    const STACK: usize = 32 * 1024;
    let (argv, env) = (super::exe::pointers(what.argv), super::exe::pointers(what.env));
    // Copies above the targets first, so that no dup over a target can hit a source that is still needed.
    let lowest = super::fd::FIRST + what.fds.len() as RawFd + 1;
    let moved = what.fds.iter().chain(std::iter::once(&what.exe)).map(|fd| dup_above(*fd, lowest)).collect::<io::Result<Vec<_>>>()?;
    let raw: Vec<RawFd> = moved.iter().map(AsRawFd::as_raw_fd).collect();
    let (exe, fds) = raw.split_last().expect("exe is always there");
    let mut plan = Plan { exe: *exe, argv: argv.as_ptr(), env: env.as_ptr(), fds, errno: 0 };
    let mut stack = vec![0u128; STACK / 16];
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | what.flags;
    // SAFETY: CLONE_VFORK keeps us asleep until the child has exec'd or exited, so `plan`, `stack` and all they point to outlive its use of them;
    // the child runs `enter` on its own aligned stack, whose end is passed because stacks grow downwards on every Linux target.
    let pid = super::cvt(
        unsafe {
            let top = stack.as_mut_ptr_range().end;
            libc::clone(enter, top.cast(), flags, (&raw mut plan).cast(), &raw mut pidfd)
        }
        .into(),
    )?;
    // SAFETY: the kernel wrote a fresh descriptor that only we know.
    let child = Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    if plan.errno == 0 {
        return Ok(child);
    }
    reap(child.pid)?;
    Err(io::Error::from_raw_os_error(plan.errno))
}

fn dup_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let number = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: fcntl has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Runs in the child on borrowed memory: system calls only, no allocation, no unwinding.
extern "C" fn enter(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `plan` is the Plan of the sleeping parent; every pointer in it stays valid until we exec or exit.
    unsafe {
        let plan = &mut *plan.cast::<Plan<'_>>();
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        for (i, fd) in plan.fds.iter().enumerate() {
            if libc::dup3(*fd, super::fd::FIRST + i as RawFd, 0) == -1 {
                plan.errno = errno();
                return 127;
            }
        }
        libc::syscall(libc::SYS_execveat, plan.exe, c"".as_ptr(), plan.argv, plan.env, libc::AT_EMPTY_PATH);
        plan.errno = errno();
        127
    }
}

fn errno() -> i32 {
    nix::errno::Errno::last_raw()
}

/// Sets how likely the OOM killer takes this process, -1000 (never) to 1000 (first); children inherit it.
///
/// # Errors
/// `EACCES` when it would be lowered without CAP_SYS_RESOURCE.
pub fn set_oom_score(score: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ended {
    /// By exit(2), with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(n) => write!(f, "code {n}"),
            Self::Signal(n) => write!(f, "signal {n}"),
        }
    }
}

/// Waits for child `pid`, also one that sends no SIGCHLD because it was cloned with exit signal 0.
pub fn reap(pid: i32) -> io::Result<Ended> {
    wait(pid, libc::__WALL).map(|e| e.expect("a blocking wait has an answer"))
}

/// Like [`reap`], but answers `None` while the child still runs.
pub fn try_reap(pid: i32) -> io::Result<Option<Ended>> {
    wait(pid, libc::__WALL | libc::WNOHANG)
}

fn wait(pid: i32, flags: libc::c_int) -> io::Result<Option<Ended>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the kernel to write.
        match super::cvt(unsafe { libc::waitpid(pid, &raw mut status, flags) }.into()) {
            Ok(0) => return Ok(None),
            Ok(_) if libc::WIFEXITED(status) => return Ok(Some(Ended::Code(libc::WEXITSTATUS(status) as u8))),
            Ok(_) if libc::WIFSIGNALED(status) => return Ok(Some(Ended::Signal(libc::WTERMSIG(status) as u8))),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
