//! `keygen`, `sign` and `verify`: keys and envelopes, without a broker.

use super::args::Call;
use super::document::{shown, text, unsignable};
use super::keys::SecretKey;
use super::keyset;
use super::tree::{Language, place};
use crate::cli::print;
use crate::exit::{Code, Error};
use crate::manifest::{Fault, MAX_PAYLOAD, parse};
use crate::sys::fd::read_file;
use crate::trust::{Envelope, KeysetDocument, Kind, MAX_FILE, MAX_SIGNATURES, PublicKey, message};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `wherryctl keygen NAME`.
///
/// # Errors
/// A file is there already, or cannot be written.
pub fn keygen(call: &Call) -> Result<u8, Error> {
    let name = call.operand(0)?;
    let key = SecretKey::generate().map_err(|why| Error::new(Code::Failed, format!("cannot make a key: {why}")))?;
    let (secret, public) = (format!("{name}.sec"), format!("{name}.pub"));
    // Neither is written where the other one cannot be.
    if let Some(there) = [&secret, &public].into_iter().find(|file| Path::new(file).symlink_metadata().is_ok()) {
        return Err(Error::new(Code::CannotCreate, format!("cannot make a key: {there} is there already")));
    }
    write(&secret, 0o600, &key.file())?;
    write(&public, 0o644, &key.public_file())?;
    match call.json() {
        true => print::json(&json!({"key": key.public.id.to_string(), "secret": secret, "public": public}))?,
        false => print::line(&format!("{secret} and {public}, key {}", key.public.id))?,
    }
    Ok(0)
}

fn write(file: &str, mode: u32, content: &str) -> Result<(), Error> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(file);
    made.and_then(|mut f| f.write_all(content.as_bytes()).and_then(|()| f.sync_all()))
        .map_err(|e| Error::new(Code::CannotCreate, format!("cannot write {file}: {}", crate::exit::reason(&e))))
}

/// `wherryctl sign -k KEY.sec... FILE`.
///
/// # Errors
/// A bad key or document.
pub fn sign(call: &Call) -> Result<u8, Error> {
    let files = call.values("key")?;
    let keys = files.iter().map(|file| SecretKey::of_file(Path::new(file))).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(Error::usage("nothing to sign with").hint("give --key KEY.sec; `wherryctl keygen` makes one"));
    }
    let (name, text) = (shown(&call.operands[0]), text("sign", &call.operands[0])?);
    let refuse = |why: String| Error::new(Code::BadData, format!("cannot sign {name}: {why}"));
    let mut envelope = unsigned(&call.operands[0], &text).map_err(refuse)?;
    for key in keys {
        if envelope.signatures.iter().any(|s| s.key == key.public.id) {
            return Err(refuse(format!("key {} has signed it already", key.public.id)));
        }
        envelope.signatures.push(key.sign(envelope.kind, &envelope.payload));
    }
    if envelope.signatures.len() > MAX_SIGNATURES {
        return Err(refuse(format!("an envelope has at most {MAX_SIGNATURES} signatures")));
    }
    let sealed = envelope.encode();
    if sealed.len() > MAX_PAYLOAD {
        return Err(refuse(format!("{} bytes with its signatures are too many, devices take at most {MAX_PAYLOAD}", sealed.len())));
    }
    print::line(&String::from_utf8_lossy(&sealed))?;
    Ok(0)
}

/// The document in an envelope to which signatures are added; an envelope has some already.
fn unsigned(file: &std::ffi::OsStr, text: &str) -> Result<Envelope, String> {
    let language = Language::of(file, text);
    let tree = language.read(text).map_err(|wrong| {
        let (line, column) = place(text, wrong.at);
        format!("{} (line {line}, column {column})", wrong.message)
    })?;
    let first = |faults: crate::manifest::Faults| faults.0.first().map_or_else(String::new, Fault::sentence);
    if tree.get("wherry").is_none() && tree.get("payload").is_some() {
        return Envelope::parse(text.as_bytes()).map_err(first);
    }
    // What is JSON already is signed to the last byte as it stands, like the tools do.
    let payload = if language == Language::Json { text.as_bytes().to_vec() } else { tree.json().into_bytes() };
    let kind = if keyset::is_one(&tree) { Kind::Keyset } else { Kind::Desired };
    match kind {
        Kind::Keyset => drop(KeysetDocument::parse(&payload).map_err(first)?),
        _ => {
            let manifest = parse(&payload).map_err(first)?;
            if let Some(fault) = unsignable(&manifest) {
                return Err(fault.sentence());
            }
        }
    }
    Ok(Envelope { kind, payload, signatures: Vec::new() })
}

/// `wherryctl verify -k KEY.pub... FILE`.
///
/// # Errors
/// No envelope, or a bad key file.
pub fn verify(call: &Call) -> Result<u8, Error> {
    let keys = call.values("key")?.iter().map(|file| public(file)).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(Error::usage("nothing to check with").hint("give --key KEY.pub"));
    }
    let (name, text) = (shown(&call.operands[0]), text("verify", &call.operands[0])?);
    let envelope = Envelope::parse(text.trim().as_bytes()).map_err(|faults| {
        let why = faults.0.first().map_or_else(String::new, Fault::sentence);
        Error::new(Code::BadData, format!("cannot verify {name}: {why}"))
    })?;
    let signed = message(envelope.kind, &envelope.payload);
    let word = |s: &crate::trust::Signature| match keys.iter().find(|key| key.id == s.key) {
        None => "unknown",
        Some(key) if key.verify(&signed, s) => "good",
        Some(_) => "bad",
    };
    let words: Vec<(String, &str)> = envelope.signatures.iter().map(|s| (s.key.to_string(), word(s))).collect();
    if call.json() {
        let document: Value = serde_json::from_slice(&envelope.payload).unwrap_or_default();
        let signatures: Vec<Value> = words.iter().map(|(key, word)| json!({"key": key, "is": word})).collect();
        print::json(&json!({"type": envelope.kind.word(), "signatures": signatures, "document": document}))?;
    } else {
        let line = |(key, word): &(String, &str)| match *word {
            "unknown" => format!("{key}: signature of a key that was not given\n"),
            word => format!("{key}: {word} signature\n"),
        };
        print::bytes(words.iter().map(line).collect::<String>().as_bytes())?;
    }
    match words.iter().any(|(_, word)| *word == "good") {
        true => Ok(0),
        false => Err(Error::new(Code::Failed, format!("{name} has no good signature of these keys"))),
    }
}

/// The public key in a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn public(file: &str) -> Result<PublicKey, Error> {
    let bytes = read_file(file, MAX_FILE).map_err(|e| Error::io(format!("cannot read the key {file}"), &e))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::new(Code::BadData, format!("{file} is no public key: it is not text")))?;
    PublicKey::of_file(text).map_err(|why| Error::new(Code::BadData, format!("{file} {why}")))
}
