//! Keeper's part of the support bundle. Everything in it is named here: what is not named, above all passwords, contents of files, values of
//! variables and arguments of programs, cannot get in by being new.

use crate::config::{Settings, Tls};
use crate::keeper::Keeper;
use crate::keeper::containers::Live;
use crate::keeper::desired::Entry;
use crate::manifest::{self, Body, Container, Content, Mount, Placed};
use crate::sys::fd::read_file;
use serde_json::{Value, json};

/// Most mounts told.
const MAX_MOUNTS: usize = 256;

/// All that keeper tells.
pub fn bundle(keeper: &Keeper) -> Value {
    let live = keeper.apps.iter().flat_map(|a| &a.live);
    json!({
        "settings": settings(&keeper.ctx.settings),
        "documents": keeper.desired.entries.iter().map(|e| entry(keeper, e)).collect::<Vec<_>>(),
        "containers": live.map(container_in_force).collect::<Vec<_>>(),
        "images": images(keeper),
        "data": room(&keeper.ctx.settings.data_dir),
        "missing": keeper.ctx.missing,
        "trust": keeper.trust_report(),
        "holds": keeper.desired.holds,
        "cgroups": keeper.ctx.layout,
        "mounts": mounts(),
        "log": log_lines(&keeper.ctx.settings),
    })
}

fn settings(s: &Settings) -> Value {
    let broker = |b: &crate::config::Broker| {
        let tls = match &b.tls {
            Tls::Off => json!(false),
            Tls::On { ca, client } => json!({"ca": ca, "client_certificate": client.is_some()}),
        };
        json!({
            "host": b.host, "port": b.port, "tls": tls, "keep_alive_s": b.keep_alive_s, "retained": b.retained,
            "username": b.username.is_some(), "password": b.password.is_some(),
        })
    };
    json!({
        "device": s.device, "root": s.root, "groups": s.groups, "brokers": s.brokers.iter().map(broker).collect::<Vec<_>>(),
        "data_dir": s.data_dir, "run_dir": s.run_dir, "cgroup": s.cgroup, "interval_s": s.interval_s, "import_dirs": s.import_dirs,
        "bind_sources": s.bind_sources, "policy": s.policy, "secrets_dir": s.secrets_dir, "trust_dir": s.trust_dir,
        "variables": s.variables.keys().collect::<Vec<_>>(),
        "users": [s.users.agent, s.users.hash, s.users.unpack, s.users.probe],
        "limits": [s.limits.max_image_bytes, s.limits.max_image_inodes, u64::from(s.limits.fetch_timeout_s)],
        "log_level": s.log_level.to_string(),
    })
}

fn entry(keeper: &Keeper, e: &Entry) -> Value {
    let document = keeper.store.manifest(&e.newest.sha256).ok().and_then(|bytes| manifest::parse(&bytes).ok());
    let containers = match document.map(|m| m.body) {
        Some(Body::Run(containers)) => containers.iter().map(container).collect(),
        _ => Vec::new(),
    };
    json!({
        "app": e.app, "origin": e.origin.to_string(), "mark": e.mark, "sha256": e.newest.sha256, "removal": e.newest.removal, "state": e.state,
        "reason": e.refusal.as_ref().map(|r| r.reason), "kept": e.kept.as_ref().map(|k| k.sha256), "held": e.held, "containers": containers,
    })
}

fn container(c: &Container) -> Value {
    json!({
        "name": c.name, "image": c.image.reference.text, "digest": c.image.digest, "program": c.command.as_ref().and_then(|w| w.first()),
        "words": [c.command.as_ref().map(Vec::len), c.args.as_ref().map(Vec::len)], "env": c.env.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "user": c.user, "resources": c.resources, "rlimits": c.rlimits,
        "seccomp": c.security.seccomp, "no_new_privileges": c.security.no_new_privileges,
        "capabilities": [c.security.cap_add.len(), c.security.cap_drop.len()],
        "readonly": c.rootfs.readonly, "upper": c.rootfs.upper, "mounts": c.mounts.iter().map(mount).collect::<Vec<_>>(),
        "files": c.files.iter().map(file).collect::<Vec<_>>(), "network": c.network, "ring": c.log.ring, "terminal": c.terminal, "stdin": c.stdin, "stop": c.stop, "restart": c.restart,
        "init": c.init, "health": c.health.is_some(), "after": c.after,
    })
}

fn mount(m: &Mount) -> Value {
    match m {
        Mount::Bind { source, target, readonly } => json!({"type": "bind", "source": source, "target": target, "readonly": readonly}),
        Mount::Tmpfs { target, size } => json!({"type": "tmpfs", "target": target, "size": size}),
    }
}

fn file(f: &Placed) -> Value {
    let content = match &f.content {
        Content::Text(text) => json!({"bytes": text.len()}),
        Content::Secret(name) => json!({"secret": name}),
    };
    json!({"path": f.path, "mode": format!("{:04o}", f.mode), "user": f.user, "content": content})
}

fn container_in_force(l: &Live) -> Value {
    json!({
        "app": l.key.app, "name": l.key.container, "state": l.life.state, "pid": l.pid(), "group": l.group_path(),
        "capabilities": format!("{:#x}", l.ready.spec.capabilities), "files": l.ready.spec.files.len(), "restarts": l.life.restarts,
        "health": l.health(), "waits": l.wanted,
    })
}

/// Those that some document names, by their records: keeper does not walk a store that may be slow.
fn images(keeper: &Keeper) -> Vec<Value> {
    let versions = keeper.desired.entries.iter().flat_map(|e| std::iter::once(&e.newest).chain(e.kept.as_ref()));
    let mut digests: Vec<_> = versions.flat_map(|v| v.images.iter().map(|(_, digest)| *digest)).collect();
    digests.sort();
    digests.dedup();
    let record = |digest| keeper.ctx.images.record(&digest).ok().flatten();
    digests.into_iter().filter_map(record).map(|r| json!({"digest": r.digest, "layers": r.layers.len(), "unpacked": r.unpacked})).collect()
}

fn room(path: &str) -> Value {
    let Ok(s) = nix::sys::statvfs::statvfs(path) else { return Value::Null };
    json!({"block": s.fragment_size(), "blocks": s.blocks(), "free": s.blocks_available(), "inodes_free": s.files_available()})
}

/// Where what kind of file system is mounted how. Sources and options of the file system itself may hold credentials.
fn mounts() -> Vec<Value> {
    const MAX: usize = 256 * 1024;
    let text = read_file("/proc/self/mountinfo", MAX).unwrap_or_default();
    let line = |line: &str| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        Some(json!([fields.next()?, fields.next()?, system.split(' ').next()?]))
    };
    String::from_utf8_lossy(&text).lines().take(MAX_MOUNTS).filter_map(line).collect()
}

/// No line of ours has a password; should one come in with somebody else's words, it does not get out.
fn log_lines(s: &Settings) -> Vec<String> {
    let hide = |line: String| {
        let passwords = s.brokers.iter().filter_map(|b| b.password.as_deref()).filter(|p| !p.is_empty());
        passwords.fold(line, |line, password| line.replace(password, "***"))
    };
    crate::log::recent().into_iter().map(hide).collect()
}
