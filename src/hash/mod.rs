//! `wherry hash`: reads a blob, reports its digest, and hands the bytes on. It parses nothing, so nothing in the bytes can make it lie.
//!
//! Descriptors: 3 the socket to stage, 4 the blob, 5 the pipe to unpack (if [`Job::output`]).

use crate::confine;
use crate::image::{Digest, Hasher};
use crate::ipc::{Conn, VERSION};
use crate::sys::fd::inherited;
use crate::sys::process::exit_now;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, Whence, lseek, read, setgroups, setresgid, setresuid, write};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// Bytes read at a time: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// Bytes between two reports of progress.
const REPORT: u64 = 1 << 20;
/// Longest report, encoded.
const MAX_REPORT: usize = 64;
/// Address space: program, buffer and stack.
const MAX_MEMORY: u64 = 64 << 20;

/// Stage to hash.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Job {
    /// Where in the file the blob begins; absent for a pipe, which is read from where it is.
    pub offset: Option<u64>,
    /// Its length; absent: up to the end.
    pub length: Option<u64>,
    /// The bytes go to descriptor 5.
    pub output: bool,
    /// Numeric user and group to become.
    pub uid: u32,
}

/// Hash to stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// So many bytes so far.
    Progress(u64),
    /// All bytes were read.
    Done {
        /// Their digest.
        digest: Digest,
        /// How many there were; fewer than asked for when the file is shorter.
        bytes: u64,
    },
    /// Reading failed with this error number.
    Failed(i32),
}

/// The role.
pub fn main() -> ExitCode {
    let Err(e) = run();
    log::error!("cannot hash: {e}");
    ExitCode::FAILURE
}

fn run() -> io::Result<std::convert::Infallible> {
    let stage = Conn::new(inherited(3)?);
    let job: Job = stage.recv()?.ok_or(Errno::EPIPE)?;
    let blob = inherited(4)?;
    let next = job.output.then(|| inherited(5)).transpose()?;
    if let Some(offset) = job.offset {
        lseek(&blob, offset.try_into().map_err(|_| Errno::EINVAL)?, Whence::SeekSet)?;
    }
    let mut buffer = vec![0; CHUNK];
    lock_down(&stage, job.uid)?;
    // From here on only read, write and exit: even closing a descriptor would be one system call more to allow.
    let last = pump(&stage, &blob, next.as_ref(), job.length.unwrap_or(u64::MAX), &mut buffer).unwrap_or_else(|e| Report::Failed(e as i32));
    exit_now(i32::from(report(&stage, last).is_err()))
}

/// Gives up every privilege, in an order in which none comes back.
fn lock_down(stage: &Conn, uid: u32) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_AS, MAX_MEMORY, MAX_MEMORY)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    setgroups(&[])?;
    setresgid(Gid::from_raw(uid), Gid::from_raw(uid), Gid::from_raw(uid))?;
    setresuid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid))?;
    prctl::set_no_new_privs()?;
    die_with_parent(stage)?;
    confine::load(confine::Role::Hash)
}

/// SIGKILL when stage ends. Changing the user clears this setting (prctl(2)), so it comes after that.
/// Stage may have ended before: then its end of the socket is closed, which, unlike getppid(2), can also be seen from another pid namespace.
pub(crate) fn die_with_parent(stage: &Conn) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut ask = [PollFd::new(stage.as_fd(), PollFlags::empty())];
    poll(&mut ask, PollTimeout::ZERO)?;
    if ask[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP)) { Err(Errno::EPIPE.into()) } else { Ok(()) }
}

fn pump(stage: &Conn, blob: &OwnedFd, mut next: Option<&OwnedFd>, length: u64, buffer: &mut [u8]) -> Result<Report, Errno> {
    let (mut hasher, mut bytes, mut told) = (Hasher::new(), 0, 0);
    while bytes < length {
        let want = buffer.len().min((length - bytes).try_into().unwrap_or(usize::MAX));
        let got = match read(blob, &mut buffer[..want]) {
            Ok(0) => break,
            Err(Errno::EINTR) => continue,
            answer => answer?,
        };
        hasher.update(&buffer[..got]);
        bytes += got as u64;
        // Unpack gave up. The digest is still wanted: it tells a damaged blob from a hostile one.
        if next.is_some_and(|pipe| write_all(pipe, &buffer[..got]).is_err()) {
            next = None;
        }
        if bytes - told >= REPORT {
            told = bytes;
            report(stage, Report::Progress(bytes))?;
        }
    }
    Ok(Report::Done { digest: hasher.finish(), bytes })
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// One frame by write(2) from the stack: sendmsg(2) and the allocator are not among this role's system calls.
fn report(stage: &Conn, what: Report) -> Result<(), Errno> {
    let mut frame = [VERSION; MAX_REPORT];
    let body = postcard::to_slice(&what, &mut frame[1..]).map_err(|_| Errno::EMSGSIZE)?.len();
    write(stage, &frame[..=body]).map(|_| ())
}
