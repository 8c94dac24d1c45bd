//! Listing the repositories in a directory, for a request of self-service: a `list` process looks
//! into one after the other.

use std::time::Duration;

use libproto::message::parent::{
    Ending, Filter, ListStart, ListToParent, ListToParentKind, ListedRepository, ParentToAuth, ParentToList,
    SeenRoot, Who,
};
use libproto::names::RepoName;
use libproto::states::{JobState, LIST_TO_PARENT, Role, StateTable};

use crate::os::log::Level;
use crate::roles::parent::Parent;
use crate::roles::parent::job::{JobOf, JobReply, JobRole};
use crate::roles::parent::session::Session;

/// How long one directory may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Role `list`.
#[derive(Debug)]
pub struct List;

impl JobRole for List {
    type ToJob = ParentToList;
    type FromJob = ListToParent;
    const ROLE: Role = Role::List;
    const TABLE: &'static StateTable<JobState, ListToParentKind> = LIST_TO_PARENT;
    const PATIENCE: Option<Duration> = Some(PATIENCE);

    fn on_message(parent: &mut Parent, number: u64, message: ListToParent) -> JobReply {
        match message {
            ListToParent::Hello(build) => JobReply::Greeting(build),
            ListToParent::Names(batch) => {
                parent.listed(number, batch);
                JobReply::More
            }
            ListToParent::Done(whole) => {
                if let Some(overview) = parent.table.get(number).and_then(Session::overview_mut) {
                    overview.incomplete |= !whole;
                }
                JobReply::Last
            }
        }
    }

    /// A `list` process that has not sent its last message has ended early.
    fn ended(parent: &mut Parent, number: u64, _: Ending) {
        let Some(session) = parent.table.get(number) else { return };
        let job: Option<JobOf<List>> = session.kept.take();
        let Some(overview) = session.overview_mut() else { return };
        overview.incomplete |= !job.is_some_and(|job| job.is_done());
        parent.shell_goes_on(number);
    }
}

impl Parent {
    /// Starts the process that lists a directory. Where it cannot be started, the answer leaves
    /// something out.
    pub(in crate::roles::parent) fn start_list(&mut self, number: u64, root: SeenRoot) -> bool {
        let start = ListStart { path: root.path.clone(), place: root.place.clone() };
        let started = self.start_job::<List>(number, Vec::new(), &ParentToList::Start(start));
        let Some(session) = self.table.get(number) else { return false };
        let Some(overview) = session.overview_mut() else { return false };
        match started {
            Ok((job, _)) => {
                overview.current = Some(root);
                session.kept.keep(job);
                true
            }
            Err(e) => {
                overview.incomplete = true;
                self.log.line(Level::Warning, Role::List.name(), &[("session", &number), ("error", &e)]);
                false
            }
        }
    }

    /// Takes repositories that a `list` process found, and asks `auth` which of them the user may
    /// see.
    fn listed(&mut self, number: u64, batch: Vec<ListedRepository>) {
        let Some(session) = self.table.get(number) else { return };
        let (peer, told_user) = (session.peer().cloned(), session.told_user().ok().flatten());
        let (Some(peer), Some(overview)) = (peer, session.overview_mut()) else { return };
        let Some(root) = &overview.current else { return };
        // A repository that was recorded for another path is listed under that path.
        let recorded = &self.settings.recorded;
        let own = |found: &ListedRepository| {
            recorded.other_path_below(&root.place, found.below.as_bytes(), &found.directories).is_none()
        };
        let prefixed = |name: &RepoName| match &root.prefix {
            None => Some(name.clone()),
            Some(prefix) => RepoName::parse(&[prefix.as_bytes(), b"/", name.as_bytes()].concat()).ok(),
        };
        let names = batch.into_iter().filter(own);
        let names = names.filter_map(|found| Some((prefixed(&found.name)?, found.below))).collect();
        let filter = Filter { who: Who { peer, told_user }, place: root.place.clone(), names };
        overview.pending = overview.pending.saturating_add(1);
        self.auth_out.send(&self.auth.channel, number, &ParentToAuth::Filter(filter));
    }
}
