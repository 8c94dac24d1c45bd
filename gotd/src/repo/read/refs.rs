//! The references that a client may see, in batches, and what the shallow file of the repository
//! adds to them.

use std::cell::RefCell;
use std::sync::Arc;

use libgit::{HashKind, ObjectId, RefName};
use libproto::limits::Counted;
use libproto::message::repo::{BATCH_BYTES, BATCH_IDS, ListAsk, RefBatch, RefLine};
use libproto::refusal::Refusal;
use libproto::request::RequestLimits;
use librepo::error::Error;
use librepo::fetch::{Tips, Visible};
use librepo::listing::{Listed, Listing};
use librepo::prefixes::Prefixes;
use librepo::reader::Reader;
use librepo::refs::Head;
use librepo::repository::Repository;
use librepo::shallow_file;

use crate::repo::hidden::Hidden;

/// Bytes of objects that are kept while tags are looked up.
const CACHE: usize = 4 << 20;
/// Most damaged references that are told to the log, as many as it takes of one session.
const TROUBLES: usize = 16;
/// Most bytes of what the log is told of one reference.
const TROUBLE_BYTES: usize = 500;
/// Most damaged references that a client is told by name.
const DAMAGED_TOLD: usize = 4;

/// The references as they were last listed on this connection: advertised objects may be wanted.
pub(crate) struct Advertised<'a> {
    repository: &'a Repository,
    hidden: Hidden<'a>,
    /// All of them.
    all: Option<Listing>,
    /// The listed references, where a prefix left others out.
    listed: Option<Listing>,
    prefixes: Vec<Vec<u8>>,
    prefix_bytes: u64,
    /// What may be wanted, as long as nothing is looked at anew.
    tips: Option<Arc<Tips>>,
    /// What was found wrong with references, each once, for the log.
    troubles: RefCell<Vec<String>>,
}

impl<'a> Advertised<'a> {
    pub(crate) fn new(repository: &'a Repository, hidden: &'a [Vec<u8>]) -> Advertised<'a> {
        Advertised {
            repository,
            hidden: Hidden(hidden),
            all: None,
            listed: None,
            prefixes: Vec::new(),
            prefix_bytes: 0,
            tips: None,
            troubles: RefCell::default(),
        }
    }

    /// What was found wrong with references that were gone through since this was last asked.
    pub(crate) fn take_troubles(&self) -> Vec<String> {
        self.troubles.take()
    }

    fn note(&self, listed: &Listed<'_>) {
        let Some(mut text) = listed.trouble() else { return };
        text.truncate(text.floor_char_boundary(TROUBLE_BYTES));
        let mut troubles = self.troubles.borrow_mut();
        if troubles.len() < TROUBLES && !troubles.contains(&text) {
            troubles.push(text);
        }
    }

    /// The damaged references that the client may have been told of, in words for it: those of the
    /// last list, and else all that it may see. `None` if there are none.
    pub(super) fn damaged(&self) -> Option<String> {
        let lists = [&self.listed, &self.all];
        let names = lists.into_iter().flatten().map(|listing| {
            let damaged = self.hidden.shown(listing).flatten().filter(Listed::is_damaged);
            damaged.map(|listed| listed.name.escape_ascii().to_string()).collect::<Vec<_>>()
        });
        let names = names.into_iter().find(|names| !names.is_empty())?;
        let more = names.len().saturating_sub(DAMAGED_TOLD);
        let told = names.get(..DAMAGED_TOLD).unwrap_or(&names).join(", ");
        Some(match (names.len(), more) {
            (1, _) => format!("{told} is damaged on the server"),
            (_, 0) => format!("{told} are damaged on the server"),
            _ => format!("{told} and {more} more are damaged on the server"),
        })
    }

    /// Takes prefixes for the next list, `most` in all.
    pub(super) fn prefixes(&mut self, more: Vec<Vec<u8>>, most: u32) -> Result<(), Refusal> {
        let limits = RequestLimits { prefixes: most.into(), ..RequestLimits::default() };
        let bytes = more.iter().fold(0_u64, |sum, prefix| sum.saturating_add(prefix.len() as u64));
        self.prefix_bytes = self.prefix_bytes.saturating_add(bytes);
        self.prefixes.extend(more);
        if self.prefixes.len() as u64 > limits.prefixes || self.prefix_bytes > limits.prefix_bytes {
            return Err(Refusal::TooMany(Counted::Prefixes, limits.prefixes));
        }
        Ok(())
    }

    /// The prefixes that were taken for the next list.
    pub(super) fn taken_prefixes(&self) -> Vec<Vec<u8>> {
        self.prefixes.clone()
    }

    /// Reads the requested references anew. From then on they are [`Advertised::seen`].
    pub(crate) fn look(&mut self, ask: ListAsk) -> Result<ListExtras, Error> {
        let prefixes = std::mem::take(&mut self.prefixes);
        self.prefix_bytes = 0;
        // Nobody pays for references that are not asked for.
        let listing = self.repository.refs().listing(if ask.prefixed { &prefixes } else { &[] })?;
        self.tips = None;
        let head_asked = !ask.prefixed || Prefixes::new(&prefixes).matches(b"HEAD");
        let no_head = listing.head().is_none_or(|head| !self.hidden.shows_listed(&head));
        let unborn = if head_asked && no_head { self.unborn()? } else { None };
        (self.all, self.listed) = if ask.prefixed { (None, Some(listing)) } else { (Some(listing), None) };
        let shallow = if ask.prefixed { Vec::new() } else { self.shallow()? };
        Ok(ListExtras { unborn, peel: ask.peel, shallow })
    }

    /// The references that were looked at last, and are not hidden.
    pub(super) fn seen(&self) -> impl Iterator<Item = Result<Listed<'_>, Error>> {
        let listings = self.all.iter().chain(&self.listed);
        listings.flat_map(|listing| self.hidden.shown(listing))
    }

    /// The references read last, in batches that fit into messages; at least one batch. Each batch
    /// is made on demand, so that the session works on one while the next is made. An error ends
    /// the iteration.
    pub(crate) fn batches(
        &self,
        ListExtras { unborn, peel, shallow }: ListExtras,
    ) -> impl Iterator<Item = Result<RefBatch, Error>> {
        let mut reader = peel.then(|| Reader::new(self.repository.store(), CACHE));
        let hash = self.repository.hash();
        let lines = self.seen().filter_map(move |line| match line {
            Ok(listed) => {
                self.note(&listed);
                ref_line(&listed, hash, reader.as_mut()).map(Ok)
            }
            Err(e) => Some(Err(e)),
        });
        Batches { lines: unborn.map(Ok).into_iter().chain(lines).peekable(), shallow, ended: false }
    }

    /// Looks at all references, unless they were listed.
    fn look_at_all(&mut self) -> Result<(), Error> {
        if self.all.is_none() {
            self.all = Some(self.repository.refs().listing::<&[u8]>(&[])?);
        }
        Ok(())
    }

    /// The tips that may be wanted: those that were listed, or would be. Looked up once for each
    /// list.
    pub(super) fn tips(&mut self) -> Result<Arc<Tips>, Error> {
        if let Some(tips) = &self.tips {
            return Ok(tips.clone());
        }
        self.look_at_all()?;
        let mut reader = Reader::new(self.repository.store(), CACHE);
        let mut tips = Tips::default();
        for listed in self.seen() {
            let listed = listed?;
            self.note(&listed);
            if let Some(target) = listed.target() {
                tips.add(listed.name, target, listed.peeled(&mut reader));
            }
        }
        if !self.hidden.is_empty() {
            tips.hide_others();
        }
        Ok(self.tips.insert(Arc::new(tips)).clone())
    }

    /// The object of a reference whose name may be abbreviated in any of Git's ways, if exactly one
    /// reference matches.
    pub(super) fn resolve(&mut self, name: &RefName) -> Result<ObjectId, Refusal> {
        self.look_at_all().map_err(super::broken)?;
        let short = name.as_bytes();
        let ways: [(&[u8], &[u8]); 6] = [
            (b"", b""),
            (b"refs/", b""),
            (b"refs/tags/", b""),
            (b"refs/heads/", b""),
            (b"refs/remotes/", b""),
            (b"refs/remotes/", b"/HEAD"),
        ];
        let damaged = |one: &Listed<'_>| {
            Refusal::Damaged(format!("{} is damaged on the server", one.name.escape_ascii()))
        };
        let mut found = Vec::new();
        if let Some(all) = &self.all {
            for (before, after) in ways {
                let listed = all.find(&[before, short, after].concat()).map_err(super::broken)?;
                found.extend(listed.filter(|listed| self.hidden.shows_listed(listed)));
            }
        }
        match &found[..] {
            [one] => one.target().ok_or_else(|| damaged(one)),
            _ => Err(Refusal::NoSuchRef(name.clone())),
        }
    }

    /// A `HEAD` whose branch does not exist yet.
    fn unborn(&self) -> Result<Option<RefLine>, Error> {
        let head = self.hidden.head(self.repository.refs())?;
        let Head::Symbolic(target, None) = head else { return Ok(None) };
        let (name, target) = (RefName::parse(b"HEAD").ok(), RefName::parse(&target).ok());
        Ok(name.zip(target).map(|(name, target)| RefLine {
            name,
            id: None,
            peeled: None,
            target: Some(target),
        }))
    }

    /// Commits at which the repository itself is shallow, as far as the client may know of them.
    fn shallow(&self) -> Result<Vec<ObjectId>, Error> {
        let mut ids = shallow_file::read(self.repository.dir(), self.repository.hash())?;
        if !self.hidden.is_empty() && !ids.is_empty() {
            let mut visible = Visible::new(self.repository, &self.seen_ids()?)?;
            ids.retain(|id| visible.has_commit(id));
        }
        Ok(ids)
    }

    /// The objects that visible references name.
    pub(crate) fn seen_ids(&self) -> Result<Vec<ObjectId>, Error> {
        self.seen().filter_map(|line| line.map(|listed| listed.target()).transpose()).collect()
    }
}

/// `None` for what has no place in a list: a name of no reference, for one. With a reader, tags are
/// peeled.
fn ref_line(listed: &Listed<'_>, hash: HashKind, reader: Option<&mut Reader<'_>>) -> Option<RefLine> {
    let target = match listed.symref_target {
        Some(target) => Some(RefName::parse(target).ok()?),
        None => None,
    };
    let peeled = reader.and_then(|reader| listed.peeled(reader));
    let id = Some(listed.shown_id(hash)?);
    Some(RefLine { name: RefName::parse(listed.name).ok()?, id, peeled, target })
}

/// What belongs to a list beside the references.
pub(crate) struct ListExtras {
    unborn: Option<RefLine>,
    peel: bool,
    shallow: Vec<ObjectId>,
}

/// See [`Advertised::batches`].
struct Batches<I: Iterator<Item = Result<RefLine, Error>>> {
    lines: std::iter::Peekable<I>,
    shallow: Vec<ObjectId>,
    ended: bool,
}

impl<I: Iterator<Item = Result<RefLine, Error>>> Iterator for Batches<I> {
    type Item = Result<RefBatch, Error>;

    fn next(&mut self) -> Option<Result<RefBatch, Error>> {
        if self.ended {
            return None;
        }
        let (mut refs, mut weight, mut shallow) = (Vec::new(), 0_usize, Vec::new());
        while weight < BATCH_BYTES {
            let Some(line) = self.lines.next() else { break };
            let line = match line {
                Ok(line) => line,
                Err(e) => {
                    self.ended = true;
                    return Some(Err(e));
                }
            };
            weight = weight.saturating_add(line.weight());
            refs.push(line);
        }
        if refs.is_empty() {
            shallow = self.shallow.split_off(self.shallow.len().saturating_sub(BATCH_IDS));
        }
        self.ended = self.lines.peek().is_none() && self.shallow.is_empty();
        Some(Ok(RefBatch { refs, shallow, last: self.ended }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_full_and_the_last_says_so() {
        let id = ObjectId::null(libgit::HashKind::Sha1);
        let line = |n: usize| RefLine {
            name: RefName::parse(format!("refs/heads/{n}").as_bytes()).unwrap(),
            id: Some(id),
            peeled: None,
            target: None,
        };
        let lines: Vec<RefLine> = (0..1000).map(line).collect();
        let batches = |lines: Vec<RefLine>, shallow: &[ObjectId]| -> Vec<RefBatch> {
            let lines = lines.into_iter().map(Ok).peekable();
            Batches { lines, shallow: shallow.to_vec(), ended: false }.map(Result::unwrap).collect()
        };
        let all = batches(lines.clone(), &[id; 500]);
        let listed: Vec<RefLine> = all.iter().flat_map(|b| b.refs.clone()).collect();
        assert!(listed == lines, "each once, in order");
        assert_eq!(all.iter().map(|b| b.shallow.len()).sum::<usize>(), 500);
        assert!(all.len() > 5 && all.iter().filter(|b| b.last).count() == 1 && all[all.len() - 1].last);
        assert_eq!(batches(Vec::new(), &[]).len(), 1);
        assert_eq!(batches(Vec::new(), &[id; 3]).len(), 1);
    }
}
