//! `diff`: what a file would change, beside what the broker keeps.

use super::address::Address;
use super::args::Call;
use super::document::{load, whom};
use super::keys::opened;
use super::session::{Session, block_on, now};
use super::settings;
use super::topics;
use crate::cli::print;
use crate::exit::{Code, Error, visible};
use crate::manifest::{Manifest, parse, render};
use serde_json::{Value, json};

/// The exit code where something differs, as diff(1) has it.
const DIFFERS: u8 = Code::Failed as u8;

/// `wherryctl diff FILE`.
///
/// # Errors
/// A bad file or address, or no connection.
pub fn diff(call: &Call) -> Result<u8, Error> {
    let loaded = load("compare", &call.operands[0])?;
    let settings = settings::load(call)?;
    let named = loaded.manifest.target.as_ref().map(|target| Address::named(&target.whom));
    let address = Address::of(call)?
        .or(named)
        .ok_or_else(|| Error::usage("nothing says whom it is compared with").hint("give --device ID, --group ID or --where SELECTOR"))?;
    let app = loaded.manifest.app.clone();
    let filters: Vec<String> = match &address {
        Address::Devices(ids) => {
            ids.iter().map(|id| topics::desired(&settings.root, &crate::manifest::Whom::Device(id.clone()), &app)).collect()
        }
        Address::Group(id) => vec![topics::desired(&settings.root, &crate::manifest::Whom::Group(id.clone()), &app)],
        Address::Where(_) => ["presence", "reported"]
            .map(|rest| topics::out(&settings.root, None, rest))
            .into_iter()
            .chain([topics::desired_everywhere(&settings.root, &app)])
            .collect(),
    };
    block_on(async {
        let session = Session::open(&settings, &filters).await?;
        let mut code = 0;
        let wanted = comparable(&loaded.manifest);
        for whom_ in address.resolve(&session.fleet, now())? {
            let kept = session.kept.get(&topics::desired(&settings.root, &whom_, &app));
            let changes = changes(kept.map(Vec::as_slice), &wanted);
            let name = whom(&session.target(&whom_));
            tell(call, &name, app.as_str(), &changes)?;
            code = if changes.is_empty() { code } else { DIFFERS };
        }
        session.link.close().await;
        Ok(code)
    })
}

/// One difference.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    path: String,
    before: Option<Value>,
    after: Option<Value>,
}

/// As a device understands it, without number and target.
fn comparable(manifest: &Manifest) -> Value {
    let bare = Manifest { seq: None, target: None, ..manifest.clone() };
    serde_json::from_str(&render(&bare)).unwrap_or_default()
}

/// What is different in `wanted`. A kept document that this release cannot read is compared as it stands.
fn changes(kept: Option<&[u8]>, wanted: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    match kept {
        None => found.push(Change { path: String::new(), before: None, after: Some(wanted.clone()) }),
        Some(bytes) => {
            let bytes = &opened(bytes)[..];
            let before = parse(bytes).map_or_else(|_| serde_json::from_slice(bytes).unwrap_or_default(), |m| comparable(&m));
            compare("", &before, wanted, &mut found);
        }
    }
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<Change>) {
    let change =
        |before: Option<&Value>, after: Option<&Value>, path: String| Change { path, before: before.cloned(), after: after.cloned() };
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, after) {
        _ if before == after => {}
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys.filter(|key| !(path.is_empty() && matches!(key.as_str(), "seq" | "target"))) {
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => compare(&below(key), x, y, found),
                    (x, y) => found.push(change(x, y, below(key))),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (x, y))| compare(&format!("{path}[{i}]"), x, y, found));
        }
        _ => found.push(change(Some(before), Some(after), path.to_owned())),
    }
}

fn tell(call: &Call, name: &str, app: &str, changes: &[Change]) -> Result<(), Error> {
    if call.json() {
        let row = |c: &Change| json!({"path": c.path, "before": c.before, "after": c.after});
        return print::json(&json!({"for": name, "app": app, "changes": changes.iter().map(row).collect::<Vec<_>>()}));
    }
    let line = |c: &Change| {
        let show = |value: &Value| visible(&value.to_string());
        match (&c.before, &c.after) {
            (None, Some(_)) if c.path.is_empty() => format!("{name} {app}: the broker keeps nothing of it yet\n"),
            (None, Some(after)) => format!("{name} {app}: + {}: {}\n", c.path, show(after)),
            (Some(before), None) => format!("{name} {app}: - {}: {}\n", c.path, show(before)),
            (before, after) => {
                let shown = |value: &Option<Value>| value.as_ref().map_or_else(String::new, show);
                format!("{name} {app}: ~ {}: {} -> {}\n", c.path, shown(before), shown(after))
            }
        }
    };
    print::bytes(changes.iter().map(line).collect::<String>().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(kept: &str, wanted: &str) -> Vec<String> {
        let wanted = comparable(&parse(wanted.as_bytes()).unwrap());
        let sign = |c: &Change| match (&c.before, &c.after) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        changes(Some(kept.as_bytes()), &wanted).iter().map(|c| format!("{} {}", sign(c), c.path)).collect()
    }

    fn document(container: &str) -> String {
        format!(r#"{{"wherry":1,"app":"web","containers":{{"a":{{"image":{{"ref":"oci:/x"}}{container}}}}}}}"#)
    }

    #[test]
    fn what_means_the_same_does_not_differ() {
        let kept = r#"{"seq":5,"target":{"fleet":"w","device":"r"},"app":"web","wherry":1,"containers":{"a":{"image":{"ref":"oci:/x"},"resources":{"memory":{"max":67108864}},"init":true}}}"#;
        assert_eq!(paths(kept, &document(r#","resources":{"memory":{"max":"64M"}}"#)), [""; 0]);
    }

    #[test]
    fn what_differs_is_named_by_its_path() {
        let plain = document("");
        for (container, expected) in [
            (r#","env":{"A":"1"}"#, "+ containers.a.env"),
            (r#","init":false"#, "~ containers.a.init"),
            (r#","resources":{"pids":{"max":5}}"#, "+ containers.a.resources"),
            (r#","restart":{"delay":"2s"}"#, "~ containers.a.restart.delay"),
        ] {
            assert_eq!(paths(&plain, &document(container)), [expected], "{container}");
        }
        assert_eq!(paths(&document(r#","env":{"A":"1"}"#), &plain), ["- containers.a.env"]);
        let removal = r#"{"wherry":1,"app":"web","remove":true}"#;
        assert_eq!(paths(&plain, removal), ["- containers", "+ remove"]);
        assert!(!paths("not json", &plain).is_empty());
    }
}
