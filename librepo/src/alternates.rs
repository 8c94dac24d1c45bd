//! Object directories that a repository borrows from (`objects/info/alternates`,
//! `gitrepository-layout`).
//!
//! An alternates file is part of a repository. A user who may write there can name any place in it,
//! and the server would read that place for that user: one line and one commit id were enough to
//! read a repository that denies the reader (CVE-2022-39253 is of this kind). So a line is only a
//! wish. Each place is walked to (see [`place`](crate::place)), and [`Lender`] says whether it may
//! be borrowed from, before anything in it is opened, at each level.
//!
//! All of this happens before a process narrows its sandbox: [`resolve`] gives directories, the
//! sandbox gets a rule for each, and [`Options::alternates`](crate::repository::Options) takes
//! them.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::dir::{Dir, EntryType};
use crate::error::{Error, Result};
use crate::mounts::Look;
use crate::place::{self, Inode, Stopped, Trust, Walked};

/// How many alternates may lead from one to the next, as with C git.
pub const MAX_DEPTH: usize = 5;
/// How many object directories one repository may borrow from.
pub const MAX_ALTERNATES: usize = 64;
/// Most bytes of all their paths and of the directories on the way: they travel in one message.
pub const MAX_PATHS: usize = 12_000;
/// Bytes that one directory takes there.
pub const DIRECTORY_BYTES: usize = 28;
/// The largest alternates file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Lines that are looked at, of all files: each costs a walk.
const MAX_LINES: usize = 128;
/// Components of one line, and its length in bytes: each component costs a step of the walk.
const MAX_COMPONENTS: usize = 128;
const MAX_LINE: usize = 4096;

/// Why objects may be missing where alternates were left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Something may not be borrowed from.
    Refused,
    /// All lines may be followed, and a place is not there.
    Absent,
}

/// What may be done with a place that an alternates file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lending {
    /// It may be borrowed from.
    Yes,
    /// The same, if the marker file of git-daemon stands in its repository.
    IfExported,
    /// It may not: the reason, for the log.
    No(String),
}

/// Decides which places may be borrowed from.
pub trait Lender {
    /// Answers about the places of one level, for each of them.
    fn ask(&mut self, places: &[AlternatePlace<'_>]) -> Vec<Lending>;

    /// Whether to walk to this path, which is as its line in the alternates file has it. Anybody
    /// may have written that line, and the walk may lead to a file system that never answers. A
    /// process that serves one client loses only that client, so the default is yes.
    fn is_walked_to(&mut self, _path: &Path) -> bool {
        true
    }
}

/// A place that is asked about.
#[derive(Clone, Debug)]
pub struct AlternatePlace<'p> {
    /// The path of an object directory as walked, and of an absent one where it would be.
    pub path: &'p Path,
    /// That directory, its parent and so on; empty for an absent directory.
    pub directories: &'p [Inode],
}

/// An object directory to borrow from.
#[derive(Debug)]
pub struct Alternate {
    /// Its path as walked.
    pub path: PathBuf,
    /// It itself, opened (`O_PATH`).
    pub dir: OwnedFd,
    /// How what is in it is opened.
    pub look: Look,
}

/// What a repository borrows from.
#[derive(Debug, Default)]
pub struct Alternates {
    /// The directories, in the order in which objects are looked for: those of the repository's own
    /// file first.
    pub dirs: Vec<Alternate>,
    /// The directories that were left out, with the reason, for the log.
    pub refused: Vec<(PathBuf, String)>,
    /// Something was left out that may not be borrowed from.
    denied: bool,
}

/// One file of alternates to be read.
struct Source {
    objects: Dir,
    path: PathBuf,
}

/// A place that a line names, before it is known whether it may be used.
struct AlternateLine {
    path: PathBuf,
    /// The result of the walk; nothing there is opened yet.
    found: std::result::Result<Walked, Stopped>,
    directories: Vec<Inode>,
}

/// Resolves the alternates of an objects directory, those of its alternates included. `path` is the
/// place of `objects` as walked, for the sake of relative lines, `look` how what is in it is
/// opened.
///
/// A line that may not be used, or that leads nowhere, in a circle or too deep, is left out and
/// told in [`Alternates::refused`].
///
/// # Errors
/// The repository's own file cannot be read, or the lender does not answer.
pub fn resolve(
    objects: BorrowedFd<'_>,
    look: Look,
    path: &Path,
    trust: Trust,
    lender: &mut dyn Lender,
) -> Result<Alternates> {
    let own = objects.try_clone_to_owned().map_err(|e| Error::Open("objects".into(), e))?;
    let own = Source { objects: Dir::within(own, "objects", look), path: path.to_owned() };
    let mut search =
        Search { trust, found: Alternates::default(), seen: vec![path.to_owned()], lines: 0, bytes: 0 };
    let mut wishes = search.wishes(&own, 0, lender)?;
    for depth in 1..=MAX_DEPTH {
        if wishes.is_empty() {
            break;
        }
        let next = search.granted(std::mem::take(&mut wishes), lender)?;
        for source in &next {
            match search.wishes(source, depth, lender) {
                Ok(more) => wishes.extend(more),
                Err(why) => search.found.refuse(source.path.clone(), &why.to_string()),
            }
        }
    }
    Ok(search.found)
}

struct Search {
    trust: Trust,
    found: Alternates,
    seen: Vec<PathBuf>,
    lines: usize,
    bytes: usize,
}

impl Search {
    /// The places that the lines of a file name, without those named before.
    fn wishes(
        &mut self,
        source: &Source,
        depth: usize,
        lender: &mut dyn Lender,
    ) -> Result<Vec<AlternateLine>> {
        let Some(text) = source.objects.read(b"info/alternates", MAX_FILE)? else { return Ok(Vec::new()) };
        let mut wishes = Vec::new();
        for line in parse(&text) {
            self.lines += 1;
            if self.lines > MAX_LINES {
                self.found.refuse(source.path.clone(), "too many lines in alternates files");
                break;
            }
            let Some(line) = line else {
                self.found.refuse(source.path.clone(), "bad quotes in its alternates file");
                continue;
            };
            if line.len() > MAX_LINE || line.iter().filter(|&&byte| byte == b'/').count() > MAX_COMPONENTS {
                self.found.refuse(source.path.clone(), "too long a line in its alternates file");
                continue;
            }
            let Some(path) = plain(&source.path.join(Path::new(std::ffi::OsStr::from_bytes(&line)))) else {
                self.found.refuse(
                    source.path.clone(),
                    "a line in its alternates file leads above the root directory",
                );
                continue;
            };
            if depth >= MAX_DEPTH {
                self.found.refuse(path, "alternates nested too deep");
                continue;
            }
            if !lender.is_walked_to(&path) {
                self.found.refuse(path, "not in a place of gotd.conf");
                continue;
            }
            let wish = match place::walk(&path, self.trust) {
                Ok(walked) => {
                    let directories = walked.directories();
                    AlternateLine { path: walked.path.clone(), found: Ok(walked), directories }
                }
                Err(stopped) => {
                    AlternateLine { path: stopped.place(), found: Err(stopped), directories: Vec::new() }
                }
            };
            // Named twice or in a circle: once is enough.
            if self.seen.contains(&wish.path) {
                continue;
            }
            self.bytes = self
                .bytes
                .saturating_add(wish.path.as_os_str().len() + DIRECTORY_BYTES * wish.directories.len());
            if self.seen.len() > MAX_ALTERNATES || self.bytes > MAX_PATHS {
                self.found.refuse(wish.path, "too many alternates");
                break;
            }
            self.seen.push(wish.path.clone());
            wishes.push(wish);
        }
        Ok(wishes)
    }

    /// The places of one level that may be used. The lender is asked about absent places, too: a
    /// client that may not read a place must not learn from the time whether it exists.
    fn granted(&mut self, wishes: Vec<AlternateLine>, lender: &mut dyn Lender) -> Result<Vec<Source>> {
        let places: Vec<AlternatePlace<'_>> = wishes
            .iter()
            .map(|AlternateLine { path, directories, .. }| AlternatePlace { path, directories })
            .collect();
        let answers = lender.ask(&places);
        if answers.len() != wishes.len() {
            return Err(Error::Limit("alternates: an answer for each was expected".into()));
        }
        let mut next = Vec::new();
        for (AlternateLine { path, found, .. }, answer) in wishes.into_iter().zip(answers) {
            let walked = match (answer, found) {
                (Lending::No(why), _) => {
                    self.found.refuse(path, &why);
                    continue;
                }
                (Lending::Yes, Err(why)) => {
                    self.found.absent(path, &why.to_string());
                    continue;
                }
                // Without the marker it would not be lent.
                (Lending::IfExported, Err(why)) => {
                    self.found.refuse(path, &why.to_string());
                    continue;
                }
                (Lending::IfExported, Ok(walked)) if !is_exported(&walked) => {
                    self.found.refuse(path, "no git-daemon-export-ok");
                    continue;
                }
                (Lending::Yes | Lending::IfExported, Ok(walked)) => walked,
            };
            match walked.directory.try_clone() {
                Ok(dir) => {
                    let look = walked.look();
                    let objects = Dir::within(dir, "alternate/objects", look);
                    next.push(Source { objects, path: path.clone() });
                    self.found.dirs.push(Alternate { path, dir: walked.directory, look });
                }
                Err(e) => self.found.refuse(path, &e.to_string()),
            }
        }
        Ok(next)
    }
}

/// Whether the marker file of git-daemon stands beside an objects directory.
fn is_exported(objects: &Walked) -> bool {
    objects.entry("../git-daemon-export-ok") == Some(EntryType::File)
}

/// A path without `..`, read as C git reads such a line: as text, before anything is looked at. If
/// each `..` were walked back from the place that the name before it leads to, the message about a
/// line would tell whether that name exists.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir if !plain.pop() => return None,
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    Some(plain)
}

/// Whether a repository has a file of alternates at all.
///
/// # Errors
/// It lies behind a mount point that others may have made.
pub fn has_any(directory: &OwnedFd, look: Look) -> Result<bool> {
    let path = "objects/info/alternates";
    match look.at(directory, path) {
        Err(Errno::ENOENT) => Ok(false),
        Err(Errno::EXDEV) => Err(Error::Corrupt(path.into(), "behind a mount point, which is not crossed")),
        _ => Ok(true),
    }
}

impl Alternates {
    /// Whether a place was left out, so that objects may be missing. Only a client that may read a
    /// place learns that it is absent; for others an absent place looks like a forbidden one.
    pub fn withheld(&self) -> Option<Withheld> {
        let why = if self.denied { Withheld::Refused } else { Withheld::Absent };
        (!self.refused.is_empty()).then_some(why)
    }

    fn refuse(&mut self, path: PathBuf, why: &str) {
        self.denied = true;
        self.absent(path, why);
    }

    fn absent(&mut self, path: PathBuf, why: &str) {
        if self.refused.len() < MAX_ALTERNATES {
            self.refused.push((path, why.to_owned()));
        }
    }
}

/// The lines of an alternates file: comments left out, quotes taken off; `None` for one with bad
/// quotes.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Option<Vec<u8>>> + '_ {
    let lines = text.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).map(|line| {
        match line.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted),
            None => Some(line.to_vec()),
        }
    })
}

/// Undoes C git's quoting, after the opening quote.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut bytes = text.iter().copied();
    loop {
        match bytes.next()? {
            b'"' => return bytes.next().is_none().then_some(plain),
            b'\\' => plain.push(match bytes.next()? {
                b'a' => 7,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                byte @ (b'\\' | b'"') => byte,
                high @ b'0'..=b'3' => {
                    let mut digit =
                        || bytes.next().filter(|digit| (b'0'..=b'7').contains(digit)).map(|d| d - b'0');
                    ((high - b'0') << 6) | (digit()? << 3) | digit()?
                }
                _ => return None,
            }),
            byte => plain.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    /// Lends what lies below one directory and is not named `denied`; notes what it was asked.
    struct Below {
        root: PathBuf,
        asked: Vec<Vec<PathBuf>>,
        /// What it does not want to be walked to.
        not: Option<PathBuf>,
    }

    impl Lender for Below {
        fn ask(&mut self, places: &[AlternatePlace<'_>]) -> Vec<Lending> {
            self.asked.push(places.iter().map(|place| place.path.to_owned()).collect());
            let of = |place: &Path| match place.strip_prefix(&self.root) {
                Ok(below) if below.starts_with("denied") => Lending::No("denied".into()),
                Ok(below) if below.starts_with("exported") => Lending::IfExported,
                Ok(_) => Lending::Yes,
                Err(_) => Lending::No("elsewhere".into()),
            };
            places.iter().map(|place| of(place.path)).collect()
        }

        fn is_walked_to(&mut self, path: &Path) -> bool {
            !self.not.as_ref().is_some_and(|not| path.starts_with(not))
        }
    }

    fn found(root: &Path) -> (Alternates, Vec<Vec<PathBuf>>) {
        let objects = root.join("a/objects");
        let mut lender = Below { root: root.to_owned(), asked: Vec::new(), not: None };
        let opened: OwnedFd = fs::File::open(&objects).unwrap().into();
        let found =
            resolve(opened.as_fd(), Look::ANYWHERE, &objects, Trust::of_process(), &mut lender).unwrap();
        (found, lender.asked)
    }

    /// The alternates of `root/a/objects`, as names below `root`, and the number refused.
    fn names(root: &Path) -> (Vec<String>, usize) {
        let (found, _) = found(root);
        let name = |other: Alternate| other.path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (found.dirs.into_iter().map(name).collect(), found.refused.len())
    }

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap().join("root");
        for name in ["a", "b", "c", "d", "e", "f", "g", "denied", "exported"] {
            fs::create_dir_all(root.join(name).join("objects/info")).unwrap();
        }
        fs::create_dir_all(temp.path().join("outside/objects")).unwrap();
        (temp, root)
    }

    fn write(root: &Path, of: &str, text: &str) {
        fs::write(root.join(of).join("objects/info/alternates"), text).unwrap();
    }

    #[test]
    fn relative_absolute_and_quoted_lines_are_followed() {
        let (_temp, root) = tree();
        write(
            &root,
            "a",
            &format!(
                "# comment\n../../b/objects\n{}\n\"../../\\144/objects\"\n",
                root.join("c/objects").display()
            ),
        );
        write(&root, "c", "../../e/objects/\n");
        assert_eq!(
            names(&root),
            (["b/objects", "c/objects", "d/objects", "e/objects"].map(str::to_owned).to_vec(), 0)
        );
        // One question for each level.
        assert_eq!(found(&root).1.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn circles_and_repetitions_end() {
        let (_temp, root) = tree();
        write(&root, "a", "../../b/objects\n../../b/objects\n../objects\n");
        write(&root, "b", "../../c/objects\n");
        write(&root, "c", "../../a/objects\n../../b/objects\n");
        assert_eq!(names(&root), (["b/objects", "c/objects"].map(str::to_owned).to_vec(), 0));
    }

    #[test]
    fn the_sixth_level_is_refused() {
        let (_temp, root) = tree();
        for (from, to) in ["a", "b", "c", "d", "e", "f"].iter().zip(["b", "c", "d", "e", "f", "g"]) {
            write(&root, from, &format!("../../{to}/objects\n"));
        }
        let (dirs, refused) = names(&root);
        assert_eq!((dirs.len(), refused), (5, 1));
        assert_eq!(found(&root).1.len(), 5, "nobody is asked about the sixth");
    }

    /// At any depth.
    #[test]
    fn what_is_not_to_be_walked_to_is_not_asked_about_either() {
        let (_temp, root) = tree();
        write(&root, "a", "../../b/objects\n../../b/../c/objects\n");
        write(&root, "b", "../../c/objects\n../../d/objects\n");
        let mut lender = Below { root: root.clone(), asked: Vec::new(), not: Some(root.join("c")) };
        let objects = root.join("a/objects");
        let opened: OwnedFd = fs::File::open(&objects).unwrap().into();
        let trust = Trust::of_process();
        let found = resolve(opened.as_fd(), Look::ANYWHERE, &objects, trust, &mut lender).unwrap();
        assert_eq!(lender.asked, [[root.join("b/objects")], [root.join("d/objects")]]);
        assert_eq!(found.withheld(), Some(Withheld::Refused));
        assert_eq!(found.refused.len(), 2);
    }

    #[test]
    fn what_is_not_lent_is_not_read() {
        let (_temp, root) = tree();
        write(&root, "a", "../../denied/objects\n../../absent/objects\n../../b/objects\n");
        // Who were to read this would ask about it.
        write(&root, "denied", "../../c/objects\n");
        let (found, asked) = found(&root);
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0][1], root.join("absent/objects"), "asked about though it is not there");
        assert_eq!(found.withheld(), Some(Withheld::Refused));
        assert_eq!(found.dirs.len(), 1);
        assert_eq!(found.refused[0], (root.join("denied/objects"), "denied".to_owned()));
        assert!(found.refused[1].1.ends_with("no such directory"), "{:?}", found.refused[1]);
    }

    /// What may be read may be said to be absent; beside anything that may not be, nothing is told.
    #[test]
    fn that_a_place_is_absent_is_told_only_of_what_may_be_read() {
        let (_temp, root) = tree();
        assert_eq!(found(&root).0.withheld(), None);
        write(&root, "a", "../../absent/objects\n../../b/objects\n");
        assert_eq!(found(&root).0.withheld(), Some(Withheld::Absent));
        write(&root, "a", "../../absent/objects\n../../denied/objects\n");
        assert_eq!(found(&root).0.withheld(), Some(Withheld::Refused));
        write(&root, "a", "../../denied/absent/objects\n");
        assert_eq!(found(&root).0.withheld(), Some(Withheld::Refused));
    }

    /// Whoever writes such a line does not learn from what comes of it whether a name is there.
    #[test]
    fn the_way_back_is_read_as_text() {
        let (_temp, root) = tree();
        write(&root, "a", "../../absent/deeper/../../b/objects\n/../c/objects\n../../../root/d/objects\n");
        let (found, _) = found(&root);
        let dirs: Vec<_> = found.dirs.iter().map(|other| other.path.clone()).collect();
        assert_eq!(dirs, [root.join("b/objects"), root.join("d/objects")]);
        assert_eq!(found.refused.len(), 1);
        fs::create_dir_all(root.join("absent/deeper")).unwrap();
        assert_eq!(names(&root).0, ["b/objects", "d/objects"]);
    }

    #[test]
    fn what_must_be_exported_is_looked_at() {
        let (_temp, root) = tree();
        write(&root, "a", "../../exported/objects\n");
        assert_eq!(names(&root), (vec![], 1));
        symlink("/etc/passwd", root.join("exported/git-daemon-export-ok")).unwrap();
        assert_eq!(names(&root), (vec![], 1));
        fs::remove_file(root.join("exported/git-daemon-export-ok")).unwrap();
        fs::write(root.join("exported/git-daemon-export-ok"), "").unwrap();
        assert_eq!(names(&root), (vec!["exported/objects".to_owned()], 0));
    }

    #[test]
    fn very_many_lines_cost_little() {
        let (_temp, root) = tree();
        let lines: String = (0..20_000).map(|n| format!("../../x{n}/objects\n")).collect();
        write(&root, "a", &format!("{}\n{lines}", "../a/".repeat(100_000)));
        let (found, asked) = found(&root);
        assert!(found.withheld().is_some() && found.dirs.is_empty());
        assert!(asked.iter().map(Vec::len).sum::<usize>() <= MAX_ALTERNATES);
    }

    #[test]
    fn nothing_outside_of_what_is_lent() {
        let (_temp, root) = tree();
        let outside = root.parent().unwrap().join("outside");
        symlink(&outside, root.join("link")).unwrap();
        symlink(outside.join("objects"), root.join("d/objects/out")).unwrap();
        for line in [
            "../../../outside/objects",
            "../../link/objects",
            "../../d/objects/out",
            "../../link",
            outside.join("objects").to_str().unwrap(),
            "../../../../../../../../../../../../etc",
            "../../b/../../outside/objects",
            "../../none/objects",
            "\"../../b/objects",
            "a\0b",
        ] {
            write(&root, "a", line);
            assert_eq!(names(&root), (vec![], 1), "{line}");
        }
    }
}
