//! Filter specifications.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libproto::request::filter::Filter;

fuzz_target!(|data: &[u8]| {
    if let Ok(Filter::All(parts)) = Filter::parse(data) {
        assert!(parts.len() >= 2 && parts.len() <= 16);
    }
    let _ = Filter::parse(&[b"combine:".as_slice(), data].concat());
});
