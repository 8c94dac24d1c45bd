//! References that are symbolic links, in a place that nobody else can change.
//!
//! The story: Landlock keeps nobody from looking at names, so a process that was taken over could
//! ask of any file of the machine whether it is there, and read any link. So a process that works
//! on one repository can do nothing with names but open them. A link cannot be read by opening it:
//! a reference that git once made as a link would have been missing in each listing, as if it had
//! been deleted.

use std::fs;
use std::os::unix::fs::symlink;

use regress::{Site, history};

#[test]
fn a_reference_that_is_a_link_is_read_or_damaged_and_never_missing() {
    let Some(site) = Site::trusted(env!("CARGO_TARGET_TMPDIR")) else { return };
    let old = history::repository(&site, "old.git", 3, "sha1");
    fs::remove_file(old.join("HEAD")).expect("removes");
    symlink("refs/heads/main", old.join("HEAD")).expect("links");
    symlink("refs/heads/main", old.join("refs/heads/alias")).expect("links");
    let alias = history::repository(&site, "alias.git", 3, "sha1");
    symlink("refs/heads/main", alias.join("refs/heads/alias")).expect("links");
    let whole = history::repository(&site, "whole.git", 3, "sha1");
    fs::create_dir_all(whole.join("refs/heads/hollow/empty")).expect("makes");
    let tip = history::tip(&site, &whole);
    let mut daemon = site.start();

    // Where HEAD is a link, links are read.
    let text = site.git(["ls-remote", "gotd:old.git"]).good().text();
    for name in ["HEAD", "refs/heads/alias", "refs/heads/main"] {
        assert!(text.contains(&format!("{tip}\t{name}\n")), "{text}");
    }
    let clone = site.clone_path("old");
    site.git(["clone", "-q", "gotd:old.git", &clone.to_string_lossy()]).good();
    assert_eq!(site.git_in(&clone, ["rev-parse", "--abbrev-ref", "HEAD"]).trim(), "main");

    // Elsewhere they are listed as damaged, and refused by name.
    for version in ["0", "2"] {
        let version = format!("protocol.version={version}");
        let text = site.git(["-c", &version, "ls-remote", "gotd:alias.git"]).good().text();
        assert!(text.contains(&format!("{}\trefs/heads/alias\n", "0".repeat(40))), "{text}");
        assert!(text.contains(&format!("{tip}\trefs/heads/main\n")), "{text}");
    }
    let into = site.clone_path("alias").to_string_lossy().into_owned();
    let done = site.git(["clone", "-q", "gotd:alias.git", &into]);
    assert!(done.status != 0 && done.err.contains("refs/heads/alias is damaged"), "{}", done.err);
    daemon.logged(&["repository=alias.git", "refs/heads/alias: damaged: symbolic link, which is not read"]);
    site.git_in(&alias, ["symbolic-ref", "refs/heads/alias", "refs/heads/main"]);
    site.hand_over();
    let text = site.git(["ls-remote", "gotd:alias.git"]).good().text();
    assert!(text.contains(&format!("{tip}\trefs/heads/alias\n")), "{text}");

    // And a push sees them.
    symlink("refs/heads/main", alias.join("refs/heads/other")).expect("links");
    let work = site.clone_path("work");
    site.git(["clone", "-q", "gotd:whole.git", &work.to_string_lossy()]).good();
    site.commit(&work, "new", "new");
    let done = site.push(&work, &["-q", "gotd:alias.git", "HEAD:refs/heads/other"]);
    assert!(done.status != 0 && done.err.contains("link"), "{}", done.err);
    // What is a directory and no reference is not taken for a link.
    site.push(&work, &["-q", "gotd:whole.git", "HEAD:refs/heads/hollow"]).good();
    daemon.assert_serves();
}
