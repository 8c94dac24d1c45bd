//! The objects that references reach, found only as far as they are asked for.
//!
//! Where some references are hidden, an object exists for a client if and only if it is found here,
//! and never because it lies in a pack. The time of an answer must tell nothing either. So an
//! absent object and an object that only a hidden reference reaches cost the same: the rest of one
//! walk, which is then over for good.

use std::collections::{BinaryHeap, VecDeque};

use libgit::{ObjectId, ObjectKind};

use super::bits::Bits;
use super::commits::Source;
use super::space::First;
use crate::error::Result;
use crate::id::IdSet;
use crate::object::{Commit, TreeEntries};
use crate::repository::Repository;

/// Most ids that are remembered as not reached; beyond that all are forgotten, and each costs a
/// look again.
const DENIED: usize = 65_536;
/// A search for an object that no pack holds looks among the objects met so far only once in this
/// many steps.
const LOOK: u32 = 1024;

/// Commits and tags, and where somebody asks for more, trees and blobs.
#[derive(Default)]
pub(crate) struct Reached {
    seen: Bits,
    /// Commits whose parents were not looked at, with the date of the child that named them.
    queue: BinaryHeap<(u64, u32)>,
    /// Trees of commits that were looked at, in that order, and others to begin with.
    roots: VecDeque<u32>,
    /// Trees that were met and not read.
    trees: Vec<u32>,
    /// Whether trees count, so that their numbers are kept.
    content: bool,
    /// Ids that are reached by nothing, once history was walked, and once everything was.
    denied: [IdSet; 2],
    /// Commits or trees that were looked at, and ids that were looked for in packs.
    #[cfg(test)]
    steps: u64,
    #[cfg(test)]
    looks: u64,
}

impl Reached {
    /// What can be reached from the tips. Without `content` only commits and tags are ever found.
    pub(crate) fn from<'i>(
        source: &mut Source<'_>,
        tips: impl Iterator<Item = &'i ObjectId>,
        content: bool,
    ) -> Result<Reached> {
        let mut reached = Reached { content, ..Reached::default() };
        for id in tips {
            let Some(tip) = source.space.number(id) else { continue };
            let (tags, target) = source.peel(tip)?;
            for tag in tags {
                reached.seen.set(tag);
            }
            match target {
                Some((commit, ObjectKind::Commit)) if reached.seen.set(commit) => {
                    // Clients ask for the newest trees, not for those of old tags.
                    let date = if content { parents_of(source, commit, &mut Vec::new()) } else { None };
                    reached.queue.push((date.map_or(u64::MAX, |(_, seconds)| seconds), commit));
                }
                Some((_, ObjectKind::Commit)) => {}
                Some((tree, ObjectKind::Tree)) => reached.roots.push_back(tree),
                Some((blob, _)) => drop(reached.seen.set(blob)),
                None => {}
            }
        }
        Ok(reached)
    }

    pub(crate) fn has(&self, number: u32) -> bool {
        self.seen.get(number)
    }

    /// Looks at the next commit; false if there is none. What cannot be read reaches nothing.
    pub(crate) fn step(&mut self, source: &mut Source<'_>) -> bool {
        let Some((_, next)) = self.queue.pop() else { return false };
        let mut parents = Vec::new();
        let Some((tree, seconds)) = parents_of(source, next, &mut parents) else { return true };
        for parent in parents {
            if let Some(parent) = source.space.number(&parent)
                && self.seen.set(parent)
            {
                // The child's date will do: the order is only a guess at where to look first.
                self.queue.push((seconds, parent));
            }
        }
        if self.content {
            self.roots.extend(source.space.number(&tree));
        }
        true
    }

    /// Reads the next tree, of the next commit where that is due; false if there is none.
    fn step_content(&mut self, source: &mut Source<'_>) -> bool {
        let Some(tree) = self.trees.pop() else {
            match self.roots.pop_front() {
                Some(root) if self.seen.set(root) => self.trees.push(root),
                Some(_) => {}
                None => return self.step(source),
            }
            return true;
        };
        let hash = source.space.store().hash();
        let Ok(object) = source.read(tree) else { return true };
        for entry in TreeEntries::new(&object.data, hash).map_while(std::result::Result::ok) {
            if entry.is_submodule() {
                continue;
            }
            if let Some(number) = source.space.number(&entry.id())
                && self.seen.set(number)
                && entry.is_tree()
            {
                self.trees.push(number);
            }
        }
        true
    }

    /// The number of a commit or tag, if it can be reached.
    pub(crate) fn commit(&mut self, source: &mut Source<'_>, id: &ObjectId) -> Option<u32> {
        self.search(source, id, HISTORY, Reached::step)
    }

    /// The number of an object of any kind, if it can be reached.
    pub(crate) fn object(&mut self, source: &mut Source<'_>, id: &ObjectId) -> Option<u32> {
        self.search(source, id, EVERYTHING, Reached::step_content)
    }

    /// A second question about an unreached id costs the same whether the object exists or not: no
    /// pack is searched. To measure the first search again, a client has to connect again and pay
    /// for the whole walk.
    fn search(
        &mut self,
        source: &mut Source<'_>,
        id: &ObjectId,
        within: usize,
        step: fn(&mut Reached, &mut Source<'_>) -> bool,
    ) -> Option<u32> {
        if self.denied[within].contains(id) {
            return None;
        }
        #[cfg(test)]
        {
            self.looks += 1;
        }
        let packed = source.space.packed_number(id);
        let mut steps = 0_u32;
        loop {
            let look = steps.is_multiple_of(LOOK);
            // No file is looked for: whether one is there must not be told by the time that takes.
            let number = packed.or_else(|| if look { source.space.met(id) } else { None });
            if let Some(number) = number.filter(|number| self.seen.get(*number)) {
                return Some(number);
            }
            #[cfg(test)]
            {
                self.steps += 1;
            }
            if !step(self, source) {
                let number = source.space.met(id).or(packed).filter(|number| self.seen.get(*number));
                if number.is_none() {
                    self.deny(id, within);
                }
                return number;
            }
            steps = steps.wrapping_add(1);
        }
    }

    /// The walk is over, and did not meet it.
    fn deny(&mut self, id: &ObjectId, within: usize) {
        let denied = &mut self.denied[within];
        if denied.len() >= DENIED {
            denied.clear();
        }
        denied.insert(*id);
    }
}

/// Which of the sets of denied ids.
const HISTORY: usize = 0;
const EVERYTHING: usize = 1;

/// A commit's parents, tree and date; `None` if it is none, or cannot be read.
fn parents_of(source: &mut Source<'_>, number: u32, parents: &mut Vec<ObjectId>) -> Option<(ObjectId, u64)> {
    if let Some(graph) = source.graph
        && let Some(commit) = graph.lookup(&source.space.id(number)).and_then(|at| graph.commit(at))
    {
        parents.extend(commit.parents().map(|parent| graph.id_at(parent)));
        return Some((commit.tree, commit.date));
    }
    let object = source.read(number).ok()?;
    let commit = Commit::parse(&object.data, source.space.store().hash()).ok()?;
    parents.extend(commit.parents());
    Some((commit.tree(), commit.committer_seconds()))
}

/// The objects that can be reached from the references that a client may see.
pub struct Visible<'r> {
    source: Source<'r>,
    reached: Reached,
}

impl std::fmt::Debug for Visible<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visible").finish_non_exhaustive()
    }
}

/// Bytes of objects that are kept while one looks for others.
const CACHE_BYTES: usize = 8 << 20;

impl<'r> Visible<'r> {
    /// What these tips reach.
    ///
    /// # Errors
    /// When a tag that is a tip is damaged, or there are more objects than can be numbered.
    pub fn new(repository: &'r Repository, tips: &[ObjectId]) -> Result<Visible<'r>> {
        let mut source = Source::new(repository.store(), First::None, CACHE_BYTES)?;
        source.graph = repository.commit_graph();
        let reached = Reached::from(&mut source, tips.iter(), true)?;
        Ok(Visible { source, reached })
    }

    /// Whether a commit or a tag is reached. Costs at most one walk over history for all questions
    /// together.
    pub fn has_commit(&mut self, id: &ObjectId) -> bool {
        self.reached.commit(&mut self.source, id).is_some()
    }

    /// Whether an object of any kind is reached, the newest commits' looked at first. Costs at most
    /// one walk over all objects for all questions together.
    pub fn has(&mut self, id: &ObjectId) -> bool {
        self.reached.object(&mut self.source, id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    fn git(dir: &Path, args: &[&str], input: &str) -> String {
        let mut command = Command::new("git");
        command.arg("-C").arg(dir).args(args).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{args:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Twenty commits on `main`, and as many of another history on `hidden`.
    fn repository(dir: &Path) {
        git(dir, &["init", "-q", "--bare", "-b", "main"], "");
        let mut stream = String::new();
        for branch in ["main", "hidden"] {
            for n in 0..20 {
                stream += &format!(
                    "commit refs/heads/{branch}\ncommitter C <c@x> {} +0000\ndata 2\nm\n\
                     M 644 inline d{n}/f\ndata <<END\n{branch} {n}\nEND\n",
                    1_000_000 + n
                );
            }
        }
        git(dir, &["-c", "fastimport.unpackLimit=10000", "fast-import", "--quiet"], &stream);
    }

    /// Whoever asks for many others in between has each looked at once more, and not kept for ever.
    #[test]
    fn there_is_an_end_to_ids_that_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        repository(dir.path());
        let repository =
            Repository::open(File::open(dir.path()).unwrap().into(), crate::Options::default()).unwrap();
        let tip = ObjectId::from_hex(git(dir.path(), &["rev-parse", "main"], "").as_bytes()).unwrap();
        let mut visible = Visible::new(&repository, &[tip]).unwrap();
        for n in 0..=DENIED {
            assert!(!visible.has_commit(&ObjectId::from_hex(format!("{n:040x}").as_bytes()).unwrap()));
            assert!(visible.reached.denied[HISTORY].len() <= DENIED);
        }
        assert_eq!(visible.reached.denied[HISTORY].len(), 1);
    }

    #[test]
    fn what_is_hidden_costs_what_is_not_there() {
        for packed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            repository(dir.path());
            if packed {
                git(dir.path(), &["repack", "-qad"], "");
                git(dir.path(), &["commit-graph", "write", "--reachable"], "");
            }
            let repository =
                Repository::open(File::open(dir.path()).unwrap().into(), crate::Options::default()).unwrap();
            let id = |name: &str| {
                ObjectId::from_hex(git(dir.path(), &["rev-parse", name], "").as_bytes()).unwrap()
            };
            let tips = [id("main")];
            let unknown = ObjectId::from_hex(&[b'1'; 40]).unwrap();
            let history = |id: &ObjectId| {
                let mut visible = Visible::new(&repository, &tips).unwrap();
                let first = (visible.has_commit(id), visible.reached.steps);
                let again = (0..100).map(|_| visible.has_commit(id)).all(|has| has == first.0);
                (first.0, first.1, again, visible.reached.steps, visible.reached.looks)
            };
            let content = |id: &ObjectId| {
                let mut visible = Visible::new(&repository, &tips).unwrap();
                let first = (visible.has(id), visible.reached.steps);
                let again = (0..100).map(|_| visible.has(id)).all(|has| has == first.0);
                (first.0, first.1, again, visible.reached.steps, visible.reached.looks)
            };
            let (nothing, all) = (history(&unknown), content(&unknown));
            assert!(!nothing.0 && nothing.1 >= 20 && all.1 > nothing.1 + 20, "{nothing:?} {all:?}");
            assert!(nothing.2 && all.2 && nothing.3 == nothing.1, "the walk is over for good: {nothing:?}");
            assert_eq!((nothing.4, all.4), (1, 1), "no pack is asked again");
            for name in ["hidden", "hidden~19", "hidden^{tree}", "hidden:d3", "hidden:d3/f"] {
                assert_eq!((history(&id(name)), content(&id(name))), (nothing, all), "{name} {packed}");
            }
            assert!(history(&id("main")).0 && history(&id("main~19")).0 && !history(&id("main:d3")).0);
            for name in ["main", "main~19", "main^{tree}", "main:d3", "main:d3/f", "main~19:d0/f"] {
                assert!(content(&id(name)).0, "{name} {packed}");
            }
        }
    }
}
