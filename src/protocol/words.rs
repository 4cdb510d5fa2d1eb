//! The closed word lists of the wire contract.

use serde::{Deserialize, Serialize};

/// State of one sequence number of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum State {
    Received,
    Rejected,
    Held,
    Accepted,
    Fetching,
    Staged,
    Starting,
    Testing,
    Running,
    Failed,
    Removed,
    Superseded,
}

impl State {
    /// No other state follows for this sequence number and attempt.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Running | Self::Failed | Self::Rejected | Self::Removed | Self::Superseded)
    }
}

/// State of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum ContainerState {
    Waiting,
    Fetching,
    Created,
    Starting,
    Running,
    Paused,
    Stopping,
    Exited,
    Restarting,
    Failed,
}

/// How a container that has a health check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

/// Why something was rejected or failed. Closed: a new one is a change of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum Reason {
    Malformed,
    UnknownField,
    BadValue,
    Oversize,
    Unsupported,
    Unsigned,
    UnknownKey,
    BadSignature,
    OutOfScope,
    WrongTarget,
    Expired,
    Stale,
    Conflict,
    StaleSession,
    Policy,
    NoMemory,
    NoSpace,
    NoInodes,
    NoFeature,
    PortTaken,
    NicTaken,
    DeviceTaken,
    ImageMissing,
    Fetch,
    DigestMismatch,
    HostileArchive,
    Unpack,
    Launch,
    Exec,
    Health,
    CrashLoop,
    Timeout,
    Connectivity,
    Io,
    Internal,
}

macro_rules! wire_word {
    ($($t:ty),*) => {$(
        impl std::fmt::Display for $t {
            /// The word as it stands on the wire.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}

wire_word!(State, ContainerState, Health, Reason);
