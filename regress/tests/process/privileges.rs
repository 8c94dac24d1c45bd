//! What can be seen of the processes from outside: who they run as, what they have given up, and
//! that each session has its own.

use std::collections::HashSet;
use std::fs;

use regress::raw::{self, Session};
use regress::run::wait_until;
use regress::site::{CLIENT, DAEMON, UNPRIVILEGED};
use regress::{Daemon, Site, history, is_root, process};

/// A daemon with one fetch under way: the client has read only the beginning.
fn start() -> (Site, Daemon, Session) {
    let site = Site::new();
    let original = history::bulky(&site, "bulk.git", 3);
    let tip = history::tip(&site, &original);
    let daemon = site.start();
    let mut client = Session::fetch(&site.socket(), "bulk.git", 2);
    client.begin_clone(&tip, 100_000);
    (site, daemon, client)
}

#[test]
fn every_role_is_a_process_with_its_name() {
    let (_site, daemon, _client) = start();
    for role in ["sockets", "listen", "auth"] {
        assert_eq!(daemon.role(role).len(), 1, "{role}: {:?}", daemon.processes());
    }
    for role in ["session", "repository", "repo_read"] {
        assert!(!daemon.role(role).is_empty(), "{role}: {:?}", daemon.processes());
    }
    assert_eq!(daemon.role("repo_read").len(), 1);
    // Only spawners start processes; the parent started them, and `sockets`, while it had a
    // privilege.
    let spawners = daemon.role("spawn");
    assert_eq!(spawners.len(), 3, "{:?}", daemon.processes());
    for process in daemon.processes_at_rest().into_iter().filter(|p| p.pid != daemon.pid()) {
        match process.name.as_str() {
            "spawn" | "sockets" => assert_eq!(process.parent, daemon.pid(), "{process:?}"),
            _ => assert!(spawners.contains(&process.parent), "{process:?}"),
        }
    }
}

#[test]
fn all_but_sockets_have_lost_every_privilege() {
    let (_site, daemon, _client) = start();
    let zero = "0000000000000000";
    for p in daemon.processes_at_rest() {
        let status = process::status(p.pid);
        let field = |key: &str| status.get(key).cloned().unwrap_or_default();
        if p.name != "sockets" && is_root() {
            let account = match p.name.as_str() {
                "gotd" | "listen" | "auth" => Some(DAEMON),
                "session" => Some(CLIENT),
                "repository" | "repo_read" => Some(UNPRIVILEGED),
                // One of each.
                _ => None,
            };
            let uid = |name: &str| nix::unistd::User::from_name(name).ok().flatten().expect("a user").uid;
            let account = account.map(|name| uid(name).to_string());
            for key in ["Uid", "Gid"] {
                let ids: Vec<String> = field(key).split_whitespace().map(str::to_owned).collect();
                assert_eq!(ids.len(), 4);
                assert!(ids.iter().all(|id| id != "0"), "{p:?}: {key} {ids:?}");
            }
            let ids = field("Uid");
            assert!(
                account.as_ref().is_none_or(|uid| ids.split_whitespace().all(|id| id == uid)),
                "{p:?}: {ids}"
            );
            assert!(field("Groups").split_whitespace().all(|id| id != "0"), "{p:?}: {}", field("Groups"));
            for key in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                assert_eq!(field(key), zero, "{p:?}: {key}");
            }
        }
        assert_eq!(field("NoNewPrivs"), "1", "{p:?}");
        assert_eq!(field("Seccomp"), "2", "{p:?}");
        let few = field("Threads").parse::<u32>().is_ok_and(|n| n <= 8);
        assert!(few, "{p:?}: {} threads", field("Threads"));
        let limits = fs::read_to_string(format!("/proc/{}/limits", p.pid)).unwrap_or_default();
        let limit = |name: &str| -> Vec<String> {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line[name.len().min(line.len())..].split_whitespace().map(str::to_owned).collect()
        };
        // A role that was taken over starts no process and no thread, whatever its filter says, and
        // takes a bounded part of the machine's memory. (Roles that start threads, or may become
        // such a role, are kept from processes by their filters alone.)
        let starts = ["repo_read", "repository", "spawn"].contains(&p.name.as_str());
        if !starts && !limits.is_empty() {
            assert_eq!(limit("Max processes")[..2], ["0", "0"], "{p:?}");
        }
        if !limits.is_empty() {
            assert_ne!(limit("Max data size")[0], "unlimited", "{p:?}");
        }
        // Nor does it fill the machine with page tables of memory that it only reads.
        let maps_no_file = ["gotd", "parent", "listen", "auth", "sockets"].contains(&p.name.as_str());
        if maps_no_file && !limits.is_empty() {
            assert_ne!(limit("Max address space")[1], "unlimited", "{p:?}");
        }
        // No core file can take a client's secrets to the disk.
        if let Some(line) = limits.lines().find(|l| l.starts_with("Max core file size")) {
            assert!(line.split_whitespace().nth(4) == Some("0"), "{p:?}: {line}");
        }
    }
}

/// What each process has open, as root sees it: no process but the two of the fetch holds the
/// client's pipes, and none has a repository open but the one that serves it.
#[test]
fn descriptors_are_only_where_they_belong() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let (site, daemon, _client) = start();
    let repositories = site.path("repositories").display().to_string();
    let mut readers = 0;
    for p in daemon.processes_at_rest() {
        let mut open = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", p.pid)).expect("root lists").flatten() {
            open.push(fs::read_link(entry.path()).unwrap_or_default().display().to_string());
        }
        let mapped = fs::read_to_string(format!("/proc/{}/maps", p.pid)).expect("root reads");
        let sees = open.iter().any(|path| path.starts_with(&repositories)) || mapped.contains(&repositories);
        if sees {
            assert!(
                ["repo_read", "repository"].contains(&p.name.as_str()),
                "{p:?} has a repository open: {open:?}"
            );
        }
        readers += usize::from(p.name == "repo_read" && sees);
        // Who decides what is permitted hears the parent and nobody else.
        if p.name == "auth" {
            assert_eq!(open.iter().filter(|path| path.starts_with("socket:")).count(), 1, "{open:?}");
        }
        // Standard input and output are nobody's.
        if p.pid != daemon.pid() {
            for number in [0, 1] {
                let path = fs::read_link(format!("/proc/{}/fd/{number}", p.pid)).expect("root reads");
                assert_eq!(path.display().to_string(), "/dev/null", "{p:?}");
            }
        }
        // Nothing is writable and executable at once.
        assert!(
            !mapped.lines().any(|line| line.split_whitespace().nth(1).is_some_and(|f| f.starts_with("rwx")))
        );
    }
    assert_eq!(readers, 1, "the repository is read by one process");
}

/// Both ends of a pipe share a lock, which the kernel holds while it copies from or into the memory
/// of whoever writes or reads; closing an end waits for it, beyond SIGKILL. A local user maps a
/// file of a FUSE server that never answers, writes from there into the pipe that he was given, and
/// whoever closes the other end hangs. The parent used to keep an end of each waiting session for
/// `verify`, and closed it when the client had asked for a fetch: one connection of any user
/// stopped the daemon. What is looked at here is that nobody who serves others has such an end at
/// all.
#[test]
fn nobody_who_serves_others_holds_an_end_of_a_clients_pipe() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let (site, daemon, _fetch) = start();
    let push = raw::push_request("bulk.git");
    let connection = raw::Connection::open(&site.socket());
    connection.greet();
    let mut push = Session::ask(connection, &push);
    push.read_to_flush();
    // One that was greeted and has not asked, and those that wait for a client.
    let silent = raw::Connection::open(&site.socket());
    silent.greet();
    let _pipes = silent.pipes(10).expect("its pipes");
    let pipe = |pid: i32, fd: &str| {
        let what = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?.display().to_string();
        what.starts_with("pipe:").then_some(what)
    };
    // Sessions that are started meanwhile are not in the first list: it is looked at again.
    let mut of_sessions = 0;
    let mut found = Vec::new();
    let nobody = wait_until(10.0, || {
        let processes = daemon.processes_at_rest();
        let harmless: HashSet<String> =
            processes.iter().flat_map(|p| ["0", "1", "2"].map(|fd| pipe(p.pid, fd))).flatten().collect();
        (of_sessions, found) = (0, Vec::new());
        for p in &processes {
            let open = fs::read_dir(format!("/proc/{}/fd", p.pid)).into_iter().flatten().flatten();
            let pipes = open.filter_map(|entry| pipe(p.pid, &entry.file_name().to_string_lossy()));
            let others = pipes.filter(|what| !harmless.contains(what)).count();
            if ["session", "repository", "repo_read", "repo_write", "verify"].contains(&p.name.as_str()) {
                of_sessions += others;
            } else if others > 0 {
                found.push(format!("{p:?} has {others} pipes that are no standard error"));
            }
        }
        found.is_empty()
    });
    assert!(nobody, "{found:?}");
    assert!(of_sessions >= 6, "pipes are seen at all: {of_sessions}");
}

#[test]
fn sessions_of_one_user_run_in_parallel_each_in_fresh_processes() {
    let (site, daemon, first) = start();
    let tip = history::tip(&site, &site.repository("bulk.git"));
    let mut clients = vec![first];
    for _ in 0..2 {
        let mut client = Session::fetch(&site.socket(), "bulk.git", 2);
        client.begin_clone(&tip, 100_000);
        clients.push(client);
    }
    let info = daemon.gotctl(&["info"]).good().text();
    let mut pids = Vec::new();
    for line in info.lines().filter(|l| l.contains("git-upload-pack")) {
        let these = line.rsplit_once("pids ").expect("its processes").1;
        pids.extend(these.split(' ').map(|p| p.parse::<i32>().expect("a pid")));
    }
    assert_eq!(pids.len(), 6, "{info}");
    assert_eq!(pids.iter().collect::<HashSet<_>>().len(), 6, "{info}");
    assert_eq!(daemon.role("repo_read").len(), 3);
    if !is_root() {
        return regress::skipped("the part about address layouts needs root");
    }
    // Each has its own address layout: program, mapped memory and stack lie elsewhere in each.
    for part in ["/gotd", "[vdso]", "[stack]"] {
        let starts: HashSet<String> = pids
            .iter()
            .map(|pid| {
                let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root reads");
                let line = maps.lines().find(|l| l.ends_with(part) || l.contains(part)).unwrap_or_default();
                line.split('-').next().unwrap_or_default().to_owned()
            })
            .collect();
        assert_eq!(starts.len(), 6, "{part}: {starts:?}");
    }
    // All three get their whole pack.
    for mut client in clients {
        client.close();
        assert!(client.read_to_end(20).len() > 3_000_000);
    }
    daemon.logged(&["result=ok", "repository=bulk.git"]);
}

/// A process is used once: no pid serves two sessions.
#[test]
fn a_used_process_is_never_used_again() {
    let (site, daemon, client) = start();
    drop(client);
    let mut seen = HashSet::new();
    for _ in 0..10 {
        let mut client = Session::fetch(&site.socket(), "bulk.git", 0);
        client.read_to_flush();
        let info = daemon.gotctl(&["info"]).good().text();
        let line = info.lines().find(|l| l.contains("git-upload-pack")).expect("it is under way").to_owned();
        let pids = line.rsplit_once("pids ").expect("its processes").1.to_owned();
        for pid in pids.split(' ') {
            assert!(seen.insert(pid.to_owned()), "{pid} served twice");
        }
        drop(client);
        wait_until(5.0, || !daemon.gotctl(&["info"]).text().contains("git-upload-pack"));
    }
}
