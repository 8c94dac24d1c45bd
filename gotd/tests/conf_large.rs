//! Ten thousand repositories and a hundred thousand rules: read within a second, decided within a
//! millisecond.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use gotd::access::table::{AccessTable, Identity, Verdict};
use gotd::conf::parse;
use gotd::conf::resolve::{FixedNames, resolve};
use gotd::conf::source::Texts;
use libproto::command::Service;
use libproto::names::RepoName;

#[test]
fn a_large_site() {
    let rules: String = (0..10).map(|n| format!("\tpermit ro {}\n", 5000 + n)).collect();
    let text: String = (0..10_000)
        .map(|n| {
            format!("repository \"group{}/project{n}\" {{\n\tpath \"/srv/git/{n}\"\n{rules}}}\n", n % 100)
        })
        .collect();
    let start = Instant::now();
    let parsed = parse("f", &mut Texts::one("f", text));
    assert_eq!(parsed.errors, []);
    let mut config = parsed.config;
    assert_eq!(resolve(&mut config, &mut FixedNames::default()).errors, []);
    let table = AccessTable::new(config);
    let read = start.elapsed();
    let ask = |uid: u32, name: &str| {
        let identity = Identity::UnixUser { uid, gid: uid, groups: vec![] };
        table.decide(&identity, &RepoName::parse(name.as_bytes()).unwrap(), Service::UploadPack)
    };
    let start = Instant::now();
    for n in 0..1000 {
        assert!(matches!(ask(5000, &format!("group{}/project{n}.git", n % 100)), Verdict::Granted(_)));
        assert_eq!(ask(4999, &format!("group{}/project{n}", n % 100)), Verdict::NoRule);
    }
    let decision = start.elapsed() / 2000;
    eprintln!("10,000 repositories, 100,000 rules: read in {read:?}, one decision {decision:?}");
    // On a machine that does nothing else it is far less.
    assert!(read < Duration::from_secs(10) && decision < Duration::from_millis(1), "{read:?} {decision:?}");
}
