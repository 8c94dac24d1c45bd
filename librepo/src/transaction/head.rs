//! Making HEAD name another branch.

use std::time::Duration;

use libgit::{HashKind, RefName};

use super::staging::Top;
use super::{RefError, RefResult, Staging, TransactionOptions, Work};
use crate::fs_ops::Fs;
use crate::refs::symbolic_target;

const HEAD: &[u8] = b"HEAD";

/// Makes HEAD name `to`, if it names `from`, under git's own lock, for which it waits so long. When
/// this returns it is on the disk.
pub fn point_head(fs: &Fs, staging: &Staging, from: &RefName, to: &RefName, timeout: Duration) -> RefResult {
    let options = TransactionOptions { packed_timeout: timeout, ..TransactionOptions::default() };
    let mut work = Work::new(fs, staging, HashKind::Sha1, &options);
    work.lock_top(Top::Head)?;
    let result = replace(fs, staging, from, to);
    work.unlock_top(Top::Head);
    result
}

fn replace(fs: &Fs, staging: &Staging, from: &RefName, to: &RefName) -> RefResult {
    let now = fs.read(HEAD, 4096)?.unwrap_or_default();
    if symbolic_target(&now) != Some(from.as_bytes()) {
        return Err(RefError::Elsewhere);
    }
    let (new, file) = staging.make_top(fs, Top::Head)?;
    let text = [b"ref: ", to.as_bytes(), b"\n"].concat();
    let written = fs
        .append(&file, &new, &text)
        .and_then(|()| fs.sync_file(&file, &new))
        .and_then(|()| fs.rename(&new, HEAD));
    if let Err(e) = written {
        let _ = fs.remove(&new);
        return Err(e.into());
    }
    Ok(fs.sync_dir(b"")?)
}
