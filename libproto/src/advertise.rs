//! What a server says first: references and capabilities (`gitprotocol-pack`, "Reference
//! Discovery"; `gitprotocol-v2`, "Capability Advertisement"), and the lines of `ls-refs`.
//!
//! Every line is far below the limit of a packet: a reference name has at most
//! [`REF_NAME_MAX`](libgit::REF_NAME_MAX) bytes, and at most four names stand in one line.

use libgit::{HEX_MAX, HashKind, ObjectId, RefName};

use crate::pktline::{FLUSH, write, write_parts};
use crate::wire_error::WireError;

/// The name of this server, as capability and for `gotctl info`.
pub const AGENT: &str = concat!("gotd/", env!("CARGO_PKG_VERSION"));

/// Capabilities offered to a fetch in v0 or v1 that depend on the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchOffer<'a> {
    /// The repository's hash.
    pub hash: HashKind,
    /// Where `HEAD` points, if it is a symbolic reference to something that exists.
    pub head: Option<&'a RefName>,
    /// Any tip, also a hidden one, may be wanted.
    pub allow_tip: bool,
    /// Anything reachable may be wanted.
    pub allow_reachable: bool,
    /// Partial clones are served.
    pub filter: bool,
}

impl FetchOffer<'_> {
    /// The capabilities, separated by spaces.
    pub fn capabilities(&self) -> Vec<u8> {
        let mut list =
            b"multi_ack thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not \
            deepen-relative no-progress include-tag multi_ack_detailed"
                .to_vec();
        let optional = [
            (self.allow_tip, " allow-tip-sha1-in-want"),
            (self.allow_reachable, " allow-reachable-sha1-in-want"),
            (self.filter, " filter"),
        ];
        for (_, word) in optional.into_iter().filter(|(on, _)| *on) {
            list.extend_from_slice(word.as_bytes());
        }
        if let Some(target) = self.head {
            list.extend_from_slice(b" symref=HEAD:");
            list.extend_from_slice(target.as_bytes());
        }
        push_common(&mut list, self.hash);
        list
    }
}

/// What a push is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushOffer {
    /// The repository's hash.
    pub hash: HashKind,
    /// Push options are taken.
    pub push_options: bool,
}

impl PushOffer {
    /// The capabilities, separated by spaces.
    pub fn capabilities(&self) -> Vec<u8> {
        let mut list =
            b"report-status report-status-v2 delete-refs side-band-64k quiet atomic ofs-delta".to_vec();
        if self.push_options {
            list.extend_from_slice(b" push-options");
        }
        push_common(&mut list, self.hash);
        list
    }
}

fn push_common(list: &mut Vec<u8>, hash: HashKind) {
    list.extend_from_slice(format!(" object-format={} agent={AGENT}", hash.name()).as_bytes());
}

/// Appends one line of a v0 advertisement. The first line takes the capabilities out of
/// `capabilities`.
pub fn v0_ref(
    out: &mut Vec<u8>,
    id: &ObjectId,
    name: &[u8],
    capabilities: &mut Option<Vec<u8>>,
) -> Result<(), WireError> {
    let mut digits = [0; HEX_MAX];
    let list = capabilities.take();
    let (separator, list): (&[u8], &[u8]) = list.as_deref().map_or((b"", b""), |list| (b"\0", list));
    write_parts(out, &[id.hex(&mut digits), b" ", name, separator, list, b"\n"])
}

/// Appends what an annotated tag points to, directly behind its own line.
pub fn v0_peeled(out: &mut Vec<u8>, peeled: &ObjectId, name: &[u8]) -> Result<(), WireError> {
    v0_ref(out, peeled, &[name, b"^{}"].concat(), &mut None)
}

/// Appends what comes between the references of a v0 advertisement and its shallow lines: the
/// capabilities on a line of their own if there was no reference.
pub fn v0_before_shallow(
    out: &mut Vec<u8>,
    hash: HashKind,
    capabilities: &mut Option<Vec<u8>>,
) -> Result<(), WireError> {
    if capabilities.is_some() {
        v0_ref(out, &ObjectId::null(hash), b"capabilities^{}", capabilities)?;
    }
    Ok(())
}

/// Appends the commits at which the repository itself is shallow. A flush packet ends the
/// advertisement.
pub fn v0_shallow(out: &mut Vec<u8>, shallow: &[ObjectId]) -> Result<(), WireError> {
    for id in shallow {
        write(out, format!("shallow {id}").as_bytes())?;
    }
    Ok(())
}

/// Appends the capability advertisement of v2.
pub fn v2_capabilities(out: &mut Vec<u8>, hash: HashKind, filter: bool) -> Result<(), WireError> {
    let fetch = if filter { "fetch=shallow wait-for-done filter\n" } else { "fetch=shallow wait-for-done\n" };
    for line in [
        "version 2\n",
        &format!("agent={AGENT}\n"),
        "ls-refs=unborn\n",
        fetch,
        "server-option\n",
        &format!("object-format={}\n", hash.name()),
    ] {
        write(out, line.as_bytes())?;
    }
    out.extend_from_slice(FLUSH);
    Ok(())
}

/// Appends one line of the answer to `ls-refs`. `id` is `None` for an unborn `HEAD`; `target` and
/// `peeled` are given only where they were asked for and exist.
pub fn v2_ref(
    out: &mut Vec<u8>,
    id: Option<&ObjectId>,
    name: &RefName,
    target: Option<&RefName>,
    peeled: Option<&ObjectId>,
) -> Result<(), WireError> {
    let (mut digits, mut peeled_digits) = ([0; HEX_MAX], [0; HEX_MAX]);
    let id = id.map_or(b"unborn".as_slice(), |id| id.hex(&mut digits));
    let (symref, target): (&[u8], &[u8]) =
        target.map_or((b"", b""), |target| (b" symref-target:", target.as_bytes()));
    let (word, peeled): (&[u8], &[u8]) =
        peeled.map_or((b"", b""), |peeled| (b" peeled:", peeled.hex(&mut peeled_digits)));
    write_parts(out, &[id, b" ", name.as_bytes(), symref, target, word, peeled, b"\n"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: u8) -> ObjectId {
        ObjectId::from_hex(&[digit; 40]).unwrap()
    }

    #[test]
    fn an_advertisement() {
        let main = RefName::parse(b"refs/heads/main").unwrap();
        let offer = FetchOffer {
            hash: HashKind::Sha1,
            head: Some(&main),
            allow_tip: false,
            allow_reachable: true,
            filter: true,
        };
        let mut capabilities = Some(offer.capabilities());
        let mut out = Vec::new();
        v0_ref(&mut out, &id(b'1'), b"HEAD", &mut capabilities).unwrap();
        v0_ref(&mut out, &id(b'2'), b"refs/tags/x", &mut capabilities).unwrap();
        v0_peeled(&mut out, &id(b'3'), b"refs/tags/x").unwrap();
        v0_before_shallow(&mut out, HashKind::Sha1, &mut capabilities).unwrap();
        out.extend_from_slice(FLUSH);
        let text = String::from_utf8(out).unwrap();
        let list = "multi_ack thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not deepen-relative \
            no-progress include-tag multi_ack_detailed allow-reachable-sha1-in-want filter symref=HEAD:refs/heads/main \
            object-format=sha1";
        let (ones, twos, threes) = ("1".repeat(40), "2".repeat(40), "3".repeat(40));
        let first = format!("{ones} HEAD\0{list} agent={AGENT}\n");
        let expected = format!(
            "{:04x}{first}0039{twos} refs/tags/x\n003c{threes} refs/tags/x^{{}}\n0000",
            first.len() + 4
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn an_empty_repository_has_a_line_for_its_capabilities() {
        let mut capabilities = Some(PushOffer { hash: HashKind::Sha256, push_options: true }.capabilities());
        let mut out = Vec::new();
        v0_before_shallow(&mut out, HashKind::Sha256, &mut capabilities).unwrap();
        v0_shallow(&mut out, &[id(b'1')]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text[4..].starts_with(&format!("{} capabilities^{{}}\0report-status ", "0".repeat(64))));
        assert!(text.contains(" push-options object-format=sha256 agent=gotd/"));
        assert!(text.ends_with(&format!("0034shallow {}", "1".repeat(40))));
    }

    #[test]
    fn v2() {
        let mut out = Vec::new();
        v2_capabilities(&mut out, HashKind::Sha1, true).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("000eversion 2\n"));
        assert!(
            text.contains("fetch=shallow wait-for-done filter\n")
                && text.ends_with("object-format=sha1\n0000")
        );
        let (head, main) = (RefName::parse(b"HEAD").unwrap(), RefName::parse(b"refs/heads/main").unwrap());
        let mut out = Vec::new();
        v2_ref(&mut out, None, &head, Some(&main), None).unwrap();
        v2_ref(&mut out, Some(&id(b'1')), &main, None, Some(&id(b'2'))).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("002eunborn HEAD symref-target:refs/heads/main\n"), "{text}");
        assert!(text.ends_with(&format!("{} refs/heads/main peeled:{}\n", "1".repeat(40), "2".repeat(40))));
    }
}
