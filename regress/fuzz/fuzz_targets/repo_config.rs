//! A repository's own config and alternates file.
#![no_main]
use libfuzzer_sys::fuzz_target;
use librepo::alternates;
use librepo::config::{Config, Variables};

fuzz_target!(|data: &[u8]| {
    let _ = Config::parse(data);
    assert!(Variables::new(data).flatten().all(|variable| !variable.key.is_empty()));
    for line in alternates::parse(data).flatten() {
        assert!(line.len() <= data.len());
    }
});
