//! Why an object may be missing in a repository: it is borrowed from a place where the client may
//! not look, or a pack that may hold it cannot be read. Each refusal for a missing object says so.

use libgit::ObjectId;
use libproto::names::escape;
use libproto::refusal::Refusal;
use librepo::alternates::Withheld;
use librepo::store::Store;

use crate::repo::borrowing;

/// Most bytes of a reason.
const REASON: usize = 300;

/// Adds to a refusal why its object is missing, if that is known. The reason is the same for each
/// object that a client names, so that nobody learns from it which of them exist.
pub fn explain(store: &Store, withheld: Option<Withheld>, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Missing(id) | Refusal::NotFound(id) => match (withheld, reason(store, Some(&id))) {
            (Some(why), _) => Refusal::Withheld(id, borrowing::lender(why)),
            (None, Some(why)) => Refusal::Damaged(format!("object {id}: missing: {why}")),
            (None, None) => refusal,
        },
        refusal => refusal,
    }
}

/// The same in words, to follow a text that says what is missing.
pub fn words(store: &Store, withheld: Option<Withheld>, id: Option<&ObjectId>) -> Option<String> {
    withheld.map(|why| borrowing::lender(why).to_string()).or_else(|| reason(store, id))
}

/// The file that cannot be read, and why.
fn reason(store: &Store, id: Option<&ObjectId>) -> Option<String> {
    let mut text = escape(store.why_missing(id)?.as_bytes());
    text.truncate(text.floor_char_boundary(REASON));
    Some(text)
}
