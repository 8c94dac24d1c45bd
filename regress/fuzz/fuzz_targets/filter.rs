//! Filter specifications.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::Filter;

fuzz_target!(|data: &[u8]| {
    let hidden: String = data.iter().map(|byte| format!("%{byte:02x}")).collect();
    if let (Ok(one), Ok(twice)) =
        (Filter::parse(data), Filter::parse(format!("combine:{hidden}+{hidden}").as_bytes()))
    {
        // The effect is the same; how it was written is kept beside it.
        let effect = |filter: &Filter| (filter.blob_limit, filter.tree_depth, filter.kind);
        assert_eq!(effect(&one), effect(&twice));
    }
    let _ = Filter::parse(&[b"combine:".as_slice(), data].concat());
});
