//! The few keys of a repository's own `config` that are read (`git-config`, "CONFIGURATION FILE").

use crate::id::HashKind;

/// Who may read and write what is created in a repository (`core.sharedRepository`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shared {
    /// As the umask has it.
    #[default]
    Umask,
    /// The group may write.
    Group,
    /// The group may write and everybody read.
    All,
    /// Exactly this mode of files.
    Mode(u32),
}

/// What a repository says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The algorithm of the ids.
    pub hash: HashKind,
    /// `core.bare`, if it is set.
    pub bare: Option<bool>,
    /// `core.sharedRepository`.
    pub shared: Shared,
    /// Whether objects may be missing, because a promisor remote has them (`extensions.partialClone`).
    pub partial_clone: bool,
    /// `extensions.preciousObjects`: nothing may ever be deleted.
    pub precious_objects: bool,
}
