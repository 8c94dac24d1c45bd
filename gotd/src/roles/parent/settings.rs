//! The parent's part of the configuration, each value in the form that its reader needs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::num::NonZero;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use libproto::message::parent::{
    BATCH_RANGES, BATCH_USERS, ListenLimits, OwnDirectory, ParentToListen, Pool, RepoStart, SessionStart,
    UidRange, UserLimits,
};
use libsandbox::Enforcement;

use super::listen_place::ListenPlace;
use super::set_limits::SetLimits;
use crate::access::places::Recorded;
use crate::conf::limits::{ConfiguredLimits, Limit};
use crate::conf::model::{self, Config, ListenAddress, LogTo, RepositoryKind, Sandbox};
use crate::fairness::owners::Owners;
use crate::roles::sockets::ask;

/// Connections of a user without a queue, or of a shared account, that nobody has been granted
/// anything for are refused beyond this many times what their user may have: a session that has
/// ended counts until its processes have.
const UNNAMED_FACTOR: u32 = 4;
/// Sessions started ahead of time for control sockets: a second gotctl waits for the next session,
/// if need be.
const CONTROLS_WAITING: usize = 1;
/// Most directories that a waiting repository process is restricted to; with more, their parents.
const MOST_ROOTS: usize = 48;
/// Threads that the machine gives, asked once: at a reload this process sees no file any more, and
/// so not what its control group may take of the processors.
static THREADS: OnceLock<usize> = OnceLock::new();

/// What the parent takes from the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen, and the lines that say so.
    pub places: Vec<(ListenPlace, String)>,
    /// Waiting sessions of each pool that has a listener.
    pub pools: Vec<(Pool, usize)>,
    /// Limits of a session.
    pub session: SessionStart,
    /// Those of a session of git://.
    pub session_git: SessionStart,
    /// What each repository process is told.
    pub repo: RepoStart,
    /// Largest file that a `verify` process may write, in bytes.
    pub file_size: u64,
    /// Limits of `listen`.
    pub listen: ListenLimits,
    /// Costly work that is done at a time, and that waits.
    pub turns: super::queue::Rules,
    /// `connection informative errors`.
    pub informative_errors: bool,
    /// The directories that blocks were about when they were loaded.
    pub recorded: Recorded,
    /// Uids of shared accounts: their users are counted by name.
    accounts: BTreeSet<u32>,
    /// The owners of subordinate uids, which these uids count as.
    pub owners: Owners,
    subordinates: Vec<UidRange>,
    /// Connections of a Unix user, and of some in particular.
    per_user: usize,
    users: Vec<(u32, usize)>,
    /// Requests of a user that may wait until the user has fewer sessions.
    pub user_queue: usize,
    /// For how long.
    pub user_queue_time: Duration,
    /// Connections of users of shared accounts, by name.
    named: HashMap<String, usize>,
    /// For gotctl.
    pub repository_names: Vec<String>,
    /// `sandbox best-effort`.
    pub enforcement: Enforcement,
    /// Numbers.
    pub limits: ConfiguredLimits,
    /// Limits that the configuration sets, for gotctl.
    pub set: SetLimits,
    /// `log verbose`.
    pub log_verbose: bool,
    /// What cannot change without a restart: `user`, `log to`.
    pub(super) accounts_named: [String; 3],
    pub(super) log_to: LogTo,
}

impl Settings {
    /// Flags that each role is started with.
    pub fn flags(&self) -> Vec<&'static str> {
        if self.enforcement == Enforcement::BestEffort { vec!["--best-effort"] } else { Vec::new() }
    }

    /// What `listen` is told, in this order.
    pub fn for_listen(&self) -> Vec<ParentToListen> {
        let factor = |limit: usize| count(limit).saturating_mul(UNNAMED_FACTOR);
        let own: Vec<(u32, u32)> = self.users.iter().map(|(uid, limit)| (*uid, factor(*limit))).collect();
        let accounts: Vec<u32> = self.accounts.iter().copied().collect();
        let own =
            own.chunks(BATCH_USERS).map(|some| UserLimits { connections: some.to_vec(), accounts: vec![] });
        let accounts = accounts
            .chunks(BATCH_USERS)
            .map(|some| UserLimits { accounts: some.to_vec(), connections: vec![] });
        let users = own.chain(accounts).map(ParentToListen::Users);
        let ranges = self.subordinates.chunks(BATCH_RANGES).map(|some| ParentToListen::Ranges(some.to_vec()));
        let last = std::iter::once(ParentToListen::Limits(self.listen.clone()));
        users.chain(ranges).chain(last).collect()
    }

    /// Whether a uid is that of a shared account.
    pub fn is_account(&self, uid: u32) -> bool {
        self.accounts.contains(&uid)
    }

    /// The number of connections that a user of this name may have before its request is known, and
    /// whether a line of the configuration sets it.
    pub fn limit_of_name(&self, name: &str) -> (usize, bool) {
        let own = self.named.get(name);
        let limit = own.copied().unwrap_or(self.per_user);
        let queue = if own.is_some() { 0 } else { self.user_queue };
        (limit.saturating_add(queue).max(limit.saturating_mul(UNNAMED_FACTOR as usize)), own.is_some())
    }

    /// From a configuration; `seen` is what role `config` found of its directories.
    pub(super) fn new(config: &Config, seen: &[OwnDirectory]) -> Settings {
        let limits = &config.limits;
        let threads = *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get));
        let bytes = |paths: Vec<PathBuf>| -> Vec<Vec<u8>> {
            paths.into_iter().map(|path| path.into_os_string().into_vec()).collect()
        };
        let repo = RepoStart {
            granted: bytes(granted(config, seen)),
            memory: limits.get(Limit::ProcessMemory),
            threads: u8::try_from(threads.min(4)).unwrap_or(1),
            strangers: false,
        };
        let uids = config.user_limits.iter().filter_map(|limit| match limit.who {
            model::Who::Uid(uid) => Some((uid, usize::try_from(limit.connections).unwrap_or(usize::MAX))),
            _ => None,
        });
        let named = config.user_limits.iter().filter_map(|limit| match limit.who {
            model::Who::AccountUser(_) => Some((
                limit.subject.name.to_string(),
                usize::try_from(limit.connections).unwrap_or(usize::MAX),
            )),
            _ => None,
        });
        // Each block may have a limit of its own, which verify enforces; this is the kernel's bound
        // for all.
        let own_sizes = config.repositories.iter().map(|r| r.limit(Limit::PackSize, limits));
        let file_size = own_sizes.max().unwrap_or_else(|| limits.get(Limit::PackSize)).saturating_mul(2);
        Settings {
            file_size,
            places: places(config),
            pools: vec![
                (Pool::Unix, limits.size(Limit::Waiting)),
                (Pool::Tcp, limits.size(Limit::WaitingGit)),
                (Pool::Control, CONTROLS_WAITING),
            ],
            session: SessionStart::of(|limit| limits.get(limit)),
            session_git: SessionStart::of(|limit| limits.get(limit)).anonymous(|limit| limits.get(limit)),
            repo,
            listen: listen_limits(limits),
            turns: rules(limits),
            informative_errors: config.informative_errors,
            recorded: Recorded::new(&config.repositories, seen),
            accounts: config.accounts.iter().filter_map(|account| account.uid).collect(),
            owners: Owners::new(&config.subordinates),
            subordinates: config.subordinates.clone(),
            per_user: limits.size(Limit::ConnectionsPerUser),
            user_queue: limits.size(Limit::UserQueueLength),
            user_queue_time: Duration::from_secs(limits.get(Limit::UserQueueTimeout)),
            users: uids.collect(),
            named: named.collect(),
            repository_names: repository_names(config),
            enforcement: enforcement(config),
            limits: limits.clone(),
            set: SetLimits::of(config),
            log_verbose: config.log_verbose,
            accounts_named: [config.user_name(), config.client_name(), config.daemon_name()]
                .map(str::to_owned),
            log_to: config.log_to,
        }
    }
}

/// `sandbox`.
pub(super) fn enforcement(config: &Config) -> Enforcement {
    match config.sandbox {
        Sandbox::Required => Enforcement::Required,
        Sandbox::BestEffort => Enforcement::BestEffort,
    }
}

fn number(limits: &ConfiguredLimits, limit: Limit) -> u32 {
    u32::try_from(limits.get(limit)).unwrap_or(u32::MAX)
}

fn listen_limits(limits: &ConfiguredLimits) -> ListenLimits {
    let number = |limit| number(limits, limit);
    let total = number(Limit::ConnectionsTotal);
    ListenLimits {
        controllers: vec![0, nix::unistd::geteuid().as_raw()],
        connections: number(Limit::ConnectionsTotal),
        rate: number(Limit::RateTotal),
        // Without a queue the parent refuses: a session that has just ended counts here for a while.
        per_user: match number(Limit::UserQueueLength) {
            0 => number(Limit::ConnectionsPerUser).saturating_mul(UNNAMED_FACTOR),
            _ => number(Limit::ConnectionsPerUser),
        },
        user_queue: number(Limit::UserQueueLength),
        user_queue_ms: number(Limit::UserQueueTimeout).saturating_mul(1000),
        rate_per_user: number(Limit::RatePerUser),
        queue_ms: number(Limit::QueueTimeout).saturating_mul(1000),
        queue: number(Limit::QueueLength),
        // A quarter of all places is never git://'s.
        git: number(Limit::ConnectionsGit).min(total.saturating_sub(total / 4)).max(1),
        per_address: number(Limit::ConnectionsPerAddress),
        rate_per_address: number(Limit::RatePerAddress),
        silent_ms: number(Limit::FirstRequest).saturating_mul(1000),
        minimum_rate: number(Limit::MinimumRate),
        bandwidth: limits.get(Limit::Bandwidth),
    }
}

fn rules(limits: &ConfiguredLimits) -> super::queue::Rules {
    super::queue::Rules {
        packs: limits.size(Limit::PacksTotal),
        pushes: limits.size(Limit::PushesTotal),
        memory: memory_total(limits),
        queue: limits.size(Limit::PacksQueue),
        longest: Duration::from_secs(limits.get(Limit::PacksQueueTimeout)),
        // Known once it is known which listeners there are.
        both: false,
    }
}

/// The blocks of the configuration, for gotctl.
fn repository_names(config: &Config) -> Vec<String> {
    let names = config.repositories.iter().take(256).map(|r| {
        let name = r.name.as_ref().map(ToString::to_string).unwrap_or_default();
        match r.kind {
            RepositoryKind::One => format!("repository \"{name}\" path {}", r.path),
            RepositoryKind::Below { .. } => format!("repositories \"{name}\" path {}", r.path),
        }
    });
    names.collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Bytes of memory for all packs and pushes.
fn memory_total(limits: &ConfiguredLimits) -> u64 {
    // Asked each time: a reload that brings `none` needs what was known before the sandbox.
    let machine = crate::os::memory::at_start();
    match limits.get(Limit::MemoryTotal) {
        0 => machine / 2,
        most => most,
    }
}

/// Where a configuration wants to listen, and the line of each: control sockets come with those of
/// clients.
fn places(config: &Config) -> Vec<(ListenPlace, String)> {
    let mut places: Vec<(ListenPlace, String)> = Vec::new();
    for listener in &config.listeners {
        let place = match &listener.address {
            ListenAddress::Unix(path) => ListenPlace::Unix(path.into()),
            ListenAddress::Git(ip, port) => ListenPlace::Tcp(SocketAddr::new(*ip, *port)),
        };
        places.push((place, config.place(listener.at)));
    }
    // Without a unix socket of its own a daemon could not even be stopped.
    if !places.iter().any(|(place, _)| place.pool() == Pool::Unix) {
        places.push((ListenPlace::Unix(model::DEFAULT_SOCKET.into()), "default".into()));
    }
    let controls: Vec<(ListenPlace, String)> = places
        .iter()
        .filter_map(|(place, line)| match place {
            ListenPlace::Unix(path) => Some((ListenPlace::Control(ask::control_of(path)), line.clone())),
            ListenPlace::Control(_) | ListenPlace::Tcp(_) => None,
        })
        .collect();
    places.extend(controls);
    places
}

/// The directories that the sandbox lets repository processes reach before they know which
/// repository is theirs. A kernel rule follows the directory and not its path. For a directory that
/// may be replaced while the daemon runs, the rule is therefore about the directory above. This
/// holds for each `repository`, and for a directory of repositories that is absent, empty, a mount
/// point or behind a link.
fn granted(config: &Config, seen: &[OwnDirectory]) -> Vec<PathBuf> {
    let stays: HashSet<u32> = seen.iter().filter(|own| own.stays).map(|own| own.block).collect();
    let blocks = (0..).zip(&config.repositories);
    few(blocks
        .map(|(number, block)| {
            let place = Path::new(block.place());
            match place.parent() {
                Some(parent) if !stays.contains(&number) && parent.parent().is_some() => parent.into(),
                _ => place.into(),
            }
        })
        .collect())
}

/// At most [`MOST_ROOTS`] directories that hold these: themselves, or those above them when they
/// are many, the deepest first. Never all of the file system: rather there are more.
fn few(mut roots: BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let depth = |root: &Path| root.components().count();
    loop {
        // A root below another root is covered by that one.
        let all = roots.clone();
        roots.retain(|root| !root.ancestors().skip(1).any(|above| all.contains(above)));
        let deepest = roots.iter().map(|root| depth(root)).max().unwrap_or_default();
        // The root directory counts as one: what lies in it stays as it is.
        if roots.len() <= MOST_ROOTS || deepest <= 2 {
            return roots.into_iter().collect();
        }
        let above = |root: PathBuf| match root.parent() {
            Some(parent) if depth(&root) == deepest => parent.to_owned(),
            _ => root,
        };
        roots = roots.into_iter().map(above).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(paths: impl IntoIterator<Item = String>) -> Vec<String> {
        let few = few(paths.into_iter().map(PathBuf::from).collect());
        few.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn many_directories_become_those_above_them_and_never_the_whole_file_system() {
        let homes = |count: usize| (0..count).map(|n| format!("/home/user-{n:02}/git"));
        assert_eq!(roots(homes(48)).len(), 48);
        let below = ["/srv/git", "/srv/git/a"].map(str::to_owned);
        assert_eq!(roots(below), ["/srv/git"]);
        // Neither "/" nor its directories, of which there are not too many.
        let own = ["/srv/git".to_owned(), "/data".to_owned()];
        assert_eq!(roots(homes(60).chain(own)), ["/data", "/home", "/srv"]);
        assert_eq!(roots((0..60).map(|n| format!("/disk-{n:02}/a/git"))).len(), 60);
        assert_eq!(roots((0..60).map(|n| format!("/disk-{n:02}"))).len(), 60);
        assert_eq!(roots(["/".to_owned()]), ["/"]);
    }
}
