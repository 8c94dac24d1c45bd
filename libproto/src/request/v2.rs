//! Requests of v2 (`gitprotocol-v2`): a command, capabilities, and after a delimiter its arguments.
//! Whatever was not advertised is refused, as the document demands.

use libgit::{Filter, HashKind, ObjectId};

use super::{Counter, ShallowLine, filter, object_format, object_id, shallow_line};
use crate::command::sanitize_agent;
use crate::limits::Counted;
use crate::wire_error::{WireError, quote};

/// A command of v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V2Command {
    /// List references.
    LsRefs,
    /// Negotiate and send a pack.
    Fetch,
}

impl V2Command {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            V2Command::LsRefs => "ls-refs",
            V2Command::Fetch => "fetch",
        }
    }
}

/// The part of a request before its arguments, as far as it came.
#[derive(Debug)]
pub struct Head {
    hash: HashKind,
    command: Option<V2Command>,
    format: bool,
    lines: Counter,
    /// The client's name for itself, fit for a log line.
    pub agent: Option<String>,
}

impl Head {
    /// Nothing has come yet. `max_lines` bounds the capabilities, server options included.
    pub fn new(hash: HashKind, max_lines: u64) -> Head {
        Head {
            hash,
            command: None,
            format: false,
            lines: Counter::new(Counted::Capabilities, max_lines),
            agent: None,
        }
    }

    /// Whether no line has come: a flush packet then ends the connection.
    pub fn is_empty(&self) -> bool {
        self.lines.count() == 0
    }

    /// Takes one line.
    pub fn line(&mut self, line: &[u8]) -> Result<(), WireError> {
        self.lines.add()?;
        if let Some(name) = line.strip_prefix(b"command=") {
            if self.command.is_some() {
                return Err(WireError::Duplicate("command"));
            }
            let command =
                [V2Command::LsRefs, V2Command::Fetch].into_iter().find(|c| c.name().as_bytes() == name);
            self.command = Some(command.ok_or_else(|| WireError::Unknown("command", quote(name)))?);
        } else if let Some(agent) = line.strip_prefix(b"agent=") {
            self.agent = Some(sanitize_agent(agent));
        } else if let Some(format) = line.strip_prefix(b"object-format=") {
            object_format(format, self.hash)?;
            self.format = true;
        } else if !(line.starts_with(b"server-option=") || line == b"agent" || line == b"server-option") {
            return Err(WireError::Unknown("capability", quote(line)));
        }
        Ok(())
    }

    /// The command, once a delimiter or flush packet ended this part.
    ///
    /// # Errors
    /// [`WireError::Missing`] without a command; [`WireError::ObjectFormat`] if the client named no
    /// object format (which means SHA-1) and the repository has another.
    pub fn finish(&self) -> Result<V2Command, WireError> {
        let command = self.command.ok_or(WireError::Missing("command requested"))?;
        if !self.format && self.hash != HashKind::Sha1 {
            return Err(WireError::ObjectFormat(self.hash.name(), HashKind::Sha1.name().to_owned()));
        }
        Ok(command)
    }
}

/// An argument of `ls-refs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LsRefs<'a> {
    /// Tell what annotated tags point to.
    Peel,
    /// Tell what symbolic references point to.
    Symrefs,
    /// Tell where `HEAD` points though nothing is there yet.
    Unborn,
    /// Only references that begin with one of these. Any bytes: it is compared and nothing else.
    Prefix(&'a [u8]),
}

impl<'a> LsRefs<'a> {
    /// Parses one line.
    pub fn parse(line: &'a [u8]) -> Result<LsRefs<'a>, WireError> {
        match line {
            b"peel" => Ok(LsRefs::Peel),
            b"symrefs" => Ok(LsRefs::Symrefs),
            b"unborn" => Ok(LsRefs::Unborn),
            _ => match line.strip_prefix(b"ref-prefix ") {
                Some(prefix) => Ok(LsRefs::Prefix(prefix)),
                None => Err(WireError::UnexpectedLine(quote(line))),
            },
        }
    }
}

/// An argument of `fetch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// A wanted object.
    Want(ObjectId),
    /// An object that the client has.
    Have(ObjectId),
    /// The negotiation is over.
    Done,
    /// The pack may hold deltas against objects that the client has.
    ThinPack,
    /// No progress on side band 2.
    NoProgress,
    /// Tags that point to what is sent come along.
    IncludeTag,
    /// Deltas may name their base by an offset.
    OfsDelta,
    /// No pack before a `done`, however much is common.
    WaitForDone,
    /// About shallow history.
    Shallow(ShallowLine),
    /// `deepen` counts from the client's shallow boundary.
    DeepenRelative,
    /// What to leave out.
    Filter(Filter),
}

impl Fetch {
    /// Parses one line.
    pub fn parse(line: &[u8], hash: HashKind) -> Result<Fetch, WireError> {
        if let Some(hex) = line.strip_prefix(b"have ") {
            return object_id("have", hex, hash).map(Fetch::Have);
        }
        if let Some(hex) = line.strip_prefix(b"want ") {
            return object_id("want", hex, hash).map(Fetch::Want);
        }
        if let Some(shallow) = shallow_line(line, hash) {
            return shallow.map(Fetch::Shallow);
        }
        if let Some(spec) = line.strip_prefix(b"filter ") {
            return filter(spec).map(Fetch::Filter);
        }
        match line {
            b"done" => Ok(Fetch::Done),
            b"thin-pack" => Ok(Fetch::ThinPack),
            b"no-progress" => Ok(Fetch::NoProgress),
            b"include-tag" => Ok(Fetch::IncludeTag),
            b"ofs-delta" => Ok(Fetch::OfsDelta),
            b"wait-for-done" => Ok(Fetch::WaitForDone),
            b"deepen-relative" => Ok(Fetch::DeepenRelative),
            _ => Err(WireError::UnexpectedLine(quote(line))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgit::{DeepenLine, Depth};
    use proptest::prelude::*;

    fn head(lines: &[&str], hash: HashKind) -> Result<V2Command, WireError> {
        let mut head = Head::new(hash, 8);
        for line in lines {
            head.line(line.as_bytes())?;
        }
        head.finish()
    }

    #[test]
    fn what_git_sends() {
        let lines = ["command=ls-refs", "agent=git/2.47.3", "object-format=sha1"];
        assert_eq!(head(&lines, HashKind::Sha1), Ok(V2Command::LsRefs));
        assert_eq!(head(&["server-option=x", "command=fetch"], HashKind::Sha1), Ok(V2Command::Fetch));
    }

    #[test]
    fn what_was_not_advertised_is_refused() {
        for line in [
            "command=object-info",
            "command=ls-refs=1",
            "command=",
            "command=bundle-uri",
            "session-id=x",
            "x",
            "fetch",
            "ls-refs=unborn",
        ] {
            let error = head(&[line, "command=fetch"], HashKind::Sha1).unwrap_err();
            assert!(matches!(error, WireError::Unknown(..)), "{line}: {error}");
        }
        assert_eq!(
            head(&["command=fetch", "command=fetch"], HashKind::Sha1),
            Err(WireError::Duplicate("command"))
        );
        assert_eq!(head(&["agent=x"], HashKind::Sha1), Err(WireError::Missing("command requested")));
        assert_eq!(head(&["agent=x"; 9], HashKind::Sha1), Err(WireError::Limit(Counted::Capabilities, 8)));
    }

    #[test]
    fn the_object_format_must_be_ours() {
        assert!(head(&["command=fetch", "object-format=sha256"], HashKind::Sha256).is_ok());
        let error = head(&["command=fetch"], HashKind::Sha256).unwrap_err();
        assert_eq!(error.to_string(), "mismatched object format: server sha256; client sha1");
        assert!(head(&["command=fetch", "object-format=sha256"], HashKind::Sha1).is_err());
        assert!(head(&["command=fetch", "object-format=md5"], HashKind::Sha1).is_err());
    }

    #[test]
    fn arguments() {
        assert_eq!(LsRefs::parse(b"ref-prefix refs/heads/"), Ok(LsRefs::Prefix(b"refs/heads/")));
        assert_eq!(LsRefs::parse(b"ref-prefix "), Ok(LsRefs::Prefix(b"")));
        assert!(LsRefs::parse(b"ref-prefix").is_err() && LsRefs::parse(b"want x").is_err());
        let parse = |line: &str| Fetch::parse(line.as_bytes(), HashKind::Sha1);
        let id = "b".repeat(40);
        assert_eq!(parse(&format!("want {id}")), Ok(Fetch::Want(ObjectId::from_hex(id.as_bytes()).unwrap())));
        assert_eq!(parse(&format!("have {id}")), Ok(Fetch::Have(ObjectId::from_hex(id.as_bytes()).unwrap())));
        assert_eq!(
            parse("deepen 3"),
            Ok(Fetch::Shallow(ShallowLine::Deepen(DeepenLine::Depth(Depth::new(3).unwrap()))))
        );
        for line in [
            "done",
            "thin-pack",
            "no-progress",
            "include-tag",
            "ofs-delta",
            "wait-for-done",
            "deepen-relative",
            "filter tree:0",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "",
            "done ",
            "want-ref refs/heads/x",
            "sideband-all",
            "packfile-uris https",
            &format!("want {id} x"),
            "command=fetch",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Head::new(HashKind::Sha1, 8).line(&bytes);
            let _ = LsRefs::parse(&bytes);
            let _ = Fetch::parse(&bytes, HashKind::Sha1);
        }
    }
}
