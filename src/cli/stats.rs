//! `stats`: a table of what each container uses. CPU% needs two readings.

use super::args::Call;
use super::client::{Client, unexpected};
use super::print::{self, Table, duration, or_dash, size};
use crate::exit::{Error, visible};
use crate::ipc::{DeviceSample, Reply, Request, StatsRow};
use crate::protocol::{Figures, encode};
use crate::stats::Sample;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between the two readings of a single table.
const PAUSE: Duration = Duration::from_secs(1);

/// Seconds between tables unless told otherwise.
const WATCH: u64 = 2;

/// One round of readings.
struct Round {
    at: Instant,
    device: DeviceSample,
    rows: Vec<StatsRow>,
}

/// `wherry stats [--watch [SECONDS]]`.
pub fn stats(call: &Call) -> Result<u8, Error> {
    let parse = |s: &str| s.parse().ok().filter(|n| (1..=86400).contains(n)).ok_or("must be 1 to 86400 seconds".to_owned());
    let every = call.parsed("watch", parse)?.unwrap_or(WATCH);
    let (path, watch) = (call.socket(), call.has("watch"));
    let mut before = read(&path)?;
    loop {
        std::thread::sleep(if watch { Duration::from_secs(every) } else { PAUSE });
        let now = read(&path)?;
        show(&before, &now, call.json(), watch)?;
        if !watch {
            return Ok(0);
        }
        before = now;
    }
}

fn read(path: &Path) -> Result<Round, Error> {
    match Client::ask(path, &Request::Stats)? {
        Reply::Stats { device, rows } => Ok(Round { at: Instant::now(), device, rows }),
        _ => Err(unexpected("stats")),
    }
}

fn show(before: &Round, now: &Round, as_json: bool, watch: bool) -> Result<(), Error> {
    let elapsed = now.at.duration_since(before.at);
    if as_json {
        return print::json(&document(&before.rows, now, elapsed));
    }
    let mut out = String::new();
    if watch && print::on_terminal() {
        out.push_str("\x1b[H\x1b[2J");
    }
    out.push_str(&device_line(&now.device));
    out.push_str(&table(&before.rows, &now.rows, elapsed));
    out.push_str(&footnotes(now));
    print::bytes(out.as_bytes())
}

fn device_line(d: &DeviceSample) -> String {
    format!(
        "up {}   load {}   memory available {}   flash written {}   wherry itself {}\n",
        duration(d.uptime_s),
        or_dash(d.load1, |l| format!("{l:.2}")),
        or_dash(d.mem_available, size),
        or_dash(d.flash_written, size),
        or_dash(d.agent_pss, size),
    )
}

fn table(before: &[StatsRow], now: &[StatsRow], elapsed: Duration) -> String {
    let mut t = Table::new(&["CONTAINER", "CPU%", "MEM/MAX", "WORKING-SET", "PIDS", "NET I/O", "IO", "OOM", "THROTTLED"]);
    for row in now {
        let s = &row.sample;
        let pair = |a, b| format!("{} / {}", or_dash(a, size), or_dash(b, size));
        t.row(&[
            format!("{}/{}", row.app, row.container),
            or_dash(cpu_percent(before, row, elapsed), |p| format!("{p:.1}")),
            pair(s.memory_current, s.memory_max),
            or_dash(s.memory_working_set, size),
            or_dash(s.pids_current, |n| n.to_string()),
            pair(s.net_rx, s.net_tx),
            pair(s.io_read, s.io_write),
            or_dash(s.memory_oom_kill, |n| n.to_string()),
            or_dash(s.cpu_throttled_us, throttled),
        ]);
    }
    t.text()
}

fn throttled(us: u64) -> String {
    format!("{:.1}s", us as f64 / 1e6)
}

/// Percent of one CPU since the reading before. `None` for a container that is new, or whose counter began again.
fn cpu_percent(before: &[StatsRow], row: &StatsRow, elapsed: Duration) -> Option<f64> {
    let old = before.iter().find(|b| b.app == row.app && b.container == row.container)?;
    let used = row.sample.cpu_usage_us?.checked_sub(old.sample.cpu_usage_us?)?;
    let fresh = row.uptime_s < old.uptime_s || elapsed.is_zero();
    (!fresh).then(|| used as f64 * 100.0 / elapsed.as_micros() as f64)
}

/// Each missing figure with its reason, once for the same reason in several containers.
fn footnotes(now: &Round) -> String {
    let all = now.rows.iter().flat_map(|r| &r.sample.absent).chain(&now.device.absent);
    let unique: BTreeSet<_> = all.collect();
    unique.into_iter().map(|(figure, why)| format!("- {}: {}\n", visible(figure), visible(why))).collect()
}

fn document(before: &[StatsRow], now: &Round, elapsed: Duration) -> Value {
    let containers = now.rows.iter().map(|row| {
        let mut value = figures(&row.sample);
        value["uptime_s"] = row.uptime_s.into();
        value["cpu"]["percent"] = json!(cpu_percent(before, row, elapsed));
        (format!("{}/{}", row.app, row.container), value)
    });
    let d = &now.device;
    json!({
        "device": {
            "uptime_s": d.uptime_s, "load1": d.load1.map(hundredths), "mem_available": d.mem_available, "flash_written": d.flash_written,
            "agent_pss": d.agent_pss, "absent": reasons(&d.absent),
        },
        "containers": containers.collect::<serde_json::Map<_, _>>(),
    })
}

/// The figures as the MQTT message has them, and why some are missing.
fn figures(s: &Sample) -> Value {
    // By way of its text: a 32-bit float as a number of its own would be printed with noise behind two decimals.
    let mut value: Value = serde_json::from_slice(&encode(&Figures::from(s))).unwrap_or_default();
    value["absent"] = reasons(&s.absent);
    value
}

/// Such figures come with two decimals; as `f32` they would be printed with noise behind these.
fn hundredths(x: f32) -> f64 {
    (f64::from(x) * 100.0).round() / 100.0
}

fn reasons(absent: &[(String, String)]) -> Value {
    Value::Object(absent.iter().map(|(figure, why)| (figure.clone(), why.as_str().into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(usage: Option<u64>, uptime_s: u64) -> StatsRow {
        let sample = Sample { cpu_usage_us: usage, absent: vec![("io".into(), "tmpfs only".into())], ..Sample::default() };
        StatsRow { app: "web".parse().unwrap(), container: "nginx".parse().unwrap(), uptime_s, sample }
    }

    #[test]
    fn cpu_percent_is_of_one_cpu_between_two_readings() {
        let second = Duration::from_secs(1);
        for (before, now, percent) in [
            (row(Some(0), 5), row(Some(500_000), 6), Some(50.0)),
            (row(Some(0), 5), row(Some(2_000_000), 6), Some(200.0)),
            (row(Some(9), 5), row(Some(8), 6), None),
            (row(Some(0), 60), row(Some(500_000), 1), None),
            (row(None, 5), row(Some(1), 6), None),
            (row(Some(1), 5), row(None, 6), None),
        ] {
            assert_eq!(cpu_percent(&[before], &now, second), percent);
        }
        assert_eq!(cpu_percent(&[], &row(Some(1), 1), second), None);
        assert_eq!(cpu_percent(&[row(Some(0), 1)], &row(Some(1), 1), Duration::ZERO), None);
    }

    #[test]
    fn a_missing_figure_is_a_dash_with_a_footnote_and_null_for_programs() {
        let round = Round { at: Instant::now(), device: DeviceSample::default(), rows: vec![row(Some(1), 1), row(Some(1), 1)] };
        assert!(table(&[], &round.rows, Duration::ZERO).contains("- / -"));
        assert_eq!(footnotes(&round), "- io: tmpfs only\n");
        let v = document(&[], &round, Duration::ZERO);
        assert_eq!(
            (&v["containers"]["web/nginx"]["io"]["read"], &v["containers"]["web/nginx"]["absent"]["io"]),
            (&Value::Null, &json!("tmpfs only"))
        );
    }
}
