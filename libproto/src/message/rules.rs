//! The rules of a push to one repository: what gotd.conf says of it, as it travels to `repo_write`
//! and is applied there.
//!
//! **Invariant:** rules that were decoded are such as gotd.conf could have said them: canonical
//! names, limits in range, findings that there are.

use libgit::RefName;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::limits::{Limit, Scope, TABLE};

/// Most bytes of encoded rules: they travel in one message with other things.
pub const PUSH_RULES_MAX: usize = 8_500;
/// Most bytes of hidden namespaces in one repository, for the same reason.
pub const HIDDEN_MAX: usize = 2_500;

/// What a push may not do, and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
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
    /// One for each limit that [`travels`], in the table's order.
    pub limits: Vec<(Limit, u64)>,
}

/// [`PushRules`] as they arrive.
#[derive(Deserialize)]
struct Unchecked {
    protections: Vec<(ProtectionKind, String)>,
    hidden: Vec<String>,
    tolerated: Vec<String>,
    fsck: bool,
    reflog: bool,
    limits: Vec<(Limit, u64)>,
}

/// Whether a limit is one of a push: it may differ by repository, or is about pushes.
pub fn travels(limit: Limit) -> bool {
    let row = limit.row();
    row.scope == Scope::Repository
        || matches!(limit, Limit::Commands | Limit::CommandBytes | Limit::Shallows | Limit::DiskReserve)
}

impl TryFrom<Unchecked> for PushRules {
    type Error = &'static str;

    fn try_from(rules: Unchecked) -> Result<PushRules, &'static str> {
        let Unchecked { protections, hidden, tolerated, fsck, reflog, limits } = rules;
        let names = protections.iter().all(|(kind, name)| {
            let canonical = if kind.is_namespace() { namespace(name) } else { branch_name(name) };
            canonical.as_deref() == Some(name)
        });
        if !names {
            return Err("push rules: protected name");
        }
        let may_hide = |name: &String| namespace(name).as_ref() == Some(name) && name != ALL_REFERENCES;
        if !hidden.iter().all(may_hide) {
            return Err("push rules: hidden namespace");
        }
        if !tolerated.iter().all(|kind| FSCK_KINDS.contains(&kind.as_str())) {
            return Err("push rules: tolerated finding");
        }
        let wanted = TABLE.iter().map(|row| row.limit).filter(|&limit| travels(limit));
        let complete = wanted.eq(limits.iter().map(|(limit, _)| *limit))
            && limits.iter().all(|(limit, value)| limit.row().allows(*value));
        if !complete {
            return Err("push rules: limits");
        }
        let rules = PushRules { protections, hidden, tolerated, fsck, reflog, limits };
        if rules.fit() { Ok(rules) } else { Err("push rules: too many") }
    }
}

impl PushRules {
    /// A limit of this repository; for a limit that is not about pushes, the table's default.
    pub fn limit(&self, limit: Limit) -> u64 {
        self.limits.iter().find(|(l, _)| *l == limit).map_or(limit.row().default, |(_, value)| *value)
    }

    /// Whether they take no more than [`PUSH_RULES_MAX`] bytes of a message.
    pub fn fit(&self) -> bool {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes).is_ok() && bytes.len() <= PUSH_RULES_MAX
    }
}

/// What is forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProtectionKind {
    /// `branch`: deleting this branch or changing its history.
    Branch,
    /// `branch namespace`: the same for every branch below it.
    BranchNamespace,
    /// `tag namespace`: changing or deleting references below it.
    TagNamespace,
    /// `create namespace`: creating references below it.
    CreateNamespace,
    /// `delete namespace`: deleting references below it.
    DeleteNamespace,
    /// `linear branch`: merge commits on this branch.
    LinearBranch,
    /// `linear branch namespace`: merge commits on every branch below it.
    LinearBranchNamespace,
}

impl ProtectionKind {
    /// All of them.
    pub const ALL: [ProtectionKind; 7] = [
        ProtectionKind::Branch,
        ProtectionKind::BranchNamespace,
        ProtectionKind::TagNamespace,
        ProtectionKind::CreateNamespace,
        ProtectionKind::DeleteNamespace,
        ProtectionKind::LinearBranch,
        ProtectionKind::LinearBranchNamespace,
    ];

    /// The words in gotd.conf.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            ProtectionKind::Branch => &["branch"],
            ProtectionKind::BranchNamespace => &["branch", "namespace"],
            ProtectionKind::TagNamespace => &["tag", "namespace"],
            ProtectionKind::CreateNamespace => &["create", "namespace"],
            ProtectionKind::DeleteNamespace => &["delete", "namespace"],
            ProtectionKind::LinearBranch => &["linear", "branch"],
            ProtectionKind::LinearBranchNamespace => &["linear", "branch", "namespace"],
        }
    }

    /// Whether it is about everything below a namespace.
    pub fn is_namespace(self) -> bool {
        !matches!(self, ProtectionKind::Branch | ProtectionKind::LinearBranch)
    }
}

/// The namespace that every reference is in: to hide it would hide all.
pub const ALL_REFERENCES: &str = "refs/";

/// Findings that a push may be taken in spite of, as git-fsck(1) spells them. Findings about
/// references are not among them: a push brings none.
pub const FSCK_KINDS: &[&str] = &[
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badFilemode",
    "badGpgsig",
    "badHeaderContinuation",
    "badName",
    "badTagName",
    "badTimezone",
    "duplicateEntries",
    "emptyName",
    "extraHeaderEntry",
    "fullPathname",
    "gitattributesBlob",
    "gitattributesLarge",
    "gitattributesLineLength",
    "gitattributesMissing",
    "gitattributesSymlink",
    "gitignoreSymlink",
    "gitmodulesBlob",
    "gitmodulesLarge",
    "gitmodulesMissing",
    "gitmodulesName",
    "gitmodulesParse",
    "gitmodulesPath",
    "gitmodulesSymlink",
    "gitmodulesUpdate",
    "gitmodulesUrl",
    "hasDot",
    "hasDotdot",
    "hasDotgit",
    "largePathname",
    "mailmapSymlink",
    "missingAuthor",
    "missingCommitter",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTaggerEntry",
    "multipleAuthors",
    "nulInCommit",
    "nullSha1",
    "treeNotSorted",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// The full name of a branch as `protect branch` and `notify branch` spell it: below `refs/heads/`
/// unless it already is. `None` if it is no valid reference name.
pub fn branch_name(name: &str) -> Option<String> {
    let full = if name.starts_with("refs/heads/") { name.to_owned() } else { format!("refs/heads/{name}") };
    RefName::parse(full.as_bytes()).is_ok().then_some(full)
}

/// A namespace below `refs/`, with exactly one slash at its end. `None` if it is no valid reference
/// name.
pub fn namespace(name: &str) -> Option<String> {
    let bare = name.trim_end_matches('/');
    let valid = bare == "refs" || bare.starts_with("refs/") && RefName::parse(bare.as_bytes()).is_ok();
    valid.then(|| format!("{bare}/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CodecError;

    fn rules() -> PushRules {
        PushRules {
            protections: vec![
                (ProtectionKind::Branch, "refs/heads/main".into()),
                (ProtectionKind::TagNamespace, "refs/tags/".into()),
            ],
            hidden: vec!["refs/pull/".into()],
            tolerated: vec!["hasDotgit".into()],
            fsck: true,
            reflog: false,
            limits: TABLE
                .iter()
                .filter(|row| travels(row.limit))
                .map(|row| (row.limit, row.default))
                .collect(),
        }
    }

    fn travelled(rules: &PushRules) -> Result<PushRules, CodecError> {
        let mut bytes = Vec::new();
        codec::encode(rules, &mut bytes).expect("encodes");
        codec::decode(&bytes)
    }

    #[test]
    fn rules_travel() {
        assert_eq!(travelled(&rules()), Ok(rules()));
        assert!(codec::decode::<PushRules>(&[0xff; 40]).is_err());
    }

    #[test]
    fn rules_that_no_configuration_can_have_are_refused_on_arrival() {
        let spoilt: [fn(&mut PushRules); 13] = [
            |rules| rules.protections.push((ProtectionKind::Branch, "refs/heads/../x".into())),
            |rules| rules.protections.push((ProtectionKind::Branch, "main".into())),
            |rules| rules.protections.push((ProtectionKind::BranchNamespace, "refs/heads/x".into())),
            |rules| rules.protections.push((ProtectionKind::LinearBranch, "refs/heads/x/".into())),
            |rules| rules.hidden.push("refs/pull".into()),
            |rules| rules.hidden.push(ALL_REFERENCES.into()),
            |rules| rules.hidden.push("pull/".into()),
            |rules| rules.tolerated.push("unknownFinding".into()),
            |rules| rules.limits.truncate(3),
            |rules| rules.limits.swap(0, 1),
            |rules| rules.limits.push((Limit::Wants, 1)),
            |rules| rules.limits[0].1 = u64::MAX,
            |rules| rules.hidden = vec!["refs/pull/".into(); 800],
        ];
        for (at, spoil) in spoilt.iter().enumerate() {
            let mut rules = rules();
            spoil(&mut rules);
            assert_eq!(travelled(&rules), Err(CodecError::Malformed), "{at}");
        }
    }
}
