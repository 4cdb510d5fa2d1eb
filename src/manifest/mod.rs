//! The app manifest: raw → checked, with errors that point at the text.
//!
//! `raw` is the table of all fields. `document` reads bytes by such a table: `json` keeps offsets, `shape` checks each field alone,
//! `checked` what shows between fields and makes the checked types, `blame` points. The same machinery reads the device's settings
//! and the commands of the wire contract.
//!
//! `x-…` keys are ignored in every object whose keys are field names. In `containers`, `env` and `rlimits` the keys are the author's data,
//! so nothing there is passed over in silence.

pub(crate) mod blame;
pub(crate) mod calendar;
pub(crate) mod checked;
pub(crate) mod document;
mod expand;
pub(crate) mod forms;
mod health;
pub(crate) mod json;
pub(crate) mod out;
pub(crate) mod raw;
pub(crate) mod render;
pub(crate) mod schema;
pub(crate) mod shape;
mod types;
pub(crate) mod units;

pub use blame::{Fault, Faults, MAX_FAULTS, Severity};
pub use calendar::{show as show_time, show_daytime};
pub use expand::Device;
pub use forms::signal as parse_signal;
pub use health::{Check, How, Peer};
pub use raw::{MAX_CONTAINERS, MAX_FILES, MAX_MOUNTS, MAX_WORDS, SCHEMA};
pub use render::render;
pub use types::{
    Body, Container, Content, Full, Id, Image, Log, Manifest, Mount, Name, Network, Placed, Resources, Restart, RestartPolicy, Rlimit,
    RlimitKind, Rollout, Rootfs, Seccomp, Security, Stdin, Stop, Target, Whom, Window,
};

use crate::protocol::Reason;
use blame::Found;
use document::Document;
use json::Node;

/// Largest document taken from the network; what is larger goes by reference with a digest.
pub const MAX_PAYLOAD: usize = 32 * 1024;

static DOCUMENT: Document<Manifest> =
    Document { max: MAX_PAYLOAD, fields: &raw::MANIFEST, first, convert: checked::manifest, secret: None };

/// Reads a manifest or tombstone.
///
/// # Errors
/// Every fault of the document, errors first (at most [`MAX_FAULTS`]).
pub fn parse(bytes: &[u8]) -> Result<Manifest, Faults> {
    DOCUMENT.parse(bytes)
}

/// Reads a manifest as it is on one device: with the values of its variables.
///
/// # Errors
/// As [`parse`]; also every unknown variable, and every value that is wrong or too long with its variables in.
pub fn parse_for(bytes: &[u8], device: &Device<'_>) -> Result<Manifest, Faults> {
    let (manifest, faults) = DOCUMENT.examine_then(bytes, |m, root, found| expand::expand(m, root, device, found));
    manifest.ok_or(faults)
}

/// Like [`parse`], but tells warnings of a good document too: a manifest with faults has only warnings.
pub fn check(bytes: &[u8]) -> (Option<Manifest>, Faults) {
    DOCUMENT.examine(bytes)
}

/// JSON Schema (draft 2020-12) of the manifest, from the very table that checks it.
pub fn schema() -> String {
    schema::schema("Wherry app manifest, schema 1", &raw::MANIFEST)
}

fn first(root: &Node) -> Option<Found> {
    let envelope = root.get("wherry").is_none().then(|| root.get("payload")).flatten();
    let sentence = "this is a signed envelope, which counts only where it comes over the network: give the document in it";
    envelope.map(|payload| Found::at(payload, Reason::Unsupported, sentence)).or_else(|| document::version(root))
}

/// [`check`] for a manifest that was written in another language than JSON: `root` says what stands where in `text`.
#[cfg(feature = "fleet")]
pub(crate) fn check_tree(text: &str, root: &Node) -> (Option<Manifest>, Faults) {
    DOCUMENT.examine_tree(text, root)
}
