//! gotsh's command line and the protocol parameters.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libproto::command::{Parameters, parse};

fuzz_target!(|data: &[u8]| {
    if let Ok(command) = parse(data) {
        assert!(!command.repo.as_bytes().iter().any(u8::is_ascii_control));
    }
    let _ = parse(&[b"git-upload-pack ".as_slice(), data].concat());
    let _ = Parameters::parse(data);
});
