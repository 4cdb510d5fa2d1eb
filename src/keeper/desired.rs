//! The decision about an incoming desired-state document, and which of several wanted versions of an app wins. Pure.

use crate::image::Digest;
use crate::ipc::{Origin, Refusal};
use crate::manifest::{Body, Id, Manifest, Name};
use crate::protocol::{Reason, State};
use serde::{Deserialize, Serialize};

/// Most apps on a device, whoever wants them.
pub const MAX_APPS: usize = 32;

/// Most tombstones remembered: enough that one which is still retained at a broker is known when it comes again, few enough for one record.
pub const MAX_GONE: usize = 64;

/// One accepted document of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its sequence number, if it has one.
    pub seq: Option<u64>,
    /// Hash of its exact bytes; names the manifest file in the store.
    pub sha256: Digest,
    /// It is a tombstone.
    pub removal: bool,
    /// 1, and one more for each `retry`.
    pub attempt: u32,
    /// What each container's image resolved to, once it is in the store.
    pub images: Vec<(Name, Digest)>,
}

/// All that is known of one app as one origin wants it. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who wants it.
    pub origin: Origin,
    /// The app.
    pub app: Name,
    /// Highest sequence number ever accepted.
    pub mark: Option<u64>,
    /// The document accepted last.
    pub newest: Version,
    /// Where `newest` is.
    pub state: State,
    /// Why, if `failed`; what shadows it or what it waits for, if `held`.
    pub refusal: Option<Refusal>,
    /// What runs, or ran last, if that is another version than `newest`.
    pub kept: Option<Version>,
    /// Containers stopped by hand: holds until the next document or a start by hand.
    pub held: Vec<Name>,
}

impl Entry {
    /// The version whose containers should run now.
    pub fn in_force(&self) -> Option<&Version> {
        let settled = match self.state {
            State::Running => Some(&self.newest),
            _ => self.kept.as_ref(),
        };
        settled.filter(|v| !v.removal)
    }
}

/// What an incoming document says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// Its sequence number, if it has one.
    pub seq: Option<u64>,
    /// Hash of its exact bytes.
    pub sha256: Digest,
}

/// What to do with an incoming document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is newer: accept it.
    Process,
    /// It is the one we have: publish its last answer again, touch nothing.
    Repeat,
    /// It is refused; nothing changes.
    Reject(Reason, String),
}

/// The decision table, one row for each line of the wire contract.
pub fn decide(known: Option<&Entry>, incoming: Incoming) -> Verdict {
    let Some(entry) = known else { return Verdict::Process };
    let same = entry.newest.sha256 == incoming.sha256 && entry.newest.seq == incoming.seq;
    match (entry.mark, incoming.seq) {
        _ if same => Verdict::Repeat,
        (None, _) => Verdict::Process,
        (Some(mark), Some(seq)) if seq > mark => Verdict::Process,
        (Some(mark), Some(seq)) if seq == mark && entry.newest.seq == Some(mark) => Verdict::Reject(
            Reason::Conflict,
            format!("sequence number {seq} was already used for another document; publish with a higher one"),
        ),
        (Some(mark), Some(seq)) => {
            Verdict::Reject(Reason::Stale, format!("sequence number {seq} is not above {mark}, the highest accepted so far"))
        }
        (Some(mark), None) if entry.newest.seq.is_some() && !entry.newest.removal => {
            Verdict::Reject(Reason::Stale, format!("the document has no sequence number, but {mark} was accepted before; add \"seq\""))
        }
        (Some(_), None) => Verdict::Process,
    }
}

/// Why `origin` may not name `app`: an app applied locally may not take a remotely owned name, nor the reverse.
pub fn ownership(entries: &[Entry], origin: &Origin, app: &Name) -> Option<(Reason, String)> {
    let local = *origin == Origin::Local;
    let other = entries.iter().find(|e| e.app == *app && (e.origin == Origin::Local) != local && !is_gone(e))?;
    let owner = if other.origin == Origin::Local { "the local command line" } else { "the fleet" };
    Some((Reason::Policy, format!("app {app} belongs to {owner}; choose another name or remove it there first")))
}

/// Nothing of it runs and nothing is wanted.
pub fn is_gone(entry: &Entry) -> bool {
    entry.newest.removal && entry.state == State::Removed
}

/// Forgets the oldest tombstones; those that it forgot. Entries stand in the order in which their documents were accepted.
pub fn forget_oldest(entries: &mut Vec<Entry>) -> Vec<Entry> {
    let gone = entries.iter().filter(|e| is_gone(e)).count();
    let mut over = gone.saturating_sub(MAX_GONE);
    let forget = |e: &mut Entry| {
        let forget = over > 0 && is_gone(e);
        over -= usize::from(forget);
        forget
    };
    entries.extract_if(.., forget).collect()
}

/// Raises the marks below which an unknown app could be one that was removed and forgotten.
pub fn remember(marks: &mut Vec<(Origin, u64)>, forgotten: &[Entry]) {
    for entry in forgotten {
        let Some(mark) = entry.mark else { continue };
        match marks.iter_mut().find(|(origin, _)| *origin == entry.origin) {
            Some((_, highest)) => *highest = mark.max(*highest),
            None => marks.push((entry.origin.clone(), mark)),
        }
    }
}

/// What is known of apps beside their documents. A record has it only where there is something to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Apps of which the device's own topic has no say: an `inherit` was the last that came there.
    pub lifted: Vec<Name>,
    /// Apps and their containers that a command has stopped: another may start them again. What a person at the device has stopped, none may.
    pub stopped: Vec<(Name, Name)>,
    /// Apps whose newest document, not yet in force, must leave the way to the broker open.
    pub guarded: Vec<Name>,
    /// Versions on trial that have one to go back to, and the start of keeper (`boot`) in which each was first started.
    pub tried: Vec<(Name, Digest, u64)>,
}

impl Beside {
    /// A new document of an app is on record, in this first state. What a command did to the one before, or the guard of that, counts no more, if
    /// that was in force: another origin's may be on trial. A stop goes on to count while this one waits, and it lifts nothing yet.
    pub fn accepted(&mut self, m: &Manifest, origin: &Origin, state: State, was_in_force: bool) {
        let waits = state == State::Held;
        self.stopped.retain(|(app, _)| *app != m.app || !was_in_force || waits);
        self.guarded.retain(|app| *app != m.app || !was_in_force);
        if *origin == Origin::Device {
            self.lifted.retain(|app| *app != m.app);
            self.lifted.extend((m.body == Body::Inherit && !waits).then(|| m.app.clone()));
        }
    }

    /// Forgets what is about apps that are forgotten themselves.
    pub fn tidy(&mut self, entries: &[Entry]) {
        self.lifted.retain(|app| entries.iter().any(|e| e.app == *app && e.origin == Origin::Device));
        self.stopped.retain(|(app, _)| entries.iter().any(|e| e.app == *app));
        self.guarded.retain(|app| entries.iter().any(|e| e.app == *app));
        self.tried.retain(|(app, ..)| entries.iter().any(|e| e.app == *app));
    }
}

/// Forgets what groups want that this device has left: their apps go, and come back whole if it joins again.
pub fn leave_groups(entries: &mut Vec<Entry>, marks: &mut Vec<(Origin, u64)>, groups: &[Id]) {
    let stays = |origin: &Origin| match origin {
        Origin::Group(g) => groups.contains(g),
        Origin::Device | Origin::Local => true,
    };
    entries.retain(|e| stays(&e.origin));
    marks.retain(|(origin, _)| stays(origin));
}

/// Which entry of an app is in force: the command line's, else the device's, else that of the first group of which this device is a member.
/// A device tombstone means "not here", also against a group, unless it was lifted. What has nothing to run (its first version failed, or is not for
/// this device yet) lets the next one run what it has.
pub fn winner<'a>(entries: &'a [Entry], lifted: &[Name], app: &Name, groups: &[Id]) -> Option<&'a Entry> {
    let rank = |e: &Entry| match &e.origin {
        Origin::Local => Some(0),
        Origin::Device => Some(1),
        Origin::Group(g) => groups.iter().position(|x| x == g).map(|p| p + 2),
    };
    let says_not_here = |e: &Entry| e.origin == Origin::Device && !lifted.contains(app);
    let present = |e: &&Entry| e.app == *app && (!is_gone(e) || says_not_here(e));
    let ranked = entries.iter().filter(present).filter_map(|e| rank(e).map(|r| (is_empty_handed(e), r, e)));
    ranked.min_by_key(|(empty, r, _)| (*empty, *r)).map(|(_, _, e)| e)
}

/// Its newest version does not run here, and no older one of it does.
fn is_empty_handed(entry: &Entry) -> bool {
    (entry.state == State::Failed || waits(entry)) && entry.in_force().is_none()
}

/// Where a refusal points that holds a document until it is for a larger part of the devices.
pub const ROLLOUT: &str = "rollout";
/// Until its hours begin.
pub const WINDOW: &str = "rollout.window";
/// Until a person at the device lets the app go on: no place in the document.
pub const HOLD: &str = "hold";

/// It waits for something of its own, not for another origin's document to go.
pub fn waits(entry: &Entry) -> bool {
    [ROLLOUT, WINDOW, HOLD].iter().any(|path| waits_for(entry, path))
}

/// It waits for this: one of [`ROLLOUT`], [`WINDOW`] and [`HOLD`].
pub fn waits_for(entry: &Entry, path: &str) -> bool {
    entry.state == State::Held && entry.refusal.as_ref().is_some_and(|r| r.path == path)
}

#[cfg(test)]
mod tests {
    use super::{Entry, Incoming, Verdict, Version, decide, ownership, winner};
    use crate::image::Digest;
    use crate::ipc::Origin;
    use crate::protocol::{Reason, State};

    fn entry(origin: Origin, mark: Option<u64>, seq: Option<u64>, text: &str, removal: bool) -> Entry {
        let newest = Version { seq, sha256: Digest::of(text.as_bytes()), removal, attempt: 1, images: Vec::new() };
        let state = if removal { State::Removed } else { State::Running };
        Entry { origin, app: "web".parse().unwrap(), mark, newest, state, refusal: None, kept: None, held: Vec::new() }
    }

    fn check(known: Option<Entry>, seq: Option<u64>, text: &str, expect: Result<bool, Reason>) {
        let verdict = decide(known.as_ref(), Incoming { seq, sha256: Digest::of(text.as_bytes()) });
        let got = match verdict {
            Verdict::Process => Ok(true),
            Verdict::Repeat => Ok(false),
            Verdict::Reject(reason, _) => Err(reason),
        };
        assert_eq!(got, expect, "{known:?} against {seq:?} {text}");
    }

    const PROCESS: Result<bool, Reason> = Ok(true);
    const REPEAT: Result<bool, Reason> = Ok(false);

    fn numbered(seq: u64) -> Option<Entry> {
        Some(entry(Origin::Device, Some(seq), Some(seq), "a", false))
    }

    fn unnumbered() -> Option<Entry> {
        Some(entry(Origin::Device, None, None, "a", false))
    }

    #[test]
    fn what_nobody_knows_is_processed() {
        check(None, Some(1), "a", PROCESS);
        check(None, None, "a", PROCESS);
    }

    #[test]
    fn a_sequence_number_above_the_mark_is_processed() {
        check(numbered(5), Some(6), "b", PROCESS);
        check(numbered(5), Some(6), "a", PROCESS);
    }

    #[test]
    fn the_same_number_with_the_same_bytes_is_a_repeat() {
        check(numbered(5), Some(5), "a", REPEAT);
    }

    #[test]
    fn the_same_number_with_other_bytes_is_a_conflict() {
        check(numbered(5), Some(5), "b", Err(Reason::Conflict));
    }

    #[test]
    fn a_number_below_the_mark_is_stale() {
        check(numbered(5), Some(4), "a", Err(Reason::Stale));
    }

    #[test]
    fn without_numbers_any_other_payload_is_newer_also_an_old_one() {
        check(unnumbered(), None, "b", PROCESS);
        check(unnumbered(), None, "a", REPEAT);
        check(unnumbered(), Some(1), "b", PROCESS);
    }

    #[test]
    fn once_numbered_a_document_without_number_is_stale_until_a_numbered_tombstone() {
        check(numbered(5), None, "b", Err(Reason::Stale));
        let tombstone = entry(Origin::Device, Some(6), Some(6), "gone", true);
        check(Some(tombstone.clone()), None, "b", PROCESS);
        check(Some(tombstone.clone()), Some(6), "gone", REPEAT);
        check(Some(tombstone), Some(5), "a", Err(Reason::Stale));
    }

    #[test]
    fn after_a_numbered_tombstone_the_mark_still_holds_against_numbered_replays() {
        let after = entry(Origin::Device, Some(6), None, "b", false);
        check(Some(after.clone()), Some(6), "gone", Err(Reason::Stale));
        check(Some(after.clone()), Some(7), "c", PROCESS);
        check(Some(after), None, "c", PROCESS);
    }

    #[test]
    fn local_and_remote_names_exclude_each_other() {
        let app = "web".parse().unwrap();
        let local = [entry(Origin::Local, None, None, "a", false)];
        let remote = [entry(Origin::Device, None, None, "a", false)];
        assert_eq!(ownership(&local, &Origin::Device, &app).unwrap().0, Reason::Policy);
        assert_eq!(ownership(&remote, &Origin::Local, &app).unwrap().0, Reason::Policy);
        assert_eq!(ownership(&remote, &Origin::Group("g".parse().unwrap()), &app), None);
        let gone = [entry(Origin::Device, None, None, "a", true)];
        assert_eq!(ownership(&gone, &Origin::Local, &app), None);
    }

    #[test]
    fn the_oldest_tombstones_are_forgotten_and_nothing_else() {
        let mut all: Vec<Entry> = (0..super::MAX_GONE as u64 + 3).map(|n| entry(Origin::Device, Some(n), Some(n), "a", true)).collect();
        all.insert(1, entry(Origin::Device, Some(99), Some(99), "a", false));
        let forgotten = super::forget_oldest(&mut all);
        assert_eq!(all.len(), super::MAX_GONE + 1);
        let (mut marks, group) = (Vec::new(), Origin::Group("g".parse().unwrap()));
        super::remember(&mut marks, &forgotten);
        super::remember(
            &mut marks,
            &[entry(Origin::Device, Some(1), Some(1), "a", true), entry(group.clone(), Some(7), Some(7), "a", true)],
        );
        assert_eq!((forgotten.len(), marks), (3, vec![(Origin::Device, 2), (group, 7)]));
        assert_eq!(all.iter().take(2).map(|e| e.mark).collect::<Vec<_>>(), [Some(99), Some(3)]);
    }

    #[test]
    fn a_group_that_was_left_is_forgotten_and_nothing_else() {
        let (g, h) = (Origin::Group("g".parse().unwrap()), Origin::Group("h".parse().unwrap()));
        let mut all: Vec<Entry> = [g, h.clone(), Origin::Device, Origin::Local].map(|o| entry(o, None, None, "a", false)).into();
        let mut marks: Vec<_> = all.iter().map(|e| (e.origin.clone(), 1)).collect();
        super::leave_groups(&mut all, &mut marks, &["h".parse().unwrap()]);
        assert_eq!(marks.iter().map(|(origin, _)| origin.clone()).collect::<Vec<_>>(), [h.clone(), Origin::Device, Origin::Local]);
        assert_eq!(all.into_iter().map(|e| e.origin).collect::<Vec<_>>(), [h, Origin::Device, Origin::Local]);
    }

    #[test]
    fn device_beats_group_and_groups_beat_each_other_in_the_devices_order() {
        let app = "web".parse().unwrap();
        let (g, h) = (Origin::Group("g".parse().unwrap()), Origin::Group("h".parse().unwrap()));
        let groups = ["h".parse().unwrap(), "g".parse().unwrap()];
        let mut all = vec![entry(g.clone(), None, None, "a", false), entry(h.clone(), None, None, "b", false)];
        assert_eq!(winner(&all, &[], &app, &groups).unwrap().origin, h);
        all.push(entry(Origin::Device, None, None, "c", true));
        assert_eq!(winner(&all, &[], &app, &groups).unwrap().origin, Origin::Device);
        assert_eq!(winner(&all, std::slice::from_ref(&app), &app, &groups).unwrap().origin, h, "lifted");
        all[2].newest.removal = false;
        assert_eq!(
            winner(&all, std::slice::from_ref(&app), &app, &groups).unwrap().origin,
            Origin::Device,
            "a lifted one that says something again"
        );
        assert_eq!(winner(&all[..1], &[], &app, &groups[..1]), None, "a group that was left has no say");
    }
}
