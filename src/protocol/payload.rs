//! Payloads from the device: one type each, fields in the order of the contract. Whoever reads them ignores fields it does not know.

use super::{ContainerState, Reason, State};
use crate::image::Digest;
use crate::manifest::{Name, Target};
use crate::trust::base64;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// A JSON object whose keys are data, in the order in which they were put in.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries<T>(pub Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Entries<T> {
    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
}

impl<T> FromIterator<(String, T)> for Entries<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T: Serialize> Serialize for Entries<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(k, v)| (k, v)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries<T>, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(Reader(PhantomData))
    }
}

/// A digest in a field called `sha256`: 64 hex digits, without the algorithm before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub Digest);

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0.hex())
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(d)?;
        format!("sha256:{hex}").parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Compact JSON, as it is published.
pub fn encode<T: Serialize>(payload: &T) -> Vec<u8> {
    // These types have string keys and write into memory: nothing can fail.
    serde_json::to_vec(payload).unwrap_or_default()
}

/// Progress of one sequence number of an app, on `out/ack/<app>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    /// Schema of the message: 1.
    pub wherry: u8,
    /// Whom the document was for.
    pub target: Target,
    /// The app, from the topic.
    pub app: Name,
    /// Its sequence number; absent in unsigned mode, and where the document could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Hash of the document: of the one in the envelope, or of the payload where that is none.
    pub sha256: Sha256,
    /// 1, and one more for each `retry` command.
    pub attempt: u32,
    /// Where it is.
    pub state: State,
    /// Why, for `rejected` and `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What runs again after `failed`, if something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<Previous>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
    /// Keeper's count of fresh starts.
    pub boot: u64,
    /// Seconds since the device started.
    pub uptime_s: u64,
}

/// What became of a keyset, on `out/keyset`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeysetAck {
    /// Schema of the message: 1.
    pub wherry: u8,
    /// Whom the keyset was for, by its topic.
    pub target: Target,
    /// Its sequence number; absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Hash of the document in the envelope, or of the payload where that is none.
    pub sha256: Sha256,
    /// `accepted` or `rejected`.
    pub state: State,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The sentence to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
    /// Keeper's count of fresh starts.
    pub boot: u64,
    /// Seconds since the device started.
    pub uptime_s: u64,
}

/// The version that runs again: its sequence number, or its hash in unsigned mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "said above")]
pub enum Previous {
    Seq(u64),
    Sha256(Sha256),
}

/// What an ack says beside its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// Bytes fetched so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes to fetch in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where in the document: `containers.nginx.resources.memory.max`. Of `held`, what it waits for: `rollout`, `rollout.window`, or `hold`, which is no
    /// place in the document but a person at the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// All further reasons, with path and sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Further>,
}

/// One further reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Further {
    /// From the closed list.
    pub reason: Reason,
    /// Where in the document.
    pub path: String,
    /// The sentence.
    pub message: String,
}

/// Most further reasons told in one ack.
pub const MAX_FURTHER: usize = 15;

impl Detail {
    /// What a refused document is answered with: the first error and, bounded, the further ones.
    pub fn of(faults: &crate::manifest::Faults) -> Self {
        let mut errors = faults.0.iter().filter(|f| f.severity == crate::manifest::Severity::Error);
        let Some(first) = errors.next() else { return Self::default() };
        let further = errors.take(MAX_FURTHER).map(|f| Further { reason: f.reason, path: f.path.clone(), message: f.message.clone() });
        let message = Some(first.sentence());
        let path = (!first.path.is_empty()).then(|| first.path.clone());
        Self { message, path, further: further.collect(), ..Self::default() }
    }
}

/// What runs, on `out/reported`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Schema of the message: 1.
    pub wherry: u8,
    /// The device.
    pub about: About,
    /// Each app with its last terminal state.
    pub apps: Entries<AppReport>,
}

/// What a device is and can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Release.
    pub version: String,
    /// Lowest and highest schema it reads.
    pub schema: [u32; 2],
    /// What it can do: `cgroup2`, `idmap`, …
    pub features: Vec<String>,
    /// What it cannot do, and what that lacks: `psi` → `CONFIG_PSI`.
    pub missing: Entries<String>,
    /// Board, as far as known.
    pub board: String,
    /// Architecture in OCI's words: `arm64`, `arm`, `amd64`, …
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// Bytes of memory.
    pub ram: Option<u64>,
    /// Free bytes below the data directory.
    pub flash_free: Option<u64>,
    /// What separates containers: `container`, later also `user` …
    pub isolation: String,
    /// Numbers of the keys that it trusts; with any, whatever is unsigned is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// One app in `reported`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppReport {
    /// Whom its document was for.
    pub target: Target,
    /// Sequence number; absent in unsigned mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Hash of the document in force.
    pub sha256: Sha256,
    /// Its state.
    pub state: State,
    /// Why, for `rejected` and `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// `local`: stopped or started by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<String>,
    /// `local`: a person at the device keeps it as it is; newer documents wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Its containers.
    pub containers: Entries<ContainerReport>,
}

/// One container in `reported`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// Its state.
    pub state: ContainerState,
    /// Seconds since it started; null if it does not run.
    pub since_s: Option<u64>,
    /// Restarts since the document came.
    pub restarts: u32,
    /// What its image resolved to.
    pub image: Option<Digest>,
    /// How it ended last.
    pub last_exit: Option<LastExit>,
    /// `healthy`, `unhealthy`, `starting`; null without a check, and while it does not run.
    pub health: Option<String>,
    /// Limits that the kernel cannot enforce, with why.
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    pub missing: Entries<String>,
    /// The sentence of its last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a container ended: `{"code":1}` or `{"signal":9}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LastExit {
    /// By exit(2).
    Code(u8),
    /// By a signal.
    Signal(u8),
}

/// Whether a device is there, on `out/presence`; `offline` is the will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// There or not.
    pub state: Online,
    /// Keeper's count of fresh starts.
    pub boot: u64,
    /// Connections within it. A will with a lower boot, or the same and a lower conn, is a late one.
    pub conn: u64,
    /// Release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds between statistics; silence of more than three of them means offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<u32>,
}

/// There or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum Online {
    Online,
    Offline,
}

impl Presence {
    /// What the device publishes after CONNACK.
    pub fn online(boot: u64, conn: u64, interval_s: u32) -> Self {
        let version = Some(env!("CARGO_PKG_VERSION").to_owned());
        Self { state: Online::Online, boot, conn, version, interval_s: Some(interval_s) }
    }

    /// The will of that connection, also published by hand before a wanted disconnect.
    pub fn will(boot: u64, conn: u64) -> Self {
        Self { state: Online::Offline, boot, conn, version: None, interval_s: None }
    }
}

/// What the device has, on `out/get`: a server without retained messages answers with what is newer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Get {
    /// Each app.
    pub have: Vec<Have>,
}

/// One app that the device has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Have {
    /// Whom its document was for.
    pub target: Target,
    /// The app.
    pub app: Name,
    /// Highest sequence number accepted; absent in unsigned mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// One frame of the answer to a command, on `out/res/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// 0, 1, 2, … in order.
    pub n: u32,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: AnswerKind,
    /// Of `exec`: which output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Output>,
    /// Of `logs`: whose output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Name>,
    /// Of `logs`: bytes before these that nobody has any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Text of a `data` frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Instead of `data`, where these bytes are no UTF-8: base64 of them (RFC 4648 section 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// How the program ended, in the `end` frame of `exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<LastExit>,
    /// Why, of an `error` frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The sentence of an `error` frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An output of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum Output {
    Stdout,
    Stderr,
}

/// What a frame of an answer is. `end` and `error` are the last of their answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum AnswerKind {
    Data,
    End,
    Error,
}

impl Answer {
    fn new(n: u32, kind: AnswerKind) -> Self {
        let (stream, container, lost, data) = (None, None, None, None);
        Self { n, kind, stream, container, lost, data, base64: None, exit: None, reason: None, message: None }
    }

    /// A piece of text.
    pub fn data(n: u32, text: String) -> Self {
        Self { data: Some(text), ..Self::new(n, AnswerKind::Data) }
    }

    /// A piece of output: as text where it is UTF-8, else in base64.
    pub fn output(n: u32, bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::data(n, text),
            Err(e) => Self { base64: Some(base64::encode(e.as_bytes())), ..Self::new(n, AnswerKind::Data) },
        }
    }

    /// Done.
    pub fn end(n: u32) -> Self {
        Self::new(n, AnswerKind::End)
    }

    /// Refused or failed.
    pub fn error(n: u32, reason: Reason, message: String) -> Self {
        Self { reason: Some(reason), message: Some(message), ..Self::new(n, AnswerKind::Error) }
    }

    /// The bytes of a piece of output; `None` where its base64 is none.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.base64, &self.data) {
            (Some(text), _) => base64::decode(text),
            (None, data) => Some(data.clone().unwrap_or_default().into_bytes()),
        }
    }
}
