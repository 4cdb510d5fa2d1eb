//! The runtime directory: a tmpfs of keeper's own, its lock, and the record of every container that has a process.
//!
//! ```text
//! control.sock   lock   boot   conn
//! execs/<pid>
//! containers/<app>/<name>/{record, exit, log, root}
//! ```

use crate::container::exit_record::{self, ExitRecord};
use crate::image::Digest;
use crate::keeper::lifecycle::Life;
use crate::keeper::plan::Ready;
use crate::keeper::poll::Key;
use crate::manifest::Name;
use crate::sys::fd::read_file;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount, umount};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the record format, frozen by bytes: a newer keeper adopts what an older one started.
const VERSION: u8 = 1;
/// A checked spec comes from 32 KiB of manifest and an image configuration.
const MAX_RECORD: usize = 256 * 1024;
/// Records, exit files and FIFOs of 256 containers.
const TMPFS: &str = "size=16m,nr_inodes=4096,mode=0755";

/// How far a container's start had come when the record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Launch was about to be asked. Without `Go`, pid 1 exits by itself.
    Intent,
    /// Pid 1 exists.
    Process {
        /// Its number in keeper's pid namespace.
        pid: i32,
        /// Its start time in clock ticks since boot (proc_pid_stat(5), field 22): with the number, it names one process.
        start: u64,
    },
}

/// What is on record of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The kernel's id of the boot in which it was written.
    pub boot_id: String,
    /// The document it comes from.
    pub manifest: Digest,
    /// How it was started.
    pub ready: Ready,
    /// Its cgroup.
    pub group: String,
    /// Where its life was.
    pub life: Life,
    /// How far its start had come.
    pub phase: Phase,
    /// Limits that this kernel cannot enforce, with why.
    pub missing: Vec<(String, String)>,
}

/// The directory, locked: one keeper at a time.
pub struct Runtime {
    root: PathBuf,
    /// True when this directory was empty: a fresh start, not an adoption.
    pub fresh: bool,
    _lock: Flock<File>,
}

impl Runtime {
    /// Mounts the tmpfs unless an earlier keeper has, and takes the lock.
    ///
    /// # Errors
    /// `ResourceBusy` when another keeper holds the lock.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        if !is_mount_point(root)? {
            // /run is on a disk on some systems; what is written here must never be.
            mount(Some("wherry"), root, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, Some(TMPFS))?;
        }
        let file = File::options().create(true).truncate(false).write(true).open(root.join("lock"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another keeper runs in this directory"))?;
        let containers = root.join("containers");
        let fresh = !containers.exists();
        fs::create_dir_all(&containers)?;
        // FIFOs and exit records belong to payload users; nobody but root may walk there.
        fs::set_permissions(&containers, Permissions::from_mode(0o700))?;
        Ok(Self { root: root.to_owned(), fresh, _lock: lock })
    }

    /// Path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// A small number that must outlive keeper but not the boot.
    pub fn number(&self, name: &str) -> Option<u64> {
        const DIGITS: usize = 32;
        String::from_utf8(read_file(self.root.join(name), DIGITS).ok()?).ok()?.parse().ok()
    }

    /// Keeps such a number.
    pub fn set_number(&self, name: &str, value: u64) -> io::Result<()> {
        write_whole(&self.root.join(name), value.to_string().as_bytes())
    }

    /// The directory of one container.
    pub fn dir(&self, key: &Key) -> PathBuf {
        self.root.join("containers").join(key.app.as_str()).join(key.container.as_str())
    }

    /// Writes the record of one container.
    pub fn save(&self, key: &Key, record: &Record) -> io::Result<()> {
        write_whole(&self.dir(key).join("record"), &encode(record)?)
    }

    /// How its last payload ended, as its pid 1 wrote it.
    pub fn exit_record(&self, key: &Key) -> Option<ExitRecord> {
        exit_record::read(&File::open(self.dir(key).join("exit")).ok()?).ok().flatten()
    }

    /// Forgets one container.
    pub fn forget(&self, key: &Key) -> io::Result<()> {
        let dir = self.dir(key);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // The app's directory goes with its last container; until then it is not empty.
        let _ = dir.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Puts on record a program that a command from the network runs in a container: its number, its start time, the container's group.
    pub fn record_exec(&self, pid: i32, start: u64, group: &str) -> io::Result<()> {
        fs::create_dir_all(self.root.join("execs"))?;
        fs::write(self.exec(pid), format!("{start} {group}"))
    }

    /// It has ended, or was never on record.
    pub fn forget_exec(&self, pid: i32) {
        let _ = fs::remove_file(self.exec(pid));
    }

    fn exec(&self, pid: i32) -> PathBuf {
        self.root.join("execs").join(pid.to_string())
    }

    /// All of them that are on record.
    pub fn execs(&self) -> Vec<(i32, u64, String)> {
        const MAX: usize = 4096;
        let read = |entry: io::Result<fs::DirEntry>| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let text = String::from_utf8(read_file(self.exec(pid), MAX).ok()?).ok()?;
            let (start, group) = text.split_once(' ')?;
            Some((pid, start.parse().ok()?, group.to_owned()))
        };
        fs::read_dir(self.root.join("execs")).into_iter().flatten().filter_map(read).collect()
    }

    /// Every container that left a directory, with its record if that can be read.
    pub fn records(&self) -> io::Result<Vec<(Key, Option<Record>)>> {
        let mut found = Vec::new();
        for app in names(&self.root.join("containers"))? {
            for container in names(&self.root.join("containers").join(app.as_str()))? {
                let key = Key { app: app.clone(), container };
                let record = read_file(self.dir(&key).join("record"), MAX_RECORD).ok().and_then(|b| decode(&b));
                found.push((key, record));
            }
        }
        Ok(found)
    }

    /// Removes the directories of apps without a container: a keeper may have died between the two steps of [`Runtime::forget`].
    pub fn tidy(&self) -> io::Result<()> {
        for app in names(&self.root.join("containers"))? {
            // Refused while there is something in it.
            let _ = fs::remove_dir(self.root.join("containers").join(app.as_str()));
        }
        Ok(())
    }

    /// Unmounts the tmpfs: all containers are gone. A child that was only just spawned may hold a file of it a moment longer: exec wakes the parent before it
    /// closes what is close-on-exec (`begin_new_exec`, fs/exec.c).
    pub fn close(self) -> io::Result<()> {
        const TRIES: u32 = 100;
        let root = self.root.clone();
        drop(self);
        for _ in 1..TRIES {
            match umount(&root) {
                Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(20)),
                done => return Ok(done?),
            }
        }
        Ok(umount(&root)?)
    }
}

fn names(dir: &Path) -> io::Result<Vec<Name>> {
    let entries = fs::read_dir(dir)?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    Ok(entries.collect())
}

fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let parent = dir.canonicalize()?.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

/// Replaces a file in one step: a reader (keeper after kill -9) sees the old or the new bytes, never half.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("new");
    fs::write(&tmp, bytes)?;
    fs::rename(tmp, path)
}

/// The record's bytes.
pub fn encode(record: &Record) -> io::Result<Vec<u8>> {
    postcard::to_extend(record, vec![VERSION]).map_err(|e| io::Error::other(e.to_string()))
}

/// The record in these bytes, exactly one; `None` if they are none, or of another version.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    let body = bytes.strip_prefix(&[VERSION])?;
    match postcard::take_from_bytes(body) {
        Ok((record, [])) => Some(record),
        _ => None,
    }
}

/// Start time of a process in clock ticks since boot.
pub fn start_time(pid: i32) -> io::Result<u64> {
    const MAX: usize = 4096;
    let stat = read_file(format!("/proc/{pid}/stat"), MAX)?;
    // The second field, the name, may hold spaces and brackets; the last ')' ends it.
    let after = stat.iter().rposition(|b| *b == b')').map(|i| &stat[i + 1..]).unwrap_or_default();
    let text = String::from_utf8_lossy(after);
    let field = text.split_ascii_whitespace().nth(19).and_then(|f| f.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))
}
