//! Every process has a limit of memory, and when the machine has none left a session goes before
//! the daemon does.

use regress::Site;
use regress::run::wait_until;

/// The soft limit of data that the kernel holds a process to, in bytes; `None`: there is none.
fn data_limit(pid: i32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("is there");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max data size")).expect("a line about data");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok())
}

fn oom_score(pid: i32) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("is there");
    text.trim().parse().expect("a number")
}

#[test]
fn every_process_has_a_limit_of_memory_and_sessions_go_first() {
    let site = Site::new();
    let daemon = site.start_with(&format!("{}limit process memory 300M\n", site.serve_all()));
    assert!(wait_until(10.0, || daemon.role("repository").len() >= 4), "{:?}", daemon.processes());
    // Not a spawner's: while it starts a session it has the session's score for a moment.
    let own = oom_score(*daemon.role("auth").first().expect("auth is there"));
    for process in daemon.processes_at_rest() {
        // A waiting session has heard nothing from a client, and sets its limit before it does.
        if process.name != "session" {
            let limit = data_limit(process.pid);
            assert!(limit.is_some_and(|bytes| bytes <= 1 << 30), "{process:?}: {limit:?}");
        }
        if process.name == "repository" {
            assert_eq!(data_limit(process.pid), Some(300 << 20));
        }
        let score = oom_score(process.pid);
        let of_a_session = ["session", "repository"].contains(&process.name.as_str());
        assert_eq!(score, if of_a_session { own.max(500) } else { own }, "{process:?}");
    }
}
