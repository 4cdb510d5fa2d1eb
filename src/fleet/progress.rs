//! How far what was published has come on each device. Pure: acks and times in, answers out.

use crate::cli::print;
use crate::exit::visible;
use crate::image::Digest;
use crate::manifest::{Id, Name};
use crate::protocol::{Ack, AppReport, Detail, KeysetAck, Previous, Reason, State};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who belongs to a group nobody knows but its members: so long after the last one spoke up, the others count as not there.
const GRACE: Duration = Duration::from_secs(3);

/// What a document is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An app.
    App(Name),
    /// Keys.
    Keyset,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::App(app) => app.fmt(f),
            Self::Keyset => f.write_str("keyset"),
        }
    }
}

/// What a device said of a document.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Said {
    /// A step of an app.
    App(Box<Ack>),
    /// What became of a keyset; there are no steps before.
    Keyset(Box<KeysetAck>),
}

impl Said {
    /// What the document is of.
    pub fn subject(&self) -> Subject {
        match self {
            Self::App(ack) => Subject::App(ack.app.clone()),
            Self::Keyset(_) => Subject::Keyset,
        }
    }

    /// How far it is.
    pub fn state(&self) -> State {
        match self {
            Self::App(ack) => ack.state,
            Self::Keyset(ack) => ack.state,
        }
    }

    fn sha256(&self) -> Digest {
        match self {
            Self::App(ack) => ack.sha256.0,
            Self::Keyset(ack) => ack.sha256.0,
        }
    }

    /// Which attempt, counted from one, and whether the device says nothing of that one after this.
    fn attempt(&self) -> (u32, bool) {
        match self {
            Self::App(ack) => (ack.attempt, ack.state.is_terminal()),
            Self::Keyset(_) => (1, true),
        }
    }

    /// Nothing more comes by itself, or not soon: what waits for its hours, or for a person at the device, may wait for days.
    pub fn is_settled(&self) -> bool {
        self.attempt().1 || self.state() == State::Held
    }

    fn reason(&self) -> Option<Reason> {
        match self {
            Self::App(ack) => ack.reason,
            Self::Keyset(ack) => ack.reason,
        }
    }

    fn detail(&self) -> Option<&Detail> {
        match self {
            Self::App(ack) => ack.detail.as_ref(),
            Self::Keyset(ack) => ack.detail.as_ref(),
        }
    }
}

/// One published document.
pub struct Followed {
    /// What it is of.
    pub subject: Subject,
    /// Its hash, and that of its envelope: a device that cannot open it names it by that.
    pub sha256: [Digest; 2],
    /// Who must answer.
    pub expected: BTreeSet<Id>,
    /// Others may answer too, and at least so many must: it is for a group.
    pub group: Option<usize>,
    /// The broker passed it on.
    pub echoed: bool,
    steps: BTreeMap<Id, Said>,
    last_new: Duration,
}

/// How it ended for one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The device.
    pub device: Id,
    /// What the document is of.
    pub subject: Subject,
    /// What it said last; `None`: it did not answer.
    pub said: Option<Said>,
}

impl Followed {
    /// Just published, at `now`.
    pub fn new(subject: Subject, sha256: [Digest; 2], expected: BTreeSet<Id>, group: Option<usize>, now: Duration) -> Self {
        Self { subject, sha256, expected, group, echoed: false, steps: BTreeMap::new(), last_new: now }
    }

    /// Takes in what a device said. True if it is news: of this document, and another step than the last one.
    pub fn take(&mut self, device: &Id, said: &Said, now: Duration) -> bool {
        let ours = self.sha256.contains(&said.sha256())
            && said.subject() == self.subject
            && (self.group.is_some() || self.expected.contains(device));
        // The broker may repeat what came before the end (QoS 1), never what comes after it.
        let over = |last: &Said| last.attempt().1 && last.attempt().0 >= said.attempt().0;
        if !ours || self.steps.get(device).is_some_and(over) {
            return false;
        }
        let before = self.steps.insert(device.clone(), said.clone());
        if before.is_none() {
            self.last_new = now;
        }
        before.is_none_or(|before| (before.state(), before.detail()) != (said.state(), said.detail()))
    }

    /// Nothing more is waited for.
    pub fn is_done(&self, now: Duration) -> bool {
        let ended = |id: &Id| self.steps.get(id).is_some_and(Said::is_settled);
        let all = self.expected.iter().all(ended) && self.steps.keys().all(ended);
        match self.group {
            None => all,
            Some(least) => all && self.steps.len() >= least.max(1) && now.saturating_sub(self.last_new) >= GRACE,
        }
    }

    /// How it stands for each device.
    pub fn outcomes(&self) -> Vec<Outcome> {
        let devices: BTreeSet<&Id> = self.expected.iter().chain(self.steps.keys()).collect();
        let outcome = |id: &&Id| Outcome { device: (*id).clone(), subject: self.subject.clone(), said: self.steps.get(*id).cloned() };
        devices.iter().map(outcome).collect()
    }

    /// How many devices of a group answered, and how many had to, where these are more.
    pub fn too_few(&self) -> Option<(usize, usize)> {
        self.group.map(|least| (self.steps.len(), least.max(1))).filter(|(answered, least)| answered < least)
    }
}

impl Outcome {
    /// It ended as wanted. One that is held is kept for later, as the operator or a person at the device wanted.
    pub fn is_good(&self) -> bool {
        self.said.as_ref().is_some_and(|said| match said {
            Said::App(ack) => matches!(ack.state, State::Running | State::Removed | State::Held),
            Said::Keyset(ack) => ack.state == State::Accepted,
        })
    }

    /// It did not end.
    pub fn is_open(&self) -> bool {
        !self.said.as_ref().is_some_and(Said::is_settled)
    }
}

/// What a report says of an app, as the step that led there; what only a step tells is not in it.
pub fn reported(app: Name, report: &AppReport) -> Said {
    let AppReport { target, seq, sha256, state, reason, .. } = report.clone();
    let (rolled_back_to, detail) = (None, None);
    Said::App(Box::new(Ack {
        wherry: 1,
        target,
        app,
        seq,
        sha256,
        attempt: 1,
        state,
        reason,
        rolled_back_to,
        detail,
        boot: 0,
        uptime_s: 0,
    }))
}

/// `4 of 9 done, 3 fetching, 2 silent`.
pub fn summary(outcomes: &[Outcome]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|o| o.is_open()) {
        *counts.entry(outcome.said.as_ref().map_or("silent".into(), |said| said.state().to_string())).or_default() += 1;
    }
    let done = outcomes.iter().filter(|o| !o.is_open()).count();
    let rest: String = counts.iter().map(|(state, n)| format!(", {n} {state}")).collect();
    format!("{done} of {} done{rest}", outcomes.len())
}

/// One step, for people: `router-17 web: fetching 4.0M of 12M`.
pub fn sentence(device: &Id, said: &Said) -> String {
    let mut out = format!("{device} {}: {}", said.subject(), said.state());
    if let Some(reason) = said.reason() {
        out.push_str(&format!(" ({reason})"));
    }
    let Some(detail) = said.detail() else { return out };
    if let Some(bytes) = detail.bytes {
        out.push_str(&format!(" {}", print::size(bytes)));
        out.push_str(&detail.total.map_or_else(String::new, |total| format!(" of {}", print::size(total))));
    }
    if let Some(message) = &detail.message {
        out.push_str(&format!(": {}", visible(message)));
    }
    if !detail.further.is_empty() {
        out.push_str(&format!(", and {} more", detail.further.len()));
    }
    let before = if let Said::App(ack) = said { ack.rolled_back_to } else { None };
    match before {
        Some(Previous::Seq(seq)) => out.push_str(&format!("; {seq} runs again")),
        Some(Previous::Sha256(_)) => out.push_str("; what ran before runs again"),
        None => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn ack(state: &str, more: &str) -> Said {
        let sha = Digest::of(b"x").hex();
        let text = format!(
            r#"{{"wherry":1,"target":{{"fleet":"f","group":"g"}},"app":"web","seq":7,"sha256":"{sha}","attempt":1,"state":"{state}","boot":1,"uptime_s":1{more}}}"#
        );
        Said::App(serde_json::from_str(&text).unwrap())
    }

    fn web() -> Subject {
        Subject::App("web".parse().unwrap())
    }

    fn followed(expected: &[&str], group: Option<usize>) -> Followed {
        let expected = expected.iter().map(|e| id(e)).collect();
        Followed::new(web(), [Digest::of(b"x"); 2], expected, group, Duration::ZERO)
    }

    const LATE: Duration = Duration::from_secs(100);

    #[test]
    fn it_is_done_when_every_device_has_ended() {
        let mut f = followed(&["a", "b"], None);
        assert!(f.take(&id("a"), &ack("running", ""), LATE) && !f.is_done(LATE));
        assert!(f.take(&id("b"), &ack("fetching", ""), LATE) && !f.is_done(LATE));
        assert!(!f.take(&id("b"), &ack("fetching", ""), LATE), "the same again is no news");
        assert!(f.take(&id("b"), &ack("fetching", r#","detail":{"bytes":5}"#), LATE));
        assert_eq!(summary(&f.outcomes()), "1 of 2 done, 1 fetching");
        assert!(f.take(&id("b"), &ack("failed", r#","reason":"exec""#), LATE) && f.is_done(LATE));
        assert!(!f.take(&id("b"), &ack("starting", ""), LATE), "nothing comes after the end");
        assert_eq!(f.outcomes().iter().map(Outcome::is_good).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn acks_of_other_documents_and_devices_do_not_count() {
        let mut f = followed(&["a"], None);
        let other = Followed::new(web(), [Digest::of(b"y"); 2], f.expected.clone(), None, LATE);
        assert!(!f.take(&id("z"), &ack("running", ""), LATE));
        let mut f2 = other;
        assert!(!f2.take(&id("a"), &ack("running", ""), LATE));
        assert_eq!(summary(&f.outcomes()), "0 of 1 done, 1 silent");
    }

    #[test]
    fn a_group_is_done_when_those_who_spoke_have_ended_and_nobody_else_speaks_up() {
        let mut f = followed(&[], Some(1));
        assert!(!f.is_done(LATE) && f.too_few() == Some((0, 1)));
        f.take(&id("a"), &ack("running", ""), LATE);
        assert!(!f.is_done(LATE), "another one may still speak");
        assert!(f.is_done(LATE + GRACE) && f.too_few().is_none());
        f.take(&id("b"), &ack("accepted", ""), LATE + GRACE);
        assert!(!f.is_done(LATE * 2));
        let mut f = followed(&["a"], Some(2));
        f.take(&id("a"), &ack("running", ""), LATE);
        assert!(!f.is_done(LATE * 2) && f.too_few() == Some((1, 2)), "two were asked for");
    }

    #[test]
    fn a_step_is_told_with_all_that_helps() {
        for (state, more, expected) in [
            ("fetching", r#","detail":{"bytes":4194304,"total":12582912}"#, "r web: fetching 4.0M of 12M"),
            ("rejected", r#","reason":"policy","detail":{"message":"a\u001b[2Jb"}"#, "r web: rejected (policy): a\\u{1b}[2Jb"),
            ("failed", r#","reason":"exec","rolled_back_to":5,"detail":{"message":"no"}"#, "r web: failed (exec): no; 5 runs again"),
        ] {
            assert_eq!(sentence(&id("r"), &ack(state, more)), expected);
        }
    }
}
