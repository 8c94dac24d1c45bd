//! Reachability bitmaps: whatever a file with a good checksum says, its sets stay within the pack.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::{HashKind, ObjectKind};
use librepo::bitmap::{Bitmap, Expanded};
use sha1::Digest as _;

fuzz_target!(|data: &[u8]| {
    let Some((&objects, data)) = data.split_first() else { return };
    if data.len() < 32 {
        return;
    }
    let mut file = data.to_vec();
    file.extend_from_slice(&sha1::Sha1::digest(data));
    let checksum = file[12..32].to_vec();
    let objects = u32::from(objects);
    let Ok(bitmap) = Bitmap::parse(&file[..], HashKind::Sha1, objects, &checksum, false) else { return };
    let mut cache = Expanded::default();
    for at in 0..objects {
        let _ = bitmap.name_hash(at);
        if let Some(entry) = bitmap.entry_of(at) {
            for own in [0, at, objects, u32::MAX] {
                if let Some(set) = bitmap.expand(entry, own, &mut cache) {
                    assert_eq!(set.len(), bitmap.words());
                }
            }
        }
    }
    for kind in [ObjectKind::Commit, ObjectKind::Tree, ObjectKind::Blob, ObjectKind::Tag] {
        assert!(bitmap.of_kind(kind).is_none_or(|set| set.len() == bitmap.words()));
    }
});
