//! `sockets` promises to allocate nothing once it serves: every request is made here while its
//! allocations are counted. It is alone in this program, because an allocator is the whole
//! program's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use gotd::roles::sockets::ask::{self, BIND, REPLACE, TERMINATE};
use gotd::roles::sockets::{BindTable, serve};

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: all is left to the system's allocator; counting neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the promises that this function asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_request_makes_it_allocate() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let mut table = BindTable::open(&[path.display().to_string()]).expect("opens");
    let (ours, theirs) = gotd::os::spawn::pair().expect("a pair");
    let role = std::thread::spawn(move || {
        COUNTED.set(true);
        serve(theirs.as_fd(), &mut table);
        COUNTED.set(false);
    });
    let fd = ours.as_fd();
    // Answers with a socket, with an error of each kind that can be had, and without either.
    std::fs::write(&path, b"in the way").expect("writes");
    assert!(ask::listed(fd, BIND, 0).is_err());
    ask::listed(fd, REPLACE, 0).expect("a socket");
    ask::new(fd, 1, 0, b"other").expect("a socket");
    assert!(ask::new(fd, 2, 0, b"other").is_err());
    ask::unlink(fd, 1).expect("is gone");
    for ip in ["127.0.0.1", "::1"] {
        let free = std::net::TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr());
        let Ok(address) = free else { continue };
        let _socket = ask::tcp(fd, address).expect("a socket");
        assert!(ask::tcp(fd, address).is_err());
    }
    assert!(ask::tcp(fd, "127.0.0.1:99".parse().expect("an address")).is_err());
    libproto::channel::send_record(fd, &[TERMINATE], true).expect("sends");
    role.join().expect("ends");
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0);
}
