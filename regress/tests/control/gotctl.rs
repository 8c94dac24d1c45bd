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

/// What the configuration sets is told: of users and repositories too, and `none` is no number.
#[test]
fn info_and_metrics_tell_every_limit_that_is_set() {
    let site = Site::new();
    let path = history::repository(&site, "r.git", 1, "sha1");
    let me = present_user();
    let daemon = site.start_with(&format!(
        "{}connection {{\n\tlimit user \"{me}\" 64\n\tminimum rate none\n\tinformative errors\n}}\n\
         repository \"own\" {{\n\tpath \"{}\"\n\tpermit ro \"{me}\"\n\tlimit pack size 3M\n\tlimit blob size none\n}}\n",
        site.head(),
        path.display()
    ));
    let text = daemon.gotctl(&["info"]).good().text();
    for line in [
        format!("connection limit user {me} 64"),
        "connection minimum rate none".into(),
        "connection informative errors".into(),
        "repository \"own\" limit pack size 3M".into(),
        "repository \"own\" limit blob size none".into(),
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let json = daemon.gotctl(&["info", "--json"]).good().text();
    for part in [
        "\"informative_errors\":true,".into(),
        format!("{{\"directive\":\"connection limit user\",\"user\":\"{me}\",\"value\":64}}"),
        "{\"directive\":\"connection minimum rate\",\"value\":null}".into(),
        "{\"directive\":\"limit pack size\",\"repository\":\"own\",\"value\":3145728}".into(),
        "{\"directive\":\"limit blob size\",\"repository\":\"own\",\"value\":null}".into(),
    ] {
        let part: String = part;
        assert!(json.contains(&part), "{part}: {json}");
    }
    let metrics = daemon.metrics();
    let limit = |labels: &str| metrics.get(&format!("gotd_limit{{directive={labels}}}")).copied();
    assert_eq!(limit(&format!("\"connection limit user\",user=\"{me}\"")), Some(64), "{metrics:?}");
    assert_eq!(limit("\"limit pack size\",repository=\"own\""), Some(3 << 20), "{metrics:?}");
    // 0 would be the smallest of all limits.
    assert_eq!(limit("\"connection minimum rate\""), None);
    assert_eq!(limit("\"limit blob size\",repository=\"own\""), None);
    assert_eq!(metrics["gotd_informative_errors"], 1);
}
