//! What a key may sign, and whether one of those who signed a document may.

use super::envelope::{Envelope, Kind, message};
use super::key::{KeyId, PublicKey};
use super::keyset::Keyset;
use crate::manifest::{Body, Manifest, Name, Whom};
use crate::protocol::Reason;
use serde::{Deserialize, Serialize};

/// A reason of the wire contract, and the sentence.
pub type Objection = (Reason, String);

/// A trusted key, and what it may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The key.
    pub key: PublicKey,
    /// Documents of these types.
    pub types: Vec<Kind>,
    /// For these apps; `None` for all.
    pub apps: Option<Vec<Name>>,
    /// For these targets; `None` for all.
    pub targets: Option<Vec<Whom>>,
    /// Sequence numbers from here on.
    pub min_seq: u64,
}

/// What a document says of itself, as far as it matters who may sign it.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its app, if it has one.
    pub app: Option<&'a Name>,
    /// Whom it is for.
    pub whom: &'a Whom,
    /// Its sequence number, if it has one.
    pub seq: Option<u64>,
}

impl Grant {
    /// A key that may sign everything.
    pub fn root(key: PublicKey) -> Self {
        let types = vec![Kind::Desired, Kind::Cmd, Kind::Config, Kind::Keyset];
        Self { key, types, apps: None, targets: None, min_seq: 0 }
    }

    /// It may say which keys are trusted.
    pub fn is_root(&self) -> bool {
        self.types.contains(&Kind::Keyset)
    }

    fn permits(&self, claim: &Claim) -> Result<(), Objection> {
        let id = self.key.id;
        let outside = |what: String| Err((Reason::OutOfScope, format!("key {id} may not sign {what}")));
        let app = |apps: &Vec<Name>| claim.app.is_some_and(|app| apps.contains(app));
        if !self.types.contains(&claim.kind) {
            return outside(format!("documents of type {}", claim.kind));
        }
        if self.apps.as_ref().is_some_and(|apps| !app(apps)) {
            return outside(claim.app.map_or("what is for no single app".into(), |app| format!("for app {app}")));
        }
        if self.targets.as_ref().is_some_and(|targets| !targets.contains(claim.whom)) {
            return outside(match claim.whom {
                Whom::Device(device) => format!("for device {device}"),
                Whom::Group(group) => format!("for group {group}"),
            });
        }
        match claim.seq.filter(|seq| *seq < self.min_seq) {
            Some(seq) => {
                Err((Reason::Stale, format!("sequence number {seq} is below {}, the lowest that key {id} may sign", self.min_seq)))
            }
            None => Ok(()),
        }
    }
}

/// The trusted keys of which the envelope has a good signature; at least one.
///
/// # Errors
/// `unknown_key` if nobody who is said to have signed is known here, `bad_signature` if no signature of a known key is good.
pub fn signers(trusted: &[Grant], envelope: &Envelope) -> Result<Vec<Grant>, Objection> {
    let of = |grant: &&Grant| envelope.signatures.iter().find(|s| s.key == grant.key.id);
    let known: Vec<&Grant> = trusted.iter().filter(|g| of(g).is_some()).collect();
    if known.is_empty() {
        let named = list(envelope.signatures.iter().map(|s| s.key));
        return Err((Reason::UnknownKey, format!("this device does not trust key {named}, by which the document is signed")));
    }
    let message = message(envelope.kind, &envelope.payload);
    let good: Vec<Grant> = known.iter().filter(|g| of(g).is_some_and(|s| g.key.verify(&message, s))).map(|g| (*g).clone()).collect();
    if good.is_empty() {
        let named = list(known.iter().map(|g| g.key.id));
        return Err((Reason::BadSignature, format!("the signature of key {named} is not over these bytes and this type")));
    }
    Ok(good)
}

fn list(ids: impl Iterator<Item = KeyId>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

/// Whether one of those who signed may say this.
///
/// # Errors
/// `out_of_scope`, or `stale` if the sequence number alone is in the way.
pub fn permit(signers: &[Grant], claim: &Claim) -> Result<(), Objection> {
    let mut why = (Reason::Unsigned, "nobody signed it".to_owned());
    for signer in signers {
        match signer.permits(claim) {
            Ok(()) => return Ok(()),
            // Who only came too late was the nearest to it.
            Err(objection) if why.0 != Reason::Stale => why = objection,
            Err(_) => {}
        }
    }
    Err(why)
}

/// What a manifest lacks that a signed one must have: reason, path, and sentence of each.
pub fn lacks(m: &Manifest) -> Vec<(Reason, String, &'static str)> {
    let mut found = Vec::new();
    if m.target.is_none() {
        found.push((Reason::WrongTarget, String::new(), "a signed document must have `target`, or it could be replayed elsewhere"));
    }
    if m.seq.is_none() {
        found.push((Reason::Stale, String::new(), "a signed document must have `seq`, or it could be replayed later"));
    }
    let containers = if let Body::Run(containers) = &m.body { containers.as_slice() } else { &[] };
    for c in containers.iter().filter(|c| c.image.digest.is_none()) {
        // A name alone would let somebody else choose what runs.
        found.push((Reason::BadValue, format!("containers.{}.image", c.name), "needs `digest` in a signed document"));
    }
    found
}

/// All keys in force: those of the device's files, which may sign everything; then of the keysets, in their order, those whose number is not there yet.
pub fn in_force<'a>(files: &[PublicKey], keysets: impl IntoIterator<Item = &'a Keyset>) -> Vec<Grant> {
    let mut all: Vec<Grant> = files.iter().map(|key| Grant::root(*key)).collect();
    for grant in keysets.into_iter().flat_map(|keyset| &keyset.keys) {
        if !all.iter().any(|known| known.key.id == grant.key.id) {
            all.push(grant.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{Claim, Grant, in_force, permit, signers};
    use crate::image::Digest;
    use crate::ipc::Origin;
    use crate::manifest::Whom;
    use crate::protocol::Reason;
    use crate::trust::{Envelope, Keyset, Kind, PublicKey, Signature, base64, message};
    use ring::signature::{Ed25519KeyPair, KeyPair};

    /// A pair whose seed and number are this byte over and over.
    fn pair(n: u8) -> (Ed25519KeyPair, PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap();
        let key = named(n, &pair);
        (pair, key)
    }

    fn named(number: u8, pair: &Ed25519KeyPair) -> PublicKey {
        base64::encode(&[b"Ed", &[number; 8][..], pair.public_key().as_ref()].concat()).parse().unwrap()
    }

    fn sealed(kind: Kind, payload: &[u8], by: &[u8]) -> Envelope {
        let sign = |n: &u8| {
            let (pair, key) = pair(*n);
            Signature::new(key.id, pair.sign(&message(kind, payload)).as_ref().try_into().unwrap())
        };
        Envelope { kind, payload: payload.to_vec(), signatures: by.iter().map(sign).collect() }
    }

    fn trusted(of: &[u8]) -> Vec<Grant> {
        of.iter().map(|n| Grant::root(pair(*n).1)).collect()
    }

    fn who(trusted: &[Grant], envelope: &Envelope) -> Result<Vec<Grant>, Reason> {
        signers(trusted, envelope).map_err(|(reason, _)| reason)
    }

    #[test]
    fn a_good_signature_of_one_trusted_key_is_enough() {
        for by in [&[1][..], &[1, 2], &[2, 1], &[3, 2, 1]] {
            assert_eq!(who(&trusted(&[1]), &sealed(Kind::Desired, b"{}", by)), Ok(trusted(&[1])), "{by:?}");
        }
        assert_eq!(who(&trusted(&[1, 2]), &sealed(Kind::Desired, b"{}", &[2, 1])), Ok(trusted(&[1, 2])));
        let mut half_good = sealed(Kind::Desired, b"{}", &[1, 2]);
        half_good.signatures[0] = Signature::new(half_good.signatures[0].key, [0; 64]);
        assert_eq!(who(&trusted(&[1, 2]), &half_good), Ok(trusted(&[2])));
    }

    #[test]
    fn nobody_known_and_nothing_good_are_told_apart() {
        let good = sealed(Kind::Desired, b"{}", &[1]);
        assert_eq!(who(&trusted(&[]), &good), Err(Reason::UnknownKey));
        assert_eq!(who(&trusted(&[2]), &good), Err(Reason::UnknownKey));
        let changed = Envelope { payload: b"{ }".to_vec(), ..good.clone() };
        assert_eq!(who(&trusted(&[1, 2]), &changed), Err(Reason::BadSignature));
        let elsewhere = Envelope { kind: Kind::Cmd, ..good.clone() };
        assert_eq!(who(&trusted(&[1]), &elsewhere), Err(Reason::BadSignature));
        // A signature of one key under the number of another.
        let renamed = Signature::of(pair(2).1.id, &good.signatures[0].text()).unwrap();
        let renamed = Envelope { signatures: vec![renamed], ..good };
        assert_eq!(who(&trusted(&[1, 2]), &renamed), Err(Reason::BadSignature));
    }

    fn limited() -> Grant {
        let targets = vec![Whom::Device("r1".parse().unwrap()), Whom::Group("g".parse().unwrap())];
        let apps = vec!["web".parse().unwrap(), "db".parse().unwrap()];
        Grant { types: vec![Kind::Desired, Kind::Cmd], apps: Some(apps), targets: Some(targets), min_seq: 10, ..Grant::root(pair(1).1) }
    }

    fn check(signers: &[Grant], kind: Kind, app: Option<&str>, whom: Whom, seq: Option<u64>, expect: Result<(), Reason>) {
        let app = app.map(|app| app.parse().unwrap());
        let got = permit(signers, &Claim { kind, app: app.as_ref(), whom: &whom, seq });
        assert_eq!(got.map_err(|(reason, _)| reason), expect, "{kind} {app:?} {whom:?} {seq:?}");
    }

    #[test]
    fn a_key_may_sign_within_its_scope_only() {
        let key = [limited()];
        let (device, group) = (|id: &str| Whom::Device(id.parse().unwrap()), |id: &str| Whom::Group(id.parse().unwrap()));
        let outside = Err(Reason::OutOfScope);
        for (kind, app, whom, seq, expect) in [
            (Kind::Desired, Some("web"), device("r1"), Some(10), Ok(())),
            (Kind::Desired, Some("db"), group("g"), Some(11), Ok(())),
            (Kind::Cmd, Some("db"), device("r1"), None, Ok(())),
            (Kind::Cmd, None, device("r1"), None, outside),
            (Kind::Desired, Some("www"), device("r1"), Some(10), outside),
            (Kind::Desired, Some("web"), device("r2"), Some(10), outside),
            (Kind::Desired, Some("web"), device("g"), Some(10), outside),
            (Kind::Desired, Some("web"), group("r1"), Some(10), outside),
            (Kind::Keyset, None, device("r1"), Some(10), outside),
            (Kind::Desired, Some("web"), device("r1"), Some(9), Err(Reason::Stale)),
            (Kind::Desired, Some("web"), device("r2"), Some(9), outside),
        ] {
            check(&key, kind, app, whom, seq, expect);
        }
        check(&[], Kind::Desired, Some("web"), device("r1"), Some(10), Err(Reason::Unsigned));
    }

    #[test]
    fn one_signer_who_may_is_enough_and_the_nearest_miss_is_told() {
        let elsewhere = Grant { apps: Some(vec!["other".parse().unwrap()]), min_seq: 0, ..limited() };
        let late = Grant { min_seq: 99, ..limited() };
        let here = || Whom::Device("r1".parse().unwrap());
        for (signers, expect) in [
            (vec![elsewhere.clone(), limited()], Ok(())),
            (vec![late.clone(), limited()], Ok(())),
            (vec![elsewhere.clone(), late.clone()], Err(Reason::Stale)),
            (vec![late, elsewhere], Err(Reason::Stale)),
        ] {
            check(&signers, Kind::Desired, Some("web"), here(), Some(10), expect);
        }
    }

    #[test]
    fn a_key_file_wins_over_keysets_and_the_first_keyset_over_the_others() {
        let keyset = |keys: Vec<Grant>| Keyset { origin: Origin::Device, seq: 1, sha256: Digest::of(b""), keys };
        let weak = |n: u8, min_seq| Grant { types: vec![Kind::Desired], min_seq, ..Grant::root(pair(n).1) };
        // Another key under the number of the file's.
        let thief = Grant { key: named(1, &pair(3).0), ..weak(3, 0) };
        let sets = [keyset(vec![weak(1, 7), weak(2, 8)]), keyset(vec![weak(2, 9), weak(4, 1)]), keyset(vec![thief])];
        assert_eq!(in_force(&[pair(1).1], &sets), [Grant::root(pair(1).1), weak(2, 8), weak(4, 1)]);
        assert_eq!(in_force(&[], &sets[1..2]), [weak(2, 9), weak(4, 1)]);
    }
}
