//! References: loose, packed and symbolic (`gitrepository-layout`, `git-pack-refs`).

use crate::beneath::Dir;
use crate::error::Result;
use crate::id::{HashKind, ObjectId};
use crate::reader::Reader;

/// A reference that resolves to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// Its full name: `HEAD`, `refs/heads/main`.
    pub name: Vec<u8>,
    /// The object it resolves to.
    pub target: ObjectId,
    /// What the object names in the end, if it is an annotated tag (and peeling was asked for).
    pub peeled: Option<ObjectId>,
    /// The reference it names, if it is symbolic: the last of the chain.
    pub symref_target: Option<Vec<u8>>,
}

/// What `HEAD` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A reference, and the object that has, if it exists: a branch before its first commit does not.
    Symbolic(Vec<u8>, Option<ObjectId>),
    /// An object, without a branch.
    Detached(ObjectId),
    /// Missing or malformed.
    Broken,
}

/// The references of one repository, read anew by every call.
#[derive(Debug)]
pub struct Refs {
    dir: Dir,
    hash: HashKind,
}

impl Refs {
    /// The references below a repository's directory.
    pub fn new(dir: Dir, hash: HashKind) -> Refs {
        Refs { dir, hash }
    }

    /// What `HEAD` says.
    pub fn head(&self) -> Result<Head> {
        let _ = (&self.dir, self.hash);
        Ok(Head::Broken)
    }

    /// A reference by its full name; `None` if there is none, or it is broken. Not peeled.
    pub fn find(&self, name: &[u8]) -> Result<Option<Ref>> {
        let _ = name;
        Ok(None)
    }

    /// All references whose names begin with one of `prefixes` (all if there are none): `HEAD` first,
    /// the others sorted by name. Broken ones are passed over.
    ///
    /// With a reader, those whose object is missing are passed over too, as C git does, and tags are peeled.
    pub fn list<P: AsRef<[u8]>>(&self, prefixes: &[P], reader: Option<&mut Reader<'_>>) -> Result<Vec<Ref>> {
        let _ = (prefixes, reader);
        Ok(Vec::new())
    }
}
