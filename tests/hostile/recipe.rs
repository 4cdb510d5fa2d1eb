//! Recipes: readable files that say, line by line, what is in an archive and what must come of it. tests/README.md has the words.

use super::tarball::{Entry, record};

/// What a file of `tests/hostile/cases` says.
pub struct Recipe {
    /// One tar archive for each layer, not compressed.
    pub archives: Vec<Vec<u8>>,
    /// Layers of an image, where `.wh.` has a meaning; else one plain root file system.
    pub is_image: bool,
    /// Shell command that the archive goes through.
    pub filter: Option<String>,
    /// Bytes before and behind what the filter makes.
    pub around: (Vec<u8>, Vec<u8>),
    /// Bytes kept of all that.
    pub keep: Option<usize>,
    /// Try also with the archive cut off at each multiple of this.
    pub cuts: Option<usize>,
    /// Bytes and files allowed.
    pub limits: (u64, u64),
    /// Compare the tree with what this program makes of it.
    pub compare: Option<String>,
    /// Times are part of the listing.
    pub times: bool,
    /// The lines up to and with `expect`, and those behind.
    pub head: String,
    pub expected: String,
    end: bool,
    repeat: usize,
    /// Put in place of `@OUT@`.
    outside: String,
}

impl Recipe {
    /// Reads a recipe. A mistake in it is the test's own, so it panics.
    pub fn parse(text: &str, outside: &str) -> Self {
        let at = text.find("\nexpect\n").map_or(text.len(), |at| at + "\nexpect\n".len());
        let mut recipe = Self {
            archives: vec![Vec::new()],
            is_image: false,
            filter: None,
            around: Default::default(),
            keep: None,
            cuts: None,
            limits: (16 << 20, 10_000),
            compare: None,
            times: false,
            head: text[..at].to_owned(),
            expected: text[at..].to_owned(),
            end: true,
            repeat: 1,
            outside: outside.to_owned(),
        };
        assert!(text.starts_with("# "), "the first line must say what this is");
        text[..at].lines().filter(|l| !l.is_empty() && !l.starts_with('#') && *l != "expect").for_each(|line| recipe.line(line));
        recipe.close();
        recipe
    }

    fn line(&mut self, line: &str) {
        let words = words(line, &self.outside);
        let (verb, rest) = words.split_first().expect("a line has a word");
        let verb = String::from_utf8(verb.value.clone()).unwrap();
        let text = |n: usize| String::from_utf8(rest[n].value.clone()).unwrap();
        let whole = |n: usize| text(n).parse::<usize>().unwrap();
        match verb.as_str() {
            "image" => self.is_image = true,
            "layer" => {
                self.close();
                self.archives.push(Vec::new());
            }
            "filter" => self.filter = Some(text(0)),
            "before" => self.around.0.extend(&rest[0].value),
            "behind" => self.around.1.extend(&rest[0].value),
            "keep" => self.keep = Some(whole(0)),
            "cuts" => self.cuts = Some(whole(0)),
            "limits" => self.limits = (whole(0) as u64, whole(1) as u64),
            "compare" => self.compare = Some(text(0)),
            "times" => self.times = true,
            "raw" => self.archives.last_mut().unwrap().extend(&rest[0].value),
            "no-end" => self.end = false,
            "repeat" => self.repeat = whole(0),
            kind => self.entries(kind, rest),
        }
    }

    /// The end mark of an archive.
    fn close(&mut self) {
        if std::mem::replace(&mut self.end, true) {
            let archive = self.archives.last_mut().unwrap();
            archive.resize(archive.len() + 1024, 0);
        }
    }

    fn entries(&mut self, kind: &str, words: &[Word]) {
        for n in 0..std::mem::replace(&mut self.repeat, 1) {
            entry(kind, words, n).write(self.archives.last_mut().unwrap());
        }
    }
}

fn entry(kind: &str, words: &[Word], n: usize) -> Entry {
    let types = [("file", b'0'), ("hardlink", b'1'), ("symlink", b'2'), ("char", b'3'), ("block", b'4'), ("dir", b'5'), ("fifo", b'6')];
    let known = types.iter().find(|(name, _)| *name == kind).map(|(_, byte)| *byte);
    let byte = known.or_else(|| kind.strip_prefix("type-").map(|t| t.as_bytes()[0])).unwrap_or_else(|| panic!("unknown word {kind:?}"));
    let mut entry = Entry::new("", byte);
    let mut plain = words.iter().filter(|w| w.key.is_none()).map(|w| numbered(&w.value, n));
    entry.name = plain.next().expect("an entry has a name");
    entry.link = plain.next().unwrap_or_default();
    words.iter().for_each(|w| {
        if let Some(key) = &w.key {
            set(&mut entry, key, &w.value)
        }
    });
    entry
}

fn numbered(bytes: &[u8], n: usize) -> Vec<u8> {
    match bytes.windows(3).position(|w| w == b"{n}") {
        Some(at) => [&bytes[..at], n.to_string().as_bytes(), &bytes[at + 3..]].concat(),
        None => bytes.to_vec(),
    }
}

fn set(entry: &mut Entry, key: &str, value: &[u8]) {
    let number = |radix| u64::from_str_radix(std::str::from_utf8(value).unwrap(), radix).unwrap();
    // Where the header keeps it (POSIX.1-2017, pax, "ustar Interchange Format").
    let fields = [("name", 0), ("mode", 100), ("uid", 108), ("gid", 116), ("size", 124), ("mtime", 136), ("magic", 257), ("prefix", 345)];
    match key {
        "data" => entry.data = value.to_vec(),
        "mode" => entry.mode = number(8) as u32,
        "uid" => entry.owner.0 = number(10),
        "gid" => entry.owner.1 = number(10),
        "size" => entry.size = Some(number(10)),
        "mtime" => entry.mtime = number(10),
        "major" => entry.device.0 = number(10) as u32,
        "minor" => entry.device.1 = number(10) as u32,
        "wrong-checksum" => entry.wrong = number(10) as u32,
        "record" => entry.data.extend(value.iter().position(|b| *b == b'=').map_or_else(Vec::new, |at| pair(value, at))),
        _ if key.starts_with("pax.") => entry.pax.push((key[4..].to_owned(), value.to_vec())),
        _ if key.starts_with("raw.") => {
            let at = fields.iter().find(|(name, _)| *name == &key[4..]).unwrap_or_else(|| panic!("no field {key}")).1;
            entry.raw.push((at, value.to_vec()));
        }
        _ => panic!("unknown key {key:?}"),
    }
}

fn pair(value: &[u8], at: usize) -> Vec<u8> {
    record(std::str::from_utf8(&value[..at]).unwrap(), &value[at + 1..])
}

/// `value` or `key=value`; a value is bare or quoted text, pieces of which may be repeated: `"a/"*100"b"`.
struct Word {
    key: Option<String>,
    value: Vec<u8>,
}

fn words(line: &str, outside: &str) -> Vec<Word> {
    let mut rest = line.trim_start();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let key_end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c))).filter(|at| rest[*at..].starts_with('='));
        let key = key_end.map(|at| rest[..at].to_owned());
        let (value, after) = value(&rest[key_end.map_or(0, |at| at + 1)..], outside);
        all.push(Word { key, value });
        rest = after.trim_start();
    }
    all
}

fn value<'a>(mut rest: &'a str, outside: &str) -> (Vec<u8>, &'a str) {
    let mut bytes = Vec::new();
    while let Some(c) = rest.chars().next().filter(|c| *c != ' ') {
        if c != '"' {
            let end = rest.find([' ', '"']).unwrap_or(rest.len());
            bytes.extend(rest[..end].bytes());
            rest = &rest[end..];
            continue;
        }
        let (piece, after) = quoted(&rest[1..], outside);
        let digits = after.strip_prefix('*').map_or(0, |a| a.find(|c: char| !c.is_ascii_digit()).unwrap_or(a.len()));
        let times = if digits > 0 { after[1..=digits].parse().unwrap() } else { 1 };
        bytes.extend(piece.repeat(times));
        rest = if digits > 0 { &after[digits + 1..] } else { after };
    }
    (bytes, rest)
}

fn quoted<'a>(text: &'a str, outside: &str) -> (Vec<u8>, &'a str) {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (replaced(bytes, outside), &text[at + 1..]),
            '\\' => match chars.next().expect("something behind a backslash").1 {
                'n' => bytes.push(b'\n'),
                '0' => bytes.push(0),
                'x' => {
                    let hex: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                    bytes.push(u8::from_str_radix(&hex, 16).expect("two hexadecimal digits"));
                }
                other => bytes.extend(other.to_string().bytes()),
            },
            c => bytes.extend(c.to_string().bytes()),
        }
    }
    panic!("a quote is not closed: {text}")
}

fn replaced(bytes: Vec<u8>, outside: &str) -> Vec<u8> {
    match String::from_utf8(bytes) {
        Ok(text) => text.replace("@OUT@", outside).into_bytes(),
        Err(e) => e.into_bytes(),
    }
}
