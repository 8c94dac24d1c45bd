//! Requests to the socket creator: each is answered with five bytes or is the end; sockets are made
//! in the one directory of the start-up table and nowhere else, and none is left. Ports are low
//! ones throughout, so that no TCP socket is made.
#![no_main]
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::LazyLock;

use gotd::roles::sockets::ask::{ANSWER_LEN, BIND, NEW, NEW_LEN, NONSENSE, REPLACE, TCP, TCP_LEN, TERMINATE};
use gotd::roles::sockets::{BindTable, serve};
use libfuzzer_sys::fuzz_target;
use libproto::channel::{recv_record_with_fds, send_record};

/// A directory with the one of the table in it.
static TOP: LazyLock<PathBuf> = LazyLock::new(|| {
    let top = std::env::temp_dir().join(format!("gotd-fuzz-sockets.{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&top);
    std::fs::create_dir_all(top.join("d")).expect("makes a directory");
    top
});

fn names(directory: PathBuf) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(directory).expect("lists").map(|entry| entry.expect("an entry").file_name()).collect()
}

fuzz_target!(|data: &[u8]| {
    let Ok((ours, theirs)) = gotd::os::spawn::pair() else { return };
    let words = ["a", "b"].map(|name| TOP.join("d").join(name).display().to_string());
    let mut table = BindTable::open(&words).expect("a directory that is there");
    let mut asked = Vec::new();
    // All requests are queued before the role reads the first.
    for record in data.split(|byte| *byte == b'\n').take(8).filter(|record| !record.is_empty()) {
        let mut record = record.to_vec();
        match record[0] {
            TCP if record.len() == TCP_LEN => record[2] &= 0x03,
            NEW => record.resize(NEW_LEN, 0),
            // The same without help: mostly of a wrong length.
            b'n' => record[0] = NEW,
            _ => {}
        }
        if send_record(ours.as_fd(), &record, false).is_ok() {
            asked.push(record[0]);
        }
    }
    let _ = send_record(ours.as_fd(), &[TERMINATE], false);
    serve(theirs.as_fd(), &mut table);
    drop(theirs);
    assert_eq!(names(TOP.join("d")), [""; 0], "left behind");
    assert_eq!(names(TOP.clone()), ["d"], "made elsewhere");
    let mut ended = false;
    for command in asked {
        let mut buffer = [0; ANSWER_LEN + 1];
        let Ok((n, fds)) = recv_record_with_fds(ours.as_fd(), &mut buffer) else { return };
        assert!(n == ANSWER_LEN && !ended);
        let made = buffer[..n] == [0; ANSWER_LEN] && [BIND, REPLACE, NEW].contains(&command);
        assert_eq!(fds.len(), usize::from(made));
        assert!(command != TCP || buffer[0] != 0, "a TCP socket was made");
        ended = buffer[0] == NONSENSE;
    }
});
