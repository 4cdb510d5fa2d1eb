//! The containers of an app as [`trial`] sees them: who may start now, who has to be restarted because it is unhealthy, and what bounds a trial.

use crate::image::Digest;
use crate::ipc::Failure;
use crate::keeper::Keeper;
use crate::keeper::containers::Live;
use crate::keeper::context::Context;
use crate::keeper::deploy::App;
use crate::keeper::lifecycle::Event;
use crate::keeper::record;
use crate::keeper::trial::{self, Bounds, Part};
use crate::manifest::Name;
use crate::protocol::Health;
use std::time::Duration;

/// What matters of a container.
pub fn part<'a>(live: &'a Live, held: &[Name]) -> Part<'a> {
    Part {
        name: &live.key.container,
        life: &live.life,
        begun: live.begun && live.next.is_none(),
        health: live.health(),
        why: live.checkup.why(),
        policy: live.ready.rules.restart.policy,
        held: held.contains(&live.key.container),
        ends: 0,
    }
}

/// The containers of the version on trial.
pub fn on_trial<'a>(app: &'a App, held: &'a [Name], bounds: &'a Bounds) -> impl Iterator<Item = Part<'a>> {
    let wanted = app.live.iter().filter(|l| !l.doomed);
    wanted.map(|l| Part { ends: if l.next.is_none() { bounds.ends(&l.key.container, &l.life) } else { 0 }, ..part(l, held) })
}

/// Of a trial that begins now.
pub fn bounds(app: &App, now: Duration) -> Bounds {
    let wanted = || app.live.iter().filter(|l| !l.doomed);
    let untouched = wanted().filter(|l| l.next.is_none() && l.life.ends() > 0);
    let stop = app.live.iter().map(|l| l.ready.rules.stop.timeout).max().unwrap_or_default();
    let limit = trial::limit(wanted().map(|l| l.next.as_ref().unwrap_or(&l.ready).health.as_ref()));
    Bounds {
        until: now.saturating_add(stop).saturating_add(limit),
        before: untouched.map(|l| (l.key.container.clone(), l.life.ends())).collect(),
    }
}

/// Starts what is wanted and need not wait for another container any more.
pub fn start_wanted(app: &mut App, ctx: &mut Context, held: &[Name], now: Duration) {
    for i in 0..app.live.len() {
        let live = &app.live[i];
        let waits = |name: &Name| {
            let other = app.live.iter().find(|l| l.key.container == *name && !l.doomed);
            other.is_some_and(|other| !trial::lets_start(&part(other, held)))
        };
        if live.wanted && !live.doomed && !live.ready.after.iter().any(waits) {
            app.live[i].event(ctx, Event::Start, now);
        }
    }
}

impl Keeper {
    /// Has on record that a version is being started, before it is: it may take the device down. The error is for one that has done so too often.
    pub fn count_try(&mut self, name: &Name, version: Digest) -> Result<(), Failure> {
        // One that somebody has stopped takes nothing down, and waits for him at every boot.
        let waits = self.winner(name).is_some_and(|e| !e.held.is_empty());
        if record::count_try(&mut self.desired, name, version, self.ctx.boot, waits)? {
            self.save_state();
        }
        Ok(())
    }

    /// Restarts what its check calls unhealthy, as its policy says. A new version on trial fails instead.
    pub fn restart_unhealthy(&mut self, name: &Name, now: Duration) {
        let Self { ctx, apps, .. } = self;
        let Some(app) = apps.iter_mut().find(|a| a.name == *name) else { return };
        if app.work.as_ref().is_some_and(|w| w.is_trial()) {
            return;
        }
        for live in app.live.iter_mut().filter(|l| l.health() == Some(Health::Unhealthy)) {
            live.event(ctx, Event::Unhealthy, now);
        }
    }
}
