//! `auth`: answers who may do what.
//!
//! Duty: "may this identity do this to that repository, and by which line of the configuration".
//! Waits on: the parent. Talks to: the parent alone.
//!
//! **Invariant:** never sees a descriptor nor a repository. The identity comes from the kernel's
//! credentials in the question; what the client claims is believed only from the account that may
//! claim it.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::channel::{Channel, RecvError};
use libproto::command::Service;
use libproto::message::parent::{
    AuthToParent, BorrowAsk, Build, CreateRules, FetchRules, Filter, Lend, Overview, ParentToAuth, Peer,
    Permit, PlaceQuestion, Placed, Question, RepoAddress, SEEN_MAX, Seen, SeenRoot, Verdict, Who,
};
use libproto::names::{RepoName, UserName, escape};
use libproto::refusal::NoIdentity;
use libsandbox::{Calls, Enforcement, Promise, Promises, ResourceLimits, Stage};

use crate::access::lending;
use crate::access::table::{self, AccessTable, Identity, NameMatch};
use crate::conf::items::{Assembler, WireError};
use crate::conf::limits::Limit;
use crate::conf::model::{Access, Action, Config, Position, Repository, RepositoryKind, Wants};
use crate::conf::push_rules;
use crate::os::error::{SystemError, carries_system_error};
use crate::os::system;
use crate::os::to_parent::send;

/// Nothing but its channel.
pub const WORK: Promises = Promises::of(&[Promise::Stdio]).calls(Calls::Auth);

/// Why it ends while the parent is there.
#[derive(Debug)]
pub enum AuthError {
    /// A system call of it failed, or its link.
    System(SystemError),
    /// What it is sent is no configuration.
    Configuration(WireError),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::System(e) => e.fmt(f),
            AuthError::Configuration(e) => e.fmt(f),
        }
    }
}

carries_system_error!(AuthError);

type Parent = Channel<AuthToParent, ParentToAuth>;

/// Runs the role until the parent is gone.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), AuthError> {
    let limits = ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&[]), limits, enforcement })?;
    let parent = Parent::from(parent);
    send(&parent, 0, &AuthToParent::Hello(Build { id: crate::BUILD.into() }));
    let mut table: Option<AccessTable> = None;
    let mut coming: Option<Assembler> = None;
    loop {
        let received = match parent.recv() {
            Ok(received) => received,
            Err(RecvError::Closed) => system::exit_now(0),
            Err(RecvError::UnknownType(_, kind)) => {
                send(&parent, 0, &AuthToParent::NotSupported(kind));
                continue;
            }
            Err(e) if e.is_transient() => continue,
            Err(e) => return Err(SystemError::Received(e).into()),
        };
        match received.message {
            ParentToAuth::Config(item) => {
                let assembler = coming.get_or_insert_with(Assembler::default);
                if let Some(config) = assembler.item(&item).map_err(AuthError::Configuration)? {
                    coming = None;
                    table = Some(AccessTable::new(config));
                    send(&parent, 0, &AuthToParent::Configured(()));
                }
            }
            ParentToAuth::Ask(question) => {
                #[cfg(feature = "escapes")]
                crate::escapes::attempt("auth", WORK);
                let verdict = match &table {
                    Some(table) => answer(table, &question),
                    None => Verdict::NoIdentity(NoIdentity::NotConfigured),
                };
                send(&parent, received.peer, &AuthToParent::Verdict(verdict));
            }
            ParentToAuth::Overview(who) => {
                let end = match &table {
                    Some(table) => overview(&parent, received.peer, table, &who),
                    None => Overview::NoIdentity(NoIdentity::NotConfigured),
                };
                send(&parent, received.peer, &AuthToParent::Overview(end));
            }
            ParentToAuth::Place(ask) => {
                let placed = match &table {
                    Some(table) => placed(table, &ask),
                    None => Placed::Elsewhere("not configured yet".into()),
                };
                send(&parent, received.peer, &AuthToParent::Placed(placed));
            }
            ParentToAuth::Filter(filter) => {
                let seen = table.as_ref().map_or_else(Vec::new, |table| seen(table, &filter));
                send(&parent, received.peer, &AuthToParent::Seen(seen));
            }
            ParentToAuth::Borrow(ask) => {
                let lent = match &table {
                    Some(table) => lent(table, &ask),
                    None => vec![Lend::Denied; ask.places.len()],
                };
                send(&parent, received.peer, &AuthToParent::Lent(lent));
            }
        }
    }
}

/// Whether what was found belongs to the block that the question leads to. It is decided anew: the
/// configuration may have changed meanwhile.
fn placed(table: &AccessTable, ask: &PlaceQuestion) -> Placed {
    let path = Path::new(OsStr::from_bytes(&ask.path));
    let Ok(identity) = identify(table, &ask.question.peer, ask.question.told_user.as_ref()) else {
        return Placed::Elsewhere("no identity any more".into());
    };
    let verdict = table.decide(&identity, &ask.question.repository, ask.question.service);
    let table::Verdict::Granted(grant) = verdict else {
        return Placed::Elsewhere("not permitted any more".into());
    };
    if table.holds(grant.block, path) {
        return Placed::Here;
    }
    let at = escape(&ask.path);
    Placed::Elsewhere(match table.blocks_of(path).next() {
        Some(block) => format!("{at}: has a block of its own ({})", place(table.config(), block.at)),
        None => format!("{at}: in no place of the configuration as loaded; see gotctl reload"),
    })
}

/// One question.
fn answer(table: &AccessTable, question: &Question) -> Verdict {
    let identity = match identify(table, &question.peer, question.told_user.as_ref()) {
        Ok(identity) => identity,
        Err(why) => return Verdict::NoIdentity(why),
    };
    let not_found = |no_rule| Verdict::NotFound { identity: table.display(&identity), no_rule };
    match table.decide(&identity, &question.repository, question.service) {
        table::Verdict::NotFound => not_found(false),
        table::Verdict::NoRule => not_found(true),
        denied @ table::Verdict::Denied { at, .. } => Verdict::Denied {
            identity: table.display(&identity),
            text: denied.refusal().unwrap_or_default(),
            rule: place(table.config(), at),
        },
        table::Verdict::Granted(grant) => match permit(table, &identity, &grant, question.service) {
            Some(permit) => Verdict::Granted(permit),
            None => not_found(false),
        },
    }
}

/// Who asks.
fn identify(table: &AccessTable, peer: &Peer, told: Option<&UserName>) -> Result<Identity, NoIdentity> {
    match peer {
        Peer::Tcp { .. } => Ok(Identity::Anonymous),
        Peer::Unix { uid, gid, groups, .. } => table.identify(*uid, *gid, groups, told),
    }
}

/// Answers from which places the user of a session may borrow.
fn lent(table: &AccessTable, ask: &BorrowAsk) -> Vec<Lend> {
    let Ok(identity) = identify(table, &ask.who.peer, ask.who.told_user.as_ref()) else {
        return vec![Lend::Denied; ask.places.len()];
    };
    let path = |place: &[u8]| Path::new(OsStr::from_bytes(place)).to_owned();
    ask.places.iter().map(|place| lending::lend(table, &identity, &ask.repository, &path(place))).collect()
}

/// Identifies a user of a shared account. Self-service is for these users only; others have a
/// shell.
fn account_user(table: &AccessTable, who: &Who) -> Result<Identity, NoIdentity> {
    let Peer::Unix { uid, gid, groups, .. } = &who.peer else { return Err(NoIdentity::OwnAccount) };
    match table.identify(*uid, *gid, groups, who.told_user.as_ref()) {
        Ok(identity @ Identity::AccountUser(_)) => Ok(identity),
        Ok(_) => Err(NoIdentity::OwnAccount),
        Err(why) => Err(why),
    }
}

/// Tells what the configuration has for a user.
fn overview(parent: &Parent, number: u64, table: &AccessTable, who: &Who) -> Overview {
    let identity = match account_user(table, who) {
        Ok(identity) => identity,
        Err(why) => return Overview::NoIdentity(why),
    };
    let mut batch = Vec::new();
    for block in &table.config().repositories {
        let permitted = table.deciding(block, &identity).is_some_and(|d| d.rule.action != Action::Deny);
        match (&block.kind, &block.name) {
            (RepositoryKind::One, Some(name)) => batch.extend(see(table, &identity, name).map(|(s, _)| s)),
            (RepositoryKind::Below { .. }, prefix) if permitted => {
                let root = SeenRoot {
                    path: block.path.clone().into_bytes(),
                    place: block.place().into(),
                    prefix: prefix.clone(),
                };
                send(parent, number, &AuthToParent::Root(root));
            }
            _ => {}
        }
        if batch.len() >= SEEN_MAX {
            send(parent, number, &AuthToParent::Seen(std::mem::take(&mut batch)));
        }
    }
    send(parent, number, &AuthToParent::Seen(batch));
    let (connections, own_connections) = connections(table, &identity);
    Overview::Known { identity: table.display(&identity), connections, own_connections }
}

/// The rights of a user to a repository that it may at least read.
fn see(table: &AccessTable, identity: &Identity, name: &RepoName) -> Option<(Seen, table::Grant)> {
    match table.decide(identity, name, Service::UploadPack) {
        table::Verdict::Granted(grant) => {
            Some((Seen { name: name.clone(), write: grant.access == Access::Write }, grant))
        }
        _ => None,
    }
}

/// Those of the repositories below a directory that the user may see under these names.
fn seen(table: &AccessTable, filter: &Filter) -> Vec<Seen> {
    let Ok(identity) = account_user(table, &filter.who) else { return Vec::new() };
    let root = Path::new(OsStr::from_bytes(&filter.place));
    let here = |grant: &table::Grant, below: &RepoName| {
        let block = table.config().repositories.get(grant.block);
        grant.found != NameMatch::Configured
            && block.is_some_and(|b| b.place().as_bytes() == filter.place)
            && table.holds(grant.block, &root.join(OsStr::from_bytes(below.as_bytes())))
    };
    let visible = filter.names.iter().filter_map(|(name, below)| Some((see(table, &identity, name)?, below)));
    visible.filter(|((_, grant), below)| here(grant, below)).map(|((seen, _), _)| seen).collect()
}

/// How many turns of one kind of work a block gives its repositories at a time.
fn places(block: &Repository, config: &Config, limit: Limit) -> u32 {
    u32::try_from(block.limit(limit, &config.limits)).unwrap_or(u32::MAX)
}

/// Connections at once of an identity, and whether a directive of its own says so.
fn connections(table: &AccessTable, identity: &Identity) -> (u32, bool) {
    let limit = table.connection_limit(identity);
    let most = limit.map_or(u32::MAX, |(n, _)| u32::try_from(n).unwrap_or(u32::MAX));
    (most, limit.is_some_and(|(_, limit)| limit == Limit::ConnectionsOfUser))
}

fn permit(
    table: &AccessTable,
    identity: &Identity,
    grant: &table::Grant,
    service: Service,
) -> Option<Permit> {
    let config = table.config();
    let block = config.repositories.get(grant.block)?;
    let below = match &grant.found {
        NameMatch::Configured => None,
        NameMatch::Below(name) => Some(name.clone()),
    };
    let counted = table.counted(identity);
    let (connections, own_connections) = connections(table, &counted);
    let options = &block.options;
    Some(Permit {
        identity: table.display(identity),
        counted: table.display(&counted),
        connections,
        own_connections,
        packs: places(block, config, Limit::PacksPerRepository),
        pushes: places(block, config, Limit::PushesPerRepository),
        rule: place(config, grant.at),
        repository: RepoAddress {
            path: block.path.clone().into_bytes(),
            place: block.place().into(),
            below,
            export_ok: grant.needs_export_marker,
        },
        fetch: FetchRules {
            reachable: options.wants != Wants::Advertised,
            any: options.wants == Wants::Any || options.partial_clone,
            filter: options.partial_clone,
        },
        hidden: block.hidden.iter().map(|h| h.namespace.clone().into()).collect(),
        write: grant.access == Access::Write,
        create: (service == Service::ReceivePack && table.may_create(grant)).then(|| CreateRules {
            reserve: block.limit(Limit::DiskReserve, &config.limits),
            most: block.limit(Limit::RepositoriesPerUser, &config.limits),
        }),
        push_rules: match service {
            Service::UploadPack => None,
            // The parser refuses a block whose rules do not fit.
            Service::ReceivePack => Some(Box::new(push_rules::of(config, block))),
        },
    })
}

/// `file:line` of a place in the configuration.
fn place(config: &Config, at: Position) -> String {
    let file = usize::try_from(at.file).ok().and_then(|file| config.files.get(file));
    format!("{}:{}", file.map_or("?", String::as_str), at.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::resolve::{FixedNames, resolve};
    use crate::conf::source::Texts;
    use crate::repo::write::judge::{Change, rule};

    #[test]
    fn a_push_is_granted_with_its_rules() {
        let text = "repository \"r\" {\n path \"/r\"\n permit rw 1000\n protect branch main\n}\n";
        let mut config = crate::conf::parse("f", &mut Texts::one("f", text)).config;
        assert_eq!(resolve(&mut config, &mut FixedNames::default()).errors, []);
        let table = AccessTable::new(config);
        let ask = |uid, service| {
            let peer = Peer::Unix { pid: 1, uid, gid: uid, groups: vec![] };
            let repository = RepoName::parse(b"r.git").expect("a good name");
            answer(&table, &Question { peer, told_user: None, service, repository })
        };
        let Verdict::Granted(permit) = ask(1000, Service::ReceivePack) else { panic!("not granted") };
        assert_eq!((permit.rule.as_str(), permit.connections), ("f:3", 4));
        let rules = permit.push_rules.expect("rules that travel");
        assert!(rule(&rules, b"refs/heads/main", Change::Delete, false).is_err());
        let Verdict::Granted(permit) = ask(1000, Service::UploadPack) else { panic!("not granted") };
        assert!(permit.push_rules.is_none());
        assert_eq!(permit.create, None);
        assert!(
            matches!(ask(1001, Service::UploadPack), Verdict::NotFound { identity, no_rule: true } if identity.contains("1001"))
        );
    }

    /// A uid of the range has the rights that rules give to it, and of what is counted its owner's
    /// part.
    #[test]
    fn a_subordinate_uid_is_counted_as_its_owner_and_permitted_as_itself() {
        let text = concat!(
            "connection {\n limit user 1000 7\n}\n",
            "repository \"r\" {\n path \"/r\"\n permit ro 100005\n permit ro 1000\n}\n",
        );
        let mut config = crate::conf::parse("f", &mut Texts::one("f", text)).config;
        assert_eq!(resolve(&mut config, &mut FixedNames::default()).errors, []);
        let range = libproto::message::parent::UidRange { first: 100_000, last: 165_535, owner: 1000 };
        config.subordinates = vec![range];
        let table = AccessTable::new(config);
        let ask = |uid| {
            let peer = Peer::Unix { pid: 1, uid, gid: uid, groups: vec![] };
            let repository = RepoName::parse(b"r.git").expect("a good name");
            answer(&table, &Question { peer, told_user: None, service: Service::UploadPack, repository })
        };
        let (Verdict::Granted(own), Verdict::Granted(other)) = (ask(1000), ask(100_005)) else {
            panic!("not granted")
        };
        assert_eq!((own.identity.as_str(), own.counted.as_str()), ("uid 1000", "uid 1000"));
        assert_eq!((other.identity.as_str(), other.counted.as_str()), ("uid 100005", "uid 1000"));
        assert_eq!((other.connections, other.own_connections), (7, true));
        assert!(matches!(ask(100_006), Verdict::NotFound { .. }));
    }

    #[test]
    fn who_may_create_which_repository() {
        let text = concat!(
            "repositories \"\" {\n path \"/r\"\n permit rw 1000\n permit ro 1001\n create\n}\n",
            "repositories \"plain\" {\n path \"/p\"\n permit rw 1000\n}\n",
            "repositories \"in\" {\n path \"/r/in\"\n permit rw 1000\n create\n limit repositories per user 5\n}\n",
            "repository \"own\" {\n path \"/r/team/own.git\"\n permit rw 1000\n}\n",
        );
        let mut config = crate::conf::parse("f", &mut Texts::one("f", text)).config;
        assert_eq!(resolve(&mut config, &mut FixedNames::default()).errors, []);
        let reserve = config.limits.get(Limit::DiskReserve);
        let most = config.limits.get(Limit::RepositoriesPerUser);
        let table = AccessTable::new(config);
        let may = |uid, service, name: &str| {
            let peer = Peer::Unix { pid: 1, uid, gid: uid, groups: vec![] };
            let repository = RepoName::parse(name.as_bytes()).expect("a good name");
            match answer(&table, &Question { peer, told_user: None, service, repository }) {
                Verdict::Granted(permit) => permit.create.map(|rules| (rules.reserve, rules.most)),
                _ => None,
            }
        };
        for (name, create) in [
            ("x", Some((reserve, most))),
            ("team/x.git", Some((reserve, most))),
            ("team/own-too", Some((reserve, most))),
            ("in/x", Some((reserve, 5))),
            ("plain/x", None),
            // Under the names of the first block, these are places that other blocks are about.
            ("team/own", None),
            ("team/own.git", None),
            ("team/own.git/x", None),
            ("team", None),
            ("own", None),
            ("in", None),
        ] {
            assert_eq!(may(1000, Service::ReceivePack, name), create, "{name}");
            assert_eq!(may(1000, Service::UploadPack, name), None, "{name}");
            assert_eq!(may(1001, Service::ReceivePack, name), None, "{name}");
        }
    }
}
