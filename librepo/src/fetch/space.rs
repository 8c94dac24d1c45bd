//! Numbers for objects, so that sets of them are bits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::id::{IdMap, ObjectId};
use crate::store::{Location, Store};

/// The number of no object.
pub(crate) const NO_OBJECT: u32 = u32::MAX;

/// Where a numbered object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a pack: its number, the object's index there (by id), its offset in bytes.
    Pack { pack: u32, index: u32, offset: u64 },
    /// In a file of its own.
    Loose { id: ObjectId, dir: u16 },
}

/// Numbers every object of a store: those of packs by pack and index, the others as they turn up.
///
/// The objects of the pack that has a bitmap are numbered by their position in it, from 0 on, so that the
/// bitmap's bits are numbers.
#[derive(Clone)]
pub(crate) struct Space<'s> {
    store: &'s Store,
    /// The first number of each pack.
    bases: Vec<u32>,
    /// The first number that no pack has.
    packed: u32,
    /// The pack whose objects are numbered by position.
    by_position: Option<u32>,
    /// The order in which packs are asked: an object in several of them always gets the same number.
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
    /// Numbers for a store; `by_position` is the pack that has a bitmap.
    pub(crate) fn new(store: &'s Store, by_position: Option<u32>) -> Result<Space<'s>> {
        let too_many = || Error::Limit("more objects than can be numbered".to_owned());
        let mut bases = vec![0; store.packs().len()];
        let mut next = 0u32;
        let first = by_position.into_iter();
        let others = (0u32..).take(bases.len()).filter(|pack| Some(*pack) != by_position);
        let mut order: Vec<u32> = first.chain(others).collect();
        // The largest packs first: they answer most questions, and hold the best deltas.
        let count = |pack: u32| store.packs().get(pack as usize).map_or(0, |p| p.count());
        order.sort_by_key(|pack| std::cmp::Reverse((Some(*pack) == by_position, count(*pack))));
        for pack in &order {
            let at = *pack as usize;
            bases[at] = next;
            let count = store.packs().get(at).map_or(0, |pack| pack.count());
            next = next.checked_add(count).filter(|n| *n < NO_OBJECT / 2).ok_or_else(too_many)?;
        }
        Ok(Space { store, bases, packed: next, by_position, order, loose: Arc::default() })
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
        if let Some((pack, index)) = self.packed_place(id.as_bytes()) {
            return self.number_of_index(pack, index);
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

    fn loose(&self) -> MutexGuard<'_, Loose> {
        self.loose.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which pack has an object, and its index there.
    pub(crate) fn packed_place(&self, id: &[u8]) -> Option<(u32, u32)> {
        if id.len() != self.store.hash().len() {
            return None;
        }
        self.order.iter().find_map(|pack| {
            let index = self.store.packs().get(*pack as usize)?.lookup(id)?;
            Some((*pack, index))
        })
    }

    /// The number of the object at an index of a pack.
    pub(crate) fn number_of_index(&self, pack: u32, index: u32) -> Option<u32> {
        let place = if self.by_position == Some(pack) {
            let p = self.store.packs().get(pack as usize)?;
            p.position_of_offset(p.offset_at(index))?
        } else {
            index
        };
        Some(*self.bases.get(pack as usize)? + place)
    }

    /// The number of the entry at a position of a pack, in pack order. Another pack may hold the copy in use.
    pub(crate) fn number_of_position(&self, pack: u32, position: u32) -> Option<u32> {
        let place = if self.by_position == Some(pack) {
            position
        } else {
            self.store.packs().get(pack as usize)?.index_of_position(position)?
        };
        Some(*self.bases.get(pack as usize)? + place)
    }

    /// The packs with their numbers: pack, first number, count.
    pub(crate) fn packs(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        (0u32..).zip(&self.bases).zip(self.store.packs()).map(|((pack, base), p)| (pack, *base, p.count()))
    }

    /// Whether a pack's numbers are positions.
    pub(crate) fn is_by_position(&self, pack: u32) -> bool {
        self.by_position == Some(pack)
    }

    /// Where a numbered object lies.
    pub(crate) fn place(&self, number: u32) -> Option<Place> {
        if number >= self.packed {
            let (id, dir) = *self.loose().places.get((number - self.packed) as usize)?;
            return Some(Place::Loose { id, dir });
        }
        let (pack, base, _) =
            self.packs().find(|(_, base, count)| (*base..base + count).contains(&number))?;
        let place = number - base;
        let p = self.store.packs().get(pack as usize)?;
        let index = if self.by_position == Some(pack) { p.index_of_position(place)? } else { place };
        Some(Place::Pack { pack, index, offset: p.offset_at(index) })
    }

    /// The id of a numbered object; null for a number that was never given.
    pub(crate) fn id(&self, number: u32) -> ObjectId {
        let null = ObjectId::null(self.store.hash());
        match self.place(number) {
            Some(Place::Pack { pack, index, .. }) => {
                self.store.packs().get(pack as usize).map_or(null, |p| p.id_at(index))
            }
            Some(Place::Loose { id, .. }) => id,
            None => null,
        }
    }
}
