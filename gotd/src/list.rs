//! `list`: finds the repositories below one `repositories` directory.
//!
//! Duty: the names of what is there, in bounded batches; who may see which of them is `auth`'s to say, and what is told
//! the parent's. Waits on: the parent, once. Talks to: the parent alone.
//!
//! **Invariant:** sees that one directory, reads no file in it, and knows nothing of the client.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libproto::channel::{Channel, Received};
use libproto::message::parent::{
    Build, ListStart, ListToParent, ListedRepository, MOST_LISTED, ParentToList, SEEN_MAX,
};
use libproto::names::RepoName;
use librepo::beneath::{Dir, EntryType};
use libsandbox::{Access, Enforcement, Limits, Promise, Promises, Stage, Visible};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::repository::repository_at;
use crate::system;

/// From the first message on.
pub const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Rpath]);
/// Directories within each other that are looked into.
const MOST_LEVELS: usize = 9;
/// Names in one directory.
const MOST_ENTRIES: usize = 100_000;
const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

type Parent = Channel<ListToParent, ParentToList>;

/// Runs the role.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), String> {
    let parent = Parent::from(parent);
    let start = match parent.recv() {
        Ok(Received { message: ParentToList::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    list(&parent, &start, enforcement)
}

fn list(parent: &Parent, start: &ListStart, enforcement: Enforcement) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(&start.path));
    // A configured path may lead through symbolic links, which are the admin's.
    let root = open(path, DIRECTORY, Mode::empty()).map_err(|e| format!("{}: {e}", path.display()))?;
    let visible = [Visible::opened(root.as_fd(), path, Access::READ)];
    let limits = Limits { fsize: Some(0), ..Limits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&visible), limits, enforcement })
        .map_err(|e| e.to_string())?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("list", WORK);
    say(parent, &ListToParent::Hello(Build { id: crate::BUILD.into() }));
    let mut walk = Walk { parent, batch: Vec::new(), left: MOST_LISTED, whole: true };
    walk.directory(root, b"", MOST_LEVELS);
    walk.flush();
    let whole = walk.whole;
    say(parent, &ListToParent::Done(whole));
    Ok(())
}

fn say(parent: &Parent, message: &ListToParent) {
    if parent.send(0, 0, message).is_err() {
        system::exit_now(1);
    }
}

struct Walk<'p> {
    parent: &'p Parent,
    batch: Vec<ListedRepository>,
    /// How many may still be told.
    left: usize,
    /// Nothing was left out.
    whole: bool,
}

impl Walk<'_> {
    fn flush(&mut self) {
        if !self.batch.is_empty() {
            say(self.parent, &ListToParent::Names(std::mem::take(&mut self.batch)));
        }
    }

    /// Looks at what a directory holds. `prefix` is its name with a slash behind it, or nothing.
    fn directory(&mut self, directory: OwnedFd, prefix: &[u8], levels: usize) {
        let Some(levels) = levels.checked_sub(1) else { return self.whole = false };
        let dir = Dir::new(directory, PathBuf::from(OsStr::from_bytes(prefix)));
        let Ok(entries) = dir.entries(MOST_ENTRIES) else { return self.whole = false };
        let names: BTreeSet<Vec<u8>> =
            entries.into_iter().filter(|(_, kind)| *kind == EntryType::Dir).map(|(name, _)| name).collect();
        for name in &names {
            if self.left == 0 {
                return self.whole = false;
            }
            let full = [prefix, name].concat();
            // What no request can name is not told either.
            let Some(parsed) = RepoName::parse(&full).ok().filter(|n| n.as_bytes() == full) else { continue };
            let flags = DIRECTORY | OFlag::O_NOFOLLOW;
            let Ok(next) = openat(dir.as_fd(), name.as_slice(), flags, Mode::empty()) else { continue };
            let Ok(copy) = next.try_clone() else { return self.whole = false };
            match repository_at(copy, PathBuf::new()) {
                Some(found) => {
                    let stem = name.strip_suffix(b".git").filter(|stem| !names.contains(*stem));
                    let short = stem.and_then(|stem| RepoName::parse(&[prefix, stem].concat()).ok());
                    self.found(&found.directory, short.unwrap_or(parsed));
                }
                None => self.directory(next, &[&full, b"/".as_slice()].concat(), levels),
            }
        }
    }

    fn found(&mut self, directory: &OwnedFd, name: RepoName) {
        let Ok(stat) = libsandbox::fstat(directory.as_fd()) else { return };
        self.left -= 1;
        self.batch.push(ListedRepository { name, device: stat.st_dev, inode: stat.st_ino });
        if self.batch.len() >= SEEN_MAX {
            self.flush();
        }
    }
}
