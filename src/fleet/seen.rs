//! What is known of each device from what it said. Pure: messages and times in, answers out.

use super::topics::{Heard, What};
use crate::manifest::{Id, Name, Target};
use crate::protocol::{About, AppReport, Entries, Online, Presence};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Silent intervals after which a device counts as offline.
const INTERVALS: u32 = 3;
/// Most devices that are remembered; what is kept of each is bounded by the size of a message.
const MAX_DEVICES: usize = 100_000;

/// One device.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// What it said last of whether it is there.
    pub presence: Option<Presence>,
    /// What it is.
    pub about: Option<About>,
    /// What runs on it.
    pub apps: Entries<AppReport>,
    /// Why its report cannot be read, if it cannot: a newer release may say what this one does not know.
    pub unreadable: Option<String>,
    /// When it last said anything; its retained messages do not tell when they were written.
    heard: Duration,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// It said so.
    Online,
    /// It or its will said so.
    Offline,
    /// It said that it is online, and then nothing for more than three intervals.
    Silent,
    /// It said nothing of it.
    Unknown,
}

impl Link {
    /// The word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
        }
    }
}

/// All devices that were heard.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By their ids.
    pub devices: BTreeMap<Id, Device>,
}

/// `reported` in parts, each of which may be readable without the others.
#[derive(Deserialize)]
struct Parts {
    about: serde_json::Value,
    #[serde(default)]
    apps: serde_json::Value,
}

impl Fleet {
    /// Takes in a message that came at `now`. A late will, and what cannot be read, change nothing.
    pub fn take(&mut self, heard: &Heard, payload: &[u8], now: Duration) {
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(&heard.device) {
            return;
        }
        // The will is published by the broker when the device is gone, so it is no sign of life.
        let device = self.devices.entry(heard.device.clone()).or_default();
        match heard.what {
            // An empty retained message: somebody has cleared it.
            What::Presence if payload.is_empty() => device.presence = None,
            What::Presence => device.presence(payload, now),
            What::Reported if payload.is_empty() => (device.about, device.apps) = (None, Entries::default()),
            What::Reported => device.reported(payload, now),
            _ => device.heard = now,
        }
    }
}

impl Device {
    fn presence(&mut self, payload: &[u8], now: Duration) {
        let Ok(new) = serde_json::from_slice::<Presence>(payload) else { return };
        if self.presence.as_ref().is_some_and(|known| is_late_will(known, &new)) {
            return;
        }
        if new.state == Online::Online {
            self.heard = now;
        }
        self.presence = Some(new);
    }

    fn reported(&mut self, payload: &[u8], now: Duration) {
        self.heard = now;
        let parts = serde_json::from_slice::<Parts>(payload);
        let about = parts.as_ref().map_err(ToString::to_string).and_then(|p| About::deserialize(&p.about).map_err(|e| e.to_string()));
        let apps = parts.map_err(|e| e.to_string()).and_then(|p| Entries::deserialize(p.apps).map_err(|e| e.to_string()));
        self.unreadable = about.as_ref().err().or(apps.as_ref().err()).cloned();
        (self.about, self.apps) = (about.ok(), apps.unwrap_or_default());
    }

    /// Whether it is there, at `now`.
    pub fn link(&self, now: Duration) -> Link {
        match &self.presence {
            None => Link::Unknown,
            Some(p) if p.state == Online::Offline => Link::Offline,
            Some(p) => {
                let patience = p.interval_s.map(|s| Duration::from_secs(s.into()) * INTERVALS);
                if patience.is_some_and(|most| now.saturating_sub(self.heard) > most) { Link::Silent } else { Link::Online }
            }
        }
    }

    /// Its session, for commands: only a device that is online has one.
    pub fn session(&self) -> Option<(u64, u64)> {
        self.presence.as_ref().filter(|p| p.state == Online::Online).map(|p| (p.boot, p.conn))
    }

    /// The sequence number that it has of an app for this target.
    pub fn seq(&self, app: &Name, target: &Target) -> Option<u64> {
        self.apps.get(app.as_str()).filter(|report| report.target == *target)?.seq
    }

    /// It has an app by way of this target: so it shows that it is in a group.
    pub fn is_of(&self, target: &Target) -> bool {
        self.apps.0.iter().any(|(_, report)| report.target == *target)
    }

    /// Why it cannot read documents of this schema.
    pub fn cannot_read(&self, schema: u64) -> Option<String> {
        let [lowest, highest] = self.about.as_ref()?.schema;
        let known = u64::from(lowest)..=u64::from(highest);
        (!known.contains(&schema)).then(|| format!("it reads schema {lowest} to {highest}, and this document has {schema}"))
    }
}

/// A will of a session before the known one: the broker may be slow to notice that a device is gone, and it is back before.
fn is_late_will(known: &Presence, new: &Presence) -> bool {
    new.state == Online::Offline && (new.boot, new.conn) < (known.boot, known.conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(messages: &[(What, &str, u64)]) -> Fleet {
        let mut fleet = Fleet::default();
        for (what, payload, second) in messages {
            let heard = Heard { device: "r".parse().unwrap(), what: what.clone() };
            fleet.take(&heard, payload.as_bytes(), Duration::from_secs(*second));
        }
        fleet
    }

    fn link(presences: &[&str], now: u64) -> Link {
        let messages: Vec<_> = presences.iter().map(|p| (What::Presence, *p, 0)).collect();
        fleet(&messages).devices.values().next().unwrap().link(Duration::from_secs(now))
    }

    const ONLINE: &str = r#"{"state":"online","boot":12,"conn":3,"version":"0.1.0","interval_s":60}"#;

    #[test]
    fn a_will_counts_only_for_its_own_session_or_a_later_one() {
        for (boot, conn, expected) in
            [(12, 3, Link::Offline), (12, 2, Link::Online), (11, 9, Link::Online), (12, 4, Link::Offline), (13, 1, Link::Offline)]
        {
            let will = format!(r#"{{"state":"offline","boot":{boot},"conn":{conn}}}"#);
            assert_eq!(link(&[ONLINE, &will], 1), expected, "{will}");
            assert_eq!(link(&[&will, ONLINE], 1), Link::Online, "a device that comes back, also with its counts lost: {will}");
        }
    }

    #[test]
    fn silence_of_more_than_three_intervals_is_told_from_online() {
        assert_eq!([link(&[ONLINE], 180), link(&[ONLINE], 181)], [Link::Online, Link::Silent]);
        let presence = || (What::Presence, ONLINE, 0);
        let now = Duration::from_secs(300);
        for (what, at, expected) in [(What::Stats, 200, Link::Online), (What::Stats, 10, Link::Silent), (What::Get, 290, Link::Online)] {
            assert_eq!(fleet(&[presence(), (what, "{}", at)]).devices.values().next().unwrap().link(now), expected);
        }
        let will = (What::Presence, r#"{"state":"offline","boot":12,"conn":2}"#, 299);
        assert_eq!(fleet(&[presence(), will]).devices.values().next().unwrap().link(now), Link::Silent, "a late will is no sign of life");
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        for payload in ["", "x", "{}", r#"{"state":"asleep","boot":1,"conn":1}"#] {
            let expected = if payload.is_empty() { Link::Unknown } else { Link::Online };
            assert_eq!(link(&[ONLINE, payload], 1), expected, "{payload}");
        }
    }

    #[test]
    fn a_report_of_a_newer_device_is_read_as_far_as_it_goes() {
        let about = r#"{"version":"9","schema":[2,3],"features":[],"missing":{},"board":"b","arch":"arm64","kernel":"7","ram":1,"flash_free":null,"isolation":"container","new":1}"#;
        let report = format!(r#"{{"wherry":2,"about":{about},"apps":{{"web":{{"state":"dreaming"}}}}}}"#);
        let fleet = fleet(&[(What::Reported, &report, 0)]);
        let device = fleet.devices.values().next().unwrap();
        assert!(device.unreadable.as_ref().is_some_and(|why| !why.is_empty()) && device.apps.is_empty());
        assert_eq!(device.cannot_read(1).unwrap(), "it reads schema 2 to 3, and this document has 1");
        assert_eq!(device.cannot_read(2), None);
        assert_eq!(device.session(), None);
    }
}
