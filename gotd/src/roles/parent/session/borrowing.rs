//! The questions of a session's repository process about borrowing, and the answers so far.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::message::parent::{
    BORROW_BYTES, BORROW_PLACES, BORROW_QUESTIONS, DIRECTORY_BYTES, FoundAt, Lend, Lent,
};

use crate::access::places::Recorded;

/// The questions asked so far for one session, and the loans granted.
#[derive(Debug, Default)]
pub struct Borrowing {
    questions: u8,
    places: usize,
    bytes: usize,
    /// What the answer is awaited about.
    pending: Vec<FoundAt>,
    /// For `verify`, which may use nothing else.
    lent: Vec<Lent>,
}

impl Borrowing {
    /// What was lent.
    pub fn lent(&self) -> &[Lent] {
        &self.lent
    }

    /// Takes a question, if it is within all bounds.
    pub fn ask(&mut self, places: Vec<FoundAt>) -> bool {
        self.questions = self.questions.saturating_add(1);
        self.places = self.places.saturating_add(places.len());
        let bytes = |place: &FoundAt| place.path.len() + DIRECTORY_BYTES * place.directories.len();
        let bytes = places.iter().map(bytes).sum();
        self.bytes = self.bytes.saturating_add(bytes);
        let absolute = places.iter().all(|place| place.path.starts_with(b"/"));
        self.pending = places;
        absolute
            && self.questions <= BORROW_QUESTIONS
            && self.places <= BORROW_PLACES
            && self.bytes <= BORROW_BYTES
    }

    /// Takes the answer of `auth`; inodes can only object to it. `None` if it is not an answer for
    /// each place.
    pub fn answer(&mut self, mut answers: Vec<Lend>, recorded: &Recorded) -> Option<Vec<Lend>> {
        let pending = std::mem::take(&mut self.pending);
        if pending.len() != answers.len() {
            return None;
        }
        for (FoundAt { path: place, directories }, answer) in pending.into_iter().zip(&mut answers) {
            if recorded.other_path(Path::new(OsStr::from_bytes(&place)), &directories).is_some() {
                *answer = Lend::Elsewhere;
            }
            match answer {
                Lend::Permitted => self.lent.push(Lent { place, exported: false }),
                Lend::Exported => self.lent.push(Lent { place, exported: true }),
                Lend::NoRepository | Lend::Elsewhere | Lend::Denied | Lend::Hides => {}
            }
        }
        Some(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::model::{Position, Repository, RepositoryKind};
    use libproto::message::parent::{DirectoryId, OwnDirectory};

    fn place(path: &str, inodes: &[u64]) -> FoundAt {
        let id = |inode: &u64| DirectoryId { device: 1, inode: *inode, born: 7 };
        FoundAt { path: path.as_bytes().to_vec(), directories: inodes.iter().map(id).collect() }
    }

    fn places(count: usize, length: usize) -> Vec<FoundAt> {
        (0..count).map(|_| place(&format!("/{}", "x".repeat(length - 1)), &[])).collect()
    }

    #[test]
    fn questions_are_bounded_in_number_places_and_bytes() {
        let none = Recorded::default();
        let mut levels = Borrowing::default();
        for _ in 0..BORROW_QUESTIONS {
            assert!(levels.ask(places(2, 10)));
            assert!(levels.answer(vec![Lend::Permitted, Lend::Denied], &none).is_some());
        }
        assert_eq!(levels.lent().len(), usize::from(BORROW_QUESTIONS));
        assert!(!levels.ask(places(1, 10)));
        assert!(Borrowing::default().ask(places(64, 125)));
        assert!(!Borrowing::default().ask(places(65, 10)));
        assert!(!Borrowing::default().ask(places(4, 3001)));
        assert!(!Borrowing::default().ask(vec![place("/x", &[0; 500])]));
        assert!(!Borrowing::default().ask(vec![place("etc", &[])]));
    }

    #[test]
    fn an_answer_is_about_what_was_asked() {
        let none = Recorded::default();
        let mut borrowing = Borrowing::default();
        assert!(borrowing.ask(places(2, 10)));
        assert_eq!(borrowing.answer(vec![Lend::Permitted], &none), None);
        assert!(borrowing.ask(places(3, 10)));
        let answers = vec![Lend::Hides, Lend::Exported, Lend::NoRepository];
        assert_eq!(borrowing.answer(answers.clone(), &none), Some(answers));
        assert_eq!(borrowing.lent(), [Lent { place: b"/xxxxxxxxx".to_vec(), exported: true }]);
    }

    /// A bind mount, or a file system that does not tell `a` from `A`.
    #[test]
    fn a_directory_with_a_block_is_not_lent_by_another_path() {
        let mut block = Repository::new(None, RepositoryKind::One, Position::default());
        block.path = "/srv/secret.git".to_owned();
        let id = DirectoryId { device: 1, inode: 10, born: 7 };
        let own = OwnDirectory { block: 0, id, worktree: false, stays: false };
        let recorded = Recorded::new(&[block], &[own]);
        let mut borrowing = Borrowing::default();
        let asked = [
            place("/srv/open/bound.git/objects", &[11, 10, 2, 1]),
            place("/srv/secret.git/objects", &[11, 10, 2]),
            place("/srv/open/other.git/objects", &[12, 13, 2, 1]),
        ];
        assert!(borrowing.ask(asked.to_vec()));
        let answers = borrowing.answer(vec![Lend::Permitted; 3], &recorded);
        assert_eq!(answers, Some(vec![Lend::Elsewhere, Lend::Permitted, Lend::Permitted]));
        assert_eq!(borrowing.lent().len(), 2);
    }
}
