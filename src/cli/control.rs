//! `start`, `stop`, `restart`, `hold`, `unhold`, `upgrade`, `version`.

use super::args::{Call, name, scope};
use super::client::{Client, unexpected};
use super::print;
use crate::exit::{Code, Error};
use crate::ipc::{Reply, Request, Scope};
use crate::manifest::Name;
use serde_json::json;

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `wherry start APP[/CONTAINER]`.
pub fn start(call: &Call) -> Result<u8, Error> {
    by_hand(call, "started", Request::Start)
}

/// `wherry stop APP[/CONTAINER]`.
pub fn stop(call: &Call) -> Result<u8, Error> {
    by_hand(call, "stopped", Request::Stop)
}

/// `wherry restart APP[/CONTAINER]`.
pub fn restart(call: &Call) -> Result<u8, Error> {
    by_hand(call, "restarted", Request::Restart)
}

fn by_hand(call: &Call, done: &str, request: fn(Scope) -> Request) -> Result<u8, Error> {
    let word = call.operand(0)?;
    // No time limit: a stop lasts as long as the manifest's timeout says.
    let keeper = Client::request(&call.socket(), &request(scope(&word)?))?;
    expect_done(keeper.next()?, call.verb.name)?;
    if call.json() {
        print::json(&json!({"scope": word, "done": done}))?;
    }
    Ok(0)
}

/// `wherry hold APP...`.
pub fn hold(call: &Call) -> Result<u8, Error> {
    on_hold(call, "held", Request::Hold)
}

/// `wherry unhold APP...`.
pub fn unhold(call: &Call) -> Result<u8, Error> {
    on_hold(call, "unheld", Request::Unhold)
}

fn on_hold(call: &Call, done: &str, request: fn(Vec<Name>) -> Request) -> Result<u8, Error> {
    let apps = (0..call.operands.len()).map(|i| name(&call.operand(i)?)).collect::<Result<Vec<_>, _>>()?;
    expect_done(Client::ask(&call.socket(), &request(apps.clone()))?, call.verb.name)?;
    if call.json() {
        print::json(&json!({"apps": apps, "done": done}))?;
    }
    Ok(0)
}

/// `wherry upgrade`.
pub fn upgrade(call: &Call) -> Result<u8, Error> {
    expect_done(Client::ask(&call.socket(), &Request::Upgrade)?, "upgrade")?;
    if call.json() {
        print::json(&json!({"done": "upgrading"}))?;
    }
    Ok(0)
}

fn expect_done(reply: Reply, verb: &str) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        _ => Err(unexpected(verb)),
    }
}

/// `wherry version`: without keeper, only our own.
pub fn version(call: &Call) -> Result<u8, Error> {
    let keeper = match Client::ask(&call.socket(), &Request::Version) {
        Ok(Reply::Version { version, pid, boot }) => Ok((version, pid, boot)),
        Ok(_) => return Err(unexpected("version")),
        Err(e) => Err(e),
    };
    if call.json() {
        let theirs = keeper.as_ref().ok().map(|(version, pid, boot)| json!({"version": version, "pid": pid, "boot": boot}));
        let trouble = keeper.as_ref().err().map(ToString::to_string);
        print::json(&json!({"version": VERSION, "keeper": theirs, "error": trouble}))?;
        return Ok(0);
    }
    print::line(&format!("wherry {VERSION}"))?;
    match keeper {
        Ok((version, pid, boot)) => {
            print::line(&format!("keeper {} (pid {pid}, boot {boot})", crate::exit::visible(&version)))?;
            if version != VERSION {
                print::line("these differ: `wherry upgrade` lets keeper take over the program on disk")?;
            }
        }
        // A person who asks for a version is not to be troubled by a daemon that does not run; anything else is worth a word.
        Err(e) if e.code() == Code::Unavailable => print::line(&format!("keeper: {e}"))?,
        Err(e) => return Err(e),
    }
    Ok(0)
}
