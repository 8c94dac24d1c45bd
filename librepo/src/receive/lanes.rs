//! SHA-1 of many objects at once, with detection of collision attacks: sixteen objects side by
//! side, one in each lane of the processor's widest registers (AVX-512).
//!
//! A single hash waits for its own result at every step; sixteen side by side do not. The expanded
//! message, which both the hash and the [conditions](super::conditions) need, is made once for
//! both. Measured, the bytes of a push are hashed and checked in a quarter of the time that
//! [`DetectingSha1`] takes with the processor's own SHA-1.
//!
//! A lane that has finished its object takes the next one. When too few objects are left to fill
//! the lanes, `DetectingSha1` goes on where they are.

use std::arch::x86_64::*;

use libgit::{HashKind, ObjectId};

use super::collision::{CONSTANTS, DIFFERENCES, DetectingSha1, START, VECTORS, bytes};
use super::conditions::CONDITIONS;
use super::hasher::HashJob;

const LANES: usize = 16;
/// Fewer busy lanes than this are slower than one hash after another.
const WORTH: usize = 4;

type V = __m512i;
type LaneState = [V; 5];
type Block = [u8; 64];

/// Whether this processor can.
pub(super) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw")
}

/// What the lanes work in.
pub(super) struct Engine {
    words: [V; 80],
    state: LaneState,
    /// Suspects whose halves meet at step 58, and those that meet at step 65.
    suspects: [Suspects; 2],
    rest: DetectingSha1,
}

/// Halves of possible collisions, waiting until there is one for each lane.
struct Suspects {
    used: usize,
    job: [usize; LANES],
    /// The other half's expanded message.
    words: [V; 80],
    /// The state in which both halves meet.
    middle: LaneState,
    /// The state that this half ends in.
    after: LaneState,
}

/// An object on its way through a lane: its first block, which holds its header, those within its
/// content, and the last ones.
struct Lane<'d> {
    job: usize,
    head: Block,
    body: &'d [Block],
    tail: [Block; 2],
    /// Blocks of the tail; the last ones of the two.
    tails: usize,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
    Tail,
    Done,
}

impl<'d> Lane<'d> {
    fn new(number: usize, job: &HashJob<'d>) -> Self {
        let header = format!("{} {}\0", job.kind.name(), job.data.len());
        let header = header.as_bytes();
        let bits = ((header.len() + job.data.len()) as u64).wrapping_mul(8);
        let mut head = [0; 64];
        head[..header.len()].copy_from_slice(header);
        let (mut rest, mut used) = (job.data, header.len());
        let mut part = Part::Tail;
        if header.len() + rest.len() >= 64 {
            let (first, more) = rest.split_at(64 - header.len());
            head[header.len()..].copy_from_slice(first);
            (rest, used, part) = (more, 0, Part::Head);
        }
        let (body, rest) = rest.as_chunks::<64>();
        let mut tail = [0; 128];
        let end = used + rest.len();
        tail[..used].copy_from_slice(&head[..used]);
        tail[used..end].copy_from_slice(rest);
        tail[end] = 0x80;
        let tails = if end < 56 { 1 } else { 2 };
        tail[tails * 64 - 8..tails * 64].copy_from_slice(&bits.to_be_bytes());
        let mut blocks = [[0; 64]; 2];
        for (block, bytes) in blocks[2 - tails..].iter_mut().zip(tail.as_chunks::<64>().0) {
            *block = *bytes;
        }
        Lane { job: number, head, body, tail: blocks, tails, part }
    }

    /// The blocks that come next; not empty until the end.
    fn blocks(&self) -> &[Block] {
        match self.part {
            Part::Head => std::slice::from_ref(&self.head),
            Part::Body => self.body,
            Part::Tail => &self.tail[2 - self.tails.min(2)..],
            Part::Done => &[],
        }
    }

    /// Goes on behind some of them.
    fn advance(&mut self, count: usize) {
        match self.part {
            Part::Head => self.part = if self.body.is_empty() { Part::Tail } else { Part::Body },
            Part::Body => {
                self.body = self.body.get(count..).unwrap_or(&[]);
                if self.body.is_empty() {
                    self.part = Part::Tail;
                }
            }
            Part::Tail => {
                self.tails = self.tails.saturating_sub(count);
                if self.tails == 0 {
                    self.part = Part::Done;
                }
            }
            Part::Done => {}
        }
    }
}

impl Engine {
    /// Only where [`available`] says so.
    pub(super) fn new() -> Option<Box<Engine>> {
        // SAFETY: the processor has what the function was compiled for.
        available().then(|| unsafe { Engine::at_rest() })
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn at_rest() -> Box<Engine> {
        let zero = _mm512_setzero_si512();
        let suspects =
            || Suspects { used: 0, job: [0; LANES], words: [zero; 80], middle: [zero; 5], after: [zero; 5] };
        let suspects = [suspects(), suspects()];
        Box::new(Engine { words: [zero; 80], state: [zero; 5], suspects, rest: DetectingSha1::new() })
    }

    /// Hashes all jobs. In `out` each has its hash afterwards, or `None` if it bears the marks of a
    /// collision attack.
    pub(super) fn hash(&mut self, jobs: &[HashJob<'_>], out: &mut Vec<Option<ObjectId>>) {
        // SAFETY: there is no engine where the processor lacks what the function was compiled for.
        unsafe { self.hash_all(jobs, out) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn hash_all(&mut self, jobs: &[HashJob<'_>], out: &mut Vec<Option<ObjectId>>) {
        out.clear();
        out.resize(jobs.len(), None);
        let mut colliding = Vec::new();
        // The longest first, so that all lanes end at about the same time.
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_unstable_by_key(|&job| std::cmp::Reverse(jobs[job].data.len()));
        let mut queue = order.into_iter().map(|job| Lane::new(job, &jobs[job]));
        let mut lanes: [Option<Lane<'_>>; LANES] = [const { None }; LANES];
        loop {
            for (at, lane) in lanes.iter_mut().enumerate() {
                if lane.is_some() {
                    continue;
                }
                *lane = queue.next();
                if lane.is_some() {
                    for (words, start) in as_words_mut(&mut self.state).iter_mut().zip(START) {
                        words[at] = start;
                    }
                }
            }
            if lanes.iter().flatten().count() < WORTH {
                break;
            }
            self.advance(&mut lanes, &mut colliding);
            for (at, slot) in lanes.iter_mut().enumerate() {
                if let Some(lane) = slot.take_if(|lane| lane.part == Part::Done) {
                    out[lane.job] = Some(id(std::array::from_fn(|i| as_words(&self.state)[i][at])));
                }
            }
        }
        for (at, lane) in lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            self.rest.resume(std::array::from_fn(|i| as_words(&self.state)[i][at]));
            while lane.part != Part::Done {
                let blocks = lane.blocks();
                self.rest.blocks(blocks);
                let count = blocks.len();
                lane.advance(count);
            }
            out[lane.job] = self.rest.outcome().map(id);
        }
        for late in [false, true] {
            self.judge(late, &mut colliding);
        }
        for job in colliding {
            out[job] = None;
        }
    }

    /// Takes all lanes as many blocks further as none of them has to do anything else.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn advance(&mut self, lanes: &mut [Option<Lane<'_>>; LANES], colliding: &mut Vec<usize>) {
        /// What lanes at rest are fed with.
        static NOTHING: [Block; 16] = [[0; 64]; 16];
        let mut input = [&NOTHING[..]; LANES];
        let mut busy: __mmask16 = 0;
        let mut jobs = [0; LANES];
        for (at, lane) in lanes.iter().enumerate() {
            if let Some(lane) = lane {
                input[at] = lane.blocks();
                busy |= 1 << at;
                jobs[at] = lane.job;
            }
        }
        let run = input.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
        let input = input.map(|blocks| &blocks[..run]);
        for block in 0..run {
            load(&mut self.words, input.map(|blocks| &blocks[block]));
            expand(&mut self.words);
            let at_58 = forwards(self.state, &self.words, 0, 58);
            let at_65 = forwards(at_58, &self.words, 58, 65);
            self.state = add(self.state, forwards(at_65, &self.words, 65, 80));
            let vectors = suspects(&self.words);
            let some = _mm512_test_epi32_mask(vectors, vectors) & busy;
            if some != 0 {
                self.note(some, vectors, [&at_58, &at_65], &jobs, colliding);
            }
        }
        for lane in lanes.iter_mut().flatten() {
            lane.advance(run);
        }
    }

    /// Notes the other half of each possible collision in the block at hand.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn note(
        &mut self,
        mut some: __mmask16,
        vectors: V,
        middles: [&LaneState; 2],
        jobs: &[usize; LANES],
        colliding: &mut Vec<usize>,
    ) {
        let vectors = as_words(&[vectors])[0];
        while some != 0 {
            let lane = some.trailing_zeros() as usize;
            some &= some - 1;
            let mut left = vectors[lane];
            while left != 0 {
                let vector = left.trailing_zeros() as usize;
                left &= left - 1;
                let late = VECTORS[vector].late;
                let suspects = &mut self.suspects[usize::from(late)];
                let to = suspects.used;
                suspects.used += 1;
                suspects.job[to] = jobs[lane];
                let message = as_words(&self.words).iter().zip(&DIFFERENCES[vector]);
                for (words, (word, difference)) in as_words_mut(&mut suspects.words).iter_mut().zip(message) {
                    words[to] = word[lane] ^ difference;
                }
                for i in 0..5 {
                    as_words_mut(&mut suspects.middle)[i][to] = as_words(middles[usize::from(late)])[i][lane];
                    as_words_mut(&mut suspects.after)[i][to] = as_words(&self.state)[i][lane];
                }
                if suspects.used == LANES {
                    self.judge(late, colliding);
                }
            }
        }
    }

    /// Runs the other halves that wait, backwards and forwards from the middle: one that ends in
    /// the same state is a collision.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn judge(&mut self, late: bool, colliding: &mut Vec<usize>) {
        let suspects = &mut self.suspects[usize::from(late)];
        let used = std::mem::take(&mut suspects.used);
        let middle = if late { 65 } else { 58 };
        let before = backwards(suspects.middle, &suspects.words, middle);
        let after = add(before, forwards(suspects.middle, &suspects.words, middle, 80));
        let mut same: __mmask16 = !0;
        for (word, other) in after.iter().zip(&suspects.after) {
            same &= _mm512_cmpeq_epi32_mask(*word, *other);
        }
        for lane in (0..used).filter(|lane| same & (1 << lane) != 0) {
            colliding.push(suspects.job[lane]);
        }
    }
}

fn id(state: [u32; 5]) -> ObjectId {
    ObjectId::from_bytes(HashKind::Sha1, &bytes(state)).unwrap_or(ObjectId::null(HashKind::Sha1))
}

fn as_words<const N: usize>(vectors: &[V; N]) -> &[[u32; LANES]; N] {
    // SAFETY: same size, no stricter alignment, and any bits are a number.
    unsafe { &*std::ptr::from_ref(vectors).cast() }
}

fn as_words_mut<const N: usize>(vectors: &mut [V; N]) -> &mut [[u32; LANES]; N] {
    // SAFETY: as above, and any numbers are a vector.
    unsafe { &mut *std::ptr::from_mut(vectors).cast() }
}

/// Loads one block into each lane: word `t` of all blocks into `words[t]`, which is a transposition
/// of sixteen by sixteen.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load(words: &mut [V; 80], blocks: [&Block; LANES]) {
    let swap = _mm512_set_epi64(
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
    );
    let row = |at: usize| {
        // SAFETY: a block is 64 bytes, and the load needs no alignment.
        let block = unsafe { _mm512_loadu_si512(blocks[at].as_ptr().cast()) };
        _mm512_shuffle_epi8(block, swap)
    };
    // Four rows at a time: afterwards `quads[q][i]` has, in its group of 128 bits `g`, word `4g +
    // i` of the rows `4q` to `4q + 3`.
    let quad = |q: usize| {
        let [a, b, c, d] = [row(4 * q), row(4 * q + 1), row(4 * q + 2), row(4 * q + 3)];
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    };
    let quads = [quad(0), quad(1), quad(2), quad(3)];
    for i in 0..4 {
        let [a, b, c, d] = [quads[0][i], quads[1][i], quads[2][i], quads[3][i]];
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_more, odd_more) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        words[i] = _mm512_shuffle_i32x4::<0x88>(even, even_more);
        words[8 + i] = _mm512_shuffle_i32x4::<0xdd>(even, even_more);
        words[4 + i] = _mm512_shuffle_i32x4::<0x88>(odd, odd_more);
        words[12 + i] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_more);
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn expand(words: &mut [V; 80]) {
    for t in 16..80 {
        let mixed = _mm512_ternarylogic_epi32::<XOR>(words[t - 3], words[t - 8], words[t - 14]);
        words[t] = _mm512_rol_epi32::<1>(_mm512_xor_si512(mixed, words[t - 16]));
    }
}

/// Truth tables of functions of three bits.
const XOR: i32 = 0x96;
const CHOOSE: i32 = 0xca;
const MAJORITY: i32 = 0xe8;

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn mix<const Q: usize>(b: V, c: V, d: V) -> V {
    match Q {
        0 => _mm512_ternarylogic_epi32::<CHOOSE>(b, c, d),
        2 => _mm512_ternarylogic_epi32::<MAJORITY>(b, c, d),
        _ => _mm512_ternarylogic_epi32::<XOR>(b, c, d),
    }
}

/// One step of the compression function in all lanes. `Q` is which quarter of the eighty steps it
/// belongs to.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn forward<const Q: usize>(s: LaneState, word: V) -> LaneState {
    let [a, b, c, d, e] = s;
    let given = _mm512_add_epi32(_mm512_add_epi32(e, word), _mm512_set1_epi32(CONSTANTS[Q] as i32));
    let sum = _mm512_add_epi32(_mm512_add_epi32(given, mix::<Q>(b, c, d)), _mm512_rol_epi32::<5>(a));
    [sum, a, _mm512_rol_epi32::<30>(b), c, d]
}

/// The same step backwards.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn backward<const Q: usize>(s: LaneState, word: V) -> LaneState {
    let [sum, a, b, c, d] = s;
    let b = _mm512_ror_epi32::<30>(b);
    let given = _mm512_add_epi32(_mm512_add_epi32(_mm512_rol_epi32::<5>(a), word), mix::<Q>(b, c, d));
    let e = _mm512_sub_epi32(_mm512_sub_epi32(sum, _mm512_set1_epi32(CONSTANTS[Q] as i32)), given);
    [a, b, c, d, e]
}

/// Some steps of one quarter, five at a time so that the registers come back to their places.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn quarter<const Q: usize>(mut s: LaneState, words: &[V]) -> LaneState {
    let (fives, rest) = words.as_chunks::<5>();
    for five in fives {
        s = forward::<Q>(s, five[0]);
        s = forward::<Q>(s, five[1]);
        s = forward::<Q>(s, five[2]);
        s = forward::<Q>(s, five[3]);
        s = forward::<Q>(s, five[4]);
    }
    for word in rest {
        s = forward::<Q>(s, *word);
    }
    s
}

/// The states after step `to`, from those before step `from`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn forwards(mut s: LaneState, words: &[V; 80], from: usize, to: usize) -> LaneState {
    s = quarter::<0>(s, &words[from.min(20)..to.min(20)]);
    s = quarter::<1>(s, &words[from.clamp(20, 40)..to.clamp(20, 40)]);
    s = quarter::<2>(s, &words[from.clamp(40, 60)..to.clamp(40, 60)]);
    quarter::<3>(s, &words[from.max(60)..to.max(60)])
}

/// The states before the first step, from those before step `from`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn backwards(mut s: LaneState, words: &[V; 80], from: usize) -> LaneState {
    for word in words[60.min(from)..from].iter().rev() {
        s = backward::<3>(s, *word);
    }
    for word in words[40.min(from)..from.min(60)].iter().rev() {
        s = backward::<2>(s, *word);
    }
    for word in words[20.min(from)..from.min(40)].iter().rev() {
        s = backward::<1>(s, *word);
    }
    for word in words[..from.min(20)].iter().rev() {
        s = backward::<0>(s, *word);
    }
    s
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn add(a: LaneState, b: LaneState) -> LaneState {
    [
        _mm512_add_epi32(a[0], b[0]),
        _mm512_add_epi32(a[1], b[1]),
        _mm512_add_epi32(a[2], b[2]),
        _mm512_add_epi32(a[3], b[3]),
        _mm512_add_epi32(a[4], b[4]),
    ]
}

/// How many of the [`CONDITIONS`] are looked at. The others would spare one more block in a hundred
/// a closer look, and cost more than that.
const WORTHWHILE: usize = 108;

/// A condition as the lanes test it: word `t` turned right by `turn`, exclusive-or word `u`, at the
/// bit `bit`.
struct Test {
    t: usize,
    u: usize,
    turn: i32,
    bit: i32,
    /// What is left of the suspected vectors if the condition is not met.
    left: i32,
}

const fn count(differ: u8) -> usize {
    let (mut i, mut count) = (0, 0);
    while i < WORTHWHILE {
        count += (CONDITIONS[i].4 == differ) as usize;
        i += 1;
    }
    count
}

const fn tests<const N: usize>(differ: u8) -> [Test; N] {
    let mut all = [const { Test { t: 0, u: 0, turn: 0, bit: 0, left: 0 } }; N];
    let (mut i, mut n) = (0, 0);
    while i < WORTHWHILE {
        let (t, a, u, b, e, vectors) = CONDITIONS[i];
        if e == differ {
            let turn = (32 + a as i32 - b as i32) % 32;
            all[n] = Test { t: t as usize, u: u as usize, turn, bit: 1 << b, left: !vectors as i32 };
            n += 1;
        }
        i += 1;
    }
    all
}

/// Conditions on bits that must be equal, and on bits that must differ.
static EQUAL: [Test; count(0)] = tests(0);
static DIFFERENT: [Test; count(1)] = tests(1);

/// Which disturbance vectors the block in each lane may be following.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn suspects(words: &[V; 80]) -> V {
    let differences = |test: &Test| {
        let turned = _mm512_rorv_epi32(words[test.t], _mm512_set1_epi32(test.turn));
        _mm512_xor_si512(turned, words[test.u])
    };
    let mut suspects = _mm512_set1_epi32(-1);
    for test in &EQUAL {
        let broken = _mm512_test_epi32_mask(differences(test), _mm512_set1_epi32(test.bit));
        suspects = _mm512_mask_and_epi32(suspects, broken, suspects, _mm512_set1_epi32(test.left));
    }
    for test in &DIFFERENT {
        let broken = _mm512_testn_epi32_mask(differences(test), _mm512_set1_epi32(test.bit));
        suspects = _mm512_mask_and_epi32(suspects, broken, suspects, _mm512_set1_epi32(test.left));
    }
    suspects
}

#[cfg(test)]
mod tests {
    use super::super::collision::tests::known;
    use super::*;
    use crate::id::hash_object;
    use libgit::ObjectKind;

    fn hash(contents: &[Vec<u8>]) -> Option<Vec<Option<ObjectId>>> {
        let jobs: Vec<HashJob<'_>> =
            contents.iter().map(|data| HashJob { kind: ObjectKind::Blob, data }).collect();
        let mut out = Vec::new();
        let mut engine = Engine::new()?;
        // Twice, because an engine must not remember anything.
        engine.hash(&jobs, &mut out);
        engine.hash(&jobs, &mut out);
        Some(out)
    }

    #[test]
    fn agrees_with_plain_sha1_at_every_length() {
        let mut state = 7_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u8
        };
        for lengths in [
            (0..200).collect::<Vec<usize>>(),
            vec![50_000; 17],
            (0..90).map(|n| n * n * 3).collect(),
            vec![5; 3],
        ] {
            let contents: Vec<Vec<u8>> =
                lengths.iter().map(|&length| (0..length).map(|_| random()).collect()).collect();
            let want: Vec<_> = contents
                .iter()
                .map(|data| Some(hash_object(HashKind::Sha1, ObjectKind::Blob, data)))
                .collect();
            if let Some(got) = hash(&contents) {
                assert!(got == want, "{lengths:?}");
            }
        }
    }

    /// Marks need the state that they were made for, so no header may stand before them: the lanes
    /// are entered below it.
    #[test]
    fn a_real_collision_is_seen_in_every_lane() {
        let Some(mut engine) = Engine::new() else { return };
        for place in 0..LANES {
            for bad in &known() {
                let contents: Vec<Vec<u8>> = (0..LANES)
                    .map(|n| if n == place { bad.clone() } else { vec![n as u8; bad.len() - (n % 3) * 64] })
                    .collect();
                let mut lanes = [const { None }; LANES];
                for (job, (lane, data)) in lanes.iter_mut().zip(&contents).enumerate() {
                    let body = data.as_chunks::<64>().0;
                    *lane = Some(Lane {
                        job,
                        head: [0; 64],
                        body,
                        tail: [[0; 64]; 2],
                        tails: 1,
                        part: Part::Body,
                    });
                }
                for (words, start) in as_words_mut(&mut engine.state).iter_mut().zip(START) {
                    *words = [start; LANES];
                }
                let mut colliding = Vec::new();
                // SAFETY: there is an engine.
                unsafe {
                    for _ in 0..20 {
                        engine.advance(&mut lanes, &mut colliding);
                        for lane in &mut lanes {
                            lane.take_if(|lane| lane.part == Part::Done);
                        }
                    }
                    engine.judge(false, &mut colliding);
                    engine.judge(true, &mut colliding);
                }
                colliding.dedup();
                assert_eq!(colliding, [place]);
            }
        }
    }

    /// Whatever the conditions let pass in one block at a time, they let pass in lanes; and no more
    /// than they spare.
    #[test]
    fn suspects_are_those_of_the_whole_list() {
        if !available() {
            return;
        }
        let mut state = 1_u32;
        let (mut few, mut more) = (0, 0);
        for _ in 0..500 {
            let mut words = [[0; LANES]; 80];
            for word in words[..16].iter_mut().flatten() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *word = state ^ (state >> 15);
            }
            let mut all = words;
            let whole = super::super::collision::suspects(&mut all);
            // SAFETY: available, as asked above.
            let found = unsafe {
                let mut vectors = [_mm512_setzero_si512(); 80];
                *as_words_mut(&mut vectors) = words;
                expand(&mut vectors);
                assert_eq!(as_words(&vectors), &all);
                as_words(&[suspects(&vectors)])[0]
            };
            for (whole, found) in whole.iter().zip(found) {
                assert_eq!(whole & !found, 0);
                few += u32::from(*whole != 0);
                more += u32::from(found != 0);
            }
        }
        assert!(few > 100 && more < few * 2, "{few} {more}");
    }

    /// Too few objects to fill the lanes: what is left of each goes on alone, from the state that
    /// its lane had.
    #[test]
    fn a_real_collision_is_seen_where_the_lanes_are_left() {
        let Some(mut engine) = Engine::new() else { return };
        for bad in &known() {
            for alone in 0..bad.len() / 64 {
                let mut lane = Lane {
                    job: 0,
                    head: [0; 64],
                    body: bad.as_chunks::<64>().0,
                    tail: [[0; 64]; 2],
                    tails: 1,
                    part: Part::Body,
                };
                let mut state = START;
                for block in &lane.body[..alone] {
                    sha1::compress(&mut state, std::slice::from_ref(block.into()));
                }
                lane.advance(alone);
                engine.rest.resume(state);
                engine.rest.blocks(lane.blocks());
                assert_eq!(engine.rest.outcome(), None, "from block {alone} on");
            }
        }
    }
}
