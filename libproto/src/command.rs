//! The command that a client asks sshd for, and the parameters that come beside it.
//!
//! Git sends `git-upload-pack '/name'`, quoted for a shell (`'` as `'\''`, `!` as `'\!'`); other
//! clients leave the quotes out. This is no shell: one service, one space, one word, and nothing
//! after it. What cannot be understood is refused, never guessed.

use serde::{Deserialize, Serialize};

use crate::names::{NameError, RepoName};

/// Longest command line in bytes: a name at its limit with every byte quoted fits. sshd passes
/// megabytes.
pub const COMMAND_MAX: usize = 2048;
/// Longest value of `GIT_PROTOCOL` in bytes that is looked at.
pub const PARAMETERS_MAX: usize = 1024;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// A fetch: `git-upload-pack`.
    UploadPack,
    /// A push: `git-receive-pack`.
    ReceivePack,
}

impl Service {
    /// The program name in a command line or in a git:// request.
    pub const fn name(self) -> &'static str {
        match self {
            Service::UploadPack => "git-upload-pack",
            Service::ReceivePack => "git-receive-pack",
        }
    }

    /// The service with exactly this program name.
    pub fn from_name(name: &[u8]) -> Option<Service> {
        [Service::UploadPack, Service::ReceivePack].into_iter().find(|s| s.name().as_bytes() == name)
    }
}

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCommand {
    /// The service.
    pub service: Service,
    /// The repository it is for.
    pub repo: RepoName,
}

/// Why a command line was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandError {
    /// Not `SERVICE NAME` at all: the answer is the usage text.
    Usage,
    /// The name's quoting is not what Git writes, or something follows it.
    Quoting,
    /// The name itself is refused.
    Name(NameError),
}

impl std::fmt::Display for CommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CommandError::Usage => {
                f.write_str("expected git-upload-pack or git-receive-pack and a repository name")
            }
            CommandError::Quoting => f.write_str("repository name: bad quoting"),
            CommandError::Name(NameError::TooLong) => NameError::TooLong.fmt(f),
            // A malformed name gets the same answer as the name of an absent repository.
            CommandError::Name(_) => f.write_str("no git repository found"),
        }
    }
}

impl std::error::Error for CommandError {}

/// Parses a command line as a forced command, a login shell's `-c` or Git gives it:
/// `git-upload-pack '/name'`. `git upload-pack`, with a space, is understood too, because git's own
/// shell does.
pub fn parse(command: &[u8]) -> Result<ServiceCommand, CommandError> {
    if command.len() > COMMAND_MAX {
        return Err(CommandError::Name(NameError::TooLong));
    }
    for service in [Service::UploadPack, Service::ReceivePack] {
        let spaced = service.name().replacen('-', " ", 1);
        for name in [service.name(), &spaced] {
            if let Some(argument) =
                command.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b" "))
            {
                let repo = parse_name(&unquote(argument)?)?;
                return Ok(ServiceCommand { service, repo });
            }
        }
    }
    Err(CommandError::Usage)
}

/// Parses the one argument of a program that is itself called `git-upload-pack` or
/// `git-receive-pack`. It has been through a shell already and is not unquoted again.
pub fn parse_argument(service: Service, argument: &[u8]) -> Result<ServiceCommand, CommandError> {
    Ok(ServiceCommand { service, repo: parse_name(argument)? })
}

fn parse_name(name: &[u8]) -> Result<RepoName, CommandError> {
    RepoName::parse(name).map_err(CommandError::Name)
}

/// Undoes git's shell quoting of one word, or takes an unquoted rest of the line as it is (so a
/// name with a space may stand there without quotes, but not one that starts with a quote).
fn unquote(argument: &[u8]) -> Result<Vec<u8>, CommandError> {
    match argument.first() {
        None => Err(CommandError::Usage),
        Some(b'\'') => unquote_single(argument),
        Some(b'"') => {
            // C gotd trims double quotes; a backslash inside would need a shell to be understood.
            let inner = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            match inner {
                Some(name) if !name.iter().any(|b| matches!(b, b'"' | b'\\' | b'$' | b'`')) => {
                    Ok(name.to_vec())
                }
                _ => Err(CommandError::Quoting),
            }
        }
        Some(_) if argument.iter().any(|b| matches!(b, b'\'' | b'"' | b'\\')) => Err(CommandError::Quoting),
        Some(b' ') => Err(CommandError::Quoting),
        Some(_) => Ok(argument.to_vec()),
    }
}

fn unquote_single(argument: &[u8]) -> Result<Vec<u8>, CommandError> {
    let mut name = Vec::with_capacity(argument.len());
    let mut rest = argument.strip_prefix(b"'").ok_or(CommandError::Quoting)?;
    loop {
        let end = rest.iter().position(|&b| b == b'\'').ok_or(CommandError::Quoting)?;
        name.extend_from_slice(&rest[..end]);
        rest = match &rest[end + 1..] {
            [] => return Ok(name),
            [b'\\', escaped @ (b'\'' | b'!'), b'\'', after @ ..] => {
                name.push(*escaped);
                after
            }
            _ => return Err(CommandError::Quoting),
        };
    }
}

/// The version of Git's protocol that a conversation is held in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// The original protocol.
    #[default]
    V0,
    /// The original protocol behind a line that says `version 1`.
    V1,
    /// Commands; fetches only.
    V2,
}

/// What `GIT_PROTOCOL`, or the second part of a git:// request, says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// The highest version it names that we know.
    pub version: Version,
}

impl Parameters {
    /// Reads keys and values separated by colons, as in the environment variable. Whatever is
    /// unknown is ignored, as `gitprotocol-v2` asks, and so is a value of more than
    /// [`PARAMETERS_MAX`] bytes.
    pub fn parse(value: &[u8]) -> Parameters {
        if value.len() > PARAMETERS_MAX {
            return Parameters::default();
        }
        Parameters::from_keys(value.split(|&b| b == b':'))
    }

    /// Reads keys and values that are already apart.
    pub fn from_keys<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Parameters {
        let version = |key: &[u8]| match key {
            b"version=1" => Some(Version::V1),
            b"version=2" => Some(Version::V2),
            _ => None,
        };
        Parameters { version: keys.filter_map(version).max().unwrap_or_default() }
    }

    /// The version in which a service is really spoken: there is no push in v2, git answers such a
    /// request in v0.
    pub fn version_for(self, service: Service) -> Version {
        match (service, self.version) {
            (Service::ReceivePack, Version::V2) => Version::V0,
            (_, version) => version,
        }
    }
}

/// An agent as a client names itself, made fit for a log line: at most 128 bytes of printable
/// ASCII, everything else as dots.
pub fn sanitize_agent(agent: &[u8]) -> String {
    agent.iter().take(128).map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '.' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(command: &str) -> Result<Vec<u8>, CommandError> {
        parse(command.as_bytes()).map(|c| c.repo.as_bytes().to_vec())
    }

    #[test]
    fn the_ways_clients_write_it() {
        for (command, repo) in [
            ("git-upload-pack '/name'", "name"),
            ("git-upload-pack 'name.git'", "name.git"),
            ("git-upload-pack /name", "name"),
            ("git-upload-pack name", "name"),
            ("git-receive-pack \"/name\"", "name"),
            ("git upload-pack '/name'", "name"),
            ("git-upload-pack '/with space'", "with space"),
            ("git-upload-pack /with space", "with space"),
            ("git-upload-pack '/it'\\''s'", "it's"),
            ("git-upload-pack '/hey'\\!''", "hey!"),
            ("git-upload-pack '~alice/x'", "~alice/x"),
        ] {
            assert_eq!(name(command), Ok(repo.as_bytes().to_vec()), "{command}");
        }
        assert_eq!(parse(b"git-receive-pack 'a'").unwrap().service, Service::ReceivePack);
        assert_eq!(parse_argument(Service::UploadPack, b"/a'b").unwrap().repo.as_bytes(), b"a'b");
    }

    #[test]
    fn what_is_refused() {
        for command in [
            "",
            "git-upload-pack",
            "git-upload-packx 'a'",
            "git-upload-archive 'a'",
            "git-shell",
            "ls",
            " git-upload-pack 'a'",
            "git-upload-pack\t'a'",
            "/usr/bin/git-upload-pack 'a'",
            "git-upload-pack ",
            "gotsh --user alice",
        ] {
            assert_eq!(parse(command.as_bytes()), Err(CommandError::Usage), "{command:?}");
        }
        for command in [
            "git-upload-pack 'a' x",
            "git-upload-pack 'a';id",
            "git-upload-pack 'a'\n",
            "git-upload-pack 'a",
            "git-upload-pack '",
            "git-upload-pack 'a'b",
            "git-upload-pack 'a'\\n'b'",
            "git-upload-pack \"a",
            "git-upload-pack \"$(id)\"",
            "git-upload-pack a'b",
            "git-upload-pack  'a'",
            "git-upload-pack --strict 'a'",
            "git-upload-pack 'a''b'",
        ] {
            assert_eq!(parse(command.as_bytes()), Err(CommandError::Quoting), "{command:?}");
        }
        for command in [
            "git-upload-pack '--help'",
            "git-upload-pack --help",
            "git-upload-pack '-x'",
            "git-upload-pack '/-x'",
            "git-upload-pack '../x'",
            "git-upload-pack 'a\nb'",
            "git-upload-pack 'a\0b'",
            "git-upload-pack ''",
            "git-upload-pack '/'",
            "git-upload-pack a\nb",
        ] {
            let error = parse(command.as_bytes()).unwrap_err();
            assert!(matches!(error, CommandError::Name(_)), "{command:?} {error:?}");
            assert_eq!(error.to_string(), "no git repository found");
        }
    }

    #[test]
    fn long_commands_are_refused_unread() {
        let megabyte = [b"git-upload-pack '".as_slice(), &vec![b'a'; 1 << 20], b"'"].concat();
        assert_eq!(parse(&megabyte).unwrap_err().to_string(), "buffer too small");
        let quoted = format!("git-upload-pack '{}'", "'\\''".repeat(254));
        assert_eq!(name(&quoted), Ok(vec![b'\''; 254]));
        let long = format!("git-upload-pack '/{}'", "A".repeat(255));
        assert_eq!(parse(long.as_bytes()).unwrap_err().to_string(), "buffer too small");
    }

    #[test]
    fn the_highest_known_version_counts() {
        for (value, version) in [
            ("", Version::V0),
            ("version=0", Version::V0),
            ("version=1", Version::V1),
            ("version=2", Version::V2),
            ("version=2:version=1", Version::V2),
            ("x=y:version=2:z", Version::V2),
            ("version=3", Version::V0),
            ("version=1:version=3", Version::V1),
            ("version=22", Version::V0),
            ("Version=2", Version::V0),
        ] {
            assert_eq!(Parameters::parse(value.as_bytes()).version, version, "{value}");
        }
        assert_eq!(Parameters::parse(b"version=2").version_for(Service::ReceivePack), Version::V0);
        assert_eq!(Parameters::parse(b"version=1").version_for(Service::ReceivePack), Version::V1);
        let long = [b"version=2:".as_slice(), &[b'x'; PARAMETERS_MAX]].concat();
        assert_eq!(Parameters::parse(&long).version, Version::V0);
    }

    #[test]
    fn agents_for_the_log() {
        assert_eq!(sanitize_agent(b"git/2.47.3-Linux"), "git/2.47.3-Linux");
        assert_eq!(sanitize_agent(b"a b;\n\x1b[0m\xff"), "a.b;..[0m.");
        assert_eq!(sanitize_agent(&[b'a'; 1000]).len(), 128);
    }

    proptest! {
        #[test]
        fn what_git_quotes_is_read_back(name in "[ -~]{1,60}") {
            prop_assume!(RepoName::parse(name.as_bytes()).is_ok());
            let quoted = name.replace('\'', "'\\''").replace('!', "'\\!'");
            let command = parse(format!("git-upload-pack '{quoted}'").as_bytes()).unwrap();
            prop_assert_eq!(command.repo, RepoName::parse(name.as_bytes()).unwrap());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"git-upload-pack ".as_slice(), &bytes].concat());
            let _ = Parameters::parse(&bytes);
        }
    }
}
