//! The last output of a container, in RAM. Pure.

use crate::manifest::{Full, Log};
use std::collections::VecDeque;

/// A bounded run of bytes; each byte has a position that never changes.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    rule: Log,
    /// Position of the first byte kept.
    first: u64,
    /// Position up to which somebody has read.
    seen: u64,
}

impl Ring {
    /// An empty ring under `rule`. Memory is taken as output comes.
    pub fn new(rule: Log) -> Self {
        Self { bytes: VecDeque::new(), rule, first: 0, seen: 0 }
    }

    /// Another rule holds from now on.
    pub fn set_rule(&mut self, rule: Log) {
        self.rule = rule;
        self.shrink();
    }

    /// How many bytes may be added now: with `block`, unread bytes never give way.
    pub fn room(&self) -> usize {
        let size = self.rule.ring as usize;
        match self.rule.full {
            Full::Drop => size,
            Full::Block => size.saturating_sub((self.end() - self.seen.max(self.first)) as usize),
        }
    }

    /// Adds output; the oldest bytes give way.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.shrink();
    }

    fn shrink(&mut self) {
        let over = self.bytes.len().saturating_sub(self.rule.ring as usize);
        self.bytes.drain(..over);
        self.first += over as u64;
    }

    /// Position behind the last byte.
    pub fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }

    /// Position from which `tail` bytes are left to read.
    pub fn tail(&self, tail: Option<u32>) -> u64 {
        tail.map_or(self.first, |n| self.end().saturating_sub(u64::from(n)).max(self.first))
    }

    /// At most `max` bytes from `position` on, the position behind them, and how many before them are lost.
    pub fn read(&mut self, position: u64, max: usize) -> (Vec<u8>, u64, u64) {
        let from = position.clamp(self.first, self.end());
        let lost = from.saturating_sub(position);
        let bytes: Vec<u8> = self.bytes.iter().skip((from - self.first) as usize).take(max).copied().collect();
        let next = from + bytes.len() as u64;
        self.seen = self.seen.max(next);
        (bytes, next, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::{Full, Log, Ring};

    fn ring(size: u32, full: Full) -> Ring {
        Ring::new(Log { ring: size, full })
    }

    #[test]
    fn the_oldest_bytes_give_way_and_a_slow_reader_learns_how_many() {
        let mut r = ring(4, Full::Drop);
        r.push(b"abcdef");
        assert_eq!(r.read(0, 99), (b"cdef".to_vec(), 6, 2));
        assert_eq!(r.read(6, 99), (Vec::new(), 6, 0));
        assert_eq!(r.room(), 4);
    }

    #[test]
    fn a_blocking_ring_has_no_room_until_somebody_reads() {
        let mut r = ring(4, Full::Block);
        assert_eq!(r.room(), 4);
        r.push(b"abc");
        assert_eq!(r.room(), 1);
        r.read(0, 2);
        assert_eq!(r.room(), 3);
        r.push(b"def");
        assert_eq!(r.read(2, 9), (b"cdef".to_vec(), 6, 0));
    }

    #[test]
    fn a_tail_is_never_longer_than_what_is_there() {
        let mut r = ring(8, Full::Drop);
        r.push(b"abc");
        assert_eq!((r.tail(None), r.tail(Some(2)), r.tail(Some(99))), (0, 1, 0));
    }

    #[test]
    fn reads_are_bounded_and_go_on_where_they_ended() {
        let mut r = ring(8, Full::Drop);
        r.push(b"abcde");
        let (a, next, _) = r.read(0, 2);
        let (b, next, _) = r.read(next, 2);
        let (c, _, _) = r.read(next, 2);
        assert_eq!([a, b, c].concat(), b"abcde");
    }
}
