//! A whole device for a test: its own mosquitto, keeper with all its roles, directories and control group, and a check at the end that nothing of it
//! is left on the machine.
//!
//! Needs root, mosquitto, mosquitto_pub, mosquitto_sub, umoci and a static busybox.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod broker;
pub mod bundle;
pub mod clock;
pub mod device;
pub mod image;
pub mod server;
pub mod person;

use std::time::{Duration, Instant};

pub use clock::Clock;
pub use device::Device;
pub use image::{layout, slow};
pub use nix::sys::signal::Signal;
pub use person::Person;
pub use serde_json::{Value, json};

/// Longest wait for anything that must happen, on a busy machine with an unoptimised binary.
pub const PATIENCE: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(20);

/// Polls until there is an answer; the test fails when there is none in time.
pub fn eventually<T>(what: &str, poll: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, poll).unwrap_or_else(|| panic!("waited too long for: {what}"))
}

/// How many times longer than a real one this machine may take for whatever must happen: an emulated one says so in `WHERRY_SLOWNESS`.
pub fn slowness() -> u32 {
    std::env::var("WHERRY_SLOWNESS").map_or(1, |n| n.parse().expect("WHERRY_SLOWNESS is a number"))
}

/// Polls until there is an answer or the time is over.
pub fn within<T>(time: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time * slowness();
    loop {
        if let Some(found) = poll() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

/// Holds all through `time`: for what must not happen.
pub fn steadily(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(holds(), "no longer true: {what}");
        std::thread::sleep(STEP);
    }
}

/// A container that runs `script` by the image's shell.
pub fn shell(script: &str) -> Value {
    json!({
        "image": {"ref": layout("plain")}, "command": ["/bin/sh", "-c", script],
        "stop": {"timeout": "3s"}, "restart": {"delay": "100ms", "max_delay": "1s"},
    })
}

/// A container that runs until it is told to end.
pub fn sleeper() -> Value {
    shell("exec sleep 100000")
}

/// `base` with the fields of `extra`, one level deep.
pub fn with(mut base: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else { panic!("not an object: {extra}") };
    for (key, value) in extra {
        base[key] = value;
    }
    base
}

/// A manifest of one container `main`.
pub fn manifest(app: &str, container: Value) -> Value {
    json!({"wherry": 1, "app": app, "containers": {"main": container}})
}

/// The same with a sequence number.
pub fn numbered(app: &str, seq: u64, container: Value) -> Value {
    with(manifest(app, container), json!({"seq": seq}))
}

/// True while a process of this number is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Sends a signal to one process.
pub fn kill(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("cannot send {signal} to {pid}: {e}"));
}

/// The children of a process that run as this role.
pub fn role_of(parent: i32, role: &str) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let is_role = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|b| *b == 0).nth(1) == Some(role.as_bytes())
    };
    children.split_ascii_whitespace().filter_map(|p| p.parse().ok()).find(is_role)
}
