//! Chance that can be repeated, and where a test begins with it.

/// A small random number generator: the same seed, the same history.
pub struct Random(u64);

impl Random {
    /// From the number of a case.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// At most `most` of them.
    pub fn some<T: Clone>(&mut self, from: &[T], most: usize) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| self.pick(from).clone()).collect()
    }
}

/// The seeds of a run: `FETCH_SEED` and `FETCH_CASES` of the environment, or the first few.
pub fn seeds(cases: u64) -> std::ops::Range<u64> {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = read("FETCH_SEED").unwrap_or(1);
    seed..seed + read("FETCH_CASES").unwrap_or(cases)
}
