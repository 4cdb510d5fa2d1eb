//! Where log lines go: one line for each event, rate limited, to standard error or to the system log.

use crate::exit::visible;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::time::Duration;

/// Where the system log listens (syslog(3)).
const SYSTEM_LOG: &str = "/dev/log";

/// Longest line in bytes; the rest is cut off.
const MAX_LINE: usize = 1024;

/// An identical line within this time is counted, not written.
const REPEAT: Duration = Duration::from_secs(1);

/// The environment variable that sets the level: `off error warn info debug trace`.
pub const LEVEL: &str = "WHERRY_LOG";

/// The last lines of keeper, for the support bundle.
static RECENT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
/// Most lines of keeper that are kept, and most bytes of them.
const KEPT: (usize, usize) = (200, 24 * 1024);

/// The last lines that keeper has written, oldest first, with the seconds since boot before each.
pub fn recent() -> Vec<String> {
    RECENT.lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
}

fn keep(lines: &mut VecDeque<String>, text: String) {
    lines.push_back(text);
    while lines.len() > KEPT.0 || lines.iter().map(String::len).sum::<usize>() > KEPT.1 {
        lines.pop_front();
    }
}

/// Takes over the `log` facade for this process. `role` stands in front of each line. The level comes from [`LEVEL`], else from
/// `settings`, else it is `info`. Later calls change nothing.
pub fn init(role: &'static str, settings: Option<LevelFilter>) {
    let level = std::env::var(LEVEL).ok().and_then(|word| word.parse().ok()).or(settings).unwrap_or(LevelFilter::Info);
    let sink = Sink { role, system: system_log(), path: SYSTEM_LOG, last: Mutex::new(Repeats::default()) };
    if log::set_boxed_logger(Box::new(sink)).is_ok() {
        log::set_max_level(level);
    }
}

struct Sink {
    role: &'static str,
    /// `None`: standard error.
    system: Option<UnixDatagram>,
    path: &'static str,
    last: Mutex<Repeats>,
}

/// The system log, when standard error leads nowhere: a daemon whose descriptor 2 is `/dev/null`.
fn system_log() -> Option<UnixDatagram> {
    let null = nix::sys::stat::stat("/dev/null").ok()?;
    let here = nix::sys::stat::fstat(std::io::stderr()).ok()?;
    if here.st_rdev != null.st_rdev || here.st_mode & nix::libc::S_IFMT != nix::libc::S_IFCHR {
        return None;
    }
    let socket = UnixDatagram::unbound().ok()?;
    // A system log that does not read must not stop us.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = line(self.role, record);
        let Ok(mut last) = self.last.lock() else { return };
        for out in last.pass(record.level(), text, crate::sys::time::boottime()) {
            self.write(out.0, &out.1);
            if self.role == "keeper"
                && let Ok(mut lines) = RECENT.lock()
            {
                keep(&mut lines, format!("{} {}", crate::sys::time::boottime().as_secs(), out.1));
            }
        }
    }

    fn flush(&self) {}
}

impl Sink {
    // A log that cannot be written is no reason to fail, and there is no place left to say so.
    fn write(&self, level: Level, text: &str) {
        let _ = match &self.system {
            // By name each time: the system log may have been started again.
            Some(socket) => {
                let packet = format!("<{}>wherry[{}]: {text}", priority(level), std::process::id());
                socket.send_to(packet.as_bytes(), self.path).map(|_| ())
            }
            None => std::io::stderr().write_all(format!("{text}\n").as_bytes()),
        };
    }
}

fn line(role: &str, record: &Record<'_>) -> String {
    let mut text = format!("{role}: {}{}", word(record.level()), visible(&record.args().to_string()));
    if text.len() > MAX_LINE {
        let end = (0..=MAX_LINE).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        _ => "",
    }
}

/// Facility daemon (3) and the severity, as RFC 3164 section 4.1.1 packs them.
fn priority(level: Level) -> u8 {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    3 * 8 + severity
}

/// The last line written, and how often it came again since.
#[derive(Default)]
struct Repeats {
    last: Option<(Level, String, Duration)>,
    again: u32,
}

impl Repeats {
    /// The lines to write now that `text` came at time `now`: none, itself, or the count of what was held back and itself.
    fn pass(&mut self, level: Level, text: String, now: Duration) -> Vec<(Level, String)> {
        if self.last.as_ref().is_some_and(|(_, old, at)| *old == text && now.saturating_sub(*at) < REPEAT) {
            self.again = self.again.saturating_add(1);
            return Vec::new();
        }
        let mut out = Vec::new();
        if let (Some((level, old, _)), true) = (&self.last, self.again > 0) {
            out.push((*level, format!("{old} ({} more times)", self.again)));
        }
        self.again = 0;
        self.last = Some((level, text.clone(), now));
        out.push((level, text));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(r: &mut Repeats, text: &str, ms: u64) -> Vec<String> {
        r.pass(Level::Info, text.into(), Duration::from_millis(ms)).into_iter().map(|(_, t)| t).collect()
    }

    #[test]
    fn a_line_that_repeats_within_a_second_is_counted() {
        let mut r = Repeats::default();
        assert_eq!(pass(&mut r, "a", 0), ["a"]);
        assert!(pass(&mut r, "a", 10).is_empty());
        assert!(pass(&mut r, "a", 999).is_empty());
        assert_eq!(pass(&mut r, "b", 1000), ["a (2 more times)", "b"]);
        assert_eq!(pass(&mut r, "a", 1001), ["a"]);
        assert_eq!(pass(&mut r, "a", 2001), ["a"]);
    }

    #[test]
    fn the_last_lines_are_kept_within_their_bounds() {
        let mut lines = VecDeque::new();
        (0..1000).for_each(|i| keep(&mut lines, i.to_string()));
        assert_eq!((lines.len(), lines.front().unwrap().as_str(), lines.back().unwrap().as_str()), (KEPT.0, "800", "999"));
        (0..200).for_each(|_| keep(&mut lines, "x".repeat(MAX_LINE)));
        assert_eq!(lines.len(), KEPT.1 / MAX_LINE);
    }

    #[test]
    fn a_line_is_one_line_and_bounded() {
        let long = "é".repeat(MAX_LINE);
        let text = line("keeper", &Record::builder().level(Level::Warn).args(format_args!("a\n{long}")).build());
        assert!(text.starts_with("keeper: warning: a é") && text.len() <= MAX_LINE && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_line_for_the_system_log_has_priority_and_process() {
        let path: &'static str = format!("{}/wherry-log-{}", std::env::temp_dir().display(), std::process::id()).leak();
        let log = UnixDatagram::bind(path).unwrap();
        let sink = Sink { role: "keeper", system: UnixDatagram::unbound().ok(), path, last: Mutex::default() };
        log::set_max_level(LevelFilter::Info);
        sink.log(&Record::builder().level(Level::Error).args(format_args!("no space")).build());
        sink.log(&Record::builder().level(Level::Debug).args(format_args!("too fine")).build());
        sink.log(&Record::builder().level(Level::Info).args(format_args!("started")).build());
        std::fs::remove_file(path).unwrap();
        let mut buf = [0; 256];
        for expected in [
            format!("<27>wherry[{}]: keeper: error: no space", std::process::id()),
            format!("<30>wherry[{}]: keeper: started", std::process::id()),
        ] {
            let n = log.recv(&mut buf).unwrap();
            assert_eq!(String::from_utf8_lossy(&buf[..n]), expected);
        }
    }

    #[test]
    fn priorities_are_those_of_the_daemon_facility() {
        assert_eq!((priority(Level::Error), priority(Level::Info)), (27, 30));
    }
}
