//! All messages between our processes. Append only: postcard numbers variants and fields by their order.
//!
//! | link | messages |
//! |---|---|
//! | agent → keeper, keeper → agent | [`FromAgent`], [`ToAgent`] |
//! | command line → keeper and back | [`Request`], [`Reply`] |
//! | keeper → stage and back | [`StageJob`], [`FromStage`] |
//! | keeper → launch and pid 1, and back | [`ToLaunch`], [`FromLaunch`] |

use crate::cgroup::Layout;
use crate::container::{Spec, Wiring};
use crate::image::{Digest, Record, Reference, Url};
use crate::manifest::{Id, Name};
use crate::protocol::{Reason, State};
use crate::stats::Sample;
use crate::sys::process::Ended;
use serde::{Deserialize, Serialize};

// ---- agent ----

/// Agent to keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// First message; answered by [`ToAgent::Configure`].
    Hello {
        /// The program's version.
        version: String,
    },
    /// Exact bytes that arrived on a desired-state topic.
    Desired {
        /// Device or group topic.
        origin: Origin,
        /// The app named in the topic.
        app: Name,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Exact bytes that arrived on `in/cmd/<id>`.
    Command {
        /// Last level of the topic.
        id: String,
        /// The MQTT retain flag: such a command is refused.
        retained: bool,
        /// The payload.
        payload: Vec<u8>,
    },
    /// How the link is now; keeper shows it in `status`.
    Link(Link),
    /// A message too large to take (32 KiB) arrived on a desired-state topic; keeper answers with `rejected: oversize`.
    Oversize {
        /// Device or group topic.
        origin: Origin,
        /// The app named in the topic.
        app: Name,
        /// Bytes that arrived.
        bytes: u64,
    },
    /// How a download goes.
    Download {
        /// Which.
        id: u64,
        /// How.
        transfer: Transfer,
    },
    /// Exact bytes that arrived on a topic for keysets.
    Keyset {
        /// Device or group topic.
        origin: Origin,
        /// The payload.
        payload: Vec<u8>,
    },
    /// So many publications on [`Topic::Res`] wait no more, counted since the agent started: the broker has them, or they were given up.
    Answers(u64),
}

/// Keeper to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToAgent {
    /// The agent's whole configuration. Descriptors that come along, in this order and only if the flag says so: CA file, client certificate, client key.
    Configure(AgentSettings),
    /// Publish this.
    Publish(Publication),
    /// Publish `offline` and disconnect; keeper ends.
    Goodbye,
    /// Download a file into the pipe whose writing end comes along. Answers: [`FromAgent::Download`].
    Download(DownloadJob),
    /// Nobody wants the download of this number any more.
    Abandon(u64),
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadJob {
    /// Which download; for the answers.
    pub id: u64,
    /// Where it is.
    pub wish: Wish,
    /// Seconds after which it is given up.
    pub timeout_s: u32,
}

/// What stage wants from the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Where it is.
    pub url: Url,
    /// Its length in bytes, if the manifest promises one.
    pub size: Option<u64>,
    /// Most bytes that are taken.
    pub max: u64,
}

/// How a download goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// The server says how many bytes there are.
    Total(u64),
    /// A connection was lost or refused, and it is tried again: the sentence.
    Again(String),
    /// All bytes are in the pipe, so many.
    Done(u64),
    /// It is given up: the sentence.
    Failed(String),
}

/// Which desired-state topic (or command line) a document came by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// `…/d/<device>/in/desired/<app>`
    Device,
    /// `…/g/<group>/desired/<app>`
    Group(Id),
    /// The local command line.
    Local,
}

impl std::fmt::Display for Origin {
    /// For people and `--json`: `device`, `group:NAME` or `local`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device => f.write_str("device"),
            Self::Group(id) => write!(f, "group:{id}"),
            Self::Local => f.write_str("local"),
        }
    }
}

/// What the agent needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSettings {
    /// This device.
    pub device: Id,
    /// The fleet, which is the first level of every topic.
    pub root: String,
    /// Groups it belongs to, in order of precedence.
    pub groups: Vec<Id>,
    /// Tried in order.
    pub brokers: Vec<Broker>,
    /// Keeper's count of fresh starts.
    pub boot: u64,
    /// Seconds between statistics, told in presence.
    pub interval_s: u32,
    /// Numeric user and group to become; `None` in an unprivileged test.
    pub uid: Option<u32>,
    /// [`Link::conn`] as last reported since that fresh start: an agent that is started again must not number its connections from 1 again.
    pub conn: u64,
    /// For downloads. Its descriptors come behind those of the brokers, in the same order.
    pub fetch: FetchSettings,
}

/// How files are downloaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchSettings {
    /// A CA file comes along as a descriptor.
    pub ca: bool,
    /// A client certificate and its key come along as descriptors.
    pub client_certificate: bool,
    /// Everything goes through it.
    pub proxy: Option<Proxy>,
}

/// An HTTP proxy (RFC 9110 section 3.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// DNS name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password.
    pub credentials: Option<(String, String)>,
}

/// One broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// DNS name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS, or plain TCP.
    pub tls: bool,
    /// MQTT user name and password.
    pub credentials: Option<(String, String)>,
    /// A CA file comes along as a descriptor.
    pub ca: bool,
    /// A client certificate and its key come along as descriptors.
    pub client_certificate: bool,
    /// Seconds between pings.
    pub keep_alive_s: u16,
    /// It takes messages to be retained.
    pub retained: bool,
}

/// One MQTT message to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Where.
    pub topic: Topic,
    /// The payload, at most 64 KiB with the topic.
    pub payload: Vec<u8>,
}

/// Below `…/d/<device>/out/`; QoS and retain follow from it (see `agent::topics`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Topic {
    /// `reported`: only the newest counts.
    Reported,
    /// `ack/<app>`: every one counts.
    Ack(Name),
    /// `get`: only the newest counts.
    Get,
    /// `stats`: the oldest give way.
    Stats,
    /// `log/<container>`: the oldest give way.
    Log(String),
    /// `res/<id>`: every one counts.
    Res(String),
    /// `keyset`: every one counts.
    Keyset,
}

/// How the link to the broker is: the answer to "why is it not online".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where in connecting it is.
    pub state: LinkState,
    /// `host:port` tried or in use.
    pub broker: String,
    /// The address the name resolved to, as far as known.
    pub address: Option<String>,
    /// The last error, a whole sentence (`TLS: certificate has expired`, `connection refused` …).
    pub error: Option<String>,
    /// Subscriptions with the broker's answer: granted QoS, or refused.
    pub subscriptions: Vec<(String, Option<u8>)>,
    /// Seconds since boot at which the last message came in.
    pub last_in_s: Option<u64>,
    /// Seconds since boot at which the last message was acknowledged by the broker.
    pub last_out_s: Option<u64>,
    /// Messages waiting in the outbox.
    pub queued: u32,
    /// Messages given up because the outbox was full.
    pub dropped: u64,
    /// Connections since keeper's fresh start.
    pub conn: u64,
    /// Seconds until the next attempt.
    pub retry_s: Option<u32>,
}

/// Where in connecting the agent is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No broker in the settings.
    #[default]
    Unconfigured,
    /// Resolving, TCP, TLS or CONNECT.
    Connecting,
    /// CONNACK and all SUBACKs are there.
    Online,
    /// Waiting to try again.
    Waiting,
    /// The agent is not running.
    Down,
}

// ---- local command line ----

/// Command line to keeper. Who may ask which, in which state, and why it is safe: `keeper::requests`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Which version keeper is. Answer: `Version`.
    Version,
    /// Apply a manifest or tombstone. Answers: `Ack` each time the state moves, `Done` after the terminal one.
    Apply {
        /// The document.
        payload: Vec<u8>,
    },
    /// Remove a locally applied app. Answers as for `Apply`.
    Remove {
        /// Which.
        app: Name,
        /// Volumes too.
        volumes: bool,
    },
    /// All apps and containers. Answer: `Apps`.
    List,
    /// Start, by hand. Answer: `Done`.
    Start(Scope),
    /// Stop, by hand; holds until the next sequence number or a start by hand. `Done` when stopped.
    Stop(Scope),
    /// Stop and start. `Done` when running again.
    Restart(Scope),
    /// Output of containers. Answers: `Log` …, `Done`.
    Logs {
        /// Which.
        of: Scope,
        /// Stay until the containers end.
        follow: bool,
        /// At most so many of the last lines of each; all if absent.
        tail: Option<u32>,
        /// Only what came at this time or later, in milliseconds since boot.
        since_ms: u64,
        /// All of it, also if a container has to wait for us to read.
        whole: bool,
    },
    /// Run a program in a container. Descriptors 0, 1, 2 come along; with a terminal, they are ignored and its master comes back.
    /// Answers: `Terminal` (with a descriptor) if asked, then `Exited`; or `Done` once it runs, if it is to run detached.
    Exec(ExecArgs),
    /// One statistics round. Answer: `Stats`.
    Stats,
    /// The device and its link. Answer: `Status`.
    Status,
    /// The container's end. Answer: `Exited` once it is neither running nor to be restarted.
    Wait(Scope),
    /// Take over the program now on disk, in place. Answer: `Done` before the exec.
    Upgrade,
    /// Full description of an app (settings in force). Answer: `Text` (JSON).
    Info {
        /// Which.
        app: Name,
    },
    /// What happened, and with `follow` what happens. Answers: `Events` …, `Done`.
    Events {
        /// Only of this app.
        app: Option<Name>,
        /// Only what is not older (milliseconds since boot).
        since_ms: u64,
        /// Stay.
        follow: bool,
    },
    /// Copy from or to a container. Descriptors 0, 1, 2 come along: the stream in, the stream out, remarks. Answer: `Exited`.
    Copy {
        /// Where.
        scope: Scope,
        /// What.
        what: Copying,
    },
    /// Keeper's part of the support bundle. Answers: `Text` (pieces of one JSON document) …, `Done`.
    Diag,
    /// Output of a container from now on, or all of it, and its input. Answers: `Attached`, `Log` …, and `Exited` at the end of its run.
    Attach {
        /// Which container.
        of: Scope,
        /// Its output from the beginning.
        replay: bool,
    },
    /// Attached: for its standard input, at most [`crate::container::console::MAX_DATA`] bytes. No answer.
    Input(Vec<u8>),
    /// Attached: no more input comes from here. No answer.
    InputEnd,
    /// Attached: rows and columns of the terminal. No answer.
    Resize(u16, u16),
    /// The program of this exec runs on without us. Its terminal's master comes along if it has one. Answer: `Done`.
    Detach,
    /// Keep these apps as they are, whatever the fleet publishes. Answer: `Done`.
    Hold(Vec<Name>),
    /// Let these apps go on. Answer: `Done`.
    Unhold(Vec<Name>),
}

/// An app, or one container of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The app.
    pub app: Name,
    /// One container; absent: all, or the only one.
    pub container: Option<Name>,
}

/// A program to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecArgs {
    /// Where.
    pub scope: Scope,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// On top of the container's environment, `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`; the container's if absent.
    pub user: Option<String>,
    /// Working directory; the container's if absent.
    pub workdir: Option<String>,
    /// A new terminal of this many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// It runs on when the connection ends.
    pub detach: bool,
}

/// A copy, as the process in the container does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// Absolute path in the container.
    pub path: String,
    /// Which way.
    pub way: Way,
}

/// Which way a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Out of the container.
    Out,
    /// Into it: one file or tree.
    In {
        /// What is in the source is meant.
        merge: bool,
        /// Owners are kept.
        owners: bool,
    },
    /// Into it: every entry of an archive, below a directory.
    Stream {
        /// Owners are kept.
        owners: bool,
    },
}

/// Keeper to command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The request is done.
    Done,
    /// It failed.
    Error(Failure),
    /// Keeper's version, process id, boot count, and seconds since it started fresh.
    Version {
        /// Release.
        version: String,
        /// Process id.
        pid: u32,
        /// Fresh starts.
        boot: u64,
    },
    /// A step of an app.
    Ack(Ack),
    /// All apps.
    Apps(Vec<AppRow>),
    /// Output.
    Log(LogChunk),
    /// The terminal's master comes along.
    Terminal,
    /// How it ended.
    Exited(Ended),
    /// Statistics.
    Stats {
        /// The device.
        device: DeviceSample,
        /// Each running container.
        rows: Vec<StatsRow>,
    },
    /// The device and its link.
    Status(Box<StatusReport>),
    /// A JSON document.
    Text(String),
    /// Things that happened.
    Events {
        /// In their order.
        rows: Vec<Happening>,
        /// How many before these were lost.
        lost: u64,
    },
    /// Attached: what the container has.
    Attached {
        /// A terminal.
        terminal: bool,
        /// Open standard input.
        stdin: bool,
    },
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Counted from keeper's start.
    pub number: u64,
    /// Milliseconds since boot.
    pub at_ms: u64,
    /// To which app, if it is one's.
    pub app: Option<Name>,
    /// To which of its containers.
    pub container: Option<Name>,
    /// What.
    pub what: What,
    /// How it ended, of [`What::Exited`], if somebody saw it.
    pub ended: Option<Ended>,
    /// More for people; may be empty.
    pub detail: String,
}

impl Happening {
    /// One that is nobody's, now.
    pub fn new(what: What, detail: String) -> Self {
        Self { number: 0, at_ms: 0, app: None, container: None, what, ended: None, detail }
    }
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Keeper started.
    Keeper,
    /// The link to the broker is up, or no longer.
    Link,
    /// The agent ended.
    Agent,
    /// A document of an app came to a state.
    App,
    /// An image is in the store, or cannot be.
    Image,
    /// A container was found running by a new keeper.
    Adopted,
    /// A container's program was started.
    Started,
    /// A container is asked to stop.
    Stopping,
    /// A container ended.
    Exited,
    /// A container is started again after a delay.
    Restarting,
    /// A container could not be started.
    Failed,
    /// The kernel killed a process of a container for lack of memory.
    Oom,
    /// A container's health check says otherwise than before.
    Health,
}

impl std::fmt::Display for What {
    /// The word of `--json`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// Why a request failed: the sentence for the person, the reason for the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// From the closed list.
    pub reason: Reason,
    /// Verb, object, cause, and a hint where we know one.
    pub message: String,
}

/// A step of an app, as in the MQTT `ack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The app.
    pub app: Name,
    /// Its sequence number, if it has one.
    pub seq: Option<u64>,
    /// Hash of the payload.
    pub sha256: Digest,
    /// 1, and one more for each `retry`.
    pub attempt: u32,
    /// Where it is.
    pub state: State,
    /// Why, for `rejected` and `failed`; all further reasons behind the first. For `fetching`: what holds it up.
    pub refusals: Vec<Refusal>,
    /// For `failed`: what runs again, or still, by sequence number (if it has one) and hash.
    pub rolled_back_to: Option<(Option<u64>, Digest)>,
    /// Bytes so far and in all, while fetching.
    pub progress: Option<Download>,
}

impl Ack {
    /// The first reason, for `rejected` and `failed`.
    pub fn reason(&self) -> Option<Reason> {
        self.refusals.first().map(|r| r.reason)
    }

    /// The sentence to it.
    pub fn message(&self) -> Option<&str> {
        self.refusals.first().map(|r| r.message.as_str())
    }
}

/// One reason for a refusal or failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// From the closed list.
    pub reason: Reason,
    /// Where in the document; empty if it is not about one place.
    pub path: String,
    /// The sentence.
    pub message: String,
}

impl From<Failure> for Refusal {
    fn from(f: Failure) -> Self {
        Self { reason: f.reason, path: String::new(), message: f.message }
    }
}

/// Progress of bringing an image in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// So far.
    pub bytes: u64,
    /// In all, if known.
    pub total: Option<u64>,
}

/// One app in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRow {
    /// The app.
    pub app: Name,
    /// Who wants it.
    pub origin: Origin,
    /// Sequence number, if it has one.
    pub seq: Option<u64>,
    /// Hash of the manifest in force.
    pub sha256: Digest,
    /// State of the sequence number.
    pub state: State,
    /// Stopped or started by hand.
    pub overridden: bool,
    /// Kept as it is by hand.
    pub hold: bool,
    /// Its containers.
    pub containers: Vec<ContainerRow>,
}

/// One container in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    /// Its name.
    pub name: Name,
    /// `waiting fetching created starting running paused stopping exited restarting failed`.
    pub state: crate::protocol::ContainerState,
    /// Process id of its pid 1 on the device.
    pub pid: Option<u32>,
    /// Seconds since it started.
    pub uptime_s: Option<u64>,
    /// Restarts since the manifest came.
    pub restarts: u32,
    /// The image.
    pub image: String,
    /// What the image resolved to.
    pub digest: Option<Digest>,
    /// How it ended last.
    pub last_exit: Option<Ended>,
    /// Limits the kernel cannot enforce, with why.
    pub missing: Vec<(String, String)>,
    /// The sentence of its last failure.
    pub error: Option<String>,
    /// How it is, if it runs and has a health check.
    pub health: Option<crate::protocol::Health>,
}

/// Output of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// Whose.
    pub container: Name,
    /// Raw bytes, standard output and error as they came.
    pub bytes: Vec<u8>,
    /// Bytes that gave way before these.
    pub lost: u64,
    /// When these came, to the second, in milliseconds since boot.
    pub at_ms: u64,
}

/// Statistics of one container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsRow {
    /// The app.
    pub app: Name,
    /// The container.
    pub container: Name,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The reading.
    pub sample: Sample,
}

/// What the device itself reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSample {
    /// `MemAvailable`, bytes.
    pub mem_available: Option<u64>,
    /// Load average of the last minute.
    pub load1: Option<f32>,
    /// Bytes written to the block device below the data directory since boot.
    pub flash_written: Option<u64>,
    /// Proportional memory of keeper and agent, bytes.
    pub agent_pss: Option<u64>,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// Why a figure is missing.
    pub absent: Vec<(String, String)>,
}

/// The answer to `wherry status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Release.
    pub version: String,
    /// This device.
    pub device: Id,
    /// Root topic.
    pub root: String,
    /// Fresh starts.
    pub boot: u64,
    /// Seconds since boot now, to which the link's times refer.
    pub uptime_s: u64,
    /// Keeper's process id.
    pub pid: u32,
    /// The agent's process id.
    pub agent_pid: Option<u32>,
    /// Times the agent was started again.
    pub agent_restarts: u32,
    /// The link.
    pub link: Link,
    /// `v1`, `v2` or `hybrid`, with the controllers in use.
    pub cgroup: String,
    /// Apps running and in all.
    pub apps: (u32, u32),
    /// Why the desired state in memory is not on flash yet.
    pub unsaved: Option<String>,
    /// By whom documents from the network must be signed.
    pub trust: TrustReport,
    /// Apps on hold.
    pub holds: Vec<Name>,
}

/// Whose signatures count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustReport {
    /// What is unsigned is refused.
    pub required: bool,
    /// All keys in force.
    pub keys: Vec<TrustedKey>,
    /// What is wrong with the key files.
    pub trouble: Vec<String>,
}

/// One trusted key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// Its number.
    pub id: String,
    /// It may sign keysets.
    pub root: bool,
    /// Its file, or by which keyset it came.
    pub from: String,
}

// ---- stage ----

/// Keeper to stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStage {
    /// Bring one image into the store.
    Pull(StageJob),
    /// Remove every image and layer that none of `keep` needs, and all that was left half done. No answer.
    Collect {
        /// The data directory.
        data: String,
        /// Images that stay.
        keep: Vec<Digest>,
    },
    /// The download that [`FromStage::Wish`] asked for has ended: so many bytes, or why not.
    Downloaded(Result<u64, Failure>),
}

/// One image to bring into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageJob {
    /// The image.
    pub reference: Reference,
    /// What it must be.
    pub digest: Option<Digest>,
    /// Length in bytes of the file that is downloaded, if the manifest promises one.
    pub size: Option<u64>,
    /// The data directory (`layers/`, `images/`, `staging/` below it).
    pub data: String,
    /// Most bytes that unpacking may write.
    pub max_bytes: u64,
    /// Most files, directories and links that unpacking may make.
    pub max_inodes: u64,
    /// Seconds after which the whole job is given up.
    pub timeout_s: u32,
    /// Numeric user of `hash`.
    pub hash_uid: u32,
    /// Directories that the image must be in, all links followed; `None` for a document applied locally, which may name any path.
    pub allowed: Option<Vec<String>>,
}

/// Stage to keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromStage {
    /// Compressed bytes so far.
    Progress(Download),
    /// The image is in the store.
    Ready(Record),
    /// It is not; nothing of it was left behind.
    Failed(Failure),
    /// Download this into the pipe whose writing end comes along.
    Wish(Wish),
}

// ---- launch ----

/// Keeper to launch, and to pid 1 after it, over one socket that both inherit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLaunch {
    /// Start a container. Descriptors that come along: the log FIFO (read-write), the exit record's file (read-write), and for one with a console
    /// the input FIFO (read-write).
    Start {
        /// What it is.
        spec: Box<Spec>,
        /// Where its host side is.
        wiring: Box<Wiring>,
    },
    /// Run a program in a running container. Descriptors that come along: standard input, output, error, unless a terminal is asked for.
    Exec(Box<ExecJob>),
    /// To pid 1: its pid is on record, go on. End of file instead means: exit.
    Go,
    /// Copy from or to a running container, by a process of ours in it. Descriptors as for `Exec`.
    Copy {
        /// As for a program, which this stands for.
        job: Box<ExecJob>,
        /// What.
        what: Copying,
    },
    /// Look for a path in a running container, by a process of ours in it, which ends with 0 if something is there. Descriptors as for `Exec`.
    Look {
        /// As for a program, which this stands for.
        job: Box<ExecJob>,
        /// Absolute path in the container.
        path: String,
    },
}

/// What launch needs to join a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecJob {
    /// The container's pid 1, in keeper's pid namespace.
    pub pid: i32,
    /// The container as it was started.
    pub spec: Spec,
    /// The cgroup hierarchies.
    pub layout: Layout,
    /// The container's group.
    pub group: String,
    /// What to run.
    pub args: ExecArgs,
}

/// Launch and pid 1 to keeper. After `Go`, end of file on the socket without `Failed` means that the payload was exec'd: every
/// copy of the socket is close-on-exec, and pid 1 drops its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromLaunch {
    /// Pid 1 (or the exec'd program) exists, is keeper's child, and waits for `Go`; its pidfd comes along, then the terminal's master if one was asked for.
    Cloned {
        /// In keeper's pid namespace.
        pid: i32,
        /// Limits that this kernel cannot enforce, with why.
        missing: Vec<(String, String)>,
    },
    /// A step failed; the process is gone or about to go.
    Failed(Failure),
}
