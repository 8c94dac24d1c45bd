//! The packed-refs file, for rewriting it: lines kept as they are wherever nothing changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use libgit::{HashKind, ObjectId};

use crate::error::{Error, Result};
use crate::fs_ops::Fs;

/// What is known about the object that an id finally names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peel {
    /// It is an annotated tag of this object.
    To(ObjectId),
    /// It is not a tag.
    Nothing,
    /// Nobody looked.
    Unknown,
}

/// The content of packed-refs.
pub(super) struct Packed {
    data: Vec<u8>,
    hash: HashKind,
    /// Whether every name without a peeled value is known to have none.
    fully_peeled: bool,
    /// Where the lines begin, each with its peeled line, sorted by name.
    lines: Vec<(usize, usize)>,
    /// What changes: a new line, or none.
    changes: BTreeMap<Vec<u8>, Option<(ObjectId, Peel)>>,
}

impl Packed {
    /// Reads the file, and gives it open; one that does not exist is empty.
    pub(super) fn read(fs: &Fs, hash: HashKind, limit: u64) -> Result<(Option<File>, Packed)> {
        let (file, data) = fs.read_and_keep(b"packed-refs", limit)?.unzip();
        let packed = Packed::parse(data.unwrap_or_default(), hash)
            .ok_or(Error::Corrupt(PathBuf::from("packed-refs"), "malformed line"))?;
        Ok((file, packed))
    }

    fn parse(data: Vec<u8>, hash: HashKind) -> Option<Packed> {
        let mut at = 0;
        let (mut fully_peeled, mut sorted) = (false, false);
        let mut lines: Vec<(usize, usize)> = Vec::new();
        while at < data.len() {
            let end = data[at..].iter().position(|&byte| byte == b'\n')? + at + 1;
            let line = &data[at..end - 1];
            if line.starts_with(b"#") {
                if let Some(traits) = line.strip_prefix(b"# pack-refs with:") {
                    let has = |name: &[u8]| traits.split(|&byte| byte == b' ').any(|word| word == name);
                    (fully_peeled, sorted) = (has(b"fully-peeled"), has(b"sorted"));
                }
            } else if let Some(peeled) = line.strip_prefix(b"^") {
                ObjectId::from_hex(peeled).filter(|id| id.kind() == hash)?;
                lines.last_mut()?.1 = end;
            } else {
                let (hex, name) = line.split_at_checked(hash.hex_len())?;
                ObjectId::from_hex(hex)?;
                name.strip_prefix(b" ").filter(|name| !name.is_empty())?;
                lines.push((at, end));
            }
            at = end;
        }
        if !sorted {
            lines.sort_by(|a, b| name_of(&data, hash, a.0).cmp(name_of(&data, hash, b.0)));
        }
        Some(Packed { data, hash, fully_peeled, lines, changes: BTreeMap::new() })
    }

    fn position(&self, name: &[u8]) -> std::result::Result<usize, usize> {
        self.lines.binary_search_by(|line| name_of(&self.data, self.hash, line.0).cmp(name))
    }

    /// The value in the file.
    pub(super) fn find(&self, name: &[u8]) -> Option<ObjectId> {
        let (start, _) = *self.lines.get(self.position(name).ok()?)?;
        ObjectId::from_hex(self.data.get(start..start + self.hash.hex_len())?)
    }

    /// How many lines the file has.
    pub(super) fn line_count(&self) -> usize {
        self.data.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// Whether the new content has the name.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.changes.get(name).map_or_else(|| self.position(name).is_ok(), Option::is_some)
    }

    /// The first name in the file that is not before `name`.
    pub(super) fn first_at_or_after(&self, name: &[u8]) -> Option<&[u8]> {
        let (Ok(at) | Err(at)) = self.position(name);
        self.lines.get(at).map(|line| name_of(&self.data, self.hash, line.0))
    }

    /// Takes a name out.
    pub(super) fn remove(&mut self, name: &[u8]) {
        self.changes.insert(name.to_vec(), None);
    }

    /// Puts a name in, or changes its value.
    pub(super) fn set(&mut self, name: &[u8], id: &ObjectId, peel: Peel) {
        self.changes.insert(name.to_vec(), Some((*id, peel)));
    }

    /// Leaves of a name what the file has.
    pub(super) fn keep(&mut self, name: &[u8]) {
        self.changes.remove(name);
    }

    /// The new content.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let unknown = |change: &Option<(ObjectId, Peel)>| matches!(change, Some((_, Peel::Unknown)));
        // Without the promise readers look for themselves, which is slower and always right.
        let empty = self.lines.is_empty();
        let fully = (self.fully_peeled || empty) && !self.changes.values().any(unknown);
        let traits = if fully { "peeled fully-peeled sorted " } else { "sorted " };
        let mut out = format!("# pack-refs with: {traits}\n").into_bytes();
        out.reserve(self.data.len() + self.changes.len() * 128);
        let mut changes = self.changes.iter().peekable();
        for &(start, end) in &self.lines {
            let name = name_of(&self.data, self.hash, start);
            while let Some((before, change)) = changes.next_if(|(changed, _)| changed.as_slice() < name) {
                put(&mut out, change, before);
            }
            match changes.next_if(|(changed, _)| changed.as_slice() == name) {
                Some((name, change)) => put(&mut out, change, name),
                None => out.extend_from_slice(&self.data[start..end]),
            }
        }
        for (name, change) in changes {
            put(&mut out, change, name);
        }
        out
    }
}

fn put(out: &mut Vec<u8>, change: &Option<(ObjectId, Peel)>, name: &[u8]) {
    if let Some((id, peel)) = change {
        out.extend_from_slice(format!("{id} ").as_bytes());
        out.extend_from_slice(name);
        out.push(b'\n');
        if let Peel::To(target) = peel {
            out.extend_from_slice(format!("^{target}\n").as_bytes());
        }
    }
}

fn name_of(data: &[u8], hash: HashKind, start: usize) -> &[u8] {
    let rest = data.get(start + hash.hex_len() + 1..).unwrap_or(&[]);
    rest.split(|&byte| byte == b'\n').next().unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn parse(text: &str) -> Option<Packed> {
        Packed::parse(text.as_bytes().to_vec(), HashKind::Sha1)
    }

    #[test]
    fn changes_only_what_it_must() {
        let id = |hex: &str| ObjectId::from_hex(hex.as_bytes()).unwrap();
        let text = format!(
            "# pack-refs with: peeled fully-peeled sorted \n{A} refs/heads/b\n{A} refs/heads/d\n{A} refs/tags/t\n^{B}\n"
        );
        let mut packed = parse(&text).unwrap();
        assert_eq!(packed.find(b"refs/heads/d"), Some(id(A)));
        assert_eq!(packed.find(b"refs/heads/c"), None);
        assert_eq!(packed.first_at_or_after(b"refs/heads/c"), Some(&b"refs/heads/d"[..]));
        assert_eq!(String::from_utf8(packed.to_bytes()).unwrap(), text);
        packed.set(b"refs/heads/a", &id(B), Peel::Nothing);
        packed.set(b"refs/heads/c", &id(B), Peel::To(id(A)));
        packed.set(b"refs/heads/d", &id(B), Peel::Nothing);
        packed.set(b"refs/tags/u", &id(B), Peel::Nothing);
        packed.remove(b"refs/tags/t");
        packed.remove(b"refs/tags/none");
        let want = format!(
            "# pack-refs with: peeled fully-peeled sorted \n{B} refs/heads/a\n{A} refs/heads/b\n{B} refs/heads/c\n^{A}\n\
             {B} refs/heads/d\n{B} refs/tags/u\n"
        );
        assert_eq!(String::from_utf8(packed.to_bytes()).unwrap(), want);
    }

    #[test]
    fn an_old_unsorted_file_is_read_and_promises_no_more_than_it_did() {
        let packed = parse(&format!("{A} refs/tags/t\n^{B}\n{B} refs/heads/b\n")).unwrap();
        assert_eq!(packed.find(b"refs/heads/b").map(|id| id.to_string()).as_deref(), Some(B));
        let want = format!("# pack-refs with: sorted \n{B} refs/heads/b\n{A} refs/tags/t\n^{B}\n");
        assert_eq!(String::from_utf8(packed.to_bytes()).unwrap(), want);
    }

    #[test]
    fn a_malformed_file_is_refused_not_rewritten() {
        for bad in [
            "x",
            "x\n",
            &format!("^{A}\n"),
            &format!("{A}\n"),
            &format!("{A} refs/heads/a"),
            &format!("{A}  \n"),
        ] {
            // A name of one blank is odd but has the right shape.
            assert_eq!(parse(bad).is_none(), !bad.ends_with("  \n"), "{bad:?}");
        }
    }
}
