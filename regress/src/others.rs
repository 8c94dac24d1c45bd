//! Programs of other users, as attackers or bystanders: only root can start them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libproto::message::client::{ClientKind, Hello};

/// A uid that no rule of a test names.
pub const STRANGER: u32 = 54_321;

/// What the programs below begin with: `connect` returns a connection or the error's number,
/// `HELLO` is a greeting.
const PRELUDE: &str = "\
import errno, os, resource, socket, struct, sys, time
SOCKET, HELLO = sys.argv[1], bytes.fromhex(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
def connect(path=SOCKET):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.setblocking(False)
    try:
        s.connect(path)
        return s
    except OSError as e:
        s.close()
        return e.errno
def send(s, data, fds=()):
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('%di' % len(fds), *fds))] if fds else []
    try:
        s.sendmsg([data], control)
        return 0
    except OSError as e:
        return e.errno
";

/// Python as this user, with the daemon's socket; what it prints can be read. It is killed when the
/// value is dropped.
pub fn python(uid: u32, socket: &Path, program: &str) -> Other {
    let hello = Hello::new(ClientKind::Git, None).expect("no name fits").encode();
    let hello: String = hello.iter().map(|byte| format!("{byte:02x}")).collect();
    let child = Command::new("python3")
        .args(["-c", &format!("{PRELUDE}{program}")])
        .arg(socket)
        .arg(hello)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .uid(uid)
        .gid(uid)
        .spawn()
        .expect("python3 starts");
    Other(child)
}

/// Whether there is python3.
pub fn has_python() -> bool {
    Command::new("python3").arg("-c").arg("").status().is_ok_and(|status| status.success())
}

/// Whether other users' programs can be started; a line says why not.
pub fn possible() -> bool {
    match (crate::is_root(), has_python()) {
        (false, _) => crate::skipped("needs root"),
        (_, false) => crate::skipped("needs python3"),
        _ => return true,
    }
    false
}

/// A program of another user.
#[derive(Debug)]
pub struct Other(Child);

impl Other {
    /// The next line that it prints.
    #[track_caller]
    pub fn line(&mut self) -> String {
        use std::io::Read;
        let out = self.0.stdout.as_mut().expect("piped");
        let mut line = Vec::new();
        let mut byte = [0];
        while out.read(&mut byte).is_ok_and(|n| n == 1) && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).into_owned()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
