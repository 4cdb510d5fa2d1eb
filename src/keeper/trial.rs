//! Whether a new version of an app works, and in which order its containers start. Pure.
//!
//! A version is good once each container with a health check is healthy, and each one without has run for a grace time without ending. One that is
//! meant to end is good when it has ended with 0; without a check, and never to be restarted, once it has begun: how it ends is then its own affair.
//!
//! Where there is no version to go back to, containers without a check have no grace time: taken away, they could not recover by themselves, as by
//! their restart policy they can.
//!
//! A trial ends in bounded time, whatever containers do: each one's runs are counted, and [`limit`] is the longest for all of them. What a person or a
//! command has stopped is the exception. Where there is a version to go back to, a trial waits for it, without limit, and then begins anew: nobody knows
//! whether the version works, and to call it good would take the way back. Its start ends the wait, and so does a newer document.

use crate::keeper::lifecycle::{Life, STABLE};
use crate::manifest::{Check, Name, RestartPolicy};
use crate::protocol::{ContainerState, Health, Reason};
use crate::sys::process::Ended;
use std::time::Duration;

/// How long a container without a check must run. What ends at once because something is missing has done so by then, also on a slow device.
pub const GRACE: Duration = Duration::from_secs(3);
/// Ends or failed starts in a row that make a crash loop: with the usual delays, those of three seconds.
pub const CRASHES: u32 = 3;
/// A restart that is further away is not waited for: meanwhile nothing of the app may run.
const PATIENCE: Duration = Duration::from_secs(10);
/// Fresh starts of keeper after the one in which a version was first started, and in which it is started again: whoever loses power or reboots the device
/// in the midst of an update has not said that the update is bad.
const REBOOTS: u64 = 2;
/// What one start may take: to be launched, and before that for its old control group to go.
const LAUNCH: Duration = Duration::from_secs(60);

/// One container of the version, as far as it matters.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Where it is.
    pub life: &'a Life,
    /// Its program was exec'd at least once since the document came.
    pub begun: bool,
    /// How it is, if it has a check.
    pub health: Option<Health>,
    /// Why its last check failed.
    pub why: Option<&'a str>,
    /// When it is restarted.
    pub policy: RestartPolicy,
    /// Somebody has stopped it by hand.
    pub held: bool,
    /// Its ends and failed starts since the trial began, also those after a stable run.
    pub ends: u32,
}

/// What is known of a trial from its beginning, or from this keeper's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// When it is over; since boot.
    pub until: Duration,
    /// How often containers that the version has not touched had ended before.
    pub before: Vec<(Name, u32)>,
}

impl Bounds {
    /// How often one has ended since.
    pub fn ends(&self, name: &Name, life: &Life) -> u32 {
        let before = self.before.iter().find(|(n, _)| n == name).map_or(0, |(_, ends)| *ends);
        life.ends().saturating_sub(before)
    }
}

/// The longest that a trial may take once what ran before has stopped: for each container, in the order in which they may wait for each other, as many
/// runs as make a crash loop, each with its launch, with the wait before it, and with the time after which its check has a last word (once more for
/// one that an earlier keeper had seen). It ends one that would go on for ever; others end sooner.
pub fn limit<'a>(checks: impl Iterator<Item = Option<&'a Check>>) -> Duration {
    let answers = |c: &Check| c.interval.saturating_add(c.timeout).saturating_mul(c.retries.saturating_add(1)).saturating_mul(2);
    let run = |check: Option<&Check>| check.map_or(STABLE, |c| c.start_period.saturating_add(answers(c)));
    let one = |check| run(check).saturating_add(PATIENCE + LAUNCH).saturating_mul(CRASHES);
    checks.map(one).fold(GRACE, Duration::saturating_add)
}

/// What is to be said of it, or of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Good,
    /// That is not known yet; by time alone, it is then.
    Wait(Option<Duration>),
    /// It does not.
    Bad(Reason, String),
}

/// Of all containers of a version: the first bad one decides; all must be good.
pub fn judge<'a>(parts: impl Iterator<Item = Part<'a>>, grace: Duration, now: Duration) -> Finding {
    let mut all = Finding::Good;
    for part in parts {
        all = match (all, one(&part, grace, now)) {
            (_, bad @ Finding::Bad(..)) => return bad,
            (Finding::Wait(Some(a)), Finding::Wait(Some(b))) => Finding::Wait(Some(a.min(b))),
            (Finding::Wait(until), Finding::Wait(None)) | (Finding::Wait(None), Finding::Wait(until)) => Finding::Wait(until),
            (Finding::Good, other) | (other, _) => other,
        };
    }
    all
}

/// The same, in a trial that is over `until` then.
pub fn within(found: Finding, until: Duration, now: Duration) -> Finding {
    match found {
        Finding::Wait(_) if now >= until => {
            Finding::Bad(Reason::Health, "its containers did not all work at once in the longest time that a trial may take".into())
        }
        Finding::Wait(sooner) => Finding::Wait(Some(sooner.map_or(until, |sooner| sooner.min(until)))),
        known => known,
    }
}

/// How a version on trial does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What is to be said of it.
    pub found: Finding,
    /// All its containers have begun, or are stopped by somebody, and nothing is left of the version before.
    pub up: bool,
    /// Time alone can end the trial. Otherwise its time begins anew.
    pub bounded: bool,
}

/// Looks at all containers of a version on trial that is over `until` then. `alone`: nothing is left of what ran before. `kept`: there is a version to
/// go back to.
pub fn look(parts: &[Part<'_>], alone: bool, kept: bool, until: Duration, now: Duration) -> Look {
    let grace = if kept { GRACE } else { Duration::ZERO };
    let up = alone && parts.iter().all(|p| p.begun || p.held);
    let bounded = !(kept && parts.iter().any(|p| p.held));
    let found = match judge(parts.iter().cloned(), grace, now) {
        Finding::Good if !up => Finding::Wait(None),
        found => found,
    };
    Look { found: if bounded { within(found, until, now) } else { found }, up, bounded }
}

fn one(part: &Part, grace: Duration, now: Duration) -> Finding {
    use ContainerState::{Exited, Failed, Running};
    let (life, name) = (part.life, part.name);
    let ended_well = life.state == Exited && life.last_exit == Some(Ended::Code(0));
    match part.health {
        _ if part.held && grace.is_zero() => Finding::Good,
        _ if part.held || !part.begun => Finding::Wait(None),
        None if grace.is_zero() || part.policy == RestartPolicy::No => Finding::Good,
        _ if ended_well => Finding::Good,
        Some(Health::Unhealthy) => Finding::Bad(Reason::Health, format!("{name} is unhealthy: {}", part.why.unwrap_or("no answer"))),
        _ if loops(life, now) => Finding::Bad(Reason::CrashLoop, format!("{name} {}{}", ends(life.streak()), last(life))),
        // Each of its runs may have been stable, and none long enough for its check to give it up.
        Some(_) if part.ends >= CRASHES => {
            Finding::Bad(Reason::CrashLoop, format!("{name} ended {} times while on trial{}", part.ends, last(life)))
        }
        Some(Health::Healthy) if life.state == Running => Finding::Good,
        None if life.state == Running && now >= life.since + grace => Finding::Good,
        Some(_) if matches!(life.state, Exited | Failed) => {
            Finding::Bad(Reason::Health, format!("{name} ended before it was healthy{}", last(life)))
        }
        None if life.state == Failed => Finding::Bad(Reason::Launch, format!("{name} could not be started again")),
        None if life.state == Running => Finding::Wait(Some(life.since + grace)),
        _ => Finding::Wait(None),
    }
}

fn loops(life: &Life, now: Duration) -> bool {
    use ContainerState::{Restarting, Starting};
    let far = life.state == Restarting && life.due().is_some_and(|due| due > now + PATIENCE);
    far || (matches!(life.state, Restarting | Starting) && life.streak() >= CRASHES)
}

fn ends(times: u32) -> String {
    if times == 1 { "ended, and is not soon started again".into() } else { format!("ended {times} times in a row") }
}

fn last(life: &Life) -> String {
    life.last_exit.map_or_else(String::new, |how| format!(", the last time with {how} (`wherry logs` may tell why)"))
}

/// Whether a version that was first started in start `first` of keeper, and has not come to its end since, is not to be started in start `boot`. What
/// takes the device down (a panic, a watchdog) can be seen in no other way, and would do so at every boot.
pub fn is_given_up(first: u64, boot: u64) -> bool {
    boot.saturating_sub(first) > REBOOTS
}

/// Whether a container that others wait for lets them start.
pub fn lets_start(part: &Part) -> bool {
    // What a person has stopped is his to start; the others do not wait for him.
    let done = part.life.state == ContainerState::Exited && part.life.last_exit == Some(Ended::Code(0));
    part.held || (part.begun && (done || part.health.is_none_or(|health| health == Health::Healthy)))
}

#[cfg(test)]
mod tests {
    use super::{Bounds, CRASHES, Finding, GRACE, Part, judge, lets_start, within};
    use crate::keeper::lifecycle::{Event, Life, Rules};
    use crate::manifest::{Check, How, Name, Restart, RestartPolicy, Stop};
    use crate::protocol::{Health, Reason};
    use crate::sys::process::Ended;
    use RestartPolicy::{Always, No, OnFailure};
    use std::time::Duration;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const OK: Event = Event::Ended(Some(Ended::Code(0)));
    const CRASH: Event = Event::Ended(Some(Ended::Code(1)));

    /// A life that began at 0 and saw these events at 1 s each.
    fn life(policy: RestartPolicy, events: &[Event]) -> Life {
        let rules = Rules { restart: Restart { policy, delay: s(0), max_delay: s(9) }, stop: Stop { signal: None, timeout: s(9) } };
        let mut life = Life::default();
        life.step(Event::Start, &rules, s(0));
        life.step(Event::Started, &rules, s(0));
        for event in events {
            life.step(*event, &rules, s(1));
        }
        life
    }

    #[test]
    fn a_restart_that_is_far_away_is_not_waited_for() {
        let name: Name = "db".parse().unwrap();
        for (delay, bad) in [(9, false), (3600, true)] {
            let restart = Restart { policy: Always, delay: s(delay), max_delay: s(3600) };
            let rules = Rules { restart, stop: Stop { signal: None, timeout: s(9) } };
            let mut life = Life::default();
            for event in [Event::Start, Event::Started, CRASH] {
                life.step(event, &rules, s(0));
            }
            let part = Part { name: &name, life: &life, begun: true, health: None, why: None, policy: Always, held: false, ends: 0 };
            let found = judge(std::iter::once(part), GRACE, s(0));
            assert_eq!(matches!(&found, Finding::Bad(Reason::CrashLoop, why) if why.contains("not soon")), bad, "{delay}: {found:?}");
        }
    }

    fn loops(times: u32) -> Vec<Event> {
        (0..times).flat_map(|n| [CRASH, Event::Tick, Event::Started].into_iter().take(if n + 1 == times { 1 } else { 3 })).collect()
    }

    fn verdict(policy: RestartPolicy, health: Option<Health>, events: &[Event], grace: Duration, now: u64) -> Finding {
        let (name, life): (Name, _) = ("db".parse().unwrap(), life(policy, events));
        judge(
            [Part { name: &name, life: &life, begun: true, health, why: Some("refused"), policy, held: false, ends: 0 }].into_iter(),
            grace,
            s(now),
        )
    }

    #[track_caller]
    fn check(policy: RestartPolicy, health: Option<Health>, events: &[Event], expected: Result<bool, Reason>) {
        let got = match verdict(policy, health, events, GRACE, 2) {
            Finding::Good => Ok(true),
            Finding::Wait(_) => Ok(false),
            Finding::Bad(reason, message) => {
                assert!(message.starts_with("db "), "{message}");
                Err(reason)
            }
        };
        assert_eq!(got, expected, "{policy:?} {health:?} {events:?}");
    }

    const GOOD: Result<bool, Reason> = Ok(true);
    const WAIT: Result<bool, Reason> = Ok(false);

    #[test]
    fn one_with_a_check_is_good_when_it_is_healthy_and_bad_when_it_is_not() {
        check(Always, Some(Health::Starting), &[], WAIT);
        check(Always, Some(Health::Healthy), &[], GOOD);
        for policy in [Always, OnFailure, No] {
            check(policy, Some(Health::Unhealthy), &[], Err(Reason::Health));
        }
        check(Always, Some(Health::Starting), &[CRASH], WAIT);
        check(No, Some(Health::Starting), &[CRASH], Err(Reason::Health));
        check(No, Some(Health::Starting), &[OK], GOOD);
        check(Always, Some(Health::Starting), &loops(CRASHES), Err(Reason::CrashLoop));
    }

    #[test]
    fn one_without_a_check_is_good_after_its_grace_time() {
        assert_eq!(verdict(Always, None, &[], GRACE, 2), Finding::Wait(Some(GRACE)));
        assert_eq!(verdict(Always, None, &[], GRACE, 3), Finding::Good);
        check(Always, None, &[CRASH], WAIT);
        check(Always, None, &[OK], WAIT);
        check(Always, None, &loops(CRASHES - 1), WAIT);
        check(Always, None, &loops(CRASHES), Err(Reason::CrashLoop));
        check(OnFailure, None, &loops(CRASHES), Err(Reason::CrashLoop));
        check(OnFailure, None, &[OK], GOOD);
        check(No, None, &[], GOOD);
        check(No, None, &[CRASH], GOOD);
    }

    /// One with a check that ran for this long, time and again, and is up or waits for its next run.
    #[track_caller]
    fn check_ends(seconds: u64, ends: u32, up: bool, health: Health, expected: Result<bool, Reason>) {
        let rules = Rules { restart: Restart { policy: Always, delay: s(0), max_delay: s(0) }, stop: Stop { signal: None, timeout: s(9) } };
        let (name, mut life, mut now): (Name, _, _) = ("db".parse().unwrap(), Life::default(), s(0));
        life.step(Event::Start, &rules, now);
        for n in 0..ends {
            life.step(Event::Started, &rules, now);
            now += s(seconds);
            life.step(CRASH, &rules, now);
            if up || n + 1 < ends {
                life.step(Event::Tick, &rules, now);
            }
        }
        if up {
            life.step(Event::Started, &rules, now);
        }
        // Two from before the trial.
        let bounds = Bounds { until: s(0), before: vec![(name.clone(), 2)] };
        let ends = bounds.ends(&name, &life);
        let part = Part { name: &name, life: &life, begun: true, health: Some(health), why: None, policy: Always, held: false, ends };
        let got = match judge(std::iter::once(part), GRACE, now) {
            Finding::Bad(reason, why) => {
                assert!(why.starts_with("db ended 3 times while on trial, the last time with code 1"), "{why}");
                Err(reason)
            }
            found => Ok(found == Finding::Good),
        };
        assert_eq!(got, expected, "{ends} ends, up {up}, {health}");
    }

    #[test]
    fn ends_after_stable_runs_count_too_where_there_is_a_check() {
        check_ends(11, CRASHES + 1, false, Health::Starting, WAIT);
        check_ends(11, CRASHES + 2, false, Health::Starting, Err(Reason::CrashLoop));
        check_ends(11, CRASHES + 2, true, Health::Healthy, Err(Reason::CrashLoop));
        check_ends(11, CRASHES + 1, true, Health::Healthy, GOOD);
    }

    #[test]
    fn a_trial_is_over_after_the_longest_time_that_its_containers_may_take() {
        let check = |interval, start_period| Check { how: How::File("/x".into()), start_period, interval, timeout: s(5), retries: 2 };
        let (quick, slow) = (check(s(1), s(0)), check(s(30), s(600)));
        let limit = |checks: &[Option<&Check>]| super::limit(checks.iter().copied());
        assert_eq!(limit(&[None]), s(3 + 3 * 80));
        assert_eq!(limit(&[Some(&quick)]), s(3 + 3 * (36 + 70)));
        assert_eq!(limit(&[Some(&slow), None]), s(3 + 3 * (600 + 210 + 70) + 3 * 80));
        assert_eq!(limit(&[Some(&check(Duration::MAX, Duration::MAX)), None]), Duration::MAX);
        for (found, now, expected) in [
            (Finding::Wait(None), 8, Finding::Wait(Some(s(9)))),
            (Finding::Wait(Some(s(7))), 6, Finding::Wait(Some(s(7)))),
            (Finding::Wait(Some(s(12))), 8, Finding::Wait(Some(s(9)))),
            (Finding::Good, 9, Finding::Good),
        ] {
            assert_eq!(within(found, s(9), s(now)), expected);
        }
        assert!(matches!(within(Finding::Wait(Some(s(12))), s(9), s(9)), Finding::Bad(Reason::Health, _)));
    }

    #[test]
    fn a_version_is_started_in_three_boots_and_no_more() {
        for (boot, expected) in [(7, false), (8, false), (9, false), (10, true), (99, true), (3, false)] {
            assert_eq!(super::is_given_up(7, boot), expected, "{boot}");
        }
    }

    #[test]
    fn with_nothing_to_go_back_to_only_checks_count() {
        for events in [&[][..], &[CRASH], &loops(CRASHES)] {
            assert_eq!(verdict(Always, None, events, Duration::ZERO, 2), Finding::Good);
        }
        assert_eq!(verdict(Always, Some(Health::Starting), &[], Duration::ZERO, 2), Finding::Wait(None));
        assert!(matches!(verdict(Always, Some(Health::Starting), &loops(CRASHES), Duration::ZERO, 2), Finding::Bad(Reason::CrashLoop, _)));
    }

    #[test]
    fn of_several_the_bad_one_decides_and_all_must_be_good() {
        let names = ["a", "b", "c"].map(|n| n.parse::<Name>().unwrap());
        let lives = [life(Always, &[]), life(Always, &[CRASH]), life(Always, &loops(CRASHES))];
        let part = |i: usize, begun, health, held| Part {
            name: &names[i],
            life: &lives[i],
            begun,
            health,
            why: None,
            policy: Always,
            held,
            ends: 0,
        };
        let all = |parts: Vec<Part<'_>>| judge(parts.into_iter(), GRACE, s(2));
        let (waits, healthy) = (part(0, true, None, false), part(0, true, Some(Health::Healthy), false));
        assert_eq!(all(vec![]), Finding::Good);
        assert_eq!(all(vec![healthy.clone(), healthy.clone()]), Finding::Good);
        assert_eq!(all(vec![healthy.clone(), waits.clone(), part(1, true, None, false)]), Finding::Wait(Some(GRACE)));
        assert_eq!(all(vec![part(1, true, None, false), healthy.clone()]), Finding::Wait(None));
        assert_eq!(all(vec![part(0, false, None, false), healthy.clone()]), Finding::Wait(None), "not begun");
        assert_eq!(all(vec![part(2, false, None, true), healthy.clone()]), Finding::Wait(None), "stopped by hand");
        let first = judge([part(2, false, None, true), healthy].into_iter(), Duration::ZERO, s(2));
        assert_eq!(first, Finding::Good, "stopped by hand, with nothing to go back to");
        assert!(
            matches!(all(vec![waits, part(2, true, None, false)]), Finding::Bad(Reason::CrashLoop, why) if why.starts_with("c ended 3 times"))
        );
    }

    #[test]
    fn one_that_others_wait_for_must_have_begun_and_be_healthy_if_it_can() {
        let (name, up, done): (Name, _, _) = ("db".parse().unwrap(), life(Always, &[]), life(No, &[OK]));
        let check = |life, begun, health, held, expected| {
            let part = Part { name: &name, life, begun, health, why: None, policy: Always, held, ends: 0 };
            assert_eq!(lets_start(&part), expected, "{part:?}");
        };
        check(&up, true, None, false, true);
        check(&up, false, None, false, false);
        check(&up, true, Some(Health::Starting), false, false);
        check(&up, true, Some(Health::Unhealthy), false, false);
        check(&up, true, Some(Health::Healthy), false, true);
        check(&up, false, Some(Health::Starting), true, true);
        check(&done, true, Some(Health::Starting), false, true);
    }
}
