//! The branch that HEAD names in a repository that `create` made: the first push that brings
//! branches decides.

use libgit::RefName;
use libproto::message::push::RefCommand;
use librepo::listing::Listed;
use librepo::refs::Head;
use librepo::repository::Repository;

use super::aliases::BRANCHES;
use super::judge::Verdict;
use crate::repo::made_by;

/// What HEAD names in a new repository.
pub(crate) const NEW: &str = "refs/heads/main";
const PREFERRED: [&str; 2] = [NEW, "refs/heads/master"];

/// Whether a repository is as `create` made it: HEAD names a branch that is not there, and there is
/// no other one.
pub(crate) fn is_awaited(repository: &Repository) -> bool {
    let refs = repository.refs();
    let unborn = || matches!(refs.head(), Ok(Head::Symbolic(name, None)) if name == NEW.as_bytes());
    let is_none = |listed: librepo::Result<Listed<'_>>| {
        listed.is_ok_and(|listed| listed.shown_id(repository.hash()).is_none())
    };
    let none = || refs.listing(&[BRANCHES]).is_ok_and(|branches| branches.iter().all(is_none));
    made_by::is_recorded(repository.dir()) && unborn() && none()
}

/// The branch that HEAD is to name, of those that the commands make which are not refused: the only
/// one, or `main`, `master`, or the first by name. `None`: they make none.
pub(crate) fn choose<'c>(commands: &'c [RefCommand], verdicts: &[Verdict]) -> Option<&'c RefName> {
    let made = commands.iter().zip(verdicts).filter(|(command, verdict)| {
        verdict.is_ok() && !command.new.is_null() && command.name.as_bytes().starts_with(BRANCHES)
    });
    let made: Vec<&RefName> = made.map(|(command, _)| &command.name).collect();
    let preferred =
        PREFERRED.iter().find_map(|name| made.iter().find(|made| made.as_bytes() == name.as_bytes()));
    preferred.or(made.iter().min()).copied()
}

#[cfg(test)]
mod tests {
    use libgit::{HashKind, ObjectId};
    use libproto::refusal::Refusal;

    use super::*;

    #[test]
    fn of_several_branches_main_then_master_then_the_first_by_name() {
        let id = |n: u8| ObjectId::from_bytes(HashKind::Sha1, &[n; 20]).expect("an id");
        for (names, chosen) in [
            (&["heads/x"][..], Some("heads/x")),
            (&["heads/b", "heads/a", "tags/a", "heads/c"], Some("heads/a")),
            (&["heads/a", "heads/master"], Some("heads/master")),
            (&["heads/a", "heads/master", "heads/main"], Some("heads/main")),
            (&["tags/main", "notes/main", "heads/x/main"], Some("heads/x/main")),
            (&["tags/main"], None),
            (&["heads/-main", "heads/!a"], Some("heads/b")),
            (&[], None),
        ] {
            let parse = |name: &str| RefName::parse(format!("refs/{name}").as_bytes()).expect("a name");
            let commands: Vec<RefCommand> = names
                .iter()
                .map(|name| match name.strip_prefix("heads/-") {
                    Some(deleted) => (id(1), id(0), parse(&format!("heads/{deleted}"))),
                    None => (id(0), id(1), parse(&name.replace("!a", "b"))),
                })
                .map(|(old, new, name)| RefCommand { old, new, name })
                .collect();
            let verdicts = vec![Ok(()); commands.len()];
            let chosen = chosen.map(parse);
            assert_eq!(choose(&commands, &verdicts), chosen.as_ref(), "{names:?}");
            assert_eq!(choose(&commands, &vec![Err(Refusal::Atomic); commands.len()]), None);
        }
    }
}
