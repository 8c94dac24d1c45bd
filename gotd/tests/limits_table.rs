//! Every limit of the table has a case among the integration tests, and an entry with its default in gotd.conf(5).

#![allow(clippy::unwrap_used)]

use std::path::Path;

use gotd::conf::limits::{Limit, Scope, TABLE};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_limit_is_reached_by_a_test() {
    let tests = read("../regress/tests/limits_table.rs");
    let named = |limit: Limit| tests.contains(&format!("\"{}\",", limit.directive()));
    let missing: Vec<String> =
        TABLE.iter().map(|row| row.limit).filter(|limit| !named(*limit)).map(Limit::directive).collect();
    assert!(missing.is_empty(), "no case in regress/tests/limits_table.rs: {missing:?}");
}

#[test]
fn every_limit_and_its_default_is_in_the_manual() {
    let manual = read("../man/gotd.conf.5");
    for row in TABLE {
        let section = if row.scope == Scope::Connection { "connections" } else { "requests and packs" };
        let (_, rest) = manual.split_once(&format!("\n.Ss Limits of {section}\n")).unwrap_or_else(|| {
            panic!("no section about limits of {section}");
        });
        let section = rest.split("\n.Ss ").next().unwrap_or_default();
        let item = format!("\n.It Ic {} Ar ", row.words.join(" "));
        let (_, entry) = section.split_once(&item).unwrap_or_else(|| panic!("{item}: not there"));
        let entry = format!("{}\n", entry.split("\n.It ").next().unwrap_or_default());
        let (_, told) = entry.split_once("\nThe default is").unwrap_or_else(|| panic!("{item}: no default"));
        let told = told.trim_start().trim_start_matches(".Cm ");
        let word = told.split_once(['.', ' ', '\n']).map_or(told, |(word, _)| word);
        assert_eq!(row.value(word), Ok(row.default), "{item}: the default is {}", row.spell(row.default));
    }
}
