//! What somebody sees who watches a device from outside, over all its crashes, and what must never be seen.

use crate::catalog::Document;
use wherry::manifest::Body;
use wherry::protocol::State;

/// Most documents in a catalog.
pub const MAX: usize = 16;

/// The memory of that somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The first thing that was wrong.
    pub fault: Option<String>,
    /// The highest sequence number that was accepted, by topic.
    pub promised: [Option<u64>; 3],
    /// Which end was told of a document: a bit for each document, in the order of [`ENDS`].
    pub ends: [u16; 4],
    /// Which attempt at a document that was.
    pub attempts: [u32; MAX],
    /// Which documents were accepted or held.
    pub taken: u16,
    /// The last version that was told to run, and nothing was removed or lifted since; by topic.
    pub good: [Option<usize>; 3],
    /// Keeper or the power was cut: an answer may be missing.
    pub cut: bool,
}

/// All ends but `rejected`: what was accepted once is rejected when it comes again after another.
pub const ENDS: [State; 4] = [State::Running, State::Failed, State::Removed, State::Superseded];

impl Ghost {
    pub fn wrong(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    /// A document is about to be accepted.
    pub fn accepts(&mut self, document: &Document, index: usize) {
        if let (Some(seq), Some(mark)) = (document.manifest.seq, self.promised[document.topic])
            && seq <= mark
        {
            self.wrong(format!("{} is accepted after number {mark} was", document.name));
        }
        if document.manifest.seq.is_none() {
            self.forget_ends(index, 1);
        }
    }

    fn forget_ends(&mut self, index: usize, attempt: u32) {
        self.attempts[index] = attempt;
        for end in &mut self.ends {
            *end &= !(1 << index);
        }
    }

    /// What is on flash when keeper starts: an answer may not have come to be told.
    pub fn found(&mut self, topic: usize, state: State) {
        self.good[topic] = self.good[topic].filter(|_| state != State::Removed);
    }

    /// An answer was published.
    pub fn told(&mut self, document: &Document, index: usize, (state, attempt): (State, u32)) {
        let Document { name, topic, .. } = *document;
        self.promised[topic] = self.promised[topic].max(document.manifest.seq);
        self.taken |= 1 << index;
        if attempt > self.attempts[index] {
            self.forget_ends(index, attempt);
        }
        let last = self.end_of(index);
        let before = last.filter(|last| *last != state);
        let Some(end) = ENDS.iter().position(|end| *end == state) else {
            if let Some(before) = before {
                self.wrong(format!("{name} is told {state} after it was {before}"));
            }
            return;
        };
        if let Some(before) = before {
            self.wrong(format!("{name} is told {state}, and was {before} before"));
        }
        self.ends[end] |= 1 << index;
        match state {
            State::Running if matches!(document.manifest.body, Body::Run(_)) => self.good[topic] = Some(index),
            State::Running => self.wrong(format!("{name}, which has no container, is told to run")),
            State::Removed => self.good[topic] = None,
            _ => {}
        }
    }

    /// Which end was told of it.
    pub fn end_of(&self, index: usize) -> Option<State> {
        ENDS.iter().zip(self.ends).find(|(_, mask)| mask & 1 << index != 0).map(|(state, _)| *state)
    }
}
