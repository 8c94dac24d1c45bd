//! Every number that bounds something, in one table: its words in gotd.conf, its unit, its default
//! and its range.
//!
//! The parser, the printer, the messages that refuse something and the checks on arrival all read
//! this table. It lies below the daemon, so that what travels can name a limit.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things. No suffix.
    Count,
    /// Seconds; suffixes `s`, `m`, `h`, `d`.
    Seconds,
    /// Bytes, or bytes per second; suffixes `K`, `M`, `G`, `T`, each 1,024 of the one before.
    Bytes,
}

/// Where a limit may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `connection { … }`
    Connection,
    /// `connection { … }`, about the one user whose name stands before the value.
    User,
    /// `limit { … }` at the top.
    Global,
    /// In `limit { … }` at the top level, and in a repository's block for that repository.
    Repository,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which limit.
    pub limit: Limit,
    /// Its words, behind `connection` or `limit`.
    pub words: &'static [&'static str],
    /// Where it may be set.
    pub scope: Scope,
    /// What it counts.
    pub unit: Unit,
    /// When nothing is set.
    pub default: u64,
    /// Smallest value.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// Whether 0, written `none`, means that there is no limit.
    pub none: bool,
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $scope:ident [$($word:literal)+] $unit:ident
        $default:expr, $min:expr, $max:expr $(, $none:ident)?;)+) => {
        /// A limit. The discriminant is its row in [`TABLE`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Limit { $($(#[doc = $doc])+ $name,)+ }

        /// All limits.
        pub const TABLE: &[Row] = &[$(Row {
            limit: Limit::$name,
            words: &[$($word),+],
            scope: Scope::$scope,
            unit: Unit::$unit,
            default: $default,
            min: $min,
            max: $max,
            none: false $(|| stringify!($none).len() > 0)?,
        },)+];
    };
}

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const T: u64 = 1 << 40;
const DAY: u64 = 86_400;

limits! {
    /// Seconds without progress while the server works for a request.
    RequestTimeout: Connection ["request" "timeout"] Seconds 3600, 1, 2_147_483_647;
    /// Seconds from accepting a connection to its whole first request.
    FirstRequest: Connection ["first" "request" "timeout"] Seconds 30, 1, DAY;
    /// Seconds that a client may be silent while the server waits for it.
    IdleTimeout: Connection ["idle" "timeout"] Seconds 3600, 1, 30 * DAY;
    /// The same of a client of git://, where that is less.
    IdleTimeoutAnonymous: Connection ["idle" "timeout" "anonymous"] Seconds 300, 1, 30 * DAY;
    /// Bytes per second that a client must take or give, on average over a window, while bytes are
    /// under way.
    MinimumRate: Connection ["minimum" "rate"] Bytes 512, 0, G, none;
    /// Length of that window in seconds.
    RateWindow: Connection ["rate" "window"] Seconds 60, 5, 3600;
    /// Connections at a time, in total.
    ConnectionsTotal: Connection ["limit" "total"] Count 1024, 1, 65_536;
    /// git:// connections at a time.
    ConnectionsGit: Connection ["limit" "git" "total"] Count 256, 1, 65_536;
    /// Connections at a time per user, unless `limit user` says otherwise.
    ConnectionsPerUser: Connection ["limit" "per" "user"] Count 4, 1, 65_536;
    /// Connections at a time of one user in particular.
    ConnectionsOfUser: User ["limit" "user"] Count 4, 1, 65_536;
    /// Connections of one user that may wait until the user has fewer.
    UserQueueLength: Connection ["user" "queue" "length"] Count 16, 0, 65_536;
    /// Seconds that a connection may wait for that.
    UserQueueTimeout: Connection ["user" "queue" "timeout"] Seconds 300, 1, DAY;
    /// Connections at a time per network address.
    ConnectionsPerAddress: Connection ["limit" "per" "address"] Count 16, 1, 65_536;
    /// New connections per second, in total.
    RateTotal: Connection ["rate" "total"] Count 200, 1, 100_000;
    /// New connections per second and network address.
    RatePerAddress: Connection ["rate" "per" "address"] Count 20, 1, 100_000;
    /// New sessions per second and user of the unix sockets; root has no such rate.
    RatePerUser: Connection ["rate" "per" "user"] Count 20, 1, 100_000;
    /// Connections that may wait for a session.
    QueueLength: Connection ["queue" "length"] Count 256, 0, 65_536;
    /// Seconds that a connection may wait for a session.
    QueueTimeout: Connection ["queue" "timeout"] Seconds 10, 1, 3600;
    /// Bytes per second that one network address may take.
    Bandwidth: Connection ["bandwidth" "per" "address"] Bytes 0, 0, T, none;
    /// Sessions started ahead of time for unix sockets.
    Waiting: Connection ["waiting" "sessions"] Count 16, 1, 256;
    /// Sessions started ahead of time for git://.
    WaitingGit: Connection ["waiting" "git" "sessions"] Count 4, 1, 256;

    /// Packs being generated at a time, in total.
    PacksTotal: Global ["packs" "total"] Count 16, 1, 65_536;
    /// Packs being generated at a time for one repository.
    PacksPerRepository: Repository ["packs" "per" "repository"] Count 8, 1, 65_536;
    /// Packs that may wait to be generated, of users and of git:// clients each.
    PacksQueue: Global ["packs" "queue" "length"] Count 64, 0, 65_536;
    /// Seconds that a pack may wait to be generated.
    PacksQueueTimeout: Global ["packs" "queue" "timeout"] Seconds 300, 1, DAY;
    /// Pushes being indexed and checked at a time, in total.
    PushesTotal: Global ["pushes" "total"] Count 16, 1, 65_536;
    /// Pushes being indexed and checked at a time for one repository.
    PushesPerRepository: Repository ["pushes" "per" "repository"] Count 4, 1, 65_536;
    /// Seconds of processor time that a connection's negotiation may use.
    NegotiationCpu: Global ["negotiation" "cpu"] Seconds 10, 1, DAY;
    /// Processor time of the negotiations of one user or network address in ten minutes.
    NegotiationCpuPerClient: Global ["negotiation" "cpu" "per" "client"] Seconds 60, 1, 10 * DAY;
    /// Distinct objects that one request may want.
    Wants: Global ["wants"] Count 4_000_000, 1, 10_000_000;
    /// Haves in one negotiation.
    Haves: Global ["haves"] Count 4_000_000, 1, 100_000_000;
    /// Reference prefixes in one request; with more, all references are listed.
    Prefixes: Global ["prefixes"] Count 65_536, 1, 1_000_000;
    /// Shallow and deepen lines in one request.
    Shallows: Global ["shallows"] Count 1_000_000, 1, 10_000_000;
    /// References that one push may change.
    Commands: Global ["commands"] Count 500_000, 1, 1_000_000;
    /// Bytes per push of options and of the names in commands.
    CommandBytes: Global ["command" "bytes"] Bytes 64 * M, 64 * K, G;
    /// Size of a pushed pack, in bytes.
    PackSize: Repository ["pack" "size"] Bytes 64 * G, K, 64 * T;
    /// Objects in a pushed pack.
    PackObjects: Repository ["pack" "objects"] Count 20_000_000, 1, 4_294_967_295;
    /// Size of one pushed object, inflated, in bytes.
    ObjectSize: Repository ["object" "size"] Bytes 2 * G, K, 64 * T;
    /// Size of the largest blob on a pushed branch or tag, in bytes.
    BlobSize: Repository ["blob" "size"] Bytes 0, 0, 64 * T, none;
    /// Size of an object that is rebuilt from deltas, and of any commit, tree or tag, in bytes: it is
    /// in memory as a whole.
    DeltaResult: Repository ["delta" "result"] Bytes 512 * M, K, 4 * G;
    /// Length of a chain of deltas.
    DeltaDepth: Repository ["delta" "depth"] Count 4_095, 1, 65_535;
    /// Bytes that the deltas of a pack may unpack to for each byte of it.
    DeltaRatio: Repository ["delta" "ratio"] Count 4_096, 1, 1_000_000_000, none;
    /// Objects that a thin pack may leave out.
    ThinBases: Repository ["thin" "bases"] Count 1_000_000, 0, 10_000_000;
    /// How deep trees may be nested.
    TreeDepth: Repository ["tree" "depth"] Count 2_048, 1, 100_000;
    /// Repositories in a directory that one user may have made by pushing.
    RepositoriesPerUser: Repository ["repositories" "per" "user"] Count 5_000, 1, 1_000_000, none;
    /// Bytes that a push must leave free on the disk.
    DiskReserve: Global ["disk" "reserve"] Bytes 512 * M, 0, 64 * T, none;
    /// Memory of one process, in bytes.
    ProcessMemory: Global ["process" "memory"] Bytes 2 * G, 64 * M, 64 * T;
    /// Memory of all packs and pushes together, in bytes; none: half of what the machine, or its
    /// control group, has.
    MemoryTotal: Global ["memory" "total"] Bytes 0, 16 * M, 64 * T, none;
}

/// What a client may send only so many of in one request or conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counted {
    /// Objects that a fetch wants.
    Wants,
    /// Objects that a client says it has.
    Haves,
    /// Lines about the client's shallow commits.
    Shallows,
    /// References whose history is not wanted.
    DeepenNots,
    /// Prefixes of the references to list.
    Prefixes,
    /// Parts of a filter.
    Filters,
    /// Lines of capabilities.
    Capabilities,
    /// Requests on one connection.
    Requests,
    /// Rounds of a negotiation.
    Rounds,
    /// Arguments of the first packet over git://.
    Arguments,
    /// Commands of a push.
    Commands,
    /// Bytes of a push before its pack.
    CommandBytes,
    /// Options of a push.
    PushOptions,
}

impl Counted {
    /// The limit of gotd.conf that says how many there may be; some are fixed.
    pub fn limit(self) -> Option<Limit> {
        match self {
            Counted::Wants => Some(Limit::Wants),
            Counted::Haves => Some(Limit::Haves),
            Counted::Shallows => Some(Limit::Shallows),
            Counted::Commands => Some(Limit::Commands),
            Counted::CommandBytes => Some(Limit::CommandBytes),
            Counted::DeepenNots
            | Counted::Prefixes
            | Counted::Filters
            | Counted::Capabilities
            | Counted::Requests
            | Counted::Rounds
            | Counted::Arguments
            | Counted::PushOptions => None,
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counted::Wants => "wants",
            Counted::Haves => "haves",
            Counted::Shallows => "shallow lines",
            Counted::DeepenNots => "deepen-not lines",
            Counted::Prefixes => "reference prefixes",
            Counted::Filters => "filters",
            Counted::Capabilities => "capabilities",
            Counted::Requests => "requests",
            Counted::Rounds => "rounds",
            Counted::Arguments => "arguments",
            Counted::Commands => "commands",
            Counted::CommandBytes => "bytes of reference names and push options",
            Counted::PushOptions => "push options",
        })
    }
}

impl Scope {
    /// The word that its directives begin with.
    pub fn word(self) -> &'static str {
        match self {
            Scope::Connection | Scope::User => "connection",
            Scope::Global | Scope::Repository => "limit",
        }
    }
}

impl Limit {
    /// Its row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The directive that sets it, as it would stand on a line of its own: `connection limit per
    /// user`.
    pub fn directive(self) -> String {
        let row = self.row();
        format!("{} {}", row.scope.word(), row.words.join(" "))
    }

    /// How a message that refuses something says which line to change: `(limit wants)`.
    pub fn hint(self) -> String {
        format!("({})", self.directive())
    }

    /// The limit with these words, behind `connection` or `limit`: `pack objects`.
    pub fn from_words(words: &str) -> Option<Limit> {
        TABLE.iter().find(|row| row.words.join(" ") == words).map(|row| row.limit)
    }
}

/// A word that is no value of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueError {
    limit: Limit,
    word: String,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.limit.row();
        write!(
            f,
            "expected {} from {} to {}{}, found \"{}\"",
            row.what(),
            row.spell_range(row.min),
            row.spell(row.max),
            if row.none { ", or none" } else { "" },
            self.word
        )
    }
}

impl std::error::Error for ValueError {}

impl Row {
    /// Whether a value is in range.
    pub fn allows(&self, value: u64) -> bool {
        (self.none && value == 0) || (self.min..=self.max).contains(&value)
    }

    /// A value as gotd.conf spells it, in the largest unit that is exact.
    pub fn spell(&self, value: u64) -> String {
        if self.none && value == 0 {
            return "none".to_owned();
        }
        let (suffix, size) = self
            .suffixes()
            .iter()
            .rev()
            .find(|(_, size)| value > 0 && value.is_multiple_of(*size))
            .copied()
            .unwrap_or(("", 1));
        format!("{}{suffix}", value / size)
    }

    fn suffixes(&self) -> &'static [(&'static str, u64)] {
        match self.unit {
            Unit::Count => &[],
            Unit::Seconds => &[("s", 1), ("m", 60), ("h", 3600), ("d", DAY)],
            Unit::Bytes => &[("K", K), ("M", M), ("G", G), ("T", T)],
        }
    }

    /// The value of a word, or what was expected.
    pub fn value(&self, word: &str) -> Result<u64, ValueError> {
        if self.none && word == "none" {
            return Ok(0);
        }
        let range = || ValueError { limit: self.limit, word: word.to_owned() };
        let (digits, size) = self
            .suffixes()
            .iter()
            .find_map(|(suffix, size)| {
                let cut = word.len().checked_sub(1).filter(|&cut| word.is_char_boundary(cut))?;
                let (digits, last) = word.split_at(cut);
                last.eq_ignore_ascii_case(suffix).then_some((digits, *size))
            })
            .unwrap_or((word, 1));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(range());
        }
        let value = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(size)).ok_or_else(range)?;
        if self.allows(value) { Ok(value) } else { Err(range()) }
    }

    /// As [`Row::spell`], but 0 is written `0`: for the ends of a range.
    pub fn spell_range(&self, value: u64) -> String {
        if value == 0 { "0".to_owned() } else { self.spell(value) }
    }

    fn what(&self) -> &'static str {
        match self.unit {
            Unit::Count => "a number",
            Unit::Seconds => "a time (30, 30s, 5m, 1h)",
            Unit::Bytes => "a size (512, 64K, 10M, 2G)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.limit as usize, i);
            assert!(row.allows(row.default), "{:?}", row.limit);
            assert_eq!(row.value(&row.spell(row.default)), Ok(row.default));
            assert_eq!(row.value(&row.spell(row.max)), Ok(row.max));
            for other in &TABLE[i + 1..] {
                let same = row.scope.word() == other.scope.word();
                assert!(!(same && row.words == other.words), "{:?} {:?}", row.limit, other.limit);
            }
        }
    }

    #[test]
    fn limits_have_words_of_their_own() {
        for row in TABLE {
            assert_eq!(Limit::from_words(&row.words.join(" ")), Some(row.limit));
        }
        assert_eq!(Limit::from_words("(limit wants)"), None);
        assert_eq!(Limit::from_words(""), None);
    }

    #[test]
    fn values_in_the_units_of_c_gotd_and_beyond() {
        let timeout = Limit::RequestTimeout.row();
        for (word, seconds) in
            [("3600", 3600), ("10s", 10), ("2M", 120), ("1h", 3600), ("2H", 7200), ("1d", DAY)]
        {
            assert_eq!(timeout.value(word), Ok(seconds), "{word}");
        }
        for word in
            ["", "0", "-1", "h", "1x", "1.5h", "99999999999999999999", "18446744073709551615h", "1é", "none"]
        {
            assert!(timeout.value(word).is_err(), "{word}");
        }
        assert_eq!(Limit::PackSize.row().value("2g"), Ok(2 << 30));
        assert_eq!(Limit::BlobSize.row().value("none"), Ok(0));
        assert_eq!(
            Limit::Wants.row().value("1K").unwrap_err().to_string(),
            "expected a number from 1 to 10000000, found \"1K\""
        );
    }
}
