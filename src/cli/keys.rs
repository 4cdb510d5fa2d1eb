//! The keys by which one leaves a terminal without ending what runs there. Pure.

/// As docker has them.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Looks for the keys in what is typed.
pub struct Keys {
    /// In this order; none if empty.
    sequence: Vec<u8>,
    /// How many of them were typed last. They are held back: the next one decides.
    typed: usize,
}

impl Keys {
    /// `ctrl-p,ctrl-q`, or single characters, separated by commas; nothing for none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
        let sequence = words.iter().map(|word| key(word)).collect::<Option<_>>();
        let sequence = sequence.ok_or("must be characters or ctrl-X (X is a to z, or one of @ [ \\ ] ^ _), separated by commas")?;
        Ok(Self { sequence, typed: 0 })
    }

    /// What of the input goes on; true if the keys were typed, and nothing behind them counts.
    pub fn pass(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        for byte in input {
            if self.sequence.get(self.typed) != Some(byte) {
                out.extend_from_slice(&self.sequence[..self.typed]);
                self.typed = 0;
            }
            if self.sequence.get(self.typed) == Some(byte) {
                self.typed += 1;
            } else {
                out.push(*byte);
            }
            if self.typed > 0 && self.typed == self.sequence.len() {
                return (out, true);
            }
        }
        (out, false)
    }
}

fn key(word: &str) -> Option<u8> {
    match (word.as_bytes(), word.strip_prefix("ctrl-").map(str::as_bytes)) {
        // A control character is the letter without its upper bits (ECMA-48, 5.2).
        (_, Some([c @ (b'a'..=b'z' | b'@' | b'['..=b'_')])) => Some(c & 0x1f),
        ([c], _) if c.is_ascii() => Some(*c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT, Keys};

    #[test]
    fn keys_are_found_wherever_they_stand_and_all_else_goes_on() {
        for (keys, typed, out, left) in [
            (DEFAULT, &["ls\n"][..], "ls\n", false),
            (DEFAULT, &["a\x10\x11b"], "a", true),
            (DEFAULT, &["\x10", "\x11"], "", true),
            (DEFAULT, &["\x10", "x"], "\x10x", false),
            (DEFAULT, &["\x10\x10\x11"], "\x10", true),
            (DEFAULT, &["\x11\x10"], "\x11", false),
            ("ctrl-],q", &["\x1dq"], "", true),
            ("ctrl-@", &["a\0b"], "a", true),
            ("x", &["axb"], "a", true),
            ("a,a,b", &["aab"], "", true),
            ("", &["\x10\x11"], "\x10\x11", false),
        ] {
            let mut keys = Keys::parse(keys).unwrap();
            let mut passed = Vec::new();
            let found = typed.iter().any(|part| {
                let (out, found) = keys.pass(part.as_bytes());
                passed.extend(out);
                found
            });
            assert_eq!((String::from_utf8(passed).unwrap().as_str(), found), (out, left), "{typed:?}");
        }
        let all: Vec<u8> = (0..=255).filter(|b| *b != 0x10).collect();
        assert_eq!(Keys::parse(DEFAULT).unwrap().pass(&all), (all, false));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [",", "ctrl-", "ctrl-P", "ctrl-pq", "ctrl-1", "ab", "é", "ctrl-p,"] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
    }
}
