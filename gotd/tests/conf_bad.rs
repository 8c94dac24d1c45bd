//! Configurations with every kind of mistake, and exactly what is said about each:
//! `tests/conf/bad/NAME.conf` and `NAME.err`. With `GOTD_TEST_UPDATE` set, the answers are written
//! anew, for a look at the difference.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use gotd::conf::parse;
use gotd::conf::source::Texts;

#[test]
fn every_mistake_is_named_with_its_place() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conf/bad");
    let mut cases = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "conf") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let parsed = parse(name, &mut Texts::one(name, std::fs::read(&path).unwrap()));
        assert!(!parsed.errors.is_empty(), "{name}");
        let said: String = parsed.errors.iter().map(|e| format!("{e}\n")).collect();
        let expected = path.with_extension("err");
        if std::env::var_os("GOTD_TEST_UPDATE").is_some() {
            std::fs::write(&expected, said).unwrap();
        } else {
            assert_eq!(said, std::fs::read_to_string(&expected).unwrap(), "{name}");
        }
        cases += 1;
    }
    assert!(cases >= 14, "only {cases} cases found");
}

#[test]
fn too_much_of_anything_is_refused_soon() {
    let errors = |text: String| {
        let parsed = parse("f", &mut Texts::one("f", text));
        parsed.errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let many = errors("bogus x\n".repeat(100_000));
    assert_eq!(many.len(), 201);
    assert_eq!(many[200], "too many errors, the rest is not shown");
    assert_eq!(
        errors(" ".repeat((16 << 20) + 1))[0],
        "f: larger than 16777216 bytes, or all files than 67108864"
    );
    assert!(
        errors(format!("user {}", "x".repeat(9000)))[0].starts_with("f:1:6: expected a word of at most 8000")
    );
    assert!(!errors("repository \"a\" {".repeat(200_000)).is_empty());
    assert!(!errors("protect { ".repeat(200_000)).is_empty());
    assert!(!errors("x { ".repeat(200_000)).is_empty());
    let mut nested = Texts::default();
    for i in 0..20 {
        nested.0.insert(format!("/{i}"), format!("include \"/{}\"\n", i + 1).into_bytes());
    }
    let parsed = parse("/0", &mut nested);
    assert_eq!(parsed.errors[0].to_string(), "/7:1:9: /8: files are included more than 8 deep");
    let mut itself = Texts::one("/0", "include \"/?\"\n");
    assert_eq!(parse("/0", &mut itself).errors[0].to_string(), "/0:1:9: /0: the file includes itself");
    let protections: String = (0..1000).map(|i| format!("protect branch branch{i}\n")).collect();
    let long = errors(format!("repository \"r\" {{\npath \"/r\"\n{protections}}}\n"));
    assert_eq!(
        long,
        ["f:1:1: repository \"r\": expected fewer \"protect\", \"hide\" and \"fsck\" directives"]
    );
}

/// sshd takes the first line that matches: one key must not lead to two people.
#[test]
fn a_key_or_principal_of_two_people_is_refused() {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ";
    let errors = |text: String| {
        let parsed = parse("f", &mut Texts::one("f", text));
        parsed.errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let end = "repository r {\n path /r\n}\n";
    let two = format!("account git {{\nuser a key \"{KEY} a\"\nuser b key \"{KEY} b\"\n}}\n{end}");
    assert_eq!(errors(two), ["f:3:8: the same key is already in f:2"]);
    let principals = format!("account git {{\nuser a principal p\nuser b principal p\n}}\n{end}");
    assert_eq!(errors(principals), ["f:3:8: principal \"p\": the same name is already in f:2"]);
    // The principal of another account is another one.
    let other = format!("account git user a principal p\naccount hg user b principal p\n{end}");
    assert_eq!(errors(other), [""; 0]);
}
