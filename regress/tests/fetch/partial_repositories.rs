//! A repository that is a partial clone itself: what its filter left out is somewhere else, and
//! nobody fetches it. C git is asked the same, with `GIT_NO_LAZY_FETCH`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regress::raw::{self, Connection, Session};
use regress::run::Done;
use regress::{Daemon, Site, pkt, run, tcp};

/// What is left out.
const FILTERS: [&str; 3] = ["blob:none", "blob:limit=1k", "tree:0"];

/// A work tree with some history, and a bare partial clone of it for each filter: `blob-none.git`.
fn site() -> (Site, PathBuf) {
    let site = Site::new();
    let origin = site.clone_path("origin");
    site.git(["init", "-q", "-b", "main", &origin.to_string_lossy()]).good();
    std::fs::create_dir_all(origin.join("dir/below")).expect("makes directories");
    for version in 0..4 {
        for (file, size) in [("text", 3000), ("dir/small", 20), ("dir/below/large", 5000), ("same", 2000)] {
            let version = if file == "same" { 0 } else { version };
            let line = |n: usize| if n == 7 { format!("{file} {version}\n") } else { format!("line {n}\n") };
            let content: String = (0..size / 8).map(line).collect();
            std::fs::write(origin.join(file), content).expect("writes");
        }
        site.commit_all(&origin, &format!("version {version}"));
    }
    site.git_in(&origin, ["config", "uploadpack.allowFilter", "true"]);
    for filter in FILTERS {
        let (from, to) = (format!("file://{}", origin.display()), site.repository(&name(filter)));
        let option = format!("--filter={filter}");
        site.git(["clone", "-q", "--bare", &option, &from, &to.to_string_lossy()]).good();
        // Nobody may be able to fetch what is missing.
        site.git_in(&to, ["config", "remote.origin.url", "file:///nowhere"]);
        site.git_in(&to, ["config", "uploadpack.allowFilter", "true"]);
        site.git_in(&to, ["config", "uploadpack.allowAnySHA1InWant", "true"]);
    }
    (site, origin)
}

fn name(filter: &str) -> String {
    format!("{}.git", filter.replace([':', '='], "-"))
}

fn start(site: &Site) -> Daemon {
    let address = tcp::free_v4();
    site.start_with(&site.serve_strangers(address, "", "").replacen(
        "permit ro",
        "partial clone\n\tpermit ro",
        1,
    ))
}

/// Git, which must not fetch what is missing.
fn git(site: &Site, arguments: &[&str]) -> Done {
    run(site.command("git").env("GIT_NO_LAZY_FETCH", "1").args(arguments), b"", 60)
}

/// What a repository has, by id.
fn objects(site: &Site, repository: &Path) -> BTreeSet<String> {
    let all = ["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"];
    site.git_in(repository, all).lines().map(str::to_owned).collect()
}

#[test]
fn a_partial_clone_of_a_partial_clone_has_what_its_filter_lets_through() {
    let (site, _) = site();
    let _daemon = start(&site);
    for filter in FILTERS {
        let original = site.repository(&name(filter));
        let option = format!("--filter={filter}");
        let clone = |from: &str, to: &str| {
            let to = site.clone_path(&format!("{to}-{}", name(filter)));
            (git(&site, &["clone", "-q", "--bare", &option, from, &to.to_string_lossy()]), to)
        };
        let (ours, path) = clone(&format!("gotd:{}", name(filter)), "ours");
        ours.good();
        assert_eq!(objects(&site, &path), objects(&site, &original), "{filter}");
        // C git wants the size of each blob, and reads each root tree, and fails where it cannot.
        let (theirs, path) = clone(&format!("file://{}", original.display()), "theirs");
        if filter == "blob:none" {
            theirs.good();
            assert_eq!(objects(&site, &path), objects(&site, &original), "{filter}");
        } else {
            theirs.bad("");
        }
        // Without the filter something is missing, and the client is told what, as by C git.
        let to = site.clone_path(&format!("whole-{}", name(filter)));
        let whole = |from: &str| git(&site, &["clone", "-q", "--bare", from, &to.to_string_lossy()]);
        let told = whole(&format!("gotd:{}", name(filter))).bad("object ").err;
        assert!(told.contains("missing"), "{told}");
        whole(&format!("file://{}", original.display())).bad("");
    }
}

#[test]
fn a_push_to_a_partial_clone_may_name_what_it_was_promised() {
    let (site, origin) = site();
    let copy = |filter: &str| site.path(&format!("c-git-{}", name(filter)));
    for filter in FILTERS {
        let (from, to) = (site.repository(&name(filter)), copy(filter));
        run(site.command("cp").arg("-a").args([&from, &to]), b"", 30).good();
    }
    let daemon = start(&site);
    let base = site.git_in(&origin, ["rev-parse", "HEAD:text"]).trim().to_owned();
    for file in ["text", "dir/small"] {
        let text = std::fs::read_to_string(origin.join(file)).expect("reads");
        std::fs::write(origin.join(file), format!("{text}more\n")).expect("writes");
    }
    let tip = site.commit_all(&origin, "more").trim().to_owned();
    let push = |thin: &str, to: &str| {
        git(&site, &["-C", &origin.to_string_lossy(), "push", "-q", thin, to, "HEAD:refs/heads/more"])
    };
    for filter in FILTERS {
        let original = site.repository(&name(filter));
        let (url, theirs) = (format!("gotd:{}", name(filter)), format!("file://{}", copy(filter).display()));
        if filter == "tree:0" {
            // The directories that did not change are named by nothing that is there.
            push("--no-thin", &url).bad("missing necessary objects");
            push("--no-thin", &theirs).bad("missing necessary objects");
            continue;
        }
        // The base of a delta is not there; it is named, and what helps is told.
        let told = push("--thin", &url).bad(&base).err;
        assert!(told.contains("partial clone; push with --no-thin"), "{told}");
        push("--thin", &theirs).bad("");
        push("--no-thin", &url).good();
        push("--no-thin", &theirs).good();
        assert_eq!(site.git_in(&original, ["rev-parse", "refs/heads/more"]).trim(), tip);
        git(&site, &["-C", &original.to_string_lossy(), "fsck", "--full"]).good();
        // What came is served again, to clients that have the rest.
        let again = site.clone_path(&format!("again-{}", name(filter)));
        let option = format!("--filter={filter}");
        git(&site, &["clone", "-q", "--bare", &option, &url, &again.to_string_lossy()]).good();
    }
    // What nobody promised is missing.
    let lost = "1234567812345678123456781234567812345678";
    let in_origin = |arguments: &[&str], input: &str| {
        let mut command = site.command("git");
        run(command.arg("-C").arg(&origin).args(arguments), input.as_bytes(), 30).good()
    };
    let tree = in_origin(&["mktree", "--missing"], &format!("100644 blob {lost}\tlost\n")).text();
    let commit = in_origin(&["commit-tree", "-p", &tip, "-m", "lost", tree.trim()], "").text();
    let commit = commit.trim();
    let pack = in_origin(&["pack-objects", "-q", "--stdout"], &format!("{commit}\n{tree}")).out;
    let connection = Connection::open(&site.socket());
    connection.greet();
    let mut client = Session::ask(connection, &raw::push_request(&name("blob:none")));
    client.read_to_flush();
    let mut request = pkt::line(format!("{} {commit} refs/heads/lost\0 report-status", "0".repeat(40)));
    request.extend_from_slice(b"0000");
    request.extend_from_slice(&pack);
    client.write(&request);
    let told = String::from_utf8_lossy(&client.read_to_end(30)).into_owned();
    assert!(told.contains("ng refs/heads/lost"), "{told}\n{}", daemon.log());
}
