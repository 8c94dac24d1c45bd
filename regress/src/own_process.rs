//! A test that changes something of its process has one of its own: the tests of a binary are
//! threads of one process, and share its limits, its namespaces and its open files.

use std::io::Write;
use std::process::Command;

use crate::run::run;

/// Tells a process that it is the one that a test asked for.
const INNER: &str = "GOTD_REGRESS_OWN_PROCESS";

/// Whether this process was started by [`again`], and so belongs to one test.
pub fn is_this() -> bool {
    std::env::var_os(INNER).is_some()
}

/// Runs one test of this binary again, in a process of its own, for at most this many seconds; its
/// failure is that of the caller. `module`: what `module_path!()` says. `through`: a program that
/// is given the test's command line behind its own arguments, and becomes that.
#[track_caller]
pub fn again(module: &str, test: &str, through: Option<Command>, seconds: u64) {
    // libtest knows a test by its path without the crate.
    let name = match module.split_once("::") {
        Some((_, module)) => format!("{module}::{test}"),
        None => test.to_owned(),
    };
    let executable = std::env::current_exe().expect("a running executable has a path");
    let mut command = match through {
        Some(mut through) => {
            through.arg(executable);
            through
        }
        None => Command::new(executable),
    };
    let done = run(command.args(["--exact", &name, "--nocapture"]).env(INNER, "1"), b"", seconds);
    // Past libtest's capture: what was seen is wanted of a run that passes, too.
    let mut said = std::io::stderr();
    let _ = said.write_all(&done.out).and_then(|()| said.write_all(done.err.as_bytes()));
    assert_eq!(done.status, 0, "{name}: failed in a process of its own");
    assert!(done.text().contains("1 passed"), "{name}: there is no such test");
}
