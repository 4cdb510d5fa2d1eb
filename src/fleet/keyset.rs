//! Keysets: the files that `apply` publishes, what they would lock out, and `keyset`, which makes and shows them.

use super::address::Address;
use super::args::Call;
use super::document::{Ready, numbered, placeless, relocate, whom};
use super::keys::{SecretKey, opened};
use super::session::{Session, block_on, now};
use super::settings;
use super::sign::public;
use super::topics;
use super::tree::{Language, Member, Tree, Value};
use crate::cli::print::{self, Table};
use crate::exit::{Code, Error};
use crate::image::Digest;
use crate::manifest::out::Out;
use crate::manifest::{Fault, Faults, Id, SCHEMA, Target, Whom};
use crate::sys::time::unix_ms;
use crate::trust::{Envelope, Grant, KeyId, KeysetDocument, Kind};
use serde_json::{Value as Json, json};

/// A file with a good keyset in it.
#[derive(Debug, Clone)]
pub struct Keyset {
    /// Its name for messages.
    pub shown: String,
    /// Its own number, if it has one.
    pub seq: Option<u64>,
    /// Whom it names, if it names somebody.
    pub target: Option<Target>,
    tree: Tree,
    keys: Vec<Grant>,
    /// It is signed already: the envelope, and the hash of what is in it.
    sealed: Option<(Vec<u8>, Digest)>,
}

/// Whether this is a keyset, or the envelope of one, and no manifest.
pub fn is_one(tree: &Tree) -> bool {
    let sealed = tree.get("payload").is_some() && tree.get("type").and_then(Tree::scalar) == Some(Kind::Keyset.word());
    sealed || (tree.get("keys").is_some() && tree.get("app").is_none())
}

/// The keyset in a text, if it is one, and all that is wrong with it.
pub fn examine(shown: &str, language: Language, text: &str) -> Option<(Option<Keyset>, Faults)> {
    // What cannot be read is told of as a manifest is.
    let tree = language.read(text).ok().filter(is_one)?;
    Some(if tree.get("payload").is_some() { envelope(shown, tree, text) } else { bare(shown, tree, text) })
}

fn bare(shown: &str, tree: Tree, text: &str) -> (Option<Keyset>, Faults) {
    let (document, mut faults) = KeysetDocument::check_tree(text, &completed(&tree).node());
    faults.0.iter_mut().for_each(|fault| relocate(fault, &tree, text));
    let made = document.map(|document| Keyset {
        shown: shown.to_owned(),
        seq: tree.get("seq").map(|_| document.seq),
        target: tree.get("target").map(|_| document.target),
        keys: document.keys,
        sealed: None,
        tree,
    });
    (made, faults)
}

/// With something in place of number and target where they are put in later.
fn completed(tree: &Tree) -> Tree {
    let member = |key: &str, value| Member { at: tree.at, end: tree.at, key: key.to_owned(), value };
    let name = |key| member(key, Tree::text_of("x"));
    let stand_ins = [
        member("seq", Tree::made(Value::Number("1".into()))),
        member("target", Tree::made(Value::Object(vec![name("fleet"), name("device")]))),
    ];
    let missing = stand_ins.into_iter().filter(|m| tree.get(&m.key).is_none());
    Tree { value: Value::Object(tree.members().iter().cloned().chain(missing).collect()), ..tree.clone() }
}

fn envelope(shown: &str, tree: Tree, text: &str) -> (Option<Keyset>, Faults) {
    let envelope = match Envelope::parse(text.trim().as_bytes()) {
        Ok(envelope) => envelope,
        Err(faults) => return (None, faults),
    };
    match KeysetDocument::parse(&envelope.payload) {
        Err(faults) => (None, placeless(faults)),
        Ok(document) => {
            let sealed = Some((text.trim().as_bytes().to_vec(), Digest::of(&envelope.payload)));
            let (seq, target, keys) = (Some(document.seq), Some(document.target), document.keys);
            (Some(Keyset { shown: shown.to_owned(), seq, target, tree, keys, sealed }), Faults::default())
        }
    }
}

impl Keyset {
    /// It is in an envelope, so that nothing of it can be changed any more.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// The document for a target with a sequence number, signed.
    ///
    /// # Errors
    /// Nobody signs it, or it would be too large for a device.
    pub fn ready(&self, seq: u64, target: &Target, keys: &[SecretKey]) -> Result<Ready, Error> {
        if let Some((envelope, sha256)) = &self.sealed {
            return Ok(Ready { payload: envelope.clone(), sha256: *sha256, seq: self.seq.unwrap_or(seq) });
        }
        if keys.is_empty() {
            let message = format!("nobody signs {}, and a keyset must be signed by a root key", self.shown);
            return Err(Error::usage(message).hint("give --key ROOT.sec, or the envelope that `wherryctl sign` makes of it"));
        }
        let payload = numbered(&self.tree, seq, Some(target)).json().into_bytes();
        if let Err(faults) = KeysetDocument::parse(&payload) {
            let why = faults.0.first().map_or_else(String::new, Fault::sentence);
            return Err(Error::new(Code::BadData, format!("{} for {}: {why}", self.shown, whom(target))));
        }
        Ready { sha256: Digest::of(&payload), payload, seq }.sealed(Kind::Keyset, keys)
    }

    /// What would be locked out by it, and why devices will refuse it.
    pub fn cautions(&self, about: &About) -> Vec<String> {
        let mut found = Vec::new();
        if !self.keys.iter().any(Grant::is_root) {
            let refuses = |id: &Id| format!("it names no root key (\"keyset\" in `types`): {id}, which has no key in a file, refuses it");
            found.extend(about.fileless.iter().map(refuses));
        }
        let before = |id: &KeyId| about.before.iter().find(|grant| grant.key.id == *id);
        if !about.signers.is_empty() && about.signers.iter().all(|id| before(id).is_some_and(|grant| !grant.is_root())) {
            found.push(format!("key {}, which signs it, is no root key by the keyset before", about.signers[0]));
        }
        found.extend(self.keys.iter().filter_map(|grant| idle(grant, about.target, about.seq)));
        if let Some(own) = about.own.filter(|own| self.dropped(about.before).contains(own)) {
            found.push(format!("key {own}, which is `signing_key` of the settings, counts no more"));
        }
        found
    }

    /// Keys of the keyset before that this one does not name.
    pub fn dropped(&self, before: &[Grant]) -> Vec<KeyId> {
        let named = |id: &KeyId| self.keys.iter().any(|grant| grant.key.id == *id);
        before.iter().map(|grant| grant.key.id).filter(|id| !named(id)).collect()
    }
}

/// What is known where a keyset is to be published.
pub struct About<'a> {
    /// Whom it is for.
    pub target: &'a Target,
    /// The number that it gets.
    pub seq: u64,
    /// The keys of the keyset that it replaces.
    pub before: &'a [Grant],
    /// Who signs it.
    pub signers: &'a [KeyId],
    /// The key that signs here if no other is given.
    pub own: Option<KeyId>,
    /// Devices that trust no key but those of the keyset that it replaces.
    pub fileless: &'a [Id],
}

/// The keys of a keyset that the broker keeps; none if it cannot be read.
pub fn kept_keys(payload: Option<&[u8]>) -> Vec<Grant> {
    payload.and_then(|payload| KeysetDocument::parse(&opened(payload)).ok()).map_or_else(Vec::new, |document| document.keys)
}

/// Why a key would sign nothing.
fn idle(grant: &Grant, target: &Target, seq: u64) -> Option<String> {
    let (id, types) = (grant.key.id, &grant.types);
    if grant.min_seq > seq {
        return Some(format!("key {id} signs nothing that is numbered now: its min_seq {} is above {seq}", grant.min_seq));
    }
    if types.iter().all(|kind| *kind == Kind::Config) {
        return Some(format!("key {id} signs nothing: devices of this release take no documents of type config"));
    }
    let (Some(targets), Whom::Device(_)) = (&grant.targets, &target.whom) else { return None };
    // Of which groups a device is, nobody says.
    let reached = targets.iter().any(|of| matches!(of, Whom::Group(_)) || *of == target.whom);
    (!reached).then(|| format!("key {id} signs nothing for {}, whom its `targets` do not name", whom(target)))
}

// ---- keyset ----

/// `wherryctl keyset new|show`.
///
/// # Errors
/// A bad key, no connection.
pub fn keyset(call: &Call) -> Result<u8, Error> {
    match call.operand(0)?.as_str() {
        "new" => make(call),
        "show" => show(call),
        other => Err(Error::usage(format!("keyset does not know {other}")).hint("usage: wherryctl keyset new|show")),
    }
}

fn make(call: &Call) -> Result<u8, Error> {
    let (roots, keys) = (call.values("root-key")?, call.values("key")?);
    if roots.is_empty() && keys.is_empty() {
        return Err(Error::usage("names no key").hint("give --root-key FILE.pub and --key FILE.pub"));
    }
    const ALL: &[Kind] = &[Kind::Desired, Kind::Cmd, Kind::Config, Kind::Keyset];
    const SOME: &[Kind] = &[Kind::Desired, Kind::Cmd];
    let named = roots.iter().map(|file| (file, ALL)).chain(keys.iter().map(|file| (file, SOME)));
    let mut made: Vec<(KeyId, Out)> = Vec::new();
    for (file, types) in named {
        let key = public(file)?;
        if made.iter().any(|(id, _)| *id == key.id) {
            return Err(Error::usage(format!("key {} is named twice", key.id)));
        }
        let types = types.iter().map(|kind| Out::text(kind.word())).collect();
        made.push((key.id, Out::object([("key", Out::text(key)), ("types", Out::List(types))])));
    }
    let keys = Out::List(made.into_iter().map(|(_, out)| out).collect());
    let head = [("wherry", Out::Whole(SCHEMA))].into_iter().chain(addressed(call)?).chain([("keys", keys)]);
    print::bytes(Out::Object(head.map(|(key, value)| (key.to_owned(), value)).collect()).pretty().as_bytes())?;
    Ok(0)
}

/// Number and target, for one that is signed elsewhere; `apply` puts them in itself.
fn addressed(call: &Call) -> Result<Vec<(&'static str, Out)>, Error> {
    let whom = match Address::of(call)? {
        None => return Ok(Vec::new()),
        Some(Address::Group(id)) => Whom::Group(id),
        Some(Address::Devices(ids)) if ids.len() == 1 => Whom::Device(ids[0].clone()),
        Some(_) => return Err(Error::usage("a keyset is for one device or one group").hint("`wherryctl apply` publishes it for many")),
    };
    let target = Target { fleet: settings::load(call)?.root, whom };
    Ok(vec![("seq", Out::Whole(unix_ms())), ("target", crate::manifest::render::target(&target))])
}

fn show(call: &Call) -> Result<u8, Error> {
    let settings = settings::load(call)?;
    let address = Address::of(call)?;
    let filters =
        [&topics::keysets_everywhere(&settings.root)[..], &["reported", "presence"].map(|rest| topics::out(&settings.root, None, rest))];
    block_on(async {
        let session = Session::open(&settings, &filters.concat()).await?;
        let meant = address.map(|address| address.resolve(&session.fleet, now())).transpose()?;
        let is_meant = |whom: &Whom| meant.as_ref().is_none_or(|meant| meant.contains(whom));
        let kept = |(topic, payload): (&String, &Vec<u8>)| Some((topics::whose_keyset(&session.root, topic)?, opened(payload)));
        let kept: Vec<(Whom, Vec<u8>)> = session.kept.iter().filter_map(kept).filter(|(whom, _)| is_meant(whom)).collect();
        let devices = session.fleet.devices.iter().filter(|(id, _)| is_meant(&Whom::Device((*id).clone())));
        let in_force: Vec<(String, Vec<String>)> =
            devices.filter_map(|(id, device)| Some((id.to_string(), device.about.as_ref()?.keys.clone()))).collect();
        if call.json() {
            as_json(&session, &kept, &in_force)?
        } else {
            as_table(&session, &kept, &in_force)?
        }
        session.link.close().await;
        Ok(0)
    })
}

fn as_json(session: &Session, kept: &[(Whom, Vec<u8>)], in_force: &[(String, Vec<String>)]) -> Result<(), Error> {
    let document = |payload: &[u8]| serde_json::from_slice::<Json>(payload).unwrap_or_default();
    let keysets: Vec<Json> =
        kept.iter().map(|(of, payload)| json!({"target": session.target(of), "document": document(payload)})).collect();
    let devices: Vec<Json> = in_force.iter().map(|(id, keys)| json!({"device": id, "keys": keys})).collect();
    print::json(&json!({"keysets": keysets, "devices": devices}))
}

fn as_table(session: &Session, kept: &[(Whom, Vec<u8>)], in_force: &[(String, Vec<String>)]) -> Result<(), Error> {
    let mut table = Table::new(&["KEYSET OF", "SEQ", "KEY", "MAY SIGN"]);
    for (of, payload) in kept {
        let name = whom(&session.target(of));
        match KeysetDocument::parse(payload) {
            Err(faults) => table.row(&[&name, "-", "-", &faults.0.first().map_or_else(String::new, Fault::sentence)]),
            Ok(document) if document.keys.is_empty() => table.row(&[&name, &document.seq.to_string(), "-", "names no key"]),
            Ok(document) => document
                .keys
                .iter()
                .for_each(|grant| table.row(&[&name, &document.seq.to_string(), &grant.key.id.to_string(), &scope(grant)])),
        }
    }
    let mut devices = Table::new(&["DEVICE", "TRUSTS"]);
    for (id, keys) in in_force {
        let none = "no key: it takes what is not signed".to_owned();
        devices.row(&[id, &if keys.is_empty() { none } else { keys.join(", ") }]);
    }
    print::bytes(format!("{}\n{}", table.text(), devices.text()).as_bytes())
}

/// `desired, cmd; of web; for router-17, group north; from 5 on`.
fn scope(grant: &Grant) -> String {
    let join = |words: Vec<String>| words.join(", ");
    let mut out = join(grant.types.iter().map(ToString::to_string).collect());
    if let Some(apps) = &grant.apps {
        out.push_str(&format!("; of {}", join(apps.iter().map(ToString::to_string).collect())));
    }
    if let Some(targets) = &grant.targets {
        let name = |of: &Whom| whom(&Target { fleet: String::new(), whom: of.clone() });
        out.push_str(&format!("; for {}", join(targets.iter().map(name).collect())));
    }
    if grant.min_seq > 0 {
        out.push_str(&format!("; from {} on", grant.min_seq));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::base64;

    fn key(n: u8) -> String {
        base64::encode(&[b"Ed", &[n; 40][..]].concat())
    }

    fn grant(n: u8, rest: &str) -> String {
        format!(r#"{{"key":"{}",{rest}}}"#, key(n))
    }

    fn keyset(language: Language, text: &str) -> Keyset {
        let (found, faults) = examine("x", language, text).expect("it is a keyset");
        found.unwrap_or_else(|| panic!("{text}: {faults}"))
    }

    fn device() -> Target {
        Target { fleet: "wherry".into(), whom: Whom::Device("r".parse().unwrap()) }
    }

    fn grants(keys: &[String]) -> Vec<Grant> {
        keyset(Language::Json, &text(keys)).keys
    }

    fn text(keys: &[String]) -> String {
        format!(r#"{{"wherry":1,"keys":[{}]}}"#, keys.join(","))
    }

    /// Before it stood `before`; key 9 is `signing_key`, and the signer is `by`.
    fn check(keys: &[String], before: &[String], by: u8, cautions: &[&str]) {
        let id = |n: u8| key(n).parse::<crate::trust::PublicKey>().unwrap().id;
        let (target, before, fileless) = (device(), grants(before), ["bare".parse().unwrap()]);
        let about = About { target: &target, seq: 100, before: &before, signers: &[id(by)], own: Some(id(9)), fileless: &fileless };
        let found = keyset(Language::Json, &text(keys)).cautions(&about);
        assert_eq!(found.len(), cautions.len(), "{found:?}");
        assert!(found.iter().zip(cautions).all(|(found, part)| found.contains(part)), "{found:?}");
    }

    #[test]
    fn what_a_keyset_would_lock_out_is_told() {
        let root = || grant(1, r#""types":["keyset"]"#);
        let with = |rest: &str| [root(), grant(2, rest)];
        let (desired, none) =
            (r#""types":["desired"]"#, "names no root key (\"keyset\" in `types`): bare, which has no key in a file, refuses it");
        check(&with(desired), &[], 1, &[]);
        check(&with(r#""types":["desired"],"min_seq":100,"targets":[{"device":"r"}]"#), &with(desired), 1, &[]);
        check(&[], &[], 1, &[none]);
        check(&[grant(2, desired)], &[root()], 1, &[none]);
        check(&with(desired), &with(desired), 2, &["key 0202020202020202, which signs it, is no root key by the keyset before"]);
        check(
            &with(r#""types":["cmd"],"min_seq":101"#),
            &[],
            1,
            &["key 0202020202020202 signs nothing that is numbered now: its min_seq 101 is above 100"],
        );
        check(&with(r#""types":["config"]"#), &[], 1, &["signs nothing: devices of this release take no documents of type config"]);
        check(&with(r#""types":["desired"],"targets":[{"device":"a"}]"#), &[], 1, &["signs nothing for r, whom"]);
        check(&with(r#""types":["desired"],"targets":[{"device":"a"},{"group":"g"}]"#), &[], 1, &[]);
        check(
            &[root()],
            &[root(), grant(9, desired)],
            1,
            &["key 0909090909090909, which is `signing_key` of the settings, counts no more"],
        );
    }

    #[test]
    fn a_keyset_in_any_language_is_checked_where_it_stands_and_has_number_and_target_put_in() {
        let yaml = format!("wherry: 1\nkeys:\n  - key: {}\n    types: [desired]\n", key(1));
        let secret = SecretKey::generate().unwrap();
        let ready = keyset(Language::Yaml, &yaml).ready(7, &device(), &[secret]).unwrap();
        let document = KeysetDocument::parse(&opened(&ready.payload)).unwrap();
        assert_eq!((document.seq, document.target, ready.sha256), (7, device(), Digest::of(&opened(&ready.payload))));
        assert!(keyset(Language::Yaml, &yaml).ready(7, &device(), &[]).unwrap_err().to_string().contains("must be signed by a root key"));
        let (none, faults) = examine("x", Language::Yaml, &yaml.replace("desired", "wishes")).unwrap();
        assert!(none.is_none() && (faults.0[0].line, faults.0[0].column) == (4, 13), "{faults}");
        for other in ["wherry: 1\napp: web\n", "{", "keys: 1\napp: web\n", "payload: x\ntype: desired\n"] {
            assert!(examine("x", Language::Yaml, other).is_none(), "{other}");
        }
    }
}
