//! Reading gotd.conf and gotd-secrets.conf: files with their owners and modes, names, and paths.
//!
//! The one place where the parser of [`crate::conf`] meets the system. Role `config` runs it in
//! its own process, `gotctl explain -c` in its own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libproto::message::parent::OwnDirectory;
use librepo::place::{self, Foreign, Stopped, Trust, Walked, Why};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::conf::bounded::bound;
use crate::conf::error::ConfigError;
use crate::conf::model::{Config, Position, Repository, RepositoryKind, Secret};
use crate::conf::parser::Parsed;
use crate::conf::resolve::{NameService, complaint, resolve};
use crate::conf::source::{FILE_MAX, FILES_MAX, FileError, Loader, matches, split_last};
use crate::conf::{parse, secrets, subuid};
use crate::os::passwd::System;

/// Where gotd.conf is when nothing is said.
pub const DEFAULT_PATH: &str = "/etc/gotd.conf";
/// The secrets file where none is given; it need not exist.
pub const DEFAULT_SECRETS: &str = "/etc/gotd-secrets.conf";

/// Most findings of each kind that are shown.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Errors.
    pub errors: usize,
    /// Warnings.
    pub warnings: usize,
    /// Notes.
    pub notes: usize,
}

impl Most {
    /// For somebody who asks whether a configuration is good.
    pub const OF_CHECK: Most = Most { errors: 400, warnings: 400, notes: 400 };
    /// For the log, and for gotctl, whose answer has to fit into the buffer of a socket.
    pub const OF_START: Most = Most { errors: 100, warnings: 100, notes: 20 };

    /// Most lines about errors and warnings, with those that say how many more there are.
    pub const fn lines(self) -> usize {
        self.errors + self.warnings + 2
    }
}

/// A configuration that was read, checked and resolved. What it was found to be is not bounded yet:
/// see [`Loaded::bound`].
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, to be used only if there are no errors.
    pub config: Config,
    /// What is wrong.
    pub errors: Vec<ConfigError>,
    /// Warnings: the text is valid, but may not mean what was intended.
    pub warnings: Vec<ConfigError>,
    /// How many warnings there are besides these.
    pub more_warnings: usize,
    /// Notes about places.
    pub notes: Vec<ConfigError>,
    /// The directories that blocks are about, as far as they are there.
    pub directories: Vec<OwnDirectory>,
}

/// Reads a configuration from the file system, with the system's users and groups, and walks to the
/// places that it names. Without a path for the secrets the default file is read if it exists.
pub fn load(path: &Path, secrets_path: Option<&Path>) -> Loaded {
    let mut loaded = read(path, secrets_path);
    resolve_places(&mut loaded);
    loaded
}

/// Reads the configuration as [`load`] does, but does not walk to its places.
pub fn read(path: &Path, secrets_path: Option<&Path>) -> Loaded {
    let texts = (path.to_str(), secrets_path.map(Path::to_str));
    match texts {
        (Some(path), None) => load_with(path, None, &mut System),
        (Some(path), Some(Some(secrets))) => load_with(path, Some(secrets), &mut System),
        _ => {
            let error = ConfigError::whole(&path.to_string_lossy(), "expected paths in UTF-8");
            Loaded { errors: vec![error], ..Loaded::of(Config::empty()) }
        }
    }
}

/// Reads and parses files and does nothing else: no names are looked up, and neither secrets nor
/// repositories.
pub fn read_only(path: &str) -> Parsed {
    let mut files = Files { main: path, warnings: Vec::new() };
    parse(path, &mut files)
}

/// As [`read`], with users and groups from elsewhere.
fn load_with(path: &str, secrets_path: Option<&str>, names: &mut dyn NameService) -> Loaded {
    let mut files = Files { main: path, warnings: Vec::new() };
    let parsed = parse(path, &mut files);
    let (mut config, mut errors, mut warnings) = (parsed.config, parsed.errors, parsed.warnings);
    warnings.splice(0..0, files.warnings);
    overflow_ids(&mut config);
    match read_secrets(secrets_path) {
        Ok(secrets) => config.secrets = secrets,
        Err(more) => errors.extend(more),
    }
    // Names are resolved even if something was wrong before, so that one run finds all errors.
    let findings = resolve(&mut config, names);
    errors.extend(findings.errors);
    warnings.extend(findings.warnings);
    read_subuid(&mut config, names, &mut warnings);
    Loaded { errors, warnings, more_warnings: parsed.more_warnings, ..Loaded::of(config) }
}

impl Loaded {
    /// A configuration of which nothing is known yet.
    pub fn of(config: Config) -> Loaded {
        Loaded {
            config,
            errors: Vec::new(),
            warnings: Vec::new(),
            more_warnings: 0,
            notes: Vec::new(),
            directories: Vec::new(),
        }
    }

    /// Leaves no more than so many findings, and says of each kind how many more there are: ten
    /// thousand repositories that do not exist yet need no line each. Comes last: what is found
    /// later is not bounded.
    pub fn bound(&mut self, most: Most) {
        for (list, most, besides, kind) in [
            (&mut self.errors, most.errors, 0, "errors"),
            (&mut self.warnings, most.warnings, self.more_warnings, "warnings"),
            (&mut self.notes, most.notes, 0, "notes"),
        ] {
            bound(list, most, |more| {
                ConfigError::whole("", format!("{} more {kind} are not shown", more + besides))
            });
        }
    }
}

/// Opens a regular file for reading; whatever else it is, it cannot make this process wait.
fn open_regular(path: &str) -> Result<(File, std::fs::Metadata), FileError> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = open.map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => unreadable(e),
        _ => FileError::Io(e),
    })?;
    let meta = file.metadata()?;
    if meta.is_file() { Ok((file, meta)) } else { Err(FileError::NotRegular) }
}

/// A file that this process may not read, and who it is.
fn unreadable(error: std::io::Error) -> FileError {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |u| u.name);
    let group = nix::unistd::Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |g| g.name);
    FileError::Unreadable { error, user, group }
}

fn read_bounded(file: File, most: usize) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > most { Err(FileError::TooLarge(most)) } else { Ok(bytes) }
}

/// Whether only root, or the user who runs this, can have written a file.
fn trusted_owner(meta: &std::fs::Metadata) -> bool {
    let me = nix::unistd::geteuid().as_raw();
    meta.uid() == 0 || meta.uid() == me
}

struct Files<'p> {
    main: &'p str,
    warnings: Vec<ConfigError>,
}

impl Loader for Files<'_> {
    fn load(&mut self, path: &str) -> Result<Vec<u8>, FileError> {
        let (file, meta) = open_regular(path)?;
        let loose = meta.mode() & 0o022 != 0;
        if path == self.main {
            // C gotd checks nothing here, so this is no error.
            if meta.mode() & 0o002 != 0 {
                self.warnings.push(ConfigError::whole(path, "anybody can write to this file"));
            }
        } else if !trusted_owner(&meta) {
            return Err(FileError::Foreign);
        } else if loose {
            return Err(FileError::Loose);
        }
        read_bounded(file, FILE_MAX)
    }

    fn expand(&mut self, pattern: &str) -> Result<Vec<String>, FileError> {
        let (directory, last) = split_last(pattern);
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut found = Vec::new();
        for entry in entries.take(FILES_MAX.saturating_mul(10)) {
            let name = entry?.file_name();
            let Ok(name) = std::str::from_utf8(name.as_bytes()) else { continue };
            if matches(last, name) {
                found.push(format!("{}/{name}", directory.trim_end_matches('/')));
            }
        }
        found.sort();
        if found.len() > FILES_MAX { Err(FileError::TooMany) } else { Ok(found) }
    }
}

fn read_secrets(path: Option<&str>) -> Result<Vec<Secret>, Vec<ConfigError>> {
    let (path, required) = path.map_or((DEFAULT_SECRETS, false), |path| (path, true));
    let fail = |message: String| vec![ConfigError::whole(path, message)];
    if !required && !std::fs::exists(path).unwrap_or(false) {
        return Ok(Vec::new());
    }
    let (file, meta) = match open_regular(path) {
        Ok(opened) => opened,
        // An unprivileged daemon has no business with the system's secrets.
        Err(_) if !required && !nix::unistd::geteuid().is_root() => return Ok(Vec::new()),
        Err(error) => return Err(fail(error.to_string())),
    };
    if !trusted_owner(&meta) {
        return Err(fail(FileError::Foreign.to_string()));
    }
    // C gotd's rule: a group may read it, and that is all.
    if meta.mode() & 0o037 != 0 {
        return Err(fail("expected a file that others cannot read, nor its group write".to_owned()));
    }
    let bytes = read_bounded(file, secrets::SECRETS_FILE_MAX).map_err(|error| fail(error.to_string()))?;
    secrets::parse(path, &bytes)
}

/// Reads which users have which subordinate uids, where the system has that. A file that cannot be
/// read keeps nobody from being served.
fn read_subuid(config: &mut Config, names: &mut dyn NameService, warnings: &mut Vec<ConfigError>) {
    if !std::fs::exists(subuid::PATH).unwrap_or(true) {
        return;
    }
    match open_regular(subuid::PATH).and_then(|(file, _)| read_bounded(file, subuid::FILE_MAX)) {
        Ok(text) => subuid::take(&text, config, names, warnings),
        Err(e) => {
            let text = format!("{e}: each subordinate uid counts as a user of its own");
            warnings.push(ConfigError::whole(subuid::PATH, text));
        }
    }
}

/// Walks to the configured places, as each request does it. A place that is not there yet is a
/// warning, as for C gotd.
pub fn resolve_places(loaded: &mut Loaded) {
    let Loaded { config, errors, warnings, notes, directories, .. } = loaded;
    let mut repositories = std::mem::take(&mut config.repositories);
    let trust = trust(config);
    let mut foreign: Vec<(Foreign, Position, usize)> = Vec::new();
    let mut known: HashMap<PathBuf, usize> = HashMap::new();
    for (number, block) in (0..).zip(&mut repositories).filter(|(_, block)| !block.path.is_empty()) {
        let (place, begins) = match place::walk(Path::new(&block.path), trust) {
            Ok(walked) => {
                directories.extend(own_directories(number, block, &walked));
                (walked.path, walked.foreign)
            }
            Err(stopped) => {
                let list = if is_admins(&stopped) { &mut *errors } else { &mut *warnings };
                let why = match stopped.why {
                    Why::Absent => format!("{}: {}", block.path, std::io::Error::from(Errno::ENOENT)),
                    _ => stopped.to_string(),
                };
                list.push(complaint(config, block.at, why));
                if stopped.exists.parent().is_none() {
                    let text = format!(
                        "{}: not even its first directory is there: what comes there later is served after a reload",
                        block.path
                    );
                    notes.push(complaint(config, block.at, text));
                }
                (stopped.place(), stopped.foreign)
            }
        };
        match place.into_os_string().into_string() {
            Ok(place) => block.place = place,
            Err(_) => {
                let message = format!("{}: expected a path in UTF-8", block.path);
                errors.push(complaint(config, block.at, message));
            }
        }
        let Some(begins) = begins else { continue };
        match known.get(&begins.path).and_then(|&index| foreign.get_mut(index)) {
            Some((.., blocks)) => *blocks += 1,
            None => {
                known.insert(begins.path.clone(), foreign.len());
                foreign.push((begins, block.at, 1));
            }
        }
    }
    for (begins, at, blocks) in &foreign {
        let Foreign { path, uid, mode } = begins;
        let mut changers = Vec::new();
        if *uid != 0 && *uid != trust.uid {
            changers.push(config.name_of(*uid));
        }
        for (bit, name) in [(0o020, "its group"), (0o002, "everybody")] {
            changers.extend((mode & bit != 0).then(|| name.to_owned()));
        }
        let more = match blocks - 1 {
            0 => String::new(),
            n => format!(", and so for {n} more blocks"),
        };
        let text = format!(
            "{} (owner {}, mode {mode:04o}): {} can change what lies there; what this block serves there is served all the \
             same, but no symbolic link is followed and no mount point crossed{more}",
            path.display(),
            config.name_of(*uid),
            changers.join(" and "),
        );
        notes.push(complaint(config, *at, text));
    }
    config.repositories = repositories;
}

/// Directories of the user that the daemon works as are trusted.
pub fn trust(config: &Config) -> Trust {
    let me = nix::unistd::geteuid();
    let daemon = config.user.as_ref().and_then(|user| user.ids).map(|(uid, _)| uid);
    Trust { uid: daemon.filter(|_| me.is_root()).unwrap_or_else(|| me.as_raw()) }
}

/// Whether it is nobody's doing but the administrator's that a path leads nowhere. What others can
/// change must not keep a daemon from its start.
fn is_admins(stopped: &Stopped) -> bool {
    // Errors in the path itself. Other errors may come from a file system that is mounted there; if
    // they were fatal, its user could keep the daemon from starting.
    let system = |errno| matches!(errno, Errno::EINVAL | Errno::ENAMETOOLONG);
    stopped.foreign.is_none()
        && match stopped.why {
            Why::TooManyLinks => true,
            Why::System(errno) => system(errno),
            Why::Absent | Why::NotADirectory | Why::Link | Why::Mount | Why::UserSpace => false,
        }
}

/// The directories that a block is about.
fn own_directories(number: u32, block: &Repository, walked: &Walked) -> Vec<OwnDirectory> {
    let one = block.kind == RepositoryKind::One;
    let own = |walked: &Walked, worktree, stays| OwnDirectory {
        block: number,
        id: crate::repo::find::directory_id(walked.inode),
        worktree,
        stays,
    };
    // A later request may find another directory there: a mounted disk, a repository made anew, the
    // new target of a link.
    let stays = !one
        && walked.path.components().eq(Path::new(&block.path).components())
        && !walked.is_mount_point()
        && holds_anything(walked);
    let worktree = walked.child(b".git").ok().filter(|_| one);
    [Some(own(walked, false, stays)), worktree.map(|inner| own(&inner, true, false))]
        .into_iter()
        .flatten()
        .collect()
}

/// Whether a directory is not empty.
fn holds_anything(walked: &Walked) -> bool {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = nix::dir::Dir::openat(&walked.directory, ".", flags, Mode::empty());
    let is_plain = |entry: nix::dir::Entry| !matches!(entry.file_name().to_bytes(), b"." | b"..");
    opened.is_ok_and(|mut dir| dir.iter().flatten().any(is_plain))
}

fn overflow_ids(config: &mut Config) {
    let read = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    if let Some(uid) = read("/proc/sys/kernel/overflowuid") {
        config.overflow_uid = uid;
    }
    if let Some(gid) = read("/proc/sys/kernel/overflowgid") {
        config.overflow_gid = gid;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) -> String {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn texts(list: &[ConfigError]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn read(path: &str, secrets: Option<&str>) -> Loaded {
        load(Path::new(path), secrets.map(Path::new))
    }

    #[test]
    fn includes_are_sorted_and_must_be_the_owners_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let place = dir.path().to_str().unwrap().to_owned();
        std::fs::create_dir(at("d")).unwrap();
        let main = write(&at("gotd.conf"), &format!("include \"{place}/d/*.conf\"\n"), 0o644);
        for name in ["b", "a", ".hidden"] {
            let text = format!("repository \"{name}x\" {{\n path \"{place}\"\n}}\n");
            write(&at("d").join(format!("{name}.conf")), &text.replace(".hiddenx", "hidden"), 0o644);
        }
        let loaded = read(&main, Some(&write(&at("secrets"), "", 0o600)));
        assert_eq!(texts(&loaded.errors), [""; 0]);
        let names: Vec<String> = loaded.config.repositories.iter().map(|r| r.display_name()).collect();
        assert_eq!(names, ["ax", "bx"]);
        write(&at("d/b.conf"), "", 0o664);
        let loaded = read(&main, None);
        let expected =
            format!("{main}:1:9: {place}/d/b.conf: expected a file that only its owner can write to");
        assert_eq!(texts(&loaded.errors), [expected]);
    }

    #[test]
    fn secrets_must_be_secret() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        let text = format!(
            "repository \"r\" {{\n path \"{place}/none\"\n notify url https://example.org/ auth flan hmac key\n}}\n"
        );
        let main = write(&dir.path().join("gotd.conf"), &text, 0o644);
        let secrets = dir.path().join("secrets");
        let good = "auth flan user flan password password\nhmac key c2VjcmV0\n";
        let loaded = read(&main, Some(&write(&secrets, good, 0o640)));
        assert_eq!(texts(&loaded.errors), [""; 0]);
        assert!(texts(&loaded.warnings)[1].ends_with("/none: No such file or directory (os error 2)"));
        for mode in [0o644, 0o660, 0o604, 0o602] {
            let path = write(&secrets, good, mode);
            let loaded = read(&main, Some(&path));
            let first = format!("{path}: expected a file that others cannot read, nor its group write");
            assert_eq!(texts(&loaded.errors)[0], first);
        }
        let loaded = read(&main, Some(&write(&secrets, "hmac key x\n", 0o600)));
        assert_eq!(
            texts(&loaded.errors),
            [format!("{main}:3:9: no auth secret \"flan\" in gotd-secrets.conf")]
        );
    }

    #[test]
    fn odd_files_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        for (path, error) in [
            (fifo.to_str().unwrap(), "not a regular file"),
            (dir.path().to_str().unwrap(), "not a regular file"),
            ("/dev/zero", "not a regular file"),
            ("/nonexistent/gotd.conf", "No such file or directory (os error 2)"),
        ] {
            assert_eq!(texts(&read(path, None).errors)[0], format!("{path}: {error}"));
        }
    }
}
