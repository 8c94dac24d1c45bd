//! What a repository may borrow from: the questions of its process, put to `auth` for the client of its session.
//!
//! **Invariant:** whom the question is about is the parent's own knowledge: the kernel's word and the client's greeting,
//! never what the repository process or the session says.

use libproto::message::parent::{
    BORROW_BYTES, BORROW_PLACES, BORROW_QUESTIONS, BorrowAsk, Lend, Lent, ParentToAuth, ParentToRepo, Who,
};
use libproto::names::UserName;
use libproto::states::RepoState;

use super::Parent;

/// What was asked so far for one session, and what was lent.
#[derive(Debug, Default)]
pub struct Borrowing {
    questions: u8,
    places: usize,
    bytes: usize,
    /// What the answer is awaited about.
    pending: Vec<Vec<u8>>,
    /// For `verify`, which may use nothing else.
    lent: Vec<Lent>,
}

impl Borrowing {
    /// What was lent.
    pub fn lent(&self) -> &[Lent] {
        &self.lent
    }

    /// Takes a question, if it is within all bounds.
    fn ask(&mut self, places: Vec<Vec<u8>>) -> bool {
        self.questions = self.questions.saturating_add(1);
        self.places = self.places.saturating_add(places.len());
        let bytes = places.iter().map(Vec::len).sum();
        self.bytes = self.bytes.saturating_add(bytes);
        let absolute = places.iter().all(|place| place.starts_with(b"/"));
        self.pending = places;
        absolute
            && self.questions <= BORROW_QUESTIONS
            && self.places <= BORROW_PLACES
            && self.bytes <= BORROW_BYTES
    }

    /// Takes the answer; false if it is not one.
    fn answer(&mut self, answers: &[Lend]) -> bool {
        let pending = std::mem::take(&mut self.pending);
        if pending.len() != answers.len() {
            return false;
        }
        for (place, answer) in pending.into_iter().zip(answers) {
            match answer {
                Lend::Permitted => self.lent.push(Lent { place, exported: false }),
                Lend::Exported => self.lent.push(Lent { place, exported: true }),
                Lend::NoRepository | Lend::Denied | Lend::Hides => {}
            }
        }
        true
    }
}

impl Parent {
    /// A repository process asks what it may borrow from.
    pub(super) fn borrow(&mut self, number: u64, places: Vec<Vec<u8>>) {
        let Some(session) = self.table.get(number) else { return };
        let (Some(peer), Some(ask)) = (&session.peer, &session.ask) else {
            return self.end_session(number, "repository: borrows for nobody");
        };
        let told = session.hello.as_ref().and_then(|hello| hello.user.clone());
        let Ok(told_user) = told.map(|name| UserName::parse(&name)).transpose() else {
            return self.end_session(number, "--user: not a user name");
        };
        let who = Who { peer: peer.clone(), told_user };
        let question = BorrowAsk { who, repository: ask.repository.clone(), places: places.clone() };
        if !session.borrowing.ask(places) {
            return self.end_session(number, "repository: borrows from too many places");
        }
        session.repo_state = RepoState::Borrowing;
        self.auth_out.send(&self.auth.channel, number, &ParentToAuth::Borrow(question));
    }

    /// The answer of `auth`.
    pub(super) fn lent(&mut self, number: u64, answers: Vec<Lend>) {
        let waits = |session: &&mut super::Session| session.repo_state == RepoState::Borrowing;
        // Its process may be gone.
        let Some(session) = self.table.get(number).filter(waits) else { return };
        if !session.borrowing.answer(&answers) {
            return self.end_session(number, "auth: not an answer for each place");
        }
        session.repo_state = RepoState::Opening;
        self.tell_repo(number, &ParentToRepo::Lent(answers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: usize, length: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| [b"/".as_slice(), &vec![b'x'; length - 1]].concat()).collect()
    }

    #[test]
    fn questions_are_bounded_in_number_places_and_bytes() {
        let mut levels = Borrowing::default();
        for _ in 0..BORROW_QUESTIONS {
            assert!(levels.ask(places(2, 10)) && levels.answer(&[Lend::Permitted, Lend::Denied]));
        }
        assert_eq!(levels.lent().len(), usize::from(BORROW_QUESTIONS));
        assert!(!levels.ask(places(1, 10)));
        assert!(Borrowing::default().ask(places(64, 125)));
        assert!(!Borrowing::default().ask(places(65, 10)));
        assert!(!Borrowing::default().ask(places(3, 3000)));
        assert!(!Borrowing::default().ask(vec![b"etc".to_vec()]));
    }

    #[test]
    fn an_answer_is_about_what_was_asked() {
        let mut borrowing = Borrowing::default();
        assert!(borrowing.ask(places(2, 10)));
        assert!(!borrowing.answer(&[Lend::Permitted]));
        assert!(borrowing.ask(places(3, 10)));
        assert!(borrowing.answer(&[Lend::Hides, Lend::Exported, Lend::NoRepository]));
        assert_eq!(borrowing.lent(), [Lent { place: b"/xxxxxxxxx".to_vec(), exported: true }]);
    }
}
