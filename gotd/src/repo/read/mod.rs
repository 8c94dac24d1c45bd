//! `repo_read`: reads one repository for one client that fetches.
//!
//! Duty: answer what the session asks about references, wants and haves, and write the pack
//! straight to the client. Waits on: the session's questions, then on the client's pipe. Talks to:
//! the session, and the client one way.
//!
//! **Invariant:** reads no byte that a client wrote except object ids and names in typed messages,
//! and treats the session as if it had been taken over: [`READ_STATES`] says which message is
//! allowed when, and every want is judged here.

pub(crate) mod budget;
mod pack_out;
mod queue;
pub(crate) mod refs;

use std::os::fd::AsFd;
use std::time::Duration;

use libgit::{Deepen, DeepenLine, Depth, ObjectId};
use libproto::channel::{Channel, Message, Received, RecvError};
use libproto::limits::Counted;
use libproto::message::parent::{FetchRules, Negotiation as NegotiationTime, RepoReport, SessionStart};
use libproto::message::repo::{
    BATCH_IDS, BoundaryBatch, HaveStatus, Haves, PackAsk, PackReport, READ_STATES, ReadState, RepoToSession,
    SessionToRepo,
};
use libproto::names::escape;
use libproto::refusal::Refusal;
use libproto::request;
use libproto::states::allowed;
use librepo::alternates::Withheld;
use librepo::error::Error;
use librepo::fetch::{Fetch, FetchLimits, PackOptions, Policy, WantError};
use librepo::id::IdSet;
use librepo::repository::Repository;

use crate::os::watchdog::{self, Phase};
use crate::repo::lacking;
use crate::session::pipes;
use budget::Budget;
use pack_out::PackOut;
pub use queue::PackQueue;
use refs::{Advertised, ListExtras};

/// The repository's end of the link to its session.
pub type Session = Channel<RepoToSession, SessionToRepo>;

/// The grant, with the limits of the work for it.
#[derive(Debug)]
pub struct Grant<'a> {
    /// What fetches may ask for.
    pub rules: FetchRules,
    /// Reference namespaces that do not exist for this client.
    pub hidden: &'a [Vec<u8>],
    /// Limits of one request.
    pub limits: &'a SessionStart,
    /// Threads that may work on one pack.
    pub threads: usize,
    /// Bytes of objects to keep, for each thread.
    pub cache_bytes: usize,
    /// Why alternates were left out, if any were: a missing object is told with that.
    pub withheld: Option<Withheld>,
    /// The queue that says when a pack may be made; `None`: at once.
    pub queue: Option<PackQueue<'a>>,
    /// Processor time that may be used beside packs.
    pub negotiation: NegotiationTime,
}

/// Why the session is not answered any more.
#[derive(Debug)]
enum Broken {
    /// It has closed its end: the conversation is over.
    Closed,
    /// It broke a rule, or the link failed: the reason, for the log.
    Rule(String),
}

/// Answers one session until it closes its end. `output`: where the client reads.
pub fn serve(
    link: &Session,
    repository: &Repository,
    grant: &Grant<'_>,
    output: pipes::Output,
) -> RepoReport {
    let mut server = Server {
        link,
        repository,
        grant,
        state: ReadState::Idle,
        advertised: Advertised::new(repository, grant.hidden),
        negotiation: None,
        before: None,
        haves_left: grant.limits.haves.into(),
        looks_left: LOOKS,
        output,
        report: RepoReport::default(),
        reopenings: REOPENINGS,
        budget: Budget::new(&grant.negotiation),
    };
    watchdog::phase(Phase::Off);
    let end = loop {
        if let Err(broken) = server.step() {
            break broken;
        }
    };
    server.note_troubles();
    let mut report = server.report;
    report.negotiated = budget::milliseconds(server.budget.used());
    if let Broken::Rule(text) = end {
        report.refusal = Some(Refusal::Internal(text));
    }
    report
}

/// Answers a session's first question in place of a repository that turned out not to be readable.
pub fn refuse(link: &Session, text: &str) -> RepoReport {
    let text: String = escape(text.as_bytes()).chars().take(500).collect();
    if link.recv().is_ok() {
        let _ = link.send(0, &RepoToSession::Refused(Refusal::Damaged(text.clone())));
    }
    RepoReport { refusal: Some(Refusal::Damaged(text)), ..RepoReport::default() }
}

/// How often on one connection the process checks whether enough commits are common. Each check may
/// cost a walk over much of the history, and a client could ask for one with each of its haves.
/// Beyond this number the answer is "not yet".
const LOOKS: u32 = 2_000;

/// One negotiation.
struct Negotiation<'a> {
    fetch: Fetch<'a>,
    /// Depth, time and references to cut at; applied when the request is complete.
    depth: Option<Depth>,
    since: Option<u64>,
    nots: Vec<ObjectId>,
    /// Whether enough is common, if it was looked at since the last new common object.
    ready: Option<bool>,
    commons: IdSet,
    looks_left: u32,
}

struct Server<'a> {
    link: &'a Session,
    repository: &'a Repository,
    grant: &'a Grant<'a>,
    state: ReadState,
    advertised: Advertised<'a>,
    negotiation: Option<Negotiation<'a>>,
    /// The fetch before: what it learnt about the repository serves the next one.
    before: Option<Fetch<'a>>,
    /// Haves that may still come on this connection.
    haves_left: u64,
    /// How many checks for enough common commits are left.
    looks_left: u32,
    output: pipes::Output,
    report: RepoReport,
    /// How often the repository may still be opened again.
    reopenings: u32,
    budget: Budget,
}

/// References to objects that are nowhere make every list open the repository again.
const REOPENINGS: u32 = 8;

impl<'a> Server<'a> {
    /// Takes one question and answers it.
    fn step(&mut self) -> Result<(), Broken> {
        let question = self.receive()?;
        if !allowed(READ_STATES, self.state, question.kind()) {
            return Err(Broken::Rule(format!("session: {} in state {:?}", question.name(), self.state)));
        }
        watchdog::phase(Phase::Work);
        let used = self.budget.used();
        let answer = match question {
            // These have limits of their own, and are never kept from being made by what came
            // before.
            SessionToRepo::Pack(_) => {
                let answer = self.answer(question);
                self.budget.spare_since(used);
                answer
            }
            _ => self.negotiate(question, used),
        };
        watchdog::phase(Phase::Off);
        match answer? {
            Ok(answer) => self.send(&answer),
            Err(refusal) => {
                let refusal = self.for_client(refusal);
                self.report.refusal = Some(refusal.clone());
                self.send(&RepoToSession::Refused(refusal))
            }
        }
    }

    /// Answers within the connection's processor time. A client that has used much of it waits for
    /// a turn before each further part, in the same queue as packs.
    fn negotiate(
        &mut self,
        question: SessionToRepo,
        used: Duration,
    ) -> Result<Result<RepoToSession, Refusal>, Broken> {
        if let Some(refusal) = self.budget.spent(used) {
            return Ok(Err(refusal.clone()));
        }
        let queue = self.grant.queue.as_ref().filter(|_| self.budget.needs_turn(used));
        if let Some(queue) = queue {
            if let Err(refusal) = queue.turn(self.link.as_fd(), budget::milliseconds(used)) {
                return if refusal == Refusal::ClientGone { Err(Broken::Closed) } else { Ok(Err(refusal)) };
            }
            self.budget.turn(used);
        }
        self.budget.begin();
        let answer = self.answer(question);
        self.budget.end();
        if let Some(queue) = queue {
            queue.end();
        }
        answer
    }

    /// Keeps for the log what was found wrong with references, each once.
    fn note_troubles(&mut self) {
        for text in self.advertised.take_troubles() {
            if !self.report.warnings.contains(&text) {
                self.report.warnings.push(text);
            }
        }
    }

    /// A refusal in the words for the client: if an object is missing, with the reason.
    fn for_client(&self, refusal: Refusal) -> Refusal {
        lacking::explain(self.repository.store(), self.grant.withheld, refusal)
    }

    fn receive(&self) -> Result<SessionToRepo, Broken> {
        loop {
            match self.link.recv() {
                Ok(Received { message, .. }) => return Ok(message),
                Err(e) if e.is_transient() => {}
                Err(RecvError::Closed) => return Err(Broken::Closed),
                Err(e) => return Err(Broken::Rule(format!("session: {e}"))),
            }
        }
    }

    fn send(&self, answer: &RepoToSession) -> Result<(), Broken> {
        self.link.send(0, answer).map_err(|_| Broken::Closed)
    }

    /// The outer error ends the session, the inner one is told to it.
    fn answer(&mut self, question: SessionToRepo) -> Result<Result<RepoToSession, Refusal>, Broken> {
        Ok(match question {
            SessionToRepo::Prefixes(more) => {
                self.state = ReadState::Listing;
                self.advertised.prefixes(more.prefixes, self.grant.limits.prefixes).map(RepoToSession::Done)
            }
            SessionToRepo::List(ask) => {
                self.state = ReadState::Idle;
                return self.list(ask);
            }
            SessionToRepo::Begin(begin) => self.begin(begin.v2).map(RepoToSession::Done),
            SessionToRepo::Wants(ids) => self.wants(&ids).map(RepoToSession::Done),
            SessionToRepo::Shallows(ids) => self.shallows(&ids).map(RepoToSession::Done),
            SessionToRepo::Deepen(line) => self.deepen(line).map(RepoToSession::Done),
            SessionToRepo::Bound(relative) => return self.bound(relative),
            SessionToRepo::Haves(haves) => self.haves(&haves).map(RepoToSession::Haved),
            SessionToRepo::Judge(()) => self.judge().map(RepoToSession::Ready),
            SessionToRepo::Pack(ask) => self.pack(&ask).map(RepoToSession::Packed),
        })
    }

    fn list(
        &mut self,
        ask: libproto::message::repo::ListAsk,
    ) -> Result<Result<RepoToSession, Refusal>, Broken> {
        let looked = match self.look(ask) {
            Ok(looked) => looked,
            Err(error) => return Ok(Err(broken(error))),
        };
        let mut last = None;
        for batch in self.advertised.batches(looked) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Ok(Err(broken(error))),
            };
            if let Some(before) = last.replace(RepoToSession::Refs(batch)) {
                self.send(&before)?;
            }
        }
        Ok(last.ok_or_else(|| Refusal::Damaged("references: none".into())))
    }

    /// Reads the references. Where one names an object that is not there, it came after the
    /// repository was opened: a push is under way, or everything is packed anew. Then the
    /// repository is opened again.
    fn look(&mut self, ask: libproto::message::repo::ListAsk) -> Result<ListExtras, Error> {
        let prefixes = self.advertised.taken_prefixes();
        loop {
            let looked = self.advertised.look(ask)?;
            let store = self.repository.store();
            let stale = self.reopenings > 0 && store.is_stale();
            let absent = |id: ObjectId| !store.contains(&id);
            let missing = || self.advertised.seen().flatten().any(|r| r.target().is_some_and(absent));
            if !stale || !missing() {
                return Ok(looked);
            }
            self.reopenings -= 1;
            (self.before, self.negotiation) = (None, None);
            // What was opened before may be in use still, and goes with this process.
            self.repository = Box::leak(Box::new(self.repository.reopen()?));
            self.note_troubles();
            self.advertised = Advertised::new(self.repository, self.grant.hidden);
            self.advertised.prefixes(prefixes.clone(), u32::MAX).map_err(|e| Error::Limit(e.to_string()))?;
        }
    }

    fn begin(&mut self, v2: bool) -> Result<(), Refusal> {
        self.state = ReadState::Idle;
        if let Some(before) = self.negotiation.take() {
            self.looks_left = before.looks_left;
            self.before = Some(before.fetch);
        }
        let policy = match self.grant.rules {
            FetchRules { any: true, .. } => Policy::Any,
            FetchRules { reachable: true, .. } => Policy::Reachable,
            _ if v2 => Policy::Reachable,
            _ => Policy::Advertised,
        };
        let limits = FetchLimits {
            cache_bytes: self.grant.cache_bytes,
            wants: usize::try_from(self.grant.limits.wants).unwrap_or(usize::MAX),
        };
        let tips = self.advertised.tips().map_err(broken)?;
        let fetch = match self.before.take() {
            Some(before) => before.again(tips, policy, limits),
            None => Fetch::new(self.repository, tips, policy, limits),
        };
        let mut fetch = fetch.map_err(broken)?;
        if v2 {
            fetch.haves_come_first();
        }
        let (depth, since, nots, ready, commons) = (None, None, Vec::new(), None, IdSet::default());
        let looks_left = self.looks_left;
        self.negotiation = Some(Negotiation { fetch, depth, since, nots, ready, commons, looks_left });
        self.state = ReadState::Needs;
        Ok(())
    }

    fn negotiation(&mut self) -> Result<&mut Negotiation<'a>, Refusal> {
        self.negotiation.as_mut().ok_or_else(|| Refusal::Internal("no negotiation under way".into()))
    }

    fn wants(&mut self, ids: &[ObjectId]) -> Result<(), Refusal> {
        if ids.iter().any(ObjectId::is_null)
            && let Some(text) = self.advertised.damaged()
        {
            return Err(Refusal::Damaged(text));
        }
        let negotiation = self.negotiation()?;
        for id in ids {
            negotiation.fetch.want(*id).map_err(|error| match error {
                WantError::NotFound | WantError::NotAllowed => Refusal::NotFound(*id),
                WantError::TooMany(limit) => Refusal::TooMany(Counted::Wants, limit as u64),
                WantError::Repository(error) => broken(error),
            })?;
        }
        Ok(())
    }

    fn shallows(&mut self, ids: &[ObjectId]) -> Result<(), Refusal> {
        let negotiation = self.negotiation()?;
        for id in ids {
            negotiation.fetch.shallow(*id).map_err(broken)?;
        }
        Ok(())
    }

    fn deepen(&mut self, line: DeepenLine) -> Result<(), Refusal> {
        let not = match &line {
            DeepenLine::Not(name) => Some(self.advertised.resolve(name)?),
            _ => None,
        };
        let negotiation = self.negotiation()?;
        match line {
            DeepenLine::Depth(depth) => negotiation.depth = Some(depth),
            DeepenLine::Since(time) => negotiation.since = Some(time),
            DeepenLine::Not(_) => {
                let most = request::RequestLimits::default().deepen_nots;
                if negotiation.nots.len() as u64 >= most {
                    return Err(Refusal::TooMany(Counted::DeepenNots, most));
                }
                negotiation.nots.extend(not);
            }
        }
        Ok(())
    }

    fn bound(&mut self, relative: bool) -> Result<Result<RepoToSession, Refusal>, Broken> {
        let boundary = match self.resolve_boundary(relative) {
            Ok(boundary) => boundary,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.state = ReadState::Common;
        let mut ids = boundary
            .shallow
            .iter()
            .map(|id| (true, id))
            .chain(boundary.unshallow.iter().map(|id| (false, id)));
        loop {
            let mut batch = BoundaryBatch { shallow: Vec::new(), unshallow: Vec::new(), last: false };
            for (shallow, id) in ids.by_ref().take(BATCH_IDS) {
                if shallow { &mut batch.shallow } else { &mut batch.unshallow }.push(*id);
            }
            if batch.shallow.len() + batch.unshallow.len() < BATCH_IDS {
                batch.last = true;
                return Ok(Ok(RepoToSession::Boundary(batch)));
            }
            self.send(&RepoToSession::Boundary(batch))?;
        }
    }

    fn resolve_boundary(&mut self, relative: bool) -> Result<librepo::fetch::ShallowInfo, Refusal> {
        let negotiation = self.negotiation()?;
        let (depth, since, not) =
            (negotiation.depth, negotiation.since, std::mem::take(&mut negotiation.nots));
        match (depth, since.is_some() || !not.is_empty()) {
            (Some(_), true) => {
                return Err(Refusal::Malformed("deepen and deepen-since cannot be used together".into()));
            }
            (Some(depth), false) => negotiation.fetch.deepen(Deepen::Depth { depth, relative }),
            (None, true) => negotiation.fetch.deepen(Deepen::Since { since, not }),
            (None, false) => {}
        }
        negotiation.fetch.shallow_info().map_err(broken)
    }

    fn haves(&mut self, haves: &Haves) -> Result<Vec<HaveStatus>, Refusal> {
        let limit = || Refusal::TooMany(Counted::Haves, self.grant.limits.haves.into());
        self.haves_left = self.haves_left.checked_sub(haves.ids.len() as u64).ok_or_else(limit)?;
        let negotiation = self.negotiation()?;
        let mut statuses = Vec::with_capacity(haves.ids.len());
        for id in &haves.ids {
            statuses.push(if !negotiation.fetch.have(*id).map_err(broken)? {
                if haves.judge && negotiation.ready()? { HaveStatus::Ready } else { HaveStatus::Missing }
            } else if negotiation.commons.insert(*id) {
                negotiation.ready = None;
                HaveStatus::Common
            } else {
                HaveStatus::Known
            });
        }
        Ok(statuses)
    }

    fn judge(&mut self) -> Result<bool, Refusal> {
        self.negotiation()?.ready()
    }

    fn pack(&mut self, ask: &PackAsk) -> Result<PackReport, Refusal> {
        if ask.filter.is_some() && !self.grant.rules.filter {
            return Err(Refusal::Malformed("filter: not offered".into()));
        }
        let Some(mut negotiation) = self.negotiation.take() else {
            return Err(Refusal::Internal("no negotiation under way".into()));
        };
        self.state = ReadState::Idle;
        self.looks_left = negotiation.looks_left;
        negotiation.fetch.options(PackOptions {
            thin: ask.thin,
            ofs_delta: ask.ofs_delta,
            include_tag: ask.include_tag,
            filter: ask.filter,
        });
        // The session may have made it small since the last pack.
        self.output.begin();
        let mut out = PackOut::new(&mut self.output, ask.side_band, ask.progress, self.grant.queue);
        // Not sooner: the client reads a pack, and is told in its place.
        if let Some(Err(text)) =
            ask.filter.as_ref().map(|filter| self.repository.safeguards().permits(filter))
        {
            out.fail(&text);
            return Err(Refusal::Malformed(text));
        }
        let written = negotiation.fetch.write_pack(&mut out, self.grant.threads.max(1));
        self.report.warnings.extend(negotiation.fetch.take_log());
        self.before = Some(negotiation.fetch);
        out.release();
        let result = match written {
            Ok(stats) => {
                self.report.objects = self.report.objects.saturating_add(stats.objects);
                self.report.bytes = self.report.bytes.saturating_add(stats.bytes);
                out.finish().map(|()| PackReport { objects: stats.objects, bytes: stats.bytes })
            }
            Err(error) => {
                let refusal = lacking::explain(self.repository.store(), self.grant.withheld, broken(error));
                out.fail(&refusal.to_string());
                return Err(refusal);
            }
        };
        result.map_err(|error| broken(Error::Io(error)))
    }
}

impl Negotiation<'_> {
    /// Whether enough is common; looked at again only after something new was.
    fn ready(&mut self) -> Result<bool, Refusal> {
        if let Some(known) = self.ready {
            return Ok(known);
        }
        let Some(left) = self.looks_left.checked_sub(1) else { return Ok(false) };
        self.looks_left = left;
        let ready = self.fetch.ready().map_err(broken)?;
        self.ready = Some(ready);
        Ok(ready)
    }
}

/// An error of the repository for its client: one line without control bytes, paths relative.
fn broken(error: Error) -> Refusal {
    match error {
        Error::Missing(id) => Refusal::Missing(id),
        Error::Io(e) => Refusal::carried_by(&e).cloned().unwrap_or(Refusal::ClientGone),
        error => Refusal::Damaged(escape(error.to_string().as_bytes()).chars().take(500).collect()),
    }
}
