//! The device's policy, `/etc/wherry/policy.json`: what a document from the network may ask for, at most. Raw → checked.
//!
//! What root does at the device's own command line is not held to it.

use crate::manifest::Faults;
use crate::manifest::blame::Found;
use crate::manifest::document::Document;
use crate::manifest::forms::{CAPABILITY, capability};
use crate::manifest::json::Node;
use crate::manifest::shape::{Field, Kind, View};

/// Largest policy file taken.
pub const MAX_POLICY: usize = 16 * 1024;

/// The checked policy. [`Policy::default`] is what holds without a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A container may be in the device's network namespace.
    pub host_network: bool,
    /// A container may be without the system call filter, or without no_new_privs.
    pub unconfined: bool,
    /// The capabilities that a container may have, as bits `1 << CAP_*`; those that one has by default if absent.
    pub capabilities: Option<u64>,
    /// Bytes that the memory limits of all apps may add up to; three quarters of the device's memory if absent.
    pub memory: Option<u64>,
    /// Each container must have a memory limit.
    pub memory_required: bool,
    /// Commands from the network may run programs in containers.
    pub exec: bool,
    /// Commands from the network may read the output of containers.
    pub logs: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { host_network: false, unconfined: false, capabilities: None, memory: None, memory_required: false, exec: false, logs: true }
    }
}

impl Policy {
    /// The memory that all apps may have, on a device with `ram` bytes.
    pub fn memory_of(&self, ram: u64) -> u64 {
        self.memory.unwrap_or(ram / 4 * 3)
    }
}

static POLICY: [Field; 7] = [
    Field::default("host_network", Kind::Bool, "false", "A container may be in the device's own network."),
    Field::default("unconfined", Kind::Bool, "false", "A container may be without the system call filter, or without no_new_privileges."),
    Field::optional(
        "capabilities",
        Kind::List(&Kind::Text(&CAPABILITY), 0, 64),
        "The capabilities that a container may have; those that one has by default if absent.",
    ),
    Field::optional(
        "memory",
        Kind::Size(1 << 20, 1 << 50),
        "What the memory limits of all apps may add up to; three quarters of the device's memory if absent.",
    ),
    Field::default("memory_required", Kind::Bool, "false", "Each container must have a memory limit."),
    Field::default("exec", Kind::Bool, "false", "Commands may run programs in containers (`exec`)."),
    Field::default("logs", Kind::Bool, "true", "Commands may read what containers print (`logs`)."),
];

static DOCUMENT: Document<Policy> = Document { max: MAX_POLICY, fields: &POLICY, first: |_| None, convert: policy, secret: None };

/// Reads a policy.
///
/// # Errors
/// Every fault of the document.
pub fn parse(bytes: &[u8]) -> Result<Policy, Faults> {
    DOCUMENT.parse(bytes)
}

/// A policy that names every field.
pub fn example() -> &'static str {
    include_str!("policy.json")
}

fn policy<'a>(view: View<'a>, _: &'a Node<'a>, _: &mut Vec<Found>) -> Option<Policy> {
    let named = |nodes: &[Node]| nodes.iter().filter_map(|n| capability(n.text()?)).fold(0, |set, c| set | c.bitmask());
    Some(Policy {
        host_network: view.flag("host_network"),
        unconfined: view.flag("unconfined"),
        capabilities: view.node("capabilities").map(|_| named(view.items("capabilities"))),
        memory: match view.node("memory") {
            None => None,
            Some(_) => Some(view.size("memory")?),
        },
        memory_required: view.flag("memory_required"),
        exec: view.flag("exec"),
        logs: view.flag("logs"),
    })
}

#[cfg(test)]
mod tests {
    use super::{MAX_POLICY, POLICY, Policy, example, parse};
    use crate::protocol::Reason;

    fn refused(text: &str, path: &str, reason: Reason) {
        let faults = parse(text.as_bytes()).expect_err(text);
        assert_eq!(faults.0.iter().map(|f| (f.path.as_str(), f.reason)).collect::<Vec<_>>(), [(path, reason)], "{text}\n{faults}");
    }

    #[test]
    fn an_empty_policy_is_the_one_without_a_file() {
        assert_eq!(parse(b"{}").unwrap(), Policy::default());
        assert_eq!(Policy::default().memory_of(128 << 20), 96 << 20);
        assert_eq!((Policy::default().exec, Policy::default().logs), (false, true));
    }

    #[test]
    fn the_example_is_good_and_names_every_field() {
        let p = parse(example().as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!((p.memory, p.memory_of(1 << 30), p.host_network), (Some(96 << 20), 96 << 20, true));
        let value: serde_json::Value = serde_json::from_str(example()).unwrap();
        POLICY.iter().for_each(|f| assert!(value.get(f.name).is_some(), "the example lacks {}", f.name));
    }

    #[test]
    fn a_list_of_capabilities_takes_the_place_of_the_default() {
        assert_eq!(parse(br#"{"capabilities": []}"#).unwrap().capabilities, Some(0));
        assert_eq!(parse(br#"{"capabilities": ["NET_ADMIN", "CAP_CHOWN"]}"#).unwrap().capabilities, Some(1 << 12 | 1));
    }

    #[test]
    fn every_fault_is_refused_at_its_place() {
        for (text, path, reason) in [
            (r#"{"privileged": true}"#, "privileged", Reason::UnknownField),
            (r#"{"host_network": "yes"}"#, "host_network", Reason::BadValue),
            (r#"{"capabilities": ["NET_BROKEN"]}"#, "capabilities[0]", Reason::BadValue),
            (r#"{"capabilities": "ALL"}"#, "capabilities", Reason::BadValue),
            (r#"{"memory": "1K"}"#, "memory", Reason::BadValue),
            (r#"{"memory": -1}"#, "memory", Reason::BadValue),
            (r#"{"exec": "sh"}"#, "exec", Reason::BadValue),
            (r#"{"unconfined": false, "unconfined": true}"#, "unconfined", Reason::Malformed),
            ("[]", "", Reason::BadValue),
            ("{", "", Reason::Malformed),
        ] {
            refused(text, path, reason);
        }
        refused(&" ".repeat(MAX_POLICY + 1), "", Reason::Oversize);
    }
}
