//! The listening sockets that `listen` has, and how a reload changes them: new sockets are made
//! before anything else is changed. If one cannot be made, everything stays as it is. Sockets that
//! stay are not touched.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libproto::message::parent::{ParentToListen, Pool};

use super::Parent;
use super::listen_place::ListenPlace;
use super::settings::Settings;
use crate::os::log::Level;
use crate::roles::sockets::ask::{self, FIRST_FREE_PORT, MOST, Unmade};

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
    added: Vec<(ListenPlace, Origin, OwnedFd)>,
    removed: Vec<u64>,
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

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &ListenPlace> {
        self.all.iter().map(|listener| &listener.place)
    }

    /// Whether connections of this kind can come.
    pub fn has(&self, pool: Pool) -> bool {
        self.iter().any(|place| place.pool() == pool)
    }

    /// The sockets to close under a configuration that wants only `wanted`.
    fn unwanted(&self, wanted: &[(ListenPlace, String)]) -> Vec<u64> {
        let goes = |listener: &&Listener| {
            listener.origin != Origin::ServiceManager
                && !wanted.iter().any(|(place, _)| *place == listener.place)
        };
        self.all.iter().filter(goes).map(|listener| listener.number).collect()
    }

    /// Numbers for a new unix socket: its own and its directory's. Those in `taken` are in use.
    fn numbers(&self, path: &Path, taken: &[(ListenPlace, Origin, OwnedFd)]) -> Result<(u8, u8), String> {
        let at = self.directories.iter().position(|directory| Some(directory.as_path()) == path.parent());
        let like = at
            .and_then(|at| u8::try_from(at).ok())
            .ok_or("a unix socket in a directory that had none of gotd's at the start: it needs a restart")?;
        let known = self.all.iter().map(|l| l.origin).chain(taken.iter().map(|(_, origin, _)| *origin));
        let known: Vec<Origin> = known.collect();
        let free = (0u8..).take(MOST).find(|number| !known.contains(&Origin::Sockets(Some(*number))));
        Ok((free.ok_or("more unix sockets at a time than there can be")?, like))
    }

    /// Why a TCP address cannot even be tried. `removed` are the sockets that this reload closes.
    fn obstacle(&self, address: SocketAddr, removed: &[u64]) -> Option<String> {
        if address.port() < FIRST_FREE_PORT && !self.low.contains(&address) {
            return Some("a port below 1024 that was not there at the start: it needs a restart".into());
        }
        let in_the_way = |other: SocketAddr| {
            other.port() == address.port()
                && other.is_ipv4() == address.is_ipv4()
                && (other.ip().is_unspecified() || address.ip().is_unspecified())
        };
        self.all.iter().find_map(|listener| match listener.place {
            ListenPlace::Tcp(other) if removed.contains(&listener.number) && in_the_way(other) => {
                Some(format!("overlaps with {other}, which has to go by a reload of its own first"))
            }
            _ => None,
        })
    }
}

impl Parent {
    /// Makes the listening sockets that a new configuration adds. If one of them cannot be made,
    /// the others are removed again.
    pub(super) fn make_listeners(&mut self, settings: &Settings) -> Result<Change, String> {
        let mut change = Change { added: Vec::new(), removed: self.listeners.unwanted(&settings.places) };
        for (place, line) in &settings.places {
            if self.listeners.iter().any(|other| other == place) {
                continue;
            }
            match self.make(place, &change) {
                Ok((origin, fd)) => change.added.push((place.clone(), origin, fd)),
                Err(why) => {
                    self.unmake(change);
                    return Err(format!("{line}: {place}: {why}"));
                }
            }
        }
        Ok(change)
    }

    fn make(&mut self, place: &ListenPlace, change: &Change) -> Result<(Origin, OwnedFd), String> {
        let made = match place {
            ListenPlace::Unix(path) | ListenPlace::Control(path) => {
                let (number, like) = self.listeners.numbers(path, &change.added)?;
                let name = path.file_name().unwrap_or_default().as_bytes();
                ask::new(self.sockets.channel.as_fd(), number, like, name)
                    .map(|fd| (Origin::Sockets(Some(number)), fd))
            }
            ListenPlace::Tcp(address) => {
                if let Some(why) = self.listeners.obstacle(*address, &change.removed) {
                    return Err(why);
                }
                ask::tcp(self.sockets.channel.as_fd(), *address).map(|fd| (Origin::Sockets(None), fd))
            }
        };
        made.map_err(|e| self.unmade(e))
    }

    /// Takes back what was made for a configuration that does not come into force.
    pub(super) fn unmake(&mut self, change: Change) {
        for (place, origin, _) in &change.added {
            self.unlink(place, *origin);
        }
    }

    /// Brings a change into force.
    pub(super) fn change_listeners(&mut self, change: Change) -> Vec<String> {
        let mut said = Vec::new();
        for (place, origin, fd) in change.added {
            said.push(format!("listening on {place}"));
            let message = ParentToListen::Listener(place.pool());
            let number = self.listeners.add(place, origin);
            self.listen_out.send_fds(&self.listen.channel, number, &message, vec![fd]);
        }
        for number in change.removed {
            let Some(at) = self.listeners.all.iter().position(|l| l.number == number) else { continue };
            let gone = self.listeners.all.remove(at);
            // First the name, so that nobody finds a socket that is about to be closed.
            self.unlink(&gone.place, gone.origin);
            self.listen_out.send(&self.listen.channel, number, &ParentToListen::Close(()));
            said.push(format!("no longer listening on {}", gone.place));
        }
        for text in &said {
            self.log.line(Level::Info, "reload", &[("says", text)]);
        }
        said
    }

    /// `listen` has no way left for git:// clients to come: the processes that wait for one are not
    /// needed.
    pub(super) fn deserted(&mut self) {
        if !self.listeners.has(Pool::Tcp) {
            self.settings.pools.retain(|(pool, _)| *pool != Pool::Tcp);
            self.recall(|session| session.pool == Pool::Tcp);
        }
    }

    fn unlink(&mut self, place: &ListenPlace, origin: Origin) {
        let Origin::Sockets(Some(number)) = origin else { return };
        if let Err(e) = ask::unlink(self.sockets.channel.as_fd(), number) {
            let why = format!("{place}: {}", self.unmade(e));
            self.log.line(Level::Warning, "reload", &[("says", &why)]);
        }
    }

    /// Why `sockets` did not do it, as text; without a `sockets` that answers the daemon cannot go
    /// on.
    fn unmade(&mut self, e: Unmade) -> String {
        if matches!(e, Unmade::Broken(_)) {
            self.unsound = Some(e.to_string());
        }
        e.to_string()
    }
}
