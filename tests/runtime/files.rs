//! The root file system, hostile images, and the manifest's mounts.

use crate::stand::{Host, failure, shell};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry::container::Spec;
use wherry::manifest::Mount;
use wherry::protocol::Reason;

#[test]
fn what_is_written_stays_in_the_upper_layer_and_within_its_size() {
    let host = Host::new();
    let wanted = Spec {
        upper: 2 << 20,
        ..shell(
            "echo x > /new; rm /etc/group; dd if=/dev/zero of=/big bs=64k count=64 2>&1 | tail -1; ls -l /big | awk '{print ($5 <= 2097152)}'; i=0; while echo -n > /tmp/$i; do i=$((i+1)); done 2>/dev/null; [ $i -lt 2000 ] && echo full",
        )
    };
    let out = host.run(&wanted).output;
    assert!(out.contains("1\nfull\n"), "{out}");
    assert!(!host.layer().join("new").exists() && host.layer().join("etc/group").exists());
    assert_eq!(host.sh("ls /new /etc/group 2>&1 | head -1"), "ls: /new: No such file or directory\n");
}

#[test]
fn a_read_only_root_refuses_writing_but_has_its_mount_points_and_working_directory() {
    let host = Host::new();
    let mounts = vec![Mount::Tmpfs { target: "/var/run".into(), size: 1 << 20 }];
    let wanted = Spec {
        readonly: true,
        workdir: "/srv/data".into(),
        mounts,
        ..shell("pwd; echo x > /x; echo y > /srv/data/y; echo z > /var/run/z && cat /var/run/z")
    };
    let out = host.run(&wanted).output;
    assert_eq!(out.matches("Read-only file system").count(), 2, "{out}");
    assert!(out.starts_with("/srv/data\n") && out.ends_with("z\n"), "{out}");
}

#[test]
fn upper_layers_win_over_lower_ones_up_to_127() {
    let mut host = Host::new();
    for n in 1..127 {
        let layer = host.dir.join(format!("layers-with-a-rather-long-name-as-digests-have-them-{n}"));
        fs::create_dir_all(layer.join("d")).unwrap();
        fs::write(layer.join("top"), format!("{n}\n")).unwrap();
        fs::write(layer.join(format!("d/{n}")), "").unwrap();
        host.layers.push(layer);
    }
    assert_eq!(host.sh("cat /top; ls /d | wc -l"), "126\n126\n");
    host.layers.push(host.layers[1].clone());
    let f = failure(host.start(&shell("true")));
    assert!(f.message.contains("128 layers"), "{}", f.message);
}

#[test]
fn whiteouts_and_opaque_directories_of_a_layer_hide_what_is_below() {
    let mut host = Host::new();
    let layer = host.dir.join("second");
    fs::create_dir_all(layer.join("home")).unwrap();
    fs::create_dir_all(layer.join("etc")).unwrap();
    let node = |p: PathBuf| nix::sys::stat::mknod(&p, nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0).unwrap();
    node(layer.join("etc/group"));
    assert!(
        Command::new("setfattr")
            .args(["-n", "trusted.overlay.opaque", "-v", "y"])
            .arg(layer.join("home"))
            .status()
            .is_ok_and(|s| s.success())
            || set_opaque(&layer.join("home"))
    );
    host.layers.push(layer);
    assert_eq!(host.sh("ls /home | wc -l; ls /etc"), "0\npasswd\n");
}

/// By python where attr's tools are not installed.
fn set_opaque(dir: &Path) -> bool {
    let code = "import os,sys; os.setxattr(sys.argv[1], 'trusted.overlay.opaque', b'y')";
    Command::new("python3").args(["-c", code]).arg(dir).status().is_ok_and(|s| s.success())
}

#[test]
fn a_device_node_in_the_image_opens_nothing() {
    let host = Host::new();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(&host.layer().join("zero"), nix::sys::stat::SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 5)).unwrap();
    assert!(host.sh("head -c 1 /zero 2>&1").contains("Permission denied"));
}

#[test]
fn the_root_directory_keeps_the_owner_and_mode_of_the_image() {
    let host = Host::new();
    fs::set_permissions(host.layer(), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(host.sh("stat -c %a /"), "711\n");
}

#[test]
fn a_link_in_place_of_proc_sys_or_dev_is_refused_and_nothing_is_written_behind_it() {
    for name in ["proc", "sys", "dev"] {
        let host = Host::new();
        let outside = host.dir.join("outside");
        fs::create_dir(&outside).unwrap();
        for target in [outside.as_path(), Path::new("/etc"), Path::new("../../outside")] {
            let link = host.layer().join(name);
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
            let f = failure(host.start(&shell("true")));
            assert!(f.reason == Reason::Launch && f.message.contains(&format!("/{name}: it is a symbolic link")), "{}", f.message);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_file_in_place_of_proc_is_refused() {
    let host = Host::new();
    fs::write(host.layer().join("proc"), "").unwrap();
    assert!(failure(host.start(&shell("true"))).message.contains("not a directory"));
}

#[test]
fn a_mount_target_behind_links_stays_in_the_container() {
    let host = Host::new();
    let outside = host.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    symlink("/etc", host.layer().join("absolute")).unwrap();
    symlink("../../../../../../../etc", host.layer().join("upwards")).unwrap();
    symlink(&outside, host.layer().join("host")).unwrap();
    let source = host.dir.join("source");
    fs::write(&source, "mounted\n").unwrap();
    let bind = |target: &str| Mount::Bind { source: source.to_str().unwrap().into(), target: target.into(), readonly: true };
    // Names of this run alone: what an earlier one may have left on the host says nothing of this one, and this one leaves nothing.
    let [one, two] = ["one", "two"].map(|n| format!("wherry-test-{}-{n}", std::process::id()));
    let mounts = vec![bind(&format!("/absolute/{one}")), bind(&format!("/upwards/{two}"))];
    let output = host.run(&Spec { mounts, ..shell(&format!("cat /etc/{one} /etc/{two}")) }).output;
    let escaped = [one, two].map(|n| fs::remove_file(Path::new("/etc").join(n)).is_ok());
    assert_eq!((output.as_str(), escaped), ("mounted\nmounted\n", [false, false]));
    // Leads to a path that exists on the host alone.
    let f = failure(host.start(&Spec { mounts: vec![bind("/host/three")], ..shell("true") }));
    assert!(f.message.contains("/host/three"), "{}", f.message);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_mount_over_the_containers_system_directories_is_refused_however_it_is_written() {
    let host = Host::new();
    symlink("/proc/sys", host.layer().join("alias")).unwrap();
    symlink("/", host.layer().join("slash")).unwrap();
    for target in ["/proc", "/proc/sys", "/sys/kernel", "/alias", "/", "/dev", "/slash", "/slash/dev", "/a/../../b", "relative"] {
        let mounts = vec![Mount::Tmpfs { target: target.into(), size: 1 << 20 }];
        let f = failure(host.start(&Spec { mounts, ..shell("true") }));
        assert_eq!(f.reason, Reason::Launch, "{target}: {}", f.message);
    }
}

#[test]
fn a_working_directory_by_magic_link_is_refused() {
    let host = Host::new();
    symlink("/proc/self/fd", host.layer().join("fds")).unwrap();
    for n in 3..12 {
        for path in [format!("/proc/self/fd/{n}"), format!("/fds/{n}"), "/proc/self/cwd".to_owned(), "/proc/1/root".to_owned()] {
            let result = host.start(&Spec { workdir: path.clone(), ..shell("true") });
            assert!(result.is_err(), "{path}");
        }
    }
}

#[test]
fn a_hostile_passwd_file_is_survived() {
    let host = Host::new();
    let passwd = host.layer().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    assert_eq!(host.sh("echo alive"), "alive\n");
    fs::remove_file(&passwd).unwrap();
    symlink("/dev/zero", &passwd).unwrap();
    assert_eq!(host.sh("echo alive"), "alive\n");
    fs::remove_file(&passwd).unwrap();
    // The kernel's files are none of the image's: this one would make a user of the host name.
    symlink("/proc/sys/kernel/hostname", &passwd).unwrap();
    let f = failure(host.start(&Spec { user: "who".into(), hostname: "who:x:7:7".into(), ..shell("true") }));
    assert!(f.message.contains("cannot find user") && f.message.contains("/etc/passwd"), "{}", f.message);
    fs::remove_file(&passwd).unwrap();
    File::create(&passwd).unwrap().set_len(1 << 30).unwrap();
    assert!(failure(host.start(&shell("true"))).message.contains("/etc/passwd"));
}

#[test]
fn a_bind_mount_is_writable_or_read_only_as_asked_with_what_is_mounted_below() {
    let host = Host::new();
    let source = host.dir.join("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("old"), "old\n").unwrap();
    let bind = |target: &str, readonly| Mount::Bind { source: source.to_str().unwrap().into(), target: target.into(), readonly };
    let mounts = vec![bind("/rw/deep/er", false), bind("/ro", true)];
    let out = host.run(&Spec { mounts, ..shell("echo new > /rw/deep/er/new; cat /ro/old /ro/new; echo x > /ro/x; grep -E ' /(rw/deep/er|ro) ' /proc/self/mounts | cut -d' ' -f2,4 | cut -d, -f1-3") }).output;
    assert!(out.starts_with("old\nnew\n") && out.contains("Read-only file system"), "{out}");
    assert!(out.contains("/rw/deep/er rw,nosuid,nodev\n/ro ro,nosuid,nodev\n"), "{out}");
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "new\n");
}

#[test]
fn a_tmpfs_has_its_size_and_no_programs() {
    let host = Host::new();
    let mounts = vec![Mount::Tmpfs { target: "/cache".into(), size: 1 << 20 }];
    let out = host.run(&Spec { mounts, ..shell("grep ' /cache ' /proc/self/mounts; stat -c %a /cache; dd if=/dev/zero of=/cache/x bs=1M count=4 2>&1 | grep -c 'No space'; cp /bin/busybox /cache/b 2>/dev/null; /cache/b 2>&1 | tail -1") }).output;
    assert!(out.contains("rw,nosuid,nodev,noexec") && out.contains("size=1024k") && out.contains("\n1777\n1\n"), "{out}");
    assert!(out.contains("Permission denied"), "{out}");
}

#[test]
fn the_working_directory_is_made_for_the_user() {
    let host = Host::new();
    let wanted = Spec { workdir: "/srv/a/b".into(), user: "app".into(), ..shell("pwd; stat -c %u:%g . ..; touch here && echo ok") };
    assert_eq!(host.run(&wanted).output, "/srv/a/b\n1000:1001\n1000:1001\nok\n");
}
