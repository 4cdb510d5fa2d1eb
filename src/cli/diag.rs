//! `diag`: everything that helps to help, in one document, and no secret.

use super::args::Call;
use super::client::Client;
use super::{check, control, events, list, print, status};
use crate::exit::{Code, Error};
use crate::ipc::{Reply, Request};
use crate::sys::time::{boottime, unix_ms};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Most bytes that keeper's part may have.
const MAX: usize = 16 << 20;

/// `wherry diag [-o FILE]`.
pub fn diag(call: &Call) -> Result<u8, Error> {
    let text = scrub(&serde_json::to_string_pretty(&bundle(call)).unwrap_or_default()) + "\n";
    let Some(path) = call.value("output")? else {
        print::bytes(text.as_bytes())?;
        return Ok(0);
    };
    // Never over something, which may be a link: the directory may be anybody's.
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Error::new(Code::CannotCreate, format!("cannot write {path}: {}", crate::exit::reason(&e))))?;
    Ok(0)
}

/// Where something cannot be had, the reason stands in its place: a device in trouble is what this is for.
fn bundle(call: &Call) -> Value {
    let ask = |request: &Request| Client::ask(&call.socket(), request);
    let or_why = |answer: Result<Value, Error>| answer.unwrap_or_else(|e| json!({"error": e.to_string()}));
    let status = ask(&Request::Status).map(|r| if let Reply::Status(report) = r { status::document(&report) } else { Value::Null });
    let apps = ask(&Request::List).map(|r| if let Reply::Apps(apps) = r { apps.iter().map(list::app_json).collect() } else { Value::Null });
    json!({
        "program": control::VERSION, "uptime_s": boottime().as_secs(), "unix_ms": unix_ms(),
        "check": check::facts(), "status": or_why(status), "apps": or_why(apps), "events": or_why(past(call)), "keeper": or_why(keeper(call)),
    })
}

fn past(call: &Call) -> Result<Value, Error> {
    let keeper = Client::request(&call.socket(), &Request::Events { app: None, since_ms: 0, follow: false })?;
    let (now, unix, mut all) = (u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX), unix_ms(), Vec::new());
    while let Reply::Events { rows, .. } = keeper.next()? {
        all.extend(rows.iter().map(|e| events::document(e, now, unix)));
    }
    Ok(all.into())
}

fn keeper(call: &Call) -> Result<Value, Error> {
    let (keeper, mut text) = (Client::request(&call.socket(), &Request::Diag)?, String::new());
    while let Reply::Text(piece) = keeper.next()? {
        text.push_str(&piece);
        if text.len() > MAX {
            return Err(Error::new(Code::Internal, "keeper's answer is too long"));
        }
    }
    serde_json::from_str(&text).map_err(|e| Error::new(Code::Internal, format!("keeper's answer is not JSON: {e}")))
}

/// Takes out of every address what may be a secret: user and password before the host, and all behind a question mark.
fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\\' | '\'' | '<' | '>')).unwrap_or(after.len());
        let (address, further) = after.split_at(end);
        let (address, asked) = address.split_once('?').map_or((address, false), |(address, _)| (address, true));
        // A password may hold a slash: whatever stands before the last @ is no host.
        match address.rfind('@') {
            Some(i) => {
                out.push_str("***@");
                out.push_str(&address[i + 1..]);
            }
            None => out.push_str(address),
        }
        out.push_str(if asked { "?***" } else { "" });
        rest = further;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::scrub;

    #[test]
    fn an_address_loses_its_password_and_its_query() {
        for (text, expect) in [
            ("see https://host/x and", "see https://host/x and"),
            ("https://user:pass@host/x", "https://***@host/x"),
            ("\"https://user:pa/ss@host:1/x?token=1&b\",", "\"https://***@host:1/x?***\","),
            ("a://b@c d://e@f", "a://***@c d://***@f"),
            ("oci:/a?b @ c", "oci:/a?b @ c"),
            ("://", "://"),
        ] {
            assert_eq!(scrub(text), expect);
        }
    }
}
