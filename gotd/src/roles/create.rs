//! `create`: makes one repository below a `repositories` directory.
//!
//! Duty: an empty repository under a name that a permitted push asked for and that nothing has. It
//! is made in a directory that no client can name, written to disk, and then renamed into place,
//! replacing nothing. So a crash leaves no half repository under its name; leftovers in the other
//! directory are removed by the next `create` process. Waits on: the parent, once. Talks to: the
//! parent alone.
//!
//! **Invariant:** sees that one directory, and never a client's descriptor. Of a client it knows
//! only the requested name, which `RepoName` has checked and which is checked again here, component
//! by component.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libproto::channel::{Channel, Received};
use libproto::message::parent::{Build, CreateRules, CreateStart, CreateToParent, Created, ParentToCreate};
use libproto::names::RepoName;
use libproto::refusal::{NewName, Refusal};
use librepo::config::Shared;
use librepo::create;
use librepo::dir::Dir;
use librepo::fs_ops::Fs;
use librepo::mounts::Look;
use librepo::place::{Walked, Why};
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::geteuid;

use crate::conf::limits::Limit;
use crate::os::free_space::check_reserve;
use crate::os::system;
use crate::os::to_parent::send;
use crate::repo::find::{self, is_in_repository};
use crate::repo::made_by;
use crate::roles::job_error::JobError;

/// From the first message on.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Rpath, Promise::Wpath, Promise::Cpath, Promise::Fattr])
        .calls(Calls::Create);
/// Where repositories are made, in the `repositories` directory itself: no name of a client's
/// starts with a dot. Where something else has that name, a directory of this name and 16 random
/// digits.
const STAGING: &[u8] = b".gotd-create";
/// Prefix, followed by 16 digits, of the entries there: repositories that are being made, and
/// leftovers of crashes.
const MADE: &str = "new-";
const LEFT: &str = "left-";
const DIGITS: usize = 16;
/// Directories on the way to a new repository.
const MOST_LEVELS: usize = 8;
/// Bytes of a name in a directory.
const LONGEST: usize = 255;
/// What crashes may have left: more is not looked at.
const MOST_LEFT: usize = 1000;
/// The largest file it writes is a few lines.
const FILE_SIZE: u64 = 4096;

type Parent = Channel<CreateToParent, ParentToCreate>;

/// Runs the role.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), JobError> {
    let parent = Parent::from(parent);
    let start = match parent.recv() {
        Ok(Received { message: ParentToCreate::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    let root = find::root(&start.path, &start.place).map_err(JobError::NoDirectory)?;
    let visible = [Visible::opened(root.directory.as_fd(), &root.path, Access::READ_WRITE_CREATE)];
    let limits = ResourceLimits { fsize: Some(FILE_SIZE), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&visible), limits, enforcement })?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("create", WORK);
    send(&parent, 0, &CreateToParent::Hello(Build { id: crate::BUILD.into() }));
    let done = make(&root, &start).unwrap_or_else(Created::Failed);
    send(&parent, 0, &CreateToParent::Done(done));
    Ok(())
}

/// Why a repository cannot be made.
#[derive(Debug)]
enum MakeError {
    /// There is no directory to make it in.
    Staging(Errno),
    /// It cannot be written, or the directories on the way to it cannot be made.
    Repository(librepo::Error),
    /// It cannot be given its name.
    Name(io::Error),
}

impl fmt::Display for MakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MakeError::Staging(e) => write!(f, ".gotd-create: {e}"),
            MakeError::Repository(e) => e.fmt(f),
            MakeError::Name(e) => e.fmt(f),
        }
    }
}

/// Makes the repository below `root`. An error is for the client, and names nothing outside of
/// `root`.
fn make(root: &Walked, start: &CreateStart) -> Result<Created, Refusal> {
    let CreateStart { name, who, rules: CreateRules { reserve, most }, .. } = start;
    if let Some(answer) = look(root, name) {
        return Ok(answer);
    }
    let text = |e: &dyn std::fmt::Display| Refusal::Internal(format!("{name}: cannot be created: {e}"));
    check_reserve(&root.directory, *reserve)
        .map_err(|e| Refusal::carried_by(&e).cloned().unwrap_or_else(|| Refusal::Internal(e.to_string())))?;
    if *most > 0 && made_by::has_made(root, who, *most) {
        let text = format!("{name}: cannot be created: you have made {most} repositories here");
        return Err(Refusal::Limit(Limit::RepositoriesPerUser, text));
    }
    let directory = root.directory.try_clone().map_err(|e| text(&e))?;
    let fs = Fs::new(directory, Shared::Umask).within(root.look());
    let above = nearest(&fs, &name.with_suffix(), root.look()).map_err(|e| text(&e))?;
    let beside = above.as_ref().unwrap_or(&fs);
    let staging = Staging::open(beside, root.look()).map_err(|e| text(&e))?;
    let staged = fresh(MADE).into_bytes();
    let done = create::empty(&staging.fs, &staged).and_then(|()| made_by::record(&staging.fs, &staged, who));
    let done =
        done.map_err(MakeError::Repository).and_then(|()| put(&fs, &staging, &staged, &name.with_suffix()));
    if !matches!(done, Ok(Created::Made)) {
        // Whatever remains is removed by the next `create` process.
        let _ = create::remove_tree(&staging.fs, &staged);
    }
    let _ = beside.remove_dir(&staging.name);
    done.map_err(|e| text(&e))
}

/// The nearest directory above a new repository, if what is made there gets another group than what
/// is made in the root: what git makes has that group.
fn nearest(fs: &Fs, name: &[u8], look: Look) -> librepo::Result<Option<Fs>> {
    let group = |dir: BorrowedFd<'_>| {
        let stat = fstat(dir).map_err(|e| librepo::Error::Io(e.into()))?;
        Ok::<_, librepo::Error>((stat.st_mode & 0o2000 != 0).then_some(stat.st_gid))
    };
    let mut above = name;
    while let Some(slash) = above.iter().rposition(|b| *b == b'/') {
        above = &above[..slash];
        if fs.stat(above)?.is_some() {
            let directory = fs.open_dir(above)?;
            let other = group(directory.as_fd())? != group(fs.root())?;
            return Ok(other.then(|| Fs::new(directory, Shared::Umask).within(look)));
        }
    }
    Ok(None)
}

/// A name in a directory of our own that nothing has.
fn fresh(kind: &str) -> String {
    format!("{kind}{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// The directory in which a repository is made. It belongs to the daemon alone: otherwise a user
/// who may write in the `repositories` directory could put something else there. From then on it is
/// used by its descriptor, whatever is renamed.
struct Staging {
    name: Vec<u8>,
    fs: Fs,
}

impl Staging {
    fn open(root: &Fs, look: Look) -> Result<Staging, MakeError> {
        if let Ok(directory) = own_directory(root, look, STAGING)
            && let Ok(copy) = directory.try_clone()
        {
            let staging =
                Staging { name: STAGING.to_vec(), fs: Fs::new(directory, Shared::Umask).within(look) };
            staging.sweep(copy.as_fd());
            return Ok(staging);
        }
        let name = [STAGING, fresh("-").as_bytes()].concat();
        let directory = own_directory(root, look, &name).map_err(MakeError::Staging)?;
        Ok(Staging { name, fs: Fs::new(directory, Shared::Umask).within(look) })
    }

    /// Removes what crashes left, and nothing else: a repository may have been moved here under any
    /// other name.
    fn sweep(&self, directory: BorrowedFd<'_>) {
        // Without a listing nothing is swept, and the next one tries again.
        let listed = directory.try_clone_to_owned().ok().map(|fd| Dir::new(fd, "").entries(MOST_LEFT));
        let names = listed.and_then(Result::ok).unwrap_or_default();
        for (name, _) in names.into_iter().filter(|(name, _)| is_ours(name)) {
            // A directory of repositories that clients made, which merely has such a name and was
            // moved here.
            let inside = self.fs.list(&name, MOST_LEFT).unwrap_or_default();
            if inside.iter().any(|(name, _)| name.ends_with(b".git")) {
                continue;
            }
            // Under another name first: should its owner be alive after all, it cannot give its own
            // name to half of it.
            let left = fresh(LEFT);
            if system::rename_new(directory, &name, directory, left.as_bytes()).is_ok() {
                let _ = create::remove_tree(&self.fs, left.as_bytes());
            }
        }
    }
}

/// Whether it is a name that we give.
fn is_ours(name: &[u8]) -> bool {
    let digits = [MADE, LEFT].iter().find_map(|kind| name.strip_prefix(kind.as_bytes()));
    digits.is_some_and(|digits| {
        digits.len() == DIGITS && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Opens a directory that is the daemon's and that nobody else may write in, and makes it if there
/// is nothing of that name.
fn own_directory(root: &Fs, look: Look, name: &[u8]) -> Result<OwnedFd, Errno> {
    match mkdirat(root.root(), name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // Even to ask for its owner would be to ask the server of somebody's file system, which may
    // never answer.
    let directory = look.open(root.root(), name, flags, Mode::empty())?;
    let found = fstatat(&directory, "", AtFlags::AT_EMPTY_PATH)?;
    let others_write = Mode::from_bits_truncate(found.st_mode).intersects(Mode::S_IWGRP | Mode::S_IWOTH);
    if found.st_uid != geteuid().as_raw() || others_write {
        return Err(Errno::EPERM);
    }
    openat(&directory, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Checks that the name is allowed here and free. `None`: it is.
fn look(root: &Walked, name: &RepoName) -> Option<Created> {
    let refused = |why| Some(Created::Refused(Refusal::NewName(why)));
    let whole = name.with_suffix();
    let components: Vec<&[u8]> = whole.split(|b| *b == b'/').collect();
    let (_, parents) = components.split_last()?;
    if parents.len() > MOST_LEVELS {
        return refused(NewName::TooDeep);
    }
    if components.iter().any(|c| c.len() > LONGEST) {
        return refused(NewName::TooLong);
    }
    if components.iter().any(|c| c.is_empty() || c.starts_with(b".") || c.contains(&0)) {
        return refused(NewName::Dot);
    }
    // Such a directory would block the name of a repository for everybody.
    if parents.iter().any(|c| c.to_ascii_lowercase().ends_with(b".git")) {
        return refused(NewName::DotGit);
    }
    let Ok(mut at) = root.try_clone() else {
        return refused(NewName::NoDescriptor);
    };
    for parent in parents {
        if is_in_repository(&at) {
            return refused(NewName::Inside);
        }
        match at.child(parent) {
            Ok(next) => at = next,
            Err(Why::Absent) => return None,
            Err(_) => return refused(NewName::NoDirectory),
        }
    }
    if is_in_repository(&at) {
        return refused(NewName::Inside);
    }
    let last = |name: &[u8]| name.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
    let spellings = [last(&whole), last(name.without_suffix()), last(name.as_bytes())];
    spellings.iter().any(|name| at.is_taken(name)).then_some(Created::Exists)
}

/// Gives a repository that is on the disk its name, and makes the directories on the way there.
fn put(fs: &Fs, staging: &Staging, staged: &[u8], name: &[u8]) -> Result<Created, MakeError> {
    let made = fs.make_parents(name).map_err(MakeError::Repository)?;
    let split = name.iter().rposition(|b| *b == b'/');
    let (parent, last) = split.map_or((&b""[..], name), |at| (&name[..at], &name[at + 1..]));
    let give = || -> std::io::Result<()> {
        let other = |e: librepo::Error| std::io::Error::other(e.to_string());
        for dir in &made {
            let above = dir.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &dir[..at]);
            fs.sync_dir(above).map_err(other)?;
        }
        let to = match parent {
            b"" => None,
            parent => Some(fs.open_dir(parent).map_err(other)?),
        };
        let to = to.as_ref().map_or(fs.root(), AsFd::as_fd);
        system::rename_new(staging.fs.root(), staged, to, last)?;
        // From here on the repository is there. If the directory cannot be synced, the push that
        // follows will report it.
        let _ = fs.sync_dir(parent);
        Ok(())
    };
    let done = give();
    if done.is_err() {
        for dir in made.iter().rev() {
            let _ = fs.remove_dir(dir);
        }
    }
    match done {
        Ok(()) => Ok(Created::Made),
        Err(e) if matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::EEXIST | Errno::ENOTEMPTY)) => {
            Ok(Created::Exists)
        }
        Err(e) => Err(MakeError::Name(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Place(tempfile::TempDir);

    fn mode(path: &std::path::Path, bits: u32) {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(bits))
            .expect("changes a mode");
    }

    impl Place {
        fn new() -> Place {
            Place(tempfile::tempdir().expect("a directory"))
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(name)
        }

        fn create(&self, name: &str) -> Created {
            self.create_for("git/alice", name, 0)
        }

        fn create_for(&self, who: &str, name: &str, most: u64) -> Created {
            let name = RepoName::parse(name.as_bytes()).expect("a name");
            let rules = CreateRules { reserve: 0, most };
            let start = CreateStart { path: Vec::new(), place: Vec::new(), name, who: who.into(), rules };
            make(&self.walk(), &start).unwrap_or_else(Created::Failed)
        }

        fn walk(&self) -> Walked {
            let path = self.0.path().canonicalize().expect("a path");
            librepo::place::walk(&path, librepo::place::Trust::of_process()).expect("walks")
        }

        /// Everything in the directory itself.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.path()).expect("lists").flatten();
            let mut names: Vec<String> =
                entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn either_spelling_makes_the_one_repository() {
        let place = Place::new();
        assert_eq!(place.create("a"), Created::Made);
        assert_eq!(place.create("b.git"), Created::Made);
        assert_eq!(place.create("team/sub/c"), Created::Made);
        for there in ["a", "a.git", "b", "b.git", "team/sub/c.git"] {
            assert_eq!(place.create(there), Created::Exists, "{there}");
        }
        assert!(place.path("team/sub/c.git/HEAD").is_file());
        assert_eq!(place.names(), ["a.git", "b.git", "team"]);
    }

    #[test]
    fn whatever_has_a_name_that_could_mean_it_stays() {
        let place = Place::new();
        fs::create_dir(place.path("plain")).expect("makes");
        fs::write(place.path("file"), "").expect("writes");
        std::os::unix::fs::symlink("/nowhere", place.path("link.git")).expect("links");
        for there in ["plain", "plain.git", "file", "link"] {
            assert_eq!(place.create(there), Created::Exists, "{there}");
        }
        assert_eq!(place.names(), ["file", "link.git", "plain"]);
    }

    #[test]
    fn names_that_no_repository_may_get() {
        let place = Place::new();
        assert_eq!(place.create("r"), Created::Made);
        fs::create_dir_all(place.path("work")).expect("makes");
        fs::rename(place.path("r.git"), place.path("work/.git")).expect("renames");
        assert_eq!(place.create("r"), Created::Made);
        fs::rename(place.path("r.git"), place.path("bare")).expect("renames");
        std::os::unix::fs::symlink("work", place.path("link")).expect("links");
        fs::write(place.path("file"), "").expect("writes");
        for name in [
            ".hidden",
            "a/.hidden",
            ".gotd-create/x",
            "new.git/x",
            "New.GIT/x",
            "bare/x",
            "bare/refs/heads/x",
            "work/x",
            "work/sub/x",
            "link/x",
            "file/x",
            "1/2/3/4/5/6/7/8/9/x",
        ] {
            // Some are no names at all.
            if RepoName::parse(name.as_bytes()).is_ok() {
                assert!(matches!(place.create(name), Created::Refused(_)), "{name}");
            }
        }
        assert_eq!(place.names(), ["bare", "file", "link", "work"]);
        assert_eq!(place.create("1/2/3/4/5/6/7/8/x"), Created::Made);
    }

    #[test]
    fn what_a_crash_left_is_removed_by_the_next() {
        let place = Place::new();
        fs::create_dir_all(place.path(".gotd-create/new-0123456789abcdef/objects/pack")).expect("makes");
        fs::write(place.path(".gotd-create/new-0123456789abcdef/HEAD"), "ref").expect("writes");
        fs::create_dir_all(place.path(".gotd-create/left-fedcba9876543210")).expect("makes");
        mode(&place.path(".gotd-create"), 0o700);
        assert_eq!(place.create("x"), Created::Made);
        assert_eq!(place.names(), ["x.git"]);
    }

    /// In a directory that a group shares anybody of it may give a repository, or what he likes,
    /// that name.
    #[test]
    fn what_was_moved_to_the_place_of_half_made_ones_stays() {
        let place = Place::new();
        for (number, bits) in [(1, 0o755), (2, 0o700), (3, 0o777)] {
            assert_eq!(place.create("bob"), Created::Made);
            fs::rename(place.path("bob.git"), place.path(".gotd-create")).expect("moves");
            mode(&place.path(".gotd-create"), bits);
            // Not even what looks like ours, in a directory that is open to others.
            fs::create_dir(place.path(".gotd-create/new-0123456789abcdef")).expect("makes");
            assert_eq!(place.create(&format!("x{number}")), Created::Made);
            assert!(
                place.path(".gotd-create/HEAD").is_file() && place.path(".gotd-create/refs/heads").is_dir()
            );
            assert_eq!(place.path(".gotd-create/new-0123456789abcdef").exists(), bits == 0o777);
            fs::remove_dir_all(place.path(".gotd-create")).expect("removes");
        }
        assert_eq!(place.create("team/new-0123456789abcdef/bob"), Created::Made);
        fs::rename(place.path("team"), place.path(".gotd-create")).expect("moves");
        assert_eq!(place.create("x4"), Created::Made);
        assert!(place.path(".gotd-create/new-0123456789abcdef/bob.git/HEAD").is_file());
        fs::remove_dir_all(place.path(".gotd-create")).expect("removes");
        let file = place.path(".gotd-create");
        fs::write(&file, "bob's").expect("writes");
        assert_eq!(place.create("d/x"), Created::Made);
        std::os::unix::fs::symlink(place.path("d"), place.path("link")).expect("links");
        fs::remove_file(&file).expect("removes");
        fs::rename(place.path("link"), &file).expect("moves");
        assert_eq!(place.create("d/y"), Created::Made);
        assert_eq!(place.names(), [".gotd-create", "d", "x1.git", "x2.git", "x3.git", "x4.git"]);
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let place = Place::new();
        let rules = CreateRules { reserve: u64::MAX, most: 0 };
        let name = RepoName::parse(b"x").expect("a name");
        let start = CreateStart { path: Vec::new(), place: Vec::new(), name, who: "alice".into(), rules };
        let full = make(&place.walk(), &start);
        assert!(full.is_err_and(|refusal| refusal.to_string().contains("limit disk reserve")));
        assert_eq!(place.names(), Vec::<String>::new());
    }

    #[test]
    fn a_user_makes_so_many_and_others_as_many() {
        let place = Place::new();
        let create = |who, name| place.create_for(who, name, 2);
        for (who, name, made) in [
            ("git/alice", "one", true),
            ("git/alice", "a/b/two", true),
            ("git/alice", "three", false),
            ("alice", "three", true),
            // What is there is told, whoever asks.
            ("git/alice", "three", true),
        ] {
            let done = create(who, name);
            assert_eq!(!matches!(done, Created::Failed(_)), made, "{who} {name}: {done:?}");
        }
        assert_eq!(place.names(), ["a", "one.git", "three.git"]);
        fs::remove_file(place.path("one.git/gotd-creator")).expect("removes");
        assert_eq!(create("git/alice", "four"), Created::Made);
    }
}
