//! A program whose clock says what a test wants, without touching the machine's.
//!
//! A static program takes the time from the kernel's vDSO, which no library can come before and no system call filter sees. So it is traced: at
//! its exec the address of the vDSO is taken out of the auxiliary vector (getauxval(3)), whereupon the C library asks by system call, and
//! answers about `CLOCK_REALTIME` are replaced on their way back.

use nix::libc::{self, c_long, c_void};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Auxiliary vector, from linux/auxvec.h: end, ignore, and where the vDSO lies.
const AT_NULL: c_long = 0;
const AT_IGNORE: c_long = 1;
const AT_SYSINFO_EHDR: c_long = 33;

/// Lets a stopped process go on, which is about to exec the program, and sets its clock. Returns how often it was told a time; the thread that
/// does it ends with the process.
pub fn set(pid: i32, seconds: i64) -> Arc<AtomicUsize> {
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    std::thread::spawn(move || {
        let pid = Pid::from_raw(pid);
        ptrace::seize(pid, Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD).expect("the process can be traced");
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        let _ = follow(pid, seconds, &count);
    });
    told
}

fn follow(pid: Pid, seconds: i64, told: &AtomicUsize) -> nix::Result<()> {
    let (mut replaced, mut leaving) = (false, false);
    loop {
        let signal = match waitpid(pid, Some(WaitPidFlag::__WALL))? {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => {
                hide_vdso(pid)?;
                (replaced, leaving) = (true, true);
                None
            }
            WaitStatus::PtraceSyscall(_) => {
                if leaving && replaced {
                    tell(pid, seconds, told)?;
                }
                leaving = !leaving;
                None
            }
            WaitStatus::Stopped(_, signal)
                if signal != nix::sys::signal::Signal::SIGSTOP && signal != nix::sys::signal::Signal::SIGTRAP =>
            {
                Some(signal)
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(()),
            _ => None,
        };
        if replaced { ptrace::syscall(pid, signal)? } else { ptrace::cont(pid, signal)? }
    }
}

/// The stack of a new program: argc, arguments, null, environment, null, and the vector in pairs.
fn hide_vdso(pid: Pid) -> nix::Result<()> {
    let word = |at: u64| ptrace::read(pid, at as *mut c_void);
    let mut at = ptrace::getregs(pid)?.rsp + 8;
    for _ in 0..2 {
        while word(at)? != 0 {
            at += 8;
        }
        at += 8;
    }
    while word(at)? != AT_NULL {
        if word(at)? == AT_SYSINFO_EHDR {
            ptrace::write(pid, at as *mut c_void, AT_IGNORE)?;
        }
        at += 16;
    }
    Ok(())
}

fn tell(pid: Pid, seconds: i64, told: &AtomicUsize) -> nix::Result<()> {
    let regs = ptrace::getregs(pid)?;
    if (regs.orig_rax, regs.rdi, regs.rax) == (libc::SYS_clock_gettime as u64, libc::CLOCK_REALTIME as u64, 0) {
        ptrace::write(pid, regs.rsi as *mut c_void, seconds)?;
        told.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}
