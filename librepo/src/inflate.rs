//! Inflating what is wholly in memory and of known size (RFC 1950, RFC 1951), as the entries of
//! packs are.
//!
//! A fetch inflates hundreds of thousands of small streams, and a general inflater spends half of
//! its time on what these do not need: stopping and going on anywhere, and a window. This one reads
//! one stream from start to end, eight bytes at a time, straight into its place. What it accepts is
//! what zlib accepts, which a test and a fuzz target compare: every code is complete, no copy
//! begins before the data, the length is the declared one, and the checksum is right.

/// How many bits of a code are looked up at once; longer ones take a second step.
const ROOT: u32 = 10;
const DISTANCE_ROOT: u32 = 8;
const PRECODE_ROOT: u32 = 7;
/// Room for the tables of every complete code with these roots: 1334 and 402 entries, by zlib's
/// `enough`.
const ENTRIES: usize = 2048;
const DISTANCE_ENTRIES: usize = 512;
/// The longest code in bits.
const LONGEST: usize = 15;
/// How many words of eight bytes a copy takes at least.
const WORDS: usize = 3;
/// Bytes behind the data that a copy may write before they get their own.
const SLACK: usize = 8 * WORDS;

// An entry of a table: how many bits are taken (0 to 5), by the code and by what follows it; how
// many of them the code has (8 to 11); what it is (12 to 15); and its value (16 to 31): a byte, the
// least length or distance, or where the second table begins, which takes as many bits as are there
// for the code.
const LITERAL: u32 = 1 << 12;
const END: u32 = 1 << 13;
const SECOND: u32 = 1 << 14;
const INVALID: u32 = 1 << 15;
/// One bit of a code.
const CODE_BIT: u32 = 1 << 8 | 1;

/// Lengths 3 to 258: the least of each symbol from 257 on, and how many bits follow.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// The same of distances.
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// In which order the lengths of the code for lengths come.
const PRECODE_ORDER: [u8; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

const BAD: &str = "bad compressed data";
const SIZE: &str = "compressed data of another size than declared";

type Result<T> = std::result::Result<T, &'static str>;

/// A code as a table, and how many bits its first step takes.
#[derive(Debug)]
struct Code<const N: usize> {
    table: Box<[u32; N]>,
    root: u32,
}

impl<const N: usize> Code<N> {
    fn new() -> Code<N> {
        Code { table: Box::new([INVALID; N]), root: 1 }
    }

    /// Makes the table for symbols with these lengths. `of` has the entry of a symbol but for its
    /// code's length, which is written into it. A code must be complete, or (as zlib has it, except
    /// for the code of lengths) have at most one symbol, of one bit.
    fn build(&mut self, lengths: &[u8], most: u32, partial: bool, of: impl Fn(usize) -> u32) -> Result<()> {
        let mut counts = [0u16; LONGEST + 1];
        for length in lengths {
            counts[usize::from(length & 15)] += 1;
        }
        let mut starts = [0u16; LONGEST + 2];
        let mut left = 1i32;
        for length in 1..=LONGEST {
            left = (left << 1) - i32::from(counts[length]);
            if left < 0 {
                return Err(BAD);
            }
            starts[length + 1] = starts[length] + counts[length];
        }
        let longest = (1..=LONGEST).rev().find(|length| counts[*length] > 0).unwrap_or(0) as u32;
        let used = usize::from(starts[LONGEST + 1]);
        let mut sorted = [0u16; 320];
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let at = &mut starts[usize::from(length & 15)];
            sorted[usize::from(*at)] = symbol as u16;
            *at += 1;
        }
        if left > 0 {
            if !partial || longest > 1 {
                return Err(BAD);
            }
            self.root = 1;
            self.table[..2].fill(INVALID);
            if used > 0 {
                self.table[0] = of(usize::from(sorted[0])) + CODE_BIT;
            }
            return Ok(());
        }
        self.root = longest.min(most);
        self.fill(&mut counts, &sorted[..used], of);
        Ok(())
    }

    /// Fills the table of a complete code; `counts` says how many symbols have each length.
    fn fill(&mut self, counts: &mut [u16; LONGEST + 1], sorted: &[u16], of: impl Fn(usize) -> u32) {
        let root = self.root as usize;
        let mut length = 1;
        while counts[length] == 0 {
            length += 1;
        }
        // Codes count upwards with their first bit as the highest; here it is the lowest.
        let mut code = 0usize;
        let mut end = 1 << length.min(root);
        // Where the second table under way begins, and for which bits.
        let (mut start, mut prefix) = (0, usize::MAX);
        for symbol in sorted {
            while counts[length] == 0 {
                length += 1;
                // A table for one more bit is that for the bits before, twice.
                if length <= root {
                    self.table.copy_within(..end, end);
                    end *= 2;
                }
            }
            let entry = of(usize::from(*symbol));
            if length <= root {
                self.table[code] = entry + length as u32 * CODE_BIT;
            } else {
                if code & ((1 << root) - 1) != prefix {
                    prefix = code & ((1 << root) - 1);
                    start = end;
                    let mut bits = length - root;
                    let mut space = usize::from(counts[length]);
                    while space < 1 << bits {
                        bits += 1;
                        space = (space << 1) + usize::from(counts[root + bits]);
                    }
                    end = start + (1 << bits);
                    self.table[prefix] = (start as u32) << 16 | SECOND | (bits as u32) << 8 | root as u32;
                }
                let step = 1 << (length - root);
                for at in (start + (code >> root)..end).step_by(step) {
                    self.table[at] = entry + (length - root) as u32 * CODE_BIT;
                }
            }
            counts[length] -= 1;
            let ones = (1 << length) - 1;
            if code != ones {
                let bit = 1 << (code ^ ones).ilog2();
                code = (code & (bit - 1)) | bit;
            }
        }
    }
}

/// The codes of one block.
#[derive(Debug)]
struct Codes {
    /// For the lengths of the other two.
    lengths: Code<128>,
    literals: Code<ENTRIES>,
    distances: Code<DISTANCE_ENTRIES>,
}

impl Codes {
    fn new() -> Codes {
        Codes { lengths: Code::new(), literals: Code::new(), distances: Code::new() }
    }

    /// `lengths` has those of literals and lengths first, `literals` of them.
    fn build(&mut self, lengths: &[u8], literals: usize) -> Result<()> {
        let (first, second) = lengths.split_at_checked(literals).ok_or(BAD)?;
        self.literals.build(first, ROOT, true, |symbol| match symbol {
            0..=255 => (symbol as u32) << 16 | LITERAL,
            256 => END,
            _ => long(&LENGTHS, symbol - 257),
        })?;
        self.distances.build(second, DISTANCE_ROOT, true, |symbol| long(&DISTANCES, symbol))
    }

    /// The codes of blocks that bring none.
    fn fixed() -> Option<Codes> {
        let mut lengths = [8u8; 288 + 32];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        lengths[288..].fill(5);
        let mut codes = Codes::new();
        codes.build(&lengths, 288).ok().map(|()| codes)
    }
}

fn long(all: &[(u16, u8)], symbol: usize) -> u32 {
    all.get(symbol).map_or(INVALID, |(least, more)| u32::from(*least) << 16 | u32::from(*more))
}

/// The input, bit by bit.
struct Bits<'i> {
    input: &'i [u8],
    /// The next byte to put into the word; beyond the end, zeros are.
    at: usize,
    word: u64,
    /// How many bits of the word count.
    count: u32,
}

impl Bits<'_> {
    /// Makes sure of at least 56 bits.
    #[inline(always)]
    fn refill(&mut self) {
        (self.word, self.count, self.at) = refilled(self.input, self.word, self.count, self.at);
    }

    #[inline(always)]
    fn take(&mut self, count: u32) {
        self.word >>= count;
        self.count -= count;
    }

    /// The next bits, of which there must be enough.
    #[inline(always)]
    fn get(&mut self, count: u32) -> usize {
        let value = self.word & ((1 << count) - 1);
        self.take(count);
        value as usize
    }

    /// Leaves the bits of a byte that was begun, and gives the place of the next one.
    fn byte_boundary(&mut self) -> usize {
        let at = self.at - (self.count >> 3) as usize;
        self.go(at);
        at
    }

    fn go(&mut self, at: usize) {
        (self.at, self.word, self.count) = (at, 0, 0);
    }
}

/// The word with at least 56 bits, their count, and the place of the next byte.
#[inline(always)]
fn refilled(input: &[u8], word: u64, count: u32, at: usize) -> (u64, u32, usize) {
    match input.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // Bits above those that count are the same ones as come next.
        Some(bytes) => (
            word | u64::from_le_bytes(*bytes).wrapping_shl(count),
            count | 56,
            at.wrapping_add(((63 ^ count) >> 3 & 7) as usize),
        ),
        None => refilled_at_end(input, word, count, at),
    }
}

/// The same where fewer than eight bytes are left: zeros follow them.
#[cold]
fn refilled_at_end(input: &[u8], mut word: u64, mut count: u32, mut at: usize) -> (u64, u32, usize) {
    count &= 63;
    while count < 56 {
        word |= u64::from(input.get(at).copied().unwrap_or(0)) << count;
        (at, count) = (at + 1, count + 8);
    }
    (word, count, at)
}

/// Inflates; keeps its tables for the next stream.
#[derive(Debug, Default)]
pub struct Inflater {
    codes: Option<Box<Codes>>,
    fixed: Option<Box<Codes>>,
}

impl Inflater {
    /// Inflates the zlib stream at the start of `input` into `out`, which is emptied first, and
    /// returns how many bytes the stream takes.
    ///
    /// # Errors
    /// The reason, if the stream is damaged or does not yield exactly `size` bytes.
    pub fn inflate(&mut self, input: &[u8], size: usize, out: &mut Vec<u8>) -> Result<usize> {
        let [method, flags] = *input.first_chunk::<2>().ok_or(SIZE)?;
        let head = u16::from_be_bytes([method, flags]);
        // Deflate with a window of at most 32 KiB, no dictionary.
        if !head.is_multiple_of(31) || method & 15 != 8 || method >> 4 > 7 || flags & 0x20 != 0 {
            return Err(BAD);
        }
        let room = size.checked_add(SLACK).ok_or(SIZE)?;
        out.truncate(room);
        if out.capacity() < room {
            *out = vec![0; room];
        } else {
            out.resize(room, 0);
        }
        let mut bits = Bits { input, at: 2, word: 0, count: 0 };
        let mut length = 0;
        loop {
            bits.refill();
            let last = bits.get(1) == 1;
            match bits.get(2) {
                0 => stored(&mut bits, out, size, &mut length)?,
                1 => {
                    if self.fixed.is_none() {
                        self.fixed = Codes::fixed().map(Box::new);
                    }
                    let codes = self.fixed.as_deref().ok_or(BAD)?;
                    coded(&mut bits, codes, out, size, &mut length)?;
                }
                2 => {
                    let codes = self.codes.get_or_insert_with(|| Box::new(Codes::new()));
                    read_codes(&mut bits, codes)?;
                    coded(&mut bits, codes, out, size, &mut length)?;
                }
                _ => return Err(BAD),
            }
            if bits.at - (bits.count >> 3) as usize > input.len() {
                return Err(SIZE);
            }
            if last {
                break;
            }
        }
        if length != size {
            return Err(SIZE);
        }
        out.truncate(size);
        let end = bits.byte_boundary();
        let sum = input.get(end..).and_then(|rest| rest.first_chunk::<4>()).ok_or(SIZE)?;
        if u32::from_be_bytes(*sum) != adler32(out) {
            return Err(BAD);
        }
        Ok(end + 4)
    }
}

/// A block that is not compressed.
fn stored(bits: &mut Bits<'_>, out: &mut [u8], size: usize, length: &mut usize) -> Result<()> {
    let at = bits.byte_boundary();
    let head = bits.input.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(SIZE)?;
    let count = u16::from_le_bytes([head[0], head[1]]);
    if count != !u16::from_le_bytes([head[2], head[3]]) {
        return Err(BAD);
    }
    let count = usize::from(count);
    let data = bits.input.get(at + 4..at + 4 + count).ok_or(SIZE)?;
    let end = *length + count;
    out[..size].get_mut(*length..end).ok_or(SIZE)?.copy_from_slice(data);
    *length = end;
    bits.go(at + 4 + count);
    Ok(())
}

/// The codes at the start of a block that brings its own.
fn read_codes(bits: &mut Bits<'_>, codes: &mut Codes) -> Result<()> {
    let literals = bits.get(5) + 257;
    let distances = bits.get(5) + 1;
    let count = bits.get(4) + 4;
    if literals > 286 || distances > 30 {
        return Err(BAD);
    }
    let mut precode_lengths = [0u8; 19];
    for symbol in &PRECODE_ORDER[..count] {
        if bits.count < 3 {
            bits.refill();
        }
        precode_lengths[usize::from(*symbol)] = bits.get(3) as u8;
    }
    codes.lengths.build(&precode_lengths, PRECODE_ROOT, false, |symbol| (symbol as u32) << 16)?;
    let mut lengths = [0u8; 286 + 30];
    let all = &mut lengths[..literals + distances];
    let mut at = 0;
    while at < all.len() {
        // 7 bits of the code and 7 more at most.
        if bits.count < 14 {
            bits.refill();
        }
        let entry = codes.lengths.table[bits.word as usize & ((1 << codes.lengths.root) - 1)];
        bits.take(entry & 63);
        let symbol = entry >> 16;
        if symbol < 16 {
            all[at] = symbol as u8;
            at += 1;
            continue;
        }
        let (value, count) = match symbol {
            16 => (*at.checked_sub(1).and_then(|last| all.get(last)).ok_or(BAD)?, 3 + bits.get(2)),
            17 => (0, 3 + bits.get(3)),
            _ => (0, 11 + bits.get(7)),
        };
        all.get_mut(at..at + count).ok_or(BAD)?.fill(value);
        at += count;
    }
    // A block without a code for its end has none.
    if all[256] == 0 {
        return Err(BAD);
    }
    codes.build(all, literals)
}

/// The data of a block.
fn coded(bits: &mut Bits<'_>, codes: &Codes, out: &mut [u8], size: usize, length: &mut usize) -> Result<()> {
    // Kept apart from what `bits` points to, so that they stay in registers. Of `count` the lowest
    // byte counts: what else is in an entry need not be masked then.
    let Bits { input, at: mut next, mut word, mut count } = *bits;
    let (literals, distances) = (&*codes.literals.table, &*codes.distances.table);
    let literal_mask = (1u64 << codes.literals.root) - 1;
    let distance_mask = (1u64 << codes.distances.root) - 1;
    let mut at = *length;
    loop {
        (word, count, next) = refilled(input, word, count, next);
        let mut entry = literals[(word & literal_mask) as usize & (ENTRIES - 1)];
        // 56 bits are enough for two bytes of 10 bits at most and what follows: a length takes 20,
        // a distance 28, but the latter is looked after by itself.
        let mut more = 3;
        while entry & LITERAL != 0 {
            *out.get_mut(at).ok_or(SIZE)? = (entry >> 16) as u8;
            at = at.wrapping_add(1);
            word = word.wrapping_shr(entry);
            count = count.wrapping_sub(entry);
            more -= 1;
            if more == 0 {
                (word, count, next) = refilled(input, word, count, next);
                more = 3;
            }
            entry = literals[(word & literal_mask) as usize & (ENTRIES - 1)];
        }
        if entry & (SECOND | END | INVALID) != 0 {
            if entry & SECOND != 0 {
                word = word.wrapping_shr(entry);
                count = count.wrapping_sub(entry);
                let mask = (1u64 << (entry >> 8 & 15)) - 1;
                entry =
                    literals[((entry >> 16) as usize).wrapping_add((word & mask) as usize) & (ENTRIES - 1)];
            }
            if entry & LITERAL != 0 {
                *out.get_mut(at).ok_or(SIZE)? = (entry >> 16) as u8;
                at = at.wrapping_add(1);
                word = word.wrapping_shr(entry);
                count = count.wrapping_sub(entry);
                continue;
            }
            if entry & INVALID != 0 {
                return Err(BAD);
            }
            if entry & END != 0 {
                word = word.wrapping_shr(entry);
                count = count.wrapping_sub(entry);
                *bits = Bits { input, at: next, word, count: count & 63 };
                *length = at;
                return Ok(());
            }
        }
        let copied = value(entry, word);
        word = word.wrapping_shr(entry);
        count = count.wrapping_sub(entry);
        if (count as u8) < 28 {
            (word, count, next) = refilled(input, word, count, next);
        }
        let mut entry = distances[(word & distance_mask) as usize & (DISTANCE_ENTRIES - 1)];
        if entry & (SECOND | INVALID) != 0 {
            if entry & SECOND != 0 {
                word = word.wrapping_shr(entry);
                count = count.wrapping_sub(entry);
                let mask = (1u64 << (entry >> 8 & 15)) - 1;
                entry = distances
                    [((entry >> 16) as usize).wrapping_add((word & mask) as usize) & (DISTANCE_ENTRIES - 1)];
            }
            if entry & INVALID != 0 {
                return Err(BAD);
            }
        }
        let from = at.checked_sub(value(entry, word)).ok_or(BAD)?;
        word = word.wrapping_shr(entry);
        count = count.wrapping_sub(entry);
        if copied > size.saturating_sub(at) {
            return Err(SIZE);
        }
        copy(out, from, at, copied);
        at = at.wrapping_add(copied);
    }
}

/// The value of an entry with the bits that follow its code.
#[inline(always)]
fn value(entry: u32, word: u64) -> usize {
    let all = word & (1u64.wrapping_shl(entry)).wrapping_sub(1);
    ((entry >> 16) as usize).wrapping_add(all.wrapping_shr(entry >> 8 & 15) as usize)
}

/// The checksum of zlib (RFC 1950, section 8.2).
fn adler32(data: &[u8]) -> u32 {
    const PRIME: u32 = 65_521;
    const LANES: usize = 32;
    let (mut a, mut b) = (1u32, 0u32);
    // So many bytes fit before one of the two could overflow.
    for part in data.chunks(5536) {
        let (blocks, rest) = part.as_chunks::<LANES>();
        for block in blocks {
            // In this form a compiler uses the processor's wide registers.
            let (mut sum, mut weighted) = (0i32, 0i32);
            for (at, byte) in block.iter().enumerate() {
                sum = sum.wrapping_add(i32::from(*byte));
                weighted = weighted
                    .wrapping_add(i32::from(i16::from(*byte)).wrapping_mul(i32::from((LANES - at) as i16)));
            }
            b = b.wrapping_add(a.wrapping_mul(LANES as u32)).wrapping_add(weighted as u32);
            a = a.wrapping_add(sum as u32);
        }
        for byte in rest {
            a = a.wrapping_add(u32::from(*byte));
            b = b.wrapping_add(a);
        }
        (a, b) = (a % PRIME, b % PRIME);
    }
    b << 16 | a
}

/// Copies `count` bytes to a place behind, which they may reach; up to [`SLACK`] bytes after them
/// may be overwritten.
#[inline(always)]
fn copy(out: &mut [u8], mut from: usize, mut to: usize, count: usize) {
    let end = to.wrapping_add(count);
    let distance = to.wrapping_sub(from);
    if distance >= 8 {
        // Most are short: so many bytes are copied without asking how many are needed.
        for _ in 0..WORDS {
            word(out, from, to);
            (from, to) = (from.wrapping_add(8), to.wrapping_add(8));
        }
        while to < end {
            word(out, from, to);
            (from, to) = (from.wrapping_add(8), to.wrapping_add(8));
        }
    } else if distance == 1 {
        let byte = out[from];
        out[to..end].fill(byte);
    } else {
        while to < end {
            out[to] = out[from];
            (from, to) = (from.wrapping_add(1), to.wrapping_add(1));
        }
    }
}

#[inline(always)]
fn word(out: &mut [u8], from: usize, to: usize) {
    let bytes = out.get(from..).and_then(|rest| rest.first_chunk::<8>()).copied();
    if let (Some(bytes), Some(place)) =
        (bytes, out.get_mut(to..).and_then(|rest| rest.first_chunk_mut::<8>()))
    {
        *place = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
    use proptest::prelude::*;

    fn deflated(data: &[u8], level: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() * 2 + 1000);
        let status =
            Compress::new(Compression::new(level), true).compress_vec(data, &mut out, FlushCompress::Finish);
        assert_eq!(status.unwrap(), Status::StreamEnd);
        out
    }

    /// What zlib makes of it, and how many bytes it takes.
    fn by_zlib(input: &[u8], size: usize) -> Option<(Vec<u8>, usize)> {
        let mut out = Vec::with_capacity(size + 1);
        let mut z = Decompress::new(true);
        let status = z.decompress_vec(input, &mut out, FlushDecompress::Finish).ok()?;
        (status == Status::StreamEnd && out.len() == size).then_some((out, z.total_in() as usize))
    }

    fn ours(inflater: &mut Inflater, input: &[u8], size: usize) -> Option<(Vec<u8>, usize)> {
        let mut out = Vec::new();
        inflater.inflate(input, size, &mut out).ok().map(|used| (out, used))
    }

    /// Text of few words, bytes without order, and runs.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::sample::select(vec!["tree ", "parent ", "author A U Thor <a@example.org> ", "\n", "0123"])
                .prop_map(|word| word.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..200),
            (any::<u8>(), 1..2000usize).prop_map(|(byte, count)| vec![byte; count]),
            (1..9usize, 1..300usize)
                .prop_map(|(period, count)| (0..count).map(|n| (n % period) as u8).collect()),
            prop::collection::vec(0..6u8, 0..4000),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn what_was_compressed_comes_back(data in content(), level in 0..10u32, behind in 0..20usize) {
            let mut stream = deflated(&data, level);
            let used = stream.len();
            stream.resize(used + behind, 0x55);
            let mut inflater = Inflater::default();
            prop_assert_eq!(ours(&mut inflater, &stream, data.len()), Some((data.clone(), used)));
            for wrong in [data.len() + 1, data.len().wrapping_sub(1), data.len() + 300] {
                prop_assert_eq!(ours(&mut inflater, &stream, wrong), None);
            }
            prop_assert_eq!(ours(&mut inflater, &stream[..used - 1], data.len()), None);
            prop_assert_eq!(ours(&mut inflater, &stream[..used / 2], data.len()), None);
        }

        #[test]
        fn damage_is_judged_as_by_zlib(
            data in content(),
            level in 0..10u32,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut stream = deflated(&data, level);
            let mut inflater = Inflater::default();
            for (at, byte) in changes {
                let at = at.index(stream.len());
                stream[at] ^= byte;
                prop_assert_eq!(ours(&mut inflater, &stream, data.len()), by_zlib(&stream, data.len()));
            }
        }

        // The checksum hides most of what goes wrong inside: here it is made right for what came
        // out.
        #[test]
        fn any_codes_are_judged_as_by_zlib(body in prop::collection::vec(any::<u8>(), 1..400), kind in 0..3u8) {
            let mut stream = vec![0x78, 0x9c];
            stream.extend(&body);
            // A last block of each kind.
            stream[2] = (stream[2] & !7) | 1 | kind << 1;
            let mut z = Decompress::new(true);
            let mut out = Vec::with_capacity(1 << 17);
            let _ = z.decompress_vec(&stream, &mut out, FlushDecompress::None);
            let end = (z.total_in() as usize).max(2);
            for end in end.saturating_sub(4).max(2)..=end.min(stream.len()) {
                let mut stream = stream[..end].to_vec();
                stream.extend(adler32(&out).to_be_bytes());
                let mut inflater = Inflater::default();
                prop_assert_eq!(ours(&mut inflater, &stream, out.len()), by_zlib(&stream, out.len()));
            }
        }
    }

    #[test]
    fn copies_reach_everywhere() {
        // Distances and lengths up to the longest, one after another.
        let mut data: Vec<u8> =
            (0..70_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for (distance, count) in [(32_768, 258), (32_767, 3), (1, 258), (2, 257), (7, 40), (8, 9), (9, 100)] {
            for _ in 0..count {
                data.push(data[data.len() - distance]);
            }
        }
        for level in 0..10 {
            let stream = deflated(&data, level);
            let result = ours(&mut Inflater::default(), &stream, data.len());
            assert!(result == Some((data.clone(), stream.len())), "level {level}");
        }
    }

    #[test]
    fn lies_in_the_head_are_refused() {
        let good = deflated(b"what is there", 6);
        for (first, second) in [(0x79, 0x9b), (0x88, 0x1c), (0x78, 0x9d), (0x78, 0xbb), (0x77, 0x9c)] {
            let mut stream = good.clone();
            stream[..2].copy_from_slice(&[first, second]);
            assert_eq!(ours(&mut Inflater::default(), &stream, 13), None, "{first:x} {second:x}");
        }
        assert_eq!(Inflater::default().inflate(&[], 0, &mut Vec::new()), Err(SIZE));
    }
}
