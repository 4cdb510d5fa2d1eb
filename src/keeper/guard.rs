//! The connectivity guard: a new version that could break the way to the broker must show that it has not, or the one before runs again. Pure.
//!
//! It guards only where the link had been up for a while: what was no way before, no version can break. And only versions that are, or replace one
//! that is, in the device's own network; a version that is not cannot reach what carries the link.

use crate::keeper::trial::Finding;
use crate::manifest::{Body, Manifest, Network};
use crate::protocol::Reason;
use std::time::Duration;

/// How long the link must have been up before.
pub const STEADY: Duration = Duration::from_secs(60);
/// How often something is published meanwhile, for the broker to acknowledge.
pub const ASK: Duration = Duration::from_secs(2);

/// Whether a document with containers needs a guard, when `runs` is what it replaces and the link has been up for so long.
pub fn is_needed(m: &Manifest, runs: Option<&Manifest>, up_for: Option<Duration>) -> bool {
    let steady = up_for.is_some_and(|time| time >= STEADY);
    steady && matches!(m.body, Body::Run(_)) && (is_in_devices_network(m) || runs.is_some_and(is_in_devices_network))
}

fn is_in_devices_network(m: &Manifest) -> bool {
    let Body::Run(containers) = &m.body else { return false };
    containers.iter().any(|c| c.network == Network::Host)
}

/// What is to be said of a version that has worked since `since`, when the broker last acknowledged something in the second `acknowledged_s` (both since
/// boot).
pub fn judge(since: Duration, acknowledged_s: Option<u64>, grace: Duration, now: Duration) -> Finding {
    // A whole second later: of the same one nobody knows which came first.
    if acknowledged_s.is_some_and(|s| s > since.as_secs()) {
        return Finding::Good;
    }
    if now >= since + grace {
        let message =
            format!("the broker could not be reached for {} s after the new version had started, as it could before", grace.as_secs());
        return Finding::Bad(Reason::Connectivity, message);
    }
    Finding::Wait(Some((now + ASK).min(since + grace)))
}

#[cfg(test)]
mod tests {
    use super::{is_needed, judge};
    use crate::keeper::trial::Finding;
    use crate::manifest::{Manifest, parse};
    use crate::protocol::Reason;
    use std::time::Duration;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn document(modes: &[&str]) -> Manifest {
        let one = |(n, mode): (usize, &&str)| format!(r#""c{n}": {{"image": {{"ref": "oci:/i"}}, "network": {{"mode": "{mode}"}}}}"#);
        let containers = modes.iter().enumerate().map(one).collect::<Vec<_>>().join(",");
        parse(format!(r#"{{"wherry": 1, "app": "a", "containers": {{{containers}}}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn only_what_is_or_was_in_the_devices_network_is_guarded_and_only_on_a_steady_link() {
        let (inside, outside) = (document(&["none", "host"]), document(&["none", "none"]));
        let gone = parse(br#"{"wherry": 1, "app": "a", "remove": true}"#).unwrap();
        for (m, runs, up_for, needed) in [
            (&inside, None, Some(s(60)), true),
            (&inside, Some(&outside), Some(s(3600)), true),
            (&outside, Some(&inside), Some(s(60)), true),
            (&outside, Some(&outside), Some(s(60)), false),
            (&outside, None, Some(s(60)), false),
            (&inside, None, Some(s(59)), false),
            (&inside, None, None, false),
            (&gone, Some(&inside), Some(s(60)), false),
        ] {
            assert_eq!(is_needed(m, runs, up_for), needed, "{m:?} after {runs:?}, up for {up_for:?}");
        }
    }

    #[test]
    fn an_answer_of_the_broker_from_after_the_start_ends_the_wait_and_only_time_ends_it_otherwise() {
        let since = Duration::from_millis(100_500);
        let found = |acknowledged, now| judge(since, acknowledged, s(180), now);
        assert_eq!(found(Some(101), s(101)), Finding::Good);
        assert_eq!(found(Some(101), s(400)), Finding::Good);
        for before in [None, Some(40), Some(100)] {
            assert_eq!(found(before, s(101)), Finding::Wait(Some(s(103))));
            assert_eq!(found(before, Duration::from_millis(280_000)), Finding::Wait(Some(Duration::from_millis(280_500))));
            assert!(matches!(found(before, s(281)), Finding::Bad(Reason::Connectivity, _)));
        }
    }
}
