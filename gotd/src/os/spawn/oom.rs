//! The order in which the system ends processes when memory runs out: first those of sessions, last
//! those without which the daemon ends.

use std::fs::File;
use std::io::Write;

/// What processes of sessions have in `oom_score_adj`; -1000 is "never", 1000 "first of all".
const SESSIONS: i32 = 500;

/// The `oom_score_adj` of the process that starts others, with which its children begin. Opened
/// before the sandbox hides it.
#[derive(Debug)]
pub struct OomScore {
    file: File,
    own: i32,
}

impl OomScore {
    /// `None`: this system has none.
    pub fn open() -> Option<OomScore> {
        let path = "/proc/self/oom_score_adj";
        let own = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        let file = File::options().write(true).open(path).ok()?;
        Some(OomScore { file, own })
    }

    /// Starts a process of a session: it begins with the score that its starter has at that moment,
    /// which nobody else sees.
    pub fn as_session<T>(&self, start: impl FnOnce() -> T) -> T {
        self.set(self.own.max(SESSIONS));
        let started = start();
        self.set(self.own);
        started
    }

    fn set(&self, score: i32) {
        // Without the right to set it, all processes have the same score.
        let _ = (&self.file).write_all(score.to_string().as_bytes());
    }
}
