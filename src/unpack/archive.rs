//! Tar entries from a stream: ustar, GNU long names, PAX records (POSIX.1-2017, pax, "pax Interchange Format").
//!
//! Every size is bounded before anything is allocated, and there is one opinion on where an entry ends: the PAX `size`, where
//! there is one. Parsers that disagree on that see different archives (CVE-2026-33055).

use crate::image::fault::{fault, os};
use crate::image::{MAX_NAME, printable};
use crate::ipc::Failure;
use crate::protocol::Reason;
use std::io::{self, Read};
use tar::{EntryType, Header};

/// Bytes of a header; content is padded to a multiple of it.
pub const BLOCK: usize = 512;
/// Longest block of PAX records, in bytes: names, and attributes of at most 64 KiB each (`XATTR_SIZE_MAX`).
const MAX_PAX: u64 = 1 << 20;
/// Highest user or group id: the next one means "unchanged" to chown(2).
const MAX_ID: u64 = u32::MAX as u64 - 1;

/// Bytes that can be skipped.
pub trait Skip: Read {
    /// Skips `n` bytes; fewer are `UnexpectedEof`.
    fn skip(&mut self, n: u64) -> io::Result<()>;
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with content.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A further name of an earlier entry.
    Hardlink,
    /// A named pipe.
    Fifo,
    /// A device node.
    Device,
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name as it stands in the archive.
    pub name: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, i64),
    /// Target of a link.
    pub link: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content begins in the (uncompressed) archive.
    pub offset: u64,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extra {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, i64)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    seen: Vec<EntryType>,
}

/// A tar archive.
pub struct Archive<'a> {
    // One code for every kind of input: this parser takes some twenty kilobytes of flash.
    input: Box<dyn Skip + 'a>,
    position: u64,
    /// Content of the current entry that has not been read.
    content: u64,
    /// Padding behind it.
    padding: u64,
    last: String,
}

fn hostile(message: String) -> Failure {
    fault(Reason::HostileArchive, message)
}

impl<'a> Archive<'a> {
    /// Nothing read yet.
    pub fn new(input: impl Skip + 'a) -> Self {
        Self { input: Box::new(input), position: 0, content: 0, padding: 0, last: "its beginning".to_owned() }
    }

    /// The next entry; `None` behind the last.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Failure> {
        let mut extra = Extra::default();
        loop {
            let Some(header) = self.header()? else {
                return if extra.seen.is_empty() { Ok(None) } else { Err(self.refused("the archive ends with an extended header")) };
            };
            let kind = header.entry_type();
            let name = header.path_bytes().into_owned();
            if !(kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() || kind.is_pax_global_extensions()) {
                return self.entry(&header, name, extra).map(Some);
            }
            let size = count(&name, "size", &header.as_old().size)?;
            if extra.seen.contains(&kind) {
                return Err(hostile(format!("entry {} is described twice", printable(&name))));
            }
            extra.seen.push(kind);
            let body =
                self.small(&name, size, if kind.is_gnu_longname() || kind.is_gnu_longlink() { MAX_NAME as u64 + 1 } else { MAX_PAX })?;
            match kind {
                EntryType::GNULongName => extra.name = Some(c_string(body)),
                EntryType::GNULongLink => extra.link = Some(c_string(body)),
                EntryType::XGlobalHeader => check_global(&body).map_err(|why| self.refused(&why))?,
                _ => extra.pax(&body).map_err(|why| self.refused(&why))?,
            }
        }
    }

    fn entry(&mut self, header: &Header, short: Vec<u8>, extra: Extra) -> Result<Entry, Failure> {
        let name = extra.name.unwrap_or(short);
        let kind = kind(header, &name)?;
        // Only files have content; a size on anything else is ignored, as Go's archive/tar does.
        let size = match kind {
            Kind::File => extra.size.map_or_else(|| count(&name, "size", &header.as_old().size), Ok)?,
            _ => 0,
        };
        let link = extra.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let old = header.as_old();
        let uid = extra.uid.map_or_else(|| count(&name, "owner", &old.uid), Ok)?;
        let gid = extra.gid.map_or_else(|| count(&name, "group", &old.gid), Ok)?;
        if uid > MAX_ID || gid > MAX_ID {
            return Err(hostile(format!("entry {} belongs to {uid}:{gid}, which no file can", printable(&name))));
        }
        let mode = count(&name, "mode", &old.mode)? as u32 & 0o7777;
        let mtime = extra.mtime.map_or_else(|| field(&name, "time", &old.mtime).map(|s| (s, 0)), Ok)?;
        self.begin(size);
        self.last = printable(&name);
        let offset = self.position;
        Ok(Entry { name, kind, size, mode, uid: uid as u32, gid: gid as u32, mtime, link, xattrs: extra.xattrs, offset })
    }

    /// Content of the current entry; 0 bytes at its end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Failure> {
        let want = out.len().min(self.content.try_into().unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut out[..want]).map_err(|e| self.broken(e))?;
        if got == 0 {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        self.content -= got as u64;
        self.position += got as u64;
        Ok(got)
    }

    fn begin(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// A small entry's whole content.
    fn small(&mut self, name: &[u8], size: u64, most: u64) -> Result<Vec<u8>, Failure> {
        if size > most {
            return Err(hostile(format!("the extended header of {} has {size} bytes, at most {most} are allowed", printable(name))));
        }
        self.begin(size);
        let mut body = vec![0; size as usize];
        let mut filled = 0;
        while filled < body.len() {
            filled += self.read(&mut body[filled..])?;
        }
        Ok(body)
    }

    /// The next header block; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, Failure> {
        self.input.skip(self.content).map_err(|e| self.broken(e))?;
        match self.input.skip(self.padding) {
            // umoci 0.4 leaves out the padding and the end mark when it inserts a file; the content is whole.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            answer => answer.map_err(|e| self.broken(e))?,
        }
        // Content is bounded by the input that was there, so this cannot overflow.
        self.position += self.content + self.padding;
        self.begin(0);
        let mut header = Header::new_old();
        match self.block(header.as_mut_bytes())? {
            false if self.position == 0 => return Err(hostile("the archive is empty: it has not even an end mark".into())),
            false => return Ok(None),
            true if header.as_bytes().iter().all(|b| *b == 0) => return self.rest_is_empty().map(|()| None),
            true => self.position += BLOCK as u64,
        }
        if !is_header(header.as_bytes()) {
            return Err(hostile(format!("the header behind {} is damaged (wrong checksum); is it a tar archive?", self.last)));
        }
        Ok(Some(header))
    }

    /// Fills a block; `false` when the input ends exactly before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Failure> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.broken(e)),
            }
        }
        Ok(true)
    }

    /// Behind the end mark only padding is allowed. It is read to its end: hash must see all of the blob.
    fn rest_is_empty(&mut self) -> Result<(), Failure> {
        const MAX_PADDING: u64 = 1 << 20;
        let (mut chunk, mut seen) = ([0; 4096], 0);
        loop {
            let got = self.input.read(&mut chunk).map_err(|e| self.broken(e))?;
            seen += got as u64;
            if chunk[..got].iter().any(|b| *b != 0) || seen > MAX_PADDING {
                return Err(self.refused("the archive goes on behind its end mark"));
            }
            if got == 0 {
                return Ok(());
            }
        }
    }

    /// What is wrong where no entry has a name yet.
    fn refused(&self, why: &str) -> Failure {
        hostile(format!("{why} (at {})", self.last))
    }

    fn broken(&self, e: io::Error) -> Failure {
        match e.kind() {
            _ if e.raw_os_error().is_some() => os("cannot read the archive", e),
            io::ErrorKind::UnexpectedEof => hostile(format!("the archive is cut short at {}", self.last)),
            io::ErrorKind::QuotaExceeded => fault(Reason::NoSpace, "the archive expands to more than its limit"),
            _ => hostile(format!("the archive is damaged at {}: {e}", self.last)),
        }
    }
}

fn kind(header: &Header, name: &[u8]) -> Result<Kind, Failure> {
    match header.entry_type() {
        // Before POSIX a directory was a file whose name ends with a slash.
        EntryType::Regular if name.ends_with(b"/") => Ok(Kind::Directory),
        EntryType::Regular | EntryType::Continuous => Ok(Kind::File),
        EntryType::Directory => Ok(Kind::Directory),
        EntryType::Symlink => Ok(Kind::Symlink),
        EntryType::Link => Ok(Kind::Hardlink),
        EntryType::Fifo => Ok(Kind::Fifo),
        EntryType::Char | EntryType::Block => Ok(Kind::Device),
        EntryType::GNUSparse => Err(hostile(format!("entry {} is sparse, which layers may not be", printable(name)))),
        other => Err(hostile(format!("entry {} has the unknown type {:?}", printable(name), char::from(other.as_byte())))),
    }
}

/// A number of a header that counts something.
fn count(name: &[u8], what: &str, bytes: &[u8]) -> Result<u64, Failure> {
    number(bytes).and_then(|n| n.try_into().ok()).ok_or_else(|| damaged(name, what))
}

/// A number of a header that may be negative.
fn field(name: &[u8], what: &str, bytes: &[u8]) -> Result<i64, Failure> {
    number(bytes).and_then(|n| n.try_into().ok()).ok_or_else(|| damaged(name, what))
}

fn damaged(name: &[u8], what: &str) -> Failure {
    hostile(format!("entry {} has a damaged {what}", printable(name)))
}

/// A field's number: octal text, or two's complement in base 256 where the first bit is set (GNU tar manual, "Standard").
/// Every byte counts: a reader that drops the upper ones sees another archive than all others. Some writers leave fields blank
/// that they do not use; that is 0.
fn number(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    if first & 0x80 == 0 {
        return octal(bytes);
    }
    // The first bit is the mark, the second the sign; twelve bytes fit with room.
    let start = if first & 0x40 == 0 { i128::from(first & 0x3f) } else { i128::from(first) - 0x100 };
    Some(bytes[1..].iter().fold(start, |n, b| n * 256 + i128::from(*b)))
}

fn octal(bytes: &[u8]) -> Option<i128> {
    if bytes.iter().all(|b| matches!(b, 0 | b' ')) {
        return Some(0);
    }
    let text = bytes.split(|b| *b == 0).next()?.trim_ascii();
    let digits = !text.is_empty() && text.iter().all(|b| matches!(b, b'0'..=b'7'));
    digits.then(|| text.iter().fold(0, |n, b| n * 8 + i128::from(b - b'0')))
}

/// The block is a header that is not damaged.
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    number(&block[148..156]) == Some(checksum(block).into())
}

fn checksum(block: &[u8; BLOCK]) -> u32 {
    let (before, after) = (&block[..148], &block[156..]);
    before.iter().chain(after).map(|b| u32::from(*b)).sum::<u32>() + 8 * u32::from(b' ')
}

fn c_string(mut body: Vec<u8>) -> Vec<u8> {
    body.truncate(body.iter().position(|b| *b == 0).unwrap_or(body.len()));
    body
}

/// Splits PAX records, `LENGTH KEY=VALUE\n`. The length counts: a value may hold any byte, newlines too.
fn records(mut body: &[u8]) -> Result<Vec<Pair<'_>>, String> {
    let mut all = Vec::new();
    while !body.is_empty() {
        let (record, rest) = record(body).ok_or("a PAX record is damaged")?;
        all.push(record);
        body = rest;
    }
    Ok(all)
}

type Pair<'a> = (&'a [u8], &'a [u8]);

fn record(body: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let space = body.iter().position(|b| *b == b' ')?;
    let length: usize = decimal(&body[..space])?.try_into().ok()?;
    let text = body.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|b| *b == b'=')?;
    Some(((&text[..equals], &text[equals + 1..]), &body[length..]))
}

/// Digits only: `str::parse` would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn check_global(body: &[u8]) -> Result<(), String> {
    for (key, _) in records(body)? {
        if matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid") || key.starts_with(b"GNU.sparse") {
            return Err(format!("a global header sets {} for all entries", printable(key)));
        }
    }
    Ok(())
}

impl Extra {
    fn pax(&mut self, body: &[u8]) -> Result<(), String> {
        for (key, value) in records(body)? {
            let bad = || format!("the PAX record {}={} is damaged", printable(key), printable(value));
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or_else(bad)?),
                b"uid" => self.uid = Some(decimal(value).ok_or_else(bad)?),
                b"gid" => self.gid = Some(decimal(value).ok_or_else(bad)?),
                b"mtime" => self.mtime = Some(time(value).ok_or_else(bad)?),
                _ if key.starts_with(b"GNU.sparse") => return Err("a sparse entry, which layers may not have".into()),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// `[-]seconds[.fraction]` to whole seconds, rounded down, and nanoseconds.
fn time(text: &[u8]) -> Option<(i64, i64)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |t| (true, t));
    let dot = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..dot])?).ok()?;
    let fraction = text.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = fraction.iter().chain(&[b'0'; 9]).take(9).fold(0, |n, d| n * 10 + i64::from(d - b'0'));
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::{Archive, Skip, number, records, time};
    use std::io::{self, Read};

    impl Skip for &[u8] {
        fn skip(&mut self, n: u64) -> io::Result<()> {
            let n = usize::try_from(n).ok().filter(|n| *n <= self.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            *self = &self[n..];
            Ok(())
        }
    }

    /// Reads all of an archive; the number of entries and of bytes.
    fn read_all(bytes: &[u8]) -> Result<(usize, usize), crate::ipc::Failure> {
        let mut archive = Archive::new(bytes);
        let (mut entries, mut content, mut chunk) = (0, 0, [0; 100]);
        while archive.next_entry()?.is_some() {
            entries += 1;
            loop {
                match archive.read(&mut chunk)? {
                    0 => break,
                    n => content += n,
                }
            }
        }
        Ok((entries, content))
    }

    fn sample() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let records = [("SCHILY.xattr.user.a", &b"1\n2"[..]), ("mtime", b"1.5"), ("size", b"700")];
        builder.append_pax_extensions(records).unwrap();
        for name in ["first".to_owned(), "n".repeat(300)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(700);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, io::repeat(7).take(700)).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn no_changed_byte_and_no_cut_makes_the_reader_loop_or_read_behind_the_end() {
        let good = sample();
        assert_eq!(read_all(&good).unwrap(), (2, 1400));
        for i in 0..good.len() {
            for change in [0x01, 0x80, 0xff, good[i], good[i] ^ b'9'] {
                let mut bad = good.clone();
                bad[i] ^= change;
                // The checksum would hide most changes of headers from the code behind it.
                for mended in [bad.clone(), mend(bad)] {
                    if let Ok((_, content)) = read_all(&mended) {
                        assert!(content <= mended.len());
                    }
                }
            }
            let _ = read_all(&good[..i]);
        }
    }

    /// Sets the checksum of every block that looks like a header.
    fn mend(mut bytes: Vec<u8>) -> Vec<u8> {
        for block in bytes.chunks_exact_mut(512).filter(|b| &b[257..262] == b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        bytes
    }

    #[test]
    fn an_archive_cut_in_an_entry_is_refused_and_one_without_end_mark_is_taken() {
        let good = sample();
        let end = good.len() - 1024;
        assert_eq!(read_all(&good[..end]).unwrap(), (2, 1400));
        for length in [100, 600, 1100, end - 400, end - 900] {
            assert!(read_all(&good[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256_with_every_byte_and_a_sign() {
        let cases: [(&[u8], Option<i128>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777", Some(0o77_777_777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", Some(1 << 64)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff", Some((1 << 62) - 1)),
            (b"+000644\0", None),
            (b"-000001\0", None),
            (b"0000648\0", None),
            (b"\x000000644", None),
            (b"0x1f\0\0\0\0", None),
        ];
        for (bytes, value) in cases {
            assert_eq!(number(bytes), value, "{bytes:?}");
        }
    }

    #[test]
    fn pax_values_may_hold_any_byte() {
        let all = records(b"5 b=\n").unwrap();
        assert_eq!(all, [(&b"b"[..], &b""[..])]);
        let first = [&b"12 a=1\n2\n=\x00"[..], b"\n"].concat();
        assert_eq!(records(&first).unwrap(), [(&b"a"[..], &b"1\n2\n=\0"[..])]);
    }

    #[test]
    fn damaged_pax_records_are_refused() {
        for body in
            [&b"5 a=1"[..], b"6 a=1x", b"99 a=1\n", b"0 a=1\n", b"+6 a=1\n", b"6 abc\n", b"a=1\n", b"18446744073709551615 a=1\n", b"2 \n"]
        {
            assert!(records(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn times_round_down_on_both_sides_of_1970() {
        for (text, value) in [("1.5", (1, 500_000_000)), ("-1.25", (-2, 750_000_000)), ("-3", (-3, 0)), ("0.1234567899", (0, 123_456_789))]
        {
            assert_eq!(time(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["", "x", "1.x", "--1", "1e3"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }
}
