//! Readings of the device itself, for the statistics message.

use crate::ipc::DeviceSample;
use crate::stats::device as parse;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Longest file read here: `/proc/diskstats` of some hundred disks.
const MAX_FILE: usize = 64 * 1024;

/// Reads the device. `data_dir` says on which disk flash writes are counted; `pids` are our own processes, whose proportional memory is
/// summed.
pub fn sample(data_dir: &Path, pids: &[i32]) -> DeviceSample {
    let mut absent = Vec::new();
    let mut note = |what: &str, why: Result<u64, &str>| why.map_err(|w| absent.push((what.to_owned(), w.to_owned()))).ok();
    let flash_written = note("flash_written", flash_written(data_dir));
    let agent_pss = note("agent_pss", own_pss(pids));
    let mem_available = note("mem_available", read("/proc/meminfo").and_then(|t| parse::mem_available(&t)).ok_or("CONFIG_PROC_FS"));
    let load1 = read("/proc/loadavg").and_then(|t| parse::load1(&t));
    DeviceSample { mem_available, load1, flash_written, agent_pss, uptime_s: crate::sys::time::boottime().as_secs(), absent }
}

/// All memory of the device in bytes, as far as the kernel has it (sysinfo(2)).
pub fn memory() -> Option<u64> {
    let info = nix::sys::sysinfo::sysinfo().ok()?;
    Some(info.ram_total())
}

fn read(path: &str) -> Option<String> {
    let raw = crate::sys::fd::read_file(path, MAX_FILE).ok()?;
    String::from_utf8(raw).ok()
}

fn flash_written(data_dir: &Path) -> Result<u64, &'static str> {
    let dev = std::fs::metadata(data_dir).map_err(|_| "the data directory cannot be read")?.dev();
    // Major number 0 is handed to file systems without a block device: UBIFS, JFFS2, overlay, tmpfs.
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    if major == 0 {
        return Err("the data directory's file system has no block device");
    }
    let text = read("/proc/diskstats").ok_or("CONFIG_PROC_FS")?;
    parse::written(&text, major, minor).ok_or("the data directory's disk is not in /proc/diskstats")
}

/// Sum over `pids`; one that is gone, or a kernel without smaps_rollup, makes the sum unknown rather than too small.
fn own_pss(pids: &[i32]) -> Result<u64, &'static str> {
    let one = |pid: &i32| read(&format!("/proc/{pid}/smaps_rollup")).and_then(|t| parse::pss(&t));
    pids.iter().map(one).sum::<Option<u64>>().ok_or("a process is gone, or CONFIG_PROC_PAGE_MONITOR")
}
