//! The fuzz targets without a fuzzer: each with its seeds, and with every input in `tests/fuzz/inputs/TARGET`, where what once crashed a target is
//! kept. `tests/fuzz/run` looks for new ones.
//!
//! Needs root: the target `tree` makes a mount namespace.

#[path = "fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;

/// Inputs kept for a target; most have none.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/inputs").join(target);
    fs::read_dir(dir).map_or_else(|_| Vec::new(), |files| files.map(|f| fs::read(f.unwrap().path()).unwrap()).collect())
}

#[test]
fn no_seed_and_no_kept_input_breaks_what_its_target_promises() {
    for target in fuzz::TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        seeds.iter().chain(&kept(target.name)).for_each(|input| (target.run)(input));
    }
}

#[test]
fn every_kept_input_belongs_to_a_target() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/inputs");
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || fuzz::TARGETS.iter().any(|t| t.name == name), "tests/fuzz/inputs/{name} belongs to no target");
    }
}
