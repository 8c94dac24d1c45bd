//! The packs of a directory, as its list of names shows them: each index and each pack is opened
//! and mapped when something is first looked for in it.
//!
//! A repository that nobody maintains gets a pack with every push, and most of what is asked of it
//! concerns a few of them. What was opened stays mapped, so that a pack which maintenance removes
//! meanwhile can still be read. One that is gone before it was opened is told apart from one that
//! is no good: its objects lie elsewhere by then, and a new list shows where.

use std::sync::{Arc, OnceLock};

use libgit::HashKind;

use crate::checked::Checked;
use crate::dir::{Dir, EntryType, Map};
use crate::error::Result;
use crate::pack::Pack;
use crate::pack_index::PackIndex;

/// The most entries that a pack directory may have.
const MAX_ENTRIES: usize = 200_000;
/// Packs of at least this many bytes keep their file open, for copying inside the kernel.
const KEEP_OPEN_BYTES: usize = 1 << 20;

/// What is in the place of a pack's file, and none.
const ODD: &str = "not a regular file";

/// A file that was opened, or why it was not.
#[derive(Debug)]
enum Opened<T> {
    Good(T),
    /// It was listed, and is not there any more.
    Gone,
    Bad,
}

/// Why there is nothing to be had from a file.
pub(crate) enum Fault {
    /// It went away since it was listed.
    Gone,
    /// It is no good: one line for the log.
    Bad(String),
}

/// A pack and its index in a directory.
#[derive(Debug)]
pub(crate) struct PackFiles {
    /// The files' name without an ending.
    stem: Vec<u8>,
    name: String,
    /// The inode of the pack. Most file systems give new files higher numbers than old ones.
    pub(crate) inode: u64,
    has_rev: bool,
    /// Whether there is a file of bitmaps beside it.
    pub(crate) has_bitmap: bool,
    /// Whether what its objects name may be missing here, by the `.promisor` file beside it.
    pub(crate) promisor: bool,
    index: OnceLock<Opened<Arc<PackIndex>>>,
    pack: OnceLock<Opened<Pack>>,
}

/// What opening a pack needs to know.
pub(crate) struct Opener<'o> {
    /// The directory with the packs.
    pub(crate) dir: &'o Dir,
    pub(crate) hash: HashKind,
    pub(crate) checked: &'o Arc<Checked>,
    /// Whether the file of one more large pack may stay open.
    pub(crate) may_keep: &'o dyn Fn() -> bool,
    /// Is told of each fault once.
    pub(crate) fault: &'o dyn Fn(Fault),
}

impl PackFiles {
    /// A pack that is open already.
    pub(crate) fn of(pack: Pack) -> PackFiles {
        PackFiles {
            stem: pack.name().as_bytes().to_vec(),
            name: pack.name().to_owned(),
            inode: 0,
            has_rev: false,
            has_bitmap: false,
            promisor: false,
            index: OnceLock::from(Opened::Good(pack.shared_index())),
            pack: OnceLock::from(Opened::Good(pack)),
        }
    }

    /// Its name in texts and in multi-pack indexes.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name of the file with this ending.
    pub(crate) fn file_name(&self, ending: &[u8]) -> Vec<u8> {
        [&self.stem, ending].concat()
    }

    /// The index, opened now if it was not; `None` if it is no good.
    pub(crate) fn index(&self, opener: &Opener<'_>) -> Option<&PackIndex> {
        Some(&**self.shared_index(opener)?)
    }

    fn shared_index(&self, opener: &Opener<'_>) -> Option<&Arc<PackIndex>> {
        let opened = self.index.get_or_init(|| told(opener, self.open_index(opener)));
        if let Opened::Good(index) = opened { Some(index) } else { None }
    }

    /// The index, if it is open.
    #[inline]
    pub(crate) fn opened_index(&self) -> Option<&PackIndex> {
        if let Some(Opened::Good(index)) = self.index.get() { Some(index) } else { None }
    }

    /// The pack, opened now if it was not; `None` if it or its index is no good.
    pub(crate) fn pack(&self, opener: &Opener<'_>) -> Option<&Pack> {
        let index = self.shared_index(opener)?;
        let opened = self.pack.get_or_init(|| told(opener, self.open_pack(opener, index)));
        if let Opened::Good(pack) = opened { Some(pack) } else { None }
    }

    /// The pack, if it is open.
    pub(crate) fn opened(&self) -> Option<&Pack> {
        if let Some(Opened::Good(pack)) = self.pack.get() { Some(pack) } else { None }
    }

    /// Whether it was found to be gone.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.index.get(), Some(Opened::Gone)) || matches!(self.pack.get(), Some(Opened::Gone))
    }

    /// Forgets what could not be opened, to try it again.
    pub(crate) fn retry(&mut self) {
        if !matches!(self.index.get(), Some(Opened::Good(_))) {
            self.index.take();
        }
        if !matches!(self.pack.get(), Some(Opened::Good(_))) {
            self.pack.take();
        }
    }

    fn open_index(&self, opener: &Opener<'_>) -> std::result::Result<Arc<PackIndex>, Fault> {
        let name = self.file_name(b".idx");
        let map = opener.dir.map(&name).map_err(|e| Fault::Bad(e.to_string()))?.ok_or(Fault::Gone)?;
        let index = PackIndex::parse(map, opener.hash).map_err(|why| bad(opener.dir, &name, why))?;
        Ok(Arc::new(index))
    }

    fn open_pack(&self, opener: &Opener<'_>, index: &Arc<PackIndex>) -> std::result::Result<Pack, Fault> {
        let name = self.file_name(b".pack");
        let file = opener.dir.open_file(&name).map_err(|e| Fault::Bad(e.to_string()))?.ok_or(Fault::Gone)?;
        let map = Map::of_file(&file).map_err(|e| bad(opener.dir, &name, &e.to_string()))?;
        // A .rev file that cannot be opened is one that is not there.
        let rev = if self.has_rev { opener.dir.map(&self.file_name(b".rev")).ok().flatten() } else { None };
        let large = map.len() >= KEEP_OPEN_BYTES;
        let pack = Pack::with_index(self.name.clone(), map, index.clone(), rev);
        let pack = pack.map_err(|why| bad(opener.dir, &name, why))?.with_checked(opener.checked.clone());
        Ok(if large && (opener.may_keep)() { pack.with_file(file) } else { pack })
    }
}

fn bad(dir: &Dir, name: &[u8], why: &str) -> Fault {
    Fault::Bad(format!("{}: {why}", dir.name_of(name).display()))
}

fn told<T>(opener: &Opener<'_>, opened: std::result::Result<T, Fault>) -> Opened<T> {
    match opened {
        Ok(good) => Opened::Good(good),
        Err(fault) => {
            let gone = matches!(fault, Fault::Gone);
            (opener.fault)(fault);
            if gone { Opened::Gone } else { Opened::Bad }
        }
    }
}

/// What one look at a directory of packs showed.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) packs: Vec<PackFiles>,
    /// What is not worth a look: one line each, and whether the log is to have it. A file without
    /// its other half is told of only where an object is missing: its writer may be about to bring
    /// that.
    pub(crate) unusable: Vec<(String, bool)>,
    /// Whether there is a multi-pack index.
    pub(crate) has_midx: bool,
    /// Whether there may be one in layers.
    pub(crate) has_layers: bool,
}

/// Lists a directory of packs. Any name will do, as for C git: other writers have other names than
/// `pack-ID`.
pub(crate) fn list(dir: &Dir) -> Result<Listed> {
    let mut entries = dir.numbered_entries(MAX_ENTRIES)?;
    // By name, so that what belongs to a pack is looked up without a table of its own.
    entries.sort_unstable();
    let kind_of = |name: &[u8]| {
        let at = entries.binary_search_by(|(other, ..)| other[..].cmp(name)).ok()?;
        entries.get(at).map(|(_, kind, inode)| (*kind, *inode))
    };
    let mut listed = Listed::default();
    for (name, kind, _) in &entries {
        let mut say = |name: &[u8], why: &str| {
            listed.unusable.push((format!("{}: {why}", dir.name_of(name).display()), why == ODD));
        };
        if let Some(stem) = name.strip_suffix(b".pack") {
            if kind_of(&[stem, b".idx"].concat()).is_none() {
                say(name, "without an index");
            }
            continue;
        }
        match &name[..] {
            b"multi-pack-index" => listed.has_midx = true,
            b"multi-pack-index.d" => listed.has_layers = true,
            _ => {}
        }
        let Some(stem) = name.strip_suffix(b".idx") else { continue };
        let with = |ending: &[u8]| [stem, ending].concat();
        match (kind, kind_of(&with(b".pack"))) {
            (EntryType::File, Some((EntryType::File, inode))) => listed.packs.push(PackFiles {
                stem: stem.to_vec(),
                name: stem.escape_ascii().to_string(),
                inode,
                has_rev: kind_of(&with(b".rev")).is_some(),
                has_bitmap: kind_of(&with(b".bitmap")).is_some(),
                promisor: kind_of(&with(b".promisor")).is_some(),
                index: OnceLock::new(),
                pack: OnceLock::new(),
            }),
            (EntryType::File, Some(_)) => say(&with(b".pack"), ODD),
            (EntryType::File, None) => say(name, "without its pack"),
            _ => say(name, ODD),
        }
    }
    Ok(listed)
}
