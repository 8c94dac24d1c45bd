//! The words of gotd.conf: bare and quoted words, braces, `=` and line ends, with macros expanded.
//!
//! The rules are C gotd's, so that a file means the same to both: a word starts and ends where it
//! does there, a backslash at the end of a line continues it (in a comment too), a quoted string
//! may be broken by a line end, and a macro's value is read again as text, without macros inside
//! it. More characters than there may start a bare word.

use std::collections::HashMap;
use std::rc::Rc;

use super::model::Position;

/// Longest word, in bytes.
pub const WORD_MAX: usize = 8000;
/// Most bytes that expanded macros may add to one configuration.
pub const EXPANSION_MAX: usize = 8 << 20;

/// What a piece of the text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKind {
    /// A word; only a bare one can be a keyword.
    Word {
        /// Its text, with quotes and escapes removed.
        text: String,
        /// Whether it was written in quotes.
        quoted: bool,
    },
    /// The end of a line.
    Newline,
    /// `{`
    Open,
    /// `}`
    Close,
    /// `=`
    Equals,
    /// A character that has no place outside quotes.
    Stray(char),
    /// Something malformed that has been reported already.
    Bad,
    /// The end of the file.
    End,
}

/// A piece of the text and where it starts. Pieces of a macro's value have the position where the
/// macro was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it starts.
    pub at: Position,
}

/// The macros that are defined so far, for all files of one configuration.
#[derive(Debug, Default)]
pub struct Macros {
    values: HashMap<String, Rc<[char]>>,
    expanded: usize,
    unknown: usize,
}

impl Macros {
    /// Most macros in one configuration.
    pub const MAX: usize = 10_000;

    /// Defines a macro, or defines it anew. Returns false when there are too many.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        if self.values.len() >= Macros::MAX && !self.values.contains_key(name) {
            return false;
        }
        self.values.insert(name.to_owned(), value.chars().collect());
        true
    }
}

/// Reads one file.
pub struct Lexer {
    text: Vec<char>,
    next: usize,
    at: Position,
    expansion: Option<(Rc<[char]>, usize)>,
    used_at: Position,
    /// Errors and warnings found since they were last taken.
    pub complaints: Vec<(Position, String, Severity)>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but may not mean what was intended.
    Warning,
}

impl Lexer {
    /// Starts reading file number `file`. C gotd reads bytes, and comments in Latin-1 are as old as
    /// it: what is not UTF-8 is read as U+FFFD, with a warning for the first such byte.
    pub fn new(file: u32, bytes: &[u8]) -> Lexer {
        let start = Position { file, line: 1, column: 1 };
        let mut complaints = Vec::new();
        if let Err(error) = std::str::from_utf8(bytes) {
            let mut at = start;
            String::from_utf8_lossy(&bytes[..error.valid_up_to()]).chars().for_each(|c| at.advance(c));
            let message = "expected UTF-8 text: what is not is read as U+FFFD from here on";
            complaints.push((at, message.to_owned(), Severity::Warning));
        }
        Lexer {
            text: String::from_utf8_lossy(bytes).chars().collect(),
            next: 0,
            at: start,
            expansion: None,
            used_at: start,
            complaints,
        }
    }

    fn error(&mut self, at: Position, message: impl Into<String>) {
        self.complaints.push((at, message.into(), Severity::Error));
    }

    fn peek_raw(&mut self) -> Option<char> {
        if let Some((value, next)) = &self.expansion {
            if let Some(&c) = value.get(*next) {
                return Some(c);
            }
            self.expansion = None;
        }
        self.text.get(self.next).copied()
    }

    fn take_raw(&mut self) -> Option<char> {
        let c = self.peek_raw()?;
        if let Some((_, next)) = &mut self.expansion {
            *next += 1;
        } else {
            self.next += 1;
            self.at.advance(c);
        }
        Some(c)
    }

    /// The character after the next one; never looks across the end of a macro's value.
    fn second_raw(&self) -> Option<char> {
        match &self.expansion {
            Some((value, next)) => value.get(*next + 1).copied(),
            None => self.text.get(self.next + 1).copied(),
        }
    }

    /// Outside quotes a backslash joins lines and otherwise vanishes before the character that
    /// follows it.
    fn peek(&mut self) -> Option<char> {
        while self.peek_raw() == Some('\\') && self.second_raw() == Some('\n') {
            self.take_raw();
            self.take_raw();
        }
        match self.peek_raw() {
            Some('\\') => self.second_raw(),
            other => other,
        }
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek();
        if self.take_raw() == Some('\\') {
            self.take_raw();
        }
        c
    }

    /// The next piece. After [`TokenKind::End`] it is that forever.
    pub fn token(&mut self, macros: &mut Macros) -> Token {
        loop {
            while matches!(self.peek(), Some(' ' | '\t' | '\r')) {
                self.take();
            }
            let at = if self.expansion.is_some() { self.used_at } else { self.at };
            if self.peek() == Some('#') {
                while !matches!(self.peek(), None | Some('\n')) {
                    self.take();
                }
            }
            if self.peek() != Some('$') || self.expansion.is_some() {
                return self.plain_token(at);
            }
            // A macro's value may be empty: then the next token is the one behind it.
            self.used_at = at;
            if !self.expand(at, macros) {
                return Token { kind: TokenKind::Bad, at };
            }
        }
    }

    fn expand(&mut self, at: Position, macros: &mut Macros) -> bool {
        self.take();
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|&c| c.is_ascii_alphanumeric() || c == '_') {
            if name.len() >= WORD_MAX {
                break;
            }
            name.push(c);
            self.take();
        }
        let Some(value) = macros.values.get(&name) else {
            // The search for a similar name takes a while: after 200 unknown macros there is none.
            macros.unknown = macros.unknown.saturating_add(1);
            let known = macros.values.keys().map(String::as_str).take(if macros.unknown > 200 {
                0
            } else {
                usize::MAX
            });
            let hint = super::keywords::nearest(&name, known).map(|n| format!(": did you mean \"${n}\"?"));
            self.error(at, format!("macro \"${name}\" is not defined{}", hint.unwrap_or_default()));
            return false;
        };
        macros.expanded = macros.expanded.saturating_add(value.len());
        if macros.expanded > EXPANSION_MAX {
            self.error(at, format!("macros expand to more than {EXPANSION_MAX} characters"));
            self.next = self.text.len();
            return false;
        }
        self.expansion = Some((value.clone(), 0));
        true
    }

    fn plain_token(&mut self, at: Position) -> Token {
        let Some(c) = self.peek() else {
            return Token { kind: TokenKind::End, at };
        };
        let single = match c {
            '\n' => Some(TokenKind::Newline),
            '{' => Some(TokenKind::Open),
            '}' => Some(TokenKind::Close),
            '=' => Some(TokenKind::Equals),
            _ => None,
        };
        if let Some(kind) = single {
            self.take();
            return Token { kind, at };
        }
        let kind = match c {
            '"' | '\'' => self.quoted(at),
            _ if allowed_bare(c) => self.bare(at),
            _ => {
                self.take();
                TokenKind::Stray(c)
            }
        };
        Token { kind, at }
    }

    fn bare(&mut self, at: Position) -> TokenKind {
        let mut text = String::new();
        while let Some(c) = self.peek().filter(|&c| allowed_bare(c)) {
            text.push(c);
            self.take();
        }
        self.finish_word(at, text, false)
    }

    fn quoted(&mut self, at: Position) -> TokenKind {
        let quote = self.take();
        let mut text = String::new();
        let mut lines = false;
        loop {
            let Some(c) = self.take_raw() else {
                let quote = quote.unwrap_or('"');
                self.error(at, format!("expected a closing {quote} before the end of the file"));
                return TokenKind::Bad;
            };
            if c == '\n' {
                lines = true;
            } else if c == '\\' {
                match self.peek_raw() {
                    Some('\n') => {
                        self.take_raw();
                    }
                    Some(next) if Some(next) == quote || next == ' ' || next == '\t' => {
                        self.take_raw();
                        text.push(next);
                    }
                    _ => text.push(c),
                }
            } else if Some(c) == quote {
                break;
            } else {
                text.push(c);
            }
        }
        if lines {
            let message = "quoted string goes on over the end of its line: is a quote missing?";
            self.complaints.push((at, message.to_owned(), Severity::Warning));
        }
        self.finish_word(at, text, true)
    }

    fn finish_word(&mut self, at: Position, text: String, quoted: bool) -> TokenKind {
        let wrong = if text.len() > WORD_MAX {
            Some(format!("expected a word of at most {WORD_MAX} bytes, found {}", text.len()))
        } else if let Some(c) = text.chars().find(|&c| c.is_control() && c != '\t') {
            Some(format!("control character U+{:04X} in a word", u32::from(c)))
        } else if text.ends_with('\\') {
            // There is no way to quote such a word.
            Some("expected a word that does not end with a backslash".to_owned())
        } else {
            None
        };
        match wrong {
            Some(message) => {
                self.error(at, message);
                TokenKind::Bad
            }
            None => TokenKind::Word { text, quoted },
        }
    }
}

/// Whether a character may stand in a word without quotes.
pub fn allowed_bare(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || (c.is_ascii_punctuation() && !"(){}!=#,".contains(c))
    } else {
        c.is_alphanumeric()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut macros = Macros::default();
        macros.set("two", "alice bob");
        macros.set("root", "srv");
        macros.set("empty", "");
        macros.set("quoted", "'a b'");
        let mut lexer = Lexer::new(0, text.as_bytes());
        let mut out = Vec::new();
        loop {
            let token = lexer.token(&mut macros);
            out.push(match token.kind {
                TokenKind::Word { text, quoted: true } => format!("'{text}'"),
                TokenKind::Word { text, quoted: false } => text,
                TokenKind::Newline => "\\n".to_owned(),
                TokenKind::Open => "{".to_owned(),
                TokenKind::Close => "}".to_owned(),
                TokenKind::Equals => "=".to_owned(),
                TokenKind::Stray(c) => format!("stray {c}"),
                TokenKind::Bad => format!("bad {}", lexer.complaints.last().unwrap().1),
                TokenKind::End => return out,
            });
        }
    }

    #[test]
    fn words_end_where_they_do_for_c_gotd() {
        assert_eq!(words("permit ro :wheel # x"), ["permit", "ro", ":wheel"]);
        assert_eq!(
            words("protect { branch refs/heads/main }"),
            ["protect", "{", "branch", "refs/heads/main", "}"]
        );
        assert_eq!(words("a{b}c=d"), ["a", "{", "b", "}", "c", "=", "d"]);
        assert_eq!(words("fl\"a\"'n'"), ["fl\"a\"'n'"]);
        assert_eq!(words("a#b\nc"), ["a", "\\n", "c"]);
        assert_eq!(words("# gone \\\nwith it\nhere"), ["\\n", "here"]);
        assert_eq!(words("a \\\n b"), ["a", "b"]);
        assert_eq!(words("a\\b \\#x\ny"), ["ab", "\\n", "y"]);
        assert_eq!(words("a,b"), ["a", "stray ,", "b"]);
        assert_eq!(words("a\r\nb"), ["a", "\\n", "b"]);
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(words("\"a b\" 'c \"d\"'"), ["'a b'", "'c \"d\"'"]);
        assert_eq!(words(r#""a\"b" "a\ b" "a\nb""#), ["'a\"b'", "'a b'", "'a\\nb'"]);
        assert_eq!(words("\"a\nb\" c"), ["'ab'", "c"]);
        assert_eq!(words("\"$root\""), ["'$root'"]);
        assert_eq!(words("\"open"), ["bad expected a closing \" before the end of the file"]);
        assert_eq!(words("'a\x07' x\ny"), ["bad control character U+0007 in a word", "x", "\\n", "y"]);
    }

    #[test]
    fn macros_are_read_again_as_text() {
        assert_eq!(words("permit ro $two\nx"), ["permit", "ro", "alice", "bob", "\\n", "x"]);
        assert_eq!(words("$root/git"), ["srv/git"]);
        assert_eq!(words("a $empty b$root"), ["a", "b$root"]);
        assert_eq!(words("$quoted"), ["'a b'"]);
        assert_eq!(
            words("x $rot y\nz"),
            ["x", "bad macro \"$rot\" is not defined: did you mean \"$root\"?", "y", "\\n", "z"]
        );
    }

    #[test]
    fn positions_count_lines_and_characters() {
        let mut lexer = Lexer::new(3, "é \"ü\"\n  $m\n".as_bytes());
        let mut macros = Macros::default();
        macros.set("m", "v w");
        let mut at = Vec::new();
        loop {
            let token = lexer.token(&mut macros);
            at.push((token.at.line, token.at.column));
            assert_eq!(token.at.file, 3);
            if token.kind == TokenKind::End {
                break;
            }
        }
        assert_eq!(at, [(1, 1), (1, 3), (1, 6), (2, 3), (2, 3), (2, 5), (3, 1)]);
        let lexer = Lexer::new(0, b"ab\nc\xff \xff");
        let at: Vec<Position> = lexer.complaints.iter().map(|(at, _, _)| *at).collect();
        assert_eq!(at, [Position { file: 0, line: 2, column: 2 }]);
    }

    #[test]
    fn expansion_is_bounded() {
        let mut macros = Macros::default();
        macros.set("m", &"x ".repeat(WORD_MAX / 2));
        let mut lexer = Lexer::new(0, "$m\n".repeat(100_000).as_bytes());
        let mut pieces = 0_usize;
        while lexer.token(&mut macros).kind != TokenKind::End {
            pieces += 1;
        }
        assert!(pieces < EXPANSION_MAX);
        assert!(lexer.complaints[0].1.starts_with("macros expand to more than"));
    }
}
