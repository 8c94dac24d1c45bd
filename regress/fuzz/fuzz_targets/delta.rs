//! Deltas: the result has the declared size and stays below the limit.
#![no_main]
use libfuzzer_sys::fuzz_target;
use librepo::delta_apply::{apply, sizes};

fuzz_target!(|data: &[u8]| {
    let Some((&len, data)) = data.split_first() else { return };
    let Some((base, delta)) = data.split_at_checked(usize::from(len)) else { return };
    if let Ok(result) = apply(base, delta, 1 << 20, Vec::new()) {
        let (base_size, result_size, _) = sizes(delta).expect("applied, so it has sizes");
        assert_eq!((base_size, result_size), (base.len() as u64, result.len() as u64));
        assert!(result.len() <= 1 << 20);
    }
});
