//! Turns for costly work: what repository and verify processes ask for, and what they and their
//! clients are told. The choice is made in [`queue`](super::queue).

use std::time::{Duration, Instant};

use libproto::message::parent::{PackWait, ParentToRepo, ParentToVerify, Peer, Pool};
use libproto::refusal::Refusal;

use super::Parent;
use super::jobs::verify::Verify;
use super::queue::{self, Contender, Party, Rules, Stage, Turn, Wait, Work};
use super::session::Session;
use super::session::table::SessionTable;
use crate::conf::limits::Limit;
use crate::os::log::Level;

/// A client that waits is told how many do when that has changed, at most this often.
const TELL: Duration = Duration::from_secs(5);

/// Turns of one kind of work, by how far they are.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// With a place.
    pub running: usize,
    /// Turns that wait.
    pub waiting: usize,
    /// That wait for their client.
    pub stalled: usize,
}

/// Packs for git:// clients.
pub fn git_packs(table: &SessionTable) -> Counts {
    count(table.iter().filter(|s| matches!(s.peer(), Some(Peer::Tcp { .. }))), Work::Pack)
}

fn count<'s>(sessions: impl Iterator<Item = &'s Session>, work: Work) -> Counts {
    let mut counts = Counts::default();
    for turn in sessions.filter_map(Session::turn).filter(|turn| turn.work == work) {
        match turn.stage {
            Stage::Running => counts.running += 1,
            Stage::Waiting(_) => counts.waiting += 1,
            Stage::Copying | Stage::Stalled | Stage::Refused => counts.stalled += 1,
        }
    }
    counts
}

impl Parent {
    /// A process is about to do costly work, for which it takes so many bytes of memory; or it
    /// wants to go on with work that had stalled, perhaps with more memory.
    pub(super) fn need_turn(&mut self, number: u64, work: Work, memory: u64) {
        let most = self.settings.turns.memory;
        let Some(session) = self.table.get(number) else { return };
        let fits = session.is_push() == (work == Work::Push);
        let need = memory.min(most);
        let grant = session.grant_mut();
        match grant.map(|grant| &mut grant.turn) {
            Some(turn @ None) if fits => *turn = Some(Turn::asked(work, need)),
            Some(Some(turn)) if turn.stage == Stage::Refused => return,
            Some(Some(turn)) if fits && matches!(turn.stage, Stage::Running | Stage::Stalled) => {
                turn.ask_again(need);
            }
            _ => return self.end_session(number, "repository: asked for a turn where it may not"),
        }
        self.start_turns();
        let contenders = self.contenders();
        if let Some(late) = queue::gives_way(&contenders, number, self.settings.turns.queue) {
            let limit = Limit::PacksQueue;
            let most = self.settings.turns.queue;
            self.refuse_turn(late, &format!("too many packs wait to be made: at most {most}"), limit);
        }
        let fresh = |turn: Turn| turn.work == Work::Pack && turn.wait().is_some() && turn.begun.is_none();
        let waits = |session: &mut Session| {
            session.turn().is_some_and(fresh) && matches!(session.peer(), Some(Peer::Tcp { .. }))
        };
        if self.table.get(number).is_some_and(waits) {
            self.metrics.git.queued = self.metrics.git.queued.saturating_add(1);
        }
        self.report_waits();
    }

    /// The client of a turn does not take more, or gives no more: others may have its place. It
    /// keeps so many bytes of memory.
    pub(super) fn turn_stalled(&mut self, number: u64, memory: u64) {
        let Some(session) = self.table.get(number) else { return };
        match session.turn_mut() {
            Some(turn) if matches!(turn.stage, Stage::Running | Stage::Copying) => turn.stall(memory),
            Some(turn) if turn.stage == Stage::Refused => return,
            _ => return self.end_session(number, "repository: gave up a turn that it did not have"),
        }
        self.start_turns();
    }

    /// The pack is only copied from here on, or its client takes more of it again: that needs no
    /// place.
    pub(super) fn turn_copies(&mut self, number: u64, memory: u64) {
        let Some(session) = self.table.get(number) else { return };
        match session.turn_mut() {
            Some(turn) if matches!(turn.stage, Stage::Running | Stage::Stalled) => turn.copies(memory),
            Some(turn) if turn.stage == Stage::Refused => return,
            _ => return self.end_session(number, "repository: copies in a turn that it did not have"),
        }
        self.start_turns();
    }

    /// The work is done, or its client is gone.
    pub(super) fn turn_over(&mut self, number: u64) {
        if let Some(session) = self.table.get(number) {
            session.end_turn();
        }
        self.start_turns();
    }

    fn does_a_turn_wait(&self) -> bool {
        self.table.iter().filter_map(Session::turn).any(|turn| turn.wait().is_some())
    }

    /// Lets turns begin, as many as may.
    pub(super) fn start_turns(&mut self) {
        if !self.does_a_turn_wait() {
            return;
        }
        loop {
            let contenders = self.contenders();
            let Some(contender) = queue::next(&contenders, self.rules(), &self.turns) else { return };
            let (number, party, work) = (contender.number, contender.party.clone(), contender.turn.work);
            let Some(turn) = self.table.get(number).and_then(Session::turn_mut) else { return };
            turn.begin();
            queue::remember(&mut self.turns, party);
            match work {
                Work::Pack => self.send_to_repo(number, &ParentToRepo::Pack(())),
                Work::Push => self.send_to_job::<Verify>(number, &ParentToVerify::Turn(())),
            }
        }
    }

    /// Ends sessions that keep a refused turn, refuses turns that waited too long, ends the session
    /// whose memory others wait for, and tells waiting clients how many they are.
    pub(super) fn expire_turns(&mut self) {
        let overdue = |session: &&Session| {
            session.killed.is_none() && session.turn().is_some_and(|turn| turn.is_overdue())
        };
        let overdue: Vec<u64> = self.table.iter().filter(overdue).map(|session| session.number).collect();
        for number in overdue {
            self.end_session(number, "did not give back a turn that was refused");
        }
        if !self.does_a_turn_wait() {
            return;
        }
        // The configuration may be another one by now.
        self.start_turns();
        let (contenders, rules) = (self.contenders(), self.rules());
        let longest = rules.longest;
        let late = |contender: &&Contender| {
            contender.turn.wait().is_some_and(|wait| wait.since.elapsed() >= longest)
        };
        for contender in contenders.iter().filter(late) {
            let seconds = longest.as_secs();
            match (queue::blocked(&contenders, contender, rules), contender.turn) {
                (Some(Limit::MemoryTotal), _) => {
                    let text = format!("no memory within {seconds} seconds");
                    self.refuse_turn(contender.number, &text, Limit::MemoryTotal);
                }
                // What has begun goes on, and a push waits as long as it takes.
                (_, Turn { work: Work::Pack, begun: None, .. }) => {
                    let text = format!("no turn to make a pack within {seconds} seconds");
                    self.refuse_turn(contender.number, &text, Limit::PacksQueueTimeout);
                }
                _ => {}
            }
        }
        if let Some(slow) = queue::evicted(&contenders, rules) {
            let held = slow.turn.held >> 20;
            let what = match slow.turn.work {
                Work::Pack => "a pack that is not taken",
                Work::Push => "a push that does not go on",
            };
            let text = format!("others wait for the {held} megabytes of {what}");
            self.refuse_turn(slow.number, &text, Limit::MemoryTotal);
        }
        self.report_waits();
    }

    pub(super) fn contenders(&self) -> Vec<Contender> {
        self.table.iter().filter_map(contender).collect()
    }

    fn rules(&self) -> Rules {
        let served = |kind| self.settings.pools.iter().any(|(pool, _)| *pool == kind);
        Rules { both: served(Pool::Unix) && served(Pool::Tcp), ..self.settings.turns }
    }

    fn refuse_turn(&mut self, number: u64, text: &str, limit: Limit) {
        let Some(turn) = self.table.get(number).and_then(Session::turn_mut) else { return };
        turn.refuse();
        let refusal = Refusal::Limit(limit, text.to_owned());
        match turn.work {
            Work::Pack => self.send_to_repo(number, &ParentToRepo::NoPack(refusal)),
            Work::Push => self.send_to_job::<Verify>(number, &ParentToVerify::NoTurn(refusal)),
        }
    }

    /// Tells the clients that wait why they do, at once and when it has changed. The first time is
    /// a line of the log.
    fn report_waits(&mut self) {
        let contenders = self.contenders();
        let rules = self.rules();
        for contender in &contenders {
            // A client whose pack has begun is told nothing: the line would come in the middle of
            // an answer.
            let Some(wait) = contender.turn.wait().filter(|_| contender.turn.begun.is_none()) else {
                continue;
            };
            let Some(limit) = queue::blocked(&contenders, contender, rules) else { continue };
            let ours = |other: &&Contender| {
                other.turn.work == contender.turn.work
                    && (matches!(limit, Limit::PacksTotal | Limit::PushesTotal | Limit::MemoryTotal)
                        || other.repository == contender.repository)
            };
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let running = |other: &&Contender| match limit {
                Limit::MemoryTotal => other.turn.held > 0,
                _ => other.turn.stage == Stage::Running,
            };
            let made = count(contenders.iter().filter(ours).filter(running).count());
            let waiting = contenders.iter().filter(ours).filter(|other| other.turn.wait().is_some()).count();
            let others = count(waiting.saturating_sub(1));
            let news = wait.told.is_none_or(|(before, beside, at)| {
                (before, beside) != (made, others) && at.elapsed() >= TELL
            });
            let Some(session) = self.table.get(contender.number).filter(|_| news) else { continue };
            // Once for each session: a process that asks again and again fills no log.
            let Some(grant) = session.grant_mut() else { continue };
            let first = !std::mem::replace(&mut grant.wait_logged, true);
            if let Some(turn) = &mut grant.turn {
                let told = Some((made, others, Instant::now()));
                turn.stage = Stage::Waiting(Wait { told, ..wait });
            }
            let directive = limit.directive();
            if first {
                let who = grant.permit.identity.clone();
                let fields: [(&str, &dyn std::fmt::Display); 5] = [
                    ("number", &contender.number),
                    ("who", &who),
                    ("made", &made),
                    ("waiting", &others),
                    ("limit", &directive),
                ];
                let event = if contender.turn.work == Work::Pack { "pack waits" } else { "push waits" };
                self.log.line(Level::Info, event, &fields);
                self.metrics.limit(Some(limit), 1);
            }
            let wait = PackWait { made, others, limit: directive };
            match contender.turn.work {
                Work::Pack => self.send_to_repo(contender.number, &ParentToRepo::Waits(wait)),
                Work::Push => self.send_to_job::<Verify>(contender.number, &ParentToVerify::Waits(wait)),
            }
        }
    }
}

impl SessionTable {
    /// Turns of one kind of work.
    pub(super) fn turns(&self, work: Work) -> Counts {
        count(self.iter(), work)
    }

    /// Bytes of memory that turns hold.
    pub(super) fn reserved(&self) -> u64 {
        let now = Instant::now();
        let counted = self.iter().filter(|session| !session.is_given_up(now));
        counted.filter_map(Session::turn).fold(0, |sum, turn| sum.saturating_add(turn.held))
    }
}

fn contender(session: &Session) -> Option<Contender> {
    let grant = session.grant()?;
    let turn = grant.turn?;
    session.repo.running().filter(|_| !session.is_given_up(Instant::now()))?;
    let (opened, permit) = (grant.opened()?, &grant.permit);
    let party = match session.peer()? {
        Peer::Tcp { address, .. } => Party::Address(*address),
        Peer::Unix { .. } => Party::User(permit.counted.clone()),
    };
    let most = match turn.work {
        Work::Pack => permit.packs,
        Work::Push => permit.pushes,
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Some(Contender { number: session.number, party, repository: (opened.device, opened.inode), most, turn })
}
