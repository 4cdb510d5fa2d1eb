//! The root file system: the image's layers, never written, under a tmpfs that holds what the container writes.
//!
//! A read-only container has the same tmpfs, of the smallest size, for the mount points that its image lacks; pid 1 then makes the whole
//! read-only. So one way of mounting serves every image, single layer or many.

use super::upper;
use crate::container::fail::{OrFail, launch};
use crate::container::{Spec, Wiring};
use crate::ipc::Failure;
use crate::sys::fd::proc_path;
use crate::sys::mount as tree;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, chdir, fchown};
use std::os::fd::{AsRawFd, OwnedFd};

/// Most layers: what other engines allow too.
const MAX_LAYERS: usize = 127;

/// Bytes of the upper layer when nothing is to be written but mount points.
const SCAFFOLD: u64 = 1 << 20;

const DIR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Mounts it in our mount namespace, below the scratch directory, and answers its root.
pub fn mount(spec: &Spec, wiring: &Wiring) -> Result<OwnedFd, Failure> {
    if wiring.layers.is_empty() || wiring.layers.len() > MAX_LAYERS {
        return Err(launch(format!("cannot mount {} layers: an image has 1 to {MAX_LAYERS}", wiring.layers.len())));
    }
    let top_first = wiring.layers.iter().rev();
    let layers = top_first.map(|l| open_dir(l).or_fail(|| format!("open layer {l}"))).collect::<Result<Vec<_>, _>>()?;
    let scratch = scratch(wiring)?;
    let bytes = if spec.readonly { SCAFFOLD } else { spec.upper.max(SCAFFOLD) };
    let tmpfs = upper(bytes).or_fail(|| "mount the upper layer")?;
    // Attached, since overlay refuses layers outside our mount namespace.
    tree::attach(&tmpfs, &scratch).or_fail(|| "mount the upper layer")?;
    for name in ["upper", "work", "root"] {
        mkdirat(&tmpfs, name, Mode::from_bits_truncate(0o755)).or_fail(|| "prepare the upper layer")?;
    }
    adopt_root(&layers[0], &tmpfs)?;
    overlay(&layers, &tmpfs)
}

/// The directory that everything is mounted over before it becomes the container's; what hangs there already is covered.
pub fn scratch(wiring: &Wiring) -> Result<OwnedFd, Failure> {
    open_dir(&wiring.scratch).or_fail(|| format!("open scratch directory {}", wiring.scratch))
}

fn open_dir(path: &str) -> nix::Result<OwnedFd> {
    open(path, DIR, Mode::empty())
}

/// The merged root shows owner and mode of the upper directory: those of the topmost layer's root.
fn adopt_root(top: &OwnedFd, tmpfs: &OwnedFd) -> Result<(), Failure> {
    let what = || "prepare the upper layer";
    let stat = fstat(top).or_fail(what)?;
    let upper = openat(tmpfs, "upper", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(what)?;
    fchown(&upper, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).or_fail(what)?;
    fchmod(&upper, Mode::from_bits_truncate(stat.st_mode)).or_fail(what)
}

/// Layers are named by descriptor number, relative to `/proc/self/fd`: mount(2) takes one page of data, and 127 paths would not fit.
///
/// `redirect_dir` and `metacopy` are off: both follow names written in extended attributes of a layer to other places in it.
fn overlay(layers: &[OwnedFd], tmpfs: &OwnedFd) -> Result<OwnedFd, Failure> {
    let what = || "mount the layers (overlay)";
    let lower: Vec<String> = layers.iter().map(|l| l.as_raw_fd().to_string()).collect();
    let (lower, n) = (lower.join(":"), tmpfs.as_raw_fd());
    let data = format!("lowerdir={lower},upperdir={n}/upper,workdir={n}/work,redirect_dir=nofollow,metacopy=off,index=off");
    let target = format!("{}/root", proc_path(tmpfs));
    chdir("/proc/self/fd").or_fail(what)?;
    // No device nodes: whatever an image brings, a node in it opens nothing.
    let mounted = nix::mount::mount(Some("overlay"), target.as_str(), Some("overlay"), MsFlags::MS_NODEV, Some(data.as_str()));
    chdir("/").or_fail(what)?;
    mounted.or_fail(what)?;
    openat(tmpfs, "root", DIR, Mode::empty()).or_fail(what)
}
