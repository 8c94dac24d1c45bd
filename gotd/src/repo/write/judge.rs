//! The decision about each command of a push.

use std::collections::BTreeSet;

use libgit::ObjectKind;
use libproto::limits::Limit;
use libproto::message::rules::{ProtectionKind, PushRules};

use super::Item;
use crate::repo::hidden::is_below;

/// Namespaces that nobody may write to, creation included.
const ALWAYS_PROTECTED: [&str; 2] = ["refs/got/", "refs/remotes/"];

/// What a command does to a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The reference does not exist yet.
    Create,
    /// It exists; whether the new value has the old one in its history.
    Update {
        /// The old commit is an ancestor of the new one.
        fast_forward: bool,
    },
    /// It is removed.
    Delete,
}

/// What the repository has to say about a push.
pub(super) struct World<'a> {
    /// The branch that HEAD names.
    pub head: Option<&'a [u8]>,
    /// There are files that were checked out of it.
    pub checked_out: bool,
    /// Whether there is such a reference, or nobody can say.
    pub exists: &'a dyn Fn(&[u8]) -> bool,
}

/// What can be said about each command without looking at objects.
pub(super) fn judge_names(changes: &mut [Item], rules: &PushRules, world: &World<'_>) {
    let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
    for change in changes {
        let (name, command) = (change.command.name.as_bytes(), &change.command);
        let is_head = world.head == Some(name);
        let kind = match (command.old.is_null(), command.new.is_null()) {
            (_, true) => Change::Delete,
            (true, false) => Change::Create,
            // Whether it is one is decided by facts; here only what holds for every update.
            (false, false) => Change::Update { fast_forward: true },
        };
        // As git: what has only one level below refs/ may be removed, but not made.
        let one_level = name.iter().filter(|b| **b == b'/').count() < 2 && kind != Change::Delete;
        change.refused = if !change.command.name.is_below_refs() || one_level {
            Some("funny refname".into())
        } else if !seen.insert(name.to_vec()) {
            Some("multiple updates for ref".into())
        } else if let Some(hidden) = hidden(rules, name) {
            // Before anything is looked up: a hidden reference that is there is refused like one that is not.
            Some(hidden)
        } else if command.old.is_null() && command.new.is_null() {
            // What is not there is gone already, as for C git.
            (world.exists)(name).then(|| "failed to update ref: it exists".into())
        } else if kind == Change::Delete && is_head {
            // A rule is the better reason: it says what was configured, in the words that C gotd has for it.
            let rule = rule(rules, name, kind, false);
            rule.or_else(|| Some("deletion of the current branch prohibited".into()))
        } else if is_head && world.checked_out {
            Some("branch is currently checked out".into())
        } else if command.old == command.new && !command.new.is_null() {
            // Changes nothing: no rule can be broken by it, but always-protected names stay a refusal.
            rule(rules, name, Change::Create, false).filter(|_| !is_open(name))
        } else {
            rule(rules, name, kind, false)
        };
    }
}

/// What facts about objects say.
pub(super) fn judge_facts(changes: &mut [Item], rules: &PushRules) {
    let blob_limit = rules.limit(Limit::BlobSize);
    for change in changes {
        let (Some(facts), None) = (&change.facts, &change.refused) else { continue };
        let (name, command) = (change.command.name.as_bytes(), &change.command);
        let kind = if command.old.is_null() {
            Change::Create
        } else {
            Change::Update { fast_forward: facts.fast_forward == Some(true) }
        };
        change.refused = if let Some(refused) = &facts.refused {
            Some(refused.clone())
        } else if name.starts_with(b"refs/heads/") && facts.kind != Some(ObjectKind::Commit) {
            // C git's words; only commits are branches.
            Some("invalid new value provided".into())
        } else if blob_limit > 0 && facts.largest_blob.is_some_and(|bytes| bytes > blob_limit) {
            Some(format!(
                "blob of {} bytes, at most {blob_limit} are permitted (limit blob size)",
                facts.largest_blob.unwrap_or_default()
            ))
        } else if command.old == command.new {
            None
        } else {
            rule(rules, name, kind, facts.merges)
        };
    }
}

/// An atomic push with one refusal is refused as a whole.
pub(super) fn all_or_none(changes: &mut [Item]) {
    if changes.iter().any(|c| c.refused.is_some()) {
        for change in changes {
            change.refused.get_or_insert_with(|| "atomic push failure".into());
        }
    }
}

/// A reference that is not in a namespace that nobody may write to.
fn is_open(name: &[u8]) -> bool {
    !ALWAYS_PROTECTED.iter().any(|n| name.starts_with(n.as_bytes()))
}

fn hiding<'a>(rules: &'a PushRules, reference: &[u8]) -> Option<&'a str> {
    let hiding = rules.hidden.iter().find(|namespace| is_below(reference, namespace.as_bytes()));
    hiding.map(String::as_str)
}

/// Why a command is refused that names a hidden reference, whether that is there or not.
fn hidden(rules: &PushRules, reference: &[u8]) -> Option<String> {
    hiding(rules, reference).map(|namespace| format!("{namespace}: reference namespace is hidden"))
}

/// Why a command is refused, if a rule forbids it, in words for the client (C gotd's where it has the rule).
/// `merges` says whether the command brings merge commits that the reference did not have.
pub fn rule(rules: &PushRules, reference: &[u8], change: Change, merges: bool) -> Option<String> {
    let shown = || libproto::names::escape(reference);
    let namespace_protected =
        |namespace: &str| Some(format!("{namespace}: reference namespace is protected"));
    if let Some(namespace) = ALWAYS_PROTECTED.iter().find(|n| reference.starts_with(n.as_bytes())) {
        return namespace_protected(namespace);
    }
    if let Some(refusal) = hidden(rules, reference) {
        return Some(refusal);
    }
    let rewritten = change == Change::Update { fast_forward: false };
    for (kind, name) in covering(rules, reference) {
        match (kind, change) {
            (ProtectionKind::Branch, Change::Delete) => {
                return Some(format!("{name}: reference is protected"));
            }
            (ProtectionKind::BranchNamespace | ProtectionKind::TagNamespace, Change::Delete)
            | (ProtectionKind::TagNamespace, Change::Update { .. }) => return namespace_protected(name),
            (ProtectionKind::Branch | ProtectionKind::BranchNamespace, _) if rewritten => {
                return Some(format!("{}: reference is protected", shown()));
            }
            (ProtectionKind::CreateNamespace, Change::Create) => {
                return Some(format!("{name}: creating references is not permitted in this namespace"));
            }
            (ProtectionKind::DeleteNamespace, Change::Delete) => {
                return Some(format!("{name}: deleting references is not permitted in this namespace"));
            }
            (ProtectionKind::LinearBranch | ProtectionKind::LinearBranchNamespace, _)
                if merges && change != Change::Delete =>
            {
                return Some(format!("{}: merge commits are not permitted on this branch", shown()));
            }
            _ => {}
        }
    }
    None
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
