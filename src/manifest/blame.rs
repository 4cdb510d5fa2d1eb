//! Faults that point at the text: path, line, column, excerpt, sentence, hint.

use super::json::Node;
use crate::protocol::Reason;
use serde::Serialize;
use std::fmt;

/// Most faults kept of one document; whoever has more gets these first.
pub const MAX_FAULTS: usize = 32;
/// Most characters of a line shown around a fault (a manifest may be one long line).
const EXCERPT: usize = 100;

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document counts, but probably does not do what its author thinks.
    Warning,
}

/// One fault of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where in the document: `containers.nginx.mounts[0].target`; empty for the document itself.
    pub path: String,
    /// Line, from 1; 0 if there is no text to point at.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// The line (or the part of it around the fault), and carets below it.
    pub excerpt: Option<String>,
    /// What is wrong, without the path.
    pub message: String,
    /// What to write instead, where we know.
    pub hint: Option<String>,
    /// From the closed list of the wire contract.
    pub reason: Reason,
    /// Refused, or only strange.
    pub severity: Severity,
}

impl Fault {
    /// A fault that has no text to point at.
    pub fn placeless(path: String, reason: Reason, message: String) -> Self {
        Self { path, line: 0, column: 0, excerpt: None, message, hint: None, reason, severity: Severity::Error }
    }

    /// One line: path, sentence, and place.
    pub fn sentence(&self) -> String {
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        let place = if self.line == 0 { String::new() } else { format!(" (line {}, column {})", self.line, self.column) };
        let hint = self.hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default();
        format!("{path}{}{hint}{place}", self.message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.severity == Severity::Error { "error" } else { "warning" };
        let path = if self.path.is_empty() { "document" } else { &self.path };
        writeln!(f, "{kind}: {path}: {} ({})", self.message, self.reason)?;
        if self.line > 0 {
            writeln!(f, " --> line {}, column {}", self.line, self.column)?;
        }
        for line in self.excerpt.iter().flat_map(|e| e.lines()) {
            writeln!(f, "  | {line}")?;
        }
        self.hint.as_ref().map_or(Ok(()), |hint| writeln!(f, "  = {hint}"))
    }
}

/// All faults of a document, errors first, then in the order of the text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// The reason to give when only one can be given: that of the first error.
    pub fn first_reason(&self) -> Reason {
        self.0.first().map_or(Reason::Internal, |f| f.reason)
    }

    /// The document is refused.
    pub fn is_refusal(&self) -> bool {
        self.0.first().is_some_and(|f| f.severity == Severity::Error)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| fault.fmt(f))?;
        if self.0.len() < MAX_FAULTS { Ok(()) } else { writeln!(f, "(there may be more: only the first {MAX_FAULTS} are shown)") }
    }
}

impl std::error::Error for Faults {}

/// A fault while the document is still being checked: only its offset is known.
#[derive(Debug)]
pub struct Found {
    /// Byte offset where it starts.
    pub at: usize,
    /// Byte offset behind what is to be underlined.
    pub end: usize,
    #[allow(missing_docs, reason = "as in Fault")]
    pub reason: Reason,
    #[allow(missing_docs, reason = "as in Fault")]
    pub message: String,
    #[allow(missing_docs, reason = "as in Fault")]
    pub hint: Option<String>,
    #[allow(missing_docs, reason = "as in Fault")]
    pub severity: Severity,
}

impl Found {
    /// An error in a value.
    pub fn at(node: &Node, reason: Reason, message: impl Into<String>) -> Self {
        let end = if matches!(node.value, super::json::Value::List(_) | super::json::Value::Object(_)) { node.at + 1 } else { node.end };
        Self { at: node.at, end, reason, message: message.into(), hint: None, severity: Severity::Error }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same as a warning.
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

/// Turns what was found into faults that point at `text`. `secrets`: spans that no excerpt may show.
pub fn point(text: &str, tree: Option<&Node>, mut found: Vec<Found>, secrets: &[(usize, usize)]) -> Faults {
    found.sort_unstable_by_key(|f| (f.severity, f.at));
    found.truncate(MAX_FAULTS);
    let shown = mask(text, secrets);
    let fault = |f: Found| {
        let (line, column, excerpt) = place(&shown, f.at, f.end);
        let path = tree.map(|t| path_of(t, f.at)).unwrap_or_default();
        Fault { path, line, column, excerpt: Some(excerpt), message: f.message, hint: f.hint, reason: f.reason, severity: f.severity }
    };
    Faults(found.into_iter().map(fault).collect())
}

/// The text with secret spans and control characters made harmless, every byte offset kept.
fn mask(text: &str, secrets: &[(usize, usize)]) -> String {
    let hidden = |at: usize| secrets.iter().any(|(from, to)| (*from..*to).contains(&at));
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        match c {
            '\n' => out.push(c),
            _ if hidden(at) => out.extend(std::iter::repeat_n('*', c.len_utf8())),
            // Escape sequences of a hostile manifest must not reach a terminal; C1 controls are two bytes long.
            _ if c.is_control() || is_invisible(c) => out.extend(std::iter::repeat_n(' ', c.len_utf8())),
            _ => out.push(c),
        }
    }
    out
}

/// Marks that change the order of the characters around them, or have no width (Unicode 15, "Bidirectional Algorithm").
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn place(text: &str, at: usize, end: usize) -> (usize, usize, String) {
    let at = (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let number = text[..at].matches('\n').count() + 1;
    let line = text[start..].lines().next().unwrap_or("");
    let before = text[start..at].chars().count();
    let length = line.chars().count();
    let wide = text.get(at..end.min(start + line.len())).map_or(1, |s| s.chars().count()).max(1);
    let skip = if length <= EXCERPT { 0 } else { before.saturating_sub(EXCERPT / 2) };
    let part: String = line.chars().skip(skip).take(EXCERPT).collect();
    let carets = "^".repeat(wide.min((EXCERPT + skip).saturating_sub(before)).max(1));
    (number, before + 1, format!("{}\n{}{carets}", part.trim_end(), " ".repeat(before - skip)))
}

/// The path of what stands at an offset.
fn path_of(tree: &Node, at: usize) -> String {
    let mut path = String::new();
    let mut node = tree;
    loop {
        let member = node.members().iter().find(|m| (m.at..m.value.end).contains(&at));
        let item = node.items().iter().enumerate().find(|(_, n)| (n.at..n.end).contains(&at));
        node = match (member, item) {
            (Some(m), _) => {
                push_key(&mut path, &m.key);
                &m.value
            }
            (None, Some((i, n))) => {
                path.push_str(&format!("[{i}]"));
                n
            }
            (None, None) => return path,
        };
    }
}

/// Adds a field or map key to a path: `.name`, or `["odd name"]`.
pub fn push_key(path: &mut String, key: &str) {
    let plain = (1..=64).contains(&key.len()) && key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'));
    match (plain, path.is_empty()) {
        (true, true) => path.push_str(key),
        (true, false) => *path = format!("{path}.{key}"),
        // Bounded, and escaped for terminals.
        (false, _) => *path = format!("{path}[{:?}]", key.chars().take(40).collect::<String>()),
    }
}
