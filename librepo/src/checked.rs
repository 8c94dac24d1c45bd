//! Checks of whole files that need not be made twice.
//!
//! A `.rev` file or a bitmap is read to its end before it is believed, and for a small fetch that
//! is a large part of the work. A parent that starts one process after the other for the same
//! repository can hand on the results of such checks. A file is identified by device, inode, size
//! and times, as in Git's index. A file that changed so lately that it could change again within
//! the same tick of the clock gets no seal.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::stat::FileStat;
use sha2::Digest as _;

use crate::dir::Map;

/// How long a file must have lain still.
const STILL: Duration = Duration::from_secs(2);
/// How many seals are kept.
const MOST: usize = 64;

/// Which file this was, and as of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    /// From what stat(2) tells.
    pub(crate) fn of(stat: &FileStat) -> FileId {
        FileId {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// When its content changed last, in seconds since 1970 and nanoseconds.
    pub(crate) fn modified(&self) -> (i64, i64) {
        self.modified
    }

    fn lay_still(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).ok();
        let changed = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds + 1)));
        changed.is_some_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= STILL))
    }
}

/// The name of one check of certain files as they are: 32 bytes that say no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seal([u8; 32]);

impl Seal {
    /// For a check, and the files that it reads; `None` for those that are no files, or changed too
    /// lately.
    pub(crate) fn of(check: &str, files: &[&Map]) -> Option<Seal> {
        Seal::at(SystemTime::now(), check, files.iter().map(|map| map.file_id()))
    }

    fn at(now: SystemTime, check: &str, files: impl Iterator<Item = Option<FileId>>) -> Option<Seal> {
        let mut sum = sha2::Sha256::new();
        sum.update(check);
        for id in files {
            let id = id.filter(|id| id.lay_still(now))?;
            sum.update(id.device.to_le_bytes());
            sum.update(id.inode.to_le_bytes());
            let rest = [id.size, id.modified.0, id.modified.1, id.changed.0, id.changed.1];
            rest.iter().for_each(|number| sum.update(number.to_le_bytes()));
        }
        Some(Seal(sum.finalize().into()))
    }

    /// From its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Seal {
        Seal(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The checks that some process made of a repository's files and that succeeded.
#[derive(Debug, Default)]
pub struct Checked(Mutex<Seals>);

#[derive(Debug, Default)]
struct Seals {
    before: Vec<Seal>,
    new: Vec<Seal>,
}

impl Checked {
    fn seals(&self) -> MutexGuard<'_, Seals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier process [found](Checked::found).
    pub fn vouch(&self, seals: impl IntoIterator<Item = Seal>) {
        self.seals().before.extend(seals.into_iter().take(MOST));
    }

    /// The checks that this process made itself.
    #[must_use]
    pub fn found(&self) -> Vec<Seal> {
        self.seals().new.clone()
    }

    /// Whether somebody vouched for it.
    pub(crate) fn knows(&self, seal: Option<Seal>) -> bool {
        seal.is_some_and(|seal| self.seals().before.contains(&seal))
    }

    /// Notes that it was checked, and is right.
    pub(crate) fn is_right(&self, seal: Option<Seal>) {
        let mut seals = self.seals();
        if let Some(seal) = seal
            && seals.new.len() < MOST
            && !seals.before.contains(&seal)
            && !seals.new.contains(&seal)
        {
            seals.new.push(seal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_another_check_or_another_time_is_another_seal() {
        let id = FileId { device: 1, inode: 2, size: 3, modified: (4, 5), changed: (6, 7) };
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let seal = |check: &str, id: FileId| Seal::at(now, check, std::iter::once(Some(id)));
        let mut seals = vec![seal("order", id), seal("bitmap", id)];
        for other in [
            FileId { device: 2, ..id },
            FileId { inode: 3, ..id },
            FileId { size: 4, ..id },
            FileId { modified: (4, 6), ..id },
            FileId { changed: (6, 8), ..id },
        ] {
            seals.push(seal("order", other));
        }
        for (at, seal) in seals.iter().enumerate() {
            assert!(seal.is_some() && !seals[..at].contains(seal), "{at}");
        }
        assert_eq!(seal("order", id), seals[0]);
    }

    #[test]
    fn what_changed_just_now_has_no_seal() {
        let id = FileId { device: 1, inode: 2, size: 3, modified: (4, 5), changed: (100, 0) };
        let at = |seconds| {
            Seal::at(UNIX_EPOCH + Duration::from_secs(seconds), "order", std::iter::once(Some(id))).is_some()
        };
        assert_eq!([at(99), at(100), at(102), at(103)], [false, false, false, true]);
        assert_eq!(Seal::at(SystemTime::now(), "order", std::iter::once(None)), None);
    }

    #[test]
    fn only_what_is_new_is_handed_on() {
        let checked = Checked::default();
        let (one, two) = (Seal([1; 32]), Seal([2; 32]));
        checked.vouch([one]);
        for seal in [Some(one), Some(two), Some(two), None] {
            checked.is_right(seal);
        }
        assert_eq!(checked.found(), [two]);
        assert!(checked.knows(Some(one)) && !checked.knows(Some(two)) && !checked.knows(None));
    }
}
