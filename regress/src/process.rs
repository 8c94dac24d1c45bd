//! Processes as /proc tells about them.

use std::collections::HashMap;
use std::fs;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its name: for a process of gotd its role.
    pub name: String,
    /// `Z` for one that has ended and was not reaped.
    pub state: char,
}

/// Every process of a process group.
pub fn group(group: i32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let its_group: i32 = fields.next()?.parse().ok()?;
        (its_group == group).then(|| Process { pid, parent, name: name.into(), state })
    })
    .collect()
}

/// The fields of /proc/PID/status; empty when there is no such process.
pub fn status(pid: i32) -> HashMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

/// The largest resident size that a process has had, in bytes.
pub fn peak_memory(pid: i32) -> Option<u64> {
    let peak = status(pid).remove("VmHWM")?;
    peak.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The effective user id of a process.
pub fn uid(pid: i32) -> Option<u32> {
    status(pid).get("Uid")?.split_whitespace().nth(1)?.parse().ok()
}
