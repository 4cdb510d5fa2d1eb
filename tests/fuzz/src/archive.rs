//! Archives as streams: the reader of tar entries, and decompression.

use super::recipe::Recipe;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use wherry::unpack::archive::{Archive, Skip};
use wherry::unpack::inflate::{Bounded, Inflate};

/// Most bytes that any input may become.
const MOST: u64 = 4 << 20;
/// Longest seed: mutations of long ones are slow.
const MAX_SEED: usize = 16 << 10;

struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Skip for Bytes<'_> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let rest = usize::try_from(n).ok().and_then(|n| self.0.get(n..));
        self.0 = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

/// The first byte says whether checksums are put right, which mutations hardly ever hit.
pub fn mended(data: &[u8]) -> Vec<u8> {
    let Some((first, rest)) = data.split_first() else { return Vec::new() };
    let mut bytes = rest.to_vec();
    if first & 1 == 1 {
        for block in bytes.chunks_exact_mut(512) {
            let magic = &block[257..262] == b"ustar";
            if magic {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }
    bytes
}

/// Content is never longer than the archive; positions lie in it; messages are printable.
pub fn archive(data: &[u8]) {
    let bytes = mended(data);
    let mut archive = Archive::new(Bytes(&bytes));
    let (mut content, mut chunk) = (0, [0; 700]);
    let failure = loop {
        let entry = match archive.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return,
            Err(failure) => break failure,
        };
        assert!(entry.offset <= bytes.len() as u64 && entry.mode <= 0o7777);
        let mut own = 0;
        let failed = loop {
            match archive.read(&mut chunk) {
                Ok(0) => break None,
                Ok(n) => own += n,
                Err(failure) => break Some(failure),
            }
        };
        content += own;
        assert!(content <= bytes.len());
        match failed {
            Some(failure) => break failure,
            None => assert_eq!(own as u64, entry.size),
        }
    };
    super::is_printable(&failure.message);
}

/// Nothing grows beyond its bound, whatever the compression.
pub fn inflate(data: &[u8]) {
    let Ok(plain) = Inflate::new(data) else { return };
    let mut bounded = Bounded::new(plain, MOST);
    let (mut all, mut chunk) = (0, vec![0; 64 << 10]);
    while let Ok(n @ 1..) = bounded.read(&mut chunk) {
        all += n as u64;
    }
    assert!(all <= MOST);
}

/// The archives of `tests/hostile` that are not too long.
pub fn seeds() -> Vec<Vec<u8>> {
    super::with_choices(recipes().into_iter().flat_map(|r| r.archives).filter(|a| a.len() <= MAX_SEED), 2)
}

/// The same as they are stored: compressed, with bytes around.
pub fn compressed_seeds() -> Vec<Vec<u8>> {
    let known = |r: &Recipe| r.filter.as_deref().is_none_or(|f| matches!(f, "gzip -c" | "zstd -q -c"));
    let stored = |r: Recipe| {
        let plain = r.archives.into_iter().next().unwrap_or_default();
        let filtered = r.filter.map_or_else(|| plain.clone(), |command| piped(&command, &plain));
        [&r.around.0[..], &filtered, &r.around.1].concat()
    };
    recipes().into_iter().filter(known).map(stored).filter(|bytes| bytes.len() <= MAX_SEED).collect()
}

fn recipes() -> Vec<Recipe> {
    let texts = super::files("hostile/cases", ".txt").into_iter().map(|(_, text)| String::from_utf8(text).unwrap());
    // Those with many entries are too long in any case.
    texts.filter(|text| !text.contains("\nrepeat ")).map(|text| Recipe::parse(&text, "/outside")).collect()
}

fn piped(command: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("sh").args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Far less than a pipe holds, so nobody waits for the other.
    child.stdin.take().unwrap().write_all(&bytes[..bytes.len().min(MAX_SEED)]).unwrap();
    child.wait_with_output().unwrap().stdout
}
