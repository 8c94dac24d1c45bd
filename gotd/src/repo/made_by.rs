//! The file that records which user made a repository by pushing, so that each user's repositories
//! can be counted. gotd writes it once, and no client can.

use std::path::PathBuf;

use libproto::names::escape;
use librepo::dir::Dir;
use librepo::fs_ops::Fs;
use librepo::place::Walked;

use crate::repo::walk_repositories::each_repository;

/// The file, in the repository's own directory.
const FILE: &[u8] = b"gotd-creator";
/// The longest such file that is read: a user's name and a line feed.
const LONGEST: u64 = 1024;

/// Puts the name into a repository that nobody sees yet.
pub fn record(fs: &Fs, repository: &[u8], who: &str) -> librepo::Result<()> {
    let path = [repository, b"/", FILE].concat();
    let file = fs.create(&path, 0o666)?;
    fs.append(&file, &path, line(who).as_bytes())?;
    fs.sync_file(&file, &path)?;
    fs.sync_dir(repository)
}

/// Whether a repository was made by pushing.
pub fn is_recorded(repository: &Dir) -> bool {
    repository.stat(FILE).is_ok_and(|found| found.is_some())
}

/// Whether the repositories below `root` that somebody made are as many as `most`, or more.
pub fn has_made(root: &Walked, who: &str, most: u64) -> bool {
    let (wanted, mut left) = (line(who), most);
    each_repository(root, &mut |below| {
        let dir = Dir::within(below.found.directory, PathBuf::new(), below.found.look);
        // What cannot be read was not written by gotd.
        let text = dir.read(FILE, LONGEST).ok().flatten();
        if text.is_some_and(|text| text == wanted.as_bytes()) {
            left = left.saturating_sub(1);
        }
        left > 0
    });
    left == 0
}

fn line(who: &str) -> String {
    format!("{}\n", escape(who.as_bytes()))
}
