//! subuid(5): which users have which subordinate uids.
//!
//! Other programs write this system file. So an error in it is only a warning, and the line is
//! skipped.
//!
//! A uid in a range counts as the owner of the range, unless the system or the configuration knows
//! a user with this uid: a directory service may well give its users uids that `useradd` hands out
//! as subordinate ones.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use libproto::message::parent::UidRange;
use libproto::names::escape;

use super::error::ConfigError;
use super::model::{Config, Who};
use super::resolve::{MEMBERS_MAX, NO_ID, NameService};
use crate::fairness::owners;

/// Where the file is.
pub const PATH: &str = "/etc/subuid";
/// Largest file that is read, in bytes.
pub const FILE_MAX: usize = 1 << 20;
/// Most ranges that are taken from it.
pub const RANGES_MAX: usize = 10_000;
/// Most lines that are warned of by themselves.
const WARNINGS_MAX: usize = 10;
/// How long the system is asked for names, at most: each is a question to a directory service,
/// perhaps, and a reload has a minute for everything.
const LOOK_UPS: Duration = Duration::from_secs(15);
/// Uids of a range of root's that count as one user: what a container has by default.
const BLOCK: u32 = 1 << 16;

/// A line of the file.
struct Line<'t> {
    owner: &'t str,
    first: u32,
    last: u32,
}

/// Puts what the file says into a configuration whose names are resolved.
pub fn take(text: &[u8], config: &mut Config, names: &mut dyn NameService, warnings: &mut Vec<ConfigError>) {
    take_within(LOOK_UPS, text, config, names, warnings);
}

fn take_within(
    most: Duration,
    text: &[u8],
    config: &mut Config,
    names: &mut dyn NameService,
    warnings: &mut Vec<ConfigError>,
) {
    let mut names = Names { names, begun: Instant::now(), most, left_out: 0 };
    let own = own(config, &mut names);
    let mut known: HashMap<&str, Option<u32>> = HashMap::new();
    let (mut ranges, mut of_root, mut bad) = (Vec::new(), Vec::new(), Bad::default());
    let mut covering = Covering::default();
    for (number, line) in (1_u32..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some(Line { owner, first, last }) = parse(line) else {
            bad.push(number);
            continue;
        };
        if ranges.len() + of_root.len() >= RANGES_MAX {
            let text = format!("more than {RANGES_MAX} ranges: those from here on are not used");
            warnings.push(at(number, text));
            break;
        }
        let uid = *known.entry(owner).or_insert_with(|| names.user(owner).or_else(|| owner.parse().ok()));
        covering.look(number, owner, uid, first..=last, &own);
        match uid {
            Some(0) => of_root.push((first, last)),
            Some(owner) => ranges.push(UidRange { first, last, owner }),
            // A range whose owner has no account counts as a user of its own.
            None => ranges.extend(of_nobody(first, last, &own)),
        }
    }
    // Ranges of root do not count as root: root has no rate, so a container's connections would not
    // be limited. Such a range may serve all containers, or cover a whole directory service: each
    // part of it counts as a user of its own.
    let own_uids = &own;
    let blocks = of_root.iter().flat_map(|&(first, last)| {
        let starts = (first..=last).step_by(BLOCK as usize);
        starts.filter_map(move |start| of_nobody(start, start.saturating_add(BLOCK - 1).min(last), own_uids))
    });
    let room = owners::RANGES_MAX.saturating_sub(ranges.len());
    ranges.extend(blocks.take(room));
    bad.warn(warnings);
    covering.warn(config, warnings);
    names.warn(warnings);
    config.subordinates = owners::put_in_order(ranges, &own);
}

/// A range without an owner. It counts as one of its own uids, which must not belong to a known
/// user.
fn of_nobody(first: u32, last: u32, own: &BTreeSet<u32>) -> Option<UidRange> {
    let owner = (first..=last).find(|uid| !own.contains(uid))?;
    Some(UidRange { first, last, owner })
}

/// The uids of known users, which never count as a range's owner: users that the system lists, that
/// the configuration names, or that are members of a group that it names.
fn own(config: &Config, names: &mut Names<'_>) -> BTreeSet<u32> {
    let listed: HashMap<&str, u32> =
        config.unix_users.iter().map(|user| (user.name.as_str(), user.uid)).collect();
    let rules = config.repositories.iter().flat_map(|block| &block.rules).map(|rule| rule.who);
    let named = rules.chain(config.user_limits.iter().map(|limit| limit.who));
    let mut own: BTreeSet<u32> = [0].into();
    let mut groups: BTreeSet<u32> = BTreeSet::new();
    for who in named {
        match who {
            Who::Uid(uid) | Who::Anonymous(Some(uid)) => drop(own.insert(uid)),
            Who::Gid(gid) => drop(groups.insert(gid)),
            _ => {}
        }
    }
    own.extend(config.accounts.iter().filter_map(|account| account.uid));
    own.extend(listed.values());
    for members in config.denied_members.values() {
        own.extend(members);
    }
    for gid in groups {
        for member in names.members(gid) {
            own.extend(listed.get(member.as_str()).copied().or_else(|| names.user(&member)));
        }
    }
    own
}

/// Asks the system, for a while.
struct Names<'n> {
    names: &'n mut dyn NameService,
    begun: Instant,
    most: Duration,
    left_out: usize,
}

impl Names<'_> {
    fn user(&mut self, name: &str) -> Option<u32> {
        if name == "root" {
            return Some(0);
        }
        self.is_time().then(|| self.names.user(name).map(|user| user.uid)).flatten()
    }

    fn members(&mut self, gid: u32) -> Vec<String> {
        let group = self.is_time().then(|| self.names.group_by_id(gid)).flatten();
        let mut members = group.map_or_else(Vec::new, |group| group.members);
        members.truncate(MEMBERS_MAX);
        members
    }

    fn is_time(&mut self) -> bool {
        let is_time = self.begun.elapsed() < self.most;
        self.left_out += usize::from(!is_time);
        is_time
    }

    fn warn(&self, warnings: &mut Vec<ConfigError>) {
        if self.left_out > 0 {
            let text = format!(
                "{} names were not looked up, because the system took {} seconds for the others: a range of such a name counts as \
                 a user of its own, and a member of a group as the owner of the range that the uid lies in",
                self.left_out,
                self.most.as_secs()
            );
            warnings.push(ConfigError::whole(PATH, text));
        }
    }
}

/// Ranges that cover the uid of somebody else.
#[derive(Default)]
struct Covering {
    first: Vec<(u32, String, u32)>,
    more: usize,
}

impl Covering {
    fn look(
        &mut self,
        line: u32,
        owner: &str,
        uid: Option<u32>,
        range: RangeInclusive<u32>,
        own: &BTreeSet<u32>,
    ) {
        // Root's own uid in a range is cut out as well, but tells nothing of the range.
        let Some(other) = own.range(range).find(|&&other| Some(other) != uid && other != 0) else { return };
        if self.first.len() < WARNINGS_MAX {
            self.first.push((line, owner.to_owned(), *other));
        } else {
            self.more += 1;
        }
    }

    fn warn(self, config: &Config, warnings: &mut Vec<ConfigError>) {
        for (line, owner, other) in self.first {
            let text = format!(
                "the range of {} covers the uid of {}, who counts as a user of its own all the same",
                escape(owner.as_bytes()),
                config.name_of(other)
            );
            warnings.push(at(line, text));
        }
        if self.more > 0 {
            let text = format!("{} more ranges that cover the uid of somebody else", self.more);
            warnings.push(ConfigError::whole(PATH, text));
        }
    }
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
        let mut names =
            FixedNames { users: vec![user("root", 0), user("alice", 1000)], ..FixedNames::default() };
        read_of(text, Config { unix_users: names.users.clone(), ..Config::empty() }, &mut names, LOOK_UPS)
    }

    fn read_of(
        text: &str,
        mut config: Config,
        names: &mut FixedNames,
        most: Duration,
    ) -> (Vec<(u32, u32, u32)>, Vec<String>) {
        let mut warnings = Vec::new();
        take_within(most, text.as_bytes(), &mut config, names, &mut warnings);
        let ranges = config.subordinates.iter().map(|range| (range.first, range.last, range.owner));
        (ranges.collect(), warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_and_numbers_have_ranges_and_root_and_nobody_have_none() {
        let (ranges, warnings) = read(
            "# of shadow\n\nalice:100000:65536\n1001:200000:1\nroot:300000:10\ngone:400000:10\nroot:1000:1\n",
        );
        assert!(warnings.len() == 1 && warnings[0].contains("root covers the uid of alice,"), "{warnings:?}");
        let expected = [
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
        // The first of them is root's own uid, the one of 1000 alice's.
        assert_eq!((ranges.len(), ranges[0].0), (RANGES_MAX - 2, 2));
        assert!(
            warnings.len() == 1 && warnings[0].contains("10001:1: more than 10000 ranges"),
            "{warnings:?}"
        );
        assert_eq!(read("alice:0:100\n").0, [(1, 99, 1000)]);
    }

    fn user(name: &str, uid: u32) -> UnixUser {
        UnixUser { uid, gid: uid, name: UserName::parse(name.as_bytes()).unwrap() }
    }

    /// A configuration whose rules name these, and a system that knows bob (100005) and carol
    /// (100007) and lists neither, as a directory service does. carol is in the group of 500.
    fn directory(rules: &str) -> (Config, FixedNames) {
        let text = format!("repository \"r\" {{\n path \"/r\"\n{rules}}}\n");
        let mut config = crate::conf::parse("f", &mut crate::conf::source::Texts::one("f", text)).config;
        let group =
            crate::conf::resolve::UnixGroup { gid: 500, members: vec!["carol".into(), "gone".into()] };
        let mut names = FixedNames {
            users: vec![user("alice", 1000), user("bob", 100_005), user("carol", 100_007)],
            groups: [("staff".to_owned(), group)].into(),
        };
        assert_eq!(crate::conf::resolve::resolve(&mut config, &mut names).errors, []);
        config.unix_users.retain(|user| user.uid == 1000);
        (config, names)
    }

    /// Whom the configuration names, by name, by number or as a member of a group, is nobody else's
    /// subordinate.
    #[test]
    fn who_is_named_stays_a_user_of_their_own_in_the_range_of_another() {
        let (config, mut names) = directory(" permit rw bob\n permit ro 100006\n permit ro :staff\n");
        let (ranges, warnings) = read_of("alice:100000:65536\n", config, &mut names, LOOK_UPS);
        assert_eq!(ranges, [(100_000, 100_004, 1000), (100_008, 165_535, 1000)]);
        let expected = "/etc/subuid:1:1: the range of alice covers the uid of 100005, who counts as a user of its own all \
                        the same";
        assert_eq!(warnings, [expected]);
        // Whom the system lists needs no rule.
        let (mut config, mut names) = directory("");
        config.unix_users.push(user("dave", 165_535));
        let (ranges, warnings) = read_of("alice:100000:65536\n", config, &mut names, LOOK_UPS);
        assert_eq!(ranges, [(100_000, 165_534, 1000)]);
        assert!(warnings[0].contains("covers the uid of dave,"), "{warnings:?}");
    }

    /// A range of root's for all containers made one user of a whole directory.
    #[test]
    fn a_range_of_roots_is_a_user_for_each_container() {
        let (config, mut names) = directory(" permit rw bob\n permit rw 100000\n");
        let (ranges, warnings) = read_of("root:100000:131073\n", config, &mut names, LOOK_UPS);
        let expected = [
            (100_001, 100_004, 100_001),
            (100_006, 165_535, 100_001),
            (165_536, 231_071, 165_536),
            (231_072, 231_072, 231_072),
        ];
        assert_eq!(ranges, expected, "and none counts as somebody who is named");
        assert!(
            warnings.len() == 1 && warnings[0].contains("root covers the uid of 100000,"),
            "{warnings:?}"
        );
        // As long as it gets, and as often: users come first.
        let all = format!("{}alice:7:1\n", "root:1:4294967294\n".repeat(50));
        let (ranges, _) = read(&all);
        assert!(ranges.len() <= owners::RANGES_MAX && ranges.iter().any(|range| range.1 > 4_294_900_000));
    }

    #[test]
    fn a_system_that_is_slow_to_say_who_somebody_is_is_not_asked_for_ever() {
        let (config, mut names) = directory(" permit ro :staff\n");
        let text = "alice:100000:10\n1001:200000:1\nalice:300000:1\n";
        let (ranges, warnings) = read_of(text, config, &mut names, Duration::ZERO);
        let expected = [(100_000, 100_009, 100_000), (200_000, 200_000, 1001), (300_000, 300_000, 300_000)];
        assert_eq!(ranges, expected);
        // The group, alice, and who has no name.
        assert!(warnings.len() == 1 && warnings[0].contains("3 names were not looked up"), "{warnings:?}");
    }
}
