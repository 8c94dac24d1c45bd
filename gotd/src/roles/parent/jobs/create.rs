//! Making a repository that a permitted push names and that is not there. One `create` process runs
//! at a time, so that none removes what another is just making; of two pushes to the same name the
//! second finds the repository that the first has made. A process that takes too long, and that
//! cannot be ended because it hangs in a file system, blocks only creations in its own directory.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libproto::message::parent::{
    CreateStart, CreateToParent, CreateToParentKind, Created, Ending, ParentToCreate, ParentToRepo,
};
use libproto::names::escape;
use libproto::refusal::{Refusal, Unseen};
use libproto::states::{CREATE_TO_PARENT, JobState, RepoState, Role, StateTable};

use crate::os::log::Level;
use crate::roles::parent::Parent;
use crate::roles::parent::job::{JobOf, JobReply, JobRole};
use crate::roles::parent::session::Session;
use crate::roles::parent::session::grant::Creation;

/// How long making a repository may take. Its client is told after 30 seconds by its own session,
/// unless configured otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// Role `create`.
#[derive(Debug)]
pub struct Create;

impl JobRole for Create {
    type ToJob = ParentToCreate;
    type FromJob = CreateToParent;
    const ROLE: Role = Role::Create;
    const TABLE: &'static StateTable<JobState, CreateToParentKind> = CREATE_TO_PARENT;
    const PATIENCE: Option<Duration> = Some(PATIENCE);

    fn of(session: &Session) -> Option<&JobOf<Create>> {
        match creation(session) {
            Some(Creation::Running(job)) => Some(job),
            _ => None,
        }
    }

    fn of_mut(session: &mut Session) -> Option<&mut JobOf<Create>> {
        match session.grant_mut()?.creation.as_mut() {
            Some(Creation::Running(job)) => Some(job),
            _ => None,
        }
    }

    fn on_message(parent: &mut Parent, number: u64, message: CreateToParent) -> JobReply {
        match message {
            CreateToParent::Hello(build) => JobReply::Greeting(build),
            CreateToParent::Done(done) => {
                parent.created(number, done);
                JobReply::Last
            }
        }
    }

    /// A process that ended without a result has failed.
    fn ended(parent: &mut Parent, number: u64, ending: Ending) {
        parent.set_creation(number, Creation::Over);
        let Some(session) = parent.table.get(number) else { return };
        if session.repo_state == RepoState::Absent {
            session.refused.get_or_insert_with(|| Refusal::Internal(format!("create {ending}")));
            parent.refuse(number, Refusal::NotCreated);
        }
        parent.start_creation();
    }
}

fn creation(session: &Session) -> Option<&Creation> {
    session.grant()?.creation.as_ref()
}

impl Parent {
    /// The repository of a session is not there: is it to be made?
    pub(in crate::roles::parent) fn absent(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        let Some(grant) = session.grant_mut() else { return };
        match (&grant.creation, grant.permit.create) {
            (None, Some(_)) => {
                grant.creation = Some(Creation::Waiting(Instant::now()));
                session.repo_state = RepoState::Absent;
                self.start_creation();
            }
            (None, None) => self.not_there(number, Unseen::NoSuch),
            (Some(_), _) => {
                // The repository was there a moment ago, by name.
                session.refused = Some(Refusal::NameTaken);
                self.not_there(number, Unseen::NoSuch);
            }
        }
    }

    /// Starts the next one, if none is under way.
    pub(in crate::roles::parent) fn start_creation(&mut self) {
        loop {
            let now = Instant::now();
            let place = |s: &Session| s.permit().map(|permit| permit.repository.place.clone());
            let mut stuck = BTreeSet::new();
            for session in self.table.iter() {
                match creation(session) {
                    Some(Creation::Running(job)) if !job.is_late(now) => return,
                    // It was ended, and hangs in a file system that does not answer.
                    Some(Creation::Running(_)) => stuck.extend(place(session)),
                    _ => {}
                }
            }
            let is_free = |session: &Session| place(session).is_none_or(|place| !stuck.contains(&place));
            let waiting = self.table.iter().filter_map(|s| match creation(s) {
                Some(Creation::Waiting(since)) if s.session.running().is_some() && is_free(s) => {
                    Some((*since, s.number))
                }
                _ => None,
            });
            let Some((_, number)) = waiting.min() else { return };
            if !self.start_create(number) {
                self.set_creation(number, Creation::Over);
                self.refuse(number, Refusal::NotCreated);
            }
        }
    }

    fn start_create(&mut self, number: u64) -> bool {
        let Some(session) = self.table.get(number) else { return false };
        let Some(permit) = session.permit() else { return false };
        let (Some(name), Some(rules)) = (permit.repository.below.clone(), permit.create) else {
            return false;
        };
        let who = permit.counted.clone();
        let (path, place) = (permit.repository.path.clone(), permit.repository.place.clone());
        let start = CreateStart { path, place, name, who, rules };
        match self.start_job::<Create>(number, Vec::new(), &ParentToCreate::Start(start)) {
            Ok((job, _)) => {
                self.set_creation(number, Creation::Running(job));
                true
            }
            Err(e) => {
                if let Some(session) = self.table.get(number) {
                    session.refused = Some(Refusal::Internal(format!("create: {e}")));
                }
                false
            }
        }
    }

    fn set_creation(&mut self, number: u64, creation: Creation) {
        if let Some(grant) = self.table.get(number).and_then(Session::grant_mut) {
            grant.creation = Some(creation);
        }
    }

    /// Takes the result of a creation: the repository process looks for the repository again, or
    /// the client gets the refusal.
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
                self.send_to_repo(number, &ParentToRepo::Again(()));
            }
            Created::Refused(why) => {
                // The answer is that of a repository that is not there, and it is true.
                session.refused = Some(why);
                self.not_there(number, Unseen::NoSuch);
            }
            Created::Failed(refusal) => self.refuse(number, refusal),
        }
    }

    fn log_created(&mut self, number: u64) {
        self.metrics.created();
        let Some(session) = self.table.get(number) else { return };
        let Some(permit) = session.permit() else { return };
        let name = permit.repository.below.as_ref().map(|name| name.with_suffix()).unwrap_or_default();
        let path = [&permit.repository.place, b"/".as_slice(), &name].concat();
        let repository = session.ask().map(|a| escape(a.repository.as_bytes())).unwrap_or_default();
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
