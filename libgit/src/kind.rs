//! The four kinds of objects.

use serde::{Deserialize, Serialize};

/// The kind of an object, with its number in packs (`gitformat-pack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ObjectKind {
    /// A commit.
    Commit = 1,
    /// A tree.
    Tree = 2,
    /// A blob.
    Blob = 3,
    /// An annotated tag.
    Tag = 4,
}

impl ObjectKind {
    /// Git's word for the kind.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            ObjectKind::Commit => "commit",
            ObjectKind::Tree => "tree",
            ObjectKind::Blob => "blob",
            ObjectKind::Tag => "tag",
        }
    }

    /// The kind that Git calls so.
    #[inline]
    pub fn from_name(name: &[u8]) -> Option<ObjectKind> {
        match name {
            b"commit" => Some(ObjectKind::Commit),
            b"tree" => Some(ObjectKind::Tree),
            b"blob" => Some(ObjectKind::Blob),
            b"tag" => Some(ObjectKind::Tag),
            _ => None,
        }
    }

    /// The kind with this number in a pack entry; deltas have none.
    #[inline]
    pub const fn from_number(number: u8) -> Option<ObjectKind> {
        match number {
            1 => Some(ObjectKind::Commit),
            2 => Some(ObjectKind::Tree),
            3 => Some(ObjectKind::Blob),
            4 => Some(ObjectKind::Tag),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for number in 1..=4 {
            let kind = ObjectKind::from_number(number).expect("a kind");
            assert_eq!(kind as u8, number);
            assert_eq!(ObjectKind::from_name(kind.name().as_bytes()), Some(kind));
        }
        for number in [0, 5, 6, 7, 8] {
            assert_eq!(ObjectKind::from_number(number), None);
        }
        assert_eq!(ObjectKind::from_name(b"commit "), None);
    }
}
