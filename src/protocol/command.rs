//! Commands to the device, `in/cmd/<id>`.

use crate::manifest::blame::Found;
use crate::manifest::checked::target;
use crate::manifest::document::{Document, version};
use crate::manifest::forms::{ID, NAME, SESSION};
use crate::manifest::json::Node;
use crate::manifest::out::Out;
use crate::manifest::raw::TARGET_FIELDS;
use crate::manifest::render;
use crate::manifest::shape::{Field, Kind, View};
use crate::manifest::{Faults, Id, MAX_PAYLOAD, Name, SCHEMA, Target};
use crate::protocol::Reason;
use serde::{Deserialize, Serialize};

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
            std::iter::once(schema).chain(id).chain(head).chain(whom).chain(target).map(|(key, value)| (key.to_owned(), value)).collect(),
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
}

const VERBS: [(&str, Verb); 10] = [
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

static COMMAND: [Field; 7] = [
    Field::required("wherry", Kind::Whole(SCHEMA, SCHEMA), "Version of the schema: 1."),
    Field::optional("id", Kind::Text(&ID), "The id of its topic. May be absent where nothing is signed."),
    Field::required("session", Kind::Text(&SESSION), "Boot and conn of the device's presence, like \"12.3\"."),
    Field::required("do", Kind::Word(&WORDS), "What to do."),
    Field::optional("app", Kind::Text(&NAME), "The app."),
    Field::optional("container", Kind::Text(&NAME), "One container of it."),
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
    let target = match view.node("target") {
        Some(node) => Some(target(view.object("target"), node, found)?),
        None => None,
    };
    Some(Command { id: view.parse("id"), session: (boot.parse().ok()?, conn.parse().ok()?), verb, app, container, target })
}

#[cfg(test)]
mod tests {
    use super::{Verb, parse_command};
    use crate::manifest::Id;
    use crate::protocol::Reason;

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
            ("", "", Reason::Malformed),
        ] {
            let faults = parse_command(text.as_bytes()).expect_err(text);
            let found: Vec<_> = faults.0.iter().map(|f| (f.path.as_str(), f.reason)).collect();
            assert_eq!(found, [(path, reason)], "{text}");
        }
    }
}
