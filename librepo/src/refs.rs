//! References: loose, packed and symbolic (`gitrepository-layout`, `git-pack-refs`).
//!
//! A listing reads no more than its prefixes ask for: directories that cannot hold a match are not entered, and the
//! sorted `packed-refs` is searched, not read through. References of linked worktrees are never shown.

use crate::beneath::{Dir, EntryType, Map};
use crate::error::{Error, Result};
use crate::id::{HashKind, ObjectId};
use crate::object::{Kind, Tag};
use crate::reader::Reader;

/// The largest loose reference in bytes; a symbolic one holds a name.
const MAX_LOOSE: u64 = 8192;
/// How many symbolic references may follow each other, as with C git.
const MAX_SYMREFS: usize = 5;
/// How deep directories of references are entered; each level holds a descriptor.
const MAX_DEPTH: usize = 64;
/// The most entries of one directory of references.
const MAX_ENTRIES: usize = 10_000_000;
/// The longest chain of tags that is followed. Each names the next by its hash, so that there are no circles.
const MAX_TAGS: usize = 1000;

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

/// What the file of a loose reference says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Loose {
    /// There is no file: look into `packed-refs`.
    Missing,
    /// There is one that makes no sense, and hides what is packed.
    Broken,
    Id(ObjectId),
    Symbolic(Vec<u8>),
}

/// What a packed reference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedValue {
    target: ObjectId,
    peeled: Option<ObjectId>,
    /// Whether `peeled` is known: then none means that the target is no tag.
    peel_known: bool,
}

impl PackedValue {
    fn loose(target: ObjectId) -> PackedValue {
        PackedValue { target, peeled: None, peel_known: false }
    }
}

/// The object that a reference leads to, if there is one, and the last symbolic reference's target.
type Resolved = (Option<PackedValue>, Option<Vec<u8>>);

impl Refs {
    /// The references below a repository's directory.
    pub fn new(dir: Dir, hash: HashKind) -> Refs {
        Refs { dir, hash }
    }

    /// What `HEAD` says.
    pub fn head(&self) -> Result<Head> {
        match self.loose(b"HEAD")? {
            Loose::Missing | Loose::Broken => Ok(Head::Broken),
            Loose::Id(id) => Ok(Head::Detached(id)),
            Loose::Symbolic(first) if good_name(&first) => {
                let (value, last) = self.resolve(&first)?;
                Ok(Head::Symbolic(last.unwrap_or(first), value.map(|value| value.target)))
            }
            Loose::Symbolic(_) => Ok(Head::Broken),
        }
    }

    /// A reference by its full name; `None` if there is none, or it is broken. Not peeled, unless `packed-refs` says.
    pub fn find(&self, name: &[u8]) -> Result<Option<Ref>> {
        let (value, symref_target) = self.resolve(name)?;
        Ok(value.map(|value| Ref {
            name: name.to_vec(),
            target: value.target,
            peeled: value.peeled,
            symref_target,
        }))
    }

    /// All references whose names begin with one of `prefixes` (all if there are none): `HEAD` first, the others
    /// sorted by name. Broken ones are passed over.
    ///
    /// With a reader, tags are peeled. A reference whose object is missing is listed, as C git does: who wants it is
    /// to fail, and nobody to take it for deleted.
    pub fn list<P: AsRef<[u8]>>(
        &self,
        prefixes: &[P],
        mut reader: Option<&mut Reader<'_>>,
    ) -> Result<Vec<Ref>> {
        let prefixes = normalise(prefixes);
        let mut refs = Vec::new();
        if prefixes.iter().any(|prefix| b"HEAD".starts_with(prefix)) {
            let (value, symref_target) = self.resolve(b"HEAD")?;
            push(&mut refs, b"HEAD", value, symref_target, reader.as_deref_mut());
        }
        if !prefixes.iter().any(|prefix| may_hold(b"refs/", prefix)) {
            return Ok(refs);
        }
        // All loose ones first: what is packed and removed under us is in the packed-refs that is opened after.
        let mut loose = Vec::new();
        if let Some(dir) = self.dir.open_dir(b"refs")? {
            self.walk(&dir, b"refs/", &prefixes, 0, &mut loose)?;
        }
        loose.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let packed = PackedRefs::open(&self.dir, self.hash)?.matching(&prefixes)?;
        let mut packed = packed.into_iter().peekable();
        for (name, (value, symref_target)) in loose {
            while let Some((other, value)) = packed.next_if(|(other, _)| *other < name) {
                push(&mut refs, &other, Some(value), None, reader.as_deref_mut());
            }
            packed.next_if(|(other, _)| *other == name);
            push(&mut refs, &name, value, symref_target, reader.as_deref_mut());
        }
        for (name, value) in packed {
            push(&mut refs, &name, Some(value), None, reader.as_deref_mut());
        }
        Ok(refs)
    }

    /// Follows symbolic references from `name`: the object if they lead to one, and the last reference's name if
    /// it is another.
    fn resolve(&self, name: &[u8]) -> Result<Resolved> {
        let mut last: Option<Vec<u8>> = None;
        for _ in 0..=MAX_SYMREFS {
            let current = last.as_deref().unwrap_or(name);
            if current != b"HEAD" && !good_name(current) {
                return Ok((None, last));
            }
            match self.loose(current)? {
                Loose::Id(target) => return Ok((Some(PackedValue::loose(target)), last)),
                Loose::Symbolic(next) => last = Some(next),
                Loose::Broken => return Ok((None, last)),
                Loose::Missing => {
                    let value = PackedRefs::open(&self.dir, self.hash)?.find(current)?;
                    return Ok((value, last));
                }
            }
        }
        Ok((None, None))
    }

    fn loose(&self, name: &[u8]) -> Result<Loose> {
        match self.dir.read(name, MAX_LOOSE) {
            Ok(Some(text)) => Ok(parse_loose(&text, self.hash)),
            Ok(None) => Ok(Loose::Missing),
            // A directory, a link or what else: no reference, or a very old symbolic one.
            Err(Error::Corrupt(..)) => Ok(self.link(name)),
            Err(Error::FileTooLarge(..)) => Ok(Loose::Broken),
            Err(e) => Err(e),
        }
    }

    /// A symbolic reference made as a symbolic link, as git made `HEAD` long ago. Read, never followed.
    fn link(&self, name: &[u8]) -> Loose {
        let (dir, last) = match name.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (self.dir.open_dir(&name[..slash]).ok().flatten(), &name[slash + 1..]),
            None => (self.dir.try_clone().ok(), name),
        };
        match dir.and_then(|dir| dir.link_target(last)) {
            Some(target) if good_name(&target) => Loose::Symbolic(target),
            Some(_) => Loose::Broken,
            None => Loose::Missing,
        }
    }

    /// Reads the loose references below a directory, `path` being its name with a slash at the end.
    fn walk(
        &self,
        dir: &Dir,
        path: &[u8],
        prefixes: &[Vec<u8>],
        depth: usize,
        found: &mut Vec<(Vec<u8>, Resolved)>,
    ) -> Result<()> {
        for (entry, kind) in dir.entries(MAX_ENTRIES)? {
            let mut name = [path, &entry].concat();
            match kind {
                EntryType::Dir if depth < MAX_DEPTH => {
                    name.push(b'/');
                    if prefixes.iter().any(|prefix| may_hold(&name, prefix))
                        && !entry.starts_with(b".")
                        && let Some(dir) = dir.open_dir(&entry)?
                    {
                        self.walk(&dir, &name, prefixes, depth + 1, found)?;
                    }
                }
                EntryType::File | EntryType::Symlink
                    if prefixes.iter().any(|prefix| name.starts_with(prefix)) && good_name(&name) =>
                {
                    let value = match dir.read(&entry, MAX_LOOSE) {
                        Ok(Some(text)) => parse_loose(&text, self.hash),
                        Ok(None) => continue,
                        Err(_) => self.loose(&name)?,
                    };
                    let value = match value {
                        Loose::Missing => continue,
                        Loose::Broken => (None, None),
                        Loose::Id(target) => (Some(PackedValue::loose(target)), None),
                        Loose::Symbolic(_) => self.resolve(&name)?,
                    };
                    found.push((name, value));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Adds a reference to a listing, unless it is broken.
fn push(
    refs: &mut Vec<Ref>,
    name: &[u8],
    value: Option<PackedValue>,
    symref_target: Option<Vec<u8>>,
    reader: Option<&mut Reader<'_>>,
) {
    let Some(value) = value else { return };
    let mut peeled = value.peeled;
    if let Some(reader) = reader
        && !value.peel_known
        && let Ok(Some((Kind::Tag, _))) = reader.header(&value.target)
    {
        peeled = peel(reader, &value.target);
    }
    refs.push(Ref { name: name.to_vec(), target: value.target, peeled, symref_target });
}

/// Whether a directory (with a slash at the end) can hold names that begin with `prefix`.
fn may_hold(dir: &[u8], prefix: &[u8]) -> bool {
    dir.starts_with(prefix) || prefix.starts_with(dir)
}

/// The prefixes sorted, without those that begin with another; no prefix means all names.
fn normalise<P: AsRef<[u8]>>(prefixes: &[P]) -> Vec<Vec<u8>> {
    if prefixes.is_empty() {
        return vec![Vec::new()];
    }
    let mut sorted: Vec<Vec<u8>> = prefixes.iter().map(|prefix| prefix.as_ref().to_vec()).collect();
    sorted.sort_unstable();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for prefix in sorted {
        if !kept.last().is_some_and(|last| prefix.starts_with(last)) {
            kept.push(prefix);
        }
    }
    kept
}

/// Whether this is a reference's name below `refs/`, by `git check-ref-format`.
pub fn good_name(name: &[u8]) -> bool {
    let good_part = |part: &[u8]| !part.is_empty() && !part.starts_with(b".") && !part.ends_with(b".lock");
    let bad_byte =
        |byte: &u8| *byte <= b' ' || matches!(byte, b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\' | 0x7f);
    name.starts_with(b"refs/")
        && name.split(|&byte| byte == b'/').all(good_part)
        && !name.ends_with(b".")
        && !name.iter().any(bad_byte)
        && !name.windows(2).any(|pair| matches!(pair, b".." | b"@{"))
}

fn parse_loose(text: &[u8], hash: HashKind) -> Loose {
    if let Some(target) = text.strip_prefix(b"ref:") {
        return Loose::Symbolic(target.trim_ascii().to_vec());
    }
    let Some((hex, rest)) = text.split_at_checked(hash.hex_len()) else { return Loose::Broken };
    // What follows the id is ignored if white space comes first.
    let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
    ObjectId::from_hex(hex).filter(|id| ends && !id.is_null()).map_or(Loose::Broken, Loose::Id)
}

/// What a tag names in the end; `None` if that is missing or not to be read.
pub fn peel(reader: &mut Reader<'_>, tag: &ObjectId) -> Option<ObjectId> {
    let mut at = *tag;
    for _ in 0..MAX_TAGS {
        let Ok(Some((kind, _))) = reader.header(&at) else { return None };
        if kind != Kind::Tag {
            return Some(at);
        }
        let Ok(Some(object)) = reader.read(&at) else { return None };
        match Tag::parse(&object.data, at.kind()) {
            Ok(tag) => at = tag.target(),
            Err(_) => return None,
        }
    }
    None
}

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
    fn open(dir: &Dir, hash: HashKind) -> Result<PackedRefs> {
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

    /// The lines from the first reference on whose name is not less than `name`. Only if the file is sorted.
    fn seek(&self, name: &[u8]) -> Result<&[u8]> {
        let text = self.text();
        let (mut low, mut high) = (0, text.len());
        while low < high {
            // Both ends are beginnings of references; so is `at`, the last one at or before the middle.
            let middle = low + (high - low) / 2;
            let at = beginning(text, low, middle);
            let (rest, found, _) = self.next(&text[at..])?;
            if found < name { low = text.len() - rest.len() } else { high = at }
        }
        Ok(&text[low..])
    }

    fn find(&self, name: &[u8]) -> Result<Option<PackedValue>> {
        let mut text = if self.sorted { self.seek(name)? } else { self.text() };
        while !text.is_empty() {
            let (rest, found, value) = self.next(text)?;
            if found == name {
                return Ok(Some(value).filter(|value| !value.target.is_null()));
            }
            if self.sorted {
                break;
            }
            text = rest;
        }
        Ok(None)
    }

    /// The references that begin with one of the prefixes (see [`normalise`]), sorted by name.
    fn matching(&self, prefixes: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, PackedValue)>> {
        let mut refs = Vec::new();
        let mut keep = |name: &[u8], value: PackedValue| {
            if good_name(name) && !value.target.is_null() {
                refs.push((name.to_vec(), value));
            }
        };
        if self.sorted {
            for prefix in prefixes {
                let mut text = self.seek(prefix)?;
                while !text.is_empty() {
                    let (rest, name, value) = self.next(text)?;
                    if !name.starts_with(prefix) {
                        break;
                    }
                    keep(name, value);
                    text = rest;
                }
            }
            // A file that only says that it is sorted must not make the listing wrong.
            if refs.is_sorted_by(|a, b| a.0 < b.0) {
                return Ok(refs);
            }
        } else {
            let mut text = self.text();
            while !text.is_empty() {
                let (rest, name, value) = self.next(text)?;
                if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                    keep(name, value);
                }
                text = rest;
            }
        }
        refs.sort_by(|a, b| a.0.cmp(&b.0));
        refs.dedup_by(|a, b| a.0 == b.0);
        Ok(refs)
    }

    /// How many references there are; fails where a line is bad.
    pub fn check(&self) -> Result<usize> {
        self.matching(&[Vec::new()]).map(|refs| refs.len())
    }
}

fn corrupt(why: &'static str) -> Error {
    Error::Corrupt("packed-refs".into(), why)
}

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

/// The beginning of the reference that `at` lies in, not before `low`, which is one: a line that does not begin with `^`.
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
