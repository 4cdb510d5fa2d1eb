//! Frames between our own processes: bounded, versioned, one packet each.

mod frame;
mod messages;

pub use frame::{Conn, FrameError, MAX_FRAME, VERSION, decode, encode};
pub use messages::{
    Ack, AgentSettings, AppRow, Broker, ContainerRow, Copying, DeviceSample, Download, DownloadJob, ExecArgs, ExecJob, Failure,
    FetchSettings, FromAgent, FromLaunch, FromStage, Happening, Link, LinkState, LogChunk, Origin, Proxy, Publication, Refusal, Reply,
    Request, Scope, StageJob, StatsRow, StatusReport, ToAgent, ToLaunch, ToStage, Topic, Transfer, TrustReport, TrustedKey, Way, What,
    Wish,
};
