//! The MQTT wire contract: payload types (JSON) and topics.

mod command;
mod payload;
mod stats;
pub mod topics;
mod words;

pub use command::{Command, EXEC_TIME, MAX_TIME_MS, StreamArgs, Verb, parse_command};
pub use payload::{
    About, Ack, Answer, AnswerKind, AppReport, ContainerReport, Detail, Entries, Further, Get, Have, KeysetAck, LastExit, MAX_FURTHER,
    Online, Output, Presence, Previous, Reported, Sha256, encode,
};
pub use stats::{Cpu, Device, Figures, Io, MAX_STATS, Memory, Net, Pids, Pressure, Pressures, Stats, stats};
pub use words::{ContainerState, Health, Reason, State};
