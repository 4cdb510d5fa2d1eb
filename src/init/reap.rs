//! The life of our pid 1: reap what ends, pass on what arrives, end with the payload.

use crate::container::exit_record::{self, ExitRecord};
use crate::sys::pid1;
use crate::sys::process::{Ended, exit_now};
use crate::sys::time::boottime;
use nix::libc;
use std::fs::File;

/// Waits until `payload` has ended, records how, and ends likewise; the kernel then kills whatever is left in the pid namespace.
pub fn until_end(payload: i32, record: &File) -> ! {
    loop {
        match pid1::next_signal() {
            // Several ends may share one SIGCHLD.
            Ok(libc::SIGCHLD) => {
                if let Some(ended) = reap(payload) {
                    end(record, ended);
                }
            }
            // A payload that has just ended is reaped by the SIGCHLD behind this.
            Ok(signal) => drop(pid1::kill(payload, signal)),
            Err(_) => {}
        }
    }
}

/// Takes all that have ended; how the payload has, if it is among them.
pub(super) fn reap(payload: i32) -> Option<Ended> {
    let mut ended = None;
    while let Ok(Some((pid, how))) = pid1::reap_any() {
        if pid == payload {
            ended = Some(how);
        }
    }
    ended
}

/// Records the end, and ends likewise.
pub(super) fn end(record: &File, ended: Ended) -> ! {
    // A full runtime directory costs the record, not the end.
    let _ = exit_record::write(record, &ExitRecord { ended, at: boottime() });
    exit_now(match ended {
        Ended::Code(code) => code.into(),
        Ended::Signal(signal) => 128 + i32::from(signal),
    })
}
