//! How large a packet the broker takes, learned from being cut off.
//!
//! MQTT 3.1.1 has no way to say it: a broker with a limit closes the connection over a packet that is too large, and a message that waits for
//! its acknowledgement would be sent again after every reconnect, for ever.

use super::outbox::MAX_PACKET;
use std::time::Duration;

/// No broker has a smaller limit. Below it, a closed connection has other reasons.
const SUSPECT: usize = 4 * 1024;
/// So many times in a row the connection must have been closed over a packet of about that size: bad links cut us off, too.
const CUTS: u8 = 4;
/// After so long it is tried again: brokers get other settings, and it may have been the link after all.
const FORGET: Duration = Duration::from_secs(3600);

/// What is known of one broker. Times are those of any clock that only goes forward.
#[derive(Debug, Default, Clone, Copy)]
pub struct Limit {
    cuts: u8,
    suspected: usize,
    learned: Option<(usize, Duration)>,
}

impl Limit {
    /// Bytes of the largest packet that is worth sending.
    pub fn most(&self, now: Duration) -> usize {
        match self.learned {
            Some((size, at)) if now < at + FORGET => size - 1,
            _ => MAX_PACKET,
        }
    }

    /// The broker closed the connection before it acknowledged a packet of this size, the largest of those it had. True when that makes it a limit.
    pub fn cut_off(&mut self, largest: usize, now: Duration) -> bool {
        if largest < SUSPECT {
            return false;
        }
        self.suspected = if self.cuts == 0 { largest } else { self.suspected.min(largest) };
        self.cuts += 1;
        let proven = self.cuts >= CUTS;
        if proven {
            *self = Self { learned: Some((self.suspected, now)), ..Self::default() };
        }
        proven
    }

    /// The broker took a packet of this size.
    pub fn took(&mut self, size: usize) {
        if size >= self.suspected {
            self.cuts = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn four_cuts_in_a_row_over_large_packets_make_a_limit_for_an_hour() {
        let mut limit = Limit::default();
        for (size, proven) in [(30_000, false), (50_000, false), (20_000, false), (60_000, true)] {
            assert_eq!(limit.most(at(9)), MAX_PACKET);
            assert_eq!(limit.cut_off(size, at(9)), proven);
        }
        assert_eq!(limit.most(at(10)), 19_999);
        assert_eq!(limit.most(at(9 + 3599)), 19_999);
        assert_eq!(limit.most(at(9 + 3600)), MAX_PACKET);
        // And then it takes as much proof again.
        assert!(!limit.cut_off(60_000, at(4000)));
        assert_eq!(limit.most(at(4000)), MAX_PACKET);
    }

    #[test]
    fn small_packets_and_large_ones_that_were_taken_prove_that_it_was_the_link() {
        let mut limit = Limit::default();
        for n in 0..100 {
            assert!(!limit.cut_off(SUSPECT - 1, at(n)));
            assert!(!limit.cut_off(20_000, at(n)));
            limit.took(SUSPECT);
            assert!(!limit.cut_off(20_000, at(n)), "smaller ones prove nothing");
            limit.took(20_000);
        }
        assert_eq!(limit.most(at(100)), MAX_PACKET);
    }
}
