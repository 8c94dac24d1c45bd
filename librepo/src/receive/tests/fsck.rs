//! What is found in objects is what git finds: the same message ids over objects that a small
//! generator puts together of pieces, good and bad.

use std::collections::{BTreeMap, BTreeSet};

use super::super::check::{self, Message, Policy, Problem};
use super::super::modules;
use super::super::testpack::TestPack;
use super::*;

/// Message ids by name.
type Found = BTreeSet<String>;

/// Everything that a check finds, and not only the first: what was found is tolerated, as long as
/// it may be. Infos are not asked for, since git's are on in a repository of its own.
fn ours(check: impl Fn(&Policy) -> std::result::Result<(), Problem>) -> Found {
    let (mut policy, mut found) = (Policy::default(), Found::new());
    while let Err(problem) = check(&policy) {
        found.insert(problem.message.name().to_owned());
        if !policy.tolerate(problem.message) {
            break;
        }
    }
    found
}

/// Those of git's that are more than infos.
fn refused(found: &Found) -> Found {
    let ours = Policy::default();
    let info = |name: &String| Message::from_name(name).is_some_and(|message| ours.tolerates(message));
    found.iter().filter(|name| !info(name)).cloned().collect()
}

/// A generator that gives the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn some<'a, T: ?Sized>(&mut self, pieces: &[&'a T]) -> &'a T {
        pieces[self.below(pieces.len())]
    }
}

/// A value that git's configuration syntax gives back as it is.
fn quoted(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{value}\"")
}

/// What git's fsck finds in each of these `.gitmodules` files.
fn in_modules(texts: &[Vec<u8>]) -> Vec<Found> {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "--bare"], b"").unwrap();
    let mut pack = TestPack::new(SHA1);
    let mut ids = Vec::new();
    for text in texts {
        let (id, _) = pack.object(ObjectKind::Blob, text);
        pack.object(ObjectKind::Tree, &[b"100644 .gitmodules\0", id.as_bytes()].concat());
        ids.push(id.to_string());
    }
    git(dir.path(), &["index-pack", "--stdin"], &pack.finish()).unwrap();
    let said = match git(dir.path(), &["fsck", "--strict", "--no-dangling"], b"") {
        Ok(_) => String::new(),
        Err(said) => said,
    };
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split([' ', ':']).filter(|word| !word.is_empty()).collect();
        if let ["error" | "warning", "in", "blob", id, message, ..] = words.as_slice() {
            found.entry(*id).or_default().insert((*message).to_owned());
        }
    }
    ids.iter().map(|id| refused(&found.get(id.as_str()).cloned().unwrap_or_default())).collect()
}

/// Where git's fsck finds less than git would find in the file. In an object it does not skip the
/// mark at the beginning that it skips in a file: its bytes are negative there. And its pointer
/// into the normalized URL is stale once the URL has grown, so that a `..` above the root is not
/// seen.
fn git_is_blind(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_lowercase();
    text.starts_with('\u{feff}') || (text.contains("://") && (text.contains("..") || text.contains("%2e%2e")))
}

#[test]
fn gitmodules_of_all_kinds() {
    let mut texts: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut add_url =
        |url: &str| texts.insert(format!("[submodule \"m\"]\n\turl = {}\n", quoted(url)).into_bytes());
    let dots = [
        "./", "../", ".\\", "..\\", ".", "..", "...", "/", "\\", ":", "h", "%0a", "x:%0A", "-", "git://", "",
    ];
    for a in dots {
        for b in dots {
            for c in dots {
                for d in [":x", "/x", "\\x", "x", "%0ax"] {
                    add_url(&[a, b, c, d].concat());
                }
            }
        }
    }
    let schemes = [
        "http://",
        "https://",
        "ftp://",
        "ftps://",
        "http::",
        "https::",
        "http::http://",
        "ftp::file://",
        "HTTP://",
        "http:",
        "https::-",
        "ssh://",
        "https::1x://",
        "http::h+t.t-p://",
    ];
    let pieces = [
        "h",
        "example.org",
        "u@",
        "u:p@",
        "@",
        ":",
        ":80",
        ":0",
        ":00080",
        ":65535",
        ":65536",
        ":x",
        "[::1]",
        "]",
        "[",
        "/",
        "//",
        "/.",
        "/..",
        "/../",
        "/x",
        "/x/..",
        "/%2e%2E/",
        "?",
        "#",
        "%0a",
        "%0A/..",
        "%00",
        "%2",
        "%zz",
        "%250a",
        "\n",
        " ",
        "_",
        "*",
        "\u{fc}",
        "-",
        "?%0a",
        "#\n",
        "u%0a@",
        "\\",
    ];
    let mut numbers = Numbers(1);
    for scheme in schemes {
        for a in pieces {
            add_url(&format!("{scheme}{a}"));
            add_url(&format!("{scheme}h{a}"));
            for b in pieces {
                add_url(&format!("{scheme}{a}{b}"));
            }
        }
        for _ in 0..200 {
            let length = 3 + numbers.below(4);
            let rest: String = (0..length).map(|_| numbers.some(&pieces)).collect();
            add_url(&format!("{scheme}{rest}"));
        }
    }
    // Whole files, of pieces of git's configuration syntax.
    let lines: [&[u8]; 52] = [
        b"[submodule \"a\"]\n",
        b"[submodule \"../a\"]\n",
        b"[submodule \"a\\\\..\\\\b\"]\n",
        b"[submodule \"\"]\n",
        b"[submodule \"..\"]",
        b"[submodule]\n",
        b"[submodule.]\n",
        b"[submodule.a]\n",
        b"[submodule..]\n",
        b"[submodule.x \"/../y\"]\n",
        b"[submodule.x \"y\"]\n",
        b"[submodule.x.y \"z\"]",
        b"[SubModule \"..\\\\\"]\n",
        b"[submodule \t \"a/..\"]\n",
        b"[submodule\n\"a/..\"]\n",
        b"[submodule \"a\" ]\n",
        b"[submodule a]\n",
        b"[]\n",
        b"[ \"x\"]\n",
        b"[other \"../x\"]\n",
        b"[submodule \"a.b\0c\"]\n",
        b"[submodule \"a/../b\0c\"]\n",
        b"[submodule \"a\0/..\"]\n",
        b"[submodule \"x.url\0\"]\n",
        b"[submodule \"a\\\"/../\"]\n",
        b"[submodule \"a\nb\"]\n",
        b"url = -x\n",
        b"\turl=-x",
        b"URL =\t-x # c\n",
        b"url = \\\n-x\n",
        b"url = \"\"-x\n",
        b"url\n",
        b"url =\n",
        b"url = ..\\\\/:x\n",
        b"url = http://h/\\n\n",
        b"url = \"http://h/ \n",
        b"url = a\\qb\n",
        b"url = -\0x\n",
        b"path = -x\n",
        b"path = x\r\n",
        b"path = \r-x\n",
        b"path = \x0c-x\n",
        b"update = !x\n",
        b"update = \"!\"\n",
        b"update = rebase\n",
        b"u-r.l = -x\n",
        b"# [submodule \"..\"]\n",
        b"; x\r\n",
        b"\x0c\n",
        b"\x0b",
        b"\r",
        b"1 = x\n",
    ];
    for first in lines {
        for second in lines {
            texts.insert([first, second].concat());
            texts.insert([first, second, b"url = -x\n"].concat());
            texts.insert([b"\xef\xbb\xbf", first, second].concat());
        }
    }
    for _ in 0..4000 {
        let length = 3 + numbers.below(4);
        texts.insert((0..length).flat_map(|_| numbers.some(&lines)).copied().collect());
    }
    texts.insert(b"\xef\xbb[submodule \"..\"]\nurl = -x\n".to_vec());
    let texts: Vec<Vec<u8>> = texts.into_iter().collect();
    let theirs = in_modules(&texts);
    let mut some = 0;
    let mut wrong = Vec::new();
    for (text, theirs) in texts.iter().zip(&theirs) {
        let all_ours = ours(|policy| modules::check(policy, text));
        some += usize::from(!theirs.is_empty());
        if &all_ours != theirs && !(all_ours.is_superset(theirs) && git_is_blind(text)) {
            wrong.push(format!("{:?}: {all_ours:?}, git {theirs:?}", String::from_utf8_lossy(text)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        texts.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert!(some > 3000, "only {some} of {} have findings", texts.len());
}

/// What git finds in one object, which need not be one that it could parse.
fn in_object(dir: &Path, kind: &str, data: &[u8]) -> Found {
    let said = match git(dir, &["hash-object", "-t", kind, "--stdin"], data) {
        Ok(_) => return Found::new(),
        Err(said) => said,
    };
    let message = |line: &str| Some(line.split_once("fails fsck: ")?.1.split_once(':')?.0.to_owned());
    let found: Found = said.lines().filter_map(message).collect();
    assert!(!found.is_empty(), "{said}");
    found
}

/// Variants of a text: each line left out, doubled and replaced, and each piece replaced.
fn variants(good: &str, changes: &[(&str, &[&str])]) -> BTreeSet<Vec<u8>> {
    let mut all: BTreeSet<Vec<u8>> = BTreeSet::from([good.as_bytes().to_vec()]);
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    for at in 0..lines.len() {
        let without: String = [&lines[..at], &lines[at + 1..]].concat().concat();
        let twice: String = [&lines[..=at], &lines[at..]].concat().concat();
        all.insert(without.into_bytes());
        all.insert(twice.into_bytes());
        all.insert(lines[..at].concat().into_bytes());
        all.insert([&lines[..at].concat(), lines[at].trim_end()].concat().into_bytes());
        let mut swapped = lines.clone();
        swapped.swap(at, 0);
        all.insert(swapped.concat().into_bytes());
    }
    let mut numbers = Numbers(3);
    for (piece, others) in changes {
        for other in *others {
            let changed = good.replacen(piece, other, 1);
            all.insert(changed.clone().into_bytes());
            // And a second change besides.
            let (second, more) = changes[numbers.below(changes.len())];
            all.insert(changed.replacen(second, more[numbers.below(more.len())], 1).into_bytes());
        }
    }
    all
}

const NAMES: &[&str] =
    &["A B>", "<", "", "A", " ", "A B <", "A\0B ", "\t", "A B  ", "<a@x>", "A > ", "\u{e4}", ".", "A\rB "];
const MAILS: &[&str] = &["a@x", "<", "a@x> <b@x", "a<b", ">", "a>b", " ", "", "a\0b", "a@x>>"];
const DATES: &[&str] = &[
    " 0 +0000",
    " 00 +0000",
    " 01 +0000",
    " -1 +0000",
    " 1 +000",
    " 1 +00000",
    " 1 0000",
    " 1  +0000",
    "  1 +0000",
    " \t1 +0000",
    "1 +0000",
    " 1",
    " 1 ",
    "",
    " x +0000",
    " 1x +0000",
    " 1 +00a0",
    " 1 -9999",
    " +1 +0000",
    " 9223372036854775807 +0000",
    " 9223372036854775808 +0000",
    " 18446744073709551616 +0000",
    " 99999999999999999999999999 +0000",
    " 1 +0000 ",
    " 1\t+0000",
    " 1 +0000\0",
    " 1 \u{b1}0000",
    " 0",
];

#[test]
fn commits_and_tags_of_all_kinds() {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "--bare"], b"").unwrap();
    let id = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    let ids: &[&str] =
        &[&id[1..], "", "x", &id.to_uppercase(), &format!("{id} "), &format!("{id}0"), &format!(" {id}")];
    let commit =
        format!("tree {id}\nparent {id}\nauthor A B <a@x> 1 +0000\ncommitter C D <c@x> 2 -0100\n\nsubject\n");
    let tag = format!("object {id}\ntype tree\ntag v1\ntagger A B <a@x> 1 +0000\n\nsubject\n");
    let names: &[&str] =
        &["v1 ", "-v1", ".v1", "v..1", "v1.lock", "", "a/b", "v\0", "v1\tx", "@{", "v~1", "\u{fc}"];
    let types: &[&str] = &["commit", "Tree", "tree ", "", "blob\0", "bad", "ref-delta", "none"];
    for (kind, good, changes) in [
        (
            "commit",
            commit.as_str(),
            &[
                (id, ids),
                ("parent ", &["parent", "Parent ", "parents ", "\0parent "][..]),
                ("A B ", NAMES),
                ("a@x", MAILS),
                (" 1 +0000", DATES),
                ("C D ", NAMES),
                (" 2 -0100", DATES),
                (
                    "\n\n",
                    &[
                        "\nencoding x\n\n",
                        "\nauthor A B <a@x> 1 +0000\n\n",
                        "\n",
                        "",
                        "\n \n\n",
                        "\n\0\n\n",
                        "\n\n\0",
                    ],
                ),
                ("subject", &["s\0", "\0", "", "\n\n"]),
            ][..],
        ),
        (
            "tag",
            tag.as_str(),
            &[
                (id, ids),
                ("tree\n", &["commit\n", "tree", "tree\0\n"]),
                ("type tree", &["type", "typ tree", "type  tree", "type tag", "Type tree"]),
                ("tree", types),
                ("v1", names),
                ("tag v1", &["tag", "Tag v1", "tags v1", "tag\tv1"]),
                ("tagger ", &["tagger", "Tagger ", "taggers "]),
                ("A B ", NAMES),
                ("a@x", MAILS),
                (" 1 +0000", DATES),
                ("\n\n", &["\nextra x\n\n", "\n", "", "\n\0\n\n", "\n\n\0"]),
            ][..],
        ),
    ] {
        let (mut some, all) = (0, variants(good, changes));
        for data in &all {
            let check = |policy: &Policy| match kind {
                "commit" => check::commit(policy, data, SHA1),
                _ => check::tag(policy, data, SHA1),
            };
            let (all_ours, theirs) = (ours(check), in_object(dir.path(), kind, data));
            // `git hash-object` ends at an info, too.
            if refused(&theirs) != theirs {
                continue;
            }
            // git ends at most findings, and we at the first.
            let first = check(&Policy::default()).err().map(|problem| problem.message.name());
            let shown = String::from_utf8_lossy(data);
            assert_eq!(first.is_some(), !theirs.is_empty(), "{kind} {shown:?}: {first:?}, git {theirs:?}");
            assert!(
                first.is_none_or(|first| theirs.contains(first)),
                "{kind} {shown:?}: {first:?}, {theirs:?}"
            );
            assert!(all_ours.is_superset(&theirs), "{kind} {shown:?}: {all_ours:?}, git {theirs:?}");
            some += usize::from(!theirs.is_empty());
        }
        assert!(some > 60, "only {some} of {} have findings", all.len());
    }
}

#[test]
fn trees_of_all_kinds() {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "--bare"], b"").unwrap();
    let modes = [
        "100644", "100755", "100664", "120000", "40000", "040000", "0100644", "160000", "1", "7777777",
        "100600", "",
    ];
    let long = "n".repeat(4097);
    let names = [
        "a",
        "a.b",
        "a-b",
        "a0",
        "b",
        ".",
        "..",
        ".git",
        ".GIT",
        ".git ",
        ".git.",
        "git~1",
        "GIT~1",
        "git~2",
        ".git::$D",
        "x\\.git",
        "x\\git~1\\y",
        ".g\u{200c}it",
        "\u{feff}.git",
        ".gitmodules",
        ".GITMODULES ",
        "gitmod~1",
        "gi7eba~1",
        "x\\.gitmodules",
        ".gitattributes",
        ".gitignore",
        ".mailmap",
        "a/b",
        "/",
        "",
        &long,
        &long[1..],
        "\u{fc}",
        ".gitx",
        ".git\\x",
        ".git/x",
        ".gitm\u{200d}odules",
    ];
    let entry = |mode: &str, name: &str, id: u8| [format!("{mode} {name}\0").as_bytes(), &[id; 20]].concat();
    let mut all: BTreeSet<Vec<u8>> = BTreeSet::new();
    for name in names {
        for mode in modes {
            all.insert(entry(mode, name, 1));
        }
    }
    let mut numbers = Numbers(5);
    for _ in 0..500 {
        let length = 2 + numbers.below(4);
        let entries = (0..length).map(|_| {
            let id = u8::from(numbers.below(12) != 0);
            let plain = numbers.below(3) != 0;
            let name = if plain {
                numbers.some(&["a", "a.b", "a-b", "a0", "b", "ab", "a.b.c"])
            } else {
                numbers.some(&names)
            };
            let mode = if plain { numbers.some(&["100644", "40000"]) } else { numbers.some(&modes) };
            entry(mode, name, id)
        });
        let mut entries: Vec<Vec<u8>> = entries.collect();
        if numbers.below(2) == 0 {
            entries.sort_by(|a, b| a[a.len() - 21..].cmp(&b[b.len() - 21..]));
        }
        all.insert(entries.concat());
    }
    for broken in
        [&b"100644 a"[..], b"100644 a\0", b"100644 a\0short", b"100644", b" a\0", b"x a\0", b"1006 44 a\0"]
    {
        all.insert(broken.to_vec());
        all.insert([broken, &[1; 20]].concat());
    }
    for data in &all {
        let all_ours = ours(|policy| check::tree(policy, data, SHA1, |_, _| {}, |_, _| {}));
        let theirs = refused(&in_object(dir.path(), "tree", data));
        // git goes on behind an entry that it cannot read with those that it could.
        if theirs.contains("badTree") {
            assert!(all_ours.contains("badTree"), "{:?}: {all_ours:?}", String::from_utf8_lossy(data));
        } else {
            assert_eq!(all_ours, theirs, "{:?}", String::from_utf8_lossy(data));
        }
    }
}
