//! TOML into a tree that remembers where everything stands.

use super::tree::{MAX_DEPTH, Member, Tree, Value};
use crate::manifest::json::Wrong;
use ::toml::de::{DeArray, DeTable, DeValue};
use std::ops::Range;

/// Reads a document.
///
/// # Errors
/// Where and why it is not TOML.
pub fn read(text: &str) -> Result<Tree, Wrong> {
    let table =
        DeTable::parse(text).map_err(|e| Wrong { at: e.span().map_or(0, |span| span.start), message: e.message().replace('\n', ", ") })?;
    let mut tree = object(table.get_ref(), table.span(), 0)?;
    (tree.at, tree.end) = (0, text.len());
    Ok(tree)
}

fn value(value: &DeValue<'_>, span: Range<usize>, depth: usize) -> Result<Tree, Wrong> {
    if depth > MAX_DEPTH {
        return Err(Wrong { at: span.start, message: format!("nested deeper than {MAX_DEPTH} levels") });
    }
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) => match i128::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Value::Number(n.to_string()),
            Err(_) => Value::Text(n.to_string()),
        },
        DeValue::Float(n) if n.as_str().contains("inf") || n.as_str().contains("nan") => Value::Text(n.as_str().to_owned()),
        DeValue::Float(n) => Value::Number(n.as_str().trim_start_matches('+').to_owned()),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => return list(items, span, depth),
        DeValue::Table(table) => return object(table, span, depth),
    };
    Ok(Tree { at: span.start, end: span.end, value })
}

fn list(items: &DeArray<'_>, span: Range<usize>, depth: usize) -> Result<Tree, Wrong> {
    let items = items.iter().map(|item| value(item.get_ref(), item.span(), depth + 1)).collect::<Result<Vec<_>, _>>()?;
    let (at, end) = hull(span, items.iter().map(|item| (item.at, item.end)));
    Ok(Tree { at, end, value: Value::List(items) })
}

/// A table may be spread over the file, and so may an array of tables: the span is made to reach over all that is in it.
fn hull(span: Range<usize>, inner: impl Iterator<Item = (usize, usize)>) -> (usize, usize) {
    inner.fold((span.start, span.end), |(at, end), (first, last)| (at.min(first), end.max(last)))
}

fn object(table: &DeTable<'_>, span: Range<usize>, depth: usize) -> Result<Tree, Wrong> {
    let mut members = Vec::with_capacity(table.len());
    for (key, inner) in table {
        let (at, end) = (key.span().start, key.span().end);
        members.push(Member { at, end, key: key.get_ref().to_string(), value: value(inner.get_ref(), inner.span(), depth + 1)? });
    }
    // The library sorts by name; the order of containers has a meaning.
    members.sort_by_key(|member| member.at);
    let (at, end) = hull(span, members.iter().map(|m| (m.at, m.value.end)));
    Ok(Tree { at, end, value: Value::Object(members) })
}
