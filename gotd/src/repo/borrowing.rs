//! The alternates of a repository process, and its questions about them.
//!
//! An alternates file is read when the repository was found and before the process narrows itself.
//! Each place it names is walked to; whether the client may have what lies there is said by `auth`,
//! through the parent, before anything there is opened.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::channel::Received;
use libproto::message::parent::{
    BORROW_BYTES, BORROW_PLACES, BORROW_QUESTIONS, DIRECTORY_BYTES, FoundAt, Lend, Lent, ParentToRepo,
    RepoToParent,
};
use libproto::names::escape;
use libproto::refusal;
use librepo::alternates::{self, AlternatePlace, Alternates, Lender, Lending, Withheld};
use librepo::place::Trust;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::os::system;
use crate::repo::find::{self, FoundRepository};
use crate::repo::opened::{self, Parent};

/// A question must fit into a message that the parent takes.
const _: () = assert!(
    alternates::MAX_ALTERNATES == BORROW_PLACES
        && alternates::MAX_PATHS == BORROW_BYTES
        && alternates::DIRECTORY_BYTES == DIRECTORY_BYTES
        && alternates::MAX_DEPTH == BORROW_QUESTIONS as usize
);
/// Most warnings about alternates in one log line.
const WARNINGS: usize = 16;
/// Most characters of one warning: the repository chooses the length of a path, and the whole
/// report is one message.
const WARNING: usize = 300;

/// Why it is not known what a repository may borrow.
#[derive(Debug)]
pub enum BorrowError {
    /// Its directory of objects cannot be opened.
    Objects(Errno),
    /// Its alternates cannot be read or make no sense.
    Alternates(librepo::Error),
}

impl fmt::Display for BorrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BorrowError::Objects(e) => write!(f, "objects: {e}"),
            BorrowError::Alternates(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for BorrowError {}

impl From<librepo::Error> for BorrowError {
    fn from(e: librepo::Error) -> BorrowError {
        BorrowError::Alternates(e)
    }
}

/// Why alternates were left out, as a client is told.
pub fn lender(withheld: Withheld) -> refusal::Lender {
    match withheld {
        Withheld::Refused => refusal::Lender::Denied,
        Withheld::Absent => refusal::Lender::Absent,
    }
}

/// The alternates of a repository that may be used for the client of its session.
///
/// # Errors
/// Its alternates file cannot be read.
pub fn from_parent(parent: &Parent, found: &FoundRepository, who: &str) -> Result<Alternates, BorrowError> {
    of(found, Trust::of_process(), &mut Asking { parent, who })
}

/// The alternates that were lent to the process that found them.
///
/// # Errors
/// As for [`from_parent`].
pub fn from_list(lent: &[Lent], found: &FoundRepository) -> Result<Alternates, BorrowError> {
    of(found, Trust::of_process(), &mut Listed(lent))
}

/// Resolves the alternates with any lender.
///
/// # Errors
/// Its alternates file cannot be read.
pub fn of(found: &FoundRepository, trust: Trust, lender: &mut dyn Lender) -> Result<Alternates, BorrowError> {
    if !alternates::has_any(&found.directory, found.look)? {
        return Ok(Alternates::default());
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let objects = found
        .look
        .open(found.directory.as_fd(), b"objects", flags, Mode::empty())
        .map_err(BorrowError::Objects)?;
    Ok(alternates::resolve(objects.as_fd(), found.look, &found.path.join("objects"), trust, lender)?)
}

/// What was left out, for the log.
pub fn warnings(alternates: &Alternates) -> impl Iterator<Item = String> {
    let refused = alternates.refused.iter().take(WARNINGS);
    refused.map(|(path, why)| {
        let path = escape(path.as_os_str().as_bytes());
        let shown: String = path.chars().take(WARNING).collect();
        let why: String = escape(why.as_bytes()).chars().take(WARNING).collect();
        format!("alternate {shown}: {why}")
    })
}

/// Asks the parent.
struct Asking<'a> {
    parent: &'a Parent,
    who: &'a str,
}

impl Lender for Asking<'_> {
    fn ask(&mut self, places: &[AlternatePlace<'_>]) -> Vec<Lending> {
        let asked = places.iter().map(|place| FoundAt {
            path: place.path.as_os_str().as_bytes().to_vec(),
            directories: place.directories.iter().map(|inode| find::directory_id(*inode)).collect(),
        });
        let asked = asked.collect();
        opened::send(self.parent, &RepoToParent::Borrow(asked));
        match self.parent.recv() {
            Ok(Received { message: ParentToRepo::Lent(answers), .. }) => {
                answers.iter().map(|answer| lending(*answer, self.who)).collect()
            }
            // The session ended.
            _ => system::exit_now(0),
        }
    }
}

fn lending(answer: Lend, who: &str) -> Lending {
    match answer {
        Lend::Permitted => Lending::Yes,
        Lend::Exported => Lending::IfExported,
        Lend::NoRepository => Lending::No("not the objects of a repository of gotd.conf".into()),
        Lend::Elsewhere => Lending::No("leads to what has a block under another path".into()),
        Lend::Denied => Lending::No(format!("{who} may not read it, and no borrow directive names it")),
        Lend::Hides => Lending::No("its block hides references, so that it lends nothing".into()),
    }
}

/// Looks it up in what was lent before.
struct Listed<'a>(&'a [Lent]);

impl Lender for Listed<'_> {
    fn ask(&mut self, places: &[AlternatePlace<'_>]) -> Vec<Lending> {
        let of = |place: &Path| match self
            .0
            .iter()
            .find(|lent| Path::new(OsStr::from_bytes(&lent.place)) == place)
        {
            Some(Lent { exported: false, .. }) => Lending::Yes,
            Some(Lent { exported: true, .. }) => Lending::IfExported,
            None => Lending::No("was not lent to this push".into()),
        };
        places.iter().map(|place| of(place.path)).collect()
    }
}
