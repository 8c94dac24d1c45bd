//! packed-refs: a file is good or it is not; a good one lists the names of its lines.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::dir::Map;
use librepo::packed_refs::PackedRefs;

fuzz_target!(|data: &[u8]| {
    let Ok(packed) = PackedRefs::parse(Some(Map::of_bytes(data).expect("memory")), HashKind::Sha1) else {
        return;
    };
    let all = packed.list::<&[u8]>(&[]);
    for prefix in [&b"refs/heads/"[..], b"refs/tags/v", b"x"] {
        let some = packed.list(&[prefix]);
        if let (Ok(all), Ok(some)) = (&all, &some) {
            assert!(some.iter().all(|name| name.starts_with(prefix)));
            // What a listing of all has is found by its prefix too, unless the file only pretends
            // to be sorted.
            assert!(some.len() <= all.len());
        }
    }
});
