//! What the engine does with object ids: naming objects, and hash tables keyed by ids.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use libgit::{HashKind, ObjectId, ObjectKind};

/// The id of an object with this kind and content (of `git hash-object`). Without detection of
/// collision attacks: for what the repository already holds, not for what comes in.
pub fn hash_object(hash: HashKind, kind: ObjectKind, data: &[u8]) -> ObjectId {
    use sha1::Digest as _;
    let header = format!("{} {}\0", kind.name(), data.len());
    match hash {
        HashKind::Sha1 => {
            ObjectId::sha1(sha1::Sha1::new_with_prefix(header).chain_update(data).finalize().into())
        }
        HashKind::Sha256 => {
            ObjectId::sha256(sha2::Sha256::new_with_prefix(header).chain_update(data).finalize().into())
        }
    }
}

/// A hash map keyed by object ids.
pub type IdMap<V> = std::collections::HashMap<ObjectId, V, FastState>;
/// A hash set of object ids.
pub type IdSet = std::collections::HashSet<ObjectId, FastState>;

/// Builds [`FastHasher`]s with this process's secret seed.
#[derive(Clone, Copy, Debug)]
pub struct FastState(u64);

impl Default for FastState {
    fn default() -> FastState {
        // A client chooses the ids it names: with a known function it could aim them all at one
        // bucket. The seed comes from the standard library's source of randomness.
        static SEED: OnceLock<u64> = OnceLock::new();
        FastState(*SEED.get_or_init(|| RandomState::new().hash_one(0x676f_7464_u64)))
    }
}

impl BuildHasher for FastState {
    type Hasher = FastHasher;
    #[inline]
    fn build_hasher(&self) -> FastHasher {
        FastHasher(self.0)
    }
}

/// A hasher for keys that are a few words long (ids, offsets): one multiplication for each, both
/// halves of its product kept. Ids are hashes already; SipHash on top costs more than the lookup.
#[derive(Clone, Copy, Debug)]
pub struct FastHasher(u64);

impl Hasher for FastHasher {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_blob_and_tree_have_their_known_names() {
        assert_eq!(
            hash_object(HashKind::Sha1, ObjectKind::Blob, b"").to_string(),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        );
        assert_eq!(
            hash_object(HashKind::Sha256, ObjectKind::Tree, b"").to_string(),
            "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
        );
    }
}
