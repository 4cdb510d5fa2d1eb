//! Picks the role from the command line; every role's `main` lives in the library.

fn main() {}
