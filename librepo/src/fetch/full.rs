//! Clones without bitmaps: all trees of many commits, by several threads.
//!
//! A directory with all its versions is one piece of work, those with very many versions are
//! several. The threads share nothing but the queue and the bits of what was met, so that no object
//! is read twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libgit::ObjectKind;

use super::bits::Bits;
use super::commits::Source;
use super::plan::{Names, Plan, name_hash};
use super::progress::Progress;
use super::walk::Recent;
use crate::error::{Error, Result};
use crate::object::TreeEntries;
use crate::reader::Reader;

/// A directory with more versions than this is divided.
const DIVIDED: usize = 1024;
/// How long a thread without work waits before it looks around.
const PATIENCE: Duration = Duration::from_millis(20);

/// Versions of one directory, all of them claimed for this piece of work.
struct Directory {
    /// Hash of its path with the slash.
    prefix: u32,
    trees: Vec<u32>,
}

/// Work to do, and how many threads are at it.
#[derive(Default)]
struct Queue {
    waiting: Vec<Directory>,
    active: usize,
}

struct Shared {
    met: Vec<AtomicU64>,
    names: Vec<AtomicU32>,
    /// What was met of objects that no pack holds.
    loose: Mutex<(Bits, Vec<(u32, u32)>)>,
    packed: u32,
    queue: Mutex<Queue>,
    more: Condvar,
    count: AtomicU64,
    failed: AtomicBool,
    threads: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(source: &Source<'_>, plan: &Plan, threads: usize) -> Shared {
        let packed = source.space.packed();
        let words = (packed / 64 + 1) as usize;
        let known = plan.wanted.words();
        let mut loose = Bits::default();
        for number in plan.wanted.between(packed, u32::MAX - packed) {
            loose.set(packed + number);
        }
        Shared {
            met: (0..words).map(|at| AtomicU64::new(known.get(at).copied().unwrap_or(0))).collect(),
            names: (0..packed).map(|_| AtomicU32::new(0)).collect(),
            loose: Mutex::new((loose, Vec::new())),
            packed,
            queue: Mutex::default(),
            more: Condvar::new(),
            count: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            threads,
        }
    }

    /// Claims an object; true for the first thread that claims it.
    fn meet(&self, number: u32, name: u32) -> bool {
        let new = match self.met.get((number / 64) as usize) {
            Some(word) if number < self.packed => {
                let bit = 1 << (number % 64);
                let new = word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0;
                if new && let Some(slot) = self.names.get(number as usize) {
                    slot.store(name, Relaxed);
                }
                new
            }
            _ => {
                let mut loose = lock(&self.loose);
                let new = loose.0.set(number);
                if new {
                    loose.1.push((number, name));
                }
                new
            }
        };
        if new {
            self.count.fetch_add(1, Relaxed);
        }
        new
    }

    fn enqueue(&self, directory: Directory) {
        if directory.trees.is_empty() {
            return;
        }
        let mut queue = lock(&self.queue);
        if directory.trees.len() > DIVIDED {
            for trees in directory.trees.chunks(directory.trees.len().div_ceil(self.threads)) {
                queue.waiting.push(Directory { prefix: directory.prefix, trees: trees.to_vec() });
            }
        } else {
            queue.waiting.push(directory);
        }
        drop(queue);
        self.more.notify_all();
    }

    /// The next piece of work; `None` when all is done. `look` is called now and then while there
    /// is none.
    fn take(&self, look: &mut dyn FnMut() -> Result<()>) -> Result<Option<Directory>> {
        let mut queue = lock(&self.queue);
        loop {
            if self.failed.load(Relaxed) {
                return Ok(None);
            }
            if let Some(directory) = queue.waiting.pop() {
                queue.active += 1;
                return Ok(Some(directory));
            }
            if queue.active == 0 {
                return Ok(None);
            }
            queue = self.more.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            drop(queue);
            look()?;
            queue = lock(&self.queue);
        }
    }

    fn done(&self) {
        lock(&self.queue).active -= 1;
        self.more.notify_all();
    }

    fn work(&self, source: &mut Source<'_>, look: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let outcome = loop {
            match self.take(look) {
                Ok(Some(directory)) => {
                    let result = self.directory(source, directory, look);
                    self.done();
                    if result.is_err() {
                        break result;
                    }
                }
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        if outcome.is_err() {
            self.failed.store(true, Relaxed);
            self.more.notify_all();
        }
        outcome
    }

    fn directory(
        &self,
        source: &mut Source<'_>,
        directory: Directory,
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let hash = source.space.store().hash();
        let mut below: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut children: Vec<Directory> = Vec::new();
        let mut recent = Recent::new(directory.trees.len());
        for tree in directory.trees {
            if self.failed.load(Relaxed) {
                return Ok(());
            }
            look()?;
            let object = source.read(tree)?;
            if object.kind != ObjectKind::Tree {
                return Err(Error::CorruptObject(source.space.id(tree), "not the tree that it should be"));
            }
            for entry in TreeEntries::new(&object.data, hash) {
                let entry = entry.map_err(|e| Error::CorruptObject(source.space.id(tree), e.0))?;
                if recent.seen(entry.id_bytes) || entry.is_submodule() {
                    continue;
                }
                let number = source.number(&entry.id())?;
                let name = name_hash(directory.prefix, entry.name);
                if !self.meet(number, name) || !entry.is_tree() {
                    continue;
                }
                let at = match below.get(entry.name) {
                    Some(at) => *at,
                    None => {
                        below.insert(entry.name.to_vec(), children.len());
                        let prefix = name_hash(name, b"/");
                        children.push(Directory { prefix, trees: Vec::new() });
                        children.len() - 1
                    }
                };
                children[at].trees.push(number);
            }
        }
        for child in children {
            self.enqueue(child);
        }
        Ok(())
    }
}

/// Adds all trees below `roots` and what they hold to a plan.
pub(super) fn trees(
    source: &mut Source<'_>,
    plan: &mut Plan,
    roots: Vec<u32>,
    threads: usize,
    cache_bytes: usize,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let shared = Shared::new(source, plan, threads.max(1));
    let roots = roots.into_iter().filter(|root| shared.meet(*root, 0)).collect();
    shared.enqueue(Directory { prefix: 0, trees: roots });
    let store = source.space.store();
    std::thread::scope(|scope| {
        let mut helpers = Vec::new();
        for _ in 1..threads.clamp(1, 8) {
            let (space, shared) = (source.space.clone(), &shared);
            helpers.push(scope.spawn(move || {
                let mut source = Source::of(space, Reader::new(store, cache_bytes));
                shared.work(&mut source, &mut || Ok(()))
            }));
        }
        let mut told = 0;
        let mut outcome = shared.work(source, &mut || {
            let count = shared.count.load(Relaxed);
            progress.step(count - told)?;
            told = count;
            Ok(())
        });
        for helper in helpers {
            match helper.join() {
                Ok(result) => outcome = outcome.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome?;
        progress.step(shared.count.load(Relaxed) - told)
    })?;
    let met: Vec<u64> = shared.met.into_iter().map(AtomicU64::into_inner).collect();
    plan.wanted.or(&met);
    plan.names = Names::of(shared.names.into_iter().map(AtomicU32::into_inner));
    let (loose, names) = shared.loose.into_inner().unwrap_or_else(PoisonError::into_inner);
    plan.wanted.or(loose.words());
    for (number, name) in names {
        plan.set_name(number, name);
    }
    Ok(())
}
