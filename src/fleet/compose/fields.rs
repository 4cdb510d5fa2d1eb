//! The fields of one service, each with its place in a container, or the reason why it has none.

use super::{Report, health};
use crate::fleet::tree::{Member, Tree, Value};
use crate::manifest::units;
use crate::protocol::Reason;
use serde_json::{Map, Value as Json, json};

/// What maps one field: the service's field, its path, the container so far, what is left.
type Mapper = fn(&Tree, &str, &mut Map<String, Json>, &mut Report);

/// Fields that have a place.
const FIELDS: [(&str, Mapper); 33] = [
    ("image", image),
    ("command", |t, p, c, r| words(t, p, "args", c, r)),
    ("entrypoint", |t, p, c, r| words(t, p, "command", c, r)),
    ("environment", environment),
    ("user", |t, p, c, r| scalar(t, p, c, r, "user")),
    ("working_dir", |t, p, c, r| scalar(t, p, c, r, "workdir")),
    ("hostname", |t, p, c, r| scalar(t, p, c, r, "hostname")),
    ("volumes", volumes),
    ("tmpfs", tmpfs),
    ("read_only", |t, p, c, r| flag(t, p, r, |yes| put(c, &["rootfs", "readonly"], json!(yes)))),
    ("cap_add", |t, p, c, r| capabilities(t, p, "add", c, r)),
    ("cap_drop", |t, p, c, r| capabilities(t, p, "drop", c, r)),
    ("security_opt", security),
    ("mem_limit", |t, p, c, r| size(t, p, &["resources", "memory", "max"], c, r)),
    ("memswap_limit", swap),
    ("cpus", |t, p, c, r| number(t, p, &["resources", "cpu", "quota"], c, r)),
    ("cpu_shares", shares),
    ("pids_limit", |t, p, c, r| number(t, p, &["resources", "pids", "max"], c, r)),
    ("deploy", deploy),
    ("ulimits", ulimits),
    ("restart", restart),
    ("stop_signal", |t, p, c, r| nested(t, p, c, r, &["stop", "signal"])),
    ("stop_grace_period", |t, p, c, r| duration(t, p, &["stop", "timeout"], c, r)),
    ("init", |t, p, c, r| flag(t, p, r, |yes| put(c, &["init"], json!(yes)))),
    ("network_mode", network),
    ("healthcheck", health::check),
    ("depends_on", health::after),
    ("tty", |t, p, c, r| flag(t, p, r, |yes| put_if(c, "terminal", json!(true), yes))),
    ("stdin_open", |t, p, c, r| flag(t, p, r, |yes| put_if(c, "stdin", json!("open"), yes))),
    // Names of things that a manifest calls by its own names, or that the defaults say already.
    ("container_name", |_, p, _, r| r.leave_here(p, "a container is called after its service")),
    ("platform", |_, p, _, r| r.leave_here(p, "an image for the device's architecture must be put there")),
    ("pull_policy", |_, p, _, r| r.leave_here(p, "a digest says when an image is another one")),
    ("attach", |_, _, _, _| {}),
];

/// What a field may be, where it is not one value.
const SHAPES: [(&str, Shape); 12] = [
    ("volumes", Shape::List),
    ("cap_add", Shape::List),
    ("cap_drop", Shape::List),
    ("security_opt", Shape::List),
    ("command", Shape::ListOrValue),
    ("entrypoint", Shape::ListOrValue),
    ("tmpfs", Shape::ListOrValue),
    ("environment", Shape::MappingOrList),
    ("ulimits", Shape::Mapping),
    ("deploy", Shape::Mapping),
    ("healthcheck", Shape::Mapping),
    ("depends_on", Shape::MappingOrList),
];

/// What a value may be.
#[derive(Clone, Copy)]
pub enum Shape {
    Value,
    List,
    Mapping,
    ListOrValue,
    MappingOrList,
}

impl Shape {
    fn of(field: &str) -> Self {
        SHAPES.iter().find(|(name, _)| *name == field).map_or(Self::Value, |(_, shape)| *shape)
    }

    /// What a value should have been, if it is something else. Nothing at all is always good: compose takes it as if the field were not there.
    pub fn objection(self, tree: &Tree) -> Option<&'static str> {
        let (list, mapping) = (matches!(tree.value, Value::List(_)), matches!(tree.value, Value::Object(_)));
        let (good, word) = match self {
            Self::Value => (!list && !mapping, "must be one value"),
            Self::List => (list, "must be a list"),
            Self::Mapping => (mapping, "must be a mapping"),
            Self::ListOrValue => (!mapping, "must be a list or one value"),
            Self::MappingOrList => (list || mapping, "must be a mapping or a list"),
        };
        (!good && tree.value != Value::Null).then_some(word)
    }
}

/// Fields without a place, and why.
const NOWHERE: [(&str, &str); 14] = [
    ("build", "devices do not build images"),
    ("ports", "publishing ports is not supported by devices yet; network_mode: host makes all reachable"),
    ("expose", "containers of an app do not share a network yet"),
    ("networks", "networks of their own are not supported by devices yet"),
    ("links", "containers of an app do not share a network yet"),
    ("extra_hosts", "put /etc/hosts into `files`"),
    ("dns", "put /etc/resolv.conf into `files`"),
    ("devices", "the kernel's devices are not given to containers yet"),
    ("sysctls", "kernel settings are not supported by devices yet"),
    ("privileged", "no container has all privileges; name what it needs in cap_add"),
    ("env_file", "its variables must stand in `environment`"),
    ("secrets", "name a secret of the device in `files`"),
    ("configs", "put its text into `files`"),
    ("logging", "output is kept in memory, and goes to the system log by `log.syslog`"),
];

impl Report<'_> {
    /// For a field whose place is filled in afterwards.
    fn leave_here(&mut self, path: &str, why: &str) {
        self.leave(usize::MAX, path, why);
    }
}

/// The container of a service.
pub fn container(service: &Member, path: &str, report: &mut Report) -> Json {
    let mut container = Map::new();
    for field in service.value.members() {
        let path = format!("{path}.{}", field.key);
        let before = report.left.len();
        match FIELDS.iter().find(|(name, _)| *name == field.key) {
            Some((name, map)) => match Shape::of(name).objection(&field.value) {
                Some(objection) => report.leave(field.value.at, &path, objection),
                None if field.value.value == Value::Null => {}
                None => map(&field.value, &path, &mut container, report),
            },
            None if field.key.starts_with("x-") => {}
            None => {
                let why = NOWHERE.iter().find(|(name, _)| *name == field.key).map_or("has no place in a manifest", |(_, why)| why);
                report.leave(field.at, &path, why);
            }
        }
        report.left[before..].iter_mut().filter(|l| l.at == usize::MAX).for_each(|l| l.at = field.at);
        interpolated(&field.value, &path, report);
    }
    defaults(service, path, &mut container, report);
    undollar(Json::Object(container))
}

/// What compose does where nothing is said, and a manifest does not.
fn defaults(service: &Member, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    let has = |name: &str| service.value.get(name).is_some();
    if !has("image") {
        report.leave(service.at, path, "has no image; put in where it is (image.ref)");
    }
    container.entry("image").or_insert_with(|| json!({"ref": ""}));
    if !has("restart") && service.value.get("deploy").is_none_or(|d| d.get("restart_policy").is_none()) {
        put(container, &["restart", "policy"], json!("no"));
    }
    if !has("network_mode") {
        report.leave(service.at, path, "has a network in compose, and here loopback alone; network_mode: host gives it the device's");
    }
}

/// `$` of compose: `$$` is one dollar, anything else would be put in by compose.
fn interpolated(tree: &Tree, path: &str, report: &mut Report) {
    if let Value::Text(text) = &tree.value
        && text.replace("$$", "").contains('$')
    {
        report.leave(tree.at, path, "a variable of compose's environment is not put in; ${var.NAME} is a variable of the device");
    }
    tree.items().iter().for_each(|item| interpolated(item, path, report));
    tree.members().iter().for_each(|m| interpolated(&m.value, path, report));
}

fn undollar(value: Json) -> Json {
    match value {
        // `${` alone would be a variable of the manifest.
        Json::String(text) => Json::String(text.replace("$${", "\0{").replace("$$", "$").replace("\0{", "$${")),
        Json::Array(items) => items.into_iter().map(undollar).collect(),
        Json::Object(members) => members.into_iter().map(|(key, value)| (key, undollar(value))).collect(),
        other => other,
    }
}

/// Puts a value at a path of objects.
pub fn put(container: &mut Map<String, Json>, path: &[&str], value: Json) {
    let Some((last, front)) = path.split_last() else { return };
    let mut object = container;
    for key in front {
        let inner = object.entry((*key).to_owned()).or_insert_with(|| json!({}));
        let Json::Object(inner) = inner else { return };
        object = inner;
    }
    object.insert((*last).to_owned(), value);
}

fn put_if(container: &mut Map<String, Json>, key: &str, value: Json, yes: bool) {
    if yes {
        container.insert(key.to_owned(), value);
    }
}

fn push(container: &mut Map<String, Json>, key: &str, value: Json) {
    if let Json::Array(list) = container.entry(key.to_owned()).or_insert_with(|| json!([])) {
        list.push(value);
    }
}

fn scalar(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report, key: &str) {
    nested(tree, path, container, report, &[key]);
}

fn nested(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report, keys: &[&str]) {
    match tree.scalar() {
        Some(text) => put(container, keys, json!(text)),
        None => report.leave(tree.at, path, "must be one value"),
    }
}

/// True or false.
pub fn flag(tree: &Tree, path: &str, report: &mut Report, then: impl FnOnce(bool)) {
    match &tree.value {
        Value::Bool(yes) => then(*yes),
        _ => report.leave(tree.at, path, "must be true or false"),
    }
}

fn image(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    let text = tree.scalar().unwrap_or_default();
    container.insert("image".into(), json!({"ref": text}));
    match text.parse::<crate::image::Reference>() {
        Err(e) if e.reason() == Reason::Unsupported => {
            report.leave(tree.at, path, format!("{e} of devices; put in where the image is"));
        }
        Err(e) => report.leave(tree.at, path, e.to_string()),
        Ok(_) => {}
    }
}

/// A list, or a line as a shell would take it apart.
fn words(tree: &Tree, path: &str, key: &str, container: &mut Map<String, Json>, report: &mut Report) {
    let found: Option<Vec<String>> = match &tree.value {
        Value::List(items) => items.iter().map(|i| i.scalar().map(str::to_owned)).collect(),
        Value::Null => return,
        _ => tree.scalar().and_then(split),
    };
    match found {
        Some(words) if words.is_empty() && key == "command" => {
            report.leave(tree.at, path, "the image's entrypoint cannot be taken away, only replaced")
        }
        Some(words) => put(container, &[key], json!(words)),
        None => report.leave(tree.at, path, "cannot be taken apart into words; a quote is not closed"),
    }
}

/// Words as a shell makes them, without variables and patterns.
fn split(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn environment(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    const CALLER: &str = "its value comes from the caller of compose; write it down";
    let mut env = Map::new();
    for m in tree.members() {
        match m.value.scalar() {
            Some(value) => drop(env.insert(m.key.clone(), json!(value))),
            None => report.leave(m.at, format!("{path}.{}", m.key), CALLER),
        }
    }
    for item in tree.items() {
        match item.scalar().and_then(|text| text.split_once('=')) {
            Some((key, value)) => drop(env.insert(key.to_owned(), json!(value))),
            None => report.leave(item.at, path, CALLER),
        }
    }
    if !env.is_empty() {
        container.insert("env".into(), Json::Object(env));
    }
}

/// What a mount is, in either of compose's forms.
struct Mount<'a> {
    kind: &'a str,
    source: &'a str,
    target: &'a str,
    readonly: bool,
}

fn volumes(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    for item in tree.items() {
        let mount = match item.scalar() {
            Some(text) => short(text, item, path, report),
            None => long(item, path, report),
        };
        match mount {
            Some(m) => mounted(&m, item, path, container, report),
            None => report.leave(item.at, path, "has no target in the container"),
        }
    }
}

fn short<'a>(text: &'a str, item: &Tree, path: &str, report: &mut Report) -> Option<Mount<'a>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return None,
    };
    let readonly = options.split(',').any(|o| o == "ro");
    if let Some(other) = options.split(',').find(|o| !matches!(*o, "" | "ro" | "rw")) {
        report.leave(item.at, path, format!("the option {other} has no place"));
    }
    let kind = if source.starts_with(['/', '.', '~']) { "bind" } else { "volume" };
    Some(Mount { kind, source, target, readonly })
}

fn long<'a>(item: &'a Tree, path: &str, report: &mut Report) -> Option<Mount<'a>> {
    let get = |name: &str| item.get(name).and_then(Tree::scalar).unwrap_or_default();
    for m in item.members().iter().filter(|m| !matches!(m.key.as_str(), "type" | "source" | "src" | "target" | "dst" | "read_only")) {
        report.leave(m.at, format!("{path}.{}", m.key), "has no place in a manifest");
    }
    let target = if item.get("target").is_some() { get("target") } else { get("dst") };
    let source = if item.get("source").is_some() { get("source") } else { get("src") };
    (!target.is_empty()).then(|| Mount { kind: get("type"), source, target, readonly: get("read_only") == "true" })
}

fn mounted(m: &Mount, item: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    match m.kind {
        "bind" if m.source.starts_with('/') => {
            push(container, "mounts", json!({"type": "bind", "source": m.source, "target": m.target, "readonly": m.readonly}));
            report.leave(item.at, path, format!("is mapped; {} must stand below `bind_sources` in the device's settings", m.source));
        }
        "bind" => report.leave(item.at, path, format!("{} is a path of this machine: name one of the device, or use `files`", m.source)),
        "tmpfs" => push(container, "mounts", json!({"type": "tmpfs", "target": m.target})),
        "volume" if m.source.is_empty() => report.leave(item.at, path, "a volume without a name; is a tmpfs enough?"),
        "volume" => {
            let name = super::label(m.source, "data");
            push(container, "mounts", json!({"type": "volume", "source": name, "target": m.target, "readonly": m.readonly}));
            report.leave(item.at, path, "is mapped, but volumes are not supported by devices yet");
        }
        other => report.leave(item.at, path, format!("a mount of type {other:?} has no place in a manifest")),
    }
}

fn tmpfs(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    let one = std::slice::from_ref(tree);
    for item in if tree.items().is_empty() { one } else { tree.items() } {
        let Some(text) = item.scalar() else {
            report.leave(item.at, path, "must be a path");
            continue;
        };
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let mut mount = json!({"type": "tmpfs", "target": target});
        for option in options.split(',').filter(|o| !o.is_empty()) {
            match option.strip_prefix("size=").and_then(bytes) {
                Some(size) => mount["size"] = json!(size),
                None => report.leave(item.at, path, format!("the option {option} has no place")),
            }
        }
        push(container, "mounts", mount);
    }
}

fn capabilities(tree: &Tree, path: &str, key: &str, container: &mut Map<String, Json>, report: &mut Report) {
    tree.items().iter().filter(|i| i.scalar().is_none()).for_each(|i| report.leave(i.at, path, "must be the name of a capability"));
    let mut names: Vec<&str> = tree.items().iter().filter_map(Tree::scalar).collect();
    if key == "add" && names.contains(&"ALL") {
        report.leave(tree.at, path, "no container has all capabilities; name those it needs");
        names.retain(|name| *name != "ALL");
    }
    put(container, &["security", "capabilities", key], json!(names));
}

fn security(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    for item in tree.items() {
        match item.scalar().unwrap_or_default().split_once([':', '=']).unwrap_or((item.scalar().unwrap_or_default(), "true")) {
            ("no-new-privileges", value) => put(container, &["security", "no_new_privileges"], json!(value == "true")),
            ("seccomp", "unconfined") => put(container, &["security", "seccomp"], json!("unconfined")),
            _ => report.leave(item.at, path, "has no place in a manifest"),
        }
    }
}

/// Compose's sizes: a number with b, k, m or g (and b behind it), in powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, factor) = match lower.chars().last() {
        Some('k') => (&lower[..lower.len() - 1], 1 << 10),
        Some('m') => (&lower[..lower.len() - 1], 1 << 20),
        Some('g') => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// As a manifest writes it.
fn shown(bytes: u64) -> Json {
    match units::show_size(bytes) {
        text if text.ends_with(['K', 'M', 'G']) => json!(text),
        _ => json!(bytes),
    }
}

fn size(tree: &Tree, path: &str, keys: &[&str], container: &mut Map<String, Json>, report: &mut Report) {
    match tree.scalar().and_then(bytes) {
        Some(n) => put(container, keys, shown(n)),
        None => report.leave(tree.at, path, "is no size"),
    }
}

/// Memory and swap together in compose, swap alone in a manifest.
fn swap(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    let memory = container.get("resources").and_then(|r| r["memory"]["max"].as_str()).and_then(bytes);
    match (tree.scalar().and_then(bytes), memory) {
        (Some(both), Some(memory)) if both >= memory => put(container, &["resources", "memory", "swap"], shown(both - memory)),
        _ => report.leave(
            tree.at,
            path,
            "is memory and swap together; give mem_limit before it, or resources.memory.swap, which is swap alone",
        ),
    }
}

fn number(tree: &Tree, path: &str, keys: &[&str], container: &mut Map<String, Json>, report: &mut Report) {
    let parsed = tree.scalar().and_then(|text| serde_json::from_str::<serde_json::Number>(text).ok());
    match parsed.filter(|n| n.as_f64().is_some_and(|n| n > 0.0)) {
        Some(n) => put(container, keys, json!(n)),
        None => report.leave(tree.at, path, "is no limit; left out, there is none"),
    }
}

/// From 2 to 262144 on control groups v1, from 1 to 10000 in a manifest: as runc converts it.
fn shares(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    match tree.scalar().and_then(|text| text.parse::<u64>().ok()) {
        Some(shares @ 2..=262_144) => put(container, &["resources", "cpu", "weight"], json!(1 + (shares - 2) * 9999 / 262_142)),
        _ => report.leave(tree.at, path, "must be from 2 to 262144"),
    }
}

fn deploy(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    for m in tree.members() {
        let path = format!("{path}.{}", m.key);
        match m.key.as_str() {
            "resources" => deploy_resources(&m.value, &path, container, report),
            "restart_policy" => deploy_restart(&m.value, &path, container, report),
            _ => report.leave(m.at, path, "is for a swarm"),
        }
    }
}

fn deploy_resources(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    mapping(tree, path, report);
    for part in tree.members() {
        let path = format!("{path}.{}", part.key);
        mapping(&part.value, &path, report);
        for m in part.value.members() {
            let path = format!("{path}.{}", m.key);
            match (part.key.as_str(), m.key.as_str()) {
                ("limits", "memory") => size(&m.value, &path, &["resources", "memory", "max"], container, report),
                ("limits", "cpus") => number(&m.value, &path, &["resources", "cpu", "quota"], container, report),
                ("limits", "pids") => number(&m.value, &path, &["resources", "pids", "max"], container, report),
                _ => report.leave(m.at, path, "nothing is reserved on a device"),
            }
        }
    }
}

fn mapping(tree: &Tree, path: &str, report: &mut Report) {
    if let Some(objection) = Shape::Mapping.objection(tree) {
        report.leave(tree.at, path, objection);
    }
}

fn deploy_restart(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    mapping(tree, path, report);
    for m in tree.members() {
        let path = format!("{path}.{}", m.key);
        match (m.key.as_str(), m.value.scalar().unwrap_or_default()) {
            ("condition", "any") => put(container, &["restart", "policy"], json!("always")),
            ("condition", "on-failure") => put(container, &["restart", "policy"], json!("on-failure")),
            ("condition", "none") => put(container, &["restart", "policy"], json!("no")),
            ("delay", _) => duration(&m.value, &path, &["restart", "delay"], container, report),
            _ => report.leave(m.at, path, "has no place in a manifest"),
        }
    }
}

fn restart(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    let text = tree.scalar().unwrap_or_default();
    let (policy, count) = text.split_once(':').unwrap_or((text, ""));
    let policy = match policy {
        "always" => "always",
        "unless-stopped" => "always",
        "on-failure" => "on-failure",
        // Without quotes some write what YAML once took for false.
        "no" | "false" => "no",
        _ => return report.leave(tree.at, path, "must be no, always, on-failure or unless-stopped"),
    };
    if !count.is_empty() {
        report.leave(tree.at, path, "is restarted for ever, more and more slowly: no number of times ends it");
    }
    put(container, &["restart", "policy"], json!(policy));
}

/// Compose's durations, such as `1m30s`.
pub fn duration(tree: &Tree, path: &str, keys: &[&str], container: &mut Map<String, Json>, report: &mut Report) {
    match tree.scalar().and_then(millis) {
        Some(ms) => put(container, keys, json!(units::show_millis(ms))),
        None => report.leave(tree.at, path, "is no duration, such as 1m30s"),
    }
}

/// The same in milliseconds; fractions are taken too, as in `2.5s`.
pub fn millis(text: &str) -> Option<u64> {
    let (mut sum, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let digits = rest.find(|c: char| !is_number(c))?;
        let unit = rest[digits..].find(is_number).map_or(rest.len(), |n| digits + n);
        let factor = match &rest[digits..unit] {
            "us" => 0.001,
            "ms" => 1.0,
            "s" => 1000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return None,
        };
        sum += rest[..digits].parse::<f64>().ok()? * factor;
        rest = &rest[unit..];
    }
    // Beyond, numbers are not exact any more, and no field takes so long a time.
    (!text.is_empty() && sum < 2f64.powi(53)).then_some(sum.round() as u64)
}

fn ulimits(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    for m in tree.members() {
        let number = |tree: Option<&Tree>| match tree.and_then(Tree::scalar)? {
            "-1" => Some(json!("unlimited")),
            text => text.parse::<u64>().ok().map(|n| json!(n)),
        };
        let (soft, hard) = match &m.value.value {
            Value::Object(_) => (number(m.value.get("soft")), number(m.value.get("hard"))),
            _ => (number(Some(&m.value)), number(Some(&m.value))),
        };
        match (soft, hard) {
            (Some(soft), Some(hard)) => put(container, &["rlimits", &m.key], json!([soft, hard])),
            _ => report.leave(m.at, format!("{path}.{}", m.key), "must be a number, or soft and hard"),
        }
    }
}

fn network(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    match tree.scalar().unwrap_or_default() {
        mode @ ("host" | "none") => put(container, &["network", "mode"], json!(mode)),
        _ => report.leave(tree.at, path, "only none and host are supported by devices yet; it gets none"),
    }
}
