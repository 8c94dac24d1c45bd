//! Which clients get their pack now, which wait, and which are refused: making one is the most expensive thing that a
//! client can ask for.
//!
//! Users who come by ssh and strangers of git:// are the two *kinds* of clients. Places are given in turns, of the kinds
//! first and then within a kind of the users or addresses, so that neither a crowd of strangers keeps a user waiting nor
//! the other way round; and because a place that was given is not taken back from a client that is slow, no kind has the
//! last quarter of them, and no address more than half of what strangers may have.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libproto::message::parent::{PackWait, ParentToRepo, Peer, Pool};

use super::Parent;
use super::table::{Session, Table};
use crate::conf::limits::Limit;
use crate::fairness::Strangers;
use crate::log::Level;

/// Users and addresses whose last turn is remembered.
const MOST_TURNS: usize = 256;
/// A client that waits is told how many do when that has changed, at most this often.
const TELL: Duration = Duration::from_secs(5);

/// How far a session's pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pack {
    /// Asked for, not begun.
    Waiting(Wait),
    /// Being made.
    Running,
}

/// A pack that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Asked for at this time.
    since: Instant,
    /// Packs that were being made and that waited when its client was last told, and when that was.
    told: Option<(u32, u32, Instant)>,
}

/// What gotd.conf says about packs.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Packs that are made at a time.
    pub total: usize,
    /// Packs of one kind of clients that may wait.
    pub queue: usize,
    /// How long one may wait.
    pub longest: Duration,
    /// Both kinds of clients are served.
    pub both: bool,
}

impl Rules {
    /// Places of so many that one kind of clients may have.
    fn of_a_kind(&self, places: usize) -> usize {
        if self.both && places > 1 { places - (places / 4).max(1) } else { places }
    }
}

/// Who has a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A user who came by ssh.
    User(String),
    /// An address of git://.
    Address([u8; 16]),
}

impl Whose {
    fn is(&self, other: &Whose) -> bool {
        match (self, other) {
            (Whose::User(a), Whose::User(b)) => a == b,
            (Whose::Address(a), Whose::Address(b)) => Strangers::are_one(*a, *b),
            _ => false,
        }
    }

    fn is_of_kind(&self, other: &Whose) -> bool {
        matches!(self, Whose::User(_)) == matches!(other, Whose::User(_))
    }
}

/// A pack that is being made, or waits to be.
#[derive(Debug, Clone)]
struct Job {
    number: u64,
    whose: Whose,
    /// Device and inode of the repository, and how many packs may be made for it at a time.
    repository: (u64, u64),
    most: usize,
    pack: Pack,
}

impl Job {
    fn wait(&self) -> Option<Wait> {
        match self.pack {
            Pack::Waiting(wait) => Some(wait),
            Pack::Running => None,
        }
    }
}

/// Packs that are being made for git:// clients, and that wait to be.
pub fn counts(table: &Table) -> (usize, usize) {
    let packs = table.iter().filter(|s| matches!(s.peer, Some(Peer::Tcp { .. }))).filter_map(|s| s.pack);
    let (running, waiting): (Vec<Pack>, Vec<Pack>) = packs.partition(|pack| *pack == Pack::Running);
    (running.len(), waiting.len())
}

impl Parent {
    /// A repository process is about to make a pack.
    pub(super) fn need_pack(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.pack.is_some() || session.is_push() {
            return self.end_session(number, "repository: asked to make a pack where it may not");
        }
        let since = Instant::now();
        session.pack = Some(Pack::Waiting(Wait { since, told: None }));
        self.give_packs();
        let jobs = self.jobs();
        if let Some(late) = gives_way(&jobs, number, self.settings.packs.queue) {
            let limit = Limit::PacksQueue;
            let most = self.settings.packs.queue;
            self.refuse_pack(late, &format!("too many packs wait to be made: at most {most}"), limit);
        }
        let waits = |session: &mut Session| {
            matches!((session.pack, &session.peer), (Some(Pack::Waiting(_)), Some(Peer::Tcp { .. })))
        };
        if self.table.get(number).is_some_and(waits) {
            self.metrics.git.queued = self.metrics.git.queued.saturating_add(1);
        }
        self.tell_waiting();
    }

    /// It has made it, or its client is gone.
    pub(super) fn pack_done(&mut self, number: u64) {
        if let Some(session) = self.table.get(number) {
            session.pack = None;
        }
        self.give_packs();
    }

    /// Lets packs begin, as many as may.
    pub(super) fn give_packs(&mut self) {
        loop {
            let jobs = self.jobs();
            let Some(job) = next(&jobs, self.rules(), &self.pack_turns) else { return };
            let (number, whose) = (job.number, job.whose.clone());
            let Some(session) = self.table.get(number) else { return };
            session.pack = Some(Pack::Running);
            remember(&mut self.pack_turns, whose);
            self.tell_repo(number, &ParentToRepo::Pack(()));
        }
    }

    /// Refuses the packs that have waited too long, and tells the others how many they are.
    pub(super) fn expire_packs(&mut self) {
        if self.table.packs()[1] == 0 {
            return;
        }
        // The configuration may be another one by now.
        self.give_packs();
        let longest = self.settings.packs.longest;
        let late = |job: &Job| job.wait().is_some_and(|wait| wait.since.elapsed() >= longest);
        for job in self.jobs().iter().filter(|job| late(job)) {
            let text = format!("no turn to make a pack within {} seconds", longest.as_secs());
            self.refuse_pack(job.number, &text, Limit::PacksQueueTimeout);
        }
        self.tell_waiting();
    }

    fn jobs(&self) -> Vec<Job> {
        self.table.iter().filter_map(job).collect()
    }

    fn rules(&self) -> Rules {
        let served = |kind| self.settings.pools.iter().any(|(pool, _)| *pool == kind);
        Rules { both: served(Pool::Unix) && served(Pool::Tcp), ..self.settings.packs }
    }

    fn refuse_pack(&mut self, number: u64, text: &str, limit: Limit) {
        let Some(session) = self.table.get(number) else { return };
        session.pack = None;
        self.tell_repo(number, &ParentToRepo::NoPack(format!("{text} ({})", limit.directive())));
    }

    /// Tells the clients that wait why they do, at once and when it has changed. The first time is a line of the log.
    fn tell_waiting(&mut self) {
        let jobs = self.jobs();
        let rules = self.rules();
        for job in &jobs {
            let (Some(wait), Some(limit)) = (job.wait(), blocked(&jobs, job, rules)) else { continue };
            let ours = |other: &&Job| limit == Limit::PacksTotal || other.repository == job.repository;
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let all = jobs.iter().filter(ours).count();
            let running = jobs.iter().filter(ours).filter(|other| other.pack == Pack::Running).count();
            let (made, others) = (count(running), count(all - running - 1));
            let news = wait.told.is_none_or(|(before, beside, at)| {
                (before, beside) != (made, others) && at.elapsed() >= TELL
            });
            let Some(session) = self.table.get(job.number).filter(|_| news) else { continue };
            // Once for each session: a repository process that asks again and again fills no log.
            let first = !std::mem::replace(&mut session.wait_logged, true);
            session.pack = Some(Pack::Waiting(Wait { told: Some((made, others, Instant::now())), ..wait }));
            let limit = limit.directive();
            if first {
                let who = session.permit.as_ref().map(|p| p.identity.clone()).unwrap_or_default();
                let fields: [(&str, &dyn std::fmt::Display); 5] = [
                    ("number", &job.number),
                    ("who", &who),
                    ("made", &made),
                    ("waiting", &others),
                    ("limit", &limit),
                ];
                self.log.line(Level::Info, "pack waits", &fields);
                self.metrics.limit(&limit, 1);
            }
            self.tell_repo(job.number, &ParentToRepo::Waits(PackWait { made, others, limit }));
        }
    }
}

impl Table {
    /// Packs that are being made, and that wait.
    pub(super) fn packs(&self) -> [usize; 2] {
        let packs = || self.iter().filter_map(|session| session.pack);
        let running = packs().filter(|pack| *pack == Pack::Running).count();
        [running, packs().count().saturating_sub(running)]
    }
}

fn job(session: &Session) -> Option<Job> {
    let pack = session.pack?;
    session.repo.running()?;
    let opened = session.opened.as_ref()?;
    let permit = session.permit.as_ref()?;
    let whose = match session.peer.as_ref()? {
        Peer::Tcp { address, .. } => Whose::Address(*address),
        Peer::Unix { .. } => Whose::User(permit.identity.clone()),
    };
    let most = usize::try_from(permit.packs).unwrap_or(usize::MAX);
    Some(Job { number: session.number, whose, repository: (opened.device, opened.inode), most, pack })
}

/// Remembers whose turn it was, the last ones only.
fn remember(turns: &mut VecDeque<Whose>, whose: Whose) {
    turns.retain(|other| !other.is(&whose));
    turns.push_back(whose);
    if turns.len() > MOST_TURNS {
        turns.pop_front();
    }
}

/// The limit that keeps a pack from being made now.
fn blocked(jobs: &[Job], job: &Job, rules: Rules) -> Option<Limit> {
    for (limit, places) in [(Limit::PacksTotal, rules.total), (Limit::PacksPerRepository, job.most)] {
        let ours = |other: &&Job| {
            other.pack == Pack::Running && (limit == Limit::PacksTotal || other.repository == job.repository)
        };
        let running = || jobs.iter().filter(ours);
        let most = rules.of_a_kind(places);
        let own = running().filter(|other| other.whose.is(&job.whose)).count();
        let crowds = matches!(job.whose, Whose::Address(_)) && own >= most.div_ceil(2);
        let of_kind = running().filter(|other| other.whose.is_of_kind(&job.whose)).count();
        if running().count() >= places || of_kind >= most || crowds {
            return Some(limit);
        }
    }
    None
}

/// Whose turn it is: of the packs that no limit holds up, those of the kind of clients with the fewest under way, of
/// these the ones of who has the fewest; where two have as many, whose last turn is longer ago; and of one's own the one
/// that has waited longest.
fn next<'j>(jobs: &'j [Job], rules: Rules, turns: &VecDeque<Whose>) -> Option<&'j Job> {
    let running = || jobs.iter().filter(|job| job.pack == Pack::Running);
    jobs.iter()
        .filter_map(|job| Some((job, job.wait()?.since)))
        .filter(|(job, _)| blocked(jobs, job, rules).is_none())
        .min_by_key(|(job, since)| {
            let kind = |other: &Whose| other.is_of_kind(&job.whose);
            let own = |other: &Whose| other.is(&job.whose);
            let last_turn = |at: Option<usize>| at.map_or(0, |at| at.saturating_add(1));
            (
                running().filter(|other| kind(&other.whose)).count(),
                last_turn(turns.iter().rposition(kind)),
                running().filter(|other| own(&other.whose)).count(),
                last_turn(turns.iter().rposition(own)),
                *since,
                job.number,
            )
        })
        .map(|(job, _)| job)
}

/// When there are more waiting packs of one kind of clients than `most`: which of them is refused because that one came
/// last. Of those of who has most, the last one; a newcomer gives way to the others who have as many.
fn gives_way(jobs: &[Job], newcomer: u64, most: usize) -> Option<u64> {
    let new = jobs.iter().find(|job| job.number == newcomer)?;
    new.wait()?;
    let waiting = || jobs.iter().filter(|job| job.wait().is_some() && job.whose.is_of_kind(&new.whose));
    if waiting().count() <= most {
        return None;
    }
    let late = waiting().max_by_key(|job| {
        let of_same = waiting().filter(|other| other.whose.is(&job.whose)).count();
        (of_same, job.whose.is(&new.whose), job.wait().map(|wait| wait.since), job.number)
    });
    late.map(|job| job.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(total: usize) -> Rules {
        Rules { total, queue: 3, longest: Duration::from_secs(60), both: true }
    }

    fn address(last: u8) -> Whose {
        Whose::Address(std::net::Ipv4Addr::new(192, 0, 2, last).to_ipv6_mapped().octets())
    }

    fn user(name: &str) -> Whose {
        Whose::User(format!("user:{name}"))
    }

    /// Jobs that wait, of each in this order, each for a repository of its own.
    fn jobs(whose: &[Whose], most: usize) -> Vec<Job> {
        let start = Instant::now();
        let job = |(n, whose): (u64, &Whose)| Job {
            number: n,
            whose: whose.clone(),
            repository: (1, n),
            most,
            pack: Pack::Waiting(Wait { since: start + Duration::from_millis(n), told: None }),
        };
        (0..).zip(whose).map(job).collect()
    }

    /// Lets packs run, the one that began first being done first, and returns who got them in which order.
    fn order(mut jobs: Vec<Job>, rules: Rules) -> Vec<Whose> {
        let (mut got, mut turns, mut begun) = (Vec::new(), VecDeque::new(), VecDeque::new());
        loop {
            while let Some(number) = next(&jobs, rules, &turns).map(|job| job.number) {
                let job = jobs.iter_mut().find(|job| job.number == number).expect("there");
                job.pack = Pack::Running;
                remember(&mut turns, job.whose.clone());
                got.push(job.whose.clone());
                begun.push_back(number);
            }
            assert!(begun.len() <= rules.total);
            let Some(done) = begun.pop_front() else { return got };
            jobs.retain(|job| job.number != done);
        }
    }

    #[test]
    fn nobody_starves_the_others() {
        for (flood, others) in [(address(66), [address(1), address(2)]), (user("ci"), [user("a"), user("b")])]
        {
            let mut whose = vec![flood.clone(); 20];
            whose.extend(others.clone());
            let got = order(jobs(&whose, 100), rules(1));
            assert_eq!(got.len(), 22);
            // However many wait before them: after one of the flood it is the others' turn.
            assert_eq!(got[..3], [flood, others[0].clone(), others[1].clone()]);
        }
    }

    #[test]
    fn a_crowd_of_strangers_does_not_starve_a_user_nor_users_a_stranger() {
        // Each from an address that never had a turn before.
        let mut whose: Vec<Whose> = (1..=20).map(address).collect();
        whose.extend([user("alice"), user("alice")]);
        let got = order(jobs(&whose, 100), rules(1));
        assert_eq!(got[..5], [address(1), user("alice"), address(2), user("alice"), address(3)]);
        let mut whose: Vec<Whose> = (1..=20).map(|n| user(&n.to_string())).collect();
        whose.push(address(9));
        let got = order(jobs(&whose, 100), rules(1));
        assert_eq!(got[..2], [user("1"), address(9)]);
    }

    #[test]
    fn clients_that_stay_do_not_have_the_last_places() {
        let held = |whose: &[Whose], rules: Rules| {
            let (mut jobs, mut turns) = (jobs(whose, 100), VecDeque::new());
            while let Some(number) = next(&jobs, rules, &turns).map(|job| job.number) {
                jobs[usize::try_from(number).expect("small")].pack = Pack::Running;
                remember(&mut turns, whose[usize::try_from(number).expect("small")].clone());
            }
            jobs.iter().filter(|job| job.pack == Pack::Running).count()
        };
        let strangers: Vec<Whose> = (1..=30).map(address).collect();
        assert_eq!(held(&strangers, rules(16)), 12);
        assert_eq!(held(&vec![address(1); 30], rules(16)), 6);
        assert_eq!(held(&vec![user("ci"); 30], rules(16)), 12);
        assert_eq!(held(&vec![user("ci"); 30], Rules { both: false, ..rules(16) }), 16);
        // With few places: one of two, and the only one.
        assert_eq!((held(&strangers, rules(2)), held(&strangers, rules(1))), (1, 1));
    }

    #[test]
    fn a_repository_has_so_many_packs_at_a_time() {
        let mut all = jobs(&[user("a"), user("b"), user("c")], 2);
        for job in &mut all {
            job.repository = (1, 1);
        }
        all[0].pack = Pack::Running;
        all[1].pack = Pack::Running;
        let alone = |total| Rules { both: false, ..rules(total) };
        let first = |all: &[Job], total| next(all, alone(total), &VecDeque::new()).map(|job| job.number);
        assert_eq!(first(&all, 16), None);
        assert_eq!(blocked(&all, &all[2], alone(16)), Some(Limit::PacksPerRepository));
        all[2].most = 3;
        assert_eq!(first(&all, 16), Some(2));
        (all[2].most, all[2].repository) = (2, (1, 99));
        assert_eq!(first(&all, 16), Some(2));
        assert_eq!(first(&all, 2), None);
        assert_eq!(blocked(&all, &all[2], alone(2)), Some(Limit::PacksTotal));
    }

    #[test]
    fn whoever_has_most_packs_waiting_gives_way_and_each_kind_has_a_queue_of_its_own() {
        let way = |whose: &[Whose]| {
            let jobs = jobs(whose, 100);
            gives_way(&jobs, jobs.last().expect("some").number, 3)
        };
        let (a, b) = (user("a"), user("b"));
        assert_eq!(way(&[a.clone(), a.clone(), a.clone()]), None);
        assert_eq!(way(&[a.clone(), a.clone(), a.clone(), a.clone()]), Some(3));
        // The last one of the flood, not the newcomer.
        assert_eq!(way(&[a.clone(), a.clone(), a.clone(), b.clone()]), Some(2));
        // As many as the newcomer would have: the newcomer.
        assert_eq!(way(&[a.clone(), a.clone(), b.clone(), b.clone()]), Some(3));
        assert_eq!(way(&[address(1), address(1), address(1), a.clone()]), None);
        assert_eq!(way(&[a.clone(), a.clone(), a.clone(), a, address(1)]), None);
    }
}
