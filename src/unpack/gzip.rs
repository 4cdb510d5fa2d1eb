//! gzip (RFC 1952): the frame around deflated data, any number of members one after the other. Nothing of a header is kept.

use crate::image::crc::Crc;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, BufRead, Read};

// Flags of a header (RFC 1952, 2.3.1).
const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;
/// Longest file name or comment in bytes: a header must end.
const MAX_TEXT: usize = 64 * 1024;

/// The plain bytes of all members. Anything behind the last one is an error.
pub struct Gzip<R> {
    input: R,
    inflate: Decompress,
    /// Of the member that is being read; `None` between members.
    member: Option<Crc>,
}

impl<R: BufRead> Gzip<R> {
    /// Of an input that begins with a member.
    pub fn new(input: R) -> Self {
        Self { input, inflate: Decompress::new(false), member: None }
    }

    /// Goes into the next member; `false` at the end of the input.
    fn enter(&mut self) -> io::Result<bool> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        header(&mut self.input)?;
        self.inflate.reset(false);
        self.member = Some(Crc::of_nothing());
        Ok(true)
    }

    /// What follows the deflated data: sum and length of the plain data, the latter modulo 2^32.
    fn leave(&mut self, crc: Crc) -> io::Result<()> {
        let [sum, length] = [self.word()?, self.word()?];
        if sum != crc.sum() || length != self.inflate.total_out() as u32 {
            return Err(damaged("its gzip checksum is wrong"));
        }
        self.member = None;
        Ok(())
    }

    fn word(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.input.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(mut crc) = self.member else {
                if self.enter()? {
                    continue;
                }
                return Ok(0);
            };
            let input = self.input.fill_buf()?;
            let (ended, taken, given) = (input.is_empty(), self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, out, FlushDecompress::None).map_err(|e| damaged(&e.to_string()))?;
            self.input.consume((self.inflate.total_in() - taken) as usize);
            let got = (self.inflate.total_out() - given) as usize;
            crc.update(&out[..got]);
            self.member = Some(crc);
            match status {
                Status::StreamEnd => self.leave(crc)?,
                // With no input left, what is still to come is only what was buffered.
                _ if got == 0 && ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
            if got > 0 {
                return Ok(got);
            }
        }
    }
}

/// Reads over a header, and checks what it says of itself.
fn header(input: &mut impl BufRead) -> io::Result<()> {
    let mut input = Summed { input, crc: Crc::of_nothing() };
    let [id1, id2, method, flags, ..] = input.array::<10>()?;
    if [id1, id2] != [0x1f, 0x8b] {
        return Err(damaged("what follows a gzip member is none"));
    }
    if method != 8 || flags & RESERVED != 0 {
        return Err(damaged("its gzip header is of a kind that does not exist"));
    }
    if flags & FEXTRA != 0 {
        for _ in 0..u16::from_le_bytes(input.array()?) {
            input.array::<1>()?;
        }
    }
    for _ in 0..(flags & (FNAME | FCOMMENT)).count_ones() {
        input.text()?;
    }
    let sum = input.crc.sum() as u16;
    if flags & FHCRC != 0 && u16::from_le_bytes(input.array()?) != sum {
        return Err(damaged("the checksum of its gzip header is wrong"));
    }
    Ok(())
}

/// Input whose sum is taken along.
struct Summed<'a, R> {
    input: &'a mut R,
    crc: Crc,
}

impl<R: BufRead> Summed<'_, R> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// Reads over text that ends with a zero byte.
    fn text(&mut self) -> io::Result<()> {
        for _ in 0..=MAX_TEXT {
            if self.array()? == [0] {
                return Ok(());
            }
        }
        Err(damaged("a field of its gzip header is too long"))
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::Gzip;
    use flate2::{Compression, Crc, GzBuilder};
    use std::io::{BufReader, ErrorKind, Read, Write};

    fn plain() -> Vec<u8> {
        (0..100_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 20).to_le_bytes()).collect()
    }

    fn member(builder: GzBuilder, plain: &[u8]) -> Vec<u8> {
        let mut out = builder.write(Vec::new(), Compression::fast());
        out.write_all(plain).unwrap();
        out.finish().unwrap()
    }

    /// Reads with an input that comes in pieces of this size.
    fn read(bytes: &[u8], piece: usize) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Gzip::new(BufReader::with_capacity(piece, bytes)).read_to_end(&mut out).map(|_| out)
    }

    /// With the checksum of the header that GzBuilder does not write.
    fn with_header_sum(mut bytes: Vec<u8>, header: usize) -> Vec<u8> {
        bytes[3] |= super::FHCRC;
        let mut crc = Crc::new();
        crc.update(&bytes[..header]);
        bytes.splice(header..header, (crc.sum() as u16).to_le_bytes());
        bytes
    }

    #[test]
    fn every_header_that_gzip_knows_is_read_over() {
        let plain = plain();
        let full = || GzBuilder::new().extra(b"field".to_vec()).filename("a name").comment("a comment").mtime(1);
        let summed = with_header_sum(member(GzBuilder::new().filename("n"), &plain), 10 + 2);
        for bytes in [member(GzBuilder::new(), &plain), member(full(), &plain), member(GzBuilder::new().extra(Vec::new()), &plain), summed]
        {
            for piece in [1, 7, 64 * 1024] {
                assert!(read(&bytes, piece).unwrap() == plain);
            }
        }
        assert_eq!(read(&[member(full(), b"one "), member(full(), b""), member(full(), b"two")].concat(), 3).unwrap(), b"one two");
    }

    #[test]
    fn a_changed_byte_is_an_error_or_changes_nothing() {
        let plain: Vec<u8> = plain()[..3_000].to_vec();
        let whole = member(GzBuilder::new().filename("n"), &plain);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            match read(&bytes, 512) {
                Ok(out) => assert!(out == plain, "byte {at}"),
                Err(e) => assert!(matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof), "byte {at}: {e}"),
            }
        }
        let mut wrong = with_header_sum(whole, 10 + 2);
        wrong[12] ^= 1;
        assert!(read(&wrong, 512).unwrap_err().to_string().contains("header"));
    }

    #[test]
    fn a_header_must_end() {
        let named = |length| member(GzBuilder::new().filename(vec![b'n'; length]), b"x");
        assert_eq!(read(&named(super::MAX_TEXT), 512).unwrap(), b"x");
        assert!(read(&named(super::MAX_TEXT + 1), 512).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_member_cut_anywhere_is_an_error() {
        let whole = member(GzBuilder::new().extra(vec![1; 9]).filename("n").comment("c"), &plain()[..2_000]);
        for length in 1..whole.len() {
            assert_eq!(read(&whole[..length], 64).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{length}");
        }
    }
}
