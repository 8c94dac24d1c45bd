//! A symbolic reference as a branch's second name (`master` for `main`): a push to it changes the
//! branch, as with C git. Deleting it takes the second name away and leaves the branch, where C git
//! would delete the branch and leave a name that leads nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regress::compare::leftovers;
use regress::site::present_user;
use regress::{Daemon, Site, history, run};

/// Names below `refs/heads/` and where they lead.
const ALIASES: [(&str, &str); 13] = [
    ("one", "refs/heads/old"),
    ("two", "refs/heads/one"),
    ("three", "refs/heads/two"),
    ("four", "refs/heads/three"),
    ("five", "refs/heads/four"),
    ("six", "refs/heads/five"),
    ("other", "refs/heads/old"),
    ("current", "refs/heads/main"),
    ("dangling", "refs/heads/un/born"),
    ("itself", "refs/heads/itself"),
    ("here", "refs/heads/there"),
    ("there", "refs/heads/here"),
    ("out", "refs/tags/out"),
];

struct Place {
    site: Site,
    work: PathBuf,
    template: PathBuf,
}

/// Two repositories that are the same: ours, and one for C git.
struct Pair<'p> {
    place: &'p Place,
    name: String,
    ours: PathBuf,
    theirs: PathBuf,
}

/// What a push leaves: the reports that git prints for programs, references with where they lead,
/// and the values in the logs.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    told: Vec<String>,
    references: Vec<String>,
    logs: BTreeMap<String, Vec<String>>,
}

impl Place {
    fn new() -> Place {
        let site = Site::new();
        let template = site.path("template.git");
        fs::rename(history::repository(&site, "template.git", 8, "sha1"), &template).expect("renames");
        let work = site.work_tree(&template);
        let git = |words: &[&str]| site.git_in(&template, words);
        git(&["config", "core.logAllRefUpdates", "true"]);
        git(&["branch", "old", "main~2"]);
        for (name, to) in ALIASES {
            git(&["symbolic-ref", &format!("refs/heads/{name}"), to]);
        }
        git(&["symbolic-ref", "refs/tags/latest", "refs/heads/old"]);
        Place { site, work, template }
    }

    /// A pair, changed by these commands of git.
    fn pair(&self, name: &str, setup: &[&[&str]]) -> Pair<'_> {
        let (ours, theirs) =
            (self.site.repository(&format!("{name}.git")), self.site.path(&format!("{name}.git")));
        for copy in [&ours, &theirs] {
            run(self.site.command("cp").arg("-a").arg(&self.template).arg(copy), b"", 60).good();
            setup.iter().for_each(|words| drop(self.site.git_in(copy, *words)));
        }
        Pair { place: self, name: name.to_owned(), ours, theirs }
    }
}

impl Pair<'_> {
    fn left(&self, repository: &Path, url: &str, what: &[&str]) -> Left {
        let site = &self.place.site;
        let done = site.push(&self.place.work, &[&["--porcelain", url][..], what].concat());
        let mut told: Vec<String> = done.text().lines().map(str::to_owned).collect();
        told.retain(|line| line.contains('\t'));
        told.sort();
        let references =
            site.git_in(repository, ["for-each-ref", "--format=%(refname) %(objectname) %(symref)"]);
        let references = references.lines().map(str::to_owned).collect();
        let mut logs = BTreeMap::new();
        let mut stack = vec![repository.join("logs")];
        while let Some(at) = stack.pop() {
            if at.is_dir() {
                stack.extend(fs::read_dir(&at).expect("lists").flatten().map(|entry| entry.path()));
                continue;
            }
            let text = fs::read_to_string(&at).expect("reads");
            let values = text.lines().map(|line| line.chars().take(81).collect()).collect();
            let name = at.strip_prefix(repository.join("logs")).expect("below");
            logs.insert(name.to_string_lossy().into_owned(), values);
        }
        assert_eq!(leftovers(repository), Vec::<PathBuf>::new());
        Left { told, references, logs }
    }

    fn ours(&self, what: &[&str]) -> Left {
        self.left(&self.ours, &format!("gotd:{}", self.name), what)
    }

    fn theirs(&self, what: &[&str]) -> Left {
        self.left(&self.theirs, &self.theirs.to_string_lossy(), what)
    }
}

impl Left {
    #[track_caller]
    fn assert_told(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.told.iter().any(|line| line.contains(part)), "{part}: {self:#?}");
        }
    }

    /// The id of a reference, and what it leads to.
    fn reference(&self, name: &str) -> Option<(&str, &str)> {
        self.references.iter().find_map(|line| line.strip_prefix(&format!("{name} "))?.split_once(' '))
    }
}

/// A name, commands of git that change both repositories before, and what is pushed.
type Case = (&'static str, &'static [&'static [&'static str]], &'static [&'static str]);

/// Pushes whose outcome is C git's, in full.
const AS_GIT: [Case; 23] = [
    ("plain", &[], &["main:refs/heads/one"]),
    ("itself", &[], &["main:refs/heads/old"]),
    ("chain", &[], &["main:refs/heads/four"]),
    ("rewound", &[], &["+main~4:refs/heads/two"]),
    ("refused-rewind", &[], &["main~4:refs/heads/two"]),
    ("same", &[], &["main~2:refs/heads/two"]),
    ("circle", &[], &["main:refs/heads/here"]),
    ("self", &[], &["main:refs/heads/itself", "main:refs/heads/fine"]),
    ("unborn", &[], &["main:refs/heads/dangling"]),
    ("unborn-both", &[], &["main:refs/heads/dangling", "main:refs/heads/un/born"]),
    ("both", &[], &["main:refs/heads/one", "main:refs/heads/old"]),
    ("differently", &[], &["main:refs/heads/one", "+main~4:refs/heads/old"]),
    ("differently-deep", &[], &["main:refs/heads/four", "+main~4:refs/heads/old", "main:refs/heads/fine"]),
    ("atomic", &[], &["--atomic", "main:refs/heads/one", "main:refs/heads/fine"]),
    ("atomic-both", &[], &["--atomic", "main:refs/heads/three", "main:refs/heads/old"]),
    ("atomic-differently", &[], &["--atomic", "main:refs/heads/one", "+main~4:refs/heads/old"]),
    ("atomic-unborn", &[], &["--atomic", "main:refs/heads/dangling", "main:refs/heads/fine"]),
    ("packed", &[&["pack-refs", "--all"]], &["main:refs/heads/one"]),
    ("of-head", &[], &["+main~1:refs/heads/current"]),
    (
        "head-through",
        &[&["symbolic-ref", "HEAD", "refs/heads/two"], &["config", "core.bare", "true"]],
        &["main:refs/heads/two"],
    ),
    ("head-past", &[&["symbolic-ref", "HEAD", "refs/heads/two"]], &["main:refs/heads/old"]),
    ("logged", &[&["config", "core.logAllRefUpdates", "always"]], &["main:refs/heads/one"]),
    (
        "into",
        &[&["symbolic-ref", "refs/heads/d/e", "refs/heads/old"]],
        &["main:refs/heads/d/e", "main:refs/heads/f"],
    ),
];

#[test]
fn a_push_to_an_alias_does_what_it_does_with_git() {
    let place = Place::new();
    let pairs: Vec<Pair<'_>> = AS_GIT.iter().map(|(name, setup, _)| place.pair(name, setup)).collect();
    let mut daemon = place.site.start();
    for (pair, (name, _, what)) in pairs.iter().zip(AS_GIT) {
        let (ours, theirs) = (pair.ours(what), pair.theirs(what));
        assert_eq!(ours, theirs, "{name}");
    }
    daemon.logged(&["reference", "repository=chain", "name=refs/heads/four", "target=refs/heads/old"]);
    daemon.assert_serves();
}

#[test]
fn lists_name_where_aliases_lead_as_git_s_do() {
    let place = Place::new();
    let pair = place.pair("list", &[]);
    let _daemon = place.site.start();
    // C git lists one of them less: `five`, which takes five steps.
    for copy in [&pair.ours, &pair.theirs] {
        for name in ["five", "six"] {
            fs::remove_file(copy.join("refs/heads").join(name)).expect("removes");
        }
    }
    for version in ["0", "1", "2"] {
        let list = |url: &str| {
            let version = format!("protocol.version={version}");
            place.site.git(["-c", &version, "ls-remote", "--symref", url]).good().text()
        };
        assert_eq!(list("gotd:list"), list(&pair.theirs.to_string_lossy()), "{version}");
    }
}

#[test]
fn where_git_does_otherwise() {
    let place = Place::new();
    let pair = |name: &str, setup: &[&[&str]]| place.pair(name, setup);
    let main = history::tip(&place.site, &place.template);
    let old = place.site.git_in(&place.template, ["rev-parse", "old"]).trim().to_owned();
    let names = ["steps", "out", "tag", "two", "unequal", "gone", "both-gone", "gone-and-moved", "lock"];
    let pairs: BTreeMap<&str, Pair<'_>> = names.into_iter().map(|name| (name, pair(name, &[]))).collect();
    let head = pair("head", &[&["symbolic-ref", "HEAD", "refs/heads/two"]]);
    let work_tree = pair("tree", &[&["config", "core.bare", "false"]]);
    let _daemon = place.site.start();
    let is = |left: &Left, name: &str, id: &str| {
        assert_eq!(left.reference(name).map(|(id, _)| id), Some(id), "{left:#?}")
    };
    // Five steps, where C git takes four and calls the fifth broken.
    let left = pairs["steps"].ours(&["main:refs/heads/five", "main:refs/heads/six"]);
    left.assert_told(&["refs/heads/five\t", "refs/heads/six\t[remote rejected] (broken symref)"]);
    is(&left, "refs/heads/old", &main);
    pairs["steps"].theirs(&["main:refs/heads/five"]).assert_told(&["(broken symref)"]);
    // To what is no branch, and from what is none.
    let left = pairs["out"].ours(&["main:refs/heads/out"]);
    left.assert_told(&["(is a symbolic reference that leads out of refs/heads/)"]);
    assert_eq!(left.reference("refs/tags/out"), None);
    let left = pairs["tag"].ours(&["+main:refs/tags/latest"]);
    left.assert_told(&["(is a symbolic reference)"]);
    is(&left, "refs/heads/old", &old);
    // Two aliases of a branch, of which C git takes only the first.
    let left = pairs["two"].ours(&["main:refs/heads/one", "main:refs/heads/other"]);
    assert!(left.told.iter().all(|line| !line.contains('!')), "{left:#?}");
    is(&left, "refs/heads/old", &main);
    let left = pairs["unequal"].ours(&["main:refs/heads/one", "+main~4:refs/heads/other"]);
    left.assert_told(&["one\t[remote rejected] (inconsistent", "other\t[remote rejected] (inconsistent"]);
    is(&left, "refs/heads/old", &old);
    // Deleted alone.
    let left = pairs["gone"].ours(&[":refs/heads/one"]);
    is(&left, "refs/heads/old", &old);
    is(&left, "refs/heads/other", &old);
    assert_eq!((left.reference("refs/heads/one"), left.reference("refs/heads/two")), (None, None));
    assert!(
        !left.logs.contains_key("refs/heads/one") && left.logs.contains_key("refs/heads/old"),
        "{left:#?}"
    );
    let theirs = pairs["gone"].theirs(&[":refs/heads/one"]);
    assert_eq!(theirs.reference("refs/heads/old"), None);
    // Again: its name is free.
    let left = pairs["gone"].ours(&["main:refs/heads/one"]);
    is(&left, "refs/heads/old", &old);
    assert_eq!(left.reference("refs/heads/one"), Some((&main[..], "")));
    let left = pairs["both-gone"].ours(&["--atomic", ":refs/heads/one", ":refs/heads/old"]);
    assert_eq!((left.reference("refs/heads/one"), left.reference("refs/heads/old")), (None, None));
    assert!(!pairs["both-gone"].ours.join("refs/heads/one").exists());
    let left = pairs["gone-and-moved"].ours(&[":refs/heads/one", "main:refs/heads/old"]);
    left.assert_told(&["one\t[remote rejected] (inconsistent", "old\t[remote rejected] (inconsistent"]);
    // The current branch, by any of its names.
    for name in ["two", "one", "old"] {
        let left = head.ours(&[&format!(":refs/heads/{name}")]);
        left.assert_told(&["(deletion of the current branch prohibited)"]);
        is(&left, "refs/heads/old", &old);
    }
    for name in ["current", "main"] {
        work_tree
            .ours(&[&format!("+main~1:refs/heads/{name}")])
            .assert_told(&["(branch is currently checked out)"]);
    }
    let left = work_tree.ours(&[":refs/heads/current"]);
    is(&left, "refs/heads/main", &main);
    assert_eq!(left.reference("refs/heads/current"), None);
    // Locked by somebody, under any of the names.
    let lock = &pairs["lock"];
    for name in ["three", "one", "old"] {
        let file = lock.ours.join(format!("refs/heads/{name}.lock"));
        fs::write(&file, "").expect("writes");
        let done = place.site.push(&place.work, &["gotd:lock", "main:refs/heads/three"]);
        done.bad("(failed to update ref: it is locked)").text();
        fs::remove_file(&file).expect("removes");
    }
    let left = lock.ours(&["main:refs/heads/three"]);
    is(&left, "refs/heads/old", &main);
}

#[test]
fn rules_hold_for_the_alias_and_for_its_branch() {
    let place = Place::new();
    let git = |words: &[&str]| drop(place.site.git_in(&place.template, words));
    for (name, to) in
        [("to-safe", "safe"), ("safe-too", "old"), ("to-secret", "secret/x"), ("to-none", "secret/y")]
    {
        git(&["symbolic-ref", &format!("refs/heads/{name}"), &format!("refs/heads/{to}")]);
    }
    git(&["branch", "safe", "main~2"]);
    git(&["branch", "secret/x", "main~2"]);
    let pair = place.pair("rules", &[]);
    let path = place.site.repository("rules.git");
    let me = present_user();
    let rules =
        "\tprotect {\n\t\tbranch safe\n\t\tbranch safe-too\n\t}\n\thide namespace refs/heads/secret/\n";
    let conf = format!(
        "{}repository \"rules\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n{rules}}}\n",
        place.site.roomy_head(),
        path.display()
    );
    let daemon: Daemon = place.site.start_with(&conf);
    for name in ["to-safe", "safe-too"] {
        let left = pair.ours(&[&format!("+main~4:refs/heads/{name}")]);
        left.assert_told(&["reference is protected"]);
        // What the rule permits is done.
        let left = pair.ours(&[&format!("main:refs/heads/{name}")]);
        assert!(left.told.iter().all(|line| !line.contains('!')), "{left:#?}");
    }
    // Another name of a protected branch may go, and a protected name may not.
    pair.ours(&[":refs/heads/safe-too"]).assert_told(&["protected"]);
    let left = pair.ours(&[":refs/heads/to-safe"]);
    assert!(left.reference("refs/heads/safe").is_some() && left.reference("refs/heads/to-safe").is_none());
    // What is hidden, is there and is not there are answered alike.
    let answers = ["to-secret", "to-none"].map(|name| {
        let list = place.site.git(["ls-remote", "gotd:rules", &format!("refs/heads/{name}")]).good().text();
        let told = pair.ours(&[&format!("main:refs/heads/{name}")]).told;
        (list, told.concat().replace(name, "NAME"))
    });
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].1.contains("(failed to update ref)"), "{answers:?}");
    drop(daemon);
}
