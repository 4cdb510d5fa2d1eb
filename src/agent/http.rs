//! HTTP/1.1 as far as a download needs it (RFC 9110, RFC 9112): one GET, a head, a body by length, in chunks, or up to the end. Pure.

use crate::image::Url;
use crate::trust::base64;
use bytes::{Buf, Bytes, BytesMut};

/// Longest answer head that is taken, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most fields of a head.
const MAX_FIELDS: usize = 64;
/// Longest line that begins a chunk: a number and extensions that nobody uses.
const MAX_CHUNK_LINE: usize = 256;

/// Where a download goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Bytes that are there already.
    pub from: u64,
    /// What the server said of the version they are from: only if it still has that one is the rest of any use.
    pub validator: Option<String>,
}

/// What an answer says before its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// `Content-Length`.
    pub length: Option<u64>,
    /// The body comes in chunks.
    pub chunked: bool,
    /// `Location`.
    pub location: Option<String>,
    /// A strong `ETag`, else `Last-Modified` (RFC 9110 section 13.1.5: what `If-Range` may name).
    pub validator: Option<String>,
    /// `Content-Range`: first byte if there is one, and the length of the whole if it is known.
    pub range: Option<(Option<u64>, Option<u64>)>,
}

/// The request. `proxied`: the whole URL is named, for a proxy (RFC 9112 section 3.2.2).
pub fn get(url: &Url, proxied: bool, resume: &Resume, authorization: Option<&str>) -> String {
    let target = if proxied { url.to_string() } else { url.target.clone() };
    let mut text = format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: wherry/{}\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n",
        url.authority(),
        env!("CARGO_PKG_VERSION")
    );
    if resume.from > 0 {
        text.push_str(&format!("Range: bytes={}-\r\n", resume.from));
        text.extend(resume.validator.iter().map(|v| format!("If-Range: {v}\r\n")));
    }
    text.extend(authorization.filter(|_| proxied).map(|a| format!("Proxy-Authorization: {a}\r\n")));
    text + "\r\n"
}

/// The request for a tunnel through a proxy (RFC 9110 section 9.3.6).
pub fn connect(url: &Url, authorization: Option<&str>) -> String {
    let to = format!("{}:{}", url.host, url.port);
    let authorization = authorization.map_or(String::new(), |a| format!("Proxy-Authorization: {a}\r\n"));
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{authorization}\r\n")
}

/// `Basic` credentials (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::encode(format!("{user}:{password}").as_bytes()))
}

/// The head at the front of `bytes`, and its length; `None` while it is not complete.
///
/// # Errors
/// A sentence.
pub fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(None),
        Ok(_) => return Err(format!("the server's answer has a head of more than {MAX_HEAD} bytes")),
        Err(e) => return Err(format!("the server's answer is no HTTP: {e}")),
    };
    let mut head = Head { status: answer.code.unwrap_or_default(), ..Head::default() };
    let mut modified = None;
    for field in answer.headers.iter() {
        let Ok(value) = std::str::from_utf8(field.value).map(str::trim) else { continue };
        match field.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.parse().map_err(|_| format!("the server's Content-Length is {value:?}"))?;
                // Two that differ are how requests are smuggled (RFC 9112 section 6.3).
                if head.length.replace(length).is_some_and(|before| before != length) {
                    return Err("the server names two lengths".into());
                }
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => head.chunked = true,
            "transfer-encoding" => return Err(format!("the server sends {value:?}, which nobody asked for")),
            "content-encoding" if value.eq_ignore_ascii_case("identity") => {}
            // Some servers say so of a file that is a gzip archive: what is meant is the file, and that is what comes.
            "content-encoding" => {}
            "location" => head.location = Some(value.to_owned()),
            "etag" if value.starts_with('"') && is_plain(value) => head.validator = Some(value.to_owned()),
            "last-modified" if is_plain(value) => modified = Some(value.to_owned()),
            "content-range" => head.range = Some(range(value).ok_or_else(|| format!("the server's Content-Range is {value:?}"))?),
            _ => {}
        }
    }
    head.validator = head.validator.or(modified);
    Ok(Some((head, length)))
}

/// It goes back to the server in a line of its own.
fn is_plain(value: &str) -> bool {
    value.len() <= 256 && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// `bytes 7-9/10`, `bytes 7-9/*`, `bytes */10`.
fn range(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (part, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    let first = if part == "*" { None } else { Some(part.split_once('-')?.0.parse().ok()?) };
    Some((first, whole))
}

/// How a body ends, and how much of it is still to come.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes more.
    Length(u64),
    /// When the connection ends.
    UntilClose,
    /// In chunks; this one has so many bytes more.
    Chunk(u64),
    /// The line end behind a chunk, or its rest.
    BehindChunk,
    /// A chunk's first line.
    ChunkLine,
    /// What may follow the last chunk.
    Trailer,
    /// All is there.
    Complete,
}

impl Body {
    /// Of this answer.
    pub fn of(head: &Head) -> Self {
        match head.length {
            _ if head.chunked => Self::ChunkLine,
            Some(0) => Self::Complete,
            Some(length) => Self::Length(length),
            None => Self::UntilClose,
        }
    }

    /// Bytes of content at the front of what has arrived; `None`: more must arrive first, or all is there.
    ///
    /// # Errors
    /// A sentence.
    pub fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Bytes>, String> {
        loop {
            match self {
                Self::Complete => return Ok(None),
                _ if arrived.is_empty() => return Ok(None),
                Self::UntilClose => return Ok(Some(arrived.split().freeze())),
                Self::Length(left) => {
                    let content = cut(arrived, left);
                    if *left == 0 {
                        *self = Self::Complete;
                    }
                    return Ok(Some(content));
                }
                Self::Chunk(left) => {
                    let content = cut(arrived, left);
                    if *left == 0 {
                        *self = Self::BehindChunk;
                    }
                    return Ok(Some(content));
                }
                Self::BehindChunk | Self::ChunkLine | Self::Trailer => match line(arrived)? {
                    None => return Ok(None),
                    Some(line) => *self = self.after(&line)?,
                },
            }
        }
    }

    fn after(&self, line: &[u8]) -> Result<Self, String> {
        match self {
            Self::BehindChunk if line.is_empty() => Ok(Self::ChunkLine),
            Self::Trailer if line.is_empty() => Ok(Self::Complete),
            Self::Trailer => Ok(Self::Trailer),
            // The parser takes a line without digits for the number 0.
            Self::ChunkLine if !line.first().is_some_and(u8::is_ascii_hexdigit) => {
                Err("the server's answer is no HTTP: a chunk has no length".into())
            }
            Self::ChunkLine => match httparse::parse_chunk_size(&[line, b"\r\n"].concat()) {
                Ok(httparse::Status::Complete((_, 0))) => Ok(Self::Trailer),
                Ok(httparse::Status::Complete((_, size))) => Ok(Self::Chunk(size)),
                _ => Err("the server's answer is no HTTP: a chunk has no length".into()),
            },
            _ => Err("the server's answer is no HTTP: a chunk is longer than it says".into()),
        }
    }
}

fn cut(arrived: &mut BytesMut, left: &mut u64) -> Bytes {
    let n = arrived.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= n as u64;
    arrived.split_to(n).freeze()
}

/// The next line without its end.
fn line(arrived: &mut BytesMut) -> Result<Option<Vec<u8>>, String> {
    match arrived.iter().position(|b| *b == b'\n') {
        Some(end) if end <= MAX_CHUNK_LINE => {
            let line = arrived[..end].strip_suffix(b"\r").unwrap_or(&arrived[..end]).to_vec();
            arrived.advance(end + 1);
            Ok(Some(line))
        }
        None if arrived.len() <= MAX_CHUNK_LINE => Ok(None),
        _ => Err("the server's answer is no HTTP: a line in its chunks does not end".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Head {
        head(text.as_bytes()).unwrap().expect(text).0
    }

    #[test]
    fn a_head_is_read_wherever_it_is_cut() {
        let text = "HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nETag: \"v1\"\r\nLast-Modified: then\r\nContent-Range: bytes 7-9/10\r\n\r\nabc";
        let wanted =
            Head { status: 206, length: Some(3), validator: Some("\"v1\"".into()), range: Some((Some(7), Some(10))), ..Head::default() };
        assert_eq!(head(text.as_bytes()), Ok(Some((wanted, text.len() - 3))));
        for end in 0..text.len() - 3 {
            assert_eq!(head(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
        assert_eq!(read("HTTP/1.1 200 OK\r\nETag: W/\"v\"\r\nlast-modified: then\r\n\r\n").validator, Some("then".into()));
        assert_eq!(read("HTTP/1.0 416 x\r\nContent-Range: bytes */10\r\n\r\n").range, Some((None, Some(10))));
    }

    #[test]
    fn what_is_no_head_is_refused_in_words() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_HEAD));
        for (text, words) in [
            ("SSH-2.0-OpenSSH\r\n", "no HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two lengths"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "nobody asked for"),
            ("HTTP/1.1 206 x\r\nContent-Range: lines 1-2/3\r\n\r\n", "Content-Range"),
            (long.as_str(), "16384"),
        ] {
            let error = head(text.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    /// Everything that comes out when the bytes arrive `step` at a time.
    fn body(mut body: Body, bytes: &[u8], step: usize) -> Result<(Vec<u8>, Body), String> {
        let (mut arrived, mut out) = (BytesMut::new(), Vec::new());
        for part in bytes.chunks(step) {
            arrived.extend_from_slice(part);
            while let Some(content) = body.take(&mut arrived)? {
                out.extend_from_slice(&content);
            }
        }
        Ok((out, body))
    }

    #[test]
    fn bodies_end_by_length_by_their_last_chunk_or_with_the_connection() {
        let chunks = b"4\r\nwher\r\n2;x=y\r\nry\r\n0\r\nTrailer: z\r\n\r\nbehind";
        for step in [1, 2, 3, 7, 100] {
            assert_eq!(body(Body::ChunkLine, chunks, step), Ok((b"wherry".to_vec(), Body::Complete)), "{step}");
            assert_eq!(body(Body::Length(6), b"wherry and more", step), Ok((b"wherry".to_vec(), Body::Complete)));
            assert_eq!(body(Body::Length(9), b"wherry", step), Ok((b"wherry".to_vec(), Body::Length(3))));
            assert_eq!(body(Body::UntilClose, b"wherry", step), Ok((b"wherry".to_vec(), Body::UntilClose)));
        }
        for bad in [&b"x\r\n"[..], b"\r\n", b"2\r\nabc\r\n", b"ffffffffffffffffff\r\n", &[b'1'; 300]] {
            assert!(body(Body::ChunkLine, bad, 1).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_asks_for_the_rest_of_the_same_version_only() {
        let url: Url = "http://h:8080/a?b".parse().unwrap();
        let text = get(&url, false, &Resume { from: 0, validator: None }, Some("Basic x"));
        assert!(text.starts_with("GET /a?b HTTP/1.1\r\nHost: h:8080\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(!text.contains("Range") && !text.contains("Proxy"), "{text}");
        let text = get(&url, true, &Resume { from: 7, validator: Some("\"v\"".into()) }, Some("Basic x"));
        assert!(text.starts_with("GET http://h:8080/a?b HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nRange: bytes=7-\r\nIf-Range: \"v\"\r\nProxy-Authorization: Basic x\r\n\r\n"), "{text}");
    }

    #[test]
    fn credentials_are_encoded() {
        // The example of RFC 7617, section 2.
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
