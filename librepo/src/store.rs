//! Where a repository's objects are: packs, multi-pack indexes, loose files, alternates.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use libgit::{HashKind, ObjectId};

use crate::checked::Checked;
use crate::dir::Dir;
use crate::error::Result;
use crate::loose;
use crate::midx::MultiPackIndex;
use crate::pack::Pack;
use crate::pack_files::{self, Fault, Listed, Opener, PackFiles};
use crate::pack_index::PackIndex;

/// How many packs keep their file open at most.
const KEEP_OPEN: usize = 32;
/// How many packs are asked before it is found out which are the newest.
const GUESSES: usize = 8;
/// About how many bytes of a pack an object takes, for an estimate.
const OBJECT: u64 = 4096;
/// A pack with so many objects is opened before its index is relied upon: while a fetch goes on,
/// maintenance can take away only packs of which little has to be found again.
const MANY: u32 = 1000;

/// What a [`Store`] allows.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// The largest object in bytes that is read into memory; larger ones can only be streamed.
    pub object_bytes: u64,
}

impl Default for StoreLimits {
    fn default() -> StoreLimits {
        StoreLimits { object_bytes: 2 << 30 }
    }
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// In a pack.
    Pack {
        /// Its number, for [`Store::pack`].
        pack: u32,
        /// The object's index in the pack, in the order of ids.
        index: u32,
        /// The offset of its entry in bytes.
        offset: u64,
    },
    /// In a file of its own.
    Loose {
        /// Which objects directory: 0 is the repository's own, then its alternates.
        dir: u16,
    },
}

/// A directory of objects.
#[derive(Debug)]
struct Objects {
    dir: Dir,
    /// Its directory of packs, as it was when it was listed.
    packs: Option<Dir>,
    midx: Option<Midx>,
    /// When its packs last came or went before they were listed.
    stamp: Option<(i64, i64)>,
}

/// A multi-pack index and which of our packs its numbers mean.
#[derive(Debug)]
struct Midx {
    file: MultiPackIndex,
    packs: Vec<u32>,
}

#[derive(Debug)]
struct StorePack {
    files: PackFiles,
    /// Which objects directory it lies in; [`ELSEWHERE`] if it was added by hand.
    dir: u16,
    /// Whether a multi-pack index answers for it.
    covered: bool,
}

/// The directory of packs that were added by hand.
const ELSEWHERE: u16 = u16::MAX;

/// How often a directory that changes while it is looked at is looked at again, and how often all
/// are listed again because packs went away.
const SCANS: usize = 8;

/// What was found to be wrong.
#[derive(Debug, Default)]
struct Faults {
    /// For the log.
    notes: Vec<String>,
    /// Packs that may hold what is found nowhere else, and cannot be used: of lists, with the
    /// number of the directory, and of files that were opened.
    listed: Vec<(u16, String)>,
    opened: Vec<String>,
}

impl Faults {
    /// Keeps a line for the log, once: a directory is looked at several times.
    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// All objects of one repository.
///
/// Directories of packs are listed when it is opened. An index is opened when something is first
/// looked for in it, and a pack when its index has it. Where one was removed between the two, the
/// directories are listed again. Shared between threads; each reads through its own
/// [`Reader`](crate::reader::Reader).
#[derive(Debug)]
pub struct Store {
    hash: HashKind,
    limits: StoreLimits,
    objects: Vec<Objects>,
    packs: Vec<StorePack>,
    /// Packs that were found since, after those above were gone; their numbers continue those.
    later: [OnceLock<Vec<StorePack>>; SCANS],
    /// Taken to list directories again.
    listing: Mutex<()>,
    /// Whether a pack was found to be gone since the last list.
    gone: AtomicBool,
    /// Those of the first list that are probably the newest.
    guesses: Vec<u32>,
    /// The numbers of the first list's packs, those that were written last first.
    newest: OnceLock<Vec<u32>>,
    faults: Mutex<Faults>,
    kept_open: AtomicUsize,
    /// Whether the repository is a partial clone: `.promisor` files count.
    partial: bool,
    last_hit: AtomicU32,
    checked: Arc<Checked>,
}

impl Store {
    /// Lists the packs of an objects directory and of its alternates' (all of them, already
    /// resolved: see [`alternates`](crate::alternates)).
    pub fn open(
        objects: Dir,
        alternates: Vec<Dir>,
        hash: HashKind,
        limits: StoreLimits,
        checked: Arc<Checked>,
    ) -> Result<Store> {
        let dirs = std::iter::once(objects).chain(alternates).take(usize::from(ELSEWHERE));
        let objects = dirs.map(|dir| Objects { dir, packs: None, midx: None, stamp: None }).collect();
        let mut store = Store { objects, checked, ..Store::of_packs(hash, limits) };
        store.refresh()?;
        Ok(store)
    }

    /// A store without a directory, for packs added by hand.
    pub fn of_packs(hash: HashKind, limits: StoreLimits) -> Store {
        Store {
            hash,
            limits,
            objects: Vec::new(),
            packs: Vec::new(),
            later: Default::default(),
            listing: Mutex::default(),
            gone: AtomicBool::new(false),
            guesses: Vec::new(),
            newest: OnceLock::new(),
            faults: Mutex::default(),
            kept_open: AtomicUsize::new(0),
            partial: false,
            last_hit: AtomicU32::new(0),
            checked: Arc::default(),
        }
    }

    /// Looks for packs that appeared since, and gives their number. Those already known stay, with
    /// their numbers.
    pub fn refresh(&mut self) -> Result<usize> {
        self.settle_numbers();
        let before = self.packs.len();
        self.packs.iter_mut().for_each(|pack| pack.files.retry());
        self.faults().opened.clear();
        self.gone.store(false, Relaxed);
        for dir in 0..self.objects.len() {
            self.objects[dir].packs = self.objects[dir].dir.open_dir(b"pack")?;
            let (listed, stamp) = self.list(dir)?;
            self.objects[dir].stamp = stamp;
            let (has_midx, has_layers) = (listed.has_midx, listed.has_layers);
            let new = self.take(dir as u16, listed);
            self.packs.extend(new);
            self.load_midx(dir, has_midx);
            if has_layers {
                self.note_layers(dir)?;
            }
        }
        self.guesses = self.guess();
        Ok(self.packs.len() - before)
    }

    /// Puts all packs into one list, with the numbers that they have.
    fn settle_numbers(&mut self) {
        for later in &mut self.later {
            self.packs.extend(later.take().unwrap_or_default());
        }
        self.newest = OnceLock::new();
        self.guesses.clear();
    }

    /// What a directory of packs holds, and when that last changed. While it is repacked, a list
    /// may have neither the old pack nor the new one.
    fn list(&self, number: usize) -> Result<(Listed, Option<(i64, i64)>)> {
        let mut scan = 0;
        loop {
            let stamp = self.stamp(number)?;
            let listed = match &self.objects[number].packs {
                Some(dir) => pack_files::list(dir)?,
                None => Listed::default(),
            };
            scan += 1;
            if scan >= SCANS || stamp == self.stamp(number)? {
                return Ok((listed, stamp));
            }
        }
    }

    /// The packs of a list that are new. What was said of the directory before may have changed.
    fn take(&self, dir: u16, listed: Listed) -> Vec<StorePack> {
        let known = self.all().filter(|(_, pack)| pack.dir == dir && !pack.files.is_gone());
        let known: HashSet<&str> = known.map(|(_, pack)| pack.files.name()).collect();
        let mut faults = self.faults();
        faults.listed.retain(|(of, _)| *of != dir);
        for (text, noted) in listed.unusable {
            if noted {
                faults.note(text.clone());
            }
            faults.listed.push((dir, text));
        }
        let new = listed.packs.into_iter().filter(|files| !known.contains(files.name()));
        new.map(|files| StorePack { files, dir, covered: false }).collect()
    }

    /// Lists all directories again if a pack was found to be gone, unless that was done too often.
    /// `seen` is how many packs were known before the search that missed it. Whether there is
    /// reason to search again.
    fn listed_again(&self, seen: Range<u32>) -> bool {
        let _one = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pack_numbers() != seen {
            return true;
        }
        let Some(place) = self.later.iter().find(|later| later.get().is_none()) else { return false };
        if !self.gone.swap(false, Relaxed) {
            return false;
        }
        let mut found = Vec::new();
        for dir in 0..self.objects.len() {
            match self.list(dir) {
                Ok((listed, _)) => found.extend(self.take(dir as u16, listed)),
                Err(e) => self.faults().note(e.to_string()),
            }
        }
        let any = !found.is_empty();
        any && place.set(found).is_ok()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All packs with their numbers.
    fn all(&self) -> impl Iterator<Item = (u32, &StorePack)> {
        let later = self.later.iter().map_while(OnceLock::get).flatten();
        (0..).zip(self.packs.iter().chain(later))
    }

    fn known(&self, number: u32) -> Option<&StorePack> {
        let mut at = number as usize;
        if let Some(pack) = self.packs.get(at) {
            return Some(pack);
        }
        at -= self.packs.len();
        for later in self.later.iter().map_while(OnceLock::get) {
            if let Some(pack) = later.get(at) {
                return Some(pack);
            }
            at -= later.len();
        }
        None
    }

    /// Lends what opening a file of a pack needs.
    fn with_opener<'s, T>(
        &'s self,
        pack: &'s StorePack,
        open: impl FnOnce(&'s PackFiles, &Opener<'_>) -> Option<T>,
    ) -> Option<T> {
        let dir = self.objects.get(usize::from(pack.dir))?.packs.as_ref()?;
        let may_keep = || self.kept_open.fetch_add(1, Relaxed) < KEEP_OPEN;
        let fault = |fault: Fault| match fault {
            Fault::Gone => self.gone.store(true, Relaxed),
            Fault::Bad(why) => {
                let mut faults = self.faults();
                faults.opened.push(why.clone());
                faults.note(why);
            }
        };
        let opener =
            Opener { dir, hash: self.hash, checked: &self.checked, may_keep: &may_keep, fault: &fault };
        open(&pack.files, &opener)
    }

    fn index_of<'s>(&'s self, pack: &'s StorePack) -> Option<&'s PackIndex> {
        pack.files.opened_index().or_else(|| self.with_opener(pack, PackFiles::index))
    }

    fn open_pack<'s>(&'s self, pack: &'s StorePack) -> Option<&'s Pack> {
        pack.files.opened().or_else(|| self.with_opener(pack, PackFiles::pack))
    }

    /// The pack with this number, opened now if it was not; `None` if it is no good.
    #[inline]
    pub fn pack(&self, number: u32) -> Option<&Pack> {
        self.open_pack(self.known(number)?)
    }

    /// The index of the pack with this number, opened now if it was not; `None` if it is no good.
    #[inline]
    pub fn index(&self, number: u32) -> Option<&PackIndex> {
        self.index_of(self.known(number)?)
    }

    /// The numbers of the packs that are known so far.
    pub fn pack_numbers(&self) -> Range<u32> {
        let later: usize = self.later.iter().map_while(OnceLock::get).map(Vec::len).sum();
        0..(self.packs.len() + later) as u32
    }

    /// All packs that are good, opened now if they were not, by their numbers.
    pub fn packs(&self) -> Vec<&Pack> {
        self.all().filter_map(|(_, pack)| self.open_pack(pack)).collect()
    }

    /// The packs that are open.
    pub fn opened_packs(&self) -> impl Iterator<Item = &Pack> {
        self.all().filter_map(|(_, pack)| pack.files.opened())
    }

    /// The packs that had a file of bitmaps beside them when they were listed: for each its number
    /// and directory, and the file's name.
    pub(crate) fn packs_with_bitmaps(&self) -> impl Iterator<Item = (u32, u16, Vec<u8>)> {
        let with = self.all().filter(|(_, pack)| pack.files.has_bitmap);
        with.map(|(number, pack)| (number, pack.dir, pack.files.file_name(b".bitmap")))
    }

    /// Opens all indexes, and those packs that hold many objects, so that from here on what is
    /// known to be there can be read.
    pub(crate) fn open_indexes(&self) {
        for _ in 0..=SCANS {
            let seen = self.pack_numbers();
            for number in seen.clone() {
                if self.index(number).is_some_and(|index| index.count() >= MANY) {
                    self.pack(number);
                }
            }
            if !self.listed_again(seen) {
                break;
            }
        }
    }

    /// The packs of the repository itself that are probably the newest. To know it, each would have
    /// to be looked at, and most lists of references ask for the last few.
    fn guess(&self) -> Vec<u32> {
        let own = self.all().filter(|(_, pack)| pack.dir == 0 && !pack.covered);
        let mut own: Vec<(u64, u32)> = own.map(|(number, pack)| (pack.files.inode, number)).collect();
        own.sort_unstable_by_key(|own| Reverse(*own));
        own.into_iter().take(GUESSES).map(|(_, number)| number).collect()
    }

    /// The numbers of the packs that were listed first, those that were written last first.
    fn newest_first(&self) -> &[u32] {
        self.newest.get_or_init(|| {
            let mut found = Vec::with_capacity(self.packs.len());
            for (number, pack) in (0u32..).zip(&self.packs) {
                let dir = self.objects.get(usize::from(pack.dir)).and_then(|objects| objects.packs.as_ref());
                // One that cannot be looked at fails only what needs it: opening it tells why.
                let stat = dir.and_then(|dir| dir.stat(&pack.files.file_name(b".pack")).ok().flatten());
                let time = stat.map_or(0, |(_, stat)| stat.st_mtime);
                found.push((pack.dir, Reverse((time, pack.files.name())), number));
            }
            // As C git has it: what is asked for is mostly new.
            found.sort_unstable();
            found.into_iter().map(|(_, _, number)| number).collect()
        })
    }

    /// About how many bytes all packs have.
    pub(crate) fn packed_bytes(&self) -> u64 {
        let few = self.pack_numbers().len() <= GUESSES;
        let bytes = |(number, pack): (u32, &StorePack)| {
            let pack = if few { self.open_pack(pack) } else { pack.files.opened() };
            let unopened = || self.index(number).map_or(0, |index| u64::from(index.count()) * OBJECT);
            pack.map_or_else(unopened, |pack| pack.bytes().len() as u64)
        };
        self.all().map(bytes).fold(0, u64::saturating_add)
    }

    /// Says whether the repository is a partial clone, so that what a `.promisor` pack names may be
    /// missing.
    pub fn set_partial(&mut self, partial: bool) {
        self.partial = partial;
    }

    /// Whether objects may be missing because another server has them: the repository is a partial
    /// clone and has a pack that came from there.
    pub fn is_partial(&self) -> bool {
        self.promisor_packs().next().is_some()
    }

    /// The packs that came from the server that has what is missing, by number. None unless the
    /// repository is a partial clone.
    pub fn promisor_packs(&self) -> impl Iterator<Item = u32> {
        self.all().filter(|(_, pack)| self.partial && pack.files.promisor).map(|(number, _)| number)
    }

    /// Whether an object lies in one of these packs.
    pub fn is_promisor_object(&self, id: &ObjectId) -> bool {
        self.promisor_packs().any(|number| self.in_pack(number, id).is_some())
    }

    /// Whether packs came or went since they were listed.
    pub fn is_stale(&self) -> bool {
        (0..self.objects.len()).any(|dir| self.stamp(dir).ok() != Some(self.objects[dir].stamp))
    }

    /// When the packs of a directory last came or went.
    fn stamp(&self, number: usize) -> Result<Option<(i64, i64)>> {
        let stat = self.objects[number].dir.stat(b"pack")?;
        Ok(stat.map(|(_, stat)| (stat.st_mtime, stat.st_mtime_nsec)))
    }

    /// Why an object that is nowhere may be missing: a pack that cannot be read, or the place of
    /// its own file. `None` if all that is here can be read.
    pub fn why_missing(&self, id: Option<&ObjectId>) -> Option<String> {
        let loose = id.and_then(|id| self.object_dirs().find_map(|dir| loose::why_unknown(dir, id)));
        if loose.is_some() {
            return loose;
        }
        // Any index that cannot be opened may be the one that has it.
        for number in self.pack_numbers() {
            let _ = self.index(number);
        }
        let faults = self.faults();
        let mut all = faults.opened.iter().chain(faults.listed.iter().map(|(_, text)| text));
        let first = all.next()?.clone();
        match all.count() {
            0 => Some(first),
            more => Some(format!("{first}, and {more} packs more")),
        }
    }

    fn note_layers(&self, number: usize) -> Result<()> {
        let Some(dir) = &self.objects[number].packs else { return Ok(()) };
        if let Some(layers) = dir.open_dir(b"multi-pack-index.d")?
            && layers.stat(b"multi-pack-index-chain")?.is_some()
        {
            let name = layers.name_of(b"multi-pack-index-chain");
            self.faults().note(format!("{}: not used: multi-pack index in layers", name.display()));
        }
        Ok(())
    }

    /// Takes the multi-pack index of a directory if all its packs were listed; else each pack's own
    /// index does.
    fn load_midx(&mut self, number: usize, present: bool) {
        let midx = match self.open_midx(number, present) {
            Ok(midx) => midx,
            Err(why) => {
                self.faults().note(why);
                None
            }
        };
        for pack in self.packs.iter_mut().filter(|pack| usize::from(pack.dir) == number) {
            pack.covered = false;
        }
        for &pack in midx.iter().flat_map(|midx| &midx.packs) {
            self.packs[pack as usize].covered = true;
        }
        self.objects[number].midx = midx;
    }

    fn open_midx(&self, number: usize, present: bool) -> std::result::Result<Option<Midx>, String> {
        const NAME: &[u8] = b"multi-pack-index";
        let dir = self.objects[number].packs.as_ref().filter(|_| present);
        let Some(dir) = dir else { return Ok(None) };
        let fault = |why: &str| format!("{}: {why}", dir.name_of(NAME).display());
        let map = dir.map(NAME).map_err(|e| fault(&e.to_string()))?;
        let Some(map) = map else { return Ok(None) };
        let file = MultiPackIndex::parse(map, self.hash).map_err(fault)?;
        let of_dir = self.all().filter(|(_, pack)| usize::from(pack.dir) == number);
        let numbers: HashMap<&str, u32> = of_dir.map(|(at, pack)| (pack.files.name(), at)).collect();
        let packs: Option<Vec<u32>> =
            file.packs().iter().map(|name| numbers.get(&name[..]).copied()).collect();
        let packs = packs.ok_or_else(|| fault("packs of the multi-pack index missing"))?;
        Ok(Some(Midx { file, packs }))
    }

    /// The multi-pack index of an objects directory (of [`Store::object_dirs`]), if one is in use,
    /// with the numbers that its packs have here.
    pub fn multi_pack_index(&self, dir: usize) -> Option<(&MultiPackIndex, &[u32])> {
        let midx = self.objects.get(dir)?.midx.as_ref()?;
        Some((&midx.file, &midx.packs))
    }

    /// The multi-pack indexes in use, each with the numbers that its packs have here.
    pub fn multi_pack_indexes(&self) -> impl Iterator<Item = (&MultiPackIndex, &[u32])> {
        (0..self.objects.len()).filter_map(|dir| self.multi_pack_index(dir))
    }

    /// Adds a pack that lies elsewhere (one that is just being received), and gives its number.
    pub fn add_pack(&mut self, pack: Pack) -> u32 {
        self.settle_numbers();
        self.packs.push(StorePack { files: PackFiles::of(pack), dir: ELSEWHERE, covered: false });
        (self.packs.len() - 1) as u32
    }

    /// The algorithm of the ids.
    #[inline]
    pub fn hash(&self) -> HashKind {
        self.hash
    }

    /// Which files need not be checked any more, and which were.
    pub fn checked(&self) -> &Arc<Checked> {
        &self.checked
    }

    /// The limits it was opened with.
    pub fn limits(&self) -> StoreLimits {
        self.limits
    }

    /// Files that were passed over so far because they are damaged, one line each, for the log.
    pub fn notes(&self) -> Vec<String> {
        self.faults().notes.clone()
    }

    /// Whether the pack lies in the repository itself, not in an alternate.
    pub fn is_local(&self, pack: u32) -> bool {
        self.known(pack).is_some_and(|pack| pack.dir == 0)
    }

    /// The objects directories: the repository's own, then its alternates.
    pub fn object_dirs(&self) -> impl Iterator<Item = &Dir> {
        self.objects.iter().map(|objects| &objects.dir)
    }

    fn in_pack(&self, number: u32, id: &ObjectId) -> Option<Location> {
        let pack = self.known(number)?;
        let index = self.index_of(pack)?.lookup(id.as_bytes())?;
        let offset = self.open_pack(pack)?.offset_at(index);
        Some(Location::Pack { pack: number, index, offset })
    }

    /// Where an object is in the packs.
    pub fn locate_packed(&self, id: &ObjectId) -> Option<Location> {
        if id.kind() != self.hash {
            return None;
        }
        loop {
            let seen = self.pack_numbers();
            let found = self.search_packs(id);
            if found.is_some() || !self.listed_again(seen) {
                return found;
            }
        }
    }

    fn search_packs(&self, id: &ObjectId) -> Option<Location> {
        // The pack that had the last object has most often the next.
        let last = self.last_hit.load(Relaxed);
        let asked = |number: u32| self.known(number).is_some_and(|pack| pack.files.opened().is_some());
        if asked(last)
            && let Some(found) = self.in_pack(last, id)
        {
            return Some(found);
        }
        let found = self.by_midx(id).or_else(|| self.by_packs(id, last, false))?;
        if let Location::Pack { pack, .. } = found {
            self.last_hit.store(pack, Relaxed);
        }
        Some(found)
    }

    /// Asks the multi-pack indexes for the pack, and that pack's own index for the rest, so that a
    /// damaged multi-pack index can cost time but never give a wrong object. Where that pack cannot
    /// be read, others may have the object, too.
    fn by_midx(&self, id: &ObjectId) -> Option<Location> {
        self.objects.iter().filter_map(|objects| objects.midx.as_ref()).find_map(|midx| {
            let (pack, _) = midx.file.entry_at(midx.file.lookup(id.as_bytes())?)?;
            let pack = *midx.packs.get(pack as usize)?;
            self.in_pack(pack, id).or_else(|| self.by_packs(id, pack, true))
        })
    }

    /// Asks one pack after the other, those that a multi-pack index answers for or the others.
    fn by_packs(&self, id: &ObjectId, but: u32, covered: bool) -> Option<Location> {
        let of_kind = |number: &u32| self.known(*number).is_some_and(|pack| pack.covered == covered);
        let asked = |number: &u32| {
            *number == but && self.known(*number).is_some_and(|pack| pack.files.opened().is_some())
        };
        let search = |number: u32| self.in_pack(number, id);
        let mut guesses = self.guesses.iter().copied().filter(of_kind).filter(|number| !asked(number));
        if let Some(found) = guesses.find_map(search) {
            return Some(found);
        }
        let mut others = self.pack_numbers().filter(of_kind).filter(|number| !self.guesses.contains(number));
        let first = others.next()?;
        if others.next().is_none() {
            return search(first);
        }
        let later = self.packs.len() as u32..self.pack_numbers().end;
        let order = self.newest_first().iter().copied().chain(later).filter(of_kind);
        order.filter(|number| !asked(number) && !self.guesses.contains(number)).find_map(search)
    }

    /// Where an object is.
    pub fn locate(&self, id: &ObjectId) -> Option<Location> {
        if id.kind() != self.hash {
            return None;
        }
        if let Some(found) = self.locate_packed(id) {
            return Some(found);
        }
        if let Some(dir) = self.objects.iter().position(|objects| loose::contains(&objects.dir, id)) {
            return Some(Location::Loose { dir: dir as u16 });
        }
        // What a multi-pack index should have known of, had it not been damaged.
        self.by_packs(id, u32::MAX, true)
    }

    /// Whether the object is here.
    pub fn contains(&self, id: &ObjectId) -> bool {
        self.locate(id).is_some()
    }

    /// The objects directory with this number.
    pub(crate) fn object_dir(&self, number: u16) -> Option<&Dir> {
        self.objects.get(usize::from(number)).map(|objects| &objects.dir)
    }
}
