//! Where a repository's objects are: packs, multi-pack indexes, loose files, alternates.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use libgit::{HashKind, ObjectId};

use crate::checked::Checked;
use crate::dir::{Dir, EntryType};
use crate::error::Result;
use crate::loose;
use crate::midx::MultiPackIndex;
use crate::pack::Pack;
use crate::pack_index::PackIndex;

/// The most entries that a pack directory may have.
const MAX_PACK_ENTRIES: usize = 200_000;
/// Packs of at least this many bytes keep their file open, for copying inside the kernel.
const KEEP_OPEN_BYTES: usize = 1 << 20;
/// How many packs keep their file open at most.
const KEEP_OPEN: usize = 32;

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
        /// Which of [`Store::packs`].
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
    midx: Option<Midx>,
    /// When its packs last came or went before they were opened.
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
    /// Which objects directory it lies in; `u16::MAX` if it was added by hand.
    dir: u16,
    /// Whether a multi-pack index answers for it.
    covered: bool,
    /// Whether what its objects name may be missing here, by the `.promisor` file beside it.
    promisor: bool,
}

/// How often a directory that changes while it is looked at is looked at again.
const SCANS: usize = 8;

/// What is in the place of a pack's file, and none.
const ODD: &str = "not a regular file";

/// The name of a pack in texts and in multi-pack indexes, from that of its files.
fn shown_name(stem: &[u8]) -> String {
    stem.escape_ascii().to_string()
}

/// All objects of one repository, as they were when it was opened.
///
/// Packs and their indexes are opened and mapped at once, so that a pack which maintenance removes
/// meanwhile can still be read. Shared between threads; each reads through its own
/// [`Reader`](crate::reader::Reader).
#[derive(Debug)]
pub struct Store {
    hash: HashKind,
    limits: StoreLimits,
    objects: Vec<Objects>,
    packs: Vec<Pack>,
    about: Vec<StorePack>,
    notes: Vec<String>,
    /// Packs that may hold what is found nowhere else, and cannot be read: the directory of each,
    /// and the reason.
    unusable: Vec<(u16, String)>,
    /// Whether the repository is a partial clone: `.promisor` files count.
    partial: bool,
    last_hit: AtomicU32,
    checked: Arc<Checked>,
}

impl Store {
    /// Opens the packs of an objects directory and of its alternates' (all of them, already
    /// resolved: see [`alternates`](crate::alternates)).
    pub fn open(
        objects: Dir,
        alternates: Vec<Dir>,
        hash: HashKind,
        limits: StoreLimits,
        checked: Arc<Checked>,
    ) -> Result<Store> {
        let dirs = std::iter::once(objects).chain(alternates).take(usize::from(u16::MAX));
        let mut store = Store {
            hash,
            limits,
            objects: dirs.map(|dir| Objects { dir, midx: None, stamp: None }).collect(),
            packs: Vec::new(),
            about: Vec::new(),
            notes: Vec::new(),
            unusable: Vec::new(),
            partial: false,
            last_hit: AtomicU32::new(0),
            checked,
        };
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
            about: Vec::new(),
            notes: Vec::new(),
            unusable: Vec::new(),
            partial: false,
            last_hit: AtomicU32::new(0),
            checked: Arc::default(),
        }
    }

    /// Looks for packs that appeared since, and gives their number. Those already open stay, with
    /// their numbers.
    pub fn refresh(&mut self) -> Result<usize> {
        let before = self.packs.len();
        for dir in 0..self.objects.len() {
            // While it is repacked, a directory's list may have neither the old pack nor the new
            // one.
            for _ in 0..SCANS {
                let stamp = self.stamp(dir)?;
                let whole = self.scan(dir)?;
                self.objects[dir].stamp = stamp;
                if whole && stamp == self.stamp(dir)? {
                    break;
                }
            }
        }
        Ok(self.packs.len() - before)
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
        let numbered = self.about.iter().zip(0u32..);
        numbered.filter(|(about, _)| self.partial && about.promisor).map(|(_, number)| number)
    }

    /// Whether an object lies in one of these packs.
    pub fn is_promisor_object(&self, id: &ObjectId) -> bool {
        self.promisor_packs().any(|number| self.in_pack(number, id).is_some())
    }

    /// Whether packs came or went since they were opened.
    pub fn is_stale(&self) -> bool {
        (0..self.objects.len()).any(|dir| self.stamp(dir).ok() != Some(self.objects[dir].stamp))
    }

    /// When the packs of a directory last came or went.
    fn stamp(&self, number: usize) -> Result<Option<(i64, i64)>> {
        let stat = self.objects[number].dir.stat(b"pack")?;
        Ok(stat.map(|(_, stat)| (stat.st_mtime, stat.st_mtime_nsec)))
    }

    /// Opens the packs of a directory that are not open yet; false if one of them went away
    /// meanwhile.
    fn scan(&mut self, number: usize) -> Result<bool> {
        let Some(dir) = self.objects[number].dir.open_dir(b"pack")? else { return Ok(true) };
        let dir_number = u16::try_from(number).unwrap_or(u16::MAX);
        let open: HashSet<&str> = self.of_dir(dir_number).map(|(pack, _)| pack.name()).collect();
        let entries = dir.entries(MAX_PACK_ENTRIES)?;
        let indexed: HashSet<&[u8]> =
            entries.iter().filter_map(|(name, _)| name.strip_suffix(b".idx")).collect();
        let promisors: HashSet<&[u8]> =
            entries.iter().filter_map(|(name, _)| name.strip_suffix(b".promisor")).collect();
        let (mut found, mut unusable) = (Vec::new(), Vec::new());
        let mut say = |name: &[u8], why: &str| {
            unusable.push(format!("{}: {why}", dir.name_of(name).display()));
        };
        for (name, kind) in &entries {
            // Any name will do, as for C git: other writers have other names than `pack-ID`.
            let Some(stem) = name.strip_suffix(b".idx") else {
                if name.strip_suffix(b".pack").is_some_and(|stem| !indexed.contains(stem)) {
                    say(name, "without an index");
                }
                continue;
            };
            if open.contains(&*shown_name(stem)) {
                continue;
            }
            if *kind != EntryType::File {
                say(name, ODD);
                continue;
            }
            // A pack whose .pack is gone or not yet there is none.
            let pack = [stem, b".pack"].concat();
            match dir.stat(&pack) {
                Ok(Some((EntryType::File, stat))) => found.push((stat.st_mtime, stem.to_owned())),
                Ok(Some(_)) => say(&pack, ODD),
                Ok(None) => say(name, "without its pack"),
                // One that cannot be looked at fails only what needs it: opening it tells why.
                Err(_) => found.push((0, stem.to_owned())),
            }
        }
        // A file without its other half is told of only where an object is missing: its writer may
        // be about to bring that.
        let notes: Vec<String> = unusable.iter().filter(|text| text.ends_with(ODD)).cloned().collect();
        // What was said of this directory before may have changed.
        self.unusable.retain(|(of, _)| *of != dir_number);
        self.unusable.extend(unusable.into_iter().map(|text| (dir_number, text)));
        notes.into_iter().for_each(|text| self.note(text));
        // The newest first, as C git has it: what is asked for is mostly new.
        found.sort_by(|a, b| b.cmp(a));
        let mut whole = true;
        for (_, stem) in found {
            match self.open_pack(&dir, &stem) {
                Ok(Some(pack)) => {
                    let promisor = promisors.contains(&stem[..]);
                    self.packs.push(pack);
                    self.about.push(StorePack { dir: dir_number, covered: false, promisor });
                }
                Ok(None) => whole = false,
                Err(why) => {
                    self.unusable.push((dir_number, why.clone()));
                    self.note(why);
                }
            }
        }
        self.load_midx(number, &dir);
        if let Some(layers) = dir.open_dir(b"multi-pack-index.d")?
            && layers.stat(b"multi-pack-index-chain")?.is_some()
        {
            let name = layers.name_of(b"multi-pack-index-chain");
            self.notes.push(format!("{}: not used: multi-pack index in layers", name.display()));
        }
        Ok(whole)
    }

    /// Keeps a line for the log, once: a directory is looked at several times.
    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Why an object that is nowhere may be missing: a pack that cannot be read, or the place of
    /// its own file. `None` if all that is here can be read.
    pub fn why_missing(&self, id: Option<&ObjectId>) -> Option<String> {
        let loose = id.and_then(|id| self.object_dirs().find_map(|dir| loose::why_unknown(dir, id)));
        if loose.is_some() {
            return loose;
        }
        match &self.unusable[..] {
            [] => None,
            [(_, one)] => Some(one.clone()),
            [(_, first), rest @ ..] => Some(format!("{first}, and {} packs more", rest.len())),
        }
    }

    /// The packs of one objects directory, with their numbers.
    fn of_dir(&self, dir: u16) -> impl Iterator<Item = (&Pack, u32)> {
        let numbered = self.packs.iter().zip(&self.about).zip(0u32..);
        numbered.filter(move |((_, about), _)| about.dir == dir).map(|((pack, _), number)| (pack, number))
    }

    /// Opens one pack; `None` if it went away under us, the reason if it is no good.
    fn open_pack(&self, dir: &Dir, stem: &[u8]) -> std::result::Result<Option<Pack>, String> {
        let text = |e: crate::Error| e.to_string();
        let name = |suffix: &[u8]| [stem, suffix].concat();
        let Some(index) = dir.map(&name(b".idx")).map_err(text)? else { return Ok(None) };
        let about = |suffix: &[u8], why: &str| format!("{}: {why}", dir.name_of(&name(suffix)).display());
        let index = PackIndex::parse(index, self.hash).map_err(|why| about(b".idx", why))?;
        let Some(file) = dir.open_file(&name(b".pack")).map_err(text)? else { return Ok(None) };
        let map = crate::dir::Map::of_file(&file).map_err(|e| about(b".pack", &e.to_string()))?;
        // A .rev file that cannot be opened is one that is not there.
        let rev = dir.map(&name(b".rev")).ok().flatten();
        let keep = map.len() >= KEEP_OPEN_BYTES
            && self.packs.iter().filter(|pack| pack.file().is_some()).count() < KEEP_OPEN;
        let pack = Pack::new(shown_name(stem), map, index, rev).map_err(|why| about(b".pack", why))?;
        let pack = pack.with_checked(self.checked.clone());
        Ok(Some(if keep { pack.with_file(file) } else { pack }))
    }

    /// Takes the multi-pack index of a directory if all its packs are open; else each pack's own
    /// index does.
    fn load_midx(&mut self, number: usize, dir: &Dir) {
        let file = match dir.map(b"multi-pack-index") {
            Ok(None) => None,
            Ok(Some(map)) => Some(MultiPackIndex::parse(map, self.hash).map_err(str::to_owned)),
            Err(e) => Some(Err(e.to_string())),
        };
        let file = file.map(|file| {
            let file = file?;
            let of_dir = self.of_dir(u16::try_from(number).unwrap_or(u16::MAX));
            let numbers: HashMap<&str, u32> = of_dir.map(|(pack, number)| (pack.name(), number)).collect();
            let packs: Option<Vec<u32>> =
                file.packs().iter().map(|name| numbers.get(&name[..]).copied()).collect();
            let packs = packs.ok_or_else(|| "packs of the multi-pack index missing".to_owned())?;
            Ok::<_, String>(Midx { file, packs })
        });
        let midx = match file {
            Some(Ok(midx)) => Some(midx),
            None => None,
            Some(Err(why)) => {
                self.notes.push(format!("{}: {why}", dir.name_of(b"multi-pack-index").display()));
                None
            }
        };
        for about in self.about.iter_mut().filter(|about| usize::from(about.dir) == number) {
            about.covered = false;
        }
        for &pack in midx.iter().flat_map(|midx| &midx.packs) {
            self.about[pack as usize].covered = true;
        }
        self.objects[number].midx = midx;
    }

    /// The multi-pack index of an objects directory (of [`Store::object_dirs`]), if one is in use,
    /// with the numbers that its packs have here.
    pub fn multi_pack_index(&self, dir: usize) -> Option<(&MultiPackIndex, &[u32])> {
        let midx = self.objects.get(dir)?.midx.as_ref()?;
        Some((&midx.file, &midx.packs))
    }

    /// The multi-pack indexes in use, each with the numbers that its packs have here.
    pub fn multi_pack_indexes(&self) -> impl Iterator<Item = (&MultiPackIndex, &[u32])> {
        self.objects
            .iter()
            .filter_map(|objects| objects.midx.as_ref())
            .map(|midx| (&midx.file, &midx.packs[..]))
    }

    /// Adds a pack that lies elsewhere (one that is just being received), and gives its number.
    pub fn add_pack(&mut self, pack: Pack) -> u32 {
        self.packs.push(pack);
        self.about.push(StorePack { dir: u16::MAX, covered: false, promisor: false });
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

    /// The packs. Their order is that of their numbers in [`Location`].
    #[inline]
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// Files that were passed over because they are damaged, one line each, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the pack lies in the repository itself, not in an alternate.
    pub fn is_local(&self, pack: u32) -> bool {
        self.about.get(pack as usize).is_some_and(|about| about.dir == 0)
    }

    /// The objects directories: the repository's own, then its alternates.
    pub fn object_dirs(&self) -> impl Iterator<Item = &Dir> {
        self.objects.iter().map(|objects| &objects.dir)
    }

    fn in_pack(&self, number: u32, id: &ObjectId) -> Option<Location> {
        let pack = self.packs.get(number as usize)?;
        let index = pack.lookup(id.as_bytes())?;
        Some(Location::Pack { pack: number, index, offset: pack.offset_at(index) })
    }

    /// Where an object is in the packs.
    pub fn locate_packed(&self, id: &ObjectId) -> Option<Location> {
        if id.kind() != self.hash {
            return None;
        }
        // The pack that had the last object has most often the next.
        let last = self.last_hit.load(Relaxed);
        if let Some(found) = self.in_pack(last, id) {
            return Some(found);
        }
        let found = self.by_midx(id).or_else(|| self.by_packs(id, last, false))?;
        if let Location::Pack { pack, .. } = found {
            self.last_hit.store(pack, Relaxed);
        }
        Some(found)
    }

    /// Asks the multi-pack indexes for the pack, and that pack's own index for the rest, so that a
    /// damaged multi-pack index can cost time but never give a wrong object.
    fn by_midx(&self, id: &ObjectId) -> Option<Location> {
        self.objects.iter().filter_map(|objects| objects.midx.as_ref()).find_map(|midx| {
            let (pack, _) = midx.file.entry_at(midx.file.lookup(id.as_bytes())?)?;
            self.in_pack(*midx.packs.get(pack as usize)?, id)
        })
    }

    /// Asks one pack after the other, those that a multi-pack index answers for or the others.
    fn by_packs(&self, id: &ObjectId, but: u32, covered: bool) -> Option<Location> {
        let packs = self.about.iter().zip(0u32..).filter(|(about, _)| about.covered == covered);
        packs.filter(|&(_, number)| number != but).find_map(|(_, number)| self.in_pack(number, id))
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
