//! A set of small numbers: one bit each, growing as needed.

/// A growing set of object numbers. Fresh pages of the vector are zero and untouched, so a set over
/// a large repository costs only what is used of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// An empty set with room for the numbers below `count`.
    pub(crate) fn with_room(count: u32) -> Bits {
        Bits { words: vec![0; count.div_ceil(64) as usize] }
    }

    pub(crate) fn get(&self, number: u32) -> bool {
        self.words.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Adds a number; true if it is new.
    pub(crate) fn set(&mut self, number: u32) -> bool {
        let at = (number / 64) as usize;
        if at >= self.words.len() {
            self.words.resize(at + 1 + at / 4, 0);
        }
        let bit = 1 << (number % 64);
        let new = self.words[at] & bit == 0;
        self.words[at] |= bit;
        new
    }

    pub(crate) fn clear(&mut self, number: u32) {
        if let Some(word) = self.words.get_mut((number / 64) as usize) {
            *word &= !(1 << (number % 64));
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many numbers below `end` are in the set.
    pub(crate) fn count_below(&self, end: u32) -> u32 {
        let whole = (end / 64) as usize;
        let last = self.words.get(whole).map_or(0, |word| word & ((1 << (end % 64)) - 1));
        self.words.iter().take(whole).map(|word| word.count_ones()).sum::<u32>() + last.count_ones()
    }

    /// Union with the numbers from 0 on that `other` holds.
    pub(crate) fn or(&mut self, other: &[u64]) {
        if self.words.len() < other.len() {
            self.words.resize(other.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(other) {
            *word |= more;
        }
    }

    /// Removes what `other` holds.
    pub(crate) fn subtract(&mut self, other: &[u64]) {
        for (word, less) in self.words.iter_mut().zip(other) {
            *word &= !less;
        }
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The numbers in the set, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        bits_of(&self.words)
    }

    /// The numbers from `first` on and below `first + count`, in order, as distances from `first`.
    pub(crate) fn between(&self, first: u32, count: u32) -> impl Iterator<Item = u32> + '_ {
        let end = first.saturating_add(count);
        let start = first / 64;
        (start..end.div_ceil(64))
            .zip(self.words.get(start as usize..).unwrap_or_default())
            .flat_map(|(at, word)| ones(*word).map(move |bit| at * 64 + bit))
            .filter(move |number| (first..end).contains(number))
            .map(move |number| number - first)
    }
}

/// The numbers of the bits that are set.
pub(crate) fn bits_of(words: &[u64]) -> impl Iterator<Item = u32> + '_ {
    (0u32..).zip(words).flat_map(|(at, word)| ones(*word).map(move |bit| at * 64 + bit))
}

fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_order() {
        let mut bits = Bits::with_room(10);
        for number in [3, 64, 63, 100_000, 0, 3] {
            bits.set(number);
        }
        assert!(!bits.set(3));
        assert!(bits.get(100_000) && !bits.get(99_999) && !bits.get(u32::MAX));
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 3, 63, 64, 100_000]);
        assert_eq!(bits.count(), 5);
        for (end, below) in
            [(0, 0), (1, 1), (63, 2), (64, 3), (65, 4), (100_000, 4), (100_001, 5), (u32::MAX, 5)]
        {
            assert_eq!(bits.count_below(end), below, "{end}");
        }
        assert_eq!(bits.between(3, 61).collect::<Vec<_>>(), [0, 60]);
        assert_eq!(bits.between(99_000, 5000).collect::<Vec<_>>(), [1000]);
        let mut other = Bits::default();
        other.set(64);
        bits.subtract(other.words());
        bits.clear(0);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [3, 63, 100_000]);
    }
}
