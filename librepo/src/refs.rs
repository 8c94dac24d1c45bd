//! References: loose, packed and symbolic (`gitrepository-layout`, `git-pack-refs`).
//!
//! A listing reads no more than its prefixes ask for: directories that cannot hold a match are not
//! entered, and the sorted `packed-refs` is searched, not read through. Directories are followed as
//! deep as names may be long. References of linked worktrees are never shown.

use libgit::{HashKind, ObjectId, ObjectKind, REF_NAME_MAX};

use crate::descent::Descent;
use crate::dir::{Dir, EntryType};
use crate::error::{Error, Result};
use crate::listing::{BAD_NAME, Listing, Resolved, ResolvedRef, TOO_LONG};
use crate::object::Tag;
use crate::packed_refs::{PackedRefs, PackedValue};
use crate::prefixes::Prefixes;
use crate::reader::Reader;

/// The largest loose reference in bytes; a symbolic one holds a name.
const MAX_LOOSE: u64 = 8192;
/// How many symbolic references may follow each other, as with C git.
const MAX_SYMREFS: usize = 5;
/// The most entries of one directory of references.
const MAX_ENTRIES: usize = 10_000_000;
/// The longest chain of tags that is followed. Each names the next by its hash, so that there are
/// no circles.
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
    /// A reference, and the object that has, if it exists: a branch before its first commit does
    /// not.
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
    /// There is one that makes no sense, and hides what is packed: how.
    Damaged(String),
    Id(ObjectId),
    Symbolic(Vec<u8>),
}

impl Refs {
    /// The references below a repository's directory.
    pub fn new(dir: Dir, hash: HashKind) -> Refs {
        Refs { dir, hash }
    }

    /// What `HEAD` says.
    pub fn head(&self) -> Result<Head> {
        self.head_from(self.loose(b"HEAD")?)
    }

    fn head_from(&self, head: Loose) -> Result<Head> {
        match head {
            Loose::Missing | Loose::Damaged(_) => Ok(Head::Broken),
            Loose::Id(id) => Ok(Head::Detached(id)),
            Loose::Symbolic(first) if good_name(&first) => Ok(match self.resolve(&first)? {
                Resolved::Object(value, last) => Head::Symbolic(last.unwrap_or(first), Some(value.target)),
                Resolved::Nothing(last, _) => Head::Symbolic(last.unwrap_or(first), None),
                Resolved::Damaged(_) | Resolved::NoReference(_) => Head::Symbolic(first, None),
            }),
            Loose::Symbolic(_) => Ok(Head::Broken),
        }
    }

    /// A reference by its full name; `None` if there is none, or it is symbolic and leads to no
    /// object. Not peeled, unless `packed-refs` says.
    ///
    /// # Errors
    /// [`Error::DamagedRef`] where there is one, and it makes no sense.
    pub fn find(&self, name: &[u8]) -> Result<Option<Ref>> {
        match self.resolve(name)? {
            Resolved::Object(value, symref_target) => Ok(Some(Ref {
                name: name.to_vec(),
                target: value.target,
                peeled: value.peeled,
                symref_target,
            })),
            Resolved::Damaged(why) => Err(Error::DamagedRef(name.to_vec(), why)),
            Resolved::Nothing(..) | Resolved::NoReference(_) => Ok(None),
        }
    }

    /// The names that a symbolic reference leads through, in their order; the last is none, and need
    /// not exist. Empty: `name` is no symbolic reference. `None`: they lead in a circle, too far, or
    /// to a name that no reference can have.
    pub fn chain(&self, name: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        let mut chain: Vec<Vec<u8>> = Vec::new();
        for _ in 0..=MAX_SYMREFS {
            let current = chain.last().map_or(name, Vec::as_slice);
            if current != b"HEAD" && !good_name(current) {
                return Ok(None);
            }
            match self.loose(current)? {
                Loose::Symbolic(next) => chain.push(next),
                Loose::Missing | Loose::Damaged(_) | Loose::Id(_) => return Ok(Some(chain)),
            }
        }
        Ok(None)
    }

    /// All references whose names begin with one of `prefixes` (all if there are none): `HEAD`
    /// first, the others sorted by name. Damaged ones are passed over: see [`Refs::listing`].
    ///
    /// With a reader, tags are peeled. A reference whose object is missing is listed, as C git
    /// does: who wants it is to fail, and nobody to take it for deleted.
    pub fn list<P: AsRef<[u8]>>(
        &self,
        prefixes: &[P],
        mut reader: Option<&mut Reader<'_>>,
    ) -> Result<Vec<Ref>> {
        let listing = self.listing(prefixes)?;
        let refs: Result<Vec<Ref>> = listing
            .iter()
            .filter_map(|listed| listed.map(|listed| listed.to_ref(reader.as_deref_mut())).transpose())
            .collect();
        let mut refs = refs?;
        // Nothing moves, unless packed-refs is not as sorted as it says.
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        refs.dedup_by(|later, first| later.name == first.name);
        Ok(refs)
    }

    /// The same without a value for each, to go through one after the other.
    pub fn listing<P: AsRef<[u8]>>(&self, prefixes: &[P]) -> Result<Listing> {
        let prefixes = Prefixes::new(prefixes);
        let mut found = Vec::new();
        if prefixes.matches(b"HEAD") {
            found.push(ResolvedRef::new(b"HEAD".to_vec(), self.resolve(b"HEAD")?));
        }
        if !prefixes.may_match_below(b"refs/") {
            return Listing::new(found, PackedRefs::none(self.hash), prefixes);
        }
        // All loose references first: a reference that is packed and removed under us is in
        // packed-refs, which is opened after.
        let mut descent = Descent::new(&self.dir);
        let mut waiting = vec![b"refs".to_vec()];
        while let Some(path) = waiting.pop() {
            if let Some(dir) = descent.dir(&path)? {
                self.look_into(dir, path, &prefixes, &mut waiting, &mut found)?;
            }
        }
        Listing::new(found, PackedRefs::open(&self.dir, self.hash)?, prefixes)
    }

    /// How many lines `packed-refs` has.
    pub fn packed_lines(&self) -> Result<usize> {
        Ok(PackedRefs::open(&self.dir, self.hash)?.line_count())
    }

    /// Follows symbolic references from `name`.
    fn resolve(&self, name: &[u8]) -> Result<Resolved> {
        let mut last: Option<Vec<u8>> = None;
        for _ in 0..=MAX_SYMREFS {
            let current = last.as_deref().unwrap_or(name);
            if current != b"HEAD" && why_no_name(current).is_some() {
                let why = format!("left out: leads to '{}', which is no reference", current.escape_ascii());
                return Ok(Resolved::Nothing(last, Some(why)));
            }
            let damaged = match self.loose(current)? {
                Loose::Id(target) => return Ok(Resolved::Object(PackedValue::loose(target), last)),
                Loose::Symbolic(next) => {
                    last = Some(next);
                    continue;
                }
                Loose::Damaged(why) => why,
                Loose::Missing => match PackedRefs::open(&self.dir, self.hash)?.find(current)? {
                    None => return Ok(Resolved::Nothing(last, None)),
                    Some(value) => match Resolved::packed(current, value) {
                        Resolved::Damaged(why) => why,
                        _ => return Ok(Resolved::Object(value, last)),
                    },
                },
            };
            // C git lists the reference that is damaged, and none that leads to it.
            return Ok(match last {
                None => Resolved::Damaged(damaged),
                Some(last) => {
                    let why = format!("left out: leads to {}: {damaged}", last.escape_ascii());
                    Resolved::Nothing(Some(last), Some(why))
                }
            });
        }
        Ok(Resolved::Nothing(None, Some("left out: symbolic references in a circle, or too many".into())))
    }

    fn loose(&self, name: &[u8]) -> Result<Loose> {
        match self.dir.read(name, MAX_LOOSE) {
            Ok(Some(text)) => Ok(parse_loose(&text, self.hash)),
            Ok(None) => Ok(Loose::Missing),
            // A directory, a link or what else: no reference, or a very old symbolic one.
            Err(Error::Corrupt(_, why)) => Ok(self.link(name, why)),
            Err(Error::FileTooLarge(..)) => Ok(Loose::Damaged("damaged: too large a file".into())),
            Err(Error::Open(_, e) | Error::Read(_, e)) if is_of_this_file(&e) => {
                Ok(Loose::Damaged(format!("damaged: cannot be read: {e}")))
            }
            Err(e) => Err(e),
        }
    }

    /// A symbolic reference made as a symbolic link, as git made `HEAD` long ago. Read, never
    /// followed.
    fn link(&self, name: &[u8], why: &str) -> Loose {
        let (dir, last) = match name.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (self.dir.open_dir(&name[..slash]).ok().flatten(), &name[slash + 1..]),
            None => (self.dir.try_clone().ok(), name),
        };
        match dir.map_or(Ok(None), |dir| dir.link_target(last)) {
            Ok(Some(target)) if good_name(&target) => Loose::Symbolic(target),
            Ok(Some(_)) => Loose::Damaged(format!("damaged: {why}")),
            Ok(None) => Loose::Missing,
            Err(Error::Corrupt(_, why)) => Loose::Damaged(format!("damaged: {why}")),
            Err(e) => Loose::Damaged(format!("damaged: {e}")),
        }
    }

    /// Reads the loose references in the directory `dir`, whose path is `path`, and adds the
    /// directories in it to those that wait.
    fn look_into(
        &self,
        dir: &Dir,
        mut path: Vec<u8>,
        prefixes: &Prefixes,
        waiting: &mut Vec<Vec<u8>>,
        found: &mut Vec<ResolvedRef>,
    ) -> Result<()> {
        path.push(b'/');
        for (entry, kind) in dir.entries(MAX_ENTRIES)? {
            let mut name = [&path, &entry[..]].concat();
            match kind {
                EntryType::Dir => {
                    name.push(b'/');
                    if !prefixes.may_match_below(&name) || entry.starts_with(b".") {
                        continue;
                    }
                    let too_long = name.len() >= REF_NAME_MAX;
                    name.pop();
                    match too_long {
                        true => found.push(ResolvedRef::new(name, Resolved::NoReference(TOO_LONG))),
                        false => waiting.push(name),
                    }
                }
                _ if !prefixes.matches(&name) => {}
                _ if why_no_name(&name).is_some() => {
                    let why = why_no_name(&name).unwrap_or(BAD_NAME);
                    found.push(ResolvedRef::new(name, Resolved::NoReference(why)));
                }
                EntryType::Other => {
                    found.push(ResolvedRef::new(name, Resolved::NoReference("left out: not a regular file")));
                }
                EntryType::File | EntryType::Symlink => {
                    let value = match dir.read(&entry, MAX_LOOSE) {
                        Ok(Some(text)) => parse_loose(&text, self.hash),
                        Ok(None) => continue,
                        Err(_) => self.loose(&name)?,
                    };
                    let value = match value {
                        Loose::Missing => continue,
                        Loose::Damaged(why) => Resolved::Damaged(why),
                        Loose::Id(target) => Resolved::Object(PackedValue::loose(target), None),
                        Loose::Symbolic(_) => self.resolve(&name)?,
                    };
                    found.push(ResolvedRef::new(name, value));
                }
            }
        }
        Ok(())
    }
}

/// Whether an error is about the file itself, and not about this process. A file that only another
/// account may read is damaged for all clients: each reads it as the daemon does.
fn is_of_this_file(e: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let errno = e.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EACCES | Errno::EPERM | Errno::EIO | Errno::EUCLEAN))
}

/// What the `HEAD` of a linked worktree says, or the repository's own, from the file in `dir`. The
/// branches are those of `refs`.
pub(crate) fn head_of(dir: &Dir, refs: &Refs) -> Result<Head> {
    let worktree = Refs::new(dir.try_clone()?, refs.hash);
    refs.head_from(worktree.loose(b"HEAD")?)
}

/// Why a file or line below `refs/` is no reference, if its name is the reason.
pub(crate) fn why_no_name(name: &[u8]) -> Option<&'static str> {
    match good_name(name) {
        _ if name.len() > REF_NAME_MAX => Some(TOO_LONG),
        true => None,
        false => Some(BAD_NAME),
    }
}

/// Whether this is a reference's name below `refs/`, by `git check-ref-format`.
pub fn good_name(name: &[u8]) -> bool {
    let Some(below) = name.strip_prefix(b"refs/") else { return false };
    let mut last = b'/';
    for (at, &byte) in below.iter().enumerate() {
        match byte {
            0..=b' ' | b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\' | 0x7f => return false,
            b'/' if last == b'/' || below[..at].ends_with(b".lock") => return false,
            b'.' if last == b'/' || last == b'.' => return false,
            b'{' if last == b'@' => return false,
            _ => {}
        }
        last = byte;
    }
    last != b'/' && last != b'.' && !below.ends_with(b".lock")
}

/// Whether an id in a reference's file ends before this byte: what follows is ignored then, as by C
/// git, which ends at a NUL too.
pub(crate) fn id_ends(next: Option<&u8>) -> bool {
    next.is_none_or(|byte| matches!(byte, 0 | b' ' | b'\t' | b'\n' | b'\r'))
}

/// The name that the file of a symbolic reference says.
pub(crate) fn symbolic_target(text: &[u8]) -> Option<&[u8]> {
    // A NUL ends it, as for C git.
    text.strip_prefix(b"ref:")?.trim_ascii().split(|&byte| byte == 0).next()
}

fn parse_loose(text: &[u8], hash: HashKind) -> Loose {
    if let Some(target) = symbolic_target(text) {
        return Loose::Symbolic(target.to_vec());
    }
    let why = match text.split_at_checked(hash.hex_len()).map(|(hex, rest)| (ObjectId::from_hex(hex), rest)) {
        _ if text.is_empty() => "damaged: an empty file",
        Some((Some(id), _)) if id.is_null() => "damaged: an id of zeros",
        Some((Some(id), rest)) if id_ends(rest.first()) => return Loose::Id(id),
        _ => "damaged: neither an object id nor a reference",
    };
    Loose::Damaged(why.to_owned())
}

/// What a tag names in the end; `None` if that is missing or not to be read.
pub fn peel(reader: &mut Reader<'_>, tag: &ObjectId) -> Option<ObjectId> {
    let mut at = *tag;
    for _ in 0..MAX_TAGS {
        let Ok(Some((kind, _))) = reader.header(&at) else { return None };
        if kind != ObjectKind::Tag {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that git takes, and no others.
    #[test]
    fn names_are_git_s() {
        for name in [
            "refs/heads/main",
            "refs/x",
            "refs/",
            "refs",
            "refs//x",
            "refs/x/",
            "refs/a./b",
            "refs/a.",
            "refs/.a",
            "refs/a/.b",
            "refs/a..b",
            "refs/a.b",
            "refs/a.lock",
            "refs/a.lock/b",
            "refs/a.lock.b",
            "refs/.lock",
            "refs/lock",
            "refs/a@{b",
            "refs/@",
            "refs/@/{",
            "refs/a{@b",
            "refs/a b",
            "refs/a~b",
            "refs/a^b",
            "refs/a:b",
            "refs/a?b",
            "refs/a*b",
            "refs/a[b",
            "refs/a]b",
            "refs/a\\b",
            "refs/a\u{7f}b",
            "refs/a\tb",
            "refs/m\u{e4}rz",
            "refs/-a",
        ] {
            let git = std::process::Command::new("git").args(["check-ref-format", name]).status().unwrap();
            assert_eq!(good_name(name.as_bytes()), git.success(), "{name}");
        }
    }
}
