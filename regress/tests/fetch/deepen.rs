//! A shallow clone gets deeper step by step, without failing and without losing what it has.

use std::path::Path;

use regress::compare::assert_whole;
use regress::{Site, history, run};

/// `main` merges three branches that grew from one root; C4 and C2 border on what `h0` excludes.
const STREAM: &str = "\
commit refs/heads/root\nmark :1\ncommitter T <t@x> 1700000000 +0000\ndata 2\nC1\n\n\
commit refs/heads/h2\nmark :2\ncommitter T <t@x> 1700000100 +0000\ndata 2\nC2\nfrom :1\n\n\
commit refs/heads/h0\nmark :3\ncommitter T <t@x> 1700000200 +0000\ndata 2\nC3\nfrom :1\n\n\
commit refs/heads/h1\nmark :4\ncommitter T <t@x> 1700000300 +0000\ndata 2\nC4\nfrom :1\n\n\
commit refs/heads/h1\nmark :5\ncommitter T <t@x> 1700000400 +0000\ndata 2\nC5\nfrom :4\n\n\
commit refs/heads/main\nmark :6\ncommitter T <t@x> 1700000500 +0000\ndata 2\nC6\nfrom :3\nmerge :5\nmerge :2\n\n";

/// The subjects of what a clone has.
fn subjects(site: &Site, clone: &Path) -> Vec<String> {
    let log = site.git_in(clone, ["log", "--format=%s", "--all"]);
    let mut subjects: Vec<String> = log.lines().map(str::to_owned).collect();
    subjects.sort();
    subjects
}

#[test]
fn commits_that_the_client_lists_and_never_got_do_not_end_it() {
    let site = Site::new();
    let repository = site.repository("r.git");
    history::init(&site, &repository, "--object-format=sha1");
    let import = ["fast-import", "--quiet"];
    run(site.command("git").arg("-C").arg(&repository).args(import), STREAM.as_bytes(), 60).good();
    let _daemon = site.start();
    for version in ["0", "1", "2"] {
        for (step, least) in [(1, &["C2", "C3", "C5", "C6"][..]), (2, &["C1", "C2", "C3", "C4", "C5", "C6"])]
        {
            let option = format!("protocol.version={version}");
            let clone = site.clone_path(&format!("v{version}-by-{step}"));
            let path = clone.to_string_lossy();
            let cut = ["clone", "-q", "--bare", "--single-branch", "--branch=main", "--shallow-exclude=h0"];
            site.git(["-c", &option].iter().chain(&cut).chain(&["gotd:r.git", &path])).good();
            let listed = std::fs::read_to_string(clone.join("shallow")).expect("reads").lines().count();
            assert_eq!((subjects(&site, &clone), listed), (vec!["C6".to_owned()], 3));
            let deepen = format!("--deepen={step}");
            for turn in 0..4 {
                let before = subjects(&site, &clone);
                let fetch = ["-C", &path, "-c", &option, "fetch", "-q", &deepen, "gotd:r.git", "main"];
                site.git(fetch).good();
                assert_whole(&site, &clone);
                let now = subjects(&site, &clone);
                assert!(before.iter().all(|had| now.contains(had)), "v{version}: {before:?}, now {now:?}");
                let least = least.iter().all(|name| now.iter().any(|got| got == name));
                assert!(turn > 0 || step > 1 || least, "v{version}: {now:?}");
            }
            assert_eq!(subjects(&site, &clone), ["C1", "C2", "C3", "C4", "C5", "C6"], "v{version}");
        }
    }
}
