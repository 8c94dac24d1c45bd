//! Multi-pack indexes: every answer lies within the file.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::dir::Map;
use librepo::midx::MultiPackIndex;

fuzz_target!(|data: &[u8]| {
    let Some((&first, data)) = data.split_first() else { return };
    let hash = if first & 1 == 0 { HashKind::Sha1 } else { HashKind::Sha256 };
    let Ok(midx) = MultiPackIndex::parse(Map::of_bytes(data).expect("memory"), hash) else { return };
    for i in (0..midx.count().min(300)).chain([midx.count(), u32::MAX]) {
        if let Some(found) = midx.lookup(midx.id_at(i).as_bytes()) {
            assert_eq!(midx.id_at(found), midx.id_at(i));
        }
        assert!(midx.entry_at(i).is_none_or(|(pack, _)| (pack as usize) < midx.packs().len()));
    }
    assert!(midx.order().is_none_or(|order| order.len() == midx.count() as usize * 4));
    let _ = (midx.chunk(b"BTMP"), midx.checksum());
});
