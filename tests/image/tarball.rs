//! A tar writer that writes what it is told, good or bad.

/// One entry.
#[derive(Clone)]
pub struct Entry {
    name: Vec<u8>,
    kind: u8,
    data: Vec<u8>,
    size: Option<u64>,
    link: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    device: (u32, u32),
    pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    pub fn new(name: &str, kind: u8) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            kind,
            data: Vec::new(),
            size: None,
            link: Vec::new(),
            mode: 0o755,
            owner: (0, 0),
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    pub fn file(name: &str, data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..Self::new(name, b'0') }
    }

    pub fn dir(name: &str) -> Self {
        Self::new(name, b'5')
    }

    pub fn symlink(name: &str, to: &str) -> Self {
        Self { link: to.as_bytes().to_vec(), ..Self::new(name, b'2') }
    }

    pub fn hardlink(name: &str, to: &str) -> Self {
        Self { link: to.as_bytes().to_vec(), ..Self::new(name, b'1') }
    }

    pub fn device(name: &str, kind: u8, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(name, kind) }
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Size in the header, whatever the data.
    fn claims(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.to_owned(), value.to_vec()));
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        if !self.pax.is_empty() {
            let body = self.pax.iter().flat_map(|(k, v)| record(k, v)).collect::<Vec<u8>>();
            Self { data: body, ..Self::new("PaxHeaders/x", b'x') }.write(out);
        }
        if self.name.len() > 100 {
            Self { data: [&self.name[..], b"\0"].concat(), ..Self::new("././@LongLink", b'L') }.write(out);
        }
        if self.link.len() > 100 {
            Self { data: [&self.link[..], b"\0"].concat(), ..Self::new("././@LongLink", b'K') }.write(out);
        }
        out.extend(self.header());
        out.extend(&self.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }

    fn header(&self) -> [u8; 512] {
        let mut h = [0u8; 512];
        let mut put = |at: usize, text: &[u8]| h[at..at + text.len()].copy_from_slice(text);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, &number(self.owner.0));
        put(116, &number(self.owner.1));
        put(124, format!("{:011o}\0", self.size.unwrap_or(self.data.len() as u64)).as_bytes());
        put(136, b"00000000000\0");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0{:07o}\0", self.device.0, self.device.1).as_bytes());
        put(148, b"        ");
        let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
        h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        h
    }
}

/// Octal, or base 256 where that is too short.
fn number(n: u64) -> [u8; 8] {
    if n < 1 << 21 {
        return format!("{n:07o}\0").into_bytes().try_into().unwrap();
    }
    let mut field = n.to_be_bytes();
    field[0] = 0x80;
    field
}

/// A PAX record: its length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Entries without the end mark.
fn open_tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    entries.iter().for_each(|e| e.write(&mut out));
    out
}

/// A whole archive.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = open_tar(entries);
    out.resize(out.len() + 1024, 0);
    out
}

/// Archives that must be refused: what they are, their bytes, a word of the message.
pub fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let f = |name: &str| Entry::file(name, b"evil");
    let cut = tar(&[Entry::file("whole", &[1; 5000])]);
    let mut damaged = tar(&[f("damaged")]);
    damaged[20] ^= 1;
    let after_end = [tar(&[f("a")]), b"more".to_vec()].concat();
    let long = "x/".repeat(2500);
    let smuggled = open_tar(&[f("../smuggled")]);
    let list: Vec<(&str, Vec<Entry>, &str)> = vec![
        ("dot-dot", vec![f("../outside")], "../outside"),
        ("dot-dot-inside", vec![f("a/../../outside")], "'..'"),
        ("pax-dot-dot", vec![f("good").pax("path", b"/../outside")], "'..'"),
        ("zero-byte", vec![f("good").pax("path", b"a\0b")], "zero byte"),
        ("long-name", vec![f("good").pax("path", long.as_bytes())], "4096"),
        ("long-gnu-name", vec![f(&long)], "extended header"),
        ("long-component", vec![f(&"y".repeat(256))], "255"),
        ("deep", vec![f(&"d/".repeat(300))], "deep"),
        ("hardlink-out", vec![Entry::hardlink("l", "../outside")], "'..'"),
        ("hardlink-host", vec![Entry::hardlink("l", "/etc/passwd")], "not in this layer"),
        ("hardlink-missing", vec![Entry::hardlink("l", "m")], "not in this layer"),
        ("hardlink-directory", vec![Entry::dir("d/"), Entry::hardlink("l", "d")], "directory"),
        ("hardlink-root", vec![Entry::hardlink("l", "/")], "root"),
        ("hardlink-itself", vec![f("l"), Entry::hardlink("l", "./l")], "itself"),
        ("hardlink-through-link", vec![Entry::symlink("s", "/etc"), Entry::hardlink("l", "s/passwd")], "symbolic link"),
        ("symlink-out", vec![Entry::symlink("a/l", "../../etc/passwd")], "out of the image"),
        ("symlink-empty", vec![Entry::symlink("l", "")], "no possible name"),
        ("through-link", vec![Entry::symlink("s", "/tmp"), f("s/outside")], "symbolic link"),
        ("through-relative-link", vec![Entry::dir("d/"), Entry::symlink("s", "d"), f("s/x")], "symbolic link"),
        ("through-deep-link", vec![Entry::symlink("s", "."), f("s/new/dir/x")], "symbolic link"),
        ("through-file", vec![f("a"), f("a/b")], "directory"),
        ("link-chmod", vec![Entry::symlink("s", "/tmp"), Entry::dir("s/").mode(0o777), f("s/x"), Entry::symlink("s", "/")], "not empty"),
        ("full-directory", vec![f("d/x"), f("d")], "not empty"),
        ("root-as-link", vec![Entry::symlink("/", "/etc")], "root"),
        ("owner", vec![f("o").owner(u64::from(u32::MAX), 0)], "belongs to"),
        ("owner-pax", vec![f("o").pax("uid", b"99999999999999")], "belongs to"),
        ("owner-negative", vec![f("o").pax("gid", b"-1")], "damaged"),
        ("sparse", vec![Entry::new("s", b'S')], "sparse"),
        ("sparse-pax", vec![f("s").pax("GNU.sparse.major", b"1")], "sparse"),
        ("unknown-type", vec![Entry::new("u", b'Z')], "unknown type"),
        ("pax-size-short", vec![Entry::file("p", &smuggled).pax("size", b"0")], "'..'"),
        ("pax-size-long", vec![f("p").claims(0).pax("size", b"99999")], "cut short"),
        ("pax-twice", vec![Entry { data: record("path", b"a"), ..Entry::new("x", b'x') }, f("p").pax("path", b"b")], "twice"),
        ("pax-garbage", vec![Entry { data: b"garbage".to_vec(), ..Entry::new("x", b'x') }, f("p")], "PAX"),
        ("pax-huge", vec![Entry::new("x", b'x').claims(1 << 33), f("p")], "at most"),
        ("pax-at-end", vec![Entry { data: record("path", b"a"), ..Entry::new("x", b'x') }], "extended header"),
        ("global-path", vec![Entry { data: record("path", b"a"), ..Entry::new("g", b'g') }, f("p")], "global"),
        ("capability", vec![f("c").pax("SCHILY.xattr.security.capability", b"nonsense")], "attribute"),
    ];
    let mut all: Vec<(&str, Vec<u8>, &str)> = list.into_iter().map(|(name, entries, word)| (name, tar(&entries), word)).collect();
    all.push(("cut-in-file", cut[..3000].to_vec(), "cut short at whole"));
    all.push(("cut-in-header", open_tar(&[f("a"), f("b")])[..1300].to_vec(), "cut short"));
    all.push(("checksum", damaged, "checksum"));
    all.push(("after-end", after_end, "end mark"));
    all.push(("no-tar", vec![b'x'; 4096], "checksum"));
    all
}
