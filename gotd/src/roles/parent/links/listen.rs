//! What `listen` says.

use std::time::Instant;

use libproto::message::parent::{ListenToParent, Peer, Pool};
use libproto::states::Role;
use nix::poll::PollFlags;

use super::super::error::{Fatal, Loss};
use super::super::session::phase::Connection;
use super::super::{End, Parent, report};
use crate::os::log::Level;

impl Parent {
    pub(in crate::roles::parent) fn on_listen(&mut self, events: PollFlags) -> Option<End> {
        if events.contains(PollFlags::POLLOUT) {
            self.listen_out.flush(&self.listen.channel);
        }
        loop {
            let received = match self.listen.channel.try_recv() {
                Ok(received) => received,
                Err(e) if e.is_transient() => return None,
                Err(e) => return Some(self.lost(self.listen.number(), Role::Listen, Loss::Recv(e))),
            };
            match received.message {
                ListenToParent::Hello(_) => {
                    return Some(End::Lost(Fatal { role: Role::Listen, why: Loss::GreetedTwice }));
                }
                ListenToParent::Accepted(peer) => self.accepted(received.peer, peer),
                ListenToParent::Refused(refusals) => self.log_refusals(&refusals),
                ListenToParent::Recalled(()) => self.recalled(received.peer),
                ListenToParent::Deserted(()) => self.deserted(),
                ListenToParent::Git(counts) => self.metrics.git.connections = counts,
                ListenToParent::EndsWith(uid) => self.ends_with(received.peer, uid),
                ListenToParent::Full(newcomer) => self.make_room(newcomer),
                ListenToParent::HandoverFailed(text) => self.handover_failed(received.peer, &text),
            }
        }
    }

    /// `listen` tried to give a connection to a session that was already gone. Any client can bring
    /// this about, so no other connection waits because of it.
    pub(in crate::roles::parent) fn handover_failed(&mut self, number: u64, why: &str) {
        self.log.line(Level::Warning, "handover", &[("session", &number), ("error", &why)]);
        if let Some(session) = self.table.get(number) {
            session.recall();
        }
        self.end_session(number, why);
    }

    /// `listen`'s word about a session: only now anything is decided for it.
    pub(in crate::roles::parent) fn accepted(&mut self, number: u64, peer: Peer) {
        let Some(session) = self.table.get(number) else { return };
        if !matches!(session.connection, Connection::Offered | Connection::Recalled) {
            return self.end_session(number, "a second word about its connection");
        }
        session.connection = Connection::Taken(peer.clone(), Instant::now());
        let pool = session.pool;
        self.pauses.of(pool).served();
        self.log.line(Level::Debug, "accepted", &[("number", &number), ("peer", &report::peer_name(&peer))]);
        if self.table.get(number).is_some_and(|s| s.pool == Pool::Control) && !self.may_control(&peer) {
            return self.end_session(number, "control by somebody who does not control the daemon");
        }
        self.consider_user(number);
        self.consider(number);
        self.consider_control(number);
        self.consider_shell(number);
    }
}
