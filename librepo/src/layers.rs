//! A packed object that is too large to be rebuilt in memory, read from its first byte to its last.
//!
//! A delta copies from anywhere in its base, so a base is usually held as a whole. Here only the
//! deltas are. What the lowest one copies from is inflated anew as it is needed, and only the last
//! megabytes of it are kept: most deltas copy forwards. One that jumps back and forth would have
//! the base inflated again and again; where that becomes too much, the base is held as a whole
//! after all.

use flate2::{Decompress, FlushDecompress, Status};

use crate::delta_apply::{self, Instruction};

type Result<T> = std::result::Result<T, &'static str>;

/// Bytes of the base that are kept behind the place where it is read.
const KEPT: usize = 4 << 20;
/// Bytes that are inflated at a time.
const PIECE: usize = 64 << 10;
/// How many times its size a base may be inflated before it is held as a whole.
const TIMES: u64 = 4;
/// Between two places of a delta that are found at once lie so many instructions.
const APART: usize = 128;
/// The longest chain of deltas: reading goes as deep.
pub(crate) const DEEPEST: usize = 500;

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The base is read in too many places: call [`Layers::hold_base`] and go on.
    Scattered,
    /// Something is wrong with the pack.
    Corrupt(&'static str),
}

impl From<&'static str> for Stop {
    fn from(why: &'static str) -> Stop {
        Stop::Corrupt(why)
    }
}

/// An object as a whole object and the deltas upon it.
#[derive(Debug)]
pub(crate) struct Layers<'p> {
    base: Base<'p>,
    /// The first is applied to the base.
    deltas: Vec<Layer>,
}

/// One delta.
#[derive(Debug)]
struct Layer {
    delta: Vec<u8>,
    /// Size of its result.
    size: u64,
    /// Where instructions are: what part of the result they yield, and their place in the delta.
    marks: Vec<(u64, usize)>,
}

impl Layer {
    /// Checks every instruction against a base of this size.
    fn new(delta: Vec<u8>, base: u64) -> Result<Layer> {
        let (base_size, size, mut at) = delta_apply::sizes(&delta)?;
        if base_size != base {
            return Err("delta for a base of another size");
        }
        let (mut marks, mut done, mut count) = (Vec::new(), 0u64, 0usize);
        while at < delta.len() {
            if count.is_multiple_of(APART) {
                marks.push((done, at));
            }
            let (instruction, next) = delta_apply::instruction(&delta, at)?;
            if let Instruction::Copy { from, len } = instruction
                && from.checked_add(len).is_none_or(|end| end > base)
            {
                return Err("delta copies from beyond its base");
            }
            done = done.saturating_add(instruction.len());
            (at, count) = (next, count + 1);
        }
        if done != size {
            return Err("delta yields another size than it declares");
        }
        Ok(Layer { delta, size, marks })
    }

    /// The instruction that yields the byte at this place of the result, where it begins there, and
    /// the next one's place.
    fn find(&self, wanted: u64) -> Result<(Instruction, u64)> {
        let mark = self.marks.partition_point(|(begins, _)| *begins <= wanted);
        let (mut begins, mut at) = *self.marks.get(mark.saturating_sub(1)).ok_or("delta cut short")?;
        loop {
            let (instruction, next) = delta_apply::instruction(&self.delta, at)?;
            if wanted < begins.saturating_add(instruction.len()) {
                return Ok((instruction, begins));
            }
            begins = begins.saturating_add(instruction.len());
            at = next;
        }
    }
}

impl<'p> Layers<'p> {
    /// `input` is the compressed base, of this size; `deltas` come in the order in which they are
    /// applied.
    pub(crate) fn new(input: &'p [u8], size: u64, deltas: Vec<Vec<u8>>) -> Result<Layers<'p>> {
        let (mut layers, mut below) = (Vec::with_capacity(deltas.len()), size);
        for delta in deltas {
            let layer = Layer::new(delta, below)?;
            below = layer.size;
            layers.push(layer);
        }
        Ok(Layers { base: Base::new(input, size), deltas: layers })
    }

    /// Bytes of the object.
    pub(crate) fn size(&self) -> u64 {
        self.deltas.last().map_or(self.base.size, |layer| layer.size)
    }

    /// From here on the whole base is kept in memory.
    pub(crate) fn hold_base(&mut self) {
        self.base.kept = usize::try_from(self.base.size).unwrap_or(usize::MAX);
        self.base.allowed = u64::MAX;
    }

    /// Appends `len` bytes from `from` on to `out`.
    pub(crate) fn read(&mut self, from: u64, len: u64, out: &mut Vec<u8>) -> std::result::Result<(), Stop> {
        self.read_below(self.deltas.len(), from, len, out)
    }

    /// Appends `len` bytes from `from` on of what the first `level` deltas yield.
    fn read_below(
        &mut self,
        level: usize,
        mut from: u64,
        mut len: u64,
        out: &mut Vec<u8>,
    ) -> std::result::Result<(), Stop> {
        let Some(level) = level.checked_sub(1) else { return self.base.read(from, len, out) };
        while len > 0 {
            let layer = self.deltas.get(level).ok_or("delta missing")?;
            let (instruction, begins) = layer.find(from)?;
            let skip = from - begins;
            let part = (instruction.len() - skip).min(len);
            match instruction {
                Instruction::Copy { from: there, .. } => self.read_below(level, there + skip, part, out)?,
                Instruction::Insert { at, .. } => {
                    let start = at + usize::try_from(skip).map_err(|_| "delta cut short")?;
                    let end = start + usize::try_from(part).map_err(|_| "delta cut short")?;
                    out.extend_from_slice(layer.delta.get(start..end).ok_or("delta cut short")?);
                }
            }
            (from, len) = (from + part, len - part);
        }
        Ok(())
    }
}

/// The whole object below the deltas, of which a part is in memory.
#[derive(Debug)]
struct Base<'p> {
    input: &'p [u8],
    size: u64,
    z: Decompress,
    /// Content from `start` on.
    window: Vec<u8>,
    start: u64,
    kept: usize,
    /// Bytes that were inflated, and that may be.
    inflated: u64,
    allowed: u64,
}

impl<'p> Base<'p> {
    fn new(input: &'p [u8], size: u64) -> Base<'p> {
        let allowed = size.saturating_mul(TIMES);
        Base {
            input,
            size,
            z: Decompress::new(true),
            window: Vec::new(),
            start: 0,
            kept: KEPT,
            inflated: 0,
            allowed,
        }
    }

    fn read(&mut self, mut from: u64, mut len: u64, out: &mut Vec<u8>) -> std::result::Result<(), Stop> {
        while len > 0 {
            if from < self.start {
                // Back to where it begins.
                if self.inflated >= self.allowed {
                    return Err(Stop::Scattered);
                }
                self.z.reset(true);
                self.window.clear();
                self.start = 0;
            }
            let skip = usize::try_from(from - self.start).map_err(|_| "larger than memory")?;
            match self.window.get(skip..) {
                Some(there) if !there.is_empty() => {
                    let part = there.len().min(usize::try_from(len).unwrap_or(usize::MAX));
                    out.extend_from_slice(&there[..part]);
                    (from, len) = (from + part as u64, len - part as u64);
                }
                _ => self.more()?,
            }
        }
        Ok(())
    }

    /// Inflates a little more.
    fn more(&mut self) -> Result<()> {
        if self.window.len() >= self.kept.saturating_mul(2) {
            let dropped = self.window.len() - self.kept;
            self.window.drain(..dropped);
            self.start += dropped as u64;
        }
        let input = usize::try_from(self.z.total_in()).ok().and_then(|used| self.input.get(used..));
        let before = self.window.len();
        if self.window.capacity() < before + PIECE {
            let most = usize::try_from(self.size).unwrap_or(usize::MAX).min(self.kept.saturating_mul(2));
            self.window.reserve_exact((before + PIECE).max(most + PIECE) - before);
        }
        // Into the room for one piece, and no more.
        self.window.resize(before + PIECE, 0);
        let out_before = self.z.total_out();
        let status =
            self.z.decompress(input.unwrap_or_default(), &mut self.window[before..], FlushDecompress::None);
        let got = usize::try_from(self.z.total_out() - out_before).unwrap_or(0);
        self.window.truncate(before + got);
        self.inflated = self.inflated.saturating_add(got as u64);
        match status.map_err(|_| "bad compressed data")? {
            _ if self.z.total_out() > self.size => Err("compressed data of another size than declared"),
            Status::StreamEnd if self.z.total_out() < self.size => {
                Err("compressed data of another size than declared")
            }
            _ if got == 0 => Err("compressed data cut short"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn compressed(data: &[u8]) -> Vec<u8> {
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(data).unwrap();
        z.finish().unwrap()
    }

    fn number(out: &mut Vec<u8>, mut value: usize) {
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    /// A delta of these copies, each after a byte of its own.
    fn delta(base: usize, copies: &[(usize, usize)]) -> Vec<u8> {
        let mut out = Vec::new();
        number(&mut out, base);
        number(&mut out, copies.iter().map(|(_, len)| len + 1).sum());
        for (from, len) in copies {
            out.extend([1, b'+', 0xff]);
            out.extend(&(*from as u32).to_le_bytes());
            out.extend(&(*len as u32).to_le_bytes()[..3]);
        }
        out
    }

    fn all(layers: &mut Layers<'_>, piece: u64) -> std::result::Result<Vec<u8>, Stop> {
        let mut out = Vec::new();
        while (out.len() as u64) < layers.size() {
            let left = layers.size() - out.len() as u64;
            let before = out.len();
            match layers.read(before as u64, piece.min(left), &mut out) {
                Err(Stop::Scattered) => {
                    out.truncate(before);
                    layers.hold_base();
                }
                done => done?,
            }
        }
        Ok(out)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn chains_yield_what_applying_them_yields() {
        let base = noise(20 << 20);
        let z = compressed(&base);
        let (size, mib) = (base.len(), 1 << 20);
        // Forwards, a little back, far back, and a chain of three.
        let first = delta(size, &[(5, 9 * mib), (3 * mib, 2 * mib), (9 * mib, 11 * mib), (0, 17)]);
        let second = delta(22 * mib + 21, &[(7, 15 * mib), (1, 6 * mib)]);
        let third = delta(21 * mib + 2, &[(0, 12), (11 * mib, 4 * mib), (3, 0xff_ffff)]);
        for chain in
            [vec![], vec![first.clone()], vec![first.clone(), second.clone()], vec![first, second, third]]
        {
            let mut expected = base.clone();
            for delta in &chain {
                expected = delta_apply::apply(&expected, delta, u64::MAX, Vec::new()).unwrap();
            }
            for piece in [1 << 17, 3_333_333] {
                let mut layers = Layers::new(&z, size as u64, chain.clone()).unwrap();
                assert_eq!(layers.size(), expected.len() as u64);
                assert!(all(&mut layers, piece).unwrap() == expected);
            }
        }
    }

    #[test]
    fn a_base_that_is_read_here_and_there_is_held_as_a_whole_in_the_end() {
        let base = noise(12 << 20);
        let z = compressed(&base);
        let copies: Vec<(usize, usize)> =
            (0..40).map(|n| (if n % 2 == 0 { 0 } else { 11 << 20 }, 70_000)).collect();
        let delta = delta(base.len(), &copies);
        let expected = delta_apply::apply(&base, &delta, u64::MAX, Vec::new()).unwrap();
        let mut layers = Layers::new(&z, base.len() as u64, vec![delta]).unwrap();
        assert_eq!(layers.read(0, expected.len() as u64, &mut Vec::new()), Err(Stop::Scattered));
        assert!(layers.base.inflated <= 6 * base.len() as u64, "{}", layers.base.inflated);
        assert!(all(&mut layers, 1 << 17).unwrap() == expected);
    }

    #[test]
    fn little_of_the_base_is_in_memory() {
        let base = vec![7; 64 << 20];
        let z = compressed(&base);
        let mut layers =
            Layers::new(&z, base.len() as u64, vec![delta(base.len(), &[(0, 9), (60 << 20, 9)])]).unwrap();
        assert_eq!(all(&mut layers, 100).unwrap().len(), 20);
        assert!(layers.base.window.capacity() < 10 << 20, "{}", layers.base.window.capacity());
    }

    #[test]
    fn every_lie_is_found() {
        let base = noise(1000);
        let z = compressed(&base);
        let new = |delta: Vec<u8>| Layers::new(&z, 1000, vec![delta]).map(|_| ());
        assert_eq!(new(delta(999, &[(0, 1)])), Err("delta for a base of another size"));
        assert_eq!(new(delta(1000, &[(990, 11)])), Err("delta copies from beyond its base"));
        let mut long = delta(1000, &[(0, 10)]);
        long.extend([1, b'x']);
        assert_eq!(new(long), Err("delta yields another size than it declares"));
        let mut cut = delta(1000, &[(0, 10)]);
        cut.pop();
        assert_eq!(new(cut), Err("delta cut short"));
        for (size, input) in [(1001, &z[..]), (999, &z), (1000, &z[..z.len() / 2]), (1000, b"no zlib")] {
            let mut layers = Layers::new(input, size, vec![]).unwrap();
            assert!(matches!(layers.read(0, size, &mut Vec::new()), Err(Stop::Corrupt(_))), "{size}");
        }
    }
}
