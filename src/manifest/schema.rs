//! The table of a document as a JSON Schema (draft 2020-12).

use super::out::Out;
use super::shape::{Field, Form, Kind, Need};

/// The schema of a document.
pub fn schema(title: &str, fields: &'static [Field]) -> String {
    let head =
        vec![("$schema".to_owned(), Out::text("https://json-schema.org/draft/2020-12/schema")), ("title".to_owned(), Out::text(title))];
    match object(fields) {
        Out::Object(rest) => Out::Object(head.into_iter().chain(rest).collect()).pretty(),
        other => other.pretty(),
    }
}

fn object(fields: &'static [Field]) -> Out {
    let properties = fields.iter().map(|f| (f.name.to_owned(), field(f))).collect();
    let required = fields.iter().filter(|f| f.need == Need::Required).map(|f| Out::text(f.name)).collect();
    Out::object([
        ("type", Out::text("object")),
        ("properties", Out::Object(properties)),
        ("patternProperties", Out::object([("^x-", Out::Bool(true))])),
        ("additionalProperties", Out::Bool(false)),
        ("required", Out::List(required)),
    ])
}

fn field(field: &'static Field) -> Out {
    let unbuilt = if field.need == Need::Unbuilt { " Not built in this version: refused as unsupported." } else { "" };
    let mut members = vec![("description".to_owned(), Out::text(format!("{}{unbuilt}", field.doc)))];
    let default = match (&field.kind, field.default) {
        (_, "") => None,
        (Kind::Bool | Kind::BoolOr(_), word) => Some(Out::Bool(word == "true")),
        (_, text) => Some(text.parse().map_or(Out::text(text), Out::Whole)),
    };
    members.extend(default.map(|d| ("default".to_owned(), d)));
    if let Out::Object(rest) = kind(&field.kind) {
        members.extend(rest);
    }
    Out::Object(members)
}

fn string(pattern: &str) -> Out {
    let mut members = vec![("type".to_owned(), Out::text("string"))];
    members.extend((!pattern.is_empty()).then(|| ("pattern".to_owned(), Out::text(pattern))));
    Out::Object(members)
}

fn integer(least: u64, most: u64) -> Out {
    Out::object([("type", Out::text("integer")), ("minimum", Out::Whole(least)), ("maximum", Out::Whole(most))])
}

fn either(choices: Vec<Out>) -> Out {
    Out::object([("oneOf", Out::List(choices))])
}

fn map(key: &Form, item: &'static Kind, least: usize, most: usize) -> Out {
    Out::object([
        ("type", Out::text("object")),
        ("propertyNames", string(key.pattern)),
        ("additionalProperties", kind(item)),
        ("minProperties", Out::Whole(least as u64)),
        ("maxProperties", Out::Whole(most as u64)),
    ])
}

fn kind(of: &'static Kind) -> Out {
    match of {
        Kind::Any => Out::Object(vec![]),
        Kind::Bool => Out::object([("type", Out::text("boolean"))]),
        Kind::Text(form) => string(form.pattern),
        Kind::Either(form) => either(vec![string(form.pattern), integer(0, u64::MAX)]),
        Kind::Word(words) => Out::object([("enum", Out::List(words.iter().map(Out::text).collect()))]),
        Kind::Whole(least, most) => integer(*least, *most),
        Kind::Milli(least, most) => {
            let bound = |milli: u64| Out::Fraction(milli as f64 / 1000.0);
            Out::object([("type", Out::text("number")), ("minimum", bound(*least)), ("maximum", bound(*most))])
        }
        Kind::Size(least, most) => either(vec![integer(*least, *most), string("^[0-9]+[KMG]$")]),
        Kind::Time(_, most) => either(vec![integer(0, most / 1000), string("^[0-9]+(ms|s|m|h)$")]),
        Kind::List(item, least, most) => Out::object([
            ("type", Out::text("array")),
            ("items", kind(item)),
            ("minItems", Out::Whole(*least as u64)),
            ("maxItems", Out::Whole(*most as u64)),
        ]),
        Kind::Map(key, item, least, most) => map(key, item, *least, *most),
        Kind::Object(fields) => object(fields),
        Kind::Tagged(variants) => either(variants.iter().map(|v| object(v.2)).collect()),
        Kind::BoolOr(fields) => either(vec![Out::object([("type", Out::text("boolean"))]), object(fields)]),
    }
}
