//! Requests to the socket creator: each is answered with five bytes or is the end, and no request makes a socket that the
//! start-up table does not have. Ports are low ones throughout, so that nothing is bound.
#![no_main]
use std::os::fd::AsFd;

use gotd::sockets::{ANSWER_LEN, NONSENSE, TCP, TCP_LEN, TERMINATE, serve};
use libfuzzer_sys::fuzz_target;
use libproto::channel::{recv_record_with_fds, send_record};

fuzz_target!(|data: &[u8]| {
    let Ok((ours, theirs)) = gotd::spawn::pair() else { return };
    let mut answers = 0;
    let mut ended = false;
    // All requests are queued before the role reads the first.
    for record in data.split(|byte| *byte == b'\n').take(8).filter(|record| !record.is_empty()) {
        let mut record = record.to_vec();
        if record.len() == TCP_LEN && record[0] == TCP {
            record[2] &= 0x03;
        }
        if send_record(ours.as_fd(), &record, false).is_ok() {
            answers += 1;
        }
    }
    let _ = send_record(ours.as_fd(), &[TERMINATE], false);
    serve(theirs.as_fd(), &mut [], &[]);
    drop(theirs);
    for _ in 0..answers {
        let mut buffer = [0; ANSWER_LEN + 1];
        let Ok((n, fds)) = recv_record_with_fds(ours.as_fd(), &mut buffer) else { return };
        assert!(n == ANSWER_LEN && fds.is_empty() && !ended);
        assert_ne!(buffer[0], 0, "a socket was made");
        ended = buffer[0] == NONSENSE;
    }
});
