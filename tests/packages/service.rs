//! The service on a device: what procd is asked, and when flash is written.

use crate::root::{Device, run};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

const INSTANCE: [&str; 11] = [
    "open wherry",
    "instance",
    "param command /usr/sbin/wherry keeper",
    "param respawn 3600 5 0",
    "param term_timeout 10",
    "param stdout 1",
    "param stderr 1",
    "param file /etc/wherry/settings.json",
    "param reload_signal HUP",
    "trigger wherry",
    "set",
];

#[test]
fn procd_starts_keeper_again_and_again_and_signals_it_when_settings_change() {
    let device = Device::new();
    run(&mut device.init("start"));
    assert_eq!(device.asked(), INSTANCE);
    assert_eq!(device.logged(), Vec::<String>::new());
    assert_eq!(device.mode("etc/wherry/settings.json"), 0o600);
    wherry::config::parse(device.read("etc/wherry/settings.json").as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
}

#[test]
fn flash_is_written_only_for_a_change() {
    let device = Device::new();
    let inode = || fs::metadata(device.at("etc/wherry/settings.json")).unwrap().ino();
    run(&mut device.init("start"));
    let first = inode();
    let directory = fs::metadata(device.at("etc/wherry")).unwrap().mtime_nsec();
    for action in ["reload", "start", "reload"] {
        run(&mut device.init(action));
        assert_eq!((inode(), fs::metadata(device.at("etc/wherry")).unwrap().mtime_nsec()), (first, directory), "{action}");
    }
    run(device.command("uci").args(["set", "wherry.main.interval_s=30"]));
    run(device.command("uci").args(["commit", "wherry"]));
    run(&mut device.init("reload"));
    assert_ne!(inode(), first);
    assert!(device.read("etc/wherry/settings.json").contains("\"interval_s\": 30"));
}

#[test]
fn after_a_slip_procd_is_asked_for_what_runs_already() {
    let device = Device::new();
    run(&mut device.init("start"));
    device.asked();
    device.write("etc/config/wherry", "config wherry\n\toption nonsense '1'\n");
    for action in ["reload", "start"] {
        run(&mut device.init(action));
        assert_eq!(device.asked(), INSTANCE, "{action}");
        assert_eq!(device.logged().len(), 1, "{action}");
    }
    fs::remove_file(device.at("etc/wherry/settings.json")).unwrap();
    run(&mut device.init("start"));
    assert_eq!(device.asked(), ["open wherry", "trigger wherry", "set"], "without settings that were ever good there is nothing to start");
}

#[test]
fn settings_that_cannot_be_written_leave_the_old_ones_whole() {
    let device = Device::new();
    run(&mut device.init("start"));
    let before = device.read("etc/wherry/settings.json");
    run(device.command("uci").args(["set", "wherry.main.interval_s=30"]));
    run(Command::new("mknod").arg(device.at("dev/full")).args(["c", "1", "7"]));
    // The kernel's own full disk.
    std::os::unix::fs::symlink("/dev/full", device.at("etc/wherry/settings.json.new")).unwrap();
    device.asked();
    run(&mut device.init("reload"));
    let logged = device.logged();
    let start = "-t wherry -p daemon.err cannot write /etc/wherry/settings.json: ";
    assert!(logged.len() == 1 && logged[0].starts_with(start) && logged[0].contains("No space left on device"), "{logged:?}");
    assert_eq!((device.read("etc/wherry/settings.json"), device.asked()), (before, INSTANCE.map(String::from).into()));
    run(&mut device.init("reload"));
    assert!(device.read("etc/wherry/settings.json").contains("\"interval_s\": 30"), "the next time it is tried again");
}

#[test]
fn a_service_that_is_switched_off_has_no_instance() {
    let device = Device::new();
    run(device.command("uci").args(["set", "wherry.main.enabled=0"]));
    run(&mut device.init("start"));
    assert_eq!(device.asked(), ["open wherry", "trigger wherry", "set"]);
    assert!(!device.at("etc/wherry/settings.json").exists());
}

#[test]
fn a_stop_leaves_containers_alone_and_a_shutdown_stops_them_first() {
    let device = Device::new();
    run(&mut device.init("stop"));
    assert_eq!(device.asked(), ["kill wherry"]);
    run(&mut device.init("shutdown"));
    assert_eq!(device.asked(), ["signal wherry * INT", "kill wherry"]);
    run(&mut device.init("restart"));
    assert_eq!(device.asked()[..3], ["kill wherry", "open wherry", "instance"]);
}

#[test]
fn a_device_gets_an_id_once() {
    let device = Device::new();
    let id = || device.command("uci").args(["-q", "get", "wherry.main.device"]).output().unwrap().stdout;
    let hostname = |name: &str| device.write("etc/config/system", format!("config system\n\toption hostname '{name}'\n"));
    let packaged = device.read("etc/config/wherry");
    let lan = "sys/class/net/br-lan/address";
    for (name, address, expected) in [
        ("OpenWrt", None, "wherry-001122aabbcc\n"),
        ("OpenWrt", Some("02:00:00:00:00:01\n"), "wherry-020000000001\n"),
        ("OpenWrt", Some("00:00:00:00:00:00\n"), "wherry-001122aabbcc\n"),
        ("gate-7.site", None, "gate-7.site\n"),
        ("so so", None, "wherry-001122aabbcc\n"),
    ] {
        device.write("etc/config/wherry", &packaged);
        hostname(name);
        device.write(lan, address.unwrap_or(""));
        run(device.command("/bin/sh").arg("/etc/uci-defaults/80-wherry"));
        assert_eq!(String::from_utf8(id()).unwrap(), expected, "{name} {address:?}");
    }
    hostname("other");
    let before = device.read("etc/config/wherry");
    run(device.command("/bin/sh").arg("/etc/uci-defaults/80-wherry"));
    assert_eq!(device.read("etc/config/wherry"), before);
}
