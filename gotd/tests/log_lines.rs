//! gotd(8) has an entry for each line that the daemon can log.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The first argument behind each level in the daemon's source, where it is a word and not a
/// variable.
fn events(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for level in ["Error", "Warning", "Info", "Debug"] {
        for after in text.split(&format!("Level::{level}, ")).skip(1) {
            found.extend(word(after));
        }
        for after in text.split(&format!("Level::{level},\n")).skip(1) {
            found.extend(word(after.trim_start()));
        }
        for after in text.split(&format!("(Level::{level}, ")).skip(1) {
            found.extend(word(after));
        }
    }
    found
}

fn word(text: &str) -> Option<String> {
    let (word, _) = text.strip_prefix('"')?.split_once('"')?;
    Some(word.to_owned())
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn the_manual_has_every_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("../man/gotd.8")).unwrap();
    let (_, log) = manual.split_once("\n.Sh LOG\n").unwrap();
    let (log, _) = log.split_once("\n.Sh ").unwrap();
    let items = log.lines().filter_map(|line| line.strip_prefix(".It Li "));
    let told: BTreeSet<String> = items.flat_map(|item| item.split(" , ")).map(str::to_owned).collect();
    let mut said: BTreeSet<String> = ["session", "control"].map(str::to_owned).into();
    for path in sources(&root.join("src")) {
        said.extend(events(&std::fs::read_to_string(path).unwrap()));
    }
    assert!(said.len() >= 12, "{said:?}");
    for role in libproto::states::Role::STARTED {
        assert!(told.contains(role.name()), "{}", role.name());
    }
    assert_eq!(said.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new());
}
