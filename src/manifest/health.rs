//! How a container's health is checked, and which containers wait for which.

use super::blame::Found;
use super::json::{Member, Node, Value};
use super::raw::MAX_CONTAINERS;
use super::shape::{Objection, View, bad};
use super::types::Name;
use crate::protocol::Reason;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Longest path of an HTTP check.
const MAX_PATH: usize = 1024;

/// A check and its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is looked at.
    pub how: How,
    /// How long after its start failures do not count.
    pub start_period: Duration,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// A program in the container ends with 0.
    Exec(Vec<String>),
    /// Somebody accepts a connection.
    Tcp(Peer),
    /// A server answers a GET.
    Http {
        /// Where it listens.
        peer: Peer,
        /// Path and query of the request.
        path: String,
        /// The status that it must answer; any from 200 to 399 if absent.
        status: Option<u16>,
    },
    /// Something is at this path in the container.
    File(String),
}

/// A TCP port in the container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address; loopback if absent.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

impl std::str::FromStr for Peer {
    type Err = Objection;
    fn from_str(s: &str) -> Result<Self, Objection> {
        let found = match s.parse::<SocketAddr>() {
            Ok(at) => Some(Self { address: Some(at.ip()), port: at.port() }),
            // `parse` alone would take a sign.
            Err(_) if s.bytes().all(|c| c.is_ascii_digit()) => s.parse().ok().map(|port| Self { address: None, port }),
            Err(_) => None,
        };
        found
            .filter(|peer| peer.port > 0)
            .ok_or_else(|| bad("must be a port from 1 to 65535, or address:port like \"127.0.0.1:80\" or \"[::1]:80\""))
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => SocketAddr::new(address, self.port).fmt(f),
            None => self.port.fmt(f),
        }
    }
}

/// Checks the path of an HTTP request: whatever else it has must not become a second line of it (RFC 9112, section 3).
pub fn http_path(s: &str) -> Result<(), Objection> {
    if s.len() <= MAX_PATH && s.starts_with('/') && s.bytes().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    Err(bad(format!("must start with '/', have at most {MAX_PATH} characters, and neither blanks nor other than ASCII")))
}

/// `None` without a fault where there is no check.
pub fn check(container: View, found: &mut Vec<Found>) -> Option<Check> {
    let node = container.node("health")?;
    let view = container.object("health");
    let how = how(view, node, found)?;
    Some(Check {
        how,
        start_period: view.time("start_period")?,
        interval: view.time("interval")?,
        timeout: view.time("timeout")?,
        retries: view.parse("retries")?,
    })
}

fn how(view: View, node: &Node, found: &mut Vec<Found>) -> Option<How> {
    const KINDS: [&str; 4] = ["exec", "tcp", "http", "file"];
    // Something of another type has its own fault.
    if !matches!(node.value, Value::Object(_)) {
        return None;
    }
    let given: Vec<(&str, &Node)> = KINDS.iter().filter_map(|kind| Some((*kind, view.node(kind)?))).collect();
    match given.as_slice() {
        [] => {
            found.push(Found::at(node, Reason::BadValue, "needs one of `exec`, `tcp`, `http` and `file`"));
            None
        }
        [(kind, _)] => one(kind, view),
        [(first, _), rest @ ..] => {
            let more =
                rest.iter().map(|(_, node)| Found::at(node, Reason::BadValue, format!("stands beside `{first}`: a check is one of both")));
            found.extend(more);
            None
        }
    }
}

fn one(kind: &str, view: View) -> Option<How> {
    match kind {
        "exec" => view.texts("exec").map(How::Exec),
        "tcp" => view.text("tcp").and_then(|text| text.parse().ok()).map(How::Tcp),
        "http" => {
            let http = view.object("http");
            let peer = Peer { address: http.parse("address"), port: http.parse("port")? };
            Some(How::Http { peer, path: http.text("path")?.to_owned(), status: http.parse("status") })
        }
        _ => view.text("file").map(|path| How::File(path.to_owned())),
    }
}

/// Whom a container waits for, of the containers of its app.
pub fn after(view: View) -> Option<Vec<Name>> {
    view.items("after").iter().map(|item| item.text()?.parse().ok()).collect()
}

/// What is wrong with who waits for whom: unknown names, and circles.
pub fn order(containers: &[Member], found: &mut Vec<Found>) {
    // More of either has its own fault.
    let containers = &containers[..containers.len().min(MAX_CONTAINERS)];
    for container in containers {
        let items = waits(container);
        for (i, item) in items.iter().enumerate() {
            // What is no name at all has its own fault.
            let Some(name) = item.text().filter(|name| name.parse::<Name>().is_ok()) else { continue };
            let fault = |message: &str| Found::at(item, Reason::BadValue, message);
            if name == container.key {
                found.push(fault("is the container itself"));
            } else if !containers.iter().any(|c| c.key == name) {
                found.push(fault("is no container of this app"));
            } else if items[..i].iter().any(|earlier| earlier.text() == Some(name)) {
                found.push(fault("stands there already"));
            }
        }
        if let Some(circle) = circle(containers, container) {
            let at = container.value.get("after").unwrap_or(&container.value);
            found.push(Found::at(at, Reason::BadValue, format!("goes in a circle: {circle}")));
        }
    }
}

fn waits<'a>(container: &'a Member<'a>) -> &'a [Node<'a>] {
    let items = container.value.get("after").map_or(&[][..], |n| n.items());
    &items[..items.len().min(MAX_CONTAINERS)]
}

/// The shortest way from a container to itself by way of others, if it is the first in the document on that way: told once.
fn circle(containers: &[Member], start: &Member) -> Option<String> {
    let index = |name: &str| containers.iter().position(|c| c.key == name);
    let first = index(&start.key)?;
    let mut ways = vec![vec![first]];
    let mut seen = vec![false; containers.len()];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in waits(&containers[*way.last()?]).iter().filter_map(|item| index(item.text()?)) {
                if next == first && way.len() > 1 {
                    let names: Vec<&str> = way.iter().chain([&first]).map(|i| &*containers[*i].key).collect();
                    return Some(names.join(" → "));
                }
                // What stands before the first in the document has told of every circle that it is on.
                if next > first && !std::mem::replace(&mut seen[next], true) {
                    longer.push([&way[..], &[next]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}
