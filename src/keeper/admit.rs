//! What a new document means on this device, and whether the device allows it and has what it needs: every reason at once, before anything is
//! downloaded or stopped for it. The decisions are [`policy`]'s and [`admission`]'s.

use crate::config::policy::{self as file, MAX_POLICY, Policy};
use crate::container::fail;
use crate::device;
use crate::image::Digest;
use crate::ipc::{Origin, Refusal};
use crate::keeper::Keeper;
use crate::keeper::accept::{MAX_REFUSALS, refusals};
use crate::keeper::admission::{self, Device};
use crate::keeper::desired::Entry;
use crate::keeper::policy;
use crate::manifest::{self, Body, Content, Manifest, Name};
use crate::protocol::Reason;
use crate::secrets;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

/// Reads the policy. Without a file, the default holds.
///
/// # Errors
/// The sentence: it cannot be read, others than root could have written it, or it is wrong.
pub fn load_policy(path: &Path) -> Result<Policy, String> {
    let shown = path.display();
    match read_policy(path) {
        Ok(bytes) => file::parse(&bytes).map_err(|faults| format!("policy {shown} is wrong:\n{faults}")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Policy::default()),
        Err(e) => Err(format!("cannot read policy {shown}: {}", fail::os(&e))),
    }
}

/// Looks at what was opened: a path can lead elsewhere a moment later. A FIFO's writer is not waited for.
fn read_policy(path: &Path) -> io::Result<Vec<u8>> {
    let opened = open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
    let stat = fstat(&opened)?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(io::Error::other("it is not a plain file"));
    }
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return Err(io::Error::other("it must be root's, and nobody else may write it (chown root, chmod 644)"));
    }
    crate::sys::fd::read_to_end(File::from(opened), MAX_POLICY)
}

/// Numbered documents that the device had no room for or did not allow: a number has one end, so one that the broker repeats is refused again, even if
/// there were room now. In memory: the next keeper, which may have another policy, looks anew.
#[derive(Debug, Default)]
pub struct Refused(VecDeque<(Origin, Name, u64, Digest, Vec<Refusal>)>);

impl Refused {
    /// Most that are remembered; for an app only the last.
    const MAX: usize = 64;

    /// Why this document was refused.
    pub fn find(&self, origin: &Origin, m: &Manifest, sha256: Digest) -> Option<Vec<Refusal>> {
        let known = self.0.iter().find(|(o, app, seq, sha, _)| (o, app, Some(*seq), *sha) == (origin, &m.app, m.seq, sha256));
        known.map(|(.., refusals)| refusals.clone())
    }

    /// Keeps a refusal that is about what the device allows and has.
    pub fn remember(&mut self, origin: &Origin, m: &Manifest, sha256: Digest, refusals: &[Refusal]) {
        let about_room = |r: &Refusal| matches!(r.reason, Reason::Policy | Reason::NoMemory | Reason::NoSpace | Reason::NoFeature);
        let Some(seq) = m.seq.filter(|_| refusals.iter().all(about_room)) else { return };
        self.0.retain(|(o, app, ..)| (o, app) != (origin, &m.app));
        self.0.truncate(Self::MAX - 1);
        self.0.push_front((origin.clone(), m.app.clone(), seq, sha256, refusals.to_vec()));
    }
}

impl Keeper {
    /// The document with this device's values in it.
    ///
    /// # Errors
    /// Everything that stands against it.
    pub fn admit(&self, origin: &Origin, payload: &[u8]) -> Result<Manifest, Vec<Refusal>> {
        let m = manifest::parse_for(payload, &self.variables()).map_err(|faults| refusals(&faults))?;
        let mut found = self.against_policy(origin, &m);
        found.extend(missing_secrets(&m, &self.ctx.settings.secrets_dir));
        found
            .extend(admission::check(&m, &self.left_for(origin, &m.app), |image| self.ctx.images.record(image).is_ok_and(|r| r.is_some())));
        found.truncate(MAX_REFUSALS);
        if found.is_empty() { Ok(m) } else { Err(found) }
    }

    fn against_policy(&self, origin: &Origin, m: &Manifest) -> Vec<Refusal> {
        match &self.ctx.policy {
            Ok(rules) => policy::check(m, origin, &self.ctx.settings, rules),
            // Nobody knows what is forbidden. What takes something away is allowed.
            Err(why) if *origin != Origin::Local && matches!(m.body, Body::Run(_)) => {
                vec![Refusal { reason: Reason::Policy, path: String::new(), message: why.clone() }]
            }
            Err(_) => Vec::new(),
        }
    }

    /// What the device has for this app.
    fn left_for(&self, origin: &Origin, app: &Name) -> Device<'_> {
        let budget = self.ctx.policy.as_ref().ok().filter(|_| *origin != Origin::Local);
        Device {
            memory: budget.and_then(|policy| Some(policy.memory_of(device::memory()?))),
            memory_taken: if budget.is_some() { self.memory_taken(app) } else { 0 },
            flash: self.store.free_for_images(),
            missing: &self.ctx.missing,
        }
    }

    /// By the documents that are in force for the other apps, or soon will be.
    fn memory_taken(&self, app: &Name) -> u64 {
        let mut others: Vec<&Name> = self.desired.entries.iter().map(|e| &e.app).filter(|other| *other != app).collect();
        others.sort();
        others.dedup();
        others.iter().filter_map(|name| self.winner(name)).map(|e| self.memory_of(e)).fold(0, u64::saturating_add)
    }

    /// The larger of what its newest version wants and what runs meanwhile, or instead.
    fn memory_of(&self, entry: &Entry) -> u64 {
        let versions = std::iter::once(&entry.newest).chain(&entry.kept).filter(|v| !v.removal);
        versions.filter_map(|v| self.document(v)).map(|m| admission::limits(&m)).max().unwrap_or(0)
    }
}

/// Secrets that a document names and that cannot be given to a container. What is in them is not read here.
fn missing_secrets(m: &Manifest, dir: &str) -> Vec<Refusal> {
    let Body::Run(containers) = &m.body else { return Vec::new() };
    let mut found = Vec::new();
    for c in containers {
        for (i, file) in c.files.iter().enumerate() {
            if let Content::Secret(name) = &file.content
                && let Err(f) = secrets::check(dir, name)
            {
                found.push(Refusal { path: format!("containers.{}.files[{i}].secret", c.name), ..f.into() });
            }
        }
    }
    found
}
