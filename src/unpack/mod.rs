//! `wherry unpack`: decompresses and untars one layer, or lists an archive, in namespaces of its own where nothing else can be seen.
//!
//! It reads hostile bytes, so it owns nothing: user namespace, no network, the staging directory as root, limits on memory,
//! time, bytes and files. What it reports is checked again by stage; whether the bytes were the right ones is said by `hash` alone.
//!
//! Descriptors: 3 the socket to stage, 4 the input (a pipe from hash, or the archive itself when listing).

pub mod archive;
pub mod confine;
pub mod extract;
pub mod gzip;
pub mod image;
pub mod index;
pub mod inflate;

use crate::finish::Mark;
use crate::image::RelPath;
use crate::image::fault::{fault, os};
use crate::ipc::{Conn, Failure};
use crate::protocol::Reason;
use crate::sys::fd::inherited;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::process::ExitCode;

/// Entries or marks sent in one frame at most, and bytes of their names: one frame holds them.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 32 * 1024;

/// Stage to unpack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Absolute path of the directory to become the root.
    pub root: String,
    /// What to do.
    pub task: Task,
    /// Seconds of processor time.
    pub cpu_s: u64,
}

/// What unpack does with its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Unpack a layer below the root.
    Layer(Limits),
    /// List an uncompressed tar file.
    Index,
    /// Take an image archive apart as it comes: each layer into a directory of its own below the root, documents to stage.
    Image(Limits),
}

/// Limits of one layer, or of all layers of an archive together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most bytes of file content.
    pub bytes: u64,
    /// Most files, directories and links.
    pub inodes: u64,
    /// `.wh.` names are marks (a layer), not files (a plain root file system).
    pub whiteouts: bool,
}

/// Unpack to stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Entries of an archive.
    Found(Vec<Found>),
    /// Marks for finish.
    Marks(Vec<Mark>),
    /// All is done.
    Done(Totals),
    /// It failed.
    Failed(Failure),
    /// A document of an archive, or more of the last one.
    Document {
        /// Its name.
        path: RelPath,
        /// It begins with these bytes.
        begins: bool,
        /// Some of its bytes.
        bytes: Vec<u8>,
    },
    /// A layer of an archive is unpacked below the directory named by its number, counted from 0. The marks before this are its.
    Layer {
        /// Its name in the archive.
        path: RelPath,
        /// Its bytes there.
        size: u64,
        /// What was unpacked.
        totals: Totals,
    },
}

/// One entry of a listed archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its name.
    pub path: RelPath,
    /// What it is.
    pub what: Content,
}

/// What an entry of a listed archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Bytes in the archive.
    Data {
        /// Where they begin.
        offset: u64,
        /// How many.
        size: u64,
    },
    /// Another entry of the archive.
    Link(RelPath),
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Bytes of file content.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
    /// Device nodes that were left out: a container's `/dev` is made by us.
    pub devices: u64,
    /// Extended attributes that were left out: not ours to set, or unknown to the file system.
    pub attributes: u64,
}

/// The role.
pub fn main() -> ExitCode {
    let Ok(stage) = inherited(3).map(Conn::new) else { return ExitCode::FAILURE };
    let last = match run(&stage) {
        Ok(totals) => Report::Done(totals),
        Err(failure) => Report::Failed(failure),
    };
    match stage.send(&last) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(stage: &Conn) -> Result<Totals, Failure> {
    let job: Job = stage.recv().ok().flatten().ok_or_else(|| fault(Reason::Unpack, "cannot read the job of unpack"))?;
    let input = File::from(inherited(4).map_err(|e| os("cannot take over the input of unpack", e))?);
    let root = confine::enter(stage, &job)?;
    match job.task {
        Task::Layer(limits) => {
            let (totals, marks) = extract::layer(input, root, limits)?;
            tell_marks(stage, marks).map(|()| totals)
        }
        Task::Index => index::list(input, stage),
        Task::Image(limits) => image::take_apart(input, &root, limits, stage),
    }
}

/// Sends a report to stage.
fn tell(stage: &Conn, report: &Report) -> Result<(), Failure> {
    stage.send(report).map_err(|e| os("cannot report to stage", e))
}

fn tell_marks(stage: &Conn, marks: Vec<Mark>) -> Result<(), Failure> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for mark in marks {
        bytes += mark.path().bytes().len();
        batch.push(mark);
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            tell(stage, &Report::Marks(std::mem::take(&mut batch)))?;
            bytes = 0;
        }
    }
    tell(stage, &Report::Marks(batch))
}
