//! `events`: what happens, as it happens.

use super::args::{Call, name};
use super::client::{Client, unexpected};
use super::list::ended;
use super::print::{self, duration};
use crate::exit::{Error, note, visible};
use crate::ipc::{Happening, Reply, Request};
use crate::manifest::units::millis;
use crate::sys::time::{boottime, unix_ms};
use serde_json::{Value, json};

/// `wherry events [--past] [--since TIME] [APP]`.
pub fn events(call: &Call) -> Result<u8, Error> {
    let app = if call.operands.is_empty() { None } else { Some(name(&call.operand(0)?)?) };
    let ago = call.parsed("since", |s| millis(s).map_err(|(_, message)| message))?;
    let since_ms = ago.map_or(0, |ago| now_ms().saturating_sub(ago));
    let keeper = Client::request(&call.socket(), &Request::Events { app, since_ms, follow: !call.has("past") })?;
    loop {
        match keeper.next()? {
            Reply::Events { rows, lost } => show(&rows, lost, call.json())?,
            Reply::Done => return Ok(0),
            _ => return Err(unexpected("events")),
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX)
}

fn show(rows: &[Happening], lost: u64, as_json: bool) -> Result<(), Error> {
    if lost > 0 && as_json {
        print::json(&json!({"lost": lost}))?;
    } else if lost > 0 {
        note(&format!("wherry: {lost} events were lost here"));
    }
    let now = now_ms();
    let line = |e: &Happening| if as_json { format!("{}\n", document(e, now, unix_ms())) } else { text(e, now) };
    print::bytes(rows.iter().map(line).collect::<String>().as_bytes())
}

/// The age and not the time of day: a router's clock may be off by decades, and was another one before it was set.
fn text(e: &Happening, now: u64) -> String {
    let age = duration(now.saturating_sub(e.at_ms) / 1000);
    let of = match (&e.app, &e.container) {
        (Some(app), Some(container)) => format!("{app}/{container}"),
        (Some(app), None) => app.to_string(),
        _ => "-".to_owned(),
    };
    format!("{:<12}{of:<20}{:<12}{}\n", format!("{age} ago"), e.what, visible(&e.detail)).trim_end().to_owned() + "\n"
}

/// An event for programs; `time_ms` is by the device's clock as it is now.
pub fn document(e: &Happening, now: u64, unix: u64) -> Value {
    json!({
        "number": e.number, "uptime_ms": e.at_ms, "time_ms": unix.saturating_sub(now.saturating_sub(e.at_ms)),
        "app": e.app, "container": e.container, "what": e.what, "ended": e.ended.map(ended), "detail": e.detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::What;
    use crate::sys::process::Ended;

    #[test]
    fn an_event_is_one_line_for_people_and_one_document_for_programs() {
        let e = Happening {
            number: 7,
            at_ms: 1000,
            app: "web".parse().ok(),
            container: "main".parse().ok(),
            ended: Some(Ended::Code(3)),
            ..Happening::new(What::Exited, "code 3\n\x1b".into())
        };
        assert_eq!(text(&e, 63_500), "1m 2s ago   web/main            exited      code 3 \\u{1b}\n");
        let v = document(&e, 3000, 1_000_000);
        assert_eq!((&v["what"], &v["ended"], &v["time_ms"]), (&json!("exited"), &json!({"code": 3}), &json!(998_000)));
        assert_eq!(text(&Happening::new(What::Keeper, String::new()), 0), "0s ago      -                   keeper\n");
    }
}
