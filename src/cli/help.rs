//! Help, printed from the table of commands.

use super::args::{Call, find};
use super::print;
use super::verbs::{GLOBAL, Opt, Takes, VERBS, Verb};
use crate::exit::{CODES, Error};
use serde_json::{Value, json};

/// `wherry help [COMMAND]`.
pub fn verb(call: &Call) -> Result<u8, Error> {
    let about = match call.operands.first() {
        Some(_) => Some(find(&call.operand(0)?)?),
        None => None,
    };
    show(about, call.json())
}

/// Help on one command, or on all.
pub fn show(about: Option<&Verb>, as_json: bool) -> Result<u8, Error> {
    match (about, as_json) {
        (Some(verb), false) => print::bytes(one(verb).as_bytes())?,
        (None, false) => print::bytes(all().as_bytes())?,
        (Some(verb), true) => print::json(&described(verb))?,
        (None, true) => print::json(&json!({
            "commands": VERBS.iter().map(described).collect::<Vec<_>>(),
            "options": options(GLOBAL),
            "exit_codes": CODES.iter().map(|(code, text)| json!({"code": *code as u8, "text": text})).collect::<Vec<_>>(),
        }))?,
    }
    Ok(0)
}

fn all() -> String {
    let mut out = String::from("Wherry: containers small enough for a router.\n\nusage: wherry [--json] [--socket PATH] COMMAND ...\n\n");
    for v in VERBS {
        out.push_str(&format!("  {:<10}{}\n", v.name, v.line));
    }
    out.push_str("\noptions of every command:\n");
    out.push_str(&option_lines(GLOBAL));
    out.push_str(
        "\nenvironment:\n  WHERRY_SOCKET   keeper's socket\n  WHERRY_LOG      off, error, warn, info, debug or trace\n\nexit codes:\n",
    );
    for (code, text) in CODES {
        out.push_str(&format!("  {:<4}{text}\n", *code as u8));
    }
    out.push_str("  exec, run and attach: the program's own code, or 128 and the number of the signal that ended it\n");
    out.push_str("\n`wherry help COMMAND` shows its options and examples\n");
    out
}

fn one(v: &Verb) -> String {
    let mut out = format!("wherry {}: {}\n\nusage: {}\n\n{}\n", v.name, v.line, usage(v), v.text);
    if !v.options.is_empty() {
        out.push_str("\noptions:\n");
        out.push_str(&option_lines(v.options));
    }
    out.push_str("\noptions of every command: -h, --json, --socket PATH\n\nexamples:\n");
    for (command, text) in v.examples {
        out.push_str(&format!("  {command}\n      {text}\n"));
    }
    out
}

fn usage(v: &Verb) -> String {
    format!("wherry {} {}", v.name, v.synopsis).trim_end().to_owned()
}

pub(crate) fn option_lines(options: &[Opt]) -> String {
    let written: Vec<String> = options.iter().map(written).collect();
    let width = written.iter().map(String::len).max().unwrap_or(0) + 3;
    written.iter().zip(options).map(|(w, o)| format!("  {w:<width$}{}\n", o.help)).collect()
}

fn written(o: &Opt) -> String {
    let short = o.short.map_or_else(|| "    ".to_owned(), |c| format!("-{c}, "));
    match o.takes {
        Takes::Nothing => format!("{short}--{}", o.long),
        Takes::Value(name) => format!("{short}--{} {name}", o.long),
        Takes::Number(name) => format!("{short}--{} [{name}]", o.long),
    }
}

fn described(v: &Verb) -> Value {
    json!({
        "name": v.name, "usage": usage(v), "line": v.line, "text": v.text, "options": options(v.options),
        "examples": v.examples.iter().map(|(command, text)| json!({"command": command, "text": text})).collect::<Vec<_>>(),
    })
}

fn options(options: &[Opt]) -> Value {
    let value = |o: &Opt| match o.takes {
        Takes::Nothing => None,
        Takes::Value(name) | Takes::Number(name) => Some(name),
    };
    options.iter().map(|o| json!({"short": o.short, "long": o.long, "value": value(o), "text": o.help})).collect()
}
