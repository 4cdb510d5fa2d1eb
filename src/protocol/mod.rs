//! The MQTT wire contract: payload types (JSON) and topics.

mod words;

pub use words::{ContainerState, Reason, State};
