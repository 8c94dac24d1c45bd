//! Numbers for objects, so that sets of them are bits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libgit::ObjectId;

use super::pseudo_pack::PseudoPack;
use crate::error::{Error, Result};
use crate::id::IdMap;
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

/// Numbers every object of a store: those of packs by pack and index, the others as they turn up.
///
/// The objects of the pack, or of the multi-pack index, that has a bitmap are numbered by their
/// position in it, from 0 on, so that the bitmap's bits are numbers.
#[derive(Clone)]
pub(crate) struct Space<'s> {
    store: &'s Store,
    /// The first number of each pack.
    bases: Vec<u32>,
    /// The first number that no pack has.
    packed: u32,
    /// Whose objects have the first numbers.
    first: First,
    /// The order in which packs are asked: an object in several of them always gets the same
    /// number.
    order: Vec<u32>,
    /// Shared by all copies, so that threads give the same numbers.
    loose: Arc<Mutex<Loose>>,
}

/// The objects met so far that no pack holds.
#[derive(Default)]
struct Loose {
    numbers: IdMap<u32>,
    places: Vec<(ObjectId, u16)>,
}

impl<'s> Space<'s> {
    /// Numbers for a store.
    pub(crate) fn new(store: &'s Store, first: First) -> Result<Space<'s>> {
        let too_many = || Error::Limit("more objects than can be numbered".to_owned());
        let mut bases = vec![0; store.packs().len()];
        let mut order: Vec<u32> = (0u32..).take(bases.len()).collect();
        // The largest packs first: they answer most questions, and hold the best deltas. Packs of a
        // multi-pack index are searched through it, and directly only if it is damaged.
        let count = |pack: u32| store.packs().get(pack as usize).map_or(0, |p| p.count());
        let rank = |pack: u32| match &first {
            First::Pack(first) if *first == pack => 2,
            First::Packs(packs) if packs.holds(pack) => 0,
            _ => 1,
        };
        order.sort_by_key(|pack| std::cmp::Reverse((rank(*pack), count(*pack))));
        let mut next = match &first {
            First::Packs(packs) => packs.count(),
            _ => 0,
        };
        for pack in &order {
            let at = *pack as usize;
            bases[at] = next;
            next = next.checked_add(count(*pack)).filter(|n| *n < NO_OBJECT / 2).ok_or_else(too_many)?;
        }
        Ok(Space { store, bases, packed: next, first, order, loose: Arc::default() })
    }

    pub(crate) fn store(&self) -> &'s Store {
        self.store
    }

    /// How many numbers there are so far.
    pub(crate) fn count(&self) -> u32 {
        self.packed + self.loose().places.len() as u32
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
        if let Some(number) = self.loose().numbers.get(id) {
            return Some(*number);
        }
        let Location::Loose { dir } = self.store.locate(id)? else { return None };
        let mut loose = self.loose();
        if let Some(number) = loose.numbers.get(id) {
            return Some(*number);
        }
        let number = u32::try_from(loose.places.len()).ok()?.checked_add(self.packed)?;
        if number == NO_OBJECT {
            return None;
        }
        loose.numbers.insert(*id, number);
        loose.places.push((*id, dir));
        Some(number)
    }

    /// The number of an object that no pack holds, if it was asked for before. Looks for no file.
    pub(crate) fn met(&self, id: &ObjectId) -> Option<u32> {
        self.loose().numbers.get(id).copied()
    }

    fn loose(&self) -> MutexGuard<'_, Loose> {
        self.loose.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (pack, index) = self.order.iter().find_map(|pack| {
            let index = self.store.packs().get(*pack as usize)?.lookup(id.as_bytes())?;
            Some((*pack, index))
        })?;
        self.number_of_index(pack, index)
    }

    /// The number of the object at an index of a pack. Another pack may hold the copy in use.
    fn number_of_index(&self, pack: u32, index: u32) -> Option<u32> {
        let p = self.store.packs().get(pack as usize)?;
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
            _ => self
                .number_of_index(pack, self.store.packs().get(pack as usize)?.index_of_position(position)?),
        }
    }

    /// Whose objects have the first numbers.
    pub(crate) fn first(&self) -> &First {
        &self.first
    }

    /// The packs with their numbers: pack, first number, count.
    pub(crate) fn packs(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        (0u32..).zip(&self.bases).zip(self.store.packs()).map(|((pack, base), p)| (pack, *base, p.count()))
    }

    /// Where a numbered object lies.
    pub(crate) fn place(&self, number: u32) -> Option<ObjectPlace> {
        if number >= self.packed {
            let (id, dir) = *self.loose().places.get((number - self.packed) as usize)?;
            return Some(ObjectPlace::Loose { id, dir });
        }
        if let First::Packs(packs) = &self.first
            && number < packs.count()
        {
            let (pack, index) = packs.place(self.store, number)?;
            let offset = self.store.packs().get(pack as usize)?.offset_at(index);
            return Some(ObjectPlace::Pack { pack, index, offset });
        }
        let (pack, base, _) =
            self.packs().find(|(_, base, count)| (*base..base + count).contains(&number))?;
        let place = number - base;
        let p = self.store.packs().get(pack as usize)?;
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
                self.store.packs().get(pack as usize).map_or(null, |p| p.id_at(index))
            }
            Some(ObjectPlace::Loose { id, .. }) => id,
            None => null,
        }
    }
}
