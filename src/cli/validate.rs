//! `validate` and `schema`: no keeper needed.

use super::args::Call;
use super::{document, print};
use crate::exit::{Code, Error, visible};
use serde_json::json;

/// `wherry validate FILE...`: all files are looked at, the first error gives the exit code.
pub fn validate(call: &Call) -> Result<u8, Error> {
    let mut code = Code::Ok;
    for file in &call.operands {
        let shown = document::shown(file);
        let (verdict, found) = match document::read("validate", file) {
            Err(e) => (Err(vec![e.to_string()]), e.code()),
            Ok(bytes) => match document::examine(&bytes) {
                Ok(kind) => (Ok(kind), Code::Ok),
                Err(faults) => (Err(faults), Code::BadData),
            },
        };
        if code == Code::Ok {
            code = found;
        }
        if call.json() {
            let kind = verdict.as_ref().ok().map(|k| k.word());
            print::json(&json!({"file": shown, "kind": kind, "valid": verdict.is_ok(), "faults": verdict.err().unwrap_or_default()}))?;
        } else {
            print::bytes(lines(&shown, &verdict).as_bytes())?;
        }
    }
    Ok(code as u8)
}

fn lines(file: &str, verdict: &Result<document::Kind, Vec<String>>) -> String {
    match verdict {
        Ok(kind) => format!("{}: good {}\n", visible(file), kind.word()),
        Err(faults) => faults.iter().map(|f| format!("{}: {}\n", visible(file), visible_lines(f))).collect(),
    }
}

/// A fault may show an excerpt on lines of its own.
fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// `wherry schema`.
pub fn schema(_: &Call) -> Result<u8, Error> {
    Err(Error::new(Code::Internal, "cannot print the schema: it is not part of this program"))
}
