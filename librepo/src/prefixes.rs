//! A set of prefixes that names are chosen by (`ref-prefix` of `gitprotocol-v2`).

/// Prefixes, sorted, none of them beginning with another, so that each question takes one binary
/// search: a client may name tens of thousands.
#[derive(Clone, Debug)]
pub struct Prefixes(Vec<Vec<u8>>);

impl Prefixes {
    /// The set of these; an empty one means all names.
    pub fn new<P: AsRef<[u8]>>(prefixes: &[P]) -> Prefixes {
        if prefixes.is_empty() {
            return Prefixes(vec![Vec::new()]);
        }
        let mut sorted: Vec<&[u8]> = prefixes.iter().map(AsRef::as_ref).collect();
        sorted.sort_unstable();
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for prefix in sorted {
            if !kept.last().is_some_and(|last| prefix.starts_with(last)) {
                kept.push(prefix.to_vec());
            }
        }
        Prefixes(kept)
    }

    /// The prefixes, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Vec<u8>> {
        self.0.iter()
    }

    /// Whether a name begins with one of them.
    #[inline]
    pub fn matches(&self, name: &[u8]) -> bool {
        // Whatever lies between a prefix of the name and the name itself would begin with that
        // prefix, and is not kept.
        let after = self.0.partition_point(|prefix| &prefix[..] <= name);
        after > 0 && name.starts_with(&self.0[after - 1])
    }

    /// Whether a name that begins with `start` can begin with one of them.
    pub fn may_match_below(&self, start: &[u8]) -> bool {
        let first = self.0.partition_point(|prefix| &prefix[..] < start);
        self.0.get(first).is_some_and(|prefix| prefix.starts_with(start)) || self.matches(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn as_if_each_were_tried(prefixes in proptest::collection::vec("[ab/]{0,4}", 0..6), name in "[ab/]{0,6}") {
            let set = Prefixes::new(&prefixes);
            let none = prefixes.is_empty();
            assert_eq!(set.matches(name.as_bytes()), none || prefixes.iter().any(|prefix| name.starts_with(prefix)));
            let below = |prefix: &String| name.starts_with(prefix) || prefix.starts_with(&name);
            assert_eq!(set.may_match_below(name.as_bytes()), none || prefixes.iter().any(below));
        }
    }
}
