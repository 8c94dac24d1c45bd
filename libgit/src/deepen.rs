//! How deep the history of a shallow fetch reaches (`gitprotocol-pack`, `deepen`).

use serde::{Deserialize, Deserializer, Serialize};

use crate::{ObjectId, RefName};

/// A number of commits to fetch: 1 to [`Depth::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Depth(u32);

impl Depth {
    /// The depth that means "all of the history".
    pub const ALL: Depth = Depth(i32::MAX as u32);

    /// The depth of so many commits; `None` for 0 and above [`Depth::ALL`].
    pub fn new(commits: u64) -> Option<Depth> {
        u32::try_from(commits).ok().filter(|n| (1..=Depth::ALL.0).contains(n)).map(Depth)
    }

    /// The number of commits.
    pub const fn commits(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Depth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Depth, D::Error> {
        let commits = u32::deserialize(deserializer)?;
        Depth::new(commits.into()).ok_or_else(|| serde::de::Error::custom("not a depth"))
    }
}

/// A client's line about depth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeepenLine {
    /// So many commits.
    Depth(Depth),
    /// Commits after this time, in seconds since 1970.
    Since(u64),
    /// Nothing that this reference reaches. May be given several times.
    Not(RefName),
}

/// The depth of a fetch, from all of the client's lines about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deepen {
    /// After `depth` commits from the tips, or (`relative`) so many more than it has.
    Depth {
        /// Number of commits.
        depth: Depth,
        /// Whether to count from the present boundary.
        relative: bool,
    },
    /// What the client must ask for, all at once: commits not older than `since` (seconds since
    /// 1970) that cannot be reached from any of `not`.
    Since {
        /// Seconds since 1970.
        since: Option<u64>,
        /// Objects whose history is left out: commits, or tags of such.
        not: Vec<ObjectId>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_has_bounds_which_a_message_cannot_break() {
        let config = bincode::config::standard();
        for commits in [0, u64::from(Depth::ALL.commits()) + 1, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(Depth::new(commits), None);
            let Ok(small) = u32::try_from(commits) else { continue };
            let bytes = bincode::serde::encode_to_vec(small, config).expect("encodes");
            assert!(bincode::serde::decode_from_slice::<Depth, _>(&bytes, config).is_err(), "{commits}");
        }
        for depth in [Depth(1), Depth::ALL] {
            let line = DeepenLine::Depth(depth);
            let bytes = bincode::serde::encode_to_vec(&line, config).expect("encodes");
            let (back, _): (DeepenLine, _) =
                bincode::serde::decode_from_slice(&bytes, config).expect("decodes");
            assert_eq!(back, line);
            assert_eq!(Depth::new(depth.commits().into()), Some(depth));
        }
    }
}
