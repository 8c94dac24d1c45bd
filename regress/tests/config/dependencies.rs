//! What deny.toml says about licences, sources and versions holds for every crate that is built
//! here, by cargo's word alone: `cargo deny` has to be installed first, and its data base of
//! advisories to be fetched, so `make regress` runs neither.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use regress::run;

fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(name: &str) -> String {
    fs::read_to_string(source().join(name)).expect("reads")
}

/// The crates that are built here for these edges of cargo tree: name and version, licence.
fn crates(selection: &[&str], edges: &str) -> BTreeMap<String, String> {
    let machine = std::env::consts::ARCH;
    let mut found = BTreeMap::new();
    for libc in ["gnu", "musl"] {
        let mut tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        tree.args(["tree", "--locked", "--offline", "--quiet", "--prefix", "none", "--no-dedupe"])
            .args([
                "--edges",
                edges,
                "--format",
                "{p}\t{l}",
                "--target",
                &format!("{machine}-unknown-linux-{libc}"),
            ])
            .args(selection)
            .current_dir(source());
        for line in run(&mut tree, b"", 60).good().text().lines() {
            // Other lines are blank, or name a feature.
            let Some((package, licence)) = line.split_once('\t') else { continue };
            let name: Vec<&str> = package.split(' ').take(2).collect();
            found.insert(name.join(" "), licence.to_owned());
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// Whether a licence expression can be kept with these licences: `/` is the older `OR`.
fn permitted(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = any(&words, &mut at, allowed);
    result && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut result = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        result |= all(words, at, allowed);
    }
    result
}

fn all(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut result = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(words, at, allowed);
    }
    result
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let result = any(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return result && closed;
    }
    let mut licence = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&licence)
}

#[test]
fn a_licence_expression_is_understood() {
    let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception", "Zlib"].map(str::to_owned);
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-2.0 OR MIT",
        "(GPL-2.0 OR MIT) AND Zlib",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(permitted(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-2.0",
        "MIT AND GPL-2.0",
        "Apache-2.0",
        "(MIT",
        "MIT )",
        "MIT MIT",
        "Zlib WITH MIT",
        "MIT AND (GPL-2.0 OR X)",
    ] {
        assert!(!permitted(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let deny = text("deny.toml");
    let (_, list) = deny.split_once("allow = [").expect("a list of licences");
    let list = list.split_once(']').expect("an end").0;
    let allowed: Vec<String> = list.split(',').map(|word| word.trim().trim_matches('"').to_owned()).collect();
    for (name, licence) in crates(&["--workspace"], "all") {
        assert!(permitted(&licence, &allowed), "{name}: {licence:?} is not in deny.toml");
    }
}

#[test]
fn every_crate_comes_from_the_registry_with_a_checksum_or_from_here() {
    let members = text("Cargo.toml");
    for package in text("Cargo.lock").split("[[package]]").skip(1) {
        let field = |key: &str| package.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        let name = field("name").expect("a name").trim_matches('"');
        match field("source") {
            Some(source) => {
                assert!(
                    source.starts_with("\"registry+") && source.ends_with("crates.io-index\""),
                    "{name}: {source}"
                );
                let checksum = field("checksum").expect("a checksum").trim_matches('"');
                assert!(checksum.len() == 64 && checksum.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
            }
            None => {
                let here =
                    members.contains(&format!("\"{name}\"")) || members.contains(&format!("/{name}\""));
                assert!(here, "{name}: neither from the registry nor a member");
            }
        }
    }
    assert!(!members.contains("\"*\""), "a dependency of any version");
}

#[test]
fn nothing_is_linked_in_two_versions() {
    let mut seen = BTreeMap::new();
    for name in crates(&["-p", "gotd", "-p", "gotsh"], "normal,no-proc-macro").into_keys() {
        let (crate_name, version) = name.split_once(' ').expect("a name and a version");
        let before = seen.insert(crate_name.to_owned(), version.to_owned());
        assert_eq!(before, None, "{name}");
    }
}
