//! Floods of the unix socket, which every local user may connect to: who is served is decided by
//! uid, before a session is spent on anybody.
//!
//! There was one line for all users, and 200 new connections a second for all of them. A user with
//! 1,300 connections a second, which cost a twentieth of a processor, had nearly all of these, and
//! of others' requests every second failed. A session was spent on each connection before anybody
//! was counted, and one whose end hung kept its place.

use std::time::{Duration, Instant};

use libproto::message::client::ClientKind;
use regress::others::{self, Other, STRANGER};
use regress::raw::{Connection, End, Session};
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Daemon, Done, Site, history, run};

/// A uid that a rule of these tests names.
const HONEST: u32 = 54_400;

/// A daemon with the limits that are there by default, but for these.
fn start(connection: &str) -> (Site, Daemon) {
    let site = Site::new();
    history::repository(&site, "demo.git", 3, "sha1");
    let daemon = site.start_with(&format!(
        "{}{connection}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro \"{HONEST}\"\n\tpermit rw \"{}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        present_user()
    ));
    (site, daemon)
}

/// A request of the honest user, as sshd would start it.
fn honest(site: &Site) -> Done {
    let uid = HONEST.to_string();
    let mut command = site.command("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    command.args(["git", "ls-remote", "gotd:demo.git"]);
    run(&mut command, b"", 60)
}

/// `rate` connections a second, greeted and left alone, and at most `held` of them open; it says
/// when it has begun.
fn flood(site: &Site, uid: u32, rate: u32, held: usize) -> Other {
    let program = format!(
        "\
held, begun = [], False
end = time.time() + 60
while time.time() < end:
    for _ in range({}):
        c = connect()
        if not isinstance(c, int):
            send(c, HELLO)
            held.append(c)
    while len(held) > {held}:
        held.pop(0).close()
    if not begun and len(held) > {held} // 2:
        begun = True
        print('begun', flush=True)
    time.sleep(0.02)
",
        rate / 50
    );
    others::python(uid, &site.socket(), &program)
}

/// Fifteen requests, one after the other, all of which must be answered.
#[track_caller]
fn assert_fifteen_are_served(site: &Site, daemon: &Daemon) {
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    for n in 0..15 {
        let begun = Instant::now();
        let done = honest(site);
        longest = longest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(
            done.status,
            0,
            "request {n}: {}\n{}",
            done.err,
            daemon.log().lines().rev().take(20).collect::<Vec<_>>().join("\n")
        );
    }
    println!("15 requests in {:?}, the longest {longest:?}", start.elapsed());
}

/// Sessions that have a connection of this uid.
fn sessions_of(daemon: &Daemon, uid: u32) -> usize {
    daemon.gotctl(&["info"]).good().text().matches(&format!(": uid {uid}: ")).count()
}

#[test]
fn one_user_with_1300_connections_a_second_costs_no_other_user_a_request() {
    if !others::possible() {
        return;
    }
    let (site, mut daemon) = start("");
    honest(&site).good();
    let mut flood = flood(&site, STRANGER, 1300, 900);
    assert_eq!(flood.line(), "begun");
    assert_fifteen_are_served(&site, &daemon);
    let has = sessions_of(&daemon, STRANGER);
    assert!(has <= 4, "{has} sessions of one user");
    // Told once a second.
    let told = || daemon.reached("connection user queue length") > 100;
    assert!(wait_until(10.0, told), "{}", daemon.log());
    daemon.logged(&["refused", &format!("uid={STRANGER}"), "limit=\"connection user queue length\""]);
    drop(flood);
    daemon.assert_serves();
}

#[test]
fn eight_users_who_flood_cost_no_other_user_a_request() {
    if !others::possible() {
        return;
    }
    let (site, mut daemon) = start("");
    let mut floods: Vec<Other> = (0..8).map(|n| flood(&site, STRANGER + n, 200, 100)).collect();
    for flood in &mut floods {
        assert_eq!(flood.line(), "begun");
    }
    assert_fifteen_are_served(&site, &daemon);
    drop(floods);
    daemon.assert_serves();
}

/// A session gives its client the ends of two pipes, and what is under way in sockets is charged to
/// our user: with as many as may be there, nobody is given anything any more. Whoever never
/// receives, and keeps the connection, kept them there for ever, while the session was over and
/// counted for nobody. It counts until they are taken, or thrown away.
#[test]
fn who_never_takes_what_he_is_sent_keeps_his_places() {
    if !others::possible() {
        return;
    }
    let (site, mut daemon) = start("");
    honest(&site).good();
    let program = "
held = []
for n in range(60):
    c = connect()
    if not isinstance(c, int):
        send(c, b'x')
        held.append(c)
        # Neither looks like taking it: it says that it reads no more, or looks and leaves it there.
        try:
            if n % 3 == 1:
                c.shutdown(socket.SHUT_RDWR)
            elif n % 3 == 2:
                c.settimeout(5)
                for fd in struct.unpack('2i', c.recvmsg(4096, 64, socket.MSG_PEEK)[1][0][2]):
                    os.close(fd)
        except (OSError, IndexError, struct.error):
            pass
    time.sleep(0.1)
print('begun', flush=True)
for c in held:
    c.close()
time.sleep(2)
c = connect()
c.settimeout(20)
print(len(c.recvmsg(4096, 64)[1]), flush=True)
time.sleep(600)
";
    let mut other = others::python(STRANGER, &site.socket(), program);
    assert_eq!(other.line(), "begun");
    // Some of the twenty that read no more say so before they are sent anything, and hold nothing.
    let told = || daemon.reached("connection user queue length") >= 25;
    assert!(wait_until(30.0, told), "{}", daemon.log());
    honest(&site).good();
    assert_eq!(other.line(), "1", "who has closed them is served again, and given his pipes");
    daemon.assert_serves();
}

/// Short ones, which come and go: the limit of number never stops them, the rate does.
#[test]
fn a_user_with_many_short_connections_has_no_more_than_their_rate() {
    if !others::possible() {
        return;
    }
    let (site, daemon) = start("");
    let mut flood = flood(&site, STRANGER, 400, 4);
    assert_eq!(flood.line(), "begun");
    assert_fifteen_are_served(&site, &daemon);
    let before = daemon.log().matches(&format!("uid {STRANGER} ")).count();
    std::thread::sleep(Duration::from_secs(3));
    let served = daemon.log().matches(&format!("uid {STRANGER} ")).count() - before;
    assert!(served <= 20 * 5, "{served} sessions in three seconds");
}

/// Those of several users who never say a word hold every place there is: the longest silent one of
/// who has most gives way to a user who has fewer.
#[test]
fn a_silent_connection_gives_way_to_a_user_who_has_fewer() {
    if !others::possible() {
        return;
    }
    let (site, mut daemon) =
        start("connection {\n\tlimit total 6\n\tlimit per user 16\n\tfirst request timeout 1h\n}");
    let program = "\
held = [c for c in (connect() for _ in range(9)) if not isinstance(c, int)]
print(len(held), flush=True)
time.sleep(120)
";
    let mut stranger = others::python(STRANGER, &site.socket(), program);
    assert_eq!(stranger.line(), "9");
    assert!(wait_until(10.0, || sessions_of(&daemon, STRANGER) == 6), "{}", daemon.log());
    for _ in 0..5 {
        honest(&site).good();
    }
    daemon.logged(&["gave way to another user (connection limit total)"]);
    daemon.assert_serves();
}

/// A range of subordinate uids was 65,536 users: each of them had connections, a rate and a place
/// in the line of its own, and whoever has a line in /etc/subuid took all there were.
#[test]
fn a_range_of_subordinate_uids_is_one_user() {
    if !others::possible() {
        return;
    }
    let site = Site::new();
    history::repository(&site, "demo.git", 3, "sha1");
    let subuid = site.path("subuid");
    let text = format!("{STRANGER}:300000:65536\nno such line\nroot:400000:131072\n");
    std::fs::write(&subuid, &text).expect("writes");
    // A mount namespace of the daemon's own, whose /etc/subuid this is.
    let program = ["unshare", "-m", "--propagation", "private", "sh", "-c"].map(str::to_owned);
    let mount = format!("mount --bind '{}' /etc/subuid && exec \"$@\"", subuid.display());
    let mut probe = site.command("unshare");
    if run(probe.args(&program[1..]).args([&mount, "sh", "true"]), b"", 20).status != 0 {
        return regress::skipped("nothing can be mounted over /etc/subuid here");
    }
    let configuration = format!(
        "{}connection {{\n\tlimit total 60\n\tqueue length 60\n\tlimit per user 2\n\tfirst request timeout 1h\n\trate per user 1000\n\trate total 1000\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro \"{HONEST}\"\n\tpermit ro 300218\n}}\n",
        site.head(),
        site.path("repositories").display(),
    );
    site.hand_over();
    let program: Vec<String> = program.into_iter().chain([mount, "sh".to_owned()]).collect();
    let mut daemon = Daemon::start_through(&site, &configuration, &program).expect("starts");
    // Each under another uid; the last ones of the range too, and one just above it. Then those of
    // two containers of root's.
    let connect = "\
held = []
def come(uid):
    os.seteuid(uid)
    c = connect()
    os.seteuid(0)
    if not isinstance(c, int):
        held.append(c)
for n in range(300):
    come(300000 + (n * 218 if n < 299 else 65535))
    time.sleep(0.002)
come(365536)
for n in range(24):
    come((400000 if n < 12 else 470000) + n)
    time.sleep(0.002)
print('done', flush=True)
time.sleep(600)
";
    let mut stranger = others::python(0, &site.socket(), connect);
    assert_eq!(stranger.line(), "done");
    let info = daemon.gotctl(&["info"]).good().text();
    let sessions = info.matches(": uid 3").count();
    assert_eq!(sessions, 4, "2 of the range, whom a rule names in it, and the one above it:\n{info}");
    assert_eq!(info.matches(": uid 300218").count(), 1, "{info}");
    assert_eq!(info.matches(": uid 4").count(), 4, "2 of each container:\n{info}");
    assert_fifteen_are_served(&site, &daemon);
    daemon.logged(&["refused", &format!("uid={STRANGER}"), "limit=\"connection user queue length\""]);
    daemon.logged(&["/etc/subuid:2:1: warning: expected NAME:FIRST:COUNT"]);
    daemon.logged(&["/etc/subuid:1:1: warning: the range of", "covers the uid of 300218"]);
    drop(stranger);
    // A reload reads it again.
    std::fs::write(&subuid, "").expect("writes");
    daemon.gotctl(&["reload"]).good();
    let mut stranger = others::python(0, &site.socket(), connect);
    assert_eq!(stranger.line(), "done");
    let many = || daemon.gotctl(&["info"]).good().text().matches(": uid 3").count() > 20;
    assert!(wait_until(10.0, many), "each is a user of its own again");
    drop(stranger);
    daemon.assert_serves();
}

/// A user of a shared account, whose uid many others have: counted by the name, once the greeting
/// has told it.
#[test]
fn silent_connections_of_one_user_of_an_account_leave_places_for_the_others() {
    let site = Site::new();
    let original = history::repository(&site, "r.git", 3, "sha1");
    let mut daemon = site.start_with(&format!(
        "{}connection {{\n\tlimit total 40\n\tlimit per user 2\n\tfirst request timeout 1h\n}}\n\
         account \"{}\" {{\n\tuser alice principal alice\n\tuser mallory principal mallory\n}}\n\
         repository r {{\n\tpath \"{}\"\n\tpermit ro alice\n}}\n",
        site.head(),
        present_user(),
        original.display()
    ));
    let held: Vec<Connection> = (0..100)
        .map(|_| {
            let connection = Connection::open(&site.socket());
            connection.greet_as(ClientKind::Git, Some("mallory"));
            connection
        })
        .collect();
    let alice = || {
        let mut client = Session::fetch_as(&site.socket(), "r", 2, "alice");
        !client.read_to_flush().is_empty()
    };
    assert!(wait_until(30.0, alice), "alice has no place:\n{}", daemon.log());
    // And who of them asks for something beyond that is told why.
    let mut one_more = Session::fetch_as(&site.socket(), "r", 2, "mallory");
    one_more.read_to_end(20);
    let end = one_more.connection.end(10);
    let expected = "connection limit exceeded (connection limit per user)";
    assert!(matches!(&end, End::Exit(1, text) if text == expected), "{end:?}\n{}", daemon.log());
    drop(held);
    daemon.assert_serves();
}

/// The uid of a shared account had no share before the greeting: each of its connections was like
/// the first one of a user, and whoever had a session already waited behind all of them, until the
/// time in the line was over.
#[test]
fn one_person_of_an_account_who_floods_costs_no_other_uid_a_request() {
    if !others::possible() {
        return;
    }
    let Some(account) = nix::unistd::User::from_name("daemon").ok().flatten() else {
        return regress::skipped("needs a user \"daemon\"");
    };
    let (site, mut daemon) = start("account daemon {\n\tuser mallory principal mallory\n}");
    honest(&site).good();
    let program = "c = connect()\nprint(isinstance(c, int), flush=True)\ntime.sleep(600)\n";
    let mut other = others::python(HONEST, &site.socket(), program);
    assert_eq!(other.line(), "False");
    assert!(wait_until(10.0, || sessions_of(&daemon, HONEST) == 1), "{}", daemon.log());
    let mut flood = flood(&site, account.uid.as_raw(), 1300, 900);
    assert_eq!(flood.line(), "begun");
    assert_fifteen_are_served(&site, &daemon);
    daemon.assert_reached("connection queue length", 1);
    drop(flood);
    daemon.assert_serves();
}

/// The kernel tells the groups of who connects, and there is room for 1,024 of them: with one more
/// `session` could not be told who it is, and a session that fails before it has served anybody
/// makes the next ones wait.
#[test]
fn a_user_in_very_many_groups_is_refused_and_pauses_nobody() {
    if !others::possible() {
        return;
    }
    let (site, mut daemon) = start("");
    let in_groups = |count: u32| {
        let mut command = site.command("python3");
        let program = format!(
            "import os, sys\nos.setgroups(range(60000, 60000 + {count}))\nos.setgid({HONEST})\nos.setuid({HONEST})\n\
             os.execvp('git', ['git', 'ls-remote', 'gotd:demo.git'])"
        );
        run(command.args(["-c", &program]), b"", 60)
    };
    in_groups(1024).good();
    for _ in 0..10 {
        let done = in_groups(1025);
        assert!(done.err.contains("Permission denied (in more than 1024 groups"), "{done:?}");
    }
    // And many at once, of a uid that nobody may see.
    let program = format!(
        "os.setgroups(range(60000, 61500))\nos.setgid({STRANGER})\nos.setuid({STRANGER})\n\
         held = [connect() for _ in range(500)]\nprint('begun', flush=True)\ntime.sleep(600)\n"
    );
    let mut stranger = others::python(0, &site.socket(), &program);
    assert_eq!(stranger.line(), "begun");
    let begun = Instant::now();
    for _ in 0..10 {
        honest(&site).good();
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}\n{}", begun.elapsed(), daemon.log());
    assert_eq!(sessions_of(&daemon, STRANGER), 0);
    let log = daemon.log();
    let lost = ["was lost", "pausing", "handover"].into_iter().find(|word| log.contains(word));
    assert_eq!(lost, None, "{log}");
    daemon.logged(&["refused", &format!("uid={STRANGER}"), "in more than 1024 groups"]);
    drop(stranger);
    daemon.assert_serves();
}

/// More than wait at a time: of the line the busiest gives way, so that it is never full for
/// others.
#[test]
fn a_line_full_of_one_user_has_room_for_another() {
    if !others::possible() {
        return;
    }
    let (site, mut daemon) = start(
        "connection {\n\tqueue length 8\n\tlimit per user 64\n\trate per user 1\n\tqueue timeout 30\n}",
    );
    let mut flood = flood(&site, STRANGER, 1300, 200);
    assert_eq!(flood.line(), "begun");
    for _ in 0..3 {
        honest(&site).good();
    }
    daemon.assert_reached("connection queue length", 1);
    drop(flood);
    daemon.assert_serves();
}
