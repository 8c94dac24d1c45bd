//! The listening sockets that `listen` has, and what can be added to them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libproto::message::parent::Pool;

use super::error::NoListener;
use super::listen_place::ListenPlace;
use crate::roles::sockets::ask::{FIRST_FREE_PORT, MOST};

/// A listening socket that `listen` has.
#[derive(Debug)]
pub struct Listener {
    /// Never repeats while the daemon runs.
    pub number: u64,
    /// Where it is.
    pub place: ListenPlace,
    /// Who made it.
    pub origin: Origin,
}

/// Who made a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The service manager: it stays, whatever the configuration says.
    ServiceManager,
    /// `sockets`, which knows a unix socket by this number.
    Sockets(Option<u8>),
}

/// All of them, and what `sockets` can add.
#[derive(Debug, Default)]
pub struct Listeners {
    all: Vec<Listener>,
    last: u64,
    /// Directories of unix sockets, by their number at `sockets`.
    directories: Vec<PathBuf>,
    /// TCP addresses with a low port that it may bind.
    low: Vec<SocketAddr>,
}

/// What a configuration that is not in force yet changes.
#[derive(Debug)]
pub struct Change {
    /// What was made for it.
    pub added: Vec<(ListenPlace, Origin, OwnedFd)>,
    /// The numbers of those that go.
    pub removed: Vec<u64>,
}

impl Listeners {
    /// No sockets yet. `directories` and `low` are the arguments that `sockets` was started with.
    pub fn new(directories: Vec<PathBuf>, low: Vec<SocketAddr>) -> Listeners {
        Listeners { all: Vec::new(), last: 0, directories, low }
    }

    /// Notes one, and returns its number.
    pub fn add(&mut self, place: ListenPlace, origin: Origin) -> u64 {
        self.last = self.last.saturating_add(1);
        self.all.push(Listener { number: self.last, place, origin });
        self.last
    }

    /// Takes one away.
    pub fn remove(&mut self, number: u64) -> Option<Listener> {
        let at = self.all.iter().position(|listener| listener.number == number)?;
        Some(self.all.remove(at))
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &ListenPlace> {
        self.all.iter().map(|listener| &listener.place)
    }

    /// Whether connections of this kind can come.
    pub fn has(&self, pool: Pool) -> bool {
        self.iter().any(|place| place.pool() == pool)
    }

    /// The sockets to close under a configuration that wants only `wanted`.
    pub fn unwanted(&self, wanted: &[(ListenPlace, String)]) -> Vec<u64> {
        let goes = |listener: &&Listener| {
            listener.origin != Origin::ServiceManager
                && !wanted.iter().any(|(place, _)| *place == listener.place)
        };
        self.all.iter().filter(goes).map(|listener| listener.number).collect()
    }

    /// Numbers for a new unix socket: its own and its directory's. Those in `taken` are in use.
    pub fn numbers(
        &self,
        path: &Path,
        taken: &[(ListenPlace, Origin, OwnedFd)],
    ) -> Result<(u8, u8), NoListener> {
        let at = self.directories.iter().position(|directory| Some(directory.as_path()) == path.parent());
        let like = at.and_then(|at| u8::try_from(at).ok()).ok_or(NoListener::Directory)?;
        let known = self.all.iter().map(|l| l.origin).chain(taken.iter().map(|(_, origin, _)| *origin));
        let known: Vec<Origin> = known.collect();
        let free = (0u8..).take(MOST).find(|number| !known.contains(&Origin::Sockets(Some(*number))));
        Ok((free.ok_or(NoListener::TooMany)?, like))
    }

    /// Why a TCP address cannot even be tried. `removed` are the sockets that this reload closes.
    pub fn obstacle(&self, address: SocketAddr, removed: &[u64]) -> Option<NoListener> {
        if address.port() < FIRST_FREE_PORT && !self.low.contains(&address) {
            return Some(NoListener::LowPort);
        }
        let in_the_way = |other: SocketAddr| {
            other.port() == address.port()
                && other.is_ipv4() == address.is_ipv4()
                && (other.ip().is_unspecified() || address.ip().is_unspecified())
        };
        self.all.iter().find_map(|listener| match listener.place {
            ListenPlace::Tcp(other) if removed.contains(&listener.number) && in_the_way(other) => {
                Some(NoListener::Overlaps(other))
            }
            _ => None,
        })
    }
}
