//! Exit codes, and the one place that prints an error.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// Exit codes, numbered as in sysexits.h. `exec`, `run` and `attach` give the program's own code instead, or 128 and the signal's number; where there
/// is none, the last three, as docker has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// Understood, but it did not work.
    Failed = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A document is wrong.
    BadData = 65,
    /// A file is not there or cannot be read.
    NoInput = 66,
    /// Keeper cannot be reached.
    Unavailable = 69,
    /// A fault of the program itself.
    Internal = 70,
    /// A file cannot be made.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Not allowed.
    NoPermission = 77,
    /// Wherry itself could not do it, so no program ended.
    NoProgram = 125,
    /// The program is there but cannot be run.
    NotExecutable = 126,
    /// The program is not there.
    NotFound = 127,
}

/// Every code with its meaning, for the help.
pub const CODES: &[(Code, &str)] = &[
    (Code::Ok, "done"),
    (Code::Failed, "understood, but it did not work; the reason stands in the message"),
    (Code::Usage, "wrong command line"),
    (Code::BadData, "wrong content in a document"),
    (Code::NoInput, "a file is missing or cannot be read"),
    (Code::Unavailable, "keeper is not running or does not answer"),
    (Code::Internal, "a fault of wherry itself"),
    (Code::CannotCreate, "a file cannot be made"),
    (Code::Io, "reading or writing failed"),
    (Code::NoPermission, "not allowed"),
    (Code::NoProgram, "of exec, run and attach alone: any of the failures above"),
    (Code::NotExecutable, "of exec and run alone: the program cannot be run"),
    (Code::NotFound, "of exec and run alone: the program is not there"),
];

/// What ends a command early: the sentence, a hint where we know one, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: String,
    hint: Option<String>,
    /// What it means to who wanted a program's own code.
    of_program: Code,
}

impl Error {
    /// `message` is one sentence: verb, object, reason.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, of_program: Code::NoProgram }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The reader of our output went away. It has what it wanted, so nothing is printed and the code is 0.
    pub fn closed() -> Self {
        Self::new(Code::Ok, "standard output was closed")
    }

    /// A failed operation on `what`; the code follows from the kernel's answer.
    pub fn io(what: impl fmt::Display, e: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let code = match e.kind() {
            K::NotFound | K::IsADirectory | K::NotADirectory => Code::NoInput,
            K::PermissionDenied => Code::NoPermission,
            _ => Code::Io,
        };
        Self::new(code, format!("{what}: {}", reason(e)))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// It is this to who wanted a program's own code.
    #[must_use]
    pub fn meaning(mut self, of_program: Code) -> Self {
        self.of_program = of_program;
        self
    }

    /// As a failure of a command that ends as a program ends.
    #[must_use]
    pub fn instead_of_program(mut self) -> Self {
        if !self.is_closed() {
            self.code = self.of_program;
        }
        self
    }

    /// The exit code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// True for [`Error::closed`].
    pub fn is_closed(&self) -> bool {
        self.code == Code::Ok
    }
}

impl fmt::Display for Error {
    /// The message alone, without the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The kernel's reason in words, without the `(os error N)` that std appends.
pub fn reason(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(n) => nix::errno::Errno::from_raw(n).desc().to_owned(),
        None => e.to_string(),
    }
}

/// Prints the error, if any, and turns the result into the exit code of the process.
pub fn conclude(result: Result<u8, Error>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            report(&e);
            ExitCode::from(e.code as u8)
        }
    }
}

/// Turns the end of a role into the exit code of its process.
pub fn role<E: Into<Error>>(result: Result<(), E>) -> ExitCode {
    conclude(result.map(|()| 0).map_err(Into::into))
}

impl From<String> for Error {
    fn from(sentence: String) -> Self {
        Self::new(Code::Failed, sentence)
    }
}

/// Prints the error as `wherry: message` and `  hint: …`.
pub fn report(e: &Error) {
    if e.is_closed() {
        return;
    }
    let mut text = format!("wherry: {}\n", visible(&e.message));
    if let Some(hint) = &e.hint {
        text.push_str(&format!("  hint: {}\n", visible(hint)));
    }
    write(&text);
}

/// Prints one line on standard error that is no error: what standard output has no room for.
pub fn note(text: &str) {
    write(&format!("{text}\n"));
}

fn write(text: &str) {
    // Nobody is left to tell when standard error is closed too.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Control characters made visible, and those that turn the direction of writing: a name or message from outside must not
/// steer the reader's terminal or show as something else. Line ends become spaces.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(feature = "fleet")]
impl Error {
    /// What to do about it, where we know.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        assert_eq!(visible("a\x1b[2Jb\nc\u{9b}d\u{202e}e"), "a\\u{1b}[2Jb c\\u{9b}d\\u{202e}e");
    }

    #[test]
    fn kernel_answers_become_exit_codes() {
        for (errno, code) in [(2, Code::NoInput), (13, Code::NoPermission), (21, Code::NoInput), (28, Code::Io)] {
            let e = Error::io("cannot open x", &std::io::Error::from_raw_os_error(errno));
            assert_eq!(e.code(), code, "{e}");
        }
    }

    #[test]
    fn the_reason_has_no_error_number() {
        let e = Error::io("cannot open x", &std::io::Error::from_raw_os_error(2));
        assert_eq!(e.to_string(), "cannot open x: No such file or directory");
    }
}
