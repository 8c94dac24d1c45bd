//! What gotctl tells about a running daemon: people, machines and monitoring read it.

use std::collections::BTreeMap;

use regress::raw::Session;
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Site, history, run};

#[test]
fn metrics_count_sessions_limits_and_references() {
    let site = Site::new();
    history::repository(&site, "r.git", 3, "sha1");
    let daemon = site.start_with(&format!("limit wants 7\n{}", site.serve_all()));
    let work = site.clone_path("w").to_string_lossy().into_owned();
    site.git(["clone", "-q", "gotd:r", &work]).good();
    site.git(["-C", &work, "push", "-q", "gotd:r", "main:refs/heads/new"]).good();
    site.git(["-C", &work, "push", "-q", "gotd:r", "main:refs/got/new"]).bad("protected");
    site.git(["ls-remote", "gotd:none"]).bad("no git repository found");
    let mut client = Session::fetch(&site.socket(), "r", 2);
    client.read_to_flush();
    client.write(&regress::pkt::v2("fetch", (0..9).map(|n| format!("want {n:040x}\n"))));
    client.close();
    client.read_to_end(20);
    daemon.gotctl(&["reload"]).good();
    let key = |service: &str, result: &str| {
        format!("gotd_sessions_total{{service=\"git-{service}\",result=\"{result}\"}}")
    };
    let expected = [
        (key("upload-pack", "ok"), 1),
        (key("receive-pack", "ok"), 1),
        (key("upload-pack", "refused"), 1),
        (key("upload-pack", "failed"), 1),
        ("gotd_limits_reached_total{directive=\"limit wants\"}".to_owned(), 1),
        ("gotd_references_total{result=\"ok\"}".to_owned(), 1),
        ("gotd_references_total{result=\"refused\"}".to_owned(), 1),
        ("gotd_reloads_total{result=\"ok\"}".to_owned(), 1),
        ("gotd_limit{directive=\"limit wants\"}".to_owned(), 7),
    ];
    let mut now = BTreeMap::new();
    wait_until(5.0, || {
        now = daemon.metrics();
        expected.iter().all(|(name, value)| now.get(name) == Some(value))
    });
    for (name, value) in expected {
        assert_eq!(now.get(&name), Some(&value), "{name}: {now:?}\n{}", daemon.log());
    }
    assert!(now["gotd_sent_bytes_total"] > 1000 && now["gotd_objects_total"] > 0, "{now:?}");
}

#[test]
fn info_tells_people_and_machines_about_a_session_under_way() {
    let site = Site::new();
    let original = history::bulky(&site, "a \"quoted\" name.git", 3);
    let tip = history::tip(&site, &original);
    let daemon = site.start();
    let mut client = Session::fetch(&site.socket(), "a \"quoted\" name", 2);
    client.begin_clone(&tip, 1000);
    let text = daemon.gotctl(&["info"]).good().text();
    assert!(text.contains("1 sessions under way") && text.contains("git-upload-pack a "), "{text}");
    assert!(text.contains("connection rate total 2000"), "{text}");
    let json = daemon.gotctl(&["info", "--json"]).good().text();
    // A reader of its own: no crate of ours parses JSON.
    if run(std::process::Command::new("python3").arg("-c").arg(""), b"", 20).status == 0 {
        let program = "import json,sys\nd=json.load(sys.stdin)\ns=d['sessions'][0]\nprint(d['active'],s['repository'],s['who'],s['service'],len(s['processes']),s['granted'],d['limits'][0]['value'])";
        let done =
            run(std::process::Command::new("python3").args(["-c", program]), json.as_bytes(), 20).good();
        let expected = format!("1 a \\x22quoted\\x22 name {} git-upload-pack 2 True 2000\n", present_user());
        assert_eq!(done.text(), expected, "{json}");
    } else {
        regress::skipped("needs python3");
    }
    client.close();
    client.read_to_end(20);
    // The daemon of a test is started with -v.
    let accepted = || daemon.log().matches("gotd: accepted ").count();
    daemon.gotctl(&["log", "brief"]).good();
    let before = accepted();
    site.git(["ls-remote", "gotd:a \"quoted\" name"]).good();
    assert_eq!(accepted(), before);
    daemon.gotctl(&["log", "verbose"]).good();
    site.git(["ls-remote", "gotd:a \"quoted\" name"]).good();
    assert!(accepted() > before, "{}", daemon.log());
    daemon.gotctl(&["log", "shouting"]).bad("invalid value");
}
