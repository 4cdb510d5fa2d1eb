//! `watch`: what devices say, as it comes.

use super::args::{Call, id};
use super::link::Message;
use super::progress::sentence;
use super::seen::{Device, Link};
use super::session::{News, Session, block_on, now};
use super::settings::{self, Settings};
use super::topics::{self, What};
use crate::cli::{print, when};
use crate::exit::{Code, Error, note};
use crate::manifest::Id;
use crate::sys::time::unix_ms;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Before a lost connection is made again.
pub const AGAIN: Duration = Duration::from_secs(2);
/// How often silence is looked for.
const TICK: Duration = Duration::from_secs(1);

/// `wherryctl watch [DEVICE...]`.
///
/// # Errors
/// The first connection cannot be made, or nobody reads any more.
pub fn watch(call: &Call) -> Result<u8, Error> {
    let settings = settings::load(call)?;
    let devices = (0..call.operands.len()).map(|i| id("device", &call.operand(i)?)).collect::<Result<Vec<_>, _>>()?;
    block_on(async {
        let mut watch = Watch { json: call.json(), links: BTreeMap::new(), states: BTreeMap::new() };
        let mut session = Session::open(&settings, &filters(&settings, &devices)).await?;
        loop {
            match watch.follow(&mut session).await {
                Err(e) if e.code() == Code::Unavailable => note(&format!("wherryctl: {e}; trying again")),
                Err(e) => return Err(e),
                Ok(never) => match never {},
            }
            session = again(&settings, &filters(&settings, &devices)).await?;
        }
    })
}

/// Another connection, as soon as there can be one.
///
/// # Errors
/// What waiting does not mend.
pub async fn again(settings: &Settings, filters: &[String]) -> Result<Session, Error> {
    loop {
        tokio::time::sleep(AGAIN).await;
        match Session::open(settings, filters).await {
            Err(e) if e.code() == Code::Unavailable => {}
            other => return other,
        }
    }
}

fn filters(settings: &Settings, devices: &[Id]) -> Vec<String> {
    let whom: Vec<Option<&Id>> = if devices.is_empty() { vec![None] } else { devices.iter().map(Some).collect() };
    let of = |device| ["presence", "reported", "ack/+", "keyset", "stats"].map(|rest| topics::out(&settings.root, device, rest));
    whom.into_iter().flat_map(of).collect()
}

struct Watch {
    json: bool,
    /// As last told.
    links: BTreeMap<Id, Link>,
    states: BTreeMap<(Id, String), String>,
}

impl Watch {
    async fn follow(&mut self, session: &mut Session) -> Result<std::convert::Infallible, Error> {
        self.look(session)?;
        loop {
            if let Some((news, message)) = session.next(Instant::now() + TICK).await? {
                self.told(&news, &message)?;
            }
            self.look(session)?;
        }
    }

    fn told(&self, news: &News, message: &Message) -> Result<(), Error> {
        let wanted = !matches!(news, News::Device(heard) if heard.what == What::Stats) && !matches!(news, News::Other);
        match news {
            _ if self.json && wanted => {
                let payload: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                print::json(&json!({"at": when::show(unix_ms()), "topic": message.topic, "message": payload}))
            }
            News::Said(device, said) if !self.json => self.line(&sentence(device, said)),
            _ => Ok(()),
        }
    }

    /// Tells what changed since the last look: also that a device went silent, of which no message tells.
    fn look(&mut self, session: &Session) -> Result<(), Error> {
        if self.json {
            return Ok(());
        }
        for (id, device) in &session.fleet.devices {
            let link = device.link(now());
            if self.links.insert(id.clone(), link) != Some(link) {
                let session = device.session().map_or_else(String::new, |(boot, conn)| format!(", session {boot}.{conn}"));
                self.line(&format!("{id}: {}{session}", link.word()))?;
            }
            self.containers(id, device)?;
        }
        Ok(())
    }

    fn containers(&mut self, id: &Id, device: &Device) -> Result<(), Error> {
        for (app, report) in &device.apps.0 {
            for (name, container) in &report.containers.0 {
                let key = (id.clone(), format!("{app}/{name}"));
                let error = container.error.as_ref().map_or_else(String::new, |e| format!(": {}", crate::exit::visible(e)));
                let state = format!("{}, {} restarts{error}", container.state, container.restarts);
                if self.states.get(&key) != Some(&state) {
                    self.line(&format!("{id} {app}/{name}: {state}"))?;
                    self.states.insert(key, state);
                }
            }
        }
        Ok(())
    }

    fn line(&self, text: &str) -> Result<(), Error> {
        print::line(&format!("{} {text}", when::show(unix_ms())))
    }
}
