//! Finds the repository of an address, and says what a repository is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libproto::message::parent::{DirectoryId, OpenError, Opened, RepoAddress};
use librepo::alternates::Alternate;
use librepo::dir::EntryType;
use librepo::mounts::Look;
use librepo::place::{self, Inode, Permissions, Stopped, Trust, Walked, Why};
use libsandbox::Promises;

/// A repository that was found, and where.
#[derive(Debug)]
pub struct FoundRepository {
    /// `O_PATH` descriptor of the directory that holds `HEAD`, `objects` and `refs`.
    pub directory: OwnedFd,
    /// Its path, for unveil(2) and the log.
    pub path: PathBuf,
    /// It is the `.git` directory of a worktree.
    pub worktree: bool,
    /// How its entries are looked at.
    pub look: Look,
    /// The directory, its parent and so on, up to the root.
    pub directories: Vec<DirectoryId>,
    /// Owner and mode of each of them.
    pub permissions: Vec<Permissions>,
    here: Look,
}

impl FoundRepository {
    /// What is left of promises when place and alternates have been walked to: from then on a name
    /// is looked at by opening it. That is not enough where others may have mounted something, which
    /// only the kernel can tell, nor in a very old repository whose HEAD is a link.
    #[must_use]
    pub fn walked(&self, promises: Promises, alternates: &[Alternate]) -> Promises {
        let anywhere = self.look.is_anywhere() && alternates.iter().all(|other| other.look.is_anywhere());
        match anywhere && self.look.at(&self.directory, "HEAD") == Ok(EntryType::File) {
            true => promises.by_opening(),
            false => promises,
        }
    }

    /// The same repository, with access only to what lies on the mount of its directory.
    #[must_use]
    pub fn on_its_mount(mut self) -> FoundRepository {
        self.look = self.here;
        self
    }
}

/// Walks to the repository of an address.
///
/// In a configured path, a symbolic link is followed if only root or the repositories' owner can
/// have put it there. Below a `repositories` directory no link is followed. The name was checked
/// when it became a `RepoName`, and is checked again here.
pub fn find(address: &RepoAddress) -> Result<FoundRepository, OpenError> {
    let root = root(&address.path, &address.place)?;
    let Some(below) = &address.below else { return repository_or(root, none_at) };
    // The name as it was asked for comes first, as with git; then the other spelling.
    let other = match below.without_suffix() {
        stem if stem.len() == below.as_bytes().len() => below.with_suffix(),
        stem => stem.to_vec(),
    };
    let mut first = None;
    for name in [below.as_bytes().to_vec(), other] {
        let Some(directory) = descend(&root, &name)? else { continue };
        match repository_or(directory, none_at) {
            Ok(found) => return Ok(found),
            Err(why) => {
                first.get_or_insert(why);
            }
        }
    }
    Err(first.unwrap_or(OpenError::NotFound))
}

/// Why a repository that another process has found is not found again.
#[derive(Debug)]
pub enum AgainError {
    /// It is not there.
    Gone(OpenError),
    /// There is another repository now.
    Replaced,
    /// The kernel does not tell which directory it is.
    Unseen(std::io::Error),
}

impl fmt::Display for AgainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgainError::Gone(error) => Unopened { error, absent: "repository: gone" }.fmt(f),
            AgainError::Replaced => f.write_str("repository: replaced"),
            AgainError::Unseen(e) => write!(f, "repository: {e}"),
        }
    }
}

/// Walks to the repository of an address, which must still be the one that was found at this place.
pub fn again(address: &RepoAddress, place: &[u8], opened: &Opened) -> Result<FoundRepository, AgainError> {
    let found = find(address).map_err(AgainError::Gone)?;
    let stat = libsandbox::fstat(found.directory.as_fd()).map_err(AgainError::Unseen)?;
    let same = (stat.st_dev, stat.st_ino) == (opened.device, opened.inode);
    if same && found.path.as_os_str().as_bytes() == place { Ok(found) } else { Err(AgainError::Replaced) }
}

/// Walks to a configured directory, which must be the same as when the configuration was loaded.
pub fn root(path: &[u8], place: &[u8]) -> Result<Walked, OpenError> {
    let path = Path::new(OsStr::from_bytes(path));
    match place::walk(path, Trust::of_process()) {
        Ok(walked) if walked.path.as_os_str().as_bytes() == place => Ok(walked),
        Ok(walked) => Err(OpenError::Unreachable(format!(
            "{}: leads to {}, and did not when the configuration was loaded; see gotctl reload",
            path.display(),
            walked.path.display()
        ))),
        Err(Stopped { why: Why::Absent | Why::NotADirectory, .. }) => Err(OpenError::NotFound),
        Err(stopped) => Err(OpenError::Unreachable(stopped.to_string())),
    }
}

/// Displays as why there is no such directory or repository, for the log.
#[derive(Debug)]
pub struct Unopened<'e> {
    /// Why.
    pub error: &'e OpenError,
    /// What is said where nothing is there.
    pub absent: &'static str,
}

impl std::fmt::Display for Unopened<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.error {
            OpenError::Unusable(text) | OpenError::Unreachable(text) | OpenError::NoRepository(text) => text,
            OpenError::NotFound | OpenError::NotExported | OpenError::NotDaemon => self.absent,
        })
    }
}

/// Follows a name component by component, never through a symbolic link, never into a repository.
fn descend(root: &Walked, name: &[u8]) -> Result<Option<Walked>, OpenError> {
    let mut at = root.try_clone().map_err(|e| OpenError::Unusable(e.to_string()))?;
    let mut components = name.split(|b| *b == b'/').peekable();
    while let Some(component) = components.next() {
        if component.is_empty() || component.starts_with(b".") || component.contains(&0) {
            return Ok(None);
        }
        at = match at.child(component) {
            Ok(next) => next,
            Err(why @ (Why::Mount | Why::UserSpace)) => {
                let name = at.path.join(OsStr::from_bytes(component));
                return Err(OpenError::Unreachable(format!("{}: {why}", name.display())));
            }
            Err(_) => return Ok(None),
        };
        // Below a work tree there can be other repositories, as git itself serves them.
        if components.peek().is_some() && is_repository(&at) {
            return Ok(None);
        }
    }
    Ok(Some(at))
}

/// A directory's identity in the form of messages.
pub fn directory_id(inode: Inode) -> DirectoryId {
    DirectoryId { device: inode.device, inode: inode.inode, born: inode.born }
}

/// The repository in a directory: bare, or the `.git` directory of a worktree.
pub fn repository_at(directory: Walked) -> Option<FoundRepository> {
    repository_or(directory, |_| ()).ok()
}

/// The same; `none` says why there is none.
fn repository_or<E>(directory: Walked, none: impl FnOnce(&Walked) -> E) -> Result<FoundRepository, E> {
    let inner = worktree(&directory);
    let worktree = inner.is_some();
    let found = match inner {
        Some(inner) => inner,
        None if is_repository(&directory) => directory,
        None => return Err(none(&directory)),
    };
    let directories = found.directories().into_iter().map(directory_id).collect();
    Ok(FoundRepository {
        look: found.look(),
        here: found.look_here(),
        permissions: found.permissions(),
        directory: found.directory,
        path: found.path,
        worktree,
        directories,
    })
}

/// The `.git` directory of a worktree.
fn worktree(directory: &Walked) -> Option<Walked> {
    directory.child(b".git").ok().filter(is_repository)
}

/// Whether entries of this directory lie inside a repository.
pub fn is_in_repository(directory: &Walked) -> bool {
    is_repository(directory) || worktree(directory).is_some()
}

/// As git's own test: HEAD, objects and refs; a shared `commondir` is not followed.
fn is_repository(directory: &Walked) -> bool {
    let is = |name, kind| directory.entry(name) == Some(kind);
    is("objects", EntryType::Dir)
        && is("refs", EntryType::Dir)
        && (is("HEAD", EntryType::File) || is("HEAD", EntryType::Symlink))
        && !is("commondir", EntryType::File)
}

fn none_at(directory: &Walked) -> OpenError {
    OpenError::NoRepository(format!("{}: no repository: {}", directory.path.display(), why_none(directory)))
}

/// Why a directory is no repository, by the same test.
fn why_none(directory: &Walked) -> String {
    if directory.entry(".git") == Some(EntryType::File) {
        return ".git is a file: a linked worktree, whose repository lies elsewhere".into();
    }
    // What is nearly a repository is in the `.git` of a worktree, if there is one.
    let inner = directory.child(b".git").ok();
    let (at, place) = inner.as_ref().map_or((directory, ""), |inner| (inner, ".git: "));
    if at.entry("commondir") == Some(EntryType::File) {
        return format!("{place}a linked worktree (commondir), whose repository lies elsewhere");
    }
    let lacks = |name: &str| match at.entry(name) {
        None => Some(format!("{place}no {name}")),
        Some(EntryType::Symlink) if name != "HEAD" => {
            Some(format!("{place}{name} is a symbolic link, which is not followed"))
        }
        Some(EntryType::Dir) if name == "HEAD" => Some(format!("{place}HEAD is a directory")),
        Some(EntryType::Dir | EntryType::Symlink) => None,
        Some(EntryType::File) if name == "HEAD" => None,
        Some(_) => Some(format!("{place}{name} is of the wrong type")),
    };
    let all: Vec<String> = ["HEAD", "objects", "refs"].into_iter().filter_map(lacks).collect();
    all.join(", ")
}

/// Opens directories for a sandbox's rules. For a directory that is not there yet, the deepest
/// existing parent is opened, so that the directory can be reached once it exists; but never the
/// root. A path that is refused for another reason opens nothing: otherwise a user's link or file
/// system in its place would open its surroundings, such as all homes.
pub fn visible(paths: &[PathBuf]) -> BTreeMap<PathBuf, OwnedFd> {
    let trust = Trust::of_process();
    let walk = |path: &PathBuf| match place::walk(path, trust) {
        Ok(walked) => Some(walked),
        Err(Stopped { exists, why: Why::Absent, .. }) => place::walk(&exists, trust).ok(),
        Err(_) => None,
    };
    paths
        .iter()
        .filter_map(walk)
        .filter(|walked| walked.path.parent().is_some())
        .map(|walked| (walked.path, walked.directory))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_place_is_visible_only_while_the_place_is_absent() {
        let temp = tempfile::tempdir().expect("a directory");
        // Others may change it, so that no link is followed there.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(temp.path(), mode).expect("changes a mode");
        let top = temp.path().canonicalize().expect("is there");
        std::fs::create_dir_all(top.join("home/a")).expect("makes");
        std::fs::write(top.join("home/file"), "").expect("writes");
        std::os::unix::fs::symlink("a", top.join("home/link")).expect("links");
        let seen = |name: &str| visible(&[top.join(name)]).into_keys().collect::<Vec<_>>();
        assert_eq!(seen("home/a"), [top.join("home/a")]);
        assert_eq!(seen("home/b/c"), [top.join("home")]);
        for refused in ["home/link", "home/link/x", "home/file/x"] {
            assert!(seen(refused).is_empty(), "{refused}");
        }
    }
}
