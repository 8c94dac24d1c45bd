//! Pack indexes: every answer lies within the file, and what is found is what was asked for.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::dir::Map;
use librepo::pack_index::PackIndex;

fuzz_target!(|data: &[u8]| {
    let Some((&first, data)) = data.split_first() else { return };
    let hash = if first & 1 == 0 { HashKind::Sha1 } else { HashKind::Sha256 };
    let Ok(index) = PackIndex::parse(Map::of_bytes(data).expect("memory"), hash) else { return };
    for i in (0..index.count().min(300)).chain([index.count(), u32::MAX]) {
        let id = index.id_at(i);
        let _ = (index.offset_at(i), index.crc_at(i), index.with_prefix(&id.as_bytes()[..3]));
        if let Some(found) = index.lookup(id.as_bytes()) {
            assert_eq!(index.id_at(found), id);
        }
    }
    assert_eq!(index.pack_checksum().len(), hash.len());
});
