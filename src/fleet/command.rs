//! Commands to devices: `start`, `stop`, `restart`, `retry`, `prune` and `diag`, and what the devices answer.

use super::address::Address;
use super::args::Call;
use super::document::whom;
use super::keys::{SecretKey, seal};
use super::link::{Message, random_id};
use super::publish::signers;
use super::session::{News, Session, block_on, now};
use super::settings::{self, Settings};
use super::topics::{self, What};
use super::watch::again;
use crate::cli::args::scope;
use crate::cli::client::code;
use crate::cli::print;
use crate::exit::{Code, Error, note, visible};
use crate::ipc::Scope;
use crate::manifest::{Id, Name, Target, Whom};
use crate::protocol::{Answer, AnswerKind, Command, StreamArgs, Verb};
use crate::trust::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long devices may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most text of one answer; a device sends far less.
const MAX_TEXT: usize = 1024 * 1024;

/// What is asked of each device.
struct Question {
    /// The id of the command, for all devices the same: each has a topic of its own.
    id: String,
    verb: Verb,
    /// `restart`.
    word: &'static str,
    app: Option<Name>,
    container: Option<Name>,
}

/// One device, and what it has answered so far.
#[derive(Debug, Default)]
struct Asked {
    /// The command as it is published; `None` for who is not online.
    payload: Option<Vec<u8>>,
    /// Frames by their number: the broker may repeat them.
    texts: BTreeMap<u32, String>,
    /// The last frame.
    last: Option<Answer>,
    /// Why an answer cannot be read.
    unreadable: Option<String>,
}

/// `wherryctl VERB (-d ID... | -g ID | -w SELECTOR) [APP[/CONTAINER]]`.
///
/// # Errors
/// A device is not there, refuses, or does not answer.
pub fn send(call: &Call, verb: Verb) -> Result<u8, Error> {
    let scope = call.operands.first().map(|_| call.operand(0).and_then(|word| scope(&word))).transpose()?;
    let (app, container) = scope.map_or((None, None), |Scope { app, container }| (Some(app), container));
    if verb == Verb::Retry && container.is_some() {
        return Err(Error::usage("retry is for a whole app"));
    }
    let Some(address) = Address::of(call)? else {
        return Err(Error::usage("nothing says whom the command is for").hint("give --device ID, --group ID or --where SELECTOR"));
    };
    let settings = settings::load(call)?;
    let keys = signers(call, &settings)?;
    let timeout = call.duration("timeout")?.unwrap_or(TIMEOUT);
    let question = Question { id: random_id(), verb, word: call.verb.name, app, container };
    let filters = filters(&settings, &address, &question.id);
    block_on(async {
        let mut session = Session::open(&settings, &filters).await?;
        let mut asked = ask(&session, &address, &question, &keys)?;
        publish(&mut session, &question, &asked);
        session.link.flush().await?;
        wait(call, &mut session, (&settings, &filters), &question, &mut asked, timeout).await?;
        session.link.close().await;
        told(call, &question, &asked)?;
        verdict(&question, &asked, timeout)
    })
}

fn filters(settings: &Settings, address: &Address, id: &str) -> Vec<String> {
    let of = |device: Option<&Id>, rest: &[&str]| rest.iter().map(|rest| topics::out(&settings.root, device, rest)).collect::<Vec<_>>();
    match address {
        Address::Devices(ids) => {
            let both = |device| [&of(Some(device), &["presence"])[..], &[topics::answer(&settings.root, device, id)]].concat();
            ids.iter().flat_map(both).collect()
        }
        Address::Group(_) | Address::Where(_) => of(None, &["presence", "reported", &format!("res/{id}")]),
    }
}

/// Each device that is meant, with its own command: a command is good for one session only, lest it be carried out later, when nobody wants it any more.
fn ask(session: &Session, address: &Address, question: &Question, keys: &[SecretKey]) -> Result<BTreeMap<Id, Asked>, Error> {
    let mut asked = BTreeMap::new();
    for device in devices(session, address)? {
        let online = session.fleet.devices.get(&device).and_then(|known| known.session());
        let payload = online.map(|now| seal(Kind::Cmd, &question.command(session, &device, now).encode(), keys)).transpose()?;
        asked.insert(device, Asked { payload, ..Asked::default() });
    }
    Ok(asked)
}

fn devices(session: &Session, address: &Address) -> Result<Vec<Id>, Error> {
    let Address::Group(group) = address else {
        let device = |whom| if let Whom::Device(id) = whom { Some(id) } else { None };
        return Ok(address.resolve(&session.fleet, now())?.into_iter().filter_map(device).collect());
    };
    // A command goes to devices; that one is in a group shows where its report names the group.
    let target = session.target(&Whom::Group(group.clone()));
    let members = session.fleet.devices.iter().filter(|(_, device)| device.is_of(&target));
    let members: Vec<Id> = members.map(|(id, _)| id.clone()).collect();
    match members.is_empty() {
        false => Ok(members),
        true => Err(Error::new(Code::Failed, format!("no device has an app by way of {}, so nobody is known to be in it", whom(&target)))
            .hint("name the devices by --device or --where")),
    }
}

impl Question {
    fn command(&self, session: &Session, device: &Id, now: (u64, u64)) -> Command {
        let target: Target = session.target(&Whom::Device(device.clone()));
        let (app, container) = (self.app.clone(), self.container.clone());
        Command {
            id: self.id.parse().ok(),
            session: now,
            verb: self.verb,
            app,
            container,
            target: Some(target),
            stream: StreamArgs::default(),
        }
    }

    /// `restart web/nginx`.
    fn shown(&self) -> String {
        let container = self.container.as_ref().map_or_else(String::new, |name| format!("/{name}"));
        self.app.as_ref().map_or_else(|| self.word.to_owned(), |app| format!("{} {app}{container}", self.word))
    }
}

impl Asked {
    /// Takes in a frame; true if it is news.
    fn take(&mut self, frame: &Answer) -> bool {
        let size: usize = self.texts.values().map(String::len).sum();
        match frame.kind {
            AnswerKind::Data if size < MAX_TEXT => self.texts.insert(frame.n, frame.data.clone().unwrap_or_default()).is_none(),
            AnswerKind::Data => false,
            AnswerKind::End | AnswerKind::Error => self.last.replace(frame.clone()).is_none(),
        }
    }

    /// All of the answer is there, or none will come.
    fn is_done(&self) -> bool {
        self.payload.is_none() || self.unreadable.is_some() || self.last.as_ref().is_some_and(|last| self.texts.len() >= last.n as usize)
    }

    fn text(&self) -> String {
        self.texts.values().map(String::as_str).collect()
    }

    /// Why it is not well, with the exit code.
    fn trouble(&self, timeout: Duration) -> Option<(Code, String)> {
        if self.payload.is_none() {
            return Some((Code::Unavailable, "it is not online".into()));
        }
        if let Some(why) = &self.unreadable {
            return Some((Code::Failed, format!("its answer cannot be read: {why}")));
        }
        match self.last.as_ref().filter(|_| self.is_done()) {
            None => Some((Code::Unavailable, format!("no answer within {} s", timeout.as_secs_f32()))),
            Some(last) if last.kind == AnswerKind::Error => {
                let reason = last.reason.map_or_else(String::new, |r| format!(" ({r})"));
                let message = last.message.as_deref().map_or_else(String::new, visible);
                Some((last.reason.map_or(Code::Failed, code), format!("it refused{reason}: {message}")))
            }
            Some(_) => None,
        }
    }
}

fn publish(session: &mut Session, question: &Question, asked: &BTreeMap<Id, Asked>) {
    for (device, one) in asked.iter().filter(|(_, one)| !one.is_done()) {
        let topic = topics::command(&session.root, device, &question.id);
        session.link.publish(topic, one.payload.clone().unwrap_or_default(), false);
    }
}

async fn wait(
    call: &Call,
    session: &mut Session,
    way: (&Settings, &[String]),
    question: &Question,
    asked: &mut BTreeMap<Id, Asked>,
    timeout: Duration,
) -> Result<(), Error> {
    let end = Instant::now() + timeout;
    while !asked.values().all(Asked::is_done) && Instant::now() < end {
        match session.next(end).await {
            Ok(Some((News::Device(heard), message))) if heard.what == What::Res(question.id.clone()) => {
                if let Some(one) = asked.get_mut(&heard.device) {
                    take(call, &heard.device, one, &message)?;
                }
            }
            Ok(_) => {}
            Err(e) if e.code() == Code::Unavailable => {
                note(&format!("wherryctl: {}; trying again", visible(&e.to_string())));
                match timeout_at(end, again(way.0, way.1)).await {
                    Ok(another) => *session = another?,
                    Err(_) => return Err(e),
                }
                // An id counts once in a session: asked again, a device only repeats its answer.
                publish(session, question, asked);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn take(call: &Call, device: &Id, one: &mut Asked, message: &Message) -> Result<(), Error> {
    match serde_json::from_slice::<Answer>(&message.payload) {
        Ok(frame) if one.take(&frame) && call.json() => print::json(&json!({"device": device, "answer": frame}))?,
        Ok(_) => {}
        Err(e) => one.unreadable = Some(e.to_string()),
    }
    Ok(())
}

/// What the devices said that did it. A bundle alone is printed as it is, several are told apart by their devices.
fn told(call: &Call, question: &Question, asked: &BTreeMap<Id, Asked>) -> Result<(), Error> {
    let good = asked.iter().filter(|(_, one)| one.trouble(TIMEOUT).is_none());
    for (device, one) in good.filter(|_| !call.json()) {
        match question.verb {
            Verb::Diag if asked.len() == 1 => print::line(&one.text())?,
            Verb::Diag => {
                let bundle: Value = serde_json::from_str(&one.text()).unwrap_or_default();
                print::json(&json!({"device": device, "diag": bundle}))?;
            }
            _ => print::line(&format!("{device}: {} is begun", question.shown()))?,
        }
    }
    Ok(())
}

fn verdict(question: &Question, asked: &BTreeMap<Id, Asked>, timeout: Duration) -> Result<u8, Error> {
    let bad: Vec<(&Id, Code, String)> =
        asked.iter().filter_map(|(id, one)| one.trouble(timeout).map(|(code, why)| (id, code, why))).collect();
    let what = |device: &Id| match &question.app {
        Some(_) => format!("cannot {} on {device}", question.shown()),
        None => format!("cannot {} {device}", question.word),
    };
    let Some(((device, code, why), others)) = bad.split_first() else { return Ok(0) };
    for (device, _, why) in others {
        note(&format!("wherryctl: {}: {why}", what(device)));
    }
    let more = if others.is_empty() { String::new() } else { format!("; nor on {} more (above)", others.len()) };
    Err(Error::new(*code, format!("{}: {why}{more}", what(device))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Reason;

    fn asked(frames: &[Answer]) -> Asked {
        let mut one = Asked { payload: Some(Vec::new()), ..Asked::default() };
        for frame in frames {
            one.take(frame);
        }
        one
    }

    #[test]
    fn an_answer_is_whole_when_all_frames_before_its_last_one_have_come() {
        let data = |n: u32| Answer::data(n, format!("{n};"));
        for (frames, text) in [
            (&[Answer::end(0)][..], Some("")),
            (&[data(0), data(1), Answer::end(2)], Some("0;1;")),
            (&[data(1), data(0), data(0), Answer::end(2), Answer::end(2)], Some("0;1;")),
            (&[data(1), Answer::end(2), data(0)], Some("0;1;")),
            (&[data(1), Answer::end(2)], None),
            (&[data(0)], None),
            (&[], None),
        ] {
            let one = asked(frames);
            assert_eq!(one.is_done().then(|| one.text()).as_deref(), text, "{frames:?}");
            assert_eq!(one.trouble(TIMEOUT).map(|(_, why)| why), text.is_none().then(|| "no answer within 30 s".to_owned()));
        }
    }

    #[test]
    fn a_refusal_is_trouble_and_so_is_who_is_not_there() {
        let refused = asked(&[Answer::error(0, Reason::Policy, "no\u{1b}".into())]);
        assert_eq!(refused.trouble(TIMEOUT), Some((Code::NoPermission, "it refused (policy): no\\u{1b}".into())));
        assert_eq!(Asked::default().trouble(TIMEOUT), Some((Code::Unavailable, "it is not online".into())));
        assert!(Asked::default().is_done());
    }

    #[test]
    fn what_a_device_sends_without_end_is_not_kept_without_end() {
        let mut one = asked(&[]);
        for n in 0..64 {
            one.take(&Answer::data(n, "x".repeat(64 * 1024)));
        }
        assert!(one.text().len() <= MAX_TEXT);
    }
}
