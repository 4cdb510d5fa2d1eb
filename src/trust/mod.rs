//! Who may say what is to run: keys, signed envelopes, and keysets, by which keys come and go over the network.
//!
//! Pure: keeper reads the key files, and keeps the keysets. `key` has the tools' formats, `envelope` what is signed, `grant` what a key may sign,
//! `keyset` the document that hands keys out.

pub mod base64;
mod envelope;
mod grant;
mod key;
mod keyset;

pub use envelope::{Envelope, Kind, MAX_SIGNATURES, is_envelope, message};
pub use grant::{Claim, Grant, Objection, in_force, lacks, permit, signers};
pub use key::{KeyId, MAX_FILE, PublicKey, Signature};
pub use keyset::{Keyset, KeysetDocument, MAX_KEYS, MAX_SCOPE};
