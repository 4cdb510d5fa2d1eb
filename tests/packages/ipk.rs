//! The package file: its layout, and what a package manager does with it.
//!
//! opkg is on no registry. Its format is Debian's with tar in place of ar, so dpkg is the judge here: of the control file, of scripts, and
//! of what an upgrade and a removal leave.

use crate::root::{Device, Scratch, fails, program, run, tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const TARGET: &str = "x86_64-unknown-linux-musl";

fn build(arguments: &[&str]) -> Command {
    let mut command = Command::new(tree("openwrt/build"));
    command.args(arguments);
    command
}

/// Packs the program for x86_64 into a directory.
fn packed(out: &Path, mask: &str) -> PathBuf {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("umask {mask} && exec \"$@\"")).arg("sh").arg(tree("openwrt/build"));
    run(shell.args([TARGET, "--bin"]).arg(program()).arg("--out").arg(out)).trim_end().into()
}

/// The package of this program, made once.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| packed(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("openwrt"), "022"))
}

/// One member of a gzip'd tar.
fn member(archive: &Path, name: &str) -> Vec<u8> {
    Command::new("tar").arg("-xzOf").arg(archive).arg(name).output().unwrap().stdout
}

/// What tar lists of an archive, in words: mode, owner, size, date, time, name.
fn entries(archive: &Path) -> Vec<Vec<String>> {
    let text = run(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(archive));
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The same without sizes.
fn listed(archive: &Path) -> Vec<String> {
    entries(archive).iter().map(|w| format!("{} {} {} {}", w[0], w[1], w[3], w[5])).collect()
}

#[test]
fn the_same_program_makes_the_same_bytes() {
    let scratch = Scratch::new();
    let again = packed(scratch.path(), "077");
    assert_eq!(again.file_name().unwrap(), "wherry_0.1.0-r1_x86_64.ipk");
    assert!(fs::read(package()).unwrap() == fs::read(again).unwrap(), "the packages differ");
}

#[test]
fn the_package_is_laid_out_as_opkg_reads_it() {
    let scratch = Scratch::new();
    let package = package();
    let modes = ["./debian-binary", "./data.tar.gz", "./control.tar.gz"].map(|name| format!("-rw-r--r-- 0/0 1970-01-01 {name}"));
    assert_eq!(listed(package), modes);
    assert_eq!(member(package, "./debian-binary"), b"2.0\n");
    for name in ["data.tar.gz", "control.tar.gz"] {
        fs::write(scratch.path().join(name), member(package, &format!("./{name}"))).unwrap();
    }
    assert_eq!(
        listed(&scratch.path().join("control.tar.gz")),
        [
            "drwxr-xr-x 0/0 1970-01-01 ./",
            "-rw-r--r-- 0/0 1970-01-01 ./conffiles",
            "-rw-r--r-- 0/0 1970-01-01 ./control",
            "-rwxr-xr-x 0/0 1970-01-01 ./postinst",
            "-rwxr-xr-x 0/0 1970-01-01 ./prerm",
            "-rwxr-xr-x 0/0 1970-01-01 ./prerm-pkg"
        ]
    );
    let data = listed(&scratch.path().join("data.tar.gz"));
    for file in [
        "-rw------- 0/0 1970-01-01 ./etc/config/wherry",
        "-rwxr-xr-x 0/0 1970-01-01 ./etc/init.d/wherry",
        "-rwxr-xr-x 0/0 1970-01-01 ./etc/uci-defaults/80-wherry",
        "drwx------ 0/0 1970-01-01 ./etc/wherry/",
        "drwx------ 0/0 1970-01-01 ./etc/wherry/secrets/",
        "drwx------ 0/0 1970-01-01 ./etc/wherry/trust/",
        "-rw-r--r-- 0/0 1970-01-01 ./lib/upgrade/keep.d/wherry",
        "-rw-r--r-- 0/0 1970-01-01 ./usr/lib/wherry/settings.sh",
        "-rwxr-xr-x 0/0 1970-01-01 ./usr/lib/wherry/uci-settings",
        "-rwxr-xr-x 0/0 1970-01-01 ./usr/sbin/wherry",
    ] {
        assert!(data.iter().any(|line| line == file), "{file} is not in {data:#?}");
    }
    assert!(data.iter().all(|line| line.contains(" 0/0 1970-01-01 ./")), "{data:#?}");
    assert_eq!(member(&scratch.path().join("control.tar.gz"), "./conffiles"), b"/etc/config/wherry\n");
    let control = String::from_utf8(member(&scratch.path().join("control.tar.gz"), "./control")).unwrap();
    for line in ["Package: wherry", "Version: 0.1.0-r1", "Depends: jshn, ca-bundle", "Architecture: x86_64"] {
        assert!(control.lines().any(|l| l == line), "{control}");
    }
    let files = entries(&scratch.path().join("data.tar.gz")).into_iter().filter(|w| w[0].starts_with('-'));
    let size: u64 = files.map(|w| w[2].parse::<u64>().unwrap()).sum();
    assert!(control.lines().any(|l| l == format!("Installed-Size: {size}")), "{size}: {control}");
}

#[test]
fn the_version_is_that_of_the_program() {
    let makefile = fs::read_to_string(tree("openwrt/wherry/Makefile")).unwrap();
    assert!(makefile.contains(concat!("PKG_VERSION:=", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let program = program().to_str().unwrap();
    let target = "aarch64-unknown-linux-musl";
    for (arguments, code, error) in [
        (&[][..], 64, "which target?"),
        (&["mips-unknown-linux-musl"], 64, "unknown target mips-unknown-linux-musl (known: "),
        (&[TARGET, "--arch", "x86 64"], 64, "x86 64 is no architecture of OpenWrt"),
        (&[TARGET, "--arch"], 64, "--arch needs a value"),
        (&[TARGET, "--ipk"], 64, "unknown option --ipk"),
        (&[TARGET, "--bin", "/nowhere"], 1, "there is no program /nowhere"),
        (&[TARGET, "--bin", "/bin/sh.missing"], 1, "there is no program"),
        (&[target, "--bin", program], 1, "is for Advanced Micro Devices X86-64, not for aarch64-unknown-linux-musl"),
    ] {
        let (status, said) = fails(&mut build(arguments));
        assert!(status == code && said.contains(error) && said.lines().count() <= 2, "{arguments:?}: {status} {said}");
    }
}

/// The members of the package as a Debian package.
fn for_dpkg(package: &Path, scratch: &Path) -> PathBuf {
    let parts = scratch.join("parts");
    fs::create_dir_all(&parts).unwrap();
    run(Command::new("tar").arg("-C").arg(&parts).arg("-xzf").arg(package));
    let debian = scratch.join("wherry.deb");
    let members = ["debian-binary", "control.tar.gz", "data.tar.gz"];
    run(Command::new("ar").current_dir(&parts).arg("rcD").arg(&debian).args(members));
    debian
}

fn dpkg(root: &Path, variable: Option<(&str, &str)>, arguments: &[&str]) {
    let mut command = Command::new("dpkg");
    let forced = ["--force-architecture", "--force-depends", "--force-confold", "--force-not-root"];
    command.env_remove("DPKG_ROOT").arg(format!("--root={}", root.display())).args(forced);
    run(command.envs(variable).args(arguments));
}

/// A device whose package manager is dpkg.
fn managed() -> Device {
    let device = Device::bare();
    for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"] {
        fs::create_dir_all(device.at(dir)).unwrap();
    }
    device.write("var/lib/dpkg/status", "");
    fs::remove_dir(device.at("usr/lib/opkg/info")).unwrap();
    std::os::unix::fs::symlink("/var/lib/dpkg/info", device.at("usr/lib/opkg/info")).unwrap();
    device
}

/// A device on which the package has been installed, and that package.
pub fn installed() -> (Device, Scratch, PathBuf) {
    let scratch = Scratch::new();
    let package = for_dpkg(package(), scratch.path());
    let device = managed();
    dpkg(device.path(), None, &["-i", package.to_str().unwrap()]);
    (device, scratch, package)
}

#[test]
fn a_package_manager_installs_upgrades_and_removes_it() {
    let (device, _scratch, package) = installed();
    let package = package.to_str().unwrap();
    assert!(device.read("etc/config/wherry").contains("option device 'wherry-001122aabbcc'"));
    assert!(device.asked().contains(&"param command /usr/sbin/wherry keeper".into()));
    assert!(!device.at("etc/uci-defaults/80-wherry").exists(), "it runs once");
    for link in ["etc/rc.d/S99wherry", "etc/rc.d/K10wherry"] {
        assert_eq!(fs::read_link(device.at(link)).unwrap(), Path::new("../init.d/wherry"), "{link}");
    }
    run(device.command("uci").args(["set", "wherry.main.interval_s=30"]));
    run(device.command("uci").args(["commit", "wherry"]));
    device.write("etc/wherry/secrets/token", "geheim");
    device.write("overlay/wherry/state.a", "state");

    device.asked();

    // opkg says this to the scripts of a package that it upgrades.
    dpkg(device.path(), Some(("PKG_UPGRADE", "1")), &["-i", package]);
    assert_eq!(device.asked()[..2], ["kill wherry", "open wherry"], "containers are left to the next keeper");
    assert!(device.read("etc/config/wherry").contains("option interval_s '30'"), "an upgrade keeps the configuration");
    assert!(device.read("etc/wherry/settings.json").contains("\"interval_s\": 30"));

    dpkg(device.path(), None, &["-r", "wherry"]);
    assert_eq!(device.asked(), ["signal wherry * INT", "kill wherry", "kill wherry"], "nobody would stop them later");
    for gone in ["usr/sbin/wherry", "etc/init.d/wherry", "usr/lib/wherry", "etc/rc.d/S99wherry", "lib/upgrade/keep.d/wherry"] {
        assert!(fs::symlink_metadata(device.at(gone)).is_err(), "{gone} is still there");
    }
    for kept in ["etc/config/wherry", "etc/wherry/settings.json", "etc/wherry/secrets/token", "overlay/wherry/state.a"] {
        assert!(device.at(kept).exists(), "{kept} is gone");
    }
}

#[test]
fn in_an_image_builders_root_the_service_is_enabled_and_nothing_starts() {
    let scratch = Scratch::new();
    let package = package();
    let control = scratch.path().join("control.tar.gz");
    fs::write(&control, member(package, "./control.tar.gz")).unwrap();
    let postinst = member(&control, "./postinst");
    fs::write(scratch.path().join("postinst"), postinst).unwrap();
    let device = Device::new();
    device.write("usr/lib/opkg/info/wherry.list", "/etc/init.d/wherry\n/etc/uci-defaults/80-wherry\n");
    let before = device.read("etc/config/wherry");
    run(Command::new("busybox").arg("sh").arg(scratch.path().join("postinst")).env("IPKG_INSTROOT", device.path()));
    assert!(fs::symlink_metadata(device.at("etc/rc.d/S99wherry")).is_ok());
    assert!(device.at("etc/uci-defaults/80-wherry").exists(), "the first boot has yet to run it");
    assert_eq!((device.read("etc/config/wherry"), device.asked()), (before, vec![]));
    fs::remove_file(device.at("lib/functions.sh")).unwrap();
    run(Command::new("busybox").arg("sh").arg(scratch.path().join("postinst")).env("IPKG_INSTROOT", device.path()));
}
