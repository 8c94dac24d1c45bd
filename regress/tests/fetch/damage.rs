//! What is damaged in a repository is never answered as if it were not there: a client that mirrors
//! would delete its own copy, and a clone of the only branch would say "empty repository". C git
//! lists a damaged reference with an id of zeros, and refuses to send it; so do we.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use regress::clients::python;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, is_root, pkt, run};

const URL: &str = "gotd:r.git";

struct Place {
    site: Site,
    repository: PathBuf,
    tip: String,
}

fn place() -> Place {
    let site = Site::new();
    let repository = history::repository(&site, "r.git", 12, "sha1");
    let tip = history::tip(&site, &repository);
    site.git_in(&repository, ["pack-refs", "--all"]);
    Place { site, repository, tip }
}

impl Place {
    fn listed(&self, from: &str, version: u8) -> Vec<String> {
        let version = format!("protocol.version={version}");
        let out = self.site.git(["-c", &version, "ls-remote", from]).good().text();
        out.lines().map(str::to_owned).collect()
    }

    /// C git's list of the same repository.
    fn git_s(&self, version: u8) -> Vec<String> {
        self.listed(&format!("file://{}", self.repository.display()), version)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.repository.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("makes directories");
        fs::write(path, content).expect("writes");
    }

    fn start(&self) -> Daemon {
        self.site.start()
    }
}

/// How often the log has a line with all these words.
fn times(daemon: &Daemon, words: &[&str]) -> usize {
    daemon.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

/// All that a file of a reference can hold instead of an id.
fn damages(tip: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("nul", vec![0; 41]),
        ("formfeed", format!("{tip}\x0c").into_bytes()),
        ("line", b"\n".to_vec()),
        ("text", b"hello\n".to_vec()),
        ("short", tip.as_bytes()[..39].to_vec()),
        ("joined", format!("{tip}x\n").into_bytes()),
        ("zeros", format!("{}\n", "0".repeat(40)).into_bytes()),
        ("blank-first", format!(" {tip}\n").into_bytes()),
        ("large", vec![b'a'; 10_000]),
        ("sha256", "ab".repeat(32).into_bytes()),
        ("conflict", format!("<<<<<<< HEAD\n{tip}\n").into_bytes()),
        ("deep/er/one", b"garbage".to_vec()),
    ]
}

/// As C git lists them, in every protocol, loose alone and over a packed value; the log says why.
#[test]
fn damaged_references_are_listed_with_zeros_as_c_git_lists_them() {
    let place = place();
    let mut lines = fs::read_to_string(place.repository.join("packed-refs")).expect("reads");
    lines = lines.replace(" sorted", "");
    for (name, _) in damages(&place.tip) {
        for above in ["refs/heads/packed", "refs/tags/packed"] {
            lines.push_str(&format!("{} {above}-{name}\n", place.tip));
        }
    }
    place.write("packed-refs", lines);
    place.site.git_in(&place.repository, ["pack-refs", "--all"]);
    for (name, content) in damages(&place.tip) {
        for above in ["refs/heads/a", "refs/heads/packed", "refs/tags/packed"] {
            place.write(&format!("{above}-{name}"), &content);
        }
    }
    // Fine ones, that look odd.
    place.write("refs/heads/fine-blank", format!("{} x\n", place.tip));
    place.write("refs/heads/fine-nul", [place.tip.as_bytes(), &[0; 9]].concat());
    place.write("refs/heads/fine-symbolic", b"ref:\t refs/heads/main\0x\n");
    place.write("refs/heads/fine-upper", format!("{}\n", place.tip.to_uppercase()));
    place.write("refs/heads/fine-missing", format!("{}\n", "1".repeat(40)));
    // Symbolic references that lead nowhere, or to a damaged one.
    for (name, target) in [
        ("dangling", "refs/heads/nowhere"),
        ("broken", "refs/heads/a-empty"),
        ("circle", "refs/heads/s-circle"),
        ("bad", "refs/heads/no name"),
        ("nothing", ""),
    ] {
        place.write(&format!("refs/heads/s-{name}"), format!("ref: {target}\n"));
    }
    let daemon = place.start();
    for version in [0, 1, 2] {
        let (want, ours) = (place.git_s(version), place.listed(URL, version));
        assert_eq!(want.iter().filter(|line| line.starts_with("0000")).count(), 3 * 13, "{want:?}");
        assert_eq!(ours, want, "version {version}");
    }
    let line = ["repository", "refs/tags/packed-text: damaged: neither an object id"];
    assert_eq!(times(&daemon, &line), 0, "the log takes 16 lines of a session");
    daemon.logged(&["repository=r.git", "warning=\"refs/heads/a-empty: damaged: an empty file\""]);
}

/// What can be fetched by name is; what needs the damaged one is refused and says so, and nothing
/// is lost on either side.
#[test]
fn a_want_of_a_damaged_reference_is_refused_by_its_name_and_a_mirror_loses_nothing() {
    let place = place();
    let Place { site, repository, tip } = &place;
    site.git_in(repository, ["branch", "other", "main~1"]);
    let daemon = place.start();
    let mirror = site.clone_path("mirror.git");
    let mirrored = |site: &Site| site.git_in(&mirror, ["for-each-ref"]);
    site.git(["clone", "-q", "--mirror", URL, &mirror.to_string_lossy()]).good();
    let before = mirrored(site);
    place.write("refs/heads/main", "");
    for version in ["0", "2"] {
        let version = format!("protocol.version={version}");
        let said = "refs/heads/main is damaged on the server";
        let fetch = |arguments: &[&str]| {
            let first =
                ["-C", &*mirror.to_string_lossy(), "-c", &version, "fetch", "-q", URL].map(str::to_owned);
            site.git(first.into_iter().chain(arguments.iter().map(|word| (*word).to_owned())))
        };
        fetch(&["--prune", "+refs/*:refs/*"]).bad(said);
        fetch(&["+refs/heads/*:refs/heads/*"]).bad(said);
        fetch(&["refs/heads/main"]).bad(said);
        fetch(&["refs/heads/other"]).good();
        fetch(&["--prune", "+refs/tags/*:refs/tags/*"]).good();
        assert_eq!(mirrored(site), before);
        let clone = site.clone_path("refused").to_string_lossy().into_owned();
        for more in ["--bare", "--mirror", "--branch=main"] {
            site.git(["-c", &version, "clone", "-q", more, URL, &clone]).bad(said);
        }
    }
    // Nor do pushes take it for absent: they are refused, and the others go on.
    let work = site.work_tree(&mirror);
    site.commit(&work, "new", "new");
    for refused in ["HEAD:main", ":main", "+HEAD:main"] {
        site.push(&work, &[URL, refused]).bad("main");
    }
    site.push(&work, &["-q", URL, "HEAD:refs/heads/pushed"]).good();
    assert_eq!(fs::read(repository.join("refs/heads/main")).expect("reads"), b"");
    // Once mended, all is well.
    place.write("refs/heads/main", format!("{tip}\n"));
    site.git(["clone", "-q", URL, &*site.clone_path("mended").to_string_lossy()]).good();
    assert!(times(&daemon, &["refs/heads/main: damaged: an empty file"]) > 10);
}

/// Alone in its repository, and under HEAD: no "empty repository".
#[test]
fn a_clone_of_a_damaged_only_branch_is_no_empty_repository() {
    let place = place();
    let (site, repository) = (&place.site, &place.repository);
    let _ = fs::remove_file(repository.join("packed-refs"));
    for name in ["refs/tags", "refs/heads"] {
        fs::remove_dir_all(repository.join(name)).expect("removes");
    }
    place.write("refs/heads/main", vec![0; 41]);
    let _daemon = place.start();
    for version in ["0", "2"] {
        let version = format!("protocol.version={version}");
        for from in [URL.to_owned(), format!("file://{}", repository.display())] {
            let clone = site.clone_path("one").to_string_lossy().into_owned();
            let done = site.git(["-c", &version, "clone", "-q", &from, &clone]);
            assert!(done.status != 0 && !done.err.contains("empty repository"), "{from}");
        }
    }
    // HEAD itself.
    place.write("refs/heads/main", format!("{}\n", place.tip));
    place.write("HEAD", "");
    let clone = site.clone_path("two").to_string_lossy().into_owned();
    site.git(["clone", "-q", URL, &clone]).bad("HEAD is damaged on the server");
    site.git(["clone", "-q", "--mirror", URL, &clone]).bad("HEAD is damaged on the server");
}

/// Files that are no references are left out, and said so once for each session.
#[test]
fn files_of_no_reference_s_name_are_left_out_with_a_line() {
    let place = place();
    let id = format!("{}\n", place.tip);
    let before = place.listed(&place.repository.to_string_lossy(), 2);
    for name in ["main (conflicted copy)", "main.lock", ".DS_Store", "dir.lock/x", "a~1", "x..y"] {
        place.write(&format!("refs/heads/{name}"), &id);
    }
    let packed = place.repository.join("packed-refs");
    let mut lines = fs::read_to_string(&packed).expect("reads").replace(" sorted", "");
    lines.push_str(&format!("{} refs/heads/packed copy\n", place.tip));
    fs::write(&packed, lines).expect("writes");
    nix::unistd::mkfifo(&place.repository.join("refs/heads/fifo"), nix::sys::stat::Mode::S_IRWXU)
        .expect("makes a FIFO");
    let daemon = place.start();
    assert_eq!(place.listed(URL, 2), before);
    for name in
        ["main (conflicted copy)", "main.lock", ".DS_Store", "dir.lock/x", "a~1", "x..y", "packed copy"]
    {
        let said = format!("refs/heads/{name}: left out");
        daemon.logged(&["repository=r.git", &said]);
        assert_eq!(times(&daemon, &[&said]), 1, "{name}");
    }
    daemon.logged(&["refs/heads/fifo: left out: not a regular file"]);
}

/// What gotd's account may not read is damaged for its clients; a directory has names in it that
/// nobody knows, so that there is no list.
#[test]
fn unreadable_files_are_damaged_and_unreadable_directories_refuse_the_list() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let place = place();
    place.write("refs/heads/secret", format!("{}\n", place.tip));
    place.write("refs/heads/team/x", format!("{}\n", place.tip));
    let daemon = place.start();
    let mode = |name: &str, bits: u32| {
        fs::set_permissions(place.repository.join(name), fs::Permissions::from_mode(bits)).expect("chmod");
    };
    mode("refs/heads/secret", 0o000);
    let zeros = format!("{}\trefs/heads/secret", "0".repeat(40));
    assert!(place.listed(URL, 2).contains(&zeros));
    daemon.logged(&["refs/heads/secret: damaged: cannot be read: Permission denied"]);
    mode("refs/heads/secret", 0o644);
    for (name, good) in [("refs/heads/team", 0o755), ("packed-refs", 0o644), ("refs", 0o755)] {
        mode(name, 0o000);
        place.site.git(["ls-remote", URL]).bad(name);
        mode(name, good);
        place.site.git(["ls-remote", URL]).good();
    }
}

/// A line that makes no sense cuts history off elsewhere than it is: C git refuses, too.
#[test]
fn a_damaged_shallow_file_is_refused() {
    let place = place();
    let (site, repository) = (&place.site, &place.repository);
    let _daemon = place.start();
    let file = repository.join("shallow");
    let whole = site.git_in(repository, ["rev-parse", "main~2"]).trim().to_owned();
    for (text, good) in [
        (format!("{whole}\n"), true),
        (whole.clone(), true),
        (String::new(), true),
        ("garbage\n".to_owned(), false),
        (format!("{whole}\n\n"), false),
        (format!("{whole}\n{}\n", &whole[..30]), false),
    ] {
        fs::write(&file, &text).expect("writes");
        for (version, from) in
            [("0", URL.to_owned()), ("2", URL.to_owned()), ("2", format!("file://{}", repository.display()))]
        {
            let clone = site.clone_path("shallow.git");
            let _ = fs::remove_dir_all(&clone);
            let version = format!("protocol.version={version}");
            let done = site.git(["-c", &version, "clone", "-q", "--bare", &from, &*clone.to_string_lossy()]);
            assert_eq!(done.status == 0, good, "{text:?} {version} {from}: {}", done.err);
            if !good && from == URL {
                done.bad("shallow: damaged: a line names no object");
            }
        }
    }
}

/// Other clients take such a list: they fetch what is sound, and none says that a branch is gone.
#[test]
fn dulwich_and_libgit2_take_a_list_with_a_damaged_reference() {
    let place = place();
    place.write("refs/heads/broken", "");
    let address = tcp::free_v4();
    let _daemon = place.site.start_with(&place.site.serve_strangers(address, "", ""));
    let url = format!("git://127.0.0.1:{}/r.git", address.port());
    let mut client = Client::open(address);
    client.write(&tcp::request("/r.git", 2));
    client.read_to_flush();
    client.write(&pkt::v2("fetch", [format!("want {}\n", "0".repeat(40)), "done\n".into()]));
    let answer = client.end(20.0).text();
    assert!(answer.contains("refs/heads/broken is damaged on the server"), "{answer}");
    let dulwich = "\
import sys
from dulwich import client, repo
c, name = client.get_transport_and_path(sys.argv[1])
r = repo.Repo.init_bare(sys.argv[2], mkdir=True)
result = c.fetch(name, r, determine_wants=lambda refs, depth=None: [refs[b'refs/heads/main']])
assert b'refs/heads/broken' in result.refs
print(result.refs[b'refs/heads/main'].decode())
";
    let libgit2 = "\
import sys, pygit2
r = pygit2.init_repository(sys.argv[2], bare=True)
remote = r.remotes.create_anonymous(sys.argv[1])
remote.fetch(['refs/heads/main:refs/heads/main'])
print(r.references['refs/heads/main'].target)
";
    for (module, script) in [("dulwich", dulwich), ("pygit2", libgit2)] {
        let Some(python) = python(module) else { continue };
        let mut command = place.site.command(python);
        command.args(["-c", script, &url]).arg(place.site.clone_path(module));
        assert_eq!(run(&mut command, b"", 60).good().text().trim(), place.tip, "{module}");
    }
}
