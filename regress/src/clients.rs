//! Clients that are not git, where the system has them.

use std::process::{Command, Stdio};

/// The system's own Python: another one in PATH may lack Debian's packages.
const PYTHON: [&str; 2] = ["/usr/bin/python3", "python3"];

/// A Python that has this module; says so if there is none.
pub fn python(module: &str) -> Option<&'static str> {
    let import = format!("import {module}");
    let found = PYTHON.into_iter().find(|python| runs(python, &["-c", &import]));
    if found.is_none() {
        crate::skipped(&format!("needs python3-{module}"));
    }
    found
}

/// gitoxide's client; says so if there is none.
pub fn gix() -> Option<&'static str> {
    let found = Some("gix").filter(|gix| runs(gix, &["--version"]));
    if found.is_none() {
        crate::skipped("needs gix (cargo install gitoxide) in PATH");
    }
    found
}

/// Whether a program is there and ends well.
fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
