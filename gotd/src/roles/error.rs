//! Why a process of a role ends with a failure. Its last line on standard error is this text, which
//! the parent logs.

use std::fmt;
use std::io;

use libproto::states::Role;

use super::auth::AuthError;
use super::commit_refs::CommitError;
use super::config::ConfigFailure;
use super::job_error::JobError;
use super::listen::ListenError;
use super::places::PlacesError;
use super::sockets::SocketsError;
use super::spawner::SpawnerError;
use super::verify::VerifyError;
use crate::os::error::{SystemError, carries_system_error};
use crate::repo::error::RepoError;
use crate::session::error::SessionError;

/// Why a role ends.
#[derive(Debug)]
pub enum RoleError {
    /// Nothing starts a process of this role.
    NotStarted(Role),
    /// It does not run as root.
    Root(Role),
    /// A descriptor that it needs is not there.
    Descriptor(i32, io::Error),
    /// What every role asks of the system.
    System(SystemError),
    /// `auth`
    Auth(AuthError),
    /// `commit_refs`
    Commit(CommitError),
    /// `config`
    Config(ConfigFailure),
    /// `create` or `list`
    Job(JobError),
    /// `listen`
    Listen(ListenError),
    /// `places`
    Places(PlacesError),
    /// `repository`
    Repository(RepoError),
    /// `session`
    Session(SessionError),
    /// `sockets`
    Sockets(SocketsError),
    /// `spawn`
    Spawner(SpawnerError),
    /// `verify`
    Verify(VerifyError),
}

impl fmt::Display for RoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleError::NotStarted(role) => write!(f, "{}: cannot be started", role.name()),
            RoleError::Root(role) => write!(f, "{}: refuses to run as root", role.name()),
            RoleError::Descriptor(at, e) => write!(f, "descriptor {at}: {e}"),
            RoleError::System(e) => e.fmt(f),
            RoleError::Auth(e) => e.fmt(f),
            RoleError::Commit(e) => e.fmt(f),
            RoleError::Config(e) => e.fmt(f),
            RoleError::Job(e) => e.fmt(f),
            RoleError::Listen(e) => e.fmt(f),
            RoleError::Places(e) => e.fmt(f),
            RoleError::Spawner(e) => e.fmt(f),
            RoleError::Repository(e) => e.fmt(f),
            RoleError::Session(e) => e.fmt(f),
            RoleError::Sockets(e) => e.fmt(f),
            RoleError::Verify(e) => e.fmt(f),
        }
    }
}

carries_system_error!(RoleError);

macro_rules! become_role_errors {
    ($($variant:ident($error:ty)),+ $(,)?) => {
        $(impl From<$error> for RoleError {
            fn from(e: $error) -> RoleError {
                RoleError::$variant(e)
            }
        })+
    };
}

become_role_errors!(
    Auth(AuthError),
    Commit(CommitError),
    Config(ConfigFailure),
    Job(JobError),
    Listen(ListenError),
    Places(PlacesError),
    Repository(RepoError),
    Session(SessionError),
    Sockets(SocketsError),
    Spawner(SpawnerError),
    Verify(VerifyError),
);
