//! Object directories that a repository borrows from (`objects/info/alternates`, `gitrepository-layout`).
//!
//! An alternates file is part of a repository, and so may be written by somebody who should not be able to make the
//! server read other places (CVE-2022-39253 and its kin). It is followed only into roots that the administrator named,
//! from each root's own descriptor, through no symbolic link. All of this happens before a process narrows its sandbox:
//! [`resolve`] gives open directories, the sandbox gets a rule for each, and
//! [`Options::alternates`](crate::repository::Options) takes them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crate::beneath::Dir;
use crate::error::{Error, Result};

/// How many alternates may lead from one to the next, as with C git.
pub const MAX_DEPTH: usize = 5;
/// How many object directories one repository may borrow from.
pub const MAX_ALTERNATES: usize = 64;
/// The largest alternates file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A directory that alternates may lie in.
#[derive(Clone, Copy, Debug)]
pub struct Root<'a> {
    /// Its path as alternates files name it: absolute, without `.` and `..`.
    pub path: &'a Path,
    /// It itself, opened.
    pub dir: BorrowedFd<'a>,
}

/// An object directory to borrow from.
#[derive(Debug)]
pub struct Alternate {
    /// Its path, for the log.
    pub path: PathBuf,
    /// It itself, opened.
    pub dir: OwnedFd,
}

/// What a repository borrows from.
#[derive(Debug, Default)]
pub struct Alternates {
    /// The directories, in the order in which objects are looked for.
    pub dirs: Vec<Alternate>,
    /// Those that were passed over, with the reason, for the log.
    pub refused: Vec<(PathBuf, String)>,
}

/// Resolves the alternates of an objects directory, those of its alternates included. `path` is where `objects` lies
/// (absolute, without symbolic links, `.` or `..` below its root), for the sake of relative lines.
///
/// A line that leads outside of the roots or nowhere, through a symbolic link, in a circle or too deep is passed over
/// and told in [`Alternates::refused`]. Errors are only those of the repository's own file.
pub fn resolve(objects: BorrowedFd<'_>, path: &Path, roots: &[Root<'_>]) -> Result<Alternates> {
    let own = objects.try_clone_to_owned().map_err(|e| Error::Open("objects".into(), e))?;
    let mut found = Alternates::default();
    let mut seen = vec![identity(objects)];
    follow(&Dir::new(own, "objects"), path, roots, 0, &mut seen, &mut found)?;
    Ok(found)
}

fn identity(dir: BorrowedFd<'_>) -> Option<(u64, u64)> {
    // The types of the two numbers differ between systems.
    #[allow(clippy::unnecessary_cast, reason = "not u64 everywhere")]
    nix::sys::stat::fstat(dir).ok().map(|stat| (stat.st_dev as u64, stat.st_ino as u64))
}

fn follow(
    objects: &Dir,
    path: &Path,
    roots: &[Root<'_>],
    depth: usize,
    seen: &mut Vec<Option<(u64, u64)>>,
    found: &mut Alternates,
) -> Result<()> {
    let Some(text) = objects.read(b"info/alternates", MAX_FILE)? else { return Ok(()) };
    for line in parse(&text) {
        let Some(line) = line else {
            found.refuse(PathBuf::new(), "bad quotes");
            continue;
        };
        let name = Path::new(std::ffi::OsStr::from_bytes(&line)).to_owned();
        if depth >= MAX_DEPTH {
            found.refuse(name, "alternates nested too deep");
            continue;
        }
        if found.dirs.len() >= MAX_ALTERNATES || found.refused.len() >= MAX_ALTERNATES {
            return Ok(());
        }
        let Some(target) = normalise(&path.join(&name)) else {
            found.refuse(name, "path that leads above the root directory");
            continue;
        };
        let dir = match open(&target, roots) {
            Ok(dir) => dir,
            Err(why) => {
                found.refuse(target, &why);
                continue;
            }
        };
        let which = identity(dir.as_fd());
        // Told twice or in a circle: once is enough.
        if which.is_none() || seen.contains(&which) {
            continue;
        }
        seen.push(which);
        let copy = dir.try_clone();
        match dir.as_fd().try_clone_to_owned() {
            Ok(fd) => found.dirs.push(Alternate { path: target.clone(), dir: fd }),
            Err(e) => {
                found.refuse(target, &e.to_string());
                continue;
            }
        }
        let deeper = copy.and_then(|dir| follow(&dir, &target, roots, depth + 1, seen, found));
        if let Err(why) = deeper {
            found.refuse(target, &why.to_string());
        }
    }
    Ok(())
}

impl Alternates {
    fn refuse(&mut self, path: PathBuf, why: &str) {
        if self.refused.len() < MAX_ALTERNATES {
            self.refused.push((path, why.to_owned()));
        }
    }
}

/// Opens a directory below the root that its path names.
fn open(target: &Path, roots: &[Root<'_>]) -> std::result::Result<Dir, String> {
    let mut why = "outside of the configured roots".to_owned();
    for root in roots {
        let Ok(below) = target.strip_prefix(root.path) else { continue };
        let dir = root.dir.try_clone_to_owned().map_err(|e| e.to_string())?;
        let dir = Dir::new(dir, root.path);
        if below.as_os_str().is_empty() {
            return Ok(dir);
        }
        match dir.open_dir(below.as_os_str().as_bytes()) {
            Ok(Some(dir)) => return Ok(dir),
            Ok(None) => why = "no such directory".to_owned(),
            Err(e) => why = e.to_string(),
        }
    }
    Err(why)
}

/// An absolute path without `.`, `..` and doubled slashes; `None` if it is not absolute or leads above `/`.
fn normalise(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir => plain.push("/"),
            Component::CurDir => {}
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                if !plain.pop() {
                    return None;
                }
            }
            Component::Prefix(_) => return None,
        }
    }
    plain.is_absolute().then_some(plain)
}

/// The lines of an alternates file: comments left out, quotes taken off; `None` for one with bad quotes.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Option<Vec<u8>>> + '_ {
    let lines = text.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).map(|line| {
        match line.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted),
            None => Some(line.to_vec()),
        }
    })
}

/// Undoes C git's quoting, after the opening quote.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut bytes = text.iter().copied();
    loop {
        match bytes.next()? {
            b'"' => return bytes.next().is_none().then_some(plain),
            b'\\' => plain.push(match bytes.next()? {
                b'a' => 7,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                byte @ (b'\\' | b'"') => byte,
                high @ b'0'..=b'3' => {
                    let mut digit =
                        || bytes.next().filter(|digit| (b'0'..=b'7').contains(digit)).map(|d| d - b'0');
                    ((high - b'0') << 6) | (digit()? << 3) | digit()?
                }
                _ => return None,
            }),
            byte => plain.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn open_dir(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    /// The alternates of `root/a/objects`, as names below `root`, and the number refused.
    fn names(root: &Path) -> (Vec<String>, usize) {
        let (dir, objects) = (open_dir(root), root.join("a/objects"));
        let roots = [Root { path: root, dir: dir.as_fd() }];
        let found = resolve(open_dir(&objects).as_fd(), &objects, &roots).unwrap();
        let name = |other: Alternate| other.path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (found.dirs.into_iter().map(name).collect(), found.refused.len())
    }

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap().join("root");
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            fs::create_dir_all(root.join(name).join("objects/info")).unwrap();
        }
        fs::create_dir_all(temp.path().join("outside/objects")).unwrap();
        (temp, root)
    }

    fn write(root: &Path, of: &str, text: &str) {
        fs::write(root.join(of).join("objects/info/alternates"), text).unwrap();
    }

    #[test]
    fn relative_absolute_and_quoted_lines_are_followed() {
        let (_temp, root) = tree();
        write(
            &root,
            "a",
            &format!(
                "# comment\n../../b/objects\n{}\n\"../../\\144/objects\"\n",
                root.join("c/objects").display()
            ),
        );
        write(&root, "c", "../../e/objects/\n");
        assert_eq!(
            names(&root),
            (["b/objects", "c/objects", "e/objects", "d/objects"].map(str::to_owned).to_vec(), 0)
        );
    }

    #[test]
    fn circles_and_repetitions_end() {
        let (_temp, root) = tree();
        write(&root, "a", "../../b/objects\n../../b/objects\n../objects\n");
        write(&root, "b", "../../c/objects\n");
        write(&root, "c", "../../a/objects\n../../b/objects\n");
        assert_eq!(names(&root), (["b/objects", "c/objects"].map(str::to_owned).to_vec(), 0));
    }

    #[test]
    fn the_sixth_level_is_refused() {
        let (_temp, root) = tree();
        for (from, to) in ["a", "b", "c", "d", "e", "f"].iter().zip(["b", "c", "d", "e", "f", "g"]) {
            write(&root, from, &format!("../../{to}/objects\n"));
        }
        let (dirs, refused) = names(&root);
        assert_eq!((dirs.len(), refused), (5, 1));
    }

    #[test]
    fn nothing_outside_of_the_roots() {
        let (_temp, root) = tree();
        let outside = root.parent().unwrap().join("outside");
        symlink(&outside, root.join("link")).unwrap();
        symlink(outside.join("objects"), root.join("d/objects/out")).unwrap();
        for line in [
            "../../../outside/objects",
            "../../link/objects",
            "../../d/objects/out",
            "../../link",
            outside.join("objects").to_str().unwrap(),
            "../../../../../../../../../../../../etc",
            "../../b/../../outside/objects",
            "../../none/objects",
            "\"../../b/objects",
            "a\0b",
        ] {
            write(&root, "a", line);
            assert_eq!(names(&root), (vec![], 1), "{line}");
        }
    }
}
