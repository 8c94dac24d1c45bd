//! The rules of a push to one repository, in the form in which they travel to `repo_write` and are applied there.

use libproto::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

use super::limits::{Limit, Scope, TABLE};
use super::model::{Config, ProtectionKind, Repository, branch_name, namespace};
use super::repository_blocks::FSCK_KINDS;
use crate::repo::hidden::is_below;

/// Most bytes of encoded rules: they travel in one message with other things.
pub const PUSH_RULES_MAX: usize = 8_500;
/// Most bytes of hidden namespaces in one repository, for the same reason.
pub const HIDDEN_MAX: usize = 2_500;
/// Namespaces that nobody may write to, creation included.
pub const ALWAYS_PROTECTED: [&str; 2] = ["refs/got/", "refs/remotes/"];

/// What a push may not do, and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRules {
    /// Full reference names, or namespaces with a slash at the end.
    pub protections: Vec<(ProtectionKind, String)>,
    /// Namespaces that do not exist for the client; writing there is refused.
    pub hidden: Vec<String>,
    /// Names of findings of git-fsck(1) that are let through.
    pub tolerated: Vec<String>,
    /// Whether objects are checked for such findings at all.
    pub fsck: bool,
    /// Whether reflogs are written.
    pub reflog: bool,
    /// Limits, one for each row of the table that may differ by repository or is about pushes, in the table's order.
    limits: Vec<(Limit, u64)>,
}

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

fn travels(limit: Limit) -> bool {
    let row = limit.row();
    row.scope == Scope::Repository
        || matches!(limit, Limit::Commands | Limit::CommandBytes | Limit::DiskReserve)
}

impl PushRules {
    /// The rules of one block.
    pub fn of(config: &Config, block: &Repository) -> PushRules {
        PushRules {
            protections: block.protections.iter().map(|p| (p.kind, p.name.clone())).collect(),
            hidden: block.hidden.iter().map(|h| h.namespace.clone()).collect(),
            tolerated: block.tolerated.iter().map(|t| t.kind.clone()).collect(),
            fsck: !block.options.fsck_off,
            reflog: block.options.reflog,
            limits: TABLE
                .iter()
                .filter(|row| travels(row.limit))
                .map(|row| (row.limit, block.limit(row.limit, &config.limits)))
                .collect(),
        }
    }

    /// The rules as bytes, at most [`PUSH_RULES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes)?;
        if bytes.len() > PUSH_RULES_MAX { Err(CodecError::TooLarge) } else { Ok(bytes) }
    }

    /// Takes rules as they arrived, and checks every one of them.
    pub fn decode(bytes: &[u8]) -> Result<PushRules, CodecError> {
        if bytes.len() > PUSH_RULES_MAX {
            return Err(CodecError::TooLarge);
        }
        let rules: PushRules = codec::decode(bytes)?;
        let names = rules.protections.iter().all(|(kind, name)| {
            let canonical = if kind.is_namespace() { namespace(name) } else { branch_name(name) };
            canonical.as_deref() == Some(name)
        });
        let hidden = rules.hidden.iter().all(|name| namespace(name).as_deref() == Some(name));
        let kinds = rules.tolerated.iter().all(|kind| FSCK_KINDS.contains(&kind.as_str()));
        let wanted = TABLE.iter().map(|row| row.limit).filter(|&limit| travels(limit));
        let limits = wanted.eq(rules.limits.iter().map(|(limit, _)| *limit))
            && rules.limits.iter().all(|(limit, value)| limit.row().allows(*value));
        if names && hidden && kinds && limits { Ok(rules) } else { Err(CodecError::Malformed) }
    }

    /// A limit of this repository; for one that is not about pushes, the table's default.
    pub fn limit(&self, limit: Limit) -> u64 {
        self.limits.iter().find(|(l, _)| *l == limit).map_or(limit.row().default, |(_, value)| *value)
    }

    fn hiding(&self, reference: &[u8]) -> Option<&str> {
        let hiding = self.hidden.iter().find(|namespace| is_below(reference, namespace.as_bytes()));
        hiding.map(String::as_str)
    }

    /// Why a command is refused that names a hidden reference, whether that is there or not.
    pub fn hidden_refusal(&self, reference: &[u8]) -> Option<String> {
        self.hiding(reference).map(|namespace| format!("{namespace}: reference namespace is hidden"))
    }

    /// Why a command is refused, if a rule forbids it, in words for the client (C gotd's where it has the rule).
    /// `merges` says whether the command brings merge commits that the reference did not have.
    pub fn refusal(&self, reference: &[u8], change: Change, merges: bool) -> Option<String> {
        let shown = || libproto::names::escape(reference);
        let namespace_protected =
            |namespace: &str| Some(format!("{namespace}: reference namespace is protected"));
        if let Some(namespace) = ALWAYS_PROTECTED.iter().find(|n| reference.starts_with(n.as_bytes())) {
            return namespace_protected(namespace);
        }
        if let Some(refusal) = self.hidden_refusal(reference) {
            return Some(refusal);
        }
        let rewritten = change == Change::Update { fast_forward: false };
        for (kind, name) in self.covering(reference) {
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

    fn covering<'a>(&'a self, reference: &'a [u8]) -> impl Iterator<Item = (ProtectionKind, &'a str)> + 'a {
        self.protections.iter().filter_map(move |(kind, name)| {
            let covers = match kind.is_namespace() {
                true => reference.starts_with(name.as_bytes()),
                false => reference == name.as_bytes(),
            };
            covers.then_some((*kind, name.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::parse;
    use crate::conf::source::Texts;

    fn rules(body: &str) -> PushRules {
        let text = format!("limit pack size 5M\nrepository \"r\" {{\n path \"/r\"\n{body}\n}}\n");
        let parsed = parse("f", &mut Texts::one("f", text));
        assert_eq!(parsed.errors, []);
        PushRules::of(&parsed.config, &parsed.config.repositories[0])
    }

    const REWRITE: Change = Change::Update { fast_forward: false };
    const FORWARD: Change = Change::Update { fast_forward: true };

    #[test]
    fn protected_as_the_manual_says() {
        let rules = rules(concat!(
            "protect branch main\nprotect branch namespace refs/heads/rel\nprotect tag namespace refs/tags/\n",
            "protect create namespace refs/heads/old/\nprotect delete namespace refs/heads/\nprotect linear branch main\n",
            "hide namespace refs/pull"
        ));
        let main = "refs/heads/main: reference is protected";
        let tags = "refs/tags/: reference namespace is protected";
        for (name, change, refusal) in [
            ("refs/heads/main", Change::Create, None),
            ("refs/heads/main", FORWARD, None),
            ("refs/heads/main", REWRITE, Some(main)),
            ("refs/heads/main", Change::Delete, Some(main)),
            ("refs/heads/main2", REWRITE, None),
            ("refs/heads/rel/1", Change::Create, None),
            ("refs/heads/rel/1", FORWARD, None),
            ("refs/heads/rel/1", REWRITE, Some("refs/heads/rel/1: reference is protected")),
            ("refs/heads/rel/1", Change::Delete, Some("refs/heads/rel/: reference namespace is protected")),
            ("refs/heads/release", REWRITE, None),
            ("refs/tags/v1", Change::Create, None),
            ("refs/tags/v1", FORWARD, Some(tags)),
            ("refs/tags/v1", REWRITE, Some(tags)),
            ("refs/tags/v1", Change::Delete, Some(tags)),
            ("refs/got/x", Change::Create, Some("refs/got/: reference namespace is protected")),
            ("refs/remotes/x/y", Change::Create, Some("refs/remotes/: reference namespace is protected")),
            (
                "refs/heads/old/x",
                Change::Create,
                Some("refs/heads/old/: creating references is not permitted in this namespace"),
            ),
            ("refs/heads/old/x", REWRITE, None),
            (
                "refs/heads/x",
                Change::Delete,
                Some("refs/heads/: deleting references is not permitted in this namespace"),
            ),
            ("refs/pull/1/head", Change::Create, Some("refs/pull/: reference namespace is hidden")),
        ] {
            assert_eq!(
                rules.refusal(name.as_bytes(), change, false).as_deref(),
                refusal,
                "{name} {change:?}"
            );
        }
        let merges = rules.refusal(b"refs/heads/main", FORWARD, true);
        assert_eq!(
            merges.as_deref(),
            Some("refs/heads/main: merge commits are not permitted on this branch")
        );
    }

    #[test]
    fn rules_travel_and_are_checked_on_arrival() {
        let mut rules = rules("protect branch main\nfsck ignore hasDotgit\nreflog\nlimit blob size 1M");
        assert_eq!(PushRules::decode(&rules.encode().unwrap()), Ok(rules.clone()));
        assert_eq!(rules.limit(Limit::PackSize), 5 << 20);
        assert_eq!(rules.limit(Limit::BlobSize), 1 << 20);
        rules.protections.push((ProtectionKind::Branch, "refs/heads/../x".into()));
        assert_eq!(PushRules::decode(&rules.encode().unwrap()), Err(CodecError::Malformed));
        assert!(PushRules::decode(&[0xff; 40]).is_err());
    }
}
