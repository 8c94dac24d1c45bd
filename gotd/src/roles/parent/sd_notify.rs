//! What a service manager is told: that clients are served (sd_notify(3)).
//!
//! `systemctl start gotd` returns then and not before, and fails if the start fails.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

use crate::os::system::unix_address;

/// Where the manager listens, connected while this process may still connect.
#[derive(Debug)]
pub struct Manager(Option<UnixDatagram>);

impl Manager {
    /// The service manager that the environment names. If it cannot be reached, the daemon serves
    /// clients without it.
    pub fn of_environment() -> Manager {
        let named = std::env::var_os("NOTIFY_SOCKET");
        Manager(named.and_then(|name| connected(name.as_bytes()).ok()))
    }

    /// Clients are served from now on.
    pub fn ready(self) {
        if let Some(socket) = self.0 {
            let _ = socket.send(b"READY=1\n");
        }
    }
}

fn connected(name: &[u8]) -> std::io::Result<UnixDatagram> {
    let address = unix_address(name)?;
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read is not waited for.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn sockets_with_and_without_a_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let listening = UnixDatagram::bind(&path).expect("binds");
        let abstract_name = format!("@gotd-manager-{}", std::process::id());
        let hidden = UnixDatagram::bind_addr(&unix_address(abstract_name.as_bytes()).expect("short"));
        let hidden = hidden.expect("binds");
        for (name, socket) in [(path.as_os_str().as_bytes(), &listening), (abstract_name.as_bytes(), &hidden)]
        {
            Manager(Some(connected(name).expect("connects"))).ready();
            let mut buffer = [0; 32];
            let length = socket.recv(&mut buffer).expect("comes");
            assert_eq!(&buffer[..length], b"READY=1\n");
        }
        assert!(connected(b"").is_err());
        assert!(connected(b"/nonexistent/notify").is_err());
    }
}
