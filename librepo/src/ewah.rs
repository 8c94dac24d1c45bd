//! Compressed bitmaps as `.bitmap` files hold them (EWAH; `gitformat-bitmap`, appendix A).
//!
//! A bitmap is a sequence of 64-bit big-endian words. Each group starts with a marker word: bit 0
//! is the value of a run, the next 32 bits its length in words, the upper 31 bits how many literal
//! words follow. Nothing here allocates: a bitmap is combined straight from the file's bytes into
//! the caller's dense one.

/// One compressed bitmap, borrowed from the file's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Ewah<'a> {
    bits: u32,
    words: &'a [u8],
}

/// The bytes are not a well-formed bitmap, or hold bits beyond the end of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed compressed bitmap")
    }
}

impl std::error::Error for Malformed {}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Ewah<'a> {
    /// Takes the bitmap at the start of `bytes` and returns it with the number of bytes it
    /// occupies.
    ///
    /// The serialised form is the number of bits (32 bits), the number of words (32 bits), the
    /// words, and the index of the last marker word (32 bits), which only a writer needs.
    ///
    /// # Errors
    /// `Malformed` when the bytes end early.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let bits = be32(bytes, 0).ok_or(Malformed)?;
        let count = be32(bytes, 4).ok_or(Malformed)?;
        let length = usize::try_from(count).ok().and_then(|n| n.checked_mul(8)).ok_or(Malformed)?;
        let end = length.checked_add(8).ok_or(Malformed)?;
        let words = bytes.get(8..end).ok_or(Malformed)?;
        be32(bytes, end).ok_or(Malformed)?;
        Ok((Ewah { bits, words }, end + 4))
    }

    /// The number of bits that the writer declared.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Exclusive or into `out` (64 bits a word, least significant first).
    ///
    /// # Errors
    /// `Malformed` when a bit lies beyond `out` or the words end inside a group; `out` is then half
    /// changed and of no use.
    pub fn xor_into(&self, out: &mut [u64]) -> Result<(), Malformed> {
        self.apply(out, |word, bits| *word ^= bits)
    }

    /// Union into `out`; otherwise as [`Ewah::xor_into`].
    ///
    /// # Errors
    /// As [`Ewah::xor_into`].
    pub fn or_into(&self, out: &mut [u64]) -> Result<(), Malformed> {
        self.apply(out, |word, bits| *word |= bits)
    }

    fn apply(&self, out: &mut [u64], combine: impl Fn(&mut u64, u64)) -> Result<(), Malformed> {
        let (words, rest) = self.words.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(Malformed);
        }
        let mut words = words.iter().map(|w| u64::from_be_bytes(*w));
        let mut at = 0usize;
        while let Some(marker) = words.next() {
            let run = usize::try_from((marker >> 1) & 0xffff_ffff).map_err(|_| Malformed)?;
            let literals = usize::try_from(marker >> 33).map_err(|_| Malformed)?;
            let left = out.len() - at;
            if marker & 1 == 1 {
                for word in out.get_mut(at..at.checked_add(run).ok_or(Malformed)?).ok_or(Malformed)? {
                    combine(word, u64::MAX);
                }
            }
            // Zeros beyond the end say nothing: writers pad with them.
            at += run.min(left);
            if literals > words.len() {
                return Err(Malformed);
            }
            let target = out.get_mut(at..).ok_or(Malformed)?;
            if run > left && literals > 0 || literals > target.len() {
                return Err(Malformed);
            }
            for (word, bits) in target.iter_mut().zip(words.by_ref().take(literals)) {
                combine(word, bits);
            }
            at += literals;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A writer for the tests: the simplest correct encoding of `words`.
    pub(crate) fn encode(words: &[u64]) -> Vec<u8> {
        let mut body: Vec<u64> = Vec::new();
        let mut i = 0;
        while i < words.len() {
            let value = words[i];
            let mut run = 0;
            if value == 0 || value == u64::MAX {
                while i + run < words.len() && words[i + run] == value {
                    run += 1;
                }
            }
            i += run;
            let start = i;
            while i < words.len() && words[i] != 0 && words[i] != u64::MAX {
                i += 1;
            }
            let bit = u64::from(run > 0 && value != 0);
            body.push(bit | (run as u64) << 1 | ((i - start) as u64) << 33);
            body.extend_from_slice(&words[start..i]);
        }
        let mut out = Vec::new();
        out.extend(((words.len() * 64) as u32).to_be_bytes());
        out.extend((body.len() as u32).to_be_bytes());
        for word in &body {
            out.extend(word.to_be_bytes());
        }
        out.extend(0u32.to_be_bytes());
        out
    }

    #[test]
    fn runs_and_literals_come_back() {
        let words = [0, 0, u64::MAX, 5, 7, 0, u64::MAX, u64::MAX, 1];
        let bytes = encode(&words);
        let (ewah, used) = Ewah::parse(&bytes).unwrap();
        assert_eq!(used, bytes.len());
        let mut out = [0; 9];
        ewah.or_into(&mut out).unwrap();
        assert_eq!(out, words);
        ewah.xor_into(&mut out).unwrap();
        assert_eq!(out, [0; 9]);
    }

    #[test]
    fn bits_beyond_the_end_are_refused() {
        let bytes = encode(&[1, u64::MAX, u64::MAX]);
        let (ewah, _) = Ewah::parse(&bytes).unwrap();
        assert_eq!(ewah.or_into(&mut [0; 2]), Err(Malformed));
        let bytes = encode(&[0, 0, 0, 3]);
        let (ewah, _) = Ewah::parse(&bytes).unwrap();
        assert_eq!(ewah.or_into(&mut [0; 2]), Err(Malformed));
        let bytes = encode(&[1, 0, 0]);
        let (ewah, _) = Ewah::parse(&bytes).unwrap();
        assert_eq!(ewah.or_into(&mut [0; 1]), Ok(()));
    }

    proptest! {
        #[test]
        fn any_words_round_trip(words in prop::collection::vec(prop_oneof![Just(0u64), Just(u64::MAX), any::<u64>()], 0..60)) {
            let bytes = encode(&words);
            let (ewah, used) = Ewah::parse(&bytes).unwrap();
            prop_assert_eq!(used, bytes.len());
            let mut out = vec![0; words.len()];
            ewah.xor_into(&mut out).unwrap();
            prop_assert_eq!(out, words);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((ewah, used)) = Ewah::parse(&bytes) {
                prop_assert!(used <= bytes.len());
                let _ = ewah.or_into(&mut [0; 7]);
            }
        }
    }
}
