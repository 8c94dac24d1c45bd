//! Every limit of the table has a case among the integration tests, and an entry with its default
//! in gotd.conf(5).

#![allow(clippy::unwrap_used)]

use std::path::Path;

use gotd::conf::limits::{Limit, Row, Scope, TABLE};
use libproto::message::parent::NoSession;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_limit_is_reached_by_a_test() {
    let tests = read("../regress/tests/config/limits_table.rs");
    let named = |limit: Limit| tests.contains(&format!("\"{}\",", limit.directive()));
    let missing: Vec<String> =
        TABLE.iter().map(|row| row.limit).filter(|limit| !named(*limit)).map(Limit::directive).collect();
    assert!(missing.is_empty(), "no case in regress/tests/config/limits_table.rs: {missing:?}");
}

#[test]
fn every_limit_and_its_default_is_in_the_manual() {
    let manual = read("../man/gotd.conf.5");
    for row in TABLE {
        let section = if row.scope.word() == "connection" { "connections" } else { "requests and packs" };
        let (_, rest) = manual.split_once(&format!("\n.Ss Limits of {section}\n")).unwrap_or_else(|| {
            panic!("no section about limits of {section}");
        });
        let section = rest.split("\n.Ss ").next().unwrap_or_default();
        let item = format!("\n.It Ic {} Ar ", row.words.join(" "));
        let (_, entry) = section.split_once(&item).unwrap_or_else(|| panic!("{item}: not there"));
        let entry = format!("{}\n", entry.split("\n.It ").next().unwrap_or_default());
        // What one user has instead of the others' number has no number of its own.
        if row.scope == Scope::User {
            continue;
        }
        let (_, told) = entry.split_once("\nThe default is").unwrap_or_else(|| panic!("{item}: no default"));
        let told = told.trim_start().trim_start_matches(".Cm ");
        let word = told.split_once(['.', ' ', '\n']).map_or(told, |(word, _)| word);
        assert_eq!(row.value(word), Ok(row.default), "{item}: the default is {}", row.spell(row.default));
    }
}

/// A default is a statement about the repositories that there are: it needs a reason.
#[test]
fn every_limit_tells_which_repository_it_was_chosen_for() {
    let page = read("../doc/dev/bounded.md");
    let (_, section) = page.split_once("\n## What the defaults were chosen for\n").unwrap();
    // A row begins with its limits and their defaults: "`limit wants` 4,000,000, `limit haves` ...".
    let told: Vec<(&str, String)> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split(" |").next())
        .flat_map(|cell| cell.split(", `"))
        .filter_map(|limit| limit.split_once('`'))
        .map(|(directive, default)| (directive, default.trim().replace(',', "")))
        .collect();
    for row in TABLE {
        let directive = row.limit.directive();
        let found = told.iter().find(|(name, _)| *name == directive);
        let (_, default) = found.unwrap_or_else(|| panic!("{directive}: not in the table"));
        let special = row.scope == Scope::User || row.limit == Limit::MemoryTotal;
        assert!(special || row.value(default) == Ok(row.default), "{directive}: default {default}");
    }
}

/// The table of ranges in the manual, as it is made from the table of limits.
fn ranges() -> String {
    let line = |row: &Row| {
        let default = if row.scope == Scope::User { "-".to_owned() } else { row.spell(row.default) };
        let largest = format!("{}{}", row.spell(row.max), if row.none { ", none" } else { "" });
        format!(".It {} Ta {} Ta {largest} Ta {default}\n", row.limit.directive(), row.spell_range(row.min))
    };
    TABLE.iter().map(line).collect()
}

#[test]
fn the_ranges_in_the_manual_are_those_of_the_table() {
    let manual = read("../man/gotd.conf.5");
    let begin = ".It Em directive Ta Em smallest Ta Em largest Ta Em default\n";
    let (before, rest) = manual.split_once(begin).unwrap();
    let (rows, after) = rest.split_once(".El\n").unwrap();
    if std::env::var_os("GOTD_TEST_UPDATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/gotd.conf.5");
        std::fs::write(path, [before, begin, &ranges(), ".El\n", after].concat()).unwrap();
    } else {
        assert_eq!(rows, ranges(), "GOTD_TEST_UPDATE=1 writes it");
    }
}

/// What a client without a session is told and what `gotctl metrics` counts are the same words.
#[test]
fn whoever_gets_no_session_is_told_a_limit_of_the_table() {
    use NoSession::{
        FirstRequest, GaveWay, GitTotal, OwnPerUser, PerAddress, PerUser, Queue, QueueLength, Rate,
        RatePerAddress, RatePerUser, Total, UserQueueLength, UserQueueTimeout,
    };
    for (why, limit) in [
        (Total, Limit::ConnectionsTotal),
        (Rate, Limit::RateTotal),
        (Queue, Limit::QueueTimeout),
        (QueueLength, Limit::QueueLength),
        (PerUser, Limit::ConnectionsPerUser),
        (OwnPerUser, Limit::ConnectionsOfUser),
        (UserQueueLength, Limit::UserQueueLength),
        (UserQueueTimeout, Limit::UserQueueTimeout),
        (RatePerUser, Limit::RatePerUser),
        (PerAddress, Limit::ConnectionsPerAddress),
        (RatePerAddress, Limit::RatePerAddress),
        (GitTotal, Limit::ConnectionsGit),
        (GaveWay, Limit::ConnectionsGit),
        (FirstRequest, Limit::FirstRequest),
    ] {
        assert_eq!(why.limit(), Some(limit), "{why:?}");
        assert!(why.text().contains(&limit.directive()), "{why:?}: {}", why.text());
    }
}
