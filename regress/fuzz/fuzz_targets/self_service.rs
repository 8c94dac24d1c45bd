//! What users of a shared account ask for through ssh without git: a line is a command whose words
//! are clean, or none.
#![no_main]
use gotd::session::role::command;
use libfuzzer_sys::fuzz_target;
use libproto::message::parent::{ShellCommand, Task};

fuzz_target!(|data: &[u8]| {
    for word in [b"".as_slice(), b"info ", b"head a ", b"describe a "] {
        let line = [word, data].concat();
        let Some(parsed) = command(line.trim_ascii()) else { continue };
        // Said once more in the only way there is to say it, it is the same.
        let again = match &parsed {
            ShellCommand::Greet => Vec::new(),
            ShellCommand::List => b"list".to_vec(),
            ShellCommand::Info(repository) => [b"info ", repository.as_bytes()].concat(),
            ShellCommand::Head(repository, branch) => {
                let branch = branch.as_bytes().strip_prefix(b"refs/heads/").expect("a branch");
                [b"head ", repository.as_bytes(), b" ", branch].concat()
            }
            ShellCommand::Describe(repository, text) => {
                [b"describe ", repository.as_bytes(), b" ", text.as_bytes()].concat()
            }
        };
        assert!(!again.iter().any(u8::is_ascii_control), "{parsed:?}");
        assert_eq!(command(&again), Some(parsed.clone()));
        if let Some((repository, task)) = parsed.task() {
            let name = repository.as_bytes();
            assert!(
                !name.starts_with(b"-") && name.split(|b| *b == b'/').all(|part| !part.starts_with(b"."))
            );
            assert!(task != Task::Git);
        }
    }
});
