//! Each role, in the real daemon, tries to get out of its sandbox at the place where it handles a
//! client's first message; the job that the client asked for works all the same.
//!
//! Needs binaries built with the feature `escapes`: regress.sh builds them and names them in
//! `GOTD_ESCAPES_BIN`.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use regress::{Daemon, Site, history, run};

/// Roles, and `repo_write` once more when it has given up what only `verify` is for.
const ROLES: [&str; 8] =
    ["listen", "auth", "session", "repo_read", "repo_write", "repo_write without verify", "verify", "create"];

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

    let site = Site::new();
    let repository = history::repository(&site, "r.git", 10, "sha1");
    let daemon = site.start_with(&site.serve_all().replace("\tpermit", "\tcreate\n\tpermit"));
    let work = site.clone_path("work");
    site.git(["clone", "-q", "gotd:r.git", &work.to_string_lossy()]).good();
    site.commit(&work, "new", "new");
    let mut push = site.command("git");
    run(push.arg("-C").arg(&work).args(["push", "-q", "gotd:r.git", "HEAD:refs/heads/pushed"]), b"", 60)
        .good();
    site.git_in(&repository, ["rev-parse", "refs/heads/pushed"]);
    let mut push = site.command("git");
    run(push.arg("-C").arg(&work).args(["push", "-q", "gotd:made", "HEAD:refs/heads/main"]), b"", 60).good();
    println!("{:<26}{:>9}{:>10}{:>5}", "role", "refused", "promised", "out");
    for role in ROLES {
        assert_nothing_got_out(&daemon, role);
    }
    drop(daemon);
    let site = Site::new();
    let daemon = self_service(&site);
    assert_nothing_got_out(&daemon, "list");
    assert_nothing_got_out(&daemon, "describe");
    drop(targets.stdin.take());
    let _ = targets.wait();
}

/// A daemon that has done both for a user of a shared account.
fn self_service(site: &Site) -> Daemon {
    history::repository(site, "r.git", 1, "sha1");
    let conf = format!(
        "{}account \"{}\" {{\n\tuser alice principal alice\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw alice\n}}\n",
        site.head(),
        regress::site::present_user(),
        site.path("repositories").display()
    );
    let daemon = site.start_with(&conf);
    for (line, answer) in [("list", "rw\tr\n"), ("describe r text", "")] {
        let mut gotsh = site.command(regress::binaries().join("gotsh"));
        gotsh.env("GOTD_UNIX_SOCKET", site.socket()).env("SSH_ORIGINAL_COMMAND", line);
        assert_eq!(run(gotsh.args(["--user", "alice"]), b"", 20).good().text(), answer);
    }
    daemon
}

fn assert_nothing_got_out(daemon: &Daemon, role: &str) {
    let line = daemon.logged(&["says", &format!("escapes of {role}:")]);
    let numbers: Vec<u32> = line
        .rsplit(&format!("escapes of {role}:"))
        .next()
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect();
    println!("{role:<26}{:>9}{:>10}{:>5}", numbers[0], numbers[1], numbers[2]);
    assert!(numbers[0] > 40, "{role}: {line}");
    assert_eq!(numbers[2], 0, "{role}:\n{}", daemon.log());
}
