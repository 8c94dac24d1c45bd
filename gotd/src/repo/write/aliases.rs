//! Branch aliases: symbolic references below `refs/heads/` that lead to a branch. A push to the alias
//! changes the branch, as with C git; deleting the alias takes the alias away, and nothing else.
//!
//! **Invariant:** what an alias leads to is judged as if it had been named itself. Where that is
//! hidden, no answer tells whether it is there.

use std::collections::BTreeMap;

use libgit::RefName;
use libproto::message::push::RefCommand;
use libproto::refusal::Refusal;
use librepo::refs::Refs;

use super::judge::Verdict;

/// Where branches are.
pub(crate) const BRANCHES: &[u8] = b"refs/heads/";

/// Where a symbolic reference below `refs/heads/` leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alias {
    /// Through these names, all of branches. The last is no symbolic reference, and need not exist.
    Of(Vec<RefName>),
    /// Through these names, some of which are no branches'.
    Out(Vec<Vec<u8>>),
    /// In a circle, too far, or to what cannot be a name.
    Broken,
    /// A file cannot be read.
    Unknown(String),
}

/// Those among the names of a push, by their names.
pub type Aliases = BTreeMap<Vec<u8>, Alias>;

/// Looks up which names of a push are such aliases.
pub(crate) fn look(refs: &Refs, commands: &[RefCommand]) -> Aliases {
    let branches = commands.iter().map(|command| command.name.as_bytes());
    let branches = branches.filter(|name| name.starts_with(BRANCHES));
    branches.filter_map(|name| Some((name.to_vec(), alias(refs.chain(name))?))).collect()
}

fn alias(chain: librepo::Result<Option<Vec<Vec<u8>>>>) -> Option<Alias> {
    let names = match chain {
        Ok(Some(names)) if names.is_empty() => return None,
        Ok(Some(names)) => names,
        Ok(None) => return Some(Alias::Broken),
        Err(e) => return Some(Alias::Unknown(e.to_string())),
    };
    let branch =
        |name: &Vec<u8>| name.starts_with(BRANCHES).then(|| RefName::parse_for_update(name).ok()).flatten();
    let branches: Option<Vec<RefName>> = names.iter().map(branch).collect();
    Some(branches.map_or(Alias::Out(names), Alias::Of))
}

/// The names that a command's name leads through.
pub(crate) fn behind<'a>(aliases: &'a Aliases, command: &RefCommand) -> &'a [RefName] {
    match aliases.get(command.name.as_bytes()) {
        Some(Alias::Of(names)) => names,
        _ => &[],
    }
}

/// The reference whose value a command is about.
pub(crate) fn target<'a>(aliases: &'a Aliases, command: &'a RefCommand) -> &'a RefName {
    behind(aliases, command).last().unwrap_or(&command.name)
}

/// Refuses commands that give one branch different values by different names, as C git does.
pub(super) fn judge_values(commands: &[RefCommand], aliases: &Aliases, verdicts: &mut [Verdict]) {
    if aliases.is_empty() {
        return;
    }
    let mut groups: BTreeMap<&RefName, Vec<usize>> = BTreeMap::new();
    // What deletes nothing gives no value.
    let changes = |command: &RefCommand| !(command.old.is_null() && command.new.is_null());
    for (at, command) in commands.iter().enumerate().filter(|(_, command)| changes(command)) {
        groups.entry(target(aliases, command)).or_default().push(at);
    }
    for group in groups.values() {
        let mut values = group.iter().filter_map(|&at| commands.get(at)).map(|c| (&c.old, &c.new));
        let first = values.next();
        if values.all(|next| Some(next) == first) {
            continue;
        }
        for &at in group {
            // Two commands by the same name are refused for that.
            if let Some(verdict) = verdicts.get_mut(at).filter(|verdict| verdict.is_ok()) {
                *verdict = Err(Refusal::Inconsistent);
            }
        }
    }
}

/// For each command that nothing is known against: the command that changes its reference, if that
/// is another one. One change is enough for a branch that is pushed by several names.
pub(super) fn follows(
    commands: &[RefCommand],
    aliases: &Aliases,
    verdicts: &[Verdict],
) -> BTreeMap<usize, usize> {
    let mut first: BTreeMap<&RefName, usize> = BTreeMap::new();
    let mut follows = BTreeMap::new();
    if aliases.is_empty() {
        return follows;
    }
    let open = commands.iter().zip(verdicts).enumerate();
    // An alias that is deleted is changed itself.
    let open = open.filter(|(_, (command, verdict))| verdict.is_ok() && !command.new.is_null());
    let open: Vec<(usize, &RefCommand)> = open.map(|(at, (command, _))| (at, command)).collect();
    let direct = |command: &RefCommand| behind(aliases, command).is_empty();
    for by_its_name in [true, false] {
        for (at, command) in open.iter().filter(|(_, command)| direct(command) == by_its_name) {
            match first.get(target(aliases, command)) {
                Some(&leader) => drop(follows.insert(*at, leader)),
                None => drop(first.insert(target(aliases, command), *at)),
            }
        }
    }
    follows
}
