//! The local command line: asks keeper over its socket, or looks by itself.
//!
//! `verbs` is the table of all commands; each has one function elsewhere in this room. Nothing here decides anything
//! about containers.

mod apply;
pub(crate) mod args;
mod attach;
mod check;
pub(crate) mod client;
mod control;
mod copy;
mod diag;
mod document;
mod events;
mod exec;
pub(crate) mod help;
mod image;
mod keys;
mod list;
mod logs;
pub(crate) mod print;
mod run;
mod stats;
mod status;
mod terminal;
mod validate;
pub(crate) mod verbs;
pub(crate) mod when;

use crate::exit::{Code, Error, conclude};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that these arguments (without the program's name) ask for.
pub fn main(args: Vec<OsString>) -> ExitCode {
    conclude(dispatch(&verbs::WHERRY, args))
}

/// Does what these arguments of a program ask for; gives the exit code.
///
/// # Errors
/// What is wrong with them, or what went wrong.
pub(crate) fn dispatch(program: &'static verbs::Program, args: Vec<OsString>) -> Result<u8, Error> {
    match args::parse(program, args)? {
        args::Asked::Help(verb, as_json) => help::show(program, verb, as_json),
        args::Asked::Call(call) => match call.verb.run {
            Some(run) => run(&call).map_err(|e| call.failed(e)),
            None => Err(Error::new(Code::Internal, format!("{} is not part of this program", call.verb.name))),
        },
    }
}
