//! Reflogs: a line in a reference's own, and in HEAD's if HEAD names it.

use std::fs::File;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::{KEPT, RefResult, Update, Work, parent, trees};
use crate::error::Error;
use crate::fs_ops;

/// Namespaces whose references get a reflog when they have none, as with git's
/// `core.logAllRefUpdates`.
const LOGGED: [&[u8]; 2] = [b"refs/heads/", b"refs/notes/"];

/// One line that was written.
pub(super) struct Logged {
    file: File,
    path: Vec<u8>,
    /// Bytes before it; `None`: there was no such file.
    before: Option<u64>,
}

impl Work<'_> {
    /// Appends an update to the reflogs before it happens. Returns the written entries, so that
    /// they can be taken back if it fails.
    pub(super) fn log(&mut self, update: &Update) -> Result<Vec<Logged>, Error> {
        let Some(reflog) = &self.options.reflog else { return Ok(Vec::new()) };
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        let line = format!(
            "{} {} {} {} +0000\t{}\n",
            update.old,
            update.new,
            clean(&reflog.identity),
            reflog.seconds,
            clean(&reflog.message)
        );
        let head = self.head.get_or_insert_with(|| {
            let head = self.fs.read(b"HEAD", 4096).ok().flatten()?;
            Some(head.strip_prefix(b"ref:")?.trim_ascii().to_vec())
        });
        let of_head = self.options.head_log && update.names().any(|n| head.as_deref() == Some(n.as_bytes()));
        // A branch has one anyway if it is changed through an alias, which is a branch too.
        let create = reflog.all || LOGGED.iter().any(|space| update.name.as_bytes().starts_with(space));
        let mut logs: Vec<Vec<u8>> =
            update.names().map(|name| [b"logs/", name.as_bytes()].concat()).collect();
        logs.extend(of_head.then(|| b"logs/HEAD".to_vec()));
        let mut written = Vec::new();
        for path in &logs {
            let appended = match self.open_log(path, create) {
                Ok(None) => continue,
                Ok(Some(logged)) => {
                    let appended = self.fs.append(&logged.file, path, line.as_bytes());
                    written.push(logged);
                    appended
                }
                Err(e) => Err(e),
            };
            if let Err(e) = appended {
                // Half a line would spoil the next one.
                self.unlog(written);
                return Err(e);
            }
        }
        Ok(written)
    }

    /// Takes back what [`Work::log`] wrote. The lock on the reference keeps everybody else from
    /// these files.
    pub(super) fn unlog(&self, written: Vec<Logged>) {
        for logged in written {
            match logged.before {
                Some(length) => {
                    let _ = self.fs.cut(&logged.file, &logged.path, length);
                }
                None => {
                    let _ = self.fs.remove(&logged.path);
                    self.remove_empty_logs(&logged.path);
                }
            }
        }
    }

    /// Opens a reflog, and makes it if there is none and this is a namespace that has them.
    fn open_log(&mut self, path: &[u8], create: bool) -> Result<Option<Logged>, Error> {
        for _ in 0..2 {
            if let Some(file) = self.fs.open_append(path)? {
                let before = fstat(&file)
                    .map_err(|e| Error::Read(String::from_utf8_lossy(path).into_owned().into(), e.into()))?;
                let before = Some(before.st_size.unsigned_abs());
                return Ok(Some(Logged { file, path: path.to_vec(), before }));
            }
            if !create {
                return Ok(None);
            }
            let made = self.fs.make_parents(path).map(|made| self.made_for_log(made));
            match made.and_then(|()| self.fs.create(path, 0o666)) {
                Ok(file) => {
                    self.dirty_logs.insert(parent(path));
                    return Ok(Some(Logged { file, path: path.to_vec(), before: None }));
                }
                Err(e) if matches!(fs_ops::errno(&e), Some(Errno::ENOSPC | Errno::EDQUOT)) => return Err(e),
                // Directories of references that are gone lie in its place. A log that cannot be
                // made for any other reason is no reason to refuse what was pushed.
                Err(_) if trees::remove_empty(self.fs, path).unwrap_or(false) => {}
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A deleted reference's log goes with it.
    pub(super) fn forget_log(&mut self, name: &[u8]) {
        let log = [b"logs/", name].concat();
        if matches!(self.fs.remove(&log), Ok(true)) {
            self.dirty_logs.insert(parent(&log));
            self.remove_empty_logs(&log);
        }
    }

    fn made_for_log(&mut self, dirs: Vec<Vec<u8>>) {
        for dir in dirs {
            self.dirty_logs.insert(parent(&dir));
            self.dirty_logs.insert(dir);
        }
    }

    /// Syncs the directories of logs whose entries changed. References do not depend on them.
    pub(super) fn sync_logs(&mut self) {
        let dirty = std::mem::take(&mut self.dirty_logs);
        let _ = self.fs.sync_dirs(dirty.iter().map(Vec::as_slice));
    }

    fn remove_empty_logs(&self, log: &[u8]) {
        self.fs.remove_empty_parents(log, KEPT + 1);
    }

    /// Writes the log of an update that is committed: a log that cannot be written changes nothing
    /// about that.
    pub(super) fn log_committed(&mut self, update: &Update) {
        let _ = self.log(update);
    }

    /// Logs, then does; takes the log back if that fails.
    pub(super) fn logged(&mut self, update: &Update, act: impl FnOnce(&mut Self) -> RefResult) -> RefResult {
        let written = self.log(update)?;
        act(self).inspect_err(|_| self.unlog(written))
    }
}
