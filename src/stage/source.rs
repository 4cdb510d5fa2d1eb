//! Where an image's bytes are: an OCI layout directory, an archive with JSON inside, or a plain tar file.

use super::crew::{Crew, Parts, Tree};
use super::{Work, mismatch};
use crate::allowed;
use crate::image::fault::{fault, os};
use crate::image::layout::{self, Descriptor, MAX_JSON, MAX_NESTING, Manifest, Wanted};
use crate::image::{Config, Digest, Form, Host, RelPath, Source, Url, beneath, config, docker};
use crate::ipc::{Failure, StageJob, Wish};
use crate::protocol::Reason;
use crate::unpack::{Content, Limits};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// Links followed from one archive entry to another.
const MAX_LINKS: usize = 8;

/// An image, planned.
pub struct Image {
    /// Its identity.
    pub digest: Digest,
    /// How to run it.
    pub config: Config,
    /// Bottom first, each once.
    pub layers: Vec<Layer>,
}

/// One layer to be.
pub struct Layer {
    /// What its bytes must hash to; its name in the store.
    pub digest: Digest,
    /// What it comes from.
    pub from: Material,
    /// `.wh.` names have a meaning.
    pub whiteouts: bool,
}

/// What a layer comes from.
pub enum Material {
    /// Bytes to be unpacked.
    Blob(Blob),
    /// A part of an archive that was taken apart as it came.
    Tree(Rc<Tree>),
}

/// Bytes to come.
pub struct Blob {
    /// For messages.
    pub name: String,
    /// The file, or the pipe's reading end.
    pub file: OwnedFd,
    /// Which of its bytes.
    pub extent: Extent,
}

/// Where in a file a blob is.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    /// A part of a regular file.
    Part {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// All that comes out of a pipe, which the agent fills with a download.
    Stream {
        /// Number of bytes, if the manifest promises one.
        promised: Option<u64>,
    },
}

impl Layer {
    /// Bytes that are still to be unpacked, as far as known.
    pub fn to_unpack(&self) -> Option<u64> {
        match &self.from {
            Material::Blob(blob) => blob.length(),
            Material::Tree(_) => None,
        }
    }
}

impl Material {
    /// Bytes before unpacking, as far as known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Blob(blob) => blob.length(),
            Self::Tree(tree) => Some(tree.size),
        }
    }
}

impl Blob {
    fn part(name: String, file: OwnedFd, offset: u64, length: u64) -> Self {
        Self { name, file, extent: Extent::Part { offset, length } }
    }

    /// Number of bytes, as far as known.
    pub fn length(&self) -> Option<u64> {
        match self.extent {
            Extent::Part { length, .. } => Some(length),
            Extent::Stream { promised } => promised,
        }
    }
}

/// Reads all that is needed to know which bytes make the image.
pub fn plan(job: &StageJob, crew: &mut Crew<'_>, work: &Work) -> Result<Image, Failure> {
    let host = Host::new(std::env::consts::ARCH, &machine());
    match &job.reference.source {
        Source::OciDir { path, tag } => {
            let dir = open_path(path, job, OFlag::O_DIRECTORY)?;
            oci(&Blobs { path, held: Held::Dir(dir) }, tag.as_deref(), job.digest, &host)
        }
        Source::OciArchive { path, tag } => oci(&archive(path, job, crew, work)?, tag.as_deref(), job.digest, &host),
        Source::DockerArchive { path, name } => docker(&archive(path, job, crew, work)?, name.as_deref(), job.digest, &host),
        Source::Rootfs { path } => rootfs(path, job, crew),
        Source::Http { url, form } => {
            let digest =
                job.digest.ok_or_else(|| fault(Reason::BadValue, format!("{url} has no digest, so nothing would vouch for it")))?;
            let blob = download(url, job, crew)?;
            if *form == Form::Rootfs {
                return Ok(Image {
                    digest,
                    config: Config::default(),
                    layers: vec![Layer { digest, from: Material::Blob(blob), whiteouts: false }],
                });
            }
            let name = url.to_string();
            let blobs = Blobs { path: &name, held: Held::Parts(take_apart(&blob, digest, job, crew, work)?) };
            let image = if *form == Form::OciArchive { oci(&blobs, None, None, &host) } else { docker(&blobs, None, None, &host) };
            Ok(image.map_err(only_one)?.of_file(digest, *form))
        }
    }
}

impl Image {
    /// The same, out of this file, whose digest alone was checked. What unpack says of single blobs in it binds nobody else: no other image
    /// shares a layer with this one, whatever digests its documents name.
    fn of_file(mut self, file: Digest, form: Form) -> Self {
        self.digest = file.part(form.word().as_bytes());
        for layer in &mut self.layers {
            if let Material::Tree(tree) = &layer.from {
                layer.digest = file.part(tree.name.bytes());
            }
        }
        // Two names may lead to one entry.
        self.layers = once(self.layers);
        self
    }
}

/// A file from the network. Its bytes go from the agent straight through hash and unpack.
fn download(url: &Url, job: &StageJob, crew: &mut Crew<'_>) -> Result<Blob, Failure> {
    // Without a promise, what no archive of an allowed tree needs: headers are not counted by the limit on content.
    let wish = Wish { url: url.clone(), size: job.size, max: job.size.unwrap_or(limits(job).expanded()) };
    Ok(Blob { name: url.to_string(), file: crew.download(&wish)?, extent: Extent::Stream { promised: job.size } })
}

fn take_apart(blob: &Blob, digest: Digest, job: &StageJob, crew: &mut Crew<'_>, work: &Work) -> Result<Parts, Failure> {
    let about = |f: Failure| fault(f.reason, format!("cannot take apart {}: {}", blob.name, f.message));
    crew.take_apart(blob, &digest, work, limits(job)).map_err(about)
}

/// Of a whole archive.
fn limits(job: &StageJob) -> Limits {
    Limits { bytes: job.max_bytes, inodes: job.max_inodes, whiteouts: true }
}

/// A URL has no room for a tag.
fn only_one(f: Failure) -> Failure {
    match f.reason {
        Reason::ImageMissing => {
            fault(f.reason, format!("{} (an archive from the network must have just one image for this device)", f.message))
        }
        _ => f,
    }
}

fn machine() -> String {
    nix::sys::utsname::uname().map(|u| u.machine().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Opens a path of the device, if the job may have what it leads to. Found first and opened after: opening a device alone can do something.
/// `O_NONBLOCK`: a named pipe must not hold us up.
fn open_path(path: &str, job: &StageJob, flags: OFlag) -> Result<OwnedFd, Failure> {
    let failed = |e| os(&format!("cannot open image {path}"), e);
    let found = open(path, flags | OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    allowed::check(&found, path, job.allowed.as_deref(), "import_dirs")?;
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str(), flags, Mode::empty()).map_err(failed)
}

/// The length of a file, which must be a regular one.
fn regular(file: impl AsFd, name: &str) -> Result<u64, Failure> {
    let stat = fstat(file).map_err(|e| os(&format!("cannot read {name}"), e))?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(fault(Reason::HostileArchive, format!("{name} is not a regular file")));
    }
    Ok(stat.st_size as u64)
}

fn whole_file(path: &str, job: &StageJob) -> Result<Blob, Failure> {
    let file = open_path(path, job, OFlag::empty())?;
    let length = regular(&file, path)?;
    Ok(Blob::part(path.to_owned(), file, 0, length))
}

/// A plain root file system: the file is the only layer, and its digest the identity.
fn rootfs(path: &str, job: &StageJob, crew: &mut Crew<'_>) -> Result<Image, Failure> {
    let blob = whole_file(path, job)?;
    // Reading twice spares the flash a tree that is already there, or is the wrong one. The second reading is checked against the first.
    let digest = crew.digest(&blob)?;
    check_pin(path, job.digest, &digest)?;
    Ok(Image { digest, config: Config::default(), layers: vec![Layer { digest, from: Material::Blob(blob), whiteouts: false }] })
}

fn check_pin(what: &str, pinned: Option<Digest>, found: &Digest) -> Result<(), Failure> {
    match pinned {
        Some(wanted) if wanted != *found => Err(mismatch(what, &wanted, found)),
        _ => Ok(()),
    }
}

/// Content by name.
struct Blobs<'a> {
    path: &'a str,
    held: Held,
}

enum Held {
    Dir(OwnedFd),
    Archive { file: OwnedFd, length: u64, entries: BTreeMap<RelPath, Content> },
    Parts(Parts),
}

fn archive<'a>(path: &'a str, job: &StageJob, crew: &mut Crew<'_>, work: &Work) -> Result<Blobs<'a>, Failure> {
    let blob = whole_file(path, job)?;
    let (length, file) = (blob.length().unwrap_or_default(), blob.file);
    let about = |f: Failure| fault(f.reason, format!("cannot read archive {path}: {}", f.message));
    let entries = crew.list(file.as_fd(), work).map_err(about)?;
    Ok(Blobs { path, held: Held::Archive { file, length, entries } })
}

impl Blobs<'_> {
    fn find(&self, name: &RelPath) -> Result<Blob, Failure> {
        let shown = self.shown(name);
        match &self.held {
            Held::Parts(_) => Err(fault(Reason::Internal, format!("{shown} is no file any more"))),
            Held::Dir(dir) => {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let file = beneath::open(dir, name, flags).map_err(|e| match e.raw_os_error() {
                    Some(nix::libc::ELOOP) => fault(Reason::HostileArchive, format!("{shown} is reached through a symbolic link")),
                    _ => os(&format!("cannot open {shown}"), e),
                })?;
                let length = regular(&file, &shown)?;
                Ok(Blob::part(shown, file, 0, length))
            }
            Held::Archive { file, length, entries } => {
                let (offset, size) = range(entries, name).ok_or_else(|| fault(Reason::ImageMissing, format!("there is no {shown}")))?;
                // The listing comes from unpack: a range is believed only if it lies in the file.
                if offset.checked_add(size).is_none_or(|end| end > *length) {
                    return Err(fault(Reason::HostileArchive, format!("{shown} goes on behind the archive's end")));
                }
                let file = file.try_clone().map_err(|e| os("cannot use the archive", e))?;
                Ok(Blob::part(shown, file, offset, size))
            }
        }
    }

    fn shown(&self, name: &RelPath) -> String {
        format!("{name} of {}", self.path)
    }

    /// A layer of this name.
    fn layer(&self, name: &RelPath, digest: Digest) -> Result<Layer, Failure> {
        let from = match &self.held {
            Held::Parts(parts) => {
                let tree = parts.linked(name, |at| parts.trees.get(at));
                Material::Tree(tree.ok_or_else(|| fault(Reason::ImageMissing, format!("there is no layer {}", self.shown(name))))?.clone())
            }
            _ => Material::Blob(self.find(name)?),
        };
        Ok(Layer { digest, from, whiteouts: true })
    }

    fn json(&self, name: &RelPath) -> Result<Vec<u8>, Failure> {
        if let Held::Parts(parts) = &self.held {
            let document = parts.linked(name, |at| parts.documents.get(at));
            let missing = || format!("there is no {} (or it has more than {MAX_JSON} bytes)", self.shown(name));
            return document.cloned().ok_or_else(|| fault(Reason::ImageMissing, missing()));
        }
        let blob = self.find(name)?;
        let Extent::Part { offset, length } = blob.extent else { return Err(fault(Reason::Internal, "a document cannot be a stream")) };
        if length > MAX_JSON as u64 {
            return Err(fault(Reason::Unsupported, format!("{} has {length} bytes, at most {MAX_JSON} are allowed", blob.name)));
        }
        let mut bytes = vec![0; length as usize];
        let file = std::fs::File::from(blob.file.try_clone().map_err(|e| os("cannot use the image", e))?);
        file.read_exact_at(&mut bytes, offset).map_err(|e| os(&format!("cannot read {}", blob.name), e))?;
        Ok(bytes)
    }

    /// The document that has no digest: the root of everything.
    fn root(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let path = RelPath::parse(name.as_bytes()).expect("a constant name");
        self.json(&path)
    }

    /// A document, only if it is the one that the descriptor means.
    fn verified(&self, d: &Descriptor) -> Result<Vec<u8>, Failure> {
        let name = blob_name(&d.digest);
        let bytes = self.json(&name)?;
        check_size(&self.shown(&name), Some(bytes.len() as u64), d)?;
        let found = Digest::of(&bytes);
        if found == d.digest { Ok(bytes) } else { Err(mismatch(&self.shown(&name), &d.digest, &found)) }
    }
}

fn blob_name(digest: &Digest) -> RelPath {
    RelPath::parse(format!("blobs/sha256/{}", digest.hex()).as_bytes()).expect("hex digits make a good name")
}

impl Parts {
    /// What `get` has for an entry, links followed.
    fn linked<'a, T>(&'a self, name: &'a RelPath, get: impl Fn(&'a RelPath) -> Option<&'a T>) -> Option<&'a T> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            if let Some(found) = get(at) {
                return Some(found);
            }
            at = self.links.get(at)?;
        }
        None
    }
}

fn range(entries: &BTreeMap<RelPath, Content>, name: &RelPath) -> Option<(u64, u64)> {
    let mut at = name;
    for _ in 0..MAX_LINKS {
        match entries.get(at)? {
            Content::Data { offset, size } => return Some((*offset, *size)),
            Content::Link(target) => at = target,
        }
    }
    None
}

fn check_size(what: &str, length: Option<u64>, d: &Descriptor) -> Result<(), Failure> {
    match length {
        Some(length) if length != d.size => {
            Err(fault(Reason::DigestMismatch, format!("{what} has {length} bytes, its descriptor says {}", d.size)))
        }
        _ => Ok(()),
    }
}

fn oci(blobs: &Blobs<'_>, tag: Option<&str>, pinned: Option<Digest>, host: &Host) -> Result<Image, Failure> {
    let index = blobs.root("index.json")?;
    let what = format!("index.json of {}", blobs.path);
    let mut chosen = layout::choose(&index, &what, Wanted { tag, digest: pinned, host })?;
    for _ in 0..MAX_NESTING {
        if !chosen.is_index() {
            break;
        }
        let nested = blobs.verified(&chosen)?;
        chosen = layout::choose(&nested, &format!("index {}", chosen.digest), Wanted { tag: None, digest: pinned, host })?;
    }
    if chosen.is_index() {
        return Err(fault(Reason::HostileArchive, format!("{what} nests indexes more than {MAX_NESTING} deep")));
    }
    check_pin("the image manifest", pinned, &chosen.digest)?;
    let manifest = Manifest::parse(&blobs.verified(&chosen)?)?;
    let parsed = config::parse(&blobs.verified(&manifest.config)?, host)?;
    let layers = manifest.layers.iter().map(|d| {
        let name = blob_name(&d.digest);
        let layer = blobs.layer(&name, d.digest)?;
        check_size(&blobs.shown(&name), layer.from.length(), d)?;
        Ok(layer)
    });
    Ok(Image { digest: chosen.digest, config: parsed.config, layers: once(layers.collect::<Result<_, Failure>>()?) })
}

fn docker(blobs: &Blobs<'_>, name: Option<&str>, pinned: Option<Digest>, host: &Host) -> Result<Image, Failure> {
    let chosen = docker::choose(&blobs.root("manifest.json")?, name)?;
    let config_name = chosen.config()?;
    let bytes = blobs.json(&config_name)?;
    let digest = Digest::of(&bytes);
    if let Some(promised) = docker::promised(&config_name).filter(|p| *p != digest) {
        return Err(mismatch(&format!("{config_name} of {}", blobs.path), &promised, &digest));
    }
    check_pin("the image configuration", pinned, &digest)?;
    let parsed = config::parse(&bytes, host)?;
    let names = chosen.layers()?;
    if names.len() != parsed.diff_ids.len() {
        let message = format!("the archive has {} layers, its configuration {}", names.len(), parsed.diff_ids.len());
        return Err(fault(Reason::HostileArchive, message));
    }
    let layers =
        names.iter().zip(parsed.diff_ids).map(|(name, diff_id)| blobs.layer(name, docker::expected(name, diff_id, pinned.is_some())?));
    Ok(Image { digest, config: parsed.config, layers: once(layers.collect::<Result<_, Failure>>()?) })
}

/// Keeps only the topmost of equal layers: it hides the others wholly, and overlay refuses the same directory twice.
fn once(layers: Vec<Layer>) -> Vec<Layer> {
    let mut kept: Vec<Layer> = Vec::new();
    for layer in layers.into_iter().rev() {
        if kept.iter().all(|k| k.digest != layer.digest) {
            kept.push(layer);
        }
    }
    kept.reverse();
    kept
}
