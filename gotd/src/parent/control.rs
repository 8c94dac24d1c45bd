//! What the parent answers to gotctl.

use std::time::Instant;

use libproto::message::parent::Peer;
use libproto::names::escape;
use libproto::states::SessionState;

use super::start::Settings;
use super::table::{Session, Table};

/// Most sessions that one answer lists.
const MOST_SESSIONS: usize = 512;

/// The lines of `gotctl info`. `asking` is the session of the one who asks, which is left out.
pub fn info(table: &Table, settings: &Settings, started: Instant, served: u64, asking: u64) -> Vec<String> {
    let busy: Vec<&Session> = table
        .iter()
        .filter(|s| s.peer.is_some() && s.session.running().is_some() && s.number != asking)
        .collect();
    let waiting = table.iter().filter(|s| s.is_free()).count();
    let mut lines = vec![
        format!("gotd {} pid {}", crate::BUILD, std::process::id()),
        format!("up {} seconds, {served} sessions served", started.elapsed().as_secs()),
        format!("{} sessions under way, {waiting} waiting for a client", busy.len()),
    ];
    for path in &settings.sockets {
        lines.push(format!("listening on {}", escape(path.as_bytes())));
    }
    for repository in &settings.repository_names {
        lines.push(repository.clone());
    }
    let mut busy = busy;
    busy.sort_by_key(|s| s.number);
    for session in busy.into_iter().take(MOST_SESSIONS) {
        lines.push(describe(session));
    }
    lines
}

fn describe(session: &Session) -> String {
    let who = match (&session.permit, &session.peer) {
        (Some(permit), _) => permit.identity.clone(),
        (None, Some(Peer::Unix { uid, .. })) => format!("uid {uid}"),
        _ => "unknown".into(),
    };
    let what = match (&session.ask, session.state) {
        (Some(ask), state) => format!(
            "{} {}{}",
            ask.service.name(),
            escape(ask.repository.as_bytes()),
            if state == SessionState::Granted { "" } else { " (not granted yet)" }
        ),
        (None, _) => "no request yet".into(),
    };
    let seconds = session.accepted.map_or(0, |at| at.elapsed().as_secs());
    let pids: Vec<String> = session.pids().iter().map(ToString::to_string).collect();
    format!("session {}: {who}: {what}, {seconds} seconds, pids {}", session.number, pids.join(" "))
}
