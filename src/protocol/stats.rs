//! The statistics message, `out/stats`.

use super::payload::{Entries, encode};
use crate::ipc::{DeviceSample, StatsRow};
use crate::stats::{Psi, Sample};
use serde::{Deserialize, Serialize};

/// Largest statistics message: an MQTT packet has at most 64 KiB with its topic.
pub const MAX_STATS: usize = 60 * 1024;

/// One round of statistics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the wire contract")]
pub struct Stats {
    /// Schema of the message: 1.
    pub wherry: u8,
    /// Keeper's count of fresh starts.
    pub boot: u64,
    /// Seconds since the device started.
    pub uptime_s: u64,
    /// Seconds between two rounds.
    pub interval_s: u32,
    pub device: Device,
    /// By `app/container`.
    pub containers: Entries<Figures>,
    /// Why a figure is null: `memory.peak` → the reason.
    pub absent: Entries<String>,
}

/// Figures of the device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// `MemAvailable`, bytes.
    pub mem_available: Option<u64>,
    /// Load average of the last minute.
    pub load1: Option<f32>,
    /// Bytes written to the block device below the data directory since boot.
    pub flash_written: Option<u64>,
    /// Proportional memory of keeper and agent, bytes.
    pub agent_pss: Option<u64>,
}

/// Figures of one container; totals count from its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the wire contract")]
pub struct Figures {
    pub cpu: Cpu,
    pub memory: Memory,
    pub pids: Pids,
    pub io: Io,
    pub net: Net,
    pub psi: Option<Pressures>,
}

/// CPU time, microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented in stats::Sample")]
pub struct Cpu {
    pub usage_us: Option<u64>,
    pub throttled_us: Option<u64>,
    pub nr_throttled: Option<u64>,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented in stats::Sample")]
pub struct Memory {
    pub current: Option<u64>,
    pub working_set: Option<u64>,
    pub peak: Option<u64>,
    pub max: Option<u64>,
    pub oom_kill: Option<u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented in stats::Sample")]
pub struct Pids {
    pub current: Option<u64>,
}

/// Block devices, bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented in stats::Sample")]
pub struct Io {
    pub read: Option<u64>,
    pub write: Option<u64>,
}

/// Network, bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented in stats::Sample")]
pub struct Net {
    pub rx: Option<u64>,
    pub tx: Option<u64>,
}

/// Pressure stall information.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented in stats::Psi")]
pub struct Pressures {
    pub cpu: Pressure,
    pub memory: Pressure,
    pub io: Pressure,
}

/// Percent of the last ten seconds in which some task waited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "said above")]
pub struct Pressure {
    pub some_avg10: f32,
}

impl From<&Sample> for Figures {
    fn from(s: &Sample) -> Self {
        Self {
            cpu: Cpu { usage_us: s.cpu_usage_us, throttled_us: s.cpu_throttled_us, nr_throttled: s.cpu_nr_throttled },
            memory: Memory {
                current: s.memory_current,
                working_set: s.memory_working_set,
                peak: s.memory_peak,
                max: s.memory_max,
                oom_kill: s.memory_oom_kill,
            },
            pids: Pids { current: s.pids_current },
            io: Io { read: s.io_read, write: s.io_write },
            net: Net { rx: s.net_rx, tx: s.net_tx },
            psi: s.psi.map(|Psi { cpu, memory, io }| Pressures {
                cpu: Pressure { some_avg10: cpu },
                memory: Pressure { some_avg10: memory },
                io: Pressure { some_avg10: io },
            }),
        }
    }
}

impl From<&DeviceSample> for Device {
    fn from(d: &DeviceSample) -> Self {
        Self { mem_available: d.mem_available, load1: d.load1, flash_written: d.flash_written, agent_pss: d.agent_pss }
    }
}

/// One round as payloads, each complete and at most [`MAX_STATS`]: many containers are spread over several.
pub fn stats(boot: u64, interval_s: u32, device: &DeviceSample, rows: &[StatsRow]) -> Vec<Vec<u8>> {
    let message = Stats {
        wherry: 1,
        boot,
        uptime_s: device.uptime_s,
        interval_s,
        device: device.into(),
        containers: rows.iter().map(|r| (format!("{}/{}", r.app, r.container), Figures::from(&r.sample))).collect(),
        absent: absent(device, rows),
    };
    let payload = encode(&message);
    if payload.len() <= MAX_STATS || rows.len() < 2 {
        return vec![payload];
    }
    let (left, right) = rows.split_at(rows.len() / 2);
    [left, right].into_iter().flat_map(|half| stats(boot, interval_s, device, half)).collect()
}

/// All reasons by figure. Where containers differ (one is in the device's network), both reasons stand there.
fn absent(device: &DeviceSample, rows: &[StatsRow]) -> Entries<String> {
    let mut merged: Vec<(String, String)> = Vec::new();
    for (key, reason) in device.absent.iter().chain(rows.iter().flat_map(|r| &r.sample.absent)) {
        match merged.iter_mut().find(|(k, _)| k == key) {
            None => merged.push((key.clone(), reason.clone())),
            Some((_, known)) if known.split("; ").any(|k| k == reason) => {}
            Some((_, known)) => *known = format!("{known}; {reason}"),
        }
    }
    Entries(merged)
}

#[cfg(test)]
mod tests {
    use super::{MAX_STATS, Stats, stats};
    use crate::ipc::{DeviceSample, StatsRow};
    use crate::stats::Sample;

    fn row(app: usize, container: usize, absent: &[(&str, &str)]) -> StatsRow {
        let absent = absent.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let big = Some(u64::MAX);
        let sample =
            Sample { cpu_usage_us: big, memory_current: big, memory_peak: big, net_rx: big, net_tx: big, absent, ..Sample::default() };
        let (app, container) = (format!("an-app-with-a-long-name-{app}"), format!("a-container-{container}"));
        StatsRow { app: app.parse().unwrap(), container: container.parse().unwrap(), uptime_s: 1, sample }
    }

    #[test]
    fn the_largest_device_is_split_into_whole_messages() {
        let rows: Vec<_> = (0..256).map(|i| row(i / 8, i % 8, &[("psi", "CONFIG_PSI")])).collect();
        let parts = stats(1, 60, &DeviceSample::default(), &rows);
        assert!(parts.len() > 1 && parts.iter().all(|p| p.len() <= MAX_STATS));
        let read: Vec<Stats> = parts.iter().map(|p| serde_json::from_slice(p).unwrap()).collect();
        let names: Vec<_> = read.iter().flat_map(|s| s.containers.0.iter().map(|(name, _)| name.clone())).collect();
        let expected: Vec<_> = rows.iter().map(|r| format!("{}/{}", r.app, r.container)).collect();
        assert_eq!(names, expected);
        assert!(read.iter().all(|s| s.absent.get("psi").map(String::as_str) == Some("CONFIG_PSI") && s.interval_s == 60));
    }

    #[test]
    fn a_small_device_sends_one_message_even_without_containers() {
        let parts = stats(3, 2, &DeviceSample { uptime_s: 9, ..DeviceSample::default() }, &[]);
        let read: Stats = serde_json::from_slice(&parts[0]).unwrap();
        assert_eq!((parts.len(), read.boot, read.uptime_s), (1, 3, 9));
    }

    #[test]
    fn reasons_are_told_once_and_different_ones_side_by_side() {
        let device = DeviceSample { absent: vec![("flash_written".into(), "no block device".into())], ..DeviceSample::default() };
        let rows = [row(1, 1, &[("net", "host network")]), row(1, 2, &[("net", "host network"), ("io", "a")]), row(1, 3, &[("io", "b")])];
        let read: Stats = serde_json::from_slice(&stats(1, 60, &device, &rows)[0]).unwrap();
        let absent: Vec<_> = read.absent.0.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(absent, [("flash_written", "no block device"), ("net", "host network"), ("io", "a; b")]);
    }
}
