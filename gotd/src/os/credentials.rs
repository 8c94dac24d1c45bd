//! From root to an account, for good.

use libproto::message::parent::Credentials;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::error::{SystemError, carries_system_error};
use super::system;

/// Why this process has not become the account.
#[derive(Debug)]
pub enum TakeOnError {
    /// A system call of it failed.
    System(SystemError),
    /// It would go on as root.
    Root,
}

impl std::fmt::Display for TakeOnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TakeOnError::System(e) => e.fmt(f),
            TakeOnError::Root => f.write_str("refuses to run as root"),
        }
    }
}

carries_system_error!(TakeOnError);

/// Becomes the account. Without one the daemon was started by an ordinary user, who may have given
/// it a capability for its sockets.
///
/// # Errors
/// The account is root, or there is none and this is root; what the system says.
pub fn take_on(credentials: Option<&Credentials>) -> Result<(), TakeOnError> {
    let Some(Credentials { uid, gid, groups }) = credentials else {
        if nix::unistd::geteuid().is_root() {
            return Err(TakeOnError::Root);
        }
        return Ok(system::keep_capabilities(0).map_err(|e| SystemError::Io("capabilities", e))?);
    };
    if *uid == 0 {
        return Err(TakeOnError::Root);
    }
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
    setgroups(&groups).map_err(|e| SystemError::Call("setgroups", e))?;
    setresgid(gid, gid, gid).map_err(|e| SystemError::Call("setresgid", e))?;
    setresuid(uid, uid, uid).map_err(|e| SystemError::Call("setresuid", e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_no_account() {
        let root = Credentials { uid: 0, gid: 0, groups: Vec::new() };
        assert!(matches!(take_on(Some(&root)), Err(TakeOnError::Root)));
    }
}
