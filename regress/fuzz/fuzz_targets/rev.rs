//! Reverse indexes: whatever the file says, the order is that of the offsets.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::checked::Checked;
use librepo::dir::Map;
use librepo::pack_index::PackIndex;
use librepo::rev::Order;

fuzz_target!(|data: &[u8]| {
    // An index of four objects whose offsets and checksum the input chooses, then the file itself.
    let Some((offsets, rev)) = data.split_at_checked(16) else { return };
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    index.extend((0..256u32).flat_map(|i| (i + 1).min(4).to_be_bytes()));
    index.extend((0..4u8).flat_map(|i| [i; 20]));
    index.extend([0; 16]);
    index.extend(offsets.iter().map(|byte| byte & 0x7f));
    index.extend([1; 40]);
    let index =
        PackIndex::parse(Map::of_bytes(&index).expect("memory"), HashKind::Sha1).expect("a good index");
    let rev = Map::of_bytes(rev).expect("memory");
    let order = Order::of(&index, Some(&rev), &Checked::default());
    let indexes: Vec<u32> = (0..4).filter_map(|at| order.index_at(Some(&rev), at)).collect();
    let offsets: Vec<u64> = indexes.iter().map(|&i| index.offset_at(i)).collect();
    assert!(offsets.len() == 4 && offsets.is_sorted());
});
