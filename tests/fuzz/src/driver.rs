//! The program that libFuzzer drives: one target, named in `WHERRY_FUZZ`; without that it names all. With `WHERRY_FUZZ_SEEDS` it only
//! writes the target's seeds to that directory.
#![no_main]

use std::process::exit;
use std::sync::LazyLock;
use wherry_fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("WHERRY_FUZZ").unwrap_or_else(|_| {
        TARGETS.iter().for_each(|t| println!("{}", t.name));
        exit(0)
    });
    TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| {
        eprintln!("there is no target {name}");
        exit(2)
    })
});

fn begin() {
    let target = *TARGET;
    let Some(dir) = std::env::var_os("WHERRY_FUZZ_SEEDS") else { return };
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    for (number, bytes) in seeds.iter().enumerate() {
        let path = std::path::Path::new(&dir).join(format!("seed-{number:04}"));
        std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }
    exit(0)
}

libfuzzer_sys::fuzz_target!(init: begin(), |data: &[u8]| (TARGET.run)(data));
