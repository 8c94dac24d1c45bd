//! Loose objects: one file each (`gitrepository-layout`).

use libgit::{HashKind, ObjectId, ObjectKind};

use crate::dir::{Dir, EntryType, Map};
use crate::error::{Error, Result};

/// The most entries of one fan-out directory that are listed.
const MAX_ENTRIES: usize = 10_000_000;

/// The longest header, `commit 18446744073709551615\0`, with room.
pub(crate) const MAX_HEADER: usize = 32;

/// The path of a loose object below the objects directory.
pub fn path_of(id: &ObjectId) -> String {
    let mut hex = id.to_hex();
    hex.insert(2, '/');
    hex
}

/// Maps an object's file; `None` if there is none.
pub fn map(objects: &Dir, id: &ObjectId) -> Result<Option<Map>> {
    objects.map(path_of(id).as_bytes())
}

/// Whether there is a file for the object. What cannot be looked at is not there.
pub fn contains(objects: &Dir, id: &ObjectId) -> bool {
    matches!(objects.stat(path_of(id).as_bytes()), Ok(Some((EntryType::File, _))))
}

/// Why it cannot be said whether there is a file for the object, if it cannot.
pub(crate) fn why_unknown(objects: &Dir, id: &ObjectId) -> Option<String> {
    let path = path_of(id);
    match objects.stat(path.as_bytes()) {
        Ok(None | Some((EntryType::File, _))) => None,
        Ok(Some(_)) => Some(format!("{}: not a regular file", objects.name_of(path.as_bytes()).display())),
        Err(e) => Some(e.to_string()),
    }
}

/// The ids of all loose objects of a directory, in order. Files of other names are passed over.
pub fn list(objects: &Dir, hash: HashKind) -> Result<Vec<ObjectId>> {
    let mut ids = Vec::new();
    for fan in 0..=255u8 {
        let fan = format!("{fan:02x}");
        let Some(dir) = objects.open_dir(fan.as_bytes())? else { continue };
        for (name, kind) in dir.entries(MAX_ENTRIES)? {
            let hex = [fan.as_bytes(), &name].concat();
            if let (EntryType::File, Some(id)) = (kind, ObjectId::from_hex(&hex))
                && id.kind() == hash
                && !hex.iter().any(u8::is_ascii_uppercase)
            {
                ids.push(id);
            }
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Parses the header `kind size\0`: kind, size in bytes, length of the header.
pub fn parse_header(data: &[u8]) -> Option<(ObjectKind, u64, usize)> {
    let end = data.iter().take(MAX_HEADER).position(|&byte| byte == 0)?;
    let space = data[..end].iter().position(|&byte| byte == b' ')?;
    let kind = ObjectKind::from_name(&data[..space])?;
    let digits = &data[space + 1..end];
    if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') || !digits.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    let size = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((kind, size, end + 1))
}

pub(crate) fn corrupt(id: &ObjectId, why: &'static str) -> Error {
    Error::CorruptObject(*id, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(parse_header(b"blob 12\0x"), Some((ObjectKind::Blob, 12, 8)));
        assert_eq!(parse_header(b"tree 0\0"), Some((ObjectKind::Tree, 0, 7)));
        for bad in [
            &b"blob 12"[..],
            b"blob\0",
            b"blob \0",
            b"blob 012\0",
            b"blob -1\0",
            b"blob +1\0",
            b"blob 99999999999999999999\0",
            b"thing 1\0",
            b"",
        ] {
            assert_eq!(parse_header(bad), None);
        }
    }
}
