//! What gotd.conf says is what happens: names, prefixes, rules, and errors with their place.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use regress::site::present_user;
use regress::{Daemon, Site, binaries, history, is_root, run};

/// `git ls-remote` of a name works and shows the repository with this branch.
#[track_caller]
fn serves(site: &Site, name: &str, branch: &str) {
    let text = site.git(["ls-remote", &format!("gotd:{name}")]).good().text();
    assert!(text.contains(&format!("refs/heads/{branch}\n")), "{name}: {text}");
}

#[track_caller]
fn refuses(site: &Site, name: &str, words: &str) {
    let done = site.git(["ls-remote", &format!("gotd:{name}")]);
    // Git shows the ERR packet and ends, perhaps before gotsh says the same.
    done.bad(&format!("remote error: {words}\n"));
}

/// A repository whose branch tells which one it is.
fn marked(site: &Site, name: &str, branch: &str) -> PathBuf {
    let path = history::repository(site, name, 3, "sha1");
    site.git_in(&path, ["update-ref", &format!("refs/heads/{branch}"), "main"]);
    path
}

#[test]
fn a_repository_by_its_name_with_and_without_git_and_slash() {
    let site = Site::new();
    let plain = marked(&site, "somewhere/one.git", "one");
    let spaced = marked(&site, "somewhere/else", "spaced");
    let slashed = marked(&site, "deep", "slashed");
    let _daemon = site.start_with(&format!(
        "{head}repository \"plain\" {{\n\tpath \"{}\"\n\tpermit ro {me}\n}}\n\
         repository \"with suffix.git\" {{\n\tpath \"{}\"\n\tpermit ro {me}\n}}\n\
         repository \"a/b/c\" {{\n\tpath \"{}\"\n\tpermit ro {me}\n}}\n",
        plain.display(),
        spaced.display(),
        slashed.display(),
        head = site.head(),
        me = present_user()
    ));
    for name in ["plain", "plain.git", "/plain", "/plain.git"] {
        serves(&site, name, "one");
    }
    for name in ["with suffix", "with suffix.git", "/with suffix"] {
        serves(&site, name, "spaced");
    }
    for name in ["a/b/c", "a/b/c.git", "/a/b/c"] {
        serves(&site, name, "slashed");
    }
    for name in ["a/b", "a", "b/c", "one", "one.git", "plain.git.git", "Plain", "with", "a//b/c"] {
        refuses(&site, name, "no git repository found");
    }
}

#[test]
fn repositories_below_a_prefix() {
    let site = Site::new();
    for (name, branch) in
        [("x.git", "bare"), ("sub/y", "plain"), ("a b/c d.git", "spaced"), ("both", "without")]
    {
        marked(&site, name, branch);
    }
    marked(&site, "both.git", "with");
    let tree = site.repository("tree");
    site.git(["clone", "-q", &site.repository("x.git").to_string_lossy(), &tree.to_string_lossy()]).good();
    site.git_in(&tree, ["branch", "worktree"]);
    marked(&site, "x.git/nested.git", "nested");
    marked(&site, "tree/beside/inner.git", "inner");
    marked(&site, ".hidden.git", "hidden");
    // A file in place of a repository, half a repository, and a `.git` file that leads elsewhere.
    fs::write(site.repository("file.git"), b"").expect("writes");
    fs::create_dir_all(site.repository("half.git/objects")).expect("makes a directory");
    fs::create_dir(site.repository("pointer")).expect("makes a directory");
    fs::write(site.repository("pointer/.git"), format!("gitdir: {}\n", site.repository("x.git").display()))
        .expect("writes");
    // A linked worktree's directory has a `commondir`.
    site.git_in(&tree, ["worktree", "add", "-q", "../linked", "worktree"]);
    let _daemon = site.start_with(&format!(
        "{}repositories \"pre/fix\" {{\n\tpath \"{}\"\n\tpermit ro {}\n}}\n",
        site.head(),
        site.path("repositories").display(),
        present_user()
    ));
    for (name, branch) in [
        ("pre/fix/x", "bare"),
        ("pre/fix/x.git", "bare"),
        ("/pre/fix/x.git", "bare"),
        ("pre/fix/sub/y", "plain"),
        ("pre/fix/sub/y.git", "plain"),
        ("pre/fix/a b/c d", "spaced"),
        ("pre/fix/a b/c d.git", "spaced"),
        ("pre/fix/tree", "worktree"),
        ("pre/fix/tree.git", "worktree"),
        // As in a path that git is given.
        ("pre/fix/tree/.git", "worktree"),
        // Below a work tree, as git serves it.
        ("pre/fix/tree/beside/inner", "inner"),
        // Where both exist a name means itself first, as with git.
        ("pre/fix/both", "without"),
        ("pre/fix/both.git", "with"),
    ] {
        serves(&site, name, branch);
    }
    for name in [
        "x",
        "x.git",
        "pre/fix",
        "pre/fix/",
        "pre/x",
        "fix/x",
        "pre/fix/sub",
        "pre/fix/nothing",
        "pre/fix/x.git/nested",
        "pre/fix/x/nested",
        "pre/fix/.hidden",
        "pre/fix/.hidden.git",
        "pre/fix/file",
        "pre/fix/half",
        "pre/fix/pointer",
        "pre/fix/linked",
        "pre/fix/tree/.git/worktrees/linked",
        "pre/fix/../x",
        "pre/fix/sub/../x",
        "pre/fixx",
    ] {
        refuses(&site, name, "no git repository found");
    }
}

#[test]
fn the_last_rule_that_matches_decides() {
    let site = Site::new();
    for name in ["open.git", "denied.git", "again.git", "nobodys.git", "group.git", "number.git"] {
        marked(&site, name, "here");
    }
    let block = |name: &str, rules: &str| {
        let path = site.repository(&format!("{name}.git"));
        format!("repository \"{name}\" {{\n\tpath \"{}\"\n{rules}}}\n", path.display())
    };
    let me = present_user();
    let uid = nix::unistd::geteuid();
    let gid = nix::unistd::getegid();
    let mut daemon = site.start_with(&format!(
        "{}{}{}{}{}{}{}",
        site.head(),
        block("open", &format!("\tpermit ro {me}\n")),
        block("denied", &format!("\tpermit rw {me}\n\tdeny {me}\n")),
        block("again", &format!("\tdeny {me}\n\tpermit ro {me}\n")),
        block("nobodys", "\tpermit rw 4242\n"),
        block("group", &format!("\tpermit ro :{gid}\n")),
        block("number", &format!("\tdeny :{gid}\n\tpermit ro {uid}\n")),
    ));
    for name in ["open", "again", "group", "number"] {
        serves(&site, name, "here");
    }
    // That it exists at all is not told.
    refuses(&site, "nobodys", "no git repository found");
    refuses(&site, "unheard-of", "no git repository found");
    refuses(&site, "denied", "denied: Permission denied");
    let line = daemon.logged(&["result=refused", "repository=denied", "Permission denied"]);
    assert!(line.contains("gotd.conf:"), "which rule: {line}");
    assert!(line.contains(&format!(" who={me} ")), "who: {line}");
    // Nor is a session without a name when no rule was about its user.
    let line = daemon.logged(&["result=refused", "repository=nobodys", "no git repository found"]);
    assert!(line.contains(&format!(" who={me} ")), "who: {line}");
    // Reading only.
    let push = site.git([
        "-C",
        &site.repository("open.git").to_string_lossy(),
        "push",
        "gotd:open",
        "main:refs/heads/new",
    ]);
    push.bad("open: Permission denied");
    daemon.assert_serves();
}

/// A repository with a block of its own has that block's rules under every name that leads to it.
#[test]
fn a_block_of_its_own_cannot_be_walked_around_by_a_prefix() {
    let site = Site::new();
    let own = marked(&site, "secret.git", "secret");
    marked(&site, "free.git", "free");
    let tree = site.repository("tree");
    site.git(["clone", "-q", &own.to_string_lossy(), &tree.to_string_lossy()]).good();
    site.git_in(&tree, ["branch", "worktree"]);
    let daemon = site.start_with(&format!(
        "{head}repositories \"all\" {{\n\tpath \"{all}\"\n\tpermit ro {me}\n}}\n\
         repository \"own\" {{\n\tpath \"{own}\"\n\tdeny {me}\n}}\n\
         repository \"all/tree\" {{\n\tpath \"{tree}\"\n\tdeny {me}\n}}\n",
        head = site.head(),
        all = site.path("repositories").display(),
        own = own.display(),
        tree = tree.display(),
        me = present_user()
    ));
    serves(&site, "all/free", "free");
    refuses(&site, "own", "own: Permission denied");
    refuses(&site, "all/secret", "no git repository found");
    refuses(&site, "all/secret.git", "no git repository found");
    daemon.logged(&["result=refused", "all/secret", "a block of its own"]);
    // A block's name goes before a prefix.
    refuses(&site, "all/tree", "all/tree: Permission denied");
    refuses(&site, "all/tree.git", "all/tree: Permission denied");
}

/// Apache MINA's CVE-2026-48827: a symbolic link below the directory leads to somebody else's
/// repository.
#[test]
fn symbolic_links_below_a_prefix_are_not_followed() {
    let site = Site::new();
    let outside = marked(&site, "../outside.git", "outside");
    let inside = marked(&site, "real.git", "real");
    fs::create_dir(site.repository("sub")).expect("makes a directory");
    symlink(&outside, site.repository("link.git")).expect("links");
    symlink(outside.parent().expect("it has one"), site.repository("dir")).expect("links");
    symlink(&inside, site.repository("inner.git")).expect("links");
    symlink("../real.git", site.repository("sub/relative.git")).expect("links");
    // A worktree whose `.git` is a link.
    fs::create_dir(site.repository("tree")).expect("makes a directory");
    symlink(&outside, site.repository("tree/.git")).expect("links");
    let mut daemon = site.start();
    serves(&site, "real", "real");
    for name in
        ["link", "link.git", "dir/outside", "dir/outside.git", "inner", "sub/relative", "tree", "tree/.git"]
    {
        refuses(&site, name, "no git repository found");
    }
    daemon.assert_serves();
}

/// The admin's own links in a configured path are followed, where nobody else can have put them:
/// not in a directory below the usual one for temporary files, which is everybody's.
#[test]
fn symbolic_links_in_a_configured_path_are_the_admins() {
    let ground = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let trust = librepo::place::Trust { uid: nix::unistd::geteuid().as_raw() };
    let walked = librepo::place::walk(&ground.path().canonicalize().expect("a path"), trust);
    if let Some(foreign) = walked.expect("walks").foreign {
        return regress::skipped(&format!("{foreign} can be changed by others"));
    }
    let site = Site::new();
    marked(&site, "real.git", "real");
    fs::set_permissions(ground.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("opens it");
    symlink(site.path("repositories"), ground.path().join("link")).expect("links");
    symlink(site.repository("real.git"), ground.path().join("one")).expect("links");
    let _daemon = site.start_with(&format!(
        "{head}repositories \"all\" {{\n\tpath \"{all}\"\n\tpermit ro {me}\n}}\n\
         repository \"other\" {{\n\tpath \"{one}\"\n\tpermit ro {me}\n}}\n",
        head = site.head(),
        all = ground.path().join("link").display(),
        one = ground.path().join("one").display(),
        me = present_user()
    ));
    serves(&site, "other", "real");
    // This one has a block of its own, wherever its name leads through.
    refuses(&site, "all/real", "no git repository found");
}

#[test]
fn export_ok_opens_to_the_anonymous_only_what_is_marked() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let name = "anonymous";
    if nix::unistd::User::from_name(name).ok().flatten().is_some() {
        return regress::skipped("there is an account called anonymous already");
    }
    let site = Site::new();
    marked(&site, "public.git", "public");
    marked(&site, "private.git", "private");
    fs::write(site.repository("public.git/git-daemon-export-ok"), b"").expect("writes");
    let _account = regress::sshd::Account(name.to_owned());
    regress::sshd::make_account(name, "/bin/sh".as_ref(), site.path("home").as_path());
    let user = nix::unistd::User::from_name(name).ok().flatten().expect("it was made");
    let _daemon = site.start_with(&format!(
        "{}repositories \"/\" {{\n\tpath \"{}\"\n\texport-ok\n}}\n",
        site.head(),
        site.path("repositories").display()
    ));
    let list = |repository: &str| {
        let mut command = site.command("setpriv");
        let id = user.uid.to_string();
        command.args(["--reuid", &id, "--regid", &user.gid.to_string(), "--clear-groups"]);
        command.arg(binaries().join("gotsh")).env("GOTD_UNIX_SOCKET", site.socket());
        run(command.args(["-c", &format!("git-upload-pack '{repository}'")]), b"0000", 20)
    };
    assert!(list("public").good().text().contains("refs/heads/public"));
    list("private").bad("no git repository found");
    // And to nobody else.
    refuses(&site, "public", "no git repository found");
}

#[test]
fn gotd_n_checks_a_file_and_starts_nothing() {
    let site = Site::new();
    marked(&site, "x.git", "x");
    let conf = site.path("checked.conf");
    fs::write(&conf, site.serve_all()).expect("writes");
    site.hand_over();
    let check = || run(site.command(binaries().join("gotd")).args(["-n", "-f"]).arg(&conf), b"", 20);
    let done = check().good();
    assert!(done.text().contains("configuration OK"), "{}{}", done.text(), done.err);
    assert!(!site.socket().exists());
    // Every error, each with its place.
    fs::write(
        &conf,
        "user \"nobody\"\nlisten on\nrepository \"x\" {\n\tpath \"relative\"\n\tpermit xx me\n}\nbogus\n",
    )
    .expect("writes");
    let done = check();
    assert_eq!(done.status, 1);
    let place = |line: u32| format!("{}:{line}:", conf.display());
    for line in [2, 4, 5, 7] {
        assert!(done.err.contains(&place(line)), "line {line}: {}", done.err);
    }
    let first = done.err.lines().next().unwrap_or_default();
    let after = first.strip_prefix(&format!("{}:", conf.display())).expect("a file");
    let parts: Vec<&str> = after.splitn(3, ':').collect();
    assert!(parts[0].parse::<u32>().is_ok() && parts[1].parse::<u32>().is_ok(), "{first}");
    assert!(parts[2].starts_with(" expected ") || parts[2].len() > 5, "{first}");
    // What is no reason to refuse a file is told from what is.
    fs::write(
        &conf,
        format!(
            "{}repository \"later\" {{\n\tpath \"/nonexistent/later.git\"\n\tpermit ro root\n}}\n",
            site.serve_all()
        ),
    )
    .expect("writes");
    let done = check().good();
    let last = done.err.lines().last().unwrap_or_default();
    assert!(last.contains(":1: warning: /nonexistent/later.git: "), "{}", done.err);
    let mut gotctl = site.command(binaries().join("gotctl"));
    assert_eq!(run(gotctl.args(["reload", "-n", "-c"]).arg(&conf), b"", 20).good().err, done.err);
    // Twice -v prints it as it was understood, which reads as the same again.
    let printed = |file: &std::path::Path| {
        let mut gotd = site.command(binaries().join("gotd"));
        run(gotd.args(["-n", "-vv", "-f"]).arg(file), b"", 20).good().text()
    };
    let text = printed(&conf);
    assert!(text.contains("repository \"later\" {") || text.contains("repository later {"), "{text}");
    let again = site.path("again.conf");
    fs::write(&again, text.strip_suffix("configuration OK\n").expect("the last line")).expect("writes");
    assert_eq!(printed(&again), text);
    // A file that is not there.
    let done = run(site.command(binaries().join("gotd")).args(["-n", "-f", "/nonexistent"]), b"", 20);
    assert_eq!(done.status, 1);
    assert!(done.err.contains("/nonexistent"), "{}", done.err);
}

/// All of these were `configuration OK`, and the daemon did not start, or did not serve what it
/// said.
#[test]
fn gotd_n_says_what_the_daemons_user_cannot_do() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    for name in ["written.git", "read.git", "closed.git", "below/a.git", "below/b.git", "below/c.git"] {
        marked(&site, name, "x");
    }
    let conf = site.path("checked.conf");
    let check = |user: &str, blocks: &str| {
        fs::write(&conf, format!("user \"{user}\"\n{blocks}")).expect("writes");
        run(site.command(binaries().join("gotd")).args(["-n", "-f"]).arg(&conf), b"", 20)
    };
    let block = |name: &str, rules: &str| {
        let path = site.repository(&format!("{name}.git"));
        format!("repository \"{name}\" {{\n\tpath \"{}\"\n{rules}}}\n", path.display())
    };
    let one = block("read", "\tpermit ro 4242\n");
    check("no-such-user-here", &one).bad(":1:1: user no-such-user-here: no such user");
    check("root", &one).bad("user root: gotd does not run as root");
    for (others, why) in [
        ("client \"no-such-user-here\"", "user no-such-user-here: no such user"),
        ("client \"root\"", "user root: gotd does not run as root"),
        ("client \"games\" daemon \"games\"", "expected three different users"),
    ] {
        check(&format!("nobody\" {}", others.trim_end_matches('"')), &one).bad(why);
    }
    site.hand_over();
    let user = regress::site::account();
    let all = format!(
        "{}{}{}repositories \"b\" {{\n\tpath \"{}\"\n\tpermit rw 4242\n}}\n",
        block("written", "\tpermit rw 4242\n"),
        one,
        block("closed", "\tpermit ro 4242\n"),
        site.repository("below").display()
    );
    let quiet = check(&user, &all).good();
    assert!(!quiet.err.contains("warning"), "{}", quiet.err);
    let mode = |name: &str, mode: u32| {
        let path = site.repository(name);
        std::os::unix::fs::chown(&path, Some(0), Some(0)).expect("changes the owner");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .expect("changes the mode");
    };
    mode("written.git/refs/heads", 0o755);
    mode("read.git/refs/heads", 0o755);
    mode("closed.git/objects", 0o700);
    mode("below/a.git/objects", 0o755);
    mode("below/c.git", 0o755);
    let said = check(&user, &all).good().err;
    let cannot = |verb: &str| {
        format!("the user {user}, as whom gotd runs, cannot {verb} this directory (owner root, ")
    };
    for (path, verb, more) in [
        ("written.git/refs/heads", "write in", "mode 0755)"),
        ("closed.git/objects", "read", "mode 0700)"),
        ("below/a.git/objects", "write in", "; and 1 more such places in this block"),
    ] {
        let line = said.lines().find(|line| line.contains(&format!("{path}: ")));
        let line = line.unwrap_or_else(|| panic!("{path}: {said}"));
        assert!(
            line.contains(": warning: ") && line.contains(&cannot(verb)) && line.contains(more),
            "{line}"
        );
    }
    assert!(!said.contains("read.git"), "{said}");
    assert_eq!(said.matches("warning").count(), 3, "{said}");
    // On the way to it.
    mode("below", 0o700);
    let said = check(&user, &all).good().err;
    assert!(said.contains(&format!("{}: ", site.repository("below").display())), "{said}");
}

/// They were lines of their own kind among the daemon's `key=value`.
#[test]
fn warnings_about_a_configuration_are_lines_of_the_log() {
    let site = Site::new();
    marked(&site, "x.git", "x");
    let more = "repository \"later\" {\n\tpath \"/nonexistent/later.git\"\n\tpermit ro root\n}\n";
    let daemon = site.start_with(&format!("{}{more}", site.serve_all()));
    daemon.logged(&["gotd: configuration warning=", "/nonexistent/later.git", "No such file"]);
    assert!(!daemon.log().lines().any(|line| line.starts_with('/')), "{}", daemon.log());
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let site = Site::new();
    for conf in [
        String::new(),
        site.head(),
        format!("{}repository \"x\" {{\n}}\n", site.head()),
        format!("{}repository \"../x\" {{\n\tpath \"/x\"\n}}\n", site.head()),
        format!(
            "{}repository \"x\" {{\n\tpath \"/x\"\n}}\nrepository \"x\" {{\n\tpath \"/y\"\n}}\n",
            site.head()
        ),
        "\0\u{1}binary".to_owned(),
    ] {
        let refused = Daemon::start(&site, &conf).expect_err(&conf);
        assert!(refused.contains("gotd.conf"), "{conf}: {refused}");
        assert!(!site.socket().exists());
        let _ = fs::remove_file(site.path("gotd.log"));
    }
    // Root is no account for a daemon to run as.
    if is_root() {
        let conf = site.serve_all().replace(&regress::site::users(), "user \"root\"\n");
        let refused = Daemon::start(&site, &conf).expect_err("must not start");
        assert!(refused.contains("root"), "{refused}");
    }
}

#[test]
fn the_shipped_examples_are_good() {
    let site = Site::new();
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../gotd/examples");
    let mut seen = 0;
    for entry in fs::read_dir(examples).expect("lists").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "conf") {
            continue;
        }
        // The user that they name need not be there.
        let text = fs::read_to_string(&path).expect("reads");
        let user = format!("user \"{}\"", regress::site::account());
        let copy = site.path("example.conf");
        fs::write(&copy, text.replace("user _gotd", &user)).expect("writes");
        let done = run(site.command(binaries().join("gotd")).args(["-n", "-f"]).arg(&copy), b"", 20);
        assert_eq!(done.status, 0, "{}: {}", path.display(), done.err);
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

/// Options that C gotd has and that this version does not support yet are said to have no effect.
#[test]
fn macros_comments_and_blocks_as_c_gotd_writes_them() {
    let site = Site::new();
    let path = marked(&site, "src.git", "src");
    let conf = format!(
        "# a comment\nsrc = \"{}\"\nsocket=\"{}\"\nuser {}\nlisten on $socket # here\n\
         connection {{\n\trequest timeout 1h\n\tlimit user {me} 8\n}}\nrepository \"src\" {{ path $src\n\tpermit ro {me} }}\n",
        path.display(),
        site.socket().display(),
        regress::site::account(),
        me = present_user()
    );
    let _daemon = site.start_with(&conf);
    serves(&site, "src", "src");
}

/// C gotd's grammar asks less of words than ours, and knows no uid that stands for others. What
/// nobody can use is a warning, and the file is in force.
#[test]
fn words_that_only_c_gotd_takes_are_warnings() {
    let site = Site::new();
    let path = marked(&site, "src.git", "src");
    let conf = format!(
        "# J\u{1}rg\nold-name = \"x\"\nuser {user}\nlisten on \"{socket}\"\nlisten on \"{socket}\"\n\
         connection {{ limit user nobody 16 }}\nrepository \".old\" {{\n\tpath \"{path}\"\n\tpermit ro {me}\n}}\n\
         repository \"src\" {{\n\tpath \"{path}/../src.git\"\n\tpermit ro {me}\n\tdeny \"no one\"\n\tpermit ro nobody\n\
         \tnotify {{\n\t\turl \"http://u@example.org/x y\"\n\t}}\n}}\n",
        path = path.display(),
        socket = site.socket().display(),
        user = regress::site::account(),
        me = present_user()
    );
    let latin: Vec<u8> = conf.bytes().map(|byte| if byte == 1 { 0xf6 } else { byte }).collect();
    let file = site.path("c-gotd.conf");
    fs::write(&file, latin).expect("writes");
    let done = run(site.command(binaries().join("gotd")).arg("-n").arg("-f").arg(&file), b"", 30);
    assert_eq!(done.status, 0, "{}", done.err);
    for words in [
        "expected UTF-8 text",
        "found \"old-name\": no \"$\" can use it",
        "the same address is already in",
        "nobody: uid 65534 stands for unknown users and matches nobody",
        "repository \".old\": forbidden component in name: no request can ask for it",
        "/../src.git\" is read as",
        "no one: no such user, this matches nobody",
    ] {
        assert!(done.err.contains(words), "{words}: {}", done.err);
    }
    let _daemon = site.start_with(&conf.replace('\u{1}', "o"));
    serves(&site, "src", "src");
    refuses(&site, ".old", "no git repository found");
}

/// What was found was cut at 400 lines (and the log's at 100), and no line said that there was
/// more.
#[test]
fn what_is_not_shown_of_the_findings_is_counted() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    marked(&site, "x.git", "x");
    site.hand_over();
    let closed = site.repository("closed");
    let mut conf = site.serve_all();
    for n in 0..450 {
        let path = closed.join(n.to_string());
        fs::create_dir_all(&path).expect("a directory");
        // A place that the daemon does not come to, and one that is not there.
        let _ = writeln!(conf, "repository \"c{n}\" {{\n\tpath \"{}\"\n\tpermit ro 4242\n}}", path.display());
        let _ = writeln!(conf, "repository \"n{n}\" {{\n\tpath \"/nonexistent{n}/x\"\n\tpermit ro 4242\n}}");
    }
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("closes it");
    let file = site.path("checked.conf");
    let user = regress::site::account();
    fs::write(&file, format!("user \"{user}\"\n{conf}")).expect("writes");
    let shown = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        let of = |kind: &str| lines.iter().filter(|line| line.contains(kind)).count();
        let rest = |kind: &str| {
            let more = lines.iter().find_map(|line| line.split_once(&format!(" more {kind} are not ")));
            more.and_then(|(before, _)| before.rsplit(' ').next()?.parse::<usize>().ok()).unwrap_or(0)
        };
        (of("warning: "), rest("warnings"), of("note: "), rest("notes"))
    };
    let done = run(site.command(binaries().join("gotd")).args(["-n", "-f"]).arg(&file), b"", 60).good();
    // 450 that are not there, 450 that the owner of the repositories does not come to. Of the
    // former there is a note too, and there may be one about the directory of this test.
    let (warnings, more_warnings, notes, more_notes) = shown(&done.err);
    assert_eq!((warnings, more_warnings, notes), (401, 500, 401), "{}", done.err);
    assert!((50..=51).contains(&more_notes), "{}", done.err);
    let mut gotctl = site.command(binaries().join("gotctl"));
    let again = run(gotctl.args(["reload", "-n", "-c"]).arg(&file), b"", 60).good();
    assert_eq!(again.err, done.err);
}
