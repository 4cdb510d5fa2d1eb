//! Reads Rust source just well enough for rules about it: what is code, what is comment, and which paths the code names.

use std::collections::HashMap;

/// One text split into two of the same shape: characters that do not belong are blanks, so lines and columns agree.
pub struct Split {
    /// Code without comments and without the contents of strings and character literals.
    pub code: String,
    /// Comments alone, doc comments included.
    pub comments: String,
}

/// One word (identifier, keyword or number), `::`, or any other single character that is not a blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path named in code, resolved to `crate::…` or to the outer crate it starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub segments: Vec<String>,
    pub line: usize,
}

impl Path {
    /// Whether this path is `prefix` or below it.
    pub fn is_below(&self, prefix: &str) -> bool {
        let prefix: Vec<&str> = prefix.split("::").collect();
        self.segments.len() >= prefix.len() && self.segments.iter().zip(&prefix).all(|(a, b)| a == b)
    }

    /// Whether `parts` stand next to each other somewhere in this path.
    pub fn contains(&self, parts: &[&str]) -> bool {
        self.segments.windows(parts.len()).any(|window| window.iter().zip(parts).all(|(a, b)| a == b))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Code,
    Comment,
    Literal,
}

/// Splits `text` into code and comments.
pub fn split(text: &str) -> Split {
    let chars: Vec<char> = text.chars().collect();
    let mut parts = Vec::with_capacity(chars.len());
    while parts.len() < chars.len() {
        let (part, length) = next_part(&chars, parts.len());
        let end = (parts.len() + length).min(chars.len());
        parts.resize(end, part);
    }
    let keep = |wanted: Part| -> String {
        chars.iter().zip(&parts).map(|(&c, &part)| if part == wanted || c == '\n' { c } else { ' ' }).collect()
    };
    Split { code: keep(Part::Code), comments: keep(Part::Comment) }
}

fn next_part(chars: &[char], at: usize) -> (Part, usize) {
    let rest = &chars[at..];
    match rest {
        ['/', '/', ..] => (Part::Comment, rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => (Part::Comment, block_comment(rest)),
        ['"', ..] => (Part::Literal, quoted(rest, '"')),
        ['\'', '\\', ..] => (Part::Literal, quoted(rest, '\'')),
        // A lifetime has no closing quote two characters on.
        ['\'', _, '\'', ..] => (Part::Literal, 3),
        [c, ..] if is_word(*c) => word_or_raw_string(rest),
        _ => (Part::Code, 1),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn word_or_raw_string(rest: &[char]) -> (Part, usize) {
    let word = rest.iter().position(|&c| !is_word(c)).unwrap_or(rest.len());
    let prefix: String = rest[..word].iter().collect();
    let hashes = rest[word..].iter().take_while(|&&c| c == '#').count();
    let raw = matches!(prefix.as_str(), "r" | "br" | "cr") && rest.get(word + hashes) == Some(&'"');
    if !raw {
        return (Part::Code, word);
    }
    let start = word + hashes + 1;
    let closes = |at: usize| rest[at] == '"' && rest[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    let end = (start..rest.len()).find(|&at| closes(at)).map_or(rest.len(), |at| at + 1 + hashes);
    (Part::Literal, end)
}

/// Cuts split code into tokens.
pub fn tokens(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let chars: Vec<char> = line.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let length = match &chars[at..] {
                [':', ':', ..] => 2,
                [c, ..] if is_word(*c) => chars[at..].iter().take_while(|&&c| is_word(c)).count(),
                _ => 1,
            };
            if !chars[at].is_whitespace() {
                found.push(Token { text: chars[at..at + length].iter().collect(), line: number + 1 });
            }
            at += length;
        }
    }
    found
}

/// Leaves out every item under `#[cfg(test)]`: rules about what the program does say nothing about its tests.
pub fn without_tests(tokens: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let marked = tokens[at..].iter().take(MARK.len()).map(|t| t.text.as_str()).eq(MARK);
        if marked {
            at = item_end(tokens, at + MARK.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The index after the item that starts at `at`: after its `;`, or after the brace that closes its body.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    let is_use = tokens[at..].iter().find(|t| t.text == "use" || t.text == "{").is_some_and(|t| t.text == "use");
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        let ends = token.text == ";" || (token.text == "}" && !is_use);
        if depth == 0 && ends {
            return at + offset + 1;
        }
    }
    tokens.len()
}

/// Every path the code names, in `use` declarations and elsewhere. `module` is where the file stands in the crate.
pub fn paths(module: &[String], tokens: &[Token]) -> Vec<Path> {
    let mut reader = Reader { tokens, at: 0, scope: module.to_vec(), blocks: Vec::new(), names: HashMap::new(), found: Vec::new() };
    reader.collect_uses();
    reader.collect_all();
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    scope: Vec<String>,
    /// For each open brace, whether it opened an inline module.
    blocks: Vec<bool>,
    /// What a `use` declaration calls a path in this file.
    names: HashMap<String, Vec<String>>,
    found: Vec<Path>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// First pass: names may be used above the declaration that brings them in.
    fn collect_uses(&mut self) {
        self.walk(|reader| {
            if reader.text(reader.at) == "use" {
                reader.at += 1;
                reader.use_tree(Vec::new());
            }
        });
    }

    /// Second pass: paths in expressions and types, with the names of the first pass put in.
    fn collect_all(&mut self) {
        self.walk(|reader| match reader.text(reader.at) {
            "use" => reader.skip_to_semicolon(),
            _ => reader.inline_path(),
        });
    }

    fn walk(&mut self, mut visit: impl FnMut(&mut Self)) {
        self.at = 0;
        while self.at < self.tokens.len() {
            self.track_module();
            let before = self.at;
            visit(self);
            if self.at == before {
                self.at += 1;
            }
        }
    }

    fn track_module(&mut self) {
        let (opens, closes) = (self.text(self.at) == "{", self.text(self.at) == "}");
        if opens {
            let is_module = self.at >= 2 && self.text(self.at - 2) == "mod";
            if is_module {
                self.scope.push(self.text(self.at - 1).to_string());
            }
            self.blocks.push(is_module);
        }
        if closes && self.blocks.pop() == Some(true) {
            self.scope.pop();
        }
    }

    fn skip_to_semicolon(&mut self) {
        while self.at < self.tokens.len() && self.text(self.at) != ";" {
            self.at += 1;
        }
    }

    /// Reads one branch of a `use` tree; stops at the `,`, `}` or `;` after it.
    fn use_tree(&mut self, mut path: Vec<String>) {
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let mut name = None;
        loop {
            match self.text(self.at) {
                "" | "," | "}" | ";" => break,
                "::" => {}
                "{" => return self.use_group(&path),
                "as" => {
                    self.at += 1;
                    name = Some(self.text(self.at).to_string());
                }
                "self" if !path.is_empty() => {}
                segment => path.push(segment.to_string()),
            }
            self.at += 1;
        }
        let path = self.resolve(path);
        if let Some(name) = name.or_else(|| path.last().cloned()) {
            self.names.insert(name, path.clone());
        }
        self.found.push(Path { segments: path, line });
    }

    fn use_group(&mut self, path: &[String]) {
        while self.at < self.tokens.len() && !matches!(self.text(self.at), "}" | ";") {
            self.at += 1;
            if !matches!(self.text(self.at), "}" | "") {
                self.use_tree(path.to_vec());
            }
        }
        if self.text(self.at) == "}" {
            self.at += 1;
        }
    }

    fn inline_path(&mut self) {
        let starts = self.text(self.at).starts_with(|c: char| c.is_alphabetic() || c == '_');
        let continues = self.at > 0 && self.text(self.at - 1) == "::" && self.at > 1 && is_word_token(self.text(self.at - 2));
        if !starts || continues || self.text(self.at + 1) != "::" {
            return;
        }
        let line = self.tokens[self.at].line;
        let mut path = vec![self.text(self.at).to_string()];
        while self.text(self.at + 1) == "::" && is_word_token(self.text(self.at + 2)) {
            self.at += 2;
            path.push(self.text(self.at).to_string());
        }
        self.at += 1;
        if let Some(full) = self.names.get(&path[0]) {
            path.splice(0..1, full.iter().cloned());
        } else {
            path = self.resolve(path);
        }
        self.found.push(Path { segments: path, line });
    }

    fn resolve(&self, path: Vec<String>) -> Vec<String> {
        let mut scope = self.scope.clone();
        let mut rest = path.as_slice();
        match rest.first().map(String::as_str) {
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    scope.pop();
                    rest = &rest[1..];
                }
            }
            _ => return path,
        }
        std::iter::once("crate".to_string()).chain(scope).chain(rest.iter().cloned()).collect()
    }
}

fn is_word_token(text: &str) -> bool {
    text.starts_with(is_word)
}
