//! What an unpack in the attacker's hands would try. Each attempt answers `done`, or the errno that it got.

use super::calls;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknod};
use nix::unistd::{Pid, Uid, setresuid};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

/// Makes the attempt; its words are a name and, for some, one argument.
pub fn attempt(words: &str) -> String {
    let (name, argument) = words.split_once(' ').unwrap_or((words, ""));
    let pid = || Pid::from_raw(argument.parse().unwrap());
    let made = match name {
        "open" => open(argument, OFlag::O_RDONLY, Mode::empty()).map(drop),
        "climb" => climb(argument),
        "link" => std::os::unix::fs::symlink(argument, "link").and_then(|()| File::open("link").map(drop)).map_err(errno),
        "descriptors" => return descriptors(),
        "inet" => connect_inet(argument.parse().unwrap()),
        "abstract" => UnixAddr::new_abstract(argument.as_bytes()).and_then(|to| connect_unix(&to)),
        "unix" => UnixAddr::new(Path::new(argument)).and_then(|to| connect_unix(&to)),
        "netlink" => socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), SockProtocol::NetlinkRoute).map(drop),
        "trace" => nix::sys::ptrace::attach(pid()),
        "kill" => kill(pid(), None),
        "mount" => mount(Some("tmpfs"), "/", Some("tmpfs"), MsFlags::empty(), None::<&str>),
        "chroot" => nix::unistd::chroot("."),
        "device" => mknod("node", SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)),
        "whiteout" => mknod("node", SFlag::S_IFCHR, Mode::S_IRUSR, makedev(0, 0)),
        "userns" => unshare(CloneFlags::CLONE_NEWUSER),
        "user" => setresuid(Uid::from_raw(1000), Uid::from_raw(1000), Uid::from_raw(1000)),
        "hostname" => nix::unistd::sethostname("hostile"),
        "module" => calls::load_module(),
        "bpf" => calls::bpf(),
        "rlimit" => setrlimit(Resource::RLIMIT_NOFILE, 2048, 2048),
        "fork" => Command::new("/bin/true").status().map(drop).map_err(errno),
        "memory" => memory(),
        "bytes" => File::create("big").and_then(|mut f| (0..4).try_for_each(|_| f.write_all(&[7; 1 << 20]))).map_err(errno),
        "trusted" => File::create("marked").and_then(|f| wherry::sys::xattr::set(f, c"trusted.overlay.opaque", b"y")).map_err(errno),
        _ => panic!("no attempt {words:?}"),
    };
    made.map_or_else(|e| format!("{e:?}"), |()| "done".to_owned())
}

fn errno(e: io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or_default())
}

/// Up as far as it goes, then down the path.
fn climb(path: &str) -> Result<(), Errno> {
    (0..40).try_for_each(|_| nix::unistd::chdir(".."))?;
    open(path.trim_start_matches('/'), OFlag::O_RDONLY, Mode::empty()).map(drop)
}

fn connect_inet(port: u16) -> Result<(), Errno> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port))
}

fn connect_unix(to: &UnixAddr) -> Result<(), Errno> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None)?;
    connect(fd.as_raw_fd(), to)
}

/// More than the limit of 64 MiB, and touched.
fn memory() -> Result<(), Errno> {
    let mut taken: Vec<u8> = Vec::new();
    taken.try_reserve_exact(100 << 20).map_err(|_| Errno::ENOMEM)?;
    taken.resize(100 << 20, 1);
    if taken.iter().step_by(4096).all(|b| *b == 1) { Ok(()) } else { Err(Errno::EIO) }
}

/// What is open behind the standard ones, by kind.
fn descriptors() -> String {
    let kind = |n: i32| {
        let stat = fstat(calls::borrowed(n)).ok()?;
        let name = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFSOCK => "socket",
            SFlag::S_IFIFO => "pipe",
            SFlag::S_IFDIR => "directory",
            SFlag::S_IFCHR => "device",
            _ => "file",
        };
        Some(format!("{n}:{name}"))
    };
    (3..1024).filter_map(kind).collect::<Vec<_>>().join(" ")
}
