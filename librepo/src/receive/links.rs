//! Which objects are named by others: one entry per name, however many trees name it.

use libgit::{HashKind, ObjectId, ObjectKind};

/// What an object is named as: a set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Wanted(u8);

impl Wanted {
    pub(super) fn of(kind: ObjectKind) -> Self {
        Wanted(1 << (kind as u8))
    }

    /// Whether an object of this kind is all that it is named as.
    pub(super) fn is_only(self, kind: ObjectKind) -> bool {
        self == Wanted::of(kind)
    }

    /// The kind, if it is named as one kind only.
    pub(super) fn as_kind(self) -> Option<ObjectKind> {
        [ObjectKind::Commit, ObjectKind::Tree, ObjectKind::Blob, ObjectKind::Tag]
            .into_iter()
            .find(|kind| self.is_only(*kind))
    }

    #[cfg(test)]
    fn includes(self, kind: ObjectKind) -> bool {
        self.0 & Wanted::of(kind).0 != 0
    }
}

/// A set of ids, each with the kind that it is expected to have. A history's trees name the same
/// objects a hundred times each, so this is a table of its own: ids packed without padding, found
/// by their own bytes.
pub(super) struct Links {
    hash: HashKind,
    ids: Vec<u8>,
    wanted: Vec<Wanted>,
    /// Numbers of entries plus one; 0 is free. The length is a power of two.
    slots: Vec<u32>,
    seed: u64,
}

impl Links {
    pub(super) fn new(hash: HashKind) -> Self {
        use std::hash::BuildHasher as _;
        // A client may choose the ids it names, and must not be able to aim them all at one slot.
        let seed = std::collections::hash_map::RandomState::new().hash_one(0_u64) | 1;
        Links { hash, ids: Vec::new(), wanted: Vec::new(), slots: vec![0; 1024], seed }
    }

    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Notes that the object with these id bytes is named as `kind`.
    #[inline]
    pub(super) fn add(&mut self, id: &[u8], kind: ObjectKind) {
        self.add_wanted(id, Wanted::of(kind));
    }

    #[inline]
    fn add_wanted(&mut self, id: &[u8], wanted: Wanted) {
        let width = self.hash.len();
        if id.len() != width {
            return;
        }
        let mask = self.slots.len() - 1;
        let mut slot = self.place(id) & mask;
        loop {
            match self.slots[slot] {
                0 => break,
                number => {
                    let at = number as usize - 1;
                    if same(&self.ids[at * width..(at + 1) * width], id) {
                        self.wanted[at].0 |= wanted.0;
                        return;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
        self.ids.extend_from_slice(id);
        self.wanted.push(wanted);
        // Fewer than 2^32 entries: each took at least one byte of a pack of bounded size to name.
        self.slots[slot] = u32::try_from(self.wanted.len()).unwrap_or(u32::MAX);
        if self.wanted.len() * 2 > self.slots.len() {
            self.grow();
        }
    }

    fn place(&self, id: &[u8]) -> usize {
        let mut word = [0; 8];
        word.copy_from_slice(&id[..8]);
        let product = u128::from(u64::from_le_bytes(word) ^ self.seed) * u128::from(self.seed | 1);
        ((product as u64) ^ ((product >> 64) as u64)) as usize
    }

    fn grow(&mut self) {
        let width = self.hash.len();
        let mut slots = vec![0_u32; self.slots.len() * 2];
        let mask = slots.len() - 1;
        for (at, id) in self.ids.chunks_exact(width).enumerate() {
            let mut slot = self.place(id) & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = at as u32 + 1;
        }
        self.slots = slots;
    }

    /// Adds all of `other`'s.
    pub(super) fn merge(&mut self, other: &Links) {
        for (id, wanted) in other.iter_bytes() {
            self.add_wanted(id, wanted);
        }
    }

    fn iter_bytes(&self) -> impl Iterator<Item = (&[u8], Wanted)> {
        self.ids.chunks_exact(self.hash.len()).zip(self.wanted.iter().copied())
    }

    /// All ids, each with the kind that it is expected to have.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ObjectId, Wanted)> {
        let null = ObjectId::null(self.hash);
        self.iter_bytes()
            .map(move |(id, wanted)| (ObjectId::from_bytes(self.hash, id).unwrap_or(null), wanted))
    }
}

/// Whether two ids are equal; of known length they need no call for that.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    match (<&[u8; 20]>::try_from(a), <&[u8; 20]>::try_from(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hash_object;

    #[test]
    fn each_id_once_with_all_that_it_is_wanted_as() {
        for hash in [HashKind::Sha1, HashKind::Sha256] {
            let id = |i: u32| hash_object(hash, ObjectKind::Blob, &(i % 3000).to_le_bytes());
            let mut links = Links::new(hash);
            for i in 0..9000 {
                links.add(id(i).as_bytes(), if i < 3000 { ObjectKind::Blob } else { ObjectKind::Tree });
            }
            assert_eq!(links.len(), 3000);
            let mut other = Links::new(hash);
            other.add(id(5).as_bytes(), ObjectKind::Commit);
            links.merge(&other);
            for (i, (have, wanted)) in links.iter().enumerate() {
                assert_eq!(have, id(i as u32));
                assert!(wanted.includes(ObjectKind::Blob) && wanted.includes(ObjectKind::Tree));
                assert_eq!(wanted.includes(ObjectKind::Commit), i == 5);
                assert!(!wanted.is_only(ObjectKind::Blob));
            }
        }
    }
}
