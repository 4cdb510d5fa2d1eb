//! How fast output is taken, so that a flood costs neither keeper nor the other containers: who floods waits for its pipe. Pure.

use std::time::Duration;

/// Bytes a second that one container may write for long.
const RATE: u64 = 4 << 20;
/// Bytes a second that all of them may.
const RATE_OF_ALL: u64 = 16 << 20;
/// Bytes a second that go to the network, of all streams together.
const RATE_OF_STREAMS: u64 = 512 << 10;
/// What one look at a pipe costs at least: a flood may come byte by byte.
const LOOK: Duration = Duration::from_micros(250);
/// So much may be taken ahead of the rate.
const BURST: Duration = Duration::from_millis(8);

/// Time that has been used up by what was taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace(Duration);

impl Pace {
    fn spend(&mut self, bytes: usize, rate: u64, now: Duration) -> Option<Duration> {
        let cost = Duration::from_micros(bytes as u64 * 1_000_000 / rate).max(LOOK * RATE as u32 / rate as u32);
        self.0 = self.0.max(now) + cost;
        (self.0 > now + BURST).then_some(self.0)
    }
}

/// `bytes` were taken from a container of pace `own`; when the next may be, if not at once.
pub fn next(own: &mut Pace, all: &mut Pace, bytes: usize, now: Duration) -> Option<Duration> {
    own.spend(bytes, RATE, now).max(all.spend(bytes, RATE_OF_ALL, now))
}

/// `bytes` were sent to the network; when the next may be, if not at once.
pub fn streamed(all: &mut Pace, bytes: usize, now: Duration) -> Option<Duration> {
    all.spend(bytes, RATE_OF_STREAMS, now)
}

#[cfg(test)]
mod tests {
    use super::{BURST, Pace, RATE, RATE_OF_ALL, next};
    use std::time::Duration;

    /// Bytes that so many containers get through in ten seconds, each always with `chunk` bytes ready, and looks at their pipes.
    fn flood(containers: usize, chunk: usize) -> (u64, u64) {
        let (mut own, mut all) = (vec![(Pace::default(), Duration::ZERO); containers], Pace::default());
        let (mut now, mut bytes, mut looks) = (Duration::ZERO, 0, 0);
        while now < Duration::from_secs(10) {
            for (pace, due) in &mut own {
                if now >= *due {
                    *due = next(pace, &mut all, chunk, now).unwrap_or(now);
                    (bytes, looks) = (bytes + chunk as u64, looks + 1);
                }
            }
            now += Duration::from_millis(1);
        }
        (bytes, looks)
    }

    #[test]
    fn a_flood_gets_its_rate_and_all_floods_theirs() {
        let (one, _) = flood(1, 16384);
        assert!((RATE * 9..RATE * 11).contains(&one), "{one}");
        let (many, _) = flood(256, 16384);
        assert!(many < RATE_OF_ALL * 12, "{many}");
    }

    #[test]
    fn a_flood_byte_by_byte_is_looked_at_seldom() {
        assert!(flood(1, 1).1 <= 45_000);
        assert!(flood(100, 1).1 <= 45_000 * 4);
    }

    #[test]
    fn who_writes_little_never_waits_whatever_the_others_do() {
        let (mut own, mut all, mut flooder) = (Pace::default(), Pace::default(), Pace::default());
        for second in 0..10 {
            let now = Duration::from_secs(second);
            while next(&mut flooder, &mut Pace::default(), 16384, now).is_none() {}
            assert_eq!(next(&mut own, &mut all, 100, now), None);
        }
        let mut own = Pace::default();
        let wait = next(&mut own, &mut Pace::default(), 65536, Duration::ZERO).unwrap();
        assert!(wait > BURST && wait < Duration::from_millis(20));
    }
}
