//! Owner, group and mode of everything that a push or `create` makes are those that C git gives it
//! under the same user: cgit, a group of users or a backup read the repository by them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use regress::site::UNPRIVILEGED;
use regress::sshd::{Account, make_member};
use regress::{Daemon, Site, history, run};

/// The group of shared directories.
const GROUP: &str = "audio";
const UMASKS: [&str; 6] = ["022", "027", "077", "002", "007", "000"];
/// Values of `core.sharedRepository`.
const SHARED: [&str; 17] = [
    "",
    "umask",
    "group",
    "all",
    "world",
    "everybody",
    "0640",
    "0660",
    "0600",
    "0604",
    "0666",
    "0770",
    "true",
    "false",
    "0",
    "1",
    "2",
];
/// What gets the group, of a repository.
const PLACES: [&[&str]; 5] = [&[], &["."], &["refs"], &["objects"], &["logs"]];

/// Owner, group and mode.
type Modes = (u32, u32, String);

/// Those of what lies below a directory. Names of packs are all the same.
fn modes(directory: &Path) -> BTreeMap<String, Modes> {
    let (mut found, mut stack) = (BTreeMap::new(), vec![directory.to_owned()]);
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).expect("stat");
        if meta.is_dir() {
            stack.extend(fs::read_dir(&path).expect("lists").flatten().map(|entry| entry.path()));
        }
        let name = path.strip_prefix(directory).expect("below").to_string_lossy().into_owned();
        let name = match name.rsplit_once("objects/pack/").and_then(|(above, name)| {
            let (_, end) = name.rsplit_once('.')?;
            Some(format!("{above}objects/pack/*.{end}"))
        }) {
            Some(name) => name,
            None => name,
        };
        found.insert(name, (meta.uid(), meta.gid(), format!("{:o}", meta.mode())));
    }
    found
}

/// Those that are in both, and are not equal.
fn differences(ours: &BTreeMap<String, Modes>, theirs: &BTreeMap<String, Modes>) -> Vec<String> {
    let both = ours.iter().filter_map(|(name, ours)| Some((name, ours, theirs.get(name)?)));
    both.filter(|(_, ours, theirs)| ours != theirs)
        .map(|(name, ours, theirs)| format!("{name}: {ours:?}, C git {theirs:?}"))
        .collect()
}

/// An account that repositories belong to.
struct Owner<'a> {
    site: &'a Site,
    name: String,
    number: u32,
    /// The primary group.
    group: u32,
}

impl<'a> Owner<'a> {
    fn new(site: &'a Site, name: &str) -> Owner<'a> {
        let user = User::from_name(name).expect("asks").expect("an account");
        Owner { site, name: name.to_owned(), number: user.uid.as_raw(), group: user.gid.as_raw() }
    }

    /// A program that runs C git as this account with this umask.
    fn program(&self, umask: &str, command: &str) -> PathBuf {
        let (name, group) = (&self.name, self.group);
        let text = format!(
            "#!/bin/sh\numask {umask}\nexec setpriv --reuid={name} --regid={group} --init-groups {command} \"$@\"\n"
        );
        self.site.script(&format!("{name}-{umask}-{}", command.replace(' ', "-")), &text)
    }

    /// Gives it a directory and all that is in it.
    fn give(&self, directory: &Path) {
        let owner = format!("{}:{}", self.name, self.group);
        run(self.site.command("chown").args(["-hR", &owner]).arg(directory), b"", 30).good();
    }

    /// gotd, started by root with this umask.
    fn daemon(&self, umask: &str, configuration: &str) -> Daemon {
        let ours = format!("user \"{UNPRIVILEGED}\"");
        let configuration = configuration.replacen(&ours, &format!("user \"{}\"", self.name), 1);
        let program = ["sh", "-c", "umask $0; exec \"$@\"", umask].map(str::to_owned);
        Daemon::start_through(self.site, &configuration, &program).expect("starts")
    }
}

/// Makes the directories of a repository, or of a part of it, such that what is made there gets
/// the group.
fn give_group(directory: &Path) {
    let group = Group::from_name(GROUP).expect("asks").expect("a group").gid.as_raw();
    let mut stack = vec![directory.to_owned()];
    while let Some(path) = stack.pop() {
        chown(&path, None, Some(group)).expect("changes a group");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2775)).expect("changes a mode");
        let entries = fs::read_dir(&path).expect("lists").flatten().map(|entry| entry.path());
        stack.extend(entries.filter(|path| path.is_dir()));
    }
}

/// A repository of this account, with a log that is older than its configuration.
fn make(owner: &Owner<'_>, path: &Path, shared: &str, places: &[&str]) {
    let site = owner.site;
    history::init(site, path, "--object-format=sha1");
    let mut keys = vec![("receive.unpackLimit", "1"), ("core.logAllRefUpdates", "true")];
    keys.extend((!shared.is_empty()).then_some(("core.sharedRepository", shared)));
    for (key, value) in keys {
        site.git_in(path, ["config", key, value]);
    }
    fs::create_dir_all(path.join("logs/refs/heads")).expect("makes");
    fs::write(path.join("logs/refs/heads/main"), "").expect("writes");
    owner.give(path);
    places.iter().for_each(|place| give_group(&path.join(place)));
}

/// With `MODES=all` every value of `core.sharedRepository` is tried in every place under every
/// umask; otherwise a part, in which each value of each is.
fn cases(umask: usize, other: usize) -> Vec<(&'static str, &'static [&'static str])> {
    let all = std::env::var_os("MODES").is_some();
    let mut cases = Vec::new();
    for (number, shared) in SHARED.iter().enumerate() {
        for (which, places) in PLACES.iter().enumerate() {
            if all || (number + 2 * which + 3 * umask + 5 * other).is_multiple_of(19) {
                cases.push((*shared, *places));
            }
        }
    }
    cases
}

#[test]
fn what_a_push_makes_has_the_owner_group_and_mode_that_c_git_gives_it() {
    if !regress::is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    let bare = history::repository(&site, "history.git", 8, "sha1");
    let work = site.work_tree(&bare);
    let member = Account(format!("gotdm{}", std::process::id() % 100_000));
    make_member(&member.0, "/bin/sh".as_ref(), &site.path("home"), GROUP);
    let mut wrong = Vec::new();
    // One account that may not give its files the group, and one that may, by a group that is not
    // its first.
    for (other, name) in [UNPRIVILEGED, &member.0].into_iter().enumerate() {
        let owner = Owner::new(&site, name);
        for (number, umask) in UMASKS.into_iter().enumerate() {
            let above = format!("{name}-{umask}");
            fs::create_dir_all(site.repository(&above)).expect("makes");
            owner.give(&site.path("repositories"));
            let cases = cases(number, other);
            let path = |whose: &str, case: usize| format!("{above}/{whose}-{case}.git");
            for (case, (shared, places)) in cases.iter().enumerate() {
                for whose in ["ours", "theirs"] {
                    make(&owner, &site.repository(&path(whose, case)), shared, places);
                }
            }
            let mut daemon = owner.daemon(umask, &site.serve_all());
            let receive = format!("--receive-pack={}", owner.program(umask, "git receive-pack").display());
            let pack_refs = owner.program(umask, "git pack-refs");
            for (case, (shared, places)) in cases.iter().enumerate() {
                let (ours, theirs) =
                    (site.repository(&path("ours", case)), site.repository(&path("theirs", case)));
                let told = |found: String| format!("{name} umask {umask} {shared:?} {places:?} {found}");
                for what in [
                    &["main", "main~1:refs/heads/a/b/c", "main~2:refs/tags/v1", "main~2:refs/notes/x"][..],
                    &["main~1:refs/heads/a/b/d", ":refs/tags/v1", "main~3:refs/heads/e"],
                ] {
                    let remote = format!("gotd:{}", path("ours", case));
                    site.push(&work, &[&["-q", &remote][..], what].concat()).good();
                    let remote = theirs.display().to_string();
                    site.push(&work, &[&["-q", &receive, &remote][..], what].concat()).good();
                }
                let (made, wanted) = (modes(&ours), modes(&theirs));
                for name in [
                    "refs/heads/a/b/c",
                    "logs/HEAD",
                    "logs/refs/heads/a/b/d",
                    "logs/refs/notes",
                    "objects/pack/*.pack",
                    "objects/pack/*.idx",
                ] {
                    assert!(made.contains_key(name) && wanted.contains_key(name), "{name}");
                    assert_eq!(wanted[name].0, owner.number, "{name}");
                }
                wrong.extend(differences(&made, &wanted).into_iter().map(told));
                // All at once, which gotd writes to packed-refs.
                let remote = format!("gotd:{}", path("ours", case));
                site.push(&work, &["-q", "--atomic", &remote, "main:refs/heads/x", "main:refs/heads/y"])
                    .good();
                run(site.command(&pack_refs).arg("--all").current_dir(&theirs), b"", 30).good();
                let (made, wanted) = (modes(&ours), modes(&theirs));
                assert!(made.contains_key("packed-refs") && wanted.contains_key("packed-refs"));
                wrong.extend(differences(&made, &wanted).into_iter().map(told));
            }
            daemon.assert_serves();
            daemon.stop();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_create_makes_has_the_owner_group_and_mode_that_git_init_gives_it() {
    if !regress::is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    let bare = history::repository(&site, "history.git", 3, "sha1");
    let work = site.work_tree(&bare);
    let member = Account(format!("gotdn{}", std::process::id() % 100_000));
    make_member(&member.0, "/bin/sh".as_ref(), &site.path("home"), GROUP);
    let configuration = site.serve_all().replace("\tpermit rw", "\tcreate\n\tpermit rw");
    let mut wrong = Vec::new();
    for name in [UNPRIVILEGED, &member.0] {
        let owner = Owner::new(&site, name);
        for umask in UMASKS {
            let places = [format!("plain-{name}-{umask}"), format!("shared-{name}-{umask}")];
            for place in &places {
                fs::create_dir(site.repository(place)).expect("makes");
            }
            owner.give(&site.path("repositories"));
            give_group(&site.repository(&places[1]));
            let mut daemon = owner.daemon(umask, &configuration);
            let git = owner.program(umask, "git");
            for place in &places {
                site.push(&work, &["-q", &format!("gotd:{place}/ours/sub/r"), "main:refs/heads/dev"]).good();
                let theirs = site.repository(&format!("{place}/theirs"));
                let mut init = site.command(&git);
                init.args(["init", "-q", "--bare", "--template=", "--initial-branch=dev"]);
                run(init.arg(theirs.join("sub/r.git")), b"", 30).good();
                let found = differences(&modes(&site.repository(&format!("{place}/ours"))), &modes(&theirs));
                wrong.extend(found.into_iter().map(|found| format!("{place}: {found}")));
                assert!(!site.repository(&format!("{place}/.gotd-create")).exists());
            }
            daemon.assert_serves();
            daemon.stop();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
