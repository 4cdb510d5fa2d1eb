//! Real images, built once by umoci from a static busybox and kept below target/tmp.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Changes with what is built here, so that an older cache is not used.
const EDITION: &str = "6";

const APPLETS: &[&str] = &[
    "cat", "chmod", "cp", "date", "dd", "df", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mount",
    "ps", "pwd", "rm", "seq", "sh", "sleep", "stty", "tail", "touch", "tr", "true", "tty", "usleep", "wc", "yes", "printf",
];

/// Shows what the image's configuration and the manifest made of it, then waits for its stop signal.
const ENTRY: &str = r#"#!/bin/sh
echo "args=$*"
echo "from_image=$FROM_IMAGE added=$ADDED"
echo "id=$(id -u):$(id -g) groups=$(id -G)"
echo "pwd=$(pwd)"
trap 'echo "got USR1"; exit 7' USR1
trap 'echo "got TERM"; exit 8' TERM
echo ready
while true; do sleep 0.05; done
"#;

/// The directory that holds all images: for `import_dirs`.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("images-{EDITION}"));
        if !dir.exists() {
            let work = dir.with_extension(std::process::id().to_string());
            build(&work);
            // Another test binary may have been faster.
            let _ = fs::rename(&work, &dir);
            let _ = fs::remove_dir_all(&work);
        }
        dir
    })
}

/// Reference of an OCI layout's image: `plain` (a shell, no user), `config` (everything set).
pub fn layout(tag: &str) -> String {
    format!("oci:{}/layout:{tag}", dir().display())
}

/// The same `plain` image as one tar.
pub fn archive() -> String {
    format!("oci-archive:{}/layout.tar:plain", dir().display())
}

/// The root file system of `plain`, compressed.
pub fn rootfs() -> PathBuf {
    dir().join("rootfs.tar.gz")
}

/// A root file system that takes a while to unpack.
pub fn slow() -> String {
    format!("rootfs:{}/slow.tar.gz", dir().display())
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn umoci(args: &[&str]) {
    run(Command::new("umoci").args(args));
}

fn build(work: &Path) {
    let _ = fs::remove_dir_all(work);
    fs::create_dir_all(work).unwrap();
    let path = |name: &str| work.join(name).to_str().unwrap().to_owned();
    let (store, bundle) = (path("layout"), path("bundle"));
    let plain = format!("{store}:plain");
    umoci(&["init", "--layout", &store]);
    umoci(&["new", "--image", &plain]);
    umoci(&["unpack", "--image", &plain, &bundle]);
    fill(&work.join("bundle/rootfs"));
    umoci(&["repack", "--image", &plain, &bundle]);
    umoci(&["config", "--image", &plain, "--config.cmd", "sleep", "--config.cmd", "100000", "--config.env", "PATH=/bin"]);
    let set = ["--config.entrypoint", "/bin/entry", "--config.cmd", "from-image", "--config.env", "FROM_IMAGE=yes"];
    let more = ["--config.user", "app", "--config.workingdir", "/work", "--config.stopsignal", "SIGUSR1"];
    umoci(&[&["config", "--image", &plain, "--tag", "config"][..], &set, &more].concat());
    run(Command::new("tar").args(["-C", &store, "-cf", &path("layout.tar"), "."]));
    run(Command::new("tar").args(["-C", &path("bundle/rootfs"), "-czf", &path("rootfs.tar.gz"), "."]));
    fs::File::create(work.join("bundle/rootfs/ballast")).unwrap().set_len(192 << 20).unwrap();
    run(Command::new("tar").args(["-C", &path("bundle/rootfs"), "-czf", &path("slow.tar.gz"), "."]));
    fs::remove_dir_all(bundle).unwrap();
}

fn fill(root: &Path) {
    for (name, mode) in [("bin", 0o755), ("etc", 0o755), ("work", 0o755), ("tmp", 0o1777), ("proc", 0o755), ("dev", 0o755), ("sys", 0o755)]
    {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists()).expect("busybox-static is installed");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("bin/entry"), ENTRY).unwrap();
    fs::set_permissions(root.join("bin/entry"), Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\napp:x:1234:1235:App:/work:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1235:\nextra:x:1236:app\n").unwrap();
}
