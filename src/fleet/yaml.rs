//! YAML 1.2 into a tree that remembers where everything stands: anchors, and the merge key that compose files use.

use super::tree::{MAX_DEPTH, MAX_NODES, Member, Tree, Value};
use crate::manifest::json::Wrong;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use std::collections::BTreeMap;

/// Reads the one document of a text. An empty one is null.
///
/// # Errors
/// Where and why it is not YAML, or has what JSON cannot say.
pub fn read(text: &str) -> Result<Tree, Wrong> {
    let mut builder = Builder { text, offsets: offsets(text), open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, done: None };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| builder.scan_error(&e))?;
        builder.take(event, span)?;
    }
    Ok(builder.done.unwrap_or(Tree { at: 0, end: text.len(), value: Value::Null }))
}

/// The byte where each character begins, and the end: the parser counts characters.
fn offsets(text: &str) -> Vec<usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()
}

/// A list or mapping whose end has not come yet.
struct Open {
    at: usize,
    anchor: usize,
    inner: Inner,
}

enum Inner {
    List(Vec<Tree>),
    /// The members, and a key whose value has not come yet.
    Object(Vec<Member>, Option<Tree>),
}

struct Builder<'a> {
    text: &'a str,
    offsets: Vec<usize>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Tree>,
    nodes: usize,
    done: Option<Tree>,
}

impl Builder<'_> {
    fn offset(&self, mark: Marker) -> usize {
        self.offsets.get(mark.index()).copied().unwrap_or(self.text.len())
    }

    fn scan_error(&self, e: &ScanError) -> Wrong {
        Wrong { at: self.offset(*e.marker()), message: e.info().to_owned() }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Wrong> {
        let (at, end) = (self.offset(span.start), self.offset(span.end));
        match event {
            Event::DocumentStart(_) if self.done.is_some() => fail(at, "holds more than one document"),
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref()).map_err(|message| Wrong { at, message })?;
                self.put(Tree { at, end: end.max(at), value }, anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => self.begin(at, anchor, tag.as_deref(), Inner::List(Vec::new())),
            Event::MappingStart(anchor, tag) => self.begin(at, anchor, tag.as_deref(), Inner::Object(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(end),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                // What is repeated stands where it is repeated: a fault in it points there.
                Some(tree) => {
                    let nodes = count(&tree);
                    self.put(Tree { at, end, value: tree.value }, 0, nodes)
                }
                None => fail(at, "the anchor that this stands for does not exist, or is not complete yet"),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: usize, anchor: usize, tag: Option<&Tag>, inner: Inner) -> Result<(), Wrong> {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            return fail(at, &format!("the tag {tag} has no meaning here"));
        }
        if self.open.len() >= MAX_DEPTH {
            return fail(at, &format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.open.push(Open { at, anchor, inner });
        Ok(())
    }

    fn end(&mut self, end: usize) -> Result<(), Wrong> {
        let Some(Open { at, anchor, inner }) = self.open.pop() else { return fail(end, "ends what was not begun") };
        // The end that the parser tells of a block is where the next one begins.
        let tree = match inner {
            Inner::List(items) => Tree { at, end: items.last().map_or(end, |i| i.end.max(at)), value: Value::List(items) },
            Inner::Object(members, _) => {
                Tree { at, end: members.last().map_or(end, |m| m.value.end.max(m.end)), value: Value::Object(merged(members)?) }
            }
        };
        self.put(tree, anchor, 1)
    }

    fn put(&mut self, tree: Tree, anchor: usize, nodes: usize) -> Result<(), Wrong> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return fail(tree.at, &format!("more than {MAX_NODES} values"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, tree.clone());
        }
        match self.open.last_mut().map(|open| &mut open.inner) {
            None => self.done = Some(tree),
            Some(Inner::List(items)) => items.push(tree),
            Some(Inner::Object(_, key @ None)) => *key = Some(tree),
            Some(Inner::Object(members, key)) => {
                if let Some(key) = key.take() {
                    members.push(member(key, tree, members)?);
                }
            }
        }
        Ok(())
    }
}

/// Values in a tree.
fn count(tree: &Tree) -> usize {
    1 + tree.items().iter().map(count).sum::<usize>() + tree.members().iter().map(|m| count(&m.value)).sum::<usize>()
}

fn member(key: Tree, value: Tree, before: &[Member]) -> Result<Member, Wrong> {
    let Some(name) = key.scalar() else { return fail(key.at, "a key must be text") };
    if before.iter().any(|m| m.key == name) {
        return fail(key.at, "the same name stands twice in one object");
    }
    Ok(Member { at: key.at, end: key.end, key: name.to_owned(), value })
}

/// With `<<` replaced by what it brings in: what stands here itself wins, then the first that was merged.
fn merged(members: Vec<Member>) -> Result<Vec<Member>, Wrong> {
    let (merges, mut members): (Vec<_>, Vec<_>) = members.into_iter().partition(|m| m.key == "<<");
    for Member { value, .. } in merges {
        let sources = match value {
            Tree { value: Value::List(items), .. } => items,
            one => vec![one],
        };
        for source in sources {
            let Tree { value: Value::Object(brought), .. } = source else { return fail(source.at, "only a mapping can be merged") };
            let new: Vec<Member> = brought.into_iter().filter(|b| members.iter().all(|m| m.key != b.key)).collect();
            members.extend(new);
        }
    }
    Ok(members)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(Value::Text(text.to_owned())),
        Some(tag) if !tag.is_yaml_core_schema() => Err(format!("the tag {tag} has no meaning here")),
        _ if style == ScalarStyle::Plain => Ok(plain(text)),
        _ => Ok(Value::Text(text.to_owned())),
    }
}

/// The core schema (YAML 1.2.2, section 10.3.2). What JSON cannot say as a number stays text.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::Text(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<String> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+')).map(|n| n.to_string());
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().filter(|_| !octal.starts_with('+')).map(|n| n.to_string());
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits(unsigned) {
        return text.parse::<i64>().ok().map(|n| n.to_string());
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let good = digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))
        && (digits(whole) || (whole.is_empty() && !part.is_empty()))
        && (part.is_empty() || digits(part));
    let value: f64 = good.then(|| text.parse().ok()).flatten()?;
    serde_json::Number::from_f64(value).map(|n| n.to_string())
}

fn fail<T>(at: usize, message: &str) -> Result<T, Wrong> {
    Err(Wrong { at, message: message.to_owned() })
}
