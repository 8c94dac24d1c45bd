//! Every example in gotd.conf(5) and below `examples` loads, and the manual names every limit with
//! its default.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use gotd::conf::limits::{Scope, TABLE};
use gotd::conf::parse;
use gotd::conf::source::Texts;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ alice@desk\n";

fn manual() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/gotd.conf.5");
    std::fs::read_to_string(path).unwrap()
}

fn loads(name: &str, text: String) {
    let mut texts = Texts::one("f", text.clone());
    for (number, key) in ["alice", "bob", "robot"].iter().enumerate() {
        let own = KEY.replace("qLw2", &format!("q{number}w2"));
        texts.0.insert(format!("/etc/gotd.keys/{key}.pub"), own.into_bytes());
    }
    let parsed = parse("f", &mut texts);
    assert!(parsed.errors.is_empty(), "{name}: {:?}\n{text}", parsed.errors);
}

#[test]
fn the_examples_of_the_manual_load() {
    let manual = manual();
    let mut examples = 0;
    let mut rest = manual.as_str();
    while let Some((_, after)) = rest.split_once(".Bd -literal -offset indent\n") {
        let (example, after) = after.split_once(".Ed\n").unwrap();
        loads("gotd.conf.5", example.replace("\\e", "\\"));
        rest = after;
        examples += 1;
    }
    assert_eq!(examples, 5);
}

#[test]
fn the_example_files_load() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut examples = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "conf") {
            loads(&path.to_string_lossy(), std::fs::read_to_string(&path).unwrap());
            examples += 1;
        }
    }
    assert!(examples >= 4);
}

#[test]
fn the_manual_names_every_limit() {
    let manual = manual();
    for row in TABLE {
        let item = format!("\n.It Ic {} Ar ", row.words.join(" "));
        let at = manual.find(&item).unwrap_or_else(|| panic!("{item:?} is not in the manual"));
        let entry = manual[at + 1..].split("\n.It ").next().unwrap();
        let head = entry.lines().next().unwrap();
        assert_eq!(head.contains("No *"), row.scope == Scope::Repository, "{head}");
        assert_eq!(head.contains("Cm none"), row.none, "{head}");
        let default = row.spell(row.default);
        let said = format!("The default is {default}.");
        let seconds = format!("The default is {}s.", row.default);
        let none = "The default is\n.Cm none .";
        let there = row.scope == Scope::User
            || entry.contains(&said)
            || entry.contains(&seconds)
            || (default == "none" && entry.contains(none));
        assert!(there, "{head}: {default}");
    }
}

#[test]
fn the_manual_names_every_key_of_a_repository_that_is_read_and_no_other() {
    let manual = manual();
    let (_, section) = manual.split_once(".Ss The repository's own config\n").unwrap();
    let section = section.split("\n.Ss ").next().unwrap();
    let mut named: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix(".It Ql ")).collect();
    named.sort_unstable();
    assert_eq!(named, librepo::safeguards::KEYS);
}
