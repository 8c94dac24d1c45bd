//! A listing of references: the loose ones in memory, the packed ones as they lie in `packed-refs`.
//!
//! For a packed reference nothing is kept, however many there are. Two passes over a listing see
//! the same references: `packed-refs` is never changed, but replaced, and the listing keeps the
//! file that it opened.

use std::iter::Peekable;

use libgit::{ObjectId, ObjectKind};

use crate::error::Result;
use crate::packed_refs::{PackedRefs, PackedValue};
use crate::prefixes::Prefixes;
use crate::reader::Reader;
use crate::refs::{Ref, good_name, peel};

/// The object that a reference leads to, if there is one, and the last symbolic reference's target.
pub(crate) type Resolved = (Option<PackedValue>, Option<Vec<u8>>);

/// A reference that was looked up already.
#[derive(Debug)]
pub(crate) struct ResolvedRef {
    name: Vec<u8>,
    /// `None`: a broken one, which hides what is packed under its name.
    value: Option<PackedValue>,
    symref_target: Option<Vec<u8>>,
}

impl ResolvedRef {
    pub(crate) fn new(name: Vec<u8>, (value, symref_target): Resolved) -> ResolvedRef {
        ResolvedRef { name, value, symref_target }
    }

    fn listed(&self) -> Option<Listed<'_>> {
        let value = self.value?;
        Some(Listed { name: &self.name, value, symref_target: self.symref_target.as_deref() })
    }
}

/// A reference of a listing, which resolves to an object.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'l> {
    /// Its full name: `HEAD`, `refs/heads/main`.
    pub name: &'l [u8],
    /// The reference it names, if it is symbolic: the last of the chain.
    pub symref_target: Option<&'l [u8]>,
    value: PackedValue,
}

impl Listed<'_> {
    /// The object it resolves to.
    #[must_use]
    pub fn target(&self) -> ObjectId {
        self.value.target
    }

    /// What the object names in the end, if it is an annotated tag. Looked up only if `packed-refs`
    /// does not say.
    #[must_use]
    pub fn peeled(&self, reader: &mut Reader<'_>) -> Option<ObjectId> {
        let PackedValue { target, peeled, peel_known } = self.value;
        if !peel_known && let Ok(Some((ObjectKind::Tag, _))) = reader.header(&target) {
            return peel(reader, &target);
        }
        peeled
    }

    /// The same as a value of its own; without a reader peeled only if `packed-refs` says so.
    #[must_use]
    pub fn to_ref(&self, reader: Option<&mut Reader<'_>>) -> Ref {
        Ref {
            name: self.name.to_vec(),
            target: self.value.target,
            peeled: reader.map_or(self.value.peeled, |reader| self.peeled(reader)),
            symref_target: self.symref_target.map(<[u8]>::to_vec),
        }
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
    ) -> Result<Listing> {
        let mut rest = packed;
        if !rest.is_sorted() {
            // Very old files have no order that could be followed.
            for line in rest.below(&prefixes) {
                let (name, value) = line?;
                found.push(ResolvedRef::new(name.to_vec(), (Some(value), None)));
            }
            rest = PackedRefs::none(rest.hash());
        }
        // Of two with the same name the first stays, which is the loose one.
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|later, first| later.name == first.name);
        Ok(Listing { found, packed: rest, prefixes })
    }

    /// Goes through it: `HEAD` first, the others sorted by name. Broken references are passed over.
    /// A reference whose object is missing is listed, as in C git: a client that wants it must
    /// fail, and no client may take it for deleted.
    ///
    /// # Errors
    /// Each line of `packed-refs` is read when its turn comes; a bad one is an error, and nothing
    /// comes after it.
    pub fn iter(&self) -> impl Iterator<Item = Result<Listed<'_>>> {
        Iter {
            listing: self,
            found: self.found.iter().peekable(),
            packed: self.packed.below(&self.prefixes).peekable(),
            last: &[],
            disordered: false,
        }
    }

    /// `HEAD`, if it is in the listing and leads to an object.
    #[must_use]
    pub fn head(&self) -> Option<Listed<'_>> {
        self.found.first().filter(|first| first.name == b"HEAD").and_then(ResolvedRef::listed)
    }

    /// The reference of this name.
    ///
    /// # Errors
    /// As [`Listing::iter`].
    pub fn find(&self, name: &[u8]) -> Result<Option<Listed<'_>>> {
        if let Some(found) = self.found(name) {
            return Ok(found.listed());
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
    Listed { name, value, symref_target: None }
}

/// See [`Listing::iter`].
struct Iter<'l, P: Iterator<Item = Result<(&'l [u8], PackedValue)>>> {
    listing: &'l Listing,
    found: Peekable<std::slice::Iter<'l, ResolvedRef>>,
    packed: Peekable<P>,
    /// The last packed one.
    last: &'l [u8],
    /// The file is not as sorted as it says.
    disordered: bool,
}

impl<'l, P: Iterator<Item = Result<(&'l [u8], PackedValue)>>> Iterator for Iter<'l, P> {
    type Item = Result<Listed<'l>>;

    fn next(&mut self) -> Option<Result<Listed<'l>>> {
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
    use libgit::HashKind;

    fn listing(loose: &[(&str, Option<u8>)], packed: &str, prefixes: &[&str]) -> Listing {
        let value = |digit: u8| PackedValue::loose(ObjectId::from_hex(&[digit; 40]).unwrap());
        let found = loose
            .iter()
            .map(|(name, digit)| ResolvedRef::new(name.as_bytes().to_vec(), (digit.map(value), None)));
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
            format!("{} {name}", &listed.target().to_string()[..1])
        };
        listing.iter().map(|listed| one(listed.unwrap())).collect()
    }

    const SORTED: &str = "# pack-refs with: peeled fully-peeled sorted \n";
    const LINES: [(u8, &str); 4] =
        [(b'1', "refs/heads/a"), (b'2', "refs/heads/b"), (b'3', "refs/heads/c"), (b'4', "refs/tags/d")];

    #[test]
    fn loose_ones_hide_packed_ones_and_broken_ones_hide_and_are_not_there() {
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
                "4 refs/tags/d",
                "9 refs/tags/z",
            ];
            assert_eq!(all(&listing), expected);
            assert_eq!(listing.head().unwrap().target().to_string()[..1], *"8");
            assert!(listing.find(b"refs/heads/c").unwrap().is_none());
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
                    &listed.as_ref().unwrap().target().to_string()[..1],
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
    fn a_bad_line_is_an_error_and_the_end() {
        let text = file(SORTED, &LINES[..2]) + "nonsense\n" + &file("", &LINES[2..]);
        let listing = listing(&[("refs/heads/z", Some(b'7'))], &text, &[]);
        let found: Vec<bool> = listing.iter().map(|listed| listed.is_ok()).collect();
        assert_eq!(found, [true, true, false]);
    }
}
