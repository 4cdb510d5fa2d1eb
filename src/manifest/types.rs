//! The checked manifest: types that cannot be wrong.
//!
//! Made by [`super::parse`] alone; everything behind it relies on these values without asking again.

use super::health::Check;
use crate::image::{Digest, Reference};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Name of an app or container: a DNS label of 1 to 32 characters (RFC 1123, section 2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(heapless::String<32>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let edges = !s.starts_with('-') && !s.ends_with('-');
        match heapless::String::try_from(s) {
            Ok(name) if !s.is_empty() && edges && s.bytes().all(inner) => Ok(Self(name)),
            _ => Err("must be 1 to 32 of a-z, 0-9 and '-', with no '-' at either end".into()),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Name> for String {
    fn from(n: Name) -> Self {
        n.0.as_str().to_owned()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Device or group id: 1 to 64 of `A-Za-z0-9_.-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(heapless::String<64>);

impl Id {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Id {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
        match heapless::String::try_from(s) {
            Ok(id) if !s.is_empty() && s.bytes().all(good) => Ok(Self(id)),
            _ => Err("must be 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-'".into()),
        }
    }
}

impl TryFrom<String> for Id {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Id> for String {
    fn from(n: Id) -> Self {
        n.0.as_str().to_owned()
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a manifest is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whom {
    /// One device.
    Device(Id),
    /// All members of a group.
    Group(Id),
}

/// `target` of a manifest: the fleet (root topic) and whom in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The fleet, which is the root topic.
    pub fleet: String,
    /// The device or group.
    pub whom: Whom,
}

// One object for people (JSON), two fields for our own frames and records: postcard cannot flatten.
impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if !s.is_human_readable() {
            return (&self.fleet, &self.whom).serialize(s);
        }
        let (name, id) = match &self.whom {
            Whom::Device(id) => ("device", id),
            Whom::Group(id) => ("group", id),
        };
        s.collect_map([("fleet", self.fleet.as_str()), (name, id.as_str())])
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text {
            fleet: String,
            device: Option<Id>,
            group: Option<Id>,
        }
        if !d.is_human_readable() {
            return <(String, Whom)>::deserialize(d).map(|(fleet, whom)| Self { fleet, whom });
        }
        let Text { fleet, device, group } = Text::deserialize(d)?;
        let whom = match (device, group) {
            (Some(id), None) => Whom::Device(id),
            (None, Some(id)) => Whom::Group(id),
            _ => return Err(serde::de::Error::custom("a target has either `device` or `group`")),
        };
        Ok(Self { fleet, whom })
    }
}

/// One desired-state document, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The app it speaks of.
    pub app: Name,
    /// Sequence number; absent only in unsigned mode.
    pub seq: Option<u64>,
    /// Whom it is for; absent only in unsigned mode.
    pub target: Option<Target>,
    /// When it expires, in milliseconds since 1970.
    pub not_after: Option<u64>,
    /// It is for a part of the devices, or for certain hours.
    pub rollout: Option<Rollout>,
    /// What is wanted.
    pub body: Body,
}

/// A part of the devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// How large, in hundredths of a percent: 0 to 10000.
    pub share: u16,
    /// What decides, together with a device's id, where it stands; the app's name if absent.
    pub salt: Option<String>,
    /// When a device may begin with it; at any time if absent.
    pub window: Option<Window>,
}

/// Hours of certain days, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// When it opens, in seconds of the day: 0 to 86399.
    pub from: u32,
    /// When it closes, likewise; another than `from`, and on the next day if that is before it.
    pub to: u32,
    /// On which days it opens, at least one; bit 0 is Monday.
    pub days: u8,
}

/// What a desired-state document wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// These containers run, in the order of the document.
    Run(Vec<Container>),
    /// The app goes (tombstone); its volumes too if `volumes`.
    Remove {
        /// Volumes go too.
        volumes: bool,
    },
    /// What the device's own topic said of the app counts no more; a group's document does.
    Inherit,
}

/// One container of an app.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each field is the manifest's field of that name, documented in its schema")]
pub struct Container {
    pub name: Name,
    pub image: Image,
    /// Replaces the image's entrypoint.
    pub command: Option<Vec<String>>,
    /// Replaces the image's cmd.
    pub args: Option<Vec<String>>,
    /// In the order of the document, after the image's own.
    pub env: Vec<(String, String)>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub hostname: Option<String>,
    pub resources: Resources,
    pub rlimits: Vec<Rlimit>,
    pub security: Security,
    pub rootfs: Rootfs,
    pub mounts: Vec<Mount>,
    pub files: Vec<Placed>,
    pub network: Network,
    /// It has a terminal.
    pub terminal: bool,
    pub stdin: Stdin,
    pub log: Log,
    pub stop: Stop,
    pub restart: Restart,
    /// Our own pid 1 reaps and forwards signals; otherwise the payload is pid 1.
    pub init: bool,
    /// How its health is checked.
    pub health: Option<Check>,
    /// Containers that must have begun, or be healthy, before it is started.
    pub after: Vec<Name>,
}

/// Where a container's image comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Where it is.
    pub reference: Reference,
    /// What it must be.
    pub digest: Option<Digest>,
    /// Compressed bytes, as promised.
    pub size: Option<u64>,
    /// Unpacked bytes, as promised.
    pub unpacked: Option<u64>,
}

impl Image {
    /// Its identity in the store, where the document tells.
    pub fn identity(&self) -> Option<Digest> {
        self.reference.source.identity(self.digest)
    }
}

/// cgroup limits of a container; absent means unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes; the OOM killer acts above.
    pub memory_max: Option<u64>,
    /// Bytes; throttled above (v2 only).
    pub memory_high: Option<u64>,
    /// Bytes of swap alone, as in cgroup v2.
    pub swap_max: Option<u64>,
    /// Thousandths of one CPU (500 is half a CPU).
    pub cpu_quota_milli: Option<u32>,
    /// 1 to 10000 as in cgroup v2, 100 being the default.
    pub cpu_weight: Option<u16>,
    /// Most processes and threads.
    pub pids_max: Option<u32>,
    /// What the kernel cannot enforce is a failure, not a remark.
    pub required: bool,
}

/// One POSIX resource limit (getrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which: `nofile`, `core`, …
    pub kind: RlimitKind,
    /// The limit in force; `u64::MAX` is unlimited.
    pub soft: u64,
    /// The ceiling.
    pub hard: u64,
}

/// The limits of getrlimit(2) that Linux knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names of getrlimit(2)")]
pub enum RlimitKind {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// What a container may ask of the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Security {
    /// On top of the default set.
    pub cap_add: Vec<caps::Capability>,
    /// Taken from the default set.
    pub cap_drop: Vec<caps::Capability>,
    /// System call filter.
    pub seccomp: Seccomp,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
}

/// Which system call filter a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The built-in profile.
    Default,
    /// None.
    Unconfined,
}

/// The root file system's writable side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// No upper layer at all.
    pub readonly: bool,
    /// Size limit of the tmpfs upper layer in bytes; 0 if there is none.
    pub upper: u64,
}

/// A mount that the manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A directory or file of the device.
    Bind {
        /// Absolute path on the device.
        source: String,
        /// Absolute path in the container.
        target: String,
        /// Mounted read-only.
        readonly: bool,
    },
    /// Fresh memory-backed storage.
    Tmpfs {
        /// Absolute path in the container.
        target: String,
        /// Limit in bytes.
        size: u64,
    },
}

/// A file put into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Absolute path in the container.
    pub path: String,
    /// What is in it.
    pub content: Content,
    /// Permission bits.
    pub mode: u16,
    /// `user[:group]`, names or numbers; the container's own if absent.
    pub user: Option<String>,
}

/// What is in a file put into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// This text.
    Text(String),
    /// The device's secret of this name, as it is when the container starts.
    Secret(String),
}

/// Which network a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Its own, with loopback alone.
    None,
    /// The device's.
    Host,
}

/// Where a container's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// Nowhere: it is `/dev/null`.
    None,
    /// From whoever is attached; it never ends.
    Open,
    /// From whoever is attached; it ends when the first of them ends it or leaves.
    Once,
}

/// What happens to a container's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Bytes kept in RAM.
    pub ring: u32,
    /// What happens when it is full.
    pub full: Full,
    /// Each line goes to the system log too; as the settings say if absent.
    pub syslog: Option<bool>,
}

/// What happens to output that finds the ring full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Full {
    /// The writer waits until somebody has read.
    Block,
    /// The oldest bytes give way.
    Drop,
}

/// How a container is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Number of the signal that asks; the image's, or SIGTERM, if absent.
    pub signal: Option<i32>,
    /// How long until SIGKILL.
    pub timeout: Duration,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// In which cases.
    pub policy: RestartPolicy,
    /// First delay; doubles each time.
    pub delay: Duration,
    /// Longest delay.
    pub max_delay: Duration,
}

/// In which cases a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Whatever happens, until stopped.
    Always,
    /// When the exit status is not 0 or a signal ended it.
    OnFailure,
    /// Never.
    No,
}
