//! Who signs: keys and signatures by the tools that people use.

use crate::harness::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wherry::trust::base64;

/// What made a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// OpenBSD's, whose formats usign has.
    Signify,
    /// minisign, signing without a hash of its own.
    Minisign,
}

/// One key pair.
pub struct Signer {
    tool: Tool,
    dir: PathBuf,
    name: String,
}

impl Signer {
    /// Makes a pair in this directory.
    pub fn new(tool: Tool, dir: &Path, name: &str) -> Self {
        let signer = Self { tool, dir: dir.to_owned(), name: name.to_owned() };
        let (public, secret) = (signer.path("pub"), signer.path("sec"));
        match tool {
            Tool::Signify => run(Command::new("signify-openbsd").args(["-G", "-n", "-p"]).arg(public).arg("-s").arg(secret)),
            Tool::Minisign => run(Command::new("minisign").args(["-G", "-W", "-p"]).arg(public).arg("-s").arg(secret)),
        }
        signer
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }

    /// The public key's file.
    pub fn public(&self) -> String {
        fs::read_to_string(self.path("pub")).unwrap()
    }

    /// Its second line.
    pub fn key(&self) -> String {
        self.public().lines().nth(1).unwrap().to_owned()
    }

    /// The key's number.
    pub fn id(&self) -> String {
        base64::decode(&self.key()).unwrap()[2..10].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The second line of the signature's file.
    pub fn sign(&self, message: &[u8]) -> String {
        self.sign_with(message, "-l")
    }

    /// The 64 bytes alone.
    pub fn sign_bare(&self, message: &[u8]) -> String {
        base64::encode(&base64::decode(&self.sign(message)).unwrap()[10..])
    }

    /// As [`Self::sign`], with minisign's hash first.
    pub fn sign_hash(&self, message: &[u8]) -> String {
        assert_eq!(self.tool, Tool::Minisign);
        self.sign_with(message, "-H")
    }

    fn sign_with(&self, message: &[u8], way: &str) -> String {
        let (file, signature) = (self.path("message"), self.path("sig"));
        fs::write(&file, message).unwrap();
        let secret = self.path("sec");
        match self.tool {
            Tool::Signify => {
                run(Command::new("signify-openbsd").args(["-S", "-s"]).arg(secret).arg("-m").arg(file).arg("-x").arg(&signature))
            }
            Tool::Minisign => {
                run(Command::new("minisign").args(["-S", way, "-s"]).arg(secret).arg("-m").arg(file).arg("-x").arg(&signature))
            }
        }
        fs::read_to_string(signature).unwrap().lines().nth(1).unwrap().to_owned()
    }
}

fn run(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The bytes that are signed, as the contract has them.
pub fn to_sign(kind: &str, payload: &[u8]) -> Vec<u8> {
    [b"wherry-v1:", kind.as_bytes(), b":", payload].concat()
}

/// An envelope with signatures of all these.
pub fn sealed(kind: &str, payload: &[u8], by: &[&Signer]) -> Value {
    let one = |s: &&Signer| json!({"key": s.id(), "sig": s.sign(&to_sign(kind, payload))});
    json!({"payload": base64::encode(payload), "type": kind, "signatures": by.iter().map(one).collect::<Vec<_>>()})
}
