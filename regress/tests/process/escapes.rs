//! Each role, in the real daemon, tries to get out of its sandbox at the place where it handles a
//! client's first message; the job that the client asked for works all the same. A role that no
//! request here starts is missing in the log, and that is a failure.
//!
//! Needs binaries built with the feature `escapes`: regress.sh builds them and names them in
//! `GOTD_ESCAPES_BIN`.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use libproto::states::Role;
use regress::run::wait_until;
use regress::{Daemon, Site, history, run};

/// What a repository process becomes.
const REPOSITORY: [&str; 4] = ["repo_read", "repo_write", "repo_write at its end", "describe"];

/// Processes that write in a repository, and try to write elsewhere there: hooks, settings,
/// alternates.
const WRITERS: [&str; 3] = [
    "repo_write in its repository",
    "repo_write in its repository at its end",
    "commit_refs in its repository",
];

/// Processes that do nothing with names but open them, once they have walked to place and
/// alternates.
const OPENING: [&str; 5] = ["repo_read", "repo_write", "repo_write at its end", "verify", "commit_refs"];
/// The number of attempts that look at a name without opening it, and that are then refused with
/// any C library.
const LOOKS: u32 = 6;

/// Every role but those that never handle what a client said; the spawner of sessions is among
/// them.
fn roles() -> impl Iterator<Item = &'static str> {
    let started = Role::STARTED.iter().copied();
    // Of the spawners that of sessions tries: the others see files by design.
    let apart = [Role::Sockets, Role::Config, Role::Places, Role::Repository];
    started.filter(move |role| !apart.contains(role)).map(Role::name).chain(REPOSITORY)
}

#[test]
fn no_role_gets_out_where_it_handles_a_client() {
    // regress::binaries() must be the same directory, for gotd, gotsh and gotctl.
    let same = std::env::var_os("GOTD_ESCAPES_BIN").is_some_and(|dir| Path::new(&dir) == regress::binaries());
    if !same {
        return regress::skipped("needs GOTD_ESCAPES_BIN and GOTD_BIN, see regress.sh");
    }
    let mut targets = Command::new(regress::binaries().join("escape-targets"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut ready = [0; 6];
    targets.stdout.take().expect("a pipe").read_exact(&mut ready).expect("is ready");

    println!("{:<42}{:>9}{:>10}{:>5}", "role", "refused", "promised", "out");
    let (usual, of_account) = (Site::new(), Site::new());
    let daemons = [all_asked(&usual), self_service(&of_account)];
    let found: Vec<_> = roles().map(|role| (role, promised(&daemons, role, 40))).collect();
    for role in WRITERS {
        assert_eq!(promised(&daemons, role, 11), 0);
    }
    drop(daemons);
    // Where nobody else can have mounted anything, a process that works on one repository looks at
    // no name.
    if let Some(site) = Site::trusted(env!("CARGO_TARGET_TMPDIR")) {
        println!("in a place that nobody else can change:");
        let daemons = [all_asked(&site)];
        for (role, before) in found.into_iter().filter(|(role, _)| OPENING.contains(role)) {
            let now = promised(&daemons, role, 40);
            assert!(now + LOOKS <= before, "{role}: {before} were promised, and here {now}");
        }
        for role in WRITERS {
            assert_eq!(promised(&daemons, role, 11), 0);
        }
    }
    drop(targets.stdin.take());
    let _ = targets.wait();
}

/// A daemon that has been asked for whatever starts a role.
fn all_asked(site: &Site) -> Daemon {
    let repository = history::repository(site, "r.git", 10, "sha1");
    for name in ["hooks", "objects/info"] {
        std::fs::create_dir_all(repository.join(name)).expect("makes");
    }
    for name in ["description", "config"] {
        std::fs::File::options().create(true).append(true).open(repository.join(name)).expect("makes");
    }
    let daemon = site.start_with(&site.serve_all().replace("\tpermit", "\tcreate\n\tpermit"));
    let work = site.clone_path("work");
    site.git(["clone", "-q", "gotd:r.git", &work.to_string_lossy()]).good();
    site.commit(&work, "new", "new");
    let mut push = site.command("git");
    run(push.arg("-C").arg(&work).args(["push", "-q", "gotd:r.git", "HEAD:refs/heads/pushed"]), b"", 60)
        .good();
    site.git_in(&repository, ["rev-parse", "refs/heads/pushed"]);
    // `commit_refs` is there for this alone.
    let mut push = site.command("git");
    run(push.arg("-C").arg(&work).args(["push", "-q", "gotd:r.git", ":refs/heads/pushed"]), b"", 60).good();
    let mut push = site.command("git");
    run(push.arg("-C").arg(&work).args(["push", "-q", "gotd:made", "HEAD:refs/heads/main"]), b"", 60).good();
    daemon
}

/// A daemon that has done each word of self-service for a user of a shared account.
fn self_service(site: &Site) -> Daemon {
    history::repository(site, "r.git", 1, "sha1");
    let conf = format!(
        "{}account \"{}\" {{\n\tuser alice principal alice\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw alice\n}}\n",
        site.head(),
        regress::site::present_user(),
        site.path("repositories").display()
    );
    let daemon = site.start_with(&conf);
    for (line, answer) in
        [("list", "rw\tr\n"), ("info r", "rights\trw\n"), ("describe r text", ""), ("head r main", "")]
    {
        let mut gotsh = site.command(regress::binaries().join("gotsh"));
        gotsh.env("GOTD_UNIX_SOCKET", site.socket()).env("SSH_ORIGINAL_COMMAND", line);
        let told = run(gotsh.args(["--user", "alice"]), b"", 20).good().text();
        assert!(told.contains(answer), "{line}: {told}");
    }
    daemon
}

/// The number of attempts that succeeded because they are promised. Asserts that more than `least`
/// were refused and that no other succeeded.
fn promised(daemons: &[Daemon], role: &str, least: u32) -> u32 {
    let said = format!("escapes of {role}:");
    let log = || daemons.iter().map(Daemon::log).collect::<String>();
    wait_until(20.0, || log().contains(&said));
    let log = log();
    let line = log.lines().find(|line| line.contains(&said));
    let line = line.unwrap_or_else(|| panic!("{said} in no line of the log:\n{log}"));
    let numbers: Vec<u32> = line
        .rsplit(&said)
        .next()
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect();
    println!("{role:<42}{:>9}{:>10}{:>5}", numbers[0], numbers[1], numbers[2]);
    assert!(numbers[0] > least, "{role}: {line}");
    assert_eq!(numbers[2], 0, "{role}:\n{log}");
    numbers[1]
}
