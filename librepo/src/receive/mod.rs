//! Receiving a push: the pack, its checks, the facts that rules are decided on, and the quarantine.
//!
//! - [`index`] reads a pack from a client into files that somebody else created, checks every
//!   object and writes the index. It opens nothing for writing.
//! - [`facts`](facts()) makes sure that nothing is missing behind the new tips, and collects what
//!   rules are decided on.
//! - [`quarantine`] is for the process that owns the repository: where the files lie until they are
//!   proven, and how they move in.
//!
//! **Invariant:** nothing here allocates by a number that the client named without checking it
//! against [`ReceiveLimits`] first, and every loop is bounded by bytes that really came in or by a
//! limit.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

pub mod check;
mod collision;
mod conditions;
pub mod connectivity;
mod depth;
mod dotgit;
pub mod facts;
mod had;
mod hasher;
mod index_file;
pub mod index_pack;
mod inspect;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod links;
mod modules;
mod promised;
pub mod quarantine;
mod resolve;
mod stream;
mod thin;
mod world;

pub use depth::check_depth;
pub use facts::{Facts, RefChange, Refusal, facts};
pub use had::{Had, Shows};
pub use index_pack::{IndexOptions, Indexed, index};
pub use quarantine::Quarantine;

/// What a push may bring. Every field is a number of bytes or objects, and every refusal names its
/// number and the limit.
#[derive(Clone, Debug)]
pub struct ReceiveLimits {
    /// Bytes of the pack as it comes in.
    pub pack_bytes: u64,
    /// Where that is set, for the refusal: the limit's words in gotd.conf, or a key of git's.
    pub pack_bytes_by: &'static str,
    /// Objects in the pack.
    pub objects: u64,
    /// Bytes of one object.
    pub object_bytes: u64,
    /// Bytes of one delta, of its base and of its result: all three are held in memory, as is any
    /// commit, tree or tag.
    pub delta_bytes: u64,
    /// Deltas between an object and the whole object that it is made from.
    pub chain: u32,
    /// Objects of the repository appended to complete a thin pack.
    pub external_bases: u64,
    /// Bytes that all deltas may make for each byte of the pack: what a pack unpacks to must be in
    /// some proportion to it ...
    pub delta_ratio: u64,
    /// ... beyond so many bytes, which the deltas of any pack may make.
    pub delta_floor: u64,
    /// Bytes of objects held at a time while deltas are resolved, all threads together. Objects
    /// beyond are made again when needed.
    pub resolve_bytes: u64,
}

impl Default for ReceiveLimits {
    fn default() -> ReceiveLimits {
        ReceiveLimits {
            pack_bytes: 8 << 30,
            pack_bytes_by: "pack size",
            objects: 20_000_000,
            object_bytes: 4 << 30,
            // git makes deltas of blobs up to core.bigFileThreshold.
            delta_bytes: 512 << 20,
            chain: 4096,
            external_bases: 1_000_000,
            delta_ratio: 4096,
            delta_floor: 256 << 20,
            resolve_bytes: 24 << 20,
        }
    }
}

/// The stage of the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Bytes come in, and whole objects are checked.
    Receiving,
    /// Deltas become objects, and are checked.
    Resolving,
    /// What lies behind the new tips is looked for.
    Connectivity,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The present stage.
    pub stage: Stage,
    /// Objects done.
    pub done: u64,
    /// Objects in total; 0 if unknown.
    pub total: u64,
    /// Bytes of the pack received.
    pub bytes: u64,
    /// Whether this stage is over.
    pub finished: bool,
}

impl fmt::Display for Progress {
    /// The line that git's users know, without a line end: `Resolving deltas:  50% (1/2)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.stage {
            Stage::Receiving => "Receiving objects: ",
            Stage::Resolving => "Resolving deltas: ",
            Stage::Connectivity => "Checking connectivity: ",
        })?;
        if self.total == 0 {
            write!(f, "{}", self.done)?;
        } else {
            let percent = u128::from(self.done) * 100 / u128::from(self.total);
            write!(f, "{percent:3}% ({}/{})", self.done, self.total)?;
        }
        f.write_str(if self.finished { ", done." } else { "" })
    }
}

/// Calls the caller back every now and then while work goes on; the caller may end the work by an
/// error.
pub struct Ticker<'c> {
    callback: &'c mut dyn FnMut(&Progress) -> io::Result<()>,
    next: Instant,
    skipped: u32,
    last: Progress,
}

/// How often the callback is called, roughly.
const INTERVAL: Duration = Duration::from_millis(150);
/// Calls between two looks at the clock.
const SKIP: u32 = 16;

impl<'c> Ticker<'c> {
    /// A ticker that calls `callback` about every 150 ms of work, and at the end of each stage.
    pub fn new(callback: &'c mut dyn FnMut(&Progress) -> io::Result<()>) -> Self {
        let last = Progress { stage: Stage::Receiving, done: 0, total: 0, bytes: 0, finished: false };
        Ticker { callback, next: Instant::now() + INTERVAL, skipped: 0, last }
    }

    pub(crate) fn tick(&mut self, stage: Stage, done: u64, total: u64, bytes: u64) -> Result<()> {
        self.last = Progress { stage, done, total, bytes, finished: false };
        self.poll()
    }

    /// The same place as before, some more work.
    pub(crate) fn poll(&mut self) -> Result<()> {
        self.skipped += 1;
        if self.skipped < SKIP {
            return Ok(());
        }
        self.skipped = 0;
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + INTERVAL;
        (self.callback)(&self.last).map_err(Error::Io)
    }

    /// Calls back at once.
    pub(crate) fn now(&mut self, stage: Stage, done: u64, total: u64, bytes: u64) -> Result<()> {
        self.last = Progress { stage, done, total, bytes, finished: false };
        (self.callback)(&self.last).map_err(Error::Io)
    }

    pub(crate) fn finish(&mut self, stage: Stage, done: u64, total: u64, bytes: u64) -> Result<()> {
        self.last = Progress { stage, done, total, bytes, finished: true };
        (self.callback)(&self.last).map_err(Error::Io)
    }
}

/// Something malformed came in.
fn bad(why: impl Into<String>) -> Error {
    Error::Invalid(why.into())
}

/// A limit was reached: `pack: 12 objects exceed the limit of 10 (limit pack objects)`. `name` is
/// how gotd.conf calls it; empty: it cannot be set.
fn limit(what: &str, value: u64, unit: &str, limit: u64, name: &'static str) -> Error {
    let text = format!("{what}: {value} {unit} exceed the limit of {limit}");
    if name.is_empty() { Error::Limit(text) } else { Error::SetLimit(text, name) }
}

/// The pack file cannot be written or read.
fn pack_error(error: io::Error) -> Error {
    Error::Write(PathBuf::from("incoming pack"), error)
}

#[cfg(any(test, feature = "testing"))]
pub mod testpack;
#[cfg(test)]
mod tests;
