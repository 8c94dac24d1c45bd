//! The disk's reserve: checked before and while a pack comes in.

use std::os::fd::AsFd;

use libproto::limits::Limit;
use libproto::refusal::Refusal;
use nix::sys::statvfs::fstatvfs;

/// Fails, by a refusal that the error carries, when the file system of `file` has fewer than
/// `reserve` bytes free for ordinary users; 0: no reserve.
pub fn check_reserve(file: impl AsFd, reserve: u64) -> std::io::Result<()> {
    if reserve == 0 {
        return Ok(());
    }
    let stat = fstatvfs(file)?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free < reserve {
        let text = format!("disk: {free} bytes free, {reserve} are reserved");
        return Err(Refusal::Limit(Limit::DiskReserve, text).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_no_disk_has_is_told_with_its_directive() {
        let file = tempfile::tempfile().expect("a file");
        assert!(check_reserve(&file, 0).is_ok());
        let refused = check_reserve(&file, u64::MAX).expect_err("no disk has so much");
        assert_eq!(Refusal::carried_by(&refused).and_then(Refusal::limit), Some(Limit::DiskReserve));
        let text = refused.to_string();
        let free = text.strip_prefix("disk: ").and_then(|rest| {
            rest.strip_suffix(" bytes free, 18446744073709551615 are reserved (limit disk reserve)")
        });
        assert!(free.is_some_and(|free| free.parse::<u64>().is_ok()), "{text}");
    }
}
