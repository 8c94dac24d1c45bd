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
    // Not `stat`: reading that waits for a process that hangs in execve(2).
    pids.filter_map(|pid: i32| {
        let mut status = status(pid);
        let its_group: i32 = status.get("NSpgid")?.split_whitespace().next()?.parse().ok()?;
        let state = status.get("State")?.chars().next()?;
        let parent = status.get("PPid")?.parse().ok()?;
        (its_group == group).then(|| Process {
            pid,
            parent,
            name: status.remove("Name").unwrap_or_default(),
            state,
        })
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

/// Seconds of processor time of a daemon and of the children that it and its spawners have reaped.
pub fn daemon_cpu(pid: i32) -> f64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    let is_spawner = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "spawn")
    };
    process_cpu(pid) + children.filter(is_spawner).map(process_cpu).sum::<f64>()
}

/// Seconds of processor time of a process, and of its children that it has reaped.
fn process_cpu(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    // utime, stime, cutime and cstime are fields 14 to 17; two fields end with the name.
    let ticks: f64 = after.split_whitespace().skip(11).take(4).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / 100.0
}
