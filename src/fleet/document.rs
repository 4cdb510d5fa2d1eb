//! Manifests from files of the operator, in JSON, TOML or YAML: checked here with the very parser of the devices, and made ready to be published.

use super::keys::SecretKey;
use super::tree::{Language, Member, Tree, Value, place};
use crate::exit::{Code, Error, note, visible};
use crate::image::Digest;
use crate::manifest::blame::push_key;
use crate::manifest::json::Wrong;
use crate::manifest::{Fault, Faults, MAX_PAYLOAD, Manifest, Target, Whom, check_tree, parse};
use crate::protocol::Reason;
use crate::sys::fd::{read_file, read_to_end};
use crate::trust::{Envelope, Kind, lacks};
use std::ffi::OsStr;
use std::path::Path;

/// Largest file taken: comments and blanks do not count on the wire.
pub const MAX_FILE: usize = 256 * 1024;

/// A file with a good manifest in it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its name for messages.
    pub shown: String,
    /// What it says.
    pub manifest: Manifest,
    tree: Tree,
    /// It is signed already: the envelope, and the hash of what is in it.
    sealed: Option<(Vec<u8>, Digest)>,
}

/// A document ready for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The bytes to be published.
    pub payload: Vec<u8>,
    /// The document's hash, by which devices name it.
    pub sha256: Digest,
    /// Its sequence number.
    pub seq: u64,
}

/// Reads a text file, or standard input for `-`. `verb` begins the error.
///
/// # Errors
/// It cannot be read, is too large, or no text.
pub fn text(verb: &str, file: &OsStr) -> Result<String, Error> {
    let what = format!("cannot {verb} {}", shown(file));
    let bytes = if file == "-" { read_to_end(std::io::stdin(), MAX_FILE) } else { read_file(Path::new(file), MAX_FILE) };
    let bytes = bytes.map_err(|e| match e.kind() {
        std::io::ErrorKind::FileTooLarge => Error::new(Code::BadData, format!("{what}: larger than {} KiB", MAX_FILE / 1024)),
        _ => Error::io(&what, &e),
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Error::new(Code::BadData, format!("{what}: is not UTF-8 (line {line})"))
    })
}

/// The file's name for messages.
pub fn shown(file: &OsStr) -> String {
    if file == "-" { "standard input".into() } else { file.to_string_lossy().into_owned() }
}

/// Reads and checks a manifest. Every fault and warning is told on standard error, with its place in the file.
///
/// # Errors
/// There are faults.
pub fn load(verb: &str, file: &OsStr) -> Result<Loaded, Error> {
    let (shown, text) = (shown(file), text(verb, file)?);
    concluded(verb, &shown, examine(&shown, Language::of(file, &text), &text))
}

/// What is in a file, after all that is wrong with it was told.
///
/// # Errors
/// There are faults.
pub fn concluded<T>(verb: &str, shown: &str, (found, faults): (Option<T>, Faults)) -> Result<T, Error> {
    faults.0.iter().for_each(|fault| note(&told(shown, fault)));
    found.ok_or_else(|| {
        let errors = faults.0.iter().filter(|f| f.severity == crate::manifest::Severity::Error).count();
        let count = if errors == 1 { "one fault".into() } else { format!("{errors} faults") };
        Error::new(Code::BadData, format!("cannot {verb} {shown}: {count} (above)"))
    })
}

/// The manifest in a text, and all that is wrong with it.
pub fn examine(shown: &str, language: Language, text: &str) -> (Option<Loaded>, Faults) {
    let tree = match language.read(text) {
        Ok(tree) => tree,
        Err(wrong) => return (None, Faults(vec![syntax(text, wrong)])),
    };
    if tree.get("wherry").is_none() && tree.get("payload").is_some() {
        return envelope(shown, tree, text);
    }
    let (manifest, mut faults) = check_tree(text, &tree.node());
    faults.0.iter_mut().for_each(|fault| relocate(fault, &tree, text));
    let loaded = manifest.map(|manifest| Loaded { shown: shown.to_owned(), manifest, tree, sealed: None });
    // What counts is what goes over the wire, with the longest number.
    let size = loaded.as_ref().map_or(0, |l| l.json(u64::MAX, l.manifest.target.as_ref()).len());
    if size > MAX_PAYLOAD {
        let message = format!("{size} bytes as JSON are too many, devices take at most {MAX_PAYLOAD}");
        faults.0.insert(0, Fault::placeless(String::new(), Reason::Oversize, message));
        return (None, faults);
    }
    (loaded, faults)
}

/// A document that was signed elsewhere.
fn envelope(shown: &str, tree: Tree, text: &str) -> (Option<Loaded>, Faults) {
    let envelope = match Envelope::parse(text.as_bytes()) {
        Ok(envelope) if envelope.kind == Kind::Desired => envelope,
        Ok(envelope) => {
            let message = format!("is a signed {}, and no manifest", envelope.kind);
            return (None, Faults(vec![Fault::placeless(String::new(), Reason::BadValue, message)]));
        }
        Err(faults) => return (None, faults),
    };
    match parse(&envelope.payload) {
        Err(faults) => (None, placeless(faults)),
        Ok(manifest) => match unsignable(&manifest) {
            Some(fault) => (None, Faults(vec![fault])),
            None => {
                let sealed = Some((text.trim().as_bytes().to_vec(), Digest::of(&envelope.payload)));
                (Some(Loaded { shown: shown.to_owned(), manifest, tree, sealed }), Faults::default())
            }
        },
    }
}

/// Faults of what is in an envelope: nobody sees their places in the file.
pub fn placeless(faults: Faults) -> Faults {
    let bare = |f: Fault| Fault { line: 0, column: 0, excerpt: None, ..f };
    Faults(faults.0.into_iter().map(bare).collect())
}

/// Why a device would refuse a document although its signature is good.
pub fn unsignable(manifest: &Manifest) -> Option<Fault> {
    lacks(manifest).into_iter().next().map(|(reason, path, why)| Fault::placeless(path, reason, why.to_owned()))
}

/// In JSON a brace stands in front of an object's first field. Elsewhere the object begins where that field does, and what is missing in the object
/// must not be told of the field.
pub fn relocate(fault: &mut Fault, tree: &Tree, text: &str) {
    let field = fault.message.strip_prefix("the field `").and_then(|rest| rest.strip_suffix("` is missing"));
    let lacks = |tree: &Tree| field.is_some_and(|field| place(text, tree.at) == (fault.line, fault.column) && tree.get(field).is_none());
    if let Some(path) = find_object(tree, &mut String::new(), &lacks) {
        fault.path = path;
    }
}

fn find_object(tree: &Tree, path: &mut String, is_it: &impl Fn(&Tree) -> bool) -> Option<String> {
    if matches!(tree.value, Value::Object(_)) && is_it(tree) {
        return Some(path.clone());
    }
    let length = path.len();
    for member in tree.members() {
        push_key(path, &member.key);
        let found = find_object(&member.value, path, is_it);
        path.truncate(length);
        if found.is_some() {
            return found;
        }
    }
    tree.items().iter().enumerate().find_map(|(i, item)| find_object(item, &mut format!("{path}[{i}]"), is_it))
}

/// The fault of a text that is not of its language.
pub fn syntax(text: &str, wrong: Wrong) -> Fault {
    let (line, column) = place(text, wrong.at);
    let shown: String = text.lines().nth(line - 1).unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // The part of the line around the fault: a document may be one long line.
    let skip = column.saturating_sub(50);
    let part: String = shown.chars().skip(skip).take(100).collect();
    let excerpt = Some(format!("{}\n{}^", part.trim_end(), " ".repeat(column - 1 - skip)));
    Fault { line, column, excerpt, ..Fault::placeless(String::new(), Reason::Malformed, wrong.message) }
}

/// A fault as several lines, as `wherry validate` tells it, with the place as editors take it.
pub fn told(file: &str, fault: &Fault) -> String {
    let text = fault.to_string();
    let place = format!(" --> line {}, column {}", fault.line, fault.column);
    let own = format!(" --> {file}:{}:{}", fault.line, fault.column);
    let lines = text.lines().map(|line| if line == place { visible(&own) } else { visible(line) });
    lines.collect::<Vec<_>>().join("\n")
}

impl Loaded {
    /// The document for a target with a sequence number.
    ///
    /// # Errors
    /// It would be too large for a device.
    pub fn ready(&self, seq: u64, target: &Target) -> Result<Ready, Error> {
        if let Some((envelope, sha256)) = &self.sealed {
            return Ok(Ready { payload: envelope.clone(), sha256: *sha256, seq: self.manifest.seq.unwrap_or(seq) });
        }
        let payload = self.json(seq, Some(target)).into_bytes();
        if let Err(faults) = parse(&payload) {
            let why = faults.0.first().map_or_else(String::new, Fault::sentence);
            return Err(Error::new(Code::BadData, format!("{} for {}: {why}", self.shown, whom(target))));
        }
        Ok(Ready { sha256: Digest::of(&payload), payload, seq })
    }

    /// It is in an envelope, so that nothing of it can be changed any more.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// The same, signed.
    ///
    /// # Errors
    /// It lacks what a signed document must have, or would be too large.
    pub fn signed(&self, ready: Ready, keys: &[SecretKey]) -> Result<Ready, Error> {
        let Some(first) = keys.first() else { return Ok(ready) };
        let signable = parse(&ready.payload).ok().and_then(|manifest| unsignable(&manifest));
        match signable {
            Some(fault) => {
                Err(Error::new(Code::BadData, format!("cannot sign {} with {}: {}", self.shown, first.public.id, fault.sentence())))
            }
            None => ready.sealed(Kind::Desired, keys),
        }
    }

    fn json(&self, seq: u64, target: Option<&Target>) -> String {
        numbered(&self.tree, seq, target).json()
    }
}

/// A document with number and target behind what says which document it is.
pub fn numbered(tree: &Tree, seq: u64, target: Option<&Target>) -> Tree {
    let member = |key: &str, value| Member { at: 0, end: 0, key: key.to_owned(), value };
    let (front, rest): (Vec<_>, Vec<_>) = tree.members().iter().cloned().partition(|m| matches!(m.key.as_str(), "wherry" | "app"));
    let mut members = front;
    members.push(member("seq", Tree::made(Value::Number(seq.to_string()))));
    members.extend(target.map(|target| member("target", target_tree(target))));
    members.extend(rest.into_iter().filter(|m| !matches!(m.key.as_str(), "seq" | "target")));
    Tree::made(Value::Object(members))
}

fn target_tree(target: &Target) -> Tree {
    let (name, id) = match &target.whom {
        Whom::Device(id) => ("device", id),
        Whom::Group(id) => ("group", id),
    };
    let member = |key: &str, value: &str| Member { at: 0, end: 0, key: key.to_owned(), value: Tree::text_of(value) };
    Tree::made(Value::Object(vec![member("fleet", &target.fleet), member(name, id.as_str())]))
}

/// A tombstone.
pub fn tombstone(app: &crate::manifest::Name, seq: u64, target: &Target, volumes: bool) -> Ready {
    let member = |key: &str, value| Member { at: 0, end: 0, key: key.to_owned(), value };
    let number = |n: u64| Tree::made(Value::Number(n.to_string()));
    let mut members = vec![
        member("wherry", number(crate::manifest::SCHEMA)),
        member("app", Tree::text_of(app)),
        member("seq", number(seq)),
        member("target", target_tree(target)),
        member("remove", Tree::made(Value::Bool(true))),
    ];
    members.extend(volumes.then(|| member("volumes", Tree::made(Value::Bool(true)))));
    let payload = Tree::made(Value::Object(members)).json().into_bytes();
    Ready { sha256: Digest::of(&payload), payload, seq }
}

/// Whom a target means, for messages.
pub fn whom(target: &Target) -> String {
    match &target.whom {
        Whom::Device(id) => id.to_string(),
        Whom::Group(id) => format!("group {id}"),
    }
}

/// The sequence number of the next document: the clock's milliseconds, but never below what was used before.
pub fn next_seq(now_ms: u64, used: impl IntoIterator<Item = u64>) -> u64 {
    used.into_iter().max().map_or(now_ms, |last| now_ms.max(last.saturating_add(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { fleet: "wherry".into(), whom: Whom::Device("r".parse().unwrap()) }
    }

    fn loaded(language: Language, text: &str) -> Loaded {
        let (loaded, faults) = examine("x", language, text);
        loaded.unwrap_or_else(|| panic!("{text}: {faults}"))
    }

    #[test]
    fn a_number_is_never_below_what_was_used() {
        for (now, used, expected) in
            [(1000, vec![], 1000), (1000, vec![5, 999], 1000), (1000, vec![1000], 1001), (0, vec![], 1), (1, vec![7, 3], 8)]
        {
            assert_eq!(next_seq(now, used.clone()), expected, "{now} {used:?}");
        }
    }

    #[test]
    fn what_is_published_has_number_and_target_in_front_and_is_otherwise_what_the_file_says() {
        let yaml =
            "containers:\n  a:\n    image: {ref: 'oci:/x'}\n    resources: {cpu: {quota: .5}}\napp: web\nseq: 3\nwherry: 1\nx-by: me\n";
        let ready = loaded(Language::Yaml, yaml).ready(7, &target()).unwrap();
        let expected = r#"{"app":"web","wherry":1,"seq":7,"target":{"fleet":"wherry","device":"r"},"containers":{"a":{"image":{"ref":"oci:/x"},"resources":{"cpu":{"quota":0.5}}}},"x-by":"me"}"#;
        assert_eq!((String::from_utf8(ready.payload).unwrap().as_str(), ready.seq), (expected, 7));
        let toml = "wherry = 1\napp = \"web\"\nremove = true\n";
        let removal = loaded(Language::Toml, toml).ready(9, &target()).unwrap();
        assert_eq!(
            removal,
            Ready {
                payload: br#"{"wherry":1,"app":"web","seq":9,"target":{"fleet":"wherry","device":"r"},"remove":true}"#.to_vec(),
                ..removal.clone()
            }
        );
        assert_eq!(tombstone(&"web".parse().unwrap(), 9, &target(), false), removal);
        assert!(parse(&tombstone(&"web".parse().unwrap(), 9, &target(), true).payload).is_ok());
    }

    #[test]
    fn what_is_too_large_for_a_device_is_refused_by_its_size_on_the_wire() {
        let text = |size: usize| {
            format!(
                "wherry: 1\napp: web\nx-note: {}\n{}containers: {{a: {{image: {{ref: 'oci:/x'}}}}}}\n",
                "n".repeat(size),
                "#\n".repeat(20_000)
            )
        };
        assert!(examine("x", Language::Yaml, &text(MAX_PAYLOAD - 1000)).0.is_some());
        let (none, faults) = examine("x", Language::Yaml, &text(MAX_PAYLOAD));
        assert!(none.is_none() && faults.first_reason() == Reason::Oversize, "{faults}");
    }
}
