//! From the document as written to the checked manifest: the one place where this happens. What concerns one field alone was
//! said by its table; here is what shows only between fields.

use super::blame::Found;
use super::calendar::{daytime, exact};
use super::forms::{below, capability, limit, mode, rlimit, signal};
use super::health;
use super::json::{Member, Node, Value};
use super::raw::{BIND, CONTAINER, DAYS, FILE, MAX_FILES, MAX_MOUNTS, TMPFS};
use super::shape::{View, text_of};
use super::units::{show_millis, show_size};
use super::{
    Body, Container, Content, Full, Image, Log, Manifest, Mount, Network, Placed, Resources, Restart, RestartPolicy, Rlimit, Rollout,
    Rootfs, Seccomp, Security, Stdin, Stop, Target, Whom, Window,
};
use crate::image::{Form, Reference, Source};
use crate::protocol::Reason;
use caps::Capability;

/// All days, as [`Window::days`] has them.
const EVERY_DAY: u8 = 0x7f;

/// The checked manifest.
pub fn manifest<'a>(view: View<'a>, root: &'a Node<'a>, found: &mut Vec<Found>) -> Option<Manifest> {
    let target = view.node("target").map(|node| target(view.object("target"), node, found));
    let body = body(view, root, found)?;
    let target = match target {
        Some(target) => Some(target?),
        None => None,
    };
    let not_after = view.text("not_after").and_then(exact);
    let rollout = match view.node("rollout") {
        None => None,
        Some(node) => Some(rollout(view.object("rollout"), node, &body, found)?),
    };
    Some(Manifest { app: view.parse("app")?, seq: view.parse("seq"), target, not_after, rollout, body })
}

fn bad(node: &Node, message: impl Into<String>) -> Found {
    Found::at(node, Reason::BadValue, message)
}

/// Whom a document is for.
pub fn target(view: View, node: &Node, found: &mut Vec<Found>) -> Option<Target> {
    let fleet = view.text("fleet").map(str::to_owned);
    let whom = match (view.node("device"), view.node("group")) {
        (Some(_), None) => view.parse("device").map(Whom::Device),
        (None, Some(_)) => view.parse("group").map(Whom::Group),
        _ => {
            found.push(bad(node, "needs either `device` or `group`"));
            None
        }
    };
    Some(Target { fleet: fleet?, whom: whom? })
}

fn rollout(view: View, node: &Node, body: &Body, found: &mut Vec<Found>) -> Option<Rollout> {
    if !matches!(body, Body::Run(_)) {
        found.push(bad(node, "is for documents with containers"));
    }
    let percent = view.milli("percent")?;
    if let Some(node) = view.node("percent").filter(|_| !percent.is_multiple_of(10)) {
        found.push(bad(node, "has at most two decimals"));
    }
    let window = match view.node("window") {
        None => None,
        Some(node) => Some(window(view.object("window"), node, found)?),
    };
    Some(Rollout { share: u16::try_from(percent / 10).ok()?, salt: view.text("salt").map(str::to_owned), window })
}

fn window(view: View, node: &Node, found: &mut Vec<Found>) -> Option<Window> {
    let mut days = 0;
    for node in view.items("days") {
        let bit = 1 << DAYS.iter().position(|day| node.text() == Some(*day))?;
        if days & bit != 0 {
            found.push(bad(node, "stands twice"));
        }
        days |= bit;
    }
    let (from, to) = (view.text("from").and_then(daytime)?, view.text("to").and_then(daytime)?);
    if from == to {
        found.push(bad(node, "`from` and `to` must differ").hint("a document without `window` may begin at any time"));
    }
    Some(Window { from, to, days: if view.node("days").is_some() { days } else { EVERY_DAY } })
}

fn body(view: View, root: &Node, found: &mut Vec<Found>) -> Option<Body> {
    let containers: Vec<_> = view.entries("containers").iter().map(|m| container(m, found)).collect();
    health::order(view.entries("containers"), found);
    if let Some(node) = view.node("volumes").filter(|_| !view.flag("remove")) {
        found.push(bad(node, "has a meaning only together with \"remove\": true"));
    }
    if let Some(node) = view.node("inherit").filter(|_| view.flag("inherit") && view.flag("remove")) {
        found.push(bad(node, "lifts what the device's own topic said, also a removal").hint("leave out one of `inherit` and `remove`"));
    }
    match (view.flag("remove") || view.flag("inherit"), view.node("containers")) {
        (true, Some(node)) => {
            let message = "a document that removes the app, or lifts what was said, has no containers";
            found.push(bad(node, message).hint("leave out one of `remove`, `inherit` and `containers`"))
        }
        (true, None) if view.flag("inherit") => return Some(Body::Inherit),
        (true, None) => return Some(Body::Remove { volumes: view.flag("volumes") }),
        // Something of another type in their place has its own fault.
        (false, None) if !matches!(root.value, Value::Object(_)) => {}
        (false, None) if view.node("remove").is_some_and(|n| !matches!(n.value, Value::Bool(_))) => {}
        (false, None) => found.push(bad(root, "the field `containers` is missing").hint("or \"remove\": true, to remove the app")),
        (false, Some(_)) => {}
    }
    containers.into_iter().collect::<Option<_>>().map(Body::Run)
}

fn container(member: &Member, found: &mut Vec<Found>) -> Option<Container> {
    let view = View::new(&member.value, &CONTAINER);
    let owned = |name| view.text(name).map(str::to_owned);
    // Every part is looked at before the first missing one ends it, so that all faults are found.
    let image = image(view.object("image"), found);
    let resources = resources(view.object("resources"), found);
    let rlimits = rlimits(view, found);
    let security = security(view.object("security"), found);
    let rootfs = rootfs(view.object("rootfs"), found);
    let mounts = mounts(view, found);
    let files = files(view, found);
    let stdin = stdin(view, found);
    let restart = restart(view.object("restart"), found);
    let health = health::check(view, found);
    Some(Container {
        name: member.key.parse().ok()?,
        image: image?,
        command: view.texts("command"),
        args: view.texts("args"),
        env: view.entries("env").iter().filter_map(|m| Some((m.key.to_string(), m.value.text()?.to_owned()))).collect(),
        user: owned("user"),
        workdir: owned("workdir"),
        hostname: owned("hostname"),
        resources,
        rlimits: rlimits?,
        security: security?,
        rootfs: rootfs?,
        mounts: mounts?,
        files: files?,
        network: network(view.object("network"))?,
        terminal: view.flag("terminal"),
        stdin: stdin?,
        log: log(view.object("log"))?,
        stop: stop(view.object("stop"))?,
        restart: restart?,
        init: view.flag("init"),
        health: if view.node("health").is_some() { Some(health?) } else { None },
        after: health::after(view)?,
    })
}

fn image(view: View, found: &mut Vec<Found>) -> Option<Image> {
    let mut reference: Reference = view.parse("ref")?;
    if let Source::Http { form, .. } = &mut reference.source {
        *form = downloaded(view, found)?;
    }
    let form = match reference.source {
        Source::Http { form, .. } => form.word(),
        Source::Rootfs { .. } => Form::Rootfs.word(),
        Source::OciArchive { .. } => Form::OciArchive.word(),
        Source::DockerArchive { .. } => Form::DockerArchive.word(),
        Source::OciDir { .. } => "",
    };
    // A word that is none is refused already.
    let known = |n: &&Node| matches!(n.text(), Some("rootfs" | "oci-archive" | "docker-archive" | "squashfs"));
    if let Some(node) = view.node("type").filter(known).filter(|n| n.text() != Some(form)) {
        found.push(bad(node, "is not what `ref` says").hint("`type` is for references to the network; leave it out here"));
    }
    Some(Image { reference, digest: view.parse("digest"), size: view.size("size"), unpacked: view.size("unpacked") })
}

/// What an image from the network must say besides where it is.
fn downloaded(view: View, found: &mut Vec<Found>) -> Option<Form> {
    let place = view.node("ref")?;
    if view.node("digest").is_none() {
        found.push(bad(place, "needs `digest` beside it").hint("\"digest\": \"sha256:…\", as sha256sum prints it for the file"));
    }
    match view.text("type") {
        Some("rootfs") => Some(Form::Rootfs),
        Some("oci-archive") => Some(Form::OciArchive),
        Some("docker-archive") => Some(Form::DockerArchive),
        Some(_) => {
            let kind = view.node("type")?;
            found.push(Found::at(kind, Reason::Unsupported, "squashfs images are not supported by this version"));
            None
        }
        None => {
            found.push(bad(place, "needs `type` beside it").hint("\"type\": \"rootfs\", \"oci-archive\" or \"docker-archive\""));
            None
        }
    }
}

fn resources(view: View, found: &mut Vec<Found>) -> Resources {
    let (memory, cpu) = (view.object("memory"), view.object("cpu"));
    let made = Resources {
        memory_max: memory.size("max"),
        memory_high: memory.size("high"),
        swap_max: memory.size("swap"),
        // The table keeps it below 1024 CPUs.
        cpu_quota_milli: cpu.milli("quota").and_then(|milli| u32::try_from(milli).ok()),
        cpu_weight: cpu.parse("weight"),
        pids_max: view.object("pids").parse("max"),
        required: view.flag("required"),
    };
    if let (Some(max), Some(high), Some(node)) = (made.memory_max, made.memory_high, memory.node("high"))
        && high >= max
    {
        found.push(bad(node, format!("is not below max ({}), so it never acts", show_size(max))).warning());
    }
    made
}

fn rlimits(view: View, found: &mut Vec<Found>) -> Option<Vec<Rlimit>> {
    let one = |m: &Member| {
        let mut values = m.value.items().iter().map(|i| limit(text_of(&i.value)?).ok());
        let (soft, hard) = (values.next()??, values.next()??);
        if soft > hard {
            found.push(bad(&m.value, "the soft limit must not be above the hard one").hint("[soft, hard]"));
        }
        Some(Rlimit { kind: rlimit(&m.key)?, soft, hard })
    };
    view.entries("rlimits").iter().map(one).collect()
}

/// What `"drop": ["ALL"]` means: all but those that are added.
pub fn all_but(add: &[Capability]) -> Vec<Capability> {
    let mut all: Vec<Capability> = Vec::new();
    for c in caps::all().into_iter().filter(|c| !add.contains(c)) {
        all.insert(all.partition_point(|other| other.index() < c.index()), c);
    }
    all
}

fn security(view: View, found: &mut Vec<Found>) -> Option<Security> {
    let capabilities = view.object("capabilities");
    let list = |name| {
        let mut list: Vec<Capability> = Vec::new();
        let named = capabilities.items(name).iter().filter_map(|n| capability(n.text()?));
        named.for_each(|c| {
            if !list.contains(&c) {
                list.push(c)
            }
        });
        list
    };
    let (cap_add, mut cap_drop) = (list("add"), list("drop"));
    let dropped = capabilities.items("drop");
    for node in dropped.iter().filter(|n| n.text().and_then(capability).is_some_and(|c| cap_add.contains(&c))) {
        found.push(bad(node, "is added and dropped at once"));
    }
    if dropped.iter().any(|n| n.text() == Some("ALL")) {
        cap_drop = all_but(&cap_add);
    }
    let seccomp = match view.text("seccomp")? {
        "default" => Seccomp::Default,
        "unconfined" => Seccomp::Unconfined,
        _ => return None,
    };
    Some(Security { cap_add, cap_drop, seccomp, no_new_privileges: view.flag("no_new_privileges") })
}

fn rootfs(view: View, found: &mut Vec<Found>) -> Option<Rootfs> {
    let readonly = view.flag("readonly");
    if let Some(node) = view.node("upper").filter(|_| readonly) {
        found.push(bad(node, "has no effect: the root file system is read-only").warning());
    }
    let upper = view.size("upper")?;
    Some(Rootfs { readonly, upper: if readonly { 0 } else { upper } })
}

fn mounts(view: View, found: &mut Vec<Found>) -> Option<Vec<Mount>> {
    let items = view.items("mounts");
    for (i, node) in items.iter().take(MAX_MOUNTS).enumerate() {
        let (Some(target), Some(at)) = (text_in(node, "target"), node.get("target")) else { continue };
        for earlier in items[..i].iter().filter_map(|n| text_in(n, "target")) {
            if earlier == target {
                found.push(bad(at, "is the target of another mount already"));
                break;
            } else if below(earlier, target) {
                found.push(bad(at, format!("hides the earlier mount {earlier}")).hint("mount the outer directory first").warning());
            }
        }
    }
    items.iter().map(mount).collect()
}

fn mount(node: &Node) -> Option<Mount> {
    let owned = |view: View, name| view.text(name).map(str::to_owned);
    match node.get("type")?.text()? {
        "bind" => {
            let view = View::new(node, &BIND);
            Some(Mount::Bind { source: owned(view, "source")?, target: owned(view, "target")?, readonly: view.flag("readonly") })
        }
        "tmpfs" => {
            let view = View::new(node, &TMPFS);
            Some(Mount::Tmpfs { target: owned(view, "target")?, size: view.size("size")? })
        }
        _ => None,
    }
}

fn text_in<'a>(node: &'a Node<'_>, name: &str) -> Option<&'a str> {
    node.get(name).and_then(|n| n.text())
}

fn files(view: View, found: &mut Vec<Found>) -> Option<Vec<Placed>> {
    let items = view.items("files");
    let paths: Vec<&str> = items.iter().take(MAX_FILES).filter_map(|n| text_in(n, "path")).collect();
    let targets: Vec<&str> = view.items("mounts").iter().take(MAX_MOUNTS).filter_map(|n| text_in(n, "target")).collect();
    for node in items.iter().take(MAX_FILES) {
        let (Some(path), Some(at)) = (text_in(node, "path"), node.get("path")) else { continue };
        if paths.iter().filter(|p| **p == path).count() > 1 {
            found.push(bad(at, "is the path of two files"));
        } else if targets.contains(&path) {
            found.push(bad(at, "is the target of a mount already"));
        } else if let Some(inner) = paths.iter().chain(&targets).find(|p| **p != path && below(p, path)) {
            found.push(bad(at, format!("cannot be a file: {inner} lies below it")));
        }
    }
    items.iter().map(|node| file(node, found)).collect()
}

fn file(node: &Node, found: &mut Vec<Found>) -> Option<Placed> {
    let view = View::new(node, &FILE);
    let owned = |name| view.text(name).map(str::to_owned);
    let (content, usual) = match (owned("content"), owned("secret")) {
        (Some(text), None) => (Content::Text(text), 0o644),
        (None, Some(name)) => (Content::Secret(name), 0o400),
        _ => {
            if matches!(node.value, Value::Object(_)) {
                found.push(bad(node, "needs either `content` or `secret`"));
            }
            return None;
        }
    };
    let mode = view.text("mode").map_or(Some(usual), mode)?;
    if let Some(node) = view.node("mode").filter(|_| mode & 0o111 != 0) {
        let hint = "let an interpreter read it: \"command\": [\"sh\", \"/the/path\"]";
        found.push(bad(node, "does not make it a program: nothing in these files can be executed").hint(hint).warning());
    }
    Some(Placed { path: owned("path")?, content, mode, user: owned("user") })
}

fn network(view: View) -> Option<Network> {
    match view.text("mode")? {
        "none" => Some(Network::None),
        "host" => Some(Network::Host),
        _ => None,
    }
}

fn stdin(view: View, found: &mut Vec<Found>) -> Option<Stdin> {
    let stdin = match view.text("stdin")? {
        "none" => Stdin::None,
        "open" => Stdin::Open,
        "once" => Stdin::Once,
        _ => return None,
    };
    let console = view.node("terminal").filter(|_| view.flag("terminal")).or(view.node("stdin").filter(|_| stdin != Stdin::None));
    if let Some(node) = console.filter(|_| !view.flag("init")) {
        found.push(bad(node, "needs our own pid 1, which holds it while keeper is away").hint("leave out \"init\": false"));
    }
    Some(stdin)
}

fn log(view: View) -> Option<Log> {
    let full = match view.text("full")? {
        "block" => Full::Block,
        "drop" => Full::Drop,
        _ => return None,
    };
    let syslog = view.node("syslog").map(|_| view.flag("syslog"));
    Some(Log { ring: u32::try_from(view.size("ring")?).ok()?, full, syslog })
}

fn stop(view: View) -> Option<Stop> {
    Some(Stop { signal: view.text("signal").and_then(signal), timeout: view.time("timeout")? })
}

fn restart(view: View, found: &mut Vec<Found>) -> Option<Restart> {
    let policy = match view.text("policy")? {
        "always" => RestartPolicy::Always,
        "on-failure" => RestartPolicy::OnFailure,
        "no" => RestartPolicy::No,
        _ => return None,
    };
    let made = Restart { policy, delay: view.time("delay")?, max_delay: view.time("max_delay")? };
    if let Some(node) = view.node("delay").or(view.node("max_delay")).filter(|_| made.delay > made.max_delay) {
        let most = u64::try_from(made.max_delay.as_millis()).unwrap_or(u64::MAX);
        found.push(bad(node, format!("delay must not be longer than max_delay ({})", show_millis(most))));
    }
    Some(made)
}
