//! What the daemon counts, for `gotctl metrics`: the text format of OpenMetrics 1.0.
//!
//! Labels come from fixed tables and the configuration only: nothing that a client sent becomes
//! one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use libproto::message::parent::{GitCounts, NoSession, Pool, Refusals};
use libproto::names::escape;

use super::queue::Work;
use super::session::table::SessionTable;
use super::settings::Settings;
use super::spent::Spent;
use crate::conf::limits::Limit;

/// Counters since the start of the daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sessions that are over, by service and result.
    sessions: BTreeMap<(&'static str, &'static str), u64>,
    /// Clients that ran into each limit.
    limits: BTreeMap<Limit, u64>,
    received: u64,
    sent: u64,
    objects: u64,
    references: [u64; 2],
    reloads: [u64; 2],
    created: u64,
    /// What concerns git:// alone.
    pub(super) git: Git,
}

/// Counters of git:// since the start of the daemon.
#[derive(Debug, Default)]
pub struct Git {
    /// What `listen` said last.
    pub connections: GitCounts,
    /// Connections that got no session, by reason.
    refused: BTreeMap<NoSession, u64>,
    /// Packs that could not be begun at once.
    pub queued: u64,
    received: u64,
    sent: u64,
}

/// What is counted about a session at its end.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The service, empty when it was not told.
    pub service: &'static str,
    /// `ok`, `refused`, `failed` or `lost`.
    pub result: &'static str,
    /// The limit of gotd.conf for which it ended.
    pub limit: Option<Limit>,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// Objects, either way.
    pub objects: u64,
    /// It came over git://.
    pub git: bool,
}

impl Metrics {
    /// A session is over.
    pub fn session(&mut self, ended: Ended) {
        let service = if ended.service.is_empty() { "none" } else { ended.service };
        let count = self.sessions.entry((service, ended.result)).or_default();
        *count = count.saturating_add(1);
        self.received = self.received.saturating_add(ended.received);
        self.sent = self.sent.saturating_add(ended.sent);
        self.objects = self.objects.saturating_add(ended.objects);
        if ended.git {
            self.git.received = self.git.received.saturating_add(ended.received);
            self.git.sent = self.git.sent.saturating_add(ended.sent);
        }
        self.limit(ended.limit, 1);
    }

    /// Connections got no session.
    pub fn refused(&mut self, refusals: &Refusals) {
        let times = u64::from(refusals.connections);
        self.limit(refusals.why.limit(), times);
        if refusals.pool == Pool::Tcp {
            let count = self.git.refused.entry(refusals.why).or_default();
            *count = count.saturating_add(times);
        }
    }

    /// Counts a limit that was reached, if one was.
    pub fn limit(&mut self, limit: Option<Limit>, times: u64) {
        if let Some(limit) = limit {
            let count = self.limits.entry(limit).or_default();
            *count = count.saturating_add(times);
        }
    }

    /// A reference changed, or was refused.
    pub fn reference(&mut self, refused: bool) {
        let count = &mut self.references[usize::from(refused)];
        *count = count.saturating_add(1);
    }

    /// A push made a repository.
    pub fn created(&mut self) {
        self.created = self.created.saturating_add(1);
    }

    /// The configuration was read anew, or could not be.
    pub fn reload(&mut self, failed: bool) {
        let count = &mut self.reloads[usize::from(failed)];
        *count = count.saturating_add(1);
    }

    fn write_counters(&self, out: &mut Text) {
        out.family("gotd_sessions", "counter", "Sessions that are over.");
        for ((service, result), value) in &self.sessions {
            out.sample("gotd_sessions_total", &[("service", service), ("result", result)], *value);
        }
        out.family("gotd_limits_reached", "counter", "Clients that ran into a limit.");
        for (limit, value) in &self.limits {
            out.sample("gotd_limits_reached_total", &[("directive", &limit.directive())], *value);
        }
        out.family("gotd_received_bytes", "counter", "Bytes from clients.");
        out.sample("gotd_received_bytes_total", &[], self.received);
        out.family("gotd_sent_bytes", "counter", "Bytes to clients.");
        out.sample("gotd_sent_bytes_total", &[], self.sent);
        out.family("gotd_objects", "counter", "Objects in packs, in either direction.");
        out.sample("gotd_objects_total", &[], self.objects);
        out.family("gotd_references", "counter", "Commands of pushes.");
        for (result, value) in ["ok", "refused"].iter().zip(self.references) {
            out.sample("gotd_references_total", &[("result", result)], value);
        }
        out.family("gotd_repositories_created", "counter", "Repositories that a push made.");
        out.sample("gotd_repositories_created_total", &[], self.created);
        out.family("gotd_reloads", "counter", "Configurations that were read anew.");
        for (result, value) in ["ok", "failed"].iter().zip(self.reloads) {
            out.sample("gotd_reloads_total", &[("result", result)], value);
        }
    }

    /// All of it as lines, the last of which is `# EOF`.
    pub fn lines(
        &self,
        table: &SessionTable,
        settings: &Settings,
        spent: &Spent,
        started: Instant,
        dropped: u64,
    ) -> Vec<String> {
        let mut out = Text::default();
        out.family("gotd_build", "info", "The running version.");
        out.sample("gotd_build_info", &[("version", crate::VERSION)], 1);
        out.family("gotd_uptime_seconds", "gauge", "Seconds since the start.");
        out.sample("gotd_uptime_seconds", &[], started.elapsed().as_secs());
        let busy = table.iter().filter(|s| s.is_under_way()).count();
        let waiting = table.waiting();
        let processes: usize = table.iter().map(|s| s.processes().count()).sum();
        out.family("gotd_sessions_active", "gauge", "Sessions under way.");
        out.sample("gotd_sessions_active", &[], count(busy));
        out.family("gotd_sessions_waiting", "gauge", "Sessions that wait for a client.");
        out.sample("gotd_sessions_waiting", &[], count(waiting));
        out.family("gotd_session_processes", "gauge", "Processes of sessions.");
        out.sample("gotd_session_processes", &[], count(processes));
        write_turns(&mut out, table, settings);
        self.write_counters(&mut out);
        out.family("gotd_negotiation_milliseconds", "counter", "Processor time of negotiation.");
        out.sample("gotd_negotiation_milliseconds_total", &[], spent.total);
        self.git.write(&mut out, table);
        out.family("gotd_log_lines_dropped", "counter", "Lines that the log did not take.");
        out.sample("gotd_log_lines_dropped_total", &[], dropped);
        out.family(
            "gotd_informative_errors",
            "gauge",
            "Whether git:// clients are told why they are refused.",
        );
        out.sample("gotd_informative_errors", &[], settings.informative_errors.into());
        out.family("gotd_limit", "gauge", "Limits that were set, other than none.");
        // A limit of `none` has no number and is left out. It is not written as infinite, because
        // it is not always: for `limit memory total` it means half of the machine's memory, which
        // gotd_memory_limit_bytes tells.
        for set in &settings.set.told {
            let Some(number) = set.number() else { continue };
            let directive = set.limit.directive();
            let of = set.of.as_ref().map(|(word, name)| (*word, name.as_str()));
            let labels: Vec<(&str, &str)> =
                [("directive", directive.as_str())].into_iter().chain(of).collect();
            out.sample("gotd_limit", &labels, number);
        }
        out.0.push("# EOF".into());
        out.0
    }
}

/// Turns for costly work, and their memory.
fn write_turns(out: &mut Text, table: &SessionTable, settings: &Settings) {
    let (packs, pushes) = (table.turns(Work::Pack), table.turns(Work::Push));
    for (name, help, value) in [
        ("gotd_packs_active", "Packs that are being made for fetches.", packs.running),
        ("gotd_packs_waiting", "Packs that wait to be made.", packs.waiting),
        ("gotd_packs_stalled", "Packs that wait for their client, without a place.", packs.stalled),
        ("gotd_pushes_active", "Pushes that are being indexed and checked.", pushes.running),
        ("gotd_pushes_waiting", "Pushes that wait for it.", pushes.waiting),
        ("gotd_pushes_stalled", "Pushes that wait for their client, without a place.", pushes.stalled),
    ] {
        out.family(name, "gauge", help);
        out.sample(name, &[], count(value));
    }
    out.family("gotd_memory_reserved_bytes", "gauge", "Memory that packs and pushes have reserved.");
    out.sample("gotd_memory_reserved_bytes", &[], table.reserved());
    out.family("gotd_memory_limit_bytes", "gauge", "Memory that they may reserve.");
    out.sample("gotd_memory_limit_bytes", &[], settings.turns.memory);
}

impl Git {
    fn write(&self, out: &mut Text, table: &SessionTable) {
        let GitCounts { accepted, silent, waiting, served } = self.connections;
        out.family("gotd_git_connections", "gauge", "Connections over git://, by how far they are.");
        for (state, value) in [("silent", silent), ("waiting", waiting), ("served", served)] {
            out.sample("gotd_git_connections", &[("state", state)], value.into());
        }
        out.family("gotd_git_accepted", "counter", "Connections over git:// that were accepted.");
        out.sample("gotd_git_accepted_total", &[], accepted);
        out.family("gotd_git_refused", "counter", "Of these, those that got no session.");
        for (why, value) in self.refused.iter().filter(|(why, _)| **why != NoSession::GaveWay) {
            out.sample("gotd_git_refused_total", &[("reason", &why.text())], *value);
        }
        out.family("gotd_git_evicted", "counter", "Of these, those that gave way to another address.");
        let evicted = self.refused.get(&NoSession::GaveWay).copied().unwrap_or(0);
        out.sample("gotd_git_evicted_total", &[], evicted);
        let super::turns::Counts { running, waiting, stalled } = super::turns::git_packs(table);
        out.family("gotd_git_packs", "gauge", "Packs for git:// clients.");
        for (state, value) in [("running", running), ("waiting", waiting), ("stalled", stalled)] {
            out.sample("gotd_git_packs", &[("state", state)], count(value));
        }
        out.family("gotd_git_packs_queued", "counter", "Packs that had to wait for others.");
        out.sample("gotd_git_packs_queued_total", &[], self.queued);
        out.family("gotd_git_received_bytes", "counter", "Bytes from git:// clients.");
        out.sample("gotd_git_received_bytes_total", &[], self.received);
        out.family("gotd_git_sent_bytes", "counter", "Bytes to git:// clients.");
        out.sample("gotd_git_sent_bytes_total", &[], self.sent);
    }
}

#[derive(Default)]
struct Text(Vec<String>);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0.push(format!("# TYPE {name} {kind}"));
        self.0.push(format!("# HELP {name} {help}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let mut line = name.to_owned();
        let mut before = '{';
        for (label, value) in labels {
            let _ = write!(line, "{before}{label}=\"{}\"", escape(value.as_bytes()));
            before = ',';
        }
        if !labels.is_empty() {
            line.push('}');
        }
        let _ = write!(line, " {value}");
        self.0.push(line);
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
