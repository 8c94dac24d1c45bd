//! What a walk found out: the objects to send, and what the client can build upon.

use super::bits::Bits;
use crate::object::Kind;

/// An object that the client has, at a path where it gets a new one: a base for deltas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    /// Hash of the path.
    pub(crate) name: u32,
}

/// The result of a walk, in object numbers.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What is sent.
    pub(crate) wanted: Bits,
    /// What the client is known to have. Not all of it.
    pub(crate) client: Bits,
    /// Hash of a path for each wanted object, 0 if unknown; may be shorter than the numbers go.
    pub(crate) names: Vec<u32>,
    /// Whether a walk made it, so that paths and bases are known.
    pub(crate) walked: bool,
    /// Bases for deltas among what the client has.
    pub(crate) edges: Vec<Edge>,
}

impl Plan {
    pub(crate) fn name(&self, number: u32) -> u32 {
        self.names.get(number as usize).copied().unwrap_or(0)
    }

    pub(crate) fn set_name(&mut self, number: u32, name: u32) {
        let at = number as usize;
        if self.names.is_empty() {
            // Room for all numbers so far at once, of which only what is used is touched.
            self.names = vec![0; (self.wanted.words().len() * 64).max(at + 1)];
        } else if at >= self.names.len() {
            self.names.resize(at + 1 + at / 4, 0);
        }
        self.names[at] = name;
    }
}

/// The hash of a path as git's bitmaps have it (`gitformat-bitmap`): continued from that of the parent
/// directory with its slash. The last 16 bytes count, the last one most.
pub(crate) fn name_hash(from: u32, name: &[u8]) -> u32 {
    name.iter()
        .filter(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c))
        .fold(from, |hash, byte| (hash >> 2).wrapping_add(u32::from(*byte) << 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_hashes_in_pieces_as_in_one() {
        let whole = name_hash(0, b"Documentation/git-log .txt");
        assert_eq!(name_hash(name_hash(0, b"Documentation/"), b"git-log.txt"), whole);
        assert_eq!(name_hash(0, b"ab"), (u32::from(b'a') << 24 >> 2) + (u32::from(b'b') << 24));
    }
}
