//! Lines of a push (`gitprotocol-pack`, "Reference Update Request").

use libgit::{HashKind, ObjectId, RefName};
use serde::{Deserialize, Serialize};

use super::{bad, object_format, object_id};
use crate::command::sanitize_agent;
use crate::names::escape;
use crate::wire_error::{WireError, quote};

/// Longest push option in bytes.
pub const OPTION_MAX: usize = 4096;
/// Most bytes of a name that no reference can have which its refusal repeats: a client knows by the
/// name which of its references was refused.
const BAD_NAME_MAX: usize = 4096;

/// The capabilities that a client chose beside its first command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The client reads a report.
    pub report_status: bool,
    /// The client reads a report with option lines.
    pub report_status_v2: bool,
    /// Report, progress and errors come in a side band of large packets.
    pub side_band: bool,
    /// No progress.
    pub quiet: bool,
    /// All commands or none.
    pub atomic: bool,
    /// Push options follow the commands.
    pub push_options: bool,
    /// The client's name for itself, fit for a log line.
    pub agent: Option<String>,
}

impl Capabilities {
    fn parse(list: &[u8], hash: HashKind) -> Result<Capabilities, WireError> {
        let mut caps = Capabilities::default();
        let mut format = None;
        for word in list.split(|&b| b == b' ').filter(|word| !word.is_empty()) {
            match word {
                b"report-status" => caps.report_status = true,
                b"report-status-v2" => caps.report_status_v2 = true,
                b"side-band-64k" => caps.side_band = true,
                b"quiet" => caps.quiet = true,
                b"atomic" => caps.atomic = true,
                b"push-options" => caps.push_options = true,
                _ => match (word.strip_prefix(b"agent="), word.strip_prefix(b"object-format=")) {
                    (Some(agent), _) => caps.agent = Some(sanitize_agent(agent)),
                    (_, Some(name)) => format = Some(name),
                    // `ofs-delta` and `delete-refs` need no consent; what nobody advertised is
                    // ignored as git does.
                    _ => {}
                },
            }
        }
        object_format(format.unwrap_or(b"sha1"), hash)?;
        Ok(caps)
    }
}

/// The reference that a command names. A name that no reference can have is reported for that
/// command alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A name below `refs/`.
    Ref(RefName),
    /// Anything else, escaped and cut to 4096 bytes before that, for the report.
    Bad(String),
}

/// One command: the null id as `old` creates, as `new` deletes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushCommand {
    /// What the client believes the reference to be.
    pub old: ObjectId,
    /// What it is to be.
    pub new: ObjectId,
    /// Which.
    pub target: Target,
}

/// A line before the flush packet that ends the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The client has this commit without its parents.
    Shallow(ObjectId),
    /// A command; the first one brings the capabilities.
    Command(PushCommand, Option<Capabilities>),
}

impl Line {
    /// Parses one packet's payload; the line feed that may end it belongs to it. `first`: no
    /// command has come yet.
    pub fn parse(payload: &[u8], first: bool, hash: HashKind) -> Result<Line, WireError> {
        let (line, list) = match payload.iter().position(|&b| b == 0) {
            Some(nul) => (&payload[..nul], Some(&payload[nul + 1..])),
            None => (payload, None),
        };
        let line = crate::pktline::chomp(line);
        if line.is_empty() {
            return Err(WireError::TooShort);
        }
        if let Some(hex) = line.strip_prefix(b"shallow ") {
            return object_id("shallow", hex, hash).map(Line::Shallow);
        }
        // C git takes a certificate that it never asked for.
        if line.starts_with(b"push-cert") {
            return Err(WireError::Unknown("capability", "push-cert".to_owned()));
        }
        let mut words = line.splitn(3, |&b| b == b' ');
        let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
            return Err(WireError::UnexpectedLine(quote(line)));
        };
        let command = PushCommand {
            old: object_id("old object id", old, hash)?,
            new: object_id("new object id", new, hash)?,
            target: match RefName::parse_for_update(name) {
                Ok(name) => Target::Ref(name),
                Err(_) => Target::Bad(escape(&name[..name.len().min(BAD_NAME_MAX)])),
            },
        };
        let caps = match (first, list) {
            (false, _) => None,
            (true, list) => Some(Capabilities::parse(crate::pktline::chomp(list.unwrap_or_default()), hash)?),
        };
        Ok(Line::Command(command, caps))
    }
}

/// Parses a push option.
///
/// # Errors
/// [`WireError::BadValue`] for one of more than [`OPTION_MAX`] bytes or with a control byte, which
/// somebody's log or header would take for the end of a line.
pub fn option(payload: &[u8]) -> Result<&[u8], WireError> {
    let option = crate::pktline::chomp(payload);
    if option.len() > OPTION_MAX || option.iter().any(u8::is_ascii_control) {
        return Err(bad("push option", option));
    }
    Ok(option)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = "0000000000000000000000000000000000000000";
    const NEW: &str = "0123456789012345678901234567890123456789";

    fn parse(line: &str) -> Result<Line, WireError> {
        Line::parse(line.as_bytes(), true, HashKind::Sha1)
    }

    #[test]
    fn what_git_sends() {
        let line = format!(
            "{OLD} {NEW} refs/heads/main\0 report-status-v2 side-band-64k object-format=sha1 agent=git/2.47.3"
        );
        let Ok(Line::Command(command, Some(caps))) = parse(&line) else { panic!("not a command") };
        assert!(command.old.is_null() && command.new.to_string() == NEW);
        assert_eq!(command.target, Target::Ref(RefName::parse(b"refs/heads/main").unwrap()));
        assert!(caps.report_status_v2 && caps.side_band && !caps.atomic && !caps.report_status);
        assert!(matches!(parse(&format!("shallow {NEW}\n")), Ok(Line::Shallow(_))));
        let Ok(Line::Command(second, None)) = Line::parse(&line.as_bytes()[..97], false, HashKind::Sha1)
        else {
            panic!("not a command")
        };
        assert_eq!(second, command);
    }

    #[test]
    fn names_that_no_reference_can_have_fail_alone() {
        for name in [
            "HEAD",
            "config",
            "refs/heads/../../config",
            "refs/heads/x.lock",
            "refs/heads/\u{1b}[2J",
            "refs/heads/a b",
            "",
        ] {
            let Ok(Line::Command(command, _)) = parse(&format!("{OLD} {NEW} {name}")) else {
                panic!("{name}")
            };
            let Target::Bad(shown) = command.target else { panic!("{name}") };
            assert!(!shown.contains('\u{1b}'));
        }
    }

    #[test]
    fn what_is_refused() {
        for line in [
            "",
            "\n",
            "x",
            &format!("{OLD} {NEW}"),
            &format!("{OLD}  {NEW} refs/heads/x"),
            &format!("{NEW}{NEW} x y"),
            "push-cert\0push-options",
            "push-cert-end",
            "shallow x",
            &format!("{OLD} {NEW} refs/heads/x\0object-format=sha256"),
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
        let sha256 = format!("{0} {0} refs/heads/x\0report-status", "a".repeat(64));
        assert!(
            Line::parse(sha256.as_bytes(), true, HashKind::Sha256).is_err(),
            "no object format means SHA-1"
        );
    }

    #[test]
    fn push_options() {
        assert_eq!(option(b"ci.skip;x\n"), Ok(&b"ci.skip;x"[..]));
        assert_eq!(option(b""), Ok(&b""[..]));
        for bad in [&b"a\nb"[..], b"a\0b", b"\x1b[0m", &[b'x'; OPTION_MAX + 1]] {
            assert!(option(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120), first: bool) {
            let _ = Line::parse(&bytes, first, HashKind::Sha1);
            let _ = Line::parse(&[format!("{OLD} {NEW} ").as_bytes(), &bytes].concat(), first, HashKind::Sha1);
            let _ = option(&bytes);
        }
    }
}
