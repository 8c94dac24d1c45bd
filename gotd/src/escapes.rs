//! Tries to get out of each role's sandbox, in the real process, where the first message about a
//! client is handled.
//!
//! Only with the feature `escapes`, with which no binary may be installed: there the filter lets a
//! forbidden call fail instead of ending the process, so that one process can try everything. The
//! lines go to standard error, which the parent logs; `regress/tests/process/escapes.rs` reads
//! them.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use libsandbox::Promises;
use libsandbox::escape::{Attempt, IN_REPOSITORY, NAMES_IN_REPOSITORY, Outcome, make_all, make_each};

/// The directory of files and sockets that the attempts try to reach; the program `escape-targets`
/// fills it, outside of any sandbox.
pub const TARGETS: &str = "/tmp/gotd-escape-targets";

/// Stages of this process whose attempts have been made.
static DONE: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Makes every attempt, once in each stage of a process. `promises` are the promises of that stage.
pub fn attempt(role: &'static str, promises: Promises) {
    if is_first(role) {
        tell(role, promises, make_all(Path::new(TARGETS)));
    }
}

/// Makes the attempts on the repository that a process may write in, once in each stage.
/// `makes_names`: the process makes and removes names of files everywhere there.
pub fn attempt_in(role: &'static str, repository: &Path, makes_names: bool) {
    if is_first(role) {
        let names = if makes_names { &[] } else { NAMES_IN_REPOSITORY };
        let mut made = make_each(IN_REPOSITORY, repository);
        made.extend(make_each(names, repository));
        tell(role, Promises::NONE, made);
    }
}

fn is_first(role: &'static str) -> bool {
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let first = !done.contains(&role);
    done.push(role);
    first
}

fn tell(role: &str, promises: Promises, made: Vec<(&Attempt, Outcome)>) {
    let (mut refused, mut permitted, mut out) = (0, 0, 0);
    for (attempt, outcome) in made {
        match outcome {
            Outcome::Succeeded if attempt.may_succeed(promises) => permitted += 1,
            Outcome::Succeeded => {
                out += 1;
                eprintln!("escape {role}: {}: SUCCEEDED", attempt.name);
            }
            _ => refused += 1,
        }
    }
    eprintln!("escapes of {role}: {refused} refused, {permitted} promised, {out} out");
}
