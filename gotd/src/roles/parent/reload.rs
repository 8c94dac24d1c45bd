//! A new configuration for the running daemon: read by a fresh `config` process, checked, told to
//! `auth`, and only then in force.
//!
//! Nothing changes before the whole configuration is good and every new listening socket is made.
//! Sessions under way keep what they were granted; processes that wait for a client are replaced,
//! because they were started with the old limits.

use std::time::Instant;

use libproto::channel::RecvError;
use libproto::message::parent::{
    ConfigToParent, LoadConfig, Order, ParentToAuth, ParentToConfig, ParentToListen, ParentToPlaces,
    ParentToSession, PlacesToParent, Pool,
};
use libproto::names::escape;
use libproto::refusal::Refusal;
use libproto::states::Role;
use nix::poll::PollFlags;

use super::error::{ChildError, Fatal, Loss, ReloadError};
use super::outbox::Outbox;
use super::reloading::{Reader, Reload};
use super::session::Session;
use super::session::phase::Connection;
use super::settings::Settings;
use super::spawners::Child;
use super::{End, Parent, same_build};
use crate::conf::bounded::bound;
use crate::conf::items::{Audience, send};
use crate::os::log::Level;

/// Most lines of a reload that failed that are logged.
const LOGGED_LINES: usize = 20;
/// Messages of `config` in one turn, so that clients need not wait.
const MESSAGES_PER_TURN: usize = 64;

impl Parent {
    /// Starts reading the configuration anew. Without `files` those of the start are read.
    pub(super) fn reload(&mut self, files: Option<LoadConfig>, asked_by: Option<u64>) {
        if self.reload.is_some() {
            return self.reload_refused(asked_by, ReloadError::Busy);
        }
        let files = files.unwrap_or_else(|| self.files.clone());
        let child = match self.spawners.start(Order::of(Role::Config), Vec::new()) {
            Ok(child) => child,
            Err(e) => {
                let why = ReloadError::Child(Role::Config, ChildError::Start(e));
                return self.reload_refused(asked_by, why);
            }
        };
        let child: Child<ParentToConfig, ConfigToParent> = child;
        self.stderr_pipes.watch(child.number(), Role::Config, &child.stderr);
        // The socket is empty: there is room for one message.
        let _ = child.channel.try_send(0, &ParentToConfig::Load(files.clone()));
        self.reload = Some(Reload::new(child, asked_by, files));
    }

    /// What the process says that is at work for a reload.
    pub(super) fn on_reload(&mut self, _: PollFlags) -> Option<End> {
        match self.reload.as_ref().map(|reload| &reload.reader) {
            Some(Reader::Config(_)) => self.recv_from_config(),
            Some(Reader::Places(..)) => self.recv_from_places(),
            None => {}
        }
        None
    }

    /// The process that is at work is of no use.
    fn reader_failed(&mut self, why: ChildError) {
        if let Some(role) = self.reload.as_ref().map(|reload| reload.reader.role()) {
            self.reload_failed(ReloadError::Child(role, why));
        }
    }

    fn recv_from_config(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(reload) = &mut self.reload else { return };
            let Reader::Config(child) = &reload.reader else { return };
            let message = match child.channel.try_recv() {
                Ok(received) => received.message,
                Err(e) if e.is_transient() => return,
                Err(RecvError::Closed) => return self.reader_failed(ChildError::EndedEarly),
                Err(e) => return self.reader_failed(ChildError::Recv(e)),
            };
            match message {
                ConfigToParent::Hello(build) if same_build(&build) => {}
                ConfigToParent::Hello(_) => return self.reader_failed(ChildError::OtherBuild),
                ConfigToParent::Item(item) => match reload.assembler.item(&item) {
                    Ok(config) => reload.config = config.or(reload.config.take()),
                    Err(e) => return self.reader_failed(ChildError::Item(e)),
                },
                ConfigToParent::Note(_) => {}
                ConfigToParent::Warning(text) => reload.note(text),
                ConfigToParent::Error(text) => {
                    reload.errors = true;
                    reload.note(text);
                }
                ConfigToParent::End(good) => return self.config_read(good),
            }
        }
    }

    /// The configuration was read: if it is good, `places` walks to what it names.
    fn config_read(&mut self, good: bool) {
        let Some(reload) = &mut self.reload else { return };
        let (true, false, Some(config)) = (good, reload.errors, &reload.config) else {
            return self.not_usable();
        };
        let started = self.spawners.start(Order::of(Role::Places), Vec::new());
        let child: Child<ParentToPlaces, PlacesToParent> = match started {
            Ok(child) => child,
            Err(e) => return self.reload_failed(ReloadError::Child(Role::Places, ChildError::Start(e))),
        };
        self.stderr_pipes.watch(child.number(), Role::Places, &child.stderr);
        let mut out = Outbox::default();
        let mut tell = |batch| -> Result<(), libproto::codec::CodecError> {
            out.send(&child.channel, 0, &ParentToPlaces::Item(batch));
            Ok(())
        };
        let told = send(config, Audience::Parent, &mut tell);
        // What it has left to do is nobody's concern.
        reload.reader.end();
        reload.reader = Reader::Places(child, out);
        if let Err(e) = told {
            self.reader_failed(ChildError::TooLarge(e));
        }
    }

    fn not_usable(&mut self) {
        let path = self.reload.as_ref().map(|reload| reload.files.path.clone()).unwrap_or_default();
        self.reload_failed(ReloadError::Unusable(path));
    }

    fn recv_from_places(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(Reload { reader: Reader::Places(child, out), config: Some(config), places, .. }) =
                &mut self.reload
            else {
                return;
            };
            out.flush(&child.channel);
            let message = match child.channel.try_recv() {
                Ok(received) => received.message,
                Err(e) if e.is_transient() => return,
                Err(RecvError::Closed) => return self.reader_failed(ChildError::EndedEarly),
                Err(e) => return self.reader_failed(ChildError::Recv(e)),
            };
            match places.take(message, config) {
                Ok(None) => {}
                Ok(Some(good)) => return self.places_known(good),
                Err(why) => return self.reader_failed(why),
            }
        }
    }

    /// All is known: can it come into force without a restart?
    fn places_known(&mut self, good: bool) {
        let Some(reload) = &mut self.reload else { return };
        // Errors first: there may be more lines than are kept.
        let texts = [&mut reload.places.errors, &mut reload.places.warnings].map(std::mem::take);
        texts.into_iter().flatten().for_each(|text| reload.note(text));
        reload.reader.end();
        let (true, Some(config)) = (good, reload.config.take()) else { return self.not_usable() };
        let mut settings = Settings::new(&config, &reload.places.seen);
        // The user who started the daemon stays a controller; this process has another uid by now.
        settings.listen.controllers.clone_from(&self.settings.listen.controllers);
        let possible = self.settings.may_become(&settings);
        let change = match possible.and_then(|()| self.make_listeners(&settings)) {
            Ok(change) => change,
            Err(why) => return self.reload_failed(why),
        };
        if let Some(reload) = &mut self.reload {
            reload.settings = Some(Box::new((settings, change)));
        }
        let (outbox, auth) = (&mut self.auth_out, &self.auth.channel);
        let mut tell = |batch| -> Result<(), libproto::codec::CodecError> {
            outbox.send(auth, 0, &ParentToAuth::Config(batch));
            Ok(())
        };
        if let Err(e) = send(&config, Audience::Parent, &mut tell) {
            // `auth` has half of a configuration, which the next one would be taken for.
            self.unsound = Some(Fatal { role: Role::Auth, why: Loss::TooLarge(e) });
        }
    }

    /// `auth` decides by the new configuration from now on.
    pub(super) fn configured(&mut self) {
        let Some(mut reload) = self.reload.take() else { return };
        let Some((settings, change)) = reload.settings.take().map(|both| *both) else { return };
        self.files = reload.files;
        let pools = std::mem::replace(&mut self.settings, settings).pools;
        self.log.set_verbose(self.verbose || self.settings.log_verbose);
        for message in self.settings.for_listen() {
            self.listen_out.send(&self.listen.channel, 0, &message);
        }
        reload.lines.extend(self.change_listeners(change));
        // Clients in the backlog of a socket that is about to be closed are still served: see
        // `deserted`.
        let needed = |pool: Pool| self.listeners.has(pool) || pools.iter().any(|(other, _)| *other == pool);
        self.settings.pools.retain(|(pool, _)| needed(*pool));
        // They wait with the limits and directories of before.
        self.recall(|_| true);
        self.metrics.reload(false);
        for note in &reload.places.notes {
            self.log.line(Level::Info, "place", &[("note", &escape(note.as_bytes()))]);
        }
        self.log.line(Level::Info, "reload", &[("result", &"ok"), ("file", &escape(&self.files.path))]);
        self.answer(reload.asked_by, reload.lines, None);
    }

    /// Takes sessions that wait for a client back.
    pub(super) fn recall(&mut self, which: impl Fn(&Session) -> bool) {
        let stale: Vec<u64> =
            self.table.iter().filter(|s| s.is_free() && which(s)).map(|s| s.number).collect();
        for number in stale {
            let Some(session) = self.table.get(number) else { continue };
            if session.connection.is_known() {
                session.recall();
                self.listen_out.send(&self.listen.channel, number, &ParentToListen::Recall(()));
            } else {
                self.end_session(number, "");
            }
        }
    }

    /// `listen` does not have it any more: it was never given a client.
    pub(super) fn recalled(&mut self, number: u64) {
        if self.table.get(number).is_some_and(|s| matches!(s.connection, Connection::Recalled)) {
            self.end_session(number, "");
        }
    }

    /// Ends a reload that takes too long.
    pub(super) fn expire_reload(&mut self) {
        if self.reload.as_ref().is_some_and(|r| r.settings.is_none() && r.until <= Instant::now()) {
            self.reader_failed(ChildError::TooLong);
        }
    }

    fn reload_failed(&mut self, why: ReloadError) {
        let Some(mut reload) = self.reload.take() else { return };
        reload.reader.end();
        self.metrics.reload(true);
        let mut logged = reload.lines.clone();
        bound(&mut logged, LOGGED_LINES, |more| {
            format!("{more} more lines are not logged: gotctl reload -n shows them")
        });
        for line in &logged {
            self.log.line(Level::Warning, "reload", &[("says", line)]);
        }
        self.log.line(Level::Warning, "reload", &[("result", &"failed"), ("error", &why)]);
        let lines = std::mem::take(&mut reload.lines);
        self.answer(reload.asked_by, lines, Some(&why));
    }

    fn reload_refused(&mut self, asked_by: Option<u64>, why: ReloadError) {
        self.log.line(Level::Warning, "reload", &[("result", &"failed"), ("error", &why)]);
        self.answer(asked_by, Vec::new(), Some(&why));
    }

    /// The answer to gotctl: lines, and how it ended.
    fn answer(&mut self, asked_by: Option<u64>, lines: Vec<String>, error: Option<&ReloadError>) {
        let Some(number) = asked_by else { return };
        let last = match error {
            Some(why) => ParentToSession::Refused(Refusal::Reload(why.to_string())),
            None => ParentToSession::Done(()),
        };
        self.send_to_control(number, super::control::packed(lines).into_iter().chain([last]));
    }
}

impl Settings {
    /// Whether these settings can be followed by others while the daemon runs, or what needs a
    /// restart.
    fn may_become(&self, next: &Settings) -> Result<(), ReloadError> {
        let restart = |what| Err(ReloadError::Restart(what));
        if self.accounts_named != next.accounts_named {
            return restart("user");
        }
        if self.enforcement != next.enforcement {
            return restart("sandbox");
        }
        if self.log_to != next.log_to {
            return restart("log to");
        }
        Ok(())
    }
}
