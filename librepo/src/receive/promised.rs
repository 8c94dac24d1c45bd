//! What a repository that is itself a partial clone was promised: objects that an object in a pack
//! with a `.promisor` file beside it names, and that another server has (`partial-clone`, "Design
//! Details").

use libgit::{HashKind, ObjectId, ObjectKind};

use super::{Stage, Ticker};
use crate::error::Result;
use crate::id::IdSet;
use crate::object::{Commit, Tag, TreeEntries};
use crate::reader::{Object, Reader};
use crate::store::Store;

/// Bytes of cache for reading the packs in the order of their entries.
const CACHE: usize = 16 << 20;
/// Ids remembered of those seen last: versions of a directory share most of their entries.
const RECENT: usize = 1 << 14;

/// All ids that are promised and not here. Reads each commit, tree and tag of the packs once, which
/// a push needs only where something is missing behind its tips.
pub(super) fn absent(store: &Store, ticker: &mut Ticker<'_>) -> Result<IdSet> {
    let mut promised =
        Promised { store, recent: vec![ObjectId::null(store.hash()); RECENT], absent: IdSet::default() };
    let mut reader = Reader::new(store, CACHE);
    let mut done = 0;
    for number in store.promisor_packs() {
        let Some(pack) = store.pack(number) else { continue };
        let mut offsets: Vec<u64> = (0..pack.count()).map(|index| pack.offset_at(index)).collect();
        offsets.sort_unstable();
        for offset in offsets {
            done += 1;
            ticker.tick(Stage::Connectivity, done, 0, 0)?;
            // A damaged object promises nothing.
            if reader.kind_packed(number, offset).is_ok_and(|kind| kind != ObjectKind::Blob)
                && let Ok(object) = reader.read_packed(number, offset)
            {
                promised.by(&object);
            }
        }
    }
    Ok(promised.absent)
}

struct Promised<'s> {
    store: &'s Store,
    recent: Vec<ObjectId>,
    absent: IdSet,
}

impl Promised<'_> {
    /// Notes what an object names.
    fn by(&mut self, object: &Object) {
        let hash: HashKind = self.store.hash();
        match object.kind {
            ObjectKind::Blob => {}
            ObjectKind::Tree => {
                let entries = TreeEntries::new(&object.data, hash).map_while(std::result::Result::ok);
                entries.filter(|entry| !entry.is_submodule()).for_each(|entry| self.note(entry.id()));
            }
            ObjectKind::Commit => {
                if let Ok(commit) = Commit::parse(&object.data, hash) {
                    self.note(commit.tree());
                    commit.parents().for_each(|parent| self.note(parent));
                }
            }
            ObjectKind::Tag => {
                if let Ok(tag) = Tag::parse(&object.data, hash) {
                    self.note(tag.target());
                }
            }
        }
    }

    fn note(&mut self, id: ObjectId) {
        let bytes = id.as_bytes();
        let slot = &mut self.recent[usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % RECENT];
        if *slot != id {
            *slot = id;
            if !self.store.contains(&id) {
                self.absent.insert(id);
            }
        }
    }
}
