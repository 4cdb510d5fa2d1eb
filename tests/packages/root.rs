//! A device's root directory with Wherry's package unpacked in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Network and overlay of every device here.
const CONFIG_SYSTEM: &str = "config system\n\toption hostname 'OpenWrt'\n";
const MOUNTS: &str = "overlayfs:/overlay / overlay rw 0 0\n/dev/ubi0_1 /overlay ubifs rw,noatime 0 0\n";
const MAC: &str = "00:11:22:aa:bb:cc\n";

/// A file or directory of the project.
pub fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A directory that goes with its owner.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wherry-packages-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its name, which no other has.
    pub fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command that must succeed; answers its output.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let said = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{command:?}: {status}\n{said}{}", String::from_utf8_lossy(&stderr));
    said
}

/// Runs a command that must fail; answers its exit code and what it said.
pub fn fails(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(!output.status.success(), "{command:?} went well");
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

/// The program to pack, without debugging information: packing that takes seconds.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // A release has nothing left that could be stripped.
        if let Some(release) = std::env::var_os("WHERRY_BIN") {
            return release.into();
        }
        let stripped = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wherry-stripped");
        let beside = stripped.with_extension(std::process::id().to_string());
        run(Command::new("strip").arg("-o").arg(&beside).arg(env!("CARGO_BIN_EXE_wherry")));
        fs::rename(&beside, &stripped).unwrap();
        stripped
    })
}

/// OpenWrt's `uci` and `jshn`, built once and kept.
fn tools() -> PathBuf {
    run(&mut Command::new(tree("tests/packages/tools"))).trim_end().into()
}

pub struct Device(Scratch);

impl Device {
    /// An OpenWrt without Wherry.
    pub fn bare() -> Self {
        let device = Self(Scratch::new());
        for dir in ["bin", "usr/bin", "usr/share/libubox", "tmp", "dev", "etc/config", "usr/lib/opkg/info"] {
            fs::create_dir_all(device.at(dir)).unwrap();
        }
        fs::copy("/bin/busybox", device.at("bin/busybox")).unwrap();
        run(device.command("/bin/busybox").args(["--install", "-s", "/bin"]));
        let tools = tools();
        for (tool, place) in [("uci", "usr/bin/uci"), ("jshn", "usr/bin/jshn"), ("jshn.sh", "usr/share/libubox/jshn.sh")] {
            fs::copy(tools.join(tool), device.at(place)).unwrap();
        }
        run(Command::new("cp").arg("-r").arg(tree("tests/packages/root/.")).arg(device.path()));
        run(Command::new("mknod").arg(device.at("dev/null")).args(["c", "1", "3"]));
        device.write("etc/config/system", CONFIG_SYSTEM);
        device.write("proc/mounts", MOUNTS);
        device.write("sys/class/net/eth0/address", MAC);
        device
    }

    /// An OpenWrt with the package's files as the recipe installs them; no package script has run.
    pub fn new() -> Self {
        let device = Self::bare();
        let built = Scratch::new();
        fs::create_dir_all(built.path().join("bin")).unwrap();
        fs::copy(program(), built.path().join("bin/wherry")).unwrap();
        let mut make = Command::new("make");
        make.args(["-s", "--no-print-directory", "-C"]).arg(tree("openwrt/wherry")).arg("install");
        make.arg(format!("TOPDIR={}", tree("openwrt/without-sdk").display()));
        make.arg(format!("PKG_INSTALL_DIR={}", built.path().display())).arg(format!("DESTDIR={}", device.path().display()));
        run(&mut make);
        device
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn name(&self) -> &str {
        self.0.name()
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    /// What is in a file; nothing if it is not there.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    pub fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}")).permissions().mode() & 0o7777
    }

    /// A command on the device.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.path()).arg(program).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    pub fn init(&self, action: &str) -> Command {
        let mut command = self.command("/bin/sh");
        command.args(["/etc/rc.common", "/etc/init.d/wherry", action]);
        command
    }

    /// What procd was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        self.taken("tmp/procd")
    }

    /// What was logged since the last time.
    pub fn logged(&self) -> Vec<String> {
        self.taken("tmp/log")
    }

    fn taken(&self, path: &str) -> Vec<String> {
        let text = self.read(path);
        let _ = fs::remove_file(self.at(path));
        text.lines().map(str::to_owned).collect()
    }
}
