//! The references that a client may see, in batches, and what the shallow file of the repository adds to them.

use libproto::message::repo::{BATCH_BYTES, BATCH_IDS, ListAsk, RefBatch, RefLine, Refusal};
use libproto::names::{self, RefName};
use libproto::request::Limits;
use librepo::error::Error;
use librepo::fetch::Tips;
use librepo::prefixes::Prefixes;
use librepo::reader::Reader;
use librepo::refs::{Head, Ref};
use librepo::repository::Repository;

use super::to_wire;

/// Bytes of objects that are kept while tags are looked up.
const CACHE: usize = 4 << 20;
/// Largest `shallow` file, in bytes.
const SHALLOW_FILE: u64 = 16 << 20;

/// The references as they were read last on this connection: what is advertised may be wanted.
pub(crate) struct Advertised<'a> {
    repository: &'a Repository,
    hidden: &'a [Vec<u8>],
    /// All of them.
    refs: Option<Vec<Ref>>,
    /// Those that were listed, where a prefix left others out.
    listed: Vec<Ref>,
    prefixes: Vec<Vec<u8>>,
    prefix_bytes: u64,
}

impl<'a> Advertised<'a> {
    pub(crate) fn new(repository: &'a Repository, hidden: &'a [Vec<u8>]) -> Advertised<'a> {
        Advertised {
            repository,
            hidden,
            refs: None,
            listed: Vec::new(),
            prefixes: Vec::new(),
            prefix_bytes: 0,
        }
    }

    /// Takes prefixes for the next list, `most` in all.
    pub(super) fn prefixes(&mut self, more: Vec<Vec<u8>>, most: u32) -> Result<(), Refusal> {
        let limits = Limits { prefixes: most.into(), ..Limits::default() };
        let bytes = more.iter().fold(0_u64, |sum, prefix| sum.saturating_add(prefix.len() as u64));
        self.prefix_bytes = self.prefix_bytes.saturating_add(bytes);
        self.prefixes.extend(more);
        if self.prefixes.len() as u64 > limits.prefixes || self.prefix_bytes > limits.prefix_bytes {
            return Err(Refusal::Limit("reference prefixes".into(), limits.prefixes));
        }
        Ok(())
    }

    /// The prefixes that were taken for the next list.
    pub(super) fn taken_prefixes(&self) -> Vec<Vec<u8>> {
        self.prefixes.clone()
    }

    /// Reads the references anew, those that are asked for, which are [`Advertised::seen`] from then on.
    pub(crate) fn look(&mut self, ask: ListAsk) -> Result<Looked, Error> {
        let prefixes = std::mem::take(&mut self.prefixes);
        self.prefix_bytes = 0;
        // Nobody pays for references that are not asked for.
        let refs = self.read(if ask.prefixed { &prefixes } else { &[] })?;
        let head_asked = !ask.prefixed || Prefixes::new(&prefixes).matches(b"HEAD");
        let no_head = refs.first().is_none_or(|r| r.name != b"HEAD");
        let unborn = if head_asked && no_head { self.unborn()? } else { None };
        let shallow = if ask.prefixed { Vec::new() } else { self.shallow()? };
        (self.refs, self.listed) = if ask.prefixed { (None, refs) } else { (Some(refs), Vec::new()) };
        Ok(Looked { unborn, peel: ask.peel, shallow })
    }

    /// The references that were read last.
    pub(super) fn seen(&self) -> &[Ref] {
        self.refs.as_deref().unwrap_or(&self.listed)
    }

    /// What was read last, in batches that fit into messages, at least one; each is made when it is asked for, so that the
    /// session works on one while the next is made.
    pub(crate) fn batches(&self, Looked { unborn, peel, shallow }: Looked) -> impl Iterator<Item = RefBatch> {
        let lines = self.seen().iter().filter_map(move |r| ref_line(r, peel));
        Batches { lines: unborn.into_iter().chain(lines).peekable(), shallow, ended: false }
    }

    /// What may be wanted: what was listed, or would be.
    pub(super) fn tips(&mut self) -> Result<Tips, Error> {
        let refs = match self.refs.take() {
            Some(refs) => refs,
            None => {
                let mut refs = self.read(&[])?;
                refs.append(&mut self.listed);
                refs
            }
        };
        let tips = Tips::new(&refs);
        self.refs = Some(refs);
        Ok(tips)
    }

    /// The object of a reference in any of the ways to abbreviate its name, if only one of them is a reference.
    pub(super) fn resolve(&mut self, name: &RefName) -> Result<librepo::id::ObjectId, Refusal> {
        if self.refs.is_none() {
            self.refs = Some(self.read(&[]).map_err(super::broken)?);
        }
        let refs = self.refs.as_deref().unwrap_or_default();
        let short = name.as_bytes();
        let ways: [(&[u8], &[u8]); 6] = [
            (b"", b""),
            (b"refs/", b""),
            (b"refs/tags/", b""),
            (b"refs/heads/", b""),
            (b"refs/remotes/", b""),
            (b"refs/remotes/", b"/HEAD"),
        ];
        let mut found = ways.iter().filter_map(|(before, after)| {
            let full = [before, short, after].concat();
            refs.iter().find(|r| r.name == full)
        });
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.target),
            _ => Err(Refusal::NoSuchRef(name.clone())),
        }
    }

    /// The references below these prefixes, all of them if there are none, that are not hidden, with what tags point to.
    fn read(&self, prefixes: &[Vec<u8>]) -> Result<Vec<Ref>, Error> {
        let mut reader = Reader::new(self.repository.store(), CACHE);
        let mut refs = self.repository.refs().list(prefixes, Some(&mut reader))?;
        refs.retain(|r| {
            !self.is_hidden(&r.name) && !r.symref_target.as_ref().is_some_and(|t| self.is_hidden(t))
        });
        Ok(refs)
    }

    fn is_hidden(&self, name: &[u8]) -> bool {
        self.hidden.iter().any(|space| match name.strip_prefix(space.as_slice()) {
            Some(rest) => rest.is_empty() || rest[0] == b'/' || space.ends_with(b"/"),
            None => false,
        })
    }

    /// A `HEAD` whose branch does not exist yet.
    fn unborn(&self) -> Result<Option<RefLine>, Error> {
        let Head::Symbolic(target, None) = self.repository.refs().head()? else { return Ok(None) };
        if self.is_hidden(&target) {
            return Ok(None);
        }
        let (name, target) = (RefName::parse(b"HEAD").ok(), RefName::parse(&target).ok());
        Ok(name.zip(target).map(|(name, target)| RefLine {
            name,
            id: None,
            peeled: None,
            target: Some(target),
        }))
    }

    /// Commits at which the repository itself is shallow.
    fn shallow(&self) -> Result<Vec<names::ObjectId>, Error> {
        let file = self.repository.dir().read(b"shallow", SHALLOW_FILE)?.unwrap_or_default();
        let ids = file.split(|&b| b == b'\n').filter_map(|line| names::ObjectId::from_hex(line).ok());
        Ok(ids.collect())
    }
}

/// `None` for a name that has no place in Git's protocol.
fn ref_line(r: &Ref, peel: bool) -> Option<RefLine> {
    let target = match &r.symref_target {
        Some(target) => Some(RefName::parse(target).ok()?),
        None => None,
    };
    let peeled = r.peeled.as_ref().filter(|_| peel).and_then(to_wire);
    Some(RefLine { name: RefName::parse(&r.name).ok()?, id: Some(to_wire(&r.target)?), peeled, target })
}

/// What belongs to a list beside the references.
pub(crate) struct Looked {
    unborn: Option<RefLine>,
    peel: bool,
    shallow: Vec<names::ObjectId>,
}

/// See [`Advertised::batches`].
struct Batches<I: Iterator<Item = RefLine>> {
    lines: std::iter::Peekable<I>,
    shallow: Vec<names::ObjectId>,
    ended: bool,
}

impl<I: Iterator<Item = RefLine>> Iterator for Batches<I> {
    type Item = RefBatch;

    fn next(&mut self) -> Option<RefBatch> {
        if self.ended {
            return None;
        }
        let (mut refs, mut weight, mut shallow) = (Vec::new(), 0_usize, Vec::new());
        while weight < BATCH_BYTES {
            let Some(line) = self.lines.next() else { break };
            weight = weight.saturating_add(line.weight());
            refs.push(line);
        }
        if refs.is_empty() {
            shallow = self.shallow.split_off(self.shallow.len().saturating_sub(BATCH_IDS));
        }
        self.ended = self.lines.peek().is_none() && self.shallow.is_empty();
        Some(RefBatch { refs, shallow, last: self.ended })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_full_and_the_last_says_so() {
        let id = names::ObjectId::null(names::HashKind::Sha1);
        let line = |n: usize| RefLine {
            name: RefName::parse(format!("refs/heads/{n}").as_bytes()).unwrap(),
            id: Some(id),
            peeled: None,
            target: None,
        };
        let lines: Vec<RefLine> = (0..1000).map(line).collect();
        let batches = |lines: Vec<RefLine>, shallow: &[names::ObjectId]| -> Vec<RefBatch> {
            Batches { lines: lines.into_iter().peekable(), shallow: shallow.to_vec(), ended: false }.collect()
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
