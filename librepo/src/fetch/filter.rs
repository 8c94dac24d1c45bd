//! Filters of a partial clone (`git-rev-list`, `--filter`): which objects the client can do
//! without.

use libgit::ObjectKind;

/// One filter, or several that must all let an object pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Blobs of this many bytes and more stay out; 0 is `blob:none`.
    pub blob_limit: Option<u64>,
    /// Trees and blobs this deep and deeper stay out; the root tree's depth is 0.
    pub tree_depth: Option<u64>,
    /// Only objects of this kind go out.
    pub kind: Option<ObjectKind>,
    /// Nothing that is not asked for by name goes out (kinds that exclude each other).
    nothing: bool,
}

/// Filters that one `combine:` may hold.
const MOST_PARTS: usize = 16;

impl Filter {
    /// Parses the argument of a `filter` line: `blob:none`, `blob:limit=<n>[kmg]`, `tree:<depth>`,
    /// `object:type=<kind>` and `combine:<filter>+<filter>...` of percent-encoded ones. `None` for
    /// anything else, `sparse:` among it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Filter> {
        Filter::parse_nested(text, 0)
    }

    fn parse_nested(text: &[u8], depth: usize) -> Option<Filter> {
        if text == b"blob:none" {
            return Some(Filter { blob_limit: Some(0), ..Filter::default() });
        }
        if let Some(size) = text.strip_prefix(b"blob:limit=") {
            return Some(Filter { blob_limit: Some(size_of(size)?), ..Filter::default() });
        }
        if let Some(depth) = text.strip_prefix(b"tree:") {
            return Some(Filter { tree_depth: Some(size_of(depth)?), ..Filter::default() });
        }
        if let Some(kind) = text.strip_prefix(b"object:type=") {
            return Some(Filter { kind: Some(ObjectKind::from_name(kind)?), ..Filter::default() });
        }
        let parts = text.strip_prefix(b"combine:")?;
        if depth > 2 {
            return None;
        }
        let mut all = Filter::default();
        for (count, part) in parts.split(|byte| *byte == b'+').enumerate() {
            if count >= MOST_PARTS {
                return None;
            }
            all = all.and(Filter::parse_nested(&percent_decoded(part)?, depth + 1)?);
        }
        Some(all)
    }

    fn and(self, other: Filter) -> Filter {
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let clash = matches!((self.kind, other.kind), (Some(a), Some(b)) if a != b);
        Filter {
            blob_limit: least(self.blob_limit, other.blob_limit),
            tree_depth: least(self.tree_depth, other.tree_depth),
            kind: self.kind.or(other.kind),
            nothing: self.nothing || other.nothing || clash,
        }
    }

    /// Whether an object of this kind can pass at all.
    #[must_use]
    pub fn passes_kind(&self, kind: ObjectKind) -> bool {
        let empty = match kind {
            ObjectKind::Commit | ObjectKind::Tag => false,
            ObjectKind::Tree => self.tree_depth == Some(0),
            ObjectKind::Blob => self.tree_depth == Some(0) || self.blob_limit == Some(0),
        };
        !self.nothing && !empty && self.kind.is_none_or(|only| only == kind)
    }

    /// Whether an entry of a tree passes at this depth: 0 is a commit's tree, or an entry of a tree
    /// that was asked for by name.
    pub(crate) fn passes_depth(&self, depth: i64) -> bool {
        self.tree_depth.is_none_or(|limit| u64::try_from(depth).is_ok_and(|depth| depth < limit))
    }

    /// Whether anything below a tree at this depth can pass, so that the tree must be read.
    pub(crate) fn reads_tree(&self, depth: i64) -> bool {
        self.passes_depth(depth.saturating_add(1))
            && (self.passes_kind(ObjectKind::Tree) || self.passes_kind(ObjectKind::Blob))
    }

    /// Whether a blob of this size passes.
    pub(crate) fn passes_size(&self, size: u64) -> bool {
        self.blob_limit.is_none_or(|limit| size < limit)
    }

    /// Whether blobs must be measured.
    pub(crate) fn needs_size(&self) -> bool {
        self.blob_limit.is_some_and(|limit| limit > 0)
    }

    /// Whether the depth of an object decides, beyond all or nothing.
    pub(crate) fn needs_depth(&self) -> bool {
        self.tree_depth.is_some_and(|depth| depth > 0)
    }
}

/// A number with git's suffixes: `k`, `m`, `g`.
fn size_of(text: &[u8]) -> Option<u64> {
    let (digits, shift) = match text.split_last()? {
        (b'k' | b'K', rest) => (rest, 10),
        (b'm' | b'M', rest) => (rest, 20),
        (b'g' | b'G', rest) => (rest, 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    number.checked_mul(1 << shift)
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        if *byte != b'%' {
            out.push(*byte);
            rest = after;
            continue;
        }
        let (pair, after) = after.split_first_chunk::<2>()?;
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        out.push(u8::from_str_radix(pair, 16).ok()?);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_git_writes_them() {
        let none = Filter::parse(b"blob:none").unwrap();
        assert!(!none.passes_kind(ObjectKind::Blob) && none.passes_kind(ObjectKind::Tree));
        let limit = Filter::parse(b"blob:limit=2k").unwrap();
        assert!(limit.passes_size(2047) && !limit.passes_size(2048));
        let tree = Filter::parse(b"tree:1").unwrap();
        assert!(tree.passes_depth(0) && !tree.passes_depth(1) && !tree.reads_tree(0));
        let both = Filter::parse(b"combine:blob:none+tree%3A3").unwrap();
        assert_eq!(both.tree_depth, Some(3));
        assert_eq!(both.blob_limit, Some(0));
        let kinds = Filter::parse(b"combine:object:type=blob+object:type=commit").unwrap();
        assert!(!kinds.passes_kind(ObjectKind::Blob) && !kinds.passes_kind(ObjectKind::Commit));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "blob:",
            "blob:limit=",
            "blob:limit=-1",
            "blob:limit=99999999999999999999",
            "tree:",
            "tree:x",
            "sparse:oid=HEAD:x",
            "object:type=any",
            "combine:",
            "combine:blob:none+",
            "combine:%4",
            "combine:%zz",
            "blob:limit=18446744073709551615g",
            "combine:combine:combine:combine:blob:none",
        ] {
            assert_eq!(Filter::parse(text.as_bytes()), None, "{text}");
        }
    }
}
