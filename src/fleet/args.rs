//! The command line of wherryctl, parsed by its table of verbs, and the help from the same table.

use super::verbs::{GLOBAL, VERBS, Verb};
use crate::cli::args::{nearest, text};
use crate::cli::help::option_lines;
use crate::cli::print;
use crate::cli::verbs::{Opt, Takes};
use crate::exit::{Code, Error};
use crate::manifest::{Id, Name, units};
use lexopt::{Arg, Parser};
use std::ffi::OsString;
use std::time::Duration;

/// A command line that fits its verb.
pub struct Call {
    /// What to do.
    pub verb: &'static Verb,
    options: Vec<(&'static str, Option<OsString>)>,
    /// What is no option.
    pub operands: Vec<OsString>,
}

/// What the command line asks for.
pub enum Asked {
    /// Run a verb.
    Call(Call),
    /// Print this.
    Help(String),
}

/// The exit codes, for the help.
const CODES: &[(Code, &str)] = &[
    (Code::Ok, "done"),
    (Code::Failed, "a device rejected it or failed; of diff: something differs"),
    (Code::Usage, "wrong command line"),
    (Code::BadData, "wrong content in a document or in the settings"),
    (Code::NoInput, "a file is missing or cannot be read"),
    (Code::Unavailable, "the broker cannot be reached, or a device did not answer or end in time"),
    (Code::Internal, "a fault of wherryctl itself"),
    (Code::CannotCreate, "a file cannot be made"),
    (Code::Io, "reading or writing failed"),
    (Code::NoPermission, "not allowed, by the system or by the broker"),
];

/// Parses all arguments behind the program's name.
///
/// # Errors
/// What is wrong with them.
pub fn parse(args: Vec<OsString>) -> Result<Asked, Error> {
    let mut parser = Parser::from_args(args);
    let (mut verb, mut options, mut operands) = (None, Vec::new(), Vec::new());
    while let Some(arg) = parser.next().map_err(|e| Error::usage(e.to_string()))? {
        match arg {
            Arg::Value(word) if verb.is_none() && word == "help" => return help(parser),
            Arg::Value(word) if verb.is_none() => verb = Some(find(&text(word)?)?),
            Arg::Value(word) => operands.push(word),
            arg => {
                let opt = known(&arg, verb)?;
                let value = match opt.takes {
                    Takes::Nothing => None,
                    _ => Some(parser.value().map_err(|e| Error::usage(e.to_string()))?),
                };
                options.push((opt.long, value));
            }
        }
    }
    let given = |long| options.iter().any(|(name, _)| *name == long);
    match verb {
        None if given("version") => Ok(Asked::Help(format!("wherryctl {}\n", env!("CARGO_PKG_VERSION")))),
        None if given("help") => Ok(Asked::Help(all())),
        Some(verb) if given("help") => Ok(Asked::Help(one(verb))),
        None => Err(Error::usage("no command given").hint("`wherryctl help` lists the commands")),
        Some(verb) => counted(Call { verb, options, operands }).map(Asked::Call),
    }
}

fn help(mut parser: Parser) -> Result<Asked, Error> {
    match parser.next().map_err(|e| Error::usage(e.to_string()))? {
        Some(Arg::Value(word)) => Ok(Asked::Help(one(find(&text(word)?)?))),
        _ => Ok(Asked::Help(all())),
    }
}

fn find(word: &str) -> Result<&'static Verb, Error> {
    let names: Vec<&str> = VERBS.iter().map(|v| v.name).collect();
    VERBS.iter().find(|v| v.name == word).ok_or_else(|| {
        let hint = match nearest(word, &names) {
            Some(name) => format!("did you mean `wherryctl {name}`?"),
            None => "`wherryctl help` lists the commands".into(),
        };
        Error::usage(format!("no such command: {word}")).hint(hint)
    })
}

fn known(arg: &Arg<'_>, verb: Option<&'static Verb>) -> Result<&'static Opt, Error> {
    let all = || verb.map_or(&[][..], |v| v.options).iter().chain(GLOBAL);
    let (found, written) = match arg {
        Arg::Short(c) => (all().find(|o| o.short == Some(*c)), format!("-{c}")),
        Arg::Long(name) => (all().find(|o| o.long == *name), format!("--{name}")),
        Arg::Value(word) => (None, word.to_string_lossy().into_owned()),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = all().map(|o| o.long).collect();
        let hint = match (nearest(written.trim_start_matches('-'), &names), verb) {
            (Some(name), _) => format!("did you mean --{name}?"),
            (None, Some(verb)) => format!("`wherryctl help {}` lists the options", verb.name),
            (None, None) => "options of a command stand behind it: `wherryctl COMMAND --option`".into(),
        };
        Error::usage(format!("no such option: {written}")).hint(hint)
    })
}

fn counted(call: Call) -> Result<Call, Error> {
    let Verb { name, synopsis, min, max, .. } = call.verb;
    let usage = |message: String| Err(Error::usage(message).hint(format!("usage: wherryctl {name} {synopsis}")));
    if call.operands.len() < *min {
        return usage(format!("{name} needs {} more", if min - call.operands.len() == 1 { "one operand" } else { "operands" }));
    }
    match call.operands.get(*max) {
        Some(word) => usage(format!("{name} does not take {}", word.to_string_lossy())),
        None => Ok(call),
    }
}

impl Call {
    /// Whether the option was given.
    pub fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == long)
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

    /// A duration: a number of seconds, or one with its unit.
    pub fn duration(&self, long: &str) -> Result<Option<Duration>, Error> {
        self.parsed(long, |word| {
            let millis = units::whole(word).map(|s| s.saturating_mul(1000)).or_else(|_| units::millis(word));
            millis.map(Duration::from_millis).map_err(|_| "must be seconds, or a number with ms, s, m or h".into())
        })
    }

    /// Operand `i` as text.
    pub fn operand(&self, i: usize) -> Result<String, Error> {
        let word = self.operands.get(i).cloned().ok_or_else(|| Error::new(Code::Internal, format!("operand {i} was not checked")))?;
        text(word)
    }

    /// Operand `i` as the name of an app.
    pub fn app(&self, i: usize) -> Result<Name, Error> {
        let word = self.operand(i)?;
        word.parse().map_err(|e| Error::usage(format!("{word} is not the name of an app: it {e}")))
    }
}

/// A word as the id of a device or group; `what` names it in the error.
pub fn id(what: &str, word: &str) -> Result<Id, Error> {
    word.parse().map_err(|e| Error::usage(format!("{word} is not the id of a {what}: it {e}")))
}

// ---- help ----

fn all() -> String {
    let mut out =
        String::from("wherryctl: a fleet of Wherry devices, by way of its MQTT broker.\n\nusage: wherryctl [OPTION...] COMMAND ...\n\n");
    for v in VERBS {
        out.push_str(&format!("  {:<10}{}\n", v.name, v.line));
    }
    out.push_str(&format!("\noptions of every command:\n{}", option_lines(GLOBAL)));
    out.push_str("\nsettings (TOML; all of them, here with made-up values):\n");
    super::settings::EXAMPLE.lines().for_each(|line| out.push_str(&format!("  {line}\n")));
    out.push_str("\nenvironment: WHERRYCTL_ and the setting's name in capitals, as in WHERRYCTL_PASSWORD; it counts more than the file\n");
    out.push_str("\nexit codes:\n");
    CODES.iter().for_each(|(code, text)| out.push_str(&format!("  {:<4}{text}\n", *code as u8)));
    out.push_str("\n`wherryctl help COMMAND` shows its options and examples\n");
    out
}

fn one(v: &Verb) -> String {
    let usage = format!("wherryctl {} {}", v.name, v.synopsis);
    let mut out = format!("wherryctl {}: {}\n\nusage: {}\n\n{}\n", v.name, v.line, usage.trim_end(), v.text);
    if !v.options.is_empty() {
        out.push_str(&format!("\noptions:\n{}", option_lines(v.options)));
    }
    out.push_str("\noptions of every command: -h, --json, --config FILE, --broker ADDRESS, --root TOPIC\n\nexamples:\n");
    v.examples.iter().for_each(|(command, text)| out.push_str(&format!("  {command}\n      {text}\n")));
    out
}

/// Prints help.
///
/// # Errors
/// Standard output cannot be written.
pub fn show(text: &str) -> Result<u8, Error> {
    print::bytes(text.as_bytes())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Result<Call, String> {
        match parse(line.split_whitespace().map(OsString::from).collect()) {
            Ok(Asked::Call(call)) => Ok(call),
            Ok(Asked::Help(text)) => Err(text),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn options_stand_before_and_behind_operands() {
        let c = call("--json apply --device a web.yaml --device=b --timeout 90s").unwrap();
        assert_eq!((c.verb.name, c.json(), c.values("device").unwrap()), ("apply", true, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((c.operand(0).unwrap().as_str(), c.duration("timeout").unwrap()), ("web.yaml", Some(Duration::from_secs(90))));
        assert_eq!(call("apply x --timeout 5").unwrap().duration("timeout").unwrap(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn wrong_lines_are_refused_with_their_reason() {
        for (line, reason) in [
            ("", "no command given"),
            ("aply", "no such command: aply"),
            ("apply", "apply needs one operand more"),
            ("rm a b", "rm does not take b"),
            ("apply x --devise y", "no such option: --devise"),
            ("--device y apply x", "no such option: --device"),
            ("apply x --timeout", "missing argument for option '--timeout'"),
            ("status --json=yes", "unexpected argument for option '--json': \"yes\""),
        ] {
            assert_eq!(call(line).map(|_| ()).unwrap_err(), reason, "{line}");
        }
        let refused = call("apply x --timeout soon").unwrap().duration("timeout").unwrap_err();
        assert_eq!(refused.to_string(), "--timeout soon: must be seconds, or a number with ms, s, m or h");
    }

    #[test]
    fn each_verb_has_its_help() {
        for verb in VERBS {
            let text = call(&format!("help {}", verb.name)).map(|_| ()).unwrap_err();
            assert!(!verb.examples.is_empty(), "{}", verb.name);
            let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 130).collect();
            assert!(long.is_empty(), "{long:?}");
        }
        let text = call("help").map(|_| ()).unwrap_err();
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    }
}
