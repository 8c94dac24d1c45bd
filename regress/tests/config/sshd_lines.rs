//! The lines for sshd_config(5) that are installed and that the manual shows, as sshd itself
//! understands them.
//!
//! An account that many people share has a password sometimes, set once for some other reason:
//! whoever knows or guesses it would be let in past all keys. So the lines say that a key is the
//! one way in, and sshd is asked whether they do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regress::{Done, Site, Sshd, run};

/// What must hold for the account that people share, in the words of `sshd -T`.
const HOLDS: [&str; 7] = [
    "authenticationmethods publickey",
    "authorizedkeysfile none",
    "acceptenv GIT_PROTOCOL",
    "disableforwarding yes",
    "permittty no",
    "permituserrc no",
    "authorizedkeyscommand /usr/local/sbin/gotctl authorized-keys %u %t %k",
];

fn tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// sshd with these lines behind those that every configuration needs.
fn sshd(site: &Site, lines: &str, arguments: &[&str]) -> Done {
    let key = site.path("host");
    if !key.exists() {
        let mut keygen = Command::new("ssh-keygen");
        run(keygen.args(["-q", "-t", "ecdsa", "-N", "", "-f"]).arg(&key), b"", 30).good();
    }
    let file = site.path("sshd_config");
    fs::write(&file, format!("HostKey {}\n{lines}", key.display())).expect("writes");
    let program = if Path::new("/usr/sbin/sshd").exists() { "/usr/sbin/sshd" } else { "sshd" };
    run(Command::new(program).args(arguments).arg("-f").arg(&file), b"", 30)
}

#[track_caller]
fn assert_keys_alone(site: &Site, lines: &str) {
    let told = sshd(site, lines, &["-T", "-C", "user=git,host=example.org,addr=192.0.2.1"]).good().text();
    for line in HOLDS {
        assert!(told.lines().any(|told| told == line), "{line}: not in\n{told}");
    }
    // Others are as they were.
    let other = sshd(site, lines, &["-T", "-C", "user=root,host=example.org,addr=192.0.2.1"]).good().text();
    assert!(other.lines().any(|told| told == "authenticationmethods any"), "{other}");
}

/// The examples of the manual that are lines for sshd.
fn examples() -> Vec<String> {
    let page = fs::read_to_string(tree("man/gotd.8")).expect("reads");
    let (mut all, mut block) = (Vec::new(), None::<String>);
    for line in page.lines() {
        if line.starts_with(".Bd -literal") {
            block = Some(String::new());
        } else if line == ".Ed" {
            all.extend(block.take().filter(|block| block.starts_with("Match ")));
        } else if let Some(block) = &mut block {
            block.push_str(line);
            block.push('\n');
        }
    }
    all
}

#[test]
fn the_installed_lines_leave_a_key_as_the_only_way_in() {
    if !Sshd::available() {
        return;
    }
    let site = Site::new();
    assert_keys_alone(&site, &fs::read_to_string(tree("dist/ssh/gotd.conf")).expect("reads"));
}

#[test]
fn the_lines_of_the_manual_are_good_and_leave_a_key_as_the_only_way_in() {
    if !Sshd::available() {
        return;
    }
    let site = Site::new();
    let examples = examples();
    assert!(examples.len() >= 3, "{examples:?}");
    for example in &examples {
        sshd(&site, example, &["-t"]).good();
    }
    let shared = examples.iter().find(|example| example.starts_with("Match User git\n"));
    assert_keys_alone(&site, shared.expect("lines for an account that people share"));
}
