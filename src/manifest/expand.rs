//! Variables of the device put into a manifest.

use super::blame::{Fault, Faults, push_key};
use super::forms::{hostname, path};
use super::shape::Objection;
use super::{Body, Container, Manifest};
use crate::protocol::Reason;
use std::collections::BTreeMap;

/// Longest text that variables may make of one value.
pub const MAX_EXPANDED: usize = 16 * 1024;

/// Puts variables in: `${var.NAME}` in command, args, env values, workdir and hostname becomes its value, `$${` becomes `${`.
/// Any other `$` stays, so that shell text keeps its meaning.
///
/// # Errors
/// Every unknown variable, and every value that is too long or wrong with its variables in. The manifest may be half done then.
pub fn expand(manifest: &mut Manifest, vars: &BTreeMap<String, String>) -> Result<(), Faults> {
    let mut faults = Faults::default();
    if let Body::Run(containers) = &mut manifest.body {
        containers.iter_mut().for_each(|c| container(c, vars, &mut faults));
    }
    if faults.0.is_empty() { Ok(()) } else { Err(faults) }
}

fn container(c: &mut Container, vars: &BTreeMap<String, String>, faults: &mut Faults) {
    let name = c.name.to_string();
    let mut one = |value: &mut String, field: &dyn Fn(&mut String), rule: fn(&str) -> Result<(), Objection>| {
        let changed = replace(value, vars).and_then(|text| rule(&text).map(|()| text).map_err(|(_, message)| message));
        match changed {
            Ok(text) => *value = text,
            Err(message) => {
                let mut at = String::new();
                push_key(&mut at, "containers");
                push_key(&mut at, &name);
                field(&mut at);
                faults.0.push(Fault::placeless(at, Reason::BadValue, message));
            }
        }
    };
    let any = |_: &str| Ok(());
    for (list, field) in [(&mut c.command, "command"), (&mut c.args, "args")] {
        for (i, word) in list.iter_mut().flatten().enumerate() {
            one(word, &|at| *at += &format!(".{field}[{i}]"), any);
        }
    }
    for (key, value) in &mut c.env {
        let key = &*key;
        one(value, &|at| (push_key(at, "env"), push_key(at, key)).0, any);
    }
    c.workdir.iter_mut().for_each(|value| one(value, &|at| push_key(at, "workdir"), path));
    c.hostname.iter_mut().for_each(|value| one(value, &|at| push_key(at, "hostname"), hostname));
}

fn replace(text: &str, vars: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${var.") {
            let (name, after) = after.split_once('}').ok_or("`${var.` has no closing `}`")?;
            out.push_str(vars.get(name).ok_or_else(|| unknown(name, vars))?);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
        if out.len() > MAX_EXPANDED {
            return Err(format!("is longer than {MAX_EXPANDED} bytes with its variables put in"));
        }
    }
    Ok(out + rest)
}

fn unknown(name: &str, vars: &BTreeMap<String, String>) -> String {
    let name: String = name.chars().take(64).collect();
    let known: Vec<_> = vars.keys().take(16).map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("this device has no variable {name:?} (it has: {known})")
}
