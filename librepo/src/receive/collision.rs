//! SHA-1 with detection of collision attacks, at the speed of the processor's own SHA-1.
//!
//! A block can only be half of a collision if its expanded message meets the conditions of some
//! disturbance vector. They need the message alone, not the state, so they are checked for several
//! blocks side by side while the hash itself takes the fastest way there is. One block in twenty
//! meets some and is looked at closely: the other half is made from it, by the vector's
//! differences, and run backwards and forwards from the middle; if both halves end in one state,
//! somebody has made a collision.
//!
//! Source: Stevens and Shumow, see [`conditions`](super::conditions). Replaces the `sha1-checked`
//! crate in the one place where its speed decides: it took three quarters of all time of a push.
//! The crate stays the oracle of the tests.

use sha1::digest::generic_array::GenericArray;

use super::conditions::CONDITIONS;

/// Blocks checked side by side.
const LANES: usize = 16;
pub(super) const START: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// A hash under way.
#[derive(Clone)]
pub(super) struct DetectingSha1 {
    state: [u32; 5],
    bytes: u64,
    rest: [u8; 64],
    lanes: Lanes,
    found: bool,
}

/// Blocks waiting to be checked: the state before each, and their words, transposed.
#[derive(Clone)]
struct Lanes {
    used: usize,
    before: [[u32; 5]; LANES],
    words: Words,
}

impl DetectingSha1 {
    pub(super) fn new() -> Self {
        let lanes = Lanes { used: 0, before: [[0; 5]; LANES], words: [[0; LANES]; 80] };
        DetectingSha1 { state: START, bytes: 0, rest: [0; 64], lanes, found: false }
    }

    pub(super) fn update(&mut self, mut data: &[u8]) {
        let have = (self.bytes % 64) as usize;
        self.bytes = self.bytes.wrapping_add(data.len() as u64);
        if have > 0 {
            let take = data.len().min(64 - have);
            self.rest[have..have + take].copy_from_slice(&data[..take]);
            data = &data[take..];
            if have + take < 64 {
                return;
            }
            let block = self.rest;
            self.block(&block);
        }
        let (blocks, rest) = data.as_chunks::<64>();
        for block in blocks {
            self.block(block);
        }
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// Begins anew. What an object leaves behind in the lanes is overwritten before it is looked
    /// at.
    pub(super) fn reset(&mut self) {
        (self.state, self.bytes, self.found, self.lanes.used) = (START, 0, false, 0);
    }

    /// The hash, or `None` if the data bears the marks of a collision attack.
    pub(super) fn finish(&mut self) -> Option<[u8; 20]> {
        let bits = self.bytes.wrapping_mul(8);
        let have = (self.bytes % 64) as usize;
        let mut last = [0; 128];
        last[..have].copy_from_slice(&self.rest[..have]);
        last[have] = 0x80;
        let end = if have < 56 { 64 } else { 128 };
        last[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        for block in last[..end].as_chunks::<64>().0 {
            self.block(block);
        }
        self.outcome().map(bytes)
    }

    /// Goes on from a state that others computed, block by block: the caller sees to the padding.
    pub(super) fn resume(&mut self, state: [u32; 5]) {
        self.reset();
        self.state = state;
    }

    /// Adds whole blocks.
    pub(super) fn blocks(&mut self, blocks: &[[u8; 64]]) {
        for block in blocks {
            self.block(block);
        }
    }

    /// The state behind all blocks, or `None` if they bear the marks of a collision attack.
    pub(super) fn outcome(&mut self) -> Option<[u32; 5]> {
        self.check();
        (!self.found).then_some(self.state)
    }

    #[inline]
    fn block(&mut self, block: &[u8; 64]) {
        let lane = self.lanes.used;
        self.lanes.before[lane] = self.state;
        for (words, bytes) in self.lanes.words.iter_mut().zip(block.as_chunks::<4>().0) {
            words[lane] = u32::from_be_bytes(*bytes);
        }
        sha1::compress(&mut self.state, std::slice::from_ref(GenericArray::from_slice(block)));
        self.lanes.used = lane + 1;
        if self.lanes.used == LANES {
            self.check();
        }
    }

    /// Checks the blocks that wait.
    fn check(&mut self) {
        let used = std::mem::take(&mut self.lanes.used);
        let suspects = suspects(&mut self.lanes.words);
        for lane in (0..used).filter(|&lane| suspects[lane] != 0) {
            let message = self.lanes.words.map(|words| words[lane]);
            self.found |= collides(&self.lanes.before[lane], &message, suspects[lane]);
        }
    }
}

/// A state in the shape of a hash.
pub(super) fn bytes(state: [u32; 5]) -> [u8; 20] {
    let mut hash = [0; 20];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

/// Sixteen words of the message in each lane on entry, eighty on return.
type Words = [[u32; LANES]; 80];

/// Which disturbance vectors each block may be following.
pub(super) fn suspects(words: &mut Words) -> [u32; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has what the function was compiled for; it is safe code
            // otherwise.
            return unsafe { suspects_avx512(words) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { suspects_avx2(words) };
        }
    }
    suspects_in_lanes(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn suspects_avx512(words: &mut Words) -> [u32; LANES] {
    suspects_in_lanes(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn suspects_avx2(words: &mut Words) -> [u32; LANES] {
    suspects_in_lanes(words)
}

/// The loops over lanes are what the compiler makes vector instructions of.
#[inline(always)]
fn suspects_in_lanes(words: &mut Words) -> [u32; LANES] {
    for t in 16..80 {
        let (done, next) = words.split_at_mut(t);
        for lane in 0..LANES {
            let word = done[t - 3][lane] ^ done[t - 8][lane] ^ done[t - 14][lane] ^ done[t - 16][lane];
            next[0][lane] = word.rotate_left(1);
        }
    }
    let mut suspects = [u32::MAX; LANES];
    for &(t, a, u, b, differ, vectors) in &CONDITIONS {
        let (left, right) = (&words[usize::from(t)], &words[usize::from(u)]);
        let (a, b, differ) = (u32::from(a) & 31, u32::from(b) & 31, u32::from(differ));
        for lane in 0..LANES {
            let broken = ((left[lane] >> a) ^ (right[lane] >> b) ^ differ) & 1;
            // All ones if the condition is met, else what it says nothing about.
            suspects[lane] &= broken.wrapping_sub(1) | !vectors;
        }
    }
    suspects
}

/// A disturbance vector of the two known families: which, its position, its bit, and from which
/// step to run (65 if late, else 58).
#[derive(Clone, Copy)]
pub(super) struct Vector {
    second: bool,
    position: usize,
    bit: u32,
    pub(super) late: bool,
}

/// In the order of the bits in [`CONDITIONS`].
pub(super) const VECTORS: [Vector; 32] = {
    const fn one(position: usize, bit: u32) -> Vector {
        Vector { second: false, position, bit, late: position >= 50 }
    }
    const fn two(position: usize, bit: u32) -> Vector {
        Vector { second: true, position, bit, late: position >= 50 }
    }
    [
        one(43, 0),
        one(44, 0),
        one(45, 0),
        one(46, 0),
        one(46, 2),
        one(47, 0),
        one(47, 2),
        one(48, 0),
        one(48, 2),
        one(49, 0),
        one(49, 2),
        one(50, 0),
        one(50, 2),
        one(51, 0),
        one(51, 2),
        one(52, 0),
        two(45, 0),
        two(46, 0),
        two(46, 2),
        two(47, 0),
        two(48, 0),
        two(49, 0),
        two(49, 2),
        two(50, 0),
        two(50, 2),
        two(51, 0),
        two(51, 2),
        two(52, 0),
        two(53, 0),
        two(54, 0),
        two(55, 0),
        two(56, 0),
    ]
};

/// What the two halves of a collision by each vector differ in, word by word.
pub(super) static DIFFERENCES: [[u32; 80]; 32] = {
    let mut all = [[0; 80]; 32];
    let mut i = 0;
    while i < 32 {
        all[i] = differences(VECTORS[i]);
        i += 1;
    }
    all
};

/// The message differences that a vector's local collisions add up to. The vector is a message
/// expansion itself, so that sixteen of its words give all others; five lie before the first.
const fn differences(vector: Vector) -> [u32; 80] {
    const BEFORE: usize = 5;
    let mut words = [0_u32; 80 + BEFORE];
    let at = vector.position + BEFORE;
    words[at + 15] = 1 << vector.bit;
    if vector.second {
        let bit = 1_u32.rotate_left(31 + vector.bit);
        words[at + 1] = bit;
        words[at + 3] = bit;
    }
    let mut t = at + 16;
    while t < words.len() {
        words[t] = (words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1);
        t += 1;
    }
    let mut t = at;
    while t > 0 {
        t -= 1;
        words[t] = words[t + 16].rotate_right(1) ^ words[t + 13] ^ words[t + 8] ^ words[t + 2];
    }
    let mut differences = [0; 80];
    let mut i = 0;
    while i < 80 {
        let t = i + BEFORE;
        differences[i] = words[t]
            ^ words[t - 1].rotate_left(5)
            ^ words[t - 2]
            ^ words[t - 3].rotate_left(30)
            ^ words[t - 4].rotate_left(30)
            ^ words[t - 5].rotate_left(30);
        i += 1;
    }
    differences
}

/// One step of the compression function, forwards: the registers, in their order before and after.
/// `Q` is which quarter of the eighty steps it belongs to.
#[inline(always)]
fn forward<const Q: usize>(s: [u32; 5], word: u32) -> [u32; 5] {
    let [a, b, c, d, e] = s;
    let sum = a.rotate_left(5).wrapping_add(mix::<Q>(b, c, d)).wrapping_add(e).wrapping_add(CONSTANTS[Q]);
    [sum.wrapping_add(word), a, b.rotate_left(30), c, d]
}

/// The same step backwards.
#[inline(always)]
fn backward<const Q: usize>(s: [u32; 5], word: u32) -> [u32; 5] {
    let [sum, a, b, c, d] = s;
    let b = b.rotate_right(30);
    let rest = a.rotate_left(5).wrapping_add(mix::<Q>(b, c, d)).wrapping_add(CONSTANTS[Q]).wrapping_add(word);
    [a, b, c, d, sum.wrapping_sub(rest)]
}

#[inline(always)]
fn mix<const Q: usize>(b: u32, c: u32, d: u32) -> u32 {
    match Q {
        0 => d ^ (b & (c ^ d)),
        2 => (b & c) | (d & (b | c)),
        _ => b ^ c ^ d,
    }
}

pub(super) const CONSTANTS: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

/// The state after step `to`, from that before step `from`.
fn forwards(mut s: [u32; 5], words: &[u32; 80], from: usize, to: usize) -> [u32; 5] {
    s = words[from.min(20)..to.min(20)].iter().fold(s, |s, &word| forward::<0>(s, word));
    s = words[from.clamp(20, 40)..to.clamp(20, 40)].iter().fold(s, |s, &word| forward::<1>(s, word));
    s = words[from.clamp(40, 60)..to.clamp(40, 60)].iter().fold(s, |s, &word| forward::<2>(s, word));
    words[from.max(60)..to.max(60)].iter().fold(s, |s, &word| forward::<3>(s, word))
}

/// The state before the first step, from that before step `from`.
fn backwards(mut s: [u32; 5], words: &[u32; 80], from: usize) -> [u32; 5] {
    s = words[60.min(from)..from].iter().rev().fold(s, |s, &word| backward::<3>(s, word));
    s = words[40.min(from)..from.min(60)].iter().rev().fold(s, |s, &word| backward::<2>(s, word));
    s = words[20.min(from)..from.min(40)].iter().rev().fold(s, |s, &word| backward::<1>(s, word));
    words[..from.min(20)].iter().rev().fold(s, |s, &word| backward::<0>(s, word))
}

fn add(a: [u32; 5], b: [u32; 5]) -> [u32; 5] {
    std::array::from_fn(|i| a[i].wrapping_add(b[i]))
}

/// Whether a block that starts from `before` ends in the same state as its other half by one of
/// these vectors would.
#[cold]
fn collides(before: &[u32; 5], message: &[u32; 80], vectors: u32) -> bool {
    let at_58 = forwards(*before, message, 0, 58);
    let at_65 = forwards(at_58, message, 58, 65);
    let after = add(*before, forwards(at_65, message, 65, 80));
    VECTORS.iter().zip(&DIFFERENCES).enumerate().any(|(bit, (vector, differences))| {
        if vectors & (1 << bit) == 0 {
            return false;
        }
        let other: [u32; 80] = std::array::from_fn(|t| message[t] ^ differences[t]);
        // In the middle the halves have met: no difference in the state there.
        let (middle, state) = if vector.late { (65, at_65) } else { (58, at_58) };
        add(backwards(state, &other, middle), forwards(state, &other, middle, 80)) == after
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use sha1_checked::Digest as _;

    fn hash(data: &[u8]) -> Option<[u8; 20]> {
        let mut sha1 = DetectingSha1::new();
        sha1.update(data);
        sha1.finish()
    }

    #[test]
    fn agrees_with_plain_sha1_in_any_pieces() {
        let data: Vec<u8> = (0..2000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        for length in (0..200).chain([511, 512, 513, 1999]) {
            let want: [u8; 20] = sha1::Sha1::digest(&data[..length]).into();
            assert_eq!(hash(&data[..length]), Some(want), "{length}");
            let mut pieces = DetectingSha1::new();
            for piece in data[..length].chunks(1 + length % 70) {
                pieces.update(piece);
            }
            assert_eq!(pieces.finish(), Some(want), "{length}");
        }
    }

    #[test]
    fn steps_run_both_ways() {
        let words: [u32; 80] = std::array::from_fn(|t| (t as u32).wrapping_mul(0x9e37_79b9));
        for middle in [0, 1, 19, 20, 21, 40, 58, 60, 65, 80] {
            let state = forwards(START, &words, 0, middle);
            assert_eq!(backwards(state, &words, middle), START, "{middle}");
            assert_eq!(forwards(state, &words, middle, 80), forwards(START, &words, 0, 80), "{middle}");
        }
    }

    #[test]
    fn every_way_of_checking_lanes_agrees() {
        let mut words: Words = [[0; LANES]; 80];
        let mut state = 1_u32;
        let mut some = 0;
        for _ in 0..2000 {
            for word in words[..16].iter_mut().flatten() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *word = state ^ (state >> 15);
            }
            let (mut a, mut b) = (words, words);
            let found = suspects(&mut a);
            assert_eq!(found, suspects_in_lanes(&mut b));
            some += found.iter().filter(|&&vectors| vectors != 0).count();
        }
        assert!(some > 100, "{some}");
    }

    /// The four published files that collide in SHA-1, without what follows the collision in them:
    /// two pairs, one of equal and one of chosen prefixes. Sources: the documents of shattered.io,
    /// their first 320 bytes; messages A and B of sha-mbles.github.io, whole.
    const KNOWN: [&str; 4] = [
        include_str!("testdata/shattered-1.hex"),
        include_str!("testdata/shattered-2.hex"),
        include_str!("testdata/sha-mbles-1.hex"),
        include_str!("testdata/sha-mbles-2.hex"),
    ];

    pub(in super::super) fn known() -> [Vec<u8>; 4] {
        KNOWN.map(|hex| {
            hex.trim()
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        })
    }

    /// The words of the block that completes a collision, and the state before it.
    fn last_block(file: &[u8]) -> ([u32; 16], [u32; 5]) {
        let blocks: Vec<_> =
            file.as_chunks::<64>().0.iter().map(|block| *GenericArray::from_slice(block)).collect();
        let (last, before) = blocks.split_last().unwrap();
        let mut state = START;
        sha1::compress(&mut state, before);
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(last.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        (words, state)
    }

    #[test]
    fn the_known_collisions_are_seen() {
        let files = known();
        for pair in files.chunks(2) {
            assert_ne!(pair[0], pair[1]);
            assert_eq!(sha1::Sha1::digest(&pair[0]), sha1::Sha1::digest(&pair[1]));
        }
        for file in &files {
            assert_eq!(hash(file), None);
            let longer = [file.as_slice(), &[7; 1000]].concat();
            assert_eq!(hash(&longer), None);
            assert!(sha1_checked::Sha1::try_digest(&longer).has_collision());
            // One bit aside there is none.
            for at in [file.len() - 120, file.len() - 20] {
                let mut near = file.clone();
                near[at] ^= 1;
                let want = sha1_checked::Sha1::try_digest(&near);
                assert!(!want.has_collision());
                let want: [u8; 20] = want.hash().as_slice().try_into().unwrap();
                assert_eq!(hash(&near), Some(want));
            }
        }
    }

    /// However the bytes come: as a stream in pieces, after a reset, and from a state that others
    /// computed.
    #[test]
    fn the_known_collisions_are_seen_on_every_path() {
        for file in &known() {
            for size in (1..200).chain([256, 320, 639]) {
                let mut sha1 = DetectingSha1::new();
                for piece in file.chunks(size) {
                    sha1.update(piece);
                }
                assert_eq!(sha1.finish(), None, "pieces of {size}");
                sha1.reset();
                sha1.update(b"harmless");
                assert!(sha1.finish().is_some(), "remembers");
                sha1.reset();
                sha1.update(file);
                assert_eq!(sha1.finish(), None, "after a reset");
            }
            let blocks = file.as_chunks::<64>().0;
            for prefix in 0..blocks.len() {
                let mut state = START;
                for block in &blocks[..prefix] {
                    sha1::compress(&mut state, std::slice::from_ref(GenericArray::from_slice(block)));
                }
                let mut sha1 = DetectingSha1::new();
                sha1.resume(state);
                sha1.blocks(&blocks[prefix..]);
                assert_eq!(sha1.outcome(), None, "from block {prefix} on");
            }
        }
    }

    /// Blocks are checked sixteen at a time: the place of a bad one among good ones must not
    /// matter.
    #[test]
    fn a_collision_is_seen_in_every_lane() {
        for file in &known() {
            for good in 0..2 * LANES {
                let mut sha1 = DetectingSha1::new();
                sha1.update(&vec![b'x'; good * 64]);
                // A collision needs the state that it was made for.
                sha1.state = START;
                sha1.update(file);
                assert_eq!(sha1.finish(), None, "behind {good} good blocks");
                let longer = [file.as_slice(), &vec![b'x'; good * 64 + 3]].concat();
                assert_eq!(hash(&longer), None, "before {good} good blocks");
            }
        }
    }

    /// One lane after another, by each width of the processor's registers that there is here.
    #[test]
    fn a_collision_is_seen_by_every_width() {
        type Way = fn(&mut Words) -> [u32; LANES];
        let mut ways: Vec<(&str, Way)> = vec![("scalar", suspects_in_lanes), ("chosen", suspects)];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has what the function was compiled for.
                ways.push(("avx2", |words| unsafe { suspects_avx2(words) }));
            }
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: as above.
                ways.push(("avx512", |words| unsafe { suspects_avx512(words) }));
            }
        }
        for file in &known() {
            let (bad, before) = last_block(file);
            for (way, suspects) in &ways {
                for lane in 0..LANES {
                    let mut words: Words = [[0x5555_5555; LANES]; 80];
                    for (words, bad) in words.iter_mut().zip(bad) {
                        words[lane] = bad;
                    }
                    let found = suspects(&mut words)[lane];
                    assert_ne!(found, 0, "{way}, lane {lane}");
                    let message = words.map(|words| words[lane]);
                    assert!(collides(&before, &message, found), "{way}, lane {lane}");
                    assert!(
                        !collides(&START, &message, found),
                        "{way}: without the state that it was made for"
                    );
                }
            }
        }
    }
}
