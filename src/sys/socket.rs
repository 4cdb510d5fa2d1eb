//! Sequenced-packet unix sockets with descriptors: one packet is one message, so nothing is ever half read.

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, getsockopt, recvmsg, sendmsg,
    socketpair, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors in one packet.
pub const MAX_FDS: usize = 8;

/// A connected pair, close-on-exec on both ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one packet. On a non-blocking socket a full queue is `WouldBlock`; a vanished peer is `BrokenPipe`, never SIGPIPE.
pub fn send(sock: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<()>(sock.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Length of the packet that is next, which stays where it is; 0 when the peer is gone. Whoever makes a buffer of that size maps no more than
/// a message needs.
pub fn next_len(sock: impl AsFd) -> io::Result<usize> {
    loop {
        match recvmsg::<()>(sock.as_fd().as_raw_fd(), &mut [IoSliceMut::new(&mut [])], None, MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Ok(message) => return Ok(message.bytes),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one packet into `buf`; 0 bytes mean that the peer is gone.
///
/// # Errors
/// `InvalidData` when the packet was longer than `buf` or carried more than [`MAX_FDS`] descriptors; all that came with it are closed.
pub fn recv(sock: impl AsFd, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for the kernel's own most (SCM_MAX_FD, unix(7)): a list cut short would leave descriptors open that nobody could close.
    let mut space = cmsg_space!([RawFd; 253]);
    let mut iov = [IoSliceMut::new(buf)];
    let message = loop {
        match recvmsg::<()>(sock.as_fd().as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(m) => break m,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let mut fds = Vec::new();
    for item in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = item {
            // SAFETY: the kernel installed these descriptors for us in this very call; nobody else knows them.
            fds.extend(raw.into_iter().map(|n| unsafe { OwnedFd::from_raw_fd(n) }));
        }
    }
    if fds.len() > MAX_FDS || message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet is longer than the limit"));
    }
    Ok((message.bytes, fds))
}

/// Who is at the other end, as the kernel recorded at connect (`SO_PEERCRED`).
pub fn peer(sock: impl AsFd) -> io::Result<UnixCredentials> {
    Ok(getsockopt(&sock.as_fd(), sockopt::PeerCredentials)?)
}

/// Listens at a path. A socket left there by a keeper before is replaced; who may connect is the file's mode and group.
pub fn listen(path: &std::path::Path) -> io::Result<OwnedFd> {
    use nix::sys::socket::{Backlog, UnixAddr, bind, listen, socket};
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(16)?)?;
    Ok(fd)
}

/// Accepts one connection, close-on-exec.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let raw = nix::sys::socket::accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
