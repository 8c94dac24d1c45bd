//! The result of a walk: the objects to send, and those of the client that they can build upon.

use libgit::ObjectKind;

use super::bits::Bits;

/// An object that the client has, at a path where it gets a new one: a base for deltas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) number: u32,
    pub(crate) kind: ObjectKind,
    /// Hash of the path.
    pub(crate) name: u32,
}

/// The result of a walk, in object numbers.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What is sent.
    pub(crate) wanted: Bits,
    /// Objects that the client is known to have, though not all of them.
    pub(crate) client: Bits,
    /// Hash of a path for each wanted object.
    pub(crate) names: Names,
    /// Whether a walk made it, so that paths and bases are known.
    pub(crate) walked: bool,
    /// Bases for deltas among what the client has.
    pub(crate) edges: Vec<Edge>,
}

impl Plan {
    pub(crate) fn name(&self, number: u32) -> u32 {
        self.names.get(number)
    }

    pub(crate) fn set_name(&mut self, number: u32, name: u32) {
        self.names.set(number, name);
    }
}

/// Hashes of paths by object number, 0 if unknown. Memory is only taken near numbers that have one:
/// a fetch of a few objects out of a million has a few pieces.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pieces: Vec<Vec<u32>>,
}

impl Names {
    /// How many names a piece holds.
    const PIECE: usize = 256;

    fn get(&self, number: u32) -> u32 {
        let at = number as usize;
        let piece = self.pieces.get(at / Names::PIECE);
        piece.and_then(|piece| piece.get(at % Names::PIECE)).copied().unwrap_or(0)
    }

    fn set(&mut self, number: u32, name: u32) {
        let at = number as usize;
        let wanted = at / Names::PIECE;
        if wanted >= self.pieces.len() {
            self.pieces.resize_with(wanted + 1 + wanted / 4, Vec::new);
        }
        let piece = &mut self.pieces[wanted];
        if piece.is_empty() {
            piece.resize(Names::PIECE, 0);
        }
        piece[at % Names::PIECE] = name;
    }

    /// All at once, from number 0 on.
    pub(crate) fn of(names: impl Iterator<Item = u32>) -> Names {
        let mut names = names.peekable();
        let mut pieces = Vec::new();
        while names.peek().is_some() {
            let mut piece: Vec<u32> = names.by_ref().take(Names::PIECE).collect();
            piece.resize(Names::PIECE, 0);
            pieces.push(piece);
        }
        Names { pieces }
    }
}

/// The hash of a path as git's bitmaps have it (`gitformat-bitmap`): continued from that of the
/// parent directory with its slash. The last 16 bytes count, the last one most.
pub(crate) fn name_hash(from: u32, name: &[u8]) -> u32 {
    name.iter()
        .filter(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c))
        .fold(from, |hash, byte| (hash >> 2).wrapping_add(u32::from(*byte) << 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_wherever_they_are() {
        let mut names = Names::of([7; 300].into_iter());
        assert_eq!([0, 299, 300, 511, 512].map(|n| names.get(n)), [7, 7, 0, 0, 0]);
        let numbers = [512, 299, 300, 100_000, 511];
        for (number, name) in numbers.into_iter().zip(10..) {
            names.set(number, name);
        }
        assert_eq!(numbers.map(|n| names.get(n)), [10, 11, 12, 13, 14]);
        assert_eq!([298, 513, 99_999, u32::MAX].map(|n| names.get(n)), [7, 0, 0, 0]);
    }

    #[test]
    fn a_path_hashes_in_pieces_as_in_one() {
        let whole = name_hash(0, b"Documentation/git-log .txt");
        assert_eq!(name_hash(name_hash(0, b"Documentation/"), b"git-log.txt"), whole);
        assert_eq!(name_hash(0, b"ab"), (u32::from(b'a') << 24 >> 2) + (u32::from(b'b') << 24));
    }
}
