//! The parent against a `listen`, sessions and an `auth` that lie: this test holds their ends of
//! the links.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use libgit::HashKind;
use libproto::channel::Channel;
use libproto::command::Service;
use libproto::message::client::ClientKind;
use libproto::message::parent::{
    ClientHello, Ending, FetchRules, FoundAt, GitAsk, Opened, ParentToRepo, ParentToSession, ParentToSpawner,
    Peer, Permit, Pool, Question, RefReport, RepoAddress, RepoToParent, SessionReport, SessionToParent,
    SpawnerToParent, Verdict,
};
use libproto::names::RepoName;

use super::queue::{Turn, Work};
use super::session::Session;
use super::session::grant::RepoLocation;
use super::session::phase::Connection;
use super::session::process::Process;
use super::settings::Settings;
use super::*;
use crate::conf::model::Config;
use crate::os::spawn::{self, Started};

/// A spawner's end of its link.
type Spawner = Channel<SpawnerToParent, ParentToSpawner>;

/// Ends of the links that the test holds.
struct Forged {
    listen: Channel<ListenToParent, ParentToListen>,
    auth: Channel<AuthToParent, ParentToAuth>,
    session: Channel<SessionToParent, ParentToSession>,
    repo: Channel<RepoToParent, ParentToRepo>,
    /// The spawners of the session's two processes.
    spawners: [Spawner; 2],
    number: u64,
}

/// A process that was never started, our end of its link, and the spawner's end of its.
fn child<S, R>(role: Role) -> (Child<S, R>, OwnedFd, Spawner) {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1 << 32);
    Child::forged(role, NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// A parent with one session whose processes have greeted, offered to `listen`.
fn parent() -> (Parent, Forged) {
    let (sockets, _) = spawn::pair().expect("a pair");
    let (stderr, _) = nix::unistd::pipe().expect("a pipe");
    let sockets =
        Started { pid: nix::unistd::Pid::this(), role: Role::Sockets, channel: sockets.into(), stderr };
    let ((listen, listen_end, _), (auth, auth_end, _)) = (child(Role::Listen), child(Role::Auth));
    let (session, session_end, session_spawner) = child(Role::Session);
    let (repo, repo_end, repo_spawner) = child(Role::Repository);
    let mut parent = Parent {
        spawners: Spawners::default(),
        log: Log::stderr(false),
        settings: Settings::new(&Config::empty(), Default::default()),
        signals: UnixStream::pair().expect("a pair").0,
        sockets,
        listeners: Listeners::default(),
        listen,
        listen_out: Outbox::default(),
        auth,
        auth_out: Outbox::default(),
        stderr_pipes: StderrPipes::default(),
        table: SessionTable::default(),
        started: Instant::now(),
        served: 0,
        metrics: Metrics::default(),
        checked: Checked::default(),
        own_configs: OwnConfigs::default(),
        listened: Instant::now(),
        draining: None,
        turns: std::collections::VecDeque::new(),
        spent: super::spent::Spent::default(),
        files: LoadConfig { path: Vec::new(), secrets: Vec::new() },
        verbose: false,
        reload: None,
        pauses: pauses::Pauses::default(),
        unsound: None,
        takes_descriptors: false,
        one_uid: None,
    };
    let number = parent.table.next_number();
    let forged = Forged {
        listen: listen_end.into(),
        auth: auth_end.into(),
        session: session_end.into(),
        repo: repo_end.into(),
        spawners: [session_spawner, repo_spawner],
        number,
    };
    let (listen_end, _) = spawn::pair().expect("a pair");
    let session = Session::waiting(number, Pool::Unix, (session, repo), (None, None), vec![listen_end]);
    parent.table.insert(session);
    let build = Build { id: crate::BUILD.into() };
    forged.session.send(number, &SessionToParent::Hello(build.clone())).expect("sends");
    forged.repo.send(number, &RepoToParent::Hello(build)).expect("sends");
    parent.on_session(number);
    parent.on_repo(number, AT_ONCE);
    let offer = forged.listen.recv_with_fds().expect("an offer");
    assert_eq!((offer.peer, offer.fds.len()), (number, 1));
    (parent, forged)
}

impl Forged {
    /// `listen` says this about a number.
    fn accepted(&self, parent: &mut Parent, number: u64, uid: u32) {
        let peer = Peer::Unix { pid: 1, uid, gid: uid, groups: vec![] };
        self.listen.send(number, &ListenToParent::Accepted(peer)).expect("sends");
        assert!(parent.on_listen(PollFlags::POLLIN).is_none());
    }

    /// The session forwards a greeting and a request.
    fn asks(&self, parent: &mut Parent) {
        let hello = ClientHello { version: 1, kind: ClientKind::Git, user: None };
        let ask = GitAsk {
            service: Service::UploadPack,
            repository: RepoName::parse(b"demo.git").expect("a name"),
            protocol: 2,
            told_address: String::new(),
        };
        self.session.send(self.number, &SessionToParent::Client(hello)).expect("sends");
        self.session.send(self.number, &SessionToParent::Git(ask)).expect("sends");
        parent.on_session(self.number);
    }

    /// `auth` grants this number everything.
    fn grants(&self, parent: &mut Parent) {
        let permit = Permit {
            identity: "user:root".into(),
            counted: "user:root".into(),
            packs: 8,
            pushes: 4,
            connections: 10,
            own_connections: false,
            rule: "gotd.conf:1".into(),
            repository: RepoAddress {
                path: b"/srv/git/demo.git".to_vec(),
                place: b"/srv/git/demo.git".to_vec(),
                below: None,
                export_ok: false,
            },
            fetch: FetchRules::default(),
            hidden: vec![],
            push_rules: None,
            write: true,
            create: None,
        };
        self.auth.send(self.number, &AuthToParent::Verdict(Verdict::Granted(permit))).expect("sends");
        assert!(parent.on_auth(PollFlags::POLLIN).is_none());
    }

    /// The question that `auth` was asked, if any.
    fn question(&self) -> Option<Question> {
        match self.auth.try_recv().ok()?.message {
            ParentToAuth::Ask(question) => Some(question),
            _ => None,
        }
    }

    /// Both processes of the session were killed, for this reason.
    fn assert_ended(&self, parent: &mut Parent, why: &str) {
        let session = parent.table.get(self.number).expect("not reaped yet");
        assert_eq!(killed(session), Some(why));
        for spawner in &self.spawners {
            assert_eq!(spawner.try_recv().expect("an order").message, ParentToSpawner::Kill(()));
        }
    }
}

/// Why the parent ended a session.
fn killed(session: &Session) -> Option<&str> {
    session.killed.as_ref().map(|killed| killed.why.as_str())
}

/// How many references the repository process of a session may still report on.
fn references(parent: &mut Parent, number: u64) -> Option<u32> {
    parent.table.get(number)?.grant()?.references
}

/// A repository that was found and opened.
fn open() -> RepoLocation {
    let at = FoundAt { path: b"/srv/git/demo.git".to_vec(), directories: vec![] };
    RepoLocation::Open(at, Opened { device: 1, inode: 2, hash: HashKind::Sha1 })
}

#[test]
fn a_second_word_about_a_number_ends_its_session() {
    let (mut parent, forged) = parent();
    forged.accepted(&mut parent, forged.number, 1000);
    forged.asks(&mut parent);
    assert!(matches!(forged.question().expect("asked").peer, Peer::Unix { uid: 1000, .. }));
    forged.accepted(&mut parent, forged.number, 0);
    forged.assert_ended(&mut parent, "a second word about its connection");
    assert_eq!(forged.question(), None, "the second word was believed");
    let session = parent.table.get(forged.number).expect("is there");
    assert!(matches!(session.peer(), Some(Peer::Unix { uid: 1000, .. })));
}

#[test]
fn a_word_about_a_number_that_was_never_offered_is_not_believed() {
    let (mut parent, forged) = parent();
    for number in [0, forged.number + 1, u64::MAX] {
        forged.accepted(&mut parent, number, 0);
    }
    assert!(parent.table.get(forged.number).expect("is there").peer().is_none());
    parent.table.get(forged.number).expect("is there").connection = Connection::Kept(vec![]);
    forged.accepted(&mut parent, forged.number, 0);
    forged.assert_ended(&mut parent, "a second word about its connection");
}

#[test]
fn nothing_is_decided_before_the_word_of_listen() {
    let (mut parent, forged) = parent();
    forged.asks(&mut parent);
    assert_eq!(forged.question(), None, "asked without credentials");
    forged.accepted(&mut parent, forged.number, 1000);
    let question = forged.question().expect("asked");
    assert!(matches!(question.peer, Peer::Unix { uid: 1000, .. }));
    assert_eq!(forged.question(), None, "asked twice");
}

#[test]
fn a_grant_before_the_credentials_ends_the_session() {
    let (mut parent, forged) = parent();
    forged.asks(&mut parent);
    forged.grants(&mut parent);
    forged.assert_ended(&mut parent, "a verdict that nobody asked for");
    assert!(forged.repo.try_recv().is_err(), "the repository process was told something");
}

#[test]
fn a_grant_before_the_request_and_a_second_grant_end_the_session() {
    let (mut early, forged) = parent();
    forged.accepted(&mut early, forged.number, 1000);
    forged.grants(&mut early);
    forged.assert_ended(&mut early, "a verdict that nobody asked for");
    let (mut twice, forged) = parent();
    forged.accepted(&mut twice, forged.number, 1000);
    forged.asks(&mut twice);
    forged.grants(&mut twice);
    assert!(matches!(forged.repo.try_recv().expect("told").message, ParentToRepo::Serve(_)));
    forged.grants(&mut twice);
    forged.assert_ended(&mut twice, "a verdict that nobody asked for");
    assert!(forged.repo.try_recv().is_err(), "the repository process was told twice");
}

/// `listen` says that no git:// client can come any more while a new address is on its way to it.
#[test]
fn a_pool_stays_as_long_as_there_is_a_listener_for_it() {
    let (mut parent, forged) = parent();
    let has_git = |parent: &Parent| parent.settings.pools.iter().any(|(pool, _)| *pool == Pool::Tcp);
    let deserted = |parent: &mut Parent| {
        forged.listen.send(0, &ListenToParent::Deserted(())).expect("sends");
        assert!(parent.on_listen(PollFlags::POLLIN).is_none());
    };
    let address = "127.0.0.1:9418".parse().expect("an address");
    parent.listeners.add(listen_place::ListenPlace::Tcp(address), listeners::Origin::Sockets(None));
    deserted(&mut parent);
    assert!(has_git(&parent));
    parent.listeners = Listeners::default();
    deserted(&mut parent);
    assert!(!has_git(&parent));
    // The session that waits at the unix socket is none of these.
    assert!(parent.table.get(forged.number).is_some_and(|s| s.is_free()));
}

/// A link to `listen` that takes no more, and a session that is ready: it is kept for later, and
/// pauses stay as long as they had become. To end it, and to forget the pause, was to start and
/// lose processes as fast as the machine can.
#[test]
fn a_session_that_cannot_be_offered_yet_waits_and_makes_no_pause_shorter() {
    let (mut parent, forged) = parent();
    let mut now = Instant::now();
    for _ in 0..5 {
        parent.pauses.of(Pool::Unix).lost(now);
        now += parent.pauses.left(now).expect("a pause");
    }
    while parent.listen_out.is_empty() {
        parent.listen_out.send(&parent.listen.channel, 0, &ParentToListen::Over(()));
    }
    let (session, session_end, _session_spawner) = child(Role::Session);
    let (repo, repo_end, _repo_spawner) = child(Role::Repository);
    let session_end: Channel<SessionToParent, ParentToSession> = session_end.into();
    let repo_end: Channel<RepoToParent, ParentToRepo> = repo_end.into();
    let number = parent.table.next_number();
    let listen_ends = vec![spawn::pair().expect("a pair").0];
    parent.table.insert(Session::waiting(number, Pool::Unix, (session, repo), (None, None), listen_ends));
    let build = Build { id: crate::BUILD.into() };
    session_end.send(number, &SessionToParent::Hello(build.clone())).expect("sends");
    repo_end.send(number, &RepoToParent::Hello(build)).expect("sends");
    parent.on_session(number);
    parent.on_repo(number, AT_ONCE);
    let kept = parent.table.get(number).expect("is there");
    assert_eq!((matches!(kept.connection, Connection::Offered), killed(kept)), (true, None));
    parent.pauses.of(Pool::Unix).lost(now);
    assert_eq!(parent.pauses.left(now), Some(Duration::from_millis(20 << 5)), "the pause was forgotten");
    // Once `listen` takes messages again it is offered.
    let offered = std::iter::repeat_with(|| {
        let received = forged.listen.recv_with_fds().expect("a message");
        parent.listen_out.flush(&parent.listen.channel);
        received
    });
    assert!(offered.take(100_000).any(|received| received.peer == number && received.fds.len() == 1));
}

impl Forged {
    /// The session asks for a push, which is granted, and the repository is found.
    fn pushes(&self, parent: &mut Parent) {
        self.accepted(parent, self.number, 1000);
        let hello = ClientHello { version: 1, kind: ClientKind::Git, user: None };
        let ask = GitAsk {
            service: Service::ReceivePack,
            repository: RepoName::parse(b"demo.git").expect("a name"),
            protocol: 0,
            told_address: String::new(),
        };
        self.session.send(self.number, &SessionToParent::Client(hello)).expect("sends");
        self.session.send(self.number, &SessionToParent::Git(ask)).expect("sends");
        parent.on_session(self.number);
        self.grants(parent);
        let session = parent.table.get(self.number).expect("is there");
        session.grant_mut().expect("granted").place = open();
        session.repo_state = RepoState::Serving;
        assert_eq!(session.state(), SessionState::Granted);
    }

    fn reports(&self, parent: &mut Parent, references: u32) {
        for _ in 0..references {
            let report = RefReport {
                name: b"refs/heads/main".to_vec(),
                target: Vec::new(),
                old: "0".repeat(40),
                new: "1".repeat(40),
                refused: None,
            };
            self.repo.send(self.number, &RepoToParent::Ref(report)).expect("sends");
            parent.on_repo(self.number, AT_ONCE);
        }
    }
}

#[test]
fn a_repository_process_reports_on_as_many_references_as_there_were_commands() {
    let (mut parent, forged) = parent();
    forged.pushes(&mut parent);
    // Unread until the first report comes.
    forged.session.send(forged.number, &SessionToParent::Begins(3)).expect("sends");
    forged.reports(&mut parent, 3);
    assert_eq!(killed(parent.table.get(forged.number).expect("is there")), None);
    forged.reports(&mut parent, 1);
    forged.assert_ended(&mut parent, "repository: reports on more references than there were commands");
}

#[test]
fn a_repository_process_reports_on_no_reference_before_the_push_begins() {
    let (mut parent, forged) = parent();
    forged.pushes(&mut parent);
    forged.reports(&mut parent, 1);
    forged.assert_ended(&mut parent, "repository: reports on more references than there were commands");
}

#[test]
fn a_push_begins_once_and_with_no_more_commands_than_the_limit() {
    let (mut parent, forged) = parent();
    forged.pushes(&mut parent);
    for _ in 0..2 {
        forged.session.send(forged.number, &SessionToParent::Begins(u32::MAX)).expect("sends");
    }
    parent.on_session(forged.number);
    let limit = parent.settings.session.commands;
    assert!(limit < u32::MAX);
    assert_eq!(references(&mut parent, forged.number), Some(limit));
    forged.assert_ended(&mut parent, "session: a push that begins twice, or is none");
}

#[test]
fn a_repository_process_that_never_stops_speaking_is_not_all_that_is_heard() {
    let (mut parent, forged) = parent();
    forged.pushes(&mut parent);
    forged.session.send(forged.number, &SessionToParent::Begins(100)).expect("sends");
    parent.on_session(forged.number);
    let report = |name: &str| RefReport {
        name: name.into(),
        target: Vec::new(),
        old: "0".repeat(40),
        new: "1".repeat(40),
        refused: None,
    };
    for _ in 0..100 {
        forged.repo.send(forged.number, &RepoToParent::Ref(report("refs/heads/x"))).expect("sends");
    }
    let mut left = |most: usize| {
        parent.on_repo(forged.number, most);
        references(&mut parent, forged.number)
    };
    assert_eq!(left(AT_ONCE), Some(100 - u32::try_from(AT_ONCE).expect("fits")));
    assert_eq!(left(usize::MAX), Some(0));
}

/// A session that was taken over speaks of its client's silence without end: the parent would hear
/// nobody else, and `listen` would be sent each word.
#[test]
fn a_session_says_only_so_often_whether_its_client_is_silent() {
    let (mut parent, forged) = parent();
    forged.pushes(&mut parent);
    let say = |parent: &mut Parent, times: usize| {
        for n in 0..times {
            forged.session.send(forged.number, &SessionToParent::Silent(n % 2 == 0)).expect("sends");
            parent.on_session(forged.number);
        }
    };
    say(&mut parent, 8);
    assert_eq!(killed(parent.table.get(forged.number).expect("is there")), None);
    say(&mut parent, 100);
    forged.assert_ended(&mut parent, "session: says too often whether its client is silent");
}

/// A process in uninterruptible sleep outlives SIGKILL for as long as whoever it waits for likes.
/// Its user has that many connections less; but its turn is not theirs to keep.
#[test]
fn a_session_that_was_killed_and_does_not_end_counts_for_its_user_and_keeps_no_turn() {
    let (mut parent, forged) = parent();
    forged.accepted(&mut parent, forged.number, 0);
    forged.asks(&mut parent);
    forged.grants(&mut parent);
    let session = parent.table.get(forged.number).expect("is there");
    let grant = session.grant_mut().expect("granted");
    grant.place = open();
    let mut turn = Turn::asked(Work::Pack, 5);
    turn.begin();
    grant.turn = Some(turn);
    session.session = Process::Ended(Ending::Signal(9));
    let holds = |parent: &Parent| (parent.contenders().len(), parent.table.reserved());
    assert_eq!((parent.table.of_identity("user:root"), holds(&parent)), (1, (1, 5)));
    parent.end_session(forged.number, "for the test");
    assert_eq!(holds(&parent), (1, 5), "it may still compute");
    let killed = parent.table.get(forged.number).and_then(|session| session.killed.as_mut());
    killed.expect("killed").at = Instant::now().checked_sub(Duration::from_secs(10)).expect("long ago");
    // Killed once more, by a deadline, it is not waited for anew.
    parent.end_session(forged.number, "did not end by itself");
    assert_eq!((parent.table.of_identity("user:root"), holds(&parent)), (1, (0, 0)));
}

/// A user of one connection runs one command after the other: the processes of the last one are
/// still ending when the next one comes.
#[test]
fn a_session_that_has_just_ended_leaves_room_for_the_next() {
    let (mut parent, forged) = parent();
    forged.accepted(&mut parent, forged.number, 1000);
    forged.asks(&mut parent);
    forged.grants(&mut parent);
    assert_eq!(parent.table.of_identity("user:root"), 1);
    let report = SessionReport { status: 0, refusal: None, agent: String::new(), received: 0, sent: 0 };
    forged.session.send(forged.number, &SessionToParent::Finished(report)).expect("sends");
    parent.on_session(forged.number);
    assert_eq!(parent.table.of_identity("user:root"), 0);
    let session = parent.table.get(forged.number).expect("not reaped yet");
    session.finished = Instant::now().checked_sub(Duration::from_secs(1));
    assert_eq!(parent.table.of_identity("user:root"), 1, "a process that does not end counts");
}
