//! Fills the directory that the attempts of the feature `escapes` aim at, and keeps its sockets
//! open until its standard input ends.

use std::io::Read;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let _targets = libsandbox::escape::Targets::prepare(Path::new(gotd::escapes::TARGETS))?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    std::fs::remove_dir_all(gotd::escapes::TARGETS)
}
