//! Where a place is: a path walked from `/`, one component after the other.
//!
//! A user who can write a directory can put a symbolic link in place of a component, and so make a
//! path lead to anything that the repositories' owner may read. So the kernel never resolves more
//! than one component here. Links are read by this code: a link is followed only where only root or
//! the repositories' owner can have put it.
//!
//! A directory is *trusted* if root or the repositories' owner owns it and neither group nor others
//! may write to it (an access control list shows in the group's bits). The first directory of a
//! path that is not trusted, and all that is below it, is *foreign*: there no link is followed and
//! no mount point crossed. A directory's facts are only those that the kernel has already, because
//! the server of a user's file system in user space may never answer.
//!
//! A mount point in a trusted directory may still belong to a user: a user can mount a file system
//! in user space on a directory of their own, and its server chooses the owner that it shows. The
//! kernel knows which user mounted it.
//!
//! The path as it was walked has no links, and is what a place is known by. Of inodes that cannot
//! be said: file systems use them again, and some change them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{open, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::dir::EntryType;
use crate::mounts::{DIRECTORY, ENTRY, Facts, Look, Mount, MountedBy, facts, mounted_by};

pub use crate::mounts::Permissions;

/// Symbolic links on the way to one place, as in the kernel's own walk.
pub const MOST_LINKS: usize = 40;
/// Directories on the way to one place, each of which is held open for a `..` in a link.
const MOST_LEVELS: usize = 256;
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Whose directories are trusted, besides root's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The user that the daemon works as.
    pub uid: u32,
}

impl Trust {
    /// The user of this process.
    #[must_use]
    pub fn of_process() -> Trust {
        Trust { uid: nix::unistd::geteuid().as_raw() }
    }

    fn covers(self, facts: &Facts) -> bool {
        (facts.uid == 0 || facts.uid == self.uid) && facts.mode & OTHERS_WRITE == 0
    }
}

/// The first directory on the way to a place that others than root and the repositories' owner may
/// change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its path, as walked.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its permissions.
    pub mode: u32,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (owner {}, mode {:04o})", self.path.display(), self.uid, self.mode)
    }
}

/// A directory's inode. One that gets the number of a removed directory was made at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 where the file system does not say.
    pub born: u64,
}

/// A place that is there.
#[derive(Debug)]
pub struct Walked {
    /// The directory (`O_PATH`).
    pub directory: OwnedFd,
    /// The path as it was walked: absolute, without links, `.` and `..`.
    pub path: PathBuf,
    /// Where the part begins that others may change.
    pub foreign: Option<Foreign>,
    /// Which directory it is.
    pub inode: Inode,
    mount: Mount,
    mount_point: bool,
    trust: Trust,
    permissions: Permissions,
    /// The directories that the walk came through, the last one first.
    above: Vec<Passed>,
}

/// A directory that a walk came through.
#[derive(Clone, Copy, Debug)]
struct Passed {
    inode: Inode,
    permissions: Permissions,
}

/// A place that the walk did not get to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The last directory that the walk got to.
    pub exists: PathBuf,
    /// What is behind it: of plain names, with links as they are in the path.
    pub rest: PathBuf,
    /// Where the part begins that others may change, as far as the walk got.
    pub foreign: Option<Foreign>,
    /// Why the walk ended.
    pub why: Why,
}

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is nothing of this name.
    Absent,
    /// Something of this name is no directory.
    NotADirectory,
    /// A symbolic link where none is followed.
    Link,
    /// A mount point where none is crossed.
    Mount,
    /// The mount point of somebody's file system in user space.
    UserSpace,
    /// More than [`MOST_LINKS`] symbolic links.
    TooManyLinks,
    /// The system refused.
    System(Errno),
}

impl Stopped {
    /// The place all the same: what exists of it and the rest. It is found there if it comes to be.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        if self.rest.as_os_str().is_empty() { self.exists.clone() } else { self.exists.join(&self.rest) }
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let next = self.rest.iter().next().unwrap_or_default();
        let at = self.exists.join(next);
        write!(f, "{}: {}", at.display(), self.why)?;
        match (&self.foreign, self.why) {
            (Some(foreign), Why::Link | Why::Mount) => write!(f, " in or below {foreign}"),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Absent => "no such directory",
            Why::NotADirectory => "not a directory",
            Why::Link => "symbolic link, which is not followed",
            Why::Mount => "mount point, which is not crossed",
            Why::UserSpace => "file system in user space that root has not mounted, which is not entered",
            Why::TooManyLinks => return write!(f, "more than {MOST_LINKS} symbolic links"),
            Why::System(errno) => errno.desc(),
        })
    }
}

/// A directory on the way.
struct Step {
    directory: OwnedFd,
    name: Vec<u8>,
    facts: Facts,
    foreign: Option<Foreign>,
    mount_point: bool,
    /// It lies behind a mount whose user the kernel does not tell. No link is followed there.
    doubtful: bool,
}

impl Step {
    fn inode(&self) -> Inode {
        let Facts { device, inode, born, .. } = self.facts;
        Inode { device, inode, born }
    }

    fn passed(&self) -> Passed {
        Passed { inode: self.inode(), permissions: self.facts.permissions() }
    }

    fn mount(&self) -> Mount {
        self.facts.mounted()
    }
}

/// What a component is.
enum Next {
    Step(Step),
    Link(Vec<u8>),
}

/// Walks to a place.
///
/// # Errors
/// The place is not there, or its path leads through something that is not walked through. What
/// exists of it is told all the same.
pub fn walk(path: &Path, trust: Trust) -> Result<Walked, Stopped> {
    let mut pending: VecDeque<Vec<u8>> = components(path.as_os_str().as_bytes()).collect();
    let mut steps: Vec<Step> = Vec::new();
    let mut links = 0usize;
    let stop = |steps: &[Step], name: Option<Vec<u8>>, pending: VecDeque<Vec<u8>>, why| Stopped {
        exists: path_of(steps),
        rest: plain(name.into_iter().chain(pending)),
        foreign: steps.last().and_then(|step| step.foreign.clone()),
        why,
    };
    if !path.is_absolute() {
        return Err(stop(&steps, None, pending, Why::System(Errno::EINVAL)));
    }
    match top(trust) {
        Ok(step) => steps.push(step),
        Err(errno) => return Err(stop(&steps, None, pending, Why::System(errno))),
    }
    while let Some(name) = pending.pop_front() {
        if name == b".." {
            // Goes back to the directory that the walk came from, even if the present one was moved
            // meanwhile.
            if steps.len() > 1 {
                steps.pop();
            }
            continue;
        }
        let next = match steps.last() {
            Some(_) if steps.len() > MOST_LEVELS => Err(Why::System(Errno::ENAMETOOLONG)),
            Some(here) => enter(here, &name, trust, &|| path_of(&steps)),
            None => Err(Why::Absent),
        };
        match next {
            Ok(Next::Step(step)) => steps.push(step),
            Ok(Next::Link(target)) => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(stop(&steps, Some(name), pending, Why::TooManyLinks));
                }
                if target.starts_with(b"/") {
                    steps.truncate(1);
                }
                for component in components(&target).collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(component);
                }
            }
            Err(why) => return Err(stop(&steps, Some(name), pending, why)),
        }
    }
    let path = path_of(&steps);
    match steps.pop() {
        Some(step) => Ok(Walked::of(step, path, trust, steps.iter().rev().map(Step::passed).collect())),
        None => Err(stop(&steps, None, pending, Why::Absent)),
    }
}

impl Walked {
    fn of(step: Step, path: PathBuf, trust: Trust, above: Vec<Passed>) -> Walked {
        let (mount, mount_point) = (step.mount(), step.mount_point);
        let Passed { inode, permissions } = step.passed();
        Walked {
            directory: step.directory,
            path,
            foreign: step.foreign,
            inode,
            mount,
            mount_point,
            trust,
            permissions,
            above,
        }
    }

    /// Whether something is mounted there.
    #[must_use]
    pub fn is_mount_point(&self) -> bool {
        self.mount_point
    }

    /// The directory of this name in this one. A link is none, whoever owns this directory.
    ///
    /// # Errors
    /// As for [`walk`]. `name` is one plain component.
    pub fn child(&self, name: &[u8]) -> Result<Walked, Why> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(Why::Absent);
        }
        let above = Above {
            directory: &self.directory,
            foreign: self.foreign.as_ref(),
            mount: self.mount,
            doubtful: true,
        };
        match enter_above(&above, name, self.trust, &|| self.path.clone())? {
            Next::Step(step) => {
                let path = self.path.join(OsStr::from_bytes(name));
                Ok(Walked::of(step, path, self.trust, self.passed().collect()))
            }
            Next::Link(_) => Err(Why::Link),
        }
    }

    /// The type of this name in this directory; `None`: there is nothing, or it lies behind a mount
    /// point that others may have made, whose file system may never answer.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<EntryType> {
        self.look().at(&self.directory, name).ok()
    }

    /// How entries of this directory are opened: anywhere, or only on its own mount where others
    /// may have mounted something.
    #[must_use]
    pub fn look(&self) -> Look {
        Look::only(self.foreign.is_some().then_some(self.mount))
    }

    /// A look at entries of the same mount only: entries behind any mount point count as absent.
    #[must_use]
    pub fn look_here(&self) -> Look {
        Look::only(Some(self.mount))
    }

    /// Whether there is something of this name in this directory, whatever it is.
    #[must_use]
    pub fn is_taken(&self, name: &[u8]) -> bool {
        openat(&self.directory, name, ENTRY, Mode::empty()).err() != Some(Errno::ENOENT)
    }

    /// This directory, the directory that the walk came from, and so on up to the root.
    #[must_use]
    pub fn directories(&self) -> Vec<Inode> {
        self.passed().map(|passed| passed.inode).collect()
    }

    /// Owner and mode of the same directories, as they were during the walk. Asked by path later,
    /// another directory could answer, or the server of a file system mounted meanwhile, which may
    /// never do so.
    #[must_use]
    pub fn permissions(&self) -> Vec<Permissions> {
        self.passed().map(|passed| passed.permissions).collect()
    }

    fn passed(&self) -> impl Iterator<Item = Passed> + '_ {
        let own = Passed { inode: self.inode, permissions: self.permissions };
        [own].into_iter().chain(self.above.iter().copied())
    }

    /// The same place with a second descriptor for its directory.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> std::io::Result<Walked> {
        let directory = self.directory.try_clone()?;
        let (path, foreign, above) = (self.path.clone(), self.foreign.clone(), self.above.clone());
        Ok(Walked { directory, path, foreign, above, ..*self })
    }
}

/// A directory that something is looked for in.
struct Above<'d> {
    directory: &'d OwnedFd,
    foreign: Option<&'d Foreign>,
    mount: Mount,
    doubtful: bool,
}

fn enter(here: &Step, name: &[u8], trust: Trust, path: &dyn Fn() -> PathBuf) -> Result<Next, Why> {
    let above = Above {
        directory: &here.directory,
        foreign: here.foreign.as_ref(),
        mount: here.mount(),
        doubtful: here.doubtful,
    };
    enter_above(&above, name, trust, path)
}

/// Goes to one component of a directory whose path is `path`, or reads it if it is a link that may
/// be followed.
fn enter_above(
    above: &Above<'_>,
    name: &[u8],
    trust: Trust,
    path: &dyn Fn() -> PathBuf,
) -> Result<Next, Why> {
    let directory = match openat(above.directory, name, DIRECTORY, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return Err(Why::Absent),
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            return match readlinkat(above.directory, name) {
                Ok(_) if above.foreign.is_some() || above.doubtful => Err(Why::Link),
                Ok(target) => Ok(Next::Link(target.as_bytes().to_vec())),
                Err(Errno::ENOENT) => Err(Why::Absent),
                Err(Errno::EINVAL) => Err(Why::NotADirectory),
                Err(errno) => Err(Why::System(errno)),
            };
        }
        Err(errno) => return Err(Why::System(errno)),
    };
    let facts = facts(directory.as_fd()).map_err(Why::System)?;
    let mount = facts.mounted();
    let mount_point = !mount.is(above.mount);
    let by = if mount_point && above.foreign.is_none() { mounted_by(&facts) } else { MountedBy::Root };
    let foreign = match above.foreign {
        Some(_) if mount_point => return Err(Why::Mount),
        None if by == MountedBy::User => return Err(Why::UserSpace),
        Some(foreign) => Some(foreign.clone()),
        None if trust.covers(&facts) => None,
        None => {
            let path = path().join(OsStr::from_bytes(name));
            Some(Foreign { path, uid: facts.uid, mode: facts.mode & 0o7777 })
        }
    };
    let doubtful = above.doubtful || by == MountedBy::NotKnown;
    Ok(Next::Step(Step { directory, name: name.to_vec(), facts, foreign, mount_point, doubtful }))
}

/// The directory at the top.
fn top(trust: Trust) -> Result<Step, Errno> {
    let directory = open("/", DIRECTORY, Mode::empty())?;
    let facts = facts(directory.as_fd())?;
    let foreign = (!trust.covers(&facts)).then(|| Foreign {
        path: "/".into(),
        uid: facts.uid,
        mode: facts.mode & 0o7777,
    });
    Ok(Step { directory, name: Vec::new(), facts, foreign, mount_point: true, doubtful: false })
}

fn path_of(steps: &[Step]) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(steps.iter().skip(1).map(|step| OsStr::from_bytes(&step.name)));
    path
}

/// The components of a path or of a link's target, those left out that lead nowhere.
fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec)
}

/// The rest of a path that leads nowhere, as plain names.
fn plain(names: impl Iterator<Item = Vec<u8>>) -> PathBuf {
    let mut path = PathBuf::new();
    for name in names {
        if name == b".." {
            path.pop();
        } else {
            path.push(OsStr::from_bytes(&name));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A directory whose own path nobody else can change, so that links in it may be followed: the
    /// tests' user is trusted, whoever owns what is above. Walks begin in it.
    struct Tree {
        dir: tempfile::TempDir,
        root: PathBuf,
    }

    impl Tree {
        /// In the directory of the build, because the usual place is everybody's. `None`: that one
        /// is foreign too.
        fn new() -> Option<Tree> {
            let above = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            let dir = tempfile::tempdir_in(above).unwrap();
            let root = dir.path().canonicalize().unwrap();
            mode(&root, 0o755);
            match walk(&root, Trust::of_process()).unwrap().foreign {
                None => Some(Tree { dir, root }),
                Some(foreign) => {
                    eprintln!("skipped: {foreign} can be changed by others");
                    None
                }
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.join(name)
        }

        fn make(&self, name: &str, bits: u32) {
            fs::create_dir_all(self.path(name)).unwrap();
            mode(&self.path(name), bits);
        }

        fn link(&self, target: impl AsRef<Path>, name: &str) {
            symlink(target, self.path(name)).unwrap();
        }

        fn walk(&self, name: &str) -> Result<Walked, Stopped> {
            walk(&self.path(name), Trust::of_process())
        }

        /// Where a walk ends: its path below the tree, or why not.
        fn ends(&self, name: &str) -> Result<String, Why> {
            let path = self.walk(name).map_err(|stopped| stopped.why)?.path;
            Ok(path.strip_prefix(&self.root).unwrap().to_string_lossy().into_owned())
        }
    }

    fn mode(path: &Path, bits: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    }

    #[test]
    fn the_directories_of_a_place_are_those_of_its_path() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().canonicalize().unwrap().join("a/b");
        fs::create_dir_all(&path).unwrap();
        let walk = |path: &Path| walk(path, Trust::of_process()).unwrap();
        let expected: Vec<Inode> = path.ancestors().map(|above| walk(above).inode).collect();
        assert_eq!(walk(&path).directories(), expected);
    }

    #[test]
    fn links_are_followed_where_nobody_else_can_have_put_them() {
        let Some(tree) = Tree::new() else { return };
        tree.make("a/b", 0o755);
        tree.link("a", "relative");
        tree.link(tree.path("a/b"), "absolute");
        tree.link("../a/../a/./b//", "a/dots");
        tree.link("relative/b", "twice");
        tree.link(
            format!("{}/../../../../../../../../../../../..{}", tree.root.display(), tree.root.display()),
            "up",
        );
        for (name, end) in [
            ("a", "a"),
            ("relative/b", "a/b"),
            ("absolute", "a/b"),
            ("a/dots", "a/b"),
            ("twice/.", "a/b"),
            ("up/a", "a"),
        ] {
            assert_eq!(tree.ends(name), Ok(end.to_owned()), "{name}");
        }
        assert_eq!(tree.walk("twice").unwrap().foreign, None);
        assert_eq!(walk(Path::new("/"), Trust::of_process()).unwrap().path, Path::new("/"));
        assert_eq!(walk(Path::new("a"), Trust::of_process()).unwrap_err().why, Why::System(Errno::EINVAL));
    }

    #[test]
    fn nothing_is_followed_from_the_first_foreign_directory_on() {
        let Some(tree) = Tree::new() else { return };
        tree.make("own", 0o755);
        for (name, bits) in [("group", 0o775), ("setgid", 0o2775), ("others", 0o757), ("sticky", 0o1777)] {
            tree.make(name, bits);
            tree.make(&format!("{name}/in/deep"), 0o755);
            tree.link("in", &format!("{name}/link"));
            tree.link(tree.path("own"), &format!("{name}/in/link"));
            assert_eq!(tree.ends(&format!("{name}/link")), Err(Why::Link), "{name}");
            // A directory below it with a mode of 0755 is not trusted either.
            assert_eq!(tree.ends(&format!("{name}/in/link")), Err(Why::Link), "{name}");
            let walked = tree.walk(&format!("{name}/in/deep")).unwrap();
            let foreign = walked.foreign.unwrap();
            assert_eq!((foreign.path, foreign.mode), (tree.path(name), bits));
            // A link from a trusted directory may lead there, and comes back to where it came from.
            tree.link(format!("{name}/in/../../own"), &format!("to-{name}"));
            assert_eq!(tree.ends(&format!("to-{name}")), Ok("own".to_owned()));
            assert_eq!(tree.walk(&format!("to-{name}")).unwrap().foreign, None);
        }
        let stopped = tree.walk("group/link/x").unwrap_err();
        assert_eq!(stopped.place(), tree.path("group/link/x"));
        let text = stopped.to_string();
        assert!(text.contains("group/link: symbolic link") && text.ends_with("mode 0775)"), "{text}");
    }

    #[test]
    fn whoever_is_not_trusted_owns_a_foreign_directory() {
        let Some(tree) = Tree::new() else { return };
        tree.make("a", 0o755);
        tree.link("a", "link");
        let me = nix::unistd::geteuid();
        let other = walk(&tree.path("link"), Trust { uid: me.as_raw().wrapping_add(1) });
        match other {
            // What root owns is trusted whoever the daemon is.
            Ok(walked) => assert!(me.is_root() && walked.path == tree.path("a")),
            Err(stopped) => assert_eq!((me.is_root(), stopped.why), (false, Why::Link)),
        }
    }

    #[test]
    fn forty_links_are_followed_and_no_more() {
        let Some(tree) = Tree::new() else { return };
        tree.make("end", 0o755);
        tree.link("end", "1");
        for n in 2..=41 {
            tree.link(format!("{}", n - 1), &n.to_string());
        }
        assert_eq!(tree.ends("40"), Ok("end".to_owned()));
        assert_eq!(tree.ends("41"), Err(Why::TooManyLinks));
        tree.link("loop", "loop");
        tree.link("ping", "pong");
        tree.link("pong", "ping");
        for name in ["loop", "ping", "pong/x"] {
            assert_eq!(tree.ends(name), Err(Why::TooManyLinks), "{name}");
        }
    }

    #[test]
    fn of_what_is_absent_the_part_that_exists_and_the_rest() {
        let Some(tree) = Tree::new() else { return };
        tree.make("a", 0o755);
        tree.link("a", "link");
        tree.link("a/none", "dangling");
        fs::write(tree.path("file"), "").unwrap();
        for (name, exists, rest, why) in [
            ("none", "", "none", Why::Absent),
            ("link/x/y", "a", "x/y", Why::Absent),
            ("dangling/x", "a", "none/x", Why::Absent),
            ("file", "", "file", Why::NotADirectory),
            ("file/x", "", "file/x", Why::NotADirectory),
        ] {
            let stopped = tree.walk(name).unwrap_err();
            let exists = if exists.is_empty() { tree.root.clone() } else { tree.path(exists) };
            assert_eq!(
                (&stopped.exists, &*stopped.rest, stopped.why),
                (&exists, Path::new(rest), why),
                "{name}"
            );
            assert_eq!(stopped.place(), exists.join(rest));
        }
    }

    #[test]
    fn a_child_is_never_behind_a_link() {
        let Some(tree) = Tree::new() else { return };
        tree.make("a/b", 0o755);
        tree.link("a", "link");
        let top = tree.walk("").unwrap();
        assert_eq!(top.child(b"link").unwrap_err(), Why::Link);
        for name in [&b""[..], b".", b"..", b"a/b", b"none"] {
            assert_eq!(top.child(name).unwrap_err(), Why::Absent);
        }
        let inner = top.child(b"a").unwrap().child(b"b").unwrap();
        assert_eq!((&inner.path, inner.inode), (&tree.path("a/b"), tree.walk("link/b").unwrap().inode));
        assert_eq!(inner.try_clone().unwrap().path, inner.path);
        drop(tree.dir);
    }

    #[test]
    fn a_directory_with_the_number_of_a_removed_one_is_another() {
        let Some(tree) = Tree::new() else { return };
        tree.make("a", 0o755);
        let before = tree.walk("a").unwrap().inode;
        if before.born == 0 {
            return eprintln!("skipped: the file system does not say when a directory was made");
        }
        fs::remove_dir(tree.path("a")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        tree.make("a", 0o755);
        assert_ne!(tree.walk("a").unwrap().inode, before);
    }
}
