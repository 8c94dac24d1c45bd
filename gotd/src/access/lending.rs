//! Decides from which repositories another repository may borrow objects
//! (`objects/info/alternates`).
//!
//! A user who can write in a repository can make it borrow from any place, and would then read that
//! place through the daemon. So a place is lent only to users who may read it anyway, or where the
//! administrator says `borrow`.
//!
//! **Invariant:** nothing here looks at the file system. The place is a path as walked, so that no
//! link leads from it to another one.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::message::parent::Lend;
use libproto::names::RepoName;

use crate::access::table::{AccessTable, Identity, NameMatch};
use crate::conf::model::{Action, Repository, RepositoryKind};

/// A block that an objects directory belongs to.
pub struct Lender<'t> {
    /// The block.
    pub block: &'t Repository,
    /// The name of its repository below the block's place; `None` for a block of one repository.
    below: Option<RepoName>,
}

impl Lender<'_> {
    /// Whether a `borrow` of the borrower's block names it.
    pub fn is_named_by(&self, table: &AccessTable, borrower: &Repository) -> bool {
        borrower.borrows.iter().any(|borrow| names(table, &borrow.name, self.block, self.below.as_ref()))
    }

    /// Its name in requests.
    pub fn full_name(&self) -> String {
        match (&self.block.name, &self.below) {
            (Some(prefix), Some(below)) => format!("{prefix}/{below}"),
            (Some(name), None) | (None, Some(name)) => name.to_string(),
            (None, None) => self.block.display_name(),
        }
    }
}

/// The blocks that an objects directory belongs to: those with the longest place that contains it.
pub fn lenders<'t>(table: &'t AccessTable, objects: &Path) -> Vec<Lender<'t>> {
    // Only the `objects` directory of a repository is lent. Other directories in it are not, such
    // as the quarantine of a push.
    let Some(repository) = objects.parent().filter(|_| objects.ends_with("objects")) else {
        return Vec::new();
    };
    let blocks = table.blocks_of(repository);
    blocks.filter_map(|block| Some(Lender { block, below: name_below(block, repository)? })).collect()
}

/// Whether `identity`, who was granted the repository `asked`, may have objects from the objects
/// directory `objects`.
pub fn lend(table: &AccessTable, identity: &Identity, asked: &RepoName, objects: &Path) -> Lend {
    let borrower = table.find(asked).and_then(|(index, _)| table.config().repositories.get(index));
    let answers = lenders(table, objects).into_iter().map(|lender| {
        let named = borrower.is_some_and(|borrower| lender.is_named_by(table, borrower));
        if named && lender.block.hidden.is_empty() {
            return Lend::Permitted;
        }
        // A repository that hides references does not show all its objects to its readers, and a
        // borrower could not tell which.
        match table.deciding(lender.block, identity).map(|deciding| deciding.rule.action) {
            Some(Action::Deny) | None => Lend::Denied,
            Some(_) if !lender.block.hidden.is_empty() => Lend::Hides,
            Some(Action::Permit(_)) => Lend::Permitted,
            Some(Action::PermitExported) => Lend::Exported,
        }
    });
    let rank = |lend: &Lend| match lend {
        Lend::Permitted => 0,
        Lend::Exported => 1,
        Lend::Hides => 2,
        Lend::Denied => 3,
        Lend::Elsewhere | Lend::NoRepository => 4,
    };
    answers.min_by_key(rank).unwrap_or(Lend::NoRepository)
}

/// The name of a repository below its block's place, `None` inside for a block of one repository;
/// `None` if no repository of the block can lie there. `.git` of a worktree is left out.
#[allow(clippy::option_option, reason = "whether it is one, and its name")]
fn name_below(block: &Repository, repository: &Path) -> Option<Option<RepoName>> {
    let below = repository.strip_prefix(block.place()).ok()?;
    let below = match below.file_name() {
        Some(name) if name == ".git" => below.parent()?,
        _ => below,
    };
    match block.kind {
        RepositoryKind::One => below.as_os_str().is_empty().then_some(None),
        RepositoryKind::Below { .. } => RepoName::parse(below.as_os_str().as_bytes()).ok().map(Some),
    }
}

/// Whether the name in a `borrow` names a block's repository: the block's own one, all those of a
/// `repositories` block, or the one called `below` in it.
fn names(table: &AccessTable, borrow: &RepoName, block: &Repository, below: Option<&RepoName>) -> bool {
    let Some(below) = below else {
        return block.name.as_ref().is_some_and(|name| name.without_suffix() == borrow.without_suffix());
    };
    match table.find(borrow) {
        // A block of its own, which is about another place.
        Some((_, NameMatch::Configured)) => false,
        _ if block.name.as_ref() == Some(borrow) => true,
        None => false,
        Some((index, NameMatch::Below(rest))) => {
            let same = table.config().repositories.get(index).is_some_and(|other| std::ptr::eq(other, block));
            same && rest.without_suffix() == below.without_suffix()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::resolve::{FixedNames, resolve};
    use crate::conf::source::Texts;

    fn table(text: &str) -> AccessTable {
        let mut config = crate::conf::parse("f", &mut Texts::one("f", text)).config;
        assert_eq!(resolve(&mut config, &mut FixedNames::default()).errors, []);
        AccessTable::new(config)
    }

    fn ask(table: &AccessTable, uid: Option<u32>, asked: &str, objects: &str) -> Lend {
        let identity =
            uid.map_or(Identity::Anonymous, |uid| table.identify(uid, uid, &[], None).expect("a user"));
        let asked = RepoName::parse(asked.as_bytes()).expect("a good name");
        lend(table, &identity, &asked, Path::new(objects))
    }

    #[test]
    fn who_may_read_a_repository_may_borrow_from_it() {
        let table = table(concat!(
            "repository \"own\" {\n path \"/home/alice/own.git\"\n permit rw 1000\n permit ro anonymous\n}\n",
            "repository \"bob\" {\n path \"/srv/bob.git\"\n permit rw 1001\n}\n",
            "repository \"open\" {\n path \"/srv/open.git\"\n permit ro 1000\n hide namespace refs/secret\n}\n",
            "repositories \"\" {\n path \"/srv/all\"\n permit ro 1000\n export-ok\n}\n",
            "repository \"in\" {\n path \"/srv/all/in.git\"\n permit ro 1001\n}\n",
        ));
        for (uid, objects, expected) in [
            (Some(1000), "/srv/bob.git/objects", Lend::Denied),
            (Some(1001), "/srv/bob.git/objects", Lend::Permitted),
            (Some(1001), "/srv/bob.git/.git/objects", Lend::Permitted),
            (Some(1001), "/srv/bob.git", Lend::NoRepository),
            (Some(1001), "/srv/bob.git/objects/pack", Lend::NoRepository),
            (Some(1001), "/srv/bob.git/x/objects", Lend::NoRepository),
            (Some(1001), "/srv/bob.git/objects/incoming/objects", Lend::NoRepository),
            (Some(1000), "/srv/open.git/objects", Lend::Hides),
            (Some(1000), "/srv/all/x.git/objects", Lend::Permitted),
            (Some(1000), "/srv/all/team/x/.git/objects", Lend::Permitted),
            (Some(1000), "/srv/all/.hidden/objects", Lend::NoRepository),
            (Some(1000), "/srv/all/objects", Lend::NoRepository),
            (None, "/srv/all/x.git/objects", Lend::Exported),
            (Some(1000), "/srv/all/in.git/objects", Lend::Denied),
            (Some(1000), "/etc/objects", Lend::NoRepository),
            (Some(1000), "/home/alice/own.git/objects", Lend::Permitted),
            (Some(1000), "/objects", Lend::NoRepository),
            (Some(1000), "objects", Lend::NoRepository),
            (Some(1000), "", Lend::NoRepository),
            (Some(1001), "/srv/x/../bob.git/objects", Lend::NoRepository),
            (Some(65534), "/srv/all/x.git/objects", Lend::Denied),
        ] {
            assert_eq!(ask(&table, uid, "own.git", objects), expected, "{uid:?} {objects}");
        }
    }

    #[test]
    fn what_borrow_names_is_lent_to_whoever_reads_the_borrower() {
        let table = table(concat!(
            "repository \"fork\" {\n path \"/fork.git\"\n permit ro 1000\n borrow \"pool.git\"\n borrow \"pools\"\n borrow \"all/x\"\n}\n",
            "repository \"other\" {\n path \"/other.git\"\n permit ro 1000\n}\n",
            "repository \"pool\" {\n path \"/pool.git\"\n deny 1000\n}\n",
            "repositories \"pools\" {\n path \"/pools\"\n permit ro 1\n}\n",
            "repositories \"all\" {\n path \"/all\"\n permit ro 1\n}\n",
            "repository \"pools/own\" {\n path \"/pools/own.git\"\n permit ro 1\n}\n",
        ));
        for (objects, lent) in [
            ("/pool.git/objects", true),
            ("/pools/x.git/objects", true),
            ("/pools/a/b/objects", true),
            // It has a block of its own, which `borrow "pools"` does not name.
            ("/pools/own.git/objects", false),
            ("/all/x.git/objects", true),
            ("/all/x/objects", true),
            ("/all/y.git/objects", false),
            ("/all/x.git/y/objects", false),
        ] {
            let expected = if lent { Lend::Permitted } else { Lend::Denied };
            assert_eq!(ask(&table, Some(1000), "fork.git", objects), expected, "{objects}");
            assert_eq!(ask(&table, None, "fork", objects), expected, "{objects}");
            assert_eq!(ask(&table, Some(1000), "other", objects), Lend::Denied, "{objects}");
        }
    }
}
