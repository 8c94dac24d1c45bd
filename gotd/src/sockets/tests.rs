//! Every answer of the socket creator, and what is none.

use super::*;
use crate::parent::bind::{ask, ask_tcp};
use libproto::channel::{recv_record, send_record};
use nix::sys::socket::{getsockname, getsockopt};

/// Runs `serve` in a thread on a table of one path in a fresh directory and one low port.
fn served(test: impl FnOnce(BorrowedFd<'_>, &Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let (ours, theirs) = crate::spawn::pair().expect("a pair");
    // fchdir is the process's: nothing else in these tests uses relative names.
    let (_, place) = open_place(&path).expect("opens");
    let low = [address("127.0.0.1:999")];
    let role = std::thread::spawn(move || serve(theirs.as_fd(), &mut [place], &low));
    test(ours.as_fd(), &path);
    drop(ours);
    role.join().expect("ends");
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A port that nobody has at this moment.
fn free_port(ip: &str) -> Option<SocketAddr> {
    std::net::TcpListener::bind((ip.parse::<IpAddr>().ok()?, 0)).ok()?.local_addr().ok()
}

#[test]
fn a_unix_socket_is_made_replaced_and_refused() {
    served(|fd, path| {
        std::fs::write(path, b"in the way").expect("writes");
        assert_eq!(ask(fd, BIND, 0).err(), Some("bind: Address already in use".into()));
        let socket = ask(fd, REPLACE, 0).expect("a socket");
        assert!(getsockopt(&socket, sockopt::AcceptConn).expect("asks"));
        assert!(std::os::unix::fs::FileTypeExt::is_socket(
            &std::fs::symlink_metadata(path).expect("stat").file_type()
        ));
        // A second time for the same number is nonsense, and fatal.
        assert!(ask(fd, BIND, 0).is_err_and(|text| text.starts_with("?: ")));
        assert!(ask(fd, BIND, 0).is_err_and(|text| text.starts_with("sockets: ")));
    });
}

#[test]
fn what_cannot_be_unlinked_is_told() {
    served(|fd, path| {
        std::fs::create_dir(path).expect("makes a directory");
        assert_eq!(ask(fd, REPLACE, 0).err(), Some("unlink: Is a directory".into()));
    });
}

#[test]
fn tcp_sockets_listen_where_they_were_asked_to() {
    served(|fd, _| {
        for ip in ["127.0.0.1", "::1"] {
            let Some(wanted) = free_port(ip) else { continue };
            let socket = ask_tcp(fd, wanted).expect("a socket");
            assert!(getsockopt(&socket, sockopt::AcceptConn).expect("asks"));
            assert!(!getsockopt(&socket, sockopt::ReusePort).expect("asks"));
            let name: SockaddrStorage = getsockname(socket.as_raw_fd()).expect("bound");
            assert_eq!(name.to_string(), wanted.to_string());
            assert_eq!(ask_tcp(fd, wanted).err(), Some("bind: Address already in use".into()));
        }
        let nowhere = address("192.0.2.1:9418");
        let text = format!("bind: {}", Errno::EADDRNOTAVAIL.desc());
        assert_eq!(ask_tcp(fd, nowhere).err(), Some(text));
    });
}

#[test]
fn low_ports_only_from_the_table() {
    served(|fd, _| {
        for other in ["127.0.0.1:998", "127.0.0.2:999", "[::1]:999"] {
            assert_eq!(ask_tcp(fd, address(other)).err(), Some("bind: Permission denied".into()), "{other}");
        }
        let listed = ask_tcp(fd, address("127.0.0.1:999"));
        match (geteuid().is_root(), listed) {
            (true, listed) => drop(listed.expect("root may")),
            (false, Err(text)) => assert_eq!(text, "bind: Permission denied"),
            (false, Ok(_)) => {}
        }
    });
}

#[test]
fn nonsense_is_fatal() {
    let tcp = |family: u8, port: u16, rest: &[u8]| [&[TCP, family][..], &port.to_be_bytes(), rest].concat();
    for bad in [
        b"X\0".to_vec(),
        b"B".to_vec(),
        b"B\x01".to_vec(),
        b"B\0\0".to_vec(),
        b"T\0".to_vec(),
        vec![0; 7],
        vec![b'C'; 64],
        tcp(5, 9418, &[0; 16]),
        tcp(4, 0, &[0; 16]),
        tcp(4, 9418, &[1; 16]),
        tcp(4, 9418, &[0; 4]),
        tcp(6, 9418, &[0; 15]),
        tcp(6, 9418, &[0; 17]),
    ] {
        served(|fd, _| {
            send_record(fd, &bad, true).expect("sends");
            let mut buffer = [0; 16];
            assert_eq!(recv_record(fd, &mut buffer).expect("an answer"), ANSWER_LEN);
            assert_eq!(buffer[..ANSWER_LEN], [NONSENSE, 0, 0, 0, 0]);
            assert!(recv_record(fd, &mut buffer).is_err(), "it must have ended after {bad:?}");
        });
    }
}

#[test]
fn told_to_end_it_says_nothing() {
    served(|fd, _| {
        send_record(fd, &[TERMINATE], true).expect("sends");
        assert!(recv_record(fd, &mut [0; 16]).is_err());
    });
}
