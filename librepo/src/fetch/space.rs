//! Numbers for objects, so that sets of them are bits.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use libgit::ObjectId;

use super::pseudo_pack::PseudoPack;
use crate::error::{Error, Result};
use crate::id::IdMap;
use crate::pack_index::PackIndex;
use crate::store::{Location, Store};

/// The number of no object.
pub(crate) const NO_OBJECT: u32 = u32::MAX;

/// Where a numbered object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectPlace {
    /// In a pack: its number, the object's index there (by id), its offset in bytes.
    Pack { pack: u32, index: u32, offset: u64 },
    /// In a file of its own.
    Loose { id: ObjectId, dir: u16 },
}

/// Which objects are numbered from 0 on as the bits of a bitmap count them.
#[derive(Clone, Debug, Default)]
pub(crate) enum First {
    /// None: there is no bitmap.
    #[default]
    None,
    /// The objects of a pack, by their position in it.
    Pack(u32),
    /// The objects of a multi-pack index, by their position in its order.
    Packs(Arc<PseudoPack>),
}

/// More small packs than this are searched by a table of all that they hold.
const FEW: usize = 8;
/// A pack with fewer objects than this is small: as a push leaves it.
pub(crate) const SMALL: u32 = 1000;
/// The most objects that the table holds.
const MOST: u32 = 1 << 20;

/// Numbers every object of a store: those of packs by pack and index, the others as they turn up.
///
/// The objects of the pack, or of the multi-pack index, that has a bitmap are numbered by their
/// position in it, from 0 on, so that the bitmap's bits are numbers.
#[derive(Clone)]
pub(crate) struct Space<'s> {
    store: &'s Store,
    /// The first number of each pack.
    bases: Vec<u32>,
    /// The packs in the order in which they are asked, each with its first number and how many
    /// numbers it has: an object in several of them always gets the same number.
    order: Vec<Numbered>,
    /// Which of them are small ones that are asked all at once.
    together: Range<usize>,
    /// What these hold, once something was looked for there.
    table: Arc<OnceLock<IdMap<(u32, u32)>>>,
    /// The first number that no pack has.
    packed: u32,
    /// Whose objects have the first numbers.
    first: First,
    /// Shared by all copies, so that threads give the same numbers.
    extra: Arc<Mutex<Extra>>,
}

/// The numbers of a pack.
#[derive(Clone, Copy, Debug)]
struct Numbered {
    pack: u32,
    base: u32,
    count: u32,
}

/// The objects met so far that no pack holds, or only one that was found while the fetch went on.
#[derive(Default)]
struct Extra {
    numbers: IdMap<u32>,
    places: Vec<(ObjectId, Location)>,
}

impl<'s> Space<'s> {
    /// Numbers for a store.
    pub(crate) fn new(store: &'s Store, first: First) -> Result<Space<'s>> {
        let too_many = || Error::Limit("more objects than can be numbered".to_owned());
        store.open_indexes();
        let count = |pack: u32| store.index(pack).map_or(0, PackIndex::count);
        // Packs of a multi-pack index are searched through it, and directly only if it is damaged.
        let rank = |pack: u32| match &first {
            First::Pack(first) if *first == pack => 0,
            First::Packs(packs) if packs.holds(pack) => 2,
            _ => 1,
        };
        let mut bases = vec![0; store.pack_numbers().len()];
        let mut packs: Vec<u32> = store.pack_numbers().filter(|pack| count(*pack) > 0).collect();
        // The largest packs first: they answer most questions, and hold the best deltas. Of small
        // ones the oldest first: a later one repeats an object only because something in it is
        // built upon that, and has it whole.
        packs.sort_by_cached_key(|pack| match count(*pack) {
            ..SMALL => (rank(*pack), u32::MAX, store.index(*pack).and_then(PackIndex::written)),
            count => (rank(*pack), u32::MAX - count, None),
        });
        let mut next = match &first {
            First::Packs(packs) => packs.count(),
            _ => 0,
        };
        let mut order = Vec::with_capacity(packs.len());
        for pack in packs {
            let count = count(pack);
            bases[pack as usize] = next;
            order.push(Numbered { pack, base: next, count });
            next = next.checked_add(count).filter(|n| *n < NO_OBJECT / 2).ok_or_else(too_many)?;
        }
        let small = |numbered: &Numbered| rank(numbered.pack) == 1 && numbered.count < SMALL;
        let start = order.iter().position(small).unwrap_or(order.len());
        let mut held = 0u32;
        let few_enough = order[start..].iter().take_while(|numbered| {
            held = held.saturating_add(numbered.count);
            small(numbered) && held <= MOST
        });
        let together = start..start + few_enough.count();
        let (table, extra) = (Arc::default(), Arc::default());
        Ok(Space { store, bases, order, together, table, packed: next, first, extra })
    }

    pub(crate) fn store(&self) -> &'s Store {
        self.store
    }

    /// How many numbers there are so far.
    pub(crate) fn count(&self) -> u32 {
        self.packed + self.extra().places.len() as u32
    }

    /// How many numbers belong to packs: these come first.
    pub(crate) fn packed(&self) -> u32 {
        self.packed
    }

    /// The number of an object; `None` if it is not here.
    pub(crate) fn number(&self, id: &ObjectId) -> Option<u32> {
        if let Some(number) = self.packed_number(id) {
            return Some(number);
        }
        if let Some(number) = self.extra().numbers.get(id) {
            return Some(*number);
        }
        let place = self.store.locate(id)?;
        let mut extra = self.extra();
        if let Some(number) = extra.numbers.get(id) {
            return Some(*number);
        }
        let number = u32::try_from(extra.places.len()).ok()?.checked_add(self.packed)?;
        if number == NO_OBJECT {
            return None;
        }
        extra.numbers.insert(*id, number);
        extra.places.push((*id, place));
        Some(number)
    }

    /// The number of an object that no pack holds, if it was asked for before. Looks for no file.
    pub(crate) fn met(&self, id: &ObjectId) -> Option<u32> {
        self.extra().numbers.get(id).copied()
    }

    fn extra(&self) -> MutexGuard<'_, Extra> {
        self.extra.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of an object that is in a pack.
    pub(crate) fn packed_number(&self, id: &ObjectId) -> Option<u32> {
        if id.kind() != self.store.hash() {
            return None;
        }
        if let First::Packs(packs) = &self.first
            && let Some(position) = packs.position_of(self.store, id.as_bytes())
        {
            return Some(position);
        }
        let search = |packs: &[Numbered]| packs.iter().find_map(|numbered| self.in_pack(numbered.pack, id));
        let Range { start, end } = self.together;
        let found = search(&self.order[..start])
            .or_else(|| {
                let together = &self.order[start..end];
                if together.len() <= FEW {
                    return search(together);
                }
                let (pack, index) = *self.table.get_or_init(|| self.table_of(together)).get(id)?;
                // Where the pack is no good, another may have the object, too.
                if self.store.pack(pack).is_some() { Some((pack, index)) } else { search(together) }
            })
            .or_else(|| search(&self.order[end..]));
        let (pack, index) = found?;
        self.number_of_index(pack, index)
    }

    /// The index of an object in a pack that can be read.
    fn in_pack(&self, pack: u32, id: &ObjectId) -> Option<(u32, u32)> {
        let index = self.store.index(pack)?.lookup(id.as_bytes())?;
        self.store.pack(pack).map(|_| (pack, index))
    }

    fn table_of(&self, packs: &[Numbered]) -> IdMap<(u32, u32)> {
        let mut table = IdMap::default();
        table.reserve(packs.iter().map(|numbered| numbered.count as usize).sum());
        for Numbered { pack, count, .. } in packs {
            let Some(ids) = self.store.index(*pack) else { continue };
            for index in 0..*count {
                table.entry(ids.id_at(index)).or_insert((*pack, index));
            }
        }
        table
    }

    /// The number of the object at an index of a pack. Another pack may hold the copy in use.
    fn number_of_index(&self, pack: u32, index: u32) -> Option<u32> {
        let p = self.store.pack(pack)?;
        match &self.first {
            First::Pack(first) if *first == pack => p.position_of_offset(p.offset_at(index)),
            First::Packs(packs) if packs.holds(pack) => packs
                .position_of_copy(self.store, pack, p.offset_at(index))
                .or_else(|| Some(*self.bases.get(pack as usize)? + index)),
            _ => Some(*self.bases.get(pack as usize)? + index),
        }
    }

    /// The number of the entry at a position of a pack, in pack order. Another pack may hold the
    /// copy in use.
    pub(crate) fn number_of_position(&self, pack: u32, position: u32) -> Option<u32> {
        match &self.first {
            First::Pack(first) if *first == pack => Some(position),
            _ => self.number_of_index(pack, self.store.pack(pack)?.index_of_position(position)?),
        }
    }

    /// Whose objects have the first numbers.
    pub(crate) fn first(&self) -> &First {
        &self.first
    }

    /// The packs with their numbers, in the order in which they are asked: pack, first number,
    /// count.
    pub(crate) fn packs(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        self.order.iter().map(|numbered| (numbered.pack, numbered.base, numbered.count))
    }

    /// Where a numbered object lies.
    pub(crate) fn place(&self, number: u32) -> Option<ObjectPlace> {
        if number >= self.packed {
            let (id, place) = *self.extra().places.get((number - self.packed) as usize)?;
            return Some(match place {
                Location::Pack { pack, index, offset } => ObjectPlace::Pack { pack, index, offset },
                Location::Loose { dir } => ObjectPlace::Loose { id, dir },
            });
        }
        if let First::Packs(packs) = &self.first
            && number < packs.count()
        {
            let (pack, index) = packs.place(self.store, number)?;
            let offset = self.store.pack(pack)?.offset_at(index);
            return Some(ObjectPlace::Pack { pack, index, offset });
        }
        let at = self.order.partition_point(|numbered| numbered.base <= number).checked_sub(1)?;
        let Numbered { pack, base, .. } = self.order[at];
        let place = number - base;
        let p = self.store.pack(pack)?;
        let index = match self.first {
            First::Pack(first) if first == pack => p.index_of_position(place)?,
            _ => place,
        };
        Some(ObjectPlace::Pack { pack, index, offset: p.offset_at(index) })
    }

    /// The id of a numbered object; null for a number that was never given.
    pub(crate) fn id(&self, number: u32) -> ObjectId {
        let null = ObjectId::null(self.store.hash());
        match self.place(number) {
            Some(ObjectPlace::Pack { pack, index, .. }) => {
                self.store.pack(pack).map_or(null, |p| p.id_at(index))
            }
            Some(ObjectPlace::Loose { id, .. }) => id,
            None => null,
        }
    }
}
