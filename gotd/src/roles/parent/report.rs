//! The log lines about sessions and references, built from typed values.

use std::time::Instant;

use libproto::message::client::ClientKind;
use libproto::message::parent::{Ending, Peer, RefReport, Refusals};
use libproto::names::escape;
use libproto::refusal::Refusal;

use super::Parent;
use super::metrics::Ended;
use super::session::Session;
use super::session::grant::Commit;
use super::session::phase::Connection;
use super::session::process::Process;
use crate::os::log::Level;

impl Parent {
    pub(super) fn log_refusals(&mut self, refusals: &Refusals) {
        let address = refusals.address.map(|a| std::net::Ipv6Addr::from(a).to_canonical().to_string());
        let uid = refusals.uid.map(|uid| uid.to_string()).unwrap_or_default();
        let fields: [(&str, &dyn std::fmt::Display); 4] = [
            ("connections", &refusals.connections),
            ("uid", &uid),
            ("address", &address.unwrap_or_default()),
            ("limit", &refusals.why.text()),
        ];
        self.metrics.refused(refusals);
        self.log.line(Level::Warning, "refused", &fields);
    }

    pub(super) fn log_session(&mut self, session: &Session) {
        let number = session.number;
        let troubles = troubles(session);
        if session.peer().is_none() {
            return self.log_lost(session, &troubles);
        }
        let repo = session.repo_report.clone().unwrap_or_default();
        self.log_warnings(session, &repo.warnings);
        let (pid, uid, address) = origin(session);
        let who = session.identity().or(session.turned_away.as_deref()).unwrap_or_default();
        let rule = session.permit().map(|p| p.rule.clone()).unwrap_or_default();
        let shell = session.shell().map(|shell| &shell.ask);
        let told = session.ask().map(|a| &a.told_address).or(shell.map(|s| &s.told_address));
        let told = told.cloned().unwrap_or_default();
        let repository = session.ask().map(|a| escape(a.repository.as_bytes())).unwrap_or_default();
        let service = shell.map(|s| s.command.name());
        let service = service.or(session.ask().map(|a| a.service.name())).unwrap_or_default();
        let protocol = session.ask().map(|a| a.protocol.to_string()).unwrap_or_default();
        let report = session.phase.report();
        let agent = report.map(|r| r.agent.clone()).unwrap_or_default();
        let (received, sent) = report.map_or((0, 0), |r| (r.received, r.sent));
        let ms = session.accepted().map_or(0, |at| at.elapsed().as_millis());
        let refusal = session.refused.as_ref().or_else(|| report.and_then(|r| r.refusal.as_ref()));
        let refused = session.refused.is_some() || session.is_push() && repo.refusal.is_some();
        // The cause that stands last in the line.
        let causes =
            [session.grant().and_then(|grant| grant.verify_refusal.as_ref()), repo.refusal.as_ref(), refusal];
        let limit = session.gave_way.or_else(|| causes.into_iter().flatten().find_map(Refusal::limit));
        let text = |refusal: Option<&Refusal>| refusal.map(Refusal::to_string).unwrap_or_default();
        let result = result(report.map(|r| r.status), refused);
        let level = if result == "ok" { Level::Info } else { Level::Warning };
        // Two processes often report the same thing.
        let error = joined([text(refusal), text(repo.refusal.as_ref()), troubles]);
        let control = session.hello.as_ref().is_some_and(|h| h.kind == ClientKind::Control);
        let event = if control { "control" } else { "session" };
        // The session does not see the pack of a fetch; the bytes of a push are counted by the
        // session.
        let sent = if session.is_push() { sent } else { sent.saturating_add(repo.bytes) };
        if !control {
            let objects = repo.objects;
            let git = matches!(session.peer(), Some(Peer::Tcp { .. }));
            self.metrics.session(Ended { service, result, limit, received, sent, objects, git });
        }
        self.log.line(
            level,
            event,
            &[
                ("number", &number),
                ("result", &result),
                ("who", &who),
                ("uid", &uid),
                ("pid", &pid),
                ("address", &address),
                ("told-address", &told),
                ("repository", &repository),
                ("service", &service),
                ("protocol", &protocol),
                ("agent", &agent),
                ("objects", &repo.objects),
                ("received", &received),
                ("sent", &sent),
                ("ms", &ms),
                ("rule", &rule),
                ("error", &error),
            ],
        );
    }

    /// A session that ends before it had a client.
    fn log_lost(&mut self, session: &Session, troubles: &str) {
        // A waiting session that the parent itself withdrew is not logged as lost.
        let taken_back = matches!(session.connection, Connection::Recalled)
            || session.killed.as_ref().is_some_and(|killed| killed.why.is_empty());
        if !troubles.is_empty() && !taken_back && self.draining.is_none() {
            self.pauses.of(session.pool).lost(Instant::now());
            self.log.line(
                Level::Warning,
                "waiting session lost",
                &[("session", &session.number), ("why", &troubles)],
            );
        }
    }

    fn log_warnings(&mut self, session: &Session, warnings: &[String]) {
        let number = session.number;
        for warning in warnings.iter().take(16) {
            let repository = session.ask().map(|a| escape(a.repository.as_bytes())).unwrap_or_default();
            let fields: [(&str, &dyn std::fmt::Display); 3] =
                [("session", &number), ("repository", &repository), ("warning", warning)];
            self.log.line(Level::Warning, "repository", &fields);
        }
    }

    pub(super) fn log_ref(&mut self, number: u64, report: &RefReport) {
        let Some(session) = self.table.get(number) else { return };
        let who = session.permit().map(|p| p.identity.clone()).unwrap_or_default();
        let repository = session.ask().map(|a| escape(a.repository.as_bytes())).unwrap_or_default();
        let (name, target) = (escape(&report.name), escape(&report.target));
        let refused = report.refused.as_ref().map(Refusal::to_string).unwrap_or_default();
        self.metrics.reference(report.refused.is_some());
        self.metrics.limit(report.refused.as_ref().and_then(Refusal::limit), 1);
        let (level, event) = if report.refused.is_none() {
            (Level::Info, "reference")
        } else {
            (Level::Warning, "reference refused")
        };
        self.log.line(
            level,
            event,
            &[
                ("number", &number),
                ("who", &who),
                ("repository", &repository),
                ("name", &name),
                ("target", &target),
                ("old", &report.old),
                ("new", &report.new),
                ("error", &refused),
            ],
        );
    }
}

/// The word for how a session ended.
fn result(status: Option<u8>, refused: bool) -> &'static str {
    match (status, refused) {
        (_, true) => "refused",
        (Some(0), _) => "ok",
        (Some(_), _) => "failed",
        (None, _) => "lost",
    }
}

/// Joins the texts, leaving out those that only repeat the one before.
fn joined(texts: [String; 3]) -> String {
    let mut texts = Vec::from(texts);
    texts.retain(|text| !text.is_empty());
    texts.dedup();
    texts.join("; ")
}

/// Where a client came from: its process and user, or its address.
fn origin(session: &Session) -> (String, String, String) {
    match session.peer() {
        Some(Peer::Unix { pid, uid, .. }) => (pid.to_string(), uid.to_string(), String::new()),
        Some(Peer::Tcp { address, port }) => (String::new(), String::new(), socket_name(*address, *port)),
        None => Default::default(),
    }
}

/// What went wrong with the processes of a session.
fn troubles(session: &Session) -> String {
    let ended = |process: &str, ending: &Ending| {
        if *ending == Ending::Exit(0) { String::new() } else { format!("{process} {ending}") }
    };
    let mut troubles: Vec<String> = Vec::new();
    if let Process::Ended(ending) = &session.session {
        troubles.push(ended("session", ending));
    }
    // Where a session is refused, its repository process was ended by us.
    let dismissed = session.refused.as_ref().is_some_and(|refusal| *refusal != Refusal::RepositoryEnded);
    if let (Process::Ended(ending), true) = (&session.repo, session.permit().is_some() && !dismissed) {
        troubles.push(ended("repository", ending));
    }
    if let Some(grant) = session.grant() {
        if let Some(Process::Ended(ending)) = &grant.verify {
            troubles.push(ended("verify", ending));
        }
        if let Commit::Started(Process::Ended(ending)) = &grant.commit {
            troubles.push(ended("commit_refs", ending));
        }
        troubles.extend(grant.verify_refusal.as_ref().map(Refusal::to_string));
    }
    troubles.extend(session.killed.as_ref().map(|killed| format!("ended: {}", killed.why)));
    troubles.retain(|t| !t.is_empty());
    troubles.join(", ")
}

/// The peer as the system knows it: uid, or address and port.
pub(super) fn peer_name(peer: &Peer) -> String {
    match peer {
        Peer::Unix { uid, pid, .. } => format!("uid {uid} pid {pid}"),
        Peer::Tcp { address, port } => socket_name(*address, *port),
    }
}

/// Address and port: an IPv6 address is in brackets, so that a reader of logs can tell them apart.
fn socket_name(address: [u8; 16], port: u16) -> String {
    std::net::SocketAddr::new(std::net::Ipv6Addr::from(address).to_canonical(), port).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn address_and_port_can_be_told_apart() {
        let v4 = std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        assert_eq!(super::socket_name(v4, 99), "192.0.2.1:99");
        let v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().expect("an address").octets();
        assert_eq!(super::socket_name(v6, 99), "[2001:db8::1]:99");
    }
}
