//! Object ids as messages carry them and as the engine knows them: the two crates do not know each other.

use libproto::names;
use librepo::id;

/// An engine's id for a message.
pub fn to_wire(id: &id::ObjectId) -> names::ObjectId {
    let kind = hash_to_wire(id.kind());
    // Both types hold exactly as many bytes as their kind says.
    names::ObjectId::from_bytes(kind, id.as_bytes()).unwrap_or(names::ObjectId::null(kind))
}

/// A message's id for the engine.
pub fn to_repo(id: &names::ObjectId) -> id::ObjectId {
    let kind = match id.kind() {
        names::HashKind::Sha1 => id::HashKind::Sha1,
        names::HashKind::Sha256 => id::HashKind::Sha256,
    };
    id::ObjectId::from_bytes(kind, id.as_bytes()).unwrap_or(id::ObjectId::null(kind))
}

/// An engine's hash for a message.
pub fn hash_to_wire(kind: id::HashKind) -> names::HashKind {
    match kind {
        id::HashKind::Sha1 => names::HashKind::Sha1,
        id::HashKind::Sha256 => names::HashKind::Sha256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_both_kinds_come_back_the_same() {
        for kind in [id::HashKind::Sha1, id::HashKind::Sha256] {
            let bytes: Vec<u8> = (1..=32).take(kind.len()).collect();
            let id = id::ObjectId::from_bytes(kind, &bytes).expect("an id");
            assert_eq!(to_wire(&id).as_bytes(), bytes);
            assert_eq!(to_repo(&to_wire(&id)), id);
        }
    }
}
