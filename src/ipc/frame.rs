//! One frame: a version byte, then postcard. One frame is one packet of a sequenced-packet socket.

use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Version of all frames. postcard cannot skip what it does not know, so old and new never talk past each other: another version is refused.
pub const VERSION: u8 = 1;

/// Longest frame in bytes: the largest MQTT payload that we send (64 KiB), with room for what goes around it.
pub const MAX_FRAME: usize = 80 * 1024;

/// Why bytes are not a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No bytes at all.
    Empty,
    /// The version byte is not [`VERSION`].
    Version(u8),
    /// Not a message of the expected type, or more than one.
    Garbled,
    /// Longer than [`MAX_FRAME`].
    TooLong(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty frame"),
            Self::Version(v) => write!(f, "frame has version {v}, this program speaks {VERSION} (both ends must be the same release)"),
            Self::Garbled => f.write_str("frame cannot be decoded"),
            Self::TooLong(n) => write!(f, "frame has {n} bytes, at most {MAX_FRAME} are allowed"),
        }
    }
}

impl From<FrameError> for io::Error {
    fn from(e: FrameError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, e.to_string())
    }
}

/// Bytes of one message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_extend(message, vec![VERSION]).map_err(|_| FrameError::Garbled)?;
    if bytes.len() > MAX_FRAME { Err(FrameError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The message in these bytes: exactly one, nothing behind it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let (version, rest) = bytes.split_first().ok_or(FrameError::Empty)?;
    if *version != VERSION {
        return Err(FrameError::Version(*version));
    }
    match postcard::take_from_bytes(rest) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Garbled),
    }
}

/// One end of a sequenced-packet socket that carries frames.
#[derive(Debug)]
pub struct Conn(OwnedFd);

impl Conn {
    /// Takes over a connected socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Two connected ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = crate::sys::socket::pair()?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message with descriptors.
    pub fn send_with<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        crate::sys::socket::send(&self.0, &encode(message)?, fds)
    }

    /// Sends one message.
    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Receives one message with its descriptors; `None` when the peer is gone.
    pub fn recv_with<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut buf = vec![0; crate::sys::socket::next_len(&self.0)?.min(MAX_FRAME + 1)];
        match crate::sys::socket::recv(&self.0, &mut buf)? {
            (0, _) => Ok(None),
            (n, fds) => Ok(Some((decode(&buf[..n])?, fds))),
        }
    }

    /// Receives one message; `None` when the peer is gone.
    pub fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        Ok(self.recv_with()?.map(|(message, _)| message))
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Conn> for OwnedFd {
    fn from(c: Conn) -> Self {
        c.0
    }
}
