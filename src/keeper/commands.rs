//! Commands from the network, each for one session of the link: what is done for it, and what is answered. A command that changes something is
//! obeyed once for its id, whoever repeats it.

use crate::ipc::{Failure, Origin, Scope, Topic};
use crate::keeper::clients::{By, Hand};
use crate::keeper::deploy::boundary;
use crate::keeper::desired::{self, Entry};
use crate::keeper::{Keeper, diag, record, report};
use crate::manifest::Name;
use crate::protocol::{self as wire, Answer, Command, Reason, State, Verb, encode};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Most commands that change something, of one session: 32 KiB of memory.
const MAX_IDS: usize = 4096;
/// Most answers kept, to be repeated word by word.
const MAX_ANSWERS: usize = 32;
/// Most bytes of text in a frame: escaped as JSON it is still below the largest packet.
const PIECE: usize = 24 * 1024;
/// Most frames of an answer; more at once would be more than the agent is expected to take.
const MAX_PIECES: usize = 8;
/// How often statistics come while somebody watches, and how long one `watch` lasts.
const WATCHED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// What one session has asked so far.
#[derive(Debug, Default)]
pub struct Obeyed {
    /// Sessions up to this one were another keeper's: nobody knows what they asked.
    after: (u64, u64),
    session: (u64, u64),
    ids: Vec<u64>,
    answers: VecDeque<(u64, Answer)>,
}

/// What is known of an id.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    New,
    Answered(Answer),
    Refused(Reason, &'static str),
}

impl Obeyed {
    /// Nothing yet, and nothing ever of sessions up to this one.
    pub fn after(session: (u64, u64)) -> Self {
        Self { after: session, session, ..Self::default() }
    }

    /// Commands of this session count no more, whatever the link says.
    pub fn is_over(&self, session: (u64, u64)) -> bool {
        session <= self.after || session < self.session
    }

    /// What is known of an id in this session. A newer session forgets those of the old one, whose commands count no more.
    fn look(&mut self, session: (u64, u64), id: &str) -> Known {
        if self.is_over(session) {
            return Known::Refused(Reason::StaleSession, "this session is over");
        }
        if session > self.session {
            *self = Self { after: self.after, session, ..Self::default() };
        }
        let key = key(id);
        match self.answers.iter().find(|(other, _)| *other == key) {
            Some((_, answer)) => Known::Answered(answer.clone()),
            None if self.ids.contains(&key) => Known::Refused(Reason::StaleSession, "this id was used before in this session; use another"),
            None if self.ids.len() >= MAX_IDS => {
                Known::Refused(Reason::Policy, "this session has had 4096 commands; the next connection begins another")
            }
            None => Known::New,
        }
    }

    /// The id counts no more in this session.
    fn take(&mut self, id: &str) {
        self.ids.push(key(id));
    }

    fn answered(&mut self, id: &str, answer: &Answer) {
        self.answers.push_back((key(id), answer.clone()));
        if self.answers.len() > MAX_ANSWERS {
            self.answers.pop_front();
        }
    }
}

/// An id stands for itself by its hash.
fn key(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

impl Keeper {
    /// Does what a command for the running session asks for, and answers.
    pub fn obey(&mut self, id: &str, command: &Command) {
        let frames = match command.verb {
            Verb::Stats | Verb::Diag if self.agent.is_behind() => {
                let message = "too many answers wait to be sent; ask again when they have come";
                vec![Answer::error(0, Reason::Policy, message.to_owned())]
            }
            Verb::Stats => self.tell_stats(command),
            Verb::Diag => pieces(&diag::bundle(self).to_string()),
            // At QoS 1 it may come twice: its frames are on their way. To whom uses its id for the end too, that is the answer.
            _ if self.streams.answers(id) => {
                let ends = command.stream.of.as_ref().is_some_and(|of| of.as_str() == id);
                if ends {
                    self.cancel_stream(id, command.app.as_ref());
                }
                return;
            }
            _ => self.obey_once(id, command).into_iter().collect(),
        };
        for frame in frames {
            self.publish(Topic::Res(id.to_owned()), encode(&frame));
        }
    }

    /// What there is to say; a stream that begins answers by itself.
    fn obey_once(&mut self, id: &str, command: &Command) -> Option<Answer> {
        match self.obeyed.look(command.session, id) {
            Known::Answered(answer) => Some(answer),
            Known::Refused(reason, message) => Some(Answer::error(0, reason, message.to_owned())),
            Known::New => {
                // Taken first: whatever becomes of it, this id counts no more. A keeper after a panic knows none, and begins with a newer session.
                self.obeyed.take(id);
                let answer = match self.act(id, command) {
                    Ok(()) if self.streams.answers(id) => return None,
                    Ok(()) => Answer::end(0),
                    Err(f) => Answer::error(0, f.reason, f.message),
                };
                self.obeyed.answered(id, &answer);
                Some(answer)
            }
        }
    }

    fn act(&mut self, id: &str, command: &Command) -> Result<(), Failure> {
        match (command.verb, &command.app) {
            (Verb::Start, Some(app)) => self.by_command(app, command, Hand::Start),
            (Verb::Stop, Some(app)) => self.by_command(app, command, Hand::Stop),
            (Verb::Restart, Some(app)) => self.by_command(app, command, Hand::Restart),
            (Verb::Retry, Some(app)) => self.retry(app),
            (Verb::Prune, _) => {
                self.collect();
                Ok(())
            }
            (Verb::Watch, _) => {
                let now = self.now();
                self.watched_until = now + WATCHED.1;
                self.stats_due = now;
                Ok(())
            }
            (Verb::Logs | Verb::Exec, Some(app)) => {
                self.of_the_fleet(app)?;
                self.begin_stream(id, command, app)
            }
            (Verb::Cancel, _) => match &command.stream.of {
                Some(of) if self.cancel_stream(of.as_str(), command.app.as_ref()) => Ok(()),
                _ => Err(failure(Reason::BadValue, "no stream of this id runs".into())),
            },
            _ => Err(failure(Reason::BadValue, "the command names no app".into())),
        }
    }

    /// Time until the next statistics.
    pub fn stats_interval(&self, now: Duration) -> Duration {
        let usual = Duration::from_secs(self.ctx.settings.interval_s.into());
        if now < self.watched_until { usual.min(WATCHED.0) } else { usual }
    }

    fn by_command(&mut self, app: &Name, command: &Command, hand: Hand) -> Result<(), Failure> {
        let entry = self.of_the_fleet(app)?;
        let held = entry.held.clone();
        let mine = |name: &Name| command.container.as_ref().is_none_or(|wanted| wanted == name);
        let by_person = |name: &&Name| mine(name) && !self.desired.beside.stopped.iter().any(|(a, c)| a == app && c == *name);
        if hand != Hand::Stop
            && let Some(name) = held.iter().find(by_person)
        {
            return Err(failure(
                Reason::Policy,
                format!("{app}/{name} was stopped at the device, and starts there or with the next document"),
            ));
        }
        let scope = Scope { app: app.clone(), container: command.container.clone() };
        let which = command.container.as_ref().map_or_else(|| app.to_string(), |name| format!("{app}/{name}"));
        self.hand(&scope, hand, By::Command).ok_or_else(|| failure(Reason::BadValue, format!("there is no container {which}")))?;
        self.settle(app);
        Ok(())
    }

    /// The entry in force of an app that is the fleet's to command.
    fn of_the_fleet(&self, app: &Name) -> Result<&Entry, Failure> {
        match self.winner(app).filter(|e| !desired::is_gone(e)) {
            None => Err(failure(Reason::BadValue, format!("there is no app {app}"))),
            Some(entry) if entry.origin == Origin::Local => {
                Err(failure(Reason::Policy, format!("app {app} belongs to the local command line")))
            }
            Some(entry) => Ok(entry),
        }
    }

    /// Another attempt at a version that failed; its answers count it.
    fn retry(&mut self, app: &Name) -> Result<(), Failure> {
        let state = self.of_the_fleet(app)?.state;
        if let Some(f) = self.forbids_retry(app) {
            return Err(f);
        }
        // Not only the one in force: another origin's version runs where the first one of this failed.
        let Some(entry) = self.desired.entries.iter().find(|e| e.app == *app && e.origin != Origin::Local && e.state == State::Failed)
        else {
            return Err(failure(Reason::BadValue, format!("{app} has not failed, it is {state}")));
        };
        let (origin, newest, kept) = (entry.origin.clone(), entry.newest.clone(), entry.kept.clone());
        // It may have failed because the device does not allow it, or has no room for it.
        let payload = self.store.manifest(&newest.sha256).map_err(|e| self.unwritten("cannot read the stored document", e))?;
        if let Some(r) = self.admit(&origin, &payload).err().and_then(|refusals| refusals.into_iter().next()) {
            return Err(failure(r.reason, r.message));
        }
        self.arm_guard(app, &newest, kept.as_ref());
        let Some(entry) = self.desired.entries.iter_mut().find(|e| e.app == *app && e.origin == origin) else { return Ok(()) };
        let ack = record::retry(entry);
        self.save_state();
        self.emit(&origin, ack);
        self.elect(app);
        Ok(())
    }

    fn tell_stats(&self, command: &Command) -> Vec<Answer> {
        let (device, mut rows) = report::stats(self);
        let wanted = |name: &Option<Name>, of: &Name| name.as_ref().is_none_or(|n| n == of);
        rows.retain(|row| wanted(&command.app, &row.app) && wanted(&command.container, &row.container));
        figures(&wire::stats(self.ctx.boot, self.ctx.settings.interval_s, &device, &rows))
    }
}

/// Documents of statistics, a line for each, in frames: the longest one is as it is no larger than a packet, but in a frame it is escaped.
fn figures(messages: &[Vec<u8>]) -> Vec<Answer> {
    pieces(&String::from_utf8_lossy(&messages.join(&b'\n')))
}

fn failure(reason: Reason, message: String) -> Failure {
    Failure { reason, message }
}

/// A long text in frames.
fn pieces(text: &str) -> Vec<Answer> {
    let mut rest = text;
    let next = || {
        let (piece, after) = rest.split_at(boundary(rest, PIECE));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    };
    framed(std::iter::from_fn(next))
}

/// One frame for each text, and the last one: an answer that is too long ends in an error, so that nobody takes it for whole.
fn framed<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Answer> {
    let mut frames = Vec::new();
    for text in texts {
        let n = frames.len() as u32;
        if frames.len() >= MAX_PIECES {
            frames.push(Answer::error(n, Reason::Oversize, "the answer is cut off here".to_owned()));
            return frames;
        }
        frames.push(Answer::data(n, text.to_owned()));
    }
    frames.push(Answer::end(frames.len() as u32));
    frames
}

#[cfg(test)]
mod tests {
    use super::{Known, MAX_ANSWERS, MAX_IDS, MAX_PIECES, Obeyed, PIECE, figures, pieces};
    use crate::ipc::{DeviceSample, StatsRow};
    use crate::protocol::{Answer, AnswerKind, Reason, encode, stats};
    use crate::stats::Sample;

    fn carry_out(obeyed: &mut Obeyed, id: &str) {
        obeyed.take(id);
        obeyed.answered(id, &Answer::end(0));
    }

    #[test]
    fn an_id_counts_once_in_a_session() {
        let mut obeyed = Obeyed::default();
        assert_eq!(obeyed.look((1, 1), "a"), Known::New);
        carry_out(&mut obeyed, "a");
        assert_eq!(obeyed.look((1, 1), "a"), Known::Answered(Answer::end(0)));
        assert_eq!(obeyed.look((1, 1), "b"), Known::New);
        assert_eq!(obeyed.look((1, 2), "a"), Known::New);
    }

    #[test]
    fn an_id_that_was_taken_counts_no_more_before_it_is_answered() {
        let mut obeyed = Obeyed::default();
        assert_eq!(obeyed.look((1, 1), "a"), Known::New);
        obeyed.take("a");
        assert!(matches!(obeyed.look((1, 1), "a"), Known::Refused(Reason::StaleSession, _)));
    }

    #[test]
    fn an_older_session_never_comes_back_and_forgets_nothing() {
        let mut obeyed = Obeyed::after((3, 5));
        for (session, over) in [((3, 5), true), ((3, 4), true), ((2, 9), true), ((3, 6), false)] {
            assert_eq!(obeyed.is_over(session), over, "{session:?}");
            let found = obeyed.look(session, "a");
            assert_eq!(matches!(found, Known::Refused(Reason::StaleSession, _)), over, "{session:?}: {found:?}");
        }
        carry_out(&mut obeyed, "a");
        assert!(matches!(obeyed.look((3, 5), "b"), Known::Refused(Reason::StaleSession, _)));
        assert_eq!(obeyed.look((3, 6), "a"), Known::Answered(Answer::end(0)));
        assert_eq!(obeyed.look((4, 1), "a"), Known::New);
        assert!(obeyed.is_over((3, 6)));
    }

    #[test]
    fn an_id_whose_answer_is_forgotten_is_still_known() {
        let mut obeyed = Obeyed::default();
        for n in 0..MAX_ANSWERS + 1 {
            assert_eq!(obeyed.look((1, 1), &n.to_string()), Known::New);
            carry_out(&mut obeyed, &n.to_string());
        }
        assert!(matches!(obeyed.look((1, 1), "0"), Known::Refused(Reason::StaleSession, _)));
        assert!(matches!(obeyed.look((1, 1), "1"), Known::Answered(_)));
    }

    #[test]
    fn a_session_takes_so_many_commands_and_no_more() {
        let mut obeyed = Obeyed::default();
        for n in 0..MAX_IDS {
            assert_eq!(obeyed.look((1, 1), &n.to_string()), Known::New);
            carry_out(&mut obeyed, &n.to_string());
        }
        assert!(matches!(obeyed.look((1, 1), "another"), Known::Refused(Reason::Policy, _)));
    }

    #[test]
    fn figures_of_many_containers_are_cut_into_frames_that_fit_a_packet() {
        let row = |n: usize| StatsRow {
            app: format!("an-app-with-a-long-name-{n}").parse().unwrap(),
            container: "main".parse().unwrap(),
            uptime_s: 1,
            sample: Sample::default(),
        };
        let rows: Vec<StatsRow> = (0..256).map(row).collect();
        let messages = stats(1, 60, &DeviceSample::default(), &rows);
        assert!(messages.len() > 1 && messages.iter().any(|m| m.len() > PIECE), "a long one, and several");
        let frames = figures(&messages);
        for frame in &frames {
            // Of 64 KiB, a root topic and an id may have a part.
            assert!(encode(frame).len() <= 60 * 1024, "{}", encode(frame).len());
        }
        assert_eq!(frames.last().map(|f| f.kind), Some(AnswerKind::End));
        let text: String = frames.iter().filter_map(|f| f.data.as_deref()).collect();
        let lines: Vec<&[u8]> = text.lines().map(str::as_bytes).collect();
        assert_eq!(lines, messages);
    }

    #[test]
    fn a_long_answer_comes_in_order_and_says_so_where_it_is_cut() {
        let text = "ä".repeat(PIECE);
        let frames = pieces(&text);
        assert_eq!(frames.iter().map(|f| f.n).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(frames.iter().filter_map(|f| f.data.as_deref()).collect::<String>(), text);
        assert_eq!((frames[2].kind, pieces("").len()), (AnswerKind::End, 1));
        let frames = pieces(&"x".repeat(PIECE * MAX_PIECES + 1));
        assert_eq!((frames.len(), frames[MAX_PIECES].reason), (MAX_PIECES + 1, Some(Reason::Oversize)));
    }
}
