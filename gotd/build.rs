//! Tells builds apart: parent and child compare the number at their greeting, so that an upgrade
//! never mixes two.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

/// What goes into the programs, seen from this crate.
const SOURCES: [&str; 6] =
    ["../Cargo.lock", "src", "../libgit/src", "../libproto/src", "../librepo/src", "../libsandbox/src"];

fn main() -> std::io::Result<()> {
    // The same sources give the same number, however they are linked and wherever they lie.
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        add(Path::new(source), &mut hasher)?;
    }
    let features = std::env::var_os("CARGO_FEATURE_ESCAPES").is_some();
    println!(
        "cargo::rustc-env=GOTD_BUILD={:016x}{}",
        hasher.finish(),
        if features { "-escapes" } else { "" }
    );
    Ok(())
}

fn add(path: &Path, hasher: &mut DefaultHasher) -> std::io::Result<()> {
    if !path.is_dir() {
        hasher.write(&std::fs::read(path)?);
        return Ok(());
    }
    let entries: std::io::Result<Vec<PathBuf>> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut entries = entries?;
    entries.sort();
    entries.iter().try_for_each(|entry| add(entry, hasher))
}
