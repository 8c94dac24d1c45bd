//! The first packet of a git:// connection.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libproto::request::daemon::Request;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::parse(data) {
        assert!(!request.host.unwrap_or_default().contains(['/', '\0', '\n', ' ']));
    }
    let _ = Request::parse(&[b"git-upload-pack /x\0".as_slice(), data].concat());
});
