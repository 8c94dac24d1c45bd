//! Every answer of the socket creator, and what is none.

use super::ask::{ANSWER_LEN, Unmade, listed, new, tcp};
use super::*;
use libproto::channel::{recv_record, send_record};
use nix::sys::socket::{getsockname, getsockopt};

/// Runs `serve` in a thread on a table of one path in a fresh directory and one low port.
fn served(test: impl FnOnce(BorrowedFd<'_>, &Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let (ours, theirs) = crate::os::spawn::pair().expect("a pair");
    // fchdir is the process's: nothing else in these tests uses relative names, and no two of them
    // run at once.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let words = [path.display().to_string(), "127.0.0.1:999".to_owned()];
    let mut table = BindTable::open(&words).expect("opens");
    let role = std::thread::spawn(move || serve(theirs.as_fd(), &mut table));
    test(ours.as_fd(), &path);
    drop(ours);
    role.join().expect("ends");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("lists").flatten().map(|e| e.path()).collect();
    let sockets = left.iter().filter(|path| is_socket(path)).count();
    assert_eq!(sockets, 0, "{left:?}");
    drop(alone);
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

fn call<T>(text: &str) -> Result<T, String> {
    Err(text.into())
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
        assert_eq!(
            listed(fd, BIND, 0).map(drop).map_err(|e| e.to_string()),
            call("bind: Address already in use")
        );
        let socket = listed(fd, REPLACE, 0).expect("a socket");
        assert!(getsockopt(&socket, sockopt::AcceptConn).expect("asks"));
        assert!(is_socket(path));
        // A second time for the same number is nonsense, and fatal.
        for text in ["took a request for nonsense", "closed"] {
            let broken = listed(fd, BIND, 0).map(drop).expect_err("nonsense");
            assert!(
                matches!(&broken, Unmade::Broken(why) if text == why.to_string() || text == "closed"),
                "{broken}"
            );
        }
    });
}

#[test]
fn a_name_beside_those_of_the_table_is_bound_and_unlinked() {
    served(|fd, path| {
        let other = path.with_file_name("other");
        drop(listed(fd, BIND, 0).expect("a socket"));
        let socket = new(fd, 1, 0, b"other").expect("a socket");
        assert!(getsockopt(&socket, sockopt::AcceptConn).expect("asks"));
        assert!(is_socket(&other));
        // Whatever is there stays, whoever made it.
        assert_eq!(
            new(fd, 2, 0, b"other").map(drop).map_err(|e| e.to_string()),
            call("bind: Address already in use")
        );
        assert_eq!(
            new(fd, 2, 0, b".").map(drop).map_err(|e| e.to_string()),
            call("bind: Address already in use")
        );
        ask::unlink(fd, 1).expect("goes");
        assert!(!other.exists() && is_socket(path));
        // The number is free, for that name and others, and so is that of the table.
        std::fs::write(&other, b"in the way").expect("writes");
        assert_eq!(
            new(fd, 1, 0, b"other").map(drop).map_err(|e| e.to_string()),
            call("bind: Address already in use")
        );
        std::fs::remove_file(&other).expect("removes");
        ask::unlink(fd, 0).expect("goes");
        assert!(!path.exists());
        drop(new(fd, 0, 0, b"other").expect("a socket"));
        drop(new(fd, 1, 0, b"s").expect("a socket"));
        assert!(is_socket(&other) && is_socket(path));
        // One that somebody else removed is gone, too.
        std::fs::remove_file(&other).expect("removes");
        ask::unlink(fd, 0).expect("is gone");
        let longest = [b'x'; NAME_LEN - 1];
        drop(new(fd, 63, 0, &longest).expect("a socket"));
        assert!(new(fd, 62, 0, &[b'y'; NAME_LEN]).is_err_and(|e| matches!(e, Unmade::LongName)));
    });
}

#[test]
fn what_cannot_be_unlinked_is_told() {
    served(|fd, path| {
        std::fs::create_dir(path).expect("makes a directory");
        assert_eq!(
            listed(fd, REPLACE, 0).map(drop).map_err(|e| e.to_string()),
            call("unlink: Is a directory")
        );
    });
}

#[test]
fn tcp_sockets_listen_where_they_were_asked_to() {
    served(|fd, _| {
        for ip in ["127.0.0.1", "::1"] {
            let Some(wanted) = free_port(ip) else { continue };
            let socket = tcp(fd, wanted).expect("a socket");
            assert!(getsockopt(&socket, sockopt::AcceptConn).expect("asks"));
            assert!(!getsockopt(&socket, sockopt::ReusePort).expect("asks"));
            let name: SockaddrStorage = getsockname(socket.as_raw_fd()).expect("bound");
            assert_eq!(name.to_string(), wanted.to_string());
            assert_eq!(
                tcp(fd, wanted).map(drop).map_err(|e| e.to_string()),
                call("bind: Address already in use")
            );
        }
        let nowhere = address("192.0.2.1:9418");
        let text = format!("bind: {}", Errno::EADDRNOTAVAIL.desc());
        assert_eq!(tcp(fd, nowhere).map(drop).map_err(|e| e.to_string()), call(&text));
    });
}

#[test]
fn low_ports_only_from_the_table() {
    served(|fd, _| {
        for other in ["127.0.0.1:998", "127.0.0.2:999", "[::1]:999"] {
            assert_eq!(
                tcp(fd, address(other)).map(drop).map_err(|e| e.to_string()),
                call("bind: Permission denied"),
                "{other}"
            );
        }
        let listed = tcp(fd, address("127.0.0.1:999"));
        match (nix::unistd::geteuid().is_root(), listed) {
            (true, listed) => drop(listed.expect("root may")),
            (false, Err(why)) => assert_eq!(Err(why.to_string()), call::<()>("bind: Permission denied")),
            (false, Ok(_)) => {}
        }
    });
}

#[test]
fn nonsense_is_fatal() {
    let tcp = |family: u8, port: u16, rest: &[u8]| [&[TCP, family][..], &port.to_be_bytes(), rest].concat();
    let name = |number: u8, like: u8, name: &[u8]| {
        let mut request = [&[NEW, number, like], name].concat();
        request.resize(NEW_LEN, 0);
        request
    };
    for bad in [
        b"X\0".to_vec(),
        b"B".to_vec(),
        b"B\x01".to_vec(),
        b"B\0\0".to_vec(),
        b"T\0".to_vec(),
        vec![0; 7],
        vec![b'C'; 64],
        vec![b'N'; NEW_LEN],
        b"U".to_vec(),
        // Nothing is bound yet.
        b"U\0".to_vec(),
        b"B\x02".to_vec(),
        // Names that leave the directory, that do not end, that are none, that are cut off.
        name(1, 0, b"../s"),
        name(1, 0, b"/tmp/s"),
        name(1, 0, b"a\0b"),
        name(1, 0, b""),
        name(1, 0, &[b'x'; NAME_LEN]),
        name(1, 0, b"s")[..NEW_LEN - 1].to_vec(),
        [name(1, 0, b"s"), vec![0]].concat(),
        // No such directory, no such number.
        name(1, 1, b"s"),
        name(1, 255, b"s"),
        name(128, 0, b"s"),
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
