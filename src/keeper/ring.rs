//! The last output of a container, in RAM. Pure.

use crate::manifest::{Full, Log};
use std::collections::VecDeque;

/// Output that came within so long is found by one time.
const MARK_MS: u64 = 1000;
/// One time for each so many bytes of the ring, at most: a byte a second must not take more memory in times than in bytes.
const BYTES_PER_MARK: usize = 128;
/// Most times that are kept.
const MAX_MARKS: usize = 512;
/// A line longer than this may be shown without its beginning.
const MAX_LINE: usize = 16 * 1024;

/// A bounded run of bytes; each byte has a position that never changes.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    marks: VecDeque<Mark>,
    rule: Log,
    /// Bytes kept at most: what the rule says, or its share of the device's memory for output.
    size: usize,
    /// Position of the first byte kept.
    first: u64,
    /// Position up to which somebody has read.
    seen: u64,
    /// A line begins at `first`.
    whole: bool,
    /// Bytes from here on are still to be read by somebody who must get all of them.
    held: Option<u64>,
}

/// When the bytes from a position on came, in milliseconds since boot.
#[derive(Debug, Clone, Copy)]
struct Mark {
    position: u64,
    first_ms: u64,
    last_ms: u64,
}

/// What one read gives.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of one time.
    pub bytes: Vec<u8>,
    /// Position behind them.
    pub next: u64,
    /// How many before them are lost.
    pub lost: u64,
    /// When they came, in milliseconds since boot.
    pub at_ms: u64,
}

/// Bytes of a ring when all rings together want `wanted` and may have `budget`.
pub fn share(ring: u32, wanted: u64, budget: u64) -> usize {
    let ring = u64::from(ring);
    let share = if wanted <= budget { ring } else { (ring * budget / wanted).max(1) };
    usize::try_from(share).unwrap_or(usize::MAX)
}

impl Ring {
    /// An empty ring under `rule`. Memory is taken as output comes.
    pub fn new(rule: Log) -> Self {
        let size = rule.ring as usize;
        Self { bytes: VecDeque::new(), marks: VecDeque::new(), rule, size, first: 0, seen: 0, whole: true, held: None }
    }

    /// Another rule holds from now on.
    pub fn set_rule(&mut self, rule: Log) {
        self.rule = rule;
        self.set_size(self.rule.ring as usize);
    }

    /// Bytes that the rule asks for.
    pub fn wanted(&self) -> u32 {
        self.rule.ring
    }

    /// Bytes that it may have.
    pub fn size(&self) -> usize {
        self.size
    }

    /// It may have so many bytes from now on. Bytes that must not be lost stay until they are read.
    pub fn set_size(&mut self, size: usize) {
        self.size = size;
        self.give_way(self.bytes.len().saturating_sub(size).min(self.free()));
        self.bytes.shrink_to(size);
    }

    /// Somebody who reads on must get all bytes from this position on.
    pub fn hold(&mut self, from: Option<u64>) {
        self.held = from;
    }

    /// How many bytes may be added now.
    pub fn room(&self) -> usize {
        self.size.saturating_sub(self.bytes.len() - self.free())
    }

    /// How many bytes may give way: none that is unread with `block`, or that somebody must get.
    fn free(&self) -> usize {
        let kept = match self.rule.full {
            Full::Drop => self.held,
            Full::Block => Some(self.held.map_or(self.seen, |held| held.min(self.seen))),
        };
        kept.map_or(self.bytes.len(), |from| (from.clamp(self.first, self.end()) - self.first) as usize)
    }

    /// Adds output that came at `now_ms`; the oldest bytes give way. What is more than [`Ring::room`] goes beyond the size where none may.
    pub fn push(&mut self, bytes: &[u8], now_ms: u64) {
        if bytes.is_empty() {
            return;
        }
        self.mark(now_ms);
        let over = (self.bytes.len() + bytes.len()).saturating_sub(self.size);
        let of_old = over.min(self.free());
        // Its own beginning is lost as well, if nobody waits for what is before it.
        let of_new = if self.rule.full == Full::Drop && self.held.is_none() { over - of_old } else { 0 };
        self.give_way(of_old);
        let (lost, bytes) = bytes.split_at(of_new);
        if let Some(last) = lost.last() {
            self.first += lost.len() as u64;
            self.whole = *last == b'\n';
        }
        // Left to itself it would grow to twice the size.
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let capacity = (2 * needed).min(self.size.max(needed));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend(bytes);
    }

    fn give_way(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.whole = self.bytes.get(count - 1) == Some(&b'\n');
        self.bytes.drain(..count);
        self.first += count as u64;
        while self.marks.get(1).is_some_and(|next| next.position <= self.first) {
            self.marks.pop_front();
        }
    }

    fn mark(&mut self, now_ms: u64) {
        let position = self.end();
        match self.marks.back_mut() {
            Some(mark) if now_ms < mark.first_ms + MARK_MS => mark.last_ms = now_ms,
            _ => self.marks.push_back(Mark { position, first_ms: now_ms, last_ms: now_ms }),
        }
        if self.marks.len() > (self.size / BYTES_PER_MARK).clamp(16, MAX_MARKS) {
            let all: Vec<Mark> = self.marks.drain(..).collect();
            self.marks = all.chunks(2).map(|pair| Mark { last_ms: pair[pair.len() - 1].last_ms, ..pair[0] }).collect();
        }
    }

    /// Position behind the last byte.
    pub fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }

    /// Position of the first whole line, or of the first byte where there is none.
    pub fn start(&self) -> u64 {
        let ends = || self.bytes.iter().take(MAX_LINE).position(|b| *b == b'\n').filter(|i| i + 1 < self.bytes.len());
        let cut = if self.whole { None } else { ends() };
        self.first + cut.map_or(0, |i| i as u64 + 1)
    }

    /// Position from which `lines` lines are left to read.
    pub fn tail(&self, lines: Option<u32>) -> u64 {
        let Some(lines) = lines else { return self.start() };
        if lines == 0 {
            return self.end();
        }
        // What ends the last line begins no other.
        let body = self.bytes.len().saturating_sub(1);
        let begins = self.bytes.range(..body).rev().enumerate().filter(|(_, b)| **b == b'\n').nth(lines as usize - 1);
        begins.map_or(self.start(), |(back, _)| self.end() - 1 - back as u64)
    }

    /// Position of the first byte that may have come at `ms` or later.
    pub fn since(&self, ms: u64) -> u64 {
        let found = self.marks.iter().find(|mark| mark.last_ms >= ms);
        found.map_or(self.end(), |mark| mark.position.max(self.start()))
    }

    /// When the byte at this position came, if it is there.
    pub fn time(&self, position: u64) -> Option<u64> {
        let position = position.max(self.first);
        let behind = self.marks.partition_point(|mark| mark.position <= position);
        (position < self.end()).then(|| self.marks.get(behind.saturating_sub(1)).map_or(0, |mark| mark.first_ms))
    }

    /// At most `max` bytes from `position` on. After a loss it goes on with a whole line.
    pub fn read(&mut self, position: u64, max: usize) -> Piece {
        let from = if position < self.first { self.start() } else { position.min(self.end()) };
        let behind = self.marks.partition_point(|mark| mark.position <= from);
        let until = self.marks.get(behind).map_or(self.end(), |next| next.position).min(from + max as u64);
        let (start, end) = ((from - self.first) as usize, (until - self.first) as usize);
        let bytes: Vec<u8> = self.bytes.range(start..end).copied().collect();
        self.seen = self.seen.max(until);
        Piece { bytes, next: until, lost: from.saturating_sub(position), at_ms: self.time(from).unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Full, Log, Ring, share};

    fn ring(size: u32, full: Full) -> Ring {
        Ring::new(Log { ring: size, full, syslog: None })
    }

    fn text(ring: &mut Ring, position: u64, max: usize) -> (String, u64, u64) {
        let piece = ring.read(position, max);
        (String::from_utf8(piece.bytes).unwrap(), piece.next, piece.lost)
    }

    #[test]
    fn the_oldest_bytes_give_way_and_a_slow_reader_learns_how_many() {
        let mut r = ring(4, Full::Drop);
        r.push(b"abcdef", 0);
        assert_eq!(text(&mut r, 0, 99), ("cdef".into(), 6, 2));
        assert_eq!(text(&mut r, 6, 99), (String::new(), 6, 0));
        assert_eq!(r.room(), 4);
    }

    #[test]
    fn a_blocking_ring_has_no_room_until_somebody_reads() {
        let mut r = ring(4, Full::Block);
        assert_eq!(r.room(), 4);
        r.push(b"abc", 0);
        assert_eq!(r.room(), 1);
        r.read(0, 2);
        assert_eq!(r.room(), 3);
        r.push(b"def", 0);
        assert_eq!(text(&mut r, 2, 9), ("cdef".into(), 6, 0));
    }

    #[test]
    fn a_dropping_ring_has_no_room_while_somebody_must_get_all() {
        let mut r = ring(4, Full::Drop);
        r.push(b"abc", 0);
        for (held, room) in [(Some(0), 1), (Some(2), 3), (Some(3), 4), (None, 4)] {
            r.hold(held);
            assert_eq!(r.room(), room, "{held:?}");
        }
    }

    #[test]
    fn a_smaller_share_drops_what_may_be_lost_and_nothing_else() {
        let (mut dropping, mut blocking) = (ring(8, Full::Drop), ring(8, Full::Block));
        for r in [&mut dropping, &mut blocking] {
            r.push(b"abcdef", 0);
            r.read(0, 1);
            r.set_size(2);
        }
        assert_eq!((text(&mut dropping, 0, 9), dropping.room()), (("ef".into(), 6, 4), 2));
        assert_eq!((blocking.room(), text(&mut blocking, 1, 9)), (0, ("bcdef".into(), 6, 0)));
        for (ring, wanted, budget, bytes) in
            [(64, 100, 100, 64), (64, 200, 100, 32), (1, 1000, 10, 1), (u32::MAX, u64::MAX / 2, 1 << 22, 1)]
        {
            assert_eq!(share(ring, wanted, budget), bytes, "{ring} of {wanted} in {budget}");
        }
    }

    #[test]
    fn memory_never_exceeds_the_size() {
        for size in [100, 4096, 5000, 65536, 100_000] {
            let mut r = ring(size, Full::Drop);
            for n in 0..200 {
                r.push(&vec![b'x'; 1 + n * 37 % 9000], n as u64);
                assert!(r.bytes.len() <= size as usize && r.bytes.capacity() <= size as usize, "{size}: {}", r.bytes.capacity());
            }
        }
    }

    #[test]
    fn a_tail_counts_lines_as_people_do() {
        for (said, lines, tail) in [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n\n", 1, "\n"),
            ("\n", 1, "\n"),
            ("a\nb", 0, ""),
            ("", 3, ""),
            ("abc", 1, "abc"),
        ] {
            let mut r = ring(64, Full::Drop);
            r.push(said.as_bytes(), 0);
            let from = r.tail(Some(lines));
            assert_eq!(text(&mut r, from, 99).0, tail, "{lines} of {said:?}");
        }
    }

    #[test]
    fn a_reader_begins_with_a_whole_line_where_there_is_one() {
        for (pushes, shown) in [
            (&["one\ntwo\nthree\n"][..], "two\nthree\n"),
            (&["one\ntwo", "\nthree\n"], "two\nthree\n"),
            (&["x\nabcdefghi\n"], "abcdefghi\n"),
            (&["a very long line without end"], "ithout end"),
            (&["only its end fits\n"], " end fits\n"),
            (&["1234567890\n", "abcdefgh\n"], "abcdefgh\n"),
        ] {
            let mut r = ring(10, Full::Drop);
            pushes.iter().for_each(|p| r.push(p.as_bytes(), 0));
            let from = r.tail(None);
            assert_eq!(text(&mut r, from, 99).0, shown, "{pushes:?}");
        }
    }

    #[test]
    fn reads_are_bounded_and_go_on_where_they_ended() {
        let mut r = ring(8, Full::Drop);
        r.push(b"abcde", 0);
        let (a, next, _) = text(&mut r, 0, 2);
        let (b, next, _) = text(&mut r, next, 2);
        let (c, _, _) = text(&mut r, next, 2);
        assert_eq!([a, b, c].concat(), "abcde");
    }

    #[test]
    fn every_byte_is_found_by_the_second_in_which_it_came() {
        let mut r = ring(64, Full::Drop);
        for (said, ms) in [("a\n", 1000), ("b\n", 1900), ("c\n", 2000), ("d\n", 60_000)] {
            r.push(said.as_bytes(), ms);
        }
        for (since, position) in [(0, 0), (1900, 0), (1901, 4), (2000, 4), (2001, 6), (60_000, 6), (60_001, 8)] {
            assert_eq!(r.since(since), position, "{since}");
        }
        for (position, ms) in [(0, Some(1000)), (3, Some(1000)), (4, Some(2000)), (7, Some(60_000)), (8, None)] {
            assert_eq!(r.time(position), ms, "{position}");
        }
        let piece = r.read(0, 99);
        assert_eq!((piece.bytes.as_slice(), piece.at_ms), (&b"a\nb\n"[..], 1000), "a piece has one time");
    }

    #[test]
    fn times_are_bounded_and_stay_in_order() {
        let mut r = ring(65536, Full::Drop);
        for second in 0..10_000 {
            r.push(b"x\n", second * 1000);
            assert!(r.marks.len() <= 513);
        }
        assert!(r.marks.iter().zip(r.marks.iter().skip(1)).all(|(a, b)| a.position < b.position && a.last_ms <= b.first_ms));
        assert_eq!(r.since(9_999_000), 19_998, "the newest are exact");
    }
}
