//! What is installed: every file, where it belongs, and nothing left by uninstall; units that
//! systemd understands; a package that dpkg can read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regress::{Done, Site, binaries, history, run};

fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn install(what: &str, variables: &[(&str, &Path)]) -> Done {
    let mut command = Command::new("sh");
    command.arg(source().join("dist/install.sh")).arg(what).env("BIN", binaries()).env("SYSTEM", "Linux");
    run(command.envs(variables.iter().copied()), b"", 60)
}

/// All files below a directory, by their names relative to it.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("lists").flatten() {
            match entry.file_type().expect("a type").is_dir() {
                true => left.push(entry.path()),
                false => {
                    let path = entry.path();
                    found.insert(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
                }
            }
        }
    }
    found
}

fn there(program: &str) -> bool {
    let there = Command::new("which").arg(program).output().is_ok_and(|o| o.status.success());
    if !there {
        regress::skipped(&format!("needs {program}"));
    }
    there
}

#[test]
fn everything_is_installed_and_taken_away_again() {
    let site = Site::new();
    let root = site.path("root");
    let variables = [("DESTDIR", root.as_path()), ("PREFIX", Path::new("/opt/gotd"))];
    install("install", &variables).good();
    let found = files(&root);
    for name in [
        "sbin/gotd",
        "sbin/gotctl",
        "bin/gotsh",
        "share/man/man8/gotd.8",
        "share/man/man8/gotctl.8",
        "share/man/man1/gotsh.1",
        "share/man/man5/gotd.conf.5",
        "lib/systemd/system/gotd.service",
        "lib/systemd/system/gotd-git.socket",
        "lib/sysusers.d/gotd.conf",
        "lib/tmpfiles.d/gotd.conf",
        "share/bash-completion/completions/gotctl",
        "share/doc/gotd/sshd_config",
        "share/doc/gotd/five-minutes.md",
        "share/doc/gotd/examples/gotd.conf",
    ] {
        assert!(found.contains(&format!("opt/gotd/{name}")), "{name}: {found:?}");
    }
    // They say where they are.
    for name in ["lib/systemd/system/gotd.service", "share/doc/gotd/sshd_config", "share/man/man8/gotd.8"] {
        let text = fs::read_to_string(root.join("opt/gotd").join(name)).expect("reads");
        assert!(text.contains("/opt/gotd/") && !text.contains("/usr/local/"), "{name}");
    }
    // What was installed runs, and knows where gotsh is.
    fs::write(site.path("c"), "account git user a principal p\nrepository r {\n\tpath \"/r\"\n}\n")
        .expect("writes");
    let mut gotctl = Command::new(root.join("opt/gotd/sbin/gotctl"));
    let lines =
        run(gotctl.arg("authorized-principals").arg("-c").arg(site.path("c")).arg("git"), b"", 20).good();
    let gotsh = root.join("opt/gotd/bin/gotsh");
    assert_eq!(lines.text(), format!("restrict,command=\"{} --user a\" p\n", gotsh.display()));
    install("uninstall", &variables).good();
    assert_eq!(files(&root), BTreeSet::new());
}

#[test]
fn systemd_understands_the_units() {
    if !there("systemd-analyze") {
        return;
    }
    let site = Site::new();
    let prefix = site.path("prefix");
    install("install", &[("PREFIX", prefix.as_path())]).good();
    let units = ["gotd.service", "gotd-git.socket"].map(|unit| prefix.join("lib/systemd/system").join(unit));
    let done = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units), b"", 60);
    let complaints: Vec<&str> = done.err.lines().filter(|line| line.contains("gotd")).collect();
    assert_eq!((done.status, complaints), (0, vec![]), "{}", done.err);
}

#[test]
fn the_completions_are_good_shell() {
    let script = source().join("dist/completions/gotctl.bash");
    if there("bash") {
        let words =
            "source \"$1\"; COMP_WORDS=(gotctl log v); COMP_CWORD=2; _gotctl; echo \"${COMPREPLY[@]}\"";
        let done = run(Command::new("bash").args(["-c", words, "-"]).arg(&script), b"", 20).good();
        assert_eq!(done.text(), "verbose\n");
        // Every command is there.
        let help = run(Command::new(binaries().join("gotctl")).arg("--help"), b"", 20).good().text();
        let (_, commands) = help.split_once("Commands:\n").expect("commands");
        let text = fs::read_to_string(&script).expect("reads");
        for line in commands.lines().take_while(|line| line.starts_with("  ")) {
            let command = line.split_whitespace().next().expect("a word");
            assert!(text.contains(command), "{command}");
        }
    }
}

#[test]
fn the_package_lists_what_it_should() {
    if !there("dpkg-deb") {
        return;
    }
    let site = Site::new();
    let mut build = Command::new("sh");
    build
        .arg(source().join("dist/debian/deb.sh"))
        .arg(site.path("out"))
        .env("BIN", binaries())
        .env("COMPRESSION", "none");
    run(&mut build, b"", 120).good();
    let mut made = fs::read_dir(site.path("out")).expect("lists").flatten().map(|entry| entry.path());
    let package = made.find(|path| path.extension().is_some_and(|e| e == "deb")).expect("a package");
    let listed = run(Command::new("dpkg-deb").arg("--contents").arg(&package), b"", 60).good().text();
    for (mode, name) in [
        ("-rwxr-xr-x root/root", "./usr/sbin/gotd\n"),
        ("-rwxr-xr-x root/root", "./usr/sbin/gotctl\n"),
        ("-rwxr-xr-x root/root", "./usr/bin/gotsh\n"),
        ("-rw-r--r-- root/root", "./usr/lib/systemd/system/gotd.service\n"),
        ("-rw-r--r-- root/root", "./usr/share/man/man5/gotd.conf.5\n"),
    ] {
        let good = listed.lines().any(|line| line.starts_with(mode) && format!("{line}\n").ends_with(name));
        assert!(good, "{mode} {name}: {listed}");
    }
    let control = run(Command::new("dpkg-deb").arg("--field").arg(&package), b"", 60).good().text();
    assert!(control.contains("Package: gotd\n") && control.contains("Version: 0.1.0\n"), "{control}");
    // Programs of a newer C library do not start with an older one.
    let depends = control.lines().find_map(|line| line.strip_prefix("Depends: libc6 (>= ")).expect("depends");
    let version = depends.split(')').next().expect("a version");
    let gotd = fs::read(binaries().join("gotd")).expect("reads");
    let symbol = format!("GLIBC_{version}\0");
    assert!(gotd.windows(symbol.len()).any(|bytes| bytes == symbol.as_bytes()), "{depends}");
    let parts = run(Command::new("dpkg-deb").arg("--ctrl-tarfile").arg(&package), b"", 60).good();
    for script in ["postinst", "prerm", "postrm"] {
        assert!(parts.text().contains(script), "{script}");
        let path = source().join("dist/debian").join(script);
        run(Command::new("sh").arg("-n").arg(path), b"", 20).good();
    }
}

/// What a daemon of these programs logs at its start.
fn log_of_start(site: &Site, gotd: &Path) -> String {
    let (conf, log) = (site.path("start.conf"), site.path("start.log"));
    fs::write(&conf, site.serve_all()).expect("writes");
    let file = fs::File::create(&log).expect("makes a log");
    let mut daemon = site.command(gotd).args(["-d", "-f"]).arg(&conf).stderr(file).spawn().expect("starts");
    let text = || fs::read_to_string(&log).unwrap_or_default();
    regress::run::wait_until(10.0, || text().contains("started "));
    let _ = daemon.kill();
    let _ = daemon.wait();
    // Its processes go by themselves, and until then the next one is told that the socket is in
    // use.
    regress::run::wait_until(20.0, || regress::raw::Connection::try_open(&site.socket()).is_err());
    text()
}

/// `gotd-static` is used where it is the same build and only those could have changed it who could
/// have changed gotd.
#[test]
fn a_second_program_is_used_only_if_it_is_the_same_and_as_safe() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let (gotd, second) = (site.path("sbin/gotd"), site.path("libexec/gotd-static"));
    for program in [&gotd, &second] {
        fs::create_dir_all(program.parent().expect("below the site")).expect("makes a directory");
        fs::copy(binaries().join("gotd"), program).expect("copies");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).expect("changes the mode");
    }
    site.hand_over();
    assert!(log_of_start(&site, &gotd).contains(" static=true"));
    fs::set_permissions(&second, fs::Permissions::from_mode(0o775)).expect("changes the mode");
    let log = log_of_start(&site, &gotd);
    assert!(log.contains("not used why=") && log.contains("others may write it"), "{log}");
    assert!(log.contains(" static=false"), "{log}");
    fs::write(&second, "#!/bin/sh\necho another >&2\n").expect("writes");
    fs::set_permissions(&second, fs::Permissions::from_mode(0o755)).expect("changes the mode");
    let log = log_of_start(&site, &gotd);
    assert!(log.contains("another build") && log.contains(" static=false"), "{log}");
    fs::remove_file(&second).expect("removes");
    let log = log_of_start(&site, &gotd);
    assert!(!log.contains("not used") && log.contains(" static=false"), "{log}");
}

/// A static program does not know where the libraries of the other one are, and whoever starts
/// `config` has to.
#[test]
fn a_reload_works_beside_the_static_program() {
    let site = Site::new();
    history::repository(&site, "r.git", 1, "sha1");
    if !binaries().join("gotd-static").exists() {
        return regress::skipped("needs gotd-static beside gotd: sh dist/build.sh release");
    }
    let mut daemon = site.start();
    assert!(daemon.log().contains(" static=true"), "{}", daemon.log());
    daemon.gotctl(&["reload"]).good();
    daemon.assert_serves();
}
