//! Every file of `board/` against one schema: each field is known and of its type, targets and kinds exist, and a real device names its sources.
//!
//! Needs python3, which reads TOML as `board/run` does.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    description: String,
    target: String,
    device: String,
    interval_s: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Emulated {
    description: String,
    target: String,
    device: String,
    interval_s: u32,
    cpus: u32,
    ram_mb: u32,
    flash_mb: u32,
    storage: String,
    init: String,
    root: Root,
    cgroups: Cgroups,
    missing: Vec<String>,
    kernel: Kernel,
    budgets: Budgets,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kernel {
    suite: String,
    package: String,
    version: String,
    sha256: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budgets {
    agent_pss_kib: u32,
    container_pss_kib: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    description: String,
    target: String,
    cpu: String,
    cpus: u32,
    ram_mb: u32,
    flash_mb: u32,
    storage: String,
    init: String,
    linux: String,
    cgroups: Cgroups,
    missing: Vec<String>,
    sources: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cgroups {
    V1,
    V2,
    Hybrid,
    /// The kernel has none: no limits and no figures.
    None,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Root {
    Tmpfs,
    Ramfs,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Board {
    Host(Host),
    Emulated(Emulated),
    Device(Device),
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Python's reader, as JSON.
fn toml(text: &str) -> serde_json::Value {
    let script = "import json, sys, tomllib; print(json.dumps(tomllib.loads(sys.argv[1])))";
    let answer = Command::new("python3").args(["-c", script, text]).output().expect("python3 is installed");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    serde_json::from_slice(&answer.stdout).unwrap()
}

fn targets() -> BTreeMap<String, serde_json::Value> {
    let text = fs::read_to_string(repository().join("cross/targets.toml")).unwrap();
    serde_json::from_value(toml(&text)["target"].clone()).unwrap()
}

/// What is wrong with a board's file.
fn fault(text: &str) -> Option<String> {
    let board: Board = match serde_json::from_value(toml(text)) {
        Ok(board) => board,
        Err(e) => return Some(e.to_string()),
    };
    let (description, target, sizes) = match &board {
        Board::Host(b) => (&b.description, &b.target, [1, b.interval_s]),
        Board::Emulated(b) => (&b.description, &b.target, [b.cpus.min(b.ram_mb).min(b.flash_mb), b.interval_s]),
        Board::Device(b) => (&b.description, &b.target, [b.cpus.min(b.ram_mb).min(b.flash_mb), 1]),
    };
    let checks = [
        (description.is_empty() || description.contains('"'), "description: one line without quotes"),
        (!targets().contains_key(target), "target: no table of cross/targets.toml"),
        (sizes.contains(&0), "a size of nothing"),
    ];
    let general = checks.iter().find(|(wrong, _)| *wrong).map(|(_, what)| (*what).to_owned());
    general.or_else(|| match &board {
        Board::Host(b) => b.device.is_empty().then(|| "device: empty".into()),
        Board::Emulated(b) => emulated_fault(b),
        Board::Device(b) => device_fault(b),
    })
}

fn emulated_fault(board: &Emulated) -> Option<String> {
    let kernel = &board.kernel;
    let is_digest = kernel.sha256.len() == 64 && kernel.sha256.bytes().all(|b| b.is_ascii_hexdigit());
    let named = [&board.device, &board.storage, &board.init, &kernel.suite, &kernel.version];
    let checks = [
        (named.iter().any(|name| name.is_empty()), "an empty name"),
        (!kernel.package.starts_with("linux-image-"), "kernel.package: not a kernel of Debian"),
        (!is_digest, "kernel.sha256: not 64 hexadecimal digits"),
        (board.budgets.agent_pss_kib == 0 || board.budgets.container_pss_kib == 0, "budgets: nothing is not enough"),
        (matches!((&board.cgroups, &board.root), (Cgroups::None, _)), "cgroups: an emulated board has some"),
        (matches!(board.root, Root::Ramfs) && board.missing.is_empty(), "missing: a root that can be pivoted to is"),
    ];
    checks.iter().find(|(wrong, _)| *wrong).map(|(_, what)| (*what).to_owned())
}

fn device_fault(board: &Device) -> Option<String> {
    let named = [&board.cpu, &board.storage, &board.init, &board.linux];
    let checks = [
        (named.iter().any(|name| name.is_empty()), "an empty name"),
        (!board.sources.iter().any(|s| s.contains("openwrt")), "sources: none of OpenWrt's"),
        (board.sources.iter().any(|s| !s.starts_with("https://")), "sources: not an address"),
        (matches!(board.cgroups, Cgroups::None) && board.missing.is_empty(), "missing: control groups are"),
    ];
    checks.iter().find(|(wrong, _)| *wrong).map(|(_, what)| (*what).to_owned())
}

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join("board")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

#[test]
fn every_board_fits_the_schema() {
    let files = files();
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        assert_eq!(fault(&fs::read_to_string(&file).unwrap()), None, "{}", file.display());
    }
}

#[test]
fn a_board_that_does_not_fit_is_found() {
    let emulated = fs::read_to_string(repository().join("board/qemu-aarch64-old.toml")).unwrap();
    for (line, instead, complaint) in [
        ("ram_mb = 128", "", "missing field `ram_mb`"),
        ("ram_mb = 128", "ram_mb = \"128\"", "invalid type"),
        ("ram_mb = 128", "ram_mb = 0", "a size of nothing"),
        ("ram_mb = 128", "ram_mb = 128\ncolour = \"blue\"", "unknown field `colour`"),
        ("cgroups = \"v2\"", "cgroups = \"v3\"", "unknown variant `v3`"),
        ("cgroups = \"v2\"", "cgroups = \"none\"", "an emulated board has some"),
        ("kind = \"emulated\"", "kind = \"imagined\"", "unknown variant `imagined`"),
        ("target = \"aarch64-unknown-linux-musl\"", "target = \"pdp11\"", "no table of cross/targets.toml"),
        ("sha256 = \"1b", "sha256 = \"xx", "64 hexadecimal digits"),
    ] {
        assert!(emulated.contains(line), "{line}");
        let found = fault(&emulated.replacen(line, instead, 1)).unwrap_or_default();
        assert!(found.contains(complaint), "{line} -> {instead}: {found}");
    }
}
