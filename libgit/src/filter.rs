//! Filters of a partial clone (`git-rev-list`, `--filter`): which objects the client can do
//! without. `sparse:oid` is never served: it would make the server read a specification out of the
//! repository.

use serde::{Deserialize, Serialize};

use crate::ObjectKind;

/// Longest specification in bytes.
const SPEC_MAX: usize = 4096;
/// Most parts of one combination, in all its levels.
pub const FILTER_PARTS_MAX: usize = 16;
/// Longest number in digits, so that it fits into a signed one too.
const DIGITS_MAX: usize = 18;

/// One filter, or several that must all let an object pass. Every value of this type is a filter,
/// so that nothing is left to check when it comes with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Blobs of this many bytes and more stay out; 0 is `blob:none`.
    pub blob_limit: Option<u64>,
    /// Trees and blobs this deep and deeper stay out; the root tree's depth is 0.
    pub tree_depth: Option<u64>,
    /// Only objects of this kind go out.
    pub kind: Option<ObjectKind>,
    /// Nothing that is not asked for by name goes out (kinds that exclude each other).
    nothing: bool,
    sent: Sent,
}

/// A way to write a filter. One effect can be written in several ways (`blob:none` and
/// `blob:limit=0`), of which an administrator may permit only some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterKind {
    /// `blob:none`.
    BlobNone,
    /// `blob:limit=<n>`.
    BlobLimit,
    /// `tree:<depth>`.
    Tree,
    /// `object:type=<kind>`.
    ObjectType,
    /// `combine:<filter>+<filter>...`.
    Combine,
}

impl FilterKind {
    /// Its name, as the configuration of git has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FilterKind::BlobNone => "blob:none",
            FilterKind::BlobLimit => "blob:limit",
            FilterKind::Tree => "tree",
            FilterKind::ObjectType => "object:type",
            FilterKind::Combine => "combine",
        }
    }
}

/// How a client wrote the filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// Each kind at its first place.
    kinds: [Option<FilterKind>; 5],
    /// The greatest depth of all `tree:<depth>`.
    deepest: Option<u64>,
}

impl Sent {
    fn add(&mut self, kind: FilterKind) {
        if !self.kinds.contains(&Some(kind))
            && let Some(free) = self.kinds.iter_mut().find(|kind| kind.is_none())
        {
            *free = Some(kind);
        }
    }
}

/// Why a specification is refused; with the part of it that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// A value that the filter must not have.
    Value(Vec<u8>),
    /// A filter that is not known, or not served.
    Unknown(Vec<u8>),
    /// More than [`FILTER_PARTS_MAX`] parts.
    TooMany,
}

impl Filter {
    /// Parses a specification as a client sends it: `blob:none`, `blob:limit=<n>[kmg]`,
    /// `tree:<depth>`, `object:type=<kind>` and `combine:<filter>+<filter>...` of percent-encoded
    /// ones.
    ///
    /// # Errors
    /// For anything else, including `sparse:`.
    pub fn parse(spec: &[u8]) -> Result<Filter, FilterError> {
        if spec.len() > SPEC_MAX {
            return Err(FilterError::Value(spec.to_vec()));
        }
        let mut all = Filter::default();
        all.add(spec, 0, &mut 0)?;
        Ok(all)
    }

    /// Adds what `spec` leaves out. `parts` counts the filters that are no combination.
    fn add(&mut self, spec: &[u8], level: usize, parts: &mut usize) -> Result<(), FilterError> {
        if *parts >= FILTER_PARTS_MAX {
            return Err(FilterError::TooMany);
        }
        let bad = |value: &[u8]| FilterError::Value(value.to_vec());
        let mut one = Filter::default();
        let written = if spec == b"blob:none" {
            one.blob_limit = Some(0);
            FilterKind::BlobNone
        } else if let Some(limit) = spec.strip_prefix(b"blob:limit=") {
            one.blob_limit = Some(size(limit)?);
            FilterKind::BlobLimit
        } else if let Some(depth) = spec.strip_prefix(b"tree:") {
            one.tree_depth = Some(number(depth)?);
            FilterKind::Tree
        } else if let Some(name) = spec.strip_prefix(b"object:type=") {
            one.kind = Some(ObjectKind::from_name(name).ok_or_else(|| bad(name))?);
            FilterKind::ObjectType
        } else if let Some(list) = spec.strip_prefix(b"combine:") {
            if level > 2 || list.is_empty() {
                return Err(bad(spec));
            }
            self.sent.add(FilterKind::Combine);
            for part in list.split(|&b| b == b'+') {
                self.add(&percent_decoded(part)?, level + 1, parts)?;
            }
            return Ok(());
        } else {
            return Err(FilterError::Unknown(spec.to_vec()));
        };
        *parts += 1;
        self.sent.add(written);
        self.sent.deepest = self.sent.deepest.max(one.tree_depth);
        *self = self.and(one);
        Ok(())
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
            sent: self.sent,
        }
    }

    /// The kinds it was written with, each at its first place. A kind that it has the effect of
    /// is among them even if the sender of a message left it out.
    pub fn kinds(&self) -> impl Iterator<Item = FilterKind> + '_ {
        use FilterKind::{BlobLimit, BlobNone, ObjectType, Tree};
        let unsaid = move |has: bool, kinds: &[FilterKind]| {
            let said = kinds.iter().any(|kind| self.sent.kinds.contains(&Some(*kind)));
            (has && !said).then(|| kinds[0])
        };
        let size = self.blob_limit.is_some_and(|limit| limit > 0);
        let rest = [
            unsaid(size, &[BlobLimit]),
            unsaid(self.blob_limit == Some(0), &[BlobNone, BlobLimit]),
            unsaid(self.tree_depth.is_some(), &[Tree]),
            unsaid(self.kind.is_some() || self.nothing, &[ObjectType]),
        ];
        self.sent.kinds.into_iter().chain(rest).flatten()
    }

    /// The greatest depth that any part of it names.
    pub fn deepest_tree(&self) -> Option<u64> {
        self.sent.deepest.max(self.tree_depth)
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
    pub fn passes_depth(&self, depth: i64) -> bool {
        self.tree_depth.is_none_or(|limit| u64::try_from(depth).is_ok_and(|depth| depth < limit))
    }

    /// Whether anything below a tree at this depth can pass, so that the tree must be read.
    pub fn reads_tree(&self, depth: i64) -> bool {
        self.passes_depth(depth.saturating_add(1))
            && (self.passes_kind(ObjectKind::Tree) || self.passes_kind(ObjectKind::Blob))
    }

    /// Whether a blob of this size passes.
    pub fn passes_size(&self, size: u64) -> bool {
        self.blob_limit.is_none_or(|limit| size < limit)
    }

    /// Whether blobs must be measured.
    pub fn needs_size(&self) -> bool {
        self.blob_limit.is_some_and(|limit| limit > 0)
    }

    /// Whether the depth of an object decides, beyond all or nothing.
    pub fn needs_depth(&self) -> bool {
        self.tree_depth.is_some_and(|depth| depth > 0)
    }
}

/// A number of bytes with an optional k, m or g.
fn size(text: &[u8]) -> Result<u64, FilterError> {
    let (digits, factor) = match text {
        [digits @ .., b'k' | b'K'] => (digits, 1 << 10),
        [digits @ .., b'm' | b'M'] => (digits, 1 << 20),
        [digits @ .., b'g' | b'G'] => (digits, 1 << 30),
        digits => (digits, 1),
    };
    number(digits)?.checked_mul(factor).ok_or_else(|| FilterError::Value(text.to_vec()))
}

fn number(digits: &[u8]) -> Result<u64, FilterError> {
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return Err(FilterError::Value(digits.to_vec()));
    }
    Ok(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// Undoes `%XX`, with which parts of a combination hide their own signs.
fn percent_decoded(text: &[u8]) -> Result<Vec<u8>, FilterError> {
    let bad = || FilterError::Value(text.to_vec());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            out.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(bad)?;
        let digit = |b: u8| char::from(b).to_digit(16).ok_or_else(bad);
        let byte = digit(digits[0])? * 16 + digit(digits[1])?;
        out.push(u8::try_from(byte).map_err(|_| bad())?);
        rest = after;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(spec: &str) -> Result<Filter, FilterError> {
        Filter::parse(spec.as_bytes())
    }

    /// What it leaves out, however it was written.
    fn effect(spec: &str) -> Result<Filter, FilterError> {
        parse(spec).map(|filter| Filter { sent: Sent::default(), ..filter })
    }

    #[test]
    fn the_way_it_was_written_is_kept() {
        for (spec, kinds, deepest) in [
            ("blob:none", "blob:none", None),
            ("blob:limit=0", "blob:limit", None),
            ("combine:blob:none", "combine blob:none", None),
            ("combine:blob:none+blob:none", "combine blob:none", None),
            ("combine:blob:none+blob:limit=5", "combine blob:none blob:limit", None),
            ("combine:blob:limit=5+combine:tree:1%2btree:9", "combine blob:limit tree", Some(9)),
            ("combine:object:type=tag+object:type=blob+tree:0", "combine object:type tree", Some(0)),
        ] {
            let filter = parse(spec).unwrap();
            let said: Vec<_> = filter.kinds().map(FilterKind::name).collect();
            assert_eq!((said.join(" ").as_str(), filter.deepest_tree()), (kinds, deepest), "{spec}");
            // A message that keeps silent about the way still shows the effect.
            let silent = Filter { sent: Sent::default(), ..filter };
            assert!(silent.kinds().count() > 0, "{spec}");
        }
    }

    #[test]
    fn specifications() {
        let nothing_out = Filter::default();
        let no_blobs = Filter { blob_limit: Some(0), ..nothing_out };
        let tree = |depth| Filter { tree_depth: Some(depth), ..nothing_out };
        assert_eq!(effect("blob:none"), Ok(no_blobs));
        assert_eq!(effect("blob:limit=1k"), Ok(Filter { blob_limit: Some(1024), ..nothing_out }));
        assert_eq!(effect("blob:limit=0"), Ok(no_blobs));
        assert_eq!(effect("tree:0"), Ok(tree(0)));
        assert_eq!(effect("object:type=tag"), Ok(Filter { kind: Some(ObjectKind::Tag), ..nothing_out }));
        assert_eq!(effect("combine:blob:none+tree:3"), Ok(Filter { blob_limit: Some(0), ..tree(3) }));
        assert_eq!(effect("combine:blob%3Anone"), Ok(no_blobs));
        let nested = Filter { blob_limit: Some(0), ..tree(1) };
        assert_eq!(effect("combine:tree:1+blob:none+tree:2"), Ok(nested));
        assert_eq!(effect("combine:tree:1+combine:blob:none%2btree:2"), Ok(nested));
    }

    #[test]
    fn what_passes_is_what_git_lets_pass() {
        let none = parse("blob:none").unwrap();
        assert!(!none.passes_kind(ObjectKind::Blob) && none.passes_kind(ObjectKind::Tree));
        let limit = parse("blob:limit=2k").unwrap();
        assert!(limit.passes_size(2047) && !limit.passes_size(2048));
        let tree = parse("tree:1").unwrap();
        assert!(tree.passes_depth(0) && !tree.passes_depth(1) && !tree.reads_tree(0));
        let both = parse("combine:blob:none+tree%3A3").unwrap();
        assert_eq!(both.tree_depth, Some(3));
        assert_eq!(both.blob_limit, Some(0));
        let kinds = parse("combine:object:type=blob+object:type=commit").unwrap();
        assert!(!kinds.passes_kind(ObjectKind::Blob) && !kinds.passes_kind(ObjectKind::Commit));
    }

    #[test]
    fn what_is_refused() {
        for spec in [
            "",
            "blob",
            "blob:",
            "blob:none ",
            "blob:limit=",
            "blob:limit=-1",
            "blob:limit=k",
            "blob:limit=99999999999999999g",
            "blob:limit=99999999999999999999",
            "blob:limit=18446744073709551615g",
            "tree:-1",
            "tree:",
            "tree:x",
            "object:type=x",
            "object:type=any",
            "sparse:oid=main:x",
            "sparse:oid=HEAD:x",
            "sparse:path=x",
            "combine:",
            "combine:blob:none+",
            "combine:%",
            "combine:%4",
            "combine:%zz",
            "combine:combine:combine:combine:blob:none",
        ] {
            assert!(parse(spec).is_err(), "{spec}");
        }
        assert_eq!(parse("sparse:path=x"), Err(FilterError::Unknown(b"sparse:path=x".to_vec())));
        assert_eq!(parse("combine:blob:limit=1x"), Err(FilterError::Value(b"1x".to_vec())));
        let many = format!("combine:{}", vec!["tree:1"; FILTER_PARTS_MAX + 1].join("+"));
        assert_eq!(parse(&many), Err(FilterError::TooMany));
        assert!(Filter::parse(&[b'x'; SPEC_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Filter::parse(&bytes);
            let _ = Filter::parse(&[b"combine:".as_slice(), &bytes].concat());
        }
    }
}
