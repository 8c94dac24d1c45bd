//! One repository, opened beneath a directory descriptor.

use std::os::fd::OwnedFd;

use crate::beneath::Dir;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::id::HashKind;
use crate::refs::Refs;
use crate::store::{Limits, Store};

/// How a repository is opened.
#[derive(Debug, Default)]
pub struct Options {
    /// Object directories to borrow from, as [`alternates::resolve`](crate::alternates) found and the caller
    /// opened them. `objects/info/alternates` itself is not read by [`Repository::open`].
    pub alternates: Vec<OwnedFd>,
    /// What the object store allows.
    pub limits: Limits,
}

/// One repository.
#[derive(Debug)]
pub struct Repository {
    dir: Dir,
    config: Config,
    refs: Refs,
    store: Store,
}

impl Repository {
    /// Opens the repository in a directory (`O_PATH` will do): a bare one, or the `.git` directory of a
    /// worktree. Everything is opened beneath that descriptor, following no symbolic link.
    pub fn open(dir: OwnedFd, options: Options) -> Result<Repository> {
        let dir = Dir::new(dir, "");
        let config = Config {
            hash: HashKind::Sha1,
            bare: None,
            shared: crate::config::Shared::Umask,
            partial_clone: false,
            precious_objects: false,
        };
        let objects = dir.open_dir(b"objects")?.ok_or(Error::NotARepository("no objects directory"))?;
        let alternates = options.alternates.into_iter().map(|fd| Dir::new(fd, "alternate")).collect();
        let store = Store::open(objects, alternates, config.hash, options.limits)?;
        let refs = Refs::new(dir.try_clone()?, config.hash);
        Ok(Repository { dir, config, refs, store })
    }

    /// The algorithm of the ids.
    pub fn hash(&self) -> HashKind {
        self.config.hash
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// What its `config` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its references.
    pub fn refs(&self) -> &Refs {
        &self.refs
    }

    /// Its objects.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its objects, to [`refresh`](Store::refresh) them or to add a pack.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}
