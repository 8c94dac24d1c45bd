//! The pages about security name tests. A test that was renamed or removed leaves a promise that
//! nobody checks.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Each `file.rs::test` in a text.
fn named(text: &str) -> Vec<(&str, &str)> {
    let code = text.split('`').skip(1).step_by(2);
    code.filter_map(|code| code.split_once("::"))
        .filter(|(file, test)| file.ends_with(".rs") && !test.contains([':', ' ', '(']))
        .collect()
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Fails unless the tests that a page names are there.
#[track_caller]
fn assert_tests(page: &str) {
    let text = read(page);
    let named = named(&text);
    assert!(named.len() > 10, "{page}: {named:?}");
    let missing: Vec<_> = named
        .into_iter()
        .filter(|(file, test)| {
            let source = read(file);
            let start = format!("fn {test}(");
            // An attribute stands before it: `#[test]`, perhaps with others and comments below.
            source.find(&start).is_none_or(|at| !source[..at].contains("#[test]"))
        })
        .collect();
    assert_eq!(missing, [], "{page}: these tests are not there");
}

#[test]
fn each_published_vulnerability_has_a_test() {
    let page = "doc/dev/cves.md";
    assert_tests(page);
    let text = read(page);
    let rows = text.lines().filter(|line| line.starts_with("| CVE-") || line.starts_with("| GHSA-"));
    let bare: Vec<&str> = rows.clone().filter(|row| named(row).is_empty()).collect();
    assert_eq!(bare, [""; 0]);
    assert!(rows.count() > 30);
}

#[test]
fn each_test_of_the_threat_model_is_there() {
    assert_tests("doc/dev/threat-model.md");
}

/// The one-letter options that a program tells of, for it and for each of its commands.
fn options(program: &str, command: &[&str]) -> Vec<String> {
    let help = Command::new(program).args(command).arg("--help").output().expect("runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let lines = help.lines().map(str::trim);
    let letter = |line: &str| {
        let letter = line.strip_prefix('-')?.get(..1).filter(|letter| *letter != "-")?;
        Some(format!("Fl {letter}"))
    };
    lines.filter_map(letter).collect()
}

#[test]
fn each_option_of_a_program_is_in_its_manual() {
    let commands: [&[&str]; 3] = [&["explain"], &["authorized-keys"], &["reload"]];
    for (program, page, commands) in [
        (env!("CARGO_BIN_EXE_gotd"), "man/gotd.8", &[][..]),
        (env!("CARGO_BIN_EXE_gotctl"), "man/gotctl.8", &commands[..]),
    ] {
        let manual = read(page);
        let own = options(program, &[]);
        assert!(own.len() > 2, "{program}: {own:?}");
        for option in own {
            assert!(manual.contains(&format!("\n.It {option}")), "{page}: no {option}");
        }
        // The options of a command stand in its own line.
        for command in commands {
            for option in options(program, command).iter().filter(|option| *option != "Fl h") {
                assert!(manual.contains(option), "{page}: no {option} of {command:?}");
            }
        }
    }
}
