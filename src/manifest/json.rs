//! JSON (RFC 8259) read into a tree that remembers where everything stands, so that a fault can point at the text.

use std::borrow::Cow;

/// Deepest nesting taken; the deepest field of any document here is at 8.
pub const MAX_DEPTH: usize = 16;
/// Most values in one document; bounds the memory that a small hostile text can claim.
pub const MAX_NODES: usize = 4096;

/// One value and where it stands.
pub struct Node<'a> {
    /// Byte offset of its first character.
    pub at: usize,
    /// Byte offset behind its last character.
    pub end: usize,
    /// The value.
    pub value: Value<'a>,
}

/// A JSON value; numbers stay text until somebody knows what they should be.
#[allow(missing_docs, reason = "the kinds of RFC 8259")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Object(Vec<Member<'a>>),
}

/// One member of an object.
pub struct Member<'a> {
    /// Byte offset of the key's opening quote.
    pub at: usize,
    /// Byte offset behind its closing quote.
    pub end: usize,
    /// The key, unescaped.
    pub key: Cow<'a, str>,
    /// The value.
    pub value: Node<'a>,
}

/// Where and why a text is not JSON.
pub struct Wrong {
    /// Byte offset.
    pub at: usize,
    /// The sentence.
    pub message: String,
}

impl<'a> Node<'a> {
    /// The member of that name, if this is an object that has one.
    pub fn get(&self, name: &str) -> Option<&Node<'a>> {
        self.members().iter().find(|m| m.key == name).map(|m| &m.value)
    }

    /// The members of an object; none for anything else.
    pub fn members(&self) -> &[Member<'a>] {
        if let Value::Object(members) = &self.value { members } else { &[] }
    }

    /// The items of an array; none for anything else.
    pub fn items(&self) -> &[Node<'a>] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// A string's content.
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }
}

/// Reads one document.
pub fn read(text: &str) -> Result<Node<'_>, Wrong> {
    let mut reader = Reader { text, at: 0, nodes: 0 };
    reader.space();
    let node = reader.value(0)?;
    reader.space();
    if reader.at < text.len() { reader.fail("nothing may follow the document") } else { Ok(node) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, message: &str) -> Result<T, Wrong> {
        Err(Wrong { at: self.at, message: message.into() })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expected<T>(&self, what: &str) -> Result<T, Wrong> {
        match self.text[self.at..].chars().next() {
            None => self.fail(&format!("the text ends where {what} should stand")),
            Some(c) => self.fail(&format!("expected {what}, found {c:?}")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, Wrong> {
        self.nodes += 1;
        if depth > MAX_DEPTH {
            return self.fail(&format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if self.nodes > MAX_NODES {
            return self.fail(&format!("more than {MAX_NODES} values"));
        }
        let at = self.at;
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Node { at, end: self.at, value })
    }

    fn word(&mut self) -> Result<Value<'a>, Wrong> {
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.expected("a value")
    }

    fn digits(&mut self) -> Result<(), Wrong> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { self.expected("a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value<'a>, Wrong> {
        let from = self.at;
        self.take(b'-');
        let whole = self.at;
        self.digits()?;
        if self.at - whole > 1 && self.text.as_bytes()[whole] == b'0' {
            self.at = whole;
            return self.fail("a number may not start with 0");
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(Value::Number(&self.text[from..self.at]))
    }

    fn list(&mut self, depth: usize) -> Result<Value<'a>, Wrong> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            self.space();
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return self.expected("',' or ']'");
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, Wrong> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            members.push(self.member(depth)?);
            self.space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return self.expected("',' or '}'");
            }
        }
    }

    fn member(&mut self, depth: usize) -> Result<Member<'a>, Wrong> {
        let at = self.at;
        if self.peek() != Some(b'"') {
            return self.expected("a field name in quotes");
        }
        let key = self.string()?;
        let end = self.at;
        self.space();
        if !self.take(b':') {
            return self.expected("':'");
        }
        self.space();
        Ok(Member { at, end, key, value: self.value(depth + 1)? })
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Wrong> {
        self.at += 1;
        let mut from = self.at;
        let mut owned: Option<String> = None;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let rest = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(owned.map_or(Cow::Borrowed(rest), |o| Cow::Owned(o + rest)));
                }
                Some(b'\\') => {
                    let so_far = owned.get_or_insert_default();
                    so_far.push_str(&self.text[from..self.at]);
                    so_far.push(self.escape()?);
                    from = self.at;
                }
                Some(b'\n') => return self.fail("the string does not end on its line (write \\n for a line break inside it)"),
                Some(0..0x20) => return self.fail("a control character must be escaped (\\n, \\t, \\u00..)"),
                Some(_) => self.at += 1,
                None => return self.fail("the text ends inside a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Wrong> {
        let short = match self.text.as_bytes().get(self.at + 1) {
            Some(b'u') => return self.unicode(),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(*c),
            _ => return self.fail("unknown escape; use \\\\ for a backslash"),
        };
        self.at += 2;
        Ok(short)
    }

    fn unicode(&mut self) -> Result<char, Wrong> {
        let half = |at: usize| {
            let digits = self.text.as_bytes().get(at..at + 6).filter(|d| d.starts_with(b"\\u"))?;
            digits[2..].iter().try_fold(0u16, |n, d| Some(n << 4 | char::from(*d).to_digit(16)? as u16))
        };
        let halves = [half(self.at), half(self.at + 6)];
        let found = halves[0].and_then(|first| {
            let pair = [first, halves[1].unwrap_or(0)];
            char::decode_utf16(pair).next()?.ok()
        });
        match found {
            Some(c) => {
                self.at += 6 * c.len_utf16();
                Ok(c)
            }
            None => self.fail("\\u wants four hex digits, and surrogates in pairs"),
        }
    }
}
