//! Output of containers to the device's system log (OpenWrt's logd, busybox's syslogd, rsyslog, journald): a datagram for each line, as in RFC 3164
//! without the time, which the receiver knows as well.
//!
//! Nobody is waited for: what the socket does not take, and what is above the rate, is dropped and counted.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Facility daemon, severity info (RFC 3164, section 4.1.1).
const PRIORITY: u32 = 3 * 8 + 6;
/// Longest text of one message: with what stands before it, no more than RFC 3164 allows and logd takes (1024 bytes).
const MAX_TEXT: usize = 900;
/// Messages of one container: so many in a row, and one more each [`INTERVAL`].
const BURST: u32 = 200;
const INTERVAL: Duration = Duration::from_millis(10);
/// How soon a log that is not there is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// What becomes messages, of one container.
#[derive(Debug, Default)]
pub struct Lines {
    /// A line that has not ended.
    begun: Vec<u8>,
    /// Time used up by messages.
    used: Duration,
    dropped: u64,
}

impl Lines {
    /// Sends the lines in this output. `send` answers whether the message was taken.
    pub fn add(&mut self, tag: &str, bytes: &[u8], now: Duration, send: &mut dyn FnMut(&[u8]) -> bool) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if !self.may(now) {
                return self.drop_lines(rest);
            }
            let end = rest.iter().take(MAX_TEXT + 1 - self.begun.len()).position(|b| *b == b'\n');
            let length = end.unwrap_or(rest.len().min(MAX_TEXT - self.begun.len()));
            self.begun.extend_from_slice(&rest[..length]);
            rest = &rest[length + usize::from(end.is_some())..];
            if end.is_some() || (self.begun.len() == MAX_TEXT && !rest.is_empty()) {
                self.end(tag, now, send);
            }
        }
    }

    /// Above the rate: all that costs is counting.
    fn drop_lines(&mut self, bytes: &[u8]) {
        match bytes.iter().rposition(|b| *b == b'\n') {
            Some(last) => {
                self.dropped += bytes[..=last].iter().filter(|b| **b == b'\n').count() as u64;
                self.begun = bytes[last + 1..][..(bytes.len() - last - 1).min(MAX_TEXT)].to_vec();
            }
            None => {
                let length = self.begun.len() + bytes.len();
                self.dropped += (length / MAX_TEXT) as u64;
                self.begun.resize(length % MAX_TEXT, b'?');
            }
        }
    }

    /// Sends a line that will not end, as the container has.
    pub fn end(&mut self, tag: &str, now: Duration, send: &mut dyn FnMut(&[u8]) -> bool) {
        let line = std::mem::take(&mut self.begun);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if !line.is_empty() {
            self.message(tag, line, now, send);
        }
    }

    /// Says how many were dropped, as soon as something may be said again.
    pub fn tell_dropped(&mut self, tag: &str, now: Duration, send: &mut dyn FnMut(&[u8]) -> bool) {
        if self.dropped > 0 && self.may(now) && self.sent(&message(tag, format!("{} messages dropped", self.dropped).as_bytes()), now, send)
        {
            self.dropped = 0;
        }
    }

    /// Some are not told of yet.
    pub fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    fn may(&self, now: Duration) -> bool {
        self.used < now + INTERVAL * BURST
    }

    fn message(&mut self, tag: &str, text: &[u8], now: Duration, send: &mut dyn FnMut(&[u8]) -> bool) {
        self.tell_dropped(tag, now, send);
        if !self.may(now) || !self.sent(&message(tag, text), now, send) {
            self.dropped += 1;
        }
    }

    fn sent(&mut self, message: &[u8], now: Duration, send: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let taken = send(message);
        // A log that takes nothing now is not asked for every line.
        self.used = if taken { self.used.max(now) + INTERVAL } else { now + INTERVAL * BURST };
        taken
    }
}

/// Receivers take a message for a line of text: what would end or disturb it is replaced.
fn message(tag: &str, text: &[u8]) -> Vec<u8> {
    let shown = |b: &u8| if (*b < b' ' && *b != b'\t') || *b == 0x7f { b'?' } else { *b };
    format!("<{PRIORITY}>{tag}: ").into_bytes().into_iter().chain(text.iter().map(shown)).collect()
}

/// The way to the system log.
#[derive(Debug, Default)]
pub struct Syslog {
    socket: Option<UnixDatagram>,
    /// When it is looked for again.
    retry: Duration,
    /// That it is not there has been said.
    told: bool,
}

impl Syslog {
    /// Sends one message to the log at `path`; false if that does not take it now.
    pub fn send(&mut self, path: &str, message: &[u8], now: Duration) -> bool {
        if self.socket.is_none() && now >= self.retry {
            self.connect(path, now);
        }
        let Some(socket) = &self.socket else { return false };
        match socket.send(message) {
            Ok(_) => true,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => false,
            // Its receiver was started again, and listens at a new socket of that name.
            Err(_) => {
                self.connect(path, now);
                self.socket.as_ref().is_some_and(|socket| socket.send(message).is_ok())
            }
        }
    }

    fn connect(&mut self, path: &str, now: Duration) {
        let connected = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(path)?;
            Ok(socket)
        });
        self.retry = now + RETRY;
        match connected {
            Ok(socket) => (self.socket, self.told) = (Some(socket), false),
            Err(e) => {
                self.socket = None;
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!("output is not sent to the system log: cannot connect to {path}: {e}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, INTERVAL, Lines, MAX_TEXT};
    use std::time::Duration;

    fn sent(lines: &mut Lines, parts: &[&[u8]], now: Duration) -> Vec<String> {
        let mut all = Vec::new();
        for part in parts {
            lines.add("wherry/a/b", part, now, &mut |m| {
                all.push(String::from_utf8_lossy(m).into_owned());
                true
            });
        }
        all
    }

    #[test]
    fn each_line_is_one_message_with_its_tag() {
        for (parts, messages) in [
            (&[&b"one\ntwo\n"[..]][..], &["one", "two"][..]),
            (&[b"on", b"e\nt", b"wo"], &["one"]),
            (&[b"\n\r\n\n"], &[]),
            (&[b"a\0b\x1b[2J\tc\x7f\r\n"], &["a?b?[2J\tc?"]),
            (&["\u{fc}\n".as_bytes()], &["\u{fc}"]),
        ] {
            let expected: Vec<String> = messages.iter().map(|m| format!("<30>wherry/a/b: {m}")).collect();
            assert_eq!(sent(&mut Lines::default(), parts, Duration::ZERO), expected, "{parts:?}");
        }
    }

    #[test]
    fn a_long_line_is_sent_in_parts_and_one_without_end_at_the_end() {
        let mut lines = Lines::default();
        let got = sent(&mut lines, &[&[b'x'; 2 * MAX_TEXT + 1]], Duration::ZERO);
        assert_eq!(got.iter().map(String::len).collect::<Vec<_>>(), [MAX_TEXT + 16, MAX_TEXT + 16]);
        let mut last = Vec::new();
        lines.end("t", Duration::ZERO, &mut |m| {
            last.push(m.to_vec());
            true
        });
        assert_eq!(last, [b"<30>t: x".to_vec()]);
    }

    #[test]
    fn a_flood_is_dropped_above_the_rate_and_counted() {
        let mut lines = Lines::default();
        let flood = b"y\n".repeat(1000);
        assert_eq!(sent(&mut lines, &[&flood], Duration::ZERO).len(), BURST as usize);
        let later = sent(&mut lines, &[b"again\n"], INTERVAL * 3);
        assert_eq!(later, [format!("<30>wherry/a/b: {} messages dropped", 1000 - BURST), "<30>wherry/a/b: again".into()]);
    }

    #[test]
    fn what_the_log_does_not_take_is_counted_too() {
        let mut lines = Lines::default();
        lines.add("t", b"a\nb\n", Duration::ZERO, &mut |_| false);
        assert_eq!(sent(&mut lines, &[b"c\n"], INTERVAL)[0], "<30>wherry/a/b: 2 messages dropped");
    }
}
