//! `wherry stage`: brings one image from a path on the device into the store, then ends.
//!
//! Root, no network, one thread; it may block, keeper may not. It plans, and starts the roles that touch hostile bytes: `hash`
//! alone says what the bytes are, `unpack` alone parses them. It parses JSON itself, but only bytes whose digest it has checked (the
//! root of an archive, `index.json` or `manifest.json`, has none to check).
//!
//! Nothing outside `staging/` changes before every layer is unpacked, checked and synced. A kill at any point leaves
//! only what [`crate::image::store::Store::collect_garbage`] removes; hash and unpack die with stage.
//!
//! What is on the network is downloaded by the agent, into a pipe that stage makes and keeper hands on: nothing compressed is ever stored.
//!
//! Descriptor 3 is the socket to keeper: one [`ToStage`] in, [`FromStage`] out. When keeper closes it, the job is given up.

mod crew;
mod source;

use crate::finish;
use crate::image::fault::{fault, os, writing};
use crate::image::store::{self, Store};
use crate::image::{Digest, Record};
use crate::ipc::{Conn, Failure, FromStage, StageJob, ToStage};
use crate::protocol::Reason;
use crate::sys::fd::inherited;
use crate::unpack::{Limits, Totals};
use crew::Crew;
use nix::fcntl::{Flock, FlockArg};
use source::{Image, Layer, Material};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The role.
pub fn main() -> ExitCode {
    crate::log::init("stage", None);
    // Not keeper's own score: with no memory left, bringing in an image must give way. Hash and unpack inherit it.
    let _ = crate::sys::process::set_oom_score(500);
    let Ok(keeper) = inherited(3).map(Conn::new) else { return ExitCode::FAILURE };
    let done = match keeper.recv::<ToStage>() {
        Ok(Some(ToStage::Pull(job))) => pull(&keeper, &job),
        Ok(Some(ToStage::Collect { data, keep })) => collect(&data, &keep),
        _ => false,
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn pull(keeper: &Conn, job: &StageJob) -> bool {
    let answer = match run(keeper, job) {
        Ok(record) => FromStage::Ready(record),
        Err(failure) => FromStage::Failed(failure),
    };
    keeper.send(&answer).is_ok()
}

fn collect(data: &str, keep: &[Digest]) -> bool {
    let collected = Store::open(Path::new(data)).and_then(|store| {
        let _lock = lock(&store, FlockArg::LockExclusive)?;
        store.collect_garbage(keep)
    });
    match collected {
        Ok(_) => true,
        Err(e) => {
            log::warn!("cannot clean the image store: {e}");
            false
        }
    }
}

/// Several may bring in images at a time, but none while another collects: that empties `staging/`.
fn beside(store: &Store) -> io::Result<Flock<File>> {
    lock(store, FlockArg::LockShared)
}

fn lock(store: &Store, how: FlockArg) -> io::Result<Flock<File>> {
    let dir = File::open(store.staging())?;
    Flock::lock(dir, how).map_err(|(_, e)| e.into())
}

fn run(keeper: &Conn, job: &StageJob) -> Result<Record, Failure> {
    let store = Store::open(Path::new(&job.data)).map_err(|e| os("cannot open the image store", e))?;
    let _lock = beside(&store).map_err(|e| os("cannot lock the image store", e))?;
    // The same identity is the same image, wherever it came from. A damaged record is no obstacle: it is written anew.
    let present = |digest: &Digest| store.record(digest).ok().flatten();
    if let Some(record) = job.reference.source.identity(job.digest).as_ref().and_then(present) {
        return Ok(record);
    }
    let work = Work::new(&store)?;
    let mut crew = Crew::new(keeper, job)?;
    let image = source::plan(job, &mut crew, &work)?;
    if let Some(record) = present(&image.digest) {
        return Ok(record);
    }
    let staged = unpack_all(&image, job, &store, &work, &mut crew)?;
    commit(&image, staged, &store)
}

/// A directory of our own in `staging/`; goes with all that is in it.
pub struct Work(PathBuf);

impl Work {
    fn new(store: &Store) -> Result<Self, Failure> {
        let name = format!("{}-{}", std::process::id(), crate::sys::time::boottime().as_nanos());
        let path = store.staging().join(name);
        make_dir(&path, 0o700)?;
        Ok(Self(path))
    }

    /// A new empty directory for unpack to live in.
    fn cage(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        make_dir(&path, 0o700)?;
        // The root of a layer that has no entry for it. Set apart from making it: the umask must not count.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| os("cannot set a mode", e))?;
        Ok(path)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(e) = store::empty(&self.0).and_then(|()| fs::remove_dir(&self.0)) {
            log::warn!("cannot remove {}: {e}", self.0.display());
        }
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Failure> {
    let made = DirBuilder::new().mode(mode).create(path);
    made.map_err(|e| writing(path_dir(path), &format!("cannot make {}", path.display()), e))
}

/// Any open directory on the file system of `path`, to ask whether it is full.
fn path_dir(path: &Path) -> OwnedFd {
    let nearest = path.parent().and_then(|p| File::open(p).ok());
    nearest.or_else(|| File::open("/").ok()).expect("the root directory can be opened").into()
}

/// What unpacking has made.
struct Staged {
    /// Layers with the directories they are in now.
    fresh: Vec<(Digest, PathBuf)>,
    /// Bytes of content of all layers.
    bytes: u64,
    /// Number of layers at the bottom that a higher one hides wholly.
    hidden: usize,
}

fn unpack_all(image: &Image, job: &StageJob, store: &Store, work: &Work, crew: &mut Crew<'_>) -> Result<Staged, Failure> {
    let missing = |l: &&Layer| !store.has_layer(&l.digest);
    crew.expect_bytes(image.layers.iter().filter(missing).filter_map(Layer::to_unpack).sum());
    let mut staged = Staged { fresh: Vec::new(), bytes: 0, hidden: 0 };
    // Limits are on what is written: layers that are there already cost nothing.
    let mut written = Totals::default();
    // Topmost first, as finish wants them.
    let mut lower: Vec<OwnedFd> = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let dir = if store.has_layer(&layer.digest) {
            staged.bytes += store.content(&layer.digest);
            store.layer(&layer.digest)
        } else {
            let limits = Limits {
                bytes: job.max_bytes.saturating_sub(written.bytes),
                inodes: job.max_inodes.saturating_sub(written.inodes),
                whiteouts: layer.whiteouts,
            };
            let (dir, totals) = one_layer(layer, n, work, limits, &lower, crew)?;
            staged.bytes += totals.bytes;
            written.bytes += totals.bytes;
            written.inodes += totals.inodes;
            staged.fresh.push((layer.digest, dir.clone()));
            dir
        };
        lower.insert(0, File::open(&dir).map_err(|e| os(&format!("cannot open {}", dir.display()), e))?.into());
        if finish::hides_all(&lower[0]) {
            lower.truncate(1);
            staged.hidden = n;
        }
    }
    Ok(staged)
}

fn one_layer(
    layer: &Layer,
    n: usize,
    work: &Work,
    limits: Limits,
    lower: &[OwnedFd],
    crew: &mut Crew<'_>,
) -> Result<(PathBuf, Totals), Failure> {
    let about = |f: Failure| fault(f.reason, format!("cannot unpack layer {}: {}", layer.digest, f.message));
    let fresh;
    let (dir, unpacked) = match &layer.from {
        Material::Tree(tree) => (tree.dir.clone(), &tree.unpacked),
        Material::Blob(blob) => {
            let dir = work.cage(&n.to_string())?;
            fresh = crew.unpack(blob, &layer.digest, &dir, limits).map_err(about)?;
            (dir, &fresh)
        }
    };
    let totals = unpacked.totals;
    if totals.devices > 0 {
        log::warn!("layer {}: left out {} device nodes; containers get their /dev from the runtime", layer.digest, totals.devices);
    }
    if totals.attributes > 0 {
        log::info!("layer {}: left out {} extended attributes", layer.digest, totals.attributes);
    }
    // Unpack is dead and reaped: from here on nobody else moves anything below `dir`.
    let root = File::open(&dir).map_err(|e| os(&format!("cannot open {}", dir.display()), e))?.into();
    finish::apply(&root, &unpacked.marks, lower).map_err(about)?;
    Ok((dir, totals))
}

/// Makes what is staged part of the store: sync, rename, record. What was renamed is taken back if a later step fails.
fn commit(image: &Image, staged: Staged, store: &Store) -> Result<Record, Failure> {
    let layers = image.layers[staged.hidden..].iter().map(|l| l.digest).collect();
    let record = Record { digest: image.digest, layers, config: image.config.clone(), unpacked: staged.bytes };
    let staging = File::open(store.staging()).map_err(|e| os("cannot open staging", e))?;
    // One sync for everything: without it a power cut may leave complete names with empty files (UBIFS, ext4 without barriers).
    nix::unistd::syncfs(&staging).map_err(|e| writing(&staging, "cannot write the image to storage", e))?;
    let result = staged.fresh.iter().try_for_each(|(digest, from)| {
        publish(store, digest, from).map_err(|e| writing(&staging, &format!("cannot store layer {digest}"), e))
    });
    let result = result.and_then(|()| store.write_record(&record).map_err(|e| writing(&staging, "cannot write the image's record", e)));
    if result.is_err() {
        for (digest, from) in &staged.fresh {
            // One that another stage stored first is still where it was unpacked.
            if !from.exists() {
                let _ = fs::rename(store.layer(digest), from);
            }
            let _ = fs::remove_dir(store.layers().join(digest.hex()));
        }
    }
    result.map(|()| record)
}

/// Gives a layer its final name, unless another stage was faster.
fn publish(store: &Store, digest: &Digest, from: &Path) -> std::io::Result<()> {
    let parent = store.layers().join(digest.hex());
    DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
    match fs::rename(from, store.layer(digest)) {
        Err(_) if store.has_layer(digest) => return Ok(()),
        answer => answer?,
    }
    for dir in [&parent, &store.layers()] {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Two digests that should be one.
fn mismatch(what: &str, expected: &Digest, found: &Digest) -> Failure {
    fault(Reason::DigestMismatch, format!("{what} has the digest {found}, expected {expected}"))
}
