//! Decides, as pure functions, which costly work begins now, which waits, and which is refused.
//! Making a pack is the most expensive thing that a client can ask for; indexing a pushed pack
//! comes next.
//!
//! Two things are bounded. A *place* is held only while something is computed: a pack whose client
//! does not take it gives its place up and waits for another turn once the client takes more.
//! *Memory* is held from the first turn to the end.
//!
//! Users who come by ssh and strangers of git:// are the two *kinds* of clients. Turns alternate
//! between the kinds first, and within a kind between its users or addresses. So a crowd of
//! strangers keeps no user waiting, nor the other way round. A turn lasts as long as its work.
//! Therefore no kind gets the last quarter of the places or of the memory, and no address more than
//! half of the places that strangers may have. A kind's memory is divided into one share for each
//! of its clients, and one more. Where another client waits, or a newcomer would find nothing, no
//! client begins more than its share. A client that neither takes nor gives is ended where that
//! lets a waiting one go on: a stranger always, a user only while holding more than one share.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::conf::limits::Limit;
use crate::fairness::Strangers;

/// Users and addresses whose last turn is remembered.
const MOST_TURNS: usize = 256;
/// How long a client waits for memory before another client is ended for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a client neither takes nor gives anything before it may be ended for its memory. The
/// kernel reports room in a connection's buffer only when a good part of it is free again, so a
/// client of a usual pace may look idle for a time shorter than this.
const IDLE: Duration = Duration::from_secs(3);
/// Most turns that are ended, one after the other, for one waiting turn.
const MOST_ENDED: usize = 32;
/// How long a client that wants more than its share waits, while no other client does, before it
/// has to leave a newcomer only [`LEAST`] bytes.
const ALONE: Duration = Duration::from_secs(5);
/// Bytes of memory that are always left for a newcomer by a client that holds some: the least that
/// a pack takes.
const LEAST: u64 = 8 << 20;
/// How long a process may take to give back a refused turn. An honest process does it at once.
const GIVES_BACK: Duration = Duration::from_secs(10);

/// The work that a turn is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A pack is made for a fetch.
    Pack,
    /// A pushed pack is indexed and checked.
    Push,
}

/// The turn of a session: asked for, under way, or given up for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// What for.
    pub work: Work,
    /// How far it is.
    pub stage: Stage,
    /// Bytes of memory that it holds; 0 before its first turn.
    pub held: u64,
    /// Bytes of memory that it holds in its next turn.
    pub need: u64,
    /// When its first turn began.
    pub begun: Option<Instant>,
    /// Since when its client has taken or given nothing.
    pub idle: Option<Instant>,
    /// When it was refused.
    pub refused: Option<Instant>,
}

/// How far a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waits for it.
    Waiting(Wait),
    /// Computes, and holds a place.
    Running,
    /// Copies what lies there to its client, without a place. Its client takes it.
    Copying,
    /// Waits for its client, without a place.
    Stalled,
    /// Refused; its memory becomes free when the process has ended.
    Refused,
}

/// A turn that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Asked for at this time.
    pub since: Instant,
    /// How many had a turn and how many waited when its client was last told, and when that was.
    pub told: Option<(u32, u32, Instant)>,
}

impl Turn {
    /// A turn that is asked for now.
    pub fn asked(work: Work, need: u64) -> Turn {
        let wait = Wait { since: Instant::now(), told: None };
        Turn { work, stage: Stage::Waiting(wait), held: 0, need, begun: None, idle: None, refused: None }
    }

    /// The wait, while it waits.
    pub fn wait(&self) -> Option<Wait> {
        match self.stage {
            Stage::Waiting(wait) => Some(wait),
            _ => None,
        }
    }

    /// The client takes or gives nothing from now on. The process keeps at most `memory` bytes.
    pub fn stall(&mut self, memory: u64) {
        self.stage = Stage::Stalled;
        self.idle = Some(Instant::now());
        self.held = self.held.min(memory);
        self.need = self.held;
    }

    /// The computation is over; the rest of the pack is copied to the client.
    pub fn copies(&mut self, memory: u64) {
        self.stall(memory);
        self.stage = Stage::Copying;
        self.idle = None;
    }

    /// Its client goes on, and the next turn is waited for.
    pub fn ask_again(&mut self, need: u64) {
        self.stage = Stage::Waiting(Wait { since: Instant::now(), told: None });
        self.idle = None;
        self.need = need.max(self.held);
    }

    /// Refuses the turn. The process that asked for it gives it back.
    pub fn refuse(&mut self) {
        self.stage = Stage::Refused;
        self.refused.get_or_insert_with(Instant::now);
    }

    /// Whether it was refused so long ago that the process evidently does not listen and keeps its
    /// memory from others.
    pub fn is_overdue(&self) -> bool {
        self.refused.is_some_and(|at| at.elapsed() >= GIVES_BACK)
    }

    /// Its turn begins.
    pub fn begin(&mut self) {
        self.stage = Stage::Running;
        self.held = self.need;
        self.begun.get_or_insert_with(Instant::now);
    }
}

/// What gotd.conf says about turns.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Packs that are made at a time.
    pub packs: usize,
    /// Pushes that are indexed at a time.
    pub pushes: usize,
    /// Bytes of memory for both.
    pub memory: u64,
    /// Packs of one kind of clients that may wait.
    pub queue: usize,
    /// How long one may wait.
    pub longest: Duration,
    /// Both kinds of clients are served.
    pub both: bool,
}

impl Rules {
    /// How many of `all` places or bytes one kind of clients may have.
    fn of_a_kind(&self, all: u64) -> u64 {
        if self.both && all > 1 { all - (all / 4).max(1) } else { all }
    }
}

/// The client that has a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// A user who came by ssh.
    User(String),
    /// An address of git://.
    Address([u8; 16]),
}

impl Party {
    fn is(&self, other: &Party) -> bool {
        match (self, other) {
            (Party::User(a), Party::User(b)) => a == b,
            (Party::Address(a), Party::Address(b)) => Strangers::are_one(*a, *b),
            _ => false,
        }
    }

    fn is_of_kind(&self, other: &Party) -> bool {
        self.is_stranger() == other.is_stranger()
    }

    /// Comes over git://.
    pub fn is_stranger(&self) -> bool {
        matches!(self, Party::Address(_))
    }
}

/// A session's turn, with the session's properties that the choice depends on.
#[derive(Debug, Clone)]
pub struct Contender {
    /// The session.
    pub number: u64,
    /// Whose it is.
    pub party: Party,
    /// Device and inode of the repository.
    pub repository: (u64, u64),
    /// How many turns of this kind of work the repository may have at a time.
    pub most: usize,
    /// The turn.
    pub turn: Turn,
}

impl Contender {
    /// Counts against the places of this kind of work.
    fn runs(&self, work: Work) -> bool {
        self.turn.stage == Stage::Running && self.turn.work == work
    }

    /// Bytes that it would hold beyond those that it holds.
    fn more(&self) -> u64 {
        self.turn.need.saturating_sub(self.turn.held)
    }

    /// The limits of places that hold for it, with their numbers.
    fn places(&self, rules: Rules) -> [(Limit, usize); 2] {
        match self.turn.work {
            Work::Pack => [(Limit::PacksTotal, rules.packs), (Limit::PacksPerRepository, self.most)],
            Work::Push => [(Limit::PushesTotal, rules.pushes), (Limit::PushesPerRepository, self.most)],
        }
    }
}

/// Remembers the client that had a turn. Only the most recent clients are kept.
pub fn remember(turns: &mut VecDeque<Party>, party: Party) {
    turns.retain(|other| !other.is(&party));
    turns.push_back(party);
    if turns.len() > MOST_TURNS {
        turns.pop_front();
    }
}

/// The limit that keeps a turn from beginning now.
pub fn blocked(contenders: &[Contender], contender: &Contender, rules: Rules) -> Option<Limit> {
    for (limit, places) in contender.places(rules) {
        let all = matches!(limit, Limit::PacksTotal | Limit::PushesTotal);
        let ours = |other: &&Contender| {
            other.runs(contender.turn.work) && (all || other.repository == contender.repository)
        };
        let running = || contenders.iter().filter(ours);
        let most = usize::try_from(rules.of_a_kind(places as u64)).unwrap_or(usize::MAX);
        let own = running().filter(|other| other.party.is(&contender.party)).count();
        let crowds = contender.party.is_stranger() && own >= most.div_ceil(2);
        let of_kind = running().filter(|other| other.party.is_of_kind(&contender.party)).count();
        if running().count() >= places || of_kind >= most || crowds {
            return Some(limit);
        }
    }
    let lacks =
        lacks_memory(contenders, contender, rules, true) || is_behind_own(contenders, contender, rules);
    lacks.then_some(Limit::MemoryTotal)
}

/// Bytes that these hold together.
pub fn held<'j>(contenders: impl Iterator<Item = &'j Contender>) -> u64 {
    contenders.fold(0, |sum, contender| sum.saturating_add(contender.turn.held))
}

/// Whether the memory that a turn needs is missing. A client that is alone may have all memory,
/// however much it asks for; otherwise it would wait for ever. `with_own`: the memory of the same
/// client's other turns counts.
fn lacks_memory(contenders: &[Contender], contender: &Contender, rules: Rules, with_own: bool) -> bool {
    let is_own = |other: &Contender| other.party.is(&contender.party);
    let is_of_kind = |other: &Contender| other.party.is_of_kind(&contender.party);
    let others =
        || contenders.iter().filter(|other| other.number != contender.number && (with_own || !is_own(other)));
    let exceeds = |held_by_others: u64, most: u64| {
        held_by_others > 0 && held_by_others.saturating_add(contender.turn.need) > most
    };
    let kind = rules.of_a_kind(rules.memory);
    let of_kind = held(others().filter(|other| is_of_kind(other)));
    let own = held(others().filter(|other| is_own(other)));
    let free = rules.memory.saturating_sub(held(others())).min(kind.saturating_sub(of_kind));
    let somebody_waits = || {
        let waits = |other: &Contender| other.more() > 0 && other.turn.wait().is_some();
        contenders.iter().any(|other| waits(other) && is_of_kind(other) && !is_own(other))
    };
    // A newcomer may come and need as much; after a while none is expected any more.
    let newcomer = match contender.turn.wait() {
        Some(wait) if wait.since.elapsed() >= ALONE => LEAST.min(contender.turn.need),
        _ => contender.turn.need,
    };
    let leaves_enough = || free.saturating_sub(contender.turn.need) >= newcomer;
    // Work that has begun may exceed its client's share: else two packs of one client would wait
    // for each other.
    let has_its_share = || {
        contender.turn.held == 0
            && own > 0
            && (!leaves_enough() || somebody_waits())
            && exceeds_share(contenders, contender, own.saturating_add(contender.turn.need), kind)
    };
    contender.more() > 0
        && (exceeds(held(others()), rules.memory)
            || exceeds(of_kind, kind)
            || contender.party.is_stranger() && exceeds(own, kind / 2)
            || has_its_share())
}

/// Whether the oldest waiting turn of the same client is held up by memory that this client holds
/// itself. Then no younger turn of the client begins: otherwise a stream of small packs would keep
/// a large pack of the same client waiting for ever.
fn is_behind_own(contenders: &[Contender], contender: &Contender, rules: Rules) -> bool {
    let is_fresh = |contender: &Contender| contender.turn.held == 0 && contender.turn.need > 0;
    if !is_fresh(contender) {
        return false;
    }
    let oldest = contenders
        .iter()
        .filter(|other| is_fresh(other) && other.party.is(&contender.party))
        .filter_map(|other| Some(((other.turn.wait()?.since, other.number), other)))
        .min_by_key(|(age, _)| *age);
    let held_up = |oldest: &Contender| {
        lacks_memory(contenders, oldest, rules, true) && !lacks_memory(contenders, oldest, rules, false)
    };
    oldest.is_some_and(|(_, oldest)| oldest.number != contender.number && held_up(oldest))
}

/// Whether so much memory is more than one client's share of what its kind may have, as many as
/// they are now: the clients that hold some or wait for it.
fn exceeds_share(contenders: &[Contender], contender: &Contender, wanted: u64, kind: u64) -> bool {
    let counts = |other: &&Contender| {
        let memory = other.turn.held > 0 || other.turn.wait().is_some() && other.turn.need > 0;
        memory && other.party.is_of_kind(&contender.party)
    };
    let mut clients = vec![&contender.party];
    let mut shares = 2;
    for other in contenders.iter().filter(counts) {
        if wanted > kind / shares {
            return true;
        }
        if !clients.iter().any(|client| client.is(&other.party)) {
            clients.push(&other.party);
            shares = shares.saturating_add(1);
        }
    }
    wanted > kind / shares
}

/// Chooses the next turn of those that no limit holds up, comparing in this order: (1) the kind of
/// client with the fewest under way, (2) that kind's least recent turn, (3) the client with the
/// fewest under way, (4) that client's least recent turn, (5) the longest wait.
pub fn next<'j>(contenders: &'j [Contender], rules: Rules, turns: &VecDeque<Party>) -> Option<&'j Contender> {
    contenders
        .iter()
        .filter_map(|contender| Some((contender, contender.turn.wait()?.since)))
        .filter(|(contender, _)| blocked(contenders, contender, rules).is_none())
        .min_by_key(|(contender, since)| {
            let running = || contenders.iter().filter(|other| other.runs(contender.turn.work));
            let kind = |other: &Party| other.is_of_kind(&contender.party);
            let own = |other: &Party| other.is(&contender.party);
            let last_turn = |at: Option<usize>| at.map_or(0, |at| at.saturating_add(1));
            (
                running().filter(|other| kind(&other.party)).count(),
                last_turn(turns.iter().rposition(kind)),
                running().filter(|other| own(&other.party)).count(),
                last_turn(turns.iter().rposition(own)),
                *since,
                contender.number,
            )
        })
        .map(|(contender, _)| contender)
}

/// Picks the waiting pack to refuse when more than `most` of one kind of clients wait: the newest
/// one of the client with the most waiting; on a tie, of the newcomer's client. A pack that has
/// begun is never refused for this.
pub fn gives_way(contenders: &[Contender], newcomer: u64, most: usize) -> Option<u64> {
    let fresh = |contender: &&Contender| {
        contender.turn.work == Work::Pack && contender.turn.begun.is_none() && contender.turn.wait().is_some()
    };
    let new = contenders.iter().filter(fresh).find(|contender| contender.number == newcomer)?;
    let waiting =
        || contenders.iter().filter(fresh).filter(|contender| contender.party.is_of_kind(&new.party));
    if waiting().count() <= most {
        return None;
    }
    let late = waiting().max_by_key(|contender| {
        let of_same = waiting().filter(|other| other.party.is(&contender.party)).count();
        (
            of_same,
            contender.party.is(&new.party),
            contender.turn.wait().map(|wait| wait.since),
            contender.number,
        )
    });
    late.map(|contender| contender.number)
}

/// Picks the turn to end because another client waits for its memory. One turn is ended at a time,
/// and only if ending it and the next candidates lets the waiting client go on.
pub fn evicted(contenders: &[Contender], rules: Rules) -> Option<&Contender> {
    if contenders.iter().any(|contender| contender.turn.stage == Stage::Refused && contender.turn.held > 0) {
        return None;
    }
    let slow = slow(contenders, rules);
    let is_late =
        |contender: &Contender| contender.turn.wait().is_some_and(|wait| wait.since.elapsed() >= PATIENCE);
    contenders
        .iter()
        .filter(|contender| !slow.is_empty() && is_late(contender))
        .filter(|contender| blocked(contenders, contender, rules) == Some(Limit::MemoryTotal))
        .find_map(|contender| ended_for(contenders, contender, &slow, rules))
}

/// The turns that may be ended: those of clients that take or give nothing and are strangers or
/// beyond their share. They are sorted by client, the largest product of bytes and seconds first,
/// and within a client by that product.
fn slow(contenders: &[Contender], rules: Rules) -> Vec<&Contender> {
    let idle = |contender: &Contender| contender.turn.idle.map_or(Duration::ZERO, |since| since.elapsed());
    let weight =
        |contender: &Contender| u128::from(contender.turn.held).saturating_mul(idle(contender).as_millis());
    let is_beyond_share = |contender: &Contender| {
        let own = held(contenders.iter().filter(|other| other.party.is(&contender.party)));
        exceeds_share(contenders, contender, own, rules.of_a_kind(rules.memory))
    };
    let may_end = |contender: &&Contender| {
        let stalled =
            contender.turn.stage == Stage::Stalled && contender.turn.held > 0 && idle(contender) >= IDLE;
        stalled && (contender.party.is_stranger() || is_beyond_share(contender))
    };
    let all: Vec<&Contender> = contenders.iter().filter(may_end).collect();
    let of_client = |contender: &Contender| {
        let own = all.iter().filter(|other| other.party.is(&contender.party));
        own.fold(0, |sum: u128, other| sum.saturating_add(weight(other)))
    };
    let mut slow = all.clone();
    slow.sort_by_cached_key(|contender| {
        std::cmp::Reverse((of_client(contender), weight(contender), contender.number))
    });
    slow
}

/// Picks the turn to end first so that `waiting` can go on. As few turns are ended as suffice, and
/// none of the waiting client's own: it would help itself.
fn ended_for<'j>(
    contenders: &[Contender],
    waiting: &Contender,
    slow: &[&'j Contender],
    rules: Rules,
) -> Option<&'j Contender> {
    let goes_on = |ended: &[&Contender]| {
        let stays = |contender: &&Contender| ended.iter().all(|gone| gone.number != contender.number);
        let rest: Vec<Contender> = contenders.iter().filter(stays).cloned().collect();
        blocked(&rest, waiting, rules).is_none()
    };
    let others = slow.iter().copied().filter(|contender| !contender.party.is(&waiting.party));
    let mut ended: Vec<&Contender> = others.take(MOST_ENDED).collect();
    if ended.is_empty() || !goes_on(&ended) {
        return None;
    }
    // From the lightest on: a turn that need not end for this stays.
    for at in (0..ended.len()).rev() {
        let gone = ended.remove(at);
        if !goes_on(&ended) {
            ended.insert(at, gone);
        }
    }
    ended.first().copied()
}

#[cfg(test)]
mod tests;
