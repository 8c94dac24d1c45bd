//! The objects that the repository had before a push.

use libgit::{ObjectId, ObjectKind};

use crate::store::Store;

/// Answers whether an object exists for the client. The kind is what it is named as, where that is
/// known.
pub type Shows<'a> = dyn Fn(&ObjectId, Option<ObjectKind>) -> bool + 'a;

/// All of them, or those that the client may know of.
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
    /// Those of `store` that `shows` says exist. It must say so of whole histories only: of what
    /// can be reached from references.
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

    /// Whether an object, if it is there, exists for the client. To be asked before anything is
    /// read, so that what is hidden takes as long as what is not there.
    pub(super) fn shows(self, id: &ObjectId, kind: Option<ObjectKind>) -> bool {
        self.shows.is_none_or(|shows| shows(id, kind))
    }
}
