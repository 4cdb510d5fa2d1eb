//! What may be published in a model: real documents, read once by the shipped reader, and how the programs in them behave.

use crate::ghost::MAX;
use std::cell::RefCell;
use std::collections::HashSet;
use wherry::container;
use wherry::image::{Config, Digest};
use wherry::ipc::Origin;
use wherry::keeper::lifecycle::Rules;
use wherry::keeper::plan::Ready;
use wherry::manifest::{Body, Container, Id, Manifest, Name, parse};

/// How a program behaves, left to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// It runs on. It has no check, or one that is content.
    Works,
    /// It ends with 1, soon after each start.
    Ends,
    /// It runs on, and its check is never content.
    Sick,
    /// There is no such program in the image.
    Broken,
    /// Its image cannot be had.
    Missing,
}

/// One document that may be published.
pub struct Document {
    /// For people.
    pub name: &'static str,
    /// Where it is published.
    pub origin: Origin,
    /// The number of that topic: 0 for the device's own, then those of its groups in its order.
    pub topic: usize,
    /// As the shipped reader reads it.
    pub manifest: Manifest,
    /// Of its bytes.
    pub sha256: Digest,
    /// What keeper makes of it: one container, if any.
    pub ready: Option<Ready>,
    /// How that container's program behaves.
    pub nature: Nature,
}

/// All documents, by number.
pub struct Catalog {
    /// In no order that matters.
    pub documents: Vec<Document>,
    /// The one app.
    pub app: Name,
    /// Its one container.
    pub container: Name,
    /// This device.
    pub device: Id,
    /// Its groups, in its order.
    pub groups: Vec<Id>,
    /// Records that have been through the shipped encoding.
    known: RefCell<HashSet<u64>>,
}

/// The text behind `"seq"`: `run NATURE PROGRAM [check] [N%]`, `remove` or `inherit`; `name topic seq text` is a document.
pub type Line = (&'static str, &'static str, u64, &'static str);

impl Catalog {
    /// Reads lines of `(name, topic, seq, text)`; a `seq` of 0 is none.
    pub fn new(lines: &[Line]) -> Self {
        let device = "router".parse().unwrap();
        let groups: Vec<Id> = ["near", "far"].map(|name| name.parse().unwrap()).into();
        let documents: Vec<Document> = lines.iter().map(|line| document(line, &groups)).collect();
        let different: HashSet<Digest> = documents.iter().map(|d| d.sha256).collect();
        assert_eq!(different.len(), documents.len(), "two documents are the same");
        assert!(documents.len() <= MAX, "the ghost has no more room");
        Self { documents, app: "web".parse().unwrap(), container: "main".parse().unwrap(), device, groups, known: RefCell::default() }
    }

    /// Whether a record with this key has not been asked for before.
    pub fn is_new(&self, record: u64) -> bool {
        self.known.borrow_mut().insert(record)
    }

    /// Whose bytes these are.
    pub fn of(&self, sha256: &Digest) -> usize {
        self.documents.iter().position(|d| d.sha256 == *sha256).expect("only these documents exist")
    }
}

fn document(&(name, topic, seq, text): &Line, groups: &[Id]) -> Document {
    let words: Vec<&str> = text.split(' ').collect();
    let percent = words.iter().find_map(|w| w.strip_suffix('%')).map(|n| n.parse().unwrap());
    let nature = match words.get(1).copied().unwrap_or_default() {
        "ends" => Nature::Ends,
        "sick" => Nature::Sick,
        "broken" => Nature::Broken,
        "missing" => Nature::Missing,
        _ => Nature::Works,
    };
    let check = if words.contains(&"check") || nature == Nature::Sick { r#", "health": {"file": "/ready"}"# } else { "" };
    let body = match words[0] {
        "run" => {
            let program = words[2];
            let restart = r#""restart": {"policy": "always", "delay": "1s", "max_delay": "1s"}"#;
            format!(r#""containers": {{"main": {{"image": {{"ref": "oci:/{program}"}}, "command": ["{program}"], {restart}{check}}}}}"#)
        }
        verb => format!(r#""{verb}": true"#),
    };
    let seq_ = if seq == 0 { String::new() } else { format!(r#""seq": {seq}, "#) };
    let rollout = percent.map_or_else(String::new, |p: u8| format!(r#""rollout": {{"percent": {p}}}, "#));
    let bytes = format!(r#"{{"wherry": 1, "app": "web", {seq_}{rollout}{body}}}"#);
    // A remark would be a fault; a blank is none, and tells documents of two topics apart.
    let bytes = if topic == "device" { bytes } else { format!("{bytes}{}", " ".repeat(topic.len())) };
    let manifest = parse(bytes.as_bytes()).unwrap_or_else(|faults| panic!("{name}: {faults}"));
    let ready = match &manifest.body {
        Body::Run(containers) => Some(ready(&containers[0])),
        Body::Remove { .. } | Body::Inherit => None,
    };
    let group = groups.iter().position(|g| g.as_str() == topic);
    let origin = group.map_or(Origin::Device, |g| Origin::Group(groups[g].clone()));
    Document { name, origin, topic: group.map_or(0, |g| g + 1), manifest, sha256: Digest::of(bytes.as_bytes()), ready, nature }
}

fn ready(c: &Container) -> Ready {
    let c = c.clone();
    let spec = container::build(&c, &Config::default(), c.name.as_str()).unwrap_or_else(|f| panic!("{}", f.message));
    let rules = Rules { restart: c.restart, stop: c.stop };
    let image = c.image.reference.text;
    let digest = Digest::of(image.as_bytes());
    Ready { name: c.name, digest, image, spec, rules, log: c.log, network: true, health: c.health, after: c.after }
}
