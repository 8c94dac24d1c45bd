//! Promises: what a process says it will do, in the words of pledge(2).

use std::fmt;
use std::str::FromStr;

use crate::Calls;

/// One promise. The words are those of OpenBSD's pledge(2), with its meaning as far as Linux
/// allows; five more (`accept`, `bind`, `narrow`, `pair`, `threads`) are finer than pledge's and
/// map to its coarser words there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Promise {
    /// Work on descriptors that are already open, private memory without execution, clocks, one's
    /// own signals.
    Stdio = 1 << 0,
    /// Look up names, open files and directories for reading.
    Rpath = 1 << 1,
    /// Open existing files for writing.
    Wpath = 1 << 2,
    /// Create, rename, link and remove names.
    Cpath = 1 << 3,
    /// Change mode bits (never set-user-id) and times of files.
    Fattr = 1 << 4,
    /// File locks: flock(2) and fcntl(2) locks.
    Flock = 1 << 5,
    /// Make unix sockets and connect them.
    Unix = 1 << 6,
    /// Make TCP and UDP sockets and connect them.
    Inet = 1 << 7,
    /// Resolve host names: UDP messages with an address and the resolver's files.
    Dns = 1 << 8,
    /// Receive descriptors: recvmsg(2).
    Recvfd = 1 << 9,
    /// Send descriptors: sendmsg(2).
    Sendfd = 1 << 10,
    /// Start, signal and await other processes.
    Proc = 1 << 11,
    /// Execute programs. On Linux children lack every right that their parent gave up. So this
    /// promise stands for everything that any child needs, except [`Promise::Bind`],
    /// [`Promise::Id`] and [`Promise::Pair`], which have to be named.
    Exec = 1 << 12,
    /// Read the account databases.
    Getpw = 1 << 13,
    /// Change user, groups and capabilities.
    Id = 1 << 14,
    /// Enter a further stage with other paths. Implies [`Promise::Narrow`].
    Unveil = 1 << 15,
    /// Accept connections and read the kernel's word about the peer. pledge(2): `unix inet`.
    Accept = 1 << 16,
    /// Make listening unix and TCP sockets; never connect. pledge(2): `unix inet`.
    Bind = 1 << 17,
    /// Enter a further stage. pledge(2) always allows that, so there it has no word.
    Narrow = 1 << 18,
    /// Make connected pairs of unix sockets. pledge(2): `stdio`.
    Pair = 1 << 19,
    /// Start threads. pledge(2): `stdio`. A stage without it and without [`Promise::Proc`] also
    /// sets `RLIMIT_NPROC` to 0.
    Threads = 1 << 20,
}

/// Every promise in the order in which they are written, with its word.
const ALL: [(Promise, &str); 21] = [
    (Promise::Stdio, "stdio"),
    (Promise::Rpath, "rpath"),
    (Promise::Wpath, "wpath"),
    (Promise::Cpath, "cpath"),
    (Promise::Fattr, "fattr"),
    (Promise::Flock, "flock"),
    (Promise::Unix, "unix"),
    (Promise::Inet, "inet"),
    (Promise::Dns, "dns"),
    (Promise::Recvfd, "recvfd"),
    (Promise::Sendfd, "sendfd"),
    (Promise::Proc, "proc"),
    (Promise::Exec, "exec"),
    (Promise::Getpw, "getpw"),
    (Promise::Id, "id"),
    (Promise::Unveil, "unveil"),
    (Promise::Accept, "accept"),
    (Promise::Bind, "bind"),
    (Promise::Narrow, "narrow"),
    (Promise::Pair, "pair"),
    (Promise::Threads, "threads"),
];

/// A set of promises, and the row of the table of calls that narrows them on Linux.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Promises(u32);

/// Where the number of a row begins in a set.
const ROW: u32 = 24;
/// The bits of the promises in a set.
const WORDS: u32 = BY_OPENING - 1;
/// See [`Promises::by_opening`].
const BY_OPENING: u32 = 1 << 23;

impl Promises {
    /// No promise at all: even exit(3) is then refused on OpenBSD. A base to build on.
    pub const NONE: Promises = Promises(0);

    /// The set of these promises.
    #[must_use]
    pub const fn of(promises: &[Promise]) -> Promises {
        let mut bits = 0;
        let mut i = 0;
        while i < promises.len() {
            bits |= promises[i] as u32;
            i += 1;
        }
        Promises(bits)
    }

    /// The same set, whose system calls on Linux are only those that a row of the table names too.
    /// On OpenBSD the words say it all.
    #[must_use]
    pub const fn calls(self, of: Calls) -> Promises {
        Promises(self.0 & (WORDS | BY_OPENING) | (of as u32) << ROW)
    }

    /// The same set, for a process that may only open names: stat(2), readlink(2), access(2) and
    /// `O_PATH`, which Landlock does not restrict, are answered with EACCES. With glibc
    /// newfstatat(2) remains: its fstat(3) before 2.39.
    #[must_use]
    pub const fn by_opening(self) -> Promises {
        Promises(self.0 | BY_OPENING)
    }

    /// Whether [`Promises::by_opening`] was said.
    #[must_use]
    pub const fn opens_only(self) -> bool {
        self.0 & BY_OPENING != 0
    }

    /// The row of [`Promises::calls`].
    #[cfg(target_os = "linux")]
    pub(crate) const fn row(self) -> usize {
        (self.0 >> ROW) as usize
    }

    /// Whether the row names this use of a system call; where there is no row, all are.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn names(self, call: std::ffi::c_long, of: &[std::ffi::c_int]) -> bool {
        let mut uses = crate::linux::rows::uses(self.row());
        self.row() == Calls::OfPromises as usize || uses.any(|used| used.call == call && used.of == of)
    }

    /// The set as a number.
    #[cfg(target_os = "linux")]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// The set that was a number.
    #[cfg(target_os = "linux")]
    pub(crate) const fn of_bits(bits: u32) -> Promises {
        Promises(bits)
    }

    /// This set and one promise more.
    #[must_use]
    pub const fn with(self, promise: Promise) -> Promises {
        Promises(self.0 | promise as u32)
    }

    /// This set without one promise.
    #[must_use]
    pub const fn without(self, promise: Promise) -> Promises {
        Promises(self.0 & !(promise as u32))
    }

    /// Does the set hold this promise?
    #[must_use]
    pub const fn has(self, promise: Promise) -> bool {
        self.0 & promise as u32 != 0
    }

    /// Does the set hold every promise of the other one?
    #[must_use]
    pub const fn contains(self, other: Promises) -> bool {
        self.0 & other.0 & WORDS == other.0 & WORDS
    }

    /// The promises in the set, in the order in which they are written.
    pub fn iter(self) -> impl Iterator<Item = Promise> {
        ALL.iter().map(|&(promise, _)| promise).filter(move |&promise| self.has(promise))
    }
}

impl fmt::Display for Promises {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for (promise, word) in ALL {
            if self.has(promise) {
                write!(f, "{space}{word}")?;
                space = " ";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Promises {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Promises({self})")
    }
}

/// A word that is no promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownPromise(pub String);

impl fmt::Display for UnknownPromise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no such promise", self.0.escape_debug())
    }
}

impl std::error::Error for UnknownPromise {}

impl FromStr for Promises {
    type Err = UnknownPromise;

    fn from_str(words: &str) -> Result<Promises, UnknownPromise> {
        words.split_ascii_whitespace().try_fold(Promises::NONE, |set, word| {
            match ALL.iter().find(|(_, name)| *name == word) {
                Some(&(promise, _)) => Ok(set.with(promise)),
                None => Err(UnknownPromise(word.to_owned())),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        let all = ALL.iter().fold(Promises::NONE, |set, &(promise, _)| set.with(promise));
        assert_eq!(all.to_string().parse(), Ok(all));
        assert_eq!(all.iter().count(), ALL.len());
        assert_eq!("stdio  sendfd".parse(), Ok(Promises::of(&[Promise::Sendfd, Promise::Stdio])));
        assert_eq!("stdio wheel".parse::<Promises>(), Err(UnknownPromise("wheel".to_owned())));
    }

    #[test]
    fn a_set_gains_and_loses() {
        const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Sendfd]);
        let setup = WORK.with(Promise::Recvfd);
        assert!(setup.contains(WORK) && !WORK.contains(setup));
        assert_eq!(setup.without(Promise::Recvfd), WORK);
    }
}
