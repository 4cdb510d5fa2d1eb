//! The connection to keeper.

use crate::exit::{Code, Error, reason};
use crate::ipc::{Conn, Reply, Request};
use crate::protocol::Reason;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Where keeper listens unless told otherwise.
pub const SOCKET: &str = "/run/wherry/control.sock";

/// Environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "WHERRY_SOCKET";

/// Keeper never blocks, so an answer that takes longer will not come.
const PATIENCE_S: i64 = 10;

/// A connection to keeper.
pub struct Client(Conn);

impl Client {
    /// Connects; the error says whether keeper is not there or may not be asked.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        dial(path).map(|fd| Self(Conn::new(fd))).map_err(|e| explain(path, &e))
    }

    /// Connects and sends one request.
    pub fn request(path: &Path, request: &Request) -> Result<Self, Error> {
        let client = Self::connect(path)?;
        client.send(request, &[])?;
        Ok(client)
    }

    /// Asks for one answer that comes at once.
    pub fn ask(path: &Path, request: &Request) -> Result<Reply, Error> {
        let client = Self::connect(path)?;
        let patience = TimeVal::seconds(PATIENCE_S);
        setsockopt(&client.0.as_fd(), ReceiveTimeout, &patience).map_err(|e| Error::io("cannot set a time limit", &e.into()))?;
        client.send(request, &[])?;
        client.next()
    }

    /// Sends one request with descriptors.
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.0.send_with(request, fds).map_err(|e| Error::new(Code::Unavailable, format!("cannot ask keeper: {}", reason(&e))))
    }

    /// The next answer; keeper's own refusal is an error.
    pub fn next(&self) -> Result<Reply, Error> {
        Ok(self.next_with()?.0)
    }

    /// The next answer with its descriptors.
    pub fn next_with(&self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        match self.0.recv_with() {
            Ok(Some((Reply::Error(failure), _))) => {
                let of_program = of_program(failure.reason, &failure.message);
                Err(Error::new(code(failure.reason), failure.message).meaning(of_program))
            }
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(gone()),
            Err(e) => Err(unreadable(&e)),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

fn explain(path: &Path, e: &io::Error) -> Error {
    use io::ErrorKind as K;
    let path = path.display();
    match e.kind() {
        K::NotFound => Error::new(Code::Unavailable, format!("keeper is not running (no socket {path})")).hint(how_to_start()),
        K::ConnectionRefused => {
            Error::new(Code::Unavailable, format!("keeper is not running (nobody listens on {path})")).hint(how_to_start())
        }
        K::PermissionDenied => Error::new(Code::NoPermission, format!("cannot connect to {path}: Permission denied"))
            .hint("only root and members of group wherry may ask keeper"),
        _ => Error::new(Code::Unavailable, format!("cannot connect to {path}: {}", reason(e))),
    }
}

fn how_to_start() -> String {
    let manager = [("/run/systemd/system", "systemctl start wherry"), ("/etc/init.d/wherry", "/etc/init.d/wherry start")];
    let found = manager.iter().find(|(sign, _)| Path::new(sign).exists()).map_or("wherry keeper", |(_, command)| command);
    format!("start it with `{found}`, or name its socket by --socket or {SOCKET_VARIABLE}")
}

fn gone() -> Error {
    Error::new(Code::Unavailable, "keeper closed the connection without an answer")
        .hint("its log says why; a keeper of another release also does this, which `wherry version` shows")
}

fn unreadable(e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::WouldBlock => Error::new(Code::Unavailable, format!("keeper does not answer within {PATIENCE_S} s")),
        io::ErrorKind::ConnectionReset => gone(),
        // The frame says itself which version it has and which one we speak.
        io::ErrorKind::InvalidData => Error::new(Code::Unavailable, format!("cannot read keeper's answer: {e}"))
            .hint("restart keeper, so that it is the program on disk"),
        _ => Error::new(Code::Io, format!("cannot read keeper's answer: {}", reason(e))),
    }
}

/// The exit code for a reason of the wire contract, of a command that ends as a program ends.
pub fn of_program(reason: Reason, message: &str) -> Code {
    match reason {
        Reason::Exec if crate::container::is_missing(message) => Code::NotFound,
        Reason::Exec => Code::NotExecutable,
        _ => Code::NoProgram,
    }
}

/// The exit code for a reason of the wire contract.
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::Malformed | Reason::UnknownField | Reason::BadValue | Reason::Oversize | Reason::Unsupported => Code::BadData,
        Reason::Policy => Code::NoPermission,
        Reason::ImageMissing => Code::NoInput,
        Reason::Io => Code::Io,
        Reason::Internal => Code::Internal,
        _ => Code::Failed,
    }
}

/// The error for an answer that does not fit the question.
pub fn unexpected(verb: &str) -> Error {
    Error::new(Code::Internal, format!("keeper gave an answer that does not fit `{verb}`"))
}
