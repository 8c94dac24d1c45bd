//! Files as they are written for C gotd decide as its manual says: identity × repository × verdict.
//! The first file has the directives of the example in its gotd.conf(5), the others those of its
//! regression suite, in our own words.

#![allow(clippy::unwrap_used)]

use gotd::access::table::{AccessTable, Identity};
use gotd::conf::model::{Secret, UnixUser};
use gotd::conf::resolve::{FixedNames, UnixGroup, resolve};
use gotd::conf::source::Texts;
use gotd::conf::{parse, push_rules};
use gotd::repo::write::judge::{Change, rule};
use libproto::command::Service;
use libproto::names::{RepoName, UserName};

const PEOPLE: [(&str, u32, &[u32]); 6] = [
    ("owner", 1000, &[2001]),
    ("dev", 1001, &[2000]),
    ("porter", 1002, &[2001]),
    ("anonymous", 1003, &[]),
    ("stranger", 1004, &[]),
    ("_gotd", 70, &[]),
];

fn names() -> FixedNames {
    let users = PEOPLE.iter().map(|(name, uid, _)| UnixUser {
        uid: *uid,
        gid: *uid,
        name: UserName::parse(name.as_bytes()).unwrap(),
    });
    let group = |name: &str, gid: u32| {
        let members = PEOPLE.iter().filter(|(_, _, groups)| groups.contains(&gid));
        let members = members.map(|(name, _, _)| (*name).to_owned()).collect();
        (name.to_owned(), UnixGroup { gid, members })
    };
    FixedNames {
        users: users.collect(),
        groups: [group("hackers", 2000), group("porters", 2001), group("wheel", 0), group("dev", 1001)]
            .into(),
    }
}

fn table(text: &str) -> AccessTable {
    let parsed = parse("gotd.conf", &mut Texts::one("gotd.conf", text));
    assert!(parsed.errors.is_empty(), "{text}: {:?}", parsed.errors);
    let mut config = parsed.config;
    config.secrets = vec![
        Secret::Auth { label: "www".into(), user: "u".into(), password: "p".into() },
        Secret::Hmac { label: "www".into(), secret: "s".into() },
    ];
    let found = resolve(&mut config, &mut names());
    assert!(found.errors.is_empty(), "{text}: {:?}", found.errors);
    AccessTable::new(config)
}

/// `rw`, `ro`, `denied` by a rule, or `-`: no rule matches, and so there is no such repository.
fn verdict(table: &AccessTable, who: &str, repository: &str) -> &'static str {
    let identity = match PEOPLE.iter().find(|(name, _, _)| *name == who) {
        Some((_, uid, groups)) => Identity::UnixUser { uid: *uid, gid: *uid, groups: groups.to_vec() },
        None => Identity::Anonymous,
    };
    let name = RepoName::parse(repository.as_bytes()).unwrap();
    let refusal = |service| table.decide(&identity, &name, service).refusal();
    match (refusal(Service::UploadPack), refusal(Service::ReceivePack)) {
        (None, None) => "rw",
        (None, Some(_)) => "ro",
        (Some(text), _) if text.ends_with(": Permission denied") => "denied",
        (Some(_), _) => "-",
    }
}

#[test]
fn the_example_of_the_manual() {
    let table = table(
        "user _gotd\nlisten on \"/var/run/gotd.sock\"\n\
         repository \"src\" {\n\tpath \"/srv/s\"\n\tpermit rw owner\n\tpermit rw :hackers\n\tpermit ro anonymous\n\
         \tprotect branch \"main\"\n\tprotect tag namespace \"refs/tags/\"\n}\n\
         repository \"tree/ports\" {\n\tpath \"/srv/p\"\n\tpermit rw :porters\n\tpermit ro anonymous\n\tdeny owner\n\
         \tprotect {\n\t\tbranch \"main\"\n\t\ttag namespace \"refs/tags/\"\n\t}\n\
         \tnotify {\n\t\tbranch \"main\"\n\t\treference namespace \"refs/tags/\"\n\t\temail to changes@example.org\n\t}\n}\n\
         connection request timeout 2h\nconnection {\n\tlimit user owner 16\n\tlimit user anonymous 32\n}\n",
    );
    for (who, src, ports) in [
        ("owner", "rw", "denied"),
        ("dev", "rw", "-"),
        ("porter", "-", "rw"),
        ("anonymous", "ro", "ro"),
        ("git://", "ro", "ro"),
        ("stranger", "-", "-"),
        ("_gotd", "-", "-"),
    ] {
        let got = (verdict(&table, who, "src"), verdict(&table, who, "tree/ports"));
        assert_eq!(got, (src, ports), "{who}");
        assert_eq!(verdict(&table, who, "src.git"), src, "{who}");
        assert_eq!(verdict(&table, who, "ports"), "-", "{who}");
    }
    let limit = |uid| {
        let identity = Identity::UnixUser { uid, gid: uid, groups: vec![] };
        table.connection_limit(&identity).unwrap().0
    };
    assert_eq!((limit(1000), limit(1001), limit(1003)), (16, 4, 32));
}

#[test]
fn the_files_of_the_regression_suite() {
    // Rules, and the verdict for: dev, owner, _gotd, git://.
    for (rules, expected) in [
        ("permit ro dev", ["ro", "-", "-", "-"]),
        ("", ["-", "-", "-", "-"]),
        ("permit ro :dev", ["ro", "-", "-", "-"]),
        ("permit ro dev\ndeny dev", ["denied", "-", "-", "-"]),
        ("permit ro dev\ndeny :dev", ["denied", "-", "-", "-"]),
        ("permit ro _gotd", ["-", "-", "ro", "-"]),
        ("permit ro :wheel", ["-", "-", "-", "-"]),
        ("permit rw dev", ["rw", "-", "-", "-"]),
        (
            "permit rw dev\nprotect branch topic\nprotect tag namespace \"refs/tags/\"\nprotect { branch refs/heads/main }",
            ["rw", "-", "-", "-"],
        ),
        ("permit rw dev\nnotify {\nemail to dev relay 127.0.0.1 port 2525\n}", ["rw", "-", "-", "-"]),
        (
            "permit rw dev\nnotify {\nurl \"http://localhost:8000/\" auth www insecure\n}",
            ["rw", "-", "-", "-"],
        ),
        (
            "permit rw dev\nnotify {\nurl \"http://localhost:8000/\" auth www insecure hmac www\nemail to dev relay 127.0.0.1 port 2525\n}",
            ["rw", "-", "-", "-"],
        ),
    ] {
        let table = table(&format!(
            "listen on \"/tmp/gotd.sock\"\nconnection limit user dev 2\nuser _gotd\n\
             repository \"test-repo\" {{\n    path \"/srv/t\"\n{rules}\n}}\n"
        ));
        let got = ["dev", "owner", "_gotd", "git://"].map(|who| verdict(&table, who, "test-repo"));
        assert_eq!(got, expected, "{rules}");
    }
}

/// What is protected in the suite's file for protected references.
#[test]
fn protected_references() {
    let table = table(
        "repository \"r\" {\n\tpath \"/r\"\n\tpermit rw dev\n\tprotect branch topic\n\
         \tprotect tag namespace \"refs/tags/\"\n\tprotect { branch refs/heads/main }\n}\n",
    );
    let rules = push_rules::of(table.config(), &table.config().repositories[0]);
    let refused = |name: &str, change| rule(&rules, name.as_bytes(), change, false).is_err();
    let (forward, rewound) = (Change::Update { fast_forward: true }, Change::Update { fast_forward: false });
    for (name, create, grow, rewind, delete) in [
        ("refs/heads/main", false, false, true, true),
        ("refs/heads/topic", false, false, true, true),
        ("refs/heads/other", false, false, false, false),
        ("refs/tags/1.0", false, true, true, true),
        ("refs/got/worktree", true, true, true, true),
        ("refs/remotes/origin/main", true, true, true, true),
    ] {
        let got = [Change::Create, forward, rewound, Change::Delete].map(|change| refused(name, change));
        assert_eq!(got, [create, grow, rewind, delete], "{name}");
    }
}
