//! `logs`: the output of one container byte for byte, of several line by line.

use super::args::{Call, scope};
use super::client::{Client, unexpected};
use super::print;
use super::when;
use crate::exit::{Error, note};
use crate::ipc::{LogChunk, Reply, Request, Scope};
use crate::manifest::Name;
use crate::sys::time::{boottime, unix_ms};
use serde_json::json;
use std::collections::BTreeMap;

/// A line longer than this is shown in parts.
const MAX_LINE: usize = 16 * 1024;

/// `wherry logs [-f] [-n LINES] [--since TIME] [-t] APP[/CONTAINER]`.
pub fn logs(call: &Call) -> Result<u8, Error> {
    let of = scope(&call.operand(0)?)?;
    let tail = match call.value("tail")?.as_deref() {
        None | Some("all") => None,
        Some(_) => call.parsed("tail", |s| s.parse::<u32>().map_err(|_| "must be a number of lines, or all".into()))?,
    };
    let clocks = Clocks::now();
    let since_ms = call.parsed("since", |s| when::parse(s, clocks.unix_ms))?.map_or(0, |unix| clocks.boot(unix));
    let names = if of.container.is_some() { Vec::new() } else { containers(call, &of)? };
    let keeper = Client::request(&call.socket(), &Request::Logs { of, follow: call.has("follow"), tail, since_ms, whole: false })?;
    let mut shown = Shown::new(call, &names);
    loop {
        match keeper.next()? {
            Reply::Log(chunk) => shown.add(&chunk)?,
            Reply::Done => return shown.end().map(|()| 0),
            _ => return Err(unexpected("logs")),
        }
    }
}

/// Names of the app's containers.
fn containers(call: &Call, of: &Scope) -> Result<Vec<Name>, Error> {
    let Reply::Apps(apps) = Client::ask(&call.socket(), &Request::List)? else { return Err(unexpected("logs")) };
    Ok(apps.into_iter().filter(|app| app.app == of.app).flat_map(|app| app.containers).map(|c| c.name).collect())
}

/// The device's two clocks at one moment.
struct Clocks {
    boot_ms: u64,
    unix_ms: u64,
}

impl Clocks {
    fn now() -> Self {
        Self { boot_ms: u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX), unix_ms: unix_ms() }
    }

    /// A time of the wall clock, in milliseconds since boot.
    fn boot(&self, unix: u64) -> u64 {
        (self.boot_ms + unix).saturating_sub(self.unix_ms)
    }

    /// A time since boot by the wall clock as it is now: it may have been set since.
    fn unix(&self, boot: u64) -> u64 {
        (self.unix_ms + boot).saturating_sub(self.boot_ms)
    }
}

/// Output on its way to standard output.
struct Shown {
    json: bool,
    times: bool,
    /// There is only one container: no line says whose it is.
    one: bool,
    /// What is there of lines, or of characters, that have not ended.
    begun: BTreeMap<Name, Begun>,
    /// Of the longest name.
    width: usize,
}

#[derive(Default)]
struct Begun {
    bytes: Vec<u8>,
    at_ms: u64,
}

impl Shown {
    fn new(call: &Call, names: &[Name]) -> Self {
        let width = names.iter().map(|name| name.as_str().len()).max().unwrap_or(0);
        Self { json: call.json(), times: call.has("timestamps"), one: names.len() <= 1, begun: BTreeMap::new(), width }
    }

    fn add(&mut self, chunk: &LogChunk) -> Result<(), Error> {
        if self.json {
            return self.add_json(chunk);
        }
        if chunk.lost > 0 {
            note(&format!("wherry: {} bytes of output of {} were lost here", chunk.lost, chunk.container));
        }
        if self.one && !self.times {
            return print::bytes(&chunk.bytes);
        }
        let mut begun = self.begun.remove(&chunk.container).unwrap_or_default();
        let mut out = Vec::new();
        for part in chunk.bytes.split_inclusive(|b| *b == b'\n') {
            if begun.bytes.is_empty() {
                begun.at_ms = chunk.at_ms;
            }
            begun.bytes.extend_from_slice(part);
            if part.ends_with(b"\n") || begun.bytes.len() >= MAX_LINE {
                out.extend(self.head(&chunk.container, begun.at_ms).into_bytes());
                out.append(&mut begun.bytes);
                if !part.ends_with(b"\n") {
                    out.push(b'\n');
                }
            }
        }
        self.begun.insert(chunk.container.clone(), begun);
        print::bytes(&out)
    }

    fn head(&self, container: &Name, at_ms: u64) -> String {
        let name = if self.one { String::new() } else { format!("{:<w$} | ", container.as_str(), w = self.width) };
        let time = if self.times { format!("{} ", when::show(Clocks::now().unix(at_ms))) } else { String::new() };
        format!("{name}{time}")
    }

    fn add_json(&mut self, chunk: &LogChunk) -> Result<(), Error> {
        let begun = self.begun.entry(chunk.container.clone()).or_default();
        begun.bytes.extend_from_slice(&chunk.bytes);
        // A character may have come in two pieces.
        let rest = begun.bytes.split_off(whole_characters(&begun.bytes));
        let bytes = std::mem::replace(&mut begun.bytes, rest);
        let time = when::show(Clocks::now().unix(chunk.at_ms));
        let text = String::from_utf8_lossy(&bytes);
        print::json(&json!({"container": chunk.container, "time": time, "text": text, "lost": chunk.lost}))
    }

    /// Shows what has not ended.
    fn end(&mut self) -> Result<(), Error> {
        for (container, begun) in std::mem::take(&mut self.begun).into_iter().filter(|(_, begun)| !begun.bytes.is_empty()) {
            match self.json {
                true => print::json(&json!({"container": container, "text": String::from_utf8_lossy(&begun.bytes), "lost": 0}))?,
                false => print::bytes(&[self.head(&container, begun.at_ms).as_bytes(), &begun.bytes, b"\n"].concat())?,
            }
        }
        Ok(())
    }
}

/// How many bytes are no beginning of a character that is still to come.
fn whole_characters(bytes: &[u8]) -> usize {
    let back = bytes.iter().rev().take(3).position(|b| *b >= 0xc0);
    let start = back.map(|back| bytes.len() - 1 - back);
    match start.map(|start| (start, std::str::from_utf8(&bytes[start..]))) {
        Some((start, Err(e))) if e.error_len().is_none() => start,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Clocks, whole_characters};

    #[test]
    fn a_character_that_has_only_begun_is_held_back() {
        for (bytes, whole) in [
            (&b"abc"[..], 3),
            ("aé".as_bytes(), 3),
            (&"aé".as_bytes()[..2], 1),
            (&"€".as_bytes()[..2], 0),
            (&"a🚢".as_bytes()[..4], 1),
            (b"a\xff", 2),
            (b"a\xc3(", 3),
            (b"\x80\x80\x80\x80", 4),
            (b"", 0),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }

    #[test]
    fn times_go_from_one_clock_to_the_other_and_back() {
        let clocks = Clocks { boot_ms: 5000, unix_ms: 1_000_000 };
        assert_eq!((clocks.boot(999_000), clocks.unix(4000)), (4000, 999_000));
        assert_eq!((clocks.boot(10), clocks.unix(0)), (0, 995_000));
    }
}
