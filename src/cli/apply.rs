//! `apply` and `rm`: send a document or a name, then show the steps.

use super::args::{Call, name};
use super::client::{Client, code, of_program, unexpected};
use super::document::{self, Kind};
use super::print;
use crate::exit::{Code, Error, visible};
use crate::ipc::{Ack, Reply, Request};
use crate::protocol::State;
use serde_json::{Value, json};

/// `wherry apply [--no-wait] FILE|-`.
pub fn apply(call: &Call) -> Result<u8, Error> {
    let file = &call.operands[0];
    let what = format!("cannot apply {}", document::shown(file));
    let payload = document::read("apply", file)?;
    check(&what, &payload)?;
    let keeper = Client::request(&call.socket(), &Request::Apply { payload })?;
    let mut steps = Steps::new(call.json());
    steps.follow(&keeper, &what, call.has("no-wait"))
}

/// Refuses here what keeper would refuse, so that a fault costs no round trip.
pub fn check(what: &str, payload: &[u8]) -> Result<(), Error> {
    let (kind, faults) = document::examine(payload);
    let elsewhere = match kind {
        Kind::Manifest => None,
        Kind::Settings => Some(("these are settings", "keeper reads settings at its start, from /etc/wherry/settings.json")),
        Kind::Envelope => Some(("this is a signed envelope", "it counts over MQTT; here, give the manifest that is in it")),
        Kind::Keyset => Some(("this is a keyset", "it counts over MQTT, signed")),
        Kind::Key => Some(("this is a public key", "keeper reads keys at its start, from /etc/wherry/trust")),
    };
    if let Some((this, hint)) = elsewhere {
        return Err(Error::new(Code::BadData, format!("{what}: {this}, not a manifest")).hint(hint));
    }
    let Some(first) = faults.0.first().filter(|_| faults.is_refusal()) else { return Ok(()) };
    let more = if faults.0.len() > 1 { format!(", and {} more", faults.0.len() - 1) } else { String::new() };
    Err(Error::new(Code::BadData, format!("{what}: {} ({}){more}", first.sentence(), first.reason))
        .hint("`wherry validate` shows every fault with its place"))
}

/// `wherry rm [--volumes] APP`.
pub fn remove(call: &Call) -> Result<u8, Error> {
    let word = call.operand(0)?;
    let request = Request::Remove { app: name(&word)?, volumes: call.has("volumes") };
    let keeper = Client::request(&call.socket(), &request)?;
    Steps::new(call.json()).follow(&keeper, &format!("cannot remove {word}"), false)
}

/// Shows the steps of one app.
pub struct Steps {
    json: bool,
    /// Standard output is a terminal: the line is written over.
    rewrite: bool,
    /// Nobody reads any more. The outcome still counts.
    deaf: bool,
    last: Option<State>,
    /// A line was begun and not ended.
    open: bool,
}

impl Steps {
    /// Nothing shown yet.
    pub fn new(json: bool) -> Self {
        Self { json, rewrite: !json && print::on_terminal(), deaf: false, last: None, open: false }
    }

    /// Shows steps until the request is done. `what` begins the error when the end is not the wanted one.
    pub fn follow(&mut self, keeper: &Client, what: &str, no_wait: bool) -> Result<u8, Error> {
        let mut end = None;
        loop {
            match keeper.next().inspect_err(|_| self.end_line())? {
                Reply::Ack(ack) => {
                    self.show(&ack)?;
                    let accepted = !matches!(ack.state, State::Received | State::Rejected);
                    let terminal = ack.state.is_terminal();
                    if terminal {
                        end = Some(ack);
                    }
                    if no_wait && accepted && !terminal {
                        self.end_line();
                        return Ok(0);
                    }
                }
                Reply::Done => break,
                _ => return Err(unexpected("apply")),
            }
        }
        self.end_line();
        end.map_or(Ok(0), |ack| verdict(what, &ack))
    }

    /// Shows one step.
    pub fn show(&mut self, ack: &Ack) -> Result<(), Error> {
        // The last word on a failure is the error itself.
        let failure = matches!(ack.state, State::Failed | State::Rejected);
        let news = self.last.replace(ack.state) != Some(ack.state) || ack.message().is_some();
        let text = match () {
            () if self.json => format!("{}\n", step(ack)),
            () if failure => return Ok(()),
            () if self.rewrite => format!("\r\x1b[K{}", sentence(ack)),
            () if news => format!("{}\n", sentence(ack)),
            () => return Ok(()),
        };
        self.open = self.rewrite;
        self.write(&text)
    }

    /// Ends the line that was being written over.
    pub fn end_line(&mut self) {
        if std::mem::take(&mut self.open) {
            // Only a line end is lost when this fails.
            let _ = self.write("\n");
        }
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        if self.deaf {
            return Ok(());
        }
        match print::bytes(text.as_bytes()) {
            Err(e) if e.is_closed() => self.deaf = true,
            other => other?,
        }
        Ok(())
    }
}

/// The exit code, or the error, that a terminal state stands for.
pub fn verdict(what: &str, ack: &Ack) -> Result<u8, Error> {
    let reason = ack.reason().map_or_else(String::new, |r| format!(" ({r})"));
    let message = ack.message().map_or_else(String::new, |m| format!(": {m}"));
    let more = if ack.refusals.len() > 1 { format!(", and {} more", ack.refusals.len() - 1) } else { String::new() };
    match ack.state {
        State::Failed | State::Rejected => {
            let e = Error::new(ack.reason().map_or(Code::Failed, code), format!("{what}: {}{reason}{message}{more}", ack.state));
            let e = e.meaning(ack.reason().map_or(Code::NoProgram, |reason| of_program(reason, ack.message().unwrap_or_default())));
            Err(if ack.rolled_back_to.is_some() { e.hint("what ran before runs still") } else { e })
        }
        State::Superseded => Err(Error::new(Code::Failed, format!("{what}: superseded by a newer one"))),
        _ => Ok(0),
    }
}

fn sentence(ack: &Ack) -> String {
    let mut out = format!("{}: {}", ack.app, ack.state);
    if let Some(p) = ack.progress {
        out.push_str(&format!(" {}", print::size(p.bytes)));
        if let Some(total) = p.total {
            out.push_str(&format!(" of {}", print::size(total)));
        }
    }
    if let Some(message) = ack.message() {
        out.push_str(&format!(": {}", visible(message)));
    }
    out
}

fn step(ack: &Ack) -> Value {
    json!({
        "app": ack.app, "seq": ack.seq, "sha256": ack.sha256.hex(), "attempt": ack.attempt, "state": ack.state,
        "refusals": ack.refusals.iter().map(|r| json!({"reason": r.reason, "path": r.path, "message": r.message})).collect::<Vec<_>>(),
        "rolled_back_to": ack.rolled_back_to.as_ref().map(|(seq, sha256)| json!({"seq": seq, "sha256": sha256.hex()})),
        "bytes": ack.progress.map(|p| p.bytes), "total": ack.progress.and_then(|p| p.total),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;
    use crate::ipc::{Download, Failure};
    use crate::protocol::Reason;

    fn ack(state: State, reason: Option<Reason>, message: &str) -> Ack {
        let refusals = reason.map(|reason| Failure { reason, message: message.into() }.into()).into_iter().collect();
        let progress = (state == State::Fetching).then_some(Download { bytes: 4 << 20, total: Some(12 << 20) });
        let (app, sha256) = ("web".parse().unwrap(), Digest::of(b""));
        Ack { app, seq: None, sha256, attempt: 1, state, refusals, rolled_back_to: None, progress }
    }

    #[test]
    fn progress_is_told_in_units() {
        assert_eq!(sentence(&ack(State::Fetching, None, "")), "web: fetching 4.0M of 12M");
    }

    #[test]
    fn a_refusal_names_its_reason_and_has_its_exit_code() {
        let e = verdict("cannot apply web.json", &ack(State::Rejected, Some(Reason::BadValue), "seq: is 0")).unwrap_err();
        assert_eq!((e.to_string().as_str(), e.code()), ("cannot apply web.json: rejected (bad_value): seq: is 0", Code::BadData));
        let e = verdict("cannot apply web.json", &ack(State::Failed, Some(Reason::NoSpace), "4M needed")).unwrap_err();
        assert_eq!((e.to_string().as_str(), e.code()), ("cannot apply web.json: failed (no_space): 4M needed", Code::Failed));
    }

    #[test]
    fn good_ends_are_success() {
        for state in [State::Running, State::Removed] {
            assert_eq!(verdict("x", &ack(state, None, "")), Ok(0));
        }
        assert!(verdict("x", &ack(State::Superseded, None, "")).is_err());
    }
}
