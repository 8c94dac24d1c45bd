//! gotd.conf from outside: files written for C gotd, files with every kind of mistake, and what
//! they decide.

#![allow(clippy::unwrap_used)]

use gotd::access::table::{AccessTable, Identity, NameMatch, Verdict};
use gotd::conf::model::{Access, Config, Secret, UnixUser};
use gotd::conf::resolve::{FixedNames, UnixGroup, resolve};
use gotd::conf::source::Texts;
use gotd::conf::{Parsed, parse};
use libproto::command::Service;
use libproto::names::{RepoName, UserName};

fn user(name: &str, uid: u32, gid: u32) -> UnixUser {
    UnixUser { uid, gid, name: UserName::parse(name.as_bytes()).unwrap() }
}

fn names() -> FixedNames {
    let group =
        |gid, members: &[&str]| UnixGroup { gid, members: members.iter().map(ToString::to_string).collect() };
    FixedNames {
        users: vec![
            user("_gotd", 70, 70),
            user("flan_hacker", 1000, 1000),
            user("gotdev", 1001, 1001),
            user("porter", 1002, 1002),
            user("git", 1010, 1010),
            user("nobody", 65534, 65534),
        ],
        groups: [
            ("developers".to_owned(), group(2000, &["gotdev"])),
            ("porters".to_owned(), group(2001, &["porter", "flan_hacker"])),
            ("gotdev".to_owned(), group(1001, &[])),
        ]
        .into(),
    }
}

fn parsed(text: &str) -> Parsed {
    parse("gotd.conf", &mut Texts::one("gotd.conf", text))
}

/// A good configuration, resolved.
fn good(text: &str) -> Config {
    let Parsed { mut config, errors, .. } = parsed(text);
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    config.secrets = vec![
        Secret::Auth { label: "flan".into(), user: "flan".into(), password: "x".into() },
        Secret::Hmac { label: "flan".into(), secret: "y".into() },
    ];
    let found = resolve(&mut config, &mut names());
    assert_eq!(found.errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    config
}

fn errors(text: &str) -> Vec<String> {
    let Parsed { mut config, errors, .. } = parsed(text);
    if !errors.is_empty() {
        return errors.iter().map(ToString::to_string).collect();
    }
    resolve(&mut config, &mut names()).errors.iter().map(ToString::to_string).collect()
}

fn unix(uid: u32, groups: &[u32]) -> Identity {
    Identity::UnixUser { uid, gid: uid, groups: groups.to_vec() }
}

fn ask(table: &AccessTable, who: &Identity, name: &str, service: Service) -> String {
    match table.decide(who, &RepoName::parse(name.as_bytes()).unwrap(), service) {
        Verdict::Granted(grant) => {
            let below = match &grant.found {
                NameMatch::Configured => String::new(),
                NameMatch::Below(name) => format!(" below {name}"),
            };
            let marker = if grant.needs_export_marker { " if exported" } else { "" };
            format!("{}{below}{marker} line {}", grant.access.word(), grant.at.line)
        }
        refused => refused.refusal().unwrap(),
    }
}

use Service::{ReceivePack as Push, UploadPack as Fetch};

#[test]
fn the_files_of_c_gotds_tests_decide_as_there() {
    let head =
        "listen on \"/tmp/gotd.sock\"\nuser _gotd\nrepository \"test-repo\" {\n    path \"/r/test-repo\"\n";
    let verdict = |rules: &str, who: &Identity, service| {
        ask(&AccessTable::new(good(&format!("{head}{rules}}}\n"))), who, "test-repo", service)
    };
    let dev = unix(1001, &[]);
    let none = "no git repository found";
    let denied = "test-repo: Permission denied";
    for (rules, fetch, push) in [
        ("    permit ro gotdev\n", "ro line 5", denied),
        ("", none, none),
        ("    permit ro :gotdev\n", "ro line 5", denied),
        ("    permit ro gotdev\n    deny gotdev\n", denied, denied),
        ("    permit ro gotdev\n    deny :gotdev\n", denied, denied),
        ("    permit ro _gotd\n", none, none),
        ("    permit ro :wheel\n", none, none),
        ("    permit rw gotdev\n", "rw line 5", "rw line 5"),
        ("    permit rw gotdev\n    permit ro :developers\n", "rw line 5", "rw line 5"),
        ("    deny gotdev\n    permit rw 1001\n", "rw line 6", "rw line 6"),
        ("    permit rw :1001\n", "rw line 5", "rw line 5"),
    ] {
        assert_eq!(verdict(rules, &dev, Fetch), fetch, "{rules}");
        assert_eq!(verdict(rules, &dev, Push), push, "{rules}");
    }
    // Read-only in a later rule takes writing away.
    assert_eq!(verdict("permit rw gotdev\npermit ro :developers\n", &unix(1001, &[2000]), Push), denied);
}

#[test]
fn every_directive_of_c_gotds_tests_loads() {
    let config = good(concat!(
        "listen on \"/tmp/gotd.sock\"\nconnection limit user gotdev 2\nuser _gotd\n",
        "repository \"test-repo\" {\n    path \"/r\"\n    permit rw gotdev\n    protect branch foo\n",
        "    protect tag namespace \"refs/tags/\"\n    protect { branch refs/heads/main }\n    notify {\n",
        "         url \"http://localhost:8000/\" auth flan insecure hmac flan\n",
        "      email to gotdev relay 127.0.0.1 port 2525\n    }\n}\n",
    ));
    let repository = &config.repositories[0];
    let names: Vec<_> = repository.protections.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["refs/heads/foo", "refs/tags/", "refs/heads/main"]);
    assert_eq!(repository.notify.targets.len(), 2);
    assert_eq!(config.user_limits[0].connections, 2);
}

#[test]
fn names_with_and_without_suffix_and_prefixes() {
    let table = AccessTable::new(good(concat!(
        "repository \"src\" {\n path \"/a\"\n permit rw gotdev\n}\n",
        "repository \"git/secret\" { path \"/b\" deny gotdev }\n",
        "repositories \"git\" {\n path \"/c\"\n permit ro gotdev\n create\n}\n",
        "repositories \"git/sub\" { path \"/d\" permit rw gotdev }\n",
        "repositories \"~gotdev\" { path \"/e\" permit rw gotdev\n export-ok }\n",
    )));
    let dev = unix(1001, &[]);
    for (name, verdict) in [
        ("src", "rw line 3"),
        ("/src", "rw line 3"),
        ("src.git", "rw line 3"),
        ("src.git.git", "no git repository found"),
        ("git/secret.git", "git/secret: Permission denied"),
        ("git", "no git repository found"),
        ("git/x", "ro below x line 8"),
        ("git/x y.git", "ro below x y.git line 8"),
        ("git/subx/y", "ro below subx/y line 8"),
        ("git/sub/x", "rw below x line 11"),
        ("git/-x", "no git repository found"),
        ("~gotdev/x", "rw below x line 12"),
        ("other", "no git repository found"),
    ] {
        assert_eq!(ask(&table, &dev, name, Fetch), verdict, "{name}");
    }
    assert_eq!(ask(&table, &dev, "git/x", Push), "git/x: Permission denied");
    assert_eq!(ask(&table, &Identity::Anonymous, "~gotdev/x", Fetch), "ro below x if exported line 13");
    assert_eq!(ask(&table, &Identity::Anonymous, "src", Fetch), "no git repository found");
}

#[test]
fn anonymous_clients_read_and_learn_nothing() {
    let text = concat!(
        "repository \"open\" { path \"/a\" permit rw anonymous }\n",
        "repository \"closed\" { path \"/b\" permit ro anonymous\n deny anonymous }\n",
    );
    let table = AccessTable::new(good(text));
    assert_eq!(ask(&table, &Identity::Anonymous, "open", Fetch), "ro line 1");
    assert_eq!(ask(&table, &Identity::Anonymous, "open", Push), "open: Permission denied");
    assert_eq!(ask(&table, &Identity::Anonymous, "closed", Fetch), "no git repository found");
    assert_eq!(
        table.decide(&Identity::Anonymous, &RepoName::parse(b"closed").unwrap(), Fetch),
        Verdict::NotFound
    );
    assert_eq!(table.decide(&unix(1001, &[]), &RepoName::parse(b"open").unwrap(), Fetch), Verdict::NoRule);
    let table = AccessTable::new(good(&format!("connection informative errors\n{text}")));
    assert_eq!(ask(&table, &Identity::Anonymous, "closed", Fetch), "closed: Permission denied");
}

#[test]
fn a_denied_group_cannot_be_left_and_overflow_ids_are_nobody() {
    let table = AccessTable::new(good(concat!(
        "repository \"r\" { path \"/a\" permit rw flan_hacker\n permit ro nobody\n permit rw :nobody\n permit ro :65534\n",
        " permit rw 4294967295\n permit rw porter\n deny :porters\n}\n",
    )));
    let denied = "r: Permission denied";
    assert_eq!(ask(&table, &unix(1000, &[2001]), "r", Fetch), denied);
    // Dropped in a namespace, by who was in it at load.
    assert_eq!(ask(&table, &unix(1000, &[]), "r", Fetch), denied);
    for nobody in [unix(65534, &[65534]), unix(u32::MAX, &[u32::MAX]), unix(1003, &[65534, u32::MAX])] {
        assert_eq!(ask(&table, &nobody, "r", Fetch), "no git repository found");
    }
    assert!(table.identify(1000, 1000, &vec![5; 1025], None).is_err());
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ";

#[test]
fn users_of_an_account_are_believed_from_its_uid_only() {
    let text = format!(
        "group staff {{ alice\n bob }}\naccount git {{\n user alice {{ key \"{KEY} alice@desk\" }}\n user bob principal bob\n}}\n\
         repository \"r\" {{ path \"/a\" permit ro :staff\n permit rw alice\n permit rw git\n permit rw :git }}\n"
    );
    let table = AccessTable::new(good(&text));
    let name = |n: &str| UserName::parse(n.as_bytes()).unwrap();
    let alice = table.identify(1010, 1010, &[], Some(&name("alice"))).unwrap();
    let bob = table.identify(1010, 1010, &[], Some(&name("bob"))).unwrap();
    assert_eq!(table.display(&alice), "git/alice");
    assert_eq!(ask(&table, &alice, "r", Push), "rw line 8");
    assert_eq!(ask(&table, &bob, "r", Fetch), "ro line 7");
    assert_eq!(ask(&table, &bob, "r", Push), "r: Permission denied");
    assert!(table.identify(1001, 1001, &[], Some(&name("alice"))).is_err());
    assert!(table.identify(1010, 1010, &[], Some(&name("carol"))).is_err());
    // The account itself is nobody.
    assert_eq!(ask(&table, &unix(1010, &[]), "r", Fetch), "no git repository found");
    assert_eq!(
        errors("account git { user gotdev { } }\nrepository \"r\" { path \"/a\" }"),
        ["gotd.conf:1:15: user \"gotdev\": there is a Unix account of that name"]
    );
}

#[test]
fn limits_of_users() {
    let table = AccessTable::new(good(
        "connection {\n limit user gotdev 16\n limit user anonymous 32\n limit per user 5\n}\nrepository \"r\" { path \"/a\" }",
    ));
    assert_eq!(table.connection_limit(&unix(1001, &[])).unwrap().0, 16);
    assert_eq!(table.connection_limit(&unix(1002, &[])).unwrap().0, 5);
    assert_eq!(table.connection_limit(&Identity::Anonymous).unwrap().0, 32);
    assert_eq!(
        errors("connection limit user carol 3\nrepository \"r\" { path \"/a\" }"),
        ["gotd.conf:1:12: carol: no such user"]
    );
    // It was told twice: the error says all that the warning said.
    let mut config = parsed("connection limit user carol 3\nrepository \"r\" { path \"/a\" }").config;
    assert_eq!(resolve(&mut config, &mut names()).warnings, []);
}

#[test]
fn a_file_of_ten_thousand_repositories_is_fast() {
    use std::fmt::Write;
    let mut text = String::new();
    for i in 0..10_000 {
        writeln!(text, "repository \"dir{}/repo{i}\" {{\n\tpath \"/srv/git/repo{i}.git\"", i % 100).unwrap();
        for j in 0..10 {
            writeln!(text, "\tpermit rw {}", 2000 + (i * 7 + j) % 5000).unwrap();
        }
        text.push_str("}\n");
    }
    let start = std::time::Instant::now();
    let table = AccessTable::new(good(&text));
    let load = start.elapsed();
    let start = std::time::Instant::now();
    let mut granted = 0;
    for i in 0..1000 {
        let name = RepoName::parse(format!("dir{}/repo{i}.git", i % 100).as_bytes()).unwrap();
        let verdict = table.decide(&unix(2000 + (i * 7) % 5000, &[1, 2, 3]), &name, Push);
        granted += usize::from(matches!(verdict, Verdict::Granted(ref g) if g.access == Access::Write));
    }
    let each = start.elapsed() / 1000;
    println!("load {load:?}, decision {each:?}");
    assert_eq!(granted, 1000);
    assert!(each < std::time::Duration::from_millis(1), "{each:?}");
}
