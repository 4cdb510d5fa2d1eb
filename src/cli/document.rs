//! Documents from files: read within bounds, recognised by content, checked.

use crate::config;
use crate::exit::{Code, Error};
use crate::manifest::{self, Fault, Faults, MAX_PAYLOAD};
use crate::protocol::{Reason, parse_command};
use crate::trust::{self, Envelope, KeysetDocument, PublicKey};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A manifest or tombstone.
    Manifest,
    /// The device's settings.
    Settings,
    /// A signed envelope around a document.
    Envelope,
    /// Keys to trust, not in an envelope yet.
    Keyset,
    /// The file of a public key.
    Key,
}

impl Kind {
    /// For messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Settings => "settings",
            Self::Envelope => "envelope",
            Self::Keyset => "keyset",
            Self::Key => "public key",
        }
    }
}

/// Reads a file, or standard input for `-`. `verb` begins the error.
pub fn read(verb: &str, file: &OsStr) -> Result<Vec<u8>, Error> {
    let what = format!("cannot {verb} {}", shown(file));
    let answer = if file == "-" {
        crate::sys::fd::read_to_end(std::io::stdin(), MAX_PAYLOAD)
    } else {
        crate::sys::fd::read_file(Path::new(file), MAX_PAYLOAD)
    };
    answer.map_err(|e| match e.kind() {
        std::io::ErrorKind::FileTooLarge => Error::new(Code::BadData, format!("{what}: larger than {} KiB", MAX_PAYLOAD / 1024))
            .hint("large content belongs in an image or a bind mount"),
        _ => Error::io(what, &e),
    })
}

/// The file's name for messages.
pub fn shown(file: &OsStr) -> String {
    if file == "-" { "standard input".into() } else { file.to_string_lossy().into_owned() }
}

/// What the document is, and all that is wrong with it. Warnings alone do not make it bad.
pub fn examine(bytes: &[u8]) -> (Kind, Faults) {
    match kind(bytes) {
        Kind::Manifest => (Kind::Manifest, manifest::check(bytes).1),
        Kind::Settings => (Kind::Settings, config::parse(bytes).err().unwrap_or_default()),
        Kind::Keyset => (Kind::Keyset, KeysetDocument::parse(bytes).err().unwrap_or_default()),
        Kind::Key => (Kind::Key, key(bytes).err().unwrap_or_default()),
        Kind::Envelope => (Kind::Envelope, Envelope::parse(bytes).map_or_else(|faults| faults, |envelope| content(&envelope))),
    }
}

/// What is wrong with the document in an envelope; lines and columns are its own.
fn content(envelope: &Envelope) -> Faults {
    let bytes = &envelope.payload[..];
    match envelope.kind {
        trust::Kind::Desired => signed_manifest(bytes),
        trust::Kind::Cmd => parse_command(bytes).err().unwrap_or_default(),
        trust::Kind::Config => config::parse(bytes).err().unwrap_or_default(),
        trust::Kind::Keyset => KeysetDocument::parse(bytes).err().unwrap_or_default(),
    }
}

fn signed_manifest(bytes: &[u8]) -> Faults {
    let (manifest, faults) = manifest::check(bytes);
    let lacking = manifest.iter().flat_map(trust::lacks).map(|(reason, path, why)| Fault::placeless(path, reason, why.into()));
    // Errors come before warnings.
    Faults(lacking.chain(faults.0).collect())
}

fn key(bytes: &[u8]) -> Result<PublicKey, Faults> {
    let key = std::str::from_utf8(bytes).map_err(|_| "is not text".to_owned()).and_then(PublicKey::of_file);
    key.map_err(|why| Faults(vec![Fault::placeless(String::new(), Reason::BadValue, why)]))
}

/// What a good document is besides its kind: the number of a key; what is in an envelope, and who is said to have signed it.
pub fn remark(bytes: &[u8], kind: Kind) -> Option<String> {
    match kind {
        Kind::Key => key(bytes).ok().map(|key| key.id.to_string()),
        Kind::Envelope => Envelope::parse(bytes).ok().map(|e| {
            let by: Vec<String> = e.signatures.iter().map(|s| s.key.to_string()).collect();
            format!("({}, said to be signed by {})", e.kind, by.join(", "))
        }),
        _ => None,
    }
}

/// By its top-level names. What has none of either, and what is no JSON at all, counts as a manifest: its faults say so.
fn kind(bytes: &[u8]) -> Kind {
    let names = |bytes: &[u8]| match serde_json::from_slice(bytes) {
        Ok(Value::Object(top)) => top.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    };
    if bytes.starts_with(b"untrusted comment:") {
        return Kind::Key;
    }
    let given = names(bytes);
    let has = |name: &str| given.iter().any(|n| n == name);
    if !has("wherry") && has("payload") {
        return Kind::Envelope;
    }
    if has("wherry") && has("keys") && !has("app") {
        return Kind::Keyset;
    }
    let of_settings = names(config::example().as_bytes());
    let is_settings =
        given.iter().any(|n| of_settings.contains(n)) && !given.iter().any(|n| ["wherry", "app", "containers"].contains(&n.as_str()));
    if is_settings { Kind::Settings } else { Kind::Manifest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_recognised_by_its_content() {
        for (text, expected) in [
            (r#"{"wherry":1,"app":"a","containers":{}}"#, Kind::Manifest),
            (r#"{"wherry":1,"app":"a","remove":true}"#, Kind::Manifest),
            (r#"{"device":"r1"}"#, Kind::Settings),
            (r#"{"brokers":[],"typo":1}"#, Kind::Settings),
            (r#"{"payload":"e30=","type":"desired"}"#, Kind::Envelope),
            (r#"{"wherry":1,"seq":1,"keys":[]}"#, Kind::Keyset),
            (r#"{"wherry":1,"app":"a","keys":[]}"#, Kind::Manifest),
            ("untrusted comment: mine", Kind::Key),
            ("{}", Kind::Manifest),
            ("[", Kind::Manifest),
        ] {
            assert_eq!(kind(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_settings_that_name_every_field_are_settings() {
        let (kind, faults) = examine(config::example().as_bytes());
        assert!(kind == Kind::Settings && !faults.is_refusal(), "{faults}");
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for bytes in [&b""[..], b"{", b"[]", b"{}", b"\xff{}", b"1", b"{\"a\":1}"] {
            assert!(examine(bytes).1.is_refusal(), "{bytes:?}");
        }
    }
}
