//! Directives whose mechanism this version may not have yet.
//!
//! Nothing is accepted silently that has no effect: a directive here either works, or loads with a warning, or is
//! refused. This table is the one place to change when a mechanism comes.

/// A part of the language that depends on a mechanism of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// What this version does with it.
    pub const fn support(self) -> Support {
        match self {
            // Files written for C gotd have it, so it must load.
            Feature::Notify => Support::Warn,
            _ => Support::Full,
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
