//! From the name of a role to its entry function, and what all started processes have in common.

pub mod auth;
pub mod commit_refs;
pub mod config;
pub mod create;
pub mod error;
pub mod job_error;
pub mod list;
pub mod listen;
pub mod parent;
pub mod places;
pub mod sockets;
pub mod spawner;
pub mod verify;

use libproto::states::Role;
use libsandbox::Enforcement;

use self::error::RoleError;
use crate::os::error::SystemError;
use crate::os::spawn::{ClientPipes, FIRST_FD, GIT, PARENT_FD, Starter};
use crate::os::system;
use crate::repo::role as repository;
use crate::session::role as session;

/// How many descriptors beyond the parent's channel a role is given.
const fn given(role: Role, git: bool) -> i32 {
    match (role, git) {
        (Role::Session, false) => 7,
        (Role::Repository, false) => 5,
        (Role::CommitRefs, _) => 1,
        (Role::Session | Role::Repository, true) | (Role::Verify, _) => 2,
        // Its programs, which Linux executes by descriptor.
        (Role::Spawner, _) => {
            if cfg!(target_os = "linux") {
                2
            } else {
                0
            }
        }
        _ => 0,
    }
}

/// Bytes of memory that a role may take (`RLIMIT_DATA`), far above its needs. A process that is
/// made to take more ends, and the machine goes on. Roles that have a limit in gotd.conf set that
/// one.
const fn memory(role: Role) -> Option<u64> {
    const M: u64 = 1 << 20;
    match role {
        Role::Sockets => Some(64 * M),
        Role::Listen | Role::Create => Some(256 * M),
        Role::List => Some(512 * M),
        // They hold the configuration.
        Role::Auth | Role::Config | Role::Places => Some(1024 * M),
        // A limit that its children could not raise would be theirs too: it sets the lower one
        // itself.
        Role::Spawner => None,
        Role::Parent | Role::Session | Role::Repository | Role::Verify | Role::CommitRefs => None,
    }
}

/// Runs a role to its end. `arguments` is what it was given on its command line, `of` the process
/// id of the process that started it.
pub fn run(role: Role, arguments: &[String], best_effort: bool, of: Option<u32>) -> Result<(), RoleError> {
    let git = arguments.first().is_some_and(|word| word == GIT);
    system::close_from(FIRST_FD + given(role, git));
    // The kernel names a process after the descriptor it was executed from.
    if let Ok(name) = std::ffi::CString::new(role.name()) {
        system::set_name(&name);
    }
    // Not later: a hardened process of an ordinary user has no way to its own `oom_score_adj`.
    let starter = (role == Role::Spawner).then(Starter::new);
    libsandbox::harden_process(role.name())?;
    // `sockets` outlives a parent that was killed for as long as it takes to unlink its sockets,
    // and a spawner for as long as it takes to end its children. The kernel tells nobody of the end
    // of a parent that has another uid.
    if !matches!(role, Role::Sockets | Role::Spawner) {
        system::die_with_parent(of);
    }
    if nix::unistd::geteuid().is_root() && !matches!(role, Role::Sockets | Role::Spawner | Role::Config) {
        return Err(RoleError::Root(role));
    }
    if let Some(most) = memory(role) {
        system::bound_memory(most)?;
    }
    let enforcement = if best_effort { Enforcement::BestEffort } else { Enforcement::Required };
    let inherited = |at: i32| system::inherited(at).map_err(|e| RoleError::Descriptor(at, e));
    let fd = |at: i32| inherited(FIRST_FD + at);
    let parent = inherited(PARENT_FD)?;
    match role {
        Role::Sockets => sockets::run(parent, arguments, enforcement)?,
        Role::Listen => listen::run(parent, enforcement)?,
        Role::Auth => auth::run(parent, enforcement)?,
        Role::Session => {
            let (listen, repo) = (fd(0)?, fd(1)?);
            let ends = match git {
                true => session::Ends::Git,
                false => session::Ends::Unix {
                    verify: fd(2)?,
                    pipes: ClientPipes { input: fd(3)?, output: fd(4)?, theirs: (fd(5)?, fd(6)?) },
                },
            };
            session::run(parent, listen, repo, ends, enforcement)?;
        }
        Role::Repository => {
            let session = fd(0)?;
            let ends = match git {
                true => repository::Ends::Git { listen: fd(1)? },
                false => repository::Ends::Unix {
                    output: fd(2)?,
                    push: repository::PushEnds { verify: fd(1)?, input: fd(3)?, commit: fd(4)? },
                },
            };
            repository::run(parent, session, ends, enforcement)?;
        }
        Role::Config => config::run(parent)?,
        Role::Verify => verify::run(parent, fd(0)?, fd(1)?, enforcement)?,
        Role::CommitRefs => commit_refs::run(parent, fd(0)?, enforcement)?,
        Role::Create => create::run(parent, enforcement)?,
        Role::List => list::run(parent, enforcement)?,
        Role::Places => places::run(parent, enforcement)?,
        Role::Spawner => {
            let programs = (0..given(role, git)).map(fd).collect::<Result<_, _>>()?;
            let starter = starter.unwrap_or_else(Starter::new).map_err(|e| SystemError::Io("start", e))?;
            spawner::run(parent, starter, programs)?;
        }
        Role::Parent => return Err(RoleError::NotStarted(role)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use libsandbox::{Promises, ResourceLimits, Stage, openbsd_words};

    use super::*;
    use crate::repo::describe;
    use crate::repo::write;

    /// What each role asks pledge(2) for on OpenBSD at each of its stages, from the constants that
    /// it enters with.
    #[test]
    fn every_role_asks_for_its_own_pledges_and_no_more() {
        let table: [(&str, Promises, &str); 22] = [
            ("parent", parent::startup::WORK, "stdio recvfd sendfd"),
            ("spawn", spawner::WORK, "stdio recvfd sendfd proc exec"),
            ("places", places::WORK, "stdio rpath"),
            ("sockets", sockets::WORK, "stdio cpath unix inet sendfd"),
            ("listen", listen::WORK, "stdio unix inet recvfd sendfd"),
            ("auth", auth::WORK, "stdio"),
            ("config", config::WORK, "stdio rpath getpw"),
            ("session, waiting", session::SET_UP, "stdio recvfd sendfd"),
            ("session", crate::session::conversation::WORK, "stdio"),
            ("repository, waiting", repository::WAITING, "stdio rpath wpath cpath fattr flock sendfd unveil"),
            ("repository, waiting for git://", repository::WAITING_GIT, "stdio rpath recvfd unveil"),
            ("repo_read", repository::READING, "stdio rpath"),
            ("repo_write, setting up", write::SET_UP, "stdio rpath wpath cpath fattr flock sendfd unveil"),
            ("repo_write", write::WORK, "stdio rpath wpath cpath fattr flock"),
            ("commit_refs, setting up", commit_refs::SET_UP, "stdio rpath wpath cpath fattr flock unveil"),
            ("commit_refs", commit_refs::WORK, "stdio rpath wpath cpath fattr flock"),
            ("verify, setting up", verify::SET_UP, "stdio rpath recvfd unveil"),
            ("verify", verify::WORK, "stdio rpath"),
            ("create", create::WORK, "stdio rpath wpath cpath fattr"),
            ("list", list::WORK, "stdio rpath"),
            ("repo_read, info", describe::LOOK, "stdio rpath"),
            ("repo_write, settings", describe::WORK, "stdio rpath wpath cpath fattr flock"),
        ];
        for (role, promises, expected) in table {
            let stage = Stage {
                promises,
                paths: None,
                limits: ResourceLimits::UNCHANGED,
                enforcement: Enforcement::Required,
            };
            assert_eq!(openbsd_words(&stage).0, expected, "{role}");
        }
    }

    /// How many system calls each stage of each role can make by its promises alone, and by its row
    /// of the table.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_row_takes_much_of_what_the_promises_give() {
        for (name, promises) in [
            ("parent", parent::startup::WORK),
            ("places", places::WORK),
            ("sockets", sockets::WORK),
            ("listen", listen::WORK),
            ("auth", auth::WORK),
            ("session, waiting", session::SET_UP),
            ("session", crate::session::conversation::WORK),
            ("repository, waiting", repository::WAITING),
            ("repository, waiting for git://", repository::WAITING_GIT),
            ("repo_read", repository::READING),
            ("repo_read, info", describe::LOOK),
            ("repo_write, setting up", write::SET_UP),
            ("repo_write", write::WORK),
            ("repo_write, settings", describe::WORK),
            ("verify, setting up", verify::SET_UP),
            ("verify", verify::WORK),
            ("commit_refs, setting up", commit_refs::SET_UP),
            ("commit_refs", commit_refs::WORK),
            ("create", create::WORK),
            ("list", list::WORK),
        ] {
            let given = libsandbox::allowed_calls(promises.calls(libsandbox::Calls::OfPromises));
            let left = libsandbox::allowed_calls(promises);
            println!("{name:<34}{given:>5}{left:>5}");
            assert!(left > 20 && 5 * left < 3 * given, "{name}: {left} of {given}");
        }
    }
}
