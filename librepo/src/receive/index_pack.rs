//! Indexing a pack that a client sends, as `git index-pack --stdin --fix-thin --strict` does.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use libgit::{HashKind, ObjectId, ObjectKind};

use super::check::{self, Message, Policy, Special};
use super::had::Had;
use super::inspect::{self, Findings, Inspector, LARGE_BLOB};
use super::resolve::{self, Children, Context};
use super::stream::{self, PackEntries};
use super::{ReceiveLimits, Stage, Ticker, bad, index_file, modules, pack_error, thin};
use crate::dir::Map;
use crate::error::Result;
use crate::id::IdSet;
use crate::pack::Pack;
use crate::pack_index::PackIndex;
use crate::reader::Reader;
use crate::store::{self, Store};

/// How a pack is received.
#[derive(Clone, Debug, Default)]
pub struct IndexOptions {
    /// The limits of the pack.
    pub limits: ReceiveLimits,
    /// Which mistakes in objects are refused.
    pub policy: Policy,
    /// Threads that resolve deltas, besides the calling one; 0 and 1 mean none besides it.
    pub threads: usize,
    /// Whether a pack that names one object twice is taken, as `git index-pack` does unless it is
    /// strict.
    pub allow_duplicates: bool,
    /// Size in bytes above which blobs are attributed to the tip that brings them; 0: only large
    /// blobs are.
    pub blob_limit: u64,
}

/// A pack that was received, indexed and checked object by object. The objects behind it are
/// checked by [`connectivity`](super::connectivity).
pub struct Indexed {
    /// Objects in the pack file, those appended to complete it included.
    pub objects: u64,
    /// Objects that came in.
    pub received: u64,
    /// Deltas among them.
    pub deltas: u64,
    /// Bytes of the pack file.
    pub bytes: u64,
    /// The pack's checksum: the last bytes of the pack file.
    pub checksum: ObjectId,
    pub(super) hash: HashKind,
    pub(super) findings: Findings,
    /// The largest blob's size from which on tips are told apart by their blobs.
    pub(super) tell_blobs: u64,
    /// Ids of all objects of the pack file, sorted, with kind and whether they were appended.
    pub(super) contents: Vec<(ObjectId, ObjectKind, bool)>,
}

impl Indexed {
    /// What a push without a pack brings: nothing.
    pub fn nothing(hash: HashKind) -> Indexed {
        Indexed {
            objects: 0,
            received: 0,
            deltas: 0,
            bytes: 0,
            checksum: ObjectId::null(hash),
            hash,
            findings: Inspector::new(hash, Arc::default(), None, None).findings,
            contents: Vec::new(),
            tell_blobs: LARGE_BLOB,
        }
    }

    /// The largest blob that came in: its id and its size in bytes.
    pub fn largest_blob(&self) -> Option<(ObjectId, u64)> {
        self.findings.largest
    }

    /// The kind of an object that came in.
    pub fn kind(&self, id: &ObjectId) -> Option<ObjectKind> {
        self.find(id).filter(|(_, _, external)| !external).map(|(_, kind, _)| *kind)
    }

    pub(super) fn find(&self, id: &ObjectId) -> Option<&(ObjectId, ObjectKind, bool)> {
        let at = self.contents.binary_search_by(|(known, ..)| known.cmp(id)).ok()?;
        self.contents.get(at)
    }
}

/// Receives one pack from `src` into the files `pack` and `idx`, which are empty, open for reading
/// and writing, and nobody else's. `had` are the objects of the repository, if it has any.
///
/// Reads from `src` to the end of the pack. Input is read in large pieces, so bytes that follow the
/// pack may be consumed too: they are an error where they are seen, since nothing follows a pack in
/// a push.
///
/// On an error the files hold garbage; the caller removes them.
pub fn index<'a, R: Read + ?Sized>(
    src: &mut R,
    pack: &File,
    idx: &File,
    hash: HashKind,
    had: impl Into<Had<'a>>,
    options: &IndexOptions,
    ticker: &mut Ticker<'_>,
) -> Result<Indexed> {
    let had: Had<'_> = had.into();
    let store = had.everything();
    let limits = &options.limits;
    let policy = Arc::new(options.policy);
    let loose = store.and_then(inspect::loose_ids).map(Arc::new);
    let mut inspector = Inspector::new(hash, policy.clone(), store, loose.clone());
    let mut table = stream::receive(src, pack, hash, limits, &mut inspector, ticker)?;
    let mut findings = inspector.findings;
    let received = table.entries.len() as u64;

    let children = Children::new(&table);
    let deltas = children.count();
    let work = AtomicU64::new(0);
    let context = Context {
        children: &children,
        limits,
        policy: &policy,
        store,
        loose: &loose,
        work: &work,
        threads: options.threads,
    };
    let mut done = 0;
    let mut checksum = table.trailer;
    if deltas > 0 {
        let map = map(pack)?;
        done = resolve::round(&mut table, &context, &map, 0, 0, &mut findings, ticker)?;
    }
    if done < deltas {
        (done, checksum) = complete(&mut table, &context, had, pack, done, &mut findings, ticker)?;
    }
    drop(children);
    if done < deltas {
        return Err(bad(format!("pack: {} of {deltas} deltas cannot be resolved", deltas - done)));
    }
    if deltas > 0 {
        ticker.finish(Stage::Resolving, done, deltas, table.end)?;
    }
    let order = sorted(&table, options.allow_duplicates)?;
    index_file::write(idx, hash, &table.entries, &order, &checksum)?;
    compare_large(&table, pack, store, &findings, ticker)?;
    let bytes = table.end + hash.len() as u64;
    let objects = table.entries.len() as u64;
    let contents = order.iter().filter_map(|&number| {
        let entry = table.entries.get(number as usize)?;
        Some((entry.id, entry.kind?, entry.external))
    });
    let contents = contents.collect();
    drop(table);
    let tell_blobs = match options.blob_limit {
        0 => LARGE_BLOB,
        bytes => LARGE_BLOB.min(bytes.saturating_add(1)),
    };
    let indexed =
        Indexed { objects, received, deltas, bytes, checksum, hash, findings, tell_blobs, contents };
    if !indexed.findings.modules.is_empty() || !indexed.findings.attributes.is_empty() {
        special_files(&indexed, pack, idx, had, &policy, ticker)?;
    }
    Ok(indexed)
}

/// Appends the bases that a thin pack lacks, and resolves what lies on them. Gives the number of
/// deltas resolved in all, and the pack's new checksum.
fn complete(
    table: &mut PackEntries,
    context: &Context<'_>,
    had: Had<'_>,
    pack: &File,
    before: u64,
    findings: &mut Findings,
    ticker: &mut Ticker<'_>,
) -> Result<(u64, ObjectId)> {
    let (first, end) = (table.entries.len(), table.end);
    let claimed = context.children.claims();
    let mut own = IdSet::default();
    for attempt in 1..=MAX_ATTEMPTS {
        let mut missing = context.children.missing_bases();
        missing.retain(|id| !own.contains(id));
        thin::append(table, pack, had, &missing, context.limits, &mut || ticker.poll())?;
        let checksum = thin::seal(table, pack, &mut || ticker.poll())?;
        let done = resolve::round(table, context, &map(pack)?, first, before, findings, ticker)?;
        // An appended base may turn out to be in the pack, too, as a delta on another missing base.
        // It must not be there twice, so the attempt is repeated without it. An honest pack needs a
        // few attempts at most; other packs are refused for their duplicates.
        let appended: IdSet = table.entries[first..].iter().map(|entry| entry.id).collect();
        let known = own.len();
        let resolved = table.entries[..first].iter().filter(|entry| entry.kind.is_some());
        own.extend(resolved.map(|entry| entry.id).filter(|id| appended.contains(id)));
        if own.len() == known || attempt == MAX_ATTEMPTS {
            return Ok((done, checksum));
        }
        table.entries.truncate(first);
        table.end = end;
        context.children.restore(&claimed);
    }
    Err(bad("pack: cannot be completed"))
}

/// How often completing a pack is begun anew.
const MAX_ATTEMPTS: u32 = 4;

fn map(file: &File) -> Result<Map> {
    Map::of_file(file).map_err(pack_error)
}

/// Entry numbers in the order of ids.
fn sorted(table: &PackEntries, allow_duplicates: bool) -> Result<Vec<u32>> {
    let entries = &table.entries;
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| entries[a as usize].id.cmp(&entries[b as usize].id).then(a.cmp(&b)));
    let twice = order.windows(2).find(|pair| entries[pair[0] as usize].id == entries[pair[1] as usize].id);
    match twice {
        Some(pair) if !allow_duplicates => {
            Err(bad(format!("pack: object {} appears twice", entries[pair[0] as usize].id)))
        }
        _ => Ok(order),
    }
}

/// Opens what was just written as a pack like any other.
pub(super) fn open_pack(pack: &File, idx: &File, hash: HashKind) -> Result<Pack> {
    let index = PackIndex::parse(map(idx)?, hash).map_err(|why| bad(format!("incoming index: {why}")))?;
    Pack::new("incoming".to_owned(), map(pack)?, index, None)
        .map_err(|why| bad(format!("incoming pack: {why}")))
}

/// Compares blobs that are there already and were too large to be held, piece by piece.
fn compare_large(
    table: &PackEntries,
    pack: &File,
    store: Option<&Store>,
    findings: &Findings,
    ticker: &mut Ticker<'_>,
) -> Result<()> {
    let Some(store) = store.filter(|_| !findings.compare.is_empty()) else { return Ok(()) };
    let map = map(pack)?;
    let mut reader = Reader::new(store, 0);
    for &number in &findings.compare {
        let Some(entry) = table.entries.get(number as usize) else { continue };
        let (header, input) = resolve::open(&map, entry.offset, table.hash)?;
        let mut new = Stream { z: flate2::Decompress::new(true), input, buf: vec![0; 64 << 10] };
        if !matches!(header.kind, crate::pack::EntryKind::Base(_)) {
            // The existing object is larger than this process may hold, and the new one is not:
            // they differ.
            return Err(inspect::collision(&entry.id));
        }
        let mut same = true;
        reader.read_stream(&entry.id, &mut |bytes| {
            same = same && new.is_next(bytes);
            ticker.poll()
        })?;
        if !same {
            return Err(inspect::collision(&entry.id));
        }
    }
    Ok(())
}

/// A deflate stream of the pack, compared piece by piece.
struct Stream<'p> {
    z: flate2::Decompress,
    input: &'p [u8],
    buf: Vec<u8>,
}

impl Stream<'_> {
    fn is_next(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let want = bytes.len().min(self.buf.len());
            let (had_in, had_out) = (self.z.total_in(), self.z.total_out());
            let status = self.z.decompress(self.input, &mut self.buf[..want], flate2::FlushDecompress::None);
            let (used, got) =
                ((self.z.total_in() - had_in) as usize, (self.z.total_out() - had_out) as usize);
            if status.is_err() || (used == 0 && got == 0) || self.buf[..got] != bytes[..got] {
                return false;
            }
            self.input = &self.input[used..];
            bytes = &bytes[got..];
        }
        true
    }
}

/// Checks files that trees call `.gitmodules` or `.gitattributes`. They may lie anywhere in the
/// pack, before or after the trees, or be in the repository already.
fn special_files(
    indexed: &Indexed,
    pack: &File,
    idx: &File,
    had: Had<'_>,
    policy: &Policy,
    ticker: &mut Ticker<'_>,
) -> Result<()> {
    let hash = indexed.hash;
    let own = Own::new(open_pack(pack, idx, hash)?, hash)?;
    let mut new = Reader::new(&own.0, 4 << 20);
    let mut old = had.everything().map(|store| Reader::new(store, 4 << 20));
    for (ids, special) in
        [(&indexed.findings.modules, Special::Modules), (&indexed.findings.attributes, Special::Attributes)]
    {
        for id in sorted_ids(ids) {
            ticker.poll()?;
            let header = match new.header(&id)? {
                Some((kind, size)) => Some((&mut new, kind, size)),
                None => match &mut old {
                    Some(old) if had.shows(&id, Some(ObjectKind::Blob)) => {
                        old.header(&id)?.map(|(kind, size)| (old, kind, size))
                    }
                    _ => None,
                },
            };
            let verdict = match header {
                // What is missing is found by the connectivity check, if a tip needs it.
                None => Ok(()),
                Some((_, kind, _)) if kind != ObjectKind::Blob => {
                    check::report(policy, not_a_blob(special), "is not a blob")
                }
                Some((_, _, size)) if size > largest(special) => {
                    check::report(policy, too_large(special), "too large to parse")
                }
                Some((reader, ..)) => match reader.read(&id)? {
                    Some(object) if special == Special::Modules => modules::check(policy, &object.data),
                    Some(object) => check::attributes(policy, &object.data),
                    None => Ok(()),
                },
            };
            verdict.map_err(|problem| inspect::refused(&id, &problem))?;
        }
    }
    Ok(())
}

fn sorted_ids(ids: &IdSet) -> Vec<ObjectId> {
    let mut ids: Vec<ObjectId> = ids.iter().copied().collect();
    ids.sort_unstable();
    ids
}

/// Largest `.gitmodules` that is parsed, in bytes. git has no limit but its core.bigFileThreshold.
const MAX_MODULES: u64 = 32 << 20;

fn largest(special: Special) -> u64 {
    match special {
        Special::Modules => MAX_MODULES,
        Special::Attributes => check::MAX_ATTRIBUTES,
    }
}

fn too_large(special: Special) -> Message {
    match special {
        Special::Modules => Message::GitmodulesLarge,
        Special::Attributes => Message::GitattributesLarge,
    }
}

fn not_a_blob(special: Special) -> Message {
    match special {
        Special::Modules => Message::GitmodulesBlob,
        Special::Attributes => Message::GitattributesBlob,
    }
}

/// A store that holds the incoming pack and nothing else.
pub(super) struct Own(pub(super) Store);

impl Own {
    pub(super) fn new(pack: Pack, hash: HashKind) -> Result<Own> {
        let mut store = Store::of_packs(hash, store::StoreLimits::default());
        store.add_pack(pack);
        Ok(Own(store))
    }
}
