//! What users of a shared account can ask for through ssh besides git.

use std::fs;
use std::path::Path;

use regress::raw::Connection;
use regress::site::present_user;
use regress::{Daemon, Done, Site, binaries, history, run};

/// A daemon with the present user as the shared account: alice writes, bob reads some, carol has
/// nothing.
fn start(site: &Site) -> Daemon {
    for name in ["one.git", "tree/a.git", "tree/team/b.git", "tree/worktree/.git", "tree/own.git"] {
        if let Some(parent) = Path::new(name).parent() {
            fs::create_dir_all(site.repository(&parent.to_string_lossy())).expect("makes a directory");
        }
        history::repository(site, name, 1, "sha1");
    }
    fs::create_dir_all(site.repository("tree/empty/deeper")).expect("makes");
    fs::create_dir_all(site.repository("tree/esc\u{1b}[31m")).expect("makes");
    std::os::unix::fs::symlink(site.repository("one.git"), site.repository("tree/link.git")).expect("links");
    let path = |name: &str| site.repository(name).display().to_string();
    site.start_with(&format!(
        "{}account \"{me}\" {{\n\tuser alice principal a\n\tuser bob principal b\n\tuser carol principal c\n}}\n\
         connection limit user bob 1\n\
         repository one {{\n\tpath \"{}\"\n\tpermit rw alice\n\tpermit ro bob\n}}\n\
         repository secret {{\n\tpath \"{}\"\n\tpermit rw bob\n}}\n\
         repositories \"t\" {{\n\tpath \"{}\"\n\tpermit rw alice\n}}\n\
         repositories \"again\" {{\n\tpath \"{}\"\n\tpermit ro alice\n\tpermit ro bob\n\tdeny bob\n}}\n",
        site.head(),
        path("one.git"),
        path("tree/own.git"),
        path("tree"),
        path("tree/team"),
        me = present_user()
    ))
}

fn gotsh(site: &Site, user: &str, line: Option<&[u8]>) -> Done {
    use std::os::unix::ffi::OsStrExt;
    let mut command = site.command(binaries().join("gotsh"));
    command.env("GOTD_UNIX_SOCKET", site.socket()).args(["--user", user]);
    if let Some(line) = line {
        command.env("SSH_ORIGINAL_COMMAND", std::ffi::OsStr::from_bytes(line));
    }
    run(&mut command, b"", 30)
}

#[test]
fn each_user_is_told_what_is_there_for_them() {
    let site = Site::new();
    let mut daemon = start(&site);
    let list = |user: &str| gotsh(&site, user, Some(b"list")).good().text();
    // What has a block of its own, one repository or a directory of them, is that one's; what is
    // behind a link is nobody's.
    let alices = "ro\tagain/b\nrw\tone\nrw\tt/a\nrw\tt/worktree\n";
    let mut lines: Vec<String> = list("alice").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines.join("\n") + "\n", alices);
    assert_eq!(list("bob"), "ro\tone\nrw\tsecret\n");
    assert_eq!(list("carol"), "");
    let me = present_user();
    let greeting = gotsh(&site, "bob", None).good().text();
    assert_eq!(
        greeting,
        format!("hello {me}/bob, this is gotd\nthere are 2 repositories for you:\nro\tone\nrw\tsecret\n")
    );
    let greeting = gotsh(&site, "carol", None).good().text();
    assert_eq!(greeting, format!("hello {me}/carol, this is gotd\nthere is no repository for you\n"));
    daemon.logged(&["session number=", "result=ok", &format!("who={me}/bob"), "service=greet"]);
    daemon.logged(&["session number=", "result=ok", &format!("who={me}/alice"), "service=list"]);
    // Every name that is listed can be used as it is.
    for line in list("alice").lines() {
        let (_, name) = line.split_once('\t').expect("two fields");
        let mut command = site.command(binaries().join("gotsh"));
        command.env("GOTD_UNIX_SOCKET", site.socket()).args(["--user", "alice"]);
        command.env("SSH_ORIGINAL_COMMAND", format!("git-upload-pack '{name}'"));
        run(&mut command, b"0000", 20).good();
    }
    daemon.assert_serves();
}

#[test]
fn what_is_no_command_is_answered_with_one_line() {
    let site = Site::new();
    let mut daemon = start(&site);
    for line in [
        &b"lists"[..],
        b"list one",
        b"list\nlist",
        b"LIST",
        b"-c list",
        b"--user alice list",
        b"gotsh --user alice",
        b"sh",
        b"\x1b[2Jlist",
        b"list;id",
        b"\xff\xfe",
        b"git-upload-packx 'one'",
    ] {
        let done = gotsh(&site, "carol", Some(line));
        assert_eq!(done.text(), "", "{}", line.escape_ascii());
        assert_eq!((done.status, done.err.lines().count()), (1, 1), "{}: {}", line.escape_ascii(), done.err);
        assert!(done.err.starts_with("gotsh: usage: "), "{}", done.err);
    }
    assert_eq!(gotsh(&site, "carol", Some(&[b'x'; 100_000])).status, 1);
    daemon.assert_serves();
}

/// Nobody has it but whom the configuration names, whatever a client says.
#[test]
fn others_have_no_self_service() {
    let site = Site::new();
    let mut daemon = start(&site);
    gotsh(&site, "mallory", Some(b"list")).bad("no such user of this account");
    gotsh(&site, "../alice", Some(b"list")).bad("not a user name");
    // Without --user, as for C gotd: usage and 1.
    let mut command = site.command(binaries().join("gotsh"));
    let done = run(command.env("GOTD_UNIX_SOCKET", site.socket()), b"", 20);
    assert_eq!((done.status, done.text().as_str()), (1, ""));
    assert!(done.err.starts_with("usage: gotsh"), "{}", done.err);
    let mut command = site.gotsh("list");
    let done = run(&mut command, b"", 20);
    assert_eq!((done.status, done.text().as_str()), (1, ""));
    drop(Connection::open(&site.socket()));
    daemon.assert_serves();
}

/// Names in a directory are others' to choose, and the list is bounded and whole.
#[test]
fn a_thousand_repositories_and_names_that_a_terminal_would_obey() {
    let site = Site::new();
    history::repository(&site, "seed.git", 1, "sha1");
    let tree = site.repository("tree");
    for n in 0..1500 {
        let dir = tree.join(format!("dir{}", n % 30)).join(format!("repository-with-a-long-name-{n}.git"));
        fs::create_dir_all(dir.join("objects")).expect("makes");
        fs::create_dir(dir.join("refs")).expect("makes");
        fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").expect("writes");
    }
    let me = present_user();
    // Nobody can ask for the first; the second is harmless text once it is escaped.
    for name in ["esc\u{1b}[31m.git", "right\u{202e}left.git"] {
        let dir = tree.join(name);
        fs::create_dir_all(dir.join("objects")).expect("makes");
        fs::create_dir(dir.join("refs")).expect("makes");
        fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").expect("writes");
    }
    let mut daemon = site.start_with(&format!(
        "{}account \"{me}\" {{\n\tuser alice principal a\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro alice\n}}\n",
        site.head(),
        tree.display()
    ));
    let text = gotsh(&site, "alice", Some(b"list")).good().text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1501, "{:?}", lines.last());
    assert!(lines.contains(&"ro\tdir7/repository-with-a-long-name-7"));
    assert!(lines.contains(&"ro\tright\\xe2\\x80\\xaeleft"), "{text}");
    assert!(!text.contains('\u{1b}'));
    daemon.assert_serves();
}

/// A directory that cannot be listed takes nothing else with it, and the answer says that something
/// is missing.
#[test]
fn a_directory_that_is_gone() {
    let site = Site::new();
    let mut daemon = start(&site);
    fs::rename(site.repository("tree"), site.path("elsewhere")).expect("renames");
    let text = gotsh(&site, "alice", Some(b"list")).good().text();
    assert_eq!(text, "rw\tone\nand more, which are not listed\n");
    fs::rename(site.path("elsewhere"), site.repository("tree")).expect("renames");
    assert_eq!(gotsh(&site, "alice", Some(b"list")).good().text().lines().count(), 4);
    daemon.assert_serves();
}

/// Who may write changes HEAD and the description; nobody else, nothing else, and nobody learns
/// what is there by trying.
#[test]
fn head_and_description_are_changed_by_who_may_write() {
    let site = Site::new();
    let mut daemon = start(&site);
    let repository = site.repository("tree/a.git");
    site.git_in(&repository, ["branch", "side/line", "main"]);
    site.hand_over();
    let head = || fs::read_to_string(repository.join("HEAD")).expect("reads");
    let text = || fs::read_to_string(repository.join("description")).expect("reads");
    let before = regress::compare::listing(&site.path("repositories"));
    let ask = |user: &str, line: &str| gotsh(&site, user, Some(line.as_bytes()));
    for (user, line, answer) in [
        ("alice", "head t/a missing", "refs/heads/missing: no such branch"),
        ("alice", "head t/none main", "no git repository found"),
        ("alice", "describe t/none text", "no git repository found"),
        ("alice", "describe secret text", "no git repository found"),
        ("alice", "describe t/own text", "no git repository found"),
        ("bob", "head one main", "one: Permission denied"),
        ("bob", "describe t/a text", "no git repository found"),
        ("carol", "describe one text", "no git repository found"),
        ("carol", "head t/a main", "no git repository found"),
        ("alice", "head t/a", "usage: "),
        ("alice", "head t/a ../../config", "usage: "),
        ("alice", "head t/a a..b", "usage: "),
        ("alice", "head ../a main", "usage: "),
        ("alice", "describe t/a one\ntwo", "usage: "),
        ("alice", "describe t/a \u{1b}[2J", "usage: "),
        ("alice", "describe t/a", "usage: "),
    ] {
        let done = ask(user, line).bad(answer);
        assert_eq!((done.text().as_str(), done.err.lines().count()), ("", 1), "{line}: {}", done.err);
    }
    ask("alice", &format!("describe t/a {}", "x".repeat(501))).bad("usage: ");
    assert_eq!(regress::compare::listing(&site.path("repositories")), before);

    ask("alice", "head t/a side/line").good();
    assert_eq!(head(), "ref: refs/heads/side/line\n");
    ask("alice", "describe t/a What it is, in «some» words").good();
    assert_eq!(text(), "What it is, in «some» words\n");
    let after = regress::compare::listing(&site.path("repositories"));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    let clone = site.clone_path("clone");
    site.git(["clone", "-q", &repository.to_string_lossy(), &clone.to_string_lossy()]).good();
    assert_eq!(site.git_in(&clone, ["branch", "--show-current"]), "side/line\n");
    let me = present_user();
    daemon.logged(&["result=ok", &format!("who={me}/alice"), "repository=t/a", "service=head"]);
    daemon.logged(&["result=ok", &format!("who={me}/alice"), "repository=t/a", "service=describe"]);
    daemon.logged(&["result=refused", &format!("who={me}/alice"), "service=head", "no such branch"]);
    daemon.logged(&["result=refused", &format!("who={me}/alice"), "service=unknown", "usage: "]);
    // Somebody else's lock is respected, and stays.
    fs::write(repository.join("HEAD.lock"), "").expect("writes");
    ask("alice", "head t/a main").bad("HEAD.lock");
    assert_eq!(head(), "ref: refs/heads/side/line\n");
    assert!(repository.join("HEAD.lock").exists());
    daemon.assert_serves();
}

/// Where rules protect the branch that clones begin with, it stays that one; from one that is not
/// there HEAD moves.
#[test]
fn a_protected_branch_keeps_head() {
    let site = Site::new();
    let repository = history::repository(&site, "p.git", 1, "sha1");
    site.git_in(&repository, ["branch", "other", "main"]);
    site.git_in(&repository, ["update-ref", "refs/secret/x", "main"]);
    let me = present_user();
    let daemon = site.start_with(&format!(
        "{}account \"{me}\" {{\n\tuser alice principal a\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw alice\n\tcreate\n\
         \tprotect branch main\n\thide namespace refs/heads/hidden/\n}}\n",
        site.head(),
        site.path("repositories").display()
    ));
    let ask = |line: &str| gotsh(&site, "alice", Some(line.as_bytes()));
    ask("head p other").bad("HEAD: refs/heads/main: reference is protected");
    ask("head p main").good();
    site.git_in(&repository, ["symbolic-ref", "HEAD", "refs/heads/unborn"]);
    site.git_in(&repository, ["branch", "hidden/x", "main"]);
    site.hand_over();
    ask("head p hidden/x").bad("no such branch");
    ask("head p other").good();
    assert_eq!(fs::read_to_string(repository.join("HEAD")).expect("reads"), "ref: refs/heads/other\n");
    // Only a push makes a repository.
    ask("describe new text").bad("no git repository found");
    ask("head new main").bad("no git repository found");
    assert!(!site.repository("new.git").exists());
    drop(daemon);
}

/// What `info` counts and `head` takes is what a clone is shown: a reference whose name is visible
/// and that leads to a hidden one is in no list, and `head` made it the branch that clones begin
/// with, and so told that there is something hidden.
#[test]
fn info_and_head_know_the_references_that_ls_remote_lists() {
    let site = Site::new();
    let repository = history::repository(&site, "p.git", 3, "sha1");
    let git = |arguments: &[&str]| site.git_in(&repository, arguments.iter().copied());
    for name in
        ["refs/heads/hidden/x", "refs/heads/hide", "refs/heads/packed", "refs/tags/light", "refs/other/y"]
    {
        git(&["update-ref", name, "main"]);
    }
    git(&["tag", "-a", "-m", "t", "heavy", "main"]);
    git(&["pack-refs", "--all"]);
    for (name, target) in [
        ("refs/heads/into", "refs/heads/hidden/x"),
        ("refs/heads/twice", "refs/heads/into"),
        ("refs/heads/plain", "refs/heads/main"),
        ("refs/heads/broken", "refs/heads/none"),
        ("refs/heads/unborn-hidden", "refs/heads/hidden/none"),
    ] {
        git(&["symbolic-ref", name, target]);
    }
    let me = present_user();
    let mut daemon = site.start_with(&format!(
        "{}account \"{me}\" {{\n\tuser alice principal a\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw alice\n\
         \tprotect branch hidden/x\n\thide namespace refs/heads/hidden\n}}\n",
        site.head(),
        site.path("repositories").display()
    ));
    // What sshd would start for her.
    let ssh = site.ssh_as("alice");
    let mut command = site.command("git");
    command.env("GIT_SSH_COMMAND", ssh).args(["ls-remote", "gotd:p"]);
    let listed = run(&mut command, b"", 30).good().text();
    let count = |below: &str| {
        let names = listed.lines().filter_map(|line| line.split('\t').nth(1));
        names.filter(|name| name.starts_with(below) && !name.ends_with("^{}")).count()
    };
    assert!(!listed.contains("into") && !listed.contains("hidden") && listed.contains("plain"), "{listed}");
    let ask = |line: &str| gotsh(&site, "alice", Some(line.as_bytes()));
    let told = ask("info p").good().text();
    let value = |name: &str| {
        told.lines().find_map(|line| line.strip_prefix(name)).expect("is told").trim().parse::<usize>()
    };
    let expected = [count("refs/heads/"), count("refs/tags/"), count("refs/")];
    assert_eq!(["branches", "tags", "references"].map(|name| value(name).expect("a number")), expected);
    for name in ["into", "twice", "hidden/x", "unborn-hidden", "none"] {
        ask(&format!("head p {name}")).bad("no such branch");
    }
    git(&["symbolic-ref", "HEAD", "refs/heads/hidden/x"]);
    site.hand_over();
    let refused = ask("head p packed");
    assert!(
        refused.err.contains("HEAD: reference is protected") && !refused.err.contains("hidden"),
        "{}",
        refused.err
    );
    assert!(ask("info p").good().text().contains("head\t (not there yet)\n"), "{}", ask("info p").text());
    git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    site.hand_over();
    ask("head p plain").good();
    daemon.assert_serves();
}

/// Bytes of the files in a directory and below.
fn size_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("reads").map(|entry| entry.expect("reads"));
    let sizes = entries.map(|entry| {
        let meta = entry.metadata().expect("is there");
        if meta.is_dir() { size_below(&entry.path()) } else { meta.len() }
    });
    sizes.sum()
}

#[test]
fn info_tells_who_may_read_and_changes_nothing() {
    let site = Site::new();
    let mut daemon = start(&site);
    let repository = site.repository("one.git");
    fs::write(repository.join("description"), "first \u{1b}[2J line\nsecond\n").expect("writes");
    site.git_in(&repository, ["update-ref", "refs/heads/other", "main"]);
    site.git_in(&repository, ["tag", "one", "main"]);
    site.git_in(&repository, ["tag", "-a", "-m", "two", "two", "main"]);
    let count = |below: &str| site.git_in(&repository, ["for-each-ref", below]).lines().count();
    let (refs, branches, tags) = (count("refs/"), count("refs/heads/"), count("refs/tags/"));
    let newest =
        ["for-each-ref", "--sort=-committerdate", "--count=1", "--format=%(committerdate:format:%FT%TZ)"];
    let changed = site.git_in(&repository, newest.into_iter().chain(["refs/heads/"]));
    let changed = changed.trim_end();
    let size = size_below(&repository.join("objects"));
    site.hand_over();
    let before = regress::compare::listing(&site.path("repositories"));
    let ask = |user: &str, line: &str| gotsh(&site, user, Some(line.as_bytes()));
    let told = |rights: &str| {
        let description = "first \\x1b[2J line\\x0asecond";
        format!(
            "repository\tone\nrights\t{rights}\nhead\tmain\nbranches\t{branches}\ntags\t{tags}\n\
             references\t{refs}\nchanged\t{changed}\nsize\t{size}\ndescription\t{description}\n"
        )
    };
    assert_eq!(ask("alice", "info one").good().text(), told("rw"));
    assert_eq!(ask("bob", "info one").good().text(), told("ro"));
    for (user, line, answer) in [
        ("carol", "info one", "no git repository found"),
        ("bob", "info t/a", "no git repository found"),
        ("alice", "info t/none", "no git repository found"),
        ("alice", "info t/own", "no git repository found"),
        ("alice", "info again/a", "no git repository found"),
        ("alice", "info ", "usage: "),
        ("alice", "info ../one", "usage: "),
    ] {
        assert_eq!(ask(user, line).bad(answer).text(), "", "{line}");
    }
    assert_eq!(regress::compare::listing(&site.path("repositories")), before);
    fs::write(repository.join("HEAD"), "ref: refs/heads/unborn\n").expect("writes");
    assert!(ask("bob", "info one").good().text().contains("head\tunborn (not there yet)\n"));
    let me = present_user();
    daemon.logged(&["result=ok", &format!("who={me}/bob"), "repository=one", "service=info"]);
    daemon.assert_serves();
}
