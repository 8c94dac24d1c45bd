//! More connections of one user than may be served at a time: they wait for each other. A clone with
//! submodules opens as many as it is told to, and ten of twelve were refused.

use std::path::Path;

use regress::raw::Session;
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Site, history, run};

const MODULES: u64 = 12;

/// A repository with twelve others as its submodules.
fn with_modules(site: &Site) {
    let mut stream =
        String::from("commit refs/heads/main\ncommitter C <c@example.org> 1000000000 +0000\ndata 1\nm\n");
    let mut modules = String::new();
    for n in 0..MODULES {
        let name = format!("module{n}.git");
        let path = history::repository(site, &name, 2 + n, "sha1");
        let tip = history::tip(site, &path);
        stream.push_str(&format!("M 160000 {tip} module{n}\n"));
        modules.push_str(&format!("[submodule \"m{n}\"]\n\tpath = module{n}\n\turl = gotd:{name}\n"));
    }
    stream.push_str(&format!("M 100644 inline .gitmodules\ndata {}\n{modules}\n", modules.len()));
    let path = site.repository("all.git");
    history::init(site, &path, "--object-format=sha1");
    let mut import = site.command("git");
    run(import.arg("-C").arg(&path).args(["fast-import", "--quiet"]), stream.as_bytes(), 60).good();
}

/// Clones it with eight connections at a time, by `ssh` in place of ssh.
#[track_caller]
fn clone_all(site: &Site, ssh: &Path, name: &str) {
    let path = site.clone_path(name);
    let mut git = site.command("git");
    git.env("GIT_SSH", ssh).env_remove("GIT_SSH_COMMAND");
    git.args(["clone", "-q", "--recurse-submodules", "--jobs", "8", "gotd:all.git"]).arg(&path);
    run(&mut git, b"", 120).good();
    let there = |n: &u64| path.join(format!("module{n}")).join(".git").exists();
    assert_eq!((0..MODULES).filter(there).count(), 12);
}

/// A program that git runs in place of ssh.
fn ssh(site: &Site, user: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = site.path("ssh-as");
    let gotsh = regress::binaries().join("gotsh");
    let text = format!(
        "#!/bin/sh\nshift $(($# - 1))\nexport GOTD_UNIX_SOCKET='{}'\nSSH_ORIGINAL_COMMAND=\"$1\" exec '{}' {user}\n",
        site.socket().display(),
        gotsh.display()
    );
    std::fs::write(&path, text).expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("changes a mode");
    path
}

/// They wait in `listen`, before a session is spent on them.
#[test]
fn twelve_submodules_of_a_unix_user() {
    let site = Site::new();
    with_modules(&site);
    let daemon = site.start_with(&format!(
        "{}connection limit per user 2\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        present_user()
    ));
    let ssh = ssh(&site, "");
    clone_all(&site, &ssh, "all");
    assert!(!daemon.log().contains("refused"), "{}", daemon.log());
}

/// They wait in the parent, which knows their name.
#[test]
fn twelve_submodules_of_a_user_of_an_account() {
    let site = Site::new();
    with_modules(&site);
    let daemon = site.start_with(&format!(
        "{}connection limit per user 2\naccount \"{}\" {{\n\tuser alice principal alice\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro alice\n}}\n",
        site.head(),
        present_user(),
        site.path("repositories").display(),
    ));
    let ssh = ssh(&site, "--user alice");
    clone_all(&site, &ssh, "all");
    assert!(!daemon.log().contains("refused"), "{}", daemon.log());
}

/// The queue of one user is bounded, keeps nobody else out, and who leaves it is forgotten.
#[test]
fn users_of_an_account_wait_for_themselves_alone() {
    let site = Site::new();
    let original = history::bulky(&site, "r.git", 3);
    let tip = history::tip(&site, &original);
    let mut daemon = site.start_with(&format!(
        "{}connection {{\n\tlimit per user 1\n\tuser queue length 2\n\tuser queue timeout 5\n}}\n\
         account \"{}\" {{\n\tuser alice principal alice\n\tuser bob principal bob\n}}\n\
         repository r {{\n\tpath \"{}\"\n\tpermit ro alice\n\tpermit ro bob\n}}\n",
        site.head(),
        present_user(),
        original.display()
    ));
    let ask = |user| Session::fetch_as(&site.socket(), "r", 2, user);
    let mut first = ask("alice");
    first.begin_clone(&tip, 1000);
    let (second, mut third) = (ask("alice"), ask("alice"));
    let mut fourth = ask("alice");
    let told = regress::pkt::error(&fourth.read_to_end(10)).unwrap_or_default();
    assert_eq!(told, "connection limit exceeded (connection user queue length)");
    assert!(!ask("bob").read_to_flush().is_empty(), "bob waits for alice");
    // The second leaves, and the third is next.
    drop(second);
    first.close();
    first.read_to_end(20);
    assert!(!third.read_to_flush().is_empty(), "{}", daemon.log());
    // A place that stays taken: the time is over.
    let mut fifth = ask("alice");
    let told = regress::pkt::error(&fifth.read_to_end(15)).unwrap_or_default();
    assert_eq!(told, "connection limit exceeded (connection user queue timeout)");
    assert!(wait_until(5.0, || daemon.reached("connection user queue timeout") == 1), "{}", daemon.log());
    drop((third, fourth, fifth));
    daemon.assert_serves();
}
