//! Files and secrets that a manifest puts into its container.

use crate::stand::{Host, failure, host_mounts, shell, spec};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use wherry::container::Spec;
use wherry::manifest::{Content, Mount, Placed};
use wherry::protocol::Reason;
use wherry::secrets;

fn text(path: &str, content: &str) -> Placed {
    Placed { path: path.into(), content: Content::Text(content.into()), mode: 0o644, user: None }
}

fn secret(path: &str, name: &str) -> Placed {
    Placed { path: path.into(), content: Content::Secret(name.into()), mode: 0o400, user: None }
}

/// The directory of the device's secrets, with one in it.
fn keep(host: &Host, name: &str, content: &str) {
    let dir = host.dir.join("secrets");
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.join(name), content).unwrap();
    fs::set_permissions(dir.join(name), Permissions::from_mode(0o600)).unwrap();
}

const SHOW: &str = "for f in $FILES; do stat -c '%n %u:%g %a' $f; cat $f; done; grep -c noexec /proc/self/mounts > /dev/null; \
    for f in $FILES; do echo x 2>/dev/null >> $f || echo refused; rm $f 2>/dev/null || echo stays; chmod 777 $f 2>/dev/null || echo kept; done";

fn shows(files: Vec<Placed>, names: &str, base: Spec) -> Spec {
    Spec { files, env: vec![format!("FILES={names}")], argv: shell(SHOW).argv, ..base }
}

#[test]
fn files_have_their_content_owner_and_mode_and_cannot_be_changed_whether_the_root_is_read_only_or_not() {
    for readonly in [false, true] {
        let host = Host::new();
        keep(&host, "token", "hush\n");
        let files = vec![
            text("/etc/group", "root:x:0:\nwriters:x:77:\n"),
            Placed { user: Some("app:writers".into()), mode: 0o640, ..text("/new/deep/er.conf", "deep\n") },
            secret("/run/token", "token"),
        ];
        let wanted = Spec { readonly, user: "app".into(), ..spec(&[]) };
        let out = host.run(&shows(files, "/etc/group /new/deep/er.conf /run/token", wanted)).output;
        let expected =
            "/etc/group 1000:1001 644\nroot:x:0:\nwriters:x:77:\n/new/deep/er.conf 1000:77 640\ndeep\n/run/token 1000:1001 400\nhush\n";
        assert!(out.starts_with(expected), "{out}");
        assert_eq!(out[expected.len()..], "refused\nstays\nkept\n".repeat(3), "{out}");
        assert_eq!(fs::read_to_string(host.layer().join("etc/group")).unwrap().lines().count(), 3, "the image is as it was");
        assert!(!host.layer().join("new").exists() && !host.layer().join("run").exists());
    }
}

#[test]
fn roots_own_capabilities_do_not_open_a_way_to_change_them() {
    let host = Host::new();
    let out = host.run(&shows(vec![text("/a", "a\n")], "/a", spec(&[]))).output;
    assert_eq!(out, "/a 0:0 644\na\nrefused\nstays\nkept\n");
    let line =
        host.run(&Spec { files: vec![text("/a", "a\n")], ..shell("grep ' /a ' /proc/self/mounts | cut -d' ' -f3,4; ls /a*") }).output;
    let options: Vec<&str> = line.lines().next().unwrap().split([' ', ',']).collect();
    for option in ["tmpfs", "ro", "nosuid", "nodev", "noexec"] {
        assert!(options.contains(&option), "{option}: {line}");
    }
}

#[test]
fn a_file_lies_on_top_of_what_the_manifest_mounts_and_at_the_end_of_the_images_links() {
    let host = Host::new();
    symlink("/run", host.layer().join("var")).unwrap();
    symlink("../../../etc/real.conf", host.layer().join("etc/link.conf")).unwrap();
    fs::write(host.layer().join("etc/real.conf"), "image\n").unwrap();
    let mounts = vec![Mount::Tmpfs { target: "/run".into(), size: 1 << 20 }];
    let files = vec![text("/var/lib/a", "a\n"), text("/etc/link.conf", "b\n")];
    let out =
        host.run(&Spec { mounts, files, readonly: true, ..shell("cat /run/lib/a /etc/real.conf; echo x > /run/free && echo free") }).output;
    assert_eq!(out, "a\nb\nfree\n");
    assert_eq!(fs::read_to_string(host.layer().join("etc/real.conf")).unwrap(), "image\n");
}

#[test]
fn a_file_over_the_user_database_counts_for_the_containers_user() {
    let host = Host::new();
    let files = vec![text("/etc/passwd", "root:x:0:0::/:/bin/sh\nother:x:4321:8765::/:/bin/sh\n")];
    assert_eq!(host.run(&Spec { files, user: "other".into(), ..shell("id -u; id -g") }).output, "4321\n8765\n");
}

#[test]
fn a_file_in_a_directory_of_the_device_covers_one_but_makes_none() {
    let host = Host::new();
    let source = host.dir.join("data");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("old"), "old\n").unwrap();
    let mounts = vec![Mount::Bind { source: source.to_str().unwrap().into(), target: "/data".into(), readonly: false }];
    let wanted = |path: &str| Spec { mounts: mounts.clone(), files: vec![text(path, "new\n")], ..shell("cat /data/old") };
    assert_eq!(host.run(&wanted("/data/old")).output, "new\n");
    for path in ["/data/new", "/data/sub/deep/new"] {
        let f = failure(host.start(&wanted(path)));
        assert!(f.reason == Reason::BadValue && f.message.contains("has no such file"), "{path}: {}", f.message);
    }
    let left: Vec<_> = fs::read_dir(&source).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(fs::read_to_string(source.join("old")).unwrap(), "old\n");
}

#[test]
fn a_place_where_no_file_can_be_is_refused_before_anything_runs() {
    let host = Host::new();
    symlink("/proc/1", host.layer().join("proc-link")).unwrap();
    symlink("/dev/null", host.layer().join("null")).unwrap();
    symlink("/dev", host.layer().join("devices")).unwrap();
    symlink("nowhere", host.layer().join("dangling")).unwrap();
    symlink("../../../../../../etc", host.layer().join("up")).unwrap();
    for (path, why) in [
        ("/etc", "something else than a plain file"),
        ("/null", "something else than a plain file"),
        ("/devices/shm", "something else than a plain file"),
        ("/proc-link/comm", "/proc or /sys"),
        ("/dangling", "leads to nothing"),
        ("/dangling/below", "leads to nothing"),
        ("/devices/mtd0", "the device's own"),
    ] {
        let f = failure(host.start(&Spec { files: vec![text(path, "x")], ..shell("echo ran") }));
        assert!(f.message.contains(why), "{path}: {}", f.message);
    }
    let name = format!("wherry-{}", std::process::id());
    let out = host.run(&Spec { files: vec![text(&format!("/up/{name}"), "x\n")], ..shell(&format!("cat /etc/{name}")) }).output;
    assert_eq!(out, "x\n");
    assert!(!std::path::Path::new("/etc").join(name).exists(), "a link led out of the container");
}

#[test]
fn what_is_no_secret_is_refused_and_never_read() {
    let host = Host::new();
    keep(&host, "good", "x");
    let dir = host.dir.join("secrets");
    let path = dir.to_str().unwrap();
    let make = |name: &str, mode: u32| {
        fs::write(dir.join(name), "x").unwrap();
        fs::set_permissions(dir.join(name), Permissions::from_mode(mode)).unwrap();
    };
    assert_eq!(secrets::check(path, "good"), Ok(()));
    make("readonly", 0o400);
    assert_eq!(secrets::check(path, "readonly"), Ok(()));
    make("group", 0o640);
    make("world", 0o604);
    make("foreign", 0o600);
    chown(dir.join("foreign"), Some(1000), None).unwrap();
    make("long", 0o600);
    fs::write(dir.join("long"), vec![b'x'; secrets::MAX + 1]).unwrap();
    make("longest", 0o600);
    fs::write(dir.join("longest"), vec![b'x'; secrets::MAX]).unwrap();
    assert_eq!(secrets::check(path, "longest"), Ok(()));
    symlink("good", dir.join("link")).unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let _socket = UnixListener::bind(dir.join("socket")).unwrap();
    for (name, reason, why) in [
        ("missing", Reason::Io, "no such file"),
        ("group", Reason::Policy, "chmod 600"),
        ("world", Reason::Policy, "chmod 600"),
        ("foreign", Reason::Policy, "must be root's"),
        ("long", Reason::Policy, "longer than 64 KiB"),
        ("link", Reason::Policy, "symbolic link"),
        ("dir", Reason::Policy, "not a plain file"),
        ("fifo", Reason::Policy, "not a plain file"),
        ("socket", Reason::Io, "socket"),
        ("../secrets/good", Reason::Policy, "symbolic link or a mount"),
    ] {
        let f = secrets::check(path, name).expect_err(name);
        assert!(f.reason == reason && f.message.contains(why), "{name}: {:?} {}", f.reason, f.message);
        let f = failure(host.start(&Spec { files: vec![secret("/run/token", name)], ..shell("echo ran") }));
        assert_eq!(f.reason, reason, "{name}: {}", f.message);
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    assert!(secrets::check(path, "good").unwrap_err().message.contains("nobody else may write in it"));
    assert_eq!(secrets::check("/nowhere", "good").unwrap_err().reason, Reason::Io);
}

#[test]
fn a_secret_is_read_at_each_start_and_is_nowhere_else() {
    let host = Host::new();
    const CANARY: &str = "canary-5f1c9e";
    keep(&host, "token", CANARY);
    let wanted = Spec { files: vec![secret("/run/token", "token")], ..shell("cat /run/token; echo; env; sleep 100") };
    let mut started = host.start(&wanted).unwrap();
    started.expect(CANARY);
    for file in ["environ", "cmdline", "mountinfo"] {
        let shown = fs::read(format!("/proc/{}/{file}", crate::stand::only_child(started.pid()))).unwrap();
        assert!(!String::from_utf8_lossy(&shown).contains(CANARY), "{file}");
    }
    assert!(!host_mounts().contains(host.dir.to_str().unwrap()));
    drop(started);
    keep(&host, "token", "another\n");
    assert!(host.run(&Spec { argv: shell("cat /run/token").argv, ..wanted }).output.starts_with("another\n"));
}

#[test]
fn thirty_two_of_the_largest_secrets_fit() {
    let host = Host::new();
    keep(&host, "large", &"x".repeat(secrets::MAX));
    let files = (0..32).map(|i| secret(&format!("/run/{i}"), "large")).collect();
    assert_eq!(host.run(&Spec { files, ..shell("cat /run/* | wc -c") }).output, format!("{}\n", 32 * secrets::MAX));
}
