//! Files as they are written for C gotd decide as its manual says: identity × repository × verdict.
//! The first file has the directives of the example in its gotd.conf(5), the others those of its
//! regression suite, in our own words.

#![allow(clippy::unwrap_used)]

use gotd::access::table::{AccessTable, Identity};
use gotd::conf::model::{Secret, UnixUser};
use gotd::conf::resolve::{FixedNames, NameService, UnixGroup, resolve};
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

/// The same file, read by us: warnings of parsing and resolving, and the table.
fn taken(text: &[u8]) -> (Vec<String>, AccessTable) {
    let shown = String::from_utf8_lossy(text).into_owned();
    let parsed = parse("f", &mut Texts::one("f", text));
    assert!(parsed.errors.is_empty(), "{shown}: {:?}", parsed.errors);
    let mut config = parsed.config;
    config.secrets = vec![Secret::Auth { label: "www".into(), user: "u".into(), password: "p".into() }];
    config.overflow_uid = 1004;
    let found = resolve(&mut config, &mut names());
    assert!(found.errors.is_empty(), "{shown}: {:?}", found.errors);
    let warnings = parsed.warnings.iter().chain(&found.warnings).map(ToString::to_string);
    (warnings.filter(|w| !w.ends_with("without effect in this version")).collect(), AccessTable::new(config))
}

/// C gotd's grammar asks little of words. What it takes and nobody could use is a warning.
#[test]
fn whatever_c_gotd_takes_is_taken() {
    let head = "repository \"r\" {\n\tpath \"/r\"\n\tpermit rw dev\n";
    for (top, inside, warned) in [
        ("connection { limit user stranger 16 }", "", "stranger: uid 1004 stands for unknown users"),
        ("connection limit user \"1004\" 16", "", "1004: uid 1004 stands for unknown users"),
        ("connection {\n limit user dev 1\n limit user dev 1024\n}", "", ""),
        ("connection request timeout 2147483647", "", ""),
        ("connection request timeout 35791394M", "", ""),
        ("listen on \"/run/a\"\nlisten on \"/run/a\"", "", "the same address is already in f:1"),
        ("listen on \"/run/x/../a\"", "", "\"/run/x/../a\" is read as \"/run/a\""),
        ("a-b = \"x\"\n\"a b\" = \"x\"\n\"\" = \"x\"", "", "found \"a-b\": no \"$\" can use it"),
        ("# J\u{fffd}rg", "", ""),
        ("user \"70\"", "", ""),
        ("", "path \"/srv/../../r\"", "\"/srv/../../r\" is read as \"/r\""),
        ("", "permit ro \"a b\"", "a b: no such user, this matches nobody"),
        ("", "permit ro \"\"", ": no such user, this matches nobody"),
        ("", "permit ro \":\"", ":: no such group, this matches nobody"),
        ("", "permit ro \"::x\"", "::x: no such group, this matches nobody"),
        ("", "permit ro -5", "-5: no such user, this matches nobody"),
        ("", "permit ro \"DOMAIN\\dev\"", "no such user, this matches nobody"),
        ("", "deny 99999999999", "99999999999: no such user, this matches nobody"),
        (
            "",
            "deny \"name of more than thirty-two, and of more than sixty-four bytes as well\"",
            "no such user",
        ),
        ("", "notify url \"http://u@example.org/\"", ""),
        ("", "notify url \"http://example.org:http%/a b\"", ""),
        ("", "notify url \"https://h/\" auth www hmac absent", "no hmac secret \"absent\""),
        ("", "notify email to \"J R <j@example.org>\" relay h port \"smtp s\"", ""),
        ("repository \".x\" { path \"/x\" }", "", "repository \".x\": forbidden component in name"),
        ("repository \"a//b\" { path \"/x\" }", "", "repository \"a//b\": forbidden component"),
        ("repository \"../a\" { path \"/x\" }", "", "repository \"../a\": forbidden component"),
        ("repository \"-x\" { path \"/x\" }", "", "repository \"-x\": name starts with a dash"),
        ("repository \"/\" { path \"/x\" }", "", "repository \"/\": empty name"),
        ("repository \"/r\" { path \"/x\" }", "", "repository \"/r\": no request has this name"),
        ("repository \"r/\" { path \"/x\" }", "", "repository \"r/\": no request has this name"),
        ("repository \"r.git\" { path \"/x\" }", "", ""),
    ] {
        let (warnings, table) = taken(format!("{top}\n{head}\t{inside}\n}}\n").as_bytes());
        assert!(
            warnings.iter().any(|w| w.contains(warned)) || warned.is_empty(),
            "{top}{inside}: {warnings:?}"
        );
        assert_eq!(warnings.is_empty(), warned.is_empty(), "{top}{inside}: {warnings:?}");
        assert_eq!(verdict(&table, "dev", "r"), "rw", "{top}{inside}");
        // Behind the block it is the same.
        let (_, table) = taken(format!("{head}\t{inside}\n}}\n{top}\n").as_bytes());
        assert_eq!(verdict(&table, "dev", "r"), "rw", "{top}{inside}");
    }
    let (warnings, _) = taken(b"# J\xf6rg\nrepository r { path /r\n}\n");
    assert_eq!(warnings, ["f:1:4: expected UTF-8 text: what is not is read as U+FFFD from here on"]);
    let (warnings, _) = taken(b"repository r {\n path \"/srv/\xef\"\n}\n");
    assert_eq!(warnings.len(), 1);
    // A limit that names nobody counts for nobody.
    let (_, table) = taken(b"connection limit user stranger 16\nrepository r { path \"/r\" }\n");
    let identity = Identity::UnixUser { uid: 1001, gid: 1001, groups: vec![] };
    assert_eq!(table.connection_limit(&identity).unwrap().0, 4);
}

/// A name that ours cannot be is looked up as it is written, and its number decides.
#[test]
fn names_that_only_the_system_knows_decide_by_their_numbers() {
    struct Directory;
    impl NameService for Directory {
        fn user(&mut self, _: &str) -> Option<UnixUser> {
            None
        }
        fn uid(&mut self, name: &str) -> Option<u32> {
            (name == "DOMAIN\\dev").then_some(1001)
        }
        fn group(&mut self, name: &str) -> Option<UnixGroup> {
            (name == "domain users").then_some(UnixGroup { gid: 2001, members: vec!["DOMAIN\\dev".into()] })
        }
        fn group_by_id(&mut self, gid: u32) -> Option<UnixGroup> {
            (gid == 2001).then(|| self.group("domain users")).flatten()
        }
        fn users(&mut self) -> Vec<UnixUser> {
            Vec::new()
        }
    }
    let text = "connection limit user \"DOMAIN\\dev\" 7\nrepository r {\n path \"/r\"\n permit rw \":domain users\"\n\
                permit ro \"no such\"\n deny \"DOMAIN\\dev\"\n}\nrepository s {\n path \"/s\"\n permit ro 1001\n\
                deny \":domain users\"\n}\n";
    let mut config = parse("f", &mut Texts::one("f", text)).config;
    let found = resolve(&mut config, &mut Directory);
    assert!(found.errors.is_empty(), "{:?}", found.errors);
    assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
    let table = AccessTable::new(config);
    // Owner is in the group by the kernel's word, dev is denied by name and by its membership.
    assert_eq!((verdict(&table, "owner", "r"), verdict(&table, "dev", "r")), ("rw", "denied"));
    assert_eq!(verdict(&table, "dev", "s"), "denied");
    let identity = Identity::UnixUser { uid: 1001, gid: 1001, groups: vec![] };
    assert_eq!(table.connection_limit(&identity).unwrap().0, 7);
    let printed = gotd::conf::print::print(table.config());
    assert!(printed.contains("deny 1001") && printed.contains("limit user 1001 7"), "{printed}");
    assert!(!printed.contains("only-the-system"), "{printed}");
}

/// C gotd compares names as they are written, and the first block that a request fits is it.
#[test]
fn names_that_differ_in_their_suffix_lead_where_c_gotd_leads() {
    let block = |name: &str, path: &str, who: &str| {
        format!("repository \"{name}\" {{\n path \"{path}\"\n permit {who}\n}}\n")
    };
    let (long, short) = (block("r.git", "/long", "ro dev"), block("r", "/short", "rw dev"));
    let (warnings, table) = taken([long.as_str(), short.as_str()].concat().as_bytes());
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((verdict(&table, "dev", "r.git"), verdict(&table, "dev", "r")), ("ro", "rw"));
    let (warnings, table) = taken([short.as_str(), long.as_str()].concat().as_bytes());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!((verdict(&table, "dev", "r.git"), verdict(&table, "dev", "r")), ("rw", "rw"));
    let (_, table) = taken(long.as_bytes());
    assert_eq!((verdict(&table, "dev", "r.git"), verdict(&table, "dev", "r")), ("ro", "ro"));
    // What is left out of a file of C gotd's must not be served by a block of ours.
    for (one, two) in [(&long, &short), (&short, &long)] {
        let text = format!("{one}{two}repositories \"\" {{ path \"/\" }}\n");
        assert_eq!(parse("f", &mut Texts::one("f", text.as_str())).errors.len(), 1);
    }
    let text = "repository \".x\" { path \"/x\" }\n";
    assert_eq!(parse("f", &mut Texts::one("f", text)).errors.len(), 1);
    let text = "repository \".x\" { path \"/x\" }\nrepositories \"\" { path \"/\" }\n";
    assert_eq!(parse("f", &mut Texts::one("f", text)).errors.len(), 1);
}
