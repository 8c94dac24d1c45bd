//! A pack from a client: any bytes, and the same with a right count and checksum, so that what is
//! inside is reached too.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::receive::{self, IndexOptions, Ticker};

thread_local! {
    static FILES: RefCell<Option<(File, File)>> = const { RefCell::new(None) };
}

fn scratch(name: &str) -> File {
    let path = std::env::temp_dir().join(format!("fuzz-index-pack-{}-{name}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .expect("a temporary file");
    // The name is needed no more.
    let _ = std::fs::remove_file(path);
    file
}

fn run(input: &[u8], hash: HashKind) {
    FILES.with_borrow_mut(|files| {
        let (pack, idx) = files.get_or_insert_with(|| (scratch("pack"), scratch("idx")));
        pack.set_len(0).expect("truncates");
        idx.set_len(0).expect("truncates");
        let mut options = IndexOptions::default();
        options.limits.pack_bytes = 1 << 20;
        options.limits.object_bytes = 1 << 22;
        options.limits.delta_bytes = 1 << 20;
        options.limits.delta_floor = 1 << 22;
        options.limits.resolve_bytes = 1 << 16;
        let mut quiet = |_: &receive::Progress| Ok(());
        let mut src = input;
        let result = receive::index(&mut src, pack, idx, hash, None, &options, &mut Ticker::new(&mut quiet));
        if let Ok(indexed) = result {
            let mut trailer = vec![0; hash.len()];
            pack.read_exact_at(&mut trailer, indexed.bytes - hash.len() as u64).expect("as long as it says");
            assert_eq!(trailer, indexed.checksum.as_bytes());
        }
    });
}

fuzz_target!(|data: &[u8]| {
    run(data, HashKind::Sha1);
    let Some((&count, body)) = data.split_first() else { return };
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        run(&receive::testpack::sealed(hash, u32::from(count % 16), body), hash);
    }
});
