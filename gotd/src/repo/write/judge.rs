//! The decision about each command of a push.

use std::collections::BTreeSet;

use libgit::ObjectKind;

use super::Item;
use crate::conf::limits::Limit;
use crate::conf::push_rules::{ALWAYS_PROTECTED, Change, PushRules};

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
        } else if let Some(hidden) = rules.hidden_refusal(name) {
            // Before anything is looked up: a hidden reference that is there is refused like one that is not.
            Some(hidden)
        } else if command.old.is_null() && command.new.is_null() {
            // What is not there is gone already, as for C git.
            (world.exists)(name).then(|| "failed to update ref: it exists".into())
        } else if kind == Change::Delete && is_head {
            // A rule is the better reason: it says what was configured, in the words that C gotd has for it.
            let rule = rules.refusal(name, kind, false);
            rule.or_else(|| Some("deletion of the current branch prohibited".into()))
        } else if is_head && world.checked_out {
            Some("branch is currently checked out".into())
        } else if command.old == command.new && !command.new.is_null() {
            // Changes nothing: no rule can be broken by it, but always-protected names stay a refusal.
            rules.refusal(name, Change::Create, false).filter(|_| !is_open(name))
        } else {
            rules.refusal(name, kind, false)
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
            rules.refusal(name, kind, facts.merges)
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

#[cfg(test)]
mod tests;
