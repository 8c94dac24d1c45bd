//! One repository, opened beneath a directory descriptor (`gitrepository-layout`).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use libgit::HashKind;

use crate::alternates::Alternate;
use crate::checked::Checked;
use crate::commit_graph::{self, CommitGraph};
use crate::config::Config;
use crate::dir::{Dir, EntryType};
use crate::error::{Error, Result};
use crate::mounts::Look;
use crate::refs::Refs;
use crate::safeguards::Safeguards;
use crate::store::{Store, StoreLimits};

/// The largest `config` that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// How a repository is opened.
#[derive(Debug, Default)]
pub struct Options {
    /// Object directories to borrow from, as [`alternates::resolve`](crate::alternates::resolve)
    /// found them. `objects/info/alternates` itself is not read by [`Repository::open`].
    pub alternates: Vec<Alternate>,
    /// How entries of the repository are opened.
    pub look: Look,
    /// What the object store allows.
    pub limits: StoreLimits,
    /// Which of its files need not be checked any more, and which were.
    pub checked: Arc<Checked>,
}

/// One repository.
#[derive(Debug)]
pub struct Repository {
    dir: Dir,
    config: Config,
    safeguards: Safeguards,
    refs: Refs,
    store: Store,
    graph: Option<CommitGraph>,
    shallow: bool,
    notes: Vec<String>,
}

/// A repository that is recognised, with its `config` read, and not opened yet.
#[derive(Debug)]
pub struct Opening {
    dir: Dir,
    objects: Dir,
    config: Config,
    safeguards: Safeguards,
}

impl Opening {
    /// Looks at the directory (`O_PATH` will do): a bare repository, or the `.git` directory of a
    /// worktree. Everything is opened beneath that descriptor, following no symbolic link.
    pub fn new(dir: OwnedFd, look: Look) -> Result<Opening> {
        let dir = Dir::within(dir, "", look);
        // A linked worktree keeps everything in another place, and would lead there.
        if dir.stat(b"commondir")?.is_some() {
            return Err(Error::NotARepository("a linked worktree"));
        }
        // HEAD is a file, or with very old repositories a symbolic link to one.
        match dir.stat(b"HEAD")? {
            Some((EntryType::File | EntryType::Symlink, _)) => {}
            _ => return Err(Error::NotARepository("no HEAD")),
        }
        if !matches!(dir.stat(b"refs")?, Some((EntryType::Dir, _))) {
            return Err(Error::NotARepository("no refs directory"));
        }
        let objects = dir.open_dir(b"objects")?.ok_or(Error::NotARepository("no objects directory"))?;
        let text = dir.read(b"config", MAX_CONFIG)?.unwrap_or_default();
        let mut config = Config::parse(&text)?;
        let safeguards = Safeguards::parse(&text);
        if config.worktree_config
            && let Some(text) = dir.read(b"config.worktree", MAX_CONFIG)?
        {
            config.parse_worktree(&text)?;
        }
        Ok(Opening { dir, objects, config, safeguards })
    }

    /// The algorithm of the ids.
    pub fn hash(&self) -> HashKind {
        self.config.hash
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// What its owner has forbidden.
    pub fn safeguards(&self) -> &Safeguards {
        &self.safeguards
    }

    /// Opens its packs and the rest.
    pub fn finish(self, options: Options) -> Result<Repository> {
        let Opening { dir, objects, config, safeguards } = self;
        let other = |other: Alternate| Dir::within(other.dir, "alternate/objects", other.look);
        let others = options.alternates.into_iter().map(other).collect();
        let mut store = Store::open(objects, others, config.hash, options.limits, options.checked)?;
        store.set_partial(config.partial_clone);
        let refs = Refs::new(dir.try_clone()?, config.hash);
        let shallow = commit_graph::is_shallow(&dir)?;
        let mut notes = Vec::new();
        let graph = if shallow { None } else { open_graph(&store, &mut notes) };
        Ok(Repository { dir, config, safeguards, refs, store, graph, shallow, notes })
    }
}

impl Repository {
    /// Opens the repository in a directory: [`Opening::new`] and [`Opening::finish`].
    pub fn open(dir: OwnedFd, options: Options) -> Result<Repository> {
        Opening::new(dir, options.look)?.finish(options)
    }

    /// The same repository as it is now: for references to objects that came since it was opened.
    pub fn reopen(&self) -> Result<Repository> {
        let alternates = self.store.object_dirs().skip(1).map(|dir| {
            let (path, look) = (dir.name().to_owned(), dir.look());
            dir.as_fd().try_clone_to_owned().map(|dir| Alternate { path, dir, look }).map_err(Error::Io)
        });
        let options = Options {
            alternates: alternates.collect::<Result<_>>()?,
            look: self.dir.look(),
            limits: self.store.limits(),
            checked: self.store.checked().clone(),
        };
        Repository::open(self.dir.as_fd().try_clone_to_owned().map_err(Error::Io)?, options)
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

    /// What its owner has forbidden.
    pub fn safeguards(&self) -> &Safeguards {
        &self.safeguards
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

    /// Its commit graph, if it has a usable one.
    pub fn commit_graph(&self) -> Option<&CommitGraph> {
        self.graph.as_ref()
    }

    /// Whether history was cut off here (`shallow` names commits) when it was opened.
    pub fn is_shallow(&self) -> bool {
        self.shallow
    }

    /// Files that were passed over so far because they are damaged, one line each, for the log.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.store.notes();
        notes.extend_from_slice(&self.notes);
        notes
    }
}

/// The first commit graph among the objects directories.
fn open_graph(store: &Store, notes: &mut Vec<String>) -> Option<CommitGraph> {
    let dirs: Vec<&Dir> = store.object_dirs().collect();
    dirs.iter().find_map(|dir| match CommitGraph::open(dir, &dirs, store.hash())? {
        Ok(graph) => Some(graph),
        Err(why) => {
            notes.push(format!("{}: {why}", dir.name_of(b"info/commit-graph").display()));
            None
        }
    })
}
