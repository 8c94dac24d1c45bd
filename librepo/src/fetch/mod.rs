//! One fetch: what the client wants and has, and the pack that it gets (`gitprotocol-pack`,
//! `gitprotocol-v2`; the server's half that needs the repository).
//!
//! A [`Fetch`] takes wants, haves and shallow lines as they come, in memory bounded by the
//! repository, never by how often the client repeats itself, and then writes the pack into a
//! [`Sink`]. It only ever reads.
//!
//! From the answers to the pack: [`negotiate`] settles what is wanted and common, `shallow` where
//! history is cut, `walk` (or a bitmap) which objects that makes, `search` which of them get a new
//! delta, and `writer` puts them out, as far as possible in the very bytes that lie on disk.

mod bitmapped;
mod bits;
mod commits;
mod delta;
mod full;

mod negotiate;
mod plan;
mod progress;
mod pseudo_pack;
mod reach;
mod reached;
mod search;
mod shallow;
mod space;
mod walk;
mod writer;

use std::io;
use std::os::fd::BorrowedFd;

use libgit::Filter;

use crate::error::Result;

pub use negotiate::{Fetch, FetchLimits, Policy, Tips, WantError};
pub use reached::Visible;
pub use shallow::ShallowInfo;

/// The receiver of a pack and of its progress. An error ends the fetch with
/// [`crate::error::Error::Io`]; that is also how a caller cancels it.
pub trait Sink {
    /// The next bytes of the pack, any number of them.
    ///
    /// # Errors
    /// The bytes cannot go out.
    fn pack(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Text for the client's user: part of a line that ends in `\r`, or a whole one.
    ///
    /// # Errors
    /// The text cannot go out.
    fn progress(&mut self, text: &str) -> io::Result<()>;

    /// Called several times a second while work goes on that yields no bytes: time for a keepalive.
    ///
    /// # Errors
    /// Any, to cancel.
    fn tick(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Costly work begins or goes on, for which so many bytes of memory are needed in all: time to
    /// wait for one's turn.
    ///
    /// # Errors
    /// Any, to cancel.
    fn turn(&mut self, memory: u64) -> io::Result<()> {
        let _ = memory;
        Ok(())
    }

    /// From here on bytes of files are copied, and nothing else is done.
    ///
    /// # Errors
    /// Any, to cancel.
    fn copies(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The next `len` bytes of the pack are those of `file` from `offset` on. Override it where the
    /// system copies between descriptors by itself.
    ///
    /// # Errors
    /// As [`Sink::pack`], and when the file ends early.
    fn splice(&mut self, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
        progress::copy_range(self, file, offset, len)
    }
}

/// What the client understands and asks for.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// The pack may refer to objects that the client has (`thin-pack`).
    pub thin: bool,
    /// The pack may name a delta's base by its distance (`ofs-delta`).
    pub ofs_delta: bool,
    /// Annotated tags of what is sent come along (`include-tag`).
    pub include_tag: bool,
    /// Objects that the client can do without (`filter`).
    pub filter: Option<Filter>,
}

/// What went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackStats {
    /// Objects in the pack.
    pub objects: u64,
    /// How many of them were copied as they lie on disk.
    pub reused: u64,
    /// How many are deltas.
    pub deltas: u64,
    /// How many of the copied ones are deltas.
    pub reused_deltas: u64,
    /// How many deltas were made anew.
    pub new_deltas: u64,
    /// Length of the pack in bytes.
    pub bytes: u64,
    /// Whether the whole pack went out as it lies on disk.
    pub whole_pack: bool,
}

/// The resources for making a pack.
struct Means {
    /// How many threads may work.
    threads: usize,
    /// Bytes of cache for each of them.
    cache_bytes: usize,
    /// Bytes of memory that all of it takes, roughly.
    memory: u64,
    z: std::cell::LazyCell<flate2::Compress>,
}

/// The second half of a fetch: counted, compressed and written.
fn send(
    source: &mut commits::Source<'_>,
    mut plan: plan::Plan,
    bitmap: Option<&bitmapped::PackBitmap>,
    options: &PackOptions,
    mut means: Means,
    progress: &mut progress::Progress<'_>,
) -> Result<PackStats> {
    let count = plan.wanted.count();
    progress.start("Counting objects", count);
    progress.long_step(count)?;
    progress.finish()?;
    let parts = writer::parts(source, &plan)?;
    let stats = match writer::whole_pack(source, options, &parts, count, progress)? {
        Some(stats) => stats,
        None => {
            progress.turn(means.memory)?;
            if let Some(bitmap) = bitmap {
                bitmap.complete(source, &mut plan, options, progress)?;
            }
            let made = search::search(source, &plan, &parts, options, &mut means, progress)?;
            writer::write(source, &plan, parts, &made, options, &mut means, progress)?
        }
    };
    let whole = if stats.whole_pack { (stats.reused, 1) } else { (0, 0) };
    progress.send_line(&format!(
        "Total {} (delta {}), reused {} (delta {}), pack-reused {} (from {})\n",
        stats.objects, stats.deltas, stats.reused, stats.reused_deltas, whole.0, whole.1
    ))?;
    Ok(stats)
}
