//! Whole packs: chains of deltas through entries that lie end with an object or an error, within
//! the limit.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::{HashKind, ObjectId};
use librepo::Reader;
use librepo::dir::Map;
use librepo::pack::Pack;
use librepo::pack_index::PackIndex;
use librepo::store::{Store, StoreLimits};

const OBJECTS: u32 = 8;

fuzz_target!(|data: &[u8]| {
    // Eight objects called 00.., 01.., at offsets that the input chooses, and the bytes of their
    // entries.
    let Some((offsets, entries)) = data.split_at_checked(OBJECTS as usize * 2) else { return };
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    index.extend((0..256u32).flat_map(|i| (i + 1).min(OBJECTS).to_be_bytes()));
    index.extend((0..OBJECTS as u8).flat_map(|i| [i; 20]));
    index.extend([0; OBJECTS as usize * 4]);
    index.extend(offsets.chunks(2).flat_map(|pair| [0, 0, pair[0], pair[1]]));
    index.extend([1; 40]);
    let mut pack = b"PACK\0\0\0\x02\0\0\0\x08".to_vec();
    pack.extend(entries);
    pack.extend([1; 20]);
    let map = |bytes: &[u8]| Map::of_bytes(bytes).expect("memory");
    let index = PackIndex::parse(map(&index), HashKind::Sha1).expect("a good index");
    let pack = Pack::new("pack".to_owned(), map(&pack), index, None).expect("a good frame");
    let mut store = Store::of_packs(HashKind::Sha1, StoreLimits { object_bytes: 1 << 16 });
    store.add_pack(pack);
    let pack = &store.packs()[0];
    for cache in [0, 1 << 16] {
        let mut reader = Reader::new(&store, cache);
        for i in (0..OBJECTS).chain(0..OBJECTS) {
            let id = ObjectId::from_bytes(HashKind::Sha1, &[i as u8; 20]).expect("20 bytes");
            let told = reader.header(&id);
            let mut streamed = Vec::new();
            let stream = reader.read_stream(&id, &mut |bytes| {
                streamed.extend_from_slice(bytes);
                Ok(())
            });
            if let Ok(Some(object)) = reader.read(&id) {
                assert!(object.data.len() <= 1 << 16);
                assert_eq!(told.expect("readable"), Some((object.kind, object.data.len() as u64)));
                assert!(stream.is_ok() && streamed == *object.data);
            }
        }
    }
    for position in 0..=OBJECTS {
        let Some(offset) = pack.offset_of_position(position) else { continue };
        assert!(
            pack.position_of_offset(offset).is_some_and(|at| pack.offset_of_position(at) == Some(offset))
        );
        let _ = pack.end_of(offset);
    }
});
