//! From the name of a role to its entry function, and what all started processes have in common.

use libproto::states::Role;
use libsandbox::Enforcement;

use crate::spawn::{FIRST_FD, PARENT_FD};
use crate::{auth, config, create, list, listen, repository, session, sockets, system, verify};

/// How many descriptors beyond the parent's channel a role is given.
const fn given(role: Role) -> i32 {
    match role {
        Role::Session => 3,
        Role::Repository | Role::Verify => 2,
        _ => 0,
    }
}

/// Runs a role to its end. `arguments` is what the parent gave it on its command line.
pub fn run(role: Role, arguments: &[String], best_effort: bool) -> Result<(), String> {
    system::close_from(FIRST_FD + given(role));
    // The kernel names a process after the descriptor it was executed from.
    if let Ok(name) = std::ffi::CString::new(role.name()) {
        system::set_name(&name);
    }
    libsandbox::harden_process(role.name()).map_err(|e| e.to_string())?;
    // `sockets` outlives a parent that was killed for as long as it takes to unlink its sockets.
    if role != Role::Sockets {
        system::die_with_parent();
    }
    if nix::unistd::geteuid().is_root() && !matches!(role, Role::Sockets | Role::Config) {
        return Err(format!("{}: refuses to run as root", role.name()));
    }
    let enforcement = if best_effort { Enforcement::BestEffort } else { Enforcement::Required };
    let fd = |at: i32| system::inherited(at).map_err(|e| format!("descriptor {at}: {e}"));
    let parent = fd(PARENT_FD)?;
    match role {
        Role::Sockets => sockets::run(parent, arguments, enforcement),
        Role::Listen => listen::run(parent, enforcement),
        Role::Auth => auth::run(parent, enforcement),
        Role::Session => {
            session::run(parent, fd(FIRST_FD)?, fd(FIRST_FD + 1)?, fd(FIRST_FD + 2)?, enforcement)
        }
        Role::Repository => repository::run(parent, fd(FIRST_FD)?, fd(FIRST_FD + 1)?, enforcement),
        Role::Config => config::run(parent),
        Role::Verify => verify::run(parent, fd(FIRST_FD)?, fd(FIRST_FD + 1)?, enforcement),
        Role::Create => create::run(parent, enforcement),
        Role::List => list::run(parent, enforcement),
        Role::Parent => Err(format!("{}: cannot be started", role.name())),
    }
}

#[cfg(test)]
mod tests {
    use libsandbox::{Limits, Promises, Stage, openbsd_words};

    use super::*;
    use crate::{parent, repo_write, settings};

    /// What each role asks pledge(2) for on OpenBSD at each of its stages, from the constants that it enters with.
    #[test]
    fn every_role_asks_for_its_own_pledges_and_no_more() {
        let table: [(&str, Promises, &str); 18] = [
            ("parent", parent::start::WORK, "stdio recvfd sendfd proc exec"),
            ("sockets", sockets::WORK, "stdio cpath unix inet sendfd"),
            ("listen", listen::WORK, "stdio unix inet recvfd sendfd"),
            ("auth", auth::WORK, "stdio"),
            ("config", config::WORK, "stdio rpath getpw"),
            ("session, waiting", session::SET_UP, "stdio recvfd sendfd"),
            ("session", session::WORK, "stdio sendfd"),
            (
                "repository, waiting",
                repository::WAITING,
                "stdio rpath wpath cpath fattr flock recvfd sendfd unveil",
            ),
            ("repo_read", repository::READING, "stdio rpath recvfd"),
            ("repo_read, writing", repository::WRITING_PACK, "stdio rpath"),
            (
                "repo_write, setting up",
                repo_write::SET_UP,
                "stdio rpath wpath cpath fattr flock sendfd unveil",
            ),
            ("repo_write", repo_write::WORK, "stdio rpath wpath cpath fattr flock sendfd"),
            ("verify, setting up", verify::SET_UP, "stdio rpath recvfd unveil"),
            ("verify", verify::WORK, "stdio rpath"),
            ("create", create::WORK, "stdio rpath wpath cpath fattr"),
            ("list", list::WORK, "stdio rpath"),
            ("repo_read, info", settings::LOOK, "stdio rpath"),
            ("repo_write, settings", settings::WORK, "stdio rpath wpath cpath fattr flock"),
        ];
        for (role, promises, expected) in table {
            let stage = Stage {
                promises,
                paths: None,
                limits: Limits::UNCHANGED,
                enforcement: Enforcement::Required,
            };
            assert_eq!(openbsd_words(&stage).0, expected, "{role}");
        }
    }
}
