//! The command line, parsed by a program's table of verbs: what the help shows is what is accepted.

use super::verbs::{Opt, Program, Takes, Verb};
use crate::exit::{Code, Error};
use crate::manifest::Name;
use lexopt::{Arg, Parser};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

/// A command line that fits its verb.
pub struct Call {
    /// What to do.
    pub verb: &'static Verb,
    /// Options given, by long name, in order.
    options: Options,
    /// What follows the options.
    pub operands: Vec<OsString>,
    /// For `exec` and `run`: what follows the operand, untouched.
    pub rest: Vec<OsString>,
}

/// Options by long name, with their values.
type Options = Vec<(&'static str, Option<OsString>)>;

/// What the command line asks for.
pub enum Asked {
    /// Run a verb.
    Call(Call),
    /// Help on one verb, or on all.
    Help(Option<&'static Verb>, bool),
}

/// Parses all arguments behind the program's name.
///
/// # Errors
/// What is wrong with them.
pub fn parse(program: &'static Program, args: Vec<OsString>) -> Result<Asked, Error> {
    let mut parser = Parser::from_args(args);
    let mut options = Options::new();
    let verb = loop {
        match parser.next().map_err(|e| wrong(&e))? {
            None if has(&options, "help") => return Ok(Asked::Help(None, has(&options, "json"))),
            None if has(&options, "version") => break find(program, "version")?,
            None => return Err(Error::usage("no command given").hint(program.lists)),
            Some(Arg::Value(word)) => break find(program, &text(word)?)?,
            Some(arg) => {
                let opt = known(program, &arg, None)?;
                take(&mut parser, opt, &mut options)?;
            }
        }
    };
    operands(program, parser, verb, options).map_err(|e| verb.failed(e))
}

fn operands(program: &'static Program, mut parser: Parser, verb: &'static Verb, mut options: Options) -> Result<Asked, Error> {
    let (mut operands, mut rest) = (Vec::new(), Vec::new());
    while let Some(arg) = parser.next().map_err(|e| wrong(&e))? {
        if let Arg::Value(word) = arg {
            operands.push(word);
            if verb.rest {
                rest = parser.raw_args().map_err(|e| wrong(&e))?.collect();
                break;
            }
            continue;
        }
        let opt = known(program, &arg, Some(verb))?;
        take(&mut parser, opt, &mut options)?;
    }
    // `--` may set the program off from our own options; the program never sees it.
    if rest.first().is_some_and(|word| word == "--") {
        rest.remove(0);
    }
    let call = Call { verb, options, operands, rest };
    if call.has("help") { Ok(Asked::Help(Some(verb), call.has("json"))) } else { counted(program, call).map(Asked::Call) }
}

fn has(options: &[(&'static str, Option<OsString>)], long: &str) -> bool {
    options.iter().any(|(name, _)| *name == long)
}

/// The verb of this name.
///
/// # Errors
/// There is none; the hint names one that is spelled alike.
pub fn find(program: &'static Program, word: &str) -> Result<&'static Verb, Error> {
    let names: Vec<&str> = program.verbs.iter().map(|v| v.name).collect();
    program.verbs.iter().find(|v| v.name == word).ok_or_else(|| {
        let hint = match nearest(word, &names) {
            Some(name) => format!("did you mean `{} {name}`?", program.name),
            None => program.lists.into(),
        };
        Error::usage(format!("no such command: {word}")).hint(hint)
    })
}

fn known(program: &'static Program, arg: &Arg<'_>, verb: Option<&'static Verb>) -> Result<&'static Opt, Error> {
    let (own, always) = (verb.map_or(&[][..], |v| v.options), program.options);
    let all = || own.iter().chain(always);
    let found = match arg {
        Arg::Short(c) => all().find(|o| o.short == Some(*c)),
        Arg::Long(name) => all().find(|o| o.long == *name),
        Arg::Value(_) => None,
    };
    found.ok_or_else(|| {
        let written = match arg {
            Arg::Short(c) => format!("-{c}"),
            Arg::Long(name) => format!("--{name}"),
            Arg::Value(word) => word.to_string_lossy().into_owned(),
        };
        let names: Vec<&str> = all().map(|o| o.long).collect();
        let hint = match (nearest(written.trim_start_matches('-'), &names), verb) {
            (Some(name), _) if written.starts_with("--") => format!("did you mean --{name}?"),
            (_, Some(verb)) => format!("`{} help {}` lists the options", program.name, verb.name),
            (_, None) => program.before.into(),
        };
        Error::usage(format!("no such option: {written}")).hint(hint)
    })
}

fn take(parser: &mut Parser, opt: &'static Opt, into: &mut Options) -> Result<(), Error> {
    let value = match opt.takes {
        Takes::Nothing => None,
        Takes::Value(_) => Some(parser.value().map_err(|e| wrong(&e))?),
        Takes::Number(_) => parser.optional_value().or_else(|| parser.try_raw_args()?.next_if(is_number)),
    };
    into.push((opt.long, value));
    Ok(())
}

fn is_number(word: &OsStr) -> bool {
    word.to_str().is_some_and(|s| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit()))
}

fn counted(program: &Program, call: Call) -> Result<Call, Error> {
    let Verb { name, synopsis, .. } = call.verb;
    let (min, max) = (usize::from(call.verb.min), usize::from(call.verb.max));
    let given = call.operands.len();
    let usage = |message: String| Err(Error::usage(message).hint(format!("usage: {} {name} {synopsis}", program.name)));
    if given < min {
        return usage(format!("{name} needs {} more", if min - given == 1 { "one operand" } else { "operands" }));
    }
    match call.operands.get(max) {
        Some(word) => usage(format!("{name} does not take {}", word.to_string_lossy())),
        None => Ok(call),
    }
}

fn wrong(e: &lexopt::Error) -> Error {
    Error::usage(e.to_string())
}

/// A word that must be text.
pub fn text(word: OsString) -> Result<String, Error> {
    word.into_string().map_err(|word| Error::usage(format!("argument is not UTF-8: {}", word.to_string_lossy())))
}

impl Call {
    /// An error with the exit code that it has there.
    pub fn failed(&self, e: Error) -> Error {
        // What only prints ends as no program.
        if self.has("print-manifest") { e } else { self.verb.failed(e) }
    }

    /// Whether the option was given.
    pub fn has(&self, long: &str) -> bool {
        has(&self.options, long)
    }

    /// Whether answers are wanted as JSON.
    pub fn json(&self) -> bool {
        self.has("json")
    }

    /// All values of the option, in order.
    pub fn values(&self, long: &str) -> Result<Vec<String>, Error> {
        self.options.iter().filter(|(name, _)| *name == long).filter_map(|(_, value)| value.clone()).map(text).collect()
    }

    /// The value given last.
    pub fn value(&self, long: &str) -> Result<Option<String>, Error> {
        Ok(self.values(long)?.pop())
    }

    /// The value given last, parsed; the error names the option.
    pub fn parsed<T>(&self, long: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
        let Some(word) = self.value(long)? else { return Ok(None) };
        parse(&word).map(Some).map_err(|e| Error::usage(format!("--{long} {word}: {e}")))
    }

    /// Operand `i` as text.
    pub fn operand(&self, i: usize) -> Result<String, Error> {
        let word = self.operands.get(i).cloned().ok_or_else(|| Error::new(Code::Internal, format!("operand {i} was not checked")))?;
        text(word)
    }

    /// The program and its arguments behind the operand.
    pub fn argv(&self) -> Result<Vec<String>, Error> {
        self.rest.iter().cloned().map(text).collect()
    }

    /// Keeper's socket: `--socket`, else the environment, else the usual place.
    pub fn socket(&self) -> PathBuf {
        let given = self.options.iter().rev().find(|(name, _)| *name == "socket").and_then(|(_, value)| value.clone());
        given.or_else(|| std::env::var_os(super::client::SOCKET_VARIABLE)).unwrap_or_else(|| super::client::SOCKET.into()).into()
    }
}

/// `NAME` as a checked name.
pub fn name(word: &str) -> Result<Name, Error> {
    Name::from_str(word).map_err(|e| Error::usage(format!("{word} is not a name: it {e}")))
}

/// `APP` or `APP/CONTAINER`.
pub fn scope(word: &str) -> Result<crate::ipc::Scope, Error> {
    let (app, container) = match word.split_once('/') {
        Some((app, container)) => (app, Some(name(container)?)),
        None => (word, None),
    };
    Ok(crate::ipc::Scope { app: name(app)?, container })
}

/// The candidate that a typing slip is most likely to have meant: at most two letters away, or one begun with it.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 32;
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let slips = |c: &str| match () {
        () if word.len() >= 2 && c.starts_with(word) => 0,
        () if is_swapped(word, c) => 1,
        () => distance(word, c),
    };
    let limit = if word.len() <= 3 { 1 } else { 2 };
    // Of two equally near ones, that of the same length: letters are swapped more often than forgotten.
    let ranked = candidates.iter().map(|c| (slips(c), c.len().abs_diff(word.len()), *c));
    ranked.filter(|(slips, ..)| *slips <= limit).min().map(|(.., c)| c)
}

/// True when two neighbours changed places.
fn is_swapped(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let first = a.iter().zip(b).position(|(x, y)| x != y);
    first.is_some_and(|i| a.len() == b.len() && i + 1 < a.len() && a[i] == b[i + 1] && a[i + 1] == b[i] && a[i + 2..] == b[i + 2..])
}

/// Letters to insert, delete, or replace to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let best = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::super::verbs::{VERBS, WHERRY};
    use super::*;

    fn call(line: &str) -> Result<Call, String> {
        match parse(&WHERRY, line.split_whitespace().map(OsString::from).collect()) {
            Ok(Asked::Call(call)) => Ok(call),
            Ok(Asked::Help(..)) => Err("help".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn options_stand_anywhere_before_the_program() {
        let c = call("--json exec -it -e A=1 --env=B=2 web ls -l --json").unwrap();
        assert!(c.json() && c.has("tty") && c.has("interactive"));
        assert_eq!(c.values("env").unwrap(), ["A=1", "B=2"]);
        assert_eq!((c.operand(0).unwrap(), c.argv().unwrap()), ("web".into(), vec!["ls".into(), "-l".into(), "--json".into()]));
    }

    #[test]
    fn a_double_dash_before_the_program_is_ours() {
        assert_eq!(call("exec web -- ls --").unwrap().argv().unwrap(), ["ls", "--"]);
    }

    #[test]
    fn an_optional_number_may_stand_apart() {
        for (line, value) in [("stats --watch", None), ("stats --watch 5", Some("5")), ("stats --watch=5 --json", Some("5"))] {
            let c = call(line).unwrap();
            assert!(c.has("watch"), "{line}");
            assert_eq!(c.value("watch").unwrap().as_deref(), value, "{line}");
        }
    }

    #[test]
    fn slips_are_recognised_and_nonsense_is_not() {
        let names: Vec<&str> = VERBS.iter().map(|v| v.name).collect();
        for (word, meant) in
            [("aply", Some("apply")), ("stauts", Some("status")), ("log", Some("logs")), ("restrat", Some("restart")), ("frobnicate", None)]
        {
            assert_eq!(nearest(word, &names), meant, "{word}");
        }
    }

    #[test]
    fn wrong_lines_are_refused_with_their_reason() {
        for (line, reason) in [
            ("", "no command given"),
            ("frob", "no such command: frob"),
            ("ls --al", "no such option: --al"),
            ("apply", "apply needs one operand more"),
            ("apply a b", "apply does not take b"),
            ("exec -u", "missing argument for option '-u'"),
            ("ls --json=yes", "unexpected argument for option '--json': \"yes\""),
        ] {
            assert_eq!(call(line).map(|_| ()).unwrap_err(), reason, "{line}");
        }
    }

    #[test]
    fn a_scope_is_an_app_or_one_container_of_it() {
        assert_eq!(scope("web").unwrap().container, None);
        assert_eq!(scope("web/nginx").unwrap().container.unwrap().as_str(), "nginx");
        for word in ["", "Web", "web/", "web/a/b", "/nginx", "-x"] {
            assert!(scope(word).is_err(), "{word}");
        }
    }
}
