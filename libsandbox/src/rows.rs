//! Which of a role's stages a set of promises is for: a row of the table of system calls, which on
//! Linux narrows what the words give (`linux/rows.rs`).

/// A row of the table. Stages of one process stand in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Calls {
    /// All that the promises give: for a process whose children inherit its filter, and for one that
    /// runs modules of the name services.
    OfPromises,
    /// `parent`.
    Parent,
    /// `places`.
    Places,
    /// `sockets`.
    Sockets,
    /// `listen`.
    Listen,
    /// `auth`.
    Auth,
    /// `session` until its client has its pipes.
    SessionWaiting,
    /// `session`.
    Session,
    /// A repository process that waits for a client of the unix socket.
    RepositoryWaiting,
    /// The same for a client of git://.
    RepositoryWaitingGit,
    /// `repo_read`.
    RepoRead,
    /// `repo_read` that tells about a repository.
    RepoInfo,
    /// `repo_write` until it knows the push.
    RepoWriteSetUp,
    /// `repo_write`.
    RepoWrite,
    /// `repo_write` that hands nothing to anybody any more.
    RepoWriteCommit,
    /// `repo_write` that changes HEAD or the description.
    RepoDescribe,
    /// `verify` until it has its files.
    VerifySetUp,
    /// `verify`.
    Verify,
    /// `create`.
    Create,
    /// `list`.
    List,
}

impl Calls {
    /// Every row, in the order of its number, with the name of its stage.
    pub const ALL: [(Calls, &str); 20] = [
        (Calls::OfPromises, "by its promises"),
        (Calls::Parent, "parent"),
        (Calls::Places, "places"),
        (Calls::Sockets, "sockets"),
        (Calls::Listen, "listen"),
        (Calls::Auth, "auth"),
        (Calls::SessionWaiting, "session, waiting"),
        (Calls::Session, "session"),
        (Calls::RepositoryWaiting, "repository, waiting"),
        (Calls::RepositoryWaitingGit, "repository, waiting for git://"),
        (Calls::RepoRead, "repo_read"),
        (Calls::RepoInfo, "repo_read, info"),
        (Calls::RepoWriteSetUp, "repo_write, setting up"),
        (Calls::RepoWrite, "repo_write"),
        (Calls::RepoWriteCommit, "repo_write, with nothing to send"),
        (Calls::RepoDescribe, "repo_write, settings"),
        (Calls::VerifySetUp, "verify, setting up"),
        (Calls::Verify, "verify"),
        (Calls::Create, "create"),
        (Calls::List, "list"),
    ];
}
