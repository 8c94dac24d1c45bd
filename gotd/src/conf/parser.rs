//! The grammar of gotd.conf: files, macros, and the directives at the top.
//!
//! One pass, by recursive descent; a directive that is wrong is reported and skipped with its
//! block, so that one run finds all errors. Directives of a repository are in
//! [`super::repository_blocks`], those about people in [`super::accounts`].

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use libproto::names::{RepoName, UserName};

use super::error::ConfigError;
use super::keywords::{RESERVED, either, nearest};
use super::lexer::{Lexer, Macros, Severity, Token, TokenKind};
use super::limits::{Limit, Row, Scope, TABLE};
use super::model::{
    Config, DEFAULT_GIT_PORT, ListenAddress, Listener, LogTo, Position, SOCKET_PATH_MAX, Sandbox, Subject,
    User, UserLimit, Who,
};
use super::source::{FILE_MAX, FILES_MAX, FileError, Loader, TOTAL_MAX, is_pattern};
use crate::roles::sockets::ask;

/// Most errors that one run reports.
const COMPLAINTS_MAX: usize = 200;
/// Most warnings that are kept, more than are ever shown; the rest is counted.
const WARNINGS_MAX: usize = 1000;
/// How deep files may include files.
const INCLUDE_DEPTH: usize = 8;
/// Most repository blocks in one configuration.
pub const REPOSITORIES_MAX: usize = 200_000;
/// Longest path in a configuration, in bytes: it travels in one message with other things.
pub const PATH_MAX: usize = 2000;
/// Most access rules in one configuration.
pub const RULES_MAX: usize = 2_000_000;

/// What came out of parsing.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The parsed configuration, to be used only if there are no errors. Names are not resolved
    /// yet.
    pub config: Config,
    /// In the order of the files.
    pub errors: Vec<ConfigError>,
    /// In the order of the files.
    pub warnings: Vec<ConfigError>,
    /// How many warnings there are besides these.
    pub more_warnings: usize,
}

/// Parses a configuration whose main file is `path`.
pub fn parse(path: &str, loader: &mut dyn Loader) -> Parsed {
    let mut parser = Parser {
        loader,
        config: Config::empty(),
        lexer: None,
        ahead: None,
        macros: Macros::default(),
        total: 0,
        errors: Vec::new(),
        warnings: Vec::new(),
        more_warnings: 0,
        rules: 0,
        repository_names: HashMap::new(),
        repository_words: Vec::new(),
        repository_texts: HashSet::new(),
        unserved: Vec::new(),
        namesakes: Vec::new(),
        user_names: HashMap::new(),
        keys: HashMap::new(),
        group_names: HashMap::new(),
        group_members: Vec::new(),
        open_files: Vec::new(),
        warned: HashSet::new(),
        limited: HashMap::new(),
    };
    parser.file(path, None);
    parser.finish();
    let Parser { config, errors, warnings, more_warnings, .. } = parser;
    Parsed { config, errors, warnings, more_warnings }
}

/// A directive was wrong; this has been reported, and the caller skips to where the next one
/// starts.
#[derive(Debug)]
pub(super) struct Skip;

/// The outcome of a piece of grammar.
pub(super) type Outcome<T = ()> = Result<T, Skip>;

/// A word and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub text: String,
    pub at: Position,
}

/// A limit that was read.
#[derive(Debug, Clone)]
pub(super) struct LimitItem {
    pub limit: Limit,
    /// The user, for a limit of a single user.
    pub user: Option<UserName>,
    pub value: u64,
    pub at: Position,
}

pub(super) struct Parser<'l> {
    loader: &'l mut dyn Loader,
    pub config: Config,
    lexer: Option<Lexer>,
    ahead: Option<Token>,
    macros: Macros,
    total: usize,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
    more_warnings: usize,
    pub rules: usize,
    /// Names of repositories without `.git`, and of prefixes with a slash at the end.
    pub repository_names: HashMap<Vec<u8>, usize>,
    /// The name of each block as it is written.
    pub repository_words: Vec<String>,
    pub repository_texts: HashSet<String>,
    /// Blocks that no request can ask for, and why.
    pub unserved: Vec<(usize, String)>,
    /// Blocks whose name an earlier one has with `.git`.
    pub namesakes: Vec<(Position, String)>,
    /// Keys of all users in base64, and principals behind the number of their account.
    pub keys: HashMap<String, Position>,
    pub user_names: HashMap<UserName, u32>,
    pub group_names: HashMap<UserName, u32>,
    /// Members of each group, looked up when all users are known.
    pub group_members: Vec<Vec<(UserName, Position)>>,
    open_files: Vec<String>,
    warned: HashSet<&'static str>,
    /// Where each user's limit is in the configuration.
    limited: HashMap<UserName, usize>,
}

const TOP: &[&str] = &[
    "account",
    "connection",
    "group",
    "include",
    "limit",
    "listen",
    "log",
    "repositories",
    "repository",
    "sandbox",
    "user",
];

impl Parser<'_> {
    // Files.

    fn file(&mut self, path: &str, named_at: Option<Position>) {
        let complain = |parser: &mut Self, message: String| match named_at {
            Some(at) => parser.error_at(at, message),
            None => parser.push_error(ConfigError::whole(path, message)),
        };
        let shown = named_at.map_or(String::new(), |_| format!("{path}: "));
        if self.open_files.iter().any(|open| open == path) {
            return complain(self, format!("{shown}the file includes itself"));
        }
        if self.open_files.len() >= INCLUDE_DEPTH {
            return complain(self, format!("{shown}files are included more than {INCLUDE_DEPTH} deep"));
        }
        if self.config.files.len() >= FILES_MAX {
            return complain(self, format!("{shown}more than {FILES_MAX} files"));
        }
        let text = match self.loader.load(path) {
            Ok(text) => text,
            Err(message) => return complain(self, format!("{shown}{message}")),
        };
        self.total = self.total.saturating_add(text.len());
        if text.len() > FILE_MAX || self.total > TOTAL_MAX {
            return complain(self, format!("{shown}{}", FileError::AllTooLarge));
        }
        let number = u32::try_from(self.config.files.len()).unwrap_or(u32::MAX);
        self.config.files.push(path.to_owned());
        let outer = (self.lexer.replace(Lexer::new(number, &text)), self.ahead.take());
        self.open_files.push(path.to_owned());
        self.top();
        self.open_files.pop();
        (self.lexer, self.ahead) = outer;
    }

    fn include(&mut self) -> Outcome {
        let path = self.word("a path or pattern in quotes after \"include\"")?;
        if !path.text.starts_with('/') {
            return self.fail(path.at, format!("expected an absolute path, found \"{}\"", path.text));
        }
        let (directory, _) = super::source::split_last(&path.text);
        if is_pattern(directory) {
            return self.fail(path.at, "expected \"*\" and \"?\" only behind the last slash");
        }
        self.end_of_directive()?;
        if !is_pattern(&path.text) {
            self.file(&path.text, Some(path.at));
            return Ok(());
        }
        match self.loader.expand(&path.text) {
            Ok(found) => found.iter().for_each(|file| self.file(file, Some(path.at))),
            Err(message) => self.error_at(path.at, format!("{}: {message}", path.text)),
        }
        Ok(())
    }

    /// Loads a file other than gotd.conf, such as a file of keys; it counts towards the same limit
    /// of files.
    pub fn load_aside(&mut self, path: &str) -> Result<String, FileError> {
        let bytes = self.loader.load(path)?;
        self.total = self.total.saturating_add(bytes.len());
        if bytes.len() > FILE_MAX || self.total > TOTAL_MAX {
            return Err(FileError::AllTooLarge);
        }
        String::from_utf8(bytes).map_err(|_| FileError::NotText)
    }

    // Pieces of text.

    fn next_raw(&mut self) -> Token {
        if let Some(token) = self.ahead.take() {
            return token;
        }
        let Some(lexer) = &mut self.lexer else {
            return Token { kind: TokenKind::End, at: Position::default() };
        };
        let token = lexer.token(&mut self.macros);
        for (at, message, severity) in std::mem::take(&mut lexer.complaints) {
            match severity {
                Severity::Error => self.error_at(at, message),
                Severity::Warning => self.warn_at(at, message),
            }
        }
        token
    }

    pub fn next(&mut self) -> Token {
        self.next_raw()
    }

    pub fn peek(&mut self) -> &Token {
        let token = self.next_raw();
        self.ahead.insert(token)
    }

    /// Whether the next piece is this word without quotes; it stays where it is.
    pub fn at_keyword(&mut self, keyword: &str) -> bool {
        matches!(&self.peek().kind, TokenKind::Word { text, quoted: false } if text == keyword)
    }

    /// Takes this word without quotes if it is next.
    pub fn accept(&mut self, keyword: &str) -> bool {
        let there = self.at_keyword(keyword);
        if there {
            self.next();
        }
        there
    }

    /// Takes an argument: any word in quotes, or a bare one that is not reserved.
    pub fn word(&mut self, what: &str) -> Outcome<Word> {
        let TokenKind::Word { text, quoted } = &self.peek().kind else {
            return self.unexpected(what);
        };
        if !quoted && RESERVED.contains(&text.as_str()) {
            let (text, at) = (text.clone(), self.peek().at);
            return self.fail(at, format!("expected {what}, found the reserved word {text} without quotes"));
        }
        let token = self.next();
        match token.kind {
            TokenKind::Word { text, .. } => Ok(Word { text, at: token.at }),
            _ => Err(Skip),
        }
    }

    /// Takes one of these words without quotes.
    pub fn keyword(&mut self, known: &[&'static str], what: &str) -> Outcome<&'static str> {
        let token = self.peek().clone();
        if let TokenKind::Word { text, quoted } = &token.kind {
            if let Some(&word) = known.iter().find(|&&k| k == text && !quoted) {
                self.next();
                return Ok(word);
            }
            let hint = match nearest(text, known.iter().copied()) {
                Some(near) if *quoted && near == text => format!(": write {near} without quotes"),
                Some(near) => format!(": did you mean \"{near}\"?"),
                None => String::new(),
            };
            return self.fail(token.at, format!("expected {what}, found \"{text}\"{hint}"));
        }
        self.unexpected(what)
    }

    /// Takes all of these words, none in quotes.
    pub fn keywords(&mut self, words: &[&'static str]) -> Outcome {
        words.iter().try_for_each(|&word| self.keyword(&[word], &format!("\"{word}\"")).map(|_| ()))
    }

    pub fn unexpected<T>(&mut self, what: &str) -> Outcome<T> {
        let token = self.peek().clone();
        let found = match token.kind {
            TokenKind::Bad => return Err(Skip),
            TokenKind::Word { text, .. } => format!("\"{text}\""),
            TokenKind::Newline => "the end of the line".to_owned(),
            TokenKind::Open => "{".to_owned(),
            TokenKind::Close => "}".to_owned(),
            TokenKind::Equals => "=".to_owned(),
            TokenKind::Stray(c) if c.is_control() => format!("control character U+{:04X}", u32::from(c)),
            TokenKind::Stray(c) => format!("{c} outside quotes"),
            TokenKind::End => "the end of the file".to_owned(),
        };
        self.fail(token.at, format!("expected {what}, found {found}"))
    }

    pub fn fail<T>(&mut self, at: Position, message: impl Into<String>) -> Outcome<T> {
        self.error_at(at, message);
        Err(Skip)
    }

    pub fn error_at(&mut self, at: Position, message: impl Into<String>) {
        let error = self.complaint(at, message.into());
        self.push_error(error);
    }

    pub fn warn_at(&mut self, at: Position, message: impl Into<String>) {
        if self.warnings.len() < WARNINGS_MAX {
            let warning = self.complaint(at, message.into());
            self.warnings.push(warning);
        } else {
            self.more_warnings += 1;
        }
    }

    /// Whether another error would still be shown.
    pub fn shows_errors(&self) -> bool {
        self.errors.len() < COMPLAINTS_MAX
    }

    fn push_error(&mut self, error: ConfigError) {
        if self.shows_errors() {
            self.errors.push(error);
        }
    }

    fn complaint(&self, at: Position, message: String) -> ConfigError {
        let file = usize::try_from(at.file).ok().and_then(|i| self.config.files.get(i));
        ConfigError { file: file.cloned().unwrap_or_default(), line: at.line, column: at.column, message }
    }

    /// Warns of a directive that is read because files written for C gotd have it, and that nothing
    /// acts on yet. gotd.conf(5) names each under CAVEATS.
    pub fn no_effect(&mut self, directive: &'static str, at: Position) {
        // Once says it; a thousand repositories would only bury the rest.
        if self.warned.insert(directive) {
            self.warn_at(at, format!("{directive} is without effect in this version"));
        }
    }

    // Directives and blocks.

    /// After an error: skips to the end of the line, past a block that starts on it.
    fn recover(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek().kind {
                TokenKind::End => return,
                TokenKind::Newline if depth == 0 => return,
                TokenKind::Close if depth == 0 => return,
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth -= 1,
                _ => {}
            }
            self.next();
        }
    }

    fn skip_newlines(&mut self) {
        while self.peek().kind == TokenKind::Newline {
            self.next();
        }
    }

    /// A directive at the top ends with its line.
    fn end_of_directive(&mut self) -> Outcome {
        match self.peek().kind {
            TokenKind::Newline | TokenKind::End => Ok(()),
            _ => self.unexpected("the end of the line"),
        }
    }

    /// `{ item item … }`, with line ends between items or not.
    pub fn block(&mut self, what: &str, item: &mut dyn FnMut(&mut Self) -> Outcome) -> Outcome {
        let open = self.peek().at;
        if self.peek().kind != TokenKind::Open {
            return self.unexpected(what);
        }
        self.next();
        loop {
            self.skip_newlines();
            let end = match self.peek().kind {
                TokenKind::Close => true,
                TokenKind::End => {
                    return self.unexpected(&format!("}} for the {{ of line {}", open.line));
                }
                _ => false,
            };
            if end {
                self.next();
                return Ok(());
            }
            if item(self).is_err() {
                self.recover();
            }
        }
    }

    /// A block of items, or one item on the same line.
    pub fn block_or_item(&mut self, item: &mut dyn FnMut(&mut Self) -> Outcome) -> Outcome {
        if self.peek().kind == TokenKind::Open { self.block("{", item) } else { item(self) }
    }

    fn top(&mut self) {
        loop {
            self.skip_newlines();
            if self.peek().kind == TokenKind::End {
                return;
            }
            if self.directive().and_then(|()| self.end_of_directive()).is_err() {
                self.recover();
                if self.peek().kind == TokenKind::Close {
                    self.next();
                }
            }
        }
    }

    fn directive(&mut self) -> Outcome {
        let token = self.peek().clone();
        let TokenKind::Word { text, quoted } = token.kind else {
            return self.unexpected("a directive");
        };
        // Only what follows tells a macro from a directive, since C gotd's manual names one "path".
        self.next();
        if self.peek().kind == TokenKind::Equals {
            return self.macro_definition(&text, token.at);
        }
        if quoted || !TOP.contains(&text.as_str()) {
            let hint = match nearest(&text, TOP.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("expected {}, or NAME = VALUE for a macro", either(TOP)),
            };
            return self.fail(token.at, format!("unknown directive \"{text}\": {hint}"));
        }
        match text.as_str() {
            "account" => self.account(token.at),
            "connection" => self.block_or_item(&mut Self::connection_item),
            "group" => self.group(token.at),
            "include" => self.include(),
            "limit" => self.block_or_item(&mut |p| p.global_limit_item()),
            "listen" => self.listen(token.at),
            "log" => self.block_or_item(&mut Self::log_item),
            "repositories" => self.repositories(token.at),
            "repository" => self.repository(token.at),
            "sandbox" => {
                let what = either(&["required", "best-effort"]);
                self.config.sandbox = match self.keyword(&["required", "best-effort"], &what)? {
                    "required" => Sandbox::Required,
                    _ => Sandbox::BestEffort,
                };
                Ok(())
            }
            _ => self.user(token.at),
        }
    }

    fn macro_definition(&mut self, name: &str, at: Position) -> Outcome {
        self.next();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            // C gotd takes any name, but such a macro cannot be used there either.
            let what = "expected a macro name of letters, digits and underscores";
            self.warn_at(at, format!("{what}, found \"{name}\": no \"$\" can use it"));
            self.word("a value after \"=\"")?;
            return Ok(());
        }
        let value = self.word("a value after \"=\"")?;
        if !self.macros.set(name, &value.text) {
            return self.fail(at, format!("more than {} macros", Macros::MAX));
        }
        Ok(())
    }

    fn listen(&mut self, at: Position) -> Outcome {
        self.keywords(&["on"])?;
        let address = if self.accept("git") {
            let host = self.word("an IPv4 or IPv6 address")?;
            let Ok(address) = host.text.parse::<IpAddr>() else {
                return self
                    .fail(host.at, format!("expected an IPv4 or IPv6 address, found \"{}\"", host.text));
            };
            // A socket for IPv6 alone cannot have such an address.
            if let IpAddr::V6(v6) = address
                && let Some(v4) = v6.to_ipv4_mapped()
            {
                return self
                    .fail(host.at, format!("expected the IPv4 address \"{v4}\", found \"{}\"", host.text));
            }
            let port = if self.accept("port") { self.port()? } else { DEFAULT_GIT_PORT };
            ListenAddress::Git(address, port)
        } else {
            let mut path = self.word("the path of a unix socket, or git and an address")?;
            path.text = self.clean_path(&path)?;
            if path.text.len() > SOCKET_PATH_MAX {
                return self
                    .fail(path.at, format!("expected a socket path of at most {SOCKET_PATH_MAX} bytes"));
            }
            if ask::is_control(path.text.as_bytes()) {
                let text = format!(
                    "expected the path of a socket for clients: one that ends in {} is its control socket",
                    ask::CONTROL
                );
                return self.fail(path.at, text);
            }
            ListenAddress::Unix(path.text)
        };
        if let Some(same) = self.config.listeners.iter().find(|l| l.address == address) {
            let place = self.config.place(same.at);
            self.warn_at(at, format!("the same address is already in {place}"));
            return Ok(());
        }
        if self.config.listeners.len() >= 64 {
            return self.fail(at, "more than 64 listeners");
        }
        self.config.listeners.push(Listener { address, at });
        Ok(())
    }

    fn port(&mut self) -> Outcome<u16> {
        let word = self.word("a port number")?;
        match word.text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => {
                self.fail(word.at, format!("expected a port number from 1 to 65535, found \"{}\"", word.text))
            }
        }
    }

    fn user(&mut self, at: Position) -> Outcome {
        let name = self.user_name("the name or number of a user")?;
        let user = |name: UserName| User { name: name.as_str().to_owned(), ids: None, at };
        self.config.user = Some(user(name));
        let what = "the name of a user";
        self.config.client = if self.accept("client") { Some(user(self.user_name(what)?)) } else { None };
        self.config.daemon = if self.accept("daemon") { Some(user(self.user_name(what)?)) } else { None };
        Ok(())
    }

    fn log_item(&mut self) -> Outcome {
        match self.keyword(&["verbose", "to"], &either(&["verbose", "to"]))? {
            "verbose" => self.config.log_verbose = true,
            _ => {
                self.config.log_to =
                    match self.keyword(&["stderr", "syslog"], &either(&["stderr", "syslog"]))? {
                        "stderr" => LogTo::Stderr,
                        _ => LogTo::Syslog,
                    };
            }
        }
        Ok(())
    }

    // Connections and limits.

    fn connection_item(&mut self) -> Outcome {
        let at = self.peek().at;
        if self.accept("informative") {
            self.keywords(&["errors"])?;
            self.config.informative_errors = true;
            return Ok(());
        }
        self.limit_item(at, &[Scope::Connection, Scope::User], &["informative"], &mut |parser, item| {
            if let Some(user) = item.user {
                return parser.limit_user(user, item.value, item.at);
            }
            parser.config.limits.set(item.limit, item.value, item.at);
            Ok(())
        })
    }

    fn global_limit_item(&mut self) -> Outcome {
        let at = self.peek().at;
        self.limit_item(at, &[Scope::Global, Scope::Repository], &[], &mut |parser, item| {
            parser.config.limits.set(item.limit, item.value, item.at);
            Ok(())
        })
    }

    /// Parses a limit: the words of a row of the table of limits, a user where the row has one, and
    /// a value. `others` are words that may stand there instead.
    pub fn limit_item(
        &mut self,
        at: Position,
        scopes: &[Scope],
        others: &[&'static str],
        set: &mut dyn FnMut(&mut Self, LimitItem) -> Outcome,
    ) -> Outcome {
        let mut rows: Vec<_> = TABLE.iter().filter(|row| scopes.contains(&row.scope)).collect();
        if let Some(text) = self.limit_elsewhere(scopes) {
            return self.fail(at, text);
        }
        let mut depth = 0;
        let row = loop {
            let mut next: Vec<&'static str> = Vec::new();
            for row in &rows {
                if let Some(&word) = row.words.get(depth).filter(|word| !next.contains(word)) {
                    next.push(word);
                }
            }
            if depth == 0 {
                next.extend(others);
            }
            let word = self.keyword(&next, &either(&next))?;
            rows.retain(|row| row.words.get(depth) == Some(&word));
            depth += 1;
            if rows.is_empty() {
                return Err(Skip);
            }
            // The next words may be those of a longer row; no value looks like such a word.
            let further: Vec<&str> = rows.iter().filter_map(|row| row.words.get(depth).copied()).collect();
            if let Some(row) = rows.iter().find(|row| row.words.len() == depth)
                && !further.iter().any(|word| self.at_keyword(word))
            {
                break *row;
            }
        };
        let user = match row.scope {
            Scope::User => {
                let word = self.word("the name or number of a user")?;
                Some(self.subject_name(&word.text)?)
            }
            Scope::Connection | Scope::Global | Scope::Repository => None,
        };
        let word = self.word(&format!("a value for \"{}\"", row.words.join(" ")))?;
        match row.value(&word.text) {
            Ok(value) => set(self, LimitItem { limit: row.limit, user, value, at }),
            Err(error) => self.fail(word.at, error.to_string()),
        }
    }

    /// The error for a limit that belongs elsewhere: behind `connection`, behind `limit`, or
    /// outside of blocks.
    fn limit_elsewhere(&mut self, scopes: &[Scope]) -> Option<String> {
        let TokenKind::Word { text, quoted: false } = &self.peek().kind else { return None };
        let behind = scopes.first()?.word();
        let known = |row: &&Row| scopes.contains(&row.scope) && row.words.first() == Some(&text.as_str());
        if TABLE.iter().any(|row| known(&row)) {
            return None;
        }
        // Both as it stands and with the word before it: `limit user` is `connection limit user`.
        let other = TABLE.iter().find(|row| match row.words {
            [first, ..] if first == text => true,
            [first, second, ..] => *first == behind && second == text,
            _ => false,
        })?;
        Some(match other.scope.word() {
            word if word == behind => {
                format!("\"{behind} {text}\" has a place only outside of the blocks of repositories")
            }
            word => format!(
                "\"{behind} {text}\" has a place only in \"{word}\": expected \"{}\"",
                other.limit.directive()
            ),
        })
    }

    /// A user or group in a rule or a limit. C gotd takes any text there and asks the system; a
    /// text that is no [`UserName`] is resolved to its number, if it has one.
    pub fn subject_name(&mut self, text: &str) -> Outcome<UserName> {
        if let Ok(name) = UserName::parse(text.as_bytes()) {
            return Ok(name);
        }
        let stand_in = format!("name-that-only-the-system-may-know-{}", self.config.odd_names.len());
        let Ok(name) = UserName::parse(stand_in.as_bytes()) else { return Err(Skip) };
        self.config.odd_names.insert(name.clone(), text.to_owned());
        Ok(name)
    }

    fn limit_user(&mut self, name: UserName, value: u64, at: Position) -> Outcome {
        let connections = u32::try_from(value).map_err(|_| Skip)?;
        let subject = Subject { group: false, name };
        let limit = UserLimit { subject, who: Who::Nobody, connections, at };
        // The last line about a user wins.
        let known = self.limited.get(&limit.subject.name).and_then(|&i| self.config.user_limits.get_mut(i));
        if let Some(known) = known {
            *known = limit;
            return Ok(());
        }
        if self.config.user_limits.len() >= 100_000 {
            return self.fail(at, "more than 100000 limits of users");
        }
        self.limited.insert(limit.subject.name.clone(), self.config.user_limits.len());
        self.config.user_limits.push(limit);
        Ok(())
    }

    // Arguments with a meaning.

    pub fn user_name(&mut self, what: &str) -> Outcome<UserName> {
        let word = self.word(what)?;
        self.check_user_name(&word, &word.text, what)
    }

    pub fn check_user_name(&mut self, word: &Word, name: &str, what: &str) -> Outcome<UserName> {
        match UserName::parse(name.as_bytes()) {
            Ok(name) => Ok(name),
            Err(error) => self.fail(word.at, format!("expected {what}, found \"{}\": {error}", word.text)),
        }
    }

    pub fn check_path(&mut self, path: &Word) -> Outcome {
        if !path.text.starts_with('/') {
            return self.fail(path.at, format!("expected an absolute path, found \"{}\"", path.text));
        }
        if path.text.len() > PATH_MAX || path.text.split('/').any(|c| c == "..") {
            return self.fail(path.at, format!("expected a path of at most {PATH_MAX} bytes without \"..\""));
        }
        Ok(())
    }

    /// A path that C gotd takes, without `..`. C gotd asks the system where the path leads, when it
    /// reads the file; here it is walked to at each request, and always downwards.
    pub fn clean_path(&mut self, path: &Word) -> Outcome<String> {
        if !path.text.starts_with('/') || !path.text.split('/').any(|c| c == "..") {
            self.check_path(path)?;
            return Ok(path.text.clone());
        }
        let mut names: Vec<&str> = Vec::new();
        for name in path.text.split('/').filter(|name| !matches!(*name, "" | ".")) {
            if name == ".." {
                names.pop();
            } else {
                names.push(name);
            }
        }
        let clean = Word { text: format!("/{}", names.join("/")), at: path.at };
        self.check_path(&clean)?;
        self.warn_at(path.at, format!("\"{}\" is read as \"{}\"", path.text, clean.text));
        Ok(clean.text)
    }

    pub fn repo_name(&mut self, word: &Word) -> Outcome<RepoName> {
        match RepoName::parse(word.text.as_bytes()) {
            Ok(name) => Ok(name),
            Err(error) => self.fail(
                word.at,
                format!("expected the name of a repository, found \"{}\": {error}", word.text),
            ),
        }
    }

    // The end.

    fn finish(&mut self) {
        self.resolve_group_members();
        self.check_borrows();
        if self.config.repositories.is_empty() && self.errors.is_empty() {
            let main = self.config.files.first().cloned().unwrap_or_default();
            self.push_error(ConfigError::whole(
                &main,
                "expected at least one \"repository\" or \"repositories\"",
            ));
        }
        self.leave_out_unserved();
        // A block that lacks something is only known at its end.
        let order: HashMap<String, usize> = self.config.files.iter().cloned().zip(0..).collect();
        self.errors.sort_by_key(|e| (order.get(&e.file).copied(), e.line, e.column));
        if self.errors.len() >= COMPLAINTS_MAX {
            self.errors.push(ConfigError::whole("", "too many errors, the rest is not shown"));
        }
    }
}
