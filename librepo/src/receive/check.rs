//! The checks of git-fsck(1) on objects that come in, by git's own message ids.
//!
//! What git's `receive.fsckObjects` refuses by default is refused here by default: git's errors,
//! and its warnings too, since it checks incoming packs strictly. Its infos (a tag without tagger,
//! odd modes) are let through. A repository may tolerate kinds of mistakes that its old history
//! contains.

use std::fmt;

use libgit::{HashKind, ObjectId};

use super::dotgit;

macro_rules! messages {
    ($($(#[$doc:meta])* $variant:ident $name:literal $fatal:literal;)*) => {
        /// A kind of mistake in an object, as git-fsck(1) names them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs, reason = "git's own names, explained in git-fsck(1)")]
        pub enum Message { $($variant),* }

        impl Message {
            const ALL: &'static [(&'static str, Message, bool)] = &[$(($name, Message::$variant, $fatal)),*];
        }
    };
}

// The last column: may never be tolerated, because the object could not be followed any more.
messages! {
    BadTree "badTree" true;
    MissingTree "missingTree" true;
    BadTreeSha1 "badTreeSha1" true;
    BadParentSha1 "badParentSha1" true;
    MissingObject "missingObject" true;
    BadObjectSha1 "badObjectSha1" true;
    MissingTypeEntry "missingTypeEntry" true;
    MissingType "missingType" true;
    BadType "badType" true;
    MissingTagEntry "missingTagEntry" true;
    MissingTag "missingTag" true;
    NulInHeader "nulInHeader" true;
    UnterminatedHeader "unterminatedHeader" true;
    BadDate "badDate" false;
    BadDateOverflow "badDateOverflow" false;
    BadEmail "badEmail" false;
    BadName "badName" false;
    BadTimezone "badTimezone" false;
    BadGpgsig "badGpgsig" false;
    BadHeaderContinuation "badHeaderContinuation" false;
    DuplicateEntries "duplicateEntries" false;
    MissingAuthor "missingAuthor" false;
    MissingCommitter "missingCommitter" false;
    MissingEmail "missingEmail" false;
    MissingNameBeforeEmail "missingNameBeforeEmail" false;
    MissingSpaceBeforeDate "missingSpaceBeforeDate" false;
    MissingSpaceBeforeEmail "missingSpaceBeforeEmail" false;
    MultipleAuthors "multipleAuthors" false;
    TreeNotSorted "treeNotSorted" false;
    ZeroPaddedDate "zeroPaddedDate" false;
    NulInCommit "nulInCommit" false;
    FullPathname "fullPathname" false;
    HasDot "hasDot" false;
    HasDotdot "hasDotdot" false;
    HasDotgit "hasDotgit" false;
    LargePathname "largePathname" false;
    NullSha1 "nullSha1" false;
    ZeroPaddedFilemode "zeroPaddedFilemode" false;
    GitattributesLarge "gitattributesLarge" false;
    GitattributesLineLength "gitattributesLineLength" false;
    GitattributesBlob "gitattributesBlob" false;
    GitattributesMissing "gitattributesMissing" false;
    GitmodulesLarge "gitmodulesLarge" false;
    GitmodulesBlob "gitmodulesBlob" false;
    GitmodulesMissing "gitmodulesMissing" false;
    GitmodulesName "gitmodulesName" false;
    GitmodulesPath "gitmodulesPath" false;
    GitmodulesSymlink "gitmodulesSymlink" false;
    GitmodulesUpdate "gitmodulesUpdate" false;
    GitmodulesUrl "gitmodulesUrl" false;
    // Let through by git too; listed so that a configuration may name them.
    BadFilemode "badFilemode" false;
    BadTagName "badTagName" false;
    EmptyName "emptyName" false;
    GitattributesSymlink "gitattributesSymlink" false;
    GitignoreSymlink "gitignoreSymlink" false;
    GitmodulesParse "gitmodulesParse" false;
    MailmapSymlink "mailmapSymlink" false;
    MissingTaggerEntry "missingTaggerEntry" false;
    ExtraHeaderEntry "extraHeaderEntry" false;
}

impl Message {
    /// Git's word for it, as in `receive.fsck.<msg-id>`.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, message, _)| *message == self).map_or("", |(name, ..)| name)
    }

    /// The kind of that name, in any case, as git's configuration has it.
    pub fn from_name(name: &str) -> Option<Message> {
        Self::ALL.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)).map(|(_, message, _)| *message)
    }

    /// Whether it may be tolerated: not where the object could no longer be followed to what it
    /// names.
    pub fn tolerable(self) -> bool {
        Self::ALL.iter().any(|(_, message, fatal)| *message == self && !fatal)
    }

    /// Git lets these pass even where it checks strictly.
    fn info(self) -> bool {
        use Message::*;
        matches!(
            self,
            BadFilemode
                | BadTagName
                | GitattributesSymlink
                | GitignoreSymlink
                | GitmodulesParse
                | MailmapSymlink
                | MissingTaggerEntry
                | ExtraHeaderEntry
        )
    }

    fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

const _: () = assert!(Message::ALL.len() <= 64, "a policy is one word of bits");

/// Which mistakes are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    tolerated: u64,
}

impl Default for Policy {
    /// What git's `receive.fsckObjects = true` does.
    fn default() -> Policy {
        let infos = Message::ALL.iter().filter(|(_, message, _)| message.info());
        Policy { tolerated: infos.fold(0, |bits, (_, message, _)| bits | message.bit()) }
    }
}

impl Policy {
    /// Tolerates everything that may be tolerated: git without `receive.fsckObjects`.
    pub fn lenient() -> Policy {
        let tolerable = Message::ALL.iter().filter(|(_, message, _)| message.tolerable());
        Policy { tolerated: tolerable.fold(0, |bits, (_, message, _)| bits | message.bit()) }
    }

    /// Tolerates one kind from now on. Gives false, and changes nothing, for one that may not be.
    pub fn tolerate(&mut self, message: Message) -> bool {
        if message.tolerable() {
            self.tolerated |= message.bit();
        }
        message.tolerable()
    }

    /// Refuses one kind from now on.
    pub fn refuse(&mut self, message: Message) {
        self.tolerated &= !message.bit();
    }

    /// Whether this kind is let through.
    pub fn tolerates(&self, message: Message) -> bool {
        self.tolerated & message.bit() != 0
    }

    fn report(&self, message: Message, text: &'static str) -> Result<(), Problem> {
        if self.tolerates(message) { Ok(()) } else { Err(Problem { message, text }) }
    }
}

/// A mistake that is not tolerated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Its kind.
    pub message: Message,
    /// Git's explanation.
    pub text: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message.name(), self.text)
    }
}

/// Checks the content of a commit.
pub fn commit(policy: &Policy, data: &[u8], hash: HashKind) -> Result<(), Problem> {
    use Message::*;
    headers(policy, data)?;
    let Some(rest) = data.strip_prefix(b"tree ") else {
        return policy.report(MissingTree, "invalid format - expected 'tree' line");
    };
    let Some(mut rest) = id_and_newline(rest, hash) else {
        return policy.report(BadTreeSha1, "invalid 'tree' line format - bad sha1");
    };
    while let Some(parent) = rest.strip_prefix(b"parent ") {
        let Some(after) = id_and_newline(parent, hash) else {
            return policy.report(BadParentSha1, "invalid 'parent' line format - bad sha1");
        };
        rest = after;
    }
    let mut authors = 0_u32;
    while let Some(author) = rest.strip_prefix(b"author ") {
        authors = authors.saturating_add(1);
        rest = ident(policy, author)?;
    }
    match authors {
        0 => policy.report(MissingAuthor, "invalid format - expected 'author' line")?,
        1 => {}
        _ => policy.report(MultipleAuthors, "invalid format - multiple 'author' lines")?,
    }
    match rest.strip_prefix(b"committer ") {
        Some(committer) => {
            ident(policy, committer)?;
        }
        None => return policy.report(MissingCommitter, "invalid format - expected 'committer' line"),
    }
    if data.contains(&0) {
        policy.report(NulInCommit, "NUL byte in the commit object body")?;
    }
    Ok(())
}

/// Checks the content of a tag.
pub fn tag(policy: &Policy, data: &[u8], hash: HashKind) -> Result<(), Problem> {
    use Message::*;
    headers(policy, data)?;
    let Some(rest) = data.strip_prefix(b"object ") else {
        return policy.report(MissingObject, "invalid format - expected 'object' line");
    };
    let Some(rest) = id_and_newline(rest, hash) else {
        return policy.report(BadObjectSha1, "invalid 'object' line format - bad sha1");
    };
    let Some(rest) = rest.strip_prefix(b"type ") else {
        return policy.report(MissingTypeEntry, "invalid format - expected 'type' line");
    };
    let Some((kind, rest)) = line(rest) else {
        return policy.report(MissingType, "invalid format - unexpected end after 'type' line");
    };
    if libgit::ObjectKind::from_name(kind).is_none() {
        return policy.report(BadType, "invalid 'type' value");
    }
    let Some(rest) = rest.strip_prefix(b"tag ") else {
        return policy.report(MissingTagEntry, "invalid format - expected 'tag' line");
    };
    let Some((name, mut rest)) = line(rest) else {
        return policy.report(MissingTag, "invalid format - unexpected end after 'type' line");
    };
    if libgit::RefName::parse_for_update(&[b"refs/tags/", name].concat()).is_err() {
        policy.report(BadTagName, "invalid 'tag' name")?;
    }
    match rest.strip_prefix(b"tagger ") {
        Some(tagger) => rest = ident(policy, tagger)?,
        None => policy.report(MissingTaggerEntry, "invalid format - expected 'tagger' line")?,
    }
    if rest.starts_with(b"gpgsig ") || rest.starts_with(b"gpgsig-sha256 ") {
        let Some((_, after)) = line(rest) else {
            return policy.report(BadGpgsig, "invalid format - unexpected end after 'gpgsig' line");
        };
        rest = after;
        while rest.starts_with(b" ") {
            let Some((_, after)) = line(rest) else {
                return policy
                    .report(BadHeaderContinuation, "invalid format - unexpected end in continuation line");
            };
            rest = after;
        }
    }
    if !rest.is_empty() && !rest.starts_with(b"\n") {
        policy.report(ExtraHeaderEntry, "invalid format - extra header(s) after 'tagger'")?;
    }
    Ok(())
}

/// What a tree holds besides plain entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    /// A file that git will read as `.gitmodules`.
    Modules,
    /// A file that git will read as `.gitattributes`.
    Attributes,
}

/// Checks the content of a tree. Calls `entry` with mode and id of every entry, and `special` with
/// the files whose content needs a look of its own.
pub fn tree(
    policy: &Policy,
    data: &[u8],
    hash: HashKind,
    mut entry: impl FnMut(u32, &[u8]),
    mut special: impl FnMut(Special, &[u8]),
) -> Result<(), Problem> {
    use Message::*;
    const BAD: Problem = Problem { message: BadTree, text: "cannot be parsed as a tree" };
    let mut flags = 0_u64;
    let mut order = Order::default();
    let mut rest = data;
    while !rest.is_empty() {
        let (mode, after_mode) = mode(rest).ok_or(BAD)?;
        if rest[0] == b'0' {
            flags |= ZeroPaddedFilemode.bit();
        }
        let end = find_nul(after_mode).ok_or(BAD)?;
        let name = &after_mode[..end];
        let (id, after) = after_mode[end + 1..].split_at_checked(hash.len()).ok_or(BAD)?;
        // git takes an empty name for a tree that cannot be parsed.
        if name.is_empty() {
            return Err(BAD);
        }
        flags |= name_flags(name);
        if id.iter().all(|&byte| byte == 0) {
            flags |= NullSha1.bit();
        }
        if dotgit::suspicious(name) {
            flags |= special_names(name, mode, |kind| special(kind, id));
        }
        if !matches!(mode, 0o100_755 | 0o100_644 | 0o120_000 | 0o040_000 | 0o160_000) {
            flags |= BadFilemode.bit();
        }
        flags |= order.next(mode, name);
        entry(mode, id);
        rest = after;
    }
    let bad = flags & !policy.tolerated;
    if bad == 0 {
        return Ok(());
    }
    for (message, text) in [
        (GitmodulesSymlink, ".gitmodules is a symbolic link"),
        (NullSha1, "contains entries pointing to null sha1"),
        (FullPathname, "contains full pathnames"),
        (HasDot, "contains '.'"),
        (HasDotdot, "contains '..'"),
        (HasDotgit, "contains '.git'"),
        (ZeroPaddedFilemode, "contains zero-padded file modes"),
        (BadFilemode, "contains bad file modes"),
        (DuplicateEntries, "contains duplicate file entries"),
        (TreeNotSorted, "not properly sorted"),
        (LargePathname, "contains excessively large pathname"),
    ] {
        if bad & message.bit() != 0 {
            return Err(Problem { message, text });
        }
    }
    Ok(())
}

/// Longest name of a tree entry, as git's `fsck.largePathname`.
const MAX_NAME: usize = 4096;

fn name_flags(name: &[u8]) -> u64 {
    use Message::*;
    let mut flags = 0;
    if name.iter().fold(false, |found, &byte| found | (byte == b'/')) {
        flags |= FullPathname.bit();
    }
    match name {
        b"." => flags |= HasDot.bit(),
        b".." => flags |= HasDotdot.bit(),
        _ => {}
    }
    if name.len() > MAX_NAME {
        flags |= LargePathname.bit();
    }
    flags
}

/// Names that git, HFS+ or NTFS might take for `.git` and its kin.
fn special_names(name: &[u8], mode: u32, mut special: impl FnMut(Special)) -> u64 {
    use Message::*;
    let link = mode & 0o170_000 == 0o120_000;
    let mut flags = 0;
    if dotgit::is_dotgit(name) {
        flags |= HasDotgit.bit();
    }
    if dotgit::is_gitmodules(name) {
        if link {
            flags |= GitmodulesSymlink.bit();
        } else {
            special(Special::Modules);
        }
    }
    if dotgit::is_gitattributes(name) && !link {
        special(Special::Attributes);
    }
    flags
}

fn mode(data: &[u8]) -> Option<(u32, &[u8])> {
    let mut mode: u32 = 0;
    for (at, &byte) in data.iter().enumerate().take(11) {
        match byte {
            b'0'..=b'7' if at < 10 => mode = (mode << 3) | u32::from(byte - b'0'),
            b' ' if at > 0 => return Some((mode, &data[at + 1..])),
            _ => return None,
        }
    }
    None
}

/// Where the first NUL is.
#[inline]
fn find_nul(data: &[u8]) -> Option<usize> {
    // Eight bytes at a time: names are some 15 bytes long and there are tens of millions of them.
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    while let Some(chunk) = data.get(at..at + 8) {
        let word = u64::from_le_bytes([
            chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7],
        ]);
        let zero = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zero != 0 {
            return Some(at + (zero.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    data[at..].iter().position(|&byte| byte == 0).map(|found| at + found)
}

/// Watches that names come in git's order, where a directory sorts as if it ended in a slash, and
/// only once.
#[derive(Default)]
struct Order<'a> {
    last: Option<(u32, &'a [u8])>,
    /// Files that a directory of the same name could still follow (`a`, `a.b`, then `a/`).
    candidates: Vec<&'a [u8]>,
}

impl<'a> Order<'a> {
    fn next(&mut self, mode: u32, name: &'a [u8]) -> u64 {
        let Some((last_mode, last)) = self.last.replace((mode, name)) else { return 0 };
        // Most neighbours differ within their first bytes.
        if let (Some(a), Some(b)) = (last.first_chunk::<4>(), name.first_chunk::<4>())
            && a != b
        {
            let sorted = u32::from_be_bytes(*a) < u32::from_be_bytes(*b);
            return if sorted { 0 } else { Message::TreeNotSorted.bit() };
        }
        let length = last.len().min(name.len());
        match last[..length].cmp(&name[..length]) {
            std::cmp::Ordering::Less => return 0,
            std::cmp::Ordering::Greater => return Message::TreeNotSorted.bit(),
            std::cmp::Ordering::Equal => {}
        }
        if last.len() == name.len() {
            return Message::DuplicateEntries.bit();
        }
        let after = |mode: u32, name: &[u8]| match name.get(length) {
            Some(&byte) => byte,
            None if mode & 0o170_000 == 0o040_000 => b'/',
            None => 0,
        };
        let (c1, c2) = (after(last_mode, last), after(mode, name));
        let below_slash = |c: u8| c != 0 && c < b'/';
        if c1 == 0 && below_slash(c2) {
            self.candidates.push(last);
        } else if c2 == b'/' && below_slash(c1) {
            while let Some(candidate) = self.candidates.pop() {
                let Some(rest) = name.strip_prefix(candidate) else { continue };
                match rest.first() {
                    None => return Message::DuplicateEntries.bit(),
                    Some(&byte) if below_slash(byte) => {
                        self.candidates.push(candidate);
                        break;
                    }
                    Some(_) => {}
                }
            }
        }
        if c1 < c2 { 0 } else { Message::TreeNotSorted.bit() }
    }
}

/// The header must end in an empty line or with the data, and hold no NUL.
fn headers(policy: &Policy, data: &[u8]) -> Result<(), Problem> {
    for (at, &byte) in data.iter().enumerate() {
        if byte == 0 {
            return policy.report(Message::NulInHeader, "unterminated header: NUL in it");
        }
        if byte == b'\n' && data.get(at + 1) == Some(&b'\n') {
            return Ok(());
        }
    }
    if data.ends_with(b"\n") {
        return Ok(());
    }
    policy.report(Message::UnterminatedHeader, "unterminated header")
}

fn id_and_newline(data: &[u8], hash: HashKind) -> Option<&[u8]> {
    let (hex, rest) = data.split_at_checked(hash.hex_len())?;
    ObjectId::from_hex(hex)?;
    rest.strip_prefix(b"\n")
}

fn line(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.iter().position(|&byte| byte == b'\n')?;
    Some((&data[..end], &data[end + 1..]))
}

/// Checks one `name <mail> seconds zone` line and gives what follows it.
fn ident<'a>(policy: &Policy, data: &'a [u8]) -> Result<&'a [u8], Problem> {
    // `headers` has seen a line feed at the end.
    let (ident, rest) = line(data).unwrap_or((data, &[]));
    ident_line(policy, ident)?;
    Ok(rest)
}

fn ident_line(policy: &Policy, ident: &[u8]) -> Result<(), Problem> {
    use Message::*;
    let stop = ident.iter().position(|byte| matches!(byte, b'<' | b'>'));
    let Some(open) = stop else {
        return policy.report(MissingEmail, "invalid author/committer line - missing email");
    };
    if open == 0 && ident[0] == b'<' {
        return policy
            .report(MissingNameBeforeEmail, "invalid author/committer line - missing space before email");
    }
    if ident[open] == b'>' {
        return policy.report(BadName, "invalid author/committer line - bad name");
    }
    if ident[open - 1] != b' ' {
        return policy
            .report(MissingSpaceBeforeEmail, "invalid author/committer line - missing space before email");
    }
    let email = &ident[open + 1..];
    let close = email.iter().position(|byte| matches!(byte, b'<' | b'>'));
    let Some(close) = close.filter(|&at| email[at] == b'>') else {
        return policy.report(BadEmail, "invalid author/committer line - bad email");
    };
    let Some(date) = email[close + 1..].strip_prefix(b" ") else {
        return policy
            .report(MissingSpaceBeforeDate, "invalid author/committer line - missing space before date");
    };
    let blanks = date.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let date = &date[blanks..];
    let digits = date.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return policy.report(BadDate, "invalid author/committer line - bad date");
    }
    if date[0] == b'0' && date.get(1) != Some(&b' ') {
        return policy.report(ZeroPaddedDate, "invalid author/committer line - zero-padded date");
    }
    let (number, zone) = date.split_at(digits);
    let seconds = number.iter().try_fold(0_i64, |sum, &digit| {
        sum.checked_mul(10).and_then(|sum| sum.checked_add(i64::from(digit - b'0')))
    });
    if seconds.is_none() {
        return policy
            .report(BadDateOverflow, "invalid author/committer line - date causes integer overflow");
    }
    let Some(zone) = zone.strip_prefix(b" ") else {
        return policy.report(BadDate, "invalid author/committer line - bad date");
    };
    match zone {
        [b'+' | b'-', digits @ ..] if digits.len() == 4 && digits.iter().all(u8::is_ascii_digit) => Ok(()),
        _ => policy.report(BadTimezone, "invalid author/committer line - bad time zone"),
    }
}

/// Largest `.gitattributes` that git reads, in bytes.
pub(super) const MAX_ATTRIBUTES: u64 = 100 << 20;
const MAX_ATTRIBUTES_LINE: usize = 2048;

/// Checks the content of a `.gitattributes` file.
pub fn attributes(policy: &Policy, data: &[u8]) -> Result<(), Problem> {
    // git reads it as a C string.
    let text = data.split(|&byte| byte == 0).next().unwrap_or(data);
    if text.split(|&byte| byte == b'\n').any(|line| line.len() >= MAX_ATTRIBUTES_LINE) {
        let text = ".gitattributes has too long lines to parse";
        policy.report(Message::GitattributesLineLength, text)?;
    }
    Ok(())
}

/// Says that `message` was found, unless it is tolerated. For what is not in one object alone.
pub(super) fn report(policy: &Policy, message: Message, text: &'static str) -> Result<(), Problem> {
    policy.report(message, text)
}
