//! A clock that is right, or not.

use super::{Signal, eventually, kill};
use std::fs;
use std::process::{Child, Command, Stdio};

/// What the kernel tells keeper of its clock: strace answers adjtimex(2) in its place, until the end of this.
pub struct Clock(Child);

impl Clock {
    /// Somebody keeps it right.
    pub fn right(keeper: i32) -> Self {
        Self::told(keeper, 0)
    }

    /// Nobody has set it (`TIME_ERROR`).
    pub fn unknown(keeper: i32) -> Self {
        Self::told(keeper, 5)
    }

    fn told(keeper: i32, answer: u32) -> Self {
        let inject = format!("inject=adjtimex:retval={answer}");
        let mut strace = Command::new("strace");
        strace.args(["-o", "/dev/null", "-p", &keeper.to_string(), "-e", &inject]).stdin(Stdio::null()).stderr(Stdio::null());
        let child = strace.spawn().expect("strace is installed");
        let tracer = format!("TracerPid:\t{}", child.id());
        let traced = || fs::read_to_string(format!("/proc/{keeper}/status")).is_ok_and(|s| s.contains(&tracer));
        eventually("strace is attached", || traced().then_some(()));
        Self(child)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        kill(self.0.id() as i32, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
