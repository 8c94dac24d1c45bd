//! Whether the repository that was found is the one that was permitted: `auth` confirms its path,
//! and the inodes recorded when the configuration was loaded may refuse it.
//!
//! The repository process opens it meanwhile. Nothing of what it finds reaches the client before
//! both have agreed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use libproto::command::Service;
use libproto::message::parent::{
    Checks, FetchRules, FoundAt, OpenError, Opened, ParentToAuth, ParentToRepo, ParentToSession,
    PlaceQuestion, Placed,
};
use libproto::names::escape;
use libproto::refusal::{Refusal, Unseen};
use libproto::states::RepoState;

use super::Parent;
use super::session::Session;
use super::session::grant::{Grant, RepoLocation};

impl Parent {
    /// The repository process has found a repository.
    pub(super) fn found(&mut self, number: u64, at: FoundAt) {
        let Some(session) = self.table.get(number) else { return };
        let question = session.question();
        let (Some(question), Some(Grant { place: place @ RepoLocation::Unknown, .. })) =
            (question, session.grant_mut())
        else {
            return self.end_session(number, "repository: found what nobody asked for");
        };
        let ask = PlaceQuestion { question, path: at.path.clone() };
        *place = RepoLocation::Asked(at, None);
        self.auth_out.send(&self.auth.channel, number, &ParentToAuth::Place(ask));
    }

    /// Takes the repository process's result: it has opened what it found, could not open it, or
    /// has found nothing.
    pub(super) fn looked(&mut self, number: u64, result: Result<Opened, OpenError>) {
        let Some(session) = self.table.get(number) else { return };
        match (session.grant_mut().map(|grant| &mut grant.place), result) {
            (Some(RepoLocation::Unknown), Err(OpenError::NotFound)) => self.absent(number),
            (Some(RepoLocation::Unknown), Err(OpenError::NoRepository(text))) => {
                // Where it may be made, the outcome of that is what is told.
                if session.permit().is_some_and(|permit| permit.create.is_none()) {
                    session.refused = Some(Refusal::Unreached(text));
                }
                self.absent(number);
            }
            (Some(RepoLocation::Unknown), Err(OpenError::Unreachable(text))) => {
                session.refused = Some(Refusal::Unreached(text));
                self.not_there(number, Unseen::NoSuch);
            }
            (Some(RepoLocation::Unknown), Err(OpenError::Unusable(text))) => {
                self.refuse(number, Refusal::Damaged(text))
            }
            // The repository process gets its answer when `auth` has answered.
            (Some(RepoLocation::Asked(_, told @ None)), result) => *told = Some(result),
            (Some(RepoLocation::Right(_)), result) => self.opened(number, result),
            (Some(RepoLocation::Wrong), _) => {}
            _ => self.end_session(number, "repository: opened what it has not found"),
        }
    }

    /// What `auth` says about the place.
    pub(super) fn placed(&mut self, number: u64, placed: Placed) {
        let Some(session) = self.table.get(number) else { return };
        let place =
            session.grant_mut().map(|grant| std::mem::replace(&mut grant.place, RepoLocation::Unknown));
        let Some(RepoLocation::Asked(at, told)) = place else {
            return self.end_session(number, "a word about a place that nobody asked for");
        };
        let path = Path::new(OsStr::from_bytes(&at.path));
        let objection = match placed {
            Placed::Elsewhere(why) => Some(why),
            Placed::Here => self.settings.recorded.other_path(path, &at.directories).map(|other| {
                let (at, other) = (escape(&at.path), escape(other.as_os_str().as_bytes()));
                format!("{at}: leads to what was {other} when the configuration was loaded, which has a block of its own")
            }),
        };
        if let Some(why) = objection {
            self.set_place(number, RepoLocation::Wrong);
            if let Some(session) = self.table.get(number) {
                session.refused = Some(Refusal::Unreached(why));
            }
            return self.not_there(number, Unseen::NoSuch);
        }
        self.set_place(number, RepoLocation::Right(at));
        if let Some(result) = told {
            self.opened(number, result);
        }
    }

    fn set_place(&mut self, number: u64, place: RepoLocation) {
        if let Some(grant) = self.table.get(number).and_then(Session::grant_mut) {
            grant.place = place;
        }
    }

    /// The right repository was opened, or could not be.
    fn opened(&mut self, number: u64, result: Result<Opened, OpenError>) {
        let Some(session) = self.table.get(number) else { return };
        let opened = match result {
            Ok(opened) => opened,
            Err(OpenError::NotExported) => {
                session.refused = Some(Refusal::Unmarked);
                return self.not_there(number, Unseen::NotExported);
            }
            Err(OpenError::NotDaemon) => {
                session.refused = Some(Refusal::NotDaemon);
                return self.not_there(number, Unseen::NotEnabled);
            }
            Err(OpenError::Unusable(text) | OpenError::Unreachable(text)) => {
                return self.refuse(number, Refusal::Damaged(text));
            }
            Err(OpenError::NotFound | OpenError::NoRepository(_)) => {
                return self.not_there(number, Unseen::NoSuch);
            }
        };
        let Some(Grant { place, permit, ask, own, .. }) = session.grant_mut() else { return };
        *place = match std::mem::replace(place, RepoLocation::Unknown) {
            RepoLocation::Right(at) => RepoLocation::Open(at, opened.clone()),
            other => other,
        };
        // A repository process can take rights away from its own client, and give none.
        let fetch = own.as_ref().map_or(permit.fetch, |own| FetchRules {
            reachable: permit.fetch.reachable && own.fetch.reachable,
            any: permit.fetch.any && own.fetch.any,
            filter: permit.fetch.filter && own.fetch.filter,
        });
        let grant = libproto::message::parent::Grant { hash: opened.hash, fetch };
        let own = own.take();
        let checked = match ask.service {
            Service::UploadPack => self.checked.of(&opened, Instant::now()),
            Service::ReceivePack => Checks::new(),
        };
        session.repo_state = RepoState::Serving;
        let told = session
            .repo
            .running()
            .is_some_and(|c| c.channel.try_send(number, &ParentToRepo::Go(checked)).is_ok())
            && (session.shell().is_some()
                || session
                    .session
                    .running()
                    .is_some_and(|c| c.channel.try_send(number, &ParentToSession::Granted(grant)).is_ok()));
        let pushing = session.is_pushing() && session.shell().is_none();
        if let Some(own) = own {
            self.own_rules(number, own);
        }
        if !told {
            self.end_session(number, "does not listen");
        } else if pushing {
            self.start_verify(number);
        }
    }
}
