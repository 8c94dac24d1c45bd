//! The system's users and groups, for role `config`.

use std::ffi::CStr;
use std::sync::Mutex;

use libproto::names::UserName;
use nix::unistd::{Gid, Group, User};

use crate::conf::model::UnixUser;
use crate::conf::resolve::{NameService, UNIX_USERS_MAX, UnixGroup};

/// Asks getpwnam(3), getgrnam(3), getgrgid(3) and getpwent(3). An answer that cannot be had is no
/// answer.
#[derive(Debug, Default, Clone, Copy)]
pub struct System;

impl NameService for System {
    fn user(&mut self, name: &str) -> Option<UnixUser> {
        let user = User::from_name(name).ok().flatten()?;
        // The name as it was asked for: some systems answer in another spelling.
        let name = UserName::parse(name.as_bytes()).ok()?;
        Some(UnixUser { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name })
    }

    fn uid(&mut self, name: &str) -> Option<u32> {
        User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
    }

    fn group(&mut self, name: &str) -> Option<UnixGroup> {
        Group::from_name(name).ok().flatten().map(unix_group)
    }

    fn group_by_id(&mut self, gid: u32) -> Option<UnixGroup> {
        Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(unix_group)
    }

    fn users(&mut self) -> Vec<UnixUser> {
        all_users()
    }
}

fn unix_group(group: Group) -> UnixGroup {
    UnixGroup { gid: group.gid.as_raw(), members: group.mem }
}

/// All groups that a login would give this user.
pub fn groups_of(user: &UnixUser) -> Vec<u32> {
    let Ok(name) = std::ffi::CString::new(user.name.as_bytes()) else {
        return Vec::new();
    };
    let groups = nix::unistd::getgrouplist(&name, Gid::from_raw(user.gid)).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}

/// All users that the system lists; a directory service may list none.
fn all_users() -> Vec<UnixUser> {
    // getpwent keeps its place and its answer in static memory.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut users = Vec::new();
    // SAFETY: no other thread is in these functions, because of the lock.
    unsafe { libc::setpwent() };
    while users.len() < UNIX_USERS_MAX {
        // SAFETY: as above.
        let entry = unsafe { libc::getpwent() };
        if entry.is_null() {
            break;
        }
        // SAFETY: getpwent returned an entry, which stays as it is until the next call.
        let entry = unsafe { &*entry };
        if entry.pw_name.is_null() {
            continue;
        }
        // SAFETY: pw_name is a string with its NUL (getpwent(3)), in the same static memory.
        let name = unsafe { CStr::from_ptr(entry.pw_name) };
        // A name that no rule can have is left out.
        if let Ok(name) = UserName::parse(name.to_bytes()) {
            users.push(UnixUser { uid: entry.pw_uid, gid: entry.pw_gid, name });
        }
    }
    // SAFETY: as for setpwent.
    unsafe { libc::endpwent() };
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known() {
        let root = System.user("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(System.users().contains(&root));
        assert!(groups_of(&root).contains(&0));
        assert_eq!(System.user("no-such-user-here"), None);
        assert_eq!(System.group("no-such-group-here"), None);
    }
}
