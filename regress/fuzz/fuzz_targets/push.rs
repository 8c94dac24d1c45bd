//! Lines of a push: a name that parses lies below refs/, and one that does not is shown harmlessly.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use libproto::request::push::{Line, Target, option};

fuzz_target!(|data: &[u8]| {
    for first in [true, false] {
        if let Ok(Line::Command(command, _)) = Line::parse(data, first, HashKind::Sha1) {
            match command.target {
                Target::Ref(name) => assert!(name.is_below_refs()),
                Target::Bad(shown) => assert!(!shown.chars().any(char::is_control)),
            }
        }
    }
    let _ = option(data);
});
