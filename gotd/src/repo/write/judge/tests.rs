//! Every rule, every place in their order and what the client is told, byte by byte.

use libgit::{HashKind, ObjectId, RefName};
use libproto::message::push::{CommandFacts, RefCommand};

use super::*;
use crate::conf::source::Texts;
use crate::conf::{parse, push_rules};

/// A component of 251 bytes: `.lock` finds no room behind it.
const LONG_COMPONENT: &str = concat!(
    "refs/heads/",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "x"
);

/// The rules of a block.
fn rules(body: &str) -> PushRules {
    let text = format!("repository \"r\" {{\n path \"/r\"\n{body}\n}}\n");
    let parsed = parse("f", &mut Texts::one("f", text));
    assert_eq!(parsed.errors, []);
    push_rules::of(&parsed.config, &parsed.config.repositories[0])
}

/// The repository: the branch that HEAD names, whether it is checked out, and the references that
/// are there.
#[derive(Clone, Copy, Default)]
struct There<'a> {
    head: Option<&'a str>,
    checked_out: bool,
    /// Branches that somebody works on in a worktree.
    worked_on: &'a [&'a str],
    refs: &'a [&'a str],
    own: Option<fn() -> OwnDenials>,
    head_aliases: &'a [&'a str],
    aliases: &'a [(&'a str, Alias)],
}

const NOWHERE: There<'_> = There {
    head: None,
    checked_out: false,
    worked_on: &[],
    refs: &[],
    own: None,
    head_aliases: &[],
    aliases: &[],
};

/// A command: values before and after (0: none), and the name.
type Line<'a> = (u8, u8, &'a str);

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes(HashKind::Sha1, &[n; 20]).expect("an id")
}

fn command((old, new, name): Line<'_>) -> RefCommand {
    RefCommand { old: id(old), new: id(new), name: RefName::parse(name.as_bytes()).expect("a name") }
}

/// A good commit that descends from the old one.
fn good() -> CommandFacts {
    CommandFacts {
        refused: None,
        kind: Some(ObjectKind::Commit),
        peeled: None,
        fast_forward: Some(true),
        merges: false,
        largest_blob: None,
    }
}

/// What each command is told in the end, empty: it is done. `facts` are those of each command that
/// has any.
fn told(
    rules: &PushRules,
    there: There<'_>,
    atomic: bool,
    asked: &[(Line<'_>, Option<CommandFacts>)],
) -> Vec<String> {
    let commands: Vec<RefCommand> = asked.iter().map(|(asked, _)| command(*asked)).collect();
    let absent = commands.iter().filter(|command| must_be_absent(command, rules));
    let absent = absent.map(|command| command.name.as_bytes());
    let world = World {
        head: there.head.map(|head| head.as_bytes().to_vec()),
        head_aliases: there.head_aliases.iter().map(|name| name.as_bytes().to_vec()).collect(),
        aliases: there
            .aliases
            .iter()
            .map(|(name, alias)| (name.as_bytes().to_vec(), alias.clone()))
            .collect(),
        checked_out: there.checked_out,
        worked_on: Ok(there.worked_on.iter().map(|name| name.as_bytes().to_vec()).collect()),
        absent: absent
            .filter(|name| !there.refs.iter().any(|there| there.as_bytes() == *name))
            .map(<[u8]>::to_vec)
            .collect(),
        damaged: BTreeSet::new(),
        own: there.own.map(|own| own()).unwrap_or_default(),
    };
    let asked_of = super::CommandList { commands: &commands, atomic };
    let before = judge(asked_of, &[], rules, &world);
    // Nobody asks about the objects of what is refused by its name.
    let facts: Vec<Option<CommandFacts>> = asked
        .iter()
        .zip(&before)
        .map(|((_, facts), verdict)| facts.clone().filter(|_| verdict.is_ok()))
        .collect();
    let verdicts = judge(asked_of, &facts, rules, &world);
    // What is refused stays refused for the same reason.
    for (before, after) in before.iter().zip(&verdicts).filter(|(before, _)| before.is_err()) {
        assert_eq!(before, after);
    }
    verdicts.into_iter().map(|verdict| verdict.err().map(|r| r.to_string()).unwrap_or_default()).collect()
}

/// What one command is told by its names alone.
fn by_name(rules: &PushRules, there: There<'_>, asked: Line<'_>) -> String {
    told(rules, there, false, &[(asked, None)]).concat()
}

/// What one command is told that has these facts.
fn by_facts(rules: &PushRules, asked: Line<'_>, facts: CommandFacts) -> String {
    told(rules, NOWHERE, false, &[(asked, Some(facts))]).concat()
}

#[test]
fn names_that_a_push_must_not_name() {
    let none = rules("");
    for (asked, refusal) in [
        ((0, 1, "HEAD"), "funny refname"),
        ((1, 0, "HEAD"), "funny refname"),
        ((0, 0, "HEAD"), "funny refname"),
        ((0, 1, "heads/main"), "funny refname"),
        ((0, 1, "refs/main"), "funny refname"),
        ((0, 1, LONG_COMPONENT), "reference name with a component of more than 250 bytes"),
        ((1, 0, LONG_COMPONENT), "reference name with a component of more than 250 bytes"),
        ((1, 2, "refs/main"), "funny refname"),
        ((1, 0, "refs/main"), ""),
        ((0, 0, "refs/main"), ""),
        ((0, 1, "refs/heads/main"), ""),
        ((0, 1, "refs/a/b/c/d"), ""),
    ] {
        assert_eq!(by_name(&none, NOWHERE, asked), refusal, "{asked:?}");
    }
}

#[test]
fn of_two_commands_about_one_name_the_second_is_refused_whatever_the_first_was_told() {
    let hides = rules("hide namespace refs/pull\nprotect branch main");
    for (first, second, refusals) in [
        ((0, 1, "refs/heads/a"), (1, 2, "refs/heads/a"), ["", "multiple updates for ref"]),
        (
            (1, 0, "refs/heads/main"),
            (0, 1, "refs/heads/main"),
            ["refs/heads/main: reference is protected", "multiple updates for ref"],
        ),
        (
            (0, 1, "refs/pull/1"),
            (0, 1, "refs/pull/1"),
            ["refs/pull/: reference namespace is hidden", "multiple updates for ref"],
        ),
        // A name that is none is not remembered.
        ((0, 1, "refs/x"), (1, 0, "refs/x"), ["funny refname", ""]),
        ((0, 1, "refs/x"), (0, 1, "refs/x"), ["funny refname", "funny refname"]),
    ] {
        assert_eq!(told(&hides, NOWHERE, false, &[(first, None), (second, None)]), refusals, "{first:?}");
    }
}

#[test]
fn what_is_hidden_is_refused_alike_whether_it_is_there_or_not() {
    let hides = rules(
        "hide namespace refs/pull\nhide namespace refs/heads/secret\nhide namespace refs/heads/a/b/c\n\
         protect branch namespace refs/heads",
    );
    let hidden = "refs/pull/: reference namespace is hidden";
    for refs in
        [[].as_slice(), &["refs/pull/1/head", "refs/heads/secret/x", "refs/pull", "refs/heads/a/b/c/d"]]
    {
        for (asked, refusal) in [
            ((0, 1, "refs/pull/1/head"), hidden),
            ((1, 2, "refs/pull/1/head"), hidden),
            ((1, 1, "refs/pull/1/head"), hidden),
            ((1, 0, "refs/pull/1/head"), hidden),
            ((0, 0, "refs/pull/1/head"), hidden),
            ((1, 0, "refs/pull"), hidden),
            ((0, 1, "refs/pull"), "funny refname"),
            ((0, 1, "refs/pulls/1"), ""),
            // What is on the way there cannot be beside it.
            ((0, 1, "refs/heads/a"), "refs/heads/a/b/c/: reference namespace is hidden"),
            ((1, 2, "refs/heads/a/b"), "refs/heads/a/b/c/: reference namespace is hidden"),
            ((0, 1, "refs/heads/a/b/d"), ""),
            ((0, 1, "refs/heads/a/bc"), ""),
            ((1, 0, "refs/heads/secret/x"), "refs/heads/secret/: reference namespace is hidden"),
            ((1, 0, "refs/heads/secret"), "refs/heads/secret/: reference namespace is hidden"),
        ] {
            // Nor does it matter that HEAD names it, or that it is checked out.
            for head in [None, Some("refs/pull/1/head"), Some("refs/heads/secret/x")] {
                let there = There { head, checked_out: true, refs, ..NOWHERE };
                assert_eq!(by_name(&hides, there, asked), refusal, "{asked:?} {head:?}");
            }
        }
    }
}

#[test]
fn what_is_removed_and_was_not_there_is_gone_and_no_rule_is_asked() {
    let protects = rules("protect branch main\nprotect delete namespace refs/heads");
    let there =
        There { head: Some("refs/heads/main"), checked_out: true, refs: &["refs/heads/main"], ..NOWHERE };
    for (name, refusal) in [
        ("refs/heads/main", "failed to update ref: it exists"),
        ("refs/heads/other", ""),
        ("refs/got/x", ""),
        ("refs/remotes/o/m", ""),
    ] {
        assert_eq!(by_name(&protects, there, (0, 0, name)), refusal, "{name}");
    }
    assert_eq!(by_name(&protects, NOWHERE, (0, 0, "refs/heads/main")), "");
}

#[test]
fn the_branch_of_head() {
    let none = rules("");
    let protects = rules("protect branch main");
    let bare = There { head: Some("refs/heads/main"), ..NOWHERE };
    let files = There { checked_out: true, ..bare };
    let linked = There { worked_on: &["refs/heads/topic"], ..bare };
    let removed = "deletion of the current branch prohibited";
    let checked_out = "branch is currently checked out";
    let protected = "refs/heads/main: reference is protected";
    for (rules, there, asked, refusal) in [
        (&none, bare, (1, 0, "refs/heads/main"), removed),
        (&none, files, (1, 0, "refs/heads/main"), removed),
        (&protects, bare, (1, 0, "refs/heads/main"), protected),
        (&protects, files, (1, 0, "refs/heads/main"), protected),
        (&none, bare, (1, 2, "refs/heads/main"), ""),
        (&none, bare, (0, 1, "refs/heads/main"), ""),
        (&none, files, (1, 2, "refs/heads/main"), checked_out),
        (&none, files, (0, 1, "refs/heads/main"), checked_out),
        (&none, files, (1, 1, "refs/heads/main"), checked_out),
        (&protects, files, (1, 2, "refs/heads/main"), checked_out),
        (&none, linked, (1, 2, "refs/heads/topic"), checked_out),
        (&none, linked, (0, 1, "refs/heads/topic"), checked_out),
        (&none, linked, (1, 0, "refs/heads/topic"), checked_out),
        (&protects, linked, (1, 0, "refs/heads/topic"), checked_out),
        (&none, linked, (1, 2, "refs/heads/main"), ""),
        (&none, files, (1, 2, "refs/heads/other"), ""),
        (&none, files, (1, 0, "refs/heads/other"), ""),
        (&none, NOWHERE, (1, 0, "refs/heads/main"), ""),
    ] {
        assert_eq!(by_name(rules, there, asked), refusal, "{asked:?} {}", there.checked_out);
    }
}

/// Each kind of rule against each kind of change. `*`: refused as a protected name, and so on.
#[test]
fn each_rule_against_each_change() {
    // Create, create with merges, update, update with merges, rewrite, rewrite with merges, delete,
    // and nothing.
    const B: &str = "refs/heads/x/y: reference is protected";
    const N: &str = "refs/heads/x/: reference namespace is protected";
    const M: &str = "refs/heads/x/y: merge commits are not permitted on this branch";
    const C: &str = "refs/heads/x/: creating references is not permitted in this namespace";
    const D: &str = "refs/heads/x/: deleting references is not permitted in this namespace";
    for (rule, refusals) in [
        ("", ["", "", "", "", "", "", "", ""]),
        ("protect branch x/y", ["", "", "", "", B, B, B, ""]),
        ("protect branch namespace refs/heads/x", ["", "", "", "", B, B, N, ""]),
        ("protect tag namespace refs/heads/x", ["", "", N, N, N, N, N, ""]),
        ("protect create namespace refs/heads/x", [C, C, "", "", "", "", "", ""]),
        ("protect delete namespace refs/heads/x", ["", "", "", "", "", "", D, ""]),
        ("protect linear branch x/y", ["", M, "", M, "", M, "", ""]),
        ("protect linear branch namespace refs/heads/x", ["", M, "", M, "", M, "", ""]),
        // The first that forbids it is told.
        ("protect linear branch x/y\nprotect branch x/y", ["", M, "", M, B, M, B, ""]),
        ("protect branch x/y\nprotect linear branch x/y", ["", M, "", M, B, B, B, ""]),
        ("protect delete namespace refs/heads/x\nprotect branch x/y", ["", "", "", "", B, B, D, ""]),
        ("protect branch namespace refs/heads/x\nprotect branch x/y", ["", "", "", "", B, B, N, ""]),
        // What covers other names covers this one not.
        (
            "protect branch x\nprotect branch namespace refs/heads/x/y\nprotect tag namespace refs/tags\n\
             protect linear branch x/yy",
            ["", "", "", "", "", "", "", ""],
        ),
    ] {
        let rules = rules(rule);
        let merges = |fast_forward| CommandFacts { merges: true, fast_forward, ..good() };
        let asked: [(u8, u8, Option<CommandFacts>); 8] = [
            (0, 1, Some(CommandFacts { fast_forward: None, ..good() })),
            (0, 1, Some(merges(None))),
            (1, 2, Some(good())),
            (1, 2, Some(merges(Some(true)))),
            (1, 2, Some(CommandFacts { fast_forward: Some(false), ..good() })),
            (1, 2, Some(merges(Some(false)))),
            (1, 0, None),
            (1, 1, Some(merges(Some(false)))),
        ];
        let got = asked.map(|(old, new, facts)| {
            told(&rules, NOWHERE, false, &[((old, new, "refs/heads/x/y"), facts)]).concat()
        });
        assert_eq!(got, refusals, "{rule}");
    }
}

#[test]
fn namespaces_that_nobody_writes_to() {
    let none = rules("");
    for (namespace, name) in [("refs/got/", "refs/got/worktree/x"), ("refs/remotes/", "refs/remotes/o/m")] {
        let refusal = format!("{namespace}: reference namespace is protected");
        for asked in [(0, 1, name), (1, 2, name), (1, 1, name), (1, 0, name)] {
            assert_eq!(
                told(&none, NOWHERE, false, &[(asked, Some(good()))]),
                [refusal.as_str()],
                "{asked:?}"
            );
        }
        // Hidden comes first: it is refused before anything else is said about it.
        let hides = rules(&format!("hide namespace {namespace}"));
        assert_eq!(
            by_name(&hides, NOWHERE, (0, 1, name)),
            format!("{namespace}: reference namespace is hidden")
        );
    }
}

#[test]
fn what_facts_say_about_objects() {
    let none = rules("");
    let missing =
        || CommandFacts { refused: Some(Refusal::Objects("missing necessary objects".into())), ..good() };
    let of = |kind| CommandFacts { kind: Some(kind), fast_forward: None, ..good() };
    let invalid = "invalid new value provided";
    for (asked, facts, refusal) in [
        ((0, 1, "refs/heads/x"), missing(), "missing necessary objects"),
        ((1, 1, "refs/heads/x"), missing(), "missing necessary objects"),
        ((0, 1, "refs/heads/x"), of(ObjectKind::Tag), invalid),
        ((0, 1, "refs/heads/x"), of(ObjectKind::Tree), invalid),
        ((0, 1, "refs/heads/x"), of(ObjectKind::Blob), invalid),
        ((1, 1, "refs/heads/x"), of(ObjectKind::Blob), invalid),
        ((0, 1, "refs/heads/x"), CommandFacts { kind: None, ..good() }, invalid),
        ((0, 1, "refs/tags/x"), of(ObjectKind::Blob), ""),
        ((0, 1, "refs/tags/x"), of(ObjectKind::Tag), ""),
        ((0, 1, "refs/notes/x"), of(ObjectKind::Tree), ""),
        // No rule: a branch may be rewritten, and what is no commit is replaced.
        ((1, 2, "refs/heads/x"), CommandFacts { fast_forward: Some(false), ..good() }, ""),
        ((1, 2, "refs/tags/x"), of(ObjectKind::Tag), ""),
    ] {
        assert_eq!(by_facts(&none, asked, facts.clone()), refusal, "{asked:?} {facts:?}");
    }
    // What is not known to descend is a rewrite.
    let protects = rules("protect branch namespace refs/tags");
    let told = by_facts(&protects, (1, 2, "refs/tags/x"), of(ObjectKind::Tag));
    assert_eq!(told, "refs/tags/x: reference is protected");
}

#[test]
fn blobs_larger_than_their_limit() {
    let limited = rules("limit blob size 1M\nprotect branch x");
    let free = rules("");
    let blob = |bytes| CommandFacts { largest_blob: Some(bytes), ..good() };
    let refusal = "blob of 1048577 bytes, at most 1048576 are permitted (limit blob size)";
    for (rules, facts, told) in [
        (&limited, blob(1 << 20), ""),
        (&limited, blob((1 << 20) + 1), refusal),
        (&limited, good(), ""),
        (&free, blob(u64::MAX), ""),
        // Before a rule, behind what verify says and what a branch may be.
        (&limited, CommandFacts { fast_forward: Some(false), ..blob((1 << 20) + 1) }, refusal),
        (
            &limited,
            CommandFacts { kind: Some(ObjectKind::Blob), ..blob(1 << 30) },
            "invalid new value provided",
        ),
        (
            &limited,
            CommandFacts {
                refused: Some(Refusal::Objects("missing necessary objects".into())),
                ..blob(1 << 30)
            },
            "missing necessary objects",
        ),
    ] {
        assert_eq!(by_facts(rules, (1, 2, "refs/heads/x"), facts.clone()), told, "{facts:?}");
    }
}

#[test]
fn a_rule_that_names_decide_comes_before_facts() {
    let protects = rules("protect create namespace refs/heads");
    let facts =
        CommandFacts { refused: Some(Refusal::Objects("missing necessary objects".into())), ..good() };
    let told = by_facts(&protects, (0, 1, "refs/heads/x"), facts);
    assert_eq!(told, "refs/heads/: creating references is not permitted in this namespace");
}

#[test]
fn of_an_atomic_push_all_or_none_is_done() {
    let protects = rules("protect branch main\nlimit blob size 1M");
    let atomic = "atomic push failure";
    let new = ((0, 1, "refs/heads/new"), Some(good()));
    let rewrite = || ((1, 2, "refs/heads/main"), Some(CommandFacts { fast_forward: Some(false), ..good() }));
    let large = ((0, 1, "refs/heads/b"), Some(CommandFacts { largest_blob: Some(1 << 21), ..good() }));
    let protected = "refs/heads/main: reference is protected";
    let size = "blob of 2097152 bytes, at most 1048576 are permitted (limit blob size)";
    for (asked, one_by_one, together) in [
        (vec![new.clone(), ((1, 0, "refs/heads/old"), None)], vec!["", ""], vec!["", ""]),
        // By its name: nobody asks for facts.
        (
            vec![new.clone(), ((1, 0, "refs/heads/main"), None), ((0, 1, "refs/x"), None)],
            vec!["", protected, "funny refname"],
            vec![atomic, protected, "funny refname"],
        ),
        (
            vec![((1, 0, "refs/heads/main"), None), large.clone()],
            vec![protected, size],
            vec![protected, atomic],
        ),
        // By facts.
        (vec![new.clone(), rewrite()], vec!["", protected], vec![atomic, protected]),
        (vec![large, rewrite(), new], vec![size, protected, ""], vec![size, protected, atomic]),
    ] {
        assert_eq!(told(&protects, NOWHERE, false, &asked), one_by_one);
        assert_eq!(told(&protects, NOWHERE, true, &asked), together);
    }
    assert_eq!(told(&protects, NOWHERE, true, &[]), Vec::<String>::new());
}

const REWRITE: Change = Change::Update { fast_forward: false };
const FORWARD: Change = Change::Update { fast_forward: true };

#[test]
fn protected_as_the_manual_says() {
    let rules = rules(concat!(
        "protect branch main\nprotect branch namespace refs/heads/rel\nprotect tag namespace refs/tags/\n",
        "protect create namespace refs/heads/old/\nprotect delete namespace refs/heads/\nprotect linear branch main\n",
        "hide namespace refs/pull"
    ));
    let main = "refs/heads/main: reference is protected";
    let tags = "refs/tags/: reference namespace is protected";
    for (name, change, refusal) in [
        ("refs/heads/main", Change::Create, None),
        ("refs/heads/main", FORWARD, None),
        ("refs/heads/main", REWRITE, Some(main)),
        ("refs/heads/main", Change::Delete, Some(main)),
        ("refs/heads/main2", REWRITE, None),
        ("refs/heads/rel/1", Change::Create, None),
        ("refs/heads/rel/1", FORWARD, None),
        ("refs/heads/rel/1", REWRITE, Some("refs/heads/rel/1: reference is protected")),
        ("refs/heads/rel/1", Change::Delete, Some("refs/heads/rel/: reference namespace is protected")),
        ("refs/heads/release", REWRITE, None),
        ("refs/tags/v1", Change::Create, None),
        ("refs/tags/v1", FORWARD, Some(tags)),
        ("refs/tags/v1", REWRITE, Some(tags)),
        ("refs/tags/v1", Change::Delete, Some(tags)),
        ("refs/got/x", Change::Create, Some("refs/got/: reference namespace is protected")),
        ("refs/remotes/x/y", Change::Create, Some("refs/remotes/: reference namespace is protected")),
        (
            "refs/heads/old/x",
            Change::Create,
            Some("refs/heads/old/: creating references is not permitted in this namespace"),
        ),
        ("refs/heads/old/x", REWRITE, None),
        (
            "refs/heads/x",
            Change::Delete,
            Some("refs/heads/: deleting references is not permitted in this namespace"),
        ),
        ("refs/pull/1/head", Change::Create, Some("refs/pull/: reference namespace is hidden")),
    ] {
        assert_eq!(
            rule(&rules, name.as_bytes(), change, false).err().map(|r| r.to_string()).as_deref(),
            refusal,
            "{name} {change:?}"
        );
    }
    let merges = rule(&rules, b"refs/heads/main", FORWARD, true);
    assert_eq!(
        merges.err().map(|r| r.to_string()).as_deref(),
        Some("refs/heads/main: merge commits are not permitted on this branch")
    );
}

#[test]
fn a_push_may_have_so_many_commands() {
    let rules = rules("");
    let most = usize::try_from(rules.limit(Limit::Commands)).unwrap();
    assert_eq!(judge_count(most, &rules), Ok(()));
    let refusal = judge_count(most + 1, &rules).unwrap_err();
    assert_eq!(refusal.to_string(), "more than 500000 references in one push (limit commands)");
}

/// The old value is compared under the reference's lock; what is found there is told, but not of
/// what may be hidden.
#[test]
fn what_the_transaction_found() {
    let id = ObjectId::from_hex(&[b'a'; 40]).unwrap();
    for (error, told, told_where_some_are_hidden) in [
        (RefError::Locked, "failed to update ref: it is locked", None),
        (RefError::Changed(None), "failed to update ref: it does not exist", None),
        (
            RefError::Changed(Some(id)),
            "failed to update ref: it is at aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            None,
        ),
        (
            RefError::Conflict(b"refs/heads/a".to_vec()),
            "failed to update ref: refs/heads/a exists",
            Some("failed to update ref"),
        ),
        (RefError::Symbolic, "is a symbolic reference", Some("failed to update ref")),
        (RefError::Link, "failed to update ref: it is a symbolic link, which is not read", None),
        (RefError::Broken, "is damaged on the server", None),
        (RefError::Twice, "multiple updates for ref", None),
        (RefError::Other, "atomic push failure", None),
    ] {
        assert_eq!(not_changed(&error, false).to_string(), told);
        let hiding = told_where_some_are_hidden.unwrap_or(told);
        assert_eq!(not_changed(&error, true).to_string(), hiding);
    }
}

#[test]
fn nobody_looks_for_what_no_client_may_name() {
    let hides = rules("hide namespace refs/pull");
    for (line, looked_for) in [
        ((0, 0, "refs/heads/x"), true),
        ((0, 0, "refs/got/x"), true),
        ((0, 0, "refs/x"), true),
        ((1, 0, "refs/heads/x"), false),
        ((0, 1, "refs/heads/x"), false),
        ((0, 0, "HEAD"), false),
        ((0, 0, "refs/pull/1"), false),
        ((0, 0, "refs/pull"), false),
    ] {
        assert_eq!(must_be_absent(&command(line), &hides), looked_for, "{line:?}");
    }
}

#[test]
fn what_the_repository_forbids_holds_whatever_the_configuration_permits() {
    let none = rules("");
    let own = || OwnDenials {
        deny_deletes: true,
        deny_rewrites: true,
        hidden: ["refs/pull", "refs/a/b/c", "refs/x", "!refs/x/shown"]
            .map(|pattern| pattern.as_bytes().to_vec())
            .into(),
    };
    let there = There { head: Some("refs/heads/main"), own: Some(own), ..NOWHERE };
    let deletion = "deletion prohibited (receive.denyDeletes in the repository)";
    let hidden = "deny updating a hidden ref (hideRefs in the repository)";
    for (asked, text) in [
        ((1, 0, "refs/heads/topic"), deletion),
        ((1, 0, "refs/heads/main"), deletion),
        // As with git, these keys are about branches.
        ((1, 0, "refs/tags/v1"), ""),
        ((1, 0, "refs/pull/1"), hidden),
        ((0, 0, "refs/pull/1"), hidden),
        ((0, 1, "refs/a/b"), hidden),
        ((1, 0, "refs/a/b"), ""),
        ((0, 1, "refs/x/y"), hidden),
        ((0, 1, "refs/x/shown/y"), ""),
        ((1, 0, "refs/got/x"), "refs/got/: reference namespace is protected"),
    ] {
        assert_eq!(by_name(&none, there, asked), text, "{asked:?}");
    }
    let rewritten = CommandFacts { fast_forward: Some(false), ..good() };
    let update = |name, facts| told(&none, there, false, &[((1, 2, name), Some(facts))]).concat();
    let denied = "non-fast-forward (receive.denyNonFastForwards in the repository)";
    assert_eq!(update("refs/heads/topic", rewritten.clone()), denied);
    assert_eq!(update("refs/heads/topic", CommandFacts { fast_forward: None, ..good() }), denied);
    assert_eq!(update("refs/tags/v1", rewritten), "");
    assert_eq!(update("refs/heads/topic", good()), "");
}

#[test]
fn a_rule_about_any_name_on_the_way_decides() {
    let of = |names: &[&str]| {
        let parse = |name: &&str| RefName::parse(format!("refs/heads/{name}").as_bytes()).expect("a name");
        Alias::Of(names.iter().map(parse).collect())
    };
    let aliases = [
        ("refs/heads/a", of(&["main"])),
        ("refs/heads/deep", of(&["b", "main"])),
        ("refs/heads/to-secret", of(&["secret/x"])),
        ("refs/heads/above", of(&["secret"])),
        ("refs/heads/by-secret", of(&["secret/y", "main"])),
        ("refs/heads/out", Alias::Out(vec![b"refs/tags/v1".to_vec()])),
        ("refs/heads/out-secret", Alias::Out(vec![b"refs/pull/1".to_vec()])),
        ("refs/heads/circle", Alias::Broken),
    ];
    let there = There { aliases: &aliases, ..NOWHERE };
    let none = rules("");
    let hides = rules("hide namespace refs/heads/secret\nhide namespace refs/pull");
    let untold = "failed to update ref";
    for (rules, there, asked, refusal) in [
        (&none, there, (1, 2, "refs/heads/a"), ""),
        (&none, there, (1, 0, "refs/heads/a"), ""),
        (&none, there, (0, 0, "refs/heads/circle"), ""),
        (&none, there, (1, 2, "refs/heads/circle"), "broken symref"),
        (&none, there, (1, 0, "refs/heads/circle"), "broken symref"),
        (&none, there, (1, 2, "refs/heads/out"), "is a symbolic reference that leads out of refs/heads/"),
        (&hides, there, (1, 2, "refs/heads/out"), "is a symbolic reference that leads out of refs/heads/"),
        (&hides, there, (1, 2, "refs/heads/out-secret"), untold),
        (&hides, there, (1, 2, "refs/heads/circle"), untold),
        (&hides, there, (1, 2, "refs/heads/to-secret"), untold),
        (&hides, there, (0, 2, "refs/heads/to-secret"), untold),
        (&hides, there, (1, 0, "refs/heads/to-secret"), untold),
        (&hides, there, (0, 1, "refs/heads/above"), untold),
        (&hides, there, (1, 2, "refs/heads/by-secret"), untold),
        (&hides, there, (0, 0, "refs/heads/to-secret"), ""),
        // Not even that somebody works there.
        (
            &hides,
            There { worked_on: &["refs/heads/secret/x"], ..there },
            (1, 2, "refs/heads/to-secret"),
            untold,
        ),
        (
            &none,
            There { worked_on: &["refs/heads/main"], ..there },
            (1, 2, "refs/heads/deep"),
            "branch is currently checked out",
        ),
        (&none, There { worked_on: &["refs/heads/main"], ..there }, (1, 0, "refs/heads/deep"), ""),
        (
            &none,
            There { head: Some("refs/heads/main"), checked_out: true, ..there },
            (1, 2, "refs/heads/deep"),
            "branch is currently checked out",
        ),
        (
            &none,
            There { head: Some("refs/heads/main"), checked_out: true, ..there },
            (1, 0, "refs/heads/deep"),
            "",
        ),
        (
            &none,
            There {
                head: Some("refs/heads/main"),
                head_aliases: &["refs/heads/deep", "refs/heads/b"],
                ..there
            },
            (1, 0, "refs/heads/deep"),
            "deletion of the current branch prohibited",
        ),
    ] {
        assert_eq!(by_name(rules, there, asked), refusal, "{asked:?}");
    }
    let rewound = CommandFacts { fast_forward: Some(false), ..good() };
    for (protected, name, refusal) in [
        ("main", "a", "refs/heads/main: reference is protected"),
        ("b", "deep", "refs/heads/b: reference is protected"),
        ("a", "a", "refs/heads/a: reference is protected"),
        ("a", "deep", ""),
    ] {
        let rules = rules(&format!("protect branch {protected}"));
        let asked = ((1, 2, &format!("refs/heads/{name}")[..]), Some(rewound.clone()));
        assert_eq!(told(&rules, there, false, &[asked]), [refusal], "{protected} {name}");
    }
    // Its deletion is no change of the branch.
    let main = rules("protect branch main");
    assert_eq!(by_name(&main, there, (1, 0, "refs/heads/a")), "");
}

#[test]
fn a_branch_that_is_pushed_by_several_names_gets_one_value() {
    let main = || Alias::Of(vec![RefName::parse(b"refs/heads/main").expect("a name")]);
    let aliases = [("refs/heads/a", main()), ("refs/heads/b", main())];
    let there = There { aliases: &aliases, ..NOWHERE };
    let none = rules("");
    let (a, b, main, other) = ("refs/heads/a", "refs/heads/b", "refs/heads/main", "refs/heads/other");
    let not = "inconsistent aliased update";
    for (asked, refusals) in [
        ([(1, 2, a), (1, 2, main), (1, 3, other)], ["", "", ""]),
        ([(1, 2, a), (1, 2, b), (1, 2, main)], ["", "", ""]),
        ([(1, 2, a), (1, 2, b), (1, 3, main)], [not, not, not]),
        ([(1, 2, a), (1, 3, b), (1, 3, other)], [not, not, ""]),
        ([(1, 2, a), (4, 2, main), (1, 3, other)], [not, not, ""]),
        ([(1, 0, a), (1, 2, main), (1, 3, other)], [not, not, ""]),
        ([(1, 0, a), (1, 0, main), (1, 3, b)], [not, not, not]),
        ([(1, 0, a), (1, 0, main), (1, 0, b)], ["", "", ""]),
        ([(1, 2, a), (1, 2, a), (1, 2, main)], ["", "multiple updates for ref", ""]),
        ([(0, 0, a), (0, 2, main), (1, 3, other)], ["", "", ""]),
    ] {
        let facts = |new: u8| (new != 0).then(good);
        let asked: Vec<(Line<'_>, Option<CommandFacts>)> =
            asked.into_iter().map(|asked| (asked, facts(asked.1))).collect();
        assert_eq!(told(&none, there, false, &asked), refusals, "{asked:?}");
    }
}
