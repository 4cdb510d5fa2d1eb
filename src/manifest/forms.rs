//! The forms of strings in our documents: names, paths, users, signals, capabilities.

use super::health::http_path;
use super::shape::{Form, Objection, bad};
use super::{Id, Name, Peer, RlimitKind, calendar, units};
use crate::image::{Digest, Reference};
use serde::Deserialize;
use std::net::IpAddr;

/// Longest path (Linux `PATH_MAX` without its NUL).
pub const MAX_PATH: usize = 4095;
/// Longest host name (Linux `HOST_NAME_MAX`).
pub const MAX_HOSTNAME: usize = 64;
/// Longest root topic; with it the longest topic stays below 300 bytes.
pub const MAX_ROOT: usize = 128;
/// `SIGRTMIN` as container tools write it: that of glibc, which keeps the first two real-time signals of the kernel for itself.
const RTMIN: i32 = 34;
/// The kernel's last real-time signal.
const RTMAX: i32 = 64;

const fn form(pattern: &'static str, check: fn(&str) -> Result<(), Objection>) -> Form {
    Form { pattern, check }
}

/// Any string without NUL.
pub static ANY: Form = form("", |_| Ok(()));
/// App and container names.
pub static NAME: Form = form("^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", |s| s.parse::<Name>().map(drop).map_err(bad));
/// Device and group ids.
pub static ID: Form = form("^[A-Za-z0-9_.-]{1,64}$", |s| s.parse::<Id>().map(drop).map_err(bad));
/// Root topics.
pub static ROOT: Form = form("^[^+#/$][^+#/]*(/[^+#/]+)*$", root);
/// Digests.
pub static DIGEST: Form = form("^sha256:[0-9a-f]{64}$", |s| s.parse::<Digest>().map(drop).map_err(bad));
/// Image references.
pub static REFERENCE: Form = form("", |s| match s.parse::<Reference>() {
    Ok(_) => Ok(()),
    Err(e) => Err((e.reason(), e.to_string())),
});
/// Names of environment variables.
pub static ENV_NAME: Form = form("^[^=]+$", |s| match s.is_empty() || s.contains('=') {
    true => Err(bad("must not be empty and must not contain '='")),
    false => Ok(()),
});
/// `user[:group]`.
pub static USER: Form = form("^[A-Za-z0-9_][A-Za-z0-9_.-]*[$]?(:[A-Za-z0-9_][A-Za-z0-9_.-]*[$]?)?$", user);
/// An absolute, plain path.
pub static PATH: Form = form("^/", path);
/// A path of the device; may contain variables.
pub static SOURCE: Form = form("^(/|[$][{])", |s| match has_variable(s) {
    true if s.starts_with(['/', '$']) => Ok(()),
    _ => path(s),
});
/// Permission bits of a file, in octal.
pub static MODE: Form = form("^0?[0-7]{3}$", |s| mode(s).map(drop).ok_or_else(|| bad("must be three octal digits like \"0644\"")));
/// The name of a secret.
pub static SECRET: Form = form("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$", |s| match s.starts_with(['.', '-']) {
    true => Err(bad("must not start with '.' or '-'")),
    false => s.parse::<Id>().map(drop).map_err(bad),
});
/// A path relative to something.
pub static RELATIVE: Form = form("^[^/]", |s| match s.starts_with('/') {
    true => Err(bad("must be a relative path")),
    false => path(&format!("/{s}")),
});
/// A mount target.
pub static TARGET: Form = form("^/.", target);
/// A working directory; may contain variables.
pub static WORKDIR: Form = form("", |s| if has_variable(s) { Ok(()) } else { path(s) });
/// A host name; may contain variables.
pub static HOSTNAME: Form = form("", |s| if has_variable(s) { Ok(()) } else { hostname(s) });
/// Host name or address of a server.
pub static HOST: Form = form("^[A-Za-z0-9_.:%-]{1,253}$", |s| {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b':' | b'%' | b'-');
    if (1..=253).contains(&s.len()) && s.bytes().all(good) { Ok(()) } else { Err(bad("must be a DNS name or an address")) }
});
/// An IP address.
pub static ADDRESS: Form = form("^[0-9a-fA-F.:]+$", |s| s.parse::<IpAddr>().map(drop).map_err(|_| bad("must be an IP address")));
/// A port, or an IP address and a port.
pub static PEER: Form = form("^([^ ]+:)?[0-9]{1,5}$", |s| s.parse::<Peer>().map(drop));
/// Path and query of an HTTP request.
pub static HTTP_PATH: Form = form("^/[!-~]*$", http_path);
/// Names of variables.
pub static VARIABLE: Form = form("^[A-Za-z0-9_.-]{1,64}$", |s| s.parse::<Id>().map(drop).map_err(bad));
/// A capability.
pub static CAPABILITY: Form = form("^(CAP_)?[A-Z_]+$", |s| capability(s).map(drop).ok_or_else(|| bad(NO_CAPABILITY)));
/// A capability, or all of them.
pub static CAPABILITY_OR_ALL: Form = form("^(CAP_)?[A-Z_]+$", |s| match s {
    "ALL" => Ok(()),
    _ => capability(s).map(drop).ok_or_else(|| bad(NO_CAPABILITY)),
});
const NO_CAPABILITY: &str = "must be a capability of capabilities(7), like NET_BIND_SERVICE";
/// A resource limit of getrlimit(2).
pub static RLIMIT: Form = form("^[a-z]+$", |s| rlimit(s).map(drop).ok_or_else(|| bad("must be a limit of getrlimit(2), like nofile")));
/// The value of a resource limit.
pub static LIMIT: Form = form("^(unlimited|[0-9]+[KMG]?)$", |s| limit(s).map(drop));
/// A signal.
pub static SIGNAL: Form = form("^(SIG)?[A-Z0-9+-]+$", |s| {
    signal(s).map(drop).ok_or_else(|| bad("must be a signal: a name like TERM, a number from 1 to 64, or RTMIN+n"))
});
/// A time of the wall clock.
pub static TIME: Form = form("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$", |s| {
    calendar::exact(s).map(drop).ok_or_else(|| bad("must be a time in UTC like \"2026-01-31T23:59:59Z\""))
});
/// A time of day.
pub static DAYTIME: Form = form("^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?Z$", |s| {
    calendar::daytime(s).map(drop).ok_or_else(|| bad("must be a time of day in UTC like \"02:00Z\" or \"02:00:30Z\""))
});
/// A session of a device: boot and conn.
pub static SESSION: Form = form("^[0-9]+[.][0-9]+$", |s| {
    let digits = s.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let numbers = s.split_once('.').and_then(|(boot, conn)| Some((boot.parse::<u64>().ok()?, conn.parse::<u64>().ok()?)));
    numbers.filter(|_| digits).map(drop).ok_or_else(|| bad("must be boot and conn of the device's presence, like \"12.3\""))
});

/// Whether a string has a variable to put in.
pub fn has_variable(s: &str) -> bool {
    s.contains("${")
}

fn root(s: &str) -> Result<(), Objection> {
    let wildcard = |c: char| matches!(c, '+' | '#') || c.is_control();
    if s.len() > MAX_ROOT {
        return Err(bad(format!("must not be longer than {MAX_ROOT} bytes")));
    }
    if s.contains(wildcard) {
        return Err(bad("must not contain the wildcards '+' and '#' or control characters"));
    }
    // Topics below `$` belong to the broker itself (MQTT 3.1.1, section 4.7.2).
    if s.starts_with('$') || s.split('/').any(str::is_empty) {
        return Err(bad("must be topic levels like wherry or site/wherry, none empty, not starting with '$'"));
    }
    Ok(())
}

fn user(s: &str) -> Result<(), Objection> {
    let part = |p: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-' | b'$');
        let named = !p.is_empty() && p.len() <= 32 && p.bytes().all(inner) && !p.starts_with(['-', '.', '$']);
        // 2^32 - 1 is "no change" for setuid(2).
        let number = p.bytes().all(|c| c.is_ascii_digit());
        named && (!number || p.parse::<u32>().is_ok_and(|n| n != u32::MAX))
    };
    let good = match s.split_once(':') {
        Some((user, group)) => part(user) && part(group),
        None => part(s),
    };
    if good { Ok(()) } else { Err(bad("must be user or user:group, names or numbers")) }
}

/// Checks an absolute path without empty, `.` and `..` parts.
pub fn path(s: &str) -> Result<(), Objection> {
    let Some(inner) = s.strip_prefix('/') else { return Err(bad("must be an absolute path")) };
    if s.len() > MAX_PATH {
        return Err(bad(format!("must not be longer than {MAX_PATH} bytes")));
    }
    if inner.is_empty() || inner.split('/').all(|part| !matches!(part, "" | "." | "..")) {
        return Ok(());
    }
    Err(bad("must not contain '..', '.', '//' or end with '/'"))
}

/// Mounting over these would undo what keeps the container in (masked files, verified devices).
const RESERVED: [&str; 3] = ["/proc", "/sys", "/dev"];

fn target(s: &str) -> Result<(), Objection> {
    path(s)?;
    if s == "/" {
        return Err(bad("must not be '/': that is the image's place"));
    }
    let inside = |dir: &&&str| below(s, dir);
    match RESERVED.iter().find(inside) {
        Some(dir) => Err(bad(format!("must not be {dir} or below it"))),
        None => Ok(()),
    }
}

/// Whether `path` is `dir` or stands below it; both plain.
pub fn below(path: &str, dir: &str) -> bool {
    dir == "/" || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks a host name (RFC 1123, section 2.1).
pub fn hostname(s: &str) -> Result<(), Objection> {
    let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-');
    if s.len() <= MAX_HOSTNAME && s.split('.').all(label) {
        return Ok(());
    }
    Err(bad(format!("must be a host name of at most {MAX_HOSTNAME} of a-z, A-Z, 0-9, '-' and '.'")))
}

/// Permission bits without set-id and sticky ones: `0644`, `644`.
pub fn mode(s: &str) -> Option<u16> {
    let digits = if s.len() == 4 { s.strip_prefix('0')? } else { s };
    let octal = digits.len() == 3 && digits.bytes().all(|c| (b'0'..=b'7').contains(&c));
    u16::from_str_radix(digits, 8).ok().filter(|_| octal)
}

/// A capability, with or without `CAP_`.
pub fn capability(s: &str) -> Option<caps::Capability> {
    let bare = s.strip_prefix("CAP_").unwrap_or(s);
    format!("CAP_{bare}").parse().ok()
}

/// The limit of that name.
pub fn rlimit(s: &str) -> Option<RlimitKind> {
    let text = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(s);
    RlimitKind::deserialize(text).ok()
}

/// The value of a resource limit; `u64::MAX` is unlimited (`RLIM_INFINITY`).
pub fn limit(s: &str) -> Result<u64, Objection> {
    match s {
        "unlimited" => Ok(u64::MAX),
        _ if s.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !s.ends_with(['K', 'M', 'G']) => {
            units::whole(s).map_err(|_| bad("must be a whole number, a size like \"64M\", or \"unlimited\""))
        }
        _ => units::size(s).map_err(|_| bad("must be a whole number, a size like \"64M\", or \"unlimited\"")),
    }
}

/// The number of a signal: `TERM`, `SIGTERM`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
pub fn signal(s: &str) -> Option<i32> {
    if let Some(number) = s.parse::<i32>().ok().filter(|_| !s.starts_with('+')) {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let bare = s.strip_prefix("SIG").unwrap_or(s);
    let real_time = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => rest.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from),
    };
    let number = if let Some(rest) = bare.strip_prefix("RTMIN") {
        RTMIN + real_time(rest, '+')?
    } else if let Some(rest) = bare.strip_prefix("RTMAX") {
        RTMAX - real_time(rest, '-')?
    } else {
        format!("SIG{bare}").parse::<nix::sys::signal::Signal>().ok()? as i32
    };
    (1..=RTMAX).contains(&number).then_some(number)
}
