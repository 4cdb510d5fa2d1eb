//! Compose files as `tests/fleet/compose` has them: the manifest, and every line that is not in it.

use super::{convert, place};
use crate::fleet::tree::Language;
use crate::manifest::{Fault, check};
use crate::protocol::Reason;
use std::fs;
use std::path::PathBuf;

fn told(text: &str) -> String {
    let tree = match Language::Yaml.read(text) {
        Ok(tree) => tree,
        Err(wrong) => return refused(text, wrong.at, &wrong.message),
    };
    match convert(&tree, "app") {
        Err((at, why)) => refused(text, at, &why),
        Ok(imported) => {
            let line = |left: &super::Left| {
                let (line, column) = place(text, left.at);
                format!("{line}:{column}: {}: {}\n", left.path, left.why)
            };
            let left: String = imported.left.iter().map(line).collect();
            only_unsupported(&imported.manifest.pretty());
            format!("{left}{}", imported.manifest.pretty())
        }
    }
}

/// A manifest has no other faults than what devices do not support yet, and images that must be put in.
fn only_unsupported(manifest: &str) {
    let (_, faults) = check(manifest.as_bytes());
    let known = |fault: &Fault| fault.reason == Reason::Unsupported || fault.path.ends_with(".image.ref");
    assert!(faults.0.iter().all(known), "{faults}\n{manifest}");
}

fn refused(text: &str, at: usize, why: &str) -> String {
    let (line, column) = place(text, at);
    format!("refused {line}:{column}: {why}\n")
}

#[test]
fn each_compose_file_becomes_its_manifest_and_the_lines_that_are_not_in_it() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fleet/compose");
    let mut files: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "yml")).collect();
    files.sort();
    assert!(files.len() >= 10);
    for path in files {
        let (found, expected) = (told(&fs::read_to_string(&path).unwrap()), path.with_extension("expected"));
        if std::env::var_os("WHERRY_BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_else(|e| panic!("cannot read {}: {e}", expected.display()));
        assert_eq!(found, wanted, "{}", path.display());
    }
}
