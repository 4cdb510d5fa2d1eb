//! Which cgroup hierarchies this machine has, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use serde::{Deserialize, Serialize};

/// The hierarchies, by where they are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Each v1 controller (`memory`, `cpu`, `cpuacct`, `pids`, `blkio`, `freezer`, `devices`, `cpuset`, …) with its mount
    /// point; two controllers may share one.
    pub v1: Vec<(String, String)>,
    /// Mount point of the v2 hierarchy.
    pub unified: Option<String>,
    /// Controllers that the v2 root offers (`cgroup.controllers`); empty on a hybrid.
    pub controllers: Vec<String>,
}
