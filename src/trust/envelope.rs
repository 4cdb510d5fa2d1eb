//! The envelope around a document that is signed.
//!
//! Signed are the bytes `wherry-v1:`, the type, `:`, and the document: the very bytes that the field `payload` has in base64. So a signature for one type is
//! none for another, the tools sign a file that `cat` makes, and whoever signs a document anew with another key has not changed it.

use super::base64;
use super::key::{KeyId, Signature};
use crate::manifest::blame::Found;
use crate::manifest::document::Document;
use crate::manifest::json::{self, Node};
use crate::manifest::out::Out;
use crate::manifest::shape::{Field, Form, Kind as Shape, View, bad};
use crate::manifest::{Faults, MAX_PAYLOAD};
use crate::protocol::Reason;
use serde::{Deserialize, Serialize};

/// Most signatures of one envelope: while a key is replaced, old and new sign.
pub const MAX_SIGNATURES: usize = 8;

/// What an envelope holds; where it may come from follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A manifest or tombstone, on `in/desired/<app>`.
    Desired,
    /// A command, on `in/cmd/<id>`.
    Cmd,
    /// Settings, on `in/config`.
    Config,
    /// Keys, on `in/keyset`.
    Keyset,
}

/// The words of the wire contract.
pub static KINDS: [&str; 4] = ["desired", "cmd", "config", "keyset"];

impl Kind {
    /// The word of the wire contract.
    pub fn word(self) -> &'static str {
        KINDS[self as usize]
    }

    /// The type of that word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Desired, Self::Cmd, Self::Config, Self::Keyset].into_iter().find(|kind| kind.word() == word)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// An envelope whose form is right. Nothing in it can be believed before a signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What is in it.
    pub kind: Kind,
    /// The document's exact bytes.
    pub payload: Vec<u8>,
    /// One to [`MAX_SIGNATURES`], of different keys.
    pub signatures: Vec<Signature>,
}

/// What is signed.
pub fn message(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [b"wherry-v1:", kind.word().as_bytes(), b":", payload].concat()
}

static PAYLOAD: Form = Form {
    pattern: "^[A-Za-z0-9+/]+={0,2}$",
    check: |s| match base64::decode(s) {
        Some(bytes) if !bytes.is_empty() => Ok(()),
        Some(_) => Err(bad("is empty")),
        None => Err(bad("must be base64 with padding, in one line")),
    },
};
pub(super) static KEY_ID: Form = Form { pattern: "^[0-9a-f]{16}$", check: |s| s.parse::<KeyId>().map(drop).map_err(bad) };
static SIG: Form = Form {
    pattern: "^[A-Za-z0-9+/]+={0,2}$",
    check: |s| if base64::decode(s).is_some() { Ok(()) } else { Err(bad("must be base64 with padding, in one line")) },
};

static ENVELOPE: [Field; 3] = [
    Field::required("payload", Shape::Text(&PAYLOAD), "The document's exact bytes, in base64."),
    Field::required("type", Shape::Word(&KINDS), "What the document is."),
    Field::required("signatures", Shape::List(&Shape::Object(&SIGNATURE), 1, MAX_SIGNATURES), "One is enough, if its key is trusted."),
];

static SIGNATURE: [Field; 2] = [
    Field::required("key", Shape::Text(&KEY_ID), "Number of the key: 16 hex digits."),
    Field::required("sig", Shape::Text(&SIG), "The signature in base64: its 64 bytes, or the second line of the file that the tool wrote."),
];

static DOCUMENT: Document<Envelope> = Document { max: MAX_PAYLOAD, fields: &ENVELOPE, first, convert, secret: None };

/// A document without envelope gets the one reason that counts.
fn first(root: &Node) -> Option<Found> {
    let bare = !root.members().is_empty() && root.get("payload").is_none() && root.get("signatures").is_none();
    let sentence = "is not signed: an envelope with `payload`, `type` and `signatures` is wanted";
    bare.then(|| Found::at(root, Reason::Unsigned, sentence))
}

fn convert<'a>(view: View<'a>, _: &'a Node<'a>, found: &mut Vec<Found>) -> Option<Envelope> {
    let (mut signatures, mut complete) = (Vec::<Signature>::new(), true);
    for node in view.items("signatures").iter().take(MAX_SIGNATURES) {
        match signature(View::new(node, &SIGNATURE), found) {
            Some(one) if signatures.iter().any(|s| s.key == one.key) => {
                found.push(Found::at(node, Reason::BadValue, "is of a key that signs above"))
            }
            Some(one) => signatures.push(one),
            None => complete = false,
        }
    }
    let payload = base64::decode(view.text("payload")?)?;
    Some(Envelope { kind: Kind::of(view.text("type")?)?, payload, signatures }).filter(|_| complete)
}

fn signature(view: View, found: &mut Vec<Found>) -> Option<Signature> {
    let (key, node) = (view.parse("key")?, view.node("sig")?);
    base64::decode(node.text()?)?;
    Signature::of(key, node.text()?).map_err(|why| found.push(Found::at(node, Reason::BadValue, why))).ok()
}

impl Envelope {
    /// Reads an envelope. It verifies nothing.
    ///
    /// # Errors
    /// Every fault of its form; a document without envelope is refused as `unsigned`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Faults> {
        DOCUMENT.parse(bytes)
    }

    /// The envelope as it is published.
    pub fn encode(&self) -> Vec<u8> {
        let one = |s: &Signature| Out::object([("key", Out::text(s.key)), ("sig", Out::Text(s.text()))]);
        crate::protocol::encode(&Out::object([
            ("payload", Out::Text(base64::encode(&self.payload))),
            ("type", Out::text(self.kind)),
            ("signatures", Out::List(self.signatures.iter().map(one).collect())),
        ]))
    }
}

/// Whether these bytes are meant as an envelope, for whoever takes none.
pub fn is_envelope(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_PAYLOAD);
    let root = text.and_then(|text| json::read(text).ok());
    root.is_some_and(|root| root.get("wherry").is_none() && root.get("payload").is_some())
}

#[cfg(test)]
mod tests {
    use super::{Envelope, Kind, MAX_SIGNATURES, base64, is_envelope, message};
    use crate::protocol::Reason;

    const KEY: &str = "00112233445566ff";

    fn with(signatures: &str) -> String {
        format!(r#"{{"payload":"e30=","type":"desired","signatures":[{signatures}]}}"#)
    }

    fn one(key: &str) -> String {
        format!(r#"{{"key":"{key}","sig":"{}"}}"#, base64::encode(&[7; 64]))
    }

    #[test]
    fn what_is_signed_is_prefix_type_and_the_documents_own_bytes() {
        assert_eq!(message(Kind::Desired, b"{}"), b"wherry-v1:desired:{}");
        assert_eq!(message(Kind::Keyset, b"\x00"), b"wherry-v1:keyset:\x00");
    }

    #[test]
    fn an_envelope_is_written_as_it_is_read() {
        let text = with(&one(KEY));
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!((envelope.kind, envelope.payload.as_slice(), envelope.signatures.len()), (Kind::Desired, b"{}".as_slice(), 1));
        assert_eq!(envelope.encode(), text.as_bytes());
        assert!(is_envelope(text.as_bytes()) && !is_envelope(br#"{"wherry":1,"payload":"e30="}"#) && !is_envelope(b"{"));
        for kind in super::KINDS {
            assert_eq!(Kind::of(kind).unwrap().word(), kind);
        }
    }

    #[test]
    fn an_envelope_with_a_fault_is_refused() {
        let (good, short) = (with(&one(KEY)), base64::encode(&[7; 63]));
        let too_many: Vec<String> = (0..=MAX_SIGNATURES).map(|n| one(&format!("{n:016x}"))).collect();
        for (text, path, reason) in [
            (r#"{"wherry":1,"app":"web","containers":{}}"#.to_owned(), "", Reason::Unsigned),
            (r#"{"wherry":1,"app":"web","remove":true}"#.to_owned(), "", Reason::Unsigned),
            (good[..good.len() - 1].to_owned(), "", Reason::Malformed),
            (String::new(), "", Reason::Malformed),
            ("[]".to_owned(), "", Reason::BadValue),
            (good.replace("e30=", "e30"), "payload", Reason::BadValue),
            (good.replace("e30=", "e3\\n0="), "payload", Reason::BadValue),
            (good.replace("e30=", ""), "payload", Reason::BadValue),
            (good.replace("desired", "reported"), "type", Reason::BadValue),
            (good.replace(r#""type":"desired","#, ""), "", Reason::BadValue),
            (with(""), "signatures", Reason::BadValue),
            (with(&too_many.join(",")), "signatures", Reason::BadValue),
            (with(&[one(KEY), one(KEY)].join(",")), "signatures[1]", Reason::BadValue),
            (good.replace(KEY, "00112233445566FF"), "signatures[0].key", Reason::BadValue),
            (good.replace(&base64::encode(&[7; 64]), &short), "signatures[0].sig", Reason::BadValue),
            (good.replace(&base64::encode(&[7; 64]), "?"), "signatures[0].sig", Reason::BadValue),
            (good.replace(r#""type""#, r#""level":1,"type""#), "level", Reason::UnknownField),
            (good.replace(r#""type""#, r#""type":"cmd","type""#), "type", Reason::Malformed),
            (format!("{good}{}", " ".repeat(crate::manifest::MAX_PAYLOAD)), "", Reason::Oversize),
        ] {
            let faults = Envelope::parse(text.as_bytes()).expect_err(&text);
            let found: Vec<_> = faults.0.iter().map(|f| (f.path.as_str(), f.reason)).collect();
            assert_eq!(found, [(path, reason)], "{text}\n{faults}");
        }
    }
}
