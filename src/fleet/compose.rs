//! `import compose`: a manifest from a compose file (compose-spec), and the name of every line that has no place in one.

use super::args::Call;
use super::document::{shown, text};
use super::tree::{Language, Member, Tree, Value, place};
use crate::cli::args::nearest;
use crate::cli::print;
use crate::exit::{Code, Error, note, visible};
use crate::manifest::out::Out;
use crate::manifest::raw::CONTAINER;
use crate::manifest::shape::{Field, Kind};
use crate::manifest::{MAX_CONTAINERS, Name, SCHEMA};
use serde_json::{Value as Json, json};
use std::path::Path;

mod fields;
mod health;

/// What could not be mapped, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Byte offset in the file.
    at: usize,
    /// `services.web.ports`.
    path: String,
    /// Why.
    why: String,
}

/// A manifest, and what is not in it.
#[derive(Debug)]
struct Imported {
    manifest: Out,
    left: Vec<Left>,
}

/// Collects what is left.
struct Report<'a> {
    left: Vec<Left>,
    /// All services, for what one says of another.
    services: &'a [Member],
}

impl Report<'_> {
    fn leave(&mut self, at: usize, path: impl Into<String>, why: impl Into<String>) {
        self.left.push(Left { at, path: path.into(), why: why.into() });
    }
}

/// `wherryctl import compose FILE`.
///
/// # Errors
/// The file cannot be read, or nothing in it is a service.
pub fn import(call: &Call) -> Result<u8, Error> {
    let format = call.operand(0)?;
    if format != "compose" {
        return Err(
            Error::usage(format!("cannot import {format}: only compose files are known")).hint("usage: wherryctl import compose FILE")
        );
    }
    let file = &call.operands[1];
    let (name, text) = (shown(file), text("import", file)?);
    let given =
        call.value("app")?.map(|word| word.parse::<Name>().map_err(|e| Error::usage(format!("--app {word}: it {e}")))).transpose()?;
    let bad = |at: usize, why: &str| {
        let (line, column) = place(&text, at);
        Error::new(Code::BadData, format!("cannot import {name}:{line}:{column}: {why}"))
    };
    let language = if Language::of(file, &text) == Language::Json { Language::Json } else { Language::Yaml };
    let tree = language.read(&text).map_err(|wrong| bad(wrong.at, &wrong.message))?;
    let app = given.map_or_else(|| app_name(&tree, Path::new(file)), |name| name.to_string());
    let imported = convert(&tree, &app).map_err(|(at, why)| bad(at, &why))?;
    tell(call, &name, &text, &imported)?;
    Ok(0)
}

fn tell(call: &Call, file: &str, text: &str, imported: &Imported) -> Result<(), Error> {
    let placed = |left: &Left| (place(text, left.at), left.clone());
    let rows: Vec<_> = imported.left.iter().map(placed).collect();
    if call.json() {
        let row = |((line, column), l): &((usize, usize), Left)| json!({"line": line, "column": column, "path": l.path, "why": l.why});
        return print::json(&json!({"manifest": imported.manifest, "left": rows.iter().map(row).collect::<Vec<_>>()}));
    }
    for ((line, column), left) in &rows {
        note(&visible(&format!("{file}:{line}:{column}: {}: {}", left.path, left.why)));
    }
    print::bytes(imported.manifest.pretty().as_bytes())
}

/// The project's name as compose has it: `name` in the file, else the directory's.
fn app_name(tree: &Tree, file: &Path) -> String {
    let named = tree.get("name").and_then(Tree::scalar).map(str::to_owned);
    let absolute = || std::path::absolute(file).ok()?.parent()?.file_name()?.to_str().map(str::to_owned);
    label(&named.or_else(absolute).unwrap_or_default(), "app")
}

/// A name that an app or container may have, of one that compose takes.
fn label(text: &str, otherwise: &str) -> String {
    let inner = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(inner).take(32).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { otherwise.to_owned() } else { name.to_owned() }
}

/// Top-level elements that say nothing about what runs.
const SILENT: [&str; 2] = ["version", "name"];

fn convert(tree: &Tree, app: &str) -> Result<Imported, (usize, String)> {
    if !matches!(tree.value, Value::Object(_)) {
        return Err((tree.at, "a compose file is a mapping with `services`".into()));
    }
    let services = tree.members().iter().find(|m| m.key == "services");
    let services = services.filter(|m| !m.value.members().is_empty()).ok_or_else(|| (tree.at, no_services(tree)))?;
    let mut report = Report { left: Vec::new(), services: services.value.members() };
    let mut containers = Vec::new();
    for service in services.value.members() {
        container(service, &mut containers, &mut report)?;
    }
    for member in tree.members().iter().filter(|m| m.key != "services" && !SILENT.contains(&m.key.as_str()) && !m.key.starts_with("x-")) {
        let why = match member.key.as_str() {
            "networks" => "networks of their own are not supported by devices yet",
            "volumes" => "how a volume is made is up to the device",
            "secrets" | "configs" => "put the text into `files`, or name a secret of the device there",
            "include" => "give the files one by one",
            _ => "has no place in a manifest",
        };
        report.leave(member.at, &member.key, why);
    }
    report.left.sort_by_key(|left| left.at);
    let containers = containers.into_iter().map(|(name, container)| (name, in_order(container, &CONTAINER))).collect();
    let manifest = Out::object([("wherry", Out::Whole(SCHEMA)), ("app", Out::text(app)), ("containers", Out::Object(containers))]);
    match health::disorder(services, &manifest) {
        Some(disorder) => Err(disorder),
        None => Ok(Imported { manifest, left: report.left }),
    }
}

/// A value with its fields in the order of the manifest's table; what is no field keeps the order of its name.
fn in_order(value: Json, fields: &'static [Field]) -> Out {
    match value {
        Json::Null => Out::Null,
        Json::Bool(b) => Out::Bool(b),
        Json::Number(n) => n.as_u64().map_or_else(|| Out::Fraction(n.as_f64().unwrap_or_default()), Out::Whole),
        Json::String(text) => Out::Text(text),
        Json::Array(items) => Out::List(items.into_iter().map(|item| in_order(item, &[])).collect()),
        Json::Object(members) => {
            let place = |name: &str| fields.iter().position(|f| f.name == name);
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by_key(|(name, _)| place(name));
            let inner = |name: &str| match place(name).map(|i| &fields[i].kind) {
                Some(Kind::Object(inner)) => *inner,
                _ => &[],
            };
            Out::Object(members.into_iter().map(|(name, value)| (name.clone(), in_order(value, inner(&name)))).collect())
        }
    }
}

fn no_services(tree: &Tree) -> String {
    let names: Vec<&str> = tree.members().iter().map(|m| m.key.as_str()).collect();
    match nearest("services", &names) {
        Some(name) if name != "services" => format!("has no `services`; is `{name}` meant?"),
        _ => "has no services".into(),
    }
}

fn container(service: &Member, containers: &mut Vec<(String, Json)>, report: &mut Report) -> Result<(), (usize, String)> {
    let path = format!("services.{}", service.key);
    let name = label(&service.key, "main");
    if name != service.key {
        report.leave(service.at, &path, format!("is called {name} here: names have lower case letters, digits and dashes only"));
    }
    if containers.iter().any(|(other, _)| *other == name) {
        return Err((service.at, format!("{path} would have the same name as another one, {name}")));
    }
    if containers.len() == MAX_CONTAINERS {
        return Err((service.at, format!("an app has at most {MAX_CONTAINERS} containers; split the file")));
    }
    let container = fields::container(service, &path, report);
    containers.push((name, container));
    Ok(())
}

#[cfg(test)]
mod tests;
