//! A place for a pack is held only while the pack is computed.
//!
//! Two addresses that took 12 kB a second between them held every place that strangers may have,
//! and whoever else cloned without a name was refused after the five minutes of the queue. Now a
//! pack whose client takes nothing leaves its place after a tenth of a second, and waits for
//! another turn when the client takes more; a pack that is copied as it lies needs no place at all.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::raw::Session;
use regress::run::wait_until;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, pkt, run};

struct Place {
    site: Site,
    daemon: Daemon,
    address: SocketAddr,
    repository: PathBuf,
    tip: String,
}

fn start(limits: &str) -> Place {
    let (site, address) = (Site::new(), tcp::free_v4());
    let repository = history::bulky(&site, "bulk.git", 12);
    site.git_in(&repository, ["repack", "-a", "-d", "-q"]);
    let tip = history::tip(&site, &repository);
    let room = "\tlimit per user 64\n\tlimit per address 64\n\trate per address 200";
    let daemon = site.start_with(&site.serve_strangers(address, room, limits));
    Place { site, daemon, address, repository, tip }
}

impl Place {
    /// Everything, in a pack that has to be made: without `ofs-delta` no file is one that can be
    /// sent as it lies.
    fn request(&self, more: &[&str]) -> Vec<u8> {
        let mut lines: Vec<String> = more.iter().map(|line| format!("{line}\n")).collect();
        lines.extend([format!("want {}\n", self.tip), "done\n".to_owned()]);
        pkt::v2("fetch", lines)
    }

    /// A client of git:// from this address that has asked for everything and takes little at a
    /// time.
    fn stranger(&self, from: &str, more: &[&str]) -> Client {
        let mut client = Client::open_from(self.address, from.parse().expect("an address"));
        nix::sys::socket::setsockopt(&client.stream, nix::sys::socket::sockopt::RcvBuf, &4096).expect("sets");
        assert!(client.write(&tcp::request("/bulk.git", 2)));
        client.read_to_flush();
        assert!(client.write(&self.request(more)));
        client
    }

    fn clone_anonymously(&self, name: &str) -> Duration {
        let path = self.site.clone_path(name).to_string_lossy().into_owned();
        let begun = Instant::now();
        self.site.git(["clone", "-q", "--mirror", &format!("git://{}/bulk.git", self.address), &path]).good();
        regress::compare::assert_mirror(&self.site, &self.repository, Path::new(&path));
        begun.elapsed()
    }
}

/// git says that this is a pack, and how many objects it holds.
#[track_caller]
fn assert_pack(site: &Site, pack: &[u8], objects: usize) {
    let file = site.path("taken.pack");
    std::fs::write(&file, pack).expect("writes");
    let mut command = site.command("git");
    let done = run(command.args(["index-pack", "--strict"]).arg(&file), b"", 60);
    done.good();
    let count = u32::from_be_bytes(pack[8..12].try_into().expect("four bytes"));
    assert_eq!(count as usize, objects);
}

/// The attack: strangers who take six kilobytes a second, from as many addresses as it takes to
/// have every place.
#[test]
fn slow_strangers_keep_nobody_waiting() {
    let place = start("limit packs total 4\nlimit packs queue timeout 5s");
    let over = AtomicBool::new(false);
    let slow: Vec<Client> = (2..10).map(|n| place.stranger(&format!("127.0.0.{n}"), &[])).collect();
    std::thread::scope(|scope| {
        for mut client in slow {
            let over = &over;
            scope.spawn(move || {
                let mut buffer = [0; 600];
                while !over.load(Ordering::Relaxed) && client.stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        let undisturbed = Duration::from_secs(20);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for n in 0..3 {
                let took = place.clone_anonymously(&format!("honest{n}"));
                assert!(took < undisturbed, "{took:?}\n{}", place.daemon.log());
            }
            // They are all still there: nobody was ended for being slow.
            // `listen` tells the parent once a second.
            let served = || place.daemon.metric("gotd_git_connections{state=\"served\"}");
            let all = regress::run::wait_until(5.0, || served() >= 8);
            assert!(all, "{} are served:\n{}", served(), place.daemon.log());
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Whoever stops in the middle, again and again while others make packs in the only place, gets
/// every byte of his pack.
#[test]
fn a_client_that_stops_and_goes_on_gets_the_rest() {
    let place = start("limit packs total 1");
    let objects = place.site.git_in(&place.repository, ["rev-list", "--objects", "--all"]).lines().count();
    for _ in 0..2 {
        let mut clients: Vec<(Session, Vec<u8>, bool)> = (0..3)
            .map(|_| {
                let mut client = Session::fetch(&place.site.socket(), "bulk.git", 2);
                client.read_to_flush();
                assert!(client.write(&place.request(&["no-progress"])));
                (client, Vec::new(), false)
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut rounds = 0;
        while clients.iter().any(|(.., whole)| !whole) {
            rounds += 1;
            for (client, taken, whole) in clients.iter_mut().filter(|(.., whole)| !whole) {
                // A part of it at once, of another size each time, then nothing while the others
                // have theirs.
                let much = 300_000 + taken.len() % 500_000;
                let before = taken.len();
                while !*whole && taken.len() < before + much {
                    assert!(
                        regress::raw::readable(std::os::fd::AsFd::as_fd(&client.from), deadline),
                        "nothing comes"
                    );
                    let mut buffer = [0; 50_000];
                    let n = client.from.read(&mut buffer).expect("reads");
                    taken.extend_from_slice(&buffer[..n]);
                    *whole = n == 0 || taken.ends_with(b"0000") && taken.len() > 12 << 20;
                }
            }
            std::thread::sleep(Duration::from_millis(130));
        }
        assert!(rounds > 10, "{rounds}");
        for (_, taken, _) in &clients {
            assert_pack(&place.site, &pkt::pack_of(taken), objects);
        }
    }
    assert_eq!(place.daemon.metric("gotd_packs_active") + place.daemon.metric("gotd_packs_waiting"), 0);
}

/// A pack that lies there as it is wanted is copied, and whoever makes packs keeps nobody from
/// that.
#[test]
fn a_whole_pack_takes_no_place() {
    let place = start("limit packs total 1\nlimit packs queue length 0");
    let mut command = place.site.command("git");
    let bitmap = ["repack", "-q", "-a", "-d", "-b"];
    run(command.arg("-C").arg(&place.repository).args(bitmap), b"", 60).good();
    // The only place is taken: whose it is has been stopped.
    let mut client = Session::fetch(&place.site.socket(), "bulk.git", 2);
    client.read_to_flush();
    let maker = Pid::from_raw(*place.daemon.role("repo_read").first().expect("one"));
    assert!(client.write(&place.request(&[])));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(client.fill(&mut [0; 70_000], deadline), "ended early: {}", place.daemon.log());
        kill(maker, Signal::SIGSTOP).expect("stops");
        if place.daemon.metric("gotd_packs_active") == 1 {
            break;
        }
        kill(maker, Signal::SIGCONT).expect("goes on");
    }
    place.clone_anonymously("copied");
    let path = place.site.clone_path("by-ssh").to_string_lossy().into_owned();
    place.site.git(["clone", "-q", "--mirror", "gotd:bulk.git", &path]).good();
    assert_eq!(place.daemon.metric("gotd_packs_active"), 1);
    kill(maker, Signal::SIGCONT).expect("goes on");
}

/// A client that does not even take the signs of life: its turn comes and goes, and it is not in
/// the way.
#[test]
fn a_client_that_reads_nothing_at_all_is_in_nobodys_way() {
    let place = start("limit packs total 1");
    let deaf: Vec<Session> = (0..3)
        .map(|_| {
            let mut client = Session::fetch(&place.site.socket(), "bulk.git", 2);
            client.read_to_flush();
            // As small as a pipe can be.
            let _ = nix::fcntl::fcntl(&client.from, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096));
            assert!(client.write(&place.request(&[])));
            client
        })
        .collect();
    place.daemon.assert_metric("gotd_packs_stalled", 3);
    assert_eq!(place.daemon.metric("gotd_packs_active") + place.daemon.metric("gotd_packs_waiting"), 0);
    place.clone_anonymously("beside");
    drop(deaf);
    place.daemon.assert_metric("gotd_packs_stalled", 0);
}

/// When the memory for packs is used up by those who do not take them, the stranger who holds most
/// for longest is ended, with the directive in the log; a user is not, however slow.
#[test]
fn who_holds_the_memory_for_longest_is_ended_when_others_wait_for_it() {
    let place = start("limit memory total 160M");
    let pids = |place: &Place| place.daemon.role("repo_read").into_iter().collect::<BTreeSet<i32>>();
    // A user first, who takes nothing and stays.
    let mut user = Session::fetch(&place.site.socket(), "bulk.git", 2);
    user.read_to_flush();
    assert!(user.write(&place.request(&[])));
    place.daemon.assert_metric("gotd_packs_stalled", 1);
    let one = place.daemon.metric("gotd_memory_reserved_bytes");
    assert!(one > 8 << 20 && one < 80 << 20, "{one}");
    let first = pids(&place);
    let _oldest = place.stranger("127.0.0.2", &[]);
    place.daemon.assert_metric("gotd_packs_stalled", 2);
    // Another one waits for memory: the first stranger has to go, and the user stays.
    let waiting: Vec<Client> = (3..8).map(|n| place.stranger(&format!("127.0.0.{n}"), &[])).collect();
    let line = place.daemon.logged(&["session ", "result=failed", "who=anonymous", "(limit memory total)"]);
    assert!(line.contains("127.0.0.2"), "{line}\n{}", place.daemon.log());
    assert!(pids(&place).is_superset(&first), "the user is gone:\n{}", place.daemon.log());
    assert!(place.daemon.metric("gotd_memory_reserved_bytes") <= 160 << 20);
    place.daemon.logged(&["pack waits", "limit=\"limit memory total\""]);
    place.daemon.assert_reached("limit memory total", 1);
    drop(waiting);
    // He gets what he asked for.
    let answer = user.read_to_flush();
    assert!(answer.len() > 12 << 20, "{}", answer.len());
}

/// A pack that is copied as it lies kept four megabytes, and the client who took it all the while
/// was ended for them when others waited for more, who were not even helped by that.
#[test]
fn who_takes_a_copied_pack_steadily_is_not_ended_for_its_memory() {
    let place = start("limit memory total 1G");
    // Without a bitmap history is walked in a turn, and then the file is sent.
    for entry in std::fs::read_dir(place.repository.join("objects/pack")).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "bitmap") {
            std::fs::remove_file(path).expect("removes");
        }
    }
    let ask = || {
        let mut client = Session::fetch(&place.site.socket(), "bulk.git", 2);
        client.read_to_flush();
        assert!(client.write(&place.request(&[])));
        client
    };
    let _stalled = ask();
    place.daemon.assert_metric("gotd_packs_stalled", 1);
    let one = place.daemon.metric("gotd_memory_reserved_bytes");
    let mut steady = Client::open_from(place.address, "127.0.0.2".parse().expect("an address"));
    nix::sys::socket::setsockopt(&steady.stream, nix::sys::socket::sockopt::RcvBuf, &65536).expect("sets");
    assert!(steady.write(&tcp::request("/bulk.git", 2)));
    steady.read_to_flush();
    assert!(steady.write(&place.request(&["ofs-delta"])));
    place.daemon.assert_metric("gotd_packs_stalled", 2);
    assert_eq!(place.daemon.metric("gotd_memory_reserved_bytes"), one + (4 << 20));
    // The second of the user's does not fit, and the four megabytes would be as much as is lacking
    // of the total.
    let file = place.site.path("gotd.conf");
    let text = std::fs::read_to_string(&file).expect("reads");
    let total = format!("limit memory total {}", 2 * one + (2 << 20));
    std::fs::write(&file, text.replace("limit memory total 1G", &total)).expect("writes");
    place.daemon.gotctl(&["reload"]).good();
    let _waiting = ask();
    // It takes two megabytes a second.
    let (mut taken, begun) = (Vec::new(), Instant::now());
    let is_whole = |taken: &[u8]| taken.len() > 12 << 20 && taken.ends_with(b"0000");
    while !is_whole(&taken) && begun.elapsed() < Duration::from_secs(60) {
        let mut buffer = [0; 60_000];
        match steady.stream.read(&mut buffer) {
            Ok(n) if n > 0 => taken.extend_from_slice(&buffer[..n]),
            end => panic!("{end:?} after {} bytes:\n{}", taken.len(), place.daemon.log()),
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(is_whole(&taken), "{}", taken.len());
    assert!(begun.elapsed() > Duration::from_secs(3), "too quick to show anything");
    place.daemon.logged(&["pack waits", "limit=\"limit memory total\""]);
}

/// Who is told to give back what he holds and does not is ended: his memory would be kept from the
/// others for ever.
#[test]
fn a_process_that_keeps_what_was_refused_is_ended() {
    let place = start("limit memory total 110M");
    let _slow = place.stranger("127.0.0.2", &[]);
    place.daemon.assert_metric("gotd_packs_stalled", 1);
    let deaf = Pid::from_raw(*place.daemon.role("repo_read").first().expect("one"));
    kill(deaf, Signal::SIGSTOP).expect("stops");
    let _waiting = place.stranger("127.0.0.3", &[]);
    place.daemon.logged(&["pack waits", "limit=\"limit memory total\""]);
    let gone = wait_until(40.0, || !place.daemon.role("repo_read").contains(&deaf.as_raw()));
    assert!(gone, "{}", place.daemon.log());
    place.daemon.logged(&["session ", "did not give back a turn that was refused"]);
    // The other one has it.
    place.daemon.assert_metric("gotd_packs_stalled", 1);
}

/// A reload changes how much memory there is for those who wait.
#[test]
fn a_reload_that_gives_more_memory_ends_the_wait() {
    let place = start("limit memory total 64M");
    let mut clients: Vec<Session> = (0..6)
        .map(|_| {
            let mut client = Session::fetch(&place.site.socket(), "bulk.git", 2);
            client.read_to_flush();
            assert!(client.write(&place.request(&[])));
            client
        })
        .collect();
    assert!(wait_until(10.0, || place.daemon.metric("gotd_packs_waiting") > 0), "{}", place.daemon.log());
    let file = place.site.path("gotd.conf");
    let text = std::fs::read_to_string(&file).expect("reads");
    std::fs::write(&file, text.replace("limit memory total 64M", "limit memory total 1G")).expect("writes");
    place.daemon.gotctl(&["reload"]).good();
    place.daemon.assert_metric("gotd_packs_waiting", 0);
    assert_eq!(place.daemon.metric("gotd_memory_limit_bytes"), 1 << 30);
    for client in &mut clients {
        assert!(client.read_to_flush().len() > 12 << 20);
    }
}
