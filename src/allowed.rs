//! Where a document from the network may reach on the device. Decided on what was opened: what a path leads to can change between a look
//! and a use, and whoever may write in an allowed directory can put a link there.

use crate::container::fail;
use crate::ipc::Failure;
use crate::protocol::Reason;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

/// Refuses an opened file that is in none of the directories `allowed`, all links followed on either side. `None` allows all.
/// `written` is the path that the document names, `setting` what lists the directories.
///
/// # Errors
/// `Policy`, with both paths and the setting; `Io` when the kernel does not tell where the file is.
pub fn check(file: impl AsFd, written: &str, allowed: Option<&[String]>, setting: &str) -> Result<(), Failure> {
    let Some(allowed) = allowed else { return Ok(()) };
    let real = real_path(file)
        .map_err(|e| Failure { reason: Reason::Io, message: format!("cannot tell where {written} is: {}", fail::os(&e)) })?;
    if outermost(allowed).filter_map(directory).any(|dir| real.starts_with(dir)) {
        return Ok(());
    }
    let (real, allowed) = (real.display(), allowed.join(", "));
    let message = format!(
        "a document from the network may not name {written}, which is {real}; this device allows {allowed} (setting \"{setting}\")"
    );
    Err(Failure { reason: Reason::Policy, message })
}

/// Without those in another of them: there, whoever may write in the outer one decides what the inner one is.
fn outermost(all: &[String]) -> impl Iterator<Item = &str> {
    let inner = |dir: &str| all.iter().any(|outer| outer != dir && Path::new(dir).starts_with(outer));
    all.iter().map(String::as_str).filter(move |dir| !inner(dir))
}

/// Where an allowed directory is. One that cannot be opened has nothing in it.
fn directory(path: &str) -> Option<PathBuf> {
    let dir = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    real_path(dir).ok()
}

/// The kernel's own name for an open file (proc_pid_fd(5)), free of links. A removed one ends in ` (deleted)`.
fn real_path(file: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, create_dir_all, remove_dir_all, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn what_counts_is_where_links_lead() {
        let dir = std::env::temp_dir().join(format!("wherry-allowed-{}", std::process::id()));
        for sub in ["srv/web", "srv-old", "other"] {
            create_dir_all(dir.join(sub)).unwrap();
            write(dir.join(sub).join("file"), "x").unwrap();
        }
        let links = [("/", "srv/root"), ("web", "srv/within"), ("srv", "alias"), ("../other", "srv/inner")];
        for (to, link) in links {
            symlink(to, dir.join(link)).unwrap();
        }
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let tell = |name: &str, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|d| path(d)).collect();
            check(File::open(path(name)).unwrap(), &path(name), Some(&allowed), "bind_sources")
        };
        for (name, allowed) in [
            ("srv", &["srv"][..]),
            ("srv/web/file", &["srv"]),
            ("srv/within/file", &["srv"]),
            ("alias/web", &["srv"]),
            ("srv/web", &["alias"]),
            ("srv/inner/file", &["absent", "srv", "other"]),
        ] {
            assert_eq!(tell(name, allowed), Ok(()), "{name} in {allowed:?}");
        }
        for (name, allowed) in [
            ("srv/root", &["srv"][..]),
            ("srv/root/etc", &["srv"]),
            ("srv-old", &["srv"]),
            ("srv/inner", &["srv"]),
            ("srv/inner/file", &["srv", "srv/inner"]),
            ("srv", &["srv/web"]),
            ("srv", &[]),
            ("srv", &["absent"]),
        ] {
            let failure = tell(name, allowed).unwrap_err();
            assert_eq!(failure.reason, Reason::Policy, "{name} in {allowed:?}");
            assert!(failure.message.contains(&path(name)) && failure.message.contains("bind_sources"), "{}", failure.message);
        }
        assert_eq!(check(File::open("/").unwrap(), "/", None, "bind_sources"), Ok(()));
        assert!(tell("srv/inner", &["srv"]).unwrap_err().message.contains(&path("other")));
        remove_dir_all(dir).unwrap();
    }
}
