//! From bytes to a checked value, with every fault pointed at: the one way in for all documents that a device reads.

use super::blame::{Fault, Faults, Found, point};
use super::json::{self, Node};
use super::shape::{self, Field, Kind, View};
use crate::protocol::Reason;

/// What a document is.
pub struct Document<T> {
    /// Most bytes.
    pub max: usize,
    /// Its fields.
    pub fields: &'static [Field],
    /// A fault that makes all others meaningless (another version).
    pub first: fn(&Node) -> Option<Found>,
    /// Makes the checked value; reports what only shows between fields. `None` only where a fault was found.
    pub convert: for<'a> fn(View<'a>, &'a Node<'a>, &mut Vec<Found>) -> Option<T>,
    /// Name of fields whose values no message may show.
    pub secret: Option<&'static str>,
}

impl<T> Document<T> {
    /// The value if the document has no errors, and all faults (with a value: warnings).
    pub fn examine(&self, bytes: &[u8]) -> (Option<T>, Faults) {
        self.examine_then(bytes, |_, _, _| {})
    }

    /// The same, with more done to a value without errors while its text can still be pointed at.
    pub fn examine_then(&self, bytes: &[u8], then: impl FnOnce(&mut T, &Node, &mut Vec<Found>)) -> (Option<T>, Faults) {
        let text = match self.text(bytes) {
            Ok(text) => text,
            Err(fault) => return (None, Faults(vec![fault])),
        };
        let root = match json::read(text) {
            Ok(root) => root,
            Err(wrong) => return (None, self.syntax(text, wrong.at, wrong.message)),
        };
        let mut found = Vec::new();
        let mut value = self.value(&root, &mut found);
        if let Some(value) = value.as_mut().filter(|_| found.iter().all(|f| f.severity != super::Severity::Error)) {
            then(value, &root, &mut found);
        }
        let mut secrets = Vec::new();
        self.secrets(&root, &mut secrets);
        let faults = point(text, Some(&root), found, &secrets);
        (value.filter(|_| !faults.is_refusal()), faults)
    }

    /// The value, or why not.
    pub fn parse(&self, bytes: &[u8]) -> Result<T, Faults> {
        let (value, faults) = self.examine(bytes);
        value.ok_or(faults)
    }

    fn value(&self, root: &Node, found: &mut Vec<Found>) -> Option<T> {
        if let Some(first) = (self.first)(root) {
            found.push(first);
            return None;
        }
        shape::duplicates(root, found);
        let fields = self.fields;
        shape::check(root, &Kind::Object(fields), found);
        let value = (self.convert)(View::new(root, fields), root, found);
        if value.is_none() && found.is_empty() {
            found.push(Found::at(root, Reason::Internal, "the parser refuses this document and does not know why"));
        }
        value
    }

    fn text<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, Fault> {
        let refuse = |reason, message: String| Err(Fault::placeless(String::new(), reason, message));
        if bytes.len() > self.max {
            return refuse(Reason::Oversize, format!("{} bytes are too many, at most {} are taken", bytes.len(), self.max));
        }
        if bytes.is_empty() {
            return refuse(Reason::Malformed, "is empty".into());
        }
        std::str::from_utf8(bytes).map_err(|e| {
            let before = &bytes[..e.valid_up_to()];
            let line = before.iter().filter(|b| **b == b'\n').count() + 1;
            let message = format!("is not UTF-8: byte {} (line {line}) belongs to no character", e.valid_up_to());
            Fault::placeless(String::new(), Reason::Malformed, message)
        })
    }

    fn syntax(&self, text: &str, at: usize, message: String) -> Faults {
        let found = Found { at, end: at + 1, reason: Reason::Malformed, message, hint: None, severity: super::Severity::Error };
        let mut faults = point(text, None, vec![found], &[]);
        // Without a tree nobody knows which part of the line is secret.
        if self.secret.is_some_and(|s| text.contains(s)) {
            faults.0.iter_mut().for_each(|f| f.excerpt = None);
        }
        faults
    }

    fn secrets(&self, node: &Node, spans: &mut Vec<(usize, usize)>) {
        for member in node.members() {
            if self.secret == Some(&*member.key) {
                spans.push((member.value.at, member.value.end));
            }
            self.secrets(&member.value, spans);
        }
        node.items().iter().for_each(|i| self.secrets(i, spans));
    }
}

/// Refuses another version of the schema before anything else is said about the document.
pub fn version(root: &Node) -> Option<Found> {
    let node = root.get("wherry")?;
    let json::Value::Number(n) = node.value else { return None };
    let n: u64 = n.parse().ok().filter(|n| *n != super::SCHEMA)?;
    let known = super::SCHEMA;
    Some(Found::at(node, Reason::Unsupported, format!("needs a version that knows schema {n}; this one knows schema {known}")))
}

#[cfg(feature = "fleet")]
impl<T> Document<T> {
    /// [`Document::examine`] for a document that was written in another language than JSON: `root` says what stands where in `text`.
    pub fn examine_tree(&self, text: &str, root: &Node) -> (Option<T>, Faults) {
        let mut found = Vec::new();
        let value = self.value(root, &mut found);
        let mut secrets = Vec::new();
        self.secrets(root, &mut secrets);
        let faults = point(text, Some(root), found, &secrets);
        (value.filter(|_| !faults.is_refusal()), faults)
    }
}
