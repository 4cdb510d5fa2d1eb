//! Keysets: documents that say which keys a device trusts beside those of its files. Each replaces the one before of the same topic.

use super::envelope::{KINDS, Kind};
use super::grant::Grant;
use super::key::PublicKey;
use crate::image::Digest;
use crate::ipc::Origin;
use crate::manifest::blame::Found;
use crate::manifest::calendar;
use crate::manifest::checked::target;
use crate::manifest::document::{Document, version};
use crate::manifest::forms::{ID, NAME, TIME};
use crate::manifest::json::Node;
use crate::manifest::raw::{EXACT, TARGET_FIELDS};
use crate::manifest::shape::{Field, Form, Kind as Shape, View, bad};
use crate::manifest::{Faults, MAX_PAYLOAD, Name, SCHEMA, Target, Whom};
use crate::protocol::Reason;
use serde::{Deserialize, Serialize};

/// Most keys of one keyset.
pub const MAX_KEYS: usize = 16;
/// Most apps, and most targets, that one key is limited to.
pub const MAX_SCOPE: usize = 32;

/// A keyset that was accepted. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyset {
    /// By which topic it came.
    pub origin: Origin,
    /// Its sequence number.
    pub seq: u64,
    /// Hash of its exact bytes.
    pub sha256: Digest,
    /// Its keys.
    pub keys: Vec<Grant>,
}

/// A keyset as it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysetDocument {
    /// Sequence number, of keysets alone.
    pub seq: u64,
    /// Whom it is for.
    pub target: Target,
    /// When it expires, in milliseconds since 1970.
    pub not_after: Option<u64>,
    /// The keys, of different numbers.
    pub keys: Vec<Grant>,
}

static KEY: Form = Form { pattern: "^RW[A-Za-z0-9+/]{54}$", check: |s| s.parse::<PublicKey>().map(drop).map_err(bad) };

static KEYSET: [Field; 5] = [
    Field::required("wherry", Shape::Whole(SCHEMA, SCHEMA), "Version of the schema: 1."),
    Field::required("seq", Shape::Whole(1, EXACT), "Sequence number: a higher one is newer."),
    Field::required("target", Shape::Object(&TARGET_FIELDS), "Whom it is for."),
    Field::optional("not_after", Shape::Text(&TIME), "From then on it is not taken any more, if the clock is known to be right."),
    Field::required(
        "keys",
        Shape::List(&Shape::Object(&GRANT), 0, MAX_KEYS),
        "All keys that are trusted beside those of the device's files.",
    ),
];

static GRANT: [Field; 5] = [
    Field::required("key", Shape::Text(&KEY), "The public key: the second line of its file."),
    Field::required("types", Shape::List(&Shape::Word(&KINDS), 1, KINDS.len()), "What it may sign; with \"keyset\" it is a root key."),
    Field::optional("apps", Shape::List(&Shape::Text(&NAME), 1, MAX_SCOPE), "Only for these apps."),
    Field::optional("targets", Shape::List(&Shape::Object(&WHOM), 1, MAX_SCOPE), "Only for these devices and groups."),
    Field::default("min_seq", Shape::Whole(0, EXACT), "0", "Only sequence numbers from here on."),
];

static WHOM: [Field; 2] = [
    Field::optional("device", Shape::Text(&ID), "The device; or `group`."),
    Field::optional("group", Shape::Text(&ID), "The group; or `device`."),
];

static DOCUMENT: Document<KeysetDocument> = Document { max: MAX_PAYLOAD, fields: &KEYSET, first: version, convert, secret: None };

impl KeysetDocument {
    /// Reads a keyset, taken out of its envelope.
    ///
    /// # Errors
    /// Every fault of the document.
    pub fn parse(bytes: &[u8]) -> Result<Self, Faults> {
        DOCUMENT.parse(bytes)
    }

    /// The same for one that was written in another language than JSON: `root` says what stands where in `text`.
    #[cfg(feature = "fleet")]
    pub(crate) fn check_tree(text: &str, root: &Node) -> (Option<Self>, Faults) {
        DOCUMENT.examine_tree(text, root)
    }
}

fn convert<'a>(view: View<'a>, _: &'a Node<'a>, found: &mut Vec<Found>) -> Option<KeysetDocument> {
    let target = target(view.object("target"), view.node("target")?, found);
    let mut keys: Vec<Option<Grant>> = Vec::new();
    for node in view.items("keys").iter().take(MAX_KEYS) {
        let grant = grant(View::new(node, &GRANT), node, found);
        if let Some(grant) = &grant
            && keys.iter().flatten().any(|known| known.key.id == grant.key.id)
        {
            found.push(wrong(node, format!("has the number {} of a key above", grant.key.id)));
        }
        keys.push(grant);
    }
    let not_after = view.text("not_after").and_then(calendar::exact);
    Some(KeysetDocument { seq: view.parse("seq")?, target: target?, not_after, keys: keys.into_iter().collect::<Option<_>>()? })
}

fn wrong(node: &Node, message: impl Into<String>) -> Found {
    Found::at(node, Reason::BadValue, message)
}

fn grant(view: View, node: &Node, found: &mut Vec<Found>) -> Option<Grant> {
    let mut types: Vec<Kind> = view.items("types").iter().map(|n| Kind::of(n.text()?)).collect::<Option<_>>()?;
    types.sort_unstable();
    types.dedup();
    let apps = match view.texts("apps") {
        Some(names) => Some(names.iter().map(|n| n.parse().ok()).collect::<Option<Vec<Name>>>()?),
        None => None,
    };
    let targets = match view.node("targets") {
        Some(list) => Some(list.items().iter().map(|n| whom(View::new(n, &WHOM), n, found)).collect::<Option<Vec<Whom>>>()?),
        None => None,
    };
    let made = Grant { key: view.parse("key")?, types, apps, targets, min_seq: view.parse("min_seq")? };
    if made.is_root() && (made.apps.is_some() || made.targets.is_some()) {
        found.push(wrong(node, "a root key (\"keyset\" in `types`) cannot be limited to apps or targets: it could lift that itself"));
        return None;
    }
    Some(made)
}

fn whom(view: View, node: &Node, found: &mut Vec<Found>) -> Option<Whom> {
    match (view.node("device"), view.node("group")) {
        (Some(_), None) => view.parse("device").map(Whom::Device),
        (None, Some(_)) => view.parse("group").map(Whom::Group),
        _ => {
            found.push(wrong(node, "needs either `device` or `group`"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KeysetDocument, MAX_KEYS};
    use crate::manifest::Whom;
    use crate::protocol::Reason;
    use crate::trust::{Kind, base64};

    fn key(n: u8) -> String {
        base64::encode(&[b"Ed", &[n; 40][..]].concat())
    }

    fn with(keys: &str) -> String {
        format!(r#"{{"wherry":1,"seq":7,"target":{{"fleet":"wherry","group":"g"}},"keys":[{keys}]}}"#)
    }

    fn one(n: u8, rest: &str) -> String {
        format!(r#"{{"key":"{}","types":["desired"]{rest}}}"#, key(n))
    }

    #[test]
    fn a_keyset_says_what_each_key_may_sign() {
        let scope = r#","apps":["web"],"targets":[{"device":"r1"},{"group":"g"}],"min_seq":9"#;
        let root = format!(r#"{{"key":"{}","types":["keyset","desired","keyset"],"x-who":"me"}}"#, key(2));
        let text = with(&[one(1, scope), root].join(",")).replace("\"keys\"", "\"not_after\":\"2026-12-01T00:00:00Z\",\"keys\"");
        let keyset = KeysetDocument::parse(text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!((keyset.seq, keyset.not_after, keyset.keys.len()), (7, Some(1_796_083_200_000), 2));
        assert_eq!(keyset.target.whom, Whom::Group("g".parse().unwrap()));
        let [first, second] = &keyset.keys[..] else { panic!() };
        assert_eq!((first.key.id.to_string().as_str(), first.min_seq, first.is_root()), ("0101010101010101", 9, false));
        assert_eq!(first.targets.as_deref(), Some(&[Whom::Device("r1".parse().unwrap()), Whom::Group("g".parse().unwrap())][..]));
        assert_eq!((&second.types[..], second.is_root(), second.apps.is_none()), (&[Kind::Desired, Kind::Keyset][..], true, true));
        assert!(KeysetDocument::parse(with("").as_bytes()).unwrap().keys.is_empty());
    }

    #[test]
    fn a_keyset_with_a_fault_is_refused() {
        let many: Vec<String> = (0..=MAX_KEYS as u8).map(|n| one(n, "")).collect();
        let good = with(&one(1, ""));
        for (text, path, reason) in [
            (good.replace(r#""seq":7,"#, ""), "", Reason::BadValue),
            (good.replace(r#""seq":7"#, r#""seq":0"#), "seq", Reason::BadValue),
            (good.replace(r#","group":"g""#, ""), "target", Reason::BadValue),
            (good.replace(r#""target":{"fleet":"wherry","group":"g"},"#, ""), "", Reason::BadValue),
            (good.replace("\"keys\"", "\"not_after\":\"2026-12-01\",\"keys\""), "not_after", Reason::BadValue),
            (good.replace("\"wherry\":1", "\"wherry\":2"), "wherry", Reason::Unsupported),
            (with(&many.join(",")), "keys", Reason::BadValue),
            (with(&[one(1, ""), one(1, "")].join(",")), "keys[1]", Reason::BadValue),
            (good.replace("RWQ", "RUQ"), "keys[0].key", Reason::BadValue),
            (good.replace("[\"desired\"]", "[]"), "keys[0].types", Reason::BadValue),
            (good.replace("[\"desired\"]", "[\"all\"]"), "keys[0].types[0]", Reason::BadValue),
            (with(&one(1, r#","apps":[]"#)), "keys[0].apps", Reason::BadValue),
            (with(&one(1, r#","apps":["Web"]"#)), "keys[0].apps[0]", Reason::BadValue),
            (with(&one(1, r#","targets":[{}]"#)), "keys[0].targets[0]", Reason::BadValue),
            (with(&one(1, r#","targets":[{"device":"a","group":"b"}]"#)), "keys[0].targets[0]", Reason::BadValue),
            (with(&one(1, r#","min_seq":-1"#)), "keys[0].min_seq", Reason::BadValue),
            (with(&one(1, r#","until":1"#)), "keys[0].until", Reason::UnknownField),
            (with(&one(1, r#","apps":["web"]"#)).replace("[\"desired\"]", "[\"keyset\"]"), "keys[0]", Reason::BadValue),
        ] {
            let faults = KeysetDocument::parse(text.as_bytes()).expect_err(&text);
            let found: Vec<_> = faults.0.iter().map(|f| (f.path.as_str(), f.reason)).collect();
            assert_eq!(found, [(path, reason)], "{text}\n{faults}");
        }
    }
}
