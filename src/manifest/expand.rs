//! Variables of the device put into a manifest.
//!
//! In place of values of the checked document, never of its text: a variable cannot change the document's structure, and what it makes is
//! held to the rule of its field. What identifies a document is its bytes, before this.

use super::blame::Found;
use super::forms::{hostname, path};
use super::json::Node;
use super::shape::Objection;
use super::{Body, Check, Container, Content, How, Manifest, Mount};
use crate::protocol::Reason;
use std::collections::BTreeMap;

/// Most text of one container with its variables in, in bytes: with all else that a start takes it must fit one frame. A document
/// without variables is always below it.
const MAX_TOTAL: usize = 40 * 1024;

/// First parts of what stands in `${…}`. With the dot behind, none can be a variable of a shell (POSIX.1-2017, XBD 3.235).
const OURS: [&str; 4] = ["${var.", "${device.", "${app.", "${container."];

/// What a device has to put in.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// `${device.id}`.
    pub id: &'a str,
    /// `${var.NAME}`.
    pub variables: &'a BTreeMap<String, String>,
}

/// Puts variables in, and says of each value where that fails. `${var.NAME}`, `${device.id}`, `${app.name}` and `${container.name}` become their
/// values in command, args, env values, workdir, hostname, sources of bind mounts, content of files and programs of health checks; `$${` becomes `${`. Any other
/// `$` stays, so that shell text keeps its meaning. What is put in is not looked at again.
pub fn expand(manifest: &mut Manifest, root: &Node, device: &Device<'_>, found: &mut Vec<Found>) {
    let Body::Run(containers) = &mut manifest.body else { return };
    let all = root.get("containers").unwrap_or(root);
    for c in containers {
        let name = c.name.clone();
        let values = Values { device, app: manifest.app.as_str(), container: name.as_str() };
        let node = all.get(name.as_str()).unwrap_or(all);
        container(c, &mut Walk { node, values, total: 0, found: &mut *found });
    }
}

struct Values<'a> {
    device: &'a Device<'a>,
    app: &'a str,
    container: &'a str,
}

struct Walk<'a> {
    /// The container.
    node: &'a Node<'a>,
    values: Values<'a>,
    total: usize,
    found: &'a mut Vec<Found>,
}

impl<'a> Walk<'a> {
    /// `at`: where the value stands.
    fn put(&mut self, value: &mut String, at: Option<&Node>, rule: fn(&str) -> Result<(), Objection>) {
        let put = self.values.replace(value).and_then(|text| rule(&text).map(|()| text));
        let put = put.and_then(|text| {
            self.total += text.len();
            if self.total <= MAX_TOTAL { Ok(text) } else { Err(too_long()) }
        });
        match put {
            Ok(text) => *value = text,
            Err((reason, message)) => self.found.push(Found::at(at.unwrap_or(self.node), reason, message)),
        }
    }

    fn item(&self, field: &str, i: usize) -> Option<&'a Node<'a>> {
        self.node.get(field)?.items().get(i)
    }
}

fn bad(message: String) -> Objection {
    (Reason::BadValue, message)
}

fn too_long() -> Objection {
    bad(format!("is too long with its variables put in: one container may have {MAX_TOTAL} bytes of text"))
}

fn container(c: &mut Container, walk: &mut Walk<'_>) {
    let any = |_: &str| Ok(());
    for (field, list) in [("command", &mut c.command), ("args", &mut c.args)] {
        for (i, word) in list.iter_mut().flatten().enumerate() {
            walk.put(word, walk.item(field, i), any);
        }
    }
    for (key, value) in &mut c.env {
        walk.put(value, walk.node.get("env").and_then(|env| env.get(key)), any);
    }
    for (field, value, rule) in [("workdir", &mut c.workdir, path as fn(&str) -> _), ("hostname", &mut c.hostname, hostname)] {
        value.iter_mut().for_each(|value| walk.put(value, walk.node.get(field), rule));
    }
    if let Some(Check { how: How::Exec(words), .. }) = &mut c.health {
        for (i, word) in words.iter_mut().enumerate() {
            walk.put(word, walk.node.get("health").and_then(|health| health.get("exec")?.items().get(i)), any);
        }
    }
    for (i, mount) in c.mounts.iter_mut().enumerate() {
        if let Mount::Bind { source, .. } = mount {
            walk.put(source, walk.item("mounts", i).and_then(|m| m.get("source")), path);
        }
    }
    for (i, file) in c.files.iter_mut().enumerate() {
        if let Content::Text(text) = &mut file.content {
            walk.put(text, walk.item("files", i).and_then(|f| f.get("content")), any);
        }
    }
}

impl Values<'_> {
    fn replace(&self, text: &str) -> Result<String, Objection> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("$${") {
                out.push_str("${");
                rest = after;
            } else if OURS.iter().any(|ours| rest.starts_with(ours)) {
                let (name, after) = rest[2..].split_once('}').ok_or_else(|| bad(format!("{} has no closing `}}`", shown(rest))))?;
                out.push_str(self.value(name).ok_or_else(|| bad(self.unknown(name)))?);
                rest = after;
            } else {
                out.push('$');
                rest = &rest[1..];
            }
            if out.len() > MAX_TOTAL {
                return Err(too_long());
            }
        }
        Ok(out + rest)
    }

    fn value(&self, name: &str) -> Option<&str> {
        match name {
            "device.id" => Some(self.device.id),
            "app.name" => Some(self.app),
            "container.name" => Some(self.container),
            _ => self.device.variables.get(name.strip_prefix("var.")?).map(String::as_str),
        }
    }

    fn unknown(&self, name: &str) -> String {
        let Some(own) = name.strip_prefix("var.") else {
            return format!("there is no variable {}; known are device.id, app.name, container.name and var.NAME", shown(name));
        };
        let known: Vec<_> = self.device.variables.keys().take(16).map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!("this device has no variable {} (it has: {known})", shown(own))
    }
}

/// Bounded, and escaped for terminals.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}
