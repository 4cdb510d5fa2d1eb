//! What happened lately, in RAM: the last events, for whoever asks now or later. Pure.

use crate::ipc::Happening;
use std::collections::VecDeque;

/// Events kept.
pub const KEPT: usize = 200;
/// Longest detail, in bytes.
const MAX_DETAIL: usize = 256;

/// The last events; each has a number that never changes.
#[derive(Debug, Default)]
pub struct Events {
    kept: VecDeque<Happening>,
    /// Number of the first one kept.
    first: u64,
}

impl Events {
    /// Adds one; the oldest gives way. Its number is set here.
    pub fn push(&mut self, mut event: Happening) {
        event.number = self.end();
        crate::keeper::deploy::shorten(&mut event.detail, MAX_DETAIL);
        self.kept.push_back(event);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
            self.first += 1;
        }
    }

    /// Number of the next one.
    pub fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Number of the first one kept that is not older than this (milliseconds since boot).
    pub fn since(&self, at_ms: u64) -> u64 {
        self.first + self.kept.partition_point(|e| e.at_ms < at_ms) as u64
    }

    /// At most `max` events from number `from` on, the number behind them, and how many before them are lost.
    pub fn read(&self, from: u64, max: usize) -> (impl Iterator<Item = &Happening>, u64, u64) {
        let start = from.clamp(self.first, self.end());
        let next = (start + max as u64).min(self.end());
        let rows = self.kept.iter().skip((start - self.first) as usize).take((next - start) as usize);
        (rows, next, start.saturating_sub(from))
    }
}

#[cfg(test)]
mod tests {
    use super::{Events, KEPT, MAX_DETAIL};
    use crate::ipc::{Happening, What};

    fn filled(n: u64) -> Events {
        let mut events = Events::default();
        for at_ms in 0..n {
            events.push(Happening { at_ms, ..Happening::new(What::Link, "é".repeat(MAX_DETAIL)) });
        }
        events
    }

    fn check(events: &Events, from: u64, max: usize, expect: (&[u64], u64, u64)) {
        let (rows, next, lost) = events.read(from, max);
        assert_eq!((&rows.map(|r| r.number).collect::<Vec<_>>()[..], next, lost), expect, "from {from}");
    }

    #[test]
    fn the_oldest_give_way_and_a_slow_reader_learns_how_many() {
        let events = filled(KEPT as u64 + 5);
        check(&events, 0, 2, (&[5, 6], 7, 5));
        check(&events, 7, 2, (&[7, 8], 9, 0));
        check(&events, 204, 9, (&[204], 205, 0));
        check(&events, 205, 9, (&[], 205, 0));
        check(&events, 999, 9, (&[], 205, 0));
        assert!(events.read(0, 1).0.all(|e| e.detail.len() <= MAX_DETAIL));
    }

    #[test]
    fn a_time_finds_the_first_event_that_is_not_older() {
        let events = filled(KEPT as u64 + 5);
        assert_eq!([0, 5, 6, 204, 205, 9999].map(|at| events.since(at)), [5, 5, 6, 204, 205, 205]);
        assert_eq!(Events::default().since(7), 0);
    }
}
