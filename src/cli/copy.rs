//! `cp`: between a container and the device. The container's side is a process inside it; here is the other side of the stream.

use super::args::{Call, scope};
use super::client::{Client, unexpected};
use super::print;
use crate::copy::{pack, place, rules};
use crate::exit::{Code, Error, note, reason, visible};
use crate::ipc::{Copying, Reply, Request, Scope, Way};
use crate::sys::fd::read_to_end;
use crate::sys::process::Ended;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

/// Most bytes that the other side may say; more than it does.
const MAX_REMARKS: usize = 64 * 1024;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Container(Scope, String),
    Device(String),
    /// A tar archive, on standard input or output.
    Archive,
}

/// `wherry cp [-a] SRC DST`.
pub fn copy(call: &Call) -> Result<u8, Error> {
    let (from, to) = (side(&call.operand(0)?)?, side(&call.operand(1)?)?);
    let owners = call.has("archive");
    match (from, to) {
        (Side::Container(..), Side::Archive) if io::stdout().is_terminal() => {
            Err(Error::usage("cp does not write an archive to a terminal").hint("redirect it: wherry cp APP:/path - > file.tar"))
        }
        (Side::Container(scope, path), to) if !matches!(to, Side::Container(..)) => out(call, scope, path, &to, owners),
        (Side::Device(from), Side::Container(scope, path)) => {
            let (_, _, merge, _) = rules::source(&from);
            into(call, scope, Copying { path, way: Way::In { merge, owners } }, |to, remark| pack::pack(&from, to, remark))
        }
        (Side::Archive, Side::Container(scope, path)) => {
            into(call, scope, Copying { path, way: Way::Stream { owners } }, |mut to, _| relay(&mut io::stdin(), &mut to))
        }
        _ => Err(Error::usage("cp copies between a container and this device").hint("one side is APP[/CONTAINER]:/path, the other is not")),
    }
}

/// A path of the device that has a colon is written with a slash before it: `./a:b`.
fn side(word: &str) -> Result<Side, Error> {
    match word.split_once(':') {
        _ if word == "-" => Ok(Side::Archive),
        Some((of, _)) if of.starts_with(['/', '.']) => Ok(Side::Device(word.to_owned())),
        Some((of, path)) if path.starts_with('/') => Ok(Side::Container(scope(of)?, path.to_owned())),
        Some((of, _)) => Err(Error::usage(format!("cp {word}: the path in a container must be absolute")).hint(format!("write {of}:/…"))),
        None if word.is_empty() => Err(Error::usage("cp: a path is empty")),
        None => Ok(Side::Device(word.to_owned())),
    }
}

/// A copy under way in the container.
struct Inside {
    keeper: Client,
    remarks: OwnedFd,
    outwards: bool,
}

/// Starts it with a pipe for its stream in or out; our end of that.
fn start(call: &Call, scope: Scope, what: Copying) -> Result<(Inside, File), Error> {
    let failed = |e: io::Error| Error::io("cannot copy", &e);
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(e.into()));
    let ((read, write), (remarks, theirs)) = (pipe()?, pipe()?);
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").map_err(failed)?.into();
    let keeper = Client::connect(&call.socket())?;
    let outwards = what.way == Way::Out;
    let (input, output) = if outwards { (&null, &write) } else { (&read, &null) };
    keeper.send(&Request::Copy { scope, what }, &[input.as_fd(), output.as_fd(), theirs.as_fd()])?;
    Ok((Inside { keeper, remarks, outwards }, if outwards { read } else { write }.into()))
}

impl Inside {
    /// How it ended there. `ours`: what went wrong here, which may be the cause or the consequence.
    fn end(self, what: &str, ours: Result<(), String>) -> Result<u8, Error> {
        let said = read_to_end(&self.remarks, MAX_REMARKS).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let ended = match self.keeper.next()? {
            Reply::Exited(ended) => ended,
            _ => return Err(unexpected("cp")),
        };
        let mut lines: Vec<&str> = said.lines().collect();
        let theirs = if ended == Ended::Code(1) { lines.pop() } else { None };
        lines.iter().for_each(|line| note(&format!("wherry: {}", visible(line))));
        // Inwards, a fault here cuts the stream there; outwards it is the other way round.
        let why = if self.outwards { theirs.map(str::to_owned).or(ours.err()) } else { ours.err().or(theirs.map(str::to_owned)) };
        let failed = |why: String| Err(Error::new(Code::Failed, format!("cannot copy {what}: {}", visible(&why))));
        match (why, ended) {
            (Some(why), _) => failed(why),
            (None, Ended::Code(0)) => Ok(0),
            (None, ended) => failed(format!("the process in the container ended with {ended}")),
        }
    }
}

fn out(call: &Call, scope: Scope, path: String, to: &Side, owners: bool) -> Result<u8, Error> {
    let (_, name, merge, _) = rules::source(&path);
    if name == ".." {
        return Err(Error::usage(format!("cp {path}: the path must not end in `..`")));
    }
    let (name, what) = (name.to_owned(), format!("{path} of {}", scope.app));
    let (inside, from) = start(call, scope, Copying { path, way: Way::Out })?;
    let done = match to {
        Side::Device(dest) => {
            // Set-id bits of a container mean its own users, and never anybody here.
            let policy = place::Policy { owners: owners && nix::unistd::geteuid().is_root(), bits: 0o1777 };
            place::tree(from, dest, Some(&name), merge, policy)
        }
        _ => relay(&mut { from }, &mut io::stdout()),
    };
    let code = inside.end(&what, done)?;
    finish(call, code)
}

fn into(
    call: &Call,
    scope: Scope,
    what: Copying,
    send: impl FnOnce(&mut File, &mut dyn FnMut(String)) -> Result<(), String>,
) -> Result<u8, Error> {
    let shown = format!("to {} of {}", what.path, scope.app);
    let (inside, mut to) = start(call, scope, what)?;
    let done = send(&mut to, &mut |remark| note(&format!("wherry: {}", visible(&remark))));
    drop(to);
    let code = inside.end(&shown, done)?;
    finish(call, code)
}

fn finish(call: &Call, code: u8) -> Result<u8, Error> {
    if call.json() && call.operands.get(1).is_none_or(|to| to != "-") {
        print::json(&serde_json::json!({"done": "copied"}))?;
    }
    Ok(code)
}

/// A reader that went away knows why.
fn relay(from: &mut dyn io::Read, to: &mut dyn io::Write) -> Result<(), String> {
    match io::copy(&mut io::Read::take(from, place::MAX_BYTES), to).and_then(|_| to.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| reason(&e)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Side, side};

    #[test]
    fn a_word_with_a_colon_names_a_container_unless_it_begins_like_a_path() {
        let container = |word: &str| matches!(side(word), Ok(Side::Container(..)));
        assert!(container("web:/etc") && container("web/nginx:/") && !container("./web:/etc") && !container("/a:b"));
        assert_eq!(side("-").unwrap(), Side::Archive);
        assert_eq!(side("a").unwrap(), Side::Device("a".into()));
        for wrong in ["", "web:etc", "web:", "Web:/etc", ":/etc", "web/a/b:/etc"] {
            assert!(side(wrong).is_err(), "{wrong}");
        }
    }
}
