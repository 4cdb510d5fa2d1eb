//! Commands to the device, `in/cmd/<id>`.

use crate::manifest::blame::Found;
use crate::manifest::checked::target;
use crate::manifest::document::{Document, version};
use crate::manifest::forms::{ANY, ENV_NAME, ID, NAME, SESSION, USER};
use crate::manifest::json::{Member, Node};
use crate::manifest::out::Out;
use crate::manifest::raw::{MAX_WORDS, TARGET_FIELDS};
use crate::manifest::render;
use crate::manifest::shape::{Field, Kind, View};
use crate::manifest::{Faults, Id, MAX_PAYLOAD, Name, SCHEMA, Target};
use crate::protocol::Reason;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a program may take that is run by a command, unless the command says otherwise.
pub const EXEC_TIME: Duration = Duration::from_secs(30);
/// Longest time for such a program, and for following output, in milliseconds.
pub const MAX_TIME_MS: u64 = 10 * 60 * 1000;
/// Most lines that can be asked for.
const MAX_TAIL: u64 = 1_000_000;

/// A checked command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its own id, that of its topic; absent only where nothing is signed. A signature does not cover the topic.
    pub id: Option<Id>,
    /// The session it is meant for: the device's boot and conn.
    pub session: (u64, u64),
    /// What to do.
    pub verb: Verb,
    /// The app.
    pub app: Option<Name>,
    /// One container of it.
    pub container: Option<Name>,
    /// Whom it is for; absent only where nothing is signed.
    pub target: Option<Target>,
    /// More of `logs`, `exec` and `cancel`.
    pub stream: StreamArgs,
}

/// What only the commands know that begin or end a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamArgs {
    /// `logs`: at most so many of the last lines of each container; all if absent.
    pub tail: Option<u32>,
    /// `logs`: go on with what comes, for so long.
    pub follow: Option<Duration>,
    /// `exec`: program and arguments.
    pub args: Vec<String>,
    /// `exec`: on top of the container's environment.
    pub env: Vec<(String, String)>,
    /// `exec`: `user[:group]`; the container's if absent.
    pub user: Option<String>,
    /// `exec`: when it is ended; [`EXEC_TIME`] if absent.
    pub timeout: Option<Duration>,
    /// `cancel`: the id of the stream.
    pub of: Option<Id>,
}

impl StreamArgs {
    fn members(&self) -> impl Iterator<Item = (&'static str, Out)> {
        let time = |t: Duration| Out::Text(format!("{}ms", t.as_millis()));
        let args = self.args.iter().map(Out::text).collect::<Vec<_>>();
        let env = self.env.iter().map(|(name, value)| (name.clone(), Out::text(value))).collect::<Vec<_>>();
        let members = [
            ("tail", self.tail.map(|n| Out::Whole(n.into()))),
            ("follow", self.follow.map(time)),
            ("args", Some(args).filter(|a| !a.is_empty()).map(Out::List)),
            ("env", Some(env).filter(|e| !e.is_empty()).map(Out::Object)),
            ("user", self.user.as_ref().map(Out::text)),
            ("timeout", self.timeout.map(time)),
            ("of", self.of.as_ref().map(Out::text)),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Command {
    /// The command as it is published, for whoever sends one.
    pub fn encode(&self) -> Vec<u8> {
        let verb = VERBS.iter().find(|(_, verb)| *verb == self.verb).map_or("", |(word, _)| word);
        let schema = ("wherry", Out::Whole(SCHEMA));
        let id = self.id.as_ref().map(|id| ("id", Out::text(id)));
        let head = [("session", Out::Text(format!("{}.{}", self.session.0, self.session.1))), ("do", Out::text(verb))];
        let target = self.target.as_ref().map(|t| ("target", render::target(t)));
        let whom = [("app", &self.app), ("container", &self.container)];
        let whom = whom.into_iter().filter_map(|(key, name)| Some((key, Out::text(name.as_ref()?))));
        super::encode(&Out::Object(
            (std::iter::once(schema).chain(id).chain(head).chain(whom).chain(self.stream.members()).chain(target))
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        ))
    }
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the wire contract")]
pub enum Verb {
    Start,
    Stop,
    Restart,
    Retry,
    Logs,
    Exec,
    Stats,
    Diag,
    Prune,
    Watch,
    Cancel,
}

const VERBS: [(&str, Verb); 11] = [
    ("start", Verb::Start),
    ("stop", Verb::Stop),
    ("restart", Verb::Restart),
    ("retry", Verb::Retry),
    ("logs", Verb::Logs),
    ("exec", Verb::Exec),
    ("stats", Verb::Stats),
    ("diag", Verb::Diag),
    ("prune", Verb::Prune),
    ("watch", Verb::Watch),
    ("cancel", Verb::Cancel),
];

/// Which verb each field of a stream is for.
const OF_VERB: [(&str, Verb); 7] = [
    ("tail", Verb::Logs),
    ("follow", Verb::Logs),
    ("args", Verb::Exec),
    ("env", Verb::Exec),
    ("user", Verb::Exec),
    ("timeout", Verb::Exec),
    ("of", Verb::Cancel),
];

static WORDS: [&str; VERBS.len()] = {
    let mut words = [""; VERBS.len()];
    let mut i = 0;
    while i < VERBS.len() {
        words[i] = VERBS[i].0;
        i += 1;
    }
    words
};

static COMMAND: [Field; 14] = [
    Field::required("wherry", Kind::Whole(SCHEMA, SCHEMA), "Version of the schema: 1."),
    Field::optional("id", Kind::Text(&ID), "The id of its topic. May be absent where nothing is signed."),
    Field::required("session", Kind::Text(&SESSION), "Boot and conn of the device's presence, like \"12.3\"."),
    Field::required("do", Kind::Word(&WORDS), "What to do."),
    Field::optional("app", Kind::Text(&NAME), "The app."),
    Field::optional("container", Kind::Text(&NAME), "One container of it."),
    Field::optional("tail", Kind::Whole(0, MAX_TAIL), "Of logs: so many of the last lines of each container; all if absent."),
    Field::optional("follow", Kind::Time(1000, MAX_TIME_MS), "Of logs: go on with what comes, for so long."),
    Field::optional("args", Kind::List(&Kind::Text(&ANY), 1, MAX_WORDS), "Of exec: program and arguments."),
    Field::optional("env", Kind::Map(&ENV_NAME, &Kind::Text(&ANY), 0, MAX_WORDS), "Of exec: environment, on top of the container's."),
    Field::optional("user", Kind::Text(&USER), "Of exec: user or user:group, names or numbers; the container's if absent."),
    Field::optional("timeout", Kind::Time(1000, MAX_TIME_MS), "Of exec: it is ended after so long; 30 seconds if absent."),
    Field::optional("of", Kind::Text(&ID), "Of cancel: the id of the command whose stream is to end."),
    Field::optional("target", Kind::Object(&TARGET_FIELDS), "Whom it is for. May be absent where nothing is signed."),
];

static DOCUMENT: Document<Command> = Document { max: MAX_PAYLOAD, fields: &COMMAND, first: version, convert: command, secret: None };

/// Reads a command.
///
/// # Errors
/// Every fault of the document. Whether its session is the running one is the caller's question.
pub fn parse_command(bytes: &[u8]) -> Result<Command, Faults> {
    DOCUMENT.parse(bytes)
}

fn command<'a>(view: View<'a>, _: &'a Node<'a>, found: &mut Vec<Found>) -> Option<Command> {
    let (boot, conn) = view.text("session")?.split_once('.')?;
    let word = view.text("do")?;
    let verb = VERBS.iter().find(|(name, _)| *name == word)?.1;
    let (app, container) = (view.parse("app"), view.parse("container"));
    let needs_app = matches!(verb, Verb::Start | Verb::Stop | Verb::Restart | Verb::Retry | Verb::Logs | Verb::Exec);
    let lacking = app.is_none() && (needs_app || container.is_some());
    if let Some(node) = view.node("do").filter(|_| lacking && view.node("app").is_none()) {
        found.push(Found::at(node, Reason::BadValue, "the field `app` is missing beside it"));
    }
    check_stream(view, verb, word, found);
    let target = match view.node("target") {
        Some(node) => Some(target(view.object("target"), node, found)?),
        None => None,
    };
    let stream = stream(view);
    Some(Command { id: view.parse("id"), session: (boot.parse().ok()?, conn.parse().ok()?), verb, app, container, target, stream })
}

/// Each field of a stream stands beside its verb, and what a verb cannot do without is there.
fn check_stream<'a>(view: View<'a>, verb: Verb, word: &str, found: &mut Vec<Found>) {
    for (name, _) in OF_VERB.iter().filter(|(_, of)| *of != verb) {
        if let Some(node) = view.node(name) {
            found.push(Found::at(node, Reason::BadValue, format!("`{word}` does not take it")));
        }
    }
    let needed = match verb {
        Verb::Exec => "args",
        Verb::Cancel => "of",
        _ => return,
    };
    if let Some(node) = view.node("do").filter(|_| view.node(needed).is_none()) {
        found.push(Found::at(node, Reason::BadValue, format!("the field `{needed}` is missing beside it")));
    }
}

fn stream(view: View<'_>) -> StreamArgs {
    let text = |m: &Member<'_>| Some((m.key.to_string(), m.value.text()?.to_owned()));
    StreamArgs {
        tail: view.parse("tail"),
        follow: view.time("follow"),
        args: view.texts("args").unwrap_or_default(),
        env: view.entries("env").iter().filter_map(text).collect(),
        user: view.text("user").map(str::to_owned),
        timeout: view.time("timeout"),
        of: view.parse("of"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Verb, parse_command};
    use crate::manifest::Id;
    use crate::protocol::Reason;
    use std::time::Duration;

    #[test]
    fn a_command_says_session_verb_and_whom() {
        let text = br#"{"wherry":1,"session":"12.3","do":"restart","app":"web","container":"nginx","x-by":"me"}"#;
        let c = parse_command(text).unwrap();
        assert_eq!((c.session, c.verb), ((12, 3), Verb::Restart));
        assert_eq!((c.app.unwrap().as_str(), c.container.unwrap().as_str()), ("web", "nginx"));
        let text = br#"{"wherry":1,"id":"7f3","session":"0.0","do":"diag","target":{"fleet":"wherry","device":"r1"}}"#;
        let c = parse_command(text).unwrap();
        assert_eq!((c.id.as_ref().map(Id::as_str), c.verb, c.target.is_some()), (Some("7f3"), Verb::Diag, true));
        assert_eq!(c.encode(), text);
    }

    #[test]
    fn a_stream_has_fields_of_its_own_and_is_written_as_it_is_read() {
        for text in [
            r#"{"wherry":1,"id":"a","session":"1.2","do":"logs","app":"web","tail":5,"follow":"30000ms"}"#,
            r#"{"wherry":1,"session":"1.2","do":"exec","app":"web","container":"c","args":["sh","-c",""],"env":{"A":"b"},"user":"0:0","timeout":"1000ms"}"#,
            r#"{"wherry":1,"session":"1.2","do":"cancel","of":"a"}"#,
        ] {
            let c = parse_command(text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(String::from_utf8(c.encode()).unwrap(), text);
        }
        let c = parse_command(br#"{"wherry":1,"session":"1.2","do":"exec","app":"web","args":["ps"],"timeout":90}"#).unwrap();
        assert_eq!((c.stream.args.len(), c.stream.timeout, c.stream.user), (1, Some(Duration::from_secs(90)), None));
    }

    #[test]
    fn a_command_with_a_fault_is_refused() {
        for (text, path, reason) in [
            (r#"{"wherry":1,"do":"stop","app":"web"}"#, "", Reason::BadValue),
            (r#"{"wherry":1,"id":"7/3","session":"1.2","do":"stop","app":"web"}"#, "id", Reason::BadValue),
            (r#"{"wherry":1,"session":"12","do":"stop","app":"web"}"#, "session", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.99999999999999999999","do":"stop","app":"web"}"#, "session", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"reboot"}"#, "do", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"diag","target":{"fleet":"f"}}"#, "target", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"stop"}"#, "do", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"stats","container":"nginx"}"#, "do", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"stop","app":"Web"}"#, "app", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"stop","app":"web","force":true}"#, "force", Reason::UnknownField),
            (r#"{"wherry":2,"session":"1.2","do":"dance","app":"web"}"#, "wherry", Reason::Unsupported),
            (r#"{"wherry":1,"session":"1.2","do":"exec","app":"web"}"#, "do", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"exec","app":"web","args":[]}"#, "args", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"exec","args":["ps"]}"#, "do", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"exec","app":"web","args":["ps"],"timeout":"11m"}"#, "timeout", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"exec","app":"web","args":["ps"],"timeout":0}"#, "timeout", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"exec","app":"web","args":["ps"],"user":"a b"}"#, "user", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"exec","app":"web","args":["ps"],"terminal":true}"#, "terminal", Reason::UnknownField),
            (r#"{"wherry":1,"session":"1.2","do":"logs","app":"web","follow":true}"#, "follow", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"logs","app":"web","follow":"1h"}"#, "follow", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"logs","app":"web","tail":-1}"#, "tail", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"logs","app":"web","args":["ps"]}"#, "args", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"stop","app":"web","timeout":5}"#, "timeout", Reason::BadValue),
            (r#"{"wherry":1,"session":"1.2","do":"cancel"}"#, "do", Reason::BadValue),
            ("", "", Reason::Malformed),
        ] {
            let faults = parse_command(text.as_bytes()).expect_err(text);
            let found: Vec<_> = faults.0.iter().map(|f| (f.path.as_str(), f.reason)).collect();
            assert_eq!(found, [(path, reason)], "{text}");
        }
    }
}
