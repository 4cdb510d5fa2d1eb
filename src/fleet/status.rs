//! `status` and `devices`: what the broker keeps of each device, as tables.

use super::args::{Call, id};
use super::seen::Device;
use super::select::Selector;
use super::session::{Session, block_on, now};
use super::settings;
use super::topics;
use crate::cli::print::{self, Table, or_dash, size};
use crate::exit::{Code, Error, visible};
use crate::manifest::{Id, Target, Whom};
use crate::protocol::{AppReport, ContainerReport, LastExit};
use serde_json::{Value, json};
use tokio::time::Instant;

/// `wherryctl status [DEVICE]`.
///
/// # Errors
/// No connection, or no such device.
pub fn status(call: &Call) -> Result<u8, Error> {
    let one = call.operands.first().map(|_| call.operand(0)).transpose()?.map(|word| id("device", &word)).transpose()?;
    let session = hear(call, one.as_ref())?;
    match one {
        Some(id) => match session.fleet.devices.get(&id) {
            None => Err(Error::new(Code::Failed, format!("the broker knows no device {id}"))
                .hint("`wherryctl devices` lists those it knows; --root may name another fleet")),
            Some(device) if call.json() => print::json(&described(&id, device)).map(|()| 0),
            Some(device) => detail(&id, device).map(|()| 0),
        },
        None => every(call, &session),
    }
}

/// `wherryctl devices`.
///
/// # Errors
/// No connection.
pub fn devices(call: &Call) -> Result<u8, Error> {
    let session = hear(call, None)?;
    let meant = meant(call, &session)?;
    if call.json() {
        print::json(&meant.iter().map(|(id, device)| described(id, device)).collect())?;
        return Ok(0);
    }
    let mut table = Table::new(&["DEVICE", "LINK", "VERSION", "ARCH", "BOARD", "KERNEL", "RAM", "FLASH FREE", "APPS"]);
    for (id, device) in meant {
        let about = device.about.as_ref();
        let text = |get: fn(&crate::protocol::About) -> &String| or_dash(about.map(get), Clone::clone);
        table.row(&[
            id.to_string(),
            device.link(now()).word().to_owned(),
            text(|a| &a.version),
            text(|a| &a.arch),
            text(|a| &a.board),
            text(|a| &a.kernel),
            or_dash(about.and_then(|a| a.ram), size),
            or_dash(about.and_then(|a| a.flash_free), size),
            device.apps.0.len().to_string(),
        ]);
    }
    print::bytes(table.text().as_bytes())?;
    Ok(0)
}

/// What the broker keeps, and what comes while one listens.
fn hear(call: &Call, one: Option<&Id>) -> Result<Session, Error> {
    let settings = settings::load(call)?;
    let listen = call.duration("listen")?;
    let mut filters: Vec<String> = ["presence", "reported"].map(|rest| topics::out(&settings.root, one, rest)).into();
    filters.extend(listen.map(|_| topics::out(&settings.root, one, "stats")));
    block_on(async {
        let mut session = Session::open(&settings, &filters).await?;
        let until = Instant::now() + listen.unwrap_or_default();
        while listen.is_some() && session.next(until).await?.is_some() {}
        Ok(session)
    })
}

fn meant<'a>(call: &Call, session: &'a Session) -> Result<Vec<(&'a Id, &'a Device)>, Error> {
    let selector: Option<Selector> = call.parsed("where", str::parse)?;
    let all = session.fleet.devices.iter();
    Ok(all.filter(|(id, device)| selector.as_ref().is_none_or(|s| s.means(id, device, now()))).collect())
}

fn every(call: &Call, session: &Session) -> Result<u8, Error> {
    let meant = meant(call, session)?;
    if call.json() {
        print::json(&meant.iter().map(|(id, device)| described(id, device)).collect())?;
        return Ok(0);
    }
    let mut table = Table::new(&["DEVICE", "LINK", "APP", "STATE", "SEQ", "FROM", "CONTAINERS"]);
    let mut notes = String::new();
    for (id, device) in meant {
        let link = device.link(now()).word().to_owned();
        if device.apps.is_empty() {
            table.row(&[id.to_string(), link.clone(), "-".into(), "-".into()]);
        }
        for (name, app) in &device.apps.0 {
            table.row(&[
                id.to_string(),
                link.clone(),
                name.clone(),
                state(app),
                or_dash(app.seq, |n| n.to_string()),
                from(&app.target),
                containers(app),
            ]);
        }
        notes.extend(device.unreadable.iter().map(|why| format!("{id}: its report cannot be read: {}\n", visible(why))));
    }
    print::bytes(table.text().as_bytes())?;
    print::bytes(notes.as_bytes())?;
    Ok(0)
}

fn state(app: &AppReport) -> String {
    let reason = app.reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let hold = if app.held.is_some() { ", on hold" } else { "" };
    format!("{}{reason}{}{hold}", app.state, if app.overridden.is_some() { " *" } else { "" })
}

fn from(target: &Target) -> String {
    match &target.whom {
        Whom::Device(_) => "device".into(),
        Whom::Group(id) => format!("group {id}"),
    }
}

fn containers(app: &AppReport) -> String {
    let one = |(name, c): &(String, ContainerReport)| format!("{name} {}", c.state);
    app.containers.0.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn detail(id: &Id, device: &Device) -> Result<(), Error> {
    let mut about = Vec::new();
    if let Some(p) = &device.presence {
        about.push(json!({"link": device.link(now()).word(), "session": format!("{}.{}", p.boot, p.conn), "interval_s": p.interval_s}));
    }
    about.extend(device.about.iter().map(|about| json!(about)));
    about.extend(device.unreadable.iter().map(|why| json!({"unreadable": why})));
    let text: String = about.iter().map(print::outline).collect();
    print::bytes(format!("device: {id}\n{text}").as_bytes())?;
    let mut table = Table::new(&["APP/CONTAINER", "STATE", "UP", "RESTARTS", "LAST EXIT", "NOTE"]);
    for (name, app) in &device.apps.0 {
        table.row(&[
            name.clone(),
            state(app),
            String::new(),
            String::new(),
            String::new(),
            format!("{}, seq {}", from(&app.target), or_dash(app.seq, |n| n.to_string())),
        ]);
        for (container, c) in &app.containers.0 {
            table.row(&row(&format!("{name}/{container}"), c));
        }
    }
    if device.apps.is_empty() { Ok(()) } else { print::bytes(table.text().as_bytes()) }
}

fn row(name: &str, c: &ContainerReport) -> [String; 6] {
    let exit = or_dash(c.last_exit, |exit| match exit {
        LastExit::Code(code) => code.to_string(),
        LastExit::Signal(signal) => format!("signal {signal}"),
    });
    let missing = c.missing.0.iter().map(|(what, why)| format!("{what}: {why}"));
    let note: Vec<String> = c.error.iter().cloned().chain(c.health.clone()).chain(missing).collect();
    [name.to_owned(), c.state.to_string(), or_dash(c.since_s, print::duration), c.restarts.to_string(), exit, note.join("; ")]
}

fn described(id: &Id, device: &Device) -> Value {
    json!({
        "device": id, "link": device.link(now()).word(), "presence": device.presence, "about": device.about, "apps": device.apps,
        "unreadable": device.unreadable,
    })
}
