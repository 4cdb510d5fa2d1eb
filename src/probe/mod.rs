//! `wherry probe`: one TCP or HTTP health check, from inside the network of a container.
//!
//! What answers is the container's and may be hostile: it may never answer, or never end. No more than the first line of the answer is read; how long
//! that takes is for keeper to watch, which kills us.
//!
//! Descriptors: 3 the socket to keeper, 4 the container's network namespace (if [`Job::joins`]).

use crate::confine;
use crate::hash::die_with_parent;
use crate::ipc::{Conn, VERSION};
use crate::sys::fd::inherited;
use crate::sys::privilege;
use crate::sys::process::exit_now;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, write};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

/// Longest report, encoded.
const MAX_REPORT: usize = 32;
/// Longest status line that is read: version, status and some words (RFC 9112, section 4).
const MAX_LINE: usize = 512;
/// Address space: program, buffers and stack.
const MAX_MEMORY: u64 = 64 << 20;

/// Keeper to probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Tried in order until one is no [`Report::Refused`].
    pub peers: Vec<SocketAddr>,
    /// The request to send; without one, a connection is enough.
    pub request: Option<String>,
    /// The network namespace of descriptor 4 is joined; else we stay in keeper's.
    pub joins: bool,
    /// Numeric user and group to become.
    pub uid: u32,
}

/// Probe to keeper. Nothing of what the server says but its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Connected; nothing more was asked for.
    Connected,
    /// No connection; the error number.
    Refused(i32),
    /// The connection ended, or failed with this error number, before there was a status line.
    Silent(Option<i32>),
    /// What it said is not HTTP.
    NotHttp,
    /// The status.
    Status(u16),
}

/// The role.
pub fn main() -> ExitCode {
    let Err(e) = run();
    log::error!("cannot probe: {e}");
    ExitCode::FAILURE
}

fn run() -> io::Result<std::convert::Infallible> {
    let keeper = Conn::new(inherited(3)?);
    let job: Job = keeper.recv()?.ok_or(Errno::EPIPE)?;
    if job.joins {
        setns(inherited(4)?, CloneFlags::CLONE_NEWNET)?;
    }
    lock_down(&keeper, job.uid)?;
    let mut last = Report::Refused(0);
    for peer in &job.peers {
        last = ask(*peer, job.request.as_deref());
        if !matches!(last, Report::Refused(_)) {
            break;
        }
    }
    exit_now(i32::from(report(&keeper, last).is_err()))
}

/// Gives up every privilege, in an order in which none comes back.
fn lock_down(keeper: &Conn, uid: u32) -> io::Result<()> {
    const FILES: u64 = 8;
    chdir("/")?;
    setrlimit(Resource::RLIMIT_AS, MAX_MEMORY, MAX_MEMORY)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES)?;
    // First: it takes CAP_SETPCAP, which the change of user ends.
    privilege::drop_bounding()?;
    setgroups(&[])?;
    setresgid(Gid::from_raw(uid), Gid::from_raw(uid), Gid::from_raw(uid))?;
    setresuid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid))?;
    privilege::drop_all()?;
    prctl::set_no_new_privs()?;
    // Both after the change of user, which takes them back (prctl(2)).
    prctl::set_dumpable(false)?;
    die_with_parent(keeper)?;
    confine::load(confine::Role::Probe)
}

fn ask(peer: SocketAddr, request: Option<&str>) -> Report {
    let mut server = match TcpStream::connect(peer) {
        Ok(server) => server,
        Err(e) => return Report::Refused(e.raw_os_error().unwrap_or(0)),
    };
    let Some(request) = request else { return Report::Connected };
    // A server may answer and close before it has read all: what it said counts.
    let sent = server.write_all(request.as_bytes());
    match (status_line(&mut server), sent) {
        (Ok(Some(line)), _) => status(&line).map_or(Report::NotHttp, Report::Status),
        (Ok(None), _) => Report::Silent(None),
        (Err(e), _) => Report::Silent(e.raw_os_error()),
    }
}

/// The first line; all there is, if that is longer than it may be; `None` at an end before it.
fn status_line(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let (mut line, mut chunk) = (Vec::with_capacity(MAX_LINE), [0; MAX_LINE]);
    while line.len() < MAX_LINE {
        let room = MAX_LINE - line.len();
        match from.read(&mut chunk[..room]) {
            Ok(0) => return Ok(None),
            Ok(n) => line.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if let Some(end) = line.iter().position(|b| *b == b'\n') {
            line.truncate(end);
            break;
        }
    }
    Ok(Some(line))
}

/// The status of a status line: `HTTP/1.x NNN`, and then nothing or a blank and words (RFC 9112, section 4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (version, rest) = rest.split_first()?;
    let digits = rest.strip_prefix(b" ")?;
    let (digits, rest) = digits.split_at_checked(3)?;
    let ends = matches!(rest.first(), None | Some(b' ' | b'\r'));
    let good = version.is_ascii_digit() && digits.iter().all(u8::is_ascii_digit) && ends;
    good.then(|| digits.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'))).filter(|n| *n >= 100)
}

/// One frame by write(2) from the stack: sendmsg(2) is not among this role's system calls.
fn report(keeper: &Conn, what: Report) -> Result<(), Errno> {
    let mut frame = [VERSION; MAX_REPORT];
    let body = postcard::to_slice(&what, &mut frame[1..]).map_err(|_| Errno::EMSGSIZE)?.len();
    write(keeper, &frame[..=body]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::{MAX_LINE, MAX_REPORT, Report, status, status_line};

    #[test]
    fn a_status_line_has_a_status_and_nothing_else_has() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK\r", Some(200)),
            ("HTTP/1.0 503", Some(503)),
            ("HTTP/1.1 301 ", Some(301)),
            ("HTTP/1.1 404\r", Some(404)),
            ("HTTP/1.1 099 X", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 2000", None),
            ("HTTP/1.1 2x0 OK", None),
            ("HTTP/1.1  200 OK", None),
            ("HTTP/1.x 200 OK", None),
            ("HTTP/2 200", None),
            ("220 mail.example ESMTP", None),
            ("", None),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{line:?}");
        }
    }

    /// Gives the bytes in pieces.
    struct Pieces<'a>(&'a [u8], usize);

    impl std::io::Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buf.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn the_first_line_comes_out_whole_however_it_is_cut_and_an_endless_one_ends() {
        let line = |bytes: &[u8], piece| status_line(&mut Pieces(bytes, piece)).unwrap();
        for piece in [1, 7, 4096] {
            assert_eq!(line(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", piece).as_deref(), Some(&b"HTTP/1.1 200 OK\r"[..]));
            assert_eq!(line(b"HTTP/1.1 200 OK", piece), None, "cut off");
            assert_eq!(line(b"", piece), None);
            assert_eq!(line(&vec![b'x'; 1 << 20], piece).unwrap().len(), MAX_LINE);
        }
    }

    #[test]
    fn every_report_fits_its_frame() {
        for report in [Report::Silent(Some(i32::MAX)), Report::Refused(i32::MIN), Report::Status(u16::MAX), Report::NotHttp] {
            assert!(postcard::to_stdvec(&report).unwrap().len() < MAX_REPORT);
        }
    }
}
