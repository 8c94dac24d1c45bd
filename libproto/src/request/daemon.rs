//! The first packet of a git:// connection (`gitprotocol-pack`, "Git Transport"): `service SP path
//! NUL [host=… NUL] [NUL key=value NUL …]`, read strictly. git-daemon read past it (CVE-2009-2108).

use super::bad;
use crate::command::{Parameters, Service};
use crate::limits::Counted;
use crate::names::RepoName;
use crate::wire_error::{WireError, quote};

/// Longest request in bytes.
pub const REQUEST_MAX: usize = 4096;
/// Longest host in bytes: a domain name and a port.
const HOST_MAX: usize = 262;
/// Most keys behind the host.
const KEYS_MAX: usize = 16;

/// A git:// request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonRequest {
    /// The service.
    pub service: Service,
    /// The repository it is for.
    pub repo: RepoName,
    /// The host that the client believes to talk to, with the port if it named one; letters, digits
    /// and `.-:[]%_`.
    pub host: Option<String>,
    /// The version of Git's protocol.
    pub parameters: Parameters,
}

impl DaemonRequest {
    /// Parses the payload of the packet.
    pub fn parse(payload: &[u8]) -> Result<DaemonRequest, WireError> {
        if payload.len() > REQUEST_MAX {
            return Err(WireError::TooLong);
        }
        let mut fields = payload.split(|&b| b == 0);
        let line = crate::pktline::chomp(fields.next().unwrap_or_default());
        let space =
            line.iter().position(|&b| b == b' ').ok_or_else(|| WireError::UnexpectedLine(quote(line)))?;
        let (name, path) = (&line[..space], &line[space + 1..]);
        let service = Service::from_name(name).ok_or_else(|| WireError::Unknown("service", quote(name)))?;
        if !matches!(path.first(), Some(b'/' | b'~')) {
            return Err(bad("path", path));
        }
        let repo = RepoName::parse(path)?;

        // Every field ends with a NUL, so behind the last one there must be nothing.
        let mut rest: Vec<&[u8]> = fields.collect();
        if rest.pop().is_some_and(|last| !last.is_empty()) {
            return Err(WireError::UnexpectedLine(quote(payload)));
        }
        let (host, keys) = match rest.as_slice() {
            [] => (None, &[][..]),
            [host] => (Some(*host), &[][..]),
            [host, [], keys @ ..] => (Some(*host), keys),
            [_, unexpected, ..] => return Err(bad("argument", unexpected)),
        };
        if keys.len() > KEYS_MAX {
            return Err(WireError::Limit(Counted::Arguments, KEYS_MAX as u64));
        }
        if let Some(empty) = keys.iter().find(|key| key.is_empty()) {
            return Err(bad("argument", empty));
        }
        let host = match host {
            None | Some(b"") => None,
            Some(field) => Some(parse_host(field)?),
        };
        Ok(DaemonRequest { service, repo, host, parameters: Parameters::from_keys(keys.iter().copied()) })
    }
}

/// What the client of a request for anything but a fetch is told; the beginning in git-daemon's
/// words.
pub fn not_enabled(repo: &RepoName) -> String {
    format!("service not enabled: {}: git:// is for fetching only", path(repo))
}

/// A repository's name as git:// clients ask for it.
pub fn path(repo: &RepoName) -> String {
    let root = if repo.as_bytes().starts_with(b"~") { "" } else { "/" };
    format!("{root}{repo}")
}

fn parse_host(field: &[u8]) -> Result<String, WireError> {
    let host = field.strip_prefix(b"host=").ok_or_else(|| bad("argument", field))?;
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b".-:[]%_".contains(b);
    if host.len() > HOST_MAX || !host.iter().all(allowed) {
        return Err(bad("host", host));
    }
    Ok(host.iter().map(|&b| char::from(b.to_ascii_lowercase())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Version;
    use proptest::prelude::*;

    fn parse(request: &str) -> Result<DaemonRequest, WireError> {
        DaemonRequest::parse(request.as_bytes())
    }

    #[test]
    fn what_clients_send() {
        let request = parse("git-upload-pack /x.git\0host=Example.org:9418\0\0version=2\0").unwrap();
        assert_eq!((request.service, request.repo.as_bytes()), (Service::UploadPack, &b"x.git"[..]));
        assert_eq!(request.host.as_deref(), Some("example.org:9418"));
        assert_eq!(request.parameters.version, Version::V2);
        assert_eq!(parse("git-upload-pack /x\0host=[::1]\0").unwrap().parameters.version, Version::V0);
        assert_eq!(parse("git-upload-pack /x").unwrap().host, None);
        assert_eq!(parse("git-upload-pack /x\n").unwrap().repo.as_bytes(), b"x");
        assert_eq!(parse("git-upload-pack ~alice/x\0host=h\0").unwrap().repo.as_bytes(), b"~alice/x");
        assert_eq!(parse("git-upload-pack /x\0\0\0version=1\0").unwrap().parameters.version, Version::V1);
        assert_eq!(
            parse("git-upload-pack /x\0host=h\0\0version=1\0foo=bar\0").unwrap().parameters.version,
            Version::V1
        );
        assert_eq!(parse("git-receive-pack /x\0").unwrap().service, Service::ReceivePack);
    }

    #[test]
    fn what_is_refused() {
        for request in [
            "",
            "git-upload-pack",
            "git-upload-pack ",
            "git-upload-archive /x\0",
            "upload-pack /x\0",
            "git-upload-pack x\0",
            "git-upload-pack  /x\0",
            "git-upload-pack //x\0",
            "git-upload-pack /a//b\0",
            "git-upload-pack /a/../b\0",
            "git-upload-pack /a/./b\0",
            "git-upload-pack /a/.\0",
            "git-upload-pack /-x\0",
            "git-upload-pack /\0",
            "git-upload-pack /x\0host=a",
            "git-upload-pack /x\0foo=bar\0",
            "git-upload-pack /x\0host=a b\0",
            "git-upload-pack /x\0host=a/../b\0",
            "git-upload-pack /x\0host=a\0foo\0",
            "git-upload-pack /x\0host=a\0\0version=2",
            "git-upload-pack /x\0host=a\0\0\0",
            "git-upload-pack /x\0\u{1b}\0",
            "git-upload-pack /x\ny\0",
        ] {
            assert!(parse(request).is_err(), "{request:?}");
        }
        assert!(parse(&format!("git-upload-pack /x\0host=a\0\0{}", "k=v\0".repeat(17))).is_err());
        assert!(parse(&format!("git-upload-pack /x\0host={}\0", "a".repeat(300))).is_err());
        assert!(parse(&format!("git-upload-pack /{}", "a/".repeat(5000))).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = DaemonRequest::parse(&bytes);
            let _ = DaemonRequest::parse(&[b"git-upload-pack /x\0".as_slice(), &bytes].concat());
        }
    }
}
