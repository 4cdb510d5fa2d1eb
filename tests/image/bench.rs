//! What the tests stand on: a directory of one's own, stage as a process, layouts, and trees as text.

use nix::mount::{MsFlags, mount as nix_mount};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wherry::image::store::Store;
use wherry::image::{Digest, Form, Record, Reference, Source};
use wherry::ipc::{Conn, FromStage, StageJob, ToStage};
use wherry::protocol::Reason;
use wherry::sys::process::{Child, Spawn, reap, spawn};

/// Runs a program, which must succeed; answers its standard output.
pub fn run(program: &str, args: &[&str], dir: &Path) -> String {
    let out = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A directory that goes with the test.
pub struct Bench(PathBuf);

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub type Answer = Result<Record, (Reason, String)>;

impl Bench {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("wherry-image-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub fn store(&self) -> Store {
        Store::open(&self.data()).unwrap()
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }

    /// A file with these bytes through a shell filter.
    pub fn piped(&self, name: &str, bytes: &[u8], filter: &str) -> String {
        self.file("piped", bytes);
        run("sh", &["-euc", &format!("{filter} < piped > {name}")], &self.0);
        self.path(name)
    }

    pub fn job(&self, data: &Path, source: Source) -> StageJob {
        StageJob {
            reference: Reference { text: "test".into(), source },
            digest: None,
            size: None,
            data: data.to_str().unwrap().to_owned(),
            max_bytes: 256 << 20,
            max_inodes: 100_000,
            timeout_s: 120,
            hash_uid: 64_321,
            allowed: None,
        }
    }

    pub fn start(&self, job: &StageJob) -> (Child, Conn) {
        let exe = fs::File::open(env!("CARGO_BIN_EXE_wherry")).unwrap();
        let (ours, theirs) = Conn::pair().unwrap();
        let argv = [CString::from(c"wherry"), CString::from(c"stage")];
        let child = spawn(&Spawn { exe: exe.as_fd(), argv: &argv, env: &[], fds: &[theirs.as_fd()], flags: 0 }).unwrap();
        ours.send(&ToStage::Pull(job.clone())).unwrap();
        (child, ours)
    }

    pub fn stage_in(&self, data: &Path, source: Source, change: impl FnOnce(&mut StageJob)) -> Answer {
        let mut job = self.job(data, source);
        change(&mut job);
        let (child, conn) = self.start(&job);
        let answer = answer(&conn);
        reap(child.pid).unwrap();
        answer
    }

    pub fn stage(&self, source: Source, change: impl FnOnce(&mut StageJob)) -> Answer {
        self.stage_in(&self.data(), source, change)
    }

    /// What becomes of a file that the network brings, with this digest as the pinned one.
    pub fn fetch_in(&self, data: &Path, form: Form, bytes: &[u8], change: impl FnOnce(&mut StageJob)) -> Answer {
        let mut job = self.job(data, download(form));
        job.digest = Some(Digest::of(bytes));
        change(&mut job);
        let (child, conn) = self.start(&job);
        let answer = answer_to(&conn, bytes);
        reap(child.pid).unwrap();
        answer
    }

    pub fn fetch(&self, form: Form, bytes: &[u8], change: impl FnOnce(&mut StageJob)) -> Answer {
        self.fetch_in(&self.data(), form, bytes, change)
    }

    /// The layout as one tar file.
    pub fn packed(&self, layout: &str) -> Vec<u8> {
        run("tar", &["-C", layout, "-cf", "packed", "."], self.dir());
        fs::read(self.dir().join("packed")).unwrap()
    }

    pub fn store_is_empty(&self) {
        for dir in ["staging", "layers", "images"] {
            assert_eq!(names(&self.data().join(dir)), BTreeSet::new(), "{dir}");
        }
    }

    /// The same image with its layers decompressed and put through `filter`.
    pub fn recompressed(&self, layout: &str, filter: &str) -> String {
        let json = |path: &str| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
        let blob = |d: &serde_json::Value| format!("{layout}/blobs/sha256/{}", &d["digest"].as_str().unwrap()[7..]);
        let manifest = json(&blob(&json(&format!("{layout}/index.json"))["manifests"][0]));
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| {
            run("sh", &["-euc", &format!("gzip -dc < {} | {filter} > converted", blob(layer))], &self.0);
            fs::read(self.0.join("converted")).unwrap()
        });
        let layers: Vec<Vec<u8>> = layers.collect();
        let kind = if filter == "zstd" { "+zstd" } else { "" };
        Layout::from_parts(
            self,
            &layers.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            &fs::read(blob(&manifest["config"])).unwrap(),
            kind,
            "v1",
        )
        .write(&format!("layout-{filter}"))
    }
}

/// The last message of stage.
pub fn answer(conn: &Conn) -> Answer {
    answer_to(conn, b"")
}

/// The same, with these bytes for what it wants from the network.
pub fn answer_to(conn: &Conn, download: &[u8]) -> Answer {
    loop {
        match conn.recv_with::<FromStage>().unwrap() {
            Some((FromStage::Progress(_), _)) => {}
            Some((FromStage::Wish(_), mut fds)) => {
                // Whoever reads may have seen enough.
                let _ = fs::File::from(fds.pop().unwrap()).write_all(download);
                let _ = conn.send(&ToStage::Downloaded(Ok(download.len() as u64)));
            }
            Some((FromStage::Ready(record), _)) => return Ok(record),
            Some((FromStage::Failed(f), _)) => return Err((f.reason, f.message)),
            None => panic!("stage ended without an answer"),
        }
    }
}

/// An image from the network.
pub fn download(form: Form) -> Source {
    Source::Http { url: "http://localhost/image.tar".parse().unwrap(), form }
}

fn host() -> &'static str {
    wherry::image::Host::new(std::env::consts::ARCH, "").arch
}

/// An image configuration for this machine with these uncompressed layers.
pub fn config(layers: &[&[u8]]) -> Vec<u8> {
    config_for(layers, host())
}

fn config_for(layers: &[&[u8]], arch: &str) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|l| format!("\"{}\"", Digest::of(l))).collect();
    let ids = ids.join(",");
    format!(r#"{{"architecture":"{arch}","os":"linux","config":{{"Cmd":["/bin/sh"]}},"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#)
        .into()
}

/// `manifest.json` of a `docker save` archive.
pub fn docker_archive(config: &str, layers: &[&str]) -> Vec<u8> {
    let layers: Vec<String> = layers.iter().map(|l| format!("\"{l}\"")).collect();
    format!(r#"[{{"Config":"{config}","RepoTags":["app:v1"],"Layers":[{}]}}]"#, layers.join(",")).into_bytes()
}

/// An OCI layout directory, written as often as wanted.
pub struct Layout {
    base: PathBuf,
    blobs: Vec<Vec<u8>>,
    index: String,
    pub config: Digest,
    pub config_size: usize,
}

impl Layout {
    pub fn new(bench: &Bench, layers: &[&[u8]]) -> Self {
        Self::from_parts(bench, layers, &config(layers), "", "t")
    }

    pub fn for_machine(bench: &Bench, layers: &[&[u8]], arch: &str) -> Self {
        Self::from_parts(bench, layers, &config_for(layers, arch), "", "t")
    }

    fn from_parts(bench: &Bench, layers: &[&[u8]], config: &[u8], compression: &str, tag: &str) -> Self {
        let describe = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            format!(r#""mediaType":"{kind}","digest":"{}","size":{}"#, Digest::of(bytes), bytes.len())
        };
        let list: Vec<String> = layers.iter().map(|l| format!("{{{}}}", describe(&format!("layer.v1.tar{compression}"), l))).collect();
        let list = list.join(",");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{{{}}},"layers":[{list}]}}"#, describe("config.v1+json", config));
        let entry = |tag: &str| {
            let manifest = describe("manifest.v1+json", manifest.as_bytes());
            format!(r#"{{{manifest},"annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}"#)
        };
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry(tag), entry("other"));
        let blobs = layers.iter().copied().chain([config, manifest.as_bytes()]).map(<[u8]>::to_vec).collect();
        Self { base: bench.dir().to_owned(), blobs, index, config: Digest::of(config), config_size: config.len() }
    }

    /// The image one level deeper: behind an index that also has an image for another machine.
    pub fn nested(mut self) -> Self {
        let platform = |arch: &str| format!(r#""platform":{{"os":"linux","architecture":"{arch}"}}"#);
        let manifest = self.blobs.last().unwrap();
        let kind = if self.index.contains("image.index") { "index" } else { "manifest" };
        let entry = |digest: Digest, size: usize, arch: &str| {
            let kind = format!("application/vnd.oci.image.{kind}.v1+json");
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size},{}}}"#, platform(arch))
        };
        let entries = [entry(Digest::of(b"no such"), 7, "s390x"), entry(Digest::of(manifest), manifest.len(), host())];
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let kind = r#""mediaType":"application/vnd.oci.image.index.v1+json""#;
        let name = r#""annotations":{"org.opencontainers.image.ref.name":"t"}"#;
        let digest = Digest::of(index.as_bytes());
        self.index = format!(r#"{{"schemaVersion":2,"manifests":[{{{kind},"digest":"{digest}","size":{},{name}}}]}}"#, index.len());
        self.blobs.push(index.into_bytes());
        self
    }

    pub fn write(&self, name: &str) -> String {
        let dir = self.base.join(name);
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(dir.join("index.json"), &self.index).unwrap();
        for blob in &self.blobs {
            fs::write(dir.join("blobs/sha256").join(Digest::of(blob).hex()), blob).unwrap();
        }
        dir.to_str().unwrap().to_owned()
    }
}

// ---- trees ----

/// Names in a directory.
pub fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Directories in directories, so many levels deep.
pub fn dig(at: &Path, levels: usize) {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let mut dir: std::os::fd::OwnedFd = fs::File::open(at).unwrap().into();
    for _ in 0..levels {
        mkdirat(&dir, "deep", Mode::S_IRWXU).unwrap();
        dir = openat(&dir, "deep", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
}

pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

pub fn mode_and_owner(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mode() & 0o7777, meta.uid(), meta.gid())
}

/// A tree as text: a line for each file (type, mode, owner, links, time, size, content, target), then the extended attributes.
pub fn tree(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.sort();
    let attributes = run("getfattr", &["-R", "-P", "-h", "-d", "-m", "^(user|security)", "-e", "hex", "."], root);
    let mut blocks: Vec<String> = attributes.split("\n\n").map(|b| format!("xattr {}", b.trim().replace('\n', " "))).collect();
    blocks.sort();
    lines.extend(blocks.into_iter().filter(|b| b != "xattr "));
    lines
}

fn walk(root: &Path, at: &Path, lines: &mut Vec<String>) {
    let meta = fs::symlink_metadata(at).unwrap();
    let kind = meta.file_type();
    let what = match kind {
        _ if kind.is_dir() => "dir".to_owned(),
        _ if kind.is_symlink() => format!("link -> {}", fs::read_link(at).unwrap().display()),
        _ if kind.is_file() => format!("file {} {} links {}", meta.size(), Digest::of(&fs::read(at).unwrap()).hex(), meta.nlink()),
        _ if kind.is_fifo() => "fifo".to_owned(),
        _ => format!("device {}", meta.rdev()),
    };
    let name = at.strip_prefix(root).unwrap().display();
    let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    lines.push(format!("./{name} {:o} {}:{} {time} {what}", meta.mode() & 0o7777, meta.uid(), meta.gid()));
    if kind.is_dir() {
        fs::read_dir(at).unwrap().for_each(|e| walk(root, &e.unwrap().path(), lines));
    }
}

pub fn without_xattrs_and_fractions(lines: &[String]) -> Vec<String> {
    let cut = |l: &String| {
        let mut words: Vec<&str> = l.split(' ').collect();
        words[3] = words[3].split('.').next().unwrap();
        words.join(" ")
    };
    lines.iter().filter(|l| !l.starts_with("xattr ")).map(cut).collect()
}

/// Two trees are the same; says the lines that differ.
pub fn same(what: &str, expected: &[String], found: &[String]) {
    let (e, f): (BTreeSet<_>, BTreeSet<_>) = (expected.iter().collect(), found.iter().collect());
    let missing: Vec<_> = e.difference(&f).collect();
    let extra: Vec<_> = f.difference(&e).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{what}: missing {missing:#?}, instead {extra:#?}");
}

// ---- mounts ----

/// Runs something in a mount namespace of its own, which goes with it.
pub fn in_mount_namespace<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            nix_mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            what()
        });
        thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

pub fn mount(kind: &str, source: &str, at: &Path, options: &str) {
    nix_mount(Some(source), at, Some(kind), MsFlags::empty(), Some(options)).unwrap();
}

/// Looks at layers (bottom first) through an overlay mount.
pub fn overlay<T: Send>(data: &Path, layers: &[String], look: impl FnOnce(&Path) -> T + Send) -> T {
    in_mount_namespace(|| {
        let (empty, at) = (data.join("empty"), data.join("merged"));
        for dir in [&empty, &at] {
            fs::create_dir_all(dir).unwrap();
        }
        let mut lower: Vec<String> = layers.iter().rev().map(|l| data.join(l).display().to_string()).collect();
        // Without an upper directory overlay wants at least two lower ones.
        lower.push(empty.display().to_string());
        mount("overlay", "overlay", &at, &format!("lowerdir={}", lower.join(":")));
        look(&at)
    })
}

/// Sectors written so far to the block device below a directory.
pub fn sectors_written(dir: &Path) -> u64 {
    let device = fs::metadata(dir).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    stat.split_whitespace().nth(6).unwrap().parse().unwrap()
}

// ---- processes ----

/// Stops the children of a process so that nothing goes on; answers their pids.
pub fn stop_children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pids: Vec<i32> = list.split_whitespace().map(|p| p.parse().unwrap()).collect();
    for pid in &pids {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    }
    pids
}

/// A line of `/proc/<pid>/status`, its words separated by single spaces.
pub fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name}:"))).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits until these are dead (a zombie is: reaping it is for whoever inherited it).
pub fn wait_gone(pids: &[i32]) {
    let alive = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.rsplit(')').next().unwrap().starts_with(" Z"));
    let until = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(alive) {
        assert!(Instant::now() < until, "still alive: {pids:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
