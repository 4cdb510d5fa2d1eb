//! The health of one running container as a written table: answers of its checks and time → healthy or not, and when to check again. Pure.
//!
//! Until the first good answer it is `starting`, and checked ever slower, up to its interval: a server that is up in a second is known to be after
//! one, and one that takes a minute is not asked a hundred times. It has its start period, and the time of as many further checks as it has retries;
//! then it is `unhealthy`. One that was healthy becomes so by as many failures in a row.

use crate::manifest::Check;
use crate::protocol::Health;
use std::time::Duration;

/// From a container's start to its first check, and from that to the second; doubles each time.
const FIRST: Duration = Duration::from_millis(500);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The check ended, with this answer.
    Answer(bool),
    /// It could not be made, for a reason that is not the container's: that says nothing.
    Unknown,
}

/// What keeper must do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Check it.
    Check,
    /// Its check takes too long, which counts as a failure: end that.
    Abort,
}

/// One run of a container, as its checks see it. Times are since boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    health: Health,
    /// Checks so far.
    checks: u32,
    /// Failures in a row.
    failures: u32,
    /// When the time to become healthy is over.
    limit: Duration,
    /// When to check, or when the check has taken too long.
    due: Duration,
    busy: bool,
}

impl Watch {
    /// Of a container that runs since `since`; keeper may see it later.
    pub fn begin(check: &Check, since: Duration, now: Duration) -> Self {
        let patience = check.start_period.saturating_add(check.interval.saturating_mul(check.retries));
        let due = (since + FIRST).max(now);
        Self { health: Health::Starting, checks: 0, failures: 0, limit: since.saturating_add(patience), due, busy: false }
    }

    /// How it is.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When [`Event::Tick`] is wanted.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// The table.
    pub fn step(&mut self, event: Event, check: &Check, now: Duration) -> Option<Action> {
        match (event, self.busy) {
            (Event::Tick, _) if now < self.due => None,
            (Event::Tick, false) => {
                (self.busy, self.due) = (true, now.saturating_add(check.timeout));
                Some(Action::Check)
            }
            (Event::Tick, true) => {
                self.answer(false, check, now);
                Some(Action::Abort)
            }
            (Event::Answer(good), true) => {
                self.answer(good, check, now);
                None
            }
            (Event::Unknown, true) => {
                (self.busy, self.due) = (false, now.saturating_add(self.pace(check)));
                None
            }
            // Of a check that was given up.
            (Event::Answer(_) | Event::Unknown, false) => None,
        }
    }

    fn answer(&mut self, good: bool, check: &Check, now: Duration) {
        self.checks = self.checks.saturating_add(1);
        self.failures = if good { 0 } else { self.failures.saturating_add(1) };
        self.health = match self.health {
            _ if good => Health::Healthy,
            Health::Starting if now < self.limit => Health::Starting,
            // Its time may have passed in an earlier keeper, which had seen it healthy.
            before if self.failures < check.retries => before,
            _ => Health::Unhealthy,
        };
        let soon = self.health == Health::Starting && now < self.limit;
        let wait = if soon { self.pace(check).min(self.limit - now) } else { check.interval };
        (self.busy, self.due) = (false, now.saturating_add(wait));
    }

    fn pace(&self, check: &Check) -> Duration {
        FIRST.saturating_mul(1 << self.checks.saturating_sub(1).min(20)).min(check.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Event, Watch};
    use crate::manifest::{Check, How};
    use crate::protocol::Health::{self, Healthy, Starting, Unhealthy};
    use std::time::Duration;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn rules(start_period: u64) -> Check {
        let how = How::File("/x".into());
        Check { how, start_period: ms(start_period), interval: ms(4000), timeout: ms(1000), retries: 3 }
    }

    /// Feeds answers, each as soon as a check is due; compares when that was, and the health after it.
    fn check(start_period: u64, steps: &[(u64, bool, Health)]) -> Watch {
        let rules = rules(start_period);
        let mut watch = Watch::begin(&rules, ms(0), ms(0));
        for (n, (at, good, health)) in steps.iter().enumerate() {
            assert_eq!(watch.due(), ms(*at), "step {n}");
            assert_eq!(watch.step(Event::Tick, &rules, ms(at - 1)), None, "step {n}");
            assert_eq!(watch.step(Event::Tick, &rules, ms(*at)), Some(Action::Check), "step {n}");
            assert_eq!(watch.step(Event::Answer(*good), &rules, ms(*at)), None, "step {n}");
            assert_eq!(watch.health(), *health, "step {n}");
        }
        watch
    }

    #[test]
    fn the_first_good_answer_makes_it_healthy_and_then_the_interval_counts() {
        check(0, &[(500, true, Healthy), (4500, true, Healthy), (8500, true, Healthy)]);
    }

    #[test]
    fn until_it_is_healthy_it_is_checked_ever_slower_up_to_the_interval() {
        let bad = |at| (at, false, Starting);
        let steps = [bad(500), bad(1000), bad(2000), bad(4000), bad(8000), (12_000, true, Healthy), (16_000, true, Healthy)];
        check(10_000, &steps);
    }

    #[test]
    fn one_that_is_never_healthy_is_unhealthy_after_its_start_period_and_retries_times_its_interval() {
        let bad = |at| (at, false, Starting);
        check(0, &[bad(500), bad(1000), bad(2000), bad(4000), bad(8000), (12_000, false, Unhealthy), (16_000, false, Unhealthy)]);
        let far = [bad(500), bad(1000), bad(2000), bad(4000), bad(8000), bad(12_000), bad(16_000), (17_500, false, Unhealthy)];
        check(5500, &far);
    }

    #[test]
    fn a_healthy_one_becomes_unhealthy_by_failures_in_a_row_only() {
        let first = (500, true, Healthy);
        let flapping = [first, (4500, false, Healthy), (8500, false, Healthy), (12_500, true, Healthy), (16_500, false, Healthy)];
        assert_eq!(check(0, &flapping).failures(), 1);
        check(0, &[first, (4500, false, Healthy), (8500, false, Healthy), (12_500, false, Unhealthy)]);
    }

    #[test]
    fn an_unhealthy_one_that_answers_again_is_healthy_again() {
        let bad = |at| (at, false, Healthy);
        check(0, &[(500, true, Healthy), bad(4500), bad(8500), (12_500, false, Unhealthy), (16_500, true, Healthy), bad(20_500)]);
    }

    #[test]
    fn a_check_that_takes_too_long_is_ended_and_counts_and_its_late_answer_does_not() {
        let rules = rules(0);
        let mut watch = Watch::begin(&rules, ms(0), ms(0));
        assert_eq!(watch.step(Event::Tick, &rules, ms(500)), Some(Action::Check));
        assert_eq!(watch.step(Event::Tick, &rules, ms(1499)), None);
        assert_eq!(watch.step(Event::Tick, &rules, ms(1500)), Some(Action::Abort));
        assert_eq!((watch.step(Event::Answer(true), &rules, ms(1501)), watch.health(), watch.failures()), (None, Starting, 1));
        assert_eq!(watch.due(), ms(2000));
    }

    #[test]
    fn one_that_an_earlier_keeper_has_watched_is_checked_at_once_and_only_its_retries_count() {
        let rules = rules(0);
        let mut watch = Watch::begin(&rules, ms(0), ms(60_000));
        for (at, health) in [(60_000, Starting), (64_000, Starting), (68_000, Unhealthy)] {
            assert_eq!(watch.due(), ms(at));
            watch.step(Event::Tick, &rules, ms(at));
            watch.step(Event::Answer(false), &rules, ms(at));
            assert_eq!(watch.health(), health, "{at}");
        }
    }

    #[test]
    fn a_check_that_could_not_be_made_counts_neither_way_also_after_the_limit() {
        let rules = rules(0);
        let mut watch = Watch::begin(&rules, ms(0), ms(0));
        let mut make = |event| {
            let now = watch.due();
            assert_eq!(watch.step(Event::Tick, &rules, now), Some(Action::Check));
            watch.step(event, &rules, now);
            (watch.health(), watch.failures())
        };
        for _ in 0..99 {
            assert_eq!(make(Event::Unknown), (Starting, 0));
        }
        assert_eq!(make(Event::Answer(true)), (Healthy, 0));
        assert_eq!(make(Event::Answer(false)), (Healthy, 1));
        assert_eq!(make(Event::Unknown), (Healthy, 1), "nor does it break a row");
        assert_eq!(make(Event::Answer(false)), (Healthy, 2));
        assert_eq!(make(Event::Answer(false)), (Unhealthy, 3));
        assert_eq!(make(Event::Unknown), (Unhealthy, 3));
        assert!(watch.due() > ms(99 * 500), "{:?}", watch.due());
    }

    #[test]
    fn the_longest_times_do_not_overflow() {
        let long = Duration::MAX;
        let rules = Check { start_period: long, interval: long, timeout: long, retries: u32::MAX, ..rules(0) };
        let mut watch = Watch::begin(&rules, ms(1), ms(1));
        watch.step(Event::Tick, &rules, ms(501));
        watch.step(Event::Answer(false), &rules, ms(501));
        assert_eq!((watch.due(), watch.health()), (ms(1001), Starting));
    }
}
