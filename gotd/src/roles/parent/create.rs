//! Making a repository that a permitted push names and that is not there: one `create` process at a time, so that none
//! removes what another is just making, and of two pushes to one name the second finds the first one's. One that takes too
//! long, and that the system does not let go of, keeps only its own directory from others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libproto::channel::{Message, RecvError};
use libproto::message::parent::{CreateStart, CreateToParent, Created, ParentToCreate, ParentToRepo};
use libproto::names::escape;
use libproto::states::{self, CREATE_TO_PARENT, JobState, RepoState, Role};
use nix::sys::signal::{Signal, kill};

use super::table::{CreateChild, Creation, Session};
use super::{NO_SUCH, Parent, same_build};
use crate::os::log::Level;

/// How long making a repository may take. Its client is told after 30 seconds by its own session, unless configured
/// otherwise.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the client is told when it cannot even be tried.
const NOT_CREATED: &str = "the repository cannot be created";

impl Parent {
    /// The repository of a session is not there: is it to be made?
    pub(super) fn absent(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        match (&session.creation, session.permit.as_ref().and_then(|permit| permit.create)) {
            (None, Some(_)) => {
                session.repo_state = RepoState::Absent;
                session.creation = Some(Creation::Waiting(Instant::now()));
                self.give_creations();
            }
            (None, None) => self.not_there(number, NO_SUCH),
            (Some(_), _) => {
                // It was there a moment ago, by name.
                session.refused =
                    Some("something that is no repository has the name of one to be created".into());
                self.not_there(number, NO_SUCH);
            }
        }
    }

    /// Starts the next one, if none is under way.
    pub(super) fn give_creations(&mut self) {
        loop {
            let now = Instant::now();
            let place = |s: &Session| s.permit.as_ref().map(|permit| permit.repository.place.clone());
            let mut stuck = BTreeSet::new();
            for session in self.table.iter() {
                match session.creation {
                    Some(Creation::Running { until, .. }) if until > now => return,
                    // It was ended, and hangs in a file system that does not answer.
                    Some(Creation::Running { .. }) => stuck.extend(place(session)),
                    _ => {}
                }
            }
            let is_free = |session: &Session| place(session).is_none_or(|place| !stuck.contains(&place));
            let waiting = self.table.iter().filter_map(|s| match s.creation {
                Some(Creation::Waiting(since)) if s.session.running().is_some() && is_free(s) => {
                    Some((since, s.number))
                }
                _ => None,
            });
            let Some((_, number)) = waiting.min() else { return };
            if !self.start_create(number) {
                if let Some(session) = self.table.get(number) {
                    session.creation = Some(Creation::Over);
                }
                self.refuse(number, NOT_CREATED);
            }
        }
    }

    fn start_create(&mut self, number: u64) -> bool {
        let flags = self.settings.flags();
        let Some(session) = self.table.get(number) else { return false };
        let Some(permit) = &session.permit else { return false };
        let (Some(name), Some(rules)) = (permit.repository.below.clone(), permit.create) else {
            return false;
        };
        let who = permit.counted.clone();
        let (path, place) = (permit.repository.path.clone(), permit.repository.place.clone());
        let start = CreateStart { path, place, name, who, rules };
        let child: CreateChild = match self.starter.start(Role::Create, &flags, &[]) {
            Ok(child) => child,
            Err(e) => {
                session.refused = Some(format!("create: {e}"));
                return false;
            }
        };
        // The socket is empty: there is room for one message.
        let _ = child.channel.try_send(0, number, &ParentToCreate::Start(start));
        self.complaints.watch(child.pid, Role::Create, &child.stderr);
        let until = Instant::now() + PATIENCE;
        session.creation = Some(Creation::Running { child, state: JobState::Starting, until });
        true
    }

    /// What the create process of a session says.
    pub(super) fn on_create(&mut self, number: u64) {
        loop {
            let Some(session) = self.table.get(number) else { return };
            let Some(Creation::Running { child, state, .. }) = &mut session.creation else { return };
            let message = match child.channel.try_recv() {
                Ok(received) => received.message,
                Err(e) if e.is_transient() => return,
                Err(RecvError::Closed) => {
                    *state = JobState::Finished;
                    return;
                }
                Err(e) => return self.end_session(number, &format!("create: {e}")),
            };
            if !states::allowed(CREATE_TO_PARENT, *state, message.kind()) {
                let text = format!("create: {} in state {state:?}", message.name());
                return self.end_session(number, &text);
            }
            match message {
                CreateToParent::Hello(build) if same_build(&build) => *state = JobState::Working,
                CreateToParent::Hello(_) => return self.end_session(number, "create: another build"),
                CreateToParent::Done(done) => {
                    *state = JobState::Finished;
                    self.created(number, done);
                }
            }
        }
    }

    /// What became of it: the repository process looks again, or the client is told.
    fn created(&mut self, number: u64, done: Created) {
        if done == Created::Made {
            self.log_created(number);
        }
        let Some(session) = self.table.get(number) else { return };
        if session.repo_state != RepoState::Absent {
            return;
        }
        match done {
            Created::Made | Created::Exists => {
                session.repo_state = RepoState::Opening;
                self.tell_repo(number, &ParentToRepo::Again(()));
            }
            Created::Refused(why) => {
                // As if it were not there, which it is not.
                session.refused = Some(why);
                self.not_there(number, NO_SUCH);
            }
            Created::Failed(text) => self.refuse(number, &text),
        }
    }

    /// The create process of a session has ended. One that has not said what it did has failed.
    pub(super) fn create_ended(&mut self, number: u64, ending: &dyn std::fmt::Display) {
        let Some(session) = self.table.get(number) else { return };
        session.creation = Some(Creation::Over);
        if session.repo_state == RepoState::Absent {
            session.refused.get_or_insert_with(|| format!("create {ending}"));
            self.refuse(number, NOT_CREATED);
        }
        self.give_creations();
    }

    /// Ends one that takes too long.
    pub(super) fn expire_creations(&mut self) {
        let now = Instant::now();
        for session in self.table.iter() {
            if let Some(Creation::Running { child, until, .. }) = &session.creation
                && *until <= now
            {
                let _ = kill(child.pid, Signal::SIGKILL);
            }
        }
        self.give_creations();
    }

    fn log_created(&mut self, number: u64) {
        self.metrics.created();
        let Some(session) = self.table.get(number) else { return };
        let Some(permit) = &session.permit else { return };
        let name = permit.repository.below.as_ref().map(|name| name.with_suffix()).unwrap_or_default();
        let path = [&permit.repository.place, b"/".as_slice(), &name].concat();
        let repository = session.ask.as_ref().map(|a| escape(a.repository.as_bytes())).unwrap_or_default();
        let fields: [(&str, &dyn std::fmt::Display); 5] = [
            ("number", &number),
            ("who", &permit.identity),
            ("repository", &repository),
            ("path", &escape(&path)),
            ("rule", &permit.rule),
        ];
        self.log.line(Level::Info, "created", &fields);
    }
}
