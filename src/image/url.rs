//! Addresses of images: `http://` and `https://` URLs (RFC 3986, RFC 9110 section 4.2), read once into their parts. Pure.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest URL that is taken, in bytes; servers are asked to take 8000 (RFC 9110 section 4.1), and nobody's download link is that long.
pub const MAX_URL: usize = 2048;

/// An absolute URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// `https`, not `http`.
    pub tls: bool,
    /// DNS name, IPv4 address, or IPv6 address in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query, as asked for: begins with `/`.
    pub target: String,
}

impl Url {
    /// Host, and the port if it is not the scheme's own: the `Host` field (RFC 9110 section 7.2).
    pub fn authority(&self) -> String {
        if self.port == default_port(self.tls) { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Where a `Location` field leads from here (RFC 9110 section 10.2.2): an absolute URL, a path, or a name beside this one.
    ///
    /// # Errors
    /// A sentence.
    pub fn join(&self, location: &str) -> Result<Self, String> {
        let location = location.split('#').next().unwrap_or_default();
        if location.contains("://") {
            return location.parse();
        }
        if let Some(rest) = location.strip_prefix("//") {
            return format!("{}://{rest}", scheme(self.tls)).parse();
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let target = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') || location.is_empty() {
            format!("{path}{location}")
        } else {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        };
        format!("{}://{}{target}", scheme(self.tls), self.authority()).parse()
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", scheme(self.tls), self.authority(), self.target)
    }
}

impl FromStr for Url {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_URL {
            return Err(format!("must have at most {MAX_URL} bytes"));
        }
        // Beyond these, a byte must be percent-encoded (RFC 3986 section 2); a control character would end our request line early.
        if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')) {
            return Err(format!("must not have the character {c:?} (percent-encode it)"));
        }
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err("must begin with https:// or http://".into()),
        };
        if rest.contains('#') {
            return Err("must not have a fragment (#…)".into());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("must not have a user name or password: everybody who reads the manifest would see it".into());
        }
        let (host, port) = host_and_port(authority, default_port(tls))?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { tls, host: host.to_owned(), port, target: format!("{slash}{target}") })
    }
}

/// `host[:port]`, as it stands in URLs.
///
/// # Errors
/// A sentence.
pub fn host_and_port(text: &str, default: u16) -> Result<(&str, u16), String> {
    let split = match text.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|end| end + 2).ok_or("has an address without its closing bracket")?,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(split);
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.chars().all(word),
    };
    if !good {
        return Err(format!("has no host name or address where {host:?} stands"));
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host, default)),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => match port.parse() {
            Ok(port) if port > 0 => Ok((host, port)),
            _ => Err(format!("has the port {port}, which is none")),
        },
        _ => Err(format!("has {rest:?} where a port belongs")),
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    fn url(text: &str) -> Url {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn urls_are_read_into_their_parts() {
        for (text, tls, host, port, target, authority) in [
            ("http://h/x.tar", false, "h", 80, "/x.tar", "h"),
            ("https://images.example:8443/a/b.tar.gz?v=1&w=2", true, "images.example", 8443, "/a/b.tar.gz?v=1&w=2", "images.example:8443"),
            ("https://h:443", true, "h", 443, "/", "h"),
            ("http://[2001:db8::1]:8080/x", false, "[2001:db8::1]", 8080, "/x", "[2001:db8::1]:8080"),
            ("http://192.0.2.1?q", false, "192.0.2.1", 80, "/?q", "192.0.2.1"),
        ] {
            let found = url(text);
            assert_eq!(found, Url { tls, host: host.into(), port, target: target.into() }, "{text}");
            assert_eq!(found.authority(), authority);
            assert_eq!(url(&found.to_string()), found);
        }
    }

    #[test]
    fn what_is_no_url_of_an_image_is_refused_in_words() {
        let long = format!("https://h/{}", "x".repeat(2048));
        for (text, words) in [
            ("ftp://h/x", "https:// or http://"),
            ("https:/h", "https:// or http://"),
            ("https://", "no host"),
            ("https:///x", "no host"),
            ("https://h:0/x", "port"),
            ("https://h:70000/x", "port"),
            ("https://h:+80/x", "port"),
            ("https://[::1/x", "bracket"),
            ("https://[nope]/x", "no host"),
            ("https://[::1]x/y", "port"),
            ("https://user:word@h/x", "user name"),
            ("https://h/x#part", "fragment"),
            ("https://h/a b", "' '"),
            ("https://h/a\r\nHost: evil", "'\\r'"),
            ("https://h/ä", "percent-encode"),
            (long.as_str(), "2048"),
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_redirect_is_followed_from_where_it_stands() {
        let base = url("https://h:8443/a/b.tar?x=1");
        for (location, wanted) in [
            ("http://other/c", "http://other/c"),
            ("//other/c", "https://other/c"),
            ("/c/d?e", "https://h:8443/c/d?e"),
            ("c.tar#part", "https://h:8443/a/c.tar"),
            ("?y", "https://h:8443/a/b.tar?y"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), wanted);
        }
        assert!(base.join("ftp://h/x").is_err());
    }
}
