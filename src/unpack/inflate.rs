//! Decompression: what the first bytes say, not what a media type claims. Nothing unbounded is ever buffered.

use crate::image::fault::fault;
use crate::ipc::Failure;
use crate::protocol::Reason;
use crate::unpack::gzip::Gzip;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

/// Largest zstd window in bytes: what `zstd -19` uses; larger ones (`--long`, `--ultra`) are refused.
pub const MAX_WINDOW: u64 = 8 << 20;
const BUFFER: usize = 64 * 1024;
/// Longest magic number below.
const MAGIC: usize = 6;

/// Input whose first bytes have been looked at and put back.
type Whole<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// The plain bytes of a layer, whatever its compression.
pub enum Inflate<R: Read> {
    /// As they are.
    None(Whole<R>),
    /// gzip, any number of members; anything behind the last one is an error.
    Gzip(Box<Gzip<Whole<R>>>),
    /// Zstandard, any number of frames.
    Zstd(Box<Zstd<Whole<R>>>),
}

impl<R: Read> Inflate<R> {
    /// Recognizes the compression.
    ///
    /// # Errors
    /// A compression that we do not know.
    pub fn new(mut input: R) -> Result<Self, Failure> {
        let mut head = Vec::new();
        let read = input.by_ref().take(MAGIC as u64).read_to_end(&mut head);
        read.map_err(|e| crate::image::fault::os("cannot read the layer", e))?;
        let start = head.clone();
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(input));
        let foreign =
            |name| Err(fault(Reason::Unsupported, format!("the layer is compressed with {name}, only gzip and zstd are supported")));
        match start[..] {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(Gzip::new(whole)))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd(Box::new(Zstd::new(whole)))),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => foreign("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => foreign("bzip2"),
            [0x5d, 0, 0, ..] => foreign("lzma"),
            [b'h', b's', b'q', b's', ..] => Err(fault(Reason::Unsupported, "the file is a squashfs image, not a tar archive")),
            _ => Ok(Self::None(whole)),
        }
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(r) => r.read(out),
            Self::Gzip(r) => r.read(out),
            Self::Zstd(r) => r.read(out),
        }
    }
}

/// Zstandard frames one after the other (RFC 8878, section 3), skippable ones skipped.
pub struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Self {
        Self { input, decoder: FrameDecoder::new() }
    }

    /// Goes to the next frame with content; `false` at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let magic = self.array::<4>()?;
            match u32::from_le_bytes(magic) {
                0x184D_2A50..=0x184D_2A5F => self.skip_frame()?,
                0xFD2F_B528 => return self.start_frame(magic).map(|()| true),
                _ => return Err(damaged("what follows a zstd frame is none")),
            }
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_frame(&mut self) -> io::Result<()> {
        let length = u32::from_le_bytes(self.array()?).into();
        let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
        if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads the frame header here, because the decoder reserves whatever window a header asks for.
    fn start_frame(&mut self, magic: [u8; 4]) -> io::Result<()> {
        let [descriptor] = self.array()?;
        let single = descriptor & 0x20 != 0;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = match descriptor >> 6 {
            0 => usize::from(single),
            n => 1 << n,
        };
        let mut rest = vec![0; usize::from(!single) + dictionary + content];
        self.input.read_exact(&mut rest)?;
        let window = if single { content_size(&rest[dictionary..]) } else { window_size(rest[0]) };
        if window > MAX_WINDOW {
            return Err(damaged(&format!("its zstd window has {window} bytes, at most {MAX_WINDOW} are supported")));
        }
        let header = [&magic[..], &[descriptor], &rest].concat();
        self.decoder.reset(&header[..]).map_err(|e| damaged(&e.to_string()))
    }
}

/// RFC 8878, 3.1.1.1.2.
fn window_size(descriptor: u8) -> u64 {
    let base = 1u64 << (10 + (descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 7)
}

/// RFC 8878, 3.1.1.1.4: a field of two bytes counts from 256.
fn content_size(field: &[u8]) -> u64 {
    let value = field.iter().rev().fold(0, |n, b| (n << 8) | u64::from(*b));
    if field.len() == 2 { value + 256 } else { value }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.decoder.can_collect() == 0 {
            if self.decoder.is_finished() {
                if !self.next_frame()? {
                    return Ok(0);
                }
                continue;
            }
            let some = BlockDecodingStrategy::UptoBlocks(1);
            self.decoder.decode_blocks(&mut self.input, some).map_err(|e| match e {
                // A block that is cut short and a damaged one are told apart only by the input being at its end.
                _ if self.input.fill_buf().is_ok_and(<[u8]>::is_empty) => io::ErrorKind::UnexpectedEof.into(),
                e => damaged(&e.to_string()),
            })?;
        }
        self.decoder.read(out)
    }
}

/// Stops a bomb: an error once more than `left` bytes have come.
pub struct Bounded<R> {
    input: R,
    left: u64,
}

impl<R: Read> Bounded<R> {
    /// At most `most` bytes.
    pub fn new(input: R, most: u64) -> Self {
        Self { input, left: most }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(out)?;
        self.left = self.left.checked_sub(got as u64).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounded, Inflate, content_size, window_size};
    use std::io::{ErrorKind, Read, Write};

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(plain).unwrap();
        out.finish().unwrap()
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn inflate(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let reader = Inflate::new(bytes).map_err(|f| std::io::Error::other(f.message))?;
        Bounded::new(reader, 1 << 20).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn every_member_and_frame_is_read() {
        let skippable = [&0x184D_2A5Eu32.to_le_bytes()[..], &3u32.to_le_bytes(), b"xyz"].concat();
        for bytes in [
            b"one two".to_vec(),
            [gzip(b"one "), gzip(b"two")].concat(),
            [zstd(b"one "), zstd(b"two"), skippable.clone()].concat(),
            [skippable, zstd(b"one two")].concat(),
        ] {
            assert_eq!(inflate(&bytes).unwrap(), b"one two");
        }
    }

    #[test]
    fn garbage_behind_compressed_data_is_an_error() {
        for bytes in [[gzip(b"x"), b"garbage".to_vec()].concat(), [zstd(b"x"), b"garbage".to_vec()].concat()] {
            assert!(inflate(&bytes).is_err());
        }
    }

    #[test]
    fn compressed_data_cut_anywhere_is_an_error() {
        let plain: Vec<u8> = (0..50_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 20).to_le_bytes()).collect();
        for whole in [gzip(&plain), zstd(&plain)] {
            for length in [7, whole.len() / 2, whole.len() - 1] {
                assert!(inflate(&whole[..length]).is_err(), "{length} of {}", whole.len());
            }
        }
    }

    #[test]
    fn a_bomb_is_stopped() {
        let bomb = gzip(&vec![0; 2 << 20]);
        assert!(bomb.len() < 20_000);
        assert_eq!(inflate(&bomb).unwrap_err().kind(), ErrorKind::QuotaExceeded);
    }

    #[test]
    fn a_zstd_window_of_more_than_8_mib_is_refused_before_memory_is_taken() {
        // Window descriptor 0x70: 2^(10+14) bytes.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x70, 1, 0, 0];
        assert!(inflate(&frame).unwrap_err().to_string().contains("window"));
        assert_eq!((window_size(13 << 3), content_size(&[1, 0])), (8 << 20, 257));
    }

    #[test]
    fn unknown_compressions_are_named() {
        for (bytes, name) in [(&b"\xfd7zXZ\0rest"[..], "xz"), (b"BZh91AY&SY", "bzip2"), (b"hsqs....", "squashfs")] {
            assert!(inflate(bytes).unwrap_err().to_string().contains(name));
        }
    }
}
