//! The number that tells builds apart (`build.rs`): equal for equal sources wherever they lie, and
//! another one for every other source.

#[allow(dead_code)]
#[path = "../build.rs"]
mod build;

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

/// The number of sources that are these files.
fn number(below: &Path, files: &[(&str, &str)]) -> u64 {
    for (name, text) in files {
        let path = below.join(name);
        fs::create_dir_all(path.parent().expect("below a directory")).expect("makes a directory");
        fs::write(path, text).expect("writes");
    }
    let mut hasher = DefaultHasher::new();
    build::add(below, below, &mut hasher).expect("reads");
    hasher.finish()
}

fn number_elsewhere(files: &[(&str, &str)]) -> u64 {
    number(tempfile::tempdir().expect("a directory").path(), files)
}

#[test]
fn equal_sources_have_one_number_and_others_another() {
    let files = [("a.rs", "one"), ("b/c.rs", "two")];
    let first = number_elsewhere(&files);
    // Made in another order, in a directory of another depth.
    let other = tempfile::tempdir().expect("a directory");
    let deeper = other.path().join("some/where else");
    fs::create_dir_all(&deeper).expect("makes a directory");
    assert_eq!(number(&deeper, &[files[1], files[0]]), first);
    for different in [
        [("a.rs", "onet"), ("b/c.rs", "wo")],
        [("a.rs", "one"), ("b/d.rs", "two")],
        [("a.rs", "one"), ("b.rs", "two")],
        [("a.rs", "two"), ("b/c.rs", "one")],
        [("a.rs", "one"), ("b/c.rs", "tw0")],
    ] {
        assert_ne!(number_elsewhere(&different), first, "{different:?}");
    }
    assert_ne!(number_elsewhere(&files[..1]), first);
}
