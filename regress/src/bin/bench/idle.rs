//! The memory of sessions that wait for their clients.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use regress::raw::Session;
use regress::site::Site;

use crate::measure::{configuration, start};

/// Sessions at once.
const SESSIONS: usize = 400;

/// Opens the sessions, each of which has sent its advertisement of version 2, and adds up the
/// memory of the daemon's processes; prints it and returns rows of JSON.
pub fn bench(repository: &Path, only: &[String]) -> Vec<String> {
    if !crate::wanted(only, "idle") {
        return Vec::new();
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard);
    }
    let site = Site::new();
    let daemon = start(&site, &configuration(&site, repository));
    let mut sessions: Vec<Session> = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        let mut session = Session::fetch(&site.socket(), "bench", 2);
        if session.read_to_flush().is_empty() {
            eprintln!("idle: the session number {} was not served", sessions.len() + 1);
            return Vec::new();
        }
        sessions.push(session);
    }
    let processes = daemon.processes();
    if processes.len() < SESSIONS * 2 {
        eprintln!("idle: only {} processes are left:\n{}", processes.len(), daemon.log());
        return Vec::new();
    }
    let shares: Option<Vec<u64>> = processes.iter().map(|p| proportional(p.pid)).collect();
    let Some(kilobytes) = shares.map(|shares| shares.iter().sum::<u64>()) else {
        println!("idle: the memory of the daemon's processes can only be read as root");
        return Vec::new();
    };
    println!(
        "idle              {SESSIONS} sessions, {} processes, {} MB proportional set size in all",
        processes.len(),
        kilobytes / 1024
    );
    vec![format!(
        "{{\"repository\": {:?}, \"workload\": \"idle\", \"sessions\": {SESSIONS}, \"processes\": {}, \"proportional_set_kilobytes\": {kilobytes}}}",
        repository.display().to_string(),
        processes.len()
    )]
}

/// Kilobytes of a process's proportional set; `None`: not allowed to read it.
fn proportional(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
