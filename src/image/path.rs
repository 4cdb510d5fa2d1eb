//! Names from archives, made harmless: relative, without `..`, bounded.

use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest name in an archive, in bytes (`PATH_MAX` of Linux).
pub const MAX_NAME: usize = 4096;
/// Longest single component, in bytes (`NAME_MAX` of Linux).
const MAX_COMPONENT: usize = 255;
/// Deepest nesting: a tree of thousands of levels cannot be removed with the usual number of descriptors.
const MAX_DEPTH: usize = 256;

/// A path below some root: no leading slash, no empty, `.` or `..` component. Empty means the root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Cleans a name as it stands in an archive. Absolute names are taken relative, as tar(1) does.
    ///
    /// # Errors
    /// What is wrong with it, to go behind the entry's name in a sentence.
    pub fn parse(raw: &[u8]) -> Result<Self, &'static str> {
        if raw.len() > MAX_NAME {
            return Err("has a name longer than 4096 bytes");
        }
        if raw.contains(&0) {
            return Err("has a zero byte in its name");
        }
        let parts: Vec<&[u8]> = raw.split(|c| *c == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
        if parts.contains(&&b".."[..]) {
            return Err("has '..' in its name");
        }
        if parts.iter().any(|p| p.len() > MAX_COMPONENT) {
            return Err("has a component longer than 255 bytes in its name");
        }
        if parts.len() > MAX_DEPTH {
            return Err("is nested more than 256 levels deep");
        }
        Ok(Self(parts.join(&b'/')))
    }

    /// The root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without slashes at either end.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// For system calls relative to the root: `.` for the root itself.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }

    /// The directory it is in, and its name there; `None` for the root.
    pub fn split(&self) -> Option<(RelPath, &OsStr)> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|c| *c == b'/');
        let parent = cut.map_or(&[][..], |i| &self.0[..i]);
        Some((Self(parent.to_vec()), OsStr::from_bytes(&self.0[cut.map_or(0, |i| i + 1)..])))
    }

    /// A name in this directory. The name must be a single component.
    ///
    /// # Errors
    /// As for [`RelPath::parse`].
    pub fn join(&self, name: &[u8]) -> Result<Self, &'static str> {
        Self::parse(&[&self.0, &b"/"[..], name].concat())
    }

    /// Each component, outermost first.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|c| *c == b'/').filter(|p| !p.is_empty())
    }

    /// Every directory on the way, outermost first, itself last; without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> + '_ {
        let ends = self.0.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(i, _)| i).chain(Some(self.0.len()));
        ends.filter(|end| *end > 0).map(|end| Self(self.0[..end].to_vec()))
    }
}

impl TryFrom<Vec<u8>> for RelPath {
    type Error = &'static str;
    fn try_from(raw: Vec<u8>) -> Result<Self, Self::Error> {
        Self::parse(&raw)
    }
}

impl From<RelPath> for Vec<u8> {
    fn from(p: RelPath) -> Self {
        p.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&if self.is_root() { ".".to_owned() } else { printable(&self.0) })
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name from an archive for a message: no control characters, at most 200 characters, and something to see in any case.
pub fn printable(raw: &[u8]) -> String {
    const MOST: usize = 200;
    if raw.is_empty() {
        return "\"\"".to_owned();
    }
    let text = String::from_utf8_lossy(raw);
    let short: String = text.chars().take(MOST).collect();
    format!("{}{}", short.escape_debug(), if short.len() < text.len() { "…" } else { "" })
}

/// Whether a symbolic link in directory `from` would, taken literally, point above the root.
pub fn climbs_out(from: &RelPath, target: &[u8]) -> bool {
    let mut depth = if target.first() == Some(&b'/') { 0 } else { from.components().count() as i64 };
    for part in target.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{RelPath, climbs_out};

    #[test]
    fn names_become_relative_and_clean() {
        for (raw, clean) in [("/etc//x/", "etc/x"), ("./a/./b", "a/b"), ("", ""), ("/", ""), ("a..b/...", "a..b/...")] {
            assert_eq!(RelPath::parse(raw.as_bytes()).unwrap().bytes(), clean.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn names_that_lead_out_or_are_too_long_are_refused() {
        let deep = "d/".repeat(300);
        let long = "x".repeat(256);
        for raw in ["..", "a/../b", "/..", "a\0b", &deep, &long, &"y".repeat(5000)] {
            assert!(RelPath::parse(raw.as_bytes()).is_err(), "{raw}");
        }
    }

    #[test]
    fn ancestors_go_from_the_outermost_to_the_path_itself() {
        let all: Vec<String> = RelPath::parse(b"a/b/c").unwrap().ancestors().map(|p| p.to_string()).collect();
        assert_eq!(all, ["a", "a/b", "a/b/c"]);
        assert_eq!(RelPath::default().ancestors().count(), 0);
    }

    #[test]
    fn links_that_climb_above_the_root_are_seen() {
        let at = RelPath::parse(b"a/b").unwrap();
        for (target, out) in [("../../x", false), ("../../../x", true), ("/etc", false), ("/../etc", true), ("x/../../../..", true)] {
            assert_eq!(climbs_out(&at, target.as_bytes()), out, "{target}");
        }
    }
}
