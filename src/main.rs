//! Picks the role from the command line; every role's `main` lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("agent") => wherry::agent::main(),
        _ => Err("usage: wherry agent (started by keeper)".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("wherry: {sentence}");
            ExitCode::FAILURE
        }
    }
}
