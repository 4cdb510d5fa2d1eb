//! The processes that stage starts, and waiting for them: with a deadline, and never longer than keeper wants the answer.

use super::source::{Blob, Extent};
use super::{Work, mismatch};
use crate::finish::{MAX_MARKS, Mark};
use crate::image::fault::{fault, os};
use crate::image::layout::MAX_LAYERS;
use crate::image::{Digest, RelPath, beneath};
use crate::ipc::{Conn, Download, Failure, FromStage, StageJob, ToStage, Wish};
use crate::protocol::Reason;
use crate::sys::process::{Child, CloneArgs, Cloned, Ended, Spawn, clone, exit_now, reap, spawn};
use crate::sys::time::boottime;
use crate::unpack::{Content, Limits, Task, Totals};
use crate::{hash, unpack};
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Time between two reports of progress at least.
const PROGRESS: Duration = Duration::from_millis(500);
/// Longest message taken over from unpack, in characters.
const MAX_MESSAGE: usize = 600;
/// Longest id map file in bytes: 340 lines of three numbers.
const MAX_MAP: usize = 16 * 1024;
/// Namespaces of unpack.
const CAGE: i32 =
    libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// What one layer gave.
pub struct Unpacked {
    /// Counts.
    pub totals: Totals,
    /// For finish.
    pub marks: Vec<Mark>,
}

/// An image archive, taken apart.
pub struct Parts {
    /// Its JSON documents.
    pub documents: BTreeMap<RelPath, Vec<u8>>,
    /// Further names of entries.
    pub links: BTreeMap<RelPath, RelPath>,
    /// Its layers, those of other images in the archive among them.
    pub trees: BTreeMap<RelPath, Rc<Tree>>,
}

/// A layer of it.
pub struct Tree {
    /// Its name in the archive.
    pub name: RelPath,
    /// Bytes that it has there.
    pub size: u64,
    /// Where it is.
    pub dir: PathBuf,
    /// What unpack said of it.
    pub unpacked: Unpacked,
}

/// Starts and watches hash and unpack.
pub struct Crew<'a> {
    keeper: &'a Conn,
    exe: OwnedFd,
    deadline: Duration,
    timeout_s: u32,
    hash_uid: u32,
    told: Duration,
    /// Compressed bytes of finished layers, and of all.
    done: u64,
    total: u64,
    /// How the download ended.
    download: Option<Result<u64, Failure>>,
}

/// One process with its socket. Dropping it kills and reaps: no path leaves one behind.
struct Worker {
    child: Child,
    conn: Conn,
    open: bool,
}

impl Worker {
    /// Kills and reaps it. For unpack, the end of pid 1 is the end of its whole pid namespace (pid_namespaces(7)).
    fn end(mut self) -> io::Result<Ended> {
        self.stop()
    }

    fn stop(&mut self) -> io::Result<Ended> {
        // It may have exited by itself; then the signal finds nobody.
        let _ = crate::sys::signal::pidfd_send(&self.child.pidfd, libc::SIGKILL);
        let ended = reap(self.child.pid);
        self.child.pid = 0;
        ended
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.child.pid != 0 {
            let _ = self.stop();
        }
    }
}

impl<'a> Crew<'a> {
    /// Ready to start processes for this job; its time runs from now on.
    pub fn new(keeper: &'a Conn, job: &StageJob) -> Result<Self, Failure> {
        let exe = crate::sys::exe::sealed().map_err(|e| fault(Reason::Internal, format!("cannot seal our own program: {e}")))?;
        let deadline = boottime() + Duration::from_secs(job.timeout_s.into());
        Ok(Self {
            keeper,
            exe,
            deadline,
            timeout_s: job.timeout_s,
            hash_uid: job.hash_uid,
            told: Duration::ZERO,
            done: 0,
            total: 0,
            download: None,
        })
    }

    /// So many compressed bytes are going to be unpacked.
    pub fn expect_bytes(&mut self, total: u64) {
        self.total = total;
    }

    /// Has something downloaded; its bytes come out of the pipe.
    pub fn download(&mut self, wish: &Wish) -> Result<OwnedFd, Failure> {
        let (from_agent, to_us) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| os("cannot make a pipe", e))?;
        self.keeper.send_with(&FromStage::Wish(wish.clone()), &[to_us.as_fd()]).map_err(|e| os("cannot ask keeper for a download", e))?;
        Ok(from_agent)
    }

    /// Waits for the download's end. A pipe that has ended does not tell whether all bytes came through it.
    fn downloaded(&mut self) -> Result<u64, Failure> {
        while self.download.is_none() {
            self.wait(&[])?;
        }
        self.download.take().unwrap_or(Ok(0))
    }

    /// The digest of a blob, without unpacking it.
    pub fn digest(&mut self, blob: &Blob) -> Result<Digest, Failure> {
        let mut worker = self.start_hash(blob, None)?;
        let mut last = None;
        while worker.open {
            self.wait(&[&worker])?;
            self.hear_hash(&mut worker, &mut last, false)?;
        }
        verdict(last, worker.end(), &blob.name, blob.length())
    }

    /// Unpacks a layer below `dir`. Answers only when hash has seen the expected digest and unpack is dead.
    pub fn unpack(&mut self, blob: &Blob, digest: &Digest, dir: &Path, limits: Limits) -> Result<Unpacked, Failure> {
        let (totals, news) = self.through_hash(blob, digest, dir, Task::Layer(limits))?;
        Ok(Unpacked { totals, marks: news.marks })
    }

    /// Takes an image archive apart in one pass. Nothing of it is believed before all of it has the expected digest.
    pub fn take_apart(&mut self, blob: &Blob, digest: &Digest, work: &Work, limits: Limits) -> Result<Parts, Failure> {
        let cage = work.cage("parts")?;
        let (_, news) = self.through_hash(blob, digest, &cage, Task::Image(limits))?;
        let root = File::open(&cage).map_err(|e| os(&format!("cannot open {}", cage.display()), e))?;
        let links = news.found.into_iter().filter_map(|(name, what)| match what {
            Content::Link(target) => Some((name, target)),
            Content::Data { .. } => None,
        });
        let links = links.collect();
        let mut trees = BTreeMap::new();
        for (n, layer) in news.layers.into_iter().enumerate() {
            let number = unpack::image::number(n);
            // Unpack may have put anything there, such as a link to a directory of the system. It is dead: what is one now remains one.
            beneath::open_dir(&root, &number).map_err(|e| fault(Reason::Unpack, format!("unpack has left no layer {number}: {e}")))?;
            let tree = Tree { name: layer.path.clone(), size: layer.size, dir: cage.join(number.as_path()), unpacked: layer.unpacked };
            trees.insert(layer.path, Rc::new(tree));
        }
        Ok(Parts { documents: news.documents, links, trees })
    }

    /// Sends a blob through hash and on to unpack.
    fn through_hash(&mut self, blob: &Blob, expected: &Digest, dir: &Path, task: Task) -> Result<(Totals, News), Failure> {
        let (from_hash, to_unpack) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| os("cannot make a pipe", e))?;
        let mut hash = self.start_hash(blob, Some(to_unpack))?;
        let mut unpack = self.start_unpack(dir, task, from_hash.as_fd())?;
        drop(from_hash);
        let (mut digest, mut news) = (None, News::default());
        while hash.open || unpack.open {
            match self.wait(&[&hash, &unpack])? {
                0 => self.hear_hash(&mut hash, &mut digest, true)?,
                _ => news.hear(&mut unpack)?,
            }
        }
        let ended = unpack.end();
        let streamed = matches!(blob.extent, Extent::Stream { .. });
        let sent = if streamed { Some(self.downloaded()?) } else { None };
        // The digest comes first: what a parser says of the wrong bytes is of no interest.
        let found = verdict(digest, hash.end(), &blob.name, sent.or(blob.length()))?;
        if found != *expected {
            return Err(mismatch(&blob.name, expected, &found));
        }
        self.done += blob.length().unwrap_or_default();
        Ok((news.totals(ended)?, news))
    }

    /// Lists a tar archive.
    pub fn list(&mut self, archive: BorrowedFd<'_>, work: &Work) -> Result<BTreeMap<RelPath, Content>, Failure> {
        let mut worker = self.start_unpack(&work.cage("index")?, Task::Index, archive)?;
        let mut news = News::default();
        while worker.open {
            self.wait(&[&worker])?;
            news.hear(&mut worker)?;
        }
        news.totals(worker.end())?;
        Ok(news.found)
    }

    fn start_hash(&self, blob: &Blob, output: Option<OwnedFd>) -> Result<Worker, Failure> {
        let (offset, length) = match blob.extent {
            Extent::Part { offset, length } => (Some(offset), Some(length)),
            Extent::Stream { .. } => (None, None),
        };
        let job = hash::Job { offset, length, output: output.is_some(), uid: self.hash_uid };
        let start = || {
            let (ours, theirs) = Conn::pair()?;
            let mut fds = vec![theirs.as_fd(), blob.file.as_fd()];
            fds.extend(output.as_ref().map(AsFd::as_fd));
            let argv = [CString::from(c"wherry"), CString::from(c"hash")];
            let child = spawn(&Spawn { exe: self.exe.as_fd(), argv: &argv, env: &[], fds: &fds, flags: 0 })?;
            let worker = Worker { child, conn: ours, open: true };
            worker.conn.send(&job)?;
            Ok(worker)
        };
        start().map_err(|e: io::Error| fault(Reason::Internal, format!("cannot start hash: {e}")))
    }

    /// Clone, map ids, exec: in this order, because exec keeps capabilities in a user namespace only for its mapped user 0.
    fn start_unpack(&self, root: &Path, task: Task, input: BorrowedFd<'_>) -> Result<Worker, Failure> {
        let root = root.to_str().ok_or_else(|| fault(Reason::BadValue, "the data directory's name is not UTF-8"))?.to_owned();
        let job = unpack::Job { root, task, cpu_s: u64::from(self.timeout_s) };
        let failed = |what: &str, e: io::Error| fault(Reason::Unpack, format!("cannot start unpack: {what}: {e}"));
        let argv = [CString::from(c"wherry"), CString::from(c"unpack")];
        let (ours, theirs) = Conn::pair().map_err(|e| failed("socket", e))?;
        let args = CloneArgs { flags: CAGE as u64, exit_signal: libc::SIGCHLD as u64, cgroup: None };
        let lacking =
            |e| fault(Reason::NoFeature, format!("cannot make the namespaces of unpack (does the kernel have user namespaces?): {e}"));
        let child = match clone(args).map_err(lacking)? {
            Cloned::Child => {
                // With our copy of it closed, the end of stage is the end of the socket, also before the exec.
                drop(ours);
                if let Ok(Some(())) = theirs.recv() {
                    let fds = [theirs.as_fd(), input];
                    crate::sys::role::exec(&Spawn { exe: self.exe.as_fd(), argv: &argv, env: &[], fds: &fds, flags: 0 });
                }
                exit_now(127)
            }
            Cloned::Parent(child) => child,
        };
        let worker = Worker { child, conn: ours, open: true };
        drop(theirs);
        map_ids(worker.child.pid).map_err(|e| failed("id map", e))?;
        worker.conn.send(&()).and_then(|()| worker.conn.send(&job)).map_err(|e| failed("job", e))?;
        Ok(worker)
    }

    /// Sleeps until one of the open workers has something to say; answers which. Without any, until keeper has spoken.
    fn wait(&mut self, workers: &[&Worker]) -> Result<usize, Failure> {
        loop {
            let left = self.deadline.checked_sub(boottime()).filter(|d| !d.is_zero());
            let left = left.ok_or_else(|| fault(Reason::Timeout, format!("the image was not ready within {} s", self.timeout_s)))?;
            let open: Vec<usize> = (0..workers.len()).filter(|i| workers[*i].open).collect();
            // Keeper tells how a download ended; the end of its socket, which is the end of the job, poll always tells.
            let keeper = self.keeper;
            let mut ask = vec![PollFd::new(keeper.as_fd(), PollFlags::POLLIN)];
            ask.extend(open.iter().map(|i| PollFd::new(workers[*i].conn.as_fd(), PollFlags::POLLIN)));
            let millis = left.as_millis().clamp(1, 60_000) as u16;
            match poll(&mut ask, PollTimeout::from(millis)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(os("cannot wait for unpack", e)),
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
            if ready(&ask[0]) {
                match self.keeper.recv::<ToStage>() {
                    Ok(Some(ToStage::Downloaded(end))) => self.download = Some(end),
                    _ => return Err(fault(Reason::Internal, "keeper has given up the job")),
                }
                if open.is_empty() {
                    return Ok(0);
                }
            }
            if let Some(i) = ask[1..].iter().position(ready) {
                return Ok(open[i]);
            }
        }
    }

    fn hear_hash(&mut self, worker: &mut Worker, last: &mut Option<hash::Report>, tell: bool) -> Result<(), Failure> {
        match worker.conn.recv() {
            Ok(Some(hash::Report::Progress(bytes))) if tell => self.progress(bytes),
            Ok(Some(hash::Report::Progress(_))) => {}
            Ok(Some(report)) => *last = Some(report),
            Ok(None) => worker.open = false,
            Err(e) => return Err(fault(Reason::Internal, format!("cannot understand hash: {e}"))),
        }
        Ok(())
    }

    fn progress(&mut self, bytes: u64) {
        let now = boottime();
        if now >= self.told + PROGRESS {
            self.told = now;
            let so_far = Download { bytes: self.done + bytes, total: (self.total > 0).then_some(self.total) };
            // Keeper may be slow or gone; the latter is noticed by poll.
            let _ = self.keeper.send(&FromStage::Progress(so_far));
        }
    }
}

/// What hash says in the end.
fn verdict(last: Option<hash::Report>, ended: io::Result<Ended>, name: &str, length: Option<u64>) -> Result<Digest, Failure> {
    match (last, length) {
        (Some(hash::Report::Done { bytes, .. }), Some(expected)) if bytes != expected => {
            Err(fault(Reason::DigestMismatch, format!("{name} has {bytes} bytes, expected {expected}")))
        }
        (Some(hash::Report::Done { digest, .. }), _) => Ok(digest),
        (Some(hash::Report::Failed(errno)), _) => Err(os(&format!("cannot read {name}"), io::Error::from_raw_os_error(errno))),
        _ => Err(fault(Reason::Internal, format!("hash ended without a result: {ended:?}"))),
    }
}

/// What unpack has said so far. It may be lying: everything is counted and bounded.
#[derive(Default)]
struct News {
    found: BTreeMap<RelPath, Content>,
    documents: BTreeMap<RelPath, Vec<u8>>,
    /// Bytes of documents.
    text: usize,
    layers: Vec<Taken>,
    /// Those of the layer that is being unpacked.
    marks: Vec<Mark>,
    /// How many there were of all layers, and bytes of their names.
    marked: usize,
    named: usize,
    last: Option<Result<Totals, Failure>>,
}

/// A layer of an archive, as unpack tells.
struct Taken {
    path: RelPath,
    size: u64,
    unpacked: Unpacked,
}

impl News {
    fn hear(&mut self, worker: &mut Worker) -> Result<(), Failure> {
        const MAX_FOUND: usize = 4096;
        const MAX_NAMED: usize = 16 << 20;
        match worker.conn.recv() {
            Ok(Some(unpack::Report::Found(some))) => self.found.extend(some.into_iter().map(|f| (f.path, f.what))),
            Ok(Some(unpack::Report::Marks(some))) => {
                self.named += some.iter().map(|m| m.path().bytes().len()).sum::<usize>();
                self.marked += some.len();
                self.marks.extend(some);
            }
            Ok(Some(unpack::Report::Document { path, begins, bytes })) => {
                self.text += bytes.len();
                let document = self.documents.entry(path).or_default();
                // Of two entries with one name the later counts, as in every tar file.
                if begins {
                    document.clear();
                }
                document.extend(bytes);
            }
            Ok(Some(unpack::Report::Layer { path, size, totals })) => {
                let marks = std::mem::take(&mut self.marks);
                self.layers.push(Taken { path, size, unpacked: Unpacked { totals, marks } });
            }
            Ok(Some(unpack::Report::Done(totals))) => self.last = Some(Ok(totals)),
            Ok(Some(unpack::Report::Failed(failure))) => self.last = Some(Err(tamed(failure))),
            Ok(None) => worker.open = false,
            Err(e) => return Err(fault(Reason::Unpack, format!("cannot understand unpack: {e}"))),
        }
        let names = self.found.len() + self.documents.len();
        let too_much = names > MAX_FOUND
            || self.marked > MAX_MARKS
            || self.named > MAX_NAMED
            || self.text > unpack::image::MAX_DOCUMENTS
            || self.layers.len() > MAX_LAYERS;
        if too_much { Err(fault(Reason::Unpack, "unpack reports more than it may")) } else { Ok(()) }
    }

    fn totals(&mut self, ended: io::Result<Ended>) -> Result<Totals, Failure> {
        self.last.take().unwrap_or_else(|| {
            let how = match ended {
                Ok(Ended::Signal(n)) => format!("ended by signal {n}, as for too much memory or processor time"),
                Ok(Ended::Code(n)) => format!("ended with status {n}"),
                Err(e) => e.to_string(),
            };
            Err(fault(Reason::Unpack, format!("unpack gave no result: {how}")))
        })
    }
}

/// A failure as unpack may report it: one of its own reasons, and a short printable message.
fn tamed(failure: Failure) -> Failure {
    let known = matches!(
        failure.reason,
        Reason::HostileArchive | Reason::NoSpace | Reason::NoInodes | Reason::NoFeature | Reason::Unsupported | Reason::Io
    );
    let printable = failure.message.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    fault(if known { failure.reason } else { Reason::Unpack }, printable)
}

/// Maps every id that we have to itself.
fn map_ids(pid: i32) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let ours = crate::sys::fd::read_file(format!("/proc/self/{file}"), MAX_MAP)?;
        fs::write(format!("/proc/{pid}/{file}"), identity(&String::from_utf8_lossy(&ours)))?;
    }
    Ok(())
}

/// The map that keeps all ids of this one: each line's ids, as we see them, mapped to themselves.
fn identity(ours: &str) -> String {
    let lines = ours.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    lines.filter(|f| f.len() == 3).map(|f| format!("{0} {0} {1}\n", f[0], f[2])).collect()
}

#[cfg(test)]
mod tests {
    use super::{identity, tamed};
    use crate::ipc::Failure;
    use crate::protocol::Reason;

    #[test]
    fn the_id_map_keeps_every_id_that_we_have() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 100000 65536\n70000 1 10\n"), "0 0 65536\n70000 70000 10\n");
    }

    #[test]
    fn unpack_cannot_pass_off_another_reason_or_an_endless_message() {
        let failure = tamed(Failure { reason: Reason::DigestMismatch, message: format!("\x1b[2J{}", "x".repeat(5000)) });
        assert_eq!(failure.reason, Reason::Unpack);
        assert!(failure.message.starts_with("?[2J") && failure.message.len() == 600);
    }
}
