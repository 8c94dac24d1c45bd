//! The objects that the repository had before a push.

use libgit::{ObjectId, ObjectKind};

use crate::store::Store;

/// Answers whether an object exists for the client. The kind is the one that the naming object
/// expects, where that is known.
pub type Shows<'a> = dyn Fn(&ObjectId, Option<ObjectKind>) -> bool + 'a;

/// All objects that the repository had, or only those that the client may know of.
#[derive(Clone, Copy, Default)]
pub struct Had<'a> {
    store: Option<&'a Store>,
    shows: Option<&'a Shows<'a>>,
}

impl std::fmt::Debug for Had<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Had").field("store", &self.store).field("hides", &self.hides()).finish()
    }
}

impl<'a> From<Option<&'a Store>> for Had<'a> {
    fn from(store: Option<&'a Store>) -> Had<'a> {
        Had { store, shows: None }
    }
}

impl<'a> Had<'a> {
    /// The objects of `store` that exist by the word of `shows`. It must say so of whole histories
    /// only: of objects that references reach.
    pub fn shown(store: &'a Store, shows: &'a Shows<'a>) -> Had<'a> {
        Had { store: Some(store), shows: Some(shows) }
    }

    /// Everything, for comparing with what comes in: an object that has another's id is never
    /// taken, hidden or not.
    pub(super) fn everything(self) -> Option<&'a Store> {
        self.store
    }

    /// Whether some of it does not exist for the client.
    pub(super) fn hides(self) -> bool {
        self.shows.is_some()
    }

    /// Whether an object, if it is in the store, exists for the client. To be asked before anything
    /// is read, so that a hidden object takes as long as an absent one.
    pub(super) fn shows(self, id: &ObjectId, kind: Option<ObjectKind>) -> bool {
        self.shows.is_none_or(|shows| shows(id, kind))
    }
}
