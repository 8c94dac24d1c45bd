//! The files that repository processes have checked, remembered so that later processes need not
//! check them again.
//!
//! Checking a repository's bitmap and the order of its largest pack takes longer than a small
//! fetch. Each process that did says so at its end, and the next one of the same repository hears
//! of it with the word to begin. A process that lies harms nobody else's repository, and its own no
//! more than a missing check would: packs that no client accepts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libproto::message::parent::{Checks, Opened};

/// How long a check holds: a disk may lose what lay on it, without a trace in the file's times.
const HOLDS: Duration = Duration::from_secs(3600);
/// Checks of one repository.
const MOST: usize = 32;
/// Repositories.
const REPOSITORIES: usize = 4096;

/// A check, and until when it holds.
type Check = ([u8; 32], Instant);

/// The checks that hold, by the repository's directory: its device and inode.
#[derive(Debug, Default)]
pub struct Checked {
    known: HashMap<(u64, u64), Vec<Check>>,
}

impl Checked {
    /// The checks of a repository that still hold.
    pub fn of(&self, repository: &Opened, now: Instant) -> Checks {
        let known = self.known.get(&(repository.device, repository.inode));
        known.into_iter().flatten().filter(|(_, until)| *until > now).map(|(check, _)| *check).collect()
    }

    /// Adds what one of its processes checked just now.
    pub fn add(&mut self, repository: &Opened, checks: &Checks, now: Instant) {
        if checks.is_empty() {
            return;
        }
        let key = (repository.device, repository.inode);
        if self.known.len() >= REPOSITORIES && !self.known.contains_key(&key) {
            self.known.retain(|_, checks| checks.iter().any(|(_, until)| *until > now));
            if self.known.len() >= REPOSITORIES {
                self.known.clear();
            }
        }
        let known = self.known.entry(key).or_default();
        known.retain(|(check, until)| *until > now && !checks.contains(check));
        known.extend(checks.iter().take(MOST).map(|check| (*check, now + HOLDS)));
        // The oldest checks are likely to be about files that are gone.
        known.drain(..known.len().saturating_sub(MOST));
    }
}

#[cfg(test)]
mod tests {
    use libgit::HashKind;

    use super::*;

    fn repository(inode: u64) -> Opened {
        Opened { device: 1, inode, hash: HashKind::Sha1 }
    }

    #[test]
    fn checks_hold_for_their_repository_and_for_an_hour() {
        let mut checked = Checked::default();
        let now = Instant::now();
        checked.add(&repository(7), &vec![[1; 32], [2; 32]], now);
        assert_eq!(checked.of(&repository(7), now), [[1; 32], [2; 32]]);
        assert!(checked.of(&repository(8), now).is_empty());
        assert!(checked.of(&Opened { device: 2, ..repository(7) }, now).is_empty());
        let later = now + HOLDS;
        assert!(checked.of(&repository(7), later).is_empty());
        checked.add(&repository(7), &vec![[2; 32]], later);
        assert_eq!(checked.of(&repository(7), later), [[2; 32]]);
    }

    #[test]
    fn no_number_of_checks_or_repositories_fills_the_memory() {
        let mut checked = Checked::default();
        let now = Instant::now();
        let many: Checks = (0..=255).map(|n| [n; 32]).collect();
        for part in many.chunks(10) {
            checked.add(&repository(0), &part.to_vec(), now);
        }
        assert_eq!(checked.of(&repository(0), now), many[256 - MOST..]);
        checked.add(&repository(0), &many, now);
        assert_eq!(checked.of(&repository(0), now), many[..MOST]);
        for inode in 1..3 * REPOSITORIES as u64 {
            checked.add(&repository(inode), &vec![[1; 32]], now);
            assert!(checked.known.len() <= REPOSITORIES);
            assert_eq!(checked.of(&repository(inode), now), [[1; 32]]);
        }
    }
}
