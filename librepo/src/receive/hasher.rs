//! Hashing of what comes in: object ids with detection of SHA-1 collision attacks, and the
//! checksums of packs and indexes.

use libgit::{HashKind, ObjectId, ObjectKind};
use sha2::Digest as _;

use super::collision::DetectingSha1;

/// Computes ids of objects, one after another, while their content streams by.
///
/// SHA-1 goes through the detection of collision attacks ("SHAttered" and its like): an object that
/// bears the marks of one is refused, as C git does. For SHA-256 nothing of the sort exists.
pub(crate) enum ObjectHasher {
    Sha1(Box<Sha1>),
    Sha256(sha2::Sha256),
}

/// SHA-1 one object at a time and, where the processor is made for it, many at once.
pub(crate) struct Sha1 {
    one: DetectingSha1,
    #[cfg(target_arch = "x86_64")]
    lanes: Option<Box<super::lanes::Engine>>,
}

/// One of many objects to hash.
#[derive(Clone, Copy)]
pub(crate) struct HashJob<'d> {
    pub(crate) kind: ObjectKind,
    pub(crate) data: &'d [u8],
}

impl ObjectHasher {
    /// A hasher at rest.
    pub(crate) fn new(hash: HashKind) -> Self {
        match hash {
            HashKind::Sha1 => Self::Sha1(Box::new(Sha1 {
                one: DetectingSha1::new(),
                #[cfg(target_arch = "x86_64")]
                lanes: super::lanes::Engine::new(),
            })),
            HashKind::Sha256 => Self::Sha256(sha2::Sha256::new()),
        }
    }

    /// Starts an object of `size` bytes.
    pub(crate) fn start(&mut self, kind: ObjectKind, size: u64) {
        match self {
            Self::Sha1(hasher) => hasher.one.reset(),
            Self::Sha256(hasher) => *hasher = sha2::Sha256::new(),
        }
        self.update(format!("{} {size}\0", kind.name()).as_bytes());
    }

    /// Adds content.
    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.one.update(data),
            Self::Sha256(hasher) => hasher.update(data),
        }
    }

    /// The id, or `None` if the content bears the marks of a collision attack.
    pub(crate) fn finish(&mut self) -> Option<ObjectId> {
        match self {
            Self::Sha1(hasher) => ObjectId::from_bytes(HashKind::Sha1, &hasher.one.finish()?),
            Self::Sha256(hasher) => ObjectId::from_bytes(HashKind::Sha256, &hasher.finalize_reset()),
        }
    }

    /// The id of a whole object, or `None` as [`Self::finish`].
    pub(crate) fn object(&mut self, kind: ObjectKind, data: &[u8]) -> Option<ObjectId> {
        self.start(kind, data.len() as u64);
        self.update(data);
        self.finish()
    }

    /// The ids of many objects, each `None` as in [`Self::finish`].
    pub(crate) fn objects(&mut self, jobs: &[HashJob<'_>], out: &mut Vec<Option<ObjectId>>) {
        #[cfg(target_arch = "x86_64")]
        if let Self::Sha1(hasher) = self
            && let Some(lanes) = &mut hasher.lanes
        {
            return lanes.hash(jobs, out);
        }
        out.clear();
        for job in jobs {
            let id = self.object(job.kind, job.data);
            out.push(id);
        }
    }
}

/// The checksum at the end of packs and indexes: a guard against damage, not against attacks, so
/// hardware SHA-1 will do.
#[derive(Clone)]
pub(crate) enum Checksum {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Checksum {
    /// Starts a checksum.
    pub(crate) fn new(hash: HashKind) -> Self {
        match hash {
            HashKind::Sha1 => Self::Sha1(sha1::Sha1::new()),
            HashKind::Sha256 => Self::Sha256(sha2::Sha256::new()),
        }
    }

    /// Adds bytes.
    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(data),
            Self::Sha256(hasher) => hasher.update(data),
        }
    }

    /// The checksum, in the shape of an id.
    pub(crate) fn finish(self) -> ObjectId {
        let (kind, id) = match self {
            Self::Sha1(hasher) => (HashKind::Sha1, ObjectId::from_bytes(HashKind::Sha1, &hasher.finalize())),
            Self::Sha256(hasher) => {
                (HashKind::Sha256, ObjectId::from_bytes(HashKind::Sha256, &hasher.finalize()))
            }
        };
        id.unwrap_or(ObjectId::null(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hash_object;

    #[test]
    fn ids_agree_with_the_plain_hash() {
        for hash in [HashKind::Sha1, HashKind::Sha256] {
            let mut hasher = ObjectHasher::new(hash);
            for len in [0, 1, 54, 55, 56, 63, 64, 65, 1000] {
                let data = vec![b'x'; len];
                let want = Some(hash_object(hash, ObjectKind::Blob, &data));
                assert_eq!(hasher.object(ObjectKind::Blob, &data), want);
                let mut ids = Vec::new();
                hasher.objects(&[HashJob { kind: ObjectKind::Blob, data: &data }; 20], &mut ids);
                assert_eq!(ids, [want; 20]);
            }
        }
    }
}
