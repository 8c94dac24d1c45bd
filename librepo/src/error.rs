//! The one error type of this crate.

use std::fmt;
use std::io;
use std::path::PathBuf;

use libgit::ObjectId;

/// The errors of one repository. The text names the object first and the cause last.
///
/// Paths are relative to the repository (or to an alternate's object directory): a client may see
/// the text, and where a repository lies on disk is none of its business.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be opened.
    Open(PathBuf, io::Error),
    /// A file or directory could not be read or mapped.
    Read(PathBuf, io::Error),
    /// A file could not be written, synchronised, renamed or removed.
    Write(PathBuf, io::Error),
    /// A file is larger than its reader allows: path, limit in bytes.
    FileTooLarge(PathBuf, u64),
    /// The directory is no repository, for the reason given.
    NotARepository(&'static str),
    /// The repository uses something that this implementation does not know (an extension, a
    /// format version, another reference storage).
    Unsupported(String),
    /// A file of the repository is malformed.
    Corrupt(PathBuf, &'static str),
    /// A reference exists, and what it says makes no sense: its name, and how.
    DamagedRef(Vec<u8>, String),
    /// An object exists but cannot be read.
    CorruptObject(ObjectId, &'static str),
    /// A pack entry cannot be read: file name of the pack, offset in bytes.
    CorruptEntry(String, u64, &'static str),
    /// An object that another one needs is not there.
    Missing(ObjectId),
    /// Deltas' bases that a thin pack leaves out are not there: how many, and one of them.
    MissingBases(u64, ObjectId),
    /// An object is larger than the limit: id, its size and the limit in bytes.
    ObjectTooLarge(ObjectId, u64, u64),
    /// A pack entry is larger than the limit: file name of the pack, offset, size and limit in
    /// bytes.
    EntryTooLarge(String, u64, u64, u64),
    /// Any other limit was reached, one that cannot be set; the text names it.
    Limit(String),
    /// A configured limit was reached: the text, and the limit's words in gotd.conf.
    SetLimit(String, &'static str),
    /// The other end (a sink or a source of the caller's) failed.
    Io(io::Error),
    /// The other end broke a rule of Git's protocol or formats.
    Invalid(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Open(path, e) => write!(f, "{}: cannot open: {}{e}", path.display(), full(e)),
            Error::Read(path, e) => write!(f, "{}: cannot read: {}{e}", path.display(), full(e)),
            Error::Write(path, e) => write!(f, "{}: cannot write: {}{e}", path.display(), full(e)),
            Error::FileTooLarge(path, limit) => {
                write!(f, "{}: larger than {limit} bytes", path.display())
            }
            Error::NotARepository(why) => write!(f, "not a repository: {why}"),
            Error::Unsupported(what) => write!(f, "repository not supported: {what}"),
            Error::Corrupt(path, why) => write!(f, "{}: {why}", path.display()),
            Error::DamagedRef(name, why) => write!(f, "{}: {why}", name.escape_ascii()),
            Error::CorruptObject(id, why) => write!(f, "object {id}: {why}"),
            Error::CorruptEntry(pack, offset, why) => write!(f, "{pack} at {offset}: {why}"),
            Error::Missing(id) => write!(f, "object {id}: missing"),
            Error::MissingBases(count, id) => {
                write!(f, "pack: {count} deltas' bases are missing, {id} for one")
            }
            Error::ObjectTooLarge(id, size, limit) => {
                write!(f, "object {id}: {size} bytes, larger than the limit of {limit}")
            }
            Error::EntryTooLarge(pack, offset, size, limit) => {
                write!(f, "{pack} at {offset}: {size} bytes, larger than the limit of {limit}")
            }
            Error::Limit(what) => f.write_str(what),
            // Not gotd.conf's words, but a key of the repository's own `config`.
            Error::SetLimit(what, words) if words.contains('.') => write!(f, "{what} ({words})"),
            Error::SetLimit(what, words) => write!(f, "{what} (limit {words})"),
            Error::Io(e) => write!(f, "{}{e}", full(e)),
            Error::Invalid(what) => f.write_str(what),
        }
    }
}

/// The words for a full disk, or for a mount point in the way, in an error, so that a client can
/// tell its administrator: the system's own words are about a device.
fn full(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull => "the disk is full: ",
        io::ErrorKind::QuotaExceeded => "the disk quota is used up: ",
        io::ErrorKind::CrossesDevices => "mount point, which is not crossed: ",
        _ => "",
    }
}

impl Error {
    /// Whether an object was needed that is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing(_) | Error::MissingBases(..))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Open(_, e) | Error::Read(_, e) | Error::Write(_, e) | Error::Io(e) => Some(e),
            _ => None,
        }
    }
}

/// Short for a result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
