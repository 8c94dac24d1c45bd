//! The owners of subordinate uids: a subordinate uid counts as its owner.
//!
//! A user with a line in subuid(5) may run container processes under the uids of that line, 65,536
//! of them by default, without asking anybody. If each uid counted as a user, that user would have
//! 65,536 shares. So a uid in such a range counts as the owner of the range. Its permissions are
//! still those of the uid itself.

use libproto::message::parent::UidRange;

/// Most ranges that are kept. There can be more than were read: a range is cut in two where a uid
/// in it is a known user.
pub const RANGES_MAX: usize = 100_000;

/// Ranges in order, without overlaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(Vec<UidRange>);

impl Owners {
    /// Ranges that are in order already.
    pub fn new(ranges: &[UidRange]) -> Owners {
        Owners(ranges.to_vec())
    }

    /// Appends ranges.
    pub fn extend(&mut self, ranges: Vec<UidRange>) {
        let room = RANGES_MAX.saturating_sub(self.0.len());
        self.0.extend(ranges.into_iter().take(room));
    }

    /// The uid that a uid counts as: itself, or the owner of the range that it lies in.
    pub fn of(&self, uid: u32) -> u32 {
        let at = self.0.partition_point(|range| range.last < uid);
        self.0.get(at).filter(|range| range.first <= uid).map_or(uid, |range| range.owner)
    }
}

/// Whether ranges are in order, and none meets another.
pub fn are_in_order(ranges: &[UidRange]) -> bool {
    ranges.iter().all(|range| range.first <= range.last)
        && ranges.windows(2).all(|two| two[0].last < two[1].first)
}

/// Puts ranges in order. Where two overlap, the lower range gets the common part: either owner can
/// become the other anyhow. A uid in `own`, which the system or the configuration knows, counts as
/// itself. At most [`RANGES_MAX`] are left.
pub fn put_in_order(mut ranges: Vec<UidRange>, own: &std::collections::BTreeSet<u32>) -> Vec<UidRange> {
    ranges.sort_by_key(|range| range.first);
    let mut settled: Vec<UidRange> = Vec::new();
    for range in ranges {
        let free = settled.last().map_or(Some(0), |before| before.last.checked_add(1));
        let Some(mut first) = free.map(|free| free.max(range.first)) else { break };
        while let Some(cut) = (first <= range.last).then(|| own.range(first..=range.last).next()).flatten() {
            if first < *cut {
                settled.push(UidRange { first, last: cut - 1, ..range });
            }
            first = cut.saturating_add(1);
            if first == *cut {
                return bounded(settled);
            }
        }
        if first <= range.last {
            settled.push(UidRange { first, ..range });
        }
    }
    bounded(settled)
}

fn bounded(mut settled: Vec<UidRange>) -> Vec<UidRange> {
    settled.truncate(RANGES_MAX);
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, last: u32, owner: u32) -> UidRange {
        UidRange { first, last, owner }
    }

    #[test]
    fn a_uid_in_a_range_counts_as_its_owner_and_any_other_as_itself() {
        let mut owners = Owners::new(&[range(100, 199, 7)]);
        owners.extend(vec![range(200, 299, 8), range(1000, u32::MAX, 9)]);
        for (uid, owner) in
            [(0, 0), (99, 99), (100, 7), (199, 7), (200, 8), (300, 300), (1000, 9), (u32::MAX, 9)]
        {
            assert_eq!(owners.of(uid), owner, "{uid}");
        }
        owners = Owners::default();
        assert_eq!(owners.of(100), 100);
    }

    #[test]
    fn ranges_that_meet_are_put_in_order_and_who_is_named_stays_their_own() {
        let own = [150, 199, 200, 5000].into();
        let given = vec![range(180, 260, 8), range(100, 199, 7), range(120, 130, 9), range(200, 200, 6)];
        let settled = put_in_order(given, &own);
        let expected = [range(100, 149, 7), range(151, 198, 7), range(201, 260, 8)];
        assert_eq!(settled, expected);
        assert!(are_in_order(&settled) && !are_in_order(&[range(1, 2, 1), range(2, 3, 1)]));
        let all = [range(0, u32::MAX, 1)];
        assert_eq!(put_in_order(vec![all[0], range(5, 5, 2)], &Default::default()), all);
        assert_eq!(put_in_order(vec![range(u32::MAX, u32::MAX, 2)], &[u32::MAX].into()), []);
    }
}
