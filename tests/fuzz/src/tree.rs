//! Archives as trees: unpacked and finished below a directory on a tmpfs that only this process sees.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::LazyLock;
use wherry::unpack::{Limits, extract};

const LIMITS: Limits = Limits { bytes: 1 << 20, inodes: 200, whiteouts: true };

/// `root` is for the archive; whatever else changes has been reached through it.
struct Place(PathBuf);

/// Where the tmpfs is mounted, seen by this process alone: any directory that every system has.
const DIR: &str = "/mnt";

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let dir = PathBuf::from(DIR);
    // The mount goes with this process, and with it all that the archives made.
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace, which needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
    for name in ["root", "lower", "lower/d", "outside"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("outside/canary"), "sings").unwrap();
    Place(dir)
});

/// Nothing outside is touched, limits hold, no device but overlay's own whiteout is made, and all of it can be removed.
pub fn tree(data: &[u8]) {
    let bytes = super::archive::mended(data);
    let dir = &PLACE.0;
    let open = |name: &str| File::open(dir.join(name)).unwrap().into();
    let limits = Limits { whiteouts: data.first().is_none_or(|b| b & 2 == 0), ..LIMITS };
    let answer = extract::layer(&bytes[..], open("root"), limits).and_then(|(totals, marks)| {
        assert!(totals.bytes <= limits.bytes && totals.inodes <= limits.inodes);
        wherry::finish::apply(&open("root"), &marks, &[open("lower")])
    });
    if let Err(failure) = answer {
        super::is_printable(&failure.message);
    }
    let mut names = 0;
    look(&File::open(dir.join("root")).unwrap(), &mut names);
    assert!(names as u64 <= limits.inodes + LIMITS.inodes, "{names} names");
    wherry::image::store::empty(&dir.join("root")).unwrap();
    assert_eq!(fs::read(dir.join("outside/canary")).unwrap(), b"sings");
    assert_eq!(["outside", "lower", "lower/d"].map(|d| fs::read_dir(dir.join(d)).unwrap().count()), [1, 1, 0]);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
}

/// Every directory is read through its descriptor: together, names may be longer than a path.
fn look(at: &File, names: &mut usize) {
    let here = PathBuf::from(format!("/proc/self/fd/{}", at.as_raw_fd()));
    for entry in fs::read_dir(&here).unwrap() {
        let path = here.join(entry.unwrap().file_name());
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        *names += 1;
        assert!(!kind.is_block_device() && !kind.is_socket(), "{}", path.display());
        assert!(!kind.is_char_device() || meta.rdev() == 0, "{}", path.display());
        if kind.is_dir() {
            look(&File::open(&path).unwrap(), names);
        }
    }
}
