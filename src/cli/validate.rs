//! `validate` and `schema`: no keeper needed.

use super::args::Call;
use super::document;
use super::print;
use crate::exit::{self, Code, Error, visible};
use crate::manifest::Faults;
use serde_json::json;
use std::ffi::OsStr;

/// `wherry validate FILE...`: every file is looked at; the first that is bad gives the exit code.
pub fn validate(call: &Call) -> Result<u8, Error> {
    let mut code = Code::Ok;
    for file in &call.operands {
        let found = one(file, call.json())?;
        if code == Code::Ok {
            code = found;
        }
    }
    Ok(code as u8)
}

fn one(file: &OsStr, as_json: bool) -> Result<Code, Error> {
    let shown = document::shown(file);
    let bytes = match document::read("validate", file) {
        Ok(bytes) => bytes,
        Err(e) => {
            if as_json {
                print::json(&json!({"file": shown, "valid": false, "error": e.to_string()}))?;
            }
            exit::report(&e);
            return Ok(e.code());
        }
    };
    let (kind, faults) = document::examine(&bytes);
    let good = !faults.is_refusal();
    if as_json {
        print::json(&json!({"file": shown, "kind": kind.word(), "valid": good, "faults": faults}))?;
    } else {
        let what = document::remark(&bytes, kind).map_or(kind.word().to_owned(), |remark| format!("{} {remark}", kind.word()));
        print::bytes(text(&shown, &what, &faults).as_bytes())?;
    }
    Ok(if good { Code::Ok } else { Code::BadData })
}

fn text(file: &str, what: &str, faults: &Faults) -> String {
    let file = visible(file);
    // A fault has an excerpt on lines of its own; what these quote comes from the file.
    let lines = |fault: &crate::manifest::Fault| fault.to_string().lines().map(|l| format!("{}\n", visible(l))).collect::<String>();
    let mut out: String = faults.0.iter().map(|fault| format!("{file}: {}", lines(fault))).collect();
    if !faults.is_refusal() {
        out.push_str(&format!("{file}: good {}\n", visible(what)));
    }
    out
}

/// `wherry schema`.
pub fn schema(_: &Call) -> Result<u8, Error> {
    print::line(crate::manifest::schema().trim_end())?;
    Ok(0)
}
