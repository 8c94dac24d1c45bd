//! The first packet of a git:// connection.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libproto::request::daemon::DaemonRequest;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = DaemonRequest::parse(data) {
        assert!(!request.host.unwrap_or_default().contains(['/', '\0', '\n', ' ']));
    }
    let _ = DaemonRequest::parse(&[b"git-upload-pack /x\0".as_slice(), data].concat());
});
