//! One [`Sample`] from the files of a group. Every figure is read where its controller lives; what cannot be read is `None` with its reason.

use super::files::Buffer;
use super::group::{Group, Version, tree};
use super::{parse, prepare};
use crate::stats::{Psi, Sample};
use nix::libc;
use std::io;
use std::path::{Path, PathBuf};

impl Group {
    /// Reads all figures of the group. `pid` is a process in the container's network namespace; with `host_network` the links are the
    /// device's, and their traffic is not the container's.
    pub fn sample(&self, pid: Option<i32>, host_network: bool) -> Sample {
        let mut r = Reading { group: self, buffer: Buffer::default(), sample: Sample::default() };
        r.cpu();
        r.memory();
        r.pids();
        r.io();
        r.net(pid, host_network);
        r.psi();
        r.sample
    }

    /// Processes killed for lack of memory alone.
    pub fn oom_kills(&self) -> Option<u64> {
        let (version, dir) = self.home("memory", "memory")?;
        Reading { group: self, buffer: Buffer::default(), sample: Sample::default() }.oom_kills(version, &dir)
    }
}

struct Reading<'a> {
    group: &'a Group,
    buffer: Buffer,
    sample: Sample,
}

impl Reading<'_> {
    fn absent(&mut self, what: &str, why: impl Into<String>) {
        self.sample.absent.push((what.to_owned(), why.into()));
    }

    /// The file's figure, or `None` if it is not there or holds none.
    fn get<T>(&mut self, dir: &Path, file: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.buffer.read(&dir.join(file)).ok().and_then(parse)
    }

    /// The directory of a controller; otherwise says that it is absent.
    fn home(&mut self, v1: &str, v2: &str) -> Option<(Version, PathBuf)> {
        let home = self.group.home(v1, v2);
        if home.is_none() {
            self.absent(v2, prepare::symbol(v2));
        }
        home
    }

    fn cpu(&mut self) {
        self.sample.cpu_usage_us = self.cpu_usage();
        if self.sample.cpu_usage_us.is_none() {
            self.absent("cpu", "CONFIG_CGROUP_CPUACCT");
        }
        let Some((version, dir)) = self.group.home("cpu", "cpu") else {
            return self.absent("cpu.throttled", prepare::symbol("cpu"));
        };
        let text = self.buffer.read(&dir.join("cpu.stat")).unwrap_or_default();
        let throttled = match version {
            Version::One => parse::field(text, "throttled_time").map(|ns| ns / 1000),
            Version::Two => parse::field(text, "throttled_usec"),
        };
        self.sample.cpu_nr_throttled = parse::field(text, "nr_throttled");
        self.sample.cpu_throttled_us = throttled;
        if throttled.is_none() {
            // A v2 group without the controller still has cpu.stat, with usage alone; so has a kernel without bandwidth control.
            let why = if dir.join("cpu.weight").exists() { "CONFIG_CFS_BANDWIDTH" } else { "controller cpu is not switched on" };
            self.absent("cpu.throttled", why);
        }
    }

    /// v2 groups have `usage_usec` without any controller, so on a hybrid it stands in for a missing cpuacct.
    fn cpu_usage(&mut self) -> Option<u64> {
        match self.group.home("cpuacct", "") {
            Some((_, dir)) => self.get(&dir, "cpuacct.usage", parse::number).map(|ns| ns / 1000),
            None => self.group.unified().and_then(|dir| self.get(&dir, "cpu.stat", |t| parse::field(t, "usage_usec"))),
        }
    }

    fn memory(&mut self) {
        let Some((version, dir)) = self.home("memory", "memory") else { return };
        let (current, peak, max, inactive) = match version {
            Version::One => ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
            Version::Two => ("memory.current", "memory.peak", "memory.max", "inactive_file"),
        };
        self.sample.memory_current = self.get(&dir, current, parse::number);
        let Some(used) = self.sample.memory_current else {
            return self.absent("memory", "controller memory is not switched on for the group");
        };
        let dropped = self.get(&dir, "memory.stat", |t| parse::field(t, inactive));
        self.sample.memory_working_set = dropped.map(|n| crate::stats::working_set(used, n));
        self.sample.memory_max = self.get(&dir, max, parse::limit);
        self.sample.memory_peak = self.get(&dir, peak, parse::number);
        if self.sample.memory_peak.is_none() {
            self.absent("memory.peak", "Linux before 5.19");
        }
        self.sample.memory_oom_kill = self.oom_kills(version, &dir);
        if self.sample.memory_oom_kill.is_none() {
            self.absent("memory.oom_kill", "Linux before 4.13");
        }
    }

    /// v1 counts a kill only in the group where it happened.
    fn oom_kills(&mut self, version: Version, dir: &Path) -> Option<u64> {
        if version == Version::Two {
            return self.get(dir, "memory.events", |t| parse::field(t, "oom_kill"));
        }
        let counts = tree(dir).into_iter().filter_map(|g| self.get(&g, "memory.oom_control", |t| parse::field(t, "oom_kill")));
        counts.reduce(u64::saturating_add)
    }

    fn pids(&mut self) {
        let Some((_, dir)) = self.home("pids", "pids") else { return };
        self.sample.pids_current = self.get(&dir, "pids.current", parse::number);
        if self.sample.pids_current.is_none() {
            self.absent("pids", "controller pids is not switched on for the group");
        }
    }

    fn io(&mut self) {
        let Some((version, dir)) = self.home("blkio", "io") else { return };
        let counted = match version {
            Version::One => self.blkio(&dir),
            Version::Two => self.io_stat(&dir),
        };
        match counted {
            Ok((read, written)) => (self.sample.io_read, self.sample.io_write) = (Some(read), Some(written)),
            Err(why) => self.absent("io", why),
        }
    }

    fn blkio(&mut self, dir: &Path) -> Result<(u64, u64), &'static str> {
        // The recursive file came later than the plain one, which leaves out sub-groups.
        let files = ["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"];
        let Some(file) = files.into_iter().find(|f| dir.join(f).exists()) else {
            return Err("CONFIG_BLK_DEV_THROTTLING");
        };
        // A disk is counted from the moment that a throttle rule for it exists anywhere, and listed from then on; Linux 6.1 lists it before,
        // with zeros whatever was written. A zero that may not be true is none.
        self.get(dir, file, parse::blkio).filter(|sum| *sum != (0, 0)).ok_or("cgroup v1 counts nothing before a throttle rule exists")
    }

    fn io_stat(&mut self, dir: &Path) -> Result<(u64, u64), &'static str> {
        let Ok(text) = self.buffer.read(&dir.join("io.stat")) else {
            return Err("controller io is not switched on for the group");
        };
        if let Some(sum) = parse::io_stat(text) {
            return Ok(sum);
        }
        // Nothing listed is nothing done, unless there is no disk that could be listed: raw flash (UBIFS, JFFS2) has no block layer.
        let disks = self.get(Path::new("/proc"), "diskstats", |t| Some(crate::stats::device::has_disk(t)));
        if disks == Some(false) { Err("no block device: raw flash is not counted") } else { Ok((0, 0)) }
    }

    fn net(&mut self, pid: Option<i32>, host_network: bool) {
        let Some(pid) = pid.filter(|_| !host_network) else {
            return self.absent("net", if host_network { "network mode host" } else { "not running" });
        };
        match self.get(Path::new("/proc"), &format!("{pid}/net/dev"), parse::net_dev) {
            Some((rx, tx)) => (self.sample.net_rx, self.sample.net_tx) = (Some(rx), Some(tx)),
            None => self.absent("net", "its process is gone, or CONFIG_PROC_FS"),
        }
    }

    fn psi(&mut self) {
        let Some(dir) = self.group.unified() else { return self.absent("psi", "cgroup v1 has none") };
        match self.pressures(&dir) {
            Ok(psi) => self.sample.psi = Some(psi),
            // Switched off by `psi=0` or CONFIG_PSI_DEFAULT_DISABLED: the files are there and refuse.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => self.absent("psi", "psi=1 is not on the kernel command line"),
            Err(_) => self.absent("psi", "CONFIG_PSI"),
        }
    }

    fn pressures(&mut self, dir: &Path) -> io::Result<Psi> {
        let mut one = |file: &str| {
            let text = self.buffer.read(&dir.join(file))?;
            parse::pressure(text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        Ok(Psi { cpu: one("cpu.pressure")?, memory: one("memory.pressure")?, io: one("io.pressure")? })
    }
}
