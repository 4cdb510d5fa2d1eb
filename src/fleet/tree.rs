//! A document as a tree that remembers where everything stands, whichever language it was written in: what points at a JSON text points at YAML
//! and TOML just as well.

use super::{toml, yaml};
use crate::manifest::json::{self, Node, Wrong};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

/// Deepest nesting taken.
pub const MAX_DEPTH: usize = 32;
/// Most values in one document, those that YAML's aliases repeat included.
pub const MAX_NODES: usize = 16 * 1024;

/// One value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Byte offset of its first character.
    pub at: usize,
    /// Byte offset behind its last character.
    pub end: usize,
    /// The value.
    pub value: Value,
}

/// A value; numbers are text in JSON's form.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the kinds of RFC 8259")]
pub enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<Member>),
}

/// One member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Byte offset of the key.
    pub at: usize,
    /// Byte offset behind the key.
    pub end: usize,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Tree,
}

/// What a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Language {
    Json,
    Toml,
    Yaml,
}

impl Language {
    /// By the name of the file, else by the first character: JSON begins with a brace, and all else is YAML.
    pub fn of(file: &OsStr, text: &str) -> Self {
        match Path::new(file).extension().and_then(OsStr::to_str) {
            Some("json") => Self::Json,
            Some("toml") => Self::Toml,
            Some("yaml" | "yml") => Self::Yaml,
            _ if text.trim_start().starts_with('{') => Self::Json,
            _ => Self::Yaml,
        }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// Where and why it is not of this language.
    pub fn read(self, text: &str) -> Result<Tree, Wrong> {
        match self {
            Self::Json => json::read(text).map(|node| Tree::of(&node)),
            Self::Toml => toml::read(text),
            Self::Yaml => yaml::read(text),
        }
    }
}

impl Tree {
    /// A value that stands nowhere.
    pub fn made(value: Value) -> Self {
        Self { at: 0, end: 0, value }
    }

    /// A string that stands nowhere.
    pub fn text_of(text: impl ToString) -> Self {
        Self::made(Value::Text(text.to_string()))
    }

    fn of(node: &Node) -> Self {
        let member = |m: &json::Member| Member { at: m.at, end: m.end, key: m.key.to_string(), value: Self::of(&m.value) };
        let value = match &node.value {
            json::Value::Null => Value::Null,
            json::Value::Bool(b) => Value::Bool(*b),
            json::Value::Number(n) => Value::Number((*n).to_owned()),
            json::Value::Text(t) => Value::Text(t.to_string()),
            json::Value::List(items) => Value::List(items.iter().map(Self::of).collect()),
            json::Value::Object(members) => Value::Object(members.iter().map(member).collect()),
        };
        Self { at: node.at, end: node.end, value }
    }

    /// The same as the parser of documents wants it.
    pub fn node(&self) -> Node<'_> {
        fn member(m: &Member) -> json::Member<'_> {
            json::Member { at: m.at, end: m.end, key: Cow::Borrowed(&m.key), value: m.value.node() }
        }
        let value = match &self.value {
            Value::Null => json::Value::Null,
            Value::Bool(b) => json::Value::Bool(*b),
            Value::Number(n) => json::Value::Number(n),
            Value::Text(t) => json::Value::Text(Cow::Borrowed(t)),
            Value::List(items) => json::Value::List(items.iter().map(Self::node).collect()),
            Value::Object(members) => json::Value::Object(members.iter().map(member).collect()),
        };
        Node { at: self.at, end: self.end, value }
    }

    /// The member of that name, if this is an object that has one.
    pub fn get(&self, name: &str) -> Option<&Tree> {
        self.members().iter().find(|m| m.key == name).map(|m| &m.value)
    }

    /// The members of an object; none for anything else.
    pub fn members(&self) -> &[Member] {
        if let Value::Object(members) = &self.value { members } else { &[] }
    }

    /// The items of a list; none for anything else.
    pub fn items(&self) -> &[Tree] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// Text of a scalar.
    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Text(t) | Value::Number(t) => Some(t),
            Value::Bool(b) => Some(if *b { "true" } else { "false" }),
            _ => None,
        }
    }

    /// Compact JSON.
    pub fn json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match &self.value {
            Value::Null => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Number(n) => out.push_str(n),
            Value::Text(t) => quote(t, out),
            Value::List(items) => list(items, ('[', ']'), out, |item, out| item.write(out)),
            Value::Object(members) => list(members, ('{', '}'), out, |member, out| {
                quote(&member.key, out);
                out.push(':');
                member.value.write(out);
            }),
        }
    }
}

fn list<T>(items: &[T], (open, close): (char, char), out: &mut String, write: impl Fn(&T, &mut String)) {
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(close);
}

fn quote(text: &str, out: &mut String) {
    // A string can always be written as JSON.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// Line and character, both from 1, of a byte offset.
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(language: Language, text: &str) -> serde_json::Value {
        let tree = language.read(text).unwrap_or_else(|wrong| panic!("{text}: {}", wrong.message));
        serde_json::from_str(&tree.json()).unwrap_or_else(|e| panic!("{text}: {e}: {}", tree.json()))
    }

    fn wrong(language: Language, text: &str) -> String {
        let wrong = language.read(text).map(|tree| tree.json()).expect_err(text);
        let (line, column) = place(text, wrong.at);
        format!("{line}:{column}: {}", wrong.message)
    }

    #[test]
    fn one_document_is_the_same_in_three_languages() {
        let expected = json!({"a": {"b": [1, -2, 0.5, true, "x y"], "c": {}, "d": []}, "ü": "\"\\\n"});
        for (language, text) in [
            (Language::Json, r#"{"a": {"b": [1, -2, 0.5, true, "x y"], "c": {}, "d": []}, "ü": "\"\\\n"}"#),
            (Language::Yaml, "# note\na:\n  b: [1, -2, .5, true, 'x y']\n  c: {}\n  d: []\nü: \"\\\"\\\\\\n\"\n"),
            (Language::Yaml, "a:\n  b:\n  - +1\n  - -2\n  - 0.50\n  - True\n  - x y\n  c: {}\n  d: []\nü: |\n  \"\\\n"),
            (Language::Toml, "\"ü\" = \"\\\"\\\\\\n\"\n[a]\nb = [1, -2, 0.5, true, 'x y']\nd = []\n[a.c]\n"),
        ] {
            assert_eq!(read(language, text), expected, "{text}");
        }
    }

    #[test]
    fn what_people_write_without_quotes_is_what_the_language_says() {
        for (text, expected) in [
            ("no", json!("no")),
            ("~", json!(null)),
            ("", json!(null)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("0644", json!(644)),
            ("1e3", json!(1000.0)),
            ("8080:80", json!("8080:80")),
            ("1.27.0", json!("1.27.0")),
            (".inf", json!(".inf")),
            ("'1'", json!("1")),
            ("!!str 1", json!("1")),
            ("12345678901234567890123", json!("12345678901234567890123")),
        ] {
            assert_eq!(read(Language::Yaml, &format!("a: {text}"))["a"], expected, "{text}");
        }
        for (text, expected) in
            [("0x1F", json!(31)), ("1_000", json!(1000)), ("+1.5", json!(1.5)), ("inf", json!("inf")), ("2026-01-31", json!("2026-01-31"))]
        {
            assert_eq!(read(Language::Toml, &format!("a = {text}"))["a"], expected, "{text}");
        }
    }

    #[test]
    fn anchors_and_merges_of_yaml_are_followed() {
        let text = "base: &b {x: 1, y: 2}\none: *b\ntwo:\n  <<: *b\n  y: 3\nthree:\n  <<: [*b, {z: 4}]\n";
        let base = json!({"x": 1, "y": 2});
        assert_eq!(
            read(Language::Yaml, text),
            json!({"base": base, "one": base, "two": {"x": 1, "y": 3}, "three": {"x": 1, "y": 2, "z": 4}})
        );
    }

    #[test]
    fn what_is_wrong_is_found_where_it_stands() {
        for (language, text, expected) in [
            (Language::Json, "{\"a\": }", "1:7: expected a value, found '}'"),
            (Language::Toml, "a = 1\nb = \n", "2:"),
            (Language::Toml, "a = 1\na = 2\n", "2:1: "),
            (Language::Yaml, "a: 1\nb: [1, 2\n", "3:1: "),
            (Language::Yaml, "a: 1\n---\nb: 1\n", "2:1: holds more than one document"),
            (Language::Yaml, "a: *nothing\n", "1:4: "),
            (Language::Yaml, "a: !secret x\n", "1:4: the tag !secret has no meaning here"),
            (Language::Yaml, "[a]: 1\n", "1:1: a key must be text"),
            (Language::Yaml, "a:\n  <<: 1\n", "2:7: only a mapping can be merged"),
            (Language::Yaml, "a: 1\na: 2\n", "2:1: the same name stands twice in one object"),
        ] {
            let found = wrong(language, text);
            assert!(found.starts_with(expected), "{text}: {found}");
        }
    }

    #[test]
    fn a_small_text_cannot_become_a_large_tree() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let before = format!("*a{}", i - 1);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", [before.as_str(); 10].join(", ")));
        }
        assert!(wrong(Language::Yaml, &bomb).ends_with("more than 16384 values"));
        assert!(wrong(Language::Yaml, &"[".repeat(200)).contains("deeper than 32 levels"));
        let deep = format!("a = {}1{}", "[".repeat(40), "]".repeat(40));
        assert!(wrong(Language::Toml, &deep).contains("deeper than 32 levels"));
    }
}
