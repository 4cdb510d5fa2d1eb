//! `logs`.

use super::args::{Call, scope};
use super::client::{Client, unexpected};
use super::print;
use crate::exit::{Error, note};
use crate::ipc::{LogChunk, Reply, Request};
use serde_json::json;

/// `wherry logs [-f] [-n BYTES] APP[/CONTAINER]`.
pub fn logs(call: &Call) -> Result<u8, Error> {
    let of = scope(&call.operand(0)?)?;
    let tail = call.parsed("tail", |s| print::parse_size(s).and_then(|n| u32::try_from(n).map_err(|_| "must be below 4G".into())))?;
    let keeper = Client::request(&call.socket(), &Request::Logs { of, follow: call.has("follow"), tail })?;
    loop {
        match keeper.next()? {
            Reply::Log(chunk) => show(&chunk, call.json())?,
            Reply::Done => return Ok(0),
            _ => return Err(unexpected("logs")),
        }
    }
}

/// Writes the bytes as they came, and says on standard error what was lost before them.
pub fn show(chunk: &LogChunk, as_json: bool) -> Result<(), Error> {
    if as_json {
        return print::json(&json!({"text": String::from_utf8_lossy(&chunk.bytes), "lost": chunk.lost}));
    }
    if chunk.lost > 0 {
        note(&format!("wherry: {} bytes of output were lost here", chunk.lost));
    }
    print::bytes(&chunk.bytes)
}
