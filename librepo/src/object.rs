//! Parsers of commits, tags and trees that copy nothing and never panic.
//!
//! They take what C git's readers take and no more; whether an object is well made in every field
//! is for the checks of what comes in (`git-fsck`), not for these.

use libgit::{HashKind, ObjectId, ObjectKind};

/// The object is not what its kind promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Splits `prefix <hex id>\n` off the front.
fn id_line<'a>(data: &'a [u8], prefix: &[u8], hash: HashKind) -> Option<(ObjectId, &'a [u8])> {
    let rest = data.strip_prefix(prefix)?;
    let (hex, rest) = rest.split_at_checked(hash.hex_len())?;
    Some((ObjectId::from_hex(hex)?, rest.strip_prefix(b"\n")?))
}

/// Splits the first line off, without its line feed; a last line needs none.
fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|&byte| byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// The seconds of a line `name <mail> seconds zone`, 0 where there are none, as C git has it.
fn seconds(ident: &[u8]) -> u64 {
    let Some(end) = ident.iter().rposition(|&byte| byte == b'>') else { return 0 };
    let mut seconds: u64 = 0;
    for &byte in ident[end + 1..].iter().skip_while(|byte| byte.is_ascii_whitespace()) {
        if !byte.is_ascii_digit() {
            break;
        }
        // What does not fit is no date: C git takes the largest number, and so sorts it first.
        seconds = seconds.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
    }
    seconds
}

/// A commit, its header lines found.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    tree: ObjectId,
    parents: &'a [u8],
    rest: &'a [u8],
    hash: HashKind,
}

impl<'a> Commit<'a> {
    /// Parses the content of a commit. Fails only where the tree or parent lines are not as they
    /// must be.
    pub fn parse(data: &'a [u8], hash: HashKind) -> Result<Commit<'a>, Malformed> {
        let (tree, after_tree) =
            id_line(data, b"tree ", hash).ok_or(Malformed("commit without a tree line"))?;
        let mut rest = after_tree;
        while rest.starts_with(b"parent ") {
            (_, rest) = id_line(rest, b"parent ", hash).ok_or(Malformed("commit with a bad parent line"))?;
        }
        let parents = &after_tree[..after_tree.len() - rest.len()];
        Ok(Commit { tree, parents, rest, hash })
    }

    /// The tree's id.
    pub fn tree(&self) -> ObjectId {
        self.tree
    }

    /// The parents' ids, in order.
    pub fn parents(&self) -> impl ExactSizeIterator<Item = ObjectId> + use<'a> {
        let (hash, width) = (self.hash, self.hash.hex_len());
        self.parents.chunks_exact(width + 8).map(move |line| {
            // `parse` has seen every line; null where that were not so.
            ObjectId::from_hex(&line[7..7 + width]).unwrap_or(ObjectId::null(hash))
        })
    }

    /// The author line without its first word, if it is where it belongs.
    pub fn author(&self) -> Option<&'a [u8]> {
        line(self.rest).0.strip_prefix(b"author ")
    }

    /// The committer line without its first word, if it is where it belongs.
    pub fn committer(&self) -> Option<&'a [u8]> {
        self.author()?;
        line(line(self.rest).1).0.strip_prefix(b"committer ")
    }

    /// When it was committed, in seconds since 1970; 0 if the line is missing or makes no sense.
    pub fn committer_seconds(&self) -> u64 {
        self.committer().map_or(0, seconds)
    }

    /// What follows the header: the message, after the first empty line.
    pub fn message(&self) -> &'a [u8] {
        if let Some(message) = self.rest.strip_prefix(b"\n") {
            return message;
        }
        match self.rest.windows(2).position(|pair| pair == b"\n\n") {
            Some(at) => &self.rest[at + 2..],
            None => &[],
        }
    }
}

/// An annotated tag, its header lines found.
#[derive(Clone, Copy, Debug)]
pub struct Tag<'a> {
    target: ObjectId,
    kind: ObjectKind,
    name: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Tag<'a> {
    /// Parses the content of a tag.
    pub fn parse(data: &'a [u8], hash: HashKind) -> Result<Tag<'a>, Malformed> {
        let (target, rest) =
            id_line(data, b"object ", hash).ok_or(Malformed("tag without an object line"))?;
        let (kind, rest) = line(rest);
        let kind = kind.strip_prefix(b"type ").and_then(ObjectKind::from_name);
        let kind = kind.ok_or(Malformed("tag without a type line"))?;
        let (name, rest) = line(rest);
        let name = name.strip_prefix(b"tag ").ok_or(Malformed("tag without a name"))?;
        Ok(Tag { target, kind, name, rest })
    }

    /// The id of what is tagged.
    pub fn target(&self) -> ObjectId {
        self.target
    }

    /// What kind of object is tagged, by the tag's own word.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// The name in the tag, which need not be the reference's.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The tagger line without its first word; old tags have none.
    pub fn tagger(&self) -> Option<&'a [u8]> {
        line(self.rest).0.strip_prefix(b"tagger ")
    }

    /// When it was tagged, in seconds since 1970; 0 if unknown.
    pub fn tagger_seconds(&self) -> u64 {
        self.tagger().map_or(0, seconds)
    }

    /// The message, after the first empty line.
    pub fn message(&self) -> &'a [u8] {
        if let Some(message) = self.rest.strip_prefix(b"\n") {
            return message;
        }
        match self.rest.windows(2).position(|pair| pair == b"\n\n") {
            Some(at) => &self.rest[at + 2..],
            None => &[],
        }
    }
}

/// One entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeEntry<'a> {
    /// The mode as written, in octal: 0o40000 for a tree, 0o160000 for a submodule.
    pub mode: u32,
    /// The name: never empty, holds no NUL.
    pub name: &'a [u8],
    /// The id's bytes, 20 or 32.
    pub id_bytes: &'a [u8],
}

impl TreeEntry<'_> {
    /// The id.
    #[inline]
    pub fn id(&self) -> ObjectId {
        let kind = if self.id_bytes.len() == 32 { HashKind::Sha256 } else { HashKind::Sha1 };
        ObjectId::from_bytes(kind, self.id_bytes).unwrap_or(ObjectId::null(kind))
    }

    /// Whether it is a tree.
    #[inline]
    pub fn is_tree(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether it names a commit of another repository, which need not be here.
    #[inline]
    pub fn is_submodule(&self) -> bool {
        self.mode & 0o170_000 == 0o160_000
    }
}

/// The entries of a tree. Ends after the first malformed one.
#[derive(Clone, Copy, Debug)]
pub struct TreeEntries<'a> {
    rest: &'a [u8],
    hash: HashKind,
}

impl<'a> TreeEntries<'a> {
    /// The entries of a tree's content.
    pub fn new(data: &'a [u8], hash: HashKind) -> TreeEntries<'a> {
        TreeEntries { rest: data, hash }
    }

    #[inline]
    fn parse(&mut self) -> Result<TreeEntry<'a>, Malformed> {
        // Nearly all entries are these two; eight bytes are there in every well-formed one.
        let start = word_at(self.rest, 0).unwrap_or(0);
        let (mode, at) = if start & MASK_7 == FILE {
            (0o100_644, 6)
        } else if start & MASK_6 == DIR {
            (0o040_000, 5)
        } else {
            self.parse_mode()?
        };
        let named = &self.rest[at + 1..];
        let end = find_byte(named, 0).ok_or(Malformed("tree entry cut short"))?;
        if end == 0 {
            return Err(Malformed("tree entry without a name"));
        }
        let after = &named[end + 1..];
        let (id_bytes, rest) =
            after.split_at_checked(self.hash.len()).ok_or(Malformed("tree entry cut short"))?;
        self.rest = rest;
        Ok(TreeEntry { mode, name: &named[..end], id_bytes })
    }

    /// The mode, and where the space after it is.
    fn parse_mode(&self) -> Result<(u32, usize), Malformed> {
        let mut mode: u32 = 0;
        let mut at = 0;
        loop {
            match self.rest.get(at) {
                Some(&digit @ b'0'..=b'7') if at < 10 => mode = (mode << 3) | u32::from(digit - b'0'),
                Some(b' ') if at > 0 => return Ok((mode, at)),
                _ => return Err(Malformed("tree entry with a bad mode")),
            }
            at += 1;
        }
    }
}

const MASK_7: u64 = 0x00ff_ffff_ffff_ffff;
const MASK_6: u64 = 0x0000_ffff_ffff_ffff;
const FILE: u64 = u64::from_le_bytes(*b"100644 \0");
const DIR: u64 = u64::from_le_bytes(*b"40000 \0\0");

/// Eight bytes at `at`, the first the lowest, if they lie within.
#[inline]
fn word_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at + 8)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// Where a byte is first. Eight bytes at a time: trees are most of what a walk reads, and names
/// most of a tree.
#[inline]
pub(crate) fn find_byte(data: &[u8], byte: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let pattern = u64::from(byte) * ONES;
    let mut at = 0;
    while let Some(word) = word_at(data, at) {
        let word = word ^ pattern;
        // The lowest bit set is that of the first zero byte; only above it carries can be wrong.
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    data[at..].iter().position(|&other| other == byte).map(|found| at + found)
}

impl<'a> Iterator for TreeEntries<'a> {
    type Item = Result<TreeEntry<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.parse();
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";

    #[test]
    fn a_commit_gives_tree_parents_and_date() {
        let text = format!(
            "tree {HEX}\nparent {HEX}\nparent {HEX}\nauthor A <a@x> 5 +0000\n\
             committer C <c> >x> 1700000000 +0100\n\nhello\n"
        );
        let commit = Commit::parse(text.as_bytes(), HashKind::Sha1).unwrap();
        assert_eq!(commit.tree().to_string(), HEX);
        assert_eq!(commit.parents().len(), 2);
        assert!(commit.parents().all(|parent| parent.to_string() == HEX));
        assert_eq!(commit.committer_seconds(), 1_700_000_000);
        assert_eq!(commit.message(), b"hello\n");
    }

    #[test]
    fn a_commit_with_bad_lines_is_refused_or_has_no_date() {
        for bad in ["", "tree ", "tree 12\n", &format!("tree {HEX}"), &format!("tree {HEX}\nparent {HEX}")] {
            assert!(Commit::parse(bad.as_bytes(), HashKind::Sha1).is_err(), "{bad}");
        }
        for (ident, want) in [
            ("C <c> 99999999999999999999999 +0000", u64::MAX),
            ("C <c> -5 +0000", 0),
            ("C c 5", 0),
            ("C <c>", 0),
            ("C <c> 7", 7),
        ] {
            let text = format!("tree {HEX}\nauthor A <a> 1 +0000\ncommitter {ident}\n\n");
            let commit = Commit::parse(text.as_bytes(), HashKind::Sha1).unwrap();
            assert_eq!(commit.committer_seconds(), want, "{ident}");
        }
    }

    #[test]
    fn a_tag_gives_its_target() {
        let text = format!("object {HEX}\ntype commit\ntag v1\ntagger T <t> 9 +0000\n\nnotes");
        let tag = Tag::parse(text.as_bytes(), HashKind::Sha1).unwrap();
        assert_eq!(
            (tag.target().to_string().as_str(), tag.kind(), tag.name()),
            (HEX, ObjectKind::Commit, &b"v1"[..])
        );
        assert_eq!((tag.tagger_seconds(), tag.message()), (9, &b"notes"[..]));
        assert!(Tag::parse(format!("object {HEX}\ntype thing\ntag v\n").as_bytes(), HashKind::Sha1).is_err());
        assert!(Tag::parse(b"", HashKind::Sha1).is_err());
    }

    #[test]
    fn tree_entries_stop_at_the_first_bad_one() {
        let mut tree = b"100644 a\0".to_vec();
        tree.extend([1; 20]);
        tree.extend(b"40000 dir\0");
        tree.extend([2; 20]);
        let entries: Vec<_> = TreeEntries::new(&tree, HashKind::Sha1).map(Result::unwrap).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].mode, entries[0].name), (0o100_644, &b"a"[..]));
        assert!(entries[1].is_tree());
        for cut in 1..tree.len() {
            let list: Vec<_> = TreeEntries::new(&tree[..cut], HashKind::Sha1).collect();
            assert_eq!(list.last().unwrap().is_err(), cut != 29, "cut at {cut}");
        }
        for bad in [&b" a\0"[..], b"9 a\0", b"100644 \0", b"77777777777 a\0", b"100644"] {
            let mut tree = bad.to_vec();
            tree.extend([1; 20]);
            assert!(TreeEntries::new(&tree, HashKind::Sha1).next().unwrap().is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn a_byte_is_found_where_it_is(data in proptest::collection::vec(0u8..3, 0..40), a: u8, b: u8) {
            let data: Vec<u8> = data.iter().map(|&byte| [a, b, a ^ 1][usize::from(byte)]).collect();
            assert_eq!(find_byte(&data, b), data.iter().position(|&byte| byte == b));
        }

        #[test]
        fn modes_mean_the_same_on_both_ways(mode in "[0-7]{1,8}|100644|40000") {
            let mut tree = format!("{mode} name\0").into_bytes();
            tree.extend([7; 20]);
            let entry = TreeEntries::new(&tree, HashKind::Sha1).next().unwrap().unwrap();
            assert_eq!((entry.mode, entry.name), (u32::from_str_radix(&mode, 8).unwrap(), &b"name"[..]));
        }

        #[test]
        fn parsers_never_panic(data: Vec<u8>, prefix in 0..4usize) {
            let mut input = [&b""[..], b"tree ", b"object ", b"100644 "][prefix].to_vec();
            input.extend(data);
            for hash in [HashKind::Sha1, HashKind::Sha256] {
                if let Ok(commit) = Commit::parse(&input, hash) {
                    let _ = (commit.parents().count(), commit.committer_seconds(), commit.message());
                }
                if let Ok(tag) = Tag::parse(&input, hash) {
                    let _ = (tag.tagger_seconds(), tag.message());
                }
                let _ = TreeEntries::new(&input, hash).count();
            }
        }
    }
}
