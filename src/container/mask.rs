//! Masked and read-only paths of procfs and sysfs.
//!
//! A masked file is covered by a null device, made before anything of the image was looked at: with the image's own `/dev/null`, a link
//! in its place makes the "mask" a writable mount of whatever it points to (CVE-2025-31133), and with the host's, changing the mask's mode would
//! change the host's. A masked directory is covered by one empty read-only tmpfs, shared by all.

use super::fail::OrFail;
use super::mounts::{HIDDEN, Tree};
use super::resolve::open_plain;
use crate::ipc::Failure;
use crate::sys::mount::{self, RDONLY};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What others mask too, and `mtd`, the map of a router's flash.
const PROC_MASKED: [&str; 11] =
    ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "mtd", "sched_debug", "scsi", "timer_list", "timer_stats"];

/// Whoever writes these acts on the whole machine: `cpu/alignment` of 32-bit ARM, for one, says what becomes of every unaligned access.
const PROC_READ_ONLY: [&str; 8] = ["bus", "cpu", "driver", "fs", "irq", "sys", "sysrq-trigger", "tty"];

/// Firmware tables and device tree; power figures, which tell secrets of other processes. A sysfs of our own has nothing mounted on
/// `kernel/debug` and `kernel/tracing`, but these are covered in case that changes.
const SYS_MASKED: [&str; 4] = ["firmware", "devices/virtual/powercap", "kernel/debug", "kernel/tracing"];

/// Most CPUs whose `thermal_throttle` is masked.
const MAX_CPUS: usize = 1024;

/// Covers what is to be masked, and makes the rest read-only. `proc` and `sys` are the mounts themselves, so no path of the image is walked.
pub fn apply(proc: BorrowedFd<'_>, sys: BorrowedFd<'_>, null: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut cover = Cover { null, empty: None };
    for path in PROC_MASKED {
        cover.over(proc, path).or_fail(|| format!("mask /proc/{path}"))?;
    }
    for path in PROC_READ_ONLY {
        read_only(proc, path).or_fail(|| format!("make /proc/{path} read-only"))?;
    }
    for path in SYS_MASKED.map(str::to_owned).into_iter().chain(thermal_throttle(sys)) {
        cover.over(sys, &path).or_fail(|| format!("mask /sys/{path}"))?;
    }
    Ok(())
}

/// x86 counts thermal events for each CPU: a side channel. Numbered without gaps, as far as they were ever present.
fn thermal_throttle(sys: BorrowedFd<'_>) -> Vec<String> {
    let paths = (0..MAX_CPUS).map(|n| format!("devices/system/cpu/cpu{n}/thermal_throttle"));
    paths.take_while(|p| open_plain(sys, p, OFlag::empty()).is_ok()).collect()
}

struct Cover<'a> {
    null: BorrowedFd<'a>,
    empty: Option<OwnedFd>,
}

impl Cover<'_> {
    fn over(&mut self, dir: BorrowedFd<'_>, path: &str) -> io::Result<()> {
        let Some(place) = existing(dir, path)? else { return Ok(()) };
        let is_dir = SFlag::from_bits_truncate(fstat(&place)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        match (is_dir, &self.empty) {
            (false, _) => mount::attach(mount::copy(self.null, false)?, place),
            (true, Some(empty)) => mount::attach(mount::copy(empty, false)?, place),
            (true, None) => {
                let empty = mount::create(c"tmpfs", &[(c"nr_inodes", Some("1")), (c"mode", Some("555"))], HIDDEN | RDONLY)?;
                // Attached before it is copied: kernels before 6.15 copy only what hangs in our own mount namespace.
                mount::attach(&empty, place)?;
                self.empty = Some(empty);
                Ok(())
            }
        }
    }
}

fn read_only(dir: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let Some(place) = existing(dir, path)? else { return Ok(()) };
    let tree = Tree::copy(&place, false)?;
    tree.attach(place.as_fd(), RDONLY)
}

fn existing(dir: BorrowedFd<'_>, path: &str) -> io::Result<Option<OwnedFd>> {
    match open_plain(dir, path, OFlag::empty()) {
        Ok(place) => Ok(Some(place)),
        Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
        Err(e) => Err(e),
    }
}
