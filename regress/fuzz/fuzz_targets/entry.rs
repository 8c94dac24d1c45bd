//! Pack entries: a base lies before its delta and within the pack.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::pack::{Entry, EntryKind, HEADER_LEN};

fuzz_target!(|data: &[u8]| {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        for offset in [0, 12, 20, data.len() as u64, u64::MAX] {
            let Ok(entry) = Entry::parse(data, offset, hash) else { continue };
            assert!(entry.data_offset <= data.len() as u64);
            assert_eq!(entry.data_offset, offset + entry.header_len as u64);
            if let EntryKind::OfsDelta(base) = entry.kind {
                assert!(base < offset && base >= HEADER_LEN as u64);
            }
        }
    }
});
