//! Help, printed from a program's table of commands.

use super::args::{Call, find};
use super::print;
use super::verbs::{Opt, Program, Takes, Verb, WHERRY};
use crate::exit::Error;
use serde_json::{Value, json};

/// `wherry help [COMMAND]`.
pub fn verb(call: &Call) -> Result<u8, Error> {
    asked(&WHERRY, call)
}

/// `help [COMMAND]` of a program.
///
/// # Errors
/// There is no such command, or standard output cannot be written.
pub fn asked(program: &'static Program, call: &Call) -> Result<u8, Error> {
    let about = match call.operands.first() {
        Some(_) => Some(find(program, &call.operand(0)?)?),
        None => None,
    };
    show(program, about, call.json())
}

/// Help on one command, or on all.
///
/// # Errors
/// Standard output cannot be written.
pub fn show(program: &Program, about: Option<&Verb>, as_json: bool) -> Result<u8, Error> {
    match (about, as_json) {
        (Some(verb), false) => print::bytes(one(program, verb).as_bytes())?,
        (None, false) => print::bytes(all(program).as_bytes())?,
        (Some(verb), true) => print::json(&described(program, verb))?,
        (None, true) => print::json(&json!({
            "commands": program.verbs.iter().map(|verb| described(program, verb)).collect::<Vec<_>>(),
            "options": options(program.options),
            "exit_codes": program.codes.iter().map(|(code, text)| json!({"code": *code as u8, "text": text})).collect::<Vec<_>>(),
        }))?,
    }
    Ok(0)
}

/// Help on a program.
pub fn all(program: &Program) -> String {
    let mut out = program.head.to_owned();
    for v in program.verbs {
        out.push_str(&format!("  {:<10}{}\n", v.name, v.line));
    }
    out.push_str("\noptions of every command:\n");
    out.push_str(&option_lines(program.options));
    out.push_str(program.notes);
    for (code, text) in program.codes {
        out.push_str(&format!("  {:<4}{text}\n", *code as u8));
    }
    out.push_str(program.tail);
    out
}

/// Help on one of its commands.
pub fn one(program: &Program, v: &Verb) -> String {
    let mut out = format!("{} {}: {}\n\nusage: {}\n\n{}\n", program.name, v.name, v.line, usage(program, v), v.text);
    if !v.options.is_empty() {
        out.push_str("\noptions:\n");
        out.push_str(&option_lines(v.options));
    }
    out.push_str("\noptions of every command: ");
    out.push_str(program.always);
    out.push_str("\n\nexamples:\n");
    for (command, text) in v.examples {
        out.push_str(&format!("  {command}\n      {text}\n"));
    }
    out
}

fn usage(program: &Program, v: &Verb) -> String {
    format!("{} {} {}", program.name, v.name, v.synopsis).trim_end().to_owned()
}

fn option_lines(options: &[Opt]) -> String {
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

fn described(program: &Program, v: &Verb) -> Value {
    json!({
        "name": v.name, "usage": usage(program, v), "line": v.line, "text": v.text, "options": options(v.options),
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
