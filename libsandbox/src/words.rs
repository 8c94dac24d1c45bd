//! A stage in OpenBSD's words, as pure functions: the OpenBSD backend makes exactly these calls,
//! and tests on any system can check what each role would ask for there.

use std::path::{Path, PathBuf};

use crate::{Access, Promise, Promises, Stage};

/// One call of the OpenBSD backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// unveil(path, permissions).
    Unveil(PathBuf, String),
    /// unveil(NULL, NULL): no further unveil.
    Lock,
    /// pledge(promises, NULL).
    Pledge(String),
}

/// A stage's promise words and its unveils with their permissions. Nothing visible is `/` without
/// permissions.
#[must_use]
pub fn openbsd_words(stage: &Stage<'_>) -> (String, Vec<(PathBuf, String)>) {
    let mut unveils: Vec<(PathBuf, String)> = Vec::new();
    if let Some(paths) = stage.paths {
        unveils.extend(paths.iter().map(|v| (v.name.to_owned(), permissions(v.access))));
        if paths.is_empty() {
            unveils.push((PathBuf::from("/"), String::new()));
        }
    }
    (pledge_words(stage.promises), unveils)
}

/// Every call a stage makes on OpenBSD, in order. `earlier` holds the names that earlier stages of
/// this process made visible: those that are not in this stage are withdrawn, since unveil(2) by
/// itself only adds.
#[must_use]
pub fn openbsd_calls(stage: &Stage<'_>, earlier: &[PathBuf]) -> Vec<Call> {
    let (words, unveils) = openbsd_words(stage);
    let mut calls = Vec::new();
    if stage.paths.is_some() {
        let kept = |path: &Path| unveils.iter().any(|(name, _)| name == path);
        let withdrawn: Vec<Call> = earlier
            .iter()
            .filter(|path| !kept(path))
            .map(|path| Call::Unveil(path.clone(), String::new()))
            .collect();
        calls.extend(unveils.into_iter().map(|(path, letters)| Call::Unveil(path, letters)));
        calls.extend(withdrawn);
        if !stage.promises.has(Promise::Unveil) {
            calls.push(Call::Lock);
        }
    }
    calls.push(Call::Pledge(words));
    calls
}

/// The promises as pledge(2) knows them.
fn pledge_words(promises: Promises) -> String {
    let ours = [Promise::Accept, Promise::Bind, Promise::Narrow, Promise::Pair, Promise::Threads];
    let mut coarse = ours.into_iter().fold(promises, Promises::without);
    if promises.has(Promise::Accept) || promises.has(Promise::Bind) {
        coarse = coarse.with(Promise::Unix).with(Promise::Inet);
    }
    coarse.to_string()
}

/// Rights that unveil(2) knows only as one.
const CREATING: [Access; 4] = [Access::CREATE, Access::SOCKET, Access::FILES, Access::REMOVE_DIRECTORY];

/// The letters of unveil(2).
fn permissions(access: Access) -> String {
    let mut letters = String::new();
    for (wanted, letter) in [
        (access.has(Access::READ), 'r'),
        (access.has(Access::WRITE), 'w'),
        (access.has(Access::EXECUTE), 'x'),
        (CREATING.iter().any(|creating| access.has(*creating)), 'c'),
    ] {
        if wanted {
            letters.push(letter);
        }
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Enforcement, ResourceLimits, Visible};

    fn stage<'a>(words: &str, paths: Option<&'a [Visible<'a>]>) -> Stage<'a> {
        Stage {
            promises: words.parse().expect("words of the test"),
            paths,
            limits: ResourceLimits::UNCHANGED,
            enforcement: Enforcement::Required,
        }
    }

    #[test]
    fn finer_words_become_coarser_ones() {
        assert_eq!(openbsd_words(&stage("stdio accept narrow sendfd", None)).0, "stdio unix inet sendfd");
        assert_eq!(openbsd_words(&stage("stdio bind cpath", None)).0, "stdio cpath unix inet");
    }

    #[test]
    fn a_stage_without_paths_says_nothing_about_them() {
        assert_eq!(openbsd_calls(&stage("stdio", None), &[]), [Call::Pledge("stdio".to_owned())]);
    }

    #[test]
    fn nothing_visible_hides_the_root_and_locks() {
        assert_eq!(
            openbsd_calls(&stage("stdio", Some(&[])), &[]),
            [Call::Unveil(PathBuf::from("/"), String::new()), Call::Lock, Call::Pledge("stdio".to_owned())]
        );
    }

    #[test]
    fn a_narrower_stage_withdraws_what_it_does_not_name() {
        let repository = [Visible::named(Path::new("/srv/git/x.git"), Access::READ)];
        assert_eq!(
            openbsd_calls(&stage("stdio rpath", Some(&repository)), &[PathBuf::from("/srv/git")]),
            [
                Call::Unveil(PathBuf::from("/srv/git/x.git"), "r".to_owned()),
                Call::Unveil(PathBuf::from("/srv/git"), String::new()),
                Call::Lock,
                Call::Pledge("stdio rpath".to_owned())
            ]
        );
    }
}
