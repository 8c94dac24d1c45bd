//! What `gotd -n` says about alternates: where a repository borrows from one that some of its readers may not read.
//!
//! Only repositories with a block of their own are looked at, and only rules are compared that name the same user or group.
//! Who is refused in the end is said by [`lending`](crate::lending) for each client.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::names::escape;
use librepo::alternates::{self, Lender, Lending, Place};
use librepo::place::{self, Trust, Walked};

use crate::access::Table;
use crate::conf::error::ConfigError;
use crate::conf::model::{Action, Config, Repository, RepositoryKind};
use crate::conf::resolve::complaint;
use crate::lending;

/// Warnings about all repositories of a configuration. `trust` is that of the daemon.
pub fn warnings(config: &Config, trust: Trust) -> Vec<ConfigError> {
    let mut table = None;
    let mut warnings = Vec::new();
    for block in config.repositories.iter().filter(|block| block.kind == RepositoryKind::One) {
        let Some(repository) = with_alternates(block, trust) else { continue };
        let table = table.get_or_insert_with(|| Table::new(config.clone()));
        let mut readers = Readers { table, block, said: Vec::new() };
        let Ok(objects) = repository.child(b"objects") else { continue };
        let found = alternates::resolve(
            objects.directory.as_fd(),
            objects.look(),
            &objects.path,
            trust,
            &mut readers,
        );
        let name = block.display_name();
        for text in readers.said {
            warnings.push(complaint(config, block.at, format!("repository \"{name}\": {text}")));
        }
        if let Err(why) = found {
            warnings.push(complaint(config, block.at, format!("repository \"{name}\": {why}")));
        }
    }
    warnings
}

/// The repository of a block, if it has a file of alternates.
fn with_alternates(block: &Repository, trust: Trust) -> Option<Walked> {
    let place = place::walk(Path::new(&block.path), trust).ok()?;
    let inner = place.child(b".git").ok().filter(|inner| inner.child(b"objects").is_ok());
    Some(inner.unwrap_or(place))
        .filter(|found| alternates::has_any(&found.directory, found.look()).unwrap_or(false))
}

/// Lends what belongs to any repository, and says what not all readers of the block may read.
struct Readers<'a> {
    table: &'a Table,
    block: &'a Repository,
    said: Vec<String>,
}

impl Lender for Readers<'_> {
    fn ask(&mut self, places: &[Place<'_>]) -> Result<Vec<Lending>, String> {
        let mut answers = Vec::new();
        for Place { path: objects, .. } in places {
            let shown = escape(objects.as_os_str().as_bytes());
            let lenders = lending::lenders(self.table, objects);
            let text = match lenders.first() {
                None => Some(format!(
                    "borrows from {shown}, which is not the objects of a repository of gotd.conf: it is not used"
                )),
                Some(_) if lenders.iter().any(|lender| lender.is_named_by(self.table, self.block)) => None,
                Some(_) if lenders.iter().any(|lender| reads_as_much(self.block, lender.block)) => None,
                Some(lender) => Some(format!(
                    "borrows from {shown}, which some of its readers may not read: expected borrow \"{}\" if they are to have its objects",
                    lender.full_name()
                )),
            };
            let known = !lenders.is_empty();
            answers.push(if known { Lending::Yes } else { Lending::No("not known".into()) });
            self.said.extend(text);
        }
        Ok(answers)
    }
}

/// Whether everybody whom the rules of one block let read is let read by the other, as far as both name the same people.
fn reads_as_much(borrower: &Repository, lender: &Repository) -> bool {
    let last = |block: &Repository, subject: &crate::conf::model::Subject| {
        block.rules.iter().rev().find(|rule| rule.subject == *subject).map(|rule| rule.action)
    };
    let readers = borrower
        .rules
        .iter()
        .filter(|rule| !matches!(last(borrower, &rule.subject), Some(Action::Deny) | None));
    lender.hidden.is_empty()
        && readers
            .map(|rule| &rule.subject)
            .all(|subject| matches!(last(lender, subject), Some(Action::Permit(_))))
}
