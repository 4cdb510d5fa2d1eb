//! What the operator's command lines have beside those of the program on devices: durations, apps, ids.

pub use crate::cli::args::Call;
use crate::exit::Error;
use crate::manifest::{Id, Name, units};
use std::time::Duration;

impl Call {
    /// A duration: a number of seconds, or one with its unit.
    pub fn duration(&self, long: &str) -> Result<Option<Duration>, Error> {
        self.parsed(long, |word| {
            let millis = units::whole(word).map(|s| s.saturating_mul(1000)).or_else(|_| units::millis(word));
            millis.map(Duration::from_millis).map_err(|_| "must be seconds, or a number with ms, s, m or h".into())
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Asked, parse};
    use crate::fleet::verbs::WHERRYCTL;
    use std::ffi::OsString;

    fn call(line: &str) -> Result<Call, String> {
        match parse(&WHERRYCTL, line.split_whitespace().map(OsString::from).collect()) {
            Ok(Asked::Call(call)) => Ok(call),
            Ok(Asked::Help(..)) => Err("help".into()),
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
}
