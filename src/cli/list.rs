//! `ls` and `info`.

use super::args::{Call, scope};
use super::client::{Client, unexpected};
use super::print::{self, Table, duration, or_dash};
use crate::exit::{Code, Error, visible};
use crate::ipc::{AppRow, ContainerRow, Reply, Request};
use crate::sys::process::Ended;
use serde_json::{Value, json};

/// `wherry ls`.
pub fn list(call: &Call) -> Result<u8, Error> {
    let Reply::Apps(apps) = Client::ask(&call.socket(), &Request::List)? else { return Err(unexpected("ls")) };
    if call.json() {
        print::json(&apps.iter().map(app_json).collect())?;
    } else {
        print::bytes(text(&apps).as_bytes())?;
    }
    Ok(0)
}

fn text(apps: &[AppRow]) -> String {
    let mut table = Table::new(&["APP", "CONTAINER", "STATE", "UP", "RESTARTS", "IMAGE"]);
    for a in apps {
        let name = format!("{}{}", a.app, if a.overridden { "*" } else { "" });
        if a.containers.is_empty() {
            table.row(&[&name, "-", &a.state.to_string(), "-", "-", "-"]);
        }
        for c in &a.containers {
            let up = or_dash(c.uptime_s, duration);
            table.row(&[&name, c.name.as_str(), &state(c), &up, &c.restarts.to_string(), &c.image]);
        }
    }
    table.text() + &notes(apps)
}

fn state(c: &ContainerRow) -> String {
    use crate::protocol::ContainerState as S;
    match (c.state, c.last_exit) {
        (S::Exited | S::Failed | S::Restarting, Some(Ended::Code(n))) => format!("{} ({n})", c.state),
        (S::Exited | S::Failed | S::Restarting, Some(Ended::Signal(n))) => format!("{} (signal {n})", c.state),
        (S::Running, _) => c.health.map_or_else(|| c.state.to_string(), |health| format!("{} ({health})", c.state)),
        _ => c.state.to_string(),
    }
}

fn notes(apps: &[AppRow]) -> String {
    let holds = apps.iter().filter(|a| a.hold);
    let mut out: String = holds.map(|a| format!("{}: on hold, whatever the fleet publishes (wherry unhold {0})\n", a.app)).collect();
    for (app, c) in apps.iter().flat_map(|a| a.containers.iter().map(move |c| (&a.app, c))) {
        if let Some(error) = &c.error {
            out.push_str(&format!("{app}/{}: {}\n", c.name, visible(error)));
        }
        for (what, why) in &c.missing {
            out.push_str(&format!("{app}/{}: no {}: {}\n", c.name, visible(what), visible(why)));
        }
    }
    out
}

/// An app for programs.
pub fn app_json(a: &AppRow) -> Value {
    json!({
        "app": a.app, "origin": a.origin.to_string(), "seq": a.seq, "sha256": a.sha256.hex(), "state": a.state, "overridden": a.overridden,
        "hold": a.hold,
        "containers": a.containers.iter().map(container_json).collect::<Vec<_>>(),
    })
}

fn container_json(c: &ContainerRow) -> Value {
    json!({
        "name": c.name, "state": c.state, "pid": c.pid, "uptime_s": c.uptime_s, "restarts": c.restarts, "image": c.image,
        "digest": c.digest, "last_exit": c.last_exit.map(ended), "error": c.error, "health": c.health,
        "missing": c.missing.iter().map(|(what, why)| (what.clone(), Value::from(why.as_str()))).collect::<serde_json::Map<_, _>>(),
    })
}

/// How a program ended: `{"code": 0}` or `{"signal": 9}`.
pub fn ended(e: Ended) -> Value {
    match e {
        Ended::Code(n) => json!({"code": n}),
        Ended::Signal(n) => json!({"signal": n}),
    }
}

/// The exit code by which we pass on how a program ended, as shells do.
pub fn exit_code(e: Ended) -> u8 {
    match e {
        Ended::Code(n) => n,
        Ended::Signal(n) => 128u8.saturating_add(n),
    }
}

/// `wherry info APP[/CONTAINER]`.
pub fn info(call: &Call) -> Result<u8, Error> {
    let word = call.operand(0)?;
    let wanted = scope(&word)?;
    let Reply::Text(text) = Client::ask(&call.socket(), &Request::Info { app: wanted.app })? else { return Err(unexpected("info")) };
    let mut value: Value = serde_json::from_str(&text)
        .map_err(|e| Error::new(Code::Internal, format!("cannot show {word}: keeper's answer is not JSON: {e}")))?;
    if let Some(container) = wanted.container {
        value = value["containers"][container.as_str()].take();
        if value.is_null() {
            return Err(Error::new(Code::Failed, format!("cannot show {word}: no such container")));
        }
    }
    if call.json() {
        print::json(&value)?
    } else {
        print::bytes(print::outline(&value).as_bytes())?
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;
    use crate::ipc::Origin;
    use crate::protocol::{ContainerState, Health, State};

    fn apps() -> Vec<AppRow> {
        let container = |name: &str, state, last_exit, error: Option<&str>| ContainerRow {
            name: name.parse().unwrap(),
            state,
            pid: None,
            uptime_s: (state == ContainerState::Running).then_some(3720),
            restarts: 2,
            image: "oci:/srv/web".into(),
            digest: None,
            last_exit,
            missing: vec![("memory.high".into(), "cgroup v1".into())],
            error: error.map(str::to_owned),
            health: (state == ContainerState::Running).then_some(Health::Healthy),
        };
        let app = |name: &str, overridden, containers| AppRow {
            app: name.parse().unwrap(),
            origin: Origin::Local,
            seq: Some(7),
            sha256: Digest::of(b""),
            state: State::Running,
            overridden,
            hold: overridden,
            containers,
        };
        vec![
            app("gone", false, vec![]),
            app(
                "web",
                true,
                vec![
                    container("db", ContainerState::Failed, Some(Ended::Signal(9)), Some("killed\x07")),
                    container("nginx", ContainerState::Running, None, None),
                ],
            ),
        ]
    }

    #[test]
    fn the_listing_has_a_line_for_each_container_and_notes_below() {
        let expected = "\
APP    CONTAINER   STATE               UP      RESTARTS   IMAGE
gone   -           running             -       -          -
web*   db          failed (signal 9)   -       2          oci:/srv/web
web*   nginx       running (healthy)   1h 2m   2          oci:/srv/web
web: on hold, whatever the fleet publishes (wherry unhold web)
web/db: killed\\u{7}
web/db: no memory.high: cgroup v1
web/nginx: no memory.high: cgroup v1
";
        assert_eq!(text(&apps()), expected);
    }

    #[test]
    fn the_listing_for_programs_uses_the_words_of_the_wire() {
        let v = app_json(&apps()[1]);
        assert_eq!((&v["hold"], &app_json(&apps()[0])["hold"]), (&json!(true), &json!(false)));
        assert_eq!((&v["origin"], &v["state"], &v["seq"]), (&json!("local"), &json!("running"), &json!(7)));
        assert_eq!(v["containers"][0]["last_exit"], json!({"signal": 9}));
        assert_eq!(v["containers"][0]["missing"]["memory.high"], "cgroup v1");
        assert_eq!((&v["containers"][0]["health"], &v["containers"][1]["health"]), (&Value::Null, &json!("healthy")));
    }

    #[test]
    fn a_signal_becomes_the_code_that_shells_give() {
        for (end, code) in [(Ended::Code(3), 3), (Ended::Signal(9), 137), (Ended::Signal(255), 255)] {
            assert_eq!(exit_code(end), code);
        }
    }
}
