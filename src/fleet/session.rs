//! A connection together with what was heard over it.

use super::document::next_seq;
use super::keys::opened;
use super::link::{Link, Message};
use super::progress::{Said, Subject};
use super::seen::Fleet;
use super::settings::Settings;
use super::topics::{Heard, What, heard};
use crate::exit::{Code, Error};
use crate::manifest::{Id, MAX_PAYLOAD, Target, Whom};
use crate::sys::time::{boottime, unix_ms};
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Most documents that are remembered.
const MAX_KEPT: usize = 100_000;

/// A connection, and what was heard over it.
pub struct Session {
    /// The connection.
    pub link: Link,
    /// All devices.
    pub fleet: Fleet,
    /// Documents that the broker keeps, by topic.
    pub kept: BTreeMap<String, Vec<u8>>,
    /// Root topic.
    pub root: String,
    /// What came while the connection was made, for who reads on.
    early: VecDeque<(News, Message)>,
}

/// What a message was.
#[derive(Debug)]
pub enum News {
    /// What a device said of a document.
    Said(Id, Said),
    /// A device said this.
    Device(Heard),
    /// A document of desired state, or something else.
    Other,
}

/// Of a document, only its number.
#[derive(Deserialize)]
struct Numbered {
    seq: Option<u64>,
}

impl Session {
    /// Connects, subscribes, and takes in what the broker kept.
    ///
    /// # Errors
    /// No connection, or a refused subscription.
    pub async fn open(settings: &Settings, filters: &[String]) -> Result<Self, Error> {
        let link = Link::connect(settings).await?;
        let mut session =
            Self { link, fleet: Fleet::default(), kept: BTreeMap::new(), root: settings.root.clone(), early: VecDeque::new() };
        for message in session.link.subscribe(filters).await? {
            let news = session.take(&message);
            session.early.push_back((news, message));
        }
        Ok(session)
    }

    /// The next news, those that came at the beginning first; `None` when there are none until then.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn next(&mut self, until: Instant) -> Result<Option<(News, Message)>, Error> {
        if let Some(early) = self.early.pop_front() {
            return Ok(Some(early));
        }
        Ok(self.link.next(until).await?.map(|message| (self.take(&message), message)))
    }

    fn take(&mut self, message: &Message) -> News {
        let Some(heard) = heard(&self.root, &message.topic) else {
            match message.payload.len() {
                0 => drop(self.kept.remove(&message.topic)),
                // What is larger than devices take is none of ours.
                1..=MAX_PAYLOAD if self.kept.len() < MAX_KEPT => drop(self.kept.insert(message.topic.clone(), message.payload.clone())),
                _ => {}
            }
            return News::Other;
        };
        self.fleet.take(&heard, &message.payload, now());
        let said = match heard.what {
            What::Ack(_) => serde_json::from_slice(&message.payload).ok().map(Said::App),
            What::Keyset => serde_json::from_slice(&message.payload).ok().map(Said::Keyset),
            _ => None,
        };
        match said {
            Some(said) => News::Said(heard.device, said),
            None => News::Device(heard),
        }
    }

    /// The highest sequence number for a target that the broker keeps, or a device has.
    pub fn last_seq(&self, subject: &Subject, target: &Target) -> Option<u64> {
        let kept = self.kept.get(&subject.topic(&self.root, &target.whom));
        let kept = kept.and_then(|payload| serde_json::from_slice::<Numbered>(&opened(payload)).ok()?.seq);
        let had = self.fleet.devices.values().filter_map(|device| match subject {
            Subject::App(app) => device.seq(app, target),
            Subject::Keyset => None,
        });
        kept.into_iter().chain(had).max()
    }

    /// The next one.
    pub fn next_seq(&self, subject: &Subject, target: &Target, least: Option<u64>) -> u64 {
        // The file's own number is the least that its author wants.
        next_seq(unix_ms(), self.last_seq(subject, target).into_iter().chain(least.map(|n| n.saturating_sub(1))))
    }

    /// The fleet's name and whom in it.
    pub fn target(&self, whom: &Whom) -> Target {
        Target { fleet: self.root.clone(), whom: whom.clone() }
    }
}

/// The clock that all decisions here use.
pub fn now() -> Duration {
    boottime()
}

/// Runs to the end, in this thread.
///
/// # Errors
/// Those of `work`, or there is no runtime.
pub fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(|e| Error::new(Code::Internal, format!("cannot start: {e}")))?.block_on(work)
}
