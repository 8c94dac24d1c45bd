//! Lines of v2 requests.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use libproto::request::v2::{Fetch, Head, LsRefs};

fuzz_target!(|data: &[u8]| {
    let mut head = Head::new(HashKind::Sha1, 16);
    for line in data.split(|&b| b == b'\n') {
        if head.line(line).is_err() {
            break;
        }
    }
    let _ = head.finish();
    let _ = LsRefs::parse(data);
    let _ = Fetch::parse(data, HashKind::Sha1);
    let _ = Fetch::parse(data, HashKind::Sha256);
});
