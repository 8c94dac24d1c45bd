//! What clients ask in Git's wire protocol, line by line and typed.
//!
//! Nothing here collects: each parser turns one line into one value, so that a session can hand
//! wants and haves on in batches and hold none of them. A [`Counter`] counts lines; its error
//! contains the limit.

pub mod daemon;
pub mod push;
pub mod v0;
pub mod v2;

use libgit::{DeepenLine, Depth, FILTER_PARTS_MAX, Filter, FilterError, HashKind, ObjectId, RefName};

use crate::limits::Counted;
use crate::wire_error::{WireError, quote};

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Want lines.
    pub wants: u64,
    /// Have lines, in all rounds of one connection.
    pub haves: u64,
    /// Shallow lines.
    pub shallows: u64,
    /// `deepen-not` lines.
    pub deepen_nots: u64,
    /// `ref-prefix` lines that are remembered; from so many on all references are listed, as git
    /// does.
    pub prefixes: u64,
    /// Bytes of all remembered `ref-prefix` lines.
    pub prefix_bytes: u64,
    /// Lines before a v2 command's arguments.
    pub capability_lines: u64,
    /// Commands of one push.
    pub commands: u64,
    /// Bytes of the names in the commands and of the options of one push.
    pub command_bytes: u64,
    /// Push options of one push.
    pub push_options: u64,
    /// Flush packets between haves, and requests in v2, on one connection.
    pub rounds: u64,
}

impl Default for RequestLimits {
    fn default() -> RequestLimits {
        RequestLimits {
            wants: 100_000,
            haves: 1_000_000,
            shallows: 100_000,
            deepen_nots: 1_000,
            prefixes: 65_536,
            prefix_bytes: 4 << 20,
            capability_lines: 256,
            commands: 20_000,
            command_bytes: 16 << 20,
            push_options: 64,
            rounds: 100_000,
        }
    }
}

/// Counts one kind of thing against its limit.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    what: Counted,
    count: u64,
    limit: u64,
}

impl Counter {
    /// Nothing counted yet.
    pub const fn new(what: Counted, limit: u64) -> Counter {
        Counter { what, count: 0, limit }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// [`WireError::Limit`] if that is one too many.
    pub fn add(&mut self) -> Result<(), WireError> {
        if self.count >= self.limit {
            return Err(WireError::Limit(self.what, self.limit));
        }
        self.count += 1;
        Ok(())
    }

    /// How many were counted.
    pub const fn count(&self) -> u64 {
        self.count
    }
}

/// A line about shallow history, which v0 and v2 write alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShallowLine {
    /// The client has this commit without its parents.
    Shallow(ObjectId),
    /// How deep the answer is to reach.
    Deepen(DeepenLine),
}

/// Parses a `shallow` or `deepen…` line; `None` if it is another line.
fn shallow_line(line: &[u8], hash: HashKind) -> Option<Result<ShallowLine, WireError>> {
    if let Some(id) = line.strip_prefix(b"shallow ") {
        return Some(object_id("shallow", id, hash).map(ShallowLine::Shallow));
    }
    if let Some(depth) = line.strip_prefix(b"deepen ") {
        let depth = number("deepen", depth).and_then(|n| Depth::new(n).ok_or_else(|| bad("deepen", depth)));
        return Some(depth.map(|n| ShallowLine::Deepen(DeepenLine::Depth(n))));
    }
    if let Some(time) = line.strip_prefix(b"deepen-since ") {
        let time = number("deepen-since", time);
        return Some(time.map(|n| ShallowLine::Deepen(DeepenLine::Since(n))));
    }
    if let Some(name) = line.strip_prefix(b"deepen-not ") {
        let name = RefName::parse(name).map_err(|_| bad("deepen-not", name));
        return Some(name.map(|n| ShallowLine::Deepen(DeepenLine::Not(n))));
    }
    None
}

/// Parses the specification behind `filter `.
fn filter(spec: &[u8]) -> Result<Filter, WireError> {
    Filter::parse(spec).map_err(|error| match error {
        FilterError::Value(value) => bad("filter", &value),
        FilterError::Unknown(name) => WireError::Unknown("filter", quote(&name)),
        FilterError::TooMany => WireError::Limit(Counted::Filters, FILTER_PARTS_MAX as u64),
    })
}

fn bad(what: &'static str, value: &[u8]) -> WireError {
    WireError::BadValue(what, quote(value))
}

/// A decimal number of at most 18 digits, so that it fits into a signed one too.
fn number(what: &'static str, digits: &[u8]) -> Result<u64, WireError> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad(what, digits));
    }
    Ok(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// An object id of the repository's hash.
fn object_id(what: &'static str, hex: &[u8], hash: HashKind) -> Result<ObjectId, WireError> {
    match ObjectId::from_hex(hex) {
        Some(id) if id.kind() == hash => Ok(id),
        _ => Err(bad(what, hex)),
    }
}

/// Checks the value of an `object-format` capability.
fn object_format(value: &[u8], hash: HashKind) -> Result<(), WireError> {
    match HashKind::from_name(value) {
        Some(theirs) if theirs == hash => Ok(()),
        _ => Err(WireError::ObjectFormat(hash.name(), quote(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_say_their_limit() {
        let mut counter = Counter::new(Counted::Wants, 2);
        counter.add().unwrap();
        counter.add().unwrap();
        assert_eq!(counter.add().unwrap_err().to_string(), "too many wants: at most 2");
        assert_eq!(counter.count(), 2);
    }

    #[test]
    fn lines_about_shallow_history() {
        let parse = |line: &str| shallow_line(line.as_bytes(), HashKind::Sha1);
        let id = "a".repeat(40);
        let shallow = ShallowLine::Shallow(ObjectId::from_hex(id.as_bytes()).unwrap());
        assert_eq!(parse(&format!("shallow {id}")), Some(Ok(shallow)));
        let depth = |n| ShallowLine::Deepen(DeepenLine::Depth(Depth::new(n).unwrap()));
        assert_eq!(parse("deepen 5"), Some(Ok(depth(5))));
        assert_eq!(parse("deepen 2147483647"), Some(Ok(ShallowLine::Deepen(DeepenLine::Depth(Depth::ALL)))));
        assert_eq!(
            parse("deepen-since 1700000000"),
            Some(Ok(ShallowLine::Deepen(DeepenLine::Since(1_700_000_000))))
        );
        let name = RefName::parse(b"v1.0").unwrap();
        assert_eq!(parse("deepen-not v1.0"), Some(Ok(ShallowLine::Deepen(DeepenLine::Not(name)))));
        for line in [
            "deepen 0",
            "deepen -1",
            "deepen 2147483648",
            "deepen 99999999999999999999",
            "deepen ",
            "deepen 1x",
            "deepen-since -1",
            "deepen-since x",
            "deepen-not ../x",
            "deepen-not ",
            "shallow x",
            "shallow ",
        ] {
            assert!(matches!(parse(line), Some(Err(WireError::BadValue(..)))), "{line}");
        }
        assert!(matches!(parse(&format!("shallow {}", "a".repeat(64))), Some(Err(_))));
        assert_eq!(parse("deepen-relative"), None);
        assert_eq!(parse("done"), None);
    }

    #[test]
    fn a_filter_that_is_refused_is_quoted() {
        let text = |spec: &str| filter(spec.as_bytes()).unwrap_err().to_string();
        assert_eq!(text("sparse:oid=main:x"), "unknown filter 'sparse:oid=main:x'");
        assert_eq!(text("combine:tree:1+tree:x"), "invalid filter: 'x'");
        assert_eq!(text("combine:%zz"), "invalid filter: '%zz'");
        assert_eq!(text("blob:limit=99999999999999999g"), "invalid filter: '99999999999999999g'");
        let many = format!("combine:{}", vec!["tree:1"; 17].join("+"));
        assert_eq!(text(&many), "too many filters: at most 16");
        assert!(text(&"x".repeat(5000)).len() < 100);
    }
}
