//! Opening the directories of one tree, one after the other, however deep they lie.
//!
//! The name of a reference may have a thousand components. A walk that held a descriptor for each
//! would run out of them, and one that began at the top for each directory would open half a
//! million. So the last directories on the way down stay open, and above these one in a few.

use std::borrow::Borrow;

use crate::dir::Dir;
use crate::error::Result;

/// How many of the last directories on the way stay open.
const NEAREST: usize = 16;
/// Which of those above stay open: each whose depth is a multiple of this.
const EVERY: usize = 32;

/// A place in a tree of directories, which moves from one directory to the next.
#[derive(Debug)]
pub(crate) struct Descent<D = Dir> {
    top: D,
    /// The directory that was asked for last, or as much of its path as there is.
    path: Vec<u8>,
    /// The directories on this path that are open, outermost first.
    open: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// How many components lead to it.
    depth: usize,
    /// The length of its path in bytes.
    end: usize,
    dir: Dir,
}

impl<D: Borrow<Dir>> Descent<D> {
    /// Begins at `top`, the directory that all paths are relative to.
    pub(crate) fn new(top: D) -> Descent<D> {
        Descent { top, path: Vec::new(), open: Vec::new() }
    }

    /// Opens the directory of this path, from the deepest one on the way that is still open; the
    /// empty path is the top. `None` if there is no such directory.
    ///
    /// # Errors
    /// Those of [`Dir::open_dir`].
    pub(crate) fn dir(&mut self, path: &[u8]) -> Result<Option<&Dir>> {
        let shared = shared(&self.path, path);
        while self.open.last().is_some_and(|level| level.end > shared) {
            self.open.pop();
        }
        let (mut depth, mut at) = self.open.last().map_or((0, 0), |level| (level.depth, level.end));
        self.path.truncate(at);
        while at < path.len() {
            let start = if at == 0 { 0 } else { at + 1 };
            let rest = path.get(start..).unwrap_or_default();
            let end = start + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            let Some(dir) = self.last().open_dir(&path[start..end])? else { return Ok(None) };
            (depth, at) = (depth + 1, end);
            self.path.extend_from_slice(&path[self.path.len()..end]);
            self.open.push(Level { depth, end, dir });
            self.close(depth);
        }
        Ok(Some(self.last()))
    }

    /// Closes all directories: they may have been removed since, and others made in their place.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
        self.path.clear();
    }

    /// The deepest directory that is open.
    fn last(&self) -> &Dir {
        self.open.last().map_or(self.top.borrow(), |level| &level.dir)
    }

    /// Closes the directory that has become too far away from one at `depth`.
    fn close(&mut self, depth: usize) {
        let far = depth.saturating_sub(NEAREST);
        if !far.is_multiple_of(EVERY)
            && let Ok(at) = self.open.binary_search_by_key(&far, |level| level.depth)
        {
            self.open.remove(at);
        }
    }
}

/// How many bytes of two paths are the same whole components.
fn shared(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let ends = |path: &[u8]| path.get(same).is_none_or(|&byte| byte == b'/');
    if ends(a) && ends(b) {
        return same;
    }
    a[..same].iter().rposition(|&byte| byte == b'/').unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn descent(top: &Path) -> Descent {
        Descent::new(Dir::new(fs::File::open(top).expect("opens").into(), ""))
    }

    /// The one name in a directory.
    fn inside(descent: &mut Descent, path: &str) -> Option<Vec<String>> {
        let dir = descent.dir(path.as_bytes()).expect("opens")?;
        let mut names: Vec<String> = dir
            .entries(10)
            .expect("reads")
            .into_iter()
            .map(|(name, _)| String::from_utf8(name).expect("a name"))
            .collect();
        names.sort();
        Some(names)
    }

    #[test]
    fn whole_components_are_shared() {
        for (a, b, bytes) in [
            ("", "", 0),
            ("", "a", 0),
            ("a", "a", 1),
            ("a", "b", 0),
            ("a/b", "a/b/c", 3),
            ("a/b", "a/bc", 1),
            ("a/bc/d", "a/b", 1),
            ("ab/c", "a/c", 0),
            ("a/b/c", "a/b/d", 3),
        ] {
            assert_eq!(shared(a.as_bytes(), b.as_bytes()), bytes, "{a} {b}");
        }
    }

    #[test]
    fn few_directories_are_open_however_deep_it_goes() {
        let top = tempfile::tempdir().expect("a directory");
        // Each level has a second directory beside the one that leads on.
        let path = |depth: usize| vec!["d"; depth].join("/");
        fs::create_dir_all(top.path().join(path(1000))).expect("makes");
        for depth in 0..1000 {
            fs::create_dir(top.path().join(path(depth)).join("e")).expect("makes");
        }
        let mut descent = descent(top.path());
        for depth in (0..=1000).chain((0..1000).rev()) {
            let want: &[&str] = if depth == 1000 { &[] } else { &["d", "e"] };
            assert_eq!(inside(&mut descent, &path(depth)).expect("is there"), want, "{depth}");
            assert!(descent.open.len() <= 1000 / EVERY + NEAREST + 1, "{}", descent.open.len());
        }
        for depth in (0..1000).rev() {
            let beside = [path(depth), "e".into()].concat().replace("de", "d/e");
            assert_eq!(inside(&mut descent, &beside), Some(vec![]), "{depth}");
        }
        assert_eq!(inside(&mut descent, "d/e/none"), None);
        assert_eq!(inside(&mut descent, "d/none/d"), None);
        assert_eq!(inside(&mut descent, "d/d"), Some(vec!["d".into(), "e".into()]));
    }
}
