//! The agent: the only process on the network. It ferries bytes between keeper and the broker and decides nothing.
//!
//! Descriptor 3 is the socket to keeper. Without keeper there is no agent: end of file there ends it.

mod backoff;
mod confine;
mod dial;
mod fetch;
mod http;
mod keeper;
mod limit;
mod outbox;
mod session;
mod tls;
mod topics;
mod wire;

use crate::ipc::{AgentSettings, Broker, Conn, FromAgent, ToAgent};
use crate::sys::fd;
use keeper::Terminate;
use session::Target;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Stack of the one helper thread, in which the C library resolves names.
const RESOLVER_STACK: usize = 128 * 1024;
/// How long that thread waits for another name before it ends.
const RESOLVER_IDLE: Duration = Duration::from_secs(1);

/// The role `wherry agent`: runs until keeper says goodbye or is gone, or SIGTERM comes.
///
/// # Errors
/// A sentence: no keeper, bad settings, or a lock-down that did not take.
pub fn main() -> Result<(), String> {
    // Keeper's protection from the OOM killer is not for the process that reads what strangers send.
    let _ = crate::sys::process::set_oom_score(0);
    let socket =
        fd::inherited(fd::FIRST).map_err(|e| format!("agent has no socket to keeper (it is started by keeper, not by hand): {e}"))?;
    let conn = Conn::new(socket);
    let Some((settings, files)) = configure(&conn).map_err(|e| format!("agent cannot get its settings from keeper: {e}"))? else {
        return Ok(());
    };
    let terminate = Terminate::block().map_err(|e| format!("agent cannot block signals: {e}"))?;
    // Before the first byte of a certificate file is parsed, and before there is a second thread.
    confine::lock_down(settings.uid)?;
    let mut files = files.into_iter();
    let targets = targets(&settings.brokers, &mut files)?;
    let fetch = certificates(settings.fetch.ca, settings.fetch.client_certificate, &mut files).ok_or(TOO_FEW)?;
    run(conn, terminate, settings, targets, fetch).map_err(|e| format!("agent cannot run: {e}"))
}

fn configure(conn: &Conn) -> io::Result<Option<(AgentSettings, Vec<OwnedFd>)>> {
    conn.send(&FromAgent::Hello { version: env!("CARGO_PKG_VERSION").into() })?;
    match conn.recv_with()? {
        None => Ok(None),
        Some((ToAgent::Configure(settings), files)) => Ok(Some((settings, files))),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the first message is not Configure")),
    }
}

const TOO_FEW: &str = "agent got fewer certificate files from keeper than its settings name";

/// Gives each broker its files, which come in the brokers' order.
fn targets(brokers: &[Broker], files: &mut impl Iterator<Item = OwnedFd>) -> Result<Vec<Target>, String> {
    let mut one = |broker: &Broker| Some(Target::new(broker.clone(), certificates(broker.ca, broker.client_certificate, files)?));
    let targets: Option<Vec<_>> = brokers.iter().map(&mut one).collect();
    targets.ok_or_else(|| TOO_FEW.into())
}

/// The next files: CA, client certificate, client key, as far as there are any.
fn certificates(ca: bool, client: bool, files: &mut impl Iterator<Item = OwnedFd>) -> Option<tls::Files> {
    let ca = if ca { Some(files.next()?) } else { None };
    let client = if client { Some((files.next()?, files.next()?)) } else { None };
    Some(tls::Files { ca, client })
}

fn run(conn: Conn, terminate: Terminate, settings: AgentSettings, targets: Vec<Target>, fetch: tls::Files) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_stack_size(RESOLVER_STACK)
        .thread_keep_alive(RESOLVER_IDLE)
        .build()?;
    let result = runtime.block_on(session::run(conn, terminate, settings, targets, fetch));
    // Dropping the runtime would wait for a name that is still being resolved.
    runtime.shutdown_background();
    result
}
