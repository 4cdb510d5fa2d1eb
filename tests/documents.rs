//! What README shows is true: its documents are good, its settings are the program's own example, its table names every figure.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_else(|e| panic!("cannot read {name}: {e}"))
}

/// The fenced blocks of this language.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if line == format!("```{language}") {
            found.push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
        }
    }
    found
}

/// What `wherry validate` says of a document, if it is good.
fn kind(document: &str) -> Result<String, String> {
    let binary = std::env::var_os("WHERRY_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_wherry")), PathBuf::from);
    let mut command = Command::new(binary);
    let mut child = command.args(["--json", "validate", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    let answer = child.wait_with_output().unwrap();
    let verdict: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let good = answer.status.success() && verdict["valid"] == true;
    if good { Ok(verdict["kind"].as_str().unwrap().into()) } else { Err(verdict.to_string()) }
}

/// Paths of all leaves: `memory.max`.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        None => found.push(path.into()),
        Some(object) => {
            for (key, value) in object {
                leaves(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
    }
}

/// Names of figures in a statistics message, as README writes them: those of a container without its name.
fn figures(message: &str) -> Vec<String> {
    let mut message: Value = serde_json::from_str(message).unwrap();
    let containers = message.as_object_mut().unwrap().remove("containers").unwrap();
    message["absent"] = Value::Null;
    let mut found = Vec::new();
    leaves(&message, "", &mut found);
    for (_, container) in containers.as_object().unwrap() {
        leaves(container, "", &mut found);
    }
    found
}

#[test]
fn the_documents_in_readme_are_good() {
    let blocks = blocks(&read("README.md"), "json");
    let kinds: Vec<_> = blocks.iter().map(|block| kind(block).unwrap_or_else(|fault| panic!("{fault} in {block}"))).collect();
    assert_eq!(kinds, ["manifest", "manifest", "keyset", "settings", "policy"]);
    assert!(kind(&blocks[0].replace("\"32M\"", "\"32MB\"")).is_err(), "a fault is seen");
}

#[test]
fn the_command_to_sign_in_readme_is_one() {
    let readme = read("README.md");
    let line = readme.lines().find(|line| line.starts_with(r#"{"wherry": 1, "id""#)).unwrap();
    let command = wherry::protocol::parse_command(line.as_bytes()).unwrap();
    assert!(command.id.is_some() && command.target.is_some(), "{command:?}");
}

#[test]
fn settings_and_policy_in_readme_are_the_programs_own_examples() {
    let of_kind = |wanted: &str| blocks(&read("README.md"), "json").into_iter().find(|block| kind(block).as_deref() == Ok(wanted)).unwrap();
    assert_eq!(of_kind("settings").trim_end(), wherry::config::example().trim_end());
    assert_eq!(of_kind("policy").trim_end(), wherry::config::policy::example().trim_end());
}

#[test]
fn readme_names_every_figure_of_the_statistics() {
    let readme = read("README.md");
    for message in ["tests/wire/stats.json", "tests/wire/stats_pressure.json"] {
        let figures = figures(&read(message));
        assert!(figures.iter().any(|figure| figure == "memory.oom_kill"), "{message}: {figures:?}");
        // Without pressure, `psi` is null as a whole.
        for figure in figures.iter().filter(|figure| *figure != "psi") {
            assert!(readme.contains(&format!("`{figure}`")), "README.md says nothing of {figure}");
        }
    }
}
