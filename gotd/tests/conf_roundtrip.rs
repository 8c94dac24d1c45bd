//! Any configuration, printed and parsed again, is the same; and so is one that travelled between
//! processes.

#![allow(clippy::unwrap_used)]

use gotd::conf::items::{Assembler, Audience, send};
use gotd::conf::limits::{Scope, TABLE};
use gotd::conf::model::*;
use gotd::conf::print::{print, quote};
use gotd::conf::repository_blocks::FSCK_KINDS;
use gotd::conf::source::Texts;
use gotd::conf::{ConfiguredLimits, parse};
use gotd::fairness::owners::{are_in_order, put_in_order};
use libproto::codec::CodecError;
use libproto::message::parent::UidRange;
use libproto::names::{RepoName, UserName};
use proptest::prelude::*;

/// What a configuration means, without where it was written.
fn shape(config: &Config) -> String {
    let text = format!("{config:?}");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find("Position {") {
        out.push_str(&rest[..start]);
        rest = rest[start..].split_once('}').unwrap().1;
    }
    out + rest
}

fn text_of(chars: &'static str, length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(chars.chars().collect::<Vec<_>>()), length)
        .prop_map(|chars| chars.into_iter().collect())
}

const ODD: &str = "ab /\\\"'$#={}()!,;~.-_:é&*?[";

fn word() -> impl Strategy<Value = String> {
    text_of(ODD, 1..12).prop_filter("no way to quote it", |w| !w.ends_with('\\'))
}

fn path() -> impl Strategy<Value = String> {
    word().prop_map(|w| format!("/{w}")).prop_filter("dots", |p| !p.split('/').any(|c| c == ".."))
}

fn user_name() -> impl Strategy<Value = UserName> {
    prop_oneof![
        text_of("abAB01._-", 1..8),
        proptest::sample::select(vec!["user", "permit", "anonymous", "limit", "0", "1000", "x$"])
            .prop_map(str::to_owned),
    ]
    .prop_filter_map("a name", |name| UserName::parse(name.as_bytes()).ok())
}

fn subject() -> impl Strategy<Value = Subject> {
    (any::<bool>(), user_name()).prop_map(|(group, name)| Subject { group, name })
}

fn reference() -> impl Strategy<Value = String> {
    text_of("abc/-_.é\"'$#={}!", 1..10).prop_filter_map("a branch", |name| branch_name(&name))
}

fn spaces() -> impl Strategy<Value = String> {
    text_of("abc/-_\"'$#", 1..10).prop_filter_map("a namespace", |name| namespace(&format!("refs/{name}")))
}

fn action() -> impl Strategy<Value = Action> {
    proptest::sample::select(vec![Action::Permit(Access::Read), Action::Permit(Access::Write), Action::Deny])
}

fn limits(scope: fn(Scope) -> bool) -> impl Strategy<Value = Vec<LimitOverride>> {
    let rows: Vec<usize> = (0..TABLE.len()).filter(|&i| scope(TABLE[i].scope)).collect();
    let value = proptest::sample::select(rows).prop_flat_map(|i| {
        let row = &TABLE[i];
        (Just(row.limit), prop_oneof![Just(row.default), Just(row.min), row.min..=row.max])
    });
    proptest::collection::vec(value, 0..6).prop_map(|list| {
        let mut out: Vec<LimitOverride> = Vec::new();
        for (limit, value) in list {
            if limit.row().allows(value) && !out.iter().any(|o| o.limit == limit) {
                out.push(LimitOverride { limit, value, at: Position::default() });
            }
        }
        out
    })
}

fn notify() -> impl Strategy<Value = Notify> {
    let at = Position::default();
    let email =
        (any::<Option<bool>>(), word(), word(), any::<bool>()).prop_map(move |(from, a, b, relay)| {
            let via = NotifyVia::Email {
                sender: from.map(|_| a.clone()),
                recipient: b.clone(),
                responder: from.filter(|x| *x).map(|_| b.clone()),
                relay: relay.then(|| a.clone()),
                port: (relay && from.is_some()).then(|| "25".to_owned()),
            };
            NotifyTarget { via, at }
        });
    let url = (text_of("ab/?&=#%", 0..8), any::<bool>(), any::<bool>(), word()).prop_map(
        move |(tail, auth, hmac, label)| {
            let via = NotifyVia::Url {
                url: format!("http://h:80/{tail}"),
                auth: auth.then(|| label.clone()),
                insecure: auth,
                hmac: hmac.then_some(label),
            };
            NotifyTarget { via, at }
        },
    );
    (
        proptest::option::of(reference()),
        proptest::option::of(spaces()),
        proptest::option::of(email),
        proptest::option::of(url),
    )
        .prop_map(move |(branch, space, email, url)| Notify {
            references: branch.into_iter().chain(space).map(|name| NotifyReference { name, at }).collect(),
            targets: email.into_iter().chain(url).collect(),
        })
}

prop_compose! {
    fn repository()(
        name in text_of("abc/ -_.\"'\\$#{é", 1..10),
        (below, create, all) in any::<(bool, bool, bool)>(),
        path in path(),
        rules in proptest::collection::vec((action(), subject(), any::<bool>()), 0..5),
        protections in proptest::collection::btree_map(spaces(), 0_usize..7, 0..4),
        branches in proptest::collection::btree_set(reference(), 0..3),
        hidden in proptest::option::of(spaces()),
        tolerated in proptest::collection::btree_set(proptest::sample::select(FSCK_KINDS.to_vec()), 0..4),
        options in any::<(bool, bool, bool, u8)>(),
        limits in limits(|scope| scope == Scope::Repository),
        notify in notify(),
    ) -> Option<Repository> {
        let at = Position::default();
        let name = RepoName::parse(name.as_bytes()).ok().filter(|n| !n.as_bytes().ends_with(b"\\"));
        let kind = if below { RepositoryKind::Below { create } } else { RepositoryKind::One };
        let name = if below && all { None } else { Some(name?) };
        let mut block = Repository::new(name, kind, at);
        block.path = path;
        for (action, subject, export) in rules {
            let anonymous = Subject { group: false, name: UserName::parse(b"anonymous").ok()? };
            block.rules.push(match export && below {
                true => Rule { action: Action::PermitExported, subject: anonymous, who: Who::Nobody, at },
                false => Rule { action, subject, who: Who::Nobody, at },
            });
        }
        for (name, kind) in protections {
            let kind = ProtectionKind::ALL[kind];
            if kind.is_namespace() {
                block.protections.push(Protection { kind, name, at });
            }
        }
        for name in branches {
            block.protections.push(Protection { kind: ProtectionKind::Branch, name, at });
        }
        // A block cannot hide all of its references.
        block.hidden = hidden.into_iter().filter(|namespace| namespace != "refs/").map(|namespace| Hidden { namespace, at }).collect();
        block.tolerated = tolerated.into_iter().map(|kind| Tolerated { kind: kind.to_owned(), at }).collect();
        // What hides something does not give everything: the two contradict each other.
        let hides = !block.hidden.is_empty();
        let (options, choices) = ((options.0 && !hides, options.1, options.2, options.3), if hides { 2 } else { 3 });
        let wants = [Wants::Advertised, Wants::Reachable, Wants::Any][usize::from(options.3 % choices)];
        block.options = RepositoryOptions { partial_clone: options.0, wants, reflog: options.1, fsck_off: options.2 };
        // What is borrowed from must be in the configuration: the block itself always is, if it
        // hides nothing. One repository does not borrow from itself, those of a directory do from
        // each other.
        let lends = options.3 > 127 && block.hidden.is_empty() && block.kind != RepositoryKind::One;
        block.borrows = block.name.iter().filter(|_| lends).map(|n| Borrow { name: n.clone(), at }).collect();
        block.limits = limits;
        block.notify = notify;
        Some(block)
    }
}

const KEYS: [&str; 2] = [
    "AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ",
    "AAAAC3NzaC1lZDI1NTE5AAAAIAqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ",
];

/// Ranges of /etc/subuid, at times more than one message holds.
fn subordinates() -> impl Strategy<Value = Vec<UidRange>> {
    let few = proptest::collection::vec((any::<u32>(), 1_u32..100_000, any::<u32>()), 0..4);
    let many = (0_u32..9).prop_map(|n| (0..n * 500).map(|i| (i * 70_000, 65_536, i)).collect::<Vec<_>>());
    let ranges = prop_oneof![few, many];
    ranges.prop_map(|ranges| {
        let range = |(first, count, owner): (u32, u32, u32)| {
            Some(UidRange { first, last: first.checked_add(count - 1)?, owner })
        };
        put_in_order(ranges.into_iter().filter_map(range).collect(), &[0].into())
    })
}

prop_compose! {
    fn config()(
        user in proptest::option::of(user_name()),
        sockets in proptest::collection::btree_set(path(), 0..3),
        git in proptest::option::of((any::<std::net::IpAddr>(), 1_u16..)),
        (best_effort, verbose, informative) in any::<(bool, bool, bool)>(),
        log_to in proptest::sample::select(vec![LogTo::Auto, LogTo::Stderr, LogTo::Syslog]),
        limits in limits(|scope| scope != Scope::User),
        user_limits in proptest::collection::btree_map(user_name(), 1_u32..65_536, 0..3),
        people in proptest::collection::btree_map(text_of("abcdefgh", 1..6), (0_u32..3, any::<bool>(), any::<bool>()), 0..6),
        repositories in proptest::collection::vec(repository(), 1..4),
    ) -> Config {
        let at = Position::default();
        let mut config = Config::empty();
        config.files = vec!["f".to_owned()];
        config.user = user.map(|name| User {
            name: name.as_str().to_owned(), ids: None, at: Position { file: 0, line: 1, column: 1 },
        });
        config.listeners = sockets.into_iter().map(|p| Listener { address: ListenAddress::Unix(p), at }).collect();
        // The parser takes an IPv4 address only as such.
        let address = |(a, p): (std::net::IpAddr, u16)| ListenAddress::Git(a.to_canonical(), p);
        config.listeners.extend(git.map(|git| Listener { address: address(git), at }));
        config.sandbox = if best_effort { Sandbox::BestEffort } else { Sandbox::Required };
        (config.log_verbose, config.informative_errors, config.log_to) = (verbose, informative, log_to);
        let mut all = ConfiguredLimits::default();
        limits.into_iter().for_each(|o| assert!(all.set(o.limit, o.value, at)));
        config.limits = all;
        let name = |text: &str| UserName::parse(text.as_bytes()).unwrap();
        config.user_limits = user_limits
            .into_iter()
            .map(|(name, connections)| UserLimit {
                subject: Subject { group: false, name }, who: Who::Nobody, connections, at,
            })
            .collect();
        config.accounts = ["git", "hg", "svn"].map(|a| Account { name: name(a), uid: None, at }).to_vec();
        let mut members = Vec::new();
        for (index, (user, (account, key, principal))) in people.into_iter().enumerate() {
            config.users.push(AccountUser {
                name: name(&user),
                account,
                keys: KEYS[..1 + usize::from(key)]
                    .iter()
                    .map(|k| Key { kind: "ssh-ed25519".to_owned(), base64: format!("{}{index:04}{}", &k[..40], &k[44..]), at })
                    .collect(),
                principals: if principal { vec![Principal { name: name(&user), at }] } else { vec![] },
                at,
            });
            if principal {
                members.push(u32::try_from(index).unwrap());
            }
        }
        config.groups = vec![Group { name: name("staff"), members, at }, Group { name: name("nobody-here"), members: vec![], at }];
        let mut seen = std::collections::BTreeSet::new();
        for block in repositories.into_iter().flatten() {
            let stem = block.name.as_ref().map(|n| match block.kind {
                RepositoryKind::One => n.without_suffix().to_vec(),
                RepositoryKind::Below { .. } => n.as_bytes().to_vec(),
            });
            if seen.insert((block.kind == RepositoryKind::One, stem)) {
                config.repositories.push(block);
            }
        }
        if config.repositories.is_empty() {
            let mut block = Repository::new(RepoName::parse(b"r").ok(), RepositoryKind::One, at);
            block.path = "/r".to_owned();
            config.repositories.push(block);
        }
        config
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn printed_and_parsed_is_the_same(config in config()) {
        let text = print(&config);
        let again = parse("f", &mut Texts::one("f", text.clone()));
        prop_assert!(again.errors.is_empty(), "{:?}\n{text}", again.errors);
        prop_assert_eq!(shape(&again.config), shape(&config), "{}", text);
        prop_assert_eq!(print(&again.config), text);
    }

    #[test]
    fn what_travelled_is_the_same(config in config(), subordinates in subordinates()) {
        let text = print(&config);
        // The text has none of these: they come from another file.
        let parsed = Config { subordinates, ..parse("f", &mut Texts::one("f", text)).config };
        let mut batches = Vec::new();
        send(&parsed, Audience::Notify, &mut |batch| -> Result<(), CodecError> { batches.push(batch); Ok(()) }).unwrap();
        let mut assembler = Assembler::default();
        let mut whole = None;
        for batch in &batches {
            prop_assert!(whole.is_none());
            whole = assembler.item(batch).unwrap();
        }
        prop_assert_eq!(whole, Some(parsed));
        prop_assert!(assembler.item(&batches[0]).is_err());
    }

    #[test]
    fn damaged_batches_do_no_harm(config in config(), subordinates in subordinates(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let config = Config { subordinates, ..config };
        let mut batches = Vec::new();
        send(&config, Audience::Parent, &mut |batch| -> Result<(), CodecError> { batches.push(batch); Ok(()) }).unwrap();
        let at = at.index(batches[0].len());
        if cut { batches[0].truncate(at) } else { batches[0][at] = byte }
        let mut assembler = Assembler::default();
        for batch in &batches {
            if let Ok(Some(whole)) = assembler.item(batch) {
                // Whoever looks a uid up relies on it.
                prop_assert!(are_in_order(&whole.subordinates));
                let text = print(&whole);
                let _ = parse("f", &mut Texts::one("f", text));
            }
        }
    }

    #[test]
    fn any_text_is_answered(text in proptest::collection::vec(proptest::sample::select(vec![
        "repository", "\"r\"", "{", "}", "\n", "\n", " ", " ", " ", "path", "/p", "permit", "ro", "rw", "x", ":g", "deny", "protect",
        "branch", "tag", "namespace", "refs/x", "notify", "email", "to", "url", "connection", "limit", "user", "5", "\"", "'", "\\",
        "#", "$", "$m", "m", "=", "include", "/f", "account", "group", "key", "é", "\x01", "request", "timeout", "listen", "on",
    ]), 0..60)) {
        let text = text.concat();
        let parsed = parse("/f", &mut Texts::one("/f", text));
        for error in parsed.errors.iter().chain(&parsed.warnings) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_word_is_quoted(word in word()) {
        let text = format!("account git {{ user x {{ key file {} }} }}", quote(&format!("/{word}")));
        let parsed = parse("f", &mut Texts(std::collections::BTreeMap::from([
            ("f".to_owned(), text.clone().into_bytes()),
            (format!("/{word}"), Vec::new()),
        ])));
        let odd = word.split('/').any(|c| c == "..");
        let only_missing = parsed.errors.iter().all(|e| e.message.starts_with("expected at least one \"repository\""));
        prop_assert!(odd || only_missing, "{} {:?}", text, parsed.errors);
    }
}
