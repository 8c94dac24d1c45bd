//! The words of self-service: what a user of a shared account asks through ssh without git.
//!
//! A word is a variant of [`ShellCommand`] with its line, the service whose permission it needs,
//! and, where it is about one repository, the [`Task`] that the repository process does for it.

use libgit::RefName;
use serde::{Deserialize, Serialize};

use crate::command::Service;
use crate::names::RepoName;

/// What a client is told whose line is no command.
pub const USAGE: &str = "usage: ssh host [list | info repository | head repository branch | describe repository text], or git with the name of a repository";
/// Most bytes of a description.
const DESCRIPTION_MAX: usize = 500;

/// A command of self-service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShellCommand {
    /// None: a greeting, and the repositories of this user.
    Greet,
    /// The repositories of this user.
    List,
    /// Describe a repository.
    Info(RepoName),
    /// Make HEAD of a repository name this branch.
    Head(RepoName, RefName),
    /// Give a repository this description, one line without control bytes.
    Describe(RepoName, String),
    /// A line that is none of them. It is asked like the others, so that the log says who typed it.
    Unknown,
}

/// What a repository process is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// What its session says.
    Git,
    /// Tell about the repository.
    Info,
    /// Make HEAD name this branch.
    Head(RefName),
    /// Put this text in the file `description`.
    Describe(String),
}

impl ShellCommand {
    /// Parses a line; `None`: it is no command.
    pub fn parse(line: &[u8]) -> Option<ShellCommand> {
        match line {
            b"" => return Some(ShellCommand::Greet),
            b"list" => return Some(ShellCommand::List),
            _ => {}
        }
        let mut words = line.splitn(3, |b| *b == b' ');
        if let Some(repository) = line.strip_prefix(b"info ") {
            return Some(ShellCommand::Info(RepoName::parse(repository).ok()?));
        }
        let (word, repository, rest) = (words.next()?, words.next()?, words.next()?);
        let repository = RepoName::parse(repository).ok()?;
        match word {
            b"head" => {
                let name = [b"refs/heads/".as_slice(), rest].concat();
                Some(ShellCommand::Head(repository, RefName::parse_for_update(&name).ok()?))
            }
            b"describe" if rest.len() <= DESCRIPTION_MAX => {
                let text =
                    std::str::from_utf8(rest).ok().filter(|text| !text.chars().any(char::is_control))?;
                Some(ShellCommand::Describe(repository, text.to_owned()))
            }
            _ => None,
        }
    }

    /// The line that [`ShellCommand::parse`] takes for this command, or for `Unknown` none.
    pub fn line(&self) -> Vec<u8> {
        let about = |repository: &RepoName, rest: &[&[u8]]| {
            let words = [&[self.name().as_bytes(), repository.as_bytes()], rest].concat();
            words.join(b" ".as_slice())
        };
        match self {
            ShellCommand::Greet => Vec::new(),
            ShellCommand::List => self.name().into(),
            ShellCommand::Info(repository) => about(repository, &[]),
            ShellCommand::Head(repository, branch) => {
                let branch = branch.as_bytes();
                about(repository, &[branch.strip_prefix(b"refs/heads/").unwrap_or(branch)])
            }
            ShellCommand::Describe(repository, text) => about(repository, &[text.as_bytes()]),
            ShellCommand::Unknown => self.name().into(),
        }
    }

    /// The word for it, in its line and in the log.
    pub const fn name(&self) -> &'static str {
        match self {
            ShellCommand::Greet => "greet",
            ShellCommand::List => "list",
            ShellCommand::Info(_) => "info",
            ShellCommand::Head(..) => "head",
            ShellCommand::Describe(..) => "describe",
            ShellCommand::Unknown => "unknown",
        }
    }

    /// The service whose permission this command needs.
    pub const fn service(&self) -> Service {
        match self {
            ShellCommand::Greet | ShellCommand::List | ShellCommand::Info(_) | ShellCommand::Unknown => {
                Service::UploadPack
            }
            ShellCommand::Head(..) | ShellCommand::Describe(..) => Service::ReceivePack,
        }
    }

    /// The repository that this is about, and what to do there.
    pub fn task(&self) -> Option<(&RepoName, Task)> {
        match self {
            ShellCommand::Greet | ShellCommand::List | ShellCommand::Unknown => None,
            ShellCommand::Info(repository) => Some((repository, Task::Info)),
            ShellCommand::Head(repository, branch) => Some((repository, Task::Head(branch.clone()))),
            ShellCommand::Describe(repository, text) => Some((repository, Task::Describe(text.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_and_parsed_is_the_same() {
        for line in ["", "list", "info a/b", "head a main", "head a x/y", "describe a b  c"] {
            let command = ShellCommand::parse(line.as_bytes()).unwrap();
            assert_eq!(command.line(), line.as_bytes());
        }
        for line in ["lists", "info", "info -a", "head a", "head a b c", "describe a \t", "size a", "unknown"]
        {
            assert_eq!(ShellCommand::parse(line.as_bytes()), None, "{line}");
        }
    }
}
