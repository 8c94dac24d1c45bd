//! Making deltas: how to build one object from another (`gitformat-pack`, "Deltified
//! representation").
//!
//! The base is cut into blocks of 16 bytes whose hashes are indexed; the target is scanned byte by
//! byte for one of them, and each match is extended to both sides. Time is linear in both lengths:
//! a bucket is never followed further than [`TRIES`] steps.

/// Length of an indexed block in bytes: the shortest match that is found.
const BLOCK: usize = 16;
/// How many blocks with the same hash are compared.
const TRIES: usize = 16;
/// A match this long is taken without looking for a longer one.
const LONG_ENOUGH: usize = 4096;
/// The longest copy of one instruction in bytes; the format has room for more, old readers do not.
const LONGEST_COPY: usize = 0x10000;
const NONE: u32 = u32::MAX;

/// The index of one base, good for any number of targets.
pub(crate) struct DeltaIndex {
    base_length: usize,
    mask: u32,
    /// One bit for every hash that some block may have, sixteen bits for each block: most places of
    /// a target match nothing, and are passed by without a look at the base.
    filter: Vec<u64>,
    /// How far a hash is shifted to be a bit of the filter.
    shift: u32,
    /// First block of each bucket.
    heads: Vec<u32>,
    /// Next block with the same hash.
    next: Vec<u32>,
}

impl DeltaIndex {
    /// Indexes `base`; `None` where deltas against it are pointless (shorter than a block) or
    /// impossible (longer than the format's 32-bit offsets).
    pub(crate) fn new(base: &[u8]) -> Option<DeltaIndex> {
        if base.len() < BLOCK || u32::try_from(base.len()).is_err() {
            return None;
        }
        let blocks = base.len() / BLOCK;
        let size = blocks.next_power_of_two().max(16);
        let mask = u32::try_from(size - 1).ok()?;
        let mut heads = vec![NONE; size];
        let mut next = vec![NONE; blocks];
        let bits = (blocks * 16).next_power_of_two().max(64);
        let mut filter = vec![0_u64; bits / 64];
        let shift = 64 - bits.trailing_zeros();
        // Backwards, so that a bucket begins with its earliest block.
        for (number, block) in base.as_chunks::<BLOCK>().0.iter().enumerate().rev() {
            let hash = hash(block);
            let bit = (hash >> shift) as usize;
            filter[bit / 64] |= 1 << (bit % 64);
            let bucket = (bucket(hash) & mask) as usize;
            next[number] = heads[bucket];
            heads[bucket] = number as u32;
        }
        Some(DeltaIndex { base_length: base.len(), mask, filter, shift, heads, next })
    }

    /// What the index occupies, in bytes.
    pub(crate) fn size(&self) -> usize {
        (self.heads.len() + self.next.len()) * 4 + self.filter.len() * 8
    }

    /// A delta of at most `limit` bytes that makes `target` out of `base`, which must be the
    /// indexed one.
    pub(crate) fn encode(&self, base: &[u8], target: &[u8], limit: usize) -> Option<Vec<u8>> {
        if base.len() != self.base_length || target.len() < BLOCK || u32::try_from(target.len()).is_err() {
            return None;
        }
        let mut out = Vec::with_capacity(limit.min(target.len() / 4).min(1 << 16) + 64);
        put_size(&mut out, base.len());
        put_size(&mut out, target.len());
        let mut at = 0;
        let mut pending = 0;
        loop {
            // Beyond this place the delta would be too long even if all the rest matched.
            let last = pending + limit.saturating_sub(out.len());
            let Some((found, hash)) = self.promising(target, at, last) else { break };
            at = found;
            let Some(block) = target[at..].first_chunk::<BLOCK>() else { break };
            let (start, length) = self.longest(base, &target[at..], block, hash);
            if length < BLOCK {
                at += 1;
                continue;
            }
            let room = start.min(at - pending);
            let back = base[start - room..start]
                .iter()
                .rev()
                .zip(target[at - room..at].iter().rev())
                .take_while(|(a, b)| a == b)
                .count();
            put_literal(&mut out, &target[pending..at - back]);
            put_copy(&mut out, start - back, length + back);
            if out.len() > limit {
                return None;
            }
            at += length;
            pending = at;
        }
        if out.len() + (target.len() - pending) > limit {
            return None;
        }
        put_literal(&mut out, &target[pending..]);
        (out.len() <= limit).then_some(out)
    }

    /// The next place from `at` to `last` whose block the base may have, and the block's hash.
    fn promising(&self, target: &[u8], at: usize, last: usize) -> Option<(usize, u64)> {
        let end = target.len().min(last.saturating_add(BLOCK));
        let blocks = target.get(at..end)?.windows(BLOCK);
        for (skipped, block) in blocks.enumerate() {
            let hash = hash(block.first_chunk()?);
            let bit = (hash >> self.shift) as usize;
            if self.filter[bit / 64] >> (bit % 64) & 1 == 1 {
                return Some((at + skipped, hash));
            }
        }
        None
    }

    /// Where in the base the longest match for the start of `rest` begins, and its length.
    fn longest(&self, base: &[u8], rest: &[u8], block: &[u8; BLOCK], hash: u64) -> (usize, usize) {
        let mut best = (0, 0);
        let mut number = self.heads[(bucket(hash) & self.mask) as usize];
        for _ in 0..TRIES {
            if number == NONE {
                break;
            }
            let start = number as usize * BLOCK;
            let candidate = &base[start..];
            if candidate.first_chunk::<BLOCK>() == Some(block) {
                let length = common_prefix(candidate, rest);
                if length > best.1 {
                    best = (start, length);
                    if length >= LONG_ENOUGH {
                        break;
                    }
                }
            }
            number = self.next[number as usize];
        }
        best
    }
}

/// The highest bits are the best ones: those of the filter. Buckets use the ones below the upper
/// half.
fn hash(block: &[u8; BLOCK]) -> u64 {
    let both = u128::from_le_bytes(*block);
    let (low, high) = (both as u64, (both >> 64) as u64);
    let mixed = low.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn bucket(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0).take_while(|(a, b)| a == b).count() * 8;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

fn put_size(out: &mut Vec<u8>, mut size: usize) {
    while size > 0x7f {
        out.push((size & 0x7f) as u8 | 0x80);
        size >>= 7;
    }
    out.push(size as u8);
}

fn put_literal(out: &mut Vec<u8>, bytes: &[u8]) {
    for piece in bytes.chunks(0x7f) {
        out.push(piece.len() as u8);
        out.extend_from_slice(piece);
    }
}

fn put_copy(out: &mut Vec<u8>, mut start: usize, mut length: usize) {
    while length > 0 {
        let now = length.min(LONGEST_COPY);
        let head = out.len();
        let mut code = 0x80;
        out.push(code);
        for shift in 0..4 {
            let byte = (start >> (8 * shift)) as u8;
            if byte != 0 {
                code |= 1 << shift;
                out.push(byte);
            }
        }
        // 0x10000 is written as no length at all.
        if now != LONGEST_COPY {
            for shift in 0..2 {
                let byte = (now >> (8 * shift)) as u8;
                if byte != 0 {
                    code |= 0x10 << shift;
                    out.push(byte);
                }
            }
        }
        out[head] = code;
        start += now;
        length -= now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(base: &[u8], delta: &[u8]) -> Vec<u8> {
        let mut i = 0;
        let size = |i: &mut usize| {
            let (mut n, mut shift) = (0usize, 0);
            loop {
                let c = delta[*i];
                *i += 1;
                n |= usize::from(c & 0x7f) << shift;
                shift += 7;
                if c & 0x80 == 0 {
                    break n;
                }
            }
        };
        assert_eq!(size(&mut i), base.len());
        let length = size(&mut i);
        let mut out = Vec::new();
        while i < delta.len() {
            let c = delta[i];
            i += 1;
            assert_ne!(c, 0);
            if c & 0x80 == 0 {
                out.extend_from_slice(&delta[i..i + usize::from(c)]);
                i += usize::from(c);
                continue;
            }
            let (mut start, mut count) = (0usize, 0usize);
            for k in 0..4 {
                if c & (1 << k) != 0 {
                    start |= usize::from(delta[i]) << (8 * k);
                    i += 1;
                }
            }
            for k in 0..3 {
                if c & (0x10 << k) != 0 {
                    count |= usize::from(delta[i]) << (8 * k);
                    i += 1;
                }
            }
            let count = if count == 0 { 0x10000 } else { count };
            out.extend_from_slice(&base[start..start + count]);
        }
        assert_eq!(out.len(), length);
        out
    }

    #[test]
    fn a_small_change_makes_a_small_delta() {
        let base: Vec<u8> =
            (0..200_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut target = base.clone();
        target.splice(300_000..300_010, *b"something else");
        let index = DeltaIndex::new(&base).unwrap();
        let delta = index.encode(&base, &target, target.len() / 2).unwrap();
        assert_eq!(apply(&base, &delta), target);
        assert!(delta.len() < 250, "{}", delta.len());
        assert!(index.encode(&base, &target, 20).is_none());
    }

    #[test]
    fn repetition_takes_linear_time() {
        let base = vec![0; 4 << 20];
        let mut target = vec![0; 4 << 20];
        target[77] = 1;
        let index = DeltaIndex::new(&base).unwrap();
        let delta = index.encode(&base, &target, 1 << 20).unwrap();
        assert_eq!(apply(&base, &delta), target);
    }

    proptest! {
        #[test]
        fn deltas_make_the_target(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..70), 1..20),
            picks in prop::collection::vec((0usize..40, prop::collection::vec(any::<u8>(), 0..9)), 1..30),
        ) {
            let base: Vec<u8> = pieces.concat();
            let mut target = Vec::new();
            for (pick, extra) in &picks {
                target.extend_from_slice(&pieces[pick % pieces.len()]);
                target.extend_from_slice(extra);
            }
            if let Some(index) = DeltaIndex::new(&base)
                && let Some(delta) = index.encode(&base, &target, usize::MAX / 2)
            {
                prop_assert_eq!(apply(&base, &delta), target);
            }
        }
    }
}
