//! What a repository may borrow from: the questions of its process, put to `auth` for the client of
//! its session.
//!
//! **Invariant:** the parent itself knows which user the question is about, from the kernel's word
//! and the client's greeting. It never takes that from the repository process or the session.

use libproto::message::parent::{BorrowAsk, FoundAt, Lend, ParentToAuth, ParentToRepo, Who};
use libproto::states::RepoState;

use super::Parent;

impl Parent {
    /// A repository process asks what it may borrow from.
    pub(super) fn borrow(&mut self, number: u64, places: Vec<FoundAt>) {
        let Some(session) = self.table.get(number) else { return };
        let Ok(told_user) = session.told_user() else {
            return self.end_session(number, "--user: not a user name");
        };
        let (Some(peer), Some(grant)) = (session.peer().cloned(), session.grant_mut()) else {
            return self.end_session(number, "repository: borrows for nobody");
        };
        let who = Who { peer, told_user };
        let paths = places.iter().map(|place| place.path.clone()).collect();
        let question = BorrowAsk { who, repository: grant.ask.repository.clone(), places: paths };
        if !grant.borrowing.ask(places) {
            return self.end_session(number, "repository: borrows from too many places");
        }
        session.repo_state = RepoState::Borrowing;
        self.auth_out.send(&self.auth.channel, number, &ParentToAuth::Borrow(question));
    }

    /// The answer of `auth`.
    pub(super) fn lent(&mut self, number: u64, answers: Vec<Lend>) {
        let waits = |session: &&mut super::session::Session| session.repo_state == RepoState::Borrowing;
        // Its process may be gone.
        let Some(session) = self.table.get(number).filter(waits) else { return };
        let Some(answers) =
            session.grant_mut().and_then(|grant| grant.borrowing.answer(answers, &self.settings.recorded))
        else {
            return self.end_session(number, "auth: not an answer for each place");
        };
        session.repo_state = RepoState::Opening;
        self.send_to_repo(number, &ParentToRepo::Lent(answers));
    }
}
