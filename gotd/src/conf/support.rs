//! Directives whose mechanism this version may not have yet.
//!
//! Nothing is accepted silently that has no effect: a directive here either works, or loads with a warning, or is
//! refused. This table is the one place to change when a mechanism comes; gotd.conf(5) names what is without effect,
//! and a test compares.

use super::limits::Limit;

/// Limits that nothing enforces yet.
pub const LIMITS_WITHOUT_EFFECT: &[Limit] = &[];

/// A part of the language that depends on a mechanism of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// `notify`
    Notify,
    /// `repositories … create`
    Create,
    /// `repositories … export-ok`
    ExportOk,
    /// `listen on git`
    ListenGit,
    /// `account` and `group`
    Accounts,
    /// `key` and `principal` of a user: telling sshd about them.
    Keys,
    /// `connection informative errors`
    InformativeErrors,
    /// `protect create|delete|linear`
    ExtraProtection,
    /// `hide namespace`
    Hide,
    /// `fsck`
    Fsck,
    /// `partial clone`
    PartialClone,
    /// `wants`
    Wants,
    /// `reflog`
    Reflog,
    /// `log to`
    LogTo,
}

/// What happens to a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It works.
    Full,
    /// It is checked, and a warning says that it has no effect.
    Warn,
    /// It is an error.
    Refuse,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 14] = [
        Feature::Notify,
        Feature::Create,
        Feature::ExportOk,
        Feature::ListenGit,
        Feature::Accounts,
        Feature::Keys,
        Feature::InformativeErrors,
        Feature::ExtraProtection,
        Feature::Hide,
        Feature::Fsck,
        Feature::PartialClone,
        Feature::Wants,
        Feature::Reflog,
        Feature::LogTo,
    ];

    /// What this version does with it.
    pub const fn support(self) -> Support {
        match self {
            // Files written for C gotd have it, so it must load.
            Feature::Notify => Support::Warn,
            Feature::Create
            | Feature::ListenGit
            | Feature::InformativeErrors
            | Feature::ExportOk
            | Feature::Accounts
            | Feature::Keys
            | Feature::ExtraProtection
            | Feature::Hide
            | Feature::Fsck
            | Feature::PartialClone
            | Feature::Wants
            | Feature::Reflog
            | Feature::LogTo => Support::Full,
        }
    }

    /// The directive, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::Notify => "notify",
            Feature::Create => "create",
            Feature::ExportOk => "export-ok",
            Feature::ListenGit => "listen on git",
            Feature::Accounts => "account",
            Feature::Keys => "key",
            Feature::InformativeErrors => "informative errors",
            Feature::ExtraProtection => "protect create, delete and linear",
            Feature::Hide => "hide",
            Feature::Fsck => "fsck",
            Feature::PartialClone => "partial clone",
            Feature::Wants => "wants",
            Feature::Reflog => "reflog",
            Feature::LogTo => "log to",
        }
    }
}
