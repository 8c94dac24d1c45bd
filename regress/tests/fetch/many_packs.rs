//! A repository that nobody maintains: every push left a pack. What a client sees and what it gets
//! is the same, and a list of references opens only what it needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use regress::compare::assert_mirror;
use regress::raw::Session;
use regress::{Site, history, pkt, run};

const PACKS: usize = 300;

/// Makes a repository of a pack for each commit, as pushes leave them: each pack is built upon what
/// was there, and repeats that. Gives the packs, the oldest first.
fn a_pack_for_each_commit(site: &Site, name: &str) -> Vec<PathBuf> {
    let from = history::repository(site, "from.git", 400, "sha1");
    let to = site.repository(name);
    site.git(["init", "-q", "--bare", "-b", "main", &to.to_string_lossy()]).good();
    let listed = site.git_in(&from, ["rev-list", "--first-parent", "--reverse", "main"]);
    let listed: Vec<&str> = listed.lines().collect();
    let command = |at: &Path, words: &[&str]| -> Command {
        let mut command = site.command("git");
        command.arg("-C").arg(at).args(words);
        command
    };
    let (mut packs, mut before) = (Vec::new(), String::new());
    for commit in &listed[listed.len().saturating_sub(PACKS)..] {
        let words = ["pack-objects", "-q", "--revs", "--thin", "--delta-base-offset", "--stdout"];
        let revs = format!("{commit}\n{before}");
        let pack = run(&mut command(&from, &words), revs.as_bytes(), 60).good().out;
        let words = ["index-pack", "--stdin", "--fix-thin"];
        let done = run(&mut command(&to, &words), &pack, 60).good().text();
        let id = done.split_whitespace().last().expect("an id").to_owned();
        let path = to.join(format!("objects/pack/pack-{id}.pack"));
        let age = Duration::from_secs((2 * PACKS - packs.len()) as u64);
        let file = fs::File::open(&path).expect("opens");
        file.set_modified(SystemTime::now() - age).expect("sets its time");
        packs.push(path);
        before = format!("^{commit}\n");
    }
    site.git_in(&to, ["update-ref", "refs/heads/main", listed[listed.len() - 1]]);
    site.git_in(&to, ["branch", "old", "main~150"]);
    site.git_in(&to, ["tag", "-a", "-m", "one", "v1", "main~100"]);
    site.git_in(&to, ["pack-refs", "--all"]);
    packs
}

#[test]
fn a_list_opens_no_index_and_a_clone_from_many_packs_has_everything() {
    let site = Site::new();
    let packs = a_pack_for_each_commit(&site, "many.git");
    assert_eq!(packs.len(), PACKS);
    let many = site.repository("many.git");
    let pushed = site.git_in(&many, ["rev-parse", "main~3"]);
    fs::write(many.join("refs/heads/pushed"), pushed).expect("writes");
    // One index is no index; who opens it says so in the log.
    let broken = packs[0].with_extension("idx");
    let whole = fs::read(&broken).expect("reads");
    let spoil = |bytes: &[u8]| {
        fs::remove_file(&broken).expect("removes");
        fs::write(&broken, bytes).expect("writes");
        site.hand_over();
    };
    let expected = site.git(["ls-remote", &many.to_string_lossy()]).good().text();
    spoil(b"nothing");
    let daemon = site.start();
    for version in ["protocol.version=0", "protocol.version=2"] {
        let listed = site.git(["-c", version, "ls-remote", "gotd:many.git"]).good().text();
        assert_eq!(listed, expected, "{version}");
    }
    assert!(daemon.logged(&["repository=many.git", "result=ok"]).contains("result=ok"));
    assert!(!daemon.log().contains("warning="), "{}", daemon.log());
    let refused = site.git(["clone", "-q", "--bare", "gotd:many.git", "refused.git"]);
    assert!(refused.status != 0 && refused.err.contains(".idx: "), "{}", refused.err);
    spoil(&whole);
    for version in ["0", "2"] {
        let mirror = site.clone_path(&format!("mirror-{version}.git"));
        let (option, path) = (format!("protocol.version={version}"), mirror.to_string_lossy());
        site.git(["-c", &option, "clone", "-q", "--mirror", "gotd:many.git", &path]).good();
        assert_mirror(&site, &many, &mirror);
    }
}

/// What lies in one pack is built upon what lies in another, as C git does.
#[test]
fn a_fetch_from_many_packs_is_as_small_as_c_gits() {
    let site = Site::new();
    a_pack_for_each_commit(&site, "many.git");
    let many = site.repository("many.git");
    site.hand_over();
    let _daemon = site.start();
    let id = |name: &str| site.git_in(&many, ["rev-parse", name]).trim().to_owned();
    for back in [3, 30, 290] {
        let (want, have) = (id("main"), id(&format!("main~{back}")));
        let mut make = site.command("git");
        make.arg("-C").arg(&many).args(["pack-objects", "-q", "--revs", "--thin", "--delta-base-offset"]);
        make.arg("--stdout");
        let git = run(&mut make, format!("{want}\n^{have}\n").as_bytes(), 60).good().out.len();
        let mut session = Session::fetch(&site.socket(), "many.git", 2);
        session.read_to_flush();
        let lines = [
            "thin-pack",
            "ofs-delta",
            "no-progress",
            &format!("want {want}"),
            &format!("have {have}"),
            "done",
        ];
        session.write(&pkt::v2("fetch", lines.map(|line| format!("{line}\n"))));
        let answer = session.read_to_flush();
        let ours = pkt::pack_of(&answer).len();
        assert!(ours > 0, "{}", answer.escape_ascii());
        println!("{back} commits: {ours} bytes, C git {git}");
        assert!(ours * 10 <= git * 11, "{back} commits: {ours} bytes, C git {git}");
    }
}
