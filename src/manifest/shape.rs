//! What a document may look like, as a table. The same table checks documents, gives hints and defaults, and prints the JSON Schema,
//! so that these cannot drift apart.

use super::blame::{Found, MAX_FAULTS};
use super::json::{Member, Node, Value};
use super::units;
use crate::protocol::Reason;
use std::borrow::Cow;
use std::time::Duration;

/// One field of an object.
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// Whether it must or may be there.
    pub need: Need,
    /// The value in force when it is absent, as JSON without quotes; empty: none.
    pub default: &'static str,
    /// One sentence for people.
    pub doc: &'static str,
}

/// Whether a field must or may be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Its absence is a fault.
    Required,
    /// It may be absent.
    Optional,
    /// Part of the wire contract, but this version refuses it as `unsupported`.
    Unbuilt,
}

/// What a value may be.
pub enum Kind {
    /// Anything; only for what is not built.
    Any,
    /// `true` or `false`.
    Bool,
    /// A string of a form.
    Text(&'static Form),
    /// A string of a form, or an integer of the same meaning.
    Either(&'static Form),
    /// One of these words.
    Word(&'static [&'static str]),
    /// An integer, from and to.
    Whole(u64, u64),
    /// A decimal number, from and to, in thousandths.
    Milli(u64, u64),
    /// Bytes, from and to.
    Size(u64, u64),
    /// Milliseconds, from and to.
    Time(u64, u64),
    /// A list of so many (from, to) of one kind.
    List(&'static Kind, usize, usize),
    /// An object whose keys have a form and belong to the author; so many of them (from, to).
    Map(&'static Form, &'static Kind, usize, usize),
    /// An object with these fields.
    Object(&'static [Field]),
    /// An object whose `type` decides which fields it has.
    Tagged(&'static [(&'static str, Need, &'static [Field])]),
    /// `true`, `false`, or an object with these fields.
    BoolOr(&'static [Field]),
}

/// What a string may contain.
pub struct Form {
    /// Regular expression for the JSON Schema (ECMA 262); empty where none says it well.
    pub pattern: &'static str,
    /// Says why a string is not of this form.
    pub check: fn(&str) -> Result<(), Objection>,
}

/// Why a string is refused.
pub type Objection = (Reason, String);

/// An objection with the common reason.
pub fn bad(message: impl Into<String>) -> Objection {
    (Reason::BadValue, message.into())
}

impl Field {
    /// A field that must be there.
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, need: Need::Required, default: "", doc }
    }

    /// A field that may be there.
    pub const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, need: Need::Optional, default: "", doc }
    }

    /// A field with a value in force when it is absent.
    pub const fn default(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Self {
        Self { name, kind, need: Need::Optional, default, doc }
    }

    /// A field of the contract that this version refuses.
    pub const fn unbuilt(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, need: Need::Unbuilt, default: "", doc }
    }
}

// ---- checking ----

/// Checks a value against its kind; every fault is added to `found`.
pub fn check(node: &Node, kind: &Kind, found: &mut Vec<Found>) {
    // Enough to refuse it; a hostile document must not buy a hint for each of its thousands of faults.
    if found.len() >= MAX_FAULTS {
        return;
    }
    match kind {
        Kind::Any => {}
        Kind::List(item, least, most) => match &node.value {
            Value::List(items) => {
                count(node, items.len(), *least, *most, "items", found);
                items.iter().for_each(|i| check(i, item, found));
            }
            _ => wrong_type(node, kind, found),
        },
        Kind::Map(key, item, least, most) => match &node.value {
            Value::Object(members) => {
                count(node, members.len(), *least, *most, "entries", found);
                members.iter().for_each(|m| entry(m, key, item, found));
            }
            _ => wrong_type(node, kind, found),
        },
        Kind::Object(fields) => object(node, kind, fields, found),
        Kind::Tagged(variants) => tagged(node, kind, variants, found),
        Kind::BoolOr(_) if matches!(node.value, Value::Bool(_)) => {}
        Kind::BoolOr(fields) => object(node, kind, fields, found),
        _ => scalar(node, kind, found),
    }
}

fn entry(member: &Member, key: &Form, item: &Kind, found: &mut Vec<Found>) {
    if let Err((reason, message)) = form(key, &member.key) {
        found.push(of_key(member, reason, format!("the name {message}")));
    }
    check(&member.value, item, found);
}

/// Every form refuses NUL: all these strings end up in system calls that would stop reading there.
fn form(form: &Form, text: &str) -> Result<(), Objection> {
    if text.contains('\0') { Err(bad("must not contain NUL")) } else { (form.check)(text) }
}

fn of_key(member: &Member, reason: Reason, message: String) -> Found {
    let severity = super::blame::Severity::Error;
    Found { at: member.at, end: member.end, reason, message, hint: None, severity }
}

fn count(node: &Node, number: usize, least: usize, most: usize, what: &str, found: &mut Vec<Found>) {
    if (least..=most).contains(&number) {
        return;
    }
    let message = format!("has {number} {what}, from {least} to {most} are allowed");
    found.push(Found::at(node, Reason::BadValue, message));
}

fn wrong_type(node: &Node, kind: &Kind, found: &mut Vec<Found>) {
    let is = match node.value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::Text(_) => "a string",
        Value::List(_) => "a list",
        Value::Object(_) => "an object",
    };
    let fault = Found::at(node, Reason::BadValue, format!("must be {}, not {is}", kind.name()));
    found.push(if matches!(node.value, Value::Null) { fault.hint("leave the field out instead of null") } else { fault });
}

fn scalar(node: &Node, kind: &Kind, found: &mut Vec<Found>) {
    let answer = match (&node.value, kind) {
        (Value::Bool(_), Kind::Bool) => Ok(()),
        (Value::Text(t), Kind::Text(f) | Kind::Either(f)) => form(f, t),
        (Value::Number(n), Kind::Either(f)) => form(f, n),
        (Value::Text(t), Kind::Word(words)) => {
            if words.contains(&t.as_ref()) {
                return;
            }
            let fault = Found::at(node, Reason::BadValue, format!("must be {}", kind.name()));
            found.push(match nearest(t, words.iter().copied()) {
                Some(word) => fault.hint(format!("did you mean \"{word}\"?")),
                None => fault,
            });
            return;
        }
        (Value::Number(n), Kind::Whole(least, most)) => units::whole(n).and_then(|n| range(n, *least, *most, u64::to_string)),
        (Value::Number(n), Kind::Milli(least, most)) => units::milli(n).and_then(|n| range(n, *least, *most, |n| units::show_milli(*n))),
        (Value::Number(n), Kind::Size(least, most)) => units::whole(n).and_then(|n| range(n, *least, *most, |n| units::show_size(*n))),
        (Value::Text(t), Kind::Size(least, most)) => units::size(t).and_then(|n| range(n, *least, *most, |n| units::show_size(*n))),
        (Value::Number(n), Kind::Time(least, most)) => {
            units::whole(n).and_then(|n| range(n.saturating_mul(1000), *least, *most, |n| units::show_millis(*n)))
        }
        (Value::Text(t), Kind::Time(least, most)) => units::millis(t).and_then(|n| range(n, *least, *most, |n| units::show_millis(*n))),
        _ => return wrong_type(node, kind, found),
    };
    if let Err((reason, message)) = answer {
        found.push(Found::at(node, reason, message));
    }
}

fn range(n: u64, least: u64, most: u64, show: impl Fn(&u64) -> String) -> Result<(), Objection> {
    if (least..=most).contains(&n) { Ok(()) } else { Err(bad(format!("must be from {} to {}", show(&least), show(&most)))) }
}

fn object(node: &Node, kind: &Kind, fields: &'static [Field], found: &mut Vec<Found>) {
    let Value::Object(members) = &node.value else { return wrong_type(node, kind, found) };
    for member in members {
        if found.len() >= MAX_FAULTS {
            return;
        }
        match fields.iter().find(|f| f.name == member.key) {
            Some(f) if f.need == Need::Unbuilt => {
                let message = format!("`{}` is not supported by this version", f.name);
                found.push(of_key(member, Reason::Unsupported, message));
            }
            Some(f) => check(&member.value, &f.kind, found),
            // Room for the author's own remarks and tools.
            None if member.key.starts_with("x-") => {}
            None => found.push(unknown(member, fields)),
        }
    }
    for field in fields.iter().filter(|f| f.need == Need::Required && node.get(f.name).is_none()) {
        found.push(Found::at(node, Reason::BadValue, format!("the field `{}` is missing", field.name)).hint(field.doc));
    }
}

fn tagged(node: &Node, kind: &Kind, variants: &'static [(&'static str, Need, &'static [Field])], found: &mut Vec<Found>) {
    let names = || variants.iter().map(|v| v.0);
    let Value::Object(_) = &node.value else { return wrong_type(node, kind, found) };
    let Some(tag) = node.get("type") else {
        let fault = Found::at(node, Reason::BadValue, "the field `type` is missing");
        return found.push(fault.hint(format!("one of {}", list(names()))));
    };
    match variants.iter().find(|v| tag.text() == Some(v.0)) {
        Some((name, Need::Unbuilt, _)) => {
            let message = format!("type \"{name}\" is not supported by this version");
            found.push(Found::at(tag, Reason::Unsupported, message));
        }
        Some((_, _, fields)) => object(node, kind, fields, found),
        None => {
            let fault = Found::at(tag, Reason::BadValue, format!("must be one of {}", list(names())));
            found.push(match nearest(tag.text().unwrap_or(""), names()) {
                Some(word) => fault.hint(format!("did you mean \"{word}\"?")),
                None => fault,
            });
        }
    }
}

fn unknown(member: &Member, fields: &'static [Field]) -> Found {
    let fault = of_key(member, Reason::UnknownField, "there is no such field".into());
    let elsewhere = fields.iter().find(|f| matches!(f.kind, Kind::Object(inner) if inner.iter().any(|i| i.name == member.key)));
    if let Some(outer) = elsewhere {
        return fault.hint(format!("`{}` stands in `{}`", member.key, outer.name));
    }
    match nearest(&member.key, fields.iter().map(|f| f.name)) {
        Some(name) => fault.hint(format!("did you mean `{name}`?")),
        None => {
            let known = fields.iter().filter(|f| f.need != Need::Unbuilt).map(|f| f.name);
            fault.hint(format!("known here: {}", known.collect::<Vec<_>>().join(", ")))
        }
    }
}

/// Two objects of one name in one place mean different things to different readers (RFC 8259, section 4).
pub fn duplicates(node: &Node, found: &mut Vec<Found>) {
    let mut members: Vec<&Member> = node.members().iter().collect();
    members.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(a.at.cmp(&b.at)));
    for pair in members.windows(2).filter(|p| p[0].key == p[1].key) {
        found.push(of_key(pair[1], Reason::Malformed, "the same name stands twice in one object".into()));
    }
    members.iter().for_each(|m| duplicates(&m.value, found));
    node.items().iter().for_each(|i| duplicates(i, found));
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}

/// The known word that differs least, if it differs little.
fn nearest(word: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    if word.len() > 32 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let by_distance = known.map(|k| (distance(lower.as_bytes(), k.as_bytes()), k));
    by_distance.min().filter(|(d, k)| *d <= 1 + k.len() / 4).map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Kind {
    /// What it is called in a sentence.
    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Any => "a value",
            Self::Bool => "true or false",
            Self::Text(_) => "a string",
            Self::Either(_) => "a string or an integer",
            Self::Word(words) => return format!("one of {}", list(words.iter().copied())).into(),
            Self::Whole(..) => "an integer",
            Self::Milli(..) => "a number",
            Self::Size(..) => "a size (bytes, or a string like \"64M\")",
            Self::Time(..) => "a duration (seconds, or a string like \"500ms\", \"10s\", \"5m\")",
            Self::List(..) => "a list",
            Self::Map(..) | Self::Object(_) | Self::Tagged(_) => "an object",
            Self::BoolOr(_) => "true, false or an object",
        })
    }
}

// ---- reading what was checked ----

/// An object of the document beside its table; absent fields answer with the table's default.
#[derive(Clone, Copy)]
pub struct View<'a> {
    node: Option<&'a Node<'a>>,
    fields: &'static [Field],
}

impl<'a> View<'a> {
    /// A view of an object.
    pub fn new(node: &'a Node<'a>, fields: &'static [Field]) -> Self {
        Self { node: Some(node), fields }
    }

    /// The value of a field, if it stands there.
    pub fn node(&self, name: &str) -> Option<&'a Node<'a>> {
        self.node.and_then(|n| n.get(name))
    }

    /// The object in a field; of an absent one every field is absent.
    pub fn object(&self, name: &str) -> View<'a> {
        match self.field(name).map(|f| &f.kind) {
            Some(Kind::Object(fields) | Kind::BoolOr(fields)) => View { node: self.node(name), fields },
            _ => View { node: None, fields: &[] },
        }
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        let field = self.fields.iter().find(|f| f.name == name);
        debug_assert!(field.is_some(), "`{name}` does not stand in the table");
        field
    }

    /// Text of a scalar, or of its default. Lists and objects have none.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let default = self.field(name).map(|f| f.default).filter(|d| !d.is_empty());
        match self.node(name).map(|n| &n.value) {
            None => default,
            Some(value) => text_of(value),
        }
    }

    /// The value as a type of its own.
    pub fn parse<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// Thousandths.
    pub fn milli(&self, name: &str) -> Option<u64> {
        units::milli(self.text(name)?).ok()
    }

    /// Bytes.
    pub fn size(&self, name: &str) -> Option<u64> {
        let text = self.text(name)?;
        units::whole(text).or_else(|_| units::size(text)).ok()
    }

    /// A duration.
    pub fn time(&self, name: &str) -> Option<Duration> {
        let text = self.text(name)?;
        let millis = units::whole(text).map(|s| s.saturating_mul(1000)).or_else(|_| units::millis(text));
        millis.ok().map(Duration::from_millis)
    }

    /// The items of a list.
    pub fn items(&self, name: &str) -> &'a [Node<'a>] {
        self.node(name).map_or(&[], |n| n.items())
    }

    /// The strings of a list; `None` if it is absent.
    pub fn texts(&self, name: &str) -> Option<Vec<String>> {
        let items = self.node(name)?.items();
        Some(items.iter().filter_map(|i| i.text()).map(str::to_owned).collect())
    }

    /// The entries of a map, in the order of the document.
    pub fn entries(&self, name: &str) -> &'a [Member<'a>] {
        self.node(name).map_or(&[], |n| n.members())
    }
}

/// Text of a scalar.
pub fn text_of<'a>(value: &'a Value<'a>) -> Option<&'a str> {
    match value {
        Value::Text(t) => Some(t),
        Value::Number(n) => Some(n),
        Value::Bool(b) => Some(if *b { "true" } else { "false" }),
        _ => None,
    }
}
