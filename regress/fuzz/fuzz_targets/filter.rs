//! Filter specifications.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::Filter;

fuzz_target!(|data: &[u8]| {
    let hidden: String = data.iter().map(|byte| format!("%{byte:02x}")).collect();
    if let (Ok(one), Ok(twice)) =
        (Filter::parse(data), Filter::parse(format!("combine:{hidden}+{hidden}").as_bytes()))
    {
        assert_eq!(one, twice);
    }
    let _ = Filter::parse(&[b"combine:".as_slice(), data].concat());
});
