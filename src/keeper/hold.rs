//! Documents that wait although none stands before them: for their hours, for a larger part of the devices, or for the person at the device who
//! keeps an app as it is. What waits was checked and is on record; nothing is stopped, started or downloaded for it.

use crate::ipc::{Failure, Happening, Origin, Refusal, What};
use crate::keeper::Keeper;
use crate::keeper::deploy::failure;
use crate::keeper::desired::{self, Entry, HOLD, ROLLOUT, Version, WINDOW};
use crate::keeper::record;
use crate::keeper::rollout;
use crate::keeper::window::{self, Opening};
use crate::manifest::{self, Body, Manifest, Name};
use crate::protocol::{Reason, State};
use crate::sys::time::{is_clock_right, unix_ms};
use std::time::Duration;

/// Most apps on hold: as many as there are tombstones that are remembered.
const MAX_HOLDS: usize = desired::MAX_GONE;
/// The kernel tells nobody when the clock becomes right: so often it is asked while something waits for that.
const UNSURE: Duration = Duration::from_secs(5);
/// A clock that is right can still be set: at least so often the time until a window opens is looked at anew.
const STEP: Duration = Duration::from_secs(60);

/// The time, if this device knows it: in milliseconds since 1970.
fn clock() -> Option<u64> {
    is_clock_right().then(unix_ms)
}

impl Keeper {
    /// Why a new document, with this device's values in it, waits. What runs here already may stay, whatever hours or part it is for now.
    pub fn must_wait(&self, origin: &Origin, m: &Manifest, runs: Option<&Version>) -> Option<Refusal> {
        if *origin != Origin::Local && self.desired.holds.contains(&m.app) {
            let why = format!("a person at the device keeps {} as it is: it goes on after `wherry unhold {0}` there", m.app);
            return Some(Refusal { path: HOLD.to_owned(), ..failure(Reason::Policy, why).into() });
        }
        let here = rollout::outside(m, &self.device).map(|why| (ROLLOUT, why));
        let (path, why) = here.or_else(|| window::outside(m, clock()).map(|why| (WINDOW, why)))?;
        let same = runs.is_some_and(|v| self.document_here(v).is_some_and(|running| rollout::is_same(&running, m)));
        (!same).then(|| Refusal { path: path.to_owned(), ..failure(Reason::Policy, why).into() })
    }

    /// The document of a version, with this device's values in it.
    fn document_here(&self, version: &Version) -> Option<Manifest> {
        manifest::parse_for(&self.store.manifest(&version.sha256).ok()?, &self.variables()).ok()
    }

    // ---- by hand ----

    /// Keeps apps as they are, or lets them go on: all of these or, with an error, none.
    pub fn set_hold(&mut self, apps: &[Name], on: bool) -> Result<(), Failure> {
        let holds = &self.desired.holds;
        let known = |app: &Name| holds.contains(app) || self.desired.entries.iter().any(|e| e.app == *app);
        if let Some(app) = apps.iter().find(|app| !known(app)) {
            return Err(failure(Reason::BadValue, format!("there is no app {app} (see `wherry ls`)")));
        }
        let mut changed: Vec<Name> = Vec::new();
        for app in apps.iter().filter(|app| holds.contains(app) != on) {
            if !changed.contains(app) {
                changed.push(app.clone());
            }
        }
        if on && holds.len() + changed.len() > MAX_HOLDS {
            return Err(failure(Reason::Policy, format!("{} apps are on hold, at most {MAX_HOLDS} may be", holds.len())));
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.desired.holds.retain(|app| !changed.contains(app));
        self.desired.holds.extend(changed.iter().filter(|_| on).cloned());
        self.ctx.dirty = true;
        // As after a stop by hand, a flash that takes no writes changes nothing of what the person wants.
        self.save_state();
        for app in changed {
            let detail = if on { "on hold: it stays as it is" } else { "no longer on hold" };
            self.ctx.happened(Happening { app: Some(app.clone()), ..Happening::new(What::App, detail.to_owned()) });
            if !on {
                self.reconsider(&app, HOLD);
            }
        }
        Ok(())
    }

    /// Why the fleet may not have another attempt at what failed.
    pub fn forbids_retry(&self, app: &Name) -> Option<Failure> {
        let why = || format!("a person at the device keeps {app} as it is; it can be tried again after `wherry unhold {app}` there");
        self.desired.holds.contains(app).then(|| failure(Reason::Policy, why()))
    }

    // ---- going on ----

    /// Looks anew at what waits for `path`: it goes on, or waits on for another reason.
    pub fn reconsider(&mut self, app: &Name, path: &str) {
        let waiting: Vec<Entry> = self.desired.entries.iter().filter(|e| e.app == *app && desired::waits_for(e, path)).cloned().collect();
        let (mut news, mut goes_on) = (Vec::new(), false);
        for e in waiting {
            let (state, refusal) = self.next(&e);
            if (state, &refusal) == (e.state, &e.refusal) {
                continue;
            }
            if !matches!(state, State::Held | State::Failed) {
                self.go_on(&e, state);
            }
            self.set_state(&e, state, refusal);
            goes_on |= state != State::Held;
            news.push(e.origin);
        }
        if news.is_empty() {
            return;
        }
        self.save_state();
        for origin in news {
            self.tell_entry(&origin, app);
        }
        // Who waits for its hours from now on is looked at when they begin.
        self.mind_windows();
        if goes_on {
            self.elect(app);
            self.collect();
        }
    }

    /// What becomes of a document that has waited: it fails if it has expired, or if what was allowed and there when it came is so no more. One that is
    /// lost waits on.
    fn next(&self, e: &Entry) -> (State, Option<Refusal>) {
        // Nothing else says whether it removes or lifts, and for which hours it is. The broker's copy is as good, and comes.
        let Ok(payload) = self.store.manifest(&e.newest.sha256) else { return (State::Held, e.refusal.clone()) };
        let waits = self.document_here(&e.newest).and_then(|m| self.must_wait(&e.origin, &m, e.kept.as_ref()));
        if waits.is_some() {
            return (State::Held, waits);
        }
        let admitted = self.admit(&e.origin, &payload);
        if let Some(expired) = admitted.as_ref().ok().and_then(|m| self.check_time(m.not_after).err()) {
            return (State::Failed, Some(expired.into()));
        }
        match admitted {
            Err(refusals) => (State::Failed, refusals.into_iter().next()),
            Ok(m) if m.body == Body::Inherit => (State::Removed, None),
            Ok(_) => (State::Accepted, None),
        }
    }

    fn entry_mut(&mut self, e: &Entry) -> Option<&mut Entry> {
        self.desired.entries.iter_mut().find(|other| (&other.origin, &other.app) == (&e.origin, &e.app))
    }

    fn set_state(&mut self, e: &Entry, state: State, refusal: Option<Refusal>) {
        if let Some(entry) = self.entry_mut(e) {
            (entry.state, entry.refusal) = (state, refusal);
        }
    }

    /// As if it came now: what counted until the next document counts no more.
    fn go_on(&mut self, e: &Entry, state: State) {
        let was_in_force = self.winner(&e.app).is_some_and(|w| w.origin == e.origin);
        if let Some(m) = self.document(&e.newest) {
            self.desired.beside.accepted(&m, &e.origin, state, was_in_force);
        }
        if e.origin != Origin::Local {
            self.arm_guard(&e.app, &e.newest, e.kept.as_ref());
        }
        if let Some(entry) = self.entry_mut(e) {
            entry.held.clear();
            // What was lifted is not gone back to.
            entry.kept = entry.kept.take().filter(|_| state != State::Removed);
        }
    }

    fn tell_entry(&mut self, origin: &Origin, app: &Name) {
        let entry = self.desired.entries.iter().find(|e| e.origin == *origin && e.app == *app);
        if let Some(ack) = entry.map(record::answer) {
            self.emit(origin, ack);
        }
    }

    /// Nothing is even looked at for a document that waits, while the version before it is there: what has given up would be tried again.
    pub fn elect_unless_it_waits(&mut self, app: &Name) {
        let at_rest = |e: &Entry| desired::waits(e) || matches!(e.state, State::Running | State::Failed);
        let left_alone = |e: &&Entry| at_rest(e) && e.in_force().is_some_and(|runs| self.is_settled_at(app, runs));
        let Some(winner) = self.winner(app).filter(left_alone).map(|e| e.origin.clone()) else { return self.elect(app) };
        for (origin, answer) in record::shadow(&mut self.desired.entries, app, &winner) {
            self.emit(&origin, answer);
        }
        self.mind_windows();
    }

    /// One that would come into force only now, because another is gone, waits as a new one would.
    pub fn withhold(&mut self, app: &Name) {
        let shadowed = |e: &&Entry| e.state == State::Held && !desired::waits(e);
        while let Some(e) = self.winner(app).filter(shadowed).cloned() {
            let m = self.document_here(&e.newest);
            let refusal = m.and_then(|m| self.must_wait(&e.origin, &m, e.kept.as_ref()));
            if refusal.is_none() {
                break;
            }
            self.set_state(&e, State::Held, refusal);
            self.save_state();
            self.tell_entry(&e.origin, app);
        }
        self.mind_windows();
    }

    // ---- hours ----

    fn mind_windows(&mut self) {
        if self.desired.entries.iter().any(|e| desired::waits_for(e, WINDOW)) {
            self.window_due = Some(self.now());
        }
    }

    /// Lets go on what has waited for its hours, when they begin.
    pub fn open_windows(&mut self, now: Duration) {
        if self.window_due.is_none_or(|due| now < due) {
            return;
        }
        let waiting = self.desired.entries.iter().filter(|e| desired::waits_for(e, WINDOW));
        let mut apps: Vec<Name> = Vec::new();
        for e in waiting {
            if !apps.contains(&e.app) {
                apps.push(e.app.clone());
            }
        }
        let clock = clock();
        for app in apps.iter().filter(|_| clock.is_some()) {
            self.reconsider(app, WINDOW);
        }
        self.window_due = self.next_look(now, clock);
    }

    fn next_look(&self, now: Duration, clock: Option<u64>) -> Option<Duration> {
        let mut waiting = self.desired.entries.iter().filter(|e| desired::waits_for(e, WINDOW)).peekable();
        waiting.peek()?;
        let Some(clock) = clock else { return Some(now + UNSURE) };
        let until = |e: &Entry| match window::opening(&self.document(&e.newest)?.rollout?.window?, Some(clock)) {
            Opening::At(start) => Some(Duration::from_millis(start.saturating_sub(clock))),
            Opening::Now | Opening::Unknown => None,
        };
        Some(now + waiting.filter_map(until).min().unwrap_or(STEP).min(STEP))
    }
}
