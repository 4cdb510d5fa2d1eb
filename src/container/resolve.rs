//! Paths below a root that they cannot leave, resolved by the kernel in one step (`openat2(2)`, Linux 5.6).
//!
//! A symbolic link of the image, absolute or with `..`, ends inside the root; a check followed by a second lookup would not be safe
//! (CVE-2021-30465).

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most parts of a path that are made where missing.
const MAX_MISSING: usize = 64;

/// Most attempts at one lookup; a container that renames without pause must not keep us here.
const ATTEMPTS: usize = 128;

const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// What a path is to end at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// Anything else.
    File,
}

fn how(flags: OFlag, resolve: ResolveFlag) -> OpenHow {
    OpenHow::new().flags(flags).resolve(resolve)
}

/// Opens `path` with `root` as its root: links are followed, but never out of it; magic links of procfs are refused.
pub fn open_in(root: impl AsFd, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
    lookup(root.as_fd(), path, how(flags | OFlag::O_CLOEXEC, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS))
}

/// Opens the place `path` below `dir` with no symbolic link and no other mount on the way.
pub fn open_plain(dir: impl AsFd, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    lookup(dir.as_fd(), path, how(PLACE | flags, resolve))
}

/// A rename or mount anywhere in the system while `..` is walked makes the kernel give up with EAGAIN (openat2(2)): it is asked again.
fn lookup(dir: BorrowedFd<'_>, path: &str, how: OpenHow) -> io::Result<OwnedFd> {
    for _ in 1..ATTEMPTS {
        match openat2(dir, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            answer => return Ok(answer?),
        }
    }
    Ok(openat2(dir, path, how)?)
}

/// The directory `name` of `dir`, made if missing, and no link: an image whose `/dev` is a link to elsewhere must not have
/// us write there (CVE-2026-41579).
pub fn plain_dir(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    match open_plain(&dir, name, OFlag::O_DIRECTORY) {
        Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => {
            mkdirat(&dir, name, Mode::from_bits_truncate(0o755))?;
            open_plain(dir, name, OFlag::O_DIRECTORY)
        }
        other => other,
    }
}

/// The place `path` inside `root`; what is missing is made, owned by `owner`.
///
/// # Errors
/// `EEXIST` when a symbolic link on the way points to nothing, and what the kernel answers.
pub fn ensure_in(root: BorrowedFd<'_>, path: &str, kind: Kind, owner: (u32, u32)) -> io::Result<OwnedFd> {
    ensure(root, path.trim_end_matches('/'), kind, owner, MAX_MISSING)
}

fn ensure(root: BorrowedFd<'_>, path: &str, kind: Kind, owner: (u32, u32), left: usize) -> io::Result<OwnedFd> {
    let flags = if kind == Kind::Dir { PLACE | OFlag::O_DIRECTORY } else { PLACE };
    let lookup = || open_in(root, if path.is_empty() { "." } else { path }, flags);
    match lookup() {
        Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) && left > 0 => {}
        other => return other,
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = ensure(root, parent.trim_end_matches('/'), Kind::Dir, owner, left - 1)?;
    make(parent.as_fd(), name, kind, owner)?;
    lookup()
}

fn make(parent: BorrowedFd<'_>, name: &str, kind: Kind, owner: (u32, u32)) -> io::Result<()> {
    let made = match kind {
        Kind::Dir => mkdirat(parent, name, Mode::from_bits_truncate(0o755))
            .and_then(|()| openat(parent, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())),
        Kind::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
            openat(parent, name, flags, Mode::from_bits_truncate(0o644))
        }
    }?;
    Ok(nix::unistd::fchown(made, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wherry-resolve-{}-{name}", std::process::id()));
            fs::create_dir_all(path.join("root/in")).unwrap();
            fs::create_dir_all(path.join("outside")).unwrap();
            Self(path)
        }

        fn root(&self) -> fs::File {
            fs::File::open(self.0.join("root")).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn me() -> (u32, u32) {
        (Uid::current().as_raw(), Gid::current().as_raw())
    }

    #[test]
    fn a_link_out_of_the_root_ends_inside_it() {
        let dir = Dir::new("links");
        symlink("../../outside", dir.0.join("root/up")).unwrap();
        symlink(dir.0.join("outside"), dir.0.join("root/absolute")).unwrap();
        for path in ["up/new", "/absolute/new", "../../outside/new"] {
            let _ = ensure_in(dir.root().as_fd(), path, Kind::Dir, me());
            assert!(!dir.0.join("outside/new").exists(), "{path}");
        }
    }

    #[test]
    fn a_link_inside_the_root_is_followed() {
        let dir = Dir::new("inside");
        symlink("/in", dir.0.join("root/alias")).unwrap();
        ensure_in(dir.root().as_fd(), "/alias/a/b", Kind::Dir, me()).unwrap();
        ensure_in(dir.root().as_fd(), "/alias/a/file", Kind::File, me()).unwrap();
        assert!(dir.0.join("root/in/a/b").is_dir());
        assert!(dir.0.join("root/in/a/file").is_file());
    }

    #[test]
    fn a_link_to_nothing_is_refused_rather_than_followed() {
        let dir = Dir::new("dangling");
        symlink("/nowhere", dir.0.join("root/dangling")).unwrap();
        let error = ensure_in(dir.root().as_fd(), "/dangling", Kind::Dir, me()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EEXIST as i32));
    }

    #[test]
    fn a_plain_directory_is_no_link() {
        let dir = Dir::new("plain");
        symlink(dir.0.join("outside"), dir.0.join("root/dev")).unwrap();
        assert_eq!(plain_dir(dir.root(), "dev").unwrap_err().raw_os_error(), Some(Errno::ELOOP as i32));
        assert!(plain_dir(dir.root(), "proc").is_ok());
        assert!(dir.0.join("root/proc").metadata().unwrap().mode() & 0o755 != 0);
    }

    /// Without asking again, some of these lookups fail with EAGAIN on any machine with two CPUs.
    #[test]
    fn renames_elsewhere_do_not_fail_a_lookup() {
        let dir = Dir::new("renames");
        let (one, two) = (dir.0.join("outside/one"), dir.0.join("outside/two"));
        fs::write(&one, "").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(&one, &two).unwrap();
                    fs::rename(&two, &one).unwrap();
                }
            });
            let path = "/in/..".repeat(20) + "/in";
            let failed = (0..2000).find_map(|_| open_in(dir.root(), &path, OFlag::O_PATH).err());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    #[test]
    fn a_path_of_absurd_depth_is_refused() {
        let dir = Dir::new("deep");
        let path = "/x".repeat(MAX_MISSING + 2);
        assert!(ensure_in(dir.root().as_fd(), &path, Kind::Dir, me()).is_err());
    }
}
