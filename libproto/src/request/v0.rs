//! Lines of a fetch in v0 and v1 (`gitprotocol-pack`, "Packfile Negotiation";
//! `gitprotocol-capabilities`).

use libgit::{Filter, HashKind, ObjectId};

use super::{ShallowLine, bad, filter, object_format, object_id, shallow_line};
use crate::command::sanitize_agent;
use crate::pktline::{BAND_MAX, SMALL_BAND_MAX};
use crate::wire_error::{WireError, quote};

/// How the server acknowledges haves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MultiAck {
    /// The first common object only.
    #[default]
    Off,
    /// `multi_ack`: each common object, with `continue`.
    On,
    /// `multi_ack_detailed`: each common object with `common`, and `ready`.
    Detailed,
}

/// How the pack is framed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SideBand {
    /// Not at all: raw bytes to the end of the connection.
    #[default]
    None,
    /// `side-band`, packets of at most 1,000 bytes.
    Small,
    /// `side-band-64k`, packets of at most 65,520 bytes; in v2 always.
    Large,
}

impl SideBand {
    /// Most bytes of data in one packet; `None` without side band.
    pub const fn max(self) -> Option<usize> {
        match self {
            SideBand::None => None,
            SideBand::Small => Some(SMALL_BAND_MAX),
            SideBand::Large => Some(BAND_MAX),
        }
    }
}

/// The capabilities that a client chose in its first want line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `multi_ack`, `multi_ack_detailed`.
    pub multi_ack: MultiAck,
    /// `side-band`, `side-band-64k`.
    pub side_band: SideBand,
    /// The pack may hold deltas against objects that the client has.
    pub thin_pack: bool,
    /// Deltas may name their base by an offset.
    pub ofs_delta: bool,
    /// No progress on side band 2.
    pub no_progress: bool,
    /// Tags that point to what is sent come along.
    pub include_tag: bool,
    /// `deepen` counts from the client's shallow boundary.
    pub deepen_relative: bool,
    /// After `ready` the pack follows without a `done`.
    pub no_done: bool,
    /// A `filter` line will come.
    pub filter: bool,
    /// The client's name for itself, fit for a log line.
    pub agent: Option<String>,
}

impl Capabilities {
    /// Reads a list separated by spaces. What nobody advertised is ignored, as git does, unless it
    /// is all there is.
    fn parse(list: &[u8], hash: HashKind) -> Result<Capabilities, WireError> {
        let mut caps = Capabilities::default();
        let (mut known, mut unknown) = (0_usize, 0_usize);
        for word in list.split(|&b| b == b' ').filter(|word| !word.is_empty()) {
            match word {
                b"multi_ack" if caps.multi_ack == MultiAck::Off => caps.multi_ack = MultiAck::On,
                b"multi_ack" => {}
                b"multi_ack_detailed" => caps.multi_ack = MultiAck::Detailed,
                b"side-band" if caps.side_band == SideBand::None => caps.side_band = SideBand::Small,
                b"side-band" => {}
                b"side-band-64k" => caps.side_band = SideBand::Large,
                b"thin-pack" => caps.thin_pack = true,
                b"ofs-delta" => caps.ofs_delta = true,
                b"no-progress" => caps.no_progress = true,
                b"include-tag" => caps.include_tag = true,
                b"deepen-relative" => caps.deepen_relative = true,
                b"no-done" => caps.no_done = true,
                b"filter" => caps.filter = true,
                b"shallow" | b"deepen-since" | b"deepen-not" => {}
                b"allow-tip-sha1-in-want" | b"allow-reachable-sha1-in-want" => {}
                _ => match (word.strip_prefix(b"agent="), word.strip_prefix(b"object-format=")) {
                    (Some(agent), _) => caps.agent = Some(sanitize_agent(agent)),
                    (_, Some(format)) => object_format(format, hash)?,
                    _ => {
                        unknown = unknown.saturating_add(1);
                        continue;
                    }
                },
            }
            known = known.saturating_add(1);
        }
        if known == 0 && unknown > 0 {
            return Err(WireError::WantLine);
        }
        Ok(caps)
    }
}

/// A line before the flush packet that ends the wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// A wanted object; the first want line brings the capabilities.
    Want(ObjectId, Option<Capabilities>),
    /// About shallow history.
    Shallow(ShallowLine),
    /// What to leave out.
    Filter(Filter),
}

impl Need {
    /// Parses one line. `first`: no want line has come yet. Only the first want line names
    /// capabilities; those of later lines are ignored, as clients that repeat them expect.
    pub fn parse(line: &[u8], first: bool, hash: HashKind) -> Result<Need, WireError> {
        if let Some(shallow) = shallow_line(line, hash) {
            return shallow.map(Need::Shallow);
        }
        if let Some(spec) = line.strip_prefix(b"filter ") {
            return filter(spec).map(Need::Filter);
        }
        let Some(rest) = line.strip_prefix(b"want ") else {
            return Err(WireError::UnexpectedLine(quote(line)));
        };
        let (hex, list) = match rest.split_at_checked(hash.hex_len()) {
            Some((hex, [])) => (hex, None),
            // Old clients put a NUL where a space belongs.
            Some((hex, [b' ' | 0, list @ ..])) => (hex, Some(list)),
            _ => return Err(bad("want", rest)),
        };
        let id = object_id("want", hex, hash)?;
        let caps = match (first, list) {
            (false, _) => None,
            (true, None) => Some(Capabilities::default()),
            (true, Some(list)) => Some(Capabilities::parse(list, hash)?),
        };
        Ok(Need::Want(id, caps))
    }
}

/// A line after the wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Common {
    /// The client has this object.
    Have(ObjectId),
    /// The negotiation is over.
    Done,
}

impl Common {
    /// Parses one line.
    pub fn parse(line: &[u8], hash: HashKind) -> Result<Common, WireError> {
        match line.strip_prefix(b"have ") {
            Some(hex) => object_id("have", hex, hash).map(Common::Have),
            None if line == b"done" => Ok(Common::Done),
            None => Err(WireError::UnexpectedLine(quote(line))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgit::{DeepenLine, Depth};
    use proptest::prelude::*;

    const ID: &str = "0123456789012345678901234567890123456789";

    fn need(line: &str) -> Result<Need, WireError> {
        Need::parse(line.as_bytes(), true, HashKind::Sha1)
    }

    #[test]
    fn what_git_sends_first() {
        let line = format!(
            "want {ID} multi_ack_detailed side-band-64k thin-pack ofs-delta deepen-since deepen-not agent=git/2.47"
        );
        let Ok(Need::Want(id, Some(caps))) = need(&line) else { panic!("not a want") };
        assert_eq!(id.to_string(), ID);
        assert_eq!((caps.multi_ack, caps.side_band), (MultiAck::Detailed, SideBand::Large));
        assert!(caps.thin_pack && caps.ofs_delta && !caps.no_progress && !caps.include_tag);
        assert_eq!(caps.agent.as_deref(), Some("git/2.47"));
    }

    #[test]
    fn the_better_of_two_counts() {
        let Ok(Need::Want(_, Some(caps))) =
            need(&format!("want {ID} multi_ack_detailed multi_ack side-band-64k side-band"))
        else {
            panic!("not a want")
        };
        assert_eq!((caps.multi_ack, caps.side_band), (MultiAck::Detailed, SideBand::Large));
    }

    #[test]
    fn later_wants_have_no_say() {
        let id = ObjectId::from_hex(ID.as_bytes()).unwrap();
        let line = format!("want {ID} side-band");
        assert_eq!(Need::parse(line.as_bytes(), false, HashKind::Sha1), Ok(Need::Want(id, None)));
    }

    #[test]
    fn only_unknown_capabilities_are_refused() {
        assert_eq!(need(&format!("want {ID} aaaaaaaaa bbbbbbbbbbbbb ccccccccc")), Err(WireError::WantLine));
        assert!(need(&format!("want {ID} aaaaaaaaa ofs-delta")).is_ok());
        assert!(need(&format!("want {ID} ")).is_ok());
        assert!(need(&format!("want {ID}")).is_ok());
    }

    #[test]
    fn another_object_format_is_refused() {
        let error = need(&format!("want {ID} ofs-delta object-format=sha256")).unwrap_err();
        assert_eq!(error.to_string(), "mismatched object format: server sha1; client sha256");
        assert!(need(&format!("want {}", "a".repeat(64))).is_err());
        let long = format!("want {} object-format=sha256", "a".repeat(64));
        assert!(Need::parse(long.as_bytes(), true, HashKind::Sha256).is_ok());
    }

    #[test]
    fn other_lines() {
        assert_eq!(
            need("deepen 1"),
            Ok(Need::Shallow(ShallowLine::Deepen(DeepenLine::Depth(Depth::new(1).unwrap()))))
        );
        assert!(matches!(need("filter blob:none"), Ok(Need::Filter(_))));
        for line in ["want", "want ", "want x", &format!("want {ID}x"), "have x", "done", "push", "\u{1b}[2J"]
        {
            assert!(need(line).is_err(), "{line}");
        }
        let id = ObjectId::from_hex(ID.as_bytes()).unwrap();
        assert_eq!(Common::parse(format!("have {ID}").as_bytes(), HashKind::Sha1), Ok(Common::Have(id)));
        assert_eq!(Common::parse(b"done", HashKind::Sha1), Ok(Common::Done));
        for line in ["done ", "have", "have x", &format!("have {ID} x"), &format!("want {ID}")] {
            assert!(Common::parse(line.as_bytes(), HashKind::Sha1).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120), sha256: bool) {
            let hash = if sha256 { HashKind::Sha256 } else { HashKind::Sha1 };
            let want = [format!("want {} ", &"a".repeat(hash.hex_len())).as_bytes(), &bytes].concat();
            let _ = Need::parse(&want, true, hash);
            let _ = Need::parse(&bytes, true, hash);
            let _ = Common::parse(&bytes, hash);
        }
    }
}
