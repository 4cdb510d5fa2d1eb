//! The invariants of the source tree, held by reading it: who may name what, where unsafe code is, what the documents promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::process::Command;

#[path = "tidy/source.rs"]
mod source;

use source::{Path, Token};

// ---------------------------------------------------------------------------------------------------------------------
// The tree

/// A Rust file, read once for all rules.
struct File {
    name: String,
    text: String,
    comments: String,
    /// All tokens, and those outside `#[cfg(test)]` items.
    all: Vec<Token>,
    product: Vec<Token>,
    /// Where the file stands in the crate: `src/keeper/plan.rs` is `keeper`, `plan`.
    module: Vec<String>,
}

impl File {
    fn new(name: &str, text: &str) -> File {
        let split = source::split(text);
        let all = source::tokens(&split.code);
        let product = if is_test_file(name) { Vec::new() } else { source::without_tests(&all) };
        File { name: name.into(), text: text.into(), comments: split.comments, all, product, module: module_of(name) }
    }

    fn paths(&self) -> Vec<Path> {
        source::paths(&self.module, &self.product)
    }

    fn is_in(&self, room: &str) -> bool {
        let room: Vec<&str> = room.split('/').collect();
        self.name.starts_with("src/") && self.module.len() >= room.len() && self.module.iter().zip(&room).all(|(a, b)| a == b)
    }

    fn fault(&self, line: usize, what: impl fmt::Display) -> String {
        format!("{}:{line}: {what}", self.name)
    }
}

fn is_test_file(name: &str) -> bool {
    name.starts_with("tests/") || name.ends_with("/tests.rs") || name.contains("/tests/")
}

fn module_of(name: &str) -> Vec<String> {
    let name = name.strip_prefix("src/").unwrap_or(name).trim_end_matches(".rs");
    let mut parts: Vec<String> = name.split('/').map(String::from).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

fn root() -> &'static FsPath {
    FsPath::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the project below `folder` (empty for all), as paths from the root; build output is left out.
fn files_below(folder: &str) -> Vec<String> {
    let mut pending = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("cannot read {}: {e}", directory.display()));
        for entry in entries.map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            let name = entry.path().strip_prefix(root()).unwrap().to_str().unwrap().to_string();
            if kind.is_dir() && !matches!(name.as_str(), "target" | ".git") {
                pending.push(entry.path());
            } else if kind.is_file() && name != ".git" {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("cannot read {name}: {e}"))
}

fn rust_files() -> Vec<File> {
    let names: Vec<String> = ["src", "tests"].into_iter().flat_map(files_below).filter(|name| name.ends_with(".rs")).collect();
    assert!(names.iter().any(|name| name == "src/lib.rs"), "rules about no files hold nothing");
    names.iter().map(|name| File::new(name, &read(name))).collect()
}

fn hold(rule: impl Fn(&File) -> Vec<String>) {
    let faults: Vec<String> = rust_files().iter().flat_map(rule).collect();
    none(&faults);
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// A rule finds nothing in `good` and something in each of `bad`.
fn check(rule: impl Fn(&File) -> Vec<String>, name: &str, good: &[&str], bad: &[&str]) {
    for text in good {
        assert_eq!(rule(&File::new(name, text)), Vec::<String>::new(), "in {name}: {text}");
    }
    for text in bad {
        assert!(!rule(&File::new(name, text)).is_empty(), "nothing found in {name}: {text}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Unsafe code

/// The places outside `src/sys`: tests that make the very calls which the filters forbid, and which no safe wrapper would make.
const FORBIDDEN_CALLS: [&str; 3] = ["tests/seccomp/kernel.rs", "tests/cage/calls.rs", "tests/commands/taken.rs"];

fn unsafe_faults(file: &File) -> Vec<String> {
    let in_floor = file.is_in("sys") || FORBIDDEN_CALLS.contains(&file.name.as_str());
    let mut faults = Vec::new();
    for (at, token) in file.all.iter().enumerate() {
        let next = file.all.get(at + 1).map_or("", |token| token.text.as_str());
        let lifts = token.text == "unsafe_code"
            && lifts_lint(&file.all[..at])
            && !is_for_floor(file, at)
            && !FORBIDDEN_CALLS.contains(&file.name.as_str());
        if lifts || (token.text == "unsafe" && !in_floor) {
            faults.push(file.fault(token.line, "unsafe code outside src/sys"));
        } else if token.text == "unsafe" && matches!(next, "{" | "impl") && !has_safety_comment(file, token.line) {
            faults.push(file.fault(token.line, "unsafe block without a SAFETY comment"));
        }
    }
    faults
}

fn lifts_lint(before: &[Token]) -> bool {
    let mut attribute = before.iter().rev().take_while(|token| token.text != "#");
    attribute.any(|token| matches!(token.text.as_str(), "allow" | "warn" | "expect"))
}

/// The lint is lifted once, for the whole floor: on its declaration in lib.rs or inside sys/mod.rs.
fn is_for_floor(file: &File, at: usize) -> bool {
    let after: String = file.all[at + 1..].iter().take(6).map(|token| token.text.as_str()).collect();
    file.name == "src/sys/mod.rs" || (file.name == "src/lib.rs" && after.starts_with(")]pubmodsys;"))
}

/// The comment stands on the line itself, or directly above the statement the line belongs to.
fn has_safety_comment(file: &File, line: usize) -> bool {
    let comments: Vec<&str> = file.comments.lines().collect();
    let text: Vec<&str> = file.text.lines().collect();
    let says = |at: usize| comments.get(at).is_some_and(|comment| comment.contains("SAFETY:"));
    let mut at = line - 1;
    while !says(at) {
        let Some(above) = at.checked_sub(1) else {
            return false;
        };
        let is_comment = !comments[above].trim().is_empty() && text[above].trim() == comments[above].trim();
        let ends_statement = text[above].trim().is_empty() || text[above].trim_end().ends_with([';', '{', '}']);
        if !is_comment && ends_statement && !says(above) {
            return false;
        }
        at = above;
    }
    true
}

#[test]
fn unsafe_code_is_only_on_the_floor_and_says_why_it_is_safe() {
    hold(unsafe_faults);
}

#[test]
fn unsafe_code_in_the_wrong_place_or_without_a_reason_is_found() {
    let word = "unsafe";
    let bare = format!("fn f() {{ {word} {{ g() }} }}");
    check(unsafe_faults, "src/keeper/mod.rs", &["// unsafe {}\nlet s = \"unsafe {}\"; let c = 'u';"], &[&bare, "#![allow(unsafe_code)]"]);
    let same_line = format!("let x = {word} {{ g() }}; // SAFETY: g has no precondition");
    let above = format!("// SAFETY: g has no precondition,\n// none at all.\nlet x =\n    {word} {{ g() }};");
    let stranger = format!("// SAFETY: of something else\nlet y = 1;\nlet x = {word} {{ g() }};");
    let in_string = format!("f(\"SAFETY: none\", {word} {{ g() }});");
    check(unsafe_faults, "src/sys/clone.rs", &[&same_line, &above, &format!("pub {word} fn f();")], &[&bare, &stranger, &in_string]);
    check(unsafe_faults, "src/sys/mod.rs", &["#![allow(unsafe_code)]"], &[]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Who may name whom

/// (room, what it must not name). The agent is on the network, so nothing in it may act on containers; keeper is root, so nothing
/// in it may parse what came over the network.
const EDGES: [(&str, &[&str]); 2] = [
    ("agent", &["crate::container", "crate::cgroup", "crate::netlink", "crate::keeper", "crate::launch"]),
    ("keeper", &["crate::agent", "crate::http", "rumqttc", "rustls", "tar", "flate2", "ruzstd", "http"]),
];

fn edge_faults(file: &File) -> Vec<String> {
    let mut faults = Vec::new();
    for (room, forbidden) in EDGES.iter().filter(|(room, _)| file.is_in(room)) {
        for path in file.paths() {
            // Bringing in the whole crate under one name would hide what is used of it.
            let whole = path.segments == ["crate"] || path.segments == ["crate", "*"];
            if whole || forbidden.iter().any(|prefix| path.is_below(prefix)) {
                faults.push(file.fault(path.line, format_args!("{room} must not use {}", path.segments.join("::"))));
            }
        }
    }
    faults
}

#[test]
fn the_agent_cannot_touch_containers_and_keeper_cannot_touch_the_network() {
    hold(edge_faults);
}

#[test]
fn a_forbidden_edge_between_rooms_is_found_however_it_is_written() {
    let good = [
        "use crate::ipc::messages; use crate::keeperish;",
        "// crate::keeper\nlet s = \"crate::launch\";",
        "#[cfg(test)] mod tests { use crate::keeper; }",
        "mod inner { use super::container; }",
        "let x = self::container::f();",
    ];
    let bad = [
        "use crate::keeper::plan;",
        "use crate::{ipc, launch::{self, steps}};",
        "use crate::{ipc, container as c, log};",
        "fn f() { crate::cgroup::detect(); }",
        "use super::super::keeper;",
        "mod inner { use super::super::super::netlink::link; }",
        "use crate as everything;",
        "use crate::*;",
        "#[cfg(test)] use std::fs;\nuse crate::container;",
        "fn f(_: &'static str) -> char { crate::launch::f(); 'x' }",
        "let s = r#\"a \" b\"#; crate::launch::f();",
    ];
    check(edge_faults, "src/agent/session.rs", &good, &bad);
    check(edge_faults, "src/agent/mod.rs", &[], &["use super::keeper;"]);
    check(edge_faults, "src/cli/ls.rs", &["use crate::container; use tar::Archive;"], &[]);
    let archives = ["use tar::Archive;", "let d = ::flate2::read::GzDecoder::new(r);", "use {std::io, rumqttc::Client};", "use rustls;"];
    check(edge_faults, "src/keeper/store.rs", &["let tar = 1; let b = tar < 2;", "use crate::unpack::tar;"], &archives);
}

// ---------------------------------------------------------------------------------------------------------------------
// Pure rooms

const PURE: [&str; 20] = [
    "manifest",
    "config",
    "protocol",
    "ipc/messages",
    "stats",
    "trust",
    "keeper/lifecycle",
    "keeper/health",
    "keeper/trial",
    "keeper/plan",
    "keeper/desired",
    "keeper/record",
    "keeper/work",
    "keeper/ring",
    "keeper/pace",
    "keeper/admission",
    "keeper/policy",
    "keeper/guard",
    "keeper/rollout",
    "keeper/window",
];
const EFFECTS: [&str; 6] = ["std::fs", "std::net", "std::process", "std::env", "std::os::unix::net", "tokio"];
/// Parts of std::net that are values, not sockets.
const ADDRESSES: [&str; 7] = ["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];

fn is_effect(path: &Path) -> bool {
    let is_address = path.is_below("std::net") && path.segments.get(2).is_some_and(|part| ADDRESSES.contains(&part.as_str()));
    let asks_clock = path.contains(&["Instant", "now"]) || path.contains(&["SystemTime", "now"]);
    asks_clock || (!is_address && EFFECTS.iter().any(|prefix| path.is_below(prefix)))
}

fn purity_faults(file: &File) -> Vec<String> {
    if !PURE.iter().any(|room| file.is_in(room)) {
        return Vec::new();
    }
    let named = file.paths().into_iter().filter(is_effect).map(|path| (path.line, path.segments.join("::")));
    // Instant::elapsed asks the clock without naming it.
    let elapsed = file.product.windows(4).filter(|t| t.iter().map(|t| t.text.as_str()).eq([".", "elapsed", "(", ")"]));
    let asked = elapsed.map(|t| (t[0].line, "elapsed()".to_string()));
    named.chain(asked).map(|(line, what)| file.fault(line, format_args!("a pure module must not use {what}"))).collect()
}

#[test]
fn pure_modules_do_no_io_and_take_time_as_an_argument() {
    hold(purity_faults);
}

#[test]
fn an_effect_in_a_pure_module_is_found() {
    let good = [
        "use std::net::{IpAddr, Ipv4Addr};",
        "fn f(now: Instant) -> Duration { now.duration_since(self.since) } // not Instant::now()",
        "#[cfg(test)] mod tests { fn f() { std::fs::read(\"x\"); } }",
        "/* std::fs::read() /* nested */ std::env::var() */ const A: &str = \"std::process\";",
    ];
    let bad = [
        "use std::fs;",
        "use std::{fmt, fs::File};",
        "let x = std::env::var(\"HOME\");",
        "use std::time::Instant; fn f() { Instant::now(); }",
        "use std::time::Instant as Clock; fn f() { Clock::now(); }",
        "use std::time; fn f() { time::SystemTime::now(); }",
        "fn f(t: Instant) { t.elapsed(); }",
        "use std::net::{IpAddr, TcpStream};",
        "use std::process::Command;",
    ];
    check(purity_faults, "src/keeper/plan.rs", &good, &bad);
    check(purity_faults, "src/manifest/raw.rs", &good, &bad);
    check(purity_faults, "src/stats.rs", &good, &bad);
    check(purity_faults, "src/keeper/store.rs", &bad, &[]);
}

// ---- the wall clock ----

/// For 32-bit musl the standard library's own call has 32 bits for the seconds, and panics from 2038 on.
fn clock_faults(file: &File) -> Vec<String> {
    let asked = file.paths().into_iter().filter(|path| path.contains(&["SystemTime", "now"]));
    asked.map(|path| file.fault(path.line, "SystemTime::now fails after 2038 on ARMv7: use sys::time::unix_ms")).collect()
}

#[test]
fn the_wall_clock_is_read_with_64_bits() {
    hold(clock_faults);
}

#[test]
fn a_32_bit_clock_is_found() {
    let good = ["fn f() { Instant::now(); }", "#[cfg(test)] mod tests { fn f() { std::time::SystemTime::now(); } }"];
    let bad = ["fn f() { std::time::SystemTime::now(); }", "use std::time::SystemTime as Clock; fn f() { Clock::now(); }"];
    check(clock_faults, "src/agent/tls.rs", &good, &bad);
}

// ---------------------------------------------------------------------------------------------------------------------
// Printing and exiting

const MAY_FAIL_ALOUD: [&str; 2] = ["src/main.rs", "src/exit.rs"];
const MAY_ANSWER: [&str; 3] = ["cli", "oci", "fleet"];

fn output_faults(file: &File) -> Vec<String> {
    let is_program = file.name.starts_with("src/bin/");
    if !file.name.starts_with("src/") || is_program || MAY_FAIL_ALOUD.contains(&file.name.as_str()) {
        return Vec::new();
    }
    let answers = MAY_ANSWER.iter().any(|room| file.is_in(room));
    let forbidden = |name: &str| matches!(name, "eprintln" | "eprint" | "dbg") || (!answers && matches!(name, "println" | "print"));
    let macros = file.product.windows(2).filter(|t| t[1].text == "!" && forbidden(&t[0].text)).map(|t| (t[0].line, t[0].text.clone()));
    let exits = file.paths().into_iter().filter(|path| path.contains(&["process", "exit"])).map(|path| (path.line, "process::exit".into()));
    macros.chain(exits).map(|(line, what)| file.fault(line, format_args!("{what} belongs to main.rs and exit.rs"))).collect()
}

#[test]
fn only_main_and_exit_print_an_error_and_end_the_process() {
    hold(output_faults);
}

#[test]
fn an_error_printed_elsewhere_is_found() {
    let bad = [
        "eprintln!(\"x\");",
        "std::process::exit(1);",
        "use std::process; fn f() { process::exit(1) }",
        "dbg!(x);",
        "use std::process::exit;",
    ];
    check(output_faults, "src/cli/ls.rs", &["println!(\"x\");", "// eprintln!(1)\nlet s = \"dbg!\";"], &bad);
    check(output_faults, "src/keeper/mod.rs", &["#[cfg(test)]\nfn f() { println!(\"x\"); }"], &["println!(\"x\");", "print!(\"x\");"]);
    check(output_faults, "src/exit.rs", &bad, &[]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Bounded reads

const UNBOUNDED_METHODS: [&str; 4] = ["read_to_end", "read_to_string", "read_line", "read_until"];
const UNBOUNDED_PATHS: [&[&str]; 5] =
    [&["fs", "read"], &["fs", "read_to_string"], &["io", "read_to_string"], &["serde_json", "from_reader"], &["io", "copy"]];
/// How far above an unbounded call its `take` may stand, in lines.
const TAKE_REACH: usize = 3;

fn bound_faults(file: &File) -> Vec<String> {
    if !file.name.starts_with("src/") {
        return Vec::new();
    }
    let takes: BTreeSet<usize> = file.product.iter().filter(|token| token.text == "take").map(|token| token.line).collect();
    let bounded = |line: usize| takes.range(line.saturating_sub(TAKE_REACH)..=line).next().is_some();
    let is_call = |t: &[Token]| t[0].text == "." && t[2].text == "(" && UNBOUNDED_METHODS.contains(&t[1].text.as_str());
    let methods = file.product.windows(3).filter(|t| is_call(t)).map(|t| (t[1].line, t[1].text.clone()));
    let named = |path: &Path| UNBOUNDED_PATHS.iter().any(|parts| path.segments.len() >= 2 && path.segments.ends_with_parts(parts));
    let calls = file.paths().into_iter().filter(named).map(|path| (path.line, path.segments.join("::")));
    let unbounded = methods.chain(calls).filter(|(line, _)| !bounded(*line));
    unbounded.map(|(line, what)| file.fault(line, format_args!("{what} without a maximum (put take(MAX) before it)"))).collect()
}

trait EndsWithParts {
    fn ends_with_parts(&self, parts: &[&str]) -> bool;
}

impl EndsWithParts for Vec<String> {
    fn ends_with_parts(&self, parts: &[&str]) -> bool {
        self.len() >= parts.len() && self[self.len() - parts.len()..].iter().zip(parts).all(|(a, b)| a == b)
    }
}

#[test]
fn everything_read_has_a_written_maximum() {
    hold(bound_faults);
}

#[test]
fn a_read_without_a_maximum_is_found() {
    let good = [
        "file.take(MAX).read_to_end(&mut buffer)?;",
        "let mut limited = file.take(MAX);\nlet mut text = String::new();\nlimited.read_to_string(&mut text)?;",
        "#[cfg(test)] mod tests { fn f() { std::fs::read(\"x\"); } }",
    ];
    let bad = [
        "file.read_to_end(&mut buffer)?;",
        "let x = std::fs::read_to_string(path)?;",
        "use std::fs; fn f() { fs::read(path); }",
        "serde_json::from_reader(socket)?;",
        "let a = x.take(MAX);\n\n\n\n\nfile.read_line(&mut s)?;",
    ];
    check(bound_faults, "src/keeper/store.rs", &good, &bad);
}

// ---------------------------------------------------------------------------------------------------------------------
// Texts

fn header_faults(file: &File) -> Vec<String> {
    let says = file.text.lines().next().and_then(|line| line.strip_prefix("//! ")).is_some_and(|rest| !rest.trim().is_empty());
    if says { Vec::new() } else { vec![file.fault(1, "the first line must say what this file is for (//! …)")] }
}

#[test]
fn every_file_says_what_it_is_for() {
    hold(header_faults);
}

#[test]
fn a_file_without_a_header_is_found() {
    check(header_faults, "src/log.rs", &["//! Log lines to syslog.\n"], &["use std::fs;\n", "", "//!\nuse std::fs;", "\n//! Late."]);
}

/// Files people write by hand; captured and generated data may say anything.
fn is_hand_written(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    let known = ["rs", "toml", "md", "sh", "mk", "bb", "conf", "service", "init"];
    base.rsplit_once('.').is_none_or(|(stem, extension)| stem.is_empty() || known.contains(&extension)) && !base.starts_with("LICENSE")
}

fn leftover_faults(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let found = lines.filter_map(|(number, line)| leftover(line).map(|what| format!("{name}:{}: {what}", number + 1)));
    found.collect()
}

fn leftover(line: &str) -> Option<&'static str> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    if line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| marks.contains(&word)) {
        return Some("a note to oneself: do it, or say it to others in words that last");
    }
    let issue = line.match_indices('#').any(|(at, _)| is_issue_number(&line[..at], &line[at + 1..]));
    issue.then_some("an issue number: state the fact itself")
}

/// `#12` after a blank, a bracket or a name; not `10#08`, `$#1`, `&#39;`, `${x#1}` or `{:#06x}`.
fn is_issue_number(before: &str, after: &str) -> bool {
    let digits = after.chars().take_while(char::is_ascii_digit).count();
    let is_standard = before.ends_with("PKCS ");
    let opens = before.chars().next_back().is_none_or(|c| c.is_whitespace() || c.is_alphabetic() || "([,;".contains(c));
    let closes = after[digits..].chars().next().is_none_or(|c| !c.is_alphanumeric() && !"_-}".contains(c));
    (1..=6).contains(&digits) && opens && closes && !is_standard
}

#[test]
fn no_text_mentions_an_issue_number_or_an_open_task() {
    let texts = files_below("").into_iter().filter(|name| is_hand_written(name));
    let readable = texts.filter_map(|name| std::fs::read_to_string(root().join(&name)).ok().map(|text| (name, text)));
    let faults: Vec<String> = readable.flat_map(|(name, text)| leftover_faults(&name, &text)).collect();
    none(&faults);
}

#[test]
fn an_issue_number_or_an_open_task_is_found() {
    let hash = '#';
    for bad in ["see ~12", "(~7)", "runc~2151.", "owner/name~1, and", "~3"] {
        assert!(!leftover_faults("x", &bad.replace('~', "#")).is_empty(), "{bad}");
    }
    for good in ["10~08 ", "${x~1}", "{:~06x}", "~!/bin/sh", "~[test]", "&~39;", "$~1", "~ 12 apples", "PKCS ~8", "](~1-why)"] {
        assert_eq!(leftover_faults("x", &good.replace('~', "#")), Vec::<String>::new(), "{good}");
    }
    assert!(!leftover_faults("x", &format!("// {}DO: later {hash}", "TO")).is_empty());
    assert!(leftover_faults("x", "mastodon, TODOS_OF, autodo").is_empty());
}

// ---------------------------------------------------------------------------------------------------------------------
// Modules

/// Modules that `text` declares without a body, so that each has a file.
fn declared_modules(file: &File) -> BTreeSet<String> {
    let is_declaration = |t: &&[Token]| t[0].text == "mod" && t[2].text == ";";
    file.all.windows(3).filter(is_declaration).map(|t| t[1].text.clone()).collect()
}

/// The module files and folders right below `folder`, of a list of file names.
fn module_files(names: &[&str], folder: &str) -> BTreeSet<String> {
    let below = names.iter().filter_map(|name| name.strip_prefix(folder)).filter(|rest| rest.ends_with(".rs"));
    let first = below.map(|rest| rest.split_once('/').map_or(rest.trim_end_matches(".rs"), |(directory, _)| directory));
    first.filter(|name| !matches!(*name, "lib" | "main" | "mod" | "bin")).map(String::from).collect()
}

fn module_faults(files: &[File]) -> Vec<String> {
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).filter(|name| name.starts_with("src/")).collect();
    let mut faults = Vec::new();
    for file in
        files.iter().filter(|file| file.name.starts_with("src/") && file.name != "src/main.rs" && !file.name.starts_with("src/bin/"))
    {
        let folder: String = std::iter::once("src").chain(file.module.iter().map(String::as_str)).map(|part| format!("{part}/")).collect();
        let (declared, present) = (declared_modules(file), module_files(&names, &folder));
        faults.extend(declared.difference(&present).map(|name| file.fault(1, format_args!("declares {name}, which has no file"))));
        faults.extend(present.difference(&declared).map(|name| file.fault(1, format_args!("does not declare {folder}{name}"))));
    }
    faults
}

#[test]
fn every_module_file_is_declared_and_every_declared_module_has_a_file() {
    none(&module_faults(&rust_files()));
}

#[test]
fn a_module_without_a_file_and_a_file_without_a_module_are_found() {
    let files = |list: &[(&str, &str)]| -> Vec<File> { list.iter().map(|(name, text)| File::new(name, text)).collect() };
    let whole = [("src/lib.rs", "pub mod a; mod b;"), ("src/a.rs", ""), ("src/b/mod.rs", "mod c; mod inline { }"), ("src/b/c.rs", "")];
    assert_eq!(module_faults(&files(&whole)), Vec::<String>::new());
    assert_eq!(module_faults(&files(&whole[..3])), ["src/b/mod.rs:1: declares c, which has no file"]);
    let stray = [("src/lib.rs", "// pub mod a;"), ("src/a.rs", "")];
    assert_eq!(module_faults(&files(&stray)), ["src/lib.rs:1: does not declare src/a"]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Lessons from elsewhere

/// One entry of tests/cve.toml: with a test that shows it, or the reason why it cannot happen here.
#[derive(Debug, Default, PartialEq)]
struct Lesson {
    id: String,
    lesson: String,
    test: String,
    cannot: String,
}

/// Reads the one form cve.toml has: `[[cve]]` tables of strings.
fn read_lessons(text: &str) -> Result<Vec<Lesson>, String> {
    let mut lessons: Vec<Lesson> = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        let fault = |what: &str| format!("tests/cve.toml:{}: {what}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[cve]]" {
            lessons.push(Lesson::default());
            continue;
        }
        let lesson = lessons.last_mut().ok_or_else(|| fault("a key before the first [[cve]]"))?;
        let (key, value) = line.split_once('=').ok_or_else(|| fault("not a key"))?;
        let value =
            value.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(|| fault("not a string in double quotes"))?;
        let field = match key.trim() {
            "id" => &mut lesson.id,
            "lesson" => &mut lesson.lesson,
            "test" => &mut lesson.test,
            "cannot" => &mut lesson.cannot,
            _ => return Err(fault("a key that is not id, lesson, test or cannot")),
        };
        if !field.is_empty() {
            return Err(fault("a key given twice"));
        }
        *field = value.to_string();
    }
    Ok(lessons)
}

fn is_vulnerability_id(id: &str) -> bool {
    let parts: Vec<&str> = id.split('-').collect();
    let number = |part: &str, least: usize| part.len() >= least && part.bytes().all(|b| b.is_ascii_digit());
    match parts.as_slice() {
        ["CVE", year, serial] => number(year, 4) && number(serial, 4),
        ["GHSA", rest @ ..] => rest.len() == 3 && rest.iter().all(|part| part.len() == 4),
        _ => false,
    }
}

fn test_functions(files: &[File]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files {
        let texts: Vec<&str> = file.all.iter().map(|token| token.text.as_str()).collect();
        for at in (0..texts.len()).filter(|&at| texts[at..].starts_with(&["#", "[", "test", "]"])) {
            let function = texts[at..].iter().position(|&text| text == "fn").map(|offset| at + offset + 1);
            found.extend(function.and_then(|at| texts.get(at)).map(|name| name.to_string()));
        }
    }
    found
}

/// Some words with a capital letter in front and a full stop behind; not a mere "n/a".
fn is_sentence(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_uppercase() || c == '/');
    begins && text.ends_with('.') && text.split_whitespace().count() >= 5
}

fn lesson_faults(lessons: &[Lesson], tests: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeMap::new();
    for entry in lessons {
        if !is_vulnerability_id(&entry.id) {
            faults.push(format!("{:?} is not a CVE or GHSA number", entry.id));
        }
        if !is_sentence(&entry.lesson) {
            faults.push(format!("{}: the lesson must be a sentence", entry.id));
        }
        match (entry.test.as_str(), entry.cannot.as_str()) {
            ("", "") => faults.push(format!("{}: neither a test nor why it cannot happen here", entry.id)),
            ("", cannot) if !is_sentence(cannot) => faults.push(format!("{}: why it cannot happen here must be a sentence", entry.id)),
            ("", _) => {}
            (test, "") if !tests.contains(test) => faults.push(format!("{}: no test is named {test:?}", entry.id)),
            (_, "") => {}
            _ => faults.push(format!("{}: a test, and why it cannot happen: only one of both can be true", entry.id)),
        }
        if seen.insert((&entry.id, &entry.test), ()).is_some() {
            faults.push(format!("{}: listed twice with the same test, or without one", entry.id));
        }
    }
    faults
}

#[test]
fn every_known_vulnerability_names_a_test_that_exists_or_says_why_it_cannot_happen() {
    let lessons = read_lessons(&read("tests/cve.toml")).unwrap();
    none(&lesson_faults(&lessons, &test_functions(&rust_files())));
}

#[test]
fn a_vulnerability_without_its_test_is_found() {
    let entry = |id: &str, lesson: &str, test: &str| format!("# note\n[[cve]]\nid = \"{id}\"\nlesson = \"{lesson}\"\ntest = \"{test}\"\n");
    let tests = test_functions(&[File::new("tests/x.rs", "#[test]\n#[ignore]\nfn there() {} fn helper() {} // #[test] fn not() {}")]);
    assert_eq!(tests, BTreeSet::from(["there".to_string()]));
    let count = |text: &str| lesson_faults(&read_lessons(text).unwrap(), &tests).len();
    const LESSON: &str = "What happened there was so.";
    let reason = |id: &str, why: &str| format!("[[cve]]\nid = \"{id}\"\nlesson = \"{LESSON}\"\ncannot = \"{why}\"\n");
    let good = entry("CVE-2019-5736", LESSON, "there");
    let other = reason("CVE-2019-5736", "Nothing here does such a thing.");
    assert_eq!(count(&good), 0);
    assert_eq!(count(&other), 0);
    assert_eq!(count(&format!("{good}{good}")), 1);
    assert_eq!(count(&format!("{other}{other}")), 1);
    for bad in [
        entry("CVE-19-5736", LESSON, "there"),
        entry("CVE-2019-5736", "", "there"),
        entry("CVE-2019-5736", "Bad.", "there"),
        entry("CVE-2019-5736", LESSON, "helper"),
        entry("GHSA-4q85-33p6", LESSON, "there"),
        format!("{good}cannot = \"Nothing here does such a thing.\"\n"),
        format!("[[cve]]\nid = \"CVE-2019-5736\"\nlesson = \"{LESSON}\"\n"),
        reason("CVE-2019-5736", "n/a"),
        reason("CVE-2019-5736", "Nothing here does such a thing"),
        "[[cve]]\n".into(),
    ] {
        assert!(count(&bad) > 0, "{bad}");
    }
    for bad in ["id = \"x\"", "[[cve]]\nid = 1", "[[cve]]\nnote = \"x\"", "[[cve]]\nwords", "[[cve]]\nid = \"x\"\nid = \"y\""] {
        assert!(read_lessons(bad).is_err(), "{bad}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What README promises

/// Roles the program starts itself: verbs too, though help keeps quiet about them.
const ROLES: [&str; 8] = ["keeper", "agent", "hash", "unpack", "finish", "launch", "init", "probe"];

/// The code in a Markdown text: fenced and indented blocks, and `spans`.
fn code_lines(markdown: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.push(line);
        } else {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// Words after `wherry` in code, and scripts of the tree that code calls.
fn promised(markdown: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut verbs, mut scripts) = (BTreeSet::new(), BTreeSet::new());
    for line in code_lines(markdown) {
        let command = line.split(" #").next().unwrap_or("");
        let words: Vec<&str> = command.split_whitespace().collect();
        for (at, word) in words.iter().enumerate() {
            let starts_command = at == 0 || matches!(words[at - 1], "$" | "sudo" | "|" | "&&" | ";") || words[at - 1].contains('=');
            let verb = words.get(at + 1).filter(|next| next.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !next.starts_with('-'));
            if starts_command && word.rsplit('/').next() == Some("wherry") {
                verbs.extend(verb.map(|verb| verb.to_string()));
            }
            let path = word.trim_start_matches("./").trim_end_matches(['.', ',', ')', '"', ';']);
            let is_ours = ["board/", "cross/", "openwrt/", "tests/", "yocto/", ".ci/"]
                .iter()
                .any(|folder| path.starts_with(folder) && path != *folder);
            if is_ours && !path.contains(['{', '*', '<', '$', '…']) {
                scripts.insert(path.to_string());
            }
        }
    }
    (verbs, scripts)
}

/// Verbs in the text of `wherry help`: lines indented by two to four blanks, `VERB … two blanks … description`.
fn help_verbs(help: &str) -> BTreeSet<String> {
    let mut verbs = BTreeSet::new();
    for line in help.lines() {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        let words = words.strip_prefix("wherry ").unwrap_or(words);
        let verb = words.split([' ', ',']).next().unwrap_or("");
        let is_verb = !verb.is_empty() && verb.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !verb.starts_with('-');
        if (2..=4).contains(&indent) && is_verb && words.trim_end().contains("  ") {
            verbs.insert(verb.to_string());
        }
    }
    verbs
}

fn readme_faults(readme: &str, help: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let verbs = help_verbs(help);
    let (promised, scripts) = promised(readme);
    let unknown = promised.iter().filter(|verb| !verbs.contains(*verb) && !ROLES.contains(&verb.as_str()));
    let unsaid = verbs.difference(&promised);
    let missing = scripts.iter().filter(|path| !exists(path));
    let unknown = unknown.map(|verb| format!("README.md: `wherry {verb}` is not a verb of wherry help"));
    let unsaid = unsaid.map(|verb| format!("README.md: says nothing of `wherry {verb}`"));
    let missing = missing.map(|path| format!("README.md: {path} does not exist"));
    unknown.chain(unsaid).chain(missing).collect()
}

#[test]
fn readme_and_help_name_the_same_verbs_and_scripts_that_exist() {
    let binary = std::env::var_os("WHERRY_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_wherry")), PathBuf::from);
    let output = Command::new(&binary).arg("help").output().unwrap_or_else(|e| panic!("cannot run {}: {e}", binary.display()));
    let help = String::from_utf8(output.stdout).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap_or_default();
    none(&readme_faults(&readme, &help, |path| root().join(path).exists()));
}

#[test]
fn a_promise_that_is_not_kept_is_found() {
    let help = "Usage: wherry VERB\n\n  ls          list apps\n  run IMAGE   run one  now\n";
    assert_eq!(help_verbs(help), BTreeSet::from(["ls".into(), "run".into()]));
    let faults = |readme: &str| readme_faults(readme, help, |path| path == "tests/run");
    assert_eq!(
        faults("Try `wherry ls`:\n\n    sudo wherry run x   # wherry nothing\n    tests/run\n\n`wherry keeper`, wherry is small"),
        Vec::<String>::new()
    );
    assert_eq!(faults("`wherry ls`"), ["README.md: says nothing of `wherry run`"]);
    assert_eq!(faults("```\nwherry ls | wherry run\nwherry fly\n```"), ["README.md: `wherry fly` is not a verb of wherry help"]);
    assert_eq!(faults("`wherry ls` `wherry run` `board/run host`"), ["README.md: board/run does not exist"]);
}

// ---------------------------------------------------------------------------------------------------------------------
// What tests/README.md lists

/// Test programs that the table does not name: `NAME.rs`, or `NAME/` for a folder with a `main.rs`.
fn unlisted(names: &[String], readme: &str) -> Vec<String> {
    let folder = |name: &str| name.strip_suffix("/main.rs").map(|folder| format!("{folder}/"));
    let rows = names.iter().filter_map(|name| name.strip_prefix("tests/"));
    let programs = rows.filter_map(|name| folder(name).or_else(|| (!name.contains('/')).then(|| name.to_owned())));
    let table: Vec<&str> = readme.lines().filter(|line| line.starts_with('|')).collect();
    programs.filter(|name| !table.iter().any(|row| row.contains(&format!("`{name}`")))).collect()
}

#[test]
fn every_test_program_has_its_row_in_the_table_of_what_runs_where() {
    let names: Vec<String> = files_below("tests").into_iter().filter(|name| name.ends_with(".rs")).collect();
    none(&unlisted(&names, &read("tests/README.md")));
}

#[test]
fn a_test_program_without_a_row_is_found() {
    let names = ["tests/a.rs", "tests/b/main.rs", "tests/b/part.rs", "tests/c.rs"].map(String::from);
    assert_eq!(unlisted(&names, "| `a.rs`, `b/` | all |\n`c.rs` outside of the table"), ["c.rs"]);
}

// ---------------------------------------------------------------------------------------------------------------------
// The scanner itself

#[test]
fn strings_comments_characters_and_lifetimes_are_told_apart() {
    let code = |text: &str| source::split(text).code.split_whitespace().collect::<Vec<_>>().join(" ");
    for (text, left) in [
        ("a // b", "a"),
        ("a /* b /* c */ d */ e", "a e"),
        (r#"a("b \" c // d") e"#, "a( ) e"),
        (r###"a(r#"b " c"#, br"\") d"###, "a( , ) d"),
        (r"a('\'', b'\\', '/', '/') c", "a( , b , , ) c"),
        ("fn f<'a>(x: &'a str) -> &'a str // it's", "fn f<'a>(x: &'a str) -> &'a str"),
        ("r#type = 1; hour\"b\"", "r#type = 1; hour"),
        ("a \"never closed", "a"),
        ("ü \"ä\" b", "ü b"),
    ] {
        assert_eq!(code(text), left, "{text}");
    }
    assert_eq!(source::split("a // b\n\"// c\"\n/* d */").comments, "  // b\n      \n/* d */");
}

#[test]
fn paths_are_resolved_through_groups_names_and_supers() {
    let module = ["keeper".to_string(), "plan".to_string()];
    let found = |text: &str| -> Vec<String> {
        let tokens = source::tokens(&source::split(text).code);
        source::paths(&module, &tokens).iter().map(|path| path.segments.join("::")).collect()
    };
    assert_eq!(found("use a::{b, c::{self, d as e}, f::*};"), ["a::b", "a::c", "a::c::d", "a::f::*"]);
    assert_eq!(found("use super::x; use self::y::z;"), ["crate::keeper::x", "crate::keeper::plan::y::z"]);
    assert_eq!(found("use a::b as c; fn f() { c::d() }"), ["a::b", "a::b::d"]);
    assert_eq!(found("mod m { fn f() { super::g::h() } } fn i() { super::j::k() }"), ["crate::keeper::plan::g::h", "crate::keeper::j::k"]);
    assert_eq!(found("let v = Vec::<u8>::new(); ::a::b();"), ["Vec", "a::b"]);
}
