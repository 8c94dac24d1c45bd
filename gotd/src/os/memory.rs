//! The memory that the daemon may use: the machine's, or less if its control group says so.

use std::path::Path;
use std::sync::OnceLock;

use crate::os::system;

/// Assumed where the system does not tell.
const UNKNOWN: u64 = 1 << 30;
/// Where the control groups of version 2 are.
const GROUPS: &str = "/sys/fs/cgroup";

static AT_START: OnceLock<u64> = OnceLock::new();

/// Bytes of memory for this process and its children, as it was when this was first asked: later
/// the sandbox hides it.
pub fn at_start() -> u64 {
    *AT_START.get_or_init(|| {
        let machine = system::physical_memory().unwrap_or(UNKNOWN);
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        of_group(Path::new(GROUPS), &own).map_or(machine, |group| group.min(machine))
    })
}

/// The least `memory.max` of a group and those around it; `own` is the text of `/proc/self/cgroup`.
fn of_group(groups: &Path, own: &str) -> Option<u64> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if path.split('/').any(|component| component == "..") {
        return None;
    }
    let group = groups.join(path);
    let around = group.ancestors().take_while(|group| group.starts_with(groups));
    let most = |group: &Path| std::fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok();
    around.filter_map(most).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_a_group_and_those_around_it_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = directory.path();
        std::fs::create_dir_all(groups.join("system.slice/gotd.service")).expect("creates");
        let own = "1:name=systemd:/x\n0::/system.slice/gotd.service\n";
        assert_eq!(of_group(groups, own), None);
        let write = |path: &str, text: &str| std::fs::write(groups.join(path), text).expect("writes");
        write("system.slice/gotd.service/memory.max", "max\n");
        assert_eq!(of_group(groups, own), None);
        write("system.slice/memory.max", "3000000\n");
        assert_eq!(of_group(groups, own), Some(3_000_000));
        write("system.slice/gotd.service/memory.max", "2000000\n");
        assert_eq!(of_group(groups, own), Some(2_000_000));
        for other in ["", "1:memory:/old\n", "0::/../outside\n"] {
            assert_eq!(of_group(groups, other), None, "{other}");
        }
    }

    #[test]
    fn there_is_some() {
        assert!(at_start() > 16 << 20);
    }
}
