//! Whose word counts from the network: the key files, the keysets on record, and what each document must show before anything of it is done.
//!
//! Once a key is trusted nothing unsigned is taken any more, and whatever is wrong with keys makes that stricter, never laxer: a file that is no key,
//! a directory in which others may write, keysets on record without a key file.

use crate::config::MAX_GROUPS;
use crate::image::Digest;
use crate::ipc::{Failure, Origin, Refusal, Topic, TrustReport, TrustedKey};
use crate::keeper::Keeper;
use crate::keeper::accept::refusals;
use crate::manifest::{Manifest, Target, Whom};
use crate::protocol::{self as wire, Detail, Reason, State, encode};
use crate::sys::fd::read_to_end;
use crate::sys::time::{is_clock_right, unix_ms};
use crate::trust::{self, Claim, Envelope, Grant, Keyset, KeysetDocument, Kind, MAX_FILE, PublicKey, in_force, permit, signers};
use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Most key files.
pub const MAX_FILES: usize = 16;
/// Most names looked at in their directory.
const MAX_NAMES: usize = 256;
/// Most keysets on record: of the device, of its groups, and of as many groups that it has left and may join again.
const MAX_KEYSETS: usize = 1 + 2 * MAX_GROUPS;

/// The keys of the device's files.
#[derive(Debug, Default)]
pub struct Trusted {
    files: Vec<(String, PublicKey)>,
    trouble: Vec<String>,
}

/// A document as it came: out of its envelope, or bare where no key is trusted.
pub struct Opened<'a> {
    /// Its exact bytes.
    pub payload: Cow<'a, [u8]>,
    /// The trusted keys that signed it; `None` where no key is trusted.
    pub signers: Option<Vec<Grant>>,
}

/// A document that was refused unread.
pub struct Unopened {
    /// Hash of what is in the envelope, or of all where none could be read.
    pub sha256: Digest,
    /// Why.
    pub refusals: Vec<Refusal>,
}

// ---- files ----

impl Trusted {
    /// Reads `*.pub` in a directory, in the order of their names. A missing directory is an empty one.
    pub fn load(dir: &Path) -> Self {
        let mut trusted = Self::default();
        if let Err(why) = trusted.read(dir) {
            trusted.trouble.push(why);
        }
        for why in &trusted.trouble {
            log::error!("{why}; until that is put right, all that comes over MQTT must be signed by another key");
        }
        trusted
    }

    fn read(&mut self, dir: &Path) -> Result<(), String> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let place = match fcntl::open(dir, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            place => place.map_err(|e| format!("cannot read keys in {}: {}", dir.display(), e.desc()))?,
        };
        own(&place, SFlag::S_IFDIR).map_err(|why| format!("no key in {} counts: the directory {why}", dir.display()))?;
        for name in names(dir).map_err(|e| format!("cannot read keys in {}: {e}", dir.display()))? {
            match key(&place, &name) {
                Ok(key) if self.files.iter().any(|(_, known)| known.id == key.id) => {
                    self.trouble.push(format!(
                        "{} does not count: it has the number {} of a key before it",
                        dir.join(&name).display(),
                        key.id
                    ));
                }
                Ok(key) if self.files.len() < MAX_FILES => self.files.push((name, key)),
                Ok(_) => self.trouble.push(format!("{} does not count: at most {MAX_FILES} key files do", dir.join(&name).display())),
                Err(why) => self.trouble.push(format!("{} does not count: it {why}", dir.join(&name).display())),
            }
        }
        Ok(())
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for (number, entry) in fs::read_dir(dir)?.enumerate() {
        if number == MAX_NAMES {
            return Err(io::Error::other(format!("it has more than {MAX_NAMES} files")));
        }
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".pub") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Without waiting for the writer of a FIFO.
fn key(place: &OwnedFd, name: &str) -> Result<PublicKey, String> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = fcntl::openat(place, name, flags, Mode::empty()).map_err(|e| match e {
        Errno::ELOOP => "is a symbolic link".to_owned(),
        e => format!("cannot be opened: {}", e.desc()),
    })?;
    own(&file, SFlag::S_IFREG)?;
    let bytes = read_to_end(&file, MAX_FILE).map_err(|e| format!("cannot be read: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "is no public key: it is not text".to_owned())?;
    PublicKey::of_file(&text)
}

/// Refuses what somebody else than root can have written.
fn own(file: &OwnedFd, kind: SFlag) -> Result<(), String> {
    let stat: FileStat = fstat(file).map_err(|e| format!("cannot be looked at: {}", e.desc()))?;
    match () {
        () if stat.st_mode & SFlag::S_IFMT.bits() != kind.bits() => Err("is not a plain file".into()),
        () if stat.st_uid != 0 => Err("must be root's (chown root)".into()),
        () if stat.st_mode & 0o022 != 0 => Err("must not be writable by others (chmod go-w)".into()),
        () => Ok(()),
    }
}

// ---- what is in force ----

impl Keeper {
    /// Nothing unsigned is taken from the network.
    pub fn wants_signatures(&self) -> bool {
        !self.trusted.files.is_empty() || !self.trusted.trouble.is_empty() || !self.desired.signed.keysets.is_empty()
    }

    /// All keys in force, if these are the keysets.
    fn grants(&self, keysets: &[Keyset]) -> Vec<Grant> {
        let files: Vec<PublicKey> = self.trusted.files.iter().map(|(_, key)| *key).collect();
        in_force(&files, self.ranked(keysets))
    }

    /// The keysets that count: the device's, then those of its groups in their order.
    fn ranked<'a>(&self, keysets: &'a [Keyset]) -> Vec<&'a Keyset> {
        let groups = self.ctx.settings.groups.iter().cloned().map(Origin::Group);
        std::iter::once(Origin::Device).chain(groups).filter_map(|origin| keysets.iter().find(|k| k.origin == origin)).collect()
    }

    /// For people and the support bundle.
    pub fn trust_report(&self) -> TrustReport {
        let keysets = self.ranked(&self.desired.signed.keysets);
        let from = |grant: &Grant| {
            let file = self.trusted.files.iter().find(|(_, key)| *key == grant.key).map(|(name, _)| name.clone());
            let keyset = || keysets.iter().find(|k| k.keys.contains(grant)).map(|k| format!("keyset of {}, {}", k.origin, k.seq));
            file.or_else(keyset).unwrap_or_default()
        };
        let key = |g: &Grant| TrustedKey { id: g.key.id.to_string(), root: g.is_root(), from: from(g) };
        let keys = self.grants(&self.desired.signed.keysets).iter().map(key).collect();
        TrustReport { required: self.wants_signatures(), keys, trouble: self.trusted.trouble.clone() }
    }

    // ---- documents ----

    /// Takes a document out of its envelope once a trusted key's signature is good. Nothing in it is read before.
    pub fn open_envelope<'a>(&self, kind: Kind, bytes: &'a [u8]) -> Result<Opened<'a>, Unopened> {
        let refuse = |sha256, reason, message| Err(Unopened { sha256, refusals: vec![Refusal { reason, path: String::new(), message }] });
        if !self.wants_signatures() {
            if trust::is_envelope(bytes) {
                let dir = &self.ctx.settings.trust_dir;
                let message = format!("the document is signed, and this device trusts no key: put one into {dir} and restart keeper");
                return refuse(Digest::of(bytes), Reason::UnknownKey, message);
            }
            return Ok(Opened { payload: Cow::Borrowed(bytes), signers: None });
        }
        let envelope = Envelope::parse(bytes).map_err(|faults| Unopened { sha256: Digest::of(bytes), refusals: refusals(&faults) })?;
        let sha256 = Digest::of(&envelope.payload);
        match signers(&self.grants(&self.desired.signed.keysets), &envelope) {
            Err((reason, message)) => refuse(sha256, reason, message),
            Ok(_) if envelope.kind != kind => {
                let message = format!("the document is signed as {}, and it came on a topic for {kind}", envelope.kind);
                refuse(sha256, Reason::WrongTarget, message)
            }
            Ok(signers) => Ok(Opened { payload: Cow::Owned(envelope.payload), signers: Some(signers) }),
        }
    }

    /// What a signed manifest must say, and whether one of those who signed it may say so. Of one that nobody had to sign, nothing.
    pub fn vouch(&self, origin: &Origin, m: &Manifest, signers: Option<&[Grant]>) -> Result<(), Vec<Refusal>> {
        let Some(signers) = signers else { return Ok(()) };
        let refuse = |reason, message: String| Err(vec![Refusal { reason, path: String::new(), message }]);
        let lacking = trust::lacks(m).into_iter().map(|(reason, path, why)| Refusal { reason, path, message: why.into() });
        let (Some(target), Some(seq), 0) = (&m.target, m.seq, lacking.len()) else { return Err(lacking.collect()) };
        let claim = Claim { kind: Kind::Desired, app: Some(&m.app), whom: &target.whom, seq: Some(seq) };
        permit(signers, &claim).or_else(|(reason, message)| refuse(reason, message))?;
        let known = self.desired.entries.iter().any(|e| e.origin == *origin && e.app == m.app);
        match self.desired.signed.forgotten.iter().find(|(of, mark)| of == origin && *mark >= seq && !known) {
            Some((_, mark)) => {
                let why = "the highest of the removed apps that are no longer remembered, of which this could be one";
                refuse(Reason::Stale, format!("sequence number {seq} is not above {mark}, {why}"))
            }
            None => Ok(()),
        }
    }

    /// Refuses what has expired, if this device knows what time it is.
    pub fn check_time(&self, not_after: Option<u64>) -> Result<(), Failure> {
        let Some(end) = not_after.filter(|end| unix_ms() > *end && is_clock_right()) else { return Ok(()) };
        let message = format!("the document has expired: it was to be taken until {}", crate::manifest::show_time(end));
        Err(Failure { reason: Reason::Expired, message })
    }

    // ---- keysets ----

    /// A keyset came in. What became of it is told on `out/keyset`.
    pub fn on_keyset(&mut self, origin: &Origin, payload: &[u8]) {
        if !self.is_ours(origin) || payload.is_empty() {
            return log::warn!("a keyset came by a topic that is not ours, or empty: ignored");
        }
        let (seq, sha256, result) = match self.open_keyset(payload) {
            Err(Unopened { sha256, refusals }) => (None, sha256, Err(refusals)),
            Ok((document, sha256, signers)) => {
                let result = self.take_keyset(origin, &document, sha256, &signers).map_err(|f| vec![f.into()]);
                (Some(document.seq), sha256, result)
            }
        };
        let refusal = result.err().and_then(|refusals| refusals.into_iter().next());
        match &refusal {
            None => log::info!("keyset {} of {origin} is in force", seq.unwrap_or_default()),
            Some(r) => log::warn!("keyset of {origin} refused: {}", r.message),
        }
        self.ctx.dirty |= refusal.is_none();
        let target = super::wire::target(self, origin);
        let ack = keyset_ack(target, seq, sha256, refusal, self.ctx.boot, self.now().as_secs());
        self.publish(Topic::Keyset, encode(&ack));
    }

    fn open_keyset(&self, payload: &[u8]) -> Result<(KeysetDocument, Digest, Vec<Grant>), Unopened> {
        let opened = self.open_envelope(Kind::Keyset, payload)?;
        let sha256 = Digest::of(&opened.payload);
        let Some(signers) = opened.signers else {
            let message = "a keyset must be signed by a root key that this device trusts, and it trusts none".to_owned();
            return Err(Unopened { sha256, refusals: vec![Refusal { reason: Reason::Unsigned, path: String::new(), message }] });
        };
        let document = KeysetDocument::parse(&opened.payload).map_err(|faults| Unopened { sha256, refusals: refusals(&faults) })?;
        Ok((document, sha256, signers))
    }

    /// Puts a keyset in force, once it is on record.
    fn take_keyset(&mut self, origin: &Origin, document: &KeysetDocument, sha256: Digest, signers: &[Grant]) -> Result<(), Failure> {
        let fail = |(reason, message)| Failure { reason, message };
        self.check_target(origin, &document.target)?;
        permit(signers, &Claim { kind: Kind::Keyset, app: None, whom: &document.target.whom, seq: Some(document.seq) }).map_err(fail)?;
        let known = self.desired.signed.keysets.iter().find(|k| k.origin == *origin);
        if !is_news(known, document.seq, sha256).map_err(fail)? {
            return Ok(());
        }
        self.check_time(document.not_after)?;
        let mut keysets = self.desired.signed.keysets.clone();
        keysets.retain(|k| k.origin != *origin);
        keysets.push(Keyset { origin: origin.clone(), seq: document.seq, sha256, keys: document.keys.clone() });
        if keysets.len() > MAX_KEYSETS {
            keysets.retain(|k| self.is_ours(&k.origin));
        }
        if !self.grants(&keysets).iter().any(Grant::is_root) {
            let message = "the keyset leaves no root key (`types` with \"keyset\"), and the last one cannot be removed over the network";
            return Err(fail((Reason::Policy, message.to_owned())));
        }
        let before = std::mem::replace(&mut self.desired.signed.keysets, keysets);
        if let Err(e) = self.store.save(&self.desired) {
            self.desired.signed.keysets = before;
            return Err(self.unwritten("cannot record the keyset", e));
        }
        self.unsaved = None;
        Ok(())
    }

    // ---- commands ----

    /// The command that came with this id in its topic, in a signed envelope, or bare where no key is trusted; whose it is was verified.
    pub fn open_command(&self, id: &str, payload: &[u8]) -> Result<wire::Command, (Reason, String)> {
        let first = |u: Unopened| u.refusals.into_iter().next().map_or((Reason::Internal, String::new()), |r| (r.reason, r.message));
        let opened = self.open_envelope(Kind::Cmd, payload).map_err(first)?;
        let command = wire::parse_command(&opened.payload).map_err(|faults| (Reason::Malformed, faults.to_string()))?;
        if let Some(target) = &command.target {
            self.check_target(&Origin::Device, target).map_err(|f| (f.reason, f.message))?;
        }
        if let Some(own) = command.id.as_ref().filter(|own| own.as_str() != id) {
            return Err((Reason::WrongTarget, format!("the command is {own}, and it came on the topic of {id}")));
        }
        if let Some(signers) = &opened.signers {
            if command.id.is_none() {
                let message = "a signed command must have `id`, that of its topic: whoever has the broker could repeat it under another";
                return Err((Reason::WrongTarget, message.into()));
            }
            if command.target.is_none() {
                let message = "a signed command must have `target`: other devices have sessions of the same numbers";
                return Err((Reason::WrongTarget, message.into()));
            }
            let whom = Whom::Device(self.device.clone());
            permit(signers, &Claim { kind: Kind::Cmd, app: command.app.as_ref(), whom: &whom, seq: None })?;
        }
        Ok(command)
    }
}

/// Whether this keyset is newer than the one on record, of the same topic; otherwise it is that very one.
fn is_news(known: Option<&Keyset>, seq: u64, sha256: Digest) -> Result<bool, (Reason, String)> {
    let Some(known) = known else { return Ok(true) };
    match seq {
        _ if seq > known.seq => Ok(true),
        _ if seq < known.seq => {
            Err((Reason::Stale, format!("sequence number {seq} is not above {}, that of the keyset in force", known.seq)))
        }
        _ if sha256 == known.sha256 => Ok(false),
        _ => Err((Reason::Conflict, format!("sequence number {seq} was already used for another keyset; publish with a higher one"))),
    }
}

fn keyset_ack(target: Target, seq: Option<u64>, sha256: Digest, refusal: Option<Refusal>, boot: u64, uptime_s: u64) -> wire::KeysetAck {
    let detail = |r: Refusal| Detail { message: Some(r.message), path: Some(r.path).filter(|p| !p.is_empty()), ..Detail::default() };
    wire::KeysetAck {
        wherry: 1,
        target,
        seq,
        sha256: wire::Sha256(sha256),
        state: if refusal.is_some() { State::Rejected } else { State::Accepted },
        reason: refusal.as_ref().map(|r| r.reason),
        detail: refusal.map(detail),
        boot,
        uptime_s,
    }
}
