//! The `packed-refs` file (`git-pack-refs`).
//!
//! It is not auxiliary: what it holds is nowhere else, so that a bad line is an error. A list
//! without the rest would look like deletions to a client that prunes.

use libgit::{HashKind, ObjectId};

use crate::dir::{Dir, Map};
use crate::error::{Error, Result};
use crate::object::find_byte;
use crate::prefixes::Prefixes;

/// What a reference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedValue {
    pub target: ObjectId,
    pub peeled: Option<ObjectId>,
    /// Whether `peeled` is known: `peeled` is `None` then because the target is no tag.
    pub peel_known: bool,
}

impl PackedValue {
    /// What a loose reference says.
    pub fn loose(target: ObjectId) -> PackedValue {
        PackedValue { target, peeled: None, peel_known: false }
    }
}

/// A reference's name and value.
pub(crate) type Line<'p> = (&'p [u8], PackedValue);

/// The `packed-refs` file: lines `id name`, each perhaps followed by `^peeled id`.
#[derive(Debug)]
pub struct PackedRefs {
    map: Option<Map>,
    hash: HashKind,
    /// Where the lines begin, after the header.
    start: usize,
    sorted: bool,
    peeled: bool,
    fully_peeled: bool,
}

impl PackedRefs {
    pub(crate) fn open(dir: &Dir, hash: HashKind) -> Result<PackedRefs> {
        PackedRefs::parse(dir.map(b"packed-refs")?, hash)
    }

    /// Reads the header, and makes sure that the last line is complete.
    pub fn parse(map: Option<Map>, hash: HashKind) -> Result<PackedRefs> {
        let mut packed =
            PackedRefs { map: None, hash, start: 0, sorted: false, peeled: false, fully_peeled: false };
        let text = map.as_deref().unwrap_or(&[]);
        if !text.is_empty() && !text.ends_with(b"\n") {
            return Err(corrupt("last line cut short"));
        }
        if let Some(rest) = text.strip_prefix(b"# pack-refs with:") {
            let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            let traits: Vec<&[u8]> = rest[..end].split(|&byte| byte == b' ').collect();
            let has = |word: &[u8]| traits.contains(&word);
            let (sorted, peeled, fully_peeled) = (has(b"sorted"), has(b"peeled"), has(b"fully-peeled"));
            let start = text.len() - rest.len() + end + 1;
            packed = PackedRefs { start, sorted, peeled, fully_peeled, ..packed };
        }
        packed.map = map;
        Ok(packed)
    }

    /// How many lines the file has, that of its traits included.
    pub(crate) fn line_count(&self) -> usize {
        self.map.as_deref().unwrap_or(&[]).iter().filter(|&&byte| byte == b'\n').count()
    }

    fn text(&self) -> &[u8] {
        let text = self.map.as_deref().unwrap_or(&[]);
        text.get(self.start..).unwrap_or(&[])
    }

    /// Takes one reference off the front of some lines: what follows, its name and its value.
    fn next<'t>(&self, text: &'t [u8]) -> Result<(&'t [u8], &'t [u8], PackedValue)> {
        let bad = || corrupt("bad line");
        let (line, mut rest) = split_line(text);
        let (hex, name) = line.split_at_checked(self.hash.hex_len()).ok_or_else(bad)?;
        let target = ObjectId::from_hex(hex).ok_or_else(bad)?;
        let name = name.strip_prefix(b" ").filter(|name| !name.is_empty()).ok_or_else(bad)?;
        let mut peeled = None;
        if rest.starts_with(b"^") {
            let (line, after) = split_line(rest);
            peeled =
                Some(ObjectId::from_hex(&line[1..]).filter(|id| id.kind() == self.hash).ok_or_else(bad)?);
            rest = after;
        }
        let peel_known =
            peeled.is_some() || self.fully_peeled || (self.peeled && name.starts_with(b"refs/tags/"));
        Ok((rest, name, PackedValue { target, peeled, peel_known }))
    }

    /// The lines from the first reference on whose name is not less than `name`. Only if the file
    /// is sorted.
    fn seek(&self, name: &[u8]) -> Result<&[u8]> {
        let text = self.text();
        let (mut low, mut high) = (0, if name.is_empty() { 0 } else { text.len() });
        while low < high {
            // Both ends are beginnings of references; so is `at`, the last one at or before the
            // middle.
            let middle = low + (high - low) / 2;
            let at = beginning(text, low, middle);
            let (rest, found, _) = self.next(&text[at..])?;
            if found < name { low = text.len() - rest.len() } else { high = at }
        }
        Ok(&text[low..])
    }

    pub(crate) fn find(&self, name: &[u8]) -> Result<Option<PackedValue>> {
        Ok(self.at(name)?.map(|(_, value)| value))
    }

    /// The reference of this name, with its name as it stands in the file. Its id may be zeros.
    pub(crate) fn at(&self, name: &[u8]) -> Result<Option<(&[u8], PackedValue)>> {
        let mut text = if self.sorted { self.seek(name)? } else { self.text() };
        while !text.is_empty() {
            let (rest, found, value) = self.next(text)?;
            if found == name {
                return Ok(Some((found, value)));
            }
            if self.sorted {
                break;
            }
            text = rest;
        }
        Ok(None)
    }

    /// The references that begin with one of the prefixes: sorted by name, if the file is as sorted
    /// as it says; else in its order, and a name twice if it stands there twice. Names may be bad,
    /// and ids zeros. After an error nothing comes.
    pub(crate) fn below<'p>(&'p self, prefixes: &'p Prefixes) -> impl Iterator<Item = Result<Line<'p>>> {
        let mut sought = prefixes.iter();
        // All of an unsorted file is looked at.
        let mut prefix = b"".as_slice();
        let mut text = if self.sorted { b"".as_slice() } else { self.text() };
        std::iter::from_fn(move || {
            loop {
                if text.is_empty() {
                    prefix = if self.sorted { sought.next()? } else { return None };
                    match self.seek(prefix) {
                        Ok(found) => text = found,
                        Err(e) => {
                            sought = [].iter();
                            return Some(Err(e));
                        }
                    }
                    continue;
                }
                let (name, value) = match self.next(text) {
                    Ok((rest, name, value)) => {
                        text = rest;
                        (name, value)
                    }
                    Err(e) => {
                        (text, sought) = (b"", [].iter());
                        return Some(Err(e));
                    }
                };
                if !name.starts_with(prefix) {
                    text = b"";
                } else if self.sorted || prefixes.matches(name) {
                    return Some(Ok((name, value)));
                }
            }
        })
    }

    /// Whether the lines say of themselves that they are sorted by name.
    pub(crate) fn is_sorted(&self) -> bool {
        self.sorted
    }

    pub(crate) fn hash(&self) -> HashKind {
        self.hash
    }

    /// No references at all.
    pub(crate) fn none(hash: HashKind) -> PackedRefs {
        PackedRefs { map: None, hash, start: 0, sorted: true, peeled: false, fully_peeled: false }
    }

    /// The names that begin with one of `prefixes` (all if there are none), sorted; fails where a
    /// line is bad.
    pub fn list<P: AsRef<[u8]>>(&self, prefixes: &[P]) -> Result<Vec<Vec<u8>>> {
        let prefixes = Prefixes::new(prefixes);
        let names: Result<Vec<Vec<u8>>> = self.below(&prefixes).map(|line| Ok(line?.0.to_vec())).collect();
        let mut names = names?;
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

fn corrupt(why: &'static str) -> Error {
    Error::Corrupt("packed-refs".into(), why)
}

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match find_byte(text, b'\n') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

/// The start of the line `id name` that `at` lies in; from a line `^peeled id` it goes back to the
/// line before. `low` is the start of such a line, and the search goes no further back.
fn beginning(text: &[u8], low: usize, at: usize) -> usize {
    let mut end = at;
    loop {
        let start = text[low..end].iter().rposition(|&byte| byte == b'\n').map_or(low, |line| low + line + 1);
        if start == low || text[start] != b'^' {
            return start;
        }
        end = start - 1;
    }
}
