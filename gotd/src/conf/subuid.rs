//! subuid(5): which users have which subordinate uids.
//!
//! The system's own file, which others write; so what is wrong in it is a warning, and the line is passed over.

use std::collections::{BTreeSet, HashMap};

use libproto::message::parent::UidRange;

use super::error::ConfigError;
use super::model::{Config, Who};
use super::resolve::{NO_ID, NameService};
use crate::fairness::owners;

/// Where the file is.
pub const PATH: &str = "/etc/subuid";
/// Largest file that is read, in bytes.
pub const FILE_MAX: usize = 1 << 20;
/// Most ranges that are taken from it.
pub const RANGES_MAX: usize = 10_000;
/// Most lines that are warned of by themselves.
const WARNINGS_MAX: usize = 10;

/// A line of the file.
struct Line<'t> {
    owner: &'t str,
    first: u32,
    last: u32,
}

/// Puts what the file says into a configuration whose names are resolved.
pub fn take(text: &[u8], config: &mut Config, names: &mut dyn NameService, warnings: &mut Vec<ConfigError>) {
    let mut known: HashMap<&str, Option<u32>> = HashMap::new();
    let (mut ranges, mut bad) = (Vec::new(), Bad::default());
    for (number, line) in (1_u32..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some(Line { owner, first, last }) = parse(line) else {
            bad.push(number);
            continue;
        };
        if ranges.len() >= RANGES_MAX {
            let text = format!("more than {RANGES_MAX} ranges: those from here on are not used");
            warnings.push(at(number, text));
            break;
        }
        let uid = *known
            .entry(owner)
            .or_insert_with(|| names.user(owner).map(|user| user.uid).or_else(|| owner.parse().ok()));
        // Root needs no range to be anybody, and has no rate that could be used up: what its containers do is not root's. Nor
        // is there anybody who could have one without an account. The range is somebody of its own.
        let owner = uid.filter(|uid| *uid != 0).unwrap_or(first);
        ranges.push(UidRange { first, last, owner });
    }
    bad.warn(warnings);
    let accounts = config.accounts.iter().filter_map(|account| account.uid);
    let limited = config.user_limits.iter().filter_map(|limit| match limit.who {
        Who::Uid(uid) => Some(uid),
        _ => None,
    });
    let own: BTreeSet<u32> = accounts.chain(limited).chain([0]).collect();
    config.subordinates = owners::settle(ranges, &own);
}

/// `login name or uid:first:count`
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = std::str::from_utf8(line).ok()?.split(':');
    let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok());
    let (first, count) = (digits(first)??, digits(count)??);
    let last = first.checked_add(count.checked_sub(1)?)?;
    (!owner.is_empty() && fields.next().is_none() && last < NO_ID).then_some(Line { owner, first, last })
}

fn at(line: u32, message: impl Into<String>) -> ConfigError {
    ConfigError { file: PATH.into(), line, column: 1, message: message.into() }
}

/// Lines that are passed over.
#[derive(Default)]
struct Bad {
    first: Vec<u32>,
    more: usize,
}

impl Bad {
    fn push(&mut self, line: u32) {
        if self.first.len() < WARNINGS_MAX {
            self.first.push(line);
        } else {
            self.more += 1;
        }
    }

    fn warn(self, warnings: &mut Vec<ConfigError>) {
        let text = "expected NAME:FIRST:COUNT: the line is not used";
        warnings.extend(self.first.into_iter().map(|line| at(line, text)));
        if self.more > 0 {
            warnings.push(ConfigError::whole(PATH, format!("{} more such lines", self.more)));
        }
    }
}

#[cfg(test)]
mod tests {
    use libproto::names::UserName;

    use super::*;
    use crate::conf::model::UnixUser;
    use crate::conf::resolve::FixedNames;

    fn read(text: &str) -> (Vec<(u32, u32, u32)>, Vec<String>) {
        let user =
            |name: &str, uid| UnixUser { uid, gid: uid, name: UserName::parse(name.as_bytes()).unwrap() };
        let mut names =
            FixedNames { users: vec![user("root", 0), user("alice", 1000)], ..FixedNames::default() };
        let (mut config, mut warnings) = (Config::empty(), Vec::new());
        take(text.as_bytes(), &mut config, &mut names, &mut warnings);
        let ranges = config.subordinates.iter().map(|range| (range.first, range.last, range.owner));
        (ranges.collect(), warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_and_numbers_have_ranges_and_root_and_nobody_have_none() {
        let (ranges, warnings) = read(
            "# of shadow\n\nalice:100000:65536\n1001:200000:1\nroot:300000:10\ngone:400000:10\nroot:1000:1\n",
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        let expected = [
            (1000, 1000, 1000),
            (100_000, 165_535, 1000),
            (200_000, 200_000, 1001),
            (300_000, 300_009, 300_000),
            (400_000, 400_009, 400_000),
        ];
        assert_eq!(ranges, expected);
    }

    #[test]
    fn lines_that_say_something_else_are_passed_over_and_named() {
        let bad = [
            "alice",
            "alice:1",
            ":1:1",
            "alice:1:0",
            "alice:-1:5",
            "alice:+1:5",
            "alice:1:1:1",
            "alice:4294967295:1",
            "alice:4294967290:6",
            "alice:1:4294967296",
            "alice:0x10:1",
            "alice: 1:1",
        ];
        let text = format!("{}\nalice:7:1\n", bad.join("\n"));
        let (ranges, warnings) = read(&text);
        assert_eq!(ranges, [(7, 7, 1000)]);
        assert_eq!(warnings.len(), WARNINGS_MAX + 1);
        assert_eq!(warnings[1], "/etc/subuid:2:1: expected NAME:FIRST:COUNT: the line is not used");
        assert_eq!(warnings[WARNINGS_MAX], "/etc/subuid: 2 more such lines");
    }

    #[test]
    fn there_is_an_end_to_ranges_and_root_stays_root() {
        let many: String = (0..=RANGES_MAX).map(|n| format!("alice:{}:1\n", n * 2)).collect();
        let (ranges, warnings) = read(&many);
        // The first of them is root's own uid.
        assert_eq!((ranges.len(), ranges[0].0), (RANGES_MAX - 1, 2));
        assert!(
            warnings.len() == 1 && warnings[0].contains("10001:1: more than 10000 ranges"),
            "{warnings:?}"
        );
        assert_eq!(read("alice:0:100\n").0, [(1, 99, 1000)]);
    }
}
