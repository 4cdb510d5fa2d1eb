//! Documents from files: read within bounds, recognised by content, checked.

use crate::exit::{Code, Error};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;

/// Largest document in bytes, as on the wire.
pub const MAX: usize = 32 * 1024;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A manifest or tombstone.
    Manifest,
    /// A signed envelope around one.
    Envelope,
    /// The device's settings.
    Settings,
}

impl Kind {
    /// For messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Envelope => "envelope",
            Self::Settings => "settings",
        }
    }
}

/// Reads a file, or standard input for `-`. `verb` begins the error.
pub fn read(verb: &str, file: &OsStr) -> Result<Vec<u8>, Error> {
    let what = format!("cannot {verb} {}", shown(file));
    let answer =
        if file == "-" { crate::sys::fd::read_to_end(std::io::stdin(), MAX) } else { crate::sys::fd::read_file(Path::new(file), MAX) };
    answer.map_err(|e| match e.kind() {
        std::io::ErrorKind::FileTooLarge => Error::new(Code::BadData, format!("{what}: larger than {} KiB", MAX / 1024))
            .hint("large content belongs in an image or a bind mount"),
        _ => Error::io(what, &e),
    })
}

/// The file's name for messages.
pub fn shown(file: &OsStr) -> String {
    if file == "-" { "standard input".into() } else { file.to_string_lossy().into_owned() }
}

/// Says what the document is, or what is wrong with it: one fault on each line.
pub fn examine(bytes: &[u8]) -> Result<Kind, Vec<String>> {
    let text = std::str::from_utf8(bytes).map_err(|e| vec![format!("not UTF-8 at byte {}", e.valid_up_to())])?;
    let value: Value = serde_json::from_str(text).map_err(|e| vec![format!("not JSON: {e}")])?;
    let Value::Object(top) = &value else { return Err(vec!["must be a JSON object".into()]) };
    match () {
        () if top.contains_key("signatures") => Ok(Kind::Envelope),
        () if top.contains_key("app") || top.contains_key("containers") => Ok(Kind::Manifest),
        () if top.contains_key("device") || top.contains_key("brokers") => Ok(Kind::Settings),
        () => Err(vec!["neither a manifest (it would have \"app\") nor settings (they would have \"device\")".into()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_recognised_by_its_content() {
        for (text, kind) in [
            (r#"{"wherry":1,"app":"a","containers":{}}"#, Kind::Manifest),
            (r#"{"payload":"","type":"desired","signatures":[]}"#, Kind::Envelope),
            (r#"{"device":"r1"}"#, Kind::Settings),
        ] {
            assert_eq!(examine(text.as_bytes()), Ok(kind), "{text}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for bytes in [&b""[..], b"{", b"[]", b"{}", b"\xff{}", b"1", b"{\"a\":1}"] {
            assert!(examine(bytes).is_err(), "{bytes:?}");
        }
    }
}
