//! The checked manifest as a document again, with every value in force.

use super::calendar::{show, show_daytime};
use super::out::Out;
use super::raw::DAYS;
use super::units::{show_millis, show_size};
use super::{Body, Check, Container, Content, How, Manifest, Mount, Peer, Placed, Resources, Rlimit, Rollout, Target, Whom, Window};
use crate::image::Source;
use serde::Serialize;
use std::time::Duration;

/// The manifest as canonical JSON: fields in the order of the contract, defaults written out. [`super::parse`] gives the same manifest
/// again (unless the line breaks push a very large one over [`super::MAX_PAYLOAD`]).
pub fn render(manifest: &Manifest) -> String {
    let mut top = Members(vec![]);
    top.put("wherry", Out::Whole(super::SCHEMA));
    top.put("app", Out::text(&manifest.app));
    top.some("seq", manifest.seq.map(Out::Whole));
    top.some("target", manifest.target.as_ref().map(target));
    top.some("not_after", manifest.not_after.map(|ms| Out::Text(show(ms))));
    if let Some(Rollout { share, salt, window }) = &manifest.rollout {
        let mut rollout = Members(vec![]);
        rollout.put("percent", Out::Fraction(f64::from(*share) / 100.0));
        rollout.some("salt", salt.as_ref().map(Out::text));
        rollout.some("window", window.as_ref().map(hours));
        top.filled("rollout", rollout);
    }
    match &manifest.body {
        Body::Run(containers) => {
            let entries = containers.iter().map(|c| (c.name.to_string(), container(c))).collect();
            top.put("containers", Out::Object(entries));
        }
        Body::Remove { volumes } => {
            top.put("remove", Out::Bool(true));
            top.some("volumes", volumes.then_some(Out::Bool(true)));
        }
        Body::Inherit => top.put("inherit", Out::Bool(true)),
    }
    Out::Object(top.0).pretty()
}

fn hours(window: &Window) -> Out {
    let days = DAYS.iter().enumerate().filter(|(bit, _)| window.days >> bit & 1 == 1);
    let days = days.map(|(_, day)| Out::text(day)).collect();
    Out::object([("from", Out::Text(show_daytime(window.from))), ("to", Out::Text(show_daytime(window.to))), ("days", Out::List(days))])
}

struct Members(Vec<(String, Out)>);

impl Members {
    fn put(&mut self, name: &str, value: Out) {
        self.0.push((name.to_owned(), value));
    }

    fn some(&mut self, name: &str, value: Option<Out>) {
        self.0.extend(value.map(|v| (name.to_owned(), v)));
    }

    /// An object that is left out when it says nothing.
    fn filled(&mut self, name: &str, value: Members) {
        self.some(name, (!value.0.is_empty()).then_some(Out::Object(value.0)));
    }
}

/// Whom a document is for.
pub fn target(target: &Target) -> Out {
    let (name, id) = match &target.whom {
        Whom::Device(id) => ("device", id),
        Whom::Group(id) => ("group", id),
    };
    Out::object([("fleet", Out::text(&target.fleet)), (name, Out::text(id))])
}

fn size(bytes: u64) -> Out {
    match show_size(bytes) {
        text if text.ends_with(['K', 'M', 'G']) => Out::Text(text),
        _ => Out::Whole(bytes),
    }
}

fn time(time: Duration) -> Out {
    Out::Text(show_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

fn texts(list: &[String]) -> Out {
    Out::List(list.iter().map(Out::text).collect())
}

/// The word that stands for a variant on the wire.
fn word(value: &impl Serialize) -> Out {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Out::Text(word),
        _ => Out::Null,
    }
}

fn container(c: &Container) -> Out {
    let mut out = Members(vec![]);
    let mut image = Members(vec![("ref".into(), Out::text(&c.image.reference))]);
    if let Source::Http { form, .. } = c.image.reference.source {
        image.put("type", Out::text(form.word()));
    }
    image.some("digest", c.image.digest.map(Out::text));
    image.some("size", c.image.size.map(size));
    image.some("unpacked", c.image.unpacked.map(size));
    out.put("image", Out::Object(image.0));
    out.some("command", c.command.as_deref().map(texts));
    out.some("args", c.args.as_deref().map(texts));
    out.filled("env", Members(c.env.iter().map(|(name, value)| (name.clone(), Out::text(value))).collect()));
    out.some("user", c.user.as_ref().map(Out::text));
    out.some("workdir", c.workdir.as_ref().map(Out::text));
    out.some("hostname", c.hostname.as_ref().map(Out::text));
    out.filled("resources", resources(&c.resources));
    out.filled("rlimits", Members(c.rlimits.iter().map(rlimit).collect()));
    out.put("security", security(c));
    let upper = (!c.rootfs.readonly).then(|| ("upper".to_owned(), size(c.rootfs.upper)));
    let readonly = ("readonly".to_owned(), Out::Bool(c.rootfs.readonly));
    out.put("rootfs", Out::Object([readonly].into_iter().chain(upper).collect()));
    out.some("mounts", (!c.mounts.is_empty()).then(|| Out::List(c.mounts.iter().map(mount).collect())));
    out.some("files", (!c.files.is_empty()).then(|| Out::List(c.files.iter().map(file).collect())));
    out.put("network", Out::object([("mode", word(&c.network))]));
    out.put("terminal", Out::Bool(c.terminal));
    out.put("stdin", word(&c.stdin));
    let mut log = Members(vec![("ring".into(), size(c.log.ring.into())), ("full".into(), word(&c.log.full))]);
    log.some("syslog", c.log.syslog.map(Out::Bool));
    out.put("log", Out::Object(log.0));
    let mut stop = Members(vec![]);
    stop.some("signal", c.stop.signal.map(signal));
    stop.put("timeout", time(c.stop.timeout));
    out.put("stop", Out::Object(stop.0));
    let policy = word(&c.restart.policy);
    out.put("restart", Out::object([("policy", policy), ("delay", time(c.restart.delay)), ("max_delay", time(c.restart.max_delay))]));
    out.put("init", Out::Bool(c.init));
    out.some("health", c.health.as_ref().map(health));
    out.some("after", (!c.after.is_empty()).then(|| Out::List(c.after.iter().map(Out::text).collect())));
    Out::Object(out.0)
}

fn health(check: &Check) -> Out {
    let mut out = Members(vec![]);
    match &check.how {
        How::Exec(words) => out.put("exec", texts(words)),
        How::Tcp(Peer { address: None, port }) => out.put("tcp", Out::Whole((*port).into())),
        How::Tcp(peer) => out.put("tcp", Out::text(peer)),
        How::Http { peer, path, status } => {
            let mut http = Members(vec![("port".into(), Out::Whole(peer.port.into())), ("path".into(), Out::text(path))]);
            http.some("address", peer.address.map(Out::text));
            http.some("status", status.map(|s| Out::Whole(s.into())));
            out.put("http", Out::Object(http.0));
        }
        How::File(path) => out.put("file", Out::text(path)),
    }
    for (name, value) in [("start_period", check.start_period), ("interval", check.interval), ("timeout", check.timeout)] {
        out.put(name, time(value));
    }
    out.put("retries", Out::Whole(check.retries.into()));
    Out::Object(out.0)
}

fn signal(number: i32) -> Out {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => Out::text(signal.as_str().trim_start_matches("SIG")),
        Err(_) => Out::Whole(number.unsigned_abs().into()),
    }
}

fn resources(r: &Resources) -> Members {
    let (mut out, mut memory, mut cpu) = (Members(vec![]), Members(vec![]), Members(vec![]));
    memory.some("max", r.memory_max.map(size));
    memory.some("high", r.memory_high.map(size));
    memory.some("swap", r.swap_max.map(size));
    cpu.some("quota", r.cpu_quota_milli.map(|milli| Out::Fraction(f64::from(milli) / 1000.0)));
    cpu.some("weight", r.cpu_weight.map(|w| Out::Whole(w.into())));
    out.filled("memory", memory);
    out.filled("cpu", cpu);
    out.some("pids", r.pids_max.map(|max| Out::object([("max", Out::Whole(max.into()))])));
    out.some("required", r.required.then_some(Out::Bool(true)));
    out
}

fn rlimit(r: &Rlimit) -> (String, Out) {
    let value = |v| if v == u64::MAX { Out::text("unlimited") } else { Out::Whole(v) };
    let name = match word(&r.kind) {
        Out::Text(name) => name,
        _ => String::new(),
    };
    (name, Out::List(vec![value(r.soft), value(r.hard)]))
}

fn security(c: &Container) -> Out {
    let names = |list: &[caps::Capability]| Out::List(list.iter().map(|c| Out::text(c.to_string().trim_start_matches("CAP_"))).collect());
    let s = &c.security;
    let all = !s.cap_drop.is_empty() && s.cap_drop == super::checked::all_but(&s.cap_add);
    let drop = if all { Out::List(vec![Out::text("ALL")]) } else { names(&s.cap_drop) };
    Out::object([
        ("capabilities", Out::object([("add", names(&s.cap_add)), ("drop", drop)])),
        ("seccomp", word(&s.seccomp)),
        ("no_new_privileges", Out::Bool(s.no_new_privileges)),
    ])
}

fn mount(m: &Mount) -> Out {
    match m {
        Mount::Bind { source, target, readonly } => Out::object([
            ("type", Out::text("bind")),
            ("source", Out::text(source)),
            ("target", Out::text(target)),
            ("readonly", Out::Bool(*readonly)),
        ]),
        Mount::Tmpfs { target, size: bytes } => {
            Out::object([("type", Out::text("tmpfs")), ("target", Out::text(target)), ("size", size(*bytes))])
        }
    }
}

fn file(f: &Placed) -> Out {
    let mut out = Members(vec![("path".into(), Out::text(&f.path))]);
    match &f.content {
        Content::Text(text) => out.put("content", Out::text(text)),
        Content::Secret(name) => out.put("secret", Out::text(name)),
    }
    out.put("mode", Out::Text(format!("{:04o}", f.mode)));
    out.some("user", f.user.as_ref().map(Out::text));
    Out::Object(out.0)
}
