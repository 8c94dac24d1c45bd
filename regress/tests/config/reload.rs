//! A new configuration for a running daemon: by gotctl and by SIGHUP, good and bad, at rest and
//! under load.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use regress::pkt::{self, v2};
use regress::raw::{End, Session};
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Daemon, Site, history};

/// A block that gives the present user these rights.
fn block(site: &Site, name: &str, rules: &str) -> String {
    let path = site.repository(&format!("{name}.git"));
    format!("repository \"{name}\" {{\n\tpath \"{}\"\n\t{rules} \"{}\"\n}}\n", path.display(), present_user())
}

fn write(site: &Site, text: &str) {
    fs::write(site.path("gotd.conf"), format!("{}{text}", site.roomy_head())).expect("writes");
}

/// A daemon that serves `one` and not `two`.
fn start() -> (Site, Daemon) {
    let site = Site::new();
    for name in ["one.git", "two.git"] {
        history::repository(&site, name, 3, "sha1");
    }
    let daemon = site.start_with(&format!("{}{}", site.head(), block(&site, "one", "permit ro")));
    (site, daemon)
}

fn serves(site: &Site, name: &str) -> bool {
    site.git(["ls-remote", &format!("gotd:{name}")]).status == 0
}

#[test]
fn rules_repositories_and_limits_change_with_the_next_connection() {
    let (site, mut daemon) = start();
    assert!(serves(&site, "one") && !serves(&site, "two"));
    write(&site, &block(&site, "two", "permit rw"));
    daemon.gotctl(&["reload"]).good();
    assert!(!serves(&site, "one") && serves(&site, "two"));
    daemon.logged(&["reload", "result=ok", "gotd.conf"]);
    // A repository that did not exist before.
    history::repository(&site, "three.git", 3, "sha1");
    site.hand_over();
    write(
        &site,
        &format!("limit wants 1\n{}{}", block(&site, "one", "permit ro"), block(&site, "three", "permit rw")),
    );
    daemon.signal(Signal::SIGHUP);
    assert!(wait_until(10.0, || serves(&site, "three")), "{}", daemon.log());
    assert!(serves(&site, "one") && !serves(&site, "two"));
    // A limit of the processes that wait.
    let mut client = Session::fetch(&site.socket(), "one", 2);
    client.read_to_flush();
    let wants = (0..3).map(|n| format!("want {n:040x}\n"));
    client.write(&v2("fetch", wants.chain(["done\n".to_owned()])));
    client.close();
    let said = pkt::error(&client.read_to_end(20)).expect("an ERR packet");
    assert!(said.contains("too many wants: at most 1"), "{said}");
    daemon.assert_serves();
}

/// Each process that opens repositories narrows itself by the configuration of its own start, so
/// that a repository may lie where there was none.
#[test]
fn a_reload_brings_a_repository_from_anywhere() {
    let (site, mut daemon) = start();
    let elsewhere = Site::new();
    history::repository(&elsewhere, "new.git", 3, "sha1");
    elsewhere.hand_over();
    write(&site, &format!("{}{}", block(&site, "one", "permit ro"), block(&elsewhere, "new", "permit rw")));
    daemon.gotctl(&["reload"]).good();
    assert!(serves(&site, "one") && serves(&site, "new"), "{}", daemon.log());
    let work = site.clone_path("new");
    site.git(["clone", "-q", "gotd:new", &work.to_string_lossy()]).good();
    site.commit(&work, "new", "new");
    site.git_in(&work, ["push", "-q", "origin", "HEAD:refs/heads/pushed"]);
    daemon.assert_serves();
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let (site, mut daemon) = start();
    for (text, words) in [
        ("bogus\n".to_owned(), "unknown directive"),
        (String::new(), "repository"),
        (block(&site, "two", "permit ro").replace("path", "pth"), "did you mean \"path\"?"),
        (format!("user 4711\n{}", block(&site, "two", "permit ro")), "user"),
        (
            format!("sandbox best-effort\n{}", block(&site, "two", "permit ro")),
            "sandbox: a change needs a restart",
        ),
        (
            format!("listen on \"/run/x\"\n{}", block(&site, "two", "permit ro")),
            "none of gotd's at the start: it needs a restart",
        ),
    ] {
        write(&site, &text);
        let done = daemon.gotctl(&["reload"]);
        assert_eq!(done.status, 1, "{text}: {}", done.text());
        let said = format!("{}{}", done.text(), done.err);
        assert!(said.contains(words) && said.contains("nothing has changed"), "{text}: {said}");
        assert!(serves(&site, "one") && !serves(&site, "two"), "{text}");
    }
    daemon.logged(&["reload", "result=failed"]);
    fs::remove_file(site.path("gotd.conf")).expect("removes");
    daemon.gotctl(&["reload"]).bad("not usable");
    // The same by a signal, told in the log alone.
    daemon.signal(Signal::SIGHUP);
    assert!(wait_until(10.0, || daemon.log().matches("result=failed").count() >= 8), "{}", daemon.log());
    daemon.assert_serves();
    // And another file, which is the daemon's from then on.
    let other = site.path("other.conf");
    write(&site, &block(&site, "two", "permit ro"));
    fs::rename(site.path("gotd.conf"), &other).expect("renames");
    daemon.gotctl(&["reload", "-n", "-c", &other.to_string_lossy()]).good();
    assert!(!serves(&site, "two"));
    daemon.gotctl(&["reload", "-c", &other.to_string_lossy()]).good();
    assert!(serves(&site, "two"));
    daemon.gotctl(&["reload"]).good();
    assert!(serves(&site, "two"));
}

/// What a session was granted it keeps: a clone that has begun ends well, though its user lost the
/// right meanwhile.
#[test]
fn sessions_under_way_go_on() {
    let site = Site::new();
    let original = history::bulky(&site, "one.git", 3);
    let tip = history::tip(&site, &original);
    history::repository(&site, "two.git", 3, "sha1");
    let daemon = site.start_with(&format!("{}{}", site.head(), block(&site, "one", "permit ro")));
    let mut client = Session::fetch(&site.socket(), "one", 2);
    client.begin_clone(&tip, 1000);
    write(&site, &block(&site, "two", "permit ro"));
    daemon.gotctl(&["reload"]).good();
    assert!(!serves(&site, "one"));
    client.close();
    assert!(client.read_to_end(20).len() > 3 << 20);
    assert_eq!(client.connection.end(10), End::Exit(0, String::new()));
}

/// Ten reloads in the middle of a hundred sessions: none fails.
#[test]
fn under_load_no_session_fails() {
    let (site, mut daemon) = start();
    let both = |rules: &str| format!("{}{}", block(&site, "one", "permit ro"), block(&site, "two", rules));
    write(&site, &both("permit ro"));
    daemon.gotctl(&["reload"]).good();
    let (served, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    site.git(["ls-remote", "gotd:one"]).good();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut reloads = 0;
        while reloads < 10 || served.load(Ordering::Relaxed) < 100 {
            write(&site, &both(if reloads % 2 == 0 { "deny" } else { "permit rw" }));
            daemon.gotctl(&["reload"]).good();
            reloads += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(
        !daemon.log().contains("result=lost") && !daemon.log().contains("result=failed"),
        "{}",
        daemon.log()
    );
    daemon.assert_serves();
}

/// Read as root at the start, a file of mode 0600 is not read by the daemon's user any more.
#[test]
fn a_file_that_the_daemons_user_may_not_read_is_told_with_what_to_do() {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !regress::is_root() {
        return regress::skipped("needs root");
    }
    let (site, daemon) = start();
    let conf = site.path("gotd.conf");
    chown(&conf, Some(0), Some(0)).expect("changes the owner");
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o600)).expect("changes the mode");
    let user = regress::site::DAEMON;
    let done = daemon.gotctl(&["reload"]);
    assert_ne!(done.status, 0);
    let words =
        format!("user {user} cannot read it: expected a file that this user and the daemon user of gotd");
    assert!(done.text().contains(&words), "{}{}", done.text(), done.err);
    // As it is advised.
    let gid = nix::unistd::User::from_name(user).ok().flatten().expect("is there").gid;
    chown(&conf, Some(0), Some(gid.as_raw())).expect("changes the group");
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o640)).expect("changes the mode");
    daemon.gotctl(&["reload"]).good();
}
