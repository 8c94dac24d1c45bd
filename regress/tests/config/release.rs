//! What is released: a package that is the same whoever builds it from the same programs, and
//! beside it the list of what was linked. `make reproducible` shows that the programs are the same,
//! too; it takes two builds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regress::{Site, binaries, run};

fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All of a directory, and what is not a directory.
fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).expect("copies");
        return;
    }
    fs::create_dir_all(to).expect("makes a directory");
    for entry in fs::read_dir(from).expect("lists").flatten() {
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

#[test]
fn two_builders_make_the_same_package_of_the_same_programs() {
    if run(Command::new("sh").args(["-c", "command -v dpkg-deb"]), b"", 20).status != 0 {
        return regress::skipped("needs dpkg-deb");
    }
    let site = Site::new();
    let mut packages = Vec::new();
    for (place, umask, zone, language) in
        [("here", "022", "UTC", "C"), ("some other place/there", "077", "Pacific/Kiritimati", "C.UTF-8")]
    {
        let home = site.path(place);
        fs::create_dir_all(&home).expect("makes a directory");
        for entry in fs::read_dir(source()).expect("lists").flatten() {
            if ![".git", "target"].contains(&entry.file_name().to_string_lossy().as_ref()) {
                copy(&entry.path(), &home.join(entry.file_name()));
            }
        }
        // Files of today, programs that a group may write, directories that hand on their group.
        let bin = home.join("bin");
        fs::create_dir(&bin).expect("makes a directory");
        for name in ["gotd", "gotctl", "gotsh", "gotd-static"] {
            if binaries().join(name).exists() {
                fs::copy(binaries().join(name), bin.join(name)).expect("copies");
            }
        }
        let script = "umask $0; mkdir tmp && chmod g+s tmp && chmod -R go-rwx,g+w bin dist man && sh dist/debian/deb.sh out";
        let mut build = Command::new("sh");
        build.args(["-c", script, umask]).current_dir(&home).env("BIN", &bin);
        build.env("TMPDIR", home.join("tmp")).env("TZ", zone).env("LC_ALL", language);
        build.env("COMPRESSION", "none").env("SOURCE_DATE_EPOCH", "1700000000");
        run(&mut build, b"", 120).good();
        let mut made: Vec<(String, Vec<u8>)> = fs::read_dir(home.join("out"))
            .expect("lists")
            .flatten()
            .map(|e| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).expect("reads")))
            .collect();
        made.sort();
        assert_eq!(made.len(), 2, "a package and its list");
        packages.push(made);
        let listed =
            run(Command::new("dpkg-deb").arg("--contents").arg(deb(&home.join("out"))), b"", 60).good();
        for line in listed.text().lines().filter(|line| line.starts_with('d')) {
            assert!(line.starts_with("drwxr-xr-x root/root"), "{line}");
        }
    }
    let (there, here) = (packages.pop().expect("two"), packages.pop().expect("two"));
    for (one, other) in here.iter().zip(&there) {
        assert_eq!(one.0, other.0);
        assert!(one.1 == other.1, "{}: differs; see {}", one.0, site.path("").display());
    }
}

fn deb(directory: &Path) -> PathBuf {
    let mut found = fs::read_dir(directory).expect("lists").flatten().map(|entry| entry.path());
    found.find(|path| path.extension().is_some_and(|e| e == "deb")).expect("a package")
}

/// A crate as the list has it.
#[derive(Debug, PartialEq)]
struct Listed {
    linked: bool,
    licence: String,
    checksum: Option<String>,
}

/// The string that a line of JSON has for a key.
fn field(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{key}\": \""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// What dist/sbom.sh prints, by name and version.
fn listed() -> (String, BTreeMap<(String, String), Listed>) {
    let text = run(Command::new("sh").arg(source().join("dist/sbom.sh")), b"", 60).good().text();
    let components = text.lines().filter(|line| line.contains("\"type\": \"library\"")).map(|line| {
        let key = |key| field(line, key);
        let listed = Listed {
            linked: key("scope").as_deref() == Some("required"),
            licence: key("expression").unwrap_or_default(),
            checksum: key("content"),
        };
        ((key("name").expect("a name"), key("version").unwrap_or_default()), listed)
    });
    (text.clone(), components.collect())
}

/// The crates whose files the tables of lines in a program name. What is linked without a line of
/// code is not among them.
fn named_by(program: &Path) -> BTreeSet<(String, String)> {
    let bytes = fs::read(program).expect("reads");
    let mut found = BTreeSet::new();
    let start = b"/registry/src/";
    let mut rest = bytes.as_slice();
    while let Some(at) = rest.windows(start.len()).position(|window| window == start) {
        rest = &rest[at + start.len()..];
        let path: Vec<u8> = rest.iter().copied().take(200).take_while(|b| b.is_ascii_graphic()).collect();
        let path = String::from_utf8(path).expect("graphic");
        let crate_name = path.split('/').nth(1).unwrap_or("");
        // The version begins at the last minus sign that a digit follows.
        let parted = crate_name.rmatch_indices('-').find(|(at, _)| {
            crate_name[at + 1..].starts_with(|c: char| c.is_ascii_digit())
                && crate_name[at + 1..].contains('.')
        });
        if let Some((at, _)) = parted {
            found.insert((crate_name[..at].to_owned(), crate_name[at + 1..].to_owned()));
        }
    }
    found
}

#[test]
fn every_crate_that_is_linked_is_in_the_list() {
    let (text, listed) = listed();
    let lock = fs::read_to_string(source().join("Cargo.lock")).expect("reads");
    let mut locked = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let key = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")))?;
            Some(line.trim_end_matches('"').to_owned())
        };
        locked.insert((key("name").expect("a name"), key("version").expect("a version")), key("checksum"));
    }
    let mut seen = BTreeSet::new();
    for name in ["gotd", "gotctl", "gotsh", "gotd-static"] {
        let program = binaries().join(name);
        if program.exists() {
            seen.extend(named_by(&program));
        }
    }
    assert!(seen.len() > 10, "the programs have their tables of lines: {seen:?}");
    for found in seen {
        assert!(locked.contains_key(&found), "{found:?}: not in Cargo.lock");
        assert!(listed.get(&found).is_some_and(|listed| listed.linked), "{found:?}: not in the list");
    }
    // What leaves no line in the programs: our own, and a crate of one source of tables.
    for name in ["gotd", "gotsh", "libgit", "libproto", "librepo", "libsandbox"] {
        let own = listed.get(&(name.to_owned(), "0.1.0".to_owned()));
        assert!(own.is_some_and(|own| own.linked && own.licence == "ISC"), "{name}: {own:?}");
    }
    // All that is said of a crate is so: Cargo.lock has its checksum, its own description its
    // licence.
    let mut compared = 0;
    for (name, crate_listed) in &listed {
        assert!(!crate_listed.licence.is_empty(), "{name:?}: no licence");
        let Some(checksum) = locked.get(name) else {
            assert!(["rust-std", "musl"].contains(&name.0.as_str()), "{name:?}: not in Cargo.lock");
            continue;
        };
        assert_eq!(&crate_listed.checksum, checksum, "{name:?}");
        if let Some(licence) = licence_of(&name.0, &name.1) {
            assert_eq!(crate_listed.licence, licence.replace('/', " OR "), "{name:?}");
            compared += 1;
        }
    }
    assert!(compared > 10, "compared {compared} licences with those of the crates");
    // It is JSON, and the same each time.
    let again = run(Command::new("sh").arg(source().join("dist/sbom.sh")), b"", 60).good().text();
    assert_eq!(again, text);
    if run(Command::new("sh").args(["-c", "command -v python3"]), b"", 20).status == 0 {
        let check = "import json,sys; b=json.load(sys.stdin); r={c['bom-ref'] for c in b['components']}|{'package'}; \
            d=[x for e in b['dependencies'] for x in [e['ref']]+e['dependsOn']]; \
            assert b['bomFormat']=='CycloneDX' and set(d)<=r, set(d)-r";
        run(Command::new("python3").args(["-c", check]), text.as_bytes(), 20).good();
    }
}

/// What a crate's own Cargo.toml says, where cargo has unpacked it.
fn licence_of(name: &str, version: &str) -> Option<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?.flatten();
    let mut texts = registries.filter_map(|registry| {
        fs::read_to_string(registry.path().join(format!("{name}-{version}/Cargo.toml"))).ok()
    });
    let text = texts.next()?;
    let line = text.lines().find_map(|line| line.strip_prefix("license = \""))?;
    Some(line.trim_end_matches('"').to_owned())
}
