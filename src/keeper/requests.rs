//! THE table: who may ask keeper for what, when, and why that is safe. What is not here cannot be asked.

use crate::ipc::{FromAgent, Request};

/// Who asks, as the kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// The agent, by the socket pair that it inherited. Talks to strangers; assumed hostile.
    Agent,
    /// A member of group `wherry`, by `SO_PEERCRED`. May use containers, hence may become root (as with docker's group).
    Member,
    /// Root, by `SO_PEERCRED`.
    Root,
}

/// When it may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// As the very first message only.
    First,
    /// At any time after that.
    Any,
}

/// One row.
#[derive(Debug)]
pub struct Row {
    /// The message's name.
    pub name: &'static str,
    /// Who may send it.
    pub who: &'static [Asker],
    /// When.
    pub when: When,
    /// Why it is safe to grant.
    pub why: &'static str,
}

const LOCAL: &[Asker] = &[Asker::Member, Asker::Root];
const ROOT: &[Asker] = &[Asker::Root];
const AGENT: &[Asker] = &[Asker::Agent];

const fn row(name: &'static str, who: &'static [Asker], when: When, why: &'static str) -> Row {
    Row { name, who, when, why }
}

/// All of it.
pub const TABLE: &[Row] = &[
    row("agent.hello", AGENT, When::First, "answers with the broker's credentials, which the agent needs and nobody else can ask for"),
    row(
        "agent.desired",
        AGENT,
        When::Any,
        "bytes of at most 32 KiB; verified where keys are, parsed, held against target, sequence and policy before anything is done; a hostile agent can do what the broker can",
    ),
    row(
        "agent.command",
        AGENT,
        When::Any,
        "answered, never acted upon before its session is checked, and its signature where keys are; output of containers and programs run in them only as the policy allows",
    ),
    row(
        "agent.link",
        AGENT,
        When::Any,
        "is shown to people; its count of connections, which only grows, says which commands are out of date; it can say that the broker is there, and so content the guard",
    ),
    row(
        "agent.download",
        AGENT,
        When::Any,
        "ends or counts a download that stage asked for; what came through the pipe is judged by its digest, which hash tells",
    ),
    row(
        "agent.keyset",
        AGENT,
        When::Any,
        "signed by a key that this device trusts already and that may hand out keys, or refused; a hostile agent cannot sign",
    ),
    row(
        "agent.answers",
        AGENT,
        When::Any,
        "a count that can let streams go on sooner or later, not faster than their rate; one that cannot be ends the agent",
    ),
    row("agent.oversize", AGENT, When::Any, "yields one rejected answer"),
    row("version", LOCAL, When::Any, "names the release, nothing else"),
    row(
        "apply",
        LOCAL,
        When::Any,
        "the same checks as for the network, but paths of the device may be named: who may ask is root or as good as",
    ),
    row("remove", LOCAL, When::Any, "only apps applied locally"),
    row("list", LOCAL, When::Any, "reads"),
    row("start", LOCAL, When::Any, "only what a document already allows to run"),
    row("stop", LOCAL, When::Any, "holds until the next document or a start by hand, is shown in reported"),
    row("restart", LOCAL, When::Any, "as stop and start"),
    row("hold", LOCAL, When::Any, "keeps what runs already, also against the fleet's removal; is shown in reported"),
    row("unhold", LOCAL, When::Any, "lets go on what was checked when it came"),
    row("logs", LOCAL, When::Any, "reads; bounded by the ring; output may hold secrets, hence not for everybody"),
    row(
        "exec",
        LOCAL,
        When::Any,
        "runs inside the container's namespaces, cgroup, capabilities and filter; the descriptors are the asker's own",
    ),
    row("stats", LOCAL, When::Any, "reads"),
    row("status", LOCAL, When::Any, "reads; credentials are not in it"),
    row("wait", LOCAL, When::Any, "waits; ends with the connection"),
    row("upgrade", ROOT, When::Any, "execs the program on disk, which only root can have put there"),
    row("info", LOCAL, When::Any, "reads; environment variables of containers are in it, hence not for everybody"),
    row(
        "copy",
        LOCAL,
        When::Any,
        "as exec, as the container's root: the stream is made and taken inside; paths of the device are the asker's own",
    ),
    row("diag", LOCAL, When::Any, "reads; made of an allow-list without credentials, contents, values and arguments"),
    row("events", LOCAL, When::Any, "reads; bounded by the ring"),
    row("attach", LOCAL, When::Any, "as logs; what is typed goes to one program that asks for it, in frames of our own making"),
    row("input", LOCAL, When::Any, "only after attach, only to what that is attached to; bounded, and nobody waits for it"),
    row(
        "detach",
        LOCAL,
        When::Any,
        "only of the asker's own exec; a terminal that comes back is looked at before it is read, and all of it is dropped",
    ),
];

/// Name of a local request in the table.
pub fn of_request(request: &Request) -> &'static str {
    match request {
        Request::Version => "version",
        Request::Apply { .. } => "apply",
        Request::Remove { .. } => "remove",
        Request::List => "list",
        Request::Start(_) => "start",
        Request::Stop(_) => "stop",
        Request::Restart(_) => "restart",
        Request::Logs { .. } => "logs",
        Request::Exec(_) => "exec",
        Request::Stats => "stats",
        Request::Status => "status",
        Request::Wait(_) => "wait",
        Request::Upgrade => "upgrade",
        Request::Info { .. } => "info",
        Request::Events { .. } => "events",
        Request::Diag => "diag",
        Request::Copy { .. } => "copy",
        Request::Attach { .. } => "attach",
        Request::Input(_) | Request::InputEnd | Request::Resize(..) => "input",
        Request::Detach => "detach",
        Request::Hold(_) => "hold",
        Request::Unhold(_) => "unhold",
    }
}

/// Name of an agent's message in the table.
pub fn of_agent(message: &FromAgent) -> &'static str {
    match message {
        FromAgent::Hello { .. } => "agent.hello",
        FromAgent::Desired { .. } => "agent.desired",
        FromAgent::Command { .. } => "agent.command",
        FromAgent::Link(_) => "agent.link",
        FromAgent::Oversize { .. } => "agent.oversize",
        FromAgent::Download { .. } => "agent.download",
        FromAgent::Keyset { .. } => "agent.keyset",
        FromAgent::Answers(_) => "agent.answers",
    }
}

/// May `who` send the message `name`, being greeted or not?
pub fn permitted(name: &str, who: Asker, greeted: bool) -> bool {
    let when = |w: When| match w {
        When::First => !greeted,
        When::Any => greeted,
    };
    TABLE.iter().any(|r| r.name == name && r.who.contains(&who) && when(r.when))
}

#[cfg(test)]
mod tests {
    use super::{Asker, TABLE, permitted};

    #[test]
    fn the_agent_may_ask_nothing_of_what_the_command_line_may() {
        for row in TABLE {
            let both = row.who.contains(&Asker::Agent) && row.who.len() > 1;
            assert!(!both, "{} is for the agent and somebody else", row.name);
        }
        for name in ["exec", "apply", "logs", "upgrade", "remove", "stop"] {
            assert!(!permitted(name, Asker::Agent, true), "{name}");
        }
    }

    #[test]
    fn a_member_of_the_group_may_not_upgrade() {
        assert!(!permitted("upgrade", Asker::Member, true));
        assert!(permitted("upgrade", Asker::Root, true));
        assert!(permitted("exec", Asker::Member, true));
    }

    #[test]
    fn what_is_not_in_the_table_is_not_permitted_to_anyone() {
        for who in [Asker::Agent, Asker::Member, Asker::Root] {
            assert!(!permitted("mount", who, true));
        }
    }

    #[test]
    fn an_agent_must_greet_first_and_only_once() {
        assert!(permitted("agent.hello", Asker::Agent, false));
        assert!(!permitted("agent.hello", Asker::Agent, true));
        assert!(!permitted("agent.desired", Asker::Agent, false));
    }

    #[test]
    fn every_row_says_why_it_is_safe() {
        for row in TABLE {
            assert!(row.why.len() > 4, "{}", row.name);
            assert_eq!(TABLE.iter().filter(|r| r.name == row.name).count(), 1, "{} stands twice", row.name);
        }
    }
}
