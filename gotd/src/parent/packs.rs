//! Which git:// clients get their pack now, and which wait: making one is the most expensive thing that a stranger can ask
//! for. Whoever comes by ssh does not wait; the numbers of users' connections bound them.

use std::collections::VecDeque;
use std::time::Instant;

use libproto::message::parent::{ParentToRepo, Peer};

use super::Parent;
use super::table::Session;
use crate::fairness::Strangers;

/// Addresses whose last turn is remembered.
const MOST_TURNS: usize = 256;

/// How far a session's pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pack {
    /// Asked for at this time.
    Waiting(Instant),
    /// Being made.
    Running,
}

/// A pack that is being made, or waits to be.
#[derive(Debug, Clone, Copy)]
struct Job {
    number: u64,
    address: [u8; 16],
    /// Device and inode of the repository, and how many packs may be made for it at a time.
    repository: (u64, u64),
    most: usize,
    pack: Pack,
}

impl Parent {
    /// The repository process of a git:// client is about to make a pack.
    pub(super) fn need_pack(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.pack.is_some() || !matches!(session.peer, Some(Peer::Tcp { .. })) {
            return self.end_session(number, "repository: asked to make a pack where it may not");
        }
        session.pack = Some(Pack::Waiting(Instant::now()));
        self.give_packs();
    }

    /// It has made it.
    pub(super) fn pack_done(&mut self, number: u64) {
        if let Some(session) = self.table.get(number) {
            session.pack = None;
        }
        self.give_packs();
    }

    /// Lets packs begin, as many as may.
    pub(super) fn give_packs(&mut self) {
        loop {
            let jobs: Vec<Job> = self.table.iter().filter_map(job).collect();
            let Some(job) = next(&jobs, self.settings.packs, &self.pack_turns) else { return };
            let (number, address) = (job.number, job.address);
            let Some(session) = self.table.get(number) else { return };
            session.pack = Some(Pack::Running);
            remember(&mut self.pack_turns, address);
            self.tell_repo(number, &ParentToRepo::Pack(()));
        }
    }
}

fn job(session: &Session) -> Option<Job> {
    session.repo.running()?;
    let Some(Peer::Tcp { address, .. }) = session.peer else { return None };
    let opened = session.opened.as_ref()?;
    let most = usize::try_from(session.permit.as_ref()?.packs).unwrap_or(usize::MAX);
    let repository = (opened.device, opened.inode);
    Some(Job { number: session.number, address, repository, most, pack: session.pack? })
}

/// Remembers whose turn it was, of addresses the last ones.
fn remember(turns: &mut VecDeque<[u8; 16]>, address: [u8; 16]) {
    turns.retain(|other| !Strangers::are_one(*other, address));
    turns.push_back(address);
    if turns.len() > MOST_TURNS {
        turns.pop_front();
    }
}

/// Whose turn it is: of those whose repository has room, the address with the fewest packs under way, of these the one
/// whose last turn is longest ago, and of its clients who has waited longest.
fn next<'j>(jobs: &'j [Job], total: usize, turns: &VecDeque<[u8; 16]>) -> Option<&'j Job> {
    let running = || jobs.iter().filter(|job| job.pack == Pack::Running);
    if running().count() >= total {
        return None;
    }
    jobs.iter()
        .filter_map(|job| match job.pack {
            Pack::Waiting(since) => Some((job, since)),
            Pack::Running => None,
        })
        .filter(|(job, _)| running().filter(|r| r.repository == job.repository).count() < job.most)
        .min_by_key(|(job, since)| {
            let its = |address: &[u8; 16]| Strangers::are_one(*address, job.address);
            let last_turn = turns.iter().position(its).map_or(0, |at| at.saturating_add(1));
            (running().filter(|r| its(&r.address)).count(), last_turn, *since, job.number)
        })
        .map(|(job, _)| job)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> [u8; 16] {
        std::net::Ipv4Addr::new(192, 0, 2, last).to_ipv6_mapped().octets()
    }

    /// Lets packs run in turns of one each, and returns in which order the addresses got them.
    fn order(mut jobs: Vec<Job>, total: usize) -> Vec<u8> {
        let (mut got, mut turns, mut begun) = (Vec::new(), VecDeque::new(), VecDeque::new());
        loop {
            while let Some(number) = next(&jobs, total, &turns).map(|job| job.number) {
                let job = jobs.iter_mut().find(|job| job.number == number).expect("there");
                job.pack = Pack::Running;
                remember(&mut turns, job.address);
                got.push(job.address[15]);
                begun.push_back(number);
            }
            assert!(begun.len() <= total);
            // The one that began first is done first.
            let Some(done) = begun.pop_front() else { return got };
            jobs.retain(|job| job.number != done);
        }
    }

    fn jobs(addresses: &[u8], most: usize) -> Vec<Job> {
        let start = Instant::now();
        let job = |(n, last): (u64, &u8)| Job {
            number: n,
            address: address(*last),
            repository: (1, u64::from(*last)),
            most,
            pack: Pack::Waiting(start + Duration::from_millis(n)),
        };
        (0..).zip(addresses).map(job).collect()
    }

    #[test]
    fn one_address_does_not_starve_the_others() {
        let mut addresses = vec![66; 20];
        addresses.extend([1, 2]);
        for total in [1, 2] {
            let got = order(jobs(&addresses, 100), total);
            assert_eq!(got.len(), 22);
            // However many wait before them: after one of the flood it is the others' turn.
            assert_eq!(got[..3], [66, 1, 2], "{total}");
        }
    }

    #[test]
    fn a_repository_has_so_many_packs_at_a_time() {
        let mut all = jobs(&[1, 1, 1], 2);
        all[0].pack = Pack::Running;
        all[1].pack = Pack::Running;
        let next = |all: &[Job], total| next(all, total, &VecDeque::new()).map(|job| job.number);
        assert_eq!(next(&all, 16), None);
        all[0].most = 3;
        all[2].repository = (1, 99);
        assert_eq!(next(&all, 16), Some(2));
        assert_eq!(next(&all, 2), None);
    }
}
