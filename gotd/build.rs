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
        add(Path::new(source), Path::new(source), &mut hasher)?;
    }
    let features = std::env::var_os("CARGO_FEATURE_ESCAPES").is_some();
    println!(
        "cargo::rustc-env=GOTD_BUILD={:016x}{}",
        hasher.finish(),
        if features { "-escapes" } else { "" }
    );
    Ok(())
}

/// Adds a file, or all files below a directory in the order of their names. Name and length go with
/// each, so that bytes which move from the end of a file to the start of the next change the
/// number.
pub fn add(root: &Path, path: &Path, hasher: &mut DefaultHasher) -> std::io::Result<()> {
    if !path.is_dir() {
        let bytes = std::fs::read(path)?;
        let name = path.strip_prefix(root).unwrap_or(path).as_os_str().as_encoded_bytes();
        for part in [name, bytes.as_slice()] {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        return Ok(());
    }
    let entries: std::io::Result<Vec<PathBuf>> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut entries = entries?;
    entries.sort();
    entries.iter().try_for_each(|entry| add(root, entry, hasher))
}
