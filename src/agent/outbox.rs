//! What waits to be published: bounded in messages and bytes, and the only place that knows what is unacknowledged.
//!
//! Nothing here depends on the broker's session. A message stays until its PUBACK; after a reconnect it goes out again.

use super::topics::Route;
use crate::ipc::{Publication, Topic};
use crate::protocol::State;
use rumqttc::QoS;
use std::collections::VecDeque;

/// Most messages that wait, those in flight included.
pub const MAX_MESSAGES: usize = 256;
/// Most bytes of topics and payloads that wait.
pub const MAX_BYTES: usize = 512 * 1024;
/// Largest MQTT packet that we send.
pub const MAX_PACKET: usize = 64 * 1024;
/// Most statistics and log messages that wait: old ones are of little use.
const MAX_DISPOSABLE: usize = 32;
/// Most messages in flight. Small, so that a reconnect repeats little.
const WINDOW: usize = 8;
/// Packet identifiers above are the session's own, for subscriptions and presence.
pub const LAST_PKID: u16 = 0xff00;

/// How much a message is worth when there is no room. Lower ones give way first, the oldest of them first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Statistics, logs.
    Disposable,
    /// A step on the way: the terminal state says it all.
    Step,
    /// Answers to commands.
    Answer,
    /// Terminal states, and `held`, which stays for as long.
    Terminal,
    /// `reported` and `get`: at most one of each waits, and it never gives way.
    Latest,
}

/// What a publication is worth.
pub fn worth(publication: &Publication) -> Worth {
    match publication.topic {
        Topic::Reported | Topic::Get => Worth::Latest,
        Topic::Stats | Topic::Log(_) => Worth::Disposable,
        Topic::Res(_) => Worth::Answer,
        Topic::Ack(_) if is_step(&publication.payload) => Worth::Step,
        Topic::Ack(_) | Topic::Keyset => Worth::Terminal,
    }
}

/// True for an ack whose state others follow soon. Of a document that is held, its ack may be the only news for years.
fn is_step(ack: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Ack {
        state: State,
    }
    serde_json::from_slice(ack).is_ok_and(|ack: Ack| !ack.state.is_terminal() && ack.state != State::Held)
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The packet would have this many bytes. Once handed to a broker it would come back for ever: the connection breaks, and a reconnect sends it again.
    TooLarge(usize),
    /// All that waits is worth more.
    Full,
}

#[derive(Debug)]
struct Item {
    key: Topic,
    route: Route,
    worth: Worth,
    payload: Vec<u8>,
    pkid: Option<u16>,
    /// Handed to this connection.
    sent: bool,
    /// Handed to an earlier one that the broker still remembers.
    dup: bool,
}

impl Item {
    fn bytes(&self) -> usize {
        self.route.topic.len() + self.payload.len()
    }

    /// What is in flight stays: the broker may have it, and its identifier is in use.
    fn gives_way_to(&self, worth: Worth) -> bool {
        !self.sent && self.worth != Worth::Latest && self.worth <= worth
    }

    fn packet(&self) -> usize {
        packet_size(&self.route, self.payload.len())
    }
}

/// A message to hand to the connection now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Name, QoS, retain flag.
    pub route: Route,
    /// 0 at QoS 0.
    pub pkid: u16,
    /// Sent before under this packet identifier.
    pub dup: bool,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Outbox {
    items: VecDeque<Item>,
    bytes: usize,
    in_flight: heapless::Vec<u16, WINDOW>,
    last_pkid: u16,
    dropped: u64,
    answers: u64,
    /// Bytes of the largest packet that this broker takes, where that is known to be less than [`MAX_PACKET`].
    most: Option<usize>,
}

impl Outbox {
    /// The broker takes no packet of more than `most` bytes: larger ones are given up, and not taken any more.
    pub fn limit(&mut self, most: usize) {
        self.most = Some(most);
        while self.remove_first(|i| i.packet() > most) {
            self.dropped += 1;
        }
    }

    /// Takes a message, and lets others give way for it.
    pub fn push(&mut self, key: Topic, route: Route, worth: Worth, payload: Vec<u8>) -> Result<(), Refused> {
        let is_answer = matches!(key, Topic::Res(_));
        self.try_push(key, route, worth, payload).inspect_err(|_| {
            self.dropped += 1;
            self.answers += u64::from(is_answer);
        })
    }

    fn try_push(&mut self, key: Topic, route: Route, worth: Worth, payload: Vec<u8>) -> Result<(), Refused> {
        let size = packet_size(&route, payload.len());
        if size > self.most.unwrap_or(MAX_PACKET) {
            return Err(Refused::TooLarge(size));
        }
        if worth == Worth::Latest {
            self.remove_where(|i| i.key == key && !i.sent);
        }
        let item = Item { key, route, worth, payload, pkid: None, sent: false, dup: false };
        if !self.make_room(worth, item.bytes()) {
            return Err(Refused::Full);
        }
        self.bytes += item.bytes();
        self.items.push_back(item);
        Ok(())
    }

    /// The next message to send, marked as sent; at QoS 0 it is forgotten at once. `None` when nothing may go now.
    pub fn next(&mut self) -> Option<Outgoing> {
        let full = self.in_flight.is_full();
        let may_go = |i: &Item| !i.sent && (i.route.qos == QoS::AtMostOnce || !full);
        let index = self.items.iter().position(may_go)?;
        if self.items[index].route.qos == QoS::AtMostOnce {
            let Item { route, payload, .. } = self.remove(index)?;
            return Some(Outgoing { route, pkid: 0, dup: false, payload });
        }
        let pkid = self.items[index].pkid.unwrap_or_else(|| self.fresh_pkid());
        self.in_flight.push(pkid).ok()?;
        let item = &mut self.items[index];
        (item.pkid, item.sent) = (Some(pkid), true);
        Some(Outgoing { route: item.route.clone(), pkid, dup: item.dup, payload: item.payload.clone() })
    }

    /// The broker has it: the size of the packet. `None` for an identifier that is not in flight: some brokers acknowledge twice after a resumed
    /// session.
    pub fn acknowledged(&mut self, pkid: u16) -> Option<usize> {
        self.in_flight.retain(|p| *p != pkid);
        let index = self.items.iter().position(|i| i.pkid == Some(pkid))?;
        self.remove(index).map(|item| item.packet())
    }

    /// Sizes of the packets that the broker has not acknowledged.
    pub fn in_flight(&self) -> impl Iterator<Item = usize> {
        self.items.iter().filter(|i| i.sent).map(Item::packet)
    }

    /// A new connection stands: everything unacknowledged goes out again, under its old packet identifier if the broker kept the session
    /// (MQTT 3.1.1, section 4.4), and without what a newer one has replaced.
    pub fn reconnected(&mut self, session_present: bool) {
        self.in_flight.clear();
        for item in &mut self.items {
            item.dup = session_present && item.pkid.is_some();
            item.sent = false;
            if !session_present {
                item.pkid = None;
            }
        }
        for key in [Topic::Reported, Topic::Get] {
            while self.items.iter().filter(|i| i.key == key).count() > 1 {
                self.remove_first(|i| i.key == key);
            }
        }
    }

    /// Messages that wait or are in flight.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True when nothing waits and all is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Messages given up for lack of room or for their size.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Answers to commands that wait no more, however that came.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Whether there is room now. If all that may give way is not enough, nothing does.
    fn make_room(&mut self, worth: Worth, bytes: usize) -> bool {
        let movable = || self.items.iter().filter(|i| i.gives_way_to(worth));
        let staying = self.items.len() - movable().count();
        if staying >= MAX_MESSAGES || self.bytes - movable().map(Item::bytes).sum::<usize>() + bytes > MAX_BYTES {
            return false;
        }
        let disposable = self.items.iter().filter(|i| i.worth == Worth::Disposable).count();
        if worth == Worth::Disposable && disposable >= MAX_DISPOSABLE {
            self.give_way(worth);
        }
        while self.items.len() >= MAX_MESSAGES || self.bytes + bytes > MAX_BYTES {
            if !self.give_way(worth) {
                return false;
            }
        }
        true
    }

    /// Drops the oldest of the least worth.
    fn give_way(&mut self, worth: Worth) -> bool {
        let Some(least) = self.items.iter().filter(|i| i.gives_way_to(worth)).map(|i| i.worth).min() else { return false };
        self.dropped += 1;
        self.remove_first(|i| i.gives_way_to(worth) && i.worth == least)
    }

    fn fresh_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = if self.last_pkid >= LAST_PKID { 1 } else { self.last_pkid + 1 };
            if !self.items.iter().any(|i| i.pkid == Some(self.last_pkid)) {
                return self.last_pkid;
            }
        }
    }

    fn remove_first(&mut self, which: impl Fn(&Item) -> bool) -> bool {
        let index = self.items.iter().position(which);
        index.and_then(|index| self.remove(index)).is_some()
    }

    fn remove_where(&mut self, which: impl Fn(&Item) -> bool) {
        while self.remove_first(&which) {}
    }

    fn remove(&mut self, index: usize) -> Option<Item> {
        let item = self.items.remove(index)?;
        self.bytes -= item.bytes();
        self.answers += u64::from(matches!(item.key, Topic::Res(_)));
        Some(item)
    }
}

/// Bytes of the PUBLISH packet: type, remaining length (1 to 4 bytes), topic with its length, packet identifier, payload.
fn packet_size(route: &Route, payload: usize) -> usize {
    let pkid = if route.qos == QoS::AtMostOnce { 0 } else { 2 };
    let remaining = 2 + route.topic.len() + pkid + payload;
    let length_bytes = match remaining {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    };
    1 + length_bytes + remaining
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outbox: &mut Outbox, key: Topic, worth: Worth, payload: &[u8]) -> Result<(), Refused> {
        let qos = if worth == Worth::Disposable { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let route = Route { topic: format!("{key:?}"), qos, retain: key == Topic::Reported };
        outbox.push(key, route, worth, payload.to_vec())
    }

    fn ack(text: &str, worth: Worth) -> impl Fn(&mut Outbox) {
        let text = text.to_owned();
        move |outbox| push(outbox, Topic::Ack("web".parse().unwrap()), worth, text.as_bytes()).unwrap()
    }

    fn reported(text: &str) -> impl Fn(&mut Outbox) {
        let text = text.to_owned();
        move |outbox| push(outbox, Topic::Reported, Worth::Latest, text.as_bytes()).unwrap()
    }

    /// Sends all that may go; the payloads in order, with `!` behind repeated ones.
    fn drain(outbox: &mut Outbox) -> Vec<String> {
        let text = |o: Outgoing| format!("{}{}", String::from_utf8(o.payload).unwrap(), if o.dup { "!" } else { "" });
        std::iter::from_fn(|| outbox.next().map(text)).collect()
    }

    #[test]
    fn every_ack_is_kept_but_only_the_newest_report() {
        let mut outbox = Outbox::default();
        for step in [ack("a1", Worth::Step), ack("a2", Worth::Terminal)] {
            step(&mut outbox);
            reported("r1")(&mut outbox);
        }
        reported("r2")(&mut outbox);
        assert_eq!(drain(&mut outbox), ["a1", "a2", "r2"]);
        assert_eq!(outbox.dropped(), 0);
    }

    #[test]
    fn a_report_in_flight_is_not_repeated_once_a_newer_one_waits() {
        let mut outbox = Outbox::default();
        reported("r1")(&mut outbox);
        assert_eq!(drain(&mut outbox), ["r1"]);
        reported("r2")(&mut outbox);
        outbox.reconnected(true);
        assert_eq!(drain(&mut outbox), ["r2"]);
    }

    #[test]
    fn what_is_unacknowledged_goes_out_again_under_its_number_if_the_session_was_kept() {
        for session_present in [true, false] {
            let mut outbox = Outbox::default();
            for name in ["a", "b", "c"] {
                ack(name, Worth::Step)(&mut outbox);
            }
            let ids: Vec<u16> = std::iter::from_fn(|| outbox.next()).map(|o| o.pkid).collect();
            assert_eq!(ids, [1, 2, 3]);
            assert!(outbox.acknowledged(2).is_some(), "out of order is fine");
            outbox.reconnected(session_present);
            let again: Vec<Outgoing> = std::iter::from_fn(|| outbox.next()).collect();
            assert_eq!(again.iter().map(|o| o.payload[0]).collect::<Vec<_>>(), *b"ac");
            assert_eq!(again.iter().map(|o| o.pkid).collect::<Vec<_>>(), if session_present { vec![1, 3] } else { vec![4, 5] });
            assert!(again.iter().all(|o| o.dup == session_present));
        }
    }

    #[test]
    fn at_most_a_window_is_in_flight_and_statistics_pass_it() {
        let mut outbox = Outbox::default();
        for n in 0..12 {
            ack(&n.to_string(), Worth::Step)(&mut outbox);
        }
        push(&mut outbox, Topic::Stats, Worth::Disposable, b"s").unwrap();
        assert_eq!(drain(&mut outbox), ["0", "1", "2", "3", "4", "5", "6", "7", "s"]);
        assert!(outbox.acknowledged(3).is_some());
        assert_eq!(drain(&mut outbox), ["8"]);
    }

    #[test]
    fn a_packet_identifier_is_never_used_twice_at_a_time() {
        let mut outbox = Outbox { last_pkid: LAST_PKID - 2, ..Outbox::default() };
        for n in 0..300u32 {
            ack(&n.to_string(), Worth::Step)(&mut outbox);
            let sent = outbox.next().unwrap();
            assert!((1..=LAST_PKID).contains(&sent.pkid));
            if n >= 7 {
                // The very first one stays unacknowledged throughout.
                let oldest = outbox.items[1].pkid.unwrap();
                assert!(outbox.acknowledged(oldest).is_some());
            }
            let mut ids: Vec<_> = outbox.items.iter().map(|i| i.pkid).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), outbox.len());
        }
        assert_eq!(outbox.items[0].pkid, Some(LAST_PKID - 1));
    }

    #[test]
    fn an_unknown_acknowledgement_changes_nothing() {
        let mut outbox = Outbox::default();
        ack("a", Worth::Step)(&mut outbox);
        assert_eq!(outbox.acknowledged(1), None, "not sent yet");
        outbox.next().unwrap();
        assert!(outbox.acknowledged(1).is_some());
        assert_eq!(outbox.acknowledged(1), None, "a second time");
        assert!(outbox.is_empty());
    }

    #[test]
    fn when_full_the_least_worth_and_oldest_gives_way() {
        let mut outbox = Outbox::default();
        ack("t", Worth::Terminal)(&mut outbox);
        push(&mut outbox, Topic::Res("1".into()), Worth::Answer, b"answer").unwrap();
        reported("r")(&mut outbox);
        push(&mut outbox, Topic::Stats, Worth::Disposable, b"s").unwrap();
        while outbox.len() < MAX_MESSAGES {
            ack("step", Worth::Step)(&mut outbox);
        }
        for n in 1..=400 {
            ack(&format!("terminal {n}"), Worth::Terminal)(&mut outbox);
            assert_eq!(outbox.dropped(), n);
            assert_eq!(outbox.len(), MAX_MESSAGES);
        }
        let left: Vec<&[u8]> = outbox.items.iter().map(|i| &i.payload[..]).collect();
        assert_eq!(left[0], b"r", "the report never gives way");
        assert_eq!(left[255], b"terminal 400");
        assert_eq!(left[1], b"terminal 146", "the oldest terminal states went last");
        assert_eq!(push(&mut outbox, Topic::Stats, Worth::Disposable, b"s"), Err(Refused::Full));
        assert_eq!(outbox.dropped(), 401);
    }

    #[test]
    fn answers_are_counted_however_they_leave() {
        let mut outbox = Outbox::default();
        let answer = |outbox: &mut Outbox, size: usize| push(outbox, Topic::Res("1".into()), Worth::Answer, &vec![b'x'; size]);
        for size in [10, 10, 30 * 1024] {
            answer(&mut outbox, size).unwrap();
        }
        assert!(matches!(answer(&mut outbox, MAX_PACKET), Err(Refused::TooLarge(_))));
        assert_eq!(outbox.answers(), 1, "one was never taken");
        ack("a", Worth::Step)(&mut outbox);
        drain(&mut outbox);
        assert_eq!(outbox.answers(), 1, "what is in flight is not gone");
        for pkid in [1, 4, 1] {
            outbox.acknowledged(pkid);
        }
        assert_eq!(outbox.answers(), 2, "one is acknowledged");
        outbox.reconnected(true);
        assert_eq!(outbox.answers(), 2, "and goes out again");
        outbox.limit(20 * 1024);
        assert_eq!((outbox.answers(), outbox.len()), (3, 1), "this broker takes none so large");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut outbox = Outbox::default();
        let big = vec![b'x'; 60 * 1024];
        for n in 0..20 {
            push(&mut outbox, Topic::Res(n.to_string()), Worth::Answer, &big).unwrap();
            assert!(outbox.bytes <= MAX_BYTES);
        }
        assert_eq!((outbox.len(), outbox.dropped()), (8, 12));
        while outbox.next().is_some() {}
        assert_eq!(push(&mut outbox, Topic::Res("in flight stays".into()), Worth::Terminal, &big), Err(Refused::Full));
        for pkid in 1..=8 {
            outbox.acknowledged(pkid);
        }
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn an_ack_is_worth_what_its_state_says() {
        let table = [
            (&br#"{"wherry":1,"state":"fetching","boot":1}"#[..], Worth::Step),
            (br#"{"wherry":1,"state":"running"}"#, Worth::Terminal),
            (br#"{"state":"failed","reason":"exec"}"#, Worth::Terminal),
            (br#"{"state":"held","reason":"policy"}"#, Worth::Terminal),
            (br#"{"state":"sailing"}"#, Worth::Terminal),
            (b"", Worth::Terminal),
        ];
        for (payload, expected) in table {
            let publication = Publication { topic: Topic::Ack("web".parse().unwrap()), payload: payload.to_vec() };
            assert_eq!(worth(&publication), expected);
        }
    }

    #[test]
    fn old_statistics_give_way_long_before_the_queue_is_full() {
        let mut outbox = Outbox::default();
        for n in 0..40 {
            push(&mut outbox, Topic::Stats, Worth::Disposable, n.to_string().as_bytes()).unwrap();
        }
        let left = drain(&mut outbox);
        assert_eq!((left.len(), left[0].as_str(), outbox.dropped()), (32, "8", 8));
    }

    /// A small generator of numbers (xorshift): what fails can be repeated.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % n as u64) as usize
        }
    }

    const WORTHS: [Worth; 5] = [Worth::Disposable, Worth::Step, Worth::Answer, Worth::Terminal, Worth::Latest];

    /// What must be in the outbox, found the slow way: number, worth, bytes, in flight.
    #[derive(Default)]
    struct Model {
        waiting: Vec<(u64, Worth, usize, bool)>,
        dropped: u64,
    }

    impl Model {
        fn bytes(&self) -> usize {
            self.waiting.iter().map(|w| w.2).sum()
        }

        /// What gives way, if something can: the oldest of the least worth that is not in flight and not worth more.
        fn victim(&self, worth: Worth) -> Option<usize> {
            let may = |w: &(u64, Worth, usize, bool)| !w.3 && w.1 != Worth::Latest && w.1 <= worth;
            let least = self.waiting.iter().filter(|w| may(w)).map(|w| w.1).min()?;
            self.waiting.iter().position(|w| may(w) && w.1 == least)
        }

        fn push(&mut self, number: u64, worth: Worth, bytes: usize) {
            if worth == Worth::Latest {
                self.waiting.retain(|w| w.1 != Worth::Latest || w.3);
            }
            let before = self.waiting.clone();
            let disposable = self.waiting.iter().filter(|w| w.1 == Worth::Disposable).count();
            let mut too_many = worth == Worth::Disposable && disposable == MAX_DISPOSABLE;
            while too_many || self.waiting.len() == MAX_MESSAGES || self.bytes() + bytes > MAX_BYTES {
                let Some(victim) = self.victim(worth) else {
                    // Nothing is given up in vain.
                    (self.waiting, self.dropped) = (before, self.dropped + 1);
                    return;
                };
                self.waiting.remove(victim);
                too_many = false;
            }
            self.dropped += (before.len() - self.waiting.len()) as u64;
            self.waiting.push((number, worth, bytes, false));
        }
    }

    /// The number at the front of a payload.
    fn number(payload: &[u8]) -> u64 {
        u64::from_ne_bytes(payload[..8].try_into().unwrap())
    }

    #[test]
    fn it_never_outgrows_its_bounds_and_gives_up_the_right_ones_whatever_happens() {
        for seed in 1..=4 {
            let mut random = Numbers(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            let (mut outbox, mut model, mut in_flight) = (Outbox::default(), Model::default(), Vec::new());
            // By turns few and many, small and large messages, and a broker that is fast, slow, or away.
            let (mut rate, mut size, mut speed) = (1, 10, 1);
            for n in 0..2500_u64 {
                if n % 500 == 0 {
                    (rate, size, speed) = (1 + random.below(6), [10, 200, 5000, 60_000][random.below(4)], random.below(5));
                }
                for _ in 0..rate {
                    let worth = WORTHS[random.below(5)];
                    let mut payload = n.to_ne_bytes().to_vec();
                    payload.resize(8 + random.below(size), 0);
                    let key = if worth == Worth::Latest { Topic::Reported } else { Topic::Stats };
                    let bytes = format!("{key:?}").len() + payload.len();
                    model.push(n, worth, bytes);
                    let _ = push(&mut outbox, key, worth, &payload);
                }
                for _ in 0..speed {
                    let Some(out) = outbox.next() else { break };
                    let index = model
                        .waiting
                        .iter()
                        .position(|w| !w.3 && w.0 == number(&out.payload) && (out.pkid != 0) == (w.1 != Worth::Disposable));
                    let index = index.expect("what goes out was waiting");
                    if out.pkid == 0 {
                        model.waiting.remove(index);
                    } else {
                        model.waiting[index].3 = true;
                        in_flight.push(out.pkid);
                    }
                }
                match random.below(12) {
                    0 => {
                        in_flight.clear();
                        outbox.reconnected(random.below(2) == 0);
                        model.waiting.iter_mut().for_each(|w| w.3 = false);
                        let newest = model.waiting.iter().rposition(|w| w.1 == Worth::Latest);
                        let mut index = 0;
                        model.waiting.retain(|w| (w.1 != Worth::Latest || Some(index) == newest, index += 1).0);
                    }
                    // In any order, and sometimes one that nobody waits for.
                    1..=7 if !in_flight.is_empty() && speed > 0 => {
                        let pkid = in_flight.swap_remove(random.below(in_flight.len()));
                        let at = outbox.items.iter().position(|i| i.pkid == Some(pkid)).unwrap();
                        assert!(outbox.acknowledged(pkid).is_some());
                        model.waiting.remove(at);
                        assert_eq!(outbox.acknowledged(pkid), None);
                    }
                    _ => {}
                }
                let seen: Vec<_> = outbox.items.iter().map(|i| (number(&i.payload), i.worth, i.bytes(), i.sent)).collect();
                assert_eq!(seen, model.waiting, "seed {seed}, step {n}");
                assert_eq!((outbox.bytes, outbox.dropped()), (model.bytes(), model.dropped), "seed {seed}, step {n}");
                assert!(outbox.len() <= MAX_MESSAGES && outbox.bytes <= MAX_BYTES && outbox.in_flight().count() <= WINDOW);
                assert!(outbox.items.capacity() <= 2 * MAX_MESSAGES, "{}", outbox.items.capacity());
            }
            assert!(model.dropped > 1000, "it was full often: {}", model.dropped);
        }
    }

    /// A device that tells what it does, on a link that breaks all the time.
    #[test]
    fn a_day_on_a_flapping_link_loses_no_terminal_state_and_gathers_nothing() {
        use crate::agent::backoff::Backoff;
        use std::time::Duration;
        let mut random = Numbers(20_261_126);
        let (mut outbox, mut backoff) = (Outbox::default(), Backoff::default());
        let (mut connections, mut told, mut heard) = (0, 0, Vec::new());
        // Seconds until which the link is down, and then until which it stands.
        let (mut down_until, mut up_until) = (0, 0);
        for second in 0..86_400_u64 {
            push(&mut outbox, Topic::Stats, Worth::Disposable, &[0; 2000]).unwrap();
            if second % 20 == 0 {
                push(&mut outbox, Topic::Reported, Worth::Latest, &[0; 9000]).unwrap();
            }
            if second % 90 == 0 {
                ack(&format!("{told}"), Worth::Terminal)(&mut outbox);
                told += 1;
            }
            if second == down_until {
                (connections, up_until) = (connections + 1, second + [0, 1, 3, 100][random.below(4)]);
                outbox.reconnected(random.below(2) == 0);
            }
            if second >= down_until && second == up_until {
                let lasted = Duration::from_secs(second - down_until);
                down_until = second + 1 + backoff.after(lasted, random.below(u32::MAX as usize) as u32).as_secs();
            }
            for out in
                std::iter::from_fn(|| if (down_until..up_until).contains(&second) { outbox.next() } else { None }).collect::<Vec<_>>()
            {
                // One in three acknowledgements is cut off with the link.
                if out.pkid != 0 && random.below(3) > 0 {
                    assert!(outbox.acknowledged(out.pkid).is_some());
                    heard.push(String::from_utf8(out.payload).unwrap());
                }
            }
            assert!(outbox.len() <= MAX_MESSAGES && outbox.bytes <= MAX_BYTES);
            assert!(outbox.items.capacity() <= 2 * MAX_MESSAGES);
        }
        outbox.reconnected(true);
        while let Some(out) = outbox.next() {
            let _ = outbox.acknowledged(out.pkid);
            heard.push(String::from_utf8(out.payload).unwrap());
        }
        let missing: Vec<_> = (0..told).filter(|n| !heard.contains(&n.to_string())).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(outbox.is_empty() && outbox.bytes == 0);
        // At most one in five minutes where nothing lasts, far more where some connections do.
        assert!((300..20_000).contains(&connections), "{connections}");
    }

    #[test]
    fn a_packet_over_64_kib_is_refused_by_its_whole_size() {
        for (topic, qos, payload, fits) in [
            ("t", QoS::AtMostOnce, 65_536 - 4 - 3, true),
            ("t", QoS::AtMostOnce, 65_536 - 4 - 2, false),
            ("t", QoS::AtLeastOnce, 65_536 - 4 - 5, true),
            ("t", QoS::AtLeastOnce, 65_536 - 4 - 4, false),
            ("longer topic", QoS::AtLeastOnce, 65_536 - 4 - 5, false),
        ] {
            let mut outbox = Outbox::default();
            let route = Route { topic: topic.into(), qos, retain: false };
            let result = outbox.push(Topic::Get, route.clone(), Worth::Latest, vec![0; payload]);
            assert_eq!(result.is_ok(), fits, "{topic} {qos:?} {payload}: {result:?}");
            assert_eq!(outbox.dropped(), u64::from(!fits));
            let mut publish = rumqttc::Publish::new(topic, qos, vec![0; payload]);
            publish.pkid = 1;
            assert_eq!(packet_size(&route, payload), publish.size(), "our size is the codec's");
        }
    }
}
