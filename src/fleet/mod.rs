//! `wherryctl`, the operator's tool: a fleet of devices by way of its MQTT broker. Another program than the one on devices, which has nothing of this.
//!
//! `verbs` is the table of commands. `settings`, `address` and `document` (on `tree`, `yaml` and `toml`) read what the operator says; `seen`, `select`
//! and `progress` decide, without input or output; `link` and `session` are the line to the broker; each remaining file is a command.
//! The wire contract's types and the parser of manifests are the devices' own.

mod address;
mod args;
mod command;
mod compose;
mod diff;
mod document;
mod keys;
mod keyset;
mod link;
mod progress;
mod publish;
mod seen;
mod select;
mod serve;
mod session;
mod settings;
mod sign;
mod status;
mod stream;
mod toml;
mod topics;
mod tree;
mod verbs;
mod watch;
mod yaml;

use crate::cli::dispatch;
use crate::exit::{Error, note, visible};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that these arguments (without the program's name) ask for.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match dispatch(&verbs::WHERRYCTL, args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            report(&e);
            ExitCode::from(e.code() as u8)
        }
    }
}

/// As `wherry` reports, under our own name.
fn report(e: &Error) {
    if e.is_closed() {
        return;
    }
    note(&format!("wherryctl: {}", visible(&e.to_string())));
    if let Some(advice) = e.advice() {
        note(&format!("  hint: {}", visible(advice)));
    }
}
