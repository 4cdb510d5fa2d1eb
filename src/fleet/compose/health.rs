//! `healthcheck` and `depends_on`: a check, and whom a container waits for.

use super::fields::{Shape, duration, flag, millis, put};
use super::{Report, label};
use crate::fleet::tree::{Member, Tree, Value};
use crate::manifest::out::Out;
use crate::manifest::{check as manifest_check, units};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

const DAY_MS: u64 = 86_400_000;
const HOUR_MS: u64 = 3_600_000;

/// How long a check may take where compose says nothing; a manifest's own default is shorter.
const TIMEOUT: &str = "30s";

/// There is to be no check.
fn is_off(healthcheck: &Tree) -> bool {
    let none = healthcheck.get("test").is_some_and(|test| test.items().first().and_then(Tree::scalar) == Some("NONE"));
    none || healthcheck.get("disable").is_some_and(|tree| tree.value == Value::Bool(true))
}

/// A service has a check that counts here.
fn is_checked(service: &Member) -> bool {
    service.value.get("healthcheck").is_some_and(|check| !is_off(check) && check.get("test").and_then(program).is_some())
}

/// The program of a `test` and its arguments.
fn program(test: &Tree) -> Option<Vec<String>> {
    const SHELL: [&str; 2] = ["/bin/sh", "-c"];
    let words: Option<Vec<&str>> = test.items().iter().map(Tree::scalar).collect();
    let found = match (test.scalar(), words.as_deref()) {
        (Some(line), _) => [&SHELL[..], &[line]].concat(),
        (None, Some(["CMD", program @ ..])) if !program.is_empty() => program.to_vec(),
        (None, Some(["CMD-SHELL", line @ ..])) if !line.is_empty() => [&SHELL[..], line].concat(),
        _ => return None,
    };
    Some(found.into_iter().map(str::to_owned).collect())
}

/// `healthcheck`.
pub fn check(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    if is_off(tree) {
        return;
    }
    let Some(test) = tree.get("test") else {
        return report.leave(tree.at, path, "has no `test`: an image's own check is not looked at by devices");
    };
    let Some(program) = program(test) else {
        let why = "must be a line for a shell, or a list that begins with CMD, CMD-SHELL or NONE";
        return report.leave(test.at, format!("{path}.test"), why);
    };
    put(container, &["health", "exec"], json!(program));
    // Also if the file's own cannot be taken.
    put(container, &["health", "timeout"], json!(TIMEOUT));
    for m in tree.members() {
        let path = format!("{path}.{}", m.key);
        match m.key.as_str() {
            "test" | "disable" => {}
            "interval" => time(&m.value, &path, ("interval", 1000..=DAY_MS), container, report),
            "timeout" => time(&m.value, &path, ("timeout", 100..=HOUR_MS), container, report),
            "start_period" => time(&m.value, &path, ("start_period", 0..=DAY_MS), container, report),
            "retries" => match m.value.scalar().and_then(|text| text.parse::<u64>().ok()) {
                Some(n @ 1..=100) => put(container, &["health", "retries"], json!(n)),
                _ => report.leave(m.value.at, &path, "must be from 1 to 100"),
            },
            "start_interval" => report.leave(m.at, &path, "a device checks often by itself until the first check that is good"),
            _ => report.leave(m.at, &path, "has no place in a manifest"),
        }
    }
}

fn time(tree: &Tree, path: &str, place: (&str, RangeInclusive<u64>), container: &mut Map<String, Json>, report: &mut Report) {
    let (key, range) = place;
    match tree.scalar().and_then(millis) {
        Some(ms) if !range.contains(&ms) => {
            let [least, most] = [*range.start(), *range.end()].map(units::show_millis);
            report.leave(tree.at, path, format!("devices take from {least} to {most}"));
        }
        _ => duration(tree, path, &["health", key], container, report),
    }
}

/// `depends_on`.
pub fn after(tree: &Tree, path: &str, container: &mut Map<String, Json>, report: &mut Report) {
    let mut names: Vec<String> = Vec::new();
    for item in tree.items() {
        let Some(name) = item.scalar() else {
            report.leave(item.at, path, "must be the name of a service");
            continue;
        };
        if waits(item.at, path, (name, "service_started"), report) {
            names.push(label(name, "main"));
        }
    }
    for m in tree.members() {
        let path = format!("{path}.{}", m.key);
        if let Some(objection) = Shape::Mapping.objection(&m.value) {
            report.leave(m.value.at, &path, objection);
            continue;
        }
        let condition = m.value.get("condition");
        let word = condition.map_or("service_started", |tree| tree.scalar().unwrap_or_default());
        if waits(condition.map_or(m.at, |tree| tree.at), &path, (&m.key, word), report) {
            names.push(label(&m.key, "main"));
        }
        options(&m.value, &path, report);
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    if !names.is_empty() {
        container.insert("after".into(), json!(names));
    }
}

/// Whether a container can wait for this; what is another thing than compose means is told.
fn waits(at: usize, path: &str, (name, condition): (&str, &str), report: &mut Report) -> bool {
    let Some(service) = report.services.iter().find(|m| m.key == name) else {
        report.leave(at, path, format!("{name} is no service of this file"));
        return false;
    };
    let checked = is_checked(service);
    match condition {
        "service_started" if checked => {
            report.leave(at, path, format!("is mapped; {name} has a check, so it is waited for until it is healthy"));
        }
        "service_healthy" if !checked => {
            report.leave(at, path, format!("is mapped; {name} has no check, so it is only waited for until it has begun"));
        }
        "service_started" | "service_healthy" => {}
        "service_completed_successfully" => {
            report.leave(at, path, format!("no container waits for the end of another one; what {name} does must be done otherwise"));
            return false;
        }
        _ => {
            report.leave(at, path, "must be service_started, service_healthy or service_completed_successfully");
            return false;
        }
    }
    true
}

fn options(tree: &Tree, path: &str, report: &mut Report) {
    for m in tree.members() {
        let path = format!("{path}.{}", m.key);
        match m.key.as_str() {
            "condition" => {}
            "restart" => flag(&m.value, &path, report, |_| {}),
            "required" => flag(&m.value, &path, report, |_| {}),
            _ => report.leave(m.at, &path, "has no place in a manifest"),
        }
        match (m.key.as_str(), &m.value.value) {
            ("restart", Value::Bool(true)) => report.leave(m.at, &path, "no container is restarted because another one was"),
            ("required", Value::Bool(false)) => report.leave(m.at, &path, "all containers of an app are there, so it is always waited for"),
            _ => {}
        }
    }
}

/// Where and why nobody could begin: services that wait for themselves. A manifest's own check finds them.
pub fn disorder(services: &Member, manifest: &Out) -> Option<(usize, String)> {
    let (_, faults) = manifest_check(manifest.pretty().as_bytes());
    let of = |service: &Member| format!("containers.{}.after", label(&service.key, "main"));
    faults.0.iter().find_map(|fault| {
        let service = services.value.members().iter().find(|service| fault.path.starts_with(&of(service)))?;
        Some((service.value.get("depends_on")?.at, format!("services.{}.depends_on: {}", service.key, fault.message)))
    })
}
