//! Cut histories: what changes at a shallow client's boundary (`gitprotocol-v2`, "shallow-info").

use std::collections::VecDeque;

use libgit::{Deepen, Depth, ObjectId, ObjectKind};

use super::bits::Bits;
use super::commits::{Commits, Source, missing_below};
use super::negotiate::Fetch;
use super::space::NO_OBJECT;
use super::walk::{Painting, paint};
use crate::error::{Error, Result};
use crate::shallow_file;

/// The depth that means "all of it".
const INFINITE: u32 = Depth::ALL.commits();

/// How the client's boundary changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShallowInfo {
    /// Commits whose parents the client will not have.
    pub shallow: Vec<ObjectId>,
    /// Commits that were on the boundary and are not any more.
    pub unshallow: Vec<ObjectId>,
}

/// The boundary as the walk needs it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cuts {
    pub(super) info: ShallowInfo,
    /// Commits whose parents are not followed.
    pub(super) cut: Bits,
    /// The repository's own boundary.
    own: Bits,
    /// Wanted too: the parents of commits that are no longer on the boundary.
    pub(super) wants: Vec<u32>,
    /// Commits that were on the boundary and are not any more.
    unshallow: Vec<u32>,
}

impl Fetch<'_> {
    /// Computes the boundary, once.
    pub(super) fn resolve_shallow(&mut self) -> Result<()> {
        if self.cuts.is_some() {
            return Ok(());
        }
        let mut own = Bits::default();
        let own_list = own_shallow(self)?;
        for number in &own_list {
            own.set(*number);
        }
        let mut cuts = Cuts { cut: own.clone(), own: own.clone(), ..Cuts::default() };
        if self.deepen.is_none() && self.shallow.is_empty() && own_list.is_empty() {
            self.cuts = Some(cuts);
            return Ok(());
        }
        let heads = peeled(&mut self.source, &self.wants)?;
        let mut edge = Edge::default();
        match self.deepen.clone() {
            Some(Deepen::Depth { depth: Depth::ALL, .. }) if own_list.is_empty() => {
                for number in self.visible_boundary()? {
                    edge.inside.set(number);
                }
            }
            Some(Deepen::Depth { depth, relative: false }) => {
                edge.by_depth(&mut self.source, &heads, depth.commits(), &own)?;
            }
            Some(Deepen::Depth { depth, relative: true }) if self.haves_first => {
                let least = least_depth(&mut self.source, &heads, &self.shallow_set, &own)?;
                edge = self.deeper(&heads, least.saturating_add(depth.commits()).min(INFINITE), &own)?;
            }
            // In v0 and v1 haves come after the boundary. What the client has beyond its boundary,
            // by a tag that it does not want, cannot be known: it is cut where git cuts it.
            Some(Deepen::Depth { depth, relative: true }) => {
                let present = self.visible_boundary()?;
                let depth = depth.commits().saturating_add(1).min(INFINITE);
                edge.by_depth(&mut self.source, &present, depth, &own)?;
                if !own_list.is_empty() {
                    // History that is new to the client may end at this repository's own boundary,
                    // a case that git forgets.
                    let mut ends = own.clone();
                    ends.or(self.shallow_set.words());
                    for number in &edge.boundary {
                        ends.set(*number);
                    }
                    let mut end = Edge::default();
                    end.by_depth(&mut self.source, &heads, INFINITE, &ends)?;
                    edge.boundary.extend(end.boundary.into_iter().filter(|number| own.get(*number)));
                    edge.boundary.sort_unstable();
                    edge.boundary.dedup();
                }
            }
            Some(Deepen::Since { since, not }) => {
                let not = commits_of(&mut self.source, &not)?;
                edge.by_history(&mut self.source, &heads, &not, since, &own)?;
            }
            None if own_list.is_empty() => {}
            None => {
                // The client's own boundary holds as long as it does not ask for more.
                let mut ends = own.clone();
                ends.or(self.shallow_set.words());
                edge.by_depth(&mut self.source, &heads, INFINITE, &ends)?;
            }
        }
        let space = &self.source.space;
        for number in edge.boundary {
            if !self.shallow_set.get(number) && !edge.inside.get(number) {
                cuts.info.shallow.push(space.id(number));
                cuts.cut.set(number);
            }
        }
        let mut commits = Commits::default();
        for number in &self.shallow {
            if edge.inside.get(*number) {
                cuts.info.unshallow.push(self.source.space.id(*number));
                let at = commits.must(&mut self.source, *number)?;
                // A commit on the repository's own boundary has no parents to send.
                for parent in commits.parents(at).iter().filter(|_| !own.get(*number)) {
                    if *parent == NO_OBJECT {
                        return Err(missing_below(&mut self.source, *number));
                    }
                    cuts.wants.push(*parent);
                }
                cuts.unshallow.push(*number);
            }
            cuts.cut.set(*number);
        }
        self.cuts = Some(cuts);
        Ok(())
    }

    /// Cuts `depth` commits after the heads, but takes nothing away from a client that asked for
    /// more: where its branches are cut at different depths, one depth is too little for some.
    ///
    /// What it has is reached from its haves without crossing its boundary. It need not have named
    /// all of them: it ends when it is told `ready`, or says `done`. Where its haves do not account
    /// for a commit of its boundary, whatever leads to that commit may be there, with all that is
    /// behind it.
    fn deeper(&mut self, heads: &[u32], depth: u32, own: &Bits) -> Result<Edge> {
        let haves = peeled(&mut self.source, &self.haves)?;
        let (source, shallow) = (&mut self.source, &self.shallow_set);
        let ends = [shallow, own];
        let (mut had, _) = reachable(source, &haves, &ends)?;
        let (_, order) = reachable(source, heads, &ends)?;
        let perhaps: Vec<u32> = {
            let unknown = |number: u32| shallow.get(number) && !had.get(number);
            let leading = leading_to(source, &order, &ends, unknown)?;
            order.iter().copied().filter(|number| leading.get(*number)).collect()
        };
        let (perhaps, _) = reachable(source, &perhaps, &ends)?;
        had.or(perhaps.words());
        let mut edge = Edge { keep: had.clone(), ..Edge::default() };
        edge.keep.subtract(shallow.words());
        edge.by_depth(source, heads, depth, own)?;
        // Commits that the client has lie beyond a cut if they are not reached.
        let mut reached = edge.inside.clone();
        edge.boundary.iter().for_each(|number| {
            reached.set(*number);
        });
        let lost = |number: u32| had.get(number) && !reached.get(number);
        if !order.iter().any(|number| lost(*number)) {
            return Ok(edge);
        }
        let leading = leading_to(source, &order, &ends, lost)?;
        had.or(leading.words());
        let mut edge = Edge { keep: had, ..Edge::default() };
        edge.keep.subtract(shallow.words());
        edge.by_depth(source, heads, depth, own)?;
        Ok(edge)
    }

    /// The client's boundary as far as the policy lets it see behind: without this, naming a hidden
    /// commit as shallow and deepening would fetch its history.
    fn visible_boundary(&mut self) -> Result<Vec<u32>> {
        let mut visible = Vec::new();
        for at in 0..self.shallow.len() {
            let number = self.shallow[at];
            if self.may_see(number)? {
                visible.push(number);
            }
        }
        Ok(visible)
    }

    /// The commits off the boundary that the client has, with their trees. Only commits reachable
    /// from its haves count, not all that it named: git keeps commits in its list that it never got
    /// (cut off by another one).
    pub(super) fn had_at_boundary(&mut self, cuts: &Cuts) -> Result<Vec<u32>> {
        if cuts.unshallow.is_empty() {
            return Ok(Vec::new());
        }
        let haves = peeled(&mut self.source, &self.haves)?;
        let (had, _) = reachable(&mut self.source, &haves, &[&self.shallow_set, &cuts.own])?;
        Ok(cuts.unshallow.iter().copied().filter(|number| had.get(*number)).collect())
    }
}

fn own_shallow(fetch: &mut Fetch<'_>) -> Result<Vec<u32>> {
    let ids = shallow_file::read(fetch.repository.dir(), fetch.repository.hash())?;
    Ok(ids.iter().filter_map(|id| fetch.source.space.number(id)).collect())
}

/// The commits among these objects, and those that tags among them lead to.
fn peeled(source: &mut Source<'_>, numbers: &[u32]) -> Result<Vec<u32>> {
    let mut commits = Vec::new();
    for number in numbers {
        if let (_, Some((commit, ObjectKind::Commit))) = source.peel(*number)? {
            commits.push(commit);
        }
    }
    Ok(commits)
}

fn commits_of(source: &mut Source<'_>, ids: &[ObjectId]) -> Result<Vec<u32>> {
    let mut commits = Vec::new();
    let mut seen = Bits::default();
    for id in ids {
        let Some(number) = source.space.number(id) else {
            return Err(Error::Invalid(format!("deepen-not is not a ref: {id}")));
        };
        if let (_, Some((commit, ObjectKind::Commit))) = source.peel(number)?
            && seen.set(commit)
        {
            commits.push(commit);
        }
    }
    Ok(commits)
}

/// The commits not older than `since` that can be reached through such commits alone: as in git, an
/// old commit says nothing about ancestors that are reached on another way.
fn younger(
    commits: &mut Commits,
    source: &mut Source<'_>,
    heads: &[u32],
    since: u64,
    own: &Bits,
) -> Result<Vec<u32>> {
    let mut seen = Bits::default();
    let mut stack: Vec<u32> = heads.to_vec();
    let mut young = Vec::new();
    while let Some(number) = stack.pop() {
        if !seen.set(number) {
            continue;
        }
        let at = commits.must(source, number)?;
        if commits.node(at).seconds < since {
            continue;
        }
        young.push(at);
        if own.get(number) {
            continue;
        }
        for parent in commits.parents(at) {
            if *parent == NO_OBJECT {
                return Err(missing_below(source, number));
            }
            stack.push(*parent);
        }
    }
    Ok(young)
}

/// The least depth of one of these commits, the heads' depth being 1; 0 if none is found.
fn least_depth(source: &mut Source<'_>, heads: &[u32], wanted: &Bits, own: &Bits) -> Result<u32> {
    let mut commits = Commits::default();
    let mut seen = Bits::default();
    let mut queue: VecDeque<(u32, u32)> = VecDeque::new();
    queue.extend(heads.iter().filter(|head| seen.set(**head)).map(|head| (*head, 1)));
    while let Some((number, depth)) = queue.pop_front() {
        if wanted.get(number) {
            return Ok(depth);
        }
        if own.get(number) {
            continue;
        }
        let at = commits.must(source, number)?;
        for parent in commits.parents(at) {
            if *parent != NO_OBJECT && seen.set(*parent) {
                queue.push_back((*parent, depth.saturating_add(1)));
            }
        }
    }
    Ok(0)
}

/// All that can be reached from the heads, without the parents of `ends`. Children stand after
/// their parents.
fn reachable(source: &mut Source<'_>, heads: &[u32], ends: &[&Bits]) -> Result<(Bits, Vec<u32>)> {
    let mut commits = Commits::default();
    let (mut seen, mut order) = (Bits::default(), Vec::new());
    // A commit is on the stack twice: to go on to its parents, and behind them.
    let mut stack: Vec<(u32, bool)> = heads.iter().map(|head| (*head, false)).collect();
    while let Some((number, done)) = stack.pop() {
        if done {
            order.push(number);
            continue;
        }
        if !seen.set(number) {
            continue;
        }
        stack.push((number, true));
        if !ends.iter().any(|ends| ends.get(number)) {
            let at = commits.must(source, number)?;
            let parents = commits.parents(at).iter().filter(|parent| **parent != NO_OBJECT);
            stack.extend(parents.map(|parent| (*parent, false)));
        }
    }
    Ok((seen, order))
}

/// Those of `order`, in which children stand after their parents, from which a commit for which
/// `is` holds can be reached without the parents of `ends`.
fn leading_to(
    source: &mut Source<'_>,
    order: &[u32],
    ends: &[&Bits],
    is: impl Fn(u32) -> bool,
) -> Result<Bits> {
    let mut commits = Commits::default();
    let mut leading = Bits::default();
    for &number in order {
        let mut leads = is(number);
        if !leads && !ends.iter().any(|ends| ends.get(number)) {
            let at = commits.must(source, number)?;
            leads = commits.parents(at).iter().any(|parent| *parent != NO_OBJECT && leading.get(*parent));
        }
        if leads {
            leading.set(number);
        }
    }
    Ok(leading)
}

/// A cut through the history.
#[derive(Default)]
struct Edge {
    /// Commits whose parents are cut off.
    boundary: Vec<u32>,
    /// Commits whose parents are not.
    inside: Bits,
    /// Commits beyond the depth whose parents are followed all the same.
    keep: Bits,
}

impl Edge {
    /// Cuts `depth` commits after the heads, which count as the first.
    fn by_depth(&mut self, source: &mut Source<'_>, heads: &[u32], depth: u32, own: &Bits) -> Result<()> {
        let mut commits = Commits::default();
        let mut seen = Bits::default();
        let mut queue: VecDeque<(u32, u32)> = VecDeque::new();
        for head in heads {
            if seen.set(*head) {
                queue.push_back((*head, 1));
            }
        }
        // Breadth first: each commit is met at its least depth.
        while let Some((number, at_depth)) = queue.pop_front() {
            let beyond = at_depth >= depth && depth != INFINITE;
            if beyond && !self.keep.get(number) || own.get(number) {
                self.boundary.push(number);
                continue;
            }
            self.inside.set(number);
            let at = commits.must(source, number)?;
            for parent in commits.parents(at) {
                if *parent == NO_OBJECT {
                    return Err(missing_below(source, number));
                }
                if seen.set(*parent) {
                    queue.push_back((*parent, at_depth.saturating_add(1)));
                }
            }
        }
        Ok(())
    }

    /// Cuts where commits are too old, or reachable from `not`.
    fn by_history(
        &mut self,
        source: &mut Source<'_>,
        heads: &[u32],
        not: &[u32],
        since: Option<u64>,
        own: &Bits,
    ) -> Result<()> {
        let mut commits = Commits::default();
        let selected = if not.is_empty() {
            younger(&mut commits, source, heads, since.unwrap_or(0), own)?
        } else {
            let limits = Painting { cut: own, since, known: None };
            paint(&mut commits, source, heads, not, &limits, &mut |_| Ok(()))?.0
        };
        if selected.is_empty() {
            return Err(Error::Invalid("no commits selected for shallow requests".to_owned()));
        }
        let mut chosen = Bits::default();
        for at in &selected {
            chosen.set(commits.node(*at).number);
        }
        for at in selected {
            let number = commits.node(at).number;
            let cut_off = own.get(number) || commits.parents(at).iter().any(|parent| !chosen.get(*parent));
            if cut_off {
                self.boundary.push(number);
            } else {
                self.inside.set(number);
            }
        }
        Ok(())
    }
}
