//! A tar writer that writes what it is told, good or bad.

/// One entry.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub data: Vec<u8>,
    /// Size in the header, if not that of the data.
    pub size: Option<u64>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub device: (u32, u32),
    pub pax: Vec<(String, Vec<u8>)>,
    /// Bytes of the header as they are, behind their offset; the checksum is right for them.
    pub raw: Vec<(usize, Vec<u8>)>,
    /// Added to the checksum.
    pub wrong: u32,
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
            mtime: 0,
            device: (0, 0),
            pax: Vec::new(),
            raw: Vec::new(),
            wrong: 0,
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

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub fn write(&self, out: &mut Vec<u8>) {
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
        put(136, format!("{:011o}\0", self.mtime).as_bytes());
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0{:07o}\0", self.device.0, self.device.1).as_bytes());
        self.raw.iter().for_each(|(at, bytes)| put(*at, bytes));
        put(148, b"        ");
        let sum: u32 = h.iter().map(|b| u32::from(*b)).sum::<u32>() + self.wrong;
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
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A whole archive.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    entries.iter().for_each(|e| e.write(&mut out));
    out.resize(out.len() + 1024, 0);
    out
}
