//! Secret keys of the operator, in the format of signify and usign without a passphrase, and what they sign.
//!
//! The file has two lines: a comment, and base64 of `Ed`, `BK`, the rounds of the key derivation (4 bytes; 0: none, so no passphrase), its salt (16),
//! the first 8 bytes of the secret's SHA-512, the key's number (8), and the secret: seed and public key, 32 bytes each (signify.c of OpenBSD).

use super::document::Ready;
use crate::exit::{Code, Error};
use crate::manifest::MAX_PAYLOAD;
use crate::sys::fd::read_file;
use crate::trust::{Envelope, Kind, MAX_FILE, PublicKey, Signature, base64, message};
use ring::digest::{SHA512, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::path::Path;

const ALGORITHMS: [u8; 4] = *b"EdBK";
const ROUNDS: usize = 4;
const SALT: usize = 16;
const CHECKSUM: usize = 8;
const NUMBER: usize = 8;
const SEED: usize = 32;
/// Where the secret begins.
const FRONT: usize = ALGORITHMS.len() + ROUNDS + SALT + CHECKSUM + NUMBER;

/// A key that signs.
pub struct SecretKey {
    number: [u8; NUMBER],
    seed: [u8; SEED],
    pair: Ed25519KeyPair,
    /// What belongs to it.
    pub public: PublicKey,
}

// It must not end in a log by way of `{:?}`.
impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretKey({})", self.public.id)
    }
}

impl SecretKey {
    fn new(number: [u8; NUMBER], seed: [u8; SEED]) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|e| format!("is no Ed25519 key: {e}"))?;
        let public = base64::encode(&[&ALGORITHMS[..2], &number, pair.public_key().as_ref()].concat()).parse()?;
        Ok(Self { number, seed, pair, public })
    }

    /// Another key than all there are.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn generate() -> Result<Self, String> {
        let (mut number, mut seed) = ([0; NUMBER], [0; SEED]);
        let random = SystemRandom::new();
        random.fill(&mut number).and_then(|()| random.fill(&mut seed)).map_err(|_| "the kernel gives no randomness")?;
        Self::new(number, seed)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no secret key without a passphrase.
    pub fn of_file(file: &Path) -> Result<Self, Error> {
        let bytes = read_file(file, MAX_FILE).map_err(|e| Error::io(format!("cannot read the key {}", file.display()), &e))?;
        Self::parse(&bytes).map_err(|why| Error::new(Code::BadData, format!("cannot sign with {}: it {why}", file.display())))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is no secret key: it is not text")?;
        let line = text.lines().nth(1).unwrap_or_default();
        let raw = base64::decode(line).ok_or("is no secret key: its second line is not base64")?;
        if PublicKey::of_file(text).is_ok() {
            return Err("is the public key; the secret one signs".into());
        }
        // 158 bytes, and `B2` for its hash, are minisign's.
        if raw.len() == 158 {
            return Err("is a key of minisign: sign with minisign itself, or make one with `wherryctl keygen`".into());
        }
        let secret: Option<[u8; 2 * SEED]> = raw.get(FRONT..).and_then(|rest| rest.try_into().ok());
        let secret = secret.filter(|_| raw.starts_with(&ALGORITHMS)).ok_or("is no secret key of signify, usign or wherryctl")?;
        let part = |from: usize, length: usize| &raw[from..from + length];
        let front = ALGORITHMS.len();
        if part(front, ROUNDS) != [0; ROUNDS] {
            return Err("has a passphrase, which cannot be asked for here: sign with signify itself".into());
        }
        if part(front + ROUNDS + SALT, CHECKSUM) != checksum(&secret) {
            return Err("is damaged: its checksum is wrong".into());
        }
        let (seed, public) = secret.split_at(SEED);
        let number = part(FRONT - NUMBER, NUMBER).try_into().unwrap_or_default();
        let key = Self::new(number, seed.try_into().unwrap_or_default())?;
        if key.pair.public_key().as_ref() != public { Err("is damaged: its halves do not belong together".into()) } else { Ok(key) }
    }

    /// The file, for its owner alone.
    pub fn file(&self) -> String {
        let secret = [&self.seed[..], self.pair.public_key().as_ref()].concat();
        let raw = [&ALGORITHMS[..], &[0; ROUNDS], &[0; SALT], &checksum(&secret), &self.number, &secret].concat();
        format!("untrusted comment: wherryctl secret key {}\n{}\n", self.public.id, base64::encode(&raw))
    }

    /// The file of the public key, for devices.
    pub fn public_file(&self) -> String {
        format!("untrusted comment: wherryctl public key {}\n{}\n", self.public.id, self.public)
    }

    /// The signature over a document of this type.
    pub fn sign(&self, kind: Kind, payload: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(&message(kind, payload)).as_ref());
        Signature::new(self.public.id, bytes)
    }
}

fn checksum(secret: &[u8]) -> [u8; CHECKSUM] {
    digest(&SHA512, secret).as_ref()[..CHECKSUM].try_into().unwrap_or_default()
}

/// Puts an envelope around a document, signed by each of the keys. Without keys it stays as it is.
///
/// # Errors
/// It is too large for a device then.
pub fn seal(kind: Kind, payload: &[u8], keys: &[SecretKey]) -> Result<Vec<u8>, Error> {
    if keys.is_empty() {
        return Ok(payload.to_vec());
    }
    let signatures = keys.iter().map(|key| key.sign(kind, payload)).collect();
    let sealed = Envelope { kind, payload: payload.to_vec(), signatures }.encode();
    if sealed.len() > MAX_PAYLOAD {
        let message = format!("{} bytes with signature are too many, devices take at most {MAX_PAYLOAD}", sealed.len());
        return Err(Error::new(Code::BadData, message).hint("an envelope is a third larger than what is in it"));
    }
    Ok(sealed)
}

impl Ready {
    /// The same in an envelope.
    ///
    /// # Errors
    /// As [`seal`].
    pub fn sealed(self, kind: Kind, keys: &[SecretKey]) -> Result<Self, Error> {
        Ok(Self { payload: seal(kind, &self.payload, keys)?, ..self })
    }
}

/// The document in an envelope, which nothing here vouches for; what is none is the document itself.
pub fn opened(payload: &[u8]) -> Vec<u8> {
    match Envelope::parse(payload) {
        Ok(envelope) => envelope.payload,
        Err(_) => payload.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by signify-openbsd 31 with -n, and by minisign 0.11 with -W.
    const SIGNIFY: &str = include_str!("../../tests/fleet/keys/signify.sec");
    const SIGNIFY_PUBLIC: &str = include_str!("../../tests/fleet/keys/signify.pub");
    const MINISIGN: &str = include_str!("../../tests/fleet/keys/minisign.sec");

    #[test]
    fn a_key_of_signify_is_read_and_belongs_to_its_public_one() {
        let key = SecretKey::parse(SIGNIFY.as_bytes()).unwrap();
        let public = PublicKey::of_file(SIGNIFY_PUBLIC).unwrap();
        assert_eq!(key.public, public);
        let signature = key.sign(Kind::Desired, b"{}");
        assert!(public.verify(b"wherry-v1:desired:{}", &signature) && !public.verify(b"{}", &signature));
        let raw = |file: &str| base64::decode(file.lines().nth(1).unwrap()).unwrap();
        let salt = ALGORITHMS.len() + ROUNDS + SALT;
        assert_eq!(raw(&key.file())[salt..], raw(SIGNIFY)[salt..]);
    }

    #[test]
    fn a_new_key_is_read_as_it_was_written() {
        let (key, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        assert_eq!(SecretKey::parse(key.file().as_bytes()).unwrap().public, key.public);
        assert_eq!(PublicKey::of_file(&key.public_file()), Ok(key.public));
        assert!(key.public.id != other.public.id && !format!("{key:?}").contains(&base64::encode(&key.seed)));
    }

    #[test]
    fn what_cannot_sign_is_told_why() {
        let raw = base64::decode(SIGNIFY.lines().nth(1).unwrap()).unwrap();
        let with = |at: usize, byte: u8| {
            let mut raw = raw.clone();
            raw[at] ^= byte;
            format!("untrusted comment: x\n{}\n", base64::encode(&raw))
        };
        for (text, sentence) in [
            (SIGNIFY_PUBLIC.to_owned(), "is the public key"),
            (MINISIGN.to_owned(), "is a key of minisign"),
            (with(7, 1), "has a passphrase"),
            (with(24, 1), "its checksum is wrong"),
            (with(FRONT, 1), "its checksum is wrong"),
            (with(0, 1), "is no secret key of signify"),
            (String::new(), "is no secret key of signify"),
            ("x\n?\n".into(), "not base64"),
        ] {
            let found = SecretKey::parse(text.as_bytes()).map(|_| ()).expect_err(&text);
            assert!(found.contains(sentence), "{text}: {found}");
        }
    }

    #[test]
    fn what_is_sealed_is_opened_again_and_has_its_limit() {
        let keys = [SecretKey::generate().unwrap(), SecretKey::generate().unwrap()];
        let sealed = seal(Kind::Desired, b"{\"a\":1}", &keys).unwrap();
        let envelope = Envelope::parse(&sealed).unwrap();
        assert!(envelope.signatures.iter().zip(&keys).all(|(s, key)| key.public.verify(b"wherry-v1:desired:{\"a\":1}", s)));
        assert_eq!((opened(&sealed), opened(b"{}")), (b"{\"a\":1}".to_vec(), b"{}".to_vec()));
        assert!(seal(Kind::Desired, &[b'x'; 24_000], &keys).is_ok() && seal(Kind::Desired, &[b'x'; 25_000], &keys).is_err());
    }
}
