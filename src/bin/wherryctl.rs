//! The operator's tool: all of it is in the library's room `fleet`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry::fleet::main(std::env::args_os().skip(1).collect())
}
