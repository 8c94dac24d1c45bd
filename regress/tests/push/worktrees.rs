//! C git refuses a push to a branch that somebody works on: one that is checked out in any worktree
//! of the repository, and one that a rebase or a bisection under way there comes back to. Once only
//! the repository's own HEAD was looked at, so that a push moved a branch under a linked worktree,
//! whose next commit then took back what had been pushed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regress::run::Done;
use regress::{Site, history};

/// A repository with a worktree for each way to work on a branch, and the branch of each.
struct Place {
    site: Site,
    repository: PathBuf,
}

/// Each branch, and whether it may be changed.
const BRANCHES: [(&str, bool); 12] = [
    ("linked", false),
    ("gone", false),
    ("unborn", false),
    ("rebased", false),
    ("applied", false),
    ("edited", false),
    ("bisected", false),
    ("alias-target", false),
    ("finished", true),
    ("mailed", true),
    ("detached", true),
    ("free", true),
];

fn place(bare: bool) -> Place {
    let site = Site::new();
    let repository = history::repository(&site, "r.git", 12, "sha1");
    let git = |dir: &Path, words: &[&str]| site.git_in(dir, words);
    let tried = |dir: &Path, words: &[&str]| {
        let at = ["-C".as_ref(), dir.as_os_str()];
        site.git(at.into_iter().chain(words.iter().map(std::ffi::OsStr::new)))
    };
    if !bare {
        git(&repository, &["config", "core.bare", "false"]);
    }
    let work = |branch: &str| {
        let path = site.path(&format!("work-{branch}"));
        git(&repository, &["worktree", "add", "-q", "-b", branch, &path.to_string_lossy(), "main~2"]);
        path
    };
    for (branch, _) in BRANCHES {
        match branch {
            "linked" | "alias-target" => drop(work(branch)),
            "gone" => fs::remove_dir_all(work(branch)).expect("removes"),
            "unborn" => {
                let path = site.path("work-unborn").to_string_lossy().into_owned();
                git(&repository, &["worktree", "add", "-q", "--orphan", "-b", branch, &path]);
            }
            "rebased" | "applied" => {
                let path = work(branch);
                fs::write(path.join("file"), "one").expect("writes");
                site.commit(&path, "conflict", branch);
                git(&path, &["checkout", "-q", "-b", &format!("{branch}-onto"), "HEAD~1"]);
                site.commit(&path, "conflict", "other");
                git(&path, &["checkout", "-q", branch]);
                let how = if branch == "applied" { "--apply" } else { "--merge" };
                let onto = format!("{branch}-onto");
                tried(&path, &["rebase", "-q", how, &onto]).bad("");
                git(&repository, &["branch", "-q", "-D", &onto]);
            }
            "edited" => {
                let path = work(branch);
                site.commit(&path, "new", "x");
                git(&path, &["-c", "sequence.editor=sed -i 1s/pick/edit/", "rebase", "-q", "-i", "HEAD~1"]);
            }
            "bisected" => {
                let path = work(branch);
                git(&path, &["bisect", "start", "HEAD", "HEAD~3"]);
            }
            "finished" => {
                let path = work(branch);
                git(&path, &["bisect", "start", "HEAD", "HEAD~3"]);
                git(&path, &["bisect", "reset"]);
                git(&path, &["checkout", "-q", "--detach"]);
            }
            "mailed" => {
                let path = work(branch);
                site.commit(&path, "conflict", "mine");
                let patch = git(&path, &["format-patch", "-1", "--stdout"]).replace("+mine", "+theirs");
                fs::write(site.path("patch"), patch).expect("writes");
                tried(&path, &["am", "-q", &site.path("patch").to_string_lossy()]).bad("");
                git(&path, &["symbolic-ref", "HEAD", "refs/heads/elsewhere"]);
                git(&path, &["update-ref", "--no-deref", "HEAD", branch]);
            }
            "detached" => drop(git(&work(branch), &["checkout", "-q", "--detach"])),
            _ => drop(git(&repository, &["branch", branch, "main~2"])),
        }
    }
    // A worktree whose HEAD is an alias of a branch.
    git(&repository, &["symbolic-ref", "refs/heads/alias", "refs/heads/alias-target"]);
    let linked = repository.join("worktrees/work-alias-target/HEAD");
    fs::write(linked, "ref: refs/heads/alias\n").expect("writes");
    // Without a file `gitdir`, git takes it for no worktree.
    let odd = repository.join("worktrees/odd");
    fs::create_dir(&odd).expect("makes");
    fs::write(odd.join("HEAD"), "ref: refs/heads/free\n").expect("writes");
    Place { site, repository }
}

/// Pushes to every branch; whether each push was taken.
fn told(place: &Place, work: &Path, url: &str, command: &str) -> BTreeMap<String, bool> {
    let one =
        |branch: &str| -> Done { place.site.push(work, &["-q", url, &command.replace("BRANCH", branch)]) };
    BRANCHES.iter().map(|(branch, _)| ((*branch).to_owned(), one(branch).status == 0)).collect()
}

#[test]
fn branches_that_somebody_works_on_in_a_worktree_are_neither_moved_nor_deleted() {
    for bare in [true, false] {
        let place = place(bare);
        let Place { site, repository } = &place;
        // C git is asked in a copy.
        let copy = site.path("copy.git");
        let mut command = site.command("cp");
        regress::run(command.arg("-a").arg(repository).arg(&copy), b"", 60).good();
        let work = site.work_tree(repository);
        site.commit(&work, "new", "x");
        let daemon = site.start();
        let before = regress::compare::references(site, repository);
        let want: BTreeMap<String, bool> =
            BRANCHES.iter().map(|(branch, free)| ((*branch).to_owned(), *free)).collect();
        for command in ["+HEAD:refs/heads/BRANCH", ":refs/heads/BRANCH"] {
            assert_eq!(told(&place, &work, &copy.to_string_lossy(), command), want, "git: {bare} {command}");
            assert_eq!(told(&place, &work, "gotd:r.git", command), want, "{bare} {command}");
        }
        let after = regress::compare::references(site, repository);
        for (branch, free) in BRANCHES {
            let of = |all: &str| -> Vec<String> {
                let ends = format!("refs/heads/{branch}");
                all.lines().filter(|line| line.ends_with(&ends)).map(str::to_owned).collect()
            };
            assert_eq!(of(&before) == of(&after), !free, "{branch}");
        }
        // The repository's own HEAD: a bare one's is not checked out.
        let main = site.push(&work, &["-q", "gotd:r.git", "HEAD:refs/heads/main"]);
        assert_eq!(main.status == 0, bare, "{}", main.err);
        daemon.logged(&["reference refused", "refs/heads/linked", "branch is currently checked out"]);
        // Of an atomic push the others are not made either.
        site.push(
            &work,
            &["-q", "--atomic", "gotd:r.git", "HEAD:refs/heads/fresh", "+HEAD:refs/heads/linked"],
        )
        .bad("branch is currently checked out");
        assert!(!repository.join("refs/heads/fresh").exists());
    }
}
