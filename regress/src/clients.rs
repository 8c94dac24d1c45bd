//! Clients that are not git, where the system has them.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The system's own Python: another one in PATH may lack Debian's packages.
const PYTHON: [&str; 2] = ["/usr/bin/python3", "python3"];

/// dulwich clones a repository and fetches from it again. Its arguments are a URL and a path; it
/// prints where HEAD leads.
pub const DULWICH_FETCH: &str = "\
import sys
from dulwich import client, repo
url, path = sys.argv[1:3]
c, name = client.get_transport_and_path(url)
r = repo.Repo.init_bare(path, mkdir=True)
result = c.fetch(name, r)
for ref, value in result.refs.items():
    if ref != b'HEAD' and not ref.endswith(b'^{}'):
        r.refs[ref] = value
r.refs.set_symbolic_ref(b'HEAD', result.symrefs[b'HEAD'])
again = c.fetch(name, r)
assert again.refs == result.refs
print(result.symrefs.get(b'HEAD', b'').decode())
";

/// A Python that has this module; says so if there is none. The program in `REGRESS_PYTHON` comes
/// first: an environment with newer clients than the system's.
pub fn python(module: &str) -> Option<&'static str> {
    static ASKED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("REGRESS_PYTHON").ok());
    let import = format!("import {module}");
    let mut all = ASKED.as_deref().into_iter().chain(PYTHON);
    let found = all.find(|python| runs(python, &["-c", &import]));
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
