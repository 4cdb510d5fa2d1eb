//! The decisions that the model asks: those that ship, or, to see whether the model would notice, one that is wrong.

use std::time::Duration;
use wherry::ipc::{Ack, Failure, Origin, Refusal};
use wherry::keeper::desired::{self, Entry, Incoming, Verdict, Version};
use wherry::keeper::lifecycle::{Action, Event, Life, Rules};
use wherry::keeper::plan::{self, Change, Ready};
use wherry::keeper::record::{self, Taken};
use wherry::keeper::store::Desired;
use wherry::keeper::trial::{self, Look, Part};
use wherry::keeper::work::{self, Elected, Next, Work};
use wherry::manifest::{Id, Name};
use wherry::protocol::State;

pub type Accept = fn(&mut Desired, Taken<'_>, &[Id]) -> (State, Option<Refusal>);
pub type Changes = fn(&[Ready], &[Ready]) -> Vec<(Name, Change)>;
pub type Conclude = fn(&mut Desired, &Name, &Origin, &Version, State, Option<Failure>) -> Option<Ack>;
pub type Fail = fn(&mut Desired, &Name, &Work, Failure, &dyn Fn(&Version) -> bool) -> (Option<Ack>, Next);

/// One function for each decision.
#[derive(Clone, Copy)]
pub struct Decisions {
    pub decide: fn(Option<&Entry>, Incoming) -> Verdict,
    pub accept: Accept,
    pub elect: fn(&mut Desired, &Name, &[Id]) -> Elected,
    pub revive: fn(&Desired, &Name, &[Id]) -> Option<Work>,
    pub fail: Fail,
    pub conclude: Conclude,
    pub look: fn(&[Part<'_>], bool, bool, Duration, Duration) -> Look,
    pub changes: Changes,
    pub life: fn(&mut Life, Event, &Rules, Duration) -> Option<Action>,
    /// A document is on record before anything is done for it.
    pub record_first: bool,
}

/// Those that ship.
pub const SHIPPED: Decisions = Decisions {
    decide: desired::decide,
    accept: record::accept,
    elect: work::elect,
    revive: work::revive,
    fail: |record, app, work, failure, is_whole| work::fail(record, app, work, failure, is_whole),
    conclude: record::conclude,
    look: trial::look,
    changes: plan::changes,
    life: Life::step,
    record_first: true,
};
