//! The processor time that clients use before they get a pack: for lists of references, wants,
//! haves and cuts of history.
//!
//! Each answer costs its client next to nothing to ask for, and the repository process a walk. So
//! it adds up what the kernel says that it has used, asks for a turn, as for a pack, once that is
//! much, and says it here with that and at its end. Used time is counted by user, or by address and
//! the networks around it, for ten minutes. Making packs and indexing pushes have limits of their
//! own and do not count.

use std::time::Instant;

use libproto::message::parent::{Negotiation, ParentToRepo};
use libproto::refusal::Refusal;
use libproto::states::RepoState;

use super::Parent;
use super::queue::Work;
use super::session::Session;
use super::spent::{Client, clients};
use crate::conf::limits::Limit;
use crate::repo::read::budget::over;

impl Session {
    fn spenders(&self) -> Vec<(Client, u64)> {
        clients(self.peer(), self.permit().map(|permit| permit.counted.as_str()))
    }
}

impl Parent {
    /// The budget of a session's negotiation, which depends on its user. The error is the client's
    /// refusal. Only a fetch negotiates.
    pub(super) fn negotiation(&mut self, number: u64, identity: &str) -> Result<Negotiation, Refusal> {
        let Some(session) = self.table.get(number) else { return Ok(Negotiation::default()) };
        if session.is_push() || session.shell().is_some() {
            return Ok(Negotiation::default());
        }
        let clients = clients(session.peer(), Some(identity));
        self.left_for(&clients)
    }

    fn left_for(&mut self, clients: &[(Client, u64)]) -> Result<Negotiation, Refusal> {
        let limit = |limit| self.settings.limits.get(limit).saturating_mul(1000);
        let (connection, per_client) = (limit(Limit::NegotiationCpu), limit(Limit::NegotiationCpuPerClient));
        let left = self.spent.left(clients, per_client, Instant::now());
        if left == 0 {
            return Err(over(Limit::NegotiationCpuPerClient, per_client));
        }
        let ms = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        Ok(Negotiation { connection: ms(connection), left: ms(left), per_client: ms(per_client) })
    }

    /// Counts a session's negotiation, which has used `total` milliseconds so far.
    pub(super) fn spend(&mut self, number: u64, total: u32) {
        let Some(session) = self.table.get(number) else { return };
        let Some(grant) = session.grant_mut() else { return };
        let more = total.saturating_sub(grant.negotiated);
        grant.negotiated = grant.negotiated.max(total);
        let spenders = session.spenders();
        self.spent.add(spenders, more, Instant::now());
    }

    /// Counts the time of a repository process that is about to be killed and cannot report it.
    /// Unless it makes a pack, all its time was for negotiation, up to the budget: no client gets a
    /// walk for nothing by hanging up.
    pub(super) fn spend_at_end(&mut self, number: u64) {
        let most = self.settings.limits.get(Limit::NegotiationCpu).saturating_mul(1000);
        let Some(session) = self.table.get(number) else { return };
        let negotiates =
            session.repo_state == RepoState::Serving && !session.is_push() && session.turn().is_none();
        let child = session.repo.running().filter(|_| negotiates);
        if let Some(time) = child.and_then(|child| crate::os::system::cpu_time_of(child.pid()?)) {
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(most);
            self.spend(number, u32::try_from(ms).unwrap_or(u32::MAX));
        }
    }

    /// A repository process has used much time, and waits for a turn to use more.
    pub(super) fn negotiation_turn(&mut self, number: u64, total: u32) {
        self.spend(number, total);
        let spenders = self.table.get(number).map(|session| session.spenders()).unwrap_or_default();
        match self.left_for(&spenders) {
            Ok(_) => self.need_turn(number, Work::Pack, 0),
            Err(refusal) => self.send_to_repo(number, &ParentToRepo::NoPack(refusal)),
        }
    }
}
