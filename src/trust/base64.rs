//! Base64 with padding (RFC 4648, section 4), read strictly: each content has one text.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of these bytes.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        let digit = |i: usize| DIGITS[(number >> (18 - 6 * i) & 63) as usize] as char;
        text.extend((0..4).map(|i| if i <= chunk.len() { digit(i) } else { '=' }));
    }
    text
}

/// The bytes of this text. Blanks, line ends, missing padding and stray bits behind the last byte are no base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take_while(|c| **c == b'=').count();
    if !bytes.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    let mut chunks = bytes[..bytes.len() - padding].chunks_exact(4);
    for chunk in chunks.by_ref() {
        out.extend(&number(chunk)?.to_be_bytes()[1..]);
    }
    let rest = chunks.remainder();
    if rest.is_empty() {
        return Some(out);
    }
    let number = number(rest)? << (6 * padding);
    let (head, stray) = (&number.to_be_bytes()[1..4 - padding], number << (8 * (4 - padding)));
    out.extend(head);
    (stray == 0).then_some(out)
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |n, digit| Some(n << 6 | value(*digit)?))
}

fn value(digit: u8) -> Option<u32> {
    let (first, offset) = match digit {
        b'A'..=b'Z' => (b'A', 0),
        b'a'..=b'z' => (b'a', 26),
        b'0'..=b'9' => (b'0', 52),
        b'+' => (b'+', 62),
        b'/' => (b'/', 63),
        _ => return None,
    };
    Some(u32::from(digit - first) + offset)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn the_examples_of_rfc_4648_are_written_and_read() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
    }

    #[test]
    fn whatever_else_a_lenient_reader_takes_is_refused() {
        for text in [
            "Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zm8", "====", "=", "Zm9v=", "Zm9v====", "Zg==Zg==", "Zm 9v", "Zm9v\n", "Zm9-",
            "Zm9_", "Zm9vé",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
