//! Documents from files: read within bounds, recognised by content, checked.

use crate::config;
use crate::exit::{Code, Error};
use crate::manifest::{self, Faults, MAX_PAYLOAD};
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
    /// The device's policy.
    Policy,
}

impl Kind {
    /// For messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Settings => "settings",
            Self::Policy => "policy",
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
        Kind::Policy => (Kind::Policy, config::policy::parse(bytes).err().unwrap_or_default()),
    }
}

/// By its top-level names. What has none of them, and what is no JSON at all, counts as a manifest: its faults say so.
fn kind(bytes: &[u8]) -> Kind {
    let names = |bytes: &[u8]| match serde_json::from_slice(bytes) {
        Ok(Value::Object(top)) => top.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    };
    let given = names(bytes);
    let has_one_of = |known: &[String]| given.iter().any(|name| known.contains(name));
    match () {
        () if has_one_of(&["wherry", "app", "containers"].map(str::to_owned)) => Kind::Manifest,
        () if has_one_of(&names(config::example().as_bytes())) => Kind::Settings,
        () if has_one_of(&names(config::policy::example().as_bytes())) => Kind::Policy,
        () => Kind::Manifest,
    }
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
            (r#"{"host_network":true}"#, Kind::Policy),
            (r#"{"memory":"96M","typo":1}"#, Kind::Policy),
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
