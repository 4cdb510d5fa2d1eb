//! The life of one container as a written table: state × event → state and actions. Pure; time is an argument.
//!
//! ```text
//!            start            go + exec            stop              exit
//! Waiting ──────────▶ Starting ────────▶ Running ───────▶ Stopping ───────▶ Exited
//!                        │                  │                                 ▲
//!                        │ failed           │ exit                            │ policy says no
//!                        ▼                  ▼                                 │
//!                     Restarting ◀──── (restart policy) ──────────────────────┘
//!                        └── delay over ──▶ Starting
//! ```
//!
//! An unhealthy one goes by way of Stopping to Restarting.

use crate::manifest::{Restart, RestartPolicy, Stop};
use crate::protocol::ContainerState as State;
use crate::sys::process::Ended;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A container that ran this long has recovered: its next restart waits the first delay again.
pub const STABLE: Duration = Duration::from_secs(10);

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is wanted, and its image is there.
    Start,
    /// It is not wanted (any more, or by hand).
    Stop,
    /// Its payload was exec'd.
    Started,
    /// It could not be started; `retry` is false when another try cannot help (no such program).
    StartFailed {
        /// Another try may help.
        retry: bool,
    },
    /// Its pid 1 ended; `None` when nobody can know how.
    Ended(Option<Ended>),
    /// It runs, but its health check says that it does not work.
    Unhealthy,
    /// Time passed.
    Tick,
}

/// What keeper must do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Launch,
    /// Send the stop signal.
    Signal,
    /// Kill all of it.
    Kill,
}

/// One container's state. Kept in keeper's memory and, as far as it must outlive keeper, in the runtime record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Where it is.
    pub state: State,
    /// Restarts since the manifest came.
    pub restarts: u32,
    /// How it ended last.
    pub last_exit: Option<Ended>,
    /// When it was started last, as time since boot.
    pub since: Duration,
    /// Restarts in a row without a stable run; decides the delay.
    streak: u32,
    /// When the delay or the stop's patience is over, as time since boot.
    due: Option<Duration>,
    /// Start again once the stop is through.
    again: Again,
}

/// What follows a stop. The first two are on record as they were before there was a third: as false and true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Again {
    No,
    /// Somebody wants it to run: at once.
    AtOnce,
    /// Its restart policy does: after a delay.
    Later,
}

impl Default for Life {
    fn default() -> Self {
        Self { state: State::Waiting, restarts: 0, last_exit: None, since: Duration::ZERO, streak: 0, due: None, again: Again::No }
    }
}

/// The rules that the manifest sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// When to start again.
    pub restart: Restart,
    /// How to stop.
    pub stop: Stop,
}

impl Life {
    /// When [`Event::Tick`] is wanted, as time since boot.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// It has a process, or is getting one.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Starting | State::Running | State::Paused | State::Stopping)
    }

    /// It neither runs nor will without being asked.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Exited | State::Failed | State::Waiting | State::Created | State::Fetching)
    }

    /// It is down, or on its way there, and not by itself: it never ran, or its policy would always have it up.
    pub fn is_stopped(&self, rules: &Rules) -> bool {
        let down = self.state == State::Exited || (self.state == State::Stopping && self.again == Again::No);
        self.state == State::Waiting || (down && rules.restart.policy == RestartPolicy::Always)
    }

    /// Ends and failed starts in a row without a stable run.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// Ends and failed starts that its restart policy has followed or will follow with a start, stable run or not, since the manifest came.
    pub fn ends(&self) -> u32 {
        self.restarts.saturating_add(u32::from(self.state == State::Restarting))
    }

    /// What it did before no longer counts: something about it changed.
    pub fn forgive(&mut self) {
        self.streak = 0;
    }

    /// The table.
    pub fn step(&mut self, event: Event, rules: &Rules, now: Duration) -> Option<Action> {
        use State::{Created, Exited, Failed, Fetching, Paused, Restarting, Running, Starting, Stopping, Waiting};
        match (self.state, event) {
            (Waiting | Fetching | Created | Exited | Failed | Restarting, Event::Start) => self.launch(now),
            (Stopping, Event::Start) => {
                self.again = Again::AtOnce;
                None
            }
            (Starting | Running | Paused, Event::Start) => None,

            (Running | Paused, Event::Stop) => self.stop(rules, now),
            // Nothing of the payload runs yet that could take a signal.
            (Starting, Event::Stop) => {
                self.stop(rules, now);
                self.due = Some(now);
                Some(Action::Kill)
            }
            (Stopping, Event::Stop) => {
                self.again = Again::No;
                None
            }
            (Waiting | Fetching | Created | Exited | Failed, Event::Stop) => None,
            (Restarting, Event::Stop) => self.end(Exited),

            (Starting, Event::Started) => {
                (self.state, self.since, self.due) = (Running, now, None);
                None
            }
            (_, Event::Started) => None,

            (Starting, Event::StartFailed { retry }) => {
                if retry && rules.restart.policy != RestartPolicy::No {
                    self.again_later(rules, now)
                } else {
                    self.end(Failed)
                }
            }
            (Stopping, Event::StartFailed { .. }) => self.after_stop(rules, now),
            (_, Event::StartFailed { .. }) => None,

            (Starting | Running | Paused, Event::Ended(how)) => self.ended(how, rules, now),
            (Stopping, Event::Ended(how)) => {
                self.last_exit = how.or(self.last_exit);
                self.after_stop(rules, now)
            }
            (_, Event::Ended(_)) => None,

            // A sick one is as good as a failed one; but it still has to be stopped.
            (Running, Event::Unhealthy) if rules.restart.policy != RestartPolicy::No => {
                self.settle_streak(now);
                let action = self.stop(rules, now);
                self.again = Again::Later;
                action
            }
            (_, Event::Unhealthy) => None,

            (_, Event::Tick) if self.due.is_none_or(|due| now < due) => None,
            (Restarting, Event::Tick) => {
                self.restarts += 1;
                self.launch(now)
            }
            // KILL is repeated every second: a task in uninterruptible sleep dies later, and a group can grow until it is empty.
            (Stopping, Event::Tick) => {
                self.due = Some(now + Duration::from_secs(1));
                Some(Action::Kill)
            }
            (_, Event::Tick) => self.end(self.state),
        }
    }

    fn launch(&mut self, now: Duration) -> Option<Action> {
        (self.state, self.since, self.due, self.again) = (State::Starting, now, None, Again::No);
        Some(Action::Launch)
    }

    fn stop(&mut self, rules: &Rules, now: Duration) -> Option<Action> {
        (self.state, self.due, self.again) = (State::Stopping, Some(now + rules.stop.timeout), Again::No);
        Some(Action::Signal)
    }

    fn end(&mut self, state: State) -> Option<Action> {
        (self.state, self.due, self.again) = (state, None, Again::No);
        None
    }

    fn after_stop(&mut self, rules: &Rules, now: Duration) -> Option<Action> {
        match self.again {
            Again::No => self.end(State::Exited),
            Again::AtOnce => self.launch(now),
            Again::Later => self.again_later(rules, now),
        }
    }

    fn settle_streak(&mut self, now: Duration) {
        if self.state == State::Running && now.saturating_sub(self.since) >= STABLE {
            self.streak = 0;
        }
    }

    fn ended(&mut self, how: Option<Ended>, rules: &Rules, now: Duration) -> Option<Action> {
        self.settle_streak(now);
        self.last_exit = how;
        let wanted = match rules.restart.policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => how != Some(Ended::Code(0)),
            RestartPolicy::No => false,
        };
        if wanted { self.again_later(rules, now) } else { self.end(State::Exited) }
    }

    fn again_later(&mut self, rules: &Rules, now: Duration) -> Option<Action> {
        let delay = backoff(&rules.restart, self.streak);
        self.streak = self.streak.saturating_add(1);
        (self.state, self.due) = (State::Restarting, Some(now + delay));
        None
    }
}

/// Delay before restart number `streak` in a row: doubles from the first to the longest.
pub fn backoff(restart: &Restart, streak: u32) -> Duration {
    let factor = 1u32.checked_shl(streak.min(30)).unwrap_or(u32::MAX);
    restart.delay.checked_mul(factor).map_or(restart.max_delay, |d| d.min(restart.max_delay))
}

#[cfg(test)]
mod tests {
    use super::{Action, Again, Event, Life, Rules, STABLE, State, backoff};
    use crate::manifest::{Restart, RestartPolicy, Stop};
    use crate::sys::process::Ended;
    use std::time::Duration;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rules(policy: RestartPolicy) -> Rules {
        Rules { restart: Restart { policy, delay: s(1), max_delay: s(8) }, stop: Stop { signal: None, timeout: s(10) } }
    }

    /// Feeds events at given seconds and compares state and action after each.
    fn check(policy: RestartPolicy, steps: &[(u64, Event, State, Option<Action>)]) -> Life {
        let (mut life, rules) = (Life::default(), rules(policy));
        for (n, (at, event, state, action)) in steps.iter().enumerate() {
            let got = life.step(*event, &rules, s(*at));
            assert_eq!((life.state, got), (*state, *action), "step {n}: {event:?}");
        }
        life
    }

    use Action::{Kill, Launch, Signal};
    use Event::{Ended as End, Start, StartFailed, Started, Stop as Halt, Tick, Unhealthy};
    use RestartPolicy::{Always, No, OnFailure};
    use State::{Exited, Failed, Restarting, Running, Starting, Stopping};

    const OK: Event = End(Some(Ended::Code(0)));
    const CRASH: Event = End(Some(Ended::Signal(11)));

    #[test]
    fn a_container_that_exits_cleanly_is_started_again_only_if_always() {
        check(Always, &[(0, Start, Starting, Some(Launch)), (0, Started, Running, None), (1, OK, Restarting, None)]);
        check(OnFailure, &[(0, Start, Starting, Some(Launch)), (0, Started, Running, None), (1, OK, Exited, None)]);
        check(No, &[(0, Start, Starting, Some(Launch)), (0, Started, Running, None), (1, CRASH, Exited, None)]);
    }

    #[test]
    fn an_exit_that_nobody_could_see_counts_as_a_failure() {
        check(OnFailure, &[(0, Start, Starting, Some(Launch)), (0, Started, Running, None), (1, End(None), Restarting, None)]);
    }

    #[test]
    fn a_crash_waits_its_delay_and_counts_one_restart() {
        let steps = [
            (0, Start, Starting, Some(Launch)),
            (0, Started, Running, None),
            (5, CRASH, Restarting, None),
            (5, Tick, Restarting, None),
            (6, Tick, Starting, Some(Launch)),
            (6, Started, Running, None),
        ];
        assert_eq!(check(Always, &steps).restarts, 1);
    }

    #[test]
    fn delays_double_up_to_the_longest_and_start_over_after_a_stable_run() {
        let r = rules(Always).restart;
        assert_eq!((0..6).map(|n| backoff(&r, n).as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8, 8, 8]);
        assert_eq!(backoff(&r, u32::MAX), s(8));
        let (mut life, rules) = (Life::default(), rules(Always));
        let mut now = s(0);
        for _ in 0..5 {
            life.step(Start, &rules, now);
            life.step(Started, &rules, now);
            life.step(CRASH, &rules, now);
        }
        assert_eq!(life.due(), Some(s(8)));
        life.step(Tick, &rules, s(8));
        life.step(Started, &rules, s(8));
        now = s(8) + STABLE;
        life.step(CRASH, &rules, now);
        assert_eq!(life.due(), Some(now + s(1)));
    }

    #[test]
    fn a_stop_asks_first_and_kills_when_patience_ends_and_again_each_second() {
        let steps = [
            (0, Start, Starting, Some(Launch)),
            (0, Started, Running, None),
            (5, Halt, Stopping, Some(Signal)),
            (14, Tick, Stopping, None),
            (15, Tick, Stopping, Some(Kill)),
            (16, Tick, Stopping, Some(Kill)),
            (16, CRASH, Exited, None),
        ];
        check(Always, &steps);
    }

    #[test]
    fn a_stop_while_starting_kills_at_once() {
        let steps = [(0, Start, Starting, Some(Launch)), (0, Halt, Stopping, Some(Kill)), (0, CRASH, Exited, None)];
        check(Always, &steps);
    }

    #[test]
    fn a_start_during_a_stop_starts_once_it_is_gone() {
        let steps = [
            (0, Start, Starting, Some(Launch)),
            (0, Started, Running, None),
            (5, Halt, Stopping, Some(Signal)),
            (6, Start, Stopping, None),
            (7, OK, Starting, Some(Launch)),
        ];
        check(No, &steps);
    }

    #[test]
    fn a_stop_ends_a_crash_loop() {
        let steps = [
            (0, Start, Starting, Some(Launch)),
            (0, Started, Running, None),
            (0, CRASH, Restarting, None),
            (0, Halt, Exited, None),
            (99, Tick, Exited, None),
        ];
        check(Always, &steps);
    }

    #[test]
    fn a_start_that_cannot_work_is_not_tried_again() {
        check(Always, &[(0, Start, Starting, Some(Launch)), (0, StartFailed { retry: false }, Failed, None)]);
        check(Always, &[(0, Start, Starting, Some(Launch)), (0, StartFailed { retry: true }, Restarting, None)]);
        check(No, &[(0, Start, Starting, Some(Launch)), (0, StartFailed { retry: true }, Failed, None)]);
    }

    #[test]
    fn starting_what_runs_changes_nothing() {
        check(
            Always,
            &[(0, Start, Starting, Some(Launch)), (0, Start, Starting, None), (0, Started, Running, None), (1, Start, Running, None)],
        );
    }

    #[test]
    fn an_unhealthy_container_is_stopped_and_comes_back_after_its_delay_unless_never_restarted() {
        let begun = [(0, Start, Starting, Some(Launch)), (0, Started, Running, None)];
        let restarted = [(1, Unhealthy, Stopping, Some(Signal)), (2, CRASH, Restarting, None), (3, Tick, Starting, Some(Launch))];
        for policy in [Always, OnFailure] {
            assert_eq!(check(policy, &[&begun[..], &restarted].concat()).restarts, 1);
        }
        check(No, &[&begun[..], &[(1, Unhealthy, Running, None)]].concat());
        check(Always, &[&begun[..], &[(1, Unhealthy, Stopping, Some(Signal)), (1, Halt, Stopping, None), (2, OK, Exited, None)]].concat());
        check(
            Always,
            &[&begun[..], &[(1, Unhealthy, Stopping, Some(Signal)), (1, Start, Stopping, None), (2, OK, Starting, Some(Launch))]].concat(),
        );
        check(Always, &[(0, Start, Starting, Some(Launch)), (0, Unhealthy, Starting, None)]);
    }

    #[test]
    fn a_record_of_a_release_that_knew_no_health_says_the_same() {
        for (bytes, again) in [(postcard::to_stdvec(&false), Again::No), (postcard::to_stdvec(&true), Again::AtOnce)] {
            assert_eq!(postcard::from_bytes::<Again>(&bytes.unwrap()).unwrap(), again);
        }
    }

    #[test]
    fn one_that_is_sick_again_and_again_waits_ever_longer() {
        let (mut life, rules) = (Life::default(), rules(Always));
        life.step(Start, &rules, s(0));
        let mut now = s(0);
        let mut delays = Vec::new();
        for _ in 0..4 {
            life.step(Started, &rules, now);
            life.step(Unhealthy, &rules, now + s(1));
            life.step(OK, &rules, now + s(1));
            delays.push((life.due().unwrap() - now - s(1)).as_secs());
            now = life.due().unwrap();
            life.step(Tick, &rules, now);
        }
        assert_eq!(delays, [1, 2, 4, 8]);
    }

    #[test]
    fn news_of_what_is_over_changes_nothing() {
        for event in [OK, Started, StartFailed { retry: true }, Tick, Halt, Unhealthy] {
            let mut life = Life { state: Exited, ..Life::default() };
            assert_eq!((life.step(event, &rules(Always), s(9)), life.state), (None, Exited), "{event:?}");
        }
    }
}
