//! CRC-32 as gzip has it (RFC 1952, section 8), also over the store's records. Four bytes a step from 4 KiB of tables.

/// The polynomial, bit-reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// `TABLES[n][byte]`: what a byte does to the sum with n zero bytes behind it.
static TABLES: [[u32; 256]; 4] = tables();

const fn tables() -> [[u32; 256]; 4] {
    let mut out = [[0; 256]; 4];
    let mut at = 0;
    while at < 4 * 256 {
        let (n, byte) = (at / 256, at % 256);
        out[n][byte] = if n == 0 { bitwise(byte as u32) } else { zero_byte(&out[0], out[n - 1][byte]) };
        at += 1;
    }
    out
}

const fn bitwise(byte: u32) -> u32 {
    let (mut sum, mut bit) = (byte, 0);
    while bit < 8 {
        sum = if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
        bit += 1;
    }
    sum
}

const fn zero_byte(table: &[u32; 256], sum: u32) -> u32 {
    (sum >> 8) ^ table[(sum & 0xff) as usize]
}

/// A sum in the making.
#[derive(Debug, Clone, Copy)]
pub struct Crc(u32);

impl Crc {
    /// Of no bytes yet.
    pub const fn of_nothing() -> Self {
        Self(!0)
    }

    /// Takes in what comes next.
    pub fn update(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            let mixed = (self.0 ^ u32::from_le_bytes(*word)).to_le_bytes();
            self.0 = (0..4).fold(0, |sum, n| sum ^ TABLES[3 - n][usize::from(mixed[n])]);
        }
        self.0 = rest.iter().fold(self.0, |sum, byte| zero_byte(&TABLES[0], sum ^ u32::from(*byte)));
    }

    /// Of all that was taken in.
    pub const fn sum(self) -> u32 {
        !self.0
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> u32 {
        let mut crc = Self::of_nothing();
        crc.update(bytes);
        crc.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Crc;

    #[test]
    fn sums_are_those_of_gzip() {
        assert_eq!(Crc::of(b"123456789"), 0xcbf4_3926);
        let bytes: Vec<u8> = (0..5_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for cut in [0, 1, 2, 3, 4, 5, 1023, 5_000] {
            let mut theirs = flate2::Crc::new();
            theirs.update(&bytes[..cut]);
            assert_eq!(Crc::of(&bytes[..cut]), theirs.sum(), "{cut} bytes");
            let mut ours = Crc::of_nothing();
            ours.update(&bytes[..cut]);
            ours.update(&bytes[cut..]);
            assert_eq!(ours.sum(), Crc::of(&bytes), "cut at {cut}");
        }
    }
}
