//! The decision about each command of a push: a pure function of what was asked, what `verify`
//! found out, the rules of the configuration, and the repository as it is.
//!
//! **Invariant:** no disk, no channel, no clock. The same question has the same answer, so that
//! each rule is a line of a table in the tests.

use std::collections::BTreeSet;

use libgit::{ObjectKind, RefName, RefNameError};
use libproto::limits::Limit;
use libproto::message::push::{CommandFacts, RefCommand};
use libproto::message::rules::{ProtectionKind, PushRules};
use libproto::names::escape;
use libproto::refusal::{OwnRule, Refusal, Rule};
use librepo::transaction::RefError;

use super::aliases::{self, Alias, Aliases};
use crate::repo::hidden::{Hidden, is_below};

/// Namespaces that nobody may write to, creation included.
const ALWAYS_PROTECTED: [&str; 2] = ["refs/got/", "refs/remotes/"];

/// What is said where a reason would tell of hidden references.
const NOT_UPDATED: &str = "failed to update ref";

/// The decision about a command. `Ok`: no reason is known to refuse it.
pub type Verdict = Result<(), Refusal>;

/// What a client wants.
#[derive(Debug, Clone, Copy)]
pub struct CommandList<'a> {
    /// The commands, in the client's order.
    pub commands: &'a [RefCommand],
    /// All or none.
    pub atomic: bool,
}

/// The repository, as far as the decision depends on it.
#[derive(Debug, Clone)]
pub struct World {
    /// The branch that HEAD names.
    pub head: Option<Vec<u8>>,
    /// The aliases through which it does.
    pub head_aliases: Vec<Vec<u8>>,
    /// The symbolic references among the names of the push.
    pub aliases: Aliases,
    /// The repository belongs to a worktree with checked-out files.
    pub checked_out: bool,
    /// The branches that somebody works on in a worktree, or why they are not known.
    pub worked_on: Result<BTreeSet<Vec<u8>>, String>,
    /// Those of the names for which [`must_be_absent`] is true that do not exist.
    pub absent: BTreeSet<Vec<u8>>,
    /// References among those that make no sense: each is listed without a value.
    pub damaged: BTreeSet<Vec<u8>>,
    /// What its own `config` forbids.
    pub own: OwnDenials,
}

/// What a repository's own `config` forbids.
#[derive(Debug, Clone, Default)]
pub struct OwnDenials {
    /// Branches cannot be deleted (`receive.denyDeletes`).
    pub deny_deletes: bool,
    /// The history of branches can only grow (`receive.denyNonFastForwards`).
    pub deny_rewrites: bool,
    /// Patterns of hidden references (`receive.hideRefs`, `transfer.hideRefs`).
    pub hidden: Vec<Vec<u8>>,
}

/// What a command does to a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The reference does not exist yet.
    Create,
    /// Changes it; says whether the old value is in the new one's history.
    Update {
        /// The old commit is an ancestor of the new one.
        fast_forward: bool,
    },
    /// It is removed.
    Delete,
}

/// Decides about each command. `facts` are what `verify` found out, one for each command that it
/// was asked about and `None` for the others; empty: nothing is known about objects yet. A
/// command that is refused without facts is refused with them, for the same reason.
pub fn judge(
    asked: CommandList<'_>,
    facts: &[Option<CommandFacts>],
    rules: &PushRules,
    world: &World,
) -> Vec<Verdict> {
    let mut seen = BTreeSet::new();
    let commands = asked.commands.iter().enumerate();
    let mut verdicts: Vec<Verdict> = commands
        .map(|(at, command)| {
            judge_name(command, &mut seen, rules, world)?;
            match facts.get(at) {
                Some(Some(facts)) => judge_facts(command, facts, rules, world),
                _ => Ok(()),
            }
        })
        .collect();
    aliases::judge_values(asked.commands, &world.aliases, &mut verdicts);
    if asked.atomic {
        all_or_none(&mut verdicts);
    }
    verdicts
}

/// An atomic push with one refusal is refused as a whole.
pub fn all_or_none(verdicts: &mut [Verdict]) {
    if verdicts.iter().any(Result::is_err) {
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
            *verdict = Err(Refusal::Atomic);
        }
    }
}

/// Whether a push with this number of commands has too many.
///
/// # Errors
/// It has.
pub fn judge_count(commands: usize, rules: &PushRules) -> Verdict {
    let most = rules.limit(Limit::Commands);
    if commands as u64 > most { Err(Refusal::Commands(most)) } else { Ok(()) }
}

/// Whether a command deletes a reference that, by its client's word, does not exist. For these the
/// decision needs to know whether that is true. Names that no client may use, and hidden ones, are
/// not looked up.
pub fn must_be_absent(command: &RefCommand, rules: &PushRules) -> bool {
    let name = &command.name;
    let removes = command.old.is_null() && command.new.is_null();
    removes && name.is_below_refs() && hidden(rules, name.as_bytes()).is_ok()
}

/// The refusal for a reference that the transaction refused. `hides`: some references are hidden
/// from this client.
pub fn not_changed(error: &RefError, hides: bool) -> Refusal {
    // The conflicting name may be a hidden one.
    let tells = matches!(error, RefError::Conflict(_) | RefError::Symbolic | RefError::Elsewhere);
    Refusal::Reference(match tells && hides {
        true => NOT_UPDATED.into(),
        false => escape(error.to_string().as_bytes()),
    })
}

/// Judges a command as far as that needs no objects. `seen` are the names of the commands before
/// it.
fn judge_name<'a>(
    command: &'a RefCommand,
    seen: &mut BTreeSet<&'a [u8]>,
    rules: &PushRules,
    world: &World,
) -> Verdict {
    let name = command.name.as_bytes();
    let is_head = world.head.as_deref() == Some(name);
    let change = match (command.old.is_null(), command.new.is_null()) {
        (_, true) => Change::Delete,
        (true, false) => Change::Create,
        // Whether it is one is decided by facts; here only what holds for every update.
        (false, false) => Change::Update { fast_forward: true },
    };
    // As in git: a name with only one level below refs/ may be deleted, but not created.
    let one_level = name.iter().filter(|b| **b == b'/').count() < 2 && change != Change::Delete;
    match command.name.check_update() {
        Err(e @ RefNameError::ComponentTooLong) => return Err(Refusal::Reference(e.to_string())),
        Ok(()) if !one_level => {}
        Ok(()) | Err(_) => return Err(Refusal::FunnyName),
    }
    if !seen.insert(name) {
        return Err(Refusal::Twice);
    }
    // This comes before existence matters: a hidden reference is refused alike whether it exists or
    // not.
    hidden(rules, name)?;
    own_hidden(&world.own, name, change)?;
    if change != Change::Delete {
        above_hidden(rules, name)?;
    }
    let changes_nothing = command.old.is_null() && command.new.is_null();
    if let Some(alias) = world.aliases.get(name).filter(|_| !changes_nothing) {
        judge_alias(alias, change, rules, &world.own)?;
    }
    let names = world.changed_by(command);
    // Before existence matters, as for C git.
    match &world.worked_on {
        Err(text) => return Err(Refusal::Damaged(text.clone())),
        Ok(worked_on) if !names.iter().any(|name| worked_on.contains(*name)) => {}
        Ok(_) if change == Change::Delete => {
            return rule(rules, name, change, false).and(Err(Refusal::CheckedOut));
        }
        Ok(_) => return Err(Refusal::CheckedOut),
    }
    if changes_nothing {
        // A reference that does not exist is deleted already, as for C git.
        return match () {
            () if world.absent.contains(name) => Ok(()),
            () if world.damaged.contains(name) => Err(Refusal::Reference(RefError::Broken.to_string())),
            () => Err(Refusal::Exists),
        };
    }
    if change == Change::Delete {
        // A rule is the better reason: it names the configuration, in C gotd's words.
        rule(rules, name, change, false)?;
        if world.own.deny_deletes && name.starts_with(aliases::BRANCHES) {
            return Err(Refusal::Own(OwnRule::Delete));
        }
        if is_head || world.head_aliases.iter().any(|alias| alias == name) {
            return Err(Refusal::CurrentBranch);
        }
    }
    if world.checked_out && names.iter().any(|name| world.head.as_deref() == Some(*name)) {
        return Err(Refusal::CheckedOut);
    }
    if command.old == command.new {
        // Changes nothing: no rule can be broken by it, but always-protected names stay a refusal.
        return always_protected(name);
    }
    names.iter().try_for_each(|name| rule(rules, name, change, false))
}

impl World {
    /// The names whose values a command changes: its own and, if that is an alias which gets a
    /// value, those behind it.
    fn changed_by<'a>(&'a self, command: &'a RefCommand) -> Vec<&'a [u8]> {
        let behind = match command.new.is_null() {
            true => &[],
            false => aliases::behind(&self.aliases, command),
        };
        std::iter::once(&command.name).chain(behind).map(RefName::as_bytes).collect()
    }
}

/// Judges where an alias leads, but for the rules about what is changed there. What is hidden there
/// is not told from what is not there, nor from what cannot be made.
fn judge_alias(alias: &Alias, change: Change, rules: &PushRules, own: &OwnDenials) -> Verdict {
    let untold = || Err(Refusal::Reference(NOT_UPDATED.into()));
    let names: Vec<&[u8]> = match alias {
        Alias::Of(names) => names.iter().map(RefName::as_bytes).collect(),
        Alias::Out(names) => names.iter().map(Vec::as_slice).collect(),
        Alias::Broken | Alias::Unknown(_) => Vec::new(),
    };
    for name in names {
        hidden(rules, name).and_then(|()| own_hidden(own, name, change)).or_else(|_| untold())?;
        if change != Change::Delete {
            above_hidden(rules, name).or_else(|_| untold())?;
        }
    }
    let hides = !rules.hidden.is_empty() || !own.hidden.is_empty();
    match alias {
        Alias::Of(_) => Ok(()),
        Alias::Out(_) => Err(Refusal::NoBranchAlias),
        Alias::Broken | Alias::Unknown(_) if hides => untold(),
        Alias::Broken => Err(Refusal::BrokenAlias),
        Alias::Unknown(text) => Err(Refusal::Damaged(text.clone())),
    }
}

/// What facts about objects say of a command that its name is no reason to refuse.
fn judge_facts(command: &RefCommand, facts: &CommandFacts, rules: &PushRules, world: &World) -> Verdict {
    let name = command.name.as_bytes();
    if let Some(refused) = &facts.refused {
        return Err(refused.clone());
    }
    if name.starts_with(b"refs/heads/") && facts.kind != Some(ObjectKind::Commit) {
        return Err(Refusal::NoCommit);
    }
    let most = rules.limit(Limit::BlobSize);
    if let Some(bytes) = facts.largest_blob.filter(|bytes| most > 0 && *bytes > most) {
        return Err(Refusal::BlobSize(bytes, most));
    }
    if command.old == command.new {
        return Ok(());
    }
    let change = match command.old.is_null() {
        true => Change::Create,
        false => Change::Update { fast_forward: facts.fast_forward == Some(true) },
    };
    let names = world.changed_by(command);
    names.iter().try_for_each(|name| rule(rules, name, change, facts.merges))?;
    let rewritten = change == Change::Update { fast_forward: false };
    if world.own.deny_rewrites && rewritten && name.starts_with(b"refs/heads/") {
        return Err(Refusal::Own(OwnRule::Rewrite));
    }
    Ok(())
}

/// Judges a change by `protect` and `hide`. `merges`: it brings merge commits that are new to the
/// reference.
///
/// # Errors
/// The first rule, in the order of the configuration, that forbids it.
pub fn rule(rules: &PushRules, reference: &[u8], change: Change, merges: bool) -> Verdict {
    always_protected(reference)?;
    hidden(rules, reference)?;
    for (kind, name) in covering(rules, reference) {
        let forbids = |rule, name: &str| Err(Refusal::Protected(rule, name.to_owned()));
        let shown = escape(reference);
        let rewritten = change == Change::Update { fast_forward: false };
        match (kind, change) {
            (ProtectionKind::Branch, Change::Delete) => return forbids(Rule::Reference, name),
            (ProtectionKind::BranchNamespace | ProtectionKind::TagNamespace, Change::Delete)
            | (ProtectionKind::TagNamespace, Change::Update { .. }) => {
                return forbids(Rule::Namespace, name);
            }
            (ProtectionKind::Branch | ProtectionKind::BranchNamespace, _) if rewritten => {
                return forbids(Rule::Reference, &shown);
            }
            (ProtectionKind::CreateNamespace, Change::Create) => return forbids(Rule::Creating, name),
            (ProtectionKind::DeleteNamespace, Change::Delete) => return forbids(Rule::Deleting, name),
            (ProtectionKind::LinearBranch | ProtectionKind::LinearBranchNamespace, _)
                if merges && change != Change::Delete =>
            {
                return forbids(Rule::Merges, &shown);
            }
            _ => {}
        }
    }
    Ok(())
}

fn always_protected(reference: &[u8]) -> Verdict {
    match ALWAYS_PROTECTED.iter().find(|n| reference.starts_with(n.as_bytes())) {
        Some(namespace) => Err(Refusal::Protected(Rule::Namespace, (*namespace).to_owned())),
        None => Ok(()),
    }
}

/// A reference whose name is a leading part of a hidden namespace cannot exist beside a hidden
/// reference, so success or failure of its creation would tell of one. It is always refused. A
/// reference from before the namespace was hidden can be deleted.
fn above_hidden(rules: &PushRules, reference: &[u8]) -> Verdict {
    match rules.hidden.iter().find(|namespace| is_below(namespace.as_bytes(), reference)) {
        Some(namespace) => Err(Refusal::Hidden(namespace.clone())),
        None => Ok(()),
    }
}

/// A command that names a hidden reference is refused, whether that reference exists or not.
fn hidden(rules: &PushRules, reference: &[u8]) -> Verdict {
    match rules.hidden.iter().find(|namespace| is_below(reference, namespace.as_bytes())) {
        Some(namespace) => Err(Refusal::Hidden(namespace.clone())),
        None => Ok(()),
    }
}

/// The same for what the repository's own `config` hides.
fn own_hidden(own: &OwnDenials, reference: &[u8], change: Change) -> Verdict {
    let above = |pattern: &Vec<u8>| is_below(pattern.strip_prefix(b"^").unwrap_or(pattern), reference);
    let blocks = change != Change::Delete && own.hidden.iter().any(above);
    if Hidden(&own.hidden).covers(reference) || blocks {
        return Err(Refusal::Own(OwnRule::Hidden));
    }
    Ok(())
}

fn covering<'a>(
    rules: &'a PushRules,
    reference: &'a [u8],
) -> impl Iterator<Item = (ProtectionKind, &'a str)> + 'a {
    rules.protections.iter().filter_map(move |(kind, name)| {
        let covers = match kind.is_namespace() {
            true => reference.starts_with(name.as_bytes()),
            false => reference == name.as_bytes(),
        };
        covers.then_some((*kind, name.as_str()))
    })
}

#[cfg(test)]
mod tests;
