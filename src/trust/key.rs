//! Public keys and signatures as usign, signify and minisign write them, and the check of one by the other.
//!
//! The file of a public key has two lines: a comment, and base64 of `Ed`, the key's number (8 bytes) and the Ed25519 key (32 bytes). A signature's is
//! alike, with 64 bytes of signature (signify.c of OpenBSD; minisign's manual has the same). Who has a key's number has said nothing: it is a name,
//! not a hash.

use super::base64;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most bytes of a key's file: signify's comment has at most 1024.
pub const MAX_FILE: usize = 2048;

/// What a comment line begins with.
const COMMENT: &str = "untrusted comment:";
/// Ed25519 over the message itself.
const PURE: [u8; 2] = *b"Ed";
/// Ed25519 over the message's BLAKE2b hash, minisign's default.
const PREHASHED: [u8; 2] = *b"ED";
const ID: usize = 8;
const KEY: usize = 32;
const SIGNATURE: usize = 64;

/// The number of a key: 16 hex digits, as `usign -F` prints it. minisign prints the same bytes in reverse order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId([u8; ID]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let hex = s.len() == 2 * ID && s.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(s, 16).ok().filter(|_| hex);
        number.map(|n| Self(n.to_be_bytes())).ok_or_else(|| "must be 16 lower-case hex digits, as `usign -F` prints them".into())
    }
}

/// A public key with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// Its number.
    pub id: KeyId,
    key: [u8; KEY],
}

impl PublicKey {
    /// Reads the two lines of a key's file.
    ///
    /// # Errors
    /// The sentence.
    pub fn of_file(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if !lines.next().is_some_and(|line| line.starts_with(COMMENT)) {
            return Err(format!("is no public key: its first line does not start with {COMMENT:?}"));
        }
        let key = lines.next().unwrap_or_default().parse()?;
        if lines.any(|line| !line.is_empty()) { Err("has more than the two lines of a public key".into()) } else { Ok(key) }
    }

    /// Whether this key made that signature over these bytes.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        self.id == signature.key && UnparsedPublicKey::new(&ED25519, self.key).verify(message, &signature.bytes).is_ok()
    }
}

/// The second line of a key's file.
impl FromStr for PublicKey {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bytes = base64::decode(s).ok_or("must be base64, the second line of a public key's file")?;
        match parts::<KEY>(&bytes) {
            Some((PURE, id, key)) => Ok(Self { id, key }),
            _ if bytes.len() > 2 + ID + KEY => Err("is no public key, but something longer (a signature, or a secret key?)".into()),
            _ => Err("is no Ed25519 public key of usign, signify or minisign".into()),
        }
    }
}

impl fmt::Display for PublicKey {
    /// The second line of its file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64::encode(&[&PURE[..], &self.id.0, &self.key].concat()))
    }
}

/// A signature with the number of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Which key is said to have made it.
    pub key: KeyId,
    bytes: [u8; SIGNATURE],
}

impl Signature {
    /// From the 64 bytes that a library gives.
    pub fn new(key: KeyId, bytes: [u8; SIGNATURE]) -> Self {
        Self { key, bytes }
    }

    /// From base64 of the 64 bytes, or of a signature as the tools write it (the second line of its file), which must then be of this very key.
    ///
    /// # Errors
    /// The sentence.
    pub fn of(key: KeyId, text: &str) -> Result<Self, String> {
        let bytes = base64::decode(text).ok_or("must be base64")?;
        if let Ok(bytes) = <[u8; SIGNATURE]>::try_from(&bytes[..]) {
            return Ok(Self { key, bytes });
        }
        match parts::<SIGNATURE>(&bytes) {
            Some((PURE, id, bytes)) if id == key => Ok(Self { key, bytes }),
            Some((PURE, id, _)) => Err(format!("is of key {id}")),
            Some((PREHASHED, ..)) => Err("is over a hash of the document, not over the document: sign with `minisign -S -l`".into()),
            _ => Err("must be the 64 bytes of an Ed25519 signature, or the second line of a signature's file".into()),
        }
    }

    /// Base64 of the 64 bytes.
    pub fn text(&self) -> String {
        base64::encode(&self.bytes)
    }
}

/// Algorithm, key number, and the rest, if that has `N` bytes.
fn parts<const N: usize>(bytes: &[u8]) -> Option<([u8; 2], KeyId, [u8; N])> {
    let (algorithm, bytes) = bytes.split_first_chunk()?;
    let (id, rest) = bytes.split_first_chunk()?;
    Some((*algorithm, KeyId(*id), rest.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{KeyId, PublicKey, Signature, base64};

    /// Made by signify-openbsd 31, which signed `hello`.
    const SIGNIFY: &str = "untrusted comment: signify public key\nRWSqhL6E6Z4PUsioQjGqJfAT8Zo7hyAy4MsYC4AJCTWmw0HZdDeHXUgc\n";
    const SIGNIFY_SIGNATURE: &str = "RWSqhL6E6Z4PUpRKJlGKC3KYymqf5Wz8zYVvYzNJnUDUE/h9kyXxi3eXyJvmpYxQrZb95ajUWITrDjPKEB3NpIrWBMKmRxUbRA0=";
    /// Made by minisign 0.11, which signed `hello` with -l and with -H.
    const MINISIGN: &str =
        "untrusted comment: minisign public key 1B52D267566794F2\nRWTylGdWZ9JSGwqAb6IANoTDGLrohX2HBszmpK8MaMycxnoVfm0D1KKK\n";
    const MINISIGN_SIGNATURE: &str = "RWTylGdWZ9JSG1MwPKMJz1PZQZkcSgDvx4ThFrFkvQ/wyAS7tqdmxzHu/demOwb3KRKIhJkimavj78+8Ja0L7hjpPmObTwc/lgg=";
    const PREHASHED: &str = "RUTylGdWZ9JSG3bRxsvlqlPChtsQv86kEtrdtY94J20cVlCdOoj54P7S+OQo+Q5qxZ+YJzrqJsliuCIQLxNDN4fLr8sip6s/3gI=";

    fn keys() -> [PublicKey; 2] {
        [SIGNIFY, MINISIGN].map(|file| PublicKey::of_file(file).unwrap())
    }

    #[test]
    fn keys_of_the_tools_are_read_and_named_as_usign_names_them() {
        assert_eq!(keys().map(|k| k.id.to_string()), ["aa84be84e99e0f52", "f294675667d2521b"]);
        for (key, file) in keys().iter().zip([SIGNIFY, MINISIGN]) {
            assert_eq!(key.to_string(), file.lines().nth(1).unwrap());
            assert_eq!(key.id.to_string().parse(), Ok(key.id));
        }
    }

    #[test]
    fn a_signature_of_the_tools_is_good_over_its_message_alone_by_its_key_alone() {
        let [signify, minisign] = keys();
        for (key, other, text) in [(signify, minisign, SIGNIFY_SIGNATURE), (minisign, signify, MINISIGN_SIGNATURE)] {
            let signature = Signature::of(key.id, text).unwrap();
            assert!(key.verify(b"hello", &signature) && !key.verify(b"hello\n", &signature) && !other.verify(b"hello", &signature));
            // Another key that took this one's number.
            let thief = PublicKey { id: key.id, ..other };
            assert!(!thief.verify(b"hello", &signature));
            let raw = signature.text();
            assert_eq!((raw.len(), Signature::of(key.id, &raw)), (88, Ok(signature)));
            for bit in 0..64 * 8 {
                let mut bad = signature;
                bad.bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(!key.verify(b"hello", &bad), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_no_signature_for_us_is_told_why() {
        let [signify, minisign] = keys();
        for (text, word) in [
            (PREHASHED, "minisign -S -l"),
            (SIGNIFY_SIGNATURE, "is of key aa84be84e99e0f52"),
            ("AAAA", "64 bytes"),
            ("", "64 bytes"),
            ("not base64", "base64"),
        ] {
            let why = Signature::of(minisign.id, text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
        assert!(Signature::of(signify.id, &SIGNIFY_SIGNATURE.replace("RWS", "RXS")).is_err());
    }

    #[test]
    fn what_is_no_public_key_is_told_why() {
        let line = |bytes: &[u8]| format!("untrusted comment: x\n{}\n", base64::encode(bytes));
        for (text, word) in [
            (String::new(), "first line"),
            (SIGNIFY.lines().nth(1).unwrap().to_owned(), "first line"),
            ("untrusted comment: x".into(), "no Ed25519"),
            (format!("untrusted comment: x\n{SIGNIFY_SIGNATURE}"), "signature"),
            (line(&[b"Ed".as_slice(), &[0; 39]].concat()), "no Ed25519"),
            (line(&[b"ED".as_slice(), &[0; 40]].concat()), "no Ed25519"),
            (format!("{SIGNIFY}{SIGNIFY}"), "two lines"),
            ("untrusted comment: x\n?".into(), "base64"),
        ] {
            let why = PublicKey::of_file(&text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
        assert!(PublicKey::of_file(&SIGNIFY.replace('\n', "\r\n")).is_ok(), "edited elsewhere");
    }

    #[test]
    fn a_key_number_has_one_spelling() {
        for text in ["", "aa84be84e99e0f5", "AA84BE84E99E0F52", "+a84be84e99e0f52", "aa84be84e99e0f521", "0xa84be84e99e0f5"] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
    }
}
