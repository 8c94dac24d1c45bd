//! Lines of a fetch in v0 and v1.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use libproto::request::v0::{Common, Need};

fuzz_target!(|data: &[u8]| {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        if let Ok(Need::Want(id, Some(caps))) = Need::parse(data, true, hash) {
            assert_eq!(id.kind(), hash);
            assert!(caps.agent.unwrap_or_default().chars().all(|c| c.is_ascii_graphic()));
        }
        let _ = Need::parse(data, false, hash);
        let _ = Common::parse(data, hash);
    }
});
