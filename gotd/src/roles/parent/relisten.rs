//! How a reload changes the listening sockets: new sockets are made before anything else is
//! changed. If one cannot be made, everything stays as it is. Sockets that stay are not touched.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use libproto::message::parent::{ParentToListen, Pool};
use libproto::states::Role;

use super::Parent;
use super::error::{Fatal, Loss, NoListener, ReloadError};
use super::listen_place::ListenPlace;
use super::listeners::{Change, Origin};
use super::settings::Settings;
use crate::os::log::Level;
use crate::roles::sockets::ask::{self, Unmade};

impl Parent {
    /// Makes the listening sockets that a new configuration adds. If one of them cannot be made,
    /// the others are removed again.
    pub(super) fn make_listeners(&mut self, settings: &Settings) -> Result<Change, ReloadError> {
        let mut change = Change { added: Vec::new(), removed: self.listeners.unwanted(&settings.places) };
        for (place, line) in &settings.places {
            if self.listeners.iter().any(|other| other == place) {
                continue;
            }
            match self.make(place, &change) {
                Ok((origin, fd)) => change.added.push((place.clone(), origin, fd)),
                Err(why) => {
                    self.unmake(change);
                    return Err(ReloadError::Listener(line.clone(), place.clone(), why));
                }
            }
        }
        Ok(change)
    }

    fn make(&mut self, place: &ListenPlace, change: &Change) -> Result<(Origin, OwnedFd), NoListener> {
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
        made.map_err(|e| {
            self.note_broken(&e);
            NoListener::Unmade(e)
        })
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
            let Some(gone) = self.listeners.remove(number) else { continue };
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
            self.note_broken(&e);
            let why = format!("{place}: {e}");
            self.log.line(Level::Warning, "reload", &[("says", &why)]);
        }
    }

    /// Without a `sockets` that answers the daemon cannot go on.
    fn note_broken(&mut self, e: &Unmade) {
        if let Unmade::Broken(broken) = e {
            self.unsound = Some(Fatal { role: Role::Sockets, why: Loss::Broken(broken.clone()) });
        }
    }
}
