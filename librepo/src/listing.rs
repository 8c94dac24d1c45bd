//! A listing of references: the loose ones in memory, the packed ones as they lie in `packed-refs`.
//!
//! For a packed reference nothing is kept, however many there are. Two passes over a listing see
//! the same references: `packed-refs` is never changed, but replaced, and the listing keeps the
//! file that it opened.

use std::iter::Peekable;

use libgit::{HashKind, ObjectId, ObjectKind};

use crate::packed_refs::{PackedRefs, PackedValue};
use crate::prefixes::Prefixes;
use crate::reader::Reader;
use crate::refs::{Ref, good_name, peel, why_no_name};

/// Where a reference leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// To an object; for a symbolic reference with the last name of the chain.
    Object(PackedValue, Option<Vec<u8>>),
    /// Nowhere, because what stands under its own name is damaged: how.
    Damaged(String),
    /// A symbolic reference that leads to no object: the last name of the chain, and what is wrong
    /// with it, unless it only names a branch that does not exist yet.
    Nothing(Option<Vec<u8>>, Option<String>),
    /// A file that cannot be a reference: why.
    NoReference(&'static str),
}

impl Resolved {
    /// What a line of `packed-refs` says.
    pub(crate) fn packed(name: &[u8], value: PackedValue) -> Resolved {
        match why_no_value(name, &value) {
            None => Resolved::Object(value, None),
            Some(Without::Damaged(why)) => Resolved::Damaged(why.to_owned()),
            Some(Without::LeftOut(_)) => Resolved::NoReference(why_no_name(name).unwrap_or(BAD_NAME)),
        }
    }
}

/// Why a file or line below `refs/` is no reference.
pub(crate) const BAD_NAME: &str = "left out: no reference can have this name";
/// The same, by `libgit::REF_NAME_MAX`.
pub(crate) const TOO_LONG: &str = "left out: its name has more than 2048 bytes";
/// Why a packed reference is damaged.
const PACKED_ZEROS: &str = "damaged: packed-refs has an id of zeros for it";

/// A reference that was looked up already.
#[derive(Debug)]
pub(crate) struct ResolvedRef {
    name: Vec<u8>,
    /// Whatever it says, it hides what is packed under its name.
    value: Resolved,
}

impl ResolvedRef {
    pub(crate) fn new(name: Vec<u8>, value: Resolved) -> ResolvedRef {
        ResolvedRef { name, value }
    }

    fn listed(&self) -> Option<Listed<'_>> {
        let (value, symref_target) = match &self.value {
            Resolved::Object(value, target) => (Ok(*value), target.as_deref()),
            Resolved::Damaged(why) => (Err(Without::Damaged(why)), None),
            Resolved::Nothing(_, None) => return None,
            Resolved::Nothing(target, Some(why)) => (Err(Without::LeftOut(why)), target.as_deref()),
            Resolved::NoReference(why) => (Err(Without::LeftOut(why)), None),
        };
        Some(Listed { name: &self.name, symref_target, value })
    }
}

/// Why an entry of a listing has no value, in words for the log.
#[derive(Clone, Copy, Debug)]
enum Without<'l> {
    /// It exists, and what it says makes no sense.
    Damaged(&'l str),
    /// It has no place in what a client sees.
    LeftOut(&'l str),
}

/// An entry of a listing: a reference that resolves to an object, or one that is damaged, or a file
/// that only the log names.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'l> {
    /// Its full name: `HEAD`, `refs/heads/main`.
    pub name: &'l [u8],
    /// The reference it names, if it is symbolic: the last of the chain.
    pub symref_target: Option<&'l [u8]>,
    value: Result<PackedValue, Without<'l>>,
}

impl Listed<'_> {
    /// The object it resolves to; `None` if there is none to be known.
    #[must_use]
    pub fn target(&self) -> Option<ObjectId> {
        self.value.ok().map(|value| value.target)
    }

    /// The id to list it with: that of its object, or zeros if the reference is damaged. So does C
    /// git, and a client that wants it fails instead of taking it for deleted. `None`: it has no
    /// place in a list.
    #[must_use]
    pub fn shown_id(&self, hash: HashKind) -> Option<ObjectId> {
        match self.value {
            Ok(value) => Some(value.target),
            Err(Without::Damaged(_)) => Some(ObjectId::null(hash)),
            Err(Without::LeftOut(_)) => None,
        }
    }

    /// Whether it is a reference that cannot be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        matches!(self.value, Err(Without::Damaged(_)))
    }

    /// What is wrong with it, for the log: one line that names it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self.value {
            Ok(_) => None,
            Err(Without::Damaged(why) | Without::LeftOut(why)) => {
                Some(format!("{}: {why}", self.name.escape_ascii()))
            }
        }
    }

    /// What the object names in the end, if it is an annotated tag. Looked up only if `packed-refs`
    /// does not say.
    #[must_use]
    pub fn peeled(&self, reader: &mut Reader<'_>) -> Option<ObjectId> {
        let PackedValue { target, peeled, peel_known } = self.value.ok()?;
        // A branch can name nothing but a commit (`git update-ref` refuses all else), which need
        // not be looked for.
        let branch = self.symref_target.unwrap_or(self.name).starts_with(b"refs/heads/");
        if !peel_known
            && !branch
            && let Ok(Some((ObjectKind::Tag, _))) = reader.header(&target)
        {
            return peel(reader, &target);
        }
        peeled
    }

    /// The same as a value of its own, if there is an object; without a reader peeled only if
    /// `packed-refs` says so.
    #[must_use]
    pub fn to_ref(&self, reader: Option<&mut Reader<'_>>) -> Option<Ref> {
        let value = self.value.ok()?;
        Some(Ref {
            name: self.name.to_vec(),
            target: value.target,
            peeled: reader.map_or(value.peeled, |reader| self.peeled(reader)),
            symref_target: self.symref_target.map(<[u8]>::to_vec),
        })
    }
}

/// References whose names begin with certain prefixes, as they were at one moment.
#[derive(Debug)]
pub struct Listing {
    /// Sorted by name, each once. `HEAD` is before all that begins with `refs/`.
    found: Vec<ResolvedRef>,
    packed: PackedRefs,
    prefixes: Prefixes,
}

impl Listing {
    /// A listing of the loose references, and of the packed ones that these do not hide.
    pub(crate) fn new(
        mut found: Vec<ResolvedRef>,
        packed: PackedRefs,
        prefixes: Prefixes,
    ) -> crate::Result<Listing> {
        let mut rest = packed;
        if !rest.is_sorted() {
            // Very old files have no order that could be followed.
            for line in rest.below(&prefixes) {
                let (name, value) = line?;
                found.push(ResolvedRef::new(name.to_vec(), Resolved::packed(name, value)));
            }
            rest = PackedRefs::none(rest.hash());
        }
        // Of two with the same name the first stays, which is the loose one.
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|later, first| later.name == first.name);
        Ok(Listing { found, packed: rest, prefixes })
    }

    /// Goes through it: `HEAD` first, the others sorted by name. A reference that is damaged, or
    /// whose object is missing, is listed, as in C git: a client that wants it must fail, and no
    /// client may take it for deleted.
    ///
    /// # Errors
    /// Each line of `packed-refs` is read when its turn comes; a bad one is an error, and nothing
    /// comes after it.
    pub fn iter(&self) -> impl Iterator<Item = crate::Result<Listed<'_>>> {
        Iter {
            listing: self,
            found: self.found.iter().peekable(),
            packed: self.packed.below(&self.prefixes).peekable(),
            last: &[],
            disordered: false,
        }
    }

    /// `HEAD`, if it is in the listing and leads to an object or is damaged.
    #[must_use]
    pub fn head(&self) -> Option<Listed<'_>> {
        self.found.first().filter(|first| first.name == b"HEAD").and_then(ResolvedRef::listed)
    }

    /// The reference of this name.
    ///
    /// # Errors
    /// As [`Listing::iter`].
    pub fn find(&self, name: &[u8]) -> crate::Result<Option<Listed<'_>>> {
        if let Some(found) = self.found(name) {
            return Ok(found.listed().filter(|listed| !matches!(listed.value, Err(Without::LeftOut(_)))));
        }
        if !self.prefixes.matches(name) || !good_name(name) {
            return Ok(None);
        }
        Ok(self.packed.at(name)?.map(packed))
    }

    fn found(&self, name: &[u8]) -> Option<&ResolvedRef> {
        let at = self.found.binary_search_by(|found| found.name[..].cmp(name)).ok()?;
        self.found.get(at)
    }
}

fn packed<'l>((name, value): (&'l [u8], PackedValue)) -> Listed<'l> {
    let value = why_no_value(name, &value).map_or(Ok(value), Err);
    Listed { name, value, symref_target: None }
}

/// What is wrong with a line of `packed-refs` that can be read.
fn why_no_value(name: &[u8], value: &PackedValue) -> Option<Without<'static>> {
    if let Some(why) = why_no_name(name) {
        return Some(Without::LeftOut(why));
    }
    value.target.is_null().then_some(Without::Damaged(PACKED_ZEROS))
}

/// See [`Listing::iter`].
struct Iter<'l, P: Iterator<Item = crate::Result<(&'l [u8], PackedValue)>>> {
    listing: &'l Listing,
    found: Peekable<std::slice::Iter<'l, ResolvedRef>>,
    packed: Peekable<P>,
    /// The last packed one.
    last: &'l [u8],
    /// The file is not as sorted as it says.
    disordered: bool,
}

impl<'l, P: Iterator<Item = crate::Result<(&'l [u8], PackedValue)>>> Iterator for Iter<'l, P> {
    type Item = crate::Result<Listed<'l>>;

    fn next(&mut self) -> Option<crate::Result<Listed<'l>>> {
        loop {
            let next = match self.packed.peek() {
                Some(Ok((name, _))) => Some(*name),
                Some(Err(_)) => {
                    self.found = [].iter().peekable();
                    return self.packed.next().map(|line| line.map(packed));
                }
                None => None,
            };
            let first = self.found.next_if(|found| next.is_none_or(|next| &found.name[..] <= next));
            if let Some(found) = first {
                if next == Some(&found.name) {
                    self.packed.next();
                }
                match found.listed() {
                    Some(listed) => return Some(Ok(listed)),
                    None => continue,
                }
            }
            let line = self.packed.next()?;
            let Ok((name, _)) = line else { return Some(line.map(packed)) };
            let order = std::mem::replace(&mut self.last, name).cmp(name);
            self.disordered |= order.is_gt();
            let hidden = self.disordered && self.listing.found(name).is_some();
            if order.is_ne() && !hidden {
                return Some(line.map(packed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::Map;

    fn listing(loose: &[(&str, Option<u8>)], packed: &str, prefixes: &[&str]) -> Listing {
        let value = |digit: u8| PackedValue::loose(ObjectId::from_hex(&[digit; 40]).unwrap());
        let resolved = |digit: Option<u8>| match digit {
            Some(digit) => Resolved::Object(value(digit), None),
            None => Resolved::Damaged("damaged: empty".to_owned()),
        };
        let found =
            loose.iter().map(|(name, digit)| ResolvedRef::new(name.as_bytes().to_vec(), resolved(*digit)));
        let map = Map::of_bytes(packed.as_bytes()).unwrap();
        let packed = PackedRefs::parse(Some(map), HashKind::Sha1).unwrap();
        Listing::new(found.collect(), packed, Prefixes::new(prefixes)).unwrap()
    }

    fn file(header: &str, lines: &[(u8, &str)]) -> String {
        let lines =
            lines.iter().map(|(digit, name)| format!("{} {name}\n", (*digit as char).to_string().repeat(40)));
        std::iter::once(header.to_owned()).chain(lines).collect()
    }

    /// Names, each with the digit of its id.
    fn all(listing: &Listing) -> Vec<String> {
        let one = |listed: Listed<'_>| {
            let name = String::from_utf8(listed.name.to_vec()).unwrap();
            assert_eq!(listing.find(listed.name).unwrap().unwrap().target(), listed.target(), "{name}");
            format!("{} {name}", &listed.shown_id(HashKind::Sha1).unwrap().to_string()[..1])
        };
        listing.iter().map(|listed| one(listed.unwrap())).collect()
    }

    const SORTED: &str = "# pack-refs with: peeled fully-peeled sorted \n";
    const LINES: [(u8, &str); 4] =
        [(b'1', "refs/heads/a"), (b'2', "refs/heads/b"), (b'3', "refs/heads/c"), (b'4', "refs/tags/d")];

    #[test]
    fn loose_ones_hide_packed_ones_and_damaged_ones_hide_and_are_listed_with_zeros() {
        let loose = [
            ("refs/tags/z", Some(b'9')),
            ("HEAD", Some(b'8')),
            ("refs/heads/b", Some(b'7')),
            ("refs/heads/c", None),
            ("refs/heads/bb", Some(b'6')),
        ];
        for header in [SORTED, ""] {
            let listing = listing(&loose, &file(header, &LINES), &[]);
            let expected = [
                "8 HEAD",
                "1 refs/heads/a",
                "7 refs/heads/b",
                "6 refs/heads/bb",
                "0 refs/heads/c",
                "4 refs/tags/d",
                "9 refs/tags/z",
            ];
            assert_eq!(all(&listing), expected);
            assert_eq!(listing.head().unwrap().target().unwrap().to_string()[..1], *"8");
            let damaged = listing.find(b"refs/heads/c").unwrap().unwrap();
            assert_eq!((damaged.target(), damaged.is_damaged()), (None, true));
            assert_eq!(damaged.trouble().unwrap(), "refs/heads/c: damaged: empty");
            assert!(listing.find(b"refs/heads/").unwrap().is_none());
        }
    }

    #[test]
    fn only_what_the_prefixes_ask_for() {
        let listing = listing(&[], &file(SORTED, &LINES), &["refs/tags/", "refs/heads/b", "HEAD"]);
        assert_eq!(all(&listing), ["2 refs/heads/b", "4 refs/tags/d"]);
        assert!(listing.head().is_none());
        assert!(listing.find(b"refs/heads/a").unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_not_sorted_as_it_says_shows_each_once_and_nothing_that_is_hidden() {
        let mut lines = LINES.to_vec();
        lines.extend([(b'5', "refs/heads/b"), (b'5', "refs/heads/bb"), (b'5', "refs/heads/bb")]);
        let listing = listing(&[("refs/heads/b", Some(b'7'))], &file(SORTED, &lines), &[]);
        let names: Vec<String> = listing
            .iter()
            .map(|listed| {
                format!(
                    "{} {}",
                    &listed.as_ref().unwrap().target().unwrap().to_string()[..1],
                    listed.unwrap().name.escape_ascii()
                )
            })
            .collect();
        assert_eq!(
            names,
            ["1 refs/heads/a", "7 refs/heads/b", "3 refs/heads/c", "4 refs/tags/d", "5 refs/heads/bb"]
        );
    }

    #[test]
    fn a_packed_id_of_zeros_is_damage_and_a_packed_name_that_is_none_is_left_out() {
        let lines = [(b'0', "refs/heads/a"), (b'2', "refs/heads/a b"), (b'3', "refs/heads/c")];
        for header in [SORTED, ""] {
            let listing = listing(&[], &file(header, &lines), &[]);
            let all: Vec<_> = listing.iter().map(Result::unwrap).collect();
            let shown: Vec<bool> = all.iter().map(|l| l.shown_id(HashKind::Sha1).is_some()).collect();
            assert_eq!(shown, [true, false, true]);
            assert!(all[0].is_damaged() && !all[1].is_damaged());
            assert!(all[1].trouble().unwrap().starts_with("refs/heads/a b: left out"));
            assert!(listing.find(b"refs/heads/a b").unwrap().is_none());
        }
    }

    #[test]
    fn a_bad_line_is_an_error_and_the_end() {
        let text = file(SORTED, &LINES[..2]) + "nonsense\n" + &file("", &LINES[2..]);
        let listing = listing(&[("refs/heads/z", Some(b'7'))], &text, &[]);
        let found: Vec<bool> = listing.iter().map(|listed| listed.is_ok()).collect();
        assert_eq!(found, [true, true, false]);
    }
}
