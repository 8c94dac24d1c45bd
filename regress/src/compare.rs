//! Is this clone the original, and is a repository what it was?

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Site;

/// Every object that the references reach, sorted, with their names.
pub fn objects(site: &Site, repository: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        site.git_in(repository, ["rev-list", "--objects", "--all"]).lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// Every reference with its type and, for a tag, what it points to.
pub fn references(site: &Site, repository: &Path) -> String {
    site.git_in(
        repository,
        ["for-each-ref", "--format=%(objectname) %(objecttype) %(*objectname) %(refname)"],
    )
}

/// Passes `git fsck --full --strict`.
#[track_caller]
pub fn assert_whole(site: &Site, repository: &Path) {
    let done = site.git([
        "-C".as_ref(),
        repository.as_os_str(),
        "fsck".as_ref(),
        "--full".as_ref(),
        "--strict".as_ref(),
        "--no-dangling".as_ref(),
    ]);
    assert_eq!((done.status, done.err.as_str()), (0, ""), "{}: {}", repository.display(), done.text());
}

/// A mirror has the same references and objects, and is whole.
#[track_caller]
pub fn assert_mirror(site: &Site, original: &Path, mirror: &Path) {
    assert_whole(site, mirror);
    assert_eq!(references(site, original), references(site, mirror));
    assert_eq!(objects(site, original), objects(site, mirror));
}

/// A clone has the same objects, the same tags, the original's branches below
/// `refs/remotes/origin`, and is whole.
#[track_caller]
pub fn assert_clone(site: &Site, original: &Path, clone: &Path) {
    assert_whole(site, clone);
    assert_eq!(objects(site, original), objects(site, clone));
    let branches = |repository: &Path, below: &str| {
        let depth = below.split('/').filter(|part| !part.is_empty()).count();
        let format = format!("--format=%(objectname) %(refname:lstrip={depth})");
        let text = site.git_in(repository, ["for-each-ref", &format, below]);
        text.lines().filter(|line| !line.ends_with(" HEAD")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(branches(original, "refs/heads/"), branches(clone, "refs/remotes/origin/"));
    assert_eq!(branches(original, "refs/tags/"), branches(clone, "refs/tags/"));
}

/// Whatever in a repository looks temporary, and packs without an index.
pub fn leftovers(repository: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![repository.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let temporary = name.starts_with("gotd-incoming-")
                || [".lock", ".new", ".keep"].iter().any(|end| name.ends_with(end))
                || name.starts_with("tmp_")
                || (name.ends_with(".pack") && !path.with_extension("idx").exists());
            if temporary {
                found.push(path.clone());
            }
            if path.is_dir() {
                stack.push(path);
            }
        }
    }
    found
}

/// What is told about one file: type and mode, owner, links, inode, size, time of change and
/// content.
type Entry = (u32, u32, u64, u64, u64, i64, i64, u64);

/// Every file below a directory with everything that a change would change.
pub fn listing(directory: &Path) -> BTreeMap<String, Entry> {
    let mut out = BTreeMap::new();
    list(directory, directory, &mut out);
    out
}

fn list(root: &Path, directory: &Path, out: &mut BTreeMap<String, Entry>) {
    for entry in fs::read_dir(directory).expect("lists").flatten() {
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).expect("stat");
        let mut hasher = DefaultHasher::new();
        if meta.is_file() {
            fs::read(&path).expect("reads").hash(&mut hasher);
        } else if meta.is_symlink() {
            fs::read_link(&path).expect("reads").hash(&mut hasher);
        }
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        let entry = (
            meta.mode(),
            meta.uid(),
            meta.nlink(),
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            hasher.finish(),
        );
        out.insert(name, entry);
        if meta.is_dir() {
            list(root, &path, out);
        }
    }
}
