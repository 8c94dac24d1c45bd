//! What the daemon's processes use, looked at while something happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use regress::process;

/// The most that was seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Most {
    /// Processes.
    pub processes: usize,
    /// Bytes of memory that belong to one of them alone, added up.
    pub memory: u64,
}

/// Looks at a process group until it is told to end.
pub struct Usage {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Most>,
}

impl Usage {
    /// Begins to look.
    pub fn watch(group: i32) -> Usage {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut most = Most::default();
            while !told.load(Ordering::Relaxed) {
                let all: Vec<_> = process::group(group).into_iter().filter(|p| p.state != 'Z').collect();
                most.processes = most.processes.max(all.len());
                most.memory = most.memory.max(all.iter().map(|p| own_memory(p.pid)).sum());
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        Usage { stop, thread }
    }

    /// Ends, and tells the most that was seen.
    pub fn end(self) -> Most {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watching thread does not panic")
    }
}

/// Anonymous memory of a process, in bytes.
fn own_memory(pid: i32) -> u64 {
    let line = process::status(pid).remove("RssAnon").unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10
}
