//! The sockets of processes, as /proc tells about them.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// TCP, waiting for clients at this address.
    TcpListening(SocketAddr),
    /// TCP, with a peer, or with none any more.
    Tcp(SocketAddr),
    /// A unix socket, waiting for clients at this path.
    UnixListening(PathBuf),
    /// Any other unix socket.
    Unix,
}

impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Socket::TcpListening(address) => write!(f, "LISTEN {address}"),
            Socket::Tcp(address) => write!(f, "TCP {address}"),
            Socket::UnixListening(path) => write!(f, "LISTEN {}", path.display()),
            Socket::Unix => f.write_str("unix"),
        }
    }
}

/// The sockets that a process has open, in order.
pub fn of(pid: i32) -> Vec<Socket> {
    // One that is closed between the two looks is in no table then, so such a look does not count.
    // One that never is would be of a family that nobody here has any use for.
    for _ in 0..100 {
        let open = inodes(pid);
        let known = of_namespace(pid);
        let sockets: Option<Vec<Socket>> = open.iter().map(|inode| known.get(inode).cloned()).collect();
        if let Some(mut sockets) = sockets {
            sockets.sort();
            return sockets;
        }
    }
    panic!("process {pid} has sockets that are neither unix nor TCP: {:?}", inodes(pid));
}

fn inodes(pid: i32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inode =
        |path: PathBuf| path.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok();
    entries.flatten().filter_map(|entry| inode(fs::read_link(entry.path()).ok()?)).collect()
}

/// All sockets of a process's network namespace, by inode.
fn of_namespace(pid: i32) -> HashMap<u64, Socket> {
    let mut all = HashMap::new();
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    for line in [table("tcp"), table("tcp6")].iter().flat_map(|text| text.lines().skip(1)) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
            continue;
        };
        let (Some(address), Ok(inode)) = (address(local), inode.parse()) else { continue };
        all.insert(inode, if *state == "0A" { Socket::TcpListening(address) } else { Socket::Tcp(address) });
    }
    const ACCEPTS: u32 = 0x10000;
    for line in table("unix").lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(flags), Some(Ok(inode))) = (fields.get(3), fields.get(6).map(|n| n.parse())) else {
            continue;
        };
        let listening = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & ACCEPTS != 0);
        let path = fields.get(7).filter(|_| listening);
        all.insert(inode, path.map_or(Socket::Unix, |path| Socket::UnixListening(path.into())));
    }
    all
}

/// `0100007F:24CA`: words of the machine's byte order in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|n| u32::from_str_radix(ip.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let octets = words.concat();
    let ip: IpAddr = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(octets) => Ipv4Addr::from(octets).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(octets.as_slice()).ok()?).into(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
