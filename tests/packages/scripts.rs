//! The shell scripts of the packages.

use crate::root::{Scratch, fails, run, tree};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Every shell script below a folder, with the shell that runs it.
fn scripts(folder: &str) -> Vec<(PathBuf, &'static str)> {
    let mut pending = vec![tree(folder)];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                pending.push(path);
            } else if let Some(shell) = shell_of(&fs::read_to_string(&path).unwrap_or_default()) {
                found.push((path, shell));
            }
        }
    }
    found
}

/// What OpenWrt and Yocto call `sh` is busybox's ash, which has `local` like dash.
fn shell_of(text: &str) -> Option<&'static str> {
    let first = text.lines().next().unwrap_or_default();
    let sourced = text.lines().take(5).any(|line| line == "# shellcheck shell=sh");
    match () {
        () if first.starts_with("#!/bin/bash") => Some("bash"),
        () if first.starts_with("#!/bin/sh") || sourced => Some("dash"),
        () => None,
    }
}

#[test]
fn shellcheck_finds_nothing_in_the_scripts_of_the_packages() {
    let (openwrt, yocto, tests) = (scripts("openwrt"), scripts("yocto"), scripts("tests/packages"));
    assert!(openwrt.len() >= 6 && !yocto.is_empty() && tests.len() >= 5, "{openwrt:?} {yocto:?} {tests:?}");
    for (path, shell) in openwrt.into_iter().chain(yocto).chain(tests) {
        let mut command = Command::new("shellcheck");
        // cross/lib.sh and OpenWrt's own files are read elsewhere.
        run(command.current_dir(tree("")).args(["--shell", shell, "--exclude", "SC1090,SC1091,SC2154,SC2015"]).arg(path));
    }
}

#[test]
fn an_old_libseccomp_is_not_built_against() {
    let scratch = Scratch::new();
    let header = scratch.path().join("seccomp.h");
    let check = |version: &[&str; 3], least: &str| {
        let [major, minor, micro] = version;
        fs::write(&header, format!("#define SCMP_VER_MAJOR\t\t{major}\n#define SCMP_VER_MINOR {minor}\n#define SCMP_VER_MICRO {micro}\n"))
            .unwrap();
        let mut command = Command::new(tree("openwrt/wherry/check-libseccomp"));
        command.arg(&header).arg(least);
        command
    };
    for version in [["2", "6", "1"], ["2", "6", "10"], ["2", "10", "0"], ["3", "0", "0"]] {
        run(&mut check(&version, "2.6.1"));
    }
    for version in [["2", "5", "5"], ["2", "6", "0"], ["1", "9", "9"]] {
        let (_, said) = fails(&mut check(&version, "2.6.1"));
        assert!(said.contains(&format!("libseccomp is {}, Wherry needs 2.6.1", version.join("."))), "{said}");
    }
    fs::remove_file(&header).unwrap();
    let (_, said) = fails(Command::new(tree("openwrt/wherry/check-libseccomp")).arg(&header).arg("2.6.1"));
    assert!(said.contains("is libseccomp built?"), "{said}");
}
