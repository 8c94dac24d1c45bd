//! What the parent answers to gotctl.

use std::time::{Duration, Instant};

use libproto::message::client::ControlRequest;
use libproto::message::parent::{GitCounts, LoadConfig, ParentToListen, ParentToSession, Peer, Pool};
use libproto::names::escape;
use libproto::refusal::Refusal;
use libproto::states::SessionState;

use super::listen_place::ListenPlace;
use super::queue::Work;
use super::report::peer_name;
use super::session::Session;
use super::session::table::SessionTable;
use super::set_limits::SetLimit;
use super::turns::Counts;
use super::{Drain, End, Parent};

/// Most sessions that one answer lists.
const MOST_SESSIONS: usize = 512;
/// How long `gotctl stop` waits for sessions under way.
const DRAIN: Duration = Duration::from_secs(30);
/// How long `gotctl stop --now` waits for sessions that it has ended, and how long the answer to
/// either form of `gotctl stop` may take.
const HURRY: Duration = Duration::from_secs(1);

impl Parent {
    /// The control sockets, for the refusal of a control request at another socket.
    fn where_control_is(&self) -> String {
        let of = |place: &&ListenPlace| place.pool() == Pool::Control;
        let all: Vec<String> = self.listeners.iter().filter(of).map(ToString::to_string).collect();
        all.join(" or ")
    }

    /// Whether `listen`'s word allows a connection to control the daemon: the kernel's credentials,
    /// before anything is read.
    pub(super) fn may_control(&self, peer: &Peer) -> bool {
        matches!(peer, Peer::Unix { uid, .. } if self.settings.listen.controllers.contains(uid))
    }

    /// Answers a control request of a connection that may make one.
    pub(super) fn control(&mut self, number: u64, request: &ControlRequest) {
        let Some(session) = self.table.get(number) else { return };
        if session.pool != Pool::Control {
            let sockets = self.where_control_is();
            return self.refuse(number, Refusal::ControlElsewhere(sockets));
        }
        let lines = match request {
            ControlRequest::Info { json: false } => self.info(number),
            ControlRequest::Info { json: true } => self.json(number),
            ControlRequest::Metrics => {
                self.metrics.lines(&self.table, &self.settings, &self.spent, self.started, self.log.dropped())
            }
            ControlRequest::Log { verbose } => {
                self.verbose = *verbose;
                self.log.set_verbose(*verbose || self.settings.log_verbose);
                Vec::new()
            }
            ControlRequest::Stop { now } => {
                let until = Instant::now() + if *now { HURRY } else { DRAIN };
                let asking = self.draining.take().map_or_else(Vec::new, |drain| drain.asking);
                self.draining = Some(Drain { until, asking: asking.into_iter().chain([number]).collect() });
                self.listen_out.send(&self.listen.channel, 0, &ParentToListen::Drain(()));
                let others = self.table.iter().map(|s| s.number).filter(|n| *now && *n != number);
                for other in others.collect::<Vec<_>>() {
                    self.end_session(other, "gotctl stop --now");
                }
                // Answered when there is nothing more to wait for.
                return;
            }
            ControlRequest::Reload { files: [path, secrets] } => {
                let known = self.files.clone();
                let named = |new: &Vec<u8>, old| if new.is_empty() { old } else { new.clone() };
                let files =
                    LoadConfig { path: named(path, known.path), secrets: named(secrets, known.secrets) };
                return self.reload(Some(files), Some(number));
            }
        };
        self.send_to_control(number, packed(lines).into_iter().chain([ParentToSession::Done(())]));
    }

    /// While draining: whether nothing is left to wait for.
    pub(super) fn drained(&mut self) -> Option<End> {
        let drain = self.draining.as_mut()?;
        let busy = |s: &&Session| s.is_under_way();
        let others = self.table.iter().filter(busy).filter(|s| !drain.asking.contains(&s.number)).count();
        let late = Instant::now() >= drain.until;
        if drain.asking.is_empty() {
            return (late || others == 0).then_some(End::Stopped);
        }
        if late || others == 0 {
            drain.until = Instant::now() + HURRY;
            for number in std::mem::take(&mut drain.asking) {
                self.send_to_control(number, [ParentToSession::Done(())].into_iter());
            }
        }
        None
    }

    /// Sends the answer to a control request.
    pub(super) fn send_to_control(&mut self, number: u64, mut answer: impl Iterator<Item = ParentToSession>) {
        let Some(session) = self.table.get(number) else { return };
        let Some(child) = session.session.running() else { return };
        let sent = answer.try_for_each(|message| child.channel.try_send(number, &message));
        if sent.is_err() {
            self.end_session(number, "does not listen");
        }
    }
}

/// Most bytes of lines in one message, before the last of them.
const PACKED_BYTES: usize = 8_000;

/// Lines in as few messages as hold them: the parent waits for nobody, and a socket has room for
/// some hundred messages.
pub(super) fn packed(lines: Vec<String>) -> Vec<ParentToSession> {
    let mut messages: Vec<String> = Vec::new();
    for line in lines {
        match messages.last_mut() {
            Some(last) if last.len() < PACKED_BYTES => {
                last.push('\n');
                last.push_str(&line);
            }
            _ => messages.push(line),
        }
    }
    messages.into_iter().map(ParentToSession::Line).collect()
}

/// The sessions that `gotctl info` shows, oldest first.
fn busy(table: &SessionTable, asking: u64) -> Vec<&Session> {
    let shown = |s: &&Session| s.is_under_way() && s.number != asking;
    let mut busy: Vec<&Session> = table.iter().filter(shown).collect();
    busy.sort_by_key(|s| s.number);
    busy
}

impl Parent {
    /// The lines of `gotctl info`. `asking` is the session that asks; it is left out.
    fn info(&self, asking: u64) -> Vec<String> {
        let busy = busy(&self.table, asking);
        let waiting = self.table.waiting();
        let mut lines = vec![
            format!("gotd {} pid {}", crate::VERSION, std::process::id()),
            format!("up {} seconds, {} sessions served", self.started.elapsed().as_secs(), self.served),
            format!("{} sessions under way, {waiting} waiting for a client", busy.len()),
        ];
        lines.extend(self.listeners.iter().map(|place| match place {
            ListenPlace::Control(_) => format!("controlled at {place}"),
            _ => format!("listening on {place}"),
        }));
        if self.takes_descriptors {
            lines.push(super::TAKES_DESCRIPTORS.into());
        }
        lines.push(match &self.one_uid {
            Some(why) => format!("accounts: {why}"),
            None => {
                let [owner, client, daemon] = &self.settings.accounts_named;
                format!("accounts: repositories {owner}, sessions {client}, daemon {daemon}")
            }
        });
        if self.settings.pools.iter().any(|(pool, _)| *pool == Pool::Tcp) {
            let GitCounts { accepted, silent, waiting, served } = self.metrics.git.connections;
            let Counts { running, waiting: queued, stalled } = super::turns::git_packs(&self.table);
            lines.push(format!(
                "git:// connections: {accepted} accepted, {silent} silent, {waiting} waiting for a session, {served} served"
            ));
            lines.push(format!(
                "git:// packs: {running} at work, {queued} waiting, {stalled} whose client takes nothing"
            ));
        }
        let (packs, pushes) = (self.table.turns(Work::Pack), self.table.turns(Work::Push));
        for (name, turns, of) in [("packs", packs, "takes"), ("pushes", pushes, "gives")] {
            let Counts { running, waiting, stalled } = turns;
            lines.push(format!(
                "{name}: {running} at work, {waiting} waiting, {stalled} whose client {of} nothing"
            ));
        }
        lines.push(format!(
            "memory of packs and pushes: {} of {} megabytes",
            self.table.reserved() >> 20,
            self.settings.turns.memory >> 20
        ));
        lines.extend(self.settings.repository_names.iter().cloned());
        if self.settings.informative_errors {
            lines.push("connection informative errors".into());
        }
        lines.extend(self.settings.set.told.iter().map(SetLimit::line));
        if self.settings.set.more > 0 {
            lines.push(format!("{} more limits are not shown", self.settings.set.more));
        }
        let not_honoured = self.own_configs.shown();
        lines.extend(not_honoured.map(|(path, note)| format!("not honoured in {path}: {note}")));
        if self.own_configs.more() > 0 {
            lines.push(format!("the config of {} more repositories is not shown", self.own_configs.more()));
        }
        lines.extend(busy.into_iter().take(MOST_SESSIONS).map(describe));
        lines
    }

    /// The same as one JSON object, over several lines.
    fn json(&self, asking: u64) -> Vec<String> {
        let busy = busy(&self.table, asking);
        let waiting = self.table.waiting();
        let mut lines = vec![format!(
            "{{\"version\":{},\"pid\":{},\"up_seconds\":{},\"served\":{},\"active\":{},\"waiting\":{waiting},\"refuses_descriptors\":{},\"one_uid\":{},",
            text(crate::VERSION),
            std::process::id(),
            self.started.elapsed().as_secs(),
            self.served,
            busy.len(),
            !self.takes_descriptors,
            self.one_uid.is_some(),
        )];
        let texts = |all: &mut dyn Iterator<Item = String>| all.map(|t| text(&t)).collect::<Vec<_>>();
        let of = |pool| move |place: &&ListenPlace| place.pool() == pool;
        let (unix, git) = (of(Pool::Unix), of(Pool::Tcp));
        let sockets = texts(&mut self.listeners.iter().filter(unix).map(ToString::to_string));
        lines.extend(array("sockets", &sockets, ","));
        let controls = texts(&mut self.listeners.iter().filter(of(Pool::Control)).map(ToString::to_string));
        lines.extend(array("control_sockets", &controls, ","));
        let addresses = texts(&mut self.listeners.iter().filter(git).map(ToString::to_string));
        lines.extend(array("git_addresses", &addresses, ","));
        let GitCounts { accepted, silent, waiting, served } = self.metrics.git.connections;
        let packs = super::turns::git_packs(&self.table);
        let (making, queued) = (packs.running, packs.waiting);
        lines.push(format!(
            "\"git\":{{\"accepted\":{accepted},\"silent\":{silent},\"waiting\":{waiting},\"served\":{served},\"packs\":{making},\"packs_waiting\":{queued}}},"
        ));
        lines.push(format!(
            "\"memory\":{{\"reserved\":{},\"limit\":{}}},",
            self.table.reserved(),
            self.settings.turns.memory
        ));
        let names = texts(&mut self.settings.repository_names.iter().cloned());
        lines.extend(array("repositories", &names, ","));
        lines.push(format!("\"informative_errors\":{},", self.settings.informative_errors));
        let set = &self.settings.set;
        lines.extend(array("limits", &set.told.iter().map(limit_json).collect::<Vec<_>>(), ","));
        lines.push(format!("\"limits_not_shown\":{},", set.more));
        let not_honoured = self.own_configs.shown();
        let not_honoured: Vec<String> = not_honoured
            .map(|(path, note)| format!("{{\"path\":{},\"note\":{}}}", text(&path), text(note)))
            .collect();
        lines.extend(array("not_honoured", &not_honoured, ","));
        let sessions: Vec<String> = busy.into_iter().take(MOST_SESSIONS).map(session_json).collect();
        lines.extend(array("sessions", &sessions, "}"));
        lines
    }
}

fn describe(session: &Session) -> String {
    let who = match (session.permit(), session.peer()) {
        (Some(permit), Some(peer @ Peer::Tcp { .. })) => {
            format!("{} from {}", permit.identity, peer_name(peer))
        }
        (Some(permit), _) => permit.identity.clone(),
        (None, Some(Peer::Unix { uid, .. })) => format!("uid {uid}"),
        (None, Some(peer)) => peer_name(peer),
        (None, None) => "unknown".into(),
    };
    let what = match (session.ask(), session.state()) {
        (Some(ask), state) => format!(
            "{} {}{}",
            ask.service.name(),
            escape(ask.repository.as_bytes()),
            if state == SessionState::Granted { "" } else { " (not granted yet)" }
        ),
        (None, _) => "no request yet".into(),
    };
    let seconds = session.accepted().map_or(0, |at| at.elapsed().as_secs());
    let pids = pids(session);
    format!("session {}: {who}: {what}, {seconds} seconds, pids {}", session.number, pids.join(" "))
}

/// The processes of a session, as the system calls them.
fn pids(session: &Session) -> Vec<String> {
    session.processes().filter_map(|process| Some(process.pid()?.to_string())).collect()
}

fn array(name: &str, items: &[String], end: &str) -> Vec<String> {
    let mut lines = vec![format!("\"{name}\":[")];
    for (at, item) in items.iter().enumerate() {
        lines.push(format!("{item}{}", if at + 1 < items.len() { "," } else { "" }));
    }
    lines.push(format!("]{end}"));
    lines
}

fn limit_json(set: &SetLimit) -> String {
    let of = set.of.as_ref().map(|(word, name)| format!("{}:{},", text(word), text(name)));
    let value = set.number().map_or_else(|| "null".to_owned(), |number| number.to_string());
    let (directive, of) = (text(&set.limit.directive()), of.unwrap_or_default());
    format!("{{\"directive\":{directive},{of}\"value\":{value}}}")
}

fn session_json(session: &Session) -> String {
    let who = match (session.permit(), session.peer()) {
        (Some(permit), _) => text(&permit.identity),
        _ => "null".into(),
    };
    let from = match session.peer() {
        Some(Peer::Unix { uid, pid, .. }) => format!("\"uid\":{uid},\"pid\":{pid}"),
        Some(Peer::Tcp { address, .. }) => {
            format!("\"address\":{}", text(&std::net::Ipv6Addr::from(*address).to_canonical().to_string()))
        }
        None => "\"uid\":null".into(),
    };
    let (service, repository) = match session.ask() {
        Some(ask) => (text(ask.service.name()), text(&ask.repository.to_string())),
        None => ("null".into(), "null".into()),
    };
    let pids = pids(session);
    format!(
        "{{\"number\":{},\"who\":{who},{from},\"service\":{service},\"repository\":{repository},\"granted\":{},\"seconds\":{},\"processes\":[{}]}}",
        session.number,
        session.state() == SessionState::Granted,
        session.accepted().map_or(0, |at| at.elapsed().as_secs()),
        pids.join(",")
    )
}

/// A string of JSON.
fn text(value: &str) -> String {
    let mut out = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_lines_are_few_messages_and_all_there() {
        let lines: Vec<String> = (0..5000).map(|n| format!("line {n}")).collect();
        let messages = packed(lines.clone());
        assert!(messages.len() < 10, "{}", messages.len());
        let texts = messages.into_iter().map(|message| match message {
            ParentToSession::Line(text) => text,
            other => panic!("{other:?}"),
        });
        let texts: Vec<String> = texts.collect();
        assert!(texts.iter().all(|text| text.len() < 2 * PACKED_BYTES));
        assert_eq!(texts.join("\n"), lines.join("\n"));
    }

    #[test]
    fn a_string_cannot_leave_its_quotes() {
        assert_eq!(super::text("a\"b\\c\n\u{1b}é"), "\"a\\\"b\\\\c\\u000a\\u001bé\"");
    }
}
