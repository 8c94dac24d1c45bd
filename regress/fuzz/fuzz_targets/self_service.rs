//! What users of a shared account ask for through ssh without git: a line is a command whose words
//! are clean, or none.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libproto::self_service::{ShellCommand, Task};

fuzz_target!(|data: &[u8]| {
    for word in [b"".as_slice(), b"info ", b"head a ", b"describe a "] {
        let line = [word, data].concat();
        let Some(parsed) = ShellCommand::parse(line.trim_ascii()) else { continue };
        // Said once more in the only way there is to say it, it is the same.
        let again = parsed.line();
        assert!(!again.iter().any(u8::is_ascii_control), "{parsed:?}");
        assert_eq!(ShellCommand::parse(&again), Some(parsed.clone()));
        if let Some((repository, task)) = parsed.task() {
            let name = repository.as_bytes();
            assert!(
                !name.starts_with(b"-") && name.split(|b| *b == b'/').all(|part| !part.starts_with(b"."))
            );
            assert!(task != Task::Git);
        }
    }
});
