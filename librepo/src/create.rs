//! A new, empty repository, as `git init --bare` makes it without templates.

use crate::error::{Error, Result};
use crate::fs_ops::Fs;

/// Directories, each behind the one that holds it.
const DIRS: [&str; 6] = ["objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"];
/// Files and what they hold.
const FILES: [(&str, &str); 3] = [
    ("HEAD", "ref: refs/heads/main\n"),
    ("config", "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"),
    ("description", "Unnamed repository; edit this file 'description' to name the repository.\n"),
];
/// How deep a tree is that [`remove_tree`] removes, and how many names a directory in it may have:
/// far more than [`empty`] makes.
const DEPTH: usize = 8;
const ENTRIES: usize = 1000;

/// Makes an empty repository in `at`, which must not exist, for objects with SHA-1 ids. When this
/// returns all of it is on the disk but the name `at` itself.
pub fn empty(fs: &Fs, at: &[u8]) -> Result<()> {
    if !fs.make_dir(at)? {
        return Err(Error::Limit(format!("{}: is there already", String::from_utf8_lossy(at))));
    }
    let path = |name: &str| [at, b"/", name.as_bytes()].concat();
    for dir in DIRS {
        fs.make_dir(&path(dir))?;
    }
    for (name, text) in FILES {
        let path = path(name);
        let file = fs.create(&path, 0o666)?;
        fs.append(&file, &path, text.as_bytes())?;
        fs.sync_file(&file, &path)?;
    }
    for dir in DIRS.iter().rev() {
        fs.sync_dir(&path(dir))?;
    }
    fs.sync_dir(at)
}

/// Removes a directory and everything in it, without following a symbolic link. Nothing is left
/// undone silently: what cannot be removed is an error, and a tree of another shape than [`empty`]
/// makes is one too.
pub fn remove_tree(fs: &Fs, at: &[u8]) -> Result<()> {
    remove(fs, at, DEPTH)
}

fn remove(fs: &Fs, at: &[u8], depth: usize) -> Result<()> {
    let shown = || String::from_utf8_lossy(at).into_owned();
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::Limit(format!("{}: too deep to be removed", shown())));
    };
    for (name, is_dir) in fs.list(at, ENTRIES)? {
        let path = [at, b"/", &name].concat();
        if is_dir {
            remove(fs, &path, depth)?;
        } else {
            fs.remove(&path)?;
        }
    }
    if fs.remove_dir(at)? || fs.stat(at)?.is_none() {
        return Ok(());
    }
    Err(Error::Limit(format!("{}: cannot be removed", shown())))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::Command;
    use std::rc::Rc;

    use super::*;
    use crate::config::Shared;
    use crate::fs_ops::Op;

    fn fs(dir: &Path) -> Fs {
        Fs::new(std::fs::File::open(dir).unwrap().into(), Shared::Umask)
    }

    /// Names below a directory, with modes.
    fn listing(dir: &Path, prefix: &str) -> BTreeSet<(String, u32)> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                found.extend(listing(&entry.path(), &format!("{name}/")));
            }
            found.insert((name, meta.permissions().mode()));
        }
        found
    }

    #[test]
    fn it_is_what_git_makes() {
        let dir = tempfile::tempdir().unwrap();
        empty(&fs(dir.path()), b"ours.git").unwrap();
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.current_dir(dir.path()).args(arguments);
            let done = command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir.path()).output().unwrap();
            assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8(done.stdout).unwrap()
        };
        git(&["init", "-q", "--bare", "--template=", "--initial-branch=main", "gits.git"]);
        let mut gits = listing(&dir.path().join("gits.git"), "");
        let ours = listing(&dir.path().join("ours.git"), "");
        let description: BTreeSet<_> = ours.difference(&gits).cloned().collect();
        assert_eq!(description.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["description"]);
        gits.extend(description);
        assert_eq!(ours, gits);
        for name in ["HEAD", "config"] {
            let read = |of: &str| std::fs::read_to_string(dir.path().join(of).join(name)).unwrap();
            assert_eq!(read("ours.git"), read("gits.git"), "{name}");
        }
        git(&["-C", "ours.git", "fsck", "--strict"]);
    }

    /// Before the caller gives it its name nothing of it may be missing after a power cut.
    #[test]
    fn everything_is_on_the_disk_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let ops = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&ops);
        let fs = fs(dir.path()).observed(Box::new(move |op| seen.borrow_mut().push(op.clone())));
        empty(&fs, b"x").unwrap();
        let ops = ops.borrow();
        let last = |wanted: &Op| ops.iter().rposition(|op| op == wanted);
        let holder = |path: &[u8]| path.iter().rposition(|b| *b == b'/').map(|at| path[..at].to_vec());
        let mut made = 0;
        for (at, op) in ops.iter().enumerate() {
            match op {
                Op::Create(path) | Op::MakeDir(path) => {
                    made += 1;
                    let Some(dir) = holder(path) else { continue };
                    assert!(last(&Op::SyncDir(dir)) > Some(at), "{op:?}: its name");
                }
                Op::Append(path, _) => assert!(last(&Op::SyncFile(path.clone())) > Some(at), "{op:?}"),
                _ => {}
            }
        }
        assert_eq!(made, 1 + DIRS.len() + FILES.len());
    }

    #[test]
    fn a_tree_is_removed_and_what_its_links_lead_to_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let fs = fs(dir.path());
        empty(&fs, b"x").unwrap();
        assert!(empty(&fs, b"x").is_err());
        std::fs::create_dir(dir.path().join("kept")).unwrap();
        std::fs::write(dir.path().join("kept/file"), "").unwrap();
        std::os::unix::fs::symlink("../kept", dir.path().join("x/link")).unwrap();
        remove_tree(&fs, b"x").unwrap();
        assert!(!dir.path().join("x").exists() && dir.path().join("kept/file").exists());
        remove_tree(&fs, b"x").unwrap();
        std::fs::create_dir_all(dir.path().join("deep/1/2/3/4/5/6/7/8/9")).unwrap();
        assert!(remove_tree(&fs, b"deep").is_err());
    }
}
