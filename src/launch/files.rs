//! The files that a manifest puts into its container, written into a tmpfs of their own: they touch neither the image nor flash.

use crate::container::fail::OrFail;
use crate::container::files::Files;
use crate::container::mounts::{HIDDEN, Tree};
use crate::container::open_plain;
use crate::ipc::Failure;
use crate::manifest::{Content, Placed};
use crate::secrets;
use crate::sys::mount;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

/// What a file of some bytes takes of a tmpfs: whole pages, of at most 64 KiB on any architecture.
const PAGE: u64 = 64 << 10;

/// Makes them in a tmpfs that it mounts at `place`, in our mount namespace: kernels before 6.15 copy only what hangs there.
pub fn make(place: BorrowedFd<'_>, wanted: &[Placed], secrets: &str) -> Result<Files, Failure> {
    if wanted.is_empty() {
        return Ok(Files::default());
    }
    let dir = memory(wanted).or_fail(|| "mount the memory for files")?;
    mount::attach(&dir, place).or_fail(|| "mount the memory for files")?;
    let all = wanted.iter().enumerate().map(|(i, file)| one(&dir, &i.to_string(), file, secrets));
    all.collect::<Result<_, _>>().map(Files)
}

/// Never swapped out, from Linux 6.4 on.
fn memory(wanted: &[Placed]) -> io::Result<OwnedFd> {
    let bytes = |file: &Placed| match &file.content {
        Content::Text(text) => text.len() as u64,
        Content::Secret(_) => secrets::MAX as u64,
    };
    let size: u64 = wanted.iter().map(|file| bytes(file).next_multiple_of(PAGE).max(PAGE)).sum();
    let (size, inodes) = (size.to_string(), (wanted.len() + 1).to_string());
    let options = [(c"size", Some(size.as_str())), (c"nr_inodes", Some(&inodes)), (c"mode", Some("700"))];
    let made = mount::create(c"tmpfs", &[&options[..], &[(c"noswap", None)]].concat(), HIDDEN);
    match made {
        Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => mount::create(c"tmpfs", &options, HIDDEN),
        other => other,
    }
}

fn one(dir: &OwnedFd, name: &str, wanted: &Placed, secrets: &str) -> Result<(Tree, File), Failure> {
    let what = || format!("write file {}", wanted.path);
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mut file: File = openat(dir, name, flags, Mode::empty()).or_fail(what)?.into();
    match &wanted.content {
        Content::Text(text) => file.write_all(text.as_bytes()).or_fail(what)?,
        // From file to file, in the kernel: no memory of ours that a container's pid 1 inherits ever holds it.
        Content::Secret(secret) => {
            let mut from = File::from(secrets::open(secrets, secret)?).take(secrets::MAX as u64);
            io::copy(&mut from, &mut file).or_fail(what)?;
        }
    }
    fchmod(&file, Mode::from_bits_truncate(wanted.mode.into())).or_fail(what)?;
    let place = open_plain(dir, name, OFlag::empty()).or_fail(what)?;
    Ok((Tree::copy(place, false).or_fail(what)?, file))
}
