//! `run`: makes a manifest for one image, applies it, shows the output, and ends as the program ended.

use super::apply::{check, verdict};
use super::args::{Call, name};
use super::attach::{self, End};
use super::client::{Client, unexpected};
use super::keys::Keys;
use super::list::{ended, exit_code};
use super::{exec, image, print, terminal};
use crate::exit::{Code, Error, note, visible};
use crate::ipc::{Ack, Reply, Request, Scope};
use crate::manifest::{Name, units};
use crate::protocol::{Reason, State};
use crate::sys::process::Ended;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Name of the only container in the app.
const CONTAINER: &str = "main";

/// `wherry run [options] IMAGE-PATH [CMD...]`.
pub fn run(call: &Call) -> Result<u8, Error> {
    if call.has("rm") && call.has("detach") {
        return Err(Error::usage("--rm and --detach exclude each other").hint("remove it later with `wherry rm`"));
    }
    let console = call.has("tty") || call.has("interactive");
    if call.has("tty") && call.has("interactive") && !call.has("detach") && !std::io::stdin().is_terminal() {
        return Err(attach::not_a_terminal());
    }
    let keys = attach::detach_keys(call)?;
    let image = image::reference(&call.operand(0)?)?;
    let app = match call.value("name")? {
        Some(word) => name(&word)?,
        None => unused_name(&image)?,
    };
    if image::is_url(&image) && !(call.has("digest") && call.has("type")) {
        return Err(Error::usage(format!("cannot run {image}: an image from the network needs --digest and --type"))
            .hint("`sha256sum FILE` prints the digest; put sha256: before it"));
    }
    let document = manifest(call, &app, &image)?;
    if call.has("print-manifest") {
        print::line(&format!("{document:#}"))?;
        return Ok(0);
    }
    let payload = document.to_string().into_bytes();
    let what = format!("cannot run {image}");
    check(&what, &payload)?;
    let signals = terminal::signals(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let job = Job { call, what, socket: call.socket(), scope: Scope { app, container: None }, signals };
    job.run(payload, console.then_some(keys))
}

/// The image's name with a random ending.
fn unused_name(image: &str) -> Result<Name, Error> {
    let seed = std::fs::File::open("/dev/urandom").and_then(|mut f| {
        let mut bytes = [0; 4];
        std::io::Read::read_exact(&mut f, &mut bytes).map(|()| u32::from_ne_bytes(bytes))
    });
    let seed = seed.map_err(|e| Error::io("cannot read /dev/urandom", &e))?;
    name(&format!("{}-{:06x}", image::base_name(image), seed & 0xff_ffff))
}

fn manifest(call: &Call, app: &Name, image: &str) -> Result<Value, Error> {
    let mut c = Map::new();
    let mut from = Map::from_iter([("ref".to_owned(), image.into())]);
    for field in ["digest", "type"] {
        if let Some(word) = call.value(field)? {
            from.insert(field.into(), word.into());
        }
    }
    c.insert("image".into(), from.into());
    c.insert("restart".into(), json!({"policy": "no"}));
    let argv = call.argv()?;
    if !argv.is_empty() {
        c.insert("args".into(), json!(argv));
    }
    let env: Map<String, Value> =
        exec::environment(call)?.iter().filter_map(|e| e.split_once('=')).map(|(k, v)| (k.to_owned(), v.into())).collect();
    if !env.is_empty() {
        c.insert("env".into(), env.into());
    }
    for field in ["user", "workdir", "hostname"] {
        if let Some(word) = call.value(field)? {
            c.insert(field.into(), word.into());
        }
    }
    if call.has("read-only") {
        c.insert("rootfs".into(), json!({"readonly": true}));
    }
    if let Some(mode) = call.parsed("net", network)? {
        c.insert("network".into(), json!({"mode": mode}));
    }
    if call.has("tty") {
        c.insert("terminal".into(), true.into());
    }
    if call.has("interactive") {
        // In the background, whoever attaches later may leave and come again.
        c.insert("stdin".into(), if call.has("detach") { "open" } else { "once" }.into());
    }
    let resources = resources(call)?;
    if !resources.is_empty() {
        c.insert("resources".into(), resources.into());
    }
    let mounts = call.values("volume")?.iter().map(|word| mount(word)).collect::<Result<Vec<Value>, Error>>()?;
    if !mounts.is_empty() {
        c.insert("mounts".into(), mounts.into());
    }
    Ok(json!({"wherry": 1, "app": app, "containers": {CONTAINER: c}}))
}

fn network(word: &str) -> Result<String, String> {
    if ["none", "host"].contains(&word) { Ok(word.to_owned()) } else { Err("must be none or host".into()) }
}

fn resources(call: &Call) -> Result<Map<String, Value>, Error> {
    let mut out = Map::new();
    if let Some(size) = call.parsed("memory", |s| print::parse_size(s).map(|_| s.to_owned()))? {
        out.insert("memory".into(), json!({"max": size}));
    }
    if let Some(milli) = call.parsed("cpus", thousandths)? {
        // Whole numbers without a fraction, as one would write them.
        let quota = if milli % 1000 == 0 { json!(milli / 1000) } else { json!(f64::from(milli) / 1000.0) };
        out.insert("cpu".into(), json!({"quota": quota}));
    }
    if let Some(max) = call.parsed("pids", |s| s.parse::<u32>().ok().filter(|n| *n > 0).ok_or("must be a whole number above 0".into()))? {
        out.insert("pids".into(), json!({"max": max}));
    }
    Ok(out)
}

fn thousandths(word: &str) -> Result<u32, String> {
    const MOST: u64 = 1_024_000;
    // `.5` is half a CPU here, as for docker.
    let value = units::milli(&format!("0{word}")).ok().filter(|milli| (1..=MOST).contains(milli));
    value.map(|milli| milli as u32).ok_or_else(|| "must be a number of CPUs such as 0.5".into())
}

fn mount(word: &str) -> Result<Value, Error> {
    let wrong = || Error::usage(format!("--volume {word}: must be SRC:DST, SRC:DST:ro or SRC:DST:rw"));
    let parts: Vec<&str> = word.split(':').collect();
    let (source, target, readonly) = match parts[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err(wrong()),
    };
    if source.is_empty() || !target.starts_with('/') {
        return Err(wrong().hint("DST is an absolute path in the container"));
    }
    let is_path = source.contains('/') || source == "." || source == "..";
    let mut out = match is_path {
        true => json!({"type": "bind", "source": image::device_path(source)?, "target": target}),
        false => json!({"type": "volume", "source": source, "target": target}),
    };
    if readonly {
        out["readonly"] = true.into();
    }
    Ok(out)
}

/// One `wherry run` under way.
struct Job<'a> {
    call: &'a Call,
    /// Begins its errors.
    what: String,
    socket: PathBuf,
    scope: Scope,
    signals: SignalFd,
}

/// What happens first.
#[derive(PartialEq)]
enum Event {
    Signal(Signal),
    /// The connection of this index has an answer.
    Answer(usize),
}

impl Job<'_> {
    fn run(&self, payload: Vec<u8>, console: Option<Keys>) -> Result<u8, Error> {
        let keeper = Client::request(&self.socket, &Request::Apply { payload })?;
        let ack = loop {
            match self.next(&[&keeper])? {
                Event::Signal(signal) => return self.interrupted(signal),
                Event::Answer(_) => match keeper.next()? {
                    Reply::Ack(ack) if ack.state.is_terminal() || ack.state == State::Held => {
                        // Nothing may stay unread: keeper would see the connection reset.
                        keeper.next()?;
                        break ack;
                    }
                    // What holds a download up; there may be nothing else to see for long.
                    Reply::Ack(ack) => ack.message().into_iter().for_each(|why| note(&format!("wherry: {}", visible(why)))),
                    _ => return Err(unexpected("run")),
                },
            }
        };
        if !has_run(&ack) {
            // The reason of the failed start matters more than that of a failed removal.
            let _ = self.forget();
            verdict(&self.what, &ack)?;
            return Err(Error::new(Code::Failed, format!("{}: {}", self.what, ack.state)));
        }
        if self.call.has("detach") {
            let app = &self.scope.app;
            if self.call.json() {
                print::json(&json!({"app": app}))?
            } else {
                print::line(app.as_str())?
            }
            return Ok(0);
        }
        let code = match console {
            Some(keys) => self.sit(keys)?,
            None => Some(self.follow()?),
        };
        let Some(code) = code else {
            note(&format!("wherry: detached, {} runs on", self.scope.app));
            return Ok(0);
        };
        if self.call.has("rm") {
            self.remove()?;
        }
        Ok(code)
    }

    /// After a failed start with `--rm`. An app of a name given by the user may have run before, and then does so again: it stays.
    fn forget(&self) -> Result<(), Error> {
        if self.call.has("rm") && !self.call.has("name") { self.remove() } else { Ok(()) }
    }

    /// At its console, until the container has ended; `None` if it was left by the keys.
    fn sit(&self, keys: Keys) -> Result<Option<u8>, Error> {
        match attach::console(&self.socket, self.scope.clone(), true, self.call.has("interactive"), keys) {
            Ok(End::Detached) => Ok(None),
            Ok(End::Exited(end)) => Ok(Some(self.ended(end))),
            Ok(End::Signal(signal)) => {
                self.ask_to_stop()?.next()?;
                Ok(Some(exit_code(Ended::Signal(signal as i32 as u8))))
            }
            // Nobody reads any more.
            Err(e) if e.is_closed() => {
                self.ask_to_stop()?.next()?;
                self.follow().map(Some)
            }
            // It has ended already: what it said is in the ring.
            Err(e) if e.code() == Code::Failed => self.follow().map(Some),
            Err(e) => Err(e),
        }
    }

    fn ended(&self, end: Ended) -> u8 {
        if self.call.json() {
            // Standard output belongs to the program.
            note(&json!({"app": self.scope.app, "exited": ended(end)}).to_string());
        }
        exit_code(end)
    }

    /// Shows the output until the container has ended.
    fn follow(&self) -> Result<u8, Error> {
        let output =
            Client::request(&self.socket, &Request::Logs { of: self.scope.clone(), follow: true, tail: None, since_ms: 0, whole: true })?;
        let waiting = Client::request(&self.socket, &Request::Wait(self.scope.clone()))?;
        let (mut end, mut silent, mut stop) = (None, false, None);
        while end.is_none() || !silent {
            let open: Vec<&Client> = [(!silent).then_some(&output), end.is_none().then_some(&waiting)].into_iter().flatten().collect();
            match self.next(&open)? {
                Event::Signal(signal) if stop.is_some() => return Ok(exit_code(Ended::Signal(signal as i32 as u8))),
                // The answer comes when it has stopped, which `waiting` tells as well.
                Event::Signal(_) => stop = Some(self.ask_to_stop()?),
                Event::Answer(i) if std::ptr::eq(open[i], &output) => match self.show(output.next()?) {
                    Ok(done) => silent = done,
                    // Nobody reads: as a program on this device would get SIGPIPE, the app is stopped.
                    Err(e) if e.is_closed() => (silent, stop) = (true, Some(self.ask_to_stop()?)),
                    Err(e) => return Err(e),
                },
                Event::Answer(_) => match waiting.next()? {
                    Reply::Exited(how) => end = Some(how),
                    _ => return Err(unexpected("run")),
                },
            }
        }
        if let Some(stop) = stop {
            stop.next()?;
        }
        end.map(|end| self.ended(end)).ok_or_else(|| Error::new(Code::Internal, "the end was not recorded"))
    }

    /// True when the output is complete.
    fn show(&self, reply: Reply) -> Result<bool, Error> {
        match reply {
            Reply::Log(chunk) => {
                if chunk.lost > 0 {
                    note(&format!("wherry: {} bytes of output were lost here", chunk.lost));
                }
                print::bytes(&chunk.bytes).map(|()| false)
            }
            Reply::Done => Ok(true),
            _ => Err(unexpected("run")),
        }
    }

    fn interrupted(&self, signal: Signal) -> Result<u8, Error> {
        self.ask_to_stop()?;
        self.forget()?;
        Ok(exit_code(Ended::Signal(signal as i32 as u8)))
    }

    fn ask_to_stop(&self) -> Result<Client, Error> {
        Client::request(&self.socket, &Request::Stop(self.scope.clone()))
    }

    fn remove(&self) -> Result<(), Error> {
        let keeper = Client::request(&self.socket, &Request::Remove { app: self.scope.app.clone(), volumes: false })?;
        loop {
            match keeper.next()? {
                Reply::Ack(ack) => drop(verdict(&format!("cannot remove {}", self.scope.app), &ack)?),
                Reply::Done => return Ok(()),
                _ => return Err(unexpected("run")),
            }
        }
    }

    fn next(&self, connections: &[&Client]) -> Result<Event, Error> {
        let mut set = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        set.extend(connections.iter().map(|c| PollFd::new(c.as_fd(), PollFlags::POLLIN)));
        loop {
            match poll(&mut set, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(Error::io("cannot wait for keeper", &e.into())),
            }
            let ready = set.iter().position(|fd| fd.any().unwrap_or(false));
            match ready {
                Some(0) => {
                    if let Some(signal) = terminal::pending(&self.signals) {
                        return Ok(Event::Signal(signal));
                    }
                }
                Some(i) => return Ok(Event::Answer(i - 1)),
                None => {}
            }
        }
    }
}

/// True when the program was started, also if it ended so soon that the app counts as failed: then its output and code are the answer.
fn has_run(ack: &Ack) -> bool {
    ack.state == State::Running || (ack.state == State::Failed && matches!(ack.reason(), Some(Reason::CrashLoop | Reason::Health)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_cpus_is_kept_in_thousandths() {
        for (word, milli) in [("1", 1000), ("0.5", 500), (".5", 500), ("1024", 1_024_000), ("0.001", 1), ("1.2345", 1235), ("64", 64000)] {
            assert_eq!(thousandths(word), Ok(milli), "{word}");
        }
        for word in ["", "0", "-1", "+1", "1e3", "inf", "NaN", "1,5", "half", "99999", ".", "1024.001", "99999999999999999999"] {
            assert!(thousandths(word).is_err(), "{word}");
        }
    }

    #[test]
    fn a_volume_is_a_path_or_a_name() {
        for (word, expected) in [
            ("/srv:/data", json!({"type": "bind", "source": "/srv", "target": "/data"})),
            ("/srv:/data:ro", json!({"type": "bind", "source": "/srv", "target": "/data", "readonly": true})),
            ("/srv:/data:rw", json!({"type": "bind", "source": "/srv", "target": "/data"})),
            ("db:/data", json!({"type": "volume", "source": "db", "target": "/data"})),
        ] {
            assert_eq!(mount(word).unwrap(), expected, "{word}");
        }
        for word in ["", ":", "/srv", "/srv:", ":/data", "/srv:data", "/srv:/data:rx", "/a:/b:ro:x"] {
            assert!(mount(word).is_err(), "{word}");
        }
    }
}
