//! Second pass: deltas become objects.
//!
//! Every whole object with deltas on it is the root of a tree of deltas, and trees are independent
//! of each other, so threads take one root after another. A tree is walked depth first, the child
//! with the most descendants last: what must stay in memory is then what lies on the way to lighter
//! siblings, logarithmically little. Beyond the limit the objects lowest in the stack are dropped
//! and made again when the walk comes back to them, and that work counts against the limit for
//! work.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use flate2::{Decompress, FlushDecompress, Status};
use libgit::{HashKind, ObjectId, ObjectKind};

use super::check::Policy;
use super::hasher::HashJob;
use super::inspect::{BATCH_BYTES, BATCH_OBJECT, BATCH_OBJECTS, Findings, Inspector};
use super::stream::{NONE, PackEntries, at};
use super::{ReceiveLimits, Stage, Ticker, limit};
use crate::delta_apply;
use crate::error::{Error, Result};
use crate::id::IdSet;
use crate::pack;
use crate::store::Store;

/// Which deltas lie on which entries.
pub(super) struct Children {
    /// Entry number to the start of its children in `list`; one more at the end.
    start: Vec<u32>,
    list: Vec<u32>,
    /// REF_DELTA entries, sorted by the id of their base.
    refs: Vec<(ObjectId, u32)>,
    /// Whether the REF_DELTA at the same place was taken: with duplicates in the pack two objects
    /// could claim it.
    claimed: Vec<AtomicBool>,
}

impl Children {
    /// Sorts the deltas of a table by what they lie on.
    pub(super) fn new(table: &PackEntries) -> Self {
        let entries = &table.entries;
        let mut start = vec![0_u32; entries.len() + 1];
        // Bases lie before their deltas in the pack, so that one pass backwards adds up
        // descendants.
        let mut weight = vec![1_u32; entries.len()];
        for (number, entry) in entries.iter().enumerate().rev() {
            if entry.base != NONE {
                start[entry.base as usize + 1] += 1;
                weight[entry.base as usize] = weight[entry.base as usize].saturating_add(weight[number]);
            }
        }
        for i in 1..start.len() {
            start[i] += start[i - 1];
        }
        let mut next = start.clone();
        let mut list = vec![0_u32; start.last().map_or(0, |&n| n as usize)];
        for (number, entry) in entries.iter().enumerate() {
            if entry.base != NONE {
                let place = &mut next[entry.base as usize];
                list[*place as usize] = number as u32;
                *place += 1;
            }
        }
        for pair in start.windows(2) {
            list[pair[0] as usize..pair[1] as usize].sort_by_key(|&child| weight[child as usize]);
        }
        let mut refs = table.refs.clone();
        refs.sort_unstable();
        let claimed = refs.iter().map(|_| AtomicBool::new(false)).collect();
        Children { start, list, refs, claimed }
    }

    /// The number of deltas in all.
    pub(super) fn count(&self) -> u64 {
        (self.list.len() + self.refs.len()) as u64
    }

    fn by_offset(&self, number: u32) -> &[u32] {
        let number = number as usize;
        match (self.start.get(number), self.start.get(number + 1)) {
            (Some(&from), Some(&to)) => &self.list[from as usize..to as usize],
            // An entry that was appended to a thin pack.
            _ => &[],
        }
    }

    fn ref_range(&self, id: &ObjectId) -> std::ops::Range<usize> {
        if self.refs.is_empty() {
            return 0..0;
        }
        let from = self.refs.partition_point(|(base, _)| base < id);
        let count = self.refs[from..].iter().take_while(|(base, _)| base == id).count();
        from..from + count
    }

    /// Claims all deltas on an entry.
    fn claim(&self, number: u32, id: &ObjectId) -> Vec<u32> {
        let range = self.ref_range(id);
        let mut children = Vec::with_capacity(self.by_offset(number).len() + range.len());
        for at in range {
            if !self.claimed[at].swap(true, Ordering::Relaxed) {
                children.push(self.refs[at].1);
            }
        }
        children.extend_from_slice(self.by_offset(number));
        children
    }

    fn any(&self, number: u32, id: &ObjectId) -> bool {
        !self.by_offset(number).is_empty() || !self.ref_range(id).is_empty()
    }

    /// Which deltas by name were taken so far.
    pub(super) fn claims(&self) -> Vec<bool> {
        self.claimed.iter().map(|claimed| claimed.load(Ordering::Relaxed)).collect()
    }

    /// Goes back to what [`Children::claims`] gave.
    pub(super) fn restore(&self, claims: &[bool]) {
        for (claimed, &was) in self.claimed.iter().zip(claims) {
            claimed.store(was, Ordering::Relaxed);
        }
    }

    /// The ids of bases that no object of the pack turned out to have, sorted, once each.
    pub(super) fn missing_bases(&self) -> Vec<ObjectId> {
        let open =
            self.refs.iter().zip(&self.claimed).filter(|(_, claimed)| !claimed.load(Ordering::Relaxed));
        let mut ids: Vec<ObjectId> = open.map(|((base, _), _)| *base).collect();
        ids.dedup();
        ids
    }
}

/// The state that all threads of a round share.
struct Round<'a> {
    table: &'a PackEntries,
    children: &'a Children,
    pack: &'a [u8],
    limits: &'a ReceiveLimits,
    roots: Vec<u32>,
    next: AtomicUsize,
    done: AtomicU64,
    work: &'a AtomicU64,
    work_limit: u64,
    stop: AtomicBool,
    held: usize,
}

/// Ids and kinds that a thread found out.
type Resolved = Vec<(u32, ObjectKind, ObjectId)>;

/// Everything a round needs beside the table.
pub(super) struct Context<'a> {
    pub(super) children: &'a Children,
    pub(super) limits: &'a ReceiveLimits,
    pub(super) policy: &'a Arc<Policy>,
    pub(super) store: Option<&'a Store>,
    pub(super) loose: &'a Option<Arc<IdSet>>,
    /// Bytes made so far, over all rounds.
    pub(super) work: &'a AtomicU64,
    pub(super) threads: usize,
}

/// Deltas of more bytes have room made for them one by one.
const KEPT_DELTA: u64 = 256 << 10;
/// Below this many deltas a thread costs more than it gains.
const DELTAS_PER_THREAD: u64 = 2000;

/// Resolves all deltas on the entries from `first` on that are whole objects. `done` deltas were
/// resolved before.
pub(super) fn round(
    table: &mut PackEntries,
    context: &Context<'_>,
    pack: &[u8],
    first: usize,
    done: u64,
    findings: &mut Findings,
    ticker: &mut Ticker<'_>,
) -> Result<u64> {
    let children = context.children;
    let total = children.count();
    let whole = |number: &u32| {
        let entry = &table.entries[*number as usize];
        entry.kind.is_some() && children.any(*number, &entry.id)
    };
    let roots: Vec<u32> = (first as u32..table.entries.len() as u32).filter(whole).collect();
    if roots.is_empty() {
        return Ok(done);
    }
    let threads = context.threads.max(1).min((total / DELTAS_PER_THREAD) as usize + 1);
    let limits = context.limits;
    let received = table.end;
    let round = Round {
        table,
        children,
        pack,
        limits,
        roots,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(done),
        work: context.work,
        work_limit: limits.delta_floor.saturating_add(limits.delta_ratio.saturating_mul(received)),
        stop: AtomicBool::new(false),
        held: usize::try_from(limits.resolve_bytes).unwrap_or(usize::MAX) / threads,
    };
    let worker = |inspector| Worker {
        round: &round,
        inspector,
        z: Decompress::new(true),
        resolved: Vec::new(),
        stack: Vec::new(),
        held: 0,
        batch: Vec::new(),
        batch_bytes: 0,
        delta: Vec::new(),
    };
    let inspector =
        || Inspector::new(round.table.hash, context.policy.clone(), context.store, context.loose.clone());
    let mut results: Vec<(Resolved, Findings)> = Vec::new();
    if threads == 1 {
        let mut worker = worker(inspector());
        worker.run(&mut |done| ticker.tick(Stage::Resolving, done, total, received))?;
        results.push((worker.resolved, worker.inspector.findings));
    } else {
        results = parallel(&round, threads, &|| worker(inspector()), &mut |done| {
            ticker.now(Stage::Resolving, done, total, received)
        })?;
    }
    let done = round.done.load(Ordering::Relaxed);
    for (resolved, more) in results {
        for (number, kind, id) in resolved {
            let entry = &mut table.entries[number as usize];
            (entry.kind, entry.id) = (Some(kind), id);
        }
        findings.merge(more);
    }
    Ok(done)
}

/// Runs workers on threads of their own, while this one reports.
fn parallel<'r, 'a, 's>(
    round: &'r Round<'a>,
    threads: usize,
    worker: &(dyn Fn() -> Worker<'r, 'a, 's> + Sync),
    report: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<(Resolved, Findings)>>
where
    'a: 'r,
{
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..threads {
            // A worker holds a reader, which stays on its thread.
            running.push(scope.spawn(|| {
                let mut worker = worker();
                let result = worker.run(&mut |_| match round.stop.load(Ordering::Relaxed) {
                    true => Err(Error::Io(std::io::ErrorKind::Interrupted.into())),
                    false => Ok(()),
                });
                if result.is_err() {
                    round.stop.store(true, Ordering::Relaxed);
                }
                result.map(|()| (worker.resolved, worker.inspector.findings))
            }));
        }
        let mut cancelled = Ok(());
        while running.iter().any(|thread| !thread.is_finished()) {
            // Short at first, so that a small pack does not wait for the clock.
            let done = round.done.load(Ordering::Relaxed);
            std::thread::park_timeout(Duration::from_millis(if done < 20_000 { 5 } else { 50 }));
            if cancelled.is_ok() {
                cancelled = report(round.done.load(Ordering::Relaxed));
                if cancelled.is_err() {
                    round.stop.store(true, Ordering::Relaxed);
                }
            }
        }
        let mut results = Vec::new();
        let mut error = None;
        for thread in running {
            match thread.join() {
                Ok(Ok(result)) => results.push(result),
                // The thread that failed first made the others stop: its reason counts.
                Ok(Err(e)) => match (&error, &e) {
                    (None, _)
                    | (Some(Error::Io(_)), Error::Invalid(_) | Error::Limit(_) | Error::SetLimit(..)) => {
                        error = Some(e)
                    }
                    _ => {}
                },
                Err(_) => error = Some(Error::Limit("a thread that resolved deltas failed".into())),
            }
        }
        cancelled?;
        error.map_or(Ok(results), Err)
    })
}

/// An object on the way from a root to the delta at hand.
struct Frame {
    number: u32,
    /// Its content, unless it was dropped.
    data: Option<Rc<Vec<u8>>>,
    children: Vec<u32>,
    next: usize,
}

struct Worker<'r, 'a, 's> {
    round: &'r Round<'a>,
    inspector: Inspector<'s>,
    z: Decompress,
    resolved: Resolved,
    stack: Vec<Frame>,
    /// Bytes in `stack`.
    held: usize,
    /// Objects that wait to be inspected together.
    batch: Vec<(u32, ObjectKind, Rc<Vec<u8>>)>,
    batch_bytes: usize,
    /// Room for a delta's instructions: kept, because a new one would have to be cleared each time.
    delta: Vec<u8>,
}

impl Worker<'_, '_, '_> {
    /// Takes roots until there are none left.
    fn run(&mut self, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        loop {
            let at = self.round.next.fetch_add(1, Ordering::Relaxed);
            let Some(&root) = self.round.roots.get(at) else { return self.inspect() };
            self.root(root, tick)?;
        }
    }

    /// Inspects the objects that wait.
    fn inspect(&mut self) -> Result<()> {
        let numbers: Vec<u32> = self.batch.iter().map(|(number, ..)| *number).collect();
        let jobs: Vec<HashJob<'_>> =
            self.batch.iter().map(|(_, kind, data)| HashJob { kind: *kind, data }).collect();
        let resolved = &mut self.resolved;
        self.inspector.objects(&numbers, &jobs, |number, kind, id| resolved.push((number, kind, id)))?;
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }

    fn root(&mut self, root: u32, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let entry = &self.round.table.entries[root as usize];
        let Some(kind) = entry.kind else { return Ok(()) };
        let children = self.round.children.claim(root, &entry.id);
        if children.is_empty() {
            return Ok(());
        }
        let data = self.whole(root)?;
        self.push(Frame { number: root, data: Some(Rc::new(data)), children, next: 0 });
        while let Some(top) = self.stack.last_mut() {
            let Some(&child) = top.children.get(top.next) else {
                self.pop();
                continue;
            };
            top.next += 1;
            self.child(child, kind)?;
            tick(self.round.done.fetch_add(1, Ordering::Relaxed) + 1)?;
        }
        Ok(())
    }

    /// Makes the object of a delta on the topmost one.
    fn child(&mut self, number: u32, kind: ObjectKind) -> Result<()> {
        let limits = self.round.limits;
        if self.stack.len() > limits.chain as usize {
            let offset = self.round.table.entries[number as usize].offset;
            return Err(limit(
                &format!("pack: entry at {offset}"),
                self.stack.len() as u64,
                "deltas in a chain",
                u64::from(limits.chain),
                "delta depth",
            ));
        }
        let top = self.stack.len() - 1;
        let base = match self.stack[top].data.take() {
            Some(data) => {
                self.held -= data.len();
                data
            }
            None => self.again(top)?,
        };
        let data = Rc::new(self.apply(&base, number)?);
        let frame = &mut self.stack[top];
        if frame.next < frame.children.len() {
            self.held += base.len();
            frame.data = Some(base);
        } else {
            drop(base);
        }
        let children = self.round.children;
        let children = if children.refs.is_empty() && data.len() <= BATCH_OBJECT {
            // Nobody asks for its id before the end.
            self.batch_bytes += data.len();
            self.batch.push((number, kind, data.clone()));
            if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_OBJECTS {
                self.inspect()?;
            }
            children.by_offset(number).to_vec()
        } else {
            let id = self.inspector.object(number, kind, &data)?;
            self.resolved.push((number, kind, id));
            children.claim(number, &id)
        };
        if !children.is_empty() {
            self.push(Frame { number, data: Some(data), children, next: 0 });
        }
        Ok(())
    }

    fn push(&mut self, frame: Frame) {
        self.held += frame.data.as_ref().map_or(0, |data| data.len());
        self.stack.push(frame);
        if self.held <= self.round.held {
            return;
        }
        // Drop from the bottom: what lies there is needed last.
        let top = self.stack.len() - 1;
        for frame in &mut self.stack[..top] {
            if let Some(data) = frame.data.take() {
                self.held -= data.len();
                if self.held <= self.round.held {
                    break;
                }
            }
        }
    }

    fn pop(&mut self) {
        if let Some(data) = self.stack.pop().and_then(|frame| frame.data) {
            self.held -= data.len();
        }
    }

    /// Makes the content of a frame again, from the nearest one below that has it.
    fn again(&mut self, frame: usize) -> Result<Rc<Vec<u8>>> {
        let have = self.stack[..frame].iter().rposition(|frame| frame.data.is_some());
        let mut data = match have {
            Some(_) => Rc::default(),
            None => Rc::new(self.whole(self.stack[0].number)?),
        };
        for at in have.map_or(1, |have| have + 1)..=frame {
            let number = self.stack[at].number;
            let kept = self.stack[at - 1].data.take();
            let base = kept.as_ref().unwrap_or(&data);
            let made = self.apply(base, number)?;
            self.stack[at - 1].data = kept;
            data = Rc::new(made);
        }
        Ok(data)
    }

    /// The content of a whole object.
    fn whole(&mut self, number: u32) -> Result<Vec<u8>> {
        let entry = &self.round.table.entries[number as usize];
        let kind = entry.kind.map_or("object", ObjectKind::name);
        let (offset, allowed) = (entry.offset, self.round.limits.delta_bytes);
        let (header, input) = open(self.round.pack, offset, self.round.table.hash)?;
        if header.size > allowed {
            return Err(limit(
                &format!("pack: {kind} at {offset}, a delta's base"),
                header.size,
                "bytes",
                allowed,
                "delta result",
            ));
        }
        self.count(header.size)?;
        inflate(&mut self.z, input, header.size).map_err(|why| at(offset, why))
    }

    fn apply(&mut self, base: &[u8], number: u32) -> Result<Vec<u8>> {
        let offset = self.round.table.entries[number as usize].offset;
        let (header, input) = open(self.round.pack, offset, self.round.table.hash)?;
        if header.size > KEPT_DELTA {
            let delta = inflate(&mut self.z, input, header.size).map_err(|why| at(offset, why))?;
            return self.made(base, &delta, offset);
        }
        // One byte more, so that a stream that is too long shows.
        let room = header.size as usize + 1;
        let mut kept = std::mem::take(&mut self.delta);
        if kept.len() < room {
            kept.resize(room, 0);
        }
        self.z.reset(true);
        let result = match self.z.decompress(input, &mut kept[..room], FlushDecompress::Finish) {
            Ok(Status::StreamEnd) if self.z.total_out() == header.size => {
                self.made(base, &kept[..room - 1], offset)
            }
            _ => Err(at(offset, "deflate stream is damaged")),
        };
        self.delta = kept;
        result
    }

    fn made(&self, base: &[u8], delta: &[u8], offset: u64) -> Result<Vec<u8>> {
        let (_, size, _) = delta_apply::sizes(delta).map_err(|why| at(offset, why))?;
        self.count(size)?;
        delta_apply::apply(base, delta, self.round.limits.delta_bytes, Vec::new())
            .map_err(|why| at(offset, why))
    }

    fn count(&self, bytes: u64) -> Result<()> {
        let work = self.round.work.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if work > self.round.work_limit {
            let (most, name) = (self.round.work_limit, "delta ratio");
            return Err(limit("pack: its deltas unpack to", work, "bytes, which", most, name));
        }
        Ok(())
    }
}

/// The header of an entry of the pack at hand, and its deflate stream.
pub(super) fn open(pack: &[u8], offset: u64, hash: HashKind) -> Result<(pack::Entry, &[u8])> {
    let entry = pack::Entry::parse(pack, offset, hash).map_err(|why| at(offset, why))?;
    let data = usize::try_from(entry.data_offset).ok().and_then(|start| pack.get(start..));
    Ok((entry, data.unwrap_or(&[])))
}

/// Inflates a stream that the first pass has seen: its size is right and within the limits.
pub(super) fn inflate(
    z: &mut Decompress,
    input: &[u8],
    size: u64,
) -> std::result::Result<Vec<u8>, &'static str> {
    let size = usize::try_from(size).map_err(|_| "object is larger than memory")?;
    let mut data = Vec::with_capacity(size.saturating_add(1));
    z.reset(true);
    match z.decompress_vec(input, &mut data, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) if data.len() == size => Ok(data),
        _ => Err("deflate stream is damaged"),
    }
}
