//! Object ids of both hash algorithms, and hash tables keyed by them.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::OnceLock;

/// The hash algorithm that names a repository's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashKind {
    /// SHA-1: 20 bytes.
    Sha1,
    /// SHA-256: 32 bytes.
    Sha256,
}

impl HashKind {
    /// Length of a binary id in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a length that is never zero")]
    pub const fn len(self) -> usize {
        match self {
            HashKind::Sha1 => 20,
            HashKind::Sha256 => 32,
        }
    }

    /// Length of an id in hexadecimal digits.
    pub const fn hex_len(self) -> usize {
        self.len() * 2
    }

    /// The algorithm with ids of `len` bytes.
    pub const fn from_len(len: usize) -> Option<HashKind> {
        match len {
            20 => Some(HashKind::Sha1),
            32 => Some(HashKind::Sha256),
            _ => None,
        }
    }

    /// Git's name for the algorithm, as in `extensions.objectformat`.
    pub const fn name(self) -> &'static str {
        match self {
            HashKind::Sha1 => "sha1",
            HashKind::Sha256 => "sha256",
        }
    }

    /// The number that multi-pack indexes, commit graphs and `.rev` files use (`gitformat-pack`).
    pub const fn format_number(self) -> u8 {
        match self {
            HashKind::Sha1 => 1,
            HashKind::Sha256 => 2,
        }
    }

    /// The id of an object with this kind and content (of `git hash-object`). Without detection of
    /// collision attacks: for what the repository already holds, not for what comes in.
    pub fn hash_object(self, kind: crate::object::Kind, data: &[u8]) -> ObjectId {
        use sha1::Digest as _;
        let header = format!("{} {}\0", kind.name(), data.len());
        let mut id = ObjectId::null(self);
        match self {
            HashKind::Sha1 => {
                let sum = sha1::Sha1::new_with_prefix(header).chain_update(data).finalize();
                id.bytes[..20].copy_from_slice(&sum);
            }
            HashKind::Sha256 => {
                let sum = sha2::Sha256::new_with_prefix(header).chain_update(data).finalize();
                id.bytes.copy_from_slice(&sum);
            }
        }
        id
    }
}

/// The name of an object: the hash of its content.
///
/// Ordered by its bytes, as pack indexes are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    bytes: [u8; 32],
    kind: HashKind,
}

impl ObjectId {
    /// The id of these bytes, which must be exactly as many as the algorithm's.
    #[inline]
    pub fn from_bytes(kind: HashKind, raw: &[u8]) -> Option<ObjectId> {
        if raw.len() != kind.len() {
            return None;
        }
        let mut bytes = [0; 32];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(ObjectId { bytes, kind })
    }

    /// The id of 40 or 64 hexadecimal digits, in either case.
    pub fn from_hex(hex: &[u8]) -> Option<ObjectId> {
        let kind = match hex.len() {
            40 => HashKind::Sha1,
            64 => HashKind::Sha256,
            _ => return None,
        };
        let mut bytes = [0; 32];
        // One accumulated check instead of one per digit: ids are parsed by the hundred thousand.
        let mut bad = 0;
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
            bad |= high | low;
            *byte = (high << 4) | (low & 15);
        }
        (bad < 16).then_some(ObjectId { bytes, kind })
    }

    /// The id that names nothing: all zeros.
    pub const fn null(kind: HashKind) -> ObjectId {
        ObjectId { bytes: [0; 32], kind }
    }

    /// Whether this is the id that names nothing.
    pub fn is_null(&self) -> bool {
        self.bytes == [0; 32]
    }

    /// The algorithm.
    #[inline]
    pub const fn kind(&self) -> HashKind {
        self.kind
    }

    /// The bytes, 20 or 32 of them.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.kind.len()]
    }

    /// The lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let mut hex = String::with_capacity(self.kind.hex_len());
        for byte in self.as_bytes() {
            hex.push(char::from(HEX[usize::from(byte >> 4)]));
            hex.push(char::from(HEX[usize::from(byte & 15)]));
        }
        hex
    }

    fn words(&self) -> (u64, u64) {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&self.bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        (word(0), word(8))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Value of each hexadecimal digit, 255 for anything else.
const DIGITS: [u8; 256] = {
    let mut table = [255; 256];
    let mut i = 0;
    while i < 10 {
        table[b'0' as usize + i] = i as u8;
        i += 1;
    }
    let mut i = 0;
    while i < 6 {
        table[b'a' as usize + i] = 10 + i as u8;
        table[b'A' as usize + i] = 10 + i as u8;
        i += 1;
    }
    table
};

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_hex())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Hash for ObjectId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (a, b) = self.words();
        state.write_u64(a);
        state.write_u64(b);
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
    fn hex_round_trips_in_both_lengths() {
        for kind in [HashKind::Sha1, HashKind::Sha256] {
            let raw: Vec<u8> = (0..kind.len() as u8).map(|i| i.wrapping_mul(37)).collect();
            let id = ObjectId::from_bytes(kind, &raw).unwrap();
            let hex = id.to_string();
            assert_eq!(hex.len(), kind.hex_len());
            assert_eq!(ObjectId::from_hex(hex.as_bytes()), Some(id));
            assert_eq!(ObjectId::from_hex(hex.to_uppercase().as_bytes()), Some(id));
            assert_eq!(id.as_bytes(), raw);
        }
    }

    #[test]
    fn anything_but_digits_is_refused() {
        let good = [b'a'; 40];
        assert!(ObjectId::from_hex(&good).is_some());
        for bad in [b'g', b' ', b'/', b':', b'@', b'`', 0, 0xff] {
            for at in [0, 1, 20, 39] {
                let mut hex = good;
                hex[at] = bad;
                assert_eq!(ObjectId::from_hex(&hex), None, "{bad} at {at}");
            }
        }
        assert_eq!(ObjectId::from_hex(&good[..39]), None);
        assert_eq!(ObjectId::from_hex(b""), None);
    }

    #[test]
    fn the_empty_blob_and_tree_have_their_known_names() {
        use crate::object::Kind;
        assert_eq!(
            HashKind::Sha1.hash_object(Kind::Blob, b"").to_string(),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        );
        assert_eq!(
            HashKind::Sha256.hash_object(Kind::Tree, b"").to_string(),
            "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
        );
    }

    #[test]
    fn null_is_null() {
        assert!(ObjectId::null(HashKind::Sha1).is_null());
        assert!(!HashKind::Sha1.hash_object(crate::object::Kind::Blob, b"").is_null());
    }
}
