//! The warnings of `gotd -n` about alternates: a repository borrows from another one that some of
//! its readers may not read.
//!
//! Only rules that name the same user or group are compared. The decision for each client is made
//! by [`lending`](crate::access::lending).

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libproto::names::escape;
use librepo::alternates::{self, AlternatePlace, Lender, Lending};

use crate::access::lending;
use crate::access::table::AccessTable;
use crate::conf::files::trust;
use crate::conf::model::{Action, Config, Repository};
use crate::repo::borrowing;
use crate::repo::find::FoundRepository;

/// What alternates are compared with.
pub struct Known {
    table: AccessTable,
    /// Where blocks are, as written and as walked.
    places: HashSet<PathBuf>,
}

impl Known {
    fn new(config: &Config) -> Known {
        let paths = config.repositories.iter().flat_map(|block| [&block.path, &block.place]);
        let places = paths.filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        Known { table: AccessTable::new(config.clone()), places }
    }
}

/// Warnings about one repository of a block, which clients know as `name`. `known` is made once it
/// is needed.
pub fn warnings(
    config: &Config,
    known: &mut Option<Known>,
    block: &Repository,
    name: &str,
    found: &FoundRepository,
) -> Vec<String> {
    if !alternates::has_any(&found.directory, found.look).unwrap_or(false) {
        return Vec::new();
    }
    let Known { table, places } = known.get_or_insert_with(|| Known::new(config));
    let mut readers = Readers { table, places, block, said: Vec::new() };
    let why = borrowing::of(found, trust(config), &mut readers).err();
    readers
        .said
        .into_iter()
        .chain(why.map(|e| e.to_string()))
        .map(|text| format!("repository \"{name}\": {text}"))
        .collect()
}

/// Lends what belongs to any repository, and says what not all readers of the block may read.
struct Readers<'a> {
    table: &'a AccessTable,
    places: &'a HashSet<PathBuf>,
    block: &'a Repository,
    said: Vec<String>,
}

impl Lender for Readers<'_> {
    /// This is root, and the line some user's: nothing is walked to that no block can contain. A
    /// link on the way there could only be the administrator's.
    fn is_walked_to(&mut self, path: &Path) -> bool {
        let is_walked_to = path.ancestors().any(|above| self.places.contains(above));
        if !is_walked_to {
            self.said.push(format!(
                "borrows from {}, which as it is written is not in a place of gotd.conf: it was not looked at",
                escape(path.as_os_str().as_bytes())
            ));
        }
        is_walked_to
    }

    fn ask(&mut self, places: &[AlternatePlace<'_>]) -> Vec<Lending> {
        let mut answers = Vec::new();
        for AlternatePlace { path: objects, .. } in places {
            let shown = escape(objects.as_os_str().as_bytes());
            let lenders = lending::lenders(self.table, objects);
            let text = match lenders.first() {
                None => Some(format!(
                    "borrows from {shown}, which is not the objects of a repository of gotd.conf: it is not used"
                )),
                // No line of the borrower's could change it.
                Some(_) if lenders.iter().all(|lender| !lender.block.hidden.is_empty()) => Some(format!(
                    "borrows from {shown}, whose block has \"hide namespace\", so that it lends nothing: its objects must be copied \
                     (git repack -a -d, and objects/info/alternates removed)"
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
        answers
    }
}

/// Whether all readers of one block may read the other, as far as the rules of both name the same
/// users and groups.
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
