//! Picks the role from the command line; every role's `main` lives in the library.

use std::ffi::OsString;
use std::process::ExitCode;
use wherry::exit;

/// A role's main: gets the arguments behind the role's name.
type Role = fn(Vec<OsString>) -> ExitCode;

/// The roles, by the first argument. All else is the local command line.
const ROLES: &[(&str, Role)] = &[
    ("keeper", |args| exit::role(wherry::keeper::main(args))),
    ("agent", |_| exit::role(wherry::agent::main())),
    ("stage", |_| wherry::stage::main()),
    ("hash", |_| wherry::hash::main()),
    ("unpack", |_| wherry::unpack::main()),
    ("launch", |_| wherry::launch::main()),
    ("probe", |_| wherry::probe::main()),
];

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let asks_for_help = args.get(1).is_some_and(|a| a == "-h" || a == "--help");
    match ROLES.iter().find(|(name, _)| args.first().is_some_and(|a| a == name)) {
        Some((_, role)) if !asks_for_help => role(args.split_off(1)),
        _ => wherry::cli::main(args),
    }
}
