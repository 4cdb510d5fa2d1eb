//! Samples of what a container uses, and the figures made of them. Pure: reading is done elsewhere.

pub mod device;

use serde::{Deserialize, Serialize};

/// One reading of one container. `None` is a figure that this kernel cannot give; the reason stands in [`Sample::absent`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// CPU time used, microseconds.
    pub cpu_usage_us: Option<u64>,
    /// Time runnable but held back by the quota, microseconds.
    pub cpu_throttled_us: Option<u64>,
    /// Quota periods in which that happened.
    pub cpu_nr_throttled: Option<u64>,
    /// Bytes charged, page cache included.
    pub memory_current: Option<u64>,
    /// Bytes charged without inactive file pages, which the kernel can drop at once.
    pub memory_working_set: Option<u64>,
    /// Highest `memory_current` ever.
    pub memory_peak: Option<u64>,
    /// The limit in force, `None` if unlimited or unknown.
    pub memory_max: Option<u64>,
    /// Processes killed by the OOM killer, sub-groups included.
    pub memory_oom_kill: Option<u64>,
    /// Processes and threads now.
    pub pids_current: Option<u64>,
    /// Bytes read from block devices.
    pub io_read: Option<u64>,
    /// Bytes written to block devices.
    pub io_write: Option<u64>,
    /// Bytes received on all links, loopback included.
    pub net_rx: Option<u64>,
    /// Bytes sent on all links, loopback included.
    pub net_tx: Option<u64>,
    /// Percent of the last ten seconds in which some task waited for CPU, memory, I/O.
    pub psi: Option<Psi>,
    /// Why a figure is missing: (`io`, `no throttle rule`) …
    pub absent: Vec<(String, String)>,
}

/// Pressure stall information, `some avg10` (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Psi {
    /// Percent waiting for CPU.
    pub cpu: f32,
    /// Percent waiting for memory.
    pub memory: f32,
    /// Percent waiting for I/O.
    pub io: f32,
}

/// Bytes that the kernel cannot drop at once: all that is charged without inactive file pages. 0 when the two, which are read one after
/// the other, cross.
pub fn working_set(current: u64, inactive_file: u64) -> u64 {
    current.saturating_sub(inactive_file)
}
