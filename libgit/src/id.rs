//! Object ids of both hash algorithms.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::as_checked_bytes;

/// Most hexadecimal digits of an object id.
pub const HEX_MAX: usize = 64;

/// The hash algorithm that names a repository's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HashKind {
    /// SHA-1: 20 bytes.
    Sha1,
    /// SHA-256: 32 bytes.
    Sha256,
}

impl HashKind {
    /// Length of a binary id in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no id is empty")]
    #[inline]
    pub const fn len(self) -> usize {
        match self {
            HashKind::Sha1 => 20,
            HashKind::Sha256 => 32,
        }
    }

    /// Length of an id in hexadecimal digits.
    #[inline]
    pub const fn hex_len(self) -> usize {
        self.len() * 2
    }

    /// The algorithm with ids of `len` bytes.
    #[inline]
    const fn from_len(len: usize) -> Option<HashKind> {
        match len {
            20 => Some(HashKind::Sha1),
            32 => Some(HashKind::Sha256),
            _ => None,
        }
    }

    /// Git's name for the algorithm, as in `extensions.objectformat` and in the `object-format`
    /// capability.
    pub const fn name(self) -> &'static str {
        match self {
            HashKind::Sha1 => "sha1",
            HashKind::Sha256 => "sha256",
        }
    }

    /// The algorithm that Git calls so.
    pub fn from_name(name: &[u8]) -> Option<HashKind> {
        match name {
            b"sha1" => Some(HashKind::Sha1),
            b"sha256" => Some(HashKind::Sha256),
            _ => None,
        }
    }

    /// The number that multi-pack indexes, commit graphs and `.rev` files use (`gitformat-pack`).
    pub const fn format_number(self) -> u8 {
        match self {
            HashKind::Sha1 => 1,
            HashKind::Sha256 => 2,
        }
    }
}

/// An object id of either algorithm. Displays as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    bytes: [u8; 32],
    kind: HashKind,
}

impl ObjectId {
    /// The id with these raw bytes; `None` unless there are exactly as many as `kind` has.
    #[inline]
    pub fn from_bytes(kind: HashKind, raw: &[u8]) -> Option<ObjectId> {
        if raw.len() != kind.len() {
            return None;
        }
        let mut bytes = [0; 32];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(ObjectId { bytes, kind })
    }

    /// The id that is this SHA-1 sum.
    #[inline]
    pub fn sha1(sum: [u8; 20]) -> ObjectId {
        let mut bytes = [0; 32];
        bytes[..20].copy_from_slice(&sum);
        ObjectId { bytes, kind: HashKind::Sha1 }
    }

    /// The id that is this SHA-256 sum.
    #[inline]
    pub const fn sha256(sum: [u8; 32]) -> ObjectId {
        ObjectId { bytes: sum, kind: HashKind::Sha256 }
    }

    /// The id of exactly 40 or 64 hexadecimal digits, in either case, as Git reads them.
    #[inline]
    pub fn from_hex(hex: &[u8]) -> Option<ObjectId> {
        let kind = match hex.len() {
            40 => HashKind::Sha1,
            64 => HashKind::Sha256,
            _ => return None,
        };
        let mut bytes = [0; 32];
        // A single check at the end instead of one for each digit: ids are parsed by the hundred
        // thousand.
        let mut bad = 0;
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
            bad |= high | low;
            *byte = (high << 4) | (low & 15);
        }
        (bad < 16).then_some(ObjectId { bytes, kind })
    }

    /// The id that names nothing: all zeros.
    #[inline]
    pub const fn null(kind: HashKind) -> ObjectId {
        ObjectId { bytes: [0; 32], kind }
    }

    /// Whether this is the id that names nothing.
    #[inline]
    pub fn is_null(&self) -> bool {
        self.bytes == [0; 32]
    }

    /// The algorithm.
    #[inline]
    pub const fn kind(&self) -> HashKind {
        self.kind
    }

    /// The raw bytes, 20 or 32 of them.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.kind.len()]
    }

    /// The lower-case hexadecimal digits, 40 or 64 of them, which are put into `digits`.
    #[inline]
    pub fn hex<'d>(&self, digits: &'d mut [u8; HEX_MAX]) -> &'d [u8] {
        for (byte, pair) in self.as_bytes().iter().zip(digits.as_chunks_mut().0) {
            *pair = PAIRS[usize::from(*byte)];
        }
        &digits[..self.kind.hex_len()]
    }

    /// The lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let mut digits = [0; HEX_MAX];
        self.hex(&mut digits).iter().map(|&digit| char::from(digit)).collect()
    }

    fn from_message(raw: &[u8]) -> Result<ObjectId, &'static str> {
        let kind = HashKind::from_len(raw.len()).ok_or("bad object id")?;
        ObjectId::from_bytes(kind, raw).ok_or("bad object id")
    }

    #[inline]
    fn words(&self) -> (u64, u64) {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&self.bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        (word(0), word(8))
    }
}

as_checked_bytes!(ObjectId, ObjectId::from_message, "an object id");

/// The two digits of each byte.
static PAIRS: [[u8; 2]; 256] = {
    let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Value of each hexadecimal digit, 255 for anything else.
static DIGITS: [u8; 256] = {
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
        let mut digits = [0; HEX_MAX];
        f.pad(std::str::from_utf8(self.hex(&mut digits)).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// Two words of an id are as good as all of it: it is a hash.
impl Hash for ObjectId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (a, b) = self.words();
        state.write_u64(a);
        state.write_u64(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hex_round_trips_in_both_lengths() {
        for kind in [HashKind::Sha1, HashKind::Sha256] {
            let raw: Vec<u8> = (0..kind.len() as u8).map(|i| i.wrapping_mul(37)).collect();
            let id = ObjectId::from_bytes(kind, &raw).unwrap();
            let hex = id.to_string();
            assert_eq!(hex.len(), kind.hex_len());
            assert_eq!(hex, id.to_hex());
            assert_eq!(ObjectId::from_hex(hex.as_bytes()), Some(id));
            assert_eq!(ObjectId::from_hex(hex.to_uppercase().as_bytes()), Some(id));
            assert_eq!(id.as_bytes(), raw);
        }
    }

    #[test]
    fn object_ids_in_both_sizes() {
        let hex = b"0123456789abcdef0123456789ABCDEF01234567";
        let id = ObjectId::from_hex(hex).unwrap();
        assert_eq!(id.to_string().as_bytes(), hex.to_ascii_lowercase());
        assert_eq!(id.kind(), HashKind::Sha1);
        assert_eq!(ObjectId::from_bytes(HashKind::Sha1, id.as_bytes()), Some(id));
        assert_eq!(ObjectId::from_bytes(HashKind::Sha256, id.as_bytes()), None);
        assert_eq!(ObjectId::from_hex(&[b'a'; 64]).unwrap().kind(), HashKind::Sha256);
        for bad in [&hex[..39], b"", &[b'g'; 40], &[b'a'; 41], &[b'a'; 65]] {
            assert_eq!(ObjectId::from_hex(bad), None);
        }
        assert!(ObjectId::null(HashKind::Sha256).is_null() && !id.is_null());
        assert_eq!(ObjectId::sha1([7; 20]).as_bytes(), [7; 20]);
        assert_eq!(ObjectId::sha256([7; 32]).as_bytes(), [7; 32]);
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
    fn messages_bring_back_only_ids_of_a_known_length() {
        let config = bincode::config::standard().with_limit::<16384>();
        for (length, good) in [(0, false), (19, false), (20, true), (21, false), (32, true), (33, false)] {
            let mut message = bincode::encode_to_vec(vec![7_u8; length], config).unwrap();
            let id = bincode::serde::decode_from_slice::<ObjectId, _>(&message, config);
            assert_eq!(id.is_ok(), good, "{length}");
            if let Ok((id, used)) = id {
                assert_eq!((id.as_bytes(), used), (&[7; 32][..length], message.len()));
                assert_eq!(bincode::serde::encode_to_vec(id, config).unwrap(), message);
            }
            message.pop();
            assert!(bincode::serde::decode_from_slice::<ObjectId, _>(&message, config).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_printed_as_it_was(hex in "[0-9a-fA-F]{40}|[0-9a-f]{64}|[0-9a-g]{38,66}") {
            if let Some(id) = ObjectId::from_hex(hex.as_bytes()) {
                assert_eq!(id.to_hex(), hex.to_ascii_lowercase());
            }
        }
    }
}
