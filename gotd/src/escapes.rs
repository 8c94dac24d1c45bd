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
use libsandbox::escape::{Outcome, make_all};

/// The directory of files and sockets that the attempts try to reach; the program `escape-targets`
/// fills it, outside of any sandbox.
pub const TARGETS: &str = "/tmp/gotd-escape-targets";

/// Stages of this process whose attempts have been made.
static DONE: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Makes every attempt, once in each stage of a process. `promises` are the promises of that stage.
pub fn attempt(role: &'static str, promises: Promises) {
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if done.contains(&role) {
        return;
    }
    done.push(role);
    let (mut refused, mut permitted, mut out) = (0, 0, 0);
    for (attempt, outcome) in make_all(Path::new(TARGETS)) {
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
