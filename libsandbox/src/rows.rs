//! The stages of the roles, by which a set of promises names its row of the table of system calls.
//! On Linux the row narrows what the words give (`linux/rows.rs`).

/// A row of the table. Stages of one process stand in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Calls {
    /// All that the promises give: for a process whose children inherit its filter, and for a
    /// process that runs modules of the name services.
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
    /// `repo_write` until it hears its session.
    RepoWriteSetUp,
    /// `repo_write`.
    RepoWrite,
    /// `repo_write` that changes HEAD or the description.
    RepoDescribe,
    /// `verify` until it has its files.
    VerifySetUp,
    /// `verify`.
    Verify,
    /// `commit_refs` until its directory for locks is made.
    CommitRefsSetUp,
    /// `commit_refs`.
    CommitRefs,
    /// `create`.
    Create,
    /// `list`.
    List,
}

impl Calls {
    /// Every row, in the order of its number, with the name of its stage.
    pub const ALL: [(Calls, &str); 21] = [
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
        (Calls::RepoDescribe, "repo_write, settings"),
        (Calls::VerifySetUp, "verify, setting up"),
        (Calls::Verify, "verify"),
        (Calls::CommitRefsSetUp, "commit_refs, setting up"),
        (Calls::CommitRefs, "commit_refs"),
        (Calls::Create, "create"),
        (Calls::List, "list"),
    ];
}
