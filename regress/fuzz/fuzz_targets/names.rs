//! Names: what parses has none of the bytes that it must not have, and parses again.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::{ObjectId, RefName};
use libproto::names::{RepoName, UserName, escape};

fuzz_target!(|data: &[u8]| {
    if let Ok(name) = RepoName::parse(data) {
        assert_eq!(RepoName::parse(name.as_bytes()).as_ref(), Ok(&name));
        assert!(!name.as_bytes().iter().any(u8::is_ascii_control) && name.as_bytes()[0] != b'-');
        assert!(name.as_bytes().split(|&b| b == b'/').all(|c| !c.is_empty() && c[0] != b'.'));
        assert!(RepoName::parse(&name.with_suffix()).is_ok() || name.as_bytes().len() > 250);
    }
    if let Ok(name) = RefName::parse(data) {
        assert!(!name.as_bytes().iter().any(|b| *b <= b' ' || *b == 0x7f));
        assert!(!name.as_bytes().windows(2).any(|w| w == b".."));
    }
    let _ = UserName::parse(data);
    if let Some(id) = ObjectId::from_hex(data) {
        assert_eq!(id.to_string().as_bytes(), data.to_ascii_lowercase());
    }
    assert!(!escape(data).chars().any(char::is_control));
});
