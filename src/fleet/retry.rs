//! `retry`: a command to one device, and its answer.

use super::address::Address;
use super::args::Call;
use super::keys::seal;
use super::link::random_id;
use super::publish::signers;
use super::session::{Session, block_on};
use super::settings;
use super::topics;
use crate::cli::client::code;
use crate::cli::print;
use crate::exit::{Code, Error, visible};
use crate::manifest::{Id, Target, Whom};
use crate::protocol::{Answer, AnswerKind, Command, StreamArgs, Verb};
use crate::trust::Kind;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How long a device may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `wherryctl retry -d ID APP`.
///
/// # Errors
/// The device is not there, refuses, or does not answer.
pub fn retry(call: &Call) -> Result<u8, Error> {
    let settings = settings::load(call)?;
    let app = call.app(0)?;
    let device = match Address::of(call)? {
        Some(Address::Devices(ids)) if ids.len() == 1 => ids[0].clone(),
        _ => return Err(Error::usage("a command is for one device").hint("give --device ID")),
    };
    let timeout = call.duration("timeout")?.unwrap_or(TIMEOUT);
    let what = format!("cannot retry {app} on {device}");
    let (command, keys) = (random_id(), signers(call, &settings)?);
    let target = Target { fleet: settings.root.clone(), whom: Whom::Device(device.clone()) };
    let filters = [topics::out(&settings.root, Some(&device), "presence"), topics::answer(&settings.root, &device, &command)];
    block_on(async {
        let mut session = Session::open(&settings, &filters).await?;
        // A command is good for one session only: it must not be carried out later, when nobody wants it any more.
        let Some(now) = session.fleet.devices.get(&device).and_then(|d| d.session()) else {
            return Err(Error::new(Code::Unavailable, format!("{what}: it is not online")));
        };
        let (id, verb, target) = (command.parse().ok(), Verb::Retry, Some(target));
        let payload = Command { id, session: now, verb, app: Some(app), container: None, target, stream: StreamArgs::default() }.encode();
        let payload = seal(Kind::Cmd, &payload, &keys)?;
        session.link.publish(topics::command(&settings.root, &device, &command), payload, false);
        session.link.flush().await?;
        let result = answer(call, &mut session, &device, &command, &what, timeout).await;
        session.link.close().await;
        result
    })
}

async fn answer(call: &Call, session: &mut Session, device: &Id, id: &str, what: &str, timeout: Duration) -> Result<u8, Error> {
    let (until, topic) = (Instant::now() + timeout, topics::answer(&session.root, device, id));
    while let Some((_, message)) = session.next(until).await? {
        if message.topic != topic {
            continue;
        }
        let frame: Answer = serde_json::from_slice(&message.payload)
            .map_err(|e| Error::new(Code::Failed, format!("{what}: its answer cannot be read: {e}")))?;
        if call.json() {
            print::json(&json!(frame))?;
        }
        match frame.kind {
            AnswerKind::Data if !call.json() => print::line(&visible(&frame.data.unwrap_or_default()))?,
            AnswerKind::Data => {}
            AnswerKind::End => return Ok(0),
            AnswerKind::Error => {
                let reason = frame.reason.map_or_else(String::new, |r| format!(" ({r})"));
                let message = format!("{what}: it refused{reason}: {}", frame.message.unwrap_or_default());
                return Err(Error::new(frame.reason.map_or(Code::Failed, code), message));
            }
        }
    }
    Err(Error::new(Code::Unavailable, format!("{what}: no answer within {} s", timeout.as_secs_f32())))
}
