//! The first packet of a git:// connection (`gitprotocol-pack`, "Git Transport"): `service SP path
//! NUL [host=… NUL] [NUL key=value NUL …]`. git-daemon read past it (CVE-2009-2108); here the
//! length of the packet is its end. Within it, whatever git-daemon takes for an empty key is one:
//! dulwich ends its request with one NUL more, and go-git leaves out `host=` but not the NUL behind
//! it.

use super::bad;
use crate::command::{Parameters, Service};
use crate::limits::Counted;
use crate::names::RepoName;
use crate::wire_error::{WireError, quote};

/// Longest request in bytes.
pub const REQUEST_MAX: usize = 4096;
/// Longest host in bytes: a domain name and a port.
const HOST_MAX: usize = 262;
/// What a host begins with.
const HOST_KEY: &[u8] = b"host=";
/// Most keys behind the host, not counting empty ones.
const KEYS_MAX: usize = 16;

/// A git:// request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonRequest {
    /// The service.
    pub service: Service,
    /// The repository it is for.
    pub repo: RepoName,
    /// The host that the client believes to talk to, with the port if it named one, in lower case:
    /// letters and digits of any script and `.-:[]%_@`.
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

        // A host comes first or not at all. Behind it an empty field begins the keys, in which
        // empty ones do not count.
        let host = match fields.next() {
            None | Some(b"") => None,
            Some(field) => {
                let host = parse_host(field)?;
                match fields.next() {
                    None | Some(b"") => host,
                    Some(unexpected) => return Err(bad("argument", unexpected)),
                }
            }
        };
        let mut keys = fields.filter(|key| !key.is_empty());
        // git-daemon joins the keys with colons, as `GIT_PROTOCOL` has them.
        let known = keys.by_ref().take(KEYS_MAX).flat_map(|key| key.split(|&b| b == b':'));
        let parameters = Parameters::from_keys(known);
        if keys.next().is_some() {
            return Err(WireError::Limit(Counted::Arguments, KEYS_MAX as u64));
        }
        Ok(DaemonRequest { service, repo, host, parameters })
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

/// `host=`, which may be empty and whose key git-daemon takes in either case.
fn parse_host(field: &[u8]) -> Result<Option<String>, WireError> {
    let host = match field.split_at_checked(HOST_KEY.len()) {
        Some((key, host)) if key.eq_ignore_ascii_case(HOST_KEY) => host,
        _ => return Err(bad("argument", field)),
    };
    // A client that does not encode names sends one as its user wrote it.
    let allowed = |c: char| c.is_alphanumeric() || ".-:[]%_@".contains(c);
    match std::str::from_utf8(host) {
        Ok("") => Ok(None),
        Ok(text) if host.len() <= HOST_MAX && text.chars().all(allowed) => Ok(Some(text.to_lowercase())),
        _ => Err(bad("host", host)),
    }
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
    fn empty_keys_do_not_count() {
        for (rest, host, version) in [
            // dulwich, and hg-git on it.
            ("\0host=h:9418\0\0version=2\0\0", Some("h:9418"), Version::V2),
            ("\0host=h\0\0version=1\0\0", Some("h"), Version::V1),
            // go-git without a host.
            ("\0\0version=2\0", None, Version::V2),
            ("\0\0\0\0version=2\0\0\0", None, Version::V2),
            ("\0host=\0\0version=2\0", None, Version::V2),
            ("\0host=h\0\0", Some("h"), Version::V0),
            ("\0host=h\0\0\0", Some("h"), Version::V0),
            ("\0\0", None, Version::V0),
            ("\0\0host=h\0version=2\0", None, Version::V2),
            ("\0host=h\0\0a\0\0b=\0\0\0version=1\0\0version=2\0", Some("h"), Version::V2),
            ("\0host=h\0\0version=1:version=2\0", Some("h"), Version::V2),
            ("\0host=h\0\0a:version=1:b\0", Some("h"), Version::V1),
            ("\0HOST=h\0\0version=2\0", Some("h"), Version::V2),
            ("\0host=b\u{fc}cher.example\0\0version=2\0", Some("b\u{fc}cher.example"), Version::V2),
            ("\0host=me@h\0", Some("me@h"), Version::V0),
            // The packet's length ends what has no NUL behind it.
            ("\0host=h", Some("h"), Version::V0),
            ("\0host=h\0\0version=2", Some("h"), Version::V2),
        ] {
            let request = parse(&format!("git-upload-pack /x{rest}")).expect(rest);
            assert_eq!((request.host.as_deref(), request.parameters.version), (host, version), "{rest:?}");
            assert_eq!(request.repo.as_bytes(), b"x", "{rest:?}");
        }
        // Only keys that say something are counted.
        let many = |key: &str, n| parse(&format!("git-upload-pack /x\0host=h\0\0{}", key.repeat(n)));
        assert_eq!(many("k=v\0\0\0", KEYS_MAX).unwrap().host.as_deref(), Some("h"));
        assert!(many("k=v\0\0\0", KEYS_MAX + 1).is_err());
        assert!(many("\0", 4000).is_ok());
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
            "git-upload-pack /x\0foo=bar\0",
            "git-upload-pack /x\0host=a b\0",
            "git-upload-pack /x\0host=a/../b\0",
            "git-upload-pack /x\0host=a\0foo\0",
            "git-upload-pack /x\0host=a\0version=2\0",
            "git-upload-pack /x\0host=a\0host=b\0",
            "git-upload-pack /x\0version=2\0",
            "git-upload-pack /x\0host",
            "git-upload-pack /x\0host=\u{1b}[2J\0",
            "git-upload-pack /x\0host=a\u{a0}b\0",
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
