//! Clients of git:// that speak for themselves, well or badly, and addresses for them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The ports that are handed out: below those that the kernel gives to clients and to whoever asks
/// for any port.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A loopback address with a port that nobody has at this moment, and that no other test of this
/// process is given.
pub fn free(ip: impl Into<IpAddr>) -> Option<SocketAddr> {
    static HANDED_OUT: AtomicU16 = AtomicU16::new(0);
    let ip = ip.into();
    // Tests of another process begin somewhere else.
    let first = std::process::id().wrapping_mul(97);
    for _ in 0..1000 {
        let n = u32::from(HANDED_OUT.fetch_add(1, Ordering::Relaxed));
        let step = first.wrapping_add(n) % u32::from(PORTS.end - PORTS.start);
        let address = SocketAddr::new(ip, PORTS.start + u16::try_from(step).ok()?);
        match TcpListener::bind(address) {
            Ok(_) => return Some(address),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(_) => return None,
        }
    }
    None
}

/// The same over IPv4.
#[track_caller]
pub fn free_v4() -> SocketAddr {
    free(Ipv4Addr::LOCALHOST).expect("a free port")
}

/// The same over IPv6, if there is any.
pub fn free_v6() -> Option<SocketAddr> {
    free(Ipv6Addr::LOCALHOST)
}

/// The line of gotd.conf that listens there.
pub fn listen_line(address: SocketAddr) -> String {
    format!("listen on git \"{}\" port {}\n", address.ip(), address.port())
}

/// The first packet of a fetch.
pub fn request(path: &str, protocol: u8) -> Vec<u8> {
    let version = if protocol == 0 { String::new() } else { format!("\0version={protocol}\0") };
    crate::pkt::line(format!("git-upload-pack {path}\0host=localhost\0{version}"))
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Closed, after these bytes.
    Closed(Vec<u8>),
    /// Reset, after these bytes.
    Reset(Vec<u8>),
    /// Still open when the time was over.
    Open(Vec<u8>),
}

impl End {
    /// What came before the end, as text.
    pub fn text(&self) -> String {
        let (End::Closed(bytes) | End::Reset(bytes) | End::Open(bytes)) = self;
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Whether the connection is over.
    pub fn is_over(&self) -> bool {
        !matches!(self, End::Open(_))
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    /// The socket.
    pub stream: TcpStream,
}

impl Client {
    /// Connects.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("connects");
        Client { stream }
    }

    /// Connects from another address of the loopback interface.
    #[track_caller]
    pub fn open_from(address: SocketAddr, from: Ipv4Addr) -> Client {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
        use std::os::fd::AsRawFd;
        let SocketAddr::V4(to) = address else { panic!("{address}: only for IPv4") };
        let fd =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0))).expect("binds");
        connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("connects");
        Client { stream: TcpStream::from(fd) }
    }

    /// Writes; false when the daemon has closed its end.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Reads to the end, at most this many seconds.
    pub fn end(&mut self, seconds: f64) -> End {
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return End::Open(all);
            }
            self.stream.set_read_timeout(Some(left)).expect("sets a timeout");
            match self.stream.read(&mut buffer) {
                Ok(0) => return End::Closed(all),
                Ok(n) => all.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e)
                    if [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&e.kind()) =>
                {
                    return End::Open(all);
                }
                Err(_) => return End::Reset(all),
            }
        }
    }

    /// Reads exactly this many bytes; false at an early end or after twenty seconds.
    pub fn read_exactly(&mut self, bytes: usize) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets a timeout");
        let mut all = vec![0; bytes];
        self.stream.read_exact(&mut all).ok().map(|()| all)
    }

    /// Reads up to and with a flush packet.
    #[track_caller]
    pub fn read_to_flush(&mut self) -> Vec<u8> {
        self.try_read_to_flush().expect("a flush packet")
    }

    /// The same for a client that may have been ended.
    pub fn try_read_to_flush(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let head = self.read_exactly(4)?;
            out.extend_from_slice(&head);
            match usize::from_str_radix(std::str::from_utf8(&head).ok()?, 16).ok()? {
                0 => return Some(out),
                length => out.extend(self.read_exactly(length.saturating_sub(4))?),
            }
        }
    }
}

/// Both ends of a connection, of which the first one hangs for so many seconds whoever closes it
/// last: it lingers for bytes that the other end never takes.
pub fn lingering(seconds: i32) -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (far, _) = listener.accept().expect("accepts");
    near.set_nonblocking(true).expect("sets a flag");
    while near.write(&[b'x'; 65_536]).is_ok() {}
    near.set_nonblocking(false).expect("sets a flag");
    let linger = libc::linger { l_onoff: 1, l_linger: seconds };
    nix::sys::socket::setsockopt(&near, nix::sys::socket::sockopt::Linger, &linger).expect("sets an option");
    (near.into(), far)
}
